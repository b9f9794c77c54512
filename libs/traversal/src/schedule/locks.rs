//! What only one negotiation may have at a time, and what runs out when it was used.
//!
//! | while | lock | budgets |
//! |---|---|---|
//! | before PREPARE | each client behind a random NAT | of a birthday: both clients, the pair |
//! | before GO | each public address of a sequential NAT | of a birthday: the public address of the easy side |
//!
//! A negotiation first takes its locks in this process, all of one row or none, then their leases from all processes.
//! Clients come before addresses in every negotiation, so no two wait for each other. Those that wait do it in the order of
//! their arrival, on the relay meanwhile.

use std::time::{Duration, Instant};

use domain::{NatClass, Strategy};

use super::{
    Action, LeaseKey, Schedule,
    budget::{BIRTHDAY_AT_ADDRESS, BIRTHDAY_OF_CLIENT, BIRTHDAYS_OF_PAIR, Budget, MOST_BIRTHDAYS},
    negotiation::{Negotiation, Stage},
    why::Failure,
};
use crate::plan::Outlook;

impl Schedule {
    /// Takes the locks and budgets of this row or waits for them.
    pub(super) fn lock(&mut self, now: Instant, number: u64) {
        let Some(negotiation) = self.negotiations.get_mut(&number) else { return };
        let since = *negotiation.locking_since.get_or_insert(now);
        let locks = negotiation.locks(self.limits.serialise);
        let busy = locks.iter().copied().find(|key| {
            self.locks
                .get(key)
                .is_some_and(|gate| gate.inside > 0 || gate.waiting.front().is_some_and(|first| *first != number))
        });
        if let Some(busy) = busy {
            self.leave_locks(now, number, Some(busy));
            let gate = self.locks.entry(busy).or_default();
            if !gate.waiting.contains(&number) {
                if gate.waiting.len() >= MAX_WAITING {
                    return self.fail(now, number, Failure::Crowded);
                }
                gate.waiting.push_back(number);
            }
            return self.enter(number, Stage::Locking, Some(since + LOCK_PATIENCE));
        }
        self.leave_locks(now, number, None);
        for key in &locks {
            self.locks.entry(*key).or_default().inside += 1;
        }
        let Some(negotiation) = self.negotiations.get_mut(&number) else { return };
        let asked = [locks.clone(), negotiation.budgets()].concat();
        negotiation.locked.extend(locks);
        negotiation.asked.clone_from(&asked);
        if asked.is_empty() {
            return self.locked(now, number);
        }
        self.actions.extend(asked.into_iter().map(|key| Action::Lease { number, key, ttl: key.ttl() }));
        self.enter(number, Stage::Leasing, Some(now + LEASE_PATIENCE));
    }

    /// All of this row are there.
    pub(super) fn locked(&mut self, now: Instant, number: u64) {
        let Some(negotiation) = self.negotiations.get_mut(&number) else { return };
        let waited = negotiation.locking_since.take().map(|since| now.saturating_duration_since(since));
        negotiation.waited += waited.unwrap_or_default();
        let (pair, prepared) = (negotiation.pair(), negotiation.prepared);
        if waited > Some(LONG_WAIT) {
            let key = LeaseKey::Pair(pair.0, pair.1);
            self.actions.push_back(Action::Lease { number, key, ttl: key.ttl() });
        }
        if prepared { self.go(now, number) } else { self.prepare(now, number) }
    }

    /// Another process has it.
    pub(super) fn lease_denied(&mut self, now: Instant, number: u64, key: LeaseKey) {
        match key {
            LeaseKey::Pair(a, b) => {
                // Should that process die, its record will be missing when we look again.
                self.forget(now, number);
                self.rest(now, (a, b), LeaseKey::Pair(a, b).ttl() + Duration::from_secs(1));
            }
            LeaseKey::Client(_) | LeaseKey::Address(_) => {
                self.unlock(now, number, Unlock::Row);
                let since = self.negotiations.get(&number).and_then(|negotiation| negotiation.locking_since);
                if let Some(budget) = self.negotiations.get(&number).and_then(|negotiation| negotiation.refused) {
                    return self.fail(now, number, Failure::Refused(budget));
                }
                if now.saturating_duration_since(since.unwrap_or(now)) > LOCK_PATIENCE {
                    return self.fail(now, number, Failure::Crowded);
                }
                self.enter(number, Stage::Locking, Some(now + LOCK_RETRY));
            }
            LeaseKey::BirthdayOfPair(a, b, nth) if nth + 1 < MOST_BIRTHDAYS => {
                let Some(negotiation) = self.negotiations.get_mut(&number) else { return };
                let key = LeaseKey::BirthdayOfPair(a, b, nth + 1);
                negotiation.asked.push(key);
                self.actions.push_back(Action::Lease { number, key, ttl: key.ttl() });
            }
            LeaseKey::BirthdayOfPair(..) => self.refused(now, number, Budget::Pair),
            LeaseKey::BirthdayOfClient(_) => self.refused(now, number, Budget::Client),
            LeaseKey::BirthdayAtAddress(_) => self.refused(now, number, Budget::Address),
        }
    }

    /// Waits for what else was asked for, so that it is given back and not lost until it runs out.
    fn refused(&mut self, now: Instant, number: u64, budget: Budget) {
        if let Some(negotiation) = self.negotiations.get_mut(&number) {
            negotiation.refused = Some(budget);
        }
        self.lease_answered(now, number);
    }

    /// Goes on when all of this row is decided.
    pub(super) fn lease_answered(&mut self, now: Instant, number: u64) {
        let Some(negotiation) = self.negotiations.get(&number).filter(|n| n.asked.is_empty()) else { return };
        match negotiation.refused {
            Some(budget) => self.fail(now, number, Failure::Refused(budget)),
            None => self.locked(now, number),
        }
    }

    /// A birthday begins: its budgets count from now, and nobody gives them back.
    pub(super) fn spend_budgets(&mut self, number: u64) {
        let Some(negotiation) = self.negotiations.get_mut(&number) else { return };
        negotiation.spent = negotiation.leases.extract_if(.., |key| key.is_budget()).collect();
        self.actions.extend(negotiation.spent.iter().map(|&key| Action::Lease { number, key, ttl: key.ttl() }));
    }

    /// Gives locks back and wakes the first that waits for each.
    pub(super) fn unlock(&mut self, now: Instant, number: u64, what: Unlock) {
        let Some(negotiation) = self.negotiations.get_mut(&number) else { return };
        let prepared = negotiation.prepared;
        let goes = |key: &LeaseKey| what == Unlock::All || key.is_asked_after_prepare() == Some(prepared);
        let locked: Vec<_> = negotiation.locked.extract_if(.., |key| goes(key)).collect();
        let leases: Vec<_> = negotiation.leases.extract_if(.., |key| goes(key)).collect();
        negotiation.asked.clear();
        self.actions.extend(leases.into_iter().map(|key| Action::Release { number, key }));
        for key in locked {
            if let Some(gate) = self.locks.get_mut(&key) {
                gate.inside = gate.inside.saturating_sub(1);
            }
            self.open(now, key);
        }
    }

    /// Leaves the queues of all locks but one.
    pub(super) fn leave_locks(&mut self, now: Instant, number: u64, except: Option<LeaseKey>) {
        let Some(negotiation) = self.negotiations.get(&number) else { return };
        for key in negotiation.locks(self.limits.serialise).into_iter().filter(|key| Some(*key) != except) {
            let Some(gate) = self.locks.get_mut(&key) else { continue };
            let waiting = gate.waiting.len();
            gate.waiting.retain(|waiting| *waiting != number);
            if gate.waiting.len() != waiting {
                self.open(now, key);
            }
        }
    }

    /// Makes the first that waits for a free lock due at once.
    fn open(&mut self, now: Instant, key: LeaseKey) {
        let Some(gate) = self.locks.get(&key).filter(|gate| gate.inside == 0) else { return };
        match gate.waiting.front().copied() {
            Some(next) => self.enter(next, Stage::Locking, Some(now)),
            None => drop(self.locks.remove(&key)),
        }
    }
}

/// How much of what a negotiation holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unlock {
    /// What is taken together.
    Row,
    All,
}

impl Negotiation {
    /// What nobody else may have meanwhile, each once.
    fn locks(&self, serialise: bool) -> Vec<LeaseKey> {
        let classes = self.classes();
        let of = |class| (0..2).filter(move |&side| classes[side] == class);
        let mut locks: Vec<_> = if self.prepared {
            let addresses = of(NatClass::Sequential).filter_map(|side| self.address(side));
            addresses.filter(|_| serialise).map(LeaseKey::Address).collect()
        } else {
            of(NatClass::Random).map(|side| LeaseKey::Client(self.parties[side].client)).collect()
        };
        locks.sort_unstable();
        locks.dedup();
        locks
    }

    /// What a birthday may use up.
    fn budgets(&self) -> Vec<LeaseKey> {
        if self.outlook != Outlook::Promising(Strategy::Birthday) {
            return vec![];
        }
        let (a, b) = self.pair();
        if self.prepared {
            let easy = (0..2).filter(|&side| self.profiles[side].class() != NatClass::Random);
            return easy.filter_map(|side| self.address(side)).map(LeaseKey::BirthdayAtAddress).collect();
        }
        vec![LeaseKey::BirthdayOfClient(a), LeaseKey::BirthdayOfClient(b), LeaseKey::BirthdayOfPair(a, b, 0)]
    }
}

impl LeaseKey {
    /// How long until it is free again by itself.
    pub(super) const fn ttl(self) -> Duration {
        match self {
            // Longer than one wait for locks and all that is left then.
            Self::Pair(..) | Self::Client(_) => Duration::from_secs(40),
            // Longer than a measurement and a punch.
            Self::Address(_) => Duration::from_secs(10),
            Self::BirthdayOfClient(_) => BIRTHDAY_OF_CLIENT,
            Self::BirthdayAtAddress(_) => BIRTHDAY_AT_ADDRESS,
            Self::BirthdayOfPair(..) => BIRTHDAYS_OF_PAIR,
        }
    }

    /// Whether it runs out by itself when it was used.
    pub(super) const fn is_budget(&self) -> bool {
        match self {
            Self::BirthdayOfClient(_) | Self::BirthdayAtAddress(_) | Self::BirthdayOfPair(..) => true,
            Self::Pair(..) | Self::Client(_) | Self::Address(_) => false,
        }
    }

    /// Which row of the table it is in; `None` for the lease of the pair.
    const fn is_asked_after_prepare(&self) -> Option<bool> {
        match self {
            Self::Pair(..) => None,
            Self::Client(_) | Self::BirthdayOfClient(_) | Self::BirthdayOfPair(..) => Some(false),
            Self::Address(_) | Self::BirthdayAtAddress(_) => Some(true),
        }
    }
}

/// Negotiations of this process that wait for one lock.
const MAX_WAITING: usize = 20;
/// As long as twenty usual punches take.
pub(super) const LOCK_PATIENCE: Duration = Duration::from_secs(20);
pub(super) const LEASE_PATIENCE: Duration = Duration::from_secs(3);
/// After this the lease of the pair is renewed.
const LONG_WAIT: Duration = Duration::from_secs(5);
const LOCK_RETRY: Duration = Duration::from_millis(250);
