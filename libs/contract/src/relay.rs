//! Events for relays.

use bus::{Delivery, Event};
use domain::RelayId;
use minicbor::{Decode, Encode};

/// What an operator wants of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum RelayOrder {
    /// Take no new pairs, and have those that are there go elsewhere.
    #[n(0)]
    Drain,
    /// Take pairs again.
    #[n(1)]
    Resume,
}

/// An order to one relay, addressed to its process, which has the same id. The next beat tells what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RelayOrdered {
    #[n(0)]
    pub relay: RelayId,
    #[n(1)]
    pub order: RelayOrder,
}

impl Event for RelayOrdered {
    const TOPIC: &'static str = "relay.order";
    const DELIVERY: Delivery = Delivery::Addressed;
}
