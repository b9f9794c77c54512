//! `GET /v1/relays`: the relays that live, and their load. `POST /v1/relays/{relay}/drain` has one emptied, `/resume` takes
//! that back; the list shows what became of it.

use std::net::SocketAddr;

use actix_web::{HttpRequest, web::Data};
use bus::CallError;
use contract::{
    relay::RelayOrder,
    rendezvous::{OrderRefusal, OrderRelay, RelayBeat, Relays},
};
use domain::{Bandwidth, RelayId, StreamEndpoint};
use serde::Serialize;

use super::{Answer, document, pairs::incident};
use crate::{State, error::Problem, page::Page};

#[derive(Serialize)]
struct Relay {
    relay: RelayId,
    /// Of our own machines: no address of a user.
    endpoints: Vec<SocketAddr>,
    streams: Vec<StreamEndpoint>,
    region: String,
    slots: u32,
    max_slots: u32,
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

pub(super) async fn list(state: Data<State>, request: HttpRequest) -> Answer {
    if !request.query_string().is_empty() {
        return Err(Problem::invalid("this list takes no parameters"));
    }
    let reply = state.bus.call(&Relays).await.map_err(|error| Problem::of_call(&error, incident))?;
    let items: Vec<Relay> = reply.relays.into_iter().map(Relay::from).collect();
    document(Page::new(items, false, |relay| relay.relay.to_string()))
}

/// No new pairs; those that are there move to other relays without losing a packet.
pub(super) async fn drain(state: Data<State>, request: HttpRequest) -> Answer {
    order(&state, &request, RelayOrder::Drain).await
}

/// Takes pairs again.
pub(super) async fn resume(state: Data<State>, request: HttpRequest) -> Answer {
    order(&state, &request, RelayOrder::Resume).await
}

async fn order(state: &State, request: &HttpRequest, order: RelayOrder) -> Answer {
    let text = request.match_info().get("relay").unwrap_or_default();
    let relay: RelayId = text.parse().map_err(|error| Problem::invalid(format!("relay: {error}")))?;
    match state.bus.call(&OrderRelay { relay, order }).await {
        Ok(()) => document(serde_json::json!({ "relay": relay, "draining": order == RelayOrder::Drain })),
        Err(CallError::Refused(OrderRefusal::NoSuchRelay)) => {
            Err(Problem::not_found("no such relay gives a sign of life"))
        }
        Err(CallError::Refused(OrderRefusal::Internal { incident })) => Err(Problem::internal(incident)),
        Err(error) => Err(Problem::of_call(&error, |_| None)),
    }
}
