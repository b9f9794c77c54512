//! From where events are heard to the log in the store.

use std::{sync::Arc, time::Duration};

use bus::{Bus, Served};
use contract::admin::Happened;
use domain::{Event, InstanceId};
use store::Events;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use super::relays::Watch;
use crate::now;

/// Messages of the bus that wait to be written; beyond that they wait on the bus, whose queue is bounded, too.
const WAITING: usize = 256;
/// How long what was heard waits for more, to be written together: a transaction costs more than an event in it.
const GATHERED: Duration = Duration::from_millis(50);
/// Before the store is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a process leads, and how often it says that it still does.
const LEASE: Duration = Duration::from_secs(15);
const LEAD_EVERY: Duration = Duration::from_secs(5);
/// How often the leader forgets what is too old.
const FORGET_EVERY: Duration = Duration::from_secs(600);

/// Events that wait to be written, and who wants to know that they were.
struct Heard {
    events: Vec<Event>,
    kept: oneshot::Sender<()>,
}

/// Writes the log.
pub(crate) struct Recorder {
    pub(crate) store: Arc<dyn Events>,
    pub(crate) instance: InstanceId,
    pub(crate) watch: Arc<Watch>,
    /// The end of the log, for those who read it.
    pub(crate) head: watch::Sender<u64>,
    pub(crate) poll: Duration,
}

/// What was heard on the bus and is not written yet.
pub(crate) struct Waiting(mpsc::Receiver<Heard>);

/// Hears what happens. A message is done when its events are in the store: if this process dies before, another one gets it.
pub(crate) async fn listen(bus: &Bus) -> Result<(Served, Waiting), bus::Error> {
    let (sender, waiting) = mpsc::channel(WAITING);
    let hear = move |Happened { events }: Happened| {
        let sender = sender.clone();
        async move {
            let (kept, done) = oneshot::channel();
            let heard = Heard { events, kept };
            sender.send(heard).await.map_err(|_| "this process is leaving")?;
            done.await.map_err(|_| "this process is leaving")
        }
    };
    Ok((bus.subscribe(WAITING, hear).await?, Waiting(waiting)))
}

impl Recorder {
    /// Works until nothing can be heard any more. After `leaving` what cannot be written at once is left to others.
    pub(crate) async fn run(self, Waiting(mut waiting): Waiting, leaving: CancellationToken) {
        let mut polls = interval(self.poll.max(Duration::from_millis(10)));
        let mut leads = interval(LEAD_EVERY);
        for ticks in [&mut polls, &mut leads] {
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        let mut forgets = Instant::now();
        loop {
            let mut heard = Vec::new();
            tokio::select! {
                some = waiting.recv_many(&mut heard, WAITING) => {
                    if some == 0 {
                        break;
                    }
                    gather(&mut waiting, &mut heard).await;
                }
                _ = polls.tick() => {}
                _ = leads.tick() => {
                    self.lead().await;
                    if self.watch.leads() && Instant::now() >= forgets {
                        forgets = Instant::now() + FORGET_EVERY;
                        self.forget().await;
                    }
                    continue;
                }
            }
            let mut events: Vec<Event> = heard.iter().flat_map(|heard| heard.events.iter().copied()).collect();
            events.extend(self.watch.poll_events(Instant::now()));
            tokio::select! {
                () = self.write(&events) => say_kept(heard),
                // Whoever is not told that it is kept has it told to another process.
                () = leaving.cancelled() => self.last_try(&events, heard).await,
            }
        }
    }

    /// Nothing waits for the store when the process leaves.
    async fn last_try(&self, events: &[Event], heard: Vec<Heard>) {
        if self.store.record_events(events.to_vec()).await.is_ok() {
            say_kept(heard);
        }
    }

    /// Tries until it works.
    async fn write(&self, events: &[Event]) {
        let mut failing = false;
        loop {
            match self.store.record_events(events.to_vec()).await {
                Ok(head) => {
                    self.head.send_if_modified(|known| std::mem::replace(known, head) != head);
                    return;
                }
                Err(error) => {
                    if !failing {
                        tracing::warn!(
                            error = telemetry::incident::chain(&error),
                            "events wait until they can be kept"
                        );
                    }
                    failing = true;
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    async fn lead(&self) {
        let led = self.store.lead_events(self.instance, LEASE, now()).await;
        self.watch.lead(led.unwrap_or_else(|error| {
            tracing::debug!(error = telemetry::incident::chain(&error), "nobody knows who leads");
            false
        }));
    }

    async fn forget(&self) {
        match self.store.forget_events(now()).await {
            Ok(0) => {}
            Ok(events) => tracing::debug!(events, "old events were forgotten"),
            Err(error) => tracing::warn!(error = telemetry::incident::chain(&error), "old events stay"),
        }
    }
}

/// Waits for more a moment.
async fn gather(waiting: &mut mpsc::Receiver<Heard>, heard: &mut Vec<Heard>) {
    let all = async { while heard.len() < WAITING && waiting.recv_many(heard, WAITING - heard.len()).await > 0 {} };
    let _ = timeout(GATHERED, all).await;
}

/// Whoever does not wait any more has it told again, and it is found to be there.
fn say_kept(heard: Vec<Heard>) {
    for Heard { kept, .. } in heard {
        let _ = kept.send(());
    }
}
