//! A deployment under test: the real executable, on loopback addresses of its own.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU8, Ordering},
};

use serde_json::Value;
use tempfile::TempDir;

/// One `mediator all`, ended when dropped.
pub(crate) struct Deployment {
    process: Child,
    ready: Value,
    bind: [Ipv4Addr; 2],
    dir: PathBuf,
    config: Option<PathBuf>,
    _owned: Option<TempDir>,
}

impl Deployment {
    /// Everything embedded, in a folder of its own.
    pub(crate) fn embedded() -> Self {
        Self::with_config("")
    }

    /// Embedded, with this configuration.
    pub(crate) fn with_config(config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut deployment = Self::start(dir.path(), loopback(), config);
        deployment._owned = Some(dir);
        deployment
    }

    /// A deployment in `dir` on `bind`; its data and secrets are found again by the next one in the same folder.
    pub(crate) fn start(dir: &Path, bind: [Ipv4Addr; 2], config: &str) -> Self {
        let file = (!config.is_empty()).then(|| {
            let file = dir.join("config.toml");
            fs::write(&file, config).unwrap();
            file
        });
        let (process, ready) = spawn(dir, bind, file.as_deref());
        Self { process, ready, bind, dir: dir.to_owned(), config: file, _owned: None }
    }

    /// The URL that clients are given.
    pub(crate) fn server(&self) -> &str {
        self.ready["server"].as_str().unwrap()
    }

    /// The address of the admin API, without its scheme.
    pub(crate) fn admin(&self) -> &str {
        self.ready["admin"].as_str().unwrap().trim_start_matches("http://").trim_end_matches('/')
    }

    /// The address of metrics and health, without its scheme.
    pub(crate) fn ops(&self) -> &str {
        let url = self.ready["metrics"].as_str().unwrap().trim_start_matches("http://");
        url.split('/').next().unwrap()
    }

    /// Where people reach their accounts, without the scheme.
    pub(crate) fn accounts(&self) -> &str {
        self.ready["accounts"].as_str().unwrap().trim_start_matches("http://")
    }

    /// The mails that were sent so far.
    pub(crate) fn mails(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.dir.join("data/mail")) else { return Vec::new() };
        let paths = entries.map(|entry| entry.unwrap().path()).filter(|path| path.extension().unwrap() == "eml");
        paths.map(|path| fs::read_to_string(path).unwrap()).collect()
    }

    /// The operator's bearer token.
    pub(crate) fn operator_token(&self) -> String {
        fs::read_to_string(self.operator_token_file()).unwrap().trim().to_owned()
    }

    /// The file that it is in.
    pub(crate) fn operator_token_file(&self) -> &str {
        self.ready["operator_token_file"].as_str().unwrap()
    }

    /// The addresses that its servers listen on.
    pub(crate) fn bound(&self) -> [IpAddr; 2] {
        self.bind.map(IpAddr::V4)
    }

    /// The bytes of one of its secrets.
    pub(crate) fn secret(&self, name: &str) -> Vec<u8> {
        fs::read(self.dir.join("data/secrets").join(name)).unwrap()
    }

    /// The files of the embedded database.
    pub(crate) fn database(&self) -> Vec<Vec<u8>> {
        let files = ["buri.db", "buri.db-wal"].map(|name| fs::read(self.dir.join("data").join(name)));
        files.into_iter().flatten().collect()
    }

    /// Everything that its servers logged so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8(fs::read(self.dir.join("mediator.log")).unwrap()).unwrap()
    }

    /// The configuration that `all` settled on.
    pub(crate) fn effective_config(&self) -> PathBuf {
        self.dir.join("data/effective.toml")
    }

    /// Ends every server at once, without a goodbye.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts the servers again, on the same addresses and data.
    pub(crate) fn restart(&mut self) {
        (self.process, self.ready) = spawn(&self.dir, self.bind, self.config.as_deref());
    }

    /// Has the servers do nothing until [`Self::thaw`].
    pub(crate) fn freeze(&self) {
        self.signal(nix::sys::signal::Signal::SIGSTOP);
    }

    /// Lets them go on.
    pub(crate) fn thaw(&self) {
        self.signal(nix::sys::signal::Signal::SIGCONT);
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.process.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// Asks the servers to leave, and waits for it. Returns whether they left in peace.
    pub(crate) fn terminate(&mut self) -> bool {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        self.process.wait().unwrap().success()
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Two loopback addresses that nobody else uses, in this process or another test's.
pub(crate) fn loopback() -> [Ipv4Addr; 2] {
    static COUNT: AtomicU8 = AtomicU8::new(0);
    let nth = 64 + COUNT.fetch_add(1, Ordering::Relaxed) % 128;
    let [.., high, low] = (std::process::id() << 1).to_be_bytes();
    [Ipv4Addr::new(127, nth, high, low), Ipv4Addr::new(127, nth, high, low | 1)]
}

/// The executable under test.
pub(crate) fn mediator() -> Command {
    Command::new(env!("CARGO_BIN_EXE_mediator"))
}

fn spawn(dir: &Path, bind: [Ipv4Addr; 2], config: Option<&Path>) -> (Child, Value) {
    let mut command = mediator();
    command.args(["all", "--json", "--data"]).arg(dir.join("data"));
    command.args(["--bind", &format!("{},{}", bind[0], bind[1])]);
    if let Some(config) = config {
        command.arg("--config").arg(config);
    }
    let log = fs::OpenOptions::new().create(true).append(true).open(dir.join("mediator.log")).unwrap();
    let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap_or_else(|_| {
        let _ = process.wait();
        panic!("no ready line; the log says:\n{}", fs::read_to_string(dir.join("mediator.log")).unwrap())
    });
    assert_eq!(ready["ready"], true);
    (process, ready)
}
