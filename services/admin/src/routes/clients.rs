//! `/v1/clients`: who is registered.

use std::net::Ipv4Addr;

use actix_web::http::{Method, StatusCode};
use contract::{
    account::AccountOfClient,
    auth::operators::{AssignPlan, ClientPlace, ClientRow, ClientSearch, FindClients},
    network::operators::Whereabouts,
};
use domain::{AccountId, ApiScope, ClientId, Nickname, PayerId, Role, UnixMillis};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    networks::Network,
    plans::refused,
    sessions::{Session, incident},
    usage,
};
use crate::{
    asked::Asked,
    error::Problem,
    operation::{Answer, Done, Operation},
    page::{self, Page},
    parameter::{Kind, Parameter, first_and_last},
    precondition::tag_of,
    schema::Id,
};

/// A client.
#[derive(Clone, Serialize, ToSchema)]
pub(super) struct Client {
    #[schema(value_type = Id)]
    client: ClientId,
    #[schema(value_type = Option<String>)]
    nick: Option<Nickname>,
    plan: String,
    blocked: bool,
    /// The virtual address, once it joined a network.
    #[schema(value_type = Option<String>)]
    address4: Option<Ipv4Addr>,
    #[schema(value_type = u64)]
    registered_ms: UnixMillis,
    /// The last login or change.
    #[schema(value_type = u64)]
    seen_ms: UnixMillis,
}

/// One client.
#[derive(Serialize, ToSchema)]
#[schema(as = ClientDetails)]
struct Details {
    #[serde(flatten)]
    client: Client,
    /// The account that it is attached to.
    #[schema(value_type = Option<Id>)]
    account: Option<AccountId>,
    /// `null` while it is offline.
    session: Option<Session>,
    networks: Vec<Membership>,
    /// The newest month first.
    usage: Vec<usage::Relayed>,
}

/// A network and what a client is in it.
#[derive(Serialize, ToSchema)]
struct Membership {
    /// `owner`, `admin` or `member`.
    #[schema(value_type = String)]
    role: Role,
    #[serde(flatten)]
    network: Network,
}

/// Which plan a client has.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ClientPlan)]
struct PlanOf {
    #[schema(min_length = 1, max_length = 200)]
    plan: String,
}

impl From<ClientRow> for Client {
    fn from(row: ClientRow) -> Self {
        Self {
            address4: row.address(),
            client: row.client,
            nick: row.nick,
            plan: row.plan,
            blocked: row.blocked,
            registered_ms: row.registered,
            seen_ms: row.seen,
        }
    }
}

pub(super) fn operations() -> Vec<Operation> {
    let missing = "There is no such client.";
    vec![
        Operation::new(Method::GET, "/v1/clients", "clients_list", ApiScope::Read, list)
            .summary("Lists clients, by id, or by nickname where that is searched for.")
            .query(page::PARAMETERS)
            .query([
                Parameter::new("id", Kind::IdPrefix, "Only those whose id begins so."),
                Parameter::new("nick", Kind::Text, "Only those whose nickname begins so, in whatever case."),
                Parameter::new("address", Kind::Address, "Only the one with this virtual address."),
            ])
            .gives::<Page<Client>>(StatusCode::OK),
        Operation::new(Method::GET, "/v1/clients/{client}", "clients_show", ApiScope::Read, show)
            .summary("Shows a client, with its session, its networks, and what was relayed for it.")
            .gives::<Details>(StatusCode::OK)
            .refuses(StatusCode::NOT_FOUND, missing),
        Operation::new(Method::GET, "/v1/clients/{client}/plan", "clients_plan", ApiScope::Read, plan)
            .summary("Shows which plan a client has.")
            .gives::<PlanOf>(StatusCode::OK)
            .tagged()
            .refuses(StatusCode::NOT_FOUND, missing),
        Operation::new(Method::PUT, "/v1/clients/{client}/plan", "clients_assign_plan", ApiScope::Accounts, assign)
            .summary("Puts a client on another plan. Nothing is taken away from it: limits count for what comes next.")
            .takes::<PlanOf>()
            .gives::<PlanOf>(StatusCode::OK)
            .conditional()
            .refuses(StatusCode::NOT_FOUND, missing)
            .refuses(StatusCode::CONFLICT, "There is no such plan."),
    ]
}

async fn list(asked: Asked) -> Answer {
    let (limit, after) = asked.page::<ClientPlace>("clients")?;
    let searched = [
        asked.query.get("id").map(|digits| with_digits(digits)),
        asked.query.get("nick").map(|nick| ClientSearch::Nick(nick.clone())),
        asked.query::<Ipv4Addr>("address")?.map(|address| ClientSearch::Address(address.to_bits())),
    ];
    let mut searched = searched.into_iter().flatten();
    let search = searched.next().unwrap_or_else(|| with_digits(""));
    if searched.next().is_some() {
        return Err(Problem::invalid("id, nick and address: one of them"));
    }
    let found = asked.order(&FindClients { search, after, limit }, refused).await?;
    let items: Vec<Client> = found.clients.into_iter().map(Client::from).collect();
    Done::document(Page::until("clients", items, found.next))
}

async fn show(asked: Asked) -> Answer {
    let client = existing(&asked).await?;
    let usage = usage::of(&asked, PayerId::from(client.client)).await?;
    let found = asked.call(&Whereabouts { client: client.client }, incident).await?;
    let networks = found.networks.into_iter();
    let networks = networks.map(|row| Membership { role: row.role, network: Network::from(row.network) }).collect();
    let account = account_of(&asked, client.client).await?;
    Done::document(Details { client, account, session: found.session.map(Session::from), networks, usage })
}

async fn plan(asked: Asked) -> Answer {
    let plan = PlanOf { plan: existing(&asked).await?.plan };
    let tag = tag_of(&plan);
    Ok(Done::document(plan)?.tagged(tag))
}

async fn assign(asked: Asked) -> Answer {
    let wanted: PlanOf = asked.body()?;
    let before = existing(&asked).await?;
    let (client, before) = (before.client, PlanOf { plan: before.plan });
    asked.precondition.expect(&tag_of(&before))?;
    let expected = (!asked.precondition.is_any()).then(|| before.plan.clone());
    asked.order(&AssignPlan { client, plan: wanted.plan.clone(), expected }, refused).await?;
    let tag = tag_of(&wanted);
    Ok(Done::document(&wanted)?.tagged(tag).changed(before, &wanted))
}

/// The account that `client` is attached to.
pub(super) async fn account_of(asked: &Asked, client: ClientId) -> Result<Option<AccountId>, Problem> {
    let belongs = asked.order(&AccountOfClient { client }, crate::self_service::refusal::of).await?;
    Ok(belongs.account.map(|account| account.account))
}

/// The client that the path names.
pub(super) async fn existing(asked: &Asked) -> Result<Client, Problem> {
    let client: ClientId = asked.path("client")?;
    let call = FindClients { search: ClientSearch::Ids(client, client), after: None, limit: 1 };
    let found = asked.order(&call, refused).await?.clients.into_iter().next();
    found.map(Client::from).ok_or_else(|| Problem::not_found("there is no such client"))
}

/// Ids that begin with these digits.
fn with_digits(digits: &str) -> ClientSearch {
    let (first, last) = first_and_last(digits);
    ClientSearch::Ids(ClientId::from_bytes(first), ClientId::from_bytes(last))
}
