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

mod agenda;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use domain::{PunchId, PunchKind, PunchOrder, PunchPacket, PunchReport, Strategy};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use self::agenda::{
    Aim, MAX_WAIT, MOST_A_SECOND, PACE, SECOND, TALK, aims, is_scattered, opens_again, own_socket, rounds, scatter,
};
pub use self::agenda::{airtime, duration, most_packets};
use crate::discover::Socket;

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

/// Timers are coarse.
const SCATTER_AT_ONCE: u32 = 4;
/// Aims that BIRTHDAY serves at once, and the time until the next: all 256 sockets are open after an eighth of a second.
const PART: usize = 16;
const PART_TIME: Duration = Duration::from_millis(8);
const USABLE_ANSWERS: usize = 3;
const USABLE_WITHIN: Duration = Duration::from_secs(1);
/// Between the first three probes of an endpoint, and between later ones.
const QUICK_VERIFY: Duration = Duration::from_millis(15);
const VERIFY_INTERVAL: Duration = Duration::from_millis(50);
const MAX_VERIFICATIONS: u8 = 20;
/// Endpoints that the peer may show itself at.
const MAX_TARGETS: usize = 12;
/// From PREPARE to GO: the server waits for its locks no longer than this.
const ORDER_PATIENCE: Duration = Duration::from_secs(15);
/// How long the peer may still need answers.
const LINGER: Duration = Duration::from_secs(4);

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
