//! Relays that drain, come back, or die, as their beats tell. All processes hear them; the one that leads says so.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use contract::rendezvous::RelayBeat;
use domain::{Event, EventKind, RelayId};
use tokio::time::Instant;

use super::of;

/// Relays that are watched.
const MOST: usize = 1_024;

/// What is known of the relays.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    leads: AtomicBool,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    relays: BTreeMap<RelayId, (Instant, bool)>,
    /// What is not told yet: a change of each relay at most.
    happened: BTreeMap<RelayId, EventKind>,
}

impl Watch {
    /// Whether this process is the one that tells.
    pub(crate) fn lead(&self, leads: bool) {
        self.leads.store(leads, Ordering::Relaxed);
    }

    pub(crate) fn leads(&self) -> bool {
        self.leads.load(Ordering::Relaxed)
    }

    /// A relay gives a sign of life.
    pub(crate) fn handle_beat(&self, now: Instant, relay: RelayId, draining: bool) {
        let mut known = self.known();
        if known.relays.len() >= MOST && !known.relays.contains_key(&relay) {
            return;
        }
        let before = known.relays.insert(relay, (now, draining)).map(|(_, draining)| draining);
        let kind = match (before, draining) {
            (Some(false), true) => EventKind::RelayDraining,
            (Some(true), false) => EventKind::RelayResumed,
            (None | Some(_), _) => return,
        };
        known.happened.insert(relay, kind);
    }

    /// What happened since the last time. Nothing unless this process leads: another one tells it.
    pub(crate) fn poll_events(&self, now: Instant) -> Vec<Event> {
        let mut known = self.known();
        let Known { relays, happened } = &mut *known;
        relays.retain(|relay, (heard, _)| {
            let lives = now.saturating_duration_since(*heard) < RelayBeat::GONE;
            if !lives {
                happened.insert(*relay, EventKind::RelayLost);
            }
            lives
        });
        let happened = std::mem::take(happened);
        drop(known);
        let told = happened.into_iter().filter(|_| self.leads());
        told.map(|(relay, kind)| of(kind).relay(relay)).collect()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_relay_that_drains_returns_or_dies_is_told_once_by_the_one_that_leads() {
        let (watch, other, start) = (Watch::default(), Watch::default(), Instant::now());
        watch.lead(true);
        let relay = RelayId::from_bytes([1; 16]);
        let beat = |after: u64, draining| {
            let now = start + Duration::from_secs(after);
            for watch in [&watch, &other] {
                watch.handle_beat(now, relay, draining);
            }
            assert!(other.poll_events(now).is_empty(), "it does not lead");
            watch.poll_events(now).into_iter().map(|event| (event.kind, event.relay)).collect::<Vec<_>>()
        };
        assert_eq!(beat(0, false), []);
        assert_eq!(beat(1, true), [(EventKind::RelayDraining, Some(relay))]);
        assert_eq!(beat(2, true), []);
        assert_eq!(beat(3, false), [(EventKind::RelayResumed, Some(relay))]);
        let gone = start + Duration::from_secs(3) + RelayBeat::GONE;
        assert!(watch.poll_events(gone - Duration::from_millis(1)).is_empty());
        assert_eq!(watch.poll_events(gone).iter().map(|event| event.kind).collect::<Vec<_>>(), [EventKind::RelayLost]);
        assert!(watch.poll_events(gone).is_empty());
    }
}
