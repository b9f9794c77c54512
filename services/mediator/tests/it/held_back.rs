//! What users see of caps and quotas, and that nothing is forgotten when the servers leave.

use std::time::SystemTime;

use domain::{ClientId, LeaseId, Month, PayerId, RelayReport};
use store::{StoreOptions, Stores};

use crate::{
    deployment::Deployment,
    device::Device,
    journeys::{pair_on, wait},
    operators::http,
    telling::Follower,
};

/// What a client on this plan may have relayed in a month.
const STANDARD: u64 = 500 << 30;

#[test]
fn both_clients_see_that_the_plan_caps_their_pair() {
    let deployment = Deployment::embedded();
    let (anna, bert) = pair_on(deployment.server(), deployment.server(), &["--path", "relay"]);
    wait(&anna, &bert.address4(), "relay");
    assert_eq!(anna.peer(&bert.address4())["held_back"], serde_json::Value::Null);
    let follower = Follower::start(&deployment, &["--after", "0", "--kind", "pair.capped"]);
    both_see(&anna, &bert, "relay-capped");
    let told = follower.until(|_| true).pop().unwrap();
    let (mut pair, mut clients) =
        ([&told["client"], &told["peer"]].map(|id| id.as_str().unwrap()), [anna.id(), bert.id()]);
    pair.sort_unstable();
    clients.sort();
    assert_eq!(pair, clients, "{told}");
    assert!(told["relay"].is_string(), "{told}");
}

#[test]
fn both_clients_see_that_a_quota_is_used_up() {
    let deployment = Deployment::embedded();
    let relayed = ["--path", "relay"];
    let (anna, bert) =
        (Device::start_with(deployment.server(), &relayed), Device::start_with(deployment.server(), &relayed));
    for device in [&anna, &bert] {
        // Known to the servers from its first login on.
        while device.status()["control"] != "connected" {}
    }
    with_stores(&deployment, async |stores| {
        for (nth, device) in (1..).zip([&anna, &bert]) {
            let client: ClientId = device.id().parse().unwrap();
            stores.accounts.assign_plan(client, "standard").await.unwrap();
            let (payer, lease) = (client.into(), LeaseId::from_bytes([nth; 16]));
            let report = RelayReport { lease, payer, serial: 1, spent: STANDARD, ends: true, known: false };
            stores.accounts.settle_relay(report, SystemTime::now().into()).await.unwrap();
        }
    });
    anna.create("friday games", "correct horse").ok();
    bert.join("friday games", "correct horse").ok();
    wait(&anna, &bert.address4(), "relay");
    both_see(&anna, &bert, "relay-quota");
}

#[test]
fn servers_that_leave_have_counted_every_byte_that_their_relay_forwarded() {
    let mut deployment = Deployment::embedded();
    let (mut anna, mut bert) = pair_on(deployment.server(), deployment.server(), &["--path", "relay"]);
    wait(&anna, &bert.address4(), "relay");
    for _ in 0..3 {
        anna.run(&["ping", &bert.address4(), "--count", "10", "--interval", "100ms"]);
    }
    let clients = [anna.id(), bert.id()].map(|id| id.parse::<ClientId>().unwrap());
    anna.kill();
    bert.kill();
    let forwarded = forwarded_bytes(&deployment);
    assert!(forwarded > 1_000, "{forwarded}");

    assert!(deployment.terminate());
    let counted = with_stores(&deployment, async |stores| {
        let mut counted = 0;
        for client in clients {
            let month = Month::of(SystemTime::now().into());
            counted += stores.accounts.relayed(PayerId::from(client), month).await.unwrap();
        }
        counted
    });
    assert_eq!(counted, forwarded);
}

/// More than a pair may send goes from one to the other, until both know why it does not arrive.
fn both_see(anna: &Device, bert: &Device, code: &str) {
    let (anna_at, bert_at) = (anna.address4(), bert.address4());
    // The runner's time-out ends what never comes.
    while [anna.peer(&bert_at), bert.peer(&anna_at)].iter().any(|peer| peer["held_back"] != code) {
        anna.run(&["ping", &bert_at, "--count", "200", "--interval", "2ms"]);
    }
    for (device, peer_at) in [(anna, &bert_at), (bert, &anna_at)] {
        let held_back = &device.status()["held_back"][0];
        assert_eq!((&held_back["code"], &held_back["peers"]), (&code.into(), &1.into()));
        let why = device.run(&["why", peer_at]).json;
        let said = why["now"].as_str().or(why["error"]["message"].as_str()).unwrap_or_else(|| panic!("{why}"));
        assert!(said.contains(held_back["text"].as_str().unwrap()), "{why}");
    }
}

/// What its relay has forwarded, once that stands still: clients are gone, and their last datagrams arrived.
fn forwarded_bytes(deployment: &Deployment) -> u64 {
    let read = || {
        let (_, metrics) = http(deployment.ops(), "/metrics", "");
        let line = metrics.lines().find_map(|line| line.strip_prefix("relay_forwarded_bytes_total "));
        line.unwrap_or_else(|| panic!("no such line in\n{metrics}")).parse::<f64>().unwrap() as u64
    };
    let mut before = read();
    loop {
        let now = read();
        if now == before {
            return now;
        }
        before = now;
    }
}

/// Does something to the deployment's database, beside its servers.
fn with_stores<T>(deployment: &Deployment, action: impl AsyncFnOnce(&Stores) -> T) -> T {
    let url = format!("sqlite://{}", deployment.effective_config().with_file_name("buri.db").display());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stores = store::connect(&url, StoreOptions::default()).await.unwrap();
        let done = action(&stores).await;
        stores.close().await;
        done
    })
}
