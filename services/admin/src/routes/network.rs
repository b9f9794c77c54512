//! `/v1/networks/{network}`: one network, who is in it and who is not let in, and what operators do to it in the place of its
//! owner. Its secrets are nobody's business here.

use std::net::Ipv4Addr;

use actix_web::http::{Method, StatusCode};
use contract::network::{
    Refusal,
    operators::{Govern, GovernRefusal, MemberRow, Members, NetworkDetails, ShowNetwork},
};
use domain::{
    AccountId, ApiScope, ClientId, Invite, InviteId, NetworkId, NetworkName, NetworkOrder, Nickname, Outsider,
    Revision, Role, UnixMillis,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{clients::account_of, networks::Network, sessions::incident};
use crate::{
    asked::Asked,
    error::Problem,
    operation::{Answer, Done, Operation},
    page::{self, Page},
    precondition,
    schema::Id,
};

/// One network.
#[derive(Serialize, ToSchema)]
#[schema(as = NetworkDetails)]
struct Details {
    #[serde(flatten)]
    network: Network,
    /// Nobody comes in.
    locked: bool,
    /// Who comes in by password waits for an owner or admin.
    approval: bool,
    applicants: Vec<Person>,
    bans: Vec<Person>,
}

/// One network, and whose it is.
#[derive(Serialize, ToSchema)]
#[schema(as = NetworkShown)]
struct Shown {
    #[serde(flatten)]
    network: Details,
    /// The account that the client is attached to which owns the network.
    #[schema(value_type = Option<Id>)]
    account: Option<AccountId>,
}

/// Somebody who waits to come in, or must not.
#[derive(Serialize, ToSchema)]
#[schema(as = Outsider)]
struct Person {
    #[schema(value_type = Id)]
    client: ClientId,
    #[schema(value_type = Option<String>)]
    nick: Option<Nickname>,
    /// When it asked, or was banned.
    #[schema(value_type = u64)]
    since_ms: UnixMillis,
}

/// A member of a network.
#[derive(Serialize, ToSchema)]
struct Member {
    #[schema(value_type = Id)]
    client: ClientId,
    #[schema(value_type = Option<String>)]
    nick: Option<Nickname>,
    /// `owner`, `admin` or `member`.
    #[schema(value_type = String)]
    role: Role,
    /// The virtual address.
    #[schema(value_type = Option<String>)]
    address4: Option<Ipv4Addr>,
    #[schema(value_type = u64)]
    joined_ms: UnixMillis,
    online: bool,
    /// It meets the others; it does not while the plan allows fewer members than there are.
    seated: bool,
    /// The owner wants it to stay seated before others.
    kept: bool,
}

/// A link that lets in without the password. What the link holds is known to its makers only.
#[derive(Serialize, ToSchema)]
#[schema(as = Invite)]
struct Link {
    #[schema(value_type = Id)]
    invite: InviteId,
    #[schema(value_type = Id)]
    maker: ClientId,
    uses: u32,
    remaining: u32,
    #[schema(value_type = u64)]
    expires_ms: UnixMillis,
}

/// What a network is to be: one of these.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Terms {
    #[schema(min_length = 1, max_length = 64)]
    name: Option<String>,
    locked: Option<bool>,
    approval: Option<bool>,
    /// The member that owns it from now on.
    #[schema(value_type = Option<Id>)]
    owner: Option<ClientId>,
}

/// The revision that a change made.
#[derive(Serialize, ToSchema)]
struct Changed {
    #[schema(value_type = Id)]
    network: NetworkId,
    #[schema(value_type = u64)]
    revision: Revision,
}

impl From<NetworkDetails> for Details {
    fn from(details: NetworkDetails) -> Self {
        let people = |outsiders: Vec<Outsider>| outsiders.into_iter().map(Person::from).collect();
        Self {
            network: Network::from(details.row),
            locked: details.terms.locked,
            approval: details.terms.approval,
            applicants: people(details.admissions.applicants),
            bans: people(details.admissions.bans),
        }
    }
}

impl From<Outsider> for Person {
    fn from(outsider: Outsider) -> Self {
        Self { client: outsider.client, nick: outsider.nick, since_ms: outsider.since }
    }
}

impl From<MemberRow> for Member {
    fn from(row: MemberRow) -> Self {
        Self {
            client: row.client,
            nick: row.nick,
            role: row.role,
            address4: row.v4.map(Ipv4Addr::from_bits),
            joined_ms: row.joined,
            online: row.online,
            seated: !row.unseated,
            kept: row.kept,
        }
    }
}

impl From<Invite> for Link {
    fn from(invite: Invite) -> Self {
        Self {
            invite: invite.id,
            maker: invite.maker,
            uses: invite.uses,
            remaining: invite.remaining,
            expires_ms: invite.expires,
        }
    }
}

const MISSING: &str = "There is no such network, or nothing of that id in it.";

pub(super) fn operations() -> Vec<Operation> {
    let order = |method, path, id, summary, order: fn(&Asked) -> Result<NetworkOrder, Problem>| {
        let act = move |asked: Asked| async move { governed(&asked, order(&asked)?).await };
        Operation::new(method, path, id, ApiScope::Write, act)
            .summary(summary)
            .gives::<Changed>(StatusCode::OK)
            .refuses(StatusCode::NOT_FOUND, MISSING)
            .refuses(StatusCode::CONFLICT, "The network does not allow it as it is.")
    };
    vec![
        Operation::new(Method::GET, "/v1/networks/{network}", "networks_show", ApiScope::Read, show)
            .summary("Shows a network, who waits to come in, and who must not.")
            .gives::<Shown>(StatusCode::OK)
            .tagged()
            .refuses(StatusCode::NOT_FOUND, "There is no such network."),
        Operation::new(Method::GET, "/v1/networks/{network}/members", "members_list", ApiScope::Read, members)
            .summary("Lists the members of a network, by id. Of a network that there is not: none.")
            .query(page::PARAMETERS)
            .gives::<Page<Member>>(StatusCode::OK),
        Operation::new(Method::GET, "/v1/networks/{network}/invites", "invites_list", ApiScope::Read, invites)
            .summary("Lists the invites that may still let somebody in.")
            .gives::<Page<Link>>(StatusCode::OK)
            .refuses(StatusCode::NOT_FOUND, "There is no such network."),
        Operation::new(Method::PATCH, "/v1/networks/{network}", "networks_change", ApiScope::Write, change)
            .summary("Renames, locks or unlocks a network, asks for approval or waives it, or gives it another owner.")
            .takes::<Terms>()
            .gives::<Changed>(StatusCode::OK)
            .conditional()
            .refuses(StatusCode::NOT_FOUND, MISSING)
            .refuses(StatusCode::CONFLICT, "The name is taken, or the network does not allow it as it is."),
        order(
            Method::DELETE,
            "/v1/networks/{network}",
            "networks_delete",
            "Deletes a network, and with it every membership. There is no way back.",
            |_| Ok(NetworkOrder::Delete),
        )
        .conditional(),
        order(
            Method::DELETE,
            "/v1/networks/{network}/members/{client}",
            "members_remove",
            "Removes a member, who may come back. Not the owner: give the network another one first.",
            |asked| Ok(NetworkOrder::Evict(asked.path("client")?)),
        ),
        order(
            Method::PUT,
            "/v1/networks/{network}/bans/{client}",
            "bans_create",
            "Keeps a client out of a network, and removes it if it is a member.",
            |asked| Ok(NetworkOrder::Ban(asked.path("client")?)),
        ),
        order(Method::DELETE, "/v1/networks/{network}/bans/{client}", "bans_lift", "Lifts a ban.", |asked| {
            Ok(NetworkOrder::Unban(asked.path("client")?))
        }),
        order(
            Method::DELETE,
            "/v1/networks/{network}/invites/{invite}",
            "invites_revoke",
            "Revokes an invite.",
            |asked| Ok(NetworkOrder::Revoke(asked.path("invite")?)),
        ),
    ]
}

async fn show(asked: Asked) -> Answer {
    let details = details(&asked).await?;
    let (tag, owner) = (tag(details.row.revision), details.row.owner);
    let account = account_of(&asked, owner).await?;
    Ok(Done::document(Shown { network: Details::from(details), account })?.tagged(tag))
}

async fn members(asked: Asked) -> Answer {
    let (limit, after) = asked.page("members")?;
    let page = asked.call(&Members { network: asked.path("network")?, after, limit }, incident).await?;
    let items: Vec<Member> = page.members.into_iter().map(Member::from).collect();
    Done::document(Page::new("members", items, page.more, |member| member.client))
}

async fn invites(asked: Asked) -> Answer {
    let invites = details(&asked).await?.admissions.invites;
    Done::document(Page::whole(invites.into_iter().map(Link::from).collect()))
}

async fn change(asked: Asked) -> Answer {
    let terms: Terms = asked.body()?;
    let name = terms.name.map(|name| name.parse::<NetworkName>()).transpose();
    let name = name.map_err(|error| Problem::invalid_body(format!("name: {error}")))?;
    let orders = [
        name.map(NetworkOrder::Rename),
        terms.locked.map(|locked| if locked { NetworkOrder::Lock } else { NetworkOrder::Unlock }),
        terms.approval.map(|asked| if asked { NetworkOrder::AskApproval } else { NetworkOrder::WaiveApproval }),
        terms.owner.map(NetworkOrder::Transfer),
    ];
    let mut orders = orders.into_iter().flatten();
    match (orders.next(), orders.next()) {
        (Some(order), None) => governed(&asked, order).await,
        _ => Err(Problem::invalid_body("name, locked, approval or owner: exactly one expected")),
    }
}

/// Has the network's owner give `order`, as it were.
async fn governed(asked: &Asked, order: NetworkOrder) -> Answer {
    let before = details(asked).await?;
    let (network, revision) = (before.row.network, before.row.revision);
    asked.precondition.expect(&tag(revision))?;
    let expected = (!asked.precondition.is_any()).then_some(revision);
    let after = asked.order(&Govern { network, order: order.clone(), expected }, refused).await?;
    let done = Done::document(Changed { network, revision: after })?.tagged(tag(after));
    Ok(done.changed(Details::from(before), serde_json::json!({ "order": described(&order), "revision": after })))
}

/// An order in words, for the audit log.
fn described(order: &NetworkOrder) -> serde_json::Value {
    let target = order.target().map(|client| client.to_string());
    let word = match order {
        NetworkOrder::Rename(name) => return serde_json::json!({ "rename": name }),
        NetworkOrder::Revoke(invite) => return serde_json::json!({ "revoke": invite }),
        NetworkOrder::Evict(_) => "evict",
        NetworkOrder::Ban(_) => "ban",
        NetworkOrder::Unban(_) => "unban",
        NetworkOrder::Promote(_) => "promote",
        NetworkOrder::Demote(_) => "demote",
        NetworkOrder::Transfer(_) => "transfer",
        NetworkOrder::Approve(_) => "approve",
        NetworkOrder::Reject(_) => "reject",
        NetworkOrder::Lock => "lock",
        NetworkOrder::Unlock => "unlock",
        NetworkOrder::AskApproval => "ask-approval",
        NetworkOrder::WaiveApproval => "waive-approval",
        NetworkOrder::Delete => "delete",
        NetworkOrder::Invite(_) => "invite",
        NetworkOrder::Hub(_) => "hub",
        NetworkOrder::Keep(_) => "keep",
        NetworkOrder::Unkeep(_) => "unkeep",
        NetworkOrder::Spoke(_) => "spoke",
        NetworkOrder::Route(_, prefixes) => return serde_json::json!({ "route": target, "prefixes": prefixes }),
        NetworkOrder::Agree(prefixes) => return serde_json::json!({ "agree": prefixes }),
        NetworkOrder::SetKind(kind) => return serde_json::json!({ "kind": kind }),
    };
    serde_json::json!({ word: target })
}

async fn details(asked: &Asked) -> Result<NetworkDetails, Problem> {
    let reply = asked.call(&ShowNetwork { network: asked.path("network")? }, incident).await?;
    reply.network.ok_or_else(|| Problem::not_found("there is no such network"))
}

fn tag(revision: Revision) -> String {
    format!("\"r{revision}\"")
}

fn refused(refusal: GovernRefusal) -> Problem {
    let refusal = match refusal {
        GovernRefusal::NoSuchNetwork => return Problem::not_found("there is no such network"),
        GovernRefusal::Changed => return precondition::changed(),
        GovernRefusal::Order(refusal) => refusal,
    };
    match refusal {
        Refusal::MemberUnknown => Problem::not_found("there is no such client in the network"),
        Refusal::InviteInvalid => Problem::not_found("there is no such invite"),
        Refusal::NotPermitted => {
            Problem::conflict("is-owner", "that is the owner of the network: give it another one first")
        }
        Refusal::NameTaken => Problem::conflict("name-taken", "a network of this or a confusable name exists"),
        Refusal::LimitReached => Problem::conflict("limit-reached", "the network has as many of these as it may have"),
        Refusal::Internal { incident } => Problem::internal(incident),
        Refusal::NotAMember => Problem::conflict("not-a-member", "the client is no member of the network"),
        Refusal::Full
        | Refusal::PlanLimit
        | Refusal::Denied
        | Refusal::AlreadyMember
        | Refusal::GuessLimit { .. }
        | Refusal::Malformed
        | Refusal::PeerUnknown
        | Refusal::Busy
        | Refusal::RateLimited { .. }
        | Refusal::Banned
        | Refusal::Locked
        | Refusal::AwaitingApproval
        | Refusal::InviteExpired
        | Refusal::InviteUsedUp
        | Refusal::SecretPassed
        | Refusal::NoGateways
        | Refusal::NoSeat
        | Refusal::NotRoutable
        | Refusal::RouteTaken
        | Refusal::Blocked { .. }
        | Refusal::Slowed { .. } => Problem::unavailable(),
    }
}
