//! Invites: made and revoked by orders, redeemed by whoever has the link.

use domain::{ClientId, EventKind, Invite, InviteId, MAX_INVITES, NetworkId, NewInvite, UnixMillis};

use super::{
    backend::{Connection, Db},
    engine::Context,
    events, joining, membership,
};
use crate::{
    Error, JoinError, Joined, OrderError,
    values::{self, bigint},
};

/// Makes `client` a member, and takes one use of the invite by the statement that finds out whether one is left.
pub(crate) async fn redeem(
    db: &mut Connection,
    context: Context,
    invite: InviteId,
    client: ClientId,
    request: [u8; 16],
    at: UnixMillis,
) -> Result<Joined, JoinError> {
    let network = network_of(db, invite).await?.ok_or(JoinError::InviteUnknown)?;
    let bumped = membership::bump(db, network, at).await?.ok_or(JoinError::InviteUnknown)?;
    let room = joining::check_welcome(db, network, client, &bumped).await?;
    let sealed: Option<Vec<u8>> = sqlx::query_scalar::<Db, _>(
        "UPDATE invites SET remaining = remaining - 1 WHERE id = $1 AND remaining > 0 AND expires_ms > $2
         RETURNING sealed_secret",
    )
    .bind(invite.as_bytes().to_vec())
    .bind(bigint(at.0))
    .fetch_optional(&mut *db)
    .await?;
    let Some(sealed) = sealed else { return Err(why_useless(db, invite, at).await?) };
    joining::check_room(db, network, client, room, at).await?;
    joining::insert_member(db, network, client, request, bumped.revision, at).await?;
    events::happened(db, events::member(EventKind::MemberJoined, network, client, at)).await?;
    let joined = joining::joined(db, context, network, client, bumped).await?;
    Ok(Joined { wrapped_secret: sealed, ..joined })
}

/// The answer to a redemption that is repeated with the same `request`.
pub(crate) async fn redeemed(
    db: &mut Connection,
    context: Context,
    invite: InviteId,
    client: ClientId,
    request: [u8; 16],
) -> Result<Option<Joined>, Error> {
    let row: Option<(Vec<u8>, Vec<u8>)> =
        sqlx::query_as::<Db, _>("SELECT network, sealed_secret FROM invites WHERE id = $1")
            .bind(invite.as_bytes().to_vec())
            .fetch_optional(&mut *db)
            .await?;
    let Some((network, sealed)) = row else { return Ok(None) };
    let joined = joining::joined_by(db, context, values::network(&network)?, client, request).await?;
    Ok(joined.map(|joined| Joined { wrapped_secret: sealed, ..joined }))
}

/// Makes an invite of `network`, whose lock the caller has. Invites that ended make room.
pub(crate) async fn make(
    db: &mut Connection,
    network: NetworkId,
    maker: ClientId,
    new: &NewInvite,
    at: UnixMillis,
) -> Result<(), OrderError> {
    if !new.is_valid() {
        return Err(OrderError::Invalid);
    }
    sqlx::query("DELETE FROM invites WHERE network = $1 AND (remaining = 0 OR expires_ms <= $2)")
        .bind(network.as_bytes().to_vec())
        .bind(bigint(at.0))
        .execute(&mut *db)
        .await?;
    // A repeated order finds its invite there. An id that another network has is nobody's by accident.
    let made = sqlx::query(
        "INSERT INTO invites (id, network, maker, sealed_secret, uses, remaining, made_ms, expires_ms)
         VALUES ($1, $2, $3, $4, $5, $5, $6, $7) ON CONFLICT DO NOTHING",
    )
    .bind(new.id.as_bytes().to_vec())
    .bind(network.as_bytes().to_vec())
    .bind(maker.as_bytes().to_vec())
    .bind(new.sealed_secret.clone())
    .bind(i64::from(new.uses))
    .bind(bigint(at.0))
    .bind(bigint(at.plus(std::time::Duration::from_secs(new.lifetime_s.into())).0))
    .execute(&mut *db)
    .await?;
    if made.rows_affected() == 0 && network_of(db, new.id).await? != Some(network) {
        return Err(OrderError::Invalid);
    }
    let invites: i64 = sqlx::query_scalar::<Db, _>("SELECT COUNT(*) FROM invites WHERE network = $1")
        .bind(network.as_bytes().to_vec())
        .fetch_one(&mut *db)
        .await?;
    if invites > i64::from(MAX_INVITES) { Err(OrderError::LimitReached { limit: MAX_INVITES }) } else { Ok(()) }
}

pub(crate) async fn revoke(db: &mut Connection, network: NetworkId, invite: InviteId) -> Result<(), OrderError> {
    let revoked = sqlx::query("DELETE FROM invites WHERE network = $1 AND id = $2")
        .bind(network.as_bytes().to_vec())
        .bind(invite.as_bytes().to_vec())
        .execute(db)
        .await?;
    if revoked.rows_affected() == 0 { Err(OrderError::InviteUnknown) } else { Ok(()) }
}

/// Revokes what `maker` made: it may not invite any more.
pub(crate) async fn revoke_all_of(db: &mut Connection, network: NetworkId, maker: ClientId) -> Result<(), Error> {
    sqlx::query("DELETE FROM invites WHERE network = $1 AND maker = $2")
        .bind(network.as_bytes().to_vec())
        .bind(maker.as_bytes().to_vec())
        .execute(db)
        .await?;
    Ok(())
}

/// Id, maker, uses, how many are left, when it ends.
type InviteRow = (Vec<u8>, Vec<u8>, i64, i64, i64);

/// Those that may still let somebody in, oldest first.
pub(crate) async fn list(db: &mut Connection, network: NetworkId, at: UnixMillis) -> Result<Vec<Invite>, Error> {
    let rows: Vec<InviteRow> = sqlx::query_as::<Db, _>(
        "SELECT id, maker, uses, remaining, expires_ms FROM invites
         WHERE network = $1 AND remaining > 0 AND expires_ms > $2 ORDER BY made_ms, id",
    )
    .bind(network.as_bytes().to_vec())
    .bind(bigint(at.0))
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|(id, maker, uses, remaining, expires)| {
            Ok(Invite {
                id: InviteId::try_from(id.as_slice()).map_err(|_| Error::Corrupt { what: "invite id" })?,
                maker: values::client(&maker)?,
                uses: values::count(uses)?,
                remaining: values::count(remaining)?,
                expires: values::instant(expires)?,
            })
        })
        .collect()
}

async fn network_of(db: &mut Connection, invite: InviteId) -> Result<Option<NetworkId>, Error> {
    let network: Option<Vec<u8>> = sqlx::query_scalar::<Db, _>("SELECT network FROM invites WHERE id = $1")
        .bind(invite.as_bytes().to_vec())
        .fetch_optional(db)
        .await?;
    network.map(|network| values::network(&network)).transpose()
}

async fn why_useless(db: &mut Connection, invite: InviteId, at: UnixMillis) -> Result<JoinError, Error> {
    let expires: Option<i64> = sqlx::query_scalar::<Db, _>("SELECT expires_ms FROM invites WHERE id = $1")
        .bind(invite.as_bytes().to_vec())
        .fetch_optional(db)
        .await?;
    Ok(match expires {
        None => JoinError::InviteUnknown,
        Some(expires) if expires <= bigint(at.0) => JoinError::InviteExpired,
        Some(_) => JoinError::InviteUsedUp,
    })
}
