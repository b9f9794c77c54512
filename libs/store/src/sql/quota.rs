//! What is relayed for whom. The payer's row among the clients is the lock, and before it that of its account, if it has one: they
//! are written first, and give the quota. A machine of an account draws on the account's quota; its own is for when it has none.

use std::time::Duration;

use domain::{
    AccountId, ClientId, EventKind, LEASE_LIFETIME, MOST_PER_REPORT, Month, PayerId, Quota, RelayGrant, RelayLease,
    RelayReport, UnixMillis,
};

use super::{
    backend::{Connection, Db},
    events,
};
use crate::{
    Error, SettleError,
    values::{self, bigint},
};

/// How long a lease that expired or ended is remembered: reports travel for seconds, relays are cut off for hours.
const MEMORY: Duration = Duration::from_secs(24 * 3600);

/// Whose quota counts, and how large it is.
#[derive(Clone, Copy)]
struct Purse {
    account: Option<AccountId>,
    quota: Quota,
}

/// `None` when the payer joined or left an account meanwhile: to be repeated.
pub(crate) async fn settle(
    db: &mut Connection,
    report: RelayReport,
    at: UnixMillis,
) -> Result<Option<RelayGrant>, SettleError> {
    let Some(purse) = lock(db, report.payer).await? else { return Ok(None) };
    forget(db, report.payer, at).await?;
    let known = lease(db, &report).await?;
    if known.is_none() && report.known {
        return Err(SettleError::UnknownLease);
    }
    let lease = known.unwrap_or_default();
    if report.spent.saturating_sub(lease.spent) > MOST_PER_REPORT {
        return Err(SettleError::Implausible);
    }
    let (month, held) = (Month::of(at), held(db, &report, purse.account, at).await?);
    let used = match purse.account {
        Some(account) => relayed_on(db, account, month).await?,
        None => relayed_off_account(db, report.payer, month).await?,
    };
    let (lease, added) = lease.settle(&report, purse.quota, used, held);
    if added > 0 {
        count(db, report.payer, purse.account, month, added).await?;
        tell(db, report.payer, purse.quota, [used, used.saturating_add(added)], at).await?;
    }
    keep(db, &report, purse.account, lease, at).await?;
    Ok(Some(lease.grant()))
}

/// What was counted in `month` for all machines of an account.
pub(crate) async fn relayed_on(db: &mut Connection, account: AccountId, month: Month) -> Result<u64, Error> {
    let bytes: Option<i64> =
        sqlx::query_scalar::<Db, _>("SELECT bytes FROM account_usage WHERE account = $1 AND month = $2")
            .bind(account.as_bytes().to_vec())
            .bind(i64::from(month.number()))
            .fetch_optional(db)
            .await?;
    bytes.map_or(Ok(0), values::bytes)
}

/// What counted against the payer's own quota.
async fn relayed_off_account(db: &mut Connection, payer: PayerId, month: Month) -> Result<u64, Error> {
    let bytes: Option<i64> =
        sqlx::query_scalar::<Db, _>("SELECT bytes - on_account FROM relay_usage WHERE payer = $1 AND month = $2")
            .bind(payer.as_bytes().to_vec())
            .bind(i64::from(month.number()))
            .fetch_optional(db)
            .await?;
    bytes.map_or(Ok(0), values::bytes)
}

/// The open leases of a client draw on its account from now on, or no more; what they spent and did not report counts there. The
/// caller has locked the client.
pub(crate) async fn move_leases(
    db: &mut Connection,
    client: ClientId,
    account: Option<AccountId>,
) -> Result<(), Error> {
    sqlx::query("UPDATE relay_leases SET account = $2 WHERE payer = $1 AND NOT ended")
        .bind(client.as_bytes().to_vec())
        .bind(account.map(|account| account.as_bytes().to_vec()))
        .execute(db)
        .await?;
    Ok(())
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

/// Takes the locks of `payer`; `None` when its account was another one by then.
async fn lock(db: &mut Connection, payer: PayerId) -> Result<Option<Purse>, SettleError> {
    let account: Option<Option<Vec<u8>>> = sqlx::query_scalar::<Db, _>("SELECT account FROM clients WHERE id = $1")
        .bind(payer.as_bytes().to_vec())
        .fetch_optional(&mut *db)
        .await
        .map_err(Error::from)?;
    let account = account.ok_or(SettleError::UnknownPayer)?;
    if let Some(account) = &account {
        sqlx::query("UPDATE accounts SET plan = plan WHERE id = $1")
            .bind(account.clone())
            .execute(&mut *db)
            .await
            .map_err(Error::from)?;
    }
    // A client of an account has the account's plan, or the least while that is suspended.
    let quota: Option<i64> = sqlx::query_scalar::<Db, _>(
        "UPDATE clients SET plan = plan WHERE id = $1 AND (account = $2 OR (account IS NULL AND $3))
         RETURNING (SELECT p.relay_bytes_per_month FROM plans p WHERE p.name = clients.plan)",
    )
    .bind(payer.as_bytes().to_vec())
    .bind(account.clone().unwrap_or_default())
    .bind(account.is_none())
    .fetch_optional(db)
    .await
    .map_err(Error::from)?;
    let Some(quota) = quota else { return Ok(None) };
    let account = account.map(|account| values::account(&account)).transpose()?;
    Ok(Some(Purse { account, quota: values::quota(quota)? }))
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

/// The open part of the other leases on the same quota.
async fn held(
    db: &mut Connection,
    report: &RelayReport,
    account: Option<AccountId>,
    at: UnixMillis,
) -> Result<u64, Error> {
    let (whose, id) = match account {
        Some(account) => ("account = $1", account.as_bytes().to_vec()),
        None => ("payer = $1 AND account IS NULL", report.payer.as_bytes().to_vec()),
    };
    let sql = format!(
        "SELECT CAST(COALESCE(SUM(granted - spent), 0) AS BIGINT) FROM relay_leases
         WHERE {whose} AND lease <> $2 AND NOT ended AND expires_ms > $3"
    );
    let held: i64 = sqlx::query_scalar::<Db, _>(sqlx::AssertSqlSafe(sql))
        .bind(id)
        .bind(report.lease.as_bytes().to_vec())
        .bind(bigint(at.0))
        .fetch_one(db)
        .await?;
    values::bytes(held)
}

/// The shares of a quota, in percent, whose reaching is told.
const TOLD: [u8; 2] = [80, 100];

/// Tells which shares of the quota lie between what was relayed before and what is now.
async fn tell(
    db: &mut Connection,
    payer: PayerId,
    quota: Quota,
    [before, now]: [u64; 2],
    at: UnixMillis,
) -> Result<(), Error> {
    let client = ClientId::from_bytes(*payer.as_bytes());
    for percent in TOLD.into_iter().filter(|_| !quota.is_unlimited() && quota.bytes() > 0) {
        let share = u128::from(quota.bytes()) * u128::from(percent);
        let reached = |bytes: u64| u128::from(bytes) * 100 >= share;
        if reached(now) && !reached(before) {
            let event = events::event(EventKind::QuotaReached, at).client(client).percent(percent);
            events::happened(db, event).await?;
        }
    }
    Ok(())
}

async fn count(
    db: &mut Connection,
    payer: PayerId,
    account: Option<AccountId>,
    month: Month,
    added: u64,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO relay_usage (payer, month, bytes, on_account) VALUES ($1, $2, $3, $4)
         ON CONFLICT (payer, month) DO UPDATE SET
             bytes = relay_usage.bytes + $3, on_account = relay_usage.on_account + $4",
    )
    .bind(payer.as_bytes().to_vec())
    .bind(i64::from(month.number()))
    .bind(bigint(added))
    .bind(bigint(account.map_or(0, |_| added)))
    .execute(&mut *db)
    .await?;
    let Some(account) = account else { return Ok(()) };
    sqlx::query(
        "INSERT INTO account_usage (account, month, bytes) VALUES ($1, $2, $3)
         ON CONFLICT (account, month) DO UPDATE SET bytes = account_usage.bytes + $3",
    )
    .bind(account.as_bytes().to_vec())
    .bind(i64::from(month.number()))
    .bind(bigint(added))
    .execute(db)
    .await?;
    Ok(())
}

async fn keep(
    db: &mut Connection,
    report: &RelayReport,
    account: Option<AccountId>,
    lease: RelayLease,
    at: UnixMillis,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO relay_leases (lease, payer, serial, spent, granted, ended, expires_ms, account)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (lease) DO UPDATE SET
             serial = $3, spent = $4, granted = $5, ended = $6, expires_ms = $7, account = $8",
    )
    .bind(report.lease.as_bytes().to_vec())
    .bind(report.payer.as_bytes().to_vec())
    .bind(bigint(lease.serial))
    .bind(bigint(lease.spent))
    .bind(bigint(lease.granted))
    .bind(lease.ended)
    .bind(bigint(at.plus(LEASE_LIFETIME).0))
    .bind(account.map(|account| account.as_bytes().to_vec()))
    .execute(db)
    .await?;
    Ok(())
}
