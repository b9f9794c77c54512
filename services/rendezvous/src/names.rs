//! Which pairs the tickets of this process name, so that what a relay tells of a pair can be told of its clients.
//!
//! Bounded and in memory: a pair whose ticket was made long ago, or by a process that ended, has no name any more. It has one
//! again with its next ticket.

use std::{
    collections::BTreeMap,
    mem,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use contract::{admin::Happened, rendezvous::PairsHeldBack};
use domain::{ClientId, Event, EventId, EventKind, RelayId, UnixMillis};
use ring::digest;
use wire::ticket::PairNonce;

/// Pairs of one generation. Two are kept: at most twice as many, about ten megabytes.
const MOST: usize = 65_536;

/// A pair is told once in each.
const HOUR: Duration = Duration::from_secs(3_600);

/// The pairs of the tickets that were made here last.
#[derive(Debug, Default)]
pub(crate) struct Names(Mutex<Generations>);

#[derive(Debug, Default)]
struct Generations {
    newer: BTreeMap<PairNonce, [ClientId; 2]>,
    older: BTreeMap<PairNonce, [ClientId; 2]>,
}

impl Names {
    /// A ticket for this pair was made.
    pub(crate) fn remember(&self, nonce: PairNonce, pair: [ClientId; 2]) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if names.newer.len() >= MOST && !names.newer.contains_key(&nonce) {
            names.older = mem::take(&mut names.newer);
        }
        names.newer.insert(nonce, pair);
    }

    /// What is to be told of pairs that a relay holds back: of those that are known here.
    pub(crate) fn held_back(&self, at: UnixMillis, told: &PairsHeldBack) -> Option<Happened> {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = told.pairs.iter().filter_map(|nonce| {
            let nonce = PairNonce(**nonce);
            names.newer.get(&nonce).or_else(|| names.older.get(&nonce)).copied()
        });
        let events: Vec<_> = known.take(PairsHeldBack::MOST).map(|pair| capped(at, pair, told.relay)).collect();
        (!events.is_empty()).then_some(Happened { events })
    }
}

/// The event of a pair in this hour. Its id is the same wherever it is made: the log keeps one, however many relays the pair
/// has in the hour, and however many processes know it.
fn capped(at: UnixMillis, [a, b]: [ClientId; 2], relay: RelayId) -> Event {
    let hour = u64::try_from(HOUR.as_millis()).unwrap_or(u64::MAX);
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(b"buri pair capped v1");
    context.update(a.min(b).as_bytes());
    context.update(a.max(b).as_bytes());
    let mut drawn = [0; 10];
    drawn.copy_from_slice(&context.finish().as_ref()[..10]);
    let id = EventId::drawn(UnixMillis(at.0 - at.0 % hour), drawn);
    Event { id, ..Event::new(EventKind::PairCapped, at, drawn).pair(a, b).relay(relay) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: UnixMillis = UnixMillis(1_800_000_000_000);

    #[test]
    fn a_pair_is_one_event_an_hour_whoever_tells_it() {
        let [first, second] = [[client(1), client(2)], [client(2), client(1)]].map(|pair| {
            let names = Names::default();
            names.remember(PairNonce([9; 16]), pair);
            names
        });
        let told = |names: &Names, at, relay| {
            let pairs = vec![[9; 16].into(), [8; 16].into()];
            let happened = names.held_back(at, &PairsHeldBack { relay, pairs }).unwrap();
            assert_eq!(happened.events.len(), 1, "the other one is unknown");
            happened.events[0]
        };
        let (relay, other) = (RelayId::from_bytes([5; 16]), RelayId::from_bytes([6; 16]));
        let event = told(&first, AT, relay);
        assert!(event.is_whole() && event.kind == EventKind::PairCapped && event.at == AT);
        assert_eq!((event.client, event.peer, event.relay), (Some(client(1)), Some(client(2)), Some(relay)));
        assert_eq!(told(&second, AT.plus(HOUR / 2), other).id, event.id);
        assert!(told(&second, AT.plus(HOUR), other).id > event.id);
    }

    #[test]
    fn names_are_forgotten_before_they_are_too_many() {
        let names = Names::default();
        let nonce = |number: usize| {
            let mut nonce = [0; 16];
            nonce[..8].copy_from_slice(&(number as u64).to_be_bytes());
            PairNonce(nonce)
        };
        (0..=2 * MOST).for_each(|number| names.remember(nonce(number), [client(1), client(2)]));
        let knows = |number| {
            let pairs = vec![nonce(number).0.into()];
            names.held_back(AT, &PairsHeldBack { relay: RelayId::from_bytes([5; 16]), pairs }).is_some()
        };
        assert!(!knows(0) && !knows(MOST - 1), "the first generation is gone");
        assert!(knows(MOST) && knows(2 * MOST));
    }

    fn client(number: u8) -> ClientId {
        ClientId::from_bytes([number; 16])
    }
}
