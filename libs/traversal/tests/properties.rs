//! Whatever peers, reflectors and clocks do, the client's machines neither panic, nor spin, nor flood.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use domain::{
    Allocation, Candidate, InstanceId, Mapping, NatProfile, Observation, PunchId, PunchKind, PunchOrder, PunchPacket,
    Reflected, Scope, SessionTag, Strategy, TransactionId, scope,
};
use proptest::option;
use proptest::prelude::{Just, Strategy as Generator, any, prop_oneof, proptest};
use traversal::{
    discover::{Ask, Discovery, Lifetime, Local, Measurement, Reflectors, Socket},
    path::{Path, Route},
    plan::{Measured, Recipe, Strategies, Variation, plan},
    punch::{Punch, most_packets},
    sim::origin,
};

proptest! {
    #[test]
    fn a_punch_ends_within_its_budget(order in order(), steps in proptest::collection::vec(punch_step(), 0..200)) {
        let mut now = origin();
        let mut punch = Punch::new(now, order.punch, [1; 32]);
        let most = usize::try_from(most_packets(&order)).unwrap() + 200;
        let mut sent = 0;
        for step in steps {
            match step {
                PunchStep::Order => punch.handle_order(now, order.clone()),
                PunchStep::Packet(from, packet) => punch.handle_packet(now, Socket::Main, from, packet),
                PunchStep::Wait(wait) => now += wait,
                PunchStep::Cancel => punch.handle_cancel(),
            }
            punch.handle_timeout(now);
            sent += std::iter::from_fn(|| punch.poll_transmit()).count();
        }
        let mut turns = 0;
        while let Some(due) = punch.poll_timeout() {
            now = now.max(due);
            punch.handle_timeout(now);
            sent += std::iter::from_fn(|| punch.poll_transmit()).count();
            turns += 1;
            assert!(turns < 2_000, "a punch does not end");
        }
        assert!(sent <= most, "{sent} packets");
        assert!(std::iter::from_fn(|| punch.poll_event()).count() <= 40);
    }

    #[test]
    fn an_order_names_only_what_reflectors_saw_or_what_is_in_the_same_home(
        a in measured(), b in measured(), attempt in 1..9_u8,
    ) {
        let recipe = Recipe { attempt, variation: Variation::of(attempt), seed: 7, skip: 0 };
        let punch = PunchId { leader: InstanceId::from_bytes([1; 16]), number: 1 };
        let sides = [a, b];
        let plan = plan(punch, recipe, Strategies::default(), &sides[0], &sides[1]);
        for (side, order) in plan.orders.iter().enumerate() {
            let (own, peer) = (&sides[side], &sides[1 - side]);
            let public = |at: Option<SocketAddr>| at.map(|at| at.ip());
            let seen: Vec<IpAddr> =
                [public(peer.seen), public(peer.seen6)].into_iter().flatten().chain(peer.others.iter().copied()).collect();
            let at_home = own.seen.is_some() && public(own.seen) == public(peer.seen);
            for candidate in &order.candidates {
                let address = candidate.endpoint.ip();
                let mapped = peer.mapped == Some(candidate.endpoint);
                match scope(address) {
                    Scope::Public => assert!(mapped || seen.contains(&address), "{candidate:?} of {peer:?}"),
                    Scope::Private | Scope::Loopback => {
                        let site = [own.seen, own.seen6].iter().any(|own| public(*own).is_some_and(|own| scope(own) == scope(address)));
                        assert!(at_home || site && (seen.contains(&address) || mapped), "{candidate:?}");
                    }
                    Scope::LinkLocal | Scope::Unusable => panic!("{candidate:?}"),
                }
                assert!(!candidate.local || at_home, "{candidate:?}");
            }
            assert!(order.candidates.len() <= 8);
            assert!(most_packets(order) <= 2_000 && order.sockets <= 256);
        }
    }

    #[test]
    fn a_path_moves_on_whatever_happens(steps in proptest::collection::vec(path_step(), 0..200)) {
        let mut now = origin();
        let mut path = Path::new([2; 32]);
        let mut asked = vec![];
        for step in steps {
            match step {
                PathStep::RelayUp => path.handle_relay_up(now),
                PathStep::RelayDown => path.handle_relay_down(now),
                PathStep::Direct(at, rtt) => path.handle_direct(now, at, rtt),
                PathStep::Hint(at) => path.handle_hint(now, at),
                PathStep::Received(at) => path.handle_received(now, Route::Direct(at)),
                PathStep::Sent => path.handle_sent(now),
                PathStep::Answer(back) => {
                    if let Some((route, nonce)) = asked.iter().rev().nth(back).copied() {
                        path.handle_answer(now, route, nonce);
                    }
                }
                PathStep::Watch => path.handle_watch(now),
                PathStep::Unwatch => path.handle_unwatch(),
                PathStep::NetworkChange => path.handle_network_change(now),
                PathStep::Wait(wait) => now = run(&mut path, now, wait, &mut asked),
            }
            asked.extend(std::iter::from_fn(|| path.poll_probe()).map(|probe| (probe.route, probe.nonce)));
            let sends = path.sends();
            assert!(sends.also.is_none() || sends.first != sends.also);
            while path.poll_event().is_some() {}
        }
    }

    #[test]
    fn a_discovery_ends_within_two_seconds(steps in proptest::collection::vec(any::<(u8, u8, u16, u8)>(), 0..60)) {
        let start = origin();
        let mut now = start;
        let endpoints: Vec<SocketAddr> = (1..=3_u8).map(|last| ([198, 51, 100, last], 3478).into()).collect();
        let Some(reflectors) = Reflectors::new(&endpoints) else { return Ok(()) };
        let mut discovery = Discovery::new(now, reflectors, SessionTag([0; 16]), LOCAL, [3; 32]);
        let mut asks = vec![];
        for (which, from, port, kind) in steps {
            asks.extend(std::iter::from_fn(|| discovery.poll_transmit()));
            let ask = asks.get(usize::from(which) % (asks.len() + 1)).copied();
            let transaction = ask.map(|ask| ask.probe.transaction);
            let transaction = transaction.unwrap_or(TransactionId([which; 12]));
            let seen = ([203, 0, 113, from], port).into();
            let reflected = Reflected { transaction, seen, ttl: from, observation: Some(Observation(vec![from])) };
            let from = endpoints[usize::from(from) % 3];
            match kind % 8 {
                0 => discovery.handle_answer(now, Socket::Main, from, reflected),
                1 => discovery.handle_answer(now, Socket::Spare, from, reflected),
                2 => discovery.handle_refusal(now, transaction),
                3 => discovery.handle_hairpin(now, from, transaction),
                4..=6 => {
                    let (socket, to) = ask.map_or((Socket::Main, from), |ask| (ask.socket, ask.to));
                    discovery.handle_answer(now, socket, to, reflected);
                }
                _ => {
                    now = discovery.poll_timeout().unwrap_or(now);
                    discovery.handle_timeout(now);
                }
            }
        }
        while let Some(due) = discovery.poll_timeout() {
            now = due;
            discovery.handle_timeout(now);
        }
        assert!(now - start <= Duration::from_secs(2));
        assert!(asks.len() <= 64, "{} questions", asks.len());
        let found: Vec<_> = std::iter::from_fn(|| discovery.poll_event()).collect();
        assert!((1..=2).contains(&found.len()));
        assert!(found.iter().rev().map(|discovered| discovered.finished).eq([true, false].into_iter().take(found.len())));
    }

    #[test]
    fn a_measurement_is_reported_once_and_soon(
        sockets in any::<u16>(),
        steps in proptest::collection::vec((any::<proptest::sample::Index>(), 0..150_u64), 0..20),
    ) {
        let start = origin();
        let mut now = start;
        let endpoints: Vec<SocketAddr> = ["198.51.100.1:1", "198.51.100.2:1", "[2001:db8::1]:1"].map(|at| at.parse().unwrap()).into();
        let Some(reflectors) = Reflectors::new(&endpoints) else { return Ok(()) };
        let mut measurement = Measurement::new(now, sockets, reflectors, SessionTag([0; 16]), [4; 32]);
        let mut asks: Vec<Ask> = vec![];
        let mut reports = 0;
        for (which, wait_ms) in steps {
            asks.extend(std::iter::from_fn(|| measurement.poll_transmit()));
            let ask = *which.get(&asks);
            let seen = ([203, 0, 113, 1], 7).into();
            let reflected = Reflected { transaction: ask.probe.transaction, seen, ttl: 0, observation: None };
            measurement.handle_answer(now, ask.socket, ask.to, reflected);
            now += Duration::from_millis(wait_ms);
            measurement.handle_timeout(now);
            reports += usize::from(measurement.poll_event().is_some());
        }
        while let Some(due) = measurement.poll_timeout() {
            now = now.max(due);
            measurement.handle_timeout(now);
            asks.extend(std::iter::from_fn(|| measurement.poll_transmit()));
            reports += usize::from(measurement.poll_event().is_some());
        }
        assert_eq!(reports, 1);
        assert!(asks.len() <= 18, "{} questions", asks.len());
    }

    #[test]
    fn a_lifetime_test_ends_after_its_longest_silence(
        steps in proptest::collection::vec((0..5_usize, 0..60_u64), 0..20),
    ) {
        let start = origin();
        let mut now = start;
        let Some(reflectors) = Reflectors::new(&[([198, 51, 100, 1], 1).into()]) else { return Ok(()) };
        let mut lifetime = Lifetime::new(now, reflectors, SessionTag([0; 16]), [5; 32]);
        let asks: Vec<Ask> = std::iter::from_fn(|| lifetime.poll_transmit()).collect();
        for (which, wait_s) in steps {
            let ask = asks[which];
            let seen = ([203, 0, 113, 1], 7).into();
            let reflected = Reflected { transaction: ask.probe.transaction, seen, ttl: 0, observation: None };
            lifetime.handle_answer(now, ask.socket, ask.to, reflected);
            now += Duration::from_secs(wait_s);
            lifetime.handle_timeout(now);
        }
        while let Some(due) = lifetime.poll_timeout() {
            now = now.max(due);
            lifetime.handle_timeout(now);
            assert!(now - start <= Duration::from_secs(190));
        }
        assert_eq!(lifetime.poll_transmit(), None);
        assert!(std::iter::from_fn(|| lifetime.poll_event()).count() <= 1);
    }
}

const LOCAL: Local = Local { port: 7_000, address: None, place: 0 };

/// Lets time pass in the steps that the path asks for.
fn run(path: &mut Path, now: Instant, wait: Duration, asked: &mut Vec<(Route, u64)>) -> Instant {
    let end = now + wait;
    let mut now = now;
    let mut turns = 0;
    while let Some(due) = path.poll_timeout(now).filter(|&due| due <= end) {
        now = now.max(due);
        path.handle_timeout(now);
        asked.extend(std::iter::from_fn(|| path.poll_probe()).map(|probe| (probe.route, probe.nonce)));
        turns += 1;
        assert!(turns < 10_000, "a path spins");
    }
    end
}

#[derive(Clone, Debug)]
enum PunchStep {
    Order,
    Packet(SocketAddr, PunchPacket),
    Wait(Duration),
    Cancel,
}

fn punch_step() -> impl Generator<Value = PunchStep> {
    prop_oneof![
        2 => Just(PunchStep::Order),
        20 => (endpoint(), packet()).prop_map(|(from, packet)| PunchStep::Packet(from, packet)),
        10 => wait(3_000).prop_map(PunchStep::Wait),
        1 => Just(PunchStep::Cancel),
    ]
}

#[derive(Clone, Debug)]
enum PathStep {
    RelayUp,
    RelayDown,
    Direct(SocketAddr, Duration),
    Hint(SocketAddr),
    Received(SocketAddr),
    Sent,
    Answer(usize),
    Watch,
    Unwatch,
    NetworkChange,
    Wait(Duration),
}

fn path_step() -> impl Generator<Value = PathStep> {
    prop_oneof![
        Just(PathStep::RelayUp),
        Just(PathStep::RelayDown),
        (endpoint(), wait(500)).prop_map(|(at, rtt)| PathStep::Direct(at, rtt)),
        endpoint().prop_map(PathStep::Hint),
        endpoint().prop_map(PathStep::Received),
        Just(PathStep::Sent),
        (0..6_usize).prop_map(PathStep::Answer),
        (0..6_usize).prop_map(PathStep::Answer),
        Just(PathStep::Watch),
        Just(PathStep::Unwatch),
        Just(PathStep::NetworkChange),
        wait(90_000).prop_map(PathStep::Wait),
        wait(2_000).prop_map(PathStep::Wait),
    ]
}

fn order() -> impl Generator<Value = PunchOrder> {
    let candidate =
        (endpoint(), any::<bool>()).prop_map(|(endpoint, local)| Candidate { endpoint, local, main: false });
    let strategy = prop_oneof![Just(Strategy::Direct), Just(Strategy::Reveal), Just(Strategy::Relay)];
    let candidates = proptest::collection::vec(candidate, 0..40);
    (strategy, any::<u64>(), any::<u64>(), any::<u8>(), candidates, any::<u8>()).prop_map(
        |(strategy, wait_us, gap_us, opener_ttl, candidates, attempt)| PunchOrder {
            punch: PunchId { leader: InstanceId::from_bytes([1; 16]), number: 1 },
            strategy,
            wait_us,
            gap_us,
            opener_ttl,
            candidates,
            attempt,
            spray: None,
            sockets: 0,
        },
    )
}

/// A side that may claim anything, seen anywhere.
fn measured() -> impl Generator<Value = Measured> {
    let address = || {
        prop_oneof![
            Just("203.0.113.1"),
            Just("203.0.113.2"),
            Just("192.168.1.7"),
            Just("10.0.0.1"),
            Just("127.0.0.1"),
            Just("169.254.1.1"),
            Just("224.0.0.1"),
            Just("0.0.0.0"),
            Just("255.255.255.255")
        ]
        .prop_map(|text| text.parse::<IpAddr>().expect("a literal address"))
    };
    let at = move || (address(), 0..4_u16).prop_map(|(address, port)| SocketAddr::new(address, 7_000 * port));
    let six = prop_oneof![Just("2001:db8::1"), Just("fe80::1"), Just("::1"), Just("ff02::1"), Just("fd00::1")]
        .prop_map(|text: &str| SocketAddr::new(text.parse().expect("a literal address"), 7_000));
    let profile = (0..3_u8, 0..4_u8, any::<bool>(), -3..4_i16, any::<u16>()).prop_map(
        |(mapping, allocation, pool, step, rate)| {
            let allocation = match allocation {
                0 => None,
                1 => Some(Allocation::Random),
                2 => Some(Allocation::Sequential { step }),
                _ => Some(Allocation::Block { first: rate, size: rate }),
            };
            let mapping = [Mapping::EndpointIndependent, Mapping::AddressDependent, Mapping::AddressAndPortDependent]
                [usize::from(mapping)];
            NatProfile {
                udp: true,
                mapping: Some(mapping),
                allocation,
                pool,
                foreign_rate: rate,
                ..NatProfile::BLOCKED
            }
        },
    );
    let others = proptest::collection::vec(address(), 0..5);
    let local = proptest::collection::vec(at(), 0..20);
    (profile, option::of(at()), others, option::of(six), option::of(at()), local, wait(5_000)).prop_map(
        |(profile, seen, others, seen6, mapped, local, age)| Measured {
            profile,
            seen,
            ttl: 57,
            others,
            seen6,
            ttl6: 0,
            mapped,
            local,
            lan: None,
            rtt: None,
            jitter: None,
            age,
        },
    )
}

fn packet() -> impl Generator<Value = PunchPacket> {
    let kind = prop_oneof![Just(PunchKind::Opener), Just(PunchKind::Probe), Just(PunchKind::Answer)];
    (kind, any::<u8>(), 0..3_u64, any::<u64>()).prop_map(|(kind, attempt, number, nonce)| PunchPacket {
        kind,
        attempt,
        number,
        nonce,
    })
}

fn endpoint() -> impl Generator<Value = SocketAddr> {
    (0..6_u8, 1_024..1_027_u16).prop_map(|(host, port)| ([203, 0, 113, host], port).into())
}

fn wait(most_ms: u64) -> impl Generator<Value = Duration> {
    (0..=most_ms).prop_map(Duration::from_millis)
}
