//! How a relay is emptied: in virtual time, and by the role.

use std::{
    net::UdpSocket,
    time::{Duration, Instant, SystemTime},
};

use bus::Bus;
use contract::{
    relay::{RelayOrder, RelayOrdered},
    rendezvous::RelayBeat,
};
use domain::{Bandwidth, InstanceId, PayerId, RelayId, UnixMillis};
use relay::{
    Config,
    core::{DropReason, Event, Verdict},
};
use tokio::sync::mpsc;
use wire::{
    Code,
    relay::Message,
    ticket::{LegSide, PairNonce, Ticket, TicketRoot},
};

use crate::{
    lab::{ALICE, BERT, Lab, MALLORY, Offer, forwarded_to, offer},
    role::{Role, join, leg, receive, refused},
};

#[test]
fn a_draining_relay_tells_its_legs_and_takes_no_new_pair_until_it_resumes() {
    let mut lab = Lab::new();
    let slot = lab.pair(Bandwidth::UNLIMITED);
    lab.relay.drain(lab.now);
    assert_eq!(lab.relay.pair_from(0), Some((slot, 1)));
    assert_eq!(lab.relay.pair_from(1), None);
    let told: Vec<_> = lab.relay.part(lab.now, slot).into_iter().map(|(to, _)| to.address).collect();
    assert_eq!(told, [ALICE, BERT]);
    assert_eq!(lab.data(ALICE, slot, 100), forwarded_to(BERT));
    let ticket = lab.ticket(LegSide::A, Bandwidth::UNLIMITED);
    assert_eq!(lab.join(MALLORY, &ticket), Err(Code::RelayDraining));
    lab.relay.resume();
    assert!(lab.relay.part(lab.now, slot).is_empty(), "nobody is sent away any more");
    assert!(lab.join(MALLORY, &ticket).is_ok());
}

#[test]
fn a_pair_of_a_draining_relay_ends_when_neither_leg_answers_and_not_before() {
    let mut lab = Lab::new();
    let slot = lab.pair(Bandwidth::UNLIMITED);
    lab.relay.drain(lab.now);
    for nonce in 0..20 {
        lab.advance(Duration::from_secs(1));
        assert_eq!(lab.relay.part(lab.now, slot).len(), 2, "one leg is still here");
        lab.send(BERT, &Message::Ping { slot, nonce }.to_vec());
    }
    lab.advance(Duration::from_secs(3));
    assert_eq!(lab.relay.part(lab.now, slot).len(), 2);
    lab.advance(Duration::from_secs(2));
    assert_eq!(lab.relay.part(lab.now, slot).len(), 0);
    assert_eq!(std::iter::from_fn(|| lab.relay.poll_event()).last(), Some(Event::Closed));
    assert_eq!((lab.relay.poll_change(), lab.relay.pairs()), (Some(slot), 0));
    assert_eq!(lab.data(ALICE, slot, 100), Verdict::Drop(DropReason::NoSlot));
}

#[test]
fn a_pair_that_was_idle_before_the_relay_drains_is_told_in_time() {
    let mut lab = Lab::new();
    let slot = lab.pair(Bandwidth::UNLIMITED);
    lab.advance(Duration::from_secs(19));
    lab.relay.drain(lab.now);
    assert_eq!(lab.relay.part(lab.now, slot).len(), 2);
    lab.advance(Duration::from_secs(3));
    assert_eq!(lab.relay.part(lab.now, slot).len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_drains_a_relay_and_has_it_back() {
    let role = Role::start(&["127.0.0.1:0"], Config::default());
    let operator = Bus::memory(&role.hub, "operator");
    let (told, mut beats) = mpsc::channel(64);
    let heard = move |beat: RelayBeat| {
        let told = told.clone();
        async move { told.send(beat.draining).await }
    };
    let _hearing = operator.subscribe(1, heard).await.unwrap();
    while beats.recv().await.unwrap() {}
    let (endpoint, offers) = (role.endpoints[0], offers(role.id, 1));

    let (slot, [anna, bert]) = blocking(move || {
        let (a, b) = (leg(endpoint), leg(endpoint));
        let slot = join(&a, &offers[0]);
        assert_eq!(join(&b, &offers[1]), slot);
        (slot, [a, b])
    })
    .await;

    // An order for another one is not for this one.
    let (here, other) = (role.id, RelayId::from_bytes([9; 16]));
    for (relay, order) in [(other, RelayOrder::Drain), (here, RelayOrder::Drain)] {
        operator.publish_to(InstanceId::from_bytes([7; 16]), &RelayOrdered { relay, order }).await.unwrap();
    }
    while !beats.recv().await.unwrap() {}
    let late = self::offers(role.id, 2);
    let [anna, bert] = blocking(move || {
        let note = Message::Note { slot, code: Code::RelayDraining.number() }.to_vec();
        assert_eq!((receive(&anna), receive(&bert)), (note.clone(), note));
        let data = Message::Data { slot, payload: b"still" }.to_vec();
        anna.send(&data).unwrap();
        assert_eq!(without_notes(&bert), data);
        assert_eq!(refused(&leg(endpoint), &late[0]), Code::RelayDraining.number());
        [anna, bert]
    })
    .await;

    operator
        .publish_to(InstanceId::from_bytes([7; 16]), &RelayOrdered { relay: here, order: RelayOrder::Resume })
        .await
        .unwrap();
    while beats.recv().await.unwrap() {}
    let late = self::offers(role.id, 2);
    blocking(move || {
        join(&leg(endpoint), &late[0]);
        drop([anna, bert]);
    })
    .await;
    role.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_ends_waits_for_its_legs_to_go_and_no_longer() {
    let patient = Config { drain: Duration::from_secs(60), ..Config::default() };
    let role = Role::start_with(&["127.0.0.1:0"], patient);
    let (endpoint, offers) = (role.endpoints[0], offers(role.id, 1));
    blocking(move || join(&leg(endpoint), &offers[0])).await;
    assert_eq!(role.metrics.pairs.get(), 1);

    let (metrics, began) = (std::sync::Arc::clone(&role.metrics), Instant::now());
    role.stop().await;
    assert_eq!(metrics.pairs.get(), 0);
    assert!(began.elapsed() < Duration::from_secs(30), "the leg had gone: {:?}", began.elapsed());
}

/// Two sides of a pair.
fn offers(relay: RelayId, pair: u8) -> [Offer; 2] {
    let key = TicketRoot::new([1; 32]).key(relay);
    let expires = UnixMillis::from(SystemTime::now()).plus(Duration::from_secs(60));
    let pair = PairNonce([pair; 16]);
    let ticket = |side| Ticket { relay, pair, side, rate: Bandwidth::UNLIMITED, payer: PayerId::NOBODY, expires };
    [LegSide::A, LegSide::B].map(|side| offer(&key, &ticket(side)))
}

/// The next datagram that says something else than that the relay drains.
fn without_notes(socket: &UdpSocket) -> Vec<u8> {
    loop {
        let datagram = receive(socket);
        if !matches!(Message::parse(&datagram), Some(Message::Note { .. })) {
            return datagram;
        }
    }
}

async fn blocking<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(act).await.unwrap()
}
