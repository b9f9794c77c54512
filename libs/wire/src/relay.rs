//! Messages between a client and a relay, on UDP. The first byte is between 0xB0 and 0xBF, three bytes are reserved.
//!
//! ```text
//! DATA       B0 0 0 0 | slot 4 | payload               both ways; forwarded unchanged
//! CHALLENGE  B2 0 0 0 | cookie 16                      to a JOIN without a valid cookie
//! JOIN       B3 0 0 0 | cookie 16 | ticket 84 | proof 16
//! JOINED     B4 p 0 0 | slot 4 | join 8                p: 1 when the other leg is there
//! REFUSED    B5 0 0 0 | code 2 | join 8
//! PING       B6 0 0 0 | slot 4 | nonce 8
//! PONG       B7 0 0 0 | slot 4 | nonce 8
//! NOTE       B8 0 0 0 | slot 4 | code 2                the relay says something about the pair
//! JOIN+      BA 0 0 0 | as JOIN | first 1-256          a join with the first packet for the other leg
//! ASK        BB 0 0 0 | zeros 16                       for a CHALLENGE before there is a ticket
//! ```
//!
//! B1, B9, BC and BD carry one datagram to many: see [`crate::fanout`].
//!
//! The cookie proves that the sender receives at its address; the proof, `HMAC-SHA-256(leg key, cookie | ticket)` cut to 16
//! bytes, that the ticket is its own, from this address. `join` is the first half of the proof, so that a client that joins
//! several pairs tells the answers apart. No message names a destination. No answer is larger than its question.
//!
//! A first packet comes to the other leg as DATA, at once or as soon as that leg joins; nobody answers for it, and the proof
//! does not cover it: it is what a stranger on the way could drop or replace anyhow, and proves itself to the peer. Neither
//! this join nor ASK is known to older relays, which are silent to them: a client repeats an unanswered join as JOIN. Rejected:
//! more bytes behind a JOIN (older relays drop it whole, and nothing tells them apart from damage), a packet of its own behind
//! the JOIN (it can overtake, and would have to name the pair).

use ring::hmac;
use subtle::ConstantTimeEq as _;

use crate::{
    Code,
    fanout::{COPY, COPY_HEADER_SIZE, COPY_KIND, FANOUT, Shared, Slots},
    ticket::{LegKey, TICKET_SIZE},
};

/// Bytes in front of a relayed datagram.
pub const HEADER_SIZE: usize = 8;

/// The largest relayed datagram, header included.
pub const MAX_DATAGRAM: usize = 2048;

/// Bytes of a [`Join`].
pub const JOIN_SIZE: usize = 4 + 16 + TICKET_SIZE + 16;

/// The largest first packet that a join takes along: the first message of a tunnel's handshake has 148 bytes.
pub const MAX_FIRST: usize = 256;

/// The largest answer of a relay.
pub const MAX_ANSWER: usize = 20;

/// A relay's stateless challenge; all zeros when the client has none yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Cookie(pub [u8; 16]);

/// Which JOIN an answer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JoinId(pub [u8; 8]);

/// The number of a slot at one relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

/// A request to become a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Join<'a> {
    pub cookie: Cookie,
    pub ticket: &'a [u8; TICKET_SIZE],
    pub proof: &'a [u8; 16],
}

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    Data {
        slot: Slot,
        payload: &'a [u8],
    },
    Challenge {
        cookie: Cookie,
    },
    Join(Join<'a>),
    Joined {
        slot: Slot,
        join: JoinId,
        peer_present: bool,
    },
    Refused {
        code: u16,
        join: JoinId,
    },
    Ping {
        slot: Slot,
        nonce: u64,
    },
    Pong {
        slot: Slot,
        nonce: u64,
    },
    Note {
        slot: Slot,
        code: u16,
    },
    /// What is to be passed on to the other legs of `slots`: bytes that read as [`Message::Copy`].
    Fanout {
        slots: Slots<'a>,
        copy: &'a [u8],
    },
    Copy(Shared<'a>),
    /// Asks for a [`Message::Group`].
    Which {
        slot: Slot,
    },
    /// A FANOUT may name this slot together with others of the group.
    Group {
        slot: Slot,
        group: u8,
    },
    /// A join that takes the first packet for the other leg along, at least a byte and at most [`MAX_FIRST`].
    JoinFirst {
        join: Join<'a>,
        first: &'a [u8],
    },
    /// A question for a challenge.
    Ask,
}

const DATA: u8 = 0xb0;
const CHALLENGE: u8 = 0xb2;
const JOIN: u8 = 0xb3;
const JOINED: u8 = 0xb4;
const REFUSED: u8 = 0xb5;
const PING: u8 = 0xb6;
const PONG: u8 = 0xb7;
const NOTE: u8 = 0xb8;
const JOIN_FIRST: u8 = 0xba;
const ASK: u8 = 0xbb;
const WHICH: u8 = 0xbc;
const GROUP: u8 = 0xbd;

/// Whether a datagram on a client's socket is for this module.
#[must_use]
pub fn is_relay(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| first & 0xf0 == 0xb0)
}

impl<'a> Message<'a> {
    /// Reads one datagram; `None` when it is no message of this protocol.
    #[must_use]
    pub fn parse(datagram: &'a [u8]) -> Option<Self> {
        let (&[kind, flag, 0, 0], rest) = datagram.split_first_chunk::<4>()? else { return None };
        match kind {
            JOINED if flag > 1 => return None,
            JOINED | FANOUT | GROUP => {}
            _ if flag > 0 => return None,
            _ => {}
        }
        match kind {
            DATA => {
                let (slot, payload) = rest.split_first_chunk()?;
                Some(Self::Data { slot: Slot(u32::from_be_bytes(*slot)), payload })
            }
            CHALLENGE => Some(Self::Challenge { cookie: Cookie(rest.try_into().ok()?) }),
            JOIN => Join::split(rest).filter(|(_, rest)| rest.is_empty()).map(|(join, _)| Self::Join(join)),
            JOINED => {
                let (slot, join) = numbered(rest)?;
                Some(Self::Joined { slot, join: JoinId(join), peer_present: flag == 1 })
            }
            REFUSED => {
                let (code, join) = rest.split_first_chunk()?;
                Some(Self::Refused { code: u16::from_be_bytes(*code), join: JoinId(join.try_into().ok()?) })
            }
            PING => numbered(rest).map(|(slot, nonce)| Self::Ping { slot, nonce: u64::from_be_bytes(nonce) }),
            PONG => numbered(rest).map(|(slot, nonce)| Self::Pong { slot, nonce: u64::from_be_bytes(nonce) }),
            NOTE => numbered(rest).map(|(slot, code)| Self::Note { slot, code: u16::from_be_bytes(code) }),
            FANOUT => {
                let (slots, copy) = Slots::read(flag, rest)?;
                Shared::read(copy).map(|_| Self::Fanout { slots, copy })
            }
            COPY_KIND => Shared::read(datagram).map(Self::Copy),
            WHICH => numbered(rest).map(|(slot, [])| Self::Which { slot }),
            GROUP => numbered(rest).map(|(slot, [])| Self::Group { slot, group: flag }),
            JOIN_FIRST => {
                let (join, first) = Join::split(rest)?;
                (1..=MAX_FIRST).contains(&first.len()).then_some(Self::JoinFirst { join, first })
            }
            ASK => (rest == [0; 16]).then_some(Self::Ask),
            _ => None,
        }
    }

    /// Writes the message to the front of `out`, and returns its length.
    ///
    /// # Panics
    /// When `out` is too small: [`MAX_ANSWER`] holds every answer, [`JOIN_SIZE`] a join, to which a first packet adds its own
    /// size, header and payload data.
    pub fn write(&self, out: &mut [u8]) -> usize {
        let mut writer = Writer { out, at: 0 };
        match self {
            Self::Data { slot, payload } => writer.kind(DATA, 0).put(&slot.0.to_be_bytes()).put(payload),
            Self::Challenge { cookie } => writer.kind(CHALLENGE, 0).put(&cookie.0),
            Self::Join(join) => writer.kind(JOIN, 0).put_join(join),
            Self::JoinFirst { join, first } => writer.kind(JOIN_FIRST, 0).put_join(join).put(first),
            Self::Ask => writer.kind(ASK, 0).put(&[0; 16]),
            Self::Joined { slot, join, peer_present } => {
                writer.kind(JOINED, u8::from(*peer_present)).put(&slot.0.to_be_bytes()).put(&join.0)
            }
            Self::Refused { code, join } => writer.kind(REFUSED, 0).put(&code.to_be_bytes()).put(&join.0),
            Self::Ping { slot, nonce } => writer.kind(PING, 0).put(&slot.0.to_be_bytes()).put(&nonce.to_be_bytes()),
            Self::Pong { slot, nonce } => writer.kind(PONG, 0).put(&slot.0.to_be_bytes()).put(&nonce.to_be_bytes()),
            Self::Note { slot, code } => writer.kind(NOTE, 0).put(&slot.0.to_be_bytes()).put(&code.to_be_bytes()),
            Self::Fanout { slots, copy } => {
                let count = u8::try_from(slots.count()).unwrap_or(0);
                writer.kind(FANOUT, count).put(slots.as_bytes()).put(copy)
            }
            Self::Copy(copy) => writer.put(&COPY).put(&copy.counter.to_be_bytes()).put(&copy.key.0).put(copy.sealed),
            Self::Which { slot } => writer.kind(WHICH, 0).put(&slot.0.to_be_bytes()),
            Self::Group { slot, group } => writer.kind(GROUP, *group).put(&slot.0.to_be_bytes()),
        };
        writer.at
    }

    /// The bytes of the message.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let more = match self {
            Self::Data { payload: bytes, .. } | Self::JoinFirst { first: bytes, .. } => bytes.len(),
            Self::Fanout { slots, copy } => slots.as_bytes().len() + copy.len(),
            Self::Copy(copy) => COPY_HEADER_SIZE + copy.sealed.len(),
            Self::Challenge { .. }
            | Self::Join(_)
            | Self::Joined { .. }
            | Self::Refused { .. }
            | Self::Ping { .. }
            | Self::Pong { .. }
            | Self::Note { .. }
            | Self::Ask
            | Self::Which { .. }
            | Self::Group { .. } => 0,
        };
        let mut bytes = vec![0; JOIN_SIZE + more];
        let length = self.write(&mut bytes);
        bytes.truncate(length);
        bytes
    }

    /// That a join came to nothing.
    #[must_use]
    pub const fn refusal(code: Code, join: JoinId) -> Self {
        Self::Refused { code: code.number(), join }
    }
}

impl<'a> Join<'a> {
    /// The join at the front, and what is behind it.
    fn split(rest: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (cookie, rest) = rest.split_first_chunk()?;
        let (ticket, rest) = rest.split_first_chunk()?;
        let (proof, rest) = rest.split_first_chunk()?;
        Some((Self { cookie: Cookie(*cookie), ticket, proof }, rest))
    }

    /// Which join this is.
    #[must_use]
    pub fn id(&self) -> JoinId {
        join_id(self.proof)
    }

    /// Whether the sender has the leg key.
    #[must_use]
    pub fn is_proved_by(&self, key: &LegKey) -> bool {
        prove(key, self.cookie, self.ticket).ct_eq(self.proof).into()
    }
}

/// The proof that goes into a [`Join`].
#[must_use]
pub fn prove(key: &LegKey, cookie: Cookie, ticket: &[u8; TICKET_SIZE]) -> [u8; 16] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &key.0));
    context.update(&cookie.0);
    context.update(ticket);
    let mut proof = [0; 16];
    proof.copy_from_slice(&context.sign().as_ref()[..16]);
    proof
}

/// The id of the join with this proof.
#[must_use]
pub fn join_id(proof: &[u8; 16]) -> JoinId {
    let mut id = [0; 8];
    id.copy_from_slice(&proof[..8]);
    JoinId(id)
}

/// A slot and exactly `N` bytes.
fn numbered<const N: usize>(rest: &[u8]) -> Option<(Slot, [u8; N])> {
    let (slot, rest) = rest.split_first_chunk()?;
    Some((Slot(u32::from_be_bytes(*slot)), rest.try_into().ok()?))
}

struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn kind(&mut self, kind: u8, flag: u8) -> &mut Self {
        self.put(&[kind, flag, 0, 0])
    }

    fn put_join(&mut self, join: &Join<'_>) -> &mut Self {
        self.put(&join.cookie.0).put(join.ticket).put(join.proof)
    }

    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.out[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
        self
    }
}
