//! What this process tells operators of itself.

use contract::admin::{GatewayFigures, PERIOD};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::hub::Hub;

/// Tells until `shutdown`.
pub(crate) async fn tell(hub: &Hub, shutdown: &CancellationToken) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let sessions = u64::try_from(hub.seams.metrics.sessions.get()).unwrap_or(0);
        if let Err(error) = hub.seams.bus.publish(&GatewayFigures { instance: hub.seams.instance, sessions }).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "the figures of this gateway were not told");
        }
    }
}
