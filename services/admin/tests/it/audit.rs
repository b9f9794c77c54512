//! The audit log.

use serde_json::{Value, json};

use crate::lab::{Lab, relay};

#[tokio::test]
async fn a_change_is_written_down_before_and_after_it() {
    let lab = Lab::new().await;
    let token = lab.token(&["relays"]).await;
    let path = format!("/v1/relays/{}/drain", relay().relay);
    assert_eq!(lab.send("POST", &path, &format!("{token}X-Request-Id: r-1.7\r\n")).await.problem(503), "unavailable");
    let log = lab.get("/v1/audit").await.ok();
    let entries = log["items"].as_array().unwrap();
    assert_eq!(entries.len(), 4, "{log}");
    let (outcome, asked, made) = (&entries[0], &entries[1], &entries[2]);
    assert_eq!(outcome["asked"], asked["sequence"]);
    assert_eq!((&outcome["status"], &asked["status"]), (&json!(503), &Value::Null));
    for entry in [outcome, asked] {
        assert_eq!(entry["action"], "relays_drain");
        assert_eq!(entry["object"], path);
        assert_eq!(entry["request_id"], "r-1.7");
        assert_eq!(entry["who"], made["after"]["token"]);
    }
    assert_eq!(made["status"], 201);
    assert_eq!(made["who"], "root");
    assert_eq!(made["after"]["scopes"], json!(["relays"]));
    assert_eq!(entries[3]["after"]["name"], "a test's");
    assert!(!log.to_string().contains("buri_api_"), "{log}");
    lab.end().await;
}

#[tokio::test]
async fn what_is_refused_before_it_is_tried_is_no_entry() {
    let lab = Lab::new().await;
    let token = lab.token(&["read"]).await;
    let before = entries(&lab).await;
    let path = format!("/v1/relays/{}/drain", relay().relay);
    assert_eq!(lab.send("POST", &path, &token).await.status, 403);
    assert_eq!(lab.send("POST", &path, "").await.status, 401);
    assert_eq!(lab.post("/v1/relays/nonsense/drain").await.status, 400);
    assert_eq!(lab.post_json("/v1/tokens", &json!({})).await.status, 400);
    assert_eq!(lab.get("/v1/relays").await.status, 200);
    assert_eq!(entries(&lab).await, before);
    lab.end().await;
}

#[tokio::test]
async fn who_exports_an_account_is_written_down() {
    let lab = Lab::new().await;
    let account = format!("/v1/accounts/{}", "07".repeat(16));
    let path = format!("{account}/export");
    assert_eq!(lab.get(&account).await.status, 503);
    assert_eq!(lab.get(&path).await.problem(503), "unavailable");
    let log = lab.get("/v1/audit").await.ok();
    let [outcome, asked] = &log["items"].as_array().unwrap()[..] else { panic!("{log}") };
    for entry in [outcome, asked] {
        assert_eq!(
            (&entry["action"], &entry["object"], &entry["who"]),
            (&json!("accounts_export"), &json!(path), &json!("root"))
        );
    }
    assert_eq!((&outcome["asked"], &outcome["status"]), (&asked["sequence"], &json!(503)));
    lab.end().await;
}

#[tokio::test]
async fn without_an_entry_nothing_is_done() {
    let lab = Lab::new().await;
    let (told, mut orders) = tokio::sync::mpsc::unbounded_channel();
    let take = move |call: contract::rendezvous::OrderRelay| {
        told.send(call.relay).unwrap();
        async { Ok(()) }
    };
    let _taking = lab.other.serve(1, take).await.unwrap();
    lab.stores.close().await;
    assert_eq!(lab.post(&format!("/v1/relays/{}/drain", relay().relay)).await.status, 500);
    assert!(orders.try_recv().is_err());
    lab.end().await;
}

#[tokio::test]
async fn the_log_comes_in_pages_is_searched_exported_and_verified() {
    let lab = Lab::new().await;
    for nth in 0..5 {
        lab.post_json("/v1/tokens", &json!({ "name": format!("t{nth}"), "scopes": ["read"], "lifetime_s": 60 })).await;
    }
    lab.post(&format!("/v1/relays/{}/drain", relay().relay)).await;
    let first = lab.get("/v1/audit?limit=7&action=tokens_create").await.ok();
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = lab.get(&format!("/v1/audit?limit=7&action=tokens_create&cursor={cursor}")).await.ok();
    assert_eq!(first["items"].as_array().unwrap().len() + second["items"].as_array().unwrap().len(), 10);
    assert!(second["next_cursor"].is_null());
    let object = lab.get("/v1/audit?object=/v1/tokens&who=root").await.ok();
    assert_eq!(object["items"].as_array().unwrap().len(), 10);

    let export = lab.get("/v1/audit/export?after=2").await;
    assert_eq!(export.header("content-type"), Some("application/x-ndjson"));
    let lines: Vec<Value> = chunks(&export.body).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 10);
    assert_eq!(lines[0]["sequence"], 3);
    assert!(lines.windows(2).all(|pair| pair[1]["previous"] == pair[0]["digest"]));

    let verified = lab.get("/v1/audit/verify").await.ok();
    assert_eq!(
        (&verified["intact"], &verified["checked"], &verified["more"]),
        (&json!(true), &json!(12), &json!(false))
    );
    assert_eq!(verified["digest"], lines[9]["digest"]);
    let digest = lines[3]["digest"].as_str().unwrap();
    let rest = lab.get(&format!("/v1/audit/verify?after=6&digest={digest}")).await.ok();
    assert_eq!((&rest["intact"], &rest["checked"]), (&json!(true), &json!(6)));
    let wrong = lab.get(&format!("/v1/audit/verify?after=5&digest={digest}")).await.ok();
    assert_eq!((&wrong["intact"], &wrong["broken_at"]), (&json!(false), &json!(6)));
    for bad in ["after=6", "digest=00", "after=6&digest=zz", "after=0&digest=00", "after=9223372036854775808"] {
        assert_eq!(lab.get(&format!("/v1/audit/verify?{bad}")).await.problem(400), "invalid-parameter", "{bad}");
    }
    lab.end().await;
}

async fn entries(lab: &Lab) -> usize {
    lab.stores.operations.audit_after(0, 500).await.unwrap().len()
}

/// A body without the sizes of its chunks.
fn chunks(body: &str) -> String {
    let mut text = String::new();
    let mut rest = body;
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        text.push_str(&after[..size]);
        rest = after[size..].trim_start_matches("\r\n");
    }
    text
}
