//! The sign of life that rendezvous knows relays by.

use std::{net::SocketAddr, time::Duration};

use contract::rendezvous::RelayBeat;
use domain::{Bandwidth, RelayId, StreamEndpoint};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::Seams;

/// What is told of this relay.
#[derive(Debug)]
pub(crate) struct Beat {
    pub(crate) relay: RelayId,
    pub(crate) endpoints: Vec<SocketAddr>,
    /// Where it takes streams.
    pub(crate) streams: Vec<StreamEndpoint>,
    pub(crate) region: String,
    pub(crate) max_slots: u32,
    pub(crate) seams: Seams,
}

impl Beat {
    /// Tells for as long as it is polled, and at once whenever the relay begins or ends draining.
    pub(crate) async fn run(&self, mut drains: watch::Receiver<bool>) {
        let mut ticks = interval(RelayBeat::PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before = (Instant::now(), self.seams.metrics.forwarded_bytes.get());
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                Ok(()) = drains.changed() => {}
            }
            let (now, bytes) = (Instant::now(), self.seams.metrics.forwarded_bytes.get());
            let rate = rate(bytes.saturating_sub(before.1), now.duration_since(before.0));
            before = (now, bytes);
            let draining = *drains.borrow_and_update();
            self.tell(rate, draining).await;
        }
    }

    async fn tell(&self, rate: Bandwidth, draining: bool) {
        let beat = RelayBeat {
            relay: self.relay,
            endpoints: self.endpoints.clone(),
            region: self.region.clone(),
            slots: u32::try_from(self.seams.metrics.pairs.get()).unwrap_or(0),
            max_slots: self.max_slots,
            rate,
            draining,
            streams: self.streams.clone(),
        };
        if let Err(error) = self.seams.bus.publish(&beat).await {
            self.seams.metrics.beats_failed.inc();
            tracing::debug!(%error, "a beat was not told");
        }
    }
}

fn rate(bytes: u64, time: Duration) -> Bandwidth {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
    Bandwidth::from_bytes_per_second(bytes.saturating_mul(1_000) / millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_by_the_second_however_long_it_was_counted() {
        assert_eq!(rate(500, Duration::from_millis(500)), Bandwidth::from_bytes_per_second(1_000));
        assert_eq!(rate(3_000, Duration::from_secs(2)), Bandwidth::from_bytes_per_second(1_500));
        assert_eq!(rate(0, Duration::ZERO), Bandwidth::from_bytes_per_second(0));
    }
}
