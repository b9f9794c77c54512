//! How many requests a token may make: so many a minute, counted from the first, at each process.

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    sync::{Mutex, PoisonError},
};

use domain::UnixMillis;

/// The window that requests are counted in.
const WINDOW_MS: u64 = 60_000;

/// Windows that are kept; beyond that those that ended are forgotten. Only valid tokens have one, and they are few.
const KEPT: usize = 2_048;

/// Counts the requests of every token.
#[derive(Debug)]
pub(crate) struct Throttle {
    limit: NonZeroU32,
    windows: Mutex<BTreeMap<String, Window>>,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    since: UnixMillis,
    taken: u32,
}

/// What is left to a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowance {
    pub(crate) limit: u32,
    pub(crate) remaining: u32,
    /// Seconds until all of it is there again.
    pub(crate) reset_s: u64,
    /// Whether this request may be served.
    pub(crate) allowed: bool,
}

impl Throttle {
    pub(crate) const fn new(limit: NonZeroU32) -> Self {
        Self { limit, windows: Mutex::new(BTreeMap::new()) }
    }

    /// Counts a request of `who`.
    pub(crate) fn take(&self, at: UnixMillis, who: &str) -> Allowance {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let over = |window: &Window| at.0 >= window.since.0 + WINDOW_MS || at < window.since;
        if windows.len() >= KEPT {
            windows.retain(|_, window| !over(window));
        }
        let window = windows.entry(who.to_owned()).or_insert(Window { since: at, taken: 0 });
        if over(window) {
            *window = Window { since: at, taken: 0 };
        }
        let (limit, allowed) = (self.limit.get(), window.taken < self.limit.get());
        window.taken = window.taken.saturating_add(1).min(limit);
        let left_ms = (window.since.0 + WINDOW_MS).saturating_sub(at.0);
        Allowance { limit, remaining: limit - window.taken, reset_s: left_ms.div_ceil(1_000), allowed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_so_many_requests_a_minute_and_another_token_its_own() {
        let throttle = Throttle::new(const { NonZeroU32::new(2).unwrap() });
        let at = |ms: u64| throttle.take(UnixMillis(1_000_000 + ms), "a");
        assert_eq!(at(0), Allowance { limit: 2, remaining: 1, reset_s: 60, allowed: true });
        assert_eq!(at(500), Allowance { limit: 2, remaining: 0, reset_s: 60, allowed: true });
        assert_eq!(at(1_500), Allowance { limit: 2, remaining: 0, reset_s: 59, allowed: false });
        assert!(throttle.take(UnixMillis(1_001_500), "b").allowed);
        assert!(!at(59_999).allowed);
        assert_eq!(at(60_000), Allowance { limit: 2, remaining: 1, reset_s: 60, allowed: true });
    }

    #[test]
    fn windows_that_ended_are_forgotten() {
        let throttle = Throttle::new(NonZeroU32::MIN);
        for number in 0..KEPT {
            throttle.take(UnixMillis(1), &number.to_string());
        }
        throttle.take(UnixMillis(1 + WINDOW_MS), "one more");
        assert_eq!(throttle.windows.lock().unwrap().len(), 1);
    }
}
