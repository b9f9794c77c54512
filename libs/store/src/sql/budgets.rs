//! Budgets of attempts: taken before, given back after a success.

use std::time::Duration;

use domain::UnixMillis;

use super::backend::{Connection, Db};
use crate::{Budget, BudgetKind, Error, Guess, values::bigint};

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

/// One attempt out of each of `budgets`, which are in the order of kinds and keys: the order of the locks.
pub(crate) async fn take(db: &mut Connection, budgets: Vec<Budget>, at: UnixMillis) -> Result<Guess, Stop> {
    for budget in budgets {
        let taken = take_one(db, budget, at).await.map_err(Error::from)?;
        if let Some(retry_after) = taken {
            return Err(Stop::Exhausted { retry_after });
        }
    }
    Ok(Guess::Allowed)
}

/// `None` when there was an attempt left, otherwise the time until there is.
async fn take_one(db: &mut Connection, budget: Budget, at: UnixMillis) -> Result<Option<Duration>, sqlx::Error> {
    let spent: Option<i64> = sqlx::query_scalar::<Db, _>(
        "INSERT INTO guesses (kind, key, spent, expires_ms) VALUES ($1, $2, 1, $3)
         ON CONFLICT (kind, key) DO UPDATE SET
             spent = CASE WHEN guesses.expires_ms <= $4 THEN 1 ELSE guesses.spent + 1 END,
             expires_ms = CASE WHEN guesses.expires_ms <= $4 THEN $3 ELSE guesses.expires_ms END
         WHERE guesses.expires_ms <= $4 OR guesses.spent < $5
         RETURNING spent",
    )
    .bind(budget.kind as i64)
    .bind(budget.key.to_vec())
    .bind(bigint(at.plus(budget.window).0))
    .bind(bigint(at.0))
    .bind(i64::from(budget.limit))
    .fetch_optional(&mut *db)
    .await?;
    if spent.is_some_and(|spent| spent <= i64::from(budget.limit)) {
        return Ok(None);
    }
    let expires_ms: Option<i64> =
        sqlx::query_scalar::<Db, _>("SELECT expires_ms FROM guesses WHERE kind = $1 AND key = $2")
            .bind(budget.kind as i64)
            .bind(budget.key.to_vec())
            .fetch_optional(db)
            .await?;
    let expires = UnixMillis(expires_ms.and_then(|ms| u64::try_from(ms).ok()).unwrap_or(at.0));
    Ok(Some(expires.since(at).max(Duration::from_millis(1))))
}

/// Gives back what was taken at `taken`, unless its window is over.
pub(crate) async fn forgive(db: &mut Connection, budgets: Vec<Budget>, taken: UnixMillis) -> Result<(), Error> {
    for budget in budgets {
        sqlx::query(
            "UPDATE guesses SET spent = spent - 1
             WHERE kind = $1 AND key = $2 AND spent > 0 AND expires_ms > $3 AND expires_ms <= $4",
        )
        .bind(budget.kind as i64)
        .bind(budget.key.to_vec())
        .bind(bigint(taken.0))
        .bind(bigint(taken.plus(budget.window).0))
        .execute(&mut *db)
        .await?;
    }
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
