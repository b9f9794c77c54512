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
use wire::{
    Code,
    relay::{Cookie, HEADER_SIZE, Join, JoinId, Message, Slot, join_id, prove},
    ticket::{LegKey, TICKET_SIZE},
};

/// The client's side of one leg.
#[derive(Debug)]
pub(crate) struct Leg {
    offer: RelayOffer,
    /// `None` in an offer that this version cannot use.
    ticket: Option<[u8; TICKET_SIZE]>,
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
    /// The relay answered: both ways work.
    Joined,
    /// The relay has what it needs to know this leg again, so datagrams can follow.
    Returned,
    /// The leg is over.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The slot is that of before: a pair that joins again from elsewhere keeps it.
    Joining {
        cookie: Cookie,
        join: JoinId,
        slot: Option<Slot>,
    },
    Joined {
        slot: Slot,
        unanswered: u32,
    },
    Ended,
}

impl Leg {
    /// A leg that joins at once; with a cookie for this client's address it need not be challenged.
    pub(crate) fn new(now: Instant, offer: RelayOffer, cookies: &Cookies) -> Self {
        let ticket = offer.ticket.as_slice().try_into().ok();
        let mut leg = Self {
            offer,
            ticket,
            place: 0,
            phase: UNCHALLENGED,
            due: now,
            tries: 0,
            nonce: 0,
            transmits: VecDeque::new(),
        };
        if let Some(cookie) = cookies.of(now, leg.address()) {
            leg.phase = Phase::Joining { cookie, join: JoinId([0; 8]), slot: None };
        }
        leg.handle_deadline(now);
        leg
    }

    /// A message of the relay for this leg.
    pub(crate) fn handle_message(&mut self, now: Instant, message: &Message<'_>) -> Option<News> {
        match (self.phase, message) {
            (Phase::Joining { cookie: old, join, slot }, Message::Challenge { cookie }) if old != *cookie => {
                self.phase = Phase::Joining { cookie: *cookie, join, slot };
                self.join(now);
                slot.map(|_| News::Returned)
            }
            (Phase::Joining { .. }, Message::Joined { slot, .. }) => {
                self.phase = Phase::Joined { slot: *slot, unanswered: 0 };
                self.tries = 0;
                self.due = now + PING;
                Some(News::Joined)
            }
            (Phase::Joining { .. }, Message::Refused { code, .. }) => {
                let code = Code::from_number(*code).map_or("unknown", Code::name);
                tracing::info!(relay = %self.offer.relay, code, "the relay refused");
                self.phase = Phase::Ended;
                Some(News::Ended)
            }
            (Phase::Joined { slot, .. }, Message::Pong { nonce, .. }) if *nonce == self.nonce => {
                self.phase = Phase::Joined { slot, unanswered: 0 };
                self.due = now + PING;
                None
            }
            // The pair is capped, or the relay drains: the server has seen to the latter already.
            (Phase::Joined { .. }, Message::Note { code, .. }) => {
                let code = Code::from_number(*code).map_or("unknown", Code::name);
                tracing::debug!(relay = %self.offer.relay, code, "the relay has something to say");
                None
            }
            _ => None,
        }
    }

    /// The relay knows this leg by an address that it may not have any more: it joins again, from where it is now.
    pub(crate) fn handle_network_change(&mut self, now: Instant) {
        if self.phase != Phase::Ended {
            self.join_again(now);
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
                    self.phase = UNCHALLENGED;
                }
                self.join(now);
            }
            Phase::Joined { unanswered, .. } if unanswered >= MAX_UNANSWERED => self.join_again(now),
            Phase::Joined { slot, unanswered } => {
                self.phase = Phase::Joined { slot, unanswered: unanswered + 1 };
                self.nonce += 1;
                self.due = now + PING_AGAIN;
                self.transmit(&Message::Ping { slot, nonce: self.nonce }.to_vec());
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

    /// The datagram for the relay that carries a datagram of the tunnel; `None` while the relay would not take it.
    pub(crate) fn wrap(&self, datagram: &[u8]) -> Option<(SocketAddr, BytesMut)> {
        let (_, slot) = self.slot().filter(|_| self.carries())?;
        let mut bytes = BytesMut::zeroed(HEADER_SIZE + datagram.len());
        Message::Data { slot, payload: datagram }.write(&mut bytes);
        Some((self.address(), bytes))
    }

    /// Whether a message without a slot, or for this slot, is for this leg.
    pub(crate) fn is_for(&self, from: SocketAddr, message: &Message<'_>) -> bool {
        if from != self.address() {
            return false;
        }
        match (message, self.phase) {
            (
                Message::Data { slot, .. } | Message::Pong { slot, .. } | Message::Note { slot, .. },
                Phase::Joined { slot: own, .. },
            ) => *slot == own,
            // A cookie is for the address, whichever leg it was that asked.
            (Message::Challenge { .. }, Phase::Joining { .. }) => true,
            (Message::Joined { join, .. } | Message::Refused { join, .. }, Phase::Joining { join: own, .. }) => {
                *join == own
            }
            _ => false,
        }
    }

    pub(crate) fn is_joined(&self) -> bool {
        matches!(self.phase, Phase::Joined { .. })
    }

    /// Whether the relay takes datagrams: it answered, or what proves this leg is under way just ahead of them.
    pub(crate) fn carries(&self) -> bool {
        match self.phase {
            Phase::Joined { .. } => true,
            Phase::Joining { cookie, slot, .. } => slot.is_some() && cookie != Cookie::default(),
            Phase::Ended => false,
        }
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.phase == Phase::Ended
    }

    /// Where datagrams of this leg come from, under which slot.
    pub(crate) fn slot(&self) -> Option<(SocketAddr, Slot)> {
        match self.phase {
            Phase::Joined { slot, .. } | Phase::Joining { slot: Some(slot), .. } => Some((self.address(), slot)),
            Phase::Joining { slot: None, .. } | Phase::Ended => None,
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

    /// From an address that the relay may not know yet.
    fn join_again(&mut self, now: Instant) {
        let slot = self.slot().map(|(_, slot)| slot);
        self.phase = Phase::Joining { cookie: Cookie::default(), join: JoinId([0; 8]), slot };
        self.tries = 0;
        self.join(now);
    }

    fn join(&mut self, now: Instant) {
        let Phase::Joining { cookie, slot, .. } = self.phase else { return };
        let Some(ticket) = self.ticket.filter(|_| !self.offer.endpoints.is_empty()) else {
            self.phase = Phase::Ended;
            return;
        };
        let proof = prove(&LegKey(self.offer.leg_key), cookie, &ticket);
        self.phase = Phase::Joining { cookie, join: join_id(&proof), slot };
        self.due = now + RETRY * (1 << self.tries.min(3));
        self.tries += 1;
        self.transmit(&Message::Join(Join { cookie, ticket: &ticket, proof: &proof }).to_vec());
    }

    fn transmit(&mut self, message: &[u8]) {
        self.transmits.push_back((self.address(), BytesMut::from(message)));
    }
}

/// What relays gave to prove this client's address by: good for every leg, as long as the address stays.
#[derive(Debug, Default)]
pub(crate) struct Cookies(VecDeque<(SocketAddr, Instant, Cookie)>);

impl Cookies {
    /// Keeps the cookie of `relay` in the place of an older one.
    pub(crate) fn keep(&mut self, now: Instant, relay: SocketAddr, cookie: Cookie) {
        self.0.retain(|(known, ..)| *known != relay);
        self.0.truncate(MAX_COOKIES - 1);
        self.0.push_front((relay, now, cookie));
    }

    /// This client has another address.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    fn of(&self, now: Instant, relay: SocketAddr) -> Option<Cookie> {
        let fresh = |at: Instant| now.saturating_duration_since(at) < COOKIE_LIFETIME;
        self.0.iter().find(|(known, at, _)| *known == relay && fresh(*at)).map(|(.., cookie)| *cookie)
    }
}

/// Relays at a time; a pair has two at most, and most pairs share theirs.
const MAX_COOKIES: usize = 16;
/// A relay takes a cookie in the minute that it was made in and in the next one.
const COOKIE_LIFETIME: Duration = Duration::from_secs(60);
const UNCHALLENGED: Phase = Phase::Joining { cookie: Cookie([0; 16]), join: JoinId([0; 8]), slot: None };
const PING: Duration = Duration::from_secs(20);
/// When no pong came.
const PING_AGAIN: Duration = Duration::from_secs(3);
const MAX_UNANSWERED: u32 = 3;
const RETRY: Duration = Duration::from_millis(250);
const TRIES_AT_ONE: u32 = 4;
const MAX_TRIES: u32 = 12;
