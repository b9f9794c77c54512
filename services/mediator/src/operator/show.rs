//! Answers for people: lists as tables, objects as lines.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// What a row is told by comes first.
const FIRST: [&str; 15] = [
    "block", "sequence", "webhook", "kind", "target", "degree", "client", "network", "relay", "token", "invite",
    "payer", "name", "nick", "role",
];

/// What is too long for a table: `--json` has it.
const LONG: [&str; 4] = ["before", "after", "previous", "digest"];

/// The text of an answer.
pub(crate) fn table(document: &Value) -> String {
    match document["items"].as_array() {
        Some(items) => {
            let mut text = rows(items);
            if document["next_cursor"].is_string() {
                text.push_str("(there are more: --most N)\n");
            }
            text
        }
        None => lines(document.as_object().unwrap_or(&Map::new())),
    }
}

/// Text without what a terminal would obey.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn rows(items: &[Value]) -> String {
    let Some(first) = items.first().and_then(Value::as_object) else { return "nothing\n".to_owned() };
    let mut columns: Vec<&String> = first.keys().filter(|column| !LONG.contains(&column.as_str())).collect();
    columns.sort_by_key(|column| FIRST.iter().position(|first| first == column).unwrap_or(FIRST.len()));
    let cells: Vec<Vec<String>> =
        items.iter().map(|item| columns.iter().map(|column| word(column, &item[column.as_str()])).collect()).collect();
    let width = |nth: usize, column: &str| {
        let widest = cells.iter().map(|row| row[nth].chars().count()).max().unwrap_or(0);
        widest.max(column.len())
    };
    let widths: Vec<usize> = columns.iter().enumerate().map(|(nth, column)| width(nth, column)).collect();
    let mut text = String::new();
    let head = columns.iter().map(|column| column.to_uppercase()).collect();
    for row in std::iter::once(head).chain(cells) {
        let line = row.iter().zip(&widths).fold(String::new(), |mut line, (cell, width)| {
            let _ = write!(line, "{cell:width$}  ");
            line
        });
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn lines(object: &Map<String, Value>) -> String {
    let width = object.keys().map(String::len).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in object {
        if let Some(items) = value.as_array().filter(|items| items.iter().any(Value::is_object)) {
            let inner: String = rows(items).lines().fold(String::new(), |text, line| text + "  " + line + "\n");
            let _ = write!(text, "{name}\n{inner}");
        } else {
            let _ = writeln!(text, "{name:width$}  {}", word(name, value));
        }
    }
    text
}

pub(crate) fn word(name: &str, value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => printable(text),
        Value::Number(number) if name.ends_with("_ms") => number.as_u64().map_or_else(String::new, instant),
        Value::Array(words) if words.iter().all(Value::is_string) => {
            let words: Vec<_> = words.iter().filter_map(Value::as_str).map(printable).collect();
            words.join(" ")
        }
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => printable(&value.to_string()),
    }
}

/// The time in UTC, to the second.
pub(crate) fn instant(ms: u64) -> String {
    let at = domain::UnixMillis(ms);
    let (month, seconds) = (domain::Month::of(at), ms / 1_000);
    // The first day of the month is as many days back as the month does not change.
    let day =
        (1..=31).find(|days| domain::Month::of(domain::UnixMillis(ms.saturating_sub(days * 86_400_000))) != month);
    let day = if ms < 86_400_000 { 1 } else { day.unwrap_or(1) };
    format!("{month}-{day:02} {:02}:{:02}:{:02}", seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_is_a_table_and_obeys_nobody() {
        let list = json!({ "items": [{ "name": "a\u{1b}[2J\u{1f41f}", "n": 7 }, { "name": null, "n": 8 }], "next_cursor": "x" });
        let text = table(&list);
        assert!(!text.contains('\u{1b}'), "{text}");
        assert!(text.starts_with("NAME    N\na\u{fffd}[2J\u{1f41f}  7\n-       8\n"), "{text}");
        assert_eq!(table(&json!({ "items": [], "next_cursor": null })), "nothing\n");
    }

    #[test]
    fn an_object_is_lines_with_its_lists_below() {
        let text = table(&json!({ "made_ms": 1_798_761_599_000_u64, "scopes": ["read", "audit"], "of": [{ "a": 1 }] }));
        assert_eq!(text, "made_ms  2026-12-31 23:59:59\nof\n  A\n  1\nscopes   read audit\n");
    }

    #[test]
    fn instants_are_those_of_the_calendar() {
        assert_eq!(instant(0), "1970-01-01 00:00:00");
        assert_eq!(instant(951_782_400_000), "2000-02-29 00:00:00");
        assert_eq!(instant(1_795_287_600_000), "2026-11-21 19:00:00");
    }
}
