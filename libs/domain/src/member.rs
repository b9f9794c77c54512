//! Members of networks as everybody in the network sees them.

use minicbor::{Decode, Encode};

use crate::{
    ClientId, IdentityKey, NetworkId, NetworkName, Nickname, Revision, Role, SecretState, Signature, TunnelKey,
    VirtualAddresses,
};

/// Whether a client has a control session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[cbor(index_only)]
#[serde(rename_all = "lowercase")]
pub enum PeerPresence {
    /// It has one.
    #[n(0)]
    Online,
    /// It said goodbye, or was never seen.
    #[n(1)]
    Offline,
    /// Its session broke without a goodbye: its tunnels may live.
    #[n(2)]
    Lost,
}

/// One member of a network.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Member {
    #[n(0)]
    pub client: ClientId,
    #[n(1)]
    pub identity: IdentityKey,
    #[n(2)]
    pub tunnel: TunnelKey,
    /// By the identity key over the tunnel key.
    #[n(3)]
    pub tunnel_signature: Signature,
    #[n(4)]
    pub nick: Option<Nickname>,
    #[n(5)]
    pub addresses: VirtualAddresses,
    /// The revision that last changed this member.
    #[n(6)]
    pub revision: Revision,
    /// Whether the change was that the member left.
    #[n(7)]
    pub gone: bool,
    /// As the sender knew it; `None` when it did not ask.
    #[n(8)]
    pub presence: Option<PeerPresence>,
    #[n(9)]
    #[cbor(default)]
    pub role: Role,
}

/// What changed in one network after `since`.
///
/// A receiver that is not at `since` has a gap and asks again, unless `since` is zero, which replaces what it had.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct NetworkChange {
    #[n(0)]
    pub network: NetworkId,
    #[n(1)]
    pub name: NetworkName,
    #[n(2)]
    pub since: Revision,
    #[n(3)]
    pub revision: Revision,
    /// Oldest change first.
    #[n(4)]
    pub members: Vec<Member>,
    /// The receiver is no longer a member.
    #[n(5)]
    pub left: bool,
    #[n(6)]
    #[cbor(default)]
    pub terms: NetworkTerms,
    #[n(7)]
    #[cbor(default)]
    pub secret: SecretState,
}

/// How one becomes a member of a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
pub struct NetworkTerms {
    /// Nobody does at the moment.
    #[n(0)]
    pub locked: bool,
    /// An owner or admin has to approve.
    #[n(1)]
    pub approval: bool,
    /// How many wait for that.
    #[n(2)]
    pub applicants: u32,
}

/// A network as far as somebody knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct KnownNetwork {
    #[n(0)]
    pub network: NetworkId,
    #[n(1)]
    pub revision: Revision,
}
