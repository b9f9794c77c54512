//! From what reflectors saw to a NAT's behaviour (RFC 4787, sections 4.1 and 5; RFC 5780, section 4).
//!
//! Rules: equal sightings from R1:p, R1:q and R2:p are an endpoint-independent mapping; equal ones from R1 only are an
//! address-dependent mapping; everything else, also two public addresses at once (a pool), depends on address and port.
//! What was not answered is taken for the worse case and the profile is marked unsure.

use std::net::SocketAddr;

use domain::{Filtering, Mapping, NatProfile, hops};

/// What a discovery brought back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sightings {
    /// Where the first port of the first reflector saw the main socket.
    pub first: Option<SocketAddr>,
    /// The same of its second port.
    pub other_port: Option<SocketAddr>,
    /// The same of the second reflector.
    pub other_address: Option<SocketAddr>,
    /// Whether an answer from the second port reached a socket that spoke to the first port only.
    pub let_in_other_port: bool,
    /// Whether an answer from the second reflector did.
    pub let_in_other_address: bool,
    /// The local port of the main socket.
    pub local_port: u16,
    /// Hop limit that the first reflector received; 0 when unknown.
    pub ttl: u8,
}

/// The profile that the sightings amount to.
#[must_use]
pub fn classify(sightings: &Sightings) -> NatProfile {
    let Some(any) = sightings.first.or(sightings.other_port).or(sightings.other_address) else {
        return NatProfile::BLOCKED;
    };
    let (mapping, unsure) = mapping(sightings);
    NatProfile {
        udp: true,
        mapping,
        filtering: Some(filtering(sightings)),
        keeps_port: any.port() == sightings.local_port,
        unsure,
        hops: hops(sightings.ttl),
        ..NatProfile::BLOCKED
    }
}

/// The mapping, and whether a missing answer could have shown another one.
fn mapping(sightings: &Sightings) -> (Option<Mapping>, bool) {
    let Sightings { first, other_port, other_address, .. } = *sightings;
    match (first, other_port, other_address) {
        (Some(first), Some(port), Some(address)) => (Some(of_three(first, port, address)), false),
        (Some(one), Some(other), None) | (Some(one), None, Some(other)) | (None, Some(one), Some(other)) => {
            let equal = one == other;
            (Some(if equal { Mapping::EndpointIndependent } else { Mapping::AddressAndPortDependent }), equal)
        }
        (Some(_), None, None) | (None, Some(_), None) | (None, None, Some(_)) | (None, None, None) => (None, true),
    }
}

fn of_three(first: SocketAddr, other_port: SocketAddr, other_address: SocketAddr) -> Mapping {
    match (first == other_port, first == other_address) {
        (true, true) => Mapping::EndpointIndependent,
        (true, false) if first.ip() == other_address.ip() => Mapping::AddressDependent,
        (true | false, _) => Mapping::AddressAndPortDependent,
    }
}

const fn filtering(sightings: &Sightings) -> Filtering {
    match (sightings.let_in_other_address, sightings.let_in_other_port) {
        (true, _) => Filtering::EndpointIndependent,
        (false, true) => Filtering::AddressDependent,
        (false, false) => Filtering::AddressAndPortDependent,
    }
}

#[cfg(test)]
mod tests {
    use domain::NatClass;

    use super::*;

    #[test]
    fn three_equal_sightings_are_an_easy_nat() {
        let profile = classify(&seen([Some("203.0.113.1:7000"); 3]));
        assert_eq!((profile.mapping, profile.unsure), (Some(Mapping::EndpointIndependent), false));
        assert_eq!((profile.class(), profile.keeps_port, profile.hops), (NatClass::Easy, true, 7));
    }

    #[test]
    fn a_weak_filter_makes_an_easy_nat_open() {
        let easy = seen([Some("203.0.113.1:7000"); 3]);
        for (port, address, filtering) in [
            (true, false, Filtering::AddressDependent),
            (false, true, Filtering::EndpointIndependent),
            (true, true, Filtering::EndpointIndependent),
        ] {
            let profile = classify(&Sightings { let_in_other_port: port, let_in_other_address: address, ..easy });
            assert_eq!((profile.filtering, profile.class()), (Some(filtering), NatClass::EasyOpen));
        }
    }

    #[test]
    fn different_sightings_are_a_hard_nat() {
        for (sightings, mapping) in [
            (["203.0.113.1:7000", "203.0.113.1:7000", "203.0.113.1:7001"], Mapping::AddressDependent),
            (["203.0.113.1:7000", "203.0.113.1:7001", "203.0.113.1:7002"], Mapping::AddressAndPortDependent),
            (["203.0.113.1:7000", "203.0.113.1:7001", "203.0.113.1:7000"], Mapping::AddressAndPortDependent),
            (["203.0.113.1:7000", "203.0.113.1:7000", "203.0.113.2:7000"], Mapping::AddressAndPortDependent),
        ] {
            let profile = classify(&seen(sightings.map(Some)));
            assert_eq!((profile.mapping, profile.class()), (Some(mapping), NatClass::Random), "{sightings:?}");
        }
    }

    #[test]
    fn a_missing_answer_makes_the_profile_unsure() {
        let equal = classify(&seen([Some("203.0.113.1:7000"), Some("203.0.113.1:7000"), None]));
        assert_eq!((equal.class(), equal.unsure), (NatClass::Easy, true));
        let alone = classify(&seen([None, None, Some("203.0.113.1:7000")]));
        assert_eq!((alone.class(), alone.unsure), (NatClass::Random, true));
        assert_eq!(classify(&seen([None; 3])), NatProfile::BLOCKED);
    }

    fn seen(by: [Option<&str>; 3]) -> Sightings {
        let [first, other_port, other_address] = by.map(|text| text.map(|text| text.parse().unwrap()));
        Sightings { first, other_port, other_address, local_port: 7000, ttl: 57, ..Sightings::default() }
    }
}
