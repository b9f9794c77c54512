//! One negotiation on the client: from PREPARE over GO to the report.
//!
//! At the common start both sides send *openers*: packets with so small a hop limit that they open the sender's NAT and
//! die before the peer's, where a packet that arrives early would make some NATs move the port that we are about to use.
//! The first packets that are meant to arrive leave one gap later, in rounds.
//!
//! | strategy | openers and rounds go | rounds after the gap, in ms |
//! |---|---|---|
//! | DIRECT | from one socket to every candidate | 0, 50, 150, 350, 750, 1200 |
//! | REVEAL, open side | openers only | (openers again at 150) |
//! | PREDICT, easy side | to every port of the window, too | 0, 200, 600 |
//! | SWEEP | from every socket, all at once | 0, 100, 200, 300, 400 as far as 480 packets allow, the last ones a second later |
//! | BIRTHDAY, hard side | from every socket, half a millisecond apart | 2200 (openers again at 1100) |
//! | BIRTHDAY, easy side | and one packet to each port of the scatter, two milliseconds apart | as DIRECT |
//! | TCP | nowhere: [`crate::dial`] makes connections, and what is told here goes over those | |
//!
//! Every probe is answered to where it came from, whatever was expected: a hard NAT shows its port that way. An endpoint
//! is *valid* with the answer to a probe of ours from exactly there, and *usable* after three answers within a second.
//! As soon as the peer shows itself anywhere, sprays and sockets fall silent. The side that is done keeps answering for a
//! while, because its peer may need those answers.
//!
//! A peer can make us send to addresses that it names by forging sources, so the number of endpoints is bounded, and that
//! of packets for each order ([`most_packets`]). Packets reach this code only after their MAC was checked.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use domain::{Candidate, PunchId, PunchKind, PunchOrder, PunchPacket, PunchReport, Scope, Spray, Strategy, scope};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use crate::{
    dial::{DIALLING, MOST_TRIES, dialled},
    discover::{MAX_PUNCHING_SOCKETS, Socket},
    predict,
};

/// How long after the last round an answer may still arrive.
const LAST_ANSWER: Duration = Duration::from_millis(1_000);

/// A packet to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    pub socket: Socket,
    pub to: SocketAddr,
    /// Hop limit; the usual one when `None`.
    pub ttl: Option<u8>,
    pub packet: PunchPacket,
}

/// What a punch tells its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer answers there, to this socket.
    Usable { socket: Socket, endpoint: SocketAddr, rtt: Duration },
    /// For the server. Packets of the peer are still to be handed in.
    Finished(PunchReport),
    /// Nothing more will happen: drop the punch.
    Over,
}

/// From the common start of `order` until it is given up.
#[must_use]
pub fn duration(order: &PunchOrder) -> Duration {
    let gap = Duration::from_micros(order.gap_us).min(MAX_WAIT);
    let last =
        if order.strategy == Strategy::Tcp { DIALLING } else { rounds(order).last().copied().unwrap_or_default() };
    gap + last.max(PACE * u32::from(scattered(order))).max(SECOND * paced(order) / MOST_A_SECOND) + LAST_ANSWER
}

/// Ports that get a single packet.
fn scattered(order: &PunchOrder) -> u16 {
    match order.spray {
        Some(Spray::Scatter { count, .. }) => count.min(predict::BIRTHDAY_PROBES),
        Some(Spray::Window { .. }) | None => 0,
    }
}

/// The most packets that this side may send for `order`, answers and validation included.
#[must_use]
pub fn most_packets(order: &PunchOrder) -> u32 {
    let aims = u32::try_from(aims(order).len()).unwrap_or(u32::MAX);
    let openers = u32::from(order.opener_ttl > 0) + u32::from(opens_again(order).is_some());
    let rounds = u32::try_from(rounds(order).len()).unwrap_or(u32::MAX);
    let tries = match order.strategy {
        Strategy::Tcp => u32::try_from(dialled(order).count()).unwrap_or(0).saturating_mul(MOST_TRIES),
        Strategy::Direct
        | Strategy::Reveal
        | Strategy::Predict
        | Strategy::Sweep
        | Strategy::Birthday
        | Strategy::Relay => aims.saturating_mul(rounds + openers),
    };
    tries.saturating_add(scattered(order).into()).saturating_add(TALK)
}

/// What an order sends without being asked: openers, rounds, and single packets.
fn paced(order: &PunchOrder) -> u32 {
    most_packets(order) - TALK
}

/// How long `order` takes what a public address may send.
#[must_use]
pub fn airtime(order: &PunchOrder) -> Duration {
    SECOND * paced(order) / MOST_A_SECOND
}

/// One negotiation, from PREPARE on.
#[derive(Debug)]
pub struct Punch {
    id: PunchId,
    rng: StdRng,
    order: Option<PunchOrder>,
    start: Instant,
    /// Where openers and rounds go.
    aims: Vec<Aim>,
    /// Where single packets go, the last one first.
    scatter: Vec<SocketAddr>,
    /// Nonces of rounds, and when those left. Every packet of a round has the same.
    rounds: Vec<(u64, Instant)>,
    /// Endpoints at which the peer showed itself.
    targets: Vec<Target>,
    tasks: BTreeMap<(Instant, u32), Task>,
    task_number: u32,
    first_answer: Option<Instant>,
    stage: Stage,
    packets: u32,
    most: u32,
    /// When the packets of the last second left.
    lately: VecDeque<Instant>,
    /// Rounds that are not finished.
    unfinished: u32,
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
    /// Send openers to the aims from this one on.
    Open(usize),
    /// Begin a round.
    Round,
    /// Send the probes of a round to the aims from this one on.
    Volley(usize),
    /// Send the next packets of the scatter.
    Scatter,
    /// Send another probe to a target.
    Verify(usize),
    /// Report failure.
    GiveUp,
    /// Stop answering.
    End,
}

/// A socket of ours and an endpoint where the peer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Aim {
    socket: Socket,
    endpoint: SocketAddr,
    /// On the same LAN.
    local: bool,
    /// A guess among many, pointless as soon as the peer shows itself anywhere.
    guess: bool,
}

/// A socket of ours and an endpoint where the peer is.
#[derive(Debug)]
struct Target {
    socket: Socket,
    endpoint: SocketAddr,
    verifications: u8,
    sent: VecDeque<(u64, Instant)>,
    /// Nonces of rounds that were answered from here.
    rounds: Vec<u64>,
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
            order: None,
            start: now,
            aims: Vec::new(),
            scatter: Vec::new(),
            rounds: Vec::new(),
            targets: Vec::new(),
            tasks: BTreeMap::new(),
            task_number: 0,
            first_answer: None,
            stage: Stage::Prepared,
            packets: 0,
            most: TALK,
            lately: VecDeque::new(),
            unfinished: 0,
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
        self.aims = aims(&order);
        self.scatter = scatter(&order);
        self.most = self.packets.saturating_add(most_packets(&order));
        // Whatever a broken server says, a punch ends.
        let wait = Duration::from_micros(order.wait_us).min(MAX_WAIT);
        let gap = Duration::from_micros(order.gap_us).min(MAX_WAIT);
        self.start = now + wait;
        let first = self.start + gap;
        if order.opener_ttl > 0 && !self.aims.is_empty() {
            self.schedule(self.start, Task::Open(0));
        }
        if let Some(again) = opens_again(&order) {
            self.schedule(first + again, Task::Open(0));
        }
        if self.aims.iter().any(|aim| aim.local) {
            self.schedule(self.start, Task::Round);
        }
        for &round in rounds(&order) {
            self.schedule(first + round, Task::Round);
        }
        if !self.scatter.is_empty() {
            self.schedule(first, Task::Scatter);
        }
        self.schedule(self.start + duration(&order), Task::GiveUp);
        self.order = Some(order);
        self.finish_if_usable();
        self.handle_timeout(now);
    }

    /// An authentic packet of the peer arrived at `socket`.
    pub fn handle_packet(&mut self, now: Instant, socket: Socket, from: SocketAddr, packet: PunchPacket) {
        if packet.number != self.id.number || self.stage == Stage::Over {
            return;
        }
        match packet.kind {
            PunchKind::Opener | PunchKind::Probe => self.handle_probe(now, socket, from, packet),
            PunchKind::Answer => self.handle_answer(now, socket, from, packet.nonce),
        }
    }

    /// A connection was tried: it counts like a packet.
    pub fn handle_dialled(&mut self) {
        self.packets = self.packets.saturating_add(1);
    }

    /// There is a connection to where the peer was observed.
    pub fn handle_connected(&mut self, now: Instant, socket: Socket, endpoint: SocketAddr) {
        if let Some(index) = self.target(socket, endpoint) {
            let target = &mut self.targets[index];
            if !target.usable {
                // Of an earlier connection that ended.
                target.verifications = 0;
            }
            self.verify_if_new(now, index);
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
                Task::Open(from) => self.open(now, from),
                Task::Round => self.round(now),
                Task::Volley(from) => self.volley(now, from),
                Task::Scatter => self.scatter(now),
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

    /// Whether the order is still to come.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.stage == Stage::Prepared
    }

    /// Which negotiation this is.
    #[must_use]
    pub const fn id(&self) -> PunchId {
        self.id
    }

    fn handle_probe(&mut self, now: Instant, socket: Socket, from: SocketAddr, packet: PunchPacket) {
        let Some(index) = self.target(socket, from) else { return };
        self.send(now, socket, from, PunchKind::Answer, packet.nonce, None);
        self.verify_if_new(now, index);
    }

    fn handle_answer(&mut self, now: Instant, socket: Socket, from: SocketAddr, nonce: u64) {
        let Some(sent) = self.sent(socket, from, nonce) else { return };
        let Some(index) = self.target(socket, from) else { return };
        let target = &mut self.targets[index];
        let rtt = now.saturating_duration_since(sent);
        target.rtt = Some(target.rtt.map_or(rtt, |best| best.min(rtt)));
        target.answered.push_back(now);
        target.answered.retain(|&answered| now.saturating_duration_since(answered) <= USABLE_WITHIN);
        self.first_answer.get_or_insert(now);
        if !target.usable && target.answered.len() >= USABLE_ANSWERS {
            target.usable = true;
            self.events.push_back(Event::Usable { socket, endpoint: from, rtt: target.rtt.unwrap_or(rtt) });
        }
        self.verify_if_new(now, index);
        self.finish_if_usable();
    }

    /// When the probe left that an answer with `nonce` from there belongs to. Each counts once.
    fn sent(&mut self, socket: Socket, from: SocketAddr, nonce: u64) -> Option<Instant> {
        if let Some(target) = self.targets.iter_mut().find(|target| target.is(socket, from))
            && let Some(place) = target.sent.iter().position(|&(sent, _)| sent == nonce)
        {
            return target.sent.remove(place).map(|(_, at)| at);
        }
        let &(_, at) = self.rounds.iter().find(|&&(round, _)| round == nonce)?;
        let aimed = self.aims.iter().any(|aim| aim.socket == socket && aim.endpoint == from)
            || self.order.as_ref().is_some_and(|order| is_scattered(order, socket, from));
        let index = aimed.then(|| self.target(socket, from)).flatten()?;
        let rounds = &mut self.targets[index].rounds;
        let news = !rounds.contains(&nonce);
        news.then(|| {
            rounds.push(nonce);
            at
        })
    }

    /// Probes a target that just showed itself, until it is usable.
    fn verify_if_new(&mut self, now: Instant, index: usize) {
        if self.targets[index].verifications == 0 && matches!(self.stage, Stage::Prepared | Stage::Punching) {
            self.verify(now, index);
        }
    }

    fn verify(&mut self, now: Instant, index: usize) {
        let target = &mut self.targets[index];
        if target.usable || target.verifications >= MAX_VERIFICATIONS {
            return;
        }
        target.verifications += 1;
        let nonce = self.rng.random();
        target.sent.push_back((nonce, now));
        let (socket, endpoint) = (target.socket, target.endpoint);
        self.send(now, socket, endpoint, PunchKind::Probe, nonce, None);
        let quick = usize::from(self.targets[index].verifications) < USABLE_ANSWERS;
        self.schedule(now + if quick { QUICK_VERIFY } else { VERIFY_INTERVAL }, Task::Verify(index));
    }

    fn open(&mut self, now: Instant, from: usize) {
        let ttl = self.order.as_ref().map(|order| order.opener_ttl);
        let end = self.end_of_part(from);
        for place in from..end {
            let aim = self.aims[place];
            if !aim.local && self.is_open(aim) {
                if let Err(room) = self.room(now) {
                    return self.schedule(room, Task::Open(place));
                }
                let nonce = self.rng.random();
                self.send(now, aim.socket, aim.endpoint, PunchKind::Opener, nonce, ttl);
            }
        }
        if end < self.aims.len() {
            self.schedule(now + PART_TIME, Task::Open(end));
        }
    }

    /// Begins a round, unless the one before has not come to its end.
    fn round(&mut self, now: Instant) {
        if self.unfinished == 0 {
            self.unfinished += 1;
            self.volley(now, 0);
        }
    }

    /// Before the end of the gap only LAN candidates get a probe.
    fn volley(&mut self, now: Instant, from: usize) {
        let nonce = self.rng.random();
        self.rounds.push((nonce, now));
        let gap = self.order.as_ref().map_or(Duration::ZERO, |order| Duration::from_micros(order.gap_us));
        let end = self.end_of_part(from);
        for place in from..end {
            let aim = self.aims[place];
            if (aim.local || now >= self.start + gap) && self.is_open(aim) {
                if let Err(room) = self.room(now) {
                    return self.schedule(room, Task::Volley(place));
                }
                self.send(now, aim.socket, aim.endpoint, PunchKind::Probe, nonce, None);
            }
        }
        if end < self.aims.len() {
            self.schedule(now + PART_TIME, Task::Volley(end));
        } else {
            self.unfinished -= 1;
        }
    }

    fn scatter(&mut self, now: Instant) {
        if !self.targets.is_empty() {
            self.scatter.clear();
            return;
        }
        let nonce = self.rng.random();
        self.rounds.push((nonce, now));
        let socket = self.order.as_ref().map_or(Socket::Main, own_socket);
        for _ in 0..SCATTER_AT_ONCE {
            if let Err(room) = self.room(now) {
                return self.schedule(room, Task::Scatter);
            }
            let Some(endpoint) = self.scatter.pop() else { return };
            self.send(now, socket, endpoint, PunchKind::Probe, nonce, None);
        }
        self.schedule(now + PACE * SCATTER_AT_ONCE, Task::Scatter);
    }

    /// Whether this second has room for one more packet that nobody waits for; otherwise when the next one has.
    fn room(&mut self, now: Instant) -> Result<(), Instant> {
        while self.lately.front().is_some_and(|&first| now.saturating_duration_since(first) >= SECOND) {
            self.lately.pop_front();
        }
        let over = self.lately.len().checked_sub(MOST_A_SECOND as usize);
        match over.and_then(|over| self.lately.get(over)) {
            Some(&first) => Err(first + SECOND),
            None => Ok(()),
        }
    }

    /// Whether there is a point in sending to `aim`.
    fn is_open(&self, aim: Aim) -> bool {
        if aim.guess {
            self.targets.is_empty()
        } else {
            !self.targets.iter().any(|target| target.endpoint == aim.endpoint)
        }
    }

    /// Many sessions at once are more than some routers can make: BIRTHDAY's sockets send one after another.
    fn end_of_part(&self, from: usize) -> usize {
        let paced = self.order.as_ref().is_some_and(|order| order.strategy == Strategy::Birthday);
        if paced { self.aims.len().min(from + PART) } else { self.aims.len() }
    }

    fn send(&mut self, now: Instant, socket: Socket, to: SocketAddr, kind: PunchKind, nonce: u64, ttl: Option<u8>) {
        if self.packets >= self.most {
            return;
        }
        self.packets += 1;
        self.lately.push_back(now);
        let attempt = self.order.as_ref().map_or(0, |order| order.attempt);
        let packet = PunchPacket { kind, attempt, number: self.id.number, nonce };
        self.transmits.push_back(Transmit { socket, to, ttl, packet });
    }

    /// The target there, made when there is room.
    fn target(&mut self, socket: Socket, endpoint: SocketAddr) -> Option<usize> {
        if let Some(index) = self.targets.iter().position(|target| target.is(socket, endpoint)) {
            return Some(index);
        }
        (self.targets.len() < MAX_TARGETS).then(|| {
            self.targets.push(Target {
                socket,
                endpoint,
                verifications: 0,
                sent: VecDeque::new(),
                rounds: Vec::new(),
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
        let is_local = |endpoint| self.aims.iter().any(|aim| aim.local && aim.endpoint == endpoint);
        let usable = self.targets.iter().filter(|target| target.usable);
        let best = usable.min_by_key(|target| (!is_local(target.endpoint), target.rtt));
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

impl Target {
    fn is(&self, socket: Socket, endpoint: SocketAddr) -> bool {
        self.socket == socket && self.endpoint == endpoint
    }
}

/// The candidates that may be sent to. Addresses that no host has are left out.
fn targets(order: &PunchOrder) -> impl Iterator<Item = &Candidate> {
    let first = order.candidates.iter().take(MAX_CANDIDATES);
    first.filter(|candidate| candidate.endpoint.port() != 0 && scope(candidate.endpoint.ip()) != Scope::Unusable)
}

/// Where an order sends single packets, the last one first. Several addresses of the peer take turns, and each gets its
/// share of the ports in the same order: when the next attempt goes on in the list, so does every address.
fn scatter(order: &PunchOrder) -> Vec<SocketAddr> {
    let Some(Spray::Scatter { low, high, step, seed, skip, count }) = order.spray else { return Vec::new() };
    let mut addresses: Vec<IpAddr> = Vec::new();
    for candidate in targets(order).filter(|candidate| !candidate.local && !candidate.main) {
        if !addresses.contains(&candidate.endpoint.ip()) {
            addresses.push(candidate.endpoint.ip());
        }
    }
    let sharing = u16::try_from(addresses.len()).unwrap_or(u16::MAX).max(1);
    let share = Spray::Scatter { low, high, step, seed, skip: skip / sharing, count: count.div_ceil(sharing) };
    let turns = predict::ports(&share).into_iter().flat_map(|port| {
        let at = move |address: &IpAddr| SocketAddr::new(*address, port);
        addresses.iter().map(at)
    });
    let mut scatter: Vec<_> = turns.take(scattered(order).into()).collect();
    scatter.reverse();
    scatter
}

/// Where an order sends its openers and rounds.
fn aims(order: &PunchOrder) -> Vec<Aim> {
    let mut aims: Vec<Aim> = Vec::new();
    if order.strategy == Strategy::Tcp {
        return aims;
    }
    let sockets = order.sockets.min(MAX_PUNCHING_SOCKETS);
    for candidate in targets(order) {
        let endpoint = candidate.endpoint;
        let aim = |socket, guess| Aim { socket, endpoint, local: candidate.local, guess };
        if candidate.local || candidate.main {
            aims.push(aim(Socket::Main, false));
            continue;
        }
        match sockets {
            0 => aims.push(aim(Socket::Main, false)),
            1 => aims.push(aim(Socket::Punching(0), false)),
            _ => aims.extend((0..sockets).map(|socket| aim(Socket::Punching(socket), true))),
        }
        if let Some(spray @ Spray::Window { .. }) = &order.spray {
            let socket = own_socket(order);
            let window = predict::ports(spray).into_iter().map(|port| SocketAddr::new(endpoint.ip(), port));
            let others = window.filter(|other| *other != endpoint);
            aims.extend(others.map(|endpoint| Aim { socket, endpoint, local: false, guess: true }));
        }
    }
    aims.truncate(MAX_AIMS);
    aims
}

/// The one socket that sprays.
const fn own_socket(order: &PunchOrder) -> Socket {
    if order.sockets == 0 { Socket::Main } else { Socket::Punching(0) }
}

/// Whether a packet of the scatter may have gone there.
fn is_scattered(order: &PunchOrder, socket: Socket, endpoint: SocketAddr) -> bool {
    matches!(order.spray, Some(Spray::Scatter { .. }))
        && socket == own_socket(order)
        && order.candidates.iter().any(|candidate| !candidate.main && candidate.endpoint.ip() == endpoint.ip())
}

/// The open side of a revealing pair sends nothing else until the other side's packet shows where to.
fn only_opens(order: &PunchOrder) -> bool {
    order.strategy == Strategy::Reveal && order.opener_ttl > 0
}

/// When openers leave for the second time, counted from the end of the gap.
fn opens_again(order: &PunchOrder) -> Option<Duration> {
    match order.strategy {
        Strategy::Reveal if only_opens(order) => Some(ms(150)),
        // Some get lost. Those that arrived would take ports of the easy side's router before its probes do.
        Strategy::Birthday if order.spray.is_none() && order.opener_ttl > 0 => Some(ms(1_100)),
        Strategy::Direct
        | Strategy::Reveal
        | Strategy::Predict
        | Strategy::Sweep
        | Strategy::Birthday
        | Strategy::Tcp
        | Strategy::Relay => None,
    }
}

/// When packets that are meant to arrive leave, counted from the end of the gap.
fn rounds(order: &PunchOrder) -> &'static [Duration] {
    match order.strategy {
        Strategy::Reveal if only_opens(order) => &[],
        Strategy::Tcp => &[],
        Strategy::Predict if order.spray.is_some() => &PREDICT_ROUNDS,
        Strategy::Sweep => {
            let most = SWEEP_PACKETS / order.sockets.max(1);
            &SWEEP_ROUNDS[..SWEEP_ROUNDS.len().min(usize::from(most))]
        }
        Strategy::Birthday if order.spray.is_none() => &BIRTHDAY_ROUNDS,
        Strategy::Direct | Strategy::Reveal | Strategy::Predict | Strategy::Birthday | Strategy::Relay => &ROUNDS,
    }
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

const ROUNDS: [Duration; 6] = [ms(0), ms(50), ms(150), ms(350), ms(750), ms(1_200)];
const PREDICT_ROUNDS: [Duration; 3] = [ms(0), ms(200), ms(600)];
const SWEEP_ROUNDS: [Duration; 5] = [ms(0), ms(100), ms(200), ms(300), ms(400)];
/// After the last packet of the scatter.
const BIRTHDAY_ROUNDS: [Duration; 1] = [ms(2_200)];
/// Of one side in all rounds of a sweep.
const SWEEP_PACKETS: u16 = 480;
/// Between two packets of a scatter: 500 a second.
const PACE: Duration = ms(2);
const SECOND: Duration = Duration::from_secs(1);
/// Packets that leave in any second without being asked. What is left of 500 is for answers and for questions to reflectors.
const MOST_A_SECOND: u32 = 470;
/// Timers are coarse.
const SCATTER_AT_ONCE: u32 = 4;
/// Aims that BIRTHDAY serves at once, and the time until the next: all 256 sockets are open after an eighth of a second.
const PART: usize = 16;
const PART_TIME: Duration = ms(8);

const USABLE_ANSWERS: usize = 3;
const USABLE_WITHIN: Duration = Duration::from_secs(1);
/// Between the first three probes of an endpoint, and between later ones.
const QUICK_VERIFY: Duration = ms(15);
const VERIFY_INTERVAL: Duration = ms(50);
const MAX_VERIFICATIONS: u8 = 20;
/// Candidates that an order may name.
const MAX_CANDIDATES: usize = 8;
/// The most sockets, or the largest window, and the other candidates.
const MAX_AIMS: usize = MAX_PUNCHING_SOCKETS as usize + MAX_CANDIDATES;
/// Endpoints that the peer may show itself at.
const MAX_TARGETS: usize = 12;
/// Answers and validation: an honest peer needs about 30.
const TALK: u32 = 200;
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
}
