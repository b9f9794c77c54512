//! The worker's part in emptying the relay: rounds of notes, some in every turn.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use crate::socket::{Worker, tell};

/// From one round of notes to the next: one may be lost, and a leg may have joined since.
const TELL_AGAIN: Duration = Duration::from_secs(1);

/// Pairs told in one turn: two datagrams each, a millisecond or two.
const PAIRS: usize = 512;

/// How far the notes are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Round {
    began: Option<Instant>,
    /// The next place to look at; `None` when all were.
    place: Option<u32>,
}

impl Worker {
    /// Follows the order to drain, or to take pairs again.
    pub(crate) fn follow_order(&mut self, round: &mut Round) {
        if !self.drains.load(Ordering::Relaxed) {
            if self.relay.is_draining() {
                self.relay.resume();
                *round = Round::default();
            }
            return;
        }
        let now = Instant::now();
        self.relay.drain(now);
        if round.place.is_none() && round.began.is_none_or(|began| now.duration_since(began) >= TELL_AGAIN) {
            *round = Round { began: Some(now), place: Some(0) };
        }
        for _ in 0..PAIRS {
            let Some((slot, next)) = round.place.and_then(|place| self.relay.pair_from(place)) else {
                round.place = None;
                return;
            };
            round.place = Some(next);
            if let Some(table) = &mut self.table {
                table.count(&mut self.relay, slot);
            }
            for (to, note) in self.relay.part(now, slot) {
                tell(&self.doors, self.port.as_mut(), to, &note);
            }
            self.tell_kernel();
            self.count_events();
        }
    }
}
