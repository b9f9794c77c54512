//! What happens, told to programs: by a stream on the command line and by webhooks, also when the service dies in between.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    process::{Child, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{
    deployment::Deployment,
    device::Device,
    journeys::{pair, wait},
    operating::{command, json},
};

/// Long enough for anything that happens by itself.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn what_people_do_is_told_on_the_command_line_while_they_do_it() {
    let deployment = Deployment::embedded();
    let follower = Follower::start(&deployment, &["--after", "0"]);
    let (anna, bert) = pair(deployment.server());
    wait(&anna, &bert.address4(), "direct");
    let (anna_id, bert_id) = (anna.id(), bert.id());

    let seen = follower.until(|event| event["kind"] == "pair.direct");
    let kinds = |client: &str| {
        let about = seen.iter().filter(|event| event["client"] == client);
        about.map(|event| event["kind"].as_str().unwrap()).collect::<Vec<_>>()
    };
    for kind in ["client.registered", "client.online", "network.created"] {
        assert!(kinds(&anna_id).contains(&kind), "{kind} is missing in {seen:#?}");
    }
    assert!(kinds(&bert_id).contains(&"member.joined"), "{seen:#?}");
    let numbers: Vec<_> = seen.iter().map(|event| event["sequence"].as_u64().unwrap()).collect();
    assert!(numbers.is_sorted(), "{numbers:?}");
    let network = seen.iter().find_map(|event| event["network"].as_str()).unwrap().to_owned();
    json(&deployment, &["networks", "ban", &network, &bert_id]);
    let banned = follower.until(|event| event["kind"] == "member.banned").pop().unwrap();
    assert!(banned["client"] == bert_id && banned["network"] == network, "{banned}");
    drop(anna);
    follower.until(|event| event["kind"] == "client.offline" || event["kind"] == "client.lost");
    assert!(json(&deployment, &["events", "kinds"])["items"].as_array().unwrap().len() > 20);
}

#[test]
fn a_follower_goes_on_where_it_was_when_the_service_comes_back() {
    let mut deployment = Deployment::embedded();
    let follower = Follower::start(&deployment, &["--after", "0", "--kind", "client.registered"]);
    let anna = Device::start(deployment.server());
    let first = follower.until(|_| true).pop().unwrap();
    assert_eq!(first["client"], anna.id());
    deployment.kill();
    deployment.restart();
    let bert = Device::start(deployment.server());
    let second = follower.until(|_| true).pop().unwrap();
    assert_eq!(second["client"], bert.id(), "anna is told once");
}

#[test]
fn what_was_not_told_when_the_service_died_is_told_when_it_is_back() {
    let mut deployment =
        Deployment::with_config("[admin.webhooks]\nprivate = true\nfirst_pause = \"1s\"\nlongest_pause = \"1s\"\n");
    let (receiver, told) = receiver();
    let url = format!("http://{receiver}/");
    let made = json(&deployment, &["webhooks", "create", &url, "--kind", "client.registered,member.*"]);
    assert!(made["secret"].as_str().unwrap().starts_with("whsec_"));
    let webhook = made["webhook"].as_str().unwrap();
    assert_eq!(json(&deployment, &["webhooks", "test", webhook])["taken"], true);
    assert_eq!(next(&told)["kind"], "webhook.test");
    json(&deployment, &["webhooks", "pause", webhook]);

    // It is kept and not told yet when the service dies.
    let (anna, bert) = pair(deployment.server());
    let ids = [anna.id(), bert.id()];
    deployment.kill();
    deployment.restart();
    assert!(told.try_recv().is_err(), "it is paused");
    json(&deployment, &["webhooks", "resume", webhook]);
    let mut registered: Vec<_> = (0..2).map(|_| next(&told)).collect();
    registered.sort_by_key(|event| event["sequence"].as_u64());
    assert!(registered.iter().all(|event| event["kind"] == "client.registered"), "{registered:#?}");
    assert!(registered.iter().all(|event| ids.iter().any(|id| event["client"] == **id)));
    let joined = next(&told);
    assert!(joined["kind"] == "member.joined" && joined["client"] == ids[1], "{joined}");

    let kept = json(&deployment, &["webhooks", "deliveries", webhook]);
    let event = kept["items"][0]["event"].as_str().unwrap().to_owned();
    assert_eq!(json(&deployment, &["webhooks", "replay", webhook, &event])["deliveries"], 1);
    assert_eq!(next(&told)["id"], event);
    let shown = json(&deployment, &["webhooks", "show", webhook]);
    assert!(shown["state"] == "active" && shown.get("secret").is_none(), "{shown}");
    assert!(json(&deployment, &["webhooks", "rotate", webhook])["old_secret_until_ms"].is_u64());
    json(&deployment, &["webhooks", "change", webhook, "--name", "another", "--kind", "relay.lost"]);
    let listed = json(&deployment, &["webhooks", "list"]);
    let one = &listed["items"][0];
    assert!(one["name"] == "another" && one["kinds"][0] == "relay.lost", "{listed}");
    json(&deployment, &["webhooks", "delete", webhook]);
    let log = deployment.log();
    assert!(!log.contains("whsec_") && !log.contains(made["secret"].as_str().unwrap().trim_start_matches("whsec_")));
}

/// Takes everything, and hands on what it got.
fn receiver() -> (SocketAddr, Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, told) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut lines = BufReader::new(stream.unwrap());
            let (mut line, mut length) = (String::new(), 0);
            while lines.read_line(&mut line).unwrap_or(0) > 2 {
                if let Some(value) = line.to_lowercase().strip_prefix("content-length: ") {
                    length = value.trim().parse().unwrap();
                }
                line.clear();
            }
            let mut body = vec![0; length];
            if lines.read_exact(&mut body).is_err() {
                continue;
            }
            let mut stream = lines.into_inner();
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
            if sender.send(serde_json::from_slice(&body).unwrap()).is_err() {
                return;
            }
        }
    });
    (address, told)
}

fn next(told: &Receiver<Value>) -> Value {
    told.recv_timeout(PATIENCE).unwrap()
}

/// `mediator admin events follow --json`.
pub(crate) struct Follower {
    process: Child,
    told: Receiver<Value>,
}

impl Follower {
    pub(crate) fn start(deployment: &Deployment, arguments: &[&str]) -> Self {
        let mut process = command(deployment)
            .args(["events", "follow", "--json"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let (sender, told) = mpsc::channel();
        thread::spawn(move || {
            for line in lines {
                let Ok(line) = line else { return };
                let _ = sender.send(serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}")));
            }
        });
        Self { process, told }
    }

    /// Everything up to an event of which this is true.
    pub(crate) fn until(&self, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut seen = Vec::new();
        loop {
            let event = self.told.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("it was not told: {seen:#?}"));
            seen.push(event);
            if seen.last().is_some_and(&wanted) {
                return seen;
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
