//! Events about sessions, told by gateways.

use bus::{Delivery, Event};
use domain::{ClientId, Epoch};
use minicbor::{Decode, Encode};

/// What happened to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum SessionChange {
    /// The client logged in; presence has it.
    #[n(0)]
    Up,
    /// The client said goodbye; presence forgot it.
    #[n(1)]
    Down,
    /// The connection broke; presence forgot it.
    #[n(2)]
    Lost,
    /// The NAT profile in presence is new.
    #[n(3)]
    Profiled,
    /// Presence had forgotten the session and has it again. Who asked meanwhile took the client for offline.
    #[n(4)]
    Rebuilt,
}

/// A session changed. One network process announces it to the peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SessionChanged {
    #[n(0)]
    pub client: ClientId,
    #[n(1)]
    pub epoch: Epoch,
    #[n(2)]
    pub change: SessionChange,
}

impl Event for SessionChanged {
    const TOPIC: &'static str = "session.changed";
    const DELIVERY: Delivery = Delivery::Work;
}
