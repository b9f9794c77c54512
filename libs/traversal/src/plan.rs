//! The decision table and its formulas: for two measured sides, who sends what when.
//!
//! | A \ B | easy, open | easy | hard | blocked |
//! |---|---|---|---|---|
//! | easy, open | DIRECT | DIRECT | REVEAL | relay |
//! | easy | | DIRECT | one plain round, then relay | relay |
//! | hard | | | one plain round, then relay | relay |
//!
//! Two sides behind one public address try their addresses on the LAN and the hairpin, whatever their classes are. The
//! plain round exists because a class can be wrong, and because a wrong guess costs 14 packets.
//!
//! A retry changes something, or it is not sent: the second attempt doubles the gap, opens one side first and lets the
//! openers live two hops longer; the third sends no openers and ignores the classes. Later ones start over with fresh
//! measurements.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use domain::{Candidate, NatClass, PunchId, PunchOrder, Scope, Strategy, hops, pairs_well, scope};

use crate::punch::{LAST_ANSWER, ROUNDS};

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

/// One side, measured right before the punch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    pub class: NatClass,
    /// Where a reflector saw the punching socket.
    pub seen: SocketAddr,
    /// Hop limit the reflector received; 0 when unknown.
    pub ttl: u8,
    /// Addresses of its interfaces, as the client claims.
    pub local: Vec<SocketAddr>,
    /// Round trip of the control connection; `None` when unknown.
    pub rtt: Option<Duration>,
}

/// Orders for both sides, in the order of the sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub strategy: Strategy,
    pub orders: [PunchOrder; 2],
    /// From now until both reports should be there.
    pub patience: Duration,
}

/// What classes alone tell.
#[must_use]
pub const fn outlook(a: NatClass, b: NatClass) -> Outlook {
    use NatClass::{Blocked, Easy, EasyOpen, Random, Sequential};
    match (a, b) {
        (Blocked, _) | (_, Blocked) => Outlook::Hopeless,
        (EasyOpen | Easy, EasyOpen | Easy) => Outlook::Promising(Strategy::Direct),
        (EasyOpen, Sequential | Random) | (Sequential | Random, EasyOpen) => Outlook::Promising(Strategy::Reveal),
        (Easy, Sequential | Random) | (Sequential | Random, Easy | Sequential | Random) => Outlook::Doubtful,
    }
}

/// What classes and measurements tell.
#[must_use]
pub fn measured_outlook(a: &Measured, b: &Measured) -> Outlook {
    if a.seen.ip() == b.seen.ip() { Outlook::Promising(Strategy::Direct) } else { outlook(a.class, b.class) }
}

/// How long a pair rests on the relay after `attempts` that failed.
#[must_use]
pub const fn rest(outlook: Outlook, attempts: u8) -> Option<Duration> {
    match (outlook, attempts) {
        (Outlook::Hopeless, _) => None,
        (Outlook::Doubtful, _) | (Outlook::Promising(_), 6..) => Some(Duration::from_secs(3_600)),
        (Outlook::Promising(_), 0 | 1) => Some(Duration::from_secs(1)),
        (Outlook::Promising(_), 2) => Some(Duration::from_secs(3)),
        (Outlook::Promising(_), 3) => Some(Duration::from_secs(30)),
        (Outlook::Promising(_), 4) => Some(Duration::from_secs(120)),
        (Outlook::Promising(_), 5) => Some(Duration::from_secs(600)),
    }
}

/// The plan of attempt `attempt`, counted from 1.
#[must_use]
pub fn plan(punch: PunchId, attempt: u8, a: &Measured, b: &Measured) -> Plan {
    let variation = Variation::of(attempt);
    let strategy = match (variation, measured_outlook(a, b)) {
        (Variation::First | Variation::Second, Outlook::Promising(strategy)) => strategy,
        (Variation::Third, _) | (_, Outlook::Doubtful | Outlook::Hopeless) => Strategy::Direct,
    };
    let rtts = [a, b].map(|side| side.rtt.unwrap_or(UNKNOWN_RTT));
    let start = rtts[0].max(rtts[1]) / 2 + MARGIN;
    let gap = if variation == Variation::Second { 2 * GAP } else { GAP };
    // On the second attempt B opens first and A one gap later; both go on together.
    let lead = if variation == Variation::Second { gap } else { Duration::ZERO };
    let ttl = variation.opener_ttl(hops(a.ttl), hops(b.ttl));
    let order = |own: &Measured, peer: &Measured, rtt: Duration, delay: Duration| PunchOrder {
        punch,
        strategy,
        wait_us: micros((start + delay).saturating_sub(rtt / 2)),
        gap_us: micros(gap + lead - delay),
        opener_ttl: if opens(strategy, own, peer) { ttl } else { 0 },
        candidates: candidates(own, peer),
        attempt,
        spray: None,
        sockets: 0,
    };
    let orders = [order(a, b, rtts[0], lead), order(b, a, rtts[1], Duration::ZERO)];
    let patience = start + lead + gap + ROUNDS[ROUNDS.len() - 1] + LAST_ANSWER + rtts[0].max(rtts[1]) + LATE_REPORT;
    Plan { strategy, orders, patience }
}

/// What differs between attempts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Variation {
    First,
    Second,
    Third,
}

impl Variation {
    const fn of(attempt: u8) -> Self {
        match attempt % 3 {
            1 => Self::First,
            2 => Self::Second,
            _ => Self::Third,
        }
    }

    /// Half of the shorter way to a reflector, between 3 and 8: it must pass every NAT of its own side, a carrier's too,
    /// and die before the peer's. Never more than the shorter way itself, or it would arrive.
    fn opener_ttl(self, hops_a: u8, hops_b: u8) -> u8 {
        let known = [hops_a, hops_b].into_iter().filter(|&hops| hops > 0).min();
        let first = known.map_or(UNKNOWN_TTL, |hops| (hops / 2).clamp(3, 8).min(hops.max(2)));
        match self {
            Self::First => first,
            Self::Second => first + 2,
            Self::Third => 0,
        }
    }
}

/// Only the side whose filter is to be opened sends openers when the other one is to reveal itself.
fn opens(strategy: Strategy, own: &Measured, peer: &Measured) -> bool {
    match strategy {
        Strategy::Direct => true,
        Strategy::Reveal => own.class < peer.class,
        Strategy::Predict | Strategy::Sweep | Strategy::Birthday => true,
        Strategy::Tcp | Strategy::Relay => false,
    }
}

/// Where `own` is told to send: what a reflector saw of the peer, and LAN addresses when both share a public one.
fn candidates(own: &Measured, peer: &Measured) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    if may_meet(own.seen.ip(), peer.seen.ip()) {
        candidates.push(Candidate { endpoint: peer.seen, local: false, main: false });
    }
    for &endpoint in &peer.local {
        let known = candidates.iter().any(|candidate| candidate.endpoint == endpoint);
        let welcome = endpoint.is_ipv4() == peer.seen.is_ipv4()
            && scope(endpoint.ip()) == Scope::Private
            && pairs_well(own.seen.ip(), peer.seen.ip(), endpoint);
        if welcome && !known && candidates.len() < MAX_CANDIDATES {
            candidates.push(Candidate { endpoint, local: true, main: true });
        }
    }
    candidates
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
/// `2 * (jitter A + jitter B) + 10 ms` with 15 ms of jitter on each side: clients report no jitter yet.
const GAP: Duration = Duration::from_millis(70);
const UNKNOWN_RTT: Duration = Duration::from_millis(80);
const UNKNOWN_TTL: u8 = 4;
/// A report travels through gateway and broker.
const LATE_REPORT: Duration = Duration::from_millis(500);
const MAX_CANDIDATES: usize = 6;

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use domain::InstanceId;

    use super::*;

    #[test]
    fn both_sides_start_together_whatever_their_round_trips_are() {
        let near = Measured { rtt: Some(Duration::from_millis(10)), ..easy("203.0.113.1:1000") };
        let far = Measured { rtt: Some(Duration::from_millis(200)), ..easy("198.51.100.1:2000") };
        let plan = plan(id(), 1, &near, &far);
        let arrival = |order: &PunchOrder, rtt_ms: u64| order.wait_us + rtt_ms * 500;
        assert_eq!(arrival(&plan.orders[0], 10), arrival(&plan.orders[1], 200));
        assert_eq!(plan.orders[1].wait_us, 20_000);
        assert_eq!(plan.orders[0].candidates, vec![candidate("198.51.100.1:2000", false)]);
        assert_eq!(plan.orders[1].candidates, vec![candidate("203.0.113.1:1000", false)]);
    }

    #[test]
    fn every_one_of_three_attempts_differs() {
        let (a, b) = (easy("203.0.113.1:1000"), easy("198.51.100.1:2000"));
        let [first, second, third, fourth] = [1, 2, 3, 4].map(|attempt| plan(id(), attempt, &a, &b));
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
            assert_eq!(Variation::First.opener_ttl(hops, 0), ttl, "{hops}");
            assert_eq!(Variation::First.opener_ttl(hops, 30), if hops == 0 { 8 } else { ttl }, "{hops}");
        }
    }

    #[test]
    fn only_the_open_side_of_a_revealing_pair_opens() {
        let open = Measured { class: NatClass::EasyOpen, ..easy("203.0.113.1:1000") };
        let hard = Measured { class: NatClass::Random, ..easy("198.51.100.1:2000") };
        for (a, b, opener) in [(&open, &hard, 0), (&hard, &open, 1)] {
            let plan = plan(id(), 1, a, b);
            assert_eq!(plan.strategy, Strategy::Reveal);
            assert!(plan.orders[opener].opener_ttl > 0);
            assert_eq!(plan.orders[1 - opener].opener_ttl, 0);
        }
        assert_eq!(plan(id(), 3, &open, &hard).strategy, Strategy::Direct);
    }

    #[test]
    fn clients_behind_one_address_get_each_others_lan_addresses_and_no_others() {
        let lan = |port| {
            ["192.168.1.7", "127.0.0.1", "8.8.8.8", "169.254.3.4", "224.0.0.1", "10.1.1.1"]
                .map(|address| SocketAddr::new(address.parse().unwrap(), port))
                .to_vec()
        };
        let a = Measured { class: NatClass::Random, local: lan(1000), ..easy("203.0.113.1:1000") };
        let b = Measured { class: NatClass::Random, local: lan(2000), ..easy("203.0.113.1:2000") };
        let together = plan(id(), 1, &a, &b);
        assert_eq!(together.strategy, Strategy::Direct);
        let expected = [
            candidate("203.0.113.1:2000", false),
            candidate("192.168.1.7:2000", true),
            candidate("10.1.1.1:2000", true),
        ];
        assert_eq!(together.orders[0].candidates, expected);

        let elsewhere = Measured { seen: "198.51.100.1:2000".parse().unwrap(), ..b };
        assert_eq!(plan(id(), 1, &a, &elsewhere).orders[0].candidates, [candidate("198.51.100.1:2000", false)]);
    }

    #[test]
    fn a_client_seen_from_inside_the_servers_site_is_no_target_for_strangers() {
        let stranger = easy("203.0.113.1:1000");
        for inside in ["192.168.1.7:2000", "127.0.0.1:2000"] {
            assert_eq!(plan(id(), 1, &stranger, &easy(inside)).orders[0].candidates, []);
        }
        let neighbours = plan(id(), 1, &easy("192.168.1.8:1000"), &easy("192.168.1.7:2000"));
        assert_eq!(neighbours.orders[0].candidates, [candidate("192.168.1.7:2000", false)]);
        let host = plan(id(), 1, &easy("127.0.0.1:1000"), &easy("127.0.0.1:2000"));
        assert_eq!(host.orders[0].candidates, [candidate("127.0.0.1:2000", false)]);
    }

    #[test]
    fn retries_become_rare() {
        let promising = Outlook::Promising(Strategy::Direct);
        let rests: Vec<u64> =
            (1..=8).filter_map(|attempts| rest(promising, attempts)).map(|rest| rest.as_secs()).collect();
        assert_eq!(rests, [1, 3, 30, 120, 600, 3_600, 3_600, 3_600]);
        assert_eq!(rest(Outlook::Doubtful, 1), Some(Duration::from_secs(3_600)));
        assert_eq!(rest(Outlook::Hopeless, 1), None);
    }

    fn easy(seen: &str) -> Measured {
        Measured { class: NatClass::Easy, seen: seen.parse().unwrap(), ttl: 57, local: vec![], rtt: None }
    }

    fn candidate(endpoint: &str, local: bool) -> Candidate {
        Candidate { endpoint: endpoint.parse().unwrap(), local, main: local }
    }

    fn id() -> PunchId {
        PunchId { leader: InstanceId::from_bytes([1; 16]), number: 1 }
    }
}
