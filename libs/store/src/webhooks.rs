//! Programs that are told what happens, and what came of telling them.

use std::time::Duration;

use async_trait::async_trait;
use domain::{AccountId, EventId, EventKind, InstanceId, NetworkId, UnixMillis, WebhookId};

use crate::{Error, Numbered};

/// Webhooks of a deployment, at most.
pub const MAX_WEBHOOKS: u32 = 100;

/// Deliveries of one webhook that are kept: those that were taken, and those that were given up. Older ones are forgotten.
pub const KEPT_DELIVERIES: u32 = 100;
pub const MAX_DEAD_LETTERS: u32 = 1_000;

/// The face of the store for webhooks.
#[async_trait]
pub trait Webhooks: Send + Sync {
    /// Keeps a new webhook. It is told what happens from now on.
    async fn make_webhook(
        &self,
        id: WebhookId,
        terms: WebhookTerms,
        nonce: [u8; 16],
        at: UnixMillis,
    ) -> Result<Webhook, MakeWebhookError>;

    async fn webhook(&self, id: WebhookId) -> Result<Option<Webhook>, Error>;

    /// A page of webhooks by id.
    async fn webhooks(&self, after: Option<WebhookId>, limit: u16) -> Result<Vec<Webhook>, Error>;

    /// Changes what is asked for, if it is at the revision `expected`. An active one is tried again at once.
    async fn change_webhook(
        &self,
        id: WebhookId,
        terms: WebhookTerms,
        expected: Option<u64>,
        at: UnixMillis,
    ) -> Result<Webhook, ChangeWebhookError>;

    /// Gives it another secret; the one before counts, too, until `until`.
    async fn rotate_webhook(
        &self,
        id: WebhookId,
        nonce: [u8; 16],
        until: UnixMillis,
        expected: Option<u64>,
    ) -> Result<Webhook, ChangeWebhookError>;

    /// Deletes it, and what is known of its deliveries.
    async fn delete_webhook(&self, id: WebhookId, expected: Option<u64>) -> Result<(), ChangeWebhookError>;

    /// An active webhook for which there is something to do, if nobody else tells it now: `holder` does until `until`. Every
    /// taker is a holder of its own, also within one process.
    async fn take_webhook(
        &self,
        holder: InstanceId,
        until: UnixMillis,
        at: UnixMillis,
    ) -> Result<Option<Webhook>, Error>;

    /// What is to be sent next, oldest first: what an operator wants sent again comes before what happened since.
    async fn due_deliveries(&self, id: WebhookId, place: u64, limit: u16) -> Result<DueDeliveries, Error>;

    /// Notes what came of one try. Returns whether `holder` may go on: not when an operator changed something meanwhile, or
    /// another process took over.
    async fn settle_delivery(&self, held: Held, tried: Tried) -> Result<bool, Error>;

    /// Notes that nothing more up to `place` is wanted, and that `missed` events were forgotten before their turn. What was being
    /// tried again there is given up.
    async fn pass_webhook(&self, held: Held, place: u64, missed: u64) -> Result<bool, Error>;

    /// Lets others tell it.
    async fn release_webhook(&self, id: WebhookId, holder: InstanceId) -> Result<(), Error>;

    /// A page of deliveries, newest first, of events before `before`.
    async fn deliveries(
        &self,
        id: WebhookId,
        state: Option<DeliveryState>,
        before: Option<u64>,
        limit: u16,
    ) -> Result<Vec<KeptDelivery>, Error>;

    /// Has one delivery sent again, or all that were given up. Returns how many that are. Of one that failed for too long this
    /// is the end.
    async fn replay_deliveries(&self, id: WebhookId, only: Option<EventId>, at: UnixMillis) -> Result<u64, Error>;
}

/// What an operator says of a webhook.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookTerms {
    pub name: String,
    pub url: String,
    /// Empty: all.
    pub kinds: Vec<EventKind>,
    /// Both empty: whatever it is about.
    pub networks: Vec<NetworkId>,
    pub accounts: Vec<AccountId>,
    pub paused: bool,
}

impl std::fmt::Debug for WebhookTerms {
    /// Some receivers know their senders by the URL: a log gets none.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebhookTerms").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Whether a webhook is told anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebhookState {
    Active,
    /// An operator wants it so.
    Paused,
    /// It failed for too long.
    Failing,
}

/// A webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    pub id: WebhookId,
    pub terms: WebhookTerms,
    pub state: WebhookState,
    pub revision: u64,
    pub made: UnixMillis,
    /// What its secrets are derived from: the one that counts, and the one before with its end.
    pub nonce: [u8; 16],
    pub old_nonce: Option<([u8; 16], UnixMillis)>,
    pub place: u64,
    /// When it is tried next, while something is to be done.
    pub due: UnixMillis,
    pub failing: Option<UnixMillis>,
    pub tried: Option<UnixMillis>,
    pub delivered: u64,
    pub dead: u64,
    pub missed: u64,
}

/// Who tells a webhook, and how it was when that began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    pub id: WebhookId,
    pub holder: InstanceId,
    pub revision: u64,
    /// Until when nobody else does, from now on.
    pub until: UnixMillis,
}

/// What is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueDeliveries {
    pub due: Vec<Due>,
    /// The place up to which the log was looked through, if nothing stops on the way.
    pub place: u64,
    /// The number of the oldest event that is kept; without any, that of the next one.
    pub oldest: u64,
}

/// One event for one webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// From the log.
    Event { event: Numbered, tries: u32 },
    /// Once more, as it was sent before.
    Again { sequence: u64, event: EventId, kind: EventKind, body: String, tries: u32 },
}

/// What came of one try.
#[derive(Clone, PartialEq, Eq)]
pub struct Tried {
    pub sequence: u64,
    pub event: EventId,
    pub kind: EventKind,
    pub body: String,
    /// With this one.
    pub tries: u32,
    pub status: Option<u16>,
    /// A word; empty for a success.
    pub reason: &'static str,
    pub at: UnixMillis,
    pub then: Then,
    /// Not part of the log any more: it is sent because an operator wants it.
    pub again: bool,
    /// A webhook that took nothing for this long is not told anything any more.
    pub patience: Duration,
}

impl std::fmt::Debug for Tried {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tried").field("event", &self.event).field("then", &self.then).finish_non_exhaustive()
    }
}

/// What follows from a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    Taken,
    TryAgain { due: UnixMillis },
    GiveUp,
}

/// How it stands with a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryState {
    Taken,
    Retrying,
    /// An operator wants it sent again.
    Replaying,
    Dead,
}

impl DeliveryState {
    /// All of them, as they are numbered in the database.
    pub const ALL: [Self; 4] = [Self::Taken, Self::Retrying, Self::Replaying, Self::Dead];
}

/// What is known of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptDelivery {
    pub sequence: u64,
    pub event: EventId,
    pub kind: EventKind,
    pub state: DeliveryState,
    pub tries: u32,
    pub status: Option<u16>,
    pub reason: String,
    pub tried: UnixMillis,
}

/// Why a webhook was not made.
#[derive(Debug, thiserror::Error)]
pub enum MakeWebhookError {
    #[error("there are {limit} webhooks already")]
    LimitReached { limit: u32 },
    #[error("storage failed")]
    Store(#[from] Error),
}

/// Why a webhook was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeWebhookError {
    #[error("there is no such webhook")]
    Unknown,
    #[error("the webhook was changed meanwhile")]
    Changed,
    #[error("storage failed")]
    Store(#[from] Error),
}
