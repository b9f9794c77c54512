//! `/v1/webhooks/{webhook}/deliveries`: what became of telling a webhook, and what is sent again.

use std::time::Duration;

use actix_web::http::{Method, StatusCode};
use domain::{ApiScope, EventId, UnixMillis};
use serde::Serialize;
use store::{DeliveryState, KeptDelivery};
use utoipa::ToSchema;

use super::webhooks::existing;
use crate::{
    asked::Asked,
    error::Problem,
    operation::{Answer, Done, Operation},
    page::{self, Page},
    parameter::{Kind, Parameter},
    schema::Id,
    webhooks::deliver::Said,
};

/// What became of telling a webhook of one event.
#[derive(Serialize, ToSchema)]
struct Delivery {
    #[schema(value_type = Id)]
    event: EventId,
    sequence: u64,
    #[schema(value_type = String)]
    kind: &'static str,
    /// `taken`, `retrying`, `replaying` (an operator wants it sent again) or `dead` (given up).
    state: &'static str,
    tries: u32,
    /// HTTP status of the last answer.
    status: Option<u16>,
    /// Why it was not taken, in a word; `null` if it was.
    reason: Option<String>,
    #[schema(value_type = u64)]
    tried_ms: UnixMillis,
}

/// What came of a test.
#[derive(Serialize, ToSchema)]
pub(super) struct Tested {
    #[schema(value_type = Id)]
    event: EventId,
    taken: bool,
    status: Option<u16>,
    /// Why it was not taken, in a word.
    reason: Option<&'static str>,
    took_ms: u64,
}

/// What is sent again.
#[derive(Serialize, ToSchema)]
struct Replayed {
    deliveries: u64,
}

impl Tested {
    pub(super) fn new(event: EventId, said: &Said, took: Duration) -> Self {
        let reason = Some(said.reason).filter(|reason| !reason.is_empty());
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        Self { event, taken: reason.is_none(), status: said.status, reason, took_ms }
    }
}

impl From<KeptDelivery> for Delivery {
    fn from(delivery: KeptDelivery) -> Self {
        Self {
            event: delivery.event,
            sequence: delivery.sequence,
            kind: delivery.kind.name(),
            state: name(delivery.state),
            tries: delivery.tries,
            status: delivery.status,
            reason: Some(delivery.reason).filter(|reason| !reason.is_empty()),
            tried_ms: delivery.tried,
        }
    }
}

const fn name(state: DeliveryState) -> &'static str {
    match state {
        DeliveryState::Taken => "taken",
        DeliveryState::Retrying => "retrying",
        DeliveryState::Replaying => "replaying",
        DeliveryState::Dead => "dead",
    }
}

pub(super) fn operations() -> Vec<Operation> {
    let (path, scope) = ("/v1/webhooks/{webhook}/deliveries", ApiScope::Webhooks);
    let missing = "There is no such webhook, or no such delivery of it.";
    vec![
        Operation::new(Method::GET, path, "deliveries_list", scope, list)
            .summary("Lists what a webhook was told lately, newest events first, and what was given up.")
            .query(page::PARAMETERS)
            .query([Parameter::new("state", Kind::Text, "Only these: taken, retrying, replaying or dead.")])
            .gives::<Page<Delivery>>(StatusCode::OK)
            .refuses(StatusCode::NOT_FOUND, missing),
        Operation::new(Method::POST, "/v1/webhooks/{webhook}/replay", "deliveries_replay_all", scope, replay_all)
            .summary("Sends everything again that was given up, oldest first.")
            .gives::<Replayed>(StatusCode::OK)
            .refuses(StatusCode::NOT_FOUND, missing),
        Operation::new(
            Method::POST,
            "/v1/webhooks/{webhook}/deliveries/{event}/replay",
            "deliveries_replay",
            scope,
            replay,
        )
        .summary("Sends one event again.")
        .gives::<Replayed>(StatusCode::OK)
        .refuses(StatusCode::NOT_FOUND, missing),
    ]
}

async fn list(asked: Asked) -> Answer {
    let webhook = existing(&asked).await?;
    let (limit, before) = asked.page("deliveries")?;
    let state = asked.query::<String>("state")?.map(|wanted| {
        let state = DeliveryState::ALL.into_iter().find(|state| name(*state) == wanted);
        state.ok_or_else(|| Problem::invalid("state: taken, retrying, replaying or dead expected"))
    });
    let found = asked.state.webhooks.deliveries(webhook.id, state.transpose()?, before, limit + 1).await;
    let found = found.map_err(|error| Problem::of_store(&error))?;
    let more = found.len() > usize::from(limit);
    let items: Vec<Delivery> = found.into_iter().take(usize::from(limit)).map(Delivery::from).collect();
    Done::document(Page::new("deliveries", items, more, |delivery| delivery.sequence))
}

async fn replay_all(asked: Asked) -> Answer {
    let webhook = existing(&asked).await?;
    let replayed = asked.state.webhooks.replay_deliveries(webhook.id, None, asked.at).await;
    done(replayed.map_err(|error| Problem::of_store(&error))?)
}

async fn replay(asked: Asked) -> Answer {
    let webhook = existing(&asked).await?;
    let event: EventId = asked.path("event")?;
    let replayed = asked.state.webhooks.replay_deliveries(webhook.id, Some(event), asked.at).await;
    match replayed.map_err(|error| Problem::of_store(&error))? {
        0 => Err(Problem::not_found("there is no such delivery, or it is being tried anyway")),
        replayed => done(replayed),
    }
}

fn done(deliveries: u64) -> Answer {
    let replayed = Replayed { deliveries };
    Ok(Done::document(&replayed)?.changed((), &replayed))
}
