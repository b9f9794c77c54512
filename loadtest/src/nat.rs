//! The `nat` scenario: pairs of a population, simulated, and how many of them talk directly.
//!
//! Every pair is tried several times under the same seed: as other systems do it, and then with one means of ours added at
//! a time. So the columns differ by the means only.

mod plot;
mod population;
mod report;

use std::{fs, path::PathBuf, process::ExitCode, thread, time::Duration};

use clap::Args;
use traversal::{
    schedule::Limits,
    sim::{
        Ipv6,
        trial::{Driver, Place, Scenario, run as try_once},
    },
};

use self::{
    population::{Pair, Populations},
    report::{Report, Trial},
};

/// How long a pair may take to become direct: three birthdays, which are a minute apart.
const PATIENCE: Duration = Duration::from_secs(140);

/// What a run is told.
#[derive(Debug, Args)]
pub(crate) struct Nat {
    /// Whose NATs: home, mixed or mobile.
    #[arg(long, value_name = "NAME", default_value = "mixed")]
    population: String,
    /// How many pairs are drawn.
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pairs: u64,
    /// The same seed draws the same pairs, lines and packets.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// One-way delay between all sites, instead of drawn ones; for example 20ms.
    #[arg(long, value_name = "TIME", value_parser = delay)]
    delay: Option<Duration>,
    /// The populations; default: scenarios/populations.toml.
    #[arg(long, value_name = "FILE")]
    populations: Option<PathBuf>,
    /// Write the report as JSON, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a picture of it (SVG), too.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// What a pair may use. Each has what the one before has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Means {
    /// Both send to the address that was observed, three times: what other systems do.
    Observed,
    /// The server drives, and predicts the ports of NATs that count.
    Prediction,
    /// It also tries many ports against many sockets.
    Birthday,
    Ipv6,
    PortMapping,
    /// Connections, where one side has no UDP.
    Tcp,
}

impl Means {
    pub(crate) const ALL: [Self; 6] =
        [Self::Observed, Self::Prediction, Self::Birthday, Self::Ipv6, Self::PortMapping, Self::Tcp];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Observed => "observed addresses only",
            Self::Prediction => "+ prediction",
            Self::Birthday => "+ birthday",
            Self::Ipv6 => "+ IPv6",
            Self::PortMapping => "+ port mapping",
            Self::Tcp => "+ TCP: all",
        }
    }

    fn scenario(self, pair: &Pair) -> Scenario {
        let mut sites = pair.sites.clone();
        for site in &mut sites {
            if self < Self::Ipv6 {
                site.ipv6 = Ipv6::None;
            }
            site.port_mapping &= self >= Self::PortMapping;
        }
        let mut limits = Limits::default();
        limits.strategies.birthday = self >= Self::Birthday;
        limits.strategies.tcp = self >= Self::Tcp;
        let driver = if self == Self::Observed { Driver::Observed } else { Driver::Server(limits) };
        Scenario { place: Place::Apart(sites), conditions: pair.conditions, driver, patience: PATIENCE }
    }
}

/// Draws the pairs, tries them, and says what came of it. Fails when the population's targets are missed.
pub(crate) fn run(args: &Nat) -> anyhow::Result<ExitCode> {
    let populations = Populations::read(args.populations.as_deref())?;
    let population = populations.population(&args.population)?;
    let draw = |number| {
        let pair = populations.draw(&population, args.seed, number);
        try_pair(&args.delay.map_or_else(|| pair.clone(), |delay| pair.clone().at(delay)))
    };
    let trials = on_all_cores(args.pairs, draw)?;
    let report = Report::new(&args.population, args.seed, args.delay, &population, &trials);
    if let Some(path) = &args.json {
        fs::write(path, serde_json::to_string_pretty(&report)?)?;
    }
    if let Some(path) = &args.plot {
        fs::write(path, plot::svg(&report, &trials))?;
    }
    crate::print(report.to_string().trim_end())?;
    Ok(if report.missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Such as 20ms or 0.1s.
fn delay(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|c: char| c.is_alphabetic()).unwrap_or(text.len()));
    let seconds = match (number.parse::<f64>(), unit) {
        (Ok(number), "ms") => number / 1e3,
        (Ok(number), "s") => number,
        _ => return Err("a number and ms or s".to_owned()),
    };
    let bounded = (0.0..=LONGEST_DELAY_S).contains(&seconds);
    if bounded { Ok(Duration::from_secs_f64(seconds)) } else { Err(format!("at most {LONGEST_DELAY_S} s")) }
}

/// Half the way round the world over a satellite.
const LONGEST_DELAY_S: f64 = 1.0;

fn try_pair(pair: &Pair) -> Trial {
    let verdicts = Means::ALL.map(|means| try_once(&means.scenario(pair), pair.seed).pairs.remove(0));
    Trial::new(pair.classes, &verdicts)
}

/// `work` for each number below `count`, in their order.
fn on_all_cores<T: Send>(count: u64, work: impl Fn(u64) -> T + Sync) -> anyhow::Result<Vec<T>> {
    let cores = u64::try_from(thread::available_parallelism()?.get())?;
    let (work, mut parts) = (&work, Vec::new());
    thread::scope(|scope| {
        let part = |core| move || (core..count).step_by(cores as usize).map(work).collect::<Vec<_>>();
        let threads: Vec<_> = (0..cores).map(|core| scope.spawn(part(core))).collect();
        for thread in threads {
            parts.push(thread.join().map_err(|_| anyhow::anyhow!("a simulation panicked"))?.into_iter());
        }
        anyhow::Ok(())
    })?;
    Ok((0..count).filter_map(|number| parts[(number % cores) as usize].next()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_a_number_with_its_unit_and_bounded() {
        assert_eq!(delay("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(delay("0.1s"), Ok(Duration::from_millis(100)));
        for wrong in ["20", "ms", "-1ms", "20m", "2s", "nans", ""] {
            assert!(delay(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn results_of_all_cores_come_in_order() {
        let squares = on_all_cores(1_000, |number| number * number).unwrap();
        assert!(squares.iter().enumerate().all(|(number, square)| (number * number) as u64 == *square));
    }

    #[test]
    fn a_run_is_the_same_again_and_ahead_of_observed_addresses() {
        let populations = Populations::read(None).unwrap();
        let population = populations.population("mobile").unwrap();
        let report = || {
            let trials: Vec<_> = (0..60).map(|number| try_pair(&populations.draw(&population, 3, number))).collect();
            let report = Report::new("mobile", 3, None, &population, &trials);
            (serde_json::to_string(&report).unwrap(), plot::svg(&report, &trials), report.ahead())
        };
        let (json, picture, ahead) = report();
        assert_eq!((json.clone(), picture.clone(), ahead), report());
        assert!(ahead >= 0.0, "{json}");
        assert!(picture.starts_with("<svg") && picture.trim_end().ends_with("</svg>"));
    }
}
