//! Relay tickets: made by rendezvous, verified by the relay without asking anybody.
//!
//! A ticket is sealed (HMAC-SHA-256, 128 bits) under the key of one relay, which is derived from a root that only
//! rendezvous has, so that a relay can neither be shown another's ticket nor make one for another. HMAC and not a
//! signature: a flood of forged tickets costs a relay 0.4 us each instead of 46 us, and a relay needs to convince nobody.
//!
//! A ticket is no secret. With it goes a leg key, derived from the ticket under the same relay key and given to one client
//! over its control connection; the relay computes it again. Who shows a copied ticket without the leg key gets nothing.

use std::fmt;

use domain::{Bandwidth, PayerId, RelayId, UnixMillis};
use ring::{hkdf, hmac};

/// Bytes of a sealed ticket.
pub const TICKET_SIZE: usize = 84;

/// How long after it was made a ticket starts a pair.
pub const TICKET_LIFETIME: std::time::Duration = std::time::Duration::from_secs(60);

const VERSION: u8 = 2;
const MAC_SIZE: usize = 16;
const BODY_SIZE: usize = TICKET_SIZE - MAC_SIZE;

/// Which end of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LegSide {
    A = 0,
    B = 1,
}

impl LegSide {
    /// The other end.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// What both tickets of a pair have in common: a random number that names the pair at the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PairNonce(pub [u8; 16]);

/// The right of one client to one leg of one pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub relay: RelayId,
    pub pair: PairNonce,
    pub side: LegSide,
    /// What both legs together may send.
    pub rate: Bandwidth,
    /// Who pays for what this leg sends.
    pub payer: PayerId,
    /// Until when a pair can be started with it; a pair that lives is not bound by it.
    pub expires: UnixMillis,
}

/// Why a ticket is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    #[error("not a ticket")]
    Malformed,
    #[error("the ticket was not made for this relay by this deployment")]
    Forged,
    #[error("the ticket is for another relay")]
    OtherRelay,
}

/// The root of all relay keys of a deployment.
pub struct TicketRoot([u8; 32]);

/// The key of one relay.
pub struct TicketKey {
    relay: RelayId,
    seal: hmac::Key,
    legs: hmac::Key,
}

/// What a client proves with that a ticket is its own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LegKey(pub [u8; 32]);

impl TicketRoot {
    /// The root with these secret bytes.
    #[must_use]
    pub const fn new(secret: [u8; 32]) -> Self {
        Self(secret)
    }

    /// The key of `relay` (HKDF, RFC 5869).
    ///
    /// # Panics
    /// Never: two blocks are within the bounds of HKDF.
    #[must_use]
    pub fn key(&self, relay: RelayId) -> TicketKey {
        let pseudo_random = hkdf::Salt::new(hkdf::HKDF_SHA256, b"buri relay ticket v1").extract(&self.0);
        let mac = |purpose: &[u8]| {
            let mut bytes = [0; 32];
            pseudo_random
                .expand(&[purpose, relay.as_bytes()], hkdf::HKDF_SHA256)
                .and_then(|expanded| expanded.fill(&mut bytes))
                .expect("32 bytes are one block of HKDF-SHA-256");
            hmac::Key::new(hmac::HMAC_SHA256, &bytes)
        };
        TicketKey { relay, seal: mac(b"seal"), legs: mac(b"legs") }
    }
}

impl TicketKey {
    /// The bytes of `ticket`.
    #[must_use]
    pub fn seal(&self, ticket: &Ticket) -> [u8; TICKET_SIZE] {
        let mut bytes = [0; TICKET_SIZE];
        bytes[0] = VERSION;
        bytes[1] = ticket.side as u8;
        bytes[4..20].copy_from_slice(ticket.relay.as_bytes());
        bytes[20..36].copy_from_slice(&ticket.pair.0);
        bytes[36..44].copy_from_slice(&ticket.rate.bytes_per_second().to_be_bytes());
        bytes[44..52].copy_from_slice(&ticket.expires.0.to_be_bytes());
        bytes[52..68].copy_from_slice(ticket.payer.as_bytes());
        let mac = hmac::sign(&self.seal, &bytes[..BODY_SIZE]);
        bytes[BODY_SIZE..].copy_from_slice(&mac.as_ref()[..MAC_SIZE]);
        bytes
    }

    /// The ticket in `bytes`, whether expired or not: a living pair may show an old one.
    ///
    /// # Errors
    /// [`TicketError`].
    pub fn open(&self, bytes: &[u8; TICKET_SIZE]) -> Result<Ticket, TicketError> {
        let (body, mac) = bytes.split_at(BODY_SIZE);
        if body[0] != VERSION {
            return Err(TicketError::Malformed);
        }
        if body[4..20] != *self.relay.as_bytes() {
            return Err(TicketError::OtherRelay);
        }
        let expected = hmac::sign(&self.seal, body);
        if !bool::from(subtle::ConstantTimeEq::ct_eq(&expected.as_ref()[..MAC_SIZE], mac)) {
            return Err(TicketError::Forged);
        }
        let side = match body[1] {
            0 => LegSide::A,
            1 => LegSide::B,
            _ => return Err(TicketError::Malformed),
        };
        let number =
            |at: usize| body[at..at + 8].try_into().map(u64::from_be_bytes).map_err(|_| TicketError::Malformed);
        Ok(Ticket {
            relay: self.relay,
            pair: PairNonce(body[20..36].try_into().map_err(|_| TicketError::Malformed)?),
            side,
            rate: Bandwidth::from_bytes_per_second(number(36)?),
            payer: PayerId::try_from(&body[52..68]).map_err(|_| TicketError::Malformed)?,
            expires: UnixMillis(number(44)?),
        })
    }

    /// The key that belongs to a sealed ticket.
    ///
    /// # Panics
    /// Never: SHA-256 has 32 bytes.
    #[must_use]
    pub fn leg_key(&self, sealed: &[u8; TICKET_SIZE]) -> LegKey {
        let mac = hmac::sign(&self.legs, sealed);
        LegKey(mac.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

impl fmt::Debug for TicketRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketRoot(..)")
    }
}

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKey").field("relay", &self.relay).finish_non_exhaustive()
    }
}

impl fmt::Debug for LegKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LegKey(..)")
    }
}
