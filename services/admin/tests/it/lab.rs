//! The role under test, with stand-ins for what others answer.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use admin::{Config, EventsConfig, Metrics, Seams, WebhooksConfig, token};
use bus::{Bus, Served, memory::Hub};
use contract::{
    network::{SessionRow, Sessions, SessionsPage},
    rendezvous::{Pair, PairReply, RelayBeat, Relays, RelaysReply},
};
use domain::{
    Bandwidth, ClientId, Epoch, InstanceId, NatClass, PairOutcome, PairRecord, RelayId, Strategy, UnixMillis,
};
use serde_json::{Value, json};
use store::StoreOptions;
use telemetry::ops::Ops;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) struct Lab {
    pub(crate) address: SocketAddr,
    pub(crate) hub: Hub,
    pub(crate) other: Bus,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) stores: store::Stores,
    pub(crate) dir: tempfile::TempDir,
    shutdown: CancellationToken,
    role: JoinHandle<Result<(), admin::Error>>,
    _served: Vec<Served>,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Lab {
    pub(crate) async fn new() -> Self {
        Self::with(Config::default()).await
    }

    /// The role with nobody but relays and pairs behind it, and the registry that its figures are in.
    pub(crate) async fn bare() -> (Self, telemetry::Registry) {
        let requests_per_minute = const { NonZeroU32::new(1_000_000).unwrap() };
        let webhooks = WebhooksConfig { private: true, ..WebhooksConfig::default() };
        Self::make(Config { requests_per_minute, webhooks, ..Config::default() }, false).await
    }

    pub(crate) async fn with(config: Config) -> Self {
        Self::make(config, true).await.0
    }

    async fn make(config: Config, with_sessions: bool) -> (Self, telemetry::Registry) {
        let dir = tempfile::tempdir().unwrap();
        let token_file = dir.path().join("operator.token");
        token::ensure(&token_file).unwrap();
        let hub = Hub::default();
        let other = Bus::memory(&hub, "others");
        let mut served = vec![
            other.serve(1, |wanted| async move { Ok(pair(wanted)) }).await.unwrap(),
            other.serve(1, |Relays| async { Ok(RelaysReply { relays: vec![relay()] }) }).await.unwrap(),
        ];
        if with_sessions {
            served.push(other.serve(1, |wanted| async move { Ok(sessions(&wanted)) }).await.unwrap());
        }
        let url = format!("sqlite://{}/buri.db", dir.path().display());
        store::migrate(&url).await.unwrap();
        let stores = store::connect(&url, StoreOptions::default()).await.unwrap();
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let key = dir.path().join("webhooks.key");
        std::fs::write(&key, WEBHOOKS_KEY).unwrap();
        let webhooks = WebhooksConfig { key, ..config.webhooks.clone() };
        let events = if config.events == EventsConfig::default() { quick() } else { config.events };
        let bound = admin::bind(&Config { listen, token_file, events, webhooks, ..config }).unwrap();
        let address = bound.address().unwrap();
        let registry = telemetry::registry();
        let metrics = Arc::new(Metrics::register(&registry).unwrap());
        let seams = Seams {
            bus: Bus::memory(&hub, "admin"),
            operations: Arc::clone(&stores.operations),
            events: Arc::clone(&stores.events),
            webhooks: Arc::clone(&stores.webhooks),
            instance: InstanceId::from_bytes([0xad; 16]),
            metrics: Arc::clone(&metrics),
            ops: Ops::new(registry.clone(), Vec::new()),
        };
        let shutdown = CancellationToken::new();
        #[expect(clippy::disallowed_methods, reason = "the handle owns the task")]
        let role = tokio::spawn(bound.run(seams, shutdown.clone()));
        (Self { address, hub, other, metrics, stores, dir, shutdown, role, _served: served }, registry)
    }

    pub(crate) fn authorization(&self) -> String {
        let token = std::fs::read_to_string(self.dir.path().join("operator.token")).unwrap();
        format!("Authorization: Bearer {}\r\n", token.trim())
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &self.authorization()).await
    }

    pub(crate) async fn post(&self, path: &str) -> Answer {
        self.send("POST", path, &self.authorization()).await
    }

    pub(crate) async fn send(&self, method: &str, path: &str, headers: &str) -> Answer {
        self.send_body(method, path, headers, b"").await
    }

    /// A document to `path`, from the root token.
    pub(crate) async fn post_json(&self, path: &str, document: &Value) -> Answer {
        self.json_as(&self.authorization(), "POST", path, document).await
    }

    /// A document to `path`, with these header lines.
    pub(crate) async fn json_as(&self, headers: &str, method: &str, path: &str, document: &Value) -> Answer {
        let headers = format!("{headers}Content-Type: application/json\r\n");
        self.send_body(method, path, &headers, document.to_string().as_bytes()).await
    }

    pub(crate) async fn send_body(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        self.send_to(self.address, method, path, headers, body).await
    }

    /// Asks another listener than that of the operators.
    pub(crate) async fn send_to(
        &self,
        address: SocketAddr,
        method: &str,
        path: &str,
        headers: &str,
        body: &[u8],
    ) -> Answer {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n{headers}");
        if !body.is_empty() {
            request += &format!("Content-Length: {}\r\n", body.len());
        }
        let request = [request.as_bytes(), b"\r\n", body].concat();
        tokio::task::spawn_blocking(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            // A server that refuses a long body does not read it to its end.
            let _ = stream.write_all(&request);
            let mut answer = String::new();
            let _ = stream.read_to_string(&mut answer);
            let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer}"));
            let status = head.split(' ').nth(1).unwrap().parse().unwrap();
            Answer { status, head: head.to_owned(), body: body.to_owned() }
        })
        .await
        .unwrap()
    }

    /// The header line of a new token with these scopes.
    pub(crate) async fn token(&self, scopes: &[&str]) -> String {
        let wanted = json!({ "name": "a test's", "scopes": scopes, "lifetime_s": 3600 });
        let answer = self.post_json("/v1/tokens", &wanted).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        bearer(answer.json()["secret"].as_str().unwrap())
    }

    pub(crate) async fn end(self) {
        self.shutdown.cancel();
        self.role.await.unwrap().unwrap();
        self.stores.close().await;
    }
}

impl Answer {
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        self.json()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {} {}", self.head, self.body))
    }

    /// A header, by its name in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// The code of a problem document with this status.
    #[track_caller]
    pub(crate) fn problem(self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.body);
        assert!(self.head.to_lowercase().contains("content-type: application/problem+json"), "{}", self.head);
        let document: Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(document["status"], status);
        document["code"].as_str().unwrap().to_owned()
    }
}

/// What secrets of webhooks are derived from.
pub(crate) const WEBHOOKS_KEY: [u8; 32] = *b"canary-webhooks-key-0123456789ab";

/// Streams that end soon, and what happens is told at once.
pub(crate) fn quick() -> EventsConfig {
    let [heartbeat, longest, poll] = [100, 300, 10].map(Duration::from_millis);
    EventsConfig { heartbeat, longest, poll, ..EventsConfig::default() }
}

/// The header line of a token.
pub(crate) fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

pub(crate) fn client(nth: u8) -> ClientId {
    ClientId::from_bytes([nth; 16])
}

fn sessions(wanted: &Sessions) -> SessionsPage {
    let all = (1..=3).map(client).filter(|client| wanted.after.is_none_or(|after| *client > after));
    let rows: Vec<SessionRow> = all
        .map(|client| SessionRow {
            client,
            gateway: InstanceId::from_bytes([7; 16]),
            epoch: Epoch(5),
            since: UnixMillis(9),
            class: Some(NatClass::Easy),
        })
        .collect();
    let limit = usize::from(wanted.limit);
    SessionsPage { more: rows.len() > limit, sessions: rows.into_iter().take(limit).collect() }
}

fn pair(wanted: Pair) -> PairReply {
    let known = wanted.a == client(1) && wanted.b == client(2);
    PairReply {
        record: known.then(|| PairRecord {
            a: wanted.a,
            b: wanted.b,
            class_a: Some(NatClass::Random),
            class_b: Some(NatClass::Random),
            strategy: Strategy::Relay,
            outcome: PairOutcome::Relayed,
            attempts: 0,
            started: UnixMillis(1),
            took_ms: 2,
            packets: 0,
            relay: None,
            hint: "both routers are hard".into(),
            trace: 3,
            via: None,
            budget: 0,
            places: [0; 2],
            choice: None,
        }),
    }
}

pub(crate) fn relay() -> RelayBeat {
    RelayBeat {
        relay: RelayId::from_bytes([4; 16]),
        endpoints: vec!["203.0.113.1:443".parse().unwrap()],
        region: "test".into(),
        slots: 3,
        max_slots: 100,
        rate: Bandwidth::from_kbit_per_second(8),
        draining: false,
        streams: Vec::new(),
    }
}
