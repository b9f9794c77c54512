//! The routers of the lab are what they claim to be.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use crate::{
    access::Access,
    lab::{LAN_GATEWAY, Lab, SERVERS, SERVERS6},
    nat::Nat,
    site::Host,
};

#[test]
fn a_home_router_maps_alike_for_everybody_and_lets_in_only_who_was_asked() {
    let seen = Seen::through(Nat::Home);
    assert_eq!(seen.mappings(), 1, "{seen:?}");
    assert_eq!(seen.answered, [true, false, false]);
}

#[test]
fn a_full_cone_maps_alike_for_everybody_and_lets_in_everybody() {
    let seen = Seen::through(Nat::FullCone);
    assert_eq!(seen.mappings(), 1, "{seen:?}");
    assert_eq!(seen.answered, [true, true, true]);
}

#[test]
fn a_router_without_input_filter_moves_a_mapping_that_was_knocked_at() {
    let mut lab = Lab::new();
    let host = lab.host_behind(Nat::HomeWithoutInputFilter);
    let reflectors = reflectors(&lab);
    let [knocked, unknocked] = [true, false].map(|knock| {
        let socket = socket_of(&host);
        let before = mapped(&socket, &reflectors[0]);
        if knock {
            // The answer to the asked one comes after it, and so does what the socket sends then.
            reflectors[2].send_to(b"!", before).unwrap();
            reflectors[0].send_to(b"!", before).unwrap();
            assert_eq!(heard(&socket), reflectors[0].local_addr().unwrap());
        }
        mapped(&socket, &reflectors[2]) == before
    });
    assert!(!knocked && unknocked);
}

#[test]
fn a_router_may_draw_a_port_that_is_the_same_for_everybody() {
    let seen = Seen::through(Nat::HomeWithOtherPorts);
    assert_eq!(seen.mappings(), 1, "{seen:?}");
    assert_ne!(seen.ports[0].port(), seen.inside);
    assert_eq!(seen.answered, [true, false, false]);
}

#[test]
fn a_symmetric_router_maps_anew_for_each_destination() {
    let seen = Seen::through(Nat::Symmetric);
    assert_eq!(seen.mappings(), 3, "{seen:?}");
    assert_eq!(seen.answered, [true, false, false]);
}

#[test]
fn a_sequential_router_gives_each_destination_the_next_port() {
    for step in [1, 2] {
        let seen = Seen::through(Nat::Sequential { step });
        let [first, second, third] = [0, 1, 2].map(|nth| seen.ports[nth].port());
        assert_eq!([second - first, third - second], [step; 2], "{seen:?}");
        assert_eq!(seen.answered, [true, false, false]);
    }
}

#[test]
fn eight_machines_behind_a_sequential_router_take_its_ports_in_turn() {
    let mut lab = Lab::new();
    let mut site = lab.site(Nat::Sequential { step: 1 });
    let sockets: Vec<_> = (0..8).map(|_| socket_of(&lab.host(&mut site))).collect();
    let reflectors = reflectors(&lab);
    let first: Vec<_> = sockets.iter().map(|socket| mapped(socket, &reflectors[0]).port()).collect();
    assert!(first.is_sorted_by(|one, next| one + 1 == *next), "{first:?}");

    for socket in &sockets {
        socket.send_to(b"?", reflectors[1].local_addr().unwrap()).unwrap();
    }
    let mut second: Vec<_> = sockets.iter().map(|_| heard(&reflectors[1]).port()).collect();
    second.sort_unstable();
    assert_eq!(second, first.iter().map(|port| port + 8).collect::<Vec<_>>());
}

#[test]
fn other_peoples_flows_take_ports_of_a_sequential_router() {
    for rate in [0_u32, 50, 300] {
        let mut lab = Lab::new();
        let host = lab.host_behind(Access::through(Nat::Sequential { step: 1 }).busy_with(rate));
        let reflector = reflectors(&lab).remove(0);
        let next_port = || mapped(&socket_of(&host), &reflector).port();
        let (first, since) = (next_port(), Instant::now());
        assert!((0..3).all(|_| is_silent(&reflector)));
        let taken = f64::from(next_port() - first - 1);
        let expected = f64::from(rate) * since.elapsed().as_secs_f64();
        assert!((expected * 0.6..=expected * 1.5).contains(&taken), "{taken} and not {expected}");
    }
}

#[test]
fn a_pool_shows_one_socket_at_two_addresses() {
    let mut lab = Lab::new();
    let host = lab.host_behind(Nat::Pool);
    let reflectors = reflectors(&lab);
    let socket = socket_of(&host);
    let seen: Vec<_> = reflectors.iter().map(|reflector| mapped(&socket, reflector)).collect();
    for (reflector, at) in reflectors.iter().zip(&seen) {
        reflector.send_to(b"!", at).unwrap();
        assert_eq!(heard(&socket), reflector.local_addr().unwrap());
    }
    assert_ne!(seen[0].ip(), seen[1].ip());
}

#[test]
fn a_home_behind_a_carrier_has_the_mapping_of_the_harder_one() {
    for (carrier, mappings) in [(Nat::Home, 1), (Nat::FullCone, 1), (Nat::Symmetric, 3)] {
        let seen = Seen::through(Access::through(Nat::Home).behind(carrier));
        assert_eq!(seen.mappings(), mappings, "{seen:?}");
        assert_eq!(seen.answered, [true, false, false]);
    }
}

#[test]
fn homes_behind_one_carrier_share_its_address() {
    let mut lab = Lab::new();
    let mut carrier = lab.carrier(Nat::Sequential { step: 1 });
    let reflector = reflectors(&lab).remove(0);
    let [anna, bert] = [(), ()].map(|()| {
        let mut site = lab.site_behind(&mut carrier, Nat::Home);
        mapped(&socket_of(&lab.host(&mut site)), &reflector)
    });
    assert_eq!([anna.ip(), bert.ip()], [carrier.public(); 2]);
    assert_eq!(anna.port() + 1, bert.port());
}

#[test]
fn a_router_without_udp_lets_tcp_out_only() {
    let mut lab = Lab::new();
    let host = lab.host_behind(Nat::UdpBlocked);
    let reflector = reflectors(&lab).remove(0);
    socket_of(&host).send_to(b"?", reflector.local_addr().unwrap()).unwrap();
    assert!(connects(&lab, &host, 0));
    assert!(is_silent(&reflector));
}

#[test]
fn a_router_for_the_web_lets_out_tcp_to_port_443_only() {
    let mut lab = Lab::new();
    let host = lab.host_behind(Nat::HttpsOnly);
    let reflector = lab.servers().enter(|| patient(UdpSocket::bind((SERVERS[0], 443)).unwrap()));
    socket_of(&host).send_to(b"?", reflector.local_addr().unwrap()).unwrap();
    assert!(connects(&lab, &host, 443));
    assert!(!connects(&lab, &host, 12_975));
    assert!(is_silent(&reflector));
}

#[test]
fn a_firewall_without_nat_shows_the_address_and_lets_in_only_who_was_asked() {
    let mut lab = Lab::new();
    let host = lab.host_behind(Access::through(Nat::Symmetric).with_ipv6());
    let socket = socket6_of(&host);
    let [asked, other] = lab.servers().enter(|| SERVERS6.map(|at| patient(UdpSocket::bind((at, 0)).unwrap())));
    assert_eq!(mapped(&socket, &asked), socket.local_addr().unwrap());
    other.send_to(b"!", socket.local_addr().unwrap()).unwrap();
    asked.send_to(b"!", socket.local_addr().unwrap()).unwrap();
    assert_eq!(heard(&socket), asked.local_addr().unwrap());
    assert!(is_silent(&socket));

    let [first, second] = [0, 1].map(|nth| mapped(&socket_of(&host), &reflectors(&lab)[nth]));
    assert_ne!(first, second, "IPv4 is translated beside it");
}

#[test]
fn two_firewalls_open_to_each_other() {
    let mut lab = Lab::new();
    let [anna, bert] = [(), ()].map(|()| socket6_of(&lab.host_behind(Access::through(Nat::Symmetric).with_ipv6())));
    anna.send_to(b"opener", bert.local_addr().unwrap()).unwrap();
    assert!(is_silent(&bert));
    assert_eq!(mapped(&bert, &anna), bert.local_addr().unwrap());
    assert_eq!(mapped(&anna, &bert), anna.local_addr().unwrap());
}

#[test]
fn machines_reach_each_other_through_a_router_with_hairpin_only() {
    for (nat, hairpin) in [(Nat::FullConeWithHairpin, true), (Nat::FullCone, false), (Nat::Home, false)] {
        let mut lab = Lab::new();
        let mut site = lab.site(nat);
        let [anna, bert] = [(), ()].map(|()| socket_of(&lab.host(&mut site)));
        let reflector = reflectors(&lab).remove(0);
        let [anna_at, bert_at] = [mapped(&anna, &reflector), mapped(&bert, &reflector)];
        anna.send_to(b"?", bert_at).unwrap();
        if hairpin {
            assert_eq!(heard(&bert), anna_at, "from outside");
            bert.send_to(b"!", anna_at).unwrap();
            assert_eq!(heard(&anna), bert_at);
        } else {
            assert!(is_silent(&bert));
        }
    }
}

#[test]
fn homes_behind_a_carrier_with_hairpin_reach_each_other_through_it() {
    let mut lab = Lab::new();
    let mut carrier = lab.carrier(Nat::FullConeWithHairpin);
    let [anna, bert] = [(), ()].map(|()| {
        let mut site = lab.site_behind(&mut carrier, Nat::Home);
        socket_of(&lab.host(&mut site))
    });
    let reflector = reflectors(&lab).remove(0);
    let [anna_at, bert_at] = [mapped(&anna, &reflector), mapped(&bert, &reflector)];
    anna.send_to(b"opener", bert_at).unwrap();
    bert.send_to(b"opener", anna_at).unwrap();
    assert_eq!(heard(&anna), bert_at);
    anna.send_to(b"?", bert_at).unwrap();
    assert_eq!(heard(&bert), anna_at);
}

#[test]
fn a_reboot_ends_every_mapping_and_moves_those_that_are_drawn() {
    for (nat, moves) in [
        (Nat::Home, false),
        (Nat::HomeWithOtherPorts, true),
        (Nat::Symmetric, true),
        // The first packet after the reboot comes from outside, and takes the port.
        (Nat::HomeWithoutInputFilter, true),
    ] {
        let mut lab = Lab::new();
        let host = lab.host_behind(nat);
        let (socket, reflector) = (socket_of(&host), reflectors(&lab).remove(0));
        let before = mapped(&socket, &reflector);
        host.router().reboot();
        reflector.send_to(b"!", before).unwrap();
        assert!(is_silent(&socket), "{nat:?}");

        let after = mapped(&socket, &reflector);
        assert_eq!(after != before, moves, "{nat:?}: {before} and {after}");
        reflector.send_to(b"!", after).unwrap();
        assert_eq!(heard(&socket), reflector.local_addr().unwrap());
    }
}

#[test]
fn a_router_maps_a_port_on_request_and_lets_in_everybody_by_it() {
    let mut lab = Lab::new();
    for request in [nat_pmp_request, pcp_request] {
        let mut site = lab.site(Access::through(Nat::Symmetric).with_port_mapping());
        let host = lab.host(&mut site);
        let (socket, stranger) = (socket_of(&host), reflectors(&lab).remove(0));
        let port = external_port(&asked_of_the_router(&host, &request(socket.local_addr().unwrap())));

        stranger.send_to(b"?", (site.public(), port)).unwrap();
        assert_eq!(heard(&socket), stranger.local_addr().unwrap());
        assert_eq!(mapped(&socket, &stranger), SocketAddr::from((site.public(), port)), "answers leave by it");
    }
}

#[test]
fn who_was_opened_to_knocks_at_a_mapped_port_as_somebody_else() {
    let mut lab = Lab::new();
    for (opened, stays) in [(false, true), (true, false)] {
        let mut site = lab.site(Access::through(Nat::Symmetric).with_port_mapping());
        let host = lab.host(&mut site);
        let (socket, peer) = (socket_of(&host), reflectors(&lab).remove(0));
        let port = external_port(&asked_of_the_router(&host, &nat_pmp_request(socket.local_addr().unwrap())));
        if opened {
            assert_ne!(mapped(&socket, &peer).port(), port);
        }
        peer.send_to(b"?", (site.public(), port)).unwrap();
        let seen = heard(&socket);
        assert_eq!(seen == peer.local_addr().unwrap(), stays, "{seen}");
        // The flow of the opener has that name already. Answers to the other one find their way.
        socket.send_to(b"!", seen).unwrap();
        assert_eq!(heard(&peer), SocketAddr::from((site.public(), port)));
    }
}

#[test]
fn a_router_with_upnp_answers_who_looks_for_it() {
    let mut lab = Lab::new();
    let host = lab.host_behind(Access::through(Nat::Home).with_port_mapping());
    let socket = socket_of(&host);
    let search = "M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\n\
                  ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n";
    socket.send_to(search.as_bytes(), ("239.255.255.250", 1900)).unwrap();
    let mut answer = [0; 1500];
    let (length, from) = socket.recv_from(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..length]);
    assert_eq!(from.ip(), LAN_GATEWAY);
    assert!(answer.contains(&format!("LOCATION: http://{LAN_GATEWAY}:")), "{answer}");
}

#[test]
fn an_opener_passes_its_own_routers_and_dies_before_the_other() {
    let home = Access::through(Nat::Home);
    for (access, routers) in [(home, 3), (home.behind(Nat::Home), 4), (home.behind(Nat::Symmetric), 4)] {
        let mut lab = Lab::new();
        let host = lab.host_behind(access);
        let reflector = reflectors(&lab).remove(0);
        let socket = socket_of(&host);
        for ttl in [routers, routers + 1] {
            socket.set_ttl(ttl).unwrap();
            socket.send_to(&ttl.to_be_bytes(), reflector.local_addr().unwrap()).unwrap();
        }
        let mut packet = [0; 4];
        reflector.recv_from(&mut packet).unwrap();
        assert_eq!(u32::from_be_bytes(packet), routers + 1);
    }
}

#[test]
fn two_machines_of_a_lan_reach_each_other_and_share_an_address() {
    let mut lab = Lab::new();
    let mut site = lab.site(Nat::Home);
    let (anna, bert) = (lab.host(&mut site), lab.host(&mut site));
    let (from, to) = (socket_of(&anna), socket_of(&bert));
    from.send_to(b"?", (bert.address, to.local_addr().unwrap().port())).unwrap();
    assert_eq!(heard(&to).ip(), anna.address);

    let reflector = reflectors(&lab).remove(0);
    for socket in [&from, &to] {
        assert_eq!(mapped(socket, &reflector).ip(), site.public());
    }
}

#[test]
fn a_pulled_cable_carries_nothing_until_it_is_back() {
    let mut lab = Lab::new();
    let host = lab.host_behind(Nat::Home);
    let reflector = reflectors(&lab).remove(0);
    let socket = socket_of(&host);
    host.unplug();
    // The kernel may refuse at once, or send into the void.
    let _ = socket.send_to(b"?", reflector.local_addr().unwrap());
    assert!(is_silent(&reflector));
    host.plug();
    let again = (0..20).any(|_| {
        let _ = socket.send_to(b"?", reflector.local_addr().unwrap());
        !is_silent(&reflector)
    });
    assert!(again);
}

/// What a socket behind a router showed to three reflectors, and whose packets came back to it after it had asked the first.
#[derive(Debug)]
struct Seen {
    /// The port of the socket itself.
    inside: u16,
    ports: Vec<SocketAddr>,
    answered: [bool; 3],
}

impl Seen {
    fn through(access: impl Into<Access>) -> Self {
        let mut lab = Lab::new();
        let host = lab.host_behind(access);
        let reflectors = reflectors(&lab);

        let fresh = socket_of(&host);
        let mapped_to = mapped(&fresh, &reflectors[0]);
        let answered = std::array::from_fn(|nth| {
            // Nothing overtakes in the lab: what was not here before an answer of the asked one was filtered out.
            reflectors[nth].send_to(&[1], mapped_to).unwrap();
            reflectors[0].send_to(&[2], mapped_to).unwrap();
            let mut packet = [0];
            fresh.recv_from(&mut packet).unwrap();
            let passed = packet == [1];
            if passed {
                fresh.recv_from(&mut packet).unwrap();
            }
            passed
        });

        let asking = socket_of(&host);
        let ports = reflectors.iter().map(|reflector| mapped(&asking, reflector)).collect();
        Self { inside: asking.local_addr().unwrap().port(), ports, answered }
    }

    fn mappings(&self) -> usize {
        let mut distinct = self.ports.clone();
        distinct.sort();
        distinct.dedup();
        distinct.len()
    }
}

/// Two ports of the first address of the servers, and one of the second.
fn reflectors(lab: &Lab) -> Vec<UdpSocket> {
    lab.servers().enter(|| {
        let bind = |address| patient(UdpSocket::bind((address, 0)).unwrap());
        vec![bind(SERVERS[0]), bind(SERVERS[0]), bind(SERVERS[1])]
    })
}

fn socket_of(host: &Host) -> UdpSocket {
    host.namespace.enter(|| patient(UdpSocket::bind((host.address, 0)).unwrap()))
}

fn patient(socket: UdpSocket) -> UdpSocket {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn socket6_of(host: &Host) -> UdpSocket {
    let address = host.address6.expect("the site has IPv6");
    host.namespace.enter(|| patient(UdpSocket::bind((address, 0)).unwrap()))
}

/// As whom `socket` arrives at `reflector`.
#[track_caller]
fn mapped(socket: &UdpSocket, reflector: &UdpSocket) -> SocketAddr {
    socket.send_to(b"?", reflector.local_addr().unwrap()).unwrap();
    heard(reflector)
}

/// What the router answers to a request for a port mapping.
fn asked_of_the_router(host: &Host, request: &[u8]) -> Vec<u8> {
    let asking = socket_of(host);
    asking.send_to(request, (LAN_GATEWAY, 5351)).unwrap();
    let mut answer = vec![0; 128];
    let (length, _) = asking.recv_from(&mut answer).unwrap();
    answer.truncate(length);
    answer
}

/// "Map any external port to UDP port `inside` of mine for an hour" (RFC 6886, section 3.3).
fn nat_pmp_request(inside: SocketAddr) -> Vec<u8> {
    [&[0, 1, 0, 0][..], &inside.port().to_be_bytes(), &[0, 0], &3600_u32.to_be_bytes()].concat()
}

/// The same in PCP (RFC 6887, sections 7.1 and 11.1).
fn pcp_request(inside: SocketAddr) -> Vec<u8> {
    let IpAddr::V4(address) = inside.ip() else { panic!("the lab's LANs are IPv4") };
    let (nonce, udp, any) = ([7; 12], [17, 0, 0, 0], Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().octets());
    let head = [&[2, 1, 0, 0][..], &3600_u32.to_be_bytes(), &address.to_ipv6_mapped().octets()].concat();
    [&head[..], &nonce, &udp, &inside.port().to_be_bytes(), &[0, 0], &any].concat()
}

/// The external port in an answer to one of these requests.
#[track_caller]
fn external_port(answer: &[u8]) -> u16 {
    let at = match answer {
        [0, 129, 0, 0, ..] if answer.len() == 16 => 10,
        [2, 129, _, 0, ..] if answer.len() == 60 => 42,
        _ => panic!("refused: {answer:?}"),
    };
    u16::from_be_bytes([answer[at], answer[at + 1]])
}

/// Whether `host` gets a connection to `port` of the servers.
fn connects(lab: &Lab, host: &Host, port: u16) -> bool {
    let listener = lab.servers().enter(|| TcpListener::bind((SERVERS[0], port)).unwrap());
    let at = listener.local_addr().unwrap();
    // A lost first segment is sent again after a second.
    host.namespace.enter(|| TcpStream::connect_timeout(&at, Duration::from_secs(3)).is_ok())
}

/// Who sent the next packet.
#[track_caller]
fn heard(socket: &UdpSocket) -> SocketAddr {
    socket.recv_from(&mut [0; 16]).expect("a packet arrives").1
}

/// Whether nothing arrives.
fn is_silent(socket: &UdpSocket) -> bool {
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    let heard = socket.recv_from(&mut [0; 16]);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    heard.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// Many times the way through the lab.
const SILENCE: Duration = Duration::from_millis(400);

const PATIENCE: Duration = Duration::from_secs(60);
