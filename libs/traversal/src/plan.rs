//! The decision table and its formulas: for two measured sides, who sends what when.
//!
//! | A \ B | easy, open | easy | sequential | random | blocked |
//! |---|---|---|---|---|---|
//! | easy, open | DIRECT | DIRECT | REVEAL | REVEAL | TCP |
//! | easy | | DIRECT | PREDICT | BIRTHDAY | TCP |
//! | sequential | | | SWEEP | plain round, then relay | TCP |
//! | random | | | | plain round, then relay | TCP |
//!
//! - TCP needs an endpoint-independent mapping of connections on both sides, whatever they do to UDP; else it is the relay.
//! - A sequential NAT with an address-dependent mapping counts as easy against a random one, at the port that it will use
//!   next: BIRTHDAY.
//! - Two sides behind one public address try their addresses on the LAN and the hairpin, whatever their classes are.
//! - A port mapping on either side makes the pair DIRECT, towards the mapped port; openers are still sent.
//! - IPv6 runs beside all of that, from the main sockets, when both have it.
//! - The plain round exists because a class can be wrong, and because a wrong guess costs 14 packets.
//!
//! A retry changes something, or it is not sent: the second variation opens one side first, doubles gap and window and lets
//! the openers live two hops longer; the third sends no openers and ignores the classes.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use domain::{
    Allocation, Candidate, Mapping, NatClass, NatProfile, PunchId, PunchOrder, Scope, Spray, Strategy, hops,
    pairs_well, scope,
};

use crate::{
    discover::POOL_SOCKETS,
    predict::{self, Trend},
    punch,
};

/// What is to be expected of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outlook {
    /// This strategy succeeds unless something unknown is in the way.
    Promising(Strategy),
    /// Only if a class is wrong: one plain attempt.
    Doubtful,
    /// Not at all.
    Hopeless,
}

/// Which strategies may be used; an operator can switch off each by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strategies {
    /// PREDICT and SWEEP.
    pub predict: bool,
    pub birthday: bool,
    pub tcp: bool,
}

impl Default for Strategies {
    fn default() -> Self {
        Self { predict: true, birthday: true, tcp: true }
    }
}

/// One side, measured right before the punch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    pub profile: NatProfile,
    /// Where a reflector saw the punching socket over IPv4.
    pub seen: Option<SocketAddr>,
    /// Hop limit the reflector received; 0 when unknown.
    pub ttl: u8,
    /// Other public addresses that reflectors saw it with.
    pub others: Vec<IpAddr>,
    /// Where a reflector saw the main socket over IPv6.
    pub seen6: Option<SocketAddr>,
    pub ttl6: u8,
    /// The outer end of a port mapping to the main socket, at an address that was seen.
    pub mapped: Option<SocketAddr>,
    /// Addresses of its interfaces, as the client claims.
    pub local: Vec<SocketAddr>,
    /// A hash of its default router.
    pub lan: Option<u64>,
    /// Round trip of the control connection; `None` when unknown.
    pub rtt: Option<Duration>,
    /// Its variation.
    pub jitter: Option<Duration>,
    /// Since the result arrived at the server.
    pub age: Duration,
}

/// What differs between attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Variation {
    First,
    /// More patience, a wider window, openers that live longer; the other side opens first.
    Second,
    /// As if nothing were known: plain packets, no openers.
    Third,
}

impl Variation {
    /// Of an attempt counted from 1, when nothing is known about the pair of addresses.
    #[must_use]
    pub const fn of(attempt: u8) -> Self {
        match attempt % 3 {
            1 => Self::First,
            2 => Self::Second,
            _ => Self::Third,
        }
    }
}

/// How an attempt is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// Counted from 1.
    pub attempt: u8,
    pub variation: Variation,
    /// BIRTHDAY: orders the ports to try. The same for all attempts of a pair.
    pub seed: u64,
    /// BIRTHDAY: ports of that order which earlier attempts tried.
    pub skip: u16,
}

/// Orders for both sides, in the order of the sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub strategy: Strategy,
    pub orders: [PunchOrder; 2],
    /// From now until both reports should be there.
    pub patience: Duration,
    /// The most packets of both sides together, answers included.
    pub budget: u32,
}

/// What classes alone tell.
#[must_use]
pub fn outlook(strategies: Strategies, a: &NatProfile, b: &NatProfile) -> Outlook {
    use NatClass::{Blocked, Easy, EasyOpen, Random, Sequential};
    if a.ipv6 && b.ipv6 {
        return match classes(strategies, a, b) {
            promising @ Outlook::Promising(_) => promising,
            Outlook::Doubtful | Outlook::Hopeless => Outlook::Promising(Strategy::Direct),
        };
    }
    let mapped = a.port_mapping && b.class() != Blocked || b.port_mapping && a.class() != Blocked;
    if mapped {
        return Outlook::Promising(Strategy::Direct);
    }
    match (a.class(), b.class()) {
        (Blocked, _) | (_, Blocked) => over_tcp(strategies, a, b),
        (EasyOpen | Easy | Sequential | Random, _) => classes(strategies, a, b),
    }
}

/// What classes and measurements tell.
#[must_use]
pub fn measured_outlook(strategies: Strategies, a: &Measured, b: &Measured) -> Outlook {
    let one_address = a.seen.is_some() && a.seen.map(|seen| seen.ip()) == b.seen.map(|seen| seen.ip());
    if one_address { Outlook::Promising(Strategy::Direct) } else { outlook(strategies, &a.profile, &b.profile) }
}

/// The table above.
fn classes(strategies: Strategies, a: &NatProfile, b: &NatProfile) -> Outlook {
    use NatClass::{Blocked, Easy, EasyOpen, Random, Sequential};
    let possible = |strategy, allowed| if allowed { Outlook::Promising(strategy) } else { Outlook::Doubtful };
    match (a.class(), b.class()) {
        (Blocked, _) | (_, Blocked) => Outlook::Hopeless,
        (EasyOpen | Easy, EasyOpen | Easy) => Outlook::Promising(Strategy::Direct),
        (EasyOpen, Sequential | Random) | (Sequential | Random, EasyOpen) => Outlook::Promising(Strategy::Reveal),
        (Easy, Sequential) | (Sequential, Easy) => possible(Strategy::Predict, strategies.predict),
        (Easy, Random) | (Random, Easy) => possible(Strategy::Birthday, strategies.birthday),
        (Sequential, Sequential) => possible(Strategy::Sweep, strategies.predict),
        (Sequential, Random) => {
            possible(Strategy::Birthday, strategies.birthday && strategies.predict && is_cone_of(a))
        }
        (Random, Sequential) => {
            possible(Strategy::Birthday, strategies.birthday && strategies.predict && is_cone_of(b))
        }
        (Random, Random) => Outlook::Doubtful,
    }
}

/// Whether all ports of one peer see the same port.
fn is_cone_of(profile: &NatProfile) -> bool {
    profile.mapping == Some(Mapping::AddressDependent)
}

/// For a side without UDP.
fn over_tcp(strategies: Strategies, a: &NatProfile, b: &NatProfile) -> Outlook {
    let open = |profile: &NatProfile| profile.tcp == Some(Mapping::EndpointIndependent);
    if strategies.tcp && open(a) && open(b) { Outlook::Promising(Strategy::Tcp) } else { Outlook::Hopeless }
}

/// What is tried. Without UDP there is nothing plain to fall back to.
const fn strategy(variation: Variation, outlook: Outlook) -> Strategy {
    match (variation, outlook) {
        (_, Outlook::Promising(Strategy::Tcp)) => Strategy::Tcp,
        (Variation::First | Variation::Second, Outlook::Promising(strategy)) => strategy,
        (Variation::Third, _) | (_, Outlook::Doubtful | Outlook::Hopeless) => Strategy::Direct,
    }
}

/// Fresh sockets that PREPARE asks of both sides, and whether for TCP.
#[must_use]
pub fn preparation(strategies: Strategies, variation: Variation, a: &NatProfile, b: &NatProfile) -> ([u16; 2], bool) {
    let strategy = strategy(variation, outlook(strategies, a, b));
    let moves = moves(strategy, variation, [a, b]);
    let sockets = |own: &NatProfile| match (strategy, own.class()) {
        (Strategy::Direct, _) if moves => 1,
        (Strategy::Reveal, NatClass::Random) if own.pool => POOL_SOCKETS,
        (Strategy::Predict, NatClass::Sequential) => MEASURED_SOCKETS,
        (Strategy::Sweep, _) => sweep_sockets(own),
        (Strategy::Birthday, NatClass::Random) => predict::birthday_sockets(own.allocation, own.pool),
        (Strategy::Birthday, NatClass::Sequential) => MEASURED_SOCKETS,
        (
            Strategy::Direct
            | Strategy::Reveal
            | Strategy::Predict
            | Strategy::Birthday
            | Strategy::Tcp
            | Strategy::Relay,
            _,
        ) => 0,
    };
    ([sockets(a), sockets(b)], strategy == Strategy::Tcp)
}

/// The plan of one attempt.
#[must_use]
pub fn plan(punch: PunchId, recipe: Recipe, strategies: Strategies, a: &Measured, b: &Measured) -> Plan {
    let variation = recipe.variation;
    let strategy = strategy(variation, measured_outlook(strategies, a, b));
    let sides = [a, b];
    let rtts = sides.map(|side| side.rtt.unwrap_or(UNKNOWN_RTT));
    let start = rtts[0].max(rtts[1]) / 2 + MARGIN;
    let skew = 2 * (a.jitter.unwrap_or(UNKNOWN_JITTER) + b.jitter.unwrap_or(UNKNOWN_JITTER)) + SKEW_MARGIN;
    let gap = skew.clamp(SHORTEST_GAP, LONGEST_GAP) * if variation == Variation::Second { 2 } else { 1 };
    // On the second attempt B opens first and A one gap later; both go on together.
    let lead = if variation == Variation::Second { gap } else { Duration::ZERO };
    let ttl = opener_ttl(variation, hops_of(a), hops_of(b));
    let aims = aims(strategy, recipe, start, sides);
    let order = |side: usize, delay: Duration| {
        let (own, peer) = (sides[side], sides[1 - side]);
        let Aim { sockets, endpoint, spray } = aims[side];
        PunchOrder {
            punch,
            strategy,
            wait_us: micros((start + delay).saturating_sub(rtts[side] / 2)),
            gap_us: micros(gap + lead - delay),
            opener_ttl: if opens(strategy, variation, own, peer) { ttl } else { 0 },
            candidates: match strategy {
                Strategy::Tcp => connectable(own, peer),
                Strategy::Direct
                | Strategy::Reveal
                | Strategy::Predict
                | Strategy::Sweep
                | Strategy::Birthday
                | Strategy::Relay => candidates(own, peer, endpoint),
            },
            attempt: recipe.attempt,
            spray,
            sockets,
        }
    };
    let orders = [order(0, lead), order(1, Duration::ZERO)];
    let longest = orders.iter().map(punch::duration).max().unwrap_or_default();
    let patience = start + longest + rtts[0].max(rtts[1]) + LATE_REPORT;
    let budget = orders.iter().map(punch::most_packets).sum();
    Plan { strategy, orders, patience, budget }
}

/// How one side looks for the other one's IPv4 address.
#[derive(Clone, Copy, Debug, Default)]
struct Aim {
    /// Fresh sockets that it sends from.
    sockets: u16,
    /// Where the peer will be; `None` means where it was seen.
    endpoint: Option<SocketAddr>,
    spray: Option<Spray>,
}

fn aims(strategy: Strategy, recipe: Recipe, start: Duration, sides: [&Measured; 2]) -> [Aim; 2] {
    let widen = if recipe.variation == Variation::Second { 2 } else { 1 };
    let moves = moves(strategy, recipe.variation, sides.map(|side| &side.profile));
    let trends = sides.map(|side| trend(side, start));
    [0, 1].map(|side: usize| {
        let (own, peer) = (sides[side], sides[1 - side]);
        let (own_class, peer_class) = (own.profile.class(), peer.profile.class());
        let at = |port: u16| peer.seen.map(|seen| SocketAddr::new(seen.ip(), port));
        let next = trends[1 - side].and_then(|trend| at(trend.port(1)));
        match (strategy, own_class, peer_class) {
            (Strategy::Predict, _, NatClass::Sequential) => {
                Aim { sockets: 0, endpoint: next, spray: trends[1 - side].map(|trend| trend.window(widen)) }
            }
            (Strategy::Predict, NatClass::Sequential, _) => Aim { sockets: 1, ..Aim::default() },
            (Strategy::Sweep, ..) => {
                let endpoint =
                    trends[1 - side].and_then(|trend| at(trend.port(trend.ahead(sweep_sockets(&peer.profile)))));
                Aim { sockets: sweep_sockets(&own.profile), endpoint, spray: None }
            }
            (Strategy::Birthday, NatClass::Random, _) => {
                let sockets = predict::birthday_sockets(own.profile.allocation, own.profile.pool);
                Aim { sockets, endpoint: next, spray: None }
            }
            (Strategy::Birthday, ..) => Aim {
                sockets: u16::from(own_class == NatClass::Sequential),
                endpoint: None,
                spray: Some(predict::scatter(peer.profile.allocation, recipe.seed, recipe.skip)),
            },
            (Strategy::Reveal, NatClass::Random, _) if own.profile.pool => {
                Aim { sockets: REVEALING_SOCKETS, ..Aim::default() }
            }
            // What looked like one port for all may be one that counts up: one address of ours could not tell.
            (Strategy::Direct, _, NatClass::Easy | NatClass::EasyOpen) if peer.profile.unsure => {
                let guess = peer.seen.map(|seen| Trend::new(seen.port(), 1, 0, Duration::ZERO).window(1));
                Aim { sockets: moves.into(), spray: guess, ..Aim::default() }
            }
            (Strategy::Direct, ..) => Aim { sockets: moves.into(), ..Aim::default() },
            (Strategy::Reveal | Strategy::Predict | Strategy::Tcp | Strategy::Relay, ..) => Aim::default(),
        }
    })
}

/// Whether two easy sides try again from fresh sockets. A router that took an early packet for one to itself keeps the old
/// port from that peer for half a minute, and gives a new one at once.
fn moves(strategy: Strategy, variation: Variation, profiles: [&NatProfile; 2]) -> bool {
    let easy = profiles.iter().all(|profile| !profile.class().is_hard() && profile.class() != NatClass::Blocked);
    strategy == Strategy::Direct && variation == Variation::Second && easy
}

/// SWEEP: opened before it is known how long the rest takes.
fn sweep_sockets(profile: &NatProfile) -> u16 {
    predict::sweep_sockets(profile.foreign_rate, USUAL_AGE).max(MEASURED_SOCKETS)
}

/// What the next ports of a sequential side will be at the common start, `start` from now.
///
/// Its mapping was made when its question left, one and a half round trips before the result was here.
fn trend(side: &Measured, start: Duration) -> Option<Trend> {
    let Some(Allocation::Sequential { step }) = side.profile.allocation else { return None };
    if side.profile.class() != NatClass::Sequential {
        return None;
    }
    let dt = side.age + side.rtt.unwrap_or(UNKNOWN_RTT).mul_f64(1.5) + start;
    Some(Trend::new(side.seen?.port(), step, side.profile.foreign_rate, dt))
}

/// Routers between a side and a reflector. Connections do not show them, but its discovery may have.
fn hops_of(side: &Measured) -> u8 {
    let measured = hops(side.ttl.max(side.ttl6));
    if measured > 0 { measured } else { side.profile.hops }
}

/// Half of the shorter way to a reflector, between 3 and 8: it must pass every NAT of its own side, a carrier's too, and die
/// before the peer's. Never more than the shorter way itself, or it would arrive.
fn opener_ttl(variation: Variation, hops_a: u8, hops_b: u8) -> u8 {
    let known = [hops_a, hops_b].into_iter().filter(|&hops| hops > 0).min();
    let first = known.map_or(UNKNOWN_TTL, |hops| (hops / 2).clamp(3, 8).min(hops.max(2)));
    match variation {
        Variation::First => first,
        Variation::Second => first + 2,
        Variation::Third => 0,
    }
}

/// Only the side whose filter is to be opened sends openers when the other one is to reveal itself.
///
/// A connection that died on its way leaves its sequence number with the own NAT: once the peer's first segment has passed
/// there, Linux takes no segment of another try from the same port, because it lies outside of that window. So connections
/// are opened on the second attempt only, for routers that answer early segments with a reset.
fn opens(strategy: Strategy, variation: Variation, own: &Measured, peer: &Measured) -> bool {
    match strategy {
        Strategy::Direct | Strategy::Predict | Strategy::Sweep | Strategy::Birthday => true,
        Strategy::Tcp => variation == Variation::Second,
        Strategy::Reveal => own.profile.class() < peer.profile.class(),
        Strategy::Relay => false,
    }
}

/// Where `own` is told to send: what reflectors saw of the peer or `expected` in its place, the peer's port mapping, its
/// IPv6 address, and LAN addresses when both share a public one.
fn candidates(own: &Measured, peer: &Measured, expected: Option<SocketAddr>) -> Vec<Candidate> {
    let mut candidates: Vec<Candidate> = Vec::new();
    let mut add = |endpoint: SocketAddr, local: bool, main: bool| {
        let known = candidates.iter().any(|candidate| candidate.endpoint == endpoint);
        if !known && candidates.len() < MAX_CANDIDATES {
            candidates.push(Candidate { endpoint, local, main });
        }
    };
    // Who was not seen itself is a stranger to every site.
    let meets = |own: Option<SocketAddr>, peer: SocketAddr| {
        own.map_or(scope(peer.ip()) == Scope::Public, |own| may_meet(own.ip(), peer.ip()))
    };
    if let Some(mapped) = peer.mapped.filter(|mapped| meets(own.seen, *mapped)) {
        add(mapped, false, true);
    }
    if let Some(seen) = expected.or(peer.seen).filter(|seen| meets(own.seen, *seen)) {
        add(seen, false, false);
        // A port of either side that was predicted is for one address: towards another one it is the one after that.
        let predicted = expected.is_some() || own.profile.class() == NatClass::Sequential;
        for &other in peer.others.iter().filter(|_| !predicted) {
            let endpoint = SocketAddr::new(other, seen.port());
            if meets(own.seen, endpoint) {
                add(endpoint, false, false);
            }
        }
    }
    if let (Some(own6), Some(peer6)) = (own.seen6, peer.seen6)
        && may_meet(own6.ip(), peer6.ip())
    {
        add(peer6, false, true);
    }
    if let (Some(own_seen), Some(peer_seen)) = (own.seen, peer.seen) {
        for &endpoint in &peer.local {
            let welcome = endpoint.is_ipv4() == peer_seen.is_ipv4()
                && scope(endpoint.ip()) == Scope::Private
                && pairs_well(own_seen.ip(), peer_seen.ip(), endpoint);
            if welcome {
                add(endpoint, true, true);
            }
        }
    }
    candidates
}

/// Where `own` is told to connect to: the port that a reflector saw, and no other. LAN addresses and mapped ports are UDP's.
fn connectable(own: &Measured, peer: &Measured) -> Vec<Candidate> {
    let both = own.seen.zip(peer.seen).filter(|(own, peer)| may_meet(own.ip(), peer.ip()));
    both.map(|(_, endpoint)| Candidate { endpoint, local: false, main: false }).into_iter().collect()
}

/// Whether an observed address may be told to a peer: a private one only in a deployment that lies in the same site.
fn may_meet(own: IpAddr, peer: IpAddr) -> bool {
    match scope(peer) {
        Scope::Public => true,
        seen @ (Scope::Private | Scope::Loopback) => scope(own) == seen,
        Scope::LinkLocal | Scope::Unusable => false,
    }
}

/// From the order to the common start, beyond the travel of the order: for a broker and a busy gateway.
const MARGIN: Duration = Duration::from_millis(20);
const UNKNOWN_JITTER: Duration = Duration::from_millis(15);
const SKEW_MARGIN: Duration = Duration::from_millis(10);
const SHORTEST_GAP: Duration = Duration::from_millis(50);
const LONGEST_GAP: Duration = Duration::from_millis(600);
const UNKNOWN_RTT: Duration = Duration::from_millis(80);
const UNKNOWN_TTL: u8 = 4;
/// A report travels through gateway and broker.
const LATE_REPORT: Duration = Duration::from_millis(500);
const MAX_CANDIDATES: usize = 8;
/// A question that stays unanswered is repeated from the next socket.
const MEASURED_SOCKETS: u16 = 6;
/// Of a pool: each may come from another address, and one that the other side opened for is enough.
const REVEALING_SOCKETS: u16 = 4;
/// From the measurement to the common start, usually.
const USUAL_AGE: Duration = Duration::from_millis(300);

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use domain::{Filtering, InstanceId};

    use super::*;
    use crate::predict::{BIRTHDAY_SOCKETS, CARRIER_SOCKETS};

    const ALL: Strategies = Strategies { predict: true, birthday: true, tcp: true };

    #[test]
    fn both_sides_start_together_whatever_their_round_trips_are() {
        let near = Measured { rtt: Some(Duration::from_millis(10)), ..easy("203.0.113.1:1000") };
        let far = Measured { rtt: Some(Duration::from_millis(200)), ..easy("198.51.100.1:2000") };
        let plan = attempt(1, &near, &far);
        let arrival = |order: &PunchOrder, rtt_ms: u64| order.wait_us + rtt_ms * 500;
        assert_eq!(arrival(&plan.orders[0], 10), arrival(&plan.orders[1], 200));
        assert_eq!(plan.orders[1].wait_us, 20_000);
        assert_eq!(plan.orders[0].candidates, vec![candidate("198.51.100.1:2000", false)]);
        assert_eq!(plan.orders[1].candidates, vec![candidate("203.0.113.1:1000", false)]);
    }

    #[test]
    fn the_gap_exceeds_the_skew_that_the_jitter_of_both_sides_makes() {
        let gap = |a: Option<u64>, b: Option<u64>| {
            let side = |jitter: Option<u64>, seen| Measured { jitter: jitter.map(Duration::from_millis), ..easy(seen) };
            attempt(1, &side(a, "203.0.113.1:1000"), &side(b, "198.51.100.1:2000")).orders[0].gap_us / 1_000
        };
        assert_eq!([gap(None, None), gap(Some(1), Some(2)), gap(Some(30), Some(40))], [70, 50, 150]);
        assert_eq!(gap(Some(9_000), None), 600);
    }

    #[test]
    fn every_one_of_three_attempts_differs() {
        let (a, b) = (easy("203.0.113.1:1000"), easy("198.51.100.1:2000"));
        let [first, second, third, fourth] = [1, 2, 3, 4].map(|number| attempt(number, &a, &b));
        assert_eq!([&first, &second, &third].map(|plan| plan.orders[0].opener_ttl), [3, 5, 0]);
        // On the second attempt B opens first, and the real packets still leave together.
        let real = |order: &PunchOrder| order.wait_us + order.gap_us;
        assert!(second.orders[0].wait_us > second.orders[1].wait_us);
        assert_eq!(real(&second.orders[0]), real(&second.orders[1]));
        assert_eq!(fourth.orders[0].opener_ttl, first.orders[0].opener_ttl);
    }

    #[test]
    fn an_opener_dies_on_its_way() {
        for (hops, ttl) in [(0, 4), (1, 2), (2, 2), (3, 3), (7, 3), (10, 5), (40, 8)] {
            assert_eq!(opener_ttl(Variation::First, hops, 0), ttl, "{hops}");
            assert_eq!(opener_ttl(Variation::First, hops, 30), if hops == 0 { 8 } else { ttl }, "{hops}");
        }
    }

    #[test]
    fn every_pair_of_classes_has_its_strategy() {
        use Outlook::{Doubtful, Hopeless, Promising};
        use Strategy::{Birthday, Direct, Predict, Reveal, Sweep};
        let sides = [open(), easy_profile(), sequential_profile(1), random_profile(), NatProfile::BLOCKED];
        let expected = [
            [Promising(Direct), Promising(Direct), Promising(Reveal), Promising(Reveal), Hopeless],
            [Promising(Direct), Promising(Direct), Promising(Predict), Promising(Birthday), Hopeless],
            [Promising(Reveal), Promising(Predict), Promising(Sweep), Doubtful, Hopeless],
            [Promising(Reveal), Promising(Birthday), Doubtful, Doubtful, Hopeless],
            [Hopeless; 5],
        ];
        for (a, row) in sides.iter().zip(expected) {
            for (b, expected) in sides.iter().zip(row) {
                assert_eq!(outlook(ALL, a, b), expected, "{a:?} {b:?}");
            }
        }
        let per_address = NatProfile { mapping: Some(Mapping::AddressDependent), ..sequential_profile(1) };
        assert_eq!(outlook(ALL, &per_address, &random_profile()), Promising(Birthday));
    }

    #[test]
    fn a_port_mapping_or_ipv6_makes_hard_pairs_direct() {
        let hard = random_profile();
        let mapped = NatProfile { port_mapping: true, ..hard };
        let dual = NatProfile { ipv6: true, ..hard };
        let direct = Outlook::Promising(Strategy::Direct);
        assert_eq!(
            [outlook(ALL, &mapped, &hard), outlook(ALL, &hard, &mapped), outlook(ALL, &dual, &dual)],
            [direct; 3]
        );
        assert_eq!(outlook(ALL, &dual, &hard), Outlook::Doubtful);
        assert_eq!(outlook(ALL, &mapped, &NatProfile::BLOCKED), Outlook::Hopeless);
        let dual_blocked = NatProfile { ipv6: true, ..NatProfile::BLOCKED };
        assert_eq!(outlook(ALL, &dual_blocked, &dual), direct);
    }

    #[test]
    fn connections_lead_to_the_observed_port_of_the_peer_and_nowhere_else() {
        let tcp = Some(Mapping::EndpointIndependent);
        let blocked = Measured { profile: NatProfile { tcp, ..NatProfile::BLOCKED }, ..easy("203.0.113.1:1000") };
        let profile = NatProfile { tcp, hops: 12, ..easy_profile() };
        let mapped = Some("198.51.100.1:9999".parse().unwrap());
        let local = vec!["192.168.1.7:2000".parse().unwrap()];
        let home = Measured { profile, mapped, local, ttl: 0, ..easy("198.51.100.1:2000") };
        for number in 1..=3 {
            let plan = attempt(number, &blocked, &home);
            assert_eq!(plan.strategy, Strategy::Tcp);
            assert_eq!(plan.orders[0].candidates, [candidate("198.51.100.1:2000", false)]);
            assert_eq!(plan.orders[1].candidates, [candidate("203.0.113.1:1000", false)]);
            assert!(preparation(ALL, Variation::of(number), &blocked.profile, &home.profile).1);
        }
        for inside in ["192.168.1.7:2000", "127.0.0.1:22", "169.254.1.1:80"] {
            let inside = Measured { seen: Some(inside.parse().unwrap()), ..home.clone() };
            assert_eq!(attempt(1, &blocked, &inside).orders[0].candidates, []);
        }
        let off = Strategies { tcp: false, ..ALL };
        assert_eq!(outlook(off, &blocked.profile, &home.profile), Outlook::Hopeless);
        let moving = NatProfile { tcp: Some(Mapping::AddressAndPortDependent), ..home.profile };
        assert_eq!(outlook(ALL, &blocked.profile, &moving), Outlook::Hopeless);
    }

    #[test]
    fn strategies_can_be_switched_off() {
        let (easy, sequential, random) = (easy_profile(), sequential_profile(1), random_profile());
        let no_prediction = Strategies { predict: false, ..ALL };
        assert_eq!(outlook(no_prediction, &easy, &sequential), Outlook::Doubtful);
        assert_eq!(outlook(no_prediction, &sequential, &sequential), Outlook::Doubtful);
        assert_eq!(outlook(Strategies { birthday: false, ..ALL }, &easy, &random), Outlook::Doubtful);
    }

    #[test]
    fn only_the_open_side_of_a_revealing_pair_opens() {
        let open = Measured { profile: open(), ..easy("203.0.113.1:1000") };
        let hard = Measured { profile: random_profile(), ..easy("198.51.100.1:2000") };
        for (a, b, opener) in [(&open, &hard, 0), (&hard, &open, 1)] {
            let plan = attempt(1, a, b);
            assert_eq!(plan.strategy, Strategy::Reveal);
            assert!(plan.orders[opener].opener_ttl > 0);
            assert_eq!(plan.orders[1 - opener].opener_ttl, 0);
        }
        assert_eq!(attempt(3, &open, &hard).strategy, Strategy::Direct);
    }

    #[test]
    fn a_prediction_covers_the_ports_that_come_next() {
        let busy = NatProfile { foreign_rate: 100, ..sequential_profile(2) };
        let rtt = Some(Duration::from_millis(40));
        let hard = Measured { profile: busy, rtt, age: Duration::from_millis(20), ..easy("198.51.100.1:2000") };
        let plan = attempt(1, &Measured { rtt, ..easy("203.0.113.1:1000") }, &hard);
        // 100 a second for 20 + 60 + 40 ms are 12 ports: 8 + 24 + 4 * sqrt(12).
        assert_eq!(plan.orders[0].spray, Some(Spray::Window { first: 2_002, step: 2, count: 46 }));
        assert_eq!(plan.orders[0].candidates, [candidate("198.51.100.1:2002", false)]);
        assert_eq!((plan.orders[0].sockets, plan.orders[1].sockets, plan.orders[1].spray), (0, 1, None));
        let again = attempt(2, &easy("203.0.113.1:1000"), &hard);
        let Some(Spray::Window { count, .. }) = again.orders[0].spray else { panic!("{again:?}") };
        assert!(count > 90);
    }

    #[test]
    fn both_sides_of_a_sweep_aim_at_a_port_that_the_other_burst_passes() {
        let side = |seen, step| Measured { profile: sequential_profile(step), ..easy(seen) };
        let plan = attempt(1, &side("203.0.113.1:1100", 1), &side("198.51.100.1:2000", -2));
        assert_eq!(plan.strategy, Strategy::Sweep);
        assert_eq!(plan.orders[0].candidates, [candidate("198.51.100.1:1982", false)]);
        assert_eq!(plan.orders[1].candidates, [candidate("203.0.113.1:1109", false)]);
        assert_eq!(plan.orders.map(|order| order.sockets), [12, 12]);
    }

    #[test]
    fn a_birthday_has_many_sockets_on_one_side_and_many_ports_on_the_other() {
        let random = Measured { profile: random_profile(), ..easy("198.51.100.1:2000") };
        let plan = attempt(1, &easy("203.0.113.1:1000"), &random);
        assert_eq!(plan.strategy, Strategy::Birthday);
        assert_eq!((plan.orders[0].sockets, plan.orders[1].sockets), (0, BIRTHDAY_SOCKETS));
        assert!(matches!(plan.orders[0].spray, Some(Spray::Scatter { count: 980, .. })));
        assert_eq!(plan.orders[1].candidates, [candidate("203.0.113.1:1000", false)]);
        let block = Some(Allocation::Block { first: 4_096, size: 512 });
        let carrier = Measured { profile: NatProfile { allocation: block, ..random_profile() }, ..random };
        let plan = attempt(1, &carrier, &easy("203.0.113.1:1000"));
        assert_eq!(plan.orders[0].sockets, CARRIER_SOCKETS);
        assert!(matches!(plan.orders[1].spray, Some(Spray::Scatter { low: 4_096, high: 4_607, count: 512, .. })));
    }

    #[test]
    fn a_side_prepares_the_sockets_that_its_order_will_use() {
        let profiles = [
            open(),
            easy_profile(),
            sequential_profile(1),
            NatProfile { foreign_rate: 300, ..sequential_profile(-1) },
            NatProfile { mapping: Some(Mapping::AddressDependent), ..sequential_profile(1) },
            random_profile(),
            NatProfile { pool: true, ..random_profile() },
        ];
        for a in profiles {
            for b in profiles {
                for number in 1..=3 {
                    let (sockets, _) = preparation(ALL, Variation::of(number), &a, &b);
                    let side = |profile, seen| Measured { profile, ..easy(seen) };
                    let plan = attempt(number, &side(a, "203.0.113.1:1000"), &side(b, "198.51.100.1:2000"));
                    for (order, prepared) in plan.orders.iter().zip(sockets) {
                        assert!(order.sockets <= prepared, "{a:?} {b:?} {number}: {order:?} {prepared}");
                    }
                }
            }
        }
    }

    #[test]
    fn ipv6_and_a_mapped_port_are_reached_from_the_main_socket() {
        let dual = |seen, six: &str| Measured { seen6: Some(six.parse().unwrap()), ..easy(seen) };
        let mapped = Some("198.51.100.1:9999".parse().unwrap());
        let b = Measured { mapped, profile: random_profile(), ..dual("198.51.100.1:2000", "[2001:db8::2]:2000") };
        let plan = attempt(1, &dual("203.0.113.1:1000", "[2001:db8::1]:1000"), &b);
        let main = |endpoint: &str| Candidate { main: true, ..candidate(endpoint, false) };
        let expected = [main("198.51.100.1:9999"), candidate("198.51.100.1:2000", false), main("[2001:db8::2]:2000")];
        assert_eq!(plan.orders[0].candidates, expected);
    }

    #[test]
    fn a_class_that_one_address_of_ours_vouches_for_is_doubted() {
        let unsure = NatProfile { unsure: true, ..easy_profile() };
        let b = Measured { profile: unsure, ..easy("198.51.100.1:2000") };
        let plan = attempt(1, &easy("203.0.113.1:1000"), &b);
        assert_eq!(plan.orders[0].spray, Some(Spray::Window { first: 2_001, step: 1, count: 8 }));
        assert_eq!(plan.orders[1].spray, None);
    }

    #[test]
    fn clients_behind_one_address_get_each_others_lan_addresses_and_no_others() {
        let lan = |port| {
            ["192.168.1.7", "127.0.0.1", "8.8.8.8", "169.254.3.4", "224.0.0.1", "10.1.1.1"]
                .map(|address| SocketAddr::new(address.parse().unwrap(), port))
                .to_vec()
        };
        let a = Measured { profile: random_profile(), local: lan(1000), ..easy("203.0.113.1:1000") };
        let b = Measured { profile: random_profile(), local: lan(2000), ..easy("203.0.113.1:2000") };
        let together = attempt(1, &a, &b);
        assert_eq!(together.strategy, Strategy::Direct);
        let expected = [
            candidate("203.0.113.1:2000", false),
            candidate("192.168.1.7:2000", true),
            candidate("10.1.1.1:2000", true),
        ];
        assert_eq!(together.orders[0].candidates, expected);

        let elsewhere = Measured { seen: Some("198.51.100.1:2000".parse().unwrap()), ..b };
        assert_eq!(attempt(1, &a, &elsewhere).orders[0].candidates, [candidate("198.51.100.1:2000", false)]);
    }

    #[test]
    fn a_client_seen_from_inside_the_servers_site_is_no_target_for_strangers() {
        let stranger = easy("203.0.113.1:1000");
        for inside in ["192.168.1.7:2000", "127.0.0.1:2000"] {
            assert_eq!(attempt(1, &stranger, &easy(inside)).orders[0].candidates, []);
        }
        let neighbours = attempt(1, &easy("192.168.1.8:1000"), &easy("192.168.1.7:2000"));
        assert_eq!(neighbours.orders[0].candidates, [candidate("192.168.1.7:2000", false)]);
        let host = attempt(1, &easy("127.0.0.1:1000"), &easy("127.0.0.1:2000"));
        assert_eq!(host.orders[0].candidates, [candidate("127.0.0.1:2000", false)]);
    }

    fn attempt(number: u8, a: &Measured, b: &Measured) -> Plan {
        let recipe = Recipe { attempt: number, variation: Variation::of(number), seed: 7, skip: 0 };
        let punch = PunchId { leader: InstanceId::from_bytes([1; 16]), number: 1 };
        plan(punch, recipe, ALL, a, b)
    }

    fn easy(seen: &str) -> Measured {
        Measured {
            profile: easy_profile(),
            seen: Some(seen.parse().unwrap()),
            ttl: 57,
            others: vec![],
            seen6: None,
            ttl6: 0,
            mapped: None,
            local: vec![],
            lan: None,
            rtt: None,
            jitter: None,
            age: Duration::ZERO,
        }
    }

    fn easy_profile() -> NatProfile {
        NatProfile { udp: true, mapping: Some(Mapping::EndpointIndependent), ..NatProfile::BLOCKED }
    }

    fn open() -> NatProfile {
        NatProfile { filtering: Some(Filtering::EndpointIndependent), ..easy_profile() }
    }

    fn random_profile() -> NatProfile {
        NatProfile {
            mapping: Some(Mapping::AddressAndPortDependent),
            allocation: Some(Allocation::Random),
            ..easy_profile()
        }
    }

    fn sequential_profile(step: i16) -> NatProfile {
        NatProfile { allocation: Some(Allocation::Sequential { step }), ..random_profile() }
    }

    fn candidate(endpoint: &str, local: bool) -> Candidate {
        Candidate { endpoint: endpoint.parse().unwrap(), local, main: local }
    }
}
