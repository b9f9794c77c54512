//! How fast the hosts behind one public address may punch.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use domain::{PunchOrder, SourcePrefix};

use crate::punch::airtime;

/// Four punches a second behind each public address, in bursts of up to four, with twenty waiting (GCRA). Punches of many
/// packets take as long as those take at 500 a second, and do not begin before the ones ahead of them are through.
#[derive(Debug, Default)]
pub(super) struct Pace {
    next: BTreeMap<SourcePrefix, Instant>,
}

impl Pace {
    /// When it is the turn of `order`, which goes out from `address`; `None` when too many wait.
    pub(super) fn turn(&mut self, now: Instant, address: SourcePrefix, order: &PunchOrder) -> Option<Instant> {
        if self.next.len() >= MAX_PACED && !self.next.contains_key(&address) {
            self.next.retain(|_, next| *next > now);
            if self.next.len() >= MAX_PACED {
                return None;
            }
        }
        let next = self.next.entry(address).or_insert(now);
        let due = (*next).max(now);
        let cost = airtime(order).max(PACE);
        let burst = if cost > PACE { Duration::ZERO } else { PACE * BURST };
        let turn = due.checked_sub(burst).unwrap_or(now).max(now);
        if turn > now + PACE * MAX_PACING {
            return None;
        }
        *next = due + cost;
        Some(turn)
    }
}

const PACE: Duration = Duration::from_millis(250);
const BURST: u32 = 3;
const MAX_PACING: u32 = 20;
const MAX_PACED: usize = 65_536;

#[cfg(test)]
mod tests {
    use domain::{Candidate, InstanceId, PunchId, Spray, Strategy};

    use super::*;
    use crate::sim::origin;

    #[test]
    fn four_plain_punches_go_at_once_and_then_four_a_second_until_too_many_wait() {
        let (mut pace, now) = (Pace::default(), origin());
        let turns: Vec<_> = (0..26).map(|_| pace.turn(now, address(), &order(None))).collect();
        let waits: Vec<_> = turns.iter().flatten().map(|turn| (*turn - now).as_millis()).collect();
        assert_eq!(waits[..6], [0, 0, 0, 0, 250, 500]);
        assert_eq!((waits.len(), waits.last()), (24, Some(&5_000)));
    }

    #[test]
    fn large_windows_wait_for_one_another() {
        let (mut pace, now) = (Pace::default(), origin());
        let window = order(Some(Spray::Window { first: 2_000, step: 1, count: 128 }));
        let waits: Vec<_> = (0..3).map(|_| pace.turn(now, address(), &window).unwrap() - now).collect();
        assert_eq!(waits, [Duration::ZERO, airtime(&window), 2 * airtime(&window)]);
        assert!(airtime(&window) > Duration::from_secs(1));
    }

    fn address() -> SourcePrefix {
        SourcePrefix::of([203, 0, 113, 1].into())
    }

    fn order(spray: Option<Spray>) -> PunchOrder {
        PunchOrder {
            punch: PunchId { leader: InstanceId::from_bytes([1; 16]), number: 1 },
            strategy: Strategy::Predict,
            wait_us: 0,
            gap_us: 0,
            opener_ttl: 4,
            candidates: vec![Candidate { endpoint: ([203, 0, 113, 1], 1_999).into(), local: false, main: false }],
            attempt: 1,
            spray,
            sockets: 0,
        }
    }
}
