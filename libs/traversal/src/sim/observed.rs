//! What other systems do, to be compared with: both sides send to where the other one was observed.
//!
//! The start is common, as DCUtR makes it; there are three attempts, all equal, from the socket that carries tunnels. What
//! a probe shows of its sender's address is answered there, as by peer-reflexive candidates (RFC 8445, section 7.2.5.3.1).

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use domain::{Candidate, ClientId, InstanceId, PunchId, PunchOrder, PunchPreparation, PunchReport, Strategy};

use crate::schedule::{Action, Party, Ready};

/// The attempts of all pairs.
#[derive(Debug)]
pub(super) struct Observed {
    leader: InstanceId,
    attempts: BTreeMap<u64, Attempt>,
    next_number: u64,
    resting: VecDeque<(Instant, [Party; 2], u8)>,
    known: Vec<[ClientId; 2]>,
    actions: VecDeque<Action>,
}

#[derive(Debug)]
struct Attempt {
    parties: [Party; 2],
    nth: u8,
    ready: [Option<(SocketAddr, Duration)>; 2],
    reports: [Option<bool>; 2],
}

impl Observed {
    pub(super) const fn new(leader: InstanceId) -> Self {
        Self {
            leader,
            attempts: BTreeMap::new(),
            next_number: 0,
            resting: VecDeque::new(),
            known: Vec::new(),
            actions: VecDeque::new(),
        }
    }

    pub(super) fn handle_wanted(&mut self, now: Instant, parties: [Party; 2]) {
        let pair = parties.map(|party| party.client);
        if parties.iter().all(|party| party.profile.is_some()) && !self.known.contains(&pair) {
            self.known.push(pair);
            self.resting.push_back((now, parties, 1));
            self.handle_timeout(now);
        }
    }

    pub(super) fn handle_ready(&mut self, from: ClientId, number: u64, ready: &Ready) {
        let Some(attempt) = self.attempts.get_mut(&number) else { return };
        let Some(side) = attempt.side(from) else { return };
        let Some((seen, _)) = ready.seen else {
            // Without UDP there is nothing to send to.
            self.attempts.remove(&number);
            return;
        };
        attempt.ready[side] = Some((seen, ready.rtt.unwrap_or_default()));
        if let [Some(a), Some(b)] = attempt.ready {
            self.go(number, [a, b]);
        }
    }

    pub(super) fn handle_report(&mut self, now: Instant, from: ClientId, report: PunchReport) {
        let Some(attempt) = self.attempts.get_mut(&report.punch.number) else { return };
        let Some(side) = attempt.side(from) else { return };
        attempt.reports[side] = Some(report.endpoint.is_some());
        if let [Some(a), Some(b)] = attempt.reports {
            let Attempt { parties, nth, .. } = *attempt;
            self.attempts.remove(&report.punch.number);
            if !(a && b) && nth < ATTEMPTS {
                self.resting.push_back((now + REST, parties, nth + 1));
            }
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        while let Some((_, parties, nth)) = self.resting.pop_front_if(|(due, ..)| *due <= now) {
            self.next_number += 1;
            let punch = PunchId { leader: self.leader, number: self.next_number };
            for (to, peer) in [(parties[0], parties[1].client), (parties[1], parties[0].client)] {
                let preparation = PunchPreparation { punch, peer, key: [0; 32], sockets: 0, tcp: false };
                self.actions.push_back(Action::Prepare { to, preparation });
            }
            let attempt = Attempt { parties, nth, ready: [None; 2], reports: [None; 2] };
            self.attempts.insert(self.next_number, attempt);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.resting.front().map(|(due, ..)| *due)
    }

    pub(super) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.attempts.is_empty()
    }

    fn go(&mut self, number: u64, ready: [(SocketAddr, Duration); 2]) {
        let Some(attempt) = self.attempts.get(&number) else { return };
        let start = ready[0].1.max(ready[1].1) / 2;
        for side in 0..2 {
            let order = PunchOrder {
                punch: PunchId { leader: self.leader, number },
                strategy: Strategy::Direct,
                wait_us: u64::try_from((start.saturating_sub(ready[side].1 / 2)).as_micros()).unwrap_or(0),
                gap_us: 0,
                opener_ttl: 0,
                candidates: vec![Candidate { endpoint: ready[1 - side].0, local: false, main: true }],
                attempt: attempt.nth,
                spray: None,
                sockets: 0,
            };
            self.actions.push_back(Action::Go { to: attempt.parties[side], order });
        }
    }
}

impl Attempt {
    fn side(&self, client: ClientId) -> Option<usize> {
        self.parties.iter().position(|party| party.client == client)
    }
}

const ATTEMPTS: u8 = 3;
const REST: Duration = Duration::from_secs(1);
