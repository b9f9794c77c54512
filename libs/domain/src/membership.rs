//! What a deployment signs about who is a member of a network, for members to show one another while no server answers.
//!
//! Two statements, each bound to one network and to one of its revisions, which is the epoch that both are compared by:
//!
//! - a [`MembershipTicket`] says that a client was a member at a revision. It is short-lived: after its end it convinces
//!   nobody of anything new;
//! - [`Removals`] say who was removed, or left, up to a revision, and is no member any more. They do not end: what was true at a
//!   revision stays so, and newer ones replace them. Everybody of whom they know nothing and who was a member after their floor
//!   still is one.
//!
//! Bytes, numbers big-endian: `[1, kind, key hint: 4]`, the fields, and an Ed25519 signature (RFC 8032) over
//! `buri membership v1`, a zero byte, and all of that. A ticket is `network: 16, client: 16, revision: 8, issued: 8,
//! expires: 8`; removals are `network: 16, revision: 8, floor: 8, issued: 8, count: 1` and as often `client: 16,
//! revision: 8`, newest first.

use std::time::Duration;

use minicbor::{Decode, Decoder, Encode, Encoder};

use crate::{ClientId, KeyError, MembershipKey, NetworkId, Revision, Signature, UnixMillis};

/// How long a ticket convinces.
pub const TICKET_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Departures that removals name: those before are below the floor.
pub const MAX_REMOVALS: usize = 32;

/// Keys that a deployment signs with: the one in use, those before, and the one to come.
pub const MAX_MEMBERSHIP_KEYS: usize = 4;

/// Put before what is signed.
const CONTEXT: &[u8] = b"buri membership v1\0";

/// A client was a member of a network at a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MembershipTicket {
    pub network: NetworkId,
    pub client: ClientId,
    pub revision: Revision,
    pub issued: UnixMillis,
    pub expires: UnixMillis,
}

/// Who is no member of a network any more, as of a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removals {
    pub network: NetworkId,
    pub revision: Revision,
    /// Who was removed with this revision or before it is not listed.
    pub floor: Revision,
    pub issued: UnixMillis,
    /// Newest first, at most [`MAX_REMOVALS`].
    pub removed: Vec<Removal>,
}

/// Somebody is no member since a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removal {
    pub client: ClientId,
    pub revision: Revision,
}

/// Bytes that are no such statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a statement about members")]
pub struct NoStatement;

/// Something with a signature, which [`Signed::verify`] looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed<T> {
    claim: T,
    /// The first bytes of the key.
    hint: [u8; 4],
    signature: Signature,
}

/// What can be signed.
pub trait Statement: Sized {
    const KIND: u8;

    /// Writes the fields.
    fn put(&self, bytes: &mut Vec<u8>);

    /// Reads the fields, all of `bytes`.
    fn read(bytes: &[u8]) -> Option<Self>;
}

impl<T: Statement> Signed<T> {
    /// Signs with the owner of `key`.
    pub fn sign(claim: T, key: &MembershipKey, sign: impl FnOnce(&[u8]) -> Signature) -> Self {
        let [a, b, c, d, ..] = *key.as_bytes();
        let hint = [a, b, c, d];
        let signature = sign(&[CONTEXT, &body(&claim, hint)].concat());
        Self { claim, hint, signature }
    }

    /// What it says, if the owner of one of `keys` signed it. Costs one signature check at most, unless keys begin alike.
    ///
    /// # Errors
    /// [`KeyError`] when none did.
    pub fn verify(&self, keys: &[MembershipKey]) -> Result<&T, KeyError> {
        let message = [CONTEXT, &body(&self.claim, self.hint)].concat();
        let named = keys.iter().take(MAX_MEMBERSHIP_KEYS).filter(|key| key.as_bytes().starts_with(&self.hint));
        named.into_iter().find_map(|key| key.verify(&message, &self.signature).ok()).ok_or(KeyError)?;
        Ok(&self.claim)
    }

    /// What it says, whoever signed it.
    #[must_use]
    pub const fn claim(&self) -> &T {
        &self.claim
    }

    /// The bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = body(&self.claim, self.hint);
        bytes.extend(self.signature.as_bytes());
        bytes
    }

    /// Reads all of `bytes`.
    ///
    /// # Errors
    /// [`NoStatement`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NoStatement> {
        let (body, signature) = bytes.split_last_chunk::<64>().ok_or(NoStatement)?;
        let ([VERSION, kind, hint @ ..], fields) = body.split_first_chunk::<6>().ok_or(NoStatement)? else {
            return Err(NoStatement);
        };
        let claim = T::read(fields).filter(|_| *kind == T::KIND).ok_or(NoStatement)?;
        Ok(Self { claim, hint: *hint, signature: Signature::from_bytes(*signature) })
    }
}

impl Statement for MembershipTicket {
    const KIND: u8 = 1;

    fn put(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.network.as_bytes());
        bytes.extend(self.client.as_bytes());
        for number in [self.revision.0, self.issued.0, self.expires.0] {
            bytes.extend(number.to_be_bytes());
        }
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let ticket = Self {
            network: NetworkId::from_bytes(fields.take()?),
            client: ClientId::from_bytes(fields.take()?),
            revision: Revision(fields.number()?),
            issued: UnixMillis(fields.number()?),
            expires: UnixMillis(fields.number()?),
        };
        fields.0.is_empty().then_some(ticket)
    }
}

impl Statement for Removals {
    const KIND: u8 = 2;

    fn put(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.network.as_bytes());
        for number in [self.revision.0, self.floor.0, self.issued.0] {
            bytes.extend(number.to_be_bytes());
        }
        let removed = &self.removed[..self.removed.len().min(MAX_REMOVALS)];
        bytes.extend(u8::try_from(removed.len()));
        for Removal { client, revision } in removed {
            bytes.extend(client.as_bytes());
            bytes.extend(revision.0.to_be_bytes());
        }
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let network = NetworkId::from_bytes(fields.take()?);
        let (revision, floor) = (Revision(fields.number()?), Revision(fields.number()?));
        let issued = UnixMillis(fields.number()?);
        let [count] = fields.take()?;
        if usize::from(count) > MAX_REMOVALS || floor > revision {
            return None;
        }
        let mut removed = Vec::with_capacity(count.into());
        let mut newest = revision;
        for _ in 0..count {
            let one = Removal { client: ClientId::from_bytes(fields.take()?), revision: Revision(fields.number()?) };
            if one.revision > newest || one.revision <= floor {
                return None;
            }
            newest = one.revision;
            removed.push(one);
        }
        fields.0.is_empty().then_some(Self { network, revision, floor, issued, removed })
    }
}

impl<T: Statement, C> Encode<C> for Signed<T> {
    fn encode<W: minicbor::encode::Write>(
        &self,
        encoder: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        encoder.bytes(&self.to_bytes())?.ok()
    }
}

impl<'b, T: Statement, C> Decode<'b, C> for Signed<T> {
    fn decode(decoder: &mut Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        Self::from_bytes(decoder.bytes()?).map_err(minicbor::decode::Error::custom)
    }
}

/// What is left to be read.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    fn number(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }
}

fn body<T: Statement>(claim: &T, hint: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![VERSION, T::KIND];
    bytes.extend(hint);
    claim.put(&mut bytes);
    bytes
}

const VERSION: u8 = 1;

#[cfg(test)]
mod tests {
    use ring::signature::{Ed25519KeyPair, KeyPair as _};

    use super::*;

    #[test]
    fn a_statement_has_these_bytes_and_reads_back() {
        let (pair, key) = key(1);
        let ticket = Signed::sign(ticket(), &key, |message| sign(&pair, message));
        assert_eq!(hex(&ticket.to_bytes()), TICKET);
        assert_eq!(Signed::from_bytes(&ticket.to_bytes()), Ok(ticket.clone()));
        let removals = Signed::sign(removals(2), &key, |message| sign(&pair, message));
        assert_eq!(hex(&removals.to_bytes()), REMOVALS);
        assert_eq!(Signed::from_bytes(&removals.to_bytes()), Ok(removals));
        assert_eq!(Signed::<Removals>::from_bytes(&ticket.to_bytes()), Err(NoStatement), "of the other kind");
        let cbor = minicbor::to_vec(&ticket).unwrap();
        assert_eq!(minicbor::decode::<Signed<MembershipTicket>>(&cbor).unwrap(), ticket);
    }

    #[test]
    fn only_the_deployment_can_sign_and_nothing_in_it_can_be_changed() {
        let ((pair, key), (stranger, other)) = (key(1), key(2));
        let signed = Signed::sign(removals(2), &key, |message| sign(&pair, message));
        assert_eq!(signed.verify(&[other, key]), Ok(&removals(2)));
        assert_eq!(signed.verify(&[other]), Err(KeyError));
        assert_eq!(signed.verify(&[]), Err(KeyError));
        let forged = Signed::sign(removals(2), &key, |message| sign(&stranger, message));
        assert_eq!(forged.verify(&[key, other]), Err(KeyError));
        let bytes = signed.to_bytes();
        for bit in 0..bytes.len() * 8 {
            let mut altered = bytes.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            let verified = Signed::<Removals>::from_bytes(&altered).is_ok_and(|altered| altered.verify(&[key]).is_ok());
            assert!(!verified, "{bit}");
        }
        for end in 0..bytes.len() {
            assert!(Signed::<Removals>::from_bytes(&bytes[..end]).is_err(), "{end}");
        }
        assert!(Signed::<Removals>::from_bytes(&[bytes, vec![0]].concat()).is_err());
    }

    #[test]
    fn removals_are_bounded_in_order_and_above_their_floor() {
        let (pair, key) = key(1);
        let signed = |removals: Removals| Signed::sign(removals, &key, |message| sign(&pair, message)).to_bytes();
        let most = signed(removals(MAX_REMOVALS));
        assert_eq!(most.len(), 111 + 24 * MAX_REMOVALS);
        assert!(Signed::<Removals>::from_bytes(&most).is_ok());
        assert_eq!(signed(removals(MAX_REMOVALS + 1)).len(), most.len(), "what is over is left out");
        for wrong in [
            Removals { floor: Revision(101), ..removals(0) },
            Removals { floor: Revision(100), ..removals(1) },
            Removals { revision: Revision(99), ..removals(1) },
            Removals { removed: removals(2).removed.into_iter().rev().collect(), ..removals(0) },
        ] {
            assert_eq!(Signed::<Removals>::from_bytes(&signed(wrong)), Err(NoStatement));
        }
    }

    fn ticket() -> MembershipTicket {
        MembershipTicket {
            network: NetworkId::from_bytes([7; 16]),
            client: ClientId::from_bytes([3; 16]),
            revision: Revision(5),
            issued: UnixMillis(1_000),
            expires: UnixMillis(2_000),
        }
    }

    fn removals(count: usize) -> Removals {
        let one = |number: usize| Removal {
            client: ClientId::from_bytes([u8::try_from(number).unwrap(); 16]),
            revision: Revision(100 - number as u64),
        };
        Removals {
            network: NetworkId::from_bytes([7; 16]),
            revision: Revision(100),
            floor: Revision(3),
            issued: UnixMillis(1_000),
            removed: (0..count).map(one).collect(),
        }
    }

    fn key(number: u8) -> (Ed25519KeyPair, MembershipKey) {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[number; 32]).unwrap();
        let key = MembershipKey::try_from(pair.public_key().as_ref()).unwrap();
        (pair, key)
    }

    fn sign(pair: &Ed25519KeyPair, message: &[u8]) -> Signature {
        Signature::try_from(pair.sign(message).as_ref()).unwrap()
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    const TICKET: &str = "01018a88e3dd0707070707070707070707070707070703030303030303030303030303030303000000000000000500000000\
        000003e800000000000007d0ebd753d1175669dd93130688c7430b6bd4e0ccde6b56fa1b66080a3e921f2bb05a85f303c3ab\
        332bb9dd57e21853b286b7c4f1784e9b185e9a0c993f7c5fb407";
    const REMOVALS: &str = "01028a88e3dd070707070707070707070707070707070000000000000064000000000000000300000000000003e802000000\
        000000000000000000000000000000000000000064010101010101010101010101010101010000000000000063476bc19363\
        08b84a1e930b75f1af9fda86ecbf63a54687587b156237895e64ae0705408affd1a22186adcc7c465080fe0271a1e833d19a\
        cc7c80944e7ce0420a";
}
