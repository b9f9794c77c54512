//! Events to admin: what processes tell of themselves for the overview of operators. Relays tell theirs in their beats.

use std::time::Duration;

use bus::{Delivery, Event};
use domain::{InstanceId, NatClass, PairOutcome, Strategy};
use minicbor::{Decode, Encode};

/// Between two tellings of one process.
pub const PERIOD: Duration = Duration::from_secs(5);

/// After this long without one the process is gone: two tellings may be lost.
pub const GONE: Duration = Duration::from_secs(17);

/// What a gateway tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct GatewayFigures {
    #[n(0)]
    pub instance: InstanceId,
    /// Sessions of this process.
    #[n(1)]
    pub sessions: u64,
}

impl Event for GatewayFigures {
    const TOPIC: &'static str = "admin.gateway";
    const DELIVERY: Delivery = Delivery::Everyone;
}

/// What a rendezvous process tells.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RendezvousFigures {
    #[n(0)]
    pub instance: InstanceId,
    /// Attempts that ended since the process began, where there were any.
    #[n(1)]
    pub ended: Vec<Ended>,
}

impl Event for RendezvousFigures {
    const TOPIC: &'static str = "admin.rendezvous";
    const DELIVERY: Delivery = Delivery::Everyone;
}

/// How many attempts of such pairs ended so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Ended {
    /// The smaller one of both.
    #[n(0)]
    pub class_a: NatClass,
    #[n(1)]
    pub class_b: NatClass,
    #[n(2)]
    pub strategy: Strategy,
    #[n(3)]
    pub outcome: PairOutcome,
    #[n(4)]
    pub count: u64,
}
