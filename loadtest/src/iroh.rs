//! The little of iroh-relay's protocol that two clients need to talk over a server: who they are, and frames. Pure.
//!
//! A client is known by an Ed25519 key. It signs a key that is derived from the server's challenge with BLAKE3, whose one
//! case that is needed here, texts of a block at most, is here too: nothing else of ours uses it. After that each message of
//! the WebSocket is a frame: its type, for whom or from whom, and a datagram.

use ring::signature::{Ed25519KeyPair, KeyPair as _};

/// Type, the other's key, and marks of congestion, in front of a datagram.
pub(crate) const HEADER: usize = 1 + KEY + 1;

/// What is agreed on in the handshake of the WebSocket.
pub(crate) const PROTOCOL: &str = "iroh-relay-v2";

const KEY: usize = 32;
const CONTEXT: &[u8] = b"iroh-relay handshake v1 challenge signature";

const CHALLENGE: u8 = 0;
const AUTH: u8 = 1;
const CONFIRMED: u8 = 2;
const TO_CLIENT: u8 = 4;
const FROM_CLIENT: u8 = 6;
const MANY_FROM_CLIENT: u8 = 7;
const PING: u8 = 9;
const PONG: u8 = 10;

/// A client by its key.
#[derive(Debug)]
pub(crate) struct Endpoint(Ed25519KeyPair);

/// What a client is known by.
pub(crate) type EndpointId = [u8; KEY];

/// What a server says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said<'a> {
    Challenge([u8; 16]),
    Confirmed,
    /// Datagrams of one length; the last may be shorter.
    Datagrams {
        bytes: &'a [u8],
        length: usize,
    },
    /// To be answered with these bytes.
    Ping(Vec<u8>),
    /// Nothing that matters here.
    Else,
}

impl Endpoint {
    pub(crate) fn new(seed: &[u8; 32]) -> anyhow::Result<Self> {
        Ok(Self(Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| anyhow::anyhow!("no key"))?))
    }

    pub(crate) fn id(&self) -> EndpointId {
        std::array::from_fn(|nth| self.0.public_key().as_ref()[nth])
    }

    /// The answer to a challenge.
    pub(crate) fn prove(&self, challenge: [u8; 16]) -> Vec<u8> {
        let signature = self.0.sign(&derive_key(CONTEXT, &challenge));
        let signature = signature.as_ref();
        [&[AUTH], &self.id()[..], &[u8::try_from(signature.len()).unwrap_or(0)], signature].concat()
    }
}

impl<'a> Said<'a> {
    pub(crate) fn parse(message: &'a [u8]) -> Self {
        let Some((&kind, rest)) = message.split_first() else { return Self::Else };
        match (kind, rest.get(KEY + 1..)) {
            (CHALLENGE, _) => rest.try_into().map_or(Self::Else, Self::Challenge),
            (CONFIRMED, _) => Self::Confirmed,
            (PING, _) => Self::Ping([&[PONG], rest].concat()),
            (FROM_CLIENT, Some(bytes)) => Self::Datagrams { bytes, length: bytes.len().max(1) },
            (MANY_FROM_CLIENT, Some(&[high, low, ref bytes @ ..])) => {
                Self::Datagrams { bytes, length: usize::from(u16::from_be_bytes([high, low]).max(1)) }
            }
            _ => Self::Else,
        }
    }
}

/// Writes the header of a datagram for `to` to the front of `out`.
pub(crate) fn write_header(out: &mut [u8], to: &EndpointId) {
    out[0] = TO_CLIENT;
    out[1..=KEY].copy_from_slice(to);
    out[1 + KEY] = 0;
}

/// BLAKE3's `derive_key`, for a context and a material of at most a block each.
fn derive_key(context: &[u8], material: &[u8]) -> [u8; 32] {
    let key = hash(IV, DERIVE_KEY_CONTEXT, context);
    let key = hash(key, DERIVE_KEY_MATERIAL, material);
    let mut bytes = [0; 32];
    for (out, word) in bytes.chunks_exact_mut(4).zip(key) {
        out.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn hash(key: [u32; 8], mode: u32, text: &[u8]) -> [u32; 8] {
    assert!(text.len() <= BLOCK, "one block");
    let mut block = [0; BLOCK];
    block[..text.len()].copy_from_slice(text);
    let mut words: [u32; 16] =
        std::array::from_fn(|nth| u32::from_le_bytes(std::array::from_fn(|byte| block[4 * nth + byte])));
    let length = u32::try_from(text.len()).unwrap_or(0);
    let [a, b, c, d, e, f, g, h] = key;
    let whole = mode | CHUNK_START | CHUNK_END | ROOT;
    let mut state = [a, b, c, d, e, f, g, h, IV[0], IV[1], IV[2], IV[3], 0, 0, length, whole];
    for round in 0..ROUNDS {
        for (nth, at) in MIXED.into_iter().enumerate() {
            mix(&mut state, at, words[2 * nth], words[2 * nth + 1]);
        }
        if round + 1 < ROUNDS {
            words = PERMUTATION.map(|from| words[from]);
        }
    }
    std::array::from_fn(|nth| state[nth] ^ state[nth + 8])
}

fn mix(state: &mut [u32; 16], [a, b, c, d]: [usize; 4], x: u32, y: u32) {
    for (word, by_d, by_b) in [(x, 16, 12), (y, 8, 7)] {
        state[a] = state[a].wrapping_add(state[b]).wrapping_add(word);
        state[d] = (state[d] ^ state[a]).rotate_right(by_d);
        state[c] = state[c].wrapping_add(state[d]);
        state[b] = (state[b] ^ state[c]).rotate_right(by_b);
    }
}

const BLOCK: usize = 64;
const ROUNDS: usize = 7;
const CHUNK_START: u32 = 1;
const CHUNK_END: u32 = 1 << 1;
const ROOT: u32 = 1 << 3;
const DERIVE_KEY_CONTEXT: u32 = 1 << 5;
const DERIVE_KEY_MATERIAL: u32 = 1 << 6;
const IV: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];
const PERMUTATION: [usize; 16] = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8];
/// Columns, then diagonals.
const MIXED: [[usize; 4]; 8] = [
    [0, 4, 8, 12],
    [1, 5, 9, 13],
    [2, 6, 10, 14],
    [3, 7, 11, 15],
    [0, 5, 10, 15],
    [1, 6, 11, 12],
    [2, 7, 8, 13],
    [3, 4, 9, 14],
];

#[cfg(test)]
mod tests {
    use ring::signature::{ED25519, UnparsedPublicKey};

    use super::*;

    #[test]
    fn keys_are_derived_as_the_published_vectors_say() {
        let hex = |bytes: [u8; 32]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let context = b"BLAKE3 2019-12-27 16:29:52 test vectors context";
        let empty = "2cc39783c223154fea8dfb7c1b1660f2ac2dcbd1c1de8277b0b0dd39b7e50d7d";
        let zero = "b3e2e340a117a499c6cf2398a19ee0d29cca2bb7404c73063382693bf66cb06c";
        assert_eq!((hex(derive_key(context, &[])).as_str(), hex(derive_key(context, &[0])).as_str()), (empty, zero));
    }

    #[test]
    fn a_challenge_is_answered_with_a_signature_of_what_is_derived_from_it() {
        let endpoint = Endpoint::new(&[7; 32]).unwrap();
        let answer = endpoint.prove([9; 16]);
        assert_eq!((answer[0], &answer[1..33], answer[33], answer.len()), (AUTH, &endpoint.id()[..], 64, 98));
        let key = UnparsedPublicKey::new(&ED25519, endpoint.id());
        key.verify(&derive_key(CONTEXT, &[9; 16]), &answer[34..]).unwrap();
    }

    #[test]
    fn datagrams_are_told_apart_from_the_rest() {
        let mut sent = [0xff; HEADER + 3];
        write_header(&mut sent, &[5; KEY]);
        assert_eq!((sent[0], &sent[1..33], &sent[33..]), (TO_CLIENT, &[5; KEY][..], &[0, 0xff, 0xff, 0xff][..]));
        let header = |kind: u8| [&[kind], &[5; KEY][..], &[0]].concat();
        let one = [header(FROM_CLIENT), b"abc".to_vec()].concat();
        assert_eq!(Said::parse(&one), Said::Datagrams { bytes: b"abc", length: 3 });
        let many = [header(MANY_FROM_CLIENT), vec![0, 2], b"abcde".to_vec()].concat();
        assert_eq!(Said::parse(&many), Said::Datagrams { bytes: b"abcde", length: 2 });
        assert_eq!(Said::parse(&[PING, 1, 2, 3, 4, 5, 6, 7, 8]), Said::Ping(vec![PONG, 1, 2, 3, 4, 5, 6, 7, 8]));
        assert_eq!(Said::parse(&[[CHALLENGE].as_slice(), &[3; 16]].concat()), Said::Challenge([3; 16]));
        for nothing in [&[][..], &[CHALLENGE, 1], &one[..20], &many[..35], &[99, 1]] {
            assert_eq!(Said::parse(nothing), Said::Else, "{nothing:?}");
        }
    }
}
