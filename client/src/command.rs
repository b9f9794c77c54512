//! What users ask of the daemon, and what it answers: the shapes of the command line's JSON.
//!
//! The names of the fields are a contract with scripts. Fields may be added; none changes its meaning.

mod account;
mod chat;
mod govern;
mod routes;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use domain::{
    Allocation, ClientId, NatClass, NatProfile, NetworkId, NetworkName, NetworkTerms, Nickname, PairRecord,
    PeerPresence, Prefix, RelayId, Role, SecretEpoch,
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use wire::Code;

pub use account::{AccountStatus, AccountWish};
pub use chat::{ChatLine, ChatState, Direction};
pub use govern::{AdmissionsView, Govern, Invited, MemberLine, NewKind, NewRole, Switch, named};
pub use routes::{RouteLine, RouteState};

use crate::{
    core::chat::TextError,
    invite::InviteLink,
    password::Password,
    portmap::Protocol,
    refusal::{self, ControlRefusal},
};

/// A question to the daemon.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Command {
    Status,
    Peers,
    Create {
        network: NetworkName,
        password: Password,
    },
    Join {
        network: NetworkName,
        password: Password,
    },
    Leave {
        network: NetworkName,
    },
    Nick {
        nick: Nickname,
    },
    /// Answers when there is such a path, or after the time-out.
    Wait {
        peer: String,
        path: PathWanted,
        timeout_ms: u64,
    },
    /// Answers with one [`Answer::Pong`] a packet, then [`Answer::Done`].
    Ping {
        peer: String,
        count: u32,
        interval_ms: u64,
    },
    Why {
        peer: String,
    },
    Govern {
        network: NetworkName,
        wish: Govern,
    },
    Admissions {
        network: NetworkName,
    },
    Invite {
        network: NetworkName,
        uses: u32,
        lifetime_s: u32,
    },
    Redeem {
        invite: InviteLink,
    },
    Members {
        network: NetworkName,
    },
    SetPass {
        network: NetworkName,
        password: Password,
    },
    /// Whether this machine leads members to the networks that an owner or admin named, or to these.
    Route {
        network: NetworkName,
        lead: Switch,
        prefixes: Vec<Prefix>,
    },
    /// To which account this machine belongs.
    Account {
        wish: AccountWish,
    },
    /// Other keys for this machine.
    RotateKey,
    /// Answers with an [`Answer::Chat`] for a peer and [`Answer::Chats`] for a network: when all is said, or that will take longer.
    Chat {
        to: String,
        text: String,
        patience_ms: u64,
    },
    /// The last messages, with one peer or all.
    Chats {
        with: Option<String>,
        last: u32,
    },
    /// Answers with an [`Answer::ChatNews`] for each message that comes or ends, until the asker leaves.
    FollowChats {
        with: Option<String>,
    },
}

impl Command {
    /// Whether only the server can do it.
    #[must_use]
    pub const fn needs_server(&self) -> bool {
        match self {
            Self::Create { .. }
            | Self::Join { .. }
            | Self::Leave { .. }
            | Self::Nick { .. }
            | Self::Govern { .. }
            | Self::Admissions { .. }
            | Self::Invite { .. }
            | Self::Redeem { .. }
            | Self::SetPass { .. }
            | Self::Account { .. }
            | Self::RotateKey => true,
            Self::Status
            | Self::Peers
            | Self::Wait { .. }
            | Self::Ping { .. }
            | Self::Why { .. }
            | Self::Members { .. }
            | Self::Chat { .. }
            | Self::Chats { .. }
            | Self::FollowChats { .. }
            | Self::Route { .. } => false,
        }
    }
}

/// A command on its way to the daemon's core.
#[derive(Debug)]
pub struct Asked {
    pub command: Command,
    /// Takes the answers; the last one ends the command. Dropped by the asker when it no longer cares.
    pub answers: mpsc::Sender<Result<Answer, CommandError>>,
}

/// The successful answer to a [`Command`].
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Answer {
    Status(Box<Status>),
    Peers(Vec<Peer>),
    Joined(JoinedNetwork),
    Waited(Waited),
    /// One packet of a ping; more follow.
    Pong(Pong),
    Why(Box<Why>),
    Admissions(AdmissionsView),
    Invited(Invited),
    Members(Vec<MemberLine>),
    Agreed(Agreed),
    Rekeyed(Rekeyed),
    Account(AccountStatus),
    Rotated(Rotated),
    Chat(Box<ChatLine>),
    Chats(Vec<ChatLine>),
    /// One message; more follow.
    ChatNews(Box<ChatLine>),
    Done(Done),
}

impl Answer {
    /// Success, and nothing to say.
    pub const DONE: Self = Self::Done(Done {});

    /// Whether another answer follows.
    #[must_use]
    pub const fn is_partial(&self) -> bool {
        matches!(self, Self::Pong(_) | Self::ChatNews(_))
    }
}

/// `buri route`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreed {
    /// Where this machine leads members of the network, once an owner or admin names it.
    pub agreed: Vec<Prefix>,
}

/// `buri set-pass`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rekeyed {
    /// Which secret of the network is the newest now.
    pub epoch: SecretEpoch,
    /// For how many other members it was sealed.
    pub sealed: usize,
    /// Who needs the new password, because it never proved to have the old secret.
    pub left_out: Vec<ClientId>,
}

/// `buri key rotate`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotated {
    /// The same as before.
    pub id: ClientId,
    /// The identity key that counts now, in hexadecimal digits.
    pub key: String,
    /// How many keys this machine had before.
    pub before: usize,
}

/// An empty object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {}

/// `buri status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub id: ClientId,
    pub address4: Option<Ipv4Addr>,
    /// Unknown until the first login.
    pub address6: Option<Ipv6Addr>,
    pub nick: Option<Nickname>,
    pub server: String,
    pub control: ControlState,
    /// How the control connection runs, or why it does not.
    pub control_detail: Option<String>,
    /// What the server said when it refused the last login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<ControlRefusal>,
    pub nat: NatView,
    pub networks: Vec<NetworkView>,
    /// Networks behind members, and behind this machine.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RouteLine>,
    /// Networks that have not let this machine in yet.
    #[serde(default)]
    pub awaiting: Vec<NetworkName>,
    /// Why relays hold data back just now, and of how many peers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held_back: Vec<HeldBack>,
    /// Messages that no command has shown yet.
    #[serde(default)]
    pub unread_messages: usize,
}

/// What relays say about pairs that they hold back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldBack {
    /// `relay-capped` or `relay-quota`.
    pub code: String,
    /// The same in plain words.
    pub text: String,
    pub peers: usize,
}

/// Whether the servers are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ControlState {
    Connected,
    Connecting,
    /// Not trying: replaced by a newer session of the same key, or refused for good.
    Offline,
}

/// What is known of the NATs in front of this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatView {
    pub class: Option<NatClass>,
    pub mapping: Option<domain::Mapping>,
    pub filtering: Option<domain::Filtering>,
    pub udp: Option<bool>,
    pub public: Option<SocketAddr>,
    /// How ports are given out, where the mapping depends on the destination.
    #[serde(default)]
    pub allocation: Option<Allocation>,
    /// Flows a second that others open behind the same NAT.
    #[serde(default)]
    pub foreign_rate: Option<u16>,
    /// Whether this machine is seen with several public addresses at a time.
    #[serde(default)]
    pub pool: Option<bool>,
    /// Whether the NAT sends packets for its own public address back inside.
    #[serde(default)]
    pub hairpin: Option<bool>,
    /// Whether a reflector was reached over IPv6.
    #[serde(default)]
    pub ipv6: Option<bool>,
    /// Silence in seconds that a mapping survived.
    #[serde(default)]
    pub lifetime_s: Option<u16>,
    /// Routers between this machine and the reflector.
    #[serde(default)]
    pub hops: Option<u8>,
    #[serde(default)]
    pub port_mapping: Option<MappingView>,
}

/// A port of the router that leads to this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappingView {
    pub external: SocketAddr,
    pub by: Protocol,
    /// Peers are told of it: no second NAT is in the way.
    pub usable: bool,
}

impl From<&NatProfile> for NatView {
    fn from(profile: &NatProfile) -> Self {
        Self {
            class: Some(profile.class()),
            mapping: profile.mapping,
            filtering: profile.filtering,
            udp: Some(profile.udp),
            public: None,
            allocation: profile.allocation,
            foreign_rate: profile.allocation.map(|_| profile.foreign_rate),
            pool: Some(profile.pool),
            hairpin: profile.hairpin,
            ipv6: Some(profile.ipv6),
            lifetime_s: profile.lifetime_s,
            hops: Some(profile.hops).filter(|hops| *hops > 0),
            port_mapping: None,
        }
    }
}

/// One of the networks of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkView {
    pub id: NetworkId,
    pub name: NetworkName,
    pub members: usize,
    /// Of this machine.
    #[serde(default)]
    pub role: Role,
    /// This machine meets everybody, in a network of the kind `hub` or `gateway`.
    #[serde(default)]
    pub hub: bool,
    /// This machine has no seat, and meets nobody here.
    #[serde(default)]
    pub unseated: bool,
    #[serde(flatten)]
    pub terms: NetworkTerms,
    /// Which of its secrets is the newest.
    #[serde(default)]
    pub secret_epoch: SecretEpoch,
    /// This machine has that one, and the server knows it.
    #[serde(default)]
    pub secret_proved: bool,
    /// The code of what is wrong with it: `no-seat`, `membership-ended`, `secret-unverified` or `secret-lacking`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// One line of `buri peers`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    pub id: ClientId,
    pub nick: Option<Nickname>,
    pub address4: Option<Ipv4Addr>,
    pub address6: Ipv6Addr,
    pub networks: Vec<NetworkName>,
    pub presence: PeerPresence,
    pub path: PathKind,
    /// Where datagrams go now: an address, or `tls://HOST:PORT` for the stream of a relay.
    pub endpoint: Option<String>,
    pub relay: Option<RelayId>,
    /// The code of why there is no relay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay_error: Option<String>,
    /// The code of why the relay holds datagrams back: `relay-capped` or `relay-quota`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_back: Option<String>,
    pub rtt_ms: Option<f64>,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    /// Networks behind it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RouteLine>,
}

/// The record of a pair, and what only this client knows of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Why {
    #[serde(flatten)]
    pub record: PairRecord,
    /// In plain words: how datagrams go just now, where that is not what the record says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub now: Option<String>,
}

/// How datagrams reach a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathKind {
    Direct,
    Relay,
    None,
}

/// What `buri wait` waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum PathWanted {
    Direct,
    Relay,
    Any,
}

impl PathWanted {
    /// Whether `path` ends the wait.
    #[must_use]
    pub const fn met_by(self, path: PathKind) -> bool {
        matches!(
            (self, path),
            (Self::Direct | Self::Any, PathKind::Direct) | (Self::Relay | Self::Any, PathKind::Relay)
        )
    }
}

/// `buri wait`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waited {
    pub path: PathKind,
    /// From the command to the path; 0 when it was there.
    pub after_ms: u64,
}

/// One packet of `buri ping`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pong {
    pub seq: u32,
    /// `None` when no answer came within two seconds.
    pub rtt_ms: Option<f64>,
    pub path: PathKind,
}

/// `buri create` and `buri join`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinedNetwork {
    pub network: NetworkName,
    pub id: NetworkId,
    pub address4: Option<Ipv4Addr>,
    pub address6: Ipv6Addr,
    /// The code of something worth knowing, e.g. `address-pool-exhausted`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// A refused or failed command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct CommandError {
    /// A stable word: one of [`Code`], or one of this module's.
    pub code: String,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u32>,
}

impl CommandError {
    /// The daemon does not answer on its socket.
    pub const DAEMON_NOT_RUNNING: &'static str = "daemon-not-running";
    /// Another daemon uses this home.
    pub const DAEMON_RUNNING: &'static str = "daemon-running";
    /// No server is reached, and the command needs one.
    pub const SERVER_UNREACHABLE: &'static str = "server-unreachable";
    /// What was waited for did not happen.
    pub const TIMED_OUT: &'static str = "timed-out";
    /// More than one peer has this nickname.
    pub const PEER_AMBIGUOUS: &'static str = "peer-ambiguous";
    /// A message is empty or too long.
    pub const MESSAGE_INVALID: &'static str = "message-invalid";
    /// Too many messages wait for peers that are not there.
    pub const MESSAGES_FULL: &'static str = "messages-full";
    /// The daemon cannot do this on this machine.
    pub const FAILED: &'static str = "failed";

    /// An error with one of this module's words.
    #[must_use]
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), retry_after_ms: None }
    }
}

impl From<Code> for CommandError {
    fn from(code: Code) -> Self {
        Self::new(code.name(), code.text())
    }
}

impl From<TextError> for CommandError {
    fn from(error: TextError) -> Self {
        Self::new(Self::MESSAGE_INVALID, error.to_string())
    }
}

impl From<wire::control::Refused> for CommandError {
    fn from(refused: wire::control::Refused) -> Self {
        let known = Code::from_number(refused.code).map_or_else(
            || Self::new("unknown", format!("the server refused with code {}; update this client", refused.code)),
            Self::from,
        );
        let message = match (&refused.incident, &refused.block) {
            (Some(incident), _) => format!("{} (incident {incident:016x})", known.message),
            (None, Some(notice)) => format!("{} ({})", known.message, refusal::words(notice)),
            (None, None) => known.message,
        };
        Self { code: known.code, message, retry_after_ms: refused.retry_after_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_reads_back_and_hides_its_password() {
        let command = Command::Join { network: "n".parse().unwrap(), password: Password::new("secret".into()) };
        let text = serde_json::to_string(&command).unwrap();
        assert!(matches!(serde_json::from_str(&text).unwrap(), Command::Join { .. }));
        assert!(!format!("{command:?}").contains("secret"));
    }

    #[test]
    fn waiting_for_any_path_ends_with_either() {
        assert!(PathWanted::Any.met_by(PathKind::Relay) && PathWanted::Any.met_by(PathKind::Direct));
        assert!(!PathWanted::Any.met_by(PathKind::None) && !PathWanted::Direct.met_by(PathKind::Relay));
    }

    #[test]
    fn a_refusal_keeps_its_code_and_delay() {
        let refused = wire::control::Refused::after(Code::GuessLimit, std::time::Duration::from_secs(5));
        let error = CommandError::from(refused);
        assert_eq!((error.code.as_str(), error.retry_after_ms), ("guess-limit", Some(5_000)));
    }
}
