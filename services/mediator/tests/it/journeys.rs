//! What users do, from the first start to the day the servers are down.

use serde_json::Value;

use crate::{deployment::Deployment, device::Device};

/// Two devices in one network, both online.
pub(crate) fn pair(server: &str) -> (Device, Device) {
    pair_on(server, server, &[])
}

/// The same on two servers, with more arguments for the daemons.
pub(crate) fn pair_on(first: &str, second: &str, more: &[&str]) -> (Device, Device) {
    let (anna, bert) = (Device::start_with(first, more), Device::start_with(second, more));
    anna.create("friday games", "correct horse").ok();
    bert.join("Friday Games", "correct horse").ok();
    (anna, bert)
}

/// Waits until `from` has a path of this kind to `to`.
#[track_caller]
pub(crate) fn wait(from: &Device, to: &str, path: &str) -> Value {
    from.run(&["wait", to, "--path", path, "--timeout", "60s"]).ok()
}

/// Checks that every one of `count` pings is answered: at once, or when what two that have just met say to each other over
/// the relay no longer takes all of the 8 kbit/s that the free plan allows.
#[track_caller]
pub(crate) fn ping(from: &Device, to: &str, count: &str) {
    let mut tries = (0..5).map(|_| from.run(&["ping", to, "--count", count]));
    assert!(tries.any(|done| done.status == 0), "{to} does not answer {count} pings");
}

#[test]
fn two_machines_become_one_lan() {
    let deployment = Deployment::embedded();
    let (anna, bert) = pair(deployment.server());
    let (anna_at, bert_at) = (anna.address4(), bert.address4());
    assert_ne!(anna_at, bert_at);

    wait(&anna, &bert_at, "direct");
    ping(&anna, &bert_at, "3");
    ping(&bert, &anna_at, "3");

    let peer = anna.peer(&bert_at);
    assert_eq!(peer["presence"], "online");
    assert_eq!(peer["path"], "direct");
    let why = anna.run(&["why", &bert_at]).ok();
    assert_eq!(why["outcome"], "direct", "{why}");
}

#[test]
fn a_pair_that_must_not_go_direct_uses_the_relay() {
    let deployment = Deployment::embedded();
    let (anna, bert) = pair_on(deployment.server(), deployment.server(), &["--path", "relay"]);
    let bert_at = bert.address4();

    wait(&anna, &bert_at, "relay");
    ping(&anna, &bert_at, "2");
    assert_eq!(anna.peer(&bert_at)["path"], "relay");
}

#[test]
fn a_tunnel_outlives_all_servers_and_everybody_finds_back() {
    let mut deployment = Deployment::embedded();
    let (anna, mut bert) = pair(deployment.server());
    let (anna_at, bert_at) = (anna.address4(), bert.address4());
    wait(&anna, &bert_at, "direct");

    deployment.kill();
    ping(&anna, &bert_at, "3");
    bert.kill();
    bert.resume();
    wait(&bert, &anna_at, "direct");
    ping(&bert, &anna_at, "3");

    deployment.restart();
    anna.create("second", "correct horse").ok();
    bert.join("second", "correct horse").ok();
    assert_eq!(anna.address4(), anna_at);
    assert_eq!(bert.address4(), bert_at);
}

#[test]
fn a_member_who_leaves_is_gone_for_the_others() {
    let deployment = Deployment::embedded();
    let (anna, bert) = pair(deployment.server());
    wait(&anna, &bert.address4(), "any");

    bert.run(&["leave", "friday games"]).ok();
    assert_eq!(bert.run(&["peers"]).ok(), Value::Array(Vec::new()));
    assert_eq!(bert.run(&["leave", "friday games"]).refused(), "not-a-member");
}

#[test]
fn a_nickname_names_a_peer() {
    let deployment = Deployment::embedded();
    let (anna, bert) = pair(deployment.server());
    bert.run(&["nick", "Bert"]).ok();
    wait(&anna, &bert.address4(), "any");
    ping(&anna, &bert.id(), "1");
    ping(&anna, "Bert", "1");
}

#[test]
fn servers_leave_in_peace_when_asked() {
    let mut deployment = Deployment::embedded();
    let (_anna, _bert) = pair(deployment.server());
    assert!(deployment.terminate());
}
