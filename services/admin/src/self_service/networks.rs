//! `GET /v1/account/networks`: my networks as lists of members, each with a state, in the spirit of an instant messenger.
//!
//! A network is seen with the eyes of one client of the account: the one that the query names (`from`), or else one that is
//! online. Nothing is shown that this client does not know itself: names, virtual addresses and roles of members, how it is
//! connected to them, and who waits to come in where it decides about that. Of members that belong to others it is not said
//! whose they are, nor where they are.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
};

use actix_web::http::Method;
use contract::{
    account::{AccountRefusal, ViewAccount},
    network::{self, Snapshot, operators::ShowNetwork},
    rendezvous::{self, Pair},
};
use domain::{
    AccountId, AccountNetwork, ClientId, Member, NetworkId, NetworkName, Nickname, Outsider, PairOutcome, PairRecord,
    PeerPresence, Role, Via,
};
use futures_util::{StreamExt as _, stream};
use serde::Serialize;

use super::{
    Adding,
    ask::{Ask, Reply},
    refusal,
};
use crate::error::Problem;

/// Pairs that are asked for at once, and for one answer: beyond that members are shown without their path.
const AT_ONCE: usize = 16;
const PAIRS: usize = 512;
/// Networks that are put together at once.
const NETWORKS: usize = 4;

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
    /// Whether `members` holds them all. A client in very many networks cannot be shown everything at once.
    complete: bool,
    members: Vec<Line>,
    /// Who waits to come in, where a client of the account decides about that.
    applicants: Vec<Outsider>,
}

/// A member.
#[derive(Serialize)]
struct Line {
    client: ClientId,
    nick: Option<Nickname>,
    address4: Option<Ipv4Addr>,
    address6: Ipv6Addr,
    role: Role,
    /// It is a client of the account.
    mine: bool,
    online: bool,
    /// It meets the others; it does not while the plan allows fewer members than there are.
    seated: bool,
    state: State,
    /// What a direct path runs over.
    via: Option<Via>,
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

/// A network that is about to be shown.
struct Seen {
    network: AccountNetwork,
    /// `None`: they are not known.
    members: Option<Vec<Member>>,
    eyes: ClientId,
    /// Pairs that may be asked for.
    pairs: usize,
}

async fn list(ask: Ask) -> Result<Reply, Problem> {
    let [account, from] = ask.ids(["account", "from"])?;
    let (account, from) = (account.map(AccountId::from_bytes), from.map(ClientId::from_bytes));
    let view = ask.call(&ViewAccount { session: ask.session()?, account }).await?;
    let mine: BTreeSet<_> = view.clients.iter().map(|client| client.client).collect();
    if from.is_some_and(|from| !mine.contains(&from)) {
        return Err(refusal::of(AccountRefusal::Unknown));
    }
    let _turn = ask.turn().await?;
    let wanted: BTreeSet<_> = view.networks.iter().map(|one| (one.seen_by, one.network)).collect();
    let mut members: BTreeMap<(ClientId, NetworkId), Vec<Member>> = BTreeMap::new();
    for client in seers(&view.networks) {
        // A client may be in many more networks than those that are seen with its eyes.
        let seen = snapshot(&ask, client).await?.into_iter().map(|(network, seen)| ((client, network), seen));
        members.extend(seen.filter(|(key, _)| wanted.contains(key)));
    }
    let mut pairs = PAIRS;
    let mut seen = Vec::new();
    for network in view.networks {
        let members = members.remove(&(network.seen_by, network.network));
        let eyes = eyes(&network, members.as_deref().unwrap_or_default(), &mine, from);
        let asked = pairs.min(members.as_ref().map_or(0, Vec::len));
        pairs -= asked;
        seen.push(Seen { network, members, eyes, pairs: asked });
    }
    let views = stream::iter(seen).map(|seen| show(&ask, seen, &mine)).buffered(NETWORKS);
    let views: Vec<Result<View, Problem>> = views.collect().await;
    let items = views.into_iter().collect::<Result<Vec<_>, _>>()?;
    Reply::document(serde_json::json!({ "items": items }))
}

/// The clients whose networks are asked for, each once.
fn seers(networks: &[AccountNetwork]) -> Vec<ClientId> {
    let mut seers: Vec<_> = networks.iter().filter(|one| !one.awaiting).map(|one| one.seen_by).collect();
    seers.sort_unstable();
    seers.dedup();
    seers
}

/// With whose eyes a network is seen: `from` where that is a member, or else whoever is online.
fn eyes(network: &AccountNetwork, members: &[Member], mine: &BTreeSet<ClientId>, from: Option<ClientId>) -> ClientId {
    let own = || members.iter().filter(|member| mine.contains(&member.client));
    let asked = own().find(|member| Some(member.client) == from);
    let usual = own().find(|member| member.client == network.seen_by && online(member));
    let any = || own().find(|member| online(member));
    asked.or(usual).or_else(any).map_or(network.seen_by, |member| member.client)
}

fn online(member: &Member) -> bool {
    matches!(member.presence, Some(PeerPresence::Online))
}

/// All members of all networks of `client`, with their presence.
async fn snapshot(ask: &Ask, client: ClientId) -> Result<Vec<(NetworkId, Vec<Member>)>, Problem> {
    let snapped = ask.desk.bus.call(&Snapshot { client, known: Vec::new() }).await;
    let snapped = snapped.map_err(|error| Problem::of_call(&error, internal))?;
    let present = |members: Vec<Member>| members.into_iter().filter(|member| !member.gone).collect();
    Ok(snapped.changes.into_iter().map(|change| (change.network, present(change.members))).collect())
}

fn internal(refusal: &network::Refusal) -> Option<u64> {
    if let network::Refusal::Internal { incident } = refusal { Some(*incident) } else { None }
}

async fn show(ask: &Ask, seen: Seen, mine: &BTreeSet<ClientId>) -> Result<View, Problem> {
    let Seen { network, members, eyes, pairs } = seen;
    let complete = members.is_some() || network.awaiting;
    let members = members.unwrap_or_default();
    let decides = |member: &Member| mine.contains(&member.client) && matches!(member.role, Role::Owner | Role::Admin);
    let applicants = if members.iter().any(decides) { applicants(ask, network.network).await? } else { Vec::new() };
    // Who has no seat meets nobody here, whatever it has elsewhere.
    let awake = members.iter().any(|member| member.client == eyes && online(member) && !member.unseated);
    let lines = members.into_iter().enumerate().map(|(nth, member)| {
        let look = nth < pairs && awake && online(&member) && !member.unseated && member.client != eyes;
        async move {
            let record = if look { record(ask, eyes, member.client).await } else { None };
            line(member, eyes, mine, record)
        }
    });
    Ok(View {
        network: network.network,
        name: network.name,
        attached: network.attached,
        seen_by: eyes,
        owner: network.owner,
        seats: network.seats,
        standing: if network.awaiting { "awaiting-approval" } else { "member" },
        complete,
        members: stream::iter(lines).buffered(AT_ONCE).collect().await,
        applicants,
    })
}

/// Who waits to come in.
async fn applicants(ask: &Ask, network: NetworkId) -> Result<Vec<Outsider>, Problem> {
    let shown = ask.desk.bus.call(&ShowNetwork { network }).await;
    let shown = shown.map_err(|error| Problem::of_call(&error, internal))?;
    Ok(shown.network.map(|details| details.admissions.applicants).unwrap_or_default())
}

/// How a pair is connected. One that cannot be asked for is a member without a path: the list is of use all the same.
async fn record(ask: &Ask, a: ClientId, b: ClientId) -> Option<PairRecord> {
    let reply: rendezvous::PairReply = ask.desk.bus.call(&Pair { a, b }).await.ok()?;
    reply.record
}

fn line(member: Member, eyes: ClientId, mine: &BTreeSet<ClientId>, record: Option<PairRecord>) -> Line {
    let online = online(&member);
    let state = match record.as_ref().map(|record| record.outcome) {
        _ if member.client == eyes => State::Own,
        _ if !online => State::Offline,
        None => State::Online,
        Some(PairOutcome::Direct) => State::Direct,
        // Until a direct path is looked for, and while it is, the relay carries the pair.
        Some(PairOutcome::Relayed | PairOutcome::Pending) => State::Relayed,
    };
    let (via, why) = record.map_or((None, None), |record| (record.via, Some(record.hint)));
    Line {
        client: member.client,
        nick: member.nick,
        address4: member.addresses.v4,
        address6: member.addresses.v6,
        role: member.role,
        mine: mine.contains(&member.client),
        online,
        seated: !member.unseated,
        state,
        via: via.filter(|_| state == State::Direct),
        why: why.filter(|why| state == State::Relayed && !why.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use domain::{IdentityKey, Revision, Signature, TunnelKey, VirtualAddresses};

    use super::*;

    #[test]
    fn a_network_is_seen_with_the_eyes_of_a_client_that_is_awake() {
        let mine = BTreeSet::from([client(1), client(2)]);
        let seen = |awake: &[u8], from: Option<u8>| {
            let members: Vec<_> = (1..=3).map(|nth| member(nth, awake.contains(&nth))).collect();
            eyes(&network(), &members, &mine, from.map(client))
        };
        assert_eq!(seen(&[1, 2, 3], None), client(1), "the usual one");
        assert_eq!(seen(&[2, 3], None), client(2), "it sleeps");
        assert_eq!(seen(&[3], None), client(1), "never with others' eyes");
        assert_eq!(seen(&[1], Some(2)), client(2), "as asked, also while it sleeps");
        assert_eq!(seen(&[1], Some(3)), client(1), "others are not asked for");
        assert_eq!(eyes(&network(), &[], &mine, Some(client(2))), client(1), "who is no member sees nothing");
    }

    #[test]
    fn a_dot_says_what_is_known() {
        let mine = BTreeSet::from([client(1)]);
        let state = |nth, awake, outcome: Option<PairOutcome>| {
            let record = outcome.map(|outcome| PairRecord { outcome, ..pair() });
            let line = line(member(nth, awake), client(1), &mine, record);
            (line.state, line.via, line.why)
        };
        let why = || Some("both routers are hard".to_owned());
        assert_eq!(state(1, true, None), (State::Own, None, None));
        assert_eq!(state(2, false, None), (State::Offline, None, None));
        assert_eq!(state(2, false, Some(PairOutcome::Direct)), (State::Offline, None, None), "an old record");
        assert_eq!(state(2, true, None), (State::Online, None, None));
        assert_eq!(state(2, true, Some(PairOutcome::Direct)), (State::Direct, Some(Via::Lan), None));
        assert_eq!(state(2, true, Some(PairOutcome::Relayed)), (State::Relayed, None, why()));
        assert_eq!(state(2, true, Some(PairOutcome::Pending)), (State::Relayed, None, why()));
    }

    fn client(nth: u8) -> ClientId {
        ClientId::from_bytes([nth; 16])
    }

    fn network() -> AccountNetwork {
        AccountNetwork {
            network: NetworkId::from_bytes([9; 16]),
            name: "friday".parse().unwrap(),
            owner: client(3),
            members: 3,
            seats: 5,
            attached: false,
            seen_by: client(1),
            awaiting: false,
        }
    }

    fn member(nth: u8, awake: bool) -> Member {
        Member {
            client: client(nth),
            identity: IdentityKey::from_bytes([nth; 32]),
            tunnel: TunnelKey::from_bytes([nth; 32]),
            tunnel_signature: Signature::from_bytes([nth; 64]),
            nick: None,
            addresses: VirtualAddresses { v4: None, v6: Ipv6Addr::LOCALHOST },
            revision: Revision(1),
            gone: false,
            presence: Some(if awake { PeerPresence::Online } else { PeerPresence::Offline }),
            role: Role::Member,
            hub: false,
            unseated: false,
            kept: false,
            routes: Vec::new(),
            lineage: None,
        }
    }

    fn pair() -> PairRecord {
        PairRecord {
            a: client(1),
            b: client(2),
            class_a: None,
            class_b: None,
            strategy: domain::Strategy::Relay,
            outcome: PairOutcome::Pending,
            attempts: 0,
            started: domain::UnixMillis(1),
            took_ms: 0,
            packets: 0,
            relay: None,
            hint: "both routers are hard".into(),
            trace: 0,
            via: Some(Via::Lan),
            budget: 0,
            places: [0; 2],
            choice: None,
        }
    }
}
