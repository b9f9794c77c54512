//! `GET /v1/account/networks`: my networks as lists of members, each with a state, in the spirit of an instant messenger.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use actix_web::http::Method;
use contract::{
    account::ViewAccount,
    network::{self, Snapshot},
    rendezvous::{self, Pair},
};
use domain::{AccountNetwork, ClientId, Member, NetworkId, NetworkName, Nickname, PairOutcome, PeerPresence, Role};
use futures_util::{StreamExt as _, stream};
use serde::Serialize;

use super::{
    Adding,
    ask::{Ask, Reply},
};
use crate::error::Problem;

/// Pairs that are asked for at once, and for one answer: beyond that members are shown without their path.
const AT_ONCE: usize = 16;
const PAIRS: usize = 512;

pub(crate) fn routes(adding: &mut Adding<'_>) {
    adding.on(Method::GET, "/v1/account/networks", list);
}

/// A network as one client of the account sees it.
#[derive(Serialize)]
struct View {
    network: NetworkId,
    name: NetworkName,
    /// It belongs to the account, not only to one of its clients.
    attached: bool,
    /// The client of the account that states are as seen from.
    seen_by: ClientId,
    owner: ClientId,
    seats: u32,
    /// `member`, or `awaiting-approval`: then there are no members to see.
    standing: &'static str,
    members: Vec<Line>,
}

/// A member.
#[derive(Serialize)]
struct Line {
    client: ClientId,
    nick: Option<Nickname>,
    address4: Option<Ipv4Addr>,
    address6: Ipv6Addr,
    role: Role,
    state: State,
    /// In plain words, for pairs that are relayed.
    why: Option<String>,
}

/// What a status dot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    /// The client that looks.
    Own,
    Direct,
    Relayed,
    /// Online; how is not known yet, or not any more.
    Online,
    Offline,
}

async fn list(ask: Ask) -> Result<Reply, Problem> {
    let view = ask.call(&ViewAccount { session: ask.session()?, account: ask.account()? }).await?;
    let mut members = BTreeMap::new();
    for client in seers(&view.networks) {
        for change in snapshot(&ask, client).await? {
            members.insert((client, change.0), change.1);
        }
    }
    let mut networks = Vec::new();
    let mut pairs = PAIRS;
    for network in view.networks {
        let seen = members.remove(&(network.seen_by, network.network)).unwrap_or_default();
        let asked = pairs.min(seen.len());
        pairs -= asked;
        let lines = lines(&ask, network.seen_by, seen, asked).await;
        networks.push(View {
            network: network.network,
            name: network.name,
            attached: network.attached,
            seen_by: network.seen_by,
            owner: network.owner,
            seats: network.seats,
            standing: if network.awaiting { "awaiting-approval" } else { "member" },
            members: lines,
        });
    }
    Reply::document(serde_json::json!({ "items": networks }))
}

/// The clients with whose eyes networks are seen, each once.
fn seers(networks: &[AccountNetwork]) -> Vec<ClientId> {
    let mut seers: Vec<_> = networks.iter().filter(|one| !one.awaiting).map(|one| one.seen_by).collect();
    seers.sort_unstable();
    seers.dedup();
    seers
}

/// All members of all networks of `client`, with their presence.
async fn snapshot(ask: &Ask, client: ClientId) -> Result<Vec<(NetworkId, Vec<Member>)>, Problem> {
    let internal = |refusal: &network::Refusal| {
        if let network::Refusal::Internal { incident } = refusal { Some(*incident) } else { None }
    };
    let snapped = ask.desk.bus.call(&Snapshot { client, known: Vec::new() }).await;
    let snapped = snapped.map_err(|error| Problem::of_call(&error, internal))?;
    Ok(snapped.changes.into_iter().map(|change| (change.network, change.members)).collect())
}

async fn lines(ask: &Ask, own: ClientId, members: Vec<Member>, pairs: usize) -> Vec<Line> {
    let present = members.into_iter().filter(|member| !member.gone).enumerate();
    let lines = stream::iter(present).map(|(nth, member)| line(ask, own, member, nth < pairs)).buffered(AT_ONCE);
    lines.collect().await
}

async fn line(ask: &Ask, own: ClientId, member: Member, look: bool) -> Line {
    let online = matches!(member.presence, Some(PeerPresence::Online));
    let record = if look && online && member.client != own {
        // A pair that cannot be asked for is a member without a path: the list is of use all the same.
        ask.desk
            .bus
            .call(&Pair { a: own, b: member.client })
            .await
            .ok()
            .and_then(|reply: rendezvous::PairReply| reply.record)
    } else {
        None
    };
    let state = match (&record, online) {
        _ if member.client == own => State::Own,
        (_, false) => State::Offline,
        (None, true) => State::Online,
        (Some(record), true) => match record.outcome {
            PairOutcome::Direct => State::Direct,
            PairOutcome::Relayed => State::Relayed,
            PairOutcome::Pending => State::Online,
        },
    };
    let why = record.filter(|_| state == State::Relayed).map(|record| record.hint).filter(|hint| !hint.is_empty());
    Line {
        client: member.client,
        nick: member.nick,
        address4: member.addresses.v4,
        address6: member.addresses.v6,
        role: member.role,
        state,
        why,
    }
}
