//! How fast the hosts behind one public address may punch.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use domain::SourcePrefix;

/// Four punches a second behind each public address, in bursts of up to four, with twenty waiting (GCRA).
#[derive(Debug, Default)]
pub(super) struct Pace {
    next: BTreeMap<SourcePrefix, Instant>,
}

impl Pace {
    /// When it is the caller's turn; `None` when too many wait.
    pub(super) fn turn(&mut self, now: Instant, address: SourcePrefix) -> Option<Instant> {
        if self.next.len() >= MAX_PACED && !self.next.contains_key(&address) {
            self.next.retain(|_, next| *next > now);
            if self.next.len() >= MAX_PACED {
                return None;
            }
        }
        let next = self.next.entry(address).or_insert(now);
        let due = (*next).max(now);
        let turn = due.checked_sub(PACE * BURST).unwrap_or(now).max(now);
        if turn > now + PACE * MAX_PACING {
            return None;
        }
        *next = due + PACE;
        Some(turn)
    }
}

const PACE: Duration = Duration::from_millis(250);
const BURST: u32 = 3;
const MAX_PACING: u32 = 20;
const MAX_PACED: usize = 65_536;
