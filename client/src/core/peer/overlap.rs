//! For how long a peer may use the key of an older secret.
//!
//! As long as it had no chance to get the newer one: the clock runs only while both have a session with the server, where it
//! lies sealed for it. So no outage of the servers ends a tunnel, and whoever is online has ten minutes.

use std::time::{Duration, Instant};

use domain::PeerPresence;

use super::{Peer, Turn};

/// When the older keys end, if the clock runs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Overlap(Option<Instant>);

impl Peer {
    pub(super) fn tend_keys(&mut self, turn: &Turn<'_>) {
        if !self.session.accepts_older_keys() || !self.could_renew(turn.online) {
            self.overlap = Overlap(None);
            return;
        }
        let ends = *self.overlap.0.get_or_insert(turn.now + OVERLAP);
        if ends <= turn.now {
            self.session.forget_older_keys();
            self.overlap = Overlap(None);
        }
    }

    pub(super) fn poll_keys(&self, now: Instant, online: bool) -> Option<Instant> {
        let runs = self.session.accepts_older_keys() && self.could_renew(online);
        runs.then(|| self.overlap.0.unwrap_or(now))
    }

    fn could_renew(&self, online: bool) -> bool {
        online && self.presence == PeerPresence::Online
    }
}

const OVERLAP: Duration = Duration::from_secs(600);
