//! Negotiations on the server: which pair punches when, from the wish to the record.
//!
//! ```text
//! wanted -> slots of both clients -> lease of the pair -> locks of clients -> PREPARE -> both ready
//!        -> pace, and locks of public addresses -> GO -> reports -> record -> rest or done
//! ```
//! Any number of processes run this at once. The lease of the pair keeps two of them from leading the same negotiation;
//! the lease of a public address serialises punches behind a NAT whose next port matters (see `locks`); the ladder of
//! retries lives in the pair's record, not here, so that whoever gets the next wish continues it. When a process dies its leases run out
//! and the next wish, or a resting process, starts again.
//!
//! Bounds: negotiations and resting pairs in this process, negotiations a client takes part in, four punches a second and
//! twenty waiting for a public address, and what punches cost the routers on their way (see `budget`). What does not fit rests on the relay, and the record says why.

mod budget;
mod ending;
mod history;
mod ladder;
mod locks;
mod negotiation;
mod pace;
mod scores;
mod slots;
mod steps;
mod timers;
mod why;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use domain::{
    ClientId, Epoch, GatewayId, InstanceId, NatClass, NatProfile, PairOutcome, PairRecord, PunchId, PunchOrder,
    PunchPreparation, PunchReport, SourcePrefix, UnixMillis,
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

pub use self::budget::Budget;
use self::{
    budget::Flows,
    history::Next,
    negotiation::{Negotiation, Stage},
    pace::Pace,
    scores::Scores,
    slots::Gate,
    timers::Timer,
};
use crate::plan::{Outlook, Strategies, outlook};

/// How much one process takes on, and by which means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Negotiations at once, waiting ones included.
    pub negotiations: usize,
    /// Pairs that rest until their next attempt.
    pub resting: usize,
    /// Negotiations at once that one client takes part in.
    pub per_client: usize,
    /// How a path may be looked for.
    pub strategies: Strategies,
    /// One punch at a time behind each sequential NAT; without it they take one another's predicted ports.
    pub serialise: bool,
}

impl Default for Limits {
    fn default() -> Self {
        let strategies = Strategies::default();
        Self { negotiations: 4_096, resting: 100_000, per_client: 8, strategies, serialise: true }
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
    /// A client behind a random NAT.
    Client(ClientId),
    /// The public address of a sequential NAT.
    Address(SourcePrefix),
    /// To try many ports: not given back.
    BirthdayOfClient(ClientId),
    /// The same, of the address that the tries go out from.
    BirthdayAtAddress(SourcePrefix),
    /// The same, the last number counting up to a bound.
    BirthdayOfPair(ClientId, ClientId, u8),
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
    Settle(Box<Settled>),
    /// Look the pair up again and say [`Schedule::handle_wanted`].
    Again {
        a: ClientId,
        b: ClientId,
    },
}

/// An attempt that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    pub parties: [Party; 2],
    pub record: PairRecord,
    /// From the common start to the first answer.
    pub punched: Option<Duration>,
    /// For locks.
    pub waited: Duration,
    /// What was used up, so that it did not begin.
    pub refused: Option<Budget>,
    pub leases: Vec<LeaseKey>,
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
    locks: BTreeMap<LeaseKey, Gate>,
    pace: Pace,
    flows: Flows,
    scores: Scores,
    timers: BTreeMap<(Instant, u64), Timer>,
    timer_number: u64,
    actions: VecDeque<Action>,
}

/// Whether a client is about to find out how its NAT chooses ports: without that it would be taken for a random one.
fn is_undecided(party: &Party, profile: &NatProfile, at: UnixMillis) -> bool {
    let young = at < party.since.plus(UNDECIDED * 2);
    young && profile.class() == NatClass::Random && profile.allocation.is_none() && !profile.pool
}

/// From the first report of a discovery to its last, at most.
const UNDECIDED: Duration = Duration::from_secs(2);

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
            locks: BTreeMap::new(),
            pace: Pace::default(),
            flows: Flows::default(),
            scores: Scores::new(),
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
        let profiles = [profile_a, profile_b];
        if let Some(&number) = self.pairs.get(&pair)
            && let Some(negotiation) = self.negotiations.get_mut(&number)
        {
            if negotiation.parties.map(|party| party.epoch) == parties.map(|party| party.epoch) {
                let key = |profile: &NatProfile| (profile.class(), profile.place, profile.port_mapping, profile.ipv6);
                negotiation.again |= negotiation.profiles.each_ref().map(key) != profiles.each_ref().map(key);
                return;
            }
            // One of them is a new session that never saw the PREPARE.
            self.call_off(number);
            self.forget(now, number);
        }
        let new = record.as_ref().is_none_or(|record| record.outcome == PairOutcome::Pending);
        let matters = match outlook(self.limits.strategies, &profile_a, &profile_b) {
            Outlook::Promising(strategy) => strategy == domain::Strategy::Birthday,
            Outlook::Doubtful => true,
            Outlook::Hopeless => false,
        };
        if new && matters && parties.iter().zip(&profiles).any(|(party, profile)| is_undecided(party, profile, at)) {
            if record.is_none() {
                self.settle_unmeasured(parties, at);
            }
            return self.rest(now, pair, UNDECIDED);
        }
        let history = self.history(record, parties, profiles, demanded);
        match history.next(at) {
            Next::Never => {}
            Next::Settled => self.settle_hopeless(parties, profiles, at),
            Next::Wait(wait) => self.rest(now, pair, wait),
            Next::Attempt(attempt) => self.start(now, at, &history, attempt),
        }
    }

    /// The answer to [`Action::Lease`].
    pub fn handle_lease(&mut self, now: Instant, at: UnixMillis, number: u64, key: LeaseKey, claim: Claim) {
        let Some(negotiation) = self.negotiations.get_mut(&number) else {
            // A budget may have been spent: it runs out by itself.
            if matches!(claim, Claim::Granted(_)) && !key.is_budget() {
                self.actions.push_back(Action::Release { number, key });
            }
            return;
        };
        let asked = negotiation.asked.iter().position(|asked| *asked == key);
        match (asked, claim) {
            (None, Claim::Denied) => {}
            // Asked for once more: to have it longer, or when another process had what goes with it.
            (None, Claim::Granted(_)) if negotiation.leases.contains(&key) || negotiation.spent.contains(&key) => {}
            (None, Claim::Granted(_)) => self.actions.push_back(Action::Release { number, key }),
            (Some(place), Claim::Denied) => {
                negotiation.asked.swap_remove(place);
                self.lease_denied(now, number, key);
            }
            (Some(place), Claim::Granted(record)) => {
                negotiation.asked.swap_remove(place);
                negotiation.leases.push(key);
                if let LeaseKey::Pair(..) = key {
                    self.claimed(now, at, number, record);
                } else {
                    self.lease_answered(now, number);
                }
            }
        }
    }

    /// One side measured its sockets.
    pub fn handle_ready(&mut self, now: Instant, from: ClientId, number: u64, ready: Ready) {
        let Some(negotiation) = self.negotiations.get_mut(&number) else { return };
        let Some(side) = negotiation.side(from).filter(|_| negotiation.stage == Stage::Preparing) else { return };
        negotiation.ready[side].get_or_insert((now, ready));
        if negotiation.ready.iter().all(Option::is_some) {
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
            Self::Client(client) => write!(f, "punching:{client}"),
            Self::Address(prefix) => write!(f, "nat:{:x}", prefix.bits()),
            Self::BirthdayOfClient(client) => write!(f, "birthday:client:{client}"),
            Self::BirthdayAtAddress(prefix) => write!(f, "birthday:nat:{:x}", prefix.bits()),
            Self::BirthdayOfPair(a, b, nth) => write!(f, "birthday:pair:{a}:{b}:{nth}"),
        }
    }
}
