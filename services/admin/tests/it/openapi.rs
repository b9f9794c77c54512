//! The OpenAPI document.

use std::collections::BTreeSet;

use admin::declared;
use serde_json::Value;

use crate::lab::Lab;

/// Where the document is kept.
const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "who changes the API writes the document anew")]
async fn the_document_that_is_served_is_the_one_that_is_kept() {
    let lab = Lab::new().await;
    let served = serde_json::to_string_pretty(&lab.get("/v1/openapi.json").await.ok()).unwrap() + "\n";
    if std::env::var_os("BURI_WRITE_OPENAPI").is_some() {
        std::fs::write(PATH, &served).unwrap();
    }
    let kept = std::fs::read_to_string(PATH).unwrap();
    assert!(kept == served, "openapi.json is old: BURI_WRITE_OPENAPI=1 cargo nextest run -p admin openapi");
    lab.end().await;
}

#[test]
fn the_document_is_sound() {
    let document: Value = serde_json::from_str(&std::fs::read_to_string(PATH).unwrap()).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let mut references = BTreeSet::new();
    collect_references(&document, &mut references);
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference}"));
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    let mut ids = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id), "{id} twice");
            assert!(operation["summary"].as_str().unwrap().ends_with('.'), "{method} {path} has no summary");
            let parameters = operation["parameters"].as_array().unwrap();
            let of_path: Vec<_> = parameters.iter().filter(|one| one["in"] == "path").collect();
            assert_eq!(of_path.len(), path.matches('{').count(), "{path}");
            for parameter in of_path {
                let name = parameter["name"].as_str().unwrap();
                assert!(path.contains(&format!("{{{name}}}")) && parameter["required"] == true, "{path} {name}");
            }
            for (status, response) in operation["responses"].as_object().unwrap() {
                assert!(!response["description"].as_str().unwrap().is_empty(), "{method} {path} {status}");
                let problem = status.as_bytes()[0] >= b'4';
                assert_eq!(response["content"].get("application/problem+json").is_some(), problem, "{path} {status}");
            }
        }
    }
    assert_eq!(ids.len(), declared().len());
}

fn collect_references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
    match value {
        Value::Object(object) => {
            found.extend(object.get("$ref").and_then(Value::as_str));
            object.values().for_each(|value| collect_references(value, found));
        }
        Value::Array(array) => array.iter().for_each(|value| collect_references(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
