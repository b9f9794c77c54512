//! `/account`, a page for people, and `/v1/account/...` behind it: what they do with their own accounts, on a listener of its own.
//!
//! Nothing of the operators' API is here, and no operator's token is worth anything here. Whoever asks shows a session: as a
//! bearer, or as a cookie that scripts cannot read and other sites cannot send. A change by cookie needs a header that a form of
//! another site cannot set (`X-Buri-Request`), and documents are taken as `application/json` only, for the same reason; a change
//! of which the browser itself says that another site made it is refused before it is looked at (`guard`). What may be done is
//! decided by auth, which owns the accounts; this listener keeps nothing.
//!
//! Every answer that is no success is a problem document (RFC 9457) with a stable `code`. Answers are never cached.

mod account;
mod ask;
mod guard;
mod machines;
mod networks;
pub(crate) mod page;
mod person;
mod provider;
pub(crate) mod refusal;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{Method, StatusCode, header},
    web::{self, Bytes, ServiceConfig},
};
use bus::Bus;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{Error, error::Problem};
use ask::{Ask, Reply};

/// The longest document that is taken.
const LONGEST_BODY: usize = 16 * 1024;
/// Long lists that are put together at a time, each of which asks other roles many times.
const LISTS: usize = 4;

/// How people reach their accounts.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct SelfService {
    /// Where it listens. For the public only behind a proxy of your own that speaks TLS.
    pub listen: SocketAddr,
    /// Such a proxy is in front: cookies go over TLS only, and the last address in X-Forwarded-For is whose tries are counted.
    pub behind_proxy: bool,
}

impl Default for SelfService {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 12982)), behind_proxy: false }
    }
}

/// A listener that is not served yet.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    behind_proxy: bool,
}

/// Takes the port.
///
/// # Errors
/// [`Error::Listen`].
pub fn bind(config: &SelfService) -> Result<Bound, Error> {
    let listener =
        TcpListener::bind(config.listen).map_err(|source| Error::Listen { address: config.listen, source })?;
    Ok(Bound { listener, behind_proxy: config.behind_proxy })
}

impl Bound {
    /// Where it listens.
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
    pub async fn run(self, bus: Bus, shutdown: CancellationToken) -> Result<(), Error> {
        let desk = Arc::new(Desk::new(bus, self.behind_proxy));
        let routes = move |config: &mut ServiceConfig| configure(config, &desk);
        telemetry::ops::serve_app(self.listener, routes, shutdown).await.map_err(Error::Serve)
    }
}

/// What every request sees.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) bus: Bus,
    pub(crate) behind_proxy: bool,
    lists: Semaphore,
}

impl Desk {
    pub(crate) fn new(bus: Bus, behind_proxy: bool) -> Self {
        Self { bus, behind_proxy, lists: Semaphore::new(LISTS) }
    }
}

/// Adds every route.
fn configure(config: &mut ServiceConfig, desk: &Arc<Desk>) {
    config.app_data(web::PayloadConfig::new(LONGEST_BODY));
    routes(&mut Adding { onto: Some((&mut *config, desk)), declared: Vec::new() });
    page::configure(config);
    config.default_service(web::to(async || respond(Err(Problem::not_found("there is no such resource")))));
}

fn routes(adding: &mut Adding<'_>) {
    person::routes(adding);
    provider::routes(adding);
    account::routes(adding);
    networks::routes(adding);
    machines::routes(adding);
}

/// Method and path of everything that people can ask for, for tests and tools that go through all of it.
#[must_use]
pub fn declared() -> Vec<(String, String)> {
    let mut adding = Adding { onto: None, declared: Vec::new() };
    routes(&mut adding);
    adding.declared
}

/// Routes being added.
pub(crate) struct Adding<'a> {
    /// `None`: they are only counted.
    onto: Option<(&'a mut ServiceConfig, &'a Arc<Desk>)>,
    declared: Vec<(String, String)>,
}

impl Adding<'_> {
    /// Serves `method` of `path`. What is another method's is answered as unknown.
    pub(crate) fn on<F, Fut>(&mut self, method: Method, path: &str, handle: F)
    where
        F: Fn(Ask) -> Fut + Clone + 'static,
        Fut: Future<Output = Result<Reply, Problem>> + 'static,
    {
        self.declared.push((method.to_string(), path.to_owned()));
        let Some((config, desk)) = &mut self.onto else { return };
        let desk = Arc::clone(desk);
        let serve = move |request: HttpRequest, body: Result<Bytes, actix_web::Error>| {
            let (desk, handle) = (Arc::clone(&desk), handle.clone());
            async move {
                let secure = desk.behind_proxy;
                match body.map_err(|_| too_large()).and_then(|body| Ask::new(desk, &request, body)) {
                    Ok(ask) => respond(handle(ask).await.map(|reply| reply.respond(secure))),
                    Err(problem) => respond(Err(problem)),
                }
            }
        };
        config.route(path, web::method(method).to(serve));
    }
}

fn respond(outcome: Result<HttpResponse, Problem>) -> HttpResponse {
    let mut response = outcome.unwrap_or_else(|problem| ask::refused(&problem));
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    headers.insert(header::CROSS_ORIGIN_RESOURCE_POLICY, header::HeaderValue::from_static("same-origin"));
    headers.insert(header::REFERRER_POLICY, header::HeaderValue::from_static("no-referrer"));
    response
}

fn too_large() -> Problem {
    let detail = format!("a document has at most {LONGEST_BODY} bytes");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "content-too-large", detail)
}

/// A problem of somebody who asks without a session.
pub(crate) fn not_logged_in() -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "not-logged-in", "log in first: POST /v1/account/sessions")
}
