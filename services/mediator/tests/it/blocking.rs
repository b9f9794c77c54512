//! What operators hold against clients, and what new ones meet while too many come: with the real client.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    deployment::Deployment,
    device::Device,
    journeys::{pair, ping, wait},
    operating::{json, run},
    operators::http,
    telling::Follower,
};

#[test]
fn a_blocked_client_is_told_why_and_until_when_and_its_tunnels_go_on() {
    let deployment = Deployment::embedded();
    let (mut anna, bert) = pair(deployment.server());
    let (anna_at, anna_id) = (anna.address4(), anna.id());
    wait(&bert, &anna_at, "direct");

    let dry = json(&deployment, &["blocks", "create", "client", &anna_id, "refuse", "--dry-run"]);
    assert_eq!((&dry["clients"], &dry["online"], &dry["ends"]), (&1.into(), &1.into(), &1.into()), "{dry}");
    let made = json(
        &deployment,
        &["blocks", "create", "client", &anna_id, "refuse", "--reason", "scripted sign-ups", "--for", "2h"],
    );
    let told = until(&anna, |status| status["refusal"]["code"] == "blocked");
    assert_eq!(told["control"], "offline");
    let block = &told["refusal"]["block"];
    assert_eq!((&block["degree"], &block["reason"]), (&"refuse".into(), &"scripted sign-ups".into()));
    assert_eq!(block["until_ms"], made["expires_ms"]);
    assert_eq!(told["refusal"]["retry_after_ms"], 60_000, "it asks again long before the block ends: {told}");
    assert!(told["control_detail"].as_str().unwrap().contains("scripted sign-ups; until 20"), "{told}");
    assert!(anna.log().contains("scripted sign-ups"), "{}", anna.log());
    ping(&bert, &anna_at, "3");
    assert_eq!(bert.status()["control"], "connected");

    let follower = Follower::start(&deployment, &["--after", "0", "--kind", "block.*"]);
    let listed = json(&deployment, &["blocks", "list"]);
    assert_eq!(listed["items"][0], made);
    let id = made["block"].as_str().unwrap();
    assert_eq!(json(&deployment, &["blocks", "change", id, "--reason", "another"])["reason"], "another");
    assert!(run(&deployment, &["blocks", "lift", id]).status.success());
    assert_eq!(json(&deployment, &["blocks", "list"])["items"].as_array().unwrap().len(), 0);
    let told = follower.until(|event| event["kind"] == "block.lifted");
    let kinds: Vec<_> = told.iter().map(|event| event["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["block.made", "block.changed", "block.lifted"]);
    assert!(told.iter().all(|event| event["block"] == id && event["client"] == *anna_id), "{told:#?}");
    anna.kill();
    anna.resume();
    let back = until(&anna, |status| status["control"] == "connected");
    assert!(back.get("refusal").is_none(), "{back}");
}

#[test]
fn a_block_on_addresses_keeps_new_clients_out_and_nobody_else() {
    let deployment = Deployment::embedded();
    let (mut anna, bert) = pair(deployment.server());
    let create = ["blocks", "create", "prefix", "127.0.0.0/16", "refuse"];
    // Gateways tell of themselves every few seconds.
    let dry = loop {
        let dry = json(&deployment, &[&create[..], &["--dry-run"]].concat());
        if dry["total"] == 2 {
            break dry;
        }
        sleep(Duration::from_millis(100));
    };
    assert_eq!((&dry["clients"], &dry["online"], &dry["ends"]), (&Value::Null, &2.into(), &0.into()), "{dry}");
    let create = [&create[..], &["--reason", "a botnet"]].concat();
    assert!(!run(&deployment, &create).status.success(), "without the number of clients");
    let made = json(&deployment, &[&create[..], &["--confirm", "2"]].concat());
    assert_eq!((&made["target"], &made["degree"]), (&"127.0.0.0/16".into(), &"refuse".into()));

    let carl = Device::start(deployment.server());
    let told = until(&carl, |status| status["refusal"]["code"] == "registration-blocked");
    assert_eq!(told["refusal"]["block"]["reason"], "a botnet");
    assert_eq!((&anna.status()["control"], &bert.status()["control"]), (&"connected".into(), &"connected".into()));
    anna.kill();
    anna.resume();
    until(&anna, |status| status["control"] == "connected");
}

#[test]
fn a_blocked_network_takes_nobody_and_keeps_its_members() {
    let deployment = Deployment::embedded();
    let (anna, bert) = pair(deployment.server());
    let carl = Device::start(deployment.server());
    let networks = json(&deployment, &["networks", "list"]);
    let network = networks["items"][0]["network"].as_str().unwrap();
    let reason = "trades in stolen goods";
    // Two of three clients online are its members.
    json(&deployment, &["blocks", "create", "network", network, "refuse", "--reason", reason, "--confirm", "2"]);
    let refused = carl.join("friday games", "correct horse");
    let text = refused.json["error"]["message"].as_str().unwrap().to_owned();
    assert!(text.contains(reason), "{text}");
    assert_eq!(refused.refused(), "network-blocked");
    assert_eq!(
        carl.join("friday games", "wrong").refused(),
        "network-denied",
        "who does not know the password learns nothing"
    );
    wait(&anna, &bert.address4(), "any");
}

#[test]
fn while_too_many_come_a_new_client_works_and_a_known_one_does_not() {
    let deployment =
        Deployment::with_config("[auth.ladder]\nfree_per_address = 1\nwork_bits = 12\nmost_work_bits = 14\n");
    let (mut anna, bert) = pair(deployment.server());
    assert!(bert.log().contains("working for the login"), "{}", bert.log());
    assert!(!anna.log().contains("working for the login"));
    assert_eq!(bert.status()["control"], "connected");
    let done = "gateway_work_total{outcome=\"done\"} 1";
    let metrics = || http(deployment.ops(), "/metrics", "").1;
    assert!(
        metrics().contains(done) && metrics().contains("auth_logins_total{outcome=\"challenged\"} 1"),
        "{}",
        metrics()
    );
    anna.kill();
    anna.resume();
    until(&anna, |status| status["control"] == "connected");
    assert!(metrics().contains(done), "{}", metrics());
    assert!(!anna.log().contains("working for the login"), "{}", anna.log());
}

/// Waits until the client says what is expected of it.
#[track_caller]
fn until(device: &Device, expected: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let status = device.status();
        if expected(&status) {
            return status;
        }
        assert!(Instant::now() < deadline, "{status}\n{}", device.log());
        sleep(Duration::from_millis(50));
    }
}
