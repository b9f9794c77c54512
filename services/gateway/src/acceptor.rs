//! Takes connections, within limits that are checked before anything is read.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use domain::{AddressPrefix, SourcePrefix};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use rand::Rng as _;
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use wire::{Code, secure::rejection};

use crate::{
    hub::Hub,
    metrics::Turned,
    pipe::{Opened, Pipe},
    session,
};

/// After the system had no descriptor left for a connection.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// The longest that a client is told to stay away.
const LONGEST_AWAY: Duration = Duration::from_secs(30);

/// How long what was sent may go without a sign that it arrived: the system's own patience is a quarter of an hour.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);

/// What limits all listeners together.
struct Limits {
    accepts: DefaultDirectRateLimiter,
    turns: Mutex<Turns>,
    connections: Arc<Semaphore>,
    unfinished: Arc<Semaphore>,
}

/// When clients that were turned away may come back: one after the other, at a rate that can be served.
struct Turns {
    pause: Duration,
    next: Instant,
}

impl Turns {
    fn new(now: Instant, per_second: NonZeroU32) -> Self {
        Self { pause: Duration::from_secs(1) / per_second.get(), next: now }
    }

    /// How long the next one stays away. `luck` (0 to 1) spreads those that would have to wait for too long.
    fn take(&mut self, now: Instant, luck: f64) -> Duration {
        let wait = self.next.saturating_duration_since(now);
        if wait > LONGEST_AWAY {
            return LONGEST_AWAY.mul_f64(0.5 + luck / 2.0);
        }
        self.next = now + wait + self.pause;
        wait.max(Duration::from_millis(1))
    }
}

/// Accepts on all listeners until `shutdown`; the connections run in `sessions`.
pub(crate) async fn run(
    hub: &Arc<Hub>,
    plain: Vec<StdListener>,
    web: Vec<StdListener>,
    tls: TlsAcceptor,
    sessions: &TaskTracker,
    shutdown: &CancellationToken,
) -> io::Result<()> {
    let limits = Arc::new(Limits {
        accepts: RateLimiter::direct(Quota::per_second(hub.config.accepts)),
        turns: Mutex::new(Turns::new(Instant::now(), hub.config.reconnects)),
        connections: Arc::new(Semaphore::new(hub.config.connections.min(Semaphore::MAX_PERMITS))),
        unfinished: Arc::new(Semaphore::new(hub.config.unfinished.min(Semaphore::MAX_PERMITS))),
    });
    let mut listening = JoinSet::new();
    let listeners = plain.into_iter().map(|one| (one, None)).chain(web.into_iter().map(|one| (one, Some(tls.clone()))));
    for (listener, tls) in listeners {
        let listener = TcpListener::from_std(listener)?;
        let (hub, limits) = (Arc::clone(hub), Arc::clone(&limits));
        listening.spawn(listen(hub, limits, listener, tls, sessions.clone(), shutdown.clone()));
    }
    while listening.join_next().await.is_some() {}
    Ok(())
}

async fn listen(
    hub: Arc<Hub>,
    limits: Arc<Limits>,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    sessions: TaskTracker,
    shutdown: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => admit(&hub, &limits, stream, from, tls.clone(), &sessions, &shutdown),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(EXHAUSTED).await;
            }
        }
    }
}

fn admit(
    hub: &Arc<Hub>,
    limits: &Limits,
    stream: TcpStream,
    from: SocketAddr,
    tls: Option<TlsAcceptor>,
    sessions: &TaskTracker,
    shutdown: &CancellationToken,
) {
    let room = limits.accepts.check().is_ok().then(|| {
        let connection = Arc::clone(&limits.connections).try_acquire_owned().ok()?;
        let unfinished = Arc::clone(&limits.unfinished).try_acquire_owned().ok()?;
        Some((connection, unfinished))
    });
    let Some((connection, unfinished)) = room.flatten() else {
        let mut turns = limits.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let away = turns.take(Instant::now(), rand::rng().random());
        turn_away(hub, &stream, tls.is_some(), Code::Busy, away);
        return;
    };
    let (hub, shutdown) = (Arc::clone(hub), shutdown.clone());
    sessions.spawn(async move {
        let source = SourcePrefix::of(from.ip());
        let Some(_seat) = hub.seat(source) else {
            turn_away(&hub, &stream, tls.is_some(), Code::RateLimited, LONGEST_AWAY);
            return;
        };
        hub.seams.metrics.connections.inc();
        // Frames are small and somebody waits for each.
        let _ = stream.set_nodelay(true);
        let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED));
        let relays = hub.seams.relay_streams.as_ref();
        match Box::pin(open(stream, tls, relays.is_some(), hub.config.handshake_timeout)).await {
            Some(Opened::Control(pipe)) => {
                let from = AddressPrefix::of(from.ip());
                session::run(&hub, pipe, (source, from), unfinished, &shutdown).await;
            }
            Some(Opened::Relay(web)) => {
                hub.seams.metrics.handed_over.inc();
                if let Some(relays) = relays {
                    relays.take(*web, from);
                }
            }
            None => hub.seams.metrics.turned(Turned::Foreign).inc(),
        }
        hub.seams.metrics.connections.dec();
        drop(connection);
    });
}

/// On the plain transport one small write tells when to come back; before TLS nothing can be said.
fn turn_away(hub: &Hub, stream: &TcpStream, web: bool, code: Code, away: Duration) {
    hub.seams.metrics.turned(Turned::Away).inc();
    if !web {
        // Past the runtime, which does not know yet that the stream takes bytes. A client that has gone is not told.
        let _ = SockRef::from(stream).send(&rejection(code, Some(away)));
    }
}

async fn open(stream: TcpStream, tls: Option<TlsAcceptor>, relays: bool, patience: Duration) -> Option<Opened> {
    match tls {
        None => Some(Opened::Control(Pipe::Plain(stream))),
        Some(tls) => timeout(patience, Pipe::web(stream, &tls, relays)).await.ok()?.ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_that_were_turned_away_come_back_at_the_rate() {
        let start = Instant::now();
        let mut turns = Turns::new(start, NonZeroU32::new(1_000).unwrap());
        let waits: Vec<_> = (0..10_000).map(|_| turns.take(start, 0.0)).collect();
        assert!(waits[1] >= Duration::from_millis(1));
        assert!(waits.is_sorted());
        assert_eq!(waits[9_999], Duration::from_millis(9_999));
        assert_eq!(turns.take(start + Duration::from_secs(60), 0.0), Duration::from_millis(1));
    }

    #[test]
    fn nobody_is_sent_away_for_too_long() {
        let start = Instant::now();
        let mut turns = Turns::new(start, NonZeroU32::MIN);
        let last = (0..1_000).map(|_| turns.take(start, 0.5)).last();
        assert_eq!(last, Some(Duration::from_millis(22_500)));
    }
}
