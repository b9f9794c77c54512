//! Numbers that a client can quote and an engineer can find.

use std::{
    error::Error,
    hash::{BuildHasher as _, RandomState},
};

/// Logs `error` with its causes as a failure of `what`, and returns the number of the entry.
pub fn log(what: &'static str, error: &dyn Error) -> u64 {
    // A fresh hasher is seeded from the system's random numbers: enough for a number that only has to be unlike others.
    let incident = RandomState::new().hash_one(what);
    tracing::error!(incident = format!("{incident:016x}"), error = chain(error), "{what} failed");
    incident
}

/// The error and its causes in one line.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::fmt::Error);

    #[test]
    fn causes_follow_their_error() {
        assert_eq!(chain(&Outer(std::fmt::Error)), format!("outer: {}", std::fmt::Error));
    }

    #[test]
    fn numbers_differ() {
        assert_ne!(log("a test", &std::fmt::Error), log("a test", &std::fmt::Error));
    }
}
