//! Notices relays that fall silent, and has the clients look after them.
//!
//! It is a hint to everybody: who has a leg there asks the relay for a sign of life, and the server for another relay only
//! when none comes. So a relay that is merely cut off from the bus loses nobody. Where no other relay is heard nothing is
//! said: it is the bus that is silent, or there is nowhere to go. Rejected: an index of the pairs at each relay (state, and a
//! storm of offers for a relay that is well).

use std::collections::{BTreeMap, BTreeSet};

use contract::rendezvous::RelayBeat;
use domain::{InstanceId, RelayId};

use crate::hub::Heard;

/// The relays that clients were told of.
#[derive(Debug, Default)]
pub(crate) struct Silence {
    told: BTreeSet<InstanceId>,
}

impl Silence {
    /// Those that clients are to be told of now.
    pub(crate) fn noticed(&mut self, known: &BTreeMap<InstanceId, Heard>) -> Vec<RelayId> {
        let is_silent = |heard: &Heard| heard.at.elapsed() >= RelayBeat::SILENT;
        self.told.retain(|relay| known.get(relay).is_some_and(is_silent));
        if known.values().all(|heard| heard.at.elapsed() > 2 * RelayBeat::PERIOD) {
            return Vec::new();
        }
        let silent = known.iter().filter(|(_, heard)| is_silent(heard) && !heard.draining).map(|(relay, _)| *relay);
        let new: Vec<_> = silent.filter(|relay| !self.told.contains(relay)).collect();
        self.told.extend(&new);
        new.into_iter().map(|relay| RelayId::from_bytes(*relay.as_bytes())).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, advance};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn a_relay_that_missed_its_beats_is_told_once_and_again_when_it_does_it_again() {
        let (mut silence, mut known) = (Silence::default(), relays(2));
        advance(RelayBeat::SILENT - MS).await;
        beats(&mut known, 2);
        assert_eq!(silence.noticed(&known), []);
        advance(MS).await;
        assert_eq!(silence.noticed(&known), [RelayId::from_bytes([1; 16])]);
        advance(MS).await;
        assert_eq!(silence.noticed(&known), []);
        beats(&mut known, 1);
        assert_eq!(silence.noticed(&known), []);
        advance(RelayBeat::SILENT).await;
        beats(&mut known, 2);
        assert_eq!(silence.noticed(&known), [RelayId::from_bytes([1; 16])]);
    }

    #[tokio::test(start_paused = true)]
    async fn while_no_other_relay_is_heard_nobody_is_told_but_afterwards() {
        let (mut silence, mut known) = (Silence::default(), relays(3));
        advance(RelayBeat::SILENT).await;
        assert_eq!(silence.noticed(&known), []);
        assert_eq!(silence.noticed(&BTreeMap::new()), []);
        beats(&mut known, 3);
        assert_eq!(silence.noticed(&known), [1, 2].map(|number| RelayId::from_bytes([number; 16])));
    }

    #[tokio::test(start_paused = true)]
    async fn a_relay_that_drained_before_is_not_missed() {
        let (mut silence, mut known) = (Silence::default(), relays(2));
        known.values_mut().next().unwrap().draining = true;
        advance(RelayBeat::SILENT).await;
        beats(&mut known, 2);
        assert_eq!(silence.noticed(&known), []);
    }

    fn relays(count: u8) -> BTreeMap<InstanceId, Heard> {
        let heard = Heard { endpoints: Vec::new(), region: String::new(), draining: false, at: Instant::now() };
        (1..=count).map(|number| (InstanceId::from_bytes([number; 16]), heard.clone())).collect()
    }

    fn beats(known: &mut BTreeMap<InstanceId, Heard>, number: u8) {
        known.get_mut(&InstanceId::from_bytes([number; 16])).unwrap().at = Instant::now();
    }
}
