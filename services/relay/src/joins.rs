//! How many tickets one source address shows: each costs three HMACs, and behind the cookie nobody is anonymous.

use crate::steer::Workers;

/// Tickets of one source in a second, and at once: enough for the clients of a carrier's NAT after a relay restarted,
/// and 0.2 % of a core.
const PER_SECOND: u64 = 1_000;

/// Between two tickets at the rate, at the only worker. Each of several grants its part: tickets fall on them by chance.
const INTERVAL: u64 = 1_000_000_000 / PER_SECOND;

/// What may be taken at once, in nanoseconds at the rate.
const DEPTH: u64 = 1_000_000_000;

/// Budgets are shared by the sources that fall together: 32 KiB, however many there are.
const PLACES: u32 = 4_096;

/// The budgets of all sources, each as the instant when it is whole again.
#[derive(Debug)]
pub(crate) struct Joins {
    /// Odd and secret, so that nobody can choose whom to share a budget with.
    factor: u64,
    whole_at: Box<[u64]>,
    interval: u64,
}

impl Joins {
    /// Whole budgets; `secret` spreads the sources.
    pub(crate) fn new(secret: [u8; 32], workers: Workers) -> Self {
        let factor = secret.iter().take(8).fold(0, |number, &byte| number << 8 | u64::from(byte)) | 1;
        Self {
            factor,
            whole_at: vec![0; PLACES as usize].into_boxed_slice(),
            interval: INTERVAL * u64::from(workers.count()),
        }
    }

    /// Takes one from the budget of `source`, a number that names it, at `now` (nanoseconds); false when it is used up.
    pub(crate) fn take(&mut self, now: u64, source: u64) -> bool {
        let place = source.wrapping_mul(self.factor) >> (u64::BITS - PLACES.ilog2());
        let whole_at = &mut self.whole_at[place as usize];
        let next = (*whole_at).max(now) + self.interval;
        let granted = next - now <= DEPTH;
        if granted {
            *whole_at = next;
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use domain::SourcePrefix;

    use super::*;

    #[test]
    fn a_source_gets_its_rate_and_others_theirs() {
        let mut joins = Joins::new([0x9b; 32], Workers::ONE);
        let [one, other] = [1, 2].map(|host| SourcePrefix::of(IpAddr::from([203, 0, 113, host])).bits());
        let taken = |joins: &mut Joins, now, source| (0..5_000).filter(|_| joins.take(now, source)).count();
        assert_eq!(taken(&mut joins, 0, one), 1_000);
        assert_eq!(taken(&mut joins, 0, other), 1_000);
        assert_eq!(taken(&mut joins, DEPTH / 2, one), 500);
    }

    #[test]
    fn workers_grant_a_source_its_rate_together() {
        let workers = Workers::new(4);
        let source = SourcePrefix::of(IpAddr::from([203, 0, 113, 1])).bits();
        let granted = |_| {
            let mut joins = Joins::new([0x9b; 32], workers);
            (0..5_000).filter(|_| joins.take(0, source)).count()
        };
        assert_eq!((0..4).map(granted).sum::<usize>(), 1_000);
    }

    #[test]
    fn every_source_has_a_place() {
        let mut joins = Joins::new([0xff; 32], Workers::ONE);
        for bits in [0, 1, u32::MAX, 0x8000_0000] {
            assert!(joins.take(0, SourcePrefix::of(IpAddr::V4(bits.into())).bits()));
        }
    }
}
