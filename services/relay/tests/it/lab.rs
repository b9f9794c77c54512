//! A relay in virtual time, and three addresses that talk to it.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    time::{Duration, Instant},
};

use domain::{Bandwidth, PayerId, RelayId, UnixMillis};
use relay::{
    core::{Event, Hop, Limits, Relay, Verdict},
    parking::Parcel,
    quota::Accounts,
    steer::Workers,
};
use tokio::sync::mpsc;
use wire::{
    Code,
    relay::{Cookie, Join, Message, Slot, join_id, prove},
    ticket::{LegKey, LegSide, PairNonce, TICKET_SIZE, Ticket, TicketKey, TicketRoot},
};

pub(crate) const ALICE: SocketAddr = at(1);
pub(crate) const BERT: SocketAddr = at(2);
pub(crate) const MALLORY: SocketAddr = at(3);

const fn at(host: u8) -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, host), 40_000))
}

/// More than any test sends.
const ENOUGH: u64 = 1 << 40;

pub(crate) fn relay_id() -> RelayId {
    RelayId::from_bytes([7; 16])
}

pub(crate) fn ticket_key() -> TicketKey {
    TicketRoot::new([1; 32]).key(relay_id())
}

/// The verdict that a datagram goes on to `address`.
pub(crate) const fn forwarded_to(address: SocketAddr) -> Verdict {
    Verdict::Forward(Hop { address, door: 0 })
}

/// A sealed ticket with its leg key, as an offer has them.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    pub(crate) sealed: [u8; TICKET_SIZE],
    pub(crate) key: LegKey,
}

/// A sealed ticket with a key that does not belong to it.
pub(crate) struct Copied {
    pub(crate) ticket: [u8; TICKET_SIZE],
    pub(crate) key: LegKey,
}

pub(crate) struct Lab {
    pub(crate) relay: Relay,
    pub(crate) events: Vec<Event>,
    /// First packets that left.
    pub(crate) parcels: Vec<Parcel>,
    pub(crate) last_join: Vec<u8>,
    pub(crate) alice: Option<Offer>,
    pub(crate) now: Instant,
    wall: UnixMillis,
    pairs: u8,
    pub(crate) accounts: Accounts,
    _woken: mpsc::Receiver<PayerId>,
}

/// Who pays for what the leg on this side sends.
pub(crate) const fn payer(side: LegSide) -> PayerId {
    PayerId::from_bytes([1 + side as u8; 16])
}

impl Lab {
    pub(crate) fn new() -> Self {
        Self::with_slots(100)
    }

    pub(crate) fn with_slots(max_slots: u32) -> Self {
        Self::build(max_slots, (0, Workers::ONE), ENOUGH)
    }

    /// Where each payer may spend so much and gets nothing more.
    pub(crate) fn with_quota(bytes: u64) -> Self {
        Self::build(100, (0, Workers::ONE), bytes)
    }

    pub(crate) fn of_worker(worker: u8, workers: Workers) -> Self {
        Self::build(100, (worker, workers), ENOUGH)
    }

    fn build(max_slots: u32, worker: (u8, Workers), quota: u64) -> Self {
        let now = Instant::now();
        let (accounts, woken) = Accounts::new(quota);
        let limits = Limits { max_slots, idle: Duration::from_secs(60) };
        Self {
            relay: Relay::new(now, ticket_key(), [9; 32], limits, worker, accounts.clone()),
            events: Vec::new(),
            parcels: Vec::new(),
            last_join: Vec::new(),
            alice: None,
            now,
            wall: UnixMillis(1_700_000_000_000),
            pairs: 0,
            accounts,
            _woken: woken,
        }
    }

    /// Lets time pass, with everything that is due meanwhile.
    pub(crate) fn advance(&mut self, time: Duration) {
        self.now += time;
        self.wall = self.wall.plus(time);
        while self.relay.poll_deadline().is_some_and(|due| due <= self.now) {
            self.relay.handle_deadline(self.now);
            self.events.extend(std::iter::from_fn(|| self.relay.poll_event()));
        }
    }

    pub(crate) fn send(&mut self, from: SocketAddr, datagram: &[u8]) -> Verdict {
        self.send_through(0, from, datagram)
    }

    pub(crate) fn send_through(&mut self, door: u8, from: SocketAddr, datagram: &[u8]) -> Verdict {
        let verdict = self.relay.handle_datagram(self.now, self.wall, Hop { address: from, door }, datagram);
        self.parcels.extend(std::iter::from_fn(|| self.relay.poll_parcel()));
        self.events.extend(std::iter::from_fn(|| self.relay.poll_event()));
        verdict
    }

    pub(crate) fn data(&mut self, from: SocketAddr, slot: Slot, size: usize) -> Verdict {
        self.send(from, &Message::Data { slot, payload: &vec![0; size] }.to_vec()[..size])
    }

    pub(crate) fn ping(&mut self, from: SocketAddr, slot: Slot) -> Option<u64> {
        let Verdict::Answer(answer) = self.send(from, &Message::Ping { slot, nonce: 7 }.to_vec()) else { return None };
        let Some(Message::Pong { nonce, .. }) = Message::parse(answer.as_bytes()) else { return None };
        Some(nonce)
    }

    /// A new pair of Alice and Bert.
    pub(crate) fn pair(&mut self, rate: Bandwidth) -> Slot {
        self.pair_of(ALICE, BERT, rate)
    }

    /// A new pair.
    pub(crate) fn pair_of(&mut self, one: SocketAddr, other: SocketAddr, rate: Bandwidth) -> Slot {
        let first = self.ticket(LegSide::A, rate);
        self.pairs -= 1;
        let second = self.ticket(LegSide::B, rate);
        let slot = self.join(one, &first).unwrap();
        assert_eq!(self.join(other, &second), Ok(slot));
        self.alice = Some(first);
        slot
    }

    /// What becomes of each copy of a frame, in the order of its slots; the frame's own verdict when that is another.
    pub(crate) fn copies(&mut self, from: SocketAddr, frame: &[u8]) -> Result<Vec<Verdict>, Verdict> {
        match self.send(from, frame) {
            Verdict::Copy => {}
            other @ (Verdict::Forward(_) | Verdict::Answer(_) | Verdict::Drop(_)) => return Err(other),
        }
        let Some(Message::Fanout { slots, copy }) = Message::parse(frame) else { panic!("no frame for many") };
        let (now, from) = (self.now, Hop { address: from, door: 0 });
        Ok(slots.iter().map(|slot| self.relay.handle_copy(now, from, slot, copy.len())).collect())
    }

    /// A new pair of Alice and Bert for which one payer pays.
    pub(crate) fn pair_paid_by(&mut self, payer: PayerId) -> Slot {
        let alice = self.ticket_paid_by(LegSide::A, Bandwidth::UNLIMITED, payer);
        self.pairs -= 1;
        let bert = self.ticket_paid_by(LegSide::B, Bandwidth::UNLIMITED, payer);
        let slot = self.join(ALICE, &alice).unwrap();
        assert_eq!(self.join(BERT, &bert), Ok(slot));
        slot
    }

    /// A leg of the newest pair joins again, on the account of `payer`.
    pub(crate) fn join_paid_by(&mut self, side: LegSide, from: SocketAddr, payer: PayerId) {
        self.pairs -= 1;
        let offer = self.ticket_paid_by(side, Bandwidth::UNLIMITED, payer);
        self.join(from, &offer).unwrap();
    }

    /// A ticket for a new pair.
    pub(crate) fn ticket(&mut self, side: LegSide, rate: Bandwidth) -> Offer {
        self.ticket_paid_by(side, rate, payer(side))
    }

    fn ticket_paid_by(&mut self, side: LegSide, rate: Bandwidth, payer: PayerId) -> Offer {
        self.pairs += 1;
        self.offer_to(self.pairs, side, rate, payer)
    }

    pub(crate) fn ticket_of_pair(&self, pair: u8, side: LegSide, rate: Bandwidth) -> Offer {
        self.offer_to(pair, side, rate, payer(side))
    }

    fn offer_to(&self, pair: u8, side: LegSide, rate: Bandwidth, payer: PayerId) -> Offer {
        let pair = PairNonce([pair; 16]);
        let expires = self.wall.plus(Duration::from_secs(60));
        offer(&ticket_key(), &Ticket { relay: relay_id(), pair, side, rate, payer, expires })
    }

    pub(crate) fn foreign_ticket() -> Offer {
        let key = TicketRoot::new([2; 32]).key(relay_id());
        offer(&key, &Self::any_ticket(relay_id()))
    }

    pub(crate) fn ticket_for_another_relay(&self) -> Offer {
        let other = RelayId::from_bytes([8; 16]);
        offer(&TicketRoot::new([1; 32]).key(other), &Self::any_ticket(other))
    }

    fn any_ticket(relay: RelayId) -> Ticket {
        let (rate, expires) = (Bandwidth::UNLIMITED, UnixMillis(u64::MAX));
        Ticket { relay, pair: PairNonce([0xee; 16]), side: LegSide::A, rate, payer: payer(LegSide::A), expires }
    }

    pub(crate) fn join(&mut self, from: SocketAddr, offer: &Offer) -> Result<Slot, Code> {
        outcome(self.join_verdict(from, offer), &self.last_join)
    }

    pub(crate) fn join_copied(&mut self, from: SocketAddr, copied: &Copied) -> Result<Slot, Code> {
        self.join(from, &Offer { sealed: copied.ticket, key: copied.key })
    }

    pub(crate) fn join_through(&mut self, door: u8, from: SocketAddr, offer: &Offer) -> Result<Slot, Code> {
        outcome(self.join_verdict_through(door, from, offer), &self.last_join)
    }

    pub(crate) fn join_verdict(&mut self, from: SocketAddr, offer: &Offer) -> Verdict {
        self.join_verdict_through(0, from, offer)
    }

    /// Joins with a first packet, as a client does that asked for its cookie before.
    pub(crate) fn join_bringing(&mut self, from: SocketAddr, offer: &Offer, first: &[u8]) -> Result<Slot, Code> {
        let cookie = self.cookie(from);
        outcome(self.send_join(0, from, offer, cookie, Some(first)), &self.last_join)
    }

    /// What the relay gives to whoever asks from there.
    pub(crate) fn cookie(&mut self, from: SocketAddr) -> Cookie {
        let ask = Message::Ask.to_vec();
        let Verdict::Answer(answer) = self.send(from, &ask) else { panic!("no challenge") };
        assert_eq!(answer.as_bytes().len(), ask.len());
        let Some(Message::Challenge { cookie }) = Message::parse(answer.as_bytes()) else { panic!("{answer:?}") };
        cookie
    }

    /// Joins as a client does: asks for the challenge first.
    fn join_verdict_through(&mut self, door: u8, from: SocketAddr, offer: &Offer) -> Verdict {
        let first = self.send_join(door, from, offer, Cookie::default(), None);
        let Verdict::Answer(answer) = first else { panic!("no challenge but {first:?}") };
        assert!(answer.as_bytes().len() < self.last_join.len());
        let Some(Message::Challenge { cookie }) = Message::parse(answer.as_bytes()) else { panic!("{answer:?}") };
        self.send_join(door, from, offer, cookie, None)
    }

    pub(crate) fn send_join(
        &mut self,
        door: u8,
        from: SocketAddr,
        offer: &Offer,
        cookie: Cookie,
        first: Option<&[u8]>,
    ) -> Verdict {
        let proof = prove(&offer.key, cookie, &offer.sealed);
        let join = Join { cookie, ticket: &offer.sealed, proof: &proof };
        self.last_join = first.map_or(Message::Join(join), |first| Message::JoinFirst { join, first }).to_vec();
        let join = self.last_join.clone();
        self.send_through(door, from, &join)
    }
}

pub(crate) fn offer(key: &TicketKey, ticket: &Ticket) -> Offer {
    let sealed = key.seal(ticket);
    Offer { sealed, key: key.leg_key(&sealed) }
}

/// What an answer to this join says.
pub(crate) fn outcome(verdict: Verdict, join: &[u8]) -> Result<Slot, Code> {
    let Verdict::Answer(answer) = verdict else { panic!("no answer but {verdict:?}") };
    let Some(Message::Join(sent) | Message::JoinFirst { join: sent, .. }) = Message::parse(join) else {
        panic!("no join")
    };
    match Message::parse(answer.as_bytes()) {
        Some(Message::Joined { slot, join, .. }) => {
            assert_eq!(join, join_id(sent.proof));
            Ok(slot)
        }
        Some(Message::Refused { code, join }) => {
            assert_eq!(join, join_id(sent.proof));
            Err(Code::from_number(code).unwrap())
        }
        other => panic!("{other:?}"),
    }
}
