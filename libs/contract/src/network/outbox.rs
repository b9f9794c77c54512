//! Changes of networks that other roles made.

use bus::{Delivery, Event};
use minicbor::{Decode, Encode};

/// Somebody else changed networks: their members are to be told now, not only when the sweep finds out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Unannounced;

impl Event for Unannounced {
    const TOPIC: &'static str = "network.unannounced";
    const DELIVERY: Delivery = Delivery::Work;
}
