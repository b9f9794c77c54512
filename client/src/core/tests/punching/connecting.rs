//! Punches over TCP, and what those who are not the peer can do to one.

use domain::Mapping;

use super::*;
use crate::sockets::{Call, Speech};

#[test]
fn connections_that_are_mapped_alike_are_reported_beside_what_udp_shows() {
    let mut lab = Sole::new();
    lab.measure();
    assert_eq!((lab.profile().tcp, lab.profile().udp), (Some(Mapping::EndpointIndependent), true));
    assert!(!lab.open.contains(&SocketId::TCP_TEST), "closed after the test");
    assert!(lab.calls.iter().all(|(_, peer, _)| REFLECTORS.contains(&peer.to_string().as_str())));
}

#[test]
fn a_client_without_udp_reports_once_it_knows_what_connections_do() {
    let mut lab = Sole::new();
    lab.run(Duration::from_secs(3));
    assert!(!lab.said.iter().any(|frame| matches!(frame, ClientFrame::Nat(_))), "{:?}", lab.said);
    lab.block_udp();
    lab.measure();
    let profile = lab.profile();
    assert_eq!((profile.udp, profile.tcp), (false, Some(Mapping::EndpointIndependent)));

    let mut mute = Sole::new();
    mute.run(Duration::from_secs(5));
    assert_eq!((mute.profile().udp, mute.profile().tcp), (false, None));
}

#[test]
fn the_peer_is_connected_to_and_its_connection_stays_when_all_else_is_closed() {
    let mut lab = Sole::new();
    let port = lab.dial(7, &[PEER]);
    let peer: SocketAddr = PEER.parse().unwrap();
    let tries = || [Some(3), None].map(|ttl| (port, peer, Call::Connect { ttl, speech: Speech::Frames }));
    lab.run(Duration::from_millis(200));
    assert!(tries().iter().all(|call| lab.calls.contains(call)), "{:?}", lab.calls);

    lab.core.handle_stream(lab.now, port, peer);
    lab.answer_punch(7, port);
    lab.run(Duration::from_secs(30));
    assert_eq!(lab.fresh(), BTreeSet::from([port]));
    assert!(lab.calls.contains(&(port, peer, Call::Keep)));

    lab.core.handle_stream_lost(lab.now, port, peer);
    lab.drain();
    assert!(lab.fresh().is_empty(), "{:?}", lab.fresh());
}

#[test]
fn who_does_not_know_the_key_is_cut_off_at_the_first_word() {
    let seal = |key| PunchSeal::new(&[key; 32], member(2, &[2; 32]).client, member(1, &[1; 32]).client);
    let probe = |number| PunchPacket { kind: PunchKind::Probe, attempt: 1, number, nonce: 1 };
    let tunnel = [&[1, 0, 0, 0][..], &[0; 144]].concat();
    let words = [
        seal(9).seal(&probe(7)).to_vec(),
        seal(8).seal(&probe(6)).to_vec(),
        tunnel,
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0; 2_000],
    ];
    for word in words {
        let mut lab = Sole::new();
        let port = lab.dial(7, &[PEER]);
        let stranger: SocketAddr = "198.51.100.66:6666".parse().unwrap();
        lab.core.handle_stream(lab.now, port, stranger);
        assert_eq!(lab.punch_packets(), [], "a stranger is not spoken to");
        lab.core.handle_datagram(lab.now, port, stranger, &word);
        lab.drain();
        assert!(lab.calls.contains(&(port, stranger, Call::Disconnect)), "{word:?}");
        assert!(!lab.sent.iter().any(|(_, to)| *to == stranger));
    }
}

#[test]
fn who_says_nothing_is_cut_off_after_three_seconds() {
    let mut lab = Sole::new();
    let port = lab.dial(7, &[]);
    let stranger = |n: u16| SocketAddr::from(([198, 51, 100, 66], n));
    for n in 1..=100 {
        lab.core.handle_stream(lab.now, port, stranger(n));
    }
    lab.drain();
    let closed = |lab: &Sole| lab.calls.iter().filter(|(.., call)| *call == Call::Disconnect).count();
    assert_eq!(closed(&lab), 96);
    lab.run(Duration::from_secs(4));
    assert_eq!(closed(&lab), 100);
}

#[test]
fn an_order_connects_to_no_private_network_and_not_to_thousands() {
    let mut lab = Sole::new();
    lab.block_udp();
    lab.measure();
    lab.calls.clear();
    let many: Vec<String> = (1..1_000).map(|port| format!("198.51.100.9:{port}")).collect();
    let inside = ["10.1.2.3:22", "127.0.0.1:22", "169.254.1.1:80", "224.0.0.1:80"];
    let all: Vec<&str> = inside.into_iter().chain(many.iter().map(String::as_str)).collect();
    let port = lab.dial(7, &all);
    for _ in 0..200 {
        lab.run(Duration::from_millis(50));
        for (of, peer, call) in std::mem::take(&mut lab.calls) {
            if of == port && matches!(call, Call::Connect { speech: Speech::Frames, .. }) {
                assert!(peer.ip().to_string() == "198.51.100.9" && peer.port() <= 4, "{peer}");
                lab.core.handle_stream_lost(lab.now, port, peer);
            }
        }
    }
    lab.run(Duration::from_secs(30));
    assert!(lab.fresh().is_empty());
}

#[test]
fn preparations_over_tcp_are_bounded_too() {
    let mut lab = Sole::new();
    for number in 0..5_000 {
        lab.prepare_for(number, 0, true);
        assert!(lab.fresh().len() <= 32, "{}", lab.fresh().len());
    }
    lab.run(Duration::from_secs(61));
    assert!(lab.fresh().is_empty());
}

impl Sole {
    /// PREPARE and GO over TCP. Returns the port that punches.
    fn dial(&mut self, number: u64, candidates: &[&str]) -> SocketId {
        self.prepare_for(number, 0, true);
        let port = self.fresh().into_iter().find(|socket| socket.is_tcp()).unwrap();
        let order = PunchOrder { strategy: Strategy::Tcp, ..order(number, candidates, 0) };
        self.core.handle_frame(self.now, ServerFrame::Go(order));
        self.drain();
        port
    }
}
