//! Invites: links that let somebody in without the password.
//!
//! A link is a random seed. Two values are derived from it: a token, which is shown to the server, and a key, which never
//! leaves the clients. The server knows an invite by the hash of its token, and keeps the network secret sealed under the key:
//! a leaked database holds neither what redeems an invite nor what opens the network.

use std::time::Duration;

use minicbor::{Decode, Encode};
use ring::digest;

use crate::{ClientId, InviteId, SecretEpoch, UnixMillis};

/// What redeems an invite. Whoever has it becomes a member.
#[derive(Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct InviteToken(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 32]);

impl std::fmt::Debug for InviteToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InviteToken(..)")
    }
}

impl InviteToken {
    /// What the server knows the invite by: the first half of SHA-256 over a label and the token.
    #[must_use]
    pub fn id(&self) -> InviteId {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"buri invite id v1");
        context.update(&self.0);
        let mut id = [0; 16];
        id.copy_from_slice(&context.finish().as_ref()[..16]);
        InviteId::from_bytes(id)
    }
}

/// An invite to be made.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct NewInvite {
    #[n(0)]
    pub id: InviteId,
    /// The network secret, sealed under the link's key; at most [`Self::MAX_SEALED_BYTES`].
    #[cbor(n(1), with = "minicbor::bytes")]
    pub sealed_secret: Vec<u8>,
    /// How many it lets in, 1 to [`Self::MAX_USES`].
    #[n(2)]
    pub uses: u32,
    /// For how long, 1 s to [`Self::MAX_LIFETIME`].
    #[n(3)]
    pub lifetime_s: u32,
    /// Which secret is sealed: that of the door.
    #[n(4)]
    #[cbor(default)]
    pub door: SecretEpoch,
}

impl NewInvite {
    /// The most that one invite lets in.
    pub const MAX_USES: u32 = 10_000;
    /// How long an invite lives at most.
    pub const MAX_LIFETIME: Duration = Duration::from_secs(366 * 24 * 3600);
    /// A sealed secret is 60 bytes long.
    pub const MAX_SEALED_BYTES: usize = 256;

    /// Whether everything is within its bounds.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        (1..=Self::MAX_USES).contains(&self.uses)
            && self.lifetime_s > 0
            && Duration::from_secs(self.lifetime_s.into()) <= Self::MAX_LIFETIME
            && (1..=Self::MAX_SEALED_BYTES).contains(&self.sealed_secret.len())
    }
}

impl std::fmt::Debug for NewInvite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewInvite").field("id", &self.id).field("uses", &self.uses).finish_non_exhaustive()
    }
}

/// An invite that may still let somebody in, as owners and admins see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
pub struct Invite {
    #[n(0)]
    pub id: InviteId,
    #[n(1)]
    pub maker: ClientId,
    #[n(2)]
    pub uses: u32,
    #[n(3)]
    pub remaining: u32,
    #[n(4)]
    #[serde(rename = "expires_unix_ms")]
    pub expires: UnixMillis,
}

/// Invites of one network.
pub const MAX_INVITES: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_inclusive() {
        let good = NewInvite {
            id: InviteId::from_bytes([1; 16]),
            sealed_secret: vec![0; 60],
            uses: 1,
            lifetime_s: 1,
            door: SecretEpoch::FIRST,
        };
        let longest = u32::try_from(NewInvite::MAX_LIFETIME.as_secs()).unwrap();
        let sized = |size| NewInvite { sealed_secret: vec![0; size], ..good.clone() };
        let used = |uses| NewInvite { uses, ..good.clone() };
        let living = |lifetime_s| NewInvite { lifetime_s, ..good.clone() };
        let most = NewInvite::MAX_SEALED_BYTES;
        for valid in [good.clone(), used(NewInvite::MAX_USES), living(longest), sized(most)] {
            assert!(valid.is_valid(), "{valid:?}");
        }
        let beyond =
            [used(0), used(NewInvite::MAX_USES + 1), living(0), living(longest + 1), sized(0), sized(most + 1)];
        for invalid in beyond {
            assert!(!invalid.is_valid(), "{invalid:?}");
        }
    }

    #[test]
    fn the_id_of_a_token_never_changes() {
        let id = InviteToken([7; 32]).id();
        assert_ne!(id, InviteToken([8; 32]).id());
        assert_eq!(id.to_string(), GOLDEN);
    }

    /// Computed once; another value makes every invite unknown.
    const GOLDEN: &str = "fe46bbd08fb7611e668c1c284ab08954";
}
