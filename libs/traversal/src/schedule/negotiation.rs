//! One negotiation, and what it waits for.

use std::time::Instant;

use domain::{ClientId, NatClass, PunchReport, SourcePrefix, Strategy, UnixMillis};

use super::{LeaseKey, Party, Ready};
use crate::plan::{Measured, Outlook};

#[derive(Debug)]
pub(super) struct Negotiation {
    pub(super) parties: [Party; 2],
    pub(super) classes: [NatClass; 2],
    pub(super) demanded: bool,
    pub(super) attempt: u8,
    pub(super) key: [u8; 32],
    pub(super) stage: Stage,
    pub(super) due: Option<(Instant, u64)>,
    pub(super) started: Instant,
    pub(super) started_at: UnixMillis,
    pub(super) ready: [Option<Ready>; 2],
    pub(super) ready_since: Instant,
    pub(super) ready_at: [Instant; 2],
    pub(super) reports: [Option<PunchReport>; 2],
    pub(super) strategy: Strategy,
    pub(super) budget: u32,
    pub(super) outlook: Outlook,
    pub(super) go_at: Option<Instant>,
    pub(super) prepared: bool,
    pub(super) remeasured: bool,
    pub(super) leases: Vec<LeaseKey>,
    /// Public addresses held in this process.
    pub(super) locked: Vec<SourcePrefix>,
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
    /// For the hard sides' addresses in this process.
    Locking,
    /// For the leases of those addresses.
    Leasing { left: usize },
    /// GO is out.
    Punching,
}

impl Negotiation {
    pub(super) fn side(&self, client: ClientId) -> Option<usize> {
        self.parties.iter().position(|party| party.client == client)
    }

    /// Both sides with what they measured; `None` unless both did.
    pub(super) fn measured(&self, now: Instant) -> Option<[Measured; 2]> {
        Some([self.measured_side(now, 0)?, self.measured_side(now, 1)?])
    }

    fn measured_side(&self, now: Instant, side: usize) -> Option<Measured> {
        let ready = self.ready[side].as_ref().filter(|ready| ready.seen.is_some() || ready.seen6.is_some())?;
        let (seen, ttl) = ready.seen.unzip();
        let (seen6, ttl6) = ready.seen6.unzip();
        Some(Measured {
            profile: self.parties[side].profile?,
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
            age: now.saturating_duration_since(self.ready_at[side]),
        })
    }

    /// The public addresses behind which nobody else may punch meanwhile: those of hard sides, each once.
    pub(super) fn locks(&self) -> Vec<SourcePrefix> {
        let hard = (0..2).filter(|&side| self.classes[side].is_hard());
        let mut locks: Vec<_> =
            hard.filter_map(|side| Some(SourcePrefix::of(self.ready[side].as_ref()?.seen?.0.ip()))).collect();
        locks.sort_unstable();
        locks.dedup();
        locks
    }
}
