//! The specification: for every pair of NATs whether it must be direct or relayed, over 200 seeds.
//!
//! `cargo nextest run -p traversal --test matrix --no-capture` prints the tables. Each seed draws a line for each site (one
//! way 0 to 100 ms between the two, not the same in both directions), up to 10 ms of jitter, and which side comes first.
//! One packet in a hundred is lost, or one in twenty.
#![expect(clippy::print_stdout, reason = "the tables")]

#[path = "matrix/expected.rs"]
mod expected;
#[path = "matrix/table.rs"]
mod table;

use std::time::Duration;

use domain::NatClass;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use traversal::schedule::Limits;
use traversal::sim::{
    Access, BoxKind, Ipv6, Premises, Site,
    net::Conditions,
    trial::{Driver, Found, Outcome, Place, Scenario, Verdict, run},
};

use self::{
    expected::{class, expected},
    table::Row,
};

const SEEDS: u64 = 200;
/// Three attempts by birthday, a minute apart, or four others.
const PATIENCE: Duration = Duration::from_secs(140);
/// New flows of one public address in any 30 seconds, discovery included.
const MOST_NEW_FLOWS: usize = 1_024;
/// Packets of one public address in any second, those to reflectors included.
const MOST_PACKETS_A_SECOND: usize = 500;

#[test]
fn every_site_has_its_class() {
    for site in Site::ALL {
        for seed in 0..20 {
            // Nothing comes of this pair before discovery has ended.
            let sites = [site, Site::Blocked].map(premises);
            let conditions = Conditions { loss: 0.0, ..Conditions::USUAL };
            let outcome = run(&scenario(Place::Apart(sites), conditions), seed);
            let profile = outcome.pairs[0].profiles[0].unwrap();
            assert_eq!(profile.class(), class(site), "{site:?} seed {seed}: {profile:?}");
        }
    }
}

/// A test for each part of the matrix and each loss, so that all cores have something to do.
macro_rules! part {
    ($($name:ident: $loss:literal, $chosen:expr;)*) => {$(
        #[test]
        fn $name() {
            check_pairs($loss, $chosen);
        }
    )*};
}

part! {
    pairs_with_an_open_side_at_1_percent_loss: 0.01, with_an_open_side;
    pairs_with_an_open_side_at_5_percent_loss: 0.05, with_an_open_side;
    pairs_of_easy_sides_at_1_percent_loss: 0.01, easy;
    pairs_of_easy_sides_at_5_percent_loss: 0.05, easy;
    pairs_of_an_easy_and_a_sequential_side_at_1_percent_loss: 0.01, easy_and_sequential;
    pairs_of_an_easy_and_a_sequential_side_at_5_percent_loss: 0.05, easy_and_sequential;
    pairs_of_an_easy_and_a_random_side_at_1_percent_loss: 0.01, easy_and_random;
    pairs_of_an_easy_and_a_random_side_at_5_percent_loss: 0.05, easy_and_random;
    pairs_of_hard_sides_at_1_percent_loss: 0.01, hard;
    pairs_of_hard_sides_at_5_percent_loss: 0.05, hard;
    pairs_with_a_side_without_udp_at_1_percent_loss: 0.01, without_udp;
    pairs_with_a_side_without_udp_at_5_percent_loss: 0.05, without_udp;
}

fn with_an_open_side(a: Site, b: Site) -> bool {
    class(a) == NatClass::EasyOpen && !without_udp(a, b)
}

fn easy(a: Site, b: Site) -> bool {
    class(a) == NatClass::Easy && class(b) == NatClass::Easy
}

fn easy_and_sequential(a: Site, b: Site) -> bool {
    class(a) == NatClass::Easy && class(b) == NatClass::Sequential
}

fn easy_and_random(a: Site, b: Site) -> bool {
    class(a) == NatClass::Easy && class(b) == NatClass::Random
}

fn hard(a: Site, b: Site) -> bool {
    class(a) > NatClass::Easy && !without_udp(a, b)
}

fn without_udp(a: Site, b: Site) -> bool {
    [a, b].map(class).contains(&NatClass::Blocked)
}

/// Here a start may be 30 ms late while packets need 1 ms: only openers keep the port of a router whose INPUT accepts.
#[test]
fn openers_make_up_for_a_start_that_is_not_quite_common() {
    let skewed = Conditions { jitter: Duration::from_millis(30), loss: 0.0, straggling: 0.0, ..Conditions::USUAL };
    let near = || Premises { access: Access::at(Duration::from_millis(1)), ..premises(Site::LinuxHome) };
    for seed in 0..50 {
        let outcome = run(&scenario(Place::Apart([near(), near()]), skewed), seed);
        let verdict = &outcome.pairs[0];
        assert!(verdict.is_direct(), "seed {seed}: {verdict:?}");
        assert_eq!(verdict.record.as_ref().unwrap().attempts, 1, "seed {seed}: {verdict:?}");
    }
}

#[test]
fn two_clients_behind_one_nat_meet_on_their_lan() {
    for site in [Site::Home, Site::HairpinHome, Site::Sequential, Site::Random, Site::HomeBehindRandom] {
        for seed in 0..SEEDS / 4 {
            let outcome = run(&scenario(Place::Together(premises(site)), Conditions::USUAL), seed);
            let verdict = &outcome.pairs[0];
            assert!(verdict.is_direct(), "{site:?} seed {seed}: {verdict:?}");
            let lan = |found: Option<Found>| found.unwrap().endpoint.ip().to_string();
            let lan = verdict.found.into_iter().all(|found| lan(found).starts_with("192.168."));
            assert!(lan, "{site:?} seed {seed}: {verdict:?}");
        }
    }
}

#[test]
fn eight_hosts_behind_one_incremental_nat_all_succeed() {
    for site in [Site::Sequential, Site::BusySequential, Site::VeryBusySequential] {
        let mut took = Vec::new();
        for seed in 0..SEEDS / 8 {
            let place = Place::Crowd { shared: premises(site), peers: vec![premises(Site::Home); 8] };
            let outcome = run(&scenario(place, Conditions::USUAL), seed);
            for verdict in &outcome.pairs {
                assert!(verdict.is_direct(), "{site:?} seed {seed}: {verdict:?}");
                took.push(verdict.took.unwrap());
            }
            let over = over_budget(&outcome);
            assert!(over.is_empty(), "{site:?} seed {seed}: {over:?}");
        }
        println!("8 x {site:?}: {}", quantiles(&mut took));
    }
}

#[test]
fn a_port_mapping_on_either_side_makes_any_pair_direct() {
    for (mapped, other) in [(Site::Random, Site::Random), (Site::Sequential, Site::Pool), (Site::Home, Site::Random)] {
        for seed in 0..SEEDS / 4 {
            let mapped = Premises { port_mapping: true, ..premises(mapped) };
            let mut sites = [mapped, premises(other)];
            sites.rotate_left(usize::from(seed % 2 == 1));
            let outcome = run(&scenario(Place::Apart(sites), Conditions::USUAL), seed);
            assert!(outcome.pairs[0].is_direct(), "{other:?} seed {seed}: {:?}", outcome.pairs[0]);
        }
    }
}

#[test]
fn ipv6_on_both_sides_makes_any_pair_direct() {
    for (a, b) in [(Site::Random, Site::Random), (Site::Blocked, Site::Home), (Site::Pool, Site::Sequential)] {
        for seed in 0..SEEDS / 4 {
            let sites = [a, b].map(|site| Premises { ipv6: Ipv6::Firewall, ..premises(site) });
            let outcome = run(&scenario(Place::Apart(sites), Conditions::USUAL), seed);
            let verdict = &outcome.pairs[0];
            assert!(verdict.is_direct(), "{a:?} x {b:?} seed {seed}: {verdict:?}");
        }
    }
}

/// A carrier whose NAT sends packets for its own address back, as RFC 6888 demands, and homes with the same prefix.
#[test]
fn customers_of_one_carrier_meet_at_its_hairpin_and_not_on_their_lans() {
    let carrier = premises(Site::RandomCone);
    let boxes: Vec<_> = carrier.boxes.iter().map(|kind| BoxKind { hairpin: true, ..*kind }).collect();
    for seed in 0..SEEDS / 4 {
        let carrier = Premises { boxes: boxes.clone(), ..carrier.clone() };
        let place = Place::OneCarrier { carrier, sites: [premises(Site::Home), premises(Site::Home)] };
        let outcome = run(&scenario(place, Conditions::USUAL), seed);
        let verdict = &outcome.pairs[0];
        let hairpin =
            |found: Option<Found>| found.is_some_and(|found| found.endpoint.ip().to_string().starts_with("198.18."));
        assert!(verdict.found.into_iter().all(hairpin), "seed {seed}: {verdict:?}");
    }
}

#[test]
fn a_direct_pair_is_fast() {
    for (a, b, median, p95) in [
        (Site::Home, Site::Home, 300, 1_000),
        (Site::FullCone, Site::Random, 300, 1_000),
        // Half a second of that is the second burst, without which nobody knows the rate.
        (Site::Home, Site::Sequential, 800, 1_000),
        (Site::Home, Site::CarrierBlock, 350, 700),
        // 470 ports a second against 256 sockets: 1.87 of them meet in a second, so 95 % take 1.6 s and the way there.
        (Site::Home, Site::Random, 750, 2_400),
    ] {
        let mut took: Vec<_> = (0..SEEDS)
            .map(|seed| {
                let sites = [a, b].map(|site| Premises { access: Access::at(ms(20)), ..premises(site) });
                run(&scenario(Place::Apart(sites), Conditions::USUAL), seed).pairs[0].took.unwrap()
            })
            .collect();
        println!("{a:?} x {b:?}, 20 ms apart: {}", quantiles(&mut took));
        let [middle, late] = [50, 95].map(|percent| took[took.len() * percent / 100]);
        assert!(middle <= ms(median) && late <= ms(p95), "{a:?} x {b:?}: median {middle:?}, 95 % {late:?}");
    }
}

/// Runs the pairs of kinds that `chosen` accepts, in either order of its arguments, and prints and checks their rows.
fn check_pairs(loss: f64, chosen: fn(Site, Site) -> bool) {
    let mut broken = Vec::new();
    println!("{}", table::head(loss));
    for (nth, &a) in Site::ALL.iter().enumerate() {
        for &b in Site::ALL[nth..].iter().filter(|&&b| chosen(a, b)) {
            // No two pairs see the same chances.
            let seeds = (0..SEEDS).map(|seed| seed + 1_000 * (nth as u64 + 100 * b as u64));
            let outcomes: Vec<_> = seeds.map(|seed| drawn(a, b, loss, seed)).collect();
            let row = Row::new(a, b, &outcomes);
            println!("{row}");
            broken.extend(row.broken(expected(a, b), loss));
            broken.extend(outcomes.iter().flat_map(over_budget).map(|what| format!("{a:?} x {b:?}: {what}")));
        }
    }
    assert!(broken.is_empty(), "{} broken:\n{}", broken.len(), broken.join("\n"));
}

/// The outcome for a pair of kinds, on lines and in an order that the seed draws.
fn drawn(a: Site, b: Site, loss: f64, seed: u64) -> Outcome {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut half = || Duration::from_micros(rng.random_range(0..50_000));
    let mut sites =
        [a, b].map(|site| Premises { access: Access { up: half(), down: half(), hops: 4 }, ..premises(site) });
    if seed % 2 == 1 {
        sites.reverse();
    }
    let jitter = Duration::from_micros(rng.random_range(0..10_000));
    let mut outcome = run(&scenario(Place::Apart(sites), Conditions { jitter, loss, ..Conditions::USUAL }), seed);
    if seed % 2 == 1 {
        outcome.pairs[0].profiles.reverse();
    }
    outcome
}

fn over_budget(outcome: &Outcome) -> Vec<String> {
    let flows = outcome.usage.iter().filter(|(_, usage)| usage.most_new_flows > MOST_NEW_FLOWS);
    let packets = outcome.usage.iter().filter(|(_, usage)| usage.most_packets > MOST_PACKETS_A_SECOND);
    let mut over: Vec<_> = flows.map(|(_, usage)| format!("{} new flows in 30 s", usage.most_new_flows)).collect();
    over.extend(packets.map(|(_, usage)| format!("{} packets in a second", usage.most_packets)));
    over.extend(outcome.pairs.iter().flat_map(over_allowance));
    over
}

/// The attempts that took more packets than their plan allowed.
fn over_allowance(verdict: &Verdict) -> Vec<String> {
    let spent = verdict.attempts.iter().filter_map(|&(packets, budget)| Some((packets, budget?)));
    spent.filter(|(packets, budget)| packets > budget).map(|(p, b)| format!("{p} packets of {b} allowed")).collect()
}

fn scenario(place: Place, conditions: Conditions) -> Scenario {
    Scenario { place, conditions, driver: Driver::Server(Limits::default()), patience: PATIENCE }
}

fn premises(site: Site) -> Premises {
    Premises::behind(site.boxes())
}

/// Sorts them, and says how they are spread, from the moment both profiles are known.
fn quantiles(took: &mut [Duration]) -> String {
    took.sort_unstable();
    let [median, p95] = [50, 95].map(|percent| took[took.len() * percent / 100].as_millis());
    format!("median {median} ms, 95 % {p95} ms")
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}
