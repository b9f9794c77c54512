//! Requests that are made again.

use serde_json::json;

use crate::lab::Lab;

#[tokio::test]
async fn a_repeated_request_gets_the_same_answer_and_is_carried_out_once() {
    let lab = Lab::new().await;
    let wanted = json!({ "name": "once", "scopes": ["read"], "lifetime_s": 60 });
    let headers = format!("{}Idempotency-Key: 4711\r\n", lab.authorization());
    let first = lab.json_as(&headers, "POST", "/v1/tokens", &wanted).await;
    let second = lab.json_as(&headers, "POST", "/v1/tokens", &wanted).await;
    assert_eq!((first.status, second.status), (201, 201));
    assert_eq!(first.body, second.body);
    let tokens = lab.get("/v1/tokens").await.ok();
    assert_eq!(tokens["items"].as_array().unwrap().len(), 1);

    let other = json!({ "name": "other", "scopes": ["read"], "lifetime_s": 60 });
    let mismatch = lab.json_as(&headers, "POST", "/v1/tokens", &other).await;
    assert_eq!(mismatch.problem(422), "idempotency-mismatch");
    let own = lab.token(&["tokens", "read"]).await;
    let own = lab.json_as(&format!("{own}Idempotency-Key: 4711\r\n"), "POST", "/v1/tokens", &other).await;
    assert_eq!(own.status, 201, "keys of tokens have nothing to do with one another: {}", own.body);
    lab.end().await;
}

#[tokio::test]
async fn of_many_at_once_one_is_carried_out() {
    let lab = Lab::new().await;
    let wanted = json!({ "name": "race", "scopes": ["read"], "lifetime_s": 60 });
    let headers = format!("{}Idempotency-Key: race\r\n", lab.authorization());
    let answers =
        futures_util::future::join_all((0..16).map(|_| lab.json_as(&headers, "POST", "/v1/tokens", &wanted))).await;
    for answer in answers {
        assert!(matches!(answer.status, 201 | 409), "{}", answer.body);
    }
    let tokens = lab.get("/v1/tokens").await.ok();
    assert_eq!(tokens["items"].as_array().unwrap().len(), 1);
    lab.end().await;
}

#[tokio::test]
async fn what_came_to_nothing_may_be_tried_again() {
    let lab = Lab::new().await;
    let path = format!("/v1/relays/{}/drain", crate::lab::relay().relay);
    let headers = format!("{}Idempotency-Key: drain\r\n", lab.authorization());
    assert_eq!(lab.send("POST", &path, &headers).await.problem(503), "unavailable");
    let take = |_: contract::rendezvous::OrderRelay| async { Ok(()) };
    let _taking = lab.other.serve(1, take).await.unwrap();
    assert_eq!(lab.send("POST", &path, &headers).await.status, 202);
    lab.end().await;
}

#[tokio::test]
async fn an_answer_is_kept_sealed() {
    let lab = Lab::new().await;
    let wanted = json!({ "name": "sealed", "scopes": ["read"], "lifetime_s": 60 });
    let headers = format!("{}Idempotency-Key: sealed\r\n", lab.authorization());
    let made = lab.json_as(&headers, "POST", "/v1/tokens", &wanted).await.json();
    let secret = made["secret"].as_str().unwrap().as_bytes();
    let mut found = 0;
    for file in std::fs::read_dir(lab.dir.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret));
        found += usize::from(bytes.windows(6).any(|window| window == b"sealed"));
    }
    assert!(found > 0, "the request is there, its answer is not");
    lab.end().await;
}

#[tokio::test]
async fn a_key_is_short_and_visible() {
    let lab = Lab::new().await;
    let path = format!("/v1/relays/{}/drain", crate::lab::relay().relay);
    let send = async |key: &str| lab.send("POST", &path, &format!("{}{key}", lab.authorization())).await;
    for bad in ["Idempotency-Key:\r\n", "Idempotency-Key: a b\r\n", "Idempotency-Key: a\r\nIdempotency-Key: b\r\n"] {
        assert_eq!(send(bad).await.problem(400), "invalid-header", "{bad}");
    }
    let long = |length| format!("Idempotency-Key: {}\r\n", "k".repeat(length));
    assert_eq!(send(&long(201)).await.problem(400), "invalid-header");
    assert_eq!(send(&long(200)).await.problem(503), "unavailable");
    lab.end().await;
}
