//! One box between a network and the one outside of it: NAT, stateful firewall, or both in a row of boxes.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use domain::{Filtering, Mapping};
use rand::{Rng as _, rngs::StdRng};

/// How a NAT chooses external ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// The inner port when it is free.
    Preserving,
    /// One after the other, `step` apart.
    Sequential {
        step: i16,
    },
    Random,
    /// Random, but as even or odd as the inner port.
    RandomParity,
    /// Random within a block of `size` ports that belongs to one inner address alone.
    Block {
        size: u16,
    },
}

/// Which of its public addresses a NAT uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    Single,
    /// So many, and each inner address stays at one (RFC 4787, section 4.1).
    Paired(u8),
    /// So many, drawn for each mapping.
    Random(u8),
}

/// The behaviour of one box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoxKind {
    pub mapping: Mapping,
    pub filtering: Filtering,
    pub ports: Ports,
    pub pool: Pool,
    /// Flows a second that hosts which take no part in the trial open through it.
    pub foreign_rate: u16,
    /// Flows that it keeps at once.
    pub sessions: usize,
    /// Sends packets to its own public address back inside.
    pub hairpin: bool,
    /// A Linux router whose INPUT chain accepts: an early packet from outside takes the port that it came for.
    pub input_accepts: bool,
    /// Keeps the addresses: a firewall, no NAT.
    pub transparent: bool,
    /// Lets no UDP out.
    pub blocks_udp: bool,
    /// Lets no TCP out but to the web: reflectors and peers are out of reach.
    pub blocks_tcp: bool,
}

impl BoxKind {
    /// The usual home router; the other kinds differ from it.
    pub const HOME: Self = Self {
        mapping: Mapping::EndpointIndependent,
        filtering: Filtering::AddressAndPortDependent,
        ports: Ports::Preserving,
        pool: Pool::Single,
        foreign_rate: 0,
        sessions: 4_096,
        hairpin: false,
        input_accepts: false,
        transparent: false,
        blocks_udp: false,
        blocks_tcp: false,
    };

    /// How it treats connections: like datagrams, but for what it blocks. Ports are counted apart (RFC 5382, section 4.1).
    pub(super) const fn of_tcp(self) -> Self {
        Self { blocks_udp: self.blocks_tcp, ..self }
    }

    /// How many public addresses it has.
    pub(super) const fn addresses(&self) -> u8 {
        match self.pool {
            Pool::Single => 1,
            Pool::Paired(count) | Pool::Random(count) => count,
        }
    }
}

/// What a mapping is for; the destination as far as the mapping depends on it.
type Key = (SocketAddr, Option<IpAddr>, Option<u16>);

/// A box with its state.
#[derive(Debug)]
pub(super) struct NatBox {
    kind: BoxKind,
    addresses: Vec<IpAddr>,
    rng: StdRng,
    mappings: BTreeMap<Key, SocketAddr>,
    external: BTreeMap<SocketAddr, External>,
    /// By external and remote endpoint.
    flows: BTreeMap<(SocketAddr, SocketAddr), Flow>,
    /// Flows of the router itself, begun by early packets from outside, with their ends.
    taken: BTreeMap<(SocketAddr, SocketAddr), Instant>,
    next_port: u16,
    foreign_until: Instant,
    blocks: BTreeMap<IpAddr, u16>,
    /// Port mappings: external and inner endpoint.
    fixed: Vec<[SocketAddr; 2]>,
}

#[derive(Debug)]
struct External {
    inner: SocketAddr,
    key: Key,
    ends: Instant,
    /// Made by an administrator or on request: stays, and lets everybody in.
    fixed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Flow {
    inner: SocketAddr,
    ends: Instant,
}

impl NatBox {
    pub(super) fn new(now: Instant, kind: BoxKind, addresses: Vec<IpAddr>, mut rng: StdRng) -> Self {
        let next_port = rng.random_range(LOWEST..=u16::MAX);
        Self {
            kind,
            addresses,
            rng,
            mappings: BTreeMap::new(),
            external: BTreeMap::new(),
            flows: BTreeMap::new(),
            taken: BTreeMap::new(),
            next_port,
            foreign_until: now,
            blocks: BTreeMap::new(),
            fixed: Vec::new(),
        }
    }

    pub(super) const fn kind(&self) -> &BoxKind {
        &self.kind
    }

    /// Whether `address` is one of its own on the outside.
    pub(super) fn owns(&self, address: IpAddr) -> bool {
        !self.kind.transparent && self.addresses.contains(&address)
    }

    /// The source that a packet from `inner` to `to` leaves with; `None` when it does not leave.
    pub(super) fn outbound(&mut self, now: Instant, inner: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        if self.kind.blocks_udp {
            return None;
        }
        let external = self.source(now, inner, to)?;
        let ends = match self.flows.get(&(external, to)) {
            // What was answered once keeps its longer life.
            Some(flow) if flow.ends > now => (now + ONE_WAY).max(flow.ends),
            _ => {
                self.make_room(now)?;
                now + ONE_WAY
            }
        };
        self.flows.insert((external, to), Flow { inner, ends });
        self.prolong(external, ends);
        Some(external)
    }

    /// Where a packet from `from` to the `external` endpoint goes; `None` when the filter drops it.
    pub(super) fn inbound(&mut self, now: Instant, external: SocketAddr, from: SocketAddr) -> Option<SocketAddr> {
        if self.kind.blocks_udp {
            return None;
        }
        let flow = self.flows.get(&(external, from)).copied().filter(|flow| flow.ends > now);
        let mapping = self.external.get(&external).filter(|mapping| mapping.fixed || mapping.ends > now);
        let passes = mapping.is_some_and(|mapping| mapping.fixed || self.admits(now, external, from));
        let inner = flow.map(|flow| flow.inner).or_else(|| mapping.filter(|_| passes).map(|mapping| mapping.inner));
        let Some(inner) = inner else {
            if self.kind.input_accepts {
                self.taken.insert((external, from), now + ONE_WAY);
            }
            return None;
        };
        let ends = now + if flow.is_some() { TWO_WAY } else { ONE_WAY };
        // The way back of a flow that began outside leaves from where it came in.
        self.flows.insert((external, from), Flow { inner, ends });
        self.prolong(external, ends);
        Some(inner)
    }

    /// Lets everybody reach `inner` at an external port, for as long as the trial lasts.
    pub(super) fn map_port(&mut self, now: Instant, inner: SocketAddr) -> Option<SocketAddr> {
        if self.kind.transparent || self.kind.blocks_udp {
            return None;
        }
        let address = self.address_for(inner.ip());
        let key = (inner, None, None);
        let free = |port: &u16| !self.external.contains_key(&SocketAddr::new(address, *port));
        let port = (inner.port()..=u16::MAX).find(free)?;
        let external = SocketAddr::new(address, port);
        self.external.insert(external, External { inner, key, ends: now, fixed: true });
        self.fixed.push([external, inner]);
        if self.kind.mapping == Mapping::EndpointIndependent {
            self.mappings.insert(key, external);
        }
        Some(external)
    }

    fn source(&mut self, now: Instant, inner: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        if self.kind.transparent {
            let key = (inner, None, None);
            self.external.entry(inner).or_insert(External { inner, key, ends: now, fixed: false });
            return Some(inner);
        }
        let own = (inner, Some(to.ip()), Some(to.port()));
        let key = match self.kind.mapping {
            Mapping::EndpointIndependent => (inner, None, None),
            Mapping::AddressDependent => (inner, Some(to.ip()), None),
            Mapping::AddressAndPortDependent => own,
        };
        if let Some(fixed) = self.came_in(now, inner, to) {
            return Some(fixed);
        }
        let external = match self.living(now, key) {
            Some(external) => external,
            None => self.allocate(now, key, self.kind.ports)?,
        };
        if self.taken.get(&(external, to)).is_none_or(|&ends| ends <= now) {
            return Some(external);
        }
        // The router's own flow has this port towards that peer: the new flow gets another.
        match self.living(now, own).filter(|&moved| moved != external) {
            Some(moved) => Some(moved),
            None => self.allocate(now, own, Ports::Random),
        }
    }

    /// The external endpoint of a port mapping through which `to` reached `inner` before.
    fn came_in(&self, now: Instant, inner: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        let mut mapped = self.fixed.iter().filter(|[_, host]| *host == inner).map(|[external, _]| *external);
        mapped.find(|&external| self.flows.get(&(external, to)).is_some_and(|flow| flow.ends > now))
    }

    fn living(&self, now: Instant, key: Key) -> Option<SocketAddr> {
        let external = self.mappings.get(&key)?;
        let mapping = self.external.get(external)?;
        (mapping.key == key && (mapping.fixed || mapping.ends > now)).then_some(*external)
    }

    fn admits(&self, now: Instant, external: SocketAddr, from: SocketAddr) -> bool {
        match self.kind.filtering {
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => {
                let ports = [0, u16::MAX].map(|port| (external, SocketAddr::new(from.ip(), port)));
                self.flows.range(ports[0]..=ports[1]).any(|(_, flow)| flow.ends > now)
            }
            // Exactly that flow would have been found.
            Filtering::AddressAndPortDependent => false,
        }
    }

    fn prolong(&mut self, external: SocketAddr, ends: Instant) {
        if let Some(mapping) = self.external.get_mut(&external) {
            mapping.ends = mapping.ends.max(ends);
        }
    }

    /// `None` when the table is full of living flows.
    fn make_room(&mut self, now: Instant) -> Option<()> {
        if self.flows.len() >= self.kind.sessions {
            self.flows.retain(|_, flow| flow.ends > now);
        }
        (self.flows.len() < self.kind.sessions).then_some(())
    }

    fn allocate(&mut self, now: Instant, key: Key, ports: Ports) -> Option<SocketAddr> {
        let inner = key.0;
        let address = self.address_for(inner.ip());
        self.let_foreigners_in(now);
        let external = match ports {
            Ports::Preserving => {
                let upwards = (inner.port().max(LOWEST)..=u16::MAX).chain(LOWEST..inner.port());
                upwards.map(|port| SocketAddr::new(address, port)).find(|&at| self.is_free(now, at))
            }
            Ports::Sequential { step } => (0..TRIES).find_map(|_| {
                let at = SocketAddr::new(address, self.next_port);
                self.next_port = after(self.next_port, i64::from(step));
                let foreign = self.rng.random_bool(f64::from(self.kind.foreign_rate) * STRAY_PORTS_PER_RATE);
                (!foreign && self.is_free(now, at)).then_some(at)
            }),
            Ports::Random => self.draw(now, address, LOWEST, u16::MAX, 1),
            Ports::RandomParity => self.draw(now, address, LOWEST + inner.port() % 2, u16::MAX, 2),
            Ports::Block { size } => {
                let blocks = (u16::MAX - LOWEST) / size;
                let block = self.rng.random_range(0..blocks);
                let first = *self.blocks.entry(inner.ip()).or_insert(LOWEST + block * size);
                self.draw(now, address, first, first + (size - 1), 1)
            }
        }?;
        self.external.insert(external, External { inner, key, ends: now, fixed: false });
        self.mappings.insert(key, external);
        Some(external)
    }

    /// A free port of `low`, `low + step` ... `high`, as good as random.
    fn draw(&mut self, now: Instant, address: IpAddr, low: u16, high: u16, step: u16) -> Option<SocketAddr> {
        let count = (high - low) / step + 1;
        (0..TRIES).find_map(|_| {
            let at = SocketAddr::new(address, low + step * self.rng.random_range(0..count));
            self.is_free(now, at).then_some(at)
        })
    }

    fn is_free(&self, now: Instant, at: SocketAddr) -> bool {
        self.external.get(&at).is_none_or(|mapping| !mapping.fixed && mapping.ends <= now)
    }

    fn address_for(&mut self, inner: IpAddr) -> IpAddr {
        let count = self.addresses.len();
        let last = match inner {
            IpAddr::V4(v4) => v4.octets()[3],
            IpAddr::V6(v6) => v6.octets()[15],
        };
        let chosen = match self.kind.pool {
            Pool::Single => 0,
            Pool::Paired(_) => usize::from(last) % count,
            Pool::Random(_) => self.rng.random_range(0..count),
        };
        self.addresses[chosen]
    }

    /// Moves the next port by what others opened since the last time (a Poisson process).
    fn let_foreigners_in(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.foreign_until).as_secs_f64();
        self.foreign_until = self.foreign_until.max(now);
        let Ports::Sequential { step } = self.kind.ports else { return };
        let opened = poisson(&mut self.rng, f64::from(self.kind.foreign_rate) * since);
        self.next_port = after(self.next_port, i64::from(step) * opened);
    }
}

/// A flow that was not answered, and one that was (the defaults of Linux).
const ONE_WAY: Duration = Duration::from_secs(30);
const TWO_WAY: Duration = Duration::from_secs(120);
const LOWEST: u16 = 1_024;
/// A full block is noticed after so many draws.
const TRIES: u16 = 2_048;
/// One in twenty foreign flows takes a random port and keeps it for a minute: the share of all ports that is in the way
/// of a sequential NAT, for each foreign flow a second.
const STRAY_PORTS_PER_RATE: f64 = 0.05 * 60.0 / 64_512.0;

/// The port `steps` further, wrapping within what NATs use.
fn after(port: u16, steps: i64) -> u16 {
    let range = i64::from(u16::MAX - LOWEST) + 1;
    let at = (i64::from(port) - i64::from(LOWEST) + steps).rem_euclid(range);
    LOWEST + u16::try_from(at).unwrap_or(0)
}

/// How many events happen where `mean` are expected.
fn poisson(rng: &mut StdRng, mean: f64) -> i64 {
    if mean > 100.0 {
        // Close to a normal distribution, here by the sum of twelve uniform ones.
        let normal = (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0;
        return (mean + mean.sqrt() * normal).round() as i64;
    }
    let mut product: f64 = rng.random();
    let least = (-mean).exp();
    let mut events = 0;
    while product > least {
        product *= rng.random::<f64>();
        events += 1;
    }
    events
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;
    use crate::sim::origin;

    #[test]
    fn a_home_router_shows_one_port_to_everybody_and_admits_only_those_it_sent_to() {
        let mut lab = Lab::new(BoxKind::HOME);
        assert_eq!(lab.outbound(HOST, FIRST), Some("203.0.113.1:7000"));
        assert_eq!(lab.outbound(HOST, SECOND), Some("203.0.113.1:7000"));
        assert_eq!(lab.inbound("203.0.113.1:7000", FIRST), Some(HOST));
        assert_eq!(lab.inbound("203.0.113.1:7000", "198.51.100.1:3479"), None);
        assert_eq!(lab.inbound("203.0.113.1:7001", FIRST), None);
        assert_eq!(lab.outbound("192.168.1.3:7000", FIRST), Some("203.0.113.1:7001"));
    }

    #[test]
    fn filters_admit_what_their_names_say() {
        for (filtering, other_port, stranger) in [
            (Filtering::EndpointIndependent, true, true),
            (Filtering::AddressDependent, true, false),
            (Filtering::AddressAndPortDependent, false, false),
        ] {
            let mut lab = Lab::new(BoxKind { filtering, ..BoxKind::HOME });
            lab.outbound(HOST, FIRST);
            let admitted = |lab: &mut Lab, from| lab.inbound("203.0.113.1:7000", from).is_some();
            assert_eq!(admitted(&mut lab, "198.51.100.1:3479"), other_port, "{filtering:?}");
            assert_eq!(admitted(&mut lab, SECOND), stranger, "{filtering:?}");
        }
    }

    #[test]
    fn sequential_ports_are_a_step_apart() {
        for step in [1, 2, -1] {
            let mut lab = Lab::new(symmetric(Ports::Sequential { step }));
            let first = lab.port(HOST, FIRST);
            assert_eq!(lab.port(HOST, SECOND), after(first, i64::from(step)));
            assert_eq!(lab.port(HOST, FIRST), first);
            assert_eq!(lab.port("192.168.1.3:7000", FIRST), after(first, 2 * i64::from(step)));
        }
        assert_eq!(after(u16::MAX, 1), LOWEST);
        assert_eq!(after(LOWEST, -1), u16::MAX);
    }

    #[test]
    fn others_move_the_next_port_at_their_rate() {
        for rate in [50, 300] {
            let kind = BoxKind { foreign_rate: rate, ..symmetric(Ports::Sequential { step: 1 }) };
            let mut lab = Lab::new(kind);
            let first = lab.port(HOST, FIRST);
            lab.now += Duration::from_secs(10);
            let moved = lab.port(HOST, SECOND).wrapping_sub(first);
            let expected = f64::from(rate) * 10.0;
            // Five deviations, or once around.
            let far = (f64::from(moved) - expected).abs();
            assert!(far < 5.0 * expected.sqrt() + expected * 0.02 || moved > 32_768, "{rate}: {moved}");
        }
    }

    #[test]
    fn a_port_keeps_the_parity_of_the_inner_one_or_lies_in_its_hosts_block() {
        let mut parity = Lab::new(symmetric(Ports::RandomParity));
        let mut block = Lab::new(symmetric(Ports::Block { size: 512 }));
        let first = (block.port(HOST, FIRST) - LOWEST) / 512;
        for port in 8_000..8_100 {
            let inner = format!("192.168.1.2:{port}");
            assert_eq!(parity.port(&inner, FIRST) % 2, port % 2);
            assert_eq!((block.port(&inner, FIRST) - LOWEST) / 512, first);
        }
    }

    #[test]
    fn a_host_that_used_up_its_block_opens_nothing_more() {
        let mut lab = Lab::new(symmetric(Ports::Block { size: 64 }));
        let opened = (0..100).filter(|port| lab.outbound(&format!("192.168.1.2:{}", 8_000 + port), FIRST).is_some());
        assert_eq!(opened.count(), 64);
        lab.now += ONE_WAY;
        assert!(lab.outbound(HOST, FIRST).is_some());
    }

    #[test]
    fn an_unanswered_flow_lives_for_30_seconds_and_an_answered_one_for_120() {
        for (answered, life) in [(false, ONE_WAY), (true, TWO_WAY)] {
            let mut lab = Lab::new(symmetric(Ports::Random));
            let port = lab.port(HOST, FIRST);
            let external = format!("203.0.113.1:{port}");
            if answered {
                lab.inbound(&external, FIRST);
            }
            lab.now += life - Duration::from_millis(1);
            let mut still = lab;
            assert_eq!(still.port(HOST, FIRST), port);
            let mut lab = Lab::new(symmetric(Ports::Random));
            let port = lab.port(HOST, FIRST);
            let external = format!("203.0.113.1:{port}");
            if answered {
                lab.inbound(&external, FIRST);
            }
            lab.now += life;
            assert_eq!(lab.inbound(&external, FIRST), None);
            assert_ne!(lab.port(HOST, FIRST), port);
        }
    }

    #[test]
    fn a_full_table_drops_new_flows_only() {
        let mut lab = Lab::new(BoxKind { sessions: 2, ..BoxKind::HOME });
        assert!(lab.outbound(HOST, FIRST).is_some());
        assert!(lab.outbound(HOST, SECOND).is_some());
        assert!(lab.outbound(HOST, "198.51.100.3:1").is_none());
        assert!(lab.outbound(HOST, FIRST).is_some());
    }

    #[test]
    fn an_early_packet_moves_the_port_of_a_router_that_accepts_input() {
        let mut lab = Lab::new(BoxKind { input_accepts: true, ..BoxKind::HOME });
        lab.outbound(HOST, FIRST);
        assert_eq!(lab.inbound("203.0.113.1:7000", SECOND), None);
        let moved = lab.outbound(HOST, SECOND);
        assert_ne!(moved, Some("203.0.113.1:7000"));
        assert_eq!(lab.outbound(HOST, SECOND), moved);
        assert_eq!(lab.outbound(HOST, FIRST), Some("203.0.113.1:7000"));
    }

    #[test]
    fn a_mapped_port_lets_strangers_in_and_their_answers_out() {
        let mut lab = Lab::new(symmetric(Ports::Random));
        let mapped = lab.nat.map_port(lab.now, HOST.parse().unwrap()).unwrap().to_string();
        assert_eq!(mapped, "203.0.113.1:7000");
        assert_eq!(lab.inbound(&mapped, SECOND), Some(HOST));
        assert_eq!(lab.outbound(HOST, SECOND), Some("203.0.113.1:7000"));
        assert_ne!(lab.outbound(HOST, FIRST), Some("203.0.113.1:7000"));
    }

    #[test]
    fn a_pool_is_seen_unless_hosts_stay_at_one_address() {
        for (pool, most) in [(Pool::Random(2), 2), (Pool::Paired(2), 1)] {
            let mut lab = Lab::new(BoxKind { pool, ..symmetric(Ports::Random) });
            let mut addresses: Vec<IpAddr> = (0..40_u16)
                .map(|port| {
                    let to = SocketAddr::new([198, 51, 100, 1].into(), 4_000 + port);
                    lab.nat.outbound(lab.now, HOST.parse().unwrap(), to).unwrap().ip()
                })
                .collect();
            addresses.sort_unstable();
            addresses.dedup();
            assert_eq!(addresses.len(), most, "{pool:?}");
        }
    }

    const HOST: &str = "192.168.1.2:7000";
    const FIRST: &str = "198.51.100.1:3478";
    const SECOND: &str = "198.51.100.2:3478";

    struct Lab {
        now: Instant,
        nat: NatBox,
    }

    impl Lab {
        fn new(kind: BoxKind) -> Self {
            let now = origin();
            let addresses = (1..=kind.addresses()).map(|last| IpAddr::from([203, 0, 113, last])).collect();
            Self { now, nat: NatBox::new(now, kind, addresses, StdRng::seed_from_u64(1)) }
        }

        fn outbound(&mut self, inner: &str, to: &str) -> Option<&'static str> {
            let external = self.nat.outbound(self.now, inner.parse().unwrap(), to.parse().unwrap())?;
            Some(external.to_string().leak())
        }

        fn inbound(&mut self, external: &str, from: &str) -> Option<&'static str> {
            let inner = self.nat.inbound(self.now, external.parse().unwrap(), from.parse().unwrap())?;
            Some(inner.to_string().leak())
        }

        fn port(&mut self, inner: &str, to: &str) -> u16 {
            self.nat.outbound(self.now, inner.parse().unwrap(), to.parse().unwrap()).unwrap().port()
        }
    }

    fn symmetric(ports: Ports) -> BoxKind {
        BoxKind { mapping: Mapping::AddressAndPortDependent, ports, ..BoxKind::HOME }
    }
}
