//! The `relay` scenarios: the relay, bare forwarders and a TURN server in turns, over the same traffic in the same run.
//!
//! The figures that count are ratios of medians: machines differ, and this one may have other work. The servers share the first
//! core, the generator has the last one.

use std::{
    env, fs,
    io::{self, IsTerminal as _},
    net::{SocketAddr, UdpSocket},
    path::{Path, PathBuf},
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
    deployment,
    hostile::{Hostile, nowhere},
    html,
    legs::Legs,
    report::{Report, Resident, Round, Section},
    scenario::{Instead, Scenario, read},
    server::Server,
    traffic::Generator,
};

/// Traffic before each measured phase: caches and the processor's clock are warm then, and the pairs' buckets empty.
const WARM_UP: Duration = Duration::from_millis(300);

/// How long what a relay carries is measured.
const CAPACITY: Duration = Duration::from_secs(1);

/// What a run is told.
#[derive(Debug, Args)]
pub(crate) struct Relay {
    /// Names of scenarios, or `all`.
    #[arg(value_name = "SCENARIO", default_value = "flood")]
    names: Vec<String>,
    /// Where the scenarios stand; default: those of scenarios/relay.toml.
    #[arg(long, value_name = "FILE")]
    scenarios: Option<PathBuf>,
    #[command(flatten)]
    instead: Instead,
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
    /// Where the executables `iroh-relay` and `turn-server` are; default: where loadtest/rivals/Cargo.toml says, or beside this
    /// executable.
    #[arg(long, value_name = "FOLDER")]
    rivals: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
    /// Write the report as a page with pictures, too.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl Relay {
    /// Where the executables of rivals may be.
    fn rivals(&self) -> anyhow::Result<Vec<PathBuf>> {
        if let Some(folder) = &self.rivals {
            return Ok(vec![folder.clone()]);
        }
        let own = env::current_exe()?.parent().map(Path::to_owned).unwrap_or_default();
        Ok(vec![PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/rivals/target/release")), own])
    }

    fn server(&self) -> anyhow::Result<Server> {
        match (self.relay, self.relay_id, &self.ticket_root) {
            (Some(address), Some(id), Some(root)) => Server::running(address, id, root, self.relay_pid),
            _ => Server::deployed(),
        }
    }
}

/// Runs the scenarios, and says what came of them. Fails when a threshold of one is missed.
pub(crate) fn run(args: &Relay) -> anyhow::Result<ExitCode> {
    let scenarios = read(args.scenarios.as_deref(), &args.names, &args.instead)?;
    let cores = thread::available_parallelism()?.get();
    deployment::raise_descriptor_limit()?;
    let bar = progress(scenarios.iter().map(|(_, scenario)| turns(scenario)).sum());
    let busy = load_average()?;
    let sections = scenarios.iter().map(|(name, scenario)| section(args, cores, name, scenario, &bar));
    let sections = sections.collect::<anyhow::Result<Vec<_>>>()?;
    bar.finish_and_clear();

    let report = Report::new(cores, [busy, load_average()?], sections);
    if let Some(path) = &args.html {
        fs::write(path, html::page(&report)?)?;
    }
    crate::print(&if args.json { serde_json::to_string(&report)? } else { report.to_string().trim_end().to_owned() })?;
    Ok(if report.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One scenario, with servers of its own.
fn section(args: &Relay, cores: usize, name: &str, scenario: &Scenario, bar: &ProgressBar) -> anyhow::Result<Section> {
    // Children inherit the core that they are started on.
    pin(0, cores)?;
    let (mut servers, mut left_out) = (vec![args.server()?], Vec::new());
    let rivals = args.rivals()?;
    for &kind in &scenario.against {
        match Server::rival(kind, &rivals)? {
            Some(server) => servers.push(server),
            None => left_out.push(kind),
        }
    }
    pin(cores - 1, cores)?;
    let sides = servers.iter().map(|server| {
        let (before, legs) = (server.resident()?, Legs::new(server, scenario)?);
        Ok(Side { server, before, joined: None, carries: None, nowhere: nowhere()?, legs })
    });
    let mut sides = sides.collect::<anyhow::Result<Vec<_>>>()?;

    let mut rounds = Vec::new();
    for number in 0..scenario.rounds {
        for turn in 0..sides.len() {
            // Another one begins each round: whoever comes after a rest, or after joins, has no advantage of it.
            let at = (turn + number as usize) % sides.len();
            let side = &mut sides[at];
            let kind = side.server.kind.name();
            bar.set_message(format!("{name}: round {} of {}: {kind}", number + 1, scenario.rounds));
            side.join()?;
            for phase in 0..scenario.phases().len() {
                rounds.push(side.round(scenario, phase, u64::from(number))?);
                bar.inc(1);
            }
        }
    }
    Section::new(name, scenario, &left_out, rounds)
}

/// A server with the legs of all pairs at it.
struct Side<'a> {
    server: &'a Server,
    legs: Legs,
    /// Resident bytes before the first join, and after it.
    before: Option<u64>,
    joined: Option<u64>,
    /// As much as got through in a second, where somebody asked.
    carries: Option<f64>,
    /// Where strangers send to while they leave the relay alone.
    nowhere: UdpSocket,
}

impl Side<'_> {
    /// Slots end when their pairs rest for long, and every round begins alike.
    fn join(&mut self) -> anyhow::Result<()> {
        self.legs.join()?;
        if self.joined.is_none() {
            self.joined = self.server.resident()?;
        }
        Ok(())
    }

    fn round(&mut self, scenario: &Scenario, phase: usize, number: u64) -> anyhow::Result<Round> {
        let groups = scenario.phases().into_iter().nth(phase).unwrap_or_default();
        let seed = scenario.seed.wrapping_add(number);
        let hostile = if scenario.hostile > 0.0 { Some(self.attack(scenario, phase, seed)?) } else { None };
        let mut generator = Generator::new(&mut self.legs, scenario, &groups, seed)?;
        generator.run(WARM_UP.min(scenario.duration))?;
        let before = self.server.cpu()?;
        let outcome = generator.run(scenario.duration)?;
        let after = self.server.cpu()?;
        let hostile = hostile.map(Hostile::end).transpose()?;
        let talked = self.server.resident()?;
        let resident = self.before.zip(self.joined).zip(talked);
        let resident = resident.map(|((before, joined), talked)| Resident { before, joined, talked });
        let mut round = Round::new(scenario, self.server.kind, phase, &outcome, before.zip(after), resident);
        round.attack = hostile.zip(self.carries);
        Ok(round)
    }

    /// Strangers who send so many times what the relay carries: in the first phase to nobody.
    fn attack(&mut self, scenario: &Scenario, phase: usize, seed: u64) -> anyhow::Result<Hostile> {
        let carries = match self.carries {
            Some(carries) => carries,
            None => {
                let mut flood = scenario.clone();
                flood.groups.iter_mut().for_each(|group| group.datagrams_per_second = None);
                let groups = flood.phases().into_iter().next().unwrap_or_default();
                let outcome = Generator::new(&mut self.legs, &flood, &groups, seed)?.run(CAPACITY)?;
                let delivered = outcome.groups.iter().map(|tally| tally.delivered).sum::<u64>();
                delivered as f64 / outcome.duration.as_secs_f64()
            }
        };
        self.carries = Some(carries);
        let to = if phase == 0 { self.nowhere.local_addr()? } else { self.server.address };
        let slots = (0..2 * self.legs.pairs()).map(|leg| self.legs.slot(leg)).collect();
        let cores = thread::available_parallelism()?.get();
        // Beside the generator where there is no other core.
        let prepare = move || pin(if cores > 2 { cores - 2 } else { cores - 1 }, cores);
        Ok(Hostile::start(to, slots, carries * scenario.hostile, seed, prepare))
    }
}

/// Phases of all rounds of all servers.
fn turns(scenario: &Scenario) -> u64 {
    u64::from(scenario.rounds) * scenario.phases().len() as u64 * (1 + scenario.against.len() as u64)
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

fn progress(turns: u64) -> ProgressBar {
    let bar = ProgressBar::new(turns);
    if !io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} {eta}") {
        bar.set_style(style);
    }
    bar
}
