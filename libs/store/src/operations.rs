//! What the admin role alone owns: tokens of the API, the audit log, and answers that are given again.

use std::time::Duration;

use async_trait::async_trait;
use domain::{ApiScopes, TokenId, UnixMillis};
use ring::digest::{Context, SHA256};

use crate::Error;

/// Tokens that are neither revoked nor expired, at most.
pub const MAX_TOKENS: u32 = 1_000;

/// For how long an answer is given again to a request that is repeated.
pub const REPEATABLE: Duration = Duration::from_secs(24 * 3600);

/// The face of the store for the admin role.
#[async_trait]
pub trait Operations: Send + Sync {
    /// Keeps a token that was drawn.
    async fn make_token(&self, token: NewToken, at: UnixMillis) -> Result<Token, MakeTokenError>;

    /// The token with this digest, if it may be used now. Notes about once a minute that it was.
    async fn bearer(&self, digest: [u8; 32], at: UnixMillis) -> Result<Option<Token>, Error>;

    async fn token(&self, id: TokenId) -> Result<Option<Token>, Error>;

    /// A page of tokens by id, those that are of no use any more included.
    async fn tokens(&self, after: Option<TokenId>, limit: u16) -> Result<Vec<Token>, Error>;

    /// Ends a token. It stays revoked since the first time. `None` when there is none.
    async fn revoke_token(&self, id: TokenId, at: UnixMillis) -> Result<Option<Token>, Error>;

    /// Appends to the audit log. Entries are written one after the other, under one lock.
    async fn record(&self, entry: NewEntry) -> Result<AuditEntry, Error>;

    /// A page of the audit log, newest first, of entries before `before`.
    async fn audit(&self, wanted: AuditFilter, before: Option<u64>, limit: u16) -> Result<Vec<AuditEntry>, Error>;

    /// A page of the whole audit log, oldest first, of entries after `after`.
    async fn audit_after(&self, after: u64, limit: u16) -> Result<Vec<AuditEntry>, Error>;

    /// Claims a request: it is done once by whoever is told [`Claim::Fresh`]. Forgets answers whose time is over.
    async fn claim(&self, request: RepeatableRequest, at: UnixMillis) -> Result<Claim, Error>;

    /// Keeps the answer to a claimed request.
    async fn answered(&self, who: &str, key: &str, status: u16, answer: Vec<u8>) -> Result<(), Error>;

    /// Gives a claim back: nothing was done, or doing it again does no harm.
    async fn unclaim(&self, who: &str, key: &str) -> Result<(), Error>;
}

/// A token to be kept.
#[derive(Clone, PartialEq, Eq)]
pub struct NewToken {
    pub id: TokenId,
    /// SHA-256 of the token.
    pub digest: [u8; 32],
    pub name: String,
    pub scopes: ApiScopes,
    pub maker: String,
    pub expires: UnixMillis,
}

impl std::fmt::Debug for NewToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewToken").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What may be shown of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub id: TokenId,
    pub name: String,
    pub scopes: ApiScopes,
    pub maker: String,
    pub made: UnixMillis,
    pub expires: UnixMillis,
    pub used: Option<UnixMillis>,
    pub revoked: Option<UnixMillis>,
}

/// Why a token was not made.
#[derive(Debug, thiserror::Error)]
pub enum MakeTokenError {
    #[error("there are {limit} tokens already")]
    LimitReached { limit: u32 },
    #[error("storage failed")]
    Store(#[from] Error),
}

/// What the audit log is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEntry {
    pub at: UnixMillis,
    /// The token, or `root`.
    pub who: String,
    /// The operation of the API.
    pub action: String,
    /// The path it was about.
    pub object: String,
    /// The request's id, which logs and answers have, too.
    pub request: String,
    /// The entry that says what was asked for; `None` in that entry itself.
    pub asked: Option<u64>,
    /// HTTP status of what became of it.
    pub status: Option<u16>,
    /// A JSON document of what was there before, or empty.
    pub before: String,
    /// A JSON document: what was asked for, or what is there now; or empty.
    pub after: String,
}

/// An entry of the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// 1 for the first one, without gaps.
    pub sequence: u64,
    /// The digest of the entry before it; empty for the first one.
    pub previous: Vec<u8>,
    pub digest: Vec<u8>,
    pub entry: NewEntry,
}

impl AuditEntry {
    /// What the digest must be: SHA-256 over a label, the sequence number, the digest before it, and every field with its
    /// length, so that no two entries have the same encoding.
    #[must_use]
    pub fn computed(sequence: u64, previous: &[u8], entry: &NewEntry) -> Vec<u8> {
        let mut context = Context::new(&SHA256);
        context.update(b"buri audit v1");
        let numbers = [sequence, entry.at.0, entry.asked.unwrap_or(0), entry.status.unwrap_or(0).into()];
        for number in numbers {
            context.update(&number.to_be_bytes());
        }
        let texts = [&entry.who, &entry.action, &entry.object, &entry.request, &entry.before, &entry.after];
        for bytes in std::iter::once(previous).chain(texts.into_iter().map(String::as_bytes)) {
            context.update(&(bytes.len() as u64).to_be_bytes());
            context.update(bytes);
        }
        context.finish().as_ref().to_vec()
    }

    /// Whether this entry is what was written, and follows the one that has `sequence` and `digest`.
    #[must_use]
    pub fn follows(&self, sequence: u64, digest: &[u8]) -> bool {
        self.sequence == sequence + 1
            && self.previous == digest
            && self.digest == Self::computed(self.sequence, &self.previous, &self.entry)
    }
}

/// Which entries are wanted: all that agree with whatever is named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    pub who: Option<String>,
    pub action: Option<String>,
    pub object: Option<String>,
}

/// A request that may be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepeatableRequest {
    pub who: String,
    /// Chosen by who asks.
    pub key: String,
    /// Of everything that makes two requests the same.
    pub digest: [u8; 32],
}

/// What is known of a request that may have been made before.
#[derive(Clone, PartialEq, Eq)]
pub enum Claim {
    /// It was not: do it.
    Fresh,
    /// It was begun, and its answer is not there yet, or never came.
    Unanswered { since: UnixMillis },
    /// It was answered.
    Answered { status: u16, answer: Vec<u8> },
    /// The key was used for another request.
    Other,
}

impl std::fmt::Debug for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Fresh => "Fresh",
            Self::Unanswered { .. } => "Unanswered",
            Self::Answered { .. } => "Answered",
            Self::Other => "Other",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_an_entry_never_changes() {
        let digest = AuditEntry::computed(1, &[], &entry());
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN);
    }

    #[test]
    fn every_field_is_bound() {
        let whole = AuditEntry::computed(2, &[7; 32], &entry());
        let changes: [fn(&mut NewEntry); 9] = [
            |entry| entry.at = UnixMillis(8),
            |entry| entry.who.push('x'),
            |entry| entry.action.push('x'),
            |entry| entry.object.push('x'),
            |entry| entry.request.push('x'),
            |entry| entry.asked = Some(2),
            |entry| entry.status = Some(201),
            |entry| entry.before.push('x'),
            |entry| entry.after.push('x'),
        ];
        for change in changes {
            let mut other = entry();
            change(&mut other);
            assert_ne!(AuditEntry::computed(2, &[7; 32], &other), whole, "{other:?}");
        }
        assert_ne!(AuditEntry::computed(3, &[7; 32], &entry()), whole);
        assert_ne!(AuditEntry::computed(2, &[8; 32], &entry()), whole);
        let moved = NewEntry { who: "root1".into(), action: "networks_lock".into(), ..entry() };
        let back = NewEntry { who: "root".into(), action: "1networks_lock".into(), ..entry() };
        assert_ne!(AuditEntry::computed(1, &[], &moved), AuditEntry::computed(1, &[], &back));
    }

    fn entry() -> NewEntry {
        NewEntry {
            at: UnixMillis(7),
            who: "root".into(),
            action: "networks_lock".into(),
            object: "/v1/networks/00".into(),
            request: "r".into(),
            asked: Some(1),
            status: Some(200),
            before: "{}".into(),
            after: "{\"locked\":true}".into(),
        }
    }

    /// Computed once; another value makes every log that was kept look forged.
    const GOLDEN: &str = "fa59d978b51e376c7fd449098e210856610d71fe77cdcb09f696fb35a01b1257";
}
