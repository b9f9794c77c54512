//! The tool as people run it, against a relay on loopback. Rules, not times.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
    time::{Duration, Instant},
};

use bus::{Bus, memory::Hub};
use domain::{InstanceId, RelayId};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use relay::{Config, Metrics, Seams};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{runtime::Runtime, task::JoinHandle};
use tokio_util::sync::CancellationToken;

const QUIET: &str = r#"
[quiet]
about = "Few datagrams that all arrive."
seed = 1
rounds = 2
duration = "300ms"
against = ["naive", "batched"]
fail_if = ["loss > 0", "reordered > 0", "fairness < 0.5"]
[[quiet.groups]]
pairs = 5
datagrams_per_second = 1000
burst = 2
sizes = [{ bytes = 64, weight = 1 }, { bytes = 1280, weight = 1 }]

[changes]
about = "Pairs end and begin, and legs move."
seed = 2
rounds = 1
duration = "2s"
against = []
joins_per_second = 20
moves_per_second = 20
fail_if = ["loss > 0.01"]
[[changes.groups]]
pairs = 20
datagrams_per_second = 500
burst = 1
sizes = [{ bytes = 128, weight = 1 }]

[capped]
about = "Far more than the rate is offered by one group, little by the other."
seed = 3
rounds = 1
duration = "2s"
against = []
phases = [["free"], ["free", "capped"]]
[[capped.groups]]
name = "free"
pairs = 2
datagrams_per_second = 200
burst = 1
sizes = [{ bytes = 128, weight = 1 }]
[[capped.groups]]
name = "capped"
pairs = 2
rate = "200 kbit/s"
datagrams_per_second = 1000
burst = 1
sizes = [{ bytes = 500, weight = 1 }]

[pieces]
about = "Bursts as one piece."
seed = 4
rounds = 1
duration = "300ms"
against = []
fail_if = ["loss > 0"]
[[pieces.groups]]
pairs = 3
datagrams_per_second = 800
burst = 8
offload = true
sizes = [{ bytes = 512, weight = 1 }]

[copies]
about = "The same for many, singly and copied."
seed = 5
rounds = 1
duration = "500ms"
against = []
phases = [["singly"], ["copied"]]
fail_if = ["loss > 0"]
[[copies.groups]]
name = "singly"
pairs = 12
star = 4
datagrams_per_second = 400
burst = 4
sizes = [{ bytes = 200, weight = 1 }]
[[copies.groups]]
name = "copied"
pairs = 12
star = 4
fanout = true
datagrams_per_second = 400
burst = 4
sizes = [{ bytes = 200, weight = 1 }]

[attacked]
about = "Strangers beside pairs."
seed = 6
rounds = 1
duration = "500ms"
against = []
phases = [["proven"], ["proven"]]
hostile = 0.01
fail_if = ["loss > 0.5"]
[[attacked.groups]]
name = "proven"
pairs = 5
datagrams_per_second = 500
burst = 1
sizes = [{ bytes = 100, weight = 1 }]
"#;

#[test]
fn at_a_low_rate_everything_arrives_in_order_and_the_document_says_so() {
    let lab = Lab::start();
    let page = lab.dir.path().join("report.html");
    let output = lab.run(&["quiet", "--json", "--html", page.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["version"], 1);
    let section = &document["scenarios"][0];
    assert_eq!((&section["name"], &section["scenario"]["seed"]), (&"quiet".into(), &1.into()));
    let rows = section["rows"].as_array().unwrap();
    assert_eq!(
        rows.iter().map(|row| row["server"].as_str().unwrap()).collect::<Vec<_>>(),
        ["relay", "naive", "batched"]
    );
    for row in rows {
        assert_eq!((&row["figures"]["loss"], &row["figures"]["reordered"]), (&0.0.into(), &0.0.into()), "{row}");
        assert!(row["figures"]["p50_us"].as_f64().unwrap() > 0.0);
        assert!(row["figures"]["cpu_us"].as_f64().unwrap() > 0.0);
        assert!(!row["latency"].as_array().unwrap().is_empty());
    }
    let rounds = section["rounds"].as_array().unwrap();
    assert_eq!(rounds.len(), 6);
    for round in rounds {
        assert_eq!(round["sent"], round["delivered"]);
        assert!(round["sent"].as_u64().unwrap() > 100);
    }
    assert!(section["checked"].as_array().unwrap().iter().all(|checked| checked["missed"] == false));
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains(&serde_json::to_string(&document["scenarios"][0]["name"]).unwrap()) && page.contains("<svg"));
}

#[test]
fn a_turn_server_carries_the_same_or_is_said_to_be_missing() {
    let lab = Lab::start();
    let output = lab.run(&["quiet", "--json", "--against", "coturn"]);
    assert!(output.status.success(), "{output:?}");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let section = &document["scenarios"][0];
    let rows = section["rows"].as_array().unwrap();
    match rows.iter().find(|row| row["server"] == "coturn") {
        Some(row) => assert_eq!((&row["figures"]["loss"], &section["left_out"][0]), (&0.0.into(), &Value::Null)),
        None => assert_eq!(section["left_out"][0], "coturn"),
    }
}

#[test]
fn a_missed_threshold_is_exit_code_one_and_named() {
    let lab = Lab::start();
    let output = lab.run(&["quiet", "--rounds", "1", "--against", "naive", "--fail-if", "delivered > 1"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("MISSED fails if delivered > 1"), "{text}");
}

#[test]
fn a_text_that_is_no_threshold_is_refused_before_anything_runs() {
    let lab = Lab::start();
    let output = lab.run(&["quiet", "--fail-if", "speed > 1"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("is no threshold"));
}

#[test]
fn pairs_that_end_and_legs_that_move_lose_next_to_nothing() {
    let lab = Lab::start();
    let output = lab.run(&["changes", "--json"]);
    assert!(output.status.success(), "{output:?}");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let round = &document["scenarios"][0]["rounds"][0];
    assert!(round["joins"].as_u64().unwrap() > 10 && round["moves"].as_u64().unwrap() > 10, "{round}");
}

#[test]
fn a_capped_group_gets_its_rate_and_the_other_is_whole() {
    let lab = Lab::start();
    let output = lab.run(&["capped", "--json"]);
    assert!(output.status.success(), "{output:?}");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = document["scenarios"][0]["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0]["figures"]["cap_error"], Value::Null);
    assert_eq!(rows[1]["figures"]["loss"], 0.0, "the first group of the phase is measured");
    // On a machine that is too busy to offer enough in time there is nothing to measure.
    let late = |round: &Value| round["phase"] == 1 && round["skipped_by_generator"] != 0;
    match rows[1]["figures"]["cap_error"].as_f64() {
        Some(error) => assert!(error < 0.1, "{}", rows[1]),
        None => assert!(document["scenarios"][0]["rounds"].as_array().unwrap().iter().any(late)),
    }
}

#[test]
fn bursts_in_one_piece_arrive_as_what_they_were() {
    let lab = Lab::start();
    let output = lab.run(&["pieces"]);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_frame_is_copied_to_every_member_of_its_star() {
    let lab = Lab::start();
    let output = lab.run(&["copies", "--json"]);
    assert!(output.status.success(), "{output:?}");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rounds = document["scenarios"][0]["rounds"].as_array().unwrap();
    assert_eq!(rounds.len(), 2);
    for round in rounds {
        assert_eq!(round["sent"], round["delivered"]);
        assert!(round["sent"].as_u64().unwrap() > 100, "{round}");
    }
}

#[test]
fn strangers_are_counted_beside_the_pairs_that_they_disturb() {
    let lab = Lab::start();
    let output = lab.run(&["attacked", "--json"]);
    assert!(output.status.success(), "{output:?}");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    for round in document["scenarios"][0]["rounds"].as_array().unwrap() {
        let [sent, carried] = [0, 1].map(|nth| round["attack"][nth].as_f64().unwrap());
        assert!(sent > 0.0 && carried > 0.0, "{round}");
    }
}

#[test]
fn a_tool_that_is_ended_leaves_no_server_behind() {
    let lab = Lab::start();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGKILL] {
        let mut tool = lab.command(&["quiet", "--against", "naive,batched,coturn", "--seconds", "60"]).spawn().unwrap();
        let children = until(|| Some(children(tool.id())).filter(|children| children.len() >= 2));
        kill(Pid::from_raw(tool.id().try_into().unwrap()), signal).unwrap();
        assert!(!tool.wait().unwrap().success());
        until(|| children.iter().all(|child| parent(*child).is_none()).then_some(()));
    }
}

/// What runs and was started by a process.
fn children(of: u32) -> Vec<u32> {
    let running =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    running.filter(|process| parent(*process) == Some(of)).collect()
}

/// The parent of a process that runs.
fn parent(of: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{of}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    fields.next()?.parse().ok().filter(|_| state != "Z")
}

fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "it does not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A relay in this process.
struct Lab {
    dir: TempDir,
    scenarios: PathBuf,
    relay: RelayId,
    endpoint: SocketAddr,
    shutdown: CancellationToken,
    runtime: Runtime,
    role: Option<JoinHandle<Result<(), relay::Error>>>,
}

impl Lab {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let written = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let scenarios = written("scenarios.toml", QUIET.as_bytes());
        let config = Config {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            ticket_root: written("tickets.key", &[1; 32]),
            observation_key: written("observations.key", &[2; 32]),
            workers: 1,
            drain: Duration::from_millis(10),
            ..Config::default()
        };
        let runtime = Runtime::new().unwrap();
        let inside = runtime.enter();
        let bound = relay::bind(&config, InstanceId::from_bytes([7; 16])).unwrap();
        let (endpoint, relay) = (bound.endpoints()[0], bound.relay());
        let metrics = Arc::new(Metrics::register(&prometheus::Registry::new()).unwrap());
        let seams = Seams { bus: Bus::memory(&Hub::default(), "relay"), metrics };
        let shutdown = CancellationToken::new();
        let role = Some(runtime.handle().spawn(bound.run(seams, shutdown.clone())));
        drop(inside);
        Self { dir, scenarios, relay, endpoint, shutdown, runtime, role }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_loadtest")));
        command.arg("relay").args(arguments).arg("--scenarios").arg(&self.scenarios);
        command.args(["--relay", &self.endpoint.to_string(), "--relay-id", &self.relay.to_string()]);
        command.arg("--ticket-root").arg(self.dir.path().join("tickets.key"));
        command.args(["--relay-pid", &std::process::id().to_string()]);
        command
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.shutdown.cancel();
        // Its threads end before the runtime does.
        let ended = self.role.take().map(|role| self.runtime.block_on(role));
        if !std::thread::panicking() {
            ended.unwrap().unwrap().unwrap();
        }
    }
}
