//! `/v1/accounts`: accounts of people, for support staff. What is written to the audit log of a change names no person: an
//! erased account leaves nothing of its people there either.

use actix_web::http::{Method, StatusCode};
use contract::account::{
    AccountLine, AccountRefusal, AssignAccountPlan, ListAccounts, OperatorErase, OperatorExport, OperatorView,
    SuspendAccount,
};
use domain::{AccountExport, AccountId, AccountView, ApiScope};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    asked::Asked,
    error::Problem,
    operation::{Answer, Done, Operation},
    page::{self, Page},
    schema::Id,
};

/// An account in a list.
#[derive(Serialize, ToSchema)]
struct Account {
    #[schema(value_type = Id)]
    account: AccountId,
    plan: String,
    /// Its people may only look, and its clients have the plan of those without an account.
    suspended: bool,
    /// The e-mail address of the owner.
    owner: Option<String>,
    people: u32,
    clients: u32,
    made_unix_ms: u64,
}

/// An account with its people, clients and networks.
#[derive(Serialize, ToSchema)]
#[serde(transparent)]
struct Whole {
    #[schema(value_type = Object)]
    account: AccountView,
}

/// Everything that is kept about an account.
#[derive(Serialize, ToSchema)]
#[serde(transparent)]
struct Export {
    #[schema(value_type = Object)]
    export: AccountExport,
}

/// What becomes of an account.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PlanOfAccount {
    /// The name of a plan.
    plan: String,
}

/// Whether people may act.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Standing {
    suspended: bool,
}

impl From<AccountLine> for Account {
    fn from(line: AccountLine) -> Self {
        Self {
            account: line.account,
            plan: line.plan,
            suspended: line.suspended,
            owner: line.owner.map(|owner| owner.to_string()),
            people: line.people,
            clients: line.clients,
            made_unix_ms: line.made.0,
        }
    }
}

pub(super) fn operations() -> Vec<Operation> {
    let missing = "There is no such account.";
    vec![
        Operation::new(Method::GET, "/v1/accounts", "accounts_list", ApiScope::Accounts, list)
            .summary("Lists accounts, by id.")
            .query(page::PARAMETERS)
            .gives::<Page<Account>>(StatusCode::OK),
        Operation::new(Method::GET, "/v1/accounts/{account}", "accounts_show", ApiScope::Accounts, show)
            .summary("Shows an account with its people, clients and networks.")
            .gives::<Whole>(StatusCode::OK)
            .refuses(StatusCode::NOT_FOUND, missing),
        Operation::new(Method::GET, "/v1/accounts/{account}/export", "accounts_export", ApiScope::Accounts, export)
            .summary("Gives everything that is kept about an account.")
            .gives::<Export>(StatusCode::OK)
            .refuses(StatusCode::NOT_FOUND, missing),
        Operation::new(Method::PUT, "/v1/accounts/{account}/plan", "accounts_plan", ApiScope::Accounts, plan)
            .summary("Puts an account, its clients and its networks on another plan.")
            .takes::<PlanOfAccount>()
            .refuses(StatusCode::NOT_FOUND, "There is no such account, or no such plan."),
        Operation::new(Method::PUT, "/v1/accounts/{account}/standing", "accounts_suspend", ApiScope::Accounts, suspend)
            .summary("Suspends an account, or lets its people act again.")
            .takes::<Standing>()
            .refuses(StatusCode::NOT_FOUND, missing),
        Operation::new(Method::DELETE, "/v1/accounts/{account}", "accounts_erase", ApiScope::Accounts, erase)
            .summary(
                "Forgets an account and the people who are in no other. Its clients and networks go on without one.",
            )
            .refuses(StatusCode::NOT_FOUND, missing),
    ]
}

async fn list(asked: Asked) -> Answer {
    let (limit, after) = asked.page("accounts")?;
    let mut accounts = asked.order(&ListAccounts { after, limit: limit + 1 }, refused).await?.accounts;
    let more = accounts.len() > usize::from(limit);
    accounts.truncate(limit.into());
    let items: Vec<Account> = accounts.into_iter().map(Account::from).collect();
    Done::document(Page::new("accounts", items, more, |account| account.account))
}

async fn show(asked: Asked) -> Answer {
    let account = asked.order(&OperatorView { account: asked.path("account")? }, refused).await?;
    Done::document(Whole { account })
}

async fn export(asked: Asked) -> Answer {
    let export = asked.order(&OperatorExport { account: asked.path("account")? }, refused).await?;
    Done::document(Export { export })
}

async fn plan(asked: Asked) -> Answer {
    let account = asked.path("account")?;
    let PlanOfAccount { plan } = asked.body()?;
    let before = asked.order(&OperatorView { account }, refused).await?.plan;
    asked.order(&AssignAccountPlan { account, plan: plan.clone() }, refused).await?;
    Ok(Done::nothing().changed(serde_json::json!({ "plan": before }), serde_json::json!({ "plan": plan })))
}

async fn suspend(asked: Asked) -> Answer {
    let account = asked.path("account")?;
    let Standing { suspended } = asked.body()?;
    let before = asked.order(&OperatorView { account }, refused).await?.suspended;
    asked.order(&SuspendAccount { account, suspended }, refused).await?;
    let standing = |suspended: bool| serde_json::json!({ "suspended": suspended });
    Ok(Done::nothing().changed(standing(before), standing(suspended)))
}

async fn erase(asked: Asked) -> Answer {
    let account = asked.path("account")?;
    asked.order(&OperatorErase { account }, refused).await?;
    Ok(Done::nothing())
}

fn refused(refusal: AccountRefusal) -> Problem {
    crate::self_service::refusal::of(refusal)
}
