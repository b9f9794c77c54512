//! The reference client on a machine of the lab, with a real network interface.

use std::{
    io::Write as _,
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;

use crate::{
    lab::Lab,
    process::{Process, eventually, executable},
    site::Host,
};

/// A machine with a daemon.
#[derive(Debug)]
pub(crate) struct Client {
    name: &'static str,
    host: Host,
    home: PathBuf,
    server: String,
    adapter: &'static str,
    paths: &'static str,
    daemon: Option<Process>,
}

impl Client {
    /// Starts a daemon on `host`.
    pub(crate) fn start(lab: &Lab, name: &'static str, host: Host, server: &str) -> Self {
        Self::start_on("tun", lab, name, host, server)
    }

    /// Starts a daemon with this adapter.
    pub(crate) fn start_on(adapter: &'static str, lab: &Lab, name: &'static str, host: Host, server: &str) -> Self {
        Self::start_with((adapter, "any"), lab, name, host, server)
    }

    /// Starts a daemon that may only use relays.
    pub(crate) fn start_relayed(lab: &Lab, name: &'static str, host: Host, server: &str) -> Self {
        Self::start_with(("tun", "relay"), lab, name, host, server)
    }

    fn start_with(
        (adapter, paths): (&'static str, &'static str),
        lab: &Lab,
        name: &'static str,
        host: Host,
        server: &str,
    ) -> Self {
        let (home, server) = (lab.folder(name), server.to_owned());
        let mut client = Self { name, host, home, server, adapter, paths, daemon: None };
        client.resume();
        client
    }

    /// Starts the daemon (again), with what it saved.
    pub(crate) fn resume(&mut self) {
        let mut command = self.host.namespace.command(executable("buri"));
        command.arg("--home").arg(&self.home).args(["daemon", "--server", &self.server]);
        command.args(["--adapter", self.adapter, "--interface", INTERFACE, "--path", self.paths]);
        if let Some(proxy) = self.host.proxy() {
            command.args(["--proxy", &format!("http://{proxy}")]);
        }
        command.env("RUST_LOG", "info");
        self.daemon = Some(Process::start(self.name, &mut command, &self.home));
        eventually("the daemon answers", PATIENCE, || {
            assert!(self.daemon.as_mut().is_some_and(Process::runs), "{} ended", self.name);
            self.ask(&["status"], "").ok()
        });
    }

    /// Ends the daemon without a goodbye.
    pub(crate) fn kill(&mut self) {
        self.daemon.take().unwrap().kill();
    }

    /// The machine it runs on.
    pub(crate) const fn host(&self) -> &Host {
        &self.host
    }

    /// The same, to be changed.
    pub(crate) const fn host_mut(&mut self) -> &mut Host {
        &mut self.host
    }

    /// Creates a network.
    pub(crate) fn create(&self, network: &str) {
        self.must(&["create", network, "--password-file", "-"], PASSWORD);
    }

    /// Joins a network.
    pub(crate) fn join(&self, network: &str) {
        self.must(&["join", network, "--password-file", "-"], PASSWORD);
    }

    /// Changes the nickname; whether that was possible.
    pub(crate) fn rename(&self, nick: &str) -> bool {
        self.ask(&["nick", nick], "").is_ok()
    }

    /// What `status` says.
    pub(crate) fn status(&self) -> Value {
        self.must(&["status"], "")
    }

    /// The virtual IPv4 address.
    pub(crate) fn address4(&self) -> Ipv4Addr {
        self.status()["address4"].as_str().unwrap().parse().unwrap()
    }

    /// The virtual IPv6 address.
    pub(crate) fn address6(&self) -> Ipv6Addr {
        self.status()["address6"].as_str().unwrap().parse().unwrap()
    }

    /// What this client knows of `other`, if anything.
    pub(crate) fn sees(&self, other: Ipv4Addr) -> Option<Value> {
        let peers = self.must(&["peers"], "");
        let address = other.to_string();
        peers.as_array().unwrap().iter().find(|peer| peer["address4"] == address.as_str()).cloned()
    }

    /// Waits until `key` of `other` is `value`.
    #[track_caller]
    pub(crate) fn await_peer(&self, other: Ipv4Addr, key: &str, value: &str, patience: Duration) {
        let mut last = None;
        let what = format!("{} sees {key} = {value}", self.name);
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually(&what, patience, || {
                last = self.sees(other);
                last.as_ref().filter(|peer| peer[key] == value).map(|_| ())
            });
        }));
        assert!(done.is_ok(), "{what}: not within {patience:?}; last: {last:?}");
    }

    /// Whether datagrams for `other` go to a relay over TCP.
    pub(crate) fn is_streamed_to(&self, other: Ipv4Addr) -> bool {
        let endpoint = self.sees(other).map(|peer| peer["endpoint"].clone());
        endpoint.is_some_and(|endpoint| endpoint.as_str().is_some_and(|at| at.starts_with("tls://")))
    }

    /// Waits until the control connection is there.
    #[track_caller]
    pub(crate) fn await_control(&self, patience: Duration) {
        eventually("the control connection is back", patience, || {
            (self.status()["control"] == "connected").then_some(())
        });
    }

    /// Waits for a path of this kind. Returns how long it took.
    #[track_caller]
    pub(crate) fn wait(&self, to: Ipv4Addr, path: &str, timeout: &str) -> Duration {
        let waited = self.ask(&["wait", &to.to_string(), "--path", path, "--timeout", timeout], "");
        let waited = waited.unwrap_or_else(|error| {
            panic!("{}: no {path} path within {timeout}: {error}; why: {:?}", self.name, self.why(to))
        });
        Duration::from_millis(waited["after_ms"].as_u64().unwrap())
    }

    /// Whether such a path comes within the time.
    pub(crate) fn gets(&self, to: Ipv4Addr, path: &str, timeout: &str) -> bool {
        self.ask(&["wait", &to.to_string(), "--path", path, "--timeout", timeout], "").is_ok()
    }

    /// The record of the last negotiation with `other`.
    pub(crate) fn why(&self, other: Ipv4Addr) -> Result<Value, Value> {
        self.ask(&["why", &other.to_string()], "")
    }

    /// Runs one command that has to succeed.
    #[track_caller]
    pub(crate) fn must(&self, arguments: &[&str], input: &str) -> Value {
        self.ask(arguments, input).unwrap_or_else(|error| panic!("{}: buri {arguments:?}: {error}", self.name))
    }

    /// Ends the daemon in good order.
    pub(crate) fn end(&mut self) {
        self.daemon.take().unwrap().end(PATIENCE);
    }

    /// Runs one command. `Err` is what it printed when it was refused.
    fn ask(&self, arguments: &[&str], input: &str) -> Result<Value, Value> {
        let mut command = Command::new(executable("buri"));
        command.arg("--home").arg(&self.home).arg("--json").args(arguments);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        // A command that needs no input closes it unread.
        let _ = process.stdin.take().unwrap().write_all(input.as_bytes());
        let output = process.wait_with_output().unwrap();
        let document = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        if output.status.success() { Ok(document) } else { Err(document) }
    }
}

/// The name of the TUN device.
pub(crate) const INTERFACE: &str = "buri0";

pub(crate) const PASSWORD: &str = "correct horse battery staple";

const PATIENCE: Duration = Duration::from_secs(60);
