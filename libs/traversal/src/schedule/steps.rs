//! The way of a negotiation from the wish to GO.

use std::time::{Duration, Instant};

use domain::{NatClass, NatProfile, PairRecord, PunchId, PunchPreparation, SourcePrefix, Strategy, UnixMillis};
use rand::Rng as _;

use super::{
    Action, Party, Schedule,
    budget::Budget,
    history::{History, Next},
    ladder::recipe,
    negotiation::{Negotiation, Stage},
    why::Failure,
};
use crate::{
    plan::{Measured, Plan, measured_outlook, outlook, plan, preparation},
    punch::most_packets,
};

impl Schedule {
    /// What the profiles of a pair promise, and what was tried.
    pub(super) fn history(
        &self,
        record: Option<PairRecord>,
        parties: [Party; 2],
        profiles: [NatProfile; 2],
        demanded: bool,
    ) -> History {
        let outlook = outlook(self.limits.strategies, &profiles[0], &profiles[1]);
        History { record, parties, profiles, outlook, demanded }
    }

    pub(super) fn start(&mut self, now: Instant, at: UnixMillis, history: &History, attempt: u8) {
        let History { parties, profiles, outlook, demanded, .. } = *history;
        let pair = (parties[0].client, parties[1].client);
        if self.negotiations.len() >= self.limits.negotiations {
            self.rest(now, pair, CROWDED_REST);
            return;
        }
        self.resting.remove(&pair);
        self.next_number += 1;
        let number = self.next_number;
        self.pairs.insert(pair, number);
        let negotiation = Negotiation {
            parties,
            profiles,
            demanded,
            recipe: recipe(&mut self.scores, pair, outlook, attempt),
            key: self.rng.random(),
            stage: Stage::Queued,
            due: None,
            started: now,
            started_at: at,
            ready: [None, None],
            reports: [None, None],
            outlook,
            plan: None,
            prepared: false,
            remeasured: false,
            asked: Vec::new(),
            refused: None,
            leases: Vec::new(),
            spent: Vec::new(),
            locked: Vec::new(),
            locking_since: None,
            waited: Duration::ZERO,
            again: false,
        };
        self.negotiations.insert(number, negotiation);
        self.queue_for_clients(now, number);
    }

    /// Nobody else leads from now on. What another process did until now counts.
    pub(super) fn claimed(&mut self, now: Instant, at: UnixMillis, number: u64, record: Option<Box<PairRecord>>) {
        let Some(negotiation) = self.negotiations.get(&number) else { return };
        let Negotiation { parties, profiles, demanded, .. } = *negotiation;
        let pair = negotiation.pair();
        let history = self.history(record.map(|record| *record), parties, profiles, demanded);
        match history.next(at) {
            Next::Attempt(attempt) => {
                let recipe = recipe(&mut self.scores, pair, history.outlook, attempt);
                if let Some(negotiation) = self.negotiations.get_mut(&number) {
                    negotiation.recipe = recipe;
                }
                self.lock(now, number);
            }
            Next::Wait(wait) => {
                self.forget(now, number);
                self.rest(now, pair, wait);
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
        let [profile_a, profile_b] = &negotiation.profiles;
        let variation = negotiation.recipe.variation;
        let (sockets, tcp) = preparation(self.limits.strategies, variation, profile_a, profile_b);
        for ((to, peer), sockets) in [(a, b.client), (b, a.client)].into_iter().zip(sockets) {
            let preparation = PunchPreparation { punch, peer, key: negotiation.key, sockets, tcp };
            self.actions.push_back(Action::Prepare { to, preparation });
        }
        self.enter(number, Stage::Preparing, Some(now + READY_PATIENCE));
    }

    pub(super) fn both_ready(&mut self, now: Instant, number: u64) {
        let Some(negotiation) = self.negotiations.get_mut(&number) else { return };
        let Some([a, b]) = negotiation.measured(now) else { return self.fail(now, number, Failure::Unmeasured) };
        negotiation.outlook = measured_outlook(self.limits.strategies, &a, &b);
        for side in 0..2 {
            if let Some(address) = negotiation.address(side) {
                self.scores.seen(negotiation.parties[side].client, address);
            }
        }
        if negotiation.remeasured {
            return self.go(now, number);
        }
        // A preview: the order itself is made when it is this pair's turn.
        let punch = PunchId { leader: self.leader, number };
        let orders = plan(punch, negotiation.recipe, self.limits.strategies, &a, &b).orders;
        let seen = [a.seen.or(a.seen6), b.seen.or(b.seen6)].into_iter().zip(&orders);
        let seen = seen.filter_map(|(seen, order)| Some((SourcePrefix::of(seen?.ip()), order)));
        let turns: Option<Vec<_>> = seen.map(|(address, order)| self.pace.turn(now, address, order)).collect();
        match turns.map(|turns| turns.into_iter().max().unwrap_or(now)) {
            Some(turn) if turn <= now => self.lock(now, number),
            Some(turn) => self.enter(number, Stage::Pacing, Some(turn)),
            None => self.fail(now, number, Failure::Crowded),
        }
    }

    /// Sends both their orders, with all locks. What was measured long ago is measured again before: it says nothing about
    /// the next port of a sequential NAT.
    pub(super) fn go(&mut self, now: Instant, number: u64) {
        let Some(negotiation) = self.negotiations.get_mut(&number) else { return };
        let Some([a, b]) = negotiation.measured(now) else { return };
        if [&a, &b].into_iter().any(is_stale) && !negotiation.remeasured {
            negotiation.remeasured = true;
            return self.prepare(now, number);
        }
        let punch = PunchId { leader: self.leader, number };
        let mut plan = plan(punch, negotiation.recipe, self.limits.strategies, &a, &b);
        let addresses = [negotiation.address(0), negotiation.address(1)];
        if !self.flows.take(now, &mut plan.orders, addresses) {
            return self.fail(now, number, Failure::Refused(Budget::Flows));
        }
        plan.budget = plan.orders.iter().map(most_packets).sum();
        let Plan { strategy, patience, .. } = plan;
        for (to, order) in negotiation.parties.into_iter().zip(plan.orders.clone()) {
            self.actions.push_back(Action::Go { to, order });
        }
        negotiation.plan = Some(plan);
        if strategy == Strategy::Birthday {
            self.spend_budgets(number);
        }
        self.enter(number, Stage::Punching, Some(now + patience));
    }
}

/// Whether a sequential NAT has moved on so far that a window or a sweep might miss its next port.
fn is_stale(side: &Measured) -> bool {
    let moved = f64::from(side.profile.foreign_rate) * side.age.as_secs_f64();
    side.profile.class() == NatClass::Sequential && (side.age > STALE || moved > STALE_FLOWS)
}

const READY_PATIENCE: Duration = Duration::from_millis(2_500);
/// After this, or after so many flows of others, a measurement is repeated.
const STALE: Duration = Duration::from_secs(1);
const STALE_FLOWS: f64 = 60.0;
const CROWDED_REST: Duration = Duration::from_secs(5);
