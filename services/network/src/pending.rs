//! What is remembered between the two halves of a join: sealed, and kept by the gateway.

use std::time::Duration;

use domain::{ClientId, NetworkId, SourcePrefix, UnixMillis};
use minicbor::{Decode, Encode};
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf,
    rand::{SecureRandom as _, SystemRandom},
};

use crate::limits::NameKey;

/// How long the second half may take: Argon2id at a slow client, and a bad line.
pub(crate) const LIFETIME: Duration = Duration::from_secs(30);

/// A join after its first half.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Pending {
    #[n(0)]
    pub(crate) client: ClientId,
    /// A random one for a name without a network: the size must not tell.
    #[n(1)]
    pub(crate) network: NetworkId,
    #[cbor(n(2), with = "minicbor::bytes")]
    pub(crate) name_key: [u8; 16],
    #[n(3)]
    pub(crate) source: SourcePrefix,
    /// When the attempt was taken out of the budgets.
    #[n(4)]
    pub(crate) taken: UnixMillis,
    /// Names the join, so that it can be repeated.
    #[cbor(n(5), with = "minicbor::bytes")]
    pub(crate) request: [u8; 16],
    /// The server's state of the protocol.
    #[cbor(n(6), with = "minicbor::bytes")]
    pub(crate) state: Vec<u8>,
}

impl Pending {
    pub(crate) fn name_key(&self) -> NameKey {
        NameKey(self.name_key)
    }
}

/// Seals for this role and opens what it sealed, in whichever process.
pub(crate) struct Sealer(LessSafeKey);

impl Sealer {
    /// The sealer that belongs to a set-up.
    pub(crate) fn of(setup: &[u8]) -> Self {
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, b"buri pending join v1").extract(setup);
        let derived = root.expand(&[b"seal"], &CHACHA20_POLY1305).map(UnboundKey::from);
        Self(LessSafeKey::new(derived.expect("32 bytes are less than HKDF's limit of 255 blocks")))
    }

    /// Nonce, then ciphertext. Nonces are random: 2^32 joins under one set-up leave a collision unlikely.
    pub(crate) fn seal(&self, pending: &Pending) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).expect("the system's random numbers are there since the process started");
        let mut sealed = minicbor::to_vec(pending).expect("a vector takes every byte");
        self.0
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut sealed)
            .expect("a join is far below the cipher's limit of 256 GiB");
        [nonce.as_slice(), &sealed].concat()
    }

    /// What was sealed for `client` and is not too old at `now`; `None` for everything else.
    pub(crate) fn open(&self, mut sealed: Vec<u8>, client: ClientId, now: UnixMillis) -> Option<Pending> {
        let (nonce, ciphertext) = sealed.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let opened = self.0.open_in_place(nonce, Aad::empty(), ciphertext).ok()?;
        let pending: Pending = minicbor::decode(opened).ok()?;
        (pending.client == client && now.since(pending.taken) <= LIFETIME).then_some(pending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    fn pending() -> Pending {
        Pending {
            client: ClientId::from_bytes([1; 16]),
            network: NetworkId::from_bytes([2; 16]),
            name_key: [3; 16],
            source: SourcePrefix::of("203.0.113.1".parse().unwrap()),
            taken: NOW,
            request: [4; 16],
            state: vec![5; 192],
        }
    }

    #[test]
    fn a_join_opens_for_its_client_within_its_time() {
        let sealer = Sealer::of(b"setup");
        let sealed = sealer.seal(&pending());
        let other = ClientId::from_bytes([9; 16]);
        assert!(sealer.open(sealed.clone(), pending().client, NOW.plus(LIFETIME)) == Some(pending()));
        assert!(sealer.open(sealed.clone(), other, NOW).is_none());
        assert!(sealer.open(sealed.clone(), pending().client, NOW.plus(LIFETIME + LIFETIME)).is_none());
        assert!(Sealer::of(b"another").open(sealed, pending().client, NOW).is_none());
    }

    #[test]
    fn an_altered_join_does_not_open() {
        let sealer = Sealer::of(b"setup");
        let sealed = sealer.seal(&pending());
        for position in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[position] ^= 1;
            assert!(sealer.open(altered, pending().client, NOW).is_none(), "{position}");
            assert!(sealer.open(sealed[..position].to_vec(), pending().client, NOW).is_none(), "{position}");
        }
    }
}
