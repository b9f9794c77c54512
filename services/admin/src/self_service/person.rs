//! Signing up, logging in and out, passwords.

use actix_web::http::{Method, StatusCode};
use contract::account::{
    AskReset, ChangePassword, LogOut, PersonLogIn, PersonLoggedIn, Reset, SignUp, Verify, Where, WhoAmI,
};
use domain::{EmailAddress, OneTimeToken, Passphrase};
use serde::Deserialize;

use super::{
    Adding,
    ask::{Ask, Reply},
};
use crate::error::Problem;

pub(crate) fn routes(adding: &mut Adding<'_>) {
    adding.on(Method::POST, "/v1/account/sign-up", sign_up);
    adding.on(Method::POST, "/v1/account/verify", verify);
    adding.on(Method::POST, "/v1/account/sessions", log_in);
    adding.on(Method::DELETE, "/v1/account/sessions/current", log_out_here);
    adding.on(Method::DELETE, "/v1/account/sessions", log_out_everywhere);
    adding.on(Method::GET, "/v1/account/me", who_am_i);
    adding.on(Method::PUT, "/v1/account/password", change_password);
    adding.on(Method::POST, "/v1/account/password/reset", ask_reset);
    adding.on(Method::PUT, "/v1/account/password/reset", reset);
}

/// Who somebody is, and how the session is kept.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Credentials {
    email: EmailAddress,
    password: String,
    #[serde(default)]
    session: Keep,
}

/// Who keeps a session.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Keep {
    #[default]
    Cookie,
    Bearer,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mailed {
    token: String,
    password: String,
    #[serde(default)]
    session: Keep,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Address {
    email: EmailAddress,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Passwords {
    old: String,
    new: String,
}

async fn sign_up(ask: Ask) -> Result<Reply, Problem> {
    let new: Credentials = ask.document()?;
    ask.call(&SignUp { email: new.email, password: chosen(&new.password)?, source: ask.source }).await?;
    Reply::with_status(StatusCode::ACCEPTED, serde_json::json!({ "next": "follow the link in the mail" }))
}

async fn verify(ask: Ask) -> Result<Reply, Problem> {
    let mailed: Mailed = ask.document()?;
    let call = Verify { token: token(&mailed.token)?, password: typed(&mailed.password)?, source: ask.source };
    seated(ask.call(&call).await?, mailed.session)
}

async fn log_in(ask: Ask) -> Result<Reply, Problem> {
    let who: Credentials = ask.document()?;
    let call = PersonLogIn { email: who.email, password: typed(&who.password)?, source: ask.source };
    seated(ask.call(&call).await?, who.session)
}

async fn log_out_here(ask: Ask) -> Result<Reply, Problem> {
    ask.call(&LogOut { session: ask.session()?, whence: Where::Here }).await?;
    Ok(Reply::Unseated)
}

async fn log_out_everywhere(ask: Ask) -> Result<Reply, Problem> {
    ask.call(&LogOut { session: ask.session()?, whence: Where::Everywhere }).await?;
    Ok(Reply::Unseated)
}

async fn who_am_i(ask: Ask) -> Result<Reply, Problem> {
    Reply::document(ask.call(&WhoAmI { session: ask.session()? }).await?)
}

async fn change_password(ask: Ask) -> Result<Reply, Problem> {
    let passwords: Passwords = ask.document()?;
    let (old, new) = (typed(&passwords.old)?, chosen(&passwords.new)?);
    ask.call(&ChangePassword { session: ask.session()?, old, new, source: ask.source }).await?;
    Ok(Reply::Nothing)
}

async fn ask_reset(ask: Ask) -> Result<Reply, Problem> {
    let Address { email } = ask.document()?;
    ask.call(&AskReset { email, source: ask.source }).await?;
    Reply::with_status(StatusCode::ACCEPTED, serde_json::json!({ "next": "follow the link in the mail" }))
}

async fn reset(ask: Ask) -> Result<Reply, Problem> {
    let mailed: Mailed = ask.document()?;
    let call = Reset { token: token(&mailed.token)?, password: chosen(&mailed.password)?, source: ask.source };
    ask.call(&call).await?;
    Ok(Reply::Nothing)
}

fn seated(opened: PersonLoggedIn, keep: Keep) -> Result<Reply, Problem> {
    match keep {
        Keep::Cookie => Ok(Reply::Seated(opened.session, opened.expires)),
        Keep::Bearer => Reply::with_status(
            StatusCode::CREATED,
            serde_json::json!({ "session": opened.session.reveal(), "expires_unix_ms": opened.expires }),
        ),
    }
}

/// A password to be kept: what is wrong with it is said.
fn chosen(text: &str) -> Result<Passphrase, Problem> {
    Passphrase::new(text).map_err(|error| Problem::new(StatusCode::BAD_REQUEST, "password-invalid", error.to_string()))
}

/// A password to be checked: what nobody can have chosen is nobody's.
pub(crate) fn typed(text: &str) -> Result<Passphrase, Problem> {
    Passphrase::new(text)
        .map_err(|_| Problem::new(StatusCode::FORBIDDEN, "denied", "no such person, or the password is wrong"))
}

pub(crate) fn token(text: &str) -> Result<OneTimeToken, Problem> {
    let detail = "the token is used up, expired, or for somebody else";
    OneTimeToken::read(text).map_err(|_| Problem::new(StatusCode::FORBIDDEN, "token-invalid", detail))
}
