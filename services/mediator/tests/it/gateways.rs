//! Networks with gateways, end to end, as far as machines without interfaces of their own tell.

use serde_json::{Value, json};

use crate::{
    deployment::Deployment,
    device::Device,
    journeys::{ping, wait},
};

const NETWORK: &str = "office";
const BEHIND: &str = "192.168.250.0/24";

#[test]
fn a_member_is_led_where_an_admin_named_and_the_machine_agreed() {
    let mut deployment = Deployment::embedded();
    let owner = Device::start(deployment.server());
    let (mut gate, mut one) = (Device::start(deployment.server()), Device::start(deployment.server()));
    owner.run_with_password(&["create", NETWORK, "--kind", "gateway"], "correct horse").ok();
    gate.join(NETWORK, "correct horse").ok();
    one.join(NETWORK, "correct horse").ok();
    let (gate_at, owner_at) = (gate.address4(), owner.address4());
    assert_eq!(owner.status()["networks"][0]["kind"], "gateway");
    assert!(peers(&one).is_empty() && peers(&owner).is_empty());
    assert_eq!(one.run(&["route", NETWORK, "on"]).refused(), "failed");

    // Who may, and what.
    assert_eq!(one.run(&["gateway", &gate.id(), NETWORK, BEHIND]).refused(), "not-permitted");
    for (prefixes, code) in [
        (&["0.0.0.0/0"][..], "not-routable"),
        (&["8.8.8.0/24"], "not-routable"),
        (&["100.64.0.0/24"], "not-routable"),
        (&["10.0.0.0/8", "10.1.0.0/16"], "route-taken"),
    ] {
        assert_eq!(owner.run(&[&["gateway", &gate_at, NETWORK], prefixes].concat()).refused(), code);
    }
    let many: Vec<_> = (0..9).map(|nth| format!("10.9.{nth}.0/24")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    assert_eq!(owner.run(&[&["gateway", &gate_at, NETWORK], &many[..]].concat()).refused(), "limit-reached");
    owner.run(&["gateway", &gate_at, NETWORK, "192.168.250.7/24"]).ok();
    assert_eq!(owner.run(&["gateway", &owner.id(), NETWORK, "192.168.0.0/16"]).refused(), "route-taken");

    // Members meet the gateway, which leads nowhere by that.
    until(|| peers(&one) == [gate_at.as_str()] && peers(&owner) == [gate_at.as_str()]);
    wait(&one, &gate_at, "any");
    ping(&one, &gate_at, "1");
    assert_eq!(one.run(&["ping", &owner_at, "--count", "1"]).refused(), "peer-unknown");
    until(|| state(&one) == "not-agreed" && state(&gate) == "not-agreed");
    assert_eq!(gate.run(&["route", NETWORK, "on"]).ok(), json!({ "agreed": [BEHIND] }));
    until(|| state(&one) == "in-use" && state(&owner) == "in-use" && state(&gate) == "in-use");
    let line = &one.run(&["peers"]).ok()[0]["routes"][0];
    assert_eq!((&line["prefix"], &line["gateway"]), (&BEHIND.into(), &gate.id().into()));
    let members = owner.run(&["members", NETWORK]).ok();
    let leads = members.as_array().unwrap().iter().find(|member| member["id"] == gate.id()).unwrap();
    assert_eq!(leads["routes"], json!([{ "prefix": BEHIND, "agreed": true }]));

    // Without servers, and after restarts, the same holds.
    deployment.kill();
    gate.kill();
    one.stop();
    for device in [&mut gate, &mut one] {
        device.resume();
        assert_eq!(state(device), "in-use");
    }
    // The user of the machine can take it back without a server, which is told later.
    gate.run(&["route", NETWORK, "off"]).ok();
    assert_eq!(state(&gate), "not-agreed");
    deployment.restart();
    until(|| state(&one) == "not-agreed");

    gate.run(&["route", NETWORK, "on"]).ok();
    until(|| state(&one) == "in-use");
    owner.run(&["gateway", &gate_at, NETWORK, "off"]).ok();
    until(|| routes(&one).is_empty() && peers(&one).is_empty() && routes(&gate).is_empty());
    // Named again it is as before: the machine had agreed to this prefix.
    owner.run(&["gateway", &gate.id(), NETWORK, BEHIND]).ok();
    until(|| state(&one) == "in-use");
    owner.run(&["evict", &gate.id(), NETWORK]).ok();
    until(|| routes(&one).is_empty() && routes(&gate).is_empty());
    assert_eq!(gate.run(&["route", NETWORK, "on"]).refused(), "not-a-member");
    owner.run(&["kind", NETWORK, "mesh"]).ok();
    until(|| one.status()["networks"][0]["kind"] == "mesh");
    assert_eq!(one.run(&["route", NETWORK, "on"]).refused(), "no-gateways");
}

fn routes(device: &Device) -> Vec<Value> {
    device.status()["routes"].as_array().cloned().unwrap_or_default()
}

/// Of the one prefix.
fn state(device: &Device) -> String {
    let routes = routes(device);
    routes.first().and_then(|line| line["state"].as_str()).unwrap_or_default().to_owned()
}

fn peers(device: &Device) -> Vec<String> {
    let peers: Value = device.run(&["peers"]).ok();
    peers.as_array().unwrap().iter().map(|peer| peer["address4"].as_str().unwrap().to_owned()).collect()
}

/// Waits for what the servers tell on their own. The runner's time-out ends a wait in vain.
fn until(mut happened: impl FnMut() -> bool) {
    while !happened() {}
}
