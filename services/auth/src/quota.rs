//! What is relayed for whom.

use std::time::SystemTime;

use contract::auth::{SettleRefusal, SettleRelay};
use domain::{RelayGrant, UnixMillis};
use store::SettleError;

use crate::Auth;

impl Auth {
    /// Counts what a relay reports, and says how far it may go.
    ///
    /// # Errors
    /// [`SettleRefusal`].
    pub async fn settle_relay(&self, call: SettleRelay) -> Result<RelayGrant, SettleRefusal> {
        let settled = self.accounts.settle_relay(call.report, UnixMillis::from(SystemTime::now())).await;
        match &settled {
            Ok(_) => self.metrics.relay_reports.inc(),
            Err(_) => self.metrics.relay_reports_failed.inc(),
        }
        settled.map_err(|error| match error {
            SettleError::UnknownPayer => SettleRefusal::UnknownPayer,
            SettleError::UnknownLease => SettleRefusal::UnknownLease,
            SettleError::Implausible => SettleRefusal::Implausible,
            SettleError::Store(error) if store::Error::is_busy(&error) => SettleRefusal::Busy,
            SettleError::Store(error) => {
                SettleRefusal::Internal { incident: telemetry::incident::log("a report of a relay", &error) }
            }
        })
    }
}
