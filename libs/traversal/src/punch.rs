//! One negotiation on the client: from PREPARE over GO to the report.
//!
//! At the common start both sides send *openers*: packets with so small a hop limit that they open the sender's NAT and
//! die before the peer's, where a packet that arrives early would make some NATs move the port that we are about to use.
//! The first packets that are meant to arrive leave one gap later, and again after 50, 150, 350, 750 and 1200 ms.
//!
//! Every probe is answered to where it came from, whatever was expected: a hard NAT shows its port that way. An endpoint
//! is *valid* with the answer to a probe of ours from exactly there, and *usable* after three answers within a second.
//! The side that is done keeps answering for a while, because its peer may need those answers.
//!
//! A peer can make us send to addresses that it names by forging sources, so both the number of endpoints and that of
//! packets are bounded for each negotiation. Packets reach this code only after their MAC was checked.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use domain::{PunchId, PunchKind, PunchOrder, PunchPacket, PunchReport, Strategy};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

/// When packets that are meant to arrive leave, counted from the end of the gap.
pub const ROUNDS: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(50),
    Duration::from_millis(150),
    Duration::from_millis(350),
    Duration::from_millis(750),
    Duration::from_millis(1_200),
];

/// How long after the last round an answer may still arrive.
pub const LAST_ANSWER: Duration = Duration::from_millis(1_000);

/// A packet to send from the punching socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    pub to: SocketAddr,
    /// Hop limit; the usual one when `None`.
    pub ttl: Option<u8>,
    pub packet: PunchPacket,
}

/// What a punch tells its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer answers there.
    Usable { endpoint: SocketAddr, rtt: Duration },
    /// For the server. Packets of the peer are still to be handed in.
    Finished(PunchReport),
    /// Nothing more will happen: drop the punch.
    Over,
}

/// One negotiation, from PREPARE on.
#[derive(Debug)]
pub struct Punch {
    id: PunchId,
    rng: StdRng,
    targets: Vec<Target>,
    order: Option<PunchOrder>,
    start: Instant,
    tasks: BTreeMap<(Instant, u32), Task>,
    task_number: u32,
    first_answer: Option<Instant>,
    stage: Stage,
    packets: u32,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// PREPARE arrived, GO did not.
    Prepared,
    Punching,
    /// Reported; still answering.
    Finished,
    Over,
}

#[derive(Clone, Copy, Debug)]
enum Task {
    /// Send openers.
    Open,
    /// Send a probe to every candidate.
    Round,
    /// Send another probe to a target that showed life.
    Verify(usize),
    /// Report failure.
    GiveUp,
    /// Stop answering.
    End,
}

/// An endpoint where the peer may be.
#[derive(Debug)]
struct Target {
    endpoint: SocketAddr,
    /// Named by the server, on the same LAN.
    local: bool,
    /// Showed itself by a packet.
    alive: bool,
    verifications: u8,
    sent: VecDeque<(u64, Instant)>,
    answered: VecDeque<Instant>,
    rtt: Option<Duration>,
    usable: bool,
}

impl Punch {
    /// A punch that waits for its order and answers its peer meanwhile.
    #[must_use]
    pub fn new(now: Instant, id: PunchId, seed: [u8; 32]) -> Self {
        let mut punch = Self {
            id,
            rng: StdRng::from_seed(seed),
            targets: Vec::new(),
            order: None,
            start: now,
            tasks: BTreeMap::new(),
            task_number: 0,
            first_answer: None,
            stage: Stage::Prepared,
            packets: 0,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        };
        punch.schedule(now + ORDER_PATIENCE, Task::End);
        punch
    }

    /// GO. Only the first one counts.
    pub fn handle_order(&mut self, now: Instant, order: PunchOrder) {
        if self.stage != Stage::Prepared || order.punch != self.id {
            return;
        }
        self.stage = Stage::Punching;
        self.tasks.retain(|_, task| matches!(task, Task::Verify(_)));
        for candidate in order.candidates.iter().take(MAX_CANDIDATES) {
            if let Some(index) = self.target(candidate.endpoint) {
                self.targets[index].local = candidate.local;
            }
        }
        // Whatever a broken server says, a punch ends.
        let wait = Duration::from_micros(order.wait_us).min(MAX_WAIT);
        let gap = Duration::from_micros(order.gap_us).min(MAX_WAIT);
        self.start = now + wait;
        let first = self.start + gap;
        let opens = order.opener_ttl > 0;
        let only_opens = opens && order.strategy == Strategy::Reveal;
        if opens {
            self.schedule(self.start, Task::Open);
        }
        if only_opens {
            self.schedule(first + ROUNDS[2], Task::Open);
        }
        if self.targets.iter().any(|target| target.local) {
            self.schedule(self.start, Task::Round);
        }
        if !only_opens {
            for round in ROUNDS {
                self.schedule(first + round, Task::Round);
            }
        }
        self.schedule(first + ROUNDS[ROUNDS.len() - 1] + LAST_ANSWER, Task::GiveUp);
        self.order = Some(order);
        self.finish_if_usable();
        self.handle_timeout(now);
    }

    /// An authentic packet of the peer.
    pub fn handle_packet(&mut self, now: Instant, from: SocketAddr, packet: PunchPacket) {
        if packet.number != self.id.number || self.stage == Stage::Over {
            return;
        }
        match packet.kind {
            PunchKind::Opener | PunchKind::Probe => self.handle_probe(now, from, packet),
            PunchKind::Answer => self.handle_answer(now, from, packet.nonce),
        }
    }

    /// The negotiation came to nothing before GO, or its peer is gone.
    pub fn handle_cancel(&mut self) {
        self.end();
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(entry) = self.tasks.first_entry().filter(|entry| entry.key().0 <= now) {
            match entry.remove() {
                Task::Open => self.open(),
                Task::Round => self.round(now),
                Task::Verify(index) => self.verify(now, index),
                Task::GiveUp => self.finish(now, None),
                Task::End => self.end(),
            }
        }
    }

    /// When to call [`Self::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.tasks.first_key_value().map(|(&(due, _), _)| due)
    }

    /// The next packet to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next thing to know.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Which negotiation this is.
    #[must_use]
    pub const fn id(&self) -> PunchId {
        self.id
    }

    fn handle_probe(&mut self, now: Instant, from: SocketAddr, packet: PunchPacket) {
        let Some(index) = self.target(from) else { return };
        self.send(index, PunchKind::Answer, packet.nonce, None);
        self.enliven(now, index);
    }

    fn handle_answer(&mut self, now: Instant, from: SocketAddr, nonce: u64) {
        let Some(index) = self.targets.iter().position(|target| target.endpoint == from) else { return };
        let target = &mut self.targets[index];
        let Some(place) = target.sent.iter().position(|&(sent, _)| sent == nonce) else { return };
        let Some((_, sent)) = target.sent.remove(place) else { return };
        let rtt = now.saturating_duration_since(sent);
        target.rtt = Some(target.rtt.map_or(rtt, |best| best.min(rtt)));
        target.answered.push_back(now);
        target.answered.retain(|&answered| now.saturating_duration_since(answered) <= USABLE_WITHIN);
        self.first_answer.get_or_insert(now);
        if !target.usable && target.answered.len() >= USABLE_ANSWERS {
            target.usable = true;
            self.events.push_back(Event::Usable { endpoint: from, rtt: target.rtt.unwrap_or(rtt) });
        }
        self.enliven(now, index);
        self.finish_if_usable();
    }

    /// Probes a target that showed life until it is usable.
    fn enliven(&mut self, now: Instant, index: usize) {
        if !self.targets[index].alive && matches!(self.stage, Stage::Prepared | Stage::Punching) {
            self.targets[index].alive = true;
            self.verify(now, index);
        }
    }

    fn verify(&mut self, now: Instant, index: usize) {
        let target = &mut self.targets[index];
        if target.usable || target.verifications >= MAX_VERIFICATIONS {
            return;
        }
        target.verifications += 1;
        self.probe(now, index);
        self.schedule(now + VERIFY_INTERVAL, Task::Verify(index));
    }

    fn open(&mut self) {
        let ttl = self.order.as_ref().map(|order| order.opener_ttl);
        for index in 0..self.targets.len() {
            if !self.targets[index].local && !self.targets[index].alive {
                let nonce = self.rng.random();
                self.send(index, PunchKind::Opener, nonce, ttl);
            }
        }
    }

    /// Before the end of the gap only LAN candidates get a probe.
    fn round(&mut self, now: Instant) {
        let gap = self.order.as_ref().map_or(Duration::ZERO, |order| Duration::from_micros(order.gap_us));
        for index in 0..self.targets.len() {
            let target = &self.targets[index];
            if !target.alive && (target.local || now >= self.start + gap) {
                self.probe(now, index);
            }
        }
    }

    fn probe(&mut self, now: Instant, index: usize) {
        let nonce = self.rng.random();
        let sent = &mut self.targets[index].sent;
        sent.push_back((nonce, now));
        if sent.len() > MAX_OUTSTANDING {
            sent.pop_front();
        }
        self.send(index, PunchKind::Probe, nonce, None);
    }

    fn send(&mut self, index: usize, kind: PunchKind, nonce: u64, ttl: Option<u8>) {
        if self.packets >= MAX_PACKETS {
            return;
        }
        self.packets += 1;
        let attempt = self.order.as_ref().map_or(0, |order| order.attempt);
        let packet = PunchPacket { kind, attempt, number: self.id.number, nonce };
        self.transmits.push_back(Transmit { to: self.targets[index].endpoint, ttl, packet });
    }

    /// The target at `endpoint`, made when there is room.
    fn target(&mut self, endpoint: SocketAddr) -> Option<usize> {
        if let Some(index) = self.targets.iter().position(|target| target.endpoint == endpoint) {
            return Some(index);
        }
        (self.targets.len() < MAX_TARGETS).then(|| {
            self.targets.push(Target {
                endpoint,
                local: false,
                alive: false,
                verifications: 0,
                sent: VecDeque::new(),
                answered: VecDeque::new(),
                rtt: None,
                usable: false,
            });
            self.targets.len() - 1
        })
    }

    fn finish_if_usable(&mut self) {
        if self.stage != Stage::Punching {
            return;
        }
        let usable = self.targets.iter().filter(|target| target.usable);
        let best = usable.min_by_key(|target| (!target.local, target.rtt));
        let found = best.map(|target| (target.endpoint, target.rtt.unwrap_or_default()));
        if let (Some(found), Some(answered)) = (found, self.first_answer) {
            self.finish(answered, Some(found));
        }
    }

    fn finish(&mut self, at: Instant, found: Option<(SocketAddr, Duration)>) {
        self.stage = Stage::Finished;
        self.tasks.retain(|_, task| matches!(task, Task::Verify(_)));
        self.schedule(at + LINGER, Task::End);
        self.events.push_back(Event::Finished(PunchReport {
            punch: self.id,
            endpoint: found.map(|(endpoint, _)| endpoint),
            rtt_us: found.map_or(0, |(_, rtt)| micros(rtt)),
            packets: self.packets,
            took_us: micros(at.saturating_duration_since(self.start)),
        }));
    }

    fn end(&mut self) {
        if self.stage != Stage::Over {
            self.stage = Stage::Over;
            self.tasks.clear();
            self.transmits.clear();
            self.events.push_back(Event::Over);
        }
    }

    fn schedule(&mut self, due: Instant, task: Task) {
        self.task_number += 1;
        self.tasks.insert((due, self.task_number), task);
    }
}

const USABLE_ANSWERS: usize = 3;
const USABLE_WITHIN: Duration = Duration::from_secs(1);
const VERIFY_INTERVAL: Duration = Duration::from_millis(50);
const MAX_VERIFICATIONS: u8 = 20;
/// Candidates that an order may name.
const MAX_CANDIDATES: usize = 8;
/// Those, and endpoints that the peer shows itself at.
const MAX_TARGETS: usize = 12;
const MAX_OUTSTANDING: usize = 32;
/// Of one side in one negotiation: an honest one needs about 30.
const MAX_PACKETS: u32 = 200;
/// From PREPARE to GO: the server waits for its locks no longer than this.
const ORDER_PATIENCE: Duration = Duration::from_secs(15);
/// The longest wait or gap that makes sense.
const MAX_WAIT: Duration = Duration::from_secs(5);
/// How long the peer may still need answers.
const LINGER: Duration = Duration::from_secs(4);

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use domain::{Candidate, InstanceId};

    use super::*;
    use crate::sim::origin;

    const PEER: &str = "198.51.100.7:4000";

    #[test]
    fn an_opener_leaves_at_the_start_and_probes_after_the_gap() {
        let mut lab = Lab::new();
        lab.go(order(Strategy::Direct, 4, PEER));
        let sent = lab.run_until(Duration::from_secs(3));
        let expected: Vec<(u64, PunchKind, Option<u8>)> = [(30, PunchKind::Opener, Some(4))]
            .into_iter()
            .chain(ROUNDS.map(|round| (130 + ms(round), PunchKind::Probe, None)))
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
        assert!(sent <= usize::try_from(MAX_PACKETS).unwrap(), "{sent}");
        assert!(targets.len() <= MAX_TARGETS);
        assert_eq!(lab.punch.poll_timeout(), None, "over");
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
            self.punch.handle_packet(self.now, from.parse().unwrap(), packet);
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
                sent.extend(transmits.into_iter().map(|transmit| (ms(self.now - self.start), transmit)));
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
                    Event::Usable { endpoint, rtt } => self.usable.push((endpoint, rtt)),
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

    fn ms(duration: Duration) -> u64 {
        u64::try_from(duration.as_millis()).unwrap()
    }
}
