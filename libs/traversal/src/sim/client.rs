//! A client as far as traversal goes: its host, its sockets, and the machines that use them.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use domain::{
    ClientId, NatProfile, Observation, Probe, PunchId, PunchOrder, PunchPreparation, PunchReport, Scope, SessionTag,
    Strategy, scope,
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::{
    Access,
    net::{Delivery, Net, Payload, REFLECTORS, Segment},
    tcp::{News, Tcp},
};
use crate::{
    dial::{Dial, Step, Welcome},
    discover::{Connections, Discovery, Local, Measurement, Reflectors, Socket, TcpTest},
    punch::{self, Punch},
    schedule::Ready,
};

/// What a client says to the server.
#[derive(Debug)]
pub(super) enum Said {
    Profile(NatProfile),
    Ready(u64, Ready),
    Report(PunchReport),
}

/// Where a client found its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub socket: Socket,
    pub endpoint: SocketAddr,
    pub rtt: Duration,
    pub at: Instant,
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) id: ClientId,
    pub(super) access: Access,
    /// By the number of the negotiation.
    pub(super) found: BTreeMap<u64, Found>,
    /// Punch packets, by the number of the negotiation.
    pub(super) packets: BTreeMap<u64, u32>,
    host: usize,
    address: IpAddr,
    mapped: Option<SocketAddr>,
    lan: u64,
    /// Whether its NAT has several public addresses.
    pooled: bool,
    jitter: Duration,
    rng: StdRng,
    sockets: Sockets,
    discovery: Option<Discovery>,
    tcp: Tcp,
    tcp_test: Option<TcpTest>,
    connections: Option<Connections>,
    /// Questions that wait for their connection, by port and reflector.
    questions: BTreeMap<(u16, SocketAddr), Probe>,
    /// As of the last discovery, without the connections.
    profile: Option<NatProfile>,
    reported: Option<NatProfile>,
    punches: BTreeMap<u64, Punching>,
    said: Vec<Said>,
}

#[derive(Debug)]
struct Punching {
    measurement: Option<Measurement>,
    punch: Punch,
    dial: Option<Dial>,
}

/// Which machine a socket belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    Client,
    Discovery,
    Negotiation(u64),
}

/// Open sockets, by their ports.
#[derive(Debug)]
struct Sockets {
    ports: BTreeMap<u16, (Owner, Socket)>,
    open: BTreeMap<(Owner, Socket), u16>,
    next: u16,
}

impl Client {
    /// A client on `host` that starts to discover its NATs.
    pub(super) fn new(now: Instant, net: &mut Net, host: usize, access: Access, about: About) -> Self {
        let About { id, lan, port_mapping, jitter, seed } = about;
        let mut rng = StdRng::from_seed(seed);
        let main: u16 = rng.random_range(16_384..24_576) * 2;
        let mut sockets = Sockets { ports: BTreeMap::new(), open: BTreeMap::new(), next: main };
        sockets.port(Owner::Client, Socket::Main);
        let mapped = if port_mapping { net.map_port(now, host, main) } else { None };
        let local = Local { port: main, address: Some(net.address(host)), place: 0 };
        let discovery = Discovery::new(now, reflectors(), SessionTag([0; 16]), local, rng.random());
        let tcp_test = TcpTest::new(now, reflectors(), SessionTag([0; 16]), rng.random());
        Self {
            id,
            access,
            found: BTreeMap::new(),
            packets: BTreeMap::new(),
            host,
            address: net.address(host),
            mapped,
            lan,
            pooled: false,
            jitter,
            rng,
            sockets,
            discovery: Some(discovery),
            tcp: Tcp::new(host),
            tcp_test: Some(tcp_test),
            connections: None,
            questions: BTreeMap::new(),
            profile: None,
            reported: None,
            punches: BTreeMap::new(),
            said: Vec::new(),
        }
    }

    pub(super) const fn host(&self) -> usize {
        self.host
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let punches = self.punches.values().flat_map(|punching| {
            let dial = punching.dial.as_ref().and_then(Dial::poll_timeout);
            [punching.measurement.as_ref().and_then(Measurement::poll_timeout), punching.punch.poll_timeout(), dial]
        });
        let discovery = self.discovery.as_ref().and_then(Discovery::poll_timeout);
        let tcp_test = self.tcp_test.as_ref().and_then(TcpTest::poll_timeout);
        punches.chain([discovery, tcp_test, self.tcp.poll_timeout()]).flatten().min()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, net: &mut Net) {
        self.tcp.handle_timeout(now, net);
        if let Some(test) = &mut self.tcp_test {
            test.handle_timeout(now);
        }
        if let Some(discovery) = &mut self.discovery {
            discovery.handle_timeout(now);
        }
        for punching in self.punches.values_mut() {
            if let Some(measurement) = &mut punching.measurement {
                measurement.handle_timeout(now);
            }
            punching.punch.handle_timeout(now);
            if let Some(dial) = &mut punching.dial {
                dial.handle_timeout(now);
            }
        }
    }

    /// A packet reached the host.
    pub(super) fn handle_delivery(&mut self, now: Instant, net: &mut Net, delivery: Delivery) {
        if let Payload::Segment(segment) = delivery.payload {
            return self.handle_segment(now, net, delivery.port, delivery.from, segment);
        }
        let Some(&(owner, socket)) = self.sockets.ports.get(&delivery.port) else { return };
        let from = delivery.from;
        match delivery.payload {
            Payload::Question(probe) => {
                if let Some(discovery) = &mut self.discovery {
                    discovery.handle_hairpin(now, from, probe.transaction);
                }
            }
            Payload::Answer(reflected) => {
                if let Some(discovery) = self.discovery.as_mut().filter(|_| !matches!(owner, Owner::Negotiation(_))) {
                    discovery.handle_answer(now, socket, from, reflected.clone());
                }
                for (number, punching) in &mut self.punches {
                    if let Some(measurement) = &mut punching.measurement
                        && (owner == Owner::Client || owner == Owner::Negotiation(*number))
                    {
                        measurement.handle_answer(now, socket, from, reflected.clone());
                    }
                }
            }
            Payload::Punch(packet) => {
                let punching = self.punches.get_mut(&packet.number);
                let reachable = owner == Owner::Client || owner == Owner::Negotiation(packet.number);
                if let Some(punching) = punching.filter(|_| reachable) {
                    punching.punch.handle_packet(now, socket, from, packet);
                }
            }
            Payload::Segment(_) => {}
        }
    }

    /// A segment reached the host.
    fn handle_segment(&mut self, now: Instant, net: &mut Net, port: u16, from: SocketAddr, segment: Segment) {
        let Some(news) = self.tcp.handle(now, net, port, from, segment) else { return };
        let owner = self.sockets.ports.get(&port).map(|(owner, _)| *owner);
        let punching = match owner {
            Some(Owner::Negotiation(number)) => self.punches.get_mut(&number),
            Some(Owner::Client | Owner::Discovery) | None => None,
        };
        match (news, punching) {
            (News::Carried(Segment::Answer(reflected)), None) => {
                if let Some(test) = &mut self.tcp_test {
                    test.handle_answer(Socket::Tcp, from, reflected);
                }
            }
            (News::Carried(Segment::Answer(reflected)), Some(punching)) => {
                if let Some(measurement) = &mut punching.measurement {
                    measurement.handle_answer(now, Socket::Tcp, from, reflected);
                }
            }
            (News::Carried(Segment::Punch(packet)), Some(Punching { punch, dial: Some(dial), .. })) => {
                dial.handle_proven(from);
                punch.handle_packet(now, Socket::Tcp, from, packet);
            }
            (News::Established, Some(Punching { punch, dial: Some(dial), .. })) => {
                let greeted = !REFLECTORS.contains(&from) && dial.handle_established(now, from) == Welcome::Greeted;
                if greeted {
                    punch.handle_connected(now, Socket::Tcp, from);
                }
            }
            (News::Failed, Some(Punching { dial: Some(dial), .. })) => dial.handle_lost(now, from),
            _ => {}
        }
        if !REFLECTORS.contains(&from) {
            return;
        }
        // The question waited for its connection.
        for (_, probe) in self.questions.extract_if(.., |(at, to), _| *at == port && *to == from) {
            self.tcp.send(now, net, port, from, Segment::Question(probe));
        }
    }

    pub(super) fn handle_prepare(&mut self, now: Instant, preparation: &PunchPreparation) {
        let (seed, tag) = (self.rng.random(), SessionTag([0; 16]));
        let measurement = if preparation.tcp {
            Measurement::over_tcp(now, reflectors(), tag, seed)
        } else {
            let begin = if self.pooled { Measurement::of_pool } else { Measurement::new };
            begin(now, preparation.sockets, reflectors(), tag, seed)
        };
        let number = preparation.punch.number;
        let measurement = Some(measurement);
        match self.punches.get_mut(&number) {
            // The measurement got old while the pair waited: once more, from fresh sockets.
            Some(punching) => {
                punching.measurement = measurement;
                if !preparation.tcp {
                    self.sockets.close(Owner::Negotiation(number));
                }
            }
            None => {
                let punch = Punch::new(now, preparation.punch, self.rng.random());
                let dial = preparation.tcp.then(|| Dial::new(self.rng.random()));
                if dial.is_some() {
                    let port = self.sockets.port(Owner::Negotiation(number), Socket::Tcp);
                    self.tcp.listen(port);
                }
                self.punches.insert(number, Punching { measurement, punch, dial });
            }
        }
    }

    pub(super) fn handle_go(&mut self, now: Instant, order: PunchOrder) {
        if let Some(punching) = self.punches.get_mut(&order.punch.number) {
            if let Some(dial) = punching.dial.as_mut().filter(|_| order.strategy == Strategy::Tcp) {
                dial.handle_order(now, &order);
            }
            punching.punch.handle_order(now, order);
        }
    }

    pub(super) fn handle_off(&mut self, punch: PunchId) {
        if let Some(punching) = self.punches.get_mut(&punch.number) {
            punching.punch.handle_cancel();
        }
    }

    /// Sends what the machines want sent, and returns what they want said.
    pub(super) fn flush(&mut self, now: Instant, net: &mut Net) -> Vec<Said> {
        self.flush_discovery(now, net);
        self.flush_tcp_test(now, net);
        self.report();
        let numbers: Vec<_> = self.punches.keys().copied().collect();
        for number in numbers {
            self.flush_measurement(now, net, number);
            self.flush_dial(now, net, number);
            self.flush_punch(now, net, number);
        }
        std::mem::take(&mut self.said)
    }

    fn flush_discovery(&mut self, now: Instant, net: &mut Net) {
        let Some(discovery) = &mut self.discovery else { return };
        while let Some(ask) = discovery.poll_transmit() {
            let owner = if ask.socket == Socket::Main { Owner::Client } else { Owner::Discovery };
            let port = self.sockets.port(owner, ask.socket);
            net.send(now, self.host, port, ask.to, None, Payload::Question(ask.probe));
        }
        while let Some(discovered) = discovery.poll_event() {
            let mut profile = discovered.profile;
            // A mapped port at a private address, or at another one than reflectors see, leads into the next NAT.
            self.mapped = self.mapped.filter(|mapped| {
                scope(mapped.ip()) == Scope::Public && discovered.public.is_none_or(|public| public.ip() == mapped.ip())
            });
            profile.port_mapping = self.mapped.is_some();
            self.pooled = profile.pool;
            self.profile = Some(profile);
        }
        if discovery.poll_timeout().is_none() {
            self.discovery = None;
            self.sockets.close(Owner::Discovery);
        }
    }

    fn flush_tcp_test(&mut self, now: Instant, net: &mut Net) {
        let Some(test) = &mut self.tcp_test else { return };
        let port = self.sockets.port(Owner::Client, Socket::Tcp);
        while let Some(ask) = test.poll_transmit() {
            self.questions.insert((port, ask.to), ask.probe);
            self.tcp.connect(now, net, port, ask.to, None);
        }
        if test.poll_timeout().is_none() {
            self.connections = test.poll_event();
            self.tcp_test = None;
            self.tcp.close_port(port);
        }
    }

    /// Tells the server what it does not know yet. Without UDP there is nothing to begin with before connections are known.
    fn report(&mut self) {
        let Some(profile) = self.profile else { return };
        if !profile.udp && !profile.ipv6 && self.tcp_test.is_some() {
            return;
        }
        let profile = NatProfile { tcp: self.connections.map(|connections| connections.mapping), ..profile };
        if self.reported.replace(profile) != Some(profile) {
            self.said.push(Said::Profile(profile));
        }
    }

    /// Carries out what the connections of a punch want.
    fn flush_dial(&mut self, now: Instant, net: &mut Net, number: u64) {
        let Some(Punching { punch, dial: Some(dial), .. }) = self.punches.get_mut(&number) else { return };
        let port = self.sockets.port(Owner::Negotiation(number), Socket::Tcp);
        while let Some(step) = dial.poll_step() {
            match step {
                Step::Connect { to, ttl } => {
                    *self.packets.entry(number).or_default() += 1;
                    punch.handle_dialled();
                    self.tcp.connect(now, net, port, to, ttl);
                }
                Step::Close(peer) => self.tcp.close(port, peer),
            }
        }
    }

    fn flush_measurement(&mut self, now: Instant, net: &mut Net, number: u64) {
        let Some(punching) = self.punches.get_mut(&number) else { return };
        let Some(measurement) = &mut punching.measurement else { return };
        while let Some(ask) = measurement.poll_transmit() {
            if ask.socket == Socket::Tcp {
                let port = self.sockets.port(Owner::Negotiation(number), Socket::Tcp);
                self.questions.insert((port, ask.to), ask.probe);
                self.tcp.connect(now, net, port, ask.to, None);
                continue;
            }
            let owner = if ask.socket == Socket::Main { Owner::Client } else { Owner::Negotiation(number) };
            let port = self.sockets.port(owner, ask.socket);
            net.send(now, self.host, port, ask.to, None, Payload::Question(ask.probe));
        }
        if let Some(observations) = measurement.poll_event() {
            punching.measurement = None;
            let ready = self.ready(&observations);
            self.said.push(Said::Ready(number, ready));
        }
    }

    fn flush_punch(&mut self, now: Instant, net: &mut Net, number: u64) {
        let Some(punching) = self.punches.get_mut(&number) else { return };
        let mut over = false;
        while let Some(transmit) = punching.punch.poll_transmit() {
            *self.packets.entry(number).or_default() += 1;
            if transmit.socket == Socket::Tcp {
                let port = self.sockets.port(Owner::Negotiation(number), Socket::Tcp);
                self.tcp.send(now, net, port, transmit.to, Segment::Punch(transmit.packet));
                continue;
            }
            let owner = if transmit.socket == Socket::Main { Owner::Client } else { Owner::Negotiation(number) };
            let port = self.sockets.port(owner, transmit.socket);
            net.send(now, self.host, port, transmit.to, transmit.ttl, Payload::Punch(transmit.packet));
        }
        while let Some(event) = punching.punch.poll_event() {
            match event {
                punch::Event::Usable { socket, endpoint, rtt } => {
                    self.found.entry(number).or_insert(Found { socket, endpoint, rtt, at: now });
                }
                punch::Event::Finished(report) => {
                    self.said.push(Said::Report(report));
                    if let Some(dial) = &mut punching.dial {
                        dial.handle_finished();
                    }
                }
                punch::Event::Over => over = true,
            }
        }
        if over {
            self.punches.remove(&number);
            if let Some(&port) = self.sockets.open.get(&(Owner::Negotiation(number), Socket::Tcp)) {
                self.tcp.close_port(port);
            }
            self.sockets.close(Owner::Negotiation(number));
        }
    }

    fn ready(&mut self, observations: &[Observation]) -> Ready {
        let seen: Vec<_> = observations.iter().filter_map(unsealed).collect();
        let first = |ipv4: bool| seen.iter().copied().find(|(seen, _)| seen.is_ipv4() == ipv4);
        let addresses = || seen.iter().map(|(seen, _)| seen.ip()).filter(IpAddr::is_ipv4);
        let mut others: Vec<_> =
            addresses().filter(|&other| first(true).is_some_and(|(at, _)| at.ip() != other)).collect();
        others.dedup();
        let pings = self.jitter.mul_f64(self.rng.random::<f64>() / 2.0);
        let main = self.sockets.port(Owner::Client, Socket::Main);
        Ready {
            seen: first(true),
            others,
            seen6: first(false),
            mapped: self.mapped.filter(|mapped| addresses().any(|seen| seen == mapped.ip())),
            local: vec![SocketAddr::new(self.address, main)],
            lan: Some(self.lan),
            rtt: Some(self.access.up + self.access.down + pings),
            jitter: Some(self.jitter / 2),
        }
    }
}

/// What a client is told about itself.
#[derive(Debug)]
pub(super) struct About {
    pub(super) id: ClientId,
    /// The same on one LAN.
    pub(super) lan: u64,
    pub(super) port_mapping: bool,
    pub(super) jitter: Duration,
    pub(super) seed: [u8; 32],
}

impl Sockets {
    /// The port of a socket, which is opened when it is not yet. Each has an even port that none had before.
    fn port(&mut self, owner: Owner, socket: Socket) -> u16 {
        let (ports, next) = (&mut self.ports, &mut self.next);
        *self.open.entry((owner, socket)).or_insert_with(|| {
            let port = *next;
            *next = next.checked_add(2).unwrap_or(16_384);
            ports.insert(port, (owner, socket));
            port
        })
    }

    fn close(&mut self, owner: Owner) {
        self.open.retain(|(of, _), _| *of != owner);
        self.ports.retain(|_, (of, _)| *of != owner);
    }
}

fn reflectors() -> Reflectors {
    Reflectors::new(&REFLECTORS).expect("five endpoints")
}

fn unsealed(observation: &Observation) -> Option<(SocketAddr, u8)> {
    let (seen, ttl) = std::str::from_utf8(&observation.0).ok()?.split_once(' ')?;
    Some((seen.parse().ok()?, ttl.parse().ok()?))
}
