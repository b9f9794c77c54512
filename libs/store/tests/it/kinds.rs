//! Which members of a network meet.

use domain::{ClientId, NetworkKind, NetworkOrder, Revision};
use store::OrderError;

use crate::lab::{Lab, NOW};

crate::conformance! {
    spokes_meet_hubs_only,
    a_pair_that_meets_elsewhere_meets,
    the_kind_is_the_owners_and_hubs_are_the_admins,
    who_comes_back_is_a_spoke,
}

async fn spokes_meet_hubs_only(lab: &Lab) {
    let [owner, one, two] = lab.clients(3).await.try_into().unwrap();
    let network = lab.network("wheel", owner).await;
    lab.join(network, one).await;
    lab.join(network, two).await;
    assert_eq!(peers(lab, one).await, sorted([owner, two]));

    let change = lab.order(network, owner, NetworkOrder::SetKind(NetworkKind::Hub)).await.change;
    assert_eq!(change.terms.kind, NetworkKind::Hub);
    assert_eq!(change.members.iter().map(|member| (member.client, member.hub)).collect::<Vec<_>>(), [(owner, true)]);
    assert_eq!(peers(lab, owner).await, sorted([one, two]));
    assert_eq!(peers(lab, one).await, [owner]);
    assert_eq!(lab.networks().pair_plan(one, two).await.unwrap(), None);
    assert!(lab.networks().pair_plan(two, owner).await.unwrap().is_some());

    let change = lab.order(network, owner, NetworkOrder::Hub(one)).await.change;
    assert_eq!(change.members.iter().map(|member| (member.client, member.hub)).collect::<Vec<_>>(), [(one, true)]);
    assert_eq!(peers(lab, two).await, sorted([owner, one]));
    lab.order(network, owner, NetworkOrder::Spoke(one)).await;
    assert_eq!(peers(lab, two).await, [owner]);
    let whole = lab.networks().changes_since(network, two, Revision::ZERO).await.unwrap().unwrap();
    assert_eq!((whole.terms.kind, whole.members.len()), (NetworkKind::Hub, 3));
    let shown = lab.networks().show(network, NOW).await.unwrap().unwrap();
    assert_eq!(shown.terms.kind, NetworkKind::Hub);

    lab.order(network, owner, NetworkOrder::SetKind(NetworkKind::Mesh)).await;
    assert_eq!(peers(lab, two).await, sorted([owner, one]));
}

async fn a_pair_that_meets_elsewhere_meets(lab: &Lab) {
    let [owner, one, two] = lab.clients(3).await.try_into().unwrap();
    let wheel = lab.network("wheel", owner).await;
    let mesh = lab.network("mesh", one).await;
    lab.join(wheel, one).await;
    lab.join(wheel, two).await;
    lab.order(wheel, owner, NetworkOrder::SetKind(NetworkKind::Hub)).await;
    assert_eq!(peers(lab, two).await, [owner]);
    lab.join(mesh, two).await;
    assert_eq!(peers(lab, two).await, sorted([owner, one]));
    assert!(lab.networks().pair_plan(one, two).await.unwrap().is_some());
}

async fn the_kind_is_the_owners_and_hubs_are_the_admins(lab: &Lab) {
    let [owner, admin, member, stranger] = lab.clients(4).await.try_into().unwrap();
    let network = lab.network("rules", owner).await;
    lab.join(network, admin).await;
    lab.join(network, member).await;
    lab.order(network, owner, NetworkOrder::Promote(admin)).await;
    for (actor, order) in [
        (admin, NetworkOrder::SetKind(NetworkKind::Hub)),
        (member, NetworkOrder::SetKind(NetworkKind::Hub)),
        (member, NetworkOrder::Hub(member)),
        (member, NetworkOrder::Spoke(owner)),
    ] {
        let refused = lab.networks().carry_out(network, actor, order, NOW).await;
        assert!(matches!(refused, Err(OrderError::NotPermitted)), "{refused:?}");
    }
    lab.order(network, admin, NetworkOrder::Hub(member)).await;
    for order in [NetworkOrder::Hub(stranger), NetworkOrder::Spoke(stranger)] {
        let refused = lab.networks().carry_out(network, admin, order, NOW).await;
        assert!(matches!(refused, Err(OrderError::MemberUnknown)), "{refused:?}");
    }
}

async fn who_comes_back_is_a_spoke(lab: &Lab) {
    let [owner, one] = lab.clients(2).await.try_into().unwrap();
    let network = lab.network("wheel", owner).await;
    lab.join(network, one).await;
    lab.order(network, owner, NetworkOrder::Hub(one)).await;
    lab.order(network, owner, NetworkOrder::Evict(one)).await;
    let whole = lab.join(network, one).await.whole;
    assert!(whole.members.iter().all(|member| !member.hub));
}

async fn peers(lab: &Lab, client: ClientId) -> Vec<ClientId> {
    lab.networks().peers(client).await.unwrap().into_iter().map(|peer| peer.client).collect()
}

fn sorted<const N: usize>(mut clients: [ClientId; N]) -> Vec<ClientId> {
    clients.sort();
    clients.to_vec()
}
