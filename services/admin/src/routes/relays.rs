//! `GET /v1/relays`: the relays that live, and their load.

use std::net::SocketAddr;

use actix_web::{HttpRequest, web::Data};
use contract::rendezvous::{RelayBeat, Relays};
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
