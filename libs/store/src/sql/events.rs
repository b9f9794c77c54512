//! The log of events, and the outbox that transactions write theirs to.

use std::time::Duration;

use async_trait::async_trait;
use domain::{BlockId, ClientId, Event, EventId, EventKind, InstanceId, NetworkId, RelayId, UnixMillis};

use super::{
    backend::{Connection, Db},
    engine::Store,
};
use crate::{
    EVENT_MEMORY, Error, EventPage, Events, MAX_EVENT_PAGE, MAX_EVENTS, Numbered,
    values::{self, bigint},
};

/// Events that are taken out of the outbox at once.
const AT_ONCE: i64 = 200;

#[async_trait]
impl Events for Store {
    async fn record_events(&self, heard: Vec<Event>) -> Result<u64, Error> {
        if heard.is_empty() {
            let (head, waiting) = self.engine.read("look for events", |db| Box::pin(waiting(db))).await?;
            if !waiting {
                return Ok(head);
            }
        }
        self.engine.write("record events", move |db| Box::pin(record(db, heard))).await
    }

    async fn events_after(&self, after: u64, limit: u16) -> Result<EventPage, Error> {
        self.engine.read("events after", move |db| Box::pin(page(db, after, limit))).await
    }

    async fn lead_events(&self, holder: InstanceId, lease: Duration, at: UnixMillis) -> Result<bool, Error> {
        self.engine.write("lead events", move |db| Box::pin(lead(db, holder, lease, at))).await
    }

    async fn forget_events(&self, at: UnixMillis) -> Result<u64, Error> {
        self.engine.write("forget events", move |db| Box::pin(forget(db, at))).await
    }
}

/// An event of the transaction that makes it true. Whose client or network it is about is looked up as it is now.
pub(crate) async fn happened(db: &mut Connection, event: Event) -> Result<(), Error> {
    insert(db, OUTBOX, None, event).await.map(drop)
}

/// An event of now, without its subjects.
pub(crate) fn event(kind: EventKind, at: UnixMillis) -> Event {
    Event::new(kind, at, rand::random())
}

/// An event about a client in a network.
pub(crate) fn member(kind: EventKind, network: NetworkId, client: ClientId, at: UnixMillis) -> Event {
    event(kind, at).network(network).client(client)
}

/// Drops what nobody read for too long: there may be no admin process at all.
pub(crate) async fn forget_unread(db: &mut Connection, at: UnixMillis) -> Result<u64, Error> {
    let forgotten = sqlx::query("DELETE FROM event_outbox WHERE id < $1").bind(too_old(at)).execute(db).await?;
    Ok(forgotten.rows_affected())
}

async fn waiting(db: &mut Connection) -> Result<(u64, bool), Error> {
    let (head, waiting): (i64, i64) = sqlx::query_as::<Db, _>(sqlx::AssertSqlSafe(format!(
        "SELECT sequence, (SELECT COUNT(*) FROM (SELECT id FROM event_outbox WHERE kind IN ({}) LIMIT 1) AS first)
         FROM event_head",
        known()
    )))
    .fetch_one(db)
    .await?;
    Ok((values::bytes(head)?, waiting > 0))
}

/// The kinds that this program can tell. Others a newer one wrote, and tells: they wait for it, and are forgotten like whatever
/// nobody reads.
fn known() -> String {
    EventKind::ALL.map(|kind| format!("'{kind}'")).join(", ")
}

/// Under the lock of the head.
async fn record(db: &mut Connection, heard: Vec<Event>) -> Result<u64, Error> {
    let mut head: i64 =
        sqlx::query_scalar::<Db, _>("UPDATE event_head SET sequence = sequence WHERE one = 1 RETURNING sequence")
            .fetch_one(&mut *db)
            .await?;
    let rows: Vec<EventRow> = sqlx::query_as::<Db, _>(sqlx::AssertSqlSafe(format!(
        "SELECT id, at_ms, kind, client, peer, network, account, relay, percent, block FROM event_outbox
         WHERE kind IN ({}) ORDER BY id LIMIT {AT_ONCE}",
        known()
    )))
    .fetch_all(&mut *db)
    .await?;
    for row in rows {
        let id = row.id.clone();
        // What cannot be read holds up nothing.
        if let Ok(event) = Event::try_from(row)
            && insert(db, LOG, Some(head + 1), event).await?
        {
            head += 1;
        }
        sqlx::query("DELETE FROM event_outbox WHERE id = $1").bind(id).execute(&mut *db).await?;
    }
    for event in heard {
        if insert(db, LOG, Some(head + 1), event).await? {
            head += 1;
        }
    }
    sqlx::query("UPDATE event_head SET sequence = $1 WHERE one = 1").bind(head).execute(&mut *db).await?;
    sqlx::query("DELETE FROM events WHERE sequence <= $1").bind(head - bigint(MAX_EVENTS)).execute(db).await?;
    values::bytes(head)
}

/// The owner's account is the network's: it is the owner who let the others in.
const OUTBOX: &str = "INSERT INTO event_outbox (id, at_ms, kind, client, peer, network, account, relay, percent, block)
    VALUES ($1, $2, $3, $4, $5, $6, COALESCE($7,
        (SELECT c.account FROM networks n JOIN clients c ON c.id = n.owner WHERE n.id = $6),
        (SELECT c.account FROM clients c WHERE c.id = $4)), $8, $9, $10)";
const LOG: &str =
    "INSERT INTO events (id, at_ms, kind, client, peer, network, account, relay, percent, block, sequence)
    VALUES ($1, $2, $3, $4, $5, $6, COALESCE($7,
        (SELECT c.account FROM networks n JOIN clients c ON c.id = n.owner WHERE n.id = $6),
        (SELECT c.account FROM clients c WHERE c.id = $4)), $8, $9, $10, $11) ON CONFLICT (id) DO NOTHING";

/// Whether it was not there yet.
async fn insert(
    db: &mut Connection,
    statement: &'static str,
    sequence: Option<i64>,
    event: Event,
) -> Result<bool, Error> {
    let client = |client: Option<ClientId>| client.map(|client| client.as_bytes().to_vec());
    let mut query = sqlx::query(statement)
        .bind(event.id.as_bytes().to_vec())
        .bind(bigint(event.at.0))
        .bind(event.kind.name())
        .bind(client(event.client))
        .bind(client(event.peer))
        .bind(event.network.map(|network| network.as_bytes().to_vec()))
        .bind(event.account.map(|account| account.as_bytes().to_vec()))
        .bind(event.relay.map(|relay| relay.as_bytes().to_vec()))
        .bind(event.percent.map(i64::from))
        .bind(event.block.map(|block| block.as_bytes().to_vec()));
    if let Some(sequence) = sequence {
        query = query.bind(sequence);
    }
    Ok(query.execute(db).await?.rows_affected() == 1)
}

async fn page(db: &mut Connection, after: u64, limit: u16) -> Result<EventPage, Error> {
    let rows: Vec<NumberedRow> =
        sqlx::query_as::<Db, _>("SELECT * FROM events WHERE sequence > $1 ORDER BY sequence LIMIT $2")
            .bind(bigint(after))
            .bind(i64::from(limit.min(MAX_EVENT_PAGE)))
            .fetch_all(&mut *db)
            .await?;
    let (newest, oldest) = extent(db).await?;
    let events = rows.into_iter().map(Numbered::try_from).collect::<Result<_, _>>()?;
    Ok(EventPage { events, oldest, newest })
}

/// The number of the newest event, and that of the oldest one that is kept; 0 without any.
pub(crate) async fn extent(db: &mut Connection) -> Result<(u64, u64), Error> {
    let (newest, oldest): (i64, Option<i64>) =
        sqlx::query_as::<Db, _>("SELECT sequence, (SELECT MIN(sequence) FROM events) FROM event_head")
            .fetch_one(db)
            .await?;
    Ok((values::bytes(newest)?, values::bytes(oldest.unwrap_or(0))?))
}

async fn lead(db: &mut Connection, holder: InstanceId, lease: Duration, at: UnixMillis) -> Result<bool, Error> {
    let led = sqlx::query(
        "UPDATE event_head SET leader = $1, until_ms = $2 WHERE one = 1 AND (leader = $1 OR until_ms <= $3)",
    )
    .bind(holder.as_bytes().to_vec())
    .bind(bigint(at.plus(lease).0))
    .bind(bigint(at.0))
    .execute(db)
    .await?;
    Ok(led.rows_affected() == 1)
}

async fn forget(db: &mut Connection, at: UnixMillis) -> Result<u64, Error> {
    let forgotten = sqlx::query("DELETE FROM events WHERE id < $1").bind(too_old(at)).execute(db).await?;
    Ok(forgotten.rows_affected())
}

/// The id of an event that is just old enough to be forgotten.
fn too_old(at: UnixMillis) -> Vec<u8> {
    let memory = u64::try_from(EVENT_MEMORY.as_millis()).unwrap_or(u64::MAX);
    EventId::drawn(UnixMillis(at.0.saturating_sub(memory)), [0; 10]).as_bytes().to_vec()
}

#[derive(sqlx::FromRow)]
pub(crate) struct EventRow {
    id: Vec<u8>,
    at_ms: i64,
    kind: String,
    client: Option<Vec<u8>>,
    peer: Option<Vec<u8>>,
    network: Option<Vec<u8>>,
    account: Option<Vec<u8>>,
    relay: Option<Vec<u8>>,
    percent: Option<i64>,
    block: Option<Vec<u8>>,
}

impl TryFrom<EventRow> for Event {
    type Error = Error;

    fn try_from(row: EventRow) -> Result<Self, Error> {
        let broken = |what| move |_| Error::Corrupt { what };
        Ok(Self {
            id: EventId::try_from(row.id.as_slice()).map_err(broken("event id"))?,
            at: values::instant(row.at_ms)?,
            kind: row.kind.parse::<EventKind>().map_err(|_| Error::Corrupt { what: "kind of event" })?,
            client: row.client.as_deref().map(values::client).transpose()?,
            peer: row.peer.as_deref().map(values::client).transpose()?,
            network: row.network.as_deref().map(values::network).transpose()?,
            account: row.account.as_deref().map(values::account).transpose()?,
            relay: row.relay.as_deref().map(RelayId::try_from).transpose().map_err(broken("relay id"))?,
            percent: row.percent.map(u8::try_from).transpose().map_err(|_| Error::Corrupt { what: "percentage" })?,
            block: row.block.as_deref().map(BlockId::try_from).transpose().map_err(broken("block id"))?,
        })
    }
}

#[derive(sqlx::FromRow)]
pub(crate) struct NumberedRow {
    sequence: i64,
    #[sqlx(flatten)]
    row: EventRow,
}

impl TryFrom<NumberedRow> for Numbered {
    type Error = Error;

    fn try_from(NumberedRow { sequence, row }: NumberedRow) -> Result<Self, Error> {
        Ok(Self { sequence: values::bytes(sequence)?, event: row.try_into()? })
    }
}
