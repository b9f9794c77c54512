//! Who has a seat in a network that has more members than its owner's plan allows.
//!
//! What happens in the network deals its seats out in the same transaction. What changes the plan of owners must not: it may touch
//! many networks, and it holds locks that come after theirs. It marks them, and each is dealt out in a transaction of its own.

use domain::{AccountId, Claim, ClientId, EventKind, NetworkId, SeatsLost, UnixMillis};

use super::{
    backend::{Connection, Db},
    engine::Context,
    events,
    membership::{self, Bumped},
};
use crate::{AccountError, Announcement, Error, OrderError, values};

/// Owners whose networks are marked in one step after a change of their plan.
const OWNERS_PER_STEP: i64 = 200;

/// Networks that are looked at to tell who would lose a seat.
const NETWORKS_COUNTED: i64 = 10_000;

/// Marks the networks that a change of the plan may concern: of owners `c`, those that are full, and those with members who
/// have no seat. A full one counts because a join may be under way that saw the plan before the change.
macro_rules! mark {
    ($whose:literal) => {
        concat!(
            "INSERT INTO reseatings (network, marks)
             SELECT n.id, 1 FROM clients c JOIN networks n ON n.owner = c.id
             WHERE NOT n.deleted AND ",
            $whose,
            " AND ((SELECT COUNT(*) FROM members m WHERE m.network = n.id AND NOT m.gone)
                   >= (SELECT p.members_per_network FROM plans p WHERE p.name = c.plan)
                OR EXISTS (SELECT 1 FROM members m WHERE m.network = n.id AND NOT m.seated AND NOT m.gone))
             ORDER BY n.id
             ON CONFLICT (network) DO UPDATE SET marks = reseatings.marks + 1"
        )
    };
}

/// A member: its id, its role, whether it is kept, since when it is in, whether it sits.
type ClaimRow = (Vec<u8>, i64, bool, i64, bool);

/// The plan of this client is another one.
pub(crate) async fn mark_client(db: &mut Connection, client: ClientId) -> Result<(), Error> {
    sqlx::query(mark!("c.id = $1")).bind(client.as_bytes().to_vec()).execute(db).await?;
    Ok(())
}

/// The plan of all clients of this account is another one.
pub(crate) async fn mark_account(db: &mut Connection, account: AccountId) -> Result<(), Error> {
    sqlx::query(mark!("c.account = $1")).bind(account.as_bytes().to_vec()).execute(db).await?;
    Ok(())
}

/// The plan of this name allows another number of members.
pub(crate) async fn mark_plan(db: &mut Connection, plan: &str) -> Result<(), Error> {
    let begun = "INSERT INTO reseating_plans (plan, after) VALUES ($1, $2) ON CONFLICT (plan) DO UPDATE SET after = $2";
    sqlx::query(begun).bind(plan.to_owned()).bind(Vec::<u8>::new()).execute(db).await?;
    Ok(())
}

/// Whether a plan was changed whose owners' networks are not all marked yet.
pub(crate) async fn is_spreading(db: &mut Connection) -> Result<bool, Error> {
    let plan: Option<String> =
        sqlx::query_scalar::<Db, _>("SELECT plan FROM reseating_plans LIMIT 1").fetch_optional(db).await?;
    Ok(plan.is_some())
}

/// Marks the networks of some more owners who have a plan that was changed.
pub(crate) async fn spread(db: &mut Connection) -> Result<(), Error> {
    let step: Option<(String, Vec<u8>)> = sqlx::query_as::<Db, _>(
        "UPDATE reseating_plans SET after = after WHERE plan = (SELECT MIN(plan) FROM reseating_plans)
         RETURNING plan, after",
    )
    .fetch_optional(&mut *db)
    .await?;
    let Some((plan, after)) = step else { return Ok(()) };
    let owners: Vec<Vec<u8>> =
        sqlx::query_scalar::<Db, _>("SELECT id FROM clients WHERE plan = $1 AND id > $2 ORDER BY id LIMIT $3")
            .bind(plan.clone())
            .bind(after.clone())
            .bind(OWNERS_PER_STEP)
            .fetch_all(&mut *db)
            .await?;
    let Some(last) = owners.into_iter().next_back() else {
        sqlx::query("DELETE FROM reseating_plans WHERE plan = $1").bind(plan).execute(db).await?;
        return Ok(());
    };
    sqlx::query(mark!("c.plan = $1 AND c.id > $2 AND c.id <= $3"))
        .bind(plan.clone())
        .bind(after)
        .bind(last.clone())
        .execute(&mut *db)
        .await?;
    sqlx::query("UPDATE reseating_plans SET after = $2 WHERE plan = $1").bind(plan).bind(last).execute(db).await?;
    Ok(())
}

/// Networks that are marked, by id.
pub(crate) async fn marked(db: &mut Connection, limit: u16) -> Result<Vec<NetworkId>, Error> {
    let ids: Vec<Vec<u8>> = sqlx::query_scalar::<Db, _>("SELECT network FROM reseatings ORDER BY network LIMIT $1")
        .bind(i64::from(limit))
        .fetch_all(db)
        .await?;
    ids.iter().map(|id| values::network(id)).collect()
}

/// Deals out the seats of a network that is marked; `None` when that changes nothing.
pub(crate) async fn reseat(
    db: &mut Connection,
    context: Context,
    network: NetworkId,
    at: UnixMillis,
) -> Result<Option<Announcement>, Error> {
    // The lock without a new revision: for most there is nothing to do.
    let owner: Option<Vec<u8>> = sqlx::query_scalar::<Db, _>(
        "UPDATE networks SET changed_ms = changed_ms WHERE id = $1 AND NOT deleted RETURNING owner",
    )
    .bind(network.as_bytes().to_vec())
    .fetch_optional(&mut *db)
    .await?;
    // Waits for those who mark it, who wait for nobody then: what they changed is seen below, or marked again.
    let unmarked = sqlx::query("DELETE FROM reseatings WHERE network = $1")
        .bind(network.as_bytes().to_vec())
        .execute(&mut *db)
        .await?;
    let Some(owner) = owner.filter(|_| unmarked.rows_affected() > 0) else { return Ok(None) };
    if seats_to_deal(db, network, values::client(&owner)?).await?.is_none() {
        return Ok(None);
    }
    let Some(mut bumped) = membership::bump(db, network, at).await? else { return Ok(None) };
    settle(db, network, &mut bumped, at).await?;
    Ok(Some(membership::announcement(db, context, network, &bumped).await?))
}

/// Deals out the seats of the locked network, after a change of its members or of its owner. Where all have one, and there are
/// enough, that is one look.
pub(crate) async fn settle(
    db: &mut Connection,
    network: NetworkId,
    bumped: &mut Bumped,
    at: UnixMillis,
) -> Result<(), Error> {
    let Some(seats) = seats_to_deal(db, network, bumped.owner).await? else { return Ok(()) };
    let rows: Vec<ClaimRow> = sqlx::query_as::<Db, _>(
        "SELECT client, CASE WHEN client = $2 THEN 2 ELSE role END, kept, joined_ms, seated
         FROM members WHERE network = $1 AND NOT gone",
    )
    .bind(network.as_bytes().to_vec())
    .bind(bumped.owner.as_bytes().to_vec())
    .fetch_all(&mut *db)
    .await?;
    let mut claims = Vec::with_capacity(rows.len());
    let mut before = Vec::with_capacity(rows.len());
    for (client, role, kept, joined, seated) in rows {
        let (client, role, joined) = (values::client(&client)?, values::role(role)?, values::instant(joined)?);
        claims.push(Claim { client, role, kept, joined });
        before.push((client, seated));
    }
    let sitting = domain::seated(&claims, seats);
    for (client, sat) in before {
        let sits = sitting.contains(&client);
        if sits == sat {
            continue;
        }
        sqlx::query("UPDATE members SET seated = $3, revision = $4 WHERE network = $1 AND client = $2")
            .bind(network.as_bytes().to_vec())
            .bind(client.as_bytes().to_vec())
            .bind(sits)
            .bind(bumped.revision)
            .execute(&mut *db)
            .await?;
        let kind = if sits { EventKind::MemberSeated } else { EventKind::MemberUnseated };
        events::happened(db, events::member(kind, network, client, at)).await?;
        if sits {
            bumped.seated.push(client);
        }
    }
    Ok(())
}

/// Marks a member as one that the owner wants to stay, or as one like all others.
pub(crate) async fn keep(
    db: &mut Connection,
    network: NetworkId,
    member: ClientId,
    kept: bool,
    revision: i64,
) -> Result<(), OrderError> {
    let set =
        sqlx::query("UPDATE members SET kept = $3, revision = $4 WHERE network = $1 AND client = $2 AND NOT gone")
            .bind(network.as_bytes().to_vec())
            .bind(member.as_bytes().to_vec())
            .bind(kept)
            .bind(revision)
            .execute(db)
            .await?;
    if set.rows_affected() == 0 { Err(OrderError::MemberUnknown) } else { Ok(()) }
}

/// Whether `client` has a seat; `None` when it is no member.
pub(crate) async fn is_seated(
    db: &mut Connection,
    network: NetworkId,
    client: ClientId,
) -> Result<Option<bool>, Error> {
    let sql = "SELECT seated FROM members WHERE network = $1 AND client = $2 AND NOT gone";
    let seated = sqlx::query_scalar::<Db, bool>(sql)
        .bind(network.as_bytes().to_vec())
        .bind(client.as_bytes().to_vec())
        .fetch_optional(db)
        .await?;
    Ok(seated)
}

/// Who would lose its seat in the networks of owners `c`, if these had so many (`$2`): of each network what it has too many, less
/// those who sit on none already.
macro_rules! lost {
    ($whose:literal) => {
        concat!(
            "SELECT COUNT(*), CAST(COALESCE(SUM(CASE WHEN l.members > 0 THEN 1 ELSE 0 END), 0) AS BIGINT),
                    CAST(COALESCE(SUM(CASE WHEN l.members > 0 THEN l.members ELSE 0 END), 0) AS BIGINT)
             FROM (SELECT (SELECT COUNT(*) FROM members m WHERE m.network = n.id AND NOT m.gone) - $2
                        - (SELECT COUNT(*) FROM members m WHERE m.network = n.id AND NOT m.seated AND NOT m.gone) AS members
                   FROM clients c JOIN networks n ON n.owner = c.id WHERE NOT n.deleted AND ",
            $whose,
            " LIMIT $3) AS l"
        )
    };
}

/// Who would lose a seat if the account had this plan. While it is suspended its plan changes nothing.
pub(crate) async fn lost_by_account(
    db: &mut Connection,
    account: AccountId,
    plan: String,
) -> Result<SeatsLost, AccountError> {
    let seats: Option<i64> = sqlx::query_scalar::<Db, _>("SELECT members_per_network FROM plans WHERE name = $1")
        .bind(plan)
        .fetch_optional(&mut *db)
        .await?;
    let seats = seats.ok_or(AccountError::Plan)?;
    let suspended: Option<bool> = sqlx::query_scalar::<Db, _>("SELECT suspended FROM accounts WHERE id = $1")
        .bind(account.as_bytes().to_vec())
        .fetch_optional(&mut *db)
        .await?;
    if suspended.ok_or(AccountError::Unknown)? {
        return Ok(SeatsLost::default());
    }
    let row: (i64, i64, i64) = sqlx::query_as::<Db, _>(lost!("c.account = $1"))
        .bind(account.as_bytes().to_vec())
        .bind(seats)
        .bind(NETWORKS_COUNTED + 1)
        .fetch_one(db)
        .await?;
    Ok(lost(row)?)
}

/// Who would lose a seat if the plan allowed so many members.
pub(crate) async fn lost_by_plan(db: &mut Connection, plan: String, members: u32) -> Result<SeatsLost, Error> {
    let row: (i64, i64, i64) = sqlx::query_as::<Db, _>(lost!("c.plan = $1"))
        .bind(plan)
        .bind(i64::from(members))
        .bind(NETWORKS_COUNTED + 1)
        .fetch_one(db)
        .await?;
    lost(row)
}

fn lost((looked, networks, members): (i64, i64, i64)) -> Result<SeatsLost, Error> {
    let (networks, members) = (values::count(networks)?, values::count(members)?);
    Ok(SeatsLost { networks, members, more: looked > NETWORKS_COUNTED })
}

/// How many seats the network has, unless all members sit and there are enough.
async fn seats_to_deal(db: &mut Connection, network: NetworkId, owner: ClientId) -> Result<Option<u32>, Error> {
    let (seats, members, unseated): (i64, i64, i64) = sqlx::query_as::<Db, _>(
        "SELECT p.members_per_network,
                (SELECT COUNT(*) FROM members m WHERE m.network = $2 AND NOT m.gone),
                (SELECT COUNT(*) FROM members m WHERE m.network = $2 AND NOT m.seated AND NOT m.gone)
         FROM clients c JOIN plans p ON p.name = c.plan WHERE c.id = $1",
    )
    .bind(owner.as_bytes().to_vec())
    .bind(network.as_bytes().to_vec())
    .fetch_one(db)
    .await?;
    if unseated == 0 && members <= seats { Ok(None) } else { Ok(Some(values::count(seats)?)) }
}
