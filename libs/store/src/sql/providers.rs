//! People whom an OpenID provider vouches for.

use domain::{PersonId, TokenHash, UnixMillis};

use super::{
    backend::{Connection, Db},
    signing_up::{self, Drawn, New, PROVIDER},
};
use crate::{
    Error, NewSession, ProviderError, Vouched,
    values::{self, bigint},
};

pub(crate) async fn start(
    db: &mut Connection,
    flow: TokenHash,
    person: Option<PersonId>,
    expires: UnixMillis,
) -> Result<(), Error> {
    sqlx::query("INSERT INTO account_tokens (hash, kind, person, expires_ms) VALUES ($1, $2, $3, $4)")
        .bind(flow.as_bytes().to_vec())
        .bind(PROVIDER)
        .bind(person.map(|person| person.as_bytes().to_vec()))
        .bind(bigint(expires.0))
        .execute(db)
        .await?;
    Ok(())
}

pub(crate) async fn finish(
    db: &mut Connection,
    flow: TokenHash,
    who: Vouched,
    drawn: Drawn,
    plan: String,
    session: NewSession,
    at: UnixMillis,
) -> Result<PersonId, ProviderError> {
    let begun: Option<Option<Vec<u8>>> = sqlx::query_scalar::<Db, _>(
        "DELETE FROM account_tokens WHERE hash = $1 AND kind = $2 AND expires_ms > $3 RETURNING person",
    )
    .bind(flow.as_bytes().to_vec())
    .bind(PROVIDER)
    .bind(bigint(at.0))
    .fetch_optional(&mut *db)
    .await?;
    let connecting = begun.ok_or(ProviderError::Flow)?.map(|person| values::person(&person)).transpose()?;
    let known: Option<Vec<u8>> =
        sqlx::query_scalar::<Db, _>("SELECT id FROM people WHERE issuer = $1 AND subject = $2")
            .bind(who.issuer.clone())
            .bind(who.subject.clone())
            .fetch_optional(&mut *db)
            .await?;
    let known = known.map(|person| values::person(&person)).transpose()?;
    let person = match (known, connecting) {
        (Some(known), Some(person)) if known != person => return Err(ProviderError::Taken),
        (Some(known), _) => known,
        (None, Some(person)) => connect(db, person, &who).await?,
        (None, None) => {
            let new = New { email: &who.email, password: None, vouched: Some((who.issuer, who.subject)) };
            // The address is a person's with a password: only that password connects the two.
            if !signing_up::make_person(db, drawn, new, plan, at).await? {
                return Err(ProviderError::Connect);
            }
            drawn.0
        }
    };
    signing_up::open_session(db, person, session, at).await?;
    Ok(person)
}

async fn connect(db: &mut Connection, person: PersonId, who: &Vouched) -> Result<PersonId, ProviderError> {
    let connected = sqlx::query("UPDATE people SET issuer = $2, subject = $3 WHERE id = $1")
        .bind(person.as_bytes().to_vec())
        .bind(who.issuer.clone())
        .bind(who.subject.clone())
        .execute(db)
        .await;
    match connected {
        Ok(_) => Ok(person),
        Err(sqlx::Error::Database(refused)) if refused.is_unique_violation() => Err(ProviderError::Taken),
        Err(error) => Err(error.into()),
    }
}
