//! `GET /v1/networks`: all networks with their seats.

use actix_web::{HttpRequest, web::Data};
use contract::network::{NetworkRow, Networks};
use domain::{ClientId, NetworkId, NetworkName, Revision, UnixMillis};
use serde::Serialize;

use super::{Answer, document, sessions::incident};
use crate::{
    State,
    error::Problem,
    page::{Page, Wanted},
};

#[derive(Serialize)]
struct Network {
    network: NetworkId,
    name: NetworkName,
    owner: ClientId,
    members: u32,
    seats: u32,
    revision: Revision,
    created_ms: UnixMillis,
}

impl From<NetworkRow> for Network {
    fn from(row: NetworkRow) -> Self {
        Self {
            network: row.network,
            name: row.name,
            owner: row.owner,
            members: row.members,
            seats: row.seats,
            revision: row.revision,
            created_ms: row.created,
        }
    }
}

pub(super) async fn list(state: Data<State>, request: HttpRequest) -> Answer {
    let (limit, after) = Wanted::read(request.query_string())?;
    let page = state.bus.call(&Networks { after, limit }).await.map_err(|error| Problem::of_call(&error, incident))?;
    let items: Vec<Network> = page.networks.into_iter().map(Network::from).collect();
    document(Page::new(items, page.more, |network| network.network.to_string()))
}
