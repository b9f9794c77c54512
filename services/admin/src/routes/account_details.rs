//! An account as operators see it whole.

use domain::{
    AccountId, AccountLimits, AccountView, ClientId, EmailAddress, Month, NetworkId, NetworkName, Nickname, PersonId,
    Role, UnixMillis,
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::schema::Id;

/// An account with its people, clients and networks.
#[derive(Serialize, ToSchema)]
pub(super) struct AccountDetails {
    #[schema(value_type = Id)]
    account: AccountId,
    plan: String,
    /// Its people may only look, and its clients have the plan of those without an account.
    suspended: bool,
    #[schema(value_type = u64)]
    made_ms: UnixMillis,
    limits: AccountAllowance,
    /// Oldest first.
    people: Vec<AccountMember>,
    invitations: Vec<AccountInvitation>,
    clients: Vec<AccountClient>,
    networks: Vec<AccountNetwork>,
    /// What was relayed for all of its clients, newest month first.
    relayed: Vec<AccountMonth>,
}

/// What the plan of an account allows.
#[derive(Serialize, ToSchema)]
struct AccountAllowance {
    clients: u32,
    /// Of a network that a client of the account owns, its owner included.
    members_per_network: u32,
    networks_per_client: u32,
    /// For one pair; `null`: no limit.
    relay_bytes_per_second: Option<u64>,
    /// `null`: no limit.
    relay_bytes_per_month: Option<u64>,
}

/// Somebody in an account.
#[derive(Serialize, ToSchema)]
struct AccountMember {
    #[schema(value_type = Id)]
    person: PersonId,
    #[schema(value_type = String)]
    email: EmailAddress,
    /// `owner`, `admin` or `member`.
    #[schema(value_type = String)]
    role: Role,
    #[schema(value_type = u64)]
    since_ms: UnixMillis,
    /// Logs in with a password.
    password: bool,
    /// The OpenID provider that vouches for the person, if one does.
    provider: Option<String>,
}

/// An invitation to an account that was not accepted yet.
#[derive(Serialize, ToSchema)]
struct AccountInvitation {
    #[schema(value_type = String)]
    email: EmailAddress,
    /// `admin` or `member`.
    #[schema(value_type = String)]
    role: Role,
    #[schema(value_type = u64)]
    expires_ms: UnixMillis,
}

/// A client of an account.
#[derive(Serialize, ToSchema)]
struct AccountClient {
    #[schema(value_type = Id)]
    client: ClientId,
    #[schema(value_type = Option<String>)]
    nick: Option<Nickname>,
    #[schema(value_type = u64)]
    registered_ms: UnixMillis,
    /// The last login or change.
    #[schema(value_type = u64)]
    seen_ms: UnixMillis,
}

/// A network that clients of an account are in.
#[derive(Serialize, ToSchema)]
struct AccountNetwork {
    #[schema(value_type = Id)]
    network: NetworkId,
    #[schema(value_type = String)]
    name: NetworkName,
    /// The client that owns it.
    #[schema(value_type = Id)]
    owner: ClientId,
    members: u32,
    seats: u32,
    /// It belongs to the account, not only to one of its clients.
    attached: bool,
    /// The client of the account that is there waits for approval.
    awaiting: bool,
}

/// What was relayed for an account in a month.
#[derive(Serialize, ToSchema)]
struct AccountMonth {
    /// In UTC, like `2026-11`.
    month: String,
    bytes: u64,
}

impl From<AccountView> for AccountDetails {
    fn from(view: AccountView) -> Self {
        Self {
            account: view.account,
            plan: view.plan,
            suspended: view.suspended,
            made_ms: view.made,
            limits: view.limits.into(),
            people: view.people.into_iter().map(AccountMember::from).collect(),
            invitations: view.invitations.into_iter().map(AccountInvitation::from).collect(),
            clients: view.clients.into_iter().map(AccountClient::from).collect(),
            networks: view.networks.into_iter().map(AccountNetwork::from).collect(),
            relayed: view.relayed.into_iter().map(AccountMonth::from).collect(),
        }
    }
}

impl From<AccountLimits> for AccountAllowance {
    fn from(limits: AccountLimits) -> Self {
        Self {
            clients: limits.clients,
            members_per_network: limits.members_per_network,
            networks_per_client: limits.networks_per_client,
            relay_bytes_per_second: limits.relay_bytes_per_second,
            relay_bytes_per_month: limits.relay_bytes_per_month,
        }
    }
}

impl From<domain::AccountPerson> for AccountMember {
    fn from(one: domain::AccountPerson) -> Self {
        Self {
            person: one.person,
            email: one.email,
            role: one.role,
            since_ms: one.since,
            password: one.password,
            provider: one.provider,
        }
    }
}

impl From<domain::AccountInvitation> for AccountInvitation {
    fn from(one: domain::AccountInvitation) -> Self {
        Self { email: one.email, role: one.role, expires_ms: one.expires }
    }
}

impl From<domain::AccountClient> for AccountClient {
    fn from(one: domain::AccountClient) -> Self {
        Self { client: one.client, nick: one.nick, registered_ms: one.registered, seen_ms: one.seen }
    }
}

impl From<domain::AccountNetwork> for AccountNetwork {
    fn from(one: domain::AccountNetwork) -> Self {
        Self {
            network: one.network,
            name: one.name,
            owner: one.owner,
            members: one.members,
            seats: one.seats,
            attached: one.attached,
            awaiting: one.awaiting,
        }
    }
}

impl From<domain::AccountMonth> for AccountMonth {
    fn from(one: domain::AccountMonth) -> Self {
        Self { month: Month::from_number(one.month).to_string(), bytes: one.bytes }
    }
}
