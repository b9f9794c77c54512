//! How a negotiation ends: judged, recorded, forgotten.

use std::time::{Duration, Instant};

use domain::{NatClass, PairOutcome, PairRecord, PunchId, Strategy, UnixMillis};

use super::{Action, Party, Schedule, failure::Failure, history::retry_outlook, negotiation::Stage};
use crate::plan::{Outlook, rest};

impl Schedule {
    /// Both reports are there, or will not come.
    pub(super) fn judge(&mut self, now: Instant, number: u64) {
        let Some(negotiation) = self.negotiations.get(&number) else { return };
        // Three answers of each other's probes: one side cannot have them without the way back.
        if negotiation.reports.iter().flatten().any(|report| report.endpoint.is_some()) {
            self.settle(now, number, PairOutcome::Direct, String::from(DIRECT_HINT));
        } else {
            self.fail(now, number, Failure::NoContact);
        }
    }

    pub(super) fn fail(&mut self, now: Instant, number: u64, failure: Failure) {
        let Some(negotiation) = self.negotiations.get(&number) else { return };
        if negotiation.prepared && negotiation.go_at.is_none() {
            self.call_off(number);
        }
        let Some(negotiation) = self.negotiations.get(&number) else { return };
        let hint = failure.hint(negotiation.outlook, negotiation.classes, negotiation.attempt);
        self.settle(now, number, PairOutcome::Relayed, hint);
    }

    pub(super) fn settle(&mut self, now: Instant, number: u64, outcome: PairOutcome, hint: String) {
        let Some(negotiation) = self.negotiations.get(&number) else { return };
        let parties = negotiation.parties;
        let took = now.saturating_duration_since(negotiation.started);
        let reports = || negotiation.reports.iter().flatten();
        let record = PairRecord {
            a: parties[0].client,
            b: parties[1].client,
            class_a: Some(negotiation.classes[0]),
            class_b: Some(negotiation.classes[1]),
            strategy: match (outcome, negotiation.outlook, negotiation.go_at) {
                // The plain round of a doubtful pair failed as expected.
                (PairOutcome::Relayed, Outlook::Doubtful, Some(_)) => Strategy::Relay,
                _ => negotiation.strategy,
            },
            outcome,
            attempts: negotiation.attempt,
            started: negotiation.started_at,
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            packets: reports().fold(0, |sum, report| sum.saturating_add(report.packets)),
            relay: None,
            hint,
            trace: number,
            via: None,
            budget: negotiation.budget,
            places: [0; 2],
        };
        let fastest = reports().filter(|report| report.endpoint.is_some()).map(|report| report.took_us).min();
        let punched = fastest.map(Duration::from_micros);
        let (pair, again, outlook) = ((record.a, record.b), negotiation.again, retry_outlook(&record));
        let attempts = negotiation.attempt;
        let leases = self.negotiations.get_mut(&number).map(|negotiation| std::mem::take(&mut negotiation.leases));
        let leases = leases.unwrap_or_default();
        self.actions.push_back(Action::Settle { parties, record, punched, leases });
        self.forget(now, number);
        match (outcome, again) {
            (_, true) => self.actions.push_back(Action::Again { a: pair.0, b: pair.1 }),
            (PairOutcome::Relayed, false) => {
                if let Some(wait) = rest(outlook, attempts) {
                    self.rest(now, pair, wait);
                }
            }
            (PairOutcome::Direct | PairOutcome::Pending, false) => {}
        }
    }

    pub(super) fn settle_unmeasured(&mut self, parties: [Party; 2], at: UnixMillis) {
        let hint = String::from("relayed while the clients still measure their routers");
        let record = PairRecord { hint, outcome: PairOutcome::Pending, ..empty_record(&parties, at) };
        self.actions.push_back(Action::Settle { parties, record, punched: None, leases: vec![] });
    }

    pub(super) fn settle_hopeless(&mut self, parties: [Party; 2], classes: [NatClass; 2], at: UnixMillis) {
        let side = if classes == [NatClass::Blocked; 2] { "both sides" } else { "one side" };
        let hint = format!("no UDP leaves the network of {side}: relayed; allowing outbound UDP there would fix it");
        let [class_a, class_b] = classes.map(Some);
        let record = PairRecord { hint, class_a, class_b, ..empty_record(&parties, at) };
        self.actions.push_back(Action::Settle { parties, record, punched: None, leases: vec![] });
    }

    pub(super) fn call_off(&mut self, number: u64) {
        let Some(negotiation) = self.negotiations.get(&number).filter(|n| n.prepared) else { return };
        let punch = PunchId { leader: self.leader, number };
        for to in negotiation.parties {
            self.actions.push_back(Action::Off { to, punch });
        }
    }

    /// Ends a negotiation and lets in whoever waited for its places.
    pub(super) fn forget(&mut self, now: Instant, number: u64) {
        self.leave_queues(number);
        self.release_addresses(number);
        let Some(mut negotiation) = self.negotiations.remove(&number) else { return };
        if let Some(due) = negotiation.due.take() {
            self.timers.remove(&due);
        }
        for key in negotiation.leases {
            self.actions.push_back(Action::Release { number, key });
        }
        let clients = negotiation.parties.map(|party| party.client);
        self.pairs.remove(&(clients[0], clients[1]));
        let held_slots = negotiation.stage != Stage::Queued;
        for client in clients {
            let Some(gate) = self.clients.get_mut(&client) else { continue };
            gate.inside -= usize::from(held_slots);
            self.admit(now, client);
        }
    }
}

fn empty_record(parties: &[Party; 2], at: UnixMillis) -> PairRecord {
    PairRecord {
        a: parties[0].client,
        b: parties[1].client,
        class_a: parties[0].profile.map(|profile| profile.class()),
        class_b: parties[1].profile.map(|profile| profile.class()),
        strategy: Strategy::Relay,
        outcome: PairOutcome::Relayed,
        attempts: 0,
        started: at,
        took_ms: 0,
        packets: 0,
        relay: None,
        hint: String::new(),
        trace: 0,
        via: None,
        budget: 0,
        places: [0; 2],
    }
}

const DIRECT_HINT: &str = "direct: each side reaches the other's public address";
