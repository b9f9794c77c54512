//! The typed surface over both back-ends.

use std::{fmt::Display, sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};
use tracing::Instrument as _;

use crate::{
    Call, CallError, Delivery, Error, Event, Metrics, Served,
    envelope::{Message, Outcome, to_bytes},
    memory::{Hub, Memory},
    rabbit::Rabbit,
    served::{server, subscriber},
    trace::Trace,
};

/// How long a publisher waits for the broker, a gap included.
pub const PUBLISH_DEADLINE: Duration = Duration::from_secs(5);

/// One process's access to the bus. Clones share it.
#[derive(Clone, Debug)]
pub enum Bus {
    /// Within one process.
    Memory(Memory),
    /// Through RabbitMQ.
    Rabbit(Rabbit),
}

impl Bus {
    /// Reaches the bus at `url`. `memory:` is a bus of its own: clone it for every role in the process.
    ///
    /// `role` names the connection in the broker's console; `instance` is what [`Bus::publish_to`] addresses. Several
    /// deployments can share a broker, each with its own `?namespace=name` at the end of the URL.
    ///
    /// # Errors
    /// [`Error::Url`] for another scheme, [`Error::Unavailable`] when the broker does not answer within five seconds.
    pub async fn connect(url: &str, role: &str, instance: impl Display) -> Result<Self, Error> {
        let instance = instance.to_string();
        match url.split_once(':') {
            Some(("memory", _)) => Ok(Self::memory(&Hub::default(), instance)),
            Some(("amqp" | "amqps", _)) => Rabbit::connect(url, role, instance).await.map(Self::Rabbit),
            Some(_) | None => Err(Error::Url),
        }
    }

    /// Reaches the bus that is `hub`, as the process `instance`.
    #[must_use]
    pub fn memory(hub: &Hub, instance: impl Display) -> Self {
        Self::Memory(Memory::new(hub, instance.to_string()))
    }

    /// Asks whoever serves `C`, and waits for at most `C::DEADLINE`. Fails at once while the broker is away.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call<C: Call>(&self, call: &C) -> Result<C::Reply, CallError<C::Refusal>> {
        let began = Instant::now();
        let result = self.ask(call, began + C::DEADLINE).await;
        self.metrics().call(began.elapsed().as_secs_f64(), &result);
        result
    }

    /// Answers calls of `C`, at most `concurrency` at a time. Calls are shared with other processes that serve `C`.
    ///
    /// # Errors
    /// [`Error::Unavailable`] while the broker is away.
    pub async fn serve<C, F, Fut>(&self, concurrency: usize, handler: F) -> Result<Served, Error>
    where
        C: Call,
        F: Fn(C) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<C::Reply, C::Refusal>> + Send + 'static,
    {
        let server = server(handler, self.metrics());
        match self {
            Self::Memory(bus) => Ok(bus.serve(C::SUBJECT, concurrency.max(1), server)),
            Self::Rabbit(bus) => bus.serve(C::SUBJECT, concurrency.max(1), server).await,
        }
    }

    /// Tells `event` to one process (Work) or to all (Everyone), and waits until the broker has it. In a gap of the broker
    /// it is tried until [`PUBLISH_DEADLINE`], so that it may arrive twice.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::Full`] or [`Error::TooLarge`].
    pub async fn publish<E: Event>(&self, event: &E) -> Result<(), Error> {
        const { assert!(!matches!(E::DELIVERY, Delivery::Addressed), "an addressed event is published to somebody") }
        let message = Message::new(E::TOPIC, Trace::next(), None, to_bytes(event));
        let deadline = Instant::now() + PUBLISH_DEADLINE;
        let result = match (self, E::DELIVERY) {
            (Self::Memory(bus), Delivery::Work) => bus.publish_work(message, deadline).await,
            (Self::Memory(bus), Delivery::Everyone | Delivery::Addressed) => bus.publish_all(message, deadline).await,
            (Self::Rabbit(bus), Delivery::Work) => bus.publish_work(message, deadline).await,
            (Self::Rabbit(bus), Delivery::Everyone | Delivery::Addressed) => bus.publish_all(message, deadline).await,
        };
        self.metrics().publication(&result);
        result
    }

    /// Tells `event` to the process `instance`, and waits until the broker has it, as [`Bus::publish`] does.
    ///
    /// # Errors
    /// [`Error::Unroutable`] when that process is not subscribed; [`Error::Unavailable`], [`Error::Full`] or
    /// [`Error::TooLarge`].
    pub async fn publish_to<E: Event>(&self, instance: impl Display, event: &E) -> Result<(), Error> {
        const { assert!(matches!(E::DELIVERY, Delivery::Addressed), "only an addressed event is published to somebody") }
        let instance = instance.to_string();
        let message = Message::new(E::TOPIC, Trace::next(), None, to_bytes(event));
        let deadline = Instant::now() + PUBLISH_DEADLINE;
        let result = match self {
            Self::Memory(bus) => bus.publish_to(&instance, message, deadline).await,
            Self::Rabbit(bus) => bus.publish_to(&instance, message, deadline).await,
        };
        self.metrics().publication(&result);
        result
    }

    /// Handles events of `E`, at most `concurrency` at a time and in no particular order.
    ///
    /// Work whose handler fails or panics is delivered again; after the fourth delivery it is parked, as is what cannot be
    /// decoded. Other events are delivered once, whatever the handler says.
    ///
    /// # Errors
    /// [`Error::Unavailable`] while the broker is away.
    pub async fn subscribe<E, F, Fut, X>(&self, concurrency: usize, handler: F) -> Result<Served, Error>
    where
        E: Event,
        F: Fn(E) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), X>> + Send + 'static,
        X: Display + Send + 'static,
    {
        let subscriber = subscriber(handler, self.metrics());
        match self {
            Self::Memory(bus) => Ok(bus.subscribe(E::TOPIC, E::DELIVERY, concurrency.max(1), subscriber)),
            Self::Rabbit(bus) => bus.subscribe(E::TOPIC, E::DELIVERY, concurrency.max(1), subscriber).await,
        }
    }

    /// How many events of `E` are parked: given up, kept for a person to look at.
    ///
    /// # Errors
    /// [`Error::Unavailable`] while the broker is away.
    pub async fn parked<E: Event>(&self) -> Result<u64, Error> {
        match self {
            Self::Memory(bus) => Ok(bus.parked(E::TOPIC)),
            Self::Rabbit(bus) => bus.parked(E::TOPIC).await,
        }
    }

    /// Counts how often the connection to the broker came back. Whoever relies on events that are at most once asks for
    /// the truth again when it changes.
    #[must_use]
    pub fn recovered(&self) -> watch::Receiver<u64> {
        match self {
            Self::Memory(bus) => bus.recovered(),
            Self::Rabbit(bus) => bus.recovered(),
        }
    }

    /// Whether the broker answers now.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it does not, or takes no messages for want of memory or disk.
    pub async fn ping(&self) -> Result<(), Error> {
        match self {
            Self::Memory(bus) => bus.ping(),
            Self::Rabbit(bus) => bus.ping().await,
        }
    }

    /// What this process's access counts; clones share it.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        match self {
            Self::Memory(bus) => bus.metrics(),
            Self::Rabbit(bus) => bus.metrics(),
        }
    }

    async fn ask<C: Call>(&self, call: &C, deadline: Instant) -> Result<C::Reply, CallError<C::Refusal>> {
        let trace = Trace::next();
        let message = Message::new(C::SUBJECT, trace, Some(C::DEADLINE), to_bytes(call));
        let span = tracing::info_span!("call", subject = C::SUBJECT, %trace);
        let answered = match self {
            Self::Memory(bus) => bus.call(message, deadline).instrument(span).await,
            Self::Rabbit(bus) => bus.call(message, deadline).instrument(span).await,
        };
        let malformed = |_| CallError::Malformed;
        match answered? {
            Outcome::Reply(body) => minicbor::decode(&body).map_err(malformed),
            Outcome::Refusal(body) => Err(minicbor::decode(&body).map_or_else(malformed, CallError::Refused)),
            Outcome::Malformed => Err(CallError::Malformed),
            Outcome::Unserved => Err(CallError::Unavailable),
        }
    }
}
