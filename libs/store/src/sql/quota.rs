//! What is relayed for whom. The payer's row among the clients is the lock: it is written first, and gives the plan.

use std::time::Duration;

use domain::{LEASE_LIFETIME, MOST_PER_REPORT, Month, PayerId, Quota, RelayGrant, RelayLease, RelayReport, UnixMillis};

use super::backend::{Connection, Db};
use crate::{
    Error, SettleError,
    values::{self, bigint},
};

/// How long a lease that expired or ended is remembered: reports travel for seconds, relays are cut off for hours.
const MEMORY: Duration = Duration::from_secs(24 * 3600);

pub(crate) async fn settle(
    db: &mut Connection,
    report: RelayReport,
    at: UnixMillis,
) -> Result<RelayGrant, SettleError> {
    let quota = lock(db, report.payer).await?.ok_or(SettleError::UnknownPayer)?;
    forget(db, report.payer, at).await?;
    let known = lease(db, &report).await?;
    if known.is_none() && report.known {
        return Err(SettleError::UnknownLease);
    }
    let lease = known.unwrap_or_default();
    if report.spent.saturating_sub(lease.spent) > MOST_PER_REPORT {
        return Err(SettleError::Implausible);
    }
    let (month, held) = (Month::of(at), held(db, &report, at).await?);
    let (lease, added) = lease.settle(&report, quota, relayed(db, report.payer, month).await?, held);
    if added > 0 {
        count(db, report.payer, month, added).await?;
    }
    keep(db, &report, lease, at).await?;
    Ok(lease.grant())
}

/// What was counted in `month`.
pub(crate) async fn relayed(db: &mut Connection, payer: PayerId, month: Month) -> Result<u64, Error> {
    let bytes: Option<i64> =
        sqlx::query_scalar::<Db, _>("SELECT bytes FROM relay_usage WHERE payer = $1 AND month = $2")
            .bind(payer.as_bytes().to_vec())
            .bind(i64::from(month.number()))
            .fetch_optional(db)
            .await?;
    bytes.map_or(Ok(0), values::bytes)
}

/// Takes the lock of `payer`; its quota, `None` when nobody has this id.
async fn lock(db: &mut Connection, payer: PayerId) -> Result<Option<Quota>, Error> {
    let quota: Option<i64> = sqlx::query_scalar::<Db, _>(
        "UPDATE clients SET plan = plan WHERE id = $1
         RETURNING (SELECT p.relay_bytes_per_month FROM plans p WHERE p.name = clients.plan)",
    )
    .bind(payer.as_bytes().to_vec())
    .fetch_optional(db)
    .await?;
    quota.map(values::quota).transpose()
}

/// Forgets leases that no report comes for any more.
async fn forget(db: &mut Connection, payer: PayerId, at: UnixMillis) -> Result<(), Error> {
    sqlx::query("DELETE FROM relay_leases WHERE payer = $1 AND expires_ms <= $2")
        .bind(payer.as_bytes().to_vec())
        .bind(bigint(at.0.saturating_sub(u64::try_from(MEMORY.as_millis()).unwrap_or(u64::MAX))))
        .execute(db)
        .await?;
    Ok(())
}

async fn lease(db: &mut Connection, report: &RelayReport) -> Result<Option<RelayLease>, Error> {
    let row: Option<(i64, i64, i64, bool)> = sqlx::query_as::<Db, _>(
        "SELECT serial, spent, granted, ended FROM relay_leases WHERE lease = $1 AND payer = $2",
    )
    .bind(report.lease.as_bytes().to_vec())
    .bind(report.payer.as_bytes().to_vec())
    .fetch_optional(db)
    .await?;
    row.map(|(serial, spent, granted, ended)| {
        let [serial, spent, granted] = [values::bytes(serial)?, values::bytes(spent)?, values::bytes(granted)?];
        Ok(RelayLease { serial, spent, granted, ended })
    })
    .transpose()
}

/// The open part of the payer's other leases.
async fn held(db: &mut Connection, report: &RelayReport, at: UnixMillis) -> Result<u64, Error> {
    let held: i64 = sqlx::query_scalar::<Db, _>(
        "SELECT CAST(COALESCE(SUM(granted - spent), 0) AS BIGINT) FROM relay_leases
         WHERE payer = $1 AND lease <> $2 AND NOT ended AND expires_ms > $3",
    )
    .bind(report.payer.as_bytes().to_vec())
    .bind(report.lease.as_bytes().to_vec())
    .bind(bigint(at.0))
    .fetch_one(db)
    .await?;
    values::bytes(held)
}

async fn count(db: &mut Connection, payer: PayerId, month: Month, added: u64) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO relay_usage (payer, month, bytes) VALUES ($1, $2, $3)
         ON CONFLICT (payer, month) DO UPDATE SET bytes = relay_usage.bytes + $3",
    )
    .bind(payer.as_bytes().to_vec())
    .bind(i64::from(month.number()))
    .bind(bigint(added))
    .execute(db)
    .await?;
    Ok(())
}

async fn keep(db: &mut Connection, report: &RelayReport, lease: RelayLease, at: UnixMillis) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO relay_leases (lease, payer, serial, spent, granted, ended, expires_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (lease) DO UPDATE SET
             serial = $3, spent = $4, granted = $5, ended = $6, expires_ms = $7",
    )
    .bind(report.lease.as_bytes().to_vec())
    .bind(report.payer.as_bytes().to_vec())
    .bind(bigint(lease.serial))
    .bind(bigint(lease.spent))
    .bind(bigint(lease.granted))
    .bind(lease.ended)
    .bind(bigint(at.plus(LEASE_LIFETIME).0))
    .execute(db)
    .await?;
    Ok(())
}
