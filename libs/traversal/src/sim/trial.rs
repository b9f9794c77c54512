//! Two clients and a server: from discovery to a verdict.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use domain::{
    ClientId, Epoch, GatewayId, InstanceId, NatProfile, Observation, PairRecord, PunchOrder, PunchPreparation,
    PunchReport, SessionTag, UnixMillis,
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::{
    Access, Premises,
    net::{Conditions, Delivery, Net, Payload, REFLECTORS},
    origin,
};
use crate::{
    discover::{Discovery, Measurement, Reflectors, Socket},
    punch::{self, Punch},
    schedule::{Action, Claim, LeaseKey, Limits, Party, Ready, Schedule, Wanted},
};

const MAIN_PORT: u16 = 7_000;
const SPARE_PORT: u16 = 7_001;

/// How a pair ended up.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub profiles: [Option<NatProfile>; 2],
    /// The last record that the server made.
    pub record: Option<PairRecord>,
    /// Where each side found the other.
    pub found: [Option<SocketAddr>; 2],
    /// From the moment both profiles were known until the second side had a usable path.
    pub took: Option<Duration>,
    /// Punch packets of both sides, all attempts together.
    pub packets: u32,
    /// The most punch packets that one side sent in one attempt.
    pub most_packets: u32,
}

impl Verdict {
    /// Whether both sides have a usable direct path.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.found.iter().all(Option::is_some)
    }
}

/// Where the two clients are.
#[derive(Clone, Debug)]
pub enum Place {
    Apart([Premises; 2]),
    /// On one LAN.
    Together(Premises),
}

/// Runs a pair until it is direct or `patience` is over.
#[must_use]
pub fn run(place: &Place, conditions: Conditions, seed: u64, patience: Duration) -> Verdict {
    let mut world = World::new(place, conditions, seed);
    let end = world.now + patience;
    while let Some(next) = world.poll_timeout().filter(|&next| next <= end) {
        world.now = world.now.max(next);
        world.step();
        if world.clients.iter().all(|client| client.found.is_some()) && world.schedule.is_empty() {
            break;
        }
    }
    world.verdict()
}

struct World {
    start: Instant,
    now: Instant,
    rng: StdRng,
    conditions: Conditions,
    net: Net,
    clients: [Client; 2],
    schedule: Schedule,
    leases: BTreeMap<LeaseKey, u64>,
    control: BTreeMap<(Instant, u64), Word>,
    words: u64,
    record: Option<PairRecord>,
    wanted_at: Option<Instant>,
    packets: u32,
}

struct Client {
    id: ClientId,
    host: usize,
    access: Access,
    discovery: Discovery,
    profile: Option<NatProfile>,
    measurement: Option<(u64, Measurement)>,
    punch: Option<Punch>,
    found: Option<SocketAddr>,
    found_at: Option<Instant>,
    sent: u32,
    most: u32,
}

/// Messages between clients and server.
enum Word {
    Profile(usize, NatProfile),
    Prepare(usize, PunchPreparation),
    Ready(usize, u64, Vec<Observation>),
    Go(usize, PunchOrder),
    Off(usize),
    Report(usize, PunchReport),
}

impl World {
    fn new(place: &Place, conditions: Conditions, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let now = origin();
        let mut net = Net::new(now, conditions, StdRng::from_seed(rng.random()));
        let access = match place {
            Place::Apart([a, b]) => [a.access, b.access],
            Place::Together(premises) => [premises.access; 2],
        };
        let hosts = match place {
            Place::Apart([a, b]) => [net.add_site(a, 1), net.add_site(b, 1)],
            Place::Together(boxes) => {
                let first = net.add_site(boxes, 2);
                [first, first + 1]
            }
        };
        let clients = [0, 1].map(|side| {
            let host = hosts[side];
            let id = ClientId::from_bytes([u8::try_from(host).unwrap_or(u8::MAX) + 1; 16]);
            let reflectors = Reflectors::new(&REFLECTORS[..3]).expect("three endpoints");
            Client {
                id,
                host,
                access: access[side],
                discovery: Discovery::new(now, reflectors, SessionTag([0; 16]), MAIN_PORT, rng.random()),
                profile: None,
                measurement: None,
                punch: None,
                found: None,
                found_at: None,
                sent: 0,
                most: 0,
            }
        });
        let leader = InstanceId::from_bytes([9; 16]);
        let schedule = Schedule::new(leader, Limits::default(), rng.random());
        let mut world = Self {
            start: now,
            now,
            rng,
            conditions,
            net,
            clients,
            schedule,
            leases: BTreeMap::new(),
            control: BTreeMap::new(),
            words: 0,
            record: None,
            wanted_at: None,
            packets: 0,
        };
        world.flush();
        world
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let clients = self.clients.iter().flat_map(|client| {
            let measurement = client.measurement.as_ref().and_then(|(_, measurement)| measurement.poll_timeout());
            let punch = client.punch.as_ref().and_then(Punch::poll_timeout);
            [client.discovery.poll_timeout(), measurement, punch]
        });
        let control = self.control.first_key_value().map(|(&(due, _), _)| due);
        clients.chain([self.net.poll_timeout(), self.schedule.poll_timeout(), control]).flatten().min()
    }

    fn step(&mut self) {
        for delivery in self.net.handle_timeout(self.now) {
            self.deliver(delivery);
        }
        while let Some(entry) = self.control.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let word = entry.remove();
            self.hear(word);
        }
        let now = self.now;
        for client in &mut self.clients {
            client.discovery.handle_timeout(now);
            if let Some((_, measurement)) = &mut client.measurement {
                measurement.handle_timeout(now);
            }
            if let Some(punch) = &mut client.punch {
                punch.handle_timeout(now);
            }
        }
        self.schedule.handle_timeout(now);
        self.flush();
    }

    /// A packet reached a host.
    fn deliver(&mut self, delivery: Delivery) {
        let Some(client) = self.clients.iter_mut().find(|client| client.host == delivery.host) else { return };
        let socket = match delivery.port {
            MAIN_PORT => Socket::Main,
            SPARE_PORT => Socket::Spare,
            _ => return,
        };
        match delivery.payload {
            Payload::Question(_) => {}
            Payload::Answer(reflected) => {
                client.discovery.handle_answer(self.now, socket, delivery.from, reflected.clone());
                if let Some((_, measurement)) = &mut client.measurement {
                    measurement.handle_answer(socket, delivery.from, reflected);
                }
            }
            Payload::Punch(packet) => {
                if let Some(punch) = &mut client.punch {
                    punch.handle_packet(self.now, delivery.from, packet);
                }
            }
        }
    }

    /// A message reached the server or a client.
    fn hear(&mut self, word: Word) {
        let now = self.now;
        match word {
            Word::Profile(side, profile) => {
                self.clients[side].profile = Some(profile);
                if self.clients.iter().all(|client| client.profile.is_some()) {
                    self.wanted_at.get_or_insert(now);
                }
                self.want();
            }
            Word::Prepare(side, preparation) => {
                let reflectors = Reflectors::new(&REFLECTORS[..3]).expect("three endpoints");
                let seed = self.rng.random();
                let tag = SessionTag([0; 16]);
                let measurement = Measurement::new(now, preparation.sockets, reflectors, tag, seed);
                let client = &mut self.clients[side];
                client.measurement = Some((preparation.punch.number, measurement));
                client.punch = Some(Punch::new(now, preparation.punch, self.rng.random()));
                client.sent = 0;
            }
            Word::Ready(side, number, observations) => {
                let ready = Ready {
                    seen: observations.first().and_then(unsealed),
                    local: vec![SocketAddr::new(self.net.address(self.clients[side].host), MAIN_PORT)],
                    rtt: Some(self.clients[side].access.up + self.clients[side].access.down),
                };
                self.schedule.handle_ready(now, self.clients[side].id, number, ready);
            }
            Word::Go(side, order) => {
                if let Some(punch) = &mut self.clients[side].punch {
                    punch.handle_order(now, order);
                }
            }
            Word::Off(side) => {
                if let Some(punch) = &mut self.clients[side].punch {
                    punch.handle_cancel();
                }
            }
            Word::Report(side, report) => self.schedule.handle_report(now, self.clients[side].id, report),
        }
    }

    /// Carries out everything that the state machines want.
    fn flush(&mut self) {
        for side in 0..2 {
            self.flush_client(side);
        }
        while let Some(action) = self.schedule.poll_action() {
            self.act(action);
        }
    }

    fn flush_client(&mut self, side: usize) {
        let now = self.now;
        let client = &mut self.clients[side];
        let mut asks: Vec<_> = std::iter::from_fn(|| client.discovery.poll_transmit()).collect();
        let mut words: Vec<_> = std::iter::from_fn(|| client.discovery.poll_event())
            .map(|discovered| Word::Profile(side, discovered.profile))
            .collect();
        if let Some((number, measurement)) = &mut client.measurement {
            asks.extend(std::iter::from_fn(|| measurement.poll_transmit()));
            if let Some(observations) = measurement.poll_event() {
                words.push(Word::Ready(side, *number, observations));
                client.measurement = None;
            }
        }
        let mut transmits = vec![];
        let mut over = false;
        if let Some(punch) = &mut client.punch {
            transmits.extend(std::iter::from_fn(|| punch.poll_transmit()));
            while let Some(event) = punch.poll_event() {
                match event {
                    punch::Event::Usable { endpoint, .. } => {
                        client.found.get_or_insert(endpoint);
                        client.found_at.get_or_insert(now);
                    }
                    punch::Event::Finished(report) => words.push(Word::Report(side, report)),
                    punch::Event::Over => over = true,
                }
            }
        }
        let sent = u32::try_from(transmits.len()).unwrap_or(u32::MAX);
        client.sent += sent;
        client.most = client.most.max(client.sent);
        if over {
            client.punch = None;
        }
        let host = client.host;
        self.packets += sent;
        for ask in asks {
            let port = if ask.socket == Socket::Spare { SPARE_PORT } else { MAIN_PORT };
            self.net.send(now, host, port, ask.to, None, Payload::Question(ask.probe));
        }
        for transmit in transmits {
            self.net.send(now, host, MAIN_PORT, transmit.to, transmit.ttl, Payload::Punch(transmit.packet));
        }
        for word in words {
            self.say(side, word);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Lease { number, key, .. } => {
                let free = *self.leases.entry(key).or_insert(number) == number;
                let record = self.record.clone().map(Box::new);
                let claim = if free { Claim::Granted(record) } else { Claim::Denied };
                let at = UnixMillis(1).plus(self.now - self.start);
                self.schedule.handle_lease(self.now, at, number, key, claim);
            }
            Action::Release { key, .. } => {
                self.leases.remove(&key);
            }
            Action::Prepare { to, preparation } => self.say(self.side(to), Word::Prepare(self.side(to), preparation)),
            Action::Go { to, order } => self.say(self.side(to), Word::Go(self.side(to), order)),
            Action::Off { to, .. } => self.say(self.side(to), Word::Off(self.side(to))),
            Action::Settle { record, leases, .. } => {
                self.record = Some(record);
                self.leases.retain(|key, _| !leases.contains(key));
            }
            Action::Again { .. } => self.want(),
        }
    }

    fn want(&mut self) {
        let parties = [0, 1].map(|side| Party {
            client: self.clients[side].id,
            gateway: GatewayId::from_bytes([0; 16]),
            epoch: Epoch(1),
            since: UnixMillis(0),
            profile: self.clients[side].profile,
        });
        let at = UnixMillis(1).plus(self.now - self.start);
        let wanted = Wanted { parties, demanded: false, record: self.record.clone() };
        self.schedule.handle_wanted(self.now, at, wanted);
    }

    /// Control messages are never lost, but take their time.
    fn say(&mut self, side: usize, word: Word) {
        self.words += 1;
        let jitter = self.conditions.jitter.mul_f64(self.rng.random());
        let delay = self.clients[side].access.up;
        self.control.insert((self.now + delay + jitter, self.words), word);
    }

    fn side(&self, party: Party) -> usize {
        usize::from(self.clients[0].id != party.client)
    }

    fn verdict(self) -> Verdict {
        let found_at = self.clients.iter().map(|client| client.found_at).collect::<Option<Vec<_>>>();
        let last = found_at.and_then(|at| at.into_iter().max());
        Verdict {
            profiles: [0, 1].map(|side| self.clients[side].profile),
            record: self.record,
            found: [0, 1].map(|side| self.clients[side].found),
            took: last.zip(self.wanted_at).map(|(last, wanted)| last.saturating_duration_since(wanted)),
            packets: self.packets,
            most_packets: self.clients.iter().map(|client| client.most).max().unwrap_or(0),
        }
    }
}

fn unsealed(observation: &Observation) -> Option<(SocketAddr, u8)> {
    let (seen, ttl) = std::str::from_utf8(&observation.0).ok()?.split_once(' ')?;
    Some((seen.parse().ok()?, ttl.parse().ok()?))
}
