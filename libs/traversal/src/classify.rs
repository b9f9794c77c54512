//! From what reflectors saw to a NAT's behaviour (RFC 4787, sections 4.1, 4.2, 5 and 6; RFC 5780, section 4).
//!
//! **Mapping.** Equal sightings from R1:p, R1:q and R2:p are an endpoint-independent mapping; equal ones from R1 only are an
//! address-dependent mapping; everything else depends on address and port. What was not answered is taken for the worse case,
//! and the profile is unsure when equal sightings come from one reflector address only. A client that is seen at its own
//! address and port has no NAT in front of it, so one sighting is enough. Equal ports alone prove nothing.
//!
//! **Pool.** More than one public address, of the main socket or in a burst of a hard client, makes any prediction void. An
//! endpoint-independent client is punched from its main socket, so other sockets' addresses do not matter.
//!
//! **Allocation** ([`Bursts`]) says how the next port relates to the last one, for mappings that depend on the destination.
//!
//! **History** ([`History`]) keeps one wrong measurement from changing the class of a client.

mod allocation;
mod history;

use std::net::{IpAddr, SocketAddr};

use domain::{Allocation, Filtering, Mapping, NatProfile, hops};

pub use self::{
    allocation::{BURST, Bursts, Reading},
    history::History,
};

/// What a discovery brought back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sightings {
    /// Where the first port of the first reflector saw the main socket.
    pub first: Option<SocketAddr>,
    /// The same of its second port.
    pub other_port: Option<SocketAddr>,
    /// The same of the second reflector.
    pub other_address: Option<SocketAddr>,
    /// Whether a reflector answered over IPv6.
    pub ipv6: bool,
    /// Whether an answer from the second port reached a socket that spoke to the first port only.
    pub let_in_other_port: bool,
    /// Whether an answer from the second reflector did.
    pub let_in_other_address: bool,
    /// The local port of the main socket.
    pub local_port: u16,
    /// Its local address, as far as the client knows it.
    pub local_address: Option<IpAddr>,
    /// Hop limit that the nearest reflector received; 0 when unknown.
    pub ttl: u8,
    /// Whether a packet to the own public address came back; `None` when that was not tried to the end.
    pub hairpin: Option<bool>,
    /// Empty ones when there were none to wait for, `None` while they are under way.
    pub bursts: Option<Bursts>,
}

/// The profile that the sightings amount to. `udp` speaks of IPv4 as long as there is a reflector of it.
#[must_use]
pub fn classify(sightings: &Sightings) -> NatProfile {
    let ipv6 = sightings.ipv6;
    let Some(any) = sightings.first.or(sightings.other_port).or(sightings.other_address) else {
        return NatProfile { ipv6, ..NatProfile::BLOCKED };
    };
    let keeps_port = any.port() == sightings.local_port;
    let untranslated = keeps_port && sightings.local_address == Some(any.ip());
    let (mapping, unsure) = mapping(sightings, untranslated);
    let reading = sightings.bursts.map(|bursts| bursts.read());
    let easy = mapping == Some(Mapping::EndpointIndependent);
    let allocation = match reading {
        Some(_) if easy && !unsure => None,
        Some(reading) if easy => reading.allocation,
        // Not enough answers in the bursts: the worst case.
        Some(reading) => reading.allocation.or_else(|| beside_the_own(sightings)).or(Some(Allocation::Random)),
        None => None,
    };
    let foreign_rate = reading.filter(|_| allocation.is_some()).map_or(0, |reading| reading.foreign_rate);
    NatProfile {
        udp: true,
        mapping,
        filtering: Some(filtering(sightings)),
        keeps_port,
        unsure,
        hops: hops(sightings.ttl),
        allocation,
        foreign_rate,
        pool: is_pooled(sightings) || !easy && reading.is_some_and(|reading| reading.pool),
        hairpin: sightings.hairpin,
        ipv6,
        ..NatProfile::BLOCKED
    }
}

/// The mapping of TCP connections, from where two reflectors of different addresses saw one bound port (RFC 5382, section 4.1).
/// Between an address-dependent mapping and a worse one two sightings cannot tell.
#[must_use]
pub fn classify_tcp(first: Option<SocketAddr>, second: Option<SocketAddr>) -> Option<Mapping> {
    let equal = first? == second?;
    Some(if equal { Mapping::EndpointIndependent } else { Mapping::AddressAndPortDependent })
}

/// The mapping, and whether a missing answer could have shown another one.
fn mapping(sightings: &Sightings, untranslated: bool) -> (Option<Mapping>, bool) {
    let Sightings { first, other_port, other_address, .. } = *sightings;
    let two = |one: SocketAddr, other: SocketAddr| {
        Some(if one == other { Mapping::EndpointIndependent } else { Mapping::AddressAndPortDependent })
    };
    match (first, other_port, other_address) {
        (Some(first), Some(port), Some(address)) => (Some(of_three(first, port, address)), false),
        (Some(one), Some(other), None) => (two(one, other), one == other && !untranslated),
        (Some(one), None, Some(other)) | (None, Some(one), Some(other)) => (two(one, other), false),
        (Some(_), None, None) | (None, Some(_), None) | (None, None, Some(_)) if untranslated => {
            (Some(Mapping::EndpointIndependent), false)
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

fn is_pooled(sightings: &Sightings) -> bool {
    let mut seen = [sightings.first, sightings.other_port, sightings.other_address].into_iter().flatten();
    seen.next().is_some_and(|first| seen.any(|other| other.ip() != first.ip()))
}

/// A NAT that keeps the inner port for the first destination and takes the ports beside it for the next ones. Fresh sockets
/// show nothing of that; the main socket does, and others' flows do not matter.
fn beside_the_own(sightings: &Sightings) -> Option<Allocation> {
    let ports = [sightings.first?, sightings.other_port?, sightings.other_address?].map(|seen| i32::from(seen.port()));
    let [one, other] = [ports[1] - ports[0], ports[2] - ports[1]];
    let regular = one == other && one != 0 && one.abs() <= BESIDE && ports[0] == i32::from(sightings.local_port);
    let step = i16::try_from(one).ok().filter(|_| regular)?;
    Some(Allocation::Sequential { step })
}

/// Farther apart than this, three ports in a row are hardly meant to be neighbours.
const BESIDE: i32 = 16;

#[cfg(test)]
mod tests {
    use domain::NatClass;

    use super::*;

    #[test]
    fn three_equal_sightings_are_an_easy_nat() {
        let profile = classify(&seen([Some("203.0.113.1:7000"); 3]));
        assert_eq!((profile.mapping, profile.unsure), (Some(Mapping::EndpointIndependent), false));
        assert_eq!((profile.class(), profile.keeps_port, profile.hops), (NatClass::Easy, true, 7));
        assert_eq!(profile.allocation, None);
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
            (["203.0.113.1:7001", "203.0.113.1:7001", "203.0.113.1:7002"], Mapping::AddressDependent),
            (["203.0.113.1:7001", "203.0.113.1:7002", "203.0.113.1:7003"], Mapping::AddressAndPortDependent),
            (["203.0.113.1:7001", "203.0.113.1:7002", "203.0.113.1:7001"], Mapping::AddressAndPortDependent),
            (["203.0.113.1:7001", "203.0.113.1:7001", "203.0.113.2:7001"], Mapping::AddressAndPortDependent),
        ] {
            let profile = classify(&seen(sightings.map(Some)));
            assert_eq!((profile.mapping, profile.class()), (Some(mapping), NatClass::Random), "{sightings:?}");
            assert_eq!(profile.allocation, Some(Allocation::Random));
            let early = classify(&Sightings { bursts: None, ..seen(sightings.map(Some)) });
            assert_eq!((early.class(), early.allocation), (NatClass::Random, None));
        }
    }

    #[test]
    fn a_missing_answer_makes_the_profile_unsure() {
        let here = Some("203.0.113.1:7000");
        let equal = classify(&seen([here, here, None]));
        assert_eq!((equal.class(), equal.unsure), (NatClass::Easy, true));
        let two_reflectors = classify(&seen([here, None, here]));
        assert_eq!((two_reflectors.class(), two_reflectors.unsure), (NatClass::Easy, false));
        let alone = classify(&seen([None, None, here]));
        assert_eq!((alone.class(), alone.unsure), (NatClass::Random, true));
        assert_eq!(classify(&seen([None; 3])), NatProfile::BLOCKED);
    }

    #[test]
    fn a_client_that_is_seen_at_home_has_no_nat_and_so_nothing_to_be_unsure_of() {
        let local_address = Some("203.0.113.1".parse().unwrap());
        let alone = classify(&Sightings { local_address, ..seen([Some("203.0.113.1:7000"), None, None]) });
        assert_eq!((alone.class(), alone.unsure), (NatClass::Easy, false));
        let moved = classify(&Sightings { local_address, ..seen([Some("203.0.113.1:7001"), None, None]) });
        assert_eq!((moved.class(), moved.unsure), (NatClass::Random, true));
    }

    #[test]
    fn without_ipv4_a_client_is_blocked_but_has_ipv6() {
        let profile = classify(&Sightings { ipv6: true, ..seen([None; 3]) });
        assert_eq!(profile, NatProfile { ipv6: true, ..NatProfile::BLOCKED });
    }

    #[test]
    fn several_public_addresses_are_a_pool_and_no_counting_helps() {
        let main = classify(&Sightings {
            bursts: Some(counting(1)),
            ..seen([Some("203.0.113.1:9000"), Some("203.0.113.2:9000"), Some("203.0.113.1:9001")])
        });
        assert_eq!((main.pool, main.class()), (true, NatClass::Random));
        let mut bursts = counting(1);
        bursts.seen[0][3] = Some("203.0.113.2:9000".parse().unwrap());
        let fresh = classify(&Sightings {
            bursts: Some(bursts),
            ..seen([Some("203.0.113.1:9000"), Some("203.0.113.1:9001"), Some("203.0.113.1:9002")])
        });
        assert_eq!((fresh.pool, fresh.class()), (true, NatClass::Random));
        let easy = classify(&Sightings { bursts: Some(bursts), ..seen([Some("203.0.113.1:9000"); 3]) });
        assert_eq!((easy.pool, easy.class()), (false, NatClass::Easy));
    }

    #[test]
    fn bursts_make_a_hard_nat_sequential_and_tell_an_unsure_one_what_to_predict() {
        let bursts = Some(counting(-2));
        let hard = seen([Some("203.0.113.1:9001"), Some("203.0.113.1:9002"), Some("203.0.113.1:9003")]);
        let hard = classify(&Sightings { bursts, ..hard });
        assert_eq!(hard.allocation, Some(Allocation::Sequential { step: -2 }));
        assert_eq!(hard.class(), NatClass::Sequential);
        let equal = seen([Some("203.0.113.1:9001"), Some("203.0.113.1:9001"), None]);
        let unsure = classify(&Sightings { bursts, ..equal });
        assert_eq!((unsure.class(), unsure.unsure), (NatClass::Easy, true));
        assert_eq!(unsure.allocation, Some(Allocation::Sequential { step: -2 }));
    }

    #[test]
    fn ports_beside_the_own_one_are_a_step_whatever_fresh_sockets_show() {
        let beside = seen([Some("203.0.113.1:7000"), Some("203.0.113.1:7001"), Some("203.0.113.1:7002")]);
        assert_eq!(classify(&beside).allocation, Some(Allocation::Sequential { step: 1 }));
        let elsewhere = classify(&Sightings { local_port: 6_000, ..beside });
        assert_eq!(elsewhere.allocation, Some(Allocation::Random));
    }

    #[test]
    fn tcp_is_easy_when_two_reflectors_see_the_same() {
        let [one, other] = ["203.0.113.1:7000", "203.0.113.1:7001"].map(|text| Some(text.parse().unwrap()));
        assert_eq!(classify_tcp(one, one), Some(Mapping::EndpointIndependent));
        assert_eq!(classify_tcp(one, other), Some(Mapping::AddressAndPortDependent));
        assert_eq!((classify_tcp(one, None), classify_tcp(None, None)), (None, None));
    }

    fn seen(by: [Option<&str>; 3]) -> Sightings {
        let [first, other_port, other_address] = by.map(|text| text.map(|text| text.parse().unwrap()));
        let bursts = Some(Bursts::default());
        Sightings { first, other_port, other_address, local_port: 7000, ttl: 57, bursts, ..Sightings::default() }
    }

    fn counting(step: i32) -> Bursts {
        let burst = |from: i32| {
            std::array::from_fn(|place| {
                let port = from + step * i32::try_from(place).unwrap();
                Some(SocketAddr::new("203.0.113.1".parse().unwrap(), u16::try_from(port).unwrap()))
            })
        };
        let seen = [burst(9_100), burst(9_100 + 8 * step)];
        Bursts { seen, apart: std::time::Duration::from_millis(400), own_flows: 0 }
    }
}
