//! What the rounds say: medians, ratios, and which thresholds were missed. Pure.

mod text;

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::{
    measure::{cap_error, fairness, median, merged, share},
    scenario::Scenario,
    server::{Cpu, Kind},
    threshold::{Against, Metric, Threshold},
    traffic::Outcome,
};

pub(crate) use text::known;

/// The form of the JSON document.
const VERSION: u32 = 1;

/// Fewer pairs than this are lost in the pages of a process.
const LEAST_WEIGHED: u32 = 1_000;

/// Everything about a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    version: u32,
    pub(crate) cores: usize,
    /// Of the machine, at the start and at the end.
    pub(crate) load_average: [f64; 2],
    pub(crate) scenarios: Vec<Section>,
}

/// Everything about one scenario.
#[derive(Debug, Serialize)]
pub(crate) struct Section {
    pub(crate) name: String,
    pub(crate) scenario: Scenario,
    /// Servers of the scenario that are not installed.
    pub(crate) left_out: Vec<Kind>,
    pub(crate) rows: Vec<Row>,
    pub(crate) checked: Vec<Checked>,
    pub(crate) rounds: Vec<Round>,
}

/// One server in one phase: the median of each figure over all rounds.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) server: Kind,
    pub(crate) phase: usize,
    pub(crate) figures: Figures,
    /// Over all rounds: quantile and microseconds.
    pub(crate) latency: Vec<[f64; 2]>,
}

/// The figures of one round of one server in one phase.
#[derive(Debug, Serialize)]
pub(crate) struct Round {
    pub(crate) server: Kind,
    pub(crate) phase: usize,
    pub(crate) sent: u64,
    pub(crate) delivered: u64,
    skipped_by_generator: u64,
    pub(crate) joins: u64,
    pub(crate) moves: u64,
    /// Hostile datagrams a second, and as many as the relay carried.
    pub(crate) attack: Option<(f64, f64)>,
    pub(crate) figures: Figures,
    /// Of the group that is measured.
    #[serde(skip)]
    latency: Histogram<u64>,
}

/// What is compared. Loss, order and latency are of the phase's first group, the rest of all that sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Figures {
    pub(crate) delivered_per_second: f64,
    /// Share of the sent ones.
    pub(crate) loss: f64,
    pub(crate) reordered: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    /// Of the forwarding threads, per delivered datagram; `null` when the process is not known.
    pub(crate) cpu_us: Option<f64>,
    /// Of the whole process.
    pub(crate) process_us: Option<f64>,
    /// Of the whole process and of the system calls that send to it, which carry its receive stack.
    pub(crate) host_us: Option<f64>,
    /// Jain's index over the bytes of the pairs, in the group where it is least.
    pub(crate) fairness: f64,
    /// The pair that is farthest from its rate, in parts of it; `null` without rates.
    pub(crate) cap_error: Option<f64>,
    /// Resident bytes that a pair brought, once joined; `null` for few pairs or an unknown process.
    pub(crate) idle_bytes: Option<f64>,
    /// The same after it talked.
    pub(crate) busy_bytes: Option<f64>,
}

/// A threshold, and what is true.
#[derive(Debug, Serialize)]
pub(crate) struct Checked {
    pub(crate) threshold: Threshold,
    pub(crate) value: Option<f64>,
    pub(crate) missed: bool,
}

/// Resident bytes of a server: before the joins, after them, after traffic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resident {
    pub(crate) before: u64,
    pub(crate) joined: u64,
    pub(crate) talked: u64,
}

impl Round {
    pub(crate) fn new(
        scenario: &Scenario,
        server: Kind,
        phase: usize,
        outcome: &Outcome,
        cpu: Option<(Cpu, Cpu)>,
        resident: Option<Resident>,
    ) -> Self {
        let sending = scenario.phases().into_iter().nth(phase).unwrap_or_default();
        let delivered = outcome.groups.iter().map(|tally| tally.delivered).sum::<u64>();
        let per_datagram = |time: Duration| time.as_secs_f64() * 1e6 / delivered.max(1) as f64;
        let of = |place: &usize| (&scenario.groups[*place], &outcome.groups[*place]);
        let measured = &outcome.groups[sending.first().copied().unwrap_or(0)];
        let percentile = |share: f64| measured.latency.value_at_quantile(share) as f64 / 1e3;
        let process = cpu.map(|(before, after)| after.process.saturating_sub(before.process));
        let pairs = scenario.pairs();
        let weigh = |bytes: fn(Resident) -> u64| {
            let grown =
                resident.map(|resident| bytes(resident).saturating_sub(resident.before) as f64 / f64::from(pairs));
            grown.filter(|_| pairs >= LEAST_WEIGHED)
        };
        let figures = Figures {
            delivered_per_second: delivered as f64 / outcome.duration.as_secs_f64(),
            loss: share(measured.sent.saturating_sub(measured.delivered), measured.sent),
            reordered: share(measured.reordered, measured.delivered),
            p50_us: percentile(0.5),
            p99_us: percentile(0.99),
            p999_us: percentile(0.999),
            cpu_us: cpu.map(|(before, after)| per_datagram(after.threads.saturating_sub(before.threads))),
            process_us: process.map(per_datagram),
            host_us: process.map(|process| per_datagram(process + outcome.sending)),
            fairness: sending.iter().map(|place| fairness(&of(place).1.bytes)).fold(1.0, f64::min),
            cap_error: sending
                .iter()
                .map(of)
                // Who was not offered enough in time was not held back by the relay.
                .filter(|(_, tally)| tally.skipped == 0)
                .filter_map(|(group, tally)| cap_error(&tally.bytes, group.rate, outcome.duration))
                .reduce(f64::max),
            idle_bytes: weigh(|resident| resident.joined),
            busy_bytes: weigh(|resident| resident.talked),
        };
        Self {
            server,
            phase,
            sent: outcome.groups.iter().map(|tally| tally.sent).sum(),
            delivered,
            skipped_by_generator: outcome.groups.iter().map(|tally| tally.skipped).sum(),
            joins: outcome.joins,
            moves: outcome.moves,
            attack: None,
            figures,
            latency: measured.latency.clone(),
        }
    }
}

impl Figures {
    pub(crate) fn of(&self, metric: Metric) -> Option<f64> {
        match metric {
            Metric::Delivered => Some(self.delivered_per_second),
            Metric::Loss => Some(self.loss),
            Metric::Reordered => Some(self.reordered),
            Metric::P50 => Some(self.p50_us),
            Metric::P99 => Some(self.p99_us),
            Metric::P999 => Some(self.p999_us),
            Metric::Cpu => self.cpu_us,
            Metric::Process => self.process_us,
            Metric::Host => self.host_us,
            Metric::Fairness => Some(self.fairness),
            Metric::CapError => self.cap_error,
            Metric::IdleBytes => self.idle_bytes,
            Metric::BusyBytes => self.busy_bytes,
        }
    }

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
            process_us: known(|round| round.process_us),
            host_us: known(|round| round.host_us),
            fairness: of(|round| round.fairness),
            cap_error: known(|round| round.cap_error),
            idle_bytes: known(|round| round.idle_bytes),
            busy_bytes: known(|round| round.busy_bytes),
        }
    }
}

impl Report {
    pub(crate) fn new(cores: usize, load_average: [f64; 2], scenarios: Vec<Section>) -> Self {
        Self { version: VERSION, cores, load_average, scenarios }
    }

    /// Whether every threshold of every scenario holds.
    pub(crate) fn holds(&self) -> bool {
        self.scenarios.iter().flat_map(|section| &section.checked).all(|checked| !checked.missed)
    }
}

impl Section {
    /// # Errors
    /// When there is no memory for the latencies of all rounds.
    pub(crate) fn new(name: &str, scenario: &Scenario, left_out: &[Kind], rounds: Vec<Round>) -> anyhow::Result<Self> {
        let ran = scenario.against.iter().copied().filter(|kind| !left_out.contains(kind));
        let kinds: Vec<_> = std::iter::once(Kind::Relay).chain(ran).collect();
        let phases = scenario.phases().len();
        let turns = kinds.iter().flat_map(|kind| (0..phases).map(move |phase| (*kind, phase)));
        let rows = turns.map(|(server, phase)| {
            let own: Vec<_> = rounds.iter().filter(|round| (round.server, round.phase) == (server, phase)).collect();
            let figures = Figures::median(&own.iter().map(|round| round.figures).collect::<Vec<_>>());
            let latency = curve(&merged(own.iter().map(|round| &round.latency))?);
            anyhow::Ok(Row { server, phase, figures, latency })
        });
        let rows = rows.collect::<anyhow::Result<Vec<_>>>()?;
        let mut section = Self {
            name: name.to_owned(),
            scenario: scenario.clone(),
            left_out: left_out.to_vec(),
            rows,
            checked: Vec::new(),
            rounds,
        };
        let thresholds = scenario.fail_if.iter().filter(|threshold| match threshold.against {
            Some(Against::Server(kind)) => !left_out.contains(&kind),
            Some(Against::First) | None => true,
        });
        section.checked = thresholds
            .map(|threshold| {
                let value = section.value(threshold.metric, threshold.against);
                let excused = value.is_none() && threshold.metric == Metric::CapError && section.came_too_late();
                Checked { threshold: *threshold, value, missed: !excused && threshold.is_missed_by(value) }
            })
            .collect();
        Ok(section)
    }

    /// The relay's figure in the last phase, or its ratio.
    pub(crate) fn value(&self, metric: Metric, against: Option<Against>) -> Option<f64> {
        let last = self.rows.iter().map(|row| row.phase).max()?;
        let relay = self.figures(Kind::Relay, last)?.of(metric)?;
        let other = match against {
            None => return Some(relay),
            Some(Against::Server(kind)) => self.figures(kind, last)?.of(metric)?,
            Some(Against::First) => self.figures(Kind::Relay, 0)?.of(metric)?,
        };
        (other != 0.0).then(|| relay / other)
    }

    /// Whether the generator could not send in time.
    fn came_too_late(&self) -> bool {
        self.rounds.iter().any(|round| round.skipped_by_generator > 0)
    }

    /// What the relay can be compared with.
    pub(crate) fn others(&self) -> Vec<Against> {
        let servers = self.rows.iter().filter(|row| row.phase == 0 && row.server != Kind::Relay);
        let servers = servers.map(|row| Against::Server(row.server));
        servers.chain((self.scenario.phases().len() > 1).then_some(Against::First)).collect()
    }

    fn figures(&self, server: Kind, phase: usize) -> Option<&Figures> {
        let row = self.rows.iter().find(|row| (row.server, row.phase) == (server, phase));
        row.map(|row| &row.figures)
    }

    /// What a row is called.
    pub(crate) fn row_name(&self, row: &Row) -> String {
        if self.scenario.phases().len() == 1 {
            return row.server.name().to_owned();
        }
        format!("{}, {}", row.server.name(), self.scenario.phase_name(row.phase))
    }
}

impl Against {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Server(kind) => kind.name(),
            Self::First => "its first phase",
        }
    }
}

/// Quantiles that come ever nearer to 1, to four nines, and the latency at each in microseconds.
fn curve(latency: &Histogram<u64>) -> Vec<[f64; 2]> {
    let quantiles = (0..=80).map(|step| 1.0 - 10_f64.powf(-f64::from(step) / 20.0));
    // The last ones mean nothing where they are single datagrams.
    let enough = |quantile: &f64| latency.len() as f64 * (1.0 - quantile) >= 1.0;
    quantiles.take_while(enough).map(|quantile| [quantile, latency.value_at_quantile(quantile) as f64 / 1e3]).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        measure::latencies,
        scenario::{Instead, read},
        traffic::Tally,
    };

    #[test]
    fn ratios_are_of_medians_and_what_misses_its_threshold_is_told() {
        let section = flood(&[]);
        assert_eq!(section.rows.len(), 5);
        let cpu = |against| section.value(Metric::Cpu, Some(Against::Server(against))).unwrap();
        assert!((cpu(Kind::Naive) - 0.5).abs() < 1e-9);
        assert!((cpu(Kind::Coturn) - 0.25).abs() < 1e-9);
        let missed =
            section.checked.iter().filter(|checked| checked.missed).map(|checked| checked.threshold.to_string());
        assert_eq!(missed.collect::<Vec<_>>(), ["loss > 0.01"]);
        let report = Report::new(2, [0.0, 0.0], vec![section]);
        assert!(!report.holds());
        let text = report.to_string();
        assert!(text.contains("MISSED fails if loss > 0.01: 0.1000"), "{text}");
        assert!(text.contains("relay / coturn: CPU 0.25"), "{text}");
    }

    #[test]
    fn who_is_not_installed_is_left_out_and_misses_nothing() {
        let section = flood(&[Kind::Coturn]);
        assert_eq!(section.rows.len(), 4);
        assert!(section.checked.iter().all(|checked| checked.threshold.against != Some(Against::Server(Kind::Coturn))));
        assert!(section.to_string().contains("coturn is not installed: left out"));
    }

    #[test]
    fn the_last_phase_is_compared_with_the_first() {
        let (_, scenario) = read(None, &["neighbour".into()], &Instead::default()).unwrap().remove(0);
        let round = |phase, micros| Round::new(&scenario, Kind::Relay, phase, &outcome(&scenario, micros), None, None);
        let rounds = vec![round(0, 100), round(1, 300)];
        let section = Section::new("neighbour", &scenario, &[Kind::Naive], rounds).unwrap();
        let ratio = section.value(Metric::P99, Some(Against::First)).unwrap();
        assert!((ratio - 3.0).abs() < 0.01, "{ratio}");
        assert!(section.checked.iter().any(|checked| checked.missed));
        assert_eq!(section.row_name(&section.rows[1]), "relay, quiet + loud");
        assert_eq!(section.value(Metric::Cpu, None), None, "nobody measured it");
    }

    #[test]
    fn a_cap_that_the_generator_did_not_offer_enough_for_is_not_measured() {
        let (_, scenario) = read(None, &["capped".into()], &Instead::default()).unwrap().remove(0);
        let checked = |skipped| {
            let mut outcome = outcome(&scenario, 100);
            outcome.groups[0].skipped = skipped;
            let round = Round::new(&scenario, Kind::Relay, 0, &outcome, None, None);
            let section = Section::new("capped", &scenario, &[], vec![round]).unwrap();
            let cap = section.checked.iter().find(|checked| checked.threshold.metric == Metric::CapError).unwrap();
            (cap.value.is_some(), cap.missed, section.to_string().contains("cap-error > 0.01: not measured"))
        };
        assert_eq!(checked(0), (true, true, false), "a hundred bytes are far from the rate");
        assert_eq!(checked(1), (false, false, true));
    }

    #[test]
    fn pairs_are_weighed_when_there_are_enough_of_them() {
        let (_, mut scenario) = read(None, &["idle".into()], &Instead::default()).unwrap().remove(0);
        let resident = Some(Resident { before: 1_000_000, joined: 21_000_000, talked: 23_000_000 });
        let weighed = |scenario: &Scenario| {
            let round = Round::new(scenario, Kind::Relay, 0, &outcome(scenario, 1), None, resident);
            round.figures.idle_bytes.zip(round.figures.busy_bytes)
        };
        assert_eq!(weighed(&scenario), Some((200.0, 220.0)));
        scenario.groups[0].pairs = LEAST_WEIGHED - 1;
        assert_eq!(weighed(&scenario), None);
    }

    #[test]
    fn the_document_has_what_others_read() {
        let report = Report::new(2, [0.0, 0.0], vec![flood(&[])]);
        let json: serde_json::Value = serde_json::to_value(&report).unwrap();
        assert_eq!(json["version"], 1);
        assert_eq!(json["scenarios"][0]["rows"][0]["server"], "relay");
        assert_eq!(json["scenarios"][0]["checked"][1]["threshold"], "cpu/naive > 1.05");
        assert_eq!(json["scenarios"][0]["rounds"].as_array().unwrap().len(), 5);
    }

    /// Every server delivers 90 of 100; the relay takes 1 us, others 2, coturn 4.
    pub(crate) fn flood(left_out: &[Kind]) -> Section {
        let (_, scenario) = read(None, &["flood".into()], &Instead::default()).unwrap().remove(0);
        let rounds = [(Kind::Relay, 1), (Kind::Batched, 2), (Kind::Naive, 2), (Kind::Coturn, 4), (Kind::TurnServer, 2)];
        let rounds = rounds.into_iter().filter(|(kind, _)| !left_out.contains(kind)).map(|(kind, micros)| {
            let outcome = outcome(&scenario, 10 * micros);
            let cpu = |time| Cpu { threads: time, process: 2 * time };
            let after = cpu(Duration::from_micros(micros * 90));
            Round::new(&scenario, kind, 0, &outcome, Some((cpu(Duration::ZERO), after)), None)
        });
        Section::new("flood", &scenario, left_out, rounds.collect()).unwrap()
    }

    fn outcome(scenario: &Scenario, micros: u64) -> Outcome {
        let tally = |pairs: u32| {
            let mut latency = latencies().unwrap();
            (0..90).for_each(|_| latency.record(micros * 1_000).unwrap());
            Tally { sent: 100, delivered: 90, reordered: 0, skipped: 0, latency, bytes: vec![1; pairs as usize] }
        };
        Outcome {
            duration: Duration::from_secs(1),
            sending: Duration::ZERO,
            joins: 0,
            moves: 0,
            groups: scenario.groups.iter().map(|group| tally(group.pairs)).collect(),
        }
    }
}
