//! Writes to networks. Each begins with [`bump`], or with the insertion of the network.

use domain::{ClientId, NetworkChange, NetworkId, NetworkName, Nickname, Revision, UnixMillis, VirtualAddresses};

use super::{
    addresses,
    backend::{Connection, Db},
    engine::Context,
    reading::{self, Extent},
};
use crate::{
    Announcement, CreateError, Error, JoinError, Joined, LeaveError, NewNetwork,
    values::{self, bigint},
};

/// Tombstones kept of one network; whoever missed an older one gets the whole network.
const TOMBSTONES: i64 = 256;

/// A network that is locked until the transaction ends.
struct Bumped {
    revision: i64,
    name: NetworkName,
    owner: ClientId,
    wrapped_secret: Vec<u8>,
}

pub(crate) async fn create(
    db: &mut Connection,
    context: Context,
    id: NetworkId,
    new: NewNetwork,
    at: UnixMillis,
) -> Result<Joined, CreateError> {
    let made = sqlx::query(
        "INSERT INTO networks (id, name, name_key, owner, password, wrapped_secret,
                               revision, announced, forgotten, created_ms, changed_ms)
         VALUES ($1, $2, $3, $4, $5, $6, 1, 1, 0, $7, $7)
         ON CONFLICT (name_key) DO NOTHING",
    )
    .bind(id.as_bytes().to_vec())
    .bind(new.name.as_str())
    .bind(new.name.key())
    .bind(new.owner.as_bytes().to_vec())
    .bind(new.password)
    .bind(new.wrapped_secret.clone())
    .bind(bigint(at.0))
    .execute(&mut *db)
    .await?;
    if made.rows_affected() == 0 {
        return Err(CreateError::NameTaken);
    }
    if let Some(networks) = beyond_plan(db, new.owner, at).await? {
        return Err(CreateError::PlanLimit { networks });
    }
    insert_member(db, id, new.owner, *id.as_bytes(), 1, at).await?;
    let bumped = Bumped { revision: 1, name: new.name, owner: new.owner, wrapped_secret: new.wrapped_secret };
    Ok(joined(db, context, id, new.owner, bumped).await?)
}

/// The answer to a creation that is repeated: the same owner with the same password record.
pub(crate) async fn created(db: &mut Connection, context: Context, new: NewNetwork) -> Result<Option<Joined>, Error> {
    let row: Option<(Vec<u8>,)> = sqlx::query_as::<Db, _>(
        "SELECT n.id FROM networks n JOIN members m ON m.network = n.id AND m.client = n.owner AND NOT m.gone
         WHERE n.name_key = $1 AND n.owner = $2 AND n.password = $3",
    )
    .bind(new.name.key())
    .bind(new.owner.as_bytes().to_vec())
    .bind(new.password)
    .fetch_optional(&mut *db)
    .await?;
    match row {
        Some((id,)) => rejoined(db, context, values::network(&id)?, new.owner).await,
        None => Ok(None),
    }
}

pub(crate) async fn join(
    db: &mut Connection,
    context: Context,
    network: NetworkId,
    client: ClientId,
    request: [u8; 16],
    at: UnixMillis,
) -> Result<Joined, JoinError> {
    let bumped = bump(db, network, at).await?.ok_or(JoinError::Gone)?;
    if is_member(db, network, client).await? {
        return Err(JoinError::AlreadyMember);
    }
    let seats = seats(db, bumped.owner).await?;
    let members: i64 = sqlx::query_scalar::<Db, _>("SELECT COUNT(*) FROM members WHERE network = $1 AND NOT gone")
        .bind(network.as_bytes().to_vec())
        .fetch_one(&mut *db)
        .await?;
    if members >= i64::from(seats) {
        return Err(JoinError::Full { seats });
    }
    if let Some(networks) = beyond_plan(db, client, at).await? {
        return Err(JoinError::PlanLimit { networks });
    }
    insert_member(db, network, client, request, bumped.revision, at).await?;
    Ok(joined(db, context, network, client, bumped).await?)
}

/// The answer to a join that is repeated with the same `request`.
pub(crate) async fn joined_by(
    db: &mut Connection,
    context: Context,
    network: NetworkId,
    client: ClientId,
    request: [u8; 16],
) -> Result<Option<Joined>, Error> {
    let same: Option<i64> = sqlx::query_scalar::<Db, _>(
        "SELECT revision FROM members WHERE network = $1 AND client = $2 AND request = $3 AND NOT gone",
    )
    .bind(network.as_bytes().to_vec())
    .bind(client.as_bytes().to_vec())
    .bind(request.to_vec())
    .fetch_optional(&mut *db)
    .await?;
    match same {
        Some(_) => rejoined(db, context, network, client).await,
        None => Ok(None),
    }
}

pub(crate) async fn leave(
    db: &mut Connection,
    context: Context,
    network: NetworkId,
    client: ClientId,
    at: UnixMillis,
) -> Result<Option<Announcement>, LeaveError> {
    let bumped = bump(db, network, at).await?.ok_or(LeaveError::NotAMember)?;
    let left =
        sqlx::query("UPDATE members SET gone = TRUE, revision = $3 WHERE network = $1 AND client = $2 AND NOT gone")
            .bind(network.as_bytes().to_vec())
            .bind(client.as_bytes().to_vec())
            .bind(bumped.revision)
            .execute(&mut *db)
            .await?;
    if left.rows_affected() == 0 {
        return Err(LeaveError::NotAMember);
    }
    let oldest: Option<Vec<u8>> = sqlx::query_scalar::<Db, _>(
        "SELECT client FROM members WHERE network = $1 AND NOT gone ORDER BY joined_ms, revision, client LIMIT 1",
    )
    .bind(network.as_bytes().to_vec())
    .fetch_optional(&mut *db)
    .await?;
    let Some(oldest) = oldest else {
        for statement in ["DELETE FROM members WHERE network = $1", "DELETE FROM networks WHERE id = $1"] {
            sqlx::query(statement).bind(network.as_bytes().to_vec()).execute(&mut *db).await?;
        }
        return Ok(None);
    };
    if bumped.owner == client {
        sqlx::query("UPDATE networks SET owner = $2 WHERE id = $1")
            .bind(network.as_bytes().to_vec())
            .bind(oldest)
            .execute(&mut *db)
            .await?;
    }
    forget_old_tombstones(db, network).await?;
    Ok(Some(announcement(db, context, network, bumped.name, bumped.revision).await?))
}

pub(crate) async fn set_nick(
    db: &mut Connection,
    context: Context,
    client: ClientId,
    nick: Nickname,
    at: UnixMillis,
) -> Result<Vec<Announcement>, Error> {
    let bumped = bump_all(db, client, at).await?;
    let named = sqlx::query("UPDATE clients SET nick = $2 WHERE id = $1")
        .bind(client.as_bytes().to_vec())
        .bind(nick.as_str())
        .execute(&mut *db)
        .await?;
    if named.rows_affected() == 0 {
        return Err(Error::UnknownClient);
    }
    let mut announcements = Vec::new();
    for (network, name, revision) in bumped {
        announcements.push(announcement(db, context, network, name, revision).await?);
    }
    Ok(announcements)
}

/// Raises the revision of every network of `client` and marks the client as changed there, then locks the client. A join
/// between the two would be missed; it holds the client's lock, so whoever has that can look again and will not miss it.
pub(crate) async fn bump_all(
    db: &mut Connection,
    client: ClientId,
    at: UnixMillis,
) -> Result<Vec<(NetworkId, NetworkName, i64)>, Error> {
    let mut bumped: Vec<(NetworkId, NetworkName, i64)> = Vec::new();
    for network in networks_of(db, client).await? {
        let Some(row) = bump(db, network, at).await? else { continue };
        let marked = sqlx::query("UPDATE members SET revision = $3 WHERE network = $1 AND client = $2 AND NOT gone")
            .bind(network.as_bytes().to_vec())
            .bind(client.as_bytes().to_vec())
            .bind(row.revision)
            .execute(&mut *db)
            .await?;
        // The client left meanwhile: the revision is raised for nothing, which harms nobody.
        if marked.rows_affected() > 0 {
            bumped.push((network, row.name, row.revision));
        }
    }
    lock_client(db, client, at).await?;
    Ok(bumped)
}

/// Networks of `client` in the order of locks.
pub(crate) async fn networks_of(db: &mut Connection, client: ClientId) -> Result<Vec<NetworkId>, Error> {
    let ids: Vec<Vec<u8>> =
        sqlx::query_scalar::<Db, _>("SELECT network FROM members WHERE client = $1 AND NOT gone ORDER BY network")
            .bind(client.as_bytes().to_vec())
            .fetch_all(db)
            .await?;
    ids.iter().map(|id| values::network(id)).collect()
}

/// Locks the row of `client` until the transaction ends.
pub(crate) async fn lock_client(db: &mut Connection, client: ClientId, at: UnixMillis) -> Result<(), Error> {
    let locked =
        sqlx::query("UPDATE clients SET seen_ms = CASE WHEN seen_ms < $2 THEN $2 ELSE seen_ms END WHERE id = $1")
            .bind(client.as_bytes().to_vec())
            .bind(bigint(at.0))
            .execute(db)
            .await?;
    if locked.rows_affected() == 0 { Err(Error::UnknownClient) } else { Ok(()) }
}

/// Raises the revision and thereby locks the network; `None` when there is no such network.
async fn bump(db: &mut Connection, network: NetworkId, at: UnixMillis) -> Result<Option<Bumped>, Error> {
    let row: Option<(i64, String, Vec<u8>, Vec<u8>)> = sqlx::query_as::<Db, _>(
        "UPDATE networks SET revision = revision + 1, changed_ms = $2 WHERE id = $1
         RETURNING revision, name, owner, wrapped_secret",
    )
    .bind(network.as_bytes().to_vec())
    .bind(bigint(at.0))
    .fetch_optional(db)
    .await?;
    row.map(|(revision, name, owner, wrapped_secret)| {
        Ok(Bumped { revision, name: values::name(&name)?, owner: values::client(&owner)?, wrapped_secret })
    })
    .transpose()
}

async fn is_member(db: &mut Connection, network: NetworkId, client: ClientId) -> Result<bool, Error> {
    let member: Option<i64> =
        sqlx::query_scalar::<Db, _>("SELECT revision FROM members WHERE network = $1 AND client = $2 AND NOT gone")
            .bind(network.as_bytes().to_vec())
            .bind(client.as_bytes().to_vec())
            .fetch_optional(db)
            .await?;
    Ok(member.is_some())
}

/// Seats of a network owned by `owner`.
async fn seats(db: &mut Connection, owner: ClientId) -> Result<u32, Error> {
    let seats: i64 = sqlx::query_scalar::<Db, _>(
        "SELECT p.members_per_network FROM clients c JOIN plans p ON p.name = c.plan WHERE c.id = $1",
    )
    .bind(owner.as_bytes().to_vec())
    .fetch_one(db)
    .await?;
    values::count(seats)
}

/// Locks `client` and says how many networks its plan allows when it has them all.
async fn beyond_plan(db: &mut Connection, client: ClientId, at: UnixMillis) -> Result<Option<u32>, Error> {
    lock_client(db, client, at).await?;
    let (allowed, used): (i64, i64) = sqlx::query_as::<Db, _>(
        "SELECT p.networks_per_client, (SELECT COUNT(*) FROM members m WHERE m.client = c.id AND NOT m.gone)
         FROM clients c JOIN plans p ON p.name = c.plan WHERE c.id = $1",
    )
    .bind(client.as_bytes().to_vec())
    .fetch_one(db)
    .await?;
    Ok(if used >= allowed { Some(values::count(allowed)?) } else { None })
}

async fn insert_member(
    db: &mut Connection,
    network: NetworkId,
    client: ClientId,
    request: [u8; 16],
    revision: i64,
    at: UnixMillis,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO members (network, client, request, revision, gone, joined_ms) VALUES ($1, $2, $3, $4, FALSE, $5)
         ON CONFLICT (network, client) DO UPDATE SET request = $3, revision = $4, gone = FALSE, joined_ms = $5",
    )
    .bind(network.as_bytes().to_vec())
    .bind(client.as_bytes().to_vec())
    .bind(request.to_vec())
    .bind(revision)
    .bind(bigint(at.0))
    .execute(db)
    .await?;
    Ok(())
}

/// What a new member is told, with its address: the last lock that a transaction takes.
async fn joined(
    db: &mut Connection,
    context: Context,
    network: NetworkId,
    client: ClientId,
    bumped: Bumped,
) -> Result<Joined, Error> {
    let v4 = addresses::ensure(db, client, context.pool).await?;
    let addresses = VirtualAddresses { v4, v6: context.ula.address(client) };
    let announcement = announcement(db, context, network, bumped.name.clone(), bumped.revision).await?;
    let members = reading::members(db, context, network, Extent::Whole).await?;
    let revision = values::revision(bumped.revision)?;
    let whole = NetworkChange { network, name: bumped.name, since: Revision::ZERO, revision, members, left: false };
    Ok(Joined { addresses, wrapped_secret: bumped.wrapped_secret, whole, announcement })
}

/// What a member is told again; nobody else is told anything.
async fn rejoined(
    db: &mut Connection,
    context: Context,
    network: NetworkId,
    client: ClientId,
) -> Result<Option<Joined>, Error> {
    let row: Option<(i64, String, Vec<u8>, Vec<u8>)> =
        sqlx::query_as::<Db, _>("SELECT revision, name, owner, wrapped_secret FROM networks WHERE id = $1")
            .bind(network.as_bytes().to_vec())
            .fetch_optional(&mut *db)
            .await?;
    let Some((revision, name, owner, wrapped_secret)) = row else { return Ok(None) };
    let bumped = Bumped { revision, name: values::name(&name)?, owner: values::client(&owner)?, wrapped_secret };
    let mut joined = joined(db, context, network, client, bumped).await?;
    joined.announcement.to.clear();
    Ok(Some(joined))
}

/// The change that made `revision`, for all members.
async fn announcement(
    db: &mut Connection,
    context: Context,
    network: NetworkId,
    name: NetworkName,
    revision: i64,
) -> Result<Announcement, Error> {
    let (since, revision) = (values::revision(revision - 1)?, values::revision(revision)?);
    let members = reading::members(db, context, network, Extent::After(since)).await?;
    let to = reading::member_ids(db, network).await?;
    Ok(Announcement { change: NetworkChange { network, name, since, revision, members, left: false }, to })
}

/// Bounds what a network remembers of those who left.
async fn forget_old_tombstones(db: &mut Connection, network: NetworkId) -> Result<(), Error> {
    let newest_forgotten: Option<i64> = sqlx::query_scalar::<Db, _>(
        "SELECT revision FROM members WHERE network = $1 AND gone ORDER BY revision DESC LIMIT 1 OFFSET $2",
    )
    .bind(network.as_bytes().to_vec())
    .bind(TOMBSTONES)
    .fetch_optional(&mut *db)
    .await?;
    let Some(revision) = newest_forgotten else { return Ok(()) };
    for statement in [
        "DELETE FROM members WHERE network = $1 AND gone AND revision <= $2",
        "UPDATE networks SET forgotten = $2 WHERE id = $1",
    ] {
        sqlx::query(statement).bind(network.as_bytes().to_vec()).bind(revision).execute(&mut *db).await?;
    }
    Ok(())
}
