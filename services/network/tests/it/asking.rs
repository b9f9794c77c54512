//! What clients and operators ask.

use std::time::Duration;

use contract::{
    network::{AnotherRelay, ChangesSince, Connect, Networks, Refusal, Sessions, Snapshot},
    rendezvous::Wanted,
};
use domain::{KnownNetwork, PeerPresence, RelayId, Revision};

use crate::lab::Lab;

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_says_who_is_online() {
    let mut lab = Lab::new().await;
    let [one, two] = [lab.client().await, lab.client().await];
    let gateway = lab.gateway(1).await;
    lab.create(one, "home", "right").await.unwrap();
    let joined = lab.join(two, "home", "right").await.unwrap();
    lab.seat(two, &gateway, Duration::from_secs(60)).await;

    let known = KnownNetwork { network: joined.network, revision: joined.change.revision };
    let snapped = lab.call(Snapshot { client: one, known: vec![known] }).await.unwrap();

    assert_eq!((snapped.prefix4, snapped.prefix6), (10, 48));
    assert_eq!(snapped.networks, [joined.network]);
    assert_eq!(snapped.changes[0].since, known.revision);
    let presence = |client| snapped.changes[0].members.iter().find(|member| member.client == client).unwrap().presence;
    assert_eq!(presence(two), Some(PeerPresence::Online));
    assert_eq!(presence(one), Some(PeerPresence::Offline));
    assert_eq!(lab.metrics.snapshots_cut.get(), 0);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_members_see_the_changes_of_a_network() {
    let mut lab = Lab::new().await;
    let [owner, stranger] = [lab.client().await, lab.client().await];
    let network = lab.create(owner, "home", "right").await.unwrap().network;
    let since = |client| ChangesSince { client, network, revision: Revision::ZERO };
    assert_eq!(lab.call(since(owner)).await.unwrap().members.len(), 1);
    assert_eq!(lab.call(since(stranger)).await, Err(Refusal::NotAMember));
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_is_wanted_when_a_peer_of_a_common_network_is_online() {
    let mut lab = Lab::new().await;
    let [one, two, stranger] = [lab.client().await, lab.client().await, lab.client().await];
    let gateway = lab.gateway(1).await;
    lab.create(one, "home", "right").await.unwrap();
    lab.join(two, "home", "right").await.unwrap();
    let connect = |peer| Connect { client: one, peer };

    assert_eq!(lab.call(connect(stranger)).await, Err(Refusal::PeerUnknown));
    assert_eq!(lab.call(connect(one)).await, Err(Refusal::PeerUnknown));
    lab.call(connect(two)).await.unwrap();
    assert!(lab.wanted.try_recv().is_err(), "the peer is offline");

    lab.seat(one, &gateway, Duration::from_secs(60)).await;
    lab.seat(two, &gateway, Duration::from_secs(60)).await;
    lab.call(connect(two)).await.unwrap();
    let pair = lab.wanted(Wanted::Demanded).await;
    assert_eq!((pair.a, pair.b, pair.leaves), (one, two, None));

    let leaves = Some(RelayId::from_bytes([7; 16]));
    assert_eq!(lab.call(AnotherRelay { client: one, peer: stranger, leaves }).await, Err(Refusal::PeerUnknown));
    lab.call(AnotherRelay { client: two, peer: one, leaves }).await.unwrap();
    let pair = lab.wanted(Wanted::Relay).await;
    assert_eq!((pair.a, pair.b, pair.leaves), (two, one, leaves));
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_read_pages() {
    let mut lab = Lab::new().await;
    let [one, two] = [lab.client().await, lab.client().await];
    let gateway = lab.gateway(1).await;
    for name in ["a", "b", "c"] {
        lab.create(one, name, "right").await.unwrap();
    }
    lab.seat(one, &gateway, Duration::from_secs(60)).await;
    lab.seat(two, &gateway, Duration::from_secs(60)).await;

    let first = lab.call(Networks { after: None, limit: 2 }).await.unwrap();
    assert_eq!((first.networks.len(), first.more), (2, true));
    let after = Some(first.networks[1].network);
    let second = lab.call(Networks { after, limit: 2 }).await.unwrap();
    assert_eq!((second.networks.len(), second.more), (1, false));
    assert_eq!((second.networks[0].owner, second.networks[0].seats, second.networks[0].members), (one, 5, 1));

    let sessions = lab.call(Sessions { after: None, limit: 100 }).await.unwrap();
    assert_eq!((sessions.sessions.len(), sessions.more), (2, false));
    assert_eq!(sessions.sessions[0].gateway, gateway.id);
    lab.end().await;
}
