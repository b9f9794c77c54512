//! Against whom operators hold something, as far as a gateway has to know it: whose resumption tokens do not count, so that
//! auth is asked; and how many sessions come from where, when an operator asks.
//!
//! Whoever does not know it, or not lately, takes no token at all: auth decides.

use std::{
    convert::Infallible,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use bus::{Bus, Served};
use contract::{
    admin::SessionsFrom,
    auth::blocks::{Blocked, BlockedClients, BlocksChanged},
    gateway::CountSessions,
};
use domain::ClientId;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::hub::Hub;

/// How often it is asked for, in case nobody heard that a block changed.
const REFRESH: Duration = Duration::from_secs(5);

/// How old what is known may be.
const STALE: Duration = Duration::from_secs(20);

/// Whose tokens do not count.
#[derive(Debug, Default)]
pub(crate) struct BlockedTokens(RwLock<Option<(Blocked, Instant)>>);

impl BlockedTokens {
    /// Whether a token of `client` spares a call to auth.
    pub(crate) async fn count(&self, bus: &Bus, client: ClientId) -> bool {
        if self.0.read().unwrap_or_else(PoisonError::into_inner).is_none() {
            self.ask(bus).await;
        }
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().is_some_and(|(blocked, asked)| asked.elapsed() < STALE && !is_blocked(blocked, client))
    }

    /// Asks auth again. Without an answer what is known grows old.
    pub(crate) async fn ask(&self, bus: &Bus) {
        let asked = Instant::now();
        match bus.call(&BlockedClients).await {
            Ok(blocked) => {
                let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
                // Of two answers the one counts that was asked for later.
                if known.as_ref().is_none_or(|(_, before)| *before <= asked) {
                    *known = Some((blocked, asked));
                }
            }
            Err(error) => tracing::debug!(?error, "auth does not tell who is blocked"),
        }
    }
}

fn is_blocked(blocked: &Blocked, client: ClientId) -> bool {
    match blocked {
        Blocked::These(clients) => clients.binary_search(&client).is_ok(),
        Blocked::Everybody => true,
    }
}

/// Asks now and then until `shutdown`.
pub(crate) async fn run(hub: &Hub, shutdown: &CancellationToken) {
    let mut refresh = interval(REFRESH);
    refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = refresh.tick() => {}
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = hub.blocked.ask(&hub.seams.bus) => {}
        }
    }
}

/// Hears of changes and answers questions until the guards are stopped.
pub(crate) async fn serve(hub: &Arc<Hub>) -> Result<Vec<Served>, bus::Error> {
    let (changed, counted) = (Arc::clone(hub), Arc::clone(hub));
    let changes = hub.seams.bus.subscribe(1, move |BlocksChanged| {
        let hub = Arc::clone(&changed);
        async move {
            hub.blocked.ask(&hub.seams.bus).await;
            Ok::<(), Infallible>(())
        }
    });
    let questions = hub.seams.bus.subscribe(1, move |asked: CountSessions| {
        let hub = Arc::clone(&counted);
        async move {
            let (instance, sessions) = (hub.seams.instance, hub.sessions_from(asked.from));
            hub.seams.bus.publish(&SessionsFrom { question: asked.question, instance, sessions }).await
        }
    });
    Ok(vec![changes.await?, questions.await?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_named_is_blocked_and_everybody_when_they_are_too_many() {
        let client = |number| ClientId::from_bytes([number; 16]);
        let some = Blocked::These(vec![client(1), client(5)]);
        assert!(is_blocked(&some, client(1)) && is_blocked(&some, client(5)));
        assert!(!is_blocked(&some, client(3)) && is_blocked(&Blocked::Everybody, client(3)));
    }
}
