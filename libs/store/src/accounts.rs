//! Clients and what they may use.

use async_trait::async_trait;
use domain::{
    ClientId, IdentityKey, Month, Nickname, PayerId, Plan, RelayGrant, RelayReport, Signature, TunnelKey, UlaPrefix,
    UnixMillis,
};

use crate::Error;

/// Clients, their keys, plans and standing.
#[async_trait]
pub trait Accounts: Send + Sync {
    /// Registers a key never seen before, or notes what a known client brought along; a new tunnel key becomes a change of
    /// all its networks, which the outbox announces.
    async fn login(&self, login: Login, at: UnixMillis) -> Result<LoggedIn, Error>;

    /// Puts `client` on another plan. Nothing is taken away from it: limits count for what comes next.
    async fn assign_plan(&self, client: ClientId, plan: &str) -> Result<(), UnknownPlan>;

    /// Lets `client` log in, or no more.
    async fn set_standing(&self, client: ClientId, standing: Standing) -> Result<(), Error>;

    /// The plan of `client`; `None` when it is not registered.
    async fn plan_of(&self, client: ClientId) -> Result<Option<Plan>, Error>;

    /// All plans, by name.
    async fn plans(&self) -> Result<Vec<Plan>, Error>;

    /// Counts what a relay reports, once however often it arrives, and says how far the relay may go.
    async fn settle_relay(&self, report: RelayReport, at: UnixMillis) -> Result<RelayGrant, SettleError>;

    /// Bytes that were relayed for `payer` in `month`, as far as they were reported.
    async fn relayed(&self, payer: PayerId, month: Month) -> Result<u64, Error>;

    /// What all processes of the deployment share.
    fn deployment(&self) -> Deployment;

    /// Whether the database answers now.
    async fn ping(&self) -> Result<(), Error>;

    /// Waits for the transactions that run, then closes all connections.
    async fn close(&self);
}

/// A client whose signature was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    pub identity: IdentityKey,
    pub tunnel: TunnelKey,
    pub tunnel_signature: Signature,
    /// Used when the client is new.
    pub nick: Option<Nickname>,
}

/// What the database knows of a client that logs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedIn {
    pub client: ClientId,
    /// This login registered the key.
    pub registered: bool,
    pub nick: Option<Nickname>,
    pub standing: Standing,
}

/// Whether a client is welcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Good,
    Blocked,
}

/// What was drawn at random once for a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deployment {
    pub id: [u8; 16],
    /// What IPv6 addresses begin with.
    pub ula: UlaPrefix,
}

/// Why a plan was not assigned.
#[derive(Debug, thiserror::Error)]
pub enum UnknownPlan {
    #[error("there is no such plan")]
    Plan,
    #[error("storage failed")]
    Store(#[from] Error),
}

/// Why a report of a relay was not counted.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    #[error("nobody has this payer's id")]
    UnknownPayer,
    #[error("the lease is forgotten")]
    UnknownLease,
    #[error("the report names more bytes than a relay can have forwarded")]
    Implausible,
    #[error("storage failed")]
    Store(#[from] Error),
}
