//! The stream of events, as a program reads it.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{Shutdown, TcpStream},
    time::Duration,
};

use admin::{Config, EventsConfig};
use contract::{admin::Happened, rendezvous::RelayBeat};
use domain::{ClientId, Event, EventKind, NetworkOrder, UnixMillis};
use serde_json::Value;

use crate::{
    lab::{Lab, client, quick, relay},
    whole::Whole,
};

#[tokio::test]
async fn a_stream_tells_what_happens_from_its_beginning_on() {
    let lab = Lab::with(patient()).await;
    lab.tell(online(1, 1)).await;
    let old = lab.read("/v1/events?after=0", "").await;
    let first = old.next().await;
    assert_eq!((first.name.as_str(), first.data["kind"].as_str()), ("client.online", Some("client.online")));
    assert_eq!(first.data["client"], client(1).to_string());
    assert_eq!(first.id, first.data["sequence"].as_u64());
    assert!(first.data.get("network").is_none(), "no field that means nothing");

    let new = lab.read("/v1/events", "").await;
    lab.tell(online(2, 2)).await;
    assert_eq!(new.next().await.data["client"], client(2).to_string());
    assert_eq!(old.next().await.data["client"], client(2).to_string());
    lab.end().await;
}

#[tokio::test]
async fn who_was_away_reads_on_where_it_was_at_any_process() {
    let lab = Lab::with(patient()).await;
    for nth in 1..=3 {
        lab.tell(online(nth, nth)).await;
    }
    let first = lab.read("/v1/events?after=0", "").await.next().await;
    let header = format!("Last-Event-ID: {}\r\n", first.id.unwrap());
    let resumed = lab.read("/v1/events?after=0", &header).await;
    assert_eq!(resumed.next().await.data["client"], client(2).to_string(), "the header comes before the parameter");
    assert_eq!(resumed.next().await.data["client"], client(3).to_string());
    for bad in ["Last-Event-ID: x\r\n", "Last-Event-ID: -1\r\n", "Last-Event-ID: 9223372036854775808\r\n"] {
        let headers = format!("{}{bad}", lab.authorization());
        assert_eq!(lab.send("GET", "/v1/events", &headers).await.problem(400), "invalid-header", "{bad}");
    }
    lab.end().await;
}

#[tokio::test]
async fn what_is_not_kept_any_more_is_said_to_be_missing() {
    let lab = Lab::with(patient()).await;
    let old = Event::new(EventKind::ClientOnline, UnixMillis(1), [1; 10]).client(client(1));
    lab.stores.events.record_events(vec![old, online(2, 2)]).await.unwrap();
    lab.stores.events.forget_events(UnixMillis::from(std::time::SystemTime::now())).await.unwrap();
    let stream = lab.read("/v1/events?after=0", "").await;
    let gap = stream.next().await;
    assert_eq!(
        (gap.name.as_str(), gap.data["code"].as_str(), gap.data["oldest"].as_u64()),
        ("gap", Some("gap"), Some(2))
    );
    assert_eq!(stream.next().await.data["client"], client(2).to_string());
    lab.end().await;
}

#[tokio::test]
async fn only_what_is_wanted_is_told() {
    let mut whole = Whole::new().await;
    let (owner, member) = (whole.client(1, "owner").await, whole.client(2, "member").await);
    let (friday, sunday) = (whole.network("friday", owner).await, whole.network("sunday", owner).await);
    whole.join(friday, member).await;
    whole.order(friday, owner, NetworkOrder::Evict(member)).await;
    whole.lab.until_kept(6).await;
    let kinds = async |query: &str| {
        let text = whole.lab.get(&format!("/v1/events?after=0&{query}")).await.body;
        text.lines().filter_map(|line| line.strip_prefix("event: ")).map(str::to_owned).collect::<Vec<_>>()
    };
    let mut all = kinds(&format!("network={friday}")).await;
    all.sort();
    assert_eq!(all, ["end", "member.joined", "member.removed", "network.created"]);
    assert_eq!(kinds(&format!("network={sunday}")).await, ["network.created", "end"]);
    assert_eq!(kinds("kind=member.*,client.lost").await.len(), 3);
    assert_eq!(kinds(&format!("kind=client.registered&client={member}")).await, ["client.registered", "end"]);
    assert_eq!(whole.lab.get("/v1/events?kind=nobody.*").await.problem(400), "invalid-parameter");
    let listed = whole.lab.get("/v1/events/kinds").await.ok();
    let removed = listed["items"].as_array().unwrap().iter().find(|one| one["kind"] == "member.removed").unwrap();
    assert_eq!((&removed["fields"], &removed["kept"]), (&serde_json::json!(["network", "client"]), &Value::Bool(true)));
    whole.told.close();
    whole.end().await;
}

#[tokio::test]
async fn there_are_only_so_many_streams_and_each_ends_with_a_word() {
    let config = EventsConfig { streams: 2, ..patient().events };
    let lab = Lab::with(Config { events: config, ..Config::default() }).await;
    let token = lab.token(&["read", "tokens"]).await;
    let (first, second) = (lab.read("/v1/events", "").await, lab.read_as(&token, "/v1/events", "").await);
    assert_eq!(lab.get("/v1/events").await.problem(429), "too-many-streams");

    let id = lab.get("/v1/tokens").await.ok()["items"][0]["token"].as_str().unwrap().to_owned();
    lab.send("DELETE", &format!("/v1/tokens/{id}"), &lab.authorization()).await.ok();
    let ended = second.next().await;
    assert_eq!((ended.name.as_str(), ended.data["code"].as_str()), ("end", Some("unauthorized")));
    // The place is free again, and a process that leaves says so.
    let third = lab.read("/v1/events", "").await;
    lab.end().await;
    for stream in [first, third] {
        assert_eq!(stream.next().await.data["code"], "leaving");
    }
}

#[tokio::test]
async fn a_reader_that_is_late_gets_all_of_it_in_order() {
    let lab = Lab::with(patient()).await;
    let stream = lab.read("/v1/events?after=0", "").await;
    for batch in 0..20_u64 {
        let events = (0..500).map(|nth| numbered(batch * 500 + nth)).collect();
        lab.stores.events.record_events(events).await.unwrap();
    }
    // What it did not take was not kept for it, but read from the log when it did.
    let mut last = 0;
    for _ in 0..10_000 {
        let id = stream.next().await.id.unwrap();
        assert_eq!(id, last + 1);
        last = id;
    }
    lab.end().await;
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_told_so_and_left() {
    let patience = Duration::from_millis(500);
    let lab = Lab::with(Config { events: EventsConfig { patience, ..patient().events }, ..Config::default() }).await;
    // More than the buffers of the system between the two take.
    for batch in 0..120_u64 {
        let events = (0..500).map(|nth| numbered(batch * 500 + nth)).collect();
        lab.stores.events.record_events(events).await.unwrap();
    }
    let stream = lab.read("/v1/events?after=0", "").await;
    tokio::time::sleep(patience * 4).await;
    let mut last = 0;
    let ended = loop {
        let told = stream.next().await;
        match told.id {
            Some(id) => last = id,
            None => break told,
        }
    };
    assert_eq!((ended.name.as_str(), ended.data["code"].as_str()), ("end", Some("too-slow")));
    assert!((1..60_000).contains(&last), "{last}");
    lab.end().await;
}

#[tokio::test]
async fn a_relay_that_drains_is_told() {
    let lab = Lab::with(patient()).await;
    let stream = lab.read("/v1/events?after=0&kind=relay.*", "").await;
    // The first beats only make it known; who leads is settled meanwhile.
    for _ in 0..3 {
        for draining in [false, true] {
            lab.other.publish(&RelayBeat { draining, ..relay() }).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let told = stream.next().await;
    assert!(told.name == "relay.draining" || told.name == "relay.resumed", "{told:?}");
    assert_eq!(told.data["relay"], relay().relay.to_string());
    lab.end().await;
}

/// Streams that last as long as a test.
fn patient() -> Config {
    let longest = Duration::from_secs(60);
    Config { events: EventsConfig { longest, ..quick() }, ..Config::default() }
}

fn online(nth: u8, drawn: u8) -> Event {
    let at = UnixMillis::from(std::time::SystemTime::now());
    Event::new(EventKind::ClientOnline, at, [drawn; 10]).client(client(nth))
}

fn numbered(nth: u64) -> Event {
    let mut drawn = [0; 10];
    drawn[..8].copy_from_slice(&nth.to_be_bytes());
    Event::new(EventKind::ClientLost, UnixMillis::from(std::time::SystemTime::now()), drawn)
        .client(ClientId::from_bytes([3; 16]))
}

/// An open stream.
pub(crate) struct Stream(std::sync::Arc<std::sync::Mutex<BufReader<TcpStream>>>);

#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) id: Option<u64>,
    pub(crate) name: String,
    pub(crate) data: Value,
}

impl Lab {
    async fn tell(&self, event: Event) {
        self.other.publish(&Happened { events: vec![event] }).await.unwrap();
        let known = async |lab: &Self| {
            let page = lab.stores.events.events_after(0, 500).await.unwrap();
            page.events.iter().any(|kept| kept.event.id == event.id)
        };
        while !known(self).await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until so many events are numbered.
    pub(crate) async fn until_kept(&self, events: u64) {
        while self.stores.events.events_after(0, 1).await.unwrap().newest < events {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn read(&self, path: &str, headers: &str) -> Stream {
        self.read_as(&self.authorization(), path, headers).await
    }

    /// A stream whose beginning was seen.
    async fn read_as(&self, token: &str, path: &str, headers: &str) -> Stream {
        let request = format!("GET {path} HTTP/1.1\r\nHost: admin\r\n{token}{headers}\r\n");
        let address = self.address;
        tokio::task::spawn_blocking(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut lines = BufReader::new(stream);
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                assert!(lines.read_line(&mut head).unwrap() > 0, "{head}");
            }
            assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("text/event-stream"), "{head}");
            let mut line = String::new();
            while !line.starts_with("retry: ") {
                line.clear();
                assert!(lines.read_line(&mut line).unwrap() > 0);
            }
            Stream(std::sync::Arc::new(std::sync::Mutex::new(lines)))
        })
        .await
        .unwrap()
    }
}

impl Stream {
    /// The next message that has data.
    pub(crate) async fn next(&self) -> Told {
        let lines = std::sync::Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || {
            let mut lines = lines.lock().unwrap();
            let mut told = Told { id: None, name: String::new(), data: Value::Null };
            loop {
                let mut line = String::new();
                assert!(lines.read_line(&mut line).unwrap() > 0, "the stream ended without a word");
                match line.trim_end().split_once(": ") {
                    Some(("id", id)) => told.id = Some(id.parse().unwrap()),
                    Some(("event", name)) => name.clone_into(&mut told.name),
                    Some(("data", data)) => told.data = serde_json::from_str(data).unwrap(),
                    _ if line == "\n" && !told.data.is_null() => return told,
                    // Sizes of chunks, comments and empty lines.
                    _ => {}
                }
            }
        })
        .await
        .unwrap()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let lines = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let _ = lines.get_ref().shutdown(Shutdown::Both);
    }
}
