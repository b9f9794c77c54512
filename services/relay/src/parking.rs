//! First packets: what a leg brings the other one within its join, so that joining costs the pair no time.
//!
//! Where the other leg is there already, the packet leaves for it at once; where it is not, the packet waits here, for two
//! seconds. What waits is handed out once, to the leg that it is for, behind the answer to its join: to an address that has
//! just proved itself. The pair's bucket is charged when the packet comes in.
//!
//! The place of a packet follows from its pair, and a later packet takes the place of an earlier one: memory is 512
//! packets for each worker whatever happens, nothing is searched or swept, nothing is allocated. Whose packet was lost that
//! way, or came too late, begins its handshake once more, as after any loss.
//!
//! Rejected: a place in the pair's own line (a packet is four lines), a queue for each pair (memory that one client can have a
//! relay spend), waiting for as long as a ticket lives (the beginning of a handshake that nobody waits for is of no use).

use std::fmt;

use arrayvec::ArrayVec;
use wire::{
    relay::{HEADER_SIZE, MAX_FIRST, Message, Slot},
    ticket::LegSide,
};

use crate::{
    core::{Event, Hop},
    steer::Workers,
};

/// The largest datagram that a first packet leaves in.
pub const MAX_PARCEL: usize = HEADER_SIZE + MAX_FIRST;

/// How long a first packet waits for its leg, in nanoseconds: longer than a join with a challenge takes around the world.
pub(crate) const PATIENCE: u64 = 2_000_000_000;

/// Packets that wait at once: 2,500 new pairs a second whose legs join 200 ms apart.
pub(crate) const PLACES: usize = 512;

/// A first packet on its way to a leg.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Parcel {
    pub to: Hop,
    bytes: [u8; MAX_PARCEL],
    length: usize,
}

/// A leg that has just joined.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) slot: Slot,
    pub(crate) side: LegSide,
    pub(crate) at: Hop,
    /// Where the other leg is, if it is there.
    pub(crate) peer: Option<Hop>,
}

/// The first packets of one worker.
#[derive(Debug)]
pub(crate) struct Parking {
    places: Box<[Place]>,
    workers: Workers,
    /// At most one for each leg: read out after every datagram.
    leaving: ArrayVec<Parcel, 2>,
}

#[derive(Clone)]
struct Place {
    /// For whom.
    slot: Slot,
    side: LegSide,
    /// On the relay's clock in nanoseconds; what waits no longer is 0.
    until: u64,
    length: usize,
    bytes: [u8; MAX_FIRST],
}

impl Parking {
    pub(crate) fn new(workers: Workers) -> Self {
        let empty = Place { slot: Slot(0), side: LegSide::A, until: 0, length: 0, bytes: [0; MAX_FIRST] };
        Self { places: vec![empty; PLACES].into_boxed_slice(), workers, leaving: ArrayVec::new() }
    }

    /// Has what waited for the leg leave for it, and what it brings for the other one; that waits when there is none.
    pub(crate) fn handle_joined(&mut self, now: u64, leg: Arrival, first: Option<&[u8]>) -> Option<Event> {
        let mut event = None;
        let place = &mut self.places[(leg.slot.0 >> self.workers.bits()) as usize % PLACES];
        if place.until > now && (place.slot, place.side) == (leg.slot, leg.side) {
            place.until = 0;
            event = Some(Event::FirstDelivered);
            self.leaving.push(Parcel::new(leg.at, leg.slot, &place.bytes[..place.length]));
        }
        let Some(first) = first.filter(|first| first.len() <= MAX_FIRST) else { return event };
        if let Some(peer) = leg.peer {
            self.leaving.push(Parcel::new(peer, leg.slot, first));
        } else {
            (place.slot, place.side, place.until) = (leg.slot, leg.side.other(), now + PATIENCE);
            place.length = first.len();
            place.bytes[..first.len()].copy_from_slice(first);
            event = Some(Event::FirstParked);
        }
        event
    }

    /// The next packet to send.
    pub(crate) fn poll_parcel(&mut self) -> Option<Parcel> {
        self.leaving.pop_at(0)
    }
}

impl Parcel {
    fn new(to: Hop, slot: Slot, first: &[u8]) -> Self {
        let mut bytes = [0; MAX_PARCEL];
        let length = Message::Data { slot, payload: first }.write(&mut bytes);
        Self { to, bytes, length }
    }

    /// The datagram.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl fmt::Debug for Parcel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parcel").field("to", &self.to).field("message", &Message::parse(self.as_bytes())).finish()
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("slot", &self.slot).field("until", &self.until).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn what_waits_is_handed_out_once_and_to_the_leg_that_it_is_for() {
        let mut parking = Parking::new(Workers::ONE);
        assert_eq!(parking.handle_joined(0, leg(7, LegSide::A, None), Some(b"hello")), Some(Event::FirstParked));
        assert_eq!(parking.handle_joined(1, leg(7, LegSide::A, None), None), None, "its own sender");
        assert_eq!(parking.poll_parcel(), None);
        assert_eq!(parking.handle_joined(2, leg(7, LegSide::B, Some(hop(1))), None), Some(Event::FirstDelivered));
        assert_eq!(sent(&mut parking), [(hop(2), data(7, b"hello"))]);
        assert_eq!(parking.handle_joined(3, leg(7, LegSide::B, Some(hop(1))), None), None);
        assert_eq!(sent(&mut parking), []);
    }

    #[test]
    fn both_first_packets_cross_when_the_second_leg_joins() {
        let mut parking = Parking::new(Workers::ONE);
        parking.handle_joined(0, leg(7, LegSide::A, None), Some(b"of a"));
        parking.handle_joined(1, leg(7, LegSide::B, Some(hop(1))), Some(b"of b"));
        assert_eq!(sent(&mut parking), [(hop(2), data(7, b"of a")), (hop(1), data(7, b"of b"))]);
    }

    #[test]
    fn patience_ends_to_the_nanosecond() {
        for (wait, delivered) in [(PATIENCE - 1, true), (PATIENCE, false)] {
            let mut parking = Parking::new(Workers::ONE);
            parking.handle_joined(5, leg(7, LegSide::A, None), Some(b"x"));
            parking.handle_joined(5 + wait, leg(7, LegSide::B, Some(hop(1))), None);
            assert_eq!(sent(&mut parking).len(), usize::from(delivered));
        }
    }

    #[test]
    fn a_later_packet_takes_the_place_of_an_earlier_one_and_goes_to_no_other_pair() {
        let workers = Workers::new(4);
        let mut parking = Parking::new(workers);
        let [one, same, next] = [0, PLACES as u32, 1].map(|place| place << workers.bits() | 3);
        for (slot, first) in [(one, b"1"), (next, b"2"), (same, b"3")] {
            parking.handle_joined(0, leg(slot, LegSide::A, None), Some(first));
        }
        for slot in [one, same, next] {
            parking.handle_joined(1, leg(slot, LegSide::B, Some(hop(1))), None);
        }
        assert_eq!(sent(&mut parking), [(hop(2), data(same, b"3")), (hop(2), data(next, b"2"))]);
    }

    #[test]
    fn a_repeated_join_leaves_one_packet_waiting() {
        let mut parking = Parking::new(Workers::ONE);
        for now in 0..100 {
            parking.handle_joined(now, leg(7, LegSide::A, None), Some(b"again"));
        }
        parking.handle_joined(100, leg(7, LegSide::B, Some(hop(1))), None);
        assert_eq!(sent(&mut parking).len(), 1);
    }

    #[test]
    fn the_largest_packet_leaves_whole_and_a_larger_one_not_at_all() {
        let mut parking = Parking::new(Workers::ONE);
        for (size, leaves) in [(MAX_FIRST, true), (MAX_FIRST + 1, false)] {
            parking.handle_joined(0, leg(7, LegSide::A, Some(hop(2))), Some(&vec![9; size]));
            assert_eq!(sent(&mut parking).first().is_some_and(|(_, bytes)| bytes.len() == MAX_PARCEL), leaves);
        }
    }

    fn leg(slot: u32, side: LegSide, peer: Option<Hop>) -> Arrival {
        Arrival { slot: Slot(slot), side, at: hop(1 + side as u8), peer }
    }

    fn hop(host: u8) -> Hop {
        Hop { address: SocketAddr::from(([203, 0, 113, host], 40_000)), door: 0 }
    }

    fn data(slot: u32, payload: &[u8]) -> Vec<u8> {
        Message::Data { slot: Slot(slot), payload }.to_vec()
    }

    fn sent(parking: &mut Parking) -> Vec<(Hop, Vec<u8>)> {
        std::iter::from_fn(|| parking.poll_parcel()).map(|parcel| (parcel.to, parcel.as_bytes().to_vec())).collect()
    }
}
