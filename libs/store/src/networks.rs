//! Networks, their members, and how often one may guess.

use std::time::Duration;

use async_trait::async_trait;
use domain::{
    Admissions, Bandwidth, BlockNotice, ClientId, Holder, InviteId, KnownNetwork, NetworkChange, NetworkId,
    NetworkKind, NetworkName, NetworkOrder, NewSecret, Nickname, PayerId, Plan, Removals, Revision, Role, Seal,
    SecretEpoch, SecretProof, UnixMillis, VirtualAddresses,
};

use crate::{Error, FoundNetworks, GovernError, NetworkDetails, NetworkMember, Place};

/// Networks and their members.
///
/// Every change names the members to be told, and stays in the outbox until [`Networks::announced`] says they were.
#[async_trait]
pub trait Networks: Send + Sync {
    /// Makes a network with its owner as the first member. Repeated with the same password record, it gives the same answer.
    async fn create(&self, network: NewNetwork, at: UnixMillis) -> Result<Joined, CreateError>;

    /// Adds `client` and gives it an address if it has none; or, where approval is asked for, makes it an applicant. Repeated
    /// with the same `request`, it gives the same answer.
    async fn join(
        &self,
        network: NetworkId,
        client: ClientId,
        request: [u8; 16],
        at: UnixMillis,
    ) -> Result<Admission, JoinError>;

    /// Joins as [`Networks::join`] does. Whoever is admitted by it has the attempt back that was taken out of `spent` at `taken`,
    /// once; after a refusal the caller calls [`Networks::forgive`].
    async fn join_by_password(
        &self,
        network: NetworkId,
        client: ClientId,
        request: [u8; 16],
        spent: &[Budget],
        taken: UnixMillis,
        at: UnixMillis,
    ) -> Result<Admission, JoinError>;

    /// Adds `client` as [`Networks::join`] does, by one use of an invite: never by more than it has. Approval is not asked for;
    /// the secret is the one sealed for the invite. What is refused uses nothing up.
    async fn redeem(
        &self,
        invite: InviteId,
        client: ClientId,
        request: [u8; 16],
        at: UnixMillis,
    ) -> Result<Joined, JoinError>;

    /// Carries out what `client` orders, if it may (see [`domain::may`]). A deleted network stays until
    /// [`Networks::announced`].
    async fn carry_out(
        &self,
        network: NetworkId,
        client: ClientId,
        order: NetworkOrder,
        at: UnixMillis,
    ) -> Result<Announcement, OrderError>;

    /// Who waits, who is banned, and what invites there are, for members who may see that.
    async fn admissions(&self, network: NetworkId, client: ClientId, at: UnixMillis) -> Result<Admissions, OrderError>;

    /// What `client` may have to open `network` with.
    async fn keys(&self, network: NetworkId, client: ClientId) -> Result<KeyHolder, Error>;

    /// What a password that opens the secret of `epoch` is registered under.
    fn credential(&self, network: NetworkId, epoch: SecretEpoch) -> String;

    /// Makes a newer secret the newest: of two who make the same epoch the first wins, and somebody who was removed after the
    /// maker looked makes it start again. With a new password the door moves along, and invites end.
    async fn renew_secret(
        &self,
        network: NetworkId,
        client: ClientId,
        new: NewSecret,
        at: UnixMillis,
    ) -> Result<Announcement, OrderError>;

    /// Keeps the newest secret for members who lack it. What is for others is dropped.
    async fn hand_secret(
        &self,
        network: NetworkId,
        client: ClientId,
        epoch: SecretEpoch,
        seals: Vec<Seal>,
        at: UnixMillis,
    ) -> Result<Announcement, OrderError>;

    /// At most `limit` members after `after`, by id, and which secrets they proved to have; for members who may renew it.
    async fn holders(
        &self,
        network: NetworkId,
        client: ClientId,
        after: Option<ClientId>,
        limit: u16,
    ) -> Result<Vec<Holder>, OrderError>;

    /// What lies there sealed for `client`, if something does; `None` when it is no member.
    async fn sealed(&self, network: NetworkId, client: ClientId) -> Result<Option<Option<Seal>>, Error>;

    /// Notes that `client` has a secret. There is something to announce when it lacks the newest.
    async fn prove(
        &self,
        network: NetworkId,
        client: ClientId,
        epoch: SecretEpoch,
        proof: SecretProof,
        at: UnixMillis,
    ) -> Result<Option<Announcement>, LeaveError>;

    /// Removes `client`. A departing owner hands over to the oldest admin, or else the oldest member; the last one takes the network along, and then
    /// there is nothing to announce.
    async fn leave(
        &self,
        network: NetworkId,
        client: ClientId,
        at: UnixMillis,
    ) -> Result<Option<Announcement>, LeaveError>;

    /// Renames `client` in all its networks.
    async fn set_nick(&self, client: ClientId, nick: Nickname, at: UnixMillis) -> Result<Vec<Announcement>, Error>;

    /// Whether a network can be made that has this name: none has it, or one that looks like it, nor had it when its password
    /// was made.
    async fn is_free(&self, name: &NetworkName) -> Result<bool, Error>;

    /// What changed after `revision`, or the whole network when that is not known any more; `None` when `client` is not a
    /// member.
    async fn changes_since(
        &self,
        network: NetworkId,
        client: ClientId,
        revision: Revision,
    ) -> Result<Option<NetworkChange>, Error>;

    /// All networks of `client`: all their members, and those who left since the revisions in `known`.
    async fn snapshot(&self, client: ClientId, known: &[KnownNetwork]) -> Result<Snapshot, Error>;

    /// Who is a member of `network` no more, as of its newest revision and `at`; `None` when there is no such network.
    async fn removals(&self, network: NetworkId, at: UnixMillis) -> Result<Option<Removals>, Error>;

    /// The same, if `client` is a member who has a seat.
    async fn membership(&self, network: NetworkId, client: ClientId, at: UnixMillis) -> Result<Proven, Error>;

    /// At most `limit` networks whose seats are to be dealt out anew, because the plan of their owner is another one or allows
    /// another number of members.
    async fn reseatings(&self, limit: u16) -> Result<Vec<NetworkId>, Error>;

    /// Deals out the seats of such a network ([`domain::seated`]); `None` when that changes nothing.
    async fn reseat(&self, network: NetworkId, at: UnixMillis) -> Result<Option<Announcement>, Error>;

    /// Everybody who shares a network with `client`, by id.
    async fn peers(&self, client: ClientId) -> Result<Vec<Peer>, Error>;

    /// What a pair may use together; `None` when they share no network. It is the plan with the lower relay rate of the
    /// two, or that of the best owner among the networks they share if it is better. Whose plan it is pays: the owner for
    /// both, or each of the two for what it sends itself, so that nobody spends the quota of another by sending to it.
    async fn pair_plan(&self, a: ClientId, b: ClientId) -> Result<Option<PairPlan>, Error>;

    /// Takes one attempt out of every budget, or none if one is empty; at most one budget of each kind. Call before the attempt, and
    /// [`Networks::forgive`] after a success: then no number of concurrent attempts exceeds a limit.
    async fn guess(&self, budgets: &[Budget], at: UnixMillis) -> Result<Guess, Error>;

    /// [`Networks::guess`], and what is needed to check a password for the network that has this name, or one that looks like it:
    /// nothing also where no attempt is left.
    async fn guess_password(
        &self,
        name: &NetworkName,
        budgets: &[Budget],
        at: UnixMillis,
    ) -> Result<(Guess, Option<PasswordRecord>), Error>;

    /// Gives back the attempt that was taken at `taken`.
    async fn forgive(&self, budgets: &[Budget], taken: UnixMillis) -> Result<(), Error>;

    /// Forgets budgets whose window has ended; returns how many.
    async fn prune_budgets(&self, at: UnixMillis) -> Result<u64, Error>;

    /// Changes before `before` that members were not told yet, oldest first.
    async fn unannounced(&self, before: UnixMillis, limit: u16) -> Result<Vec<Announcement>, Error>;

    /// Members of these networks were told everything up to these revisions. Done twice it is the same.
    async fn announced(&self, told: &[(NetworkId, Revision)]) -> Result<(), Error>;

    /// A page of networks by id, for operators.
    async fn list(&self, after: Option<NetworkId>, limit: u16) -> Result<Vec<NetworkSummary>, Error>;

    /// Everything but the members of a network, for operators.
    async fn show(&self, network: NetworkId, at: UnixMillis) -> Result<Option<NetworkDetails>, Error>;

    /// A page of the members of a network, by id, for operators.
    async fn members(
        &self,
        network: NetworkId,
        after: Option<ClientId>,
        limit: u16,
    ) -> Result<Vec<NetworkMember>, Error>;

    /// The networks of `client`, by id, and what it is in them.
    async fn networks_of(&self, client: ClientId) -> Result<Vec<(NetworkSummary, Role)>, Error>;

    /// Carries out what an operator orders in the place of the network's owner, if the network still has the revision
    /// `expected`. The owner itself cannot be removed: there is always one.
    async fn govern(
        &self,
        network: NetworkId,
        order: NetworkOrder,
        expected: Option<Revision>,
        at: UnixMillis,
    ) -> Result<Announcement, GovernError>;

    /// A page of networks whose names' keys begin with `prefix`, by name.
    async fn find(&self, prefix: String, after: Option<Place<NetworkId>>, limit: u16) -> Result<FoundNetworks, Error>;
}

/// A network to be made.
#[derive(Clone, PartialEq, Eq)]
pub struct NewNetwork {
    pub name: NetworkName,
    pub owner: ClientId,
    /// An OPAQUE registration record.
    pub password: Vec<u8>,
    /// The network secret, sealed under the export key.
    pub wrapped_secret: Vec<u8>,
}

impl std::fmt::Debug for NewNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewNetwork").field("owner", &self.owner).finish_non_exhaustive()
    }
}

/// What a password for a network is checked with.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordRecord {
    pub network: NetworkId,
    /// An OPAQUE registration record.
    pub password: Vec<u8>,
    /// What it was registered under: the key of the network's name at that time.
    pub credential: String,
}

impl std::fmt::Debug for PasswordRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PasswordRecord").field("network", &self.network).finish_non_exhaustive()
    }
}

/// A change and the members to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    pub change: NetworkChange,
    /// All members, by id.
    pub to: Vec<ClientId>,
    /// Those who got a seat by it, as far as that is known: they meet the others from now on.
    pub seated: Vec<ClientId>,
}

/// What somebody can prove to be in a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proven {
    Member(Removals),
    /// A member that meets nobody at the moment.
    Unseated,
    Stranger,
}

/// What a join led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    Joined(Box<Joined>),
    /// The client is an applicant now. The members are told that one more waits.
    Awaiting {
        name: NetworkName,
        announcement: Announcement,
    },
}

/// What somebody has to do with the keys of a network.
#[derive(Clone, PartialEq, Eq)]
pub enum KeyHolder {
    Member { wrapped_secret: Vec<u8>, door: SecretEpoch },
    Applicant,
    Stranger,
}

impl std::fmt::Debug for KeyHolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Member { .. } => "Member",
            Self::Applicant => "Applicant",
            Self::Stranger => "Stranger",
        })
    }
}

/// A client has become a member.
#[derive(Clone, PartialEq, Eq)]
pub struct Joined {
    pub addresses: VirtualAddresses,
    pub wrapped_secret: Vec<u8>,
    /// The whole network.
    pub whole: NetworkChange,
    /// For the other members.
    pub announcement: Announcement,
}

impl std::fmt::Debug for Joined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Joined").field("network", &self.whole.network).finish_non_exhaustive()
    }
}

/// The networks of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub addresses: VirtualAddresses,
    /// By id.
    pub networks: Vec<NetworkChange>,
}

/// Somebody in a common network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub client: ClientId,
    /// The relay rate of the pair, see [`Networks::pair_plan`].
    pub relay_rate: Bandwidth,
    /// Who pays for what the one who asked sends, and for what the peer sends.
    pub payers: [PayerId; 2],
}

/// The terms of a pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairPlan {
    pub plan: Plan,
    /// Who pays for what each of the two sends, in their order.
    pub payers: [PayerId; 2],
}

/// A network as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSummary {
    pub network: NetworkId,
    pub name: NetworkName,
    pub owner: ClientId,
    pub members: u32,
    pub seats: u32,
    pub revision: Revision,
    pub created: UnixMillis,
    pub kind: NetworkKind,
}

/// What attempts are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BudgetKind {
    /// Passwords tried on one network, whoever tries; the key is derived from its name, existing or not.
    Network = 0,
    /// Passwords tried by one client.
    Client = 1,
    /// Passwords tried from one source prefix.
    Source = 2,
    /// Nicknames taken by one client.
    Rename = 3,
    /// Networks made, or tried to be, by one client.
    Creation = 4,
    /// Networks made, or tried to be, from one source prefix.
    CreationSource = 5,
    /// Orders given by one client.
    Order = 6,
    /// Passwords of people tried for one e-mail address; the key is derived from it, known or not.
    Person = 7,
    /// Passwords of people tried from one source prefix.
    PersonSource = 8,
    /// Mails to one address.
    Mail = 9,
    /// Mails that one source prefix asks for.
    MailSource = 10,
    /// Codes shown by one client to become part of an account.
    Attach = 11,
    /// Passwords tried from one source prefix and its neighbours.
    Neighbours = 12,
    /// Networks made, or tried to be, from one source prefix and its neighbours.
    CreationNeighbours = 13,
}

impl BudgetKind {
    /// Every kind, in the order of the numbers.
    pub const ALL: [Self; 14] = [
        Self::Network,
        Self::Client,
        Self::Source,
        Self::Rename,
        Self::Creation,
        Self::CreationSource,
        Self::Order,
        Self::Person,
        Self::PersonSource,
        Self::Mail,
        Self::MailSource,
        Self::Attach,
        Self::Neighbours,
        Self::CreationNeighbours,
    ];
}

/// So many attempts in so much time, counted from the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    pub kind: BudgetKind,
    pub key: [u8; 16],
    pub limit: u32,
    pub window: Duration,
}

/// Whether an attempt may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guess {
    Allowed,
    /// A budget is empty for so long.
    Exhausted {
        retry_after: Duration,
    },
}

/// Why a network was not made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    #[error("a network of this or a confusable name exists")]
    NameTaken,
    #[error("the plan allows {networks} networks")]
    PlanLimit { networks: u32 },
    #[error("storage failed")]
    Store(#[from] Error),
}

/// Why a client did not become a member.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("the network is full: {seats} seats")]
    Full { seats: u32 },
    #[error("the client is a member already")]
    AlreadyMember,
    #[error("the plan allows {networks} networks")]
    PlanLimit { networks: u32 },
    #[error("the network is gone")]
    Gone,
    #[error("the client is banned from the network")]
    Banned,
    #[error("the network is locked")]
    Locked,
    #[error("too many wait for approval")]
    TooManyApplicants,
    #[error("an operator lets nobody join the network")]
    Blocked { notice: Box<BlockNotice> },
    #[error("an operator lets clients join the network one at a time")]
    Slowed { notice: Box<BlockNotice>, retry_after: Duration },
    #[error("there is no such invite")]
    InviteUnknown,
    #[error("the invite has expired")]
    InviteExpired,
    #[error("the invite is used up")]
    InviteUsedUp,
    #[error("storage failed")]
    Store(#[from] Error),
}

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    #[error("who orders is not a member")]
    NotAMember,
    #[error("the role does not allow it")]
    NotPermitted,
    #[error("whom it is about is not there")]
    MemberUnknown,
    #[error("there is no such invite")]
    InviteUnknown,
    #[error("something is out of its bounds")]
    Invalid,
    #[error("a network of this or a confusable name exists")]
    NameTaken,
    #[error("there are {limit} already")]
    LimitReached { limit: u32 },
    #[error("the network is full: {seats} seats")]
    Full { seats: u32 },
    #[error("the plan of the new member allows {networks} networks")]
    PlanLimit { networks: u32 },
    #[error("the secret or the members changed meanwhile")]
    SecretPassed,
    #[error("the network has no gateways")]
    NoGateways,
    #[error("the prefixes cannot be a member's")]
    Routes(#[from] domain::RouteError),
    #[error("storage failed")]
    Store(#[from] Error),
}

/// Why a client did not leave.
#[derive(Debug, thiserror::Error)]
pub enum LeaveError {
    #[error("the client is not a member")]
    NotAMember,
    #[error("storage failed")]
    Store(#[from] Error),
}

/// Lets `?` take a failed statement in a use case with its own errors.
macro_rules! from_database {
    ($($error:ty),+) => {
        $(impl From<sqlx::Error> for $error {
            fn from(error: sqlx::Error) -> Self {
                Self::Store(error.into())
            }
        })+
    };
}
from_database!(
    CreateError,
    JoinError,
    LeaveError,
    OrderError,
    crate::UnknownPlan,
    crate::MakeTokenError,
    crate::MakeWebhookError,
    crate::ChangeWebhookError,
    crate::PlanError,
    crate::ReassignError,
    crate::AccountError,
    crate::AttachError,
    crate::ProviderError
);
