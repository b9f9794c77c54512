//! Tells webhooks what is due, each in its order.

use std::{sync::Arc, time::Duration};

use domain::{Event as Happening, EventKind, InstanceId};
use outbound::{Fetcher, Request, Whom};
use store::{Due, Held, Numbered, Then, Tried, Webhook, Webhooks};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{SecretKey, WebhooksConfig, pause, reason, reason_of};
use crate::{
    events::{Event, filter::Filter},
    metrics::{Delivery, Metrics},
    now,
};

/// How much longer than a request a process may tell a webhook before another one does: what is noted in between takes that long.
const MARGIN: Duration = Duration::from_secs(20);
/// Events that are read at once for one webhook, and after which another one has its turn.
const PAGE: u16 = 100;
/// How long a request may go on when the process leaves.
const FAREWELL: Duration = Duration::from_secs(2);

/// Tells webhooks.
pub(crate) struct Deliverer {
    pub(crate) config: WebhooksConfig,
    pub(crate) store: Arc<dyn Webhooks>,
    pub(crate) key: SecretKey,
    pub(crate) fetcher: Fetcher,
    pub(crate) metrics: Arc<Metrics>,
}

/// What a receiver said.
pub(crate) struct Said {
    pub(crate) status: Option<u16>,
    /// Empty for a success.
    pub(crate) reason: &'static str,
}

impl Said {
    fn taken(&self) -> bool {
        self.reason.is_empty()
    }
}

impl Deliverer {
    /// Works until `ends`. `head` is the end of the log.
    pub(crate) async fn run(self: Arc<Self>, mut head: watch::Receiver<u64>, ends: CancellationToken) {
        let mut turns = JoinSet::new();
        let mut polls = interval(self.config.poll.max(Duration::from_millis(10)));
        polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            tokio::select! {
                () = ends.cancelled() => break,
                _ = polls.tick() => {}
                changed = head.changed() => if changed.is_err() { break },
                Some(_) = turns.join_next(), if !turns.is_empty() => {}
            }
            while turns.len() < self.config.parallel.max(1) && !ends.is_cancelled() {
                let holder = draw();
                match self.store.take_webhook(holder, self.until(), now()).await {
                    Ok(Some(webhook)) => {
                        failing = false;
                        let (teller, ends) = (Arc::clone(&self), ends.clone());
                        turns.spawn(async move { teller.turn(webhook, holder, &ends).await });
                    }
                    Ok(None) => break,
                    Err(error) => {
                        if !failing {
                            tracing::warn!(error = telemetry::incident::chain(&error), "webhooks wait");
                        }
                        failing = true;
                        break;
                    }
                }
            }
        }
        while turns.join_next().await.is_some() {}
    }

    /// Who may be told.
    pub(crate) const fn whom(&self) -> Whom {
        if self.config.private { Whom::Anybody } else { Whom::Public }
    }

    /// Until when this process tells a webhook, if nothing renews that.
    fn until(&self) -> domain::UnixMillis {
        now().plus(self.config.timeout + MARGIN)
    }

    /// Tells one webhook what is due, until there is nothing, one is not taken, or others should have a turn.
    async fn turn(&self, webhook: Webhook, holder: InstanceId, ends: &CancellationToken) {
        let id = webhook.id;
        if let Err(error) = self.tell_all(webhook, holder, ends).await {
            tracing::warn!(webhook = %id, error = telemetry::incident::chain(&error), "a webhook waits");
            // Until its lease runs out: whoever took it at once would fail again.
            return;
        }
        if let Err(error) = self.store.release_webhook(id, holder).await {
            tracing::debug!(webhook = %id, error = telemetry::incident::chain(&error), "its lease has to run out");
        }
    }

    async fn tell_all(
        &self,
        webhook: Webhook,
        holder: InstanceId,
        ends: &CancellationToken,
    ) -> Result<(), store::Error> {
        let held = || Held { id: webhook.id, holder, revision: webhook.revision, until: self.until() };
        let filter = Filter {
            kinds: webhook.terms.kinds.clone(),
            networks: webhook.terms.networks.clone(),
            accounts: webhook.terms.accounts.clone(),
            clients: Vec::new(),
        };
        let page = self.store.due_deliveries(webhook.id, webhook.place, PAGE).await?;
        // What was forgotten before its turn: some of it may not have been wanted.
        let missed = page.oldest.saturating_sub(webhook.place + 1);
        if missed > 0 && !self.store.pass_webhook(held(), page.oldest - 1, missed).await? {
            return Ok(());
        }
        // What is told is passed when it is settled; this is for what nobody wants.
        let (mut passed, mut whole) = (webhook.place, true);
        for due in page.due {
            match &due {
                Due::Event { event, .. } if !filter.wants(&event.event) => {
                    passed = event.sequence;
                    continue;
                }
                Due::Event { .. } | Due::Again { .. } => {}
            }
            let tried = if ends.is_cancelled() { None } else { self.tell(&webhook, due, ends).await };
            let Some(tried) = tried else {
                whole = false;
                break;
            };
            if !self.store.settle_delivery(held(), tried).await? {
                return Ok(());
            }
        }
        self.store.pass_webhook(held(), if whole { page.place } else { passed }, 0).await.map(drop)
    }

    /// Tells it one event, and decides what follows. `None`: the process leaves, and nobody knows.
    async fn tell(&self, webhook: &Webhook, due: Due, ends: &CancellationToken) -> Option<Tried> {
        let (sequence, event, kind, body, tries, again) = match due {
            Due::Event { event, tries } => {
                (event.sequence, event.event.id, event.event.kind, body(event), tries, false)
            }
            Due::Again { sequence, event, kind, body, tries } => (sequence, event, kind, body, tries, true),
        };
        let sent = self.send(webhook, event, &body);
        let said = tokio::select! {
            said = sent => said,
            () = async { ends.cancelled().await; tokio::time::sleep(FAREWELL).await } => return None,
        };
        let (at, tries) = (now(), tries + 1);
        let then = if said.taken() {
            Then::Taken
        } else if tries >= self.config.tries.max(1) {
            Then::GiveUp
        } else {
            Then::TryAgain { due: at.plus(pause(&self.config, tries, crate::random_number())) }
        };
        self.metrics.delivery(match then {
            Then::Taken => Delivery::Taken,
            Then::TryAgain { .. } => Delivery::Again,
            Then::GiveUp => Delivery::GivenUp,
        });
        tracing::debug!(webhook = %webhook.id, %event, tries, reason = said.reason, "a webhook was told");
        let Said { status, reason } = said;
        let patience = self.config.patience;
        Some(Tried { sequence, event, kind, body, tries, status, reason, at, then, again, patience })
    }

    /// Sends one event, now.
    pub(crate) async fn send(&self, webhook: &Webhook, event: domain::EventId, body: &str) -> Said {
        let Ok(url) = Url::parse(&webhook.terms.url) else { return Said { status: None, reason: "not-asked" } };
        let at = now();
        let (id, time) = (event.to_string(), (at.0 / 1_000).to_string());
        let signatures = self.key.signatures(webhook, event, at, body);
        let headers = [("webhook-id", &*id), ("webhook-timestamp", &*time), ("webhook-signature", &*signatures)];
        let deadline = self.config.timeout;
        let body = Some(("application/json", body));
        let request = Request { url: &url, whom: self.whom(), deadline, headers: &headers, body };
        // The deadline is that of the request; this one is for what a name's look-up does beyond it.
        let answered = timeout(deadline + Duration::from_secs(1), self.fetcher.status(&request)).await;
        match answered.unwrap_or(Err(outbound::FetchError::TimedOut)) {
            Ok(status @ 200..=299) => Said { status: Some(status), reason: "" },
            Ok(status) => Said { status: Some(status), reason: reason_of(status) },
            Err(error) => Said { status: None, reason: reason(&error) },
        }
    }

    /// Sends an event that never happened.
    pub(crate) async fn test(&self, webhook: &Webhook) -> (domain::EventId, Said) {
        let event: Happening = crate::events::of(EventKind::WebhookTest);
        let body = body(Numbered { sequence: 0, event });
        (event.id, self.send(webhook, event.id, &body).await)
    }
}

/// Who tells a webhook for one turn: a turn that lost its lease is nobody to the next one, also of the same process.
fn draw() -> InstanceId {
    let mut drawn = [0; 16];
    drawn[..8].copy_from_slice(&crate::random_number().to_be_bytes());
    drawn[8..].copy_from_slice(&crate::random_number().to_be_bytes());
    InstanceId::from_bytes(drawn)
}

fn body(event: Numbered) -> String {
    serde_json::to_string(&Event::from(event)).unwrap_or_default()
}
