//! Who may use the API.

use domain::{ApiScope, UnixMillis};
use serde_json::json;

use crate::lab::{Lab, bearer};

#[tokio::test]
async fn a_token_is_shown_once_and_works_until_it_is_revoked() {
    let lab = Lab::new().await;
    let wanted = json!({ "name": "a \u{1f41f} \"'<script>\\", "scopes": ["read", "tokens"], "lifetime_s": 60 });
    let made = lab.post_json("/v1/tokens", &wanted).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let made = made.json();
    let (secret, id) = (made["secret"].as_str().unwrap(), made["token"].as_str().unwrap());
    assert_eq!(made["name"], wanted["name"]);
    assert_eq!(made["scopes"], json!(["read", "tokens"]));
    assert_eq!(made["maker"], "root");

    let sessions = lab.send("GET", "/v1/sessions", &bearer(secret)).await;
    assert_eq!(sessions.status, 200, "{}", sessions.body);
    assert_eq!(lab.send("GET", "/v1/audit", &bearer(secret)).await.problem(403), "forbidden");
    let shown = lab.get(&format!("/v1/tokens/{id}")).await.ok();
    assert!(shown["used_ms"].as_u64().is_some() && shown.get("secret").is_none());
    let listed = lab.get("/v1/tokens").await;
    assert!(!listed.body.contains(secret) && listed.body.contains(id));

    let path = format!("/v1/tokens/{id}");
    let revoked = lab.send("DELETE", &path, &lab.authorization()).await.ok();
    assert!(revoked["revoked_ms"].is_u64());
    assert_eq!(lab.send("GET", "/v1/sessions", &bearer(secret)).await.problem(401), "unauthorized");
    let again = lab.send("DELETE", &path, &lab.authorization()).await.ok();
    assert_eq!(again["revoked_ms"], revoked["revoked_ms"]);
    lab.end().await;
}

#[tokio::test]
async fn a_token_gives_and_takes_no_more_than_it_has() {
    let lab = Lab::new().await;
    let lesser = lab.token(&["tokens", "read"]).await;
    let greater =
        lab.post_json("/v1/tokens", &json!({ "name": "g", "scopes": ["write"], "lifetime_s": 60 })).await.json();
    for scope in ApiScope::ALL {
        let wanted = json!({ "name": "n", "scopes": [scope.name()], "lifetime_s": 60 });
        let made = lab.json_as(&lesser, "POST", "/v1/tokens", &wanted).await;
        if matches!(scope, ApiScope::Tokens | ApiScope::Read) {
            assert_eq!(made.status, 201, "{}", made.body);
        } else {
            assert_eq!(made.problem(403), "scope-not-covered", "{scope}");
        }
    }
    let path = format!("/v1/tokens/{}", greater["token"].as_str().unwrap());
    assert_eq!(lab.send("DELETE", &path, &lesser).await.problem(403), "scope-not-covered");
    lab.end().await;
}

#[tokio::test]
async fn what_a_token_cannot_be_is_refused() {
    let lab = Lab::new().await;
    let good = json!({ "name": "n", "scopes": ["read"], "lifetime_s": 60 });
    let wrong = [
        ("name", json!("")),
        ("name", json!(" \u{3000}")),
        ("name", json!("x".repeat(101))),
        ("name", json!("a\nb")),
        ("name", json!(7)),
        ("scopes", json!([])),
        ("scopes", json!(["root"])),
        ("scopes", json!("read")),
        ("lifetime_s", json!(59)),
        ("lifetime_s", json!(31_622_401)),
        ("lifetime_s", json!(-1)),
        ("colour", json!("red")),
    ];
    for (field, value) in wrong {
        let mut wanted = good.clone();
        wanted[field] = value;
        assert_eq!(lab.post_json("/v1/tokens", &wanted).await.problem(400), "invalid-body", "{wanted}");
    }
    for (field, value) in [("name", json!("x".repeat(100))), ("lifetime_s", json!(31_622_400))] {
        let mut wanted = good.clone();
        wanted[field] = value;
        assert_eq!(lab.post_json("/v1/tokens", &wanted).await.status, 201, "{wanted}");
    }
    lab.end().await;
}

#[tokio::test]
async fn an_expired_token_is_no_token() {
    let lab = Lab::new().await;
    let wanted = json!({ "name": "short", "scopes": ["read"], "lifetime_s": 60 });
    let made = lab.post_json("/v1/tokens", &wanted).await.json();
    let token = bearer(made["secret"].as_str().unwrap());
    let expires = made["expires_ms"].as_u64().unwrap();
    assert_eq!(lab.send("GET", "/v1/sessions", &token).await.status, 200);
    let digest = ring::digest::digest(&ring::digest::SHA256, made["secret"].as_str().unwrap().as_bytes());
    let digest: [u8; 32] = digest.as_ref().try_into().unwrap();
    let at = |ms| lab.stores.operations.bearer(digest, UnixMillis(ms));
    assert!(at(expires - 1).await.unwrap().is_some() && at(expires).await.unwrap().is_none());
    lab.end().await;
}

#[tokio::test]
async fn forged_tokens_are_refused() {
    let lab = Lab::new().await;
    let good = lab.token(&["read"]).await;
    let good = good.trim_start_matches("Authorization: Bearer ").trim().to_owned();
    let root = std::fs::read_to_string(lab.dir.path().join("operator.token")).unwrap();
    let root = root.trim();
    let mut forged = Vec::new();
    for nth in 0..64 {
        let at = good.len() - 1 - nth;
        let other = if good.as_bytes()[at] == b'0' { "1" } else { "0" };
        forged.push(format!("{}{other}{}", &good[..at], &good[at + 1..]));
        let other = if root.as_bytes()[nth] == b'0' { "1" } else { "0" };
        forged.push(format!("{}{other}{}", &root[..nth], &root[nth + 1..]));
    }
    for cut in 1..30 {
        forged.push(good[..good.len() - cut].to_owned());
        forged.push(root[cut..].to_owned());
    }
    let others = [
        good.to_uppercase(),
        format!("{good}0"),
        format!("{good}\u{0}"),
        format!("{good} {good}"),
        format!("{root}{good}"),
        good.replace("buri_api_", ""),
        good.replace("buri_api_", "buri_api_ "),
        good.replace("buri_api_", "BURI_API_"),
        "buri_api_".into(),
        "' OR 1=1 --".into(),
        "null".into(),
        "root".into(),
        "*".into(),
        "%00".into(),
        "\u{1f41f}".into(),
        "x".repeat(4_000),
    ];
    forged.extend(others);
    assert!(forged.len() >= 200, "{}", forged.len());
    for token in &forged {
        let answer = lab.send("GET", "/v1/sessions", &bearer(token)).await;
        assert!(matches!(answer.status, 400 | 401), "{token}: {}", answer.head);
        assert!(!answer.body.contains("items"), "{token}");
    }
    for scheme in ["Basic", "Digest", "Token", "", "BearerBearer"] {
        let header = format!("Authorization: {scheme} {good}\r\n");
        assert_eq!(lab.send("GET", "/v1/sessions", &header).await.status, 401, "{scheme}");
    }
    let query = format!("/v1/sessions?token={good}");
    assert_eq!(lab.send("GET", &query, "").await.status, 401);
    assert_eq!(lab.send("GET", "/v1/sessions", &format!("Cookie: token={good}\r\n")).await.status, 401);
    assert_eq!(lab.send("GET", "/v1/sessions", &bearer(&good)).await.status, 200);
    lab.end().await;
}
