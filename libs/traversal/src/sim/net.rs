//! Hosts, boxes, reflectors and the packets between them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use domain::{Filtering, Mapping, Observation, Probe, PunchPacket, Reflected, Vantage};
use rand::{Rng as _, rngs::StdRng};

use super::{Allocation, BoxKind};

/// Endpoints of the reflectors: R1:p, R1:q, R2:p, R2:q.
pub const REFLECTORS: [SocketAddr; 4] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), 3478),
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), 3479),
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2)), 3478),
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2)), 3479),
];

/// Routers between any two sites, and between a site and the reflectors.
const CORE_HOPS: u8 = 7;
const INITIAL_TTL: u8 = 64;
const LAN_DELAY: Duration = Duration::from_micros(200);

/// How good the Internet is today.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conditions {
    /// One way between any two sites.
    pub delay: Duration,
    /// At most this much more.
    pub jitter: Duration,
    /// Chance that a packet is lost.
    pub loss: f64,
}

impl Conditions {
    /// What the lab figures were measured with.
    pub const USUAL: Self = Self { delay: Duration::from_millis(15), jitter: Duration::from_millis(5), loss: 0.01 };
}

/// What packets carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    Question(Probe),
    Answer(Reflected),
    Punch(PunchPacket),
}

/// A packet that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    pub host: usize,
    pub port: u16,
    pub from: SocketAddr,
    pub payload: Payload,
}

/// The virtual network.
#[derive(Debug)]
pub struct Net {
    conditions: Conditions,
    rng: StdRng,
    hosts: Vec<Host>,
    boxes: Vec<NatBox>,
    owners: BTreeMap<IpAddr, Owner>,
    queue: BTreeMap<(Instant, u64), Flight>,
    flights: u64,
}

#[derive(Debug)]
struct Host {
    address: IpAddr,
    /// From the host outwards.
    chain: Vec<usize>,
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
    from: SocketAddr,
    to: SocketAddr,
    ttl: u8,
    payload: Payload,
    lan: Option<usize>,
}

#[derive(Debug)]
struct NatBox {
    kind: BoxKind,
    public: IpAddr,
    mappings: BTreeMap<(SocketAddr, Option<IpAddr>, Option<u16>), u16>,
    external: BTreeMap<u16, External>,
    /// Flows of the router itself, begun by early packets from outside.
    taken: BTreeSet<(u16, SocketAddr)>,
    next_port: u16,
}

#[derive(Debug)]
struct External {
    inner: SocketAddr,
    sent_to: BTreeSet<SocketAddr>,
}

impl Net {
    /// A network with nothing but the reflectors.
    #[must_use]
    pub fn new(conditions: Conditions, rng: StdRng) -> Self {
        let owners = REFLECTORS.iter().map(|endpoint| (endpoint.ip(), Owner::Reflector)).collect();
        Self { conditions, rng, hosts: vec![], boxes: vec![], owners, queue: BTreeMap::new(), flights: 0 }
    }

    /// Adds a site with `hosts` hosts behind `kinds`, from the hosts outwards. Returns the number of its first host.
    pub fn add_site(&mut self, kinds: &[BoxKind], hosts: u8) -> usize {
        let site = u8::try_from(self.hosts.len()).unwrap_or(u8::MAX);
        let first = self.hosts.len();
        let mut chain = Vec::new();
        for (depth, kind) in kinds.iter().enumerate() {
            let depth = u8::try_from(depth).unwrap_or(u8::MAX);
            let outermost = usize::from(depth) + 1 == kinds.len();
            let address = if outermost { [203, 0, 113, site + 1] } else { [100, 64, site, depth + 1] };
            let public = IpAddr::from(address);
            let next_port = self.rng.random_range(20_000..50_000);
            chain.push(self.boxes.len());
            self.owners.insert(public, Owner::Box(self.boxes.len()));
            self.boxes.push(NatBox {
                kind: *kind,
                public,
                mappings: BTreeMap::new(),
                external: BTreeMap::new(),
                taken: BTreeSet::new(),
                next_port,
            });
        }
        for number in 0..hosts {
            let routable = kinds.iter().all(|kind| kind.transparent);
            let address = if routable { [203, 0, 113, site + 1] } else { [192, 168, site, number + 2] };
            let host = self.hosts.len();
            let address = IpAddr::from(address);
            self.owners.entry(address).or_insert(Owner::Host(host));
            self.hosts.push(Host { address, chain: chain.clone() });
        }
        first
    }

    /// Address of a host on its own interface.
    #[must_use]
    pub fn address(&self, host: usize) -> IpAddr {
        self.hosts[host].address
    }

    /// A host sends a packet.
    pub fn send(&mut self, now: Instant, host: usize, port: u16, to: SocketAddr, ttl: Option<u8>, payload: Payload) {
        let from = SocketAddr::new(self.hosts[host].address, port);
        let mut flight = Flight { from, to, ttl: ttl.unwrap_or(INITIAL_TTL), payload, lan: None };
        let chain = self.hosts[host].chain.clone();
        let neighbour = self.hosts.iter().position(|other| other.address == to.ip() && other.chain == chain);
        if let Some(neighbour) = neighbour.filter(|_| !chain.is_empty()) {
            flight.lan = Some(neighbour);
            self.fly(now + LAN_DELAY, flight);
            return;
        }
        if to.ip().is_ipv4() && matches!(domain::scope(to.ip()), domain::Scope::Private) {
            return;
        }
        for number in chain {
            flight.ttl -= 1;
            let nat = &mut self.boxes[number];
            if flight.ttl == 0 || nat.kind.blocks_udp {
                return;
            }
            let source = nat.outbound(flight.from, to, &mut self.rng);
            if to.ip() == nat.public && !nat.kind.transparent {
                if nat.kind.hairpin {
                    flight.from = source;
                    self.fly(now + LAN_DELAY, flight);
                }
                return;
            }
            flight.from = source;
        }
        self.cross(now, flight);
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

    fn cross(&mut self, now: Instant, mut flight: Flight) {
        if flight.ttl <= CORE_HOPS || self.rng.random_bool(self.conditions.loss) {
            return;
        }
        flight.ttl -= CORE_HOPS;
        let jitter = self.conditions.jitter.mul_f64(self.rng.random());
        self.fly(now + self.conditions.delay + jitter, flight);
    }

    fn fly(&mut self, arrival: Instant, flight: Flight) {
        self.flights += 1;
        self.queue.insert((arrival, self.flights), flight);
    }

    fn arrive(&mut self, now: Instant, mut flight: Flight) -> Option<Delivery> {
        if let Some(host) = flight.lan {
            return Some(Delivery { host, port: flight.to.port(), from: flight.from, payload: flight.payload });
        }
        loop {
            match *self.owners.get(&flight.to.ip())? {
                Owner::Reflector => {
                    self.reflect(now, flight);
                    return None;
                }
                Owner::Host(host) => {
                    return Some(Delivery { host, port: flight.to.port(), from: flight.from, payload: flight.payload });
                }
                Owner::Box(number) => {
                    let nat = &mut self.boxes[number];
                    let inner = nat.inbound(flight.to.port(), flight.from)?;
                    flight.ttl = flight.ttl.checked_sub(1).filter(|&ttl| ttl > 0)?;
                    if nat.kind.transparent {
                        let host = self.hosts.iter().position(|host| host.address == inner.ip())?;
                        return Some(Delivery { host, port: inner.port(), from: flight.from, payload: flight.payload });
                    }
                    flight.to = inner;
                }
            }
        }
    }

    fn reflect(&mut self, now: Instant, flight: Flight) {
        let Payload::Question(probe) = flight.payload else { return };
        let Some(at) = REFLECTORS.iter().position(|endpoint| *endpoint == flight.to) else { return };
        let answering = match probe.answer_from {
            Vantage::Asked => at,
            Vantage::OtherPort => at ^ 1,
            Vantage::OtherAddress => at ^ 2,
            Vantage::Opposite => at ^ 3,
        };
        let reflected = Reflected {
            transaction: probe.transaction,
            seen: flight.from,
            ttl: flight.ttl,
            // Unsealed: there is nobody to deceive here.
            observation: Some(Observation(format!("{} {}", flight.from, flight.ttl).into_bytes())),
        };
        let payload = Payload::Answer(reflected);
        self.cross(now, Flight { from: REFLECTORS[answering], to: flight.from, ttl: INITIAL_TTL, payload, lan: None });
    }
}

impl NatBox {
    /// The source that a packet from `inner` to `to` leaves with.
    fn outbound(&mut self, inner: SocketAddr, to: SocketAddr, rng: &mut StdRng) -> SocketAddr {
        let key = match self.kind.mapping {
            Mapping::EndpointIndependent => (inner, None, None),
            Mapping::AddressDependent => (inner, Some(to.ip()), None),
            Mapping::AddressAndPortDependent => (inner, Some(to.ip()), Some(to.port())),
        };
        let mut port = self.mappings.get(&key).copied();
        if let Some(taken) = port.filter(|&port| self.taken.contains(&(port, to))) {
            // The router's own flow has this port towards that peer: the new flow gets another.
            let own = (inner, Some(to.ip()), Some(to.port()));
            port = self.mappings.get(&own).copied().filter(|&port| port != taken);
            if port.is_none() {
                let moved = self.allocate(inner, rng, Allocation::Random);
                self.mappings.insert(own, moved);
                port = Some(moved);
            }
        }
        let port = port.unwrap_or_else(|| {
            let port = self.allocate(inner, rng, self.kind.allocation);
            self.mappings.insert(key, port);
            port
        });
        if let Some(external) = self.external.get_mut(&port) {
            external.sent_to.insert(to);
        }
        SocketAddr::new(self.public, port)
    }

    /// Where a packet to the external `port` goes; `None` when the filter drops it.
    fn inbound(&mut self, port: u16, from: SocketAddr) -> Option<SocketAddr> {
        let passes = |external: &External| match self.kind.filtering {
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => external.sent_to.iter().any(|known| known.ip() == from.ip()),
            Filtering::AddressAndPortDependent => external.sent_to.contains(&from),
        };
        let inner = self.external.get(&port).filter(|external| passes(external)).map(|external| external.inner);
        if inner.is_none() && self.kind.input_accepts {
            self.taken.insert((port, from));
        }
        inner
    }

    fn allocate(&mut self, inner: SocketAddr, rng: &mut StdRng, allocation: Allocation) -> u16 {
        let mut port = match allocation {
            Allocation::Preserving => inner.port(),
            Allocation::Sequential => self.next_port,
            Allocation::Random => rng.random_range(1_024..=u16::MAX),
        };
        while self.external.contains_key(&port) {
            port = port.checked_add(1).unwrap_or(1_024);
        }
        self.next_port = port.checked_add(1).unwrap_or(1_024);
        self.external.insert(port, External { inner, sent_to: BTreeSet::new() });
        port
    }
}
