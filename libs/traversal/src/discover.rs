//! Discovery, on the client: which questions leave which socket when, and what the answers say.
//!
//! [`Discovery`] runs at login and on every change of the network. The main socket, the one that will carry tunnels, asks
//! three reflector endpoints; a spare socket that speaks to the first endpoint only asks to be answered from elsewhere,
//! which shows the filter. Every question is repeated up to three times, 250 ms apart. The result is reported as soon as
//! the mapping is known and the filter had one chance, and again at the end if the class became another.
//!
//! [`Measurement`] runs on PREPARE, right before a punch, on the sockets that will punch.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use domain::{NatProfile, Observation, Probe, Reflected, SessionTag, TransactionId, Vantage};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use crate::classify::{Sightings, classify};

/// Sockets that one measurement may use: what NAT.md allows a hard side.
pub const MAX_PUNCHING_SOCKETS: u16 = 256;

/// Where questions go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reflectors {
    first: SocketAddr,
    other_port: Option<SocketAddr>,
    other_address: Option<SocketAddr>,
}

/// The client's socket that a question leaves from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Socket {
    /// The one that carries tunnels.
    Main,
    /// A fresh one that nothing else is sent from.
    Spare,
    /// One of those that PREPARE asks for.
    Punching(u16),
}

/// A question to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    pub socket: Socket,
    pub to: SocketAddr,
    pub probe: Probe,
}

/// What a discovery found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovered {
    pub profile: NatProfile,
    /// Of the main socket, in the order first, other port, other address.
    pub observations: Vec<Observation>,
    /// Where the main socket was seen; `None` when it was not, or at several places.
    pub public: Option<SocketAddr>,
}

impl Reflectors {
    /// Sorts the endpoints that the server named; `None` when there are none.
    #[must_use]
    pub fn new(endpoints: &[SocketAddr]) -> Option<Self> {
        let &first = endpoints.first()?;
        let same_family = || endpoints.iter().copied().filter(move |other| other.is_ipv4() == first.is_ipv4());
        Some(Self {
            first,
            other_port: same_family().find(|other| other.ip() == first.ip() && other.port() != first.port()),
            other_address: same_family().find(|other| other.ip() != first.ip()),
        })
    }
}

/// One discovery. Drive it until [`Discovery::poll_timeout`] is `None`.
#[derive(Debug)]
pub struct Discovery {
    questions: Questions,
    reflectors: Reflectors,
    local_port: u16,
    reported: Option<NatProfile>,
    found: VecDeque<Discovered>,
}

impl Discovery {
    /// Starts asking. `local_port` is that of the main socket; `seed` must be unpredictable to others.
    #[must_use]
    pub fn new(now: Instant, reflectors: Reflectors, tag: SessionTag, local_port: u16, seed: [u8; 32]) -> Self {
        let mut questions = Questions::new(now, DISCOVERY_TRIES, DISCOVERY_INTERVAL, tag, seed);
        questions.add(Socket::Main, reflectors.first, Vantage::Asked);
        for endpoint in [reflectors.other_port, reflectors.other_address].into_iter().flatten() {
            questions.add(Socket::Main, endpoint, Vantage::Asked);
        }
        questions.add(Socket::Spare, reflectors.first, Vantage::OtherPort);
        questions.add(Socket::Spare, reflectors.first, Vantage::OtherAddress);
        let mut discovery = Self { questions, reflectors, local_port, reported: None, found: VecDeque::new() };
        discovery.questions.handle_timeout(now);
        discovery
    }

    /// An answer arrived at `socket`. Those that nobody asked for are ignored.
    pub fn handle_answer(&mut self, now: Instant, socket: Socket, from: SocketAddr, reflected: Reflected) {
        self.questions.handle_answer(socket, from, reflected);
        self.conclude(now);
    }

    /// A reflector cannot answer from where it was asked to.
    pub fn handle_refusal(&mut self, now: Instant, transaction: TransactionId) {
        self.questions.handle_refusal(transaction);
        self.conclude(now);
    }

    /// Repeats what was not answered, or gives up.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.questions.handle_timeout(now);
        self.conclude(now);
    }

    /// When to call [`Self::handle_timeout`]; `None` when the discovery is over.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.questions.next
    }

    /// The next question to send.
    pub fn poll_transmit(&mut self) -> Option<Ask> {
        self.questions.asks.pop_front()
    }

    /// A result to report: one or two in a discovery.
    pub fn poll_event(&mut self) -> Option<Discovered> {
        self.found.pop_front()
    }

    fn conclude(&mut self, now: Instant) {
        let over = self.questions.next.is_none();
        let mapped =
            self.questions.list.iter().all(|question| question.socket != Socket::Main || question.is_settled());
        let one_chance = now >= self.questions.start + DISCOVERY_INTERVAL;
        let sightings = self.sightings();
        let let_in = sightings.let_in_other_address && sightings.let_in_other_port;
        if !over && !(mapped && (one_chance || let_in)) {
            return;
        }
        let profile = classify(&sightings);
        let news = match self.reported {
            None => true,
            Some(reported) => over && reported.class() != profile.class(),
        };
        if news {
            self.reported = Some(profile);
            self.found.push_back(self.discovered(profile));
        }
    }

    fn sightings(&self) -> Sightings {
        let reflector = self.reflectors;
        let main = |to| {
            let question = self.questions.list.iter().find(|q| q.socket == Socket::Main && Some(q.to) == to)?;
            question.answer.as_ref()
        };
        let let_in = |vantage| {
            self.questions.list.iter().any(|question| {
                question.socket == Socket::Spare && question.vantage == vantage && question.answer.is_some()
            })
        };
        Sightings {
            first: main(Some(reflector.first)).map(|answer| answer.seen),
            other_port: main(reflector.other_port).map(|answer| answer.seen),
            other_address: main(reflector.other_address).map(|answer| answer.seen),
            let_in_other_port: let_in(Vantage::OtherPort),
            let_in_other_address: let_in(Vantage::OtherAddress),
            local_port: self.local_port,
            ttl: main(Some(reflector.first)).map_or(0, |answer| answer.ttl),
        }
    }

    fn discovered(&self, profile: NatProfile) -> Discovered {
        let answers = || self.questions.answers(Socket::Main);
        let first = answers().next().map(|answer| answer.seen);
        Discovered {
            profile,
            observations: answers().filter_map(|answer| answer.observation.clone()).collect(),
            public: first.filter(|&first| answers().all(|answer| answer.seen == first)),
        }
    }
}

/// The measurement that a PREPARE asks for. Drive it until [`Measurement::poll_event`] has the observations.
#[derive(Debug)]
pub struct Measurement {
    questions: Questions,
    sockets: Vec<Socket>,
    measured: Option<Vec<Observation>>,
    over: bool,
}

impl Measurement {
    /// Starts asking from `sockets` fresh sockets, or from the main socket when that is 0.
    #[must_use]
    pub fn new(now: Instant, sockets: u16, reflectors: Reflectors, tag: SessionTag, seed: [u8; 32]) -> Self {
        let sockets: Vec<Socket> = match sockets.min(MAX_PUNCHING_SOCKETS) {
            0 => vec![Socket::Main],
            count => (0..count).map(Socket::Punching).collect(),
        };
        let mut questions = Questions::new(now, MEASUREMENT_TRIES, MEASUREMENT_INTERVAL, tag, seed);
        for &socket in &sockets {
            questions.add(socket, reflectors.first, Vantage::Asked);
            if let (Socket::Main, Some(other)) = (socket, reflectors.other_address) {
                // Either will do: one of the two may belong to a server that just died.
                questions.add(socket, other, Vantage::Asked);
            }
        }
        let mut measurement = Self { questions, sockets, measured: None, over: false };
        measurement.questions.handle_timeout(now);
        measurement
    }

    /// An answer arrived at `socket`.
    pub fn handle_answer(&mut self, socket: Socket, from: SocketAddr, reflected: Reflected) {
        self.questions.handle_answer(socket, from, reflected);
        let complete = self.sockets.iter().all(|&socket| self.questions.answers(socket).next().is_some());
        if complete {
            self.finish();
        }
    }

    /// Repeats what was not answered, or gives up.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.questions.handle_timeout(now);
        if self.questions.next.is_none() {
            self.finish();
        }
    }

    /// When to call [`Self::handle_timeout`]; `None` when the measurement is over.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.questions.next.filter(|_| !self.over)
    }

    /// The next question to send.
    pub fn poll_transmit(&mut self) -> Option<Ask> {
        if self.over {
            return None;
        }
        self.questions.asks.pop_front()
    }

    /// The observations of the sockets, in their order; empty when no reflector answered. Once.
    pub fn poll_event(&mut self) -> Option<Vec<Observation>> {
        self.measured.take()
    }

    fn finish(&mut self) {
        if self.over {
            return;
        }
        self.over = true;
        let answers = self.sockets.iter().filter_map(|&socket| self.questions.answers(socket).next());
        self.measured = Some(answers.filter_map(|answer| answer.observation.clone()).collect());
    }
}

const DISCOVERY_TRIES: u8 = 3;
const DISCOVERY_INTERVAL: Duration = Duration::from_millis(250);
const MEASUREMENT_TRIES: u8 = 6;
const MEASUREMENT_INTERVAL: Duration = Duration::from_millis(100);

/// Questions that are repeated together until they are answered.
#[derive(Debug)]
struct Questions {
    list: Vec<Question>,
    tag: SessionTag,
    rng: StdRng,
    start: Instant,
    interval: Duration,
    tries_left: u8,
    next: Option<Instant>,
    asks: VecDeque<Ask>,
}

#[derive(Debug)]
struct Question {
    socket: Socket,
    to: SocketAddr,
    vantage: Vantage,
    /// Of every try: a late answer to an early try counts.
    transactions: Vec<TransactionId>,
    answer: Option<Reflected>,
    refused: bool,
}

impl Question {
    const fn is_settled(&self) -> bool {
        self.answer.is_some() || self.refused
    }

    /// Whether an answer from `from` is one from where it was asked to come.
    fn comes_from(&self, from: SocketAddr) -> bool {
        match self.vantage {
            Vantage::Asked => from == self.to,
            Vantage::OtherPort => from.ip() == self.to.ip() && from.port() != self.to.port(),
            Vantage::OtherAddress | Vantage::Opposite => from.ip() != self.to.ip(),
        }
    }
}

impl Questions {
    fn new(now: Instant, tries: u8, interval: Duration, tag: SessionTag, seed: [u8; 32]) -> Self {
        Self {
            list: Vec::new(),
            tag,
            rng: StdRng::from_seed(seed),
            start: now,
            interval,
            tries_left: tries,
            next: Some(now),
            asks: VecDeque::new(),
        }
    }

    fn add(&mut self, socket: Socket, to: SocketAddr, vantage: Vantage) {
        let question = Question { socket, to, vantage, transactions: Vec::new(), answer: None, refused: false };
        self.list.push(question);
    }

    fn handle_answer(&mut self, socket: Socket, from: SocketAddr, reflected: Reflected) {
        let asked = self
            .list
            .iter_mut()
            .find(|question| question.socket == socket && question.transactions.contains(&reflected.transaction));
        if let Some(question) = asked.filter(|question| question.comes_from(from)) {
            question.answer.get_or_insert(reflected);
        }
        self.stop_when_settled();
    }

    fn handle_refusal(&mut self, transaction: TransactionId) {
        for question in &mut self.list {
            question.refused |= question.transactions.contains(&transaction);
        }
        self.stop_when_settled();
    }

    fn handle_timeout(&mut self, now: Instant) {
        let Some(due) = self.next.filter(|&due| now >= due) else { return };
        if self.tries_left == 0 {
            self.next = None;
            return;
        }
        self.tries_left -= 1;
        self.next = Some(due + self.interval);
        for question in self.list.iter_mut().filter(|question| !question.is_settled()) {
            let transaction = TransactionId(self.rng.random());
            question.transactions.push(transaction);
            let probe = Probe { transaction, tag: Some(self.tag), answer_from: question.vantage, delay_s: 0 };
            self.asks.push_back(Ask { socket: question.socket, to: question.to, probe });
        }
    }

    fn answers(&self, socket: Socket) -> impl Iterator<Item = &Reflected> {
        self.list.iter().filter(move |question| question.socket == socket).filter_map(|q| q.answer.as_ref())
    }

    fn stop_when_settled(&mut self) {
        if self.list.iter().all(Question::is_settled) {
            self.next = None;
            self.asks.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::NatClass;

    use super::*;
    use crate::sim::origin;

    const SEED: [u8; 32] = [9; 32];
    const TAG: SessionTag = SessionTag([7; 16]);

    #[test]
    fn an_answered_discovery_is_over_after_one_round_trip() {
        let mut lab = Lab::new();
        for ask in lab.asks() {
            lab.answer(&ask, "203.0.113.1:7000");
        }
        assert_eq!(lab.discovery.poll_timeout(), None);
        let discovered = lab.discovery.poll_event().unwrap();
        assert_eq!(discovered.profile.class(), NatClass::EasyOpen);
        assert_eq!(discovered.public, Some("203.0.113.1:7000".parse().unwrap()));
        assert_eq!(discovered.observations.len(), 3);
        assert_eq!(lab.discovery.poll_event(), None);
    }

    #[test]
    fn a_strict_filter_is_reported_after_the_first_chance_and_confirmed_silently() {
        let mut lab = Lab::new();
        for ask in lab.asks().into_iter().filter(|ask| ask.socket == Socket::Main) {
            lab.answer(&ask, "203.0.113.1:7000");
        }
        assert_eq!(lab.discovery.poll_event(), None);
        assert_eq!(lab.wait(), 2, "only the filter questions are repeated");
        assert_eq!(lab.discovery.poll_event().unwrap().profile.class(), NatClass::Easy);
        while lab.discovery.poll_timeout().is_some() {
            lab.wait();
        }
        assert_eq!(lab.discovery.poll_event(), None);
        assert_eq!(lab.now - lab.start, Duration::from_millis(750));
    }

    #[test]
    fn a_filter_answer_that_was_lost_once_corrects_the_class() {
        let mut lab = Lab::new();
        for ask in lab.asks().into_iter().filter(|ask| ask.socket == Socket::Main) {
            lab.answer(&ask, "203.0.113.1:7000");
        }
        lab.step();
        assert_eq!(lab.discovery.poll_event().unwrap().profile.class(), NatClass::Easy);
        for ask in lab.asks() {
            lab.answer(&ask, "203.0.113.1:7001");
        }
        assert_eq!(lab.discovery.poll_event().unwrap().profile.class(), NatClass::EasyOpen);
    }

    #[test]
    fn silence_is_a_blocked_client() {
        let mut lab = Lab::new();
        let mut sent = lab.asks().len();
        while lab.discovery.poll_timeout().is_some() {
            sent += lab.wait();
        }
        assert_eq!(sent, 15);
        let discovered = lab.discovery.poll_event().unwrap();
        assert_eq!((discovered.profile, discovered.public), (NatProfile::BLOCKED, None));
    }

    #[test]
    fn answers_that_nobody_asked_for_change_nothing() {
        let mut lab = Lab::new();
        let asks = lab.asks();
        let elsewhere = "198.51.100.66:3478".parse().unwrap();
        lab.discovery.handle_answer(lab.now, Socket::Main, elsewhere, reflected(&asks[0], "192.0.2.66:1"));
        lab.discovery.handle_answer(lab.now, Socket::Spare, asks[0].to, reflected(&asks[0], "192.0.2.66:1"));
        let mut stranger = asks[0];
        stranger.probe.transaction = TransactionId([0; 12]);
        lab.discovery.handle_answer(lab.now, Socket::Main, asks[0].to, reflected(&stranger, "192.0.2.66:1"));
        // A filter question that is answered from where it was sent to shows nothing.
        let filter = asks.iter().find(|ask| ask.probe.answer_from == Vantage::OtherPort).unwrap();
        lab.discovery.handle_answer(lab.now, Socket::Spare, filter.to, reflected(filter, "192.0.2.66:1"));
        while lab.discovery.poll_timeout().is_some() {
            lab.wait();
        }
        assert_eq!(lab.discovery.poll_event().unwrap().profile, NatProfile::BLOCKED);
    }

    #[test]
    fn a_reflector_that_cannot_answer_from_elsewhere_ends_the_filter_test() {
        let mut lab = Lab::new();
        for ask in lab.asks() {
            match ask.socket {
                Socket::Main => lab.answer(&ask, "203.0.113.1:7000"),
                Socket::Spare | Socket::Punching(_) => lab.discovery.handle_refusal(lab.now, ask.probe.transaction),
            }
        }
        assert_eq!(lab.discovery.poll_timeout(), None);
        assert_eq!(lab.discovery.poll_event().unwrap().profile.class(), NatClass::Easy);
    }

    #[test]
    fn a_measurement_is_ready_with_the_first_answer_of_each_socket() {
        let now = origin();
        let mut measurement = Measurement::new(now, 2, reflectors(), TAG, SEED);
        let asks: Vec<Ask> = std::iter::from_fn(|| measurement.poll_transmit()).collect();
        assert_eq!(asks.len(), 2);
        measurement.handle_answer(asks[1].socket, asks[1].to, reflected(&asks[1], "203.0.113.1:2"));
        assert_eq!(measurement.poll_event(), None);
        measurement.handle_answer(asks[0].socket, asks[0].to, reflected(&asks[0], "203.0.113.1:1"));
        let expected = [observation("203.0.113.1:1"), observation("203.0.113.1:2")];
        assert_eq!(measurement.poll_event(), Some(expected.to_vec()));
        assert_eq!(measurement.poll_timeout(), None);
    }

    #[test]
    fn a_measurement_without_answers_ends_empty() {
        let mut measurement = Measurement::new(origin(), 0, reflectors(), TAG, SEED);
        while let Some(due) = measurement.poll_timeout() {
            measurement.handle_timeout(due);
        }
        assert_eq!(measurement.poll_event(), Some(vec![]));
    }

    struct Lab {
        discovery: Discovery,
        start: Instant,
        now: Instant,
    }

    impl Lab {
        fn new() -> Self {
            let now = origin();
            Self { discovery: Discovery::new(now, reflectors(), TAG, 7000, SEED), start: now, now }
        }

        fn asks(&mut self) -> Vec<Ask> {
            std::iter::from_fn(|| self.discovery.poll_transmit()).collect()
        }

        fn answer(&mut self, ask: &Ask, seen: &str) {
            let from = match ask.probe.answer_from {
                Vantage::Asked => ask.to,
                Vantage::OtherPort => "198.51.100.1:3479".parse().unwrap(),
                Vantage::OtherAddress | Vantage::Opposite => "198.51.100.2:3478".parse().unwrap(),
            };
            self.discovery.handle_answer(self.now, ask.socket, from, reflected(ask, seen));
        }

        fn step(&mut self) {
            self.now = self.discovery.poll_timeout().unwrap();
            self.discovery.handle_timeout(self.now);
        }

        /// Lets the next timeout pass and counts the questions it brings.
        fn wait(&mut self) -> usize {
            self.step();
            self.asks().len()
        }
    }

    fn reflectors() -> Reflectors {
        let endpoints = ["198.51.100.1:3478", "198.51.100.1:3479", "198.51.100.2:3478"];
        Reflectors::new(&endpoints.map(|text| text.parse().unwrap())).unwrap()
    }

    fn reflected(ask: &Ask, seen: &str) -> Reflected {
        Reflected {
            transaction: ask.probe.transaction,
            seen: seen.parse().unwrap(),
            ttl: 57,
            observation: Some(observation(seen)),
        }
    }

    fn observation(seen: &str) -> Observation {
        Observation(seen.as_bytes().to_vec())
    }
}
