//! The rules that hold on both back-ends.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bus::{Call as _, CallError, Error, MAX_MESSAGE_BYTES, Trace};
use tokio::{
    sync::{Barrier, Semaphore, mpsc},
    task::JoinSet,
};

use crate::site::{
    Bulk, DONE, Double, DoubleNow, DoubleText, Job, JobText, Letter, News, NotDoubled, Site, double, eventually, soon,
};

macro_rules! on_both_back_ends {
    ($($rule:ident,)*) => {
        mod in_memory {
            $(#[tokio::test(start_paused = true)]
            async fn $rule() {
                super::$rule(super::Site::memory()).await;
            })*
        }

        mod over_rabbit {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $rule() {
                super::$rule(super::Site::rabbit()).await;
            })*
        }
    };
}

on_both_back_ends! {
    a_call_is_answered,
    a_refusal_is_typed,
    a_call_that_nobody_serves_fails_at_once,
    an_expired_call_is_never_served,
    two_servers_share_the_calls,
    no_more_calls_than_agreed_run_at_a_time,
    a_call_of_another_opinion_is_malformed,
    a_panicking_server_goes_on_serving,
    a_stopped_server_answers_what_it_began,
    a_handlers_own_calls_continue_the_trace,
    work_is_done_by_one_subscriber,
    work_waits_for_a_subscriber,
    work_of_a_lost_process_goes_to_another,
    work_that_fails_is_parked_after_four_deliveries,
    work_that_fails_once_is_not_parked,
    malformed_work_is_parked_and_its_neighbours_are_not,
    everyone_hears_the_news,
    a_letter_reaches_its_addressee_only,
    a_letter_to_nobody_is_returned,
    what_is_too_large_is_refused,
    calls_beyond_the_queue_fail_at_once,
    letters_beyond_the_queue_are_refused,
}

async fn a_call_is_answered(site: Site) {
    let (server, caller) = (site.process("server").await, site.process("caller").await);
    let served = server.serve(4, double).await.unwrap();

    assert_eq!(caller.call(&Double(21)).await, Ok(42));
    assert_eq!(server.call(&Double(1)).await, Ok(2));
    assert_eq!(caller.ping().await, Ok(()));
    soon(served.stop()).await;
}

async fn a_refusal_is_typed(site: Site) {
    let bus = site.process("server").await;
    let _served = bus.serve(4, double).await.unwrap();

    let refused = bus.call(&Double(u64::MAX)).await;

    assert_eq!(refused, Err(CallError::Refused(NotDoubled::TooMuch { limit: u64::MAX / 2 })));
}

async fn a_call_that_nobody_serves_fails_at_once(site: Site) {
    let bus = site.process("caller").await;
    assert_eq!(soon(bus.call(&Double(1))).await, Err(CallError::Unavailable));
}

async fn an_expired_call_is_never_served(site: Site) {
    let bus = site.process("server").await;
    let (seen, mut served_numbers) = mpsc::channel(8);
    let gate = Arc::new(Semaphore::new(0));
    let open = Arc::clone(&gate);
    let _served = bus
        .serve(1, move |Double(number)| {
            let (seen, gate) = (seen.clone(), Arc::clone(&gate));
            async move {
                seen.send(number).await.unwrap();
                gate.acquire().await.unwrap().forget();
                Ok(number)
            }
        })
        .await
        .unwrap();
    let mut slow = JoinSet::new();
    let caller = bus.clone();
    slow.spawn(async move { caller.call(&Double(1)).await });
    assert_eq!(soon(served_numbers.recv()).await, Some(1));

    assert_eq!(bus.call(&DoubleNow(2)).await, Err(CallError::TimedOut));
    // The broker's clock began when the call arrived there, later than ours.
    let _other = bus.serve(1, |Bulk(_)| async { Ok(0) }).await.unwrap();
    assert_eq!(bus.call(&Bulk(Vec::new())).await, Ok(0), "what was written before is there as well");
    eventually(async || site.waiting_calls(Double::SUBJECT).await == 0).await;
    open.add_permits(2);

    assert_eq!(soon(slow.join_next()).await.unwrap().unwrap(), Ok(1));
    assert_eq!(bus.call(&Double(3)).await, Ok(3));
    assert_eq!(served_numbers.recv().await, Some(3));
}

async fn two_servers_share_the_calls(site: Site) {
    let both_at_work = Arc::new(Barrier::new(2));
    let (named, mut names) = mpsc::channel(8);
    let mut served = Vec::new();
    for name in ["one", "two"] {
        let (both_at_work, named) = (Arc::clone(&both_at_work), named.clone());
        let handler = move |Double(number)| {
            let (both_at_work, named) = (Arc::clone(&both_at_work), named.clone());
            async move {
                both_at_work.wait().await;
                named.send(name).await.unwrap();
                Ok(number)
            }
        };
        served.push(site.process(name).await.serve(1, handler).await.unwrap());
    }
    let caller = site.process("caller").await;

    let (first, second) = soon(async { tokio::join!(caller.call(&Double(1)), caller.call(&Double(2))) }).await;

    assert_eq!((first, second), (Ok(1), Ok(2)));
    let names: BTreeSet<_> = [names.recv().await.unwrap(), names.recv().await.unwrap()].into();
    assert_eq!(names, BTreeSet::from(["one", "two"]));
}

async fn no_more_calls_than_agreed_run_at_a_time(site: Site) {
    const AGREED: usize = 3;
    const CALLS: u64 = 12;
    let bus = site.process("server").await;
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, highest) = (Arc::clone(&running), Arc::clone(&most));
    let all_at_work = Arc::new(Barrier::new(AGREED));
    let _served = bus
        .serve(AGREED, move |Double(number)| {
            let (running, most, all_at_work) = (Arc::clone(&counted), Arc::clone(&highest), Arc::clone(&all_at_work));
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                all_at_work.wait().await;
                running.fetch_sub(1, Ordering::SeqCst);
                Ok(number)
            }
        })
        .await
        .unwrap();

    let mut calls = JoinSet::new();
    for number in 0..CALLS {
        let bus = bus.clone();
        calls.spawn(async move { bus.call(&Double(number)).await });
    }

    assert!(soon(calls.join_all()).await.iter().all(Result::is_ok));
    assert_eq!(most.load(Ordering::SeqCst), AGREED);
}

async fn a_call_of_another_opinion_is_malformed(site: Site) {
    let bus = site.process("server").await;
    let _served = bus.serve(4, double).await.unwrap();
    assert_eq!(bus.call(&DoubleText("two".to_owned())).await, Err(CallError::Malformed));
}

async fn a_panicking_server_goes_on_serving(site: Site) {
    let bus = site.process("server").await;
    let _served = bus
        .serve(1, |Double(number)| async move {
            assert_ne!(number, 13, "a number that this server cannot stand");
            Ok(number)
        })
        .await
        .unwrap();

    assert_eq!(soon(bus.call(&Double(13))).await, Err(CallError::Unavailable));
    assert_eq!(soon(bus.call(&Double(14))).await, Ok(14));
}

async fn a_stopped_server_answers_what_it_began(site: Site) {
    let bus = site.process("server").await;
    let (begun, mut has_begun) = mpsc::channel(1);
    let gate = Arc::new(Semaphore::new(0));
    let open = Arc::clone(&gate);
    let served = bus
        .serve(4, move |Double(number)| {
            let (begun, gate) = (begun.clone(), Arc::clone(&gate));
            async move {
                begun.send(()).await.unwrap();
                gate.acquire().await.unwrap().forget();
                Ok(number)
            }
        })
        .await
        .unwrap();
    let mut call = JoinSet::new();
    let caller = bus.clone();
    call.spawn(async move { caller.call(&Double(5)).await });
    soon(has_begun.recv()).await.unwrap();

    let mut stopping = JoinSet::new();
    stopping.spawn(served.stop());
    open.add_permits(1);

    assert_eq!(soon(call.join_next()).await.unwrap().unwrap(), Ok(5));
    soon(stopping.join_next()).await.unwrap().unwrap();
}

async fn a_handlers_own_calls_continue_the_trace(site: Site) {
    let bus = site.process("server").await;
    let _served = bus
        .serve(1, |Double(_)| async {
            let text = Trace::next().to_string();
            Ok(u64::from_str_radix(&text[3..19], 16).unwrap())
        })
        .await
        .unwrap();

    let trace: Trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap();
    let first_half = trace.scope(bus.call(&Double(1))).await;

    assert_eq!(first_half, Ok(0x4bf9_2f35_77b3_4da6));
}

async fn work_is_done_by_one_subscriber(site: Site) {
    const JOBS: u64 = 40;
    let (done, mut jobs) = mpsc::channel(100);
    let mut subscribed = Vec::new();
    for name in ["one", "two"] {
        let done = done.clone();
        let handler = move |Job(number)| {
            let done = done.clone();
            async move {
                done.send(number).await.unwrap();
                DONE
            }
        };
        subscribed.push(site.process(name).await.subscribe(2, handler).await.unwrap());
    }
    let publisher = site.process("publisher").await;

    for number in 0..JOBS {
        publisher.publish(&Job(number)).await.unwrap();
    }

    let mut seen = Vec::new();
    for _ in 0..JOBS {
        seen.push(soon(jobs.recv()).await.unwrap());
    }
    for subscription in subscribed {
        soon(subscription.stop()).await;
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..JOBS).collect::<Vec<_>>());
    assert!(jobs.try_recv().is_err(), "nothing was done twice");
    assert_eq!(publisher.parked::<Job>().await, Ok(0));
}

async fn work_waits_for_a_subscriber(site: Site) {
    let bus = site.process("worker").await;
    bus.publish(&Job(7)).await.unwrap();

    let (done, mut jobs) = mpsc::channel(1);
    let _subscribed = bus.subscribe(1, tell(done, |Job(number)| number)).await.unwrap();

    assert_eq!(soon(jobs.recv()).await, Some(7));
}

async fn work_of_a_lost_process_goes_to_another(site: Site) {
    let (lost, other) = (site.process("lost").await, site.process("other").await);
    let (begun, mut has_begun) = mpsc::channel(1);
    let held = lost
        .subscribe(1, move |Job(_)| {
            let begun = begun.clone();
            async move {
                begun.send(()).await.unwrap();
                std::future::pending::<Result<(), Infallible>>().await
            }
        })
        .await
        .unwrap();
    other.publish(&Job(8)).await.unwrap();
    soon(has_begun.recv()).await.unwrap();

    drop(held);
    let (done, mut jobs) = mpsc::channel(1);
    let _subscribed = other.subscribe(1, tell(done, |Job(number)| number)).await.unwrap();

    assert_eq!(soon(jobs.recv()).await, Some(8));
}

async fn work_that_fails_is_parked_after_four_deliveries(site: Site) {
    let bus = site.process("worker").await;
    let deliveries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&deliveries);
    let _subscribed = bus
        .subscribe(1, move |Job(_)| {
            counted.fetch_add(1, Ordering::SeqCst);
            async { Err("this never works") }
        })
        .await
        .unwrap();

    bus.publish(&Job(9)).await.unwrap();

    eventually(async || bus.parked::<Job>().await == Ok(1)).await;
    assert_eq!(deliveries.load(Ordering::SeqCst), 4);
}

async fn work_that_fails_once_is_not_parked(site: Site) {
    let bus = site.process("worker").await;
    let attempts = Arc::new(AtomicUsize::new(0));
    let (done, mut jobs) = mpsc::channel(1);
    let _subscribed = bus
        .subscribe(1, move |Job(number)| {
            let (attempt, done) = (attempts.fetch_add(1, Ordering::SeqCst), done.clone());
            async move {
                assert_ne!(attempt, 0, "the first attempt panics");
                done.send(number).await.unwrap();
                DONE
            }
        })
        .await
        .unwrap();

    bus.publish(&Job(10)).await.unwrap();

    assert_eq!(soon(jobs.recv()).await, Some(10));
    assert_eq!(bus.parked::<Job>().await, Ok(0));
}

async fn malformed_work_is_parked_and_its_neighbours_are_not(site: Site) {
    let bus = site.process("worker").await;
    let (done, mut jobs) = mpsc::channel(2);
    let _subscribed = bus.subscribe(1, tell(done, |Job(number)| number)).await.unwrap();

    bus.publish(&JobText("eleven".to_owned())).await.unwrap();
    bus.publish(&Job(12)).await.unwrap();

    assert_eq!(soon(jobs.recv()).await, Some(12));
    eventually(async || bus.parked::<Job>().await == Ok(1)).await;
}

async fn everyone_hears_the_news(site: Site) {
    let (heard, mut news) = mpsc::channel(8);
    let mut subscribed = Vec::new();
    for name in ["one", "two", "three"] {
        let subscription =
            site.process(name).await.subscribe(1, tell(heard.clone(), move |News(_)| name)).await.unwrap();
        subscribed.push(subscription);
    }

    site.process("publisher").await.publish(&News(1)).await.unwrap();

    let mut names = BTreeSet::new();
    for _ in 0..3 {
        names.insert(soon(news.recv()).await.unwrap());
    }
    assert_eq!(names, BTreeSet::from(["one", "two", "three"]));
}

async fn a_letter_reaches_its_addressee_only(site: Site) {
    let (one, two) = (site.process("one").await, site.process("two").await);
    let (read, mut letters) = mpsc::channel(8);
    let _one = one.subscribe(1, tell(read.clone(), |Letter(number)| ("one", number))).await.unwrap();
    let _two = two.subscribe(1, tell(read, |Letter(number)| ("two", number))).await.unwrap();

    one.publish_to("two", &Letter(1)).await.unwrap();
    one.publish_to("one", &Letter(2)).await.unwrap();

    let got: BTreeSet<_> = [soon(letters.recv()).await.unwrap(), soon(letters.recv()).await.unwrap()].into();
    assert_eq!(got, BTreeSet::from([("two", 1), ("one", 2)]));
}

async fn a_letter_to_nobody_is_returned(site: Site) {
    let bus = site.process("one").await;
    assert_eq!(bus.publish_to("nobody", &Letter(1)).await, Err(Error::Unroutable));

    let (read, mut letters) = mpsc::channel(8);
    let subscription = bus.subscribe(1, tell(read, |Letter(number)| number)).await.unwrap();
    bus.publish_to("one", &Letter(2)).await.unwrap();
    assert_eq!(soon(letters.recv()).await, Some(2));
    soon(subscription.stop()).await;

    assert_eq!(bus.publish_to("one", &Letter(3)).await, Err(Error::Unroutable));
}

async fn what_is_too_large_is_refused(site: Site) {
    let bus = site.process("server").await;
    let _served = bus.serve(1, |Bulk(bytes)| async move { Ok(bytes.len() as u64) }).await.unwrap();
    let too_large = Bulk(vec![0; MAX_MESSAGE_BYTES]);
    let large = Bulk(vec![0; MAX_MESSAGE_BYTES - 1_024]);

    assert!(matches!(bus.call(&too_large).await, Err(CallError::TooLarge { .. })));
    assert!(matches!(bus.publish(&too_large).await, Err(Error::TooLarge { .. })));
    assert_eq!(bus.call(&large).await, Ok(large.0.len() as u64));
}

async fn calls_beyond_the_queue_fail_at_once(site: Site) {
    let bus = site.process("server").await;
    let _served = bus.serve(1, |_: Double| std::future::pending()).await.unwrap();

    let mut calls = JoinSet::new();
    for number in 0..1_100 {
        let bus = bus.clone();
        calls.spawn(async move { bus.call(&Double(number)).await });
    }

    // The first to end are those that found no place.
    assert_eq!(soon(calls.join_next()).await.unwrap().unwrap(), Err(CallError::Unavailable));
}

async fn letters_beyond_the_queue_are_refused(site: Site) {
    let bus = site.process("one").await;
    let _subscribed = bus.subscribe(1, |_: Letter| std::future::pending::<Result<(), Infallible>>()).await.unwrap();

    let mut writers = JoinSet::new();
    for _ in 0..100 {
        let bus = bus.clone();
        writers.spawn(async move {
            for number in 0..101 {
                bus.publish_to("one", &Letter(number)).await?;
            }
            Ok(())
        });
    }

    let written = soon(writers.join_all()).await;
    assert!(written.contains(&Err(Error::Full)), "one of 10,100 letters found no place");
    assert!(written.iter().all(|result| matches!(result, Ok(()) | Err(Error::Full))));
}

/// A handler that sends on what `read` finds in an event.
fn tell<E: bus::Event, T: Send + 'static>(
    to: mpsc::Sender<T>,
    read: impl Fn(E) -> T + Send + Sync + 'static,
) -> impl Fn(E) -> futures_util::future::BoxFuture<'static, Result<(), Infallible>> {
    move |event| {
        let (to, read) = (to.clone(), read(event));
        Box::pin(async move {
            // A test that has seen enough no longer listens.
            let _ = to.send(read).await;
            DONE
        })
    }
}
