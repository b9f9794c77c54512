//! Which relays live, and tickets for them.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use contract::rendezvous::RelayBeat;
use domain::{Bandwidth, ClientId, RelayId, RelayOffer, UnixMillis};
use ring::hmac;
use traversal::relay_choice::{self, Relay};
use wire::ticket::{LegSide, PairNonce, Ticket, TicketRoot};

/// Three missing beats end a relay.
const LIVES: Duration = Duration::from_millis(6_500);
/// One missing beat makes it a poor choice for a pair that just lost its path.
const FRESH: Duration = Duration::from_millis(3_500);
/// Relays known at once; a deployment with more of them has another problem.
const MOST_RELAYS: usize = 1_024;
/// Endpoints that are told to clients.
const MOST_ENDPOINTS: usize = 8;

/// The live relays, as this process heard of them.
#[derive(Debug)]
pub(crate) struct Relays {
    root: TicketRoot,
    nonces: hmac::Key,
    lifetime: Duration,
    known: Mutex<BTreeMap<RelayId, Known>>,
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
        }
    }

    /// A relay says that it lives.
    pub(crate) fn handle_beat(&self, now: Instant, beat: RelayBeat) {
        let mut known = self.known();
        known.retain(|_, known| now.saturating_duration_since(known.at) < LIVES);
        if known.len() < MOST_RELAYS || known.contains_key(&beat.relay) {
            known.insert(beat.relay, Known { beat, at: now, sent: 0 });
        }
    }

    /// The last beat of each live relay.
    pub(crate) fn live(&self, now: Instant) -> Vec<RelayBeat> {
        let known = self.known();
        let live = known.values().filter(|known| now.saturating_duration_since(known.at) < LIVES);
        live.map(|known| known.beat.clone()).collect()
    }

    /// An offer for each of `pair`, in its order; `None` when no relay has room.
    ///
    /// The tickets of a pair for one relay always meet there, whoever made them and when: two processes may serve the same
    /// wish, and pushes may overtake one another.
    pub(crate) fn offers(
        &self,
        now: Instant,
        at: UnixMillis,
        pair: [ClientId; 2],
        rate: Bandwidth,
        current: Option<RelayId>,
    ) -> Option<[RelayOffer; 2]> {
        let mut known = self.known();
        let candidates = |patience: Duration| -> Vec<Relay> {
            let live = known.values().filter(|known| now.saturating_duration_since(known.at) < patience);
            live.map(|Known { beat, sent, .. }| Relay {
                id: beat.relay,
                slots: beat.slots.saturating_add(*sent),
                max_slots: beat.max_slots,
                draining: beat.draining,
                rtts: [None, None],
            })
            .collect()
        };
        let chosen = relay_choice::choose(&candidates(FRESH), pair, current)
            .or_else(|| relay_choice::choose(&candidates(LIVES), pair, current))?;
        let chosen = known.get_mut(&chosen)?;
        chosen.sent += 1;
        let relay = chosen.beat.relay;
        let endpoints: Vec<_> = chosen.beat.endpoints.iter().copied().take(MOST_ENDPOINTS).collect();
        let streams: Vec<_> = chosen.beat.streams.iter().take(MOST_ENDPOINTS).cloned().collect();
        let key = self.root.key(relay);
        let nonce = self.nonce(relay, pair);
        let expires = at.plus(self.lifetime);
        let offer = |own: ClientId, peer: ClientId| {
            let side = if own < peer { LegSide::A } else { LegSide::B };
            let sealed = key.seal(&Ticket { relay, pair: nonce, side, rate, expires });
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
        Some([offer(pair[0], pair[1]), offer(pair[1], pair[0])])
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
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
    const PAIR: [ClientId; 2] = [ClientId::from_bytes([1; 16]), ClientId::from_bytes([2; 16])];
    const RATE: Bandwidth = Bandwidth::from_bytes_per_second(1_000);

    #[test]
    fn both_tickets_open_at_the_relay_and_meet_there() {
        let start = Instant::now();
        let relays = relays();
        relays.handle_beat(start, beat(1));
        let [a, b] = relays.offers(start, NOW, PAIR, RATE, None).unwrap();
        // Another process, another order, a minute later: still the same pair.
        let [b_again, _] = {
            let other = super::Relays::new([5; 32], Duration::from_secs(60));
            other.handle_beat(start, beat(1));
            other.offers(start, NOW.plus(Duration::from_secs(60)), [PAIR[1], PAIR[0]], RATE, None).unwrap()
        };

        let key = TicketRoot::new([5; 32]).key(a.relay);
        let open = |offer: &RelayOffer| key.open(&offer.ticket.clone().try_into().unwrap()).unwrap();
        assert_eq!((a.peer, b.peer), (PAIR[1], PAIR[0]));
        assert_eq!([open(&a).side, open(&b).side], [LegSide::A, LegSide::B]);
        assert_eq!(open(&a).pair, open(&b).pair);
        assert_eq!(open(&b_again).pair, open(&b).pair);
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
        let used = relays.offers(start, NOW, PAIR, RATE, None).unwrap()[0].relay;
        let other = if used == beat(1).relay { beat(2) } else { beat(1) };

        relays.handle_beat(start + Duration::from_secs(4), other.clone());
        let later = start + Duration::from_secs(4);
        let moved = relays.offers(later, NOW, PAIR, RATE, Some(used)).unwrap()[0].relay;
        assert_eq!(moved, other.relay);
        assert_eq!(relays.live(later).len(), 2);
        assert_eq!(relays.live(start + Duration::from_secs(7)).len(), 1);
        assert!(relays.offers(start + Duration::from_secs(60), NOW, PAIR, RATE, Some(used)).is_none());
    }

    #[test]
    fn pairs_sent_between_two_beats_count() {
        let start = Instant::now();
        let relays = relays();
        relays.handle_beat(start, RelayBeat { slots: 0, max_slots: 10, ..beat(1) });
        let granted = (0..20)
            .filter(|number| {
                let pair = [PAIR[0], ClientId::from_bytes([10 + number; 16])];
                relays.offers(start, NOW, pair, RATE, None).is_some()
            })
            .count();
        assert_eq!(granted, 9);
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
