//! The secrets of a network: which is the newest, who proved which, and what is sealed for whom.

use domain::{
    Action, ClientId, Holder, MAX_SEALS, NetworkId, NewSecret, Role, Seal, SecretEpoch, SecretProof, SecretState,
    UnixMillis, Wanted, may,
};

use super::{
    backend::{Connection, Db},
    engine::Context,
    membership::{self, Bumped},
    reading,
};
use crate::{
    Announcement, Error, LeaveError, OrderError,
    values::{self, bigint},
};

/// What `networks` holds of it.
pub(crate) fn state(epoch: i64, door: i64, wanted: i64) -> Result<SecretState, Error> {
    let wanted = match wanted {
        0 => Wanted::No,
        1 => Wanted::Soon,
        2 => Wanted::Now,
        _ => return Err(Error::Corrupt { what: "wish for a secret" }),
    };
    Ok(SecretState { epoch: values::epoch(epoch)?, door: values::epoch(door)?, wanted, lacking: 0 })
}

/// Notes in the locked network that somebody is gone who knows its newest secret.
pub(crate) async fn want(
    db: &mut Connection,
    network: NetworkId,
    bumped: &mut Bumped,
    wanted: Wanted,
) -> Result<(), Error> {
    bumped.secret.wanted = bumped.secret.wanted.max(wanted);
    sqlx::query("UPDATE networks SET secret_wanted = $2, secret_wanted_at = $3 WHERE id = $1")
        .bind(network.as_bytes().to_vec())
        .bind(bumped.secret.wanted as i64)
        .bind(bumped.revision)
        .execute(db)
        .await?;
    Ok(())
}

/// Takes back what was sealed and not opened yet: who sealed it can no longer be believed to have been allowed to.
pub(crate) async fn unseal(db: &mut Connection, network: NetworkId) -> Result<(), Error> {
    sqlx::query("UPDATE members SET seal = NULL, seal_epoch = 0 WHERE network = $1 AND seal_epoch > proof_epoch")
        .bind(network.as_bytes().to_vec())
        .execute(db)
        .await?;
    Ok(())
}

/// Makes a newer secret the newest, if it is the next one and its maker knew who was removed.
pub(crate) async fn renew(
    db: &mut Connection,
    context: Context,
    network: NetworkId,
    client: ClientId,
    new: NewSecret,
    at: UnixMillis,
) -> Result<Announcement, OrderError> {
    let mut bumped = permitted(db, network, client, at).await?;
    if new.seals.len() > MAX_SEALS || !new.seals.iter().all(Seal::is_valid) {
        return Err(OrderError::Invalid);
    }
    let renewed = sqlx::query(
        "UPDATE networks SET secret_epoch = $2, secret_wanted = 0
         WHERE id = $1 AND secret_epoch = $2 - 1 AND secret_wanted_at <= $3",
    )
    .bind(network.as_bytes().to_vec())
    .bind(bigint(new.epoch.0))
    .bind(bigint(new.seen.0))
    .execute(&mut *db)
    .await?;
    if renewed.rows_affected() == 0 {
        return Err(OrderError::SecretPassed);
    }
    bumped.secret = SecretState { epoch: new.epoch, wanted: Wanted::No, ..bumped.secret };
    if let Some(password) = new.password {
        sqlx::query(
            "UPDATE networks SET password = $2, wrapped_secret = $3, credential = $4, door_epoch = $5 WHERE id = $1",
        )
        .bind(network.as_bytes().to_vec())
        .bind(password.record)
        .bind(password.wrapped_secret)
        .bind(credential(network, new.epoch))
        .bind(bigint(new.epoch.0))
        .execute(&mut *db)
        .await?;
        // What they hold opens a door that is no more.
        sqlx::query("DELETE FROM invites WHERE network = $1")
            .bind(network.as_bytes().to_vec())
            .execute(&mut *db)
            .await?;
        bumped.secret.door = new.epoch;
    }
    keep(db, network, new.epoch, new.seals).await?;
    Ok(membership::announcement(db, context, network, &bumped).await?)
}

/// Keeps the newest secret for members who lack it.
pub(crate) async fn hand(
    db: &mut Connection,
    context: Context,
    network: NetworkId,
    client: ClientId,
    epoch: SecretEpoch,
    seals: Vec<Seal>,
    at: UnixMillis,
) -> Result<Announcement, OrderError> {
    let bumped = permitted(db, network, client, at).await?;
    if seals.is_empty() || seals.len() > MAX_SEALS || !seals.iter().all(Seal::is_valid) {
        return Err(OrderError::Invalid);
    }
    if bumped.secret.epoch != epoch {
        return Err(OrderError::SecretPassed);
    }
    keep(db, network, epoch, seals).await?;
    Ok(membership::announcement(db, context, network, &bumped).await?)
}

/// Who proved what, by id.
pub(crate) async fn holders(
    db: &mut Connection,
    network: NetworkId,
    client: ClientId,
    after: Option<ClientId>,
    limit: u16,
) -> Result<Vec<Holder>, OrderError> {
    let role = reading::role(db, network, client).await?.ok_or(OrderError::NotAMember)?;
    if !may(role, Action::Rekey, None) {
        return Err(OrderError::NotPermitted);
    }
    let rows: Vec<(Vec<u8>, i64, Vec<u8>, bool)> = sqlx::query_as::<Db, _>(
        "SELECT m.client, m.proof_epoch, m.proof, m.seal_epoch = n.secret_epoch
         FROM members m JOIN networks n ON n.id = m.network
         WHERE m.network = $1 AND m.client > $2 AND NOT m.gone AND m.proof IS NOT NULL ORDER BY m.client LIMIT $3",
    )
    .bind(network.as_bytes().to_vec())
    .bind(after.map_or_else(Vec::new, |id| id.as_bytes().to_vec()))
    .bind(i64::from(limit))
    .fetch_all(db)
    .await?;
    let holder = |(client, epoch, proof, sealed): (Vec<u8>, i64, Vec<u8>, bool)| {
        let proof = proof.try_into().map_err(|_| Error::Corrupt { what: "proof" })?;
        Ok(Holder { client: values::client(&client)?, epoch: values::epoch(epoch)?, proof: SecretProof(proof), sealed })
    };
    rows.into_iter().map(holder).collect::<Result<_, Error>>().map_err(OrderError::from)
}

/// What lies there for `client`; `None` when it is no member.
pub(crate) async fn sealed(
    db: &mut Connection,
    network: NetworkId,
    client: ClientId,
) -> Result<Option<Option<Seal>>, Error> {
    let row: Option<(Option<Vec<u8>>,)> =
        sqlx::query_as::<Db, _>("SELECT seal FROM members WHERE network = $1 AND client = $2 AND NOT gone")
            .bind(network.as_bytes().to_vec())
            .bind(client.as_bytes().to_vec())
            .fetch_optional(db)
            .await?;
    Ok(row.map(|(bytes,)| bytes.map(|bytes| Seal { member: client, bytes })))
}

/// Notes that `client` has a secret. The members are told when it is not the newest, so that somebody hands it that.
pub(crate) async fn prove(
    db: &mut Connection,
    context: Context,
    network: NetworkId,
    client: ClientId,
    epoch: SecretEpoch,
    proof: SecretProof,
    at: UnixMillis,
) -> Result<Option<Announcement>, LeaveError> {
    let row: Option<(i64, i64)> = sqlx::query_as::<Db, _>(
        "SELECT n.secret_epoch, m.proof_epoch FROM members m JOIN networks n ON n.id = m.network
         WHERE m.network = $1 AND m.client = $2 AND NOT m.gone",
    )
    .bind(network.as_bytes().to_vec())
    .bind(client.as_bytes().to_vec())
    .fetch_optional(&mut *db)
    .await?;
    let (newest, before) = row.ok_or(LeaveError::NotAMember)?;
    let epoch = bigint(epoch.0);
    if epoch > newest || epoch < before {
        return Ok(None);
    }
    // Whoever has the newest changes nothing for anybody: no revision, and no lock of the network.
    let bumped = if epoch == newest { None } else { membership::bump(db, network, at).await? };
    sqlx::query(
        "UPDATE members SET proof_epoch = $3, proof = $4
         WHERE network = $1 AND client = $2 AND NOT gone AND proof_epoch <= $3",
    )
    .bind(network.as_bytes().to_vec())
    .bind(client.as_bytes().to_vec())
    .bind(epoch)
    .bind(proof.0.to_vec())
    .execute(&mut *db)
    .await?;
    match bumped {
        Some(bumped) => Ok(Some(membership::announcement(db, context, network, &bumped).await?)),
        None => Ok(None),
    }
}

/// What the password of this epoch is registered under. The first one is registered under the name.
pub(crate) fn credential(network: NetworkId, epoch: SecretEpoch) -> String {
    format!("{network}:{}", epoch.0)
}

/// Locks the network for somebody who may give it another secret.
async fn permitted(
    db: &mut Connection,
    network: NetworkId,
    client: ClientId,
    at: UnixMillis,
) -> Result<Bumped, OrderError> {
    let bumped = membership::bump(db, network, at).await?.ok_or(OrderError::NotAMember)?;
    let role = reading::role(db, network, client).await?.ok_or(OrderError::NotAMember)?;
    let role = if bumped.owner == client { Role::Owner } else { role };
    if may(role, Action::Rekey, None) { Ok(bumped) } else { Err(OrderError::NotPermitted) }
}

/// Keeps seals for those who are members and do not have them yet; what is for others is dropped.
async fn keep(db: &mut Connection, network: NetworkId, epoch: SecretEpoch, seals: Vec<Seal>) -> Result<(), Error> {
    for seal in seals {
        sqlx::query(
            "UPDATE members SET seal = $3, seal_epoch = $4
             WHERE network = $1 AND client = $2 AND NOT gone AND seal_epoch < $4 AND proof_epoch < $4",
        )
        .bind(network.as_bytes().to_vec())
        .bind(seal.member.as_bytes().to_vec())
        .bind(seal.bytes)
        .bind(bigint(epoch.0))
        .execute(&mut *db)
        .await?;
    }
    Ok(())
}
