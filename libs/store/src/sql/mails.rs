//! The outbox of mails.

use std::time::Duration;

use domain::{EmailAddress, UnixMillis};

use super::backend::{Connection, Db};
use crate::{
    Error, Mail, MailKind,
    values::{self, bigint},
};

/// Id, kind, recipient, nonce, tries.
type MailRow = (Vec<u8>, i64, String, Vec<u8>, i64);

pub(crate) async fn put(
    db: &mut Connection,
    kind: MailKind,
    recipient: &EmailAddress,
    nonce: [u8; 16],
    at: UnixMillis,
) -> Result<(), Error> {
    sqlx::query("INSERT INTO account_mails (id, kind, recipient, nonce, tries, due_ms) VALUES ($1, $2, $3, $4, 0, $5)")
        .bind(rand::random::<[u8; 16]>().to_vec())
        .bind(kind as i64)
        .bind(recipient.as_str().to_owned())
        .bind(nonce.to_vec())
        .bind(bigint(at.0))
        .execute(db)
        .await?;
    Ok(())
}

/// The mail that is due for the longest. Two takers may choose the same one: the second finds that it is not due any more.
pub(crate) async fn take(db: &mut Connection, lease: Duration, at: UnixMillis) -> Result<Option<Mail>, Error> {
    let row: Option<MailRow> = sqlx::query_as::<Db, _>(
        "UPDATE account_mails SET due_ms = $2, tries = tries + 1
         WHERE id = (SELECT id FROM account_mails WHERE due_ms <= $1 ORDER BY due_ms, id LIMIT 1) AND due_ms <= $1
         RETURNING id, kind, recipient, nonce, tries",
    )
    .bind(bigint(at.0))
    .bind(bigint(at.plus(lease).0))
    .fetch_optional(db)
    .await?;
    row.map(|(id, kind, recipient, nonce, tries)| {
        let broken = Error::Corrupt { what: "mail" };
        let kind = MailKind::ALL.into_iter().find(|known| *known as i64 == kind);
        match (<[u8; 16]>::try_from(id), <[u8; 16]>::try_from(nonce), kind) {
            (Ok(id), Ok(nonce), Some(kind)) => {
                Ok(Mail { id, kind, recipient: values::email(&recipient)?, nonce, tries: values::count(tries)? })
            }
            _ => Err(broken),
        }
    })
    .transpose()
}

pub(crate) async fn forget(db: &mut Connection, mail: [u8; 16]) -> Result<(), Error> {
    sqlx::query("DELETE FROM account_mails WHERE id = $1").bind(mail.to_vec()).execute(db).await?;
    Ok(())
}

pub(crate) async fn postpone(db: &mut Connection, mail: [u8; 16], due: UnixMillis) -> Result<(), Error> {
    sqlx::query("UPDATE account_mails SET due_ms = $2 WHERE id = $1")
        .bind(mail.to_vec())
        .bind(bigint(due.0))
        .execute(db)
        .await?;
    Ok(())
}
