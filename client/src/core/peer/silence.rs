//! Whether the relay still carries, and what to do when not.
//!
//! What is sent over the relay is followed by something from it: data of the peer, or the answer to a ping, which is sent when
//! nothing came for [`SUSPECT`]. After [`GIVE_UP`] more there are two remedies, another relay and a stream to this one, and
//! [`Canary`](super::super::canary::Canary) decides which comes first: where UDP gets elsewhere it is the relay that is gone.
//! The other one follows after [`SECOND`]. The old leg stays until a new one joined: it may be the network that was away.
//!
//! A pair that is silent pings every 20 s (see `leg`), and sooner when the server says that the relay is silent. Then thousands
//! may look for another relay in one moment: those that carry nothing wait for a turn, until they have something to carry.

use std::time::{Duration, Instant};

use domain::RelayId;

use super::{Leg, Peer, Turn};

/// A silence of the relay that should not be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Silence {
    since: Instant,
    /// When it is looked at again.
    pub(super) look: Instant,
    /// When the first remedy is due.
    decides: Instant,
    /// It was over a stream that it began.
    streamed: bool,
    tried: Remedies,
}

/// What was done about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Remedies {
    #[default]
    None,
    OtherRelay,
    Stream,
    Both,
}

impl Silence {
    fn new(now: Instant, look: Duration, patience: Duration) -> Self {
        Self { since: now, look: now + look, decides: now + patience, streamed: false, tried: Remedies::None }
    }
}

impl Peer {
    /// Data left; over the relay, perhaps.
    pub(super) fn note_silence(&mut self, now: Instant) {
        if !self.is_relayed() {
            return;
        }
        if self.relaying.hears() {
            self.begin_silence(now);
        } else if self.relaying.lost {
            self.relaying.hurry(now);
        }
    }

    /// A leg that nobody answers carries nothing, whether something is sent or not.
    pub(super) fn note_unanswered(&mut self, now: Instant) {
        // A stream that ended says more than one that is slow.
        let ended = self.relaying.silence.is_some_and(|silence| silence.streamed);
        if self.leg.as_ref().is_some_and(|leg| !leg.is_joined()) && (self.relaying.hears() || ended) {
            self.begin_silence(now);
        }
    }

    fn begin_silence(&mut self, now: Instant) {
        let Some(leg) = &self.leg else { return };
        // TCP sends again by itself, and slower.
        let streamed = leg.rides_stream();
        let patience = if streamed { STREAM_PATIENCE } else { GIVE_UP };
        self.relaying.silence = Some(Silence { streamed, ..Silence::new(now, SUSPECT, SUSPECT + patience) });
    }

    /// The server does not hear of the relay any more.
    pub(crate) fn handle_silent_relay(&mut self, turn: &mut Turn<'_>, relay: RelayId) {
        if self.leg.as_ref().is_none_or(|leg| leg.relay() != relay) || self.relaying.lost {
            return;
        }
        let fresh = Silence::new(turn.now, Duration::ZERO, GIVE_UP_TOLD);
        let silence = self.relaying.silence.get_or_insert(fresh);
        silence.decides = silence.decides.min(fresh.decides);
        silence.look = silence.look.min(fresh.look);
        self.doubt_relay(turn);
    }

    /// Does what the silence asks for, when it is time.
    pub(super) fn doubt_relay(&mut self, turn: &mut Turn<'_>) {
        let (Some(mut silence), Some(leg)) = (self.relaying.silence, &mut self.leg) else { return };
        let (now, relay) = (turn.now, leg.relay());
        if silence.look > now {
            return;
        }
        leg.ask();
        if now < silence.decides {
            turn.canary.ask(now, relay, turn.outputs);
            silence.look = (now + ASK_AGAIN).min(silence.decides);
        } else {
            let elsewhere = turn.canary.sings(relay, silence.since);
            silence.tried = match silence.tried {
                Remedies::None if leg.may_stream() && !elsewhere => Remedies::Stream,
                Remedies::None => Remedies::OtherRelay,
                Remedies::OtherRelay | Remedies::Stream | Remedies::Both => Remedies::Both,
            };
            if matches!(silence.tried, Remedies::Stream | Remedies::Both) {
                leg.fall(now);
            }
            silence.look = now + SECOND;
        }
        self.relaying.silence = Some(silence).filter(|silence| silence.tried != Remedies::Both);
        self.flush_legs(turn);
        if matches!(silence.tried, Remedies::OtherRelay | Remedies::Both) && !self.relaying.lost {
            self.lose_relay(turn, relay);
        }
    }

    fn lose_relay(&mut self, turn: &mut Turn<'_>, relay: RelayId) {
        tracing::info!(peer = %self.id, %relay, "the relay does not answer");
        self.relaying.lost = true;
        if self.next_leg.as_ref().is_some_and(Leg::is_joined) {
            self.take_next(turn);
        } else {
            self.leave_relay(turn, relay, None);
        }
    }
}

/// From a datagram to the first ping, when nothing came meanwhile.
const SUSPECT: Duration = Duration::from_millis(600);
/// Between two pings, and two questions to others.
const ASK_AGAIN: Duration = Duration::from_millis(300);
/// From the first ping into silence to the first remedy.
const GIVE_UP: Duration = Duration::from_millis(1_200);
/// The same when the server does not hear of the relay either.
const GIVE_UP_TOLD: Duration = Duration::from_millis(600);
const STREAM_PATIENCE: Duration = Duration::from_millis(5_000);
/// From the first remedy to the second.
const SECOND: Duration = Duration::from_millis(1_500);
