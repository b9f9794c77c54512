//! The role with its thread, its socket and its beats.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bus::{Bus, memory::Hub};
use contract::rendezvous::RelayBeat;
use domain::{Bandwidth, InstanceId, Probe, SessionTag, TransactionId, UnixMillis, Vantage};
use relay::{Config, Metrics, Seams, core::DropReason};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wire::{
    probe::{self, Answer},
    relay::{Cookie, Join, Message, Slot, prove},
    ticket::{LegSide, PairNonce, Ticket, TicketRoot},
};

use crate::lab::{Offer, offer};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_travel_between_two_real_legs() {
    let dir = tempfile::tempdir().unwrap();
    let (ticket_root, observation_key) = (dir.path().join("tickets.key"), dir.path().join("observations.key"));
    std::fs::write(&ticket_root, [1; 32]).unwrap();
    std::fs::write(&observation_key, [2; 32]).unwrap();
    let config = Config {
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        ticket_root,
        observation_key,
        drain: Duration::from_millis(200),
        ..Config::default()
    };
    let bound = relay::bind(&config, InstanceId::from_bytes([7; 16])).unwrap();
    let (endpoint, id) = (bound.endpoints()[0], bound.relay());

    let hub = Hub::default();
    let watcher = Bus::memory(&hub, "watcher");
    let (told, mut beats) = mpsc::channel(64);
    let _watching = watcher
        .subscribe(1, move |beat: RelayBeat| {
            let told = told.clone();
            async move { told.send(beat).await }
        })
        .await
        .unwrap();
    let metrics = Arc::new(Metrics::register(&prometheus::Registry::new()).unwrap());
    let seams = Seams { bus: Bus::memory(&hub, "relay"), metrics: Arc::clone(&metrics) };
    let shutdown = CancellationToken::new();
    #[expect(clippy::disallowed_methods, reason = "the handle owns the task")]
    let role = tokio::spawn(bound.run(seams, shutdown.clone()));
    assert_eq!(beats.recv().await.unwrap().endpoints, [endpoint]);

    let key = TicketRoot::new([1; 32]).key(id);
    let expires = UnixMillis::from(SystemTime::now()).plus(Duration::from_secs(60));
    let pair = PairNonce([5; 16]);
    let ticket = |side| Ticket { relay: id, pair, side, rate: Bandwidth::UNLIMITED, expires };
    let (anna, bert) = (offer(&key, &ticket(LegSide::A)), offer(&key, &ticket(LegSide::B)));
    let seen = Arc::clone(&metrics);
    tokio::task::spawn_blocking(move || {
        let (a, b) = (leg(endpoint), leg(endpoint));
        let slot = join(&a, &anna);
        assert_eq!(join(&b, &bert), slot);
        let datagram = Message::Data { slot, payload: b"over the relay" }.to_vec();
        for _ in 0..200 {
            a.send(&datagram).unwrap();
            assert_eq!(receive(&b), datagram);
            b.send(&datagram).unwrap();
            assert_eq!(receive(&a), datagram);
        }
        leg(endpoint).send(&datagram).unwrap();
        while seen.dropped(DropReason::NotALeg).get() == 0 {
            std::thread::yield_now();
        }

        let asked = Probe {
            transaction: TransactionId([6; 12]),
            tag: Some(SessionTag([3; 16])),
            answer_from: Vantage::Asked,
            delay_s: 0,
        };
        a.send(&probe::question(&asked)).unwrap();
        let Answer::Reflected(reflected) = probe::answer(&receive(&a)).unwrap() else { panic!("no reflection") };
        assert_eq!(reflected.seen, a.local_addr().unwrap());
    })
    .await
    .unwrap();
    assert_eq!(metrics.forwarded_packets.get(), 400);
    assert_eq!(metrics.pairs.get(), 1);
    assert_eq!(metrics.reflections.get(), 1);

    shutdown.cancel();
    role.await.unwrap().unwrap();
    while !beats.recv().await.unwrap().draining {}
}

#[test]
fn listeners_and_keys_are_checked_at_the_start() {
    let none = Config { listen: Vec::new(), ..Config::default() };
    assert!(matches!(relay::bind(&none, InstanceId::from_bytes([7; 16])), Err(relay::Error::NoListener)));
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let busy = Config { listen: vec![taken.local_addr().unwrap()], ..Config::default() };
    let error = relay::bind(&busy, InstanceId::from_bytes([7; 16])).unwrap_err().to_string();
    assert!(error.contains(&taken.local_addr().unwrap().to_string()), "{error}");
}

fn leg(relay: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket.connect(relay).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer).unwrap();
    buffer[..length].to_vec()
}

fn join(socket: &UdpSocket, offer: &Offer) -> Slot {
    let mut cookie = Cookie::default();
    loop {
        let proof = prove(&offer.key, cookie, &offer.sealed);
        socket.send(&Message::Join(Join { cookie, ticket: &offer.sealed, proof: &proof }).to_vec()).unwrap();
        match Message::parse(&receive(socket)) {
            Some(Message::Challenge { cookie: fresh }) => cookie = fresh,
            Some(Message::Joined { slot, .. }) => return slot,
            other => panic!("{other:?}"),
        }
    }
}
