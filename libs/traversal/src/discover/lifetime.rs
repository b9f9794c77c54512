//! How long a NAT remembers a flow in which nothing moves (RFC 4787, section 4.3; RFC 5780, section 4.6).
//!
//! Five spare sockets ask once each, to be answered after 20, 35, 65, 125 and 185 s of silence. Those answers that come
//! crossed a mapping that was still there; the longest silence among them is the result. A lost answer makes the result too
//! short, which only costs keepalives. A repeated question would prolong what is to be measured, so there is none.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use domain::{Reflected, SessionTag, TransactionId};

use super::{Ask, Reflectors, Socket, questions::Questions};

/// How often a client measures this, and only while nothing else keeps its radio awake.
pub const LIFETIME_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// Silences to try, in seconds: just above the usual limits of 30, 60, 120 and 180 s, and one below all.
pub const SILENCES_S: [u8; 5] = [20, 35, 65, 125, 185];

/// One test. Drive it until [`Lifetime::poll_timeout`] is `None`.
#[derive(Debug)]
pub struct Lifetime {
    questions: Questions,
    longest_s: Option<u8>,
    result: Option<u16>,
}

impl Lifetime {
    /// Starts asking from [`Socket::Lifetime`] 0 to 4.
    #[must_use]
    pub fn new(now: Instant, reflectors: Reflectors, tag: SessionTag, seed: [u8; 32]) -> Self {
        let mut questions = Questions::new(Some(tag), seed);
        for (place, silence_s) in (0..).zip(SILENCES_S) {
            questions.add_delayed(now, Socket::Lifetime(place), reflectors.first, silence_s, PATIENCE);
        }
        questions.handle_timeout(now);
        Self { questions, longest_s: None, result: None }
    }

    /// An answer arrived at `socket`.
    pub fn handle_answer(&mut self, now: Instant, socket: Socket, from: SocketAddr, reflected: Reflected) {
        if self.poll_timeout().is_none() {
            return;
        }
        let Some(question) = self.questions.handle_answer(socket, from, reflected) else { return };
        let silence = question.asked.map_or(Duration::ZERO, |asked| now.saturating_duration_since(asked));
        let silence_s = question.delay_s;
        // A reflector that does not wait shows nothing.
        if silence >= Duration::from_secs(u64::from(silence_s)) {
            self.longest_s = self.longest_s.max(Some(silence_s));
            self.questions.give_up(|other| other.delay_s < silence_s);
        }
        self.conclude();
    }

    /// A reflector cannot wait so long.
    pub fn handle_refusal(&mut self, transaction: TransactionId) {
        self.questions.handle_refusal(transaction);
        self.conclude();
    }

    /// Gives up what was not answered in time.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.questions.handle_timeout(now);
        self.conclude();
    }

    /// When to call [`Self::handle_timeout`]; `None` when the test is over.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.questions.poll_timeout()
    }

    /// The next question to send.
    pub fn poll_transmit(&mut self) -> Option<Ask> {
        self.questions.poll_transmit()
    }

    /// The silence in seconds that a mapping survived, once, at the end; never, when no answer came.
    pub fn poll_event(&mut self) -> Option<u16> {
        self.result.take()
    }

    fn conclude(&mut self) {
        if self.questions.poll_timeout().is_none() {
            self.result = self.longest_s.take().map(u16::from).or(self.result);
        }
    }
}

/// How much longer than its silence an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);
