//! SQLite: how to connect, begin and lock. Everything else is the SQL that both engines share.

use std::{str::FromStr as _, time::Duration};

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use crate::{Error, StoreOptions, Stores, migrations};

mod backend {
    pub(crate) use sqlx::{Sqlite as Db, SqliteConnection as Connection, SqlitePool as Pool, pool::PoolConnection};

    /// Takes the one write lock at once: a lock taken later could fail half-way.
    pub(crate) const BEGIN_WRITE: &str = "BEGIN IMMEDIATE";
    pub(crate) const BEGIN_READ: &str = "BEGIN DEFERRED";
    /// The write lock is the lock.
    pub(crate) const LOCK_SCHEMA: &str = "SELECT 1";
    /// Behind a query: keeps its rows from being changed by others.
    pub(crate) const LOCK_ROWS: &str = "";
}

#[path = "sql/account_allowance.rs"]
mod account_allowance;
#[path = "sql/account_orders.rs"]
mod account_orders;
#[path = "sql/account_views.rs"]
mod account_views;
#[path = "sql/accounts.rs"]
mod accounts;
#[path = "sql/addresses.rs"]
mod addresses;
#[path = "sql/blocks.rs"]
mod blocks;
#[path = "sql/budgets.rs"]
mod budgets;
#[path = "sql/deliveries.rs"]
mod deliveries;
#[path = "sql/directory.rs"]
mod directory;
#[path = "sql/engine.rs"]
mod engine;
#[path = "sql/events.rs"]
mod events;
#[path = "sql/governing.rs"]
mod governing;
#[path = "sql/invites.rs"]
mod invites;
#[path = "sql/joining.rs"]
mod joining;
#[path = "sql/kinds.rs"]
mod kinds;
#[path = "sql/mails.rs"]
mod mails;
#[path = "sql/membership.rs"]
mod membership;
#[path = "sql/networks.rs"]
mod networks;
#[path = "sql/operating.rs"]
mod operating;
#[path = "sql/operations.rs"]
mod operations;
#[path = "sql/outbox.rs"]
mod outbox;
#[path = "sql/people.rs"]
mod people;
#[path = "sql/plans.rs"]
mod plans;
#[path = "sql/providers.rs"]
mod providers;
#[path = "sql/quota.rs"]
mod quota;
#[path = "sql/reading.rs"]
mod reading;
#[path = "sql/removals.rs"]
mod removals;
#[path = "sql/rotation.rs"]
mod rotation;
#[path = "sql/routes.rs"]
mod routes;
#[path = "sql/schema.rs"]
mod schema;
#[path = "sql/seating.rs"]
mod seating;
#[path = "sql/secrets.rs"]
mod secrets;
#[path = "sql/signing_up.rs"]
mod signing_up;
#[path = "sql/webhooks.rs"]
mod webhooks;

/// How long one process waits for the write lock of another.
const BUSY_DEADLINE: Duration = Duration::from_secs(4);

pub(crate) async fn connect(url: &str, options: StoreOptions) -> Result<Stores, Error> {
    let settings = settings(url)?;
    let writers = pool(settings.clone(), 1);
    let readers = pool(settings, options.connections.max(1));
    engine::Engine::new(readers, writers).open(options).await
}

pub(crate) async fn migrate(url: &str) -> Result<Vec<u32>, Error> {
    let pool = pool(settings(url)?.create_if_missing(true), 1);
    engine::Engine::new(pool.clone(), pool).migrate(migrations()).await
}

fn settings(url: &str) -> Result<SqliteConnectOptions, Error> {
    Ok(SqliteConnectOptions::from_str(url)
        .map_err(|_| Error::Url)?
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_DEADLINE))
}

/// Writers queue for one connection in the order they came; SQLite's own waiting is neither fair nor cheap.
fn pool(settings: SqliteConnectOptions, connections: u32) -> backend::Pool {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(engine::ACQUIRE_DEADLINE)
        .test_before_acquire(false)
        .connect_lazy_with(settings)
}
