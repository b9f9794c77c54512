//! What the rounds say: medians, ratios, and which limits were missed.

use std::{fmt, time::Duration};

use domain::Bandwidth;
use serde::Serialize;

use crate::{
    scenario::Scenario,
    server::{Cpu, Kind},
    traffic::Outcome,
};

/// The figures of one round of one server.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Round {
    server: Kind,
    sent: u64,
    delivered: u64,
    skipped_by_generator: u64,
    #[serde(flatten)]
    figures: Figures,
}

/// What is compared. Of several rounds: the median of each.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Figures {
    delivered_per_second: f64,
    /// Share of the sent ones.
    loss: f64,
    reordered: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    /// Of the forwarding thread, per delivered datagram; `null` when the process is not known.
    cpu_us: Option<f64>,
    /// Of the whole process.
    process_cpu_us: Option<f64>,
    /// Jain's index over the bytes of the pairs.
    fairness: f64,
    /// The pair that is farthest from its rate, in parts of it; `null` for pairs without one.
    cap_error: Option<f64>,
}

/// The relay's figures in parts of a forwarder's.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Compared {
    to: Kind,
    cpu: Option<f64>,
    p50: f64,
    p99: f64,
    p999: f64,
}

/// Everything about a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    scenario: Scenario,
    cores: usize,
    /// Of the machine, at the start and at the end.
    load_average: [f64; 2],
    medians: Vec<(Kind, Figures)>,
    ratios: Vec<Compared>,
    /// The limits that do not hold.
    pub(crate) missed: Vec<String>,
    rounds: Vec<Round>,
}

impl Round {
    pub(crate) fn new(server: Kind, outcome: &Outcome, cpu: Option<(Cpu, Cpu)>, rate: Bandwidth) -> Self {
        let per_datagram = |time: Duration| time.as_secs_f64() * 1e6 / outcome.delivered.max(1) as f64;
        let percentile = |share: f64| outcome.latency.value_at_quantile(share) as f64 / 1e3;
        let share = |count: u64, of: u64| count as f64 / of.max(1) as f64;
        let figures = Figures {
            delivered_per_second: outcome.delivered as f64 / outcome.duration.as_secs_f64(),
            loss: share(outcome.sent - outcome.delivered, outcome.sent),
            reordered: share(outcome.reordered, outcome.delivered),
            p50_us: percentile(0.5),
            p99_us: percentile(0.99),
            p999_us: percentile(0.999),
            cpu_us: cpu.map(|(before, after)| per_datagram(after.threads - before.threads)),
            process_cpu_us: cpu.map(|(before, after)| per_datagram(after.process - before.process)),
            fairness: fairness(&outcome.bytes),
            cap_error: cap_error(&outcome.bytes, rate, outcome.duration),
        };
        Self {
            server,
            sent: outcome.sent,
            delivered: outcome.delivered,
            skipped_by_generator: outcome.skipped,
            figures,
        }
    }
}

impl Figures {
    fn median(rounds: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> f64| median(rounds.iter().map(figure).collect());
        let known = |figure: fn(&Self) -> Option<f64>| {
            let known: Vec<_> = rounds.iter().filter_map(figure).collect();
            (!known.is_empty()).then(|| median(known))
        };
        Self {
            delivered_per_second: of(|round| round.delivered_per_second),
            loss: of(|round| round.loss),
            reordered: of(|round| round.reordered),
            p50_us: of(|round| round.p50_us),
            p99_us: of(|round| round.p99_us),
            p999_us: of(|round| round.p999_us),
            cpu_us: known(|round| round.cpu_us),
            process_cpu_us: known(|round| round.process_cpu_us),
            fairness: of(|round| round.fairness),
            cap_error: known(|round| round.cap_error),
        }
    }
}

impl Report {
    pub(crate) fn new(scenario: &Scenario, cores: usize, load_average: [f64; 2], rounds: Vec<Round>) -> Self {
        let kinds = std::iter::once(Kind::Relay).chain(scenario.against.iter().copied());
        let medians: Vec<_> = kinds
            .map(|kind| {
                let of_kind = rounds.iter().filter(|round| round.server == kind).map(|round| round.figures);
                (kind, Figures::median(&of_kind.collect::<Vec<_>>()))
            })
            .collect();
        let ratios = medians.iter().skip(1).map(|(to, forwarder)| Compared::new(&medians[0].1, *to, forwarder));
        let ratios = ratios.collect();
        let mut report =
            Self { scenario: scenario.clone(), cores, load_average, medians, ratios, missed: Vec::new(), rounds };
        report.missed = report.missed();
        report
    }

    fn missed(&self) -> Vec<String> {
        let (limits, relay) = (&self.scenario.limits, self.medians[0].1);
        let mut missed = Vec::new();
        let mut at_most = |what: String, limit: Option<f64>, value: Option<f64>| {
            if let Some(limit) = limit
                && value.is_none_or(|value| value > limit)
            {
                missed.push(match value {
                    Some(value) => format!("{what}: {value:.4} instead of at most {limit}"),
                    None => format!("{what}: not measured, at most {limit}"),
                });
            }
        };
        at_most("loss".into(), limits.loss, Some(relay.loss));
        at_most("cap error".into(), limits.cap_error, relay.cap_error);
        at_most("unfairness".into(), limits.fairness.map(|least| 1.0 - least), Some(1.0 - relay.fairness));
        for ratio in &self.ratios {
            let limits = limits.against(ratio.to);
            let name = ratio.to.name();
            at_most(format!("CPU against {name}"), limits.cpu, ratio.cpu);
            at_most(format!("p50 against {name}"), limits.p50, Some(ratio.p50));
            at_most(format!("p99 against {name}"), limits.p99, Some(ratio.p99));
        }
        missed
    }
}

impl Compared {
    fn new(relay: &Figures, to: Kind, forwarder: &Figures) -> Self {
        Self {
            to,
            cpu: relay.cpu_us.zip(forwarder.cpu_us).map(|(relay, forwarder)| relay / forwarder),
            p50: relay.p50_us / forwarder.p50_us,
            p99: relay.p99_us / forwarder.p99_us,
            p999: relay.p999_us / forwarder.p999_us,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Scenario { pairs, rounds, duration, seed, .. } = &self.scenario;
        writeln!(f, "{pairs} pairs, medians of {rounds} rounds of {duration:?}, seed {seed}, {} cores", self.cores)?;
        let [before, after] = self.load_average;
        writeln!(f, "load average {before} before, {after} after")?;
        writeln!(f)?;
        writeln!(
            f,
            "{:<9} {:>12} {:>8} {:>9} {:>9} {:>9} {:>9} {:>12}",
            "", "delivered/s", "lost %", "p50 us", "p99 us", "p99.9 us", "CPU us", "process us"
        )?;
        let known = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
        for (kind, figures) in &self.medians {
            writeln!(
                f,
                "{:<9} {:>12.0} {:>8.3} {:>9.1} {:>9.1} {:>9.1} {:>9} {:>12}",
                kind.name(),
                figures.delivered_per_second,
                figures.loss * 100.0,
                figures.p50_us,
                figures.p99_us,
                figures.p999_us,
                known(figures.cpu_us),
                known(figures.process_cpu_us),
            )?;
        }
        for ratio in &self.ratios {
            writeln!(
                f,
                "relay / {:<9} CPU {}, p50 {:.2}, p99 {:.2}, p99.9 {:.2}",
                ratio.to.name(),
                known(ratio.cpu),
                ratio.p50,
                ratio.p99,
                ratio.p999,
            )?;
        }
        let relay = &self.medians[0].1;
        if let Some(error) = relay.cap_error {
            writeln!(f, "cap error {:.2} %, fairness {:.3}", error * 100.0, relay.fairness)?;
        }
        for missed in &self.missed {
            writeln!(f, "MISSED {missed}")?;
        }
        Ok(())
    }
}

/// The one in the middle; the mean of the two where there are two.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// Jain's index: 1 when all have the same, 1/n when one has everything.
fn fairness(bytes: &[u64]) -> f64 {
    let (sum, squares) =
        bytes.iter().map(|&bytes| bytes as f64).fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
    if squares == 0.0 { 1.0 } else { sum * sum / (bytes.len() as f64 * squares) }
}

fn cap_error(bytes: &[u64], rate: Bandwidth, duration: Duration) -> Option<f64> {
    let fair = rate.bytes_per_second() as f64 * duration.as_secs_f64();
    let worst = bytes.iter().map(|&bytes| (bytes as f64 - fair).abs() / fair).reduce(f64::max);
    worst.filter(|_| !rate.is_unlimited())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_not_moved_by_one_bad_round() {
        assert!((median(vec![1.0, 100.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
    }

    #[test]
    fn fairness_is_one_for_equals_and_a_share_for_one_who_has_all() {
        assert!((fairness(&[5, 5, 5, 5]) - 1.0).abs() < 1e-9);
        assert!((fairness(&[8, 0, 0, 0]) - 0.25).abs() < 1e-9);
    }

    #[test]
    fn the_cap_error_is_that_of_the_worst_pair() {
        let rate = Bandwidth::from_bytes_per_second(1_000);
        let error = cap_error(&[10_000, 10_100, 9_700], rate, Duration::from_secs(10)).unwrap();
        assert!((error - 0.03).abs() < 1e-9);
        assert_eq!(cap_error(&[1], Bandwidth::UNLIMITED, Duration::from_secs(1)), None);
    }
}
