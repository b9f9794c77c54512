//! The bus over RabbitMQ (3.10 and later).
//!
//! - Calls go through the default exchange to one queue per subject, with a time to live of what is left when they are written, and come back to
//!   an exclusive queue per connection. They are acknowledged after they were served; one that the broker delivers a second
//!   time was begun elsewhere and is not begun again.
//! - Work goes to one quorum queue per topic with a delivery limit, dead-lettered at least once to a parking queue.
//! - Everyone and Addressed are direct exchanges with an exclusive queue per subscription and connection.

mod consume;
mod link;
mod names;

use std::{sync::Arc, time::Duration};

use lapin::{BasicProperties, options::QueueDeclareOptions, types::FieldTable, uri::AMQPUri};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};

use self::{
    consume::{Source, consume},
    link::{CONNECT_DEADLINE, Current, Link, Outgoing, Receipt},
    names::Names,
};
use crate::{
    Delivery, Error, Metrics, Served,
    envelope::{Message, Outcome},
    error::NotCalled,
    metrics::Connected,
    served::{Server, Subscriber},
};

/// Between two attempts to connect.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(2);
/// How long the broker has for a word about itself.
const PING_DEADLINE: Duration = Duration::from_secs(2);
/// AMQP's mark of a message that survives a restart of the broker.
const PERSISTENT: u8 = 2;

/// One process on a broker.
#[derive(Clone, Debug)]
pub struct Rabbit {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    names: Names,
    instance: String,
    current: Current,
    recovered: watch::Receiver<u64>,
    metrics: Arc<Metrics>,
    /// Ends with the last clone.
    _supervisor: JoinSet<()>,
}

/// Keeps a connection up.
struct Supervisor {
    uri: AMQPUri,
    role: String,
    instance: String,
    names: Names,
    current: watch::Sender<Option<Arc<Link>>>,
    recovered: watch::Sender<u64>,
    metrics: Arc<Metrics>,
}

impl Rabbit {
    pub(crate) async fn connect(url: &str, role: &str, instance: String) -> Result<Self, Error> {
        let uri: AMQPUri = url.parse().map_err(|_| Error::Url)?;
        let names = Names::of(url);
        let (current, recovered) = (watch::Sender::new(None), watch::Sender::new(0));
        let metrics = Arc::new(Metrics::new());
        let supervisor = Supervisor {
            uri,
            role: role.to_owned(),
            instance: instance.clone(),
            names: names.clone(),
            current: current.clone(),
            recovered: recovered.clone(),
            metrics: Arc::clone(&metrics),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(supervisor.run());
        let (current, recovered) = (current.subscribe(), recovered.subscribe());
        let rabbit =
            Self { shared: Arc::new(Shared { names, instance, current, recovered, metrics, _supervisor: tasks }) };
        rabbit.link_before(Instant::now() + CONNECT_DEADLINE).await?;
        Ok(rabbit)
    }

    pub(crate) async fn call(&self, mut message: Message, deadline: Instant) -> Result<Outcome, NotCalled> {
        let link = self.current_link().ok_or(NotCalled::Unavailable)?;
        if link.blocked() {
            return Err(NotCalled::Unavailable);
        }
        message.reply_to = Some(link.answer_queue().to_owned());
        let payload = message.encode()?;
        let expected = link.expect(message.id).ok_or(NotCalled::Unavailable)?;
        let outgoing = Outgoing {
            exchange: String::new(),
            key: self.shared.names.calls(&message.subject),
            mandatory: true,
            payload,
            properties: BasicProperties::default(),
            expires: Some(deadline),
        };
        match link.publish(outgoing, deadline).await {
            Ok(Receipt::Confirmed) => expected.before(deadline).await,
            Err(_) if Instant::now() >= deadline => Err(NotCalled::TimedOut),
            Ok(Receipt::Unroutable | Receipt::Rejected) | Err(_) => Err(NotCalled::Unavailable),
        }
    }

    pub(crate) async fn serve(
        &self,
        subject: &'static str,
        concurrency: usize,
        server: Server,
    ) -> Result<Served, Error> {
        let source = Source::Calls { subject, server };
        consume(self.shared.names.clone(), self.shared.current.clone(), source, concurrency).await
    }

    pub(crate) async fn publish_work(&self, message: Message, deadline: Instant) -> Result<(), Error> {
        let outgoing = Outgoing {
            exchange: String::new(),
            key: self.shared.names.work(&message.subject),
            mandatory: true,
            payload: message.encode()?,
            properties: BasicProperties::default().with_delivery_mode(PERSISTENT),
            expires: None,
        };
        self.publish(outgoing, Some(&message.subject), deadline).await
    }

    pub(crate) async fn publish_all(&self, message: Message, deadline: Instant) -> Result<(), Error> {
        let outgoing = Outgoing {
            exchange: self.shared.names.everyone(),
            payload: message.encode()?,
            key: message.subject,
            mandatory: false,
            properties: BasicProperties::default(),
            expires: None,
        };
        self.publish(outgoing, None, deadline).await
    }

    pub(crate) async fn publish_to(&self, to: &str, message: Message, deadline: Instant) -> Result<(), Error> {
        let outgoing = Outgoing {
            exchange: self.shared.names.addressed(),
            key: format!("{}.{to}", message.subject),
            mandatory: true,
            payload: message.encode()?,
            properties: BasicProperties::default(),
            expires: None,
        };
        self.publish(outgoing, None, deadline).await
    }

    pub(crate) async fn subscribe(
        &self,
        topic: &'static str,
        delivery: Delivery,
        concurrency: usize,
        subscriber: Subscriber,
    ) -> Result<Served, Error> {
        let instance = self.shared.instance.clone();
        let source = match delivery {
            Delivery::Work => Source::Work { topic, subscriber },
            Delivery::Everyone => Source::Everyone { topic, instance, subscriber },
            Delivery::Addressed => Source::Addressed { topic, instance, subscriber },
        };
        consume(self.shared.names.clone(), self.shared.current.clone(), source, concurrency).await
    }

    pub(crate) async fn parked(&self, topic: &str) -> Result<u64, Error> {
        let link = self.current_link().ok_or(Error::Unavailable)?;
        let counted = async {
            link.declare_work(&self.shared.names, topic).await?;
            let channel = link.connection.create_channel().await?;
            let queue = self.shared.names.parked(topic);
            let passive = QueueDeclareOptions::default().passive();
            channel.queue_declare(queue.into(), passive, FieldTable::default()).await
        };
        match timeout(PING_DEADLINE, counted).await {
            Ok(Ok(queue)) => Ok(queue.message_count().into()),
            Ok(Err(_)) | Err(_) => Err(Error::Unavailable),
        }
    }

    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }

    pub(crate) fn recovered(&self) -> watch::Receiver<u64> {
        self.shared.recovered.clone()
    }

    pub(crate) async fn ping(&self) -> Result<(), Error> {
        let link = self.current_link().filter(|link| !link.blocked()).ok_or(Error::Unavailable)?;
        match timeout(PING_DEADLINE, link.connection.create_channel()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Error::Unavailable),
        }
    }

    /// Publishes on this connection or, when it is lost meanwhile, on the next. Work needs its queue first: nobody may
    /// have subscribed yet.
    async fn publish(&self, outgoing: Outgoing, work: Option<&str>, deadline: Instant) -> Result<(), Error> {
        while Instant::now() < deadline {
            let link = self.link_before(deadline).await?;
            if let Some(topic) = work {
                let declared = timeout_at(deadline, link.declare_work(&self.shared.names, topic)).await;
                if let Err(error) = declared.map_err(|_| Error::Unavailable)? {
                    tracing::debug!(%error, topic, "the queue was not declared");
                    // A replicated queue needs a while after its broker is back: the next try may be on this connection.
                    let _ = timeout_at(deadline.min(Instant::now() + LAST_RETRY), link.gone()).await;
                    continue;
                }
            }
            match link.publish(outgoing.clone(), deadline).await {
                Ok(Receipt::Confirmed) => return Ok(()),
                Ok(Receipt::Unroutable) => return Err(Error::Unroutable),
                Ok(Receipt::Rejected) => return Err(Error::Full),
                Err(_) => lost_before(&link, deadline).await?,
            }
        }
        Err(Error::Unavailable)
    }

    fn current_link(&self) -> Option<Arc<Link>> {
        self.shared.current.borrow().clone()
    }

    async fn link_before(&self, deadline: Instant) -> Result<Arc<Link>, Error> {
        let mut current = self.shared.current.clone();
        match timeout_at(deadline, current.wait_for(Option::is_some)).await {
            Ok(Ok(link)) => link.clone().ok_or(Error::Unavailable),
            Ok(Err(_)) | Err(_) => Err(Error::Unavailable),
        }
    }
}

/// Waits until `link` is known to be lost, so that the next one can be waited for.
async fn lost_before(link: &Link, deadline: Instant) -> Result<(), Error> {
    timeout_at(deadline, link.gone()).await.map_err(|_| Error::Unavailable)
}

impl Supervisor {
    async fn run(self) {
        let mut connections = 0_u64;
        let mut retry = FIRST_RETRY;
        loop {
            let opened = Link::open(&self.uri, &self.role, &self.instance, &self.names);
            let (link, mut engine) = match timeout(CONNECT_DEADLINE, opened).await {
                Ok(Ok(opened)) => opened,
                failed => {
                    let error = failed.ok().and_then(Result::err);
                    tracing::debug!(error = error.as_ref().map(tracing::field::display), "no connection to the broker");
                    tokio::time::sleep(retry.mul_f64(rand::random_range(0.5..1.0))).await;
                    retry = LAST_RETRY.min(retry * 2);
                    continue;
                }
            };
            retry = FIRST_RETRY;
            connections += 1;
            tracing::info!(connections, "connected to the broker");
            let link = Arc::new(link);
            self.current.send_replace(Some(Arc::clone(&link)));
            self.metrics.connected(Connected::Yes);
            if connections > 1 {
                self.recovered.send_modify(|times| *times += 1);
            }
            engine.run().await;
            self.current.send_replace(None);
            self.metrics.connected(Connected::No);
            tracing::warn!("the connection to the broker is lost");
            link.end().await;
        }
    }
}
