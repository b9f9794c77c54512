//! What is asked and answered.

use domain::{ClientId, Epoch, GatewayId, NatProfile, SessionTag, UnixMillis};

/// Where a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    pub client: ClientId,
    pub gateway: GatewayId,
    pub epoch: Epoch,
    pub tag: SessionTag,
    /// When the session began, by the clock of its gateway; after a loss of presence, when it was renewed first.
    pub since: UnixMillis,
    /// Once the client has measured it.
    pub profile: Option<NatProfile>,
}

/// A seat was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Up {
    pub epoch: Epoch,
    /// The seat of the older session, which is to be told.
    pub replaced: Option<Seat>,
}

/// What a renewal found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The seat, as it was left.
    Kept,
    /// Nothing, or something older: presence was emptied. The seat is back, without a NAT profile: report that again.
    Rebuilt,
    /// A seat that ran out and was swept, so that peers were told the client is lost. It is back, without a NAT profile:
    /// report that, and tell the peers.
    Revived,
    /// The seat of a newer session, or the end of this one: the session is over.
    Replaced,
}

/// A seat that ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lost {
    pub client: ClientId,
    pub epoch: Epoch,
}

/// Some of the seats, in the order of the clients' ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub seats: Vec<Seat>,
    /// Whether there are seats after these.
    pub more: bool,
}
