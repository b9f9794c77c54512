//! What this role counts.

use std::time::Duration;

use contract::admin::Ended;
use domain::{NatClass, PairOutcome, Strategy};
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use traversal::schedule::{Budget, Settled};
use wire::probe::ObservationError;

/// What became of a datagram at a reflector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probed {
    Answered,
    /// No binding request, or a tagged one that is smaller than its answer.
    Ignored,
    /// Its source has used up its budget, or no answer can wait or connection stay any more.
    Limited,
    /// The system or the connection did not take the answer.
    Lost,
}

/// What became of an observation that a client presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presented {
    Valid,
    Forged,
    Foreign,
    Expired,
}

/// What became of a wish for a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    Tickets,
    /// No live relay has room.
    NoRelay,
    /// The pair is where it should be.
    Stays,
}

/// The figures of this role.
#[derive(Debug)]
pub struct Metrics {
    /// By classes, strategy and outcome; see [`Metrics::negotiations`].
    negotiations: Vec<IntCounter>,
    probes: [IntCounter; 4],
    observations: [IntCounter; 4],
    offers: [IntCounter; 3],
    packets: [IntCounter; Strategy::ALL.len()],
    refused: [IntCounter; Budget::ALL.len()],
    direct_seconds: [Histogram; Strategy::ALL.len()],
    /// From the start of an attempt to its record.
    pub negotiation_seconds: Histogram,
    /// What each attempt waited for locks of clients and public addresses.
    pub lock_wait_seconds: Histogram,
    /// Negotiations under way.
    pub active: IntGauge,
    /// Relays that beat.
    pub relays: IntGauge,
    /// Messages for clients whose gateway is gone.
    pub undelivered: IntCounter,
}

impl Metrics {
    /// Registers the figures.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let counters = |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<IntCounterVec> {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok(counters)
        };
        let seconds = |name: &str, help: &str| -> prometheus::Result<Histogram> {
            let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(SECONDS.to_vec()))?;
            registry.register(Box::new(histogram.clone()))?;
            Ok(histogram)
        };
        let direct_seconds = HistogramVec::new(
            HistogramOpts::new(
                "rendezvous_direct_seconds",
                "From the common start to the first answer, of attempts that succeeded",
            )
            .buckets(SECONDS.to_vec()),
            &["strategy"],
        )?;
        registry.register(Box::new(direct_seconds.clone()))?;
        let gauge = |name: &str, help: &str| -> prometheus::Result<IntGauge> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let counter = |name: &str, help: &str| -> prometheus::Result<IntCounter> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let negotiations = counters(
            "rendezvous_negotiations_total",
            "Attempts that ended, and pairs that cannot be direct",
            &["class_a", "class_b", "strategy", "outcome"],
        )?;
        let probes = counters(
            "rendezvous_probes_total",
            "Questions to the reflectors, and connections that were refused",
            &["outcome"],
        )?;
        let observations =
            counters("rendezvous_observations_total", "Observations that clients presented", &["outcome"])?;
        let packets = counters(
            "rendezvous_punch_packets_total",
            "Punch packets that clients reported, when their attempt ends",
            &["strategy"],
        )?;
        let refused = counters(
            "rendezvous_budget_refusals_total",
            "Attempts that did not begin because a budget was used up",
            &["budget"],
        )?;
        let offers = counters("rendezvous_relay_offers_total", "Pairs that were to get a relay", &["outcome"])?;
        Ok(Self {
            negotiations: labels()
                .map(|(a, b, strategy, outcome)| {
                    negotiations.with_label_values(&[a.name(), b.name(), strategy.name(), outcome_name(outcome)])
                })
                .collect(),
            probes: ["answered", "ignored", "limited", "lost"].map(|name| probes.with_label_values(&[name])),
            observations: ["valid", "forged", "foreign", "expired"].map(|name| observations.with_label_values(&[name])),
            offers: ["tickets", "no-relay", "stays"].map(|name| offers.with_label_values(&[name])),
            packets: Strategy::ALL.map(|strategy| packets.with_label_values(&[strategy.name()])),
            refused: Budget::ALL.map(|budget| refused.with_label_values(&[budget.name()])),
            direct_seconds: Strategy::ALL.map(|strategy| direct_seconds.with_label_values(&[strategy.name()])),
            negotiation_seconds: seconds("rendezvous_negotiation_seconds", "From the start of an attempt to its end")?,
            lock_wait_seconds: seconds(
                "rendezvous_lock_wait_seconds",
                "What each attempt waited for locks of clients and public addresses",
            )?,
            active: gauge("rendezvous_negotiations_active", "Negotiations under way")?,
            relays: gauge("rendezvous_relays", "Relays that beat")?,
            undelivered: counter("rendezvous_undelivered_total", "Messages for clients whose gateway is gone")?,
        })
    }

    /// Counts an attempt that ended. The pair is unordered: the smaller class comes first.
    pub fn negotiation(&self, settled: &Settled) {
        let Settled { record, punched, waited, refused, .. } = settled;
        let (Some(a), Some(b)) = (record.class_a, record.class_b) else { return };
        if let Some(counter) = self.negotiations.get(index(a.min(b), a.max(b), record.strategy, record.outcome)) {
            counter.inc();
        }
        self.packets[record.strategy as usize].inc_by(record.packets.into());
        if let Some(budget) = refused {
            self.refused[*budget as usize].inc();
        }
        if record.attempts > 0 {
            self.lock_wait_seconds.observe(waited.as_secs_f64());
        }
        self.negotiation_seconds.observe(Duration::from_millis(record.took_ms).as_secs_f64());
        if let Some(punched) = punched {
            self.direct_seconds[record.strategy as usize].observe(punched.as_secs_f64());
        }
    }

    /// Attempts of such pairs that ended so.
    #[must_use]
    pub fn negotiations(&self, a: NatClass, b: NatClass, strategy: Strategy, outcome: PairOutcome) -> u64 {
        self.negotiations.get(index(a.min(b), a.max(b), strategy, outcome)).map_or(0, IntCounter::get)
    }

    /// Every combination of which there were attempts.
    pub(crate) fn ended(&self) -> Vec<Ended> {
        let counted = labels().zip(&self.negotiations).map(|((class_a, class_b, strategy, outcome), counter)| Ended {
            class_a,
            class_b,
            strategy,
            outcome,
            count: counter.get(),
        });
        counted.filter(|ended| ended.count > 0).collect()
    }

    /// Punch packets of attempts with this strategy.
    #[must_use]
    pub fn packets(&self, strategy: Strategy) -> u64 {
        self.packets[strategy as usize].get()
    }

    /// Attempts that this budget did not allow.
    #[must_use]
    pub fn refused(&self, budget: Budget) -> u64 {
        self.refused[budget as usize].get()
    }

    /// From the common start to the first answer, of attempts with this strategy that succeeded.
    #[must_use]
    pub const fn direct_seconds(&self, strategy: Strategy) -> &Histogram {
        &self.direct_seconds[strategy as usize]
    }

    pub(crate) fn probe(&self, probed: Probed) {
        self.probes[probed as usize].inc();
    }

    /// Datagrams at the reflectors that ended so.
    #[must_use]
    pub fn probes(&self, probed: Probed) -> u64 {
        self.probes[probed as usize].get()
    }

    pub(crate) fn observation(&self, presented: Presented) {
        self.observations[presented as usize].inc();
    }

    /// Observations that turned out so.
    #[must_use]
    pub fn observations(&self, presented: Presented) -> u64 {
        self.observations[presented as usize].get()
    }

    pub(crate) fn offer(&self, offered: Offered) {
        self.offers[offered as usize].inc();
    }

    /// Wishes for a relay that ended so.
    #[must_use]
    pub fn offers(&self, offered: Offered) -> u64 {
        self.offers[offered as usize].get()
    }
}

impl From<ObservationError> for Presented {
    fn from(error: ObservationError) -> Self {
        match error {
            ObservationError::Forged => Self::Forged,
            ObservationError::Foreign => Self::Foreign,
            ObservationError::Expired => Self::Expired,
        }
    }
}

const SECONDS: [f64; 10] = [0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0];
const OUTCOMES: [PairOutcome; 3] = [PairOutcome::Direct, PairOutcome::Relayed, PairOutcome::Pending];

/// Every combination, in the order of [`index`].
fn labels() -> impl Iterator<Item = (NatClass, NatClass, Strategy, PairOutcome)> {
    NatClass::ALL.into_iter().flat_map(|a| {
        NatClass::ALL.into_iter().flat_map(move |b| {
            Strategy::ALL.into_iter().flat_map(move |strategy| OUTCOMES.map(|outcome| (a, b, strategy, outcome)))
        })
    })
}

const fn index(a: NatClass, b: NatClass, strategy: Strategy, outcome: PairOutcome) -> usize {
    let classes = a as usize * NatClass::ALL.len() + b as usize;
    (classes * Strategy::ALL.len() + strategy as usize) * OUTCOMES.len() + outcome as usize
}

const fn outcome_name(outcome: PairOutcome) -> &'static str {
    match outcome {
        PairOutcome::Direct => "direct",
        PairOutcome::Relayed => "relayed",
        PairOutcome::Pending => "pending",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_of_labels_has_its_own_counter() {
        assert!(Strategy::ALL.into_iter().enumerate().all(|(place, strategy)| strategy as usize == place));
        assert!(Budget::ALL.into_iter().enumerate().all(|(place, budget)| budget as usize == place));
        for (place, (a, b, strategy, outcome)) in labels().enumerate() {
            assert_eq!(index(a, b, strategy, outcome), place);
        }
    }
}
