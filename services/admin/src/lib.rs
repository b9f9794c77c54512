//! The role that serves the HTTP API for operators. Never on a public listener.
//!
//! # How it is made
//! An operation is declared once (method, path, scope, parameters, documents, whether it needs a precondition). From that
//! follow the route, who may use it, the OpenAPI document (`openapi.json`, compared in a test and served at
//! `/v1/openapi.json`), the audit log, and what may be repeated. A handler sees only requests that were let in,
//! and asks the role that owns the data over the bus. To add one: a function and its declaration in a file of `routes`, the
//! document written anew (`BURI_WRITE_OPENAPI=1 cargo nextest run -p admin openapi`), and its row in the tests' table of scopes.
//!
//! What this role alone owns (tokens, the audit log, answers that are given again) it keeps in the store itself: nobody else
//! needs it, so a hop over the bus would only add a way to fail.
//!
//! # Rules
//! - **Scopes.** A token has scopes ([`domain::ApiScope`]), a name and an end; only its digest is kept. It makes tokens with no
//!   more than it has. The root token is a file, has every scope and does not end: it is for the first operator, and for the
//!   day when all others are lost.
//! - **Audit.** Every change is written down before it is made and after it, in a chain of digests, and so is every export of an
//!   account. No secret is: no document that is taken here holds one.
//! - **Repeats.** Every POST takes `Idempotency-Key`; kept answers are sealed under the token that asked.
//! - **Races.** Objects with an `ETag` are changed by compare-and-swap in the transaction of whoever owns them: of any number
//!   of writers that have seen the same version one wins, the others get 412.
//! - **Pages.** No list is ever read whole; cursors are opaque.
//! - **Blocks.** How many sessions come from a prefix is asked of every gateway, which answer with a number: whose they are is not
//!   asked. Whom a block would touch is told before it is made, and bounded when it is.
//! - **Overview.** What processes tell of themselves on the bus is kept here in memory, for an hour. Every process hears it all.
//! - **Events.** What happens is numbered in one log that all processes read; a stream is told from there and keeps nothing for its
//!   reader. What a transaction did is never missing, what was only told on the bus (who is online, how a pair is connected)
//!   may be. The log has 100,000 events of 7 days, of ids only.
//! - **Webhooks.** Programs that are told what happens, in order, signed, at least once, from the same log by one process at a time:
//!   see `webhooks`. Their secrets are in no log or audit entry, and in no table or answer but the one that makes it and its
//!   kept, sealed repetition.
//! - **Console.** `/console/` serves the page for operators from what is compiled in. It is a client of this API like any other:
//!   it has no rights of its own, and needs a token for everything but itself.
//! - **Self-service.** People have a listener of their own with a page of its own (`self_service`), made of the same parts.
//! - **Limits.** So many requests a minute for every token, at each process; bodies up to 64 KiB.
//! - **Secrets** of users (password records, sealed secrets, keys) never get here: the calls of the bus do not carry them.
//!   Addresses of users are not shown.
//!
//! Every answer that is no success is a problem document (RFC 9457) with a stable `code`. Any number of processes serve side
//! by side.

mod asked;
mod audit;
mod auth;
mod blast;
mod console;
mod counting;
mod error;
mod events;
mod figures;
pub mod metrics;
mod openapi;
mod operation;
mod page;
mod parameter;
mod precondition;
mod repeat;
mod routes;
mod schema;
pub mod self_service;
mod serve;
mod site;
mod throttle;
pub mod token;
mod webhooks;

use std::{
    hash::{BuildHasher as _, RandomState},
    io,
    net::{SocketAddr, TcpListener},
    num::NonZeroU32,
    path::PathBuf,
    sync::Arc,
    time::SystemTime,
};

use actix_web::web;
use bus::Bus;
use domain::{InstanceId, UnixMillis};
use serde::{Deserialize, Serialize};
use store::{Events, Operations, Webhooks};
use telemetry::ops::Ops;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use events::EventsConfig;
pub use metrics::Metrics;
pub use routes::{Declared, declared};
pub use self_service::SelfService;
pub use webhooks::{KeyError, WebhooksConfig};

/// How this role behaves.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the API listens. Not for the public: put a proxy of your own in front.
    pub listen: SocketAddr,
    /// The file with the operator's bearer token. Empty: `operator.token` among the secrets.
    pub token_file: PathBuf,
    /// Requests a minute that one token may make at one process.
    pub requests_per_minute: NonZeroU32,
    /// What happens, for programs.
    pub events: EventsConfig,
    /// Programs that are told what happens.
    pub webhooks: WebhooksConfig,
    /// Where people reach their accounts.
    pub self_service: SelfService,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 12980)),
            token_file: PathBuf::new(),
            requests_per_minute: const { NonZeroU32::new(600).unwrap() },
            events: EventsConfig::default(),
            webhooks: WebhooksConfig::default(),
            self_service: SelfService::default(),
        }
    }
}

/// What this role needs of the rest.
#[derive(Clone)]
pub struct Seams {
    pub bus: Bus,
    pub operations: Arc<dyn Operations>,
    pub events: Arc<dyn Events>,
    pub webhooks: Arc<dyn Webhooks>,
    /// This process.
    pub instance: InstanceId,
    pub metrics: Arc<Metrics>,
    /// Health, readiness and metrics, which this listener serves, too.
    pub ops: Ops,
}

impl std::fmt::Debug for Seams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seams").finish_non_exhaustive()
    }
}

/// Why the role cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen at {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("the operator's token cannot be read")]
    Token(#[from] token::TokenError),
    #[error("no key for webhooks")]
    Webhooks(#[from] webhooks::KeyError),
    #[error("TLS cannot be used")]
    Tls(#[from] rustls::Error),
    #[error("the bus refuses")]
    Bus(#[from] bus::Error),
    #[error("the server failed")]
    Serve(#[source] io::Error),
}

/// A listener that is not served yet.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    root: token::Digest,
    requests_per_minute: NonZeroU32,
    events: EventsConfig,
    webhooks: (WebhooksConfig, webhooks::SecretKey, outbound::Fetcher),
}

/// Takes the port and reads the secrets.
///
/// # Errors
/// [`Error`].
pub fn bind(config: &Config) -> Result<Bound, Error> {
    let root = token::read(&config.token_file)?;
    let listener =
        TcpListener::bind(config.listen).map_err(|source| Error::Listen { address: config.listen, source })?;
    let (requests_per_minute, events) = (config.requests_per_minute, config.events.clone());
    let key = webhooks::SecretKey::read(&config.webhooks.key)?;
    let webhooks = (config.webhooks.clone(), key, outbound::Fetcher::new()?);
    Ok(Bound { listener, root, requests_per_minute, events, webhooks })
}

impl Bound {
    /// Where the API listens.
    ///
    /// # Errors
    /// When the listener is of no use.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown`, and finishes the changes that were begun.
    ///
    /// # Errors
    /// [`Error::Serve`], or [`Error::Bus`] when the bus refuses the subscriptions.
    pub async fn run(self, seams: Seams, shutdown: CancellationToken) -> Result<(), Error> {
        let figures = Arc::new(figures::Figures::default());
        let watch = Arc::new(events::relays::Watch::default());
        let heard = figures::listen(&seams.bus, &figures, &watch).await?;
        let (events_heard, waiting) = events::record::listen(&seams.bus).await?;
        let counting = Arc::new(counting::Counting::default());
        let answers = counting::listen(&seams.bus, &counting).await?;
        let tasks = TaskTracker::new();
        let (head, followed) = tokio::sync::watch::channel(0);
        let poll = self.events.poll;
        let recorder =
            events::record::Recorder { store: Arc::clone(&seams.events), instance: seams.instance, watch, head, poll };
        tasks.spawn(recorder.run(waiting, shutdown.clone()));
        let (config, key, fetcher) = self.webhooks;
        let deliverer = Arc::new(webhooks::deliver::Deliverer {
            config,
            store: Arc::clone(&seams.webhooks),
            key,
            fetcher,
            metrics: Arc::clone(&seams.metrics),
        });
        tasks.spawn(Arc::clone(&deliverer).run(followed.clone(), shutdown.clone()));
        let streams = events::stream::Streams {
            config: self.events,
            store: seams.events,
            head: followed,
            ends: shutdown.clone(),
            tasks: tasks.clone(),
            open: Arc::default(),
        };
        let state = Arc::new(State {
            bus: seams.bus,
            operations: seams.operations,
            metrics: seams.metrics,
            root: self.root,
            throttle: throttle::Throttle::new(self.requests_per_minute),
            blast: blast::Blast::default(),
            tasks: tasks.clone(),
            figures: Arc::clone(&figures),
            streams,
            webhooks: seams.webhooks,
            deliverer,
            counting,
        });
        let ops = seams.ops;
        let configure = move |config: &mut web::ServiceConfig| {
            ops.routes(config);
            console::configure(config);
            routes::configure(config, &state);
        };
        let served = tokio::select! {
            served = telemetry::ops::serve_app(self.listener, configure, shutdown) => served.map_err(Error::Serve),
            never = figures.keep() => match never {},
        };
        for heard in heard.into_iter().chain([events_heard, answers]) {
            heard.stop().await;
        }
        tasks.close();
        tasks.wait().await;
        served
    }
}

/// What every request sees.
struct State {
    bus: Bus,
    operations: Arc<dyn Operations>,
    metrics: Arc<Metrics>,
    root: token::Digest,
    throttle: throttle::Throttle,
    blast: blast::Blast,
    /// Changes that are being made.
    tasks: TaskTracker,
    figures: Arc<figures::Figures>,
    streams: events::stream::Streams,
    webhooks: Arc<dyn Webhooks>,
    deliverer: Arc<webhooks::deliver::Deliverer>,
    counting: Arc<counting::Counting>,
}

/// The wall clock, for expiries and for people.
fn now() -> UnixMillis {
    SystemTime::now().into()
}

/// A number unlike others. A fresh hasher is seeded from the system's random numbers.
fn random_number() -> u64 {
    RandomState::new().hash_one(0)
}
