//! The bus within one process. Strict: every message is encoded, has a deadline or a place in a bounded queue.

mod faults;
mod queue;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use self::{
    faults::Fate,
    queue::{Place, Queue},
};
use crate::{
    Delivery, Error, Metrics, Served,
    envelope::{Answer, Message, Outcome},
    error::NotCalled,
    metrics::Connected,
    served::{MAX_DELIVERIES, Server, Subscriber, Verdict, drain, report, rest_before},
};

pub use self::faults::Faults;

/// Calls that wait for a server. When full the caller is told at once that nobody can answer.
const CALLS_WAITING: usize = 1_000;
/// Work that waits for a subscriber. When full the publisher is told.
const WORK_WAITING: usize = 10_000;
/// Events that wait for one subscription to Everyone. When full the oldest one is dropped: they are hints.
const HINTS_WAITING: usize = 10_000;
/// Events that wait for one addressed subscription. When full the publisher is told.
const ADDRESSED_WAITING: usize = 10_000;
/// Work that was given up. When full the oldest one is dropped.
const PARKED: usize = 1_000;

/// What the processes on one bus share: the broker, so to speak. Clones are the same hub.
#[derive(Clone, Debug)]
pub struct Hub {
    broker: Arc<Broker>,
}

/// One process on a hub.
#[derive(Clone, Debug)]
pub struct Memory {
    broker: Arc<Broker>,
    instance: Arc<str>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Broker {
    fate: Fate,
    doors: Mutex<Doors>,
    up: watch::Sender<bool>,
    recovered: watch::Sender<u64>,
}

/// Bounded by the number of call and event types, and of live subscriptions. What waits is bounded per queue.
#[derive(Debug, Default)]
struct Doors {
    calls: BTreeMap<String, Arc<Queue<Request>>>,
    work: BTreeMap<String, Arc<Work>>,
    /// By topic, or by topic and instance.
    events: BTreeMap<String, Vec<Arc<Queue<Vec<u8>>>>>,
}

#[derive(Debug)]
struct Request {
    bytes: Vec<u8>,
    expires: Instant,
    answer: oneshot::Sender<Vec<u8>>,
}

#[derive(Debug)]
struct Work {
    waiting: Queue<Job>,
    parked: Mutex<VecDeque<Vec<u8>>>,
}

#[derive(Debug)]
struct Job {
    bytes: Vec<u8>,
    /// Deliveries that began.
    deliveries: u32,
}

impl Default for Hub {
    /// A hub without faults.
    fn default() -> Self {
        Self::new(Faults::default())
    }
}

impl Hub {
    /// A hub that does `faults` to messages.
    #[must_use]
    pub fn new(faults: Faults) -> Self {
        Self {
            broker: Arc::new(Broker {
                fate: Fate::new(faults),
                doors: Mutex::default(),
                up: watch::Sender::new(true),
                recovered: watch::Sender::new(0),
            }),
        }
    }

    /// Begins a gap: as if the broker restarted, calls fail at once and publishers wait. Queues keep what they have.
    pub fn interrupt(&self) {
        self.broker.up.send_replace(false);
    }

    /// Ends a gap.
    pub fn restore(&self) {
        if !self.broker.up.send_replace(true) {
            self.broker.recovered.send_modify(|times| *times += 1);
        }
    }
}

impl Memory {
    pub(crate) fn new(hub: &Hub, instance: String) -> Self {
        let metrics = Metrics::new();
        metrics.connected(Connected::Yes);
        Self { broker: Arc::clone(&hub.broker), instance: instance.into(), metrics: Arc::new(metrics) }
    }

    pub(crate) async fn call(&self, message: Message, expires: Instant) -> Result<Outcome, NotCalled> {
        let bytes = message.encode()?;
        self.ping()?;
        let queue = self.broker.doors().calls.get(&message.subject).map(Arc::clone).ok_or(NotCalled::Unavailable)?;
        let (answer, answered) = oneshot::channel();
        if self.broker.fate.loses() {
            tokio::time::sleep_until(expires).await;
            return Err(NotCalled::TimedOut);
        }
        let request = Request { bytes, expires, answer };
        queue.push(request, self.broker.fate.place()).map_err(|_| NotCalled::Unavailable)?;
        let bytes = match timeout_at(expires, answered).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(_)) => return Err(NotCalled::Unavailable),
            Err(_) => return Err(NotCalled::TimedOut),
        };
        if self.broker.fate.loses() {
            tokio::time::sleep_until(expires).await;
            return Err(NotCalled::TimedOut);
        }
        // An answer that cannot be read is one that its sender and we disagree about.
        Ok(Answer::decode(&bytes).map_or(Outcome::Malformed, |answer| answer.outcome))
    }

    pub(crate) fn serve(&self, subject: &'static str, concurrency: usize, server: Server) -> Served {
        let queue = Arc::clone(
            self.broker.doors().calls.entry(subject.to_owned()).or_insert_with(|| Arc::new(Queue::new(CALLS_WAITING))),
        );
        Served::run(|stopped| async move {
            let handle = |request| answer(subject, request, Arc::clone(&server));
            drain(pump(&queue, concurrency, &stopped, handle).await).await;
        })
    }

    pub(crate) async fn publish_work(&self, message: Message, deadline: Instant) -> Result<(), Error> {
        let bytes = message.encode()?;
        self.up_before(deadline).await?;
        if self.broker.fate.loses() {
            return Err(Error::Unavailable);
        }
        let work = self.work(&message.subject);
        for _ in 0..self.broker.fate.copies() {
            let job = Job { bytes: bytes.clone(), deliveries: 0 };
            work.waiting.push(job, self.broker.fate.place()).map_err(|_| Error::Full)?;
        }
        Ok(())
    }

    pub(crate) async fn publish_all(&self, message: Message, deadline: Instant) -> Result<(), Error> {
        let bytes = message.encode()?;
        self.up_before(deadline).await?;
        for queue in self.broker.subscribed(&message.subject) {
            if !self.broker.fate.loses() {
                for _ in 0..self.broker.fate.copies() {
                    queue.push_out(bytes.clone(), self.broker.fate.place());
                }
            }
        }
        Ok(())
    }

    pub(crate) async fn publish_to(&self, to: &str, message: Message, deadline: Instant) -> Result<(), Error> {
        let bytes = message.encode()?;
        self.up_before(deadline).await?;
        let queues = self.broker.subscribed(&addressed(&message.subject, to));
        if queues.is_empty() {
            return Err(Error::Unroutable);
        }
        for queue in queues {
            if !self.broker.fate.loses() {
                for _ in 0..self.broker.fate.copies() {
                    queue.push(bytes.clone(), self.broker.fate.place()).map_err(|_| Error::Full)?;
                }
            }
        }
        Ok(())
    }

    pub(crate) fn subscribe(
        &self,
        topic: &'static str,
        delivery: Delivery,
        concurrency: usize,
        subscriber: Subscriber,
    ) -> Served {
        match delivery {
            Delivery::Work => self.subscribe_work(topic, concurrency, subscriber),
            Delivery::Everyone => {
                let queue = Arc::new(Queue::new(HINTS_WAITING));
                self.subscribe_events(topic, topic.to_owned(), queue, concurrency, subscriber)
            }
            Delivery::Addressed => {
                let queue = Arc::new(Queue::new(ADDRESSED_WAITING));
                self.subscribe_events(topic, addressed(topic, &self.instance), queue, concurrency, subscriber)
            }
        }
    }

    pub(crate) fn parked(&self, topic: &str) -> u64 {
        self.work(topic).parked().len() as u64
    }

    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    pub(crate) fn recovered(&self) -> watch::Receiver<u64> {
        self.broker.recovered.subscribe()
    }

    pub(crate) fn ping(&self) -> Result<(), Error> {
        if *self.broker.up.borrow() { Ok(()) } else { Err(Error::Unavailable) }
    }

    async fn up_before(&self, deadline: Instant) -> Result<(), Error> {
        let mut up = self.broker.up.subscribe();
        match timeout_at(deadline, up.wait_for(|up| *up)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Error::Unavailable),
        }
    }

    fn work(&self, topic: &str) -> Arc<Work> {
        Arc::clone(self.broker.doors().work.entry(topic.to_owned()).or_insert_with(|| Arc::new(Work::new())))
    }

    fn subscribe_work(&self, topic: &'static str, concurrency: usize, subscriber: Subscriber) -> Served {
        let work = self.work(topic);
        Served::run(|stopped| async move {
            let handle = |job| perform(topic, Unsettled::new(&work, job), Arc::clone(&subscriber));
            drain(pump(&work.waiting, concurrency, &stopped, handle).await).await;
        })
    }

    fn subscribe_events(
        &self,
        topic: &'static str,
        door: String,
        queue: Arc<Queue<Vec<u8>>>,
        concurrency: usize,
        subscriber: Subscriber,
    ) -> Served {
        let subscription = Subscription::new(&self.broker, door, queue);
        Served::run(|stopped| async move {
            let handle = |bytes| hear(topic, bytes, Arc::clone(&subscriber));
            let running = pump(&subscription.queue, concurrency, &stopped, handle).await;
            drop(subscription);
            drain(running).await;
        })
    }
}

/// An instance's own door to a topic.
fn addressed(topic: &str, instance: &str) -> String {
    format!("{topic}.{instance}")
}

/// Has `handle` see what comes out of `queue` until `stopped`, and leaves the handlers that still run.
async fn pump<T, F: Future<Output = ()> + Send + 'static>(
    queue: &Queue<T>,
    concurrency: usize,
    stopped: &CancellationToken,
    handle: impl Fn(T) -> F,
) -> JoinSet<()> {
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stopped.cancelled() => return running,
            Some(ended) = running.join_next() => report(ended),
            item = queue.pop(), if running.len() < concurrency => {
                running.spawn(handle(item));
            }
        }
    }
}

async fn answer(subject: &'static str, request: Request, server: Server) {
    if request.expires <= Instant::now() {
        return;
    }
    let Ok(message) = Message::decode(subject, &request.bytes) else { return };
    let id = message.id;
    let outcome = server(message).await;
    // A caller that waits no more needs no answer.
    let _ = request.answer.send(Answer { id, outcome }.encode());
}

async fn hear(topic: &'static str, bytes: Vec<u8>, subscriber: Subscriber) {
    match Message::decode(topic, &bytes) {
        Ok(message) => {
            subscriber(message).await;
        }
        Err(error) => tracing::warn!(topic, %error, "an event was dropped"),
    }
}

async fn perform(topic: &'static str, mut unsettled: Unsettled, subscriber: Subscriber) {
    let verdict = match Message::decode(topic, unsettled.bytes()) {
        Ok(message) => subscriber(message).await,
        Err(_) => Verdict::Park,
    };
    unsettled.settle(verdict);
}

impl Broker {
    fn doors(&self) -> MutexGuard<'_, Doors> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn subscribed(&self, door: &str) -> Vec<Arc<Queue<Vec<u8>>>> {
        self.doors().events.get(door).cloned().unwrap_or_default()
    }
}

impl Work {
    fn new() -> Self {
        Self { waiting: Queue::new(WORK_WAITING), parked: Mutex::default() }
    }

    fn parked(&self) -> MutexGuard<'_, VecDeque<Vec<u8>>> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn park(&self, bytes: Vec<u8>) {
        let mut parked = self.parked();
        if parked.len() >= PARKED {
            parked.pop_front();
        }
        parked.push_back(bytes);
    }
}

/// A job at work. Dropped without a verdict it goes back: its handler was ended.
struct Unsettled {
    work: Arc<Work>,
    job: Option<Job>,
}

impl Unsettled {
    fn new(work: &Arc<Work>, job: Job) -> Self {
        Self { work: Arc::clone(work), job: Some(Job { deliveries: job.deliveries + 1, ..job }) }
    }

    fn bytes(&self) -> &[u8] {
        self.job.as_ref().map_or(&[], |job| &job.bytes)
    }

    fn settle(&mut self, verdict: Verdict) {
        let Some(job) = self.job.take() else { return };
        match verdict {
            Verdict::Done => {}
            Verdict::Park => self.work.park(job.bytes),
            Verdict::Again if job.deliveries >= MAX_DELIVERIES => {
                tracing::warn!(deliveries = job.deliveries, "an event was parked");
                self.work.park(job.bytes);
            }
            Verdict::Again => {
                let place = Place { due: Instant::now() + rest_before(job.deliveries + 1), ahead_of: 0 };
                let bytes = job.bytes.clone();
                if self.work.waiting.push(job, place).is_err() {
                    self.work.park(bytes);
                }
            }
        }
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        self.settle(Verdict::Again);
    }
}

/// A queue that takes events of a door for as long as this lives.
struct Subscription {
    broker: Arc<Broker>,
    door: String,
    queue: Arc<Queue<Vec<u8>>>,
}

impl Subscription {
    fn new(broker: &Arc<Broker>, door: String, queue: Arc<Queue<Vec<u8>>>) -> Self {
        broker.doors().events.entry(door.clone()).or_default().push(Arc::clone(&queue));
        Self { broker: Arc::clone(broker), door, queue }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut doors = self.broker.doors();
        if let Some(queues) = doors.events.get_mut(&self.door) {
            queues.retain(|queue| !Arc::ptr_eq(queue, &self.queue));
            if queues.is_empty() {
                doors.events.remove(&self.door);
            }
        }
    }
}
