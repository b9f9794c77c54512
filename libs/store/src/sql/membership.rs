//! Writes to networks. Each begins with [`bump`], or with the insertion of the network.

use domain::{
    ClientId, EventKind, Member, NetworkChange, NetworkId, NetworkName, NetworkTerms, Nickname, SecretState,
    UnixMillis, Wanted,
};

use super::{
    backend::{Connection, Db},
    directory,
    engine::Context,
    events, invites,
    reading::{self, Extent},
    seating, secrets,
};
use crate::{
    Announcement, Error, LeaveError,
    values::{self, bigint},
};

/// Tombstones kept of one network; whoever missed an older one gets the whole network.
const TOMBSTONES: i64 = 256;

/// A network that is locked until the transaction ends.
pub(crate) struct Bumped {
    pub(crate) revision: i64,
    pub(crate) name: NetworkName,
    pub(crate) owner: ClientId,
    /// Without the applicants, which are counted when somebody is told.
    pub(crate) terms: NetworkTerms,
    /// Without the members who lack the newest, which are counted when somebody is told.
    pub(crate) secret: SecretState,
    /// Who got a seat with this revision.
    pub(crate) seated: Vec<ClientId>,
    pub(crate) wrapped_secret: Vec<u8>,
}

/// How it is read.
#[derive(sqlx::FromRow)]
pub(crate) struct NetworkRow {
    revision: i64,
    name: String,
    owner: Vec<u8>,
    locked: bool,
    approval: bool,
    wrapped_secret: Vec<u8>,
    secret_epoch: i64,
    door_epoch: i64,
    secret_wanted: i64,
    kind: i64,
    routed: bool,
}

impl Bumped {
    pub(crate) fn of(row: NetworkRow) -> Result<Self, Error> {
        Ok(Self {
            revision: row.revision,
            name: values::name(&row.name)?,
            owner: values::client(&row.owner)?,
            terms: NetworkTerms {
                locked: row.locked,
                approval: row.approval,
                applicants: 0,
                kind: values::kind(row.kind, row.routed)?,
            },
            secret: secrets::state(row.secret_epoch, row.door_epoch, row.secret_wanted)?,
            seated: Vec::new(),
            wrapped_secret: row.wrapped_secret,
        })
    }
}

pub(crate) async fn leave(
    db: &mut Connection,
    context: Context,
    network: NetworkId,
    client: ClientId,
    at: UnixMillis,
) -> Result<Option<Announcement>, LeaveError> {
    let mut bumped = bump(db, network, at).await?.ok_or(LeaveError::NotAMember)?;
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
    events::happened(db, events::member(EventKind::MemberLeft, network, client, at)).await?;
    invites::revoke_all_of(db, network, client).await?;
    secrets::want(db, network, &mut bumped, Wanted::Soon).await?;
    let heir: Option<Vec<u8>> = sqlx::query_scalar::<Db, _>(
        "SELECT client FROM members WHERE network = $1 AND NOT gone
         ORDER BY role DESC, joined_ms, revision, client LIMIT 1",
    )
    .bind(network.as_bytes().to_vec())
    .fetch_optional(&mut *db)
    .await?;
    let Some(heir) = heir else {
        events::happened(db, events::event(EventKind::NetworkDeleted, at).network(network)).await?;
        erase(db, network).await?;
        return Ok(None);
    };
    if bumped.owner == client {
        let heir = values::client(&heir)?;
        set_owner(db, network, heir).await?;
        sqlx::query("UPDATE members SET revision = $3 WHERE network = $1 AND client = $2")
            .bind(network.as_bytes().to_vec())
            .bind(heir.as_bytes().to_vec())
            .bind(bumped.revision)
            .execute(&mut *db)
            .await?;
        bumped.owner = heir;
    }
    seating::settle(db, network, &mut bumped, at).await?;
    forget_old_tombstones(db, network).await?;
    Ok(Some(announcement(db, context, network, &bumped).await?))
}

pub(crate) async fn set_owner(db: &mut Connection, network: NetworkId, owner: ClientId) -> Result<(), Error> {
    sqlx::query("UPDATE networks SET owner = $2 WHERE id = $1")
        .bind(network.as_bytes().to_vec())
        .bind(owner.as_bytes().to_vec())
        .execute(db)
        .await?;
    Ok(())
}

/// Removes every trace of the network.
pub(crate) async fn erase(db: &mut Connection, network: NetworkId) -> Result<(), Error> {
    for statement in [
        "DELETE FROM bans WHERE network = $1",
        "DELETE FROM applicants WHERE network = $1",
        "DELETE FROM invites WHERE network = $1",
        "DELETE FROM members WHERE network = $1",
        "DELETE FROM blocks WHERE kind = 3 AND target = $1",
        "DELETE FROM networks WHERE id = $1",
    ] {
        sqlx::query(statement).bind(network.as_bytes().to_vec()).execute(&mut *db).await?;
    }
    Ok(())
}

pub(crate) async fn set_nick(
    db: &mut Connection,
    context: Context,
    client: ClientId,
    nick: Nickname,
    at: UnixMillis,
) -> Result<Vec<Announcement>, Error> {
    let bumped = bump_all(db, client, at).await?;
    let named = sqlx::query("UPDATE clients SET nick = $2, nick_bytes = $3 WHERE id = $1")
        .bind(client.as_bytes().to_vec())
        .bind(nick.as_str())
        .bind(directory::nick_bytes(nick.as_str()))
        .execute(&mut *db)
        .await?;
    if named.rows_affected() == 0 {
        return Err(Error::UnknownClient);
    }
    let mut announcements = Vec::new();
    for (network, bumped) in bumped {
        announcements.push(announcement(db, context, network, &bumped).await?);
    }
    Ok(announcements)
}

/// Raises the revision of every network of `client` and marks the client as changed there, then locks the client. A join
/// between the two would be missed; it holds the client's lock, so whoever has that can look again and will not miss it.
pub(crate) async fn bump_all(
    db: &mut Connection,
    client: ClientId,
    at: UnixMillis,
) -> Result<Vec<(NetworkId, Bumped)>, Error> {
    let mut bumped = Vec::new();
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
            bumped.push((network, row));
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
pub(crate) async fn bump(db: &mut Connection, network: NetworkId, at: UnixMillis) -> Result<Option<Bumped>, Error> {
    let row: Option<NetworkRow> = sqlx::query_as::<Db, _>(
        "UPDATE networks SET revision = revision + 1, changed_ms = $2 WHERE id = $1 AND NOT deleted
         RETURNING revision, name, owner, locked, approval, wrapped_secret, secret_epoch, door_epoch, secret_wanted,
                   kind, routed",
    )
    .bind(network.as_bytes().to_vec())
    .bind(bigint(at.0))
    .fetch_optional(db)
    .await?;
    row.map(Bumped::of).transpose()
}

/// The change that made the revision, for all members.
pub(crate) async fn announcement(
    db: &mut Connection,
    context: Context,
    network: NetworkId,
    bumped: &Bumped,
) -> Result<Announcement, Error> {
    let since = values::revision(bumped.revision - 1)?;
    let members = reading::members(db, context, network, Extent::After(since)).await?;
    let to = reading::member_ids(db, network).await?;
    Ok(Announcement { change: change(db, network, bumped, members).await?, to, seated: bumped.seated.clone() })
}

/// The change that made the revision, of these members.
pub(crate) async fn change(
    db: &mut Connection,
    network: NetworkId,
    bumped: &Bumped,
    members: Vec<Member>,
) -> Result<NetworkChange, Error> {
    let (since, revision) = (values::revision(bumped.revision - 1)?, values::revision(bumped.revision)?);
    let (applicants, lacking) = reading::waiting(db, network, bumped.secret.epoch).await?;
    let (terms, secret) = (NetworkTerms { applicants, ..bumped.terms }, SecretState { lacking, ..bumped.secret });
    let name = bumped.name.clone();
    Ok(NetworkChange { network, name, since, revision, members, left: false, terms, secret })
}

/// Bounds what a network remembers of those who left.
pub(crate) async fn forget_old_tombstones(db: &mut Connection, network: NetworkId) -> Result<(), Error> {
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
