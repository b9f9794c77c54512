//! Ending sessions.

use serde_json::json;

use crate::whole::Whole;

#[tokio::test]
async fn a_session_is_ended_where_it_is() {
    let mut whole = Whole::new().await;
    let anna = whole.client(1, "anna").await;
    let path = format!("/v1/sessions/{anna}");
    let gone = whole.lab.send("DELETE", &path, &whole.lab.authorization()).await.ok();
    assert_eq!(gone["ended"], false);
    whole.online(anna).await;
    let ended = whole.lab.send("DELETE", &path, &whole.lab.authorization()).await.ok();
    assert_eq!((&ended["client"], &ended["ended"]), (&json!(anna), &json!(true)));
    assert_eq!(whole.sent_away().await, [anna]);
    whole.end().await;
}

#[tokio::test]
async fn many_sessions_are_ended_only_when_their_number_is_confirmed() {
    let mut whole = Whole::new().await;
    let mut clients = Vec::new();
    for number in 0..6 {
        clients.push(whole.client(number, "one of many").await);
        whole.online(clients[usize::from(number)]).await;
    }
    let network = whole.network("friday", clients[0]).await;
    whole.join(network, clients[1]).await;
    let lab = &whole.lab;
    let by_network = json!({ "network": network });
    let dry = lab.post_json("/v1/sessions/end?dry_run=true", &by_network).await.ok();
    assert_eq!(dry, json!({ "dry_run": true, "matched": 2, "total": 6, "allowed": 1, "ended": 0 }));
    assert_eq!(lab.post_json("/v1/sessions/end", &by_network).await.problem(409), "too-many-sessions");
    let guessed = json!({ "network": network, "confirm": 3 });
    assert_eq!(lab.post_json("/v1/sessions/end", &guessed).await.problem(409), "too-many-sessions");
    let confirmed = json!({ "network": network, "confirm": 2 });
    assert_eq!(lab.post_json("/v1/sessions/end", &confirmed).await.ok()["ended"], 2);
    let audited = lab.get("/v1/audit?action=sessions_end_many&limit=1").await.ok()["items"][0].clone();
    assert_eq!(audited["after"]["ended"], 2);

    for filter in [json!({}), json!({ "confirm": 6 }), json!({ "gateway": "x" }), json!({ "everybody": true })] {
        assert_eq!(lab.post_json("/v1/sessions/end", &filter).await.problem(400), "invalid-body", "{filter}");
    }
    let elsewhere = json!({ "gateway": "0".repeat(32) });
    assert_eq!(lab.post_json("/v1/sessions/end", &elsewhere).await.ok()["matched"], 0);
    let here = json!({ "gateway": whole.gateway, "before_ms": 1, "confirm": 0 });
    assert_eq!(lab.post_json("/v1/sessions/end", &here).await.ok()["matched"], 0);
    let mut away = whole.sent_away().await;
    away.sort();
    let mut expected = vec![clients[0], clients[1]];
    expected.sort();
    assert_eq!(away, expected);
    whole.end().await;
}
