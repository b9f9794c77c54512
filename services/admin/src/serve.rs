//! How a request is served: every operation goes through here, in this order.
//!
//! Who asks (401), how often (429), whether it may (403), what it says (400, 413, 415), what it has seen (428); a repeated
//! request gets its old answer. A change is written to the audit log before it is made, with what is asked for, and again
//! after it, with what became of it; so is a look at what says much of people. A change runs in a task of its own: a client that
//! goes away does not stop it half-way.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc};

use actix_web::{
    FromRequest as _, HttpRequest, HttpResponse,
    http::{StatusCode, header},
    web::{Bytes, BytesMut, Path, Payload, Query},
};
use domain::UnixMillis;
use futures_util::{StreamExt as _, stream};
use serde_json::Value;

use crate::{
    State,
    asked::Asked,
    audit,
    auth::{self, Bearer},
    error::Problem,
    metrics::Outcome,
    now,
    operation::{Condition, Content, Done, Gives, Lines, Operation},
    parameter::Parameter,
    precondition::Precondition,
    repeat::{self, Kept, Turn},
    throttle::Allowance,
};

/// The longest body.
pub(crate) const LONGEST_BODY: usize = 64 * 1024;

/// The header with the number that logs and the audit log know a request by.
const REQUEST_ID: header::HeaderName = header::HeaderName::from_static("x-request-id");

/// The header with the event that a reader of a stream saw last.
const LAST_EVENT_ID: header::HeaderName = header::HeaderName::from_static("last-event-id");

/// Serves one request for `operation`.
pub(crate) async fn serve(
    operation: Arc<Operation>,
    state: Arc<State>,
    request: HttpRequest,
    payload: Payload,
) -> HttpResponse {
    let request_id = request_id(&request);
    let (mut response, allowance) = match admit(&operation, &state, &request).await {
        Ok((bearer, allowance, at)) => {
            let answered = handle(&operation, &state, &request, payload, bearer, &request_id, at).await;
            (answered.unwrap_or_else(|problem| problem.respond(&request_id)), Some(allowance))
        }
        Err((problem, allowance)) => (problem.respond(&request_id), allowance),
    };
    state.metrics.request(Outcome::of(response.status()));
    decorate(&mut response, &request_id, allowance);
    response
}

/// An answer for what is no operation.
pub(crate) fn stray(request: &HttpRequest, problem: &Problem) -> HttpResponse {
    let request_id = request_id(request);
    let mut response = problem.respond(&request_id);
    decorate(&mut response, &request_id, None);
    response
}

/// The one that was sent, if it is harmless, or else a new one.
fn request_id(request: &HttpRequest) -> String {
    let harmless = |text: &&str| {
        (1..=64).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
    };
    let sent = request.headers().get(&REQUEST_ID).and_then(|value| value.to_str().ok()).filter(harmless);
    sent.map_or_else(|| format!("{:016x}", crate::random_number()), str::to_owned)
}

fn decorate(response: &mut HttpResponse, request_id: &str, allowance: Option<Allowance>) {
    let headers = response.headers_mut();
    let mut insert = |name, text: String| {
        if let Ok(value) = header::HeaderValue::try_from(text) {
            headers.insert(name, value);
        }
    };
    insert(REQUEST_ID, request_id.to_owned());
    insert(header::CACHE_CONTROL, "no-store".to_owned());
    insert(header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned());
    if let Some(Allowance { limit, remaining, reset_s, .. }) = allowance {
        insert(header::HeaderName::from_static("ratelimit-limit"), limit.to_string());
        insert(header::HeaderName::from_static("ratelimit-remaining"), remaining.to_string());
        insert(header::HeaderName::from_static("ratelimit-reset"), reset_s.to_string());
    }
}

type Admitted = (Arc<Bearer>, Allowance, UnixMillis);

/// Lets a request pass whose token is valid, has requests left and may do this.
async fn admit(
    operation: &Operation,
    state: &State,
    request: &HttpRequest,
) -> Result<Admitted, (Problem, Option<Allowance>)> {
    let at = now();
    let bearer = auth::bearer(request, state, at).await.map_err(|problem| (problem, None))?;
    let allowance = state.throttle.take(at, &bearer.who);
    if !allowance.allowed {
        let detail = format!("{} requests a minute are allowed", allowance.limit);
        let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate-limited", detail);
        return Err((problem.retry_after(allowance.reset_s.max(1)), Some(allowance)));
    }
    if let Some(scope) = operation.scope.filter(|scope| !bearer.scopes.has(*scope)) {
        let problem = Problem::new(StatusCode::FORBIDDEN, "forbidden", format!("the token lacks the scope {scope}"));
        return Err((problem, Some(allowance)));
    }
    Ok((Arc::new(bearer), allowance, at))
}

async fn handle(
    operation: &Arc<Operation>,
    state: &Arc<State>,
    request: &HttpRequest,
    payload: Payload,
    bearer: Arc<Bearer>,
    request_id: &str,
    at: UnixMillis,
) -> Result<HttpResponse, Problem> {
    let path = path_of(operation, request)?;
    let query = query_of(operation, request)?;
    let sent = body_of(operation, request, payload).await?;
    let body = document_of(operation, &sent)?;
    let precondition = precondition_of(operation, request)?;
    let last_event = last_event_of(operation, request)?;
    let asked = Asked { state: Arc::clone(state), bearer, at, path, query, body, precondition, last_event };
    if !operation.changes() {
        let answer = if operation.audited {
            audit::around(operation, asked, request.path().to_owned(), request_id).await
        } else {
            operation.act(asked).await
        };
        return Ok(success(operation, answer?));
    }
    let key = repeat::key_of(request)?.filter(|_| operation.method == actix_web::http::Method::POST);
    if let Some(key) = &key {
        let digest = repeat::digest(operation.method.as_str(), request.path(), request.query_string(), &sent);
        if let Turn::Again(kept) = repeat::claim(state, &asked.bearer, key, digest, at).await? {
            return Ok(again(kept));
        }
    }
    let change = Change {
        operation: Arc::clone(operation),
        asked,
        object: request.path().to_owned(),
        key,
        request_id: request_id.to_owned(),
    };
    let kept = state.tasks.spawn(change.make()).await;
    kept.map(again).map_err(|_| Problem::unavailable())
}

/// A change that is to be made.
struct Change {
    operation: Arc<Operation>,
    asked: Asked,
    object: String,
    key: Option<String>,
    request_id: String,
}

impl Change {
    /// Makes it, tells the audit log, and keeps the answer.
    async fn make(self) -> Kept {
        let Self { operation, asked, object, key, request_id } = self;
        let (state, bearer) = (Arc::clone(&asked.state), Arc::clone(&asked.bearer));
        let answer = if asked.is_dry_run() {
            operation.act(asked).await
        } else {
            audit::around(&operation, asked, object, &request_id).await
        };
        let kept = match answer {
            Ok(done) => kept(&operation, done),
            Err(problem) => Kept {
                status: problem.status().as_u16(),
                content_type: "application/problem+json".to_owned(),
                etag: None,
                text: problem.text(&request_id),
            },
        };
        if let Some(key) = &key {
            repeat::keep(&state, &bearer, key, &kept).await;
        }
        kept
    }
}

/// The answer to a change, in the form in which it is kept.
fn kept(operation: &Operation, done: Done) -> Kept {
    let text = match done.content {
        Content::Document(value) => value.to_string(),
        Content::Lines(_) | Content::Events(_) | Content::Nothing => String::new(),
    };
    let status = if text.is_empty() { StatusCode::NO_CONTENT } else { operation.success };
    Kept { status: status.as_u16(), content_type: "application/json".to_owned(), etag: done.etag, text }
}

fn again(kept: Kept) -> HttpResponse {
    let status = StatusCode::from_u16(kept.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = HttpResponse::build(status);
    if let Some(etag) = kept.etag {
        response.insert_header((header::ETAG, etag));
    }
    if kept.status == StatusCode::SERVICE_UNAVAILABLE.as_u16() {
        response.insert_header((header::RETRY_AFTER, "5"));
    }
    if kept.text.is_empty() {
        return response.finish();
    }
    response.content_type(kept.content_type).body(kept.text)
}

fn success(operation: &Operation, done: Done) -> HttpResponse {
    let mut response = HttpResponse::build(operation.success);
    if let Some(etag) = done.etag {
        response.insert_header((header::ETAG, etag));
    }
    match done.content {
        Content::Document(value) => response.json(value),
        Content::Nothing => response.finish(),
        Content::Events(told) => {
            response.content_type("text/event-stream").insert_header(("X-Accel-Buffering", "no"));
            response.streaming(told.map(Ok::<_, Infallible>))
        }
        Content::Lines(first) => {
            let pages = stream::unfold(Some(first), |next| async move {
                let Lines { text, more } = next?.await;
                Some((Ok::<_, Infallible>(Bytes::from(text)), more))
            });
            response.content_type("application/x-ndjson").streaming(pages)
        }
    }
}

fn path_of(operation: &Operation, request: &HttpRequest) -> Result<BTreeMap<String, String>, Problem> {
    if operation.path_parameters().next().is_none() {
        return Ok(BTreeMap::new());
    }
    let decoded = Path::<Vec<String>>::extract(request).into_inner();
    let parts = decoded.map_err(|_| Problem::invalid("the path is no valid text"))?.into_inner();
    let path: BTreeMap<String, String> = operation.path_parameters().map(str::to_owned).zip(parts).collect();
    for name in operation.path_parameters() {
        let text = path.get(name).map_or("", String::as_str);
        Parameter::of_path(name).check(text).map_err(Problem::invalid)?;
    }
    Ok(path)
}

fn query_of(operation: &Operation, request: &HttpRequest) -> Result<BTreeMap<String, String>, Problem> {
    let Query(pairs) = Query::<Vec<(String, String)>>::from_query(request.query_string())
        .map_err(|error| Problem::invalid(format!("the query: {error}")))?;
    let mut query = BTreeMap::new();
    for (name, value) in pairs {
        let known = operation.parameters.iter().find(|parameter| parameter.name == name);
        let parameter = known.ok_or_else(|| Problem::invalid("the query names a parameter that there is not"))?;
        parameter.check(&value).map_err(Problem::invalid)?;
        if query.insert(name, value).is_some() {
            return Err(Problem::invalid(format!("{}: given twice", parameter.name)));
        }
    }
    Ok(query)
}

/// The body as it was sent, within its bounds and of the type that is taken.
async fn body_of(operation: &Operation, request: &HttpRequest, mut payload: Payload) -> Result<Bytes, Problem> {
    let mut body = BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|_| Problem::invalid_body("the body broke off"))?;
        if body.len() + chunk.len() > LONGEST_BODY {
            let detail = format!("a body has at most {LONGEST_BODY} bytes");
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "content-too-large", detail));
        }
        body.extend_from_slice(&chunk);
    }
    if operation.body.is_none() {
        return if body.is_empty() { Ok(Bytes::new()) } else { Err(Problem::invalid_body("no body is taken here")) };
    }
    let media_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = media_type.split(';').next().unwrap_or("").trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        let detail = "send the body with Content-Type: application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", detail));
    }
    Ok(body.freeze())
}

fn document_of(operation: &Operation, sent: &Bytes) -> Result<Value, Problem> {
    let Some(body) = &operation.body else { return Ok(Value::Null) };
    let document = serde_json::from_slice(sent).map_err(|error| Problem::invalid_body(error.to_string()))?;
    (body.check)(&document).map_err(Problem::invalid_body)?;
    Ok(document)
}

/// The number of the event that a reader saw last; without one it is the reader's first question.
fn last_event_of(operation: &Operation, request: &HttpRequest) -> Result<Option<u64>, Problem> {
    if !matches!(operation.gives, Gives::Events(_)) {
        return Ok(None);
    }
    let mut values = request.headers().get_all(LAST_EVENT_ID);
    let Some(value) = values.next() else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse::<u64>().ok()).filter(|number| number >> 63 == 0);
    match (number, values.next()) {
        (Some(number), None) => Ok(Some(number)),
        _ => Err(Problem::new(StatusCode::BAD_REQUEST, "invalid-header", "Last-Event-ID: the number of an event")),
    }
}

fn precondition_of(operation: &Operation, request: &HttpRequest) -> Result<Precondition, Problem> {
    if operation.condition != Condition::Required {
        return Ok(Precondition::Absent);
    }
    let precondition = Precondition::of(request)?;
    if precondition == Precondition::Absent {
        let detail = "send If-Match with the ETag that you have seen, or * for any";
        return Err(Problem::new(StatusCode::PRECONDITION_REQUIRED, "precondition-required", detail));
    }
    Ok(precondition)
}
