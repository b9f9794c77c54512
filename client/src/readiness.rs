//! Descriptors that the runtime has no type for.

use std::{io, os::fd::OwnedFd};

use tokio::io::{Interest, unix::AsyncFd};

/// Tells when `descriptor` can be read.
///
/// # Errors
/// When the runtime cannot watch it.
#[expect(unsafe_code, reason = "the runtime takes descriptors of unknown kinds only so")]
pub(crate) fn readable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, and names the same file, until it is dropped; here that is together with the `AsyncFd`.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?)
}
