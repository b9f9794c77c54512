//! The preshared key of a pair, from the secret of a network.

use domain::{ClientId, NetworkId};
use ring::hkdf;

/// What the members of a network share and the server never sees.
#[derive(Clone, PartialEq, Eq)]
pub struct NetworkSecret([u8; 32]);

/// The preshared key (WireGuard, section 5.4) of two members of a network.
#[derive(Clone, PartialEq, Eq)]
pub struct PairKey([u8; 32]);

impl NetworkSecret {
    /// The secret with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, to be sealed or saved.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PairKey {
    /// The key of `one` and `other`, in any order, as members of `network`: HKDF-SHA256 (RFC 5869).
    ///
    /// # Panics
    /// Never: 32 bytes are within what HKDF can give.
    #[must_use]
    pub fn derive(secret: &NetworkSecret, network: NetworkId, one: ClientId, other: ClientId) -> Self {
        let (low, high) = (one.min(other), one.max(other));
        let mut key = [0; 32];
        hkdf::Salt::new(hkdf::HKDF_SHA256, network.as_bytes())
            .extract(&secret.0)
            .expand(&[LABEL, low.as_bytes(), high.as_bytes()], hkdf::HKDF_SHA256)
            .and_then(|output| output.fill(&mut key))
            .expect("32 bytes are one block of SHA-256");
        Self(key)
    }

    pub(crate) const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

macro_rules! secret_value {
    ($name:ident) => {
        impl Drop for $name {
            fn drop(&mut self) {
                zeroize::Zeroize::zeroize(&mut self.0);
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    };
}

pub(crate) use secret_value;

secret_value!(NetworkSecret);
secret_value!(PairKey);

const LABEL: &[u8] = b"buri pair key v1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_key_is_the_same_for_both_and_nobody_else() {
        let [a, b, c] = [1, 2, 3].map(|id| ClientId::from_bytes([id; 16]));
        let [network, other] = [7, 8].map(|id| NetworkId::from_bytes([id; 16]));
        let secret = NetworkSecret::from_bytes([9; 32]);
        let key = PairKey::derive(&secret, network, a, b);

        assert_eq!(key, PairKey::derive(&secret, network, b, a));
        assert_ne!(key, PairKey::derive(&secret, network, a, c));
        assert_ne!(key, PairKey::derive(&secret, other, a, b));
        assert_ne!(key, PairKey::derive(&NetworkSecret::from_bytes([8; 32]), network, a, b));
    }

    #[test]
    fn the_derivation_never_changes() {
        let [a, b] = [1, 2].map(|id| ClientId::from_bytes([id; 16]));
        let key = PairKey::derive(&NetworkSecret::from_bytes([9; 32]), NetworkId::from_bytes([7; 16]), a, b);
        assert_eq!(key.as_bytes()[..8], GOLDEN);
    }

    /// Computed once; another value cuts every old client off.
    const GOLDEN: [u8; 8] = [236, 143, 168, 64, 55, 197, 55, 118];
}
