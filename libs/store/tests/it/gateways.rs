//! Where members lead the others of their network.

use domain::{
    ClientId, MAX_NETWORK_ROUTES, MAX_ROUTES, Member, NetworkId, NetworkKind, NetworkOrder, Prefix, Revision,
    RouteError,
};
use store::OrderError;

use crate::lab::{Lab, NOW};

crate::conformance! {
    members_meet_gateways_only,
    nobody_leads_anywhere_before_its_machine_agreed,
    what_is_routed_is_the_admins_and_whether_the_members_own,
    routes_belong_to_the_kind,
    prefixes_do_not_overlap_and_are_private,
    there_are_so_many_prefixes_and_no_more,
    routes_go_with_the_member,
}

async fn members_meet_gateways_only(lab: &Lab) {
    let [owner, one, two] = lab.clients(3).await.try_into().unwrap();
    let network = gateways(lab, owner, &[one, two]).await;
    assert_eq!(peers(lab, owner).await, []);
    lab.order(network, owner, route(one, &["192.168.50.0/24"])).await;
    assert_eq!(peers(lab, one).await, sorted([owner, two]));
    assert_eq!(peers(lab, two).await, [one]);
    assert_eq!(lab.networks().pair_plan(owner, two).await.unwrap(), None);
    assert!(lab.networks().pair_plan(two, one).await.unwrap().is_some());
    lab.order(network, owner, route(one, &[])).await;
    assert_eq!(peers(lab, two).await, []);
    assert_eq!(lab.networks().show(network, NOW).await.unwrap().unwrap().terms.kind, NetworkKind::Gateway);
}

async fn nobody_leads_anywhere_before_its_machine_agreed(lab: &Lab) {
    let [owner, one] = lab.clients(2).await.try_into().unwrap();
    let network = gateways(lab, owner, &[one]).await;
    let change = lab.order(network, owner, route(one, &["fd12::/64", "192.168.50.7/24", "10.9.0.0/16"])).await.change;
    assert_eq!(change.terms.kind, NetworkKind::Gateway);
    let [member] = &change.members[..] else { panic!("{change:?}") };
    assert!(member.hub);
    assert_eq!(told(member), [("10.9.0.0/16", false), ("192.168.50.0/24", false), ("fd12::/64", false)].map(owned));

    let change =
        lab.order(network, one, NetworkOrder::Agree(vec![of("10.9.0.0/16"), of("172.16.0.0/12")])).await.change;
    assert_eq!(
        told(&change.members[0]),
        [("10.9.0.0/16", true), ("192.168.50.0/24", false), ("fd12::/64", false)].map(owned)
    );
    // What is named later is not agreed to, what was named before and still is stays so.
    let change = lab.order(network, owner, route(one, &["10.9.0.0/16", "172.16.0.0/12"])).await.change;
    assert_eq!(told(&change.members[0]), [("10.9.0.0/16", true), ("172.16.0.0/12", false)].map(owned));
    lab.order(network, owner, route(one, &["172.16.0.0/12"])).await;
    let change = lab.order(network, owner, route(one, &["10.9.0.0/16"])).await.change;
    assert_eq!(told(&change.members[0]), [("10.9.0.0/16", false)].map(owned));
    let whole = lab.networks().changes_since(network, owner, Revision::ZERO).await.unwrap().unwrap();
    assert_eq!(told(whole.members.iter().find(|member| member.client == one).unwrap()), told(&change.members[0]));
    lab.order(network, one, NetworkOrder::Agree(vec![of("10.9.0.0/16")])).await;
    let change = lab.order(network, one, NetworkOrder::Agree(Vec::new())).await.change;
    assert_eq!(told(&change.members[0]), [("10.9.0.0/16", false)].map(owned));
}

async fn what_is_routed_is_the_admins_and_whether_the_members_own(lab: &Lab) {
    let [owner, admin, member, stranger] = lab.clients(4).await.try_into().unwrap();
    let network = gateways(lab, owner, &[admin, member]).await;
    lab.order(network, owner, NetworkOrder::Promote(admin)).await;
    refused(lab, network, member, route(member, &["10.0.0.0/24"]), |error| matches!(error, OrderError::NotPermitted))
        .await;
    refused(lab, network, admin, route(stranger, &["10.0.0.0/24"]), |error| matches!(error, OrderError::MemberUnknown))
        .await;
    refused(lab, network, stranger, NetworkOrder::Agree(Vec::new()), |error| matches!(error, OrderError::NotAMember))
        .await;
    lab.order(network, admin, route(owner, &["10.0.0.0/24"])).await;
    // Whoever agrees does it for itself.
    let change = lab.order(network, admin, NetworkOrder::Agree(vec![of("10.0.0.0/24")])).await.change;
    assert_eq!(change.members.iter().map(told).collect::<Vec<_>>(), [vec![]]);
    let change = lab.order(network, owner, NetworkOrder::Agree(vec![of("10.0.0.0/24")])).await.change;
    assert_eq!(told(&change.members[0]), [("10.0.0.0/24", true)].map(owned));
}

async fn routes_belong_to_the_kind(lab: &Lab) {
    let [owner, one] = lab.clients(2).await.try_into().unwrap();
    let network = lab.network("plain", owner).await;
    lab.join(network, one).await;
    for kind in [NetworkKind::Mesh, NetworkKind::Hub] {
        lab.order(network, owner, NetworkOrder::SetKind(kind)).await;
        refused(lab, network, owner, route(one, &["10.0.0.0/24"]), |error| matches!(error, OrderError::NoGateways))
            .await;
    }
    lab.order(network, owner, NetworkOrder::SetKind(NetworkKind::Gateway)).await;
    lab.order(network, owner, route(one, &["10.0.0.0/24"])).await;
    let change = lab.order(network, owner, NetworkOrder::SetKind(NetworkKind::Hub)).await.change;
    let hubs: Vec<_> = change.members.iter().map(|member| (member.client, member.hub, member.routes.len())).collect();
    assert!(hubs.contains(&(one, false, 0)) && hubs.contains(&(owner, true, 0)), "{hubs:?}");
    let change = lab.order(network, owner, NetworkOrder::SetKind(NetworkKind::Gateway)).await.change;
    assert!(change.members.iter().all(|member| member.routes.is_empty()));
    // A spoke leads nowhere.
    lab.order(network, owner, route(one, &["10.0.0.0/24"])).await;
    let change = lab.order(network, owner, NetworkOrder::Spoke(one)).await.change;
    assert_eq!((change.members[0].hub, told(&change.members[0])), (false, vec![]));
}

async fn prefixes_do_not_overlap_and_are_private(lab: &Lab) {
    let [owner, one, two] = lab.clients(3).await.try_into().unwrap();
    let network = gateways(lab, owner, &[one, two]).await;
    let before = lab.order(network, owner, route(one, &["192.168.50.0/24"])).await.change.revision;
    for overlapping in [&["192.168.0.0/16"][..], &["192.168.50.128/25"], &["10.0.0.0/8", "10.1.0.0/16"]] {
        refused(lab, network, owner, route(two, overlapping), |error| {
            matches!(error, OrderError::Routes(RouteError::Overlap(..)))
        })
        .await;
    }
    for public in ["0.0.0.0/0", "8.8.8.0/24", "::/0", "100.64.0.0/24", "169.254.0.0/16", "127.0.0.0/8"] {
        refused(lab, network, owner, route(two, &[public]), |error| {
            matches!(error, OrderError::Routes(RouteError::NotRoutable(_)))
        })
        .await;
    }
    // A member's own prefixes are replaced: they are not in its way.
    let after = lab.order(network, owner, route(one, &["192.168.0.0/16"])).await.change.revision;
    assert_eq!(after, Revision(before.0 + 1), "what is refused changes nothing");
    // In another network the same prefix may be routed.
    let other = lab.network("other", two).await;
    lab.order(other, two, NetworkOrder::SetKind(NetworkKind::Gateway)).await;
    lab.order(other, two, route(two, &["192.168.50.0/24"])).await;
}

async fn there_are_so_many_prefixes_and_no_more(lab: &Lab) {
    let clients = lab.clients(MAX_NETWORK_ROUTES / MAX_ROUTES + 1).await;
    let network = gateways(lab, clients[0], &clients[1..]).await;
    let prefixes = |gateway: usize, count: usize| -> Vec<Prefix> {
        (0..count).map(|nth| of(&format!("10.{gateway}.{nth}.0/24"))).collect()
    };
    let too_many = |error: &OrderError| matches!(error, OrderError::Routes(RouteError::TooMany { .. }));
    for (nth, client) in clients.iter().enumerate().skip(1) {
        let order = NetworkOrder::Route(*client, prefixes(nth, MAX_ROUTES + 1));
        refused(lab, network, clients[0], order, too_many).await;
        lab.order(network, clients[0], NetworkOrder::Route(*client, prefixes(nth, MAX_ROUTES))).await;
    }
    refused(lab, network, clients[0], route(clients[0], &["192.168.0.0/24"]), too_many).await;
    lab.order(network, clients[0], NetworkOrder::Route(clients[1], prefixes(1, MAX_ROUTES - 1))).await;
    lab.order(network, clients[0], route(clients[0], &["192.168.0.0/24"])).await;
}

async fn routes_go_with_the_member(lab: &Lab) {
    let [owner, one, two] = lab.clients(3).await.try_into().unwrap();
    let network = gateways(lab, owner, &[one, two]).await;
    lab.order(network, owner, route(one, &["10.0.0.0/24"])).await;
    lab.order(network, one, NetworkOrder::Agree(vec![of("10.0.0.0/24")])).await;
    let change = lab.order(network, owner, NetworkOrder::Evict(one)).await.change;
    let gone = change.members.iter().find(|member| member.client == one).unwrap();
    assert!(gone.gone && gone.routes.is_empty());
    // The prefix is free for another member.
    lab.order(network, owner, route(two, &["10.0.0.0/24"])).await;
    let whole = lab.join(network, one).await.whole;
    let back = whole.members.iter().find(|member| member.client == one).unwrap();
    assert_eq!((back.hub, told(back)), (false, vec![]));
    lab.networks().leave(network, two, NOW).await.unwrap();
    lab.order(network, owner, route(owner, &["10.0.0.0/16"])).await;
}

async fn gateways(lab: &Lab, owner: ClientId, members: &[ClientId]) -> NetworkId {
    let network = lab.network("lans", owner).await;
    for member in members {
        lab.join(network, *member).await;
    }
    lab.order(network, owner, NetworkOrder::SetKind(NetworkKind::Gateway)).await;
    network
}

async fn refused(
    lab: &Lab,
    network: NetworkId,
    actor: ClientId,
    order: NetworkOrder,
    expected: impl Fn(&OrderError) -> bool,
) {
    let refused = lab.networks().carry_out(network, actor, order.clone(), NOW).await.unwrap_err();
    assert!(expected(&refused), "{order:?}: {refused:?}");
}

fn route(member: ClientId, prefixes: &[&str]) -> NetworkOrder {
    NetworkOrder::Route(member, prefixes.iter().map(|prefix| of(prefix)).collect())
}

fn of(prefix: &str) -> Prefix {
    prefix.parse().unwrap()
}

fn told(member: &Member) -> Vec<(String, bool)> {
    member.routes.iter().map(|route| (route.prefix.to_string(), route.agreed)).collect()
}

fn owned((prefix, agreed): (&str, bool)) -> (String, bool) {
    (prefix.to_owned(), agreed)
}

async fn peers(lab: &Lab, client: ClientId) -> Vec<ClientId> {
    lab.networks().peers(client).await.unwrap().into_iter().map(|peer| peer.client).collect()
}

fn sorted<const N: usize>(mut clients: [ClientId; N]) -> Vec<ClientId> {
    clients.sort();
    clients.to_vec()
}
