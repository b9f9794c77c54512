//! Which members are announced to each other.

use contract::{
    gateway::Notice,
    network::{AnotherRelay, Connect, Order, Refusal},
    rendezvous::Wanted,
};
use domain::{ClientId, NetworkKind, NetworkOrder};

use crate::lab::Lab;

#[tokio::test(flavor = "multi_thread")]
async fn spokes_are_announced_to_hubs_only_and_get_no_relay_for_each_other() {
    let mut lab = Lab::new().await;
    let [owner, one, two] = [lab.client().await, lab.client().await, lab.client().await];
    let mut gateway = lab.gateway(1).await;
    let network = lab.create(owner, "wheel", "right").await.unwrap().network;
    lab.join(one, "wheel", "right").await.unwrap();
    lab.join(two, "wheel", "right").await.unwrap();
    let kind = Order { client: owner, network, order: NetworkOrder::SetKind(NetworkKind::Hub) };
    assert_eq!(lab.call(kind).await.unwrap().terms.kind, NetworkKind::Hub);
    lab.quiet().await;

    lab.online(owner, &gateway).await;
    lab.online(one, &gateway).await;
    wants(&mut lab, [one, owner]).await;
    lab.online(two, &gateway).await;
    wants(&mut lab, [two, owner]).await;
    let (to, _) = gateway.told_that(|notice| *notice == Notice::PeerUp(two)).await;
    assert_eq!(to, [owner]);
    assert_eq!(lab.call(Connect { client: one, peer: two }).await, Err(Refusal::PeerUnknown));
    assert_eq!(lab.call(AnotherRelay { client: one, peer: two, leaves: None }).await, Err(Refusal::PeerUnknown));

    lab.call(Order { client: owner, network, order: NetworkOrder::Hub(one) }).await.unwrap();
    // What the owner was told when it came may still be on its way.
    while !gateway.told_that(|notice| *notice == Notice::PeerUp(one)).await.0.contains(&two) {}
    let (to, _) = gateway.told_that(|notice| *notice == Notice::PeerUp(two)).await;
    assert_eq!(to, [one]);
    lab.call(Connect { client: one, peer: two }).await.unwrap();
    lab.end().await;
}

/// Waits until a spoke and the hub are to be connected, which may be said more than once; without the hub nobody is.
async fn wants(lab: &mut Lab, [spoke, hub]: [ClientId; 2]) {
    loop {
        let pair = lab.wanted(Wanted::Online).await;
        assert!([pair.a, pair.b].contains(&hub), "{} and {}", pair.a, pair.b);
        if [pair.a, pair.b].contains(&spoke) {
            return;
        }
    }
}
