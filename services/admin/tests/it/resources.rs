//! What the resources show and do.

use admin::{metrics::Outcome, token};
use contract::{
    network::{self, Networks, NetworksPage},
    relay::RelayOrder,
    rendezvous::{OrderRefusal, OrderRelay},
};
use domain::RelayId;
use serde_json::Value;

use crate::lab::{Lab, client, relay};

#[tokio::test]
async fn sessions_come_in_pages() {
    let lab = Lab::new().await;
    let first = lab.get("/v1/sessions?limit=2").await.ok();
    assert_eq!(first["items"].as_array().unwrap().len(), 2);
    assert_eq!(first["items"][0]["client"], client(1).to_string());
    assert_eq!(first["items"][0]["nat_class"], "easy");
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = lab.get(&format!("/v1/sessions?limit=2&cursor={cursor}")).await.ok();
    assert_eq!(second["items"][0]["client"], client(3).to_string());
    assert!(second["next_cursor"].is_null());
    assert_eq!(lab.metrics.requests(Outcome::Ok), 2);
    lab.end().await;
}

#[tokio::test]
async fn a_pair_says_why_it_is_relayed() {
    let lab = Lab::new().await;
    let pair = lab.get(&format!("/v1/pairs/{}/{}", client(1), client(2))).await.ok();
    assert_eq!(pair["outcome"], "relayed");
    assert_eq!(pair["hint"], "both routers are hard");
    let unknown = lab.get(&format!("/v1/pairs/{}/{}", client(1), client(9))).await;
    assert_eq!(unknown.problem(404), "not-found");
    lab.end().await;
}

#[tokio::test]
async fn relays_show_their_load() {
    let lab = Lab::new().await;
    let relays = lab.get("/v1/relays").await.ok();
    assert_eq!(relays["items"][0]["slots"], 3);
    assert_eq!(relays["items"][0]["rate"], "8 kbit/s");
    lab.end().await;
}

#[tokio::test]
async fn a_relay_is_drained_and_resumed() {
    let lab = Lab::new().await;
    let (told, mut orders) = tokio::sync::mpsc::unbounded_channel();
    let take = move |call: OrderRelay| {
        let known = call.relay == relay().relay;
        told.send(call.order).unwrap();
        async move { if known { Ok(()) } else { Err(OrderRefusal::NoSuchRelay) } }
    };
    let _taking = lab.other.serve(1, take).await.unwrap();
    let here = relay().relay;
    for (word, order) in [("drain", RelayOrder::Drain), ("resume", RelayOrder::Resume)] {
        let answer = lab.post(&format!("/v1/relays/{here}/{word}")).await;
        assert_eq!(answer.status, 202, "{}", answer.body);
        let document: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(document["relay"], here.to_string());
        assert_eq!(document["draining"], order == RelayOrder::Drain);
        assert_eq!(orders.recv().await, Some(order));
    }
    let other = RelayId::from_bytes([5; 16]);
    assert_eq!(lab.post(&format!("/v1/relays/{other}/drain")).await.problem(404), "not-found");
    assert_eq!(lab.post("/v1/relays/nonsense/drain").await.problem(400), "invalid-parameter");
    let read = lab.get(&format!("/v1/relays/{here}/drain")).await;
    assert!(read.head.to_lowercase().contains("allow: post"), "{}", read.head);
    assert_eq!(read.problem(405), "method-not-allowed");
    lab.end().await;
}

#[tokio::test]
async fn an_order_that_no_relay_could_be_told_is_a_number_to_quote_or_unavailable() {
    let lab = Lab::new().await;
    let path = format!("/v1/relays/{}/drain", relay().relay);
    assert_eq!(lab.post(&path).await.problem(503), "unavailable");
    let failing = |_: OrderRelay| async { Err(OrderRefusal::Internal { incident: 0xabc }) };
    let _failing = lab.other.serve(1, failing).await.unwrap();
    let answer = lab.post(&path).await;
    assert!(answer.body.contains("0000000000000abc"), "{}", answer.body);
    assert_eq!(answer.problem(500), "internal");
    lab.end().await;
}

#[tokio::test]
async fn without_the_token_nothing_is_told() {
    let lab = Lab::new().await;
    let drain = lab.send("POST", &format!("/v1/relays/{}/drain", relay().relay), "").await;
    assert_eq!(drain.problem(401), "unauthorized");
    for path in ["/", "/v1/sessions", "/v1/networks", "/v1/relays", "/v1/pairs/a/b"] {
        for authorization in ["", "Authorization: Bearer wrong\r\n", "Authorization: Basic YTpi\r\n"] {
            let answer = lab.send("GET", path, authorization).await;
            assert!(answer.head.to_lowercase().contains("www-authenticate: bearer"), "{}", answer.head);
            assert_eq!(answer.problem(401), "unauthorized");
        }
    }
    assert_eq!(lab.metrics.requests(Outcome::Unauthorized), 16);
    assert_eq!(lab.send("GET", "/health", "").await.status, 200);
    lab.end().await;
}

#[tokio::test]
async fn wrong_parameters_are_named() {
    let lab = Lab::new().await;
    for query in ["limit=0", "limit=201", "limit=x", "cursor=zz", "colour=red"] {
        assert_eq!(lab.get(&format!("/v1/sessions?{query}")).await.problem(400), "invalid-parameter", "{query}");
    }
    assert_eq!(lab.get("/v1/relays?x=1").await.problem(400), "invalid-parameter");
    assert_eq!(lab.get("/v1/pairs/a/b").await.problem(400), "invalid-parameter");
    assert_eq!(lab.get("/v1/cars").await.problem(404), "not-found");
    let token = lab.authorization();
    assert_eq!(lab.send("POST", "/v1/sessions", &token).await.problem(405), "method-not-allowed");
    assert_eq!(lab.get("/v1/sessions?limit=1&limit=2").await.problem(400), "invalid-parameter");
    assert_eq!(lab.metrics.requests(Outcome::Refused), 8);
    lab.end().await;
}

#[tokio::test]
async fn a_role_that_does_not_answer_is_unavailable_not_broken() {
    let lab = Lab::new().await;
    let answer = lab.get("/v1/networks").await;
    assert!(answer.head.to_lowercase().contains("retry-after: 5"), "{}", answer.head);
    assert_eq!(answer.problem(503), "unavailable");
    assert_eq!(lab.metrics.requests(Outcome::Failed), 1);
    lab.end().await;
}

#[tokio::test]
async fn an_internal_failure_is_a_number_to_quote() {
    let lab = Lab::new().await;
    let _failing = lab
        .other
        .serve(1, |_: Networks| async { Err::<NetworksPage, _>(network::Refusal::Internal { incident: 0xabc }) })
        .await
        .unwrap();
    let answer = lab.get("/v1/networks").await;
    assert!(answer.body.contains("0000000000000abc"), "{}", answer.body);
    assert_eq!(answer.problem(500), "internal");
    lab.end().await;
}

#[test]
fn a_token_is_made_once_and_must_be_long() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("operator.token");
    assert!(token::ensure(&path).unwrap());
    assert!(!token::ensure(&path).unwrap());
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(token::read(&path).unwrap().matches(text.trim()));
    assert!(!token::read(&path).unwrap().matches("other"));
    std::fs::write(&path, "short").unwrap();
    assert!(matches!(token::read(&path), Err(token::TokenError::Short { .. })));
}
