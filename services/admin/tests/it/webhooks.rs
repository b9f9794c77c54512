//! Webhooks, with real receivers on loopback.

use std::time::Duration;

use admin::{Config, WebhooksConfig, metrics::Delivery};
use domain::{ClientId, Event, EventKind, UnixMillis};
use serde_json::{Value, json};
use store::WebhookTerms;

use crate::{
    lab::Lab,
    receiver::{Answers, Receiver},
};

#[tokio::test]
async fn events_arrive_in_order_signed_and_once() {
    let (lab, receiver) = (Lab::with(private()).await, Receiver::new(|_| Answers::Status(204)));
    let made = make(&lab, &receiver.url(), json!({})).await;
    let secret = made["secret"].as_str().unwrap();
    happen(&lab, 0..25).await;
    let got = receiver.until(25).await;
    let numbers: Vec<_> = got.iter().map(|got| got.json()["sequence"].as_u64().unwrap()).collect();
    assert!(numbers.is_sorted() && numbers.len() == 25, "{numbers:?}");
    for got in &got {
        assert_eq!(got.signatures_by(secret), 1);
        assert_eq!(got.header("webhook-id"), got.json()["id"]);
        let age = now_s().abs_diff(got.header("webhook-timestamp").parse().unwrap());
        assert!(age < 60 && got.json()["kind"] == "client.online" && got.header("").starts_with("POST /hook "));
        assert_eq!(got.signatures_by(&format!("whsec_{}", "A".repeat(44))), 0);
    }
    assert_eq!(receiver.most_at_once(), 1, "one after the other");
    let shown = until(&lab, &made, |shown| shown["delivered"] == 25).await;
    assert_eq!((&shown["state"], &shown["dead"], &shown["next_ms"]), (&json!("active"), &json!(0), &Value::Null));
    assert!(shown.get("secret").is_none() && !shown.to_string().contains(secret));
    assert_eq!(lab.metrics.deliveries(Delivery::Taken), 25);
    lab.end().await;
}

#[tokio::test]
async fn what_fails_is_tried_again_and_holds_up_what_follows() {
    let mut failures = 0;
    let receiver = Receiver::new(move |_| {
        failures += 1;
        if failures <= 3 { Answers::Status(503) } else { Answers::Status(200) }
    });
    let lab = Lab::with(private()).await;
    let made = make(&lab, &receiver.url(), json!({})).await;
    happen(&lab, 0..2).await;
    let got = receiver.until(5).await;
    let ids: Vec<_> = got.iter().map(|got| got.header("webhook-id").to_owned()).collect();
    assert!(ids[..4].iter().all(|id| *id == ids[0]) && ids[4] != ids[0], "{ids:?}");
    until(&lab, &made, |shown| shown["delivered"] == 2).await;
    let kept = lab.get(&format!("{}/deliveries", path(&made))).await.ok();
    let kept: Vec<_> = kept["items"].as_array().unwrap().iter().map(|one| (&one["tries"], &one["state"])).collect();
    assert_eq!(kept, [(&json!(1), &json!("taken")), (&json!(4), &json!("taken"))]);
    assert_eq!((lab.metrics.deliveries(Delivery::Again), lab.metrics.deliveries(Delivery::GivenUp)), (3, 0));
    lab.end().await;
}

#[tokio::test]
async fn what_is_given_up_is_shown_with_its_reason_and_sent_again() {
    let lab = Lab::with(Config { webhooks: WebhooksConfig { tries: 2, ..private().webhooks }, ..private() }).await;
    let receiver =
        Receiver::new(|got| Answers::Status(if got.body.contains(&client(1).to_string()) { 422 } else { 200 }));
    let made = make(&lab, &receiver.url(), json!({})).await;
    happen(&lab, 0..3).await;
    until(&lab, &made, |shown| shown["delivered"] == 2 && shown["dead"] == 1).await;
    let dead = lab.get(&format!("{}/deliveries?state=dead", path(&made))).await.ok();
    let one = &dead["items"][0];
    assert_eq!((&one["reason"], &one["status"], &one["tries"]), (&json!("refused"), &json!(422), &json!(2)));
    let order: Vec<_> =
        receiver.got().iter().map(|got| got.json()["client"].as_str().unwrap()[..2].to_owned()).collect();
    assert_eq!(order, ["01", "02", "02", "03"]);

    receiver.answer(|_| Answers::Status(200));
    let single = format!("{}/deliveries/{}/replay", path(&made), one["event"].as_str().unwrap());
    assert_eq!(lab.post(&single).await.ok()["deliveries"], 1);
    let again = receiver.until(5).await.pop().unwrap();
    assert_eq!(
        (again.header("webhook-id"), &again.json()["client"]),
        (one["event"].as_str().unwrap(), &json!(client(1)))
    );
    assert_eq!(again.signatures_by(made["secret"].as_str().unwrap()), 1);
    until(&lab, &made, |shown| shown["delivered"] == 3).await;
    assert_eq!(lab.post(&format!("{}/replay", path(&made))).await.ok()["deliveries"], 0, "nothing is dead any more");
    let missing = format!("{}/deliveries/{}/replay", path(&made), "0".repeat(32));
    assert_eq!(lab.post(&missing).await.problem(404), "not-found");
    assert_eq!(lab.get(&format!("{}/deliveries?state=alive", path(&made))).await.problem(400), "invalid-parameter");
    lab.end().await;
}

#[tokio::test]
async fn a_receiver_that_misbehaves_costs_a_try_and_no_more() {
    let lab = Lab::with(private()).await;
    let other = Receiver::new(|_| Answers::Status(200));
    let elsewhere = other.url();
    let cases = [
        (Answers::Never, "timed-out"),
        (Answers::Dripping, "timed-out"),
        (Answers::Broken, "no-http"),
        (Answers::Noise, "no-http"),
        (Answers::Elsewhere(elsewhere), "redirects"),
        (Answers::Status(404), "refused"),
        (Answers::Status(500), "failed"),
    ];
    for (answers, reason) in cases {
        let what = format!("{answers:?}");
        let receiver = Receiver::new(move |_| answers.clone());
        let made = make(&lab, &receiver.url(), json!({ "kinds": ["relay.lost"] })).await;
        let tested = lab.post(&format!("{}/test", path(&made))).await.ok();
        assert_eq!((&tested["taken"], &tested["reason"]), (&json!(false), &json!(reason)), "{what}");
    }
    assert!(other.got().is_empty(), "nobody is led elsewhere");
    let endless = Receiver::new(|_| Answers::Endless);
    let made = make(&lab, &endless.url(), json!({ "kinds": ["relay.lost"] })).await;
    assert_eq!(lab.post(&format!("{}/test", path(&made))).await.ok()["taken"], true, "the status is enough");
    let gone = Receiver::new(|_| Answers::Status(200));
    let url = gone.url();
    drop(gone);
    let made = make(&lab, &url, json!({ "kinds": ["relay.lost"] })).await;
    let tested = lab.post(&format!("{}/test", path(&made))).await.ok();
    assert_eq!(tested["reason"], "no-connection");
    lab.end().await;
}

#[tokio::test]
async fn a_webhook_that_fails_for_long_is_paused_and_goes_on_where_it_was() {
    let patience = Duration::from_millis(300);
    let lab =
        Lab::with(Config { webhooks: WebhooksConfig { patience, tries: 100, ..private().webhooks }, ..private() })
            .await;
    let receiver = Receiver::new(|_| Answers::Status(500));
    let made = make(&lab, &receiver.url(), json!({})).await;
    happen(&lab, 0..2).await;
    let shown = until(&lab, &made, |shown| shown["state"] == "failing").await;
    assert!(shown["failing_since_ms"].is_u64() && shown["dead"] == 0);
    receiver.answer(|_| Answers::Status(200));
    let before = receiver.got().len();
    happen(&lab, 2..3).await;
    let etag = lab.get(&path(&made)).await.header("etag").unwrap().to_owned();
    let headers = format!("{}If-Match: {etag}\r\n", lab.authorization());
    assert_eq!(receiver.got().len(), before, "it is told nothing meanwhile");
    lab.json_as(&headers, "PATCH", &path(&made), &json!({ "paused": false })).await.ok();
    let shown = until(&lab, &made, |shown| shown["delivered"] == 3).await;
    assert_eq!((&shown["state"], &shown["failing_since_ms"]), (&json!("active"), &Value::Null));
    let stale = lab.json_as(&headers, "PATCH", &path(&made), &json!({ "paused": true })).await;
    assert_eq!(stale.problem(412), "changed-meanwhile");
    lab.end().await;
}

#[tokio::test]
async fn for_a_while_two_secrets_count_after_a_change() {
    let rotation = Duration::from_millis(1_500);
    let lab = Lab::with(Config { webhooks: WebhooksConfig { rotation, ..private().webhooks }, ..private() }).await;
    let receiver = Receiver::new(|_| Answers::Status(200));
    let made = make(&lab, &receiver.url(), json!({})).await;
    let headers = format!("{}If-Match: *\r\nIdempotency-Key: once\r\n", lab.authorization());
    let rotated = lab.send("POST", &format!("{}/secret", path(&made)), &headers).await;
    assert_eq!(rotated.status, 201, "{}", rotated.body);
    let repeated = lab.send("POST", &format!("{}/secret", path(&made)), &headers).await;
    assert_eq!(repeated.json(), rotated.json(), "who repeats it gets the same secret");
    let [old, new] = [&made, &rotated.json()].map(|one| one["secret"].as_str().unwrap().to_owned());
    assert_ne!(old, new);
    happen(&lab, 0..1).await;
    let first = receiver.until(1).await.remove(0);
    assert_eq!((first.signatures_by(&old), first.signatures_by(&new)), (1, 1), "{first:?}");
    tokio::time::sleep(rotation).await;
    happen(&lab, 1..2).await;
    let second = receiver.until(2).await.remove(1);
    assert_eq!((second.signatures_by(&old), second.signatures_by(&new)), (0, 1));
    let audit = lab.get("/v1/audit/export").await.body;
    assert!(audit.contains("webhooks_rotate") && !audit.contains(&old) && !audit.contains(&new));
    lab.end().await;
}

#[tokio::test]
async fn only_what_is_wanted_is_sent() {
    let lab = Lab::with(private()).await;
    let receiver = Receiver::new(|_| Answers::Status(200));
    let network = domain::NetworkId::from_bytes([6; 16]);
    let wanted = json!({ "kinds": ["member.*"], "networks": [network] });
    let made = make(&lab, &receiver.url(), wanted).await;
    assert_eq!(made["kinds"].as_array().unwrap().len(), 9, "{made}");
    let at = UnixMillis::from(std::time::SystemTime::now());
    let event = |kind, drawn| Event::new(kind, at, [drawn; 10]).client(client(0));
    let events = vec![
        event(EventKind::ClientOnline, 1),
        event(EventKind::MemberLeft, 2).network(domain::NetworkId::from_bytes([7; 16])),
        event(EventKind::MemberLeft, 3).network(network),
        event(EventKind::NetworkCreated, 4).network(network),
    ];
    lab.stores.events.record_events(events).await.unwrap();
    let got = receiver.until(1).await;
    until(&lab, &made, |shown| shown["delivered"] == 1).await;
    assert_eq!((got[0].json()["network"].clone(), receiver.got().len()), (json!(network), 1));
    lab.end().await;
}

#[tokio::test]
async fn private_receivers_are_refused_unless_they_are_wanted() {
    let lab = Lab::new().await;
    for url in [
        "http://127.0.0.1:1/",
        "http://localhost/",
        "http://[::1]/",
        "https://10.0.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://0.0.0.0/",
        "http://2130706433/",
        "http://[::ffff:127.0.0.1]/",
    ] {
        let refused = lab.post_json("/v1/webhooks", &json!({ "name": "n", "url": url })).await;
        assert!(refused.body.contains("admin.webhooks.private"), "{url}: {}", refused.body);
        assert_eq!(refused.problem(400), "invalid-body");
    }
    // A name can lead anywhere: it is looked at when something is sent.
    let receiver = Receiver::new(|_| Answers::Status(200));
    let made = make(&lab, "http://receiver.test/", json!({})).await;
    let port = receiver.address.port();
    let kept = lab.stores.webhooks.webhooks(None, 1).await.unwrap().remove(0);
    let terms = WebhookTerms { url: format!("http://localhost:{port}/"), ..kept.terms };
    lab.stores.webhooks.change_webhook(kept.id, terms, None, kept.made).await.unwrap();
    let tested = lab.post(&format!("{}/test", path(&made))).await.ok();
    assert_eq!((&tested["taken"], &tested["reason"]), (&json!(false), &json!("private-address")));
    assert!(receiver.got().is_empty());
    lab.end().await;
}

#[tokio::test]
async fn what_a_webhook_cannot_be_is_refused() {
    let lab = Lab::with(private()).await;
    let good = json!({ "name": "n", "url": "https://example.test/" });
    let many = vec!["member.*"; 65];
    let wrong = [
        ("name", json!("")),
        ("name", json!("x".repeat(101))),
        ("name", json!("a\nb")),
        ("url", json!("ftp://example.test/")),
        ("url", json!("https://user:password@example.test/")),
        ("url", json!(format!("https://example.test/{}", "x".repeat(2_000)))),
        ("kinds", json!(["nobody.*"])),
        ("kinds", json!(many)),
        ("kinds", json!("member.*")),
        ("networks", json!(["xyz"])),
        ("accounts", json!([7])),
        ("colour", json!("red")),
    ];
    for (field, value) in wrong {
        let mut wanted = good.clone();
        wanted[field] = value;
        assert_eq!(lab.post_json("/v1/webhooks", &wanted).await.problem(400), "invalid-body", "{wanted}");
    }
    let mut most = good.clone();
    most["kinds"] = json!(many[1..]);
    assert_eq!(lab.post_json("/v1/webhooks", &most).await.status, 201);
    let reader = lab.token(&["read", "write"]).await;
    assert_eq!(lab.json_as(&reader, "POST", "/v1/webhooks", &good).await.problem(403), "forbidden");
    let made = lab.get("/v1/webhooks").await.ok();
    let unseen = lab.send("DELETE", &path(&made["items"][0]), &lab.authorization()).await;
    assert_eq!(unseen.problem(428), "precondition-required");
    let headers = format!("{}If-Match: \"r1\"\r\n", lab.authorization());
    assert_eq!(lab.send("DELETE", &path(&made["items"][0]), &headers).await.status, 204);
    assert_eq!(lab.get(&path(&made["items"][0])).await.problem(404), "not-found");
    lab.end().await;
}

#[tokio::test]
async fn ten_thousand_events_for_a_slow_receiver_wait_in_the_log_and_not_in_memory() {
    let timeout = Duration::from_secs(30);
    let lab = Lab::with(Config { webhooks: WebhooksConfig { timeout, ..private().webhooks }, ..private() }).await;
    let slow = Receiver::new(|_| {
        std::thread::sleep(Duration::from_millis(300));
        Answers::Status(200)
    });
    let quick = Receiver::new(|_| Answers::Status(200));
    let late = make(&lab, &slow.url(), json!({})).await;
    let before = resident_kib();
    for batch in 0..20_u64 {
        happen(&lab, batch * 500..(batch + 1) * 500).await;
    }
    slow.until(2).await;
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 32 * 1_024, "{grown} KiB more");
    // Another webhook is not held up by it.
    let soon = make(&lab, &quick.url(), json!({})).await;
    happen(&lab, 10_000..10_003).await;
    quick.until(3).await;
    until(&lab, &soon, |shown| shown["delivered"] == 3).await;
    let shown = lab.get(&path(&late)).await.ok();
    assert!(shown["delivered"].as_u64().unwrap() < 1_000 && shown["missed"] == 0, "{shown}");
    lab.end().await;
}

fn private() -> Config {
    let [timeout, first_pause, longest_pause, poll] = [500, 20, 50, 20].map(Duration::from_millis);
    let webhooks =
        WebhooksConfig { private: true, timeout, first_pause, longest_pause, poll, ..WebhooksConfig::default() };
    Config { webhooks, ..Config::default() }
}

async fn make(lab: &Lab, url: &str, wanted: Value) -> Value {
    let mut document = json!({ "name": "a test's", "url": url });
    document.as_object_mut().unwrap().extend(wanted.as_object().unwrap().clone());
    let made = lab.post_json("/v1/webhooks", &document).await;
    assert_eq!(made.status, 201, "{}", made.body);
    made.json()
}

fn path(made: &Value) -> String {
    format!("/v1/webhooks/{}", made["webhook"].as_str().unwrap())
}

async fn until(lab: &Lab, made: &Value, happened: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..2_000 {
        let shown = lab.get(&path(made)).await.ok();
        if happened(&shown) {
            return shown;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it did not happen: {}", lab.get(&path(made)).await.body);
}

async fn happen(lab: &Lab, numbers: std::ops::Range<u64>) {
    let at = UnixMillis::from(std::time::SystemTime::now());
    let event = |nth: u64| {
        let mut drawn = [0; 10];
        drawn[..8].copy_from_slice(&nth.to_be_bytes());
        Event::new(EventKind::ClientOnline, at, drawn).client(client(nth))
    };
    lab.stores.events.record_events(numbers.map(event).collect()).await.unwrap();
}

fn client(nth: u64) -> ClientId {
    ClientId::from_bytes([u8::try_from(nth % 200).unwrap() + 1; 16])
}

fn now_s() -> u64 {
    UnixMillis::from(std::time::SystemTime::now()).0 / 1_000
}

/// What this process has in memory.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
