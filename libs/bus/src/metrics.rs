//! What one process's access to the bus counts.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::{CallError, Error, envelope::Outcome, served::Verdict};

/// How a call ended for its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Called {
    Replied,
    Refused,
    TimedOut,
    Unavailable,
    Malformed,
    TooLarge,
}

/// How a call ended for its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    Replied,
    Refused,
    Malformed,
    Failed,
}

/// How a publication ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    Confirmed,
    Unavailable,
    Unroutable,
    Full,
    TooLarge,
}

/// How an event ended for its subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handled {
    Done,
    Failed,
    Malformed,
}

/// The figures of one process on the bus.
#[derive(Debug)]
pub struct Metrics {
    calls: [IntCounter; Called::ALL.len()],
    call_seconds: Histogram,
    answers: [IntCounter; Answered::ALL.len()],
    published: [IntCounter; Published::ALL.len()],
    events: [IntCounter; Handled::ALL.len()],
    /// Handlers of calls and events that run now.
    running: IntGauge,
    /// One while there is a connection to the broker.
    connected: IntGauge,
    families: Families,
}

/// What a registry takes.
#[derive(Debug)]
struct Families {
    calls: IntCounterVec,
    answers: IntCounterVec,
    published: IntCounterVec,
    events: IntCounterVec,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let families = Families {
            calls: family("bus_calls_total", "Calls of this process, when they end, by how"),
            answers: family("bus_answers_total", "Calls served by this process, when their handler ends, by how"),
            published: family(
                "bus_published_total",
                "Events of this process, when the broker has or refuses them, by how",
            ),
            events: family("bus_events_total", "Events for this process, when their handler ends, by how"),
        };
        let seconds = HistogramOpts::new("bus_call_seconds", "From a call to its reply, refusal or failure");
        Self {
            calls: Called::ALL.map(|label| families.calls.with_label_values(&[label.name()])),
            call_seconds: Histogram::with_opts(seconds).expect(VALID),
            answers: Answered::ALL.map(|label| families.answers.with_label_values(&[label.name()])),
            published: Published::ALL.map(|label| families.published.with_label_values(&[label.name()])),
            events: Handled::ALL.map(|label| families.events.with_label_values(&[label.name()])),
            running: IntGauge::new("bus_handlers", "Handlers of calls and events that run now").expect(VALID),
            connected: IntGauge::new("bus_connected", "1 while there is a connection to the broker").expect(VALID),
            families,
        }
    }

    /// Shows the figures in `registry`.
    ///
    /// # Errors
    /// When it shows those of another bus already.
    pub fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        for family in [&self.families.calls, &self.families.answers, &self.families.published, &self.families.events] {
            registry.register(Box::new(family.clone()))?;
        }
        registry.register(Box::new(self.call_seconds.clone()))?;
        registry.register(Box::new(self.running.clone()))?;
        registry.register(Box::new(self.connected.clone()))
    }

    /// Calls that ended so.
    #[must_use]
    pub fn calls(&self, called: Called) -> u64 {
        self.calls[called as usize].get()
    }

    /// Served calls that ended so.
    #[must_use]
    pub fn answers(&self, answered: Answered) -> u64 {
        self.answers[answered as usize].get()
    }

    /// Publications that ended so.
    #[must_use]
    pub fn published(&self, published: Published) -> u64 {
        self.published[published as usize].get()
    }

    /// Events that ended so.
    #[must_use]
    pub fn events(&self, handled: Handled) -> u64 {
        self.events[handled as usize].get()
    }

    pub(crate) fn call<T, R>(&self, seconds: f64, result: &Result<T, CallError<R>>) {
        let called = match result {
            Ok(_) => Called::Replied,
            Err(CallError::Refused(_)) => Called::Refused,
            Err(CallError::TimedOut) => Called::TimedOut,
            Err(CallError::Unavailable) => Called::Unavailable,
            Err(CallError::Malformed) => Called::Malformed,
            Err(CallError::TooLarge { .. }) => Called::TooLarge,
        };
        self.calls[called as usize].inc();
        self.call_seconds.observe(seconds);
    }

    pub(crate) fn answer(&self, outcome: &Outcome) {
        let answered = match outcome {
            Outcome::Reply(_) => Answered::Replied,
            Outcome::Refusal(_) => Answered::Refused,
            Outcome::Malformed => Answered::Malformed,
            Outcome::Unserved => Answered::Failed,
        };
        self.answers[answered as usize].inc();
    }

    pub(crate) fn publication(&self, result: &Result<(), Error>) {
        let published = match result {
            Ok(()) => Published::Confirmed,
            Err(Error::Unavailable | Error::Url) => Published::Unavailable,
            Err(Error::Unroutable) => Published::Unroutable,
            Err(Error::Full) => Published::Full,
            Err(Error::TooLarge { .. }) => Published::TooLarge,
        };
        self.published[published as usize].inc();
    }

    pub(crate) fn event(&self, verdict: Verdict) {
        let handled = match verdict {
            Verdict::Done => Handled::Done,
            Verdict::Again => Handled::Failed,
            Verdict::Park => Handled::Malformed,
        };
        self.events[handled as usize].inc();
    }

    pub(crate) fn connected(&self, connected: Connected) {
        self.connected.set(match connected {
            Connected::Yes => 1,
            Connected::No => 0,
        });
    }

    /// Counts one more handler until the guard is dropped.
    pub(crate) fn run(&self) -> Running {
        self.running.inc();
        Running { running: self.running.clone() }
    }
}

/// Whether there is a connection to the broker.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Connected {
    Yes,
    No,
}

/// A handler that runs.
pub(crate) struct Running {
    running: IntGauge,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.running.dec();
    }
}

impl Called {
    const ALL: [Self; 6] =
        [Self::Replied, Self::Refused, Self::TimedOut, Self::Unavailable, Self::Malformed, Self::TooLarge];

    const fn name(self) -> &'static str {
        match self {
            Self::Replied => "replied",
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Unavailable => "unavailable",
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
        }
    }
}

impl Answered {
    const ALL: [Self; 4] = [Self::Replied, Self::Refused, Self::Malformed, Self::Failed];

    const fn name(self) -> &'static str {
        match self {
            Self::Replied => "replied",
            Self::Refused => "refused",
            Self::Malformed => "malformed",
            Self::Failed => "failed",
        }
    }
}

impl Published {
    const ALL: [Self; 5] = [Self::Confirmed, Self::Unavailable, Self::Unroutable, Self::Full, Self::TooLarge];

    const fn name(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Unavailable => "unavailable",
            Self::Unroutable => "unroutable",
            Self::Full => "full",
            Self::TooLarge => "too_large",
        }
    }
}

impl Handled {
    const ALL: [Self; 3] = [Self::Done, Self::Failed, Self::Malformed];

    const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Malformed => "malformed",
        }
    }
}

const VALID: &str = "names and labels are constants and valid";

fn family(name: &str, help: &str) -> IntCounterVec {
    IntCounterVec::new(Opts::new(name, help), &["outcome"]).expect(VALID)
}
