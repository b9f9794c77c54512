//! `GET /v1/sessions`: who is online, and where.

use actix_web::http::{Method, StatusCode};
use contract::network::{Refusal, SessionRow, Sessions};
use domain::{ApiScope, ClientId, Epoch, InstanceId, NatClass, UnixMillis};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    asked::Asked,
    operation::{Answer, Done, Operation},
    page::{self, Page},
    schema::Id,
};

/// The connection of a client.
#[derive(Serialize, ToSchema)]
pub(super) struct Session {
    #[schema(value_type = Id)]
    client: ClientId,
    /// The process that has it.
    #[schema(value_type = Id)]
    gateway: InstanceId,
    /// Orders the sessions of one client.
    #[schema(value_type = u64)]
    epoch: Epoch,
    #[schema(value_type = u64)]
    since_ms: UnixMillis,
    /// How hard the client's NAT is, as far as it is known.
    #[schema(value_type = Option<String>)]
    nat_class: Option<NatClass>,
}

impl From<SessionRow> for Session {
    fn from(row: SessionRow) -> Self {
        Self { client: row.client, gateway: row.gateway, epoch: row.epoch, since_ms: row.since, nat_class: row.class }
    }
}

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(Method::GET, "/v1/sessions", "sessions_list", ApiScope::Read, list)
            .summary("Lists who is online, by client.")
            .query(page::PARAMETERS)
            .gives::<Page<Session>>(StatusCode::OK),
    ]
}

async fn list(asked: Asked) -> Answer {
    let (limit, after) = asked.page("sessions")?;
    let page = asked.call(&Sessions { after, limit }, incident).await?;
    let items: Vec<Session> = page.sessions.into_iter().map(Session::from).collect();
    Done::document(Page::new("sessions", items, page.more, |session| session.client))
}

/// The number that an internal failure of network is logged under.
pub(super) fn incident(refusal: &Refusal) -> Option<u64> {
    if let Refusal::Internal { incident } = refusal { Some(*incident) } else { None }
}
