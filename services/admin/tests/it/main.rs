//! The API over real HTTP, on an in-process bus.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::Arc,
};

use admin::{Config, Metrics, Seams, metrics::Outcome, token};
use bus::{Bus, Served, memory::Hub};
use contract::{
    network::{self, Networks, NetworksPage, SessionRow, Sessions, SessionsPage},
    relay::RelayOrder,
    rendezvous::{OrderRefusal, OrderRelay, Pair, PairReply, RelayBeat, Relays, RelaysReply},
};
use domain::{
    Bandwidth, ClientId, Epoch, InstanceId, NatClass, PairOutcome, PairRecord, RelayId, Strategy, UnixMillis,
};
use serde_json::Value;
use telemetry::ops::Ops;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn sessions_come_in_pages() {
    let lab = Lab::new().await;
    let first = lab.get("/v1/sessions?limit=2").await.ok();
    assert_eq!(first["items"].as_array().unwrap().len(), 2);
    assert_eq!(first["items"][0]["client"], client(1).to_string());
    assert_eq!(first["items"][0]["nat_class"], "easy");
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = lab.get(&format!("/v1/sessions?limit=2&cursor={cursor}")).await.ok();
    assert_eq!(second["items"][0]["client"], client(3).to_string());
    assert!(second["next_cursor"].is_null());
    assert_eq!(lab.metrics.requests(Outcome::Ok), 2);
    lab.end().await;
}

#[tokio::test]
async fn a_pair_says_why_it_is_relayed() {
    let lab = Lab::new().await;
    let pair = lab.get(&format!("/v1/pairs/{}/{}", client(1), client(2))).await.ok();
    assert_eq!(pair["outcome"], "relayed");
    assert_eq!(pair["hint"], "both routers are hard");
    let unknown = lab.get(&format!("/v1/pairs/{}/{}", client(1), client(9))).await;
    assert_eq!(unknown.problem(404), "not-found");
    lab.end().await;
}

#[tokio::test]
async fn relays_show_their_load() {
    let lab = Lab::new().await;
    let relays = lab.get("/v1/relays").await.ok();
    assert_eq!(relays["items"][0]["slots"], 3);
    assert_eq!(relays["items"][0]["rate"], "8 kbit/s");
    lab.end().await;
}

#[tokio::test]
async fn a_relay_is_drained_and_resumed() {
    let lab = Lab::new().await;
    let (told, mut orders) = tokio::sync::mpsc::unbounded_channel();
    let take = move |call: OrderRelay| {
        let known = call.relay == relay().relay;
        told.send(call.order).unwrap();
        async move { if known { Ok(()) } else { Err(OrderRefusal::NoSuchRelay) } }
    };
    let _taking = lab.other.serve(1, take).await.unwrap();
    let here = relay().relay;
    for (word, order) in [("drain", RelayOrder::Drain), ("resume", RelayOrder::Resume)] {
        let answer = lab.post(&format!("/v1/relays/{here}/{word}")).await;
        assert_eq!(answer.status, 202, "{}", answer.body);
        let document: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(document["relay"], here.to_string());
        assert_eq!(document["draining"], order == RelayOrder::Drain);
        assert_eq!(orders.recv().await, Some(order));
    }
    let other = RelayId::from_bytes([5; 16]);
    assert_eq!(lab.post(&format!("/v1/relays/{other}/drain")).await.problem(404), "not-found");
    assert_eq!(lab.post("/v1/relays/nonsense/drain").await.problem(400), "invalid-parameter");
    let read = lab.get(&format!("/v1/relays/{here}/drain")).await;
    assert!(read.head.to_lowercase().contains("allow: post"), "{}", read.head);
    assert_eq!(read.problem(405), "method-not-allowed");
    lab.end().await;
}

#[tokio::test]
async fn an_order_that_no_relay_could_be_told_is_a_number_to_quote_or_unavailable() {
    let lab = Lab::new().await;
    let path = format!("/v1/relays/{}/drain", relay().relay);
    assert_eq!(lab.post(&path).await.problem(503), "unavailable");
    let failing = |_: OrderRelay| async { Err(OrderRefusal::Internal { incident: 0xabc }) };
    let _failing = lab.other.serve(1, failing).await.unwrap();
    let answer = lab.post(&path).await;
    assert!(answer.body.contains("0000000000000abc"), "{}", answer.body);
    assert_eq!(answer.problem(500), "internal");
    lab.end().await;
}

#[tokio::test]
async fn without_the_token_nothing_is_told() {
    let lab = Lab::new().await;
    let drain = lab.send("POST", &format!("/v1/relays/{}/drain", relay().relay), "").await;
    assert_eq!(drain.problem(401), "unauthorized");
    for path in ["/", "/v1/sessions", "/v1/networks", "/v1/relays", "/v1/pairs/a/b"] {
        for authorization in ["", "Authorization: Bearer wrong\r\n", "Authorization: Basic YTpi\r\n"] {
            let answer = lab.send("GET", path, authorization).await;
            assert!(answer.head.to_lowercase().contains("www-authenticate: bearer"), "{}", answer.head);
            assert_eq!(answer.problem(401), "unauthorized");
        }
    }
    assert_eq!(lab.metrics.requests(Outcome::Unauthorized), 16);
    assert_eq!(lab.send("GET", "/health", "").await.status, 200);
    lab.end().await;
}

#[tokio::test]
async fn wrong_parameters_are_named() {
    let lab = Lab::new().await;
    for query in ["limit=0", "limit=201", "limit=x", "cursor=zz", "colour=red"] {
        assert_eq!(lab.get(&format!("/v1/sessions?{query}")).await.problem(400), "invalid-parameter", "{query}");
    }
    assert_eq!(lab.get("/v1/relays?x=1").await.problem(400), "invalid-parameter");
    assert_eq!(lab.get("/v1/pairs/a/b").await.problem(400), "invalid-parameter");
    assert_eq!(lab.get("/v1/cars").await.problem(404), "not-found");
    let token = lab.authorization();
    assert_eq!(lab.send("POST", "/v1/sessions", &token).await.problem(405), "method-not-allowed");
    assert_eq!(lab.metrics.requests(Outcome::Refused), 7);
    lab.end().await;
}

#[tokio::test]
async fn a_role_that_does_not_answer_is_unavailable_not_broken() {
    let lab = Lab::new().await;
    let answer = lab.get("/v1/networks").await;
    assert!(answer.head.to_lowercase().contains("retry-after: 5"), "{}", answer.head);
    assert_eq!(answer.problem(503), "unavailable");
    assert_eq!(lab.metrics.requests(Outcome::Failed), 1);
    lab.end().await;
}

#[tokio::test]
async fn an_internal_failure_is_a_number_to_quote() {
    let lab = Lab::new().await;
    let _failing = lab
        .other
        .serve(1, |_: Networks| async { Err::<NetworksPage, _>(network::Refusal::Internal { incident: 0xabc }) })
        .await
        .unwrap();
    let answer = lab.get("/v1/networks").await;
    assert!(answer.body.contains("0000000000000abc"), "{}", answer.body);
    assert_eq!(answer.problem(500), "internal");
    lab.end().await;
}

#[test]
fn a_token_is_made_once_and_must_be_long() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("operator.token");
    assert!(token::ensure(&path).unwrap());
    assert!(!token::ensure(&path).unwrap());
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(token::read(&path).unwrap().matches(text.trim()));
    assert!(!token::read(&path).unwrap().matches("other"));
    std::fs::write(&path, "short").unwrap();
    assert!(matches!(token::read(&path), Err(token::TokenError::Short { .. })));
}

struct Lab {
    address: SocketAddr,
    other: Bus,
    metrics: Arc<Metrics>,
    dir: tempfile::TempDir,
    shutdown: CancellationToken,
    role: JoinHandle<Result<(), admin::Error>>,
    _served: Vec<Served>,
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Lab {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let token_file = dir.path().join("operator.token");
        token::ensure(&token_file).unwrap();
        let hub = Hub::default();
        let other = Bus::memory(&hub, "others");
        let served = vec![
            other.serve(1, |wanted| async move { Ok(sessions(&wanted)) }).await.unwrap(),
            other.serve(1, |wanted| async move { Ok(pair(wanted)) }).await.unwrap(),
            other.serve(1, |Relays| async { Ok(RelaysReply { relays: vec![relay()] }) }).await.unwrap(),
        ];
        let bound = admin::bind(&Config { listen: SocketAddr::from(([127, 0, 0, 1], 0)), token_file }).unwrap();
        let address = bound.address().unwrap();
        let registry = telemetry::registry();
        let metrics = Arc::new(Metrics::register(&registry).unwrap());
        let seams = Seams {
            bus: Bus::memory(&hub, "admin"),
            metrics: Arc::clone(&metrics),
            ops: Ops::new(registry, Vec::new()),
        };
        let shutdown = CancellationToken::new();
        #[expect(clippy::disallowed_methods, reason = "the handle owns the task")]
        let role = tokio::spawn(bound.run(seams, shutdown.clone()));
        Self { address, other, metrics, dir, shutdown, role, _served: served }
    }

    fn authorization(&self) -> String {
        let token = std::fs::read_to_string(self.dir.path().join("operator.token")).unwrap();
        format!("Authorization: Bearer {}\r\n", token.trim())
    }

    async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &self.authorization()).await
    }

    async fn post(&self, path: &str) -> Answer {
        self.send("POST", path, &self.authorization()).await
    }

    async fn send(&self, method: &str, path: &str, headers: &str) -> Answer {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n{headers}\r\n");
        let address = self.address;
        tokio::task::spawn_blocking(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            let status = head.split(' ').nth(1).unwrap().parse().unwrap();
            Answer { status, head: head.to_owned(), body: body.to_owned() }
        })
        .await
        .unwrap()
    }

    async fn end(self) {
        self.shutdown.cancel();
        self.role.await.unwrap().unwrap();
    }
}

impl Answer {
    #[track_caller]
    fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        serde_json::from_str(&self.body).unwrap()
    }

    /// The code of a problem document with this status.
    #[track_caller]
    fn problem(self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.body);
        assert!(self.head.to_lowercase().contains("content-type: application/problem+json"), "{}", self.head);
        let document: Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(document["status"], status);
        document["code"].as_str().unwrap().to_owned()
    }
}

fn client(nth: u8) -> ClientId {
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

fn relay() -> RelayBeat {
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
