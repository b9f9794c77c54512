//! What is made of many figures, and what is counted of sequence numbers. Pure.

use std::time::Duration;

use domain::Bandwidth;
use hdrhistogram::Histogram;

/// Latencies of up to a minute in nanoseconds, three digits each.
const LONGEST: u64 = 60_000_000_000;

/// An empty histogram of latencies.
///
/// # Errors
/// When there is no memory.
pub(crate) fn latencies() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, LONGEST, 3)?)
}

/// All of them as one.
///
/// # Errors
/// When there is no memory.
pub(crate) fn merged<'a>(histograms: impl IntoIterator<Item = &'a Histogram<u64>>) -> anyhow::Result<Histogram<u64>> {
    let mut all = latencies()?;
    for histogram in histograms {
        all.add(histogram)?;
    }
    Ok(all)
}

/// The one in the middle; the mean of the two where there are two. Not a number when there is none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// Jain's index: 1 when all have the same, 1/n when one has everything.
pub(crate) fn fairness(bytes: &[u64]) -> f64 {
    let (sum, squares) =
        bytes.iter().map(|&bytes| bytes as f64).fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
    if squares == 0.0 { 1.0 } else { sum * sum / (bytes.len() as f64 * squares) }
}

/// How far the pair is from `rate` that is farthest, in parts of it; `None` without a rate.
pub(crate) fn cap_error(bytes: &[u64], rate: Bandwidth, duration: Duration) -> Option<f64> {
    let fair = rate.bytes_per_second() as f64 * duration.as_secs_f64();
    let worst = bytes.iter().map(|&bytes| (bytes as f64 - fair).abs() / fair).reduce(f64::max);
    worst.filter(|_| !rate.is_unlimited())
}

/// `of` parts of a whole; 0 of nothing.
pub(crate) fn share(count: u64, of: u64) -> f64 {
    count as f64 / of.max(1) as f64
}

/// The highest sequence number that arrived of each leg.
#[derive(Debug)]
pub(crate) struct Arrivals(Vec<u32>);

impl Arrivals {
    pub(crate) fn new(legs: usize) -> Self {
        Self(vec![0; legs])
    }

    /// Whether one that was sent later by the same leg arrived before this one; `None` for a leg that does not exist.
    pub(crate) fn is_late(&mut self, leg: usize, sequence: u32) -> Option<bool> {
        let highest = self.0.get_mut(leg)?;
        let late = sequence < *highest;
        *highest = sequence.max(*highest);
        Some(late)
    }

    pub(crate) fn clear(&mut self) {
        self.0.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_not_moved_by_one_bad_round() {
        assert!((median(vec![1.0, 100.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median(vec![]).is_nan());
    }

    #[test]
    fn fairness_is_one_for_equals_and_a_share_for_one_who_has_all() {
        assert!((fairness(&[5, 5, 5, 5]) - 1.0).abs() < 1e-9);
        assert!((fairness(&[8, 0, 0, 0]) - 0.25).abs() < 1e-9);
        assert!((fairness(&[0, 0]) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn the_cap_error_is_that_of_the_worst_pair() {
        let rate = Bandwidth::from_bytes_per_second(1_000);
        let error = cap_error(&[10_000, 10_100, 9_700], rate, Duration::from_secs(10)).unwrap();
        assert!((error - 0.03).abs() < 1e-9);
        assert_eq!(cap_error(&[1], Bandwidth::UNLIMITED, Duration::from_secs(1)), None);
    }

    #[test]
    fn merged_histograms_hold_every_value_of_each() {
        let [mut one, mut other] = [latencies().unwrap(), latencies().unwrap()];
        (1..=90).for_each(|micros| one.record(micros * 1_000).unwrap());
        (91..=100).for_each(|micros| other.record(micros * 1_000).unwrap());
        let all = merged([&one, &other]).unwrap();
        assert_eq!(all.len(), 100);
        assert!(all.equivalent(all.value_at_quantile(0.95), 95_000));
        // What is longer than the longest is not left out.
        all.clone().saturating_record(u64::MAX);
    }

    #[test]
    fn late_is_what_was_overtaken_by_its_own_leg() {
        let mut arrivals = Arrivals::new(2);
        let late =
            [(0, 1), (0, 3), (1, 1), (0, 2), (0, 4), (1, 2)].map(|(leg, sequence)| arrivals.is_late(leg, sequence));
        assert_eq!(late, [false, false, false, true, false, false].map(Some));
        assert_eq!(arrivals.is_late(2, 1), None);
        arrivals.clear();
        assert_eq!(arrivals.is_late(0, 1), Some(false));
    }
}
