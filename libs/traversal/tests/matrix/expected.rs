//! What must become of each pair.

use domain::NatClass;
use traversal::sim::Site;

/// What is promised for a pair.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Expected {
    /// At least this share of all seeds direct at 1 % loss, and at 5 %.
    Direct(f64, f64),
    /// Not direct, but for one pair in a hundred: a class that was wrong for a moment and a lucky port.
    Relay,
}

/// Nearly always.
const ALWAYS: Expected = Expected::Direct(0.99, 0.97);

/// What is promised for `a` and `b`, in this order.
pub(crate) fn expected(a: Site, b: Site) -> Expected {
    use NatClass::{Blocked, Easy, EasyOpen, Random, Sequential};
    let without_udp = [a, b].map(class).contains(&Blocked);
    if without_udp && maps_connections_alike(a) && maps_connections_alike(b) {
        return ALWAYS;
    }
    match (class(a), class(b)) {
        (Blocked, _) | (_, Blocked) => Expected::Relay,
        (EasyOpen | Easy, EasyOpen | Easy) | (EasyOpen, _) | (_, EasyOpen) => ALWAYS,
        (Easy, Sequential | Random) | (Sequential | Random, Easy) => ALWAYS,
        (Sequential, Sequential) => ALWAYS,
        // To one address it has one port, which can be predicted.
        (Sequential, Random) | (Random, Sequential) if [a, b].contains(&Site::AddressSequential) => ALWAYS,
        (Sequential | Random, Sequential | Random) => Expected::Relay,
    }
}

/// Whether both ends of a connection can know its ports before it is there.
pub(crate) const fn maps_connections_alike(site: Site) -> bool {
    match class(site) {
        NatClass::EasyOpen | NatClass::Easy => true,
        NatClass::Sequential | NatClass::Random => false,
        NatClass::Blocked => matches!(site, Site::Blocked),
    }
}

/// The class that discovery must find.
pub(crate) const fn class(site: Site) -> NatClass {
    match site {
        Site::Open | Site::FullCone | Site::Restricted => NatClass::EasyOpen,
        Site::Firewall
        | Site::Home
        | Site::HairpinHome
        | Site::LinuxHome
        | Site::RandomCone
        | Site::HomeBehindCarrier
        | Site::PairedPool => NatClass::Easy,
        Site::Sequential
        | Site::SequentialByTwo
        | Site::SequentialDown
        | Site::BusySequential
        | Site::VeryBusySequential
        | Site::AddressSequential => NatClass::Sequential,
        Site::Random
        | Site::RandomParity
        | Site::CarrierBlock
        | Site::AddressRandom
        | Site::HomeBehindRandom
        | Site::Pool => NatClass::Random,
        Site::Blocked | Site::WebOnly => NatClass::Blocked,
    }
}
