//! The role that holds the control connections of clients.
//!
//! - `connection` (pure): who is on the other side, and what it may say when. Nothing touches bus, presence or database before
//!   the client's signature over this very connection is checked.
//! - `acceptor`: takes connections, plain or as a WebSocket over TLS, within limits that cost nothing to check.
//! - `session`: one task a connection; passes requests on as calls and answers back.
//! - `hub`: which sessions this process holds, and the way to each.
//! - `push`: what other roles have told to clients.
//! - `relays`: which relays a client is to measure.
//! - `work`: the work that a client does first where auth asks for it, checked before anybody is asked anything.
//! - `blocks`: whose tokens do not count, because an operator holds something against them.
//! - `keep`: renews the seats of all sessions in presence, and learns reflectors and token keys.
//!
//! A gateway decides nothing about networks or paths. It holds no state that its death takes from anybody: clients come back
//! to another one, with a token that spares everybody work.

mod acceptor;
mod belonging;
mod blocks;
mod connection;
mod figures;
mod hub;
mod keep;
pub mod metrics;
mod pipe;
mod push;
mod relays;
mod requests;
mod rotation;
mod session;
mod silence;
mod trips;
mod work;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    num::NonZeroU32,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bus::Bus;
use domain::InstanceId;
use presence::Presence;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde::{Deserialize, Serialize};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use wire::{secure::ServerSecret, server_url::ServerKey};

pub use metrics::Metrics;
pub use pipe::Web;

/// How this role behaves.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the plain transport listens.
    pub listen: Vec<SocketAddr>,
    /// Where WebSockets over TLS are taken: control connections, and streams for a relay that runs in the same process.
    pub listen_web: Vec<SocketAddr>,
    /// The file of the server's private key, which clients pin. Empty: `server.key` among the secrets.
    pub server_key: PathBuf,
    /// The certificate chain of the TLS listener. Empty: `tls.crt` among the secrets.
    pub tls_certificate: PathBuf,
    /// The private key of the certificate. Empty: `tls.key` among the secrets.
    pub tls_key: PathBuf,
    /// Between two signs of life of a client; two missing ones end its session.
    #[serde(with = "domain::human_duration")]
    pub keepalive: Duration,
    /// How long a session is present without being renewed by this process.
    #[serde(with = "domain::human_duration")]
    pub presence_ttl: Duration,
    /// How long TLS and the handshake of the secure channel may take.
    #[serde(with = "domain::human_duration")]
    pub handshake_timeout: Duration,
    /// How long the login may take after that.
    #[serde(with = "domain::human_duration")]
    pub login_timeout: Duration,
    /// Connections at once.
    pub connections: usize,
    /// Connections at once that are not logged in yet.
    pub unfinished: usize,
    /// Connections at once from one source prefix (IPv4 /32, IPv6 /56).
    pub connections_per_source: u32,
    /// New connections a second.
    pub accepts: NonZeroU32,
    /// Requests of one client in ten seconds.
    pub requests: u32,
    /// When this process ends, its clients are told to come back at this rate, in clients a second.
    pub reconnects: NonZeroU32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 12975))],
            listen_web: vec![SocketAddr::from(([127, 0, 0, 1], 443))],
            server_key: PathBuf::new(),
            tls_certificate: PathBuf::new(),
            tls_key: PathBuf::new(),
            keepalive: Duration::from_secs(60),
            presence_ttl: Duration::from_secs(60),
            handshake_timeout: Duration::from_secs(10),
            login_timeout: Duration::from_secs(30),
            connections: 100_000,
            unfinished: 1_000,
            connections_per_source: 1_000,
            accepts: const { NonZeroU32::new(2_000).unwrap() },
            requests: 200,
            reconnects: const { NonZeroU32::new(1_000).unwrap() },
        }
    }
}

/// What this role needs of the rest.
#[derive(Clone, Debug)]
pub struct Seams {
    pub bus: Bus,
    pub presence: Presence,
    /// This process on the bus: what is pushed to its clients is addressed to it.
    pub instance: InstanceId,
    pub metrics: Arc<Metrics>,
    /// Takes the streams for the relay that runs in this process, if one does.
    pub relay_streams: Option<RelayStreams>,
}

/// Takes WebSockets that ask for the path of a relay; at once, or not at all.
#[derive(Clone)]
pub struct RelayStreams(Arc<dyn Fn(Web, SocketAddr) + Send + Sync>);

impl RelayStreams {
    /// Gives them to `take`, with the address of their client.
    pub fn new(take: impl Fn(Web, SocketAddr) + Send + Sync + 'static) -> Self {
        Self(Arc::new(take))
    }

    fn take(&self, web: Web, from: SocketAddr) {
        (self.0)(web, from);
    }
}

impl std::fmt::Debug for RelayStreams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RelayStreams(..)")
    }
}

/// Why the role cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen at {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("{path} is no key of 32 bytes")]
    Key { path: PathBuf },
    #[error("the TLS certificate or its key cannot be used")]
    Certificate(#[source] rustls_pki_types::pem::Error),
    #[error("the TLS certificate and its key do not fit")]
    Tls(#[from] rustls::Error),
    #[error("a listener failed")]
    Listener(#[source] io::Error),
    #[error("the bus refuses")]
    Bus(#[from] bus::Error),
}

/// The role with its ports open.
pub struct Bound {
    config: Config,
    plain: Vec<TcpListener>,
    web: Vec<TcpListener>,
    secret: ServerSecret,
    tls: TlsAcceptor,
}

impl std::fmt::Debug for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bound").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Opens the ports and reads the secrets.
///
/// # Errors
/// [`Error`].
pub fn bind(config: Config) -> Result<Bound, Error> {
    let key = std::fs::read(&config.server_key).ok().and_then(|bytes| bytes.try_into().ok());
    let secret = ServerSecret::from_bytes(key.ok_or_else(|| Error::Key { path: config.server_key.clone() })?);
    let tls = tls(&config.tls_certificate, &config.tls_key)?;
    let listen = |addresses: &[SocketAddr]| -> Result<Vec<TcpListener>, Error> {
        let one = |&address: &SocketAddr| {
            let listener = TcpListener::bind(address).and_then(|listener| {
                listener.set_nonblocking(true)?;
                Ok(listener)
            });
            listener.map_err(|source| Error::Listen { address, source })
        };
        addresses.iter().map(one).collect()
    };
    Ok(Bound { plain: listen(&config.listen)?, web: listen(&config.listen_web)?, config, secret, tls })
}

fn tls(certificate: &Path, key: &Path) -> Result<TlsAcceptor, Error> {
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(Error::Certificate)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(Error::Certificate)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    // An idle session keeps no ticket: the secure channel inside is made anew each time.
    config.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

impl Bound {
    /// Where the plain transport listens.
    #[must_use]
    pub fn plain(&self) -> Vec<SocketAddr> {
        self.plain.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Where WebSockets are taken.
    #[must_use]
    pub fn web(&self) -> Vec<SocketAddr> {
        self.web.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// What clients know the server by.
    #[must_use]
    pub fn key(&self) -> ServerKey {
        self.secret.public()
    }

    /// Serves until `shutdown`, then tells every client when to come back.
    ///
    /// # Errors
    /// [`Error`] when the bus refuses or a listener fails.
    pub async fn run(self, seams: Seams, shutdown: CancellationToken) -> Result<(), Error> {
        let hub = Arc::new(hub::Hub::new(self.config, seams, self.secret));
        let pushes = push::serve(&hub).await?;
        let mut hints = keep::serve(&hub).await?;
        hints.push(rotation::serve(&hub).await?);
        hints.extend(blocks::serve(&hub).await?);
        let sessions = tokio_util::task::TaskTracker::new();
        let accepting = acceptor::run(&hub, self.plain, self.web, self.tls, &sessions, &shutdown);
        let beside = async {
            tokio::join!(keep::run(&hub, &shutdown), figures::tell(&hub, &shutdown), blocks::run(&hub, &shutdown))
        };
        let (accepted, _) = tokio::join!(accepting, beside);
        sessions.close();
        sessions.wait().await;
        for served in pushes.into_iter().chain(hints) {
            served.stop().await;
        }
        accepted.map_err(Error::Listener)
    }
}
