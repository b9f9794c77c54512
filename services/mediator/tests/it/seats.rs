//! A plan that allows fewer members than there are, end to end: nobody is removed, the owner's rule says who sits, and everybody
//! can see it.

use serde_json::{Value, json};

use crate::{
    accounts::{EMAIL, signed_up},
    browser::Browser,
    deployment::Deployment,
    device::Device,
    journeys::{ping, wait},
    membership::Gate,
    operating::{json as ordered, run},
};

const NETWORK: &str = "friday games";

#[test]
fn a_smaller_plan_unseats_the_last_to_come_and_a_bigger_one_brings_them_back() {
    let mut deployment = Deployment::embedded();
    let account = Account::new(&deployment);
    let anna = account.owner(deployment.server());
    let (bert, carl) = (Device::start(deployment.server()), Device::start(deployment.server()));
    let mut dora = Device::start(deployment.server());
    for guest in [&bert, &carl, &dora] {
        guest.join(NETWORK, "correct horse").ok();
    }
    let [anna_at, bert_at, carl_at, dora_at] = [&anna, &bert, &carl, &dora].map(Device::address4);
    wait(&carl, &bert_at, "direct");
    ping(&carl, &bert_at, "1");

    let asked = ordered(&deployment, &["accounts", "plan", &account.id, "pair", "--dry-run"]);
    assert_eq!(asked, json!({ "dry_run": true, "seats_lost": { "networks": 1, "members": 2, "more": false } }));
    assert_eq!(ordered(&deployment, &["accounts", "show", &account.id])["plan"], "free");
    account.plan(&deployment, "pair");
    until(|| sits(&anna) && sits(&bert) && !sits(&carl) && !sits(&dora));
    until(|| peers(&anna) == [bert_at.as_str()] && peers(&bert) == [anna_at.as_str()]);
    assert_eq!((peers(&carl), peers(&dora)), (vec![], vec![]));
    assert_eq!(carl.run(&["ping", &bert_at, "--count", "1"]).refused(), "no-seat");
    assert_eq!(bert.run(&["ping", &carl_at, "--count", "1"]).refused(), "no-seat");
    assert_eq!(carl.run(&["ping", &dora_at, "--count", "1"]).refused(), "no-seat");
    assert_eq!(carl.status()["networks"][0]["members"], 4, "it is still a member");
    ping(&bert, &anna_at, "1");
    assert!(carl.text(&["status"]).contains("no seat"));
    assert!(anna.text(&["members", NETWORK]).lines().filter(|line| line.contains("no seat")).count() == 2);
    let shown = shown(&deployment);
    let unseated = shown["items"].as_array().unwrap().iter().filter(|member| member["seated"] == false).count();
    assert_eq!(unseated, 2, "{shown}");

    // The owner's rule comes before who was there first.
    assert_eq!(bert.run(&["keep", &bert_at, NETWORK, "on"]).refused(), "not-permitted");
    anna.run(&["keep", &dora_at, NETWORK, "on"]).ok();
    until(|| sits(&dora) && !sits(&bert));
    until(|| peers(&anna) == [dora_at.as_str()] && peers(&dora) == [anna_at.as_str()]);
    wait(&anna, &dora_at, "any");
    ping(&anna, &dora_at, "1");
    let members = anna.run(&["members", NETWORK]).ok();
    let dora_is = members.as_array().unwrap().iter().find(|member| member["id"] == dora.id().as_str()).unwrap();
    assert_eq!((&dora_is["kept"], &dora_is["seated"]), (&json!(true), &json!(true)));

    // Without servers, and after a restart, the same holds.
    deployment.kill();
    dora.stop();
    dora.resume();
    assert_eq!(peers(&dora), [anna_at.as_str()]);
    wait(&dora, &anna_at, "any");
    ping(&dora, &anna_at, "1");
    assert_eq!(dora.run(&["ping", &bert_at, "--count", "1"]).refused(), "no-seat");
    assert_eq!(carl.run(&["ping", &anna_at, "--count", "1"]).refused(), "no-seat");
    deployment.restart();

    account.plan(&deployment, "free");
    until(|| [&anna, &bert, &carl, &dora].into_iter().all(sits));
    until(|| [&anna, &bert, &carl, &dora].into_iter().all(|device| peers(device).len() == 3));
    wait(&carl, &bert_at, "any");
    ping(&carl, &bert_at, "1");
}

#[test]
fn who_lost_its_seat_meets_nobody_either_that_no_server_can_tell() {
    let deployment = Deployment::embedded();
    let account = Account::new(&deployment);
    let mut gate = Gate::to(deployment.server());
    let anna = account.owner(deployment.server());
    let (bert, carl) = (Device::start(&gate.server), Device::start(&gate.server));
    bert.join(NETWORK, "correct horse").ok();
    carl.join(NETWORK, "correct horse").ok();
    let [anna_at, bert_at] = [&anna, &bert].map(Device::address4);
    for (from, to) in [(&carl, &bert_at), (&bert, &anna_at), (&carl, &anna_at)] {
        wait(from, to, "direct");
        ping(from, to, "1");
    }

    gate.close();
    until(|| bert.status()["control"] != "connected" && carl.status()["control"] != "connected");
    ping(&carl, &bert_at, "1");
    account.plan(&deployment, "pair");
    until(|| peers(&anna) == [bert_at.as_str()]);
    until(|| peers(&bert) == [anna_at.as_str()]);
    ping(&bert, &anna_at, "2");
    assert_eq!(carl.run(&["ping", &bert_at, "--count", "2", "--interval", "100ms"]).status, 1, "no packet is answered");
}

/// An account of a person, whose plan an operator changes.
struct Account {
    id: String,
    /// Lets a machine in.
    code: String,
}

impl Account {
    /// One on the plan `free`; there is another one that is called `pair`, with two seats.
    fn new(deployment: &Deployment) -> Self {
        ordered(deployment, &["plans", "create", "pair", "--members", "2"]);
        let public = Browser::at(deployment.accounts());
        let person = signed_up(deployment, &public, EMAIL);
        let me = person.get("/v1/account/me").of(200);
        let made = person.post("/v1/account/clients/codes", &Value::Null).of(201);
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        Self { id: word(&me["accounts"][0]["account"]), code: word(&made["code"]) }
    }

    /// A machine that belongs to it, and owns the network.
    fn owner(&self, server: &str) -> Device {
        let device = Device::start(server);
        device.run(&["account", "attach", &self.code]).ok();
        device.create(NETWORK, "correct horse").ok();
        device
    }

    fn plan(&self, deployment: &Deployment, plan: &str) {
        let done = run(deployment, &["accounts", "plan", &self.id, plan]);
        assert!(done.status.success(), "{done:?}");
    }
}

/// The members as an operator sees them.
fn shown(deployment: &Deployment) -> Value {
    let networks = ordered(deployment, &["networks", "list"]);
    ordered(deployment, &["networks", "members", networks["items"][0]["network"].as_str().unwrap()])
}

/// Whether the machine has a seat in its one network, by what its status says.
fn sits(device: &Device) -> bool {
    let network = &device.status()["networks"][0];
    let unseated = network["unseated"] == true;
    assert_eq!(network["warning"] == "no-seat", unseated, "{network}");
    !unseated
}

fn peers(device: &Device) -> Vec<String> {
    let peers: Value = device.run(&["peers"]).ok();
    peers.as_array().unwrap().iter().map(|peer| peer["address4"].as_str().unwrap().to_owned()).collect()
}

/// Waits for what the servers tell on their own. The runner's time-out ends a wait in vain.
fn until(mut happened: impl FnMut() -> bool) {
    while !happened() {}
}
