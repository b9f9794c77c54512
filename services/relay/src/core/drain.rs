//! Emptying a relay, and filling it again.
//!
//! Every second each leg is told to go elsewhere, and answers with a ping as long as it cannot. So a pair that was silent for
//! [`GONE`] is one that has moved: it ends, and when none is left the relay is empty. The notes of a round may be spread over
//! as many turns as the caller likes: what is forwarded between them is not late.

use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use wire::{
    Code,
    relay::{Message, Slot},
    ticket::LegSide,
};

use super::{Answer, Event, Hop, Relay};

/// A pair that left three notes unanswered has moved.
const GONE: Duration = Duration::from_secs(4);

impl Relay {
    /// Takes no new pairs from now on.
    pub fn drain(&mut self, now: Instant) {
        let now = self.nanos(now);
        self.draining.get_or_insert(now);
    }

    /// Takes new pairs again.
    pub fn resume(&mut self) {
        self.draining = None;
    }

    /// Whether it takes no new pairs.
    #[must_use]
    pub const fn is_draining(&self) -> bool {
        self.draining.is_some()
    }

    /// The pair at `place` or the first one after it, and the place behind that: for rounds through all of them.
    #[must_use]
    pub fn pair_from(&self, place: u32) -> Option<(Slot, u32)> {
        self.slab.first_from(place)
    }

    /// What each leg of a pair is told while the relay is being emptied. None when the pair has moved, and ends.
    pub fn part(&mut self, now: Instant, slot: Slot) -> ArrayVec<(Hop, Answer), 2> {
        let now = self.nanos(now);
        let (Some(since), Some(pair)) = (self.draining, self.slab.get_mut(slot)) else { return ArrayVec::new() };
        let gone = u64::try_from(GONE.as_nanos()).unwrap_or(u64::MAX / 2);
        let heard = u64::from(pair.seen) * 1_000_000_000;
        if now.saturating_sub(heard.max(since)) < gone {
            let note = Answer::of(&Message::Note { slot, code: Code::RelayDraining.number() });
            return [LegSide::A, LegSide::B].into_iter().filter_map(|side| Some((pair.hop(side)?, note))).collect();
        }
        self.end(slot);
        self.event(Event::Closed);
        ArrayVec::new()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_pair_is_gone_before_it_would_be_idle() {
        assert!(super::GONE < crate::Config::default().idle);
    }
}
