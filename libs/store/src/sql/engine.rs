//! Transactions that end, whoever stops waiting for them.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use domain::{AddressPool, UlaPrefix};
use futures_util::future::BoxFuture;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::{
    backend::{BEGIN_READ, BEGIN_WRITE, Connection, Db, Pool, PoolConnection},
    directory, schema,
};
use crate::{Error, Migration, StoreOptions, Stores};

/// How long a use case waits for a connection.
pub(crate) const ACQUIRE_DEADLINE: Duration = Duration::from_secs(2);
/// How long a transaction may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long a migration may take.
const MIGRATION_DEADLINE: Duration = Duration::from_secs(600);

/// The connections to one database and the transactions that run on them.
#[derive(Clone)]
pub(crate) struct Engine {
    readers: Pool,
    writers: Pool,
    running: TaskTracker,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

/// The store over one engine: what `networks.rs` and `accounts.rs` implement the traits for.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) engine: Engine,
    pub(crate) context: Context,
    pub(crate) deployment: crate::Deployment,
    pub(crate) default_plan: String,
}

/// What addresses are made from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context {
    pub(crate) pool: AddressPool,
    pub(crate) ula: UlaPrefix,
}

impl Engine {
    pub(crate) fn new(readers: Pool, writers: Pool) -> Self {
        Self { readers, writers, running: TaskTracker::new() }
    }

    /// The traits over this engine, once the schema is known to fit.
    pub(crate) async fn open(self, options: StoreOptions) -> Result<Stores, Error> {
        self.read("check schema", |db| Box::pin(schema::check(db, crate::migrations()))).await?;
        directory::fill_in(&self).await?;
        let drawn = (rand::random(), rand::random());
        let deployment = self.write("deployment", move |db| Box::pin(schema::deployment(db, drawn))).await?;
        let context = Context { pool: options.pool, ula: deployment.ula };
        let store = Arc::new(Store { engine: self, context, deployment, default_plan: options.default_plan });
        Ok(Stores {
            accounts: store.clone(),
            people: store.clone(),
            networks: store.clone(),
            operations: store.clone(),
            events: store.clone(),
            webhooks: store,
        })
    }

    /// Applies what is missing of `migrations`.
    pub(crate) async fn migrate(self, migrations: &'static [Migration]) -> Result<Vec<u32>, Error> {
        let work = transaction(self.writers.clone(), BEGIN_WRITE, MIGRATION_DEADLINE, move |db| {
            Box::pin(schema::migrate(db, migrations))
        });
        let applied = self.finished(work).await;
        self.close().await;
        applied
    }

    /// Runs `body` in a transaction that may write.
    pub(crate) async fn write<T, E, F>(&self, use_case: &'static str, body: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
        F: for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, Result<T, E>> + Send + 'static,
    {
        let work = transaction(self.writers.clone(), BEGIN_WRITE, DEADLINE, body);
        self.finished(work.instrument(tracing::debug_span!("transaction", use_case))).await
    }

    /// Runs `body` on one consistent view of the database.
    pub(crate) async fn read<T, E, F>(&self, use_case: &'static str, body: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
        F: for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, Result<T, E>> + Send + 'static,
    {
        let work = transaction(self.readers.clone(), BEGIN_READ, DEADLINE, body);
        self.finished(work.instrument(tracing::debug_span!("transaction", use_case))).await
    }

    /// Runs `body`, one statement that only reads: a transaction by itself. A connection that broke in the pool is found out by it,
    /// and another one is tried.
    pub(crate) async fn single<T, F>(&self, use_case: &'static str, body: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: for<'c> Fn(&'c mut Connection) -> BoxFuture<'c, Result<T, Error>> + Send + 'static,
    {
        let work = statement(self.readers.clone(), body);
        self.finished(work.instrument(tracing::debug_span!("statement", use_case))).await
    }

    /// Waits for the transactions that run, then closes all connections.
    pub(crate) async fn close(&self) {
        self.running.close();
        self.running.wait().await;
        self.readers.close().await;
        self.writers.close().await;
    }

    /// Lets `work` run to its end even when the caller goes away: its deadlines bound it, [`Engine::close`] awaits it.
    async fn finished<T, E>(&self, work: impl Future<Output = Result<T, E>> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        self.running.spawn(work).await.unwrap_or_else(|_| Err(Error::Crashed.into()))
    }
}

async fn transaction<T, E, F>(pool: Pool, begin: &'static str, deadline: Duration, body: F) -> Result<T, E>
where
    E: From<Error>,
    F: for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, Result<T, E>>,
{
    let mut lent = timeout(ACQUIRE_DEADLINE, Lent::begun(&pool, begin)).await.map_err(|_| Error::Busy)??;
    let outcome = timeout(deadline, async {
        let db = lent.connection();
        match body(db).await {
            Ok(value) => {
                execute(db, "COMMIT").await?;
                Ok::<_, sqlx::Error>(Ok(value))
            }
            Err(error) => {
                execute(db, "ROLLBACK").await?;
                Ok(Err(error))
            }
        }
    })
    .await;
    match outcome {
        Ok(Ok(ended)) => {
            lent.give_back();
            ended
        }
        Ok(Err(broken)) => Err(Error::from(broken).into()),
        Err(_) => Err(Error::TimedOut.into()),
    }
}

async fn statement<T, F>(pool: Pool, body: F) -> Result<T, Error>
where
    F: for<'c> Fn(&'c mut Connection) -> BoxFuture<'c, Result<T, Error>>,
{
    loop {
        let mut lent = timeout(ACQUIRE_DEADLINE, Lent::take(&pool)).await.map_err(|_| Error::Busy)??;
        match timeout(DEADLINE, body(lent.connection())).await.map_err(|_| Error::TimedOut)? {
            Err(Error::Database(error)) if is_broken(&error) => {
                tracing::debug!(%error, "a pooled connection was broken")
            }
            outcome => {
                lent.give_back();
                return outcome;
            }
        }
    }
}

async fn execute(db: &mut Connection, statement: &'static str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(statement).execute(db).await.map(drop)
}

/// A connection that returns to the pool only when its transaction has ended; otherwise it is closed, which rolls back.
struct Lent(Option<PoolConnection<Db>>);

impl Lent {
    /// A connection with an open transaction. Those that broke in the pool are found out here, where trying another one
    /// cannot do anything twice.
    async fn begun(pool: &Pool, begin: &'static str) -> Result<Self, Error> {
        loop {
            let mut lent = Self::take(pool).await?;
            match execute(lent.connection(), begin).await {
                Ok(()) => return Ok(lent),
                Err(error) if is_broken(&error) => tracing::debug!(%error, "a pooled connection was broken"),
                Err(error) => return Err(error.into()),
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that takes connections")]
    async fn take(pool: &Pool) -> Result<Self, Error> {
        match pool.acquire().await {
            Ok(connection) => Ok(Self(Some(connection))),
            Err(sqlx::Error::PoolTimedOut) => Err(Error::Busy),
            Err(error) => Err(error.into()),
        }
    }

    fn connection(&mut self) -> &mut Connection {
        self.0.as_mut().expect("a lent connection is taken out by its owner only")
    }

    fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(connection.detach());
        }
    }
}

/// Whether the connection, not the statement, is at fault: the path is gone, or Postgres is ending its sessions (class 57P).
fn is_broken(error: &sqlx::Error) -> bool {
    let ending = |code: &str| code.starts_with("57P");
    let code = error.as_database_error().and_then(|refused| refused.code());
    matches!(error, sqlx::Error::Io(_)) || code.is_some_and(|code| ending(&code))
}
