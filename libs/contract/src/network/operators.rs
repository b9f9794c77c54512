//! What operators have network do.

use domain::{
    Admissions, ClientId, Epoch, NetworkId, NetworkOrder, NetworkTerms, Nickname, Revision, Role, UnixMillis,
};
use minicbor::{Decode, Encode};

use super::{NetworkRow, Refusal, SessionRow};

/// Where a page of networks ends.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
pub struct NetworkPlace {
    /// What they are ordered by.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub name: Vec<u8>,
    #[n(1)]
    pub network: NetworkId,
}

/// A page of networks whose names begin alike, by name.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FindNetworks {
    /// How their keys begin, see `domain::NetworkName::key`.
    #[n(0)]
    pub prefix: String,
    /// Where the last page ended.
    #[n(1)]
    pub after: Option<NetworkPlace>,
    #[n(2)]
    pub limit: u16,
}

/// The answer to [`FindNetworks`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FoundNetworks {
    #[n(0)]
    pub networks: Vec<NetworkRow>,
    /// Where the next page begins, if there is one.
    #[n(1)]
    pub next: Option<NetworkPlace>,
}
call!(FindNetworks, "network.find-networks", FoundNetworks, Refusal);

/// Everything that an operator may see of a network, but its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ShowNetwork {
    #[n(0)]
    pub network: NetworkId,
}

/// The answer to [`ShowNetwork`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct NetworkShown {
    #[n(0)]
    pub network: Option<NetworkDetails>,
}

/// A network with its terms and who is or wants to be let in.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct NetworkDetails {
    #[n(0)]
    pub row: NetworkRow,
    #[n(1)]
    pub terms: NetworkTerms,
    #[n(2)]
    pub admissions: Admissions,
}
call!(ShowNetwork, "network.show", NetworkShown, Refusal);

/// A page of the members of a network, by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Members {
    #[n(0)]
    pub network: NetworkId,
    /// Where the last page ended.
    #[n(1)]
    pub after: Option<ClientId>,
    #[n(2)]
    pub limit: u16,
}

/// The answer to [`Members`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MembersPage {
    #[n(0)]
    pub members: Vec<MemberRow>,
    #[n(1)]
    pub more: bool,
}

/// One member as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MemberRow {
    #[n(0)]
    pub client: ClientId,
    #[n(1)]
    pub nick: Option<Nickname>,
    #[n(2)]
    pub role: Role,
    /// The virtual address.
    #[n(3)]
    pub v4: Option<u32>,
    #[n(4)]
    pub joined: UnixMillis,
    #[n(5)]
    pub online: bool,
    /// The plan allows fewer members than there are: it stays one, and meets nobody.
    #[n(6)]
    #[cbor(default)]
    pub unseated: bool,
    /// The owner wants it to stay seated before others.
    #[n(7)]
    #[cbor(default)]
    pub kept: bool,
}
call!(Members, "network.members", MembersPage, Refusal);

/// Where a client is: its session and its networks, of which a plan allows few.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Whereabouts {
    #[n(0)]
    pub client: ClientId,
}

/// The answer to [`Whereabouts`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct WhereaboutsReply {
    #[n(0)]
    pub session: Option<SessionRow>,
    #[n(1)]
    pub networks: Vec<MembershipRow>,
}

/// A network and what a client is in it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MembershipRow {
    #[n(0)]
    pub network: NetworkRow,
    #[n(1)]
    pub role: Role,
}
call!(Whereabouts, "network.whereabouts", WhereaboutsReply, Refusal);

/// Has something done in the place of a network's owner, if the network still has this revision.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Govern {
    #[n(0)]
    pub network: NetworkId,
    #[n(1)]
    pub order: NetworkOrder,
    #[n(2)]
    pub expected: Option<Revision>,
}

/// Why nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum GovernRefusal {
    #[n(0)]
    NoSuchNetwork,
    /// The network has another revision.
    #[n(1)]
    Changed,
    #[n(2)]
    Order(#[n(0)] Refusal),
}

// The reply is the revision that the change made.
call!(Govern, "network.govern", Revision, GovernRefusal);

/// Ends the sessions of these clients; they may come back after so many milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct EndSessions {
    /// At most [`Self::MOST`].
    #[n(0)]
    pub clients: Vec<ClientId>,
    #[n(1)]
    pub back_after_ms: u32,
}

impl EndSessions {
    /// Clients in one call.
    pub const MOST: usize = 500;
}

/// The answer to [`EndSessions`]: who had a session.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SessionsEnded {
    #[n(0)]
    pub ended: Vec<EndedSession>,
}

/// A session whose gateway was told to end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct EndedSession {
    #[n(0)]
    pub client: ClientId,
    #[n(1)]
    pub epoch: Epoch,
}
call!(EndSessions, "network.end-sessions", SessionsEnded, Refusal);
