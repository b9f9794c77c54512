//! A virtual network for tests: NAT boxes, firewalls, delay and loss under a virtual clock, all from one seed.
//!
//! [`nat`] is one box as RFC 4787 describes them, with the habits of Linux where the RFC is silent; [`net`] moves packets
//! through boxes and the Internet and counts what leaves each public address; [`trial`] runs clients and a server over it,
//! with the same state machines that the product uses, and tells how each pair ended up.

mod client;
pub mod nat;
pub mod net;
mod observed;
mod tcp;
pub mod trial;

use std::time::{Duration, Instant};

use domain::{Filtering, Mapping};

pub use self::nat::{BoxKind, Pool, Ports};

/// An instant to count from.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "only differences to it matter")]
pub fn origin() -> Instant {
    Instant::now()
}

/// What IPv6 a site has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ipv6 {
    #[default]
    None,
    /// Nothing in front of the hosts.
    Open,
    /// A stateful firewall, as home routers have it (RFC 6092).
    Firewall,
}

/// How a site reaches the middle of the Internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub up: Duration,
    pub down: Duration,
    /// Routers between the site's own boxes and the middle.
    pub hops: u8,
}

impl Access {
    /// A site that is `delay` away from every other one of its kind.
    #[must_use]
    pub const fn at(delay: Duration) -> Self {
        let half = Duration::from_nanos(delay.as_nanos() as u64 / 2);
        Self { up: half, down: half, hops: 4 }
    }
}

/// What some hosts share: boxes, addresses, a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Premises {
    /// From the hosts outwards.
    pub boxes: Vec<BoxKind>,
    pub ipv6: Ipv6,
    /// Whether the innermost box maps ports on request (PCP, NAT-PMP, UPnP).
    pub port_mapping: bool,
    pub access: Access,
}

impl Premises {
    /// Hosts behind `boxes`, on IPv4 only.
    #[must_use]
    pub const fn behind(boxes: Vec<BoxKind>) -> Self {
        Self { boxes, ipv6: Ipv6::None, port_mapping: false, access: Access::at(Duration::from_millis(15)) }
    }
}

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
    /// Endpoint-independent mapping; hosts share two public addresses, and each host stays at one.
    PairedPool,
    Sequential,
    /// Every second port upwards.
    SequentialByTwo,
    SequentialDown,
    /// Others behind it open 50 flows a second.
    BusySequential,
    /// Others behind it open 300 flows a second.
    VeryBusySequential,
    /// The next port for every destination address, not for every endpoint.
    AddressSequential,
    Random,
    /// Random ports as even or odd as the inner ones.
    RandomParity,
    /// Random ports of a block of 512 for each host, as carriers give them.
    CarrierBlock,
    /// A random port for every destination address.
    AddressRandom,
    /// A home router behind a carrier's NAT with random ports.
    HomeBehindRandom,
    /// Another of two public addresses for every flow.
    Pool,
    /// A home router that lets no UDP out.
    Blocked,
    /// One that lets out nothing but connections to the web.
    WebOnly,
}

impl Site {
    /// Every kind of site.
    pub const ALL: [Self; 24] = [
        Self::Open,
        Self::Firewall,
        Self::FullCone,
        Self::Restricted,
        Self::Home,
        Self::HairpinHome,
        Self::LinuxHome,
        Self::RandomCone,
        Self::HomeBehindCarrier,
        Self::PairedPool,
        Self::Sequential,
        Self::SequentialByTwo,
        Self::SequentialDown,
        Self::BusySequential,
        Self::VeryBusySequential,
        Self::AddressSequential,
        Self::Random,
        Self::RandomParity,
        Self::CarrierBlock,
        Self::AddressRandom,
        Self::HomeBehindRandom,
        Self::Pool,
        Self::Blocked,
        Self::WebOnly,
    ];

    /// The boxes from the host outwards.
    #[must_use]
    pub fn boxes(self) -> Vec<BoxKind> {
        let home = BoxKind::HOME;
        let random_cone = BoxKind { ports: Ports::Random, ..home };
        let symmetric = BoxKind { mapping: Mapping::AddressAndPortDependent, ports: Ports::Random, ..home };
        let sequential = |step, foreign_rate| BoxKind { ports: Ports::Sequential { step }, foreign_rate, ..symmetric };
        match self {
            Self::Open => vec![],
            Self::Firewall => vec![BoxKind { transparent: true, ..home }],
            Self::FullCone => vec![BoxKind { filtering: Filtering::EndpointIndependent, ..home }],
            Self::Restricted => vec![BoxKind { filtering: Filtering::AddressDependent, ..home }],
            Self::Home => vec![home],
            Self::HairpinHome => vec![BoxKind { hairpin: true, ..home }],
            Self::LinuxHome => vec![BoxKind { input_accepts: true, ..home }],
            Self::RandomCone => vec![random_cone],
            Self::HomeBehindCarrier => vec![home, BoxKind { foreign_rate: 50, ..random_cone }],
            Self::PairedPool => vec![BoxKind { pool: Pool::Paired(2), ..home }],
            Self::Sequential => vec![sequential(1, 0)],
            Self::SequentialByTwo => vec![sequential(2, 0)],
            Self::SequentialDown => vec![sequential(-1, 0)],
            Self::BusySequential => vec![sequential(1, 50)],
            Self::VeryBusySequential => vec![sequential(1, 300)],
            Self::AddressSequential => vec![BoxKind { mapping: Mapping::AddressDependent, ..sequential(1, 0) }],
            Self::Random => vec![symmetric],
            Self::RandomParity => vec![BoxKind { ports: Ports::RandomParity, ..symmetric }],
            Self::CarrierBlock => vec![BoxKind { ports: Ports::Block { size: 512 }, ..symmetric }],
            Self::AddressRandom => vec![BoxKind { mapping: Mapping::AddressDependent, ..symmetric }],
            Self::HomeBehindRandom => vec![home, symmetric],
            Self::Pool => vec![BoxKind { pool: Pool::Random(2), ..symmetric }],
            Self::Blocked => vec![BoxKind { blocks_udp: true, ..home }],
            Self::WebOnly => vec![BoxKind { blocks_udp: true, blocks_tcp: true, ..home }],
        }
    }
}
