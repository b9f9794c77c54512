//! What this role counts.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// How a connection ended before it became a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    /// Over a limit: nothing was read.
    Away,
    /// Not our protocol, or too slow.
    Foreign,
    /// The login was refused.
    Refused,
    /// Another role did not answer.
    Failed,
}

impl Turned {
    const ALL: [Self; 4] = [Self::Away, Self::Foreign, Self::Refused, Self::Failed];

    const fn name(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Foreign => "foreign",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// What came of work that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A puzzle was given.
    Asked,
    /// It was solved.
    Done,
    /// What came back did not solve it.
    Wrong,
    /// Nothing came back in time.
    Abandoned,
    /// The client is too old to work: no puzzle was given.
    Unable,
}

impl Work {
    const ALL: [Self; 5] = [Self::Asked, Self::Done, Self::Wrong, Self::Abandoned, Self::Unable];

    const fn name(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Done => "done",
            Self::Wrong => "wrong",
            Self::Abandoned => "abandoned",
            Self::Unable => "unable",
        }
    }
}

/// The figures of this role.
#[derive(Debug)]
pub struct Metrics {
    /// Sessions of this process.
    pub sessions: IntGauge,
    /// Connections of this process, with those that are not sessions yet.
    pub connections: IntGauge,
    /// Logins that led to a session.
    pub logins: IntCounter,
    /// Those of them that needed no call to auth.
    pub resumed: IntCounter,
    /// Sessions that ended without a goodbye.
    pub lost: IntCounter,
    /// Requests passed on.
    pub requests: IntCounter,
    /// Frames of other roles put into queues.
    pub pushes: IntCounter,
    /// Those whose session had ended.
    pub pushes_missed: IntCounter,
    /// Sessions that did not read in time.
    pub slow_readers: IntCounter,
    /// Renewals in presence that failed.
    pub renewals_failed: IntCounter,
    /// Streams given to the relay of this process.
    pub handed_over: IntCounter,
    turned: [IntCounter; Turned::ALL.len()],
    work: [IntCounter; Work::ALL.len()],
}

impl Metrics {
    /// Registers the figures.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| -> prometheus::Result<IntCounter> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let gauge = |name: &str, help: &str| -> prometheus::Result<IntGauge> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let turned = IntCounterVec::new(
            Opts::new("gateway_turned_away_total", "Connections that did not become sessions"),
            &["how"],
        )?;
        registry.register(Box::new(turned.clone()))?;
        let work = IntCounterVec::new(
            Opts::new(
                "gateway_work_total",
                "Puzzles that clients were to solve before they log in, by what came of it",
            ),
            &["outcome"],
        )?;
        registry.register(Box::new(work.clone()))?;
        Ok(Self {
            sessions: gauge("gateway_sessions", "Sessions of this process")?,
            connections: gauge("gateway_connections", "Connections of this process")?,
            logins: counter("gateway_logins_total", "Logins that led to a session")?,
            resumed: counter("gateway_resumed_logins_total", "Logins by token, without a call to auth")?,
            lost: counter("gateway_lost_sessions_total", "Sessions that ended without a goodbye")?,
            requests: counter("gateway_requests_total", "Requests of clients passed on")?,
            pushes: counter("gateway_pushes_total", "Notices put into the queues of sessions")?,
            pushes_missed: counter("gateway_missed_pushes_total", "Notices for sessions that had ended")?,
            slow_readers: counter("gateway_slow_readers_total", "Sessions ended because they did not read in time")?,
            renewals_failed: counter("gateway_failed_renewals_total", "Renewals in presence that failed")?,
            handed_over: counter("gateway_streams_handed_over_total", "Streams given to the relay of this process")?,
            work: Work::ALL.map(|outcome| work.with_label_values(&[outcome.name()])),
            turned: Turned::ALL.map(|how| turned.with_label_values(&[how.name()])),
        })
    }

    /// Connections that ended so.
    #[must_use]
    pub fn turned(&self, how: Turned) -> &IntCounter {
        &self.turned[how as usize]
    }

    /// Puzzles of which that came.
    #[must_use]
    pub fn work(&self, outcome: Work) -> &IntCounter {
        &self.work[outcome as usize]
    }
}
