//! `/v1/webhooks`: programs that are told what happens. A secret is shown once, when it is made.

use actix_web::http::{Method, StatusCode};
use domain::{AccountId, ApiScope, NetworkId, UnixMillis, WebhookId};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};
use store::{ChangeWebhookError, MakeWebhookError, WebhookState, WebhookTerms};
use tokio::time::Instant;
use utoipa::ToSchema;

use super::deliveries::Tested;
use crate::{
    asked::Asked,
    error::Problem,
    events::filter,
    operation::{Answer, Done, Operation},
    page::{self, Page},
    precondition,
    schema::Id,
    token::TokenError,
    webhooks,
};

/// The longest name, in bytes.
const MAX_NAME: usize = 100;
/// Words that say which kinds are wanted, and networks or accounts.
const MAX_LIST: usize = 64;

/// What may be shown of a webhook.
#[derive(Clone, Serialize, ToSchema)]
struct Webhook {
    #[schema(value_type = Id)]
    webhook: WebhookId,
    name: String,
    url: String,
    /// Which kinds of events it is told; empty: all.
    kinds: Vec<&'static str>,
    /// Only what is about these networks or accounts; both empty: everything.
    #[schema(value_type = Vec<Id>)]
    networks: Vec<NetworkId>,
    #[schema(value_type = Vec<Id>)]
    accounts: Vec<AccountId>,
    /// `active`, `paused` by an operator, or `failing`: it took nothing for too long, and is told nothing until it is changed or
    /// something is sent again.
    state: &'static str,
    #[schema(value_type = u64)]
    made_ms: UnixMillis,
    /// Events that it took, that were given up, and that were forgotten before it was their turn.
    delivered: u64,
    dead: u64,
    missed: u64,
    /// Since when it takes nothing.
    #[schema(value_type = Option<u64>)]
    failing_since_ms: Option<UnixMillis>,
    /// When it is tried again.
    #[schema(value_type = Option<u64>)]
    next_ms: Option<UnixMillis>,
    #[schema(value_type = Option<u64>)]
    tried_ms: Option<UnixMillis>,
    /// Until when the secret before the newest one counts, too.
    #[schema(value_type = Option<u64>)]
    old_secret_until_ms: Option<UnixMillis>,
}

/// A webhook with its new secret.
#[derive(Serialize, ToSchema)]
struct Revealed {
    /// What signatures are made with: its text after `whsec_` is base64. It is not shown again.
    secret: String,
    #[serde(flatten)]
    webhook: Webhook,
}

/// A webhook to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewWebhook {
    /// For people.
    #[schema(min_length = 1, max_length = 100)]
    name: String,
    /// Where events are posted to: http or https.
    #[schema(min_length = 1, max_length = 2000)]
    url: String,
    /// Names of kinds, or `member.*` for all that begin so; without them all.
    #[serde(default)]
    #[schema(max_items = 64)]
    kinds: Vec<String>,
    /// Only what is about these networks, or those accounts. Of a pair only the account of `client` counts.
    #[serde(default)]
    #[schema(value_type = Vec<String>, max_items = 64)]
    networks: Vec<String>,
    #[serde(default)]
    #[schema(value_type = Vec<String>, max_items = 64)]
    accounts: Vec<String>,
}

/// What is to be different; what is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct WebhookChange {
    name: Option<String>,
    url: Option<String>,
    kinds: Option<Vec<String>>,
    networks: Option<Vec<String>>,
    accounts: Option<Vec<String>>,
    /// `true` keeps events until `false` has them told, as long as the log has them.
    paused: Option<bool>,
}

impl From<store::Webhook> for Webhook {
    fn from(webhook: store::Webhook) -> Self {
        let now = crate::now();
        let state = match webhook.state {
            WebhookState::Active => "active",
            WebhookState::Paused => "paused",
            WebhookState::Failing => "failing",
        };
        let fails = webhook.failing.is_some() && webhook.state == WebhookState::Active;
        Self {
            webhook: webhook.id,
            name: webhook.terms.name,
            url: webhook.terms.url,
            kinds: webhook.terms.kinds.iter().map(|kind| kind.name()).collect(),
            networks: webhook.terms.networks,
            accounts: webhook.terms.accounts,
            state,
            made_ms: webhook.made,
            delivered: webhook.delivered,
            dead: webhook.dead,
            missed: webhook.missed,
            failing_since_ms: webhook.failing,
            next_ms: fails.then_some(webhook.due),
            tried_ms: webhook.tried,
            old_secret_until_ms: webhook.old_nonce.map(|(_, until)| until).filter(|until| *until > now),
        }
    }
}

pub(super) fn operations() -> Vec<Operation> {
    let missing = "There is no such webhook.";
    let scope = ApiScope::Webhooks;
    vec![
        Operation::new(Method::GET, "/v1/webhooks", "webhooks_list", scope, list)
            .summary("Lists webhooks, and how they do.")
            .query(page::PARAMETERS)
            .gives::<Page<Webhook>>(StatusCode::OK),
        Operation::new(Method::POST, "/v1/webhooks", "webhooks_create", scope, create)
            .summary("Makes a webhook that is told what happens from now on, and shows its secret once.")
            .takes::<NewWebhook>()
            .gives::<Revealed>(StatusCode::CREATED)
            .refuses(StatusCode::CONFLICT, "There are as many webhooks as there may be."),
        Operation::new(Method::GET, "/v1/webhooks/{webhook}", "webhooks_show", scope, show)
            .summary("Shows a webhook.")
            .gives::<Webhook>(StatusCode::OK)
            .tagged()
            .refuses(StatusCode::NOT_FOUND, missing),
        Operation::new(Method::PATCH, "/v1/webhooks/{webhook}", "webhooks_change", scope, change)
            .summary("Changes a webhook, pauses it, or has it told again what it missed.")
            .takes::<WebhookChange>()
            .gives::<Webhook>(StatusCode::OK)
            .conditional()
            .refuses(StatusCode::NOT_FOUND, missing),
        Operation::new(Method::DELETE, "/v1/webhooks/{webhook}", "webhooks_delete", scope, delete)
            .summary("Deletes a webhook, and what it was not told.")
            .conditional()
            .refuses(StatusCode::NOT_FOUND, missing),
        Operation::new(Method::POST, "/v1/webhooks/{webhook}/secret", "webhooks_rotate", scope, rotate)
            .summary("Makes another secret and shows it once; the one before counts, too, for a while.")
            .gives::<Revealed>(StatusCode::CREATED)
            .conditional()
            .refuses(StatusCode::NOT_FOUND, missing),
        Operation::new(Method::POST, "/v1/webhooks/{webhook}/test", "webhooks_test", scope, test)
            .summary("Sends a webhook an event that never happened, and says what came of it.")
            .gives::<Tested>(StatusCode::OK)
            .refuses(StatusCode::NOT_FOUND, missing),
    ]
}

async fn list(asked: Asked) -> Answer {
    let (limit, after) = asked.page("webhooks")?;
    let found = asked.state.webhooks.webhooks(after, limit + 1).await.map_err(|error| Problem::of_store(&error))?;
    let more = found.len() > usize::from(limit);
    let items: Vec<Webhook> = found.into_iter().take(usize::from(limit)).map(Webhook::from).collect();
    Done::document(Page::new("webhooks", items, more, |webhook| webhook.webhook))
}

async fn create(asked: Asked) -> Answer {
    let NewWebhook { name, url, kinds, networks, accounts } = asked.body()?;
    let terms = WebhookTerms {
        name: name_of(&name)?,
        url: url_of(&asked, &url)?,
        kinds: kinds_of(&kinds)?,
        networks: ids_of("networks", &networks)?,
        accounts: ids_of("accounts", &accounts)?,
        paused: false,
    };
    let [id, nonce] = [draw()?, draw()?];
    let made = asked.state.webhooks.make_webhook(WebhookId::from_bytes(id), terms, nonce, asked.at).await;
    let made = made.map_err(|error| match error {
        MakeWebhookError::LimitReached { limit } => {
            Problem::conflict("limit-reached", format!("there are {limit} webhooks already: delete some"))
        }
        MakeWebhookError::Store(error) => Problem::of_store(&error),
    })?;
    revealed(&asked, made, ())
}

async fn show(asked: Asked) -> Answer {
    tagged(existing(&asked).await?)
}

async fn change(asked: Asked) -> Answer {
    let before = seen(&asked).await?;
    let WebhookChange { name, url, kinds, networks, accounts, paused } = asked.body()?;
    let terms = before.terms.clone();
    let terms = WebhookTerms {
        name: name.map_or(Ok(terms.name), |name| name_of(&name))?,
        url: url.map_or(Ok(terms.url), |url| url_of(&asked, &url))?,
        kinds: kinds.map_or(Ok(terms.kinds), |kinds| kinds_of(&kinds))?,
        networks: networks.map_or(Ok(terms.networks), |networks| ids_of("networks", &networks))?,
        accounts: accounts.map_or(Ok(terms.accounts), |accounts| ids_of("accounts", &accounts))?,
        paused: paused.unwrap_or(terms.paused),
    };
    let changed = asked.state.webhooks.change_webhook(before.id, terms, Some(before.revision), asked.at).await;
    let after = changed.map_err(refused)?;
    Ok(tagged(after.clone())?.changed(Webhook::from(before), Webhook::from(after)))
}

async fn delete(asked: Asked) -> Answer {
    let before = seen(&asked).await?;
    asked.state.webhooks.delete_webhook(before.id, Some(before.revision)).await.map_err(refused)?;
    Ok(Done::nothing().changed(Webhook::from(before), ()))
}

async fn rotate(asked: Asked) -> Answer {
    let before = seen(&asked).await?;
    let until = asked.at.plus(asked.state.deliverer.config.rotation);
    let rotated = asked.state.webhooks.rotate_webhook(before.id, draw()?, until, Some(before.revision)).await;
    revealed(&asked, rotated.map_err(refused)?, Webhook::from(before))
}

async fn test(asked: Asked) -> Answer {
    let webhook = existing(&asked).await?;
    let began = Instant::now();
    let (event, said) = asked.state.deliverer.test(&webhook).await;
    let tested = Tested::new(event, &said, began.elapsed());
    Ok(Done::document(&tested)?.changed((), &tested))
}

/// The answer that shows a secret; the audit log gets the rest of it.
fn revealed(asked: &Asked, webhook: store::Webhook, before: impl Serialize) -> Answer {
    let secret = asked.state.deliverer.key.secret(webhook.id, &webhook.nonce).reveal();
    let tag = tag_of(&webhook);
    let webhook = Webhook::from(webhook);
    Ok(Done::document(Revealed { secret, webhook: webhook.clone() })?.tagged(tag).changed(before, webhook))
}

fn tagged(webhook: store::Webhook) -> Answer {
    let tag = tag_of(&webhook);
    Ok(Done::document(Webhook::from(webhook))?.tagged(tag))
}

/// Of what operators say of it: what it was told is no version.
fn tag_of(webhook: &store::Webhook) -> String {
    format!("\"r{}\"", webhook.revision)
}

/// The webhook of the path.
pub(super) async fn existing(asked: &Asked) -> Result<store::Webhook, Problem> {
    let id: WebhookId = asked.path("webhook")?;
    let found = asked.state.webhooks.webhook(id).await.map_err(|error| Problem::of_store(&error))?;
    found.ok_or_else(unknown)
}

/// The webhook of the path, in the version that `If-Match` names.
async fn seen(asked: &Asked) -> Result<store::Webhook, Problem> {
    let webhook = existing(asked).await?;
    asked.precondition.expect(&tag_of(&webhook))?;
    Ok(webhook)
}

fn refused(error: ChangeWebhookError) -> Problem {
    match error {
        ChangeWebhookError::Unknown => unknown(),
        ChangeWebhookError::Changed => precondition::changed(),
        ChangeWebhookError::Store(error) => Problem::of_store(&error),
    }
}

fn unknown() -> Problem {
    Problem::not_found("there is no such webhook")
}

fn name_of(text: &str) -> Result<String, Problem> {
    let name = text.trim();
    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(Problem::invalid_body(format!("name: 1 to {MAX_NAME} bytes without control characters expected")));
    }
    Ok(name.to_owned())
}

/// As the parser of URLs writes it: what is looked at is what is asked.
fn url_of(asked: &Asked, text: &str) -> Result<String, Problem> {
    let url = webhooks::check_url(text, asked.state.deliverer.whom()).map_err(Problem::invalid_body)?;
    Ok(url.into())
}

fn kinds_of(words: &[String]) -> Result<Vec<domain::EventKind>, Problem> {
    bounded("kinds", words)?;
    filter::kinds(words.iter().map(String::as_str)).map_err(|error| Problem::invalid_body(format!("kinds: {error}")))
}

fn ids_of<T: std::str::FromStr<Err: std::fmt::Display>>(field: &str, words: &[String]) -> Result<Vec<T>, Problem> {
    bounded(field, words)?;
    let ids = words.iter().map(|word| word.parse()).collect::<Result<_, _>>();
    ids.map_err(|error| Problem::invalid_body(format!("{field}: {error}")))
}

fn bounded(field: &str, words: &[String]) -> Result<(), Problem> {
    if words.len() <= MAX_LIST { Ok(()) } else { Err(Problem::invalid_body(format!("{field}: at most {MAX_LIST}"))) }
}

fn draw() -> Result<[u8; 16], Problem> {
    let mut drawn = [0; 16];
    let filled = SystemRandom::new().fill(&mut drawn);
    filled.map_err(|_| Problem::internal(telemetry::incident::log("drawing a secret", &TokenError::Random)))?;
    Ok(drawn)
}
