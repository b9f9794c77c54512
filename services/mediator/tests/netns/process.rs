//! Processes that the lab starts, each ended by its own id.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// A running process; killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; what it writes to standard error is appended to a log in `folder`.
    pub(crate) fn start(name: &str, command: &mut Command, folder: &Path) -> Self {
        Self::spawn(name, command.stdout(Stdio::null()), folder)
    }

    /// Starts a server, and waits for the line that says that it is ready.
    pub(crate) fn start_server(name: &str, command: &mut Command, folder: &Path) -> (Self, Value) {
        let mut process = Self::spawn(name, command.stdout(Stdio::piped()), folder);
        let mut line = String::new();
        BufReader::new(process.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{name} did not become ready"));
        assert_eq!(ready["ready"], true);
        (process, ready)
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// What it has written to standard error so far, also in earlier lives.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Ends it without a warning (SIGKILL).
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end (SIGTERM), and waits until it has.
    #[track_caller]
    pub(crate) fn end(mut self, patience: Duration) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGTERM).unwrap();
        let status = eventually("the process ends", patience, || self.child.try_wait().unwrap());
        assert!(status.success(), "{}: {status}", self.name);
    }

    fn spawn(name: &str, command: &mut Command, folder: &Path) -> Self {
        let log = folder.join(format!("{name}.log"));
        let file = fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let child = command.stdin(Stdio::null()).stderr(file).spawn().unwrap();
        Self { name: name.to_owned(), child, log }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let skipped = log.lines().count().saturating_sub(LAST_WORDS);
            let last: Vec<_> = log.lines().skip(skipped).collect();
            eprintln!("--- {} (the last {LAST_WORDS} lines) ---\n{}", self.name, last.join("\n"));
        }
    }
}

/// The executable of `name`, built beside the one under test.
pub(crate) fn executable(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_mediator")).with_file_name(name);
    assert!(path.exists(), "{} is missing: cargo build -p client", path.display());
    path
}

/// Asks again and again, until `probe` knows an answer.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, patience: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: not within {patience:?}");
        std::thread::park_timeout(PAUSE);
    }
}

const LAST_WORDS: usize = 40;

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(50);
