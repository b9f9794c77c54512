//! A running server or subscription, and what it does with one message.

use std::{
    fmt::{self, Display},
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::{
    Call, Event, Metrics,
    envelope::{Message, Outcome, to_bytes},
    trace::Trace,
};

/// How often work is delivered before it is parked.
pub(crate) const MAX_DELIVERIES: u32 = 4;

/// A server or subscription. Dropping it ends it at once: calls stay unanswered, unfinished work goes to another process.
#[must_use = "dropping it ends the service"]
pub struct Served {
    stopped: CancellationToken,
    task: JoinSet<()>,
}

/// What one call becomes; never panics.
pub(crate) type Server = Arc<dyn Fn(Message) -> Boxed<Outcome> + Send + Sync>;
/// What one event becomes; never panics.
pub(crate) type Subscriber = Arc<dyn Fn(Message) -> Boxed<Verdict> + Send + Sync>;
type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What becomes of an event after its handler ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Done,
    /// Once more, a little later.
    Again,
    /// Nobody can do anything with it.
    Park,
}

impl Served {
    /// Runs `work` until it ends by itself after the token is cancelled.
    pub(crate) fn run<F: Future<Output = ()> + Send + 'static>(work: impl FnOnce(CancellationToken) -> F) -> Self {
        let stopped = CancellationToken::new();
        let mut task = JoinSet::new();
        task.spawn(work(stopped.clone()));
        Self { stopped, task }
    }

    /// Takes no more messages and waits for the handlers that run.
    pub async fn stop(mut self) {
        self.stopped.cancel();
        drain(std::mem::take(&mut self.task)).await;
    }
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served").field("stopped", &self.stopped.is_cancelled()).finish_non_exhaustive()
    }
}

/// Says so when a task of ours panicked, which only a bug in this crate can cause.
pub(crate) fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(error = &error as &dyn std::error::Error, "a task of the bus panicked");
    }
}

/// Waits for the handlers that still run.
pub(crate) async fn drain(mut running: JoinSet<()>) {
    while let Some(ended) = running.join_next().await {
        report(ended);
    }
}

/// How long a failed event rests before its delivery number `next` (the first is 1). In all well below a second, so that
/// a poisonous event does not hold up its neighbours.
pub(crate) fn rest_before(next: u32) -> Duration {
    Duration::from_millis(50 * 3_u64.pow(next.clamp(2, MAX_DELIVERIES) - 2))
}

/// Wraps the handler of a call.
pub(crate) fn server<C, F, Fut>(handler: F, metrics: &Arc<Metrics>) -> Server
where
    C: Call,
    F: Fn(C) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<C::Reply, C::Refusal>> + Send + 'static,
{
    let (handler, metrics) = (Arc::new(handler), Arc::clone(metrics));
    Arc::new(move |message: Message| {
        let Ok(call) = minicbor::decode::<C>(&message.body) else {
            tracing::warn!(subject = C::SUBJECT, "a malformed call");
            metrics.answer(&Outcome::Malformed);
            return std::future::ready(Outcome::Malformed).boxed();
        };
        let trace = trace_of(&message);
        let span = tracing::info_span!("serve", subject = C::SUBJECT, %trace);
        let (handler, metrics) = (Arc::clone(&handler), Arc::clone(&metrics));
        // The closure may panic as well as the future: both run inside.
        let served = trace.scope(async move { handler(call).await });
        async move {
            let _running = metrics.run();
            let outcome = match AssertUnwindSafe(served).catch_unwind().await {
                Ok(Ok(reply)) => Outcome::Reply(to_bytes(&reply)),
                Ok(Err(refusal)) => {
                    tracing::debug!(?refusal, "call refused");
                    Outcome::Refusal(to_bytes(&refusal))
                }
                Err(_) => {
                    tracing::error!("the server of a call panicked");
                    Outcome::Unserved
                }
            };
            metrics.answer(&outcome);
            outcome
        }
        .instrument(span)
        .boxed()
    })
}

/// Wraps the handler of an event.
pub(crate) fn subscriber<E, F, Fut, X>(handler: F, metrics: &Arc<Metrics>) -> Subscriber
where
    E: Event,
    F: Fn(E) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), X>> + Send + 'static,
    X: Display + Send + 'static,
{
    let (handler, metrics) = (Arc::new(handler), Arc::clone(metrics));
    Arc::new(move |message: Message| {
        let Ok(event) = minicbor::decode::<E>(&message.body) else {
            tracing::warn!(topic = E::TOPIC, "a malformed event");
            metrics.event(Verdict::Park);
            return std::future::ready(Verdict::Park).boxed();
        };
        let trace = trace_of(&message);
        let span = tracing::info_span!("event", topic = E::TOPIC, %trace);
        let (handler, metrics) = (Arc::clone(&handler), Arc::clone(&metrics));
        let handled = trace.scope(async move { handler(event).await });
        async move {
            let _running = metrics.run();
            let verdict = match AssertUnwindSafe(handled).catch_unwind().await {
                Ok(Ok(())) => Verdict::Done,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "an event was not handled");
                    Verdict::Again
                }
                Err(_) => {
                    tracing::error!("the handler of an event panicked");
                    Verdict::Again
                }
            };
            metrics.event(verdict);
            verdict
        }
        .instrument(span)
        .boxed()
    })
}

fn trace_of(message: &Message) -> Trace {
    message.trace.as_deref().and_then(|text| text.parse().ok()).unwrap_or_else(Trace::start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_rests_together_are_shorter_than_a_second() {
        let rests: Duration = (2..=MAX_DELIVERIES).map(rest_before).sum();
        assert_eq!(rests, Duration::from_millis(50 + 150 + 450));
    }
}
