//! What happens to a datagram. Pure: no socket, no clock, no allocation for a datagram that is forwarded.
//!
//! # Rules
//! - Nothing is sent to an address that has not proved itself, but the answer to its own question, which is not larger.
//! - No state is kept for the unproven: the challenge is a keyed hash of the address and the minute.
//! - A leg is who shows a ticket of this relay and proves the leg key for the address it sends from. It moves the same way,
//!   at most once a second; the old address then means nothing.
//! - A ticket starts a pair until it expires; the pair lives as long as packets flow.
//! - The pair's bucket is charged on ingress, for both legs together, also for the first packet that a join brings along. That
//!   packet leaves once, for a leg that has joined (see [`crate::parking`]).
//!   A newer ticket brings its rate along, as when the plan has changed; an older one changes nothing.
//! - Who pays for a leg is charged for what it sends that is forwarded (see [`crate::quota`]).
//! - Tickets are read only within a budget of their source address.
//!
//! Rejected: an address of the peer in any message (an open relay), a proof in each datagram (the tunnel has its own), a
//! table by source address (a slot number is an index).

mod drain;
mod joining;
mod verdict;

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use domain::UnixMillis;
use ring::hmac;
use wire::{
    Code,
    relay::{Message, Slot},
    ticket::{LegSide, PairNonce, TicketKey},
};

pub use self::verdict::{Answer, DropReason, Event, Hop, Reach, Sight, Verdict};
use crate::{
    fanout::Copies,
    joins::Joins,
    parking::{Parcel, Parking},
    quota::{self, Accounts},
    slab::Slab,
    steer::{Workers, pair_of},
};

/// A capped pair is told so at most this often.
const NOTE_PAUSE: u64 = 10_000_000_000;

/// Bounds of one relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub max_slots: u32,
    /// A pair without packets for this long ends.
    pub idle: Duration,
}

/// One worker's pairs.
#[derive(Debug)]
pub struct Relay {
    key: TicketKey,
    cookies: hmac::Key,
    limits: Limits,
    start: Instant,
    pub(crate) slab: Slab,
    joins: Joins,
    pub(crate) copies: Copies,
    parking: Parking,
    /// When each pair is looked at next: one entry a pair.
    deadlines: BinaryHeap<Reverse<(u64, u32)>>,
    /// What one datagram may cause: read out after every one.
    events: [Option<Event>; 3],
    /// The pair that is not what it was.
    changed: Option<Slot>,
    /// The pair whose legs are not where they were.
    moved: Option<Slot>,
    /// For the leg that did not cause it: read out with the events.
    note: Option<(Hop, Answer)>,
    /// The pair that was told why nothing of it arrives.
    held_back: Option<PairNonce>,
    accounts: Accounts,
    /// Since when no new pairs are taken.
    draining: Option<u64>,
}

impl Relay {
    /// The `worker` of a relay with the key of its tickets; `secret` makes its cookies.
    #[must_use]
    pub fn new(
        now: Instant,
        key: TicketKey,
        secret: [u8; 32],
        limits: Limits,
        (worker, workers): (u8, Workers),
        accounts: Accounts,
    ) -> Self {
        Self {
            key,
            cookies: hmac::Key::new(hmac::HMAC_SHA256, &secret),
            limits,
            start: now,
            slab: Slab::new(limits.max_slots, workers, worker),
            joins: Joins::new(secret, workers),
            copies: Copies::new(secret),
            parking: Parking::new(workers),
            deadlines: BinaryHeap::new(),
            events: [None; 3],
            changed: None,
            moved: None,
            note: None,
            held_back: None,
            accounts,
            draining: None,
        }
    }

    /// Decides one datagram. The payload stays in the caller's buffer. `wall` is for the expiry of tickets only.
    pub fn handle_datagram(&mut self, now: Instant, wall: UnixMillis, from: Hop, datagram: &[u8]) -> Verdict {
        let now = self.nanos(now);
        match Message::parse(datagram) {
            Some(Message::Data { slot, .. }) => self.forward(now, from.address, slot, datagram.len()),
            Some(Message::Ping { slot, nonce }) => self.ping(now, from.address, slot, nonce),
            Some(Message::Join(join)) => self.join(now, wall, from, &join, None),
            Some(Message::JoinFirst { join, first }) => self.join(now, wall, from, &join, Some(first)),
            Some(Message::Ask) => self.challenge(now, from),
            Some(Message::Fanout { slots, .. }) => self.fan_out(from.address, slots),
            Some(Message::Which { slot }) => self.which(now, from.address, slot),
            Some(
                Message::Challenge { .. }
                | Message::Joined { .. }
                | Message::Refused { .. }
                | Message::Pong { .. }
                | Message::Note { .. }
                | Message::Copy(_)
                | Message::Group { .. },
            )
            | None => Verdict::Drop(DropReason::Malformed),
        }
    }

    pub(crate) fn forward(&mut self, now: u64, from: SocketAddr, slot: Slot, length: usize) -> Verdict {
        let Some(pair) = self.slab.get_mut(slot) else { return Verdict::Drop(DropReason::NoSlot) };
        let Some(side) = pair.side_of(from.into()) else { return Verdict::Drop(DropReason::NotALeg) };
        pair.seen = seconds(now);
        let Some(peer) = pair.hop(side.other()) else { return Verdict::Drop(DropReason::NoPeer) };
        if !pair.bucket.take(now, length) {
            return self.hold_back(now, slot, peer, (DropReason::OverCap, Code::RelayCapped));
        }
        if quota::count(&mut pair.tally[side as usize], length) {
            return Verdict::Forward(peer);
        }
        // An accelerator has the pair while both legs may send, and only so far.
        self.changed = Some(slot);
        if self.accounts.look(&mut self.slab, (slot, side), now, length) {
            Verdict::Forward(peer)
        } else {
            self.hold_back(now, slot, peer, (DropReason::OverQuota, Code::RelayQuota))
        }
    }

    /// Tells both legs, now and then, why a datagram went nowhere.
    fn hold_back(&mut self, now: u64, slot: Slot, peer: Hop, (reason, code): (DropReason, Code)) -> Verdict {
        let story = self.slab.story_mut(slot);
        if now < story.notes_at {
            return Verdict::Drop(reason);
        }
        story.notes_at = now + NOTE_PAUSE;
        self.held_back = Some(story.nonce);
        let note = Answer::of(&Message::Note { slot, code: code.number() });
        self.note = Some((peer, note));
        Verdict::Answer(note)
    }

    fn ping(&mut self, now: u64, from: SocketAddr, slot: Slot, nonce: u64) -> Verdict {
        let Some(pair) = self.slab.get_mut(slot) else { return Verdict::Drop(DropReason::NoSlot) };
        if pair.side_of(from.into()).is_none() {
            return Verdict::Drop(DropReason::NotALeg);
        }
        pair.seen = seconds(now);
        Verdict::Answer(Answer::of(&Message::Pong { slot, nonce }))
    }

    /// Looks at a pair again at `due`.
    fn await_end(&mut self, due: u64, slot: Slot) {
        if self.deadlines.len() == self.deadlines.capacity() {
            self.deadlines.reserve_exact(self.deadlines.len() / 8 + 64);
        }
        self.deadlines.push(Reverse((due, slot.0)));
    }

    /// Ends the pair that [`Self::due`] names, if it was idle for too long.
    pub fn handle_deadline(&mut self, now: Instant) {
        let now = self.nanos(now);
        let Some(&Reverse((due, number))) = self.deadlines.peek() else { return };
        if due > now {
            return;
        }
        self.deadlines.pop();
        let (idle, slot) = (self.idle(), Slot(number));
        let Some(pair) = self.slab.get_mut(slot) else { return };
        let ends = u64::from(pair.seen) * 1_000_000_000 + idle;
        if ends > now {
            self.await_end(ends, slot);
            self.accounts.tell(&mut self.slab, slot);
            return;
        }
        self.end(slot);
        self.event(Event::Closed);
    }

    /// Ends a pair, and leaves its accounts.
    fn end(&mut self, slot: Slot) {
        self.accounts.leave(&mut self.slab, slot);
        self.slab.remove(slot);
        self.changed = Some(slot);
        self.moved = Some(slot);
    }

    /// Ends every pair: nothing is forwarded any more.
    pub fn handle_end(&mut self) {
        for slot in self.slab.slots() {
            self.end(slot);
        }
    }

    /// What the leg that did not cause it is told, after each datagram.
    pub fn poll_note(&mut self) -> Option<(Hop, Answer)> {
        self.note.take()
    }

    /// The pair that sends more than it may, after each datagram: as often as its legs are told so.
    pub fn poll_held_back(&mut self) -> Option<PairNonce> {
        self.held_back.take()
    }

    /// When [`Self::handle_deadline`] has something to do.
    #[must_use]
    pub fn poll_deadline(&self) -> Option<Instant> {
        self.deadlines.peek().map(|Reverse((due, _))| self.start + Duration::from_nanos(*due))
    }

    /// What to count, after each datagram and each deadline.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.iter_mut().find_map(Option::take)
    }

    /// First packets that leave, after each datagram, behind the answer to it.
    pub fn poll_parcel(&mut self) -> Option<Parcel> {
        let parcel = self.parking.poll_parcel()?;
        if let Some(Message::Data { slot, .. }) = Message::parse(parcel.as_bytes())
            && let Some(to) = self.slab.get_mut(slot).and_then(|pair| pair.side_of(parcel.to.address.into()))
        {
            self.accounts.pass(&mut self.slab, (slot, to.other()), parcel.as_bytes().len());
        }
        Some(parcel)
    }

    /// The pair that is not what it was, or that ended, after each datagram and each deadline.
    pub fn poll_change(&mut self) -> Option<Slot> {
        self.changed.take()
    }

    /// The pair whose legs are not where they were, or that ended, after each datagram and each deadline.
    pub fn poll_move(&mut self) -> Option<Slot> {
        self.moved.take()
    }

    /// Where the legs of a pair are; `None` when it has ended.
    #[must_use]
    pub fn reach(&mut self, slot: Slot) -> Option<Reach> {
        let pair = self.slab.get_mut(slot)?;
        let legs = [LegSide::A, LegSide::B].map(|side| pair.hop(side).map(|hop| hop.address));
        Some(Reach { legs, pace: pair.bucket.pace(), depth: pair.bucket.depth() })
    }

    /// What an accelerator needs of a pair; `None` unless both legs are there and may send.
    pub fn sight(&mut self, slot: Slot) -> Option<Sight> {
        let start = self.start;
        let pair = self.slab.get_mut(slot).filter(|pair| !pair.tally.contains(&quota::STOPPED))?.clone();
        Some(Sight {
            legs: [pair.hop(LegSide::A)?, pair.hop(LegSide::B)?],
            full_at: start + Duration::from_nanos(pair.bucket.full_at()),
            pace: pair.bucket.pace(),
            depth: pair.bucket.depth(),
            seen: start + Duration::from_secs(pair.seen.into()),
            allowed: self.accounts.allowed(&self.slab, slot),
        })
    }

    /// The pair that this datagram would charge; `None` when it has no limit.
    #[must_use]
    pub fn charged(&mut self, datagram: &[u8]) -> Option<Slot> {
        let slot = match Message::parse(datagram)? {
            Message::Data { slot, .. } => slot,
            Message::JoinFirst { join, .. } => self.slab.find(&pair_of(&join)?)?,
            Message::Join(_)
            | Message::Ask
            | Message::Ping { .. }
            | Message::Fanout { .. }
            | Message::Copy(_)
            | Message::Which { .. }
            | Message::Group { .. }
            | Message::Challenge { .. }
            | Message::Joined { .. }
            | Message::Refused { .. }
            | Message::Pong { .. }
            | Message::Note { .. } => return None,
        };
        self.has_limit(slot).then_some(slot)
    }

    /// Whether there is such a pair, and a limit to its rate.
    #[must_use]
    pub fn has_limit(&mut self, slot: Slot) -> bool {
        self.slab.get_mut(slot).is_some_and(|pair| pair.bucket.pace() > 0)
    }

    /// The pair that [`Self::handle_deadline`] looks at next.
    #[must_use]
    pub fn due(&self) -> Option<Slot> {
        self.deadlines.peek().map(|Reverse((_, number))| Slot(*number))
    }

    /// Counts what an accelerator forwarded of a pair: when its bucket is full again, the last datagram, and the bytes of
    /// each leg since it was last asked.
    pub fn handle_forwarded(&mut self, slot: Slot, full_at: Instant, seen: Instant, sent: [u64; 2]) {
        let (full_at, seen) = (self.nanos(full_at), seconds(self.nanos(seen)));
        let Some(pair) = self.slab.get_mut(slot) else { return };
        pair.bucket.is_full_at(full_at);
        pair.seen = pair.seen.max(seen);
        if !self.accounts.add(&mut self.slab, slot, sent) {
            self.changed = Some(slot);
        }
    }

    /// How many pairs live.
    #[must_use]
    pub fn pairs(&self) -> usize {
        self.slab.len()
    }

    fn event(&mut self, event: Event) {
        if let Some(place) = self.events.iter_mut().find(|place| place.is_none()) {
            *place = Some(event);
        }
    }

    fn idle(&self) -> u64 {
        u64::try_from(self.limits.idle.as_nanos()).unwrap_or(u64::MAX / 2)
    }

    pub(crate) fn nanos(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }
}

pub(crate) fn seconds(nanos: u64) -> u32 {
    u32::try_from(nanos / 1_000_000_000).unwrap_or(u32::MAX)
}
