//! What owners and admins ask for, as it is typed.

use domain::{ClientId, Invite, InviteId, NetworkKind, NetworkName, NetworkOrder, Outsider, Prefix, Role, Route};
use serde::{Deserialize, Serialize};

use crate::invite::InviteLink;

/// An order before it is known whom a word means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Govern {
    Evict {
        peer: String,
    },
    Ban {
        peer: String,
    },
    Unban {
        peer: String,
    },
    Role {
        peer: String,
        role: NewRole,
    },
    Transfer {
        peer: String,
    },
    Lock,
    Unlock,
    Rename {
        name: NetworkName,
    },
    Delete,
    AskApproval,
    WaiveApproval,
    Approve {
        peer: String,
    },
    Reject {
        peer: String,
    },
    Revoke {
        invite: InviteId,
    },
    Hub {
        peer: String,
        hub: Switch,
    },
    Keep {
        peer: String,
        keep: Switch,
    },
    Kind {
        kind: NewKind,
    },
    /// Without prefixes it leads nowhere any more.
    Gateway {
        peer: String,
        prefixes: Vec<Prefix>,
    },
}

/// Whether a member is to be something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    On,
    Off,
}

/// What a network can be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum NewKind {
    /// Everybody meets everybody.
    #[default]
    Mesh,
    /// Spokes meet hubs only.
    Hub,
    /// Members meet gateways only, and the networks behind them.
    Gateway,
}

impl From<NewKind> for NetworkKind {
    fn from(kind: NewKind) -> Self {
        match kind {
            NewKind::Mesh => Self::Mesh,
            NewKind::Hub => Self::Hub,
            NewKind::Gateway => Self::Gateway,
        }
    }
}

/// What a member can be made; the owner is made by a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum NewRole {
    Admin,
    Member,
}

impl Govern {
    /// The word for somebody, if it is about somebody.
    #[must_use]
    pub fn whom(&self) -> Option<&str> {
        match self {
            Self::Evict { peer }
            | Self::Ban { peer }
            | Self::Unban { peer }
            | Self::Role { peer, .. }
            | Self::Transfer { peer }
            | Self::Approve { peer }
            | Self::Reject { peer }
            | Self::Hub { peer, .. }
            | Self::Keep { peer, .. }
            | Self::Gateway { peer, .. } => Some(peer),
            Self::Lock
            | Self::Unlock
            | Self::Rename { .. }
            | Self::Delete
            | Self::AskApproval
            | Self::WaiveApproval
            | Self::Revoke { .. }
            | Self::Kind { .. } => None,
        }
    }

    /// Whether it is about somebody who is not in the network.
    #[must_use]
    pub const fn is_about_outsider(&self) -> bool {
        matches!(self, Self::Unban { .. } | Self::Approve { .. } | Self::Reject { .. })
    }

    /// The order, once `whom` is known; `None` when it is about somebody and nobody was found.
    #[must_use]
    pub fn order(self, whom: Option<ClientId>) -> Option<NetworkOrder> {
        Some(match self {
            Self::Evict { .. } => NetworkOrder::Evict(whom?),
            Self::Ban { .. } => NetworkOrder::Ban(whom?),
            Self::Unban { .. } => NetworkOrder::Unban(whom?),
            Self::Role { role: NewRole::Admin, .. } => NetworkOrder::Promote(whom?),
            Self::Role { role: NewRole::Member, .. } => NetworkOrder::Demote(whom?),
            Self::Transfer { .. } => NetworkOrder::Transfer(whom?),
            Self::Lock => NetworkOrder::Lock,
            Self::Unlock => NetworkOrder::Unlock,
            Self::Rename { name } => NetworkOrder::Rename(name),
            Self::Delete => NetworkOrder::Delete,
            Self::AskApproval => NetworkOrder::AskApproval,
            Self::WaiveApproval => NetworkOrder::WaiveApproval,
            Self::Approve { .. } => NetworkOrder::Approve(whom?),
            Self::Reject { .. } => NetworkOrder::Reject(whom?),
            Self::Revoke { invite } => NetworkOrder::Revoke(invite),
            Self::Hub { hub: Switch::On, .. } => NetworkOrder::Hub(whom?),
            Self::Hub { hub: Switch::Off, .. } => NetworkOrder::Spoke(whom?),
            Self::Keep { keep: Switch::On, .. } => NetworkOrder::Keep(whom?),
            Self::Keep { keep: Switch::Off, .. } => NetworkOrder::Unkeep(whom?),
            Self::Kind { kind } => NetworkOrder::SetKind(kind.into()),
            Self::Gateway { prefixes, .. } => NetworkOrder::Route(whom?, prefixes),
        })
    }
}

/// `buri members`: everybody in a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberLine {
    pub id: ClientId,
    pub nick: Option<domain::Nickname>,
    pub role: Role,
    /// It meets everybody, in a network of the kind `hub` or `gateway`.
    #[serde(default)]
    pub hub: bool,
    /// Where it leads the others, in a network of the kind `gateway`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// It meets the others; it does not while the plan allows fewer members than there are.
    #[serde(default = "seated")]
    pub seated: bool,
    /// The owner wants it to stay seated before others.
    #[serde(default)]
    pub kept: bool,
    /// This client itself.
    pub own: bool,
}

/// What older versions do not say.
const fn seated() -> bool {
    true
}

/// `buri admissions`: who is not in a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmissionsView {
    pub applicants: Vec<Outsider>,
    pub bans: Vec<Outsider>,
    pub invites: Vec<Invite>,
}

/// `buri invite`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invited {
    /// The link; it is shown this once.
    pub invite: InviteLink,
    pub id: InviteId,
    pub uses: u32,
    pub lifetime_s: u32,
}

impl From<domain::Admissions> for AdmissionsView {
    fn from(domain::Admissions { applicants, bans, invites }: domain::Admissions) -> Self {
        Self { applicants, bans, invites }
    }
}

/// The one of `outsiders` that `word` names: an id or a nickname.
#[must_use]
pub fn named<'a>(outsiders: &'a [Outsider], word: &str) -> Option<&'a Outsider> {
    let id = word.parse::<ClientId>().ok();
    let mut found = outsiders.iter().filter(|outsider| {
        Some(outsider.client) == id || outsider.nick.as_ref().is_some_and(|nick| nick.as_str() == word)
    });
    let one = found.next();
    if found.next().is_some() { None } else { one }
}

#[cfg(test)]
mod tests {
    use domain::UnixMillis;

    use super::*;

    #[test]
    fn a_word_names_one_outsider_or_nobody() {
        let outsider = |number, nick: &str| Outsider {
            client: ClientId::from_bytes([number; 16]),
            nick: Some(nick.parse().unwrap()),
            since: UnixMillis(1),
        };
        let outsiders = [outsider(1, "anna"), outsider(2, "bert"), outsider(3, "bert")];
        assert_eq!(named(&outsiders, "anna"), Some(&outsiders[0]));
        assert_eq!(named(&outsiders, "bert"), None);
        assert_eq!(named(&outsiders, &outsiders[2].client.to_string()), Some(&outsiders[2]));
        assert_eq!(named(&outsiders, "carl"), None);
    }

    #[test]
    fn an_order_about_somebody_needs_somebody() {
        let evict = Govern::Evict { peer: "anna".into() };
        assert_eq!(evict.whom(), Some("anna"));
        assert_eq!(evict.clone().order(None), None);
        let anna = ClientId::from_bytes([1; 16]);
        assert_eq!(evict.order(Some(anna)), Some(NetworkOrder::Evict(anna)));
        assert_eq!(Govern::Lock.order(None), Some(NetworkOrder::Lock));
    }
}
