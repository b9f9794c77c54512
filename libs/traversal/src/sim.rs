//! A virtual network for tests: NAT boxes, firewalls, delay and loss under a virtual clock, all from one seed.
//!
//! [`net::Net`] moves packets; [`trial`] runs two clients and a server over it, with the same state machines that the
//! product uses, and tells how the pair ended up.

pub mod net;
pub mod trial;

use std::time::Instant;

use domain::{Filtering, Mapping};

/// An instant to count from.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "only differences to it matter")]
pub fn origin() -> Instant {
    Instant::now()
}

/// How a NAT chooses external ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// The inner port when it is free.
    Preserving,
    /// Counting up by one.
    Sequential,
    Random,
}

/// The behaviour of one box between a host and the Internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoxKind {
    pub mapping: Mapping,
    pub filtering: Filtering,
    pub allocation: Allocation,
    /// Sends packets to its own public address back inside.
    pub hairpin: bool,
    /// A Linux router whose INPUT chain accepts: an early packet from outside takes the port that it came for.
    pub input_accepts: bool,
    /// Keeps the addresses: a firewall, no NAT.
    pub transparent: bool,
    /// Lets no UDP out.
    pub blocks_udp: bool,
}

/// The usual home router; the other kinds differ from it.
const HOME_ROUTER: BoxKind = BoxKind {
    mapping: Mapping::EndpointIndependent,
    filtering: Filtering::AddressAndPortDependent,
    allocation: Allocation::Preserving,
    hairpin: false,
    input_accepts: false,
    transparent: false,
    blocks_udp: false,
};

const SYMMETRIC: BoxKind =
    BoxKind { mapping: Mapping::AddressAndPortDependent, allocation: Allocation::Random, ..HOME_ROUTER };

/// What a host sits behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Site {
    /// On the Internet, nothing in front.
    Open,
    /// On the Internet, behind a stateful firewall.
    Firewall,
    FullCone,
    Restricted,
    Home,
    HairpinHome,
    /// A home router whose INPUT chain accepts.
    LinuxHome,
    /// Endpoint-independent mapping to random ports.
    RandomCone,
    /// A home router behind a carrier's endpoint-independent NAT.
    HomeBehindCarrier,
    /// A home router behind a carrier's symmetric NAT.
    HomeBehindSymmetric,
    SymmetricSequential,
    SymmetricRandom,
    /// A new port for every destination address.
    AddressSymmetric,
    Blocked,
}

impl Site {
    /// Every kind of site.
    pub const ALL: [Self; 14] = [
        Self::Open,
        Self::Firewall,
        Self::FullCone,
        Self::Restricted,
        Self::Home,
        Self::HairpinHome,
        Self::LinuxHome,
        Self::RandomCone,
        Self::HomeBehindCarrier,
        Self::HomeBehindSymmetric,
        Self::SymmetricSequential,
        Self::SymmetricRandom,
        Self::AddressSymmetric,
        Self::Blocked,
    ];

    /// The boxes from the host outwards.
    #[must_use]
    pub fn boxes(self) -> Vec<BoxKind> {
        let random_cone = BoxKind { allocation: Allocation::Random, ..HOME_ROUTER };
        match self {
            Self::Open => vec![],
            Self::Firewall => vec![BoxKind { transparent: true, ..HOME_ROUTER }],
            Self::FullCone => vec![BoxKind { filtering: Filtering::EndpointIndependent, ..HOME_ROUTER }],
            Self::Restricted => vec![BoxKind { filtering: Filtering::AddressDependent, ..HOME_ROUTER }],
            Self::Home => vec![HOME_ROUTER],
            Self::HairpinHome => vec![BoxKind { hairpin: true, ..HOME_ROUTER }],
            Self::LinuxHome => vec![BoxKind { input_accepts: true, ..HOME_ROUTER }],
            Self::RandomCone => vec![random_cone],
            Self::HomeBehindCarrier => vec![HOME_ROUTER, random_cone],
            Self::HomeBehindSymmetric => vec![HOME_ROUTER, SYMMETRIC],
            Self::SymmetricSequential => vec![BoxKind { allocation: Allocation::Sequential, ..SYMMETRIC }],
            Self::SymmetricRandom => vec![SYMMETRIC],
            Self::AddressSymmetric => vec![BoxKind { mapping: Mapping::AddressDependent, ..SYMMETRIC }],
            Self::Blocked => vec![BoxKind { blocks_udp: true, ..HOME_ROUTER }],
        }
    }
}
