//! What goes wrong on purpose.

use std::{
    io,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use crate::Error;

/// What a [`super::Memory`] does to calls. The same seed and the same calls in the same order suffer the same.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Faults {
    pub seed: u64,
    /// The share of calls that are lost, half of them after they were carried out: the caller cannot tell.
    pub lose: f64,
    /// The share of calls that are carried out twice, unless that would do harm.
    pub repeat: f64,
    /// Calls take up to this long.
    pub delay: Duration,
}

/// Draws the fate of calls.
#[derive(Debug)]
pub(super) struct Source {
    faults: Faults,
    random: Mutex<StdRng>,
    interrupted: AtomicBool,
}

/// What happens to one call.
pub(super) struct Fate {
    pub(super) delay: Duration,
    pub(super) loses_call: bool,
    pub(super) repeats_call: bool,
    pub(super) loses_answer: bool,
}

impl Default for Source {
    fn default() -> Self {
        Self::new(Faults::default())
    }
}

impl Source {
    pub(super) fn new(faults: Faults) -> Self {
        let random = Mutex::new(StdRng::seed_from_u64(faults.seed));
        Self { faults, random, interrupted: AtomicBool::new(false) }
    }

    pub(super) fn interrupt(&self) {
        self.interrupted.store(true, Ordering::Relaxed);
    }

    pub(super) fn restore(&self) {
        self.interrupted.store(false, Ordering::Relaxed);
    }

    pub(super) fn fate(&self) -> Result<Fate, Error> {
        if self.interrupted.load(Ordering::Relaxed) {
            return Err(Error::Unavailable(io::ErrorKind::NotConnected.into()));
        }
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        let mut happens = |share: f64| share > 0.0 && random.random_bool(share.min(1.0));
        let lost = happens(self.faults.lose);
        let loses_call = lost && happens(0.5);
        let repeats_call = happens(self.faults.repeat);
        let most = u64::try_from(self.faults.delay.as_micros()).unwrap_or(u64::MAX);
        let delay = if most == 0 { Duration::ZERO } else { Duration::from_micros(random.random_range(0..=most)) };
        Ok(Fate { delay, loses_call, repeats_call, loses_answer: lost && !loses_call })
    }
}
