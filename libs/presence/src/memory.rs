//! Presence within one process: the same rules, the same times to live.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use domain::{ClientId, Epoch, GatewayId, NatProfile, PairRecord};
use tokio::time::Instant;

use crate::{Error, Held, Lost, Page, Renewal, Seat, TOMBSTONE, Up, sorted};

/// Entries of each kind. When seats are full, logins are refused; of the others the one that ends first is dropped.
const MOST: usize = 1_000_000;

/// Presence within one process.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    seats: BTreeMap<ClientId, (Seat, Instant)>,
    highest: Fading<ClientId, Epoch>,
    leases: Fading<String, u64>,
    records: Fading<(ClientId, ClientId), PairRecord>,
}

impl Memory {
    pub(crate) fn ping(&self) {
        drop(self.state());
    }

    pub(crate) fn up(&self, wanted: Seat, ttl: Duration) -> Result<Up, Error> {
        let (mut state, now) = (self.state(), Instant::now());
        let epoch =
            state.highest(wanted.client, now).map_or(wanted.epoch, |highest| wanted.epoch.max(Epoch(highest.0 + 1)));
        if state.seats.len() >= MOST && !state.seats.contains_key(&wanted.client) {
            return Err(Error::Full);
        }
        state.raise(wanted.client, epoch, now);
        let replaced = state.seats.insert(wanted.client, (Seat { epoch, ..wanted }, now + ttl));
        Ok(Up { epoch, replaced: replaced.filter(|(_, until)| *until > now).map(|(seat, _)| seat) })
    }

    pub(crate) fn renew(&self, gateway: GatewayId, held: &[Held], ttl: Duration) -> Vec<Renewal> {
        let (mut state, now) = (self.state(), Instant::now());
        held.iter().map(|held| state.renew(gateway, held, now, ttl)).collect()
    }

    pub(crate) fn down(&self, client: ClientId, epoch: Epoch) -> bool {
        let (mut state, now) = (self.state(), Instant::now());
        if state.highest(client, now).is_some_and(|highest| epoch < highest) {
            return false;
        }
        state.raise(client, epoch, now);
        state.seats.remove(&client).is_some_and(|(seat, until)| seat.epoch == epoch && until > now)
    }

    pub(crate) fn find(&self, clients: &[ClientId]) -> Vec<Option<Seat>> {
        let (state, now) = (self.state(), Instant::now());
        clients.iter().map(|client| state.seat(*client, now).cloned()).collect()
    }

    pub(crate) fn report(&self, client: ClientId, epoch: Epoch, profile: NatProfile) -> bool {
        let (mut state, now) = (self.state(), Instant::now());
        match state.seats.get_mut(&client) {
            Some((seat, until)) if seat.epoch == epoch && *until > now => {
                seat.profile = Some(profile);
                true
            }
            Some(_) | None => false,
        }
    }

    pub(crate) fn sweep(&self, limit: usize) -> Vec<Lost> {
        let (mut state, now) = (self.state(), Instant::now());
        let over = state.seats.values().filter(|(_, until)| *until <= now).take(limit);
        let lost: Vec<Lost> = over.map(|(seat, _)| Lost { client: seat.client, epoch: seat.epoch }).collect();
        for lost in &lost {
            state.seats.remove(&lost.client);
            state.raise(lost.client, lost.epoch, now);
        }
        lost
    }

    pub(crate) fn lease(&self, key: &str, holder: u64, ttl: Duration) -> bool {
        let (mut state, now) = (self.state(), Instant::now());
        let free = state.leases.get(&key.to_owned(), now).is_none_or(|other| *other == holder);
        if free {
            state.leases.insert(key.to_owned(), holder, now, ttl);
        }
        free
    }

    pub(crate) fn release(&self, key: &str, holder: u64) {
        let (mut state, now) = (self.state(), Instant::now());
        if state.leases.get(&key.to_owned(), now) == Some(&holder) {
            state.leases.0.remove(key);
        }
    }

    pub(crate) fn remember(&self, record: &PairRecord, ttl: Duration) {
        let now = Instant::now();
        self.state().records.insert(sorted(record.a, record.b), record.clone(), now, ttl);
    }

    pub(crate) fn recall(&self, a: ClientId, b: ClientId) -> Option<PairRecord> {
        self.state().records.get(&sorted(a, b), Instant::now()).cloned()
    }

    pub(crate) fn sessions(&self, after: Option<ClientId>, limit: usize) -> Page {
        let (state, now) = (self.state(), Instant::now());
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let live =
            state.seats.range((from, Bound::Unbounded)).map(|(_, entry)| entry).filter(|(_, until)| *until > now);
        let mut seats: Vec<Seat> = live.take(limit + 1).map(|(seat, _)| seat.clone()).collect();
        let more = seats.len() > limit;
        seats.truncate(limit);
        Page { seats, more }
    }

    /// Forgets everything, as Redis does when it is flushed.
    pub fn flush(&self) {
        *self.state() = State::default();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn seat(&self, client: ClientId, now: Instant) -> Option<&Seat> {
        self.seats.get(&client).filter(|(_, until)| *until > now).map(|(seat, _)| seat)
    }

    fn highest(&self, client: ClientId, now: Instant) -> Option<Epoch> {
        self.highest.get(&client, now).copied()
    }

    fn raise(&mut self, client: ClientId, epoch: Epoch, now: Instant) {
        let highest = self.highest(client, now).map_or(epoch, |highest| highest.max(epoch));
        self.highest.insert(client, highest, now, TOMBSTONE);
    }

    fn renew(&mut self, gateway: GatewayId, held: &Held, now: Instant, ttl: Duration) -> Renewal {
        let current = self.seats.get_mut(&held.client).filter(|(seat, until)| *until > now && seat.epoch >= held.epoch);
        match current {
            Some((seat, _)) if seat.epoch > held.epoch => return Renewal::Replaced,
            Some((_, until)) => {
                *until = now + ttl;
                self.raise(held.client, held.epoch, now);
                return Renewal::Kept;
            }
            None => {}
        }
        match self.highest(held.client, now) {
            Some(highest) if highest > held.epoch => return Renewal::Replaced,
            Some(highest) if highest == held.epoch => return Renewal::Ended,
            Some(_) | None => {}
        }
        let Held { client, epoch, tag, since } = *held;
        self.raise(client, epoch, now);
        self.seats.insert(client, (Seat { client, gateway, epoch, tag, since, profile: None }, now + ttl));
        Renewal::Kept
    }
}

/// Entries with a time to live.
#[derive(Debug)]
struct Fading<K, V>(BTreeMap<K, (V, Instant)>);

impl<K, V> Default for Fading<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Clone, V> Fading<K, V> {
    fn get(&self, key: &K, now: Instant) -> Option<&V> {
        self.0.get(key).filter(|(_, until)| *until > now).map(|(value, _)| value)
    }

    fn insert(&mut self, key: K, value: V, now: Instant, ttl: Duration) {
        if self.0.len() >= MOST && !self.0.contains_key(&key) {
            self.0.retain(|_, (_, until)| *until > now);
            if self.0.len() >= MOST {
                let first = self.0.iter().min_by_key(|(_, (_, until))| *until).map(|(key, _)| key.clone());
                first.and_then(|first| self.0.remove(&first));
            }
        }
        self.0.insert(key, (value, now + ttl));
    }
}
