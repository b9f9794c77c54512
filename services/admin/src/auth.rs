//! Who may ask: bearers of the operator's token.

use actix_web::{HttpRequest, http::header};

use crate::{State, error::Problem, metrics::Outcome};

/// Lets the request pass if it bears the token.
pub(crate) fn check(request: &HttpRequest, state: &State) -> Result<(), Problem> {
    let bearer = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    if bearer.is_some_and(|token| state.token.matches(token)) {
        return Ok(());
    }
    state.metrics.request(Outcome::Unauthorized);
    Err(Problem::unauthorized())
}
