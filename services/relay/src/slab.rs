//! Where the pairs of one worker live: a vector of places, addressed by a number that also holds the worker and how often
//! the place was used.
//!
//! ```text
//! slot number    uses of the place 8 | place | worker        the worker takes as few bits as there are workers
//! ```

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use domain::PayerId;
use wire::{
    relay::Slot,
    ticket::{LegSide, PairNonce},
};

use crate::{
    bucket::Bucket,
    core::Hop,
    quota::Account,
    steer::{GENERATION_BITS, Workers},
};

/// Where the count of uses begins, so that a number of an ended pair means nothing.
const GENERATION_AT: u32 = u32::BITS - GENERATION_BITS;

/// Below it is what stays of a number when its place is used again.
pub(crate) const PLACES: u32 = 1 << GENERATION_AT;

/// An address that proved itself, in 18 bytes. All zeros: none did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Endpoint {
    ip: [u8; 16],
    port: u16,
}

/// One pair. Kept within one cache line: this is what every packet reads.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub(crate) struct Pair {
    pub(crate) legs: [Endpoint; 2],
    pub(crate) bucket: Bucket,
    /// Seconds of the relay's clock at the last packet of either leg.
    pub(crate) seen: u32,
    /// Through which of the relay's doors each leg is reached.
    pub(crate) doors: [u8; 2],
    pub(crate) generation: u8,
    pub(crate) live: bool,
    /// Bytes of each leg that its account does not know of yet, or [`crate::quota::STOPPED`].
    pub(crate) tally: [u16; 2],
}

const _: () = assert!(size_of::<Pair>() == 64, "a pair is one cache line");

/// What only joins, moves and ends read.
#[derive(Clone, Debug)]
pub(crate) struct Story {
    pub(crate) nonce: PairNonce,
    /// When each leg may move, on the relay's clock in nanoseconds.
    pub(crate) moves_at: [u64; 2],
    /// When the pair is told again that it is capped.
    pub(crate) notes_at: u64,
    /// Who pays for what each leg sends.
    pub(crate) payers: [PayerId; 2],
    /// Their accounts, from the first look on.
    pub(crate) accounts: [Option<Arc<Account>>; 2],
    /// Whether they were charged since the pair was last looked at.
    pub(crate) charged: [bool; 2],
    /// Until when the ticket is good that the rate is from, in seconds since 1970.
    pub(crate) rated: u32,
}

const _: () = assert!(size_of::<Story>() == 96, "with a pair, and what finds it, below 256 bytes");

/// A vector grows by this part of itself, not by its double: memory is for pairs.
const GROWTH: usize = 8;

/// All pairs of one worker.
#[derive(Debug)]
pub(crate) struct Slab {
    pairs: Vec<Pair>,
    stories: Vec<Story>,
    free: Vec<u32>,
    by_nonce: HashMap<PairNonce, u32>,
    most: u32,
    workers: Workers,
    worker: u8,
}

impl Endpoint {
    pub(crate) fn is_none(self) -> bool {
        self.port == 0
    }

    pub(crate) fn address(self) -> SocketAddr {
        SocketAddr::new(IpAddr::V6(Ipv6Addr::from(self.ip)).to_canonical(), self.port)
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        let ip = match address.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        Self { ip: ip.octets(), port: address.port() }
    }
}

impl Pair {
    /// Which leg sends from `from`. A datagram without a source port comes from none: it looks like an empty seat.
    pub(crate) fn side_of(&self, from: Endpoint) -> Option<LegSide> {
        if from.is_none() {
            return None;
        }
        [LegSide::A, LegSide::B].into_iter().find(|side| self.legs[*side as usize] == from)
    }
}

impl Pair {
    /// Where the leg on `side` is reached; `None` before it joined.
    pub(crate) fn hop(&self, side: LegSide) -> Option<Hop> {
        let leg = self.legs[side as usize];
        (!leg.is_none()).then(|| Hop { address: leg.address(), door: self.doors[side as usize] })
    }
}

impl Slab {
    /// No pair yet, room for `most`; `worker` of `workers` stands in every number.
    pub(crate) fn new(most: u32, workers: Workers, worker: u8) -> Self {
        let most = most.min(1 << (GENERATION_AT - workers.bits()));
        Self {
            pairs: Vec::new(),
            stories: Vec::new(),
            free: Vec::new(),
            by_nonce: HashMap::new(),
            most,
            workers,
            worker,
        }
    }

    /// How many pairs live.
    pub(crate) fn len(&self) -> usize {
        self.by_nonce.len()
    }

    /// Whose pairs these are.
    pub(crate) const fn worker(&self) -> u8 {
        self.worker
    }

    /// The pair with this number; `None` when it ended, or is another worker's.
    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut Pair> {
        if self.workers.of_slot(slot) != Some(self.worker) {
            return None;
        }
        let place = self.place(slot);
        let pair = self.pairs.get_mut(place)?;
        (pair.live && u32::from(pair.generation) == slot.0 >> GENERATION_AT).then_some(pair)
    }

    /// What is known besides of a living pair.
    pub(crate) fn story(&self, slot: Slot) -> &Story {
        &self.stories[self.place(slot)]
    }

    /// What is known besides of a living pair.
    pub(crate) fn story_mut(&mut self, slot: Slot) -> &mut Story {
        let place = self.place(slot);
        &mut self.stories[place]
    }

    /// The number of the pair that this nonce names.
    pub(crate) fn find(&self, nonce: &PairNonce) -> Option<Slot> {
        let place = *self.by_nonce.get(nonce)?;
        Some(self.slot(place))
    }

    /// A place for a new pair; `None` when all are taken.
    pub(crate) fn insert(&mut self, nonce: PairNonce, bucket: Bucket, payer: PayerId, seen: u32) -> Option<Slot> {
        let story = Story {
            nonce,
            moves_at: [0; 2],
            notes_at: 0,
            payers: [payer; 2],
            accounts: [None, None],
            charged: [false; 2],
            rated: 0,
        };
        let legs = [Endpoint::default(); 2];
        let new = |generation| Pair { legs, bucket, seen, doors: [0; 2], generation, live: true, tally: [0; 2] };
        let place = match self.free.pop() {
            Some(place) => {
                let pair = &mut self.pairs[place as usize];
                *pair = new(pair.generation.wrapping_add(1));
                self.stories[place as usize] = story;
                place
            }
            None => {
                let place = u32::try_from(self.pairs.len()).ok().filter(|place| *place < self.most)?;
                grow(&mut self.pairs);
                grow(&mut self.stories);
                self.pairs.push(new(0));
                self.stories.push(story);
                place
            }
        };
        self.by_nonce.insert(nonce, place);
        Some(self.slot(place))
    }

    /// Ends a pair.
    pub(crate) fn remove(&mut self, slot: Slot) {
        let Some(pair) = self.get_mut(slot) else { return };
        pair.live = false;
        let nonce = self.story_mut(slot).nonce;
        self.by_nonce.remove(&nonce);
        let place = self.place(slot);
        self.free.extend(u32::try_from(place));
    }

    /// The numbers of all living pairs.
    pub(crate) fn slots(&self) -> Vec<Slot> {
        let live = (0..).zip(&self.pairs).filter(|(_, pair)| pair.live);
        live.map(|(place, _)| self.slot(place)).collect()
    }

    /// The living pair at `place` or the first one after it, and the place behind that.
    pub(crate) fn first_from(&self, place: u32) -> Option<(Slot, u32)> {
        let rest = self.pairs.get(place as usize..)?;
        let live = (place..).zip(rest).find(|(_, pair)| pair.live);
        live.map(|(place, _)| (self.slot(place), place + 1))
    }

    fn place(&self, slot: Slot) -> usize {
        ((slot.0 & ((1 << GENERATION_AT) - 1)) >> self.workers.bits()) as usize
    }

    fn slot(&self, place: u32) -> Slot {
        let generation = u32::from(self.pairs[place as usize].generation) << GENERATION_AT;
        Slot(generation | place << self.workers.bits() | u32::from(self.worker))
    }
}

/// Makes room for one more.
pub(crate) fn grow<T>(vector: &mut Vec<T>) {
    if vector.len() == vector.capacity() {
        vector.reserve_exact(vector.len() / GROWTH + 64);
    }
}
