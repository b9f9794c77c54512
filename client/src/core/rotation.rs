//! Tunnels go over to later keys: of this client, or of a member.

use std::{sync::Arc, time::Instant};

use super::{Core, peer::Peer, view::Acquaintance};

/// How a peer's keys compare with those that its tunnel is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    Same,
    /// Later ones of the same client: both ends go on under the keys before, until the tunnel under these is there.
    Later,
    /// It lost its tunnel key, or is new.
    Other,
}

impl Keys {
    pub(super) fn of(peer: Option<&Peer>, about: &Acquaintance) -> Self {
        let Some(before) = peer.map(|peer| &peer.about.member) else { return Self::Other };
        if before.tunnel == about.member.tunnel {
            Self::Same
        } else if before.identity != about.member.identity && about.member.keys().continues(&before.keys()) {
            Self::Later
        } else {
            Self::Other
        }
    }
}

impl Core {
    /// This client has this private tunnel key from now on, and the server knows it.
    pub fn handle_own_keys(&mut self, now: Instant, private: [u8; 32]) {
        let later = self.local.followed_by(private);
        if later.public() == self.local.public() {
            return;
        }
        self.local = Arc::new(later);
        self.view.unprove();
        self.renewal.forget_proofs();
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            let local = Arc::clone(&self.local);
            self.with(now, peer, |peer, turn| peer.succeed(turn, &local));
        }
        self.tend_secrets(now);
        self.save.get_or_insert(now + super::SAVE_AFTER);
    }
}
