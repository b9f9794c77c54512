//! How a negotiation ends: judged, recorded, forgotten.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use domain::{NatProfile, PairOutcome, PairRecord, PunchId, PunchReport, Scope, Strategy, UnixMillis, Via, scope};

use super::{
    Action, LeaseKey, Party, Schedule, Settled,
    history::retry_outlook,
    ladder::rest,
    locks::Unlock,
    negotiation::{Negotiation, Stage},
    scores::Succeeded,
    why::{Ending, Failure, why},
};
use crate::plan::Outlook;

impl Schedule {
    /// Both reports are there, or will not come.
    pub(super) fn judge(&mut self, now: Instant, number: u64) {
        let Some(negotiation) = self.negotiations.get(&number) else { return };
        // Three answers of each other's probes: one side cannot have them without the way back.
        let via = negotiation.via();
        if let (Some(plan), [Some(a), Some(b)]) = (&negotiation.plan, [0, 1].map(|side| negotiation.address(side)))
            && plan.strategy != Strategy::Birthday
            && matches!(negotiation.outlook, Outlook::Promising(_))
        {
            let succeeded = if via.is_some() { Succeeded::Yes } else { Succeeded::No };
            self.scores.used([a, b], negotiation.recipe.variation, succeeded);
        }
        match via {
            Some(via) => self.settle(now, number, Ending::Direct(via)),
            None => self.fail(now, number, Failure::NoContact),
        }
    }

    pub(super) fn fail(&mut self, now: Instant, number: u64, failure: Failure) {
        let Some(negotiation) = self.negotiations.get(&number) else { return };
        if negotiation.prepared && negotiation.plan.is_none() {
            self.call_off(number);
        }
        self.settle(now, number, Ending::Relayed(failure));
    }

    fn settle(&mut self, now: Instant, number: u64, ending: Ending) {
        let Some(negotiation) = self.negotiations.get_mut(&number) else { return };
        let strategy = match ending {
            Ending::Direct(_) => negotiation.plan.as_ref().map_or(Strategy::Direct, |plan| plan.strategy),
            Ending::Relayed(_) | Ending::Unprofiled => negotiation.strategy(),
        };
        // What never began changes nothing about the next attempt.
        let (attempts, refused) = match ending {
            Ending::Relayed(Failure::Refused(budget)) => (negotiation.recipe.attempt.saturating_sub(1), Some(budget)),
            Ending::Relayed(Failure::Crowded) => (negotiation.recipe.attempt.saturating_sub(1), None),
            Ending::Relayed(Failure::NoUdp | Failure::NotReady | Failure::Unmeasured | Failure::NoContact)
            | Ending::Direct(_)
            | Ending::Unprofiled => (negotiation.recipe.attempt, None),
        };
        let took = now.saturating_duration_since(negotiation.started);
        let budget = negotiation.plan.as_ref().map_or(0, |plan| plan.budget);
        let reports = || negotiation.reports.iter().flatten();
        let (outcome, via) = match ending {
            Ending::Direct(via) => (PairOutcome::Direct, Some(via)),
            Ending::Relayed(_) => (PairOutcome::Relayed, None),
            Ending::Unprofiled => (PairOutcome::Pending, None),
        };
        let record = PairRecord {
            strategy,
            outcome,
            attempts,
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            // Clients count these; none sends more than its order allows.
            packets: reports().fold(0, |sum: u32, report| sum.saturating_add(report.packets)).min(budget),
            hint: why(ending, strategy, negotiation.classes()),
            trace: number,
            via,
            budget,
            ..empty_record(&negotiation.parties, negotiation.profiles.map(Some), negotiation.started_at)
        };
        let fastest = reports().filter(|report| report.endpoint.is_some()).map(|report| report.took_us).min();
        let again = negotiation.again;
        let settled = Settled {
            parties: negotiation.parties,
            punched: fastest.map(|micros| Duration::from_micros(micros).min(took)),
            waited: negotiation.waited,
            refused,
            leases: negotiation.leases.extract_if(.., |key| matches!(key, LeaseKey::Pair(..))).collect(),
            record,
        };
        let pair = negotiation.pair();
        let wait = match (ending, refused) {
            (Ending::Direct(_) | Ending::Unprofiled, _) => None,
            (Ending::Relayed(_), Some(refused)) => Some(refused.rest()),
            (Ending::Relayed(_), None) => rest(retry_outlook(&settled.record), attempts),
        };
        self.actions.push_back(Action::Settle(Box::new(settled)));
        self.forget(now, number);
        if again {
            self.actions.push_back(Action::Again { a: pair.0, b: pair.1 });
        } else if let Some(wait) = wait {
            self.rest(now, pair, wait);
        }
    }

    pub(super) fn settle_unmeasured(&mut self, parties: [Party; 2], at: UnixMillis) {
        let profiles = parties.map(|party| party.profile);
        self.settle_untried(parties, profiles, at, Ending::Unprofiled);
    }

    pub(super) fn settle_hopeless(&mut self, parties: [Party; 2], profiles: [NatProfile; 2], at: UnixMillis) {
        self.settle_untried(parties, profiles.map(Some), at, Ending::Relayed(Failure::NoUdp));
    }

    fn settle_untried(
        &mut self,
        parties: [Party; 2],
        profiles: [Option<NatProfile>; 2],
        at: UnixMillis,
        ending: Ending,
    ) {
        let record = empty_record(&parties, profiles, at);
        let outcome = if ending == Ending::Unprofiled { PairOutcome::Pending } else { PairOutcome::Relayed };
        let classes = profiles.map(|profile| profile.unwrap_or(NatProfile::BLOCKED).class());
        let record = PairRecord { outcome, hint: why(ending, Strategy::Relay, classes), ..record };
        let settled =
            Settled { parties, record, punched: None, waited: Duration::ZERO, refused: None, leases: Vec::new() };
        self.actions.push_back(Action::Settle(Box::new(settled)));
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
        self.leave_slots(number);
        self.leave_locks(now, number, None);
        self.unlock(now, number, Unlock::All);
        let Some(mut negotiation) = self.negotiations.remove(&number) else { return };
        if let Some(due) = negotiation.due.take() {
            self.timers.remove(&due);
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

impl Negotiation {
    /// What the direct path runs over, by what the sides report; `None` when neither has one.
    fn via(&self) -> Option<Via> {
        let vias = [0, 1].map(|side| Some(self.via_of(side, self.reports[side].as_ref()?)).flatten());
        let rank = |via: &Via| match via {
            Via::Tcp => 0,
            Via::Lan => 1,
            Via::PortMapping => 2,
            Via::Hairpin => 3,
            Via::Ipv6 => 4,
            Via::Ipv4 => 5,
        };
        vias.into_iter().flatten().min_by_key(rank)
    }

    /// What the path to the endpoint that `side` reached runs over.
    fn via_of(&self, side: usize, report: &PunchReport) -> Option<Via> {
        let endpoint = report.endpoint?;
        let address = endpoint.ip().to_canonical();
        let seen = |side: usize| Some(self.ready(side)?.seen?.0.ip().to_canonical());
        let (own, peer) = (seen(side), seen(1 - side));
        let ready = self.ready(1 - side);
        if self.plan.as_ref().is_some_and(|plan| plan.strategy == Strategy::Tcp) {
            return Some(Via::Tcp);
        }
        if ready.and_then(|ready| ready.mapped) == Some(endpoint) {
            return Some(Via::PortMapping);
        }
        let is_seen = Some(address) == peer;
        Some(match (scope(address), address) {
            (Scope::Loopback, _) => Via::Lan,
            (Scope::Private | Scope::LinkLocal, _) if !is_seen => Via::Lan,
            (_, IpAddr::V4(_)) if is_seen && own == peer => Via::Hairpin,
            (_, IpAddr::V6(_)) => Via::Ipv6,
            (_, IpAddr::V4(_)) => Via::Ipv4,
        })
    }
}

fn empty_record(parties: &[Party; 2], profiles: [Option<NatProfile>; 2], at: UnixMillis) -> PairRecord {
    let [class_a, class_b] = profiles.map(|profile| Some(profile?.class()));
    PairRecord {
        a: parties[0].client,
        b: parties[1].client,
        class_a,
        class_b,
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
        places: profiles.map(|profile| profile.map_or(0, |profile| profile.place)),
        choice: None,
    }
}
