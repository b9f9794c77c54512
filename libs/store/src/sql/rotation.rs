//! Identity keys that follow others.

use std::collections::BTreeMap;

use domain::{ClientId, IdentityKey, Lineage, MAX_SUCCESSIONS, NetworkId, Signature, Succession, UnixMillis};

use super::{
    backend::{Connection, Db},
    membership,
};
use crate::{
    Error, GivenUp, RotateError, Rotated, Rotation,
    values::{self, bigint},
};

/// Whose key it is.
pub(crate) enum Owner {
    Client(ClientId),
    /// It was somebody's.
    Nobody,
    /// Never seen before.
    Unknown,
}

/// Identity, blocked, successions.
type KeyRow = (Vec<u8>, bool, i64);

/// Client, first key of a row, key, farewell, consent.
type SuccessionRow = (Vec<u8>, Vec<u8>, Vec<u8>, Vec<u8>, Vec<u8>);

pub(crate) async fn owner(db: &mut Connection, identity: &IdentityKey) -> Result<Owner, Error> {
    let client: Option<Vec<u8>> = sqlx::query_scalar::<Db, _>("SELECT id FROM clients WHERE identity = $1")
        .bind(identity.as_bytes().to_vec())
        .fetch_optional(&mut *db)
        .await?;
    if let Some(client) = client {
        return Ok(Owner::Client(values::client(&client)?));
    }
    let given_up: Option<i64> = sqlx::query_scalar::<Db, _>("SELECT nth FROM key_successions WHERE given_up = $1")
        .bind(identity.as_bytes().to_vec())
        .fetch_optional(db)
        .await?;
    Ok(if given_up.is_some() { Owner::Nobody } else { Owner::Unknown })
}

/// `None` when the client joined a network meanwhile: to be repeated.
pub(crate) async fn rotate(
    db: &mut Connection,
    rotation: Rotation,
    at: UnixMillis,
) -> Result<Option<Rotated>, RotateError> {
    let Rotation { client, from, keys } = rotation;
    let bumped = membership::bump_all(db, client, at).await?;
    let networks = membership::networks_of(db, client).await?;
    if networks.iter().any(|network| bumped.iter().all(|(seen, _)| seen != network)) {
        return Ok(None);
    }
    let sql = "SELECT identity, blocked, successions FROM clients WHERE id = $1";
    let (identity, blocked, successions): KeyRow =
        sqlx::query_as::<Db, _>(sql).bind(client.as_bytes().to_vec()).fetch_one(&mut *db).await.map_err(Error::from)?;
    if identity == keys.succession.identity.as_bytes() {
        let at = repeated(db, client, &from, &keys.succession).await?.ok_or(RotateError::Rotated)?;
        return Ok(Some(Rotated { networks: Vec::new(), at }));
    }
    if identity != from.as_bytes() {
        return Err(RotateError::Rotated);
    }
    if blocked {
        return Err(RotateError::Blocked);
    }
    if successions >= i64::try_from(MAX_SUCCESSIONS).unwrap_or(i64::MAX) {
        return Err(RotateError::LimitReached);
    }
    match owner(db, &keys.succession.identity).await? {
        Owner::Unknown => {}
        Owner::Client(_) | Owner::Nobody => return Err(RotateError::Taken),
    }
    write(db, client, &from, &keys, successions, at).await?;
    Ok(Some(Rotated { networks: bumped.into_iter().map(|(network, _): (NetworkId, _)| network).collect(), at }))
}

/// When this very succession was carried out; `None` when it was another one.
async fn repeated(
    db: &mut Connection,
    client: ClientId,
    from: &IdentityKey,
    succession: &Succession,
) -> Result<Option<UnixMillis>, Error> {
    let at: Option<i64> = sqlx::query_scalar::<Db, _>(
        "SELECT rotated_ms FROM key_successions WHERE client = $1 AND given_up = $2 AND identity = $3",
    )
    .bind(client.as_bytes().to_vec())
    .bind(from.as_bytes().to_vec())
    .bind(succession.identity.as_bytes().to_vec())
    .fetch_optional(db)
    .await?;
    at.map(values::instant).transpose()
}

async fn write(
    db: &mut Connection,
    client: ClientId,
    from: &IdentityKey,
    keys: &domain::KeyRotation,
    nth: i64,
    at: UnixMillis,
) -> Result<(), Error> {
    let Succession { identity, farewell, consent } = keys.succession;
    sqlx::query(
        "INSERT INTO key_successions (client, nth, given_up, identity, farewell, consent, rotated_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(client.as_bytes().to_vec())
    .bind(nth)
    .bind(from.as_bytes().to_vec())
    .bind(identity.as_bytes().to_vec())
    .bind(farewell.as_bytes().to_vec())
    .bind(consent.as_bytes().to_vec())
    .bind(bigint(at.0))
    .execute(&mut *db)
    .await?;
    sqlx::query("UPDATE clients SET identity = $2, tunnel = $3, tunnel_signature = $4, successions = $5 WHERE id = $1")
        .bind(client.as_bytes().to_vec())
        .bind(identity.as_bytes().to_vec())
        .bind(keys.tunnel.as_bytes().to_vec())
        .bind(keys.tunnel_signature.as_bytes().to_vec())
        .bind(nth + 1)
        .execute(&mut *db)
        .await?;
    // Both are made for the tunnel key before: the client proves anew what it has, and gets anew what it lacks.
    sqlx::query(
        "UPDATE members SET proof_epoch = 0, proof = NULL, seal_epoch = 0, seal = NULL WHERE client = $1 AND NOT gone",
    )
    .bind(client.as_bytes().to_vec())
    .execute(db)
    .await?;
    Ok(())
}

/// The keys of `client`, from the first on; `None` when it is not registered.
pub(crate) async fn lineage(db: &mut Connection, client: ClientId) -> Result<Option<Lineage>, Error> {
    let identity: Option<Vec<u8>> = sqlx::query_scalar::<Db, _>("SELECT identity FROM clients WHERE id = $1")
        .bind(client.as_bytes().to_vec())
        .fetch_optional(&mut *db)
        .await?;
    let Some(identity) = identity else { return Ok(None) };
    let rows: Vec<SuccessionRow> = sqlx::query_as::<Db, _>(
        "SELECT client, given_up, identity, farewell, consent FROM key_successions WHERE client = $1 ORDER BY nth",
    )
    .bind(client.as_bytes().to_vec())
    .fetch_all(db)
    .await?;
    let lines = lines(rows)?;
    Ok(Some(lines.into_values().next().map_or(Lineage::new(key(&identity)?), |line| line)))
}

/// The keys of those members of a network who changed them.
pub(crate) async fn lineages(
    db: &mut Connection,
    network: NetworkId,
    after: i64,
) -> Result<BTreeMap<ClientId, Lineage>, Error> {
    let rows: Vec<SuccessionRow> = sqlx::query_as::<Db, _>(
        "SELECT s.client, s.given_up, s.identity, s.farewell, s.consent
         FROM members m JOIN key_successions s ON s.client = m.client
         WHERE m.network = $1 AND m.revision > $2 ORDER BY s.client, s.nth",
    )
    .bind(network.as_bytes().to_vec())
    .bind(after)
    .fetch_all(db)
    .await?;
    lines(rows)
}

/// Rows by client, each client's in order.
fn lines(rows: Vec<SuccessionRow>) -> Result<BTreeMap<ClientId, Lineage>, Error> {
    let mut known = BTreeMap::<ClientId, (IdentityKey, Vec<Succession>)>::new();
    for (client, before, identity, farewell, consent) in rows {
        let succession =
            Succession { identity: key(&identity)?, farewell: signature(&farewell)?, consent: signature(&consent)? };
        let (_, successions) = known.entry(values::client(&client)?).or_insert((key(&before)?, Vec::new()));
        successions.push(succession);
    }
    Ok(known.into_iter().map(|(client, (first, rest))| (client, Lineage::claimed(first, rest))).collect())
}

/// Keys that were given up since.
pub(crate) async fn given_up_since(db: &mut Connection, since: UnixMillis, limit: u16) -> Result<Vec<GivenUp>, Error> {
    let rows: Vec<(Vec<u8>, Vec<u8>, i64)> = sqlx::query_as::<Db, _>(
        "SELECT given_up, client, rotated_ms FROM key_successions WHERE rotated_ms >= $1 ORDER BY rotated_ms DESC LIMIT $2",
    )
    .bind(bigint(since.0))
    .bind(i64::from(limit))
    .fetch_all(db)
    .await?;
    let given_up = |(identity, client, at): (Vec<u8>, Vec<u8>, i64)| {
        Ok(GivenUp { identity: key(&identity)?, client: values::client(&client)?, at: values::instant(at)? })
    };
    rows.into_iter().map(given_up).collect()
}

fn key(bytes: &[u8]) -> Result<IdentityKey, Error> {
    IdentityKey::try_from(bytes).map_err(|_| Error::Corrupt { what: "key" })
}

fn signature(bytes: &[u8]) -> Result<Signature, Error> {
    Signature::try_from(bytes).map_err(|_| Error::Corrupt { what: "key" })
}
