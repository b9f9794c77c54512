//! `/v1/plans`: what there is to have, and `/v1/clients/{client}/plan`: who has it. Where a network
//! has more members than its plan allows, nobody is removed: some have no seat until there is one.

use actix_web::http::{Method, StatusCode};
use contract::auth::operators::{ChangePlan, DropPlan, MakePlan, Plans, Refusal, SeatsLostByPlan};
use domain::{ApiScope, Bandwidth, Quota};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::accounts::PlanChange;
use crate::{
    asked::Asked,
    error::Problem,
    operation::{Answer, Done, Operation},
    page::Page,
    parameter::{Kind, Parameter},
    precondition::{self, tag_of},
};

/// More is no limit that anybody notices.
const MOST: u64 = i64::MAX as u64 - 1;

/// The longest name.
const MAX_NAME: usize = 32;

/// A plan.
#[derive(Serialize, ToSchema)]
struct Plan {
    name: String,
    /// Members of one network, its owner included.
    members_per_network: u32,
    /// Networks that one client may be a member of.
    networks_per_client: u32,
    /// What one pair may send through a relay; `null`: no limit.
    relay_bytes_per_second: Option<u64>,
    /// What may be relayed in a month; `null`: no limit.
    relay_bytes_per_month: Option<u64>,
}

/// What a plan allows.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Limits {
    /// Members of one network, its owner included.
    #[schema(minimum = 1, maximum = 256)]
    members_per_network: u32,
    /// Networks that one client may be a member of.
    #[schema(minimum = 1, maximum = 256)]
    networks_per_client: u32,
    /// What one pair may send through a relay; `null`: no limit.
    #[schema(minimum = 0, maximum = 9_223_372_036_854_775_806_i64)]
    relay_bytes_per_second: Option<u64>,
    /// What may be relayed in a month; `null`: no limit.
    #[schema(minimum = 0, maximum = 9_223_372_036_854_775_806_i64)]
    relay_bytes_per_month: Option<u64>,
}

/// A plan, and who loses a seat by its change.
#[derive(Serialize, ToSchema)]
struct ChangedPlan {
    #[serde(flatten)]
    plan: Plan,
    #[serde(flatten)]
    change: PlanChange,
}

/// A plan to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewPlan {
    /// Lower case letters, digits and hyphens.
    #[schema(pattern = "^[a-z][a-z0-9-]{0,31}$")]
    name: String,
    /// Members of one network, its owner included.
    #[schema(minimum = 1, maximum = 256)]
    members_per_network: u32,
    /// Networks that one client may be a member of.
    #[schema(minimum = 1, maximum = 256)]
    networks_per_client: u32,
    /// What one pair may send through a relay; `null`: no limit.
    #[schema(minimum = 0, maximum = 9_223_372_036_854_775_806_i64)]
    relay_bytes_per_second: Option<u64>,
    /// What may be relayed in a month; `null`: no limit.
    #[schema(minimum = 0, maximum = 9_223_372_036_854_775_806_i64)]
    relay_bytes_per_month: Option<u64>,
}

impl From<domain::Plan> for Plan {
    fn from(plan: domain::Plan) -> Self {
        let (rate, quota) = (plan.relay_rate, plan.relay_quota);
        Self {
            name: plan.name,
            members_per_network: plan.members_per_network,
            networks_per_client: plan.networks_per_client,
            relay_bytes_per_second: (!rate.is_unlimited()).then(|| rate.bytes_per_second()),
            relay_bytes_per_month: (!quota.is_unlimited()).then(|| quota.bytes()),
        }
    }
}

impl Limits {
    /// The plan of this name.
    fn of(self, name: String) -> Result<domain::Plan, Problem> {
        let counts =
            [("members_per_network", self.members_per_network), ("networks_per_client", self.networks_per_client)];
        for (field, count) in counts {
            if !(1..=256).contains(&count) {
                return Err(Problem::invalid_body(format!("{field}: 1 to 256 expected")));
            }
        }
        let bytes = [
            ("relay_bytes_per_second", self.relay_bytes_per_second),
            ("relay_bytes_per_month", self.relay_bytes_per_month),
        ];
        for (field, bytes) in bytes {
            if bytes.is_some_and(|bytes| bytes > MOST) {
                return Err(Problem::invalid_body(format!("{field}: at most {MOST}, or null, expected")));
            }
        }
        Ok(domain::Plan {
            name,
            members_per_network: self.members_per_network,
            networks_per_client: self.networks_per_client,
            relay_rate: self.relay_bytes_per_second.map_or(Bandwidth::UNLIMITED, Bandwidth::from_bytes_per_second),
            relay_quota: self.relay_bytes_per_month.map_or(Quota::UNLIMITED, Quota::from_bytes),
        })
    }
}

pub(super) fn operations() -> Vec<Operation> {
    let missing = "There is no such plan.";
    vec![
        Operation::new(Method::GET, "/v1/plans", "plans_list", ApiScope::Read, list)
            .summary("Lists the plans, by name.")
            .gives::<Page<Plan>>(StatusCode::OK),
        Operation::new(Method::POST, "/v1/plans", "plans_create", ApiScope::Accounts, create)
            .summary("Makes a plan.")
            .takes::<NewPlan>()
            .gives::<Plan>(StatusCode::CREATED)
            .refuses(StatusCode::CONFLICT, "There is one of this name, or there are as many as there may be."),
        Operation::new(Method::GET, "/v1/plans/{plan}", "plans_show", ApiScope::Read, show)
            .summary("Shows a plan.")
            .gives::<Plan>(StatusCode::OK)
            .tagged()
            .refuses(StatusCode::NOT_FOUND, missing),
        Operation::new(Method::PUT, "/v1/plans/{plan}", "plans_change", ApiScope::Accounts, change)
            .summary("Changes what a plan allows, for all who have it, and tells who loses a seat by it.")
            .query([Parameter::new("dry_run", Kind::Flag, "Only tell what would be done.")])
            .takes::<Limits>()
            .gives::<ChangedPlan>(StatusCode::OK)
            .conditional()
            .refuses(StatusCode::NOT_FOUND, missing),
        Operation::new(Method::DELETE, "/v1/plans/{plan}", "plans_delete", ApiScope::Accounts, delete)
            .summary("Deletes a plan that nobody has.")
            .conditional()
            .refuses(StatusCode::NOT_FOUND, missing)
            .refuses(StatusCode::CONFLICT, "Somebody has the plan, or new clients get it."),
    ]
}

async fn list(asked: Asked) -> Answer {
    let reply = asked.order(&Plans, refused).await?;
    Done::document(Page::whole(reply.plans.into_iter().map(Plan::from).collect()))
}

async fn show(asked: Asked) -> Answer {
    tagged(Plan::from(existing(&asked).await?))
}

async fn create(asked: Asked) -> Answer {
    let NewPlan { name, members_per_network, networks_per_client, relay_bytes_per_second, relay_bytes_per_month } =
        asked.body()?;
    let limits = Limits { members_per_network, networks_per_client, relay_bytes_per_second, relay_bytes_per_month };
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
    let rest = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if !(first && rest && name.len() <= MAX_NAME) {
        let detail = format!("name: a lower case letter, and up to {} more, digits or hyphens expected", MAX_NAME - 1);
        return Err(Problem::invalid_body(detail));
    }
    let plan = limits.of(name)?;
    asked.order(&MakePlan { plan: plan.clone() }, refused).await?;
    Ok(tagged(Plan::from(plan.clone()))?.changed((), Plan::from(plan)))
}

async fn change(asked: Asked) -> Answer {
    let expected = seen(&asked).await?;
    let plan = asked.body::<Limits>()?.of(expected.name.clone())?;
    let stake = SeatsLostByPlan { plan: plan.name.clone(), members: plan.members_per_network };
    let lost = asked.order(&stake, refused).await?;
    let change = PlanChange::new(asked.is_dry_run(), lost);
    if change.is_dry_run() {
        return Done::document(ChangedPlan { plan: Plan::from(plan), change });
    }
    asked.order(&ChangePlan { expected: expected.clone(), plan: plan.clone() }, refused).await?;
    let tag = tag_of(&Plan::from(plan.clone()));
    let done = Done::document(ChangedPlan { plan: Plan::from(plan.clone()), change })?.tagged(tag);
    Ok(done.changed(Plan::from(expected), Plan::from(plan)))
}

async fn delete(asked: Asked) -> Answer {
    let expected = seen(&asked).await?;
    asked.order(&DropPlan { expected: expected.clone() }, refused).await?;
    Ok(Done::nothing().changed(Plan::from(expected), ()))
}

fn tagged(plan: Plan) -> Answer {
    let tag = tag_of(&plan);
    Ok(Done::document(plan)?.tagged(tag))
}

/// The plan that the path names, in the version that `If-Match` names.
async fn seen(asked: &Asked) -> Result<domain::Plan, Problem> {
    let plan = existing(asked).await?;
    asked.precondition.expect(&tag_of(&Plan::from(plan.clone())))?;
    Ok(plan)
}

async fn existing(asked: &Asked) -> Result<domain::Plan, Problem> {
    let name: String = asked.path("plan")?;
    let reply = asked.order(&Plans, refused).await?;
    reply.plans.into_iter().find(|plan| plan.name == name).ok_or_else(|| Problem::not_found("there is no such plan"))
}

/// What auth does not do.
pub(super) fn refused(refusal: Refusal) -> Problem {
    match refusal {
        Refusal::NoSuchClient => Problem::not_found("there is no such client"),
        Refusal::NoSuchPlan => Problem::conflict("no-such-plan", "there is no such plan"),
        Refusal::PlanExists => Problem::conflict("plan-exists", "there is a plan of this name"),
        Refusal::PlanInUse => Problem::conflict("plan-in-use", "somebody has the plan, or new clients get it"),
        Refusal::Changed => precondition::changed(),
        Refusal::LimitReached => Problem::conflict("limit-reached", "there are as many as there may be"),
        Refusal::Internal { incident } => Problem::internal(incident),
        Refusal::Busy => Problem::unavailable(),
    }
}
