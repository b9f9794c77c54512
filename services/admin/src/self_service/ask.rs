//! One request of a person, and its answer.

use std::{net::IpAddr, str::FromStr, sync::Arc};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{Method, StatusCode, header},
    web::{Bytes, Query},
};
use bus::Call;
use contract::account::{AccountRefusal, StartedProvider};
use domain::{AccountId, SessionToken, SourcePrefix, UnixMillis};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{Desk, not_logged_in, refusal};
use crate::error::Problem;

/// How browsers keep a session.
const COOKIE: &str = "buri_session";

/// How a browser that was sent to a provider is known again. It comes back from another site, so this one is lax.
const FLOW: &str = "buri_flow";

/// The longest parameter.
const LONGEST_PARAMETER: usize = 2048;

/// What a change by cookie needs.
const PROOF: &str = "x-buri-request";

/// A request that may be looked at.
pub(crate) struct Ask {
    pub(crate) desk: Arc<Desk>,
    pub(crate) source: SourcePrefix,
    session: Option<SessionToken>,
    request: HttpRequest,
    body: Bytes,
}

impl Ask {
    /// Refuses what could come from another site in a person's browser.
    pub(crate) fn new(desk: Arc<Desk>, request: &HttpRequest, body: Bytes) -> Result<Self, Problem> {
        let (session, by_cookie) = session(request)?;
        let changes = request.method() != Method::GET;
        if by_cookie && changes && request.headers().get(PROOF).is_none() {
            let detail = "a change with the session's cookie needs the header X-Buri-Request: 1";
            return Err(Problem::new(StatusCode::FORBIDDEN, "cross-site", detail));
        }
        if !body.is_empty() && !is_json(request) {
            let detail = "send documents as application/json";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", detail));
        }
        let source = source(request, desk.behind_proxy);
        Ok(Self { desk, source, session, request: request.clone(), body })
    }

    /// The session; whoever has none is told to log in.
    pub(crate) fn session(&self) -> Result<SessionToken, Problem> {
        self.session.ok_or_else(not_logged_in)
    }

    pub(crate) fn session_if_any(&self) -> Option<SessionToken> {
        self.session
    }

    /// What this browser was sent to a provider with.
    pub(crate) fn flow(&self) -> Option<String> {
        cookie(&self.request, FLOW)
    }

    /// A parameter of the query, once. Others are not looked at: providers add some.
    pub(crate) fn parameter(&self, name: &'static str) -> Result<Option<String>, Problem> {
        let Query(pairs) = Query::<Vec<(String, String)>>::from_query(self.request.query_string())
            .map_err(|_| Problem::invalid("the query cannot be read"))?;
        let mut found = pairs.into_iter().filter(|(key, _)| key == name).map(|(_, value)| value);
        let value = found.next();
        if found.next().is_some() || value.as_ref().is_some_and(|value| value.len() > LONGEST_PARAMETER) {
            return Err(Problem::invalid(format!("{name}: given twice, or too long")));
        }
        Ok(value)
    }

    /// The account that is meant; `None`: the person's first.
    pub(crate) fn account(&self) -> Result<Option<AccountId>, Problem> {
        let pairs = self.request.query_string().split('&').filter(|pair| !pair.is_empty());
        let mut account = None;
        for pair in pairs {
            match pair.split_once('=') {
                Some(("account", id)) => {
                    account =
                        Some(id.parse().map_err(|_| Problem::invalid("account: 32 hexadecimal digits expected"))?);
                }
                _ => return Err(Problem::invalid("the query names a parameter that there is not")),
            }
        }
        Ok(account)
    }

    /// A part of the path.
    pub(crate) fn path<T: FromStr>(&self, name: &'static str) -> Result<T, Problem> {
        let text = self.request.match_info().get(name).unwrap_or_default();
        text.parse().map_err(|_| Problem::invalid(format!("{name}: not what is expected there")))
    }

    /// The document that was sent.
    pub(crate) fn document<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        serde_json::from_slice(&self.body).map_err(|error| {
            // The text of the error names fields and kinds, never what was sent, but for enumerations: those hold no secrets.
            Problem::new(StatusCode::BAD_REQUEST, "invalid-body", format!("not the document expected: {error}"))
        })
    }

    /// Asks auth.
    pub(crate) async fn call<C: Call<Refusal = AccountRefusal>>(&self, call: &C) -> Result<C::Reply, Problem> {
        self.desk.bus.call(call).await.map_err(refusal::problem)
    }
}

/// The session that a request shows, and whether by its cookie.
fn session(request: &HttpRequest) -> Result<(Option<SessionToken>, bool), Problem> {
    let read = |text: &str| SessionToken::read(text).map_err(|_| not_logged_in());
    let header = |name: header::HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
    if let Some(sent) = header(header::AUTHORIZATION) {
        let (scheme, token) = sent.split_once(' ').ok_or_else(not_logged_in)?;
        return if scheme.eq_ignore_ascii_case("bearer") {
            Ok((Some(read(token)?), false))
        } else {
            Err(not_logged_in())
        };
    }
    match cookie(request, COOKIE) {
        // A cookie of a session that is over is no session: one may log in again.
        Some(token) => Ok((SessionToken::read(&token).ok(), true)),
        None => Ok((None, false)),
    }
}

fn cookie(request: &HttpRequest, name: &str) -> Option<String> {
    let cookies = request.headers().get(header::COOKIE)?.to_str().ok()?.split(';');
    let mut pairs = cookies.filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(known, _)| *known == name).map(|(_, value)| value.to_owned())
}

fn is_json(request: &HttpRequest) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

/// Whose tries are counted. Of what proxies say only the last is believed: the one next to us wrote it.
fn source(request: &HttpRequest, behind_proxy: bool) -> SourcePrefix {
    let peer = request.peer_addr().map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.ip());
    let told = || {
        let all = request.headers().get_all("x-forwarded-for").last()?.to_str().ok()?;
        all.rsplit(',').next()?.trim().parse().ok()
    };
    SourcePrefix::of(if behind_proxy { told().unwrap_or(peer) } else { peer })
}

/// A successful answer.
pub(crate) enum Reply {
    Document(StatusCode, Value),
    Nothing,
    /// Somebody is logged in, and a browser keeps the session.
    Seated(SessionToken, UnixMillis),
    /// The same, and the browser came from another site.
    Returned(SessionToken, UnixMillis),
    /// The browser goes to a provider.
    Sent(StartedProvider),
    /// Nobody is any more.
    Unseated,
}

impl Reply {
    pub(crate) fn document(value: impl Serialize) -> Result<Self, Problem> {
        Self::with_status(StatusCode::OK, value)
    }

    pub(crate) fn with_status(status: StatusCode, value: impl Serialize) -> Result<Self, Problem> {
        let value = serde_json::to_value(value)
            .map_err(|error| Problem::internal(telemetry::incident::log("encoding an answer", &error)))?;
        Ok(Self::Document(status, value))
    }

    pub(crate) fn respond(self, secure: bool) -> HttpResponse {
        let secure = if secure { "; Secure" } else { "" };
        let cookie = |value: &str, seconds: u64| {
            format!("{COOKIE}={value}; Path=/v1/account; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}")
        };
        match self {
            Self::Document(status, value) => HttpResponse::build(status).json(value),
            Self::Nothing => HttpResponse::NoContent().finish(),
            Self::Seated(session, expires) => HttpResponse::Created()
                .insert_header((header::SET_COOKIE, cookie(&session.reveal(), left(expires))))
                .json(serde_json::json!({ "expires_unix_ms": expires })),
            Self::Returned(session, expires) => HttpResponse::SeeOther()
                .insert_header((header::LOCATION, "/account"))
                .append_header((header::SET_COOKIE, cookie(&session.reveal(), left(expires))))
                .append_header((header::SET_COOKIE, flow("", 0, secure)))
                .finish(),
            Self::Sent(started) => HttpResponse::Created()
                .insert_header((header::SET_COOKIE, flow(&started.state.reveal(), left(started.expires), secure)))
                .json(serde_json::json!({ "url": started.url })),
            Self::Unseated => HttpResponse::NoContent().insert_header((header::SET_COOKIE, cookie("", 0))).finish(),
        }
    }
}

fn flow(value: &str, seconds: u64, secure: &str) -> String {
    format!("{FLOW}={value}; Path=/v1/account/provider; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}")
}

fn left(until: UnixMillis) -> u64 {
    until.since(UnixMillis::from(std::time::SystemTime::now())).as_secs()
}

/// The answer to what is refused.
pub(crate) fn refused(problem: &Problem) -> HttpResponse {
    problem.respond(&format!("{:016x}", crate::random_number()))
}
