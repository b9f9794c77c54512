//! A relay in one network namespace, its clients in another and a crowd in a third, with a cable to each.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use aya::{
    Ebpf,
    programs::{Xdp, XdpMode},
};
use bus::{Bus, memory::Hub};
use domain::{Bandwidth, InstanceId, PayerId, RelayId, UnixMillis};
use nix::{
    sched::{CloneFlags, setns},
    sys::socket::{setsockopt, sockopt},
};
use relay::{Config, Metrics, Seams};
use tokio_util::sync::CancellationToken;
use wire::{
    relay::{Cookie, Join, Message, Slot, prove},
    ticket::{LegSide, PairNonce, Ticket, TicketRoot},
};

use crate::quota::Owner;

pub(crate) const RELAY: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
pub(crate) const CLIENTS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const CROWD: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 2);

/// The relay's ends of its cables.
const NEAR: [&str; 2] = ["near", "beside"];

/// Who forwards the datagrams of proven legs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// The workers, in user space.
    Workers,
    /// The kernel, of a host that routes: it asks for the next hop.
    Routing,
    /// The kernel, of a host that does not: it knows the next hop from what came by it.
    Learning,
}

pub(crate) struct Lab {
    pub(crate) metrics: Arc<Metrics>,
    relay: SocketAddr,
    clients: Namespace,
    /// What it sends has a cable of its own: what is lost of others' is lost at the relay.
    crowd: Namespace,
    pairs: u8,
    shutdown: CancellationToken,
    role: Option<JoinHandle<()>>,
    /// Programs at the clients' end: only with one does a cable of this kind take what XDP sends.
    _far: Ebpf,
    relays: Namespace,
}

impl Lab {
    pub(crate) fn new(path: Path) -> Self {
        Self::with(path, Config { idle: Duration::from_secs(60), ..Config::default() })
    }

    pub(crate) fn with(path: Path, config: Config) -> Self {
        Self::build(path, Config { xdp: accelerated(path), ..config }, None)
    }

    /// With somebody who keeps the count of quotas.
    pub(crate) fn with_owner(path: Path, owner: &Owner) -> Self {
        Self::build(path, Config { xdp: accelerated(path), ..Config::default() }, Some(owner.clone()))
    }

    /// Whatever interfaces `config` names.
    pub(crate) fn unaccelerated(config: Config) -> Self {
        Self::build(Path::Workers, config, None)
    }

    fn build(path: Path, config: Config, owner: Option<Owner>) -> Self {
        static LABS: AtomicU32 = AtomicU32::new(0);
        let name = format!("br{}-{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        let [relays, clients, crowd] = ["r", "c", "s"].map(|end| Namespace::add(format!("{name}{end}")));
        let [near, beside] = NEAR;
        relays.plug(near, RELAY, &clients, CLIENTS);
        relays.plug(beside, Ipv4Addr::new(10, 8, 0, 1), &crowd, CROWD);
        run("ip", &["-n", &crowd.0, "route", "add", &RELAY.to_string(), "dev", "far"]);
        let routes = format!("net.ipv4.ip_forward={}", u8::from(path == Path::Routing));
        run("ip", &["netns", "exec", &relays.0, "sysctl", "-qw", &routes]);
        let far = clients.enter(|| {
            let mut far = Ebpf::load(aya::include_bytes_aligned!("../../bpf/forward.bpf.o")).unwrap();
            let program: &mut Xdp = far.program_mut("forward").unwrap().try_into().unwrap();
            program.load().unwrap();
            program.attach("far", XdpMode::Driver).unwrap();
            far
        });
        let metrics = Arc::new(Metrics::register(&prometheus::Registry::new()).unwrap());
        let shutdown = CancellationToken::new();
        let config = Config { drain: Duration::from_millis(100), ..config };
        let (relay, role) = start(&relays, config, (&metrics, owner), shutdown.clone());
        Self { metrics, relay, clients, crowd, pairs: 0, shutdown, role: Some(role), _far: far, relays }
    }

    /// A socket of a client that talks to the relay only.
    pub(crate) fn leg(&self) -> UdpSocket {
        let socket = self.stranger();
        socket.connect(self.relay).unwrap();
        socket
    }

    /// A socket of a client.
    pub(crate) fn stranger(&self) -> UdpSocket {
        socket(&self.clients, CLIENTS)
    }

    /// A socket of the crowd that talks to the relay only.
    pub(crate) fn one_of_the_crowd(&self) -> UdpSocket {
        let socket = socket(&self.crowd, CROWD);
        socket.connect(self.relay).unwrap();
        socket
    }

    /// Lets the relay know that a path takes `mtu` bytes at once.
    pub(crate) fn narrow(&self, to: &str, mtu: u16) {
        let route = ["route", "replace", to, "dev", "near", "mtu", &mtu.to_string()];
        run("ip", &[&["-n", &self.relays.0], &route[..]].concat());
    }

    /// A socket on the relay's side that is not the relay's.
    pub(crate) fn beside_the_relay(&self) -> UdpSocket {
        self.relays.enter(|| UdpSocket::bind((RELAY, 0)).unwrap())
    }

    /// A new pair that has exchanged enough for the kernel to know its ways.
    pub(crate) fn pair(&mut self, rate: Bandwidth) -> Pair {
        self.pair_paid_by(rate, [PayerId::NOBODY; 2])
    }

    /// The same, on somebody's account.
    pub(crate) fn pair_paid_by(&mut self, rate: Bandwidth, payers: [PayerId; 2]) -> Pair {
        self.pair_at(rate, payers, [self.leg(), self.leg()])
    }

    /// A pair of the crowd.
    pub(crate) fn pair_of_the_crowd(&mut self, rate: Bandwidth) -> Pair {
        self.pair_at(rate, [PayerId::NOBODY; 2], [self.one_of_the_crowd(), self.one_of_the_crowd()])
    }

    fn pair_at(&mut self, rate: Bandwidth, payers: [PayerId; 2], legs: [UdpSocket; 2]) -> Pair {
        self.pairs += 1;
        let id = RelayId::from_bytes([7; 16]);
        let key = TicketRoot::new([1; 32]).key(id);
        let expires = UnixMillis::from(SystemTime::now()).plus(Duration::from_secs(60));
        let tickets = [LegSide::A, LegSide::B].map(|side| {
            let (pair, payer) = (PairNonce([self.pairs; 16]), payers[side as usize]);
            let sealed = key.seal(&Ticket { relay: id, pair, side, rate, payer, expires });
            (sealed, key.leg_key(&sealed))
        });
        let [slot, same] = [0, 1].map(|nth| join(&legs[nth], &tickets[nth]));
        assert_eq!(slot, same);
        let pair = Pair { slot, legs, tickets };
        for _ in 0..2 {
            pair.exchange(0, 64);
            pair.exchange(1, 64);
        }
        pair
    }

    /// How many datagrams were forwarded, and how many of them by the kernel, once the figures stand still.
    pub(crate) fn forwarded(&self) -> (u64, u64) {
        let read = || (self.metrics.forwarded_packets.get(), self.metrics.accelerated_packets.get());
        let mut before = read();
        loop {
            std::thread::sleep(Duration::from_millis(1_200));
            if read() == before {
                return before;
            }
            before = read();
        }
    }
}

impl Lab {
    /// Ends the relay in order.
    pub(crate) fn end(&mut self) {
        self.shutdown.cancel();
        if let Some(role) = self.role.take() {
            let _ = role.join();
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.end();
    }
}

type Offer = ([u8; wire::ticket::TICKET_SIZE], wire::ticket::LegKey);

pub(crate) struct Pair {
    pub(crate) slot: Slot,
    pub(crate) legs: [UdpSocket; 2],
    pub(crate) tickets: [Offer; 2],
}

impl Pair {
    /// A datagram of this pair.
    pub(crate) fn data(&self, size: usize) -> Vec<u8> {
        Message::Data { slot: self.slot, payload: &vec![7; size] }.to_vec()
    }

    /// Sends one datagram from a leg, which arrives at the other as it was.
    pub(crate) fn exchange(&self, from: usize, size: usize) {
        let datagram = self.data(size);
        self.legs[from].send(&datagram).unwrap();
        assert_eq!(receive(&self.legs[1 - from]), Some(datagram));
    }

    /// Takes what has arrived at each leg, and waits for nothing.
    pub(crate) fn take(&self) -> [Vec<Vec<u8>>; 2] {
        self.legs.each_ref().map(|leg| {
            leg.set_nonblocking(true).unwrap();
            let received = std::iter::from_fn(|| receive(leg)).collect();
            leg.set_nonblocking(false).unwrap();
            received
        })
    }
}

pub(crate) fn receive(socket: &UdpSocket) -> Option<Vec<u8>> {
    let mut buffer = [0; 2100];
    let length = socket.recv(&mut buffer).ok()?;
    Some(buffer[..length].to_vec())
}

pub(crate) fn join(socket: &UdpSocket, (sealed, key): &Offer) -> Slot {
    let mut cookie = Cookie::default();
    loop {
        let proof = prove(key, cookie, sealed);
        socket.send(&Message::Join(Join { cookie, ticket: sealed, proof: &proof }).to_vec()).unwrap();
        match Message::parse(&receive(socket).unwrap()) {
            Some(Message::Challenge { cookie: fresh }) => cookie = fresh,
            Some(Message::Joined { slot, .. }) => return slot,
            other => panic!("{other:?}"),
        }
    }
}

/// Joins, and brings the other leg a packet.
pub(crate) fn join_bringing(socket: &UdpSocket, (sealed, key): &Offer, first: &[u8]) -> Slot {
    socket.send(&Message::Ask.to_vec()).unwrap();
    let challenge = receive(socket).unwrap();
    let Some(Message::Challenge { cookie }) = Message::parse(&challenge) else { panic!("no challenge") };
    let proof = prove(key, cookie, sealed);
    let join = Join { cookie, ticket: sealed, proof: &proof };
    socket.send(&Message::JoinFirst { join, first }.to_vec()).unwrap();
    match Message::parse(&receive(socket).unwrap()) {
        Some(Message::Joined { slot, .. }) => slot,
        other => panic!("{other:?}"),
    }
}

fn socket(namespace: &Namespace, address: Ipv4Addr) -> UdpSocket {
    let socket = namespace.enter(|| UdpSocket::bind((address, 0)).unwrap());
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    // What waits for a thread of a test is not lost.
    setsockopt(&socket, sockopt::RcvBufForce, &(4 << 20)).unwrap();
    socket
}

/// The interfaces at which the kernel forwards.
fn accelerated(path: Path) -> Vec<String> {
    if path == Path::Workers { Vec::new() } else { NEAR.map(str::to_owned).to_vec() }
}

/// The role in its namespace, on a thread of its own.
fn start(
    namespace: &Namespace,
    config: Config,
    (metrics, owner): (&Arc<Metrics>, Option<Owner>),
    shutdown: CancellationToken,
) -> (SocketAddr, JoinHandle<()>) {
    let dir = tempfile::tempdir().unwrap();
    let (ticket_root, observation_key) = (dir.path().join("tickets.key"), dir.path().join("observations.key"));
    std::fs::write(&ticket_root, [1; 32]).unwrap();
    std::fs::write(&observation_key, [2; 32]).unwrap();
    let config = Config { listen: vec![SocketAddr::from((RELAY, 0))], ticket_root, observation_key, ..config };
    let place = namespace.file();
    let metrics = Arc::clone(metrics);
    let (told, endpoint) = std::sync::mpsc::channel();
    let role = std::thread::spawn(move || {
        setns(place, CloneFlags::CLONE_NEWNET).unwrap();
        let bound = relay::bind(&config, InstanceId::from_bytes([7; 16])).unwrap();
        told.send(bound.endpoints()[0]).unwrap();
        let hub = Hub::default();
        let seams = Seams { bus: Bus::memory(&hub, "relay"), metrics };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let served = match owner {
                Some(owner) => Some(owner.serve(&Bus::memory(&hub, "auth")).await),
                None => None,
            };
            bound.run(seams, shutdown).await.unwrap();
            drop(served);
        });
        drop(dir);
    });
    (endpoint.recv().unwrap(), role)
}

/// A network namespace that goes when this does.
struct Namespace(String);

impl Namespace {
    fn add(name: String) -> Self {
        run("ip", &["netns", "add", &name]);
        run("ip", &["-n", &name, "link", "set", "lo", "up"]);
        Self(name)
    }

    /// A cable from `interface` here to `far` there.
    fn plug(&self, interface: &str, address: Ipv4Addr, other: &Self, others: Ipv4Addr) {
        run("ip", &["-n", &self.0, "link", "add", interface, "type", "veth", "peer", "name", "far", "netns", &other.0]);
        for (namespace, interface, address) in [(self, interface, address), (other, "far", others)] {
            run("ip", &["-n", &namespace.0, "addr", "add", &format!("{address}/24"), "dev", interface]);
            run("ip", &["-n", &namespace.0, "link", "set", interface, "up"]);
            // A cable within one machine leaves out checksums, which a network would have.
            run("ip", &["netns", "exec", &namespace.0, "ethtool", "-K", interface, "tx", "off"]);
        }
    }

    fn file(&self) -> File {
        File::open(format!("/run/netns/{}", self.0)).unwrap()
    }

    fn enter<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        let place = self.file();
        std::thread::scope(|scope| {
            let entered = scope.spawn(|| {
                setns(place, CloneFlags::CLONE_NEWNET).unwrap();
                action()
            });
            entered.join().unwrap()
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let ran = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(ran.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
}
