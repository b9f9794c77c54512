//! The routers of the lab are what they claim to be.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use crate::{
    lab::{Host, Lab, SERVERS},
    nat::Nat,
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
        socket.send_to(b"?", reflectors[0].local_addr().unwrap()).unwrap();
        let mapped = heard(&reflectors[0]);
        if knock {
            // The answer to the asked one comes after it, and so does what the socket sends then.
            reflectors[2].send_to(b"!", mapped).unwrap();
            reflectors[0].send_to(b"!", mapped).unwrap();
            assert_eq!(heard(&socket), reflectors[0].local_addr().unwrap());
        }
        socket.send_to(b"?", reflectors[2].local_addr().unwrap()).unwrap();
        heard(&reflectors[2]) == mapped
    });
    assert!(!knocked && unknocked);
}

#[test]
fn a_symmetric_router_maps_anew_for_each_destination() {
    let seen = Seen::through(Nat::Symmetric);
    assert_eq!(seen.mappings(), 3, "{seen:?}");
    assert_eq!(seen.answered, [true, false, false]);
}

#[test]
fn a_router_without_udp_lets_tcp_out_only() {
    let mut lab = Lab::new();
    let host = lab.host_behind(Nat::UdpBlocked);
    let reflector = reflectors(&lab).remove(0);
    socket_of(&host).send_to(b"?", reflector.local_addr().unwrap()).unwrap();

    let listener = lab.servers().enter(|| TcpListener::bind((SERVERS[0], 0)).unwrap());
    let at = listener.local_addr().unwrap();
    host.namespace.enter(|| TcpStream::connect_timeout(&at, PATIENCE).unwrap());
    assert!(is_silent(&reflector));
}

#[test]
fn an_opener_passes_its_own_router_and_dies_before_the_other() {
    let mut lab = Lab::new();
    let host = lab.host_behind(Nat::Home);
    let reflector = reflectors(&lab).remove(0);
    let socket = socket_of(&host);
    for ttl in [3, 4] {
        socket.set_ttl(ttl).unwrap();
        socket.send_to(&ttl.to_be_bytes(), reflector.local_addr().unwrap()).unwrap();
    }
    let mut packet = [0; 4];
    reflector.recv_from(&mut packet).unwrap();
    assert_eq!(u32::from_be_bytes(packet), 4, "three routers are between them");
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
        socket.send_to(b"?", reflector.local_addr().unwrap()).unwrap();
        assert_eq!(heard(&reflector).ip(), site.public());
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
    ports: Vec<SocketAddr>,
    answered: [bool; 3],
}

impl Seen {
    fn through(nat: Nat) -> Self {
        let mut lab = Lab::new();
        let host = lab.host_behind(nat);
        let reflectors = reflectors(&lab);

        let fresh = socket_of(&host);
        fresh.send_to(b"?", reflectors[0].local_addr().unwrap()).unwrap();
        let mapped = heard(&reflectors[0]);
        let answered = std::array::from_fn(|nth| {
            // Nothing overtakes in the lab: what was not here before an answer of the asked one was filtered out.
            reflectors[nth].send_to(&[1], mapped).unwrap();
            reflectors[0].send_to(&[2], mapped).unwrap();
            let mut packet = [0];
            fresh.recv_from(&mut packet).unwrap();
            let passed = packet == [1];
            if passed {
                fresh.recv_from(&mut packet).unwrap();
            }
            passed
        });

        let asking = socket_of(&host);
        let ports = reflectors
            .iter()
            .map(|reflector| {
                asking.send_to(b"?", reflector.local_addr().unwrap()).unwrap();
                heard(reflector)
            })
            .collect();
        Self { ports, answered }
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

/// Who sent the next packet.
fn heard(socket: &UdpSocket) -> SocketAddr {
    socket.recv_from(&mut [0; 16]).expect("a packet arrives").1
}

/// Whether nothing arrives for many times the way through the lab.
fn is_silent(socket: &UdpSocket) -> bool {
    socket.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
    let heard = socket.recv_from(&mut [0; 16]);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    heard.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

const PATIENCE: Duration = Duration::from_secs(20);
