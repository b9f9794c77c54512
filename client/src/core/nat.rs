//! Discovery, punches and port mapping of this client: connects the pure machines of `traversal` to bytes and sockets.

mod attempt;
mod findings;
mod limits;
mod tcp;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use domain::{
    ClientId, NatProfile, PunchId, PunchOrder, PunchPreparation, PunchReady, SessionTag, Strategy, TransactionId,
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use traversal::{
    classify::History,
    dial::Dial,
    discover::{
        Ask, Connections, Discovered, Discovery, Lifetime, MAX_PUNCHING_SOCKETS, Measurement, Reflectors, Socket,
        TcpTest,
    },
    punch::Punch,
};
use wire::{
    control::ClientFrame,
    probe::{self, Answer},
    punch::PunchSeal,
};

use super::{Output, mapping::Mapping, peer::Endpoint};
use crate::{
    command::{MappingView, NatView},
    network::Surroundings,
    portmap::{Granted, Wish},
    settings::Choices,
    sockets::SocketId,
};
use attempt::Attempt;
use limits::{Limits, Standpoint};
use tcp::Dialling;

/// What this client finds out about its NATs, and its punches under way.
#[derive(Debug)]
pub(crate) struct Nat {
    own: ClientId,
    random: StdRng,
    session: Option<Session>,
    surroundings: Surroundings,
    /// Of the main socket.
    port: u16,
    discovery: Option<Discovery>,
    /// When the next discovery begins by itself.
    refresh: Option<Instant>,
    /// When what stayed silent is asked again, and how often that was done.
    again: Option<Instant>,
    times_again: u32,
    history: History,
    found: Option<Discovered>,
    lifetime_test: Option<Lifetime>,
    /// When the next one begins.
    lifetime_due: Option<Instant>,
    lifetime: Option<Duration>,
    tcp_test: Option<TcpTest>,
    connections: Option<Connections>,
    mapping: Mapping,
    /// What the server knows of this session.
    reported: Option<NatProfile>,
    /// Whether there are observations of this session: those of another one are worth nothing to the server.
    measured: bool,
    /// Opened for discovery or lifetime test.
    measuring: BTreeSet<SocketId>,
    punches: BTreeMap<u64, Attempt>,
    limits: Limits,
    loopback: bool,
    next_socket: SocketId,
    next_port: SocketId,
    /// Sockets of punches that are over, held by the peers that are reached through them.
    kept: BTreeSet<SocketId>,
    ways: VecDeque<Way>,
}

/// A direct way that a punch found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) peer: ClientId,
    pub(crate) endpoint: Endpoint,
    pub(crate) rtt: Duration,
}

#[derive(Clone, Debug)]
struct Session {
    tag: SessionTag,
    reflectors: Reflectors,
}

impl Nat {
    pub(crate) fn new(own: ClientId, nonce: [u8; 12], seed: [u8; 32], choices: Choices) -> Self {
        let mapping = Mapping::new(choices.port_mapping, nonce);
        Self {
            own,
            random: StdRng::from_seed(seed),
            session: None,
            surroundings: Surroundings::default(),
            port: 0,
            discovery: None,
            refresh: None,
            again: None,
            times_again: 0,
            history: History::default(),
            found: None,
            lifetime_test: None,
            lifetime_due: None,
            lifetime: None,
            tcp_test: None,
            connections: None,
            mapping,
            reported: None,
            measured: false,
            measuring: BTreeSet::new(),
            punches: BTreeMap::new(),
            limits: Limits::default(),
            loopback: choices.loopback,
            next_socket: SocketId::FIRST_PUNCHING,
            next_port: SocketId::FIRST_TCP,
            kept: BTreeSet::new(),
            ways: VecDeque::new(),
        }
    }

    /// A control session began: measure.
    pub(crate) fn handle_session(
        &mut self,
        now: Instant,
        tag: SessionTag,
        reflectors: &[SocketAddr],
        outputs: &mut VecDeque<Output>,
    ) {
        self.session = Reflectors::new(reflectors).map(|reflectors| Session { tag, reflectors });
        (self.reported, self.measured, self.times_again) = (None, false, 0);
        self.discover(now, outputs);
    }

    /// Where this client is, at first or after a change. Returns whether it moved: what was found elsewhere says nothing.
    pub(crate) fn handle_network(
        &mut self,
        now: Instant,
        surroundings: Surroundings,
        port: u16,
        outputs: &mut VecDeque<Output>,
    ) -> bool {
        let first = self.port == 0;
        let moved = !first && (port != self.port || surroundings.moved_from(&self.surroundings));
        let router = surroundings.router.map(|router| router.address);
        let routed = router.is_some() && router != self.surroundings.router.map(|router| router.address);
        self.surroundings = surroundings;
        self.port = port;
        if first || moved || routed {
            self.mapping.handle_network(now, router, port);
        }
        if moved {
            (self.found, self.connections) = (None, None);
            self.end_lifetime_test(outputs);
            (self.lifetime, self.lifetime_due) = (None, None);
            self.times_again = 0;
            self.discover(now, outputs);
        }
        self.drain(now, outputs);
        moved
    }

    /// PREPARE.
    pub(crate) fn handle_preparation(
        &mut self,
        now: Instant,
        preparation: &PunchPreparation,
        outputs: &mut VecDeque<Output>,
    ) {
        let PunchPreparation { punch, peer, tcp, .. } = *preparation;
        let count = if tcp { 0 } else { preparation.sockets.min(MAX_PUNCHING_SOCKETS) };
        if self.punches.get(&punch.number).is_some_and(|attempt| attempt.may_measure_again(punch, peer)) {
            return self.measure_again(now, punch.number, count, outputs);
        }
        let running = self.punches.values().map(|one| (one.punch.id(), one.peer, one.weight()));
        let weight = if tcp { TCP_WEIGHT } else { count };
        if !self.limits.allow(now, punch, weight, running, peer) {
            tracing::debug!(%peer, "a punch was refused: too many, or one that was seen before");
            return;
        }
        let sockets = self.open_sockets(count, outputs);
        let dialling = tcp.then(|| {
            let port = self.tcp_port();
            outputs.push_back(Output::Open(port));
            Dialling { port, dial: Dial::new(self.random.random()), found: None }
        });
        let measurement = if tcp { self.measurement_over_tcp(now) } else { self.measurement(now, count) };
        let ready = PunchReady {
            punch,
            observations: Vec::new(),
            local: self.local_endpoints(),
            mapped: self.mapping.counts(self.seen()),
            lan: self.surroundings.router.and_then(|router| router.lan),
        };
        if measurement.is_none() {
            outputs.push_back(Output::Say(ClientFrame::PunchReady(ready.clone())));
        }
        let attempt = Attempt {
            peer,
            seal: PunchSeal::new(&preparation.key, self.own, peer),
            measurement,
            punch: Punch::new(now, punch, self.random.random()),
            sockets,
            dialling,
            reflectors: BTreeSet::new(),
            found: BTreeSet::new(),
            ready,
        };
        self.punches.insert(punch.number, attempt);
        self.drain(now, outputs);
    }

    /// PREPARE once more: the measurement got old while the pair waited for its turn. The ports of sockets that asked before
    /// are known to the NAT and show nothing new.
    fn measure_again(&mut self, now: Instant, number: u64, count: u16, outputs: &mut VecDeque<Output>) {
        if self.punches.get(&number).is_some_and(|attempt| attempt.dialling.is_some()) {
            // The port is the same whenever it is asked about: that is what was prepared for.
            return self.measure_tcp_again(now, number, outputs);
        }
        let others = self.punches.iter().filter(|(other, _)| **other != number);
        let open = others.map(|(_, attempt)| attempt.weight()).sum();
        if !self.limits.allow_sockets(now, count, open) {
            return;
        }
        let sockets = self.open_sockets(count, outputs);
        let measurement = self.measurement(now, count);
        if let Some(attempt) = self.punches.get_mut(&number) {
            let old = std::mem::replace(&mut attempt.sockets, sockets);
            outputs.extend(old.into_iter().map(Output::Close));
            attempt.measurement = measurement;
        }
        self.drain(now, outputs);
    }

    /// All are open before the first question leaves: opening them afterwards would cost time in which ports move on.
    fn open_sockets(&mut self, count: u16, outputs: &mut VecDeque<Output>) -> Vec<SocketId> {
        let mut sockets: Vec<SocketId> = (0..count).map(|_| self.socket()).collect();
        sockets.sort_unstable();
        outputs.extend(sockets.iter().map(|&socket| Output::Open(socket)));
        sockets
    }

    /// `None` without a session.
    fn measurement(&mut self, now: Instant, sockets: u16) -> Option<Measurement> {
        let seed = self.random.random();
        let pooled = self.profile().is_some_and(|profile| profile.pool);
        let session = self.session.as_ref()?;
        let begin = if pooled { Measurement::of_pool } else { Measurement::new };
        Some(begin(now, sockets, session.reflectors, session.tag, seed))
    }

    fn measurement_over_tcp(&mut self, now: Instant) -> Option<Measurement> {
        let seed = self.random.random();
        let session = self.session.as_ref()?;
        Some(Measurement::over_tcp(now, session.reflectors, session.tag, seed))
    }

    /// GO.
    pub(crate) fn handle_order(&mut self, now: Instant, mut order: PunchOrder, outputs: &mut VecDeque<Output>) {
        let from = Standpoint { seen: self.seen(), loopback: self.loopback };
        if let Some(attempt) = self.punches.get_mut(&order.punch.number) {
            order.candidates.retain(|candidate| limits::may_send(from, candidate));
            if let Some(dialling) = attempt.dialling.as_mut().filter(|_| order.strategy == Strategy::Tcp) {
                dialling.dial.handle_order(now, &order);
            }
            attempt.punch.handle_order(now, order);
        }
        self.drain(now, outputs);
    }

    /// The punch will not happen.
    pub(crate) fn handle_cancel(&mut self, now: Instant, punch: PunchId, outputs: &mut VecDeque<Output>) {
        if let Some(attempt) = self.punches.get_mut(&punch.number)
            && attempt.punch.id() == punch
        {
            attempt.punch.handle_cancel();
        }
        self.drain(now, outputs);
    }

    /// A STUN message came.
    pub(crate) fn handle_stun(
        &mut self,
        now: Instant,
        socket: SocketId,
        from: SocketAddr,
        datagram: &[u8],
        outputs: &mut VecDeque<Output>,
    ) {
        if let Some(transaction) = asked(datagram) {
            if let Some(discovery) = &mut self.discovery {
                discovery.handle_hairpin(now, from, transaction);
            }
        } else {
            match probe::answer(datagram) {
                Ok(Answer::Reflected(reflected)) => {
                    if let (Some(discovery), Some(name)) = (&mut self.discovery, discovering(socket)) {
                        discovery.handle_answer(now, name, from, reflected.clone());
                    }
                    if let (Some(test), Some(name)) = (&mut self.lifetime_test, discovering(socket)) {
                        test.handle_answer(now, name, from, reflected.clone());
                    }
                    if let Some(test) = self.tcp_test.as_mut().filter(|_| socket == SocketId::TCP_TEST) {
                        test.handle_answer(Socket::Tcp, from, reflected.clone());
                    }
                    for attempt in self.punches.values_mut() {
                        attempt.handle_reflected(now, socket, from, reflected.clone());
                    }
                }
                Ok(Answer::Refused { transaction, .. }) => {
                    if let Some(discovery) = &mut self.discovery {
                        discovery.handle_refusal(now, transaction);
                    }
                    if let Some(test) = &mut self.lifetime_test {
                        test.handle_refusal(transaction);
                    }
                }
                Err(_) => {}
            }
        }
        self.drain(now, outputs);
    }

    /// A punch packet came.
    pub(crate) fn handle_punch(
        &mut self,
        now: Instant,
        socket: SocketId,
        from: SocketAddr,
        datagram: &[u8],
        outputs: &mut VecDeque<Output>,
    ) {
        let Some(number) = wire::punch::claimed_number(datagram) else { return };
        if let Some(attempt) = self.punches.get_mut(&number) {
            attempt.handle_datagram(now, socket, from, datagram);
        }
        self.drain(now, outputs);
    }

    /// What the router said to `wish`.
    pub(crate) fn handle_mapped(
        &mut self,
        now: Instant,
        wish: &Wish,
        granted: Option<Granted>,
        outputs: &mut VecDeque<Output>,
    ) {
        if self.mapping.handle_answer(now, wish, granted) {
            let found = self.mapping.granted().map(|granted| granted.by);
            tracing::info!(by = ?found, "the router maps a port");
        }
        self.drain(now, outputs);
    }

    /// Does what is due.
    pub(crate) fn handle_deadline(&mut self, now: Instant, outputs: &mut VecDeque<Output>) {
        if self.refresh.is_some_and(|refresh| refresh <= now) {
            self.discover(now, outputs);
        }
        if self.again.is_some_and(|again| again <= now) {
            self.ask_again(now, outputs);
        }
        if self.lifetime_due.is_some_and(|due| due <= now) {
            self.test_lifetime(now, outputs);
        }
        if let Some(discovery) = &mut self.discovery {
            discovery.handle_timeout(now);
        }
        if let Some(test) = &mut self.lifetime_test {
            test.handle_timeout(now);
        }
        if let Some(test) = &mut self.tcp_test {
            test.handle_timeout(now);
        }
        self.mapping.handle_deadline(now);
        for attempt in self.punches.values_mut() {
            attempt.handle_timeout(now);
        }
        self.drain(now, outputs);
    }

    pub(crate) fn poll_deadline(&self) -> Option<Instant> {
        let attempts = self.punches.values().filter_map(Attempt::poll_timeout).min();
        let discovery = self.discovery.as_ref().and_then(Discovery::poll_timeout);
        let lifetime = self.lifetime_test.as_ref().and_then(Lifetime::poll_timeout);
        let mapping = self.mapping.poll_deadline();
        let tcp_test = self.tcp_test.as_ref().and_then(TcpTest::poll_timeout);
        let own = [self.refresh, self.again, self.lifetime_due];
        own.into_iter().chain([attempts, discovery, lifetime, tcp_test, mapping]).flatten().min()
    }

    /// A way that was found. Its socket stays open until [`Nat::release`].
    pub(crate) fn poll_way(&mut self) -> Option<Way> {
        self.ways.pop_front()
    }

    /// No peer is reached through `socket` any more.
    pub(crate) fn release(&mut self, socket: SocketId, outputs: &mut VecDeque<Output>) {
        if self.kept.remove(&socket) {
            outputs.push_back(Output::Close(socket));
        }
        for attempt in self.punches.values_mut() {
            attempt.found.remove(&socket);
        }
    }

    /// The last result of a discovery.
    pub(crate) const fn found(&self) -> Option<&Discovered> {
        self.found.as_ref()
    }

    /// All that is known, in one.
    pub(crate) fn profile(&self) -> Option<NatProfile> {
        let profile = self.found.as_ref()?.profile;
        let lifetime_s = self.lifetime.and_then(|lifetime| u16::try_from(lifetime.as_secs()).ok());
        let port_mapping = self.mapping.counts(self.seen()).is_some();
        let tcp = self.connections.map(|connections| connections.mapping);
        Some(NatProfile { lifetime_s, port_mapping, tcp, ..profile })
    }

    /// The port mapping that is to be given back at the end.
    pub(crate) fn leftover_mapping(&self) -> Option<Wish> {
        self.mapping.leftover()
    }

    /// For people.
    pub(crate) fn view(&self) -> NatView {
        let port_mapping = self.mapping.granted().map(|granted| MappingView {
            external: granted.external.into(),
            by: granted.by,
            usable: self.mapping.counts(self.seen()).is_some(),
        });
        let public = self.found.as_ref().and_then(|found| found.public);
        let known = self.profile().as_ref().map_or_else(NatView::default, NatView::from);
        NatView { public, port_mapping, ..known }
    }

    /// How long a mapping outlives silence; `None` where that was not measured.
    pub(crate) const fn lifetime(&self) -> Option<Duration> {
        self.lifetime
    }

    /// Where the main socket is bound on this machine's interfaces.
    pub(crate) fn local_endpoints(&self) -> Vec<SocketAddr> {
        self.surroundings.addresses.iter().map(|address| SocketAddr::new(*address, self.port)).collect()
    }

    fn close_measuring(&mut self, which: impl Fn(SocketId) -> bool, outputs: &mut VecDeque<Output>) {
        let (closed, open) = std::mem::take(&mut self.measuring).into_iter().partition(|&socket| which(socket));
        self.measuring = open;
        let closed: BTreeSet<SocketId> = closed;
        outputs.extend(closed.into_iter().map(Output::Close));
    }

    /// A name for a socket that no other has.
    fn socket(&mut self) -> SocketId {
        loop {
            let socket = self.next_socket;
            let next = SocketId(socket.0 + 1);
            self.next_socket = if next.is_tcp() { SocketId::FIRST_PUNCHING } else { next };
            let used = self.punches.values().any(|attempt| attempt.sockets.contains(&socket));
            if !used && !self.kept.contains(&socket) {
                return socket;
            }
        }
    }
}

fn question(socket: SocketId, ask: &Ask) -> Output {
    let datagram = BytesMut::from(&probe::question(&ask.probe)[..]);
    Output::Send { socket, to: ask.to, ttl: None, datagram }
}

/// The transaction of a binding request (RFC 8489, section 5): one of ours that came back, perhaps.
fn asked(datagram: &[u8]) -> Option<TransactionId> {
    let transaction = datagram.get(8..20)?.try_into().ok()?;
    datagram.starts_with(&[0, 1]).then_some(TransactionId(transaction))
}

/// The socket that discovery and lifetime test call `name`.
const fn measuring(name: Socket) -> SocketId {
    match name {
        Socket::Main | Socket::Punching(_) => SocketId::MAIN,
        Socket::Tcp => SocketId::TCP_TEST,
        Socket::Spare => SocketId::SPARE,
        Socket::Burst(place) => SocketId::burst(place),
        Socket::Lifetime(place) => SocketId::lifetime(place),
    }
}

/// What those call `socket`.
fn discovering(socket: SocketId) -> Option<Socket> {
    match socket {
        SocketId::MAIN => Some(Socket::Main),
        SocketId::SPARE => Some(Socket::Spare),
        _ => {
            let place = |first: SocketId| socket.0.checked_sub(first.0).and_then(|place| u8::try_from(place).ok());
            let burst = place(SocketId::burst(0)).map(Socket::Burst);
            burst.or_else(|| place(SocketId::lifetime(0)).map(Socket::Lifetime))
        }
    }
}

const fn is_discovery(name: Socket) -> bool {
    matches!(name, Socket::Spare | Socket::Burst(_))
}

/// A punch over TCP costs up to 42 connections to each of four ports: it counts like a sweep of so many sockets.
const TCP_WEIGHT: u16 = 16;
