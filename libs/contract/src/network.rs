//! Calls to network.

pub mod operators;
mod outbox;

use domain::{
    BlockNotice, ClientId, Epoch, Holder, InstanceId, InviteToken, KnownNetwork, MembershipKey, MembershipTicket,
    NatClass, NetworkChange, NetworkId, NetworkKind, NetworkName, NetworkOrder, NewSecret, Nickname, RelayId, Removals,
    Revision, Seal, SecretEpoch, SecretProof, Signed, SourcePrefix, UnixMillis, VirtualAddresses,
};
use minicbor::{Decode, Encode};

pub use outbox::Unannounced;

/// Why a membership call is refused.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Refusal {
    /// No such network or a wrong password: which of them is not said.
    #[n(0)]
    Denied,
    #[n(1)]
    Full,
    #[n(2)]
    AlreadyMember,
    #[n(3)]
    NameTaken,
    #[n(4)]
    NotAMember,
    #[n(5)]
    PlanLimit,
    /// Too many wrong passwords by this client, from this source or for this network.
    #[n(6)]
    GuessLimit {
        #[n(0)]
        retry_after_ms: u32,
    },
    /// The password protocol's message is broken.
    #[n(7)]
    Malformed,
    /// No such peer in any common network.
    #[n(8)]
    PeerUnknown,
    /// Storage or presence failed; the number is in the log.
    #[n(9)]
    Internal {
        #[n(0)]
        incident: u64,
    },
    /// Storage has too much to do; nothing was done.
    #[n(11)]
    Busy,
    /// Too many networks made, or nicknames changed, by this client or from this source.
    #[n(10)]
    RateLimited {
        #[n(0)]
        retry_after_ms: u32,
    },
    /// The role of who orders does not allow it.
    #[n(12)]
    NotPermitted,
    #[n(13)]
    Banned,
    #[n(14)]
    Locked,
    /// The client is an applicant, and no member yet.
    #[n(15)]
    AwaitingApproval,
    /// Nobody of that id is there.
    #[n(16)]
    MemberUnknown,
    /// Of what is asked for there are as many as there may be.
    #[n(17)]
    LimitReached,
    #[n(18)]
    InviteInvalid,
    #[n(19)]
    InviteExpired,
    #[n(20)]
    InviteUsedUp,
    /// The secret or the members changed since the caller looked.
    #[n(21)]
    SecretPassed,
    /// The network has no gateways.
    #[n(22)]
    NoGateways,
    /// A prefix is public, or part of the virtual LAN.
    #[n(23)]
    NotRoutable,
    /// A prefix overlaps with another one that is routed.
    #[n(24)]
    RouteTaken,
    /// The member has no seat.
    #[n(25)]
    NoSeat,
    /// An operator lets nobody join the network.
    #[n(40)]
    Blocked {
        #[n(0)]
        notice: Box<BlockNotice>,
    },
    /// An operator lets clients join the network one at a time.
    #[n(41)]
    Slowed {
        #[n(0)]
        notice: Box<BlockNotice>,
        #[n(1)]
        retry_after_ms: u32,
    },
}

/// Everything a client does not know yet of its networks.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Snapshot {
    #[n(0)]
    pub client: ClientId,
    #[n(1)]
    pub known: Vec<KnownNetwork>,
}

/// The answer to [`Snapshot`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Snapped {
    #[n(0)]
    pub addresses: VirtualAddresses,
    /// Of networks that are at the revision known, only members whose presence matters are listed: all of them, with
    /// their presence, because presence has no revision.
    #[n(1)]
    pub changes: Vec<NetworkChange>,
    /// All networks the client is a member of.
    #[n(2)]
    pub networks: Vec<NetworkId>,
    /// Prefix lengths of the pool and of the deployment's IPv6 prefix.
    #[n(3)]
    pub prefix4: u8,
    #[n(4)]
    pub prefix6: u8,
    /// What memberships are verified with.
    #[n(5)]
    #[cbor(default)]
    pub membership_keys: Vec<MembershipKey>,
}
call!(Snapshot, "network.snapshot", Snapped, Refusal);

/// First half of a creation.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CreateStart {
    #[n(0)]
    pub client: ClientId,
    #[n(1)]
    pub name: NetworkName,
    /// An OPAQUE registration request.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub request: Vec<u8>,
    #[n(3)]
    pub source: SourcePrefix,
}

/// An OPAQUE registration response.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CreateStarted {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub response: Vec<u8>,
}
call!(CreateStart, "network.create-start", CreateStarted, Refusal);

/// Second half of a creation.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CreateFinish {
    #[n(0)]
    pub client: ClientId,
    #[n(1)]
    pub name: NetworkName,
    /// An OPAQUE registration record.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub record: Vec<u8>,
    /// The network secret, sealed under the export key.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub wrapped_secret: Vec<u8>,
}
call!(CreateFinish, "network.create-finish", Joined, Refusal);

/// First half of a join.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct JoinStart {
    #[n(0)]
    pub client: ClientId,
    #[n(1)]
    pub name: NetworkName,
    /// An OPAQUE KE1.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub request: Vec<u8>,
    #[n(3)]
    pub source: SourcePrefix,
}

/// An OPAQUE KE2, and the server's state, sealed, for the gateway to keep until the second half.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct JoinStarted {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub response: Vec<u8>,
    #[cbor(n(1), with = "minicbor::bytes")]
    pub pending: Vec<u8>,
}
call!(JoinStart, "network.join-start", JoinStarted, Refusal);

/// Second half of a join.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct JoinFinish {
    #[n(0)]
    pub client: ClientId,
    #[cbor(n(1), with = "minicbor::bytes")]
    pub pending: Vec<u8>,
    /// An OPAQUE KE3.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub finalization: Vec<u8>,
}
call!(JoinFinish, "network.join-finish", Admission, Refusal);

/// What a join led to.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Admission {
    #[n(0)]
    Joined(#[n(0)] Box<Joined>),
    /// The password was right; an owner or admin has to approve.
    #[n(1)]
    Awaiting(#[n(0)] NetworkId, #[n(1)] NetworkName),
}

/// A client joins by an invite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Redeem {
    #[n(0)]
    pub client: ClientId,
    #[n(1)]
    pub token: InviteToken,
    /// Names the join, so that it can be repeated.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub request: [u8; 16],
    #[n(3)]
    pub source: SourcePrefix,
}
call!(Redeem, "network.redeem", Joined, Refusal);

/// The client is a member now.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Joined {
    #[n(0)]
    pub network: NetworkId,
    #[n(1)]
    pub name: NetworkName,
    #[n(2)]
    pub addresses: VirtualAddresses,
    #[cbor(n(3), with = "minicbor::bytes")]
    pub wrapped_secret: Vec<u8>,
    /// No IPv4 address was free.
    #[n(4)]
    pub pool_exhausted: bool,
    /// The whole network, so that the gateway can tell the client at once.
    #[n(5)]
    pub change: NetworkChange,
    /// Which secret it is.
    #[n(6)]
    #[cbor(default)]
    pub door: SecretEpoch,
}

/// A client leaves a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Leave {
    #[n(0)]
    pub client: ClientId,
    #[n(1)]
    pub network: NetworkId,
}
call!(Leave, "network.leave", (), Refusal);

/// A member orders something.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Order {
    #[n(0)]
    pub client: ClientId,
    #[n(1)]
    pub network: NetworkId,
    #[n(2)]
    pub order: NetworkOrder,
}
call!(Order, "network.order", NetworkChange, Refusal);

/// Who waits to become a member, who is banned, and what invites there are; for members who may see that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Admissions {
    #[n(0)]
    pub client: ClientId,
    #[n(1)]
    pub network: NetworkId,
}
call!(Admissions, "network.admissions", domain::Admissions, Refusal);

/// What a member opens the network with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Keys {
    #[n(0)]
    pub client: ClientId,
    #[n(1)]
    pub network: NetworkId,
}

/// The network secret as it was given with the password.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct WrappedSecret {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub wrapped_secret: Vec<u8>,
    #[n(1)]
    #[cbor(default)]
    pub door: SecretEpoch,
}
call!(Keys, "network.keys", WrappedSecret, Refusal);

/// First half of a change of the password.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SetPassStart {
    #[n(0)]
    pub client: ClientId,
    #[n(1)]
    pub network: NetworkId,
    /// Of the secret that the new password will open.
    #[n(2)]
    pub epoch: SecretEpoch,
    /// An OPAQUE registration request.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub request: Vec<u8>,
}
call!(SetPassStart, "network.set-pass-start", CreateStarted, Refusal);

/// A newer secret, and perhaps the second half of a change of the password.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RenewSecret {
    #[n(0)]
    pub client: ClientId,
    #[n(1)]
    pub network: NetworkId,
    #[n(2)]
    pub new: NewSecret,
}
call!(RenewSecret, "network.renew-secret", NetworkChange, Refusal);

/// The newest secret, for members who lack it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct HandSecret {
    #[n(0)]
    pub client: ClientId,
    #[n(1)]
    pub network: NetworkId,
    #[n(2)]
    pub epoch: SecretEpoch,
    #[n(3)]
    pub seals: Vec<Seal>,
}
call!(HandSecret, "network.hand-secret", NetworkChange, Refusal);

/// Which members proved which secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Holders {
    #[n(0)]
    pub client: ClientId,
    #[n(1)]
    pub network: NetworkId,
    /// Where the last page ended.
    #[n(2)]
    pub after: Option<ClientId>,
}

/// A page of holders, by id.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct HoldersPage {
    #[n(0)]
    pub holders: Vec<Holder>,
    #[n(1)]
    pub more: bool,
}
call!(Holders, "network.holders", HoldersPage, Refusal);

/// What lies there sealed for a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Sealed {
    #[n(0)]
    pub client: ClientId,
    #[n(1)]
    pub network: NetworkId,
}

/// The answer to [`Sealed`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SealedSecret {
    #[n(0)]
    pub seal: Option<Seal>,
}
call!(Sealed, "network.sealed", SealedSecret, Refusal);

/// A member has a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Prove {
    #[n(0)]
    pub client: ClientId,
    #[n(1)]
    pub network: NetworkId,
    #[n(2)]
    pub epoch: SecretEpoch,
    #[n(3)]
    pub proof: SecretProof,
}
call!(Prove, "network.prove", (), Refusal);

/// A member wants to show that it is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Membership {
    #[n(0)]
    pub client: ClientId,
    #[n(1)]
    pub network: NetworkId,
}

/// The answer to [`Membership`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MembershipProof {
    #[n(0)]
    pub ticket: Signed<MembershipTicket>,
    #[n(1)]
    pub removals: Signed<Removals>,
}
call!(Membership, "network.membership", MembershipProof, Refusal);

/// A client changes its nickname in all its networks.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SetNick {
    #[n(0)]
    pub client: ClientId,
    #[n(1)]
    pub nick: Nickname,
}
call!(SetNick, "network.set-nick", (), Refusal);

/// What changed in a network after a revision, for a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ChangesSince {
    #[n(0)]
    pub client: ClientId,
    #[n(1)]
    pub network: NetworkId,
    #[n(2)]
    pub revision: Revision,
}
call!(ChangesSince, "network.changes-since", NetworkChange, Refusal);

/// A client has data for a peer and no path to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Connect {
    #[n(0)]
    pub client: ClientId,
    #[n(1)]
    pub peer: ClientId,
}
call!(Connect, "network.connect", (), Refusal);

/// A client wants another relay for the pair with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AnotherRelay {
    #[n(0)]
    pub client: ClientId,
    #[n(1)]
    pub peer: ClientId,
    /// This one does not answer it, or wants to be left.
    #[n(2)]
    pub leaves: Option<RelayId>,
}
call!(AnotherRelay, "network.another-relay", (), Refusal);

/// A page of sessions, for operators.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Sessions {
    /// Where the last page ended.
    #[n(0)]
    pub after: Option<ClientId>,
    #[n(1)]
    pub limit: u16,
}

/// The answer to [`Sessions`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SessionsPage {
    #[n(0)]
    pub sessions: Vec<SessionRow>,
    #[n(1)]
    pub more: bool,
}

/// One session as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SessionRow {
    #[n(0)]
    pub client: ClientId,
    #[n(1)]
    pub gateway: InstanceId,
    #[n(2)]
    pub epoch: Epoch,
    #[n(3)]
    pub since: UnixMillis,
    #[n(4)]
    pub class: Option<NatClass>,
}
call!(Sessions, "network.sessions", SessionsPage, Refusal);

/// A page of networks, for operators.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Networks {
    #[n(0)]
    pub after: Option<NetworkId>,
    #[n(1)]
    pub limit: u16,
}

/// The answer to [`Networks`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct NetworksPage {
    #[n(0)]
    pub networks: Vec<NetworkRow>,
    #[n(1)]
    pub more: bool,
}

/// One network as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct NetworkRow {
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
    #[n(5)]
    pub revision: Revision,
    #[n(6)]
    pub created: UnixMillis,
    #[n(7)]
    #[cbor(default)]
    pub kind: NetworkKind,
}
call!(Networks, "network.networks", NetworksPage, Refusal);
