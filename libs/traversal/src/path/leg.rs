//! What is known of one route.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::RETRY;

/// One route, as far as answers to probes have shown it.
#[derive(Debug)]
pub(super) struct Leg {
    pub(super) since: Instant,
    pub(super) rtt: Option<Duration>,
    /// Those of the last answers.
    lately: VecDeque<Duration>,
    /// The last answers, as long as they count.
    answers: VecDeque<Instant>,
    /// Three answers came within a second, and nothing since has cast doubt on them.
    pub(super) proven: bool,
    pub(super) last_answer: Option<Instant>,
    pub(super) last_probe: Option<Instant>,
    /// When the route last was of use: heard from, or left for a better one.
    pub(super) last_use: Instant,
    /// Probes since the last answer, and when the first of them left.
    pub(super) misses: u32,
    pub(super) doubted: Option<Instant>,
    pub(super) pending: VecDeque<(u64, Instant)>,
}

/// What a direct route leads over, the most welcome first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Lan,
    Ipv6,
    Ipv4,
}

impl Leg {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            since: now,
            rtt: None,
            lately: VecDeque::new(),
            answers: VecDeque::new(),
            proven: false,
            last_answer: None,
            last_probe: None,
            last_use: now,
            misses: 0,
            doubted: None,
            pending: VecDeque::new(),
        }
    }

    /// A punch already had its three answers.
    pub(super) fn prove(&mut self, now: Instant, rtt: Duration) {
        self.prove_once(now, rtt);
        (self.since, self.last_probe) = (now, Some(now));
        self.proven = true;
    }

    pub(super) fn prove_once(&mut self, now: Instant, rtt: Duration) {
        // A first estimate, then a moving average over eight.
        self.rtt = Some(self.rtt.map_or(rtt, |smoothed| (smoothed * 7 + rtt) / 8));
        self.lately.push_back(rtt);
        if self.lately.len() > LATELY {
            self.lately.pop_front();
        }
        self.answers.push_back(now);
        self.answers.retain(|&answered| now.saturating_duration_since(answered) <= PROVEN_WITHIN);
        self.proven |= self.answers.len() >= PROVEN;
        while self.answers.len() >= PROVEN {
            self.answers.pop_front();
        }
        self.last_answer = Some(now);
        self.misses = 0;
        self.doubted = None;
    }

    /// What routes are compared by: the shortest of the last round trips, because an answer that comes late says more of the
    /// moment than of the way.
    pub(super) fn shortest(&self) -> Option<Duration> {
        self.lately.iter().min().copied()
    }

    /// It has to prove itself anew.
    pub(super) fn distrust(&mut self) {
        self.proven = false;
        self.answers.clear();
    }

    /// Whether an answer is missing for longer than the route ever took.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.doubted.is_some_and(|at| now.saturating_duration_since(at) >= self.patience())
    }

    /// How long an answer may take.
    pub(super) fn patience(&self) -> Duration {
        4 * self.rtt.unwrap_or(RETRY).max(MIN_PATIENCE)
    }

    pub(super) const fn is_usable(&self) -> bool {
        self.proven && self.misses < 3
    }
}

impl Kind {
    pub(super) fn of(endpoint: SocketAddr) -> Self {
        match (domain::scope(endpoint.ip()), endpoint.ip().to_canonical()) {
            (domain::Scope::Public, IpAddr::V4(_)) => Self::Ipv4,
            (domain::Scope::Public, IpAddr::V6(_)) => Self::Ipv6,
            _ => Self::Lan,
        }
    }
}

/// Answers that prove a direct path, and within what time.
const PROVEN: usize = 3;
const PROVEN_WITHIN: Duration = Duration::from_secs(1);
/// Round trips that routes are compared by.
const LATELY: usize = 3;
const MIN_PATIENCE: Duration = Duration::from_millis(50);
