//! STUN over TCP on the ports of the reflectors, for clients whose NAT blocks UDP or maps TCP in its own way.
//!
//! Whoever has a connection is who it says, so answers may be larger than questions; what has to be bounded is
//! connections. One asks a few times, one question after the other, and may then stay silent until its time is up: a client
//! that is about to punch keeps its mapping alive with it.

use std::{
    collections::{BTreeMap, HashMap},
    future::poll_fn,
    io,
    net::SocketAddr,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use domain::SourcePrefix;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::{self, JoinSet},
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;
use wire::probe::{Asked, Corner, MAX_ANSWER_SIZE, MAX_MESSAGE, Mirror, Sources, framed};

use crate::{Clock, Metrics, metrics::Probed};

/// How long a question may take to arrive, and an answer to be taken.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a connection that was answered may stay.
const LIFETIME: Duration = Duration::from_secs(60);

/// Questions of one connection.
const MOST_QUESTIONS: usize = 16;

/// Connections that the kernel completes before they are taken.
const BACKLOG: i32 = 128;

/// After the system had no descriptor for a connection.
const PAUSE: Duration = Duration::from_millis(100);

/// Bounds of all listeners together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) connections: usize,
    pub(crate) per_source: usize,
    /// New ones a second.
    pub(crate) accepts_per_source: u32,
}

/// One port, and what it answers.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) at: Corner,
    pub(crate) socket: std::net::TcpListener,
    pub(crate) mirror: Mirror,
}

/// Takes connections at `endpoint`.
pub(crate) fn listen(endpoint: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(endpoint), Type::STREAM, Some(Protocol::TCP))?;
    if endpoint.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&endpoint.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Answers on all `listeners` until `shutdown`.
pub(crate) async fn run(
    listeners: Vec<Listener>,
    limits: Limits,
    secret: u64,
    metrics: Arc<Metrics>,
    clock: Clock,
    shutdown: CancellationToken,
) {
    let mut taking = Vec::with_capacity(listeners.len());
    for Listener { at, socket, mirror } in listeners {
        match TcpListener::from_std(socket) {
            Ok(socket) => taking.push((socket, at, mirror)),
            Err(error) => tracing::error!(%error, "a reflector does not listen for connections"),
        }
    }
    let mut accepts = Sources::new(Instant::now().into_std(), limits.accepts_per_source, secret);
    let mut open = Open::default();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(ended) = open.tasks.join_next_with_id() => {
                open.forget(match ended { Ok((id, ())) => id, Err(error) => error.id() });
                continue;
            }
            accepted = accept(&taking) => accepted,
        };
        match accepted {
            Ok((stream, source, at, mirror)) => {
                let admitted = open.admits(source, limits) && accepts.take(Instant::now().into_std(), source.ip());
                if admitted {
                    let asked = Asked { source, at, ttl: 0, now: clock() };
                    open.spawn(source, serve(stream, asked, mirror.clone(), Arc::clone(&metrics), clock));
                } else {
                    metrics.probe(Probed::Limited);
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a connection to a reflector was not taken");
                sleep(PAUSE).await;
            }
        }
    }
    open.tasks.shutdown().await;
}

/// The connections, and whose they are.
#[derive(Default)]
struct Open {
    tasks: JoinSet<()>,
    owners: HashMap<task::Id, SourcePrefix>,
    sources: BTreeMap<SourcePrefix, usize>,
}

impl Open {
    fn admits(&self, source: SocketAddr, limits: Limits) -> bool {
        let of_source = self.sources.get(&SourcePrefix::of(source.ip())).copied().unwrap_or(0);
        self.tasks.len() < limits.connections && of_source < limits.per_source
    }

    fn spawn(&mut self, source: SocketAddr, connection: impl Future<Output = ()> + Send + 'static) {
        let source = SourcePrefix::of(source.ip());
        let id = self.tasks.spawn(connection).id();
        self.owners.insert(id, source);
        *self.sources.entry(source).or_default() += 1;
    }

    fn forget(&mut self, id: task::Id) {
        let Some(source) = self.owners.remove(&id) else { return };
        match self.sources.get_mut(&source) {
            Some(of_source) if *of_source > 1 => *of_source -= 1,
            Some(_) | None => drop(self.sources.remove(&source)),
        }
    }
}

/// The next connection to any of them.
async fn accept(listeners: &[(TcpListener, Corner, Mirror)]) -> io::Result<(TcpStream, SocketAddr, Corner, &Mirror)> {
    poll_fn(|context| {
        for (listener, at, mirror) in listeners {
            if let Poll::Ready(accepted) = listener.poll_accept(context) {
                return Poll::Ready(accepted.map(|(stream, source)| (stream, source, *at, mirror)));
            }
        }
        Poll::Pending
    })
    .await
}

/// One connection until its end.
async fn serve(mut stream: TcpStream, asked: Asked, mirror: Mirror, metrics: Arc<Metrics>, clock: Clock) {
    let end = Instant::now() + LIFETIME;
    let mut received = [0; MAX_MESSAGE];
    let mut filled = 0;
    let mut due = Instant::now() + PATIENCE;
    for _ in 0..MOST_QUESTIONS {
        let length = loop {
            match framed(&received[..filled]) {
                Ok(Some(length)) if length <= filled => break length,
                Ok(_) => {}
                Err(_) => return metrics.probe(Probed::Ignored),
            }
            let Ok(Ok(read @ 1..)) = timeout_at(due, stream.read(&mut received[filled..])).await else { return };
            if filled == 0 {
                due = end.min(Instant::now() + PATIENCE);
            }
            filled += read;
        };
        let mut answer = [0; MAX_ANSWER_SIZE];
        let asked = Asked { now: clock(), ..asked };
        let Some(size) = mirror.reflect_connected(&asked, &received[..length], &mut answer) else {
            return metrics.probe(Probed::Ignored);
        };
        let sent = timeout_at(end.min(Instant::now() + PATIENCE), stream.write_all(&answer[..size])).await;
        if !matches!(sent, Ok(Ok(()))) {
            return metrics.probe(Probed::Lost);
        }
        metrics.probe(Probed::Answered);
        received.copy_within(length..filled, 0);
        filled -= length;
        due = if filled == 0 { end } else { end.min(Instant::now() + PATIENCE) };
    }
}
