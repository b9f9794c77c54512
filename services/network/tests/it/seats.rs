//! Who keeps a seat when the plan of the owner allows fewer members.

use std::time::Duration;

use contract::{
    gateway::Notice,
    network::{Membership, Order, Refusal, Unannounced},
    rendezvous::Wanted,
};
use domain::{ClientId, NetworkId, NetworkOrder, UnixMillis};

use crate::lab::{Gateway, Lab};

#[tokio::test]
async fn a_smaller_plan_is_told_to_everybody_and_parts_them() {
    let mut lab = Lab::new().await;
    let mut gateway = lab.gateway(1).await;
    let (network, members) = crowd(&mut lab, &gateway).await;
    let (owner, out) = (members[0], members[5]);
    assert!(lab.call(Membership { client: out, network }).await.is_ok());

    lab.stores.accounts.assign_plan(owner, "free").await.unwrap();
    let (told, notice) = gateway.told_that(|notice| lost_seat(notice, out)).await;
    assert_eq!(told.len(), 6, "those who sit and the one who does not: {notice:?}");
    let removals = |notice: &Notice| matches!(notice, Notice::Removals(signed) if signed.claim().removed.len() == 1);
    let (told, _) = gateway.told_that(removals).await;
    assert!(told.contains(&members[1]), "also for those who are away from the servers");
    assert_eq!(lab.call(Membership { client: out, network }).await, Err(Refusal::NoSeat));
    assert!(lab.call(Membership { client: members[1], network }).await.is_ok());
    assert_eq!(lab.metrics.networks_reseated.get(), 1);
    lab.end().await;
}

#[tokio::test]
async fn whoever_gets_a_seat_meets_the_others_at_once() {
    let mut lab = Lab::new().await;
    let mut gateway = lab.gateway(1).await;
    let (network, members) = crowd(&mut lab, &gateway).await;
    let (owner, out) = (members[0], members[5]);
    lab.stores.accounts.assign_plan(owner, "free").await.unwrap();
    gateway.told_that(|notice| lost_seat(notice, out)).await;

    while lab.wanted.try_recv().is_ok() {}
    lab.call(Order { client: owner, network, order: NetworkOrder::Keep(out) }).await.unwrap();
    let (told, _) = gateway.told_that(|notice| *notice == Notice::PeerUp(out)).await;
    assert!(told.contains(&owner) && !told.contains(&members[4]), "{told:?}: another one lost its seat to it");
    assert_eq!(lab.wanted(Wanted::Online).await.a, out);

    // Another role changed a plan, and says so.
    lab.stores.accounts.assign_plan(owner, "premium").await.unwrap();
    lab.bus.publish(&Unannounced).await.unwrap();
    gateway.told_that(|notice| *notice == Notice::PeerUp(members[4])).await;
    lab.quiet().await;
    lab.end().await;
}

#[tokio::test]
async fn only_the_owner_keeps_members() {
    let mut lab = Lab::new().await;
    let gateway = lab.gateway(1).await;
    let (network, members) = crowd(&mut lab, &gateway).await;
    let order = async |client, order| lab.call(Order { client, network, order }).await;
    assert_eq!(order(members[1], NetworkOrder::Keep(members[1])).await, Err(Refusal::NotPermitted));
    let change = order(members[0], NetworkOrder::Keep(members[1])).await.unwrap();
    assert!(change.members.iter().any(|member| member.client == members[1] && member.kept));
    lab.end().await;
}

/// A network of six who are online, its owner first, the others as they came; with room for more.
async fn crowd(lab: &mut Lab, gateway: &Gateway) -> (NetworkId, Vec<ClientId>) {
    let mut members = Vec::new();
    for _ in 0..6 {
        members.push(lab.client().await);
    }
    lab.stores.accounts.assign_plan(members[0], "standard").await.unwrap();
    let network = lab.create(members[0], "crowd", "correct horse").await.unwrap().network;
    for (nth, guest) in (1..).zip(&members[1..]) {
        lab.stores.networks.join(network, *guest, rand::random(), UnixMillis(nth)).await.unwrap();
    }
    for member in &members {
        lab.seat(*member, gateway, Duration::from_secs(600)).await;
    }
    lab.quiet().await;
    (network, members)
}

fn lost_seat(notice: &Notice, client: ClientId) -> bool {
    let lost = |member: &domain::Member| member.client == client && member.unseated;
    matches!(notice, Notice::Change(change) if change.members.iter().any(lost))
}
