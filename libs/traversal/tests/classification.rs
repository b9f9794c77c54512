//! How often discovery is right: over simulated allocators, a thousand times each, and over the simulated network.
//!
//! `cargo nextest run -p traversal --test classification --no-capture` prints the shares.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests that print tables")]

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use domain::{Allocation, NatClass, NatProfile, SessionTag};
use proptest::prelude::{Strategy as _, any, proptest};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use traversal::{
    classify::{BURST, Bursts, Sightings, classify},
    discover::{Discovery, Local, Reflectors, Socket},
    sim::{
        Premises, Site,
        net::{Conditions, Net, Payload, REFLECTORS},
        origin,
    },
};

const TRIALS: u64 = 1_000;
const RIGHT: f64 = 0.99;
const APART: Duration = Duration::from_millis(400);

#[test]
fn counters_are_told_from_everything_else_with_their_step() {
    for step in [1, 2, -1, 5] {
        for foreign_rate in [0, 50, 300] {
            for burst in [Duration::from_millis(2), Duration::from_millis(20)] {
                let what = format!("step {step}, {foreign_rate} foreign/s, bursts of {burst:?}");
                check(&what, |rng| {
                    let reading = counter(rng, step, foreign_rate, burst).read();
                    // Three standard deviations of what others do in 0.4 s, and a few lost members of a burst.
                    let off = f64::from(reading.foreign_rate) - f64::from(foreign_rate);
                    let close = off.abs() <= 3.0 * (f64::from(foreign_rate) / APART.as_secs_f64()).sqrt() + 15.0;
                    reading.allocation == Some(Allocation::Sequential { step: i16::try_from(step).unwrap() }) && close
                });
            }
        }
    }
}

#[test]
fn packets_of_a_burst_may_overtake_each_other() {
    check("step 1, every tenth packet overtaken", |rng| {
        let mut bursts = counter(rng, 1, 50, Duration::from_millis(2));
        for burst in &mut bursts.seen {
            for place in 1..BURST {
                if rng.random_bool(0.1) {
                    burst.swap(place - 1, place);
                }
            }
        }
        bursts.read().allocation == Some(Allocation::Sequential { step: 1 })
    });
}

#[test]
fn ports_without_order_are_told_apart() {
    check("random", |rng| draw(rng, |rng| rng.random_range(1_024..=65_535)) == Some(Allocation::Random));
    check("random parity", |rng| draw(rng, |rng| rng.random_range(512..32_768) * 2) == Some(Allocation::RandomParity));
    for size in [64_u16, 256, 512, 2_048, 16_384] {
        check(&format!("block of {size}"), |rng| {
            let first = rng.random_range(1_023 / size + 1..=u16::MAX / size) * size;
            let allocation = draw(rng, |rng| first + rng.random_range(0..size));
            allocation == Some(Allocation::Block { first, size })
        });
    }
}

/// One packet in a hundred is lost, each way, and 5 ms of jitter reorder answers.
#[test]
fn every_site_is_measured_right_over_a_network() {
    const SEEDS: u64 = 300;
    for site in Site::ALL.into_iter().filter(|site| ![Site::Blocked, Site::WebOnly].contains(site)) {
        let right = (0..SEEDS).filter(|&seed| is_right(site, &discover(site, seed))).count();
        let share = f64::from(u32::try_from(right).unwrap()) / f64::from(u32::try_from(SEEDS).unwrap());
        println!("{site:?}: {:.1} %", share * 100.0);
        assert!(share >= RIGHT, "{site:?}: {share}");
    }
}

proptest! {
    #[test]
    fn whatever_reflectors_say_there_is_a_profile(
        main in proptest::array::uniform3(seen()),
        burst in proptest::array::uniform16(seen()),
        apart_ms in 0..2_000_u64,
        own_flows in any::<u16>(),
        local_port in any::<u16>(),
    ) {
        let mut seen = [[None; BURST]; 2];
        seen.as_flattened_mut().copy_from_slice(&burst);
        let bursts = Bursts { seen, apart: Duration::from_millis(apart_ms), own_flows };
        let [first, other_port, other_address] = main;
        let sightings = Sightings { first, other_port, other_address, local_port, bursts: Some(bursts), ..Sightings::default() };
        let profile = classify(&sightings);
        assert_eq!(profile.class() == NatClass::Blocked, main == [None; 3]);
        assert_ne!(profile.allocation, Some(Allocation::Sequential { step: 0 }));
    }
}

fn seen() -> impl proptest::strategy::Strategy<Value = Option<SocketAddr>> {
    // Near one another and near both ends, or anywhere.
    let port = proptest::prop_oneof![0..40_u16, 65_500..=u16::MAX, any::<u16>()];
    proptest::option::weighted(0.9, (0..2_u8, port).prop_map(|(host, port)| ([203, 0, 113, host], port).into()))
}

fn check(what: &str, mut is_right: impl FnMut(&mut StdRng) -> bool) {
    let right = (0..TRIALS).filter(|&seed| is_right(&mut StdRng::seed_from_u64(seed))).count();
    let share = f64::from(u32::try_from(right).unwrap()) / f64::from(u32::try_from(TRIALS).unwrap());
    println!("{what}: {:.2} %", share * 100.0);
    assert!(share >= RIGHT, "{what}: {share}");
}

/// Two bursts through a NAT that counts; one packet in a hundred is lost on each way.
fn counter(rng: &mut StdRng, step: i32, foreign_rate: u32, burst: Duration) -> Bursts {
    const RANGE: i32 = 64_512;
    let mut port: i32 = rng.random_range(0..RANGE);
    let between = burst / u32::try_from(BURST).unwrap();
    let mut seen = [[None; BURST]; 2];
    for (place, member) in seen.as_flattened_mut().iter_mut().enumerate() {
        let silence = if place == BURST { APART - burst + between } else { between };
        port += step * flows(rng, foreign_rate, silence);
        if rng.random_bool(0.99) {
            port += step;
            let external = u16::try_from(1_024 + port.rem_euclid(RANGE)).unwrap();
            *member = rng.random_bool(0.99).then(|| SocketAddr::from(([203, 0, 113, 1], external)));
        }
    }
    Bursts { seen, apart: APART, own_flows: 0 }
}

/// How many flows others open meanwhile: a Poisson process, in slices that hold one at most.
fn flows(rng: &mut StdRng, rate: u32, time: Duration) -> i32 {
    const SLICES: u32 = 1_000;
    let chance = f64::from(rate) * time.as_secs_f64() / f64::from(SLICES);
    let drawn = (0..SLICES).filter(|_| chance > 0.0 && rng.random_bool(chance)).count();
    i32::try_from(drawn).unwrap()
}

/// What bursts show of a NAT that draws every port by itself.
fn draw(rng: &mut StdRng, mut port: impl FnMut(&mut StdRng) -> u16) -> Option<Allocation> {
    let mut seen = [[None; BURST]; 2];
    for member in seen.as_flattened_mut() {
        let external = port(rng);
        *member = rng.random_bool(0.98).then(|| SocketAddr::from(([203, 0, 113, 1], external)));
    }
    Bursts { seen, apart: APART, own_flows: 0 }.read().allocation
}

/// The last result of a discovery behind `site`.
fn discover(site: Site, seed: u64) -> NatProfile {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut now = origin();
    let mut net = Net::new(now, Conditions::USUAL, StdRng::from_seed(rng.random()));
    let host = net.add_site(&Premises::behind(site.boxes()), 1);
    let main: u16 = rng.random_range(16_384..24_576) * 2;
    let local = Local { port: main, address: Some(net.address(host)), place: 0 };
    let reflectors = Reflectors::new(&REFLECTORS).unwrap();
    let mut discovery = Discovery::new(now, reflectors, SessionTag([0; 16]), local, rng.random());
    let mut sockets = BTreeMap::from([(main, Socket::Main)]);
    loop {
        for ask in std::iter::from_fn(|| discovery.poll_transmit()) {
            let known = sockets.iter().find(|(_, socket)| **socket == ask.socket).map(|(port, _)| *port);
            let port = known.unwrap_or_else(|| main - 2 * u16::try_from(sockets.len()).unwrap());
            sockets.insert(port, ask.socket);
            net.send(now, host, port, ask.to, None, Payload::Question(ask.probe));
        }
        let Some(due) = discovery.poll_timeout() else { break };
        now = now.max(net.poll_timeout().map_or(due, |arrival| arrival.min(due)));
        for delivery in net.handle_timeout(now) {
            match delivery.payload {
                Payload::Question(probe) => discovery.handle_hairpin(now, delivery.from, probe.transaction),
                Payload::Answer(answer) => discovery.handle_answer(now, sockets[&delivery.port], delivery.from, answer),
                Payload::Punch(_) | Payload::Segment(_) => {}
            }
        }
        discovery.handle_timeout(now);
    }
    std::iter::from_fn(|| discovery.poll_event()).last().unwrap().profile
}

fn is_right(site: Site, profile: &NatProfile) -> bool {
    let sequential = |step| profile.allocation == Some(Allocation::Sequential { step });
    let class = profile.class();
    match site {
        Site::Open | Site::FullCone | Site::Restricted => class == NatClass::EasyOpen,
        Site::HairpinHome => class == NatClass::Easy && profile.hairpin == Some(true),
        Site::Home => class == NatClass::Easy && profile.hairpin == Some(false) && profile.keeps_port,
        Site::Firewall | Site::LinuxHome | Site::RandomCone | Site::HomeBehindCarrier | Site::PairedPool => {
            class == NatClass::Easy && profile.allocation.is_none()
        }
        Site::Sequential | Site::AddressSequential => sequential(1) && profile.foreign_rate <= 15,
        Site::SequentialByTwo => sequential(2) && profile.foreign_rate <= 15,
        Site::SequentialDown => sequential(-1) && profile.foreign_rate <= 15,
        Site::BusySequential => sequential(1) && (0..=110).contains(&profile.foreign_rate),
        Site::VeryBusySequential => sequential(1) && (200..=400).contains(&profile.foreign_rate),
        Site::Random | Site::AddressRandom | Site::HomeBehindRandom => profile.allocation == Some(Allocation::Random),
        Site::RandomParity => profile.allocation == Some(Allocation::RandomParity),
        Site::CarrierBlock => matches!(profile.allocation, Some(Allocation::Block { size: 512, .. })),
        Site::Pool => class == NatClass::Random && profile.pool,
        Site::Blocked | Site::WebOnly => class == NatClass::Blocked,
    }
}
