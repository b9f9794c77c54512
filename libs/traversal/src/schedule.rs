//! Negotiations on the server: which pair punches when, from the wish to the record.
//!
//! ```text
//! wanted -> slots of both clients -> lease of the pair -> PREPARE -> both ready
//!        -> pace and, for a hard side, lease of its public address -> GO -> reports -> record -> rest or done
//! ```
//! Any number of processes run this at once. The lease of the pair keeps two of them from leading the same negotiation;
//! the lease of a public address serialises punches behind a NAT whose next port matters; the ladder of retries lives in
//! the pair's record, not here, so that whoever gets the next wish continues it. When a process dies its leases run out
//! and the next wish, or a resting process, starts again.
//!
//! Bounds: negotiations and resting pairs in this process, negotiations a client takes part in, four punches a second and
//! twenty waiting for a public address. What does not fit rests on the relay, and the record says why.

mod failure;
mod history;
mod pace;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};

use domain::{
    ClientId, Epoch, GatewayId, InstanceId, NatClass, NatProfile, PairOutcome, PairRecord, PunchId, PunchOrder,
    PunchPreparation, PunchReport, SourcePrefix, Strategy, UnixMillis,
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use self::{
    failure::Failure,
    history::{History, Next, retry_outlook},
    pace::Pace,
};
use crate::plan::{Measured, Outlook, Plan, measured_outlook, outlook, plan, rest};

/// How much one process takes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Negotiations at once, waiting ones included.
    pub negotiations: usize,
    /// Pairs that rest until their next attempt.
    pub resting: usize,
    /// Negotiations at once that one client takes part in.
    pub per_client: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { negotiations: 4_096, resting: 100_000, per_client: 8 }
    }
}

/// One session, as presence has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Party {
    pub client: ClientId,
    pub gateway: GatewayId,
    pub epoch: Epoch,
    pub since: UnixMillis,
    /// `None` until the client has measured its NATs.
    pub profile: Option<NatProfile>,
}

/// Somebody wants a direct path.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub parties: [Party; 2],
    /// A client says that it has no path: what was found before is worth nothing.
    pub demanded: bool,
    /// The last record of the pair.
    pub record: Option<PairRecord>,
}

/// What a client measured after PREPARE, verified by the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Where a reflector saw the punching socket, and the hop limit it received; `None` when no observation was valid.
    pub seen: Option<(SocketAddr, u8)>,
    pub local: Vec<SocketAddr>,
    pub rtt: Option<Duration>,
}

/// Something that only one process may have at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeaseKey {
    /// The smaller client first.
    Pair(ClientId, ClientId),
    Address(SourcePrefix),
}

/// What became of a wish for a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// With the record of the pair whose lease it is, read afterwards: another process may just have finished it.
    Granted(Option<Box<PairRecord>>),
    /// Somebody else has it.
    Denied,
}

/// What the caller is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask for the lease and tell [`Schedule::handle_lease`].
    Lease {
        number: u64,
        key: LeaseKey,
        ttl: Duration,
    },
    Release {
        number: u64,
        key: LeaseKey,
    },
    Prepare {
        to: Party,
        preparation: PunchPreparation,
    },
    Go {
        to: Party,
        order: PunchOrder,
    },
    /// Nothing comes of it.
    Off {
        to: Party,
        punch: PunchId,
    },
    /// Keep the record, then give the leases back, then tell both sides.
    Settle {
        parties: [Party; 2],
        record: PairRecord,
        punched: Option<Duration>,
        leases: Vec<LeaseKey>,
    },
    /// Look the pair up again and say [`Schedule::handle_wanted`].
    Again {
        a: ClientId,
        b: ClientId,
    },
}

/// The negotiations that one process leads.
#[derive(Debug)]
pub struct Schedule {
    leader: InstanceId,
    limits: Limits,
    rng: StdRng,
    next_number: u64,
    negotiations: BTreeMap<u64, Negotiation>,
    pairs: BTreeMap<(ClientId, ClientId), u64>,
    resting: BTreeMap<(ClientId, ClientId), Instant>,
    clients: BTreeMap<ClientId, Gate>,
    addresses: BTreeMap<SourcePrefix, Gate>,
    pace: Pace,
    timers: BTreeMap<(Instant, u64), Timer>,
    timer_number: u64,
    actions: VecDeque<Action>,
}

#[derive(Clone, Copy, Debug)]
enum Timer {
    Negotiation(u64),
    Rest(ClientId, ClientId),
}

#[derive(Debug)]
struct Negotiation {
    parties: [Party; 2],
    classes: [NatClass; 2],
    demanded: bool,
    attempt: u8,
    key: [u8; 32],
    stage: Stage,
    due: Option<(Instant, u64)>,
    started: Instant,
    started_at: UnixMillis,
    ready: [Option<Ready>; 2],
    ready_since: Instant,
    reports: [Option<PunchReport>; 2],
    strategy: Strategy,
    outlook: Outlook,
    go_at: Option<Instant>,
    prepared: bool,
    remeasured: bool,
    leases: Vec<LeaseKey>,
    /// Public addresses held in this process.
    locked: Vec<SourcePrefix>,
    /// Another wish with new profiles came meanwhile.
    again: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// For a slot of both clients.
    Queued,
    /// The lease of the pair was asked for.
    Claiming,
    /// PREPARE is out.
    Preparing,
    /// For its turn at both public addresses.
    Pacing,
    /// For the hard sides' addresses in this process.
    Locking,
    /// For the leases of those addresses.
    Leasing { left: usize },
    /// GO is out.
    Punching,
}

/// A bounded number at once, the others in the order of their arrival.
#[derive(Debug, Default)]
struct Gate {
    inside: usize,
    waiting: VecDeque<u64>,
}

impl Schedule {
    /// A schedule with no negotiations. `seed` must be unpredictable: punch keys are drawn from it.
    #[must_use]
    pub fn new(leader: InstanceId, limits: Limits, seed: [u8; 32]) -> Self {
        let mut rng = StdRng::from_seed(seed);
        let next_number = u64::from(rng.random::<u32>()) << 16;
        Self {
            leader,
            limits,
            rng,
            next_number,
            negotiations: BTreeMap::new(),
            pairs: BTreeMap::new(),
            resting: BTreeMap::new(),
            clients: BTreeMap::new(),
            addresses: BTreeMap::new(),
            pace: Pace::default(),
            timers: BTreeMap::new(),
            timer_number: 0,
            actions: VecDeque::new(),
        }
    }

    /// A pair is online and wants a direct path. Repeating a wish changes nothing.
    pub fn handle_wanted(&mut self, now: Instant, at: UnixMillis, wanted: Wanted) {
        let Wanted { mut parties, demanded, record } = wanted;
        parties.sort_by_key(|party| party.client);
        let pair = (parties[0].client, parties[1].client);
        let [Some(profile_a), Some(profile_b)] = [parties[0].profile, parties[1].profile] else {
            if record.is_none() {
                self.settle_unmeasured(parties, at);
            }
            return;
        };
        let classes = [profile_a.class(), profile_b.class()];
        if let Some(&number) = self.pairs.get(&pair)
            && let Some(negotiation) = self.negotiations.get_mut(&number)
        {
            if negotiation.parties.map(|party| party.epoch) == parties.map(|party| party.epoch) {
                negotiation.again |= negotiation.classes != classes;
                return;
            }
            // One of them is a new session that never saw the PREPARE.
            self.call_off(number);
            self.forget(now, number);
        }
        let outlook = outlook(classes[0], classes[1]);
        let history = History { record, parties, classes, outlook, demanded };
        match history.next(at) {
            Next::Never => {}
            Next::Settled => self.settle_hopeless(parties, classes, at),
            Next::Wait(wait) => self.rest(now, pair, wait),
            Next::Attempt(attempt) => self.start(now, at, &history, attempt),
        }
    }

    /// The answer to [`Action::Lease`].
    pub fn handle_lease(&mut self, now: Instant, at: UnixMillis, number: u64, key: LeaseKey, claim: Claim) {
        let granted = matches!(claim, Claim::Granted(_));
        let Some(negotiation) = self.negotiations.get_mut(&number) else {
            if granted {
                self.actions.push_back(Action::Release { number, key });
            }
            return;
        };
        let expected = match key {
            LeaseKey::Pair(..) => negotiation.stage == Stage::Claiming,
            LeaseKey::Address(address) => {
                matches!(negotiation.stage, Stage::Leasing { .. }) && negotiation.locked.contains(&address)
            }
        };
        if !expected {
            if granted {
                self.actions.push_back(Action::Release { number, key });
            }
            return;
        }
        if granted {
            negotiation.leases.push(key);
        }
        match (negotiation.stage, key, claim) {
            (Stage::Claiming, LeaseKey::Pair(..), Claim::Granted(record)) => self.claimed(now, at, number, record),
            (Stage::Claiming, LeaseKey::Pair(a, b), Claim::Denied) => {
                // Another process leads. Should it die, its record will be missing when we look again.
                self.forget(now, number);
                self.rest(now, (a, b), PAIR_LEASE + Duration::from_secs(1));
            }
            (Stage::Leasing { left }, LeaseKey::Address(_), Claim::Granted(_)) if left > 1 => {
                negotiation.stage = Stage::Leasing { left: left - 1 };
            }
            (Stage::Leasing { .. }, LeaseKey::Address(_), Claim::Granted(_)) => self.measured_and_locked(now, number),
            (Stage::Leasing { .. }, LeaseKey::Address(_), Claim::Denied) => {
                // Another process punches behind this address: try again soon.
                self.release_addresses(number);
                self.enter(number, Stage::Locking, Some(now + LOCK_RETRY));
            }
            _ => {}
        }
    }

    /// One side measured its sockets.
    pub fn handle_ready(&mut self, now: Instant, from: ClientId, number: u64, ready: Ready) {
        let Some(negotiation) = self.negotiations.get_mut(&number) else { return };
        let Some(side) = negotiation.side(from).filter(|_| negotiation.stage == Stage::Preparing) else { return };
        negotiation.ready[side] = Some(ready);
        if negotiation.ready.iter().all(Option::is_some) {
            negotiation.ready_since = now;
            self.both_ready(now, number);
        }
    }

    /// One side tells how its punch went.
    pub fn handle_report(&mut self, now: Instant, from: ClientId, report: PunchReport) {
        let number = report.punch.number;
        let Some(negotiation) = self.negotiations.get_mut(&number) else { return };
        let Some(side) = negotiation.side(from).filter(|_| negotiation.stage == Stage::Punching) else { return };
        negotiation.reports[side].get_or_insert(report);
        if negotiation.reports.iter().all(Option::is_some) {
            self.judge(now, number);
        }
    }

    /// The session of `client` ended: nothing can be said to it.
    pub fn handle_gone(&mut self, now: Instant, client: ClientId, number: u64) {
        if self.negotiations.get(&number).is_some_and(|negotiation| negotiation.side(client).is_some()) {
            self.call_off(number);
            self.forget(now, number);
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(entry) = self.timers.first_entry().filter(|entry| entry.key().0 <= now) {
            let (key, timer) = entry.remove_entry();
            match timer {
                Timer::Rest(a, b) => {
                    if self.resting.get(&(a, b)).is_some_and(|due| *due == key.0) {
                        self.resting.remove(&(a, b));
                        self.actions.push_back(Action::Again { a, b });
                    }
                }
                Timer::Negotiation(number) => self.negotiation_due(now, number, key),
            }
        }
    }

    /// When to call [`Self::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first_key_value().map(|(&(due, _), _)| due)
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Negotiations under way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.negotiations.len()
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.negotiations.is_empty()
    }

    /// The sessions and class of the side `client` in negotiation `number`, to judge what it says.
    #[must_use]
    pub fn party(&self, number: u64, client: ClientId) -> Option<&Party> {
        let negotiation = self.negotiations.get(&number)?;
        Some(&negotiation.parties[negotiation.side(client)?])
    }

    fn start(&mut self, now: Instant, at: UnixMillis, history: &History, attempt: u8) {
        let History { parties, classes, outlook, demanded, .. } = *history;
        let pair = (parties[0].client, parties[1].client);
        if self.negotiations.len() >= self.limits.negotiations {
            self.rest(now, pair, CROWDED_REST);
            return;
        }
        self.resting.remove(&pair);
        self.next_number += 1;
        let number = self.next_number;
        self.pairs.insert(pair, number);
        self.negotiations.insert(
            number,
            Negotiation {
                parties,
                classes,
                demanded,
                attempt,
                key: self.rng.random(),
                stage: Stage::Queued,
                due: None,
                started: now,
                started_at: at,
                ready: [None, None],
                ready_since: now,
                reports: [None, None],
                strategy: match outlook {
                    Outlook::Promising(strategy) => strategy,
                    Outlook::Doubtful | Outlook::Hopeless => Strategy::Direct,
                },
                outlook,
                go_at: None,
                prepared: false,
                remeasured: false,
                leases: Vec::new(),
                locked: Vec::new(),
                again: false,
            },
        );
        self.queue_for_clients(now, number);
    }

    /// Takes a slot of both clients or waits for the one that is missing, holding nothing meanwhile.
    fn queue_for_clients(&mut self, now: Instant, number: u64) {
        let Some(negotiation) = self.negotiations.get(&number) else { return };
        let clients = negotiation.parties.map(|party| party.client);
        let limit = self.limits.per_client;
        let full = clients.into_iter().find(|client| self.clients.get(client).is_some_and(|gate| gate.inside >= limit));
        if let Some(full) = full {
            self.clients.entry(full).or_default().waiting.push_back(number);
            return;
        }
        for client in clients {
            self.clients.entry(client).or_default().inside += 1;
        }
        let key = LeaseKey::Pair(clients[0], clients[1]);
        self.enter(number, Stage::Claiming, Some(now + LEASE_PATIENCE));
        self.actions.push_back(Action::Lease { number, key, ttl: PAIR_LEASE });
    }

    /// Nobody else leads from now on. What another process did until now counts.
    fn claimed(&mut self, now: Instant, at: UnixMillis, number: u64, record: Option<Box<PairRecord>>) {
        let Some(negotiation) = self.negotiations.get_mut(&number) else { return };
        let Negotiation { parties, classes, demanded, .. } = *negotiation;
        let outlook = outlook(classes[0], classes[1]);
        let history = History { record: record.map(|record| *record), parties, classes, outlook, demanded };
        match history.next(at) {
            Next::Attempt(attempt) => {
                negotiation.attempt = attempt;
                self.prepare(now, number);
            }
            Next::Wait(wait) => {
                self.forget(now, number);
                self.rest(now, (parties[0].client, parties[1].client), wait);
            }
            Next::Never | Next::Settled => self.forget(now, number),
        }
    }

    fn prepare(&mut self, now: Instant, number: u64) {
        let Some(negotiation) = self.negotiations.get_mut(&number) else { return };
        negotiation.ready = [None, None];
        negotiation.prepared = true;
        let punch = PunchId { leader: self.leader, number };
        let [a, b] = negotiation.parties;
        for (to, peer) in [(a, b.client), (b, a.client)] {
            let preparation = PunchPreparation { punch, peer, key: negotiation.key, sockets: 0, tcp: false };
            self.actions.push_back(Action::Prepare { to, preparation });
        }
        self.enter(number, Stage::Preparing, Some(now + READY_PATIENCE));
    }

    fn both_ready(&mut self, now: Instant, number: u64) {
        let Some(negotiation) = self.negotiations.get_mut(&number) else { return };
        let Some([a, b]) = negotiation.measured() else { return self.fail(now, number, Failure::Unmeasured) };
        negotiation.outlook = measured_outlook(&a, &b);
        if negotiation.remeasured {
            return self.go(now, number);
        }
        let turns = [a.seen, b.seen].map(|seen| self.pace.turn(now, SourcePrefix::of(seen.ip())));
        match turns {
            [Some(a), Some(b)] if a.max(b) <= now => self.lock(now, number),
            [Some(a), Some(b)] => self.enter(number, Stage::Pacing, Some(a.max(b))),
            _ => self.fail(now, number, Failure::Crowded),
        }
    }

    /// Takes the addresses of the hard sides, in this process first, then from all others by lease.
    fn lock(&mut self, now: Instant, number: u64) {
        let Some(negotiation) = self.negotiations.get(&number) else { return };
        let wanted = negotiation.locks();
        if wanted.is_empty() {
            return self.go(now, number);
        }
        let busy = wanted.iter().find(|address| self.addresses.get(address).is_some_and(|gate| gate.inside > 0));
        if let Some(busy) = busy {
            let gate = self.addresses.entry(*busy).or_default();
            if gate.waiting.len() >= MAX_WAITING {
                return self.fail(now, number, Failure::Crowded);
            }
            gate.waiting.push_back(number);
            return self.enter(number, Stage::Locking, Some(now + LOCK_PATIENCE));
        }
        for address in &wanted {
            self.addresses.entry(*address).or_default().inside += 1;
            let key = LeaseKey::Address(*address);
            self.actions.push_back(Action::Lease { number, key, ttl: ADDRESS_LEASE });
        }
        let left = wanted.len();
        if let Some(negotiation) = self.negotiations.get_mut(&number) {
            negotiation.locked = wanted;
        }
        self.enter(number, Stage::Leasing { left }, Some(now + LEASE_PATIENCE));
    }

    /// A measurement that got old in the queue says nothing about the next port of a hard side.
    fn measured_and_locked(&mut self, now: Instant, number: u64) {
        let Some(negotiation) = self.negotiations.get_mut(&number) else { return };
        if now.saturating_duration_since(negotiation.ready_since) > STALE && !negotiation.remeasured {
            negotiation.remeasured = true;
            return self.prepare(now, number);
        }
        self.go(now, number);
    }

    fn go(&mut self, now: Instant, number: u64) {
        let Some(negotiation) = self.negotiations.get_mut(&number) else { return };
        let Some([a, b]) = negotiation.measured() else { return };
        let punch = PunchId { leader: self.leader, number };
        let Plan { strategy, orders, patience } = plan(punch, negotiation.attempt, &a, &b);
        negotiation.strategy = strategy;
        negotiation.go_at = Some(now);
        for (to, order) in negotiation.parties.into_iter().zip(orders) {
            self.actions.push_back(Action::Go { to, order });
        }
        self.enter(number, Stage::Punching, Some(now + patience));
    }

    fn negotiation_due(&mut self, now: Instant, number: u64, due: (Instant, u64)) {
        let Some(negotiation) = self.negotiations.get(&number).filter(|n| n.due == Some(due)) else { return };
        match negotiation.stage {
            Stage::Queued => {}
            // Presence does not answer: a later wish will try again.
            Stage::Claiming => self.forget(now, number),
            Stage::Preparing => self.fail(now, number, Failure::NotReady),
            Stage::Pacing => self.lock(now, number),
            Stage::Locking if now < negotiation.ready_since + LOCK_PATIENCE => {
                self.leave_queues(number);
                self.lock(now, number);
            }
            Stage::Locking | Stage::Leasing { .. } => self.fail(now, number, Failure::Crowded),
            Stage::Punching => self.judge(now, number),
        }
    }

    /// Both reports are there, or will not come.
    fn judge(&mut self, now: Instant, number: u64) {
        let Some(negotiation) = self.negotiations.get(&number) else { return };
        // Three answers of each other's probes: one side cannot have them without the way back.
        if negotiation.reports.iter().flatten().any(|report| report.endpoint.is_some()) {
            self.settle(now, number, PairOutcome::Direct, String::from(DIRECT_HINT));
        } else {
            self.fail(now, number, Failure::NoContact);
        }
    }

    fn fail(&mut self, now: Instant, number: u64, failure: Failure) {
        let Some(negotiation) = self.negotiations.get(&number) else { return };
        if negotiation.prepared && negotiation.go_at.is_none() {
            self.call_off(number);
        }
        let Some(negotiation) = self.negotiations.get(&number) else { return };
        let hint = failure.hint(negotiation.outlook, negotiation.classes, negotiation.attempt);
        self.settle(now, number, PairOutcome::Relayed, hint);
    }

    fn settle(&mut self, now: Instant, number: u64, outcome: PairOutcome, hint: String) {
        let Some(negotiation) = self.negotiations.get(&number) else { return };
        let parties = negotiation.parties;
        let took = now.saturating_duration_since(negotiation.started);
        let reports = || negotiation.reports.iter().flatten();
        let record = PairRecord {
            a: parties[0].client,
            b: parties[1].client,
            class_a: Some(negotiation.classes[0]),
            class_b: Some(negotiation.classes[1]),
            strategy: match (outcome, negotiation.outlook, negotiation.go_at) {
                // The plain round of a doubtful pair failed as expected.
                (PairOutcome::Relayed, Outlook::Doubtful, Some(_)) => Strategy::Relay,
                _ => negotiation.strategy,
            },
            outcome,
            attempts: negotiation.attempt,
            started: negotiation.started_at,
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            packets: reports().fold(0, |sum, report| sum.saturating_add(report.packets)),
            relay: None,
            hint,
            trace: number,
            via: None,
            budget: 0,
            places: [0; 2],
        };
        let fastest = reports().filter(|report| report.endpoint.is_some()).map(|report| report.took_us).min();
        let punched = fastest.map(Duration::from_micros);
        let (pair, again, outlook) = ((record.a, record.b), negotiation.again, retry_outlook(&record));
        let attempts = negotiation.attempt;
        let leases = self.negotiations.get_mut(&number).map(|negotiation| std::mem::take(&mut negotiation.leases));
        let leases = leases.unwrap_or_default();
        self.actions.push_back(Action::Settle { parties, record, punched, leases });
        self.forget(now, number);
        match (outcome, again) {
            (_, true) => self.actions.push_back(Action::Again { a: pair.0, b: pair.1 }),
            (PairOutcome::Relayed, false) => {
                if let Some(wait) = rest(outlook, attempts) {
                    self.rest(now, pair, wait);
                }
            }
            (PairOutcome::Direct | PairOutcome::Pending, false) => {}
        }
    }

    fn settle_unmeasured(&mut self, parties: [Party; 2], at: UnixMillis) {
        let hint = String::from("relayed while the clients still measure their routers");
        let record = PairRecord { hint, outcome: PairOutcome::Pending, ..empty_record(&parties, at) };
        self.actions.push_back(Action::Settle { parties, record, punched: None, leases: vec![] });
    }

    fn settle_hopeless(&mut self, parties: [Party; 2], classes: [NatClass; 2], at: UnixMillis) {
        let side = if classes == [NatClass::Blocked; 2] { "both sides" } else { "one side" };
        let hint = format!("no UDP leaves the network of {side}: relayed; allowing outbound UDP there would fix it");
        let [class_a, class_b] = classes.map(Some);
        let record = PairRecord { hint, class_a, class_b, ..empty_record(&parties, at) };
        self.actions.push_back(Action::Settle { parties, record, punched: None, leases: vec![] });
    }

    fn call_off(&mut self, number: u64) {
        let Some(negotiation) = self.negotiations.get(&number).filter(|n| n.prepared) else { return };
        let punch = PunchId { leader: self.leader, number };
        for to in negotiation.parties {
            self.actions.push_back(Action::Off { to, punch });
        }
    }

    /// Ends a negotiation and lets in whoever waited for its places.
    fn forget(&mut self, now: Instant, number: u64) {
        self.leave_queues(number);
        self.release_addresses(number);
        let Some(mut negotiation) = self.negotiations.remove(&number) else { return };
        if let Some(due) = negotiation.due.take() {
            self.timers.remove(&due);
        }
        for key in negotiation.leases {
            self.actions.push_back(Action::Release { number, key });
        }
        let clients = negotiation.parties.map(|party| party.client);
        self.pairs.remove(&(clients[0], clients[1]));
        let held_slots = negotiation.stage != Stage::Queued;
        for client in clients {
            let Some(gate) = self.clients.get_mut(&client) else { continue };
            gate.inside -= usize::from(held_slots);
            self.admit(now, client);
        }
    }

    /// Lets in those that wait for a slot of `client`; one that lacks the other client's slot goes to wait there.
    fn admit(&mut self, now: Instant, client: ClientId) {
        while let Some(gate) = self.clients.get_mut(&client) {
            if gate.inside == 0 && gate.waiting.is_empty() {
                self.clients.remove(&client);
                return;
            }
            if gate.inside >= self.limits.per_client {
                return;
            }
            let Some(next) = gate.waiting.pop_front() else { return };
            self.queue_for_clients(now, next);
        }
    }

    /// Gives back the addresses of `number` and wakes the first that waits for each.
    fn release_addresses(&mut self, number: u64) {
        let Some(negotiation) = self.negotiations.get_mut(&number) else { return };
        let locked = std::mem::take(&mut negotiation.locked);
        negotiation.leases.retain(|key| match key {
            LeaseKey::Pair(..) => true,
            LeaseKey::Address(_) => {
                self.actions.push_back(Action::Release { number, key: *key });
                false
            }
        });
        for address in locked {
            let Some(gate) = self.addresses.get_mut(&address) else { continue };
            gate.inside = gate.inside.saturating_sub(1);
            let next = gate.waiting.front().copied();
            if gate.inside == 0 && next.is_none() {
                self.addresses.remove(&address);
            }
            if let Some(next) = next {
                self.wake(next);
            }
        }
    }

    /// Makes a waiting negotiation due at once, so that it tries again in the order of the timers.
    fn wake(&mut self, number: u64) {
        let Some(negotiation) = self.negotiations.get(&number) else { return };
        let (stage, now) = (negotiation.stage, negotiation.ready_since);
        self.enter(number, stage, Some(now));
    }

    fn leave_queues(&mut self, number: u64) {
        let Some(negotiation) = self.negotiations.get(&number) else { return };
        for client in negotiation.parties.map(|party| party.client) {
            if let Some(gate) = self.clients.get_mut(&client) {
                gate.waiting.retain(|waiting| *waiting != number);
            }
        }
        for address in negotiation.locks() {
            if let Some(gate) = self.addresses.get_mut(&address) {
                gate.waiting.retain(|waiting| *waiting != number);
            }
        }
    }

    fn rest(&mut self, now: Instant, pair: (ClientId, ClientId), wait: Duration) {
        let room = self.resting.len() < self.limits.resting || self.resting.contains_key(&pair);
        let due = now + wait;
        if !room || self.resting.get(&pair).is_some_and(|earlier| *earlier <= due) {
            return;
        }
        self.resting.insert(pair, due);
        self.timer_number += 1;
        self.timers.insert((due, self.timer_number), Timer::Rest(pair.0, pair.1));
    }

    fn enter(&mut self, number: u64, stage: Stage, due: Option<Instant>) {
        let Some(negotiation) = self.negotiations.get_mut(&number) else { return };
        if let Some(old) = negotiation.due.take() {
            self.timers.remove(&old);
        }
        negotiation.stage = stage;
        if let Some(due) = due {
            self.timer_number += 1;
            negotiation.due = Some((due, self.timer_number));
            self.timers.insert((due, self.timer_number), Timer::Negotiation(number));
        }
    }
}

impl Negotiation {
    fn side(&self, client: ClientId) -> Option<usize> {
        self.parties.iter().position(|party| party.client == client)
    }

    /// Both sides with what they measured; `None` unless both did.
    fn measured(&self) -> Option<[Measured; 2]> {
        Some([self.measured_side(0)?, self.measured_side(1)?])
    }

    fn measured_side(&self, side: usize) -> Option<Measured> {
        let ready = self.ready[side].as_ref()?;
        let (seen, ttl) = ready.seen?;
        Some(Measured { class: self.classes[side], seen, ttl, local: ready.local.clone(), rtt: ready.rtt })
    }

    /// The public addresses behind which nobody else may punch meanwhile: those of hard sides, each once.
    fn locks(&self) -> Vec<SourcePrefix> {
        let hard = (0..2).filter(|&side| self.classes[side].is_hard());
        let mut locks: Vec<_> =
            hard.filter_map(|side| Some(SourcePrefix::of(self.ready[side].as_ref()?.seen?.0.ip()))).collect();
        locks.sort_unstable();
        locks.dedup();
        locks
    }
}

impl fmt::Display for LeaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pair(a, b) => write!(f, "pair:{a}:{b}"),
            Self::Address(prefix) => write!(f, "nat:{:x}", prefix.bits()),
        }
    }
}

fn empty_record(parties: &[Party; 2], at: UnixMillis) -> PairRecord {
    PairRecord {
        a: parties[0].client,
        b: parties[1].client,
        class_a: parties[0].profile.map(|profile| profile.class()),
        class_b: parties[1].profile.map(|profile| profile.class()),
        strategy: Strategy::Relay,
        outcome: PairOutcome::Relayed,
        attempts: 0,
        started: at,
        took_ms: 0,
        packets: 0,
        relay: None,
        hint: String::new(),
        trace: 0,
        via: None,
        budget: 0,
        places: [0; 2],
    }
}

/// Negotiations of this process that wait for one address.
const MAX_WAITING: usize = 20;
/// Longer than the longest negotiation.
const PAIR_LEASE: Duration = Duration::from_secs(20);
/// Longer than one punch.
const ADDRESS_LEASE: Duration = Duration::from_secs(5);
const LEASE_PATIENCE: Duration = Duration::from_secs(3);
const READY_PATIENCE: Duration = Duration::from_millis(2_500);
const LOCK_PATIENCE: Duration = Duration::from_secs(6);
const LOCK_RETRY: Duration = Duration::from_millis(250);
/// After this a measurement is repeated.
const STALE: Duration = Duration::from_secs(1);
const CROWDED_REST: Duration = Duration::from_secs(5);
const DIRECT_HINT: &str = "direct: each side reaches the other's public address";
