//! Why a pair is connected as it is: one sentence for a person, and what would help when it is relayed.

use std::fmt;

use domain::{NatClass, Strategy, Via};

use super::budget::Budget;

/// How a negotiation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Direct(Via),
    Relayed(Failure),
    /// A profile is missing.
    Unprofiled,
}

/// Why a negotiation ended without a direct path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// One side does without UDP, and TCP would not help.
    NoUdp,
    NotReady,
    Unmeasured,
    Crowded,
    Refused(Budget),
    NoContact,
}

/// The sentence.
pub(super) fn why(ending: Ending, strategy: Strategy, classes: [NatClass; 2]) -> String {
    match ending {
        Ending::Direct(via) => direct(via, strategy).to_owned(),
        Ending::Relayed(failure) => {
            let (cause, remedy) = relayed(failure, strategy, classes);
            format!("{cause}: relayed; {remedy}")
        }
        Ending::Unprofiled => "relayed for now: both sides still find out what their routers do".to_owned(),
    }
}

const fn direct(via: Via, strategy: Strategy) -> &'static str {
    match (via, strategy) {
        (Via::Lan, _) => "direct: both are in the same local network",
        (Via::Hairpin, _) => "direct: through the router that both share",
        (Via::Ipv6, _) => "direct over IPv6",
        (Via::PortMapping, _) => "direct: a port mapping of one router leads to its client",
        (Via::Tcp, _) | (Via::Ipv4, Strategy::Tcp) => "direct over TCP, because no UDP leaves the network of one side",
        (Via::Ipv4, Strategy::Direct | Strategy::Relay) => "direct: each side reaches the other's public address",
        (Via::Ipv4, Strategy::Reveal) => "direct: the first packet of one side showed which port its router had chosen",
        (Via::Ipv4, Strategy::Predict) => "direct: the port of the other router was predicted",
        (Via::Ipv4, Strategy::Sweep) => "direct: the ports of both routers were predicted",
        (Via::Ipv4, Strategy::Birthday) => "direct: the port of the other router was found by trying many",
    }
}

fn relayed(failure: Failure, strategy: Strategy, classes: [NatClass; 2]) -> (&'static str, Remedy) {
    use NatClass::{Blocked, Random, Sequential};
    match (failure, strategy, classes) {
        (Failure::NotReady, ..) => ("one side did not get ready in time", Remedy::CheckConnection),
        (Failure::Unmeasured, ..) => {
            ("one side could not ask for its public address just before the attempt", Remedy::AllowService)
        }
        (Failure::Crowded, ..) => ("too many attempts behind one public address at a time", Remedy::Wait),
        (Failure::Refused(Budget::Client), ..) => {
            ("one side tried many ports less than a minute ago", Remedy::WaitOrMap)
        }
        (Failure::Refused(Budget::Address), ..) => {
            ("many ports were tried from one public address less than half a minute ago", Remedy::WaitOrMap)
        }
        (Failure::Refused(Budget::Pair), ..) => ("many ports were tried three times within an hour", Remedy::WaitOrMap),
        (Failure::Refused(Budget::Flows), ..) => {
            ("one router was given as many connections as it may get in half a minute", Remedy::WaitOrMap)
        }
        (Failure::NoContact, Strategy::Tcp, _) => {
            ("no UDP leaves the network of one side, and no direct TCP connection came about", Remedy::AllowUdp)
        }
        (Failure::NoUdp, _, [Blocked, Blocked]) | (Failure::NoContact, _, [Blocked, Blocked]) => {
            ("no UDP leaves the networks of both sides", Remedy::AllowUdp)
        }
        (Failure::NoUdp, ..) | (Failure::NoContact, _, [Blocked, _] | [_, Blocked]) => {
            ("no UDP leaves the network of one side", Remedy::AllowUdp)
        }
        (Failure::NoContact, Strategy::Relay, [Random, Random | Sequential] | [Sequential, Random]) => {
            ("both routers take a new port for every destination", Remedy::Map)
        }
        (Failure::NoContact, Strategy::Relay, [Sequential | Random, _] | [_, Sequential | Random]) => (
            "a router takes a new port for every destination, and the search for that port is switched off",
            Remedy::SwitchOn,
        ),
        (Failure::NoContact, Strategy::Predict, _) => {
            ("the predicted ports of one router were wrong, because others behind it use it a lot", Remedy::Map)
        }
        (Failure::NoContact, Strategy::Sweep, _) => {
            ("the predicted ports of both routers were wrong, because others behind them use them a lot", Remedy::Map)
        }
        (Failure::NoContact, Strategy::Birthday, _) => {
            ("many ports of one router were tried, and the right one was not among them", Remedy::WaitOrMap)
        }
        (Failure::NoContact, Strategy::Direct | Strategy::Reveal | Strategy::Relay, _) => {
            ("both routers should allow a direct path, but no packet came through", Remedy::CheckFirewall)
        }
    }
}

/// What the owner of a network can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Remedy {
    AllowService,
    AllowUdp,
    CheckConnection,
    CheckFirewall,
    Map,
    SwitchOn,
    Wait,
    WaitOrMap,
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AllowService => "allow outgoing UDP to the service's ports 3478 and 3479",
            Self::AllowUdp => "allow outgoing UDP there",
            Self::CheckConnection => "it is tried again by itself; look whether its connection loses packets",
            Self::CheckFirewall => "look for a firewall that drops UDP between the two",
            Self::Map => "a port mapping (UPnP, NAT-PMP or PCP) or IPv6 on either side would fix it",
            Self::SwitchOn => {
                "switch it on in `traversal.strategies` of the server, or allow a port mapping (UPnP, NAT-PMP or PCP)"
            }
            Self::Wait => "it is tried again by itself; IPv6 would need no turns",
            Self::WaitOrMap => {
                "it is tried again by itself; a port mapping (UPnP, NAT-PMP or PCP) or IPv6 on either side would fix it"
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ending_of_every_pair_has_a_sentence_without_jargon() {
        for (ending, strategy, classes) in stories() {
            let sentence = why(ending, strategy, classes);
            assert!(sentence.len() > 15, "{ending:?} {strategy:?} {classes:?}: {sentence}");
            for word in JARGON {
                let plain = sentence.replace("NAT-PMP", "").replace("UPnP", "");
                assert!(!plain.contains(word), "{word} in: {sentence}");
            }
        }
    }

    #[test]
    fn every_relayed_pair_is_told_a_remedy_and_no_direct_one_is_called_relayed() {
        for (ending, strategy, classes) in stories() {
            let sentence = why(ending, strategy, classes);
            let Ending::Relayed(_) = ending else {
                assert_eq!(sentence.starts_with("direct"), matches!(ending, Ending::Direct(_)), "{sentence}");
                continue;
            };
            let (cause, remedy) = sentence.split_once(": relayed; ").unwrap();
            assert!(!cause.is_empty() && REMEDIES.iter().any(|verb| remedy.starts_with(verb)), "{sentence}");
        }
    }

    #[test]
    fn these_are_all_the_sentences() {
        let mut sentences: Vec<_> =
            stories().map(|(ending, strategy, classes)| why(ending, strategy, classes)).collect();
        sentences.sort();
        sentences.dedup();
        assert_eq!(sentences, include_str!("why.golden.txt").lines().collect::<Vec<_>>());
    }

    #[test]
    fn what_made_a_path_possible_is_named() {
        let ipv4 = |strategy| why(Ending::Direct(Via::Ipv4), strategy, [NatClass::Easy; 2]);
        assert!(ipv4(Strategy::Predict).contains("predicted"));
        assert!(ipv4(Strategy::Birthday).contains("trying many"));
        let over = |via| why(Ending::Direct(via), Strategy::Direct, [NatClass::Easy; 2]);
        assert_eq!(over(Via::Ipv6), "direct over IPv6");
        assert!(over(Via::PortMapping).contains("port mapping"));
    }

    #[test]
    fn two_routers_that_nobody_can_predict_are_not_called_a_firewall() {
        for classes in [[NatClass::Random; 2], [NatClass::Sequential, NatClass::Random]] {
            let sentence = why(Ending::Relayed(Failure::NoContact), Strategy::Relay, classes);
            assert!(sentence.contains("new port for every destination") && sentence.contains("port mapping"));
        }
        let off = why(Ending::Relayed(Failure::NoContact), Strategy::Relay, [NatClass::Easy, NatClass::Random]);
        assert!(off.contains("traversal.strategies"), "{off}");
    }

    fn stories() -> impl Iterator<Item = (Ending, Strategy, [NatClass; 2])> {
        let vias = [Via::Ipv4, Via::Ipv6, Via::Lan, Via::PortMapping, Via::Hairpin, Via::Tcp].map(Ending::Direct);
        let failures = [Failure::NoUdp, Failure::NotReady, Failure::Unmeasured, Failure::Crowded, Failure::NoContact]
            .into_iter()
            .chain(Budget::ALL.map(Failure::Refused))
            .map(Ending::Relayed);
        let endings: Vec<_> = failures.chain(vias).chain([Ending::Unprofiled]).collect();
        endings.into_iter().flat_map(|ending| {
            Strategy::ALL.into_iter().flat_map(move |strategy| {
                NatClass::ALL.into_iter().flat_map(move |a| NatClass::ALL.map(move |b| (ending, strategy, [a, b])))
            })
        })
    }

    const JARGON: [&str; 19] = [
        "NAT",
        "EI",
        "APD",
        "symmetric",
        "endpoint",
        "birthday",
        "sweep",
        "TTL",
        "conntrack",
        "hairpin",
        "STUN",
        "reflector",
        "punch",
        "lease",
        "cone",
        "class",
        "candidate",
        "probe",
        "socket",
    ];
    const REMEDIES: [&str; 5] = ["allow", "look for", "it is tried again", "a port mapping", "switch it on"];
}
