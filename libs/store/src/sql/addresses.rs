//! Handing out IPv4 addresses, each once and for ever.

use std::net::Ipv4Addr;

use domain::{AddressPool, ClientId};

use super::backend::{Connection, Db};
use crate::{Error, seats, values};

/// The address of `client`, if it has one.
pub(crate) async fn of(db: &mut Connection, client: ClientId) -> Result<Option<Ipv4Addr>, Error> {
    let address: Option<i64> = sqlx::query_scalar::<Db, _>("SELECT address FROM addresses WHERE client = $1")
        .bind(client.as_bytes().to_vec())
        .fetch_optional(db)
        .await?;
    address.map(values::v4).transpose()
}

/// The address of `client`, given to it now if it has none; `None` when the pool is exhausted. The caller has locked the
/// client, and takes no further lock: so whoever waits here for a taken address waits for a transaction that ends.
pub(crate) async fn ensure(
    db: &mut Connection,
    client: ClientId,
    pool: AddressPool,
) -> Result<Option<Ipv4Addr>, Error> {
    if let Some(address) = of(db, client).await? {
        return Ok(Some(address));
    }
    let mut tried = None;
    for address in seats::candidates(client, pool) {
        if take(db, client, address).await? {
            return Ok(Some(address));
        }
        tried = Some(address);
    }
    let (Some(first), Some(last)) = (pool.address(0), pool.address(pool.seats() - 1)) else { return Ok(None) };
    // From a taken address upwards, then around. Every lost race has filled a gap for good, so this ends.
    let start = tried.unwrap_or(first);
    loop {
        let gap = match gap_after(db, start, last).await? {
            Some(gap) => gap,
            None if take(db, client, first).await? => return Ok(Some(first)),
            None => match gap_after(db, first, start).await? {
                Some(gap) => gap,
                None => return Ok(None),
            },
        };
        if take(db, client, gap).await? {
            return Ok(Some(gap));
        }
    }
}

/// Whether `address` was free and is now the client's. Waits for a transaction that is taking it.
async fn take(db: &mut Connection, client: ClientId, address: Ipv4Addr) -> Result<bool, Error> {
    let taken = sqlx::query("INSERT INTO addresses (address, client) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(i64::from(address.to_bits()))
        .bind(client.as_bytes().to_vec())
        .execute(db)
        .await?;
    Ok(taken.rows_affected() == 1)
}

/// The lowest free address above a taken one, from `from` up to `to`: a walk along the index that stops at the first gap.
async fn gap_after(db: &mut Connection, from: Ipv4Addr, to: Ipv4Addr) -> Result<Option<Ipv4Addr>, Error> {
    let gap: Option<i64> = sqlx::query_scalar::<Db, _>(
        "SELECT a.address + 1 FROM addresses a
         WHERE a.address >= $1 AND a.address < $2
           AND NOT EXISTS (SELECT 1 FROM addresses b WHERE b.address = a.address + 1)
         ORDER BY a.address LIMIT 1",
    )
    .bind(i64::from(from.to_bits()))
    .bind(i64::from(to.to_bits()))
    .fetch_optional(db)
    .await?;
    gap.map(values::v4).transpose()
}
