//! What punches may cost the routers that they go through, over all pairs.
//!
//! A *birthday* fills tables of two routers, so it needs a lease of each client for a minute, of the easy side's public
//! address for half a minute, and one of three an hour of the pair. Nobody gives them back: they run out. The other
//! strategies share what is left of the flows that a small router bears. Plain punches are never refused; what they
//! open counts, so a birthday behind an address where many punch tries fewer ports.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use domain::{PunchOrder, SourcePrefix, Spray};

use crate::predict::BIRTHDAY_PROBES;

/// What can be used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Budget {
    /// One birthday of a client in a minute.
    Client,
    /// One birthday of an easy side's public address in half a minute.
    Address,
    /// Three birthdays of a pair in an hour.
    Pair,
    /// New flows behind a public address in half a minute.
    Flows,
}

impl Budget {
    /// Every budget, for metrics.
    pub const ALL: [Self; 4] = [Self::Client, Self::Address, Self::Pair, Self::Flows];

    /// The word for metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Address => "address",
            Self::Pair => "pair",
            Self::Flows => "flows",
        }
    }

    /// How long a pair rests that was refused it.
    pub(super) const fn rest(self) -> Duration {
        match self {
            Self::Client => BIRTHDAY_OF_CLIENT,
            Self::Address | Self::Flows => BIRTHDAY_AT_ADDRESS,
            Self::Pair => BIRTHDAYS_OF_PAIR.checked_div(3).expect("not 0"),
        }
    }
}

/// New flows that the punches of this process open behind each public address. A lease of the address sees to it that no
/// other process takes its share for a birthday at the same time.
#[derive(Debug, Default)]
pub(super) struct Flows {
    opened: BTreeMap<SourcePrefix, VecDeque<(Instant, u32)>>,
}

impl Flows {
    /// Takes what both orders will open from the budgets of the addresses that they go out from; false takes nothing. A
    /// birthday that is too large becomes smaller, as long as it has a chance.
    pub(super) fn take(&mut self, now: Instant, orders: &mut [PunchOrder; 2], from: [Option<SourcePrefix>; 2]) -> bool {
        let mut wanted: BTreeMap<SourcePrefix, [u32; 2]> = BTreeMap::new();
        for side in 0..2 {
            let Some(address) = from[side] else { continue };
            // The other side may go out from the same address.
            let others = if from[1 - side] == from[side] { flows(&orders[1 - side])[1] } else { 0 };
            let left = self.left(now, address).saturating_sub(others);
            if let Some(Spray::Scatter { count, .. }) = &mut orders[side].spray
                && left >= FEWEST_PROBES
            {
                *count = (*count).min(u16::try_from(left).unwrap_or(u16::MAX));
            }
            let [plain, more] = flows(&orders[side]);
            let flows = wanted.entry(address).or_default();
            *flows = [flows[0] + plain, flows[1] + more];
        }
        if self.opened.len() + wanted.len() > MOST_ADDRESSES {
            self.opened.retain(|_, opened| opened.back().is_some_and(|&(at, _)| is_recent(now, at)));
        }
        let plain = wanted.values().all(|[_, more]| *more == 0);
        let fits = wanted.iter().all(|(address, [_, more])| *more == 0 || self.left(now, *address) >= *more);
        if !fits || self.opened.len() + wanted.len() > MOST_ADDRESSES {
            return plain;
        }
        for (address, [plain, more]) in wanted {
            self.opened.entry(address).or_default().push_back((now, plain + more));
        }
        true
    }

    fn left(&mut self, now: Instant, address: SourcePrefix) -> u32 {
        let Some(opened) = self.opened.get_mut(&address) else { return FLOWS_OF_PUNCHES };
        while opened.front().is_some_and(|&(at, _)| !is_recent(now, at)) {
            opened.pop_front();
        }
        FLOWS_OF_PUNCHES.saturating_sub(opened.iter().map(|(_, flows)| flows).sum())
    }
}

/// The flows of one side: the few of a plain punch, which the number of punches a second bounds, and what is beyond them.
fn flows(order: &PunchOrder) -> [u32; 2] {
    let targets = order.candidates.iter().filter(|candidate| !candidate.main && !candidate.local).count();
    let targets = u32::try_from(targets).unwrap_or(u32::MAX);
    let ports = match order.spray {
        // At each address.
        Some(Spray::Window { count, .. }) => u32::from(count).saturating_mul(targets.max(1)),
        // Over all addresses.
        Some(Spray::Scatter { count, .. }) => u32::from(count),
        None => 0,
    };
    let sockets = u32::from(order.sockets.max(1));
    let more = ports + (sockets - 1).saturating_mul(targets);
    [u32::try_from(order.candidates.len()).unwrap_or(u32::MAX), more]
}

fn is_recent(now: Instant, at: Instant) -> bool {
    now.saturating_duration_since(at) < FLOWS_WINDOW
}

pub(super) const BIRTHDAY_OF_CLIENT: Duration = Duration::from_secs(60);
pub(super) const BIRTHDAY_AT_ADDRESS: Duration = Duration::from_secs(30);
pub(super) const BIRTHDAYS_OF_PAIR: Duration = Duration::from_secs(60 * 60);
/// Birthdays of a pair in that time.
pub(super) const MOST_BIRTHDAYS: u8 = 3;
/// Small home routers hold 4,000 to 16,000 flows, and Linux keeps an unanswered one for 30 s: 1,024 of them may be ours. The
/// questions that clients ask reflectors have the rest.
const FLOWS_OF_PUNCHES: u32 = BIRTHDAY_PROBES as u32;
/// A birthday with fewer would waste the turn of a pair: this many meet 256 sockets in two of three attempts.
const FEWEST_PROBES: u32 = 256;
const FLOWS_WINDOW: Duration = Duration::from_secs(30);
/// Public addresses remembered at once. When all of them are busy, further ones only get plain punches.
const MOST_ADDRESSES: usize = 65_536;

#[cfg(test)]
mod tests {
    use domain::{Candidate, InstanceId, PunchId, Strategy};

    use super::*;
    use crate::sim::origin;

    #[test]
    fn one_birthday_takes_all_of_an_address_for_half_a_minute() {
        let (mut flows, now) = (Flows::default(), origin());
        let birthday = || [order(0, Some(scatter(980))), order(256, None)];
        assert!(flows.take(now, &mut birthday(), addresses()));
        assert!(!flows.take(now + secs(29), &mut birthday(), addresses()));
        assert!(!flows.take(now + secs(29), &mut [order(0, Some(scatter(8))), order(0, None)], addresses()));
        assert!(flows.take(now + secs(30), &mut birthday(), addresses()));
    }

    #[test]
    fn a_birthday_tries_as_many_ports_as_are_left_or_does_not_begin() {
        let (mut flows, now) = (Flows::default(), origin());
        let mut window = [order(0, Some(Spray::Window { first: 2_000, step: 1, count: 128 })), order(1, None)];
        for tried in [980 - 129, 980 - 2 * 129] {
            let mut flows = std::mem::take(&mut flows);
            assert!(flows.take(now, &mut window, addresses()));
            if tried < 800 {
                assert!(flows.take(now, &mut window, addresses()));
            }
            let mut birthday = [order(0, Some(scatter(980))), order(256, None)];
            assert!(flows.take(now, &mut birthday, addresses()));
            assert_eq!(birthday[0].spray, Some(scatter(tried)));
        }
        while flows.left(now, addresses()[0].unwrap()) >= FEWEST_PROBES {
            assert!(flows.take(now, &mut window, addresses()));
        }
        assert!(!flows.take(now, &mut [order(0, Some(scatter(980))), order(256, None)], addresses()));
    }

    #[test]
    fn predictions_of_many_pairs_share_the_budget_of_their_address() {
        let (mut flows, now) = (Flows::default(), origin());
        let mut orders = [order(0, Some(Spray::Window { first: 2_000, step: 1, count: 128 })), order(1, None)];
        let taken = (0..100).filter(|_| flows.take(now, &mut orders, addresses())).count();
        assert_eq!(taken, 7);
    }

    #[test]
    fn two_sides_behind_one_address_share_its_budget() {
        let mut flows = Flows::default();
        let one = [addresses()[0]; 2];
        let mut orders = [order(0, Some(scatter(980))), order(256, None)];
        assert!(flows.take(origin(), &mut orders, one));
        assert_eq!(orders[0].spray, Some(scatter(980 - 255)));
    }

    #[test]
    fn a_plain_punch_is_never_refused_and_yet_counts() {
        let (mut flows, now) = (Flows::default(), origin());
        assert!(flows.take(now, &mut [order(0, Some(scatter(980))), order(0, None)], addresses()));
        assert!((0..10_000).all(|_| flows.take(now, &mut [order(0, None), order(1, None)], addresses())));
        let later = now + secs(30);
        assert!((0..780).all(|_| flows.take(later, &mut [order(0, None), order(1, None)], addresses())));
        assert!(!flows.take(later, &mut [order(0, Some(scatter(980))), order(0, None)], addresses()));
    }

    #[test]
    fn what_is_refused_costs_neither_side_anything() {
        let (mut flows, now) = (Flows::default(), origin());
        let big = order(0, Some(scatter(980)));
        assert!(flows.take(now, &mut [big.clone(), order(0, None)], addresses()));
        assert!(!flows.take(now, &mut [big.clone(), order(200, None)], addresses()));
        let mut orders = [order(0, None), big];
        assert!(flows.take(now, &mut orders, addresses()));
        assert_eq!(orders[1].spray, Some(scatter(979)), "less its own plain flow of before");
    }

    fn addresses() -> [Option<SourcePrefix>; 2] {
        [[203, 0, 113, 1], [198, 51, 100, 1]].map(|address| Some(SourcePrefix::of(address.into())))
    }

    fn order(sockets: u16, spray: Option<Spray>) -> PunchOrder {
        PunchOrder {
            punch: PunchId { leader: InstanceId::from_bytes([1; 16]), number: 1 },
            strategy: Strategy::Direct,
            wait_us: 0,
            gap_us: 0,
            opener_ttl: 0,
            candidates: vec![Candidate { endpoint: ([203, 0, 113, 1], 4_000).into(), local: false, main: false }],
            attempt: 1,
            spray,
            sockets,
        }
    }

    const fn scatter(count: u16) -> Spray {
        Spray::Scatter { low: 1_024, high: 65_535, step: 1, seed: 1, skip: 0, count }
    }

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }
}
