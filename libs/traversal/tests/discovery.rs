//! Discovery, measurement and lifetime test, question by question.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use domain::{Allocation, NatClass, NatProfile, Observation, Reflected, SessionTag, TransactionId, Vantage};
use traversal::{
    classify::History,
    discover::{Ask, Discovered, Discovery, Lifetime, Local, Measurement, Reflectors, Socket},
    sim::origin,
};

const SEED: [u8; 32] = [9; 32];
const TAG: SessionTag = SessionTag([7; 16]);
const LOCAL: Local = Local { port: 7_000, address: Some(IpAddr::V4(Ipv4Addr::new(192, 168, 0, 2))), place: 4 };
const HOME: &str = "203.0.113.1:7000";
const V6: &str = "[2001:db8::9]:3478";

#[test]
fn an_open_client_is_measured_after_two_round_trips() {
    let mut lab = Lab::new();
    for ask in lab.asks() {
        lab.answer(&ask, HOME);
    }
    let discovered = lab.discovery.poll_event().unwrap();
    assert_eq!((discovered.profile.class(), discovered.finished), (NatClass::EasyOpen, false));
    assert_eq!((discovered.public, discovered.address), (Some(HOME.parse().unwrap()), Some([203, 0, 113, 1].into())));
    assert_eq!((discovered.translated, discovered.profile.place), (Some(true), 4));
    assert_eq!(discovered.observations.len(), 3);
    let hairpin = lab.asks();
    assert_eq!(hairpin.iter().map(|ask| ask.socket).collect::<Vec<_>>(), [Socket::Spare, Socket::Main]);
    assert!(hairpin.iter().all(|ask| ask.probe.tag.is_none() && ask.to == HOME.parse().unwrap()));
    lab.discovery.handle_hairpin(lab.now, HOME.parse().unwrap(), hairpin[0].probe.transaction);
    assert_eq!(lab.discovery.poll_timeout(), None);
    let last = lab.discovery.poll_event().unwrap();
    assert_eq!((last.profile.hairpin, last.finished), (Some(true), true));
    assert_eq!(lab.discovery.poll_event(), None);
}

#[test]
fn a_strict_filter_is_reported_after_its_chance() {
    let mut lab = Lab::new();
    lab.answer_main([HOME; 3]);
    while lab.now - lab.start < Duration::from_millis(300) {
        assert_eq!(lab.discovery.poll_event(), None);
        lab.step();
    }
    assert_eq!(lab.discovery.poll_event().unwrap().profile.class(), NatClass::Easy);
    let last = lab.finish();
    assert_eq!((last.profile.class(), last.profile.hairpin), (NatClass::Easy, Some(false)));
    assert!(lab.now - lab.start <= Duration::from_millis(900), "{:?}", lab.now - lab.start);
}

#[test]
fn a_filter_answer_that_came_late_corrects_the_class() {
    let mut lab = Lab::new();
    lab.answer_main([HOME; 3]);
    lab.step();
    lab.step();
    assert_eq!(lab.discovery.poll_event().unwrap().profile.class(), NatClass::Easy);
    for ask in lab.asks().into_iter().filter(|ask| ask.probe.answer_from != Vantage::Asked) {
        lab.answer(&ask, "203.0.113.1:7001");
    }
    assert_eq!(lab.finish().profile.class(), NatClass::EasyOpen);
}

#[test]
fn silence_is_a_blocked_client() {
    let mut lab = Lab::new();
    let mut sent = lab.asks().len();
    while lab.discovery.poll_timeout().is_some() {
        lab.step();
        sent += lab.asks().len();
    }
    assert_eq!(sent, 18);
    let discovered = lab.discovery.poll_event().unwrap();
    assert_eq!((discovered.profile, discovered.public), (NatProfile { place: 4, ..NatProfile::BLOCKED }, None));
    assert_eq!((discovered.finished, discovered.translated), (true, None));
}

#[test]
fn answers_that_nobody_asked_for_change_nothing() {
    let mut lab = Lab::new();
    let asks = lab.asks();
    let elsewhere = "198.51.100.66:3478".parse().unwrap();
    lab.discovery.handle_answer(lab.now, Socket::Main, elsewhere, reflected(&asks[0], "192.0.2.66:1"));
    lab.discovery.handle_answer(lab.now, Socket::Spare, asks[0].to, reflected(&asks[0], "192.0.2.66:1"));
    let mut stranger = asks[0];
    stranger.probe.transaction = TransactionId([0; 12]);
    lab.discovery.handle_answer(lab.now, Socket::Main, asks[0].to, reflected(&stranger, "192.0.2.66:1"));
    lab.discovery.handle_hairpin(lab.now, HOME.parse().unwrap(), asks[0].probe.transaction);
    // A filter question that is answered from where it was sent to shows nothing.
    let filter = asks.iter().find(|ask| ask.probe.answer_from == Vantage::OtherPort).unwrap();
    lab.discovery.handle_answer(lab.now, Socket::Spare, filter.to, reflected(filter, "192.0.2.66:1"));
    assert_eq!(lab.finish().profile, NatProfile { place: 4, ..NatProfile::BLOCKED });
}

#[test]
fn a_reflector_that_cannot_answer_from_elsewhere_ends_the_filter_test() {
    let mut lab = Lab::new();
    for ask in lab.asks() {
        match ask.probe.answer_from {
            Vantage::Asked => lab.answer(&ask, HOME),
            Vantage::OtherPort | Vantage::OtherAddress | Vantage::Opposite => {
                lab.discovery.handle_refusal(lab.now, ask.probe.transaction);
            }
        }
    }
    assert_eq!(lab.discovery.poll_event().unwrap().profile.class(), NatClass::Easy);
}

#[test]
fn a_hard_nat_is_reported_at_once_and_with_its_step_when_the_bursts_are_in() {
    let mut lab = Lab::new();
    lab.answer_main(["203.0.113.1:9000", "203.0.113.1:9001", "203.0.113.1:9002"]);
    let mut port = 9_010;
    let mut sent = vec![];
    let mut early = None;
    while lab.discovery.poll_timeout().is_some() {
        for ask in lab.asks().into_iter().filter(is_of_a_burst) {
            lab.answer(&ask, &format!("203.0.113.1:{port}"));
            sent.push((ask.socket, lab.now - lab.start));
            port += 2;
        }
        early = early.or_else(|| lab.discovery.poll_event());
        lab.step();
    }
    let times = [Duration::ZERO, Duration::from_millis(400)];
    let expected: Vec<_> = (0..16_u8).map(|place| (Socket::Burst(place), times[usize::from(place / 8)])).collect();
    assert_eq!(sent, expected);
    let early = early.unwrap();
    assert_eq!((early.profile.class(), early.profile.allocation), (NatClass::Random, None));
    assert_eq!((early.public, early.address), (None, Some([203, 0, 113, 1].into())));
    let last = lab.discovery.poll_event().unwrap();
    assert_eq!(last.profile.allocation, Some(Allocation::Sequential { step: 2 }));
    assert_eq!((last.profile.foreign_rate, last.finished), (0, true));
}

#[test]
fn a_burst_that_lost_three_answers_says_nothing_until_the_next_one_is_in() {
    let mut lab = Lab::new();
    lab.answer_main(["203.0.113.1:9000", "203.0.113.1:9001", "203.0.113.1:9002"]);
    let (mut port, mut found) = (9_010, vec![]);
    while lab.discovery.poll_timeout().is_some() {
        for ask in lab.asks().into_iter().filter(is_of_a_burst) {
            if ![1, 3, 6].map(Socket::Burst).contains(&ask.socket) {
                lab.answer(&ask, &format!("203.0.113.1:{port}"));
            }
            port += 1;
        }
        found.extend(std::iter::from_fn(|| lab.discovery.poll_event()));
        lab.step();
    }
    found.extend(std::iter::from_fn(|| lab.discovery.poll_event()));
    let allocations: Vec<_> = found.iter().map(|discovered| discovered.profile.allocation).collect();
    assert_eq!(allocations, [None, Some(Allocation::Sequential { step: 1 })]);
}

#[test]
fn flows_that_a_client_opens_between_its_bursts_are_not_foreign() {
    let mut lab = Lab::new();
    let asks = lab.answer_main(["203.0.113.1:9000", "203.0.113.1:9001", "203.0.113.1:9002"]);
    let own = asks.iter().find(|ask| ask.socket == Socket::Spare && ask.probe.answer_from == Vantage::Asked).unwrap();
    let mut port = 9_010;
    while lab.discovery.poll_timeout().is_some() {
        for ask in lab.asks().into_iter().filter(is_of_a_burst) {
            // The spare socket's endpoint is known late: two hairpin flows start between the bursts.
            port += if ask.socket == Socket::Burst(8) { 3 } else { 1 };
            lab.answer(&ask, &format!("203.0.113.1:{port}"));
        }
        lab.step();
        if lab.now - lab.start == Duration::from_millis(150) {
            lab.answer(own, "203.0.113.1:9003");
        }
    }
    let last = lab.finish().profile;
    assert_eq!((last.allocation, last.foreign_rate), (Some(Allocation::Sequential { step: 1 }), 0));
}

#[test]
fn an_easy_client_is_spared_the_bursts() {
    let mut lab = Lab::new();
    lab.answer_main(["203.0.113.1:9000"; 3]);
    while lab.discovery.poll_timeout().is_some() {
        lab.step();
        assert!(!lab.asks().iter().any(is_of_a_burst));
    }
}

#[test]
fn one_reflector_address_leaves_an_easy_client_unsure_and_makes_it_burst() {
    for (seen, expected) in [("203.0.113.1:9000", 16), (HOME, 0)] {
        let mut lab = Lab::of(reflectors(&["198.51.100.1:3478", "198.51.100.1:3479"]), LOCAL);
        lab.answer_main([seen; 2]);
        let mut bursts = 0;
        while lab.discovery.poll_timeout().is_some() {
            bursts += lab.asks().iter().filter(|ask| is_of_a_burst(ask)).count();
            lab.step();
        }
        let last = lab.finish();
        assert_eq!((last.profile.class(), last.profile.unsure, bursts), (NatClass::Easy, true, expected), "{seen}");
    }
}

#[test]
fn bursts_go_to_a_reflector_that_answers() {
    let mut lab = Lab::new();
    let asks = lab.asks();
    lab.answer(&asks[1], "203.0.113.1:9000");
    lab.answer(&asks[2], "203.0.113.1:9001");
    let bursts: Vec<Ask> = lab.asks().into_iter().filter(is_of_a_burst).collect();
    assert_eq!(bursts.len(), 8);
    assert!(bursts.iter().all(|ask| ask.to == asks[1].to));
}

#[test]
fn a_firewall_is_told_from_a_nat_by_the_own_address() {
    let mut lab = Lab::of(three(), Local { address: Some([203, 0, 113, 1].into()), ..LOCAL });
    lab.answer_main([HOME; 3]);
    let last = lab.finish();
    assert_eq!((last.profile.class(), last.translated), (NatClass::Easy, Some(false)));
    assert_eq!(last.profile.hairpin, None, "there is no NAT to turn anything around");
}

#[test]
fn ipv6_is_asked_beside_and_reported_last() {
    let endpoints = [V6, "198.51.100.1:3478", "198.51.100.1:3479", "198.51.100.2:3478"];
    let mut lab = Lab::of(reflectors(&endpoints), LOCAL);
    for ask in lab.asks() {
        lab.answer(&ask, if ask.to.is_ipv6() { "[2001:db8::1]:7000" } else { HOME });
    }
    let discovered = lab.discovery.poll_event().unwrap();
    assert!(discovered.profile.ipv6);
    assert_eq!(discovered.profile.class(), NatClass::EasyOpen);
    assert_eq!(discovered.public, Some(HOME.parse().unwrap()));
    assert_eq!(discovered.observations.last(), Some(&observation("[2001:db8::1]:7000")));
    assert_eq!(discovered.observations.len(), 4);
}

#[test]
fn a_history_steadies_what_is_reported() {
    let mut history = History::default();
    let mut lab = Lab::new();
    lab.answer_main([HOME; 3]);
    assert_eq!(lab.finish().settled_by(&mut history).profile.class(), NatClass::Easy);
    let mut lab = Lab::new();
    lab.answer_main(["203.0.113.1:9000", "203.0.113.1:9500", "203.0.113.1:9100"]);
    let odd = lab.finish();
    assert_eq!(odd.profile.class(), NatClass::Random);
    assert_eq!(odd.settled_by(&mut history).profile.class(), NatClass::Easy);
}

#[test]
fn a_measurement_of_the_main_socket_takes_either_reflector() {
    let now = origin();
    let mut measurement = Measurement::new(now, 0, three(), TAG, SEED);
    let asks = asks(&mut measurement);
    assert_eq!(asks.iter().map(|ask| ask.socket).collect::<Vec<_>>(), [Socket::Main; 2]);
    assert_ne!(asks[0].to.ip(), asks[1].to.ip());
    measurement.handle_answer(now, Socket::Main, asks[1].to, reflected(&asks[1], HOME));
    assert_eq!(measurement.poll_event(), Some(vec![observation(HOME)]));
    assert_eq!(measurement.poll_timeout(), None);
}

#[test]
fn every_try_of_a_measurement_is_another_fresh_socket() {
    let mut measurement = Measurement::new(origin(), 3, three(), TAG, SEED);
    let mut sent = vec![];
    loop {
        sent.extend(asks(&mut measurement).iter().map(|ask| ask.socket));
        let Some(due) = measurement.poll_timeout() else { break };
        measurement.handle_timeout(due);
    }
    assert_eq!(sent, [0, 1, 2, 2, 2, 2].map(Socket::Punching));
    assert_eq!(measurement.poll_event(), Some(vec![]));
}

#[test]
fn a_measurement_reports_the_latest_mapping_that_was_made() {
    let start = origin();
    let at = |ms| start + Duration::from_millis(ms);
    let mut measurement = Measurement::new(start, 6, three(), TAG, SEED);
    let first = asks(&mut measurement).remove(0);
    measurement.handle_timeout(at(100));
    let second = asks(&mut measurement).remove(0);
    measurement.handle_answer(at(150), first.socket, first.to, reflected(&first, "203.0.113.1:1"));
    assert_eq!(measurement.poll_event(), None, "the second socket has a later port");
    measurement.handle_timeout(at(200));
    assert_eq!(asks(&mut measurement), [], "nobody else needs to ask");
    measurement.handle_answer(at(250), second.socket, second.to, reflected(&second, "203.0.113.1:2"));
    assert_eq!(measurement.poll_event(), Some(vec![observation("203.0.113.1:2")]));
    assert_eq!(measurement.poll_timeout(), None);
}

#[test]
fn a_measurement_behind_a_pool_reports_each_address_once_and_the_latest_mapping_first() {
    let mut measurement = Measurement::of_pool(origin(), 256, three(), TAG, SEED);
    let asked = asks(&mut measurement);
    assert_eq!(asked.len(), 16);
    for (place, ask) in asked.iter().enumerate().filter(|(place, _)| *place != 9) {
        let seen = format!("203.0.113.{}:{}", 1 + place % 3, 9_000 + place);
        let now = origin() + Duration::from_millis(20);
        measurement.handle_answer(now, ask.socket, ask.to, reflected(ask, &seen));
    }
    let due = measurement.poll_timeout().unwrap();
    measurement.handle_timeout(due);
    let seen = ["203.0.113.1:9000", "203.0.113.2:9001", "203.0.113.3:9002"].map(observation);
    assert_eq!(measurement.poll_event().unwrap(), seen, "after {:?}", due - origin());
    assert_eq!(measurement.poll_timeout(), None);
}

#[test]
fn a_measurement_does_not_wait_long_for_ipv6() {
    let start = origin();
    let answered = start + Duration::from_millis(30);
    let endpoints = [V6, "198.51.100.1:3478", "198.51.100.2:3478"];
    let mut measurement = Measurement::new(start, 2, reflectors(&endpoints), TAG, SEED);
    let fresh = asks(&mut measurement);
    assert_eq!(fresh.iter().map(|ask| ask.socket).collect::<Vec<_>>(), [Socket::Punching(0), Socket::Main]);
    measurement.handle_answer(answered, fresh[0].socket, fresh[0].to, reflected(&fresh[0], HOME));
    assert_eq!(measurement.poll_event(), None);
    let due = measurement.poll_timeout().unwrap();
    assert_eq!(due - start, Duration::from_millis(80));
    measurement.handle_timeout(due);
    assert_eq!((measurement.poll_event(), measurement.poll_timeout()), (Some(vec![observation(HOME)]), None));
}

#[test]
fn a_measurement_reports_ipv6_after_ipv4() {
    let now = origin();
    let endpoints = [V6, "198.51.100.1:3478", "198.51.100.2:3478"];
    let mut measurement = Measurement::new(now, 0, reflectors(&endpoints), TAG, SEED);
    let asks = asks(&mut measurement);
    for (ask, seen) in [(&asks[2], "[2001:db8::1]:7000"), (&asks[0], HOME)] {
        measurement.handle_answer(now, Socket::Main, ask.to, reflected(ask, seen));
    }
    assert_eq!(measurement.poll_event(), Some(vec![observation(HOME), observation("[2001:db8::1]:7000")]));
}

#[test]
fn the_longest_silence_that_was_answered_is_the_lifetime() {
    let start = origin();
    let mut lifetime = Lifetime::new(start, three(), TAG, SEED);
    let asks: Vec<Ask> = std::iter::from_fn(|| lifetime.poll_transmit()).collect();
    let silences: Vec<_> = asks.iter().map(|ask| (ask.socket, ask.probe.delay_s)).collect();
    let expected = [(0, 20), (1, 35), (2, 65), (3, 125), (4, 185)];
    assert_eq!(silences, expected.map(|(place, silence)| (Socket::Lifetime(place), silence)));
    // The answer after 20 s is lost, and that of 65 s comes at once.
    for (ask, after) in [(&asks[2], 1), (&asks[1], 36)] {
        let now = start + Duration::from_secs(after);
        lifetime.handle_answer(now, ask.socket, ask.to, reflected(ask, HOME));
    }
    while let Some(due) = lifetime.poll_timeout() {
        assert_eq!(lifetime.poll_event(), None);
        lifetime.handle_timeout(due);
    }
    assert_eq!((lifetime.poll_event(), lifetime.poll_event()), (Some(35), None));
}

#[test]
fn a_lifetime_that_nobody_answers_is_unknown() {
    let mut lifetime = Lifetime::new(origin(), three(), TAG, SEED);
    let asks: Vec<Ask> = std::iter::from_fn(|| lifetime.poll_transmit()).collect();
    for ask in asks {
        lifetime.handle_refusal(ask.probe.transaction);
    }
    assert_eq!((lifetime.poll_timeout(), lifetime.poll_event()), (None, None));
}

struct Lab {
    discovery: Discovery,
    start: Instant,
    now: Instant,
}

impl Lab {
    fn new() -> Self {
        Self::of(three(), LOCAL)
    }

    fn of(reflectors: Reflectors, local: Local) -> Self {
        let now = origin();
        Self { discovery: Discovery::new(now, reflectors, TAG, local, SEED), start: now, now }
    }

    fn asks(&mut self) -> Vec<Ask> {
        std::iter::from_fn(|| self.discovery.poll_transmit()).collect()
    }

    fn answer(&mut self, ask: &Ask, seen: &str) {
        let from = match ask.probe.answer_from {
            Vantage::Asked => ask.to,
            Vantage::OtherPort => "198.51.100.1:3479".parse().unwrap(),
            Vantage::OtherAddress | Vantage::Opposite => "198.51.100.2:3478".parse().unwrap(),
        };
        self.discovery.handle_answer(self.now, ask.socket, from, reflected(ask, seen));
    }

    /// Answers what the main socket asks, and returns everything that was asked.
    fn answer_main<const N: usize>(&mut self, seen: [&str; N]) -> Vec<Ask> {
        let asks = self.asks();
        for (ask, seen) in asks.iter().filter(|ask| ask.socket == Socket::Main).zip(seen) {
            self.answer(ask, seen);
        }
        asks
    }

    fn step(&mut self) {
        if let Some(due) = self.discovery.poll_timeout() {
            self.now = due;
            self.discovery.handle_timeout(due);
        }
    }

    /// Waits for the end without answering anything more.
    fn finish(&mut self) -> Discovered {
        while self.discovery.poll_timeout().is_some() {
            self.step();
        }
        let last = std::iter::from_fn(|| self.discovery.poll_event()).last().unwrap();
        assert!(last.finished);
        last
    }
}

fn is_of_a_burst(ask: &Ask) -> bool {
    matches!(ask.socket, Socket::Burst(_))
}

fn asks(measurement: &mut Measurement) -> Vec<Ask> {
    std::iter::from_fn(|| measurement.poll_transmit()).collect()
}

fn three() -> Reflectors {
    reflectors(&["198.51.100.1:3478", "198.51.100.1:3479", "198.51.100.2:3478"])
}

fn reflectors(endpoints: &[&str]) -> Reflectors {
    let endpoints: Vec<SocketAddr> = endpoints.iter().map(|text| text.parse().unwrap()).collect();
    Reflectors::new(&endpoints).unwrap()
}

fn reflected(ask: &Ask, seen: &str) -> Reflected {
    let transaction = ask.probe.transaction;
    Reflected { transaction, seen: seen.parse().unwrap(), ttl: 57, observation: Some(observation(seen)) }
}

fn observation(seen: &str) -> Observation {
    Observation(seen.as_bytes().to_vec())
}
