//! What operators hold against whom.

use async_trait::async_trait;
use domain::{
    AccountId, AddressPrefix, Block, BlockId, BlockSubject, ClientId, Degree, EventKind, IdentityKey, NetworkId,
    UnixMillis,
};

use super::{
    backend::{Connection, Db},
    engine::Store,
    events,
};
use crate::{
    BlockChange, Blocks, ChangeBlockError, Error, HeldAgainst, JoinError, MAX_BLOCKS, MakeBlockError, NewBlock,
    SLOW_JOINS,
    values::{self, bigint},
};

const COLUMNS: &str = "id, kind, target, degree, reason, maker, made_ms, expires_ms, revision";

const PREFIX: i64 = 0;
const CLIENT: i64 = 1;
const ACCOUNT: i64 = 2;
const NETWORK: i64 = 3;

#[async_trait]
impl Blocks for Store {
    async fn make_block(&self, block: NewBlock, at: UnixMillis) -> Result<Block, MakeBlockError> {
        self.engine.write("make block", move |db| Box::pin(make(db, block, at))).await
    }

    async fn block(&self, id: BlockId, at: UnixMillis) -> Result<Option<Block>, Error> {
        self.engine.read("block", move |db| Box::pin(block(db, id, at))).await
    }

    async fn blocks(&self, after: Option<BlockId>, limit: u16, at: UnixMillis) -> Result<Vec<Block>, Error> {
        self.engine.read("blocks", move |db| Box::pin(blocks(db, after, limit, at))).await
    }

    async fn change_block(
        &self,
        id: BlockId,
        expected: Option<u64>,
        change: BlockChange,
        at: UnixMillis,
    ) -> Result<(Block, Block), ChangeBlockError> {
        self.engine.write("change block", move |db| Box::pin(changed(db, id, expected, change, at))).await
    }

    async fn lift_block(&self, id: BlockId, expected: Option<u64>, at: UnixMillis) -> Result<Block, ChangeBlockError> {
        self.engine.write("lift block", move |db| Box::pin(lift(db, id, expected, at))).await
    }

    async fn prefix_blocks(&self, at: UnixMillis) -> Result<Vec<Block>, Error> {
        self.engine.read("prefix blocks", move |db| Box::pin(of_prefixes(db, at))).await
    }

    async fn held_against(&self, client: ClientId, at: UnixMillis) -> Result<HeldAgainst, Error> {
        self.engine.read("held against", move |db| Box::pin(held_against(db, client, at))).await
    }

    async fn blocked_clients(&self, limit: u32, at: UnixMillis) -> Result<Vec<ClientId>, Error> {
        self.engine.read("blocked clients", move |db| Box::pin(blocked_clients(db, limit, at))).await
    }

    async fn clients_of(
        &self,
        subject: BlockSubject,
        after: Option<ClientId>,
        limit: u16,
    ) -> Result<Vec<ClientId>, Error> {
        self.engine.read("clients of", move |db| Box::pin(clients_of(db, subject, after, limit))).await
    }

    async fn prune_blocks(&self, at: UnixMillis) -> Result<u64, Error> {
        self.engine.write("prune blocks", move |db| Box::pin(prune(db, at))).await
    }
}

#[derive(sqlx::FromRow)]
struct BlockRow {
    id: Vec<u8>,
    kind: i64,
    target: Vec<u8>,
    degree: i64,
    reason: String,
    maker: String,
    made_ms: i64,
    expires_ms: i64,
    revision: i64,
}

impl TryFrom<BlockRow> for Block {
    type Error = Error;

    fn try_from(row: BlockRow) -> Result<Self, Error> {
        let corrupt = |what| move |_| Error::Corrupt { what };
        let degree = usize::try_from(row.degree).ok().and_then(|nth| Degree::ALL.get(nth).copied());
        Ok(Self {
            id: BlockId::try_from(row.id.as_slice()).map_err(|_| Error::Corrupt { what: "block id" })?,
            subject: subject(row.kind, &row.target)?,
            degree: degree.ok_or(Error::Corrupt { what: "degree of a block" })?,
            reason: row.reason.parse().map_err(corrupt("reason of a block"))?,
            maker: row.maker,
            made: values::instant(row.made_ms)?,
            expires: values::instant(row.expires_ms)?,
            revision: values::bytes(row.revision)?,
        })
    }
}

fn subject(kind: i64, target: &[u8]) -> Result<BlockSubject, Error> {
    match kind {
        PREFIX => match AddressPrefix::try_from(target) {
            Ok(prefix) => Ok(BlockSubject::Prefix(prefix)),
            Err(_) => Err(Error::Corrupt { what: "address prefix" }),
        },
        CLIENT => values::client(target).map(BlockSubject::Client),
        ACCOUNT => values::account(target).map(BlockSubject::Account),
        NETWORK => values::network(target).map(BlockSubject::Network),
        _ => Err(Error::Corrupt { what: "kind of a block" }),
    }
}

fn key(subject: BlockSubject) -> (i64, Vec<u8>) {
    match subject {
        BlockSubject::Prefix(prefix) => (PREFIX, prefix.to_bytes()),
        BlockSubject::Client(client) => (CLIENT, client.as_bytes().to_vec()),
        BlockSubject::Account(account) => (ACCOUNT, account.as_bytes().to_vec()),
        BlockSubject::Network(network) => (NETWORK, network.as_bytes().to_vec()),
    }
}

/// The insertion itself finds out whether there is one, so that two at once make one.
async fn make(db: &mut Connection, new: NewBlock, at: UnixMillis) -> Result<Block, MakeBlockError> {
    prune(db, at).await?;
    let (kind, target) = key(new.subject);
    let made = sqlx::query(
        "INSERT INTO blocks (id, kind, target, degree, reason, maker, made_ms, expires_ms, revision)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 1) ON CONFLICT DO NOTHING",
    )
    .bind(new.id.as_bytes().to_vec())
    .bind(kind)
    .bind(target.clone())
    .bind(new.degree as i64)
    .bind(new.reason.as_str().to_owned())
    .bind(new.maker.clone())
    .bind(bigint(at.0))
    .bind(bigint(new.expires.0))
    .execute(&mut *db)
    .await
    .map_err(Error::from)?;
    if made.rows_affected() == 0 {
        let there: Vec<u8> =
            sqlx::query_scalar::<Db, _>("SELECT id FROM blocks WHERE (kind = $1 AND target = $2) OR id = $3")
                .bind(kind)
                .bind(target)
                .bind(new.id.as_bytes().to_vec())
                .fetch_one(db)
                .await
                .map_err(Error::from)?;
        let there = BlockId::try_from(there.as_slice()).map_err(|_| Error::Corrupt { what: "block id" })?;
        return Err(MakeBlockError::Exists(there));
    }
    let blocks: i64 =
        sqlx::query_scalar::<Db, _>("SELECT COUNT(*) FROM blocks").fetch_one(&mut *db).await.map_err(Error::from)?;
    if blocks > i64::from(MAX_BLOCKS) {
        return Err(MakeBlockError::LimitReached { limit: MAX_BLOCKS });
    }
    events::happened(db, events::event(EventKind::BlockMade, at).block(new.id, new.subject)).await?;
    let NewBlock { id, subject, degree, reason, maker, expires } = new;
    Ok(Block { id, subject, degree, reason, maker, made: at, expires, revision: 1 })
}

async fn block(db: &mut Connection, id: BlockId, at: UnixMillis) -> Result<Option<Block>, Error> {
    let row: Option<BlockRow> = sqlx::query_as::<Db, _>(sqlx::AssertSqlSafe(format!(
        "SELECT {COLUMNS} FROM blocks WHERE id = $1 AND expires_ms > $2"
    )))
    .bind(id.as_bytes().to_vec())
    .bind(bigint(at.0))
    .fetch_optional(db)
    .await?;
    row.map(Block::try_from).transpose()
}

async fn blocks(db: &mut Connection, after: Option<BlockId>, limit: u16, at: UnixMillis) -> Result<Vec<Block>, Error> {
    let rows: Vec<BlockRow> = sqlx::query_as::<Db, _>(sqlx::AssertSqlSafe(format!(
        "SELECT {COLUMNS} FROM blocks WHERE id > $1 AND expires_ms > $2 ORDER BY id LIMIT $3"
    )))
    .bind(after.map_or_else(Vec::new, |id| id.as_bytes().to_vec()))
    .bind(bigint(at.0))
    .bind(i64::from(limit))
    .fetch_all(db)
    .await?;
    rows.into_iter().map(Block::try_from).collect()
}

/// Raising the revision is the lock.
async fn changed(
    db: &mut Connection,
    id: BlockId,
    expected: Option<u64>,
    change: BlockChange,
    at: UnixMillis,
) -> Result<(Block, Block), ChangeBlockError> {
    let before = locked(db, id, expected, at).await?;
    let after = Block {
        degree: change.degree.unwrap_or(before.degree),
        reason: change.reason.unwrap_or_else(|| before.reason.clone()),
        expires: change.expires.unwrap_or(before.expires),
        revision: before.revision + 1,
        ..before.clone()
    };
    sqlx::query("UPDATE blocks SET degree = $2, reason = $3, expires_ms = $4 WHERE id = $1")
        .bind(id.as_bytes().to_vec())
        .bind(after.degree as i64)
        .bind(after.reason.as_str().to_owned())
        .bind(bigint(after.expires.0))
        .execute(&mut *db)
        .await
        .map_err(Error::from)?;
    events::happened(db, events::event(EventKind::BlockChanged, at).block(id, after.subject)).await?;
    Ok((before, after))
}

async fn lift(
    db: &mut Connection,
    id: BlockId,
    expected: Option<u64>,
    at: UnixMillis,
) -> Result<Block, ChangeBlockError> {
    let before = locked(db, id, expected, at).await?;
    sqlx::query("DELETE FROM blocks WHERE id = $1")
        .bind(id.as_bytes().to_vec())
        .execute(&mut *db)
        .await
        .map_err(Error::from)?;
    events::happened(db, events::event(EventKind::BlockLifted, at).block(id, before.subject)).await?;
    Ok(before)
}

/// The block as it was before its revision was raised.
async fn locked(
    db: &mut Connection,
    id: BlockId,
    expected: Option<u64>,
    at: UnixMillis,
) -> Result<Block, ChangeBlockError> {
    let row: Option<BlockRow> = sqlx::query_as::<Db, _>(sqlx::AssertSqlSafe(format!(
        "UPDATE blocks SET revision = revision + 1 WHERE id = $1 AND expires_ms > $2 RETURNING {COLUMNS}"
    )))
    .bind(id.as_bytes().to_vec())
    .bind(bigint(at.0))
    .fetch_optional(db)
    .await
    .map_err(Error::from)?;
    let raised = Block::try_from(row.ok_or(ChangeBlockError::Unknown)?)?;
    let before = Block { revision: raised.revision.saturating_sub(1), ..raised };
    if expected.is_some_and(|expected| expected != before.revision) {
        return Err(ChangeBlockError::Changed);
    }
    Ok(before)
}

async fn of_prefixes(db: &mut Connection, at: UnixMillis) -> Result<Vec<Block>, Error> {
    let rows: Vec<BlockRow> = sqlx::query_as::<Db, _>(sqlx::AssertSqlSafe(format!(
        "SELECT {COLUMNS} FROM blocks WHERE kind = $1 AND expires_ms > $2 ORDER BY id"
    )))
    .bind(PREFIX)
    .bind(bigint(at.0))
    .fetch_all(db)
    .await?;
    rows.into_iter().map(Block::try_from).collect()
}

async fn held_against(db: &mut Connection, client: ClientId, at: UnixMillis) -> Result<HeldAgainst, Error> {
    let row: Option<(Option<Vec<u8>>, Vec<u8>)> =
        sqlx::query_as::<Db, _>("SELECT account, identity FROM clients WHERE id = $1")
            .bind(client.as_bytes().to_vec())
            .fetch_optional(&mut *db)
            .await?;
    let (account, identity) = row.unzip();
    let identity = identity.map(|key| IdentityKey::try_from(key.as_slice())).transpose();
    let identity = identity.map_err(|_| Error::Corrupt { what: "identity key" })?;
    let row: Option<BlockRow> = sqlx::query_as::<Db, _>(sqlx::AssertSqlSafe(format!(
        "SELECT {COLUMNS} FROM blocks
         WHERE ((kind = $1 AND target = $2) OR (kind = $3 AND target = $4)) AND expires_ms > $5
         ORDER BY degree DESC, expires_ms DESC LIMIT 1"
    )))
    .bind(CLIENT)
    .bind(client.as_bytes().to_vec())
    .bind(ACCOUNT)
    .bind(account.flatten().unwrap_or_default())
    .bind(bigint(at.0))
    .fetch_optional(db)
    .await?;
    Ok(HeldAgainst { registered: identity.is_some(), identity, block: row.map(Block::try_from).transpose()? })
}

/// Whether operators hold anything against an account: its clients do not leave it meanwhile by themselves.
pub(crate) async fn is_account_blocked(db: &mut Connection, account: AccountId, at: UnixMillis) -> Result<bool, Error> {
    let found: Option<i64> =
        sqlx::query_scalar::<Db, _>("SELECT degree FROM blocks WHERE kind = $1 AND target = $2 AND expires_ms > $3")
            .bind(ACCOUNT)
            .bind(account.as_bytes().to_vec())
            .bind(bigint(at.0))
            .fetch_optional(db)
            .await?;
    Ok(found.is_some())
}

async fn blocked_clients(db: &mut Connection, limit: u32, at: UnixMillis) -> Result<Vec<ClientId>, Error> {
    let rows: Vec<Vec<u8>> = sqlx::query_scalar::<Db, _>(
        "SELECT target FROM blocks WHERE kind = $1 AND expires_ms > $3
         UNION SELECT c.id FROM blocks b JOIN clients c ON c.account = b.target WHERE b.kind = $2 AND b.expires_ms > $3
         ORDER BY 1 LIMIT $4",
    )
    .bind(CLIENT)
    .bind(ACCOUNT)
    .bind(bigint(at.0))
    .bind(i64::from(limit))
    .fetch_all(db)
    .await?;
    rows.iter().map(|row| values::client(row)).collect()
}

async fn clients_of(
    db: &mut Connection,
    subject: BlockSubject,
    after: Option<ClientId>,
    limit: u16,
) -> Result<Vec<ClientId>, Error> {
    let sql = match subject {
        BlockSubject::Prefix(_) => return Ok(Vec::new()),
        BlockSubject::Client(_) => "SELECT id FROM clients WHERE id = $1 AND id > $2 ORDER BY id LIMIT $3",
        BlockSubject::Account(_) => "SELECT id FROM clients WHERE account = $1 AND id > $2 ORDER BY id LIMIT $3",
        BlockSubject::Network(_) => {
            "SELECT client FROM members WHERE network = $1 AND client > $2 AND NOT gone ORDER BY client LIMIT $3"
        }
    };
    let rows: Vec<Vec<u8>> = sqlx::query_scalar::<Db, _>(sql)
        .bind(key(subject).1)
        .bind(after.map_or_else(Vec::new, |client| client.as_bytes().to_vec()))
        .bind(i64::from(limit))
        .fetch_all(db)
        .await?;
    rows.iter().map(|row| values::client(row)).collect()
}

async fn prune(db: &mut Connection, at: UnixMillis) -> Result<u64, Error> {
    let over: Vec<(Vec<u8>, i64, Vec<u8>)> =
        sqlx::query_as::<Db, _>("DELETE FROM blocks WHERE expires_ms <= $1 RETURNING id, kind, target")
            .bind(bigint(at.0))
            .fetch_all(&mut *db)
            .await?;
    for (id, kind, target) in &over {
        // What cannot be read holds up nothing.
        if let (Ok(id), Ok(subject)) = (BlockId::try_from(id.as_slice()), subject(*kind, target)) {
            events::happened(db, events::event(EventKind::BlockExpired, at).block(id, subject)).await?;
        }
    }
    Ok(over.len() as u64)
}

/// Why nobody may join `network` just now, if an operator holds something against it.
pub(crate) async fn withheld(
    db: &mut Connection,
    network: NetworkId,
    at: UnixMillis,
) -> Result<Option<JoinError>, Error> {
    let row: Option<BlockRow> = sqlx::query_as::<Db, _>(sqlx::AssertSqlSafe(format!(
        "SELECT {COLUMNS} FROM blocks WHERE kind = $1 AND target = $2 AND expires_ms > $3"
    )))
    .bind(NETWORK)
    .bind(network.as_bytes().to_vec())
    .bind(bigint(at.0))
    .fetch_optional(&mut *db)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let block = Block::try_from(row)?;
    if block.degree == Degree::Refuse {
        return Ok(Some(JoinError::Blocked { notice: Box::new(block.notice()) }));
    }
    let last: Option<i64> =
        sqlx::query_scalar::<Db, _>("SELECT MAX(joined_ms) FROM members WHERE network = $1 AND NOT gone")
            .bind(network.as_bytes().to_vec())
            .fetch_one(db)
            .await?;
    let next = values::instant(last.unwrap_or(0))?.plus(SLOW_JOINS);
    let slowed = || JoinError::Slowed { notice: Box::new(block.notice()), retry_after: next.since(at) };
    Ok((at < next).then(slowed))
}
