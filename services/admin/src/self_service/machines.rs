//! `GET /v1/account/clients`: the clients of the account, which of them are online, and in which networks they are.

use actix_web::http::Method;
use contract::{
    account::ViewAccount,
    network::{self, operators::Whereabouts},
};
use domain::{AccountClient, ClientId, NetworkId, NetworkName, Nickname, Role, UnixMillis};
use futures_util::{StreamExt as _, stream};
use serde::Serialize;

use super::{
    Adding,
    ask::{Ask, Reply},
};
use crate::error::Problem;

/// Clients that are asked about at once.
const AT_ONCE: usize = 16;

pub(crate) fn routes(adding: &mut Adding<'_>) {
    adding.on(Method::GET, "/v1/account/clients", list);
}

/// A client of the account.
#[derive(Serialize)]
struct Machine {
    client: ClientId,
    nick: Option<Nickname>,
    registered_unix_ms: UnixMillis,
    /// The last login or change.
    seen_unix_ms: UnixMillis,
    /// Since when it is online; `null`: it is not.
    online_since_unix_ms: Option<UnixMillis>,
    networks: Vec<Membership>,
}

#[derive(Serialize)]
struct Membership {
    network: NetworkId,
    name: NetworkName,
    role: Role,
}

async fn list(ask: Ask) -> Result<Reply, Problem> {
    let view = ask.call(&ViewAccount { session: ask.session()?, account: ask.account()? }).await?;
    let _turn = ask.turn().await?;
    let machines = stream::iter(view.clients).map(|client| machine(&ask, client)).buffered(AT_ONCE);
    let machines: Vec<Result<Machine, Problem>> = machines.collect().await;
    let items = machines.into_iter().collect::<Result<Vec<_>, _>>()?;
    Reply::document(serde_json::json!({ "items": items }))
}

async fn machine(ask: &Ask, client: AccountClient) -> Result<Machine, Problem> {
    let internal = |refusal: &network::Refusal| {
        if let network::Refusal::Internal { incident } = refusal { Some(*incident) } else { None }
    };
    let found = ask.desk.bus.call(&Whereabouts { client: client.client }).await;
    let found = found.map_err(|error| Problem::of_call(&error, internal))?;
    let membership = |row: network::operators::MembershipRow| Membership {
        network: row.network.network,
        name: row.network.name,
        role: row.role,
    };
    Ok(Machine {
        client: client.client,
        nick: client.nick,
        registered_unix_ms: client.registered,
        seen_unix_ms: client.seen,
        online_since_unix_ms: found.session.map(|session| session.since),
        networks: found.networks.into_iter().map(membership).collect(),
    })
}
