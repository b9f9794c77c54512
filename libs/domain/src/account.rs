//! Accounts: people who share a plan, clients and networks. What each may do is the one table here.

use minicbor::{Decode, Encode};

use crate::{
    AccountId, ClientId, EmailAddress, NetworkId, NetworkName, Nickname, PersonId, Role, UnixMillis,
    role::{Reach, permits},
};

/// People of one account, those who are invited included.
pub const MAX_ACCOUNT_PEOPLE: u32 = 64;

/// Months whose relayed bytes an account shows.
pub const MAX_ACCOUNT_MONTHS: u16 = 12;

/// What can be done to an account or to somebody in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountAction {
    /// See its plan, people, clients and networks.
    See,
    /// Invite somebody as a member or admin: the target is who that will be.
    Invite,
    /// Make a member an admin, or an admin a member.
    SetRole,
    Remove,
    /// Go: what everybody but the owner may.
    Leave,
    /// Make somebody else the owner.
    Transfer,
    /// Let a client prove itself and become part of the account.
    AttachClient,
    DetachClient,
    AttachNetwork,
    DetachNetwork,
    /// Get everything that is kept about the account.
    Export,
    Erase,
}

impl AccountAction {
    /// Every action.
    pub const ALL: [Self; 12] = [
        Self::See,
        Self::Invite,
        Self::SetRole,
        Self::Remove,
        Self::Leave,
        Self::Transfer,
        Self::AttachClient,
        Self::DetachClient,
        Self::AttachNetwork,
        Self::DetachNetwork,
        Self::Export,
        Self::Erase,
    ];

    const fn rule(self) -> (Role, Reach) {
        match self {
            Self::See | Self::Leave | Self::AttachClient => (Role::Member, Reach::Anybody),
            Self::Invite | Self::Remove => (Role::Admin, Reach::Below),
            Self::DetachClient => (Role::Admin, Reach::Anybody),
            Self::SetRole | Self::Transfer => (Role::Owner, Reach::Below),
            Self::AttachNetwork | Self::DetachNetwork | Self::Export | Self::Erase => (Role::Owner, Reach::Anybody),
        }
    }
}

/// Whether a person with the role `actor` may do `action` to a person with the role `target`; `None` is the account itself.
#[must_use]
pub fn may_in_account(actor: Role, action: AccountAction, target: Option<Role>) -> bool {
    let stays = matches!(action, AccountAction::Leave) && actor == Role::Owner;
    permits(action.rule(), actor, target) && !stays
}

/// What a person orders for an account.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum AccountOrder {
    /// Mail an invitation.
    #[n(0)]
    Invite {
        #[n(0)]
        email: EmailAddress,
        /// Member or admin.
        #[n(1)]
        role: Role,
    },
    #[n(1)]
    Remove(#[n(0)] PersonId),
    #[n(2)]
    SetRole {
        #[n(0)]
        person: PersonId,
        /// Member or admin.
        #[n(1)]
        role: Role,
    },
    /// The old owner becomes an admin.
    #[n(3)]
    Transfer(#[n(0)] PersonId),
    #[n(4)]
    Leave,
    /// Make a code for one client.
    #[n(5)]
    MakeCode,
    #[n(6)]
    DetachClient(#[n(0)] ClientId),
    /// A network that belongs to a client of the account.
    #[n(7)]
    AttachNetwork(#[n(0)] NetworkId),
    #[n(8)]
    DetachNetwork(#[n(0)] NetworkId),
    /// Take an invitation back.
    #[n(9)]
    Uninvite(#[n(0)] EmailAddress),
}

impl AccountOrder {
    /// What is done by it.
    #[must_use]
    pub const fn action(&self) -> AccountAction {
        match self {
            Self::Invite { .. } | Self::Uninvite(_) => AccountAction::Invite,
            Self::Remove(_) => AccountAction::Remove,
            Self::SetRole { .. } => AccountAction::SetRole,
            Self::Transfer(_) => AccountAction::Transfer,
            Self::Leave => AccountAction::Leave,
            Self::MakeCode => AccountAction::AttachClient,
            Self::DetachClient(_) => AccountAction::DetachClient,
            Self::AttachNetwork(_) => AccountAction::AttachNetwork,
            Self::DetachNetwork(_) => AccountAction::DetachNetwork,
        }
    }

    /// The person it is about.
    #[must_use]
    pub const fn target(&self) -> Option<PersonId> {
        match self {
            Self::Remove(person) | Self::SetRole { person, .. } | Self::Transfer(person) => Some(*person),
            Self::Invite { .. }
            | Self::Uninvite(_)
            | Self::Leave
            | Self::MakeCode
            | Self::DetachClient(_)
            | Self::AttachNetwork(_)
            | Self::DetachNetwork(_) => None,
        }
    }
}

/// An account as its people see it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
pub struct AccountView {
    #[n(0)]
    pub account: AccountId,
    #[n(1)]
    pub plan: String,
    /// Its people may only look; its clients have the plan of those without an account.
    #[n(2)]
    pub suspended: bool,
    #[n(3)]
    #[serde(rename = "made_unix_ms")]
    pub made: UnixMillis,
    /// Oldest first.
    #[n(4)]
    pub people: Vec<AccountPerson>,
    #[n(5)]
    pub invitations: Vec<AccountInvitation>,
    #[n(6)]
    pub clients: Vec<AccountClient>,
    #[n(7)]
    pub networks: Vec<AccountNetwork>,
    /// What the plan allows.
    #[n(8)]
    #[cbor(default)]
    pub limits: AccountLimits,
    /// What was relayed for all of its clients, newest month first, at most [`MAX_ACCOUNT_MONTHS`].
    #[n(9)]
    #[cbor(default)]
    pub relayed: Vec<AccountMonth>,
}

/// What the plan of an account allows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
pub struct AccountLimits {
    #[n(0)]
    pub clients: u32,
    /// Of a network that a client of the account owns, its owner included.
    #[n(1)]
    pub members_per_network: u32,
    #[n(2)]
    pub networks_per_client: u32,
    /// For one pair; `None`: no limit.
    #[n(3)]
    pub relay_bytes_per_second: Option<u64>,
    /// `None`: no limit.
    #[n(4)]
    pub relay_bytes_per_month: Option<u64>,
}

/// What was relayed for an account in a calendar month.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
pub struct AccountMonth {
    /// Twelve times the year plus the months before this one.
    #[n(0)]
    pub month: u32,
    #[n(1)]
    pub bytes: u64,
}

/// Somebody in an account.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
pub struct AccountPerson {
    #[n(0)]
    pub person: PersonId,
    #[n(1)]
    pub email: EmailAddress,
    #[n(2)]
    pub role: Role,
    #[n(3)]
    #[serde(rename = "since_unix_ms")]
    pub since: UnixMillis,
    /// Has a password.
    #[n(4)]
    pub password: bool,
    /// Who vouches for the person's identity, when that is a provider.
    #[n(5)]
    pub provider: Option<String>,
}

/// An invitation that was not accepted yet.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
pub struct AccountInvitation {
    #[n(0)]
    pub email: EmailAddress,
    #[n(1)]
    pub role: Role,
    #[n(2)]
    #[serde(rename = "expires_unix_ms")]
    pub expires: UnixMillis,
}

/// A client of an account.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
pub struct AccountClient {
    #[n(0)]
    pub client: ClientId,
    #[n(1)]
    pub nick: Option<Nickname>,
    #[n(2)]
    #[serde(rename = "registered_unix_ms")]
    pub registered: UnixMillis,
    #[n(3)]
    #[serde(rename = "seen_unix_ms")]
    pub seen: UnixMillis,
}

/// Where a client belongs.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
pub struct ClientAccount {
    #[n(0)]
    pub account: AccountId,
    #[n(1)]
    pub plan: String,
}

/// A network that a client of the account owns or is a member of.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
pub struct AccountNetwork {
    #[n(0)]
    pub network: NetworkId,
    #[n(1)]
    pub name: NetworkName,
    #[n(2)]
    pub owner: ClientId,
    #[n(3)]
    pub members: u32,
    #[n(4)]
    pub seats: u32,
    /// Attached: it belongs to the account, not only to one of its clients.
    #[n(5)]
    pub attached: bool,
    /// The client of the account whose eyes it is seen with.
    #[n(6)]
    pub seen_by: ClientId,
    /// Whether that client waits for approval.
    #[n(7)]
    pub awaiting: bool,
}

/// Everything that is kept about an account.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
pub struct AccountExport {
    #[n(0)]
    pub account: AccountView,
    #[n(1)]
    pub sessions: Vec<AccountSession>,
    #[n(2)]
    pub relayed: Vec<AccountRelayed>,
}

/// A session of somebody in the account. The token itself is not kept.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
pub struct AccountSession {
    #[n(0)]
    pub person: PersonId,
    #[n(1)]
    #[serde(rename = "made_unix_ms")]
    pub made: UnixMillis,
    #[n(2)]
    #[serde(rename = "expires_unix_ms")]
    pub expires: UnixMillis,
}

/// What was relayed for a client in a calendar month.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
pub struct AccountRelayed {
    #[n(0)]
    pub client: ClientId,
    /// Twelve times the year plus the months before this one.
    #[n(1)]
    pub month: u32,
    #[n(2)]
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Action by action: may a member, an admin, the owner do it to nobody in particular, a member, an admin, the owner.
    const TABLE: &[(AccountAction, [[bool; 4]; 3])] = &[
        (AccountAction::See, [YES, YES, YES]),
        (AccountAction::Invite, [NO, [true, true, false, false], [true, true, true, false]]),
        (AccountAction::SetRole, [NO, NO, [true, true, true, false]]),
        (AccountAction::Remove, [NO, [true, true, false, false], [true, true, true, false]]),
        (AccountAction::Leave, [YES, YES, NO]),
        (AccountAction::Transfer, [NO, NO, [true, true, true, false]]),
        (AccountAction::AttachClient, [YES, YES, YES]),
        (AccountAction::DetachClient, [NO, YES, YES]),
        (AccountAction::AttachNetwork, [NO, NO, YES]),
        (AccountAction::DetachNetwork, [NO, NO, YES]),
        (AccountAction::Export, [NO, NO, YES]),
        (AccountAction::Erase, [NO, NO, YES]),
    ];
    const YES: [bool; 4] = [true; 4];
    const NO: [bool; 4] = [false; 4];

    #[test]
    fn who_may_do_what_to_whom_in_an_account() {
        assert_eq!(TABLE.iter().map(|(action, _)| *action).collect::<Vec<_>>(), AccountAction::ALL);
        for (action, expected) in TABLE {
            let targets = [None, Some(Role::Member), Some(Role::Admin), Some(Role::Owner)];
            let found = [Role::Member, Role::Admin, Role::Owner]
                .map(|actor| targets.map(|target| may_in_account(actor, *action, target)));
            assert_eq!(found, *expected, "{action:?}");
        }
    }
}
