//! How many negotiations a client takes part in at once.

use std::{collections::VecDeque, time::Instant};

use domain::ClientId;

use super::{Action, LeaseKey, Schedule, locks::LEASE_PATIENCE, negotiation::Stage};

/// A bounded number at once, the others in the order of their arrival.
#[derive(Debug, Default)]
pub(super) struct Gate {
    pub(super) inside: usize,
    pub(super) waiting: VecDeque<u64>,
}

impl Schedule {
    /// Takes a slot of both clients or waits for the one that is missing, holding nothing meanwhile.
    pub(super) fn queue_for_clients(&mut self, now: Instant, number: u64) {
        let Some(negotiation) = self.negotiations.get_mut(&number) else { return };
        let (a, b) = negotiation.pair();
        let limit = self.limits.per_client;
        let full = [a, b].into_iter().find(|client| self.clients.get(client).is_some_and(|gate| gate.inside >= limit));
        if let Some(full) = full {
            self.clients.entry(full).or_default().waiting.push_back(number);
            return;
        }
        for client in [a, b] {
            self.clients.entry(client).or_default().inside += 1;
        }
        let key = LeaseKey::Pair(a, b);
        negotiation.asked.push(key);
        self.enter(number, Stage::Claiming, Some(now + LEASE_PATIENCE));
        self.actions.push_back(Action::Lease { number, key, ttl: key.ttl() });
    }

    /// Lets in those that wait for a slot of `client`; one that lacks the other client's slot goes to wait there.
    pub(super) fn admit(&mut self, now: Instant, client: ClientId) {
        while let Some(gate) = self.clients.get_mut(&client) {
            if gate.inside == 0 && gate.waiting.is_empty() {
                self.clients.remove(&client);
                return;
            }
            if gate.inside >= self.limits.per_client {
                return;
            }
            let Some(next) = gate.waiting.pop_front() else { return };
            self.queue_for_clients(now, next);
        }
    }

    pub(super) fn leave_slots(&mut self, number: u64) {
        let Some(negotiation) = self.negotiations.get(&number) else { return };
        for client in negotiation.parties.map(|party| party.client) {
            if let Some(gate) = self.clients.get_mut(&client) {
                gate.waiting.retain(|waiting| *waiting != number);
            }
        }
    }
}
