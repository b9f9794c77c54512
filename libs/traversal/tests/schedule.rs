//! Negotiations on the server: who waits for whom, and what nobody can make it do.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use domain::{
    ClientId, Epoch, GatewayId, InstanceId, Mapping, NatProfile, PairOutcome, PairRecord, PunchId, PunchReport,
    UnixMillis,
};
use traversal::{
    schedule::{Action, Claim, LeaseKey, Limits, Party, Ready, Schedule, Wanted},
    sim::origin,
};

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_client_with_many_peers_takes_part_in_a_few_negotiations_at_once() {
    let mut lab = Lab::new(Limits { per_client: 3, ..Limits::default() });
    for peer in 2..=20 {
        lab.want(1, peer, EASY);
    }
    let first = lab.prepared.len();
    assert_eq!(first, 3);
    lab.run(LONG);
    assert_eq!(lab.records.len(), 19, "all get their turn");
    assert!(lab.most_at_once[&client(1)] <= 3);
}

#[test]
fn negotiations_behind_one_hard_nat_run_one_after_the_other() {
    let mut lab = Lab::new(Limits::default());
    // Eight hosts behind one public address, each towards an open host elsewhere.
    for host in 1..=8 {
        lab.behind(host, [203, 0, 113, 1]);
        lab.behind(host + 100, [198, 51, 100, host]);
        lab.profile(host, HARD);
        lab.profile(host + 100, OPEN);
        lab.want_again(host, host + 100);
    }
    lab.run(LONG);
    assert_eq!(lab.records.len(), 8);
    assert!(lab.records.values().all(|record| record.outcome == PairOutcome::Direct), "{:?}", lab.records);
    let mut ends = lab.punches.clone();
    ends.sort_unstable();
    for pair in ends.windows(2) {
        assert!(pair[1].0 >= pair[0].1, "two at once: {ends:?}");
    }
    assert_eq!(lab.leased, BTreeMap::new(), "every lease was given back");
}

#[test]
fn easy_clients_behind_one_address_punch_at_most_four_times_a_second() {
    let mut lab = Lab::new(Limits::default());
    for host in 1..=12 {
        lab.behind(host, [203, 0, 113, 1]);
        lab.behind(host + 100, [198, 51, 100, host]);
        lab.want(host, host + 100, EASY);
    }
    lab.run(LONG);
    assert_eq!(lab.records.len(), 12);
    let mut starts: Vec<_> = lab.punches.iter().map(|punch| punch.0).collect();
    starts.sort_unstable();
    for four in starts.windows(6) {
        assert!(four[5] - four[0] >= Duration::from_millis(500), "{starts:?}");
    }
}

#[test]
fn too_many_behind_one_address_are_told_to_come_later() {
    let mut lab = Lab::new(Limits::default());
    for host in 1..=60 {
        lab.behind(host, [203, 0, 113, 1]);
        lab.behind(host + 100, [198, 51, 100, host]);
        lab.want(host, host + 100, EASY);
    }
    lab.run(Duration::from_millis(20));
    let crowded = lab.records.values().filter(|record| record.hint.contains("too many")).count();
    assert!((30..=40).contains(&crowded), "{crowded}");
    lab.run(Duration::from_secs(600));
    assert!(lab.records.values().all(|record| record.outcome == PairOutcome::Direct));
}

#[test]
fn a_lease_that_another_process_holds_is_respected_and_tried_again() {
    let mut lab = Lab::new(Limits::default());
    let pair = LeaseKey::Pair(client(1), client(2));
    lab.leased.insert(pair, 999);
    lab.want(1, 2, EASY);
    assert_eq!(lab.prepared, vec![]);
    lab.run(Duration::from_secs(10));
    assert_eq!(lab.prepared, vec![]);
    lab.leased.clear();
    lab.run(LONG);
    assert_eq!(lab.records[&(client(1), client(2))].outcome, PairOutcome::Direct);
}

#[test]
fn what_another_process_found_meanwhile_is_not_done_again() {
    let mut lab = Lab::new(Limits::default());
    lab.want(1, 2, EASY);
    lab.run(LONG);
    let prepared = lab.prepared.len();
    // A wish that was completed before the record was there.
    lab.want_with(1, 2, None);
    lab.run(LONG);
    assert_eq!(lab.prepared.len(), prepared);
}

#[test]
fn a_session_that_is_gone_ends_the_negotiation_and_frees_the_peer() {
    let mut lab = Lab::new(Limits { per_client: 1, ..Limits::default() });
    lab.answers = false;
    lab.want(1, 2, EASY);
    lab.want(1, 3, EASY);
    let (number, _) = lab.prepared[0];
    lab.answers = true;
    lab.schedule.handle_gone(lab.now, client(2), number);
    lab.flush();
    lab.run(Duration::from_secs(2));
    assert!(lab.records.contains_key(&(client(1), client(3))));
    assert!(!lab.records.contains_key(&(client(1), client(2))));
}

#[test]
fn a_client_that_comes_back_is_prepared_again() {
    let mut lab = Lab::new(Limits::default());
    lab.answers = false;
    lab.want(1, 2, EASY);
    lab.answers = true;
    lab.epochs.insert(client(2), 2);
    lab.want_again(1, 2);
    lab.run(Duration::from_secs(2));
    assert_eq!(lab.records[&(client(1), client(2))].outcome, PairOutcome::Direct);
}

#[test]
fn a_class_that_changes_in_the_middle_leads_to_another_attempt() {
    let mut lab = Lab::new(Limits::default());
    lab.succeeds = false;
    lab.answers = false;
    lab.profile(1, EASY);
    lab.profile(2, HARD);
    lab.want_again(1, 2);
    lab.profile(1, OPEN);
    lab.want_again(1, 2);
    lab.answers = true;
    lab.succeeds = true;
    lab.run(LONG);
    let record = &lab.records[&(client(1), client(2))];
    assert_eq!((record.outcome, record.strategy.name()), (PairOutcome::Direct, "reveal"));
}

#[test]
fn thousands_of_wishes_of_one_client_cost_a_bounded_number_of_preparations() {
    let mut lab = Lab::new(Limits { negotiations: 100, resting: 50, per_client: 8 });
    lab.answers = false;
    for round in 0..50 {
        for peer in 2..=250 {
            lab.want(1, peer, EASY);
        }
        assert!(lab.schedule.len() <= 100, "round {round}");
    }
    assert_eq!(lab.prepared.len(), 8);
}

#[test]
fn reports_of_strangers_and_repeated_ones_decide_nothing() {
    let mut lab = Lab::new(Limits::default());
    lab.reports = false;
    lab.want(1, 2, EASY);
    lab.run(Duration::from_millis(100));
    let (number, punch) = lab.prepared[0];
    let endpoint = Some(lab.seen(client(2)));
    let report = PunchReport { punch, endpoint, rtt_us: 1, packets: 1, took_us: 1 };
    lab.schedule.handle_report(lab.now, client(66), report);
    let failure = PunchReport { endpoint: None, ..report };
    lab.schedule.handle_report(lab.now, client(1), failure);
    lab.schedule.handle_report(lab.now, client(1), report);
    lab.schedule.handle_ready(lab.now, client(1), number, ready(lab.seen(client(1))));
    lab.flush();
    lab.run(LONG);
    assert_eq!(lab.records[&(client(1), client(2))].outcome, PairOutcome::Relayed);
}

const EASY: NatProfile = NatProfile { mapping: Some(Mapping::EndpointIndependent), ..HARD };
const OPEN: NatProfile = NatProfile { filtering: Some(domain::Filtering::AddressDependent), ..EASY };
const HARD: NatProfile = NatProfile {
    udp: true,
    mapping: Some(Mapping::AddressAndPortDependent),
    filtering: None,
    keeps_port: false,
    unsure: false,
    hops: 7,
    ..NatProfile::BLOCKED
};

/// A schedule, its seams, and clients that do what they are told within 10 ms.
struct Lab {
    schedule: Schedule,
    start: Instant,
    now: Instant,
    /// Words under way to the schedule.
    words: BTreeMap<(Instant, u64), Word>,
    number: u64,
    leased: BTreeMap<LeaseKey, u64>,
    records: BTreeMap<(ClientId, ClientId), PairRecord>,
    profiles: BTreeMap<ClientId, NatProfile>,
    addresses: BTreeMap<ClientId, [u8; 4]>,
    epochs: BTreeMap<ClientId, u64>,
    prepared: Vec<(u64, PunchId)>,
    /// From GO to the last report.
    punches: Vec<(Instant, Instant)>,
    at_once: BTreeMap<ClientId, BTreeSet<u64>>,
    most_at_once: BTreeMap<ClientId, usize>,
    answers: bool,
    reports: bool,
    succeeds: bool,
}

enum Word {
    Ready(ClientId, u64),
    Report(ClientId, PunchReport),
}

impl Lab {
    fn new(limits: Limits) -> Self {
        let now = origin();
        Self {
            schedule: Schedule::new(InstanceId::from_bytes([9; 16]), limits, [1; 32]),
            start: now,
            now,
            words: BTreeMap::new(),
            number: 0,
            leased: BTreeMap::new(),
            records: BTreeMap::new(),
            profiles: BTreeMap::new(),
            addresses: BTreeMap::new(),
            epochs: BTreeMap::new(),
            prepared: vec![],
            punches: vec![],
            at_once: BTreeMap::new(),
            most_at_once: BTreeMap::new(),
            answers: true,
            reports: true,
            succeeds: true,
        }
    }

    fn profile(&mut self, number: u8, profile: NatProfile) {
        self.profiles.insert(client(number), profile);
    }

    fn behind(&mut self, number: u8, address: [u8; 4]) {
        self.addresses.insert(client(number), address);
    }

    fn seen(&self, client: ClientId) -> SocketAddr {
        let number = client.as_bytes()[0];
        let address = self.addresses.get(&client).copied().unwrap_or([192, 0, 2, number]);
        (address, 10_000 + u16::from(number)).into()
    }

    fn want(&mut self, a: u8, b: u8, profile: NatProfile) {
        self.profile(a, profile);
        self.profile(b, profile);
        self.want_again(a, b);
    }

    fn want_again(&mut self, a: u8, b: u8) {
        self.want_with(a, b, self.records.get(&(client(a), client(b))).cloned());
    }

    fn want_with(&mut self, a: u8, b: u8, record: Option<PairRecord>) {
        let parties = [client(a), client(b)].map(|client| Party {
            client,
            gateway: GatewayId::from_bytes([0; 16]),
            epoch: Epoch(self.epochs.get(&client).copied().unwrap_or(1)),
            since: UnixMillis(0),
            profile: self.profiles.get(&client).copied(),
        });
        self.schedule.handle_wanted(self.now, self.at(), Wanted { parties, demanded: false, record });
        self.flush();
    }

    fn at(&self) -> UnixMillis {
        UnixMillis(1).plus(self.now - self.start)
    }

    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let word = self.words.first_key_value().map(|(&(due, _), _)| due);
            let due = [word, self.schedule.poll_timeout()].into_iter().flatten().min();
            let Some(due) = due.filter(|&due| due <= end) else { break };
            self.now = self.now.max(due);
            while let Some(entry) = self.words.first_entry().filter(|entry| entry.key().0 <= self.now) {
                match entry.remove() {
                    Word::Ready(from, number) => {
                        let ready = ready(self.seen(from));
                        self.schedule.handle_ready(self.now, from, number, ready);
                    }
                    Word::Report(from, report) => self.schedule.handle_report(self.now, from, report),
                }
            }
            self.schedule.handle_timeout(self.now);
            self.flush();
        }
        self.now = end;
    }

    fn flush(&mut self) {
        while let Some(action) = self.schedule.poll_action() {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Lease { number, key, .. } => {
                let free = *self.leased.entry(key).or_insert(number) == number;
                let record = match key {
                    LeaseKey::Pair(a, b) => self.records.get(&(a, b)).cloned().map(Box::new),
                    LeaseKey::Address(_) => None,
                };
                let claim = if free { Claim::Granted(record) } else { Claim::Denied };
                self.schedule.handle_lease(self.now, self.at(), number, key, claim);
            }
            Action::Release { number, key } => self.release(number, key),
            Action::Prepare { to, preparation } => {
                let number = preparation.punch.number;
                if !self.prepared.contains(&(number, preparation.punch)) {
                    self.prepared.push((number, preparation.punch));
                }
                let busy = self.at_once.entry(to.client).or_default();
                busy.insert(number);
                let most = self.most_at_once.entry(to.client).or_default();
                *most = busy.len().max(*most);
                if self.answers {
                    self.say(Duration::from_millis(10), Word::Ready(to.client, number));
                }
            }
            Action::Go { to, order } => {
                let took = Duration::from_millis(300);
                let endpoint = order.candidates.first().map(|candidate| candidate.endpoint);
                let endpoint = endpoint.filter(|_| self.succeeds);
                let report = PunchReport { punch: order.punch, endpoint, rtt_us: 1, packets: 7, took_us: 1 };
                self.punches.push((self.now, self.now + took));
                self.punches.dedup();
                if self.reports {
                    self.say(took, Word::Report(to.client, report));
                }
            }
            Action::Off { .. } => {}
            Action::Settle { record, leases, .. } => {
                for key in leases {
                    self.release(record.trace, key);
                }
                for busy in self.at_once.values_mut() {
                    busy.remove(&record.trace);
                }
                self.records.insert((record.a, record.b), record);
            }
            Action::Again { a, b } => self.want_again(a.as_bytes()[0], b.as_bytes()[0]),
        }
    }

    fn release(&mut self, number: u64, key: LeaseKey) {
        if self.leased.get(&key) == Some(&number) {
            self.leased.remove(&key);
        }
    }

    fn say(&mut self, after: Duration, word: Word) {
        self.number += 1;
        self.words.insert((self.now + after, self.number), word);
    }
}

fn client(number: u8) -> ClientId {
    ClientId::from_bytes([number; 16])
}

fn ready(seen: SocketAddr) -> Ready {
    Ready { seen: Some((seen, 57)), rtt: Some(Duration::from_millis(20)), ..Ready::default() }
}
