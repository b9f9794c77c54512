//! Times and sizes that both back-ends keep to.

use std::time::Duration;

use domain::Epoch;

/// How long a call may take.
pub const DEADLINE: Duration = Duration::from_millis(800);
/// The time gateways get to renew their seats after nobody swept for ten seconds. Gateways renew more often than that.
pub const RESPITE: Duration = Duration::from_secs(20);

/// Without a sweep for so long, nobody could renew either, or so it is assumed.
pub(crate) const SWEEP_GAP: Duration = Duration::from_secs(10);
/// How long the highest epoch of a client is remembered after the last word about it. Longer than any word is on its way.
pub(crate) const RETENTION: Duration = Duration::from_secs(24 * 60 * 60);
/// The most that a record may take, in bytes of its encoding.
pub(crate) const MAX_RECORD_BYTES: usize = 4_096;
/// Epochs start from the time in milliseconds; beyond this (the year 33658) they would not be exact in a script.
pub(crate) const LAST_FLOOR: Epoch = Epoch(1_000_000_000_000_000);
/// Epochs beyond this (2^53 - 2) were never given out.
pub(crate) const LAST_EPOCH: Epoch = Epoch(9_007_199_254_740_990);
/// Longer times to live are cut to this.
pub(crate) const MAX_TTL: Duration = RETENTION;
