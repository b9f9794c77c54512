//! `GET /v1/networks`: all networks with their seats.

use actix_web::http::{Method, StatusCode};
use contract::network::{NetworkRow, Networks, operators::FindNetworks};
use domain::{ApiScope, ClientId, NetworkId, NetworkKind, NetworkName, Revision, UnixMillis};
use serde::Serialize;
use utoipa::ToSchema;

use super::sessions::incident;
use crate::{
    asked::Asked,
    operation::{Answer, Done, Operation},
    page::{self, Page},
    parameter::{Kind, Parameter},
    schema::Id,
};

/// A network.
#[derive(Serialize, ToSchema)]
pub(super) struct Network {
    #[schema(value_type = Id)]
    network: NetworkId,
    #[schema(value_type = String)]
    name: NetworkName,
    #[schema(value_type = Id)]
    owner: ClientId,
    members: u32,
    seats: u32,
    /// Which of its members meet: in a `mesh` all; in a `hub` network its hubs everybody and the others its hubs only; in a
    /// `gateway` network the same, and hubs may lead to networks behind them.
    #[schema(value_type = String)]
    kind: NetworkKind,
    /// Raised by every change.
    #[schema(value_type = u64)]
    revision: Revision,
    #[schema(value_type = u64)]
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
            kind: row.kind,
            revision: row.revision,
            created_ms: row.created,
        }
    }
}

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(Method::GET, "/v1/networks", "networks_list", ApiScope::Read, list)
            .summary("Lists networks, by id, or by name where that is searched for.")
            .query(page::PARAMETERS)
            .query([Parameter::new("name", Kind::Text, "Only those whose name begins so, or looks as if it did.")])
            .gives::<Page<Network>>(StatusCode::OK),
    ]
}

async fn list(asked: Asked) -> Answer {
    if let Some(begin) = asked.query.get("name") {
        // What a name and its beginning are compared by; see `NetworkName::key`.
        let prefix = begin.parse::<NetworkName>().map_or_else(|_| begin.to_lowercase(), |name| name.key());
        let (limit, after) = asked.page("networks by name")?;
        let found = asked.call(&FindNetworks { prefix, after, limit }, incident).await?;
        let items: Vec<Network> = found.networks.into_iter().map(Network::from).collect();
        return Done::document(Page::until("networks by name", items, found.next));
    }
    let (limit, after) = asked.page("networks")?;
    let page = asked.call(&Networks { after, limit }, incident).await?;
    let items: Vec<Network> = page.networks.into_iter().map(Network::from).collect();
    Done::document(Page::new("networks", items, page.more, |network| network.network))
}
