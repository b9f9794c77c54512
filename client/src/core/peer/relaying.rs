//! Which relay carries, whether it still does, and how a pair moves to another.
//!
//! **Lost.** What is sent over the relay is followed by something from it: data of the peer, or the answer to a ping, which
//! is sent when nothing came for [`SUSPECT`]. After [`GIVE_UP`] without any the server is asked for another relay, at once;
//! the old leg stays until the new one joined, because it may be the network of this client that was away. A pair that is
//! silent pings every 20 s (see `leg`) and notices then.
//!
//! **Make before break.** A leg on another relay carries nothing until a probe of the tunnel has passed it, which shows that
//! the peer has joined there, too. What is on its way over the old one is still taken for [`LEFT_KEPT`].

use std::time::{Duration, Instant};

use bytes::BytesMut;
use domain::{PeerPresence, RelayChoice, RelayId};
use rand::Rng as _;
use tunnel::{Frame, Route};
use wire::{Code, control::Request};

use super::{Leg, Output, Peer, Turn, micros};
use crate::{settings::PathPolicy, sockets::SocketId};

/// What is known of the relay in use, beside the leg.
#[derive(Debug, Default)]
pub(super) struct Relaying {
    /// The first datagram since something came back.
    sent: Option<Instant>,
    /// When the silence after it is looked at again.
    look: Option<Instant>,
    lost: bool,
    wish: Option<Wish>,
    trial: Option<Trial>,
    /// The leg that was left.
    left: Option<(Leg, Instant)>,
    refused: Option<Code>,
}

/// When the server is asked for another relay, and which one is to be left.
#[derive(Clone, Copy, Debug)]
struct Wish {
    due: Instant,
    leaves: Option<RelayId>,
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
        (self.sent, self.look, self.lost) = (None, None, false);
    }

    pub(super) fn poll_deadline(&self) -> Option<Instant> {
        let trial = self.trial.map(|trial| trial.next.min(trial.until));
        let left = self.left.as_ref().map(|(_, until)| *until);
        [self.look, self.wish.map(|wish| wish.due), trial, left].into_iter().flatten().min()
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
    /// Data left; over the relay, perhaps.
    pub(super) fn note_silence(&mut self, now: Instant) {
        if self.is_relayed() && self.relaying.sent.is_none() && self.leg.as_ref().is_some_and(Leg::is_joined) {
            self.relaying.sent = Some(now);
            self.relaying.look = Some(now + SUSPECT);
        }
    }

    /// The round trips to relays are news: another one may be nearer by now. The peer may be measuring, too.
    pub(crate) fn handle_measured(&mut self, turn: &mut Turn<'_>) {
        if self.is_relayed() && self.is_wanted(turn.now) && self.relaying.wish.is_none() {
            let due = turn.now + turn.random.random_range(SETTLE..2 * SETTLE);
            self.relaying.wish = Some(Wish { due, leaves: None, asked: 0 });
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
        let leaves = self.relaying.wish.and_then(|wish| wish.leaves);
        self.relaying.wish = Some(Wish { due, leaves, asked: 0 });
        self.wish.next = self.wish.next.max(due);
    }

    /// The relay wants to be left, or refused this leg.
    pub(super) fn leave_relay(&mut self, turn: &mut Turn<'_>, relay: RelayId, refused: Option<Code>) {
        self.relaying.refused = refused.or(self.relaying.refused);
        if self.relaying.wish.is_none_or(|wish| wish.leaves != Some(relay)) {
            self.relaying.wish = Some(Wish { due: turn.now, leaves: Some(relay), asked: 0 });
        }
        self.ask_for_relay(turn);
    }

    /// Does what is due.
    pub(super) fn tend_relay(&mut self, turn: &mut Turn<'_>) {
        if self.relaying.left.as_ref().is_some_and(|(_, until)| *until <= turn.now) {
            self.relaying.left = None;
        }
        if self.relaying.look.is_some_and(|look| look <= turn.now) {
            self.doubt_relay(turn);
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

    fn doubt_relay(&mut self, turn: &mut Turn<'_>) {
        let (Some(sent), Some(leg)) = (self.relaying.sent, self.leg.as_mut().filter(|leg| leg.is_joined())) else {
            return self.relaying.handle_heard();
        };
        if turn.now < sent + SUSPECT + GIVE_UP {
            self.relaying.look = Some((turn.now + PING_AGAIN).min(sent + SUSPECT + GIVE_UP));
            leg.ask();
            return self.flush_legs(turn);
        }
        let relay = leg.relay();
        tracing::info!(peer = %self.id, %relay, "the relay does not answer");
        self.relaying.look = None;
        self.relaying.lost = true;
        if self.next_leg.as_ref().is_some_and(Leg::is_joined) {
            self.take_next(turn);
        } else {
            self.leave_relay(turn, relay, None);
        }
    }

    fn ask_for_relay(&mut self, turn: &mut Turn<'_>) {
        let Some(wish) = self.relaying.wish.filter(|wish| wish.due <= turn.now) else { return };
        let relay = self.leg.as_ref().map(Leg::relay);
        let over = match wish.leaves {
            Some(left) => relay.is_some_and(|relay| relay != left) || wish.asked >= MOST_ASKED,
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
        let old = self.leg.replace(next);
        self.relaying.left = old.filter(Leg::is_joined).map(|leg| (leg, turn.now + LEFT_KEPT));
        self.relaying.trial = None;
        self.relaying.handle_heard();
        if self.relaying.wish.is_some_and(|wish| wish.leaves.is_some()) {
            self.relaying.wish = None;
        }
        tracing::info!(peer = %self.id, relay = ?self.leg.as_ref().map(Leg::relay), "the pair is on another relay");
        self.path.handle_relay_up(turn.now);
        self.drain_path(turn);
    }
}

/// From a datagram to the first ping, when nothing came meanwhile.
const SUSPECT: Duration = Duration::from_millis(600);
const PING_AGAIN: Duration = Duration::from_millis(300);
/// From the first ping into silence to the question for another relay.
const GIVE_UP: Duration = Duration::from_millis(1_200);
/// Between two questions for another relay, at first.
const ASK_AGAIN: Duration = Duration::from_secs(3);
const MOST_ASKED: u32 = 8;
/// The peer's own measurement is known to the server by then.
const SETTLE: Duration = Duration::from_secs(2);
const TRY_AGAIN: Duration = Duration::from_millis(100);
/// How long the peer may take to join.
const PATIENCE: Duration = Duration::from_secs(10);
const LEFT_KEPT: Duration = Duration::from_secs(10);
/// Whatever the server names.
const LONGEST_PAUSE: Duration = Duration::from_secs(120);
