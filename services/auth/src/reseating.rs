//! Telling that the plan of somebody is another one, or allows something else.

use bus::Bus;
use contract::network::Unannounced;

/// Has the seats of the networks that it concerns dealt out now. A hint: the sweep of network does it soon anyway.
pub(crate) async fn hint(bus: &Bus) {
    if let Err(error) = bus.publish(&Unannounced).await {
        tracing::debug!(error = telemetry::incident::chain(&error), "a change of a plan was not told at once");
    }
}
