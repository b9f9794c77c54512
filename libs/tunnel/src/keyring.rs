//! The keys that a pair may have: the newest, and older ones for as long as the peer may not have the newest.
//!
//! A handshake of WireGuard mixes the preshared key in with its second message: who answers chooses it, and who began finds out
//! by trying. So who answers takes the newest, and goes on to the next older one when the peer begins again without having
//! taken up the answer. A packet under the newest key proves that the peer has it, and the older ones are forgotten.

use std::collections::VecDeque;

use crate::PairKey;

/// Newest first, with numbers that only rise.
pub(crate) struct Keyring {
    keys: VecDeque<(u32, PairKey)>,
    /// Under which key the handshakes were that chose these receiver indices, newest last.
    under: VecDeque<(u32, u32)>,
    /// Which of the keys the last answer was under, until the peer took it up.
    answered: Option<usize>,
}

impl Keyring {
    pub(crate) fn new(key: &PairKey) -> Self {
        Self { keys: VecDeque::from([(0, key.clone())]), under: VecDeque::new(), answered: None }
    }

    /// The newest.
    pub(crate) fn newest(&self) -> &PairKey {
        &self.keys[0].1
    }

    pub(crate) fn has_older(&self) -> bool {
        self.keys.len() > 1
    }

    /// A newer key; false when it is the newest already. Of too many the oldest is forgotten.
    pub(crate) fn add(&mut self, key: &PairKey) -> bool {
        if self.newest() == key {
            return false;
        }
        let number = self.keys[0].0.wrapping_add(1);
        self.keys.retain(|(_, older)| older != key);
        self.keys.push_front((number, key.clone()));
        self.keys.truncate(MAX_KEYS);
        self.answered = None;
        true
    }

    /// An older key that the peer may still have.
    pub(crate) fn add_older(&mut self, key: &PairKey) {
        if self.keys.len() < MAX_KEYS && self.keys.iter().all(|(_, known)| known != key) {
            let number = self.keys[self.keys.len() - 1].0.wrapping_sub(1);
            self.keys.push_back((number, key.clone()));
        }
    }

    pub(crate) fn forget_older(&mut self) {
        self.keys.truncate(1);
        self.answered = None;
    }

    /// The key to answer an initiation with.
    pub(crate) fn answer(&mut self) -> (u32, PairKey) {
        let next = self.answered.map_or(0, |last| (last + 1) % self.keys.len());
        self.answered = Some(next);
        self.keys[next].clone()
    }

    /// The initiation was not taken: the next one gets the answer that this one would have got.
    pub(crate) fn unanswer(&mut self, before: Option<usize>) {
        self.answered = before;
    }

    pub(crate) fn answered(&self) -> Option<usize> {
        self.answered
    }

    /// All keys, newest first, to try an answer with.
    pub(crate) fn tries(&self) -> Vec<(u32, PairKey)> {
        self.keys.iter().cloned().collect()
    }

    /// The handshake of this index is under that key.
    pub(crate) fn note(&mut self, index: u32, number: u32) {
        if self.under.len() == MAX_NOTES {
            self.under.pop_front();
        }
        self.under.push_back((index, number));
    }

    /// A packet for this index was authentic.
    pub(crate) fn handle_proof(&mut self, index: u32) {
        let Some(&(_, number)) = self.under.iter().rev().find(|(noted, _)| *noted == index) else { return };
        if let Some(place) = self.keys.iter().position(|(known, _)| *known == number) {
            self.keys.truncate(place + 1);
            self.answered = None;
        }
    }
}

/// Renewals that may follow one another while a peer is away.
const MAX_KEYS: usize = 4;
const MAX_NOTES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_go_from_the_newest_to_the_oldest_and_around() {
        let mut ring = Keyring::new(&key(1));
        assert!(!ring.add(&key(1)));
        assert!(ring.add(&key(2)) && ring.add(&key(3)));
        let answers: Vec<_> = (0..4).map(|_| ring.answer().1).collect();
        assert_eq!(answers, [key(3), key(2), key(1), key(3)]);
    }

    #[test]
    fn a_proof_forgets_what_is_older_and_nothing_else() {
        let mut ring = Keyring::new(&key(1));
        ring.add(&key(2));
        ring.add(&key(3));
        let numbers: Vec<u32> = ring.tries().iter().map(|(number, _)| *number).collect();
        ring.note(77, numbers[1]);
        ring.handle_proof(78);
        assert_eq!(ring.tries().len(), 3, "an index that nobody noted");
        ring.handle_proof(77);
        assert_eq!(ring.tries().into_iter().map(|(_, key)| key).collect::<Vec<_>>(), [key(3), key(2)]);
        ring.note(79, numbers[0]);
        ring.handle_proof(79);
        assert!(!ring.has_older());
    }

    #[test]
    fn keys_are_bounded() {
        let mut ring = Keyring::new(&key(0));
        for number in 1..=9 {
            ring.add(&key(number));
        }
        assert_eq!(ring.tries().len(), MAX_KEYS);
        ring.add_older(&key(50));
        assert_eq!(ring.tries().len(), MAX_KEYS);
        ring.forget_older();
        ring.add_older(&key(50));
        assert_eq!(ring.answer().1, key(9));
        assert_eq!(ring.answer().1, key(50));
    }

    fn key(number: u8) -> PairKey {
        use domain::{ClientId, NetworkId};
        let [a, b] = [1, 2].map(|id| ClientId::from_bytes([id; 16]));
        PairKey::derive(&crate::NetworkSecret::from_bytes([number; 32]), NetworkId::from_bytes([7; 16]), a, b)
    }
}
