//! Whether the peer is still there, and when the server is asked for a way to it.

use std::time::{Duration, Instant};

use domain::PeerPresence;
use wire::control::Request;

use super::{Doubt, FIRST_WISH, Leg, Output, Peer, Turn, Wish, fresh_path};
use crate::settings::PathPolicy;

impl Peer {
    /// The server says how the peer is.
    pub(crate) fn handle_presence(&mut self, turn: &mut Turn<'_>, presence: PeerPresence) {
        let before = std::mem::replace(&mut self.presence, presence);
        match presence {
            PeerPresence::Online => {
                self.doubt = None;
                self.path.handle_unwatch();
                if before == PeerPresence::Online {
                    self.question(turn);
                } else {
                    // Rendezvous sends an offer by itself.
                    self.wish = Wish { next: turn.now + FIRST_WISH, asked: 0 };
                }
            }
            PeerPresence::Lost => self.begin_doubt(turn),
            // Gone for the server, but maybe not for us: its gateway may just have restarted.
            PeerPresence::Offline if self.was_alive(turn.now) => self.begin_doubt(turn),
            PeerPresence::Offline => self.forget_ways(turn),
        }
    }

    /// No server any more, or no network: is the peer still there?
    pub(crate) fn begin_doubt(&mut self, turn: &mut Turn<'_>) {
        if self.doubt.is_none() && (self.session.is_established() || self.has_ways() || !self.hints.is_empty()) {
            self.doubt = Some(Doubt { since: turn.now, next: turn.now, dead: false });
            self.path.handle_watch(turn.now);
        }
        self.handle_deadline(turn);
    }

    pub(super) fn check(&mut self, turn: &mut Turn<'_>) {
        let Some(mut doubt) = self.doubt.filter(|doubt| doubt.next <= turn.now) else { return };
        let silence = turn.now - self.session.heard().map_or(doubt.since, |heard| heard.max(doubt.since));
        if silence >= DEAD && !doubt.dead {
            doubt.dead = true;
            tracing::info!(peer = %self.id, "the peer does not answer any more");
            self.presence = PeerPresence::Offline;
            self.path = fresh_path(turn);
            self.drop_unused_sockets();
            if self.leg.as_ref().is_some_and(Leg::is_joined) {
                self.path.handle_relay_up(turn.now);
            }
            self.path.handle_watch(turn.now);
            *turn.changed = true;
        }
        if doubt.dead && turn.online {
            // The server will tell when it is back.
            self.doubt = None;
            self.forget_ways(turn);
            return;
        }
        doubt.next = turn.now + CHECK;
        self.doubt = Some(doubt);
        if !self.session.is_established() || silence >= CHECK {
            self.session.restart(turn.now);
        }
        self.flush(turn, None);
    }

    pub(super) fn was_alive(&self, now: Instant) -> bool {
        self.session.heard().is_some_and(|heard| now.saturating_duration_since(heard) < FRESH)
    }

    /// Whether somebody needs this peer: the user did lately, or it is one of those that are kept connected.
    pub(super) fn is_wanted(&self, now: Instant) -> bool {
        self.eager || self.doubt.is_some() || self.is_busy(now)
    }

    pub(super) fn is_busy(&self, now: Instant) -> bool {
        self.used.is_some_and(|used| now.saturating_duration_since(used) < BUSY)
    }

    /// Whether the server could help: there is no way, or only the relay while data flows.
    pub(super) fn wishes(&self) -> bool {
        self.path.current().is_none() || (self.is_relayed() && self.used.is_some())
    }

    pub(super) fn wish_soon(&mut self, turn: &mut Turn<'_>) {
        if !self.has_ways() && self.wish.asked == 0 {
            self.wish.next = self.wish.next.min(turn.now);
            self.wish_for_path(turn);
        }
    }

    pub(super) fn wish_for_path(&mut self, turn: &mut Turn<'_>) {
        if !turn.online || self.presence != PeerPresence::Online || self.wish.next > turn.now || !self.wishes() {
            return;
        }
        let relayed = self.is_relayed();
        let wanted = match turn.policy {
            PathPolicy::Any => !relayed || self.is_busy(turn.now),
            PathPolicy::Direct | PathPolicy::Relay => !relayed,
        };
        let wanted = wanted && self.is_wanted(turn.now);
        let delay = if relayed { UPGRADE } else { FIRST_WISH };
        self.wish.next = turn.now + (delay * (1 << self.wish.asked.min(6))).min(LAST_WISH);
        if wanted && !(relayed && self.wish.asked == 0) {
            turn.outputs.push_back(Output::Ask(Request::Connect(self.id)));
        }
        self.wish.asked += 1;
    }

    /// Probes the way that is used at once.
    pub(super) fn question(&mut self, turn: &mut Turn<'_>) {
        self.path.handle_watch(turn.now);
        if self.doubt.is_none() {
            self.path.handle_unwatch();
        }
        self.drain_path(turn);
    }
}

/// A pair is busy for this long after a packet.
const BUSY: Duration = Duration::from_secs(10);
const CHECK: Duration = Duration::from_secs(5);
const DEAD: Duration = Duration::from_secs(15);
/// Longer than the keepalive of a path.
const FRESH: Duration = Duration::from_secs(120);
/// Between attempts to get off the relay.
const UPGRADE: Duration = Duration::from_secs(30);
const LAST_WISH: Duration = Duration::from_secs(600);
