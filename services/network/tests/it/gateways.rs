//! What members of a network with gateways are told.

use contract::{
    gateway::Notice,
    network::{Connect, Order, Refusal, Snapshot},
};
use domain::{ClientId, NetworkId, NetworkKind, NetworkOrder, Prefix};

use crate::lab::Lab;

#[tokio::test(flavor = "multi_thread")]
async fn members_are_announced_to_gateways_only_and_told_of_their_routes() {
    let mut lab = Lab::new().await;
    let [owner, one, two] = [lab.client().await, lab.client().await, lab.client().await];
    let mut gateway = lab.gateway(1).await;
    let network = lab.create(owner, "lans", "right").await.unwrap().network;
    lab.join(one, "lans", "right").await.unwrap();
    lab.join(two, "lans", "right").await.unwrap();
    order(&lab, network, owner, NetworkOrder::SetKind(NetworkKind::Gateway)).await.unwrap();
    lab.quiet().await;
    for client in [owner, one, two] {
        lab.online(client, &gateway).await;
    }
    assert_eq!(lab.call(Connect { client: one, peer: two }).await, Err(Refusal::PeerUnknown));

    order(&lab, network, owner, NetworkOrder::Route(one, vec![of("192.168.50.0/24")])).await.unwrap();
    let (to, _) = gateway.told_that(|notice| *notice == Notice::PeerUp(one)).await;
    assert!(to.contains(&two) && to.contains(&owner));
    lab.call(Connect { client: one, peer: two }).await.unwrap();
    assert_eq!(lab.call(Connect { client: owner, peer: two }).await, Err(Refusal::PeerUnknown));

    order(&lab, network, one, NetworkOrder::Agree(vec![of("192.168.50.0/24")])).await.unwrap();
    let snapped = lab.call(Snapshot { client: two, known: Vec::new() }).await.unwrap();
    let change = &snapped.changes[0];
    assert_eq!(change.terms.kind, NetworkKind::Gateway);
    let routes = &change.members.iter().find(|member| member.client == one).unwrap().routes;
    assert_eq!(
        routes.iter().map(|route| (route.prefix, route.agreed)).collect::<Vec<_>>(),
        [(of("192.168.50.0/24"), true)]
    );
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_that_cannot_be_are_refused_with_their_reasons() {
    let mut lab = Lab::new().await;
    let [owner, one] = [lab.client().await, lab.client().await];
    let network = lab.create(owner, "lans", "right").await.unwrap().network;
    lab.join(one, "lans", "right").await.unwrap();
    let lead = |client, prefixes: &[&str]| NetworkOrder::Route(client, prefixes.iter().map(|text| of(text)).collect());
    assert_eq!(order(&lab, network, owner, lead(one, &["10.0.0.0/8"])).await, Err(Refusal::NoGateways));
    order(&lab, network, owner, NetworkOrder::SetKind(NetworkKind::Gateway)).await.unwrap();
    order(&lab, network, owner, lead(one, &["10.0.0.0/8"])).await.unwrap();
    let many: Vec<_> = (0..9).map(|nth| format!("192.168.{nth}.0/24")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    for (prefixes, refusal) in [
        (&["0.0.0.0/0"][..], Refusal::NotRoutable),
        (&["100.64.0.0/24"], Refusal::NotRoutable),
        (&["10.1.0.0/16"], Refusal::RouteTaken),
        (&many, Refusal::LimitReached),
    ] {
        assert_eq!(order(&lab, network, owner, lead(owner, prefixes)).await, Err(refusal));
    }
    assert_eq!(order(&lab, network, one, lead(one, &["192.168.0.0/24"])).await, Err(Refusal::NotPermitted));
    order(&lab, network, owner, lead(owner, &many[..8])).await.unwrap();
    lab.end().await;
}

async fn order(lab: &Lab, network: NetworkId, client: ClientId, order: NetworkOrder) -> Result<(), Refusal> {
    lab.call(Order { client, network, order }).await.map(|_| ())
}

fn of(prefix: &str) -> Prefix {
    prefix.parse().unwrap()
}
