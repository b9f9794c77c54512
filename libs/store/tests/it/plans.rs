//! Limits are rows.

use domain::Bandwidth;
use futures_util::future::join_all;
use store::{CreateError, JoinError, Standing, UnknownPlan};

use crate::lab::{Lab, NOW, login, new_network};

crate::conformance! {
    the_shipped_plans_are_rows,
    a_client_never_has_more_networks_than_its_plan_allows,
    a_better_plan_of_the_owner_has_more_seats,
    a_pair_gets_the_lower_plan_or_that_of_the_best_owner,
    concurrent_first_logins_register_one_client,
    a_blocked_client_is_told_so,
}

async fn the_shipped_plans_are_rows(lab: &Lab) {
    let plans = lab.accounts().plans().await.unwrap();
    let seats: Vec<_> = plans.iter().map(|plan| (plan.name.as_str(), plan.members_per_network)).collect();
    assert_eq!(seats, [("free", 5), ("premium", 256), ("standard", 32)]);
    assert!(plans.iter().all(|plan| plan.networks_per_client == 256));
    assert_eq!(plans[0].relay_rate, Bandwidth::from_kbit_per_second(8));
    assert!(plans[1].relay_rate.is_unlimited());

    let client = lab.client().await;
    assert_eq!(lab.accounts().plan_of(client).await.unwrap().unwrap().name, "free");
    let unknown = lab.accounts().assign_plan(client, "gold").await;
    assert!(matches!(unknown, Err(UnknownPlan::Plan)), "{unknown:?}");
}

async fn a_client_never_has_more_networks_than_its_plan_allows(lab: &Lab) {
    lab.execute("INSERT INTO plans VALUES ('tiny', 5, 3, 1000, 1000, 256)").await;
    let [client, owner] = lab.clients(2).await.try_into().unwrap();
    lab.accounts().assign_plan(client, "tiny").await.unwrap();

    let outcomes = join_all((0..8).map(|number| {
        let network = new_network(&format!("net {number}"), client);
        lab.networks().create(network, NOW)
    }))
    .await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 3);
    for refused in outcomes.into_iter().filter_map(Result::err) {
        assert!(matches!(refused, CreateError::PlanLimit { networks: 3 }), "{refused:?}");
    }

    let network = lab.network("one more", owner).await;
    let refused = lab.networks().join(network, client, [1; 16], NOW).await;
    assert!(matches!(refused, Err(JoinError::PlanLimit { networks: 3 })), "{refused:?}");
}

async fn a_better_plan_of_the_owner_has_more_seats(lab: &Lab) {
    let owner = lab.client().await;
    let network = lab.network("growing", owner).await;
    for guest in lab.clients(4).await {
        lab.join(network, guest).await;
    }
    let sixth = lab.client().await;
    assert!(matches!(lab.networks().join(network, sixth, [1; 16], NOW).await, Err(JoinError::Full { seats: 5 })));
    lab.accounts().assign_plan(owner, "standard").await.unwrap();
    lab.join(network, sixth).await;
    assert_eq!(lab.networks().list(None, 1).await.unwrap()[0].seats, 32);
}

async fn a_pair_gets_the_lower_plan_or_that_of_the_best_owner(lab: &Lab) {
    let [owner, premium, free] = lab.clients(3).await.try_into().unwrap();
    lab.accounts().assign_plan(premium, "premium").await.unwrap();
    let network = lab.network("mixed", owner).await;
    assert_eq!(lab.networks().pair_plan(owner, free).await.unwrap(), None, "no common network");
    lab.join(network, premium).await;
    lab.join(network, free).await;

    let plan = |a, b| async move { lab.networks().pair_plan(a, b).await.unwrap().unwrap().plan.name };
    assert_eq!(plan(premium, free).await, "free");
    lab.accounts().assign_plan(owner, "standard").await.unwrap();
    assert_eq!(plan(premium, free).await, "standard");
    lab.accounts().assign_plan(owner, "free").await.unwrap();
    let better = lab.network("better", premium).await;
    lab.join(better, free).await;
    assert_eq!(plan(free, premium).await, "premium");
    assert_eq!(plan(owner, free).await, "free");

    let peers = lab.networks().peers(free).await.unwrap();
    assert_eq!(peers.len(), 2);
    for peer in peers {
        let pair = lab.networks().pair_plan(free, peer.client).await.unwrap().unwrap();
        assert_eq!((peer.relay_rate, peer.payers), (pair.plan.relay_rate, pair.payers));
    }
}

async fn concurrent_first_logins_register_one_client(lab: &Lab) {
    let logins = join_all((0..8).map(|_| lab.accounts().login(login(77, 1), NOW))).await;
    let registered = logins.into_iter().filter(|login| login.as_ref().unwrap().registered).count();
    assert_eq!(registered, 1);
}

async fn a_blocked_client_is_told_so(lab: &Lab) {
    let client = lab.client().await;
    lab.accounts().set_standing(client, Standing::Blocked).await.unwrap();
    assert_eq!(lab.accounts().login(login(0, 0), NOW).await.unwrap().standing, Standing::Blocked);
    lab.accounts().set_standing(client, Standing::Good).await.unwrap();
    assert_eq!(lab.accounts().login(login(0, 0), NOW).await.unwrap().standing, Standing::Good);
}
