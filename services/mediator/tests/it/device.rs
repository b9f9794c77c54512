//! A machine of a user: the reference client with its in-memory adapter.

use std::{
    fs,
    io::{BufRead as _, BufReader, Lines, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

/// One `buri` daemon and its home, ended when dropped.
pub(crate) struct Device {
    home: TempDir,
    daemon: Option<Child>,
    arguments: Vec<String>,
    log_filter: Option<&'static str>,
}

/// How one command ended.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) status: i32,
    pub(crate) json: Value,
}

impl Device {
    /// A running daemon that knows `server`.
    pub(crate) fn start(server: &str) -> Self {
        Self::start_with(server, &[])
    }

    /// The same with more arguments.
    pub(crate) fn start_with(server: &str, more: &[&str]) -> Self {
        Self::start_logging(server, more, None)
    }

    /// The same with another log filter than the default.
    pub(crate) fn start_logging(server: &str, more: &[&str], log_filter: Option<&'static str>) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut arguments =
            vec!["daemon".into(), "--server".into(), server.into(), "--adapter".into(), "memory".into()];
        arguments.extend(more.iter().map(|&argument| argument.to_owned()));
        let mut device = Self { home, daemon: None, arguments, log_filter };
        device.resume();
        device
    }

    /// Starts the daemon (again).
    pub(crate) fn resume(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_file()).unwrap();
        let mut command = buri();
        command.arg("--home").arg(self.home.path()).args(&self.arguments).env_remove("BURI_LOG");
        command.envs(self.log_filter.map(|filter| ("BURI_LOG", filter)));
        self.daemon = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
        // The runner's time-out ends a daemon that never answers.
        while self.run(&["status"]).status != 0 {
            assert!(self.daemon.as_mut().unwrap().try_wait().unwrap().is_none(), "{}", self.log());
        }
    }

    /// Ends the daemon without a goodbye.
    pub(crate) fn kill(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    /// Asks the daemon to end, and waits until it did: what it knows is on the disk then.
    pub(crate) fn stop(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        daemon.wait().unwrap();
    }

    /// Like `kill`, while a command is under way.
    pub(crate) fn kill_now(&self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.daemon.as_ref().unwrap().id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    }

    /// Runs one command and reads its JSON.
    pub(crate) fn run(&self, arguments: &[&str]) -> Done {
        self.run_with_input(arguments, "")
    }

    /// Runs a command that streams: one value a line.
    pub(crate) fn stream(&self, arguments: &[&str]) -> Vec<Value> {
        let mut command = buri();
        command.arg("--home").arg(self.home.path()).args(arguments).arg("--json");
        let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().unwrap();
        let lines = String::from_utf8(output.stdout).unwrap();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Creates a network.
    pub(crate) fn create(&self, network: &str, password: &str) -> Done {
        self.run_with_input(&["create", network, "--password-file", "-"], password)
    }

    /// Runs one command that reads a password.
    pub(crate) fn run_with_password(&self, arguments: &[&str], password: &str) -> Done {
        self.run_with_input(&[arguments, &["--password-file", "-"]].concat(), password)
    }

    /// Joins a network.
    pub(crate) fn join(&self, network: &str, password: &str) -> Done {
        self.run_with_input(&["join", network, "--password-file", "-"], password)
    }

    /// Changes the password of a network.
    pub(crate) fn set_pass(&self, network: &str, password: &str) -> Done {
        self.run_with_input(&["set-pass", network, "--password-file", "-"], password)
    }

    /// What `status` says.
    pub(crate) fn status(&self) -> Value {
        self.run(&["status"]).ok()
    }

    /// The virtual IPv4 address.
    pub(crate) fn address4(&self) -> String {
        self.status()["address4"].as_str().unwrap().to_owned()
    }

    /// The one peer that this device sees at `address`.
    pub(crate) fn peer(&self, address: &str) -> Value {
        let peers = self.run(&["peers"]).ok();
        let found = peers.as_array().unwrap().iter().find(|peer| peer["address4"] == address);
        found.unwrap_or_else(|| panic!("no peer {address} in {peers}")).clone()
    }

    /// What the daemon logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap()
    }

    /// The client's id.
    pub(crate) fn id(&self) -> String {
        self.status()["id"].as_str().unwrap().to_owned()
    }

    /// The bytes of a file in the client's home.
    pub(crate) fn kept(&self, name: &str) -> Vec<u8> {
        fs::read(self.home.path().join(name)).unwrap()
    }

    /// Whether there is such a file in the client's home.
    pub(crate) fn keeps(&self, name: &str) -> bool {
        self.home.path().join(name).exists()
    }

    /// Who may read such a file in the client's home.
    pub(crate) fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.home.path().join(name)).unwrap().permissions().mode() & 0o777
    }

    /// What a command prints for people.
    pub(crate) fn text(&self, arguments: &[&str]) -> String {
        let output = buri().arg("--home").arg(self.home.path()).args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that streams and does not end by itself.
    pub(crate) fn follow(&self, arguments: &[&str]) -> Following {
        let mut command = buri();
        command.arg("--home").arg(self.home.path()).args(arguments).arg("--json");
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Following { process, lines }
    }

    fn log_file(&self) -> PathBuf {
        self.home.path().join("daemon.log")
    }

    /// Runs one command with this on its standard input.
    pub(crate) fn run_with_input(&self, arguments: &[&str], input: &str) -> Done {
        let mut command = buri();
        command.arg("--home").arg(self.home.path()).args(arguments).arg("--json");
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        // A command that refuses its arguments closes its input unread.
        let _ = process.stdin.take().unwrap().write_all(input.as_bytes());
        let output = process.wait_with_output().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        Done { status: output.status.code().unwrap(), json: serde_json::from_str(&stdout).unwrap_or(Value::Null) }
    }
}

/// A command under way, ended when dropped.
pub(crate) struct Following {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Following {
    /// What it prints next. The runner's time-out ends a wait in vain.
    pub(crate) fn next_line(&mut self) -> String {
        self.lines.next().unwrap().unwrap()
    }

    /// The same, read.
    pub(crate) fn next(&mut self) -> Value {
        serde_json::from_str(&self.next_line()).unwrap()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Done {
    /// The JSON of a command that did what it was asked to.
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert_eq!(self.status, 0, "{self:?}");
        self.json
    }

    /// The code of a command that was refused.
    #[track_caller]
    pub(crate) fn refused(self) -> String {
        assert_eq!(self.status, 1, "{self:?}");
        self.json["error"]["code"].as_str().unwrap_or_else(|| panic!("no code in {self:?}")).to_owned()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        if std::thread::panicking() {
            eprintln!(
                "--- {} ---\n{}",
                self.home.path().display(),
                fs::read_to_string(self.log_file()).unwrap_or_default()
            );
        }
    }
}

/// The client's executable, built beside the one under test because its crate has integration tests, too.
fn buri() -> Command {
    let path = PathBuf::from(env!("CARGO_BIN_EXE_mediator")).with_file_name("buri");
    assert!(
        path.exists(),
        "{} is missing: run the tests of the whole workspace, or `cargo build -p client`",
        path.display()
    );
    Command::new(path)
}
