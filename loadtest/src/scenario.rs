//! What is sent, and what must come of it: data in a file, with what the command line replaces.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::Context as _;
use domain::Bandwidth;
use serde::{Deserialize, Serialize};
use wire::{
    fanout::{COPY_HEADER_SIZE, slots_that_fit},
    relay::{HEADER_SIZE, MAX_DATAGRAM},
};

use crate::{
    iroh,
    legs::MOST_GROUPS,
    server::Kind,
    stamp::LEAST_PAYLOAD,
    threshold::{Against, Threshold},
};

const SCENARIOS: &str = include_str!("../scenarios/relay.toml");

/// Pairs of one run, at most: what one relay holds.
const MOST_PAIRS: u32 = 100_000;

/// Pairs of a run with bare forwarders: their tables end there.
const MOST_FORWARDED: u32 = 50_000;

/// Pairs of a run with a server where each leg needs a socket of its own.
const MOST_ALLOCATED: u32 = 500;

/// What the largest header of all leaves for the payload.
const MOST_BYTES: usize = MAX_DATAGRAM - iroh::HEADER;

/// What the kernel takes as one piece.
const MOST_OFFLOADED: usize = 60_000;

/// Scenarios by their names.
pub(crate) type Scenarios = BTreeMap<String, Scenario>;

/// One scenario.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// What it shows.
    pub(crate) about: String,
    /// The same seed makes the same sequence of pairs, directions and sizes.
    pub(crate) seed: u64,
    pub(crate) rounds: u32,
    /// Of one phase of one server.
    #[serde(with = "domain::human_duration")]
    pub(crate) duration: Duration,
    /// What takes turns with the relay.
    pub(crate) against: Vec<Kind>,
    /// Legs that go through WebSockets over TLS; UDP is what the others go through.
    #[serde(default)]
    pub(crate) streams: Streams,
    /// Names of the groups that send in each phase of a round; the first group of a phase is the one that is measured. Without
    /// phases all send.
    #[serde(default)]
    pub(crate) phases: Vec<Vec<String>>,
    /// Pairs that end, each with another in its place.
    #[serde(default)]
    pub(crate) joins_per_second: u32,
    /// Legs that go on at another address.
    #[serde(default)]
    pub(crate) moves_per_second: u32,
    /// What of the medians is failure.
    #[serde(default)]
    pub(crate) fail_if: Vec<Threshold>,
    /// Hostile datagrams beside every phase, so many times what the relay carries. In the first phase they go to nobody: what
    /// they cost the generator is in all phases.
    #[serde(default)]
    pub(crate) hostile: f64,
    pub(crate) groups: Vec<Group>,
}

/// Which legs of every pair are streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Streams {
    #[default]
    None,
    One,
    Both,
}

/// Pairs that are alike.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Group {
    /// What phases and reports call it.
    #[serde(default = "all")]
    pub(crate) name: String,
    pub(crate) pairs: u32,
    /// What each pair's tickets allow.
    #[serde(default = "unlimited")]
    pub(crate) rate: Bandwidth,
    /// Datagrams a second over all pairs. Without it: as many as get through.
    pub(crate) datagrams_per_second: Option<u32>,
    /// Without a rate: datagrams on the way, at most.
    #[serde(default = "window")]
    pub(crate) window: u32,
    /// Datagrams that one leg sends at once.
    pub(crate) burst: usize,
    /// So many pairs each have one client in common, and only it sends: a datagram to each of them, as a burst.
    pub(crate) star: Option<u32>,
    /// Whether it sends them all as one frame, and the relay copies.
    #[serde(default)]
    pub(crate) fanout: bool,
    /// Whether the kernel gets a burst as one piece (UDP_SEGMENT).
    #[serde(default)]
    pub(crate) offload: bool,
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

/// What the command line says instead.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Instead {
    /// Instead of the scenario's duration of a phase.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: Option<u64>,
    /// Instead of the number of pairs of every group.
    #[arg(long, value_name = "N")]
    pairs: Option<u32>,
    /// Instead of the sizes of every group: bytes of every tunnel datagram.
    #[arg(long, value_name = "BYTES")]
    size: Option<usize>,
    /// Instead of the scenario's number of rounds.
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,
    /// Instead of the scenario's seed.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Instead of what the scenario has take turns with the relay.
    #[arg(long, value_name = "SERVER", value_delimiter = ',')]
    against: Option<Vec<Kind>>,
    /// Instead of what the scenario calls failure, as `cpu/naive > 1.05`; once for each.
    #[arg(long, value_name = "THRESHOLD")]
    fail_if: Vec<Threshold>,
}

/// Those of `names` from `file`, or from the executable, each with what `instead` replaces. `all` names every one.
///
/// # Errors
/// When one is missing, or cannot be run.
pub(crate) fn read(
    file: Option<&Path>,
    names: &[String],
    instead: &Instead,
) -> anyhow::Result<Vec<(String, Scenario)>> {
    let text = match file {
        Some(path) => fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?,
        None => SCENARIOS.to_owned(),
    };
    let known: Scenarios = toml::from_str(&text).context("these are no scenarios")?;
    let every = names.iter().any(|name| name == "all");
    let names: Vec<&String> = if every { known.keys().collect() } else { names.iter().collect() };
    let chosen = names.into_iter().map(|name| {
        let scenario = known.get(name).with_context(|| {
            let known: Vec<_> = known.keys().map(String::as_str).collect();
            format!("there is no scenario {name}, but {}", known.join(", "))
        })?;
        let scenario = instead.applied(scenario.clone());
        scenario.check().with_context(|| format!("scenario {name}"))?;
        Ok((name.clone(), scenario))
    });
    chosen.collect()
}

impl Instead {
    fn applied(&self, mut scenario: Scenario) -> Scenario {
        scenario.duration = self.seconds.map_or(scenario.duration, Duration::from_secs);
        scenario.rounds = self.rounds.unwrap_or(scenario.rounds);
        scenario.seed = self.seed.unwrap_or(scenario.seed);
        for group in &mut scenario.groups {
            group.pairs = self.pairs.unwrap_or(group.pairs);
            if let Some(bytes) = self.size {
                group.sizes = vec![Size { bytes, weight: 1 }];
            }
        }
        if let Some(against) = &self.against {
            scenario.against.clone_from(against);
            // A ratio to nobody means nothing.
            scenario.fail_if.retain(|threshold| match threshold.against {
                Some(Against::Server(kind)) => against.contains(&kind),
                Some(Against::First) | None => true,
            });
        }
        if !self.fail_if.is_empty() {
            scenario.fail_if.clone_from(&self.fail_if);
        }
        scenario
    }
}

impl Streams {
    /// Whether the legs of this side, 0 or 1, are streams.
    pub(crate) const fn has(self, side: u32) -> bool {
        match self {
            Self::None => false,
            Self::One => side == 0,
            Self::Both => true,
        }
    }
}

impl Scenario {
    /// The groups of each phase, by their places.
    pub(crate) fn phases(&self) -> Vec<Vec<usize>> {
        if self.phases.is_empty() {
            return vec![(0..self.groups.len()).collect()];
        }
        let place = |name: &String| self.groups.iter().position(|group| group.name == *name);
        self.phases.iter().map(|names| names.iter().filter_map(place).collect()).collect()
    }

    /// What a phase is called.
    pub(crate) fn phase_name(&self, phase: usize) -> String {
        if self.hostile > 0.0 {
            return if phase == 0 { "left alone" } else { "attacked" }.to_owned();
        }
        let names =
            |phase: Vec<usize>| phase.iter().map(|&at| self.groups[at].name.as_str()).collect::<Vec<_>>().join(" + ");
        self.phases().into_iter().nth(phase).map(names).unwrap_or_default()
    }

    /// Pairs of all groups.
    pub(crate) fn pairs(&self) -> u32 {
        self.groups.iter().map(|group| group.pairs).sum()
    }

    fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.groups.is_empty(), "groups: at least one");
        anyhow::ensure!(self.rounds > 0, "rounds: at least 1");
        anyhow::ensure!(self.duration >= Duration::from_millis(100), "duration: at least 100 ms");
        anyhow::ensure!(!self.against.contains(&Kind::Relay), "against: not the relay itself");
        for group in &self.groups {
            group.check().with_context(|| format!("group {}", group.name))?;
        }
        let most = if self.against.iter().any(|kind| kind.needs_a_link_each()) {
            MOST_ALLOCATED
        } else if self.against.is_empty() {
            MOST_PAIRS
        } else {
            MOST_FORWARDED
        };
        let pairs = self.groups.iter().map(|group| u64::from(group.pairs)).sum::<u64>();
        anyhow::ensure!((1..=u64::from(most)).contains(&pairs), "groups: between 1 and {most} pairs");
        let known = |name: &String| self.groups.iter().filter(|group| group.name == *name).count() == 1;
        for phase in &self.phases {
            anyhow::ensure!(!phase.is_empty() && phase.iter().all(known), "phases: each names groups that exist once");
        }
        let changes = self.joins_per_second > 0 || self.moves_per_second > 0;
        anyhow::ensure!(!changes || self.against.is_empty(), "joins and moves are for the relay alone: no against");
        let plain = self.streams == Streams::None;
        let attacked = self.hostile > 0.0;
        anyhow::ensure!((0.0..=100.0).contains(&self.hostile), "hostile: between 0 and 100");
        anyhow::ensure!(!attacked || self.against.is_empty(), "hostile: for the relay alone: no against");
        anyhow::ensure!(!attacked || self.phases.len() > 1, "hostile: a phase without, and one with");
        let stars = self.groups.iter().any(|group| group.star.is_some());
        anyhow::ensure!(
            !stars || self.against.is_empty() && plain,
            "star: for the relay alone, over UDP: no against, no streams"
        );
        anyhow::ensure!(!stars || self.pairs() <= MOST_GROUPS, "star: at most {MOST_GROUPS} pairs in all");
        let fits = |kind: &Kind| match self.streams {
            Streams::None => !kind.takes_streams(),
            Streams::One => false,
            Streams::Both => kind.takes_streams(),
        };
        anyhow::ensure!(
            self.against.iter().all(fits),
            "against: iroh and iroh-tls take streams on both sides, the others none"
        );
        anyhow::ensure!(plain || self.groups.iter().all(|group| !group.offload), "offload: for UDP");
        anyhow::ensure!(self.joins_per_second.max(self.moves_per_second) <= 10_000, "joins and moves: at most 10000");
        for threshold in &self.fail_if {
            let measured = match threshold.against {
                Some(Against::Server(kind)) => self.against.contains(&kind),
                Some(Against::First) => self.phases.len() > 1,
                None => true,
            };
            anyhow::ensure!(measured, "fail_if: {threshold} is against what does not run");
        }
        Ok(())
    }
}

impl Group {
    fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(self.pairs > 0, "pairs: at least 1");
        anyhow::ensure!((1..=64).contains(&self.burst), "burst: between 1 and 64");
        anyhow::ensure!(self.window as usize >= self.burst, "window: at least a burst");
        anyhow::ensure!(self.datagrams_per_second != Some(0), "datagrams_per_second: at least 1");
        anyhow::ensure!(self.sizes.iter().any(|size| size.weight > 0), "sizes: one needs a weight");
        anyhow::ensure!(
            self.sizes.iter().all(|size| (LEAST_PAYLOAD..=MOST_BYTES).contains(&size.bytes)),
            "sizes: between {LEAST_PAYLOAD} and {MOST_BYTES} bytes"
        );
        anyhow::ensure!(!self.fanout || self.star.is_some(), "fanout: of a star");
        if let Some(star) = self.star {
            let room = slots_that_fit(MAX_DATAGRAM, self.sizes[0].bytes + COPY_HEADER_SIZE);
            anyhow::ensure!((1..=room).contains(&(star as usize)), "star: between 1 and {room}");
            anyhow::ensure!(star as usize == self.burst && !self.offload, "star: as large as the burst; no offload");
            anyhow::ensure!(self.pairs.is_multiple_of(star) && self.sizes.len() == 1, "star: whole ones, of one size");
        }
        if let (true, [size, others @ ..]) = (self.offload, &self.sizes[..]) {
            let whole = self.burst * (size.bytes + HEADER_SIZE);
            anyhow::ensure!(others.is_empty(), "offload: one size only");
            anyhow::ensure!(whole <= MOST_OFFLOADED, "offload: at most {MOST_OFFLOADED} bytes in a burst");
        }
        Ok(())
    }
}

fn all() -> String {
    "all".into()
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
        let all = read(None, &["all".into()], &Instead::default()).unwrap();
        assert!(all.len() > 8);
        for (name, scenario) in all {
            assert!(!scenario.fail_if.is_empty(), "{name} cannot fail");
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let error = read(None, &["flod".into()], &Instead::default()).unwrap_err().to_string();
        assert!(error.contains("flod") && error.contains("flood"), "{error}");
    }

    #[test]
    fn what_cannot_be_run_is_refused() {
        let refused = |change: &dyn Fn(&mut Scenario)| {
            let (_, mut scenario) = read(None, &["flood".into()], &Instead::default()).unwrap().remove(0);
            scenario.check().unwrap();
            change(&mut scenario);
            assert!(scenario.check().is_err(), "{scenario:?}");
        };
        for bytes in [LEAST_PAYLOAD - 1, MOST_BYTES + 1] {
            refused(&|scenario| scenario.groups[0].sizes = vec![Size { bytes, weight: 1 }]);
        }
        refused(&|scenario| scenario.groups[0].pairs = 0);
        refused(&|scenario| scenario.groups[0].pairs = MOST_ALLOCATED + 1);
        refused(&|scenario| scenario.groups[0].burst = 65);
        refused(&|scenario| scenario.groups[0].datagrams_per_second = Some(0));
        refused(&|scenario| scenario.groups.clear());
        refused(&|scenario| scenario.rounds = 0);
        refused(&|scenario| scenario.phases = vec![vec!["nobody".into()]]);
        refused(&|scenario| scenario.moves_per_second = 1);
        refused(&|scenario| scenario.streams = Streams::One);
        refused(&|scenario| scenario.streams = Streams::Both);
        refused(&|scenario| scenario.against.push(Kind::Iroh));
        refused(&|scenario| scenario.against.clear());
        refused(&|scenario| scenario.hostile = 3.0);
        refused(&|scenario| scenario.groups[0].star = Some(1));
        refused(&|scenario| scenario.groups[0].fanout = true);
        refused(&|scenario| scenario.fail_if = vec!["cpu/first > 1".parse().unwrap()]);
        refused(&|scenario| {
            scenario.groups[0].offload = true;
            scenario.groups[0].sizes.push(Size { bytes: 64, weight: 1 });
        });
    }

    #[test]
    fn the_command_line_replaces() {
        let instead = Instead {
            seconds: Some(1),
            pairs: Some(3),
            size: Some(99),
            rounds: Some(2),
            seed: Some(4),
            against: Some(vec![Kind::Naive]),
            fail_if: Vec::new(),
        };
        let (_, scenario) = read(None, &["flood".into()], &instead).unwrap().remove(0);
        assert_eq!((scenario.duration, scenario.rounds, scenario.seed), (Duration::from_secs(1), 2, 4));
        assert_eq!((scenario.pairs(), scenario.groups[0].sizes[0].bytes), (3, 99));
        assert!(scenario.fail_if.iter().all(|limit| limit.against != Some(Against::Server(Kind::Coturn))));
        assert_eq!(scenario.phases(), [[0]]);
    }
}
