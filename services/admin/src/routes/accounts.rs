//! `/v1/accounts`: accounts of people, for support staff. The audit log names people by ids only, never by address: when an
//! account is erased, nothing there says who they were.

use actix_web::http::{Method, StatusCode};
use contract::account::{
    AccountLine, AccountRefusal, AccountSearch, AssignAccountPlan, DetachFromAccount, ListAccounts, OperatorErase,
    OperatorExport, OperatorView, SeatsLostByAccount, SuspendAccount, TransferAccount,
};
use domain::{AccountExport, AccountId, ApiScope, ClientId, EmailAddress, PersonId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::account_details::AccountDetails;
use crate::{
    asked::Asked,
    error::Problem,
    operation::{Answer, Done, Operation},
    page::{self, Page},
    parameter::{Kind, Parameter, first_and_last},
    schema::Id,
};

/// An account in a list.
#[derive(Serialize, ToSchema)]
struct AccountSummary {
    #[schema(value_type = Id)]
    account: AccountId,
    plan: String,
    /// Its people may only look, and its clients have the plan of those without an account.
    suspended: bool,
    /// The e-mail address of the owner.
    owner: Option<String>,
    people: u32,
    clients: u32,
    made_ms: u64,
}

/// Everything that is kept about an account.
#[derive(Serialize, ToSchema)]
#[serde(transparent)]
#[schema(as = AccountExport)]
struct Export {
    #[schema(value_type = Object)]
    export: AccountExport,
}

/// Which plan an account is to have.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AccountPlan {
    /// The name of a plan.
    plan: String,
}

/// What another plan means for the members of networks.
#[derive(Serialize, ToSchema)]
pub(super) struct PlanChange {
    /// Only asked what would be done.
    dry_run: bool,
    seats_lost: SeatsLost,
}

/// Who loses its seat, as far as that can be told before. Nobody is removed: who has no seat stays a member, and meets nobody.
#[derive(Serialize, ToSchema)]
pub(super) struct SeatsLost {
    /// Networks where somebody does.
    networks: u32,
    /// Members who do.
    members: u32,
    /// There are more networks than were looked at.
    more: bool,
}

impl PlanChange {
    pub(super) fn new(dry_run: bool, lost: domain::SeatsLost) -> Self {
        Self { dry_run, seats_lost: lost.into() }
    }

    /// Nothing is to be changed.
    pub(super) const fn is_dry_run(&self) -> bool {
        self.dry_run
    }
}

impl From<domain::SeatsLost> for SeatsLost {
    fn from(domain::SeatsLost { networks, members, more }: domain::SeatsLost) -> Self {
        Self { networks, members, more }
    }
}

/// Whether the people of an account may act.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AccountStanding {
    suspended: bool,
}

/// Who owns an account from now on.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AccountOwner {
    /// Somebody in the account.
    #[schema(value_type = Id)]
    person: PersonId,
}

impl From<AccountLine> for AccountSummary {
    fn from(line: AccountLine) -> Self {
        Self {
            account: line.account,
            plan: line.plan,
            suspended: line.suspended,
            owner: line.owner.map(|owner| owner.to_string()),
            people: line.people,
            clients: line.clients,
            made_ms: line.made.0,
        }
    }
}

pub(super) fn operations() -> Vec<Operation> {
    let missing = "There is no such account.";
    vec![
        Operation::new(Method::GET, "/v1/accounts", "accounts_list", ApiScope::Accounts, list)
            .summary("Lists accounts, by id.")
            .query(page::PARAMETERS)
            .query([
                Parameter::new("id", Kind::IdPrefix, "Only those whose id begins so."),
                Parameter::new("email", Kind::Email, "Only those of the person with this e-mail address."),
            ])
            .gives::<Page<AccountSummary>>(StatusCode::OK),
        Operation::new(Method::GET, "/v1/accounts/{account}", "accounts_show", ApiScope::Accounts, show)
            .summary("Shows an account with its people, clients and networks.")
            .gives::<AccountDetails>(StatusCode::OK)
            .refuses(StatusCode::NOT_FOUND, missing),
        Operation::new(Method::GET, "/v1/accounts/{account}/export", "accounts_export", ApiScope::Accounts, export)
            .summary("Gives everything that is kept about an account.")
            .gives::<Export>(StatusCode::OK)
            .audited()
            .refuses(StatusCode::NOT_FOUND, missing),
        Operation::new(Method::PUT, "/v1/accounts/{account}/plan", "accounts_plan", ApiScope::Accounts, plan)
            .summary("Puts an account, its clients and its networks on another plan, and tells who loses a seat by it.")
            .query([Parameter::new("dry_run", Kind::Flag, "Only tell what would be done.")])
            .takes::<AccountPlan>()
            .gives::<PlanChange>(StatusCode::OK)
            .refuses(StatusCode::NOT_FOUND, "There is no such account, or no such plan."),
        Operation::new(Method::PUT, "/v1/accounts/{account}/standing", "accounts_suspend", ApiScope::Accounts, suspend)
            .summary("Suspends an account, or lets its people act again.")
            .takes::<AccountStanding>()
            .refuses(StatusCode::NOT_FOUND, missing),
        Operation::new(Method::PUT, "/v1/accounts/{account}/owner", "accounts_transfer", ApiScope::Accounts, transfer)
            .summary("Makes somebody in an account its owner. The owner until now becomes an admin.")
            .takes::<AccountOwner>()
            .refuses(StatusCode::NOT_FOUND, "There is no such account, or that person is not in it."),
        Operation::new(
            Method::DELETE,
            "/v1/accounts/{account}/clients/{client}",
            "accounts_detach",
            ApiScope::Accounts,
            detach,
        )
        .summary("Takes a client out of an account. It goes on, on the plan of those without one.")
        .refuses(StatusCode::NOT_FOUND, "There is no such account, or the client is not in it."),
        Operation::new(Method::DELETE, "/v1/accounts/{account}", "accounts_erase", ApiScope::Accounts, erase)
            .summary(
                "Forgets an account and the people who are in no other. Its clients and networks go on without one.",
            )
            .refuses(StatusCode::NOT_FOUND, missing),
    ]
}

async fn list(asked: Asked) -> Answer {
    let (limit, after) = asked.page("accounts")?;
    let email = asked.query::<EmailAddress>("email")?.map(AccountSearch::Email);
    let id = asked.query.get("id").map(|digits| {
        let (first, last) = first_and_last(digits);
        AccountSearch::Ids(AccountId::from_bytes(first), AccountId::from_bytes(last))
    });
    if email.is_some() && id.is_some() {
        return Err(Problem::invalid("id and email: one of them"));
    }
    let call = ListAccounts { after, limit: limit + 1, search: email.or(id) };
    let mut accounts = asked.order(&call, refused).await?.accounts;
    let more = accounts.len() > usize::from(limit);
    accounts.truncate(limit.into());
    let items: Vec<AccountSummary> = accounts.into_iter().map(AccountSummary::from).collect();
    Done::document(Page::new("accounts", items, more, |account| account.account))
}

async fn show(asked: Asked) -> Answer {
    let account = asked.order(&OperatorView { account: asked.path("account")? }, refused).await?;
    Done::document(AccountDetails::from(account))
}

async fn export(asked: Asked) -> Answer {
    let export = asked.order(&OperatorExport { account: asked.path("account")? }, refused).await?;
    Done::document(Export { export })
}

async fn plan(asked: Asked) -> Answer {
    let account = asked.path("account")?;
    let AccountPlan { plan } = asked.body()?;
    let before = asked.order(&OperatorView { account }, refused).await?.plan;
    let lost = asked.order(&SeatsLostByAccount { account, plan: plan.clone() }, refused).await?;
    let change = PlanChange::new(asked.is_dry_run(), lost);
    if change.is_dry_run() {
        return Done::document(change);
    }
    asked.order(&AssignAccountPlan { account, plan: plan.clone() }, refused).await?;
    let after = serde_json::json!({ "plan": plan, "seats_lost": change.seats_lost });
    Ok(Done::document(change)?.changed(serde_json::json!({ "plan": before }), after))
}

async fn suspend(asked: Asked) -> Answer {
    let account = asked.path("account")?;
    let AccountStanding { suspended } = asked.body()?;
    let before = asked.order(&OperatorView { account }, refused).await?.suspended;
    asked.order(&SuspendAccount { account, suspended }, refused).await?;
    let standing = |suspended: bool| serde_json::json!({ "suspended": suspended });
    Ok(Done::nothing().changed(standing(before), standing(suspended)))
}

async fn transfer(asked: Asked) -> Answer {
    let account = asked.path("account")?;
    let AccountOwner { person: heir } = asked.body()?;
    asked.order(&TransferAccount { account, heir }, refused).await?;
    Ok(Done::nothing())
}

async fn detach(asked: Asked) -> Answer {
    let (account, client): (AccountId, ClientId) = (asked.path("account")?, asked.path("client")?);
    asked.order(&DetachFromAccount { account, client }, refused).await?;
    Ok(Done::nothing())
}

async fn erase(asked: Asked) -> Answer {
    let account = asked.path("account")?;
    asked.order(&OperatorErase { account }, refused).await?;
    Ok(Done::nothing())
}

fn refused(refusal: AccountRefusal) -> Problem {
    crate::self_service::refusal::of(refusal)
}
