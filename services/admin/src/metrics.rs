//! What this role counts.

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Ok,
    /// No token, or a wrong one.
    Unauthorized,
    /// A parameter was wrong, or there is no such thing.
    Refused,
    /// Another role failed or did not answer.
    Failed,
}

impl Outcome {
    const ALL: [Self; 4] = [Self::Ok, Self::Unauthorized, Self::Refused, Self::Failed];

    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unauthorized => "unauthorized",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// The figures of this role.
#[derive(Debug)]
pub struct Metrics {
    requests: [IntCounter; Outcome::ALL.len()],
}

impl Metrics {
    /// Registers the figures.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let requests = IntCounterVec::new(
            Opts::new("admin_requests_total", "Requests to the API by how they ended; probes do not count"),
            &["outcome"],
        )?;
        registry.register(Box::new(requests.clone()))?;
        Ok(Self { requests: Outcome::ALL.map(|outcome| requests.with_label_values(&[outcome.name()])) })
    }

    /// Counts a request.
    pub fn request(&self, outcome: Outcome) {
        self.requests[outcome as usize].inc();
    }

    /// Requests that ended so.
    #[must_use]
    pub fn requests(&self, outcome: Outcome) -> u64 {
        self.requests[outcome as usize].get()
    }
}
