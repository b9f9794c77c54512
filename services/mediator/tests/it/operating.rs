//! `mediator admin ...` against a running deployment with real clients.

use std::process::{Command, Output};

use serde_json::Value;

use crate::{
    deployment::{Deployment, mediator},
    journeys::pair,
};

#[test]
fn an_operator_looks_around_and_changes_things_on_the_command_line() {
    let deployment = Deployment::embedded();
    let (anna, bert) = pair(deployment.server());
    let (anna_id, bert_id) = (anna.id(), bert.id());

    let clients = json(&deployment, &["clients", "list", "--most", "1"]);
    assert_eq!(clients["items"].as_array().unwrap().len(), 1);
    assert!(clients["next_cursor"].is_string());
    assert_eq!(json(&deployment, &["clients", "list"])["items"].as_array().unwrap().len(), 2);
    let shown = json(&deployment, &["clients", "show", &anna_id]);
    assert_eq!(shown["networks"][0]["role"], "owner", "{shown}");
    assert!(shown["session"].is_object());
    assert_eq!(json(&deployment, &["clients", "plan", &anna_id, "premium"])["plan"], "premium");

    let network = shown["networks"][0]["network"].as_str().unwrap();
    json(&deployment, &["networks", "rename", network, "a new name d'\u{e9}t\u{e9}"]);
    let found = json(&deployment, &["networks", "list", "--name", "A NEW"]);
    assert_eq!((&found["items"][0]["network"], found["items"][0]["kind"].as_str()), (&network.into(), Some("mesh")));
    let table = String::from_utf8(run(&deployment, &["networks", "list"]).stdout).unwrap();
    assert!(table.starts_with("KIND") && table.contains("mesh"), "{table}");
    let members = json(&deployment, &["networks", "members", network]);
    assert_eq!(members["items"].as_array().unwrap().len(), 2);
    json(&deployment, &["networks", "ban", network, &bert_id]);
    assert_eq!(json(&deployment, &["networks", "show", network])["bans"][0]["client"], bert_id);
    assert_eq!(json(&deployment, &["sessions", "end", &bert_id])["ended"], true);

    let token = json(&deployment, &["tokens", "create", "--scope", "read,audit", "--expires", "1d"]);
    assert_eq!(token["scopes"], serde_json::json!(["read", "audit"]));
    let relays = json(&deployment, &["relays", "list"]);
    let relay = relays["items"][0]["relay"].as_str().unwrap();
    assert_eq!(json(&deployment, &["relays", "drain", relay])["draining"], true);
    assert_eq!(json(&deployment, &["audit", "verify"])["intact"], true);
    let export = run(&deployment, &["audit", "export"]);
    let lines: Vec<Value> =
        String::from_utf8(export.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().any(|entry| entry["action"] == "relays_drain" && entry["status"] == 202));

    let table = String::from_utf8(run(&deployment, &["clients", "list"]).stdout).unwrap();
    assert!(table.lines().next().unwrap().contains("CLIENT") && table.contains(&anna_id), "{table}");
}

#[test]
fn what_is_refused_has_a_code_and_a_status() {
    let deployment = Deployment::embedded();
    let nobody = "0".repeat(32);
    let refused = run(&deployment, &["--json", "clients", "show", &nobody]);
    assert_eq!(refused.status.code(), Some(1));
    let document: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!(document["error"]["code"], "not-found");
    let refused = run(&deployment, &["clients", "show", "nonsense"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8(refused.stderr).unwrap().contains("invalid-parameter"));
    for wrong in [&["clients"][..], &["cars", "list"], &["tokens", "create"], &[]] {
        assert_eq!(run(&deployment, wrong).status.code(), Some(2), "{wrong:?}");
    }
    let alone = mediator().args(["admin", "--url", "http://127.0.0.1:1", "plans", "list"]).output().unwrap();
    assert_eq!(alone.status.code(), Some(1));
}

/// What a command answers.
pub(crate) fn json(deployment: &Deployment, arguments: &[&str]) -> Value {
    let output = run(deployment, &[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{arguments:?}: {output:?}"))
}

/// Runs `mediator admin` with these arguments.
pub(crate) fn run(deployment: &Deployment, arguments: &[&str]) -> Output {
    command(deployment).args(arguments).output().unwrap()
}

/// `mediator admin`, against this deployment.
pub(crate) fn command(deployment: &Deployment) -> Command {
    let mut command = mediator();
    command.arg("admin").args(["--url", &format!("http://{}", deployment.admin())]);
    command.arg("--token-file").arg(deployment.operator_token_file());
    command
}
