//! Becoming a member: by making a network, and by joining one.

use domain::{
    ClientId, EventKind, NetworkChange, NetworkId, NetworkTerms, Revision, SecretState, UnixMillis, VirtualAddresses,
};

use super::{
    addresses,
    backend::{Connection, Db},
    blocks, budgets,
    engine::Context,
    events, governing,
    membership::{Bumped, NetworkRow, announcement, bump, change, lock_client},
    reading::{self, Extent},
};
use crate::{
    Admission, Announcement, Budget, CreateError, Error, JoinError, Joined, NewNetwork,
    values::{self, bigint},
};

pub(crate) async fn create(
    db: &mut Connection,
    context: Context,
    id: NetworkId,
    new: NewNetwork,
    at: UnixMillis,
) -> Result<Joined, CreateError> {
    let made = sqlx::query(
        "INSERT INTO networks (id, name, name_key, credential, owner, password, wrapped_secret,
                               revision, announced, forgotten, created_ms, changed_ms, name_bytes)
         VALUES ($1, $2, $3, $3, $4, $5, $6, 1, 1, 0, $7, $7, $8)
         ON CONFLICT DO NOTHING",
    )
    .bind(id.as_bytes().to_vec())
    .bind(new.name.as_str())
    .bind(new.name.key())
    .bind(new.owner.as_bytes().to_vec())
    .bind(new.password)
    .bind(new.wrapped_secret.clone())
    .bind(bigint(at.0))
    .bind(new.name.key().into_bytes())
    .execute(&mut *db)
    .await?;
    if made.rows_affected() == 0 {
        return Err(CreateError::NameTaken);
    }
    if let Some(networks) = beyond_plan(db, new.owner, at).await? {
        return Err(CreateError::PlanLimit { networks });
    }
    insert_member(db, id, new.owner, *id.as_bytes(), 1, at).await?;
    events::happened(db, events::member(EventKind::NetworkCreated, id, new.owner, at)).await?;
    let (name, owner, wrapped_secret) = (new.name, new.owner, new.wrapped_secret);
    let (terms, secret) = (NetworkTerms::default(), SecretState::default());
    let bumped = Bumped { revision: 1, name, owner, terms, secret, seated: Vec::new(), wrapped_secret };
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
    spent: Option<Spent>,
    at: UnixMillis,
) -> Result<Admission, JoinError> {
    let bumped = bump(db, network, at).await?.ok_or(JoinError::Gone)?;
    let room = check_welcome(db, network, client, &bumped).await?;
    check_room(db, network, client, room, at).await?;
    let admission = if bumped.terms.approval {
        if !governing::apply(db, network, client, at).await? {
            return Err(JoinError::TooManyApplicants);
        }
        let name = bumped.name.clone();
        Admission::Awaiting { name, announcement: announcement(db, context, network, &bumped).await? }
    } else {
        insert_member(db, network, client, request, bumped.revision, at).await?;
        events::happened(db, events::member(EventKind::MemberJoined, network, client, at)).await?;
        Admission::Joined(Box::new(joined(db, context, network, client, bumped).await?))
    };
    give_back(db, spent).await?;
    Ok(admission)
}

/// Budgets in the order of their locks, and when an attempt was taken out of them.
pub(crate) type Spent = (Vec<Budget>, UnixMillis);

/// Last of all: who takes attempts takes nothing else, so whoever waits here waits for a transaction that ends.
async fn give_back(db: &mut Connection, spent: Option<Spent>) -> Result<(), Error> {
    match spent {
        Some((budgets, taken)) => budgets::forgive(db, budgets, taken).await,
        None => Ok(()),
    }
}

/// How many the network may have, and has.
#[derive(Clone, Copy)]
pub(crate) struct Room {
    seats: i64,
    members: i64,
}

/// Whether `client` may come into the network at all, and what room there is.
pub(crate) async fn check_welcome(
    db: &mut Connection,
    network: NetworkId,
    client: ClientId,
    bumped: &Bumped,
) -> Result<Room, JoinError> {
    let (banned, belongs, members, seats): (i64, i64, i64, i64) = sqlx::query_as::<Db, _>(
        "SELECT (SELECT COUNT(*) FROM bans b WHERE b.network = $1 AND b.client = $2),
                (SELECT COUNT(*) FROM members m WHERE m.network = $1 AND m.client = $2 AND NOT m.gone),
                (SELECT COUNT(*) FROM members m WHERE m.network = $1 AND NOT m.gone),
                p.members_per_network
         FROM clients c JOIN plans p ON p.name = c.plan WHERE c.id = $3",
    )
    .bind(network.as_bytes().to_vec())
    .bind(client.as_bytes().to_vec())
    .bind(bumped.owner.as_bytes().to_vec())
    .fetch_one(db)
    .await
    .map_err(Error::from)?;
    if banned > 0 {
        return Err(JoinError::Banned);
    }
    if belongs > 0 {
        return Err(JoinError::AlreadyMember);
    }
    if bumped.terms.locked {
        return Err(JoinError::Locked);
    }
    Ok(Room { seats, members })
}

/// Whether there is room for `client`: in the network, and for one more network of its own.
pub(crate) async fn check_room(
    db: &mut Connection,
    network: NetworkId,
    client: ClientId,
    room: Room,
    at: UnixMillis,
) -> Result<(), JoinError> {
    if room.members >= room.seats {
        return Err(JoinError::Full { seats: values::count(room.seats)? });
    }
    if let Some(withheld) = blocks::withheld(db, network, at).await? {
        return Err(withheld);
    }
    if let Some(networks) = beyond_plan(db, client, at).await? {
        return Err(JoinError::PlanLimit { networks });
    }
    Ok(())
}

/// How many seats the network has, when all are taken.
pub(crate) async fn beyond_seats(
    db: &mut Connection,
    network: NetworkId,
    owner: ClientId,
) -> Result<Option<u32>, Error> {
    let seats = seats(db, owner).await?;
    let members: i64 = sqlx::query_scalar::<Db, _>("SELECT COUNT(*) FROM members WHERE network = $1 AND NOT gone")
        .bind(network.as_bytes().to_vec())
        .fetch_one(db)
        .await?;
    Ok((members >= i64::from(seats)).then_some(seats))
}

/// The answer to a join that is repeated with the same `request`. The first one gave the attempt back.
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
pub(crate) async fn beyond_plan(db: &mut Connection, client: ClientId, at: UnixMillis) -> Result<Option<u32>, Error> {
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

/// Makes `client` a plain member, whatever it was before.
pub(crate) async fn insert_member(
    db: &mut Connection,
    network: NetworkId,
    client: ClientId,
    request: [u8; 16],
    revision: i64,
    at: UnixMillis,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO members (network, client, request, revision, gone, joined_ms) VALUES ($1, $2, $3, $4, FALSE, $5)
         ON CONFLICT (network, client)
         DO UPDATE SET request = $3, revision = $4, gone = FALSE, joined_ms = $5, role = 0, hub = FALSE,
                       routes = '', agreed = '', seated = TRUE, kept = FALSE,
                       proof_epoch = 0, proof = NULL, seal_epoch = 0, seal = NULL",
    )
    .bind(network.as_bytes().to_vec())
    .bind(client.as_bytes().to_vec())
    .bind(request.to_vec())
    .bind(revision)
    .bind(bigint(at.0))
    .execute(&mut *db)
    .await?;
    sqlx::query("DELETE FROM applicants WHERE network = $1 AND client = $2")
        .bind(network.as_bytes().to_vec())
        .bind(client.as_bytes().to_vec())
        .execute(db)
        .await?;
    Ok(())
}

/// What a new member is told, with its address: the last lock that a transaction takes.
pub(crate) async fn joined(
    db: &mut Connection,
    context: Context,
    network: NetworkId,
    client: ClientId,
    bumped: Bumped,
) -> Result<Joined, Error> {
    let v4 = addresses::ensure(db, client, context.pool).await?;
    let addresses = VirtualAddresses { v4, v6: context.ula.address(client) };
    let members = reading::members(db, context, network, Extent::Whole).await?;
    let mut to: Vec<_> = members.iter().map(|member| member.client).collect();
    to.sort_unstable();
    let since = values::revision(bumped.revision - 1)?;
    let changed = members.iter().filter(|member| member.revision > since).cloned().collect();
    let change = change(db, network, &bumped, changed).await?;
    let announcement = Announcement { change, to, seated: bumped.seated.clone() };
    let whole = NetworkChange { since: Revision::ZERO, members, ..announcement.change.clone() };
    Ok(Joined { addresses, wrapped_secret: bumped.wrapped_secret, whole, announcement })
}

/// What a member is told again; nobody else is told anything.
async fn rejoined(
    db: &mut Connection,
    context: Context,
    network: NetworkId,
    client: ClientId,
) -> Result<Option<Joined>, Error> {
    let row: Option<NetworkRow> = sqlx::query_as::<Db, _>(
        "SELECT revision, name, owner, locked, approval, wrapped_secret, secret_epoch, door_epoch, secret_wanted, kind,
                routed
         FROM networks WHERE id = $1",
    )
    .bind(network.as_bytes().to_vec())
    .fetch_optional(&mut *db)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let mut joined = joined(db, context, network, client, Bumped::of(row)?).await?;
    joined.announcement.to.clear();
    Ok(Some(joined))
}
