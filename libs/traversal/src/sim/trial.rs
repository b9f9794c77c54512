//! Clients and a server: from discovery to a verdict for each pair.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use domain::{
    ClientId, Epoch, GatewayId, InstanceId, NatProfile, PairRecord, PunchId, PunchOrder, PunchPreparation, UnixMillis,
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

pub use super::client::Found;
use super::{
    Access, Premises,
    client::{About, Client, Said},
    net::{Conditions, Net, Usage},
    observed::Observed,
    origin,
};
use crate::schedule::{Action, Claim, LeaseKey, Limits, Party, Schedule, Settled, Wanted};

/// Where the clients are.
#[derive(Clone, Debug)]
pub enum Place {
    /// Two, each at its own site.
    Apart([Premises; 2]),
    /// Two on one LAN.
    Together(Premises),
    /// Two, each at its own site behind one carrier's boxes.
    OneCarrier { carrier: Premises, sites: [Premises; 2] },
    /// Several hosts at one site, and each wants to talk to one elsewhere.
    Crowd { shared: Premises, peers: Vec<Premises> },
}

/// Who drives the punches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// The server, with all it knows.
    Server(Limits),
    /// Nobody: both send to where the other one was observed, three times, all equal. What other systems do.
    Observed,
}

/// One setting, to be tried with several seeds.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub place: Place,
    pub conditions: Conditions,
    pub driver: Driver,
    /// How long it may take.
    pub patience: Duration,
}

/// How it ended up.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub pairs: Vec<Verdict>,
    /// What left each public address.
    pub usage: Vec<(IpAddr, Usage)>,
}

/// How one pair ended up.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub profiles: [Option<NatProfile>; 2],
    /// The last record that the server made.
    pub record: Option<PairRecord>,
    /// Where each side found the other.
    pub found: [Option<Found>; 2],
    /// From the moment both profiles were known until the second side had a usable path.
    pub took: Option<Duration>,
    /// Punch packets of both sides, all attempts together.
    pub packets: u32,
    /// Those of each attempt, and the most that the server allowed.
    pub attempts: Vec<(u32, Option<u32>)>,
}

impl Verdict {
    /// Whether both sides have a usable direct path.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.found.iter().all(Option::is_some)
    }
}

/// Runs a scenario until all pairs are direct or its patience is over.
#[must_use]
pub fn run(scenario: &Scenario, seed: u64) -> Outcome {
    let mut world = World::new(scenario, seed);
    let end = world.now + scenario.patience;
    while let Some(next) = world.poll_timeout().filter(|&next| next <= end) {
        world.now = world.now.max(next);
        world.step();
        if world.is_settled() {
            break;
        }
    }
    world.outcome()
}

#[derive(Debug)]
struct World {
    start: Instant,
    now: Instant,
    rng: StdRng,
    conditions: Conditions,
    net: Net,
    clients: Vec<Client>,
    /// What the server knows of them.
    known: Vec<Option<NatProfile>>,
    pairs: Vec<Pair>,
    server: Server,
    leases: BTreeMap<LeaseKey, (u64, Instant)>,
    control: BTreeMap<(Instant, u64), (usize, Word)>,
    words: u64,
    /// When the last message arrives, for each client downwards and upwards.
    last_words: Vec<[Instant; 2]>,
}

#[derive(Debug)]
struct Pair {
    sides: [usize; 2],
    numbers: Vec<u64>,
    budgets: BTreeMap<u64, u32>,
    record: Option<PairRecord>,
    wanted_at: Option<Instant>,
}

#[derive(Debug)]
enum Server {
    Schedule(Box<Schedule>),
    Observed(Observed),
}

/// Messages between a client and the server.
#[derive(Debug)]
enum Word {
    Said(Said),
    Prepare(PunchPreparation),
    Go(PunchOrder),
    Off(PunchId),
}

impl World {
    fn new(scenario: &Scenario, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let now = origin();
        let conditions = scenario.conditions;
        let mut net = Net::new(now, conditions, StdRng::from_seed(rng.random()));
        let (hosts, pairs) = settle_down(&mut net, &scenario.place);
        let clients = hosts.iter().enumerate().map(|(number, &(host, premises))| {
            let number = u8::try_from(number).unwrap_or(u8::MAX);
            let on_first_site = match &scenario.place {
                Place::Together(_) => true,
                Place::Crowd { peers, .. } => usize::from(number) < peers.len(),
                Place::Apart(_) | Place::OneCarrier { .. } => number == 0,
            };
            let about = About {
                id: ClientId::from_bytes([number + 1; 16]),
                lan: if on_first_site { 0 } else { number.into() },
                port_mapping: premises.port_mapping,
                jitter: conditions.jitter,
                seed: rng.random(),
            };
            Client::new(now, &mut net, host, premises.access, about)
        });
        let clients: Vec<_> = clients.collect();
        let leader = InstanceId::from_bytes([9; 16]);
        let server = match scenario.driver {
            Driver::Server(limits) => Server::Schedule(Box::new(Schedule::new(leader, limits, rng.random()))),
            Driver::Observed => Server::Observed(Observed::new(leader)),
        };
        let mut world = Self {
            start: now,
            now,
            rng,
            conditions,
            net,
            known: vec![None; clients.len()],
            last_words: vec![[now; 2]; clients.len()],
            clients,
            pairs,
            server,
            leases: BTreeMap::new(),
            control: BTreeMap::new(),
            words: 0,
        };
        world.flush();
        world
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let clients = self.clients.iter().map(Client::poll_timeout);
        let control = self.control.first_key_value().map(|(&(due, _), _)| due);
        let server = match &self.server {
            Server::Schedule(schedule) => schedule.poll_timeout(),
            Server::Observed(observed) => observed.poll_timeout(),
        };
        clients.chain([self.net.poll_timeout(), server, control]).flatten().min()
    }

    fn is_settled(&self) -> bool {
        let idle = match &self.server {
            Server::Schedule(schedule) => schedule.is_empty(),
            Server::Observed(observed) => observed.is_idle(),
        };
        idle && self.pairs.iter().all(|pair| self.found(pair).iter().all(Option::is_some))
    }

    fn step(&mut self) {
        let now = self.now;
        for delivery in self.net.handle_timeout(now) {
            if let Some(client) = self.clients.iter_mut().find(|client| client.host() == delivery.host) {
                client.handle_delivery(now, &mut self.net, delivery);
            }
        }
        while let Some(entry) = self.control.first_entry().filter(|entry| entry.key().0 <= now) {
            let (side, word) = entry.remove();
            self.hear(side, word);
        }
        for client in &mut self.clients {
            client.handle_timeout(now, &mut self.net);
        }
        match &mut self.server {
            Server::Schedule(schedule) => schedule.handle_timeout(now),
            Server::Observed(observed) => observed.handle_timeout(now),
        }
        self.flush();
    }

    /// A message reached the server or a client.
    fn hear(&mut self, side: usize, word: Word) {
        let now = self.now;
        let client = &mut self.clients[side];
        match word {
            Word::Prepare(preparation) => client.handle_prepare(now, &preparation),
            Word::Go(order) => client.handle_go(now, order),
            Word::Off(punch) => client.handle_off(punch),
            Word::Said(Said::Profile(profile)) => {
                self.known[side] = Some(profile);
                for pair in 0..self.pairs.len() {
                    let sides = self.pairs[pair].sides;
                    if sides.contains(&side) {
                        if sides.iter().all(|&side| self.known[side].is_some()) {
                            self.pairs[pair].wanted_at.get_or_insert(now);
                        }
                        self.want(pair);
                    }
                }
            }
            Word::Said(Said::Ready(number, ready)) => match &mut self.server {
                Server::Schedule(schedule) => schedule.handle_ready(now, client.id, number, ready),
                Server::Observed(observed) => observed.handle_ready(client.id, number, &ready),
            },
            Word::Said(Said::Report(report)) => match &mut self.server {
                Server::Schedule(schedule) => schedule.handle_report(now, client.id, report),
                Server::Observed(observed) => observed.handle_report(now, client.id, report),
            },
        }
    }

    /// Carries out everything that the state machines want.
    fn flush(&mut self) {
        for side in 0..self.clients.len() {
            for said in self.clients[side].flush(self.now, &mut self.net) {
                self.say(side, Word::Said(said));
            }
        }
        loop {
            let action = match &mut self.server {
                Server::Schedule(schedule) => schedule.poll_action(),
                Server::Observed(observed) => observed.poll_action(),
            };
            let Some(action) = action else { break };
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Lease { number, key, ttl } => self.lease(number, key, ttl),
            Action::Release { number, key } => {
                self.leases.retain(|held, (by, _)| *held != key || *by != number);
            }
            Action::Prepare { to, preparation } => {
                let side = self.side(to);
                let pair = self.pairs.iter_mut().find(|pair| {
                    let ids = pair.sides.map(|side| self.clients[side].id);
                    ids.contains(&to.client) && ids.contains(&preparation.peer)
                });
                if let Some(pair) = pair.filter(|pair| !pair.numbers.contains(&preparation.punch.number)) {
                    pair.numbers.push(preparation.punch.number);
                }
                self.say(side, Word::Prepare(preparation));
            }
            Action::Go { to, order } => self.say(self.side(to), Word::Go(order)),
            Action::Off { to, punch } => self.say(self.side(to), Word::Off(punch)),
            Action::Settle(settled) => {
                let Settled { record, leases, .. } = *settled;
                self.leases.retain(|key, _| !leases.contains(key));
                if let Some(pair) = self.pair(record.a, record.b) {
                    let pair = &mut self.pairs[pair];
                    pair.budgets.insert(record.trace, record.budget);
                    pair.record = Some(record);
                }
            }
            Action::Again { a, b } => {
                if let Some(pair) = self.pair(a, b) {
                    self.want(pair);
                }
            }
        }
    }

    fn lease(&mut self, number: u64, key: LeaseKey, ttl: Duration) {
        let now = self.now;
        let free = self.leases.get(&key).is_none_or(|&(by, ends)| by == number || ends <= now);
        if free {
            self.leases.insert(key, (number, now + ttl));
        }
        let record = match key {
            LeaseKey::Pair(a, b) => self.pair(a, b).and_then(|pair| self.pairs[pair].record.clone()),
            LeaseKey::Client(_)
            | LeaseKey::Address(_)
            | LeaseKey::BirthdayOfClient(_)
            | LeaseKey::BirthdayAtAddress(_)
            | LeaseKey::BirthdayOfPair(..) => None,
        };
        let claim = if free { Claim::Granted(record.map(Box::new)) } else { Claim::Denied };
        let at = self.at();
        if let Server::Schedule(schedule) = &mut self.server {
            schedule.handle_lease(now, at, number, key, claim);
        }
    }

    fn want(&mut self, pair: usize) {
        let Pair { sides, record, .. } = &self.pairs[pair];
        let parties = sides.map(|side| Party {
            client: self.clients[side].id,
            gateway: GatewayId::from_bytes([0; 16]),
            epoch: Epoch(1),
            since: UnixMillis(0),
            profile: self.known[side],
        });
        let wanted = Wanted { parties, demanded: false, record: record.clone() };
        let (now, at) = (self.now, self.at());
        match &mut self.server {
            Server::Schedule(schedule) => schedule.handle_wanted(now, at, wanted),
            Server::Observed(observed) => observed.handle_wanted(now, parties),
        }
    }

    /// Control messages are never lost, but take their time; one that is lost on its way is sent again, and those behind it
    /// wait.
    fn say(&mut self, side: usize, word: Word) {
        self.words += 1;
        let Access { up, down, .. } = self.clients[side].access;
        let upwards = matches!(word, Word::Said(_));
        let mut delay = if upwards { up } else { down } + self.conditions.jitter.mul_f64(self.rng.random());
        if self.rng.random_bool(self.conditions.loss) {
            delay += RETRANSMISSION + up + down;
        }
        let last = &mut self.last_words[side][usize::from(upwards)];
        *last = (self.now + delay).max(*last);
        self.control.insert((*last, self.words), (side, word));
    }

    fn side(&self, party: Party) -> usize {
        self.clients.iter().position(|client| client.id == party.client).unwrap_or(0)
    }

    fn pair(&self, a: ClientId, b: ClientId) -> Option<usize> {
        let ids = |pair: &Pair| pair.sides.map(|side| self.clients[side].id);
        self.pairs.iter().position(|pair| ids(pair) == [a, b] || ids(pair) == [b, a])
    }

    fn at(&self) -> UnixMillis {
        UnixMillis(1).plus(self.now - self.start)
    }

    /// Where the sides of a pair found one another, in the same negotiation.
    fn found(&self, pair: &Pair) -> [Option<Found>; 2] {
        let found = |number: &u64| pair.sides.map(|side| self.clients[side].found.get(number).copied());
        let both = pair.numbers.iter().map(found).find(|found| found.iter().all(Option::is_some));
        both.or_else(|| pair.numbers.last().map(found)).unwrap_or_default()
    }

    fn outcome(self) -> Outcome {
        let verdict = |pair: &Pair| {
            let found = self.found(pair);
            let both = found[0].zip(found[1]).map(|(a, b)| a.at.max(b.at));
            let packets = |number: &u64| {
                pair.sides.map(|side| self.clients[side].packets.get(number).copied().unwrap_or(0)).iter().sum()
            };
            let attempts: Vec<(u32, Option<u32>)> =
                pair.numbers.iter().map(|number| (packets(number), pair.budgets.get(number).copied())).collect();
            Verdict {
                profiles: pair.sides.map(|side| self.known[side]),
                record: pair.record.clone(),
                found,
                took: both.zip(pair.wanted_at).map(|(last, wanted)| last.saturating_duration_since(wanted)),
                packets: attempts.iter().map(|(packets, _)| packets).sum(),
                attempts,
            }
        };
        Outcome { pairs: self.pairs.iter().map(verdict).collect(), usage: self.net.usage().collect() }
    }
}

/// Until TCP repeats the segment of a control message (its least time-out on Linux).
const RETRANSMISSION: Duration = Duration::from_millis(200);

/// Builds the sites; returns the hosts with where they are, and the pairs of them by place in that list.
fn settle_down<'place>(net: &mut Net, place: &'place Place) -> (Vec<(usize, &'place Premises)>, Vec<Pair>) {
    let pair = |sides| Pair { sides, numbers: vec![], budgets: BTreeMap::new(), record: None, wanted_at: None };
    match place {
        Place::Apart(sites) => {
            (sites.iter().map(|premises| (net.add_site(premises, 1), premises)).collect(), vec![pair([0, 1])])
        }
        Place::Together(premises) => {
            let first = net.add_site(premises, 2);
            (vec![(first, premises), (first + 1, premises)], vec![pair([0, 1])])
        }
        Place::OneCarrier { carrier, sites } => {
            let hosts = net.add_customers(carrier, sites);
            (hosts.into_iter().zip(sites).collect(), vec![pair([0, 1])])
        }
        Place::Crowd { shared, peers } => {
            let count = u8::try_from(peers.len()).unwrap_or(u8::MAX);
            let first = net.add_site(shared, count);
            let crowd = (0..peers.len()).map(|number| (first + number, shared));
            let mut hosts: Vec<_> = crowd.collect();
            hosts.extend(peers.iter().map(|premises| (net.add_site(premises, 1), premises)));
            (hosts, (0..peers.len()).map(|number| pair([number, number + peers.len()])).collect())
        }
    }
}
