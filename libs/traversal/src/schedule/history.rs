//! What is due now, read from the record of a pair: any process continues what another one began.

use std::time::Duration;

use domain::{NatProfile, PairOutcome, PairRecord, Strategy, UnixMillis};

use super::{Party, ladder::rest};
use crate::plan::Outlook;

/// What happened to a pair before.
pub(super) struct History {
    pub(super) record: Option<PairRecord>,
    pub(super) parties: [Party; 2],
    pub(super) profiles: [NatProfile; 2],
    pub(super) outlook: Outlook,
    pub(super) demanded: bool,
}

pub(super) enum Next {
    /// Nothing new to find out.
    Never,
    /// Cannot work, and the pair does not know yet.
    Settled,
    Wait(Duration),
    Attempt(u8),
}

impl History {
    /// What is due at `at`.
    pub(super) fn next(&self, at: UnixMillis) -> Next {
        let Some(record) = self.record.as_ref().filter(|record| record.outcome != PairOutcome::Pending) else {
            return if self.outlook == Outlook::Hopeless { Next::Settled } else { Next::Attempt(1) };
        };
        let fresh = self.is_fresh(record);
        if self.outlook == Outlook::Hopeless {
            return if fresh { Next::Settled } else { Next::Never };
        }
        let ended = record.started.plus(Duration::from_millis(record.took_ms));
        let (attempt, pause) = match (fresh, record.outcome) {
            (true, _) => (1, RESTART),
            (false, PairOutcome::Direct | PairOutcome::Pending) => return Next::Never,
            (false, PairOutcome::Relayed) => match rest(retry_outlook(record), record.attempts) {
                Some(pause) => (record.attempts.saturating_add(1), pause),
                None => return Next::Never,
            },
        };
        let due = ended.plus(pause);
        // Another process's clock may be ahead of ours.
        if due > at { Next::Wait(due.since(at).min(pause)) } else { Next::Attempt(attempt) }
    }

    /// Whether what was tried says nothing about now: another session, network or class, or a port mapping or IPv6 that
    /// makes possible what was not.
    fn is_fresh(&self, record: &PairRecord) -> bool {
        let newer_session = self.parties.iter().any(|party| party.since > record.started);
        let elsewhere = record.places != self.profiles.map(|profile| profile.place);
        let other_class = [record.class_a, record.class_b] != self.profiles.map(|profile| Some(profile.class()));
        let better = record.outcome == PairOutcome::Relayed
            && matches!(self.outlook, Outlook::Promising(strategy) if strategy < record.strategy);
        let lost = self.demanded && record.outcome == PairOutcome::Direct;
        newer_session || elsewhere || other_class || better || lost
    }
}

/// What the next attempt after `record` can hope for: its strategy says what the measured addresses said.
pub(super) const fn retry_outlook(record: &PairRecord) -> Outlook {
    match record.strategy {
        Strategy::Relay => Outlook::Doubtful,
        Strategy::Direct
        | Strategy::Reveal
        | Strategy::Predict
        | Strategy::Sweep
        | Strategy::Birthday
        | Strategy::Tcp => Outlook::Promising(record.strategy),
    }
}

/// Between two ladders of one pair, whatever its clients claim.
const RESTART: Duration = Duration::from_secs(5);
