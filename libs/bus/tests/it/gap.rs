//! RabbitMQ goes away and comes back: everything works again without a restart of ours.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bus::{Bus, CallError, Error};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Barrier, mpsc, watch},
    task::JoinSet,
    time::Instant,
};

use crate::site::{DONE, Double, DoubleNow, Job, Letter, News, broker_url, double, eventually, in_new_namespace, soon};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_was_there_is_there_again_after_a_gap_of_rabbit() {
    let road = Road::to_broker().await;
    let bus = road.process().await;
    let (told, mut events) = mpsc::channel(64);
    let _served = bus.serve(4, double).await.unwrap();
    let (jobs, news, letters) = (told.clone(), told.clone(), told);
    let _jobs = bus.subscribe(2, move |Job(number)| tell(jobs.clone(), number)).await.unwrap();
    let _news = bus.subscribe(2, move |News(number)| tell(news.clone(), number)).await.unwrap();
    let _letters = bus.subscribe(2, move |Letter(number)| tell(letters.clone(), number)).await.unwrap();
    let mut recovered = bus.recovered();
    bus.publish(&Job(1_000)).await.unwrap();
    await_event(&mut events, 1_000).await;

    for round in 1..=3 {
        road.cut();
        eventually(async || bus.ping().await == Err(Error::Unavailable)).await;
        assert_eq!(bus.call(&Double(1)).await, Err(CallError::Unavailable));
        let waiting = bus.clone();
        let mut publication = JoinSet::new();
        publication.spawn(async move { waiting.publish(&Job(round)).await });
        restart_broker().await;
        road.mend();

        soon(recovered.changed()).await.unwrap();
        assert_eq!(*recovered.borrow_and_update(), round);
        if !broker_restarts() {
            assert_eq!(soon(publication.join_next()).await.unwrap().unwrap(), Ok(()), "the gap was short enough");
            await_event(&mut events, round).await;
        }
        eventually(async || bus.call(&Double(21)).await == Ok(42)).await;
        eventually(async || bus.publish_to("one", &Letter(100 + round)).await == Ok(())).await;
        await_event(&mut events, 100 + round).await;
        await_news(&bus, &mut events, 200 + round).await;
        eventually(async || bus.publish(&Job(300 + round)).await == Ok(())).await;
        await_event(&mut events, 300 + round).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_prefetch_holds_after_a_gap_of_rabbit() {
    const AGREED: usize = 2;
    let road = Road::to_broker().await;
    let bus = road.process().await;
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, highest) = (Arc::clone(&running), Arc::clone(&most));
    let together = Arc::new(Barrier::new(AGREED));
    let _served = bus
        .serve(AGREED, move |Double(number)| {
            let (running, most, together) = (Arc::clone(&counted), Arc::clone(&highest), Arc::clone(&together));
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                together.wait().await;
                running.fetch_sub(1, Ordering::SeqCst);
                Ok(number)
            }
        })
        .await
        .unwrap();
    let mut recovered = bus.recovered();
    road.cut();
    eventually(async || bus.ping().await == Err(Error::Unavailable)).await;
    road.mend();
    soon(recovered.changed()).await.unwrap();

    let mut calls = JoinSet::new();
    for number in 0..8 {
        let bus = bus.clone();
        calls.spawn(async move { bus.call(&Double(number)).await });
    }

    assert!(soon(calls.join_all()).await.iter().all(Result::is_ok));
    assert_eq!(most.load(Ordering::SeqCst), AGREED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_begun_before_a_gap_of_rabbit_is_not_served_again() {
    let road = Road::to_broker().await;
    let bus = road.process().await;
    let (begun, mut has_begun) = mpsc::channel(8);
    let _served = bus
        .serve(1, move |Double(number)| {
            let begun = begun.clone();
            async move {
                begun.send(number).await.unwrap();
                if number == 1 { std::future::pending().await } else { Ok(number) }
            }
        })
        .await
        .unwrap();
    let _second = bus.serve(1, double).await.unwrap();
    let mut recovered = bus.recovered();
    let caller = bus.clone();
    let mut call = JoinSet::new();
    call.spawn(async move { (caller.call(&Double(1)).await, caller.call(&Double(1)).await) });
    // Whichever of the two servers has it.
    tokio::select! {
        _ = has_begun.recv() => road.cut(),
        _ = call.join_next() => return,
    }
    eventually(async || bus.ping().await == Err(Error::Unavailable)).await;
    road.mend();
    soon(recovered.changed()).await.unwrap();

    let (first, _) = soon(call.join_next()).await.unwrap().unwrap();

    assert_eq!(first, Err(CallError::Unavailable), "the caller hears of the gap");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_never_answers_is_told_at_the_connection_to_rabbit() {
    let road = Road::to_broker().await;
    road.cut();
    assert_eq!(Bus::connect(&road.url, "test", "one").await.map(|_| ()), Err(Error::Unavailable));
    assert_eq!(Bus::connect("http://localhost", "test", "one").await.map(|_| ()), Err(Error::Url));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_rabbit_is_given_up_and_found_again() {
    let road = Road::to_broker().await;
    let bus = road.process().await;
    let _served = bus.serve(4, double).await.unwrap();
    let mut recovered = bus.recovered();
    road.silence();

    assert_eq!(bus.ping().await, Err(Error::Unavailable));
    assert_eq!(bus.call(&DoubleNow(1)).await, Err(CallError::TimedOut));
    let began = Instant::now();
    assert_eq!(bus.publish(&News(1)).await, Err(Error::Unavailable));
    assert!(began.elapsed() < bus::PUBLISH_DEADLINE + Duration::from_secs(1));
    road.mend();

    soon(recovered.changed()).await.unwrap();
    eventually(async || bus.call(&Double(21)).await == Ok(42)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rabbit_short_of_memory_blocks_no_caller() {
    let road = Road::to_broker().await;
    let bus = road.process().await;
    let _served = bus.serve(4, double).await.unwrap();
    bus.publish(&Job(1)).await.unwrap();
    road.say(&connection_blocked("low on memory"));
    eventually(async || bus.ping().await == Err(Error::Unavailable)).await;

    assert_eq!(bus.call(&Double(1)).await, Err(CallError::Unavailable));
    let waiting = bus.clone();
    let mut publication = JoinSet::new();
    publication.spawn(async move { waiting.publish(&Job(2)).await });
    road.say(&connection_unblocked());

    assert_eq!(soon(publication.join_next()).await.unwrap().unwrap(), Ok(()));
    assert_eq!(bus.call(&Double(21)).await, Ok(42));
    assert_eq!(*bus.recovered().borrow(), 0, "the connection was never lost");
}

/// The way to the broker, which can be closed.
struct Road {
    url: String,
    state: watch::Sender<RoadState>,
    /// What clients hear in the name of the broker.
    said: watch::Sender<Vec<u8>>,
    _proxy: JoinSet<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RoadState {
    Open,
    /// Connections break, and new ones do as soon as they are made.
    Cut,
    /// Connections stay, and nothing comes through any more.
    Silent,
}

impl Road {
    async fn to_broker() -> Self {
        let url = broker_url();
        let (scheme_and_user, rest) = url.split_once('@').unwrap();
        let (broker, vhost) = rest.split_once('/').unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = watch::Sender::new(RoadState::Open);
        let mut proxy = JoinSet::new();
        let said = watch::Sender::default();
        proxy.spawn(forward(listener, broker.parse().unwrap(), state.subscribe(), said.subscribe()));
        Self { url: in_new_namespace(&format!("{scheme_and_user}@{address}/{vhost}")), state, said, _proxy: proxy }
    }

    async fn process(&self) -> Bus {
        Bus::connect(&self.url, "test", "one").await.unwrap()
    }

    fn cut(&self) {
        self.state.send_replace(RoadState::Cut);
    }

    fn silence(&self) {
        self.state.send_replace(RoadState::Silent);
    }

    fn mend(&self) {
        self.state.send_replace(RoadState::Open);
    }

    /// Puts a frame into the stream of a broker that says nothing at the moment.
    fn say(&self, frame: &[u8]) {
        self.said.send_replace(frame.to_vec());
    }
}

async fn forward(
    listener: TcpListener,
    broker: SocketAddr,
    state: watch::Receiver<RoadState>,
    said: watch::Receiver<Vec<u8>>,
) {
    let mut connections = JoinSet::new();
    loop {
        let (inner, _) = listener.accept().await.unwrap();
        let (mut state, said) = (state.clone(), said.clone());
        connections.spawn(async move {
            let carried = carry(&inner, broker, said);
            tokio::select! {
                biased;
                closed = state.wait_for(|state| *state != RoadState::Open) => drop(closed),
                _ = carried => return,
            }
            // A connection that was silent once never carries anything again.
            let _ = state.wait_for(|state| *state != RoadState::Silent).await;
        });
    }
}

async fn carry(client: &TcpStream, broker: SocketAddr, mut said: watch::Receiver<Vec<u8>>) -> io::Result<()> {
    let broker = TcpStream::connect(broker).await?;
    let (mut to_broker, mut to_client) = ([0; 16_384], [0; 16_384]);
    loop {
        tokio::select! {
            ready = client.readable() => {
                ready?;
                pass(client, &broker, &mut to_broker).await?;
            }
            ready = broker.readable() => {
                ready?;
                pass(&broker, client, &mut to_client).await?;
            }
            Ok(()) = said.changed() => {
                let frame = said.borrow_and_update().clone();
                write_all(client, &frame).await?;
            }
        }
    }
}

/// Carries what is there to be read.
async fn pass(from: &TcpStream, to: &TcpStream, buffer: &mut [u8]) -> io::Result<()> {
    match from.try_read(buffer) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(length) => write_all(to, &buffer[..length]).await,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
    }
}

async fn write_all(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        to.writable().await?;
        match to.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// RabbitMQ's `connection.blocked` (class 10, method 60), which it sends to publishers when it is short of memory or disk.
fn connection_blocked(reason: &str) -> Vec<u8> {
    let mut arguments = vec![u8::try_from(reason.len()).unwrap()];
    arguments.extend(reason.as_bytes());
    connection_method(60, &arguments)
}

/// RabbitMQ's `connection.unblocked` (class 10, method 61).
fn connection_unblocked() -> Vec<u8> {
    connection_method(61, &[])
}

/// A method frame of AMQP 0-9-1 (section 4.2.3) on channel 0.
fn connection_method(method: u16, arguments: &[u8]) -> Vec<u8> {
    let mut frame = vec![1, 0, 0];
    frame.extend(u32::try_from(arguments.len() + 4).unwrap().to_be_bytes());
    frame.extend(10_u16.to_be_bytes());
    frame.extend(method.to_be_bytes());
    frame.extend(arguments);
    frame.push(0xCE);
    frame
}

/// The command that kills the broker and starts it again, when this run has a broker for itself. It waits four seconds
/// first: RabbitMQ 3.10 writes what it knows of a new quorum queue to disk only then, and one that it half forgot never
/// elects a leader.
#[expect(clippy::disallowed_methods, reason = "tests learn from the environment what they may do to the broker")]
fn restart_command() -> Option<String> {
    std::env::var("BURI_TEST_RABBITMQ_RESTART").ok()
}

fn broker_restarts() -> bool {
    restart_command().is_some()
}

async fn restart_broker() {
    let Some(command) = restart_command() else { return };
    let restarted =
        tokio::task::spawn_blocking(move || std::process::Command::new("sh").arg("-c").arg(command).status());
    assert!(restarted.await.unwrap().unwrap().success(), "the broker is back");
}

/// Work whose acknowledgement was lost comes again, in between.
async fn await_event(events: &mut mpsc::Receiver<u64>, wanted: u64) {
    soon(async { while events.recv().await != Some(wanted) {} }).await;
}

/// News is only for those who are subscribed: it is told until it is heard.
async fn await_news(bus: &Bus, events: &mut mpsc::Receiver<u64>, wanted: u64) {
    eventually(async || {
        bus.publish(&News(wanted)).await.unwrap();
        let heard =
            tokio::time::timeout(Duration::from_millis(200), async { while events.recv().await != Some(wanted) {} });
        heard.await.is_ok()
    })
    .await;
}

async fn tell(to: mpsc::Sender<u64>, number: u64) -> Result<(), std::convert::Infallible> {
    let _ = to.send(number).await;
    DONE
}
