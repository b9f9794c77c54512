//! What this role counts.

use actix_web::http::StatusCode;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Ok,
    /// No token, or a wrong one.
    Unauthorized,
    /// The token lacks the scope.
    Forbidden,
    /// The token made too many requests.
    Limited,
    /// A parameter was wrong, or there is no such thing.
    Refused,
    /// Another role failed or did not answer.
    Failed,
}

impl Outcome {
    const ALL: [Self; 6] = [Self::Ok, Self::Unauthorized, Self::Forbidden, Self::Limited, Self::Refused, Self::Failed];

    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Limited => "limited",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }

    /// The outcome that an answer with this status is counted as.
    pub(crate) fn of(status: StatusCode) -> Self {
        match status {
            StatusCode::UNAUTHORIZED => Self::Unauthorized,
            StatusCode::FORBIDDEN => Self::Forbidden,
            StatusCode::TOO_MANY_REQUESTS => Self::Limited,
            status if status.is_client_error() => Self::Refused,
            status if status.is_server_error() => Self::Failed,
            _ => Self::Ok,
        }
    }
}

/// What became of telling a webhook one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    Taken,
    /// It is tried again later.
    Again,
    GivenUp,
}

impl Delivery {
    const ALL: [Self; 3] = [Self::Taken, Self::Again, Self::GivenUp];

    const fn name(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Again => "again",
            Self::GivenUp => "given-up",
        }
    }
}

/// The figures of this role.
#[derive(Debug)]
pub struct Metrics {
    requests: [IntCounter; Outcome::ALL.len()],
    deliveries: [IntCounter; Delivery::ALL.len()],
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
        let deliveries = IntCounterVec::new(
            Opts::new(
                "admin_webhook_deliveries_total",
                "Requests to receivers of webhooks by what follows; tests do not count",
            ),
            &["outcome"],
        )?;
        registry.register(Box::new(deliveries.clone()))?;
        let deliveries = Delivery::ALL.map(|outcome| deliveries.with_label_values(&[outcome.name()]));
        Ok(Self { deliveries, requests: Outcome::ALL.map(|outcome| requests.with_label_values(&[outcome.name()])) })
    }

    /// Counts what became of telling a webhook.
    pub fn delivery(&self, outcome: Delivery) {
        self.deliveries[outcome as usize].inc();
    }

    /// Requests to receivers that ended so.
    #[must_use]
    pub fn deliveries(&self, outcome: Delivery) -> u64 {
        self.deliveries[outcome as usize].get()
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
