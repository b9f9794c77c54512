//! Fresh sockets, measurements, and what a hostile server can make of them.

mod asking;
mod connecting;

use std::collections::BTreeSet;

use domain::{NatProfile, PunchKind, PunchPacket, PunchReady, Reflected, SessionTag, Spray, TransactionId};
use traversal::discover::SILENCES_S;
use wire::{control::NatReport, punch::PunchSeal};

use super::*;
use crate::{
    network::Router,
    portmap::{Granted, Protocol, Wish},
};

#[test]
fn a_way_over_a_fresh_socket_keeps_it_open_and_closes_all_others() {
    let mut lab = Sole::new();
    lab.prepare(7, 8);
    let open = lab.fresh();
    assert_eq!(open.len(), 8);
    let used = *open.iter().nth(3).unwrap();
    lab.go(7, &[PEER], 8);
    lab.answer_punch(7, used);
    lab.run(Duration::from_secs(30));
    assert_eq!(lab.fresh(), BTreeSet::from([used]));

    lab.core.handle_frame(lab.now, ServerFrame::PeerDown(lab.peer));
    lab.run(Duration::from_secs(300));
    assert!(lab.fresh().is_empty(), "{:?}", lab.fresh());
}

#[test]
fn a_punch_that_finds_nothing_leaves_no_socket_open() {
    let mut lab = Sole::new();
    lab.prepare(7, 256);
    assert_eq!(lab.fresh().len(), 256);
    lab.go(7, &[PEER], 256);
    lab.run(Duration::from_secs(60));
    assert!(lab.fresh().is_empty());
    let reports = lab.said.iter().filter(|frame| matches!(frame, ClientFrame::PunchReport(_)));
    assert_eq!(reports.count(), 1);
}

#[test]
fn all_sockets_are_open_before_the_first_question_leaves() {
    let mut lab = Sole::new();
    lab.measure();
    lab.log.clear();
    lab.prepare(7, 64);
    let first = lab.log.iter().position(|word| *word == "send").unwrap();
    assert_eq!(lab.log[..first].iter().filter(|word| **word == "open").count(), 64);
}

#[test]
fn preparations_without_end_are_bounded_in_sockets_and_punches() {
    let mut lab = Sole::new();
    for number in 0..5_000 {
        lab.prepare(number, 256);
        assert!(lab.fresh().len() <= 512, "{}", lab.fresh().len());
    }
    assert!(lab.said.len() <= 10, "{}", lab.said.len());
    lab.run(Duration::from_secs(61));
    assert!(lab.fresh().is_empty());
    lab.said.clear();
    for number in 10_000..15_000 {
        lab.prepare(number, 0);
    }
    assert!(lab.said.len() <= 64, "{}", lab.said.len());
}

#[test]
fn an_order_or_preparation_that_comes_again_does_nothing() {
    let mut lab = Sole::new();
    lab.prepare(7, 2);
    let open = lab.fresh();
    lab.prepare(7, 2);
    assert_eq!(lab.fresh(), open, "the punch that runs is not disturbed");
    lab.go(7, &[PEER], 2);
    lab.run(Duration::from_secs(60));
    lab.sent.clear();
    lab.go(7, &[PEER], 2);
    lab.prepare(7, 2);
    lab.go(7, &[PEER], 2);
    lab.run(Duration::from_secs(60));
    assert!(lab.sent.is_empty() && lab.fresh().is_empty());
}

#[test]
fn a_preparation_that_comes_again_after_the_measurement_measures_from_fresh_sockets() {
    let mut lab = Sole::new();
    lab.prepare(7, 6);
    let first = lab.fresh();
    lab.run(Duration::from_secs(2));
    lab.questions.clear();
    lab.prepare(7, 6);
    let second = lab.fresh();
    assert!(second.len() == 6 && second.is_disjoint(&first));
    assert!(lab.questions.iter().any(|(socket, ..)| second.contains(socket)));
    lab.run(Duration::from_secs(2));
    let ready = lab.said.iter().filter(|frame| matches!(frame, ClientFrame::PunchReady(_)));
    assert_eq!(ready.count(), 2);
    lab.go(7, &[PEER], 6);
    lab.prepare(7, 6);
    assert_eq!(lab.fresh(), second, "a punch that began is not disturbed");
}

#[test]
fn an_order_that_names_thousands_of_addresses_is_cut() {
    let mut lab = Sole::new();
    lab.prepare(7, 0);
    let many: Vec<String> = (0..10_000).map(|n| format!("198.51.{}.{}:4000", n / 250, n % 250 + 1)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    lab.go(7, &many, 0);
    lab.run(Duration::from_secs(60));
    let targets: BTreeSet<SocketAddr> = lab.sent.iter().map(|(_, to)| *to).collect();
    assert!(targets.len() <= 8, "{}", targets.len());
    assert!(lab.sent.len() <= 200, "{}", lab.sent.len());
}

#[test]
fn packets_never_go_to_many_to_this_machine_or_into_a_strangers_network() {
    let mut lab = Sole::new();
    lab.measure();
    for (number, to) in (1..).zip([
        "224.0.0.251:5353",
        "239.255.255.250:1900",
        "255.255.255.255:4000",
        "0.0.0.0:4000",
        "127.0.0.1:4000",
        "169.254.1.1:4000",
        "192.168.1.1:4000",
        "10.0.0.1:4000",
        "198.51.100.7:0",
        "[::1]:4000",
        "[ff02::1]:4000",
        "[fe80::1]:4000",
        "[::ffff:127.0.0.1]:4000",
    ]) {
        lab.prepare(number, 0);
        lab.sent.clear();
        lab.go(number, &[to], 0);
        lab.run(Duration::from_secs(20));
        assert!(lab.sent.is_empty(), "{to}");
    }
}

#[test]
fn a_spray_of_a_hostile_server_is_bounded() {
    let mut lab = Sole::new();
    lab.prepare(7, 0);
    let spray = Spray::Scatter { low: 1, high: 65_535, step: 1, seed: 1, skip: 0, count: 65_535 };
    let order = PunchOrder { spray: Some(spray), strategy: Strategy::Birthday, ..order(7, &[PEER], 0) };
    lab.core.handle_frame(lab.now, ServerFrame::Go(order));
    lab.run(Duration::from_secs(300));
    assert!(lab.sent.len() <= 1_500, "{}", lab.sent.len());
}

#[test]
fn ready_names_the_lan_and_a_mapping_that_counts() {
    let mut lab = Sole::new();
    lab.measure();
    let wish = lab.wishes.pop().unwrap();
    for (external, counts) in [("203.0.113.1:4100", true), ("10.1.1.1:4100", false)] {
        let external = external.parse().unwrap();
        let granted = Granted { external, lifetime: Duration::from_secs(7_200), by: Protocol::Pcp };
        lab.core.handle_mapped(lab.now, &wish, Some(granted));
        lab.said.clear();
        lab.prepare(if counts { 1 } else { 2 }, 0);
        lab.run(Duration::from_secs(3));
        let ready = lab.said.iter().find_map(|frame| {
            let ClientFrame::PunchReady(ready) = frame else { return None };
            Some(ready.clone())
        });
        let PunchReady { mapped, lan, local, .. } = ready.unwrap();
        assert_eq!(mapped, counts.then_some(external.into()));
        assert_eq!((lan, local), (Some(77), vec!["203.0.113.1:40001".parse().unwrap()]));
        assert_eq!(lab.core.nat().port_mapping.unwrap().usable, counts);
    }
}

#[test]
fn the_server_hears_of_a_mapping_when_it_comes() {
    let mut lab = Sole::new();
    lab.measure();
    let wish = lab.wishes.pop().unwrap();
    assert!(!lab.profile().port_mapping);
    let granted = Granted {
        external: "203.0.113.1:4100".parse().unwrap(),
        lifetime: Duration::from_secs(7_200),
        by: Protocol::Upnp,
    };
    lab.core.handle_mapped(lab.now, &wish, Some(granted));
    lab.drain();
    assert!(lab.profile().port_mapping);
}

#[test]
fn another_network_is_another_place() {
    let mut lab = Sole::new();
    lab.measure();
    let before = lab.profile().place;
    let router = Router { address: [192, 168, 7, 1].into(), lan: Some(78) };
    let there = Surroundings::new(vec!["203.0.113.1".parse().unwrap()], Some(router));
    lab.core.handle_network(lab.now, there, 40_001);
    lab.drain();
    lab.measure();
    assert_ne!(lab.profile().place, before);
}

#[test]
fn a_day_of_measurements_leaves_no_socket_open_and_the_lifetime_known() {
    let mut lab = Sole::new();
    lab.measure();
    // Reflectors that answer at once show nothing about silence, so the test ends without a result.
    for _ in 0..300 {
        lab.run(Duration::from_secs(1));
        lab.reflect();
    }
    assert!(lab.open.is_empty(), "{:?}", lab.open);
    assert_eq!(lab.core.nat().lifetime_s, None);

    lab.patient = true;
    for _ in 0..110_000 {
        lab.run(Duration::from_secs(1));
        lab.reflect();
        if lab.core.nat().lifetime_s.is_some() {
            break;
        }
    }
    assert_eq!(lab.core.nat().lifetime_s, Some(125));
    assert!(lab.open.is_empty(), "{:?}", lab.open);
}

/// One core, whose sockets and reflectors are played here.
pub(super) struct Sole {
    pub(super) core: Core,
    pub(super) now: Instant,
    pub(super) peer: ClientId,
    open: BTreeSet<SocketId>,
    /// Punch packets.
    pub(super) sent: Vec<(SocketId, SocketAddr)>,
    said: Vec<ClientFrame>,
    pub(super) questions: Vec<(SocketId, SocketAddr, Vec<u8>, Instant)>,
    /// Whether reflectors wait as long as they are asked to.
    patient: bool,
    /// Reflectors that do not answer over UDP.
    silent: BTreeSet<SocketAddr>,
    wishes: Vec<Wish>,
    calls: Vec<(SocketId, SocketAddr, crate::sockets::Call)>,
    log: Vec<&'static str>,
}

impl Sole {
    pub(super) fn new() -> Self {
        Self::at(vec![endpoint(Side::Alice).ip()], &REFLECTORS)
    }

    /// With these addresses of its own, and these reflectors.
    fn at(addresses: Vec<IpAddr>, reflectors: &[&str]) -> Self {
        let now = Instant::now();
        let mut node = Node::new(now, Side::Alice, PathPolicy::Any);
        let choices = Choices { path: PathPolicy::Any, port_mapping: true, loopback: false };
        let (number, private) = key(Side::Alice);
        node.core = Core::new(now, node.id, private, choices, [number; 32]);
        let router = Router { address: [192, 168, 1, 1].into(), lan: Some(77) };
        let here = Surroundings::new(addresses, Some(router));
        node.core.handle_network(now, here, endpoint(Side::Alice).port());
        node.log_in(now);
        let welcome = Welcome {
            client: node.id,
            nick: None,
            token: None,
            now: domain::UnixMillis(0),
            keepalive_ms: 60_000,
            tag: SessionTag([7; 16]),
            reflectors: reflectors.iter().map(|reflector| reflector.parse().unwrap()).collect(),
            prefix4: 10,
            prefix6: 48,
            relays: Vec::new(),
            membership_keys: Vec::new(),
        };
        node.core.handle_connected(now, &welcome);
        let peer = member(2, &[2; 32]).client;
        let mut lab = Self {
            core: node.core,
            now,
            peer,
            open: BTreeSet::new(),
            sent: Vec::new(),
            said: Vec::new(),
            questions: Vec::new(),
            patient: false,
            silent: BTreeSet::new(),
            wishes: Vec::new(),
            calls: Vec::new(),
            log: Vec::new(),
        };
        lab.drain();
        lab
    }

    /// No reflector answers over UDP.
    fn block_udp(&mut self) {
        self.silent = REFLECTORS.iter().map(|reflector| reflector.parse().unwrap()).collect();
    }

    /// The sockets that are open for punches.
    fn fresh(&self) -> BTreeSet<SocketId> {
        self.open.iter().copied().filter(|socket| socket.is_punching()).collect()
    }

    pub(super) fn prepare(&mut self, number: u64, sockets: u16) {
        self.prepare_for(number, sockets, false);
    }

    fn prepare_for(&mut self, number: u64, sockets: u16, tcp: bool) {
        let preparation = PunchPreparation { punch: punch(number), peer: self.peer, key: [8; 32], sockets, tcp };
        self.core.handle_frame(self.now, ServerFrame::Prepare(preparation));
        self.drain();
    }

    pub(super) fn go(&mut self, number: u64, candidates: &[&str], sockets: u16) {
        self.core.handle_frame(self.now, ServerFrame::Go(order(number, candidates, sockets)));
        self.drain();
    }

    /// The peer probes `socket` and answers what comes from there.
    fn answer_punch(&mut self, number: u64, socket: SocketId) {
        let seal = PunchSeal::new(&[8; 32], self.peer, member(1, &[1; 32]).client);
        let from: SocketAddr = PEER.parse().unwrap();
        for nonce in 0..40 {
            let probe = PunchPacket { kind: PunchKind::Probe, attempt: 1, number, nonce };
            self.core.handle_datagram(self.now, socket, from, &seal.seal(&probe));
            for (through, bytes) in self.punch_packets() {
                let own = PunchSeal::new(&[8; 32], self.peer, member(1, &[1; 32]).client);
                if let Ok(packet) = own.open(&bytes)
                    && packet.kind == PunchKind::Probe
                    && through == socket
                {
                    let answer = PunchPacket { kind: PunchKind::Answer, ..packet };
                    self.core.handle_datagram(self.now, socket, from, &seal.seal(&answer));
                }
            }
            self.step(Duration::from_millis(20));
        }
    }

    fn punch_packets(&mut self) -> Vec<(SocketId, Vec<u8>)> {
        let mut packets = Vec::new();
        let mut rest = VecDeque::new();
        while let Some(output) = self.core.poll_output() {
            if let Output::Send { socket, datagram, ttl: None, .. } = &output
                && wire::punch::is_punch(datagram)
            {
                packets.push((*socket, datagram.to_vec()));
            } else {
                rest.push_back(output);
            }
        }
        self.core.outputs = rest;
        self.drain();
        packets
    }

    /// Reflectors answer all that was asked, as if there were no NAT.
    pub(super) fn measure(&mut self) {
        for _ in 0..60 {
            self.reflect();
            self.step(Duration::from_millis(50));
        }
    }

    fn reflect(&mut self) {
        let now = self.now;
        for (socket, to, question, asked) in std::mem::take(&mut self.questions) {
            if self.silent.contains(&to) && socket != SocketId::TCP_TEST {
                continue;
            }
            let place = socket.0.wrapping_sub(SocketId::lifetime(0).0);
            let silence = SILENCES_S.get(usize::from(place)).copied().unwrap_or(0);
            if self.patient && now < asked + Duration::from_secs(silence.into()) {
                self.questions.push((socket, to, question, asked));
                continue;
            }
            if self.patient && silence > 125 {
                // The NAT has forgotten.
                continue;
            }
            let reflected = Reflected {
                transaction: TransactionId(question[8..20].try_into().unwrap()),
                seen: endpoint(Side::Alice),
                ttl: 57,
                observation: None,
            };
            self.core.handle_datagram(now, socket, to, &stun_answer(&reflected));
            self.drain();
        }
    }

    fn profile(&self) -> NatProfile {
        let reports = self.said.iter().rev();
        let mut profiles = reports.filter_map(|frame| {
            let ClientFrame::Nat(NatReport { profile, .. }) = frame else { return None };
            Some(*profile)
        });
        profiles.next().unwrap()
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.core.poll_deadline() <= end {
            self.now = self.now.max(self.core.poll_deadline());
            self.core.handle_deadline(self.now);
            self.drain();
        }
        self.now = end;
    }

    fn step(&mut self, time: Duration) {
        self.now += time;
        self.core.handle_deadline(self.now);
        self.drain_but_punches();
    }

    fn drain_but_punches(&mut self) {
        let mut kept = VecDeque::new();
        while let Some(output) = self.core.poll_output() {
            if matches!(&output, Output::Send { datagram, .. } if wire::punch::is_punch(datagram)) {
                kept.push_back(output);
            } else {
                self.take(output);
            }
        }
        self.core.outputs = kept;
    }

    pub(super) fn drain(&mut self) {
        while let Some(output) = self.core.poll_output() {
            self.take(output);
        }
    }

    fn take(&mut self, output: Output) {
        match output {
            Output::Open(socket) => {
                self.log.push("open");
                assert!(self.open.insert(socket), "opened twice: {socket:?}");
            }
            Output::Close(socket) => {
                assert!(self.open.remove(&socket), "closed twice: {socket:?}");
            }
            Output::Send { socket, to, datagram, .. } => {
                self.log.push("send");
                assert!(socket == SocketId::MAIN || self.open.contains(&socket), "not open: {socket:?}");
                if wire::punch::is_punch(&datagram) {
                    self.sent.push((socket, to));
                } else if wire::probe::is_stun(&datagram) {
                    self.questions.push((socket, to, datagram.to_vec(), self.now));
                }
            }
            Output::Say(frame) => self.said.push(frame),
            Output::MapPort(wish) => self.wishes.push(wish),
            Output::Call { port, peer, call } => self.calls.push((port, peer, call)),
            Output::Deliver(_)
            | Output::WantKeys(_)
            | Output::WantSeal(_)
            | Output::WantMembership(_)
            | Output::Prove(..)
            | Output::MakeSecret(..)
            | Output::Ask(_)
            | Output::Configure(_)
            | Output::Members(_)
            | Output::Route(_)
            | Output::OpenStream { .. }
            | Output::CloseStream(_)
            | Output::Pong { .. }
            | Output::KeepChats(_)
            | Output::Save(_) => {}
        }
    }
}

pub(super) fn order(number: u64, candidates: &[&str], sockets: u16) -> PunchOrder {
    let candidate = |endpoint: &&str| Candidate { endpoint: endpoint.parse().unwrap(), local: false, main: false };
    PunchOrder {
        punch: punch(number),
        strategy: Strategy::Direct,
        wait_us: 10_000,
        gap_us: 50_000,
        opener_ttl: 3,
        candidates: candidates.iter().map(candidate).collect(),
        attempt: 1,
        spray: None,
        sockets,
    }
}

const fn punch(number: u64) -> PunchId {
    PunchId { leader: InstanceId::from_bytes([1; 16]), number }
}

/// A binding success with an XOR-MAPPED-ADDRESS of IPv4 (RFC 8489, section 14.2).
pub(super) fn stun_answer(reflected: &Reflected) -> Vec<u8> {
    let SocketAddr::V4(seen) = reflected.seen else { panic!("IPv4 only") };
    let cookie = [0x21, 0x12, 0xa4, 0x42];
    let port = (seen.port() ^ 0x2112).to_be_bytes();
    let address: Vec<u8> = seen.ip().octets().iter().zip(cookie).map(|(byte, mask)| byte ^ mask).collect();
    let head = [&[1, 1, 0, 12][..], &cookie, &reflected.transaction.0].concat();
    [&head[..], &[0, 0x20, 0, 8, 0, 1], &port, &address].concat()
}

pub(super) const PEER: &str = "198.51.100.1:40002";
const REFLECTORS: [&str; 3] = ["192.0.2.10:3478", "192.0.2.10:3479", "192.0.2.11:3478"];
