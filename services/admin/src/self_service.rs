//! `/v1/account/...`: what people do with their own accounts, on a listener of its own.
//!
//! Nothing of the operators' API is here, and no operator's token is worth anything here. Whoever asks shows a session: as a
//! bearer, or as a cookie that scripts cannot read and other sites cannot send. A change by cookie needs a header that a form of
//! another site cannot set (`X-Buri-Request`), and documents are taken as `application/json` only, for the same reason. What
//! may be done is decided by auth, which owns the accounts; this listener keeps nothing.
//!
//! Every answer that is no success is a problem document (RFC 9457) with a stable `code`. Answers are never cached.

mod account;
mod ask;
mod networks;
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
use tokio_util::sync::CancellationToken;

use crate::{Error, error::Problem};
use ask::{Ask, Reply};

/// The longest document that is taken.
const LONGEST_BODY: usize = 16 * 1024;

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
        let desk = Arc::new(Desk { bus, behind_proxy: self.behind_proxy });
        let routes = move |config: &mut ServiceConfig| configure(config, &desk);
        telemetry::ops::serve_app(self.listener, routes, shutdown).await.map_err(Error::Serve)
    }
}

/// What every request sees.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) bus: Bus,
    pub(crate) behind_proxy: bool,
}

/// Adds every route.
fn configure(config: &mut ServiceConfig, desk: &Arc<Desk>) {
    config.app_data(web::PayloadConfig::new(LONGEST_BODY));
    let mut desks = Adding { config, desk };
    person::routes(&mut desks);
    provider::routes(&mut desks);
    account::routes(&mut desks);
    networks::routes(&mut desks);
    let Adding { config, .. } = desks;
    config.default_service(web::to(async || respond(Err(Problem::not_found("there is no such resource")))));
}

/// Routes being added.
pub(crate) struct Adding<'a> {
    config: &'a mut ServiceConfig,
    desk: &'a Arc<Desk>,
}

impl Adding<'_> {
    /// Serves `method` of `path`. What is another method's is answered as unknown.
    pub(crate) fn on<F, Fut>(&mut self, method: Method, path: &str, handle: F)
    where
        F: Fn(Ask) -> Fut + Clone + 'static,
        Fut: Future<Output = Result<Reply, Problem>> + 'static,
    {
        let desk = Arc::clone(self.desk);
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
        self.config.route(path, web::method(method).to(serve));
    }
}

fn respond(outcome: Result<HttpResponse, Problem>) -> HttpResponse {
    let mut response = outcome.unwrap_or_else(|problem| ask::refused(&problem));
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
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
