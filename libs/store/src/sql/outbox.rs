//! What members were not told yet.

use domain::{NetworkId, Revision, UnixMillis};

use super::{
    backend::{Connection, Db},
    engine::Context,
    reading,
};
use crate::{
    Announcement, Error,
    values::{self, bigint},
};

/// Changes before `before` that were not announced, oldest first.
pub(crate) async fn unannounced(
    db: &mut Connection,
    context: Context,
    before: UnixMillis,
    limit: u16,
) -> Result<Vec<Announcement>, Error> {
    let rows: Vec<(Vec<u8>, String, i64, i64, i64)> = sqlx::query_as::<Db, _>(
        "SELECT id, name, revision, forgotten, announced FROM networks
         WHERE announced < revision AND changed_ms < $1 ORDER BY changed_ms, id LIMIT $2",
    )
    .bind(bigint(before.0))
    .bind(i64::from(limit))
    .fetch_all(&mut *db)
    .await?;
    let mut announcements = Vec::with_capacity(rows.len());
    for (id, name, revision, forgotten, announced) in rows {
        let network = values::network(&id)?;
        let since = values::revision(announced)?;
        let change = reading::change(db, context, (network, name, revision, forgotten), since).await?;
        announcements.push(Announcement { change, to: reading::member_ids(db, network).await? });
    }
    Ok(announcements)
}

/// Notes that members were told everything up to `revision`; the one write that changes nothing for them, so no bump.
pub(crate) async fn announced(db: &mut Connection, network: NetworkId, revision: Revision) -> Result<(), Error> {
    sqlx::query("UPDATE networks SET announced = $2 WHERE id = $1 AND announced < $2")
        .bind(network.as_bytes().to_vec())
        .bind(bigint(revision.0))
        .execute(db)
        .await?;
    Ok(())
}
