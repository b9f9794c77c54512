//! The servers of the lab: all roles in one process, or one process for each.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use crate::{
    cluster::{Cluster, SECOND_RELAY},
    lab::{Lab, SERVERS, SERVERS6},
    process::{Process, executable},
};

/// Which back-ends the servers stand on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Seams {
    /// SQLite and in-process.
    Embedded,
    /// Postgres, Redis and RabbitMQ, and a process for each role.
    Cluster,
}

/// Every role, and the processes that they run in.
#[derive(Debug)]
pub(crate) struct Servers {
    plan: Plan,
    running: BTreeMap<&'static str, Process>,
    url: String,
    /// Of an embedded deployment.
    config: &'static str,
    metrics: String,
}

#[derive(Debug)]
enum Plan {
    Embedded,
    Cluster(Cluster),
}

impl Servers {
    /// Starts all of them.
    pub(crate) fn start(lab: &Lab, seams: Seams) -> Self {
        Self::start_with(lab, seams, UNCAPPED)
    }

    /// The same; embedded with this configuration.
    pub(crate) fn start_with(lab: &Lab, seams: Seams, config: &'static str) -> Self {
        let plan = match seams {
            Seams::Embedded => Plan::Embedded,
            Seams::Cluster => Plan::Cluster(Cluster::prepare(lab)),
        };
        let mut servers = Self { plan, running: BTreeMap::new(), url: String::new(), config, metrics: String::new() };
        servers.start_all(lab);
        servers
    }

    /// What clients are given.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// A figure of an embedded deployment.
    pub(crate) fn figure(&self, lab: &Lab, name: &str) -> u64 {
        let (address, path) = self.metrics.trim_start_matches("http://").split_once('/').unwrap();
        let text = lab.servers().enter(|| {
            let mut stream = TcpStream::connect(address).unwrap();
            write!(stream, "GET /{path} HTTP/1.0\r\nHost: {address}\r\n\r\n").unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        });
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    /// The services below, when they are not embedded.
    #[track_caller]
    pub(crate) fn cluster(&self) -> &Cluster {
        match &self.plan {
            Plan::Embedded => panic!("an embedded deployment stands on nothing"),
            Plan::Cluster(cluster) => cluster,
        }
    }

    /// The processes by name.
    pub(crate) fn names(&self) -> Vec<&'static str> {
        match &self.plan {
            Plan::Embedded => vec!["all"],
            Plan::Cluster(_) => ROLES.to_vec(),
        }
    }

    /// Kills every process at once.
    pub(crate) fn kill_all(&mut self) {
        for process in std::mem::take(&mut self.running).into_values() {
            process.kill();
        }
    }

    /// Starts every process, and waits until all are ready.
    pub(crate) fn start_all(&mut self, lab: &Lab) {
        for name in self.names() {
            self.start_one(lab, name);
        }
    }

    /// Kills one process.
    pub(crate) fn kill_one(&mut self, name: &str) {
        self.running.remove(name).expect("it runs").kill();
    }

    /// Asks one process to end, and waits until it has.
    pub(crate) fn end_one(&mut self, name: &str, patience: Duration) {
        self.running.remove(name).expect("it runs").end(patience);
    }

    /// Starts one process, and waits until it is ready.
    pub(crate) fn start_one(&mut self, lab: &Lab, name: &'static str) {
        let mut command = lab.servers().command(executable("mediator"));
        let folder = lab.folder("servers");
        match &self.plan {
            Plan::Embedded => {
                let addresses = SERVERS.map(|at| at.to_string()).into_iter().chain(SERVERS6.map(|at| at.to_string()));
                let addresses = addresses.collect::<Vec<_>>().join(",");
                let config = folder.join("config.toml");
                std::fs::write(&config, self.config).unwrap();
                command.args(["all", "--json", "--bind", &addresses, "--public", &addresses, "--config"]).arg(config);
                command.arg("--data").arg(folder.join("data"));
            }
            Plan::Cluster(cluster) => {
                let role = if name == SECOND_RELAY { "relay" } else { name };
                command.args([role, "--json", "--config"]).arg(cluster.config(name));
            }
        }
        let (process, ready) = Process::start_server(name, &mut command, &folder);
        if let Some(url) = ready["server"].as_str() {
            url.clone_into(&mut self.url);
        }
        if let Some(url) = ready["metrics"].as_str() {
            url.clone_into(&mut self.metrics);
        }
        self.running.insert(name, process);
    }
}

/// In any order: none waits for another.
pub(crate) const ROLES: [&str; 6] = ["gateway", "auth", "network", "rendezvous", "relay", "admin"];

/// The free plan relays a kilobyte a second, less than a ping five times a second needs.
pub(crate) const UNCAPPED: &str = "[store]\ndefault_plan = \"premium\"\n";

/// The same with a single worker of the relay, so that all slots are in one group.
pub(crate) const ONE_WORKER: &str = "[store]\ndefault_plan = \"premium\"\n[relay]\nworkers = 1\n";
