//! What this role counts.

use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// How a login ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A known key.
    Known,
    /// A key never seen before, registered now.
    Registered,
    /// A new key over the limit.
    Limited,
    /// A blocked client, or a broken signature.
    Refused,
    /// Storage or signing failed.
    Failed,
}

impl Outcome {
    const ALL: [Self; 5] = [Self::Known, Self::Registered, Self::Limited, Self::Refused, Self::Failed];

    const fn name(self) -> &'static str {
        match self {
            Self::Known => "known",
            Self::Registered => "registered",
            Self::Limited => "limited",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// The figures of this role.
#[derive(Debug)]
pub struct Metrics {
    logins: [IntCounter; Outcome::ALL.len()],
    /// Resumption tokens signed, at logins and renewals.
    pub tokens: IntCounter,
    /// Keys that tokens are verified with.
    pub keys: IntGauge,
    /// Readings of the key folder that failed; the keys read before stay in use.
    pub reloads_failed: IntCounter,
    /// Reports of relays that were heard, those that were heard before included.
    pub relay_reports: IntCounter,
    /// Reports of relays that were refused or failed.
    pub relay_reports_failed: IntCounter,
    /// How long logins take.
    pub login_seconds: prometheus::Histogram,
}

impl Metrics {
    /// Registers the figures.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let logins = IntCounterVec::new(Opts::new("auth_logins_total", "Logins by how they ended"), &["outcome"])?;
        let seconds = HistogramVec::new(HistogramOpts::new("auth_login_seconds", "From the call to its reply"), &[])?;
        let metrics = Self {
            logins: Outcome::ALL.map(|outcome| logins.with_label_values(&[outcome.name()])),
            tokens: IntCounter::new("auth_tokens_total", "Resumption tokens signed")?,
            keys: IntGauge::new("auth_token_keys", "Keys that tokens are verified with")?,
            reloads_failed: IntCounter::new("auth_key_reloads_failed_total", "Readings of the key folder that failed")?,
            relay_reports: IntCounter::new("auth_relay_reports_total", "Reports of relays on quotas that were heard")?,
            relay_reports_failed: IntCounter::new(
                "auth_relay_reports_failed_total",
                "Reports of relays on quotas that were refused, or that storage failed for",
            )?,
            login_seconds: seconds.with_label_values::<&str>(&[]),
        };
        registry.register(Box::new(logins))?;
        registry.register(Box::new(metrics.tokens.clone()))?;
        registry.register(Box::new(metrics.keys.clone()))?;
        registry.register(Box::new(metrics.reloads_failed.clone()))?;
        registry.register(Box::new(metrics.relay_reports.clone()))?;
        registry.register(Box::new(metrics.relay_reports_failed.clone()))?;
        registry.register(Box::new(seconds))?;
        Ok(metrics)
    }

    /// Counts a login.
    pub fn login(&self, outcome: Outcome) {
        self.logins[outcome as usize].inc();
    }

    /// Logins that ended so.
    #[must_use]
    pub fn logins(&self, outcome: Outcome) -> u64 {
        self.logins[outcome as usize].get()
    }
}
