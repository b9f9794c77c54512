//! The role that gets pairs of clients a path: a relay at once, a direct one when their NATs allow it.
//!
//! - **probe**: reflectors on two addresses by two ports, which tell clients where they are seen from (STUN). All they
//!   remember is budgets and the few answers that are to come late; what a reflector saw travels sealed with the client, and is opened here when the client presents it.
//! - **negotiate**: the shell around `traversal::schedule`. Network says which pairs are wanted, presence where they are
//!   and what was tried before; orders go to the clients through their gateways, and their words come back addressed to
//!   this process.
//! - **relays**: which relays live, by their beats, and the tickets for them; **names**: whom the tickets are of, for what relays
//!   tell of pairs.
//!
//! Any number of these processes run at once and share nothing but presence, the bus and two secrets. One that dies in a
//! negotiation leaves leases that run out; the next wish for the pair, or another process that rests it, starts again.

mod elsewhere;
mod metrics;
mod names;
mod negotiate;
mod probe;
mod relays;
mod streams;

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bus::{Bus, Served};
use contract::{
    admin::{self, RendezvousFigures},
    relay::RelayOrdered,
    rendezvous::{
        OrderRefusal, OrderRelay, Pair, PairReply, PairsHeldBack, PairsWanted, PunchWord, ReflectorBeat, Refusal,
        RelayBeat, Relays as AskRelays, RelaysReply,
    },
};
use domain::{InstanceId, UnixMillis};
use presence::Presence;
use serde::{Deserialize, Serialize};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use traversal::schedule::Limits;
use wire::probe::ObservationKey;

pub use metrics::{Metrics, Offered, Presented, Probed};

use negotiate::Negotiator;
use probe::Probes;
use relays::Relays;

/// How this role behaves.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// One or two addresses of each family for the reflectors. With one address some NATs look better than they are.
    pub addresses: Vec<IpAddr>,
    /// The addresses that clients reach those at, in the same order. Empty: the same.
    pub public: Vec<IpAddr>,
    /// The two ports of each reflector, over UDP and TCP.
    pub ports: [u16; 2],
    /// Answers a second to one source.
    pub answers_per_source: u32,
    /// Answers a second to one source that are larger than the question: plain STUN of other tools.
    pub larger_answers_per_source: u32,
    /// TCP connections at once to all reflectors of this process. 0: no TCP.
    pub connections: usize,
    /// Of those, from one source prefix (IPv4 /32, IPv6 /56).
    pub connections_per_source: usize,
    /// The file of the key that reflectors seal with. Empty: `observations.key` among the secrets.
    pub observation_key: PathBuf,
    /// The file of the root of all relays' ticket keys. Empty: `tickets.key` among the secrets.
    pub ticket_root: PathBuf,
    /// How long a ticket opens a relay.
    #[serde(with = "domain::human_duration")]
    pub ticket_lifetime: Duration,
    /// How long the record of a pair is kept.
    #[serde(with = "domain::human_duration")]
    pub record_lifetime: Duration,
    /// Negotiations at once in this process.
    pub negotiations: usize,
    /// Negotiations at once that one client takes part in.
    pub negotiations_per_client: usize,
    /// Events handled at once.
    pub concurrency: usize,
    pub traversal: Traversal,
}

/// How paths are looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Traversal {
    pub strategies: Strategies,
}

/// What may be tried. Each can be switched off by itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Strategies {
    /// Send to the ports that a router will use next.
    pub predict: bool,
    /// One attempt at a time behind a router whose ports are predicted.
    pub serialise: bool,
    /// Try many ports of a router that nobody can predict.
    pub birthday: bool,
    /// Connect over TCP where no UDP gets out.
    pub tcp: bool,
}

impl Default for Strategies {
    fn default() -> Self {
        Self { predict: true, serialise: true, birthday: true, tcp: true }
    }
}

impl Strategies {
    const fn allowed(&self) -> traversal::plan::Strategies {
        traversal::plan::Strategies { predict: self.predict, birthday: self.birthday, tcp: self.tcp }
    }
}

impl Default for Config {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            addresses: vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2])],
            public: Vec::new(),
            ports: [3478, 3479],
            answers_per_source: 200,
            larger_answers_per_source: 10,
            connections: 2_048,
            connections_per_source: 64,
            observation_key: PathBuf::new(),
            ticket_root: PathBuf::new(),
            ticket_lifetime: Duration::from_secs(60),
            record_lifetime: Duration::from_secs(24 * 60 * 60),
            negotiations: limits.negotiations,
            negotiations_per_client: limits.per_client,
            concurrency: 64,
            traversal: Traversal::default(),
        }
    }
}

/// What this role needs of the rest.
#[derive(Clone, Debug)]
pub struct Seams {
    pub bus: Bus,
    pub presence: Presence,
    /// This process on the bus: what clients' words in a negotiation are addressed to.
    pub instance: InstanceId,
    pub metrics: Arc<Metrics>,
    /// [`wall_clock`], or that of a test.
    pub clock: Clock,
}

/// Tells the time.
pub type Clock = fn() -> UnixMillis;

/// Why the role cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "one or two addresses of each family are needed for the reflectors, and as many public ones of the same families or none"
    )]
    Addresses,
    #[error("cannot listen on {endpoint}")]
    Bind { endpoint: SocketAddr, source: io::Error },
    #[error("cannot read the key in {path}")]
    Key { path: PathBuf, source: io::Error },
    #[error("{path} is no key: 32 bytes expected")]
    KeySize { path: PathBuf },
    #[error("the system gives no random bytes")]
    Random,
    #[error("the bus refuses")]
    Bus(#[from] bus::Error),
}

/// The role with its sockets open.
pub struct Bound {
    config: Config,
    probes: Probes,
    ticket_root: [u8; 32],
    observations: ObservationKey,
}

/// Opens the sockets and reads the secrets.
///
/// # Errors
/// [`Error`], but not of the bus.
pub fn bind(config: Config) -> Result<Bound, Error> {
    let observations = ObservationKey::new(&key(&config.observation_key)?);
    let ticket_root = key(&config.ticket_root)?;
    let probes = Probes::bind(&config, &observations)?;
    Ok(Bound { config, probes, ticket_root, observations })
}

impl std::fmt::Debug for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bound").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Bound {
    /// The endpoints of the reflectors as clients reach them: R1:p, R1:q, R2:p, R2:q, over IPv4 and then over IPv6.
    #[must_use]
    pub fn reflectors(&self) -> Vec<SocketAddr> {
        self.probes.endpoints()
    }

    /// Serves until `shutdown`.
    ///
    /// # Errors
    /// [`Error::Bus`] when the bus refuses the subscriptions, [`Error::Random`] without random bytes.
    pub async fn run(self, seams: Seams, shutdown: CancellationToken) -> Result<(), Error> {
        let Self { config, probes, ticket_root, observations } = self;
        let reflectors = probes.endpoints();
        let relays = Arc::new(Relays::new(ticket_root, config.ticket_lifetime));
        let mut tasks = JoinSet::new();
        let (negotiator, actor) = Negotiator::new(&config, &seams, Arc::clone(&relays), observations)?;
        tasks.spawn(actor.run(shutdown.clone()));
        let reflecting = probes.run(&mut tasks, &seams, &shutdown).await?;
        let served = serve(&config, &seams, &relays, &negotiator).await?;

        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut figures = tokio::time::interval(admin::PERIOD);
        figures.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = beat.tick() => tell_reflectors(&seams, &reflectors).await,
                _ = figures.tick() => tell_figures(&seams).await,
            }
        }
        for served in served.into_iter().chain(reflecting) {
            served.stop().await;
        }
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
            {
                tracing::error!(error = &error as &dyn std::error::Error, "a task of rendezvous panicked");
            }
        }
        Ok(())
    }
}

/// Opens the sockets and serves until `shutdown`.
///
/// # Errors
/// [`Error`].
pub async fn run(config: Config, seams: Seams, shutdown: CancellationToken) -> Result<(), Error> {
    bind(config)?.run(seams, shutdown).await
}

async fn serve(
    config: &Config,
    seams: &Seams,
    relays: &Arc<Relays>,
    negotiator: &Arc<Negotiator>,
) -> Result<Vec<Served>, Error> {
    let bus = &seams.bus;
    let concurrency = config.concurrency;
    let beats = {
        let (relays, metrics) = (Arc::clone(relays), Arc::clone(&seams.metrics));
        move |beat: RelayBeat| {
            let now = Instant::now().into_std();
            relays.handle_beat(now, beat);
            metrics.relays.set(i64::try_from(relays.live(now).len()).unwrap_or(i64::MAX));
            std::future::ready(Ok::<(), std::convert::Infallible>(()))
        }
    };
    let held_back = {
        let (relays, seams) = (Arc::clone(relays), seams.clone());
        move |told: PairsHeldBack| {
            let (happened, bus) = (relays.names.held_back((seams.clock)(), &told), seams.bus.clone());
            async move {
                if let Some(happened) = happened
                    && let Err(error) = bus.publish(&happened).await
                {
                    tracing::debug!(error = &error as &dyn std::error::Error, "events were not told");
                }
                Ok::<(), std::convert::Infallible>(())
            }
        }
    };
    let wanted = {
        let negotiator = Arc::clone(negotiator);
        move |wanted: PairsWanted| {
            let negotiator = Arc::clone(&negotiator);
            async move { negotiator.wanted(wanted).await }
        }
    };
    let words = {
        let negotiator = Arc::clone(negotiator);
        move |word: PunchWord| {
            let negotiator = Arc::clone(&negotiator);
            async move { negotiator.word(word).await }
        }
    };
    let pair = {
        let presence = seams.presence.clone();
        move |pair: Pair| {
            let presence = presence.clone();
            async move {
                let record = presence.recall(pair.a, pair.b).await;
                let record = record.map_err(|error| refuse("recalling the record of a pair", &error))?;
                Ok::<_, Refusal>(PairReply { record })
            }
        }
    };
    let list = {
        let relays = Arc::clone(relays);
        move |_: AskRelays| {
            let relays = relays.live(Instant::now().into_std());
            std::future::ready(Ok::<_, Refusal>(RelaysReply { relays }))
        }
    };
    let order = {
        let (relays, bus) = (Arc::clone(relays), bus.clone());
        move |call: OrderRelay| {
            let (known, bus) = (relays.live(Instant::now().into_std()), bus.clone());
            async move { order_relay(&bus, &known, call).await }
        }
    };
    Ok(vec![
        bus.subscribe::<RelayBeat, _, _, _>(1, beats).await?,
        bus.subscribe::<PairsHeldBack, _, _, _>(1, held_back).await?,
        bus.subscribe::<PunchWord, _, _, _>(concurrency, words).await?,
        bus.subscribe::<PairsWanted, _, _, _>(concurrency, wanted).await?,
        bus.serve::<Pair, _, _>(concurrency, pair).await?,
        bus.serve::<AskRelays, _, _>(concurrency, list).await?,
        bus.serve::<OrderRelay, _, _>(concurrency, order).await?,
    ])
}

/// Tells one of the relays that are `known` what an operator wants of it.
async fn order_relay(
    bus: &Bus,
    known: &[RelayBeat],
    OrderRelay { relay, order }: OrderRelay,
) -> Result<(), OrderRefusal> {
    if known.iter().all(|beat| beat.relay != relay) {
        return Err(OrderRefusal::NoSuchRelay);
    }
    let process = InstanceId::from_bytes(*relay.as_bytes());
    match bus.publish_to(process, &RelayOrdered { relay, order }).await {
        Ok(()) => Ok(()),
        // It has just ended.
        Err(bus::Error::Unroutable) => Err(OrderRefusal::NoSuchRelay),
        Err(error) => {
            Err(OrderRefusal::Internal { incident: telemetry::incident::log("telling a relay an order", &error) })
        }
    }
}

/// Gateways forget reflectors that they do not hear of for a while.
async fn tell_reflectors(seams: &Seams, reflectors: &[SocketAddr]) {
    let endpoints = reflectors.to_vec();
    if let Err(error) = seams.bus.publish(&ReflectorBeat { instance: seams.instance, endpoints }).await {
        tracing::debug!(error = &error as &dyn std::error::Error, "a beat of the reflectors was not told");
    }
}

/// For the overview of operators.
async fn tell_figures(seams: &Seams) {
    let figures = RendezvousFigures { instance: seams.instance, ended: seams.metrics.ended() };
    if let Err(error) = seams.bus.publish(&figures).await {
        tracing::debug!(error = &error as &dyn std::error::Error, "the figures of this process were not told");
    }
}

fn refuse(what: &'static str, error: &dyn std::error::Error) -> Refusal {
    Refusal::Internal { incident: telemetry::incident::log(what, error) }
}

fn key(path: &Path) -> Result<[u8; 32], Error> {
    let bytes = fs::read(path).map_err(|source| Error::Key { path: path.to_owned(), source })?;
    bytes.try_into().map_err(|_| Error::KeySize { path: path.to_owned() })
}

/// The clock of this machine, for expiries and records.
#[must_use]
pub fn wall_clock() -> UnixMillis {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Three missing ones and a gateway names other reflectors.
const BEAT: Duration = Duration::from_secs(2);
