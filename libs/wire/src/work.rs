//! Work that a server asks for before it does any: a hash that begins with so many zero bits.
//!
//! A puzzle is made of a key that only the server has, the connection it is for, the client that it is for, how hard it is
//! and until when it may be solved: whoever made it need not remember it, and nobody else can make one, take one along to
//! another connection, or make one easier. Checking a solution costs two hashes, whatever is wrong with it. Rejected: memory-hard
//! functions, whose check costs the server what it was to be spared.

use domain::{IdentityKey, UnixMillis};
use minicbor::{Decode, Encode};
use ring::{digest, hmac};

/// The hardest puzzle that a client works on: some seconds of one core.
pub const MOST_BITS: u8 = 24;

/// What is to be found: a number that makes the hash begin with `bits` zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Puzzle {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub seed: [u8; 32],
    #[n(1)]
    pub bits: u8,
    /// By the clock of whoever made it.
    #[n(2)]
    pub until: UnixMillis,
}

/// A puzzle and what was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Solution {
    #[n(0)]
    pub puzzle: Puzzle,
    #[n(1)]
    pub number: u64,
}

/// Why a solution is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WorkError {
    #[error("the puzzle was not made for this connection and client")]
    Foreign,
    #[error("the time for the puzzle is over")]
    Expired,
    #[error("the number does not solve the puzzle")]
    Wrong,
}

impl Puzzle {
    /// Whether `number` is what is to be found.
    #[must_use]
    pub fn is_solved_by(&self, number: u64) -> bool {
        zeros(&self.hashed(number)) >= u32::from(self.bits)
    }

    /// Tries `count` numbers from `first` on.
    #[must_use]
    pub fn search(&self, first: u64, count: u64) -> Option<u64> {
        (first..first.saturating_add(count)).find(|&number| self.is_solved_by(number))
    }

    fn hashed(&self, number: u64) -> [u8; 8] {
        let mut input = [0; CONTEXT.len() + 32 + 8];
        input[..CONTEXT.len()].copy_from_slice(CONTEXT);
        input[CONTEXT.len()..CONTEXT.len() + 32].copy_from_slice(&self.seed);
        input[CONTEXT.len() + 32..].copy_from_slice(&number.to_be_bytes());
        let hash = digest::digest(&digest::SHA256, &input);
        let mut beginning = [0; 8];
        beginning.copy_from_slice(&hash.as_ref()[..8]);
        beginning
    }
}

const CONTEXT: &[u8; 12] = b"buri work v1";

/// Makes puzzles and checks solutions.
pub struct PuzzleMaker(hmac::Key);

impl PuzzleMaker {
    /// One with a key that nobody else has. Puzzles of an older key are foreign.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// The puzzle for the client with this key on the connection with this hash of its handshake.
    #[must_use]
    pub fn make(&self, connection: &[u8], client: &IdentityKey, bits: u8, until: UnixMillis) -> Puzzle {
        let mut seed = [0; 32];
        seed.copy_from_slice(hmac::sign(&self.0, &bound(connection, client, bits, until)).as_ref());
        Puzzle { seed, bits, until }
    }

    /// Whether `solution` is one, for a puzzle that was made for this client on this connection.
    ///
    /// # Errors
    /// [`WorkError`].
    pub fn check(
        &self,
        now: UnixMillis,
        connection: &[u8],
        client: &IdentityKey,
        solution: &Solution,
    ) -> Result<(), WorkError> {
        let Puzzle { seed, bits, until } = solution.puzzle;
        hmac::verify(&self.0, &bound(connection, client, bits, until), &seed).map_err(|_| WorkError::Foreign)?;
        if now > until {
            return Err(WorkError::Expired);
        }
        if solution.puzzle.is_solved_by(solution.number) { Ok(()) } else { Err(WorkError::Wrong) }
    }
}

impl std::fmt::Debug for PuzzleMaker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PuzzleMaker(..)")
    }
}

/// Everything that a puzzle is bound to. The hash of the handshake is last: all others have one length.
fn bound(connection: &[u8], client: &IdentityKey, bits: u8, until: UnixMillis) -> Vec<u8> {
    [b"buri puzzle v1", client.as_bytes().as_slice(), &[bits], &until.0.to_be_bytes(), connection].concat()
}

fn zeros(beginning: &[u8; 8]) -> u32 {
    u64::from_be_bytes(*beginning).leading_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
    const UNTIL: UnixMillis = UnixMillis(NOW.0 + 30_000);

    #[test]
    fn a_puzzle_is_solved_by_trying_and_checked_at_once() {
        let (maker, client) = (PuzzleMaker::new(&[7; 32]), key(1));
        for bits in [0, 1, 8, 12] {
            let puzzle = maker.make(b"connection", &client, bits, UNTIL);
            let number = puzzle.search(0, u64::MAX).unwrap();
            let solution = Solution { puzzle, number };
            assert_eq!(maker.check(UNTIL, b"connection", &client, &solution), Ok(()));
            let late = maker.check(UnixMillis(UNTIL.0 + 1), b"connection", &client, &solution);
            assert_eq!(late, Err(WorkError::Expired));
        }
    }

    #[test]
    fn a_solution_is_good_for_one_client_on_one_connection_only() {
        let (maker, client) = (PuzzleMaker::new(&[7; 32]), key(1));
        let puzzle = maker.make(b"connection", &client, 8, UNTIL);
        let solution = Solution { puzzle, number: puzzle.search(0, u64::MAX).unwrap() };
        let foreign = Err(WorkError::Foreign);
        assert_eq!(maker.check(NOW, b"another", &client, &solution), foreign);
        assert_eq!(maker.check(NOW, b"connection", &key(2), &solution), foreign);
        assert_eq!(PuzzleMaker::new(&[8; 32]).check(NOW, b"connection", &client, &solution), foreign);
    }

    #[test]
    fn nobody_makes_a_puzzle_easier_or_longer_or_of_its_own() {
        let (maker, client) = (PuzzleMaker::new(&[7; 32]), key(1));
        let puzzle = maker.make(b"connection", &client, 20, UNTIL);
        for forged in [
            Puzzle { bits: 0, ..puzzle },
            Puzzle { until: UnixMillis(u64::MAX), ..puzzle },
            Puzzle { seed: [0; 32], bits: 0, until: UNTIL },
        ] {
            let checked = maker.check(NOW, b"connection", &client, &Solution { puzzle: forged, number: 1 });
            assert_eq!(checked, Err(WorkError::Foreign), "{forged:?}");
        }
        let wrong = (0..).find(|&number| !puzzle.is_solved_by(number)).unwrap();
        let checked = maker.check(NOW, b"connection", &client, &Solution { puzzle, number: wrong });
        assert_eq!(checked, Err(WorkError::Wrong));
    }

    #[test]
    fn no_bits_are_too_many_for_the_arithmetic() {
        let puzzle = Puzzle { seed: [1; 32], bits: u8::MAX, until: UNTIL };
        assert!((0..64).all(|number| !puzzle.is_solved_by(number)));
        assert_eq!(puzzle.search(u64::MAX, 9), None);
    }

    /// What every server and client must agree on. Computed once.
    #[test]
    fn the_hash_of_a_puzzle_never_changes() {
        let puzzle = Puzzle { seed: [5; 32], bits: 16, until: UNTIL };
        assert_eq!(puzzle.search(0, 1 << 24), Some(GOLDEN));
    }

    const GOLDEN: u64 = 7_251;

    fn key(number: u8) -> IdentityKey {
        IdentityKey::from_bytes([number; 32])
    }
}
