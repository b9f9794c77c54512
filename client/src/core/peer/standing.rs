//! Whether packets pass to and from a peer that has to prove that it is a member.

use std::time::{Duration, Instant};

use tunnel::Frame;

use super::{Peer, Turn};
use crate::command::PathKind;

impl Peer {
    /// Whether it is proven that the peer is a member. Tells whether it is in doubt from now on.
    pub(crate) fn handle_standing(&mut self, now: Instant, proven: bool) -> bool {
        if proven {
            self.unproven = None;
            return false;
        }
        let grace = if self.session.is_established() { GRACE } else { Duration::ZERO };
        let doubted = self.unproven.is_none();
        self.unproven.get_or_insert(now + grace);
        doubted
    }

    /// No packets pass.
    pub(crate) fn is_barred(&self, now: Instant) -> bool {
        self.unproven.is_some_and(|until| until <= now)
    }

    /// Something it said, for the core.
    pub(crate) fn poll_rumour(&mut self) -> Option<Frame> {
        self.rumours.pop_front()
    }

    /// The tunnel is up since the last call.
    pub(crate) const fn take_established(&mut self) -> bool {
        std::mem::replace(&mut self.established, false)
    }

    pub(crate) fn takes_frames(&self) -> bool {
        self.session.is_established()
    }

    /// Whether something said to it now has a good chance to arrive.
    pub(crate) fn takes_messages(&self, now: Instant) -> bool {
        self.path() != PathKind::None && !self.is_barred(now)
    }

    /// Looks for a way to it, as for a packet.
    pub(crate) fn call(&mut self, turn: &mut Turn<'_>) {
        self.used = Some(turn.now);
        self.wish_soon(turn);
        if !self.session.is_established() {
            self.session.initiate(turn.now);
            self.flush(turn, None);
        }
    }

    /// Something that is to be answered, as a packet of the adapter would be: a way that does not work is noticed.
    pub(crate) fn say_for_user(&mut self, turn: &mut Turn<'_>, frame: &Frame) {
        self.used = Some(turn.now);
        if let Some(datagram) = self.session.handle_frame(frame) {
            self.send(turn, datagram);
            self.note_sent(turn.now);
            self.path.handle_sent(turn.now);
            self.drain_path(turn);
        }
    }

    /// On the way that is used, or on every one while there is none.
    pub(crate) fn say(&mut self, turn: &mut Turn<'_>, frame: &Frame) {
        if self.path.sends().first.is_none() {
            return self.say_everywhere(turn, frame);
        }
        if let Some(datagram) = self.session.handle_frame(frame) {
            self.send(turn, datagram);
        }
    }

    pub(super) fn keep_rumour(&mut self, frame: Frame) {
        if self.rumours.len() < MAX_RUMOURS {
            self.rumours.push_back(frame);
        }
    }
}

/// For a peer with a living tunnel to show a ticket.
const GRACE: Duration = Duration::from_secs(60);
/// They are taken after each datagram.
const MAX_RUMOURS: usize = 4;
