//! Owners and admins rule their networks, end to end.

use serde_json::Value;

use crate::{
    deployment::Deployment,
    device::Device,
    journeys::{pair, ping, wait},
};

const NETWORK: &str = "friday games";

#[test]
fn a_banned_machine_is_out_at_once_and_stays_out() {
    let deployment = Deployment::embedded();
    let (anna, bert) = pair(deployment.server());
    let bert_at = bert.address4();
    wait(&anna, &bert_at, "direct");
    bert.run(&["nick", "Bert"]).ok();
    until(|| anna.peer(&bert_at)["nick"] == "Bert");

    anna.run(&["ban", "Bert", NETWORK]).ok();
    until(|| bert.status()["networks"] == Value::Array(Vec::new()));
    assert_eq!(anna.run(&["peers"]).ok(), Value::Array(Vec::new()));
    assert_eq!(bert.join(NETWORK, "correct horse").refused(), "banned");
    let lists = anna.run(&["admissions", NETWORK]).ok();
    assert_eq!(lists["bans"][0]["nick"], "Bert", "{lists}");

    anna.run(&["unban", "Bert", NETWORK]).ok();
    bert.join(NETWORK, "correct horse").ok();
    wait(&anna, &bert_at, "any");
    ping(&anna, &bert_at, "1");
}

#[test]
fn an_evicted_machine_may_return() {
    let deployment = Deployment::embedded();
    let (anna, bert) = pair(deployment.server());
    let bert_at = bert.address4();
    wait(&anna, &bert_at, "any");

    assert_eq!(bert.run(&["evict", &anna.id(), NETWORK]).refused(), "not-permitted");
    anna.run(&["evict", &bert_at, NETWORK]).ok();
    until(|| bert.status()["networks"] == Value::Array(Vec::new()));
    assert_eq!(anna.run(&["evict", &bert.id(), NETWORK]).refused(), "member-unknown");
    bert.join(NETWORK, "correct horse").ok();
    wait(&bert, &anna.address4(), "any");
    ping(&bert, &anna.address4(), "1");
}

#[test]
fn an_applicant_waits_over_a_restart_and_is_let_in() {
    let deployment = Deployment::embedded();
    let (anna, mut bert) = (Device::start(deployment.server()), Device::start(deployment.server()));
    anna.create(NETWORK, "correct horse").ok();
    anna.run(&["approval", NETWORK, "ask"]).ok();

    assert_eq!(bert.join(NETWORK, "wrong").refused(), "network-denied");
    assert_eq!(bert.join(NETWORK, "correct horse").refused(), "awaiting-approval");
    assert_eq!(bert.status()["awaiting"][0], NETWORK);
    bert.kill();
    bert.resume();
    assert_eq!(bert.status()["awaiting"][0], NETWORK);
    let lists = anna.run(&["admissions", NETWORK]).ok();
    assert_eq!(lists["applicants"][0]["id"], bert.id().as_str(), "{lists}");

    anna.run(&["approve", &bert.id(), NETWORK]).ok();
    until(|| bert.status()["awaiting"] == Value::Array(Vec::new()));
    wait(&bert, &anna.address4(), "any");
    ping(&bert, &anna.address4(), "1");
}

#[test]
fn a_rejected_applicant_waits_no_more() {
    let deployment = Deployment::embedded();
    let (anna, bert) = (Device::start(deployment.server()), Device::start(deployment.server()));
    anna.create(NETWORK, "correct horse").ok();
    anna.run(&["approval", NETWORK, "ask"]).ok();
    assert_eq!(bert.join(NETWORK, "correct horse").refused(), "awaiting-approval");

    anna.run(&["reject", &bert.id(), NETWORK]).ok();
    until(|| bert.status()["awaiting"] == Value::Array(Vec::new()));
    assert_eq!(anna.run(&["approve", &bert.id(), NETWORK]).refused(), "member-unknown");
    anna.run(&["approval", NETWORK, "waive"]).ok();
    bert.join(NETWORK, "correct horse").ok();
}

#[test]
fn an_invite_opens_the_network_to_those_who_have_it() {
    let deployment = Deployment::embedded();
    let devices: Vec<Device> = (0..3).map(|_| Device::start(deployment.server())).collect();
    let [anna, bert, carl] = &devices[..] else { panic!("three") };
    anna.create(NETWORK, "correct horse").ok();
    anna.run(&["approval", NETWORK, "ask"]).ok();
    let made = anna.run(&["invite", NETWORK, "--uses", "1", "--expires", "1h"]).ok();
    let invite = made["invite"].as_str().unwrap();
    let listed = anna.run(&["invites", NETWORK]).ok();
    assert_eq!(listed["invites"][0]["id"], made["id"], "{listed}");
    assert!(!listed.to_string().contains(invite), "a link is shown once");

    bert.run(&["join", "--invite", invite]).ok();
    assert_eq!(carl.run(&["join", "--invite", invite]).refused(), "invite-used-up");
    wait(bert, &anna.address4(), "any");
    ping(bert, &anna.address4(), "1");

    assert_eq!(bert.run(&["invite", NETWORK]).refused(), "not-permitted");
    let second = anna.run(&["invite", NETWORK]).ok();
    anna.run(&["revoke", second["id"].as_str().unwrap(), NETWORK]).ok();
    assert_eq!(carl.run(&["join", "--invite", second["invite"].as_str().unwrap()]).refused(), "invite-invalid");
    assert_eq!(carl.run(&["join", "--invite", "buri-invite:00"]).refused(), "invite-invalid");
}

#[test]
fn names_locks_and_roles_are_seen_by_everybody() {
    let deployment = Deployment::embedded();
    let (anna, bert) = pair(deployment.server());
    let carl = Device::start(deployment.server());

    anna.run(&["lock", NETWORK]).ok();
    assert_eq!(carl.join(NETWORK, "correct horse").refused(), "network-locked");
    until(|| bert.status()["networks"][0]["locked"] == true);
    assert_eq!(bert.run(&["unlock", NETWORK]).refused(), "not-permitted");
    anna.run(&["role", &bert.id(), NETWORK, "admin"]).ok();
    until(|| bert.status()["networks"][0]["role"] == "admin");
    bert.run(&["unlock", NETWORK]).ok();
    carl.join(NETWORK, "correct horse").ok();

    anna.run(&["rename", NETWORK, "Saturday"]).ok();
    assert_eq!(anna.status()["networks"][0]["name"], "Saturday");
    until(|| carl.status()["networks"][0]["name"] == "Saturday");

    anna.run(&["transfer", &bert.id(), "saturday"]).ok();
    until(|| bert.status()["networks"][0]["role"] == "owner");
    assert_eq!(anna.status()["networks"][0]["role"], "admin");
    let members = bert.run(&["members", "saturday"]).ok();
    let role = |id: String| {
        let line = members.as_array().unwrap().iter().find(|line| line["id"] == id.as_str()).unwrap();
        line["role"].as_str().unwrap().to_owned()
    };
    assert_eq!([anna.id(), bert.id(), carl.id()].map(role), ["admin", "owner", "member"]);

    assert_eq!(anna.run(&["delete", "saturday"]).refused(), "not-permitted");
    bert.run(&["delete", "saturday"]).ok();
    for device in [&anna, &bert, &carl] {
        until(|| device.status()["networks"] == Value::Array(Vec::new()));
    }
    assert_eq!(bert.run(&["delete", "saturday"]).refused(), "not-a-member");
    carl.create("saturday", "mine now").ok();
}

#[test]
fn a_machine_that_was_away_learns_that_it_was_banned() {
    let deployment = Deployment::embedded();
    let (anna, mut bert) = pair(deployment.server());
    let bert_id = bert.id();
    bert.kill();
    anna.run(&["ban", &bert_id, NETWORK]).ok();
    bert.resume();
    until(|| bert.status()["networks"] == Value::Array(Vec::new()));
}

/// Waits for what the servers tell on their own. The runner's time-out ends a wait in vain.
fn until(mut happened: impl FnMut() -> bool) {
    while !happened() {}
}
