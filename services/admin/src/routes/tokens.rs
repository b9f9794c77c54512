//! `/v1/tokens`: who may use this API. A token is shown once, when it is made.

use std::time::Duration;

use actix_web::http::{Method, StatusCode};
use domain::{ApiScope, ApiScopes, TokenId, UnixMillis};
use serde::{Deserialize, Serialize};
use store::{MakeTokenError, NewToken};
use utoipa::ToSchema;

use crate::{
    asked::Asked,
    error::Problem,
    operation::{Answer, Done, Operation},
    page::{self, Page},
    schema::Id,
    token,
};

/// The longest that a token lives.
const MAX_LIFETIME: Duration = Duration::from_secs(366 * 24 * 3600);

/// The longest name, in bytes.
const MAX_NAME: usize = 100;

/// What may be shown of a token.
#[derive(Serialize, ToSchema)]
struct Token {
    #[schema(value_type = Id)]
    token: TokenId,
    name: String,
    #[schema(value_type = Vec<String>)]
    scopes: Vec<&'static str>,
    /// The token that made it, or `root`.
    maker: String,
    #[schema(value_type = u64)]
    made_ms: UnixMillis,
    #[schema(value_type = u64)]
    expires_ms: UnixMillis,
    /// To about a minute.
    #[schema(value_type = Option<u64>)]
    used_ms: Option<UnixMillis>,
    #[schema(value_type = Option<u64>)]
    revoked_ms: Option<UnixMillis>,
}

/// A token that was made.
#[derive(Serialize, ToSchema)]
struct Made {
    /// What to send as `Authorization: Bearer`. It is not shown again.
    secret: String,
    #[serde(flatten)]
    token: Token,
}

/// A token to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// For people.
    #[schema(min_length = 1, max_length = 100)]
    name: String,
    /// What it may do: no more than the token that makes it.
    #[schema(value_type = Vec<String>, min_items = 1)]
    scopes: Vec<String>,
    /// How long it lives, in seconds.
    #[schema(minimum = 60, maximum = 31_622_400)]
    lifetime_s: u64,
}

impl From<store::Token> for Token {
    fn from(token: store::Token) -> Self {
        Self {
            token: token.id,
            name: token.name,
            scopes: token.scopes.iter().map(ApiScope::name).collect(),
            maker: token.maker,
            made_ms: token.made,
            expires_ms: token.expires,
            used_ms: token.used,
            revoked_ms: token.revoked,
        }
    }
}

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(Method::GET, "/v1/tokens", "tokens_list", ApiScope::Tokens, list)
            .summary("Lists tokens, those that are of no use any more included.")
            .query(page::PARAMETERS)
            .gives::<Page<Token>>(StatusCode::OK),
        Operation::new(Method::POST, "/v1/tokens", "tokens_create", ApiScope::Tokens, create)
            .summary("Makes a token, and shows it once.")
            .takes::<Wanted>()
            .gives::<Made>(StatusCode::CREATED)
            .refuses(StatusCode::FORBIDDEN, "It would have a scope that its maker lacks.")
            .refuses(StatusCode::CONFLICT, "There are as many tokens as there may be."),
        Operation::new(Method::GET, "/v1/tokens/{token}", "tokens_show", ApiScope::Tokens, show)
            .summary("Shows a token.")
            .gives::<Token>(StatusCode::OK)
            .refuses(StatusCode::NOT_FOUND, "There is no such token."),
        Operation::new(Method::DELETE, "/v1/tokens/{token}", "tokens_revoke", ApiScope::Tokens, revoke)
            .summary("Revokes a token, at once and for good.")
            .gives::<Token>(StatusCode::OK)
            .refuses(StatusCode::FORBIDDEN, "It has a scope that who asks lacks.")
            .refuses(StatusCode::NOT_FOUND, "There is no such token."),
    ]
}

async fn list(asked: Asked) -> Answer {
    let (limit, after) = asked.page("tokens")?;
    let found = asked.state.operations.tokens(after, limit + 1).await.map_err(|error| Problem::of_store(&error))?;
    let more = found.len() > usize::from(limit);
    let items: Vec<Token> = found.into_iter().take(usize::from(limit)).map(Token::from).collect();
    Done::document(Page::new("tokens", items, more, |token| token.token))
}

async fn show(asked: Asked) -> Answer {
    Done::document(Token::from(existing(&asked).await?))
}

async fn create(asked: Asked) -> Answer {
    let wanted: Wanted = asked.body()?;
    let scopes = wanted.scopes.iter().map(|scope| scope.parse()).collect::<Result<ApiScopes, _>>();
    let scopes = scopes.map_err(|error| Problem::invalid_body(format!("scopes: {error}")))?;
    let name = wanted.name.trim();
    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(Problem::invalid_body(format!("name: 1 to {MAX_NAME} bytes without control characters expected")));
    }
    if scopes.is_empty() {
        return Err(Problem::invalid_body("scopes: at least one expected"));
    }
    if !(60..=MAX_LIFETIME.as_secs()).contains(&wanted.lifetime_s) {
        return Err(Problem::invalid_body(format!("lifetime_s: 60 to {} expected", MAX_LIFETIME.as_secs())));
    }
    covered(&asked, scopes)?;
    let drawn =
        token::draw().map_err(|error| Problem::internal(telemetry::incident::log("drawing a token", &error)))?;
    let new = NewToken {
        id: drawn.id,
        digest: drawn.digest,
        name: name.to_owned(),
        scopes,
        maker: asked.bearer.who.clone(),
        expires: asked.at.plus(Duration::from_secs(wanted.lifetime_s)),
    };
    let made = asked.state.operations.make_token(new, asked.at).await.map_err(|error| match error {
        MakeTokenError::LimitReached { limit } => {
            Problem::conflict("limit-reached", format!("there are {limit} tokens already: revoke some"))
        }
        MakeTokenError::Store(error) => Problem::of_store(&error),
    })?;
    let shown = Token::from(made.clone());
    Ok(Done::document(Made { secret: drawn.text, token: Token::from(made) })?.changed((), shown))
}

async fn revoke(asked: Asked) -> Answer {
    let before = existing(&asked).await?;
    covered(&asked, before.scopes)?;
    let revoked = asked.state.operations.revoke_token(before.id, asked.at).await;
    let after = revoked.map_err(|error| Problem::of_store(&error))?.ok_or_else(unknown)?;
    let after = Token::from(after);
    Ok(Done::document(&after)?.changed(Token::from(before), &after))
}

async fn existing(asked: &Asked) -> Result<store::Token, Problem> {
    let id = asked.path("token")?;
    asked.state.operations.token(id).await.map_err(|error| Problem::of_store(&error))?.ok_or_else(unknown)
}

/// A token neither gives nor takes what it does not have.
fn covered(asked: &Asked, scopes: ApiScopes) -> Result<(), Problem> {
    if asked.bearer.scopes.covers(scopes) {
        return Ok(());
    }
    let detail = "the token that asks lacks a scope of the other one";
    Err(Problem::new(StatusCode::FORBIDDEN, "scope-not-covered", detail))
}

fn unknown() -> Problem {
    Problem::not_found("there is no such token")
}
