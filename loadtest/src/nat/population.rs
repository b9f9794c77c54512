//! Whose NATs pairs are drawn from: a file, and the draw.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::Context as _;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde::{Deserialize, Serialize};
use traversal::sim::{Access, Ipv6, Premises, Site, net::Conditions};

const POPULATIONS: &str = include_str!("../../scenarios/populations.toml");

/// The whole file.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Populations {
    populations: BTreeMap<String, Population>,
    kinds: BTreeMap<Class, BTreeMap<String, f64>>,
    ipv6: WithIpv6,
    port_mapping: PerClass,
    lines: Vec<Line>,
}

/// One kind of users.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Population {
    classes: PerClass,
    /// Share of the pairs.
    pub(crate) least_direct: f64,
    /// Of the share that sending to observed addresses reaches.
    pub(crate) least_ahead: f64,
}

/// What a side is drawn as; weak and strict filters fall under `Easy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Class {
    Easy,
    Sequential,
    Random,
    Blocked,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct PerClass {
    easy: f64,
    sequential: f64,
    random: f64,
    blocked: f64,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct WithIpv6 {
    easy: f64,
    sequential: f64,
    random: f64,
    blocked: f64,
    passes: f64,
}

/// Ranges of one side's way to the middle of the Internet.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Line {
    weight: f64,
    delay_ms: [f64; 2],
    jitter_ms: [f64; 2],
    loss: [f64; 2],
    hops: [u8; 2],
}

/// Two sides and what is between them.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) classes: [Class; 2],
    pub(crate) sites: [Premises; 2],
    pub(crate) conditions: Conditions,
    /// For the trial.
    pub(crate) seed: u64,
}

impl Pair {
    /// The same with sites that are all `delay` apart, whatever their lines are.
    pub(crate) fn at(mut self, delay: Duration) -> Self {
        for site in &mut self.sites {
            let Access { up, down, .. } = Access::at(delay);
            site.access = Access { up, down, ..site.access };
        }
        self
    }
}

impl Populations {
    /// The file at `path`, or the one of the repository.
    pub(crate) fn read(path: Option<&Path>) -> anyhow::Result<Self> {
        let text = match path {
            Some(path) => fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?,
            None => POPULATIONS.to_owned(),
        };
        let populations: Self = toml::from_str(&text).context("these are no populations")?;
        populations.check()?;
        Ok(populations)
    }

    /// The population called `name`.
    pub(crate) fn population(&self, name: &str) -> anyhow::Result<Population> {
        let known = || self.populations.keys().cloned().collect::<Vec<_>>().join(", ");
        self.populations.get(name).copied().with_context(|| format!("no population {name}, there are: {}", known()))
    }

    /// Pair number `number` of the run with `seed`.
    pub(crate) fn draw(&self, population: &Population, seed: u64, number: u64) -> Pair {
        let mut rng = StdRng::seed_from_u64(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let sides = [0, 1].map(|_| self.side(population, &mut rng));
        let ipv6 = rng.random_bool(self.ipv6.passes);
        let [(a, site_a, line_a), (b, site_b, line_b)] = sides;
        // A packet of the pair crosses both lines.
        let conditions = Conditions {
            jitter: line_a.jitter + line_b.jitter,
            loss: 1.0 - (1.0 - line_a.loss) * (1.0 - line_b.loss),
            ipv6,
            ..Conditions::USUAL
        };
        Pair { classes: [a, b], sites: [site_a, site_b], conditions, seed: rng.random() }
    }

    fn side(&self, population: &Population, rng: &mut StdRng) -> (Class, Premises, Drawn) {
        let class = pick(rng, Class::ALL.iter().map(|&class| (class, population.classes.of(class))));
        let kinds =
            self.kinds.get(&class).into_iter().flatten().filter_map(|(name, &share)| Some((site(name)?, share)));
        let site = pick(rng, kinds);
        let ipv6 = if rng.random_bool(self.ipv6.of(class)) { Ipv6::Firewall } else { Ipv6::None };
        let port_mapping = rng.random_bool(self.port_mapping.of(class));
        let line = pick(rng, self.lines.iter().map(|line| (*line, line.weight)));
        let mut way = || millis(rng.random_range(line.delay_ms[0]..=line.delay_ms[1]));
        let (up, down) = (way(), way());
        let access = Access { up, down, hops: rng.random_range(line.hops[0]..=line.hops[1]) };
        let drawn = Drawn {
            jitter: millis(rng.random_range(line.jitter_ms[0]..=line.jitter_ms[1])),
            loss: rng.random_range(line.loss[0]..=line.loss[1]),
        };
        (class, Premises { boxes: site.boxes(), ipv6, port_mapping, access }, drawn)
    }

    fn check(&self) -> anyhow::Result<()> {
        for class in Class::ALL {
            let kinds = self.kinds.get(&class).with_context(|| format!("kinds.{} is missing", class.name()))?;
            for (name, share) in kinds {
                anyhow::ensure!(site(name).is_some(), "kinds.{}.{name}: no such site", class.name());
                anyhow::ensure!(*share >= 0.0, "kinds.{}.{name}: negative", class.name());
            }
            anyhow::ensure!(kinds.values().sum::<f64>() > 0.0, "kinds.{}: nothing to draw from", class.name());
        }
        let share = |share: f64| (0.0..=1.0).contains(&share);
        let shares = Class::ALL.iter().flat_map(|&class| [self.ipv6.of(class), self.port_mapping.of(class)]);
        anyhow::ensure!(shares.chain([self.ipv6.passes]).all(share), "ipv6, port_mapping: shares are 0 to 1");
        for population in self.populations.values() {
            let sum: f64 = Class::ALL.iter().map(|&class| population.classes.of(class)).sum();
            anyhow::ensure!(sum > 0.0, "populations: nothing to draw from");
        }
        anyhow::ensure!(!self.lines.is_empty(), "lines: at least one");
        for Line { weight, delay_ms, jitter_ms, loss, hops } in &self.lines {
            let ranges = [delay_ms, jitter_ms, loss];
            anyhow::ensure!(ranges.iter().all(|[low, high]| 0.0 <= *low && low <= high), "lines: from low to high");
            anyhow::ensure!(*weight > 0.0 && loss[1] <= 1.0, "lines: weights above 0, losses up to 1");
            anyhow::ensure!(1 <= hops[0] && hops[0] <= hops[1] && hops[1] <= 30, "lines: 1 to 30 hops");
        }
        Ok(())
    }
}

struct Drawn {
    jitter: Duration,
    loss: f64,
}

impl Class {
    pub(crate) const ALL: [Self; 4] = [Self::Easy, Self::Sequential, Self::Random, Self::Blocked];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Easy => "easy",
            Self::Sequential => "sequential",
            Self::Random => "random",
            Self::Blocked => "blocked",
        }
    }
}

impl PerClass {
    const fn of(&self, class: Class) -> f64 {
        match class {
            Class::Easy => self.easy,
            Class::Sequential => self.sequential,
            Class::Random => self.random,
            Class::Blocked => self.blocked,
        }
    }
}

impl WithIpv6 {
    const fn of(&self, class: Class) -> f64 {
        let Self { easy, sequential, random, blocked, .. } = *self;
        PerClass { easy, sequential, random, blocked }.of(class)
    }
}

fn site(name: &str) -> Option<Site> {
    Site::ALL.into_iter().find(|site| format!("{site:?}") == name)
}

/// One of `choices`, which are not empty, by weight.
fn pick<T>(rng: &mut StdRng, choices: impl Iterator<Item = (T, f64)>) -> T {
    let choices: Vec<_> = choices.collect();
    let mut left = rng.random::<f64>() * choices.iter().map(|(_, weight)| weight).sum::<f64>();
    let mut chosen = 0;
    for (place, (_, weight)) in choices.iter().enumerate().filter(|(_, (_, weight))| *weight > 0.0) {
        chosen = place;
        left -= weight;
        if left < 0.0 {
            break;
        }
    }
    choices.into_iter().nth(chosen).map(|(choice, _)| choice).expect("checked when it was read")
}

fn millis(ms: f64) -> Duration {
    Duration::from_secs_f64(ms / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_populations_of_the_repository_are_drawn_as_they_say() {
        let populations = Populations::read(None).unwrap();
        let mobile = populations.population("mobile").unwrap();
        let pairs: Vec<_> = (0..4_000).map(|number| populations.draw(&mobile, 1, number)).collect();
        let sides = || pairs.iter().flat_map(|pair| pair.classes.into_iter().zip(&pair.sites));
        let share = |count: usize| count as f64 / 8_000.0;
        let random = share(sides().filter(|(class, _)| *class == Class::Random).count());
        let ipv6 = share(sides().filter(|(_, site)| site.ipv6 == Ipv6::Firewall).count());
        assert!((random - 0.31).abs() < 0.02, "{random}");
        assert!((ipv6 - 0.5).abs() < 0.02, "{ipv6}");
    }

    #[test]
    fn a_seed_draws_the_same_pairs_again() {
        let populations = Populations::read(None).unwrap();
        let home = populations.population("home").unwrap();
        let seeds = |seed| (0..10).map(|number| populations.draw(&home, seed, number).seed).collect::<Vec<_>>();
        assert_eq!(seeds(7), seeds(7));
        assert_ne!(seeds(7), seeds(8));
    }

    #[test]
    fn a_kind_that_nobody_simulates_is_refused() {
        let text = POPULATIONS.replace("PairedPool", "PairedPond");
        assert!(toml::from_str::<Populations>(&text).unwrap().check().is_err());
        assert!(Populations::read(None).unwrap().population("office").is_err());
    }
}
