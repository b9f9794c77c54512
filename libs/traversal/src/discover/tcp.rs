//! How a NAT maps connections (RFC 5382, section 4.1): one port asks up to three reflectors over TCP at once.
//!
//! A machine beside [`super::Discovery`], because a lost first segment costs TCP a second, and what UDP shows must not wait
//! for it. Every client runs it: the peer of a side without UDP needs the answer as much as that side does. It costs three
//! connections.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use domain::{Mapping, Reflected, SessionTag};

use super::{
    Ask, Reflectors, Socket,
    questions::{Question, Questions, Tries},
};
use crate::classify::classify_tcp;

/// How connections leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connections {
    pub mapping: Mapping,
    /// Where the first answering reflector saw the port.
    pub seen: SocketAddr,
}

/// One test. Drive it until [`TcpTest::poll_timeout`] is `None`.
#[derive(Debug)]
pub struct TcpTest {
    questions: Questions,
    reflectors: Reflectors,
    result: Option<Connections>,
}

impl TcpTest {
    /// Starts asking from [`Socket::Tcp`].
    #[must_use]
    pub fn new(now: Instant, reflectors: Reflectors, tag: SessionTag, seed: [u8; 32]) -> Self {
        let mut questions = Questions::new(Some(tag), seed);
        for endpoint in reflectors.same_family() {
            questions.add(now, Socket::Tcp, endpoint, domain::Vantage::Asked, TRY);
        }
        questions.handle_timeout(now);
        Self { questions, reflectors, result: None }
    }

    /// An answer arrived at `socket`.
    pub fn handle_answer(&mut self, socket: Socket, from: SocketAddr, reflected: Reflected) {
        if self.poll_timeout().is_some() {
            self.questions.handle_answer(socket, from, reflected);
            self.conclude();
        }
    }

    /// No connection to a reflector came about.
    pub fn handle_unreachable(&mut self, to: SocketAddr) {
        self.questions.give_up(|question| question.to == to);
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

    /// The next question, for which a connection is to be made.
    pub fn poll_transmit(&mut self) -> Option<Ask> {
        self.questions.poll_transmit()
    }

    /// What was found out, once, at the end; never, when fewer than two reflectors answered.
    pub fn poll_event(&mut self) -> Option<Connections> {
        self.result.take()
    }

    fn conclude(&mut self) {
        if self.poll_timeout().is_some() {
            return;
        }
        let at =
            |to: Option<SocketAddr>| self.questions.iter().find(|asked| Some(asked.to) == to).and_then(Question::seen);
        let Reflectors { first, other_port, other_address, .. } = self.reflectors;
        let (first, port, address) = (at(Some(first)), at(other_port), at(other_address));
        let mut seen = [first, port, address].into_iter().flatten();
        let Some(one) = seen.next() else { return };
        let others: Vec<_> = seen.collect();
        let other = others.iter().find(|&&other| other != one).or(others.first());
        self.result = classify_tcp(Some(one), other.copied()).map(|mapping| Connections { mapping, seen: one });
    }
}

/// Longer than TCP needs to send a lost first segment twice.
const TRY: Tries = Tries { count: 1, interval: Duration::from_millis(3_500) };
