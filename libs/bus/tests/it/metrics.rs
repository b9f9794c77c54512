//! Every figure moves, and when.

use std::{convert::Infallible, sync::Arc};

use bus::{
    Bus, MAX_MESSAGE_BYTES,
    memory::Hub,
    metrics::{Answered, Called, Handled, Published},
};
use prometheus::{Encoder as _, Registry, TextEncoder};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

use crate::site::{Bulk, Double, DoubleNow, DoubleText, Job, JobText, Letter, double, eventually};

#[tokio::test(start_paused = true)]
async fn calls_are_counted_by_how_they_end_on_both_sides() {
    let hub = Hub::default();
    let (server, caller) = (Bus::memory(&hub, "server"), Bus::memory(&hub, "caller"));
    let _ = caller.call(&Double(1)).await;
    let served = server.serve(1, double).await.unwrap();
    let _ = caller.call(&Double(1)).await;
    let _ = caller.call(&Double(u64::MAX)).await;
    let _ = caller.call(&DoubleText(String::new())).await;
    let _ = caller.call(&Bulk(vec![0; MAX_MESSAGE_BYTES])).await;
    served.stop().await;
    let _ = caller.call(&DoubleNow(1)).await;
    let _panicking = server.serve(1, |_: Double| async { panic!("on purpose") }).await.unwrap();
    let _ = caller.call(&Double(1)).await;

    let ends = [
        (Called::Replied, 1),
        (Called::Refused, 1),
        (Called::TimedOut, 1),
        (Called::Unavailable, 2),
        (Called::Malformed, 1),
        (Called::TooLarge, 1),
    ];
    for (called, times) in ends {
        assert_eq!(caller.metrics().calls(called), times, "{called:?}");
    }
    for answered in [Answered::Replied, Answered::Refused, Answered::Malformed, Answered::Failed] {
        assert_eq!(server.metrics().answers(answered), 1, "{answered:?}");
    }
    assert!(shown(&caller).contains("bus_call_seconds_count 7"), "{}", shown(&caller));
}

#[tokio::test(start_paused = true)]
async fn events_are_counted_by_how_they_end_on_both_sides() {
    let hub = Hub::default();
    let bus = Bus::memory(&hub, "one");
    let _subscribed = bus
        .subscribe(1, |Job(number)| async move { if number == 1 { Err("not this one") } else { Ok(()) } })
        .await
        .unwrap();
    bus.publish(&Job(0)).await.unwrap();
    bus.publish(&Job(1)).await.unwrap();
    bus.publish(&JobText(String::new())).await.unwrap();
    let _ = bus.publish(&Bulk(vec![0; MAX_MESSAGE_BYTES])).await;
    let _ = bus.publish_to("nobody", &Letter(1)).await;
    while bus.publish(&Bulk(Vec::new())).await.is_ok() {}
    eventually(async || bus.parked::<Job>().await == Ok(2)).await;
    hub.interrupt();
    let _ = bus.publish(&Job(0)).await;

    for published in [Published::Unavailable, Published::Unroutable, Published::Full, Published::TooLarge] {
        assert_eq!(bus.metrics().published(published), 1, "{published:?}");
    }
    assert_eq!(bus.metrics().published(Published::Confirmed), 10_003);
    for (handled, times) in [(Handled::Done, 1), (Handled::Failed, 4), (Handled::Malformed, 1)] {
        assert_eq!(bus.metrics().events(handled), times, "{handled:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn handlers_are_counted_while_they_run() {
    let bus = Bus::memory(&Hub::default(), "one");
    let gate = Arc::new(Semaphore::new(0));
    let (begun, mut has_begun) = mpsc::channel(1);
    let open = Arc::clone(&gate);
    let _subscribed = bus
        .subscribe(1, move |_: Job| {
            let (gate, begun) = (Arc::clone(&gate), begun.clone());
            async move {
                begun.send(()).await.unwrap();
                gate.acquire().await.unwrap().forget();
                Ok::<(), Infallible>(())
            }
        })
        .await
        .unwrap();
    let mut publication = JoinSet::new();
    let publisher = bus.clone();
    publication.spawn(async move { publisher.publish(&Job(1)).await });
    has_begun.recv().await.unwrap();

    assert!(shown(&bus).contains("bus_handlers 1"));
    open.add_permits(1);
    eventually(async || shown(&bus).contains("bus_handlers 0")).await;
    assert!(shown(&bus).contains("bus_connected 1"));
}

/// What a scraper reads.
fn shown(bus: &Bus) -> String {
    let registry = Registry::new();
    bus.metrics().register(&registry).unwrap();
    let mut text = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut text).unwrap();
    String::from_utf8(text).unwrap()
}
