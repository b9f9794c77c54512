//! What is kept over restarts, as CBOR.

use std::net::SocketAddr;

use domain::{ClientId, Lineage, NetworkId, Nickname, PairRecord, Prefix, RelayOffer, VirtualAddresses};
use minicbor::{Decode, Encode};

use super::{awaited::Awaited, membership::SavedMemberships, view::SavedNetwork};

/// What a restarted client needs to find its peers while no server answers. Secret: it holds the networks' secrets.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct Saved {
    #[n(0)]
    pub(crate) addresses: Option<VirtualAddresses>,
    #[n(1)]
    pub(crate) nick: Option<Nickname>,
    #[n(2)]
    pub(crate) prefix4: u8,
    #[n(3)]
    pub(crate) prefix6: u8,
    /// Of the main socket: peers and NATs know this client by it.
    #[n(4)]
    pub port: u16,
    #[n(5)]
    pub(crate) networks: Vec<SavedNetwork>,
    #[n(6)]
    pub(crate) peers: Vec<SavedPeer>,
    #[n(7)]
    pub(crate) records: Vec<PairRecord>,
    #[n(8)]
    #[cbor(default)]
    pub(crate) awaited: Vec<Awaited>,
    #[n(9)]
    #[cbor(default)]
    pub(crate) memberships: SavedMemberships,
    /// Keys of members that changed them, also of members who left.
    #[n(10)]
    #[cbor(default)]
    pub(crate) lineages: Vec<Lineage>,
    /// What the user of this machine agreed to lead members to.
    #[n(11)]
    #[cbor(default)]
    pub(crate) agreements: Vec<(NetworkId, Vec<Prefix>)>,
}

/// Where a peer was.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct SavedPeer {
    #[n(0)]
    pub(crate) client: ClientId,
    /// Best first.
    #[n(1)]
    pub(crate) endpoints: Vec<SocketAddr>,
    #[n(2)]
    pub(crate) offer: Option<RelayOffer>,
}

impl Saved {
    /// The bytes to keep.
    ///
    /// # Panics
    /// Never: writing to a vector does not fail.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("writing to a vector does not fail")
    }

    /// What of it is true wherever the client is; on another machine its user has not agreed to anything.
    #[must_use]
    pub(crate) fn without_places(self) -> Self {
        Self { port: 0, peers: Vec::new(), records: Vec::new(), agreements: Vec::new(), ..self }
    }

    /// Reads what was kept.
    ///
    /// # Errors
    /// When the bytes were not written by this code.
    pub fn decode(bytes: &[u8]) -> Result<Self, minicbor::decode::Error> {
        minicbor::decode(bytes)
    }
}

impl std::fmt::Debug for Saved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Saved").field("networks", &self.networks.len()).finish_non_exhaustive()
    }
}
