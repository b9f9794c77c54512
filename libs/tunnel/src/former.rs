//! A tunnel whose keys were followed by others, until the tunnel under the new ones is there.
//!
//! Both ends go over when they hear of it, one before the other, and a handshake takes a round trip. Meanwhile packets go on
//! under the keys that were agreed on before, as nobody but the two has those. It begins no handshake and answers none, so it
//! ends as WireGuard has keys end: three minutes after the last one.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use gotatun::noise::Tunn;

pub(crate) struct Former {
    pub(crate) tunnel: Tunn,
    /// The receiver indices of its handshakes.
    indices: VecDeque<u32>,
    ends: Instant,
    sends: bool,
}

impl Former {
    pub(crate) fn new(now: Instant, tunnel: Tunn, indices: VecDeque<u32>) -> Self {
        Self { tunnel, indices, ends: now + LIFETIME, sends: true }
    }

    /// Whether a packet for this receiver index is for this tunnel.
    pub(crate) fn owns(&self, index: u32) -> bool {
        self.indices.contains(&index)
    }

    /// The tunnel under the new keys is there: what was sent before that may still come.
    pub(crate) fn retire(&mut self, now: Instant) {
        if std::mem::replace(&mut self.sends, false) {
            self.ends = self.ends.min(now + STRAGGLERS);
        }
    }

    /// Whether it is what packets are sent under.
    pub(crate) const fn sends(&self) -> bool {
        self.sends
    }

    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.ends <= now
    }
}

/// WireGuard's Reject-After-Time.
const LIFETIME: Duration = Duration::from_secs(180);
const STRAGGLERS: Duration = Duration::from_secs(10);
