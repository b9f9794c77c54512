//! Relay offers.

use std::time::Duration;

use bus::CallError;
use contract::{
    admin::Happened,
    relay::{RelayOrder, RelayOrdered},
    rendezvous::{OrderRefusal, OrderRelay, Pair, PairsHeldBack, RelayBeat, Relays, Wanted},
};
use domain::{EventKind, InstanceId, RelayId, RelayTrip, RelayTrips, RelayVerdict, RelayWhy};
use rendezvous::Offered;
use tokio::sync::mpsc;
use wire::ticket::TicketRoot;

use crate::lab::{ANNA, BERT, Lab, RATE, Script, TICKETS, virtual_clock};

#[tokio::test(start_paused = true)]
async fn both_clients_get_tickets_that_meet_at_one_relay() {
    let lab = Lab::new(1).await;
    lab.beat(5).await;
    lab.up(ANNA, Script::Silent).await;
    lab.up(BERT, Script::Silent).await;
    lab.want(Wanted::Online).await;

    let (anna, bert) = (lab.offer(ANNA).await, lab.offer(BERT).await);
    assert_eq!((anna.peer, bert.peer), (BERT, ANNA));
    let key = TicketRoot::new(TICKETS).key(anna.relay);
    let [a, b] = [&anna, &bert].map(|offer| key.open(&offer.ticket.clone().try_into().unwrap()).unwrap());
    assert_eq!((a.pair, a.side), (b.pair, b.side.other()));
    assert_eq!(a.rate, RATE);
    assert!(a.expires > virtual_clock());
    assert_eq!(lab.metrics(0).offers(Offered::Tickets), 1);
    assert_eq!(lab.metrics(0).relays.get(), 1);
    lab.run(Duration::from_millis(100)).await;
    let record = lab.bus(0).call(&Pair { a: ANNA, b: BERT }).await.unwrap().record.unwrap();
    assert_eq!(record.relay, Some(anna.relay));
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pair_keeps_its_relay_in_the_record_of_its_direct_path() {
    let lab = Lab::new(2).await;
    lab.beat(5).await;
    lab.easy_pair([Script::Succeeds; 2]).await;
    lab.want(Wanted::Online).await;
    let offer = lab.offer(ANNA).await;
    let record = lab.record().await;
    assert_eq!(record.relay, Some(offer.relay));
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pair_that_lost_its_relay_gets_another() {
    let lab = Lab::new(1).await;
    lab.beat(5).await;
    lab.beat(6).await;
    lab.up(ANNA, Script::Silent).await;
    lab.up(BERT, Script::Silent).await;
    lab.want(Wanted::Online).await;
    let first = lab.offer(ANNA).await;
    let other = if first.relay.as_bytes()[0] == 5 { 6 } else { 5 };

    lab.run(Duration::from_secs(4)).await;
    lab.beat(other).await;
    lab.want(Wanted::Demanded).await;
    let second = lab.offer(ANNA).await;
    assert_eq!(second.relay.as_bytes()[0], other);
    let live = lab.bus(0).call(&Relays).await.unwrap().relays;
    assert_eq!(live.len(), 2, "one missing beat is no death");
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_relay_holds_back_is_told_of_the_clients_by_whoever_made_their_tickets() {
    let lab = Lab::new(2).await;
    lab.beat(5).await;
    lab.up(ANNA, Script::Silent).await;
    lab.up(BERT, Script::Silent).await;
    lab.want(Wanted::Online).await;
    let offer = lab.offer(ANNA).await;
    let ticket = TicketRoot::new(TICKETS).key(offer.relay).open(&offer.ticket.try_into().unwrap()).unwrap();
    let (sender, mut told) = mpsc::unbounded_channel();
    let admin = lab.bus_of(InstanceId::from_bytes([0x77; 16]));
    let _served = admin
        .subscribe(1, move |Happened { events }: Happened| {
            sender.send(events).unwrap();
            std::future::ready(Ok::<(), std::convert::Infallible>(()))
        })
        .await
        .unwrap();

    let pairs = vec![[0; 16].into(), ticket.pair.0.into()];
    admin.publish(&PairsHeldBack { relay: offer.relay, pairs }).await.unwrap();
    let events = told.recv().await.unwrap();
    assert_eq!(events.len(), 1, "nobody knows the other one");
    let event = events[0];
    assert!(event.is_whole() && event.kind == EventKind::PairCapped, "{event:?}");
    assert_eq!((event.client, event.peer, event.relay), (Some(ANNA), Some(BERT), Some(offer.relay)));
    lab.run(Duration::from_secs(1)).await;
    assert!(told.try_recv().is_err(), "the other process made no ticket for them");
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_relay_nothing_is_offered_and_it_is_counted() {
    let lab = Lab::new(1).await;
    lab.easy_pair([Script::Succeeds; 2]).await;
    lab.want(Wanted::Online).await;
    lab.record().await;
    assert_eq!(lab.metrics(0).offers(Offered::NoRelay), 1);
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pair_gets_the_relay_that_is_nearest_to_both_and_the_record_says_why() {
    let lab = Lab::new(1).await;
    for number in [5, 6, 7] {
        lab.beat(number).await;
    }
    for (client, rtts_ms) in [(ANNA, [5, 30, 90]), (BERT, [200, 35, 10])] {
        let epoch = lab.up(client, Script::Silent).await;
        assert!(lab.presence.measured(client, epoch, trips(&rtts_ms)).await.unwrap());
    }
    lab.want(Wanted::Online).await;
    assert_eq!(lab.offer(ANNA).await.relay, relay(6));
    assert_eq!(lab.offer(BERT).await.relay, relay(6));

    lab.run(Duration::from_millis(100)).await;
    let choice = lab.bus(0).call(&Pair { a: ANNA, b: BERT }).await.unwrap().record.unwrap().choice.unwrap();
    assert_eq!((choice.of, choice.why), ([ANNA, BERT], RelayWhy::Nearest));
    let shown: Vec<_> = choice.candidates.iter().map(|one| (one.relay, one.rtts_us, one.verdict)).collect();
    let farther = RelayVerdict::Farther;
    assert_eq!(
        shown,
        [
            (relay(6), [Some(30_000), Some(35_000)], RelayVerdict::Chosen),
            (relay(7), [Some(90_000), Some(10_000)], farther),
            (relay(5), [Some(5_000), Some(200_000)], farther),
        ]
    );
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pair_moves_when_measurements_come_and_not_when_they_change_little() {
    let lab = Lab::new(1).await;
    lab.beat(5).await;
    lab.beat(6).await;
    let epochs = [lab.up(ANNA, Script::Silent).await, lab.up(BERT, Script::Silent).await];
    lab.want(Wanted::Online).await;
    let used = lab.offer(ANNA).await.relay.as_bytes()[0];
    let measure = async |used_ms, other_ms| {
        let rtts = if used == 5 { [used_ms, other_ms] } else { [other_ms, used_ms] };
        for (client, epoch) in [ANNA, BERT].into_iter().zip(epochs) {
            lab.presence.measured(client, epoch, trips(&rtts)).await.unwrap();
        }
        lab.want(Wanted::Relay).await;
    };

    measure(30, 25).await;
    lab.run(Duration::from_secs(1)).await;
    assert_eq!(lab.metrics(0).offers(Offered::Stays), 1);
    measure(30, 10).await;
    assert_eq!(lab.offer(BERT).await.relay, relay(11 - used));
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_does_not_answer_one_of_a_pair_is_left_and_avoided() {
    let lab = Lab::new(1).await;
    lab.beat(5).await;
    lab.beat(6).await;
    for client in [ANNA, BERT] {
        let epoch = lab.up(client, Script::Silent).await;
        lab.presence.measured(client, epoch, trips(&[1, 150])).await.unwrap();
    }
    lab.want(Wanted::Online).await;
    assert_eq!(lab.offer(ANNA).await.relay, relay(5));

    lab.want_leaving(Wanted::Relay, Some(relay(5))).await;
    assert_eq!(lab.offer(ANNA).await.relay, relay(6));
    assert_eq!(lab.offer(BERT).await.relay, relay(6));
    lab.run(Duration::from_millis(100)).await;
    let choice = lab.bus(0).call(&Pair { a: ANNA, b: BERT }).await.unwrap().record.unwrap().choice.unwrap();
    assert_eq!(choice.losses.iter().map(|loss| loss.relay).collect::<Vec<_>>(), [relay(5)]);

    // It is far nearer, but it would not answer.
    lab.want(Wanted::Demanded).await;
    assert_eq!(lab.offer(ANNA).await.relay, relay(6));
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn when_no_relay_has_room_both_are_told_when_to_ask_again() {
    let lab = Lab::new(1).await;
    lab.beat_with(5, 90, 100).await;
    lab.up(ANNA, Script::Silent).await;
    lab.up(BERT, Script::Silent).await;
    lab.want(Wanted::Relay).await;
    let choice = lab.lack().await.choice.unwrap();
    assert_eq!((choice.why, choice.candidates[0].verdict), (RelayWhy::NoRoom, RelayVerdict::Full));
    assert!(choice.retry_after_ms.is_some_and(|pause| pause > 0));
    assert_eq!(lab.metrics(0).offers(Offered::NoRelay), 1);

    lab.beat_with(5, 89, 100).await;
    lab.want(Wanted::Relay).await;
    assert_eq!(lab.offer(ANNA).await.relay, relay(5));
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_order_reaches_a_relay_that_lives_and_no_other() {
    let lab = Lab::new(1).await;
    lab.beat(5).await;
    let bus = lab.bus_of(InstanceId::from_bytes([5; 16]));
    let drain = OrderRelay { relay: relay(5), order: RelayOrder::Drain };
    // It is about to end: it beats no more, and takes no orders.
    assert_eq!(lab.bus(0).call(&drain).await, Err(CallError::Refused(OrderRefusal::NoSuchRelay)));

    let (told, mut orders) = mpsc::unbounded_channel();
    let take = move |ordered: RelayOrdered| {
        told.send(ordered).unwrap();
        std::future::ready(Ok::<(), std::convert::Infallible>(()))
    };
    let _taking = bus.subscribe(1, take).await.unwrap();
    assert_eq!(lab.bus(0).call(&drain).await, Ok(()));
    assert_eq!(orders.recv().await, Some(RelayOrdered { relay: relay(5), order: RelayOrder::Drain }));
    let unknown = OrderRelay { relay: relay(6), ..drain };
    assert_eq!(lab.bus(0).call(&unknown).await, Err(CallError::Refused(OrderRefusal::NoSuchRelay)));
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_fell_silent_is_left_at_once_and_one_that_drains_is_not_offered() {
    let lab = Lab::new(1).await;
    for number in [5, 6, 7] {
        lab.beat(number).await;
    }
    for client in [ANNA, BERT] {
        let epoch = lab.up(client, Script::Silent).await;
        lab.presence.measured(client, epoch, trips(&[1, 60, 150])).await.unwrap();
    }
    lab.want(Wanted::Online).await;
    assert_eq!(lab.offer(ANNA).await.relay, relay(5));
    lab.run(RelayBeat::SILENT).await;
    lab.beat_of(6, |beat| RelayBeat { draining: true, ..beat }).await;
    lab.beat(7).await;
    lab.want(Wanted::Relay).await;
    assert_eq!(lab.offer(BERT).await.relay, relay(7));
    let choice = lab.bus(0).call(&Pair { a: ANNA, b: BERT }).await.unwrap().record.unwrap().choice.unwrap();
    let verdict = |number: u8| choice.candidates.iter().find(|one| one.relay == relay(number)).unwrap().verdict;
    assert_eq!([5, 6, 7].map(verdict), [RelayVerdict::Silent, RelayVerdict::Draining, RelayVerdict::Chosen]);
    lab.stop().await;
}

/// To relays 5, 6 and so on.
fn trips(rtts_ms: &[u32]) -> RelayTrips {
    let trip = |(number, ms): (u8, &u32)| RelayTrip { relay: relay(number), rtt_us: ms * 1_000 };
    RelayTrips::new(&(5..).zip(rtts_ms).map(trip).collect::<Vec<_>>()).unwrap()
}

fn relay(number: u8) -> RelayId {
    RelayId::from_bytes([number; 16])
}
