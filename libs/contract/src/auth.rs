//! Calls to auth.

pub mod blocks;
pub mod operators;
mod rotation;

use domain::{
    AddressPrefix, BlockNotice, ClientId, IdentityKey, Nickname, RelayGrant, RelayReport, Signature, SourcePrefix,
    TunnelKey, UnixMillis,
};
use minicbor::{Decode, Encode};

pub use rotation::{KeyRetired, RetiredKey, RotateKey, RotateRefusal};

/// A client whose signature the gateway has checked logs in; a key never seen before is registered.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Login {
    #[n(0)]
    pub identity: IdentityKey,
    #[n(1)]
    pub tunnel: TunnelKey,
    /// By the identity key over the tunnel key.
    #[n(2)]
    pub tunnel_signature: Signature,
    /// For a new client.
    #[n(3)]
    pub nick: Option<Nickname>,
    /// What limits on registrations count by.
    #[n(4)]
    pub source: SourcePrefix,
    /// Whose key it is, when it is not the client's first: never registered.
    #[n(5)]
    pub client: Option<ClientId>,
    /// The narrowest prefix that is told apart (IPv4 /32, IPv6 /64): what blocks and the ladder of limits look at. Of an
    /// older gateway there is none; new keys are not registered without.
    #[n(6)]
    pub from: Option<AddressPrefix>,
    /// How hard the work was that the client did for this login, in bits; checked by the gateway.
    #[n(7)]
    pub worked: Option<u8>,
}

/// The client is known.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LoggedIn {
    #[n(0)]
    pub client: ClientId,
    /// This login registered the key.
    #[n(1)]
    pub registered: bool,
    #[n(2)]
    pub nick: Option<Nickname>,
    /// A resumption token, see [`crate::token`].
    #[n(3)]
    pub token: String,
    #[n(4)]
    pub token_expires: UnixMillis,
}

/// Why a login is refused.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum LoginRefusal {
    /// Too many new keys from this source.
    #[n(0)]
    RegistrationLimited {
        #[n(0)]
        retry_after_ms: u32,
    },
    /// The tunnel key is not signed by the identity key.
    #[n(1)]
    Signature,
    /// The client is blocked.
    #[n(2)]
    Blocked,
    /// Storage or signing failed; the number is in the log.
    #[n(3)]
    Internal {
        #[n(0)]
        incident: u64,
    },
    /// Storage has too much to do; nothing was done.
    #[n(4)]
    Busy,
    /// The key is not, or no longer, that of its client.
    #[n(9)]
    Rotated,
    /// The client is to solve a puzzle of so many bits first.
    #[n(10)]
    WorkNeeded {
        #[n(0)]
        bits: u8,
    },
    /// An operator holds something against the client or its account.
    #[n(11)]
    Withheld {
        #[n(0)]
        notice: Box<BlockNotice>,
        #[n(1)]
        retry_after_ms: u32,
    },
    /// An operator lets no new clients in from there.
    #[n(12)]
    RegistrationWithheld {
        #[n(0)]
        notice: Box<BlockNotice>,
        #[n(1)]
        retry_after_ms: u32,
    },
    /// This key logs in too often.
    #[n(13)]
    LoginLimited {
        #[n(0)]
        retry_after_ms: u32,
    },
}

call!(Login, "auth.login", LoggedIn, LoginRefusal);

/// A fresh resumption token for a client with a session.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Renew {
    #[n(0)]
    pub client: ClientId,
    #[n(1)]
    pub identity: IdentityKey,
    #[n(2)]
    pub tunnel: TunnelKey,
}

/// A token and its end.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Renewed {
    #[n(0)]
    pub token: String,
    #[n(1)]
    pub expires: UnixMillis,
}

call!(Renew, "auth.renew", Renewed, LoginRefusal);

/// Which keys tokens are verified with.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Keys;

/// A JSON Web Key Set (RFC 7517) of Ed25519 keys (RFC 8037).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct KeysReply {
    #[n(0)]
    pub jwks: String,
    /// Identity keys that were given up so lately that tokens for them may still be valid.
    #[n(1)]
    #[cbor(default)]
    pub retired: Vec<RetiredKey>,
}

call!(Keys, "auth.keys", KeysReply, LoginRefusal);

/// What a relay has spent of somebody's monthly quota, and a question for more. Safe to repeat, in any order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SettleRelay {
    #[n(0)]
    pub report: RelayReport,
}

/// Why a report is not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum SettleRefusal {
    /// Nobody has this payer's id: nothing is granted.
    #[n(0)]
    UnknownPayer,
    /// The lease is forgotten: the relay was away for too long and opens another one.
    #[n(1)]
    UnknownLease,
    /// More bytes than a relay can have forwarded.
    #[n(2)]
    Implausible,
    /// Storage failed; the number is in the log.
    #[n(3)]
    Internal {
        #[n(0)]
        incident: u64,
    },
    /// Storage has too much to do; nothing was done.
    #[n(4)]
    Busy,
}

call!(SettleRelay, "auth.settle-relay", RelayGrant, SettleRefusal);
