//! Presence within one process. As strict as Redis: it counts time, is bounded, and can fail in the same ways.

mod expiring;
mod faults;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use domain::{ClientId, Epoch, NatProfile, RelayTrips};
use tokio::time::{Instant, sleep};

use self::{
    expiring::Expiring,
    faults::{Fate, Source},
};
use crate::{
    Error, Lost, Page, RESPITE, Renewal, Seat, Standing, Up,
    limits::{DEADLINE, LAST_EPOCH, RETENTION, SWEEP_GAP},
    record::Pair,
};

pub use self::faults::Faults;

/// Clients that presence remembers. When full, further ones are refused.
const MOST_CLIENTS: usize = 1_000_000;
/// Leases held at once. When full, further ones are refused.
const MOST_LEASES: usize = 100_000;
/// Records kept. When full, the one that would end first makes room.
const MOST_RECORDS: usize = 200_000;

/// Presence of one process. Clones are the same presence.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    source: Source,
    tables: Mutex<Tables>,
}

/// Whether a call may be carried out twice.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeats {
    Harmless,
    Never,
}

impl Memory {
    /// A presence that suffers from `faults`.
    #[must_use]
    pub fn new(faults: Faults) -> Self {
        Self { shared: Arc::new(Shared { source: Source::new(faults), tables: Mutex::default() }) }
    }

    /// Forgets everything, as `FLUSHALL` does.
    pub fn flush(&self) {
        *self.tables() = Tables::default();
    }

    /// Fails all calls until [`Memory::restore`].
    pub fn interrupt(&self) {
        self.shared.source.interrupt();
    }

    /// Ends an interruption.
    pub fn restore(&self) {
        self.shared.source.restore();
    }

    pub(crate) async fn ping(&self) -> Result<(), Error> {
        self.turn(Repeats::Harmless, |_, _| ()).await
    }

    pub(crate) async fn up(&self, seat: Seat, ttl: Duration) -> Result<Up, Error> {
        self.turn(Repeats::Harmless, |tables, now| tables.up(now, seat, ttl)).await?
    }

    pub(crate) async fn renew(&self, seats: &[Seat], ttl: Duration) -> Result<Vec<Renewal>, Error> {
        self.turn(Repeats::Harmless, |tables, now| seats.iter().map(|&seat| tables.renew(now, seat, ttl)).collect())
            .await?
    }

    pub(crate) async fn down(&self, client: ClientId, epoch: Epoch) -> Result<bool, Error> {
        self.turn(Repeats::Harmless, |tables, now| tables.down(now, client, epoch)).await?
    }

    pub(crate) async fn find(&self, clients: &[ClientId]) -> Result<Vec<Option<Seat>>, Error> {
        self.turn(Repeats::Harmless, |tables, now| clients.iter().map(|client| tables.seat(now, client)).collect())
            .await
    }

    pub(crate) async fn report(&self, client: ClientId, epoch: Epoch, profile: NatProfile) -> Result<bool, Error> {
        self.turn(Repeats::Harmless, |tables, now| tables.report(now, client, epoch, profile)).await
    }

    pub(crate) async fn measured(&self, client: ClientId, epoch: Epoch, trips: RelayTrips) -> Result<bool, Error> {
        let noted = |tables: &mut Tables, now| {
            tables.standings.value_mut(now, &client).is_some_and(|standing| standing.measured(epoch, trips))
        };
        self.turn(Repeats::Harmless, noted).await
    }

    pub(crate) async fn sweep(&self, limit: usize) -> Result<Vec<Lost>, Error> {
        self.turn(Repeats::Never, |tables, now| tables.sweep(now, limit)).await
    }

    pub(crate) async fn lease(&self, key: &str, holder: u64, ttl: Duration) -> Result<bool, Error> {
        self.turn(Repeats::Harmless, |tables, now| tables.lease(now, key, holder, ttl)).await?
    }

    pub(crate) async fn release(&self, key: &str, holder: u64) -> Result<(), Error> {
        self.turn(Repeats::Harmless, |tables, now| tables.release(now, key, holder)).await
    }

    pub(crate) async fn remember(&self, pair: Pair, record: Vec<u8>, ttl: Duration) -> Result<(), Error> {
        self.turn(Repeats::Harmless, |tables, now| tables.remember(now, pair, record.clone(), ttl)).await
    }

    pub(crate) async fn recall(&self, pair: Pair) -> Result<Option<Vec<u8>>, Error> {
        self.turn(Repeats::Harmless, |tables, now| tables.records.value(now, &pair).cloned()).await
    }

    pub(crate) async fn sessions(&self, after: Option<ClientId>, limit: u16) -> Result<Page, Error> {
        self.turn(Repeats::Harmless, |tables, now| tables.sessions(now, after, usize::from(limit))).await
    }

    /// Carries `act` out, with what the faults have in store for it.
    async fn turn<T>(&self, repeats: Repeats, mut act: impl FnMut(&mut Tables, Instant) -> T) -> Result<T, Error> {
        let Fate { delay, loses_call, repeats_call, loses_answer } = self.shared.source.fate()?;
        if loses_call {
            sleep(DEADLINE).await;
            return Err(Error::TimedOut);
        }
        if !delay.is_zero() {
            sleep(delay.min(DEADLINE)).await;
        }
        let mut answer = act(&mut self.tables(), Instant::now());
        if repeats_call && repeats == Repeats::Harmless {
            answer = act(&mut self.tables(), Instant::now());
        }
        if loses_answer || delay >= DEADLINE {
            sleep(DEADLINE.saturating_sub(delay)).await;
            return Err(Error::TimedOut);
        }
        Ok(answer)
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.shared.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known.
#[derive(Debug)]
struct Tables {
    standings: Expiring<ClientId, Standing>,
    /// Of those who have a seat: until when.
    seats: Expiring<ClientId, ()>,
    leases: Expiring<String, u64>,
    records: Expiring<Pair, Vec<u8>>,
    swept: Option<Instant>,
    respite: Option<Instant>,
}

impl Default for Tables {
    fn default() -> Self {
        Self {
            standings: Expiring::new(MOST_CLIENTS),
            seats: Expiring::new(MOST_CLIENTS),
            leases: Expiring::new(MOST_LEASES),
            records: Expiring::new(MOST_RECORDS),
            swept: None,
            respite: None,
        }
    }
}

impl Tables {
    fn up(&mut self, now: Instant, seat: Seat, ttl: Duration) -> Result<Up, Error> {
        let mut standing = self.standing(now, seat.client);
        let up = standing.up(seat);
        self.keep(now, seat.client, standing, ttl)?;
        Ok(up)
    }

    fn renew(&mut self, now: Instant, seat: Seat, ttl: Duration) -> Result<Renewal, Error> {
        if seat.epoch > LAST_EPOCH {
            return Ok(Renewal::Replaced);
        }
        let mut standing = self.standing(now, seat.client);
        let renewal = standing.renew(seat);
        if matches!(renewal, Renewal::Kept | Renewal::Rebuilt) {
            self.keep(now, seat.client, standing, ttl)?;
        }
        Ok(renewal)
    }

    fn down(&mut self, now: Instant, client: ClientId, epoch: Epoch) -> Result<bool, Error> {
        let mut standing = self.standing(now, client);
        let ended = standing.down(epoch);
        if standing.seat().is_none() {
            self.seats.remove(&client);
        }
        self.standings.insert(now, client, standing, RETENTION)?;
        Ok(ended)
    }

    fn report(&mut self, now: Instant, client: ClientId, epoch: Epoch, profile: NatProfile) -> bool {
        self.standings.value_mut(now, &client).is_some_and(|standing| standing.report(epoch, profile))
    }

    fn sweep(&mut self, now: Instant, limit: usize) -> Vec<Lost> {
        if self.swept.is_some_and(|swept| now.duration_since(swept) > SWEEP_GAP) {
            self.respite = Some(now + RESPITE);
        }
        self.swept = Some(now);
        if self.respite.is_some_and(|respite| now < respite) {
            return Vec::new();
        }
        let over = self.seats.take_expired(now, limit).into_iter();
        over.filter_map(|client| {
            let standing = self.standings.value_mut(now, &client)?;
            let epoch = standing.highest();
            standing.down(epoch).then_some(Lost { client, epoch })
        })
        .collect()
    }

    fn lease(&mut self, now: Instant, key: &str, holder: u64, ttl: Duration) -> Result<bool, Error> {
        if self.leases.value(now, key).is_some_and(|other| *other != holder) {
            return Ok(false);
        }
        self.leases.insert(now, key.to_owned(), holder, ttl)?;
        Ok(true)
    }

    fn release(&mut self, now: Instant, key: &str, holder: u64) {
        if self.leases.value(now, key) == Some(&holder) {
            self.leases.remove(key);
        }
    }

    fn remember(&mut self, now: Instant, pair: Pair, record: Vec<u8>, ttl: Duration) {
        self.records.make_room(now, &pair);
        // There is room now.
        let _kept = self.records.insert(now, pair, record, ttl);
    }

    fn sessions(&self, now: Instant, after: Option<ClientId>, limit: usize) -> Page {
        let clients = self.seats.keys_after(after.as_ref());
        let mut seats: Vec<_> = clients.filter_map(|client| self.seat(now, client)).take(limit + 1).collect();
        let more = seats.len() > limit;
        seats.truncate(limit);
        Page { seats, more }
    }

    fn seat(&self, now: Instant, client: &ClientId) -> Option<Seat> {
        self.standings.value(now, client)?.seat().copied()
    }

    fn standing(&self, now: Instant, client: ClientId) -> Standing {
        self.standings.value(now, &client).cloned().unwrap_or_default()
    }

    fn keep(&mut self, now: Instant, client: ClientId, standing: Standing, ttl: Duration) -> Result<(), Error> {
        self.standings.insert(now, client, standing, RETENTION)?;
        self.seats.insert(now, client, (), ttl)
    }
}
