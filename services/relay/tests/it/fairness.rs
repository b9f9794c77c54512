//! What capped and crowded pairs get, in virtual time.

use std::{net::SocketAddr, time::Duration};

use domain::Bandwidth;
use relay::core::{DropReason, Verdict};
use wire::{relay::MAX_DATAGRAM, ticket::LegSide};

use crate::lab::{ALICE, BERT, Lab, MALLORY, forwarded_to};

/// Over any ten seconds of a pair that always has more to send: its rate within 1 %, or the frame that just does not fit.
#[test]
fn a_cap_is_exact_over_ten_seconds() {
    for (rate, size) in [(1_000_u64, 72_usize), (125_000, 1_208), (1_250_000, 520), (12_500_000, 1_288)] {
        let mut lab = Lab::new();
        let slot = lab.pair(Bandwidth::from_bytes_per_second(rate));
        // What was saved up goes first.
        while matches!(lab.data(ALICE, slot, size), Verdict::Forward(_)) {}
        let gap = Duration::from_nanos(size as u64 * 1_000_000_000 / (3 * rate));
        let (mut passed, mut offered) = (0, 0);
        while offered < 30 * rate {
            lab.advance(gap);
            offered += size as u64;
            if matches!(lab.data(ALICE, slot, size), Verdict::Forward(_)) {
                passed += size as u64;
            }
        }
        let fair = 10 * rate;
        let off = passed.abs_diff(fair);
        assert!(off * 100 <= fair.max(100 * size as u64), "{passed} of {fair} at {rate} B/s");
    }
}

#[test]
fn the_largest_frame_passes_at_any_rate_in_the_time_that_it_takes() {
    for rate in [1, 100, 1_000, 1_000_000] {
        let mut lab = Lab::new();
        let slot = lab.pair(Bandwidth::from_bytes_per_second(rate));
        while matches!(lab.data(ALICE, slot, MAX_DATAGRAM), Verdict::Forward(_)) {}
        let wait = Duration::from_nanos(MAX_DATAGRAM as u64 * 1_000_000_000 / rate);
        // Pings keep the pair meanwhile.
        for _ in 0..100 {
            lab.advance(wait / 100 + Duration::from_nanos(1));
            assert!(lab.ping(ALICE, slot).is_some());
        }
        assert!(matches!(lab.data(ALICE, slot, MAX_DATAGRAM), Verdict::Forward(_)), "{rate} B/s");
    }
}

/// Twenty pairs that offer the same share a worker that can serve a third of it; the kernel's queue keeps what fits and drops
/// what comes when it is full.
#[test]
fn equal_pairs_get_equal_shares_of_a_crowded_worker() {
    let mut lab = Lab::new();
    let pairs: Vec<_> = (0..20).map(|_| lab.pair(Bandwidth::UNLIMITED)).collect();
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut passed = vec![0_u32; pairs.len()];
    let mut queue = std::collections::VecDeque::new();
    for _ in 0..2_000 {
        for _ in 0..60 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let pair = (random % pairs.len() as u64) as usize;
            if queue.len() < 256 {
                queue.push_back(pair);
            }
        }
        for pair in queue.drain(..20) {
            if matches!(lab.data(ALICE, pairs[pair], 500), Verdict::Forward(_)) {
                passed[pair] += 1;
            }
        }
        lab.advance(Duration::from_micros(100));
    }
    assert!(jain(&passed) >= 0.95, "{passed:?}");
}

#[test]
fn equally_capped_pairs_get_equal_shares_whatever_they_offer() {
    let mut lab = Lab::new();
    let pairs: Vec<_> = (0..10).map(|_| lab.pair(Bandwidth::from_bytes_per_second(50_000))).collect();
    let mut passed = vec![0_u32; pairs.len()];
    for _ in 0..10_000 {
        lab.advance(Duration::from_millis(1));
        for (nth, slot) in pairs.iter().enumerate() {
            // From twice the rate to eleven times.
            for _ in 0..nth + 2 {
                passed[nth] += u32::from(matches!(lab.data(ALICE, *slot, 50), Verdict::Forward(_)));
            }
        }
    }
    assert!(jain(&passed) >= 0.99, "{passed:?}");
}

/// Proofs cost the relay time. A source has a budget of them, and what others do is not touched by it: they join and move at
/// once, their datagrams pass.
#[test]
fn a_flood_of_tickets_takes_no_more_than_its_budget_and_nobody_elses() {
    let mut lab = Lab::new();
    let slot = lab.pair(Bandwidth::UNLIMITED);
    let (forged, alices) = (Lab::foreign_ticket(), lab.alice.clone().unwrap());
    let (mut alice, mut read) = (ALICE, 0);
    for second in 0..10 {
        for nth in 0..3_000_u16 {
            match lab.join_verdict(SocketAddr::new(MALLORY.ip(), 1_024 + nth), &forged) {
                Verdict::Answer(_) => read += 1,
                Verdict::Drop(reason) => assert_eq!(reason, DropReason::JoinsTooOften),
                Verdict::Forward(to) => panic!("forwarded to {to:?}"),
                Verdict::Copy => panic!("copied"),
            }
        }
        assert_eq!(lab.data(alice, slot, 100), forwarded_to(BERT));
        lab.advance(Duration::from_secs(1));
        alice = SocketAddr::from(([198, 51, 100, second], 7));
        assert_eq!(lab.join(alice, &alices), Ok(slot));
        let new = lab.ticket(LegSide::A, Bandwidth::UNLIMITED);
        assert!(lab.join(BERT, &new).is_ok());
    }
    // A second's worth at once, and each second's.
    assert!(read <= 11 * 1_000, "{read}");
}

/// 1 when all have the same, 1/n when one has all.
fn jain(shares: &[u32]) -> f64 {
    let sum: f64 = shares.iter().map(|share| f64::from(*share)).sum();
    let squares: f64 = shares.iter().map(|share| f64::from(*share).powi(2)).sum();
    sum * sum / (shares.len() as f64 * squares)
}
