//! One request of a person, and its answer.

use std::{net::IpAddr, str::FromStr, sync::Arc, time::Duration};

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
use tokio::{sync::SemaphorePermit, time::timeout};

use super::{Desk, guard, not_logged_in, refusal};
use crate::error::Problem;

/// How browsers keep a session.
const COOKIE: &str = "buri_session";

/// How a browser that was sent to a provider is known again. It comes back from another site, so this one is lax.
const FLOW: &str = "buri_flow";

/// Before the name of a cookie that goes over TLS: browsers take it then from this host only, not from others of its domain.
const OWN: &str = "__Host-";

/// The longest parameter.
const LONGEST_PARAMETER: usize = 2048;

/// How long a list waits for its turn.
const PATIENCE: Duration = Duration::from_secs(1);

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
        let (session, by_cookie) = session(request, desk.behind_proxy)?;
        let changes = request.method() != Method::GET;
        if changes && guard::is_foreign(request, desk.behind_proxy) {
            let detail = "another site made the browser ask for a change";
            return Err(Problem::new(StatusCode::FORBIDDEN, "cross-site", detail));
        }
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
        cookie(&self.request, FLOW, self.desk.behind_proxy)
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
        Ok(self.ids(["account"])?[0].map(AccountId::from_bytes))
    }

    /// The ids that the query gives to these names, and to no others.
    pub(crate) fn ids<const N: usize>(&self, names: [&str; N]) -> Result<[Option<[u8; 16]>; N], Problem> {
        let mut ids = [None; N];
        for pair in self.request.query_string().split('&').filter(|pair| !pair.is_empty()) {
            let (name, text) = pair.split_once('=').unwrap_or((pair, ""));
            let nth = names.iter().position(|known| *known == name);
            let nth = nth.ok_or_else(|| Problem::invalid("the query names a parameter that there is not"))?;
            let id: AccountId = text
                .parse()
                .map_err(|_| Problem::invalid(format!("{}: 32 hexadecimal digits expected", names[nth])))?;
            ids[nth] = Some(*id.as_bytes());
        }
        Ok(ids)
    }

    /// Whether a person looks at the answer.
    pub(crate) fn takes_pages(&self) -> bool {
        let accepts = self.request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
        accepts.is_some_and(|kinds| kinds.contains("text/html"))
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

    /// Waits for the turn of a long list, so that a person who asks for many does not keep all roles busy.
    pub(crate) async fn turn(&self) -> Result<SemaphorePermit<'_>, Problem> {
        let turn = timeout(PATIENCE, self.desk.lists.acquire()).await;
        turn.ok().and_then(Result::ok).ok_or_else(|| refusal::of(AccountRefusal::Busy { retry_after_ms: 1_000 }))
    }

    /// Asks auth.
    pub(crate) async fn call<C: Call<Refusal = AccountRefusal>>(&self, call: &C) -> Result<C::Reply, Problem> {
        self.desk.bus.call(call).await.map_err(refusal::problem)
    }
}

/// The session that a request shows, and whether by its cookie.
fn session(request: &HttpRequest, secure: bool) -> Result<(Option<SessionToken>, bool), Problem> {
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
    match cookie(request, COOKIE, secure) {
        // A cookie of a session that is over is no session: one may log in again.
        Some(token) => Ok((SessionToken::read(&token).ok(), true)),
        None => Ok((None, false)),
    }
}

fn cookie(request: &HttpRequest, name: &str, secure: bool) -> Option<String> {
    let name = if secure { format!("{OWN}{name}") } else { name.to_owned() };
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
    /// The browser came from another site in vain: the code of the problem goes to the page.
    TurnedAway(&'static str),
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
        let cookie = |value: &str, seconds| set(COOKIE, value, "/v1/account", seconds, "Strict", secure);
        let flow = |value: &str, seconds| set(FLOW, value, "/v1/account/provider", seconds, "Lax", secure);
        match self {
            Self::Document(status, value) => HttpResponse::build(status).json(value),
            Self::Nothing => HttpResponse::NoContent().finish(),
            Self::Seated(session, expires) => HttpResponse::Created()
                .insert_header((header::SET_COOKIE, cookie(&session.reveal(), left(expires))))
                .json(serde_json::json!({ "expires_unix_ms": expires })),
            Self::Returned(session, expires) => HttpResponse::SeeOther()
                .insert_header((header::LOCATION, "/account"))
                .append_header((header::SET_COOKIE, cookie(&session.reveal(), left(expires))))
                .append_header((header::SET_COOKIE, flow("", 0)))
                .finish(),
            Self::TurnedAway(code) => HttpResponse::SeeOther()
                .insert_header((header::LOCATION, format!("/account#refused={code}")))
                .append_header((header::SET_COOKIE, flow("", 0)))
                .finish(),
            Self::Sent(started) => HttpResponse::Created()
                .insert_header((header::SET_COOKIE, flow(&started.state.reveal(), left(started.expires))))
                .json(serde_json::json!({ "url": started.url })),
            Self::Unseated => HttpResponse::NoContent().insert_header((header::SET_COOKIE, cookie("", 0))).finish(),
        }
    }
}

/// A cookie to be set. Over TLS it is bound to the host, which needs the path of all of it.
fn set(name: &str, value: &str, path: &str, seconds: u64, site: &str, secure: bool) -> String {
    let (prefix, path, flag) = if secure { (OWN, "/", "; Secure") } else { ("", path, "") };
    format!("{prefix}{name}={value}; Path={path}; Max-Age={seconds}; HttpOnly; SameSite={site}{flag}")
}

fn left(until: UnixMillis) -> u64 {
    until.since(UnixMillis::from(std::time::SystemTime::now())).as_secs()
}

/// The answer to what is refused.
pub(crate) fn refused(problem: &Problem) -> HttpResponse {
    problem.respond(&format!("{:016x}", crate::random_number()))
}

#[cfg(test)]
mod tests {
    use bus::{Bus, memory::Hub};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn of_long_lists_only_some_are_put_together_at_a_time() {
        let desk = Arc::new(Desk::new(Bus::memory(&Hub::default(), "self-service"), false));
        let request = actix_web::test::TestRequest::default().to_http_request();
        let ask = Ask::new(desk, &request, Bytes::new()).unwrap();
        let mut turns = Vec::new();
        for _ in 0..4 {
            turns.push(ask.turn().await.unwrap());
        }
        let refused = ask.turn().await.unwrap_err();
        assert_eq!((refused.status(), refused.code()), (StatusCode::SERVICE_UNAVAILABLE, "busy"));
        turns.pop();
        assert!(ask.turn().await.is_ok());
    }

    #[test]
    fn behind_a_proxy_with_tls_cookies_belong_to_the_host_alone() {
        let seated =
            || Reply::Seated(SessionToken::from_bytes([7; 32]), UnixMillis::from(std::time::SystemTime::now()));
        let cookie = |secure| {
            let response = seated().respond(secure);
            response.headers().get(header::SET_COOKIE).unwrap().to_str().unwrap().to_owned()
        };
        let token = "07".repeat(32);
        assert_eq!(
            cookie(true),
            format!("__Host-buri_session={token}; Path=/; Max-Age=0; HttpOnly; SameSite=Strict; Secure")
        );
        assert_eq!(
            cookie(false),
            format!("buri_session={token}; Path=/v1/account; Max-Age=0; HttpOnly; SameSite=Strict")
        );
        let request = actix_web::test::TestRequest::default()
            .insert_header((header::COOKIE, "buri_session=a; __Host-buri_session=b"))
            .to_http_request();
        let found = [true, false].map(|secure| super::cookie(&request, COOKIE, secure).unwrap());
        assert_eq!(found, ["b", "a"]);
    }
}
