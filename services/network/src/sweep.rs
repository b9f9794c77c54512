//! Finding what got lost: changes nobody was told of, and sessions whose gateway died. And what is done after a change of a plan,
//! a batch at a time: dealing out the seats of the networks that it concerns.

use std::{collections::VecDeque, time::Duration};

use contract::session::{SessionChange, SessionChanged};
use domain::UnixMillis;
use presence::Lost;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{
    announce::{AnnounceError, Announcer},
    now,
};

/// A change younger than this is probably being announced by whoever made it.
const GRACE_MS: u64 = 1_000;
/// Changes or sessions taken up at once.
const BATCH: u16 = 200;
/// Batches of networks whose seats are dealt out in one sweep.
const ROUNDS: usize = 10;
/// Sweeps between two looks for budgets whose window has ended.
const SWEEPS_PER_PRUNING: u32 = 150;
/// The lease under which one process at a time looks through the outbox. Two would only do the work twice.
const LEASE: &str = "network.outbox";

/// Sweeps every so often until `shutdown`.
pub(crate) async fn run(announcer: &Announcer, every: Duration, shutdown: &CancellationToken) {
    let mut sweeper = Sweeper { announcer, every, holder: rand::random(), sweeps: 0, unsaid: VecDeque::new() };
    let mut ticks = interval(every.max(Duration::from_millis(10)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            _ = ticks.tick() => {}
        }
        let swept = sweeper.sweep().await;
        match (&swept, failing) {
            (Err(error), false) => tracing::warn!(%error, "unannounced changes wait until the sweep works again"),
            (Ok(()), true) => tracing::info!("the sweep works again"),
            (Err(_), true) | (Ok(()), false) => {}
        }
        failing = swept.is_err();
    }
}

/// Deals out the seats and announces at once what another role changed. What fails is left to the sweep.
pub(crate) async fn announce_now(announcer: &Announcer) -> Result<(), AnnounceError> {
    let reseated = reseat(announcer, 1).await;
    let (_, outcome) = outbox(announcer, UnixMillis(now().0.saturating_add(GRACE_MS))).await?;
    outcome.and(reseated)
}

/// Announces what changed before `before`, oldest first; returns how much. One that fails does not keep the others back.
async fn outbox(announcer: &Announcer, before: UnixMillis) -> Result<(u64, Result<(), AnnounceError>), AnnounceError> {
    let (mut told, mut outcome) = (0, Ok(()));
    for announcement in announcer.networks.unannounced(before, BATCH).await? {
        match announcer.change(announcement).await {
            Ok(()) => told += 1,
            Err(error) => outcome = Err(error),
        }
    }
    Ok((told, outcome))
}

/// Deals out seats where the plan of the owner changed, and tells the members. One that fails does not keep the others back.
async fn reseat(announcer: &Announcer, rounds: usize) -> Result<(), AnnounceError> {
    let mut outcome = Ok(());
    for _ in 0..rounds {
        let due = announcer.networks.reseatings(BATCH).await?;
        let more = due.len() >= usize::from(BATCH);
        for network in due {
            match announcer.networks.reseat(network, now()).await {
                Ok(None) => {}
                Ok(Some(announcement)) => {
                    announcer.metrics.networks_reseated.inc();
                    // It is in the outbox, too.
                    outcome = outcome.and(announcer.change(announcement).await);
                }
                Err(error) => outcome = Err(error.into()),
            }
        }
        if !more || outcome.is_err() {
            break;
        }
    }
    outcome
}

struct Sweeper<'a> {
    announcer: &'a Announcer,
    every: Duration,
    holder: u64,
    sweeps: u32,
    /// Sessions that presence has forgotten and nobody was told of yet: one batch at most.
    unsaid: VecDeque<Lost>,
}

impl Sweeper<'_> {
    async fn sweep(&mut self) -> Result<(), AnnounceError> {
        self.expired_sessions().await?;
        let prune = self.sweeps.is_multiple_of(SWEEPS_PER_PRUNING);
        self.sweeps = self.sweeps.wrapping_add(1);
        // Shorter than the interval, so that it never keeps its holder from the next sweep.
        if self.announcer.presence.lease(LEASE, self.holder, self.every * 9 / 10).await? {
            let reseated = reseat(self.announcer, ROUNDS).await;
            self.outbox().await?;
            reseated?;
            if prune {
                self.announcer.networks.prune_budgets(now()).await?;
            }
        }
        Ok(())
    }

    /// Announces what was not.
    async fn outbox(&self) -> Result<(), AnnounceError> {
        let before = UnixMillis(now().0.saturating_sub(GRACE_MS));
        let (told, outcome) = outbox(self.announcer, before).await?;
        self.announcer.metrics.announcements_repaired.inc_by(told);
        outcome
    }

    /// Sessions whose gateway did not renew them. Taking them out of presence is atomic, so that one process announces each;
    /// the event waits in a durable queue until one has told the peers.
    async fn expired_sessions(&mut self) -> Result<(), AnnounceError> {
        if self.unsaid.is_empty() {
            self.unsaid.extend(self.announcer.presence.sweep(usize::from(BATCH)).await?);
        }
        while let Some(lost) = self.unsaid.front() {
            let (client, epoch, change) = (lost.client, lost.epoch, SessionChange::Lost);
            self.announcer.bus.publish(&SessionChanged { client, epoch, change }).await?;
            self.unsaid.pop_front();
            self.announcer.metrics.sessions_expired.inc();
        }
        Ok(())
    }
}
