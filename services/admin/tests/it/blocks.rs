//! Blocks, whom they touch, and how few they may.

use std::time::Duration;

use contract::{
    admin::{GatewayFigures, SessionsFrom},
    gateway::CountSessions,
};
use domain::BlockSubject;
use serde_json::{Value, json};

use crate::whole::Whole;

fn on_prefix(prefix: &str) -> Value {
    json!({ "kind": "prefix", "target": prefix, "degree": "refuse", "reason": "scripted sign-ups", "confirm": 0 })
}

#[tokio::test]
async fn a_block_is_made_shown_changed_and_lifted() {
    let whole = Whole::new().await;
    let lab = &whole.lab;
    assert_eq!(lab.get("/v1/blocks").await.ok(), json!({ "items": [], "next_cursor": null }));
    let made = lab.post_json("/v1/blocks", &on_prefix("192.0.2.77/24")).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let block = made.json();
    assert_eq!(
        (&block["kind"], &block["target"], &block["maker"]),
        (&json!("prefix"), &json!("192.0.2.0/24"), &json!("root"))
    );
    // A day since it was asked for; the sessions were counted in between.
    let lifetime = block["expires_ms"].as_u64().unwrap() - block["made_ms"].as_u64().unwrap();
    assert!((86_340_000..=86_400_000).contains(&lifetime), "{lifetime}");
    assert_eq!(lab.post_json("/v1/blocks", &on_prefix("192.0.2.0/24")).await.problem(409), "block-exists");

    let path = format!("/v1/blocks/{}", block["block"].as_str().unwrap());
    let shown = lab.get(&path).await;
    let tag = shown.header("etag").unwrap().to_owned();
    assert_eq!((Some(tag.as_str()), shown.json()), (made.header("etag"), block.clone()));
    assert_eq!(lab.get("/v1/blocks").await.ok()["items"], json!([block]));
    let matching = format!("{}If-Match: {tag}\r\n", lab.authorization());
    let milder = json!({ "degree": "slow", "reason": "fewer now", "lifetime_s": 600 });
    let changed = lab.json_as(&matching, "PATCH", &path, &milder).await;
    let after = changed.json();
    assert_eq!((changed.status, &after["degree"], &after["reason"]), (200, &json!("slow"), &json!("fewer now")));
    assert!(after["expires_ms"].as_u64() < block["expires_ms"].as_u64());
    assert_eq!(lab.json_as(&matching, "PATCH", &path, &milder).await.problem(412), "changed-meanwhile");
    assert_eq!(lab.json_as(&lab.authorization(), "PATCH", &path, &milder).await.problem(428), "precondition-required");
    assert_eq!(lab.send("DELETE", &path, &matching).await.problem(412), "changed-meanwhile");
    let any = format!("{}If-Match: *\r\n", lab.authorization());
    assert_eq!(lab.send("DELETE", &path, &any).await.status, 204);
    assert_eq!(lab.send("DELETE", &path, &any).await.problem(404), "not-found");
    let entries = lab.get("/v1/audit?limit=40").await.ok();
    let of = |action: &str| {
        let entries = entries["items"].as_array().unwrap();
        entries
            .iter()
            .find(|one| one["action"] == action && one["status"].as_u64().is_some_and(|status| status < 300))
            .unwrap()
    };
    assert_eq!(of("blocks_create")["after"]["target"], "192.0.2.0/24");
    assert_eq!(
        (&of("blocks_change")["before"]["degree"], &of("blocks_change")["after"]["degree"]),
        (&json!("refuse"), &json!("slow"))
    );
    assert_eq!(of("blocks_lift")["before"]["reason"], "fewer now");
    whole.end().await;
}

#[tokio::test]
async fn every_bound_of_a_block_is_kept() {
    let whole = Whole::new().await;
    let lab = &whole.lab;
    let id = "0".repeat(32);
    let with = |base: &Value, more: Value| {
        let mut wanted = base.clone();
        wanted.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        wanted
    };
    let (prefix, client) =
        (on_prefix("192.0.2.0/24"), json!({ "kind": "client", "target": id, "degree": "slow", "reason": "x" }));
    let bad = [
        on_prefix("192.0.0.0/15"),
        on_prefix("2001:db8::/65"),
        on_prefix("somewhere"),
        with(&prefix, json!({ "degree": "kill" })),
        with(&prefix, json!({ "reason": "  " })),
        with(&prefix, json!({ "reason": "a\nb" })),
        with(&prefix, json!({ "reason": "x".repeat(201) })),
        with(&prefix, json!({ "lifetime_s": 59 })),
        with(&prefix, json!({ "lifetime_s": 86_401 })),
        with(&prefix, json!({ "maker": "somebody else" })),
        with(&client, json!({ "lifetime_s": 31_622_401 })),
        with(&client, json!({ "target": "7" })),
        with(&client, json!({ "kind": "person" })),
        with(&client, json!({ "kind": "network", "degree": "challenge" })),
    ];
    for wanted in bad {
        assert_eq!(lab.post_json("/v1/blocks", &wanted).await.problem(400), "invalid-body", "{wanted}");
    }
    for good in [
        with(&prefix, json!({ "lifetime_s": 86_400 })),
        with(&prefix, json!({ "target": "2001:db8::/32", "lifetime_s": 60, "reason": "x".repeat(200) })),
        with(&client, json!({ "lifetime_s": 31_622_400 })),
        with(&client, json!({ "kind": "network", "degree": "refuse" })),
        with(&client, json!({ "kind": "account", "degree": "challenge" })),
    ] {
        let made = lab.post_json("/v1/blocks", &good).await;
        assert_eq!(made.status, 201, "{good}: {}", made.body);
    }
    for query in
        ["", "?kind=prefix&target=x&degree=slow", "?kind=client&target=7&degree=slow", "?kind=prefix&target=192.0.2.1"]
    {
        assert_eq!(lab.get(&format!("/v1/blocks/dry-run{query}")).await.problem(400), "invalid-parameter", "{query}");
    }
    let first = lab.get("/v1/blocks?limit=3").await.ok();
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = lab.get(&format!("/v1/blocks?limit=3&cursor={cursor}")).await.ok();
    assert_eq!((first["items"].as_array().unwrap().len(), second["items"].as_array().unwrap().len()), (3, 2));
    assert!(second["next_cursor"].is_null());
    whole.end().await;
}

#[tokio::test]
async fn a_refused_account_loses_its_sessions_when_their_number_is_confirmed() {
    let mut whole = Whole::new().await;
    let (anna, bert, cleo) =
        (whole.client(1, "anna").await, whole.client(2, "bert").await, whole.client(3, "cleo").await);
    for client in [anna, bert, cleo] {
        whole.online(client).await;
    }
    let network = whole.network("friday", anna).await;
    whole.join(network, bert).await;
    let account = whole.account(&[anna, bert]).await;
    let lab = &whole.lab;
    lab.other.publish(&GatewayFigures { instance: whole.gateway, sessions: 3 }).await.unwrap();
    while lab.get("/v1/overview").await.ok()["sessions"] != 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let dry = |query: String| async move { lab.get(&format!("/v1/blocks/dry-run?{query}")).await.ok() };
    let expected = json!({ "clients": 2, "online": 2, "ends": 2, "total": 3, "allowed": 1, "complete": true });
    assert_eq!(dry(format!("kind=account&target={account}&degree=refuse")).await, expected);
    let milder = dry(format!("kind=account&target={account}&degree=slow")).await;
    assert_eq!((&milder["online"], &milder["ends"]), (&json!(2), &json!(0)));
    let joins = dry(format!("kind=network&target={network}&degree=refuse")).await;
    assert_eq!((&joins["clients"], &joins["ends"]), (&json!(2), &json!(0)));

    let mut wanted = json!({ "kind": "account", "target": account, "degree": "refuse", "reason": "spam" });
    assert_eq!(lab.post_json("/v1/blocks", &wanted).await.problem(409), "too-many-sessions");
    assert!(lab.stores.accounts.blocks(None, 9, domain::UnixMillis(0)).await.unwrap().is_empty());
    wanted["confirm"] = json!(2);
    assert_eq!(lab.post_json("/v1/blocks", &wanted).await.status, 201);
    let mut away = whole.sent_away().await;
    away.sort();
    let mut both = vec![anna, bert];
    both.sort();
    assert_eq!(away, both);
    whole.end().await;
}

#[tokio::test]
async fn sessions_from_a_prefix_are_counted_at_the_gateways_and_bound_what_a_block_touches() {
    let whole = Whole::new().await;
    let lab = &whole.lab;
    let bus = lab.other.clone();
    let gateway = whole.gateway;
    let _counted = lab
        .other
        .subscribe(1, move |asked: CountSessions| {
            let bus = bus.clone();
            async move {
                let sessions = if asked.from == "192.0.2.0/24".parse().unwrap() { 7 } else { 1 };
                bus.publish(&SessionsFrom { question: asked.question, instance: gateway, sessions }).await
            }
        })
        .await
        .unwrap();
    lab.other.publish(&GatewayFigures { instance: gateway, sessions: 40 }).await.unwrap();
    let path = "/v1/blocks/dry-run?kind=prefix&target=192.0.2.0/24&degree=refuse";
    let mut dry = lab.get(path).await.ok();
    while dry["total"] != 40 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        dry = lab.get(path).await.ok();
    }
    assert_eq!(dry, json!({ "clients": null, "online": 7, "ends": 0, "total": 40, "allowed": 1, "complete": true }));
    let mut wanted = on_prefix("192.0.2.0/24");
    assert_eq!(lab.post_json("/v1/blocks", &wanted).await.problem(409), "too-many-sessions");
    wanted["confirm"] = json!(7);
    assert_eq!(lab.post_json("/v1/blocks", &wanted).await.status, 201);
    assert_eq!(
        lab.post_json("/v1/blocks", &on_prefix("198.51.100.0/24")).await.problem(409),
        "too-many-sessions",
        "in one minute"
    );
    let blocks = lab.stores.accounts.blocks(None, 9, domain::UnixMillis(0)).await.unwrap();
    assert!(matches!(blocks[0].subject, BlockSubject::Prefix(_)) && blocks.len() == 1);
    whole.end().await;
}
