//! Requests that may be repeated: the header `Idempotency-Key` of every POST.
//!
//! The first request with a key is carried out; another one with the same key, path and document gets the same answer. The
//! answer is kept for a day, sealed under a key that is derived from the token: the database alone does not open it, so that
//! even an answer that holds a new token can be given again.
//!
//! A request whose process died may have been carried out or not. It is not carried out again: the audit log tells.

use actix_web::{
    HttpRequest,
    http::{StatusCode, header::HeaderName},
};
use domain::UnixMillis;
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey},
    digest::{Context, SHA256},
    hkdf::{HKDF_SHA256, Salt},
    rand::{SecureRandom as _, SystemRandom},
};
use serde::{Deserialize, Serialize};
use store::{Claim, RepeatableRequest};

use crate::{State, auth::Bearer, error::Problem};

/// The header.
pub(crate) const KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The longest key, in characters.
pub(crate) const LONGEST: usize = 200;

/// No answer takes longer.
const SOON_MS: u64 = 30_000;

/// An answer as it is given again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) etag: Option<String>,
    pub(crate) text: String,
}

/// What to do with a request that has a key.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Carry it out, and keep the answer.
    First,
    /// Give this answer.
    Again(Kept),
}

/// The key of a request, if it has one.
pub(crate) fn key_of(request: &HttpRequest) -> Result<Option<String>, Problem> {
    let mut values = request.headers().get_all(KEY);
    let Some(value) = values.next() else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    let visible = text.bytes().all(|byte| (0x21..=0x7e).contains(&byte));
    if values.next().is_some() || text.is_empty() || text.len() > LONGEST || !visible {
        let detail = format!("Idempotency-Key: one, of 1 to {LONGEST} visible ASCII characters");
        return Err(Problem::new(StatusCode::BAD_REQUEST, "invalid-header", detail));
    }
    Ok(Some(text.to_owned()))
}

/// Claims a request.
pub(crate) async fn claim(
    state: &State,
    bearer: &Bearer,
    key: &str,
    digest: [u8; 32],
    at: UnixMillis,
) -> Result<Turn, Problem> {
    let request = RepeatableRequest { who: bearer.who.clone(), key: key.to_owned(), digest };
    match state.operations.claim(request, at).await.map_err(|error| Problem::of_store(&error))? {
        Claim::Fresh => Ok(Turn::First),
        Claim::Answered { answer, .. } => open(bearer, key, answer).map(Turn::Again).ok_or_else(|| {
            Problem::conflict("idempotency-unreadable", "the answer was kept for a token of another text")
        }),
        Claim::Other => Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency-mismatch",
            "this Idempotency-Key was used for another request",
        )),
        Claim::Unanswered { since } if at.0.saturating_sub(since.0) < SOON_MS => {
            let detail = "the same request is being carried out";
            Err(Problem::conflict("idempotency-running", detail).retry_after(1))
        }
        Claim::Unanswered { .. } => Err(Problem::conflict(
            "idempotency-unfinished",
            "the same request was begun and never answered: look into the audit log, then use another key",
        )),
    }
}

/// Keeps an answer, or, when nothing was decided, lets the request be made again.
pub(crate) async fn keep(state: &State, bearer: &Bearer, key: &str, kept: &Kept) {
    let undecided = StatusCode::from_u16(kept.status).is_ok_and(|status| status.is_server_error());
    let result = match seal(bearer, key, kept).filter(|_| !undecided) {
        Some(sealed) => state.operations.answered(&bearer.who, key, kept.status, sealed).await,
        None => state.operations.unclaim(&bearer.who, key).await,
    };
    if let Err(error) = result {
        tracing::warn!(error = telemetry::incident::chain(&error), "an answer cannot be given again");
    }
}

/// Of everything that makes two requests the same.
pub(crate) fn digest(method: &str, path: &str, query: &str, body: &[u8]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in [method.as_bytes(), path.as_bytes(), query.as_bytes(), body] {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

fn sealing_key(bearer: &Bearer) -> Option<LessSafeKey> {
    let root = Salt::new(HKDF_SHA256, b"buri admin answers v1").extract(bearer.secret().as_bytes());
    let info = [bearer.who.as_bytes()];
    let key: UnboundKey = root.expand(&info, &CHACHA20_POLY1305).ok()?.into();
    Some(LessSafeKey::new(key))
}

fn seal(bearer: &Bearer, key: &str, kept: &Kept) -> Option<Vec<u8>> {
    let mut nonce = [0; 12];
    SystemRandom::new().fill(&mut nonce).ok()?;
    let mut sealed = serde_json::to_vec(kept).ok()?;
    let aad = Aad::from(key.as_bytes());
    sealing_key(bearer)?.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed).ok()?;
    Some([&nonce[..], &sealed].concat())
}

fn open(bearer: &Bearer, key: &str, sealed: Vec<u8>) -> Option<Kept> {
    let (nonce, mut sealed) = sealed.split_first_chunk::<12>().map(|(nonce, rest)| (*nonce, rest.to_vec()))?;
    let aad = Aad::from(key.as_bytes());
    let text = sealing_key(bearer)?.open_in_place(Nonce::assume_unique_for_key(nonce), aad, &mut sealed).ok()?;
    serde_json::from_slice(text).ok()
}
