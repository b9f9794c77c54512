//! The classes that a client was found to have, for each public address.
//!
//! One measurement can be wrong: lost answers, a busy line, a NAT that had just started. So the class of an address changes
//! only when two of the last three discoveries agree on another one. The first result counts at once, and so does a blocked
//! client, which has no address, and its return to an address. What does not decide the class is always that of the last
//! discovery, except that a block of ports grows over the last three.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
};

use domain::{Allocation, NatClass, NatProfile};

use super::allocation::block_of;

/// What was found before, by public address.
#[derive(Clone, Debug, Default)]
pub struct History {
    addresses: BTreeMap<IpAddr, Past>,
    /// Discoveries so far, to tell what was used least recently.
    turn: u64,
}

#[derive(Clone, Debug)]
struct Past {
    settled: NatProfile,
    /// Class and allocation of the last discoveries, the newest last.
    recent: VecDeque<(NatClass, Option<Allocation>)>,
    used: u64,
}

impl History {
    /// The profile to report after a discovery has ended with `profile` at `address`, which is remembered.
    pub fn settle(&mut self, address: Option<IpAddr>, profile: NatProfile) -> NatProfile {
        let Some(address) = address else { return profile };
        self.turn += 1;
        let used = self.turn;
        let past =
            self.addresses.entry(address).or_insert_with(|| Past { settled: profile, recent: VecDeque::new(), used });
        past.used = used;
        past.settle(profile);
        let settled = past.report(profile);
        self.forget();
        settled
    }

    /// The profile to report while a discovery is under way.
    #[must_use]
    pub fn preview(&self, address: Option<IpAddr>, profile: NatProfile) -> NatProfile {
        let past = address.and_then(|address| self.addresses.get(&address));
        past.map_or(profile, |past| past.report(profile))
    }

    fn forget(&mut self) {
        while self.addresses.len() > MAX_ADDRESSES {
            let oldest = self.addresses.iter().min_by_key(|(_, past)| past.used).map(|(address, _)| *address);
            self.addresses.retain(|address, _| Some(*address) != oldest);
        }
    }
}

impl Past {
    fn settle(&mut self, profile: NatProfile) {
        let class = profile.class();
        self.recent.push_back((class, profile.allocation));
        while self.recent.len() > MEMORY {
            self.recent.pop_front();
        }
        let votes = self.recent.iter().filter(|(other, _)| *other == class).count();
        if class == self.settled.class() || votes >= MAJORITY {
            self.settled = NatProfile { allocation: self.allocation(profile), ..profile };
        }
    }

    /// The allocation of `profile`, or a block that holds all recent blocks.
    fn allocation(&self, profile: NatProfile) -> Option<Allocation> {
        let Some(Allocation::Block { .. }) = profile.allocation else { return profile.allocation };
        let ends = self.recent.iter().flat_map(|(_, allocation)| match *allocation {
            Some(Allocation::Block { first, size }) => [Some(first), Some(first + (size - 1))],
            Some(Allocation::Sequential { .. } | Allocation::Random | Allocation::RandomParity) | None => [None; 2],
        });
        Some(block_of(ends.flatten()).unwrap_or(Allocation::Random))
    }

    /// `profile` with everything that decides the class as it is settled.
    fn report(&self, profile: NatProfile) -> NatProfile {
        let settled = self.settled;
        NatProfile {
            udp: settled.udp,
            mapping: settled.mapping,
            filtering: settled.filtering,
            unsure: settled.unsure,
            allocation: settled.allocation,
            foreign_rate: settled.foreign_rate,
            pool: settled.pool,
            ..profile
        }
    }
}

/// Discoveries that vote.
const MEMORY: usize = 3;
const MAJORITY: usize = 2;
/// Public addresses that are remembered: home, work, a phone's network.
const MAX_ADDRESSES: usize = 16;

#[cfg(test)]
mod tests {
    use domain::{Filtering, Mapping};

    use super::*;

    const HOME: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 1)));

    #[test]
    fn one_odd_result_does_not_change_a_class_and_two_do() {
        let mut history = History::default();
        assert_eq!(history.settle(HOME, easy()).class(), NatClass::Easy);
        assert_eq!(history.settle(HOME, sequential(1)).class(), NatClass::Easy);
        assert_eq!(history.settle(HOME, easy()).class(), NatClass::Easy);
        assert_eq!(history.settle(HOME, sequential(1)), sequential(1));
        assert_eq!(history.settle(HOME, easy()), easy());
    }

    #[test]
    fn a_measurement_of_the_same_class_counts_at_once() {
        let mut history = History::default();
        history.settle(HOME, sequential(1));
        assert_eq!(history.settle(HOME, sequential(2)), sequential(2));
    }

    #[test]
    fn what_does_not_decide_the_class_is_always_new() {
        let mut history = History::default();
        history.settle(HOME, easy());
        let moved = NatProfile { ipv6: true, place: 7, hairpin: Some(true), ..sequential(1) };
        let settled = history.settle(HOME, moved);
        assert_eq!(settled, NatProfile { ipv6: true, place: 7, hairpin: Some(true), ..easy() });
    }

    #[test]
    fn a_blocked_client_and_its_return_are_reported_at_once() {
        let mut history = History::default();
        history.settle(HOME, easy());
        assert_eq!(history.settle(None, NatProfile::BLOCKED), NatProfile::BLOCKED);
        assert_eq!(history.settle(HOME, easy()), easy());
    }

    #[test]
    fn another_address_has_a_history_of_its_own() {
        let mut history = History::default();
        history.settle(HOME, easy());
        let away = Some("198.51.100.9".parse().unwrap());
        assert_eq!(history.settle(away, sequential(1)), sequential(1));
        assert_eq!(history.settle(HOME, sequential(1)).class(), NatClass::Easy);
    }

    #[test]
    fn a_discovery_under_way_borrows_the_step_of_the_last_one() {
        let mut history = History::default();
        history.settle(HOME, sequential(2));
        let early = NatProfile { allocation: None, ..sequential(2) };
        assert_eq!(history.preview(HOME, early), sequential(2));
        assert_eq!(history.preview(None, early), early);
        assert_eq!(history.settle(HOME, sequential(2)), sequential(2), "a preview is no vote");
    }

    #[test]
    fn a_block_grows_over_three_discoveries_and_then_forgets() {
        let mut history = History::default();
        let mut settle = |first, size| {
            let block = NatProfile { allocation: Some(Allocation::Block { first, size }), ..sequential(1) };
            history.settle(HOME, block).allocation
        };
        assert_eq!(settle(4_096, 256), Some(Allocation::Block { first: 4_096, size: 256 }));
        assert_eq!(settle(4_352, 256), Some(Allocation::Block { first: 4_096, size: 512 }));
        assert_eq!(settle(40_960, 512), Some(Allocation::Random));
        assert_eq!(settle(40_960, 512), Some(Allocation::Random));
        assert_eq!(settle(40_960, 512), Some(Allocation::Block { first: 40_960, size: 512 }));
    }

    #[test]
    fn only_so_many_addresses_are_remembered() {
        let mut history = History::default();
        for last in 1..=100_u8 {
            history.settle(HOME, easy());
            history.settle(Some(IpAddr::from([198, 51, 100, last])), easy());
        }
        assert_eq!(history.addresses.len(), MAX_ADDRESSES);
        assert_eq!(history.settle(HOME, sequential(1)).class(), NatClass::Easy, "the one in use is remembered");
    }

    fn easy() -> NatProfile {
        NatProfile {
            udp: true,
            mapping: Some(Mapping::EndpointIndependent),
            filtering: Some(Filtering::AddressAndPortDependent),
            ..NatProfile::BLOCKED
        }
    }

    fn sequential(step: i16) -> NatProfile {
        let allocation = Some(Allocation::Sequential { step });
        NatProfile { mapping: Some(Mapping::AddressAndPortDependent), allocation, ..easy() }
    }
}
