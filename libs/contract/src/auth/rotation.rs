//! Clients that change their keys.

use bus::{Delivery, Event};
use domain::{ClientId, IdentityKey, KeyRotation, UnixMillis};
use minicbor::{Decode, Encode};

/// A client that proved `from` in its session goes over to another key. Safe to repeat: the same rotation is the same answer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RotateKey {
    #[n(0)]
    pub client: ClientId,
    #[n(1)]
    pub from: IdentityKey,
    #[n(2)]
    pub rotation: KeyRotation,
}

/// Why a client keeps its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum RotateRefusal {
    /// `from` is not, or no longer, its key.
    #[n(0)]
    Rotated,
    /// A signature does not belong to its key.
    #[n(1)]
    Signature,
    /// The new key is or was somebody's.
    #[n(2)]
    Taken,
    /// It was changed as often as it may be.
    #[n(3)]
    LimitReached,
    /// The client is blocked.
    #[n(4)]
    Blocked,
    /// Storage failed; the number is in the log.
    #[n(5)]
    Internal {
        #[n(0)]
        incident: u64,
    },
    /// Storage has too much to do; nothing was done.
    #[n(6)]
    Busy,
}

call!(RotateKey, "auth.rotate-key", (), RotateRefusal);

/// A key that opens nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RetiredKey {
    #[n(0)]
    pub identity: IdentityKey,
    #[n(1)]
    pub client: ClientId,
    /// From then on no token for it is valid anyhow.
    #[n(2)]
    pub until: UnixMillis,
}

/// A client has another key. Sessions under the old one end, and tokens for it are worth nothing. Who misses it hears of it in
/// the reply to [`Keys`](super::Keys).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct KeyRetired {
    #[n(0)]
    pub key: RetiredKey,
}

impl Event for KeyRetired {
    const TOPIC: &'static str = "auth.key-retired";
    const DELIVERY: Delivery = Delivery::Everyone;
}
