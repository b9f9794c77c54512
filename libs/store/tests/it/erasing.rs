//! Taking everything along, and being forgotten.

use domain::{AccountOrder, Role};
use store::{AccountError, Actor, PasswordHash};

use crate::lab::{Lab, NOW, fresh, session};

crate::conformance! {
    an_export_has_what_is_kept_and_no_secret,
    an_erased_account_leaves_nothing_of_its_people,
    whoever_is_in_another_account_stays,
    only_the_owner_exports_and_erases,
}

async fn an_export_has_what_is_kept_and_no_secret(lab: &Lab) {
    let (anna, account) = lab.person("anna@example.test").await;
    let client = lab.client().await;
    lab.network("friday", client).await;
    lab.attach(anna, account, client).await.unwrap();
    let export = lab.people().export(Actor::Person(anna), account, NOW).await.unwrap();
    assert_eq!(export.account.people[0].email.as_str(), "anna@example.test");
    assert_eq!(export.account.clients[0].client, client);
    assert_eq!(export.account.networks[0].name.as_str(), "friday");
    assert_eq!(export.sessions.len(), 1);
    assert!(!format!("{export:?}").contains("argon2id"), "{export:?}");
}

async fn an_erased_account_leaves_nothing_of_its_people(lab: &Lab) {
    let (anna, account) = lab.person("anna@example.test").await;
    let client = lab.client().await;
    let network = lab.network("friday", client).await;
    lab.people().assign_account_plan(account, "standard").await.unwrap();
    lab.attach(anna, account, client).await.unwrap();
    lab.people().carry_out_for(anna, account, AccountOrder::AttachNetwork(network), fresh(), NOW).await.unwrap();
    lab.people().open_session(anna, session(), NOW).await.unwrap();
    lab.people().ask_reset("anna@example.test".parse().unwrap(), fresh(), NOW).await.unwrap();
    let hash = || PasswordHash("x".into());
    lab.people().ask_sign_up("anna@example.test".parse().unwrap(), hash(), fresh(), NOW).await.unwrap();
    let guest = AccountOrder::Invite { email: "guest@example.test".parse().unwrap(), role: Role::Member };
    lab.people().carry_out_for(anna, account, guest, fresh(), NOW).await.unwrap();
    lab.people().carry_out_for(anna, account, AccountOrder::MakeCode, fresh(), NOW).await.unwrap();
    assert!(lab.rows_with("anna@example").await >= 3 && lab.rows_with("guest@example").await == 2);

    lab.people().erase(Actor::Person(anna), account, NOW).await.unwrap();
    assert_eq!((lab.rows_with("anna@example").await, lab.rows_with("guest@example").await), (0, 0));
    assert_eq!(lab.people().attachment(client).await.unwrap(), None);
    assert_eq!(lab.accounts().plan_of(client).await.unwrap().unwrap().name, "free");
    assert_eq!(lab.networks().list(None, 9).await.unwrap().len(), 1, "clients and networks go on");
    assert!(matches!(lab.people().erase(Actor::Operator, account, NOW).await, Err(AccountError::Unknown)));
    lab.person("anna@example.test").await;
}

async fn whoever_is_in_another_account_stays(lab: &Lab) {
    let (anna, account) = lab.person("anna@example.test").await;
    let (bert, own) = lab.person("bert@example.test").await;
    let invitation = fresh();
    let order = AccountOrder::Invite { email: "bert@example.test".parse().unwrap(), role: Role::Member };
    lab.people().carry_out_for(anna, account, order, invitation, NOW).await.unwrap();
    lab.people().accept(bert, invitation.token, NOW).await.unwrap();
    lab.people().erase(Actor::Operator, account, NOW).await.unwrap();
    assert_eq!(lab.people().view(Actor::Person(bert), own, NOW).await.unwrap().people.len(), 1);
    assert_eq!(lab.rows_with("anna@example").await, 0);
}

async fn only_the_owner_exports_and_erases(lab: &Lab) {
    let (anna, account) = lab.person("anna@example.test").await;
    let (bert, _) = lab.person("bert@example.test").await;
    for role in [None, Some(Role::Member), Some(Role::Admin)] {
        if let Some(role) = role {
            let invitation = fresh();
            let order = AccountOrder::Invite { email: "bert@example.test".parse().unwrap(), role };
            lab.people().carry_out_for(anna, account, order, invitation, NOW).await.unwrap();
            lab.people().accept(bert, invitation.token, NOW).await.unwrap();
        }
        let actor = Actor::Person(bert);
        let export = lab.people().export(actor, account, NOW).await;
        let erase = lab.people().erase(actor, account, NOW).await;
        for refused in [export.map(drop), erase] {
            assert!(matches!(refused, Err(AccountError::NotPermitted | AccountError::Unknown)), "{role:?} {refused:?}");
        }
    }
}
