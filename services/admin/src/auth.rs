//! Who may ask: bearers of the root token, which is in a file, and of the tokens that were made with the API.
//!
//! A token is looked up at every request, so that a revoked one is of no use from then on.

use actix_web::{HttpRequest, http::header};
use domain::{ApiScopes, UnixMillis};

use crate::{State, error::Problem, token};

/// How the audit log calls the bearer of the root token.
pub(crate) const ROOT: &str = "root";

/// Whoever sent a valid token.
pub(crate) struct Bearer {
    /// [`ROOT`], or the id of the token.
    pub(crate) who: String,
    pub(crate) scopes: ApiScopes,
    /// What was sent. Answers that are kept are sealed under it.
    secret: String,
}

impl Bearer {
    pub(crate) fn secret(&self) -> &str {
        &self.secret
    }
}

impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bearer").field("who", &self.who).finish_non_exhaustive()
    }
}

/// Whether a token that was let in a while ago would be let in now.
pub(crate) async fn still_counts(state: &State, bearer: &Bearer) -> bool {
    if bearer.who == ROOT {
        return true;
    }
    let Ok(id) = bearer.who.parse() else { return false };
    match state.operations.token(id).await {
        Ok(Some(token)) => token.revoked.is_none() && token.expires > crate::now(),
        Ok(None) => false,
        // A store that is away says nothing about the token.
        Err(_) => true,
    }
}

/// Finds out who asks.
pub(crate) async fn bearer(request: &HttpRequest, state: &State, at: UnixMillis) -> Result<Bearer, Problem> {
    let sent = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    let Some(sent) = sent else { return Err(Problem::unauthorized()) };
    if state.root.matches(sent) {
        return Ok(Bearer { who: ROOT.to_owned(), scopes: ApiScopes::all(), secret: sent.to_owned() });
    }
    let Some(digest) = token::digest_of(sent) else { return Err(Problem::unauthorized()) };
    let found = state.operations.bearer(digest, at).await.map_err(|error| Problem::of_store(&error))?;
    let token = found.ok_or_else(Problem::unauthorized)?;
    Ok(Bearer { who: token.id.to_string(), scopes: token.scopes, secret: sent.to_owned() })
}
