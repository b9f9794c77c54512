//! The audit log: what is asked for is written before it is done, and what became of it after it. When the process dies in
//! between, the first entry stays alone, and says that nobody knows.

use serde_json::Value;
use store::NewEntry;

use crate::{
    asked::Asked,
    error::Problem,
    now,
    operation::{Answer, Operation},
};

/// Carries out `operation` between its two entries.
pub(crate) async fn around(operation: &Operation, asked: Asked, object: String, request_id: &str) -> Answer {
    let operations = std::sync::Arc::clone(&asked.state.operations);
    let who = asked.bearer.who.clone();
    let query = if asked.query.is_empty() { Value::Null } else { serde_json::json!(asked.query) };
    let entry = NewEntry {
        at: asked.at,
        who: who.clone(),
        action: operation.id.to_owned(),
        object,
        request: request_id.to_owned(),
        asked: None,
        status: None,
        before: text(&query),
        after: text(&asked.body),
    };
    let first = operations.record(entry.clone()).await.map_err(|error| Problem::of_store(&error))?;
    let answer = operation.act(asked).await;
    let (status, before, after) = match &answer {
        Ok(done) => (operation.success, done.before.clone(), done.after.clone()),
        Err(problem) => (problem.status(), None, None),
    };
    let outcome = NewEntry {
        at: now(),
        asked: Some(first.sequence),
        status: Some(status.as_u16()),
        before: before.as_ref().map_or_else(String::new, text),
        after: after.as_ref().map_or_else(String::new, text),
        ..entry
    };
    let status = status.as_u16();
    tracing::info!(who, action = operation.id, request = request_id, status, "an operator asked for something");
    if let Err(error) = operations.record(outcome).await {
        telemetry::incident::log("writing an outcome to the audit log", &error);
    }
    answer
}

/// A document as the log keeps it; nothing for nothing.
fn text(value: &Value) -> String {
    if value.is_null() { String::new() } else { value.to_string() }
}
