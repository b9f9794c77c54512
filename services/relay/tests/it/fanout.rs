//! One frame for many: who gets a copy, who pays for it, and what it spares.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use domain::Bandwidth;
use relay::{
    StreamConfig,
    core::{DropReason, Verdict},
    steer::Workers,
};
use wire::{
    Code,
    fanout::{self, Shared, SharedKeyId},
    relay::{HEADER_SIZE, MAX_DATAGRAM, Message, Slot},
    ticket::LegSide,
};

use crate::{
    lab::{ALICE, BERT, Lab, MALLORY, forwarded_to},
    streams,
};

#[test]
fn a_frame_reaches_the_other_leg_of_each_of_its_slots() {
    let mut lab = Lab::new();
    for count in [1, 2, 64] {
        let (slots, members): (Vec<_>, Vec<_>) = star(&mut lab, count, Bandwidth::UNLIMITED).into_iter().unzip();
        let expected: Vec<_> = members.into_iter().map(forwarded_to).collect();
        assert_eq!(lab.copies(ALICE, &frame(&slots, 500)), Ok(expected), "{count}");
    }
}

#[test]
fn a_wrong_slot_is_left_out_and_the_others_get_theirs() {
    let mut lab = Lab::new();
    let ours = star(&mut lab, 2, Bandwidth::UNLIMITED);
    let foreign = lab.pair_of(BERT, MALLORY, Bandwidth::UNLIMITED);
    let alone = lab.ticket(LegSide::A, Bandwidth::UNLIMITED);
    let alone = lab.join(ALICE, &alone).unwrap();
    let unknown = Slot(alone.0 + 1);
    let slots = [ours[0].0, ours[1].0, foreign, alone, unknown];
    assert!(slots.is_sorted());
    assert_eq!(
        lab.copies(ALICE, &frame(&slots, 500)),
        Ok(vec![
            forwarded_to(ours[0].1),
            forwarded_to(ours[1].1),
            Verdict::Drop(DropReason::NotALeg),
            Verdict::Drop(DropReason::NoPeer),
            Verdict::Drop(DropReason::NoSlot),
        ])
    );
}

#[test]
fn a_member_sends_to_those_that_it_shares_a_slot_with_only() {
    let mut lab = Lab::new();
    let slots: Vec<_> = star(&mut lab, 3, Bandwidth::UNLIMITED).into_iter().map(|(slot, _)| slot).collect();
    assert_eq!(
        lab.copies(member(0), &frame(&slots, 500)),
        Ok(vec![forwarded_to(ALICE), Verdict::Drop(DropReason::NotALeg), Verdict::Drop(DropReason::NotALeg),])
    );
}

#[test]
fn the_frame_of_a_stranger_goes_nowhere() {
    let mut lab = Lab::new();
    let slots: Vec<_> = star(&mut lab, 64, Bandwidth::UNLIMITED).into_iter().map(|(slot, _)| slot).collect();
    for named in [&slots[..1], &slots[..2], &slots] {
        assert_eq!(lab.copies(MALLORY, &frame(named, 500)), Err(Verdict::Drop(DropReason::NotALeg)));
    }
    // Not found out by looking at all of them.
    let late = lab.pair_of(MALLORY, BERT, Bandwidth::UNLIMITED);
    let mut last = slots[..8].to_vec();
    last.push(late);
    assert_eq!(lab.copies(MALLORY, &frame(&last, 500)), Err(Verdict::Drop(DropReason::NotALeg)));
    last.remove(0);
    assert_eq!(lab.copies(MALLORY, &frame(&last, 500)).unwrap()[7], forwarded_to(BERT));
}

#[test]
fn a_leg_that_moved_gets_copies_where_it_is_and_sends_none_from_where_it_was() {
    let mut lab = Lab::new();
    let slot = lab.pair(Bandwidth::UNLIMITED);
    lab.advance(Duration::from_secs(2));
    let ticket = lab.alice.clone().unwrap();
    assert_eq!(lab.join(MALLORY, &ticket), Ok(slot));
    assert_eq!(lab.copies(BERT, &frame(&[slot], 100)), Ok(vec![forwarded_to(MALLORY)]));
    assert_eq!(lab.copies(ALICE, &frame(&[slot], 100)), Err(Verdict::Drop(DropReason::NotALeg)));
}

#[test]
fn every_pair_pays_for_its_own_copy_as_for_a_datagram_of_that_size() {
    let mut lab = Lab::new();
    let capped = lab.pair_of(ALICE, BERT, Bandwidth::from_bytes_per_second(1_000));
    let free = lab.pair_of(ALICE, MALLORY, Bandwidth::UNLIMITED);
    let slots = [capped, free];
    // A bucket holds one largest datagram; the frame's list of slots is not charged.
    let copy = fanout::COPY_HEADER_SIZE + 1_000;
    assert_eq!(lab.copies(ALICE, &frame(&slots, 1_000)), Ok(vec![forwarded_to(BERT), forwarded_to(MALLORY)]));
    assert_eq!(lab.data(ALICE, capped, MAX_DATAGRAM - copy), forwarded_to(BERT));
    let over = lab.copies(ALICE, &frame(&slots, 0)).unwrap();
    assert_eq!(over[1], forwarded_to(MALLORY));
    let Verdict::Answer(note) = over[0] else { panic!("{over:?}") };
    let expected = Message::Note { slot: capped, code: Code::RelayCapped.number() };
    assert_eq!(Message::parse(note.as_bytes()), Some(expected));
    assert_eq!(lab.copies(ALICE, &frame(&slots, 0)).unwrap()[0], Verdict::Drop(DropReason::OverCap));

    lab.advance(Duration::from_secs(1));
    assert_eq!(lab.copies(ALICE, &frame(&slots, 1_000 - fanout::COPY_HEADER_SIZE)).unwrap()[0], forwarded_to(BERT));
    assert_eq!(lab.data(BERT, capped, HEADER_SIZE), Verdict::Drop(DropReason::OverCap));
}

#[test]
fn a_sender_has_a_budget_of_copies_and_another_one_its_own() {
    let mut lab = Lab::new();
    let slots: Vec<_> = star(&mut lab, 64, Bandwidth::UNLIMITED).into_iter().map(|(slot, _)| slot).collect();
    let frame = frame(&slots, 100);
    let made = |lab: &mut Lab, frames: u32| -> usize {
        let all = (0..frames).flat_map(|_| lab.copies(ALICE, &frame).unwrap());
        all.filter(|verdict| *verdict != Verdict::Drop(DropReason::CopiesTooOften)).count()
    };
    assert_eq!(made(&mut lab, 200), 200 * 64);
    assert_eq!(made(&mut lab, 1), 0);
    // Whoever guesses a slot does not use up the budget of its legs.
    assert_eq!(lab.copies(member(0), &frame).unwrap()[0], forwarded_to(ALICE));
    lab.advance(Duration::from_secs(1));
    assert_eq!(made(&mut lab, 150), 100 * 64);
    // Datagrams for one are not copies.
    assert_eq!(lab.data(ALICE, slots[0], 100), forwarded_to(member(0)));
}

#[test]
fn slots_of_other_workers_are_left_out_and_the_group_is_the_worker() {
    let workers = Workers::new(3);
    let mut lab = Lab::of_worker(2, workers);
    let slots: Vec<_> = star(&mut lab, 2, Bandwidth::UNLIMITED).into_iter().map(|(slot, _)| slot).collect();
    let elsewhere = Slot(slots[1].0 & !3 | 1);
    let verdicts = lab.copies(ALICE, &frame(&[slots[0], slots[1], elsewhere], 100)).unwrap();
    assert_eq!(verdicts[1], Verdict::Drop(DropReason::NoSlot));
    assert_eq!([verdicts[0], verdicts[2]], [0, 1].map(|nth| forwarded_to(member(nth))));
    for slot in slots {
        let question = Message::Which { slot }.to_vec();
        let Verdict::Answer(answer) = lab.send(ALICE, &question) else { panic!("no answer") };
        assert_eq!(Message::parse(answer.as_bytes()), Some(Message::Group { slot, group: 2 }));
        assert!(answer.as_bytes().len() <= question.len());
        assert_eq!(lab.send(MALLORY, &question), Verdict::Drop(DropReason::NotALeg));
    }
    let unknown = Message::Which { slot: elsewhere }.to_vec();
    assert_eq!(lab.send(ALICE, &unknown), Verdict::Drop(DropReason::NoSlot));
}

#[test]
fn copies_keep_a_pair_alive() {
    let mut lab = Lab::new();
    let slot = lab.pair(Bandwidth::UNLIMITED);
    for _ in 0..3 {
        lab.advance(Duration::from_secs(40));
        assert_eq!(lab.copies(ALICE, &frame(&[slot], 100)), Ok(vec![forwarded_to(BERT)]));
    }
    for _ in 0..3 {
        lab.advance(Duration::from_secs(40));
        assert!(matches!(lab.send(ALICE, &Message::Which { slot }.to_vec()), Verdict::Answer(_)));
    }
    assert_eq!(lab.relay.pairs(), 1);
}

/// Members over UDP and over TLS, at whatever worker their slots are, in a frame over either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_frame_in_and_as_many_out_as_there_are_members() {
    let lab = streams::Lab::start(StreamConfig::default(), 2);
    let (ours, mut stream) = (streams::Socket::join(lab.udp, &lab.offers(0)[0]).await, lab.dial().await);
    let (mut sent, mut copies) = (0, 0);
    for over_udp in [true, false] {
        // By the worker that owns them.
        let mut groups =
            std::collections::BTreeMap::<u8, (Vec<Slot>, Vec<streams::Socket>, Vec<streams::Client>)>::new();
        for pair in 1..=12 {
            let [anna, bert] = lab.offers(pair + u8::from(over_udp) * 100);
            let slot = if over_udp { streams::join(&ours, &anna).await } else { stream.join(&anna).await };
            let question = Message::Which { slot }.to_vec();
            let answer = if over_udp {
                ours.0.send(&question).await.unwrap();
                ours.receive().await
            } else {
                stream.send(&[&question]).await;
                stream.receive().await
            };
            let Some(Message::Group { slot: named, group }) = Message::parse(&answer) else { panic!("{answer:02x?}") };
            assert_eq!((named, Some(group)), (slot, Workers::new(2).of_slot(slot)));
            let (slots, sockets, clients) = groups.entry(group).or_default();
            slots.push(slot);
            if pair % 2 == 0 {
                sockets.push(streams::Socket::join(lab.udp, &bert).await);
            } else {
                let mut client = lab.dial().await;
                client.join(&bert).await;
                clients.push(client);
            }
        }
        for (slots, sockets, clients) in groups.values_mut() {
            for length in [0, 100, 1_000] {
                let frame = frame(slots, length);
                let Some(Message::Fanout { copy, .. }) = Message::parse(&frame) else { panic!() };
                if over_udp {
                    ours.0.send(&frame).await.unwrap();
                } else {
                    stream.send(&[&frame]).await;
                }
                for socket in &*sockets {
                    assert_eq!(socket.receive().await, copy);
                }
                for client in &mut *clients {
                    assert_eq!(client.receive().await, copy);
                }
                sent += 1;
                copies += slots.len() as u64;
            }
        }
    }
    assert_eq!(copies, 2 * 12 * 3);
    while lab.metrics.copies.get() < copies {
        tokio::task::yield_now().await;
    }
    assert_eq!((lab.metrics.fanned_frames.get(), lab.metrics.copies.get()), (sent, copies));
    assert_eq!(lab.metrics.forwarded_packets.get(), copies);
    assert_eq!(lab.metrics.dropped(DropReason::NoSlot).get(), 0);
    lab.stop().await;
}

/// Pairs of Alice with as many members.
fn star(lab: &mut Lab, members: u8, rate: Bandwidth) -> Vec<(Slot, SocketAddr)> {
    (0..members).map(|nth| (lab.pair_of(ALICE, member(nth), rate), member(nth))).collect()
}

fn member(nth: u8) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(198, 51, 100, nth), 40_000))
}

/// A frame whose copy seals `length` bytes beyond the tag.
fn frame(slots: &[Slot], length: usize) -> Vec<u8> {
    let sealed = vec![7; fanout::TAG_SIZE.max(length)];
    fanout::frame(slots, &Shared { counter: 1, key: SharedKeyId([2; 8]), sealed: &sealed }).unwrap()
}
