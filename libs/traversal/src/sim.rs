//! A virtual network for tests.

/// An instant to count from.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "only differences to it matter")]
pub fn origin() -> std::time::Instant {
    std::time::Instant::now()
}
