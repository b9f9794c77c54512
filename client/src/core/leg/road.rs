//! One way to a relay, and how far the leg has come on it.

use std::time::{Duration, Instant};

use wire::relay::{Cookie, JoinId};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Udp,
    Stream,
}

/// One way to the relay.
#[derive(Debug)]
pub(super) struct Road {
    pub(super) phase: Phase,
    /// When the phase is looked at again.
    pub(super) due: Instant,
    /// When it began to join.
    pub(super) since: Instant,
    pub(super) tries: u32,
    /// Its joins take the first packet along.
    pub(super) brings: bool,
    pub(super) nonce: u64,
    pub(super) heard: Instant,
    /// The first datagram that was sent since something was heard.
    pub(super) sent: Option<Instant>,
    /// Pings into that silence.
    pub(super) doubts: u32,
    /// When the silence is looked at again.
    pub(super) doubted: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing was asked for.
    Idle,
    Joining {
        cookie: Cookie,
        join: JoinId,
    },
    Joined {
        unanswered: u32,
    },
    /// Not wanted any more, but the relay may still take this join.
    Left {
        join: JoinId,
    },
}

impl Road {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            phase: Phase::Idle,
            due: now,
            since: now,
            tries: 0,
            brings: false,
            nonce: 0,
            heard: now,
            sent: None,
            doubts: 0,
            doubted: None,
        }
    }

    /// From the first question on.
    pub(super) fn begin(&mut self, now: Instant) {
        let (nonce, heard) = (self.nonce, self.heard);
        *self = Self { phase: UNCHALLENGED, nonce, heard, ..Self::new(now) };
    }

    pub(super) fn is_unchallenged(&self) -> bool {
        matches!(self.phase, Phase::Joining { cookie, .. } if cookie == Cookie::default())
    }

    pub(super) const fn is_active(&self) -> bool {
        matches!(self.phase, Phase::Joining { .. } | Phase::Joined { .. })
    }

    /// Whether this is the number of one of the last pings.
    pub(super) const fn asked(&self, nonce: u64) -> bool {
        nonce <= self.nonce && nonce + RECENT_PINGS > self.nonce
    }

    pub(super) const fn handle_heard(&mut self, now: Instant) {
        self.heard = now;
        self.sent = None;
        self.doubts = 0;
    }

    pub(super) fn handle_sent(&mut self, now: Instant) {
        self.sent.get_or_insert(now);
        self.doubted.get_or_insert(now + PATIENCE);
    }

    /// Whether the silence after what was sent is long enough to ask for a sign of life.
    pub(super) fn doubts_now(&mut self, now: Instant) -> bool {
        if self.doubted.is_none_or(|due| due > now) {
            return false;
        }
        match self.sent {
            None => self.doubted = None,
            Some(sent) if sent + PATIENCE > now => self.doubted = Some(sent + PATIENCE),
            Some(_) => {
                self.doubts += 1;
                let pause = if self.doubts > GIVES_UP { PING_AGAIN } else { DOUBT_AGAIN };
                self.doubted = Some(now + pause);
                return true;
            }
        }
        false
    }
}

/// Before the first ping over a stream that answers nothing, and between two.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
pub(super) const DOUBT_AGAIN: Duration = Duration::from_secs(2);
/// With so many sent the stream is given up.
pub(super) const GIVES_UP: u32 = 4;
pub(super) const UNCHALLENGED: Phase = Phase::Joining { cookie: Cookie([0; 16]), join: JoinId([0; 8]) };
/// When no pong came.
pub(super) const PING_AGAIN: Duration = Duration::from_secs(3);
/// A pong may be overtaken by so many pings.
pub(super) const RECENT_PINGS: u64 = 4;
