//! The measurement that PREPARE asks for, right before a punch, on the sockets that will punch.
//!
//! From the main socket either of two reflectors will do: one of them may belong to a server that just died. From fresh
//! sockets one asks at a time, and every try is another socket's: behind a NAT that counts, a repeated question would show
//! the port of the first try, and that one's age nobody knows. The last mapping made is the one that matters, so once an
//! answer came, whatever was asked beside or after it gets as long as that answer took, and a little more; then the latest
//! is reported.
//!
//! A NAT with several public addresses is different: no port follows from another, and what matters is to know all its
//! addresses. So 16 sockets ask at once, and one observation of each address is reported, the latest first. Of two addresses
//! 16 flows show both but for one case in 30,000, of four but for one in 25.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use domain::{Observation, Reflected, SessionTag, Vantage};

use super::{
    Ask, Reflectors, Socket,
    questions::{Question, Questions, Tries},
};

/// Sockets that one measurement may use: what a random NAT is punched from.
pub const MAX_PUNCHING_SOCKETS: u16 = 256;

/// One measurement. Drive it until [`Measurement::poll_event`] has the observations.
#[derive(Debug)]
pub struct Measurement {
    questions: Questions,
    v6: Option<SocketAddr>,
    /// Every public address counts, not the latest mapping.
    pooled: bool,
    /// When to stop waiting for what was asked beside or after the question that was answered.
    until: Option<Instant>,
    measured: Option<Vec<Observation>>,
    over: bool,
}

impl Measurement {
    /// Starts asking from `sockets` fresh sockets, or from the main socket when that is 0.
    #[must_use]
    pub fn new(now: Instant, sockets: u16, reflectors: Reflectors, tag: SessionTag, seed: [u8; 32]) -> Self {
        let mut measurement = Self::asking_nothing(reflectors, tag, seed);
        let questions = &mut measurement.questions;
        if sockets == 0 {
            for endpoint in [Some(reflectors.first), reflectors.other_address].into_iter().flatten() {
                questions.add(now, Socket::Main, endpoint, Vantage::Asked, Tries { count: TRIES, interval: INTERVAL });
            }
        }
        let sockets = u8::try_from(sockets).unwrap_or(TRIES).min(TRIES);
        for place in 0..sockets {
            let due = now + INTERVAL * u32::from(place);
            // Fewer sockets than tries: the last one has to repeat itself. The others wait until the end.
            let tries = if place + 1 == sockets {
                Tries { count: TRIES - place, interval: INTERVAL }
            } else {
                Tries { count: 1, interval: INTERVAL * u32::from(TRIES - place) }
            };
            questions.add(due, Socket::Punching(u16::from(place)), reflectors.first, Vantage::Asked, tries);
        }
        measurement.begun(now)
    }

    /// The same behind a NAT with several public addresses: one observation of each.
    #[must_use]
    pub fn of_pool(now: Instant, sockets: u16, reflectors: Reflectors, tag: SessionTag, seed: [u8; 32]) -> Self {
        if sockets == 0 {
            return Self::new(now, sockets, reflectors, tag, seed);
        }
        let mut measurement = Self { pooled: true, ..Self::asking_nothing(reflectors, tag, seed) };
        for socket in (0..sockets.min(POOL_SOCKETS)).map(Socket::Punching) {
            let tries = Tries { count: POOL_TRIES, interval: POOL_INTERVAL };
            measurement.questions.add(now, socket, reflectors.first, Vantage::Asked, tries);
        }
        measurement.begun(now)
    }

    fn asking_nothing(reflectors: Reflectors, tag: SessionTag, seed: [u8; 32]) -> Self {
        let questions = Questions::new(Some(tag), seed);
        Self { questions, v6: reflectors.v6, pooled: false, until: None, measured: None, over: false }
    }

    fn begun(mut self, now: Instant) -> Self {
        if let Some(v6) = self.v6 {
            self.questions.add(now, Socket::Main, v6, Vantage::Asked, Tries { count: TRIES, interval: INTERVAL });
        }
        self.questions.handle_timeout(now);
        self
    }

    /// The same for connections, from [`Socket::Tcp`]: one reflector, and another one when that is silent. The connection
    /// that is answered stays, so that the NAT keeps the port until the peer's connection leaves from it.
    #[must_use]
    pub fn over_tcp(now: Instant, reflectors: Reflectors, tag: SessionTag, seed: [u8; 32]) -> Self {
        let mut questions = Questions::new(Some(tag), seed);
        questions.add(now, Socket::Tcp, reflectors.first, Vantage::Asked, Tries { count: 1, interval: TCP_PATIENCE });
        if let Some(other) = reflectors.other_address {
            let tries = Tries { count: 1, interval: TCP_PATIENCE - TCP_SECOND };
            questions.add(now + TCP_SECOND, Socket::Tcp, other, Vantage::Asked, tries);
        }
        questions.handle_timeout(now);
        Self { questions, v6: None, pooled: false, until: None, measured: None, over: false }
    }

    /// No connection to a reflector came about.
    pub fn handle_unreachable(&mut self, now: Instant, to: SocketAddr) {
        if !self.over {
            self.questions.give_up(|question| question.to == to && question.asked.is_some());
            self.conclude(now);
        }
    }

    /// An answer arrived at `socket`.
    pub fn handle_answer(&mut self, now: Instant, socket: Socket, from: SocketAddr, reflected: Reflected) {
        if self.over {
            return;
        }
        let Some(question) = self.questions.handle_answer(socket, from, reflected) else { return };
        let asked = question.asked;
        if Some(question.to) != self.v6 && self.until.is_none() {
            let (v6, pooled) = (self.v6, self.pooled);
            // Fresh sockets that have not asked are not needed any more, nor is the other reflector.
            self.questions
                .give_up(|other| !pooled && Some(other.to) != v6 && (other.asked.is_none() || other.asked <= asked));
            let took = asked.map_or(Duration::ZERO, |asked| now.saturating_duration_since(asked));
            let last = self.questions.iter().filter(|other| !other.is_over()).filter_map(|other| other.asked).max();
            self.until = Some(last.unwrap_or(now) + took + SLACK);
        }
        self.conclude(now);
    }

    /// Repeats what was not answered, or gives up.
    pub fn handle_timeout(&mut self, now: Instant) {
        if !self.over {
            self.questions.handle_timeout(now);
            self.conclude(now);
        }
    }

    /// When to call [`Self::handle_timeout`]; `None` when the measurement is over.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let until = self.until.into_iter().chain(self.questions.poll_timeout()).min();
        until.filter(|_| !self.over)
    }

    /// The next question to send.
    pub fn poll_transmit(&mut self) -> Option<Ask> {
        self.questions.poll_transmit().filter(|_| !self.over)
    }

    /// What reflectors state, once: the latest over IPv4, then the one over IPv6. Empty when none answered.
    pub fn poll_event(&mut self) -> Option<Vec<Observation>> {
        self.measured.take()
    }

    fn conclude(&mut self, now: Instant) {
        if self.questions.poll_timeout().is_some() && self.until.is_none_or(|until| now < until) {
            return;
        }
        self.over = true;
        let (v6, v4): (Vec<&Question>, Vec<&Question>) = self
            .questions
            .iter()
            .filter(|question| question.answer.is_some())
            .partition(|question| Some(question.to) == self.v6);
        // Of questions that left together, the one to the first reflector.
        let latest = v4.iter().rev().copied().max_by_key(|question| question.asked);
        let mut seen: Vec<_> = latest.into_iter().collect();
        for question in v4.into_iter().filter(|_| self.pooled) {
            let is_known = seen.iter().any(|other| other.seen().map(|at| at.ip()) == question.seen().map(|at| at.ip()));
            if !is_known && seen.len() < MOST_ADDRESSES {
                seen.push(question);
            }
        }
        let observations = seen.into_iter().chain(v6).filter_map(|question| question.answer.as_ref());
        self.measured = Some(observations.filter_map(|answer| answer.observation.clone()).collect());
    }
}

/// The server waits for 2.5 s.
const TCP_PATIENCE: Duration = Duration::from_millis(2_200);
/// When the second reflector is asked: not before one on another continent had its time.
const TCP_SECOND: Duration = Duration::from_millis(700);
const TRIES: u8 = 6;
const INTERVAL: Duration = Duration::from_millis(100);
/// Sockets behind a pool that ask.
pub(crate) const POOL_SOCKETS: u16 = 16;
const POOL_TRIES: u8 = 2;
const POOL_INTERVAL: Duration = Duration::from_millis(250);
/// Addresses of a pool that a peer is told.
const MOST_ADDRESSES: usize = 5;
/// A path that took this long may take so much longer the next time.
const SLACK: Duration = Duration::from_millis(50);
