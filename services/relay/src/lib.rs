//! The role that forwards the datagrams of pairs without a direct path.
//!
//! The packet path is plain threads and the pure [`core`]: no async runtime, no allocation, no lock, no bus, no database.
//! Everything it needs to know of the rest of the deployment stands in the tickets that clients show. A task beside it tells
//! rendezvous twice a second that the relay lives, and how loaded it is; another settles with auth what was forwarded on
//! whose account ([`quota`]), and a third tells of pairs that are held back (`held_back`).
//!
//! A worker thread per core, each with a socket of its own at every listener; the kernel steers each datagram to the owner of
//! its slot ([`steer`]), so that nothing is shared or locked. All listeners lead to the same pairs: the legs of a pair may use
//! different ports and address families.
//!
//! Where an interface of the host allows it, the kernel forwards what two proven IPv4 legs send each other before the workers
//! see it (`xdp.rs`), by the same rules; this is an accelerator, and missing is no failure.
//!
//! A worker to which many datagrams come one by one rests between them, so that it finds some at once (`rest`).
//!
//! Where more arrives than the workers can look at, the kernel drops what is least worth it before it is queued ([`guard`]).
//!
//! What is for many members of a network comes once, and leaves for each: see [`fanout`].
//!
//! A join may bring the first packet for the other leg along, the beginning of the tunnel's handshake; it waits there for that
//! leg, so that joining costs no time ([`parking`]).
//!
//! Clients that no UDP gets out of reach it by TLS on TCP 443; see [`stream`].
//!
//! Every relay is a reflector, too: STUN on its port is told apart by the first bytes, answered with the same sealed
//! observations as at rendezvous and within budgets per source. With one port it cannot answer from elsewhere and refuses
//! to (420); but rendezvous processes with a single address have it send their answers that must come from another. Over TCP it does not answer: there the port belongs to the gateway.

mod batch;
mod beat;
mod bucket;
pub mod core;
mod count;
mod door;
mod empty;
pub mod fanout;
pub mod guard;
mod held_back;
mod joins;
pub mod metrics;
pub mod parking;
pub mod quota;
mod rest;
mod slab;
mod socket;
pub mod steer;
pub mod stream;
mod xdp;

use std::{
    convert::Infallible,
    error::Error as _,
    io,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    num::NonZeroUsize,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bus::{Bus, Served};
use contract::{
    relay::{RelayOrder, RelayOrdered},
    rendezvous::ReflectFrom,
};
use domain::{InstanceId, RelayId, StreamEndpoint};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use wire::{
    probe::{Budget, Desk, MAX_ANSWER_SIZE, Mirror, ObservationKey, Sources, is_stun},
    ticket::TicketRoot,
};

pub use metrics::Metrics;
pub use stream::{HandedStreams, StreamConfig, StreamDoor};

use crate::{
    core::{Limits, Relay},
    door::{DOORS, Door},
    quota::Accounts,
    socket::Worker,
    steer::Workers,
    stream::{
        gate::{self, Gate},
        inlet::Inlet,
        port::Port,
    },
    xdp::Accelerator,
};

/// How often the kernel's figures are added to ours.
const COUNTING: Duration = Duration::from_millis(500);

/// How often a relay that ends looks whether it is empty.
const LOOK: Duration = Duration::from_millis(20);

/// How this role behaves.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where clients send to, over UDP: as many addresses and ports as wanted, all lead to the same pairs. 3478 beside 443
    /// helps where a network blocks QUIC; at addresses of a rendezvous it is taken by the reflector.
    pub listen: Vec<SocketAddr>,
    /// Worker threads; 0: one for each core.
    pub workers: u8,
    /// The address of each listener as clients see it, in the same order. Empty: as bound.
    pub public: Vec<IpAddr>,
    /// The file of the root that ticket keys are derived from. Empty: `tickets.key` among the secrets.
    pub ticket_root: PathBuf,
    /// The file of the key that observations are sealed with. Empty: `observations.key` among the secrets.
    pub observation_key: PathBuf,
    /// Where this relay is, for people and for the choice of relays.
    pub region: String,
    /// Answers of the reflector a second to one source.
    pub answers_per_source: u32,
    /// Answers a second to one source that are larger than the question: plain STUN of other tools.
    pub larger_answers_per_source: u32,
    /// Network interfaces whose driver lets the kernel forward pairs by itself (XDP), past this host's firewall: IPv4, where the
    /// listeners name addresses. Needs CAP_BPF and CAP_NET_ADMIN; without them the workers do it all, and the log says so.
    pub xdp: Vec<String>,
    /// Whether the kernel keeps room for the legs of pairs while more arrives than the workers can look at (an eBPF filter at the
    /// sockets). Needs CAP_BPF; without it a flood of other datagrams can crowd them out, and the log says so.
    pub guard: bool,
    /// Pairs at once, at most; every worker takes its part.
    pub max_slots: u32,
    /// A pair without a packet of either leg for this long loses its slot.
    #[serde(with = "domain::human_duration")]
    pub idle: Duration,
    /// How long a relay that ends goes on forwarding at most, so that pairs can move: less when all have.
    #[serde(with = "domain::human_duration")]
    pub drain: Duration,
    /// Legs over TLS on TCP, for clients without UDP.
    pub streams: StreamConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 443))],
            workers: 0,
            public: Vec::new(),
            ticket_root: PathBuf::new(),
            observation_key: PathBuf::new(),
            region: "default".into(),
            answers_per_source: 200,
            larger_answers_per_source: 10,
            xdp: Vec::new(),
            guard: true,
            max_slots: 100_000,
            idle: Duration::from_secs(60),
            drain: Duration::from_secs(10),
            streams: StreamConfig::default(),
        }
    }
}

/// What this role needs of the rest.
#[derive(Clone, Debug)]
pub struct Seams {
    pub bus: Bus,
    pub metrics: Arc<Metrics>,
}

/// Why the role cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen at {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("relay.listen names no address")]
    NoListener,
    #[error("relay.listen names {named} addresses, more than {most}")]
    TooManyListeners { named: usize, most: usize },
    #[error("relay.workers is {named}, more than {most}")]
    TooManyWorkers { named: u8, most: u8 },
    #[error("relay.public names {named} addresses for {bound} listeners")]
    Public { named: usize, bound: usize },
    #[error("relay.streams.public names endpoints, but relay.streams.listen no listener")]
    NoStreamListener,
    #[error("a stream listener has no certificate")]
    Tls(#[from] stream::TlsError),
    #[error("{path} is no key of 32 bytes")]
    Key { path: PathBuf },
    #[error("the system gives no random bytes")]
    Random,
    #[error("a worker thread could not start")]
    Thread(#[source] io::Error),
    #[error("a socket failed")]
    Socket(#[source] io::Error),
    #[error("a worker thread panicked")]
    Panicked,
    #[error("the bus refuses")]
    Bus(#[from] bus::Error),
}

/// Sockets that are not served yet.
#[derive(Debug)]
pub struct Bound {
    config: Config,
    relay: RelayId,
    workers: Workers,
    listeners: Vec<Listener>,
    streams: Vec<(TcpListener, Arc<rustls::ServerConfig>)>,
    handed: Option<HandedStreams>,
}

/// A port of the relay.
#[derive(Debug)]
struct Listener {
    /// One for every worker.
    sockets: Vec<UdpSocket>,
    /// As the clients see it.
    endpoint: SocketAddr,
}

/// Takes the ports. `instance` names the process, and the relay with it.
///
/// # Errors
/// [`Error`].
pub fn bind(config: &Config, instance: InstanceId) -> Result<Bound, Error> {
    if config.listen.is_empty() {
        return Err(Error::NoListener);
    }
    if !config.public.is_empty() && config.public.len() != config.listen.len() {
        return Err(Error::Public { named: config.public.len(), bound: config.listen.len() });
    }
    if config.listen.len() > DOORS {
        return Err(Error::TooManyListeners { named: config.listen.len(), most: DOORS });
    }
    if config.workers > Workers::MOST {
        return Err(Error::TooManyWorkers { named: config.workers, most: Workers::MOST });
    }
    let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let workers = Workers::new(if config.workers == 0 { cores() } else { config.workers.into() });
    let mut listeners = Vec::with_capacity(config.listen.len());
    for (nth, &address) in config.listen.iter().enumerate() {
        let failed = |source| Error::Listen { address, source };
        let sockets = door::bind(address, workers).map_err(failed)?;
        let bound = sockets[0].local_addr().map_err(failed)?;
        let public = config.public.get(nth).map_or(bound.ip(), |ip| *ip);
        listeners.push(Listener { sockets, endpoint: SocketAddr::new(public, bound.port()) });
    }
    let relay = RelayId::from_bytes(*instance.as_bytes());
    let streams = bind_streams(&config.streams)?;
    Ok(Bound { config: config.clone(), relay, workers, listeners, streams, handed: None })
}

fn bind_streams(config: &StreamConfig) -> Result<Vec<(TcpListener, Arc<rustls::ServerConfig>)>, Error> {
    if config.listen.is_empty() {
        return Ok(Vec::new());
    }
    let tls = gate::tls(&config.tls_certificate, &config.tls_key)?;
    let one = |&address: &SocketAddr| {
        let listener = gate::bind(address).map_err(|source| Error::Listen { address, source })?;
        Ok((listener, tls.clone()))
    };
    config.listen.iter().map(one).collect()
}

impl Bound {
    /// Where clients reach this relay.
    #[must_use]
    pub fn endpoints(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|listener| listener.endpoint).collect()
    }

    /// Where clients reach it with streams.
    #[must_use]
    pub fn stream_endpoints(&self) -> Vec<StreamEndpoint> {
        if !self.config.streams.public.is_empty() {
            return self.config.streams.public.clone();
        }
        let bound = self.streams.iter().filter_map(|(listener, _)| listener.local_addr().ok());
        let handed = self.handed.iter().flat_map(HandedStreams::endpoints);
        bound.map(StreamEndpoint::from).chain(handed).collect()
    }

    /// Takes the streams that somebody else in this process accepts.
    pub fn take_streams(&mut self, handed: HandedStreams) {
        self.handed = Some(handed);
    }

    /// The relay's id.
    #[must_use]
    pub const fn relay(&self) -> RelayId {
        self.relay
    }

    /// Serves until `shutdown`, then tells the pairs to move and forwards for a while longer.
    ///
    /// # Errors
    /// [`Error`] when a key is missing or a socket fails.
    pub async fn run(self, seams: Seams, shutdown: CancellationToken) -> Result<(), Error> {
        let root = TicketRoot::new(read_key(&self.config.ticket_root)?);
        let observations = ObservationKey::new(&read_key(&self.config.observation_key)?);
        let mut secret = [0; 32];
        SystemRandom::new().fill(&mut secret).map_err(|_| Error::Random)?;
        let (endpoints, stream_endpoints) = (self.endpoints(), self.stream_endpoints());
        let drains = Arc::new(AtomicBool::new(false));
        let stops = Arc::new(AtomicBool::new(false));
        let spread = u64::from_le_bytes(std::array::from_fn(|nth| secret[nth]));
        let budget =
            Budget { answers: self.config.answers_per_source, larger_answers: self.config.larger_answers_per_source };
        let helping = help(&seams, &self.listeners, budget, spread).await?;
        let limits = Limits {
            max_slots: self.config.max_slots.div_ceil(u32::from(self.workers.count())),
            idle: self.config.idle,
        };
        let mut doors: Vec<_> = (0..self.workers.count()).map(|_| Vec::with_capacity(endpoints.len())).collect();
        for Listener { sockets, endpoint } in self.listeners {
            for (doors, socket) in doors.iter_mut().zip(sockets) {
                let mirror = Mirror::single(endpoint, observations.clone());
                doors.push(Door { socket, desk: Desk::new(Instant::now(), mirror, budget, spread) });
            }
        }
        let mut accelerator = accelerate(&self.config, self.workers);
        let streams = !self.streams.is_empty() || self.handed.is_some();
        if !streams && !stream_endpoints.is_empty() {
            return Err(Error::NoStreamListener);
        }
        let mut inlets = Vec::new();
        if streams {
            for _ in 0..self.workers.count() {
                inlets.push(Arc::new(Inlet::new().map_err(Error::Thread)?));
            }
        }
        let (accounts, wakes) = Accounts::new(quota::OVERDRAFT);
        let mut seed = [0; 8];
        SystemRandom::new().fill(&mut seed).map_err(|_| Error::Random)?;
        let ledger = quota::Ledger::new(Instant::now(), accounts.clone(), seed);
        let (names, named) = mpsc::channel(held_back::WAITING);
        let mut workers = Vec::with_capacity(doors.len());
        for (worker, doors) in (0..).zip(doors) {
            let bound = doors.iter().map(|door: &Door| door.socket.local_addr()).collect::<io::Result<_>>();
            let bound = bound.map_err(Error::Socket)?;
            let table = accelerator.as_ref().and_then(|accelerator| accelerator.table(bound).ok());
            let guard = if self.config.guard { guard::guard(&doors, limits.max_slots, self.workers) } else { None };
            let port = || Port::new((worker, self.workers), inlets.clone(), Arc::clone(&seams.metrics));
            let worker = Worker {
                doors,
                relay: Relay::new(
                    Instant::now(),
                    root.key(self.relay),
                    secret,
                    limits,
                    (worker, self.workers),
                    accounts.clone(),
                ),
                table,
                guard,
                port: streams.then(port).transpose().map_err(Error::Thread)?,
                metrics: Arc::clone(&seams.metrics),
                held_back: names.clone(),
                drains: Arc::clone(&drains),
                stops: Arc::clone(&stops),
            };
            workers.push(worker.start().map_err(Error::Thread)?);
        }
        drop(names);
        tracing::info!(relay = %self.relay, workers = workers.len(), "relay forwards");

        let silent = CancellationToken::new();
        let mut reporting = JoinSet::new();
        let metrics = Arc::clone(&seams.metrics);
        reporting.spawn(quota::run(ledger, wakes, seams.bus.clone(), Arc::clone(&metrics), silent.clone()));
        reporting.spawn(held_back::run(self.relay, named, seams.bus.clone(), Arc::clone(&metrics)));
        let ends = CancellationToken::new();
        let _ends = ends.clone().drop_guard();
        let gate = Gate::new(self.config.streams.clone(), self.workers, inlets, Arc::clone(&seams.metrics), spread);
        let listeners = self.streams.into_iter().map(|(listener, tls)| Ok((listener.try_into()?, tls.into())));
        let listeners = listeners.collect::<io::Result<_>>().map_err(Error::Socket)?;
        let mut gates = JoinSet::new();
        gates.spawn(Arc::new(gate).run(listeners, self.handed, ends.clone()));

        let beat = beat::Beat {
            relay: self.relay,
            endpoints,
            streams: stream_endpoints,
            region: self.config.region.clone(),
            max_slots: self.config.max_slots,
            seams: seams.clone(),
        };
        let mut ended = tokio::task::spawn_blocking(move || {
            let outcomes: Vec<_> = workers.into_iter().map(std::thread::JoinHandle::join).collect();
            outcomes.into_iter().try_for_each(|joined| joined.map_err(|_| Error::Panicked)?.map_err(Error::Socket))
        });
        let (orders, ordered) = watch::channel(false);
        let taking = take_orders(self.relay, &seams.bus, orders.clone(), Arc::clone(&drains)).await?;
        let tells = async { tokio::join!(beat.run(ordered), count_accelerated(&mut accelerator, &metrics)) };
        let mut tells = std::pin::pin!(tells);
        tokio::select! {
            ended = &mut ended => return ended.map_err(|_| Error::Panicked)?,
            _ = &mut tells => {}
            () = shutdown.cancelled() => {}
        }
        helping.stop().await;
        taking.stop().await;
        drains.store(true, Ordering::Relaxed);
        orders.send_replace(true);
        let gone = tokio::select! {
            ended = &mut ended => Some(ended),
            _ = &mut tells => None,
            () = emptied(&metrics, self.config.drain) => None,
        };
        stops.store(true, Ordering::Relaxed);
        ends.cancel();
        while gates.join_next().await.is_some() {}
        let ended = match gone {
            Some(ended) => ended,
            None => ended.await,
        };
        silent.cancel();
        reporting.join_all().await;
        ended.map_err(|_| Error::Panicked)?
    }
}

/// Takes orders of operators until the guard is stopped.
async fn take_orders(
    relay: RelayId,
    bus: &Bus,
    orders: watch::Sender<bool>,
    drains: Arc<AtomicBool>,
) -> Result<Served, bus::Error> {
    let take = move |RelayOrdered { relay: named, order }: RelayOrdered| {
        let drain = order == RelayOrder::Drain;
        if named == relay && drains.swap(drain, Ordering::Relaxed) != drain {
            orders.send_replace(drain);
            tracing::info!(%relay, "the relay {}", if drain { "drains" } else { "takes pairs again" });
        }
        std::future::ready(Ok::<(), Infallible>(()))
    };
    bus.subscribe(1, take).await
}

/// Waits until no pair is left, but not for longer than `patience`.
async fn emptied(metrics: &Metrics, patience: Duration) {
    let mut looks = tokio::time::interval(LOOK);
    let empty = async {
        while metrics.pairs.get() > 0 {
            looks.tick().await;
        }
    };
    if tokio::time::timeout(patience, empty).await.is_err() {
        tracing::info!(pairs = metrics.pairs.get(), "the relay ends before all pairs have moved");
    }
}

/// The accelerator that is configured, if this host can have it.
fn accelerate(config: &Config, workers: Workers) -> Option<Accelerator> {
    if config.xdp.is_empty() {
        return None;
    }
    match Accelerator::start(&config.xdp, config.max_slots, workers) {
        Ok(accelerator) => {
            tracing::info!(interfaces = ?config.xdp, "the kernel forwards pairs");
            Some(accelerator)
        }
        Err(error) => {
            let reason = error.source().map(ToString::to_string);
            tracing::warn!(%error, reason, interfaces = ?config.xdp, "the kernel forwards no pairs, the workers forward all");
            None
        }
    }
}

/// Adds what the kernel forwarded to the figures, for as long as it is polled.
async fn count_accelerated(accelerator: &mut Option<Accelerator>, metrics: &Metrics) {
    let Some(accelerator) = accelerator else { return std::future::pending().await };
    let mut ticks = tokio::time::interval(COUNTING);
    loop {
        ticks.tick().await;
        let counted = accelerator.count();
        metrics.forwarded_packets.inc_by(counted.packets);
        metrics.forwarded_bytes.inc_by(counted.bytes);
        metrics.accelerated_packets.inc_by(counted.packets);
    }
}

/// Sends answers for rendezvous processes that have one address only, until the guard is stopped.
async fn help(seams: &Seams, listeners: &[Listener], budget: Budget, spread: u64) -> Result<Served, Error> {
    let cloned = listeners.iter().filter_map(|listener| {
        let socket = listener.sockets.first()?;
        Some(socket.try_clone().map(|socket| (socket, listener.endpoint)))
    });
    let sockets: Vec<_> = cloned.collect::<io::Result<_>>().map_err(Error::Socket)?;
    let sources = Mutex::new(Sources::new(Instant::now(), budget.answers, spread));
    let metrics = Arc::clone(&seams.metrics);
    let send = move |request: ReflectFrom| {
        let ReflectFrom { from, to, answer } = request;
        let granted = is_stun(&answer)
            && answer.len() <= MAX_ANSWER_SIZE
            && sources.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now(), to.ip());
        let socket = sockets.iter().find(|(_, endpoint)| *endpoint == from).filter(|_| granted);
        match socket.map(|(socket, _)| socket.send_to(&answer, to)) {
            Some(Ok(_)) => metrics.reflections.inc(),
            Some(Err(_)) => metrics.unsent.inc(),
            None => metrics.dropped(core::DropReason::AsksTooOften).inc(),
        }
        std::future::ready(Ok::<(), Infallible>(()))
    };
    Ok(seams.bus.subscribe::<ReflectFrom, _, _, _>(1, send).await?)
}

fn read_key(path: &std::path::Path) -> Result<[u8; 32], Error> {
    let key = std::fs::read(path).ok().and_then(|bytes| bytes.try_into().ok());
    key.ok_or_else(|| Error::Key { path: path.to_owned() })
}
