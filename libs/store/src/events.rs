//! What happened, for programs of operators.

use std::time::Duration;

use async_trait::async_trait;
use domain::{Event, InstanceId, UnixMillis};

use crate::Error;

/// Events that are kept: the newest ones.
pub const MAX_EVENTS: u64 = 100_000;

/// How long an event is kept, read or not: who was online when is nobody's business for longer.
pub const EVENT_MEMORY: Duration = Duration::from_secs(7 * 24 * 3600);

/// Events that are read at once, at most.
pub const MAX_EVENT_PAGE: u16 = 500;

/// The face of the store for the log of events.
#[async_trait]
pub trait Events: Send + Sync {
    /// Numbers what transactions wrote since the last time, and then what was `heard`; what is there already is not added
    /// again. Forgets the oldest. Returns the end of the log.
    async fn record_events(&self, heard: Vec<Event>) -> Result<u64, Error>;

    /// Events after number `after`, oldest first.
    async fn events_after(&self, after: u64, limit: u16) -> Result<EventPage, Error>;

    /// Whether `holder` leads until `lease` from now: nobody else does before.
    async fn lead_events(&self, holder: InstanceId, lease: Duration, at: UnixMillis) -> Result<bool, Error>;

    /// Forgets what is too old at `at`. Returns how many events that were.
    async fn forget_events(&self, at: UnixMillis) -> Result<u64, Error>;
}

/// An event in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbered {
    /// Orders all events of a deployment. There are gaps.
    pub sequence: u64,
    pub event: Event,
}

/// A part of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventPage {
    pub events: Vec<Numbered>,
    /// The number of the oldest event that is kept; 0 without any.
    pub oldest: u64,
    /// The number of the newest one, even if it is not kept any more.
    pub newest: u64,
}
