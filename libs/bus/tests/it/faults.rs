//! The in-process bus when it misbehaves on purpose: what it promises all the same.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use bus::{
    Bus, CallError, Error,
    memory::{Faults, Hub},
};
use tokio::time::Instant;

use crate::site::{DONE, Double, Job, News, double, eventually, soon};

const FAULTS: Faults = Faults { seed: 1, lose: 0.1, repeat: 0.1, delay: Duration::from_millis(200), reorder: 32 };

#[tokio::test(start_paused = true)]
async fn confirmed_work_is_done_whatever_is_lost_repeated_or_reordered() {
    const JOBS: u64 = 2_000;
    let bus = Bus::memory(&Hub::new(FAULTS), "worker");
    let times_done = Arc::new(Mutex::new(BTreeMap::<u64, u32>::new()));
    let order = Arc::new(Mutex::new(Vec::new()));
    let (counted, ordered) = (Arc::clone(&times_done), Arc::clone(&order));
    let _subscribed = bus
        .subscribe(8, move |Job(number)| {
            *counted.lock().unwrap().entry(number).or_default() += 1;
            ordered.lock().unwrap().push(number);
            async { DONE }
        })
        .await
        .unwrap();

    let mut unconfirmed = 0;
    for number in 0..JOBS {
        while bus.publish(&Job(number)).await == Err(Error::Unavailable) {
            unconfirmed += 1;
        }
    }

    eventually(async || times_done.lock().unwrap().len() as u64 == JOBS).await;
    let repeated = times_done.lock().unwrap().values().filter(|times| **times > 1).count();
    assert!((100..400).contains(&unconfirmed), "{unconfirmed} of {JOBS} lost before their confirm");
    assert!(repeated > 100, "{repeated} of {JOBS} done twice");
    assert!(!order.lock().unwrap().is_sorted(), "the order changed");
    assert_eq!(bus.parked::<Job>().await, Ok(0));
}

#[tokio::test(start_paused = true)]
async fn calls_are_lost_but_never_served_twice() {
    const CALLS: u64 = 300;
    let bus = Bus::memory(&Hub::new(FAULTS), "server");
    let served_numbers = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&served_numbers);
    let _served = bus
        .serve(8, move |call: Double| {
            noted.lock().unwrap().push(call.0);
            double(call)
        })
        .await
        .unwrap();

    let mut lost = 0;
    for number in 0..CALLS {
        match bus.call(&Double(number)).await {
            Ok(doubled) => assert_eq!(doubled, number * 2),
            Err(error) => {
                assert_eq!(error, CallError::TimedOut);
                lost += 1;
            }
        }
    }

    assert!((20..120).contains(&lost), "{lost} of {CALLS} lost");
    let mut numbers = served_numbers.lock().unwrap().clone();
    let served = numbers.len();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), served);
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_brings_the_same_faults() {
    async fn fate(seed: u64) -> Vec<bool> {
        let bus = Bus::memory(&Hub::new(Faults { seed, ..FAULTS }), "publisher");
        let mut confirmed = Vec::new();
        for number in 0..100 {
            confirmed.push(bus.publish(&Job(number)).await.is_ok());
        }
        confirmed
    }

    assert_eq!(fate(7).await, fate(7).await);
    assert_ne!(fate(7).await, fate(8).await);
}

#[tokio::test(start_paused = true)]
async fn in_a_gap_calls_fail_at_once_and_events_wait() {
    let hub = Hub::default();
    let bus = Bus::memory(&hub, "server");
    let _served = bus.serve(1, double).await.unwrap();
    let mut recovered = bus.recovered();
    hub.interrupt();

    assert_eq!(bus.call(&Double(1)).await, Err(CallError::Unavailable));
    assert_eq!(bus.ping().await, Err(Error::Unavailable));
    let began = Instant::now();
    assert_eq!(bus.publish(&News(1)).await, Err(Error::Unavailable));
    assert_eq!(began.elapsed(), bus::PUBLISH_DEADLINE);

    let publication = bus.publish(&Job(1));
    let restoration = async { hub.restore() };
    let (published, ()) = tokio::join!(publication, restoration);
    assert_eq!(published, Ok(()));
    soon(recovered.changed()).await.unwrap();
    assert_eq!(*recovered.borrow(), 1);
    assert_eq!(bus.call(&Double(1)).await, Ok(2));
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_of_work_is_told_to_the_publisher() {
    let bus = Bus::memory(&Hub::default(), "publisher");
    let mut taken = 0;
    let refused = loop {
        match bus.publish(&Job(taken)).await {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((taken, refused), (10_000, Error::Full));
}

#[tokio::test(start_paused = true)]
async fn hints_push_out_the_oldest_when_nobody_reads_them() {
    const HINTS: u64 = 10_005;
    let bus = Bus::memory(&Hub::default(), "reader");
    let heard = Arc::new(Mutex::new(Vec::new()));
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let (noted, open) = (Arc::clone(&heard), Arc::clone(&gate));
    let _subscribed = bus
        .subscribe(1, move |News(number)| {
            noted.lock().unwrap().push(number);
            let gate = Arc::clone(&gate);
            async move {
                drop(gate.acquire().await);
                Ok::<(), Infallible>(())
            }
        })
        .await
        .unwrap();
    bus.publish(&News(0)).await.unwrap();
    eventually(async || heard.lock().unwrap().len() == 1).await;

    for number in 1..HINTS {
        bus.publish(&News(number)).await.unwrap();
    }
    open.add_permits(1);

    eventually(async || heard.lock().unwrap().len() == 10_001).await;
    assert_eq!(heard.lock().unwrap()[..2], [0, 5]);
}
