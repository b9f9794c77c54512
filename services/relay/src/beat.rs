//! The sign of life that rendezvous knows relays by.

use std::{net::SocketAddr, time::Duration};

use contract::rendezvous::RelayBeat;
use domain::{Bandwidth, RelayId, StreamEndpoint};
use tokio_util::sync::CancellationToken;

use crate::Seams;

/// Between two beats; rendezvous gives a relay up after three missing ones.
const PERIOD: Duration = Duration::from_secs(2);

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
    /// Tells until `shutdown`, then once more that the relay drains.
    pub(crate) async fn run(self, shutdown: &CancellationToken) {
        let mut ticks = tokio::time::interval(PERIOD);
        let mut before = self.seams.metrics.forwarded_bytes.get();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = ticks.tick() => {}
            }
            let bytes = self.seams.metrics.forwarded_bytes.get();
            self.tell(Bandwidth::from_bytes_per_second((bytes - before) / PERIOD.as_secs()), false).await;
            before = bytes;
        }
        self.tell(Bandwidth::from_bytes_per_second(0), true).await;
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
