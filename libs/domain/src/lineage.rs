//! How the identity key of a client is followed by another one, so that everybody can see that it is still the same client.
//!
//! A client is named after its first key. Each later key is vouched for by the one before it, and vouches for itself: whoever
//! has the whole line can check it against the client's id, and needs nobody's word for it. Who saw a longer line does not go
//! back to a shorter one, nor over to another: a key that was given up, and stolen, leads nobody astray who saw that.

use minicbor::{Decode, Encode};

use crate::{ClientId, IdentityKey, KeyError, Signature, TunnelKey};

/// Put before what both keys sign, so that their signatures mean nothing elsewhere.
const CONTEXT: &[u8] = b"buri key succession v1\0";

/// How often the key of a client can be followed by another one: members are told the whole line.
pub const MAX_SUCCESSIONS: usize = 8;

/// One key follows another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Succession {
    /// The later one.
    #[n(0)]
    pub identity: IdentityKey,
    /// By the one before it.
    #[n(1)]
    pub farewell: Signature,
    /// By the later one itself.
    #[n(2)]
    pub consent: Signature,
}

/// What a client asks for when it has made itself other keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct KeyRotation {
    #[n(0)]
    pub succession: Succession,
    #[n(1)]
    pub tunnel: TunnelKey,
    /// By the later identity key.
    #[n(2)]
    pub tunnel_signature: Signature,
}

/// The identity keys of one client, from the first to the newest.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Lineage {
    #[n(0)]
    first: IdentityKey,
    #[n(1)]
    successions: Vec<Succession>,
}

/// Why keys are not those of one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LineageError {
    #[error("a key was not vouched for by the one before it, or does not vouch for itself")]
    Signature(#[from] KeyError),
    #[error("a key follows itself")]
    Repeated,
    #[error("more than {MAX_SUCCESSIONS} keys followed the first")]
    TooLong,
}

impl Lineage {
    /// A client that still has its first key.
    #[must_use]
    pub const fn new(first: IdentityKey) -> Self {
        Self { first, successions: Vec::new() }
    }

    /// The line of keys that somebody claims. Nothing of it is checked.
    #[must_use]
    pub const fn claimed(first: IdentityKey, successions: Vec<Succession>) -> Self {
        Self { first, successions }
    }

    /// Whose keys they are.
    #[must_use]
    pub fn client(&self) -> ClientId {
        ClientId::of(&self.first)
    }

    /// The one that counts.
    #[must_use]
    pub fn newest(&self) -> IdentityKey {
        self.successions.last().map_or(self.first, |last| last.identity)
    }

    /// All of them, oldest first.
    pub fn keys(&self) -> impl Iterator<Item = &IdentityKey> {
        std::iter::once(&self.first).chain(self.successions.iter().map(|succession| &succession.identity))
    }

    /// Each change of the key, oldest first.
    #[must_use]
    pub fn successions(&self) -> &[Succession] {
        &self.successions
    }

    /// What the newest key and `next` have to sign for `next` to follow.
    #[must_use]
    pub fn statement(&self, next: &IdentityKey) -> Vec<u8> {
        statement(self.client(), self.successions.len(), &self.newest(), next)
    }

    /// The line with one more key.
    ///
    /// # Errors
    /// [`LineageError`]; only what is new is checked.
    pub fn followed_by(mut self, succession: Succession) -> Result<Self, LineageError> {
        if self.successions.len() >= MAX_SUCCESSIONS {
            return Err(LineageError::TooLong);
        }
        if self.keys().any(|key| *key == succession.identity) {
            return Err(LineageError::Repeated);
        }
        let statement = self.statement(&succession.identity);
        self.newest().verify(&statement, &succession.farewell)?;
        succession.identity.verify(&statement, &succession.consent)?;
        self.successions.push(succession);
        Ok(self)
    }

    /// Checks all of it: two signatures for each change of the key.
    ///
    /// # Errors
    /// [`LineageError`].
    pub fn verify(&self) -> Result<(), LineageError> {
        let grown = Self::new(self.first);
        self.successions.iter().try_fold(grown, |grown, succession| grown.followed_by(*succession)).map(drop)
    }

    /// Whether `known` is this line, or its beginning.
    #[must_use]
    pub fn continues(&self, known: &Self) -> bool {
        self.first == known.first && self.successions.starts_with(&known.successions)
    }
}

fn statement(client: ClientId, nth: usize, before: &IdentityKey, next: &IdentityKey) -> Vec<u8> {
    let nth = u32::try_from(nth).unwrap_or(u32::MAX).to_be_bytes();
    [CONTEXT, client.as_bytes(), &nth, before.as_bytes(), next.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use ring::signature::{Ed25519KeyPair, KeyPair as _};

    use super::*;

    #[test]
    fn a_line_of_keys_shows_whose_it_is() {
        let line = line(&[1, 2, 3]);
        assert_eq!(line.verify(), Ok(()));
        assert_eq!((line.client(), line.newest()), (ClientId::of(&key(1)), key(3)));
        assert_eq!(line.keys().copied().collect::<Vec<_>>(), [1, 2, 3].map(key));
        let bytes = minicbor::to_vec(&line).unwrap();
        assert_eq!(minicbor::decode::<Lineage>(&bytes).unwrap(), line);
    }

    #[test]
    fn a_key_follows_only_with_both_signatures() {
        let line = line(&[1, 2]);
        let good = succession(&line, 2, 3);
        for forged in [
            Succession { farewell: good.consent, ..good },
            Succession { consent: good.farewell, ..good },
            // A key that was given up vouches for nobody.
            succession(&line, 1, 3),
            Succession { identity: key(4), ..good },
        ] {
            assert_eq!(line.clone().followed_by(forged), Err(LineageError::Signature(KeyError)));
            let mut successions = line.successions().to_vec();
            successions.push(forged);
            assert!(Lineage::claimed(key(1), successions).verify().is_err());
        }
        assert!(line.followed_by(good).is_ok());
    }

    #[test]
    fn a_signature_counts_at_its_place_and_for_its_client_only() {
        let line = line(&[1, 2, 3]);
        let moved = vec![line.successions()[1], line.successions()[0]];
        assert!(Lineage::claimed(key(1), moved).verify().is_err());
        let other = Lineage::claimed(key(5), line.successions().to_vec());
        assert!(other.verify().is_err());
        // The same two keys, as the second and third of another client.
        let elsewhere = Lineage::claimed(key(2), vec![line.successions()[1]]);
        assert!(elsewhere.verify().is_err());
    }

    #[test]
    fn no_key_comes_twice_and_the_line_ends() {
        let mut grown = line(&[1, 2]);
        let again = succession(&grown, 2, 1);
        assert_eq!(grown.clone().followed_by(again), Err(LineageError::Repeated));
        for number in 3..=u8::try_from(MAX_SUCCESSIONS).unwrap() + 1 {
            let next = succession(&grown, number - 1, number);
            grown = grown.followed_by(next).unwrap();
        }
        assert_eq!(grown.successions().len(), MAX_SUCCESSIONS);
        let last = u8::try_from(MAX_SUCCESSIONS).unwrap() + 1;
        let over = succession(&grown, last, last + 1);
        assert_eq!(grown.followed_by(over), Err(LineageError::TooLong));
    }

    #[test]
    fn a_longer_line_continues_a_shorter_one_and_no_other() {
        let (short, long, fork) = (line(&[1, 2]), line(&[1, 2, 3]), line(&[1, 2, 4]));
        assert!(long.continues(&short) && long.continues(&long));
        assert!(!short.continues(&long) && !fork.continues(&long) && !line(&[2, 3]).continues(&short));
    }

    #[test]
    fn the_statement_never_changes() {
        let statement = Lineage::new(IdentityKey::from_bytes([1; 32])).statement(&IdentityKey::from_bytes([2; 32]));
        assert_eq!(statement.len(), 23 + 16 + 4 + 32 + 32);
        assert_eq!(&statement[..23], b"buri key succession v1\0");
        assert_eq!(statement[39..43], [0; 4]);
        assert_eq!((&statement[43..75], &statement[75..]), (&[1; 32][..], &[2; 32][..]));
    }

    fn pair(seed: u8) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
    }

    fn key(seed: u8) -> IdentityKey {
        IdentityKey::try_from(pair(seed).public_key().as_ref()).unwrap()
    }

    fn succession(line: &Lineage, before: u8, next: u8) -> Succession {
        let statement = line.statement(&key(next));
        let sign = |seed: u8| Signature::try_from(pair(seed).sign(&statement).as_ref()).unwrap();
        Succession { identity: key(next), farewell: sign(before), consent: sign(next) }
    }

    fn line(seeds: &[u8]) -> Lineage {
        seeds.windows(2).fold(Lineage::new(key(seeds[0])), |line, two| {
            let next = succession(&line, two[0], two[1]);
            line.followed_by(next).unwrap()
        })
    }
}
