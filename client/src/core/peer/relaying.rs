//! Which relay carries, and how a pair moves to another.
//!
//! **Make before break.** A leg on another relay carries nothing until a probe of the tunnel has passed it, which shows that
//! the peer has joined there, too. What is on its way over the old one is still taken for [`LEFT_KEPT`]. When the old relay
//! is lost (see `silence`) there is nothing to break, and the new one carries as soon as it answers.
//!
//! Of the two of a pair the one with the smaller id asks for another relay at once, and the other a moment later: one
//! question is enough.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use domain::{PeerPresence, RelayChoice, RelayId};
use rand::Rng as _;
use tunnel::{Frame, Route};
use wire::{Code, control::Request};

use super::{Leg, Output, Peer, Turn, micros, silence::Silence};
use crate::{settings::PathPolicy, sockets::SocketId};

/// What is known of the relay in use, beside the leg.
#[derive(Debug, Default)]
pub(super) struct Relaying {
    pub(super) silence: Option<Silence>,
    /// It was given up.
    pub(super) lost: bool,
    wish: Option<Wish>,
    /// Until when the next leg may take to join.
    joins: Option<Instant>,
    trial: Option<Trial>,
    /// The leg that was left.
    left: Option<(Leg, Instant)>,
    refused: Option<Code>,
}

/// When the server is asked for another relay.
#[derive(Clone, Copy, Debug)]
struct Wish {
    due: Instant,
    /// Which one is not wanted.
    leaves: Option<RelayId>,
    /// Where the pair was when the wish arose: elsewhere it is fulfilled.
    of: Option<RelayId>,
    asked: u32,
}

/// Probes over the leg that is to carry.
#[derive(Clone, Copy, Debug)]
struct Trial {
    number: u64,
    next: Instant,
    until: Instant,
}

impl Relaying {
    /// Something came from the relay.
    pub(super) fn handle_heard(&mut self) {
        self.silence = None;
        if std::mem::take(&mut self.lost) {
            self.wish = None;
        }
    }

    /// Whether nothing is wrong so far.
    pub(super) const fn hears(&self) -> bool {
        self.silence.is_none() && !self.lost
    }

    pub(super) fn poll_deadline(&self) -> Option<Instant> {
        let trial = self.trial.map(|trial| trial.next.min(trial.until));
        let left = self.left.as_ref().map(|(_, until)| *until);
        let silence = self.silence.map(|silence| silence.look);
        [silence, self.wish.map(|wish| wish.due), self.joins, trial, left].into_iter().flatten().min()
    }

    /// Has what waits for its turn to leave a lost relay asked now.
    pub(super) fn hurry(&mut self, now: Instant) {
        if let Some(wish) = self.wish.as_mut().filter(|wish| wish.leaves.is_some() && wish.asked == 0) {
            wish.due = wish.due.min(now);
        }
    }

    /// The leg that was left, as long as something may come over it.
    pub(super) fn left(&self) -> Option<&Leg> {
        self.left.as_ref().map(|(leg, _)| leg)
    }

    /// Why there is no relay.
    pub(super) const fn refused(&self) -> Option<Code> {
        self.refused
    }

    /// Whether the probe with this number went over the leg that is to carry.
    pub(super) fn tries(&self, number: u64) -> bool {
        self.trial.is_some_and(|trial| trial.number == number)
    }
}

impl Peer {
    /// The round trips to relays are news: another one may be nearer by now. The peer may be measuring, too.
    pub(crate) fn handle_measured(&mut self, turn: &mut Turn<'_>) {
        if self.is_relayed() && self.is_wanted(turn.now) && self.relaying.wish.is_none() {
            let due = turn.now + turn.random.random_range(SETTLE..2 * SETTLE);
            self.relaying.wish = Some(Wish { due, leaves: None, of: None, asked: 0 });
        }
    }

    /// The server says why there is no relay, and when to ask again.
    pub(crate) fn handle_choice(&mut self, turn: &mut Turn<'_>, choice: &RelayChoice) {
        let Some(pause) = choice.retry_after_ms else { return };
        let full = choice.candidates.iter().any(|one| one.verdict == domain::RelayVerdict::Full);
        self.relaying.refused = Some(if full { Code::RelayFull } else { Code::NoRelay });
        *turn.changed = true;
        let pause = Duration::from_millis(pause.into()).mul_f64(turn.random.random_range(1.0..1.5));
        let due = turn.now + pause.min(LONGEST_PAUSE);
        let of = self.leg.as_ref().map(Leg::relay);
        let leaves = self.relaying.wish.and_then(|wish| wish.leaves);
        self.relaying.wish = Some(Wish { due, leaves, of, asked: 0 });
        self.wish.next = self.wish.next.max(due);
    }

    /// The relay does not answer, or refused this leg.
    pub(super) fn leave_relay(&mut self, turn: &mut Turn<'_>, relay: RelayId, refused: Option<Code>) {
        self.relaying.refused = refused.or(self.relaying.refused);
        let hurry = if self.is_busy(turn.now) { Duration::ZERO } else { IDLE_SPREAD };
        self.wish_to_leave(turn, relay, hurry);
    }

    /// The relay is being emptied.
    pub(super) fn vacate_relay(&mut self, turn: &mut Turn<'_>, relay: RelayId) {
        self.wish_to_leave(turn, relay, DRAIN_SPREAD);
    }

    fn wish_to_leave(&mut self, turn: &mut Turn<'_>, relay: RelayId, spread: Duration) {
        if self.relaying.wish.is_none_or(|wish| wish.leaves != Some(relay)) {
            let second = if turn.own < self.id { Duration::ZERO } else { SECOND_ASKS };
            let due = turn.now + second + spread.mul_f64(turn.random.random_range(0.0..1.0));
            let of = self.leg.as_ref().map(Leg::relay);
            self.relaying.wish = Some(Wish { due, leaves: Some(relay), of, asked: 0 });
        }
        self.ask_for_relay(turn);
    }

    /// A leg on another relay begins to join.
    pub(super) fn await_next(&mut self, leg: Leg, now: Instant) {
        self.relaying.trial = None;
        self.relaying.joins = Some(now + JOIN_PATIENCE);
        self.next_leg = Some(leg);
    }

    /// Does what is due.
    pub(super) fn tend_relay(&mut self, turn: &mut Turn<'_>) {
        if self.relaying.left.as_ref().is_some_and(|(_, until)| *until <= turn.now) {
            self.relaying.left = None;
        }
        self.note_unanswered(turn.now);
        self.doubt_relay(turn);
        if self.relaying.joins.is_some_and(|until| until <= turn.now) {
            self.relaying.joins = None;
            // What is asked for next is a third one.
            if let Some(next) = self.next_leg.take_if(|next| !next.is_joined()) {
                self.leave_relay(turn, next.relay(), None);
            }
        }
        if let Some(trial) = self.relaying.trial {
            if self.next_leg.is_none() {
                self.relaying.trial = None;
            } else if trial.until <= turn.now {
                // The peer does not come; what carries goes on doing so.
                (self.relaying.trial, self.next_leg) = (None, None);
            } else if trial.next <= turn.now {
                self.try_next(turn, trial);
            }
        }
        self.ask_for_relay(turn);
    }

    fn ask_for_relay(&mut self, turn: &mut Turn<'_>) {
        let Some(wish) = self.relaying.wish.filter(|wish| wish.due <= turn.now) else { return };
        let relay = self.leg.as_ref().map(Leg::relay);
        let over = match wish.leaves {
            Some(_) => relay.is_some() && relay != wish.of || wish.asked >= MOST_ASKED,
            None => {
                let direct = self.path.current().is_some() && !self.is_relayed();
                wish.asked > 0 || direct || !self.is_wanted(turn.now)
            }
        };
        if over || turn.policy == PathPolicy::Direct || self.presence != PeerPresence::Online {
            self.relaying.wish = None;
            return;
        }
        let pause = ASK_AGAIN * (1 << wish.asked.min(4));
        let asks = turn.online && self.next_leg.is_none();
        self.relaying.wish = Some(Wish { due: turn.now + pause, asked: wish.asked + u32::from(turn.online), ..wish });
        if asks {
            turn.outputs.push_back(Output::Ask(Request::Relay(self.id, wish.leaves)));
        }
    }

    /// A leg joined: if it is the next one, it is tried, or taken at once when there is nothing to lose.
    pub(super) fn handle_next_joined(&mut self, turn: &mut Turn<'_>) {
        self.relaying.refused = None;
        self.relaying.joins = None;
        if !self.next_leg.as_ref().is_some_and(Leg::is_joined) || self.relaying.trial.is_some() {
            return;
        }
        let carries = self.leg.as_ref().is_some_and(Leg::is_joined) && !self.relaying.lost;
        if carries && self.session.is_established() {
            let number = turn.random.random();
            self.try_next(turn, Trial { number, next: turn.now, until: turn.now + PATIENCE });
        } else {
            self.take_next(turn);
        }
    }

    fn try_next(&mut self, turn: &mut Turn<'_>, trial: Trial) {
        self.relaying.trial = Some(Trial { next: turn.now + TRY_AGAIN, ..trial });
        let probe = Frame::Probe { route: Route::Relay, number: trial.number, sent_us: micros(turn) };
        let Some(datagram) = self.session.handle_frame(&probe) else { return };
        let wrapped = self.next_leg.as_ref().and_then(|leg| leg.wrap(&datagram));
        if let Some((to, datagram)) = wrapped {
            let datagram: BytesMut = datagram;
            turn.outputs.push_back(Output::Send { socket: SocketId::MAIN, to, ttl: None, datagram });
        }
    }

    /// Sends over the next leg from now on.
    pub(super) fn take_next(&mut self, turn: &mut Turn<'_>) {
        let Some(next) = self.next_leg.take() else { return };
        let relay = next.relay();
        let old = self.leg.replace(next);
        if old.as_ref().is_none_or(|old| old.relay() != relay) {
            tracing::info!(peer = %self.id, %relay, "the pair is on another relay");
        }
        self.relaying.left = old.filter(Leg::is_joined).map(|leg| (leg, turn.now + LEFT_KEPT));
        self.relaying.trial = None;
        self.relaying.handle_heard();
        if self.relaying.wish.is_some_and(|wish| wish.leaves.is_some()) {
            self.relaying.wish = None;
        }
        self.path.handle_relay_up(turn.now);
        self.drain_path(turn);
    }
}

/// Between two questions for another relay, at first.
const ASK_AGAIN: Duration = Duration::from_secs(3);
const MOST_ASKED: u32 = 8;
/// The peer's own measurement is known to the server by then.
const SETTLE: Duration = Duration::from_secs(2);
/// By how much later the second of a pair asks.
const SECOND_ASKS: Duration = Duration::from_millis(300);
/// Over how long the questions of the pairs of a relay that is lost are spread when they carry nothing.
const IDLE_SPREAD: Duration = Duration::from_secs(3);
/// The same for a relay that is being emptied, which goes on forwarding.
const DRAIN_SPREAD: Duration = Duration::from_secs(1);
/// How long the next relay may take to answer, over UDP or a stream.
const JOIN_PATIENCE: Duration = Duration::from_millis(3_500);
const TRY_AGAIN: Duration = Duration::from_millis(100);
/// How long the peer may take to join.
const PATIENCE: Duration = Duration::from_secs(10);
const LEFT_KEPT: Duration = Duration::from_secs(10);
/// Whatever the server names.
const LONGEST_PAUSE: Duration = Duration::from_secs(120);
