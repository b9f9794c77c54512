//! Bad input of users and operators: a coded error each, and nothing lost.

use crate::{
    deployment::{Deployment, mediator},
    device::Device,
    journeys::{pair, ping, wait},
};

#[test]
fn a_wrong_password_and_an_unknown_network_are_one_answer() {
    let deployment = Deployment::embedded();
    let (_anna, _bert) = pair(deployment.server());
    let carl = Device::start(deployment.server());
    assert_eq!(carl.join("friday games", "wrong").refused(), "network-denied");
    assert_eq!(carl.join("no such network", "wrong").refused(), "network-denied");
    carl.join("friday games", "correct horse").ok();
}

#[test]
fn a_name_that_looks_like_a_taken_one_is_taken() {
    let deployment = Deployment::embedded();
    let (anna, bert) = pair(deployment.server());
    assert_eq!(anna.create("FRIDAY games", "other").refused(), "name-taken");
    assert_eq!(bert.join("friday games", "correct horse").refused(), "already-member");
}

#[test]
fn the_sixth_member_of_a_free_network_finds_it_full() {
    let deployment = Deployment::embedded();
    let devices: Vec<Device> = (0..6).map(|_| Device::start(deployment.server())).collect();
    devices[0].create("five", "p").ok();
    for device in &devices[1..5] {
        device.join("five", "p").ok();
    }
    assert_eq!(devices[5].join("five", "p").refused(), "network-full");
}

#[test]
fn an_exhausted_pool_is_said_and_ipv6_still_works() {
    let deployment = Deployment::with_config("[store]\npool = \"100.64.0.0/30\"\n");
    let (anna, bert) = pair(deployment.server());
    let carl = Device::start(deployment.server());
    let joined = carl.join("friday games", "correct horse").ok();
    assert_eq!(joined["warning"], "address-pool-exhausted", "{joined}");
    let status = carl.status();
    assert!(status["address4"].is_null(), "{status}");
    assert!(anna.status()["address4"].is_string() && bert.status()["address4"].is_string());
    let anna_at = anna.status()["address6"].as_str().unwrap().to_owned();
    wait(&carl, &anna_at, "any");
    ping(&carl, &anna_at, "1");
}

#[test]
fn a_server_with_another_key_is_refused() {
    let (first, second) = (Deployment::embedded(), {
        let dir = tempfile::tempdir().unwrap();
        Deployment::start(&dir.keep(), crate::deployment::loopback(), "")
    });
    let fingerprint = first.server().split_once('#').unwrap().1;
    let address = second.server().split_once('#').unwrap().0;
    let mallory = Device::start(&format!("{address}#{fingerprint}"));
    assert_eq!(mallory.create("n", "p").refused(), "server-key-mismatch");
}

#[test]
fn a_configuration_with_an_unknown_key_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    std::fs::write(&file, "[relay]\nspeed = 1\n").unwrap();
    let output = mediator().args(["config", "check", "--config"]).arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("speed"));
}

#[test]
fn a_command_without_its_daemon_says_so() {
    let deployment = Deployment::embedded();
    let mut anna = Device::start(deployment.server());
    anna.create("n", "p").ok();
    anna.kill();
    assert_eq!(anna.run(&["status"]).refused(), "daemon-not-running");
}

#[test]
fn wrong_usage_is_status_two() {
    let output = mediator().arg("fly").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}
