//! What storage says, as people and clients hear it.

use contract::account::AccountRefusal;
use store::{AccountError, AttachError};

/// For whoever finds the database busy.
const RETRY_MS: u32 = 1_000;

/// Logs what failed and gives a number to quote, unless one is to come back soon.
pub(super) fn failed(error: &store::Error) -> AccountRefusal {
    if store::Error::is_busy(error) {
        tracing::warn!("somebody waited too long for the database");
        return AccountRefusal::Busy { retry_after_ms: RETRY_MS };
    }
    internal(error)
}

pub(super) fn internal(error: &(dyn std::error::Error + 'static)) -> AccountRefusal {
    AccountRefusal::Internal { incident: telemetry::incident::log("a call about people", error) }
}

pub(super) fn refused(error: AccountError) -> AccountRefusal {
    match error {
        AccountError::Unknown | AccountError::TargetUnknown => AccountRefusal::Unknown,
        AccountError::NotPermitted => AccountRefusal::NotPermitted,
        AccountError::Suspended => AccountRefusal::Suspended,
        AccountError::Token => AccountRefusal::Token,
        AccountError::NotOwned => AccountRefusal::NotOwned,
        AccountError::Invalid => AccountRefusal::Invalid,
        AccountError::LimitReached { limit } => AccountRefusal::LimitReached { limit },
        AccountError::Plan => AccountRefusal::Plan,
        AccountError::Store(error) => failed(&error),
    }
}

pub(super) fn unattached(error: AttachError) -> AccountRefusal {
    match error {
        AttachError::Code => AccountRefusal::Code,
        AttachError::Elsewhere => AccountRefusal::Elsewhere,
        AttachError::Full { limit } => AccountRefusal::LimitReached { limit },
        AttachError::Suspended => AccountRefusal::Suspended,
        AttachError::Store(error) => failed(&error),
    }
}
