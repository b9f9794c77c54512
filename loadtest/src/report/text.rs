//! The report as a table, with a line for each ratio, note and threshold.

use std::fmt;

use super::{Checked, Report, Section};
use crate::{measure::median, scenario::Scenario, server::Kind, threshold::Metric};

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [before, after] = self.load_average;
        writeln!(f, "{} cores, load average {before} before, {after} after", self.cores)?;
        self.scenarios.iter().try_for_each(|section| write!(f, "\n{section}"))
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Scenario { about, rounds, duration, seed, .. } = &self.scenario;
        writeln!(f, "{}: {about}", self.name)?;
        writeln!(f, "{} pairs, medians of {rounds} rounds of {duration:?}, seed {seed}", self.scenario.pairs())?;
        let wide = self.rows.iter().map(|row| self.row_name(row).len()).max().unwrap_or(0).max(8);
        writeln!(
            f,
            "{:wide$} {:>11} {:>7} {:>8} {:>8} {:>9} {:>7} {:>7} {:>7}",
            "", "delivered/s", "lost %", "p50 us", "p99 us", "p99.9 us", "CPU us", "process", "host"
        )?;
        for row in &self.rows {
            let figures = &row.figures;
            writeln!(
                f,
                "{:wide$} {:>11.0} {:>7.3} {:>8.1} {:>8.1} {:>9.1} {:>7} {:>7} {:>7}",
                self.row_name(row),
                figures.delivered_per_second,
                figures.loss * 100.0,
                figures.p50_us,
                figures.p99_us,
                figures.p999_us,
                known(figures.cpu_us),
                known(figures.process_us),
                known(figures.host_us),
            )?;
        }
        for kind in &self.left_out {
            writeln!(f, "{} is not installed: left out", kind.name())?;
        }
        for against in self.others() {
            let of = |metric| known(self.value(metric, Some(against)));
            let [cpu, process, host, p50, p99] =
                [Metric::Cpu, Metric::Process, Metric::Host, Metric::P50, Metric::P99].map(of);
            let name = against.name();
            writeln!(f, "relay / {name}: CPU {cpu} (process {process}, host {host}), p50 {p50}, p99 {p99}")?;
        }
        for line in self.notes() {
            writeln!(f, "{line}")?;
        }
        for Checked { threshold, value, missed } in &self.checked {
            let value = value.map_or("not measured".to_owned(), |value| format!("{value:.4}"));
            writeln!(f, "{} fails if {threshold}: {value}", if *missed { "MISSED" } else { "ok    " })?;
        }
        Ok(())
    }
}

impl Section {
    /// What is not in the table.
    pub(crate) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let Some(relay) = self.rows.iter().rfind(|row| row.server == Kind::Relay).map(|row| row.figures) else {
            return notes;
        };
        notes.push(format!("relay: Jain's index {:.4}, reordered {:.4} %", relay.fairness, relay.reordered * 100.0));
        if let Some(error) = relay.cap_error {
            notes.push(format!("relay: the pair farthest from its rate is off by {:.2} %", error * 100.0));
        }
        if let (Some(idle), Some(busy)) = (relay.idle_bytes, relay.busy_bytes) {
            notes.push(format!("relay: {idle:.0} bytes per idle pair, {busy:.0} per busy pair"));
        }
        let last = self.scenario.phases().pop().unwrap_or_default();
        let star =
            last.iter().map(|&at| &self.scenario.groups[at]).find(|group| group.fanout).and_then(|group| group.star);
        if let (Some(star), Some(copy)) = (star, relay.cpu_us) {
            notes.push(format!("relay: a frame for {star} costs {:.1} us", copy * f64::from(star)));
        }
        let attacks: Vec<_> = self.rounds.iter().filter_map(|round| round.attack).collect();
        if let Some((_, carried)) = attacks.first() {
            let sent = median(attacks.iter().map(|(sent, _)| *sent).collect());
            let times = sent / carried;
            notes.push(format!(
                "{sent:.0} hostile datagrams a second, {times:.1} times the {carried:.0} that it carries"
            ));
        }
        let changes = self.rounds.iter().fold((0, 0), |sum, round| (sum.0 + round.joins, sum.1 + round.moves));
        if changes != (0, 0) {
            notes.push(format!("relay: {} pairs ended and were replaced, {} legs moved", changes.0, changes.1));
        }
        let skipped: u64 = self.rounds.iter().map(|round| round.skipped_by_generator).sum();
        if skipped > 0 {
            notes.push(format!("the generator was too slow for {skipped} datagrams"));
        }
        notes
    }
}

pub(crate) fn known(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.2}"))
}
