//! The schema's history. Forward only: a released migration is never edited, its checksum is in the database.

use ring::digest;

use crate::{Engine, Error, postgres, sqlite};

/// One step of the schema.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    pub version: u32,
    pub name: &'static str,
    pub sql: &'static str,
}

impl Migration {
    /// SHA-256 of the text.
    pub(crate) fn checksum(&self) -> Vec<u8> {
        digest::digest(&digest::SHA256, self.sql.as_bytes()).as_ref().to_vec()
    }
}

/// All migrations, oldest first.
#[must_use]
pub fn migrations() -> &'static [Migration] {
    &[
        Migration { version: 1, name: "base", sql: include_str!("../../../migrations/0001_base.sql") },
        Migration { version: 2, name: "relay_quota", sql: include_str!("../../../migrations/0002_relay_quota.sql") },
        Migration { version: 3, name: "roles", sql: include_str!("../../../migrations/0003_roles.sql") },
        Migration { version: 4, name: "invites", sql: include_str!("../../../migrations/0004_invites.sql") },
        Migration { version: 5, name: "operations", sql: include_str!("../../../migrations/0005_operations.sql") },
        Migration { version: 6, name: "directory", sql: include_str!("../../../migrations/0006_directory.sql") },
        Migration { version: 7, name: "secrets", sql: include_str!("../../../migrations/0007_secrets.sql") },
        Migration { version: 8, name: "accounts", sql: include_str!("../../../migrations/0008_accounts.sql") },
        Migration { version: 9, name: "kinds", sql: include_str!("../../../migrations/0009_kinds.sql") },
        Migration { version: 10, name: "blocks", sql: include_str!("../../../migrations/0010_blocks.sql") },
        Migration { version: 11, name: "events", sql: include_str!("../../../migrations/0011_events.sql") },
        Migration { version: 12, name: "webhooks", sql: include_str!("../../../migrations/0012_webhooks.sql") },
        Migration { version: 13, name: "keys", sql: include_str!("../../../migrations/0013_keys.sql") },
        Migration {
            version: 14,
            name: "account_quota",
            sql: include_str!("../../../migrations/0014_account_quota.sql"),
        },
        Migration { version: 15, name: "gateways", sql: include_str!("../../../migrations/0015_gateways.sql") },
        Migration { version: 16, name: "block_events", sql: include_str!("../../../migrations/0016_block_events.sql") },
        Migration { version: 17, name: "seats", sql: include_str!("../../../migrations/0017_seats.sql") },
    ]
}

/// Brings the database at `url` up to date, all steps in one transaction under a lock; a SQLite file is made if it does not
/// exist. Returns the versions that were applied now: none the second time.
///
/// # Errors
/// [`Error::Schema`] when the database is newer than this program, or was migrated with another text.
pub async fn migrate(url: &str) -> Result<Vec<u32>, Error> {
    match Engine::of(url)? {
        Engine::Postgres => postgres::migrate(url).await,
        Engine::Sqlite => sqlite::migrate(url).await,
    }
}
