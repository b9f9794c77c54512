//! Answers that wait, so that clients learn how long their NATs keep a mapping that carries nothing.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use domain::SourcePrefix;

use super::reflect::Corner;

/// Answers that wait at once: about a megabyte.
pub const MOST_LATE: usize = 4_096;

/// Those of one source prefix: one client's five, and a few of a neighbour, who asks again another day.
pub const MOST_LATE_PER_SOURCE: u8 = 8;

/// An answer whose time has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Late {
    /// Where the question came from.
    pub to: SocketAddr,
    /// The socket to send it from.
    pub from: Corner,
    pub answer: Box<[u8]>,
}

/// The waiting answers, bounded in all and per source. What finds no room is dropped, as the network may do.
#[derive(Debug, Default)]
pub(super) struct Later {
    /// The number tells answers of the same instant apart.
    waiting: BTreeMap<(Instant, u64), Late>,
    sources: BTreeMap<SourcePrefix, u8>,
    kept: u64,
}

impl Later {
    /// Keeps an answer; false when there is no room for it.
    pub(super) fn keep(&mut self, now: Instant, delay: Duration, late: Late) -> bool {
        let source = SourcePrefix::of(late.to.ip());
        let of_source = self.sources.get(&source).copied().unwrap_or(0);
        if self.waiting.len() >= MOST_LATE || of_source >= MOST_LATE_PER_SOURCE {
            return false;
        }
        self.sources.insert(source, of_source + 1);
        self.kept += 1;
        self.waiting.insert((now + delay, self.kept), late);
        true
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|((due, _), _)| *due)
    }

    pub(super) fn poll_late(&mut self, now: Instant) -> Option<Late> {
        if self.poll_timeout()? > now {
            return None;
        }
        let (_, late) = self.waiting.pop_first()?;
        let source = SourcePrefix::of(late.to.ip());
        match self.sources.get_mut(&source) {
            Some(of_source) if *of_source > 1 => *of_source -= 1,
            Some(_) | None => drop(self.sources.remove(&source)),
        }
        Some(late)
    }
}
