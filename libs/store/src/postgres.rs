//! Postgres: how to connect, begin and lock. Everything else is the SQL that both engines share.

use std::{str::FromStr as _, time::Duration};

use sqlx::{
    Connection as _,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::{Error, StoreOptions, Stores, migrations};

mod backend {
    pub(crate) use sqlx::{PgConnection as Connection, PgPool as Pool, Postgres as Db, pool::PoolConnection};

    pub(crate) const BEGIN_WRITE: &str = "BEGIN";
    pub(crate) const BEGIN_READ: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
    /// Held until the transaction ends. The number means nothing, but is the same in every program.
    pub(crate) const LOCK_SCHEMA: &str = "SELECT pg_advisory_xact_lock(5284013177)";
    /// Behind a query: keeps its rows from being changed by others.
    pub(crate) const LOCK_ROWS: &str = " FOR UPDATE";
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

/// A connection idle for longer is tried before it is used.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);
const PING_DEADLINE: Duration = Duration::from_secs(1);

pub(crate) async fn connect(url: &str, options: StoreOptions) -> Result<Stores, Error> {
    let pool = pool(url, options.connections, "5s")?;
    engine::Engine::new(pool.clone(), pool).open(options).await
}

pub(crate) async fn migrate(url: &str) -> Result<Vec<u32>, Error> {
    let pool = pool(url, 1, "10min")?;
    engine::Engine::new(pool.clone(), pool).migrate(migrations()).await
}

fn pool(url: &str, connections: u32, statement_timeout: &str) -> Result<backend::Pool, Error> {
    let settings = PgConnectOptions::from_str(url).map_err(|_| Error::Url)?.application_name("buri").options([
        ("statement_timeout", statement_timeout),
        // Ends what a crashed process or a lost connection left open, and with it the locks.
        ("idle_in_transaction_session_timeout", "10s"),
    ]);
    Ok(PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(engine::ACQUIRE_DEADLINE)
        // sqlx's own test has no deadline: a path that swallows packets would hang it.
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move {
                if meta.idle_for < TRUSTED_IDLE {
                    return Ok(true);
                }
                Ok(tokio::time::timeout(PING_DEADLINE, connection.ping()).await.is_ok_and(|pong| pong.is_ok()))
            })
        })
        .connect_lazy_with(settings))
}
