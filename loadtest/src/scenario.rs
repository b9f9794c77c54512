//! What is sent: a file, with what the command line replaces.

use std::{fs, path::Path, time::Duration};

use anyhow::Context as _;
use domain::Bandwidth;
use serde::{Deserialize, Serialize};
use wire::relay::{HEADER_SIZE, MAX_DATAGRAM};

use crate::{relay::Relay, server::Kind, traffic::LEAST_PAYLOAD};

const FLOOD: &str = include_str!("../scenarios/flood.toml");

/// Pairs of one run, at most: bounded by the ports and the tables of the forwarders.
const MOST_PAIRS: u32 = 50_000;

/// One scenario.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// The same seed makes the same sequence of pairs, directions and sizes.
    pub(crate) seed: u64,
    pub(crate) pairs: u32,
    /// What each pair's tickets allow.
    #[serde(default = "unlimited")]
    pub(crate) rate: Bandwidth,
    pub(crate) rounds: u32,
    /// Of one round of one server.
    #[serde(with = "domain::human_duration")]
    pub(crate) duration: Duration,
    /// The bare forwarders that take turns with the relay.
    pub(crate) against: Vec<Kind>,
    pub(crate) traffic: Traffic,
    #[serde(default)]
    pub(crate) limits: Limits,
}

/// The traffic of a round.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Traffic {
    /// Datagrams a second over all pairs. Without it: as many as get through.
    pub(crate) datagrams_per_second: Option<u32>,
    /// Without a rate: datagrams on the way, at most.
    #[serde(default = "window")]
    pub(crate) window: u32,
    /// Datagrams that one leg sends at once.
    pub(crate) burst: usize,
    pub(crate) sizes: Vec<Size>,
}

/// One size in the mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Size {
    /// Of the tunnel's datagram, without the relay's header.
    pub(crate) bytes: usize,
    pub(crate) weight: u32,
}

/// What must hold of the medians; the run fails otherwise.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Limits {
    /// Share of the relay's datagrams that are lost, at most.
    pub(crate) loss: Option<f64>,
    /// How far a pair's bytes may be from its rate, in parts of it.
    pub(crate) cap_error: Option<f64>,
    /// Jain's index over the pairs' bytes, at least.
    pub(crate) fairness: Option<f64>,
    pub(crate) batched: Ratios,
    pub(crate) naive: Ratios,
}

/// The relay's figures in parts of a forwarder's, at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Ratios {
    /// CPU time per delivered datagram.
    pub(crate) cpu: Option<f64>,
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
}

impl Scenario {
    /// The scenario that `args` name, with what they replace.
    pub(crate) fn read(args: &Relay) -> anyhow::Result<Self> {
        let text = match &args.scenario {
            Some(path) => fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?,
            None => FLOOD.to_owned(),
        };
        let name = args.scenario.as_deref().unwrap_or(Path::new("scenarios/flood.toml"));
        let mut scenario: Self = toml::from_str(&text).with_context(|| format!("{} is no scenario", name.display()))?;
        scenario.duration = args.seconds.map(Duration::from_secs).unwrap_or(scenario.duration);
        scenario.pairs = args.pairs.unwrap_or(scenario.pairs);
        scenario.rounds = args.rounds.unwrap_or(scenario.rounds);
        if let Some(bytes) = args.size {
            scenario.traffic.sizes = vec![Size { bytes, weight: 1 }];
        }
        scenario.check()?;
        Ok(scenario)
    }

    fn check(&self) -> anyhow::Result<()> {
        let most = MAX_DATAGRAM - HEADER_SIZE;
        let sizes = &self.traffic.sizes;
        anyhow::ensure!((1..=MOST_PAIRS).contains(&self.pairs), "pairs: between 1 and {MOST_PAIRS}");
        anyhow::ensure!(self.rounds > 0, "rounds: at least 1");
        anyhow::ensure!(self.duration >= Duration::from_millis(100), "duration: at least 100 ms");
        anyhow::ensure!((1..=64).contains(&self.traffic.burst), "traffic.burst: between 1 and 64");
        anyhow::ensure!(self.traffic.window as usize >= self.traffic.burst, "traffic.window: at least a burst");
        anyhow::ensure!(self.traffic.datagrams_per_second != Some(0), "traffic.datagrams_per_second: at least 1");
        anyhow::ensure!(sizes.iter().any(|size| size.weight > 0), "traffic.sizes: one needs a weight");
        anyhow::ensure!(
            sizes.iter().all(|size| (LEAST_PAYLOAD..=most).contains(&size.bytes)),
            "traffic.sizes: between {LEAST_PAYLOAD} and {most} bytes"
        );
        anyhow::ensure!(!self.against.contains(&Kind::Relay), "against: batched or naive");
        Ok(())
    }
}

impl Limits {
    /// Those against one forwarder.
    pub(crate) const fn against(&self, kind: Kind) -> Ratios {
        match kind {
            Kind::Batched => self.batched,
            Kind::Naive => self.naive,
            Kind::Relay => Ratios { cpu: None, p50: None, p99: None },
        }
    }
}

const fn unlimited() -> Bandwidth {
    Bandwidth::UNLIMITED
}

const fn window() -> u32 {
    256
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_of_the_repository_can_be_run() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let files: Vec<_> = files.filter(|file| !file.ends_with("populations.toml")).collect();
        assert!(!files.is_empty());
        for file in files {
            let scenario: Scenario = toml::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
            scenario.check().unwrap();
        }
    }

    #[test]
    fn sizes_that_no_datagram_has_are_refused() {
        let mut scenario: Scenario = toml::from_str(FLOOD).unwrap();
        for bytes in [LEAST_PAYLOAD - 1, MAX_DATAGRAM - HEADER_SIZE + 1] {
            scenario.traffic.sizes = vec![Size { bytes, weight: 1 }];
            assert!(scenario.check().is_err());
        }
    }
}
