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
use crate::plan::{Outlook, Plan, measured_outlook, outlook, plan};

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

    /// Nobody else leads from now on. What another process did until now counts.
    pub(super) fn claimed(&mut self, now: Instant, at: UnixMillis, number: u64, record: Option<Box<PairRecord>>) {
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

    pub(super) fn prepare(&mut self, now: Instant, number: u64) {
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

    pub(super) fn both_ready(&mut self, now: Instant, number: u64) {
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

    pub(super) fn go(&mut self, now: Instant, number: u64) {
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
}

/// Longer than the longest negotiation.
pub(super) const PAIR_LEASE: Duration = Duration::from_secs(20);
const READY_PATIENCE: Duration = Duration::from_millis(2_500);
const CROWDED_REST: Duration = Duration::from_secs(5);
