//! Networks get other passwords and newer secrets, and nobody who stays notices.

use serde_json::Value;

use crate::{
    deployment::Deployment,
    device::Device,
    journeys::{pair, ping, wait},
};

const NETWORK: &str = "friday games";

#[test]
fn a_changed_password_lets_everybody_stay_and_the_old_one_lets_nobody_in() {
    let deployment = Deployment::embedded();
    let (anna, bert) = pair(deployment.server());
    let carl = Device::start(deployment.server());
    wait(&anna, &bert.address4(), "direct");
    settled(&[&anna, &bert], 1);
    let invite = anna.run(&["invite", NETWORK]).ok()["invite"].as_str().unwrap().to_owned();
    assert_eq!(bert.set_pass(NETWORK, "mine").refused(), "not-permitted");
    assert_eq!(anna.set_pass(NETWORK, "").refused(), "password-invalid");

    let rekeyed = anna.set_pass(NETWORK, "battery staple").ok();
    assert_eq!((&rekeyed["epoch"], &rekeyed["sealed"], &rekeyed["left_out"]), (&2.into(), &1.into(), &no_one()));
    settled(&[&anna, &bert], 2);
    ping(&anna, &bert.address4(), "2");
    ping(&bert, &anna.address4(), "2");

    assert_eq!(carl.join(NETWORK, "correct horse").refused(), "network-denied");
    assert_eq!(carl.run(&["join", "--invite", &invite]).refused(), "invite-invalid");
    carl.join(NETWORK, "battery staple").ok();
    for device in [&anna, &bert] {
        wait(&carl, &device.address4(), "any");
        ping(&carl, &device.address4(), "1");
    }
    let invite = anna.run(&["invite", NETWORK]).ok()["invite"].as_str().unwrap().to_owned();
    let dora = Device::start(deployment.server());
    dora.run(&["join", "--invite", &invite]).ok();
    wait(&dora, &carl.address4(), "any");
    ping(&dora, &carl.address4(), "1");
}

#[test]
fn an_eviction_makes_a_newer_secret_which_the_others_get_while_away_and_newcomers_by_the_door() {
    let deployment = Deployment::embedded();
    let (anna, mut bert) = pair(deployment.server());
    let (carl, dora) = (Device::start(deployment.server()), Device::start(deployment.server()));
    carl.join(NETWORK, "correct horse").ok();
    settled(&[&anna, &bert, &carl], 1);
    bert.kill();

    anna.run(&["evict", &carl.id(), NETWORK]).ok();
    settled(&[&anna], 2);
    // It was away, and nobody types anything.
    bert.resume();
    settled(&[&bert], 2);
    wait(&bert, &anna.address4(), "direct");
    ping(&bert, &anna.address4(), "1");

    // The password opens the older secret only; an owner who is there hands out the newest.
    let joined = dora.join(NETWORK, "correct horse").ok();
    assert_eq!(joined["warning"], "secret-lacking");
    wait(&dora, &bert.address4(), "direct");
    ping(&dora, &bert.address4(), "1");
    until(|| dora.status()["networks"][0]["warning"] == Value::Null);

    // And one who restarts has all that it needs.
    bert.kill();
    bert.resume();
    wait(&bert, &dora.address4(), "direct");
    ping(&bert, &dora.address4(), "1");
}

#[test]
fn a_secret_that_nobody_made_is_made_by_the_next_who_may() {
    let deployment = Deployment::embedded();
    let (mut anna, bert) = pair(deployment.server());
    let carl = Device::start(deployment.server());
    carl.join(NETWORK, "correct horse").ok();
    settled(&[&anna, &bert, &carl], 1);
    anna.run(&["role", &bert.id(), NETWORK, "admin"]).ok();
    until(|| bert.status()["networks"][0]["role"] == "admin");

    // Removed, and whoever did it is gone before anything else happened.
    anna.run(&["ban", &carl.id(), NETWORK]).ok();
    anna.kill();
    settled(&[&bert], 2);
    anna.resume();
    settled(&[&anna], 2);
    wait(&anna, &bert.address4(), "direct");
    ping(&anna, &bert.address4(), "1");
}

#[test]
fn a_password_that_is_changed_right_after_an_eviction_is_changed() {
    let deployment = Deployment::embedded();
    let (anna, bert) = pair(deployment.server());
    settled(&[&anna, &bert], 1);
    anna.run(&["evict", &bert.id(), NETWORK]).ok();
    let rekeyed = anna.set_pass(NETWORK, "battery staple").ok();
    let epoch = rekeyed["epoch"].as_u64().unwrap();
    assert!((2..=3).contains(&epoch), "{rekeyed}");
    settled(&[&anna], epoch);
    assert_eq!(bert.join(NETWORK, "correct horse").refused(), "network-denied");
    bert.join(NETWORK, "battery staple").ok();
    wait(&bert, &anna.address4(), "any");
    ping(&bert, &anna.address4(), "1");
}

/// Waits until all of them have the secret of this epoch, and the server knows it.
fn settled(devices: &[&Device], epoch: u64) {
    for device in devices {
        until(|| {
            let network = &device.status()["networks"][0];
            network["secret_epoch"] == epoch && network["secret_proved"] == true
        });
    }
}

fn no_one() -> Value {
    Value::Array(Vec::new())
}

/// Waits for what the servers and the clients do on their own. The runner's time-out ends a wait in vain.
fn until(mut happened: impl FnMut() -> bool) {
    while !happened() {}
}
