//! Writes to accounts. Each begins with [`bump`].

use domain::{
    AccountAction, AccountId, AccountOrder, ClientId, EmailAddress, EventKind, MAX_ACCOUNT_PEOPLE, NetworkId, PersonId,
    Role, TokenHash, UnixMillis, may_in_account,
};

use super::{
    account_views::{self, role},
    backend::{Connection, Db},
    blocks, events, mails, quota, seating,
    signing_up::{self, CODE, INVITATION, SIGN_UP},
};
use crate::{
    AccountError, Actor, AttachError, Attachment, Error, Fresh, MailKind, Standing,
    values::{self, bigint, role_number},
};

/// Codes of one account at once; the oldest go.
const CODES: i64 = 16;

/// An account that is locked until the transaction ends.
struct Bumped {
    plan: String,
    suspended: bool,
}

/// Raises the revision and thereby locks the account; `None` when there is no such account.
async fn bump(db: &mut Connection, account: AccountId) -> Result<Option<Bumped>, Error> {
    let row: Option<(String, bool)> =
        sqlx::query_as::<Db, _>("UPDATE accounts SET revision = revision + 1 WHERE id = $1 RETURNING plan, suspended")
            .bind(account.as_bytes().to_vec())
            .fetch_optional(db)
            .await?;
    Ok(row.map(|(plan, suspended)| Bumped { plan, suspended }))
}

pub(crate) async fn carry_out(
    db: &mut Connection,
    actor: PersonId,
    account: AccountId,
    order: AccountOrder,
    fresh: Fresh,
    default_plan: String,
    at: UnixMillis,
) -> Result<(), AccountError> {
    let bumped = bump(db, account).await?.ok_or(AccountError::Unknown)?;
    let own = role(db, account, actor).await?.ok_or(AccountError::Unknown)?;
    let target = match (&order, order.target()) {
        (AccountOrder::Invite { role, .. }, _) => Some(*role),
        (_, Some(person)) => Some(role(db, account, person).await?.ok_or(AccountError::TargetUnknown)?),
        (_, None) => None,
    };
    if !may_in_account(own, order.action(), target) {
        return Err(AccountError::NotPermitted);
    }
    if bumped.suspended {
        return Err(AccountError::Suspended);
    }
    match order {
        AccountOrder::Invite { email, role } => invite(db, account, email, role, fresh, at).await,
        AccountOrder::Uninvite(email) => uninvite(db, account, &email).await,
        AccountOrder::Remove(person) => remove(db, account, person, default_plan, at).await,
        AccountOrder::Leave => remove(db, account, actor, default_plan, at).await,
        AccountOrder::SetRole { role: Role::Owner, .. } => Err(AccountError::Invalid),
        AccountOrder::SetRole { person, role } => Ok(set_role(db, account, person, role).await?),
        AccountOrder::Transfer(heir) => Ok(hand_over(db, account, heir).await?),
        AccountOrder::MakeCode => make_code(db, account, actor, fresh, at).await,
        AccountOrder::DetachClient(client) => {
            check_unblocked(db, account, at).await?;
            detach_client(db, account, client, default_plan).await
        }
        AccountOrder::AttachNetwork(network) => attach_network(db, account, network).await,
        AccountOrder::DetachNetwork(network) => detach_network(db, account, network).await,
    }
}

async fn invite(
    db: &mut Connection,
    account: AccountId,
    email: EmailAddress,
    role: Role,
    fresh: Fresh,
    at: UnixMillis,
) -> Result<(), AccountError> {
    // An invitation that is made again takes the place of the old one.
    sqlx::query("DELETE FROM account_tokens WHERE account = $1 AND kind = $2 AND (email = $3 OR expires_ms <= $4)")
        .bind(account.as_bytes().to_vec())
        .bind(INVITATION)
        .bind(email.as_str().to_owned())
        .bind(bigint(at.0))
        .execute(&mut *db)
        .await?;
    sqlx::query(
        "INSERT INTO account_tokens (hash, kind, email, account, role, expires_ms) VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(fresh.token.as_bytes().to_vec())
    .bind(INVITATION)
    .bind(email.as_str().to_owned())
    .bind(account.as_bytes().to_vec())
    .bind(role_number(role))
    .bind(bigint(fresh.expires.0))
    .execute(&mut *db)
    .await?;
    let people: i64 = sqlx::query_scalar::<Db, _>(
        "SELECT (SELECT COUNT(*) FROM account_people WHERE account = $1)
              + (SELECT COUNT(*) FROM account_tokens WHERE account = $1 AND kind = $2)",
    )
    .bind(account.as_bytes().to_vec())
    .bind(INVITATION)
    .fetch_one(&mut *db)
    .await?;
    if people > i64::from(MAX_ACCOUNT_PEOPLE) {
        return Err(AccountError::LimitReached { limit: MAX_ACCOUNT_PEOPLE });
    }
    Ok(mails::put(db, MailKind::Invitation, &email, fresh.nonce, at).await?)
}

async fn uninvite(db: &mut Connection, account: AccountId, email: &EmailAddress) -> Result<(), AccountError> {
    let gone = sqlx::query("DELETE FROM account_tokens WHERE account = $1 AND kind = $2 AND email = $3")
        .bind(account.as_bytes().to_vec())
        .bind(INVITATION)
        .bind(email.as_str().to_owned())
        .execute(db)
        .await?;
    if gone.rows_affected() == 0 { Err(AccountError::TargetUnknown) } else { Ok(()) }
}

pub(crate) async fn accept(
    db: &mut Connection,
    person: PersonId,
    token: TokenHash,
    at: UnixMillis,
) -> Result<AccountId, AccountError> {
    // Accounts are locked before their tokens.
    let account: Option<Vec<u8>> =
        sqlx::query_scalar::<Db, _>("SELECT account FROM account_tokens WHERE hash = $1 AND kind = $2")
            .bind(token.as_bytes().to_vec())
            .bind(INVITATION)
            .fetch_optional(&mut *db)
            .await?;
    let account = values::account(&account.ok_or(AccountError::Token)?)?;
    bump(db, account).await?.ok_or(AccountError::Token)?;
    let role: Option<i64> = sqlx::query_scalar::<Db, _>(
        "DELETE FROM account_tokens WHERE hash = $1 AND kind = $2 AND expires_ms > $3
         AND email = (SELECT email FROM people WHERE id = $4) RETURNING role",
    )
    .bind(token.as_bytes().to_vec())
    .bind(INVITATION)
    .bind(bigint(at.0))
    .bind(person.as_bytes().to_vec())
    .fetch_optional(&mut *db)
    .await?;
    let role = role.ok_or(AccountError::Token)?;
    sqlx::query(
        "INSERT INTO account_people (account, person, role, since_ms) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
    )
    .bind(account.as_bytes().to_vec())
    .bind(person.as_bytes().to_vec())
    .bind(role)
    .bind(bigint(at.0))
    .execute(db)
    .await?;
    Ok(account)
}

/// Takes `person` out of the account; who is in no other gets an empty one.
async fn remove(
    db: &mut Connection,
    account: AccountId,
    person: PersonId,
    default_plan: String,
    at: UnixMillis,
) -> Result<(), AccountError> {
    sqlx::query("DELETE FROM account_people WHERE account = $1 AND person = $2")
        .bind(account.as_bytes().to_vec())
        .bind(person.as_bytes().to_vec())
        .execute(&mut *db)
        .await?;
    // Codes that the person made must not let its clients in any more.
    sqlx::query("DELETE FROM account_tokens WHERE account = $1 AND person = $2")
        .bind(account.as_bytes().to_vec())
        .bind(person.as_bytes().to_vec())
        .execute(&mut *db)
        .await?;
    if accounts_of(db, person).await? == 0 {
        signing_up::make_account(db, person, signing_up::draw().1, default_plan, at).await?;
    }
    Ok(())
}

async fn accounts_of(db: &mut Connection, person: PersonId) -> Result<i64, Error> {
    Ok(sqlx::query_scalar::<Db, _>("SELECT COUNT(*) FROM account_people WHERE person = $1")
        .bind(person.as_bytes().to_vec())
        .fetch_one(db)
        .await?)
}

async fn set_role(db: &mut Connection, account: AccountId, person: PersonId, role: Role) -> Result<(), Error> {
    sqlx::query("UPDATE account_people SET role = $3 WHERE account = $1 AND person = $2")
        .bind(account.as_bytes().to_vec())
        .bind(person.as_bytes().to_vec())
        .bind(role_number(role))
        .execute(db)
        .await?;
    Ok(())
}

/// Makes `heir` the owner, and who was it an admin.
async fn hand_over(db: &mut Connection, account: AccountId, heir: PersonId) -> Result<(), Error> {
    // In this order there is one owner at most at any moment, as the index demands.
    sqlx::query("UPDATE account_people SET role = $2 WHERE account = $1 AND role = $3")
        .bind(account.as_bytes().to_vec())
        .bind(role_number(Role::Admin))
        .bind(role_number(Role::Owner))
        .execute(&mut *db)
        .await?;
    set_role(db, account, heir, Role::Owner).await
}

pub(crate) async fn transfer(db: &mut Connection, account: AccountId, heir: PersonId) -> Result<(), AccountError> {
    bump(db, account).await?.ok_or(AccountError::Unknown)?;
    role(db, account, heir).await?.ok_or(AccountError::TargetUnknown)?;
    Ok(hand_over(db, account, heir).await?)
}

async fn make_code(
    db: &mut Connection,
    account: AccountId,
    person: PersonId,
    fresh: Fresh,
    at: UnixMillis,
) -> Result<(), AccountError> {
    sqlx::query(
        "DELETE FROM account_tokens WHERE account = $1 AND kind = $2 AND (expires_ms <= $3 OR hash NOT IN
         (SELECT hash FROM account_tokens WHERE account = $1 AND kind = $2 ORDER BY expires_ms DESC, hash LIMIT $4))",
    )
    .bind(account.as_bytes().to_vec())
    .bind(CODE)
    .bind(bigint(at.0))
    .bind(CODES - 1)
    .execute(&mut *db)
    .await?;
    sqlx::query("INSERT INTO account_tokens (hash, kind, person, account, expires_ms) VALUES ($1, $2, $3, $4, $5)")
        .bind(fresh.token.as_bytes().to_vec())
        .bind(CODE)
        .bind(person.as_bytes().to_vec())
        .bind(account.as_bytes().to_vec())
        .bind(bigint(fresh.expires.0))
        .execute(db)
        .await?;
    Ok(())
}

pub(crate) async fn attach(
    db: &mut Connection,
    client: ClientId,
    code: TokenHash,
    at: UnixMillis,
) -> Result<Attachment, AttachError> {
    let account: Option<Vec<u8>> = sqlx::query_scalar::<Db, _>(
        "SELECT account FROM account_tokens WHERE hash = $1 AND kind = $2 AND expires_ms > $3",
    )
    .bind(code.as_bytes().to_vec())
    .bind(CODE)
    .bind(bigint(at.0))
    .fetch_optional(&mut *db)
    .await?;
    let account = values::account(&account.ok_or(AttachError::Code)?)?;
    let bumped = bump(db, account).await?.ok_or(AttachError::Code)?;
    if bumped.suspended {
        return Err(AttachError::Suspended);
    }
    // The account's lock makes the count exact.
    let attached = sqlx::query(
        "UPDATE clients SET account = $1, plan = $3 WHERE id = $2 AND account IS NULL
         AND (SELECT COUNT(*) FROM clients o WHERE o.account = $1)
           < (SELECT p.clients_per_account FROM plans p WHERE p.name = $3)",
    )
    .bind(account.as_bytes().to_vec())
    .bind(client.as_bytes().to_vec())
    .bind(bumped.plan.clone())
    .execute(&mut *db)
    .await?;
    if attached.rows_affected() == 0 {
        return match account_views::attachment(db, client).await? {
            // It is in: a code that is shown again by the same client stays good for another.
            Some(attachment) if attachment.account == account => Ok(attachment),
            Some(_) => Err(AttachError::Elsewhere),
            None => Err(AttachError::Full { limit: seats_for_clients(db, &bumped.plan).await? }),
        };
    }
    quota::move_leases(db, client, Some(account)).await?;
    let used = sqlx::query("DELETE FROM account_tokens WHERE hash = $1")
        .bind(code.as_bytes().to_vec())
        .execute(&mut *db)
        .await?;
    // Somebody else used it between the look and the lock.
    if used.rows_affected() == 0 {
        return Err(AttachError::Code);
    }
    seating::mark_client(db, client).await?;
    Ok(Attachment { account, plan: bumped.plan })
}

async fn seats_for_clients(db: &mut Connection, plan: &str) -> Result<u32, Error> {
    let limit: i64 = sqlx::query_scalar::<Db, _>("SELECT clients_per_account FROM plans WHERE name = $1")
        .bind(plan.to_owned())
        .fetch_one(db)
        .await?;
    values::count(limit)
}

pub(crate) async fn detach(
    db: &mut Connection,
    client: ClientId,
    default_plan: String,
    at: UnixMillis,
) -> Result<bool, AccountError> {
    let Some(Attachment { account, .. }) = account_views::attachment(db, client).await? else { return Ok(false) };
    if bump(db, account).await?.is_none() {
        return Ok(false);
    }
    check_unblocked(db, account, at).await?;
    Ok(release(db, account, Some(client), default_plan).await? > 0)
}

/// While operators hold something against an account nobody takes its clients out of it, or ends it: the block goes with it.
async fn check_unblocked(db: &mut Connection, account: AccountId, at: UnixMillis) -> Result<(), AccountError> {
    if blocks::is_account_blocked(db, account, at).await? { Err(AccountError::Suspended) } else { Ok(()) }
}

pub(crate) async fn detach_from(
    db: &mut Connection,
    account: AccountId,
    client: ClientId,
    default_plan: String,
) -> Result<(), AccountError> {
    bump(db, account).await?.ok_or(AccountError::Unknown)?;
    detach_client(db, account, client, default_plan).await
}

async fn detach_client(
    db: &mut Connection,
    account: AccountId,
    client: ClientId,
    default_plan: String,
) -> Result<(), AccountError> {
    if release(db, account, Some(client), default_plan).await? == 0 {
        return Err(AccountError::TargetUnknown);
    }
    Ok(())
}

/// Makes one or all clients of the account such without one, and their networks with them.
async fn release(
    db: &mut Connection,
    account: AccountId,
    client: Option<ClientId>,
    default_plan: String,
) -> Result<u64, Error> {
    let only = client.map_or_else(Vec::new, |client| client.as_bytes().to_vec());
    let released: Vec<Vec<u8>> = sqlx::query_scalar::<Db, _>(
        "UPDATE clients SET account = NULL, plan = $3 WHERE account = $1 AND (id = $2 OR $4) RETURNING id",
    )
    .bind(account.as_bytes().to_vec())
    .bind(only)
    .bind(default_plan)
    .bind(client.is_none())
    .fetch_all(&mut *db)
    .await?;
    for client in &released {
        quota::move_leases(db, values::client(client)?, None).await?;
    }
    for client in &released {
        seating::mark_client(db, values::client(client)?).await?;
    }
    Ok(released.len() as u64)
}

async fn attach_network(db: &mut Connection, account: AccountId, network: NetworkId) -> Result<(), AccountError> {
    let attached = sqlx::query(
        "UPDATE networks SET account = $1 WHERE id = $2 AND NOT deleted
         AND EXISTS (SELECT 1 FROM clients c WHERE c.id = networks.owner AND c.account = $1)",
    )
    .bind(account.as_bytes().to_vec())
    .bind(network.as_bytes().to_vec())
    .execute(db)
    .await?;
    if attached.rows_affected() == 0 { Err(AccountError::NotOwned) } else { Ok(()) }
}

async fn detach_network(db: &mut Connection, account: AccountId, network: NetworkId) -> Result<(), AccountError> {
    let detached = sqlx::query("UPDATE networks SET account = NULL WHERE id = $2 AND account = $1")
        .bind(account.as_bytes().to_vec())
        .bind(network.as_bytes().to_vec())
        .execute(db)
        .await?;
    if detached.rows_affected() == 0 { Err(AccountError::TargetUnknown) } else { Ok(()) }
}

pub(crate) async fn assign_plan(
    db: &mut Connection,
    account: AccountId,
    plan: String,
    default_plan: String,
) -> Result<(), AccountError> {
    let known: Option<String> = sqlx::query_scalar::<Db, _>("SELECT name FROM plans WHERE name = $1")
        .bind(plan.clone())
        .fetch_optional(&mut *db)
        .await?;
    known.ok_or(AccountError::Plan)?;
    let bumped = bump(db, account).await?.ok_or(AccountError::Unknown)?;
    sqlx::query("UPDATE accounts SET plan = $2 WHERE id = $1")
        .bind(account.as_bytes().to_vec())
        .bind(plan.clone())
        .execute(&mut *db)
        .await?;
    Ok(plan_of_clients(db, account, if bumped.suspended { default_plan } else { plan }).await?)
}

pub(crate) async fn set_standing(
    db: &mut Connection,
    account: AccountId,
    standing: Standing,
    default_plan: String,
    at: UnixMillis,
) -> Result<(), AccountError> {
    let bumped = bump(db, account).await?.ok_or(AccountError::Unknown)?;
    let suspended = standing == Standing::Blocked;
    sqlx::query("UPDATE accounts SET suspended = $2 WHERE id = $1")
        .bind(account.as_bytes().to_vec())
        .bind(suspended)
        .execute(&mut *db)
        .await?;
    if suspended != bumped.suspended {
        let kind = if suspended { EventKind::AccountSuspended } else { EventKind::AccountResumed };
        events::happened(db, events::event(kind, at).account(account)).await?;
    }
    Ok(plan_of_clients(db, account, if suspended { default_plan } else { bumped.plan }).await?)
}

async fn plan_of_clients(db: &mut Connection, account: AccountId, plan: String) -> Result<(), Error> {
    sqlx::query("UPDATE clients SET plan = $2 WHERE account = $1")
        .bind(account.as_bytes().to_vec())
        .bind(plan)
        .execute(&mut *db)
        .await?;
    seating::mark_account(db, account).await
}

pub(crate) async fn erase(
    db: &mut Connection,
    actor: Actor,
    account: AccountId,
    default_plan: String,
    at: UnixMillis,
) -> Result<(), AccountError> {
    bump(db, account).await?.ok_or(AccountError::Unknown)?;
    account_views::check(db, actor, account, AccountAction::Erase).await?;
    if matches!(actor, Actor::Person(_)) {
        check_unblocked(db, account, at).await?;
    }
    release(db, account, None, default_plan).await?;
    for statement in [
        "UPDATE networks SET account = NULL WHERE account = $1",
        "DELETE FROM account_mails WHERE recipient IN (SELECT email FROM account_tokens WHERE account = $1)",
        "DELETE FROM account_tokens WHERE account = $1",
        "DELETE FROM account_usage WHERE account = $1",
        "DELETE FROM blocks WHERE kind = 2 AND target = $1",
    ] {
        sqlx::query(statement).bind(account.as_bytes().to_vec()).execute(&mut *db).await?;
    }
    let people: Vec<Vec<u8>> =
        sqlx::query_scalar::<Db, _>("DELETE FROM account_people WHERE account = $1 RETURNING person")
            .bind(account.as_bytes().to_vec())
            .fetch_all(&mut *db)
            .await?;
    sqlx::query("DELETE FROM accounts WHERE id = $1").bind(account.as_bytes().to_vec()).execute(&mut *db).await?;
    events::happened(db, events::event(EventKind::AccountErased, at).account(account)).await?;
    for person in people {
        let person = values::person(&person)?;
        if accounts_of(db, person).await? == 0 {
            erase_person(db, person).await?;
        }
    }
    Ok(())
}

/// Removes every trace of somebody who is in no account.
async fn erase_person(db: &mut Connection, person: PersonId) -> Result<(), Error> {
    let email: String = sqlx::query_scalar::<Db, _>("SELECT email FROM people WHERE id = $1")
        .bind(person.as_bytes().to_vec())
        .fetch_one(&mut *db)
        .await?;
    sqlx::query("DELETE FROM account_mails WHERE recipient = $1").bind(email.clone()).execute(&mut *db).await?;
    sqlx::query("DELETE FROM account_tokens WHERE email = $1 AND kind = $2")
        .bind(email)
        .bind(SIGN_UP)
        .execute(&mut *db)
        .await?;
    for statement in [
        "DELETE FROM account_tokens WHERE person = $1",
        "DELETE FROM account_sessions WHERE person = $1",
        "DELETE FROM people WHERE id = $1",
    ] {
        sqlx::query(statement).bind(person.as_bytes().to_vec()).execute(&mut *db).await?;
    }
    Ok(())
}
