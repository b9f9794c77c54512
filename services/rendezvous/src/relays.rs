//! Which relays live, and tickets for them.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use contract::rendezvous::RelayBeat;
use domain::{
    Bandwidth, ClientId, PayerId, RelayCandidate, RelayChoice, RelayId, RelayLoss, RelayOffer, RelayTrips, UnixMillis,
};
use ring::hmac;
use traversal::relay_choice::{self, Relay};
use wire::ticket::{LegSide, PairNonce, Ticket, TicketRoot};

use crate::names::Names;

/// Relays known at once; a deployment with more of them has another problem.
const MOST_RELAYS: usize = 1_024;
/// Endpoints that are told to clients.
const MOST_ENDPOINTS: usize = 8;

/// Relays in the record of a pair.
const MOST_SHOWN: usize = 4;
/// Characters of a region in the record of a pair.
const MOST_REGION: usize = 32;
/// When no relay has room: one that was full counts its pairs anew with every beat.
const RETRY_AFTER_MS: u32 = 5_000;

/// A pair that needs a relay.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) pair: [ClientId; 2],
    /// What each of them measured.
    pub(crate) trips: [RelayTrips; 2],
    pub(crate) rate: Bandwidth,
    /// Who pays for what each of them sends.
    pub(crate) payers: [PayerId; 2],
    /// Where it is.
    pub(crate) current: Option<RelayId>,
    /// Relays that do not answer one of them.
    pub(crate) losses: Vec<RelayLoss>,
}

/// The live relays, as this process heard of them.
#[derive(Debug)]
pub(crate) struct Relays {
    root: TicketRoot,
    nonces: hmac::Key,
    lifetime: Duration,
    known: Mutex<BTreeMap<RelayId, Known>>,
    pub(crate) names: Names,
}

#[derive(Debug)]
struct Known {
    beat: RelayBeat,
    at: Instant,
    /// Pairs sent there since: the next beat will count them.
    sent: u32,
}

impl Relays {
    pub(crate) fn new(secret: [u8; 32], lifetime: Duration) -> Self {
        Self {
            root: TicketRoot::new(secret),
            nonces: hmac::Key::new(hmac::HMAC_SHA256, &secret),
            lifetime,
            known: Mutex::default(),
            names: Names::default(),
        }
    }

    /// A relay says that it lives.
    pub(crate) fn handle_beat(&self, now: Instant, beat: RelayBeat) {
        let mut known = self.known();
        known.retain(|_, known| now.saturating_duration_since(known.at) < RelayBeat::GONE);
        if known.len() < MOST_RELAYS || known.contains_key(&beat.relay) {
            known.insert(beat.relay, Known { beat, at: now, sent: 0 });
        }
    }

    /// The last beat of each live relay.
    pub(crate) fn live(&self, now: Instant) -> Vec<RelayBeat> {
        let known = self.known();
        let live = known.values().filter(|known| now.saturating_duration_since(known.at) < RelayBeat::GONE);
        live.map(|known| known.beat.clone()).collect()
    }

    /// Whether the relay is being emptied.
    pub(crate) fn drains(&self, relay: RelayId) -> bool {
        self.known().get(&relay).is_some_and(|known| known.beat.draining)
    }

    /// Chooses a relay for a pair, with an offer for each of them, in its order; without any when no relay has room.
    ///
    /// The tickets of a pair for one relay always meet there, whoever made them and when: two processes may serve the same
    /// wish, and pushes may overtake one another.
    pub(crate) fn choose(&self, now: Instant, at: UnixMillis, wish: &Wish) -> (RelayChoice, Option<[RelayOffer; 2]>) {
        let Wish { pair, trips, rate, payers, current, losses } = wish;
        let mut known = self.known();
        let live: Vec<_> =
            known.values().filter(|known| now.saturating_duration_since(known.at) < RelayBeat::GONE).collect();
        let candidates: Vec<_> = live
            .iter()
            .map(|Known { beat, sent, at }| Relay {
                id: beat.relay,
                slots: beat.slots.saturating_add(*sent),
                max_slots: beat.max_slots,
                draining: beat.draining,
                silent: now.saturating_duration_since(*at) >= RelayBeat::SILENT,
                unanswered: losses.iter().any(|loss| loss.relay == beat.relay),
                rtts: trips.map(|trips| Some(Duration::from_micros(trips.of(beat.relay)?.into()))),
            })
            .collect();
        let choice = relay_choice::choose(&candidates, *pair, *current);
        let shown = choice.ranking.iter().take(MOST_SHOWN).map(|&(place, verdict)| RelayCandidate {
            relay: candidates[place].id,
            region: live[place].beat.region.chars().take(MOST_REGION).collect(),
            rtts_us: trips.map(|trips| trips.of(candidates[place].id)),
            slots: candidates[place].slots,
            max_slots: candidates[place].max_slots,
            verdict,
        });
        let told = RelayChoice {
            of: *pair,
            why: choice.why,
            candidates: shown.collect(),
            losses: losses.clone(),
            at,
            retry_after_ms: choice.relay.is_none().then_some(RETRY_AFTER_MS),
        };
        let offers = choice.relay.and_then(|relay| self.offers(known.get_mut(&relay)?, at, *pair, (*rate, *payers)));
        (told, offers)
    }

    fn offers(
        &self,
        chosen: &mut Known,
        at: UnixMillis,
        pair: [ClientId; 2],
        (rate, payers): (Bandwidth, [PayerId; 2]),
    ) -> Option<[RelayOffer; 2]> {
        chosen.sent += 1;
        let relay = chosen.beat.relay;
        let endpoints: Vec<_> = chosen.beat.endpoints.iter().copied().take(MOST_ENDPOINTS).collect();
        let streams: Vec<_> = chosen.beat.streams.iter().take(MOST_ENDPOINTS).cloned().collect();
        let key = self.root.key(relay);
        let nonce = self.nonce(relay, pair);
        self.names.remember(nonce, pair);
        let expires = at.plus(self.lifetime);
        let offer = |own: ClientId, peer: ClientId, payer: PayerId| {
            let side = if own < peer { LegSide::A } else { LegSide::B };
            let sealed = key.seal(&Ticket { relay, pair: nonce, side, rate, payer, expires });
            RelayOffer {
                peer,
                relay,
                endpoints: endpoints.clone(),
                streams: streams.clone(),
                ticket: sealed.to_vec(),
                leg_key: key.leg_key(&sealed).0,
                rate,
                expires,
            }
        };
        Some([offer(pair[0], pair[1], payers[0]), offer(pair[1], pair[0], payers[1])])
    }

    /// What names the pair at the relay: unpredictable for others, the same every time.
    fn nonce(&self, relay: RelayId, pair: [ClientId; 2]) -> PairNonce {
        let mut context = hmac::Context::with_key(&self.nonces);
        context.update(b"buri pair nonce v1");
        context.update(relay.as_bytes());
        context.update(pair[0].min(pair[1]).as_bytes());
        context.update(pair[0].max(pair[1]).as_bytes());
        let mut nonce = [0; 16];
        nonce.copy_from_slice(&context.sign().as_ref()[..16]);
        PairNonce(nonce)
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<RelayId, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use domain::{RelayTrip, RelayVerdict, RelayWhy};

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
    const PAIR: [ClientId; 2] = [ClientId::from_bytes([1; 16]), ClientId::from_bytes([2; 16])];
    const RATE: Bandwidth = Bandwidth::from_bytes_per_second(1_000);
    const PAYERS: [PayerId; 2] = [PayerId::from_bytes([3; 16]), PayerId::from_bytes([4; 16])];

    #[test]
    fn both_tickets_open_at_the_relay_and_meet_there() {
        let start = Instant::now();
        let relays = relays();
        relays.handle_beat(start, beat(1));
        let [a, b] = offers(&relays, start, &wish(None)).unwrap();
        // Another process, another order, a minute later: still the same pair.
        let [b_again, _] = {
            let other = super::Relays::new([5; 32], Duration::from_secs(60));
            other.handle_beat(start, beat(1));
            let wish = Wish { pair: [PAIR[1], PAIR[0]], payers: [PAYERS[1], PAYERS[0]], ..wish(None) };
            other.choose(start, NOW.plus(Duration::from_secs(60)), &wish).1.unwrap()
        };

        let key = TicketRoot::new([5; 32]).key(a.relay);
        let open = |offer: &RelayOffer| key.open(&offer.ticket.clone().try_into().unwrap()).unwrap();
        assert_eq!((a.peer, b.peer), (PAIR[1], PAIR[0]));
        assert_eq!([open(&a).side, open(&b).side], [LegSide::A, LegSide::B]);
        assert_eq!(open(&a).pair, open(&b).pair);
        assert_eq!(open(&b_again).pair, open(&b).pair);
        assert_eq!([&a, &b, &b_again].map(|offer| open(offer).payer), [PAYERS[0], PAYERS[1], PAYERS[1]]);
        assert_eq!((open(&a).rate, open(&a).expires), (RATE, NOW.plus(Duration::from_secs(60))));
        assert_ne!(a.leg_key, b.leg_key);
        assert_eq!(a.leg_key, key.leg_key(&a.ticket.clone().try_into().unwrap()).0);
    }

    #[test]
    fn a_relay_without_beats_is_avoided_and_then_forgotten() {
        let start = Instant::now();
        let relays = relays();
        relays.handle_beat(start, beat(1));
        relays.handle_beat(start, beat(2));
        let used = offers(&relays, start, &wish(None)).unwrap()[0].relay;
        let other = if used == beat(1).relay { beat(2) } else { beat(1) };

        relays.handle_beat(start + Duration::from_secs(4), other.clone());
        let later = start + Duration::from_secs(4);
        let moved = offers(&relays, later, &wish(Some(used))).unwrap()[0].relay;
        assert_eq!(moved, other.relay);
        assert_eq!(relays.live(later).len(), 2);
        assert_eq!(relays.live(start + Duration::from_secs(7)).len(), 1);
        let (choice, none) = relays.choose(start + Duration::from_secs(60), NOW, &wish(Some(used)));
        assert!(none.is_none());
        assert_eq!((choice.why, choice.retry_after_ms), (RelayWhy::NoneLives, Some(RETRY_AFTER_MS)));
    }

    #[test]
    fn pairs_sent_between_two_beats_count() {
        let start = Instant::now();
        let relays = relays();
        relays.handle_beat(start, RelayBeat { slots: 0, max_slots: 10, ..beat(1) });
        let granted = (0..20)
            .filter(|number| {
                let pair = [PAIR[0], ClientId::from_bytes([10 + number; 16])];
                offers(&relays, start, &Wish { pair, ..wish(None) }).is_some()
            })
            .count();
        assert_eq!(granted, 9);
    }

    #[test]
    fn what_both_measured_decides_and_is_told() {
        let (start, relays) = (Instant::now(), relays());
        for number in 1..=6 {
            relays.handle_beat(start, RelayBeat { region: "x".repeat(100), ..beat(number) });
        }
        let trips = [measured(&[(1, 5), (2, 30), (3, 90)]), measured(&[(1, 200), (2, 30), (3, 10)])];
        let (choice, offers) = relays.choose(start, NOW, &Wish { trips, ..wish(None) });
        assert_eq!(offers.unwrap()[0].relay, beat(2).relay);
        assert_eq!((choice.why, choice.retry_after_ms), (RelayWhy::Nearest, None));
        let shown: Vec<_> = choice.candidates.iter().map(|one| (one.relay.as_bytes()[0], one.rtts_us)).collect();
        let known = |a, b| [Some(a), Some(b)];
        assert_eq!(shown[..3], [(2, known(30_000, 30_000)), (3, known(90_000, 10_000)), (1, known(5_000, 200_000))]);
        assert_eq!(shown.len(), MOST_SHOWN);
        assert!(choice.candidates.iter().all(|one| one.region.len() == MOST_REGION));
    }

    #[test]
    fn a_relay_that_does_not_answer_one_of_them_is_avoided() {
        let (start, relays) = (Instant::now(), relays());
        relays.handle_beat(start, beat(1));
        relays.handle_beat(start, beat(2));
        let trips = [measured(&[(1, 1), (2, 90)]); 2];
        let losses = vec![RelayLoss { relay: beat(1).relay, until: NOW }];
        let wish = Wish { trips, losses: losses.clone(), ..wish(Some(beat(1).relay)) };
        let (choice, offers) = relays.choose(start, NOW, &wish);
        assert_eq!(offers.unwrap()[0].relay, beat(2).relay);
        assert_eq!(choice.candidates[1].verdict, RelayVerdict::Unanswered);
        assert_eq!(choice.losses, losses);
    }

    fn offers(relays: &Relays, now: Instant, wish: &Wish) -> Option<[RelayOffer; 2]> {
        relays.choose(now, NOW, wish).1
    }

    fn wish(current: Option<RelayId>) -> Wish {
        Wish { pair: PAIR, trips: [RelayTrips::NONE; 2], rate: RATE, payers: PAYERS, current, losses: Vec::new() }
    }

    fn measured(rtts_ms: &[(u8, u32)]) -> RelayTrips {
        let trip = |&(number, ms): &(u8, u32)| RelayTrip { relay: beat(number).relay, rtt_us: ms * 1_000 };
        RelayTrips::new(&rtts_ms.iter().map(trip).collect::<Vec<_>>()).unwrap()
    }

    fn relays() -> Relays {
        Relays::new([5; 32], Duration::from_secs(60))
    }

    fn beat(number: u8) -> RelayBeat {
        RelayBeat {
            relay: RelayId::from_bytes([number; 16]),
            endpoints: vec![([198, 51, 100, number], 443).into()],
            region: String::new(),
            slots: 0,
            max_slots: 1_000,
            rate: Bandwidth::from_bytes_per_second(0),
            draining: false,
            streams: vec!["relay.example:443".parse().unwrap()],
        }
    }
}
