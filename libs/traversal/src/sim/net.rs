//! Hosts, boxes, reflectors and the packets between them.
//!
//! Hosts sit in networks, and a network has a gateway to the one outside of it; number 0 is the Internet. A packet climbs
//! through gateways until somebody owns its destination. Only the Internet takes time and loses packets.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use domain::{Filtering, Observation, Probe, PunchPacket, Reflected, Vantage};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::{Access, BoxKind, Ipv6, Premises, nat::NatBox};

/// Endpoints of the reflectors: R1:p, R1:q, R2:p, R2:q, and R1:p over IPv6.
pub const REFLECTORS: [SocketAddr; 5] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), 3478),
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), 3479),
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2)), 3478),
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2)), 3479),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1)), 3478),
];

const INTERNET: usize = 0;
const INITIAL_TTL: u8 = 64;
const LAN_DELAY: Duration = Duration::from_micros(200);
/// Reflectors are in the middle of the Internet.
const REFLECTOR: Access = Access { up: Duration::ZERO, down: Duration::ZERO, hops: 3 };

/// How good the Internet is today.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conditions {
    /// At most this much more than the way takes, which puts packets out of order.
    pub jitter: Duration,
    /// Chance that a packet is lost.
    pub loss: f64,
    /// Chance that a packet takes five jitters more.
    pub straggling: f64,
    /// Whether IPv6 gets from one site to another; to the reflectors it does.
    pub ipv6: bool,
}

impl Conditions {
    /// What the lab figures were measured with.
    pub const USUAL: Self = Self { jitter: Duration::from_millis(5), loss: 0.01, straggling: 0.01, ipv6: true };
}

/// What packets carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    Question(Probe),
    Answer(Reflected),
    Punch(PunchPacket),
    Segment(Segment),
}

/// What a segment of TCP carries, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    Syn,
    /// Of either way to open (RFC 9293, section 3.5).
    SynAck,
    Reset,
    Question(Probe),
    Answer(Reflected),
    Punch(PunchPacket),
}

impl Payload {
    /// Whether TCP sends it again when it is lost. First segments are the business of their sender.
    const fn is_repeated(&self) -> bool {
        matches!(self, Self::Segment(Segment::SynAck | Segment::Question(_) | Segment::Answer(_) | Segment::Punch(_)))
    }
}

/// A packet that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    pub host: usize,
    pub port: u16,
    pub from: SocketAddr,
    pub payload: Payload,
}

/// What left one public address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub packets: usize,
    /// In the busiest second.
    pub most_packets: usize,
    /// Of UDP flows in the busiest 30 seconds; a flow that rested for 30 seconds is new again.
    pub most_new_flows: usize,
}

/// The virtual network.
#[derive(Debug)]
pub struct Net {
    now: Instant,
    conditions: Conditions,
    rng: StdRng,
    networks: Vec<Network>,
    hosts: Vec<Host>,
    boxes: Vec<Attached>,
    owners: BTreeMap<(usize, IpAddr), Owner>,
    /// Of public addresses.
    access: BTreeMap<IpAddr, Access>,
    ledgers: BTreeMap<IpAddr, Ledger>,
    sites: u8,
    queue: BTreeMap<(Instant, u64), Flight>,
    flights: u64,
}

/// Numbers of boxes, for IPv4 and IPv6; the Internet has none.
#[derive(Debug, Default)]
struct Network {
    gateways: [Option<usize>; 2],
}

#[derive(Debug)]
struct Host {
    network: usize,
    addresses: [Option<IpAddr>; 2],
}

#[derive(Debug)]
struct Attached {
    nat: NatBox,
    /// The same box towards connections.
    tcp: NatBox,
    inside: usize,
    outside: usize,
}

#[derive(Clone, Copy, Debug)]
enum Owner {
    Host(usize),
    Box(usize),
    Reflector,
}

/// A packet under way, in the words of the network that it will arrive in.
#[derive(Debug)]
struct Flight {
    network: usize,
    from: SocketAddr,
    to: SocketAddr,
    ttl: u8,
    payload: Payload,
}

#[derive(Debug, Default)]
struct Ledger {
    usage: Usage,
    second: VecDeque<Instant>,
    new_flows: VecDeque<Instant>,
    flows: BTreeMap<(u16, SocketAddr), Instant>,
}

impl Net {
    /// A network with nothing but the reflectors.
    #[must_use]
    pub fn new(now: Instant, conditions: Conditions, rng: StdRng) -> Self {
        let reflectors = || REFLECTORS.iter().map(SocketAddr::ip);
        Self {
            now,
            conditions,
            rng,
            networks: vec![Network::default()],
            hosts: vec![],
            boxes: vec![],
            owners: reflectors().map(|address| ((INTERNET, address), Owner::Reflector)).collect(),
            access: reflectors().map(|address| (address, REFLECTOR)).collect(),
            ledgers: BTreeMap::new(),
            sites: 0,
            queue: BTreeMap::new(),
            flights: 0,
        }
    }

    /// Adds a site of `hosts` hosts on one LAN. Returns the number of the first.
    pub fn add_site(&mut self, premises: &Premises, hosts: u8) -> usize {
        self.add(INTERNET, premises, hosts)
    }

    /// Adds sites of one host each behind boxes that they share. Returns the numbers of the hosts.
    pub fn add_customers(&mut self, carrier: &Premises, sites: &[Premises]) -> Vec<usize> {
        self.sites += 1;
        let network = self.build(INTERNET, carrier);
        sites.iter().map(|premises| self.add(network, premises, 1)).collect()
    }

    /// The address of a host on its own interface.
    ///
    /// # Panics
    /// Never: every host has one of IPv4.
    #[must_use]
    pub fn address(&self, host: usize) -> IpAddr {
        self.hosts[host].addresses[0].expect("every host has IPv4")
    }

    /// Has the box next to `host` let everybody reach `port`.
    pub fn map_port(&mut self, now: Instant, host: usize, port: u16) -> Option<SocketAddr> {
        let inner = SocketAddr::new(self.address(host), port);
        let gateway = self.networks[self.hosts[host].network].gateways[0]?;
        self.boxes[gateway].nat.map_port(now, inner)
    }

    /// A host sends a packet.
    pub fn send(&mut self, now: Instant, host: usize, port: u16, to: SocketAddr, ttl: Option<u8>, payload: Payload) {
        let Host { network, addresses } = &self.hosts[host];
        let Some(address) = addresses[family(to.ip())] else { return };
        let from = SocketAddr::new(address, port);
        let flight = Flight { network: *network, from, to, ttl: ttl.unwrap_or(INITIAL_TTL), payload };
        self.climb(now, flight);
    }

    /// When the next packet arrives somewhere.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.queue.first_key_value().map(|(&(due, _), _)| due)
    }

    /// Lets everything arrive that is due; what reaches hosts is returned.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<Delivery> {
        let mut deliveries = vec![];
        while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= now) {
            let flight = entry.remove();
            deliveries.extend(self.arrive(now, flight));
        }
        deliveries
    }

    /// What left each public address so far.
    pub fn usage(&self) -> impl Iterator<Item = (IpAddr, Usage)> {
        self.ledgers.iter().map(|(address, ledger)| (*address, ledger.usage))
    }

    fn add(&mut self, outside: usize, premises: &Premises, hosts: u8) -> usize {
        self.sites += 1;
        let site = self.sites;
        let network = self.build(outside, premises);
        let has_ipv6 = premises.ipv6 != Ipv6::None;
        let first = self.hosts.len();
        for number in 0..hosts {
            let translated = premises.boxes.iter().any(|kind| !kind.transparent);
            // All homes use the same prefix.
            let v4 = if translated { [192, 168, 1, 2 + number] } else { [198, 18, site, 2 + number] };
            let v6 = Ipv6Addr::new(0x2001, 0xdb8, site.into(), 0, 0, 0, 0, 2 + u16::from(number));
            let addresses = [Some(IpAddr::from(v4)), has_ipv6.then_some(IpAddr::from(v6))];
            for (family, address) in addresses.iter().enumerate() {
                let Some(address) = *address else { continue };
                let owner = Owner::Host(self.hosts.len());
                self.owners.insert((network, address), owner);
                match self.networks[network].gateways[family] {
                    Some(gateway) if family == 1 || !translated => {
                        self.owners.insert((INTERNET, address), Owner::Box(gateway));
                    }
                    Some(_) => continue,
                    None => {
                        self.owners.insert((INTERNET, address), owner);
                    }
                }
                self.access.insert(address, premises.access);
            }
            self.hosts.push(Host { network, addresses });
        }
        first
    }

    /// Puts the boxes of `premises` in a row and returns the network behind them.
    fn build(&mut self, outside: usize, premises: &Premises) -> usize {
        let mut network = outside;
        for kind in premises.boxes.iter().rev() {
            let addresses: Vec<_> = (1..=kind.addresses())
                .map(|last| {
                    let prefix = if network == INTERNET { [198, 18] } else { [100, 64] };
                    IpAddr::from([prefix[0], prefix[1], self.sites, last])
                })
                .collect();
            let number = self.attach(*kind, addresses.clone(), network);
            for address in addresses.into_iter().filter(|_| !kind.transparent) {
                self.owners.insert((network, address), Owner::Box(number));
                self.access.insert(address, premises.access);
            }
            network = self.networks.len();
            self.networks.push(Network { gateways: [Some(number), None] });
        }
        // A host without any box is on the Internet itself, unless it has a firewall for IPv6.
        if premises.ipv6 == Ipv6::Firewall {
            if network == outside {
                network = self.networks.len();
                self.networks.push(Network::default());
            }
            let strict = Filtering::AddressAndPortDependent;
            let firewall = BoxKind { transparent: true, filtering: strict, ..BoxKind::HOME };
            let number = self.attach(firewall, vec![], INTERNET);
            self.boxes[number].inside = network;
            self.networks[network].gateways[1] = Some(number);
        }
        network
    }

    fn attach(&mut self, kind: BoxKind, addresses: Vec<IpAddr>, outside: usize) -> usize {
        let seed = self.rng.random();
        let nat = NatBox::new(self.now, kind, addresses.clone(), StdRng::from_seed(seed));
        let tcp = NatBox::new(self.now, kind.of_tcp(), addresses, StdRng::from_seed(seed));
        self.boxes.push(Attached { nat, tcp, inside: self.networks.len(), outside });
        self.boxes.len() - 1
    }

    /// From gateway to gateway outwards, until somebody owns the destination.
    fn climb(&mut self, now: Instant, mut flight: Flight) {
        while flight.network != INTERNET {
            if self.owners.contains_key(&(flight.network, flight.to.ip())) {
                return self.fly(now + LAN_DELAY, flight);
            }
            let gateway = self.networks[flight.network].gateways[family(flight.to.ip())];
            let Some(number) = gateway else {
                flight.network = INTERNET;
                break;
            };
            let attached = &mut self.boxes[number];
            let outside = attached.outside;
            let nat = attached.table(&flight.payload);
            flight.ttl -= 1;
            if flight.ttl == 0 {
                return;
            }
            let Some(source) = nat.outbound(now, flight.from, flight.to) else { return };
            flight.from = source;
            flight.network = outside;
            if nat.owns(flight.to.ip()) {
                if nat.kind().hairpin {
                    self.fly(now + LAN_DELAY, flight);
                }
                return;
            }
        }
        self.cross(now, flight);
    }

    fn cross(&mut self, now: Instant, mut flight: Flight) {
        let (from, to) = (flight.from.ip(), flight.to.ip());
        let Some(&Access { up, hops, .. }) = self.access.get(&from) else { return };
        if hops != REFLECTOR.hops {
            self.ledgers.entry(from).or_default().note(now, flight.from.port(), flight.to);
        }
        let Some(&Access { down, hops: further, .. }) = self.access.get(&to) else { return };
        let between_sites = hops != REFLECTOR.hops && further != REFLECTOR.hops;
        let mut lost = self.rng.random_bool(self.conditions.loss);
        let mut late = Duration::ZERO;
        if lost && flight.payload.is_repeated() {
            (lost, late) = (false, RETRANSMISSION);
        }
        if flight.ttl <= hops + further || lost || (to.is_ipv6() && between_sites && !self.conditions.ipv6) {
            return;
        }
        flight.ttl -= hops + further;
        let mut jitters: f64 = self.rng.random();
        if self.rng.random_bool(self.conditions.straggling) {
            jitters += 5.0;
        }
        self.fly(now + late + up + down + self.conditions.jitter.mul_f64(jitters), flight);
    }

    fn fly(&mut self, arrival: Instant, flight: Flight) {
        self.flights += 1;
        self.queue.insert((arrival, self.flights), flight);
    }

    fn arrive(&mut self, now: Instant, mut flight: Flight) -> Option<Delivery> {
        loop {
            match *self.owners.get(&(flight.network, flight.to.ip()))? {
                Owner::Reflector => {
                    self.reflect(now, flight);
                    return None;
                }
                Owner::Host(host) => {
                    return Some(Delivery { host, port: flight.to.port(), from: flight.from, payload: flight.payload });
                }
                Owner::Box(number) => {
                    let attached = &mut self.boxes[number];
                    let inside = attached.inside;
                    let nat = attached.table(&flight.payload);
                    let Some(inner) = nat.inbound(now, flight.to, flight.from) else {
                        self.refuse(now, number, &flight);
                        return None;
                    };
                    flight.to = inner;
                    flight.ttl = flight.ttl.checked_sub(1).filter(|&ttl| ttl > 0)?;
                    flight.network = inside;
                }
            }
        }
    }

    /// A router that takes what comes too early for its own answers that nothing listens there.
    fn refuse(&mut self, now: Instant, number: usize, flight: &Flight) {
        let Attached { tcp, outside, .. } = &self.boxes[number];
        if tcp.kind().input_accepts && flight.payload == Payload::Segment(Segment::Syn) && *outside == INTERNET {
            let payload = Payload::Segment(Segment::Reset);
            self.cross(now, Flight { network: INTERNET, from: flight.to, to: flight.from, ttl: INITIAL_TTL, payload });
        }
    }

    fn reflect(&mut self, now: Instant, flight: Flight) {
        let Some(at) = REFLECTORS.iter().position(|endpoint| *endpoint == flight.to) else { return };
        let probe = match flight.payload {
            Payload::Question(probe) => probe,
            Payload::Segment(segment) => {
                let answer = match segment {
                    Segment::Syn => Segment::SynAck,
                    Segment::Question(probe) => Segment::Answer(reflected(&probe, flight.from, 0)),
                    Segment::SynAck | Segment::Reset | Segment::Answer(_) | Segment::Punch(_) => return,
                };
                let (from, to, payload) = (flight.to, flight.from, Payload::Segment(answer));
                return self.cross(now, Flight { network: INTERNET, from, to, ttl: INITIAL_TTL, payload });
            }
            Payload::Answer(_) | Payload::Punch(_) => return,
        };
        let answering = match probe.answer_from {
            Vantage::Asked => at,
            // There is one endpoint of IPv6.
            Vantage::OtherPort | Vantage::OtherAddress | Vantage::Opposite if at >= 4 => return,
            Vantage::OtherPort => at ^ 1,
            Vantage::OtherAddress => at ^ 2,
            Vantage::Opposite => at ^ 3,
        };
        let reflected = reflected(&probe, flight.from, flight.ttl);
        let (from, to, payload) = (REFLECTORS[answering], flight.from, Payload::Answer(reflected));
        self.cross(now, Flight { network: INTERNET, from, to, ttl: INITIAL_TTL, payload });
    }
}

fn reflected(probe: &Probe, seen: SocketAddr, ttl: u8) -> Reflected {
    // Unsealed: there is nobody to deceive here.
    let observation = Some(Observation(format!("{seen} {ttl}").into_bytes()));
    Reflected { transaction: probe.transaction, seen, ttl, observation }
}

impl Attached {
    fn table(&mut self, payload: &Payload) -> &mut NatBox {
        match payload {
            Payload::Segment(_) => &mut self.tcp,
            Payload::Question(_) | Payload::Answer(_) | Payload::Punch(_) => &mut self.nat,
        }
    }
}

/// Until TCP sends a lost segment again (its least time-out on Linux).
const RETRANSMISSION: Duration = Duration::from_millis(200);

impl Ledger {
    fn note(&mut self, now: Instant, port: u16, to: SocketAddr) {
        self.usage.packets += 1;
        enter(&mut self.second, now, Duration::from_secs(1));
        self.usage.most_packets = self.usage.most_packets.max(self.second.len());
        let last = self.flows.insert((port, to), now);
        if last.is_none_or(|last| now.saturating_duration_since(last) >= FLOW) {
            enter(&mut self.new_flows, now, FLOW);
            self.usage.most_new_flows = self.usage.most_new_flows.max(self.new_flows.len());
        }
    }
}

const FLOW: Duration = Duration::from_secs(30);

/// Adds an event to those of the last `span`.
fn enter(events: &mut VecDeque<Instant>, now: Instant, span: Duration) {
    while events.front().is_some_and(|&first| now.saturating_duration_since(first) >= span) {
        events.pop_front();
    }
    events.push_back(now);
}

fn family(address: IpAddr) -> usize {
    usize::from(address.is_ipv6())
}
