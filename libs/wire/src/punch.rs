//! The packets by which two clients look for a direct path: 36 bytes, authentic or ignored.
//!
//! ```text
//! 0        1        2   4                12           20          36
//! | kind   | attempt| 0 | punch number   | nonce      | MAC       |
//! | a0..a2 |        |   | big endian     | big endian | 16 bytes  |
//! ```
//! The MAC is HMAC-SHA-256, cut to 128 bits, under the key from PREPARE. It covers who of the two sent the packet, so
//! that a packet that is thrown back at its sender is not mistaken for the peer's.

use domain::{ClientId, PunchKind, PunchPacket};
use ring::hmac;
use subtle::ConstantTimeEq as _;

/// Size of every punch packet.
pub const PUNCH_SIZE: usize = 36;

const BODY: usize = 20;
const LABEL: &[u8] = b"buri punch v1";

/// Why a datagram is no punch packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PunchError {
    #[error("not a punch packet")]
    Malformed,
    #[error("a punch packet that the peer of this negotiation did not make")]
    Forged,
}

/// Seals the packets of one side of a negotiation and opens those of the other.
#[derive(Clone)]
pub struct PunchSeal {
    key: hmac::Key,
    /// Mixed into the MAC of packets that are sent; the peer has the opposite one.
    own: Side,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Lower = 0,
    Higher = 1,
}

/// Whether `datagram` is for a [`PunchSeal`], on a socket that also carries tunnels and STUN.
#[must_use]
pub fn is_punch(datagram: &[u8]) -> bool {
    datagram.len() == PUNCH_SIZE && (0xa0..=0xa2).contains(&datagram[0])
}

/// The negotiation that a punch packet claims to belong to, so that the right seal can be found.
#[must_use]
pub fn claimed_number(datagram: &[u8]) -> Option<u64> {
    is_punch(datagram).then(|| be_u64(&datagram[4..12]))
}

impl PunchSeal {
    /// The seal of `own`, who shares the `key` of PREPARE with `peer`.
    #[must_use]
    pub fn new(key: &[u8; 32], own: ClientId, peer: ClientId) -> Self {
        let own = if own < peer { Side::Lower } else { Side::Higher };
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key), own }
    }

    /// The bytes of `packet`.
    #[must_use]
    pub fn seal(&self, packet: &PunchPacket) -> [u8; PUNCH_SIZE] {
        let mut bytes = [0; PUNCH_SIZE];
        bytes[0] = match packet.kind {
            PunchKind::Opener => 0xa0,
            PunchKind::Probe => 0xa1,
            PunchKind::Answer => 0xa2,
        };
        bytes[1] = packet.attempt;
        bytes[4..12].copy_from_slice(&packet.number.to_be_bytes());
        bytes[12..BODY].copy_from_slice(&packet.nonce.to_be_bytes());
        let mac = self.mac(self.own, &bytes[..BODY]);
        bytes[BODY..].copy_from_slice(&mac);
        bytes
    }

    /// The packet that the peer sealed.
    ///
    /// # Errors
    /// [`PunchError`]; nothing is to be answered then.
    pub fn open(&self, datagram: &[u8]) -> Result<PunchPacket, PunchError> {
        let (body, mac) = match datagram.split_at_checked(BODY) {
            Some(parts) if datagram.len() == PUNCH_SIZE => parts,
            Some(_) | None => return Err(PunchError::Malformed),
        };
        let kind = match body[0] {
            0xa0 => PunchKind::Opener,
            0xa1 => PunchKind::Probe,
            0xa2 => PunchKind::Answer,
            _ => return Err(PunchError::Malformed),
        };
        let peer = if self.own == Side::Lower { Side::Higher } else { Side::Lower };
        if !bool::from(self.mac(peer, body).ct_eq(mac)) {
            return Err(PunchError::Forged);
        }
        Ok(PunchPacket { kind, attempt: body[1], number: be_u64(&body[4..12]), nonce: be_u64(&body[12..]) })
    }

    fn mac(&self, sender: Side, body: &[u8]) -> [u8; PUNCH_SIZE - BODY] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(LABEL);
        context.update(&[sender as u8]);
        context.update(body);
        let mut mac = [0; PUNCH_SIZE - BODY];
        mac.copy_from_slice(&context.sign().as_ref()[..PUNCH_SIZE - BODY]);
        mac
    }
}

impl std::fmt::Debug for PunchSeal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PunchSeal(..)")
    }
}

/// The number in the first eight of `bytes`, zeros for those that are missing.
fn be_u64(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |number, &byte| number << 8 | u64::from(byte))
}
