//! Who belongs to an account: people with roles, clients and networks.

use domain::{AccountOrder, LeaseId, MAX_ACCOUNT_PEOPLE, RelayReport, Role};
use futures_util::future::join_all;
use store::{AccountError, AccountSearch, Actor, AttachError, Standing};

use crate::lab::{HOUR, Lab, NOW, fresh};

crate::conformance! {
    an_invitation_is_for_its_address_and_used_once,
    an_account_has_a_bounded_number_of_people,
    roles_are_given_and_the_account_changes_hands,
    who_leaves_the_only_account_gets_an_empty_one,
    a_code_lets_one_client_in,
    an_account_never_has_more_clients_than_its_plan_allows,
    clients_and_networks_have_the_plan_of_the_account,
    a_network_is_attached_while_its_owner_is,
    a_suspended_account_is_only_looked_at,
    operators_see_accounts_by_page,
    operators_find_accounts_by_address_and_id,
    operators_hand_accounts_over_and_detach_clients_also_while_they_are_suspended,
    an_account_shows_its_limits_and_what_was_relayed_for_its_own_clients,
}

async fn an_invitation_is_for_its_address_and_used_once(lab: &Lab) {
    let (anna, account) = lab.person("anna@example.test").await;
    let (bert, _) = lab.person("bert@example.test").await;
    let (carl, _) = lab.person("carl@example.test").await;
    let invitation = fresh();
    let invite = |role| AccountOrder::Invite { email: "bert@example.test".parse().unwrap(), role };
    lab.people().carry_out_for(anna, account, invite(Role::Admin), invitation, NOW).await.unwrap();
    let seen = lab.people().view(Actor::Person(anna), account, NOW).await.unwrap();
    assert_eq!((seen.invitations.len(), seen.invitations[0].role), (1, Role::Admin));

    for (who, at) in [(carl, NOW), (bert, NOW.plus(HOUR))] {
        let refused = lab.people().accept(who, invitation.token, at).await;
        assert!(matches!(refused, Err(AccountError::Token)), "{refused:?}");
    }
    let tries = join_all((0..6).map(|_| lab.people().accept(bert, invitation.token, NOW))).await;
    assert_eq!(tries.into_iter().filter(Result::is_ok).count(), 1);
    let seen = lab.people().view(Actor::Person(bert), account, NOW).await.unwrap();
    let roles: Vec<_> = seen.people.iter().map(|one| (one.email.as_str(), one.role)).collect();
    assert!(roles.contains(&("anna@example.test", Role::Owner)) && roles.contains(&("bert@example.test", Role::Admin)));
    assert!(seen.invitations.is_empty());

    for (actor, role) in [(bert, Role::Admin), (carl, Role::Member), (anna, Role::Owner)] {
        let refused = lab.people().carry_out_for(actor, account, invite(role), fresh(), NOW).await;
        assert!(matches!(refused, Err(AccountError::NotPermitted | AccountError::Unknown)), "{refused:?}");
    }
}

async fn an_account_has_a_bounded_number_of_people(lab: &Lab) {
    let (anna, account) = lab.person("anna@example.test").await;
    let invite = async |number: u32| {
        let email = format!("guest{number}@example.test").parse().unwrap();
        lab.people()
            .carry_out_for(anna, account, AccountOrder::Invite { email, role: Role::Member }, fresh(), NOW)
            .await
    };
    for number in 1..MAX_ACCOUNT_PEOPLE {
        invite(number).await.unwrap();
    }
    invite(1).await.expect("the same again takes the place of the first");
    assert!(matches!(invite(MAX_ACCOUNT_PEOPLE).await, Err(AccountError::LimitReached { limit: MAX_ACCOUNT_PEOPLE })));
    let back = AccountOrder::Uninvite("guest1@example.test".parse().unwrap());
    lab.people().carry_out_for(anna, account, back, fresh(), NOW).await.unwrap();
    invite(MAX_ACCOUNT_PEOPLE).await.unwrap();
}

async fn roles_are_given_and_the_account_changes_hands(lab: &Lab) {
    let (anna, account) = lab.person("anna@example.test").await;
    let (bert, _) = lab.person("bert@example.test").await;
    welcome(lab, anna, account, bert, "bert@example.test").await;
    let order = async |actor, order| lab.people().carry_out_for(actor, account, order, fresh(), NOW).await;

    let crowned = order(anna, AccountOrder::SetRole { person: bert, role: Role::Owner }).await;
    assert!(matches!(crowned, Err(AccountError::Invalid)), "there is one owner");
    order(anna, AccountOrder::SetRole { person: bert, role: Role::Admin }).await.unwrap();
    assert!(matches!(order(bert, AccountOrder::Remove(anna)).await, Err(AccountError::NotPermitted)));
    assert!(matches!(order(anna, AccountOrder::Leave).await, Err(AccountError::NotPermitted)));
    order(anna, AccountOrder::Transfer(bert)).await.unwrap();
    let seen = lab.people().view(Actor::Person(bert), account, NOW).await.unwrap();
    let role = |person| seen.people.iter().find(|one| one.person == person).unwrap().role;
    assert_eq!((role(anna), role(bert)), (Role::Admin, Role::Owner));
    order(anna, AccountOrder::Leave).await.unwrap();
    assert!(matches!(order(bert, AccountOrder::Remove(anna)).await, Err(AccountError::TargetUnknown)));
}

async fn who_leaves_the_only_account_gets_an_empty_one(lab: &Lab) {
    let (anna, account) = lab.person("anna@example.test").await;
    let (bert, own) = lab.person("bert@example.test").await;
    welcome(lab, anna, account, bert, "bert@example.test").await;
    lab.people().carry_out_for(anna, account, AccountOrder::Transfer(bert), fresh(), NOW).await.unwrap();
    let session = crate::lab::session();
    lab.people().open_session(anna, session, NOW).await.unwrap();
    lab.people().carry_out_for(bert, account, AccountOrder::Remove(anna), fresh(), NOW).await.unwrap();

    let accounts = lab.people().person(session.token, NOW).await.unwrap().unwrap().accounts;
    assert_eq!(accounts.len(), 1);
    assert!(accounts[0].role == Role::Owner && ![account, own].contains(&accounts[0].account));
}

async fn a_code_lets_one_client_in(lab: &Lab) {
    let (anna, account) = lab.person("anna@example.test").await;
    let clients = lab.clients(6).await;
    let code = fresh();
    lab.people().carry_out_for(anna, account, AccountOrder::MakeCode, code, NOW).await.unwrap();
    let tries = join_all(clients.iter().map(|client| lab.people().attach(*client, code.token, NOW))).await;
    let (good, bad): (Vec<_>, Vec<_>) = tries.into_iter().partition(Result::is_ok);
    assert_eq!(good.len(), 1);
    assert!(bad.iter().all(|refused| matches!(refused, Err(AttachError::Code))), "{bad:?}");

    let (bert, other) = lab.person("bert@example.test").await;
    let seen = lab.people().view(Actor::Person(anna), account, NOW).await.unwrap();
    let attached = seen.clients[0].client;
    assert!(matches!(lab.attach(bert, other, attached).await, Err(AttachError::Elsewhere)));
    assert_eq!(lab.attach(anna, account, attached).await.unwrap().account, account, "again is no harm");
    assert!(lab.people().detach(attached, NOW).await.unwrap() && !lab.people().detach(attached, NOW).await.unwrap());
    assert_eq!(lab.attach(bert, other, attached).await.unwrap().account, other);
    let foreign = AccountOrder::DetachClient(attached);
    let refused = lab.people().carry_out_for(anna, account, foreign, fresh(), NOW).await;
    assert!(matches!(refused, Err(AccountError::TargetUnknown)), "{refused:?}");
}

async fn an_account_never_has_more_clients_than_its_plan_allows(lab: &Lab) {
    lab.execute("UPDATE plans SET clients_per_account = 3 WHERE name = 'free'").await;
    let (anna, account) = lab.person("anna@example.test").await;
    let clients = lab.clients(8).await;
    let tries = join_all(clients.iter().map(|client| lab.attach(anna, account, *client))).await;
    let (good, bad): (Vec<_>, Vec<_>) = tries.into_iter().partition(Result::is_ok);
    assert_eq!(good.len(), 3);
    assert!(bad.iter().all(|refused| matches!(refused, Err(AttachError::Full { limit: 3 }))), "{bad:?}");
}

async fn clients_and_networks_have_the_plan_of_the_account(lab: &Lab) {
    let (anna, account) = lab.person("anna@example.test").await;
    let [owner, guest] = lab.clients(2).await.try_into().unwrap();
    let network = lab.network("friday", owner).await;
    lab.people().assign_account_plan(account, "standard").await.unwrap();
    assert_eq!(lab.attach(anna, account, owner).await.unwrap().plan, "standard");
    assert_eq!(lab.accounts().plan_of(owner).await.unwrap().unwrap().name, "standard");
    assert_eq!(lab.networks().list(None, 1).await.unwrap()[0].seats, 32);
    lab.people().assign_account_plan(account, "premium").await.unwrap();
    lab.join(network, guest).await;
    assert_eq!(lab.networks().pair_plan(owner, guest).await.unwrap().unwrap().plan.name, "premium");

    lab.people().detach(owner, NOW).await.unwrap();
    assert_eq!(lab.accounts().plan_of(owner).await.unwrap().unwrap().name, "free");
    assert!(matches!(lab.people().assign_account_plan(account, "gold").await, Err(AccountError::Plan)));
    let nobody = domain::AccountId::from_bytes([9; 16]);
    assert!(matches!(lab.people().assign_account_plan(nobody, "free").await, Err(AccountError::Unknown)));
}

async fn a_network_is_attached_while_its_owner_is(lab: &Lab) {
    let (anna, account) = lab.person("anna@example.test").await;
    let [owner, guest] = lab.clients(2).await.try_into().unwrap();
    let network = lab.network("friday", owner).await;
    lab.join(network, guest).await;
    lab.attach(anna, account, guest).await.unwrap();
    let attach =
        async || lab.people().carry_out_for(anna, account, AccountOrder::AttachNetwork(network), fresh(), NOW).await;
    assert!(matches!(attach().await, Err(AccountError::NotOwned)), "a guest's network is somebody else's");
    lab.attach(anna, account, owner).await.unwrap();
    attach().await.unwrap();
    let attached = async || {
        let seen = lab.people().view(Actor::Person(anna), account, NOW).await.unwrap();
        assert_eq!(seen.networks.len(), 1, "each network once");
        (seen.networks[0].attached, seen.networks[0].seen_by, seen.networks[0].members)
    };
    assert_eq!(attached().await, (true, owner, 2));
    lab.people().detach(owner, NOW).await.unwrap();
    assert_eq!(attached().await, (false, guest, 2));
}

async fn a_suspended_account_is_only_looked_at(lab: &Lab) {
    let (anna, account) = lab.person("anna@example.test").await;
    let client = lab.client().await;
    lab.people().assign_account_plan(account, "standard").await.unwrap();
    lab.attach(anna, account, client).await.unwrap();
    lab.people().set_account_standing(account, Standing::Blocked, NOW).await.unwrap();
    let plan = async || lab.accounts().plan_of(client).await.unwrap().unwrap().name;
    assert_eq!(plan().await, "free");
    let order = lab.people().carry_out_for(anna, account, AccountOrder::MakeCode, fresh(), NOW).await;
    assert!(matches!(order, Err(AccountError::Suspended)), "{order:?}");
    assert!(lab.people().view(Actor::Person(anna), account, NOW).await.unwrap().suspended);
    lab.people().assign_account_plan(account, "premium").await.unwrap();
    assert_eq!(plan().await, "free");
    lab.people().set_account_standing(account, Standing::Good, NOW).await.unwrap();
    assert_eq!(plan().await, "premium");
}

async fn operators_see_accounts_by_page(lab: &Lab) {
    for name in ["anna", "bert", "carl"] {
        lab.person(&format!("{name}@example.test")).await;
    }
    let first = lab.people().accounts(AccountSearch::ALL, None, 2).await.unwrap();
    let rest = lab.people().accounts(AccountSearch::ALL, Some(first[1].account), 2).await.unwrap();
    assert_eq!((first.len(), rest.len()), (2, 1));
    let mut owners: Vec<_> = first.iter().chain(&rest).map(|one| one.owner.clone().unwrap().to_string()).collect();
    owners.sort();
    assert_eq!(owners, ["anna@example.test", "bert@example.test", "carl@example.test"]);
    assert!(first.iter().all(|one| (one.people, one.clients, one.plan.as_str()) == (1, 0, "free")));
}

async fn operators_find_accounts_by_address_and_id(lab: &Lab) {
    let (anna, account) = lab.person("anna@example.test").await;
    let (bert, own) = lab.person("bert@example.test").await;
    welcome(lab, anna, account, bert, "bert@example.test").await;
    let found = async |search| {
        let found = lab.people().accounts(search, None, 10).await.unwrap();
        found.into_iter().map(|one| one.account).collect::<Vec<_>>()
    };
    let by_email = |email: &str| AccountSearch::Email(email.parse().unwrap());
    assert_eq!(found(by_email("anna@example.test")).await, [account]);
    let mut both = [account, own];
    both.sort_unstable();
    assert_eq!(found(by_email("bert@example.test")).await, both);
    let rest = lab.people().accounts(by_email("bert@example.test"), Some(both[0]), 10).await.unwrap();
    assert_eq!((rest.len(), rest[0].account), (1, both[1]));
    assert!(found(by_email("carl@example.test")).await.is_empty());
    assert_eq!(found(AccountSearch::Ids(own, own)).await, [own]);
    assert_eq!(found(AccountSearch::ALL).await, both);
}

async fn operators_hand_accounts_over_and_detach_clients_also_while_they_are_suspended(lab: &Lab) {
    let (anna, account) = lab.person("anna@example.test").await;
    let (bert, _) = lab.person("bert@example.test").await;
    let (carl, other) = lab.person("carl@example.test").await;
    welcome(lab, anna, account, bert, "bert@example.test").await;
    let client = lab.client().await;
    lab.attach(anna, account, client).await.unwrap();
    lab.people().set_account_standing(account, Standing::Blocked, NOW).await.unwrap();
    let stranger = lab.people().transfer_account(account, carl).await;
    assert!(matches!(stranger, Err(AccountError::TargetUnknown)), "{stranger:?}");
    lab.people().transfer_account(account, bert).await.unwrap();
    lab.people().transfer_account(account, bert).await.expect("again is no harm");
    let seen = lab.people().view(Actor::Operator, account, NOW).await.unwrap();
    let role = |person| seen.people.iter().find(|one| one.person == person).unwrap().role;
    assert_eq!((role(anna), role(bert)), (Role::Admin, Role::Owner));

    let foreign = lab.people().detach_from(other, client).await;
    assert!(matches!(foreign, Err(AccountError::TargetUnknown)), "{foreign:?}");
    lab.people().detach_from(account, client).await.unwrap();
    assert_eq!(lab.people().attachment(client).await.unwrap(), None);
    let again = lab.people().detach_from(account, client).await;
    assert!(matches!(again, Err(AccountError::TargetUnknown)), "{again:?}");
    let nobody = domain::AccountId::from_bytes([9; 16]);
    assert!(matches!(lab.people().transfer_account(nobody, bert).await, Err(AccountError::Unknown)));
    assert!(matches!(lab.people().detach_from(nobody, client).await, Err(AccountError::Unknown)));
}

async fn an_account_shows_its_limits_and_what_was_relayed_for_its_own_clients(lab: &Lab) {
    let (anna, account) = lab.person("anna@example.test").await;
    let clients = lab.clients(3).await;
    for client in &clients[..2] {
        lab.attach(anna, account, *client).await.unwrap();
    }
    for (nth, client) in (1..).zip(&clients) {
        let payer = (*client).into();
        let lease = LeaseId::from_bytes([nth; 16]);
        let report = RelayReport { lease, payer, serial: 1, spent: 100 * u64::from(nth), ends: false, known: false };
        lab.accounts().settle_relay(report, NOW).await.unwrap();
    }
    let view = lab.people().view(Actor::Person(anna), account, NOW).await.unwrap();
    assert_eq!((view.limits.clients, view.limits.members_per_network), (256, 5));
    assert_eq!((view.limits.relay_bytes_per_second, view.limits.relay_bytes_per_month), (Some(1_000), Some(10 << 30)));
    let month = domain::Month::of(NOW).number();
    assert_eq!(view.relayed, [domain::AccountMonth { month, bytes: 300 }]);

    lab.people().assign_account_plan(account, "premium").await.unwrap();
    let view = lab.people().view(Actor::Operator, account, NOW).await.unwrap();
    assert_eq!((view.limits.members_per_network, view.limits.relay_bytes_per_second), (256, None));
    let session = crate::lab::session();
    lab.people().open_session(anna, session, NOW).await.unwrap();
    let mine = lab.people().person(session.token, NOW).await.unwrap().unwrap().accounts;
    assert_eq!(mine[0].owner, Some("anna@example.test".parse().unwrap()));
}

/// Makes `guest` a member of the account.
async fn welcome(lab: &Lab, owner: domain::PersonId, account: domain::AccountId, guest: domain::PersonId, email: &str) {
    let invitation = fresh();
    let order = AccountOrder::Invite { email: email.parse().unwrap(), role: Role::Member };
    lab.people().carry_out_for(owner, account, order, invitation, NOW).await.unwrap();
    lab.people().accept(guest, invitation.token, NOW).await.unwrap();
}
