//! Tells rendezvous of pairs that send more than their plan or quota allows, each at most once an hour: it knows who they are,
//! and programs of operators hear it from there.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bus::Bus;
use contract::rendezvous::PairsHeldBack;
use domain::RelayId;
use tokio::sync::mpsc;
use wire::ticket::PairNonce;

use crate::Metrics;

/// Pairs of all workers that wait to be told; beyond that they are dropped, and named again with the next note.
pub(crate) const WAITING: usize = 1_024;

/// Until a pair is told again.
const PAUSE: Duration = Duration::from_secs(3_600);
/// Pairs that are remembered; of more nothing is told until some of these are an hour old.
const MOST: usize = 65_536;
/// While there is no room, between two looks for those that are.
const LOOK: Duration = Duration::from_secs(60);

/// Tells until no worker is left.
pub(crate) async fn run(relay: RelayId, mut waiting: mpsc::Receiver<PairNonce>, bus: Bus, metrics: Arc<Metrics>) {
    let (mut told, mut named) = (Told::default(), Vec::new());
    while waiting.recv_many(&mut named, PairsHeldBack::MOST).await > 0 {
        let now = Instant::now();
        let pairs: Vec<_> = named.drain(..).filter(|pair| told.is_news(now, *pair)).map(|pair| pair.0.into()).collect();
        if pairs.is_empty() {
            continue;
        }
        let count = pairs.len() as u64;
        match bus.publish(&PairsHeldBack { relay, pairs }).await {
            Ok(()) => metrics.held_back_pairs.inc_by(count),
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, count, "held back pairs were not told");
            }
        }
    }
}

/// Who was told when.
#[derive(Debug, Default)]
struct Told {
    at: BTreeMap<PairNonce, Instant>,
    /// When it was last looked for those that may be forgotten.
    looked: Option<Instant>,
}

impl Told {
    /// Whether a pair is to be told now.
    fn is_news(&mut self, now: Instant, pair: PairNonce) -> bool {
        let lately = |at: Instant| now.saturating_duration_since(at) < PAUSE;
        if self.at.get(&pair).is_some_and(|at| lately(*at)) {
            return false;
        }
        let looks = self.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= LOOK);
        if self.at.len() >= MOST && looks {
            self.at.retain(|_, at| lately(*at));
            self.looked = Some(now);
        }
        if self.at.len() >= MOST {
            return false;
        }
        self.at.insert(pair, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_told_once_an_hour_and_only_so_many_are_remembered() {
        let (mut told, start) = (Told::default(), Instant::now());
        let pair = |number: u32| {
            let mut nonce = [0; 16];
            nonce[..4].copy_from_slice(&number.to_be_bytes());
            PairNonce(nonce)
        };
        assert!(told.is_news(start, pair(0)));
        assert!(!told.is_news(start + PAUSE - Duration::from_secs(1), pair(0)));
        let later = start + PAUSE;
        assert!(told.is_news(later, pair(0)));
        let most = u32::try_from(MOST).unwrap();
        assert!((1..most).all(|number| told.is_news(later, pair(number))));
        assert!(!told.is_news(later, pair(most)), "there is no room");
        assert!(!told.is_news(later + LOOK, pair(most)), "and nobody to forget");
        assert!(told.is_news(later + PAUSE, pair(most)), "the others are forgotten");
        assert_eq!(told.at.len(), 1);
    }
}
