//! One datagram for many: what a client hands to a relay once, and the relay passes on to the other legs of several slots.
//!
//! ```text
//! FANOUT     B9 n 0 0 | slot 4 x n | COPY               to the relay: n slots in rising order, 1 to 64
//! COPY       B1 0 0 0 | counter 4 | key 8 | sealed      from the relay: the end of the FANOUT, as it is
//! WHICH      BC 0 0 0 | slot 4                          to the relay: what may this slot be named with?
//! GROUP      BD g 0 0 | slot 4                          from the relay: all slots of one client whose group is g
//! ```
//!
//! The relay reads the slots and the first byte of the COPY. The rest is between clients: the key is not the relay's, the
//! counter tells repeats, and what is sealed is opened by whoever was given the key. A COPY names no slot, so that it is the
//! same bytes for everybody and the relay moves none of them.
//!
//! Slots in rising order occur once, so that no frame brings two copies to anybody. A slot has one owner among the workers of a
//! relay, and its first slot brings a FANOUT to one of them: those of the others would be skipped. Hence the groups. A relay of an older
//! version does not answer WHICH, and gets no FANOUT.

use crate::relay::{HEADER_SIZE, Slot};

/// The most slots of one frame.
pub const MAX_COPIES: usize = 64;

/// Bytes of a copy in front of what is sealed.
pub const COPY_HEADER_SIZE: usize = 16;

/// The tag of what is sealed: nothing is shorter.
pub const TAG_SIZE: usize = 16;

/// The first bytes of a [`Shared`] datagram, before its counter.
pub(crate) const COPY: [u8; 4] = [COPY_KIND, 0, 0, 0];
pub(crate) const COPY_KIND: u8 = 0xb1;

/// One to 64 different slots, in rising order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots<'a>(&'a [u8]);

/// A datagram that is the same for all who get it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shared<'a> {
    /// How many were sealed with the key before.
    pub counter: u32,
    pub key: SharedKeyId,
    /// With the tag.
    pub sealed: &'a [u8],
}

/// Which key a copy is sealed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SharedKeyId(pub [u8; 8]);

impl<'a> Slots<'a> {
    /// Reads `count` slots at the front of `bytes`; returns what follows, too.
    pub(crate) fn read(count: u8, bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let count = usize::from(count);
        let (slots, rest) = bytes.split_at_checked(count * SLOT_SIZE)?;
        let slots = Self(slots);
        ((1..=MAX_COPIES).contains(&count) && slots.iter().is_sorted_by(|one, next| one < next))
            .then_some((slots, rest))
    }

    /// How many there are.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.0.len() / SLOT_SIZE
    }

    /// The lowest: it says which worker of the relay the frame is for.
    #[must_use]
    pub fn first(&self) -> Slot {
        self.iter().next().unwrap_or(Slot(0))
    }

    /// All of them, rising.
    pub fn iter(&self) -> impl Iterator<Item = Slot> + use<'a> {
        self.0.as_chunks().0.iter().map(|slot| Slot(u32::from_be_bytes(*slot)))
    }

    pub(crate) const fn as_bytes(&self) -> &'a [u8] {
        self.0
    }
}

impl<'a> Shared<'a> {
    /// Reads a whole copy.
    pub(crate) fn read(bytes: &'a [u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&COPY)?;
        let (counter, rest) = rest.split_first_chunk()?;
        let (key, sealed) = rest.split_first_chunk()?;
        let counter = u32::from_be_bytes(*counter);
        (sealed.len() >= TAG_SIZE).then_some(Self { counter, key: SharedKeyId(*key), sealed })
    }
}

/// How many slots a frame can name that has at most `room` bytes and carries a copy of `copy` bytes; the limit of
/// [`MAX_COPIES`] included.
#[must_use]
pub const fn slots_that_fit(room: usize, copy: usize) -> usize {
    let fit = room.saturating_sub(KIND_SIZE).saturating_sub(copy) / SLOT_SIZE;
    if fit < MAX_COPIES { fit } else { MAX_COPIES }
}

/// A frame that has the relay pass `copy` on to the other legs of `slots`; `None` when there is none, or more than
/// [`MAX_COPIES`]. The order of the slots does not matter, and one that is named twice is named once.
#[must_use]
pub fn frame(slots: &[Slot], copy: &Shared<'_>) -> Option<Vec<u8>> {
    let mut slots = slots.to_vec();
    slots.sort_unstable();
    slots.dedup();
    let count = u8::try_from(slots.len()).ok().filter(|count| (1..=MAX_COPIES).contains(&usize::from(*count)))?;
    let size = KIND_SIZE + slots.len() * SLOT_SIZE + COPY_HEADER_SIZE + copy.sealed.len();
    let mut bytes = Vec::with_capacity(size);
    bytes.extend([FANOUT, count, 0, 0]);
    bytes.extend(slots.iter().flat_map(|slot| slot.0.to_be_bytes()));
    bytes.extend(COPY);
    bytes.extend(copy.counter.to_be_bytes());
    bytes.extend(copy.key.0);
    bytes.extend(copy.sealed);
    Some(bytes)
}

/// First byte of a FANOUT.
pub(crate) const FANOUT: u8 = 0xb9;

const KIND_SIZE: usize = 4;
const SLOT_SIZE: usize = 4;
const _: () = assert!(KIND_SIZE + SLOT_SIZE == HEADER_SIZE, "the first slot is where that of other messages is");
