//! Where pairs live: a vector of slots, addressed by a number that also holds how often the place was used.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use wire::{
    relay::Slot,
    ticket::{LegSide, PairNonce},
};

use crate::bucket::Bucket;

/// Bits of a slot number that are the place; the other eight count its users, so that a number of an ended pair means
/// nothing.
const PLACE_BITS: u32 = 24;

/// The most places of a slab.
pub(crate) const MAX_SLOTS: u32 = 1 << PLACE_BITS;

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
    pub(crate) generation: u8,
    pub(crate) live: bool,
}

const _: () = assert!(size_of::<Pair>() == 64, "a pair is one cache line");

/// What only joins, moves and ends read.
#[derive(Clone, Debug)]
pub(crate) struct Story {
    pub(crate) nonce: PairNonce,
    /// Nanoseconds of the relay's clock.
    pub(crate) joined: [Option<u64>; 2],
    /// When the pair was last told that it is capped.
    pub(crate) noted: Option<u64>,
}

/// All pairs of one worker.
#[derive(Debug)]
pub(crate) struct Slab {
    pairs: Vec<Pair>,
    stories: Vec<Story>,
    free: Vec<u32>,
    by_nonce: HashMap<PairNonce, u32>,
    most: u32,
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

impl Slab {
    /// No pair yet, room for `most`.
    pub(crate) fn new(most: u32) -> Self {
        let most = most.min(MAX_SLOTS);
        Self { pairs: Vec::new(), stories: Vec::new(), free: Vec::new(), by_nonce: HashMap::new(), most }
    }

    /// How many pairs live.
    pub(crate) fn len(&self) -> usize {
        self.by_nonce.len()
    }

    /// The pair with this number; `None` when it ended.
    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut Pair> {
        let pair = self.pairs.get_mut((slot.0 & (MAX_SLOTS - 1)) as usize)?;
        (pair.live && u32::from(pair.generation) == slot.0 >> PLACE_BITS).then_some(pair)
    }

    /// What is known besides of a living pair.
    pub(crate) fn story_mut(&mut self, slot: Slot) -> &mut Story {
        &mut self.stories[(slot.0 & (MAX_SLOTS - 1)) as usize]
    }

    /// The number of the pair that this nonce names.
    pub(crate) fn find(&self, nonce: &PairNonce) -> Option<Slot> {
        let place = *self.by_nonce.get(nonce)?;
        Some(self.slot(place))
    }

    /// A place for a new pair; `None` when all are taken.
    pub(crate) fn insert(&mut self, nonce: PairNonce, bucket: Bucket, seen: u32) -> Option<Slot> {
        let story = Story { nonce, joined: [None; 2], noted: None };
        let place = match self.free.pop() {
            Some(place) => {
                let pair = &mut self.pairs[place as usize];
                let generation = pair.generation.wrapping_add(1);
                *pair = Pair { legs: [Endpoint::default(); 2], bucket, seen, generation, live: true };
                self.stories[place as usize] = story;
                place
            }
            None => {
                let place = u32::try_from(self.pairs.len()).ok().filter(|place| *place < self.most)?;
                self.pairs.push(Pair { legs: [Endpoint::default(); 2], bucket, seen, generation: 0, live: true });
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
        self.free.push(slot.0 & (MAX_SLOTS - 1));
    }

    /// All living pairs, in the order of their places.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Slot, &Pair)> {
        (0..).zip(&self.pairs).filter(|(_, pair)| pair.live).map(|(place, pair)| (self.slot(place), pair))
    }

    fn slot(&self, place: u32) -> Slot {
        Slot(u32::from(self.pairs[place as usize].generation) << PLACE_BITS | place)
    }
}
