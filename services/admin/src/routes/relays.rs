//! `GET /v1/relays`: the relays that live, and their load. `POST /v1/relays/{relay}/drain` has one emptied, `/resume` takes
//! that back; the list shows what became of it.

use std::net::SocketAddr;

use actix_web::http::{Method, StatusCode};
use contract::{
    relay::RelayOrder,
    rendezvous::{OrderRefusal, OrderRelay, RelayBeat, Relays},
};
use domain::{ApiScope, Bandwidth, RelayId, StreamEndpoint};
use serde::Serialize;
use utoipa::ToSchema;

use super::pairs::incident;
use crate::{
    asked::Asked,
    error::Problem,
    operation::{Answer, Done, Operation},
    page::Page,
    schema::Id,
};

/// A relay that gives signs of life.
#[derive(Serialize, ToSchema)]
struct Relay {
    #[schema(value_type = Id)]
    relay: RelayId,
    /// Of our own machines: no address of a user.
    #[schema(value_type = Vec<String>)]
    endpoints: Vec<SocketAddr>,
    #[schema(value_type = Vec<String>)]
    streams: Vec<StreamEndpoint>,
    region: String,
    /// Pairs that it carries.
    slots: u32,
    max_slots: u32,
    /// What it forwards now.
    #[schema(value_type = String)]
    rate: Bandwidth,
    draining: bool,
}

impl From<RelayBeat> for Relay {
    fn from(beat: RelayBeat) -> Self {
        Self {
            relay: beat.relay,
            endpoints: beat.endpoints,
            streams: beat.streams,
            region: beat.region,
            slots: beat.slots,
            max_slots: beat.max_slots,
            rate: beat.rate,
            draining: beat.draining,
        }
    }
}

/// What a relay was told.
#[derive(Serialize, ToSchema)]
struct Told {
    #[schema(value_type = Id)]
    relay: RelayId,
    draining: bool,
}

pub(super) fn operations() -> Vec<Operation> {
    let order = |path, id, summary, order| {
        let act = move |asked: Asked| async move { told(&asked, order).await };
        Operation::new(Method::POST, path, id, ApiScope::Relays, act)
            .summary(summary)
            .gives::<Told>(StatusCode::ACCEPTED)
            .refuses(StatusCode::NOT_FOUND, "No such relay gives a sign of life.")
    };
    vec![
        Operation::new(Method::GET, "/v1/relays", "relays_list", ApiScope::Read, list)
            .summary("Lists the relays that live, and their load.")
            .gives::<Page<Relay>>(StatusCode::OK),
        order(
            "/v1/relays/{relay}/drain",
            "relays_drain",
            "Has a relay emptied: no new pairs, and those that are there move to others without losing a packet.",
            RelayOrder::Drain,
        ),
        order("/v1/relays/{relay}/resume", "relays_resume", "Has a relay take pairs again.", RelayOrder::Resume),
    ]
}

async fn list(asked: Asked) -> Answer {
    let reply = asked.call(&Relays, incident).await?;
    Done::document(Page::whole(reply.relays.into_iter().map(Relay::from).collect()))
}

async fn told(asked: &Asked, order: RelayOrder) -> Answer {
    let relay: RelayId = asked.path("relay")?;
    let refused = |refusal| match refusal {
        OrderRefusal::NoSuchRelay => Problem::not_found("no such relay gives a sign of life"),
        OrderRefusal::Internal { incident } => Problem::internal(incident),
    };
    asked.order(&OrderRelay { relay, order }, refused).await?;
    let told = Told { relay, draining: order == RelayOrder::Drain };
    Ok(Done::document(&told)?.changed((), &told))
}
