//! Webhooks as operators see and change them. Who tells them is in `deliveries.rs`.

use async_trait::async_trait;
use domain::{EventId, EventKind, InstanceId, UnixMillis, WebhookId};

use super::{
    backend::{Connection, Db},
    deliveries,
    engine::Store,
};
use crate::{
    ChangeWebhookError, DeliveryState, DueDeliveries, Error, Held, KeptDelivery, MAX_WEBHOOKS, MakeWebhookError, Tried,
    Webhook, WebhookState, WebhookTerms, Webhooks,
    values::{self, bigint},
};

#[async_trait]
impl Webhooks for Store {
    async fn make_webhook(
        &self,
        id: WebhookId,
        terms: WebhookTerms,
        nonce: [u8; 16],
        at: UnixMillis,
    ) -> Result<Webhook, MakeWebhookError> {
        self.engine.write("make webhook", move |db| Box::pin(make(db, id, terms, nonce, at))).await
    }

    async fn webhook(&self, id: WebhookId) -> Result<Option<Webhook>, Error> {
        self.engine.read("webhook", move |db| Box::pin(show(db, id))).await
    }

    async fn webhooks(&self, after: Option<WebhookId>, limit: u16) -> Result<Vec<Webhook>, Error> {
        self.engine.read("webhooks", move |db| Box::pin(list(db, after, limit))).await
    }

    async fn change_webhook(
        &self,
        id: WebhookId,
        terms: WebhookTerms,
        expected: Option<u64>,
        at: UnixMillis,
    ) -> Result<Webhook, ChangeWebhookError> {
        self.engine.write("change webhook", move |db| Box::pin(change(db, id, terms, expected, at))).await
    }

    async fn rotate_webhook(
        &self,
        id: WebhookId,
        nonce: [u8; 16],
        until: UnixMillis,
        expected: Option<u64>,
    ) -> Result<Webhook, ChangeWebhookError> {
        self.engine.write("rotate webhook", move |db| Box::pin(rotate(db, id, nonce, until, expected))).await
    }

    async fn delete_webhook(&self, id: WebhookId, expected: Option<u64>) -> Result<(), ChangeWebhookError> {
        self.engine.write("delete webhook", move |db| Box::pin(delete(db, id, expected))).await
    }

    async fn take_webhook(
        &self,
        holder: InstanceId,
        until: UnixMillis,
        at: UnixMillis,
    ) -> Result<Option<Webhook>, Error> {
        // Mostly there is nothing to do, and looking takes no lock.
        if !self.engine.read("look for webhooks", move |db| Box::pin(deliveries::is_due(db, at))).await? {
            return Ok(None);
        }
        self.engine.write("take webhook", move |db| Box::pin(deliveries::take(db, holder, until, at))).await
    }

    async fn due_deliveries(&self, id: WebhookId, place: u64, limit: u16) -> Result<DueDeliveries, Error> {
        self.engine.read("due deliveries", move |db| Box::pin(deliveries::due(db, id, place, limit))).await
    }

    async fn settle_delivery(&self, held: Held, tried: Tried) -> Result<bool, Error> {
        self.engine.write("settle delivery", move |db| Box::pin(deliveries::settle(db, held, tried))).await
    }

    async fn pass_webhook(&self, held: Held, place: u64, missed: u64) -> Result<bool, Error> {
        self.engine.write("pass webhook", move |db| Box::pin(deliveries::pass(db, held, place, missed))).await
    }

    async fn release_webhook(&self, id: WebhookId, holder: InstanceId) -> Result<(), Error> {
        self.engine.write("release webhook", move |db| Box::pin(deliveries::release(db, id, holder))).await
    }

    async fn deliveries(
        &self,
        id: WebhookId,
        state: Option<DeliveryState>,
        before: Option<u64>,
        limit: u16,
    ) -> Result<Vec<KeptDelivery>, Error> {
        self.engine.read("deliveries", move |db| Box::pin(deliveries::list(db, id, state, before, limit))).await
    }

    async fn replay_deliveries(&self, id: WebhookId, only: Option<EventId>, at: UnixMillis) -> Result<u64, Error> {
        self.engine.write("replay deliveries", move |db| Box::pin(deliveries::replay(db, id, only, at))).await
    }
}

#[derive(sqlx::FromRow)]
pub(crate) struct WebhookRow {
    id: Vec<u8>,
    name: String,
    url: String,
    kinds: String,
    networks: String,
    accounts: String,
    state: i64,
    nonce: Vec<u8>,
    old_nonce: Option<Vec<u8>>,
    old_until_ms: Option<i64>,
    revision: i64,
    made_ms: i64,
    place: i64,
    due_ms: i64,
    failing_ms: Option<i64>,
    tried_ms: Option<i64>,
    delivered: i64,
    dead: i64,
    missed: i64,
}

/// What `webhooks.state` holds.
pub(crate) const ACTIVE: i64 = 0;
const PAUSED: i64 = 1;
pub(crate) const FAILING: i64 = 2;

impl TryFrom<WebhookRow> for Webhook {
    type Error = Error;

    fn try_from(row: WebhookRow) -> Result<Self, Error> {
        let nonce = |bytes: Vec<u8>| <[u8; 16]>::try_from(bytes).map_err(|_| Error::Corrupt { what: "nonce" });
        let state = match row.state {
            ACTIVE => WebhookState::Active,
            PAUSED => WebhookState::Paused,
            FAILING => WebhookState::Failing,
            _ => return Err(Error::Corrupt { what: "state of a webhook" }),
        };
        let old = row.old_nonce.zip(row.old_until_ms);
        let old_nonce =
            old.map(|(bytes, until)| Ok::<_, Error>((nonce(bytes)?, values::instant(until)?))).transpose()?;
        Ok(Self {
            id: WebhookId::try_from(row.id.as_slice()).map_err(|_| Error::Corrupt { what: "webhook id" })?,
            terms: WebhookTerms {
                name: row.name,
                url: row.url,
                kinds: kinds(&row.kinds),
                networks: words(&row.networks)?,
                accounts: words(&row.accounts)?,
                paused: state == WebhookState::Paused,
            },
            state,
            revision: values::bytes(row.revision)?,
            made: values::instant(row.made_ms)?,
            nonce: nonce(row.nonce)?,
            old_nonce,
            place: values::bytes(row.place)?,
            due: values::instant(row.due_ms)?,
            failing: row.failing_ms.map(values::instant).transpose()?,
            tried: row.tried_ms.map(values::instant).transpose()?,
            delivered: values::bytes(row.delivered)?,
            dead: values::bytes(row.dead)?,
            missed: values::bytes(row.missed)?,
        })
    }
}

fn words<T: std::str::FromStr>(text: &str) -> Result<Vec<T>, Error> {
    let words = text.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>();
    words.map_err(|_| Error::Corrupt { what: "list of a webhook" })
}

/// The kinds that this program knows. A list without any of them wants nothing, for which stands the kind that is never in the
/// log: an empty one would want everything.
fn kinds(text: &str) -> Vec<EventKind> {
    let kinds: Vec<EventKind> = text.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect();
    if kinds.is_empty() && !text.is_empty() { vec![EventKind::WebhookTest] } else { kinds }
}

fn text(words: &[impl ToString]) -> String {
    words.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// The end of the log is locked first, so that the limit holds and no event is missed.
async fn make(
    db: &mut Connection,
    id: WebhookId,
    terms: WebhookTerms,
    nonce: [u8; 16],
    at: UnixMillis,
) -> Result<Webhook, MakeWebhookError> {
    let head: i64 =
        sqlx::query_scalar::<Db, _>("UPDATE event_head SET sequence = sequence WHERE one = 1 RETURNING sequence")
            .fetch_one(&mut *db)
            .await?;
    let webhooks: i64 = sqlx::query_scalar::<Db, _>("SELECT COUNT(*) FROM webhooks").fetch_one(&mut *db).await?;
    if webhooks >= i64::from(MAX_WEBHOOKS) {
        return Err(MakeWebhookError::LimitReached { limit: MAX_WEBHOOKS });
    }
    let row: WebhookRow = sqlx::query_as::<Db, _>(
        "INSERT INTO webhooks (id, name, url, kinds, networks, accounts, state, nonce, revision, made_ms, place, due_ms,
                               delivered, dead, missed, holder, held_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 1, $9, $10, $9, 0, 0, 0, '', 0) RETURNING *",
    )
    .bind(id.as_bytes().to_vec())
    .bind(terms.name)
    .bind(terms.url)
    .bind(text(&terms.kinds))
    .bind(text(&terms.networks))
    .bind(text(&terms.accounts))
    .bind(if terms.paused { PAUSED } else { ACTIVE })
    .bind(nonce.to_vec())
    .bind(bigint(at.0))
    .bind(head)
    .fetch_one(db)
    .await?;
    Ok(row.try_into()?)
}

async fn show(db: &mut Connection, id: WebhookId) -> Result<Option<Webhook>, Error> {
    let row: Option<WebhookRow> = sqlx::query_as::<Db, _>("SELECT * FROM webhooks WHERE id = $1")
        .bind(id.as_bytes().to_vec())
        .fetch_optional(db)
        .await?;
    row.map(Webhook::try_from).transpose()
}

async fn list(db: &mut Connection, after: Option<WebhookId>, limit: u16) -> Result<Vec<Webhook>, Error> {
    let rows: Vec<WebhookRow> = sqlx::query_as::<Db, _>("SELECT * FROM webhooks WHERE id > $1 ORDER BY id LIMIT $2")
        .bind(after.map_or_else(Vec::new, |id| id.as_bytes().to_vec()))
        .bind(i64::from(limit))
        .fetch_all(db)
        .await?;
    rows.into_iter().map(Webhook::try_from).collect()
}

/// Raises the revision and thereby locks the webhook.
async fn bump(db: &mut Connection, id: WebhookId, expected: Option<u64>) -> Result<(), ChangeWebhookError> {
    let revision: Option<i64> =
        sqlx::query_scalar::<Db, _>("UPDATE webhooks SET revision = revision + 1 WHERE id = $1 RETURNING revision")
            .bind(id.as_bytes().to_vec())
            .fetch_optional(db)
            .await?;
    let before = revision.ok_or(ChangeWebhookError::Unknown)? - 1;
    let seen = expected.is_none_or(|expected| bigint(expected) == before);
    if seen { Ok(()) } else { Err(ChangeWebhookError::Changed) }
}

async fn change(
    db: &mut Connection,
    id: WebhookId,
    terms: WebhookTerms,
    expected: Option<u64>,
    at: UnixMillis,
) -> Result<Webhook, ChangeWebhookError> {
    bump(db, id, expected).await?;
    let row: WebhookRow = sqlx::query_as::<Db, _>(
        "UPDATE webhooks SET name = $2, url = $3, kinds = $4, networks = $5, accounts = $6, state = $7, due_ms = $8,
                             failing_ms = NULL
         WHERE id = $1 RETURNING *",
    )
    .bind(id.as_bytes().to_vec())
    .bind(terms.name)
    .bind(terms.url)
    .bind(text(&terms.kinds))
    .bind(text(&terms.networks))
    .bind(text(&terms.accounts))
    .bind(if terms.paused { PAUSED } else { ACTIVE })
    .bind(bigint(at.0))
    .fetch_one(db)
    .await?;
    Ok(row.try_into()?)
}

async fn rotate(
    db: &mut Connection,
    id: WebhookId,
    nonce: [u8; 16],
    until: UnixMillis,
    expected: Option<u64>,
) -> Result<Webhook, ChangeWebhookError> {
    bump(db, id, expected).await?;
    let row: WebhookRow = sqlx::query_as::<Db, _>(
        "UPDATE webhooks SET old_nonce = nonce, old_until_ms = $3, nonce = $2 WHERE id = $1 RETURNING *",
    )
    .bind(id.as_bytes().to_vec())
    .bind(nonce.to_vec())
    .bind(bigint(until.0))
    .fetch_one(db)
    .await?;
    Ok(row.try_into()?)
}

async fn delete(db: &mut Connection, id: WebhookId, expected: Option<u64>) -> Result<(), ChangeWebhookError> {
    bump(db, id, expected).await?;
    for statement in ["DELETE FROM webhook_deliveries WHERE webhook = $1", "DELETE FROM webhooks WHERE id = $1"] {
        sqlx::query(statement).bind(id.as_bytes().to_vec()).execute(&mut *db).await?;
    }
    Ok(())
}
