//! What is counted of streams.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Why a stream ended, or never began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The client left.
    Left,
    /// The network failed.
    Failed,
    /// No leg joined over it in time.
    Unproved,
    /// The client had nothing to say for long.
    Idle,
    /// The client does not read.
    Slow,
    /// What it said is no sequence of frames.
    Malformed,
    /// TLS or HTTP failed, took too long, or asked for something else.
    Handshake,
    /// There are too many streams.
    Full,
    /// There are too many streams from its source.
    SourceFull,
    /// The relay ended.
    Shutdown,
}

impl Ended {
    /// Every reason, for metrics.
    pub const ALL: [Self; 10] = [
        Self::Left,
        Self::Failed,
        Self::Unproved,
        Self::Idle,
        Self::Slow,
        Self::Malformed,
        Self::Handshake,
        Self::Full,
        Self::SourceFull,
        Self::Shutdown,
    ];

    /// The word for metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Failed => "failed",
            Self::Unproved => "unproved",
            Self::Idle => "idle",
            Self::Slow => "slow",
            Self::Malformed => "malformed",
            Self::Handshake => "handshake",
            Self::Full => "full",
            Self::SourceFull => "source-full",
            Self::Shutdown => "shutdown",
        }
    }
}

/// The figures of streams.
#[derive(Debug)]
pub struct StreamMetrics {
    /// Streams now, handshakes not included.
    pub open: IntGauge,
    /// Frames that clients sent.
    pub frames: IntCounter,
    /// Frames for a client that reads too slowly.
    pub overflows: IntCounter,
    ended: [IntCounter; Ended::ALL.len()],
}

impl StreamMetrics {
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let open = IntGauge::new("relay_streams", "Streams now, handshakes not included")?;
        let frames = IntCounter::new("relay_stream_frames_total", "Frames that clients sent over streams")?;
        let overflows = IntCounter::new(
            "relay_stream_overflows_total",
            "Frames dropped because a stream's client reads too slowly",
        )?;
        let ended = IntCounterVec::new(
            Opts::new("relay_streams_ended_total", "Streams that ended, or never began"),
            &["reason"],
        )?;
        registry.register(Box::new(open.clone()))?;
        registry.register(Box::new(frames.clone()))?;
        registry.register(Box::new(overflows.clone()))?;
        registry.register(Box::new(ended.clone()))?;
        Ok(Self { open, frames, overflows, ended: Ended::ALL.map(|reason| ended.with_label_values(&[reason.name()])) })
    }

    /// Streams that ended for this reason.
    #[must_use]
    pub fn ended(&self, reason: Ended) -> &IntCounter {
        &self.ended[reason as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_counter_of_its_own() {
        let metrics = StreamMetrics::register(&Registry::new()).unwrap();
        for (reason, times) in Ended::ALL.into_iter().zip(1..) {
            metrics.ended(reason).inc_by(times);
        }
        for (reason, times) in Ended::ALL.into_iter().zip(1..) {
            assert_eq!(metrics.ended(reason).get(), times, "{}", reason.name());
        }
    }
}
