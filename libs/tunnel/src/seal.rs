//! A newer secret of a network, sealed for one member; and the proof that somebody has one.
//!
//! The seal is keyed with a key agreement (X25519, RFC 7748) of a fresh key with the member's tunnel key, and with the secret
//! that the member has already. So it opens for nobody but that member: not for the server, and not for somebody who was
//! removed and knows the older secret. And nobody makes one who does not know the older secret: not the server. The maker
//! signs it with its identity key, so that the member knows whom to believe or not.
//!
//! What this does not withstand: a server that conspires with somebody who knows the older secret can call that one an admin,
//! because roles are the server's word. A change of the password shuts such a one out, as far as it was removed before.

use domain::{ClientId, Lineage, NetworkId, SecretEpoch, SecretProof, Signature, TunnelKey};
use gotatun::x25519;
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf, hmac,
};
use zeroize::{Zeroize as _, Zeroizing};

use crate::{Local, NetworkSecret};

/// One secret of a network, and which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumberedSecret {
    pub epoch: SecretEpoch,
    pub secret: NetworkSecret,
}

/// What a seal carries: the newest secret, and that of the door, which opens to who comes in by the password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedSecrets {
    pub newest: NumberedSecret,
    pub door: NumberedSecret,
}

/// For whom a seal is, and what it is bound to.
#[derive(Clone, Copy, Debug)]
pub struct Addressee<'a> {
    pub network: NetworkId,
    pub member: ClientId,
    /// Vouched for by the member's identity.
    pub tunnel: TunnelKey,
    /// What the member has.
    pub holds: &'a NumberedSecret,
}

/// Why a seal is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("not a seal")]
    Malformed,
    #[error("sealed with a secret that this client does not have")]
    OtherSecret,
    #[error("not signed by the one it names")]
    Unsigned,
    #[error("altered, or made without the older secret, or for another member")]
    Unopened,
}

/// A seal that was read and not opened yet.
#[derive(Clone, Copy, Debug)]
pub struct SealHeader {
    /// The secret that opens it.
    pub from: SecretEpoch,
    /// The secret in it.
    pub to: SecretEpoch,
    pub maker: ClientId,
}

/// Seals `secrets` for `to` by `maker`. `fresh` is random and used for nothing else; `sign` signs with the maker's identity key.
///
/// # Errors
/// [`SealError::Malformed`] when the member's tunnel key is none.
pub fn seal(
    secrets: &SealedSecrets,
    to: Addressee<'_>,
    maker: ClientId,
    fresh: [u8; 32],
    sign: impl FnOnce(&[u8]) -> Signature,
) -> Result<Vec<u8>, SealError> {
    let fresh = x25519::StaticSecret::from(fresh);
    let ephemeral = x25519::PublicKey::from(&fresh);
    let agreed = fresh.diffie_hellman(&x25519::PublicKey::from(*to.tunnel.as_bytes()));
    if !agreed.was_contributory() {
        return Err(SealError::Malformed);
    }
    let mut bytes = Vec::with_capacity(SIZE);
    bytes.push(VERSION);
    bytes.extend(to.holds.epoch.0.to_be_bytes());
    bytes.extend(secrets.newest.epoch.0.to_be_bytes());
    bytes.extend(maker.as_bytes());
    bytes.extend(ephemeral.as_bytes());
    let key = key(agreed.as_bytes(), &to, &bytes);
    let mut body = Zeroizing::new(Vec::with_capacity(BODY + TAG));
    body.extend(secrets.newest.secret.as_bytes());
    body.extend(secrets.door.epoch.0.to_be_bytes());
    body.extend(secrets.door.secret.as_bytes());
    // Each key seals once: the fresh key is part of it.
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key([0; NONCE_LEN]), Aad::empty(), &mut *body)
        .map_err(|_| SealError::Malformed)?;
    bytes.extend_from_slice(&body);
    let signature = sign(&signed(to.network, to.member, &bytes));
    bytes.extend(signature.as_bytes());
    Ok(bytes)
}

impl SealHeader {
    /// Reads what a seal says about itself. Nothing of it is proved.
    ///
    /// # Errors
    /// [`SealError::Malformed`].
    pub fn read(bytes: &[u8]) -> Result<Self, SealError> {
        if bytes.len() != SIZE || bytes[0] != VERSION {
            return Err(SealError::Malformed);
        }
        let number = |at: usize| bytes[at..].first_chunk().map(|bytes| SecretEpoch(u64::from_be_bytes(*bytes)));
        let maker = ClientId::try_from(&bytes[17..33]).map_err(|_| SealError::Malformed)?;
        let (from, to) = (number(1).ok_or(SealError::Malformed)?, number(9).ok_or(SealError::Malformed)?);
        Ok(Self { from, to, maker })
    }
}

impl Local {
    /// Opens a seal for this client, `to.member`, by the maker whose keys these are. One by an earlier key counts, too: it lay
    /// there while its maker changed keys; and whoever got hold of that key still lacks the older secret.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn open_seal(&self, bytes: &[u8], to: Addressee<'_>, maker: &Lineage) -> Result<SealedSecrets, SealError> {
        let header = SealHeader::read(bytes)?;
        if header.from != to.holds.epoch {
            return Err(SealError::OtherSecret);
        }
        let (rest, signature) = bytes.split_at(SIZE - SIGNATURE);
        let signature = Signature::try_from(signature).map_err(|_| SealError::Malformed)?;
        let signed = signed(to.network, to.member, rest);
        if maker.client() != header.maker || maker.keys().all(|key| key.verify(&signed, &signature).is_err()) {
            return Err(SealError::Unsigned);
        }
        let (head, body) = rest.split_at(HEAD);
        let ephemeral: [u8; 32] = head[33..].try_into().map_err(|_| SealError::Malformed)?;
        let agreed = self.agree(&TunnelKey::from_bytes(ephemeral)).ok_or(SealError::Unopened)?;
        let key = key(&agreed, &to, head);
        let mut body = Zeroizing::new(body.to_vec());
        let opened = key
            .open_in_place(Nonce::assume_unique_for_key([0; NONCE_LEN]), Aad::empty(), &mut body)
            .map_err(|_| SealError::Unopened)?;
        let (newest, rest) = opened.split_first_chunk::<32>().ok_or(SealError::Unopened)?;
        let (epoch, rest) = rest.split_first_chunk::<8>().ok_or(SealError::Unopened)?;
        let door = rest.first_chunk::<32>().ok_or(SealError::Unopened)?;
        let door =
            NumberedSecret { epoch: SecretEpoch(u64::from_be_bytes(*epoch)), secret: NetworkSecret::from_bytes(*door) };
        Ok(SealedSecrets {
            newest: NumberedSecret { epoch: header.to, secret: NetworkSecret::from_bytes(*newest) },
            door,
        })
    }
}

impl NumberedSecret {
    /// Shows that `member`, whose tunnel key this is, has this secret of `network`.
    #[must_use]
    pub fn prove(&self, network: NetworkId, member: ClientId, tunnel: &TunnelKey) -> SecretProof {
        let tag = hmac::sign(&self.proof_key(), &self.claim(network, member, tunnel));
        let mut proof = [0; 16];
        proof.copy_from_slice(&tag.as_ref()[..16]);
        SecretProof(proof)
    }

    /// Whether `proof` is that of `member`.
    #[must_use]
    pub fn is_proved(&self, network: NetworkId, member: ClientId, tunnel: &TunnelKey, proof: &SecretProof) -> bool {
        let expected = self.prove(network, member, tunnel);
        // All bits are looked at, whatever the first ones say.
        expected.0.iter().zip(&proof.0).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
    }

    fn proof_key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, self.secret.as_bytes())
    }

    fn claim(&self, network: NetworkId, member: ClientId, tunnel: &TunnelKey) -> Vec<u8> {
        let epoch = self.epoch.0.to_be_bytes();
        [PROOF, network.as_bytes().as_slice(), &epoch, member.as_bytes(), tunnel.as_bytes()].concat()
    }
}

fn key(agreed: &[u8; 32], to: &Addressee<'_>, head: &[u8]) -> LessSafeKey {
    let mut secret = Zeroizing::new([0; 64]);
    secret[..32].copy_from_slice(agreed);
    secret[32..].copy_from_slice(to.holds.secret.as_bytes());
    let mut bytes = [0; 32];
    hkdf::Salt::new(hkdf::HKDF_SHA256, SEAL)
        .extract(&*secret)
        .expand(&[to.network.as_bytes(), to.member.as_bytes(), to.tunnel.as_bytes(), head], hkdf::HKDF_SHA256)
        .and_then(|output| output.fill(&mut bytes))
        .expect("32 bytes are one block of SHA-256");
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &bytes).expect("the key has 32 bytes"));
    bytes.zeroize();
    key
}

fn signed(network: NetworkId, member: ClientId, bytes: &[u8]) -> Vec<u8> {
    [SIGNED, network.as_bytes().as_slice(), member.as_bytes(), bytes].concat()
}

const VERSION: u8 = 1;
const SEAL: &[u8] = b"buri secret seal v1";
const SIGNED: &[u8] = b"buri secret seal signature v1\0";
const PROOF: &[u8] = b"buri secret proof v1\0";
/// Version, two epochs, maker, fresh key.
const HEAD: usize = 1 + 8 + 8 + 16 + 32;
const BODY: usize = 32 + 8 + 32;
const TAG: usize = 16;
const SIGNATURE: usize = 64;
const SIZE: usize = HEAD + BODY + TAG + SIGNATURE;

#[cfg(test)]
mod tests {
    use domain::IdentityKey;
    use ring::signature::{Ed25519KeyPair, KeyPair as _};

    use super::*;

    #[test]
    fn a_seal_opens_for_its_member_and_for_nobody_else() {
        let lab = Lab::new();
        let bytes = lab.seal();
        assert_eq!(bytes.len(), 217);
        assert_eq!(lab.open(&bytes), Ok(lab.secrets()));

        let header = SealHeader::read(&bytes).unwrap();
        assert_eq!((header.from, header.to, header.maker), (SecretEpoch(3), SecretEpoch(5), lab.maker));
        // Another member that has the older secret, too: whoever was removed.
        let evicted = Local::new([8; 32]);
        assert_eq!(evicted.open_seal(&bytes, lab.to(&lab.holds), &lab.lineage), Err(SealError::Unopened));
        // The member without the older secret, as the server would have made it.
        let guess = NumberedSecret { secret: NetworkSecret::from_bytes([0; 32]), ..lab.holds.clone() };
        assert_eq!(lab.member.open_seal(&bytes, lab.to(&guess), &lab.lineage), Err(SealError::Unopened));
        let older = NumberedSecret { epoch: SecretEpoch(2), ..lab.holds.clone() };
        assert_eq!(lab.member.open_seal(&bytes, lab.to(&older), &lab.lineage), Err(SealError::OtherSecret));
    }

    #[test]
    fn a_seal_is_for_one_network_by_one_maker() {
        let lab = Lab::new();
        let bytes = lab.seal();
        let elsewhere = Addressee { network: NetworkId::from_bytes([9; 16]), ..lab.to(&lab.holds) };
        assert_eq!(lab.member.open_seal(&bytes, elsewhere, &lab.lineage), Err(SealError::Unsigned));
        let stranger = Ed25519KeyPair::from_seed_unchecked(&[6; 32]).unwrap();
        let stranger = IdentityKey::try_from(stranger.public_key().as_ref()).unwrap();
        assert_eq!(lab.member.open_seal(&bytes, lab.to(&lab.holds), &Lineage::new(stranger)), Err(SealError::Unsigned));
    }

    #[test]
    fn an_altered_or_shortened_seal_does_not_open() {
        let lab = Lab::new();
        let mut bytes = lab.seal();
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            assert!(lab.open(&bytes).is_err(), "{at}");
            bytes[at] ^= 1;
            assert_eq!(lab.open(&bytes[..at]), Err(SealError::Malformed));
        }
        bytes.push(0);
        assert_eq!(lab.open(&bytes), Err(SealError::Malformed));
    }

    #[test]
    fn a_tunnel_key_that_agrees_with_nobody_gets_no_seal() {
        let lab = Lab::new();
        let to = Addressee { tunnel: TunnelKey::from_bytes([0; 32]), ..lab.to(&lab.holds) };
        assert_eq!(seal(&lab.secrets(), to, lab.maker, [4; 32], |_| panic!("signed")), Err(SealError::Malformed));
    }

    #[test]
    fn a_proof_is_of_one_member_for_one_secret() {
        let lab = Lab::new();
        let (network, member, tunnel) = (lab.network, lab.client, lab.member.public());
        let proof = lab.holds.prove(network, member, &tunnel);
        assert!(lab.holds.is_proved(network, member, &tunnel, &proof));
        let other_key = Local::new([8; 32]).public();
        assert!(!lab.holds.is_proved(network, member, &other_key, &proof));
        assert!(!lab.holds.is_proved(network, lab.maker, &tunnel, &proof));
        assert!(!lab.holds.is_proved(NetworkId::from_bytes([9; 16]), member, &tunnel, &proof));
        let later = NumberedSecret { epoch: SecretEpoch(4), ..lab.holds.clone() };
        assert!(!later.is_proved(network, member, &tunnel, &proof));
        for bit in 0..128 {
            let mut altered = proof;
            altered.0[bit / 8] ^= 1 << (bit % 8);
            assert!(!lab.holds.is_proved(network, member, &tunnel, &altered), "{bit}");
        }
    }

    #[test]
    fn the_seal_and_the_proof_never_change() {
        let lab = Lab::new();
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let proof = lab.holds.prove(lab.network, lab.client, &lab.member.public());
        assert_eq!(hex(&proof.0), GOLDEN_PROOF);
        assert_eq!(hex(&lab.seal()[HEAD..HEAD + 16]), GOLDEN_SEAL);
    }

    #[test]
    fn what_is_secret_is_not_shown() {
        let lab = Lab::new();
        let shown = format!("{:?} {:?}", lab.secrets(), lab.to(&lab.holds));
        for number in ["2, 2", "3, 3", "5, 5"] {
            assert!(!shown.contains(number), "{shown}");
        }
    }

    struct Lab {
        network: NetworkId,
        member: Local,
        client: ClientId,
        pair: Ed25519KeyPair,
        lineage: Lineage,
        maker: ClientId,
        holds: NumberedSecret,
    }

    impl Lab {
        fn new() -> Self {
            let pair = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap();
            let identity = IdentityKey::try_from(pair.public_key().as_ref()).unwrap();
            Self {
                network: NetworkId::from_bytes([7; 16]),
                member: Local::new([9; 32]),
                client: ClientId::from_bytes([2; 16]),
                maker: ClientId::of(&identity),
                pair,
                lineage: Lineage::new(identity),
                holds: NumberedSecret { epoch: SecretEpoch(3), secret: NetworkSecret::from_bytes([3; 32]) },
            }
        }

        fn secrets(&self) -> SealedSecrets {
            SealedSecrets {
                newest: NumberedSecret { epoch: SecretEpoch(5), secret: NetworkSecret::from_bytes([5; 32]) },
                door: NumberedSecret { epoch: SecretEpoch(2), secret: NetworkSecret::from_bytes([2; 32]) },
            }
        }

        fn to<'a>(&self, holds: &'a NumberedSecret) -> Addressee<'a> {
            Addressee { network: self.network, member: self.client, tunnel: self.member.public(), holds }
        }

        fn seal(&self) -> Vec<u8> {
            let sign = |message: &[u8]| Signature::try_from(self.pair.sign(message).as_ref()).unwrap();
            seal(&self.secrets(), self.to(&self.holds), self.maker, [4; 32], sign).unwrap()
        }

        fn open(&self, bytes: &[u8]) -> Result<SealedSecrets, SealError> {
            self.member.open_seal(bytes, self.to(&self.holds), &self.lineage)
        }
    }

    /// Computed once; other values leave every older client with the older secret.
    const GOLDEN_PROOF: &str = "b60bb04688ac2ea112241db3f2e605b9";
    const GOLDEN_SEAL: &str = "3dc50a072e351c72f5a8f3f212ff4d39";
}
