//! Takes connections, within limits that are checked before anything is read.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::Arc,
    time::Duration,
};

use domain::SourcePrefix;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use wire::{Code, secure::rejection};

use crate::{hub::Hub, metrics::Turned, pipe::Pipe, session};

/// After the system had no descriptor left for a connection.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// When a turned away client is told to come back.
const COME_BACK: Duration = Duration::from_secs(10);

/// What limits all listeners together.
struct Limits {
    accepts: DefaultDirectRateLimiter,
    connections: Arc<Semaphore>,
    unfinished: Arc<Semaphore>,
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
        hub.seams.metrics.turned(Turned::Away).inc();
        // Before TLS nothing can be said; on the plain transport one small write tells when to come back.
        if tls.is_none() {
            let _ = stream.try_write(&rejection(Code::Busy, Some(COME_BACK)));
        }
        return;
    };
    let (hub, shutdown) = (Arc::clone(hub), shutdown.clone());
    sessions.spawn(async move {
        let source = SourcePrefix::of(from.ip());
        let Some(_seat) = hub.seat(source) else {
            hub.seams.metrics.turned(Turned::Away).inc();
            return;
        };
        hub.seams.metrics.connections.inc();
        // Frames are small and somebody waits for each.
        let _ = stream.set_nodelay(true);
        match open(stream, tls, hub.config.handshake_timeout).await {
            Some(pipe) => session::run(&hub, pipe, source, unfinished, &shutdown).await,
            None => hub.seams.metrics.turned(Turned::Foreign).inc(),
        }
        hub.seams.metrics.connections.dec();
        drop(connection);
    });
}

async fn open(stream: TcpStream, tls: Option<TlsAcceptor>, patience: Duration) -> Option<Pipe> {
    match tls {
        None => Some(Pipe::Plain(stream)),
        Some(tls) => timeout(patience, Pipe::web(stream, &tls)).await.ok()?.ok(),
    }
}
