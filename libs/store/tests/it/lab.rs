//! A fresh database for one test, and clients to put into it.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use domain::{
    AccountId, AccountOrder, AddressPool, ClientId, IdentityKey, NetworkId, NetworkName, NetworkOrder, OneTimeToken,
    PersonId, SessionToken, Signature, TunnelKey, UnixMillis,
};
use sqlx::Connection as _;
use store::{
    Admission, Announcement, AttachError, Attachment, Budget, BudgetKind, Fresh, Guess, JoinError, Joined, Login,
    NewNetwork, NewSession, PasswordHash, PasswordRecord, StoreOptions, Stores,
};
use tempfile::TempDir;

pub(crate) const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) struct Lab {
    pub(crate) url: String,
    database: Database,
    stores: Option<Stores>,
    clients: AtomicU64,
}

enum Database {
    Sqlite(TempDir),
    Postgres { server: String, name: String },
}

impl Lab {
    pub(crate) async fn on_sqlite() -> Self {
        Self::unmigrated_on_sqlite().migrated().await
    }

    pub(crate) async fn on_postgres() -> Self {
        Self::unmigrated_on_postgres().await.migrated().await
    }

    pub(crate) fn unmigrated_on_sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/buri.db", folder.path().display());
        Self { url, database: Database::Sqlite(folder), stores: None, clients: AtomicU64::new(0) }
    }

    #[expect(clippy::disallowed_methods, reason = "the test services are named by the environment")]
    pub(crate) async fn unmigrated_on_postgres() -> Self {
        let server = std::env::var("BURI_TEST_POSTGRES")
            .expect("BURI_TEST_POSTGRES must name a Postgres server: run ./test-services up");
        let name = format!("buri_{:032x}", rand::random::<u128>());
        execute(&server, format!("CREATE DATABASE {name}")).await;
        let (base, _) = server.rsplit_once('/').unwrap();
        let url = format!("{base}/{name}");
        Self { url, database: Database::Postgres { server, name }, stores: None, clients: AtomicU64::new(0) }
    }

    async fn migrated(mut self) -> Self {
        store::migrate(&self.url).await.unwrap();
        self.stores = Some(self.reopened(AddressPool::DEFAULT).await);
        self
    }

    pub(crate) fn stores(&self) -> &Stores {
        self.stores.as_ref().expect("the lab was migrated")
    }

    pub(crate) fn networks(&self) -> &dyn store::Networks {
        &*self.stores().networks
    }

    /// What a client gets for an attempt at the password of this network.
    pub(crate) async fn password_record(&self, name: &NetworkName) -> Option<PasswordRecord> {
        let budget = Budget { kind: BudgetKind::Client, key: rand::random(), limit: 1, window: Duration::from_secs(1) };
        let (guess, record) = self.networks().guess_password(name, &[budget], NOW).await.unwrap();
        assert_eq!(guess, Guess::Allowed);
        record
    }

    pub(crate) fn accounts(&self) -> &dyn store::Accounts {
        &*self.stores().accounts
    }

    pub(crate) fn operations(&self) -> &dyn store::Operations {
        &*self.stores().operations
    }

    pub(crate) fn people(&self) -> &dyn store::People {
        &*self.stores().people
    }

    /// A person who proved its address, and the account made for it.
    pub(crate) async fn person(&self, email: &str) -> (PersonId, AccountId) {
        let fresh = fresh();
        self.people().ask_sign_up(email.parse().unwrap(), PasswordHash("$argon2id$".into()), fresh, NOW).await.unwrap();
        let session = session();
        let person = self.people().confirm_sign_up(fresh.token, session, NOW).await.unwrap().unwrap();
        (person, self.people().person(session.token, NOW).await.unwrap().unwrap().accounts[0].account)
    }

    /// Gives `client` to `account` through a code that `person` makes.
    pub(crate) async fn attach(
        &self,
        person: PersonId,
        account: AccountId,
        client: ClientId,
    ) -> Result<Attachment, AttachError> {
        let code = fresh();
        self.people().carry_out_for(person, account, AccountOrder::MakeCode, code, NOW).await.unwrap();
        self.people().attach(client, code.token, NOW).await
    }

    /// How many rows of any table contain `text` in any column.
    pub(crate) async fn rows_with(&self, text: &str) -> i64 {
        let mut found = 0;
        for (table, columns) in self.columns().await {
            let condition: Vec<_> =
                columns.iter().map(|column| format!("CAST({column} AS TEXT) LIKE '%{text}%'")).collect();
            found += self.scalar(&format!("SELECT COUNT(*) FROM {table} WHERE {}", condition.join(" OR "))).await;
        }
        found
    }

    /// Every table with the names of its columns.
    async fn columns(&self) -> std::collections::BTreeMap<String, Vec<String>> {
        let sqlite =
            "SELECT m.name, i.name FROM sqlite_master m JOIN pragma_table_info(m.name) i WHERE m.type = 'table'";
        let postgres = "SELECT CAST(table_name AS TEXT), CAST(column_name AS TEXT) FROM information_schema.columns
                        WHERE table_schema = 'public'";
        let rows: Vec<(String, String)> = if self.url.starts_with("sqlite") {
            let mut connection = sqlx::SqliteConnection::connect(&self.url).await.unwrap();
            sqlx::query_as(sqlite).fetch_all(&mut connection).await.unwrap()
        } else {
            let mut connection = sqlx::PgConnection::connect(&self.url).await.unwrap();
            sqlx::query_as(postgres).fetch_all(&mut connection).await.unwrap()
        };
        let mut tables = std::collections::BTreeMap::<String, Vec<String>>::new();
        for (table, column) in rows {
            tables.entry(table).or_default().push(column);
        }
        assert!(tables.len() > 10, "{tables:?}");
        tables
    }

    pub(crate) async fn scalar(&self, sql: &str) -> i64 {
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        if self.url.starts_with("sqlite") {
            let mut connection = sqlx::SqliteConnection::connect(&self.url).await.unwrap();
            sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap()
        } else {
            let mut connection = sqlx::PgConnection::connect(&self.url).await.unwrap();
            sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap()
        }
    }

    /// The same database through connections of its own, as another process has it.
    pub(crate) async fn reopened(&self, pool: AddressPool) -> Stores {
        store::connect(&self.url, StoreOptions { pool, ..StoreOptions::default() }).await.unwrap()
    }

    /// A statement past the store, for rows that only an operator makes.
    pub(crate) async fn execute(&self, sql: &str) {
        execute(&self.url, sql.to_owned()).await;
    }

    /// How the engine would go about `query` if every table were large.
    pub(crate) async fn explain(&self, query: &str) -> String {
        if self.url.starts_with("sqlite") {
            let mut connection = sqlx::SqliteConnection::connect(&self.url).await.unwrap();
            let sql = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {query}"));
            let rows: Vec<(i64, i64, i64, String)> = sqlx::query_as(sql).fetch_all(&mut connection).await.unwrap();
            connection.close().await.unwrap();
            rows.into_iter().map(|(.., step)| step + "\n").collect()
        } else {
            let mut connection = sqlx::PgConnection::connect(&self.url).await.unwrap();
            // An empty table is cheapest to read whole.
            for setting in ["SET enable_seqscan = off", "SET enable_sort = off"] {
                sqlx::raw_sql(setting).execute(&mut connection).await.unwrap();
            }
            let sql = sqlx::AssertSqlSafe(format!("EXPLAIN {query}"));
            let rows: Vec<(String,)> = sqlx::query_as(sql).fetch_all(&mut connection).await.unwrap();
            connection.close().await.unwrap();
            rows.into_iter().map(|(step,)| step + "\n").collect()
        }
    }

    /// A client never seen before.
    pub(crate) async fn client(&self) -> ClientId {
        let number = self.clients.fetch_add(1, Ordering::Relaxed);
        self.accounts().login(login(number, 0), NOW).await.unwrap().client
    }

    pub(crate) async fn clients(&self, count: usize) -> Vec<ClientId> {
        let mut clients = Vec::new();
        for _ in 0..count {
            clients.push(self.client().await);
        }
        clients
    }

    pub(crate) async fn network(&self, name: &str, owner: ClientId) -> NetworkId {
        self.create(name, owner).await.whole.network
    }

    pub(crate) async fn create(&self, name: &str, owner: ClientId) -> Joined {
        self.networks().create(new_network(name, owner), NOW).await.unwrap()
    }

    pub(crate) async fn join(&self, network: NetworkId, client: ClientId) -> Joined {
        joined(self.networks().join(network, client, rand::random(), NOW).await)
    }

    /// Carries out an order that must succeed.
    pub(crate) async fn order(&self, network: NetworkId, client: ClientId, order: NetworkOrder) -> Announcement {
        self.networks().carry_out(network, client, order, NOW).await.unwrap()
    }

    /// Closes everything; fails when a transaction is stuck.
    pub(crate) async fn end(self) {
        if let Some(stores) = self.stores {
            tokio::time::timeout(std::time::Duration::from_secs(10), stores.close()).await.expect("work is left over");
        }
        match self.database {
            Database::Sqlite(folder) => folder.close().unwrap(),
            Database::Postgres { server, name } => execute(&server, format!("DROP DATABASE {name} WITH (FORCE)")).await,
        }
    }
}

/// The membership that a join made at once.
#[track_caller]
pub(crate) fn joined(admission: Result<Admission, JoinError>) -> Joined {
    match admission.unwrap() {
        Admission::Joined(joined) => *joined,
        Admission::Awaiting { .. } => panic!("approval is asked for"),
    }
}

/// Login of the client with this number, with one of its tunnel keys.
pub(crate) fn login(number: u64, tunnel: u8) -> Login {
    let mut identity = [0; 32];
    identity[..8].copy_from_slice(&number.to_be_bytes());
    Login {
        identity: IdentityKey::from_bytes(identity),
        tunnel: TunnelKey::from_bytes([tunnel; 32]),
        tunnel_signature: Signature::from_bytes([tunnel; 64]),
        nick: None,
        client: None,
    }
}

/// A token that lives for an hour.
pub(crate) fn fresh() -> Fresh {
    let token = OneTimeToken::from_bytes(rand::random()).hash();
    Fresh { token, nonce: rand::random(), expires: NOW.plus(HOUR) }
}

/// A session that lives for an hour.
pub(crate) fn session() -> NewSession {
    NewSession { token: SessionToken::from_bytes(rand::random()).hash(), expires: NOW.plus(HOUR) }
}

pub(crate) fn new_network(name: &str, owner: ClientId) -> NewNetwork {
    NewNetwork { name: name.parse().unwrap(), owner, password: vec![1; 192], wrapped_secret: vec![2; 60] }
}

async fn execute(url: &str, sql: String) {
    let sql = sqlx::AssertSqlSafe(sql);
    if url.starts_with("sqlite") {
        let mut connection = sqlx::SqliteConnection::connect(url).await.unwrap();
        sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    } else {
        let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
        sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }
}
