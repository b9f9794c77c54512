//! Consuming: on every connection anew, with handlers that outlive it.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _};
use lapin::{
    Channel, Consumer,
    message::Delivery,
    options::{
        BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions,
        QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    link::{CONNECT_DEADLINE, Current, Link},
    names::{Names, addressed_queue, call_queue, everyone_queue},
};
use crate::{
    Error, Served,
    envelope::{Answer, Message, Outcome},
    served::{Server, Subscriber, Verdict, drain, report, rest_before},
};

/// After a consumer could not be made on a connection that lives.
const RETRY: Duration = Duration::from_millis(500);

/// What is consumed, and by whom.
#[derive(Clone)]
pub(super) enum Source {
    Calls { subject: &'static str, server: Server },
    Work { topic: &'static str, subscriber: Subscriber },
    Everyone { topic: &'static str, instance: String, subscriber: Subscriber },
    Addressed { topic: &'static str, instance: String, subscriber: Subscriber },
}

/// A consumer on one connection.
struct Tap {
    link: Arc<Link>,
    channel: Channel,
    consumer: Consumer,
    /// A queue that ends with this consumer.
    own_queue: Option<String>,
}

/// Consumes `source` until the guard is stopped or dropped; returns when the first consumer is there.
pub(super) async fn consume(
    names: Names,
    current: Current,
    source: Source,
    concurrency: usize,
) -> Result<Served, Error> {
    let (ready, mut is_ready) = watch::channel(false);
    let served = Served::run(|stopped| run(names, current, source, concurrency, ready, stopped));
    match timeout_at(Instant::now() + CONNECT_DEADLINE, is_ready.wait_for(|ready| *ready)).await {
        Ok(Ok(_)) => Ok(served),
        Ok(Err(_)) | Err(_) => Err(Error::Unavailable),
    }
}

async fn run(
    names: Names,
    mut current: Current,
    source: Source,
    concurrency: usize,
    ready: watch::Sender<bool>,
    stopped: CancellationToken,
) {
    let mut running = JoinSet::new();
    loop {
        let tapped = async {
            let Ok(link) = current.wait_for(Option::is_some).await.map(|link| link.clone()) else {
                return std::future::pending().await;
            };
            let link = link?;
            match source.tap(&names, link, concurrency).await {
                Ok(tap) => Some(tap),
                Err(error) => {
                    tracing::warn!(%error, name = source.name(), "no consumer");
                    None
                }
            }
        };
        let tap = tokio::select! {
            biased;
            () = stopped.cancelled() => break,
            Some(ended) = running.join_next() => { report(ended); continue }
            tap = tapped => tap,
        };
        let Some(mut tap) = tap else {
            tokio::select! {
                () = stopped.cancelled() => break,
                () = tokio::time::sleep(RETRY) => continue,
            }
        };
        ready.send_replace(true);
        if tap.flow(&source, concurrency, &stopped, &mut running).await == Ended::Stopped {
            tap.close(&source, &mut running).await;
            break;
        }
    }
    drain(running).await;
}

/// Why a consumer takes no more.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Stopped,
    Lost,
}

impl Tap {
    async fn flow(
        &mut self,
        source: &Source,
        concurrency: usize,
        stopped: &CancellationToken,
        running: &mut JoinSet<()>,
    ) -> Ended {
        loop {
            tokio::select! {
                biased;
                () = stopped.cancelled() => return Ended::Stopped,
                Some(ended) = running.join_next() => report(ended),
                () = self.link.gone() => return Ended::Lost,
                delivered = self.consumer.next(), if running.len() < concurrency => match delivered {
                    Some(Ok(delivery)) => {
                        running.spawn(source.handle(Arc::clone(&self.link), delivery));
                    }
                    Some(Err(error)) => {
                        tracing::debug!(%error, name = source.name(), "the consumer ended");
                        return Ended::Lost;
                    }
                    // Cancelled by the broker, as when the queue was deleted or moved.
                    None => return Ended::Lost,
                }
            }
        }
    }

    /// Takes no more, and begins what was delivered already. The broker delivers at most as many as run at a time.
    async fn close(mut self, source: &Source, running: &mut JoinSet<()>) {
        let cancelled = self.channel.basic_cancel(self.consumer.tag(), BasicCancelOptions::default()).await;
        while let Some(Some(Ok(delivery))) = self.consumer.next().now_or_never() {
            running.spawn(source.handle(Arc::clone(&self.link), delivery));
        }
        let deleted = match self.own_queue.take() {
            Some(queue) => self.channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.map(|_| ()),
            None => Ok(()),
        };
        if let Err(error) = cancelled.and(deleted) {
            // The queue goes with the connection then.
            tracing::debug!(%error, name = source.name(), "the consumer was not cancelled");
        }
        // The channel must outlive the acknowledgements of what still runs.
        while let Some(ended) = running.join_next().await {
            report(ended);
        }
    }
}

impl Source {
    fn name(&self) -> &'static str {
        match self {
            Self::Calls { subject, .. } => subject,
            Self::Work { topic, .. } | Self::Everyone { topic, .. } | Self::Addressed { topic, .. } => topic,
        }
    }

    /// Makes the queue and a consumer of it.
    async fn tap(&self, names: &Names, link: Arc<Link>, concurrency: usize) -> lapin::Result<Tap> {
        let channel = link.connection.create_channel().await?;
        let prefetch = u16::try_from(concurrency).unwrap_or(u16::MAX);
        channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
        let (queue, own_queue) = match self {
            Self::Calls { subject, .. } => {
                let queue = names.calls(subject);
                channel.queue_declare(queue.as_str().into(), QueueDeclareOptions::durable(), call_queue()).await?;
                (queue, None)
            }
            Self::Work { topic, .. } => {
                link.declare_work(names, topic).await?;
                (names.work(topic), None)
            }
            Self::Everyone { topic, instance, .. } => {
                let queue = names.own(&format!("everyone.{topic}"), instance);
                bind(&channel, &queue, everyone_queue(), names.everyone(), (*topic).to_owned()).await?;
                (queue.clone(), Some(queue))
            }
            Self::Addressed { topic, instance, .. } => {
                let queue = names.own(&format!("addressed.{topic}"), instance);
                bind(&channel, &queue, addressed_queue(), names.addressed(), format!("{topic}.{instance}")).await?;
                (queue.clone(), Some(queue))
            }
        };
        let consumer = channel
            .basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
            .await?;
        Ok(Tap { link, channel, consumer, own_queue })
    }

    fn handle(&self, link: Arc<Link>, delivery: Delivery) -> impl Future<Output = ()> + Send + 'static {
        let source = self.clone();
        async move {
            let settled = match source {
                Self::Calls { subject, server } => serve(subject, &server, &link, &delivery).await,
                Self::Work { topic, subscriber } => perform(topic, &subscriber, &delivery).await,
                Self::Everyone { topic, subscriber, .. } | Self::Addressed { topic, subscriber, .. } => {
                    hear(topic, &subscriber, &delivery).await
                }
            };
            if let Err(error) = settled {
                tracing::debug!(%error, "a delivery was settled too late: the connection is lost");
            }
        }
    }
}

async fn bind(
    channel: &Channel,
    queue: &str,
    arguments: FieldTable,
    exchange: String,
    key: String,
) -> lapin::Result<()> {
    channel.queue_declare(queue.into(), QueueDeclareOptions::exclusive(), arguments).await?;
    channel
        .queue_bind(queue.into(), exchange.into(), key.into(), QueueBindOptions::default(), FieldTable::default())
        .await
}

/// Serves a call, answers it and lets the broker forget it.
async fn serve(subject: &'static str, server: &Server, link: &Link, delivery: &Delivery) -> lapin::Result<()> {
    let Ok(message) = Message::decode(subject, &delivery.data) else {
        tracing::warn!(subject, "a malformed call was dropped");
        return delivery.acker.ack(BasicAckOptions::default()).await.map(|_| ());
    };
    let (id, caller) = (message.id, message.reply_to.clone());
    // Another process began it and was lost: calls are served at most once.
    let outcome = if delivery.redelivered { Outcome::Unserved } else { server(message).await };
    if let Some(caller) = caller {
        link.answer(&caller, Answer { id, outcome }).await?;
    }
    delivery.acker.ack(BasicAckOptions::default()).await.map(|_| ())
}

/// Does a piece of work and tells the broker what became of it.
async fn perform(topic: &'static str, subscriber: &Subscriber, delivery: &Delivery) -> lapin::Result<()> {
    let verdict = match Message::decode(topic, &delivery.data) {
        Ok(message) => subscriber(message).await,
        Err(_) => Verdict::Park,
    };
    match verdict {
        Verdict::Done => delivery.acker.ack(BasicAckOptions::default()).await?,
        // `reject`, not `nack`: only that counts towards the delivery limit from RabbitMQ 4.3 on.
        Verdict::Again => {
            tokio::time::sleep(rest_before(deliveries_before(delivery) + 2)).await;
            delivery.acker.reject(BasicRejectOptions { requeue: true }).await?
        }
        Verdict::Park => {
            tracing::warn!(topic, "an event was parked");
            delivery.acker.reject(BasicRejectOptions { requeue: false }).await?
        }
    };
    Ok(())
}

/// Hands on an event that comes once.
async fn hear(topic: &'static str, subscriber: &Subscriber, delivery: &Delivery) -> lapin::Result<()> {
    match Message::decode(topic, &delivery.data) {
        Ok(message) => {
            subscriber(message).await;
        }
        Err(error) => tracing::warn!(topic, %error, "an event was dropped"),
    }
    delivery.acker.ack(BasicAckOptions::default()).await.map(|_| ())
}

/// How often the broker delivered this before, as a quorum queue counts it.
fn deliveries_before(delivery: &Delivery) -> u32 {
    let headers = delivery.properties.headers().as_ref();
    match headers.and_then(|headers| headers.inner().get("x-delivery-count")) {
        Some(AMQPValue::LongLongInt(count)) => u32::try_from(*count).unwrap_or(u32::MAX - 2),
        Some(_) | None => 0,
    }
}
