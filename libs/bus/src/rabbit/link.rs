//! One connection to the broker and what this process publishes on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer, ExchangeKind,
    options::{
        BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueDeclareOptions,
    },
    types::FieldTable,
    uri::AMQPUri,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::names::{Names, answer_queue, parked_queue, work_queue};
use crate::{
    envelope::{Answer, Outcome},
    error::NotCalled,
};

/// How long the broker has for a new connection and everything on it.
pub(super) const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// A broker that is silent for twice this long is gone.
const HEARTBEAT_SECONDS: u16 = 5;
/// Messages that wait to be written. When full, publishers wait until their deadline.
const OUTBOX: usize = 1_024;
/// Messages that wait for the broker's confirm. When full, no more are written.
const UNCONFIRMED: usize = 1_024;
/// Calls of this process that wait for an answer. When full, a caller is told at once that nobody can answer.
const CALLS_IN_FLIGHT: usize = 4_096;
/// How long a lost connection has to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// A connection that worked once. Shared by everybody who publishes or consumes in this process.
pub(super) struct Link {
    pub(super) connection: Connection,
    /// For answers, which nobody confirms: a lost one is a call that timed out.
    answers: Channel,
    answer_queue: String,
    outbox: mpsc::Sender<Posted>,
    waiting: Arc<Waiting>,
    /// Work queues that were declared on this connection; bounded by the number of event types.
    declared: Mutex<BTreeSet<String>>,
    gone: CancellationToken,
}

/// What the supervisor drives while the connection lives.
pub(super) struct Engine {
    publisher: Channel,
    outbox: mpsc::Receiver<Posted>,
    answered: Consumer,
    waiting: Arc<Waiting>,
}

/// A message for the broker.
#[derive(Clone)]
pub(super) struct Outgoing {
    pub(super) exchange: String,
    pub(super) key: String,
    /// Whether it is worth something to know that no queue took it.
    pub(super) mandatory: bool,
    pub(super) payload: Vec<u8>,
    pub(super) properties: BasicProperties,
    /// When nobody waits for it any more. The broker's clock for it starts when it arrives, so a call may begin as late as
    /// its way to the broker took; what it waited for here does not count twice.
    pub(super) expires: Option<Instant>,
}

/// What the broker says about a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receipt {
    Confirmed,
    Unroutable,
    Rejected,
}

/// The connection ended before the broker said anything, or there was no time left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unconfirmed;

/// Calls of this process that wait for their answer, by id.
#[derive(Default)]
struct Waiting {
    calls: Mutex<BTreeMap<[u8; 16], oneshot::Sender<Outcome>>>,
}

/// A place among the waiting calls.
pub(super) struct Expected {
    waiting: Arc<Waiting>,
    id: [u8; 16],
    outcome: oneshot::Receiver<Outcome>,
}

type Posted = (Outgoing, oneshot::Sender<Receipt>);

impl Link {
    /// Connects and makes what every process needs.
    pub(super) async fn open(
        uri: &AMQPUri,
        role: &str,
        instance: &str,
        names: &Names,
    ) -> lapin::Result<(Self, Engine)> {
        let mut uri = uri.clone();
        uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
        let properties = ConnectionProperties::default().with_connection_name(format!("{role} {instance}").into());
        let connection = Connection::connect_uri(uri, properties).await?;
        let publisher = connection.create_channel().await?;
        publisher.confirm_select(ConfirmSelectOptions::default()).await?;
        for exchange in [names.everyone(), names.addressed()] {
            let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
            publisher.exchange_declare(exchange.into(), ExchangeKind::Direct, durable, FieldTable::default()).await?;
        }
        let answers = connection.create_channel().await?;
        let queue = names.own("answers", instance);
        answers.queue_declare(queue.as_str().into(), QueueDeclareOptions::exclusive(), answer_queue()).await?;
        let unacknowledged = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let answered =
            answers.basic_consume(queue.as_str().into(), "".into(), unacknowledged, FieldTable::default()).await?;
        let (outbox, posted) = mpsc::channel(OUTBOX);
        let waiting = Arc::<Waiting>::default();
        let link = Self {
            connection,
            answers,
            answer_queue: queue,
            outbox,
            waiting: Arc::clone(&waiting),
            declared: Mutex::default(),
            gone: CancellationToken::new(),
        };
        Ok((link, Engine { publisher, outbox: posted, answered, waiting }))
    }

    /// Publishes, and waits for what the broker says about it.
    pub(super) async fn publish(&self, outgoing: Outgoing, deadline: Instant) -> Result<Receipt, Unconfirmed> {
        let (said, receipt) = oneshot::channel();
        let published = async {
            self.outbox.send((outgoing, said)).await.map_err(|_| Unconfirmed)?;
            receipt.await.map_err(|_| Unconfirmed)
        };
        tokio::select! {
            receipt = timeout_at(deadline, published) => receipt.unwrap_or(Err(Unconfirmed)),
            () = self.gone.cancelled() => Err(Unconfirmed),
        }
    }

    /// Makes the queue of a kind of work, and the one it is parked in.
    pub(super) async fn declare_work(&self, names: &Names, topic: &str) -> lapin::Result<()> {
        if self.declared().contains(topic) {
            return Ok(());
        }
        // A channel of its own: the broker closes it when the queue exists with other arguments.
        let channel = self.connection.create_channel().await?;
        let (work, parked) = (names.work(topic), names.parked(topic));
        channel.queue_declare(parked.as_str().into(), QueueDeclareOptions::durable(), parked_queue()).await?;
        channel.queue_declare(work.into(), QueueDeclareOptions::durable(), work_queue(&parked)).await?;
        self.declared().insert(topic.to_owned());
        Ok(())
    }

    /// Where answers to calls of this process go.
    pub(super) fn answer_queue(&self) -> &str {
        &self.answer_queue
    }

    /// Takes a place among the waiting calls; `None` when there is none left.
    pub(super) fn expect(&self, id: [u8; 16]) -> Option<Expected> {
        let (answer, outcome) = oneshot::channel();
        let mut calls = self.waiting.lock();
        if calls.len() >= CALLS_IN_FLIGHT {
            return None;
        }
        calls.insert(id, answer);
        drop(calls);
        Some(Expected { waiting: Arc::clone(&self.waiting), id, outcome })
    }

    /// Sends an answer to the queue of its caller.
    pub(super) async fn answer(&self, queue: &str, answer: Answer) -> lapin::Result<()> {
        let bytes = answer.encode();
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        self.answers.basic_publish("".into(), queue.into(), options, &bytes, properties).await?;
        Ok(())
    }

    /// Whether the broker has stopped taking messages for want of memory or disk.
    pub(super) fn blocked(&self) -> bool {
        self.connection.status().blocked()
    }

    /// Ends when the connection is lost.
    pub(super) async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Tells everybody who uses the connection that it is lost, and says goodbye to the broker.
    pub(super) async fn end(&self) {
        self.gone.cancel();
        self.waiting.lock().clear();
        let goodbye = self.connection.close(200, "".into());
        if !matches!(timeout(GOODBYE, goodbye).await, Ok(Ok(()))) {
            tracing::debug!("the connection ended without a goodbye");
        }
    }

    fn declared(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.declared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("answer_queue", &self.answer_queue).finish_non_exhaustive()
    }
}

impl Engine {
    /// Publishes what is posted and hands out answers, until the connection is lost.
    ///
    /// One task publishes, because confirms are matched to messages by their order; it owns them, because the client crate
    /// keeps confirms whose callers went away.
    pub(super) async fn run(&mut self) {
        let mut unconfirmed = FuturesUnordered::new();
        loop {
            tokio::select! {
                answer = self.answered.next() => match answer {
                    Some(Ok(delivery)) => self.waiting.resolve(&delivery.data),
                    Some(Err(error)) => {
                        tracing::debug!(error = &error as &dyn std::error::Error, "the answers ended");
                        return;
                    }
                    None => return,
                },
                Some(published) = unconfirmed.next() => {
                    if let Err(error) = published {
                        let error: lapin::Error = error;
                        tracing::debug!(error = &error as &dyn std::error::Error, "a publication failed");
                        return;
                    }
                }
                Some(posted) = self.outbox.recv(), if unconfirmed.len() < UNCONFIRMED => {
                    unconfirmed.push(publish(self.publisher.clone(), posted).boxed());
                }
            }
        }
    }
}

impl Outgoing {
    /// What is written at `now`, with the time that is left; `None` when there is none.
    fn at(mut self, now: Instant) -> Option<Self> {
        if let Some(expires) = self.expires {
            let left = expires.checked_duration_since(now).filter(|left| !left.is_zero())?;
            self.properties = self.properties.with_expiration(left.as_millis().to_string().into());
        }
        Some(self)
    }
}

async fn publish(channel: Channel, (outgoing, said): Posted) -> lapin::Result<()> {
    // Its caller has given up, and learns so from its own clock.
    let Some(outgoing) = outgoing.at(Instant::now()) else { return Ok(()) };
    let options = BasicPublishOptions { mandatory: outgoing.mandatory, ..BasicPublishOptions::default() };
    let (exchange, key) = (outgoing.exchange.into(), outgoing.key.into());
    let confirmation =
        channel.basic_publish(exchange, key, options, &outgoing.payload, outgoing.properties).await?.await?;
    let receipt = match confirmation {
        // The broker acknowledges what it returns.
        Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => Receipt::Unroutable,
        Confirmation::Ack(None) | Confirmation::NotRequested => Receipt::Confirmed,
        Confirmation::Nack(None) => Receipt::Rejected,
    };
    // The publisher may have given up.
    let _ = said.send(receipt);
    Ok(())
}

impl Waiting {
    fn resolve(&self, bytes: &[u8]) {
        match Answer::decode(bytes) {
            Ok(answer) => {
                // A late answer has no caller any more.
                if let Some(caller) = self.lock().remove(&answer.id) {
                    let _ = caller.send(answer.outcome);
                }
            }
            Err(error) => tracing::warn!(%error, "an answer was dropped"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<[u8; 16], oneshot::Sender<Outcome>>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Expected {
    /// The answer, when it comes in time.
    pub(super) async fn before(mut self, deadline: Instant) -> Result<Outcome, NotCalled> {
        match timeout_at(deadline, &mut self.outcome).await {
            Ok(Ok(outcome)) => Ok(outcome),
            Ok(Err(_)) => Err(NotCalled::Unavailable),
            Err(_) => Err(NotCalled::TimedOut),
        }
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.waiting.lock().remove(&self.id);
    }
}

/// The link of the moment.
pub(super) type Current = watch::Receiver<Option<Arc<Link>>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_written_with_the_time_that_is_left() {
        let began = Instant::now();
        let call = Outgoing {
            exchange: String::new(),
            key: "calls".to_owned(),
            mandatory: true,
            payload: Vec::new(),
            properties: BasicProperties::default(),
            expires: Some(began + Duration::from_secs(2)),
        };
        let left = |waited| {
            let written = call.clone().at(began + Duration::from_millis(waited));
            written.map(|written| written.properties.expiration().as_ref().map(ToString::to_string))
        };
        assert_eq!(left(0), Some(Some("2000".to_owned())));
        assert_eq!(left(1_900), Some(Some("100".to_owned())));
        assert_eq!(left(2_000), None);
        assert_eq!(left(60_000), None);
    }
}
