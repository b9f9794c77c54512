//! One negotiation, and what it waits for.

use std::time::{Duration, Instant};

use domain::{ClientId, NatClass, NatProfile, PunchReport, SourcePrefix, Strategy, UnixMillis};

use super::{Budget, LeaseKey, Party, Ready};
use crate::plan::{Measured, Outlook, Plan, Recipe};

#[derive(Debug)]
pub(super) struct Negotiation {
    pub(super) parties: [Party; 2],
    pub(super) profiles: [NatProfile; 2],
    pub(super) demanded: bool,
    pub(super) recipe: Recipe,
    pub(super) key: [u8; 32],
    pub(super) stage: Stage,
    pub(super) due: Option<(Instant, u64)>,
    pub(super) started: Instant,
    pub(super) started_at: UnixMillis,
    /// What each side measured, and when that arrived.
    pub(super) ready: [Option<(Instant, Ready)>; 2],
    pub(super) reports: [Option<PunchReport>; 2],
    pub(super) outlook: Outlook,
    /// From GO on.
    pub(super) plan: Option<Plan>,
    pub(super) prepared: bool,
    pub(super) remeasured: bool,
    /// Leases that were asked for and not answered.
    pub(super) asked: Vec<LeaseKey>,
    /// The budget that another negotiation has.
    pub(super) refused: Option<Budget>,
    pub(super) leases: Vec<LeaseKey>,
    /// Budgets that were used: not given back.
    pub(super) spent: Vec<LeaseKey>,
    /// Of the leases, those that are held in this process, too.
    pub(super) locked: Vec<LeaseKey>,
    /// Since when it waits for locks.
    pub(super) locking_since: Option<Instant>,
    /// How long it waited for locks.
    pub(super) waited: Duration,
    /// Another wish with new profiles came meanwhile.
    pub(super) again: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// For a slot of both clients.
    Queued,
    /// The lease of the pair was asked for.
    Claiming,
    /// PREPARE is out.
    Preparing,
    /// For its turn at both public addresses.
    Pacing,
    /// For locks in this process: before PREPARE those of clients, after it those of public addresses.
    Locking,
    /// For the leases of those.
    Leasing,
    /// GO is out.
    Punching,
}

impl Negotiation {
    pub(super) fn side(&self, client: ClientId) -> Option<usize> {
        self.parties.iter().position(|party| party.client == client)
    }

    pub(super) fn pair(&self) -> (ClientId, ClientId) {
        (self.parties[0].client, self.parties[1].client)
    }

    pub(super) fn classes(&self) -> [NatClass; 2] {
        self.profiles.map(|profile| profile.class())
    }

    /// What the record says was tried.
    pub(super) fn strategy(&self) -> Strategy {
        match (&self.plan, self.outlook) {
            // The plain round of a doubtful pair failed as expected.
            (_, Outlook::Doubtful | Outlook::Hopeless) => Strategy::Relay,
            (Some(plan), Outlook::Promising(_)) => plan.strategy,
            (None, Outlook::Promising(strategy)) => strategy,
        }
    }

    /// Both sides with what they measured; `None` unless both did.
    pub(super) fn measured(&self, now: Instant) -> Option<[Measured; 2]> {
        Some([self.measured_side(now, 0)?, self.measured_side(now, 1)?])
    }

    fn measured_side(&self, now: Instant, side: usize) -> Option<Measured> {
        let (arrived, ready) = self.ready[side].as_ref()?;
        if ready.seen.is_none() && ready.seen6.is_none() {
            return None;
        }
        let (seen, ttl) = ready.seen.unzip();
        let (seen6, ttl6) = ready.seen6.unzip();
        Some(Measured {
            profile: self.profiles[side],
            seen,
            ttl: ttl.unwrap_or(0),
            others: ready.others.clone(),
            seen6,
            ttl6: ttl6.unwrap_or(0),
            mapped: ready.mapped,
            local: ready.local.clone(),
            lan: ready.lan,
            rtt: ready.rtt,
            jitter: ready.jitter,
            age: now.saturating_duration_since(*arrived),
        })
    }

    pub(super) fn ready(&self, side: usize) -> Option<&Ready> {
        self.ready[side].as_ref().map(|(_, ready)| ready)
    }

    /// The public IPv4 address of a side, by what it measured.
    pub(super) fn address(&self, side: usize) -> Option<SourcePrefix> {
        Some(SourcePrefix::of(self.ready(side)?.seen?.0.ip()))
    }
}
