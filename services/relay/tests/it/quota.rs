//! What legs send is counted to who pays, and stops at the end of a quota.

use std::time::Duration;

use domain::{Bandwidth, PayerId};
use relay::core::{DropReason, Verdict};
use wire::{
    Code,
    relay::{Message, Slot},
    ticket::LegSide,
};

use crate::lab::{ALICE, BERT, Lab, forwarded_to, payer};

const QUOTA: u64 = 100_000;

#[test]
fn every_forwarded_byte_is_counted_to_who_sent_it_and_no_other() {
    let mut lab = Lab::new();
    let slot = lab.pair(Bandwidth::UNLIMITED);
    let accounts = [LegSide::A, LegSide::B].map(|side| lab.accounts.open(payer(side)));
    let mut sent = [0, 0];
    for turn in 0..1_000 {
        let size = 200 + turn % 1_800;
        assert_eq!(lab.data(ALICE, slot, size), forwarded_to(BERT));
        sent[0] += size as u64;
        if turn % 3 == 0 {
            lab.data(BERT, slot, 100);
            sent[1] += 100;
        }
    }
    lab.advance(Duration::from_secs(61));
    assert_eq!(lab.relay.pairs(), 0);
    assert_eq!(accounts.map(|account| account.spent()), sent);
}

#[test]
fn a_capped_datagram_is_not_counted() {
    let mut lab = Lab::new();
    let slot = lab.pair(Bandwidth::from_kbit_per_second(8));
    assert_eq!(lab.data(ALICE, slot, 2_048), forwarded_to(BERT));
    (0..10).for_each(|_| assert_ne!(lab.data(ALICE, slot, 2_048), forwarded_to(BERT)));
    lab.relay.handle_end();
    assert_eq!(lab.accounts.open(payer(LegSide::A)).spent(), 2_048);
}

#[test]
fn out_of_quota_a_leg_trickles_and_both_are_told_why() {
    let mut lab = Lab::with_quota(QUOTA);
    let slot = lab.pair(Bandwidth::UNLIMITED);
    let passed = (0..1_000).take_while(|_| lab.data(ALICE, slot, 1_000) == forwarded_to(BERT)).count() as u64 * 1_000;
    // One look late at most, and one datagram of the trickle.
    assert!((QUOTA..QUOTA + 36_000 + 2_048).contains(&passed), "{passed}");

    lab.advance(Duration::from_secs(11));
    while lab.data(ALICE, slot, 1_000) == forwarded_to(BERT) {}
    assert_eq!(lab.data(ALICE, slot, 1_000), Verdict::Drop(DropReason::OverQuota), "it was said a moment ago");
    assert_eq!(lab.data(BERT, slot, 1_000), forwarded_to(ALICE), "the other one pays for itself");

    lab.advance(Duration::from_secs(20));
    let (answer, note) = refused(&mut lab, slot);
    assert_eq!(answer, Code::RelayQuota.number());
    assert_eq!(note, Some((BERT, Code::RelayQuota.number())));
}

#[test]
fn an_hour_without_quota_passes_the_trickle_and_nothing_more() {
    let mut lab = Lab::with_quota(0);
    let slot = lab.pair(Bandwidth::UNLIMITED);
    while lab.data(ALICE, slot, 1_200) == forwarded_to(BERT) {}
    let mut passed = 0;
    for _ in 0..36_000 {
        lab.advance(Duration::from_millis(100));
        passed += if lab.data(ALICE, slot, 1_200) == forwarded_to(BERT) { 1_200 } else { 0 };
    }
    assert!((3_600_000 - 40_000..=3_600_000 + 2_048).contains(&passed), "{passed} of 8 kbit/s");
    lab.relay.handle_end();
    assert!(lab.accounts.open(payer(LegSide::A)).spent() >= passed, "what trickles is counted, too");
}

#[test]
fn a_leg_that_joins_on_anothers_account_is_counted_there_from_then_on() {
    let mut lab = Lab::new();
    let slot = lab.pair(Bandwidth::UNLIMITED);
    let owner = PayerId::from_bytes([9; 16]);
    let before = lab.accounts.open(payer(LegSide::A));
    (0..50).for_each(|_| assert_eq!(lab.data(ALICE, slot, 1_000), forwarded_to(BERT)));
    lab.join_paid_by(LegSide::A, ALICE, owner);
    (0..50).for_each(|_| assert_eq!(lab.data(ALICE, slot, 1_100), forwarded_to(BERT)));
    // The same again, as after a lost answer, changes nothing.
    lab.join_paid_by(LegSide::A, ALICE, owner);
    let after = lab.accounts.open(owner);
    lab.relay.handle_end();
    assert_eq!((before.spent(), after.spent()), (50_000, 55_000));
}

#[test]
fn a_leg_that_falls_silent_leaves_its_account_and_one_that_sends_keeps_it() {
    let mut lab = Lab::new();
    let slot = lab.pair(Bandwidth::UNLIMITED);
    (0..50).for_each(|_| assert_eq!(lab.data(ALICE, slot, 1_000), forwarded_to(BERT)));
    (0..50).for_each(|_| assert_eq!(lab.data(BERT, slot, 1_000), forwarded_to(ALICE)));
    let accounts = [LegSide::A, LegSide::B].map(|side| lab.accounts.open(payer(side)));
    // The book, the leg and this test.
    let holders = || accounts.each_ref().map(std::sync::Arc::strong_count);
    assert_eq!(holders(), [3, 3]);
    for _ in 0..30 {
        lab.advance(Duration::from_secs(10));
        assert!(lab.ping(ALICE, slot).is_some());
        lab.data(BERT, slot, 1_000);
    }
    assert_eq!(holders(), [2, 3]);
    assert_eq!(lab.data(ALICE, slot, 100), forwarded_to(BERT));
    lab.relay.handle_end();
    assert_eq!(accounts.map(|account| account.spent()), [50_100, 80_000]);
}

#[test]
fn a_pair_of_two_pays_together_when_one_pays_for_both() {
    let mut lab = Lab::with_quota(QUOTA);
    let slot = lab.pair_paid_by(payer(LegSide::A));
    (0..70).for_each(|_| assert_eq!(lab.data(ALICE, slot, 1_000), forwarded_to(BERT)));
    let passed = (0..1_000).take_while(|_| lab.data(BERT, slot, 1_000) == forwarded_to(ALICE)).count();
    assert!((30..=30 + 2 * 36).contains(&passed), "{passed}");
}

#[test]
fn a_capped_pair_is_told_so_on_both_sides() {
    let mut lab = Lab::new();
    let slot = lab.pair(Bandwidth::from_kbit_per_second(8));
    lab.data(ALICE, slot, 2_048);
    let (answer, note) = refused(&mut lab, slot);
    assert_eq!(answer, Code::RelayCapped.number());
    assert_eq!(note, Some((BERT, Code::RelayCapped.number())));
    assert_eq!(lab.data(ALICE, slot, 2_048), Verdict::Drop(DropReason::OverCap));
    assert!(lab.relay.poll_note().is_none());
    assert!(lab.relay.poll_held_back().is_some(), "its first note named it");
    assert_eq!(lab.relay.poll_held_back(), None);
}

/// What Alice is answered, and what is said to the other leg, when something of hers goes nowhere.
fn refused(lab: &mut Lab, slot: Slot) -> (u16, Option<(std::net::SocketAddr, u16)>) {
    let verdict = (0..10).map(|_| lab.data(ALICE, slot, 1_000)).find(|verdict| *verdict != forwarded_to(BERT));
    let Some(Verdict::Answer(answer)) = verdict else { panic!("{verdict:?}") };
    let code = |bytes: &[u8]| match Message::parse(bytes) {
        Some(Message::Note { slot: of, code }) if of == slot => code,
        other => panic!("{other:?}"),
    };
    let note = lab.relay.poll_note().map(|(hop, note)| (hop.address, code(note.as_bytes())));
    (code(answer.as_bytes()), note)
}
