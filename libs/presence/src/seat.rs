//! What is asked and answered.

use domain::{ClientId, Epoch, GatewayId, NatProfile, RelayTrips, SessionTag, UnixMillis};

/// Where a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    pub client: ClientId,
    pub gateway: GatewayId,
    pub epoch: Epoch,
    pub tag: SessionTag,
    /// When the session began, by the clock of its gateway.
    pub since: UnixMillis,
    /// Once the client has measured it; after a loss of presence, once it is reported again.
    pub profile: Option<NatProfile>,
    /// How far relays are: empty until the client has measured that.
    pub trips: RelayTrips,
}

/// A session as its gateway holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    pub client: ClientId,
    pub epoch: Epoch,
    pub tag: SessionTag,
    /// When the session began.
    pub since: UnixMillis,
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
    /// The session has its seat.
    Kept,
    /// The session has its seat again: presence had forgotten it, and nobody found it meanwhile. Its NAT profile is unknown.
    Rebuilt,
    /// A newer session of the client is known: this one is over, and is told so.
    Replaced,
    /// This session went down, or ran out and was announced as lost: it can only come up anew.
    Ended,
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
