//! Who may come in. The handshakes are tasks; then a worker owns the stream.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr, TcpListener as StdListener},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use domain::SourcePrefix;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::{
    accept_hdr_async_with_config,
    tungstenite::{
        handshake::server::{ErrorResponse, Request, Response},
        http::StatusCode,
        protocol::CloseFrame,
    },
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use wire::stream::{PATH, StreamId};

use super::{
    Ended, Handed, HandedStreams, NUMBER_BITS, StreamConfig, Web,
    inlet::{Inlet, News, Outbox},
    line::{Closing, Line, limits},
};
use crate::{Metrics, steer::Workers};

/// What the kernel takes beyond what the client acknowledged: more would only wait there instead of being dropped here.
const UNSENT: u32 = 16 * 1024;

/// How long what was sent may go without a sign that it arrived.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);

/// How long a client may take to hear why its stream ends.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// After the system had no descriptor left.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// What all streams share.
#[derive(Debug)]
pub(crate) struct Gate {
    config: StreamConfig,
    metrics: Arc<Metrics>,
    workers: Workers,
    /// One a worker.
    inlets: Vec<Arc<Inlet>>,
    seats: Mutex<Seats>,
    unfinished: Arc<Semaphore>,
    numbers: AtomicU64,
    /// Odd and secret: spreads sources over the budgets for joins.
    factor: u64,
}

#[derive(Debug, Default)]
struct Seats {
    taken: usize,
    by_source: HashMap<SourcePrefix, u32>,
}

/// A place among the streams of one source.
#[derive(Debug)]
pub(crate) struct Seat {
    gate: Arc<Gate>,
    source: SourcePrefix,
}

impl Gate {
    /// A gate to the workers behind `inlets`. `secret` must be unpredictable to clients.
    pub(crate) fn new(
        config: StreamConfig,
        workers: Workers,
        inlets: Vec<Arc<Inlet>>,
        metrics: Arc<Metrics>,
        secret: u64,
    ) -> Self {
        let unfinished = Arc::new(Semaphore::new(config.unfinished.min(Semaphore::MAX_PERMITS)));
        let (seats, numbers) = (Mutex::default(), AtomicU64::new(1));
        Self { config, metrics, workers, inlets, seats, unfinished, numbers, factor: secret | 1 }
    }

    /// Takes streams from `listeners` and those that were handed over, until `shutdown`; then ends them all.
    pub(crate) async fn run(
        self: Arc<Self>,
        listeners: Vec<(TcpListener, TlsAcceptor)>,
        mut handed: Option<HandedStreams>,
        shutdown: CancellationToken,
    ) {
        let streams = TaskTracker::new();
        for (listener, tls) in listeners {
            streams.spawn(Arc::clone(&self).listen(listener, tls, streams.clone(), shutdown.clone()));
        }
        loop {
            let next = async {
                match &mut handed {
                    Some(handed) => handed.streams.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => break,
                next = next => match next {
                    Some(Handed { web, from }) => match self.seat(from.ip()) {
                        Ok(seat) => self.hand_over(seat, web),
                        Err(reason) => {
                            drop(streams.spawn(turn_away(Arc::clone(&self), web, reason)));
                        }
                    },
                    None => handed = None,
                },
            }
        }
        streams.close();
        streams.wait().await;
    }

    async fn listen(
        self: Arc<Self>,
        listener: TcpListener,
        tls: TlsAcceptor,
        streams: TaskTracker,
        shutdown: CancellationToken,
    ) {
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, from)) => self.admit(stream, from, tls.clone(), &streams, &shutdown),
                Err(error) => {
                    tracing::warn!(%error, "a stream could not be accepted");
                    sleep(EXHAUSTED).await;
                }
            }
        }
    }

    fn admit(
        self: &Arc<Self>,
        stream: TcpStream,
        from: SocketAddr,
        tls: TlsAcceptor,
        streams: &TaskTracker,
        shutdown: &CancellationToken,
    ) {
        let room = self.seat(from.ip()).and_then(|seat| {
            let unfinished = Arc::clone(&self.unfinished).try_acquire_owned().map_err(|_| Ended::Full)?;
            Ok((seat, unfinished))
        });
        let (seat, unfinished) = match room {
            Ok(room) => room,
            // Before TLS nothing can be said.
            Err(reason) => return self.metrics.streams.ended(reason).inc(),
        };
        let (gate, shutdown) = (Arc::clone(self), shutdown.clone());
        streams.spawn(async move {
            let opened = tokio::select! {
                () = shutdown.cancelled() => None,
                opened = timeout(gate.config.handshake_timeout, Box::pin(upgrade(stream, tls))) => opened.ok().and_then(Result::ok),
            };
            drop(unfinished);
            match opened {
                Some(web) => gate.hand_over(seat, web),
                None => gate.metrics.streams.ended(Ended::Handshake).inc(),
            }
        });
    }

    fn seat(self: &Arc<Self>, from: IpAddr) -> Result<Seat, Ended> {
        let source = SourcePrefix::of(from);
        let mut seats = self.seats();
        if seats.taken >= self.config.connections {
            return Err(Ended::Full);
        }
        let of_source = seats.by_source.entry(source).or_default();
        if *of_source >= self.config.connections_per_source {
            return Err(Ended::SourceFull);
        }
        *of_source += 1;
        seats.taken += 1;
        Ok(Seat { gate: Arc::clone(self), source })
    }

    /// A name for a stream: which source it has, for the budget of joins, and a number that is never used again.
    fn name(&self, source: SourcePrefix) -> StreamId {
        let source = source.bits().wrapping_mul(self.factor) >> NUMBER_BITS;
        let number = self.numbers.fetch_add(1, Ordering::Relaxed) & ((1 << NUMBER_BITS) - 1);
        StreamId(source << NUMBER_BITS | number)
    }

    /// Gives a stream to the worker that will own it. Nothing was read since the handshake's last message, which is the relay's.
    fn hand_over(&self, seat: Seat, web: Web) {
        let (socket, tls) = web.into_inner().into_inner();
        let Ok(socket) = socket.into_std() else { return self.metrics.streams.ended(Ended::Failed).inc() };
        let options = SockRef::from(&socket);
        // Without these the stream is slower to notice, and right all the same.
        let _ = options.set_tcp_nodelay(true);
        let _ = options.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
        let _ = options.set_tcp_notsent_lowat(UNSENT);

        let id = self.name(seat.source);
        let owner = (id.0 % u64::from(self.workers.count())) as u8;
        let outbox = Arc::new(Outbox::new(id, owner));
        let patience = (self.config.handshake_timeout, self.config.idle);
        let line = Line::new((socket, tls), Arc::clone(&outbox), seat, patience);
        for (worker, inlet) in self.inlets.iter().enumerate() {
            if worker != usize::from(owner) {
                inlet.tell(News::Opened(Arc::clone(&outbox)));
            }
        }
        // The others know of it before they can hear from it.
        if let Some(inlet) = self.inlets.get(usize::from(owner)) {
            inlet.tell(News::Owned(Box::new(line)));
        }
    }

    fn seats(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.gate.seats();
        seats.taken -= 1;
        if let Some(of_source) = seats.by_source.get_mut(&self.source) {
            *of_source -= 1;
            if *of_source == 0 {
                seats.by_source.remove(&self.source);
            }
        }
    }
}

/// How listeners show their certificate.
pub(crate) fn tls(certificate: &Path, key: &Path) -> Result<Arc<rustls::ServerConfig>, TlsError> {
    let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>)?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    // Streams are few and long: no memory for resumptions.
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Why a listener has no certificate.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the TLS certificate or its key cannot be read")]
    Read(#[from] rustls_pki_types::pem::Error),
    #[error("the TLS certificate and its key do not fit")]
    Fit(#[from] rustls::Error),
}

/// Takes the port.
pub(crate) fn bind(address: SocketAddr) -> io::Result<StdListener> {
    let listener = StdListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The server's side of TLS and the WebSocket handshake.
async fn upgrade(stream: TcpStream, tls: TlsAcceptor) -> io::Result<Web> {
    stream.set_nodelay(true)?;
    let stream = tls.accept(stream).await?;
    #[expect(clippy::result_large_err, reason = "the library's callback")]
    let check = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        if request.uri().path() == PATH {
            return Ok(response);
        }
        let mut refusal = ErrorResponse::new(None);
        *refusal.status_mut() = StatusCode::NOT_FOUND;
        Err(refusal)
    };
    accept_hdr_async_with_config(stream, check, Some(limits())).await.map_err(io::Error::other)
}

async fn turn_away(gate: Arc<Gate>, mut web: Web, reason: Ended) {
    gate.metrics.streams.ended(reason).inc();
    let closing = Closing::from(reason);
    let frame = CloseFrame { code: closing.code().into(), reason: closing.reason().into() };
    // The client may be gone already, or not read.
    let _ = timeout(CLOSE_PATIENCE, web.close(Some(frame))).await;
}
