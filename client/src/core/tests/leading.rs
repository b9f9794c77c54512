//! Networks behind members: Bob is the gateway, Alice a member.

use domain::{Member, NetworkKind, NetworkOrder, NetworkTerms, Prefix, Revision, Route as Led};

use super::*;
use crate::{
    adapter::Routing,
    command::{RouteLine, RouteState},
};

const BEHIND: &str = "192.168.50.0/24";

#[test]
fn a_member_reaches_the_network_behind_a_gateway_and_is_answered() {
    let mut lab = Lab::direct();
    lab.lead(&[(BEHIND, true), ("fd12::/64", true)]);
    assert_eq!(lab.route_states(Side::Alice), [RouteState::InUse; 2]);
    assert_eq!(lab.route_states(Side::Bob), [RouteState::InUse; 2]);
    for (host, from) in [("192.168.50.7", IpAddr::from([100, 64, 0, 1])), ("fd12::7", "fd00::1".parse().unwrap())] {
        let host: IpAddr = host.parse().unwrap();
        let asked = echo_request(&addresses(Side::Alice), host, 1, 1, b"").unwrap();
        lab.pass(Side::Alice, &asked);
        assert_eq!(lab.bob.received.pop(), Some(asked));
        let answer = echo_request(&of(host), from, 1, 1, b"").unwrap();
        lab.pass(Side::Bob, &answer);
        assert_eq!(lab.alice.received.pop(), Some(answer));
    }
    let told = |core: &Core| core.routes().iter().map(|line| line.prefix.to_string()).collect::<Vec<_>>();
    assert_eq!(told(&lab.alice.core), [BEHIND, "fd12::/64"]);
}

#[test]
fn without_the_word_of_its_own_user_a_machine_leads_nowhere() {
    let mut lab = Lab::direct();
    // The server says that Bob agreed. He did not.
    lab.tell_routes(&[(BEHIND, true)]);
    assert_eq!(lab.route_states(Side::Bob), [RouteState::NotAgreed]);
    let asked = echo_request(&addresses(Side::Alice), "192.168.50.7".parse().unwrap(), 1, 1, b"").unwrap();
    lab.pass(Side::Alice, &asked);
    assert!(lab.bob.received.is_empty());
    let answer = echo_request(&of([192, 168, 50, 7].into()), addresses(Side::Alice).v4.unwrap().into(), 1, 1, b"");
    lab.pass(Side::Bob, &answer.unwrap());
    assert!(lab.alice.received.is_empty());
    // And the server is told so.
    assert!(lab.bob.asked(&Request::Order(NETWORK, NetworkOrder::Agree(Vec::new()))));
}

#[test]
fn agreeing_is_to_what_was_named_and_to_nothing_that_is_named_later() {
    let mut lab = Lab::direct();
    lab.tell_routes(&[(BEHIND, false)]);
    assert_eq!(lab.bob.core.agree(NETWORK, &[]), Ok(vec![prefix(BEHIND)]));
    assert!(lab.bob.asked(&Request::Order(NETWORK, NetworkOrder::Agree(vec![prefix(BEHIND)]))));
    assert_eq!(lab.route_states(Side::Bob), [RouteState::InUse]);
    lab.tell_routes(&[("10.0.0.0/8", true), (BEHIND, true)]);
    assert_eq!(lab.route_states(Side::Bob), [RouteState::NotAgreed, RouteState::InUse]);
    // It is asked once for each change of the network.
    let agreed = Request::Order(NETWORK, NetworkOrder::Agree(vec![prefix(BEHIND)]));
    assert!(lab.bob.asked(&agreed));
    lab.bob.core.reconcile(lab.now);
    assert!(!lab.bob.asked(&agreed));

    lab.restart_bob();
    assert_eq!(lab.route_states(Side::Bob), [RouteState::NotAgreed, RouteState::InUse]);
    lab.bob.core.disagree(NETWORK);
    assert_eq!(lab.route_states(Side::Bob), [RouteState::NotAgreed; 2]);
}

#[test]
fn what_cannot_be_led_to_is_refused_with_its_code() {
    let mut lab = Lab::direct();
    assert_eq!(lab.bob.core.agree(NETWORK, &[prefix(BEHIND)]), Err(Code::NoGateways));
    assert_eq!(lab.bob.core.agree(NetworkId::from_bytes([9; 16]), &[]), Err(Code::NotAMember));
    lab.tell_routes(&[]);
    assert_eq!(lab.bob.core.agree(NETWORK, &[]), Ok(Vec::new()));
    for (prefixes, code) in [
        (&["0.0.0.0/0"][..], Code::NotRoutable),
        (&["100.64.7.0/24"], Code::NotRoutable),
        (&["10.0.0.0/8", "10.1.0.0/16"], Code::RouteTaken),
    ] {
        let prefixes: Vec<_> = prefixes.iter().map(|text| prefix(text)).collect();
        assert_eq!(lab.bob.core.agree(NETWORK, &prefixes), Err(code));
    }
    let many: Vec<_> = (0..=domain::MAX_ROUTES).map(|nth| prefix(&format!("10.0.{nth}.0/24"))).collect();
    assert_eq!(lab.bob.core.agree(NETWORK, &many), Err(Code::LimitReached));
    assert_eq!(lab.bob.core.agree(NETWORK, &many[1..]).map(|agreed| agreed.len()), Ok(domain::MAX_ROUTES));
}

#[test]
fn nobody_is_followed_to_where_something_else_is() {
    let mut lab = Lab::direct();
    let wanted = [
        ("0.0.0.0/0", RouteState::NotRoutable),
        ("10.1.0.0/16", RouteState::Local),
        ("10.2.0.0/16", RouteState::Server),
        ("100.64.0.0/16", RouteState::NotRoutable),
        ("172.16.0.0/12", RouteState::InUse),
        ("172.16.5.0/24", RouteState::Taken),
        ("fd00::/64", RouteState::NotRoutable),
        ("169.254.0.0/16", RouteState::NotRoutable),
    ];
    let mut here = Surroundings::new(vec![lab.alice_at.ip()], None);
    here.networks = vec![prefix("10.1.2.0/24")];
    lab.alice.core.handle_network(lab.now, here.clone(), lab.alice_at.port());
    lab.alice.core.handle_servers(vec!["10.2.0.1".parse().unwrap()]);
    lab.tell_routes(&wanted.map(|(prefix, _)| (prefix, true)));
    assert_eq!(lab.route_states(Side::Alice), wanted.map(|(_, state)| state));
    assert_eq!(lab.routing(Side::Alice).followed, [prefix("172.16.0.0/12")]);
    for to in ["8.8.8.8", "10.1.2.3", "10.2.0.1", "100.64.99.9", "169.254.1.1"] {
        let packet = echo_request(&addresses(Side::Alice), to.parse().unwrap(), 1, 1, b"").unwrap();
        lab.pass(Side::Alice, &packet);
        assert!(lab.bob.received.is_empty(), "{to}");
    }
    // Where nothing is in the way any more, it is followed.
    here.networks.clear();
    lab.alice.core.handle_network(lab.now, here, lab.alice_at.port());
    assert_eq!(lab.route_states(Side::Alice)[1], RouteState::InUse);
}

#[test]
fn only_answers_from_behind_the_gateway_are_taken_and_only_for_oneself() {
    let mut lab = Lab::direct();
    lab.lead(&[(BEHIND, true)]);
    let (alice, bob) = (addresses(Side::Alice), addresses(Side::Bob));
    let (behind, elsewhere) = (of([192, 168, 50, 7].into()), of([192, 168, 51, 7].into()));
    let to = |address: &str| address.parse::<IpAddr>().unwrap();
    // Bob's core would not say these; somebody else's might.
    for (from, destination) in [
        (&elsewhere, alice.v4.unwrap().into()),
        (&behind, to("255.255.255.255")),
        (&behind, to("224.0.0.251")),
        (&behind, to("100.127.255.255")),
        (&behind, to("100.64.0.77")),
    ] {
        let packet = echo_request(from, destination, 1, 1, b"").unwrap();
        lab.pass(Side::Bob, &packet);
        assert!(lab.alice.received.is_empty(), "{destination}");
    }
    // Alice leads nowhere: what she says is from there is not taken.
    let spoofed = echo_request(&behind, bob.v4.unwrap().into(), 1, 1, b"").unwrap();
    lab.pass(Side::Alice, &spoofed);
    let beyond = echo_request(&alice, to("192.168.51.7"), 1, 1, b"").unwrap();
    lab.pass(Side::Alice, &beyond);
    assert!(lab.bob.received.is_empty());
    let broadcast = echo_request(&alice, to("255.255.255.255"), 1, 1, b"").unwrap();
    lab.pass(Side::Alice, &broadcast);
    assert_eq!(lab.bob.received.pop(), Some(broadcast));
}

#[test]
fn routes_stay_without_servers_and_after_a_restart_and_go_with_the_member() {
    let mut lab = Lab::direct();
    lab.relay_works = false;
    lab.lead(&[(BEHIND, true)]);
    lab.lose_servers();
    lab.restart_bob();
    lab.run(Duration::from_secs(12));
    let asked = echo_request(&addresses(Side::Alice), "192.168.50.7".parse().unwrap(), 1, 1, b"").unwrap();
    lab.pass(Side::Alice, &asked);
    assert_eq!(lab.bob.received.pop(), Some(asked.clone()));

    let saved = Saved::decode(&lab.bob.core.saved().encode()).unwrap();
    assert!(saved.without_places().agreements.is_empty(), "nobody agreed on the machine that takes a backup in");
    lab.tell(Side::Alice, ServerFrame::Change(lab.change(8, vec![Member { gone: true, ..lab.gateway(&[]) }])));
    assert!(lab.alice.core.routes().is_empty());
    assert_eq!(lab.routing(Side::Alice), Routing::default());
    lab.pass(Side::Alice, &asked);
    assert!(lab.bob.received.is_empty());
}

#[test]
fn a_network_that_is_of_another_kind_leads_nowhere() {
    let mut lab = Lab::direct();
    lab.lead(&[(BEHIND, true)]);
    for kind in [NetworkKind::Mesh, NetworkKind::Hub] {
        let mut change = lab.change(8 + kind as u64, vec![lab.gateway(&[(BEHIND, true)])]);
        change.terms.kind = kind;
        for side in [Side::Alice, Side::Bob] {
            lab.tell(side, ServerFrame::Change(change.clone()));
            assert!(lab.route_states(side).is_empty(), "{kind:?}");
        }
        let asked = echo_request(&addresses(Side::Alice), "192.168.50.7".parse().unwrap(), 1, 1, b"").unwrap();
        lab.pass(Side::Alice, &asked);
        assert!(lab.bob.received.is_empty());
    }
}

#[test]
fn a_tunnel_does_not_run_through_a_network_behind_a_member() {
    let mut lab = Lab::direct();
    lab.lead(&[(BEHIND, true)]);
    let inside = SocketAddr::new("192.168.50.1".parse().unwrap(), 40_002);
    let way = Endpoint { socket: SocketId::MAIN, address: inside };
    let bob = lab.bob.id;
    lab.alice.core.with(lab.now, bob, |peer, turn| peer.handle_punched(turn, way, Duration::ZERO));
    while let Some(output) = lab.alice.core.poll_output() {
        assert!(!matches!(output, Output::Send { to, .. } if to == inside));
    }
}

impl Lab {
    /// The server names where Bob leads to, as it says with or without his word.
    fn tell_routes(&mut self, routes: &[(&str, bool)]) {
        let revision = self.alice.core.view.networks()[&NETWORK].revision().0 + 1;
        let change = self.change(revision, vec![self.gateway(routes)]);
        for side in [Side::Alice, Side::Bob] {
            self.tell(side, ServerFrame::Change(change.clone()));
        }
    }

    /// The same, and Bob agrees.
    fn lead(&mut self, routes: &[(&str, bool)]) {
        self.tell_routes(routes);
        self.bob.core.agree(NETWORK, &[]).unwrap();
    }

    fn gateway(&self, routes: &[(&str, bool)]) -> Member {
        let routes = routes.iter().map(|(text, agreed)| Led { prefix: prefix(text), agreed: *agreed });
        Member { hub: true, routes: routes.collect(), ..member(key(Side::Bob).0, &key(Side::Bob).1) }
    }

    fn change(&self, revision: u64, members: Vec<Member>) -> NetworkChange {
        let members = members.into_iter().map(|member| Member { revision: Revision(revision), ..member }).collect();
        let terms = NetworkTerms { kind: NetworkKind::Gateway, ..NetworkTerms::default() };
        NetworkChange { terms, ..change(1, revision, members) }
    }

    fn pass(&mut self, from: Side, packet: &[u8]) {
        let now = self.now;
        self.node_mut(from).core.handle_packet(now, packet);
        self.run(Duration::from_secs(1));
    }

    fn route_states(&self, side: Side) -> Vec<RouteState> {
        self.node(side).core.routes().iter().map(|line: &RouteLine| line.state).collect()
    }

    /// What the adapter was told last.
    fn routing(&mut self, side: Side) -> Routing {
        self.node_mut(side).core.last_routing()
    }
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

/// Somebody with this address.
fn of(address: IpAddr) -> VirtualAddresses {
    match address {
        IpAddr::V4(v4) => VirtualAddresses { v4: Some(v4), v6: "fd00::99".parse().unwrap() },
        IpAddr::V6(v6) => VirtualAddresses { v4: None, v6 },
    }
}
