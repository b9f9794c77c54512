//! What pairs and strangers cost in memory, and what a datagram must not cost: counted by the allocator of this process, so
//! each test runs in a process of its own.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use bus::{Bus, memory::Hub};
use contract::auth::SettleRelay;
use domain::{Bandwidth, InstanceId, PayerId, RelayGrant, RelayId, UnixMillis};
use relay::{
    Config, Metrics, Seams,
    core::{DropReason, Hop, Limits, Relay, Verdict},
    quota::Accounts,
    steer::Workers,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wire::{
    fanout::{self, Shared, SharedKeyId},
    relay::{Cookie, JOIN_SIZE, Join, Message, Slot, prove},
    ticket::{LegKey, LegSide, PairNonce, TICKET_SIZE, Ticket, TicketKey, TicketRoot},
};

/// Counts what is allocated, and what lives.
struct Counting;

static ALLOCATED: AtomicU64 = AtomicU64::new(0);
static LIVING: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static COUNTING: Counting = Counting;

#[expect(unsafe_code, reason = "the trait of allocators")]
// SAFETY: the system's allocator does it all; numbers are counted beside.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(1, Relaxed);
        LIVING.fetch_add(layout.size(), Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVING.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[test]
fn an_idle_pair_costs_256_bytes_at_most() {
    let mut lab = Lab::new(100_000);
    let before = LIVING.load(Relaxed);
    let mut worst = 0;
    for pair in 1..=100_000 {
        lab.now += Duration::from_micros(100);
        lab.pair(pair);
        // A table of few pairs is mostly room.
        if pair >= 10_000 {
            worst = worst.max((LIVING.load(Relaxed) - before) / pair as usize);
        }
    }
    assert_eq!(lab.relay.pairs(), 100_000);
    println!("{worst} bytes a pair at worst");
    assert!(worst <= 256, "{worst}");
}

#[test]
fn a_million_spoofed_first_packets_leave_memory_flat() {
    let mut lab = Lab::new(1_000);
    lab.pair(1);
    let sealed = lab.sealed(2, LegSide::A);
    // Without a cookie, and with one of the sender's own making.
    let joins = [Cookie::default(), Cookie([7; 16])].map(|cookie| join(cookie, &sealed, &lab.key.leg_key(&sealed)));
    let (living, mut fewest) = (LIVING.load(Relaxed), u64::MAX);
    for part in 0..10_u32 {
        let before = ALLOCATED.load(Relaxed);
        for number in part * 100_000..(part + 1) * 100_000 {
            let ip = number.wrapping_mul(0x9e37_79b1).to_be_bytes();
            let join = &joins[(number % 2) as usize];
            let Verdict::Answer(answer) = lab.send(SocketAddr::from((ip, 1 + (number % 60_000) as u16)), join) else {
                panic!("no challenge")
            };
            assert!(answer.as_bytes().len() < join.len());
        }
        fewest = fewest.min(ALLOCATED.load(Relaxed) - before);
    }
    // A slow test is told of by the harness, which allocates in between.
    assert_eq!((lab.relay.pairs(), fewest), (1, 0));
    assert!(LIVING.load(Relaxed).abs_diff(living) < 4_096);
}

#[test]
fn no_verdict_on_a_datagram_allocates() {
    let mut lab = Lab::new(1_000);
    let (slot, [alice, bert]) = lab.pair(1);
    let mut poor = Lab::with_quota(1, 50_000);
    let (spent, [spender, _]) = poor.pair(1);
    let capped = lab.capped_pair(2, Bandwidth::from_bytes_per_second(10_000));
    let payload = [7; 1_200];
    let mut data = [0; 1_208];
    Message::Data { slot, payload: &payload }.write(&mut data);
    let mut over = [0; 1_208];
    Message::Data { slot: capped.0, payload: &payload }.write(&mut over);
    let mut ping = [0; 16];
    Message::Ping { slot, nonce: 1 }.write(&mut ping);
    let stranger = SocketAddr::from(([192, 0, 2, 1], 9));
    let mut beyond = [0; 1_208];
    Message::Data { slot: spent, payload: &payload }.write(&mut beyond);
    // Accounts are opened once, with the first bytes that are worth it.
    for _ in 0..100 {
        let _ = (lab.send(alice, &data), poor.send(spender, &beyond));
    }
    assert_eq!(poor.send(spender, &beyond), Verdict::Drop(DropReason::OverQuota));
    let before = ALLOCATED.load(Relaxed);
    for _ in 0..100_000 {
        assert_eq!(lab.send(alice, &data), Verdict::Forward(Hop { address: bert, door: 0 }));
        assert_eq!(lab.send(stranger, &data), Verdict::Drop(DropReason::NotALeg));
        assert!(matches!(lab.send(bert, &ping), Verdict::Answer(_)));
        let _ = lab.send(capped.1[0], &over);
        assert_eq!(poor.send(spender, &beyond), Verdict::Drop(DropReason::OverQuota));
        assert_eq!(lab.send(alice, &data[..5]), Verdict::Drop(DropReason::Malformed));
    }
    assert_eq!(ALLOCATED.load(Relaxed), before);
}

#[test]
fn no_verdict_on_a_copy_allocates() {
    let mut lab = Lab::new(1_000);
    let hub = SocketAddr::from(([192, 0, 2, 1], 40_000));
    let slots: Vec<_> = (1..=64).map(|number| lab.pair_of(number, hub)).collect();
    let copy = Shared { counter: 1, key: SharedKeyId([2; 8]), sealed: &[3; 500] };
    let frame = fanout::frame(&slots, &copy).unwrap();
    let stranger = SocketAddr::from(([192, 0, 2, 9], 9));
    // Accounts are opened once.
    let _opened = [1, 2].map(|side| lab.accounts.open(PayerId::from_bytes([side; 16])));
    let before = ALLOCATED.load(Relaxed);
    let mut forwarded = 0;
    for _ in 0..2_000 {
        lab.now += Duration::from_millis(10);
        assert_eq!(lab.send(hub, &frame), Verdict::Copy);
        assert_eq!(lab.send(stranger, &frame), Verdict::Drop(DropReason::NotALeg));
        let Some(Message::Fanout { slots, copy }) = Message::parse(&frame) else { panic!("no frame for many") };
        for slot in slots.iter() {
            let verdict = lab.relay.handle_copy(lab.now, Hop { address: hub, door: 0 }, slot, copy.len());
            forwarded += u32::from(matches!(verdict, Verdict::Forward(_)));
        }
    }
    assert_eq!((ALLOCATED.load(Relaxed), forwarded), (before, 2_000 * 64));
}

#[test]
fn first_packets_cost_no_memory_however_many_wait() {
    let mut lab = Lab::new(1_000);
    let (slot, [alice, bert]) = lab.pair(1);
    // Each of 900 other pairs has one leg only.
    let lone: Vec<_> = (2..=901).map(|number| lab.first_join(number, LegSide::A)).collect();
    let present = lab.first_join(1, LegSide::A).1;
    for (from, join) in &lone {
        assert!(matches!(lab.send(*from, join), Verdict::Answer(_)));
    }
    let (living, before) = (LIVING.load(Relaxed), ALLOCATED.load(Relaxed));
    for round in 0..100 {
        lab.now += Duration::from_secs(1);
        let (from, join) = &lone[round * 9 % 900];
        assert!(matches!(lab.send(*from, join), Verdict::Answer(_)));
        assert!(lab.relay.poll_parcel().is_none());
        assert!(matches!(lab.send(alice, &present), Verdict::Answer(_)));
        let parcel = lab.relay.poll_parcel().unwrap();
        assert_eq!(parcel.to.address, bert);
        assert_eq!(Message::parse(parcel.as_bytes()), Some(Message::Data { slot, payload: &[7; 148] }));
    }
    assert_eq!(ALLOCATED.load(Relaxed), before);
    assert_eq!(LIVING.load(Relaxed), living);
}

#[test]
fn an_idle_pair_is_looked_at_once_in_its_idle_time() {
    let mut lab = Lab::new(10_000);
    let pairs: Vec<_> = (1..=5_000).map(|pair| lab.pair(pair)).collect();
    let mut looks = 0;
    for _ in 0..10 {
        for (slot, [alice, _]) in &pairs {
            let mut ping = [0; 16];
            Message::Ping { slot: *slot, nonce: 1 }.write(&mut ping);
            assert!(matches!(lab.send(*alice, &ping), Verdict::Answer(_)));
        }
        lab.now += Duration::from_secs(59);
        while lab.relay.poll_deadline().is_some_and(|due| due <= lab.now) {
            lab.relay.handle_deadline(lab.now);
            looks += 1;
        }
    }
    assert_eq!(lab.relay.pairs(), 5_000);
    // Ten turns of 59 s with an idle time of 60 s: a look at each pair in each turn at most.
    assert!(looks <= 10 * 5_000, "{looks}");
}

/// The whole packet path: kernel, worker, kernel. Other threads of the role allocate now and then, and a path that
/// allocated for each datagram would have no quiet stretch.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn no_datagram_through_a_worker_allocates() {
    let dir = tempfile::tempdir().unwrap();
    let (ticket_root, observation_key) = (dir.path().join("tickets.key"), dir.path().join("observations.key"));
    std::fs::write(&ticket_root, [1; 32]).unwrap();
    std::fs::write(&observation_key, [2; 32]).unwrap();
    let listen = vec![SocketAddr::from(([127, 0, 0, 1], 0)); 2];
    let drain = Duration::from_millis(10);
    let config = Config { listen, workers: 2, ticket_root, observation_key, drain, ..Config::default() };
    let bound = relay::bind(&config, InstanceId::from_bytes([7; 16])).unwrap();
    let endpoints = bound.endpoints();
    let metrics = Arc::new(Metrics::register(&prometheus::Registry::new()).unwrap());
    let hub = Hub::default();
    let seams = Seams { bus: Bus::memory(&hub, "relay"), metrics };
    let grant = RelayGrant { granted: 1 << 40, exhausted: false };
    let settle = move |_| std::future::ready(Ok(grant));
    let _auth = Bus::memory(&hub, "auth").serve::<SettleRelay, _, _>(1, settle).await.unwrap();
    let shutdown = CancellationToken::new();
    let stopping = shutdown.clone();
    let clients = tokio::task::spawn_blocking(move || {
        let lab = Lab::new(1);
        let legs = [endpoints[0], endpoints[1]].map(|to| {
            let leg = UdpSocket::bind("127.0.0.1:0").unwrap();
            leg.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            leg.connect(to).unwrap();
            leg
        });
        let mut slot = Slot(0);
        for (leg, side) in legs.iter().zip([LegSide::A, LegSide::B]) {
            let sealed = lab.sealed(1, side);
            let key = lab.key.leg_key(&sealed);
            let mut answer = [0; 64];
            leg.send(&join(Cookie::default(), &sealed, &key)).unwrap();
            let length = leg.recv(&mut answer).unwrap();
            let Some(Message::Challenge { cookie }) = Message::parse(&answer[..length]) else { panic!("no challenge") };
            leg.send(&join(cookie, &sealed, &key)).unwrap();
            let length = leg.recv(&mut answer).unwrap();
            let Some(Message::Joined { slot: joined, .. }) = Message::parse(&answer[..length]) else {
                panic!("no slot")
            };
            slot = joined;
        }
        let mut datagram = [0; 608];
        Message::Data { slot, payload: &[7; 600] }.write(&mut datagram);
        let mut buffer = [0; 2_048];
        let mut fewest = u64::MAX;
        for _ in 0..20 {
            let before = ALLOCATED.load(Relaxed);
            for _ in 0..500 {
                for _ in 0..4 {
                    legs[0].send(&datagram).unwrap();
                }
                for _ in 0..4 {
                    assert_eq!(legs[1].recv(&mut buffer).unwrap(), datagram.len());
                }
            }
            fewest = fewest.min(ALLOCATED.load(Relaxed) - before);
        }
        stopping.cancel();
        fewest
    });
    bound.run(seams, shutdown).await.unwrap();
    assert_eq!(clients.await.unwrap(), 0, "allocations for 2,000 datagrams");
}

/// One worker's decisions in virtual time.
struct Lab {
    relay: Relay,
    key: TicketKey,
    now: Instant,
    wall: UnixMillis,
    accounts: Accounts,
    _woken: mpsc::Receiver<PayerId>,
}

impl Lab {
    fn new(max_slots: u32) -> Self {
        Self::with_quota(max_slots, 1 << 40)
    }

    /// Where each payer may spend so much and gets nothing more.
    fn with_quota(max_slots: u32, bytes: u64) -> Self {
        let id = RelayId::from_bytes([7; 16]);
        let root = TicketRoot::new([1; 32]);
        let (now, limits) = (Instant::now(), Limits { max_slots, idle: Duration::from_secs(60) });
        let (accounts, woken) = Accounts::new(bytes);
        let relay = Relay::new(now, root.key(id), [9; 32], limits, (0, Workers::ONE), accounts.clone());
        Self { relay, key: root.key(id), now, wall: UnixMillis::from(SystemTime::now()), accounts, _woken: woken }
    }

    fn send(&mut self, from: SocketAddr, datagram: &[u8]) -> Verdict {
        let verdict = self.relay.handle_datagram(self.now, self.wall, Hop { address: from, door: 0 }, datagram);
        while self.relay.poll_event().is_some() {}
        verdict
    }

    fn pair(&mut self, number: u32) -> (Slot, [SocketAddr; 2]) {
        self.capped_pair(number, Bandwidth::UNLIMITED)
    }

    /// A pair whose legs have an address each that no other pair has.
    fn capped_pair(&mut self, number: u32, rate: Bandwidth) -> (Slot, [SocketAddr; 2]) {
        let [high, middle, low] = [16, 8, 0].map(|shift| (number >> shift) as u8);
        let legs = [10, 11].map(|net| SocketAddr::from(([net, high, middle, low], 40_000)));
        (self.pair_at(number, legs, rate), legs)
    }

    /// A pair with one leg at `hub`.
    fn pair_of(&mut self, number: u32, hub: SocketAddr) -> Slot {
        let [.., high, low] = number.to_be_bytes();
        self.pair_at(number, [hub, SocketAddr::from(([11, 0, high, low], 40_000))], Bandwidth::UNLIMITED)
    }

    fn pair_at(&mut self, number: u32, legs: [SocketAddr; 2], rate: Bandwidth) -> Slot {
        let slots = [LegSide::A, LegSide::B].map(|side| {
            let sealed = self.sealed_with(number, side, rate);
            let key = self.key.leg_key(&sealed);
            let from = legs[side as usize];
            let Verdict::Answer(challenge) = self.send(from, &join(Cookie::default(), &sealed, &key)) else { panic!() };
            let Some(Message::Challenge { cookie }) = Message::parse(challenge.as_bytes()) else { panic!() };
            let Verdict::Answer(joined) = self.send(from, &join(cookie, &sealed, &key)) else { panic!() };
            let Some(Message::Joined { slot, .. }) = Message::parse(joined.as_bytes()) else { panic!("{joined:?}") };
            slot
        });
        assert_eq!(slots[0], slots[1]);
        slots[0]
    }

    /// A join of a leg with a first packet, and from where it comes.
    fn first_join(&mut self, number: u32, side: LegSide) -> (SocketAddr, Vec<u8>) {
        let [high, middle, low] = [16, 8, 0].map(|shift| (number >> shift) as u8);
        let from = SocketAddr::from(([10 + side as u8, high, middle, low], 40_000));
        let Verdict::Answer(challenge) = self.send(from, &Message::Ask.to_vec()) else { panic!() };
        let Some(Message::Challenge { cookie }) = Message::parse(challenge.as_bytes()) else { panic!() };
        let sealed = self.sealed(number, side);
        let proof = prove(&self.key.leg_key(&sealed), cookie, &sealed);
        let join = Join { cookie, ticket: &sealed, proof: &proof };
        (from, Message::JoinFirst { join, first: &[7; 148] }.to_vec())
    }

    fn sealed(&self, number: u32, side: LegSide) -> [u8; TICKET_SIZE] {
        self.sealed_with(number, side, Bandwidth::UNLIMITED)
    }

    fn sealed_with(&self, number: u32, side: LegSide, rate: Bandwidth) -> [u8; TICKET_SIZE] {
        let mut pair = [0; 16];
        pair[..4].copy_from_slice(&number.to_be_bytes());
        let expires = self.wall.plus(Duration::from_secs(60));
        let relay = RelayId::from_bytes([7; 16]);
        let payer = PayerId::from_bytes([1 + side as u8; 16]);
        self.key.seal(&Ticket { relay, pair: PairNonce(pair), side, rate, payer, expires })
    }
}

fn join(cookie: Cookie, sealed: &[u8; TICKET_SIZE], key: &LegKey) -> [u8; JOIN_SIZE] {
    let proof = prove(key, cookie, sealed);
    let mut bytes = [0; JOIN_SIZE];
    Message::Join(Join { cookie, ticket: sealed, proof: &proof }).write(&mut bytes);
    bytes
}
