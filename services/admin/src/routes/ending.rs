//! Ending sessions: one, or all that a filter matches. Clients come back, each after a delay of its own.

use std::collections::BTreeSet;

use actix_web::http::{Method, StatusCode};
use contract::network::{
    SessionRow, Sessions,
    operators::{EndSessions, Members},
};
use domain::{ApiScope, ClientId, InstanceId, NetworkId, UnixMillis};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::sessions::incident;
use crate::{
    asked::Asked,
    error::Problem,
    operation::{Answer, Done, Operation},
    parameter::{Kind, Parameter},
    schema::Id,
};

/// Sessions that are looked at in one request, at most.
const MOST_SEEN: u64 = 200_000;

/// Sessions that one request ends, at most: what it remembers of them is bounded.
const MOST_ENDED: usize = 50_000;

/// Sessions in one call.
const AT_ONCE: u16 = 500;

/// The sessions of a page return within this time.
const BACK_WITHIN_MS: u64 = 30_000;

/// A client whose session is to end.
#[derive(Serialize, ToSchema)]
struct Ended {
    #[schema(value_type = Id)]
    client: ClientId,
    /// Whether there was a session.
    ended: bool,
}

/// Which sessions are to end: all that agree with whatever is named, of which there must be something.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Filter {
    /// Those at this gateway.
    #[schema(value_type = Option<Id>)]
    gateway: Option<InstanceId>,
    /// Those of members of this network.
    #[schema(value_type = Option<Id>)]
    network: Option<NetworkId>,
    /// Those that began before.
    #[schema(value_type = Option<u64>)]
    before_ms: Option<UnixMillis>,
    /// The number of sessions that may be ended although they are more than one in a hundred.
    confirm: Option<u64>,
}

/// What was, or would be, done.
#[derive(Serialize, ToSchema)]
struct Mass {
    /// Only asked what would be done.
    dry_run: bool,
    /// Sessions that agree with the filter.
    matched: u64,
    /// Sessions there are.
    total: u64,
    /// Sessions that may be ended in this minute without a confirmation.
    allowed: u64,
    /// Sessions whose gateways were told.
    ended: u64,
}

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(Method::DELETE, "/v1/sessions/{client}", "sessions_end", ApiScope::Write, end)
            .summary("Ends the session of a client, which may come back.")
            .gives::<Ended>(StatusCode::OK),
        Operation::new(Method::POST, "/v1/sessions/end", "sessions_end_many", ApiScope::Write, end_many)
            .summary("Ends all sessions that agree with a filter: at most one in a hundred a minute, unless the number is confirmed.")
            .query([Parameter::new("dry_run", Kind::Flag, "Only tell what would be done.")])
            .takes::<Filter>()
            .gives::<Mass>(StatusCode::OK)
            .refuses(StatusCode::CONFLICT, "It would end too many sessions."),
    ]
}

async fn end(asked: Asked) -> Answer {
    let client = asked.path("client")?;
    let reply = asked.call(&EndSessions { clients: vec![client], back_after_ms: 1_000 }, incident).await?;
    let ended = Ended { client, ended: !reply.ended.is_empty() };
    Ok(Done::document(&ended)?.changed((), &ended))
}

async fn end_many(asked: Asked) -> Answer {
    let filter: Filter = asked.body()?;
    if filter.gateway.is_none() && filter.network.is_none() && filter.before_ms.is_none() {
        return Err(Problem::invalid_body("gateway, network or before_ms: at least one expected"));
    }
    let members = match filter.network {
        Some(network) => Some(members(&asked, network).await?),
        None => None,
    };
    let matches = |row: &SessionRow| {
        filter.gateway.is_none_or(|gateway| row.gateway == gateway)
            && filter.before_ms.is_none_or(|before| row.since < before)
            && members.as_ref().is_none_or(|members| members.contains(&row.client))
    };
    let (clients, total) = search(&asked, matches).await?;
    let matched = clients.len() as u64;
    let allowed = asked.state.blast.left(asked.at, total);
    let mut mass = Mass { dry_run: asked.is_dry_run(), matched, total, allowed, ended: 0 };
    if mass.dry_run {
        return Done::document(mass);
    }
    if !asked.state.blast.take(asked.at, matched, total, filter.confirm) {
        let detail = format!(
            "{matched} of {total} sessions would end, {allowed} may in this minute: send \"confirm\": {matched} if you mean it"
        );
        return Err(Problem::conflict("too-many-sessions", detail));
    }
    let pages = clients.len().div_ceil(usize::from(AT_ONCE)).max(1) as u64;
    for (nth, some) in clients.chunks(usize::from(AT_ONCE)).enumerate() {
        // Not all at once.
        let back_after_ms = u32::try_from(1_000 + BACK_WITHIN_MS * nth as u64 / pages).unwrap_or(u32::MAX);
        let reply = asked.call(&EndSessions { clients: some.to_vec(), back_after_ms }, incident).await?;
        mass.ended += reply.ended.len() as u64;
    }
    Ok(Done::document(&mass)?.changed((), &mass))
}

/// The clients whose sessions agree, and how many sessions there are.
async fn search(asked: &Asked, matches: impl Fn(&SessionRow) -> bool) -> Result<(Vec<ClientId>, u64), Problem> {
    let (mut clients, mut total, mut after) = (Vec::new(), 0, None);
    loop {
        let page = asked.call(&Sessions { after, limit: AT_ONCE }, incident).await?;
        total += page.sessions.len() as u64;
        after = page.sessions.last().map(|row| row.client);
        clients.extend(page.sessions.iter().filter(|row| matches(row)).map(|row| row.client));
        if clients.len() > MOST_ENDED || total > MOST_SEEN {
            let detail = format!("one request ends up to {MOST_ENDED} sessions of up to {MOST_SEEN}");
            return Err(Problem::conflict("too-many-sessions", detail));
        }
        if !page.more || after.is_none() {
            return Ok((clients, total));
        }
    }
}

async fn members(asked: &Asked, network: NetworkId) -> Result<BTreeSet<ClientId>, Problem> {
    let (mut members, mut after) = (BTreeSet::new(), None);
    loop {
        let page = asked.call(&Members { network, after, limit: AT_ONCE }, incident).await?;
        members.extend(page.members.iter().map(|member| member.client));
        after = page.members.last().map(|member| member.client);
        if !page.more || after.is_none() || members.len() > MOST_ENDED {
            return Ok(members);
        }
    }
}
