//! The secrets of a network over time, as far as the server knows them: by number, sealed, and never themselves.
//!
//! Two secrets count at a time. The *door* is what the password and the invites open. The newest is what the members' tunnels
//! are keyed with. At first, and after each change of the password, they are the same; an eviction leaves the door where it is
//! and makes a newer secret, which the members get sealed for each of them.

use std::fmt;

use minicbor::{Decode, Encode};

use crate::{ClientId, Revision};

/// Which of a network's secrets, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[cbor(transparent)]
#[serde(transparent)]
pub struct SecretEpoch(#[n(0)] pub u64);

impl SecretEpoch {
    /// That of the secret a network begins with.
    pub const FIRST: Self = Self(1);

    /// The one after it.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl Default for SecretEpoch {
    fn default() -> Self {
        Self::FIRST
    }
}

/// Whether somebody left who knows the newest secret.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(index_only)]
pub enum Wanted {
    #[default]
    #[n(0)]
    No,
    /// It went by itself: a newer secret within a minute or two does.
    #[n(1)]
    Soon,
    /// It was removed.
    #[n(2)]
    Now,
}

/// How a network stands with its secrets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct SecretState {
    /// The newest.
    #[n(0)]
    pub epoch: SecretEpoch,
    /// What the password opens, and every invite.
    #[n(1)]
    pub door: SecretEpoch,
    /// Whether owners and admins are to make a newer one.
    #[n(2)]
    pub wanted: Wanted,
    /// Members who proved an older secret, and for whom the newest was not sealed.
    #[n(3)]
    pub lacking: u32,
}

/// Shows to those who have a secret of the network that somebody else has it, too; means nothing to the server.
#[derive(Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct SecretProof(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 16]);

impl fmt::Debug for SecretProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretProof(..)")
    }
}

/// A secret sealed for one member; opaque to the server.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct Seal {
    #[n(0)]
    pub member: ClientId,
    /// At most [`Self::MAX_BYTES`].
    #[cbor(n(1), with = "minicbor::bytes")]
    pub bytes: Vec<u8>,
}

impl Seal {
    /// A seal of today has 217 bytes.
    pub const MAX_BYTES: usize = 256;

    /// Whether there is something in it, and not too much.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        (1..=Self::MAX_BYTES).contains(&self.bytes.len())
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seal").field("member", &self.member).finish_non_exhaustive()
    }
}

/// Seals in one message, so that it stays below the largest frame.
pub const MAX_SEALS: usize = 64;

/// Holders in one message.
pub const MAX_HOLDERS: usize = 256;

/// A newer secret, by whoever makes it.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct NewSecret {
    /// The one after the newest.
    #[n(0)]
    pub epoch: SecretEpoch,
    /// What the maker knew of the network. Somebody who was removed since then may have got a seal.
    #[n(1)]
    pub seen: Revision,
    /// The new door, if the password changes.
    #[n(2)]
    pub password: Option<NewPassword>,
    /// At most [`MAX_SEALS`]; others follow by themselves.
    #[n(3)]
    pub seals: Vec<Seal>,
}

impl fmt::Debug for NewSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewSecret")
            .field("epoch", &self.epoch)
            .field("seals", &self.seals.len())
            .finish_non_exhaustive()
    }
}

/// Another password.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct NewPassword {
    /// An OPAQUE registration record.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub record: Vec<u8>,
    /// The new secret, sealed under the export key.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub wrapped_secret: Vec<u8>,
}

impl fmt::Debug for NewPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NewPassword(..)")
    }
}

/// Which secret a member has proved to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Holder {
    #[n(0)]
    pub client: ClientId,
    #[n(1)]
    pub epoch: SecretEpoch,
    #[n(2)]
    pub proof: SecretProof,
    /// Whether the newest secret lies there sealed for it.
    #[n(3)]
    pub sealed: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_has_bounds_and_nothing_shows_what_is_sealed() {
        let seal = |size| Seal { member: ClientId::from_bytes([1; 16]), bytes: vec![0xab; size] };
        for (size, valid) in [(0, false), (1, true), (Seal::MAX_BYTES, true), (Seal::MAX_BYTES + 1, false)] {
            assert_eq!(seal(size).is_valid(), valid, "{size}");
        }
        let password = NewPassword { record: vec![0xab; 9], wrapped_secret: vec![0xab; 9] };
        let new = NewSecret {
            epoch: SecretEpoch(2),
            seen: Revision(3),
            password: Some(password.clone()),
            seals: vec![seal(9)],
        };
        for shown in [format!("{new:?}"), format!("{password:?}"), format!("{:?}", seal(9))] {
            assert!(!shown.contains("171") && !shown.contains("ab, "), "{shown}");
        }
    }
}
