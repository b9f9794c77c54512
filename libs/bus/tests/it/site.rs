//! A bus of its own for every test, the messages they send and the means to wait for them.

use std::{convert::Infallible, time::Duration};

use bus::{Bus, Call, Delivery, Event, memory::Hub};
use lapin::{Connection, ConnectionProperties, options::QueueDeclareOptions, types::FieldTable};
use minicbor::{Decode, Encode};
use tokio::time::timeout;

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the processes of a test meet.
pub(crate) enum Site {
    Memory(Hub),
    Rabbit { url: String },
}

impl Site {
    pub(crate) fn memory() -> Self {
        Self::Memory(Hub::default())
    }

    /// A namespace nobody else uses on the broker of the test run.
    pub(crate) fn rabbit() -> Self {
        Self::Rabbit { url: in_new_namespace(&broker_url()) }
    }

    pub(crate) async fn process(&self, instance: &str) -> Bus {
        match self {
            Self::Memory(hub) => Bus::memory(hub, instance),
            Self::Rabbit { url } => Bus::connect(url, "test", instance).await.expect("the broker answers"),
        }
    }
}

impl Site {
    /// Calls that the broker keeps because no server takes them. In memory their caller's clock is the only one.
    pub(crate) async fn waiting_calls(&self, subject: &str) -> u32 {
        let Self::Rabbit { url } = self else { return 0 };
        let (broker, namespace) = url.split_once("?namespace=").expect("every site has its namespace");
        let connection =
            Connection::connect(broker, ConnectionProperties::default()).await.expect("the broker answers");
        let channel = connection.create_channel().await.expect("the broker answers");
        let queue = format!("{namespace}.call.{subject}");
        let passive = QueueDeclareOptions::default().passive();
        let queue = channel.queue_declare(queue.into(), passive, FieldTable::default()).await.expect("it is served");
        let waiting = queue.message_count();
        connection.close(200, "".into()).await.expect("the broker answers");
        waiting
    }
}

#[expect(clippy::disallowed_methods, reason = "tests learn from the environment where the broker is")]
pub(crate) fn broker_url() -> String {
    std::env::var("BURI_TEST_RABBITMQ").expect("BURI_TEST_RABBITMQ names the broker for this test")
}

pub(crate) fn in_new_namespace(url: &str) -> String {
    format!("{url}?namespace=test-{}", uuid::Uuid::now_v7().simple())
}

/// `work`, unless it takes too long.
pub(crate) async fn soon<F: Future>(work: F) -> F::Output {
    timeout(PATIENCE, work).await.expect("this takes too long")
}

/// Waits until `holds`, which is asked again and again.
pub(crate) async fn eventually(mut holds: impl AsyncFnMut() -> bool) {
    let mut again = tokio::time::interval(Duration::from_millis(20));
    soon(async {
        while !holds().await {
            again.tick().await;
        }
    })
    .await;
}

/// Doubles a number, or says why not.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub(crate) struct Double(#[n(0)] pub(crate) u64);

#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub(crate) enum NotDoubled {
    #[n(0)]
    TooMuch {
        #[n(0)]
        limit: u64,
    },
}

impl Call for Double {
    const SUBJECT: &'static str = "test.double";
    const DEADLINE: Duration = Duration::from_secs(5);
    type Reply = u64;
    type Refusal = NotDoubled;
}

pub(crate) async fn double(Double(number): Double) -> Result<u64, NotDoubled> {
    number.checked_mul(2).ok_or(NotDoubled::TooMuch { limit: u64::MAX / 2 })
}

/// The same subject, read by somebody of another opinion.
#[derive(Debug, Encode, Decode)]
pub(crate) struct DoubleText(#[n(0)] pub(crate) String);

impl Call for DoubleText {
    const SUBJECT: &'static str = Double::SUBJECT;
    const DEADLINE: Duration = Double::DEADLINE;
    type Reply = String;
    type Refusal = NotDoubled;
}

/// A call whose caller is in a hurry, to the same server.
#[derive(Debug, Encode, Decode)]
pub(crate) struct DoubleNow(#[n(0)] pub(crate) u64);

impl Call for DoubleNow {
    const SUBJECT: &'static str = Double::SUBJECT;
    const DEADLINE: Duration = Duration::from_millis(300);
    type Reply = u64;
    type Refusal = NotDoubled;
}

/// Has a body of any size.
#[derive(Debug, Encode, Decode)]
pub(crate) struct Bulk(#[cbor(n(0), with = "minicbor::bytes")] pub(crate) Vec<u8>);

impl Call for Bulk {
    const SUBJECT: &'static str = "test.bulk";
    const DEADLINE: Duration = Duration::from_secs(5);
    type Reply = u64;
    type Refusal = NotDoubled;
}

impl Event for Bulk {
    const TOPIC: &'static str = "test.bulk";
    const DELIVERY: Delivery = Delivery::Work;
}

#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub(crate) struct Job(#[n(0)] pub(crate) u64);

impl Event for Job {
    const TOPIC: &'static str = "test.job";
    const DELIVERY: Delivery = Delivery::Work;
}

/// The same topic, written by somebody of another opinion.
#[derive(Debug, Encode, Decode)]
pub(crate) struct JobText(#[n(0)] pub(crate) String);

impl Event for JobText {
    const TOPIC: &'static str = Job::TOPIC;
    const DELIVERY: Delivery = Delivery::Work;
}

#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub(crate) struct News(#[n(0)] pub(crate) u64);

impl Event for News {
    const TOPIC: &'static str = "test.news";
    const DELIVERY: Delivery = Delivery::Everyone;
}

#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub(crate) struct Letter(#[n(0)] pub(crate) u64);

impl Event for Letter {
    const TOPIC: &'static str = "test.letter";
    const DELIVERY: Delivery = Delivery::Addressed;
}

/// A handler's way to say that all is well.
pub(crate) const DONE: Result<(), Infallible> = Ok(());
