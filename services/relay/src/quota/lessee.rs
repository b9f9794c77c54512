//! Carries reports to the owner of the count, and answers back.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bus::{Bus, CallError};
use contract::auth::{SettleRefusal, SettleRelay};
use domain::{PayerId, RelayGrant};
use tokio::{sync::mpsc, task::JoinSet, time::sleep_until};
use tokio_util::sync::CancellationToken;

use super::ledger::{Ledger, Refused};
use crate::Metrics;

/// Reports on their way at once: each is a transaction for the owner.
const AT_ONCE: usize = 64;

/// How long a relay that ends tries to report the rest.
const FAREWELL: Duration = Duration::from_secs(5);

/// Reports until `ends`, and then what is left. Whoever cancels has stopped the workers before.
pub(crate) async fn run(
    mut ledger: Ledger,
    mut wakes: mpsc::Receiver<PayerId>,
    bus: Bus,
    metrics: Arc<Metrics>,
    ends: CancellationToken,
) {
    let mut calls = JoinSet::new();
    let mut farewell = None;
    loop {
        while calls.len() < AT_ONCE
            && let Some(report) = ledger.poll_report(Instant::now())
        {
            let bus = bus.clone();
            calls.spawn(async move { (report.payer, bus.call(&SettleRelay { report }).await) });
        }
        if farewell.is_some_and(|end| end <= Instant::now() || ledger.is_settled()) {
            return;
        }
        let due = farewell.map_or(ledger.poll_deadline(), |end: Instant| end.min(ledger.poll_deadline()));
        tokio::select! {
            Some(answered) = calls.join_next() => {
                // A call that panicked is not known by whom: its account waits for the end of the process.
                if let Ok((payer, answer)) = answered {
                    hear(&mut ledger, &metrics, payer, answer);
                }
            }
            Some(payer) = wakes.recv() => ledger.handle_wake(payer),
            () = sleep_until(due.into()) => ledger.handle_deadline(Instant::now()),
            () = ends.cancelled(), if farewell.is_none() => {
                farewell = Some(Instant::now() + FAREWELL);
                ledger.drain(Instant::now());
            }
        }
    }
}

fn hear(ledger: &mut Ledger, metrics: &Metrics, payer: PayerId, answer: Result<RelayGrant, CallError<SettleRefusal>>) {
    let now = Instant::now();
    let refused = match answer {
        Ok(grant) => {
            metrics.quota_reports.inc();
            if grant.exhausted {
                metrics.quotas_exhausted.inc();
            }
            return ledger.handle_grant(now, payer, grant);
        }
        Err(CallError::Refused(SettleRefusal::UnknownPayer)) => Refused::Payer,
        Err(CallError::Refused(SettleRefusal::UnknownLease | SettleRefusal::Implausible)) => Refused::Lease,
        Err(
            CallError::Refused(SettleRefusal::Internal { .. } | SettleRefusal::Busy)
            | CallError::TimedOut
            | CallError::Unavailable
            | CallError::Malformed
            | CallError::TooLarge { .. },
        ) => Refused::Later,
    };
    metrics.quota_reports_failed.inc();
    ledger.handle_refusal(now, payer, refused);
}
