//! What becomes of a datagram, in words: for the shell, which does it, and for metrics.

use std::{net::SocketAddr, time::Instant};

use wire::{
    Code,
    relay::{MAX_ANSWER, Message},
};

/// What becomes of one datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes there as it is.
    Forward(Hop),
    /// Its end goes to many, each of which [`super::Relay::handle_copy`] decides about.
    Copy,
    /// Its sender is answered.
    Answer(Answer),
    Drop(DropReason),
}

/// Why a datagram went nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// Not a message of the relay protocol, or one that clients do not send.
    Malformed,
    /// The pair does not exist (any more).
    NoSlot,
    /// The sender is not a leg of the pair.
    NotALeg,
    /// The other leg has not joined.
    NoPeer,
    /// The pair is over its rate.
    OverCap,
    /// Who pays for the sender is out of quota.
    OverQuota,
    /// The leg moved less than a second ago.
    MovesTooOften,
    /// The sender's address shows too many tickets.
    JoinsTooOften,
    /// The sender's address has too much copied.
    CopiesTooOften,
    /// The sender's address asks the reflector too often, or for too many answers at a later time.
    AsksTooOften,
}

impl DropReason {
    /// Every reason, for metrics.
    pub const ALL: [Self; 10] = [
        Self::Malformed,
        Self::NoSlot,
        Self::NotALeg,
        Self::NoPeer,
        Self::OverCap,
        Self::OverQuota,
        Self::MovesTooOften,
        Self::JoinsTooOften,
        Self::CopiesTooOften,
        Self::AsksTooOften,
    ];

    /// The word for metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::NoSlot => "no-slot",
            Self::NotALeg => "not-a-leg",
            Self::NoPeer => "no-peer",
            Self::OverCap => "over-cap",
            Self::OverQuota => "over-quota",
            Self::MovesTooOften => "moves-too-often",
            Self::JoinsTooOften => "joins-too-often",
            Self::CopiesTooOften => "copies-too-often",
            Self::AsksTooOften => "asks-too-often",
        }
    }
}

/// An address, and through which of the relay's listeners it is reached: a NAT lets in only what comes from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hop {
    pub address: SocketAddr,
    /// The listener's place among those of the relay.
    pub door: u8,
}

/// All that is needed to forward a pair's datagrams elsewhere as they are here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    pub legs: [Hop; 2],
    /// The pair's bucket: when it is full again, nanoseconds per byte in 1/1024 (0: no limit), and how far before it is full
    /// again it still gives, in nanoseconds.
    pub full_at: Instant,
    pub pace: u64,
    pub depth: u64,
    /// The last datagram of either leg.
    pub seen: Instant,
    /// Bytes that each leg may send before its payer is looked at.
    pub allowed: [u64; 2],
}

/// Where a pair's legs send from, as far as they joined, and its bucket: nanoseconds per byte in 1/1024 (0: no limit), and how far
/// before it is full again it still gives, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    pub legs: [Option<SocketAddr>; 2],
    pub pace: u64,
    pub depth: u64,
}

/// A short message back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    bytes: [u8; MAX_ANSWER],
    length: usize,
}

impl Answer {
    pub(crate) fn of(message: &Message<'_>) -> Self {
        let mut bytes = [0; MAX_ANSWER];
        let length = message.write(&mut bytes);
        Self { bytes, length }
    }

    /// The bytes to send.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&Message::parse(self.as_bytes()), f)
    }
}

/// Something to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A new pair has its first leg.
    Opened,
    /// A leg joined or moved.
    Joined,
    /// A join was refused.
    Refused(Code),
    /// A pair ended.
    Closed,
    /// A first packet waits for the other leg.
    FirstParked,
    /// One that waited went to its leg.
    FirstDelivered,
    /// One was over the pair's rate.
    FirstOverCap,
}

impl Event {
    /// The word for metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Joined => "joined",
            Self::Refused(code) => code.name(),
            Self::Closed => "closed",
            Self::FirstParked => "first-parked",
            Self::FirstDelivered => "first-delivered",
            Self::FirstOverCap => "first-over-cap",
        }
    }
}
