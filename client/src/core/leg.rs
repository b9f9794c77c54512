//! One end of a relayed pair.
//!
//! The leg joins with its ticket: the relay answers the first try with a challenge, which proves that the leg has the address
//! it sends from, and the second with a slot. From then on a datagram travels with eight bytes in front. A ping every 20 s
//! keeps the NATs open; a leg whose pings stay unanswered joins again, from whatever address it has by then.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use domain::{RelayId, RelayOffer};
use wire::Code;

pub(crate) use format::{Message, read};

/// The client's side of one leg.
#[derive(Debug)]
pub(crate) struct Leg {
    offer: RelayOffer,
    /// Which of the relay's endpoints is used.
    place: usize,
    phase: Phase,
    /// When the phase is looked at again.
    due: Instant,
    tries: u32,
    nonce: u64,
    transmits: VecDeque<(SocketAddr, BytesMut)>,
}

/// What the owner of a leg must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// Datagrams can be sent.
    Joined,
    /// The other end joined.
    PeerArrived,
    /// The leg is over.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Joining { cookie: [u8; 16] },
    Joined { slot: u32, unanswered: u32 },
    Ended,
}

impl Leg {
    pub(crate) fn new(now: Instant, offer: RelayOffer) -> Self {
        let mut leg = Self {
            offer,
            place: 0,
            phase: Phase::Joining { cookie: [0; 16] },
            due: now,
            tries: 0,
            nonce: 0,
            transmits: VecDeque::new(),
        };
        leg.handle_deadline(now);
        leg
    }

    /// A message of the relay for this leg.
    pub(crate) fn handle_message(&mut self, now: Instant, message: &Message<'_>) -> Option<News> {
        match (self.phase, message) {
            (Phase::Joining { .. }, Message::Challenge { cookie }) => {
                self.phase = Phase::Joining { cookie: *cookie };
                self.join(now);
                None
            }
            (Phase::Joining { .. } | Phase::Joined { .. }, Message::Joined { slot, peer_present }) => {
                let before = self.phase;
                self.phase = Phase::Joined { slot: *slot, unanswered: 0 };
                self.tries = 0;
                self.due = now + PING;
                match before {
                    Phase::Joined { .. } if *peer_present => Some(News::PeerArrived),
                    Phase::Joined { .. } => None,
                    Phase::Joining { .. } | Phase::Ended => Some(News::Joined),
                }
            }
            (Phase::Joining { .. } | Phase::Joined { .. }, Message::Refused { code }) => {
                let code = Code::from_number(*code).map_or("unknown", Code::name);
                tracing::info!(relay = %self.offer.relay, code, "the relay refused");
                self.phase = Phase::Ended;
                Some(News::Ended)
            }
            (Phase::Joined { slot, .. }, Message::Pong { nonce, .. }) if *nonce == self.nonce => {
                self.phase = Phase::Joined { slot, unanswered: 0 };
                None
            }
            _ => None,
        }
    }

    pub(crate) fn handle_deadline(&mut self, now: Instant) {
        if self.due > now {
            return;
        }
        match self.phase {
            Phase::Joining { .. } if self.tries >= MAX_TRIES => self.phase = Phase::Ended,
            Phase::Joining { .. } => {
                if self.tries > 0 && self.tries.is_multiple_of(TRIES_AT_ONE) {
                    self.place += 1;
                    self.phase = Phase::Joining { cookie: [0; 16] };
                }
                self.join(now);
            }
            Phase::Joined { unanswered, .. } if unanswered >= MAX_UNANSWERED => {
                self.phase = Phase::Joining { cookie: [0; 16] };
                self.tries = 0;
                self.join(now);
            }
            Phase::Joined { slot, unanswered } => {
                self.phase = Phase::Joined { slot, unanswered: unanswered + 1 };
                self.nonce += 1;
                let ping = format::ping(slot, self.nonce, &self.offer.leg_key);
                self.due = now + if unanswered == 0 { PING } else { PING_AGAIN };
                self.transmit(ping);
            }
            Phase::Ended => {}
        }
    }

    pub(crate) fn poll_deadline(&self) -> Option<Instant> {
        (self.phase != Phase::Ended).then_some(self.due)
    }

    pub(crate) fn poll_transmit(&mut self) -> Option<(SocketAddr, BytesMut)> {
        self.transmits.pop_front()
    }

    /// The datagram for the relay that carries a datagram of the tunnel; `None` before the leg joined.
    pub(crate) fn wrap(&self, datagram: &[u8]) -> Option<(SocketAddr, BytesMut)> {
        let Phase::Joined { slot, .. } = self.phase else { return None };
        Some((self.address(), format::data(slot, datagram)))
    }

    /// Whether a message without a slot, or for this slot, is for this leg.
    pub(crate) fn is_for(&self, from: SocketAddr, message: &Message<'_>) -> bool {
        if from != self.address() {
            return false;
        }
        match (message, self.phase) {
            (Message::Data { slot, .. } | Message::Pong { slot, .. }, Phase::Joined { slot: own, .. }) => *slot == own,
            (Message::Challenge { .. } | Message::Joined { .. } | Message::Refused { .. }, Phase::Joining { .. }) => {
                true
            }
            _ => false,
        }
    }

    pub(crate) fn is_joined(&self) -> bool {
        matches!(self.phase, Phase::Joined { .. })
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.phase == Phase::Ended
    }

    /// Where datagrams of this leg come from, under which slot.
    pub(crate) fn slot(&self) -> Option<(SocketAddr, u32)> {
        match self.phase {
            Phase::Joined { slot, .. } => Some((self.address(), slot)),
            Phase::Joining { .. } | Phase::Ended => None,
        }
    }

    /// The relay's endpoint in use.
    pub(crate) fn address(&self) -> SocketAddr {
        let endpoints = &self.offer.endpoints;
        match endpoints.get(self.place % endpoints.len().max(1)) {
            Some(endpoint) => *endpoint,
            None => SocketAddr::from(([0, 0, 0, 0], 0)),
        }
    }

    pub(crate) const fn relay(&self) -> RelayId {
        self.offer.relay
    }

    pub(crate) const fn offer(&self) -> &RelayOffer {
        &self.offer
    }

    fn join(&mut self, now: Instant) {
        let Phase::Joining { cookie } = self.phase else { return };
        if self.offer.endpoints.is_empty() {
            self.phase = Phase::Ended;
            return;
        }
        self.due = now + RETRY * (1 << self.tries.min(3));
        self.tries += 1;
        let join = format::join(&cookie, &self.offer.ticket, &self.offer.leg_key);
        self.transmit(join);
    }

    fn transmit(&mut self, datagram: BytesMut) {
        self.transmits.push_back((self.address(), datagram));
    }
}

const PING: Duration = Duration::from_secs(20);
const PING_AGAIN: Duration = Duration::from_secs(3);
const MAX_UNANSWERED: u32 = 3;
const RETRY: Duration = Duration::from_millis(250);
const TRIES_AT_ONE: u32 = 4;
const MAX_TRIES: u32 = 12;

mod format {
    use bytes::{BufMut as _, BytesMut};
    use ring::hmac;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Message<'a> {
        Data { slot: u32, payload: &'a [u8] },
        Challenge { cookie: [u8; 16] },
        Joined { slot: u32, peer_present: bool },
        Refused { code: u16 },
        Pong { slot: u32, nonce: u64 },
    }

    impl<'a> Message<'a> {
        pub(crate) const fn data(&self) -> Option<(u32, &'a [u8])> {
            match self {
                Self::Data { slot, payload } => Some((*slot, payload)),
                Self::Challenge { .. } | Self::Joined { .. } | Self::Refused { .. } | Self::Pong { .. } => None,
            }
        }
    }

    pub(crate) fn read(datagram: &[u8]) -> Option<Message<'_>> {
        let (kind, rest) = datagram.split_first_chunk::<4>()?;
        match kind[0] {
            0xb0 => {
                let (slot, payload) = rest.split_first_chunk()?;
                Some(Message::Data { slot: u32::from_be_bytes(*slot), payload })
            }
            0xb2 => Some(Message::Challenge { cookie: *rest.first_chunk()? }),
            0xb4 => {
                let (slot, rest) = rest.split_first_chunk()?;
                Some(Message::Joined { slot: u32::from_be_bytes(*slot), peer_present: *rest.first()? != 0 })
            }
            0xb5 => Some(Message::Refused { code: u16::from_be_bytes(*rest.first_chunk()?) }),
            0xb7 => {
                let (slot, rest) = rest.split_first_chunk()?;
                Some(Message::Pong { slot: u32::from_be_bytes(*slot), nonce: u64::from_be_bytes(*rest.first_chunk()?) })
            }
            _ => None,
        }
    }

    pub(crate) fn data(slot: u32, payload: &[u8]) -> BytesMut {
        let mut bytes = BytesMut::with_capacity(8 + payload.len());
        bytes.put_slice(&[0xb0, 0, 0, 0]);
        bytes.put_u32(slot);
        bytes.put_slice(payload);
        bytes
    }

    pub(crate) fn join(cookie: &[u8; 16], ticket: &[u8], leg_key: &[u8; 32]) -> BytesMut {
        let proof = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, leg_key), &[cookie, ticket].concat());
        let mut bytes = BytesMut::new();
        bytes.put_slice(&[0xb3, 0, 0, 0]);
        bytes.put_slice(cookie);
        bytes.put_slice(ticket);
        bytes.put_slice(&proof.as_ref()[..16]);
        bytes
    }

    pub(crate) fn ping(slot: u32, nonce: u64, _leg_key: &[u8; 32]) -> BytesMut {
        let mut bytes = BytesMut::new();
        bytes.put_slice(&[0xb6, 0, 0, 0]);
        bytes.put_u32(slot);
        bytes.put_u64(nonce);
        bytes
    }
}

#[cfg(test)]
pub(crate) mod tests {
    /// A relay's answer, when this is a join.
    pub(crate) fn join_answered(datagram: &[u8], slot: u32, present: bool) -> Option<Vec<u8>> {
        (datagram[0] == 0xb3).then(|| [&[0xb4, 0, 0, 0][..], &slot.to_be_bytes(), &[u8::from(present)]].concat())
    }

    /// A relay's answer, when this is a ping.
    pub(crate) fn ping_answered(datagram: &[u8]) -> Option<Vec<u8>> {
        (datagram[0] == 0xb6).then(|| [&[0xb7, 0, 0, 0][..], &datagram[4..]].concat())
    }
}
