//! Budgets of attempts: taken before, given back after a success.

use std::time::Duration;

use domain::UnixMillis;
use sqlx::QueryBuilder;

use super::backend::{Connection, Db, LOCK_ROWS};
use crate::{Budget, BudgetKind, Error, values::bigint};

/// Why not every budget gave an attempt: an error, so that the transaction gives back those that did.
pub(crate) enum Stop {
    Exhausted { retry_after: Duration },
    Store(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

/// One attempt out of each of `budgets`, which are in the order of kinds and keys (the order of the locks), one of a kind.
pub(crate) async fn take(db: &mut Connection, budgets: Vec<Budget>, at: UnixMillis) -> Result<(), Stop> {
    let taken = take_all(db, &budgets, at).await.map_err(Error::from)?;
    let has = |budget: &Budget| {
        taken.iter().any(|&(kind, spent)| kind == budget.kind as i64 && spent <= i64::from(budget.limit))
    };
    match budgets.iter().find(|budget| !has(budget)) {
        Some(empty) => Err(Stop::Exhausted { retry_after: refilled(db, empty, at).await.map_err(Error::from)? }),
        None => Ok(()),
    }
}

/// Those that had an attempt left, and what was taken out of each by now.
async fn take_all(db: &mut Connection, budgets: &[Budget], at: UnixMillis) -> Result<Vec<(i64, i64)>, sqlx::Error> {
    let mut sql = QueryBuilder::<Db>::new("INSERT INTO guesses (kind, key, spent, expires_ms) ");
    sql.push_values(budgets, |mut row, budget| {
        row.push_bind(budget.kind as i64).push_bind(budget.key.to_vec()).push("1");
        row.push_bind(bigint(at.plus(budget.window).0));
    });
    let over = |sql: &mut QueryBuilder<Db>| {
        sql.push("guesses.expires_ms <= ").push_bind(bigint(at.0));
    };
    sql.push(" ON CONFLICT (kind, key) DO UPDATE SET spent = CASE WHEN ");
    over(&mut sql);
    sql.push(" THEN 1 ELSE guesses.spent + 1 END, expires_ms = CASE WHEN ");
    over(&mut sql);
    sql.push(" THEN excluded.expires_ms ELSE guesses.expires_ms END WHERE ");
    over(&mut sql);
    sql.push(" OR guesses.spent < CASE guesses.kind");
    for budget in budgets {
        sql.push(" WHEN ").push_bind(budget.kind as i64).push(" THEN ").push_bind(i64::from(budget.limit));
    }
    sql.push(" END RETURNING kind, spent");
    sql.build_query_as().fetch_all(db).await
}

/// How long it takes until there is an attempt again.
async fn refilled(db: &mut Connection, budget: &Budget, at: UnixMillis) -> Result<Duration, sqlx::Error> {
    let expires_ms: Option<i64> =
        sqlx::query_scalar::<Db, _>("SELECT expires_ms FROM guesses WHERE kind = $1 AND key = $2")
            .bind(budget.kind as i64)
            .bind(budget.key.to_vec())
            .fetch_optional(db)
            .await?;
    let expires = UnixMillis(expires_ms.and_then(|ms| u64::try_from(ms).ok()).unwrap_or(at.0));
    Ok(expires.since(at).max(Duration::from_millis(1)))
}

/// Gives back what was taken at `taken`, unless its window is over.
pub(crate) async fn forgive(db: &mut Connection, budgets: Vec<Budget>, taken: UnixMillis) -> Result<(), Error> {
    let mut sql = QueryBuilder::<Db>::new(
        "UPDATE guesses SET spent = spent - 1 WHERE (kind, key) IN (SELECT kind, key FROM guesses WHERE spent > 0 AND (",
    );
    for (nth, budget) in budgets.iter().enumerate() {
        sql.push(if nth == 0 { "(kind = " } else { " OR (kind = " }).push_bind(budget.kind as i64);
        sql.push(" AND key = ").push_bind(budget.key.to_vec());
        sql.push(" AND expires_ms > ").push_bind(bigint(taken.0));
        sql.push(" AND expires_ms <= ").push_bind(bigint(taken.plus(budget.window).0)).push(")");
    }
    // In the order of the locks, too.
    sql.push(") ORDER BY kind, key").push(LOCK_ROWS).push(")");
    sql.build().execute(db).await?;
    Ok(())
}

/// Forgets ended budgets of one kind. Of one only: together with the order of kinds in [`take`] that rules out a circle.
pub(crate) async fn prune(db: &mut Connection, kind: BudgetKind, at: UnixMillis) -> Result<u64, Error> {
    let pruned = sqlx::query("DELETE FROM guesses WHERE kind = $1 AND expires_ms <= $2")
        .bind(kind as i64)
        .bind(bigint(at.0))
        .execute(db)
        .await?;
    Ok(pruned.rows_affected())
}
