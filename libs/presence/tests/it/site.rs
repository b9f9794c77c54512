//! A presence of its own for every test, whom they seat in it and the means to wait.

use std::time::Duration;

use domain::{ClientId, Epoch, GatewayId, NatClass, PairOutcome, PairRecord, SessionTag, Strategy, UnixMillis};
use presence::{Held, Presence, Seat, Up, memory::Memory};
use redis::aio::MultiplexedConnection;
use tokio::time::timeout;

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than any test.
pub(crate) const HOUR: Duration = Duration::from_secs(3_600);
/// Soon over.
pub(crate) const MOMENT: Duration = Duration::from_millis(60);

/// Where the processes of a test meet.
pub(crate) enum Site {
    Memory(Memory),
    Redis { namespace: String },
}

impl Site {
    pub(crate) fn memory() -> Self {
        Self::Memory(Memory::default())
    }

    /// A namespace nobody else uses on the Redis server of the test run.
    pub(crate) fn redis() -> Self {
        Self::Redis { namespace: format!("test-{:032x}", rand::random::<u128>()) }
    }

    /// What one process has of it.
    pub(crate) async fn presence(&self) -> Presence {
        match self {
            Self::Memory(memory) => Presence::Memory(memory.clone()),
            Self::Redis { .. } => Presence::connect(&self.url_at(&redis_url())).await.expect("Redis answers"),
        }
    }

    /// The URL of this site behind `url`.
    pub(crate) fn url_at(&self, url: &str) -> String {
        format!("{url}?namespace={}", self.namespace())
    }

    pub(crate) fn key(&self, name: &str) -> String {
        format!("buri:{}:{name}", self.namespace())
    }

    /// Every key of the site.
    pub(crate) async fn keys(&self) -> Vec<String> {
        redis::cmd("KEYS").arg(self.key("*")).query_async(&mut raw().await).await.unwrap()
    }

    /// Forgets everything. What others have in the same Redis server stays.
    pub(crate) async fn flush(&self) {
        match self {
            Self::Memory(memory) => memory.flush(),
            Self::Redis { .. } => {
                let keys = self.keys().await;
                if !keys.is_empty() {
                    redis::cmd("DEL").arg(keys).exec_async(&mut raw().await).await.unwrap();
                }
            }
        }
    }

    fn namespace(&self) -> &str {
        match self {
            Self::Redis { namespace } => namespace,
            Self::Memory(_) => panic!("only Redis has names"),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "tests learn from the environment where Redis is")]
pub(crate) fn redis_url() -> String {
    std::env::var("BURI_TEST_REDIS").expect("BURI_TEST_REDIS names the Redis server for this test")
}

/// A connection that presence knows nothing of.
pub(crate) async fn raw() -> MultiplexedConnection {
    let client = redis::Client::open(redis_url()).unwrap();
    client.get_multiplexed_async_connection().await.expect("Redis answers")
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

pub(crate) fn client(number: u16) -> ClientId {
    let [high, low] = number.to_be_bytes();
    ClientId::from_bytes([high, low, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
}

pub(crate) const fn gateway(number: u8) -> GatewayId {
    GatewayId::from_bytes([number; 16])
}

pub(crate) const fn tag(number: u8) -> SessionTag {
    SessionTag([number; 16])
}

/// The session `session` of a client at the gateway `at`, come up at 1,000 or later.
pub(crate) async fn up(presence: &Presence, number: u16, at: u8, session: u8, ttl: Duration) -> Up {
    presence.up(client(number), gateway(at), tag(session), Epoch(1_000), UnixMillis(7), ttl).await.unwrap()
}

pub(crate) fn held(number: u16, epoch: Epoch, session: u8) -> Held {
    Held { client: client(number), epoch, tag: tag(session), since: UnixMillis(7) }
}

pub(crate) async fn seat(presence: &Presence, number: u16) -> Option<Seat> {
    presence.find(&[client(number)]).await.unwrap().pop().unwrap()
}

pub(crate) fn record(a: u16, b: u16, hint: &str) -> PairRecord {
    PairRecord {
        a: client(a),
        b: client(b),
        class_a: Some(NatClass::Easy),
        class_b: None,
        strategy: Strategy::Direct,
        outcome: PairOutcome::Pending,
        attempts: 1,
        started: UnixMillis(5),
        took_ms: 6,
        packets: 7,
        relay: None,
        hint: hint.to_owned(),
        trace: 8,
        via: None,
        budget: 0,
        places: [0; 2],
        choice: None,
    }
}
