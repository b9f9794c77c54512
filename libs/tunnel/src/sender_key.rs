//! One ciphertext for many: the key that a client seals its floods in a network with, and its copies at the receivers.
//!
//! A sender makes a key of its own for each network that it floods, and gives it to members one by one, inside of their tunnels
//! ([`crate::Frame::Key`]); what is sealed with it can be opened by each of them, so that a relay can copy it. The key is for
//! the members as they are: as soon as one joins or leaves there is another one, so that neither a newcomer nor somebody who was
//! evicted reads a flood that was not for it. It wears out after [`SenderKey::MOST`] packets; how long it is used is up to the caller.
//!
//! ChaCha20-Poly1305 (RFC 8439) under a key that HKDF derives from the secret, the network and the sender; the nonce is a counter,
//! and network, sender and the key's id are authenticated along. The id is derived as well, so that nobody can choose a key to have the
//! id of somebody else's.
//!
//! # What it does not give
//! - Who of the holders sealed a packet: every member that was given the key could seal one itself. To bring it to others it
//!   would have to send in the name of the relay's pair of those two, so it takes a member **and** the relay to forge a flood of
//!   another member of that network. Packets to one peer, and everything else that is said in a tunnel, are not affected: they
//!   travel in the session of the pair.
//! - Forward secrecy within the life of a key, as the session of a pair has it only between its handshakes, too.
//!
//! Rejected: a key derived from the network's secret (anybody who ever had it could forge without the relay, and eviction
//! would change nothing), signatures (64 bytes and some 50 us a packet for what a LAN does not promise either).

use std::fmt;

use bytes::BytesMut;
use domain::{ClientId, NetworkId, Revision};
use ring::{
    aead::{self, Aad, LessSafeKey, Nonce, UnboundKey},
    hkdf,
};
use zeroize::Zeroize as _;

use crate::{INNER_MTU, Refusal, pair_key::secret_value};

/// What a sender's key is made of.
#[derive(Clone, PartialEq, Eq)]
pub struct SenderSecret([u8; 32]);

/// Names a key.
pub type KeyId = [u8; 8];

/// A key as it is given to a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handed {
    pub network: NetworkId,
    /// What the sender knows of the network's members when it hands the key over.
    pub revision: Revision,
    /// What was sealed before is not for this member.
    pub first: u32,
    pub secret: SenderSecret,
}

/// The sender's end of a key.
#[derive(Debug)]
pub struct SenderKey {
    secret: SenderSecret,
    key: Key,
    next: u32,
}

/// A receiver's end of a key.
#[derive(Debug)]
pub struct HeardKey {
    key: Key,
    first: u32,
    /// After the highest that was opened.
    next: u32,
    /// Which of the last ones were opened, by their place modulo the window.
    seen: [u64; WORDS],
}

/// What is derived of a secret.
struct Key {
    id: KeyId,
    aead: LessSafeKey,
    bound_to: [u8; BOUND],
}

impl SenderSecret {
    /// The secret with these bytes, which must be random.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl SenderKey {
    /// Packets that one key seals.
    pub const MOST: u32 = 1 << 20;

    /// What sealing adds to a packet.
    pub const OVERHEAD: usize = 16;

    /// A key of `sender` for the members of `network`.
    #[must_use]
    pub fn new(secret: SenderSecret, network: NetworkId, sender: ClientId) -> Self {
        Self { key: Key::derive(&secret, network, sender), secret, next: 0 }
    }

    /// Its name.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.key.id
    }

    /// Whether it seals nothing any more.
    #[must_use]
    pub const fn is_worn_out(&self) -> bool {
        self.next >= Self::MOST
    }

    /// The key for a member, for what is sealed from now on.
    #[must_use]
    pub fn handed(&self, revision: Revision) -> Handed {
        Handed { network: self.key.network(), revision, first: self.next, secret: self.secret.clone() }
    }

    /// Seals a packet; the number is to go along. `None` when the key is worn out, or the packet larger than a tunnel takes.
    pub fn seal(&mut self, packet: &[u8]) -> Option<(u32, Vec<u8>)> {
        if self.is_worn_out() || packet.len() > INNER_MTU {
            return None;
        }
        let mut sealed = Vec::with_capacity(packet.len() + Self::OVERHEAD);
        sealed.extend(packet);
        let aad = Aad::from(self.key.bound_to);
        self.key.aead.seal_in_place_append_tag(nonce(self.next), aad, &mut sealed).ok()?;
        let counter = self.next;
        self.next += 1;
        Some((counter, sealed))
    }
}

impl HeardKey {
    /// How late a packet may come, in packets.
    pub const WINDOW: u32 = 64 * WORDS as u32;

    /// The key that `sender` gave.
    #[must_use]
    pub fn new(handed: &Handed, sender: ClientId) -> Self {
        let key = Key::derive(&handed.secret, handed.network, sender);
        Self { key, first: handed.first, next: handed.first, seen: [0; WORDS] }
    }

    /// Its name.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.key.id
    }

    /// Opens what was sealed with this number, once.
    ///
    /// # Errors
    /// [`Refusal::Replayed`], [`Refusal::Malformed`], or [`Refusal::Foreign`] when it was not sealed with this key.
    pub fn open(&mut self, counter: u32, sealed: &[u8]) -> Result<BytesMut, Refusal> {
        if sealed.len() > INNER_MTU + SenderKey::OVERHEAD {
            return Err(Refusal::Malformed);
        }
        if self.was_seen(counter) {
            return Err(Refusal::Replayed);
        }
        let mut packet = BytesMut::from(sealed);
        let aad = Aad::from(self.key.bound_to);
        let opened = self.key.aead.open_in_place(nonce(counter), aad, &mut packet).map_err(|_| Refusal::Foreign)?;
        let length = opened.len();
        packet.truncate(length);
        self.see(counter);
        Ok(packet)
    }

    fn was_seen(&self, counter: u32) -> bool {
        if counter < self.first || counter >= SenderKey::MOST {
            return true;
        }
        let (word, bit) = place(counter);
        counter < self.next && (self.next - counter > Self::WINDOW || self.seen[word] & bit != 0)
    }

    fn see(&mut self, counter: u32) {
        if counter >= self.next {
            if counter - self.next >= Self::WINDOW {
                self.seen = [0; WORDS];
            }
            for passed in self.next.max(counter.saturating_sub(Self::WINDOW))..counter {
                let (word, bit) = place(passed);
                self.seen[word] &= !bit;
            }
            self.next = counter + 1;
        }
        let (word, bit) = place(counter);
        self.seen[word] |= bit;
    }
}

impl Key {
    fn derive(secret: &SenderSecret, network: NetworkId, sender: ClientId) -> Self {
        let whole = hkdf::Salt::new(hkdf::HKDF_SHA256, network.as_bytes()).extract(&secret.0);
        let fill = |label: &[u8], out: &mut [u8]| {
            whole
                .expand(&[label, sender.as_bytes()], Length(out.len()))
                .and_then(|output| output.fill(out))
                .expect("a key and an id are one block of SHA-256 each")
        };
        let (mut key, mut id) = ([0; 32], [0; 8]);
        fill(KEY_LABEL, &mut key);
        fill(ID_LABEL, &mut id);
        let aead = UnboundKey::new(&aead::CHACHA20_POLY1305, &key).expect("the key has the length of the cipher's");
        key.zeroize();
        let mut bound_to = [0; BOUND];
        bound_to[..16].copy_from_slice(network.as_bytes());
        bound_to[16..32].copy_from_slice(sender.as_bytes());
        bound_to[32..].copy_from_slice(&id);
        Self { id, aead: LessSafeKey::new(aead), bound_to }
    }

    fn network(&self) -> NetworkId {
        let mut network = [0; 16];
        network.copy_from_slice(&self.bound_to[..16]);
        NetworkId::from_bytes(network)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).finish_non_exhaustive()
    }
}

secret_value!(SenderSecret);

/// How much HKDF is to give.
struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn nonce(counter: u32) -> Nonce {
    let mut nonce = [0; 12];
    nonce[8..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

const fn place(counter: u32) -> (usize, u64) {
    ((counter / 64) as usize % WORDS, 1 << (counter % 64))
}

/// Of the window: ten seconds of floods at their rate.
const WORDS: usize = 16;
/// Network, sender, id.
const BOUND: usize = 16 + 16 + 8;
const KEY_LABEL: &[u8] = b"buri sender key v1";
const ID_LABEL: &[u8] = b"buri sender key id v1";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_sealed_is_opened_by_every_holder_once() {
        let mut key = key();
        let mut holders = [1, 2, 3].map(|_| HeardKey::new(&key.handed(REVISION), ALICE));
        for nth in 0..3_000_u32 {
            let packet = nth.to_be_bytes();
            let (counter, sealed) = key.seal(&packet).unwrap();
            assert_eq!((counter, sealed.len()), (nth, packet.len() + SenderKey::OVERHEAD));
            for holder in &mut holders {
                assert_eq!(holder.open(counter, &sealed).unwrap(), packet[..]);
                assert_eq!(holder.open(counter, &sealed), Err(Refusal::Replayed));
            }
        }
    }

    #[test]
    fn what_comes_late_is_opened_within_the_window() {
        let mut key = key();
        let mut holder = HeardKey::new(&key.handed(REVISION), ALICE);
        let all: Vec<_> = (0..=HeardKey::WINDOW).map(|_| key.seal(b"packet").unwrap()).collect();
        let (newest, sealed) = all.last().unwrap();
        assert!(holder.open(*newest, sealed).is_ok());
        for (late, outcome) in [(0, false), (1, true), (2, true), (HeardKey::WINDOW - 1, true)] {
            let (counter, sealed) = &all[late as usize];
            assert_eq!(holder.open(*counter, sealed).is_ok(), outcome, "{late}");
        }
        assert_eq!(holder.open(1, &all[1].1), Err(Refusal::Replayed));
    }

    #[test]
    fn what_was_sealed_before_the_key_was_given_stays_closed() {
        let mut key = key();
        let (before, sealed) = key.seal(b"before").unwrap();
        let mut holder = HeardKey::new(&key.handed(REVISION), ALICE);
        assert_eq!(holder.open(before, &sealed), Err(Refusal::Replayed));
        let (after, sealed) = key.seal(b"after").unwrap();
        assert_eq!(holder.open(after, &sealed).unwrap(), b"after"[..]);
    }

    #[test]
    fn another_key_network_sender_or_number_opens_nothing() {
        let mut key = key();
        let handed = key.handed(REVISION);
        let (counter, sealed) = key.seal(b"packet").unwrap();
        let other = Handed { secret: SenderSecret::from_bytes([8; 32]), ..handed.clone() };
        let elsewhere = Handed { network: NetworkId::from_bytes([6; 16]), ..handed.clone() };
        for mut holder in [
            HeardKey::new(&other, ALICE),
            HeardKey::new(&elsewhere, ALICE),
            HeardKey::new(&handed, ClientId::from_bytes([2; 16])),
        ] {
            assert_ne!(holder.id(), key.id());
            assert_eq!(holder.open(counter, &sealed), Err(Refusal::Foreign));
        }
        let mut holder = HeardKey::new(&handed, ALICE);
        assert_eq!(holder.open(counter + 1, &sealed), Err(Refusal::Foreign));
        // What was forged has taken no number.
        assert!(holder.open(counter, &sealed).is_ok());
    }

    #[test]
    fn a_key_wears_out() {
        let mut key = SenderKey { next: SenderKey::MOST - 1, ..key() };
        let mut holder = HeardKey::new(&key.handed(REVISION), ALICE);
        let (counter, sealed) = key.seal(b"the last one").unwrap();
        assert!(holder.open(counter, &sealed).is_ok());
        assert!(key.is_worn_out());
        assert_eq!(key.seal(b"one more"), None);
        assert_eq!(holder.open(SenderKey::MOST, &sealed), Err(Refusal::Replayed));
        assert_eq!(holder.open(u32::MAX, &sealed), Err(Refusal::Replayed));
    }

    #[test]
    fn the_largest_packet_is_that_of_a_tunnel() {
        let mut key = key();
        let mut holder = HeardKey::new(&key.handed(REVISION), ALICE);
        assert_eq!(key.seal(&[1; INNER_MTU + 1]), None);
        let (counter, sealed) = key.seal(&[1; INNER_MTU]).unwrap();
        assert_eq!(holder.open(counter + 1, &[&sealed[..], &[1]].concat()), Err(Refusal::Malformed));
        assert_eq!(holder.open(counter, &sealed).unwrap().len(), INNER_MTU);
        assert_eq!(holder.open(counter + 1, &[]), Err(Refusal::Foreign));
    }

    #[test]
    fn the_derivation_never_changes() {
        let mut key = key();
        assert_eq!(key.id(), GOLDEN_ID);
        assert_eq!(key.seal(b"").unwrap().1, GOLDEN_TAG);
    }

    proptest! {
        #[test]
        fn any_order_with_repeats_opens_each_once(order in proptest::collection::vec(0_u32..2_500, 1..400)) {
            let mut key = key();
            let all: Vec<_> = (0..2_500_u32).map(|nth| key.seal(&nth.to_be_bytes()).unwrap().1).collect();
            let mut holder = HeardKey::new(&Handed { first: 0, ..key.handed(REVISION) }, ALICE);
            let mut opened = std::collections::BTreeSet::new();
            let mut highest = 0;
            for counter in order {
                let outcome = holder.open(counter, &all[counter as usize]);
                let fresh = !opened.contains(&counter) && counter + HeardKey::WINDOW > highest;
                prop_assert_eq!(outcome.is_ok(), fresh, "{} after {}", counter, highest);
                if fresh {
                    opened.insert(counter);
                    highest = highest.max(counter);
                }
            }
        }

        #[test]
        fn any_damage_is_seen(at in 0..22_usize, bit in 0_u8..8) {
            let mut key = key();
            let mut holder = HeardKey::new(&key.handed(REVISION), ALICE);
            let (counter, mut sealed) = key.seal(b"packet").unwrap();
            sealed[at] ^= 1 << bit;
            prop_assert_eq!(holder.open(counter, &sealed), Err(Refusal::Foreign));
        }
    }

    fn key() -> SenderKey {
        SenderKey::new(SenderSecret::from_bytes([9; 32]), NetworkId::from_bytes([7; 16]), ALICE)
    }

    const ALICE: ClientId = ClientId::from_bytes([1; 16]);
    const REVISION: Revision = Revision(3);
    /// Computed by another program; other values cut every old client off.
    const GOLDEN_ID: KeyId = [117, 54, 46, 207, 160, 165, 179, 69];
    const GOLDEN_TAG: [u8; 16] = [107, 246, 81, 96, 41, 70, 5, 36, 239, 203, 243, 76, 130, 102, 210, 201];
}
