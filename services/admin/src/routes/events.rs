//! `/v1/events`: what happens, told while it does; `/v1/events/kinds`: what can.

use actix_web::http::{Method, StatusCode};
use domain::{ApiScope, EventKind, Keeping};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    asked::Asked,
    error::Problem,
    events::{
        Event,
        filter::{self, Filter},
    },
    operation::{Answer, Content, Done, Operation},
    page::Page,
    parameter::{Kind as Looks, Parameter},
};

/// Something that can happen.
#[derive(Serialize, ToSchema)]
#[schema(as = EventKind)]
struct Kind {
    kind: &'static str,
    meaning: &'static str,
    /// The fields of such events, beside `account`, which those about somebody's client or network have.
    fields: Vec<&'static str>,
    /// Fields that such events have where that is whom they are about.
    possible: Vec<&'static str>,
    /// Whether every one of them gets into the log. Others are lost when a process dies in the wrong moment.
    kept: bool,
}

impl From<EventKind> for Kind {
    fn from(kind: EventKind) -> Self {
        Self {
            kind: kind.name(),
            meaning: kind.meaning(),
            fields: kind.subjects().iter().map(|subject| subject.name()).collect(),
            possible: kind.possible_subjects().iter().map(|subject| subject.name()).collect(),
            kept: kind.keeping() == Keeping::Kept,
        }
    }
}

pub(super) fn operations() -> Vec<Operation> {
    let filters = [
        Parameter::new("kind", Looks::Text, "Only these: names with commas between; `member.*` for all that begin so."),
        Parameter::new("network", Looks::Id, "Only what is about this network."),
        Parameter::new("client", Looks::Id, "Only what is about this client."),
        Parameter::new("after", Looks::Number, "Begin after the event with this number instead of now."),
    ];
    vec![
        Operation::new(Method::GET, "/v1/events", "events_follow", ApiScope::Read, follow)
            .summary("Tells what happens, while it does, as server-sent events.")
            .query(filters)
            .tells::<Event>()
            .refuses(StatusCode::TOO_MANY_REQUESTS, "As many streams as there may be are open."),
        Operation::new(Method::GET, "/v1/events/kinds", "events_kinds", ApiScope::Read, kinds)
            .summary("Lists what can happen.")
            .gives::<Page<Kind>>(StatusCode::OK),
    ]
}

async fn follow(asked: Asked) -> Answer {
    let words: Option<String> = asked.query("kind")?;
    let kinds = words.as_deref().map_or_else(|| Ok(Vec::new()), |words| filter::kinds(words.split(',')));
    let filter = Filter {
        kinds: kinds.map_err(Problem::invalid)?,
        networks: asked.query("network")?.into_iter().collect(),
        clients: asked.query("client")?.into_iter().collect(),
        accounts: Vec::new(),
    };
    let after = asked.last_event.or(asked.query("after")?);
    let Asked { state, bearer, .. } = asked;
    let stream = state.streams.open(std::sync::Arc::clone(&state), bearer, filter, after)?;
    Ok(Done { content: Content::Events(stream), ..Done::nothing() })
}

async fn kinds(_: Asked) -> Answer {
    Done::document(Page::whole(EventKind::ALL.into_iter().map(Kind::from).collect()))
}
