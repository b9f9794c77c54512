//! The typed surface over both back-ends.

use std::time::Duration;

use domain::{ClientId, Epoch, GatewayId, NatProfile, PairRecord, RelayTrips, SessionTag, UnixMillis};

use crate::{
    Error, Held, Lost, Page, Renewal, Seat, Up,
    limits::{LAST_EPOCH, LAST_FLOOR, MAX_RECORD_BYTES, MAX_TTL},
    memory::Memory,
    record::{encoded, pair},
    redis::Redis,
};

/// Access to presence. Clones share it.
#[derive(Clone, Debug)]
pub enum Presence {
    /// Within one process.
    Memory(Memory),
    /// In Redis, shared by all processes.
    Redis(Redis),
}

impl Presence {
    /// Reaches presence at `url`. `memory:` is a presence of its own: clone it for every role in the process.
    ///
    /// Several deployments can share a Redis server, each with its own `?namespace=name` at the end of the URL.
    ///
    /// # Errors
    /// [`Error::Url`] for another scheme, [`Error::Unavailable`] or [`Error::TimedOut`] when Redis does not answer.
    pub async fn connect(url: &str) -> Result<Self, Error> {
        match url.split_once(':') {
            Some(("memory", _)) => Ok(Self::memory()),
            Some(("redis" | "rediss", _)) => Redis::connect(url).await.map(Self::Redis),
            Some(_) | None => Err(Error::Url),
        }
    }

    /// A presence within this process. Clones share it.
    #[must_use]
    pub fn memory() -> Self {
        Self::Memory(Memory::default())
    }

    /// Whether presence takes writes now.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::TimedOut`].
    pub async fn ping(&self) -> Result<(), Error> {
        match self {
            Self::Memory(presence) => presence.ping().await,
            Self::Redis(presence) => presence.ping().await,
        }
    }

    /// Seats a client that logged in at `gateway`, for `ttl` and each renewal. The epoch is above every earlier one of this
    /// client, and at least `floor`: the time in milliseconds, which keeps epochs rising when presence was emptied.
    ///
    /// # Errors
    /// Any but [`Error::Url`] and [`Error::TooLarge`].
    pub async fn up(
        &self,
        client: ClientId,
        gateway: GatewayId,
        tag: SessionTag,
        floor: Epoch,
        at: UnixMillis,
        ttl: Duration,
    ) -> Result<Up, Error> {
        let seat = Seat {
            client,
            gateway,
            epoch: floor.min(LAST_FLOOR),
            tag,
            since: exact(at),
            profile: None,
            trips: RelayTrips::NONE,
        };
        match self {
            Self::Memory(presence) => presence.up(seat, bounded(ttl)).await,
            Self::Redis(presence) => presence.up(seat, bounded(ttl)).await,
        }
    }

    /// Keeps the seats of the sessions that `gateway` holds for another `ttl`, and tells for each in turn what was found.
    ///
    /// # Errors
    /// Any but [`Error::Url`] and [`Error::TooLarge`]. Some of the sessions may have been renewed all the same.
    pub async fn renew(&self, gateway: GatewayId, held: &[Held], ttl: Duration) -> Result<Vec<Renewal>, Error> {
        let seat = |&Held { client, epoch, tag, since }: &Held| Seat {
            client,
            gateway,
            epoch,
            tag,
            since: exact(since),
            profile: None,
            trips: RelayTrips::NONE,
        };
        let seats: Vec<_> = held.iter().map(seat).collect();
        match self {
            Self::Memory(presence) => presence.renew(&seats, bounded(ttl)).await,
            Self::Redis(presence) => presence.renew(&seats, bounded(ttl)).await,
        }
    }

    /// Ends the session with `epoch` of `client`, and any older one. Whether it had the seat.
    ///
    /// # Errors
    /// Any but [`Error::Url`] and [`Error::TooLarge`].
    pub async fn down(&self, client: ClientId, epoch: Epoch) -> Result<bool, Error> {
        if epoch > LAST_EPOCH {
            return Ok(false);
        }
        match self {
            Self::Memory(presence) => presence.down(client, epoch).await,
            Self::Redis(presence) => presence.down(client, epoch).await,
        }
    }

    /// The seat of each of `clients`, in their order.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::TimedOut`].
    pub async fn find(&self, clients: &[ClientId]) -> Result<Vec<Option<Seat>>, Error> {
        match self {
            Self::Memory(presence) => presence.find(clients).await,
            Self::Redis(presence) => presence.find(clients).await,
        }
    }

    /// Notes the NAT profile of a session. Whether that has the seat.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::TimedOut`].
    pub async fn report(&self, client: ClientId, epoch: Epoch, profile: NatProfile) -> Result<bool, Error> {
        match self {
            Self::Memory(presence) => presence.report(client, epoch, profile).await,
            Self::Redis(presence) => presence.report(client, epoch, profile).await,
        }
    }

    /// Notes how far relays are from a session. Whether that has the seat.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::TimedOut`].
    pub async fn measured(&self, client: ClientId, epoch: Epoch, trips: RelayTrips) -> Result<bool, Error> {
        match self {
            Self::Memory(presence) => presence.measured(client, epoch, trips).await,
            Self::Redis(presence) => presence.measured(client, epoch, trips).await,
        }
    }

    /// Takes away at most `limit` seats that ran out. The caller announces them: nobody else will get them.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::TimedOut`]; then the seats may be gone unannounced.
    pub async fn sweep(&self, limit: usize) -> Result<Vec<Lost>, Error> {
        match self {
            Self::Memory(presence) => presence.sweep(limit).await,
            Self::Redis(presence) => presence.sweep(limit).await,
        }
    }

    /// Takes the lease of `key` for `ttl`, unless somebody else holds it. Its holder prolongs it.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::TimedOut`] or [`Error::Full`].
    pub async fn lease(&self, key: &str, holder: u64, ttl: Duration) -> Result<bool, Error> {
        match self {
            Self::Memory(presence) => presence.lease(key, holder, bounded(ttl)).await,
            Self::Redis(presence) => presence.lease(key, holder, bounded(ttl)).await,
        }
    }

    /// Gives the lease of `key` back, if `holder` holds it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::TimedOut`].
    pub async fn release(&self, key: &str, holder: u64) -> Result<(), Error> {
        match self {
            Self::Memory(presence) => presence.release(key, holder).await,
            Self::Redis(presence) => presence.release(key, holder).await,
        }
    }

    /// Keeps the record of a pair for `ttl`, in the place of any older one.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Unavailable`] or [`Error::TimedOut`].
    pub async fn remember(&self, record: &PairRecord, ttl: Duration) -> Result<(), Error> {
        let bytes = encoded(record);
        if bytes.len() > MAX_RECORD_BYTES {
            return Err(Error::TooLarge { bytes: bytes.len() });
        }
        match self {
            Self::Memory(presence) => presence.remember(pair(record.a, record.b), bytes, bounded(ttl)).await,
            Self::Redis(presence) => presence.remember(pair(record.a, record.b), bytes, bounded(ttl)).await,
        }
    }

    /// The record of a pair, in any order of the two.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::TimedOut`].
    pub async fn recall(&self, a: ClientId, b: ClientId) -> Result<Option<PairRecord>, Error> {
        let bytes = match self {
            Self::Memory(presence) => presence.recall(pair(a, b)).await?,
            Self::Redis(presence) => presence.recall(pair(a, b)).await?,
        };
        let record = bytes.and_then(|bytes| minicbor::decode::<PairRecord>(&bytes).ok());
        Ok(record.filter(|record| pair(record.a, record.b) == pair(a, b)))
    }

    /// At most `limit` seats of the clients after `after`.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::TimedOut`].
    pub async fn sessions(&self, after: Option<ClientId>, limit: u16) -> Result<Page, Error> {
        let limit = limit.clamp(1, MAX_PAGE);
        match self {
            Self::Memory(presence) => presence.sessions(after, limit).await,
            Self::Redis(presence) => presence.sessions(after, limit).await,
        }
    }
}

/// The longest page of sessions.
const MAX_PAGE: u16 = 1_000;

fn bounded(ttl: Duration) -> Duration {
    ttl.clamp(Duration::from_millis(1), MAX_TTL)
}

fn exact(at: UnixMillis) -> UnixMillis {
    at.min(UnixMillis(LAST_FLOOR.0))
}
