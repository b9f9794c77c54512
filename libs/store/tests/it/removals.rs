//! Who is a member of a network no more.

use domain::{MAX_REMOVALS, NetworkId, NetworkOrder, Removal};
use store::Proven;

use crate::lab::{Lab, NOW};

crate::conformance! {
    whoever_left_or_was_removed_is_named_until_it_is_back,
    what_is_not_named_is_below_the_floor,
    only_a_member_is_one,
}

async fn whoever_left_or_was_removed_is_named_until_it_is_back(lab: &Lab) {
    let [owner, one, two] = lab.clients(3).await.try_into().unwrap();
    let network = lab.network("doors", owner).await;
    lab.join(network, one).await;
    lab.join(network, two).await;
    let removals = lab.networks().removals(network, NOW).await.unwrap().unwrap();
    assert_eq!((removals.network, removals.floor.0, removals.issued, removals.removed), (network, 0, NOW, vec![]));

    let left = lab.networks().leave(network, one, NOW).await.unwrap().unwrap().change.revision;
    let banned = lab.order(network, owner, NetworkOrder::Ban(two)).await.change.revision;
    let removals = lab.networks().removals(network, NOW).await.unwrap().unwrap();
    let named = [Removal { client: two, revision: banned }, Removal { client: one, revision: left }];
    assert_eq!((removals.revision, removals.removed), (banned, named.to_vec()));

    let back = lab.join(network, one).await.whole.revision;
    let removals = lab.networks().removals(network, NOW).await.unwrap().unwrap();
    assert_eq!((removals.revision, removals.removed), (back, named[..1].to_vec()));
}

async fn what_is_not_named_is_below_the_floor(lab: &Lab) {
    let owner = lab.client().await;
    let network = lab.network("revolving", owner).await;
    let mut last = Vec::new();
    for _ in 0..=MAX_REMOVALS {
        let guest = lab.client().await;
        lab.join(network, guest).await;
        last.push(lab.networks().leave(network, guest, NOW).await.unwrap().unwrap().change.revision);
    }
    let removals = lab.networks().removals(network, NOW).await.unwrap().unwrap();
    assert_eq!((removals.removed.len(), removals.floor), (MAX_REMOVALS, last[0]));
    assert!(removals.removed.iter().all(|one| one.revision > removals.floor && one.revision <= removals.revision));
}

async fn only_a_member_is_one(lab: &Lab) {
    let [owner, guest] = lab.clients(2).await.try_into().unwrap();
    let network = lab.network("ours", owner).await;
    assert_eq!(lab.networks().membership(network, guest, NOW).await.unwrap(), Proven::Stranger);
    let joined = lab.join(network, guest).await.whole.revision;
    let Proven::Member(membership) = lab.networks().membership(network, guest, NOW).await.unwrap() else {
        panic!("the guest is a member");
    };
    assert_eq!(membership.revision, joined);
    lab.order(network, owner, NetworkOrder::Ban(guest)).await;
    assert_eq!(lab.networks().membership(network, guest, NOW).await.unwrap(), Proven::Stranger);
    let nowhere = NetworkId::from_bytes([0xee; 16]);
    assert_eq!(lab.networks().membership(nowhere, owner, NOW).await.unwrap(), Proven::Stranger);
    assert_eq!(lab.networks().removals(nowhere, NOW).await.unwrap(), None);
    lab.order(network, owner, NetworkOrder::Delete).await;
    assert_eq!(lab.networks().removals(network, NOW).await.unwrap(), None);
}
