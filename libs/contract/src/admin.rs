//! Events to admin: what processes tell of themselves for the overview of operators, and what happens, for their programs.
//! Relays tell theirs in their beats.

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

/// Something happened that stands in no database: admin numbers and keeps it. Told once; what is not told is lost.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Happened {
    #[n(0)]
    pub events: Vec<domain::Event>,
}

impl Event for Happened {
    const TOPIC: &'static str = "admin.happened";
    const DELIVERY: Delivery = Delivery::Work;
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

/// How many sessions of one gateway come from the prefix that it was asked about: a number, never whose they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SessionsFrom {
    #[n(0)]
    pub question: u64,
    #[n(1)]
    pub instance: InstanceId,
    #[n(2)]
    pub sessions: u64,
}

impl Event for SessionsFrom {
    const TOPIC: &'static str = "admin.sessions-from";
    const DELIVERY: Delivery = Delivery::Everyone;
}
