//! Clients and what they may use.

use async_trait::async_trait;
use domain::{
    AccountId, ClientId, IdentityKey, Lineage, Month, Nickname, PayerId, Plan, RelayGrant, RelayReport, SeatsLost,
    Signature, TunnelKey, UlaPrefix, UnixMillis,
};

use crate::{
    Blocks, ClientSearch, Error, FoundClients, GivenUp, LoginError, MonthUsage, Place, PlanError, ReassignError,
    RotateError, Rotated, Rotation,
};

/// Clients, their keys, plans and standing, and what is held against them.
#[async_trait]
pub trait Accounts: Blocks {
    /// Registers a key never seen before, or notes what a known client brought along; a new tunnel key becomes a change of
    /// all its networks, which the outbox announces.
    async fn login(&self, login: Login, at: UnixMillis) -> Result<LoggedIn, LoginError>;

    /// Gives a client other keys, as a change of all its networks, which the outbox announces. The caller checked the signatures.
    async fn rotate(&self, rotation: Rotation, at: UnixMillis) -> Result<Rotated, RotateError>;

    /// All identity keys of `client`; `None` when it is not registered.
    async fn lineage(&self, client: ClientId) -> Result<Option<Lineage>, Error>;

    /// Identity keys that were given up at `since` or later, newest first.
    async fn given_up_since(&self, since: UnixMillis, limit: u16) -> Result<Vec<GivenUp>, Error>;

    /// Puts `client` on another plan. Nothing is taken away from it: limits count for what comes next.
    async fn assign_plan(&self, client: ClientId, plan: &str) -> Result<(), UnknownPlan>;

    /// Lets `client` log in, or no more.
    async fn set_standing(&self, client: ClientId, standing: Standing) -> Result<(), Error>;

    /// The plan of `client`; `None` when it is not registered.
    async fn plan_of(&self, client: ClientId) -> Result<Option<Plan>, Error>;

    /// All plans, by name.
    async fn plans(&self) -> Result<Vec<Plan>, Error>;

    /// Makes a plan.
    async fn make_plan(&self, plan: Plan) -> Result<(), PlanError>;

    /// Puts `plan` in the place of `expected`, which has the same name, and is still what it was.
    async fn change_plan(&self, expected: Plan, plan: Plan) -> Result<(), PlanError>;

    /// Who would lose a seat if this plan allowed so many members.
    async fn seats_lost_by_plan(&self, plan: &str, members: u32) -> Result<SeatsLost, Error>;

    /// Drops a plan that is still what it was, and that nobody has.
    async fn drop_plan(&self, expected: Plan) -> Result<(), PlanError>;

    /// Puts `client` on another plan, if it is still on `expected`; `None`: whatever it is on.
    async fn reassign_plan(&self, client: ClientId, expected: Option<&str>, plan: &str) -> Result<(), ReassignError>;

    /// A page of clients.
    async fn find_clients(
        &self,
        search: ClientSearch,
        after: Option<Place<ClientId>>,
        limit: u16,
    ) -> Result<FoundClients, Error>;

    /// What was relayed for `payer`, newest month first; also for an account, by its id, all its machines together.
    async fn usage_of(&self, payer: PayerId, limit: u16) -> Result<Vec<MonthUsage>, Error>;

    /// A page of what was relayed in `month`, by payer.
    async fn usage_in(&self, month: Month, after: Option<PayerId>, limit: u16) -> Result<Vec<MonthUsage>, Error>;

    /// Counts what a relay reports, once however often it arrives, and says how far the relay may go.
    async fn settle_relay(&self, report: RelayReport, at: UnixMillis) -> Result<RelayGrant, SettleError>;

    /// Bytes that were relayed for `payer` in `month`, as far as they were reported.
    async fn relayed(&self, payer: PayerId, month: Month) -> Result<u64, Error>;

    /// Bytes that were relayed for the machines of `account` in `month` while they belonged to it, as far as they were reported.
    async fn relayed_on(&self, account: AccountId, month: Month) -> Result<u64, Error>;

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
    /// Whose key it is, which has to be said when it is not the first: then no client is made for it.
    pub client: Option<ClientId>,
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
