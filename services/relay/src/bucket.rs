//! The token bucket of one pair, as one instant: the generic cell rate algorithm (ITU-T I.371, the virtual scheduling form).

use std::time::Duration;

use domain::Bandwidth;
use wire::relay::MAX_DATAGRAM;

/// What a pair may send at once after a rest, in time at its rate.
const BURST: Duration = Duration::from_millis(50);

/// What it may send at once in any case: one largest frame, so that every legal frame passes in bounded time.
const LEAST_BURST: u64 = MAX_DATAGRAM as u64;

/// When the bucket is full again, on the relay's clock.
///
/// Over ten seconds the error is the burst: 0.5 % of the rate, or one frame where the rate is below 41 kB/s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    full_at: u64,
    /// Nanoseconds per byte in 1/1024; 0 for no limit.
    pace: u64,
}

impl Bucket {
    /// A full bucket.
    pub(crate) fn new(rate: Bandwidth) -> Self {
        let pace = if rate.is_unlimited() { 0 } else { (1_000_000_000 * 1024) / rate.bytes_per_second().max(1) };
        Self { full_at: 0, pace }
    }

    /// The bucket that is full again at `full_at`.
    pub(crate) fn resumed(rate: Bandwidth, full_at: u64) -> Self {
        Self { full_at, ..Self::new(rate) }
    }

    /// The bucket for another rate: what was used up stays so, as far as an empty bucket goes.
    pub(crate) fn renewed(&self, now: u64, rate: Bandwidth) -> Self {
        let new = Self::new(rate);
        Self { full_at: self.full_at.min(now.saturating_add(new.depth())), ..new }
    }

    /// Takes `bytes` out at `now` (nanoseconds), if they are there.
    pub(crate) fn take(&mut self, now: u64, bytes: usize) -> bool {
        if self.pace == 0 {
            return true;
        }
        let full_at = self.full_at.max(now).saturating_add(self.cost(bytes as u64));
        if full_at - now > self.depth() {
            return false;
        }
        self.full_at = full_at;
        true
    }

    /// When it is full again.
    pub(crate) const fn full_at(&self) -> u64 {
        self.full_at
    }

    /// Counts what was taken out elsewhere.
    pub(crate) fn is_full_at(&mut self, full_at: u64) {
        self.full_at = self.full_at.max(full_at);
    }

    /// Nanoseconds per byte in 1/1024; 0 for no limit.
    pub(crate) const fn pace(&self) -> u64 {
        self.pace
    }

    /// How far before it is full again it still gives, in nanoseconds.
    pub(crate) fn depth(&self) -> u64 {
        u64::try_from(BURST.as_nanos()).unwrap_or(u64::MAX).max(self.cost(LEAST_BURST))
    }

    const fn cost(&self, bytes: u64) -> u64 {
        bytes.saturating_mul(self.pace) / 1024
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_full_bucket_passes_one_largest_frame_and_no_more() {
        let mut bucket = Bucket::new(Bandwidth::from_bytes_per_second(1_000));
        assert!(bucket.take(0, MAX_DATAGRAM));
        assert!(!bucket.take(0, 1));
        assert!(bucket.take(SECOND, 1_000));
        assert!(!bucket.take(SECOND, 1));
    }

    #[test]
    fn a_refused_frame_costs_nothing() {
        let mut bucket = Bucket::new(Bandwidth::from_bytes_per_second(1_000));
        assert!(!bucket.take(0, MAX_DATAGRAM + 1));
        assert!(bucket.take(0, MAX_DATAGRAM));
    }

    #[test]
    fn no_limit_is_no_limit() {
        let mut bucket = Bucket::new(Bandwidth::UNLIMITED);
        assert!((0..1_000_000).all(|_| bucket.take(0, 2_048)));
    }

    #[test]
    fn no_rate_is_one_byte_a_second() {
        let mut bucket = Bucket::new(Bandwidth::from_bytes_per_second(0));
        assert!(bucket.take(0, MAX_DATAGRAM));
        assert!(!bucket.take(SECOND, 2));
    }

    proptest! {
        #[test]
        fn the_largest_frame_passes_once_it_was_saved_up(rate in 1_u64..10_000_000_000, before in 0_u64..SECOND) {
            let mut bucket = Bucket::new(Bandwidth::from_bytes_per_second(rate));
            while bucket.take(before, MAX_DATAGRAM) {}
            let saved = before + MAX_DATAGRAM as u64 * SECOND / rate + 1_000;
            prop_assert!(bucket.take(saved, MAX_DATAGRAM));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn ten_seconds_pass_the_rate_within_one_percent_and_a_frame(
            rate in 1_000_u64..10_000_000,
            size in 200_usize..1_500,
            offered in 2_u64..10,
        ) {
            let mut bucket = Bucket::new(Bandwidth::from_bytes_per_second(rate));
            let gap = (size as u64 * SECOND / (rate * offered)).max(1);
            let (mut now, mut passed) = (0, 0_u64);
            while now < 10 * SECOND && passed < 20 * rate {
                if bucket.take(now, size) {
                    passed += size as u64;
                }
                now += gap;
            }
            let fair = 10 * rate;
            let slack = fair / 100 + 2 * LEAST_BURST;
            prop_assert!(passed + slack >= fair && passed <= fair + slack, "{passed} of {fair}");
        }
    }
}
