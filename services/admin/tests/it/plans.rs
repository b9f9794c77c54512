//! Plans, and changes that race.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::whole::Whole;

fn limits() -> Value {
    json!({ "members_per_network": 16, "networks_per_client": 8, "relay_bytes_per_second": 5_000, "relay_bytes_per_month": null })
}

#[tokio::test]
async fn a_plan_is_made_changed_and_deleted() {
    let whole = Whole::new().await;
    let lab = &whole.lab;
    let listed = lab.get("/v1/plans").await.ok();
    let names: Vec<_> = listed["items"].as_array().unwrap().iter().map(|plan| plan["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["free", "premium", "standard"]);
    assert!(listed["items"][1]["relay_bytes_per_second"].is_null());

    let mut wanted = limits();
    wanted["name"] = json!("small-2");
    let made = lab.post_json("/v1/plans", &wanted).await;
    assert_eq!((made.status, made.json()), (201, wanted.clone()), "{}", made.body);
    assert_eq!(lab.post_json("/v1/plans", &wanted).await.problem(409), "plan-exists");

    let shown = lab.get("/v1/plans/small-2").await;
    let tag = shown.header("etag").unwrap().to_owned();
    let matching = format!("{}If-Match: {tag}\r\n", lab.authorization());
    let mut other = limits();
    other["members_per_network"] = json!(17);
    let changed = lab.json_as(&matching, "PUT", "/v1/plans/small-2", &other).await;
    assert_eq!(changed.status, 200, "{}", changed.body);
    assert_eq!(changed.header("etag"), lab.get("/v1/plans/small-2").await.header("etag"));
    assert_eq!(lab.json_as(&matching, "PUT", "/v1/plans/small-2", &limits()).await.problem(412), "changed-meanwhile");
    let missing = lab.json_as(&lab.authorization(), "PUT", "/v1/plans/small-2", &limits()).await;
    assert_eq!(missing.problem(428), "precondition-required");

    assert_eq!(lab.send("DELETE", "/v1/plans/small-2", &matching).await.problem(412), "changed-meanwhile");
    let any = format!("{}If-Match: *\r\n", lab.authorization());
    assert_eq!(lab.send("DELETE", "/v1/plans/free", &any).await.problem(409), "plan-in-use");
    assert_eq!(lab.send("DELETE", "/v1/plans/small-2", &any).await.status, 204);
    assert_eq!(lab.send("DELETE", "/v1/plans/small-2", &any).await.problem(404), "not-found");
    let entry = lab.get("/v1/audit?action=plans_delete&limit=3").await.ok()["items"][2].clone();
    assert_eq!((&entry["status"], &entry["before"]["members_per_network"]), (&json!(204), &json!(17)));
    whole.end().await;
}

#[tokio::test]
async fn of_many_writers_that_saw_the_same_version_one_wins() {
    let whole = Whole::new().await;
    let lab = &whole.lab;
    let tag = lab.get("/v1/plans/standard").await.header("etag").unwrap().to_owned();
    let headers = format!("{}If-Match: {tag}\r\n", lab.authorization());
    let writers = (0..64).map(|nth| {
        let mut wanted = limits();
        wanted["networks_per_client"] = json!(nth + 1);
        let headers = &headers;
        async move { (nth, lab.json_as(headers, "PUT", "/v1/plans/standard", &wanted).await) }
    });
    let mut winners = Vec::new();
    for (nth, answer) in join_all(writers).await {
        match answer.status {
            200 => winners.push(nth),
            412 => {}
            status => panic!("{status}: {}", answer.body),
        }
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(lab.get("/v1/plans/standard").await.ok()["networks_per_client"], winners[0] + 1);
    whole.end().await;
}

#[tokio::test]
async fn what_a_plan_cannot_be_is_refused() {
    let whole = Whole::new().await;
    let lab = &whole.lab;
    let mut good = limits();
    good["name"] = json!("good");
    let wrong = [
        ("name", json!("")),
        ("name", json!("Good")),
        ("name", json!("1good")),
        ("name", json!("a".repeat(33))),
        ("name", json!("a/b")),
        ("members_per_network", json!(0)),
        ("members_per_network", json!(257)),
        ("networks_per_client", json!(257)),
        ("relay_bytes_per_second", json!(-1)),
        ("relay_bytes_per_second", json!(i64::MAX)),
        ("relay_bytes_per_month", json!("much")),
        ("colour", json!("red")),
    ];
    for (field, value) in wrong {
        let mut wanted = good.clone();
        wanted[field] = value;
        assert_eq!(lab.post_json("/v1/plans", &wanted).await.problem(400), "invalid-body", "{wanted}");
    }
    for (nth, (field, value)) in
        [("members_per_network", json!(256)), ("relay_bytes_per_month", json!(i64::MAX - 1))].into_iter().enumerate()
    {
        let mut wanted = good.clone();
        wanted[field] = value;
        wanted["name"] = json!(format!("{}{nth}", "a".repeat(31)));
        let made = lab.post_json("/v1/plans", &wanted).await;
        assert_eq!((made.status, made.json()), (201, wanted));
    }
    whole.end().await;
}
