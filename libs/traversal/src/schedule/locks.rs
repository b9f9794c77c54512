//! Public addresses behind which one negotiation punches at a time.

use std::time::{Duration, Instant};

use super::{Action, LeaseKey, Schedule, failure::Failure, negotiation::Stage};

impl Schedule {
    /// Takes the addresses of the hard sides, in this process first, then from all others by lease.
    pub(super) fn lock(&mut self, now: Instant, number: u64) {
        let Some(negotiation) = self.negotiations.get(&number) else { return };
        let wanted = negotiation.locks();
        if wanted.is_empty() {
            return self.go(now, number);
        }
        let busy = wanted.iter().find(|address| self.addresses.get(address).is_some_and(|gate| gate.inside > 0));
        if let Some(busy) = busy {
            let gate = self.addresses.entry(*busy).or_default();
            if gate.waiting.len() >= MAX_WAITING {
                return self.fail(now, number, Failure::Crowded);
            }
            gate.waiting.push_back(number);
            return self.enter(number, Stage::Locking, Some(now + LOCK_PATIENCE));
        }
        for address in &wanted {
            self.addresses.entry(*address).or_default().inside += 1;
            let key = LeaseKey::Address(*address);
            self.actions.push_back(Action::Lease { number, key, ttl: ADDRESS_LEASE });
        }
        let left = wanted.len();
        if let Some(negotiation) = self.negotiations.get_mut(&number) {
            negotiation.locked = wanted;
        }
        self.enter(number, Stage::Leasing { left }, Some(now + LEASE_PATIENCE));
    }

    /// A measurement that got old in the queue says nothing about the next port of a hard side.
    pub(super) fn measured_and_locked(&mut self, now: Instant, number: u64) {
        let Some(negotiation) = self.negotiations.get_mut(&number) else { return };
        if now.saturating_duration_since(negotiation.ready_since) > STALE && !negotiation.remeasured {
            negotiation.remeasured = true;
            return self.prepare(now, number);
        }
        self.go(now, number);
    }

    /// Gives back the addresses of `number` and wakes the first that waits for each.
    pub(super) fn release_addresses(&mut self, number: u64) {
        let Some(negotiation) = self.negotiations.get_mut(&number) else { return };
        let locked = std::mem::take(&mut negotiation.locked);
        negotiation.leases.retain(|key| match key {
            LeaseKey::Pair(..) => true,
            LeaseKey::Address(_) => {
                self.actions.push_back(Action::Release { number, key: *key });
                false
            }
        });
        for address in locked {
            let Some(gate) = self.addresses.get_mut(&address) else { continue };
            gate.inside = gate.inside.saturating_sub(1);
            let next = gate.waiting.front().copied();
            if gate.inside == 0 && next.is_none() {
                self.addresses.remove(&address);
            }
            if let Some(next) = next {
                self.wake(next);
            }
        }
    }

    /// Makes a waiting negotiation due at once, so that it tries again in the order of the timers.
    pub(super) fn wake(&mut self, number: u64) {
        let Some(negotiation) = self.negotiations.get(&number) else { return };
        let (stage, now) = (negotiation.stage, negotiation.ready_since);
        self.enter(number, stage, Some(now));
    }
}

/// Negotiations of this process that wait for one address.
const MAX_WAITING: usize = 20;
/// Longer than one punch.
const ADDRESS_LEASE: Duration = Duration::from_secs(5);
pub(super) const LEASE_PATIENCE: Duration = Duration::from_secs(3);
pub(super) const LOCK_PATIENCE: Duration = Duration::from_secs(6);
pub(super) const LOCK_RETRY: Duration = Duration::from_millis(250);
/// After this a measurement is repeated.
const STALE: Duration = Duration::from_secs(1);
