//! What this role counts. The packet path adds up its own numbers and hands them over once a batch.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::{
    core::{DropReason, Event},
    guard::Reason,
    stream::StreamMetrics,
};

/// The figures of this role.
#[derive(Debug)]
pub struct Metrics {
    /// Datagrams sent on to the other leg.
    pub forwarded_packets: IntCounter,
    /// Their bytes, headers of the relay included.
    pub forwarded_bytes: IntCounter,
    /// Frames of which copies went to many.
    pub fanned_frames: IntCounter,
    /// Those of the forwarded datagrams that were such copies.
    pub copies: IntCounter,
    /// Those of the forwarded datagrams that the kernel forwarded.
    pub accelerated_packets: IntCounter,
    /// Challenges, pongs, notes and the like.
    pub answers: IntCounter,
    /// Answers of the reflector.
    pub reflections: IntCounter,
    /// Datagrams that the kernel did not take.
    pub unsent: IntCounter,
    /// Rows of datagrams that the kernel did not take as one; they went one by one.
    pub refused_rows: IntCounter,
    /// Pairs with a slot now.
    pub pairs: IntGauge,
    /// Beats that the bus did not take.
    pub beats_failed: IntCounter,
    /// Reports on quotas that were answered.
    pub quota_reports: IntCounter,
    /// Reports on quotas that nobody answered, or that were refused.
    pub quota_reports_failed: IntCounter,
    /// Answers that nothing is left of a quota.
    pub quotas_exhausted: IntCounter,
    /// Pairs that rendezvous was told to send more than they may.
    pub held_back_pairs: IntCounter,
    /// Of legs over streams.
    pub streams: StreamMetrics,
    dropped: [IntCounter; DropReason::ALL.len()],
    guarded: [IntCounter; Reason::ALL.len()],
    events: IntCounterVec,
}

impl Metrics {
    /// Registers the figures.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| -> prometheus::Result<IntCounter> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let dropped =
            IntCounterVec::new(Opts::new("relay_dropped_packets_total", "Datagrams that went nowhere"), &["reason"])?;
        registry.register(Box::new(dropped.clone()))?;
        let guarded = IntCounterVec::new(
            Opts::new("relay_guarded_packets_total", "Datagrams that the kernel dropped to keep room for proven legs"),
            &["reason"],
        )?;
        registry.register(Box::new(guarded.clone()))?;
        let events = IntCounterVec::new(
            Opts::new("relay_events_total", "Joins and ends of pairs, and what became of first packets"),
            &["event"],
        )?;
        registry.register(Box::new(events.clone()))?;
        let pairs = IntGauge::new("relay_pairs", "Pairs with a slot")?;
        registry.register(Box::new(pairs.clone()))?;
        Ok(Self {
            forwarded_packets: counter("relay_forwarded_packets_total", "Datagrams sent on to the other leg")?,
            forwarded_bytes: counter("relay_forwarded_bytes_total", "Bytes sent on, headers of the relay included")?,
            fanned_frames: counter("relay_fanned_frames_total", "Frames of which copies went to many")?,
            copies: counter("relay_copies_total", "Copies sent on, which are forwarded datagrams, too")?,
            accelerated_packets: counter("relay_accelerated_packets_total", "Datagrams sent on in the kernel (XDP)")?,
            answers: counter("relay_answers_total", "Challenges, pongs and notes")?,
            reflections: counter("relay_reflections_total", "Answers of the reflector")?,
            unsent: counter("relay_unsent_packets_total", "Datagrams that the kernel did not take")?,
            refused_rows: counter("relay_refused_rows_total", "Rows of datagrams that the kernel did not take as one")?,
            beats_failed: counter("relay_beats_failed_total", "Signs of life that the bus did not take")?,
            quota_reports: counter("relay_quota_reports_total", "Reports on quotas that were answered")?,
            quota_reports_failed: counter(
                "relay_quota_reports_failed_total",
                "Reports on quotas that came to nothing",
            )?,
            quotas_exhausted: counter("relay_quotas_exhausted_total", "Answers that nothing is left of a quota")?,
            held_back_pairs: counter(
                "relay_held_back_pairs_total",
                "Pairs that were told to send more than they may, each once an hour",
            )?,
            dropped: DropReason::ALL.map(|reason| dropped.with_label_values(&[reason.name()])),
            guarded: Reason::ALL.map(|reason| guarded.with_label_values(&[reason.name()])),
            streams: StreamMetrics::register(registry)?,
            pairs,
            events,
        })
    }

    /// Datagrams that went nowhere for this reason.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> &IntCounter {
        &self.dropped[reason as usize]
    }

    /// Datagrams that the kernel dropped for this reason.
    #[must_use]
    pub fn guarded(&self, reason: Reason) -> &IntCounter {
        &self.guarded[reason as usize]
    }

    /// Counts something that is not a packet.
    pub fn event(&self, event: Event) {
        self.events.with_label_values(&[event.name()]).inc();
        match event {
            Event::Opened => self.pairs.inc(),
            Event::Closed => self.pairs.dec(),
            Event::Joined | Event::Refused(_) | Event::FirstParked | Event::FirstDelivered | Event::FirstOverCap => {}
        }
    }

    /// How often this happened.
    #[must_use]
    pub fn events(&self, event: Event) -> u64 {
        self.events.with_label_values(&[event.name()]).get()
    }
}

#[cfg(test)]
mod tests {
    use wire::Code;

    use super::*;

    #[test]
    fn every_reason_and_every_event_has_a_counter_of_its_own() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        for (reason, times) in DropReason::ALL.into_iter().zip(1..) {
            metrics.dropped(reason).inc_by(times);
        }
        for (reason, times) in DropReason::ALL.into_iter().zip(1..) {
            assert_eq!(metrics.dropped(reason).get(), times, "{}", reason.name());
        }
        for (reason, times) in Reason::ALL.into_iter().zip(1..) {
            metrics.guarded(reason).inc_by(times);
        }
        for (reason, times) in Reason::ALL.into_iter().zip(1..) {
            assert_eq!(metrics.guarded(reason).get(), times, "{}", reason.name());
        }

        metrics.event(Event::Opened);
        metrics.event(Event::Opened);
        metrics.event(Event::Joined);
        metrics.event(Event::Refused(Code::RelayFull));
        metrics.event(Event::Closed);
        assert_eq!(metrics.pairs.get(), 1);
        assert_eq!(metrics.events(Event::Opened), 2);
        assert_eq!(metrics.events(Event::Refused(Code::RelayFull)), 1);
        assert_eq!(metrics.events(Event::Refused(Code::TicketForged)), 0);
        assert!(Metrics::register(&registry).is_err());
    }
}
