//! Who keeps a seat when the plan allows fewer members than there are.

use std::collections::BTreeSet;

use domain::{
    AccountOrder, ClientId, EventKind, NetworkId, NetworkOrder, NewSecret, Plan, Revision, Role, Seal, SecretEpoch,
    SecretProof, UnixMillis,
};
use futures_util::future::join_all;
use store::{AccountError, Announcement, JoinError, OrderError, Proven, Standing};

use crate::lab::{Lab, NOW, fresh, joined};

crate::conformance! {
    a_smaller_plan_unseats_the_last_to_come_and_a_bigger_one_brings_them_back,
    who_has_no_seat_meets_nobody_and_loses_nothing,
    whom_the_owner_keeps_sits_before_others,
    only_the_owner_says_who_stays,
    a_free_seat_goes_to_the_next,
    roles_and_owners_decide_who_sits,
    who_comes_back_is_not_kept_and_sits,
    a_changed_plan_reseats_all_who_have_it,
    the_plan_of_an_account_is_the_plan_of_its_networks,
    who_would_lose_a_seat_is_told_before,
    whoever_lost_or_got_a_seat_is_an_event,
    who_has_no_seat_gets_newer_secrets,
    where_everybody_sits_nothing_happens,
    joins_and_smaller_plans_at_once_seat_no_more_than_allowed,
    dealing_out_seats_walks_indexes,
}

async fn a_smaller_plan_unseats_the_last_to_come_and_a_bigger_one_brings_them_back(lab: &Lab) {
    let (network, members) = crowd(lab, 8).await;
    assert!(reseat(lab).await.is_empty(), "a better plan unseats nobody");
    lab.accounts().assign_plan(members[0], "free").await.unwrap();
    assert_eq!(unseated(lab, network).await, [], "nothing changes before it is dealt out");

    let [told] = reseat(lab).await.try_into().unwrap();
    let lost: Vec<_> = told.change.members.iter().map(|member| (member.client, member.unseated)).collect();
    assert_eq!(lost, members[5..].iter().map(|client| (*client, true)).collect::<Vec<_>>());
    assert_eq!((told.to.len(), told.seated), (8, vec![]));
    assert_eq!(unseated(lab, network).await, members[5..]);
    assert!(reseat(lab).await.is_empty(), "once");

    let late = lab.client().await;
    let refused = lab.networks().join(network, late, [9; 16], NOW).await;
    assert!(matches!(refused, Err(JoinError::Full { seats: 5 })), "{refused:?}");

    lab.accounts().assign_plan(members[0], "premium").await.unwrap();
    let [told] = reseat(lab).await.try_into().unwrap();
    assert_eq!(told.seated.into_iter().collect::<BTreeSet<_>>(), members[5..].iter().copied().collect());
    assert!(told.change.members.iter().all(|member| !member.unseated));
    assert_eq!(unseated(lab, network).await, []);
    lab.join(network, late).await;
}

async fn who_has_no_seat_meets_nobody_and_loses_nothing(lab: &Lab) {
    let (network, members) = crowd(lab, 7).await;
    let (sits, out, too) = (members[1], members[5], members[6]);
    lab.accounts().assign_plan(members[0], "free").await.unwrap();
    reseat(lab).await;

    assert_eq!(lab.networks().peers(sits).await.unwrap().len(), 4);
    for client in [out, too] {
        assert_eq!(lab.networks().peers(client).await.unwrap(), []);
        assert_eq!(lab.networks().pair_plan(client, sits).await.unwrap(), None);
        assert_eq!(lab.networks().pair_plan(sits, client).await.unwrap(), None);
        assert_eq!(lab.networks().membership(network, client, NOW).await.unwrap(), Proven::Unseated);
    }
    assert_eq!(lab.networks().pair_plan(out, too).await.unwrap(), None);
    let Proven::Member(removals) = lab.networks().membership(network, sits, NOW).await.unwrap() else {
        panic!("it sits");
    };
    let named: BTreeSet<_> = removals.removed.iter().map(|one| one.client).collect();
    assert_eq!(named, BTreeSet::from([out, too]), "peers away from the servers do not meet them, either");

    let whole = lab.networks().changes_since(network, out, Revision::ZERO).await.unwrap().expect("it is a member");
    assert_eq!(whole.members.len(), 7);
    let own = whole.members.iter().find(|member| member.client == out).unwrap();
    assert!(own.unseated && own.addresses.v4.is_some() && !own.gone);
    assert_eq!(lab.networks().snapshot(out, &[]).await.unwrap().networks.len(), 1);
    let elsewhere = lab.network("elsewhere", out).await;
    lab.join(elsewhere, sits).await;
    assert!(lab.networks().pair_plan(sits, out).await.unwrap().is_some(), "in another network they meet");

    lab.accounts().assign_plan(members[0], "standard").await.unwrap();
    reseat(lab).await;
    let Proven::Member(removals) = lab.networks().membership(network, out, NOW).await.unwrap() else {
        panic!("it is back");
    };
    assert_eq!(removals.removed, []);
}

async fn whom_the_owner_keeps_sits_before_others(lab: &Lab) {
    let (network, members) = crowd(lab, 7).await;
    let change = lab.order(network, members[0], NetworkOrder::Keep(members[6])).await.change;
    assert_eq!(
        change.members.iter().map(|member| (member.client, member.kept)).collect::<Vec<_>>(),
        [(members[6], true)]
    );
    lab.accounts().assign_plan(members[0], "free").await.unwrap();
    reseat(lab).await;
    assert_eq!(unseated(lab, network).await, members[4..6]);

    let told = lab.order(network, members[0], NetworkOrder::Keep(members[5])).await;
    assert_eq!(told.seated, [members[5]]);
    assert_eq!(unseated(lab, network).await, members[3..5]);
    lab.order(network, members[0], NetworkOrder::Unkeep(members[6])).await;
    assert_eq!(unseated(lab, network).await, [members[4], members[6]]);
    let shown = lab.networks().members(network, None, 100).await.unwrap();
    let kept: Vec<_> = shown.iter().filter(|member| member.kept).map(|member| member.client).collect();
    assert_eq!(kept, [members[5]]);
    assert_eq!(shown.iter().filter(|member| !member.seated).count(), 2);
}

async fn only_the_owner_says_who_stays(lab: &Lab) {
    let (network, members) = crowd(lab, 3).await;
    lab.order(network, members[0], NetworkOrder::Promote(members[1])).await;
    for actor in [members[1], members[2]] {
        for order in [NetworkOrder::Keep(members[2]), NetworkOrder::Unkeep(members[2])] {
            let refused = lab.networks().carry_out(network, actor, order, NOW).await;
            assert!(matches!(refused, Err(OrderError::NotPermitted)), "{refused:?}");
        }
    }
    let stranger = lab.client().await;
    let refused = lab.networks().carry_out(network, members[0], NetworkOrder::Keep(stranger), NOW).await;
    assert!(matches!(refused, Err(OrderError::MemberUnknown)), "{refused:?}");
}

async fn a_free_seat_goes_to_the_next(lab: &Lab) {
    let (network, members) = crowd(lab, 9).await;
    lab.accounts().assign_plan(members[0], "free").await.unwrap();
    reseat(lab).await;
    let told = lab.networks().leave(network, members[1], NOW).await.unwrap().unwrap();
    assert_eq!(told.seated, [members[5]]);
    assert_eq!(lab.order(network, members[0], NetworkOrder::Evict(members[2])).await.seated, [members[6]]);
    assert_eq!(lab.order(network, members[0], NetworkOrder::Ban(members[3])).await.seated, [members[7]]);
    assert_eq!(unseated(lab, network).await, members[8..]);
    assert_eq!(lab.order(network, members[0], NetworkOrder::Evict(members[8])).await.seated, []);
    assert_eq!(unseated(lab, network).await, []);
}

async fn roles_and_owners_decide_who_sits(lab: &Lab) {
    let (network, members) = crowd(lab, 7).await;
    lab.accounts().assign_plan(members[0], "free").await.unwrap();
    reseat(lab).await;
    lab.order(network, members[0], NetworkOrder::Promote(members[6])).await;
    assert_eq!(unseated(lab, network).await, members[4..6]);
    lab.order(network, members[0], NetworkOrder::Demote(members[6])).await;
    assert_eq!(unseated(lab, network).await, members[5..]);

    // The seats are those of the new owner's plan.
    lab.accounts().assign_plan(members[6], "standard").await.unwrap();
    let told = lab.order(network, members[0], NetworkOrder::Transfer(members[6])).await;
    assert_eq!(told.seated.len(), 2);
    assert_eq!(unseated(lab, network).await, []);
    // And those of the heir's: an admin, who was the owner, with a seat for five.
    let told = lab.networks().leave(network, members[6], NOW).await.unwrap().unwrap();
    assert!(told.change.members.iter().any(|member| member.client == members[0] && member.role == Role::Owner));
    assert_eq!(unseated(lab, network).await, members[5..6]);
}

async fn who_comes_back_is_not_kept_and_sits(lab: &Lab) {
    let (network, members) = crowd(lab, 7).await;
    lab.order(network, members[0], NetworkOrder::Keep(members[1])).await;
    lab.accounts().assign_plan(members[0], "free").await.unwrap();
    reseat(lab).await;
    for leaver in [members[1], members[6], members[5]] {
        lab.networks().leave(network, leaver, NOW).await.unwrap();
    }
    for back in [members[6], members[1]] {
        let refused = lab.networks().join(network, back, rand::random(), NOW).await;
        if back == members[1] {
            assert!(matches!(refused, Err(JoinError::Full { seats: 5 })), "{refused:?}");
        } else {
            let whole = joined(refused).whole;
            assert!(whole.members.iter().all(|member| !member.unseated && !member.kept));
        }
    }
    assert_eq!(unseated(lab, network).await, []);
}

async fn a_changed_plan_reseats_all_who_have_it(lab: &Lab) {
    let standard = plan(lab, "standard").await;
    let mut networks = Vec::new();
    for number in 0..3 {
        let owner = lab.client().await;
        lab.accounts().assign_plan(owner, "standard").await.unwrap();
        let network = lab.network(&format!("net {number}"), owner).await;
        for guest in lab.clients(3).await {
            lab.join(network, guest).await;
        }
        networks.push(network);
    }
    let smaller = Plan { members_per_network: 2, ..standard.clone() };
    lab.accounts().change_plan(standard.clone(), smaller.clone()).await.unwrap();
    let told: BTreeSet<_> = reseat(lab).await.iter().map(|told| told.change.network).collect();
    assert_eq!(told, networks.iter().copied().collect());
    for network in &networks {
        assert_eq!(unseated(lab, *network).await.len(), 2);
    }
    let cheaper = Plan { networks_per_client: 9, ..smaller.clone() };
    lab.accounts().change_plan(smaller, cheaper.clone()).await.unwrap();
    assert!(reseat(lab).await.is_empty(), "the number of members is the same");
    lab.accounts().change_plan(cheaper, standard).await.unwrap();
    assert_eq!(reseat(lab).await.len(), 3);
    assert_eq!(unseated(lab, networks[0]).await, []);
}

async fn the_plan_of_an_account_is_the_plan_of_its_networks(lab: &Lab) {
    let (anna, account) = lab.person("anna@example.test").await;
    lab.people().assign_account_plan(account, "standard").await.unwrap();
    let owner = lab.client().await;
    lab.attach(anna, account, owner).await.unwrap();
    let network = lab.network("ours", owner).await;
    for guest in lab.clients(6).await {
        lab.join(network, guest).await;
    }
    let none = async || {
        reseat(lab).await;
        unseated(lab, network).await.len()
    };
    assert_eq!(none().await, 0);
    lab.people().assign_account_plan(account, "free").await.unwrap();
    assert_eq!(none().await, 2);
    lab.people().assign_account_plan(account, "premium").await.unwrap();
    assert_eq!(none().await, 0);
    lab.people().set_account_standing(account, Standing::Blocked, NOW).await.unwrap();
    assert_eq!(none().await, 2);
    lab.people().set_account_standing(account, Standing::Good, NOW).await.unwrap();
    assert_eq!(none().await, 0);
    let detach = AccountOrder::DetachClient(owner);
    lab.people().carry_out_for(anna, account, detach, fresh(), NOW).await.unwrap();
    assert_eq!(none().await, 2);
    lab.attach(anna, account, owner).await.unwrap();
    assert_eq!(none().await, 0);
}

async fn who_would_lose_a_seat_is_told_before(lab: &Lab) {
    let (anna, account) = lab.person("anna@example.test").await;
    lab.people().assign_account_plan(account, "standard").await.unwrap();
    for (number, guests) in [6, 1, 4, 5].into_iter().enumerate() {
        let owner = lab.client().await;
        lab.attach(anna, account, owner).await.unwrap();
        let network = lab.network(&format!("net {number}"), owner).await;
        for guest in lab.clients(guests).await {
            lab.join(network, guest).await;
        }
    }
    let lost = async |plan| {
        let lost = lab.people().seats_lost_by_account(account, plan).await.unwrap();
        (lost.networks, lost.members, lost.more)
    };
    assert_eq!(lost("free").await, (2, 3, false));
    assert_eq!(lost("premium").await, (0, 0, false));
    let refused = lab.people().seats_lost_by_account(account, "gold").await;
    assert!(matches!(refused, Err(AccountError::Plan)), "{refused:?}");
    let of_plan = lab.accounts().seats_lost_by_plan("standard", 6).await.unwrap();
    assert_eq!((of_plan.networks, of_plan.members), (1, 1));
    assert_eq!(lab.accounts().seats_lost_by_plan("premium", 1).await.unwrap().networks, 0);

    lab.people().assign_account_plan(account, "free").await.unwrap();
    let told: usize = reseat(lab).await.iter().map(|told| told.change.members.len()).sum();
    assert_eq!(told, 3, "as was told");
    assert_eq!(lost("free").await, (0, 0, false), "those who have none lose none");
    let of_plan = lab.accounts().seats_lost_by_plan("free", 3).await.unwrap();
    assert_eq!((of_plan.networks, of_plan.members), (3, 6));
}

async fn whoever_lost_or_got_a_seat_is_an_event(lab: &Lab) {
    let (network, members) = crowd(lab, 6).await;
    lab.accounts().assign_plan(members[0], "free").await.unwrap();
    reseat(lab).await;
    lab.order(network, members[0], NetworkOrder::Evict(members[1])).await;
    lab.stores().events.record_events(Vec::new()).await.unwrap();
    let page = lab.stores().events.events_after(0, 100).await.unwrap();
    let told: Vec<_> = page
        .events
        .iter()
        .filter(|one| matches!(one.event.kind, EventKind::MemberUnseated | EventKind::MemberSeated))
        .map(|one| (one.event.kind, one.event.network, one.event.client))
        .collect();
    // Events of one millisecond come in any order.
    let expected =
        [EventKind::MemberUnseated, EventKind::MemberSeated].map(|kind| (kind, Some(network), Some(members[5])));
    assert!(told.len() == 2 && expected.iter().all(|one| told.contains(one)), "{told:?}");
}

async fn who_has_no_seat_gets_newer_secrets(lab: &Lab) {
    let (network, members) = crowd(lab, 6).await;
    let (owner, out) = (members[0], members[5]);
    for client in [owner, out] {
        lab.networks().prove(network, client, SecretEpoch::FIRST, SecretProof([7; 16]), NOW).await.unwrap();
    }
    lab.accounts().assign_plan(owner, "free").await.unwrap();
    let seen = reseat(lab).await[0].change.revision;
    let holders = lab.networks().holders(network, owner, None, 100).await.unwrap();
    assert!(holders.iter().any(|holder| holder.client == out), "it is handed the newest like a member who is away");
    let seal = Seal { member: out, bytes: vec![3; 64] };
    let new = NewSecret { epoch: SecretEpoch(2), seen, password: None, seals: vec![seal.clone()] };
    lab.networks().renew_secret(network, owner, new, NOW).await.unwrap();
    assert_eq!(lab.networks().sealed(network, out).await.unwrap(), Some(Some(seal.clone())));
    lab.accounts().assign_plan(owner, "standard").await.unwrap();
    reseat(lab).await;
    assert_eq!(lab.networks().sealed(network, out).await.unwrap(), Some(Some(seal)));
}

async fn where_everybody_sits_nothing_happens(lab: &Lab) {
    let (network, members) = crowd(lab, 4).await;
    let revision = async || {
        let whole = lab.networks().changes_since(network, members[0], Revision::ZERO).await.unwrap();
        whole.unwrap().revision
    };
    let before = revision().await;
    for plan in ["free", "premium", "standard"] {
        lab.accounts().assign_plan(members[0], plan).await.unwrap();
        assert!(reseat(lab).await.is_empty());
    }
    assert_eq!(lab.scalar("SELECT COUNT(*) FROM reseatings").await, 0);
    assert_eq!(revision().await, before);
    assert_eq!(lab.networks().reseat(network, NOW).await.unwrap(), None);
}

async fn joins_and_smaller_plans_at_once_seat_no_more_than_allowed(lab: &Lab) {
    let (network, members) = crowd(lab, 4).await;
    for turn in 0..4 {
        let guests = lab.clients(3).await;
        let joins = guests.iter().map(|guest| async {
            drop(lab.networks().join(network, *guest, rand::random(), NOW).await);
        });
        let plans = async {
            lab.accounts().assign_plan(members[0], if turn % 2 == 0 { "free" } else { "standard" }).await.unwrap();
        };
        let dealt = async { drop(reseat(lab).await) };
        tokio::join!(join_all(joins), plans, dealt);
    }
    lab.accounts().assign_plan(members[0], "free").await.unwrap();
    reseat(lab).await;
    let shown = lab.networks().members(network, None, 500).await.unwrap();
    assert!(shown.len() > 5);
    assert_eq!(shown.iter().filter(|member| member.seated).count(), 5);
}

/// Neither engine reads whole tables for what it does at every sweep, and for every owner whose plan changes.
async fn dealing_out_seats_walks_indexes(lab: &Lab) {
    for query in [
        "SELECT COUNT(*) FROM members m WHERE m.network = 'a' AND NOT m.seated AND NOT m.gone",
        "SELECT COUNT(*) FROM members m WHERE m.network = 'a' AND NOT m.gone",
        "SELECT id FROM clients WHERE plan = 'free' AND id > 'a' ORDER BY id LIMIT 9",
        "SELECT network FROM reseatings ORDER BY network LIMIT 9",
        "SELECT n.id FROM clients c JOIN networks n ON n.owner = c.id WHERE c.id = 'a'",
        "SELECT n.id FROM clients c JOIN networks n ON n.owner = c.id WHERE c.account = 'a'",
        "SELECT n.id FROM clients c JOIN networks n ON n.owner = c.id WHERE c.plan = 'a' AND c.id > 'a' AND c.id <= 'b'",
    ] {
        let plan = lab.explain(query).await;
        let walks = |line: &str| !line.contains("SCAN") || line.contains("USING");
        assert!(plan.lines().all(walks) && !plan.contains("Seq Scan"), "{query}\n{plan}");
        assert!(!plan.contains("TEMP B-TREE") && !plan.contains("Sort"), "{query}\n{plan}");
    }
}

/// A network with so many members, its owner first, the others as they came; with room for more.
async fn crowd(lab: &Lab, members: usize) -> (NetworkId, Vec<ClientId>) {
    let clients = lab.clients(members).await;
    lab.accounts().assign_plan(clients[0], "standard").await.unwrap();
    let network = lab.network("crowd", clients[0]).await;
    for (later, guest) in (1..).zip(&clients[1..]) {
        joined(lab.networks().join(network, *guest, rand::random(), UnixMillis(NOW.0 + later)).await);
    }
    (network, clients)
}

/// Deals out all seats that are to be dealt out, and returns what changed.
async fn reseat(lab: &Lab) -> Vec<Announcement> {
    let mut changed = Vec::new();
    loop {
        let due = lab.networks().reseatings(2).await.unwrap();
        if due.is_empty() {
            return changed;
        }
        for network in due {
            changed.extend(lab.networks().reseat(network, NOW).await.unwrap());
        }
    }
}

/// Who has no seat, in the order of joining.
async fn unseated(lab: &Lab, network: NetworkId) -> Vec<ClientId> {
    let mut out = lab.networks().members(network, None, 500).await.unwrap();
    out.retain(|member| !member.seated);
    out.sort_by_key(|member| (member.joined, member.client));
    out.into_iter().map(|member| member.client).collect()
}

async fn plan(lab: &Lab, name: &str) -> Plan {
    lab.accounts().plans().await.unwrap().into_iter().find(|plan| plan.name == name).unwrap()
}
