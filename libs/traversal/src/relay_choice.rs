//! Which relay carries a pair: the one with the smallest sum of round trips that has room.
//!
//! Without measured round trips every relay counts as equally far, and a hash of pair and relay decides, so that all
//! rendezvous processes choose alike and pairs spread evenly. A pair stays with its relay while that has room: a move
//! costs packets and is worth it only from 20 ms on.

use std::time::Duration;

use domain::{ClientId, RelayId};

/// What is known of one live relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relay {
    pub id: RelayId,
    pub slots: u32,
    pub max_slots: u32,
    /// Being emptied: takes no new pairs.
    pub draining: bool,
    /// Round trips of the two clients; `None` when not measured.
    pub rtts: [Option<Duration>; 2],
}

/// The relay for the pair, which may be using `current`; `None` when none has room.
#[must_use]
pub fn choose(relays: &[Relay], pair: [ClientId; 2], current: Option<RelayId>) -> Option<RelayId> {
    let usable = || relays.iter().filter(|relay| relay.has_room(current));
    let best = usable().min_by_key(|relay| (relay.distance(), weight(relay.id, pair)))?;
    let stays = usable().find(|relay| Some(relay.id) == current);
    match stays {
        Some(stays) if stays.distance() <= best.distance() + WORTH_A_MOVE => Some(stays.id),
        Some(_) | None => Some(best.id),
    }
}

impl Relay {
    /// A tenth is kept free for pairs that must leave another relay; whoever is there already needs no room.
    fn has_room(&self, current: Option<RelayId>) -> bool {
        let limit = self.max_slots - self.max_slots / 10;
        !self.draining && (self.slots < limit || current == Some(self.id))
    }

    fn distance(&self) -> Duration {
        self.rtts.iter().map(|rtt| rtt.unwrap_or(UNKNOWN_RTT)).sum()
    }
}

const UNKNOWN_RTT: Duration = Duration::from_millis(100);
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
        assert_eq!(choose(&relays, PAIR, None), Some(relays[1].id));
    }

    #[test]
    fn a_pair_stays_unless_a_move_is_worth_it() {
        let relays = [relay(1, Some((50, 50))), relay(2, Some((40, 45)))];
        assert_eq!(choose(&relays, PAIR, Some(relays[0].id)), Some(relays[0].id));
        let far = [relay(1, Some((60, 60))), relay(2, Some((40, 45)))];
        assert_eq!(choose(&far, PAIR, Some(far[0].id)), Some(far[1].id));
    }

    #[test]
    fn full_and_draining_relays_take_nobody_new() {
        let full = Relay { slots: 90, ..relay(1, None) };
        let draining = Relay { draining: true, ..relay(2, None) };
        assert_eq!(choose(&[full, draining], PAIR, None), None);
        assert_eq!(choose(&[full, draining], PAIR, Some(full.id)), Some(full.id), "it has its slot");
        assert_eq!(choose(&[full, draining], PAIR, Some(draining.id)), None);
        assert_eq!(choose(&[], PAIR, None), None);
    }

    #[test]
    fn pairs_spread_evenly_and_in_either_order() {
        let relays = [relay(1, None), relay(2, None), relay(3, None)];
        let mut counts = [0; 3];
        for number in 0..300_u16 {
            let mut id = [0; 16];
            id[..2].copy_from_slice(&number.to_be_bytes());
            let pair = [PAIR[0], ClientId::from_bytes(id)];
            let chosen = choose(&relays, pair, None).unwrap();
            assert_eq!(choose(&relays, [pair[1], pair[0]], None), Some(chosen));
            counts[relays.iter().position(|relay| relay.id == chosen).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (60..=140).contains(count)), "{counts:?}");
    }

    fn relay(number: u8, rtts_ms: Option<(u64, u64)>) -> Relay {
        Relay {
            id: RelayId::from_bytes([number; 16]),
            slots: 10,
            max_slots: 100,
            draining: false,
            rtts: [
                rtts_ms.map(|rtts| Duration::from_millis(rtts.0)),
                rtts_ms.map(|rtts| Duration::from_millis(rtts.1)),
            ],
        }
    }
}
