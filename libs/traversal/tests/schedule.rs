//! Negotiations on the server: who waits for whom, and what nobody can make it do.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use domain::{
    Allocation, ClientId, Epoch, GatewayId, InstanceId, Mapping, NatProfile, PairOutcome, PairRecord, PunchId,
    PunchOrder, PunchReport, Spray, Strategy, UnixMillis, Via,
};
use traversal::{
    plan::Strategies,
    schedule::{Action, Budget, Claim, LeaseKey, Limits, Party, Ready, Schedule, Settled, Wanted},
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
        lab.profile(host, COUNTING);
        lab.profile(host + 100, OPEN);
        lab.want_again(host, host + 100);
    }
    lab.run(LONG);
    assert_eq!(lab.records.len(), 8);
    assert!(lab.records.values().all(|record| record.outcome == PairOutcome::Direct), "{:?}", lab.records);
    assert_eq!(lab.most_punches_at_once(), 1);
    let order: Vec<_> = lab.orders.iter().map(|(_, to, _)| to.as_bytes()[0]).filter(|host| *host < 100).collect();
    assert_eq!(order, (1..=8).collect::<Vec<_>>(), "in the order of arrival");
    assert_eq!(lab.leased, BTreeMap::new(), "every lease was given back");
}

#[test]
fn what_was_measured_before_a_long_wait_is_measured_again() {
    let mut lab = Lab::new(Limits::default());
    for host in 1..=8 {
        lab.behind(host, [203, 0, 113, 1]);
        lab.behind(host + 100, [198, 51, 100, host]);
        lab.profile(host, COUNTING);
        lab.profile(host + 100, EASY);
        lab.want_again(host, host + 100);
    }
    lab.run(LONG);
    let last = lab.preparations.iter().filter(|(_, to)| *to == client(8)).count();
    let first = lab.preparations.iter().filter(|(_, to)| *to == client(1)).count();
    assert_eq!((first, last), (1, 2));
    assert!(lab.records.values().all(|record| record.attempts == 1));
}

#[test]
fn serialising_can_be_switched_off() {
    let mut lab = Lab::new(Limits { serialise: false, ..Limits::default() });
    for host in 1..=4 {
        lab.behind(host, [203, 0, 113, 1]);
        lab.profile(host, COUNTING);
        lab.profile(host + 100, OPEN);
        lab.want_again(host, host + 100);
    }
    lab.run(LONG);
    assert_eq!(lab.most_punches_at_once(), 4);
}

#[test]
fn a_client_behind_a_random_nat_takes_part_in_one_punch_at_a_time() {
    let mut lab = Lab::new(Limits::default());
    for peer in 2..=6 {
        lab.profile(1, HARD);
        lab.profile(peer, OPEN);
        lab.want_again(1, peer);
    }
    lab.run(LONG);
    assert_eq!(lab.records.len(), 5);
    assert_eq!((lab.most_punches_at_once(), lab.most_at_once[&client(1)]), (1, 1));
    assert!(lab.settled.iter().any(|settled| settled.waited > Duration::from_millis(900)));
}

#[test]
fn a_lock_that_another_process_holds_is_waited_for() {
    let mut lab = Lab::new(Limits::default());
    lab.profile(1, COUNTING);
    lab.profile(2, OPEN);
    let key = LeaseKey::Address(domain::SourcePrefix::of(lab.seen(client(1)).ip()));
    lab.leased.insert(key, 999);
    lab.want_again(1, 2);
    lab.run(Duration::from_secs(3));
    assert_eq!(lab.orders.len(), 0);
    lab.leased.clear();
    lab.run(Duration::from_secs(2));
    assert_eq!(lab.record(1, 2).outcome, PairOutcome::Direct);
}

#[test]
fn a_waiter_whose_turn_it_is_and_that_lacks_another_lock_lets_the_next_one_go() {
    let mut lab = Lab::new(Limits::default());
    let (shared, other) = ([203, 0, 113, 1], [203, 0, 113, 2]);
    // 1 punches behind the shared address; 2 needs that and another one, which 4 has; 3 needs the shared one only.
    for (number, address) in [(1, shared), (2, shared), (3, shared), (4, other), (12, other)] {
        lab.behind(number, address);
        lab.profile(number, COUNTING);
    }
    for number in [11, 13, 14] {
        lab.profile(number, OPEN);
    }
    for (a, b) in [(1, 11), (4, 14), (2, 12), (3, 13)] {
        lab.want_again(a, b);
    }
    lab.run(Duration::from_secs(10));
    assert!(lab.records.values().all(|record| record.outcome == PairOutcome::Direct), "{:?}", lab.records);
    assert_eq!(lab.records.len(), 4);
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
    lab.run(Duration::from_secs(30));
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
    let mut lab = Lab::new(Limits { negotiations: 100, resting: 50, ..Limits::default() });
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
fn a_birthday_is_had_once_a_minute_by_a_client_and_three_times_an_hour_by_a_pair() {
    let mut lab = Lab::new(Limits::default());
    lab.succeeds = false;
    lab.profile(1, EASY);
    lab.profile(2, HARD);
    lab.want_again(1, 2);
    let start = lab.now;
    let mut places = 0;
    // One side claims to be in another network all the time, which starts the ladder over.
    while lab.now < start + Duration::from_secs(3_600) {
        lab.run(Duration::from_secs(7));
        places += 1;
        lab.profile(1, NatProfile { place: places, ..EASY });
        lab.want_again(1, 2);
    }
    let births = lab.sprays(client(1));
    assert_eq!(births.len(), 3, "{births:?}");
    for two in births.windows(2) {
        assert!(two[1].0 - two[0].0 >= Duration::from_secs(60));
    }
    assert!(lab.refused(Budget::Client) > 0 && lab.refused(Budget::Pair) > 0);
    assert!(lab.record(1, 2).hint.contains("many ports"), "{}", lab.record(1, 2).hint);
}

#[test]
fn a_ladder_of_birthdays_goes_on_in_its_list() {
    let mut lab = Lab::new(Limits::default());
    lab.succeeds = false;
    lab.profile(1, EASY);
    lab.profile(2, HARD);
    lab.want_again(1, 2);
    lab.run(Duration::from_secs(3_599));
    let lists: Vec<_> = lab
        .sprays(client(1))
        .into_iter()
        .map(|(_, spray)| match spray {
            Spray::Scatter { seed, skip, .. } => (seed, skip),
            Spray::Window { .. } => panic!("no birthday"),
        })
        .collect();
    let seed = lists[0].0;
    assert_eq!(lists, [(seed, 0), (seed, 980), (seed, 1_960)]);
    assert_eq!(lab.refused(Budget::Client), 0, "the ladder knows the budgets");
}

#[test]
fn no_more_than_a_thousand_flows_open_behind_an_address_in_half_a_minute() {
    let mut lab = Lab::new(Limits::default());
    lab.succeeds = false;
    // Many pairs with birthdays and predictions, all with their easy side behind one address.
    for host in 1..=40 {
        lab.behind(host, [203, 0, 113, 1]);
        lab.behind(host + 100, [198, 51, 100, host]);
        lab.profile(host, EASY);
        lab.profile(host + 100, if host % 2 == 0 { HARD } else { BUSY });
        lab.want_again(host, host + 100);
    }
    lab.run(Duration::from_secs(600));
    let mut opened: Vec<(Instant, u32)> = Vec::new();
    for (at, to, order) in lab.orders.iter().filter(|(_, to, _)| to.as_bytes()[0] <= 40) {
        assert!(to.as_bytes()[0] <= 40);
        let flows = match order.spray {
            Some(Spray::Window { count, .. } | Spray::Scatter { count, .. }) => count,
            None => 0,
        };
        opened.push((*at, u32::from(flows)));
    }
    assert!(opened.iter().filter(|(_, flows)| *flows >= 256).count() > 3, "some have their birthday");
    assert!(opened.iter().filter(|(_, flows)| (1..200).contains(flows)).count() > 8, "some are predicted");
    for (from, _) in &opened {
        let window = opened.iter().filter(|(at, _)| at >= from && *at < *from + Duration::from_secs(30));
        assert!(window.map(|(_, flows)| flows).sum::<u32>() <= 980);
    }
    assert!(lab.refused(Budget::Flows) + lab.refused(Budget::Address) > 0);
}

#[test]
fn a_refused_budget_counts_as_no_attempt_and_asks_nothing_of_the_clients() {
    let mut lab = Lab::new(Limits::default());
    lab.leased.insert(LeaseKey::BirthdayOfClient(client(2)), 999);
    lab.profile(1, EASY);
    lab.profile(2, HARD);
    lab.want_again(1, 2);
    let record = lab.record(1, 2);
    assert_eq!((record.outcome, record.attempts, record.strategy), (PairOutcome::Relayed, 0, Strategy::Birthday));
    assert!(record.hint.contains("less than a minute ago"), "{}", record.hint);
    assert_eq!(lab.prepared, vec![]);
    assert_eq!(lab.leased.len(), 1, "what was not used is given back: {:?}", lab.leased);
    lab.leased.clear();
    lab.run(Duration::from_secs(63));
    assert_eq!((lab.record(1, 2).outcome, lab.record(1, 2).attempts), (PairOutcome::Direct, 1));
}

#[test]
fn a_client_that_always_reports_failure_climbs_the_ladder_and_no_faster() {
    let mut lab = Lab::new(Limits::default());
    lab.succeeds = false;
    lab.want(1, 2, EASY);
    let start = lab.now;
    while lab.now < start + Duration::from_secs(700) {
        lab.run(Duration::from_millis(500));
        lab.want_again(1, 2);
    }
    let starts: Vec<_> = lab.punches.iter().map(|punch| punch.0 - start).collect();
    let rests: Vec<_> = starts.windows(2).map(|two| (two[1] - two[0]).as_secs()).collect();
    assert_eq!(rests, [1, 3, 30, 120], "{starts:?}");
}

#[test]
fn a_new_place_class_port_mapping_or_ipv6_is_tried_at_once() {
    let changes = [
        (EASY, NatProfile { place: 7, ..EASY }),
        (HARD, OPEN),
        (HARD, NatProfile { port_mapping: true, ..HARD }),
        (HARD, NatProfile { ipv6: true, ..HARD }),
    ];
    for (before, after) in changes {
        let mut lab = Lab::new(Limits::default());
        lab.succeeds = false;
        lab.profile(1, before);
        lab.profile(2, if before == EASY { EASY } else { NatProfile { ipv6: true, ..HARD } });
        lab.want_again(1, 2);
        lab.run(Duration::from_secs(100));
        let before = lab.punches.len();
        lab.want_again(1, 2);
        lab.run(Duration::from_millis(900));
        assert_eq!(lab.punches.len(), before, "nothing changed: {after:?}");
        lab.profile(1, after);
        lab.succeeds = true;
        lab.want_again(1, 2);
        lab.run(Duration::from_millis(900));
        assert_eq!(lab.record(1, 2).outcome, PairOutcome::Direct, "{after:?}");
    }
}

#[test]
fn a_direct_pair_that_moves_is_punched_again() {
    let mut lab = Lab::new(Limits::default());
    lab.want(1, 2, EASY);
    lab.run(LONG);
    lab.want_again(1, 2);
    lab.run(LONG);
    assert_eq!(lab.punches.len(), 1);
    lab.profile(1, NatProfile { place: 2, ..EASY });
    lab.want_again(1, 2);
    lab.run(LONG);
    assert_eq!(lab.punches.len(), 2);
    assert_eq!(lab.record(1, 2).places, [2, 0]);
}

#[test]
fn what_worked_between_two_addresses_is_tried_first_by_the_next_pair() {
    let mut lab = Lab::new(Limits::default());
    for host in 1..=2 {
        lab.behind(host, [203, 0, 113, 1]);
        lab.behind(host + 100, [198, 51, 100, 1]);
    }
    lab.succeeds = false;
    lab.want(1, 101, EASY);
    lab.run(Duration::from_millis(500));
    lab.succeeds = true;
    lab.run(LONG);
    assert_eq!(lab.record(1, 101).attempts, 2);
    // Its first attempt elsewhere shows where each client is.
    lab.want(2, 102, EASY);
    lab.run(LONG);
    lab.profile(2, NatProfile { place: 1, ..EASY });
    lab.want_again(2, 102);
    lab.run(LONG);
    let ttl = |to: u8, nth: usize| {
        let mut orders = lab.orders.iter().filter(|(_, client, _)| client.as_bytes()[0] == to);
        orders.nth(nth).map(|(_, _, order)| order.opener_ttl)
    };
    assert_eq!(ttl(1, 1), ttl(1, 0).map(|ttl| ttl + 2), "the second way has openers that live longer");
    assert_eq!(ttl(2, 1), ttl(1, 1));
}

#[test]
fn strategies_can_be_switched_off_each_by_itself() {
    let off = [
        Strategies { predict: false, ..Strategies::default() },
        Strategies { birthday: false, ..Strategies::default() },
    ];
    for (strategies, other) in off.into_iter().zip([COUNTING, HARD]) {
        let mut lab = Lab::new(Limits { strategies, ..Limits::default() });
        lab.succeeds = false;
        lab.profile(1, EASY);
        lab.profile(2, other);
        lab.want_again(1, 2);
        lab.run(LONG);
        assert_eq!(lab.record(1, 2).strategy, Strategy::Relay);
        assert!(lab.record(1, 2).hint.contains("switched off"), "{}", lab.record(1, 2).hint);
        assert_eq!(lab.sprays(client(1)).len(), 0);
    }
}

#[test]
fn a_record_says_what_the_path_runs_over() {
    let six = "[2001:db8::7]:4000".parse().unwrap();
    let mapped = "192.0.2.2:5000".parse().unwrap();
    let lan = "192.168.1.7:4000".parse().unwrap();
    for (endpoint, via) in
        [(None, Via::Ipv4), (Some(six), Via::Ipv6), (Some(mapped), Via::PortMapping), (Some(lan), Via::Lan)]
    {
        let mut lab = Lab::new(Limits::default());
        lab.mapped = Some((client(2), mapped));
        lab.reached = endpoint.map(|endpoint| (client(1), endpoint));
        lab.want(1, 2, EASY);
        lab.run(LONG);
        let record = lab.record(1, 2);
        assert_eq!((record.outcome, record.via), (PairOutcome::Direct, Some(via)));
        assert!(record.hint.starts_with("direct"), "{}", record.hint);
        assert!(record.packets <= record.budget && record.packets > 0);
    }
    let mut lab = Lab::new(Limits::default());
    lab.behind(1, [203, 0, 113, 1]);
    lab.behind(2, [203, 0, 113, 1]);
    lab.want(1, 2, EASY);
    lab.run(LONG);
    assert_eq!(lab.record(1, 2).via, Some(Via::Hairpin));
}

#[test]
fn lies_about_packets_and_time_stay_within_the_plan() {
    let mut lab = Lab::new(Limits::default());
    lab.reports = false;
    lab.want(1, 2, EASY);
    lab.run(Duration::from_millis(100));
    let (_, punch) = lab.prepared[0];
    for from in [1, 2] {
        let endpoint = Some(lab.seen(client(3 - from)));
        let report = PunchReport { punch, endpoint, rtt_us: u64::MAX, packets: u32::MAX, took_us: u64::MAX };
        lab.schedule.handle_report(lab.now, client(from), report);
    }
    lab.flush();
    let settled = lab.settled.last().unwrap();
    assert!(settled.record.packets <= settled.record.budget);
    assert!(settled.punched <= Some(Duration::from_millis(200)));
}

#[test]
fn a_repeated_ready_does_not_replace_the_first() {
    let mut lab = Lab::new(Limits::default());
    lab.answers = false;
    lab.want(1, 2, EASY);
    let (number, _) = lab.prepared[0];
    let real = lab.seen(client(1));
    lab.schedule.handle_ready(lab.now, client(1), number, ready(real));
    lab.schedule.handle_ready(lab.now, client(1), number, ready(([192, 0, 2, 99], 9).into()));
    lab.schedule.handle_ready(lab.now, client(2), number, ready(lab.seen(client(2))));
    lab.flush();
    let (_, _, order) = lab.orders.iter().find(|(_, to, _)| *to == client(2)).unwrap();
    assert_eq!(order.candidates.iter().map(|candidate| candidate.endpoint).collect::<Vec<_>>(), [real]);
}

#[test]
fn thousands_of_wishes_and_replays_of_one_client_stay_within_all_budgets() {
    let mut lab = Lab::new(Limits::default());
    lab.succeeds = false;
    lab.profile(1, HARD);
    let start = lab.now;
    for round in 0..600_u32 {
        for peer in 2..=60 {
            lab.profile(peer, NatProfile { place: round, ..EASY });
            lab.want_again(1, peer);
        }
        for (number, punch) in lab.prepared.clone().into_iter().rev().take(5) {
            let report = PunchReport { punch, endpoint: None, rtt_us: 0, packets: 0, took_us: 0 };
            lab.schedule.handle_report(lab.now, client(1), report);
            lab.schedule.handle_ready(lab.now, client(1), number, ready(lab.seen(client(1))));
        }
        lab.flush();
        lab.run(Duration::from_secs(1));
    }
    let births = lab.orders.iter().filter(|(_, to, order)| *to == client(1) && order.sockets > 1).count();
    assert!((1..=11).contains(&births), "{births} in ten minutes");
    let orders = lab.orders.iter().filter(|(_, to, _)| *to == client(1)).count() as u64;
    assert!(orders <= (lab.now - start).as_secs() * 4);
    assert!(lab.most_at_once[&client(1)] <= 8);
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
const COUNTING: NatProfile = NatProfile { allocation: Some(Allocation::Sequential { step: 1 }), ..HARD };
const BUSY: NatProfile = NatProfile { foreign_rate: 300, ..COUNTING };
const HARD: NatProfile = NatProfile {
    udp: true,
    mapping: Some(Mapping::AddressAndPortDependent),
    filtering: None,
    keeps_port: false,
    unsure: false,
    hops: 7,
    allocation: Some(Allocation::Random),
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
    ends: BTreeMap<LeaseKey, Instant>,
    records: BTreeMap<(ClientId, ClientId), PairRecord>,
    profiles: BTreeMap<ClientId, NatProfile>,
    addresses: BTreeMap<ClientId, [u8; 4]>,
    epochs: BTreeMap<ClientId, u64>,
    prepared: Vec<(u64, PunchId)>,
    /// From GO to the last report.
    punches: Vec<(Instant, Instant, u64)>,
    at_once: BTreeMap<ClientId, BTreeSet<u64>>,
    most_at_once: BTreeMap<ClientId, usize>,
    preparations: Vec<(Instant, ClientId)>,
    orders: Vec<(Instant, ClientId, PunchOrder)>,
    settled: Vec<Settled>,
    /// The outer end of somebody's port mapping.
    mapped: Option<(ClientId, SocketAddr)>,
    /// What somebody reports to have reached, in place of the first candidate.
    reached: Option<(ClientId, SocketAddr)>,
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
            ends: BTreeMap::new(),
            records: BTreeMap::new(),
            profiles: BTreeMap::new(),
            addresses: BTreeMap::new(),
            epochs: BTreeMap::new(),
            prepared: vec![],
            punches: vec![],
            at_once: BTreeMap::new(),
            most_at_once: BTreeMap::new(),
            preparations: vec![],
            orders: vec![],
            settled: vec![],
            mapped: None,
            reached: None,
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
                        let mapped = self.mapped.filter(|(client, _)| *client == from).map(|(_, mapped)| mapped);
                        let ready = Ready { mapped, ..ready(self.seen(from)) };
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
            Action::Lease { number, key, ttl } => {
                if self.ends.get(&key).is_some_and(|ends| *ends <= self.now) {
                    self.leased.remove(&key);
                }
                let free = *self.leased.entry(key).or_insert(number) == number;
                if free {
                    self.ends.insert(key, self.now + ttl);
                }
                let record = if let LeaseKey::Pair(a, b) = key { self.records.get(&(a, b)).cloned() } else { None };
                let record = record.map(Box::new);
                let claim = if free { Claim::Granted(record) } else { Claim::Denied };
                self.schedule.handle_lease(self.now, self.at(), number, key, claim);
            }
            Action::Release { number, key } => self.release(number, key),
            Action::Prepare { to, preparation } => {
                self.preparations.push((self.now, to.client));
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
                self.orders.push((self.now, to.client, order.clone()));
                let took = Duration::from_millis(300);
                let other = self.reached.filter(|(client, _)| *client == to.client).map(|(_, endpoint)| endpoint);
                let seen = order.candidates.iter().find(|candidate| !candidate.main);
                let endpoint = other.or(seen.map(|candidate| candidate.endpoint));
                let endpoint = endpoint.filter(|_| self.succeeds);
                let report = PunchReport { punch: order.punch, endpoint, rtt_us: 1, packets: 7, took_us: 1 };
                self.punches.push((self.now, self.now + took, order.punch.number));
                self.punches.dedup();
                if self.reports {
                    self.say(took, Word::Report(to.client, report));
                }
            }
            Action::Off { .. } => {}
            Action::Settle(settled) => {
                self.settled.push((*settled).clone());
                let Settled { record, leases, .. } = *settled;
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

    fn record(&self, a: u8, b: u8) -> &PairRecord {
        &self.records[&(client(a), client(b))]
    }

    fn refused(&self, budget: Budget) -> usize {
        self.settled.iter().filter(|settled| settled.refused == Some(budget)).count()
    }

    /// When a client was told to try many ports, and which.
    fn sprays(&self, to: ClientId) -> Vec<(Instant, Spray)> {
        let orders = self.orders.iter().filter(|(_, client, _)| *client == to);
        orders.filter_map(|(at, _, order)| Some((*at, order.spray?))).collect()
    }

    fn most_punches_at_once(&self) -> usize {
        let inside = |at: Instant| self.punches.iter().filter(|(start, end, _)| *start <= at && at < *end).count();
        self.punches.iter().map(|(start, ..)| inside(*start)).max().unwrap_or(0)
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
