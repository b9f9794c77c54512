//! The relay's decisions in virtual time, and the whole role over real sockets on loopback.
#![expect(clippy::unwrap_used, reason = "tests")]

mod draining;
mod fairness;
mod fanout;
mod first;
mod hostile;
mod lab;
mod quota;
mod role;
mod streams;

use std::time::Duration;

use domain::Bandwidth;
use relay::{
    core::{DropReason, Event, Hop, Verdict},
    steer::Workers,
};
use wire::{
    Code,
    relay::{Message, Slot},
    ticket::LegSide,
};

use crate::lab::{ALICE, BERT, Lab, MALLORY, forwarded_to};

#[test]
fn two_legs_of_a_pair_exchange_datagrams() {
    let mut lab = Lab::new();
    let slot = lab.pair(Bandwidth::UNLIMITED);
    assert_eq!(lab.data(ALICE, slot, 1_300), forwarded_to(BERT));
    assert_eq!(lab.data(BERT, slot, 1_300), forwarded_to(ALICE));
    assert_eq!(lab.relay.pairs(), 1);
}

#[test]
fn a_leg_alone_has_nobody_to_talk_to() {
    let mut lab = Lab::new();
    let ticket = lab.ticket(LegSide::A, Bandwidth::UNLIMITED);
    let slot = lab.join(ALICE, &ticket).unwrap();
    assert_eq!(lab.data(ALICE, slot, 100), Verdict::Drop(DropReason::NoPeer));
}

#[test]
fn a_leg_is_reached_through_the_door_that_it_joined_by() {
    let mut lab = Lab::new();
    let slot = lab.pair(Bandwidth::UNLIMITED);
    let data = Message::Data { slot, payload: b"through any door" }.to_vec();
    assert_eq!(lab.send_through(3, ALICE, &data), forwarded_to(BERT));
    let moved = lab.alice.clone().unwrap();
    lab.advance(Duration::from_secs(1));
    lab.join_through(3, ALICE, &moved).unwrap();
    assert_eq!(lab.data(BERT, slot, 100), Verdict::Forward(Hop { address: ALICE, door: 3 }));
}

#[test]
fn the_worker_stands_in_the_number_of_a_slot() {
    let workers = Workers::new(3);
    let mut lab = Lab::of_worker(2, workers);
    let slots: Vec<_> = (0..5).map(|_| lab.pair(Bandwidth::UNLIMITED)).collect();
    for slot in slots {
        assert_eq!(workers.of_slot(slot), Some(2));
        assert_eq!(lab.data(ALICE, slot, 100), forwarded_to(BERT));
        // A number of another worker, and of none, is nobody's here.
        for elsewhere in [0, 1, 3] {
            let hostile = Slot(slot.0 & !3 | elsewhere);
            assert_eq!(lab.data(ALICE, hostile, 100), Verdict::Drop(DropReason::NoSlot));
            assert_eq!(lab.ping(ALICE, hostile), None);
        }
    }
}

#[test]
fn a_stranger_gets_nothing_through() {
    let mut lab = Lab::new();
    let slot = lab.pair(Bandwidth::UNLIMITED);
    assert_eq!(lab.data(MALLORY, slot, 100), Verdict::Drop(DropReason::NotALeg));
    assert_eq!(lab.data(ALICE, Slot(slot.0 ^ 1), 100), Verdict::Drop(DropReason::NoSlot));
    assert_eq!(lab.data(ALICE, Slot(slot.0 ^ 1 << 24), 100), Verdict::Drop(DropReason::NoSlot));
}

#[test]
fn a_datagram_without_a_source_port_is_not_taken_for_an_empty_seat() {
    let mut lab = Lab::new();
    let ticket = lab.ticket(LegSide::A, Bandwidth::UNLIMITED);
    let slot = lab.join(ALICE, &ticket).unwrap();
    let nowhere = "[::]:0".parse().unwrap();
    assert_eq!(lab.data(nowhere, slot, 100), Verdict::Drop(DropReason::NotALeg));
}

#[test]
fn a_flood_of_forged_tickets_is_cut_off_at_its_source_only() {
    let mut lab = Lab::new();
    let forged = Lab::foreign_ticket();
    let refused = |verdict| matches!(verdict, Verdict::Answer(_));
    assert_eq!((0..3_000).filter(|_| refused(lab.join_verdict(MALLORY, &forged))).count(), 1_000);
    assert_eq!(lab.join_verdict(MALLORY, &forged), Verdict::Drop(DropReason::JoinsTooOften));
    lab.pair(Bandwidth::UNLIMITED);
}

#[test]
fn a_copied_ticket_is_worthless() {
    let mut lab = Lab::new();
    let ticket = lab.ticket(LegSide::A, Bandwidth::UNLIMITED);
    lab.join(ALICE, &ticket).unwrap();
    let seen = lab.last_join.clone();
    let Verdict::Answer(answer) = lab.send(MALLORY, &seen) else { panic!() };
    assert!(matches!(Message::parse(answer.as_bytes()), Some(Message::Challenge { .. })));
    let copied = lab::Copied { ticket: ticket.sealed, key: wire::ticket::LegKey([0; 32]) };
    assert_eq!(lab.join_copied(MALLORY, &copied), Err(Code::TicketForged));
}

#[test]
fn a_leg_moves_with_a_fresh_proof_and_the_old_address_means_nothing() {
    let mut lab = Lab::new();
    let slot = lab.pair(Bandwidth::UNLIMITED);
    lab.advance(Duration::from_secs(2));
    let ticket = lab.alice.clone().unwrap();
    assert_eq!(lab.join(MALLORY, &ticket), Ok(slot));
    assert_eq!(lab.data(BERT, slot, 100), forwarded_to(MALLORY));
    assert_eq!(lab.data(ALICE, slot, 100), Verdict::Drop(DropReason::NotALeg));
}

#[test]
fn a_leg_moves_once_a_second_at_most() {
    let mut lab = Lab::new();
    lab.pair(Bandwidth::UNLIMITED);
    let ticket = lab.alice.clone().unwrap();
    lab.advance(Duration::from_millis(100));
    assert_eq!(lab.join_verdict(MALLORY, &ticket), Verdict::Drop(DropReason::MovesTooOften));
    lab.advance(Duration::from_secs(1));
    assert!(lab.join(MALLORY, &ticket).is_ok());
}

#[test]
fn a_capped_pair_is_told_and_recovers() {
    let mut lab = Lab::new();
    let slot = lab.pair(Bandwidth::from_bytes_per_second(1_000));
    assert_eq!(lab.data(ALICE, slot, 1_400), forwarded_to(BERT));
    let Verdict::Answer(note) = lab.data(ALICE, slot, 1_400) else { panic!() };
    assert_eq!(Message::parse(note.as_bytes()), Some(Message::Note { slot, code: Code::RelayCapped.number() }));
    assert_eq!(lab.data(BERT, slot, 1_400), Verdict::Drop(DropReason::OverCap));
    lab.advance(Duration::from_secs(2));
    assert_eq!(lab.data(BERT, slot, 1_400), forwarded_to(ALICE));
}

#[test]
fn the_newest_ticket_says_what_rate_a_living_pair_has() {
    let mut lab = Lab::new();
    let slot = lab.pair(Bandwidth::from_bytes_per_second(1_000));
    let former = lab.alice.clone().unwrap();
    for _ in 0..2 {
        lab.data(ALICE, slot, 1_400);
    }
    lab.advance(Duration::from_secs(1));
    let better = lab.ticket_of_pair(1, LegSide::B, Bandwidth::UNLIMITED);
    assert_eq!(lab.join(BERT, &better), Ok(slot));
    for _ in 0..100 {
        assert_eq!(lab.data(ALICE, slot, 1_400), forwarded_to(BERT));
    }
    // An older one changes nothing.
    assert_eq!(lab.join(ALICE, &former), Ok(slot));
    assert_eq!(lab.data(ALICE, slot, 1_400), forwarded_to(BERT));
    lab.advance(Duration::from_secs(1));
    let worse = lab.ticket_of_pair(1, LegSide::A, Bandwidth::from_bytes_per_second(1_000));
    assert_eq!(lab.join(ALICE, &worse), Ok(slot));
    assert_eq!(lab.data(ALICE, slot, 1_400), forwarded_to(BERT));
    assert_eq!(lab.data(BERT, slot, 1_400), Verdict::Drop(DropReason::OverCap));
}

#[test]
fn a_pair_that_was_slow_does_not_wait_for_its_old_bucket() {
    let mut lab = Lab::new();
    let slot = lab.pair(Bandwidth::from_bytes_per_second(100));
    lab.data(ALICE, slot, 2_048);
    lab.advance(Duration::from_secs(1));
    let better = lab.ticket_of_pair(1, LegSide::B, Bandwidth::from_bytes_per_second(1_000_000));
    assert_eq!(lab.join(BERT, &better), Ok(slot));
    assert_ne!(lab.data(ALICE, slot, 1_400), forwarded_to(BERT), "nothing is given twice");
    lab.advance(Duration::from_millis(50));
    assert_eq!(lab.data(ALICE, slot, 1_400), forwarded_to(BERT));
}

#[test]
fn an_expired_ticket_starts_no_pair_but_keeps_a_living_one() {
    let mut lab = Lab::new();
    let late = lab.ticket(LegSide::A, Bandwidth::UNLIMITED);
    lab.advance(Duration::from_secs(61));
    assert_eq!(lab.join(ALICE, &late), Err(Code::TicketExpired));

    let slot = lab.pair(Bandwidth::UNLIMITED);
    for _ in 0..3 {
        lab.advance(Duration::from_secs(40));
        assert_eq!(lab.data(ALICE, slot, 100), forwarded_to(BERT));
    }
    let ticket = lab.alice.clone().unwrap();
    assert_eq!(lab.join(MALLORY, &ticket), Ok(slot));
}

#[test]
fn a_ticket_of_another_deployment_or_relay_is_refused() {
    let mut lab = Lab::new();
    let forged = Lab::foreign_ticket();
    assert_eq!(lab.join(ALICE, &forged), Err(Code::TicketForged));
    let foreign = lab.ticket_for_another_relay();
    assert_eq!(lab.join(ALICE, &foreign), Err(Code::TicketForeign));
    assert_eq!(lab.relay.pairs(), 0);
}

#[test]
fn an_idle_pair_ends_and_its_number_means_nothing_afterwards() {
    let mut lab = Lab::new();
    let slot = lab.pair(Bandwidth::UNLIMITED);
    lab.advance(Duration::from_secs(50));
    assert_eq!(lab.ping(ALICE, slot), Some(7));
    lab.advance(Duration::from_secs(50));
    assert_eq!(lab.relay.pairs(), 1);
    lab.advance(Duration::from_secs(61));
    assert_eq!(lab.relay.pairs(), 0);
    assert!(lab.events.contains(&Event::Closed));
    assert_eq!(lab.data(ALICE, slot, 100), Verdict::Drop(DropReason::NoSlot));

    let next = lab.pair(Bandwidth::UNLIMITED);
    assert_ne!(next, slot);
    assert_eq!(next.0 & 0xff_ffff, slot.0 & 0xff_ffff);
}

#[test]
fn a_full_relay_says_so_and_has_room_again_later() {
    let mut lab = Lab::with_slots(1);
    lab.pair(Bandwidth::UNLIMITED);
    let ticket = lab.ticket(LegSide::A, Bandwidth::UNLIMITED);
    assert_eq!(lab.join(MALLORY, &ticket), Err(Code::RelayFull));
    lab.advance(Duration::from_secs(61));
    let ticket = lab.ticket(LegSide::A, Bandwidth::UNLIMITED);
    assert!(lab.join(MALLORY, &ticket).is_ok());
}

#[test]
fn a_cookie_lives_between_one_and_two_minutes() {
    let mut lab = Lab::new();
    let ticket = lab.ticket(LegSide::A, Bandwidth::UNLIMITED);
    lab.join(ALICE, &ticket).unwrap();
    let join = lab.last_join.clone();
    lab.advance(Duration::from_secs(45));
    let Verdict::Answer(answer) = lab.send(ALICE, &join) else { panic!() };
    assert!(matches!(Message::parse(answer.as_bytes()), Some(Message::Joined { .. })));
    lab.advance(Duration::from_secs(90));
    let Verdict::Answer(answer) = lab.send(ALICE, &join) else { panic!() };
    assert!(matches!(Message::parse(answer.as_bytes()), Some(Message::Challenge { .. })));
}
