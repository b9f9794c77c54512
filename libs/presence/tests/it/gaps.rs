//! Redis that freezes, goes away and comes back, as seen through a forwarder that plays those parts.

use std::{net::SocketAddr, time::Duration};

use presence::{DEADLINE, Error, Presence};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
    time::Instant,
};

use crate::site::{HOUR, Site, eventually, redis_url, seat, tag, up};

/// What scheduling on a busy machine adds to a deadline.
const SLACK: Duration = Duration::from_millis(700);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_redis_times_out_and_serves_when_it_thaws() {
    let (site, forwarder, presence) = behind_a_forwarder().await;
    let came = up(&presence, 1, 1, 1, HOUR).await;

    forwarder.play(Part::Freeze);
    let began = Instant::now();
    assert!(matches!(presence.ping().await, Err(Error::TimedOut)));
    assert!(began.elapsed() < DEADLINE + SLACK, "{:?}", began.elapsed());

    forwarder.play(Part::Forward);
    eventually(async || presence.ping().await.is_ok()).await;
    assert_eq!(seat(&presence, 1).await.unwrap().epoch, came.epoch);
    site.flush().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_away_fails_in_time_and_is_found_again() {
    let (site, forwarder, presence) = behind_a_forwarder().await;
    let came = up(&presence, 1, 1, 1, HOUR).await;

    forwarder.play(Part::Refuse);
    for _ in 0..5 {
        let began = Instant::now();
        let failed = presence.ping().await;
        assert!(matches!(failed, Err(Error::Unavailable(_) | Error::TimedOut)), "{failed:?}");
        assert!(began.elapsed() < DEADLINE + SLACK, "{:?}", began.elapsed());
    }

    forwarder.play(Part::Forward);
    let began = Instant::now();
    eventually(async || presence.ping().await.is_ok()).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(seat(&presence, 1).await.unwrap().epoch, came.epoch);
    site.flush().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_redis_between_two_calls_goes_unnoticed() {
    let (site, forwarder, presence) = behind_a_forwarder().await;
    for session in 1..=10 {
        up(&presence, 1, 1, session, HOUR).await;

        forwarder.hang_up().await;

        assert_eq!(seat(&presence, 1).await.unwrap().tag, tag(session));
    }
    site.flush().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_connects_to_a_redis_that_is_not_there() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", free.local_addr().unwrap());
    drop(free);
    let began = Instant::now();

    let failed = Presence::connect(&url).await;

    assert!(matches!(failed, Err(Error::Unavailable(_) | Error::TimedOut)), "{failed:?}");
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_without_tls_is_not_talked_to_in_the_clear() {
    let (site, forwarder, _presence) = behind_a_forwarder().await;

    let failed = Presence::connect(&site.url_at(&format!("rediss://{}", forwarder.address))).await;

    assert!(matches!(failed, Err(Error::Unavailable(_) | Error::TimedOut)), "{failed:?}");
}

async fn behind_a_forwarder() -> (Site, Forwarder, Presence) {
    let site = Site::redis();
    let forwarder = Forwarder::start().await;
    let presence = Presence::connect(&site.url_at(&format!("redis://{}", forwarder.address))).await.unwrap();
    (site, forwarder, presence)
}

/// What a forwarder does with connections.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Forward,
    /// Keeps connections and carries nothing.
    Freeze,
    /// Ends connections, new ones too.
    Refuse,
}

/// Stands between presence and Redis.
struct Forwarder {
    address: SocketAddr,
    part: watch::Sender<Part>,
    _task: JoinSet<()>,
}

impl Forwarder {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let part = watch::Sender::new(Part::Forward);
        let mut task = JoinSet::new();
        task.spawn(forward(listener, part.clone()));
        Self { address, part, _task: task }
    }

    fn play(&self, part: Part) {
        self.part.send_replace(part);
    }

    /// Ends all connections, and takes new ones.
    async fn hang_up(&self) {
        self.play(Part::Refuse);
        eventually(async || self.part.receiver_count() == 0).await;
        self.play(Part::Forward);
    }
}

async fn forward(listener: TcpListener, part: watch::Sender<Part>) {
    let (_, target) = redis_url().split_once("://").map(|(scheme, rest)| (scheme.to_owned(), rest.to_owned())).unwrap();
    let target = target.split('/').next().unwrap().to_owned();
    let mut directions = JoinSet::new();
    loop {
        let (near, _) = listener.accept().await.unwrap();
        if *part.borrow() == Part::Refuse {
            continue;
        }
        let far = TcpStream::connect(&target).await.unwrap();
        let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
        directions.spawn(carry(near_in, far_out, part.subscribe()));
        directions.spawn(carry(far_in, near_out, part.subscribe()));
    }
}

/// Carries bytes in one direction until an end hangs up, or the part is to refuse.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut part: watch::Receiver<Part>) {
    let mut watched = part.clone();
    let refused = async move { watched.wait_for(|part| *part == Part::Refuse).await.map(drop) };
    let carried = async move {
        let mut buffer = vec![0; 16 * 1_024];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            let thawed = part.wait_for(|part| *part != Part::Freeze).await.is_ok();
            if !thawed || to.write_all(&buffer[..length]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        _ = refused => {}
        () = carried => {}
    }
}
