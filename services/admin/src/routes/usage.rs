//! `/v1/usage`: what was relayed for whom.

use actix_web::http::{Method, StatusCode};
use contract::auth::operators::{Usage, UsageRow};
use domain::{ApiScope, Month, PayerId};
use serde::Serialize;
use utoipa::ToSchema;

use super::plans::refused;
use crate::{
    asked::Asked,
    operation::{Answer, Done, Operation},
    page::{self, Page},
    parameter::{self, Kind, Parameter},
    schema::Id,
};

/// Months that are shown of one payer: ten years.
const MONTHS: u16 = 120;

/// What was relayed for one payer in one month, as far as relays reported it.
#[derive(Serialize, ToSchema)]
pub(super) struct Relayed {
    /// A client, until there are accounts.
    #[schema(value_type = Id)]
    payer: PayerId,
    /// In UTC, like `2026-11`.
    month: String,
    bytes: u64,
}

impl From<UsageRow> for Relayed {
    fn from(row: UsageRow) -> Self {
        Self { payer: row.payer, month: Month::from_number(row.month).to_string(), bytes: row.bytes }
    }
}

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(Method::GET, "/v1/usage", "usage_list", ApiScope::Read, list)
            .summary("Lists what was relayed in a month, by payer.")
            .query(page::PARAMETERS)
            .query([Parameter::new("month", Kind::Month, "This one without it.")])
            .gives::<Page<Relayed>>(StatusCode::OK),
        Operation::new(Method::GET, "/v1/usage/{payer}", "usage_show", ApiScope::Read, show)
            .summary("Lists what was relayed for a payer, the newest of up to 120 months first.")
            .gives::<Page<Relayed>>(StatusCode::OK),
    ]
}

async fn list(asked: Asked) -> Answer {
    let (limit, after) = asked.page("usage")?;
    let named = asked.query.get("month").and_then(|text| parameter::month(text));
    let month = named.unwrap_or_else(|| Month::of(asked.at).number());
    let page = asked.order(&Usage::In { month, after, limit }, refused).await?;
    let items: Vec<Relayed> = page.rows.into_iter().map(Relayed::from).collect();
    Done::document(Page::new("usage", items, page.more, |relayed| relayed.payer))
}

async fn show(asked: Asked) -> Answer {
    Done::document(Page::whole(of(&asked, asked.path("payer")?).await?))
}

/// The months of a payer.
pub(super) async fn of(asked: &Asked, payer: PayerId) -> Result<Vec<Relayed>, crate::error::Problem> {
    let page = asked.order(&Usage::Of(payer, MONTHS), refused).await?;
    Ok(page.rows.into_iter().map(Relayed::from).collect())
}
