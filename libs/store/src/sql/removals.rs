//! Who is a member of a network no more, or meets nobody in it: to the others that is the same while no server answers.

use domain::{ClientId, MAX_REMOVALS, NetworkId, Removal, Removals, UnixMillis};

use super::{
    backend::{Connection, Db},
    seating,
};
use crate::{Error, Proven, values};

/// A network's revision and what it forgot, and somebody who left: who, and with which revision.
type RemovedRow = (i64, i64, Option<Vec<u8>>, Option<i64>);

// The limit stands in the statement: SQLite prepares one anew, every time, whose limit is a parameter.
const _: () = assert!(MAX_REMOVALS + 1 == 33);

/// As of the newest revision; `None` when there is no such network.
pub(crate) async fn of(db: &mut Connection, network: NetworkId, at: UnixMillis) -> Result<Option<Removals>, Error> {
    // Who lost its seat is named as of the last revision that changed it; newer removals without it bring it back.
    let rows: Vec<RemovedRow> = sqlx::query_as::<Db, _>(
        "SELECT n.revision, n.forgotten, m.client, m.revision FROM networks n
         LEFT JOIN members m ON m.network = n.id AND (m.gone OR NOT m.seated)
         WHERE n.id = $1 AND NOT n.deleted ORDER BY m.revision DESC, m.client LIMIT 33",
    )
    .bind(network.as_bytes().to_vec())
    .fetch_all(db)
    .await?;
    let Some(&(revision, forgotten, ..)) = rows.first() else { return Ok(None) };
    let rows: Vec<_> = rows.into_iter().filter_map(|(_, _, client, left)| Some((client?, left?))).collect();
    // Of those who left with one revision all are named, or none.
    let floor = rows.get(MAX_REMOVALS).map_or(forgotten, |(_, revision)| forgotten.max(*revision));
    let named = rows.iter().filter(|(_, revision)| *revision > floor);
    let removed = named.map(|(client, revision)| {
        Ok(Removal { client: values::client(client)?, revision: values::revision(*revision)? })
    });
    Ok(Some(Removals {
        network,
        revision: values::revision(revision)?,
        floor: values::revision(floor)?,
        issued: at,
        removed: removed.collect::<Result<_, Error>>()?,
    }))
}

/// The same, if `client` is a member who has a seat.
pub(crate) async fn for_member(
    db: &mut Connection,
    network: NetworkId,
    client: ClientId,
    at: UnixMillis,
) -> Result<Proven, Error> {
    match seating::is_seated(db, network, client).await? {
        Some(true) => Ok(of(db, network, at).await?.map_or(Proven::Stranger, Proven::Member)),
        Some(false) => Ok(Proven::Unseated),
        None => Ok(Proven::Stranger),
    }
}
