use std::net::IpAddr;

use domain::{Candidate, InstanceId, Spray};

use super::{
    agenda::{ROUNDS, paced},
    *,
};
use crate::{predict, sim::origin};

const PEER: &str = "198.51.100.7:4000";

#[test]
fn an_opener_leaves_at_the_start_and_probes_after_the_gap() {
    let mut lab = Lab::new();
    lab.go(order(Strategy::Direct, 4, PEER));
    let sent = lab.run_until(Duration::from_secs(3));
    let expected: Vec<(u64, PunchKind, Option<u8>)> = [(30, PunchKind::Opener, Some(4))]
        .into_iter()
        .chain(ROUNDS.map(|round| (130 + millis(round), PunchKind::Probe, None)))
        .collect();
    assert_eq!(sent.iter().map(|(at, t)| (*at, t.packet.kind, t.ttl)).collect::<Vec<_>>(), expected);
    let report = lab.report().unwrap();
    assert_eq!((report.endpoint, report.packets), (None, 7));
}

#[test]
fn the_easy_side_of_a_revealing_pair_only_opens() {
    let mut lab = Lab::new();
    lab.go(order(Strategy::Reveal, 4, PEER));
    let sent = lab.run_until(Duration::from_secs(3));
    assert!(sent.iter().all(|(_, transmit)| transmit.packet.kind == PunchKind::Opener));
    assert_eq!(sent.len(), 2);
}

#[test]
fn the_hard_side_of_a_revealing_pair_only_probes() {
    let mut lab = Lab::new();
    lab.go(order(Strategy::Reveal, 0, PEER));
    let sent = lab.run_until(Duration::from_secs(3));
    assert!(sent.iter().all(|(_, transmit)| transmit.packet.kind == PunchKind::Probe));
    assert_eq!(sent.len(), ROUNDS.len());
}

#[test]
fn three_answers_within_a_second_make_an_endpoint_usable() {
    let mut lab = Lab::new();
    lab.go(order(Strategy::Direct, 4, PEER));
    let mut answers = 0;
    while answers < 3 {
        assert_eq!(lab.report(), None);
        for transmit in lab.step() {
            if transmit.packet.kind == PunchKind::Probe {
                lab.now += Duration::from_millis(5);
                lab.receive(PEER, PunchPacket { kind: PunchKind::Answer, ..transmit.packet });
                answers += 1;
            }
        }
    }
    assert_eq!(lab.usable, vec![(PEER.parse().unwrap(), Duration::from_millis(5))]);
    let report = lab.report().unwrap();
    assert_eq!((report.endpoint, report.rtt_us, report.took_us), (PEER.parse().ok(), 5_000, 105_000));
}

#[test]
fn a_packet_from_an_unexpected_port_is_answered_there_and_probed() {
    let mut lab = Lab::new();
    lab.go(order(Strategy::Reveal, 4, PEER));
    lab.run_until(Duration::from_millis(200));
    let revealed = "198.51.100.7:61000";
    let sent = lab.receive(revealed, packet(PunchKind::Probe, 77));
    assert_eq!(sent.iter().map(|t| t.packet.kind).collect::<Vec<_>>(), [PunchKind::Answer, PunchKind::Probe]);
    assert!(sent.iter().all(|t| t.to == revealed.parse().unwrap()));
    assert_eq!(sent[0].packet.nonce, 77);
}

#[test]
fn an_answer_counts_once_and_only_from_where_the_probe_went() {
    let mut lab = Lab::new();
    lab.go(order(Strategy::Direct, 0, PEER));
    let probe = loop {
        if let Some(transmit) = lab.step().pop() {
            break transmit.packet;
        }
    };
    for _ in 0..5 {
        lab.receive("198.51.100.8:4000", PunchPacket { kind: PunchKind::Answer, ..probe });
        lab.receive(PEER, packet(PunchKind::Answer, 1));
    }
    for _ in 0..5 {
        lab.receive(PEER, PunchPacket { kind: PunchKind::Answer, ..probe });
    }
    assert_eq!(lab.usable, vec![]);
}

#[test]
fn a_local_candidate_is_probed_at_once() {
    let mut lab = Lab::new();
    let mut order = order(Strategy::Direct, 4, PEER);
    order.candidates.push(Candidate { endpoint: "192.168.1.9:4000".parse().unwrap(), local: true, main: false });
    lab.go(order);
    let sent = lab.run_until(Duration::from_millis(40));
    let kinds: Vec<_> = sent.iter().map(|(at, t)| (*at, t.packet.kind, t.to.to_string())).collect();
    let local = (30, PunchKind::Probe, "192.168.1.9:4000".to_owned());
    assert_eq!(kinds, [(30, PunchKind::Opener, PEER.to_owned()), local]);
}

#[test]
fn a_lying_peer_cannot_make_a_client_flood() {
    let mut lab = Lab::new();
    lab.go(order(Strategy::Direct, 4, PEER));
    let mut sent = 0;
    let mut targets = std::collections::BTreeSet::new();
    for number in 0..5_000_u16 {
        let from = format!("192.0.2.{}:{}", number % 250, 1_024 + number);
        for transmit in lab.receive(&from, packet(PunchKind::Probe, number.into())) {
            sent += 1;
            targets.insert(transmit.to);
        }
    }
    sent += lab.run_until(Duration::from_secs(20)).len();
    assert!(sent <= usize::try_from(most_packets(&order(Strategy::Direct, 4, PEER))).unwrap(), "{sent}");
    assert!(targets.len() <= MAX_TARGETS);
    assert_eq!(lab.punch.poll_timeout(), None, "over");
}

#[test]
fn a_window_is_opened_once_and_probed_three_times() {
    let mut lab = Lab::new();
    let spray = Some(Spray::Window { first: 4_001, step: 2, count: 8 });
    lab.go(PunchOrder { spray, ..order(Strategy::Predict, 4, "198.51.100.7:4001") });
    let sent = lab.run_until(Duration::from_secs(3));
    let ports = |kind, at| {
        let sent = sent.iter().filter(move |(sent, t)| t.packet.kind == kind && *sent == at);
        sent.map(|(_, t)| t.to.port()).collect::<Vec<_>>()
    };
    let window: Vec<u16> = (0..8).map(|place| 4_001 + 2 * place).collect();
    assert_eq!(ports(PunchKind::Opener, 30), window);
    assert_eq!([130, 330, 730].map(|at| ports(PunchKind::Probe, at)), [(); 3].map(|()| window.clone()));
    assert_eq!(sent.len(), 32);
}

#[test]
fn a_window_falls_silent_when_the_peer_shows_itself() {
    let mut lab = Lab::new();
    let spray = Some(Spray::Window { first: 4_001, step: 1, count: 100 });
    lab.go(PunchOrder { spray, ..order(Strategy::Predict, 4, "198.51.100.7:4001") });
    lab.run_until(Duration::from_millis(150));
    lab.receive("198.51.100.7:4050", packet(PunchKind::Probe, 1));
    let later = lab.run_until(Duration::from_secs(3));
    assert!(later.iter().all(|(_, t)| [4_001, 4_050].contains(&t.to.port())), "{later:?}");
}

#[test]
fn a_sweep_bursts_from_every_socket_at_once_within_its_budget() {
    for (sockets, bursts, packets) in [(12, 6, 72), (96, 6, 480), (150, 5, 600)] {
        let mut lab = Lab::new();
        lab.go(PunchOrder { sockets, ..order(Strategy::Sweep, 4, PEER) });
        let sent = lab.run_until(Duration::from_secs(3));
        let times: std::collections::BTreeSet<_> = sent.iter().map(|(at, _)| at).collect();
        assert_eq!((times.len(), sent.len()), (bursts, packets));
        let first: Vec<_> = sent.iter().take(sockets.into()).map(|(_, t)| t.socket).collect();
        assert_eq!(first, (0..sockets).map(Socket::Punching).collect::<Vec<_>>());
    }
}

#[test]
fn large_windows_and_sweeps_wait_for_the_next_second() {
    let window = Some(Spray::Window { first: 4_001, step: 1, count: 128 });
    for order in [
        PunchOrder { spray: window, ..order(Strategy::Predict, 4, "198.51.100.7:4001") },
        PunchOrder { sockets: 250, ..order(Strategy::Sweep, 4, PEER) },
    ] {
        let mut lab = Lab::new();
        lab.go(order.clone());
        let sent = lab.run_until(Duration::from_secs(5));
        assert!(sent.iter().all(|(from, _)| in_a_second(&sent, *from) <= MOST_A_SECOND as usize));
        assert_eq!(u32::try_from(sent.len()).unwrap(), paced(&order), "all of it is sent, only later");
    }
}

#[test]
fn several_addresses_share_the_ports_of_a_birthday_and_each_goes_on_in_its_list() {
    let birthday = |skip| {
        let other = Candidate { endpoint: "198.51.100.8:4000".parse().unwrap(), local: false, main: false };
        let first = order(Strategy::Birthday, 4, PEER);
        let candidates = [first.candidates.clone(), vec![other]].concat();
        PunchOrder { spray: Some(predict::scatter(None, 5, skip)), candidates, ..first }
    };
    let (first, second) = (scatter(&birthday(0)), scatter(&birthday(980)));
    assert_eq!((first.len(), second.len()), (980, 980));
    let all: std::collections::BTreeSet<_> = first.iter().chain(&second).collect();
    assert_eq!(all.len(), 1_960, "nothing is tried twice");
    for address in ["198.51.100.7", "198.51.100.8"] {
        let address: IpAddr = address.parse().unwrap();
        assert_eq!(first.iter().filter(|at| at.ip() == address).count(), 490);
    }
}

#[test]
fn the_hard_side_of_a_birthday_opens_one_socket_after_another() {
    let mut lab = Lab::new();
    lab.go(PunchOrder { sockets: 256, ..order(Strategy::Birthday, 4, PEER) });
    let sent = lab.run_until(Duration::from_secs(5));
    let most_at_once = sent.chunk_by(|a, b| a.0 == b.0).map(<[_]>::len).max();
    assert_eq!((sent.len(), most_at_once), (768, Some(PART)));
    let openers: Vec<_> = sent.iter().filter(|(_, t)| t.packet.kind == PunchKind::Opener).collect();
    assert_eq!([openers[255].0, openers[511].0], [30 + 15 * 8, 1_230 + 15 * 8]);
}

#[test]
fn the_easy_side_of_a_birthday_tries_a_port_every_two_milliseconds_until_one_answers() {
    let spray = Some(predict::scatter(None, 5, 0));
    let birthday = PunchOrder { spray, ..order(Strategy::Birthday, 4, PEER) };
    let mut lab = Lab::new();
    lab.go(birthday.clone());
    let sent = lab.run_until(Duration::from_secs(10));
    let rounds = ROUNDS.len() + 1;
    assert_eq!(sent.len(), 980 + rounds);
    let ports: std::collections::BTreeSet<_> = sent.iter().map(|(_, t)| t.to.port()).collect();
    assert!(ports.len() >= 980);
    assert!(sent.iter().all(|(from, _)| in_a_second(&sent, *from) <= MOST_A_SECOND as usize));
    assert!(u32::try_from(sent.len()).unwrap() <= most_packets(&birthday));

    let mut lab = Lab::new();
    lab.go(birthday);
    let sent = lab.run_until(Duration::from_millis(500));
    let hit = sent.iter().rev().find(|(_, t)| t.to.port() != 4_000).unwrap().1;
    let from = hit.to.to_string();
    let next = lab.receive(&from, PunchPacket { kind: PunchKind::Answer, ..hit.packet });
    assert_eq!(next.iter().map(|t| t.to).collect::<Vec<_>>(), [hit.to]);
    let later = lab.run_until(Duration::from_secs(3));
    assert!(later.iter().all(|(_, t)| t.to == hit.to || t.to.port() == 4_000), "{later:?}");
}

#[test]
fn an_answer_at_a_fresh_socket_is_a_way_through_that_socket() {
    let mut lab = Lab::new();
    lab.go(PunchOrder { sockets: 12, ..order(Strategy::Sweep, 4, PEER) });
    lab.run_until(Duration::from_millis(140));
    let socket = Socket::Punching(7);
    let peer: SocketAddr = PEER.parse().unwrap();
    lab.punch.handle_packet(lab.now, socket, peer, packet(PunchKind::Probe, 1));
    let mut sent = lab.drain();
    while lab.usable.is_empty() {
        for transmit in sent {
            assert_eq!(transmit.socket, socket);
            let answer = PunchPacket { kind: PunchKind::Answer, ..transmit.packet };
            lab.punch.handle_packet(lab.now, socket, peer, answer);
        }
        sent = lab.step();
    }
    assert_eq!(lab.report().unwrap().endpoint, Some(peer));
    assert_eq!(lab.usable.len(), 1);
}

#[test]
fn addresses_that_no_host_has_get_nothing() {
    let mut lab = Lab::new();
    let mut order = order(Strategy::Direct, 4, PEER);
    order.candidates = ["224.0.0.1:4000", "255.255.255.255:4000", "0.0.0.0:1", "198.51.100.7:0", "[ff02::1]:4000"]
        .map(|endpoint| Candidate { endpoint: endpoint.parse().unwrap(), local: false, main: false })
        .to_vec();
    lab.go(order);
    assert_eq!(lab.run_until(Duration::from_secs(5)), vec![]);
}

#[test]
fn an_order_that_is_said_again_changes_nothing() {
    let mut lab = Lab::new();
    lab.go(order(Strategy::Direct, 4, PEER));
    let elsewhere = PunchOrder { wait_us: 0, ..order(Strategy::Direct, 4, "192.0.2.99:53") };
    let mut sent = vec![];
    for _ in 0..1_000 {
        lab.go(elsewhere.clone());
        sent.extend(lab.run_until(Duration::from_millis(500)));
    }
    sent.extend(lab.run_until(Duration::from_secs(20)));
    lab.go(elsewhere);
    sent.extend(lab.run_until(Duration::from_secs(25)));
    assert_eq!(sent.len(), 1 + ROUNDS.len());
    assert!(sent.iter().all(|(_, transmit)| transmit.to == PEER.parse().unwrap()));
}

#[test]
fn a_finished_punch_still_answers_and_then_ends() {
    let mut lab = Lab::new();
    lab.go(order(Strategy::Direct, 0, PEER));
    lab.run_until(Duration::from_millis(2_500));
    assert!(lab.report().is_some());
    assert_eq!(lab.receive(PEER, packet(PunchKind::Probe, 5)).len(), 1);
    lab.run_until(Duration::from_secs(20));
    assert_eq!(lab.receive(PEER, packet(PunchKind::Probe, 6)), vec![]);
    assert!(lab.over);
}

#[test]
fn a_prepared_punch_answers_an_early_peer_and_does_not_wait_for_ever() {
    let mut lab = Lab::new();
    assert_eq!(lab.receive(PEER, packet(PunchKind::Probe, 5)).len(), 2);
    lab.run_until(Duration::from_secs(20));
    assert!(lab.over);
}

#[test]
fn an_order_of_another_negotiation_is_ignored() {
    let mut lab = Lab::new();
    let mut order = order(Strategy::Direct, 4, PEER);
    order.punch.number += 1;
    lab.go(order);
    assert_eq!(lab.run_until(Duration::from_secs(3)), vec![]);
    let foreign = PunchPacket { number: 2, ..packet(PunchKind::Probe, 1) };
    assert_eq!(lab.receive(PEER, foreign), vec![]);
}

fn in_a_second(sent: &[(u64, Transmit)], from: u64) -> usize {
    sent.iter().filter(|(at, _)| (from..from + 1_000).contains(at)).count()
}

struct Lab {
    punch: Punch,
    start: Instant,
    now: Instant,
    usable: Vec<(SocketAddr, Duration)>,
    reported: Option<PunchReport>,
    over: bool,
}

impl Lab {
    fn new() -> Self {
        let now = origin();
        let punch = Punch::new(now, id(), [1; 32]);
        Self { punch, start: now, now, usable: vec![], reported: None, over: false }
    }

    fn go(&mut self, order: PunchOrder) {
        self.punch.handle_order(self.now, order);
    }

    fn receive(&mut self, from: &str, packet: PunchPacket) -> Vec<Transmit> {
        self.punch.handle_packet(self.now, Socket::Main, from.parse().unwrap(), packet);
        self.drain()
    }

    fn step(&mut self) -> Vec<Transmit> {
        self.now = self.now.max(self.punch.poll_timeout().unwrap());
        self.punch.handle_timeout(self.now);
        self.drain()
    }

    fn run_until(&mut self, end: Duration) -> Vec<(u64, Transmit)> {
        let mut sent = vec![];
        while self.punch.poll_timeout().is_some_and(|due| due <= self.start + end) {
            let transmits = self.step();
            sent.extend(transmits.into_iter().map(|transmit| (millis(self.now - self.start), transmit)));
        }
        self.now = self.now.max(self.start + end);
        sent
    }

    fn report(&self) -> Option<PunchReport> {
        self.reported
    }

    fn drain(&mut self) -> Vec<Transmit> {
        while let Some(event) = self.punch.poll_event() {
            match event {
                Event::Usable { endpoint, rtt, .. } => self.usable.push((endpoint, rtt)),
                Event::Finished(report) => assert_eq!(self.reported.replace(report), None),
                Event::Over => self.over = true,
            }
        }
        std::iter::from_fn(|| self.punch.poll_transmit()).collect()
    }
}

fn id() -> PunchId {
    PunchId { leader: InstanceId::from_bytes([1; 16]), number: 1 }
}

fn order(strategy: Strategy, opener_ttl: u8, candidate: &str) -> PunchOrder {
    PunchOrder {
        punch: id(),
        strategy,
        wait_us: 30_000,
        gap_us: 100_000,
        opener_ttl,
        candidates: vec![Candidate { endpoint: candidate.parse().unwrap(), local: false, main: false }],
        attempt: 1,
        spray: None,
        sockets: 0,
    }
}

const fn packet(kind: PunchKind, nonce: u64) -> PunchPacket {
    PunchPacket { kind, attempt: 1, number: 1, nonce }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap()
}
