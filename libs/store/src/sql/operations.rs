//! Tokens of the API, the audit log, and answers that are given again.

use std::time::Duration;

use async_trait::async_trait;
use domain::{ApiScopes, TokenId, UnixMillis};

use super::{
    backend::{Connection, Db},
    engine::Store,
};
use crate::{
    AuditEntry, AuditFilter, Claim, Error, MAX_TOKENS, MakeTokenError, NewEntry, NewToken, Operations, REPEATABLE,
    RepeatableRequest, Token,
    values::{self, bigint},
};

/// How old the note of a token's last use may be.
const USE_NOTED_EVERY: Duration = Duration::from_secs(60);

#[async_trait]
impl Operations for Store {
    async fn make_token(&self, token: NewToken, at: UnixMillis) -> Result<Token, MakeTokenError> {
        self.engine.write("make token", move |db| Box::pin(make_token(db, token, at))).await
    }

    async fn bearer(&self, digest: [u8; 32], at: UnixMillis) -> Result<Option<Token>, Error> {
        let found = self.engine.read("bearer", move |db| Box::pin(bearer(db, digest, at))).await?;
        if let Some(token) = &found
            && token.used.is_none_or(|used| at.since(used) >= USE_NOTED_EVERY)
        {
            let id = token.id;
            self.engine.write("token used", move |db| Box::pin(used(db, id, at))).await?;
        }
        Ok(found)
    }

    async fn token(&self, id: TokenId) -> Result<Option<Token>, Error> {
        self.engine.read("token", move |db| Box::pin(token(db, id))).await
    }

    async fn tokens(&self, after: Option<TokenId>, limit: u16) -> Result<Vec<Token>, Error> {
        self.engine.read("tokens", move |db| Box::pin(tokens(db, after, limit))).await
    }

    async fn revoke_token(&self, id: TokenId, at: UnixMillis) -> Result<Option<Token>, Error> {
        self.engine.write("revoke token", move |db| Box::pin(revoke(db, id, at))).await
    }

    async fn record(&self, entry: NewEntry) -> Result<AuditEntry, Error> {
        self.engine.write("record", move |db| Box::pin(record(db, entry))).await
    }

    async fn audit(&self, wanted: AuditFilter, before: Option<u64>, limit: u16) -> Result<Vec<AuditEntry>, Error> {
        self.engine.read("audit", move |db| Box::pin(audit(db, wanted, before, limit))).await
    }

    async fn audit_after(&self, after: u64, limit: u16) -> Result<Vec<AuditEntry>, Error> {
        self.engine.read("audit after", move |db| Box::pin(audit_after(db, after, limit))).await
    }

    async fn claim(&self, request: RepeatableRequest, at: UnixMillis) -> Result<Claim, Error> {
        self.engine.write("claim", move |db| Box::pin(claim(db, request, at))).await
    }

    async fn answered(&self, who: &str, key: &str, status: u16, answer: Vec<u8>) -> Result<(), Error> {
        let (who, key) = (who.to_owned(), key.to_owned());
        self.engine.write("answered", move |db| Box::pin(answered(db, who, key, status, answer))).await
    }

    async fn unclaim(&self, who: &str, key: &str) -> Result<(), Error> {
        let (who, key) = (who.to_owned(), key.to_owned());
        self.engine.write("unclaim", move |db| Box::pin(unclaim(db, who, key))).await
    }
}

#[derive(sqlx::FromRow)]
struct TokenRow {
    id: Vec<u8>,
    name: String,
    scopes: String,
    maker: String,
    made_ms: i64,
    expires_ms: i64,
    used_ms: Option<i64>,
    revoked_ms: Option<i64>,
}

impl TryFrom<TokenRow> for Token {
    type Error = Error;

    fn try_from(row: TokenRow) -> Result<Self, Error> {
        let scopes: ApiScopes = row.scopes.parse().map_err(|_| Error::Corrupt { what: "set of scopes" })?;
        Ok(Self {
            id: TokenId::try_from(row.id.as_slice()).map_err(|_| Error::Corrupt { what: "token id" })?,
            name: row.name,
            scopes,
            maker: row.maker,
            made: values::instant(row.made_ms)?,
            expires: values::instant(row.expires_ms)?,
            used: row.used_ms.map(values::instant).transpose()?,
            revoked: row.revoked_ms.map(values::instant).transpose()?,
        })
    }
}

async fn make_token(db: &mut Connection, new: NewToken, at: UnixMillis) -> Result<Token, MakeTokenError> {
    // The one row of the audit log's end is the lock of everything here.
    sqlx::query("UPDATE audit_head SET sequence = sequence WHERE one = 1").execute(&mut *db).await?;
    let live: i64 =
        sqlx::query_scalar::<Db, _>("SELECT COUNT(*) FROM tokens WHERE revoked_ms IS NULL AND expires_ms > $1")
            .bind(bigint(at.0))
            .fetch_one(&mut *db)
            .await?;
    if live >= i64::from(MAX_TOKENS) {
        return Err(MakeTokenError::LimitReached { limit: MAX_TOKENS });
    }
    let row: TokenRow = sqlx::query_as::<Db, _>(
        "INSERT INTO tokens (id, digest, name, scopes, maker, made_ms, expires_ms) VALUES ($1, $2, $3, $4, $5, $6, $7)
         RETURNING id, name, scopes, maker, made_ms, expires_ms, used_ms, revoked_ms",
    )
    .bind(new.id.as_bytes().to_vec())
    .bind(new.digest.to_vec())
    .bind(new.name)
    .bind(new.scopes.to_string())
    .bind(new.maker)
    .bind(bigint(at.0))
    .bind(bigint(new.expires.0))
    .fetch_one(db)
    .await?;
    Ok(row.try_into()?)
}

async fn bearer(db: &mut Connection, digest: [u8; 32], at: UnixMillis) -> Result<Option<Token>, Error> {
    let row: Option<TokenRow> = sqlx::query_as::<Db, _>(
        "SELECT id, name, scopes, maker, made_ms, expires_ms, used_ms, revoked_ms FROM tokens
         WHERE digest = $1 AND revoked_ms IS NULL AND expires_ms > $2",
    )
    .bind(digest.to_vec())
    .bind(bigint(at.0))
    .fetch_optional(db)
    .await?;
    row.map(Token::try_from).transpose()
}

async fn used(db: &mut Connection, id: TokenId, at: UnixMillis) -> Result<(), Error> {
    sqlx::query("UPDATE tokens SET used_ms = $2 WHERE id = $1 AND (used_ms IS NULL OR used_ms < $2)")
        .bind(id.as_bytes().to_vec())
        .bind(bigint(at.0))
        .execute(db)
        .await?;
    Ok(())
}

async fn token(db: &mut Connection, id: TokenId) -> Result<Option<Token>, Error> {
    let row: Option<TokenRow> = sqlx::query_as::<Db, _>(
        "SELECT id, name, scopes, maker, made_ms, expires_ms, used_ms, revoked_ms FROM tokens WHERE id = $1",
    )
    .bind(id.as_bytes().to_vec())
    .fetch_optional(db)
    .await?;
    row.map(Token::try_from).transpose()
}

async fn tokens(db: &mut Connection, after: Option<TokenId>, limit: u16) -> Result<Vec<Token>, Error> {
    let rows: Vec<TokenRow> = sqlx::query_as::<Db, _>(
        "SELECT id, name, scopes, maker, made_ms, expires_ms, used_ms, revoked_ms FROM tokens
         WHERE id > $1 ORDER BY id LIMIT $2",
    )
    .bind(after.map_or_else(Vec::new, |id| id.as_bytes().to_vec()))
    .bind(i64::from(limit))
    .fetch_all(db)
    .await?;
    rows.into_iter().map(Token::try_from).collect()
}

async fn revoke(db: &mut Connection, id: TokenId, at: UnixMillis) -> Result<Option<Token>, Error> {
    let row: Option<TokenRow> = sqlx::query_as::<Db, _>(
        "UPDATE tokens SET revoked_ms = COALESCE(revoked_ms, $2) WHERE id = $1
         RETURNING id, name, scopes, maker, made_ms, expires_ms, used_ms, revoked_ms",
    )
    .bind(id.as_bytes().to_vec())
    .bind(bigint(at.0))
    .fetch_optional(db)
    .await?;
    row.map(Token::try_from).transpose()
}

/// Raising the head's number is the lock, and gives the number of the entry.
async fn record(db: &mut Connection, entry: NewEntry) -> Result<AuditEntry, Error> {
    let (sequence, previous): (i64, Vec<u8>) = sqlx::query_as::<Db, _>(
        "UPDATE audit_head SET sequence = sequence + 1 WHERE one = 1 RETURNING sequence, digest",
    )
    .fetch_one(&mut *db)
    .await?;
    let number = values::bytes(sequence)?;
    let digest = AuditEntry::computed(number, &previous, &entry);
    sqlx::query(
        "INSERT INTO audit (sequence, previous, digest, at_ms, who, action, object, request, asked, status, before, after)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
    )
    .bind(sequence)
    .bind(previous.clone())
    .bind(digest.clone())
    .bind(bigint(entry.at.0))
    .bind(entry.who.clone())
    .bind(entry.action.clone())
    .bind(entry.object.clone())
    .bind(entry.request.clone())
    .bind(bigint(entry.asked.unwrap_or(0)))
    .bind(i64::from(entry.status.unwrap_or(0)))
    .bind(entry.before.clone())
    .bind(entry.after.clone())
    .execute(&mut *db)
    .await?;
    sqlx::query("UPDATE audit_head SET digest = $1 WHERE one = 1").bind(digest.clone()).execute(db).await?;
    Ok(AuditEntry { sequence: number, previous, digest, entry })
}

#[derive(sqlx::FromRow)]
struct AuditRow {
    sequence: i64,
    previous: Vec<u8>,
    digest: Vec<u8>,
    at_ms: i64,
    who: String,
    action: String,
    object: String,
    request: String,
    asked: i64,
    status: i64,
    before: String,
    after: String,
}

impl TryFrom<AuditRow> for AuditEntry {
    type Error = Error;

    fn try_from(row: AuditRow) -> Result<Self, Error> {
        let status = u16::try_from(row.status).map_err(|_| Error::Corrupt { what: "status" })?;
        Ok(Self {
            sequence: values::bytes(row.sequence)?,
            previous: row.previous,
            digest: row.digest,
            entry: NewEntry {
                at: values::instant(row.at_ms)?,
                who: row.who,
                action: row.action,
                object: row.object,
                request: row.request,
                asked: Some(values::bytes(row.asked)?).filter(|asked| *asked > 0),
                status: Some(status).filter(|status| *status > 0),
                before: row.before,
                after: row.after,
            },
        })
    }
}

/// The first condition of each is the index; the others only leave out.
const BY_OBJECT: &str = "SELECT * FROM audit WHERE object = $3 AND sequence < $1
    AND ($4 = '' OR who = $4) AND ($5 = '' OR action = $5) ORDER BY sequence DESC LIMIT $2";
const BY_WHO: &str = "SELECT * FROM audit WHERE who = $4 AND sequence < $1
    AND ($3 = '' OR object = $3) AND ($5 = '' OR action = $5) ORDER BY sequence DESC LIMIT $2";
const BY_ACTION: &str = "SELECT * FROM audit WHERE action = $5 AND sequence < $1
    AND ($3 = '' OR object = $3) AND ($4 = '' OR who = $4) ORDER BY sequence DESC LIMIT $2";
const ALL: &str = "SELECT * FROM audit WHERE sequence < $1
    AND ($3 = '' OR object = $3) AND ($4 = '' OR who = $4) AND ($5 = '' OR action = $5) ORDER BY sequence DESC LIMIT $2";

async fn audit(
    db: &mut Connection,
    wanted: AuditFilter,
    before: Option<u64>,
    limit: u16,
) -> Result<Vec<AuditEntry>, Error> {
    let query = match &wanted {
        AuditFilter { object: Some(_), .. } => BY_OBJECT,
        AuditFilter { who: Some(_), .. } => BY_WHO,
        AuditFilter { action: Some(_), .. } => BY_ACTION,
        AuditFilter { .. } => ALL,
    };
    let rows: Vec<AuditRow> = sqlx::query_as::<Db, _>(query)
        .bind(before.map_or(i64::MAX, bigint))
        .bind(i64::from(limit))
        .bind(wanted.object.unwrap_or_default())
        .bind(wanted.who.unwrap_or_default())
        .bind(wanted.action.unwrap_or_default())
        .fetch_all(db)
        .await?;
    rows.into_iter().map(AuditEntry::try_from).collect()
}

async fn audit_after(db: &mut Connection, after: u64, limit: u16) -> Result<Vec<AuditEntry>, Error> {
    let rows: Vec<AuditRow> =
        sqlx::query_as::<Db, _>("SELECT * FROM audit WHERE sequence > $1 ORDER BY sequence LIMIT $2")
            .bind(bigint(after))
            .bind(i64::from(limit))
            .fetch_all(db)
            .await?;
    rows.into_iter().map(AuditEntry::try_from).collect()
}

/// The insertion itself finds out whether the request is new, so that two of them at once are done once.
async fn claim(db: &mut Connection, request: RepeatableRequest, at: UnixMillis) -> Result<Claim, Error> {
    sqlx::query("DELETE FROM idempotency WHERE expires_ms <= $1").bind(bigint(at.0)).execute(&mut *db).await?;
    let claimed = sqlx::query(
        "INSERT INTO idempotency (who, key, request, begun_ms, expires_ms, status, answer)
         VALUES ($1, $2, $3, $4, $5, 0, '') ON CONFLICT DO NOTHING",
    )
    .bind(&request.who)
    .bind(&request.key)
    .bind(request.digest.to_vec())
    .bind(bigint(at.0))
    .bind(bigint(at.plus(REPEATABLE).0))
    .execute(&mut *db)
    .await?;
    if claimed.rows_affected() == 1 {
        return Ok(Claim::Fresh);
    }
    let (digest, begun, status, answer): (Vec<u8>, i64, i64, Vec<u8>) = sqlx::query_as::<Db, _>(
        "SELECT request, begun_ms, status, answer FROM idempotency WHERE who = $1 AND key = $2",
    )
    .bind(&request.who)
    .bind(&request.key)
    .fetch_one(db)
    .await?;
    if digest != request.digest {
        return Ok(Claim::Other);
    }
    match u16::try_from(status).map_err(|_| Error::Corrupt { what: "status" })? {
        0 => Ok(Claim::Unanswered { since: values::instant(begun)? }),
        status => Ok(Claim::Answered { status, answer }),
    }
}

async fn answered(db: &mut Connection, who: String, key: String, status: u16, answer: Vec<u8>) -> Result<(), Error> {
    sqlx::query("UPDATE idempotency SET status = $3, answer = $4 WHERE who = $1 AND key = $2")
        .bind(who)
        .bind(key)
        .bind(i64::from(status))
        .bind(answer)
        .execute(db)
        .await?;
    Ok(())
}

async fn unclaim(db: &mut Connection, who: String, key: String) -> Result<(), Error> {
    sqlx::query("DELETE FROM idempotency WHERE who = $1 AND key = $2 AND status = 0")
        .bind(who)
        .bind(key)
        .execute(db)
        .await?;
    Ok(())
}
