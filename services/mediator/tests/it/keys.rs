//! A machine's keys: taken elsewhere, and changed.

use std::{fs, path::PathBuf};

use tempfile::TempDir;

use crate::{
    deployment::Deployment,
    device::Device,
    journeys::{pair, ping, wait},
};

const NETWORK: &str = "friday games";

#[test]
fn a_machine_restored_from_its_backup_is_the_same_machine() {
    let deployment = Deployment::embedded();
    let (anna, bert) = pair(deployment.server());
    until(|| anna.status()["networks"][0]["secret_proved"] == true);
    let (id, address4) = (anna.id(), anna.address4());
    let files = Files::new();
    let backup = files.path("backup");
    let exported = anna.run(&["key", "export", &backup, "--passphrase-file", &files.passphrase()]).ok();
    assert_eq!((&exported["id"], &exported["file"]), (&id.clone().into(), &backup.clone().into()));
    assert_eq!(mode(&backup), 0o600);
    assert!(!anna.log().contains("correct horse battery"));
    // Nothing is overwritten, and without a passphrase nothing is written.
    assert_eq!(
        anna.run(&["key", "export", &backup, "--passphrase-file", &files.passphrase()]).refused(),
        "file-exists"
    );
    let short = files.write("short", "short");
    let unwritten = files.path("unwritten");
    assert_eq!(anna.run(&["key", "export", &unwritten, "--passphrase-file", &short]).refused(), "passphrase-invalid");
    assert!(!PathBuf::from(&unwritten).exists());

    let mut other = Device::start(deployment.server());
    let passphrase = files.passphrase();
    let import = ["key", "import", backup.as_str(), "--passphrase-file", passphrase.as_str()];
    assert_eq!(other.run(&import).refused(), "daemon-running");
    other.kill();
    let wrong = files.write("wrong", "incorrect horse battery");
    assert_eq!(other.run(&["key", "import", &backup, "--passphrase-file", &wrong]).refused(), "passphrase-wrong");
    let text = fs::read_to_string(&backup).unwrap();
    for (broken, code) in [
        (text[..text.len() / 2].to_owned(), "backup-damaged"),
        (text.replacen("QlVS", "QlVT", 1), "backup-foreign"),
        ("no backup".to_owned(), "backup-foreign"),
    ] {
        let file = files.write("broken", &broken);
        assert_eq!(other.run(&["key", "import", &file, "--passphrase-file", &files.passphrase()]).refused(), code);
    }
    assert_eq!(other.run(&import).refused(), "keys-exist");

    let imported = other.run(&[&import[..], &["--replace"]].concat()).ok();
    assert_eq!((&imported["id"], &imported["networks"]), (&id.clone().into(), &1.into()));
    assert!(imported["set_aside"].is_string());
    other.resume();
    assert_eq!((other.id(), other.address4()), (id, address4.clone()));
    // Whoever has the same keys and came first is told, and stays away.
    until(|| anna.status()["control"] == "offline");
    assert!(anna.status()["control_detail"].as_str().unwrap().starts_with("replaced"));
    drop(anna);
    wait(&other, &bert.address4(), "any");
    ping(&other, &bert.address4(), "2");
    ping(&bert, &address4, "2");
}

#[test]
fn a_machine_that_changes_its_keys_stays_who_it_is() {
    let deployment = Deployment::embedded();
    let (anna, mut bert) = pair(deployment.server());
    let carl = Device::start(deployment.server());
    carl.join(NETWORK, "correct horse").ok();
    let (a, b, c) = (anna.address4(), bert.address4(), carl.address4());
    wait(&anna, &b, "direct");
    wait(&carl, &b, "any");
    let settled = |device: &Device| device.status()["networks"][0]["secret_proved"] == true;
    until(|| [&anna, &bert, &carl].into_iter().all(settled));
    let before = bert.status();
    let files = Files::new();
    let backup = files.path("before");
    bert.run(&["key", "export", &backup, "--passphrase-file", &files.passphrase()]).ok();

    // Under a running ping, of which no packet may be lost.
    let pongs = std::thread::scope(|scope| {
        let pings = scope.spawn(|| anna.stream(&["ping", &b, "--count", "40", "--interval", "100ms"]));
        ping(&anna, &b, "1");
        let rotated = bert.run(&["key", "rotate"]).ok();
        assert_eq!((&rotated["id"], &rotated["before"]), (&before["id"], &1.into()));
        pings.join().unwrap()
    });
    assert_eq!(pongs.iter().filter(|pong| pong["rtt_ms"].is_f64()).count(), 40, "{pongs:?}");
    until(|| bert.status()["control"] == "connected" && settled(&bert));
    let after = bert.status();
    for same in ["id", "address4", "address6", "nick"] {
        assert_eq!(after[same], before[same], "{same}");
    }
    assert_eq!(after["networks"][0]["name"], before["networks"][0]["name"]);
    for device in [&anna, &carl] {
        ping(device, &b, "2");
        ping(&bert, &device.address4(), "2");
    }

    // The keys before are refused: those of the backup, with nothing else to be found.
    let mut stolen = Device::start(deployment.server());
    stolen.kill();
    stolen.run(&["key", "import", &backup, "--passphrase-file", &files.passphrase(), "--replace"]).ok();
    stolen.resume();
    assert_eq!(stolen.create("mine", "p").refused(), "key-rotated");
    assert_eq!(bert.status()["control"], "connected");
    drop(stolen);

    // Who was away hears of it, and who restarts while no server is there has what it needs.
    bert.run(&["key", "rotate"]).ok();
    until(|| settled(&bert));
    wait(&anna, &b, "any");
    ping(&anna, &b, "1");
    bert.kill();
    bert.resume();
    wait(&bert, &a, "direct");
    ping(&carl, &b, "1");
    assert_eq!(carl.address4(), c);

    // A newcomer learns who it is from the whole line of keys.
    let dora = Device::start(deployment.server());
    dora.join(NETWORK, "correct horse").ok();
    wait(&dora, &b, "any");
    ping(&dora, &b, "1");
    assert_eq!(dora.peer(&b)["id"], before["id"]);
}

#[test]
fn a_change_of_keys_that_was_not_answered_goes_on_by_itself() {
    let mut deployment = Deployment::embedded();
    let (anna, mut bert) = pair(deployment.server());
    let id = bert.id();
    let rotate = |bert: &Device| bert.run(&["key", "rotate"]).refused();
    let begun = |bert: &Device| until(|| bert.keeps("next.key"));

    // The servers die before they have read it.
    deployment.freeze();
    std::thread::scope(|scope| {
        let rotating = scope.spawn(|| rotate(&bert));
        begun(&bert);
        deployment.kill();
        assert_eq!(rotating.join().unwrap(), "server-unreachable");
    });
    assert!(!bert.keeps("later.key"));
    deployment.restart();
    until(|| bert.keeps("later.key") && !bert.keeps("next.key"));
    until(|| bert.status()["control"] == "connected");

    // The client dies before it has read the answer.
    let second = bert.kept("later.key");
    deployment.freeze();
    std::thread::scope(|scope| {
        scope.spawn(|| bert.run(&["key", "rotate"]));
        begun(&bert);
        bert.status();
        bert.kill_now();
    });
    deployment.thaw();
    bert.kill();
    bert.resume();
    until(|| bert.kept("later.key") != second && !bert.keeps("next.key"));
    until(|| bert.status()["control"] == "connected");
    assert_eq!(bert.id(), id);
    wait(&anna, &bert.address4(), "any");
    // The tunnel to the process that died may have to end first.
    until(|| anna.run(&["ping", &bert.address4(), "--count", "1"]).status == 0);
}

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    fn passphrase(&self) -> String {
        self.write("passphrase", "correct horse battery\n")
    }
}

fn mode(path: &str) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Waits for what the servers and the clients do on their own. The runner's time-out ends a wait in vain.
fn until(mut happened: impl FnMut() -> bool) {
    while !happened() {}
}
