//! One frame in, a copy to each of many: the relay spares a client from sending the same to every member of a network.
//!
//! # Rules
//! - Each copy is decided about as if it had come alone, by [`Relay::handle_copy`]: only to the other, proven leg of a slot that
//!   the sender is a leg of, paid by that pair. A slot for which that does not hold is left out, and counted.
//! - At most [`wire::fanout::MAX_COPIES`] copies a frame, and none twice to a pair.
//! - A sender has a budget of copies: what a client may flood a network with, times the slots of a frame. Many pairs without a
//!   limit would otherwise multiply its rate by theirs.
//! - A stranger's frame costs eight looks at slots, not as many as it names.
//!
//! A frame is for one worker, and all its slots are (see [`crate::steer`]). A client learns by WHICH what it may name together:
//! the group is the worker's number. Rejected: a hand-over among workers (a lock, or a queue, on the packet path); a slot number in
//! each copy (every copy would have to be written; now all are the same bytes in the buffer where the frame arrived).

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use wire::{
    fanout::{MAX_COPIES, Slots},
    relay::{Message, Slot},
    stream::StreamId,
};

use crate::core::{Answer, DropReason, Hop, Relay, Verdict, seconds};

/// Copies of one sender in a second, of those that one worker makes: 100 floods for as many slots as a frame names.
const PER_SECOND: u64 = 100 * MAX_COPIES as u64;

/// Between two copies at the rate, in nanoseconds.
const INTERVAL: u64 = 1_000_000_000 / PER_SECOND;

/// What may be taken at once, in nanoseconds at the rate: twice as many, as a client's floods may come in bursts.
const DEPTH: u64 = 2_000_000_000;

/// Budgets are shared by the senders that fall together: 32 KiB, however many there are.
const PLACES: u32 = 4_096;

/// So many slots of a frame are looked at before it is found to be a stranger's.
const LOOKS: usize = 8;

/// The budgets of all senders, each as the instant when it is whole again.
#[derive(Debug)]
pub(crate) struct Copies {
    /// Odd and secret, so that nobody can choose whom to share a budget with.
    factor: u64,
    whole_at: Box<[u64]>,
}

impl Copies {
    /// Whole budgets; `secret` spreads the senders.
    pub(crate) fn new(secret: [u8; 32]) -> Self {
        let factor = secret.iter().skip(8).take(8).fold(0, |number, &byte| number << 8 | u64::from(byte)) | 1;
        Self { factor, whole_at: vec![0; PLACES as usize].into_boxed_slice() }
    }

    /// Takes one copy from the budget of `sender` at `now` (nanoseconds); false when it is used up.
    fn take(&mut self, now: u64, sender: SocketAddr) -> bool {
        let place = number(sender).wrapping_mul(self.factor) >> (u64::BITS - PLACES.ilog2());
        let whole_at = &mut self.whole_at[place as usize];
        let next = (*whole_at).max(now) + INTERVAL;
        let granted = next - now <= DEPTH;
        if granted {
            *whole_at = next;
        }
        granted
    }
}

/// Stands for a sender: all of an IPv4 address and its port, or the name of a stream.
fn number(sender: SocketAddr) -> u64 {
    if let Some(stream) = StreamId::of(&sender) {
        return stream.0;
    }
    let ip = match sender.ip().to_canonical() {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let [high, low] = [ip >> 64, ip & u128::from(u64::MAX)].map(|half| u64::try_from(half).unwrap_or(0));
    high.rotate_left(32) ^ low ^ u64::from(sender.port()) << 48
}

impl Relay {
    /// Whether a frame for many is worth taking apart.
    pub(crate) fn fan_out(&mut self, from: SocketAddr, slots: Slots<'_>) -> Verdict {
        let mut looks = slots.iter().take(LOOKS);
        if looks.any(|slot| self.is_leg(slot, from)) { Verdict::Copy } else { Verdict::Drop(DropReason::NotALeg) }
    }

    /// Decides about the copy of `length` bytes for the other leg of `slot`, after [`Verdict::Copy`].
    pub fn handle_copy(&mut self, now: Instant, from: Hop, slot: Slot, length: usize) -> Verdict {
        let now = self.nanos(now);
        // Nobody uses up the budget of an address that is not a leg's.
        if self.is_leg(slot, from.address) && !self.copies.take(now, from.address) {
            return Verdict::Drop(DropReason::CopiesTooOften);
        }
        self.forward(now, from.address, slot, length)
    }

    /// Tells a leg what its slot may be named with.
    pub(crate) fn which(&mut self, now: u64, from: SocketAddr, slot: Slot) -> Verdict {
        let group = self.slab.worker();
        let Some(pair) = self.slab.get_mut(slot) else { return Verdict::Drop(DropReason::NoSlot) };
        if pair.side_of(from.into()).is_none() {
            return Verdict::Drop(DropReason::NotALeg);
        }
        pair.seen = seconds(now);
        Verdict::Answer(Answer::of(&Message::Group { slot, group }))
    }

    fn is_leg(&mut self, slot: Slot, from: SocketAddr) -> bool {
        self.slab.get_mut(slot).is_some_and(|pair| pair.side_of(from.into()).is_some())
    }
}
