//! Legs over streams: WebSockets over TLS on TCP 443, for clients that no UDP gets out of. What is said there is in
//! [`wire::stream`].
//!
//! A stream is a leg's address like any other: `100::/64` holds one for each, from where no datagram comes, and [`crate::core`]
//! asks the same of it, cookie, ticket and proof. So legs of all kinds meet.
//!
//! - `gate`: who may come in, and the handshakes, which are tasks.
//! - `line`: a stream after that: a WebSocket over TLS over a socket that never blocks, in the hands of one worker.
//! - `port`: the worker's end: whose turn it is to be read, what is to be written, and who has to go. Frames of a turn for
//!   one client leave as one message, in one record of TLS, with one system call.
//! - `inlet`: what crosses between workers: a frame for a slot of another, or for a stream of another. A batch is handed over
//!   with one lock and at most one wake.
//!
//! With one worker a frame meets no other thread on its way, and costs a read and a write.
//!
//! # Bounds
//! - Streams: in all, of one source prefix, and in their handshakes. A stream whose first leg has not joined in time is closed,
//!   as is one without a frame for long.
//! - From a client: a stream is read message by message, in turn with all others and within a budget, so that none starves
//!   another, or UDP; what is not read yet stays in the kernel, and TCP slows its sender down. Two messages of at most 64
//!   frames wait for other workers; then the stream is not read.
//! - To a client: 64 KiB wait. What finds no room is lost, as on any link; a slow reader costs that much and nobody's time.
//!
//! Streams come from listeners of this role, or are handed over by whoever else holds port 443 in the same process: see
//! [`door`].
//!
//! Rejected: a second kind of leg in the core (every rule would exist twice), a task or a thread for each stream (two changes of
//! threads and six system calls for each frame), an unbounded queue, TLS certificates as proof of anything (see
//! [`wire::stream`]).

pub(crate) mod gate;
pub(crate) mod inlet;
mod line;
mod metrics;
pub(crate) mod port;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use domain::StreamEndpoint;
use serde::{Deserialize, Serialize};
use tokio::{net::TcpStream, sync::mpsc};
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::WebSocketStream;
use wire::stream::StreamId;

pub use gate::TlsError;
pub use metrics::{Ended, StreamMetrics};

/// A stream that asked for the relay's path.
pub type Web = WebSocketStream<TlsStream<TcpStream>>;

/// How streams are taken.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct StreamConfig {
    /// Where they are taken over TCP. Empty: nowhere; with all roles in one process the gateway's listener hands them over.
    pub listen: Vec<SocketAddr>,
    /// HOST:PORT where clients reach that, best first. Empty: as bound. A name helps where proxies and firewalls know names.
    pub public: Vec<StreamEndpoint>,
    /// The certificate chain of the listeners. Empty: `tls.crt` among the secrets.
    pub tls_certificate: PathBuf,
    /// The private key of the certificate. Empty: `tls.key` among the secrets.
    pub tls_key: PathBuf,
    /// Streams at once.
    pub connections: usize,
    /// Streams at once from one source prefix (IPv4 /32, IPv6 /56).
    pub connections_per_source: u32,
    /// Streams at once in their handshakes.
    pub unfinished: usize,
    /// How long the handshakes may take, and after that the first join.
    #[serde(with = "domain::human_duration")]
    pub handshake_timeout: Duration,
    /// A stream without a frame of its client for this long is closed.
    #[serde(with = "domain::human_duration")]
    pub idle: Duration,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            public: Vec::new(),
            tls_certificate: PathBuf::new(),
            tls_key: PathBuf::new(),
            connections: 10_000,
            connections_per_source: 1_000,
            unfinished: 500,
            handshake_timeout: Duration::from_secs(10),
            idle: Duration::from_secs(90),
        }
    }
}

/// Takes streams that somebody else in this process accepted.
#[derive(Clone, Debug)]
pub struct StreamDoor {
    streams: mpsc::Sender<Handed>,
    endpoints: Arc<OnceLock<Vec<StreamEndpoint>>>,
}

/// The relay's side of a [`StreamDoor`].
#[derive(Debug)]
pub struct HandedStreams {
    pub(crate) streams: mpsc::Receiver<Handed>,
    endpoints: Arc<OnceLock<Vec<StreamEndpoint>>>,
}

/// A stream and who opened it.
#[derive(Debug)]
pub(crate) struct Handed {
    pub(crate) web: Web,
    pub(crate) from: SocketAddr,
}

/// A way for streams to a relay in the same process.
#[must_use]
pub fn door() -> (StreamDoor, HandedStreams) {
    let (sender, receiver) = mpsc::channel(HANDED);
    let endpoints = Arc::<OnceLock<_>>::default();
    (StreamDoor { streams: sender, endpoints: Arc::clone(&endpoints) }, HandedStreams { streams: receiver, endpoints })
}

impl StreamDoor {
    /// Says where the streams are accepted, before the relay runs.
    pub fn serve_at(&self, endpoints: Vec<StreamEndpoint>) {
        // Said once; whoever says it again changes nothing.
        let _ = self.endpoints.set(endpoints);
    }

    /// Hands a stream over. When too many wait, or the relay has ended, the stream is closed: its client tries again.
    pub fn take(&self, web: Web, from: SocketAddr) {
        if self.streams.try_send(Handed { web, from }).is_err() {
            tracing::debug!("the relay took no stream");
        }
    }
}

impl HandedStreams {
    pub(crate) fn endpoints(&self) -> Vec<StreamEndpoint> {
        self.endpoints.get().cloned().unwrap_or_default()
    }
}

/// Stands for the source prefix of a stream: its budget of joins is that of the prefix.
pub(crate) const fn source_of(stream: StreamId) -> u64 {
    stream.0 >> NUMBER_BITS
}

/// Bits of a stream's name that count; at a thousand a second they last for 34 years. Those above are made of its source.
const NUMBER_BITS: u32 = 40;

/// Where legs over streams come from, as the listeners of datagrams have their numbers.
pub(crate) const DOOR: u8 = u8::MAX;

/// Streams that wait for the relay to take them.
const HANDED: usize = 64;
