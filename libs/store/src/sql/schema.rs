//! Which version the database is at, and how it gets to the next.

use std::time::{SystemTime, UNIX_EPOCH};

use domain::UlaPrefix;

use super::backend::{Connection, Db, LOCK_SCHEMA};
use crate::{Deployment, Error, Migration, SchemaError, values};

/// What Postgres (`undefined_table`) and SQLite (`SQLITE_ERROR`) call the absence of the table of migrations.
const NO_SUCH_TABLE: [&str; 2] = ["42P01", "1"];

/// Applies what is missing; the caller's transaction makes it all or nothing.
pub(crate) async fn migrate(db: &mut Connection, known: &[Migration]) -> Result<Vec<u32>, Error> {
    sqlx::raw_sql(LOCK_SCHEMA).execute(&mut *db).await?;
    sqlx::raw_sql(
        "CREATE TABLE IF NOT EXISTS schema_migrations (
            version BIGINT PRIMARY KEY, name TEXT NOT NULL, checksum BYTEA NOT NULL, applied_ms BIGINT NOT NULL)",
    )
    .execute(&mut *db)
    .await?;
    let present = compare(&applied(db).await?, known)?;
    let mut versions = Vec::new();
    for migration in &known[present..] {
        sqlx::raw_sql(migration.sql).execute(&mut *db).await?;
        sqlx::query("INSERT INTO schema_migrations (version, name, checksum, applied_ms) VALUES ($1, $2, $3, $4)")
            .bind(i64::from(migration.version))
            .bind(migration.name)
            .bind(migration.checksum())
            .bind(now_ms())
            .execute(&mut *db)
            .await?;
        versions.push(migration.version);
    }
    Ok(versions)
}

/// Whether the database is exactly at the last of `known`.
pub(crate) async fn check(db: &mut Connection, known: &[Migration]) -> Result<(), Error> {
    let applied = applied(db).await;
    if let Err(Error::Database(sqlx::Error::Database(refused))) = &applied
        && refused.code().is_some_and(|code| NO_SUCH_TABLE.contains(&code.as_ref()))
    {
        return Err(SchemaError::Missing.into());
    }
    let applied = applied?;
    let present = compare(&applied, known)?;
    match (present.checked_sub(1), known.last()) {
        (None, Some(_)) => Err(SchemaError::Missing.into()),
        (Some(last), Some(needed)) if present < known.len() => {
            Err(SchemaError::Older { found: known[last].version, needed: needed.version }.into())
        }
        _ => Ok(()),
    }
}

/// The row of the deployment, made of `drawn` when there is none.
pub(crate) async fn deployment(db: &mut Connection, drawn: ([u8; 16], [u8; 5])) -> Result<Deployment, Error> {
    sqlx::query("INSERT INTO deployment (one, id, global_id) VALUES (1, $1, $2) ON CONFLICT DO NOTHING")
        .bind(drawn.0.to_vec())
        .bind(drawn.1.to_vec())
        .execute(&mut *db)
        .await?;
    let (id, global_id): (Vec<u8>, Vec<u8>) =
        sqlx::query_as::<Db, _>("SELECT id, global_id FROM deployment").fetch_one(db).await?;
    let broken = Error::Corrupt { what: "deployment" };
    match (<[u8; 16]>::try_from(id), <[u8; 5]>::try_from(global_id)) {
        (Ok(id), Ok(global_id)) => Ok(Deployment { id, ula: UlaPrefix::from_global_id(global_id) }),
        _ => Err(broken),
    }
}

async fn applied(db: &mut Connection) -> Result<Vec<(i64, Vec<u8>)>, Error> {
    Ok(sqlx::query_as::<Db, _>("SELECT version, checksum FROM schema_migrations ORDER BY version")
        .fetch_all(db)
        .await?)
}

/// How many of `known` are in `applied`, which must be its beginning.
fn compare(applied: &[(i64, Vec<u8>)], known: &[Migration]) -> Result<usize, Error> {
    for (index, (version, checksum)) in applied.iter().enumerate() {
        let version = values::count(*version)?;
        let Some(migration) = known.get(index) else {
            let known = known.last().map_or(0, |migration| migration.version);
            return Err(SchemaError::Newer { found: version, known }.into());
        };
        if migration.version != version || migration.checksum() != *checksum {
            return Err(SchemaError::Altered { version }.into());
        }
    }
    Ok(applied.len())
}

/// For people who read the table.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
