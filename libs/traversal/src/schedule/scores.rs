//! Which way of trying worked between two public addresses before: the best comes first.
//!
//! Only a hint of this process, bounded, and lost with it: without it the ways come in their natural order.

use std::collections::BTreeMap;

use domain::{ClientId, SourcePrefix};

use crate::plan::Variation;

/// What worked between public addresses, and in which order the pairs at hand try.
#[derive(Debug)]
pub(super) struct Scores {
    /// Where each client was seen last.
    homes: Recent<ClientId, SourcePrefix>,
    /// +2 for a success, -1 for a use.
    scores: Recent<(SourcePrefix, SourcePrefix), [i32; 3]>,
    /// Chosen at the first attempt of a ladder and kept, or a retry could repeat what just failed.
    orders: Recent<(ClientId, ClientId), [Variation; 3]>,
}

impl Scores {
    pub(super) fn new() -> Self {
        Self { homes: Recent::new(REMEMBERED), scores: Recent::new(REMEMBERED), orders: Recent::new(REMEMBERED) }
    }

    /// The variation of the attempt of a pair, which is counted from 1.
    pub(super) fn variation(&mut self, pair: (ClientId, ClientId), attempt: u8) -> Variation {
        let nth = usize::from(attempt.saturating_sub(1)) % VARIATIONS.len();
        if attempt == 1 {
            let homes = [pair.0, pair.1].map(|client| self.homes.value(&client).copied());
            let scores = match homes {
                [Some(a), Some(b)] => self.scores.value(&unordered(a, b)).copied().unwrap_or_default(),
                _ => [0; 3],
            };
            let mut order = VARIATIONS;
            // A way that failed is no worse than one that nobody tried.
            order.sort_by_key(|variation| -scores[*variation as usize].max(0));
            self.orders.insert(pair, order);
        }
        self.orders.value(&pair).unwrap_or(&VARIATIONS)[nth]
    }

    /// Remembers where a client is.
    pub(super) fn seen(&mut self, client: ClientId, address: SourcePrefix) {
        self.homes.insert(client, address);
    }

    /// Remembers that a variation was used, and whether a direct path came of it.
    pub(super) fn used(&mut self, addresses: [SourcePrefix; 2], variation: Variation, succeeded: Succeeded) {
        let key = unordered(addresses[0], addresses[1]);
        let mut scores = self.scores.value(&key).copied().unwrap_or_default();
        let score = &mut scores[variation as usize];
        *score = (*score + if succeeded == Succeeded::Yes { 1 } else { -1 }).clamp(-MOST_SCORE, MOST_SCORE);
        self.scores.insert(key, scores);
    }
}

/// What became of a use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Succeeded {
    Yes,
    No,
}

/// The values that were used last, at most so many.
#[derive(Debug)]
struct Recent<K, V> {
    most: usize,
    turn: u64,
    values: BTreeMap<K, (u64, V)>,
    turns: BTreeMap<u64, K>,
}

impl<K: Ord + Copy, V> Recent<K, V> {
    const fn new(most: usize) -> Self {
        Self { most, turn: 0, values: BTreeMap::new(), turns: BTreeMap::new() }
    }

    fn value(&mut self, key: &K) -> Option<&V> {
        let (turn, value) = self.values.get_mut(key)?;
        self.turns.remove(turn);
        self.turn += 1;
        *turn = self.turn;
        self.turns.insert(self.turn, *key);
        Some(value)
    }

    fn insert(&mut self, key: K, value: V) {
        self.turn += 1;
        if let Some((turn, _)) = self.values.insert(key, (self.turn, value)) {
            self.turns.remove(&turn);
        }
        self.turns.insert(self.turn, key);
        if self.values.len() > self.most
            && let Some((_, oldest)) = self.turns.pop_first()
        {
            self.values.remove(&oldest);
        }
    }
}

fn unordered(a: SourcePrefix, b: SourcePrefix) -> (SourcePrefix, SourcePrefix) {
    (a.min(b), a.max(b))
}

const VARIATIONS: [Variation; 3] = [Variation::First, Variation::Second, Variation::Third];
const REMEMBERED: usize = 16_384;
/// A way that stops working is not preferred for long.
const MOST_SCORE: i32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_history_the_ways_come_in_their_natural_order_and_none_twice() {
        let mut scores = Scores::new();
        assert_eq!(ladder(&mut scores, PAIR), VARIATIONS);
        assert_eq!(scores.variation(PAIR, 4), Variation::First);
    }

    #[test]
    fn what_worked_between_two_addresses_is_tried_first_by_their_other_clients() {
        let mut scores = Scores::new();
        let [home, office] = [address(1), address(2)];
        scores.used([home, office], Variation::First, Succeeded::No);
        scores.used([office, home], Variation::Second, Succeeded::Yes);
        scores.seen(client(7), office);
        scores.seen(client(8), home);
        assert_eq!(
            ladder(&mut scores, (client(7), client(8))),
            [Variation::Second, Variation::First, Variation::Third]
        );
        scores.seen(client(9), address(3));
        assert_eq!(ladder(&mut scores, (client(7), client(9))), VARIATIONS);
    }

    #[test]
    fn a_ladder_keeps_its_order_while_scores_move() {
        let mut scores = Scores::new();
        let homes = [address(1), address(2)];
        scores.used(homes, Variation::Second, Succeeded::Yes);
        scores.seen(PAIR.0, homes[0]);
        scores.seen(PAIR.1, homes[1]);
        let mut tried = vec![];
        for attempt in 1..=3 {
            let variation = scores.variation(PAIR, attempt);
            tried.push(variation);
            scores.used(homes, variation, Succeeded::No);
        }
        assert_eq!(tried, [Variation::Second, Variation::First, Variation::Third]);
    }

    #[test]
    fn only_the_last_used_are_remembered() {
        let mut recent = Recent::new(2);
        recent.insert(1, 'a');
        recent.insert(2, 'b');
        assert_eq!(recent.value(&1), Some(&'a'));
        recent.insert(3, 'c');
        assert_eq!([1, 2, 3].map(|key| recent.value(&key).copied()), [Some('a'), None, Some('c')]);
        assert_eq!((recent.values.len(), recent.turns.len()), (2, 2));
    }

    const PAIR: (ClientId, ClientId) = (client(1), client(2));

    fn ladder(scores: &mut Scores, pair: (ClientId, ClientId)) -> [Variation; 3] {
        [1, 2, 3].map(|attempt| scores.variation(pair, attempt))
    }

    const fn client(number: u8) -> ClientId {
        ClientId::from_bytes([number; 16])
    }

    fn address(number: u8) -> SourcePrefix {
        SourcePrefix::of([203, 0, 113, number].into())
    }
}
