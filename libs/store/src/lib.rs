//! Durable state: clients, plans, people and their accounts, networks, members, addresses, guess budgets, what was relayed
//! for whom, and what operators did, in SQLite or Postgres.
//!
//! One method of [`Accounts`], [`Networks`], [`Operations`], [`People`], [`Events`] or [`Webhooks`] is one use case and one transaction. The
//! SQL in `sql/` is compiled twice, once for each engine; what differs (how to connect, how to begin, how to lock) is in `postgres.rs` and `sqlite.rs`.
//!
//! # Rules
//! - **Bump first.** Every write to a network or an account begins with raising its revision, which locks its row. Locks are
//!   taken in the order accounts, networks (by id), clients, addresses and relay usage, so that transactions cannot wait for each
//!   other in a circle.
//! - **People** stand in tables of their own. A token is deleted by the statement that uses it, and only its hash is kept.
//! - **Never dropped half-way.** A use case runs in a task of its own: a caller that stops waiting abandons the answer, not
//!   the transaction. sqlx's `begin` loses acknowledged writes when its future is dropped (sqlx #4385), so it is not used.
//! - **Deadlines of our own** on taking a connection (2 s) and on the transaction (5 s), because a pooled connection on a
//!   dead path hangs (sqlx #4146). A transaction that ran out of time closes its connection; whether it took effect is
//!   unknown to the caller, and repeating the use case finds out.
//! - **Addresses** are guarded by two unique indexes (address, client) and retried; never read and then written.
//! - **Outbox.** `revision` says what is true, `announced` what members were told; what lies between is announced again.
//! - **Events** for programs of operators are written by the transaction that makes them true, to an outbox without numbers; the
//!   admin role numbers them under one lock, because a reader who goes on after the highest number it saw must miss none.

mod accounts;
mod blocks;
mod directory;
mod error;
mod events;
mod governing;
mod migrate;
mod networks;
mod operations;
mod people;
mod plans;
mod postgres;
mod rotation;
mod seats;
#[expect(clippy::duplicate_mod, reason = "one SQL body is compiled for two engines")]
mod sqlite;
mod values;
mod webhooks;

use std::{fmt, sync::Arc};

use domain::AddressPool;

pub use accounts::{Accounts, Deployment, LoggedIn, Login, SettleError, Standing, UnknownPlan};
pub use blocks::{
    BlockChange, Blocks, ChangeBlockError, HeldAgainst, MAX_BLOCKS, MakeBlockError, NewBlock, SLOW_JOINS,
};
pub use directory::{ClientSearch, ClientSummary, Found, FoundClients, FoundNetworks, MonthUsage, Place};
pub use error::{Error, SchemaError};
pub use events::{EVENT_MEMORY, EventPage, Events, MAX_EVENT_PAGE, MAX_EVENTS, Numbered};
pub use governing::{GovernError, NetworkDetails, NetworkMember};
pub use migrate::{Migration, migrate, migrations};
pub use networks::{
    Admission, Announcement, Budget, BudgetKind, CreateError, Guess, JoinError, Joined, KeyHolder, LeaveError,
    NetworkSummary, Networks, NewNetwork, OrderError, PairPlan, PasswordRecord, Peer, Proven, Snapshot,
};
pub use operations::{
    AuditEntry, AuditFilter, Claim, MAX_TOKENS, MakeTokenError, NewEntry, NewToken, Operations, REPEATABLE,
    RepeatableRequest, Token,
};
pub use people::{
    AccountError, AccountSearch, AccountSummary, Actor, AttachError, Attachment, Belonging, Credentials, Fresh,
    MAX_SESSIONS, Mail, MailKind, NewSession, PasswordHash, People, Person, ProviderError, Sessions, Vouched,
};
pub use plans::{MAX_PLANS, PlanError, ReassignError};
pub use rotation::{GivenUp, LoginError, RotateError, Rotated, Rotation};
pub use webhooks::{
    ChangeWebhookError, DeliveryState, Due, DueDeliveries, Held, KEPT_DELIVERIES, KeptDelivery, MAX_DEAD_LETTERS,
    MAX_WEBHOOKS, MakeWebhookError, Then, Tried, Webhook, WebhookState, WebhookTerms, Webhooks,
};

/// How a deployment hands out what the store owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// Where IPv4 addresses come from.
    pub pool: AddressPool,
    /// The plan of a client that registers.
    pub default_plan: String,
    /// Connections of this process to the database, at most.
    pub connections: u32,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { pool: AddressPool::DEFAULT, default_plan: "free".to_owned(), connections: 16 }
    }
}

/// The faces of the database.
#[derive(Clone)]
pub struct Stores {
    pub accounts: Arc<dyn Accounts>,
    pub people: Arc<dyn People>,
    pub networks: Arc<dyn Networks>,
    pub operations: Arc<dyn Operations>,
    pub events: Arc<dyn Events>,
    pub webhooks: Arc<dyn Webhooks>,
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stores").finish_non_exhaustive()
    }
}

impl Stores {
    /// Whether the database answers now.
    ///
    /// # Errors
    /// [`Error`] when it does not, within about two seconds.
    pub async fn ping(&self) -> Result<(), Error> {
        self.accounts.ping().await
    }

    /// Waits for the transactions that run, then closes all connections.
    pub async fn close(&self) {
        self.accounts.close().await;
    }
}

/// Connects to `url`, `sqlite:///path/to/file.db` or `postgres://user@host/database`.
///
/// # Errors
/// [`Error::Schema`] unless the schema is exactly the one this code knows; other errors as for any use case.
pub async fn connect(url: &str, options: StoreOptions) -> Result<Stores, Error> {
    match Engine::of(url)? {
        Engine::Postgres => postgres::connect(url, options).await,
        Engine::Sqlite => sqlite::connect(url, options).await,
    }
}

/// Which engine a URL selects.
#[derive(Clone, Copy)]
enum Engine {
    Postgres,
    Sqlite,
}

impl Engine {
    fn of(url: &str) -> Result<Self, Error> {
        match url.split_once(':') {
            Some(("postgres" | "postgresql", _)) => Ok(Self::Postgres),
            Some(("sqlite", _)) => Ok(Self::Sqlite),
            _ => Err(Error::Url),
        }
    }
}
