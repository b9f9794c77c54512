//! What is due when.

use std::time::{Duration, Instant};

use domain::ClientId;

use super::{Schedule, locks::LOCK_PATIENCE, negotiation::Stage, why::Failure};

#[derive(Clone, Copy, Debug)]
pub(super) enum Timer {
    Negotiation(u64),
    Rest(ClientId, ClientId),
}

impl Schedule {
    pub(super) fn negotiation_due(&mut self, now: Instant, number: u64, due: (Instant, u64)) {
        let Some(negotiation) = self.negotiations.get(&number).filter(|n| n.due == Some(due)) else { return };
        match negotiation.stage {
            Stage::Queued => {}
            // Presence does not answer: a later wish will try again.
            Stage::Claiming => self.forget(now, number),
            Stage::Preparing => self.fail(now, number, Failure::NotReady),
            Stage::Pacing => self.lock(now, number),
            Stage::Locking if negotiation.locking_since.is_none_or(|since| now < since + LOCK_PATIENCE) => {
                self.lock(now, number);
            }
            Stage::Locking | Stage::Leasing => self.fail(now, number, Failure::Crowded),
            Stage::Punching => self.judge(now, number),
        }
    }

    pub(super) fn rest(&mut self, now: Instant, pair: (ClientId, ClientId), wait: Duration) {
        let room = self.resting.len() < self.limits.resting || self.resting.contains_key(&pair);
        let due = now + wait;
        if !room || self.resting.get(&pair).is_some_and(|earlier| *earlier <= due) {
            return;
        }
        self.resting.insert(pair, due);
        self.timer_number += 1;
        self.timers.insert((due, self.timer_number), Timer::Rest(pair.0, pair.1));
    }

    pub(super) fn enter(&mut self, number: u64, stage: Stage, due: Option<Instant>) {
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
