//! Who may come in, and the task of each stream.

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
use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::{
    accept_hdr_async_with_config,
    tungstenite::{
        Error as WebError, Message,
        handshake::server::{ErrorResponse, Request, Response},
        http::StatusCode,
        protocol::{CloseFrame, WebSocketConfig},
    },
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use wire::stream::{FrameError, MAX_MESSAGE, PATH, StreamId, frames};

use super::{
    Ended, Handed, HandedStreams, NUMBER_BITS, StreamConfig, Web,
    port::{Batch, Inlet, News, Outbox},
};
use crate::{Metrics, steer::Workers};

/// Batches of one stream that wait for a worker.
const BATCHES: usize = 2;

/// What the kernel takes beyond what the client acknowledged: more would only wait there instead of being dropped here.
const UNSENT: u32 = 16 * 1024;

/// How long what was sent may go without a sign that it arrived.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);

/// A client that takes longer to read a message is too slow.
const WRITE_PATIENCE: Duration = Duration::from_secs(15);

/// How long a client may take to hear why its stream ends.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// After the system had no descriptor left.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// Read from TLS at once, in bytes.
const READ: usize = 4 * 1024;

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
struct Seat {
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
                        Ok(seat) => drop(streams.spawn(carry(seat, web, shutdown.clone()))),
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
                Some(web) => carry(seat, web, shutdown).await,
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

    /// The workers that own some of `frames`, a bit for each.
    fn concerned<'a>(&self, frames: impl Iterator<Item = &'a [u8]>) -> u64 {
        if self.workers == Workers::ONE {
            return 1;
        }
        frames.fold(0, |concerned, frame| concerned | 1 << self.workers.of_frame(frame))
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
    let config = WebSocketConfig::default()
        .read_buffer_size(READ)
        .write_buffer_size(0)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    #[expect(clippy::result_large_err, reason = "the library's callback")]
    let check = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        if request.uri().path() == PATH {
            return Ok(response);
        }
        let mut refusal = ErrorResponse::new(None);
        *refusal.status_mut() = StatusCode::NOT_FOUND;
        Err(refusal)
    };
    accept_hdr_async_with_config(stream, check, Some(config)).await.map_err(io::Error::other)
}

async fn turn_away(gate: Arc<Gate>, mut web: Web, reason: Ended) {
    gate.metrics.streams.ended(reason).inc();
    close(&mut web, &Closing { reason, why: None }).await;
}

/// One stream from its first message to its last.
async fn carry(seat: Seat, web: Web, shutdown: CancellationToken) {
    let gate = Arc::clone(&seat.gate);
    let socket = SockRef::from(web.get_ref().get_ref().0);
    // Without these the stream is slower to notice, and right all the same.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    let _ = socket.set_tcp_notsent_lowat(UNSENT);

    let outbox = Arc::new(Outbox::new(gate.name(seat.source)));
    for inlet in &gate.inlets {
        inlet.tell(News::Opened(Arc::clone(&outbox)));
    }
    gate.metrics.streams.open.inc();
    let (mut sink, mut source) = web.split();
    let closing = tokio::select! {
        closing = read(&gate, &outbox, &mut source) => closing,
        closing = write(&outbox, &mut sink) => closing,
        () = shutdown.cancelled() => Closing { reason: Ended::Shutdown, why: None },
    };
    for inlet in &gate.inlets {
        inlet.tell(News::Closed(outbox.id()));
    }
    gate.metrics.streams.open.dec();
    gate.metrics.streams.ended(closing.reason).inc();
    if let Ok(mut web) = source.reunite(sink) {
        if closing.reason == Ended::Shutdown {
            // What was said last, that the relay drains.
            while let Some(message) = outbox.take()
                && matches!(timeout(CLOSE_PATIENCE, web.send(Message::Binary(message.into()))).await, Ok(Ok(())))
            {
            }
        }
        close(&mut web, &closing).await;
    }
    drop(seat);
}

/// Why a stream is closed.
struct Closing {
    reason: Ended,
    why: Option<FrameError>,
}

impl From<Ended> for Closing {
    fn from(reason: Ended) -> Self {
        Self { reason, why: None }
    }
}

impl From<FrameError> for Closing {
    fn from(why: FrameError) -> Self {
        Self { reason: Ended::Malformed, why: Some(why) }
    }
}

async fn read(gate: &Gate, outbox: &Outbox, source: &mut SplitStream<Web>) -> Closing {
    let room = Arc::new(Semaphore::new(BATCHES));
    let proves = Instant::now() + gate.config.handshake_timeout;
    let mut heard = Instant::now();
    loop {
        let idle = heard + gate.config.idle;
        let due = if outbox.is_proved() { idle } else { idle.min(proves) };
        let message = match timeout_at(due, source.next()).await {
            Ok(Some(Ok(message))) => message,
            Ok(None | Some(Err(WebError::ConnectionClosed | WebError::AlreadyClosed))) => return Ended::Left.into(),
            Ok(Some(Err(WebError::Capacity(_)))) => return FrameError::TooLarge.into(),
            Ok(Some(Err(_))) => return Ended::Failed.into(),
            Err(_) if idle <= Instant::now() => return Ended::Idle.into(),
            Err(_) if !outbox.is_proved() => return Ended::Unproved.into(),
            Err(_) => continue,
        };
        match message {
            Message::Binary(message) => {
                let concerned = match frames(&message) {
                    Ok(frames) => gate.concerned(frames),
                    Err(why) => return why.into(),
                };
                let Ok(room) = Arc::clone(&room).acquire_owned().await else { return Ended::Failed.into() };
                let room = Arc::new(room);
                for (worker, inlet) in gate.inlets.iter().enumerate() {
                    if concerned & 1 << worker != 0 {
                        let (message, room) = (message.clone(), Arc::clone(&room));
                        inlet.tell(News::Batch(Batch { from: outbox.id(), message, _room: room }));
                    }
                }
                heard = Instant::now();
            }
            Message::Text(_) => return FrameError::Text.into(),
            Message::Close(_) => return Ended::Left.into(),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
    }
}

async fn write(outbox: &Outbox, sink: &mut SplitSink<Web, Message>) -> Closing {
    loop {
        let message = outbox.next().await;
        match timeout(WRITE_PATIENCE, sink.send(Message::Binary(message.into()))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Ended::Failed.into(),
            Err(_) => return Ended::Slow.into(),
        }
    }
}

/// Says why, to those who listen.
async fn close(web: &mut Web, closing: &Closing) {
    let (code, reason) = match (closing.reason, closing.why) {
        (_, Some(why)) => (why.close_code(), why.to_string()),
        (Ended::Full | Ended::SourceFull, None) => (TRY_AGAIN_LATER, closing.reason.name().to_owned()),
        (Ended::Unproved | Ended::Idle | Ended::Slow, None) => (POLICY, closing.reason.name().to_owned()),
        (_, None) => (GOING_AWAY, closing.reason.name().to_owned()),
    };
    let frame = CloseFrame { code: code.into(), reason: reason.into() };
    // The client may be gone already, or not read.
    let _ = timeout(CLOSE_PATIENCE, web.close(Some(frame))).await;
}

// RFC 6455, section 7.4.1, and the registry that it opened.
const GOING_AWAY: u16 = 1001;
const POLICY: u16 = 1008;
const TRY_AGAIN_LATER: u16 = 1013;
