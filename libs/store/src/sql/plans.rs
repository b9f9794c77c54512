//! Plans as operators change them: each change is a comparison and a swap in one statement.

use domain::{ClientId, Plan};

use super::{
    backend::{Connection, Db},
    seating,
};
use crate::{MAX_PLANS, PlanError, ReassignError, values::unlimited};

pub(crate) async fn make(db: &mut Connection, plan: Plan) -> Result<(), PlanError> {
    let made = sqlx::query(
        "INSERT INTO plans (name, members_per_network, networks_per_client, relay_bytes_per_second, relay_bytes_per_month)
         VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
    )
    .bind(&plan.name)
    .bind(i64::from(plan.members_per_network))
    .bind(i64::from(plan.networks_per_client))
    .bind(unlimited(plan.relay_rate.bytes_per_second()))
    .bind(unlimited(plan.relay_quota.bytes()))
    .execute(&mut *db)
    .await?;
    if made.rows_affected() == 0 {
        return Err(PlanError::Exists);
    }
    let plans: i64 = sqlx::query_scalar::<Db, _>("SELECT COUNT(*) FROM plans").fetch_one(db).await?;
    if plans > i64::from(MAX_PLANS) { Err(PlanError::LimitReached { limit: MAX_PLANS }) } else { Ok(()) }
}

/// Puts `plan` in the place of `expected`, which has the same name.
pub(crate) async fn change(db: &mut Connection, expected: Plan, plan: Plan) -> Result<(), PlanError> {
    let changed = sqlx::query(
        "UPDATE plans SET members_per_network = $6, networks_per_client = $7, relay_bytes_per_second = $8,
                relay_bytes_per_month = $9
         WHERE name = $1 AND members_per_network = $2 AND networks_per_client = $3 AND relay_bytes_per_second = $4
           AND relay_bytes_per_month = $5",
    )
    .bind(&expected.name)
    .bind(i64::from(expected.members_per_network))
    .bind(i64::from(expected.networks_per_client))
    .bind(unlimited(expected.relay_rate.bytes_per_second()))
    .bind(unlimited(expected.relay_quota.bytes()))
    .bind(i64::from(plan.members_per_network))
    .bind(i64::from(plan.networks_per_client))
    .bind(unlimited(plan.relay_rate.bytes_per_second()))
    .bind(unlimited(plan.relay_quota.bytes()))
    .execute(&mut *db)
    .await?;
    if changed.rows_affected() == 0 {
        return Err(PlanError::Changed);
    }
    if plan.members_per_network != expected.members_per_network {
        seating::mark_plan(db, &expected.name).await?;
    }
    Ok(())
}

/// Drops `expected`, which nobody may have; nor may it be the one of new clients.
pub(crate) async fn drop(db: &mut Connection, expected: Plan, default_plan: String) -> Result<(), PlanError> {
    if expected.name == default_plan {
        return Err(PlanError::InUse);
    }
    let used: Option<i64> = sqlx::query_scalar::<Db, _>("SELECT seen_ms FROM clients WHERE plan = $1 LIMIT 1")
        .bind(&expected.name)
        .fetch_optional(&mut *db)
        .await?;
    if used.is_some() {
        return Err(PlanError::InUse);
    }
    let dropped = sqlx::query(
        "DELETE FROM plans
         WHERE name = $1 AND members_per_network = $2 AND networks_per_client = $3 AND relay_bytes_per_second = $4
           AND relay_bytes_per_month = $5",
    )
    .bind(expected.name)
    .bind(i64::from(expected.members_per_network))
    .bind(i64::from(expected.networks_per_client))
    .bind(unlimited(expected.relay_rate.bytes_per_second()))
    .bind(unlimited(expected.relay_quota.bytes()))
    .execute(db)
    .await;
    match dropped {
        Ok(dropped) if dropped.rows_affected() == 0 => Err(PlanError::Changed),
        Ok(_) => Ok(()),
        // Somebody was given it in the same moment.
        Err(sqlx::Error::Database(refused)) if refused.is_foreign_key_violation() => Err(PlanError::InUse),
        Err(error) => Err(error.into()),
    }
}

/// Puts `client` on `plan` if it is on `expected` now, or whatever it is on.
pub(crate) async fn reassign(
    db: &mut Connection,
    client: ClientId,
    expected: Option<String>,
    plan: String,
) -> Result<(), ReassignError> {
    let known: Option<String> = sqlx::query_scalar::<Db, _>("SELECT name FROM plans WHERE name = $1")
        .bind(&plan)
        .fetch_optional(&mut *db)
        .await?;
    known.ok_or(ReassignError::UnknownPlan)?;
    let assigned = sqlx::query("UPDATE clients SET plan = $2 WHERE id = $1 AND ($3 = '' OR plan = $3)")
        .bind(client.as_bytes().to_vec())
        .bind(plan)
        .bind(expected.unwrap_or_default())
        .execute(&mut *db)
        .await?;
    if assigned.rows_affected() == 1 {
        return Ok(seating::mark_client(db, client).await?);
    }
    let known: Option<i64> = sqlx::query_scalar::<Db, _>("SELECT seen_ms FROM clients WHERE id = $1")
        .bind(client.as_bytes().to_vec())
        .fetch_optional(db)
        .await?;
    Err(if known.is_some() { ReassignError::Changed } else { ReassignError::UnknownClient(client) })
}
