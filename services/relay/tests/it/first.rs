//! First packets, which a join brings along, and cookies that are asked for before there is a ticket.

use std::{net::SocketAddr, time::Duration};

use domain::Bandwidth;
use relay::{
    core::{Event, Hop, Verdict},
    parking::Parcel,
};
use wire::{
    Code,
    relay::{Cookie, HEADER_SIZE, MAX_FIRST, Message, Slot},
    ticket::{LegKey, LegSide},
};

use crate::lab::{ALICE, BERT, Lab, MALLORY, Offer, forwarded_to, outcome};

#[test]
fn first_packets_cross_whichever_leg_comes_first() {
    for (early, late) in [(0, 1), (1, 0)] {
        let mut lab = Lab::new();
        let legs = lab.legs(Bandwidth::UNLIMITED);
        let (first, second) = (&legs[early], &legs[late]);
        let slot = lab.join_bringing(first.0, &first.1, b"early").unwrap();
        assert_eq!(lab.parcels, []);
        lab.advance(Duration::from_millis(100));
        assert_eq!(lab.join_bringing(second.0, &second.1, b"late"), Ok(slot));
        assert_eq!(lab.take_parcels(), [(second.0, data(slot, b"early")), (first.0, data(slot, b"late"))]);
        let events = [Event::Opened, Event::Joined, Event::FirstParked, Event::Joined, Event::FirstDelivered];
        assert_eq!(lab.events, events);
        assert_eq!(lab.data(ALICE, slot, 100), forwarded_to(BERT));
    }
}

#[test]
fn one_side_may_bring_nothing() {
    for brings in [0, 1] {
        let mut lab = Lab::new();
        let legs = lab.legs(Bandwidth::UNLIMITED);
        let mut slot = Slot(0);
        for (nth, (at, offer)) in legs.iter().enumerate() {
            let joined = if nth == brings { lab.join_bringing(*at, offer, b"only") } else { lab.join(*at, offer) };
            slot = joined.unwrap();
        }
        assert_eq!(lab.take_parcels(), [(legs[1 - brings].0, data(slot, b"only"))]);
    }
}

#[test]
fn what_waits_for_longer_than_two_seconds_is_forgotten() {
    for (wait, delivered) in [(Duration::from_millis(1_999), 1), (Duration::from_secs(2), 0)] {
        let mut lab = Lab::new();
        let [(_, alice), (_, bert)] = lab.legs(Bandwidth::UNLIMITED);
        lab.join_bringing(ALICE, &alice, b"waits").unwrap();
        lab.advance(wait);
        lab.join(BERT, &bert).unwrap();
        assert_eq!(lab.take_parcels().len(), delivered, "{wait:?}");
    }
}

#[test]
fn the_smallest_and_the_largest_pass_and_nothing_beyond_them() {
    for (size, passes) in [(0, false), (1, true), (MAX_FIRST, true), (MAX_FIRST + 1, false)] {
        let mut lab = Lab::new();
        let [(_, alice), (_, bert)] = lab.legs(Bandwidth::UNLIMITED);
        let slot = lab.join(BERT, &bert).unwrap();
        let cookie = lab.cookie(ALICE);
        let first = vec![9; size];
        let verdict = lab.send_join(0, ALICE, &alice, cookie, Some(&first));
        assert_eq!(matches!(verdict, Verdict::Answer(_)), passes, "{size}");
        let expected = if passes { vec![(BERT, data(slot, &first))] } else { Vec::new() };
        assert_eq!(lab.take_parcels(), expected);
    }
}

#[test]
fn nothing_leaves_for_a_join_that_is_not_accepted() {
    let mut lab = Lab::new();
    let [(_, alice), (_, bert)] = lab.legs(Bandwidth::UNLIMITED);
    lab.join(BERT, &bert).unwrap();
    let stolen = Offer { sealed: alice.sealed, key: LegKey([0; 32]) };
    let forged = Lab::foreign_ticket();
    for (offer, code) in [(&stolen, Code::TicketForged), (&forged, Code::TicketForged)] {
        assert_eq!(lab.join_bringing(MALLORY, offer, b"hostile"), Err(code));
    }
    // Without a cookie, with one of somebody else, and with one that was good long ago.
    let old = lab.cookie(ALICE);
    let another = lab.cookie(MALLORY);
    lab.advance(Duration::from_secs(30));
    assert!(lab.ping(BERT, Slot(0)).is_some());
    lab.advance(Duration::from_secs(31));
    assert!(lab.ping(BERT, Slot(0)).is_some());
    lab.advance(Duration::from_secs(59));
    for cookie in [Cookie::default(), another, old] {
        let Verdict::Answer(answer) = lab.send_join(0, ALICE, &alice, cookie, Some(b"unproved")) else { panic!() };
        assert!(matches!(Message::parse(answer.as_bytes()), Some(Message::Challenge { .. })));
    }
    assert_eq!(lab.parcels, []);
    assert!(!lab.events.contains(&Event::FirstParked));
}

#[test]
fn a_move_brings_a_packet_too_and_one_that_comes_too_soon_does_not() {
    let mut lab = Lab::new();
    let slot = lab.pair(Bandwidth::UNLIMITED);
    let alice = lab.alice.clone().unwrap();
    let cookie = lab.cookie(MALLORY);
    let verdict = lab.send_join(0, MALLORY, &alice, cookie, Some(b"soon"));
    assert!(matches!(verdict, Verdict::Drop(_)), "{verdict:?}");
    assert_eq!(lab.parcels, []);
    lab.advance(Duration::from_secs(1));
    assert_eq!(lab.join_bringing(MALLORY, &alice, b"moved"), Ok(slot));
    assert_eq!(lab.take_parcels(), [(BERT, data(slot, b"moved"))]);
}

#[test]
fn first_packets_leave_through_the_doors_of_their_legs() {
    let mut lab = Lab::new();
    let [(_, alice), (_, bert)] = lab.legs(Bandwidth::UNLIMITED);
    for (door, at, offer) in [(3, ALICE, &alice), (5, BERT, &bert)] {
        let cookie = lab.cookie(at);
        lab.send_join(door, at, offer, cookie, Some(b"hello"));
    }
    let hops: Vec<_> = lab.parcels.iter().map(|parcel| parcel.to).collect();
    assert_eq!(hops, [Hop { address: BERT, door: 5 }, Hop { address: ALICE, door: 3 }]);
}

/// Whoever repeats what a leg sent has the relay send less than he sends himself, to proven legs only, and nothing that waited
/// a second time.
#[test]
fn a_repeated_join_neither_amplifies_nor_doubles_what_waited() {
    let mut lab = Lab::new();
    let [(_, alice), (_, bert)] = lab.legs(Bandwidth::UNLIMITED);
    lab.join_bringing(ALICE, &alice, &[1; 148]).unwrap();
    let (of_alice, mut waited) = (lab.last_join.clone(), 0);
    for _ in 0..50 {
        lab.send(ALICE, &of_alice);
    }
    lab.join_bringing(BERT, &bert, &[2; 148]).unwrap();
    let of_bert = lab.last_join.clone();
    waited += lab.take_parcels().iter().filter(|(to, _)| *to == BERT).count();
    for (from, join) in [(ALICE, &of_alice), (BERT, &of_bert)].repeat(50) {
        let Verdict::Answer(answer) = lab.send(from, join) else { panic!() };
        let parcels = lab.take_parcels();
        waited += parcels.iter().filter(|(to, _)| *to == from).count();
        assert!(parcels.iter().all(|(to, _)| [ALICE, BERT].contains(to)));
        let sent: usize = parcels.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(answer.as_bytes().len() + sent < join.len());
    }
    assert_eq!(waited, 1);
    // From elsewhere it is worth a challenge.
    let Verdict::Answer(answer) = lab.send(MALLORY, &of_alice) else { panic!() };
    assert!(matches!(Message::parse(answer.as_bytes()), Some(Message::Challenge { .. })));
    assert_eq!(lab.parcels, []);
}

#[test]
fn a_first_packet_is_charged_like_any_other() {
    let mut lab = Lab::new();
    let slot = lab.pair(Bandwidth::from_bytes_per_second(1_000));
    let alice = lab.alice.clone().unwrap();
    // The bucket holds 2,048 bytes: all but 156 of them.
    assert_eq!(lab.data(BERT, slot, 2_048 - HEADER_SIZE - 148), forwarded_to(ALICE));
    lab.join_bringing(ALICE, &alice, &[1; 148]).unwrap();
    assert_eq!(lab.take_parcels().len(), 1);
    assert_eq!(lab.join_bringing(ALICE, &alice, &[1; 1]), Ok(slot), "the leg joins all the same");
    assert_eq!(lab.parcels, []);
    assert_eq!(lab.events.last(), Some(&Event::FirstOverCap));
    lab.advance(Duration::from_millis(9));
    lab.join_bringing(ALICE, &alice, &[1; 1]).unwrap();
    assert_eq!(lab.take_parcels().len(), 1);
}

#[test]
fn a_packet_that_waits_is_charged_when_it_comes() {
    let mut lab = Lab::new();
    let [(_, alice), (_, bert)] = lab.legs(Bandwidth::from_bytes_per_second(1_000));
    for _ in 0..8 {
        lab.join_bringing(ALICE, &alice, &[1; MAX_FIRST]).unwrap();
    }
    assert_eq!(lab.events.iter().filter(|event| **event == Event::FirstOverCap).count(), 1);
    lab.join_bringing(BERT, &bert, &[2; MAX_FIRST]).unwrap();
    assert_eq!(lab.take_parcels().len(), 1, "what waited has been paid for");
}

#[test]
fn a_cookie_that_was_asked_for_spares_the_challenge_and_costs_the_relay_nothing() {
    let mut lab = Lab::new();
    let ticket = lab.ticket(LegSide::A, Bandwidth::UNLIMITED);
    let cookie = lab.cookie(ALICE);
    assert_eq!((lab.relay.pairs(), lab.events.len()), (0, 0));
    lab.advance(Duration::from_secs(59));
    let verdict = lab.send_join(0, ALICE, &ticket, cookie, None);
    assert!(outcome(verdict, &lab.last_join).is_ok());
    let Verdict::Answer(answer) = lab.send_join(0, MALLORY, &ticket, cookie, None) else { panic!() };
    assert!(matches!(Message::parse(answer.as_bytes()), Some(Message::Challenge { .. })), "it is for one address");
}

fn data(slot: Slot, payload: &[u8]) -> Vec<u8> {
    Message::Data { slot, payload }.to_vec()
}

impl Lab {
    /// Both legs of a new pair: from where, with what.
    fn legs(&mut self, rate: Bandwidth) -> [(SocketAddr, Offer); 2] {
        [(ALICE, LegSide::A), (BERT, LegSide::B)].map(|(at, side)| (at, self.ticket_of_pair(1, side, rate)))
    }

    fn take_parcels(&mut self) -> Vec<(SocketAddr, Vec<u8>)> {
        let taken = |parcel: Parcel| (parcel.to.address, parcel.as_bytes().to_vec());
        std::mem::take(&mut self.parcels).into_iter().map(taken).collect()
    }
}
