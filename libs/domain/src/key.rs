//! Public keys and signatures. Private keys never leave the crates that make them.

use std::fmt;

use minicbor::{Decode, Encode};
use ring::signature::{ED25519, UnparsedPublicKey};

/// Put before a tunnel key when its owner signs it, so that the signature means nothing elsewhere.
pub const TUNNEL_KEY_CONTEXT: &[u8] = b"buri tunnel key v1\0";

/// A signature that does not belong to its message and key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not match")]
pub struct KeyError;

macro_rules! bytes_value {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
        #[cbor(transparent)]
        pub struct $name(#[cbor(n(0), with = "minicbor::bytes")] [u8; $len]);

        impl $name {
            /// The value with these bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The bytes of the value.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = std::array::TryFromSliceError;

            fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
                bytes.try_into().map(Self)
            }
        }

        impl fmt::Debug for $name {
            /// The first four bytes: enough to tell two values apart in a log.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                f.write_str("..")
            }
        }
    };
}

bytes_value! {
    /// The Ed25519 public key (RFC 8032) that a client is known by.
    IdentityKey, 32
}
bytes_value! {
    /// The X25519 public key (RFC 7748) of a client's tunnels.
    TunnelKey, 32
}
bytes_value! {
    /// An Ed25519 public key that a deployment signs memberships with.
    MembershipKey, 32
}
bytes_value! {
    /// An Ed25519 signature.
    Signature, 64
}

impl MembershipKey {
    /// Checks that the owner of this key signed `message`.
    ///
    /// # Errors
    /// [`KeyError`] when it did not, or when key or signature are not canonical.
    pub fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), KeyError> {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message, &signature.0).map_err(|_| KeyError)
    }
}

impl IdentityKey {
    /// Checks that the owner of this key signed `message`.
    ///
    /// # Errors
    /// [`KeyError`] when it did not, or when key or signature are not canonical.
    pub fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), KeyError> {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message, &signature.0).map_err(|_| KeyError)
    }

    /// Checks that the owner of this key signed `tunnel` as its tunnel key.
    ///
    /// # Errors
    /// [`KeyError`] when it did not.
    pub fn verify_tunnel_key(&self, tunnel: &TunnelKey, signature: &Signature) -> Result<(), KeyError> {
        self.verify(&[TUNNEL_KEY_CONTEXT, tunnel.as_bytes()].concat(), signature)
    }
}

#[cfg(test)]
mod tests {
    use ring::signature::{Ed25519KeyPair, KeyPair};

    use super::*;

    #[test]
    fn only_the_owner_can_vouch_for_a_tunnel_key() {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap();
        let identity = IdentityKey::try_from(pair.public_key().as_ref()).unwrap();
        let tunnel = TunnelKey::from_bytes([9; 32]);
        let signed = pair.sign(&[TUNNEL_KEY_CONTEXT, tunnel.as_bytes()].concat());
        let signature = Signature::try_from(signed.as_ref()).unwrap();

        assert_eq!(identity.verify_tunnel_key(&tunnel, &signature), Ok(()));
        assert_eq!(identity.verify_tunnel_key(&TunnelKey::from_bytes([8; 32]), &signature), Err(KeyError));
        assert_eq!(identity.verify(tunnel.as_bytes(), &signature), Err(KeyError));
    }
}
