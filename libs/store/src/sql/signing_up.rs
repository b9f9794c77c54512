//! How people come to be, prove themselves, and log in.

use domain::{AccountId, EmailAddress, EventKind, PersonId, TokenHash, UnixMillis};

use super::{
    backend::{Connection, Db},
    events, mails,
};
use crate::{
    Credentials, Error, Fresh, MAX_SESSIONS, MailKind, NewSession, PasswordHash, Sessions,
    values::{self, bigint},
};

/// What `account_tokens.kind` holds.
pub(crate) const SIGN_UP: i64 = 0;
pub(crate) const RESET: i64 = 1;
pub(crate) const INVITATION: i64 = 2;
pub(crate) const CODE: i64 = 3;
pub(crate) const PROVIDER: i64 = 4;

/// Ids for a person and an account that may be made.
pub(crate) type Drawn = (PersonId, AccountId);

pub(crate) fn draw() -> Drawn {
    (PersonId::from_bytes(rand::random()), AccountId::from_bytes(rand::random()))
}

/// Keeps a sign-up. A later one of the same address stands beside it: each is worth what its own token and password are.
pub(crate) async fn ask(
    db: &mut Connection,
    email: EmailAddress,
    password: PasswordHash,
    fresh: Fresh,
    at: UnixMillis,
) -> Result<(), Error> {
    if person_with(db, &email).await?.is_some() {
        return mails::put(db, MailKind::Known, &email, fresh.nonce, at).await;
    }
    sqlx::query(
        "INSERT INTO account_tokens (hash, kind, email, password, expires_ms) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT DO NOTHING",
    )
    .bind(fresh.token.as_bytes().to_vec())
    .bind(SIGN_UP)
    .bind(email.as_str().to_owned())
    .bind(password.0)
    .bind(bigint(fresh.expires.0))
    .execute(&mut *db)
    .await?;
    mails::put(db, MailKind::SignUp, &email, fresh.nonce, at).await
}

pub(crate) async fn password(
    db: &mut Connection,
    token: TokenHash,
    at: UnixMillis,
) -> Result<Option<PasswordHash>, Error> {
    let password: Option<Option<String>> = sqlx::query_scalar::<Db, _>(
        "SELECT password FROM account_tokens WHERE hash = $1 AND kind = $2 AND expires_ms > $3",
    )
    .bind(token.as_bytes().to_vec())
    .bind(SIGN_UP)
    .bind(bigint(at.0))
    .fetch_optional(db)
    .await?;
    Ok(password.flatten().map(PasswordHash))
}

pub(crate) async fn confirm(
    db: &mut Connection,
    token: TokenHash,
    drawn: Drawn,
    plan: String,
    session: NewSession,
    at: UnixMillis,
) -> Result<Option<PersonId>, Error> {
    let used: Option<(String, String)> = sqlx::query_as::<Db, _>(
        "DELETE FROM account_tokens WHERE hash = $1 AND kind = $2 AND expires_ms > $3 RETURNING email, password",
    )
    .bind(token.as_bytes().to_vec())
    .bind(SIGN_UP)
    .bind(bigint(at.0))
    .fetch_optional(&mut *db)
    .await?;
    let Some((email, password)) = used else { return Ok(None) };
    let email = values::email(&email)?;
    let who = New { email: &email, password: Some(password), vouched: None };
    if !make_person(db, drawn, who, plan, at).await? {
        return Ok(None);
    }
    open_session(db, drawn.0, session, at).await?;
    Ok(Some(drawn.0))
}

/// A person to be made.
pub(crate) struct New<'a> {
    pub(crate) email: &'a EmailAddress,
    pub(crate) password: Option<String>,
    /// Issuer and subject.
    pub(crate) vouched: Option<(String, String)>,
}

/// Makes a person and its account; `false` when somebody has the address or the provider's subject. Other sign-ups with the
/// address are void from then on.
pub(crate) async fn make_person(
    db: &mut Connection,
    (person, account): Drawn,
    new: New<'_>,
    plan: String,
    at: UnixMillis,
) -> Result<bool, Error> {
    let (issuer, subject) = new.vouched.unzip();
    let made = sqlx::query(
        "INSERT INTO people (id, email, password, issuer, subject, made_ms) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT DO NOTHING",
    )
    .bind(person.as_bytes().to_vec())
    .bind(new.email.as_str().to_owned())
    .bind(new.password)
    .bind(issuer)
    .bind(subject)
    .bind(bigint(at.0))
    .execute(&mut *db)
    .await?;
    if made.rows_affected() == 0 {
        return Ok(false);
    }
    sqlx::query("DELETE FROM account_tokens WHERE email = $1 AND kind = $2")
        .bind(new.email.as_str().to_owned())
        .bind(SIGN_UP)
        .execute(&mut *db)
        .await?;
    make_account(db, person, account, plan, at).await?;
    Ok(true)
}

/// Makes an account that belongs to `person`.
pub(crate) async fn make_account(
    db: &mut Connection,
    person: PersonId,
    account: AccountId,
    plan: String,
    at: UnixMillis,
) -> Result<(), Error> {
    sqlx::query("INSERT INTO accounts (id, plan, suspended, revision, made_ms) VALUES ($1, $2, FALSE, 1, $3)")
        .bind(account.as_bytes().to_vec())
        .bind(plan)
        .bind(bigint(at.0))
        .execute(&mut *db)
        .await?;
    sqlx::query("INSERT INTO account_people (account, person, role, since_ms) VALUES ($1, $2, 2, $3)")
        .bind(account.as_bytes().to_vec())
        .bind(person.as_bytes().to_vec())
        .bind(bigint(at.0))
        .execute(&mut *db)
        .await?;
    events::happened(db, events::event(EventKind::AccountCreated, at).account(account)).await
}

pub(crate) async fn credentials(db: &mut Connection, email: EmailAddress) -> Result<Option<Credentials>, Error> {
    let row: Option<(Vec<u8>, Option<String>)> =
        sqlx::query_as::<Db, _>("SELECT id, password FROM people WHERE email = $1")
            .bind(email.as_str().to_owned())
            .fetch_optional(db)
            .await?;
    row.map(|(person, password)| {
        Ok(Credentials { person: values::person(&person)?, password: password.map(PasswordHash) })
    })
    .transpose()
}

pub(crate) async fn person_with(db: &mut Connection, email: &EmailAddress) -> Result<Option<PersonId>, Error> {
    let person: Option<Vec<u8>> = sqlx::query_scalar::<Db, _>("SELECT id FROM people WHERE email = $1")
        .bind(email.as_str().to_owned())
        .fetch_optional(db)
        .await?;
    person.map(|person| values::person(&person)).transpose()
}

pub(crate) async fn open_session(
    db: &mut Connection,
    person: PersonId,
    session: NewSession,
    at: UnixMillis,
) -> Result<(), Error> {
    sqlx::query("DELETE FROM account_sessions WHERE person = $1 AND expires_ms <= $2")
        .bind(person.as_bytes().to_vec())
        .bind(bigint(at.0))
        .execute(&mut *db)
        .await?;
    sqlx::query(
        "DELETE FROM account_sessions WHERE person = $1 AND hash NOT IN
         (SELECT hash FROM account_sessions WHERE person = $1 ORDER BY made_ms DESC, hash LIMIT $2)",
    )
    .bind(person.as_bytes().to_vec())
    .bind(MAX_SESSIONS - 1)
    .execute(&mut *db)
    .await?;
    sqlx::query("INSERT INTO account_sessions (hash, person, made_ms, expires_ms) VALUES ($1, $2, $3, $4)")
        .bind(session.token.as_bytes().to_vec())
        .bind(person.as_bytes().to_vec())
        .bind(bigint(at.0))
        .bind(bigint(session.expires.0))
        .execute(db)
        .await?;
    Ok(())
}

pub(crate) async fn end_sessions(db: &mut Connection, which: Sessions) -> Result<u64, Error> {
    let (sql, key) = match which {
        Sessions::One(token) => ("DELETE FROM account_sessions WHERE hash = $1", token.as_bytes().to_vec()),
        Sessions::AllOf(person) => ("DELETE FROM account_sessions WHERE person = $1", person.as_bytes().to_vec()),
    };
    Ok(sqlx::query(sql).bind(key).execute(db).await?.rows_affected())
}

/// Sets the password; sessions but `kept` end, tokens for another one are void.
pub(crate) async fn set_password(
    db: &mut Connection,
    person: PersonId,
    password: PasswordHash,
    kept: Option<TokenHash>,
) -> Result<(), Error> {
    sqlx::query("UPDATE people SET password = $2 WHERE id = $1")
        .bind(person.as_bytes().to_vec())
        .bind(password.0)
        .execute(&mut *db)
        .await?;
    sqlx::query("DELETE FROM account_tokens WHERE person = $1 AND kind = $2")
        .bind(person.as_bytes().to_vec())
        .bind(RESET)
        .execute(&mut *db)
        .await?;
    sqlx::query("DELETE FROM account_sessions WHERE person = $1 AND hash <> $2")
        .bind(person.as_bytes().to_vec())
        .bind(kept.map_or_else(Vec::new, |kept| kept.as_bytes().to_vec()))
        .execute(db)
        .await?;
    Ok(())
}

pub(crate) async fn ask_reset(
    db: &mut Connection,
    email: EmailAddress,
    fresh: Fresh,
    at: UnixMillis,
) -> Result<(), Error> {
    let Some(person) = person_with(db, &email).await? else { return Ok(()) };
    sqlx::query(
        "INSERT INTO account_tokens (hash, kind, person, expires_ms) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
    )
    .bind(fresh.token.as_bytes().to_vec())
    .bind(RESET)
    .bind(person.as_bytes().to_vec())
    .bind(bigint(fresh.expires.0))
    .execute(&mut *db)
    .await?;
    mails::put(db, MailKind::Reset, &email, fresh.nonce, at).await
}

pub(crate) async fn reset(
    db: &mut Connection,
    token: TokenHash,
    password: PasswordHash,
    at: UnixMillis,
) -> Result<bool, Error> {
    let used: Option<Vec<u8>> = sqlx::query_scalar::<Db, _>(
        "DELETE FROM account_tokens WHERE hash = $1 AND kind = $2 AND expires_ms > $3 RETURNING person",
    )
    .bind(token.as_bytes().to_vec())
    .bind(RESET)
    .bind(bigint(at.0))
    .fetch_optional(&mut *db)
    .await?;
    let Some(person) = used else { return Ok(false) };
    let person = values::person(&person)?;
    set_password(db, person, password, None).await?;
    let email: String = sqlx::query_scalar::<Db, _>("SELECT email FROM people WHERE id = $1")
        .bind(person.as_bytes().to_vec())
        .fetch_one(&mut *db)
        .await?;
    mails::put(db, MailKind::Changed, &values::email(&email)?, [0; 16], at).await?;
    Ok(true)
}

pub(crate) async fn prune(db: &mut Connection, at: UnixMillis) -> Result<u64, Error> {
    let mut pruned = 0;
    for statement in
        ["DELETE FROM account_tokens WHERE expires_ms <= $1", "DELETE FROM account_sessions WHERE expires_ms <= $1"]
    {
        pruned += sqlx::query(statement).bind(bigint(at.0)).execute(&mut *db).await?.rows_affected();
    }
    Ok(pruned)
}
