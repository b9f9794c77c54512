//! How much one source address gets: so many a second, in bursts of up to a second's worth (GCRA).

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use domain::SourcePrefix;

const BURST: Duration = Duration::from_secs(1);

/// Budgets are shared by the sources that fall together: 512 KiB, however many there are or are made up.
const PLACES: u32 = 65_536;

/// The budgets of all sources. Taking from one costs the same under a flood of made-up sources as without.
#[derive(Debug)]
pub struct Sources {
    start: Instant,
    interval: u64,
    /// Odd and secret, so that nobody can choose whom to share a budget with.
    factor: u64,
    /// When each is whole again, in nanoseconds since the start.
    whole_at: Box<[u64]>,
}

impl Sources {
    /// Budgets of `per_second` each; `secret` spreads the sources.
    #[must_use]
    pub fn new(now: Instant, per_second: u32, secret: u64) -> Self {
        Self {
            start: now,
            interval: nanos(Duration::from_secs(1) / per_second.max(1)),
            factor: secret | 1,
            whole_at: vec![0; PLACES as usize].into_boxed_slice(),
        }
    }

    /// Takes one from the budget of `source`; false when it is used up.
    pub fn take(&mut self, now: Instant, source: IpAddr) -> bool {
        let now = nanos(now.saturating_duration_since(self.start));
        let place = SourcePrefix::of(source).bits().wrapping_mul(self.factor) >> (u64::BITS - PLACES.ilog2());
        let whole_at = &mut self.whole_at[place as usize];
        let next = (*whole_at).max(now) + self.interval;
        let granted = next - now <= nanos(BURST);
        if granted {
            *whole_at = next;
        }
        granted
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: u64 = 0x9e37_79b9_7f4a_7c15;

    #[test]
    fn a_source_gets_its_rate_and_no_more() {
        let start = origin();
        let mut sources = Sources::new(start, 10, SECRET);
        let [a, b] = [IpAddr::from([203, 0, 113, 1]), IpAddr::from([203, 0, 113, 2])];
        let granted = |sources: &mut Sources, now, address| (0..50).filter(|_| sources.take(now, address)).count();
        assert_eq!(granted(&mut sources, start, a), 10);
        assert_eq!(granted(&mut sources, start, b), 10, "sources do not share");
        assert_eq!(granted(&mut sources, start + Duration::from_millis(500), a), 5);
    }

    #[test]
    fn neighbours_of_one_ipv6_site_share_a_budget() {
        let start = origin();
        let mut sources = Sources::new(start, 10, SECRET);
        let hosts = (0..50).map(|host: u16| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, host]));
        assert_eq!(hosts.filter(|host| sources.take(start, *host)).count(), 10);
    }

    #[test]
    fn spoofed_sources_take_no_memory_and_leave_most_others_their_budget() {
        let start = origin();
        let mut sources = Sources::new(start, 10, SECRET);
        for number in 0..1_000_000_u32 {
            sources.take(start, IpAddr::from(number.wrapping_mul(2_654_435_761).to_be_bytes()));
        }
        assert_eq!(sources.whole_at.len(), PLACES as usize);
        let later = start + Duration::from_secs(2);
        let honest =
            (0..1_000_u32).filter(|host| sources.take(later, IpAddr::from((0xcb00_0000 + host).to_be_bytes())));
        assert!(honest.count() > 990);
    }

    #[expect(clippy::disallowed_methods, reason = "an origin for virtual time")]
    fn origin() -> Instant {
        Instant::now()
    }
}
