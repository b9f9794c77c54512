//! What the trials say: rates with their confidence, times, packets; over all pairs, and by the classes of the two sides.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::Serialize;
use traversal::sim::trial::Verdict;

use super::{
    Means,
    population::{Class, Population},
};

/// One pair with each means, in the order of [`Means::ALL`].
#[derive(Clone, Debug)]
pub(crate) struct Trial {
    /// The easier one first.
    classes: [Class; 2],
    pub(crate) results: [Result; Means::ALL.len()],
    /// Why it is relayed with all means.
    why: Option<String>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Result {
    pub(crate) took: Option<Duration>,
    packets: u32,
    strategy: &'static str,
}

/// Everything about a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    population: String,
    pairs: usize,
    seed: u64,
    /// One way between all sites; `None` when it was drawn.
    delay_ms: Option<f64>,
    pub(crate) means: Vec<Figures>,
    by_class: Vec<ByClass>,
    /// The targets of the population that do not hold.
    pub(crate) missed: Vec<String>,
}

/// The figures of one means.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) means: Means,
    pub(crate) direct: Rate,
    /// From the moment the server knows both sides; of the direct pairs.
    p50_ms: Option<u64>,
    p95_ms: Option<u64>,
    p99_ms: Option<u64>,
    /// Of both sides and all attempts together; of all pairs.
    packets_p50: u32,
    packets_mean: f64,
    packets_most: u32,
}

/// The pairs of two classes.
#[derive(Debug, Serialize)]
struct ByClass {
    classes: [Class; 2],
    observed: Rate,
    all: Figures,
    /// Pairs by the strategy that their record names, with all means.
    strategies: BTreeMap<&'static str, usize>,
    /// Why the rest is relayed.
    relayed: BTreeMap<String, usize>,
}

/// So many of so many, and where the true share lies with 95 % confidence (Wilson's score interval).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Rate {
    count: usize,
    of: usize,
    pub(crate) share: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Trial {
    pub(crate) fn new(mut classes: [Class; 2], verdicts: &[Verdict; Means::ALL.len()]) -> Self {
        classes.sort_unstable();
        let result = |verdict: &Verdict| Result {
            took: verdict.took.filter(|_| verdict.is_direct()),
            packets: verdict.packets,
            strategy: verdict.record.as_ref().map_or("none", |record| record.strategy.name()),
        };
        let last = verdicts.last().filter(|verdict| !verdict.is_direct());
        let hint =
            |verdict: &Verdict| verdict.record.as_ref().map_or("nothing was tried", |record| &record.hint).to_owned();
        Self { classes, results: verdicts.each_ref().map(result), why: last.map(hint) }
    }
}

impl Report {
    pub(crate) fn new(
        name: &str,
        seed: u64,
        delay: Option<Duration>,
        population: &Population,
        trials: &[Trial],
    ) -> Self {
        let all: Vec<_> = trials.iter().collect();
        let means = Means::ALL.map(|means| Figures::new(means, &all)).to_vec();
        let mut classes: BTreeMap<[Class; 2], Vec<&Trial>> = BTreeMap::new();
        for trial in trials {
            classes.entry(trial.classes).or_default().push(trial);
        }
        let by_class = classes.into_iter().map(|(classes, trials)| ByClass::new(classes, &trials)).collect();
        let (population_name, pairs) = (name.to_owned(), trials.len());
        let delay_ms = delay.map(|delay| delay.as_secs_f64() * 1e3);
        let missed = Vec::new();
        let mut report = Self { population: population_name, pairs, seed, delay_ms, means, by_class, missed };
        let share = report.last().direct.share;
        let mut at_least = |what: &str, least: f64, share: f64| {
            if share < least {
                report.missed.push(format!(
                    "{what}: {:.1} % instead of at least {:.1} %",
                    share * 100.0,
                    least * 100.0
                ));
            }
        };
        at_least("direct", population.least_direct, share);
        at_least("ahead of observed addresses", population.least_ahead, ahead(&report.means));
        report
    }

    /// By how much the share of direct pairs is greater than with observed addresses only.
    #[cfg(test)]
    pub(crate) fn ahead(&self) -> f64 {
        ahead(&self.means)
    }

    fn last(&self) -> &Figures {
        &self.means[self.means.len() - 1]
    }
}

fn ahead(means: &[Figures]) -> f64 {
    means[means.len() - 1].direct.share - means[0].direct.share
}

impl Figures {
    fn new(means: Means, trials: &[&Trial]) -> Self {
        let results: Vec<Result> = trials.iter().map(|trial| trial.results[means as usize]).collect();
        let mut took: Vec<_> = results.iter().filter_map(|result| result.took).collect();
        took.sort_unstable();
        let mut packets: Vec<_> = results.iter().map(|result| result.packets).collect();
        packets.sort_unstable();
        let ms = |percent: usize| Some(u64::try_from(at(&took, percent)?.as_millis()).unwrap_or(u64::MAX));
        Self {
            means,
            direct: Rate::new(took.len(), results.len()),
            p50_ms: ms(50),
            p95_ms: ms(95),
            p99_ms: ms(99),
            packets_p50: at(&packets, 50).unwrap_or(0),
            packets_mean: packets.iter().map(|&packets| f64::from(packets)).sum::<f64>() / results.len().max(1) as f64,
            packets_most: packets.last().copied().unwrap_or(0),
        }
    }
}

impl ByClass {
    fn new(classes: [Class; 2], trials: &[&Trial]) -> Self {
        let all = Figures::new(Means::Tcp, trials);
        let mut strategies = BTreeMap::new();
        for trial in trials {
            *strategies.entry(trial.results[Means::Tcp as usize].strategy).or_default() += 1;
        }
        let mut relayed = BTreeMap::new();
        for why in trials.iter().filter_map(|trial| trial.why.clone()) {
            *relayed.entry(why).or_default() += 1;
        }
        Self { classes, observed: Figures::new(Means::Observed, trials).direct, all, strategies, relayed }
    }
}

impl Rate {
    fn new(count: usize, of: usize) -> Self {
        let n = of.max(1) as f64;
        let share = count as f64 / n;
        let square = Z * Z / n;
        let middle = (share + square / 2.0) / (1.0 + square);
        let half = Z / (1.0 + square) * (share * (1.0 - share) / n + square / (4.0 * n)).sqrt();
        Self { count, of, share, low: (middle - half).max(0.0), high: (middle + half).min(1.0) }
    }
}

/// The normal distribution's 97.5 %.
const Z: f64 = 1.959_964;

fn at<T: Copy>(sorted: &[T], percent: usize) -> Option<T> {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { population, pairs, seed, .. } = self;
        let delay = self.delay_ms.map(|delay| format!(", {delay} ms one way")).unwrap_or_default();
        writeln!(f, "{pairs} pairs of the {population} population, simulated, seed {seed}{delay}")?;
        writeln!(f)?;
        writeln!(
            f,
            "{:<26} {:>9} {:>15} {:>8} {:>8} {:>8} {:>9} {:>9} {:>7}",
            "", "direct %", "95 % interval", "p50 ms", "p95 ms", "p99 ms", "packets", "mean", "most"
        )?;
        for figures in &self.means {
            writeln!(f, "{:<26} {figures}", figures.means.name())?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "{:<26} {:>9} {:>15} {:>8} {:>8} {:>8} {:>9} {:>9} {:>7} {:>7} {:>10}  strategies",
            "all means, by class",
            "direct %",
            "95 % interval",
            "p50 ms",
            "p95 ms",
            "p99 ms",
            "packets",
            "mean",
            "most",
            "pairs",
            "observed %"
        )?;
        for ByClass { classes, observed, all, strategies, .. } in &self.by_class {
            let pair = format!("{} x {}", classes[0].name(), classes[1].name());
            let strategies: Vec<_> = strategies.iter().map(|(name, count)| format!("{name} {count}")).collect();
            let (pairs, observed) = (all.direct.of, observed.share * 100.0);
            writeln!(f, "{pair:<26} {all} {pairs:>7} {observed:>10.1}  {}", strategies.join(", "))?;
        }
        writeln!(f)?;
        for ByClass { classes, relayed, .. } in &self.by_class {
            for (why, count) in relayed {
                // The remedy is for those whom it concerns.
                let why = why.split(": relayed").next().unwrap_or(why);
                writeln!(f, "{} x {}, {count} relayed: {why}", classes[0].name(), classes[1].name())?;
            }
        }
        for missed in &self.missed {
            writeln!(f, "MISSED {missed}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rate { share, low, high, .. } = self.direct;
        let ms = |ms: Option<u64>| ms.map_or("-".to_owned(), |ms| ms.to_string());
        write!(
            f,
            "{:>9.1} {:>15} {:>8} {:>8} {:>8} {:>9} {:>9.1} {:>7}",
            share * 100.0,
            format!("{:.1} - {:.1}", low * 100.0, high * 100.0),
            ms(self.p50_ms),
            ms(self.p95_ms),
            ms(self.p99_ms),
            self.packets_p50,
            self.packets_mean,
            self.packets_most
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_wilsons() {
        // Of a table: 8 of 10, and none of 20.
        let rate = Rate::new(8, 10);
        assert!((rate.low - 0.490_16).abs() < 1e-4 && (rate.high - 0.943_32).abs() < 1e-4, "{rate:?}");
        let none = Rate::new(0, 20);
        assert!(none.low.abs() < 1e-9 && (none.high - 0.161_13).abs() < 1e-4, "{none:?}");
    }

    #[test]
    fn percentiles_of_few_values_stay_inside() {
        assert_eq!(at::<u8>(&[], 99), None);
        assert_eq!([50, 95, 99].map(|percent| at(&[7], percent)), [Some(7); 3]);
        assert_eq!(at(&[1, 2, 3, 4], 50), Some(3));
    }
}
