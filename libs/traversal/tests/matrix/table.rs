//! The figures of one pair of kinds.

use std::{fmt, time::Duration};

use traversal::sim::{
    Site,
    trial::{Outcome, Verdict},
};

use super::expected::Expected;

/// What all seeds of a pair say together.
#[derive(Debug)]
pub(crate) struct Row {
    a: Site,
    b: Site,
    seeds: usize,
    /// The seeds that ended on the relay.
    relayed: Vec<usize>,
    first_attempt: usize,
    strategy: &'static str,
    /// Median and 95 %.
    took: [Option<Duration>; 2],
    packets: [u32; 2],
}

pub(crate) fn head(loss: f64) -> String {
    let pair = format!("{:.0} % loss", loss * 100.0);
    format!(
        "{pair:<40} {:>8} {:>7} {:>7}  {:<9} {:>8} {:>8} {:>8} {:>7}",
        "direct", "%", "first", "strategy", "p50 ms", "p95 ms", "packets", "most"
    )
}

impl Row {
    pub(crate) fn new(a: Site, b: Site, outcomes: &[Outcome]) -> Self {
        let verdicts: Vec<&Verdict> = outcomes.iter().flat_map(|outcome| &outcome.pairs).collect();
        let mut took: Vec<_> = verdicts.iter().filter_map(|verdict| verdict.took).collect();
        took.sort_unstable();
        let mut packets: Vec<_> = verdicts.iter().map(|verdict| verdict.packets).collect();
        packets.sort_unstable();
        let first = |verdict: &&&Verdict| verdict.is_direct() && verdict.attempts.len() == 1;
        let relayed = verdicts.iter().enumerate().filter(|(_, verdict)| !verdict.is_direct()).map(|(seed, _)| seed);
        let strategies = verdicts.iter().filter_map(|verdict| Some(verdict.record.as_ref()?.strategy.name()));
        Self {
            a,
            b,
            seeds: verdicts.len(),
            relayed: relayed.collect(),
            first_attempt: verdicts.iter().filter(first).count(),
            strategy: most_frequent(strategies.collect()),
            took: [50, 95].map(|percent| took.get(took.len() * percent / 100).copied()),
            packets: [50, 100].map(|percent| packets[(packets.len() * percent / 100).min(packets.len() - 1)]),
        }
    }

    /// Which promises do not hold.
    pub(crate) fn broken(&self, expected: Expected, loss: f64) -> Option<String> {
        let rate = self.rate();
        let wrong = match expected {
            Expected::Direct(rarely, often) => rate < if loss > 0.01 { often } else { rarely },
            Expected::Relay => rate > 0.01,
        };
        wrong.then(|| {
            let seeds = &self.relayed[..self.relayed.len().min(8)];
            format!(
                "{:?} x {:?} at {loss} loss: {rate:.3} direct, {expected:?}; relayed: seeds {seeds:?}",
                self.a, self.b
            )
        })
    }

    fn rate(&self) -> f64 {
        (self.seeds - self.relayed.len()) as f64 / self.seeds as f64
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pair = format!("{:?} x {:?}", self.a, self.b);
        let direct = format!("{}/{}", self.seeds - self.relayed.len(), self.seeds);
        let ms = |took: Option<Duration>| took.map_or("-".to_owned(), |took| took.as_millis().to_string());
        let [p50, p95] = self.took.map(ms);
        let [median, most] = self.packets;
        write!(
            f,
            "{pair:<40} {direct:>8} {:>7.1} {:>7}  {:<9} {p50:>8} {p95:>8} {median:>8} {most:>7}",
            self.rate() * 100.0,
            self.first_attempt,
            self.strategy
        )
    }
}

fn most_frequent(mut words: Vec<&'static str>) -> &'static str {
    words.sort_unstable();
    words.chunk_by(PartialEq::eq).max_by_key(|chunk| chunk.len()).map_or("-", |chunk| chunk[0])
}
