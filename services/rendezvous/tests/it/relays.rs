//! Relay offers.

use std::time::Duration;

use contract::rendezvous::{Pair, Relays, Wanted};
use rendezvous::Offered;
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
async fn without_a_relay_nothing_is_offered_and_it_is_counted() {
    let lab = Lab::new(1).await;
    lab.easy_pair([Script::Succeeds; 2]).await;
    lab.want(Wanted::Online).await;
    lab.record().await;
    assert_eq!(lab.metrics(0).offers(Offered::NoRelay), 1);
    lab.stop().await;
}
