//! Clients that change their keys.

use domain::{ClientId, IdentityKey, KeyRotation, NetworkId, UnixMillis};

use crate::Error;

/// A client whose new keys were checked goes over to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    pub client: ClientId,
    /// The key that counts until now.
    pub from: IdentityKey,
    pub keys: KeyRotation,
}

/// A key that was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GivenUp {
    pub identity: IdentityKey,
    pub client: ClientId,
    pub at: UnixMillis,
}

/// A client has its new keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotated {
    /// Whose members are still to be told; none when the rotation is repeated.
    pub networks: Vec<NetworkId>,
    /// When it happened first.
    pub at: UnixMillis,
}

/// Why a client was not logged in.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    #[error("this is not, or no longer, the key of its client")]
    Rotated,
    #[error("storage failed")]
    Store(#[from] Error),
}

/// Why a client keeps its key.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    #[error("the key before is not, or no longer, the client's")]
    Rotated,
    #[error("the new key is or was somebody's")]
    Taken,
    #[error("the key was changed as often as it may be")]
    LimitReached,
    #[error("the client is blocked")]
    Blocked,
    #[error("storage failed")]
    Store(#[from] Error),
}
