//! What owners and admins do. The rule who may is `domain::may`; it is asked under the network's lock.

use domain::{
    Action, Admissions, ClientId, EventKind, MAX_APPLICANTS, MAX_BANS, NetworkId, NetworkOrder, Outsider, Role,
    UnixMillis, Wanted, may,
};

use super::{
    addresses,
    backend::{Connection, Db},
    engine::Context,
    events, invites, joining, kinds,
    membership::{self, Bumped},
    reading, routes, seating, secrets,
};
use crate::{
    Announcement, Error, KeyHolder, OrderError,
    values::{self, bigint},
};

/// What `members.role` holds.
const MEMBER: i64 = 0;
const ADMIN: i64 = 1;

/// Carries out `order`, if `client` may.
pub(crate) async fn carry_out(
    db: &mut Connection,
    context: Context,
    network: NetworkId,
    client: ClientId,
    order: NetworkOrder,
    at: UnixMillis,
) -> Result<Announcement, OrderError> {
    let bumped = membership::bump(db, network, at).await?.ok_or(OrderError::NotAMember)?;
    carried_out(db, context, network, bumped, client, order, at).await
}

/// Carries out `order` in a network whose lock the caller has.
pub(crate) async fn carried_out(
    db: &mut Connection,
    context: Context,
    network: NetworkId,
    mut bumped: Bumped,
    client: ClientId,
    order: NetworkOrder,
    at: UnixMillis,
) -> Result<Announcement, OrderError> {
    let actor = role(db, network, &bumped, client).await?.ok_or(OrderError::NotAMember)?;
    let target = match order.target() {
        Some(target) => role(db, network, &bumped, target).await?,
        None => None,
    };
    if !may(actor, order.action(), target) {
        return Err(OrderError::NotPermitted);
    }
    let admitted = if let NetworkOrder::Approve(applicant) = order { Some(applicant) } else { None };
    let reseats =
        matches!(order.action(), Action::Evict | Action::Ban | Action::SetRole | Action::Transfer | Action::Keep);
    match order {
        NetworkOrder::Evict(member) => {
            target.ok_or(OrderError::MemberUnknown)?;
            expel(db, network, member, &mut bumped).await?;
            events::happened(db, events::member(EventKind::MemberRemoved, network, member, at)).await?;
        }
        NetworkOrder::Ban(outlaw) => {
            if ban(db, network, outlaw, at).await? {
                events::happened(db, events::member(EventKind::MemberBanned, network, outlaw, at)).await?;
            }
            remove(db, "DELETE FROM applicants WHERE network = $1 AND client = $2", network, outlaw).await?;
            if target.is_some() {
                expel(db, network, outlaw, &mut bumped).await?;
            }
        }
        NetworkOrder::Unban(outlaw) => {
            let statement = "DELETE FROM bans WHERE network = $1 AND client = $2";
            if remove(db, statement, network, outlaw).await? == 0 {
                return Err(OrderError::MemberUnknown);
            }
            events::happened(db, events::member(EventKind::MemberUnbanned, network, outlaw, at)).await?;
        }
        NetworkOrder::Promote(member) => set_role(db, network, member, ADMIN, bumped.revision).await?,
        NetworkOrder::Demote(member) => {
            set_role(db, network, member, MEMBER, bumped.revision).await?;
            invites::revoke_all_of(db, network, member).await?;
            secrets::unseal(db, network).await?;
        }
        NetworkOrder::Transfer(heir) => {
            set_role(db, network, heir, MEMBER, bumped.revision).await?;
            set_role(db, network, client, ADMIN, bumped.revision).await?;
            membership::set_owner(db, network, heir).await?;
            bumped.owner = heir;
        }
        NetworkOrder::Lock => bumped.terms.locked = true,
        NetworkOrder::Unlock => bumped.terms.locked = false,
        NetworkOrder::AskApproval => bumped.terms.approval = true,
        NetworkOrder::WaiveApproval => bumped.terms.approval = false,
        NetworkOrder::Rename(name) => {
            rename(db, network, &name).await?;
            events::happened(db, events::event(EventKind::NetworkRenamed, at).network(network)).await?;
            bumped.name = name;
        }
        NetworkOrder::Delete => {
            delete(db, network, bumped.revision).await?;
            events::happened(db, events::event(EventKind::NetworkDeleted, at).network(network)).await?;
        }
        NetworkOrder::Approve(applicant) => {
            approve(db, network, applicant, &bumped, at).await?;
            events::happened(db, events::member(EventKind::MemberApproved, network, applicant, at)).await?;
        }
        NetworkOrder::Invite(new) if new.door != bumped.secret.door => return Err(OrderError::SecretPassed),
        NetworkOrder::Invite(new) => invites::make(db, network, client, &new, at).await?,
        NetworkOrder::Hub(member) => kinds::set_hub(db, network, member, kinds::HUB, bumped.revision).await?,
        NetworkOrder::Spoke(member) => kinds::set_hub(db, network, member, kinds::SPOKE, bumped.revision).await?,
        NetworkOrder::SetKind(kind) => {
            bumped.terms.kind = kind;
            kinds::set(db, network, kind, &bumped).await?;
        }
        NetworkOrder::Route(member, prefixes) => {
            routes::set(db, context, network, member, &prefixes, &bumped).await?;
        }
        NetworkOrder::Agree(prefixes) => routes::agree(db, network, client, &prefixes, bumped.revision).await?,
        NetworkOrder::Keep(member) => seating::keep(db, network, member, true, bumped.revision).await?,
        NetworkOrder::Unkeep(member) => seating::keep(db, network, member, false, bumped.revision).await?,
        NetworkOrder::Revoke(invite) => invites::revoke(db, network, invite).await?,
        NetworkOrder::Reject(applicant) => {
            let statement = "DELETE FROM applicants WHERE network = $1 AND client = $2";
            if remove(db, statement, network, applicant).await? == 0 {
                return Err(OrderError::MemberUnknown);
            }
        }
    }
    sqlx::query("UPDATE networks SET locked = $2, approval = $3 WHERE id = $1")
        .bind(network.as_bytes().to_vec())
        .bind(bumped.terms.locked)
        .bind(bumped.terms.approval)
        .execute(&mut *db)
        .await?;
    if reseats {
        seating::settle(db, network, &mut bumped, at).await?;
    }
    membership::forget_old_tombstones(db, network).await?;
    if let Some(client) = admitted {
        addresses::ensure(db, client, context.pool).await?;
    }
    Ok(membership::announcement(db, context, network, &bumped).await?)
}

/// Who waits and who is banned, if `client` may know.
pub(crate) async fn admissions(
    db: &mut Connection,
    network: NetworkId,
    client: ClientId,
    at: UnixMillis,
) -> Result<Admissions, OrderError> {
    let role = reading::role(db, network, client).await?.ok_or(OrderError::NotAMember)?;
    if !may(role, Action::SeeAdmissions, None) {
        return Err(OrderError::NotPermitted);
    }
    Ok(all_admissions(db, network, at).await?)
}

/// Who waits, who is banned, and what invites there are.
pub(crate) async fn all_admissions(
    db: &mut Connection,
    network: NetworkId,
    at: UnixMillis,
) -> Result<Admissions, Error> {
    let applicants = "SELECT a.client, c.nick, a.asked_ms FROM applicants a JOIN clients c ON c.id = a.client
                      WHERE a.network = $1 ORDER BY a.asked_ms, a.client";
    let bans = "SELECT b.client, c.nick, b.banned_ms FROM bans b JOIN clients c ON c.id = b.client
                WHERE b.network = $1 ORDER BY b.banned_ms, b.client";
    Ok(Admissions {
        applicants: outsiders(db, applicants, network).await?,
        bans: outsiders(db, bans, network).await?,
        invites: invites::list(db, network, at).await?,
    })
}

/// What `client` may have to open `network` with.
pub(crate) async fn keys(db: &mut Connection, network: NetworkId, client: ClientId) -> Result<KeyHolder, Error> {
    let wrapped: Option<(Vec<u8>, i64)> = sqlx::query_as::<Db, _>(
        "SELECT n.wrapped_secret, n.door_epoch FROM networks n
         JOIN members m ON m.network = n.id AND m.client = $2 AND NOT m.gone WHERE n.id = $1",
    )
    .bind(network.as_bytes().to_vec())
    .bind(client.as_bytes().to_vec())
    .fetch_optional(&mut *db)
    .await?;
    if let Some((wrapped_secret, door)) = wrapped {
        return Ok(KeyHolder::Member { wrapped_secret, door: values::epoch(door)? });
    }
    let applies =
        count(db, "SELECT COUNT(*) FROM applicants WHERE network = $1 AND client = $2", network, client).await?;
    Ok(if applies > 0 { KeyHolder::Applicant } else { KeyHolder::Stranger })
}

/// Notes that `client` asks to be let in; `false` when no more may wait.
pub(crate) async fn apply(
    db: &mut Connection,
    network: NetworkId,
    client: ClientId,
    at: UnixMillis,
) -> Result<bool, Error> {
    let statement = "INSERT INTO applicants (network, client, asked_ms) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
    let asks = sqlx::query(statement)
        .bind(network.as_bytes().to_vec())
        .bind(client.as_bytes().to_vec())
        .bind(bigint(at.0))
        .execute(&mut *db)
        .await?;
    if asks.rows_affected() == 1 {
        events::happened(db, events::member(EventKind::MemberApplied, network, client, at)).await?;
    }
    Ok(reading::applicants(db, network).await? <= MAX_APPLICANTS)
}

/// The role of `client` in the locked network.
async fn role(
    db: &mut Connection,
    network: NetworkId,
    bumped: &Bumped,
    client: ClientId,
) -> Result<Option<Role>, Error> {
    let role = reading::role(db, network, client).await?;
    Ok(role.map(|role| if bumped.owner == client { Role::Owner } else { role }))
}

/// Makes a member a tombstone, its invites worthless, and what it knows soon old.
async fn expel(db: &mut Connection, network: NetworkId, member: ClientId, bumped: &mut Bumped) -> Result<(), Error> {
    sqlx::query("UPDATE members SET gone = TRUE, revision = $3 WHERE network = $1 AND client = $2 AND NOT gone")
        .bind(network.as_bytes().to_vec())
        .bind(member.as_bytes().to_vec())
        .bind(bumped.revision)
        .execute(&mut *db)
        .await?;
    secrets::want(db, network, bumped, Wanted::Now).await?;
    invites::revoke_all_of(db, network, member).await
}

/// Whether it was not banned before.
async fn ban(db: &mut Connection, network: NetworkId, outlaw: ClientId, at: UnixMillis) -> Result<bool, OrderError> {
    let known: Option<i64> = sqlx::query_scalar::<Db, _>("SELECT seen_ms FROM clients WHERE id = $1")
        .bind(outlaw.as_bytes().to_vec())
        .fetch_optional(&mut *db)
        .await?;
    known.ok_or(OrderError::MemberUnknown)?;
    let statement = "INSERT INTO bans (network, client, banned_ms) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
    let banned = sqlx::query(statement)
        .bind(network.as_bytes().to_vec())
        .bind(outlaw.as_bytes().to_vec())
        .bind(bigint(at.0))
        .execute(&mut *db)
        .await?;
    let bans: i64 = sqlx::query_scalar::<Db, _>("SELECT COUNT(*) FROM bans WHERE network = $1")
        .bind(network.as_bytes().to_vec())
        .fetch_one(&mut *db)
        .await?;
    if bans > i64::from(MAX_BANS) {
        return Err(OrderError::LimitReached { limit: MAX_BANS });
    }
    Ok(banned.rows_affected() == 1)
}

async fn set_role(
    db: &mut Connection,
    network: NetworkId,
    member: ClientId,
    role: i64,
    revision: i64,
) -> Result<(), OrderError> {
    let set =
        sqlx::query("UPDATE members SET role = $3, revision = $4 WHERE network = $1 AND client = $2 AND NOT gone")
            .bind(network.as_bytes().to_vec())
            .bind(member.as_bytes().to_vec())
            .bind(role)
            .bind(revision)
            .execute(db)
            .await?;
    if set.rows_affected() == 0 { Err(OrderError::MemberUnknown) } else { Ok(()) }
}

/// Gives the network another name, unless that belongs to another, or was another's when its password was made.
async fn rename(db: &mut Connection, network: NetworkId, name: &domain::NetworkName) -> Result<(), OrderError> {
    let renamed = sqlx::query(
        "UPDATE networks SET name = $2, name_key = $3, name_bytes = $4 WHERE id = $1
         AND NOT EXISTS (SELECT 1 FROM networks o WHERE o.id <> $1 AND (o.name_key = $3 OR o.credential = $3))",
    )
    .bind(network.as_bytes().to_vec())
    .bind(name.as_str())
    .bind(name.key())
    .bind(name.key().into_bytes())
    .execute(db)
    .await;
    match renamed {
        Ok(renamed) if renamed.rows_affected() == 0 => Err(OrderError::NameTaken),
        Ok(_) => Ok(()),
        // Somebody took it in the same moment.
        Err(sqlx::Error::Database(refused)) if refused.is_unique_violation() => Err(OrderError::NameTaken),
        Err(error) => Err(error.into()),
    }
}

/// Empties the network. Its row stays until the members were told, under a name that nobody can ask for.
async fn delete(db: &mut Connection, network: NetworkId, revision: i64) -> Result<(), Error> {
    for statement in [
        "DELETE FROM applicants WHERE network = $1",
        "DELETE FROM bans WHERE network = $1",
        "DELETE FROM invites WHERE network = $1",
    ] {
        sqlx::query(statement).bind(network.as_bytes().to_vec()).execute(&mut *db).await?;
    }
    sqlx::query("UPDATE members SET gone = TRUE, revision = $2 WHERE network = $1 AND NOT gone")
        .bind(network.as_bytes().to_vec())
        .bind(revision)
        .execute(&mut *db)
        .await?;
    sqlx::query("UPDATE networks SET deleted = TRUE, name_key = $2, credential = $2 WHERE id = $1")
        .bind(network.as_bytes().to_vec())
        .bind(format!("deleted:{network}"))
        .execute(db)
        .await?;
    Ok(())
}

async fn approve(
    db: &mut Connection,
    network: NetworkId,
    applicant: ClientId,
    bumped: &Bumped,
    at: UnixMillis,
) -> Result<(), OrderError> {
    let statement = "DELETE FROM applicants WHERE network = $1 AND client = $2";
    if remove(db, statement, network, applicant).await? == 0 {
        return Err(OrderError::MemberUnknown);
    }
    if let Some(seats) = joining::beyond_seats(db, network, bumped.owner).await? {
        return Err(OrderError::Full { seats });
    }
    if let Some(networks) = joining::beyond_plan(db, applicant, at).await? {
        return Err(OrderError::PlanLimit { networks });
    }
    // No join can be repeated that ended as an application.
    Ok(joining::insert_member(db, network, applicant, rand::random(), bumped.revision, at).await?)
}

/// Runs a deletion by network and client; returns how many rows are gone.
async fn remove(
    db: &mut Connection,
    statement: &'static str,
    network: NetworkId,
    client: ClientId,
) -> Result<u64, Error> {
    let removed =
        sqlx::query(statement).bind(network.as_bytes().to_vec()).bind(client.as_bytes().to_vec()).execute(db).await?;
    Ok(removed.rows_affected())
}

async fn count(db: &mut Connection, query: &'static str, network: NetworkId, client: ClientId) -> Result<i64, Error> {
    Ok(sqlx::query_scalar::<Db, _>(query)
        .bind(network.as_bytes().to_vec())
        .bind(client.as_bytes().to_vec())
        .fetch_one(db)
        .await?)
}

async fn outsiders(db: &mut Connection, query: &'static str, network: NetworkId) -> Result<Vec<Outsider>, Error> {
    let rows: Vec<(Vec<u8>, Option<String>, i64)> =
        sqlx::query_as::<Db, _>(query).bind(network.as_bytes().to_vec()).fetch_all(db).await?;
    rows.into_iter()
        .map(|(client, nick, since)| {
            Ok(Outsider {
                client: values::client(&client)?,
                nick: values::nick(nick.as_deref())?,
                since: values::instant(since)?,
            })
        })
        .collect()
}
