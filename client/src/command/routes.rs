//! Networks behind members, as they are shown.

use domain::{ClientId, NetworkName, Prefix};
use serde::{Deserialize, Serialize};

/// A prefix that a member is to lead the others to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteLine {
    pub network: NetworkName,
    /// The member; this machine among them.
    pub gateway: ClientId,
    pub prefix: Prefix,
    pub state: RouteState,
    /// What the system says, where it does not take part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// What became of a prefix on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouteState {
    /// Packets go there.
    InUse,
    /// The machine of the member has not agreed to lead there.
    NotAgreed,
    /// It is public, or part of the virtual LAN.
    NotRoutable,
    /// This machine is in such a network itself, or leads to it.
    Local,
    /// A server or relay is there.
    Server,
    /// Another member leads there already.
    Taken,
    /// There are too many.
    TooMany,
    /// The system does not take part.
    Failed,
}

impl RouteState {
    /// The same in plain words.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::InUse => "in use",
            Self::NotAgreed => "its machine has not agreed: buri route NETWORK on, there",
            Self::NotRoutable => "not used: it is public, or part of the virtual LAN",
            Self::Local => "not used: this machine is in such a network itself",
            Self::Server => "not used: a server or relay is there",
            Self::Taken => "not used: another member leads there",
            Self::TooMany => "not used: there are too many",
            Self::Failed => "not used: the system refuses",
        }
    }
}
