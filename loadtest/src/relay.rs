//! The `relay` scenarios: the relay and bare forwarders in turns, over the same traffic in the same run.
//!
//! The figures that count are ratios of medians: machines differ, and this one may have other work. The servers share the first
//! core, the generator has the last one.

use std::{
    fs,
    io::{self, IsTerminal as _},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    thread,
    time::Duration,
};

use clap::Args;
use domain::RelayId;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    legs::Legs,
    report::{Report, Round},
    scenario::Scenario,
    server::Server,
    traffic::Generator,
};

/// Traffic before each measured round: caches and the processor's clock are warm then, and the pairs' buckets empty.
const WARM_UP: Duration = Duration::from_millis(300);

/// What a run is told.
#[derive(Debug, Args)]
pub(crate) struct Relay {
    /// A scenario; default: scenarios/flood.toml.
    #[arg(long, value_name = "FILE")]
    pub(crate) scenario: Option<PathBuf>,
    /// Instead of the scenario's duration of a round.
    #[arg(long, value_name = "N")]
    pub(crate) seconds: Option<u64>,
    /// Instead of the scenario's number of pairs.
    #[arg(long, value_name = "N")]
    pub(crate) pairs: Option<u32>,
    /// Instead of the scenario's sizes: bytes of every tunnel datagram.
    #[arg(long, value_name = "BYTES")]
    pub(crate) size: Option<usize>,
    /// Instead of the scenario's number of rounds.
    #[arg(long, value_name = "N")]
    pub(crate) rounds: Option<u32>,
    /// A running relay, instead of one that is started (by the `mediator` beside this executable).
    #[arg(long, value_name = "ADDRESS", requires = "relay_id", requires = "ticket_root")]
    relay: Option<SocketAddr>,
    /// The id of the running relay, as the admin API tells it.
    #[arg(long, value_name = "ID", requires = "relay")]
    relay_id: Option<RelayId>,
    /// The file of the root that the running relay's ticket key is derived from.
    #[arg(long, value_name = "FILE", requires = "relay")]
    ticket_root: Option<PathBuf>,
    /// The process of the running relay, to know what it costs.
    #[arg(long, value_name = "PID", requires = "relay")]
    relay_pid: Option<u32>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

impl Relay {
    fn server(&self) -> anyhow::Result<Server> {
        match (self.relay, self.relay_id, &self.ticket_root) {
            (Some(address), Some(id), Some(root)) => Server::running(address, id, root, self.relay_pid),
            _ => Server::deployed(),
        }
    }
}

/// Runs the scenario, and says what came of it. Fails when a limit of the scenario is missed.
pub(crate) fn run(args: &Relay) -> anyhow::Result<ExitCode> {
    let scenario = Scenario::read(args)?;
    let cores = thread::available_parallelism()?.get();
    // Children inherit the core that they are started on.
    pin(0, cores)?;
    let mut servers = vec![args.server()?];
    for kind in &scenario.against {
        servers.push(Server::forwarder(*kind)?);
    }
    pin(cores - 1, cores)?;
    let legs = servers.iter().map(|server| Legs::new(server, scenario.pairs, scenario.rate));
    let mut legs = legs.collect::<anyhow::Result<Vec<_>>>()?;

    let bar = progress(u64::from(scenario.rounds) * servers.len() as u64);
    let busy = load_average()?;
    let mut rounds = Vec::new();
    for number in 0..scenario.rounds {
        for turn in 0..servers.len() {
            // Another one begins each round: whoever comes after a rest, or after joins, has no advantage of it.
            let at = (turn + number as usize) % servers.len();
            let (server, legs) = (&servers[at], &mut legs[at]);
            bar.set_message(format!("round {} of {}: {}", number + 1, scenario.rounds, server.kind.name()));
            // Slots end when their pairs rest for long, and every round begins alike.
            legs.join()?;
            rounds.push(round(&scenario, server, legs, u64::from(number))?);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();

    let report = Report::new(&scenario, cores, [busy, load_average()?], rounds);
    crate::print(&if args.json { serde_json::to_string(&report)? } else { report.to_string().trim_end().to_owned() })?;
    Ok(if report.missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn round(scenario: &Scenario, server: &Server, legs: &Legs, number: u64) -> anyhow::Result<Round> {
    let mut generator = Generator::new(legs, &scenario.traffic, scenario.seed.wrapping_add(number))?;
    generator.run(WARM_UP.min(scenario.duration))?;
    let before = server.cpu()?;
    let outcome = generator.run(scenario.duration)?;
    let after = server.cpu()?;
    Ok(Round::new(server.kind, &outcome, before.zip(after), scenario.rate))
}

/// Puts this thread on one core. With a single core there is nothing to choose.
fn pin(core: usize, cores: usize) -> anyhow::Result<()> {
    if cores > 1 {
        let mut set = CpuSet::new();
        set.set(core)?;
        sched_setaffinity(Pid::from_raw(0), &set)?;
    }
    Ok(())
}

/// How many threads of the whole machine wanted a core in the last minute: above the number of cores, tails of latency tell
/// about the others.
fn load_average() -> anyhow::Result<f64> {
    let text = fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').next().unwrap_or_default().parse()?)
}

fn progress(rounds: u64) -> ProgressBar {
    let bar = ProgressBar::new(rounds);
    if !io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} {eta}") {
        bar.set_style(style);
    }
    bar
}
