//! What goes wrong with presence.

use std::io;

/// Why presence did not answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL is neither `memory:` nor `redis://` nor `rediss://`, or its namespace has other characters than a-z, 0-9, `-`.
    #[error("not the URL of presence: memory:, redis:// or rediss:// expected")]
    Url,
    /// Presence is away or does not obey. The call may have been carried out all the same.
    #[error("presence is not available")]
    Unavailable(#[source] io::Error),
    /// No answer within the deadline. The call may be carried out, even later.
    #[error("presence did not answer in time")]
    TimedOut,
    /// The table in process is full; nothing was changed.
    #[error("presence is full")]
    Full,
    /// A record of this size is not kept.
    #[error("a record of {bytes} bytes is more than {max} bytes", max = crate::limits::MAX_RECORD_BYTES)]
    TooLarge { bytes: usize },
}
