//! Which relay carries a pair: the one with the smallest sum of round trips that has room.
//!
//! Not the relay that is nearest to one of them (its home), nor the one in the middle of a map: both ignore one leg or how
//! the cables run. `tests/relay_world.rs` compares them.
//!
//! - Relays that both have measured come first; a leg that was not measured counts as longer than all that its client did.
//!   When neither has measured anything a hash of pair and relay decides: all rendezvous processes choose alike, and pairs
//!   spread evenly.
//! - A pair stays with its relay while that has room: a move costs packets and is worth it only from 20 ms on.
//! - A relay that missed a beat is taken when no other is left, and one that does not answer one of the pair after that:
//!   it may be that the client's network was away, and not the relay.

use std::{cmp::Reverse, time::Duration};

use domain::{ClientId, RelayId, RelayVerdict, RelayWhy};

/// What is known of one live relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relay {
    pub id: RelayId,
    pub slots: u32,
    pub max_slots: u32,
    /// Being emptied: takes no new pairs.
    pub draining: bool,
    /// It missed a beat.
    pub silent: bool,
    /// One of the pair got no answer from it lately.
    pub unanswered: bool,
    /// Round trips of the two clients; `None` when not measured.
    pub rtts: [Option<Duration>; 2],
}

/// What was chosen, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// `None` when none has room.
    pub relay: Option<RelayId>,
    pub why: RelayWhy,
    /// The relays by their places in what was given, best first.
    pub ranking: Vec<(usize, RelayVerdict)>,
}

/// The relay for the pair, which may be using `current`.
#[must_use]
pub fn choose(relays: &[Relay], pair: [ClientId; 2], current: Option<RelayId>) -> Choice {
    let farthest = [0, 1].map(|leg| relays.iter().filter_map(|relay| relay.rtts[leg]).max());
    let distance = |relay: &Relay| -> Duration {
        let leg = |leg: usize| relay.rtts[leg].unwrap_or_else(|| farthest[leg].unwrap_or_default() + UNKNOWN);
        leg(0) + leg(1)
    };
    let current = current.filter(|id| relays.iter().any(|relay| relay.id == *id && !relay.unanswered));
    let mut ranked: Vec<_> = relays.iter().enumerate().collect();
    ranked.sort_by_cached_key(|(_, relay)| {
        let rank = (relay.ailment(current), relay.unmeasured(), distance(relay));
        (rank, Reverse(Some(relay.id) == current), weight(relay.id, pair))
    });

    let best = ranked.first().map(|(_, relay)| *relay).filter(|relay| relay.ailment(current) < Ailment::Full);
    let stays = best.and_then(|best| {
        let stays = relays.iter().find(|relay| Some(relay.id) == current)?;
        let rank = |relay: &Relay| (relay.ailment(current), relay.unmeasured());
        let as_well = rank(stays) <= rank(best);
        (stays.id != best.id && as_well && distance(stays) <= distance(best) + WORTH_A_MOVE).then_some(stays)
    });
    let relay = stays.or(best).map(|relay| relay.id);
    let why = match (stays, best) {
        _ if relays.is_empty() => RelayWhy::NoneLives,
        (_, None) => RelayWhy::NoRoom,
        (Some(_), _) => RelayWhy::Stays,
        (None, Some(_)) if farthest == [None, None] => RelayWhy::Unmeasured,
        (None, Some(_)) => RelayWhy::Nearest,
    };
    if let Some(place) = ranked.iter().position(|(_, other)| Some(other.id) == relay) {
        let chosen = ranked.remove(place);
        ranked.insert(0, chosen);
    }
    let verdict = |other: &Relay| match other.ailment(current) {
        _ if Some(other.id) == relay => RelayVerdict::Chosen,
        Ailment::None => RelayVerdict::Farther,
        Ailment::Silent | Ailment::Gone => RelayVerdict::Silent,
        Ailment::Unanswered => RelayVerdict::Unanswered,
        Ailment::Full => RelayVerdict::Full,
        Ailment::Draining => RelayVerdict::Draining,
    };
    Choice { relay, why, ranking: ranked.iter().map(|(place, other)| (*place, verdict(other))).collect() }
}

/// What speaks against a relay: that it does not answer is overlooked when there is nothing better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ailment {
    None,
    Silent,
    Unanswered,
    /// Neither the server nor one of the pair hears of it.
    Gone,
    Full,
    Draining,
}

impl Relay {
    fn unmeasured(&self) -> usize {
        self.rtts.iter().filter(|rtt| rtt.is_none()).count()
    }

    fn ailment(&self, current: Option<RelayId>) -> Ailment {
        // A tenth is kept free for pairs that must leave another relay; whoever is there already needs no room.
        let limit = self.max_slots - self.max_slots / 10;
        if self.draining {
            Ailment::Draining
        } else if self.slots >= limit && current != Some(self.id) {
            Ailment::Full
        } else {
            match (self.unanswered, self.silent) {
                (true, true) => Ailment::Gone,
                (true, false) => Ailment::Unanswered,
                (false, true) => Ailment::Silent,
                (false, false) => Ailment::None,
            }
        }
    }
}

/// By how much a leg that was not measured is longer than the longest that was.
const UNKNOWN: Duration = Duration::from_millis(100);
const WORTH_A_MOVE: Duration = Duration::from_millis(20);

/// FNV-1a over pair and relay, with the last mixing step of MurmurHash3: spreads, and needs no secret.
fn weight(relay: RelayId, pair: [ClientId; 2]) -> u64 {
    let [a, b] = pair;
    let (low, high) = (a.min(b), a.max(b));
    let bytes = low.as_bytes().iter().chain(high.as_bytes()).chain(relay.as_bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIR: [ClientId; 2] = [ClientId::from_bytes([1; 16]), ClientId::from_bytes([2; 16])];

    #[test]
    fn the_smallest_sum_of_round_trips_wins() {
        let relays = [relay(1, Some((10, 90))), relay(2, Some((40, 45))), relay(3, None)];
        assert_eq!(chosen(&relays, None), Some(relays[1].id));
        let choice = choose(&relays, PAIR, None);
        assert_eq!(choice.why, RelayWhy::Nearest);
        let farther = RelayVerdict::Farther;
        assert_eq!(choice.ranking, [(1, RelayVerdict::Chosen), (0, farther), (2, farther)]);
    }

    #[test]
    fn a_relay_that_was_not_measured_comes_after_those_that_were() {
        let half = Relay { rtts: [Some(ms(1)), None], ..relay(1, None) };
        let relays = [half, relay(2, Some((300, 300)))];
        assert_eq!(chosen(&relays, None), Some(relays[1].id));
        assert_eq!(choose(&[relay(1, None)], PAIR, None).why, RelayWhy::Unmeasured);
    }

    #[test]
    fn a_pair_stays_unless_a_move_is_worth_it() {
        let relays = [relay(1, Some((50, 55))), relay(2, Some((40, 45)))];
        assert_eq!(chosen(&relays, Some(relays[0].id)), Some(relays[0].id));
        assert_eq!(choose(&relays, PAIR, Some(relays[0].id)).why, RelayWhy::Stays);
        let far = [relay(1, Some((50, 56))), relay(2, Some((40, 45)))];
        assert_eq!(chosen(&far, Some(far[0].id)), Some(far[1].id));
    }

    #[test]
    fn full_and_draining_relays_take_nobody_new() {
        let full = Relay { slots: 90, ..relay(1, None) };
        let draining = Relay { draining: true, ..relay(2, None) };
        let none = choose(&[full, draining], PAIR, None);
        assert_eq!((none.relay, none.why), (None, RelayWhy::NoRoom));
        assert_eq!(none.ranking, [(0, RelayVerdict::Full), (1, RelayVerdict::Draining)]);
        assert_eq!(chosen(&[full, draining], Some(full.id)), Some(full.id), "it has its slot");
        assert_eq!(chosen(&[full, draining], Some(draining.id)), None);
        assert_eq!(chosen(&[Relay { slots: 89, ..full }, draining], None), Some(full.id));
        assert_eq!(choose(&[], PAIR, None).why, RelayWhy::NoneLives);
    }

    #[test]
    fn what_does_not_answer_is_the_last_resort() {
        let unanswered = Relay { unanswered: true, ..relay(1, Some((1, 1))) };
        let silent = Relay { silent: true, ..relay(2, Some((5, 5))) };
        let far = relay(3, Some((200, 200)));
        let full = Relay { slots: 100, ..relay(4, Some((1, 1))) };
        assert_eq!(chosen(&[unanswered, silent, far, full], Some(unanswered.id)), Some(far.id));
        assert_eq!(chosen(&[unanswered, silent, full], Some(unanswered.id)), Some(silent.id));
        assert_eq!(chosen(&[unanswered, full], Some(unanswered.id)), Some(unanswered.id));
        assert_eq!(chosen(&[silent, far], Some(silent.id)), Some(far.id), "a pair leaves a relay that missed a beat");
        let gone = Relay { silent: true, unanswered: true, ..relay(5, Some((1, 1))) };
        let hopeful = Relay { unanswered: true, ..far };
        assert_eq!(chosen(&[gone, hopeful], Some(gone.id)), Some(far.id), "it beats: whoever misses it may be wrong");
    }

    #[test]
    fn pairs_spread_evenly_and_in_either_order() {
        let relays = [relay(1, None), relay(2, None), relay(3, None)];
        let mut counts = [0; 3];
        for number in 0..300_u16 {
            let mut id = [0; 16];
            id[..2].copy_from_slice(&number.to_be_bytes());
            let pair = [PAIR[0], ClientId::from_bytes(id)];
            let chosen = choose(&relays, pair, None).relay.unwrap();
            assert_eq!(choose(&relays, [pair[1], pair[0]], None).relay, Some(chosen));
            counts[relays.iter().position(|relay| relay.id == chosen).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (60..=140).contains(count)), "{counts:?}");
    }

    fn chosen(relays: &[Relay], current: Option<RelayId>) -> Option<RelayId> {
        choose(relays, PAIR, current).relay
    }

    fn relay(number: u8, rtts_ms: Option<(u64, u64)>) -> Relay {
        Relay {
            id: RelayId::from_bytes([number; 16]),
            slots: 10,
            max_slots: 100,
            draining: false,
            silent: false,
            unanswered: false,
            rtts: [rtts_ms.map(|rtts| ms(rtts.0)), rtts_ms.map(|rtts| ms(rtts.1))],
        }
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }
}
