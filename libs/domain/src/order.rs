//! What owners and admins order, and what they are shown.

use minicbor::{Decode, Encode};

use crate::{Action, ClientId, Invite, InviteId, NetworkKind, NetworkName, NewInvite, Nickname, Prefix, UnixMillis};

/// Something to be done to a network or to somebody in it, by a member who [may](crate::may).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum NetworkOrder {
    /// Removes a member, who may come back.
    #[n(0)]
    Evict(#[n(0)] ClientId),
    /// Removes a client, and keeps it from coming back.
    #[n(1)]
    Ban(#[n(0)] ClientId),
    #[n(2)]
    Unban(#[n(0)] ClientId),
    /// Makes a member an admin.
    #[n(3)]
    Promote(#[n(0)] ClientId),
    /// Makes an admin a plain member.
    #[n(4)]
    Demote(#[n(0)] ClientId),
    /// Makes a member the owner; the owner becomes an admin.
    #[n(5)]
    Transfer(#[n(0)] ClientId),
    /// Nobody joins any more, password or not.
    #[n(6)]
    Lock,
    #[n(7)]
    Unlock,
    #[n(8)]
    Rename(#[n(0)] NetworkName),
    /// For all its members.
    #[n(9)]
    Delete,
    /// Who knows the password becomes an applicant from now on.
    #[n(10)]
    AskApproval,
    /// Who knows the password is in from now on. Applicants stay what they are.
    #[n(11)]
    WaiveApproval,
    /// Makes an applicant a member.
    #[n(12)]
    Approve(#[n(0)] ClientId),
    /// Sends an applicant away, who may ask again.
    #[n(13)]
    Reject(#[n(0)] ClientId),
    /// Makes an invite, which also stands for an approval.
    #[n(14)]
    Invite(#[n(0)] NewInvite),
    #[n(15)]
    Revoke(#[n(0)] InviteId),
    /// Makes a member a hub: it meets everybody.
    #[n(16)]
    Hub(#[n(0)] ClientId),
    /// Makes a member a spoke again.
    #[n(17)]
    Spoke(#[n(0)] ClientId),
    /// Says which members meet. In a network of hubs and spokes its owner is a hub from then on.
    #[n(18)]
    SetKind(#[n(0)] NetworkKind),
    /// Makes these the prefixes that a member leads the others to, in a network of the kind [`NetworkKind::Gateway`]; without
    /// any it is an ordinary member again. Of those that it had before it has agreed to what it had agreed to.
    #[n(19)]
    Route(#[n(0)] ClientId, #[n(1)] Vec<Prefix>),
    /// Of whoever orders it: the prefixes among its own that its machine leads to, and no others.
    #[n(20)]
    Agree(#[n(0)] Vec<Prefix>),
    /// Has a member stay seated before others when the plan allows fewer members than there are ([`seated`](crate::seated)).
    #[n(28)]
    Keep(#[n(0)] ClientId),
    /// Has a member take its turn like all others.
    #[n(29)]
    Unkeep(#[n(0)] ClientId),
}

impl NetworkOrder {
    /// What the table of permissions calls it.
    #[must_use]
    pub const fn action(&self) -> Action {
        match self {
            Self::Evict(_) => Action::Evict,
            Self::Ban(_) => Action::Ban,
            Self::Unban(_) => Action::Unban,
            Self::Promote(_) | Self::Demote(_) => Action::SetRole,
            Self::Transfer(_) => Action::Transfer,
            Self::Lock | Self::Unlock | Self::AskApproval | Self::WaiveApproval => Action::Lock,
            Self::Rename(_) => Action::Rename,
            Self::Delete => Action::Delete,
            Self::Approve(_) | Self::Reject(_) => Action::Admit,
            Self::Invite(_) | Self::Revoke(_) => Action::Invite,
            Self::Hub(_) | Self::Spoke(_) => Action::SetHub,
            Self::SetKind(_) => Action::SetKind,
            Self::Route(..) => Action::SetRoutes,
            Self::Agree(_) => Action::Agree,
            Self::Keep(_) | Self::Unkeep(_) => Action::Keep,
        }
    }

    /// Whom it is about; `None` when it is the network.
    #[must_use]
    pub const fn target(&self) -> Option<ClientId> {
        match self {
            Self::Evict(client)
            | Self::Ban(client)
            | Self::Unban(client)
            | Self::Promote(client)
            | Self::Demote(client)
            | Self::Transfer(client)
            | Self::Approve(client)
            | Self::Reject(client)
            | Self::Hub(client)
            | Self::Spoke(client)
            | Self::Keep(client)
            | Self::Unkeep(client)
            | Self::Route(client, _) => Some(*client),
            Self::Lock
            | Self::Unlock
            | Self::AskApproval
            | Self::WaiveApproval
            | Self::Rename(_)
            | Self::Delete
            | Self::Invite(_)
            | Self::Revoke(_)
            | Self::SetKind(_)
            | Self::Agree(_) => None,
        }
    }
}

/// Who waits at the door of a network, and who must not come in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Admissions {
    /// Longest waiting first; at most [`MAX_APPLICANTS`].
    #[n(0)]
    pub applicants: Vec<Outsider>,
    /// Oldest first; at most [`MAX_BANS`].
    #[n(1)]
    pub bans: Vec<Outsider>,
    /// Oldest first; at most [`MAX_INVITES`](crate::MAX_INVITES).
    #[n(2)]
    pub invites: Vec<Invite>,
}

/// Somebody who is no member.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
pub struct Outsider {
    #[n(0)]
    #[serde(rename = "id")]
    pub client: ClientId,
    #[n(1)]
    pub nick: Option<Nickname>,
    /// When it asked to come in, or was banned.
    #[n(2)]
    #[serde(rename = "since_unix_ms")]
    pub since: UnixMillis,
}

/// Applicants of one network.
pub const MAX_APPLICANTS: u32 = 64;

/// Bans of one network.
pub const MAX_BANS: u32 = 128;
