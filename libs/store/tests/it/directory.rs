//! What operators search for and change.

use domain::{Bandwidth, ClientId, Month, NetworkOrder, Plan, Quota, Revision, UnixMillis};
use store::{ClientSearch, GovernError, Login, MAX_PLANS, OrderError, Place, PlanError, ReassignError};

use crate::lab::{Lab, NOW, login};

crate::conformance! {
    clients_are_found_by_nickname_in_pages,
    what_older_programs_left_is_filled_in,
    networks_are_found_by_name_until_they_are_renamed_or_deleted,
    a_plan_is_swapped_for_the_one_that_was_seen,
    a_plan_that_somebody_has_stays,
    a_client_is_put_on_another_plan_from_the_one_that_was_seen,
    an_operator_governs_the_revision_it_has_seen,
    searching_walks_an_index,
}

async fn clients_are_found_by_nickname_in_pages(lab: &Lab) {
    let mut expected = Vec::new();
    for (number, nick) in (0..).zip(["b", "Ab", "ab", "aB d'Arc", "a", "\u{ff41}b"]) {
        let known = Login { nick: Some(nick.parse().unwrap()), ..login(number, 0) };
        let client = lab.accounts().login(known, NOW).await.unwrap().client;
        if number > 0 && nick != "a" {
            expected.push(client);
        }
    }
    let (mut found, mut after) = (Vec::new(), None::<Place<ClientId>>);
    loop {
        let page = lab.accounts().find_clients(ClientSearch::Nick("AB".into()), after, 2).await.unwrap();
        assert!(page.items.len() <= 2);
        found.extend(page.items.iter().map(|client| client.client));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    let all = ClientSearch::Ids(ClientId::from_bytes([0; 16]), ClientId::from_bytes([255; 16]));
    assert_eq!(lab.accounts().find_clients(all, None, 9).await.unwrap().items.len(), 6);
}

async fn what_older_programs_left_is_filled_in(lab: &Lab) {
    let client = lab.client().await;
    lab.networks().set_nick(client, "Old Nick".parse().unwrap(), NOW).await.unwrap();
    let network = lab.network("Old Name", client).await;
    lab.execute("UPDATE clients SET nick_bytes = NULL").await;
    lab.execute("UPDATE networks SET name_bytes = NULL").await;
    let search = || ClientSearch::Nick("old".into());
    assert!(lab.accounts().find_clients(search(), None, 9).await.unwrap().items.is_empty());
    let other = lab.reopened(domain::AddressPool::DEFAULT).await;
    assert_eq!(other.accounts.find_clients(search(), None, 9).await.unwrap().items[0].client, client);
    assert_eq!(other.networks.find("old".into(), None, 9).await.unwrap().items[0].network, network);
    other.close().await;
}

async fn networks_are_found_by_name_until_they_are_renamed_or_deleted(lab: &Lab) {
    let owner = lab.client().await;
    let network = lab.network("Friday", owner).await;
    lab.network("Friday 2", owner).await;
    let count = async |prefix: &str| lab.networks().find(prefix.into(), None, 9).await.unwrap().items.len();
    assert_eq!((count("friday").await, count("frid\u{10ffff}").await, count("").await), (2, 0, 2));
    lab.order(network, owner, NetworkOrder::Rename("Saturday".parse().unwrap())).await;
    assert_eq!((count("friday").await, count("sat").await), (1, 1));
    lab.order(network, owner, NetworkOrder::Delete).await;
    assert_eq!(count("sat").await, 0);
}

async fn a_plan_is_swapped_for_the_one_that_was_seen(lab: &Lab) {
    let plan = |members| Plan {
        name: "own".into(),
        members_per_network: members,
        networks_per_client: 7,
        relay_rate: Bandwidth::UNLIMITED,
        relay_quota: Quota::from_bytes(5),
    };
    lab.accounts().make_plan(plan(1)).await.unwrap();
    assert!(matches!(lab.accounts().make_plan(plan(2)).await, Err(PlanError::Exists)));
    lab.accounts().change_plan(plan(1), plan(2)).await.unwrap();
    assert!(matches!(lab.accounts().change_plan(plan(1), plan(3)).await, Err(PlanError::Changed)));
    let kept = lab.accounts().plans().await.unwrap();
    assert!(kept.contains(&plan(2)), "{kept:?}");
    assert!(matches!(lab.accounts().drop_plan(plan(1)).await, Err(PlanError::Changed)));
    lab.accounts().drop_plan(plan(2)).await.unwrap();
    for number in 3..MAX_PLANS {
        lab.accounts().make_plan(Plan { name: format!("p{number}"), ..plan(1) }).await.unwrap();
    }
    let beyond = lab.accounts().make_plan(plan(1)).await;
    assert!(matches!(beyond, Err(PlanError::LimitReached { limit: MAX_PLANS })), "{beyond:?}");
}

async fn a_plan_that_somebody_has_stays(lab: &Lab) {
    let client = lab.client().await;
    lab.accounts().assign_plan(client, "premium").await.unwrap();
    for plan in lab.accounts().plans().await.unwrap() {
        let name = plan.name.clone();
        let dropped = lab.accounts().drop_plan(plan).await;
        match name.as_str() {
            "standard" => dropped.unwrap(),
            _ => assert!(matches!(dropped, Err(PlanError::InUse)), "{name}: {dropped:?}"),
        }
    }
}

async fn a_client_is_put_on_another_plan_from_the_one_that_was_seen(lab: &Lab) {
    let (client, accounts) = (lab.client().await, lab.accounts());
    accounts.reassign_plan(client, Some("free"), "standard").await.unwrap();
    let changed = accounts.reassign_plan(client, Some("free"), "premium").await;
    assert!(matches!(changed, Err(ReassignError::Changed)), "{changed:?}");
    accounts.reassign_plan(client, None, "premium").await.unwrap();
    assert!(matches!(accounts.reassign_plan(client, None, "gold").await, Err(ReassignError::UnknownPlan)));
    let nobody = ClientId::from_bytes([9; 16]);
    assert!(matches!(accounts.reassign_plan(nobody, None, "free").await, Err(ReassignError::UnknownClient(_))));
    assert_eq!(accounts.plan_of(client).await.unwrap().unwrap().name, "premium");
    assert!(accounts.usage_in(Month::of(UnixMillis(0)), None, 9).await.unwrap().is_empty());
}

async fn an_operator_governs_the_revision_it_has_seen(lab: &Lab) {
    let [owner, member] = lab.clients(2).await.try_into().unwrap();
    let network = lab.network("governed", owner).await;
    lab.join(network, member).await;
    let seen = lab.networks().show(network, NOW).await.unwrap().unwrap().summary.revision;
    let govern = async |order, expected| lab.networks().govern(network, order, expected, NOW).await;
    let told = govern(NetworkOrder::Lock, Some(seen)).await.unwrap();
    assert_eq!((told.change.revision, told.change.terms.locked, told.to.len()), (seen.next(), true, 2));
    assert!(matches!(govern(NetworkOrder::Unlock, Some(seen)).await, Err(GovernError::Changed)));
    assert_eq!(lab.networks().show(network, NOW).await.unwrap().unwrap().summary.revision, seen.next());
    let owner_out = govern(NetworkOrder::Evict(owner), None).await;
    assert!(matches!(owner_out, Err(GovernError::Order(OrderError::NotPermitted))), "{owner_out:?}");
    govern(NetworkOrder::Transfer(member), None).await.unwrap();
    govern(NetworkOrder::Ban(owner), None).await.unwrap();
    let members = lab.networks().members(network, None, 9).await.unwrap();
    assert_eq!((members.len(), members[0].client, members[0].role), (1, member, domain::Role::Owner));
    assert_eq!(lab.networks().networks_of(member).await.unwrap()[0].0.network, network);
    govern(NetworkOrder::Delete, None).await.unwrap();
    assert!(matches!(govern(NetworkOrder::Lock, None).await, Err(GovernError::UnknownNetwork)));
    assert_eq!(lab.networks().show(network, NOW).await.unwrap(), None);
    assert_eq!(Revision::ZERO.next(), Revision(1));
}

/// Both engines say how they would go about it; neither reads whole tables.
async fn searching_walks_an_index(lab: &Lab) {
    for query in [
        "SELECT id FROM clients WHERE nick_bytes IS NOT NULL AND (nick_bytes, id) > ('a', 'a') AND nick_bytes < 'b'
         ORDER BY nick_bytes, id LIMIT 9",
        "SELECT id FROM networks WHERE name_bytes IS NOT NULL AND (name_bytes, id) > ('a', 'a') AND name_bytes < 'b'
         AND NOT deleted ORDER BY name_bytes, id LIMIT 9",
        "SELECT payer FROM relay_usage WHERE month = 7 AND payer > 'a' ORDER BY payer LIMIT 9",
        "SELECT seen_ms FROM clients WHERE plan = 'free' LIMIT 1",
        "SELECT * FROM audit WHERE object = 'a' AND sequence < 9 ORDER BY sequence DESC LIMIT 9",
        "SELECT * FROM audit WHERE who = 'a' AND sequence < 9 ORDER BY sequence DESC LIMIT 9",
        "SELECT * FROM audit WHERE action = 'a' AND sequence < 9 ORDER BY sequence DESC LIMIT 9",
        "SELECT id FROM tokens WHERE digest = 'a' AND revoked_ms IS NULL AND expires_ms > 9",
    ] {
        let plan = lab.explain(query).await;
        assert!(!plan.contains("SCAN") && !plan.contains("Seq Scan"), "{query}\n{plan}");
        assert!(!plan.contains("TEMP B-TREE") && !plan.contains("Sort"), "{query}\n{plan}");
    }
}
