//! Negotiations from the wish to the record.

use std::time::Duration;

use contract::{
    gateway::Notice,
    rendezvous::{Pair, Wanted},
};
use domain::{NatClass, NatProfile, PairOutcome, Strategy};
use rendezvous::{Presented, Strategies};
use tokio::time::Instant;
use traversal::schedule::Budget;

use crate::lab::{ANNA, BERT, Heard, JITTER_US, Lab, Script, easy, hard, seen};

#[tokio::test(start_paused = true)]
async fn two_easy_clients_become_direct() {
    let lab = Lab::new(1).await;
    lab.easy_pair([Script::Succeeds; 2]).await;
    lab.want(Wanted::Profiled).await;

    let record = lab.record().await;
    assert_eq!((record.outcome, record.strategy, record.attempts), (PairOutcome::Direct, Strategy::Direct, 1));
    assert_eq!(record.packets, 14);
    let orders: Vec<_> =
        lab.heard.borrow().iter().filter_map(|heard| Some((heard.by, heard.order()?.candidates))).collect();
    for (client, candidates) in orders {
        let peer = if client == ANNA { BERT } else { ANNA };
        assert_eq!(candidates.iter().map(|candidate| candidate.endpoint).collect::<Vec<_>>(), [seen(peer)]);
    }
    let answer = lab.bus(0).call(&Pair { a: BERT, b: ANNA }).await.unwrap();
    assert_eq!(answer.record, Some(record));
    let count = lab.metrics(0).negotiations(NatClass::Easy, NatClass::Easy, Strategy::Direct, PairOutcome::Direct);
    assert_eq!(count, 1);
    assert_eq!(lab.metrics(0).observations(Presented::Valid), 2);
    assert_eq!(lab.metrics(0).direct_seconds(Strategy::Direct).get_sample_count(), 1);
    assert_eq!(lab.metrics(0).packets(Strategy::Direct), 14);
    assert_eq!(lab.metrics(0).lock_wait_seconds.get_sample_count(), 1);
    let gap = 2 * (JITTER_US + JITTER_US) + 10_000;
    assert!(lab.orders(ANNA).iter().all(|order| order.gap_us == gap), "the jitter of both decides it");
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pair_whose_profiles_are_unknown_waits_for_them() {
    let lab = Lab::new(1).await;
    let epoch = lab.up(ANNA, Script::Succeeds).await;
    lab.up_with(BERT, easy(), Script::Succeeds).await;
    lab.want(Wanted::Online).await;
    assert_eq!(lab.lack().await.outcome, PairOutcome::Pending);

    lab.presence.report(ANNA, epoch, easy()).await.unwrap();
    lab.want(Wanted::Profiled).await;
    let direct = lab.until(|heard| heard.record().filter(|record| record.outcome == PairOutcome::Direct));
    direct.await;
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_observation_that_no_reflector_made_for_this_session_does_not_count() {
    for (script, presented) in [(Script::Forges, Presented::Forged), (Script::Steals, Presented::Foreign)] {
        let lab = Lab::new(1).await;
        lab.easy_pair([script, Script::Succeeds]).await;
        lab.want(Wanted::Profiled).await;

        let record = lab.record().await;
        assert_eq!(record.outcome, PairOutcome::Relayed);
        assert!(record.hint.contains("3478"), "{}", record.hint);
        assert_eq!(lab.metrics(0).observations(presented), 1);
        let told = lab.heard.borrow().iter().any(|heard| matches!(heard.notice, Notice::Go(_)));
        assert!(!told, "nobody is sent anywhere");
        lab.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_always_reports_failure_climbs_the_ladder_and_no_faster() {
    let lab = Lab::new(1).await;
    lab.easy_pair([Script::Fails; 2]).await;
    lab.want(Wanted::Profiled).await;
    let start = Instant::now();
    // It also demands a path every second.
    while start.elapsed() < Duration::from_secs(300) {
        lab.run(Duration::from_secs(1)).await;
        lab.want(Wanted::Demanded).await;
        // And repeats what it said before.
        for punch in lab.orders(ANNA).iter().map(|order| order.punch) {
            lab.say_ready(ANNA, punch).await;
            lab.say_failed(ANNA, punch).await;
        }
    }

    let attempts: Vec<_> =
        lab.preparations().into_iter().filter(|(_, by)| *by == ANNA).map(|(at, _)| (at - start).as_secs()).collect();
    assert_eq!(attempts.len(), 5, "{attempts:?}");
    let rests: Vec<_> = attempts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (rest, at_least) in rests.iter().zip([1, 3, 30, 120]) {
        assert!((at_least..at_least + 5).contains(rest), "{attempts:?}");
    }
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_pretends_to_move_all_the_time_has_no_more_birthdays() {
    let lab = Lab::new(1).await;
    let epoch = lab.up(ANNA, Script::Fails).await;
    lab.up_with(BERT, hard(), Script::Fails).await;
    for place in 0..30 {
        lab.profiled(ANNA, epoch, NatProfile { place, ..easy() }).await;
        lab.run(Duration::from_secs(10)).await;
    }
    let births = lab.orders(ANNA).iter().filter(|order| order.strategy == Strategy::Birthday).count();
    assert_eq!(births, 3);
    assert!(lab.metrics(0).refused(Budget::Client) > 0);
    assert!(lab.metrics(0).refused(Budget::Pair) > 0);
    assert_eq!(lab.metrics(0).packets(Strategy::Birthday), 3 * 14);
    let answer = lab.bus(0).call(&Pair { a: ANNA, b: BERT }).await.unwrap().record.unwrap();
    assert!(answer.hint.contains("port mapping"), "{}", answer.hint);
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_the_operator_switched_off_is_not_tried() {
    let lab = Lab::with(1, Strategies { birthday: false, ..Strategies::default() }).await;
    lab.up_with(ANNA, easy(), Script::Fails).await;
    lab.up_with(BERT, hard(), Script::Fails).await;
    lab.want(Wanted::Profiled).await;
    let record = lab.record().await;
    assert_eq!((record.outcome, record.strategy), (PairOutcome::Relayed, Strategy::Relay));
    assert!(record.hint.contains("traversal.strategies"), "{}", record.hint);
    assert!(lab.orders(ANNA).iter().all(|order| order.spray.is_none()));
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_costs_one_attempt() {
    let lab = Lab::new(1).await;
    lab.easy_pair([Script::Succeeds, Script::Silent]).await;
    lab.want(Wanted::Profiled).await;
    lab.preparation().await;
    assert_eq!(lab.metrics(0).active.get(), 1);
    let record = lab.record().await;
    assert_eq!((record.outcome, record.attempts), (PairOutcome::Relayed, 1));
    let told_off =
        lab.heard.borrow().iter().any(|heard| heard.by == ANNA && matches!(heard.notice, Notice::PunchOff(_)));
    assert!(told_off);
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pair_without_udp_is_told_why_it_stays_relayed() {
    let lab = Lab::new(1).await;
    lab.up_with(ANNA, NatProfile::BLOCKED, Script::Succeeds).await;
    lab.up_with(BERT, easy(), Script::Succeeds).await;
    lab.want(Wanted::Profiled).await;
    let record = lab.record().await;
    assert_eq!((record.outcome, record.strategy), (PairOutcome::Relayed, Strategy::Relay));
    assert!(record.hint.contains("UDP"), "{}", record.hint);

    lab.want(Wanted::Demanded).await;
    lab.run(Duration::from_secs(60)).await;
    assert_eq!(lab.preparations(), []);
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn two_hard_clients_get_one_plain_round_and_a_remedy() {
    let lab = Lab::new(1).await;
    lab.up_with(ANNA, hard(), Script::Fails).await;
    lab.up_with(BERT, hard(), Script::Fails).await;
    lab.want(Wanted::Profiled).await;
    let record = lab.record().await;
    assert_eq!((record.outcome, record.strategy), (PairOutcome::Relayed, Strategy::Relay));
    assert!(record.hint.contains("port mapping"), "{}", record.hint);
    lab.run(Duration::from_secs(600)).await;
    assert_eq!(lab.preparations().len(), 2);
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn two_processes_never_lead_the_same_pair() {
    let lab = Lab::new(2).await;
    lab.easy_pair([Script::Succeeds; 2]).await;
    for _ in 0..6 {
        lab.want(Wanted::Profiled).await;
    }
    assert_eq!(lab.record().await.outcome, PairOutcome::Direct);
    lab.run(Duration::from_secs(90)).await;
    assert_eq!(lab.preparations().len(), 2, "{:?}", lab.preparations());
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn another_process_takes_over_when_the_leader_dies() {
    let mut lab = Lab::new(2).await;
    lab.easy_pair([Script::Silent, Script::Silent]).await;
    lab.want(Wanted::Profiled).await;
    let first = lab.preparation().await;
    lab.kill(lab.leader(&first));

    lab.up_script(Script::Succeeds);
    // The lease of the dead process runs out; the next wish is enough.
    lab.run(Duration::from_secs(41)).await;
    lab.want(Wanted::Demanded).await;
    let record = lab.record().await;
    assert_eq!(record.outcome, PairOutcome::Direct);
    let leaders: std::collections::BTreeSet<_> =
        lab.heard.borrow().iter().filter_map(|heard| Some(heard.preparation()?.punch.leader)).collect();
    assert_eq!(leaders.len(), 2);
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_process_that_was_denied_looks_again_when_the_lease_is_over() {
    let mut lab = Lab::new(2).await;
    lab.easy_pair([Script::Silent, Script::Silent]).await;
    // Both get the wish; one leads and dies, the other looks again by itself.
    for _ in 0..4 {
        lab.want(Wanted::Profiled).await;
    }
    let first = lab.preparation().await;
    lab.run(Duration::from_millis(100)).await;
    lab.kill(lab.leader(&first));
    lab.up_script(Script::Succeeds);
    assert_eq!(lab.record().await.outcome, PairOutcome::Direct);
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn words_of_strangers_and_for_other_processes_change_nothing() {
    let lab = Lab::new(1).await;
    lab.easy_pair([Script::Silent, Script::Silent]).await;
    lab.want(Wanted::Profiled).await;
    let preparation = lab.preparation().await;
    lab.say_ready(domain::ClientId::from_bytes([66; 16]), preparation.punch).await;
    let mut other = preparation.punch;
    other.number += 1;
    lab.say_ready(ANNA, other).await;
    lab.say_ready(BERT, other).await;
    let record = lab.record().await;
    assert_eq!(record.outcome, PairOutcome::Relayed);
    assert!(!lab.heard.borrow().iter().any(|heard| matches!(heard.notice, Notice::Go(_))));
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_gateway_died_ends_its_negotiation() {
    let lab = Lab::new(1).await;
    lab.up_with(ANNA, easy(), Script::Succeeds).await;
    lab.up_elsewhere(BERT, easy()).await;
    lab.want(Wanted::Profiled).await;
    lab.run(Duration::from_secs(5)).await;
    assert!(lab.metrics(0).undelivered.get() >= 1);
    assert_eq!(lab.metrics(0).active.get(), 0);
    let told_off = |heard: &Heard| heard.by == ANNA && matches!(heard.notice, Notice::PunchOff(_));
    assert!(lab.heard.borrow().iter().any(told_off));
    assert!(!lab.heard.borrow().iter().any(|heard| heard.record().is_some()), "that says nothing about the NATs");
    lab.stop().await;
}
