//! What goes wrong on purpose.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::time::Instant;

use super::queue::Place;

/// What a [`super::Hub`] does to messages. The same seed and the same messages in the same order suffer the same.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Faults {
    pub seed: u64,
    /// The share of messages that are lost: a call or its answer without a word, work before its confirm (the publisher is
    /// told), other events after it.
    pub lose: f64,
    /// The share of events that come twice. Calls never do.
    pub repeat: f64,
    /// Messages take up to this long.
    pub delay: Duration,
    /// A message overtakes up to this many that were waiting before it.
    pub reorder: usize,
}

/// Draws the fate of messages.
#[derive(Debug)]
pub(super) struct Fate {
    faults: Faults,
    random: Mutex<StdRng>,
}

impl Fate {
    pub(super) fn new(faults: Faults) -> Self {
        Self { faults, random: Mutex::new(StdRng::seed_from_u64(faults.seed)) }
    }

    pub(super) fn loses(&self) -> bool {
        self.faults.lose > 0.0 && self.random().random_bool(self.faults.lose.min(1.0))
    }

    /// How often an event is delivered.
    pub(super) fn copies(&self) -> usize {
        if self.faults.repeat > 0.0 && self.random().random_bool(self.faults.repeat.min(1.0)) { 2 } else { 1 }
    }

    pub(super) fn place(&self) -> Place {
        let now = Instant::now();
        let due = match u64::try_from(self.faults.delay.as_micros()).unwrap_or(u64::MAX) {
            0 => now,
            most => now + Duration::from_micros(self.random().random_range(0..=most)),
        };
        let ahead_of = match self.faults.reorder {
            0 => 0,
            most => self.random().random_range(0..=most),
        };
        Place { due, ahead_of }
    }

    fn random(&self) -> MutexGuard<'_, StdRng> {
        self.random.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
