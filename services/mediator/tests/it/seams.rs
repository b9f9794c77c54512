//! The same product on Postgres, Redis and RabbitMQ; two of every role at once.

use std::path::Path;

use crate::{
    deployment::{Deployment, loopback},
    journeys::{pair_on, ping, wait},
};

/// Cluster seams of its own for each test, on the services that the environment names.
fn cluster_config(dir: &Path) -> String {
    let service = |name: &str| {
        std::env::vars()
            .find_map(|(key, value)| (key == name).then_some(value))
            .unwrap_or_else(|| panic!("{name} is not set: run ./test, or `eval \"$(./test-services env)\"`"))
    };
    let database = format!("buri_it_{}", std::process::id());
    let server = service("BURI_TEST_POSTGRES");
    let (base, _) = server.rsplit_once('/').unwrap();
    let made = std::process::Command::new("psql")
        .args([
            &server,
            "-qc",
            &format!("DROP DATABASE IF EXISTS {database}"),
            "-c",
            &format!("CREATE DATABASE {database}"),
        ])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    // Names the keys and queues of this test.
    let namespace = format!("it-{}", std::process::id());
    format!(
        "[store]\nurl = \"{base}/{database}\"\n[presence]\nurl = \"{}?namespace={namespace}\"\n\
         [bus]\nurl = \"{}?namespace={namespace}\"\n[secrets]\ndir = \"{}\"\n",
        service("BURI_TEST_REDIS"),
        service("BURI_TEST_RABBITMQ"),
        dir.join("secrets").display(),
    )
}

#[test]
fn two_of_every_role_are_one_deployment_on_postgres_redis_and_rabbit() {
    let dir = tempfile::tempdir().unwrap();
    let config = cluster_config(dir.path());
    let mut first = Deployment::start(dir.path(), loopback(), &config);
    let second = Deployment::start(dir.path(), loopback(), &config);
    assert_eq!(first.server().split_once('#').unwrap().1, second.server().split_once('#').unwrap().1);

    let (anna, bert) = pair_on(first.server(), second.server(), &[]);
    let (anna_at, bert_at) = (anna.address4(), bert.address4());
    wait(&anna, &bert_at, "direct");
    wait(&bert, &anna_at, "direct");

    first.kill();
    ping(&anna, &bert_at, "3");
    bert.run(&["nick", "Bert"]).ok();
}
