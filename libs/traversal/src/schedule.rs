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

mod ending;
mod failure;
mod history;
mod locks;
mod negotiation;
mod pace;
mod slots;
mod steps;
mod timers;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use domain::{
    ClientId, Epoch, GatewayId, InstanceId, NatProfile, PairRecord, PunchId, PunchOrder, PunchPreparation, PunchReport,
    SourcePrefix, UnixMillis,
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use self::{
    history::{History, Next},
    negotiation::{Negotiation, Stage},
    pace::Pace,
    slots::Gate,
    timers::Timer,
};
use crate::plan::{Strategies, outlook};

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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// Where a reflector saw the punching socket over IPv4, and the hop limit it received; `None` when no observation was
    /// valid.
    pub seen: Option<(SocketAddr, u8)>,
    /// Other public addresses that reflectors saw.
    pub others: Vec<IpAddr>,
    /// The same as `seen` of the main socket over IPv6.
    pub seen6: Option<(SocketAddr, u8)>,
    /// The outer end of a port mapping, at an address that was seen.
    pub mapped: Option<SocketAddr>,
    pub local: Vec<SocketAddr>,
    /// A hash of the default router.
    pub lan: Option<u64>,
    pub rtt: Option<Duration>,
    pub jitter: Option<Duration>,
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
        let outlook = outlook(Strategies::default(), &profile_a, &profile_b);
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
                self.rest(now, (a, b), steps::PAIR_LEASE + Duration::from_secs(1));
            }
            (Stage::Leasing { left }, LeaseKey::Address(_), Claim::Granted(_)) if left > 1 => {
                negotiation.stage = Stage::Leasing { left: left - 1 };
            }
            (Stage::Leasing { .. }, LeaseKey::Address(_), Claim::Granted(_)) => self.measured_and_locked(now, number),
            (Stage::Leasing { .. }, LeaseKey::Address(_), Claim::Denied) => {
                // Another process punches behind this address: try again soon.
                self.release_addresses(number);
                self.enter(number, Stage::Locking, Some(now + locks::LOCK_RETRY));
            }
            _ => {}
        }
    }

    /// One side measured its sockets.
    pub fn handle_ready(&mut self, now: Instant, from: ClientId, number: u64, ready: Ready) {
        let Some(negotiation) = self.negotiations.get_mut(&number) else { return };
        let Some(side) = negotiation.side(from).filter(|_| negotiation.stage == Stage::Preparing) else { return };
        negotiation.ready[side] = Some(ready);
        negotiation.ready_at[side] = now;
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
}

impl fmt::Display for LeaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pair(a, b) => write!(f, "pair:{a}:{b}"),
            Self::Address(prefix) => write!(f, "nat:{:x}", prefix.bits()),
        }
    }
}
