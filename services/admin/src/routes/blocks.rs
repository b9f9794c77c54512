//! `/v1/blocks`: what is held against whom, how much, why, and until when.
//!
//! A block on addresses touches new clients only: whoever is known comes and goes, and no session ends. One on a client or an
//! account touches its logins; to refuse those ends its sessions, but no tunnel. One on a network touches whoever joins. Every
//! block ends by itself.

use std::{collections::BTreeSet, time::Duration};

use actix_web::http::{Method, StatusCode};
use contract::{
    auth::blocks::{AboutWhom, BlockRefusal, Blocks, ChangeBlock, LiftBlock, MakeBlock, ShowBlock},
    network::operators::{EndSessions, Whereabouts},
};
use domain::{
    AddressPrefix, ApiScope, BlockId, BlockReason, BlockSubject, ClientId, Degree, ParseIdError, PrefixError,
    UnixMillis,
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::ToSchema;

use super::sessions;
use crate::{
    asked::Asked,
    error::Problem,
    operation::{Answer, Done, Operation},
    page::{self, Page},
    parameter::{Kind, Parameter},
    precondition,
    schema::Id,
};

/// How long a block counts that does not say.
const USUAL: u64 = 24 * 3600;

/// The longest that one on addresses counts: people move into them.
const LONGEST_OF_PREFIX: u64 = 24 * 3600;

/// The longest that any other counts.
const LONGEST: u64 = 366 * 24 * 3600;

/// Clients that are looked for at once.
const LOOKED_UP_AT_ONCE: usize = 8;

/// Clients in one call.
const AT_ONCE: u16 = 500;

/// Sessions that end come back within about this time, to be told why.
const BACK_AFTER_MS: u32 = 1_000;

/// What is held against somebody.
#[derive(Serialize, ToSchema)]
struct Block {
    #[schema(value_type = Id)]
    block: BlockId,
    /// `prefix`, `client`, `account` or `network`.
    kind: &'static str,
    /// The prefix, or the id.
    target: String,
    /// `slow`, `challenge` or `refuse`.
    #[schema(value_type = String)]
    degree: Degree,
    /// What the affected are told.
    reason: String,
    /// The token that made it, or `root`.
    maker: String,
    #[schema(value_type = u64)]
    made_ms: UnixMillis,
    #[schema(value_type = u64)]
    expires_ms: UnixMillis,
}

/// A block to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewBlock {
    /// `prefix`, `client`, `account` or `network`.
    #[schema(pattern = "^(prefix|client|account|network)$")]
    kind: String,
    /// A prefix (an IPv4 /16 to /32 or an IPv6 /32 to /64), or an id.
    #[schema(min_length = 1, max_length = 64)]
    target: String,
    /// `slow`, `challenge` or `refuse`; the joins of a network are slowed or refused.
    #[schema(pattern = "^(slow|challenge|refuse)$")]
    degree: String,
    /// What the affected are told: one line.
    #[schema(min_length = 1, max_length = 200)]
    reason: String,
    /// How long it counts, in seconds: a day without it; at most a day on addresses, otherwise a year.
    #[schema(minimum = 60, maximum = 31_622_400)]
    lifetime_s: Option<u64>,
    /// The number of clients online that may be touched although they are more than one in a hundred.
    confirm: Option<u64>,
}

/// What is to be different: at least one of these.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Change {
    /// `slow`, `challenge` or `refuse`.
    #[schema(pattern = "^(slow|challenge|refuse)$")]
    degree: Option<String>,
    #[schema(min_length = 1, max_length = 200)]
    reason: Option<String>,
    /// How long it counts from now on, in seconds.
    #[schema(minimum = 60, maximum = 31_622_400)]
    lifetime_s: Option<u64>,
    /// The number of clients online that may be touched although they are more than one in a hundred.
    confirm: Option<u64>,
}

/// Whom a block would touch.
#[derive(Serialize, ToSchema)]
struct Touched {
    /// Registered clients that it is about; of addresses it is not known, where clients are is not stored.
    clients: Option<u64>,
    /// Those of them that are online; of addresses, whoever is online from there, and would not have been let in as new.
    online: u64,
    /// Sessions that would end.
    ends: u64,
    /// Sessions there are.
    total: u64,
    /// How many of them may be touched in this minute without a confirmation.
    allowed: u64,
    /// Every gateway said how many it has. If not, there may be more.
    complete: bool,
}

impl From<domain::Block> for Block {
    fn from(block: domain::Block) -> Self {
        let (kind, target) = words(block.subject);
        Self {
            block: block.id,
            kind,
            target,
            degree: block.degree,
            reason: block.reason.to_string(),
            maker: block.maker,
            made_ms: block.made,
            expires_ms: block.expires,
        }
    }
}

pub(super) fn operations() -> Vec<Operation> {
    let missing = "There is no such block.";
    vec![
        Operation::new(Method::GET, "/v1/blocks", "blocks_list", ApiScope::Read, list)
            .summary("Lists the blocks that count, by id.")
            .query(page::PARAMETERS)
            .gives::<Page<Block>>(StatusCode::OK),
        Operation::new(Method::POST, "/v1/blocks", "blocks_create", ApiScope::Blocks, create)
            .summary("Makes a block. It touches at most one in a hundred clients online a minute, unless the number is confirmed.")
            .takes::<NewBlock>()
            .gives::<Block>(StatusCode::CREATED)
            .tagged()
            .refuses(
                StatusCode::CONFLICT,
                "There is one of this subject, there are as many as there may be, or it would touch too many.",
            ),
        Operation::new(Method::GET, "/v1/blocks/dry-run", "blocks_dry_run", ApiScope::Blocks, dry_run)
            .summary("Tells whom a block would touch.")
            .query([
                Parameter::new("kind", Kind::Text, "`prefix`, `client`, `account` or `network`."),
                Parameter::new("target", Kind::Text, "The prefix, or the id."),
                Parameter::new("degree", Kind::Text, "`slow`, `challenge` or `refuse`."),
            ])
            .gives::<Touched>(StatusCode::OK),
        Operation::new(Method::GET, "/v1/blocks/{block}", "blocks_show", ApiScope::Read, show)
            .summary("Shows a block.")
            .gives::<Block>(StatusCode::OK)
            .tagged()
            .refuses(StatusCode::NOT_FOUND, missing),
        Operation::new(Method::PATCH, "/v1/blocks/{block}", "blocks_change", ApiScope::Blocks, change)
            .summary("Changes how much a block holds against somebody, why, or how long it counts.")
            .takes::<Change>()
            .gives::<Block>(StatusCode::OK)
            .conditional()
            .refuses(StatusCode::NOT_FOUND, missing)
            .refuses(StatusCode::CONFLICT, "It would touch too many."),
        Operation::new(Method::DELETE, "/v1/blocks/{block}", "blocks_lift", ApiScope::Blocks, lift)
            .summary("Lifts a block.")
            .conditional()
            .refuses(StatusCode::NOT_FOUND, missing),
    ]
}

async fn list(asked: Asked) -> Answer {
    let (limit, after) = asked.page("blocks")?;
    let page = asked.order(&Blocks { after, limit }, refused).await?;
    let items: Vec<Block> = page.blocks.into_iter().map(Block::from).collect();
    Done::document(Page::new("blocks", items, page.more, |block| block.block))
}

async fn show(asked: Asked) -> Answer {
    tagged(existing(&asked).await?)
}

async fn dry_run(asked: Asked) -> Answer {
    let text = |name: &str| {
        let text = asked.query.get(name).map(String::as_str);
        text.ok_or_else(|| Problem::invalid(format!("{name}: expected")))
    };
    let subject = subject(text("kind")?, text("target")?).map_err(Problem::invalid)?;
    let degree = degree(text("degree")?).map_err(Problem::invalid)?;
    suitable(subject, degree).map_err(Problem::invalid)?;
    Done::document(touched(&asked, subject, degree).await?.0)
}

async fn create(asked: Asked) -> Answer {
    let wanted: NewBlock = asked.body()?;
    let subject = subject(&wanted.kind, &wanted.target).map_err(Problem::invalid_body)?;
    let degree = degree(&wanted.degree).map_err(Problem::invalid_body)?;
    suitable(subject, degree).map_err(Problem::invalid_body)?;
    let reason = reason(&wanted.reason)?;
    let expires = expiry(&asked, subject, wanted.lifetime_s.unwrap_or(USUAL))?;
    let ends = bounded(&asked, subject, degree, wanted.confirm).await?;
    let id = [crate::random_number(), crate::random_number()].map(u64::to_be_bytes).concat();
    let id = BlockId::try_from(id.as_slice()).map_err(|_| Problem::unavailable())?;
    let maker = asked.bearer.who.clone();
    let made = asked.order(&MakeBlock { id, subject, degree, reason, maker, expires }, refused).await?;
    end(&asked, &ends).await;
    Ok(tagged(made.clone())?.changed((), Block::from(made)))
}

async fn change(asked: Asked) -> Answer {
    let wanted: Change = asked.body()?;
    if wanted.degree.is_none() && wanted.reason.is_none() && wanted.lifetime_s.is_none() {
        return Err(Problem::invalid_body("degree, reason or lifetime_s: at least one expected"));
    }
    let degree = wanted.degree.as_deref().map(degree).transpose().map_err(Problem::invalid_body)?;
    let reason = wanted.reason.as_deref().map(reason).transpose()?;
    let before = existing(&asked).await?;
    asked.precondition.expect(&tag(&before))?;
    let expires = wanted.lifetime_s.map(|lifetime| expiry(&asked, before.subject, lifetime)).transpose()?;
    let mut ends = Vec::new();
    if let Some(degree) = degree {
        suitable(before.subject, degree).map_err(Problem::invalid_body)?;
        if degree > before.degree {
            ends = bounded(&asked, before.subject, degree, wanted.confirm).await?;
        }
    }
    let expected = expected(&asked, &before);
    let changed = asked.order(&ChangeBlock { id: before.id, expected, degree, reason, expires }, refused).await?;
    end(&asked, &ends).await;
    Ok(tagged(changed.after.clone())?.changed(Block::from(changed.before), Block::from(changed.after)))
}

async fn lift(asked: Asked) -> Answer {
    let before = existing(&asked).await?;
    asked.precondition.expect(&tag(&before))?;
    let lifted = asked.order(&LiftBlock { id: before.id, expected: expected(&asked, &before) }, refused).await?;
    Ok(Done::nothing().changed(Block::from(lifted), ()))
}

async fn existing(asked: &Asked) -> Result<domain::Block, Problem> {
    asked.order(&ShowBlock { id: asked.path("block")? }, refused).await
}

fn tagged(block: domain::Block) -> Answer {
    let tag = tag(&block);
    Ok(Done::document(Block::from(block))?.tagged(tag))
}

fn tag(block: &domain::Block) -> String {
    format!("\"r{}\"", block.revision)
}

/// The version that is changed, unless any will do.
fn expected(asked: &Asked, before: &domain::Block) -> Option<u64> {
    (!asked.precondition.is_any()).then_some(before.revision)
}

/// Lets a block pass that touches few, or as many as were confirmed. Gives the clients whose sessions are to end.
async fn bounded(
    asked: &Asked,
    subject: BlockSubject,
    degree: Degree,
    confirmed: Option<u64>,
) -> Result<Vec<ClientId>, Problem> {
    let (touched, ends) = touched(asked, subject, degree).await?;
    if !touched.complete && confirmed != Some(touched.online) {
        let detail = format!(
            "not every gateway answered, {online} clients online are known of: try again, or send \"confirm\": {online} if you mean it",
            online = touched.online
        );
        return Err(Problem::conflict("count-incomplete", detail));
    }
    if asked.state.blast.take(asked.at, touched.online, touched.total, confirmed) {
        return Ok(ends);
    }
    let Touched { online, total, allowed, .. } = touched;
    let detail = format!(
        "{online} of {total} clients online would be touched, {allowed} may in this minute: send \"confirm\": {online} if you mean it"
    );
    Err(Problem::conflict("too-many-sessions", detail))
}

/// Whom a block would touch, and the clients whose sessions would end.
async fn touched(asked: &Asked, subject: BlockSubject, degree: Degree) -> Result<(Touched, Vec<ClientId>), Problem> {
    if let BlockSubject::Prefix(prefix) = subject {
        return Ok((from_there(asked, prefix).await?, Vec::new()));
    }
    let about = about(asked, subject).await?;
    let total: u64 = asked.state.figures.gateways(Instant::now()).values().sum();
    let online = online(asked, &about).await?;
    let total = total.max(online.len() as u64);
    let cuts = degree == Degree::Refuse && !matches!(subject, BlockSubject::Network(_));
    let ends = if cuts { online.clone() } else { Vec::new() };
    let touched = Touched {
        clients: Some(about.len() as u64),
        online: online.len() as u64,
        ends: ends.len() as u64,
        total,
        allowed: asked.state.blast.left(asked.at, total),
        complete: true,
    };
    Ok((touched, ends))
}

async fn from_there(asked: &Asked, prefix: AddressPrefix) -> Result<Touched, Problem> {
    let state = &asked.state;
    let gateways = state.figures.gateways(Instant::now());
    let total = gateways.values().sum();
    let question = crate::random_number();
    let counted = state.counting.ask(&state.bus, question, prefix, gateways.into_keys().collect()).await;
    let counted = counted.map_err(|error| {
        tracing::warn!(error = telemetry::incident::chain(&error), "gateways could not be asked");
        Problem::unavailable()
    })?;
    Ok(Touched {
        clients: None,
        online: counted.sessions,
        ends: 0,
        total,
        allowed: state.blast.left(asked.at, total),
        complete: counted.complete,
    })
}

/// The registered clients that a block is about.
async fn about(asked: &Asked, subject: BlockSubject) -> Result<BTreeSet<ClientId>, Problem> {
    let (mut about, mut after) = (BTreeSet::new(), None);
    loop {
        let page = asked.order(&AboutWhom { subject, after, limit: AT_ONCE }, refused).await?;
        after = page.clients.last().copied();
        about.extend(page.clients);
        if !page.more || after.is_none() {
            return Ok(about);
        }
    }
}

/// Ends the sessions of clients that are refused from now on. Where that fails they end when they next log in.
async fn end(asked: &Asked, clients: &[ClientId]) {
    for some in clients.chunks(usize::from(AT_ONCE)) {
        let call = EndSessions { clients: some.to_vec(), back_after_ms: BACK_AFTER_MS };
        if let Err(problem) = asked.call(&call, sessions::incident).await {
            tracing::warn!(%problem, "sessions of blocked clients go on");
        }
    }
}

/// Those of `clients` that have a session.
async fn online(asked: &Asked, clients: &BTreeSet<ClientId>) -> Result<Vec<ClientId>, Problem> {
    let found = stream::iter(clients.iter().copied()).map(|client| async move {
        let found = asked.call(&Whereabouts { client }, sessions::incident).await?;
        Ok::<_, Problem>(found.session.map(|_| client))
    });
    found.buffered(LOOKED_UP_AT_ONCE).try_filter_map(|found| async move { Ok(found) }).try_collect().await
}

fn words(subject: BlockSubject) -> (&'static str, String) {
    match subject {
        BlockSubject::Prefix(prefix) => ("prefix", prefix.to_string()),
        BlockSubject::Client(client) => ("client", client.to_string()),
        BlockSubject::Account(account) => ("account", account.to_string()),
        BlockSubject::Network(network) => ("network", network.to_string()),
    }
}

fn subject(kind: &str, target: &str) -> Result<BlockSubject, String> {
    let subject = match kind {
        "prefix" => target.parse().map(BlockSubject::Prefix).map_err(|error: PrefixError| error.to_string()),
        "client" => target.parse().map(BlockSubject::Client).map_err(|error: ParseIdError| error.to_string()),
        "account" => target.parse().map(BlockSubject::Account).map_err(|error: ParseIdError| error.to_string()),
        "network" => target.parse().map(BlockSubject::Network).map_err(|error: ParseIdError| error.to_string()),
        _ => return Err("kind: prefix, client, account or network expected".to_owned()),
    };
    subject.map_err(|error| format!("target: {error}"))
}

fn degree(word: &str) -> Result<Degree, String> {
    let found = Degree::ALL.into_iter().find(|degree| degree.name() == word);
    found.ok_or_else(|| "degree: slow, challenge or refuse expected".to_owned())
}

/// A join has no place where a client could be asked for work.
fn suitable(subject: BlockSubject, degree: Degree) -> Result<(), String> {
    if matches!(subject, BlockSubject::Network(_)) && degree == Degree::Challenge {
        return Err("degree: joins of a network can be slowed or refused".to_owned());
    }
    Ok(())
}

fn reason(text: &str) -> Result<BlockReason, Problem> {
    text.parse().map_err(|error| Problem::invalid_body(format!("reason: {error}")))
}

fn expiry(asked: &Asked, subject: BlockSubject, lifetime_s: u64) -> Result<UnixMillis, Problem> {
    let longest = if matches!(subject, BlockSubject::Prefix(_)) { LONGEST_OF_PREFIX } else { LONGEST };
    if !(60..=longest).contains(&lifetime_s) {
        return Err(Problem::invalid_body(format!("lifetime_s: 60 to {longest} expected")));
    }
    Ok(asked.at.plus(Duration::from_secs(lifetime_s)))
}

/// What auth does not do.
fn refused(refusal: BlockRefusal) -> Problem {
    match refusal {
        BlockRefusal::NoSuchBlock => Problem::not_found("there is no such block"),
        BlockRefusal::Changed => precondition::changed(),
        BlockRefusal::Exists(id) => {
            Problem::conflict("block-exists", format!("there is a block of this subject, {id}: change that one"))
        }
        BlockRefusal::LimitReached => {
            Problem::conflict("limit-reached", "there are as many as there may be: lift some")
        }
        BlockRefusal::Internal { incident } => Problem::internal(incident),
        BlockRefusal::Busy => Problem::unavailable(),
    }
}
