//! The way of a negotiation from the wish to GO.

use std::time::{Duration, Instant};

use domain::{PairRecord, PunchId, PunchPreparation, SourcePrefix, Strategy, UnixMillis};
use rand::Rng as _;

use super::{
    Action, Schedule,
    failure::Failure,
    history::{History, Next},
    negotiation::{Negotiation, Stage},
};
use crate::plan::{Outlook, Plan, Recipe, Strategies, Variation, measured_outlook, outlook, plan, preparation};

impl Schedule {
    pub(super) fn start(&mut self, now: Instant, at: UnixMillis, history: &History, attempt: u8) {
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
                ready_at: [now; 2],
                reports: [None, None],
                budget: 0,
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

    /// Nobody else leads from now on. What another process did until now counts.
    pub(super) fn claimed(&mut self, now: Instant, at: UnixMillis, number: u64, record: Option<Box<PairRecord>>) {
        let Some(negotiation) = self.negotiations.get_mut(&number) else { return };
        let Negotiation { parties, classes, demanded, .. } = *negotiation;
        let [Some(profile_a), Some(profile_b)] = parties.map(|party| party.profile) else { return };
        let outlook = outlook(Strategies::default(), &profile_a, &profile_b);
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

    pub(super) fn prepare(&mut self, now: Instant, number: u64) {
        let Some(negotiation) = self.negotiations.get_mut(&number) else { return };
        negotiation.ready = [None, None];
        negotiation.prepared = true;
        let punch = PunchId { leader: self.leader, number };
        let [a, b] = negotiation.parties;
        let (Some(profile_a), Some(profile_b)) = (a.profile, b.profile) else { return };
        let variation = Variation::of(negotiation.attempt);
        let (sockets, tcp) = preparation(Strategies::default(), variation, &profile_a, &profile_b);
        for ((to, peer), sockets) in [(a, b.client), (b, a.client)].into_iter().zip(sockets) {
            let preparation = PunchPreparation { punch, peer, key: negotiation.key, sockets, tcp };
            self.actions.push_back(Action::Prepare { to, preparation });
        }
        self.enter(number, Stage::Preparing, Some(now + READY_PATIENCE));
    }

    pub(super) fn both_ready(&mut self, now: Instant, number: u64) {
        let Some(negotiation) = self.negotiations.get_mut(&number) else { return };
        let Some([a, b]) = negotiation.measured(now) else { return self.fail(now, number, Failure::Unmeasured) };
        negotiation.outlook = measured_outlook(Strategies::default(), &a, &b);
        if negotiation.remeasured {
            return self.go(now, number);
        }
        let seen = [a.seen.or(a.seen6), b.seen.or(b.seen6)].into_iter().flatten();
        let turns: Option<Vec<_>> = seen.map(|seen| self.pace.turn(now, SourcePrefix::of(seen.ip()))).collect();
        match turns.map(|turns| turns.into_iter().max().unwrap_or(now)) {
            Some(turn) if turn <= now => self.lock(now, number),
            Some(turn) => self.enter(number, Stage::Pacing, Some(turn)),
            None => self.fail(now, number, Failure::Crowded),
        }
    }

    pub(super) fn go(&mut self, now: Instant, number: u64) {
        let Some(negotiation) = self.negotiations.get_mut(&number) else { return };
        let Some([a, b]) = negotiation.measured(now) else { return };
        let punch = PunchId { leader: self.leader, number };
        let attempt = negotiation.attempt;
        let seed = negotiation.started_at.0;
        let recipe = Recipe { attempt, variation: Variation::of(attempt), seed, skip: 0 };
        let Plan { strategy, orders, patience, budget } = plan(punch, recipe, Strategies::default(), &a, &b);
        negotiation.strategy = strategy;
        negotiation.budget = budget;
        negotiation.go_at = Some(now);
        for (to, order) in negotiation.parties.into_iter().zip(orders) {
            self.actions.push_back(Action::Go { to, order });
        }
        self.enter(number, Stage::Punching, Some(now + patience));
    }
}

/// Longer than the longest negotiation.
pub(super) const PAIR_LEASE: Duration = Duration::from_secs(20);
const READY_PATIENCE: Duration = Duration::from_millis(2_500);
const CROWDED_REST: Duration = Duration::from_secs(5);
