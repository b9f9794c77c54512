//! What this role counts.

use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// How a login ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A known key.
    Known,
    /// A key never seen before, registered now.
    Registered,
    /// A key over its limit, or its address's.
    Limited,
    /// To come back with some work done.
    Challenged,
    /// An operator holds something against the client, or against new ones from there.
    Withheld,
    /// A blocked client, or a broken signature.
    Refused,
    /// Storage or signing failed.
    Failed,
}

impl Outcome {
    const ALL: [Self; 7] =
        [Self::Known, Self::Registered, Self::Limited, Self::Challenged, Self::Withheld, Self::Refused, Self::Failed];

    const fn name(self) -> &'static str {
        match self {
            Self::Known => "known",
            Self::Registered => "registered",
            Self::Limited => "limited",
            Self::Challenged => "challenged",
            Self::Withheld => "withheld",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// What became of somebody who wanted to log in or sign up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PersonOutcome {
    /// The address is proved.
    SignedUp,
    LoggedIn,
    /// No such address, or a wrong password.
    Denied,
    /// Over the limit of tries.
    Limited,
    /// Too much to do, or storage failed.
    Failed,
}

impl PersonOutcome {
    const ALL: [Self; 5] = [Self::SignedUp, Self::LoggedIn, Self::Denied, Self::Limited, Self::Failed];

    const fn name(self) -> &'static str {
        match self {
            Self::SignedUp => "signed_up",
            Self::LoggedIn => "logged_in",
            Self::Denied => "denied",
            Self::Limited => "limited",
            Self::Failed => "failed",
        }
    }
}

/// What became of a mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Post {
    Sent,
    /// The mailer did not take it: it is tried again.
    Postponed,
    /// Refused for good, or tried for a day.
    GivenUp,
}

impl Post {
    const ALL: [Self; 3] = [Self::Sent, Self::Postponed, Self::GivenUp];

    const fn name(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Postponed => "postponed",
            Self::GivenUp => "given_up",
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
    /// 1 while every new key is asked for work.
    pub under_attack: IntGauge,
    /// Readings of the key folder that failed; the keys read before stay in use.
    pub reloads_failed: IntCounter,
    /// Reports of relays that were heard, those that were heard before included.
    pub relay_reports: IntCounter,
    /// Reports of relays that were refused or failed.
    pub relay_reports_failed: IntCounter,
    people: [IntCounter; PersonOutcome::ALL.len()],
    mails: [IntCounter; Post::ALL.len()],
    /// Passwords of people hashed or checked, those refused for a full queue included.
    pub hashes: IntCounter,
    /// Passwords that were neither, because too many waited.
    pub hashes_refused: IntCounter,
    /// Clients that became part of an account.
    pub attached: IntCounter,
    /// Clients that went over to another key, each rotation once.
    pub keys_rotated: IntCounter,
    /// Rotations of keys that were refused or failed.
    pub key_rotations_failed: IntCounter,
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
        let people =
            IntCounterVec::new(Opts::new("auth_people_total", "People who came, by what became of it"), &["outcome"])?;
        let mails = IntCounterVec::new(Opts::new("auth_mails_total", "Mails by what became of a try"), &["outcome"])?;
        let metrics = Self {
            people: PersonOutcome::ALL.map(|outcome| people.with_label_values(&[outcome.name()])),
            mails: Post::ALL.map(|outcome| mails.with_label_values(&[outcome.name()])),
            hashes: IntCounter::new("auth_passwords_total", "Passwords of people to be hashed or checked")?,
            hashes_refused: IntCounter::new(
                "auth_passwords_refused_total",
                "Passwords of people that were not looked at because too many waited",
            )?,
            attached: IntCounter::new("auth_clients_attached_total", "Clients that became part of an account")?,
            logins: Outcome::ALL.map(|outcome| logins.with_label_values(&[outcome.name()])),
            tokens: IntCounter::new("auth_tokens_total", "Resumption tokens signed")?,
            under_attack: IntGauge::new(
                "auth_under_attack",
                "1 while new keys come in such numbers that all of them are asked for work",
            )?,
            keys: IntGauge::new("auth_token_keys", "Keys that tokens are verified with")?,
            reloads_failed: IntCounter::new("auth_key_reloads_failed_total", "Readings of the key folder that failed")?,
            relay_reports: IntCounter::new("auth_relay_reports_total", "Reports of relays on quotas that were heard")?,
            relay_reports_failed: IntCounter::new(
                "auth_relay_reports_failed_total",
                "Reports of relays on quotas that were refused, or that storage failed for",
            )?,
            keys_rotated: IntCounter::new("auth_keys_rotated_total", "Clients that went over to another key")?,
            key_rotations_failed: IntCounter::new(
                "auth_key_rotations_failed_total",
                "Rotations of keys that were refused, or that storage failed for",
            )?,
            login_seconds: seconds.with_label_values::<&str>(&[]),
        };
        registry.register(Box::new(logins))?;
        registry.register(Box::new(metrics.tokens.clone()))?;
        registry.register(Box::new(metrics.keys.clone()))?;
        registry.register(Box::new(metrics.under_attack.clone()))?;
        registry.register(Box::new(metrics.reloads_failed.clone()))?;
        registry.register(Box::new(metrics.relay_reports.clone()))?;
        registry.register(Box::new(metrics.relay_reports_failed.clone()))?;
        registry.register(Box::new(people))?;
        registry.register(Box::new(mails))?;
        for counter in [
            &metrics.hashes,
            &metrics.hashes_refused,
            &metrics.attached,
            &metrics.keys_rotated,
            &metrics.key_rotations_failed,
        ] {
            registry.register(Box::new(counter.clone()))?;
        }
        registry.register(Box::new(seconds))?;
        Ok(metrics)
    }

    /// Counts a login.
    pub fn login(&self, outcome: Outcome) {
        self.logins[outcome as usize].inc();
    }

    /// Counts somebody who came.
    pub fn person(&self, outcome: PersonOutcome) {
        self.people[outcome as usize].inc();
    }

    /// People whose coming ended so.
    #[must_use]
    pub fn people(&self, outcome: PersonOutcome) -> u64 {
        self.people[outcome as usize].get()
    }

    /// Counts what became of a mail.
    pub fn post(&self, outcome: Post) {
        self.mails[outcome as usize].inc();
    }

    /// Mails of which that became.
    #[must_use]
    pub fn mails(&self, outcome: Post) -> u64 {
        self.mails[outcome as usize].get()
    }

    /// Logins that ended so.
    #[must_use]
    pub fn logins(&self, outcome: Outcome) -> u64 {
        self.logins[outcome as usize].get()
    }
}
