//! How much an operator may do by mistake: at most one in a hundred sessions a minute, unless the number is confirmed.
//!
//! Counted at each process: it guards against a slip, not against somebody who means it.

use std::sync::{Mutex, PoisonError};

use domain::UnixMillis;

const WINDOW_MS: u64 = 60_000;

/// What was done in this minute.
#[derive(Debug, Default)]
pub(crate) struct Blast(Mutex<Spent>);

#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    since: UnixMillis,
    sessions: u64,
}

impl Blast {
    /// How many more of `total` sessions may be ended now without a confirmation.
    pub(crate) fn left(&self, at: UnixMillis, total: u64) -> u64 {
        let spent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let used = if is_over(*spent, at) { 0 } else { spent.sessions };
        share(total).saturating_sub(used)
    }

    /// Takes `sessions` of them, or none if that is too many and they are not the `confirmed` number.
    pub(crate) fn take(&self, at: UnixMillis, sessions: u64, total: u64, confirmed: Option<u64>) -> bool {
        let mut spent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if is_over(*spent, at) {
            *spent = Spent { since: at, sessions: 0 };
        }
        let allowed = sessions == 0 || confirmed == Some(sessions) || spent.sessions + sessions <= share(total);
        if allowed {
            spent.sessions += sessions;
        }
        allowed
    }
}

/// One in a hundred, and at least one.
fn share(total: u64) -> u64 {
    (total / 100).max(1)
}

fn is_over(spent: Spent, at: UnixMillis) -> bool {
    at.0 >= spent.since.0 + WINDOW_MS || at < spent.since
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_a_hundred_a_minute_unless_confirmed() {
        let blast = Blast::default();
        let at = |ms: u64| UnixMillis(1_000_000 + ms);
        assert_eq!(blast.left(at(0), 1_000), 10);
        assert!(!blast.take(at(0), 11, 1_000, None));
        assert!(blast.take(at(0), 10, 1_000, None));
        assert!(!blast.take(at(59_999), 1, 1_000, None));
        assert!(!blast.take(at(59_999), 500, 1_000, Some(499)));
        assert!(blast.take(at(59_999), 500, 1_000, Some(500)));
        assert_eq!(blast.left(at(59_999), 1_000), 0);
        assert!(blast.take(at(60_000), 10, 1_000, None));
        assert_eq!(blast.left(at(120_000), 3), 1);
    }
}
