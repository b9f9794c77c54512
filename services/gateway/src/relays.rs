//! Which relays a client is to measure: those of its region and a few elsewhere.
//!
//! Nobody knows where a client is until it has measured something. So it is told one relay of each region at first, and
//! once it said which of them is nearest, those of that region and some others. Where there are no more relays than fit
//! into one report, all are told.

use std::collections::BTreeMap;

use contract::rendezvous::RelayBeat;
use domain::{ClientId, InstanceId, RelayId, RelayPlace, RelayTrips};

use crate::hub::{Heard, Hub};

/// Of the relays that are told, those that are not of the client's region: at least.
const ELSEWHERE: usize = 2;

/// Endpoints of a relay that are told.
const MOST_ENDPOINTS: usize = 4;

/// The relays for `client`, which found `nearest` to be the nearest of those that it measured before.
pub(crate) fn named(hub: &Hub, client: ClientId, nearest: Option<RelayId>) -> Vec<RelayPlace> {
    let known = hub.reflectors.borrow();
    chosen(&known.relays, client, nearest)
}

fn chosen(known: &BTreeMap<InstanceId, Heard>, client: ClientId, nearest: Option<RelayId>) -> Vec<RelayPlace> {
    let id = |instance: &InstanceId| RelayId::from_bytes(*instance.as_bytes());
    let live = known.iter().filter(|(_, heard)| heard.at.elapsed() < RelayBeat::GONE && !heard.draining);
    let mut regions: BTreeMap<&str, Vec<RelayPlace>> = BTreeMap::new();
    let mut home = None;
    for (instance, heard) in live {
        let endpoints = heard.endpoints.iter().copied().take(MOST_ENDPOINTS).collect();
        let relay = id(instance);
        if nearest == Some(relay) {
            home = Some(heard.region.as_str());
        }
        regions.entry(&heard.region).or_default().push(RelayPlace { relay, endpoints });
    }
    // Not every client of a region measures the same ones first.
    let turn = usize::from(client.as_bytes()[0]);
    for relays in regions.values_mut() {
        let by = turn % relays.len();
        relays.rotate_left(by);
    }
    let mut own = home.and_then(|home| regions.remove(home)).unwrap_or_default();
    let others = regions.values().map(Vec::len).sum::<usize>();
    own.truncate(RelayTrips::MOST - others.min(ELSEWHERE));
    // The first of every region, then the second of every region.
    let rounds = (0..).map_while(|round| {
        let some: Vec<_> = regions.values().filter_map(|relays| relays.get(round).cloned()).collect();
        (!some.is_empty()).then_some(some)
    });
    let elsewhere: Vec<_> = rounds.flatten().take(RelayTrips::MOST - own.len()).collect();
    own.extend(elsewhere);
    own
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    const CLIENT: ClientId = ClientId::from_bytes([0; 16]);

    #[tokio::test(start_paused = true)]
    async fn few_relays_are_all_told() {
        let known = deployment(&[("east", 3), ("west", 5)]);
        assert_eq!(chosen(&known, CLIENT, None).len(), 8);
        assert_eq!(chosen(&known, CLIENT, Some(relay(0))).len(), 8);
        assert!(chosen(&BTreeMap::new(), CLIENT, None).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_the_client_gets_some_of_every_region_and_then_those_of_its_own() {
        let known = deployment(&[("east", 20), ("north", 20), ("south", 1), ("west", 20)]);
        assert_eq!(regions(&known, None), [("east", 3), ("north", 2), ("south", 1), ("west", 2)].into());
        assert_eq!(regions(&known, Some(relay(20))), [("north", 6), ("east", 1), ("south", 1)].into());
        // The only one there: the rest is elsewhere.
        assert_eq!(regions(&known, Some(relay(40))), [("south", 1), ("east", 3), ("north", 2), ("west", 2)].into());
    }

    #[tokio::test(start_paused = true)]
    async fn silent_and_draining_ones_are_not_told() {
        let mut known = deployment(&[("east", 3)]);
        known.values_mut().next().unwrap().draining = true;
        assert_eq!(chosen(&known, CLIENT, None).len(), 2);
        tokio::time::advance(RelayBeat::GONE).await;
        assert!(chosen(&known, CLIENT, None).is_empty());
    }

    fn regions(known: &BTreeMap<InstanceId, Heard>, nearest: Option<RelayId>) -> BTreeMap<&str, usize> {
        chosen(known, CLIENT, nearest).iter().fold(BTreeMap::new(), |mut regions, place| {
            let region = &known[&InstanceId::from_bytes(*place.relay.as_bytes())].region;
            *regions.entry(region.as_str()).or_default() += 1;
            regions
        })
    }

    fn relay(number: u8) -> RelayId {
        RelayId::from_bytes([number; 16])
    }

    fn deployment(regions: &[(&str, usize)]) -> BTreeMap<InstanceId, Heard> {
        let names = regions.iter().flat_map(|(region, count)| std::iter::repeat_n(region, *count));
        let heard = |region: &&str| Heard {
            endpoints: vec![([192, 0, 2, 1], 443).into()],
            region: (*region).to_owned(),
            draining: false,
            at: Instant::now(),
        };
        (0..).zip(names).map(|(number, region)| (InstanceId::from_bytes([number; 16]), heard(region))).collect()
    }
}
