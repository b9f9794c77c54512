//! What this client and one peer share so that floods can be sealed once for many: the keys that each gave the other, and
//! which slots may be named together with the peer's.
//!
//! A key is given when a flood could use it, and again, ever more rarely, until the peer says that it took it: an older
//! client never does, and gets its floods alone. Each handshake starts this anew, because a peer that restarted has lost its
//! keys. Nothing here has a deadline: without floods nobody needs any of it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use domain::{NetworkId, Revision};
use traversal::path;
use tunnel::{Flood, Frame, Handed, HeardKey, InnerPacket, KeyId, Refusal};
use wire::{
    fanout::{Shared, SharedKeyId},
    relay::{Message, Slot},
};

use super::{Leg, Origin, Output, Peer, Turn};
use crate::{settings::PathPolicy, sockets::SocketId};

/// See the module.
#[derive(Debug)]
pub(super) struct Copies {
    /// The common networks, and when somebody last joined or left them.
    common: BTreeMap<NetworkId, Revision>,
    /// The peer's key for each.
    heard: BTreeMap<NetworkId, Heard>,
    /// Ours.
    given: BTreeMap<NetworkId, Given>,
    group: Option<Group>,
    /// When a flood last went to the peer alone: the session lives from that.
    alone: Option<Instant>,
    /// In packets that the peer may have copied to us.
    budget: f64,
    refilled: Instant,
}

#[derive(Debug)]
struct Heard {
    key: HeardKey,
    /// What the peer knew of the members when it gave the key.
    revision: Revision,
    /// The members have changed, and so will the key.
    until: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Given {
    id: KeyId,
    taken: bool,
    pace: Pace,
}

/// What the relay says about the peer's slot.
#[derive(Clone, Copy, Debug)]
struct Group {
    seat: (SocketAddr, Slot),
    number: Option<u8>,
    pace: Pace,
}

/// When a question is asked again.
#[derive(Clone, Copy, Debug)]
struct Pace {
    next: Instant,
    asked: u32,
}

impl Copies {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            common: BTreeMap::new(),
            heard: BTreeMap::new(),
            given: BTreeMap::new(),
            group: None,
            alone: None,
            budget: BURST,
            refilled: now,
        }
    }

    /// The peer may have restarted.
    pub(super) fn handle_handshake(&mut self) {
        self.given.clear();
    }

    /// The relay may be another one, with the same numbers.
    pub(super) fn handle_joined(&mut self) {
        self.group = None;
    }

    /// Takes one packet from the budget.
    fn take(&mut self, now: Instant) -> bool {
        let refill = now.saturating_duration_since(self.refilled).as_secs_f64() * RATE;
        self.budget = (self.budget + refill).min(BURST);
        self.refilled = now;
        let granted = self.budget >= 1.0;
        if granted {
            self.budget -= 1.0;
        }
        granted
    }
}

impl Peer {
    /// The networks that are common with the peer, each with the revision at which somebody last joined or left.
    pub(crate) fn handle_common(&mut self, now: Instant, common: BTreeMap<NetworkId, Revision>) {
        let copies = &mut self.copies;
        copies.given.retain(|network, _| common.contains_key(network));
        copies.heard.retain(|network, heard| {
            let Some(composition) = common.get(network) else { return false };
            if heard.revision < *composition {
                // The peer learns of the change when we do, more or less.
                heard.until.get_or_insert(now + GRACE);
            }
            true
        });
        copies.common = common;
    }

    /// Names of the keys that the peer gave.
    pub(crate) fn heard_keys(&self) -> impl Iterator<Item = SharedKeyId> {
        self.copies.heard.values().map(|heard| SharedKeyId(heard.key.id()))
    }

    /// Where the relay takes what is for this peer, when it goes over the relay alone.
    pub(crate) fn seat(&self, now: Instant) -> Option<(SocketAddr, Slot)> {
        let sends = self.path.sends();
        let relayed = sends.first == Some(path::Route::Relay) && sends.also.is_none();
        if !relayed
            || self.is_barred(now)
            || !self.session.is_established()
            || self.is_holding(now)
            || !self.held.is_empty()
        {
            return None;
        }
        self.leg.as_ref().and_then(Leg::seat)
    }

    /// The number of the slots that may be named together with the one of `seat`; asks the relay when it is not known.
    pub(crate) fn group(&mut self, turn: &mut Turn<'_>, seat: (SocketAddr, Slot)) -> Option<u8> {
        let fresh = Group { seat, number: None, pace: Pace::new(turn.now) };
        let group = match &mut self.copies.group {
            Some(group) if group.seat == seat => group,
            group => group.insert(fresh),
        };
        if group.number.is_none() && group.pace.take(turn.now) {
            let (to, slot) = seat;
            let datagram = BytesMut::from(&Message::Which { slot }.to_vec()[..]);
            turn.outputs.push_back(Output::Send { socket: SocketId::MAIN, to, ttl: None, datagram });
        }
        group.number
    }

    /// The relay says which slots may be named together with this one.
    pub(crate) fn handle_group(&mut self, seat: (SocketAddr, Slot), number: u8) {
        if let Some(group) = self.copies.group.as_mut().filter(|group| group.seat == seat) {
            group.number = Some(number);
        }
    }

    /// Whether the peer opens what is sealed with the key `id` of `network`, which it is given by `hand` otherwise.
    pub(crate) fn has_key(&mut self, turn: &mut Turn<'_>, network: NetworkId, id: KeyId, hand: &Handed) -> bool {
        let fresh = Given { id, taken: false, pace: Pace::new(turn.now) };
        let given = self.copies.given.entry(network).or_insert(fresh);
        if given.id != id {
            *given = fresh;
        }
        if given.taken {
            return true;
        }
        if given.pace.take(turn.now)
            && let Some(datagram) = self.session.handle_frame(&Frame::Key(hand.clone()))
        {
            self.send_on(turn, path::Route::Relay, datagram);
        }
        false
    }

    /// Whether the next flood is to go to the peer alone, although it could be copied: nothing else may keep the session.
    pub(crate) fn is_owed_a_packet(&self, now: Instant) -> bool {
        self.copies.alone.is_none_or(|alone| now.saturating_duration_since(alone) >= ALONE)
    }

    /// A flood went to the peer alone.
    pub(crate) fn note_flooded(&mut self, now: Instant) {
        self.copies.alone = Some(now);
    }

    /// A flood of so many bytes went to the peer and others at once.
    pub(crate) fn note_copied(&mut self, turn: &mut Turn<'_>, bytes: usize) {
        self.used = Some(turn.now);
        self.sent_bytes += bytes as u64;
        self.note_sent(turn.now);
        self.wish_soon(turn);
    }

    /// The peer gives its key.
    pub(super) fn handle_key(&mut self, turn: &mut Turn<'_>, origin: Origin, handed: &Handed) {
        let Some(composition) = self.copies.common.get(&handed.network) else { return };
        // It does not know yet who is a member, or was one: it will have another key soon.
        if handed.revision < *composition || turn.policy == PathPolicy::Direct {
            return;
        }
        let key = HeardKey::new(handed, self.id);
        let id = key.id();
        match self.copies.heard.get_mut(&handed.network) {
            // What was opened with it stays opened.
            Some(heard) if heard.key.id() == id => (heard.revision, heard.until) = (handed.revision, None),
            _ => {
                self.copies.heard.insert(handed.network, Heard { key, revision: handed.revision, until: None });
            }
        }
        if let Some(datagram) = self.session.handle_frame(&Frame::KeyTaken(id)) {
            self.send_back(turn, origin, datagram);
        }
    }

    /// The peer took one of our keys.
    pub(super) fn handle_key_taken(&mut self, id: KeyId) {
        for given in self.copies.given.values_mut().filter(|given| given.id == id) {
            given.taken = true;
        }
    }

    /// A copy of something that the peer sealed for many came from the relay at `from`. Returns the packet.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(crate) fn handle_copy(
        &mut self,
        turn: &mut Turn<'_>,
        from: SocketAddr,
        copy: &Shared<'_>,
    ) -> Result<BytesMut, Refusal> {
        let meets_there = self.slots().any(|(at, _)| at == from);
        if !meets_there || turn.policy == PathPolicy::Direct || self.is_barred(turn.now) {
            return Err(Refusal::Foreign);
        }
        let heard =
            self.copies.heard.values_mut().find(|heard| heard.key.id() == copy.key.0).ok_or(Refusal::Foreign)?;
        if heard.until.is_some_and(|until| until <= turn.now) {
            return Err(Refusal::Foreign);
        }
        let mut packet = heard.key.open(copy.counter, copy.sealed)?;
        if !self.copies.take(turn.now) {
            return Err(Refusal::TooMany);
        }
        let inner = InnerPacket::parse(&packet).ok_or(Refusal::Malformed)?;
        if !inner.is_from(&self.about.member.addresses) {
            return Err(Refusal::SpoofedSource);
        }
        let length = inner.bytes.len();
        packet.truncate(length);
        self.hear_relay(turn.now, from);
        self.relaying.handle_heard();
        self.received_bytes += length as u64;
        self.used = Some(turn.now);
        Ok(packet)
    }
}

impl Pace {
    const fn new(now: Instant) -> Self {
        Self { next: now, asked: 0 }
    }

    /// Whether it is time to ask; if so, the next time is later.
    fn take(&mut self, now: Instant) -> bool {
        let due = self.next <= now;
        if due {
            self.next = now + (AGAIN * (1 << self.asked.min(10))).min(LAST_AGAIN);
            self.asked += 1;
        }
        due
    }
}

/// How long a key is taken after the members have changed.
const GRACE: Duration = Duration::from_secs(5);
/// Below the age at which a session asks for new keys when it sends (WireGuard's 120 s).
const ALONE: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_secs(1);
const LAST_AGAIN: Duration = Duration::from_secs(600);
/// Twice what a client may flood with.
const RATE: f64 = 2.0 * Flood::RATE as f64;
const BURST: f64 = 2.0 * RATE;
