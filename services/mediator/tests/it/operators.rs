//! What the people see who run the service.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use serde_json::Value;

use crate::{
    deployment::{Deployment, mediator},
    journeys::{pair, wait},
};

#[test]
fn the_api_shows_sessions_networks_relays_and_why_a_pair_is_direct() {
    let deployment = Deployment::embedded();
    let (anna, bert) = pair(deployment.server());
    wait(&anna, &bert.address4(), "direct");
    let (anna_id, bert_id) = (anna.id(), bert.id());

    let sessions = get(&deployment, "/v1/sessions");
    let clients: Vec<&str> = items(&sessions).iter().map(|one| one["client"].as_str().unwrap()).collect();
    assert!(clients.contains(&anna_id.as_str()) && clients.contains(&bert_id.as_str()), "{sessions}");
    let networks = get(&deployment, "/v1/networks");
    assert_eq!(items(&networks)[0]["members"], 2, "{networks}");
    assert_eq!(items(&networks)[0]["owner"], anna_id);
    let relays = get(&deployment, "/v1/relays");
    assert_eq!(items(&relays).len(), 1, "{relays}");
    let record = get(&deployment, &format!("/v1/pairs/{anna_id}/{bert_id}"));
    assert_eq!(record["outcome"], "direct", "{record}");
}

#[test]
fn metrics_of_every_role_are_served_and_readiness_is_true() {
    let deployment = Deployment::embedded();
    let (_anna, _bert) = pair(deployment.server());
    let (status, metrics) = http(deployment.ops(), "/metrics", "");
    assert_eq!(status, 200);
    for line in
        ["gateway_sessions 2", "auth_logins_total", "network_", "rendezvous_", "relay_pairs", "admin_requests_total"]
    {
        assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    }
    let (status, ready) = http(deployment.ops(), "/ready", "");
    assert_eq!(status, 200, "{ready}");
}

#[test]
fn the_doctor_finds_a_running_deployment_well_and_a_dead_one_not() {
    let mut deployment = Deployment::embedded();
    let well = doctor(&deployment);
    assert_eq!(well["healthy"], true, "{well:#}");

    deployment.kill();
    let dead = doctor(&deployment);
    assert_eq!(dead["healthy"], false);
    let failing: Vec<&Value> = dead["checks"].as_array().unwrap().iter().filter(|one| one["ok"] == false).collect();
    assert!(failing.iter().all(|one| one["remedy"].is_string()), "{dead:#}");
    assert!(failing.iter().any(|one| one["name"].as_str().unwrap().starts_with("gateway at")), "{dead:#}");
}

fn doctor(deployment: &Deployment) -> Value {
    let output = mediator().args(["doctor", "--json", "--config"]).arg(deployment.effective_config()).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

fn items(page: &Value) -> &Vec<Value> {
    page["items"].as_array().unwrap_or_else(|| panic!("no items in {page}"))
}

/// What the API says to the operator.
pub(crate) fn get(deployment: &Deployment, path: &str) -> Value {
    let token = format!("Authorization: Bearer {}\r\n", deployment.operator_token());
    let (status, body) = http(deployment.admin(), path, &token);
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// What a request for `path` is answered, with these header lines.
pub(crate) fn http(address: &str, path: &str, headers: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: buri\r\nConnection: close\r\n{headers}\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}
