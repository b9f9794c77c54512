//! Where members lead the others of their network.

use domain::{ClientId, NetworkId, NetworkKind, Prefix, route_prefixes};

use super::{
    backend::{Connection, Db},
    engine::Context,
    membership::Bumped,
};
use crate::{Error, OrderError, values};

/// Makes `wanted` the prefixes of a member, which is a hub as long as it has any.
pub(crate) async fn set(
    db: &mut Connection,
    context: Context,
    network: NetworkId,
    member: ClientId,
    wanted: &[Prefix],
    bumped: &Bumped,
) -> Result<(), OrderError> {
    if bumped.terms.kind != NetworkKind::Gateway {
        return Err(OrderError::NoGateways);
    }
    let (_, agreed) = of(db, network, member).await?.ok_or(OrderError::MemberUnknown)?;
    let others: Vec<String> = sqlx::query_scalar::<Db, _>(
        "SELECT routes FROM members WHERE network = $1 AND client <> $2 AND NOT gone AND routes <> ''",
    )
    .bind(network.as_bytes().to_vec())
    .bind(member.as_bytes().to_vec())
    .fetch_all(&mut *db)
    .await?;
    let mut taken = Vec::new();
    for routes in others {
        taken.extend(values::prefixes(&routes)?);
    }
    let lan = [Prefix::new(context.pool.net().into()), Prefix::new(context.ula.net().into())];
    let routes = route_prefixes(wanted, &taken, &lan)?;
    let agreed = agreed.into_iter().filter(|prefix| routes.contains(prefix)).collect::<Vec<_>>();
    let set = "UPDATE members SET routes = $3, agreed = $4, hub = $5, revision = $6 WHERE network = $1 AND client = $2";
    sqlx::query(set)
        .bind(network.as_bytes().to_vec())
        .bind(member.as_bytes().to_vec())
        .bind(values::prefixes_text(&routes))
        .bind(values::prefixes_text(&agreed))
        .bind(!routes.is_empty())
        .bind(bumped.revision)
        .execute(db)
        .await?;
    Ok(())
}

/// Notes to which of its prefixes the member's own machine agrees.
pub(crate) async fn agree(
    db: &mut Connection,
    network: NetworkId,
    member: ClientId,
    prefixes: &[Prefix],
    revision: i64,
) -> Result<(), OrderError> {
    let (mut agreed, _) = of(db, network, member).await?.ok_or(OrderError::MemberUnknown)?;
    agreed.retain(|prefix| prefixes.contains(prefix));
    sqlx::query("UPDATE members SET agreed = $3, revision = $4 WHERE network = $1 AND client = $2")
        .bind(network.as_bytes().to_vec())
        .bind(member.as_bytes().to_vec())
        .bind(values::prefixes_text(&agreed))
        .bind(revision)
        .execute(db)
        .await?;
    Ok(())
}

/// Nobody leads anywhere any more, and who did is no hub for that reason.
pub(crate) async fn drop_all(db: &mut Connection, network: NetworkId, revision: i64) -> Result<(), Error> {
    sqlx::query(
        "UPDATE members SET routes = '', agreed = '', hub = FALSE, revision = $2
         WHERE network = $1 AND NOT gone AND routes <> ''",
    )
    .bind(network.as_bytes().to_vec())
    .bind(revision)
    .execute(db)
    .await?;
    Ok(())
}

/// A member's prefixes, and those that it agreed to.
async fn of(
    db: &mut Connection,
    network: NetworkId,
    member: ClientId,
) -> Result<Option<(Vec<Prefix>, Vec<Prefix>)>, Error> {
    let row: Option<(String, String)> =
        sqlx::query_as::<Db, _>("SELECT routes, agreed FROM members WHERE network = $1 AND client = $2 AND NOT gone")
            .bind(network.as_bytes().to_vec())
            .bind(member.as_bytes().to_vec())
            .fetch_optional(db)
            .await?;
    row.map(|(routes, agreed)| Ok((values::prefixes(&routes)?, values::prefixes(&agreed)?))).transpose()
}
