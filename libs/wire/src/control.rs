//! Messages of the control connection, one per frame of the secure channel.
//!
//! A frame is one CBOR value (RFC 8949): `[number, {fields}]`. Unknown fields are skipped and absent optional fields are
//! `None`, so that an older peer keeps working; an unknown message number is [`FrameError::Unknown`] and to be ignored.
//! Requests carry an id that the client chooses; the [`ServerFrame::Reply`] repeats it.

use std::net::SocketAddr;

use domain::{
    Admissions, AttachCode, BlockNotice, ClientAccount, ClientId, Holder, IdentityKey, InviteToken, KeyRotation,
    KnownNetwork, MembershipKey, MembershipTicket, NatProfile, NetworkChange, NetworkId, NetworkName, NetworkOrder,
    NewSecret, Nickname, Observation, PairRecord, PunchId, PunchOrder, PunchPreparation, PunchReady, PunchReport,
    RelayId, RelayOffer, RelayPlace, RelayTrips, Removals, Revision, Seal, SecretEpoch, SecretProof, SessionTag,
    Signature, Signed, TunnelKey, UnixMillis, VirtualAddresses,
};
use minicbor::{Decode, Encode};

use crate::{
    Code,
    work::{Puzzle, Solution},
};

/// What a control connection asks for when its stream becomes a WebSocket.
pub const PATH: &str = "/control";

/// The protocol version that this code speaks.
pub const VERSION: u16 = 2;

/// From this version on clients solve puzzles, see [`ServerFrame::Work`].
pub const WORKING_VERSION: u16 = 2;

/// The oldest version that this code still understands.
pub const OLDEST_VERSION: u16 = 1;

/// The largest frame in bytes, before encryption.
pub const MAX_FRAME: usize = 32 * 1024;

/// Put before the handshake hash when a client signs its login.
pub const LOGIN_CONTEXT: &[u8] = b"buri login v1\0";

/// Members in one [`NetworkChange`], so that a frame stays below [`MAX_FRAME`]; larger changes travel as several.
pub const MAX_MEMBERS_PER_FRAME: usize = 64;

/// Why bytes are no frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("frame of {size} bytes is larger than {MAX_FRAME}")]
    TooLarge { size: usize },
    #[error("message of an unknown kind")]
    Unknown,
    #[error("malformed frame")]
    Malformed(#[from] minicbor::decode::Error),
    #[error("{count} bytes after the frame")]
    Trailing { count: usize },
}

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ClientFrame {
    #[n(0)]
    Login(#[n(0)] Box<Login>),
    /// Keepalive; the answer repeats the number. Also measures the round trip.
    #[n(1)]
    Ping(#[n(0)] u64),
    /// Asks for everything newer than what is known: the answer is [`ServerFrame::Change`] frames, then `Synced`.
    #[n(2)]
    Sync(#[n(0)] Vec<KnownNetwork>),
    #[n(3)]
    Request(#[n(0)] u32, #[n(1)] Request),
    /// The result of a NAT discovery.
    #[n(4)]
    Nat(#[n(0)] NatReport),
    #[n(5)]
    PunchReady(#[n(0)] PunchReady),
    #[n(6)]
    PunchReport(#[n(0)] PunchReport),
    /// The client leaves on purpose.
    #[n(7)]
    Goodbye,
    /// The answer to [`ServerFrame::Ping`], at once.
    #[n(8)]
    Pong(#[n(0)] u64),
    /// How far the relays are that were named; answered by [`ServerFrame::Relays`] when others are to be measured.
    #[n(9)]
    RelayTrips(#[n(0)] Box<RelayTrips>),
    /// The answer to [`ServerFrame::Work`].
    #[n(11)]
    Worked(#[n(0)] Box<Solution>),
}

/// Proves who the client is.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Login {
    #[n(0)]
    pub version: u16,
    #[n(1)]
    pub identity: IdentityKey,
    #[n(2)]
    pub tunnel: TunnelKey,
    /// By the identity key over the tunnel key (see `domain::TUNNEL_KEY_CONTEXT`).
    #[n(3)]
    pub tunnel_signature: Signature,
    /// By the identity key over [`LOGIN_CONTEXT`] and the hash of this connection's handshake.
    #[n(4)]
    pub signature: Signature,
    /// The nickname a new client starts with.
    #[n(5)]
    pub nick: Option<Nickname>,
    /// From an earlier session, to spare the server work.
    #[n(6)]
    pub token: Option<String>,
    #[n(7)]
    pub known: Vec<KnownNetwork>,
    /// Whose key it is, when it is not the client's first: such a key is never registered as a new client.
    #[n(8)]
    pub client: Option<ClientId>,
}

/// Something a client wants to have done. Safe to repeat.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Request {
    /// First half of a creation: an OPAQUE registration request (RFC 9807, section 5).
    #[n(0)]
    CreateStart(#[n(0)] NetworkName, #[cbor(n(1), with = "minicbor::bytes")] Vec<u8>),
    /// Second half: the OPAQUE registration record, and the network secret sealed under the export key.
    #[n(1)]
    CreateFinish(
        #[n(0)] NetworkName,
        #[cbor(n(1), with = "minicbor::bytes")] Vec<u8>,
        #[cbor(n(2), with = "minicbor::bytes")] Vec<u8>,
    ),
    /// First half of a join: an OPAQUE KE1 (RFC 9807, section 6).
    #[n(2)]
    JoinStart(#[n(0)] NetworkName, #[cbor(n(1), with = "minicbor::bytes")] Vec<u8>),
    /// Second half: the OPAQUE KE3 of the join that this connection started last.
    #[n(3)]
    JoinFinish(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    #[n(4)]
    Leave(#[n(0)] NetworkId),
    #[n(5)]
    SetNick(#[n(0)] Nickname),
    /// There is data for this peer and no path.
    #[n(6)]
    Connect(#[n(0)] ClientId),
    #[n(7)]
    Why(#[n(0)] ClientId),
    /// What changed in a network after a revision: the receiver noticed a gap.
    #[n(8)]
    ChangesSince(#[n(0)] NetworkId, #[n(1)] Revision),
    /// Another relay for the pair with this peer, if there is a better one. The named relay does not answer this client, or
    /// wants to be left.
    #[n(9)]
    Relay(#[n(0)] ClientId, #[n(1)] Option<RelayId>),
    /// The answer is [`ServerFrame::Change`] frames, then `Done`.
    #[n(16)]
    Order(#[n(0)] NetworkId, #[n(1)] NetworkOrder),
    /// Who waits at the door, and who is banned.
    #[n(17)]
    Admissions(#[n(0)] NetworkId),
    /// What opens a network whose members are known: the client was let in after it had asked.
    #[n(18)]
    Keys(#[n(0)] NetworkId),
    /// Joins by an invite. The second field is random and names the join, so that it can be repeated.
    #[n(19)]
    Redeem(#[n(0)] InviteToken, #[cbor(n(1), with = "minicbor::bytes")] [u8; 16]),
    /// First half of a change of the password: an OPAQUE registration request, for the secret of this epoch.
    #[n(20)]
    SetPassStart(#[n(0)] NetworkId, #[n(1)] SecretEpoch, #[cbor(n(2), with = "minicbor::bytes")] Vec<u8>),
    /// Makes this the newest secret. The answer is [`ServerFrame::Change`] frames, then `Done`.
    #[n(21)]
    RenewSecret(#[n(0)] NetworkId, #[n(1)] Box<NewSecret>),
    /// The secret of this epoch, the newest, for members who lack it; at most `domain::MAX_SEALS`.
    #[n(22)]
    HandSecret(#[n(0)] NetworkId, #[n(1)] SecretEpoch, #[n(2)] Vec<Seal>),
    /// Which members proved which secret: a page of them, after the named one.
    #[n(23)]
    Holders(#[n(0)] NetworkId, #[n(1)] Option<ClientId>),
    /// What lies there sealed for this client.
    #[n(24)]
    Sealed(#[n(0)] NetworkId),
    /// This client has the secret of this epoch.
    #[n(25)]
    Prove(#[n(0)] NetworkId, #[n(1)] SecretEpoch, #[n(2)] SecretProof),
    /// What this client shows other members to prove that it is one.
    #[n(26)]
    Membership(#[n(0)] NetworkId),
    /// Makes this client part of the account that made the code; answered like `Account`.
    #[n(40)]
    AttachAccount(#[n(0)] AttachCode),
    /// Takes this client out of its account.
    #[n(41)]
    DetachAccount,
    /// Asks to which account this client belongs.
    #[n(42)]
    Account,
    /// Another identity key and tunnel key for this client. Sessions under the old key end with [`Code::KeyRotated`], this one
    /// too, after the answer or before it.
    #[n(43)]
    RotateKey(#[n(0)] Box<KeyRotation>),
}

/// The successful answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Reply {
    #[n(0)]
    Done,
    /// To `CreateStart`: the OPAQUE registration response.
    #[n(1)]
    Registration(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    /// To `JoinStart`: the OPAQUE KE2.
    #[n(2)]
    Credential(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    /// To `CreateFinish`, `JoinFinish` and `Redeem`.
    #[n(3)]
    Joined(#[n(0)] Box<Joined>),
    /// To `Why`; `None` when the pair never negotiated.
    #[n(4)]
    Why(#[n(0)] Option<Box<PairRecord>>),
    /// To `JoinFinish`: the password was right, and an owner or admin has to approve.
    #[n(16)]
    Awaiting(#[n(0)] NetworkId, #[n(1)] NetworkName),
    #[n(17)]
    Admissions(#[n(0)] Box<Admissions>),
    /// To `Keys`: the network secret as it was given at creation.
    #[n(18)]
    Keys(
        #[cbor(n(0), with = "minicbor::bytes")] Vec<u8>,
        /// Which secret it is.
        #[n(1)]
        #[cbor(default)]
        SecretEpoch,
    ),
    /// To `Holders`, by id, and whether there are more.
    #[n(19)]
    Holders(#[n(0)] Vec<Holder>, #[n(1)] bool),
    /// To `Sealed`; `None` when nothing does.
    #[n(20)]
    Sealed(#[n(0)] Option<Box<Seal>>),
    /// To `Membership`.
    #[n(21)]
    Membership(#[n(0)] Box<Signed<MembershipTicket>>, #[n(1)] Box<Signed<Removals>>),
    /// To `AttachAccount` and `Account`; `None` for a client without an account.
    #[n(40)]
    Account(#[n(0)] Option<Box<ClientAccount>>),
}

/// A membership begins.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Joined {
    #[n(0)]
    pub network: NetworkId,
    #[n(1)]
    pub name: NetworkName,
    /// The client's own addresses from now on.
    #[n(2)]
    pub addresses: VirtualAddresses,
    /// As given at creation, or with the invite.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub wrapped_secret: Vec<u8>,
    /// Joined, but something is to be known: `AddressPoolExhausted`.
    #[n(4)]
    pub warning: Option<Code>,
    /// Which secret it is.
    #[n(5)]
    #[cbor(default)]
    pub door: SecretEpoch,
}

/// What a client found out about its NATs.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct NatReport {
    #[n(0)]
    pub profile: NatProfile,
    /// The reflectors' statements behind the profile, main socket first.
    #[n(1)]
    pub observations: Vec<Observation>,
}

/// What the server says.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ServerFrame {
    /// The login succeeded. `Change` frames and `Synced` follow.
    #[n(0)]
    Welcome(#[n(0)] Box<Welcome>),
    /// The connection ends without a session.
    #[n(1)]
    Refused(#[n(0)] Refused),
    #[n(2)]
    Pong(#[n(0)] u64),
    #[n(3)]
    Change(#[n(0)] NetworkChange),
    /// Everything up to now was sent. Networks in the list are those the client is a member of; all others are gone.
    #[n(4)]
    Synced(#[n(0)] VirtualAddresses, #[n(1)] Vec<NetworkId>),
    #[n(5)]
    Reply(#[n(0)] u32, #[n(1)] Reply),
    #[n(6)]
    Refusal(#[n(0)] u32, #[n(1)] Refused),
    #[n(7)]
    PeerUp(#[n(0)] ClientId),
    /// The peer said goodbye.
    #[n(8)]
    PeerDown(#[n(0)] ClientId),
    /// The peer vanished: check its tunnel, do not drop it.
    #[n(9)]
    PeerLost(#[n(0)] ClientId),
    #[n(10)]
    Relay(#[n(0)] Box<RelayOffer>),
    #[n(11)]
    Prepare(#[n(0)] PunchPreparation),
    #[n(12)]
    Go(#[n(0)] PunchOrder),
    /// A newer record of a pair, for `why` while the server is away.
    #[n(13)]
    Record(#[n(0)] Box<PairRecord>),
    /// The server may have missed something: send `Sync`.
    #[n(14)]
    Resync,
    /// A fresh resumption token.
    #[n(15)]
    Token(#[n(0)] String),
    /// The session ends.
    #[n(16)]
    Goodbye(#[n(0)] Refused),
    /// A punch came to nothing before GO; the record says why.
    #[n(17)]
    PunchOff(#[n(0)] PunchId),
    /// Measures the round trip: to be answered at once with the same number.
    #[n(18)]
    Ping(#[n(0)] u64),
    /// The relays to measure from now on.
    #[n(19)]
    Relays(#[n(0)] Vec<RelayPlace>),
    /// The server does not hear of this relay any more: look whether it carries, if something goes that way.
    #[n(20)]
    RelaySilent(#[n(0)] RelayId),
    /// Who is a member of a network no more, for other members who cannot hear it from a server.
    #[n(21)]
    Removals(#[n(0)] Box<Signed<Removals>>),
    /// Instead of an answer to the login: to be solved first.
    #[n(23)]
    Work(#[n(0)] Box<Puzzle>),
}

/// The server's side of a login.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Welcome {
    #[n(0)]
    pub client: ClientId,
    #[n(1)]
    pub nick: Option<Nickname>,
    #[n(2)]
    pub token: Option<String>,
    #[n(3)]
    pub now: UnixMillis,
    #[n(4)]
    pub keepalive_ms: u32,
    /// Marks the client's probes, so that nobody else can use what reflectors say about them.
    #[n(5)]
    pub tag: SessionTag,
    /// STUN endpoints: the first two differ in the port only, the third in the address.
    #[n(6)]
    pub reflectors: Vec<SocketAddr>,
    /// Prefix lengths of the virtual LAN, for the adapter.
    #[n(7)]
    pub prefix4: u8,
    #[n(8)]
    pub prefix6: u8,
    /// The relays to measure at first.
    #[n(9)]
    #[cbor(default)]
    pub relays: Vec<RelayPlace>,
    /// What memberships are verified with.
    #[n(10)]
    #[cbor(default)]
    pub membership_keys: Vec<MembershipKey>,
}

/// A coded refusal or end.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Refused {
    /// A `Code` by number, because a newer server may know more of them.
    #[n(0)]
    pub code: u16,
    /// Not before this long from now.
    #[n(1)]
    pub retry_after_ms: Option<u32>,
    /// Find it in the server's logs.
    #[n(2)]
    pub incident: Option<u64>,
    /// What an operator holds against the client, when that is why.
    #[n(3)]
    pub block: Option<Box<BlockNotice>>,
}

impl Refused {
    /// A refusal with nothing but its code.
    #[must_use]
    pub const fn because(code: Code) -> Self {
        Self { code: code.number(), retry_after_ms: None, incident: None, block: None }
    }

    /// The same, naming when to come back.
    #[must_use]
    pub fn after(code: Code, delay: std::time::Duration) -> Self {
        Self { retry_after_ms: Some(u32::try_from(delay.as_millis()).unwrap_or(u32::MAX)), ..Self::because(code) }
    }
}

impl ClientFrame {
    /// Reads one frame.
    ///
    /// # Errors
    /// [`FrameError`]; costs no more than the size of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        decode(bytes)
    }

    /// The bytes of this frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }
}

impl ServerFrame {
    /// Reads one frame.
    ///
    /// # Errors
    /// [`FrameError`]; costs no more than the size of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        decode(bytes)
    }

    /// The bytes of this frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }
}

fn encode<T: Encode<()>>(frame: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    minicbor::encode(frame, &mut bytes).expect("writing to a vector does not fail");
    bytes
}

fn decode<'b, T: Decode<'b, ()>>(bytes: &'b [u8]) -> Result<T, FrameError> {
    if bytes.len() > MAX_FRAME {
        return Err(FrameError::TooLarge { size: bytes.len() });
    }
    let mut decoder = minicbor::Decoder::new(bytes);
    let frame = decoder
        .decode()
        .map_err(|error| if error.is_unknown_variant() { FrameError::Unknown } else { FrameError::Malformed(error) })?;
    match bytes.len() - decoder.position() {
        0 => Ok(frame),
        count => Err(FrameError::Trailing { count }),
    }
}
