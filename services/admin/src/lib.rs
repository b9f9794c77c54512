//! The role that serves the HTTP API for operators. Never on a public listener.
//!
//! Everything it shows it asks of the other roles over the bus: it has no state, so any number of processes serve side by
//! side. Every answer that is no success is a problem document (RFC 9457) with a stable `code`.

mod auth;
mod error;
pub mod metrics;
mod page;
mod routes;
pub mod token;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
};

use actix_web::web::{self, Data};
use bus::Bus;
use serde::{Deserialize, Serialize};
use telemetry::ops::Ops;
use tokio_util::sync::CancellationToken;

pub use metrics::Metrics;

/// How this role behaves.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the API listens. Not for the public: put a proxy of your own in front.
    pub listen: SocketAddr,
    /// The file with the operator's bearer token. Empty: `operator.token` among the secrets.
    pub token_file: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 12980)), token_file: PathBuf::new() }
    }
}

/// What this role needs of the rest.
#[derive(Clone, Debug)]
pub struct Seams {
    pub bus: Bus,
    pub metrics: Arc<Metrics>,
    /// Health, readiness and metrics, which this listener serves, too.
    pub ops: Ops,
}

/// Why the role cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen at {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("the operator's token cannot be read")]
    Token(#[from] token::TokenError),
    #[error("the server failed")]
    Serve(#[source] io::Error),
}

/// A listener that is not served yet.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    token: token::Digest,
}

/// Takes the port and reads the token.
///
/// # Errors
/// [`Error`].
pub fn bind(config: &Config) -> Result<Bound, Error> {
    let token = token::read(&config.token_file)?;
    let listener =
        TcpListener::bind(config.listen).map_err(|source| Error::Listen { address: config.listen, source })?;
    Ok(Bound { listener, token })
}

impl Bound {
    /// Where the API listens.
    ///
    /// # Errors
    /// When the listener is of no use.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown`.
    ///
    /// # Errors
    /// [`Error::Serve`].
    pub async fn run(self, seams: Seams, shutdown: CancellationToken) -> Result<(), Error> {
        let state = Data::new(State { bus: seams.bus, metrics: seams.metrics, token: self.token });
        let ops = seams.ops;
        let configure = move |config: &mut web::ServiceConfig| {
            ops.routes(config);
            routes::configure(config, &state);
        };
        telemetry::ops::serve_app(self.listener, configure, shutdown).await.map_err(Error::Serve)
    }
}

/// What every request sees.
#[derive(Debug)]
struct State {
    bus: Bus,
    metrics: Arc<Metrics>,
    token: token::Digest,
}
