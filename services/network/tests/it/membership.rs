//! What members are given to show one another.

use std::time::Duration;

use contract::{
    gateway::Notice,
    membership::MembershipSigner,
    network::{Leave, Membership, Order, Refusal, Snapshot},
};
use domain::{NetworkOrder, Removal};

use crate::lab::Lab;

const SESSION: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_member_gets_a_ticket_that_the_announced_keys_verify() {
    let mut lab = Lab::new().await;
    let [owner, guest] = [lab.client().await, lab.client().await];
    let network = lab.create(owner, "home", "right").await.unwrap().network;
    assert_eq!(lab.call(Membership { client: guest, network }).await, Err(Refusal::NotAMember));
    let joined = lab.join(guest, "home", "right").await.unwrap();

    let proof = lab.call(Membership { client: guest, network }).await.unwrap();
    let keys = lab.call(Snapshot { client: guest, known: Vec::new() }).await.unwrap().membership_keys;
    assert_eq!(keys, MembershipSigner::from_seeds(&[7; 32]).unwrap().keys());
    let ticket = proof.ticket.verify(&keys).unwrap();
    assert_eq!((ticket.network, ticket.client, ticket.revision), (network, guest, joined.change.revision));
    assert_eq!(proof.removals.verify(&keys).unwrap().removed, []);
    assert_eq!(lab.metrics.membership_tickets.get(), 1);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_member_is_told_who_was_removed_and_so_is_who_ordered_it() {
    let mut lab = Lab::new().await;
    let [owner, guest, other] = [lab.client().await, lab.client().await, lab.client().await];
    let mut gateway = lab.gateway(1).await;
    let network = lab.create(owner, "home", "right").await.unwrap().network;
    lab.join(guest, "home", "right").await.unwrap();
    lab.join(other, "home", "right").await.unwrap();
    lab.quiet().await;
    for client in [owner, guest, other] {
        lab.seat(client, &gateway, SESSION).await;
    }

    let order = Order { client: owner, network, order: NetworkOrder::Ban(guest) };
    let banned = lab.call(order).await.unwrap().revision;
    let (mut to, notice) = gateway.told_that(|notice| matches!(notice, Notice::Removals(_))).await;
    to.sort();
    let mut members = vec![owner, other];
    members.sort();
    assert_eq!(to, members);
    let Notice::Removals(removals) = notice else { panic!("{notice:?}") };
    assert_eq!(removals.claim().removed, [Removal { client: guest, revision: banned }]);
    assert_eq!(lab.call(Membership { client: guest, network }).await, Err(Refusal::NotAMember));

    // A change of the terms moves nobody.
    lab.call(Order { client: owner, network, order: NetworkOrder::Lock }).await.unwrap();
    lab.quiet().await;
    assert!(!gateway.heard(|notice| matches!(notice, Notice::Removals(_))));
    lab.call(Leave { client: other, network }).await.unwrap();
    let (to, _) = gateway.told_that(|notice| matches!(notice, Notice::Removals(_))).await;
    assert_eq!(to, [owner]);
    lab.end().await;
}
