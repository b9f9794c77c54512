//! What accounts may have, and what was relayed for them.

use domain::{AccountId, AccountLimits, AccountMonth, MAX_ACCOUNT_MONTHS};

use super::backend::{Connection, Db};
use crate::{AccountError, Error, values};

/// The limits of the plan called `plan`.
pub(crate) async fn limits(db: &mut Connection, plan: &str) -> Result<AccountLimits, AccountError> {
    let row: Option<(i64, i64, i64, i64, i64)> = sqlx::query_as::<Db, _>(
        "SELECT clients_per_account, members_per_network, networks_per_client, relay_bytes_per_second,
                relay_bytes_per_month
         FROM plans WHERE name = $1",
    )
    .bind(plan.to_owned())
    .fetch_optional(db)
    .await?;
    let (clients, members, networks, rate, quota) = row.ok_or(AccountError::Plan)?;
    let (rate, quota) = (values::rate(rate)?, values::quota(quota)?);
    Ok(AccountLimits {
        clients: values::count(clients)?,
        members_per_network: values::count(members)?,
        networks_per_client: values::count(networks)?,
        relay_bytes_per_second: (!rate.is_unlimited()).then(|| rate.bytes_per_second()),
        relay_bytes_per_month: (!quota.is_unlimited()).then(|| quota.bytes()),
    })
}

/// What counted against the quota of the account, newest month first.
pub(crate) async fn relayed(db: &mut Connection, account: AccountId) -> Result<Vec<AccountMonth>, Error> {
    let rows: Vec<(i64, i64)> = sqlx::query_as::<Db, _>(
        "SELECT month, bytes FROM account_usage WHERE account = $1 ORDER BY month DESC LIMIT $2",
    )
    .bind(account.as_bytes().to_vec())
    .bind(i64::from(MAX_ACCOUNT_MONTHS))
    .fetch_all(db)
    .await?;
    let month = |(month, bytes)| Ok(AccountMonth { month: values::count(month)?, bytes: values::bytes(bytes)? });
    rows.into_iter().map(month).collect()
}
