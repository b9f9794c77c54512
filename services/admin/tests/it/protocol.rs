//! What holds for every operation: headers, limits, bodies.

use std::num::NonZeroU32;

use admin::{Config, metrics::Outcome};
use serde_json::json;

use crate::lab::Lab;

#[tokio::test]
async fn a_token_is_told_what_is_left_and_refused_beyond_it() {
    let config = Config { requests_per_minute: const { NonZeroU32::new(3).unwrap() }, ..Config::default() };
    let lab = Lab::with(config).await;
    let token = lab.token(&["read"]).await;
    for left in ["2", "1", "0"] {
        let answer = lab.send("GET", "/v1/sessions", &token).await;
        assert_eq!((answer.status, answer.header("ratelimit-remaining")), (200, Some(left)));
        assert_eq!(answer.header("ratelimit-limit"), Some("3"));
        assert!((1..=60).contains(&answer.header("ratelimit-reset").unwrap().parse::<u32>().unwrap()));
    }
    let refused = lab.send("GET", "/v1/sessions", &token).await;
    assert!((1..=60).contains(&refused.header("retry-after").unwrap().parse::<u32>().unwrap()));
    assert_eq!(refused.problem(429), "rate-limited");
    assert_eq!(lab.metrics.requests(Outcome::Limited), 1);
    assert_eq!(lab.get("/v1/sessions").await.status, 200, "others are served");
    lab.end().await;
}

#[tokio::test]
async fn every_answer_names_its_request() {
    let lab = Lab::new().await;
    let send =
        async |path: &str, headers: &str| lab.send("GET", path, &format!("{}{headers}", lab.authorization())).await;
    for path in ["/v1/sessions", "/v1/cars", "/v1/networks"] {
        let named = send(path, "X-Request-Id: my-1\r\n").await;
        assert_eq!(named.header("x-request-id"), Some("my-1"));
        for bad in ["a b", "\u{1f41f}", "", &"x".repeat(65)] {
            let made = send(path, &format!("X-Request-Id: {bad}\r\n")).await;
            assert_eq!(made.header("x-request-id").unwrap().len(), 16, "{bad}");
        }
    }
    let problem = send("/v1/cars", "X-Request-Id: my-2\r\n").await.json();
    assert_eq!(problem["request_id"], "my-2");
    lab.end().await;
}

#[tokio::test]
async fn bodies_have_a_type_and_a_bound() {
    let lab = Lab::new().await;
    let send = async |headers: &str, body: &[u8]| {
        lab.send_body("POST", "/v1/tokens", &format!("{}{headers}", lab.authorization()), body).await
    };
    let json = "Content-Type: application/json; charset=utf-8\r\n";
    let good = json!({ "name": "n", "scopes": ["read"], "lifetime_s": 60 }).to_string();
    assert_eq!(send("", good.as_bytes()).await.problem(415), "unsupported-media-type");
    assert_eq!(send("Content-Type: text/plain\r\n", good.as_bytes()).await.problem(415), "unsupported-media-type");
    assert_eq!(send(json, b"{").await.problem(400), "invalid-body");
    assert_eq!(send(json, b"").await.problem(400), "invalid-body");
    assert_eq!(send(json, b"\xff\xfe").await.problem(400), "invalid-body");
    assert_eq!(send(json, "[".repeat(60_000).as_bytes()).await.problem(400), "invalid-body");
    let padded = |length: usize| format!("{good}{}", " ".repeat(length - good.len()));
    assert_eq!(send(json, padded(64 * 1024).as_bytes()).await.status, 201);
    assert_eq!(send(json, padded(64 * 1024 + 1).as_bytes()).await.problem(413), "content-too-large");
    let drain = format!("/v1/relays/{}/drain", crate::lab::relay().relay);
    let headers = format!("{}{json}", lab.authorization());
    assert_eq!(lab.send_body("POST", &drain, &headers, b"{}").await.problem(400), "invalid-body");
    lab.end().await;
}

#[tokio::test]
async fn other_methods_are_refused_with_those_that_there_are() {
    let lab = Lab::new().await;
    let answer = lab.send("PUT", "/v1/tokens", &lab.authorization()).await;
    assert_eq!(answer.header("allow"), Some("GET, POST"));
    assert_eq!(answer.problem(405), "method-not-allowed");
    lab.end().await;
}

#[tokio::test]
async fn paths_with_nasty_bytes_are_refused_not_broken() {
    let lab = Lab::new().await;
    let nasty =
        ["%00", "%2F..%2F", "..%2f", "%ff%fe", "%F0%9F%90%9F", "'%20OR%201=1", "%0d%0aX:%20y", "%25", "%", "%zz"];
    for part in nasty {
        for path in ["/v1/tokens/{}", "/v1/pairs/{}/{}", "/v1/tokens?cursor={}", "/v1/audit?who={}", "/v1/{}"] {
            let answer = lab.get(&path.replace("{}", part)).await;
            assert!(answer.status < 500 && answer.header("x").is_none(), "{path} {part}: {}", answer.head);
        }
    }
    lab.end().await;
}
