//! The role with its thread, its socket and its beats.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use bus::{Bus, memory::Hub};
use contract::rendezvous::{ReflectFrom, RelayBeat};
use domain::{Bandwidth, InstanceId, PayerId, Probe, RelayId, SessionTag, TransactionId, UnixMillis, Vantage};
use nix::sys::socket::{setsockopt, sockopt};
use relay::{Config, Metrics, Seams, core::DropReason, steer::Workers};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;
use wire::{
    probe::{self, Answer, ObservationKey},
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
    let ticket = |side| Ticket { relay: id, pair, side, rate: Bandwidth::UNLIMITED, payer: PayerId::NOBODY, expires };
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

        a.send(&probe::question(&asked(Vantage::Asked, 0))).unwrap();
        let Answer::Reflected(reflected) = probe::answer(&receive(&a)).unwrap() else { panic!("no reflection") };
        assert_eq!(reflected.seen, a.local_addr().unwrap());
    })
    .await
    .unwrap();
    counted(&metrics, 400).await;
    assert_eq!(metrics.pairs.get(), 1);
    assert_eq!(metrics.reflections.get(), 1);

    shutdown.cancel();
    role.await.unwrap().unwrap();
    while !beats.recv().await.unwrap().draining {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_legs_of_a_pair_meet_over_different_families() {
    let role = Role::start(&["127.0.0.1:0", "[::1]:0"], Config::default());
    let [v4, v6] = role.endpoints[..] else { panic!("{:?}", role.endpoints) };
    let key = TicketRoot::new([1; 32]).key(role.id);
    let expires = UnixMillis::from(SystemTime::now()).plus(Duration::from_secs(60));
    let pair = PairNonce([5; 16]);
    let ticket =
        |side| Ticket { relay: role.id, pair, side, rate: Bandwidth::UNLIMITED, payer: PayerId::NOBODY, expires };
    let (anna, bert) = (offer(&key, &ticket(LegSide::A)), offer(&key, &ticket(LegSide::B)));
    tokio::task::spawn_blocking(move || {
        let (a, b) = (leg(v4), leg(v6));
        let slot = join(&a, &anna);
        assert_eq!(join(&b, &bert), slot);
        let datagram = Message::Data { slot, payload: b"over the relay" }.to_vec();
        for _ in 0..50 {
            a.send(&datagram).unwrap();
            assert_eq!(receive(&b), datagram);
            b.send(&datagram).unwrap();
            assert_eq!(receive(&a), datagram);
        }
        for (socket, reflector) in [(&a, v4), (&b, v6)] {
            socket.send(&probe::question(&asked(Vantage::Asked, 0))).unwrap();
            let Ok(Answer::Reflected(reflected)) = probe::answer(&receive(socket)) else { panic!("no reflection") };
            assert_eq!(reflected.seen, socket.local_addr().unwrap());
            let (now, observation) = (UnixMillis::from(SystemTime::now()), reflected.observation.unwrap());
            let observed = ObservationKey::new(&[2; 32]).open(&observation, TAG, now).unwrap();
            assert_eq!((observed.seen, observed.reflector), (reflected.seen, reflector));
        }
    })
    .await
    .unwrap();
    role.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pairs_are_spread_over_workers_and_meet_through_any_port() {
    let role = Role::start(&["127.0.0.1:0", "127.0.0.1:0", "[::1]:0"], Config { workers: 4, ..Config::default() });
    let endpoints = role.endpoints.clone();
    let key = TicketRoot::new([1; 32]).key(role.id);
    tokio::task::spawn_blocking(move || {
        let workers = Workers::new(4);
        let mut used = [false; 4];
        for (nth, nonce) in (0_u8..24).map(|nth| (nth, PairNonce([nth.wrapping_mul(73); 16]))) {
            let ticket = |side| offer(&key, &ticket(nonce, side));
            let (a, b) = (leg(endpoints[usize::from(nth) % 3]), leg(endpoints[usize::from(nth / 3) % 3]));
            let slot = join(&a, &ticket(LegSide::A));
            assert_eq!(join(&b, &ticket(LegSide::B)), slot);
            assert_eq!(workers.of_slot(slot), Some(workers.of_pair(&nonce)));
            used[usize::from(workers.of_pair(&nonce))] = true;
            let datagram = Message::Data { slot, payload: b"over the relay" }.to_vec();
            a.send(&datagram).unwrap();
            assert_eq!(receive(&b), datagram);
            b.send(&datagram).unwrap();
            assert_eq!(receive(&a), datagram);
        }
        assert_eq!(used, [true; 4]);
    })
    .await
    .unwrap();
    assert_eq!(role.metrics.pairs.get(), 24);
    counted(&role.metrics, 48).await;
    role.stop().await;
}

/// Rows that cross the kernel as one message arrive as they were sent: whole, in order, at their own leg.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_datagrams_keep_their_order_and_their_legs() {
    let role = Role::start(&["127.0.0.1:0"], Config { workers: 1, ..Config::default() });
    let relay = role.endpoints[0];
    let key = TicketRoot::new([1; 32]).key(role.id);
    tokio::task::spawn_blocking(move || {
        let a = leg(relay);
        let pairs = [1_u8, 2].map(|nth| {
            let [ours, theirs] = [LegSide::A, LegSide::B].map(|side| offer(&key, &ticket(PairNonce([nth; 16]), side)));
            let b = leg(relay);
            let slot = join(&a, &ours);
            assert_eq!(join(&b, &theirs), slot);
            (slot, b)
        });
        let payload = |nth: usize, length| vec![u8::try_from(nth % 256).unwrap(); length];
        // One row of one source: pieces of one size for two slots, taken in turns of three and five, then a shorter end.
        let plan: Vec<_> =
            (0..40).map(|nth| (usize::from(nth % 8 >= 3), nth, if nth == 39 { 77 } else { 600 })).collect();
        let datagrams: Vec<_> = plan
            .iter()
            .map(|&(to, nth, length)| Message::Data { slot: pairs[to].0, payload: &payload(nth, length) }.to_vec())
            .collect();
        let row = datagrams.concat();
        setsockopt(&a, sockopt::UdpGsoSegment, &608).unwrap();
        assert_eq!(a.send(&row).unwrap(), row.len());
        for (datagram, (to, ..)) in datagrams.iter().zip(&plan) {
            assert_eq!(&receive(&pairs[*to].1), datagram);
        }
    })
    .await
    .unwrap();
    counted(&role.metrics, 40).await;
    assert_eq!((role.metrics.unsent.get(), role.metrics.refused_rows.get()), (0, 0));
    role.stop().await;
}

/// More than the worker can look at: signs of life come from elsewhere, and a proven leg's datagram that is sent again gets
/// through, as on any crowded path.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_stops_neither_beats_nor_proven_legs() {
    let role = Role::start(&["127.0.0.1:0"], Config { workers: 1, ..Config::default() });
    let relay = role.endpoints[0];
    let watcher = Bus::memory(&role.hub, "watcher");
    let (told, mut beats) = mpsc::channel(64);
    let _watching = watcher
        .subscribe(1, move |beat: RelayBeat| {
            let told = told.clone();
            async move { told.send(beat).await }
        })
        .await
        .unwrap();
    let key = TicketRoot::new([1; 32]).key(role.id);
    let [(a, slot), (b, _)] = [LegSide::A, LegSide::B].map(|side| {
        let leg = leg(relay);
        let slot = join(&leg, &offer(&key, &ticket(PairNonce([5; 16]), side)));
        (leg, slot)
    });
    let ends = Arc::new(AtomicBool::new(false));
    let floods: Vec<_> = (0..2_u8)
        .map(|nth| {
            let (ends, stranger) = (Arc::clone(&ends), leg(relay));
            std::thread::spawn(move || {
                let sealed = [nth; wire::ticket::TICKET_SIZE];
                let join = Join { cookie: Cookie([nth; 16]), ticket: &sealed, proof: &[nth; 16] };
                let hostile = [
                    Message::Join(join).to_vec(),
                    Message::Data { slot, payload: &[nth; 1_000] }.to_vec(),
                    Message::Data { slot: Slot(!slot.0), payload: &[nth; 30] }.to_vec(),
                    vec![0xbf; 300],
                ];
                while !ends.load(Ordering::Relaxed) {
                    for datagram in &hostile {
                        let _ = stranger.send(datagram);
                    }
                }
            })
        })
        .collect();
    while beats.try_recv().is_ok() {}
    let exchanged = tokio::task::spawn_blocking(move || {
        b.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        for nth in 0..20_u8 {
            let datagram = Message::Data { slot, payload: &[nth; 200] }.to_vec();
            let mut buffer = [0; 2_048];
            // Earlier ones that were sent twice may come first.
            let mut arrives = || {
                std::iter::from_fn(|| b.recv(&mut buffer).ok().map(|length| buffer[..length] == datagram))
                    .any(|same| same)
            };
            loop {
                a.send(&datagram).unwrap();
                if arrives() {
                    break;
                }
            }
        }
    });
    for _ in 0..2 {
        assert_eq!(beats.recv().await.unwrap().slots, 1);
    }
    exchanged.await.unwrap();
    ends.store(true, Ordering::Relaxed);
    floods.into_iter().for_each(|flood| flood.join().unwrap());
    assert!(role.metrics.dropped(DropReason::NotALeg).get() > 0);
    assert_eq!(role.metrics.pairs.get(), 1);
    role.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_reflector_of_a_relay_has_budgets_and_answers_from_one_place() {
    let role = Role::start(&["127.0.0.1:0"], Config { larger_answers_per_source: 3, ..Config::default() });
    let (relay, metrics) = (role.endpoints[0], Arc::clone(&role.metrics));
    tokio::task::spawn_blocking(move || {
        let socket = leg(relay);
        for elsewhere in [Vantage::OtherPort, Vantage::OtherAddress, Vantage::Opposite] {
            let question = probe::question(&asked(elsewhere, 0));
            socket.send(&question).unwrap();
            let refused = receive(&socket);
            assert!(matches!(probe::answer(&refused), Ok(Answer::Refused { code: 420, .. })));
            assert!(refused.len() <= question.len());
        }
        let mut plain = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
        plain.extend([9; 12]);
        for _ in 0..20 {
            socket.send(&plain).unwrap();
        }
        for _ in 0..12 {
            socket.send(&probe::question(&asked(Vantage::Asked, 185))).unwrap();
        }
        socket.send(&probe::question(&asked(Vantage::Asked, 1))).unwrap();
        while metrics.dropped(DropReason::AsksTooOften).get() < 16 + 5 {
            std::thread::yield_now();
        }
    })
    .await
    .unwrap();
    assert!(role.metrics.reflections.get() >= 6);
    role.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_sends_answers_for_a_process_without_a_second_address() {
    let role = Role::start(&["127.0.0.1:0"], Config { answers_per_source: 2, ..Config::default() });
    let from = role.endpoints[0];
    let rendezvous = Bus::memory(&role.hub, "rendezvous");
    let socket = leg(from);
    let to = socket.local_addr().unwrap();
    let answer = probe::question(&asked(Vantage::Asked, 0));
    let request = |from, answer: &[u8]| ReflectFrom { from, to, answer: answer.to_vec() };
    while rendezvous.publish_to(INSTANCE, &request(from, &answer)).await.is_err() {
        tokio::task::yield_now().await;
    }
    for request in [
        request(from, b"no STUN, but twenty bytes"),
        request(SocketAddr::from(([192, 0, 2, 1], 1)), &answer),
        request(from, &answer),
    ] {
        rendezvous.publish_to(INSTANCE, &request).await.unwrap();
    }
    while role.metrics.dropped(DropReason::AsksTooOften).get() < 3 {
        tokio::task::yield_now().await;
    }
    assert_eq!(tokio::task::spawn_blocking(move || receive(&socket)).await.unwrap(), answer);
    role.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_answers_late_when_it_is_asked_to() {
    let role = Role::start(&["127.0.0.1:0"], Config::default());
    let relay = role.endpoints[0];
    tokio::task::spawn_blocking(move || {
        let socket = leg(relay);
        let sent = std::time::Instant::now();
        socket.send(&probe::question(&asked(Vantage::Asked, 1))).unwrap();
        assert!(matches!(probe::answer(&receive(&socket)), Ok(Answer::Reflected(_))));
        assert!(sent.elapsed() >= Duration::from_secs(1));
    })
    .await
    .unwrap();
    role.stop().await;
}

#[test]
fn listeners_and_keys_are_checked_at_the_start() {
    let none = Config { listen: Vec::new(), ..Config::default() };
    assert!(matches!(relay::bind(&none, InstanceId::from_bytes([7; 16])), Err(relay::Error::NoListener)));
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let many = Config { listen: vec![SocketAddr::from(([127, 0, 0, 1], 0)); 17], ..Config::default() };
    assert!(matches!(
        relay::bind(&many, InstanceId::from_bytes([7; 16])),
        Err(relay::Error::TooManyListeners { named: 17, most: 16 })
    ));
    let crowd = Config { workers: 65, ..Config::default() };
    assert!(matches!(
        relay::bind(&crowd, InstanceId::from_bytes([7; 16])),
        Err(relay::Error::TooManyWorkers { named: 65, most: 64 })
    ));
    let busy = Config { listen: vec![taken.local_addr().unwrap()], ..Config::default() };
    let error = relay::bind(&busy, InstanceId::from_bytes([7; 16])).unwrap_err().to_string();
    assert!(error.contains(&taken.local_addr().unwrap().to_string()), "{error}");
}

/// A relay that runs.
pub(crate) struct Role {
    pub(crate) endpoints: Vec<SocketAddr>,
    pub(crate) id: RelayId,
    pub(crate) hub: Hub,
    pub(crate) metrics: Arc<Metrics>,
    shutdown: CancellationToken,
    tasks: JoinSet<Result<(), relay::Error>>,
    _dir: tempfile::TempDir,
}

impl Role {
    /// One that ends soon.
    pub(crate) fn start(listen: &[&str], config: Config) -> Self {
        Self::start_with(listen, Config { drain: Duration::from_millis(200), ..config })
    }

    pub(crate) fn start_with(listen: &[&str], config: Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (ticket_root, observation_key) = (dir.path().join("tickets.key"), dir.path().join("observations.key"));
        std::fs::write(&ticket_root, [1; 32]).unwrap();
        std::fs::write(&observation_key, [2; 32]).unwrap();
        let listen = listen.iter().map(|text| text.parse().unwrap()).collect();
        let config = Config { listen, ticket_root, observation_key, ..config };
        let bound = relay::bind(&config, InstanceId::from_bytes([7; 16])).unwrap();
        let metrics = Arc::new(Metrics::register(&prometheus::Registry::new()).unwrap());
        let hub = Hub::default();
        let seams = Seams { bus: Bus::memory(&hub, INSTANCE), metrics: Arc::clone(&metrics) };
        let (endpoints, id, shutdown) = (bound.endpoints(), bound.relay(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(bound.run(seams, shutdown.clone()));
        Self { endpoints, id, hub, metrics, shutdown, tasks, _dir: dir }
    }

    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        self.tasks.join_next().await.unwrap().unwrap().unwrap();
    }
}

/// Waits until so many datagrams were forwarded: a turn is counted after it was sent.
async fn counted(metrics: &Metrics, packets: u64) {
    while metrics.forwarded_packets.get() < packets {
        tokio::task::yield_now().await;
    }
    assert_eq!(metrics.forwarded_packets.get(), packets);
}

fn ticket(pair: PairNonce, side: LegSide) -> Ticket {
    let expires = UnixMillis::from(SystemTime::now()).plus(Duration::from_secs(60));
    Ticket {
        relay: RelayId::from_bytes([7; 16]),
        pair,
        side,
        rate: Bandwidth::UNLIMITED,
        payer: PayerId::NOBODY,
        expires,
    }
}

const INSTANCE: InstanceId = InstanceId::from_bytes([7; 16]);

const TAG: SessionTag = SessionTag([3; 16]);

const fn asked(answer_from: Vantage, delay_s: u8) -> Probe {
    Probe { transaction: TransactionId([6; 12]), tag: Some(TAG), answer_from, delay_s }
}

pub(crate) fn leg(relay: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(if relay.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket.connect(relay).unwrap();
    socket
}

pub(crate) fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer).unwrap();
    buffer[..length].to_vec()
}

pub(crate) fn join(socket: &UdpSocket, offer: &Offer) -> Slot {
    let answer = knock(socket, offer);
    let Some(Message::Joined { slot, .. }) = Message::parse(&answer) else { panic!("{answer:?}") };
    slot
}

/// The code of the refusal.
pub(crate) fn refused(socket: &UdpSocket, offer: &Offer) -> u16 {
    let answer = knock(socket, offer);
    let Some(Message::Refused { code, .. }) = Message::parse(&answer) else { panic!("{answer:?}") };
    code
}

/// What the relay says to a join from an address that it has challenged.
fn knock(socket: &UdpSocket, offer: &Offer) -> Vec<u8> {
    let mut cookie = Cookie::default();
    loop {
        let proof = prove(&offer.key, cookie, &offer.sealed);
        socket.send(&Message::Join(Join { cookie, ticket: &offer.sealed, proof: &proof }).to_vec()).unwrap();
        let answer = receive(socket);
        match Message::parse(&answer) {
            Some(Message::Challenge { cookie: fresh }) => cookie = fresh,
            _ => return answer,
        }
    }
}
