//! Searching for clients and networks. Every query walks an index from where the page before ended.

use domain::{ClientId, Month, NetworkId, PayerId};

use super::{
    backend::{Connection, Db},
    engine::Engine,
    reading,
};
use crate::{
    ClientSearch, ClientSummary, Error, Found, FoundClients, FoundNetworks, MonthUsage, NetworkSummary, Place,
    Standing, values,
};

/// Rows that are filled in at once.
const AT_ONCE: i64 = 500;

/// What a nickname is ordered and found by.
pub(crate) fn nick_bytes(nick: &str) -> Vec<u8> {
    nick.to_lowercase().into_bytes()
}

#[derive(sqlx::FromRow)]
struct ClientRow {
    id: Vec<u8>,
    nick: Option<String>,
    nick_bytes: Option<Vec<u8>>,
    plan: String,
    blocked: bool,
    registered_ms: i64,
    seen_ms: i64,
    address: Option<i64>,
}

impl TryFrom<ClientRow> for ClientSummary {
    type Error = Error;

    fn try_from(row: ClientRow) -> Result<Self, Error> {
        Ok(Self {
            client: values::client(&row.id)?,
            nick: values::nick(row.nick.as_deref())?,
            plan: row.plan,
            standing: if row.blocked { Standing::Blocked } else { Standing::Good },
            registered: values::instant(row.registered_ms)?,
            seen: values::instant(row.seen_ms)?,
            v4: row.address.map(values::v4).transpose()?,
        })
    }
}

/// One page. Addresses are looked up one by one: joined, Postgres merges both indexes, and walks all the addresses before the page.
pub(crate) async fn clients(
    db: &mut Connection,
    search: ClientSearch,
    after: Option<Place<ClientId>>,
    limit: u16,
) -> Result<FoundClients, Error> {
    let rows: Vec<ClientRow> = match search {
        ClientSearch::Ids(first, last) => {
            sqlx::query_as::<Db, _>(
                "SELECT c.id, c.nick, NULL AS nick_bytes, c.plan, c.blocked, c.registered_ms, c.seen_ms,
                        (SELECT a.address FROM addresses a WHERE a.client = c.id) AS address
                 FROM clients c WHERE c.id >= $1 AND c.id <= $2 AND c.id > $3 ORDER BY c.id LIMIT $4",
            )
            .bind(first.as_bytes().to_vec())
            .bind(last.as_bytes().to_vec())
            .bind(after.map_or_else(Vec::new, |place| place.id.as_bytes().to_vec()))
            .bind(i64::from(limit) + 1)
            .fetch_all(db)
            .await?
        }
        ClientSearch::Nick(text) => {
            let first = nick_bytes(&text);
            let (name, id) = start(after.map(|place| (place.name, place.id.as_bytes().to_vec())), &first);
            sqlx::query_as::<Db, _>(
                "SELECT c.id, c.nick, c.nick_bytes, c.plan, c.blocked, c.registered_ms, c.seen_ms,
                        (SELECT a.address FROM addresses a WHERE a.client = c.id) AS address
                 FROM clients c
                 WHERE c.nick_bytes IS NOT NULL AND (c.nick_bytes, c.id) > ($1, $2) AND c.nick_bytes < $3
                 ORDER BY c.nick_bytes, c.id LIMIT $4",
            )
            .bind(name)
            .bind(id)
            .bind(beyond(first))
            .bind(i64::from(limit) + 1)
            .fetch_all(db)
            .await?
        }
        ClientSearch::Address(address) => {
            sqlx::query_as::<Db, _>(
                "SELECT c.id, c.nick, NULL AS nick_bytes, c.plan, c.blocked, c.registered_ms, c.seen_ms, a.address
                 FROM addresses a JOIN clients c ON c.id = a.client WHERE a.address = $1",
            )
            .bind(i64::from(address.to_bits()))
            .fetch_all(db)
            .await?
        }
    };
    let more = rows.len() > usize::from(limit);
    let (mut items, mut next) = (Vec::new(), None);
    for mut row in rows.into_iter().take(usize::from(limit)) {
        let name = row.nick_bytes.take().unwrap_or_default();
        let summary = ClientSummary::try_from(row)?;
        next = Some(Place { name, id: summary.client });
        items.push(summary);
    }
    Ok(Found { items, next: next.filter(|_| more) })
}

/// Networks whose name begins as `prefix` does, by name. Names that look alike are alike.
pub(crate) async fn networks(
    db: &mut Connection,
    prefix: String,
    after: Option<Place<NetworkId>>,
    limit: u16,
) -> Result<FoundNetworks, Error> {
    let first = prefix.into_bytes();
    let (name, id) = start(after.map(|place| (place.name, place.id.as_bytes().to_vec())), &first);
    let rows: Vec<reading::SummaryRow> = sqlx::query_as::<Db, _>(reading::summaries!(
        "n.name_bytes IS NOT NULL AND (n.name_bytes, n.id) > ($1, $2) AND n.name_bytes < $3
         ORDER BY n.name_bytes, n.id LIMIT $4"
    ))
    .bind(name)
    .bind(id)
    .bind(beyond(first))
    .bind(i64::from(limit) + 1)
    .fetch_all(&mut *db)
    .await?;
    let more = rows.len() > usize::from(limit);
    let (mut items, mut next) = (Vec::new(), None);
    for mut row in rows.into_iter().take(usize::from(limit)) {
        let name = row.name_bytes.take().unwrap_or_default();
        let summary = NetworkSummary::try_from(row)?;
        next = Some(Place { name, id: summary.network });
        items.push(summary);
    }
    Ok(Found { items, next: next.filter(|_| more) })
}

/// What was relayed for `payer`, newest month first.
pub(crate) async fn usage_of(db: &mut Connection, payer: PayerId, limit: u16) -> Result<Vec<MonthUsage>, Error> {
    let rows: Vec<(i64, i64)> = sqlx::query_as::<Db, _>(
        "SELECT month, bytes FROM relay_usage WHERE payer = $1
         UNION ALL SELECT month, bytes FROM account_usage WHERE account = $1 ORDER BY month DESC LIMIT $2",
    )
    .bind(payer.as_bytes().to_vec())
    .bind(i64::from(limit))
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|(number, bytes)| Ok(MonthUsage { payer, month: month(number)?, bytes: values::bytes(bytes)? }))
        .collect()
}

/// What was relayed in `month`, by payer.
pub(crate) async fn usage_in(
    db: &mut Connection,
    month: Month,
    after: Option<PayerId>,
    limit: u16,
) -> Result<Vec<MonthUsage>, Error> {
    let rows: Vec<(Vec<u8>, i64)> = sqlx::query_as::<Db, _>(
        "SELECT payer, bytes FROM relay_usage WHERE month = $1 AND payer > $2 ORDER BY payer LIMIT $3",
    )
    .bind(i64::from(month.number()))
    .bind(after.map_or_else(Vec::new, |payer| payer.as_bytes().to_vec()))
    .bind(i64::from(limit))
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|(payer, bytes)| {
            let payer = PayerId::try_from(payer.as_slice()).map_err(|_| Error::Corrupt { what: "payer id" })?;
            Ok(MonthUsage { payer, month, bytes: values::bytes(bytes)? })
        })
        .collect()
}

/// Fills in what programs before this one did not know of.
pub(crate) async fn fill_in(engine: &Engine) -> Result<(), Error> {
    while engine.write("fill in nicknames", |db| Box::pin(fill_in_nicks(db))).await? {}
    while engine.write("fill in names", |db| Box::pin(fill_in_names(db))).await? {}
    Ok(())
}

async fn fill_in_nicks(db: &mut Connection) -> Result<bool, Error> {
    let rows: Vec<(Vec<u8>, String)> = sqlx::query_as::<Db, _>(
        "SELECT id, nick FROM clients WHERE nick IS NOT NULL AND nick_bytes IS NULL ORDER BY id LIMIT $1",
    )
    .bind(AT_ONCE)
    .fetch_all(&mut *db)
    .await?;
    for (id, nick) in &rows {
        sqlx::query("UPDATE clients SET nick_bytes = $2 WHERE id = $1 AND nick = $3")
            .bind(id)
            .bind(nick_bytes(nick))
            .bind(nick)
            .execute(&mut *db)
            .await?;
    }
    Ok(!rows.is_empty())
}

async fn fill_in_names(db: &mut Connection) -> Result<bool, Error> {
    let rows: Vec<(Vec<u8>, String)> =
        sqlx::query_as::<Db, _>("SELECT id, name_key FROM networks WHERE name_bytes IS NULL ORDER BY id LIMIT $1")
            .bind(AT_ONCE)
            .fetch_all(&mut *db)
            .await?;
    for (id, key) in &rows {
        sqlx::query("UPDATE networks SET name_bytes = $2 WHERE id = $1 AND name_key = $3")
            .bind(id)
            .bind(key.as_bytes())
            .bind(key)
            .execute(&mut *db)
            .await?;
    }
    Ok(!rows.is_empty())
}

/// What the first row of a page is greater than.
fn start(after: Option<(Vec<u8>, Vec<u8>)>, first: &[u8]) -> (Vec<u8>, Vec<u8>) {
    after.filter(|(name, _)| name.as_slice() >= first).unwrap_or_else(|| (first.to_vec(), Vec::new()))
}

/// The least string that does not begin with `prefix` and is greater.
fn beyond(mut prefix: Vec<u8>) -> Vec<u8> {
    while let Some(last) = prefix.pop() {
        if last < u8::MAX {
            prefix.push(last + 1);
            return prefix;
        }
    }
    // Greater than any text in UTF-8.
    vec![u8::MAX]
}

fn month(number: i64) -> Result<Month, Error> {
    u32::try_from(number).map(Month::from_number).map_err(|_| Error::Corrupt { what: "month" })
}
