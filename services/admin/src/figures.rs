//! What the overview shows: the latest figures of every process that tells them, and their last hour.
//!
//! Every admin process listens for itself, so the hour begins when it does. What a process counted stays in the sums after
//! the process has gone; a restart begins a new count, never a negative one.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use bus::{Bus, Served};
use contract::{
    admin::{Ended, GONE, GatewayFigures, RendezvousFigures},
    rendezvous::RelayBeat,
};
use domain::{InstanceId, NatClass, PairOutcome, RelayId, Strategy, UnixMillis};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::events::relays::Watch;

/// Between two samples of the history.
pub(crate) const EVERY: Duration = Duration::from_secs(10);

/// Samples that are kept: an hour.
pub(crate) const MOST_SAMPLES: usize = 360;

/// The figures of all processes.
#[derive(Debug, Default)]
pub(crate) struct Figures(Mutex<Known>);

type Kind = (NatClass, NatClass, Strategy, PairOutcome);

#[derive(Debug, Default)]
struct Known {
    gateways: BTreeMap<InstanceId, (Instant, u64)>,
    rendezvous: BTreeMap<InstanceId, (Instant, Vec<Ended>)>,
    relays: BTreeMap<RelayId, (Instant, Relay)>,
    /// Attempts that processes counted which are gone.
    past: BTreeMap<Kind, u64>,
    samples: VecDeque<Sample>,
}

#[derive(Clone, Copy, Debug)]
struct Relay {
    slots: u32,
    max_slots: u32,
    bytes_per_second: u64,
    draining: bool,
}

/// How it was at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) at: UnixMillis,
    pub(crate) sessions: u64,
    /// Attempts that ended so until then.
    pub(crate) direct: u64,
    pub(crate) relayed: u64,
    pub(crate) slots: u64,
    pub(crate) bytes_per_second: u64,
}

/// How it is.
#[derive(Clone, Debug)]
pub(crate) struct Overview {
    pub(crate) now: Sample,
    pub(crate) gateways: usize,
    pub(crate) relays: usize,
    pub(crate) draining: usize,
    pub(crate) max_slots: u64,
    pub(crate) ended: Vec<Ended>,
    /// Oldest first.
    pub(crate) history: Vec<Sample>,
}

impl Figures {
    pub(crate) fn gateway(&self, now: Instant, told: GatewayFigures) {
        self.known().gateways.insert(told.instance, (now, told.sessions));
    }

    pub(crate) fn rendezvous(&self, now: Instant, told: RendezvousFigures) {
        self.known().rendezvous.insert(told.instance, (now, told.ended));
    }

    pub(crate) fn relay(&self, now: Instant, beat: &RelayBeat) {
        let bytes_per_second = beat.rate.bytes_per_second();
        let RelayBeat { slots, max_slots, draining, .. } = *beat;
        self.known().relays.insert(beat.relay, (now, Relay { slots, max_slots, bytes_per_second, draining }));
    }

    /// The gateways that live, and their sessions.
    pub(crate) fn gateways(&self, now: Instant) -> BTreeMap<InstanceId, u64> {
        let mut known = self.known();
        known.forget(now);
        known.gateways.iter().map(|(&gateway, &(_, sessions))| (gateway, sessions)).collect()
    }

    /// Adds to the history.
    pub(crate) fn sample(&self, now: Instant, at: UnixMillis) {
        let mut known = self.known();
        known.forget(now);
        let sample = known.now(at);
        if known.samples.len() == MOST_SAMPLES {
            known.samples.pop_front();
        }
        known.samples.push_back(sample);
    }

    /// Adds to the history for as long as it is polled.
    pub(crate) async fn keep(&self) -> Infallible {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let now = ticks.tick().await;
            self.sample(now, SystemTime::now().into());
        }
    }

    pub(crate) fn overview(&self, now: Instant, at: UnixMillis) -> Overview {
        let mut known = self.known();
        known.forget(now);
        Overview {
            now: known.now(at),
            gateways: known.gateways.len(),
            relays: known.relays.len(),
            draining: known.relays.values().filter(|(_, relay)| relay.draining).count(),
            max_slots: known.relays.values().map(|(_, relay)| u64::from(relay.max_slots)).sum(),
            ended: known.ended(),
            history: known.samples.iter().copied().collect(),
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn forget(&mut self, now: Instant) {
        self.gateways.retain(|_, (heard, _)| now.duration_since(*heard) < GONE);
        self.relays.retain(|_, (heard, _)| now.duration_since(*heard) < RelayBeat::GONE);
        let Self { rendezvous, past, .. } = self;
        rendezvous.retain(|_, (heard, ended)| {
            let lives = now.duration_since(*heard) < GONE;
            for one in ended.iter().filter(|_| !lives) {
                *past.entry(kind(one)).or_default() += one.count;
            }
            lives
        });
    }

    fn ended(&self) -> Vec<Ended> {
        let mut sums = self.past.clone();
        for one in self.rendezvous.values().flat_map(|(_, ended)| ended) {
            *sums.entry(kind(one)).or_default() += one.count;
        }
        let ended =
            |((class_a, class_b, strategy, outcome), count)| Ended { class_a, class_b, strategy, outcome, count };
        sums.into_iter().map(ended).collect()
    }

    fn now(&self, at: UnixMillis) -> Sample {
        let ended = self.ended();
        let sum = |outcome| ended.iter().filter(|one| one.outcome == outcome).map(|one| one.count).sum();
        let relays = || self.relays.values().map(|(_, relay)| relay);
        Sample {
            at,
            sessions: self.gateways.values().map(|(_, sessions)| sessions).sum(),
            direct: sum(PairOutcome::Direct),
            relayed: sum(PairOutcome::Relayed),
            slots: relays().map(|relay| u64::from(relay.slots)).sum(),
            bytes_per_second: relays().map(|relay| relay.bytes_per_second).fold(0, u64::saturating_add),
        }
    }
}

const fn kind(one: &Ended) -> Kind {
    (one.class_a, one.class_b, one.strategy, one.outcome)
}

/// Hears what processes tell of themselves.
pub(crate) async fn listen(bus: &Bus, figures: &Arc<Figures>, watch: &Arc<Watch>) -> Result<[Served; 3], bus::Error> {
    let watch = Arc::clone(watch);
    let heard = |figures: &Arc<Figures>| Arc::clone(figures);
    let (gateways, rendezvous, relays) = (heard(figures), heard(figures), heard(figures));
    Ok([
        bus.subscribe(1, move |told: GatewayFigures| {
            gateways.gateway(Instant::now(), told);
            std::future::ready(Ok::<_, Infallible>(()))
        })
        .await?,
        bus.subscribe(1, move |told: RendezvousFigures| {
            rendezvous.rendezvous(Instant::now(), told);
            std::future::ready(Ok::<_, Infallible>(()))
        })
        .await?,
        bus.subscribe(1, move |beat: RelayBeat| {
            relays.relay(Instant::now(), &beat);
            watch.handle_beat(Instant::now(), beat.relay, beat.draining);
            std::future::ready(Ok::<_, Infallible>(()))
        })
        .await?,
    ])
}

#[cfg(test)]
mod tests {
    use domain::Bandwidth;

    use super::*;

    #[test]
    fn figures_of_all_processes_add_up_and_those_of_the_gone_are_forgotten() {
        let (figures, began) = (Figures::default(), Instant::now());
        for (number, sessions) in [(1, 7), (2, 5)] {
            figures.gateway(began, GatewayFigures { instance: instance(number), sessions });
        }
        figures.gateway(began, GatewayFigures { instance: instance(2), sessions: 4 });
        figures.relay(began, &beat(1, 10, false));
        figures.relay(began, &beat(2, 20, true));
        let overview = figures.overview(began, UnixMillis(1));
        assert_eq!((overview.now.sessions, overview.gateways), (11, 2));
        assert_eq!((overview.relays, overview.draining, overview.now.slots, overview.max_slots), (2, 1, 30, 200));
        assert_eq!(overview.now.bytes_per_second, 2_000);

        let overview = figures.overview(began + GONE, UnixMillis(2));
        assert_eq!((overview.now.sessions, overview.gateways, overview.relays), (0, 0, 0));
    }

    #[test]
    fn attempts_of_processes_that_are_gone_stay_in_the_sums() {
        let (figures, began) = (Figures::default(), Instant::now());
        figures.rendezvous(began, attempts(1, 3, 1));
        figures.rendezvous(began, attempts(2, 2, 0));
        let now = |at| figures.overview(at, UnixMillis(0)).now;
        assert_eq!((now(began).direct, now(began).relayed), (5, 1));
        let later = began + GONE;
        figures.rendezvous(later, attempts(3, 1, 1));
        assert_eq!((now(later).direct, now(later).relayed), (6, 2));
        assert_eq!((now(later).direct, now(later).relayed), (6, 2));
    }

    #[test]
    fn the_history_is_an_hour_long_and_no_longer() {
        let (figures, began) = (Figures::default(), Instant::now());
        for nth in 0..MOST_SAMPLES as u64 + 5 {
            figures.sample(began, UnixMillis(nth));
        }
        let history = figures.overview(began, UnixMillis(0)).history;
        assert_eq!((history.len(), history[0].at), (MOST_SAMPLES, UnixMillis(5)));
        assert_eq!(EVERY * u32::try_from(MOST_SAMPLES).unwrap(), Duration::from_secs(3_600));
    }

    fn attempts(number: u8, direct: u64, relayed: u64) -> RendezvousFigures {
        let ended = [(PairOutcome::Direct, direct), (PairOutcome::Relayed, relayed)].map(|(outcome, count)| Ended {
            class_a: NatClass::EasyOpen,
            class_b: NatClass::Easy,
            strategy: Strategy::Direct,
            outcome,
            count,
        });
        RendezvousFigures { instance: instance(number), ended: ended.to_vec() }
    }

    fn beat(number: u8, slots: u32, draining: bool) -> RelayBeat {
        RelayBeat {
            relay: RelayId::from_bytes([number; 16]),
            endpoints: Vec::new(),
            region: String::new(),
            slots,
            max_slots: 100,
            rate: Bandwidth::from_bytes_per_second(1_000),
            draining,
            streams: Vec::new(),
        }
    }

    fn instance(number: u8) -> InstanceId {
        InstanceId::from_bytes([number; 16])
    }
}
