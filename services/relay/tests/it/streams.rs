//! Legs over TLS: what they carry, and what becomes of streams that are none, too many, too slow or too loud.

use std::{
    collections::VecDeque,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bus::{Bus, memory::Hub};
use domain::{Bandwidth, InstanceId, PayerId, RelayId, UnixMillis};
use futures_util::{SinkExt as _, StreamExt as _};
use relay::{Config, Metrics, Seams, StreamConfig, core::Event, stream::Ended};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};
use tokio_tungstenite::{
    WebSocketStream, accept_async, client_async,
    tungstenite::{
        Error as WebError, Message as WebMessage,
        protocol::frame::{
            Frame,
            coding::{Data as OpData, OpCode},
        },
    },
};
use tokio_util::sync::CancellationToken;
use wire::{
    relay::{Cookie, HEADER_SIZE, Join, MAX_DATAGRAM, Message, Slot, prove},
    stream::{MAX_FRAMES, MAX_MESSAGE, Outbox, frames},
    ticket::{LegSide, PairNonce, Ticket, TicketRoot},
};

use crate::lab::{Offer, offer};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn legs_of_all_kinds_meet_at_every_worker() {
    let lab = Lab::start(StreamConfig::default(), 3);
    for pair in 0..6 {
        let [anna, bert] = lab.offers(pair);
        let mut a = lab.dial().await;
        let slot = a.join(&anna).await;
        let datagram = |nth: u8| Message::Data { slot, payload: &[nth; 500] }.to_vec();
        if pair % 2 == 0 {
            let b = Socket::join(lab.udp, &bert).await;
            for nth in 0..50 {
                a.send(&[&datagram(nth), &datagram(nth + 100)]).await;
                assert_eq!((b.receive().await, b.receive().await), (datagram(nth), datagram(nth + 100)));
                b.0.send(&datagram(nth)).await.unwrap();
                assert_eq!(a.receive().await, datagram(nth));
            }
        } else {
            let mut b = lab.dial().await;
            assert_eq!(b.join(&bert).await, slot);
            for nth in 0..50 {
                a.send(&[&datagram(nth)]).await;
                assert_eq!(b.receive().await, datagram(nth));
                b.send(&[&datagram(nth)]).await;
                assert_eq!(a.receive().await, datagram(nth));
            }
        }
        a.send(&[&Message::Ping { slot, nonce: 5 }.to_vec()]).await;
        assert_eq!(a.receive().await, Message::Pong { slot, nonce: 5 }.to_vec());
    }
    assert_eq!(lab.metrics.forwarded_packets.get(), 3 * 150 + 3 * 100);
    assert_eq!(lab.metrics.pairs.get(), 6);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_packets_pass_between_legs_of_all_kinds() {
    let lab = Lab::start(StreamConfig::default(), 3);
    for pair in 0..6 {
        let [anna, bert] = lab.offers(pair);
        let (mut stream, socket) = (lab.dial().await, Socket::open(lab.udp));
        let slot = if pair % 2 == 0 {
            let slot = stream.join_bringing(&anna, b"by stream").await;
            assert_eq!(socket.join_bringing(&bert, b"by udp").await, slot);
            slot
        } else {
            let slot = socket.join_bringing(&anna, b"by udp").await;
            assert_eq!(stream.join_bringing(&bert, b"by stream").await, slot);
            slot
        };
        assert_eq!(socket.receive().await, Message::Data { slot, payload: b"by stream" }.to_vec());
        assert_eq!(stream.receive().await, Message::Data { slot, payload: b"by udp" }.to_vec());
        let [anna, bert] = lab.offers(pair + 100);
        let mut second = lab.dial().await;
        let slot = stream.join_bringing(&anna, b"from one stream").await;
        assert_eq!(second.join_bringing(&bert, b"to another").await, slot);
        assert_eq!(second.receive().await, Message::Data { slot, payload: b"from one stream" }.to_vec());
        assert_eq!(stream.receive().await, Message::Data { slot, payload: b"to another" }.to_vec());
    }
    assert_eq!(lab.metrics.events(Event::FirstParked), 12);
    assert_eq!(lab.metrics.events(Event::FirstDelivered), 12);
    assert_eq!(lab.metrics.forwarded_packets.get(), 24);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_stream_carries_all_pairs_of_a_client() {
    let lab = Lab::start(StreamConfig::default(), 2);
    let mut client = lab.dial().await;
    let mut peers = Vec::new();
    for pair in 0..20 {
        let [anna, bert] = lab.offers(pair);
        let slot = client.join(&anna).await;
        peers.push((slot, Socket::join(lab.udp, &bert).await));
    }
    let all: Vec<_> =
        peers.iter().map(|(slot, _)| Message::Data { slot: *slot, payload: b"to each" }.to_vec()).collect();
    client.send(&all.iter().map(Vec::as_slice).collect::<Vec<_>>()).await;
    for ((_, peer), sent) in peers.iter().zip(&all) {
        assert_eq!(peer.receive().await, *sent);
    }
    assert_eq!(lab.metrics.streams.open.get(), 1);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leg_moves_between_udp_and_a_stream() {
    let lab = Lab::start(StreamConfig::default(), 1);
    let [anna, bert] = lab.offers(1);
    let (a, b) = (Socket::join(lab.udp, &anna).await, Socket::join(lab.udp, &bert).await);
    tokio::time::sleep(Duration::from_millis(1_050)).await;
    let mut stream = lab.dial().await;
    let slot = stream.join(&anna).await;
    let datagram = Message::Data { slot, payload: b"after the move" }.to_vec();
    b.0.send(&datagram).await.unwrap();
    assert_eq!(stream.receive().await, datagram);
    tokio::time::sleep(Duration::from_millis(1_050)).await;
    assert_eq!(join(&a, &anna).await, slot);
    b.0.send(&datagram).await.unwrap();
    assert_eq!(a.receive().await, datagram);
    stream.send(&[&datagram]).await;
    until("the old place means nothing", || lab.metrics.dropped(relay::core::DropReason::NotALeg).get() == 1).await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_were_handed_over_are_legs_like_others() {
    let (door, handed) = relay::stream::door();
    door.serve_at(vec!["relay.example:443".parse().unwrap()]);
    let mut lab =
        Lab::start_with(StreamConfig { connections_per_source: 1, ..StreamConfig::default() }, 1, Some(handed));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    lab.stream = listener.local_addr().unwrap();
    let tls = TlsAcceptor::from(Arc::new(lab.certificate.server()));
    let mut accepting = JoinSet::new();
    accepting.spawn(async move {
        loop {
            let (stream, from) = listener.accept().await.unwrap();
            door.take(accept_async(tls.accept(stream).await.unwrap()).await.unwrap(), from);
        }
    });
    let [anna, bert] = lab.offers(1);
    let mut a = lab.dial().await;
    let slot = a.join(&anna).await;
    let b = Socket::join(lab.udp, &bert).await;
    let datagram = Message::Data { slot, payload: b"handed over" }.to_vec();
    b.0.send(&datagram).await.unwrap();
    assert_eq!(a.receive().await, datagram);
    let mut second = lab.dial().await;
    assert_eq!(second.closed().await, Some(1013), "limits are the relay's own");
    accepting.shutdown().await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_stream_is_turned_away() {
    let config = StreamConfig { handshake_timeout: Duration::from_millis(500), ..StreamConfig::default() };
    let lab = Lab::start(config, 1);
    for garbage in [&b"GET /relay HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 0xff, 0xff, 1, 2], &[0; 4_000], b""] {
        let mut stream = TcpStream::connect(lab.stream).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        let mut rest = Vec::new();
        // An alert or a reset, but an end.
        let ended = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "{garbage:?}");
    }
    assert_eq!(lab.upgrade("/").await.err(), Some(404));
    assert_eq!(lab.upgrade("/control").await.err(), Some(404));
    let mut slow = lab.tls().await;
    for byte in b"GET /relay HTTP/1.1\r\nHost: x\r\n" {
        if slow.write_all(&[*byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let ended = lab.metrics.streams.ended(Ended::Handshake);
    until("all are counted", || ended.get() == 4 + 2 + 1).await;
    assert_eq!(lab.metrics.streams.open.get(), 0);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_over_which_nobody_joins_is_closed_whatever_it_says() {
    let config = StreamConfig { handshake_timeout: Duration::from_millis(700), ..StreamConfig::default() };
    let lab = Lab::start(config, 1);
    let mut silent = lab.dial().await;
    let mut noisy = lab.dial().await;
    let [anna, _] = lab.offers(1);
    let mut joined = lab.dial().await;
    joined.join(&anna).await;
    let ping = Message::Ping { slot: Slot(1), nonce: 1 }.to_vec();
    for _ in 0..20 {
        // Fails as soon as it is closed.
        let _ = noisy.try_send(&[&ping]).await;
        let _ = noisy.web.send(WebMessage::Ping(vec![1].into())).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!((silent.closed().await, noisy.closed().await), (Some(1008), Some(1008)));
    assert_eq!(lab.metrics.streams.ended(Ended::Unproved).get(), 2);
    joined.send(&[&Message::Ping { slot: Slot(0), nonce: 2 }.to_vec()]).await;
    assert_eq!(lab.metrics.streams.open.get(), 1);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_beyond_the_limits_close_the_stream_with_a_code() {
    let lab = Lab::start(StreamConfig::default(), 1);
    let frame = |size: usize| [&u16::try_from(size).unwrap().to_be_bytes()[..], &vec![0xb0; size]].concat();
    let wrong = [
        (WebMessage::Binary(frame(MAX_DATAGRAM + 1).into()), 1009),
        (WebMessage::Binary(vec![0; MAX_MESSAGE + 1].into()), 1009),
        (WebMessage::Binary(vec![0; 10 * MAX_MESSAGE].into()), 1009),
        (WebMessage::Binary(frame(HEADER_SIZE - 1).into()), 1002),
        (WebMessage::Binary(frame(100)[..50].to_vec().into()), 1002),
        (WebMessage::Binary(frame(HEADER_SIZE).repeat(MAX_FRAMES + 1).into()), 1002),
        (WebMessage::Text("hello".into()), 1003),
    ];
    for (nth, (message, code)) in wrong.into_iter().enumerate() {
        let mut client = lab.dial().await;
        // A large one may be cut off while it is written.
        let _ = client.web.send(message).await;
        let closed = client.closed().await;
        assert!(closed == Some(code) || nth == 2 && closed.is_none(), "{nth}: {closed:?}");
    }
    assert_eq!(lab.metrics.streams.ended(Ended::Malformed).get(), 7);

    let [anna, _] = lab.offers(1);
    let mut client = lab.dial().await;
    let slot = client.join(&anna).await;
    let largest = [frame(MAX_DATAGRAM).repeat(7), frame(MAX_MESSAGE - 7 * (2 + MAX_DATAGRAM) - 2)].concat();
    for legal in [largest, frame(HEADER_SIZE).repeat(MAX_FRAMES), Vec::new()] {
        client.web.send(WebMessage::Binary(legal.into())).await.unwrap();
    }
    let ping = Message::Ping { slot, nonce: 9 }.to_vec();
    client.send(&[&ping]).await;
    assert_eq!(client.receive().await, Message::Pong { slot, nonce: 9 }.to_vec());
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_bounded_in_all_of_one_source_and_in_their_handshakes() {
    let config = StreamConfig { connections_per_source: 3, ..StreamConfig::default() };
    let lab = Lab::start(config, 1);
    let mut kept = Vec::new();
    for _ in 0..3 {
        kept.push(lab.dial().await);
    }
    for _ in 0..20 {
        lab.is_refused().await;
    }
    assert_eq!(lab.metrics.streams.ended(Ended::SourceFull).get(), 20);
    drop(kept.pop());
    until("there is room again", || lab.metrics.streams.open.get() == 2).await;
    lab.dial().await;
    lab.stop().await;

    let lab = Lab::start(StreamConfig { connections: 1, ..StreamConfig::default() }, 1);
    let _first = lab.dial().await;
    lab.is_refused().await;
    assert_eq!(lab.metrics.streams.ended(Ended::Full).get(), 1);
    lab.stop().await;

    let lab = Lab::start(StreamConfig { unfinished: 2, ..StreamConfig::default() }, 1);
    let halves = [TcpStream::connect(lab.stream).await.unwrap(), TcpStream::connect(lab.stream).await.unwrap()];
    lab.is_refused().await;
    drop(halves);
    until("they are gone", || lab.metrics.streams.ended(Ended::Handshake).get() == 2).await;
    lab.dial().await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_loses_and_others_do_not_wait() {
    let lab = Lab::start(StreamConfig::default(), 1);
    let ([slow, fast], [other, peer]) = (lab.offers(1), lab.offers(2));
    let mut slow_stream = lab.dial().await;
    let slot = slow_stream.join(&slow).await;
    let sender = Socket::join(lab.udp, &fast).await;
    let mut other_stream = lab.dial().await;
    let other_slot = other_stream.join(&other).await;
    let peer = Socket::join(lab.udp, &peer).await;
    let large = Message::Data { slot, payload: &[7; 1_400] }.to_vec();
    let overflows = &lab.metrics.streams.overflows;
    let mut sent = 0;
    while overflows.get() < 500 {
        for _ in 0..50 {
            sender.0.send(&large).await.unwrap();
            sent += 1;
        }
        let small = Message::Data { slot: other_slot, payload: b"meanwhile" }.to_vec();
        peer.0.send(&small).await.unwrap();
        assert_eq!(other_stream.receive().await, small);
        assert!(sent < 50_000, "what is not read is kept without end");
    }
    // What had room is there, whole, and the stream goes on.
    for _ in 0..20 {
        assert_eq!(slow_stream.receive().await, large);
    }
    slow_stream.send(&[&Message::Ping { slot, nonce: 3 }.to_vec()]).await;
    while slow_stream.receive().await != (Message::Pong { slot, nonce: 3 }).to_vec() {}
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_flood_do_not_starve_datagrams_or_each_other() {
    let lab = Lab::start(StreamConfig::default(), 1);
    let mut floods = JoinSet::new();
    for pair in 10..13 {
        let [flooding, _] = lab.offers(pair);
        let mut stream = lab.dial().await;
        let slot = stream.join(&flooding).await;
        let frame = Message::Data { slot, payload: &[] }.to_vec();
        floods.spawn(async move {
            let all = [frame.as_slice(); MAX_FRAMES];
            while stream.try_send(&all).await.is_ok() {}
        });
    }
    // One sends fragments that never become a message.
    let ([fragmenting, _], mut stream) = (lab.offers(13), lab.dial().await);
    stream.join(&fragmenting).await;
    floods.spawn(async move {
        let fragment = |kind| WebMessage::Frame(Frame::message(Vec::new(), OpCode::Data(kind), false));
        let mut sent = stream.web.feed(fragment(OpData::Binary)).await;
        while sent.is_ok() {
            sent = stream.web.feed(fragment(OpData::Continue)).await;
        }
    });
    until("they flood", || lab.metrics.streams.frames.get() > 5_000).await;
    let ([anna, bert], [carl, dora]) = (lab.offers(1), lab.offers(2));
    let (a, b) = (Socket::join(lab.udp, &anna).await, Socket::join(lab.udp, &bert).await);
    let (mut c, d) = (lab.dial().await, Socket::join(lab.udp, &dora).await);
    let slots = (join(&a, &anna).await, c.join(&carl).await);
    for nth in 0..200_u8 {
        let datagram = Message::Data { slot: slots.0, payload: &[nth] }.to_vec();
        a.0.send(&datagram).await.unwrap();
        assert_eq!(b.receive().await, datagram);
        let datagram = Message::Data { slot: slots.1, payload: &[nth] }.to_vec();
        c.send(&[&datagram]).await;
        assert_eq!(d.receive().await, datagram);
    }
    floods.shutdown().await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_waits_for_other_workers_is_read_again_and_loses_nothing() {
    let lab = Lab::start(StreamConfig::default(), 3);
    let mut client = lab.dial().await;
    let mut slots = Vec::new();
    for pair in 0..6 {
        slots.push(client.join(&lab.offers(pair)[0]).await);
    }
    let before = lab.metrics.streams.frames.get();
    let frames: Vec<_> = slots.iter().map(|slot| Message::Data { slot: *slot, payload: &[] }.to_vec()).collect();
    let all: Vec<_> = frames.iter().map(Vec::as_slice).cycle().take(MAX_FRAMES).collect();
    for _ in 0..500 {
        client.send(&all).await;
    }
    for &slot in &slots {
        client.send(&[&Message::Ping { slot, nonce: 7 }.to_vec()]).await;
        assert_eq!(client.receive().await, Message::Pong { slot, nonce: 7 }.to_vec());
    }
    let sent = 500 * MAX_FRAMES as u64 + 6;
    until("each was looked at", || lab.metrics.streams.frames.get() == before + sent).await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_silent_or_gone_are_closed() {
    let lab = Lab::start(StreamConfig { idle: Duration::from_millis(600), ..StreamConfig::default() }, 1);
    let ([idle, _], [busy, _]) = (lab.offers(1), lab.offers(2));
    let (mut silent, mut alive) = (lab.dial().await, lab.dial().await);
    silent.join(&idle).await;
    let slot = alive.join(&busy).await;
    for nonce in 0..15 {
        alive.send(&[&Message::Ping { slot, nonce }.to_vec()]).await;
        assert_eq!(alive.receive().await, Message::Pong { slot, nonce }.to_vec());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(silent.closed().await, Some(1008));
    assert_eq!(lab.metrics.streams.ended(Ended::Idle).get(), 1);
    drop(alive);
    until("nobody is left", || lab.metrics.streams.open.get() == 0).await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_drains_tells_legs_over_streams_too() {
    let lab = Lab::start(StreamConfig::default(), 1);
    let [anna, _] = lab.offers(1);
    let mut client = lab.dial().await;
    let slot = client.join(&anna).await;
    lab.shutdown.cancel();
    let code = wire::Code::RelayDraining.number();
    assert_eq!(client.receive().await, Message::Note { slot, code }.to_vec());
    assert_eq!(client.closed().await, Some(1001));
    lab.stop().await;
}

#[test]
fn streams_need_a_certificate_and_endpoints_a_listener() {
    let udp = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
    let listen = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
    let streams = StreamConfig { listen, ..StreamConfig::default() };
    let config = Config { listen: udp, streams, ..Config::default() };
    assert!(matches!(relay::bind(&config, InstanceId::from_bytes([7; 16])), Err(relay::Error::Tls(_))));
}

#[tokio::test]
async fn endpoints_without_a_listener_are_refused() {
    let streams = StreamConfig { public: vec!["relay.example:443".parse().unwrap()], ..StreamConfig::default() };
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), streams, 1);
    let bound = relay::bind(&config, InstanceId::from_bytes([7; 16])).unwrap();
    let metrics = Arc::new(Metrics::register(&prometheus::Registry::new()).unwrap());
    let seams = Seams { bus: Bus::memory(&Hub::default(), "relay"), metrics };
    let refused = bound.run(seams, CancellationToken::new()).await;
    assert!(matches!(refused, Err(relay::Error::NoStreamListener)), "{refused:?}");
}

/// A relay that takes streams.
pub(crate) struct Lab {
    pub(crate) udp: SocketAddr,
    stream: SocketAddr,
    pub(crate) id: RelayId,
    pub(crate) metrics: Arc<Metrics>,
    shutdown: CancellationToken,
    tasks: JoinSet<Result<(), relay::Error>>,
    certificate: Certificate,
    _dir: tempfile::TempDir,
}

/// A stream of a client.
pub(crate) struct Client {
    web: WebSocketStream<TlsStream<TcpStream>>,
    received: VecDeque<Vec<u8>>,
}

/// A leg over UDP.
pub(crate) struct Socket(pub(crate) tokio::net::UdpSocket);

struct Certificate(rcgen::CertifiedKey<rcgen::KeyPair>);

impl Lab {
    pub(crate) fn start(streams: StreamConfig, workers: u8) -> Self {
        Self::start_with(streams, workers, None)
    }

    fn start_with(streams: StreamConfig, workers: u8, handed: Option<relay::HandedStreams>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let certificate = Certificate(rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap());
        let (tls_certificate, tls_key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
        std::fs::write(&tls_key, certificate.0.signing_key.serialize_pem()).unwrap();
        std::fs::write(&tls_certificate, certificate.0.cert.pem()).unwrap();
        let listen = if handed.is_none() { vec![SocketAddr::from(([127, 0, 0, 1], 0))] } else { Vec::new() };
        let streams = StreamConfig { listen, tls_certificate, tls_key, ..streams };
        let mut bound = relay::bind(&config(dir.path(), streams, workers), InstanceId::from_bytes([7; 16])).unwrap();
        if let Some(handed) = handed {
            bound.take_streams(handed);
        }
        let endpoint = &bound.stream_endpoints()[0];
        let stream = SocketAddr::new(endpoint.host().parse().unwrap_or([127, 0, 0, 1].into()), endpoint.port());
        let metrics = Arc::new(Metrics::register(&prometheus::Registry::new()).unwrap());
        let seams = Seams { bus: Bus::memory(&Hub::default(), "relay"), metrics: Arc::clone(&metrics) };
        let (udp, id, shutdown) = (bound.endpoints()[0], bound.relay(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(bound.run(seams, shutdown.clone()));
        Self { udp, stream, id, metrics, shutdown, tasks, certificate, _dir: dir }
    }

    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        self.tasks.join_next().await.unwrap().unwrap().unwrap();
        assert_eq!(self.metrics.streams.open.get(), 0, "streams are left");
    }

    /// Tickets for both legs of a pair.
    pub(crate) fn offers(&self, pair: u8) -> [Offer; 2] {
        let key = TicketRoot::new([1; 32]).key(self.id);
        let expires = UnixMillis::from(SystemTime::now()).plus(Duration::from_secs(60));
        let (pair, rate, payer) = (PairNonce([pair; 16]), Bandwidth::UNLIMITED, PayerId::NOBODY);
        let ticket = |side| Ticket { relay: self.id, pair, side, rate, payer, expires };
        [offer(&key, &ticket(LegSide::A)), offer(&key, &ticket(LegSide::B))]
    }

    pub(crate) async fn dial(&self) -> Client {
        Client { web: self.upgrade("/relay").await.unwrap(), received: VecDeque::new() }
    }

    async fn tls(&self) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.stream).await.unwrap();
        let tls = TlsConnector::from(Arc::new(self.certificate.client()));
        tls.connect(NAME.try_into().unwrap(), stream).await.unwrap()
    }

    /// A WebSocket to `path`; the status when it was refused.
    async fn upgrade(&self, path: &str) -> Result<WebSocketStream<TlsStream<TcpStream>>, u16> {
        match client_async(format!("wss://{NAME}{path}"), self.tls().await).await {
            Ok((web, _)) => Ok(web),
            Err(WebError::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    /// A connection is ended before anything is said.
    async fn is_refused(&self) {
        let mut stream = TcpStream::connect(self.stream).await.unwrap();
        let read = timeout(PATIENCE, stream.read(&mut [0; 16])).await.unwrap();
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
}

impl Certificate {
    fn server(&self) -> rustls::ServerConfig {
        let key = rustls_pki_types::PrivateKeyDer::try_from(self.0.signing_key.serialize_der()).unwrap();
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.0.cert.der().clone()], key)
            .unwrap()
    }

    fn client(&self) -> rustls::ClientConfig {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.0.cert.der().clone()).unwrap();
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth()
    }
}

impl Client {
    pub(crate) async fn send(&mut self, all: &[&[u8]]) {
        self.try_send(all).await.unwrap();
    }

    async fn try_send(&mut self, all: &[&[u8]]) -> Result<(), WebError> {
        let mut outbox = Outbox::new(usize::MAX);
        for frame in all {
            assert!(outbox.push(frame));
        }
        while let Some(message) = outbox.take() {
            self.web.send(WebMessage::Binary(message.into())).await?;
        }
        Ok(())
    }

    pub(crate) async fn receive(&mut self) -> Vec<u8> {
        while self.received.is_empty() {
            match timeout(PATIENCE, self.web.next()).await.expect("nothing came") {
                Some(Ok(WebMessage::Binary(message))) => {
                    self.received.extend(frames(&message).unwrap().map(<[u8]>::to_vec));
                }
                other => panic!("{other:?}"),
            }
        }
        self.received.pop_front().unwrap()
    }

    pub(crate) async fn join(&mut self, offer: &Offer) -> Slot {
        let mut cookie = Cookie::default();
        loop {
            let proof = prove(&offer.key, cookie, &offer.sealed);
            self.send(&[&Message::Join(Join { cookie, ticket: &offer.sealed, proof: &proof }).to_vec()]).await;
            match Message::parse(&self.receive().await) {
                Some(Message::Challenge { cookie: fresh }) => cookie = fresh,
                Some(Message::Joined { slot, .. }) => return slot,
                other => panic!("{other:?}"),
            }
        }
    }

    async fn join_bringing(&mut self, offer: &Offer, first: &[u8]) -> Slot {
        self.send(&[&Message::Ask.to_vec()]).await;
        let join = bringing(offer, &self.receive().await, first);
        self.send(&[&join]).await;
        slot(&self.receive().await)
    }

    /// What the relay closed the stream with; `None` when it just ended.
    async fn closed(&mut self) -> Option<u16> {
        loop {
            match timeout(PATIENCE, self.web.next()).await.expect("the stream ends") {
                Some(Ok(WebMessage::Close(frame))) => return frame.map(|frame| frame.code.into()),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    }
}

/// A join with a first packet, with the cookie of this answer.
fn bringing(offer: &Offer, answer: &[u8], first: &[u8]) -> Vec<u8> {
    let Some(Message::Challenge { cookie }) = Message::parse(answer) else { panic!("no challenge") };
    let proof = prove(&offer.key, cookie, &offer.sealed);
    Message::JoinFirst { join: Join { cookie, ticket: &offer.sealed, proof: &proof }, first }.to_vec()
}

fn slot(answer: &[u8]) -> Slot {
    let Some(Message::Joined { slot, .. }) = Message::parse(answer) else { panic!("no slot") };
    slot
}

impl Socket {
    fn open(relay: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(relay).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self(socket.try_into().unwrap())
    }

    pub(crate) async fn join(relay: SocketAddr, offer: &Offer) -> Self {
        let socket = Self::open(relay);
        join(&socket, offer).await;
        socket
    }

    async fn join_bringing(&self, offer: &Offer, first: &[u8]) -> Slot {
        self.0.send(&Message::Ask.to_vec()).await.unwrap();
        self.0.send(&bringing(offer, &self.receive().await, first)).await.unwrap();
        slot(&self.receive().await)
    }

    pub(crate) async fn receive(&self) -> Vec<u8> {
        let mut buffer = [0; 2_100];
        let length = timeout(PATIENCE, self.0.recv(&mut buffer)).await.expect("nothing came").unwrap();
        buffer[..length].to_vec()
    }
}

pub(crate) async fn join(socket: &Socket, offer: &Offer) -> Slot {
    let mut cookie = Cookie::default();
    loop {
        let proof = prove(&offer.key, cookie, &offer.sealed);
        socket.0.send(&Message::Join(Join { cookie, ticket: &offer.sealed, proof: &proof }).to_vec()).await.unwrap();
        match Message::parse(&socket.receive().await) {
            Some(Message::Challenge { cookie: fresh }) => cookie = fresh,
            Some(Message::Joined { slot, .. }) => return slot,
            other => panic!("{other:?}"),
        }
    }
}

fn config(dir: &std::path::Path, streams: StreamConfig, workers: u8) -> Config {
    let (ticket_root, observation_key) = (dir.join("tickets.key"), dir.join("observations.key"));
    std::fs::write(&ticket_root, [1; 32]).unwrap();
    std::fs::write(&observation_key, [2; 32]).unwrap();
    let (listen, drain) = (vec![SocketAddr::from(([127, 0, 0, 1], 0))], Duration::from_secs(1));
    Config { listen, workers, ticket_root, observation_key, drain, streams, ..Config::default() }
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(PATIENCE, waiting).await.is_ok(), "{what}: not within {PATIENCE:?}");
}

const NAME: &str = "relay.example";
const PATIENCE: Duration = Duration::from_secs(60);
