//! TCP of a simulated host: how connections open and fail. What runs in them is neither lost nor out of order.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::net::{Net, Payload, Segment};

/// The connections of one host, by port and peer.
#[derive(Debug)]
pub(super) struct Tcp {
    host: usize,
    listening: BTreeSet<u16>,
    streams: BTreeMap<(u16, SocketAddr), State>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// The first segment left; when it is sent again, and how many hops it may go.
    Opening {
        again: Instant,
        ttl: Option<u8>,
    },
    Open,
}

/// What a segment meant to its connection.
#[derive(Debug)]
pub(super) enum News {
    Established,
    Failed,
    Carried(Segment),
}

impl Tcp {
    pub(super) const fn new(host: usize) -> Self {
        Self { host, listening: BTreeSet::new(), streams: BTreeMap::new() }
    }

    pub(super) fn listen(&mut self, port: u16) {
        self.listening.insert(port);
    }

    /// Connects, in place of a try that has not succeeded.
    pub(super) fn connect(&mut self, now: Instant, net: &mut Net, port: u16, to: SocketAddr, ttl: Option<u8>) {
        let state = self.streams.entry((port, to)).or_insert(State::Opening { again: now, ttl });
        if !matches!(state, State::Open) {
            *state = State::Opening { again: now + FIRST_TIMEOUT, ttl };
            net.send(now, self.host, port, to, ttl, Payload::Segment(Segment::Syn));
        }
    }

    /// Sends over a connection, if there is one.
    pub(super) fn send(&self, now: Instant, net: &mut Net, port: u16, to: SocketAddr, segment: Segment) {
        if matches!(self.streams.get(&(port, to)), Some(State::Open)) {
            net.send(now, self.host, port, to, None, Payload::Segment(segment));
        }
    }

    /// Ends one connection without a word.
    pub(super) fn close(&mut self, port: u16, to: SocketAddr) {
        self.streams.remove(&(port, to));
    }

    /// Ends all of a port.
    pub(super) fn close_port(&mut self, port: u16) {
        self.listening.remove(&port);
        self.streams.retain(|(of, _), _| *of != port);
    }

    /// A segment arrived.
    pub(super) fn handle(
        &mut self,
        now: Instant,
        net: &mut Net,
        port: u16,
        from: SocketAddr,
        segment: Segment,
    ) -> Option<News> {
        let state = self.streams.get(&(port, from)).copied();
        let mut reply = |segment| net.send(now, self.host, port, from, None, Payload::Segment(segment));
        match (segment, state) {
            // Both opened at once, or somebody came to where we listen.
            (Segment::Syn, Some(State::Opening { .. })) => reply(Segment::SynAck),
            (Segment::Syn, None) if self.listening.contains(&port) => reply(Segment::SynAck),
            (Segment::Syn, Some(State::Open)) => {
                reply(Segment::SynAck);
                return None;
            }
            (Segment::SynAck, Some(State::Opening { .. })) => {}
            (Segment::Syn, None) => {
                reply(Segment::Reset);
                return None;
            }
            (Segment::Reset, Some(_)) => {
                self.streams.remove(&(port, from));
                return Some(News::Failed);
            }
            (Segment::SynAck | Segment::Reset, _) => return None,
            (Segment::Question(_) | Segment::Answer(_) | Segment::Punch(_), None | Some(State::Opening { .. })) => {
                return None;
            }
            (carried @ (Segment::Question(_) | Segment::Answer(_) | Segment::Punch(_)), Some(State::Open)) => {
                return Some(News::Carried(carried));
            }
        }
        self.streams.insert((port, from), State::Open);
        Some(News::Established)
    }

    /// Sends first segments again.
    pub(super) fn handle_timeout(&mut self, now: Instant, net: &mut Net) {
        for (&(port, to), state) in &mut self.streams {
            if let State::Opening { again, ttl } = state
                && *again <= now
            {
                // Once: whoever wants more asks for it.
                *again = now + GIVEN_UP;
                net.send(now, self.host, port, to, *ttl, Payload::Segment(Segment::Syn));
            }
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let opening = self.streams.values().filter_map(|state| match state {
            State::Opening { again, .. } => Some(*again),
            State::Open => None,
        });
        opening.min()
    }
}

/// Until a first segment is sent again (RFC 6298, section 2.1).
const FIRST_TIMEOUT: Duration = Duration::from_secs(1);
/// The next time would be after two more seconds.
const GIVEN_UP: Duration = Duration::from_secs(2);
