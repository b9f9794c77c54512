//! `/v1/audit`: who asked for what, and what became of it. `/export` gives all of it, `/verify` checks the chain.

use actix_web::http::{Method, StatusCode};
use domain::{ApiScope, UnixMillis};
use futures_util::future::BoxFuture;
use serde::Serialize;
use serde_json::Value;
use store::{AuditEntry, AuditFilter};
use utoipa::ToSchema;

use crate::{
    asked::Asked,
    error::Problem,
    operation::{Answer, Content, Done, Lines, Operation},
    page::{self, Page},
    parameter::{Kind, Parameter},
};

/// Entries that are read at once.
const AT_ONCE: u16 = 500;

/// Entries that one request checks.
const CHECKED_AT_ONCE: usize = 5_000;

/// An entry of the audit log.
#[derive(Serialize, ToSchema)]
struct Entry {
    /// 1 for the first one, without gaps.
    sequence: u64,
    #[schema(value_type = u64)]
    at_ms: UnixMillis,
    /// The token, or `root`.
    who: String,
    /// The operation.
    action: String,
    /// The path that it was about.
    object: String,
    request_id: String,
    /// Of what was asked: `null`. Of what became of it: the entry of what was asked.
    asked: Option<u64>,
    /// Of what became of it.
    status: Option<u16>,
    /// What was there before; of what was asked, the parameters.
    before: Option<Value>,
    /// What was there after; of what was asked, the document.
    after: Option<Value>,
    /// The digest of the entry before, in hexadecimal digits; empty for the first one.
    previous: String,
    /// SHA-256 over `previous` and everything else.
    digest: String,
}

/// How the chain was found.
#[derive(Serialize, ToSchema)]
struct Verified {
    /// Whether every entry that was looked at is what was written, and follows the one before it.
    intact: bool,
    /// Entries that were looked at.
    checked: u64,
    /// The first entry that is not as it must be.
    broken_at: Option<u64>,
    /// The last entry that was looked at, and its digest. Keep them elsewhere, to notice a log that was cut.
    sequence: u64,
    digest: String,
    /// There are more entries: give `sequence` as `after`, and `digest`.
    more: bool,
}

impl From<AuditEntry> for Entry {
    fn from(entry: AuditEntry) -> Self {
        let document = |text: &str| serde_json::from_str(text).ok();
        Self {
            sequence: entry.sequence,
            at_ms: entry.entry.at,
            request_id: entry.entry.request,
            asked: entry.entry.asked,
            status: entry.entry.status,
            before: document(&entry.entry.before),
            after: document(&entry.entry.after),
            who: entry.entry.who,
            action: entry.entry.action,
            object: entry.entry.object,
            previous: hex(&entry.previous),
            digest: hex(&entry.digest),
        }
    }
}

pub(super) fn operations() -> Vec<Operation> {
    let filters = [
        Parameter::new("who", Kind::Text, "Only what this token asked for; or `root`."),
        Parameter::new("action", Kind::Text, "Only this operation, like `tokens_create`."),
        Parameter::new("object", Kind::Text, "Only what was about this path."),
    ];
    vec![
        Operation::new(Method::GET, "/v1/audit", "audit_list", ApiScope::Audit, list)
            .summary("Lists the audit log, newest entries first.")
            .query(page::PARAMETERS)
            .query(filters)
            .gives::<Page<Entry>>(StatusCode::OK),
        Operation::new(Method::GET, "/v1/audit/export", "audit_export", ApiScope::Audit, export)
            .summary("Gives the audit log, oldest entries first, a JSON document a line.")
            .query([Parameter::new("after", Kind::Number, "Only entries after this one.")])
            .streams::<Entry>(),
        Operation::new(Method::GET, "/v1/audit/verify", "audit_verify", ApiScope::Audit, verify)
            .summary("Checks the chain of the audit log.")
            .query([
                Parameter::new("after", Kind::Number, "Begin after this entry."),
                Parameter::new("digest", Kind::Text, "The digest that this entry must have."),
            ])
            .gives::<Verified>(StatusCode::OK),
    ]
}

async fn list(asked: Asked) -> Answer {
    let (limit, before) = asked.page("audit")?;
    let filter =
        AuditFilter { who: asked.query("who")?, action: asked.query("action")?, object: asked.query("object")? };
    let found = asked.state.operations.audit(filter, before, limit + 1).await;
    let found = found.map_err(|error| Problem::of_store(&error))?;
    let more = found.len() > usize::from(limit);
    let items: Vec<Entry> = found.into_iter().take(usize::from(limit)).map(Entry::from).collect();
    Done::document(Page::new("audit", items, more, |entry| entry.sequence))
}

async fn export(asked: Asked) -> Answer {
    let after = asked.query("after")?.unwrap_or(0);
    Ok(Done { content: Content::Lines(lines(asked, after)), ..Done::nothing() })
}

/// Pages of lines from an entry on.
fn lines(asked: Asked, after: u64) -> BoxFuture<'static, Lines> {
    Box::pin(page_of_lines(asked, after))
}

/// When storage fails, the last line is the problem.
async fn page_of_lines(asked: Asked, after: u64) -> Lines {
    let entries = match asked.state.operations.audit_after(after, AT_ONCE).await {
        Ok(entries) => entries,
        Err(error) => return Lines { text: Problem::of_store(&error).text("") + "\n", more: None },
    };
    let last = entries.last().map(|entry| entry.sequence).filter(|_| entries.len() == usize::from(AT_ONCE));
    let mut text = String::new();
    for entry in entries {
        text.push_str(&serde_json::to_string(&Entry::from(entry)).unwrap_or_default());
        text.push('\n');
    }
    Lines { text, more: last.map(|last| lines(asked, last)) }
}

async fn verify(asked: Asked) -> Answer {
    let mut end = match (asked.query::<u64>("after")?.unwrap_or(0), asked.query::<String>("digest")?) {
        (0, None) => (0, Vec::new()),
        (after, Some(digest)) if after > 0 => {
            (after, unhex(&digest).ok_or_else(|| Problem::invalid("digest: 64 hexadecimal digits expected"))?)
        }
        _ => return Err(Problem::invalid("after and digest: both or none")),
    };
    let (mut checked, mut more, mut broken_at) = (0, true, None);
    while more && broken_at.is_none() && checked < CHECKED_AT_ONCE {
        let entries = asked.state.operations.audit_after(end.0, AT_ONCE).await;
        let entries = entries.map_err(|error| Problem::of_store(&error))?;
        more = entries.len() == usize::from(AT_ONCE);
        for entry in entries {
            if !entry.follows(end.0, &end.1) {
                broken_at = Some(end.0 + 1);
                break;
            }
            checked += 1;
            end = (entry.sequence, entry.digest);
        }
    }
    let (sequence, digest) = (end.0, hex(&end.1));
    Done::document(Verified { intact: broken_at.is_none(), checked: checked as u64, broken_at, sequence, digest, more })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    (0..32).map(|nth| u8::from_str_radix(&text[2 * nth..2 * nth + 2], 16).ok()).collect()
}
