//! What this role counts.

use contract::network::Refusal;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry};

/// How a membership call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it was asked to.
    Done,
    /// No such network or a wrong password.
    Denied,
    /// A budget was empty.
    Limited,
    /// Something else stands against it: no seat, a taken name, a plan, a broken message.
    Refused,
    /// Storage or presence failed.
    Failed,
}

impl Outcome {
    const ALL: [Self; 5] = [Self::Done, Self::Denied, Self::Limited, Self::Refused, Self::Failed];

    const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Denied => "denied",
            Self::Limited => "limited",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }

    /// The outcome of a call with this result.
    #[must_use]
    pub const fn of<T>(result: &Result<T, Refusal>) -> Self {
        match result {
            Ok(_) => Self::Done,
            Err(Refusal::Denied) => Self::Denied,
            Err(Refusal::GuessLimit { .. } | Refusal::RateLimited { .. } | Refusal::Slowed { .. }) => Self::Limited,
            Err(
                Refusal::Full
                | Refusal::AlreadyMember
                | Refusal::NameTaken
                | Refusal::NotAMember
                | Refusal::PlanLimit
                | Refusal::Malformed
                | Refusal::PeerUnknown
                | Refusal::NotPermitted
                | Refusal::Banned
                | Refusal::Locked
                | Refusal::AwaitingApproval
                | Refusal::MemberUnknown
                | Refusal::LimitReached
                | Refusal::InviteInvalid
                | Refusal::InviteExpired
                | Refusal::InviteUsedUp
                | Refusal::SecretPassed
                | Refusal::NoGateways
                | Refusal::NoSeat
                | Refusal::NotRoutable
                | Refusal::RouteTaken
                | Refusal::Blocked { .. },
            ) => Self::Refused,
            Err(Refusal::Internal { .. } | Refusal::Busy) => Self::Failed,
        }
    }
}

/// The figures of this role.
#[derive(Debug)]
pub struct Metrics {
    joins: [IntCounter; Outcome::ALL.len()],
    creations: [IntCounter; Outcome::ALL.len()],
    orders: [IntCounter; Outcome::ALL.len()],
    /// Clients that became members without an IPv4 address.
    pub pool_exhausted: IntCounter,
    /// Messages handed to gateways.
    pub pushes: IntCounter,
    /// Announcements that failed or found the queue full, and were left to the sweep.
    pub announcements_deferred: IntCounter,
    /// Changes that the sweep found unannounced, and announced.
    pub announcements_repaired: IntCounter,
    /// Networks where a change of the owner's plan gave or took seats.
    pub networks_reseated: IntCounter,
    /// Sessions that ran out without a word of their gateway.
    pub sessions_expired: IntCounter,
    /// Pairs handed to rendezvous.
    pub pairs_wanted: IntCounter,
    /// Networks left out of a snapshot that was too large.
    pub snapshots_cut: IntCounter,
    /// Membership tickets made for clients.
    pub membership_tickets: IntCounter,
    /// One step of the password protocol, the wait for a thread included.
    pub password_seconds: Histogram,
}

impl Metrics {
    /// Registers the figures.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let outcomes = |name, help| -> prometheus::Result<[IntCounter; Outcome::ALL.len()]> {
            let counters = IntCounterVec::new(Opts::new(name, help), &["outcome"])?;
            registry.register(Box::new(counters.clone()))?;
            Ok(Outcome::ALL.map(|outcome| counters.with_label_values(&[outcome.name()])))
        };
        let counter = |name, help| -> prometheus::Result<IntCounter> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let password_seconds = Histogram::with_opts(HistogramOpts::new(
            "network_password_seconds",
            "One step of the password protocol, the wait for a thread included",
        ))?;
        registry.register(Box::new(password_seconds.clone()))?;
        Ok(Self {
            joins: outcomes("network_joins_total", "Halves of joins by how they ended")?,
            creations: outcomes("network_creations_total", "Halves of creations by how they ended")?,
            orders: outcomes("network_orders_total", "Orders of owners and admins by how they ended")?,
            pool_exhausted: counter("network_pool_exhausted_total", "Members without an IPv4 address")?,
            pushes: counter("network_pushes_total", "Messages handed to gateways")?,
            announcements_deferred: counter("network_announcements_deferred_total", "Announcements left to the sweep")?,
            announcements_repaired: counter("network_announcements_repaired_total", "Announcements made by the sweep")?,
            networks_reseated: counter("network_reseated_total", "Networks whose seats a changed plan moved")?,
            sessions_expired: counter("network_sessions_expired_total", "Sessions that ran out in presence")?,
            pairs_wanted: counter("network_pairs_wanted_total", "Pairs handed to rendezvous")?,
            snapshots_cut: counter("network_snapshots_cut_total", "Networks left out of too large snapshots")?,
            membership_tickets: counter("network_membership_tickets_total", "Membership tickets made for clients")?,
            password_seconds,
        })
    }

    /// Counts half a join.
    pub fn join(&self, outcome: Outcome) {
        self.joins[outcome as usize].inc();
    }

    /// Counts half a creation.
    pub fn creation(&self, outcome: Outcome) {
        self.creations[outcome as usize].inc();
    }

    /// Counts an order.
    pub fn order(&self, outcome: Outcome) {
        self.orders[outcome as usize].inc();
    }

    /// Orders that ended so.
    #[must_use]
    pub fn orders(&self, outcome: Outcome) -> u64 {
        self.orders[outcome as usize].get()
    }

    /// Halves of joins that ended so.
    #[must_use]
    pub fn joins(&self, outcome: Outcome) -> u64 {
        self.joins[outcome as usize].get()
    }

    /// Halves of creations that ended so.
    #[must_use]
    pub fn creations(&self, outcome: Outcome) -> u64 {
        self.creations[outcome as usize].get()
    }
}
