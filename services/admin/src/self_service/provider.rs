//! Logging in through a provider: a browser is sent there, and comes back with a code.

use actix_web::http::{Method, StatusCode};
use contract::account::{FinishProvider, OfferedProvider, StartProvider};

use super::{
    Adding,
    ask::{Ask, Reply},
    person::token,
};
use crate::error::Problem;

pub(crate) fn routes(adding: &mut Adding<'_>) {
    adding.on(Method::GET, "/v1/account/provider", offered);
    adding.on(Method::POST, "/v1/account/provider", start);
    adding.on(Method::GET, "/v1/account/provider/callback", finish);
}

/// Whether there is one, and how people know it.
async fn offered(ask: Ask) -> Result<Reply, Problem> {
    let issuer = ask.call(&OfferedProvider).await?.issuer;
    let name = issuer.as_deref().map(|issuer| {
        let host = issuer.split_once("://").map_or(issuer, |(_, rest)| rest);
        host.split('/').next().unwrap_or(host).to_owned()
    });
    Reply::document(serde_json::json!({ "issuer": issuer, "name": name }))
}

/// Whoever is logged in connects the provider to its person.
async fn start(ask: Ask) -> Result<Reply, Problem> {
    let started = ask.call(&StartProvider { session: ask.session_if_any(), source: ask.source }).await?;
    Ok(Reply::Sent(started))
}

/// A person in front of a browser is told on the page what went wrong, a program by the problem itself.
async fn finish(ask: Ask) -> Result<Reply, Problem> {
    let for_people = ask.takes_pages();
    finished(ask).await.or_else(|problem| if for_people { Ok(Reply::TurnedAway(problem.code())) } else { Err(problem) })
}

/// Only the browser that began may end it: another site could otherwise log somebody in as its own visitor.
async fn finished(ask: Ask) -> Result<Reply, Problem> {
    if ask.parameter("error")?.is_some() {
        let detail = "the provider logged nobody in";
        return Err(Problem::new(StatusCode::FORBIDDEN, "not-vouched-for", detail));
    }
    let state = ask.parameter("state")?.unwrap_or_default();
    let code = ask.parameter("code")?.unwrap_or_default();
    if ask.flow().is_none_or(|flow| flow != state) {
        return Err(Problem::new(StatusCode::FORBIDDEN, "token-invalid", "the log-in was not begun in this browser"));
    }
    let opened = ask.call(&FinishProvider { state: token(&state)?, code, source: ask.source }).await?;
    Ok(Reply::Returned(opened.session, opened.expires))
}
