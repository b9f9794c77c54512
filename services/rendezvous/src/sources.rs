//! How much one source address gets: so many a second, in bursts of up to a second's worth (GCRA).

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use domain::SourcePrefix;

/// Sources remembered at once. When all of them are busy, further ones get nothing.
const MOST_SOURCES: usize = 65_536;
const BURST: Duration = Duration::from_secs(1);

/// The budgets of all sources.
#[derive(Debug)]
pub(crate) struct Sources {
    interval: Duration,
    /// When each will have its whole budget again.
    whole: BTreeMap<SourcePrefix, Instant>,
}

impl Sources {
    /// Budgets of `per_second` each.
    pub(crate) fn new(per_second: u32) -> Self {
        Self { interval: Duration::from_secs(1) / per_second.max(1), whole: BTreeMap::new() }
    }

    /// Takes one from the budget of `source`; false when it is used up.
    pub(crate) fn take(&mut self, now: Instant, source: IpAddr) -> bool {
        let source = SourcePrefix::of(source);
        if self.whole.len() >= MOST_SOURCES && !self.whole.contains_key(&source) {
            self.whole.retain(|_, whole| *whole > now);
            if self.whole.len() >= MOST_SOURCES {
                return false;
            }
        }
        let whole = self.whole.entry(source).or_insert(now);
        let next = (*whole).max(now) + self.interval;
        let granted = next <= now + BURST;
        if granted {
            *whole = next;
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_gets_its_rate_and_no_more() {
        let mut sources = Sources::new(10);
        let start = Instant::now();
        let [a, b] = [IpAddr::from([203, 0, 113, 1]), IpAddr::from([203, 0, 113, 2])];
        let granted = |sources: &mut Sources, now, address| (0..50).filter(|_| sources.take(now, address)).count();
        assert_eq!(granted(&mut sources, start, a), 10);
        assert_eq!(granted(&mut sources, start, b), 10, "sources do not share");
        assert_eq!(granted(&mut sources, start + Duration::from_millis(500), a), 5);
    }

    #[test]
    fn spoofed_sources_do_not_grow_the_table_without_end() {
        let mut sources = Sources::new(1);
        let start = Instant::now();
        for number in 0..(u32::try_from(MOST_SOURCES).unwrap() + 1_000) {
            sources.take(start, IpAddr::from(number.to_be_bytes()));
        }
        assert_eq!(sources.whole.len(), MOST_SOURCES);
        let later = start + Duration::from_secs(2);
        assert!(sources.take(later, IpAddr::from([255, 0, 0, 1])));
        assert_eq!(sources.whole.len(), 1);
    }
}
