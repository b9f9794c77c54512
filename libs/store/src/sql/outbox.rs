//! What members were not told yet.

use domain::{NetworkId, Revision, UnixMillis};

use super::{
    backend::{Connection, Db},
    engine::Context,
    membership,
    reading::{self, ChangeRow},
};
use crate::{
    Announcement, Error,
    values::{self, bigint},
};

#[derive(sqlx::FromRow)]
struct ChangedRow {
    id: Vec<u8>,
    announced: i64,
    #[sqlx(flatten)]
    row: ChangeRow,
}

/// Changes before `before` that were not announced, oldest first.
pub(crate) async fn unannounced(
    db: &mut Connection,
    context: Context,
    before: UnixMillis,
    limit: u16,
) -> Result<Vec<Announcement>, Error> {
    let rows: Vec<ChangedRow> = sqlx::query_as::<Db, _>(
        "SELECT id, name, revision, forgotten, locked, approval, secret_epoch, door_epoch, secret_wanted, kind,
                routed, announced
         FROM networks
         WHERE announced < revision AND changed_ms < $1 ORDER BY changed_ms, id LIMIT $2",
    )
    .bind(bigint(before.0))
    .bind(i64::from(limit))
    .fetch_all(&mut *db)
    .await?;
    let mut announcements = Vec::with_capacity(rows.len());
    for ChangedRow { id, announced, row } in rows {
        let network = values::network(&id)?;
        let since = values::revision(announced)?;
        let change = reading::change(db, context, network, row, since).await?;
        announcements.push(Announcement { change, to: reading::member_ids(db, network).await?, seated: Vec::new() });
    }
    Ok(announcements)
}

/// Notes that members were told everything up to these revisions, in the order of the locks: the one write that changes nothing
/// for them, so no bump. Of a network that is deleted nobody needs the row any more once everybody knows it.
pub(crate) async fn announced(db: &mut Connection, told: Vec<(NetworkId, Revision)>) -> Result<(), Error> {
    for (network, revision) in told {
        let over: Option<bool> = sqlx::query_scalar::<Db, _>(
            "UPDATE networks SET announced = CASE WHEN announced < $2 THEN $2 ELSE announced END WHERE id = $1
             RETURNING deleted AND announced >= revision",
        )
        .bind(network.as_bytes().to_vec())
        .bind(bigint(revision.0))
        .fetch_optional(&mut *db)
        .await?;
        if over == Some(true) {
            membership::erase(db, network).await?;
        }
    }
    Ok(())
}
