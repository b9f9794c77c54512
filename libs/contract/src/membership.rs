//! The keys that memberships are signed with; what is signed is in [`domain::MembershipTicket`] and [`domain::Removals`].
//!
//! A file holds them, 32 bytes each: the first signs, all are told to clients. So a new key is appended first, moved to the
//! front once every client has logged in again, and the old one is taken out when nobody can have anything signed by it.

use std::fmt;

use domain::{
    ClientId, MAX_MEMBERSHIP_KEYS, MembershipKey, MembershipTicket, Removals, Signature, Signed, Statement,
    TICKET_LIFETIME,
};
use ring::signature::{Ed25519KeyPair, KeyPair as _};

/// Bytes of one key.
pub const SEED_BYTES: usize = 32;

/// Why there are no keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("one to {MAX_MEMBERSHIP_KEYS} keys of {SEED_BYTES} bytes are expected")]
pub struct SeedsError;

/// Signs who is a member.
pub struct MembershipSigner {
    pair: Ed25519KeyPair,
    keys: Vec<MembershipKey>,
}

impl MembershipSigner {
    /// The signer with the keys in `seeds`.
    ///
    /// # Errors
    /// [`SeedsError`].
    pub fn from_seeds(seeds: &[u8]) -> Result<Self, SeedsError> {
        let (seeds, rest) = seeds.as_chunks::<SEED_BYTES>();
        if seeds.is_empty() || seeds.len() > MAX_MEMBERSHIP_KEYS || !rest.is_empty() {
            return Err(SeedsError);
        }
        let pair = |seed: &[u8; SEED_BYTES]| Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| SeedsError);
        let public = |seed| MembershipKey::try_from(pair(seed)?.public_key().as_ref()).map_err(|_| SeedsError);
        Ok(Self { pair: pair(&seeds[0])?, keys: seeds.iter().map(public).collect::<Result<_, _>>()? })
    }

    /// What clients verify with.
    #[must_use]
    pub fn keys(&self) -> &[MembershipKey] {
        &self.keys
    }

    /// The ticket of `client`, who is a member as of `removals`.
    #[must_use]
    pub fn ticket(&self, client: ClientId, removals: &Removals) -> Signed<MembershipTicket> {
        let Removals { network, revision, issued, .. } = *removals;
        self.sign(MembershipTicket { network, client, revision, issued, expires: issued.plus(TICKET_LIFETIME) })
    }

    /// Who is a member no more.
    #[must_use]
    pub fn removals(&self, removals: Removals) -> Signed<Removals> {
        self.sign(removals)
    }

    fn sign<T: Statement>(&self, claim: T) -> Signed<T> {
        Signed::sign(claim, &self.keys[0], |message| {
            let mut signature = [0; 64];
            signature.copy_from_slice(self.pair.sign(message).as_ref());
            Signature::from_bytes(signature)
        })
    }
}

impl fmt::Debug for MembershipSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MembershipSigner").field("keys", &self.keys).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use domain::{NetworkId, Revision, UnixMillis};

    use super::*;

    #[test]
    fn the_first_key_signs_and_clients_know_all() {
        let signer = MembershipSigner::from_seeds(&[[1; 32], [2; 32]].concat()).unwrap();
        let removals = Removals {
            network: NetworkId::from_bytes([7; 16]),
            revision: Revision(9),
            floor: Revision(0),
            issued: UnixMillis(5),
            removed: Vec::new(),
        };
        let ticket = signer.ticket(ClientId::from_bytes([3; 16]), &removals);
        let ticket = ticket.verify(&signer.keys()[..1]).unwrap();
        assert_eq!((ticket.revision, ticket.expires), (Revision(9), UnixMillis(5).plus(TICKET_LIFETIME)));
        let turned = MembershipSigner::from_seeds(&[[2; 32], [1; 32]].concat()).unwrap();
        assert!(turned.removals(removals.clone()).verify(signer.keys()).is_ok());
        assert!(turned.removals(removals).verify(&signer.keys()[..1]).is_err());
        assert!(!format!("{signer:?}").contains("01010101"));
    }

    #[test]
    fn other_files_are_refused() {
        for seeds in [0, 31, 33, 32 * (MAX_MEMBERSHIP_KEYS + 1)] {
            assert!(MembershipSigner::from_seeds(&vec![1; seeds]).is_err(), "{seeds}");
        }
        assert!(MembershipSigner::from_seeds(&[1; 32 * MAX_MEMBERSHIP_KEYS]).is_ok());
    }
}
