//! Which members of a network meet.

use domain::{ClientId, NetworkId, NetworkKind};

use super::{backend::Connection, membership::Bumped, routes};
use crate::OrderError;

/// What `members.hub` holds.
pub(crate) const HUB: bool = true;
pub(crate) const SPOKE: bool = false;

/// Makes the network one of this kind: with an owner who is a hub where there are hubs, and without routes where there are none.
pub(crate) async fn set(
    db: &mut Connection,
    network: NetworkId,
    kind: NetworkKind,
    bumped: &Bumped,
) -> Result<(), OrderError> {
    let (plain, routed) = kind.parts();
    sqlx::query("UPDATE networks SET kind = $2, routed = $3 WHERE id = $1")
        .bind(network.as_bytes().to_vec())
        .bind(plain as i64)
        .bind(routed)
        .execute(&mut *db)
        .await?;
    if !routed {
        routes::drop_all(db, network, bumped.revision).await?;
    }
    match kind {
        // A gateway is a hub as soon as it is named.
        NetworkKind::Mesh | NetworkKind::Gateway => Ok(()),
        NetworkKind::Hub => set_hub(db, network, bumped.owner, HUB, bumped.revision).await,
    }
}

/// Makes a member a hub, or a spoke, which leads nowhere.
pub(crate) async fn set_hub(
    db: &mut Connection,
    network: NetworkId,
    member: ClientId,
    hub: bool,
    revision: i64,
) -> Result<(), OrderError> {
    let statement = if hub {
        "UPDATE members SET hub = $3, revision = $4 WHERE network = $1 AND client = $2 AND NOT gone"
    } else {
        "UPDATE members SET hub = $3, revision = $4, routes = '', agreed = ''
         WHERE network = $1 AND client = $2 AND NOT gone"
    };
    let set = sqlx::query(statement)
        .bind(network.as_bytes().to_vec())
        .bind(member.as_bytes().to_vec())
        .bind(hub)
        .bind(revision)
        .execute(db)
        .await?;
    if set.rows_affected() == 0 { Err(OrderError::MemberUnknown) } else { Ok(()) }
}
