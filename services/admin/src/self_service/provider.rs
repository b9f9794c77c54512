//! Logging in through a provider: a browser is sent there, and comes back with a code.

use actix_web::http::{Method, StatusCode};
use contract::account::{FinishProvider, StartProvider};

use super::{
    Adding,
    ask::{Ask, Reply},
    person::token,
};
use crate::error::Problem;

pub(crate) fn routes(adding: &mut Adding<'_>) {
    adding.on(Method::POST, "/v1/account/provider", start);
    adding.on(Method::GET, "/v1/account/provider/callback", finish);
}

/// Whoever is logged in connects the provider to its person.
async fn start(ask: Ask) -> Result<Reply, Problem> {
    let started = ask.call(&StartProvider { session: ask.session_if_any(), source: ask.source }).await?;
    Ok(Reply::Sent(started))
}

/// Only the browser that began may end it: another site could otherwise log somebody in as its own visitor.
async fn finish(ask: Ask) -> Result<Reply, Problem> {
    let state = ask.parameter("state")?.unwrap_or_default();
    let code = ask.parameter("code")?.unwrap_or_default();
    if ask.flow().is_none_or(|flow| flow != state) {
        return Err(Problem::new(StatusCode::FORBIDDEN, "token-invalid", "the log-in was not begun in this browser"));
    }
    let opened = ask.call(&FinishProvider { state: token(&state)?, code, source: ask.source }).await?;
    Ok(Reply::Returned(opened.session, opened.expires))
}
