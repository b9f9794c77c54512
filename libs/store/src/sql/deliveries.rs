//! Telling webhooks: whose turn it is, what comes next, and what came of it.

use domain::{EventId, EventKind, InstanceId, UnixMillis, WebhookId};

use super::{
    backend::{Connection, Db},
    events::{self, NumberedRow},
    webhooks::{ACTIVE, FAILING, WebhookRow},
};
use crate::{
    DeliveryState, Due, DueDeliveries, Error, Held, KEPT_DELIVERIES, KeptDelivery, MAX_DEAD_LETTERS, Then, Tried,
    Webhook,
    values::{self, bigint},
};

/// What `webhook_deliveries.state` holds.
const TAKEN: i64 = DeliveryState::Taken as i64;
const RETRYING: i64 = DeliveryState::Retrying as i64;
const REPLAYING: i64 = DeliveryState::Replaying as i64;
const DEAD: i64 = DeliveryState::Dead as i64;

/// Of those for which there is something to do now.
macro_rules! next {
    () => {
        "SELECT w.id FROM webhooks w WHERE w.state = 0 AND w.due_ms <= $1 AND w.held_ms <= $1
         AND (w.place < (SELECT sequence FROM event_head)
              OR EXISTS (SELECT 1 FROM webhook_deliveries d WHERE d.webhook = w.id AND d.state = 2))
         ORDER BY w.due_ms, w.id LIMIT 1"
    };
}

pub(crate) async fn is_due(db: &mut Connection, at: UnixMillis) -> Result<bool, Error> {
    let next: Option<Vec<u8>> = sqlx::query_scalar::<Db, _>(next!()).bind(bigint(at.0)).fetch_optional(db).await?;
    Ok(next.is_some())
}

/// Two takers may choose the same one: the second finds that it is held.
pub(crate) async fn take(
    db: &mut Connection,
    holder: InstanceId,
    until: UnixMillis,
    at: UnixMillis,
) -> Result<Option<Webhook>, Error> {
    let row: Option<WebhookRow> = sqlx::query_as::<Db, _>(concat!(
        "UPDATE webhooks SET holder = $2, held_ms = $3 WHERE id = (",
        next!(),
        ") AND held_ms <= $1 AND state = 0 RETURNING *"
    ))
    .bind(bigint(at.0))
    .bind(holder.as_bytes().to_vec())
    .bind(bigint(until.0))
    .fetch_optional(db)
    .await?;
    row.map(Webhook::try_from).transpose()
}

/// An event of the log, and how often this webhook was told it in vain.
#[derive(sqlx::FromRow)]
struct DueRow {
    tries: i64,
    #[sqlx(flatten)]
    event: NumberedRow,
}

pub(crate) async fn due(db: &mut Connection, id: WebhookId, place: u64, limit: u16) -> Result<DueDeliveries, Error> {
    let again: Vec<(i64, Vec<u8>, String, String, i64)> = sqlx::query_as::<Db, _>(
        "SELECT sequence, event, kind, body, tries FROM webhook_deliveries WHERE webhook = $1 AND state = $2
         ORDER BY sequence LIMIT $3",
    )
    .bind(id.as_bytes().to_vec())
    .bind(REPLAYING)
    .bind(i64::from(limit))
    .fetch_all(&mut *db)
    .await?;
    // What happened since comes after all that is sent again, not after this page of it.
    let limit = if again.len() < usize::from(limit) { limit } else { 0 };
    let rows: Vec<DueRow> = sqlx::query_as::<Db, _>(
        "SELECT e.*, COALESCE((SELECT d.tries FROM webhook_deliveries d
                               WHERE d.webhook = $1 AND d.sequence = e.sequence), 0) AS tries
         FROM events e WHERE e.sequence > $2 ORDER BY e.sequence LIMIT $3",
    )
    .bind(id.as_bytes().to_vec())
    .bind(bigint(place))
    .bind(i64::from(limit))
    .fetch_all(&mut *db)
    .await?;
    let (newest, oldest) = events::extent(db).await?;
    // All of an empty log was forgotten.
    let oldest = if oldest == 0 { newest + 1 } else { oldest };
    let whole = rows.len() < usize::from(limit);
    let mut due = Vec::with_capacity(again.len() + rows.len());
    for (sequence, event, kind, body, tries) in again {
        due.push(Due::Again {
            sequence: values::bytes(sequence)?,
            event: event_id(&event)?,
            kind: kind_of(&kind)?,
            body,
            tries: values::count(tries)?,
        });
    }
    let mut last = place;
    for DueRow { tries, event } in rows {
        let event = crate::Numbered::try_from(event)?;
        last = event.sequence;
        due.push(Due::Event { event, tries: values::count(tries)? });
    }
    Ok(DueDeliveries { due, place: if whole { newest.max(last) } else { last }, oldest })
}

pub(crate) async fn settle(db: &mut Connection, held: Held, tried: Tried) -> Result<bool, Error> {
    let (state, due, failing) = match tried.then {
        Then::Taken => (TAKEN, tried.at, false),
        Then::TryAgain { due } => (if tried.again { REPLAYING } else { RETRYING }, due, true),
        Then::GiveUp => (DEAD, tried.at, true),
    };
    let passed = !matches!(tried.then, Then::TryAgain { .. }) && !tried.again;
    let patience = u64::try_from(tried.patience.as_millis()).unwrap_or(u64::MAX);
    let row: Option<(i64, i64)> = sqlx::query_as::<Db, _>(
        "UPDATE webhooks SET
             place = CASE WHEN $3 > place THEN $3 ELSE place END,
             due_ms = $4, tried_ms = $5, held_ms = $6,
             state = CASE WHEN state = 0 AND $7 AND COALESCE(failing_ms, $5) <= $8 THEN $9 ELSE state END,
             failing_ms = CASE WHEN $7 THEN COALESCE(failing_ms, $5) ELSE NULL END,
             delivered = delivered + $10, dead = dead + $11
         WHERE id = $1 AND holder = $2 AND held_ms > $5 RETURNING revision, state",
    )
    .bind(held.id.as_bytes().to_vec())
    .bind(held.holder.as_bytes().to_vec())
    .bind(if passed { bigint(tried.sequence) } else { 0 })
    .bind(bigint(due.0))
    .bind(bigint(tried.at.0))
    .bind(bigint(held.until.0))
    .bind(failing)
    .bind(bigint(tried.at.0.saturating_sub(patience)))
    .bind(FAILING)
    .bind(i64::from(state == TAKEN))
    .bind(i64::from(state == DEAD))
    .fetch_optional(&mut *db)
    .await?;
    let Some((revision, now)) = row else { return Ok(false) };
    keep(db, held.id, &tried, state).await?;
    forget(db, held.id).await?;
    Ok(now == ACTIVE && values::bytes(revision)? == held.revision && !matches!(tried.then, Then::TryAgain { .. }))
}

async fn keep(db: &mut Connection, id: WebhookId, tried: &Tried, state: i64) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO webhook_deliveries (webhook, sequence, event, kind, state, tries, status, reason, body, tried_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         ON CONFLICT (webhook, sequence) DO UPDATE SET state = $5, tries = $6, status = $7, reason = $8, tried_ms = $10",
    )
    .bind(id.as_bytes().to_vec())
    .bind(bigint(tried.sequence))
    .bind(tried.event.as_bytes().to_vec())
    .bind(tried.kind.name())
    .bind(state)
    .bind(i64::from(tried.tries))
    .bind(i64::from(tried.status.unwrap_or(0)))
    .bind(tried.reason)
    .bind(tried.body.clone())
    .bind(bigint(tried.at.0))
    .execute(db)
    .await?;
    Ok(())
}

/// Bounds what is kept of one webhook.
async fn forget(db: &mut Connection, id: WebhookId) -> Result<(), Error> {
    for (state, kept) in [(TAKEN, KEPT_DELIVERIES), (DEAD, MAX_DEAD_LETTERS)] {
        sqlx::query(
            "DELETE FROM webhook_deliveries WHERE webhook = $1 AND state = $2 AND sequence <=
                 (SELECT sequence FROM webhook_deliveries WHERE webhook = $1 AND state = $2
                  ORDER BY sequence DESC LIMIT 1 OFFSET $3)",
        )
        .bind(id.as_bytes().to_vec())
        .bind(state)
        .bind(i64::from(kept))
        .execute(&mut *db)
        .await?;
    }
    Ok(())
}

pub(crate) async fn pass(db: &mut Connection, held: Held, place: u64, missed: u64) -> Result<bool, Error> {
    let revision: Option<i64> = sqlx::query_scalar::<Db, _>(
        "UPDATE webhooks SET place = CASE WHEN $3 > place THEN $3 ELSE place END, missed = missed + $4, held_ms = $5
         WHERE id = $1 AND holder = $2 AND state = 0 RETURNING revision",
    )
    .bind(held.id.as_bytes().to_vec())
    .bind(held.holder.as_bytes().to_vec())
    .bind(bigint(place))
    .bind(bigint(missed))
    .bind(bigint(held.until.0))
    .fetch_optional(&mut *db)
    .await?;
    let Some(revision) = revision else { return Ok(false) };
    abandon(db, held.id, place, missed).await?;
    Ok(values::bytes(revision)? == held.revision)
}

/// Gives up what was being tried again and was passed: it is not wanted any more, or the log forgot it. That is one of `missed`,
/// and not counted twice.
async fn abandon(db: &mut Connection, id: WebhookId, place: u64, missed: u64) -> Result<(), Error> {
    let abandoned =
        sqlx::query("UPDATE webhook_deliveries SET state = $2 WHERE webhook = $1 AND state = $3 AND sequence <= $4")
            .bind(id.as_bytes().to_vec())
            .bind(DEAD)
            .bind(RETRYING)
            .bind(bigint(place))
            .execute(&mut *db)
            .await?
            .rows_affected();
    if abandoned == 0 {
        return Ok(());
    }
    sqlx::query("UPDATE webhooks SET dead = dead + $2, missed = missed - $3 WHERE id = $1")
        .bind(id.as_bytes().to_vec())
        .bind(bigint(abandoned))
        .bind(bigint(abandoned.min(missed)))
        .execute(&mut *db)
        .await?;
    forget(db, id).await
}

pub(crate) async fn release(db: &mut Connection, id: WebhookId, holder: InstanceId) -> Result<(), Error> {
    sqlx::query("UPDATE webhooks SET held_ms = 0 WHERE id = $1 AND holder = $2")
        .bind(id.as_bytes().to_vec())
        .bind(holder.as_bytes().to_vec())
        .execute(db)
        .await?;
    Ok(())
}

#[derive(sqlx::FromRow)]
struct DeliveryRow {
    sequence: i64,
    event: Vec<u8>,
    kind: String,
    state: i64,
    tries: i64,
    status: i64,
    reason: String,
    tried_ms: i64,
}

impl TryFrom<DeliveryRow> for KeptDelivery {
    type Error = Error;

    fn try_from(row: DeliveryRow) -> Result<Self, Error> {
        let state = DeliveryState::ALL.into_iter().find(|state| *state as i64 == row.state);
        let status = u16::try_from(row.status).map_err(|_| Error::Corrupt { what: "status" })?;
        Ok(Self {
            sequence: values::bytes(row.sequence)?,
            event: event_id(&row.event)?,
            kind: kind_of(&row.kind)?,
            state: state.ok_or(Error::Corrupt { what: "state of a delivery" })?,
            tries: values::count(row.tries)?,
            status: Some(status).filter(|status| *status > 0),
            reason: row.reason,
            tried: values::instant(row.tried_ms)?,
        })
    }
}

const OF_ALL: &str = "SELECT sequence, event, kind, state, tries, status, reason, tried_ms FROM webhook_deliveries
    WHERE webhook = $1 AND sequence < $2 AND $4 = $4 ORDER BY sequence DESC LIMIT $3";
const OF_STATE: &str = "SELECT sequence, event, kind, state, tries, status, reason, tried_ms FROM webhook_deliveries
    WHERE webhook = $1 AND sequence < $2 AND state = $4 ORDER BY sequence DESC LIMIT $3";

pub(crate) async fn list(
    db: &mut Connection,
    id: WebhookId,
    state: Option<DeliveryState>,
    before: Option<u64>,
    limit: u16,
) -> Result<Vec<KeptDelivery>, Error> {
    let rows: Vec<DeliveryRow> = sqlx::query_as::<Db, _>(if state.is_some() { OF_STATE } else { OF_ALL })
        .bind(id.as_bytes().to_vec())
        .bind(before.map_or(i64::MAX, bigint))
        .bind(i64::from(limit))
        .bind(state.map_or(0, |state| state as i64))
        .fetch_all(db)
        .await?;
    rows.into_iter().map(KeptDelivery::try_from).collect()
}

/// What is being tried anyway stays as it is. A webhook that an operator paused stays paused.
pub(crate) async fn replay(
    db: &mut Connection,
    id: WebhookId,
    only: Option<EventId>,
    at: UnixMillis,
) -> Result<u64, Error> {
    let replayed =
        match only {
            Some(event) => sqlx::query(
                "UPDATE webhook_deliveries SET state = $2, tries = 0 WHERE webhook = $1 AND event = $3 AND state <> $4",
            )
            .bind(id.as_bytes().to_vec())
            .bind(REPLAYING)
            .bind(event.as_bytes().to_vec())
            .bind(RETRYING)
            .execute(&mut *db)
            .await?,
            None => {
                sqlx::query("UPDATE webhook_deliveries SET state = $2, tries = 0 WHERE webhook = $1 AND state = $3")
                    .bind(id.as_bytes().to_vec())
                    .bind(REPLAYING)
                    .bind(DEAD)
                    .execute(&mut *db)
                    .await?
            }
        };
    if replayed.rows_affected() == 0 {
        return Ok(0);
    }
    // An operator who asks for it knows that the receiver is back.
    sqlx::query(
        "UPDATE webhooks SET
             due_ms = CASE WHEN due_ms > $2 THEN $2 ELSE due_ms END,
             failing_ms = CASE WHEN state = $3 THEN NULL ELSE failing_ms END,
             state = CASE WHEN state = $3 THEN $4 ELSE state END
         WHERE id = $1",
    )
    .bind(id.as_bytes().to_vec())
    .bind(bigint(at.0))
    .bind(FAILING)
    .bind(ACTIVE)
    .execute(db)
    .await?;
    Ok(replayed.rows_affected())
}

fn event_id(bytes: &[u8]) -> Result<EventId, Error> {
    EventId::try_from(bytes).map_err(|_| Error::Corrupt { what: "event id" })
}

fn kind_of(text: &str) -> Result<EventKind, Error> {
    text.parse().map_err(|_| Error::Corrupt { what: "kind of event" })
}
