//! Networks of hubs and spokes, end to end.

use serde_json::Value;

use crate::{
    deployment::Deployment,
    device::Device,
    journeys::{ping, wait},
};

const NETWORK: &str = "wheel";

#[test]
fn spokes_reach_hubs_and_not_each_other() {
    let mut deployment = Deployment::embedded();
    let hub = Device::start(deployment.server());
    let (one, mut two) = (Device::start(deployment.server()), Device::start(deployment.server()));
    hub.run_with_password(&["create", NETWORK, "--kind", "hub"], "correct horse").ok();
    one.join(NETWORK, "correct horse").ok();
    two.join(NETWORK, "correct horse").ok();
    let (hub_at, one_at, two_at) = (hub.address4(), one.address4(), two.address4());
    for (from, to) in [(&one, &hub_at), (&two, &hub_at), (&hub, &one_at), (&hub, &two_at)] {
        wait(from, to, "direct");
        ping(from, to, "1");
    }
    assert_eq!(one.run(&["ping", &two_at, "--count", "1"]).refused(), "peer-unknown");
    assert_eq!((peers(&one), peers(&two)), (vec![hub_at.clone()], vec![hub_at.clone()]));
    let about = &one.status()["networks"][0];
    assert_eq!((&about["kind"], &about["hub"], &about["members"]), (&"hub".into(), &false.into(), &3.into()));
    assert_eq!(hub.status()["networks"][0]["hub"], true);

    // A second hub meets the other spoke at once, and no more once it is a spoke again.
    assert_eq!(one.run(&["hub", &one.id(), NETWORK, "on"]).refused(), "not-permitted");
    assert_eq!(one.run(&["kind", NETWORK, "mesh"]).refused(), "not-permitted");
    hub.run(&["hub", &one_at, NETWORK, "on"]).ok();
    until(|| peers(&two).contains(&one_at) && peers(&one).contains(&two_at));
    wait(&two, &one_at, "any");
    ping(&two, &one_at, "1");
    hub.run(&["hub", &one_at, NETWORK, "off"]).ok();
    until(|| peers(&two) == [hub_at.as_str()] && peers(&one) == [hub_at.as_str()]);
    assert_eq!(two.run(&["ping", &one_at, "--count", "1"]).refused(), "peer-unknown");

    // Without servers, and after a restart, the same holds.
    deployment.kill();
    two.stop();
    two.resume();
    assert_eq!(peers(&two), [hub_at.as_str()]);
    wait(&two, &hub_at, "any");
    ping(&two, &hub_at, "1");
    deployment.restart();
    hub.run(&["kind", NETWORK, "mesh"]).ok();
    until(|| peers(&two).contains(&one_at) && peers(&one).contains(&two_at));
    wait(&two, &one_at, "any");
    ping(&two, &one_at, "1");
}

fn peers(device: &Device) -> Vec<String> {
    let peers: Value = device.run(&["peers"]).ok();
    peers.as_array().unwrap().iter().map(|peer| peer["address4"].as_str().unwrap().to_owned()).collect()
}

/// Waits for what the servers tell on their own. The runner's time-out ends a wait in vain.
fn until(mut happened: impl FnMut() -> bool) {
    while !happened() {}
}
