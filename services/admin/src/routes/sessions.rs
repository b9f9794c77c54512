//! `GET /v1/sessions`: who is online, and where.

use actix_web::{HttpRequest, web::Data};
use contract::network::{Refusal, SessionRow, Sessions};
use domain::{ClientId, Epoch, InstanceId, NatClass, UnixMillis};
use serde::Serialize;

use super::{Answer, document};
use crate::{
    State,
    error::Problem,
    page::{Page, Wanted},
};

#[derive(Serialize)]
struct Session {
    client: ClientId,
    gateway: InstanceId,
    epoch: Epoch,
    since_ms: UnixMillis,
    nat_class: Option<NatClass>,
}

impl From<SessionRow> for Session {
    fn from(row: SessionRow) -> Self {
        Self { client: row.client, gateway: row.gateway, epoch: row.epoch, since_ms: row.since, nat_class: row.class }
    }
}

pub(super) async fn list(state: Data<State>, request: HttpRequest) -> Answer {
    let (limit, after) = Wanted::read(request.query_string())?;
    let page = state.bus.call(&Sessions { after, limit }).await.map_err(|error| Problem::of_call(&error, incident))?;
    let items: Vec<Session> = page.sessions.into_iter().map(Session::from).collect();
    document(Page::new(items, page.more, |session| session.client.to_string()))
}

/// The number that an internal failure of network is logged under.
pub(super) fn incident(refusal: &Refusal) -> Option<u64> {
    if let Refusal::Internal { incident } = refusal { Some(*incident) } else { None }
}
