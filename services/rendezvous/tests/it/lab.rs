//! A hub, presence, one or more rendezvous processes, one gateway and clients that follow a script.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bus::{Bus, Served, memory::Hub};
use contract::{
    gateway::{Notice, Push},
    rendezvous::{PairWanted, PairsWanted, PunchSaid, PunchWord, RelayBeat, Wanted},
};
use domain::{
    Allocation, Bandwidth, ClientId, Epoch, InstanceId, Mapping, NatProfile, Observation, PairRecord, PunchId,
    PunchOrder, PunchPreparation, PunchReady, PunchReport, RelayId, RelayOffer, SessionTag, UnixMillis,
};
use presence::{Presence, memory::Faults};
use rendezvous::{Config, Metrics, Seams, Strategies, Traversal};
use tempfile::TempDir;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use wire::probe::{ObservationKey, Observed};

pub(crate) const ANNA: ClientId = ClientId::from_bytes([1; 16]);
pub(crate) const BERT: ClientId = ClientId::from_bytes([2; 16]);
const GATEWAY: InstanceId = InstanceId::from_bytes([0x99; 16]);
const OBSERVATIONS: [u8; 32] = [7; 32];
pub(crate) const TICKETS: [u8; 32] = [8; 32];
pub(crate) const RATE: Bandwidth = Bandwidth::from_bytes_per_second(1_000);
/// Of every control connection.
pub(crate) const JITTER_US: u64 = 40_000;
const TTL: Duration = Duration::from_secs(3_600);
/// Virtual: nothing that is expected takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Everything around the role.
pub(crate) struct Lab {
    pub(crate) presence: Presence,
    hub: Hub,
    gateway: Bus,
    pushes: RefCell<mpsc::Receiver<Push>>,
    dir: TempDir,
    strategies: Strategies,
    processes: Vec<Option<Process>>,
    scripts: RefCell<BTreeMap<ClientId, Script>>,
    pub(crate) heard: RefCell<Vec<Heard>>,
    _served: Served,
}

/// One rendezvous process.
struct Process {
    bus: Bus,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
    tasks: JoinSet<Result<(), rendezvous::Error>>,
}

/// How a client behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Script {
    /// Measures, punches and succeeds.
    Succeeds,
    /// Measures, punches and never gets an answer.
    Fails,
    /// Presents an observation that no reflector made.
    Forges,
    /// Presents another session's observation.
    Steals,
    /// Says nothing.
    Silent,
}

/// What a client was told.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) at: Instant,
    pub(crate) by: ClientId,
    pub(crate) notice: Notice,
}

impl Heard {
    pub(crate) fn record(&self) -> Option<PairRecord> {
        if let Notice::Record(record) = &self.notice { Some(record.clone()) } else { None }
    }

    pub(crate) fn preparation(&self) -> Option<PunchPreparation> {
        if let Notice::Prepare(preparation) = &self.notice { Some(preparation.clone()) } else { None }
    }

    pub(crate) fn order(&self) -> Option<PunchOrder> {
        if let Notice::Go(order) = &self.notice { Some(order.clone()) } else { None }
    }

    fn offer(&self) -> Option<RelayOffer> {
        if let Notice::Relay(offer) = &self.notice { Some(offer.clone()) } else { None }
    }
}

impl Lab {
    /// A deployment with `processes` of the role.
    pub(crate) async fn new(processes: u8) -> Self {
        Self::with(processes, Strategies::default()).await
    }

    /// A deployment whose operator has switched something off.
    pub(crate) async fn with(processes: u8, strategies: Strategies) -> Self {
        let hub = Hub::default();
        let gateway = Bus::memory(&hub, GATEWAY);
        let (sender, pushes) = mpsc::channel(1_000);
        let served = gateway
            .subscribe::<Push, _, _, _>(1, move |push| {
                let sender = sender.clone();
                async move {
                    sender.send(push).await.unwrap();
                    Ok::<_, Infallible>(())
                }
            })
            .await
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("observations"), OBSERVATIONS).unwrap();
        std::fs::write(dir.path().join("tickets"), TICKETS).unwrap();
        // With one event at a time and a presence that takes its time, every process gets its share of the work.
        let slow = Faults { delay: Duration::from_millis(5), ..Faults::default() };
        let mut lab = Self {
            presence: Presence::Memory(presence::memory::Memory::new(slow)),
            hub,
            gateway,
            pushes: RefCell::new(pushes),
            dir,
            strategies,
            processes: vec![],
            scripts: RefCell::default(),
            heard: RefCell::default(),
            _served: served,
        };
        for number in 0..processes {
            lab.start(number);
        }
        // Subscribed: the reflectors' first beats came.
        tokio::time::sleep(Duration::from_millis(10)).await;
        lab
    }

    fn start(&mut self, number: u8) {
        let instance = InstanceId::from_bytes([number + 1; 16]);
        let config = self.config();
        let metrics = Arc::new(Metrics::register(&telemetry::registry()).unwrap());
        let bus = Bus::memory(&self.hub, instance);
        let shutdown = CancellationToken::new();
        let seams = Seams {
            bus: bus.clone(),
            presence: self.presence.clone(),
            instance,
            metrics: Arc::clone(&metrics),
            clock: virtual_clock,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(rendezvous::run(config, seams, shutdown.clone()));
        self.processes.push(Some(Process { bus, metrics, shutdown, tasks }));
    }

    /// Any free ports of the loopback.
    pub(crate) fn config(&self) -> Config {
        Config {
            ports: [0, 0],
            concurrency: 1,
            observation_key: self.dir.path().join("observations"),
            ticket_root: self.dir.path().join("tickets"),
            traversal: Traversal { strategies: self.strategies.clone() },
            ..Config::default()
        }
    }

    /// Ends a process without a word.
    pub(crate) fn kill(&mut self, number: usize) {
        self.processes[number] = None;
    }

    /// Ends all processes in peace.
    pub(crate) async fn stop(mut self) {
        for process in self.processes.iter_mut().flatten() {
            process.shutdown.cancel();
            process.tasks.join_next().await.unwrap().unwrap().unwrap();
        }
    }

    pub(crate) fn metrics(&self, number: usize) -> &Metrics {
        &self.processes[number].as_ref().unwrap().metrics
    }

    /// The process that leads a negotiation.
    pub(crate) fn leader(&self, preparation: &PunchPreparation) -> usize {
        usize::from(preparation.punch.leader.as_bytes()[0] - 1)
    }

    pub(crate) fn bus(&self, number: usize) -> &Bus {
        &self.processes[number].as_ref().unwrap().bus
    }

    /// A client logs in.
    pub(crate) async fn up(&self, client: ClientId, script: Script) -> Epoch {
        let at = virtual_clock();
        let up = self.presence.up(client, GATEWAY, tag(client), Epoch(at.0), at, TTL).await.unwrap();
        self.scripts.borrow_mut().insert(client, script);
        up.epoch
    }

    /// A client logs in and reports its NAT.
    pub(crate) async fn up_with(&self, client: ClientId, profile: NatProfile, script: Script) {
        let epoch = self.up(client, script).await;
        assert!(self.presence.report(client, epoch, profile).await.unwrap());
    }

    /// A client logs in at a gateway that nobody reaches any more.
    pub(crate) async fn up_elsewhere(&self, client: ClientId, profile: NatProfile) {
        let (at, gateway) = (virtual_clock(), InstanceId::from_bytes([0x98; 16]));
        let up = self.presence.up(client, gateway, tag(client), Epoch(at.0), at, TTL).await.unwrap();
        assert!(self.presence.report(client, up.epoch, profile).await.unwrap());
    }

    /// Two clients with easy NATs.
    pub(crate) async fn easy_pair(&self, scripts: [Script; 2]) {
        self.up_with(ANNA, easy(), scripts[0]).await;
        self.up_with(BERT, easy(), scripts[1]).await;
    }

    /// What the process `instance` reaches the others by.
    pub(crate) fn bus_of(&self, instance: InstanceId) -> Bus {
        Bus::memory(&self.hub, instance)
    }

    pub(crate) async fn want(&self, reason: Wanted) {
        self.want_leaving(reason, None).await;
    }

    /// Anna asks for another relay than that.
    pub(crate) async fn want_leaving(&self, reason: Wanted, leaves: Option<RelayId>) {
        let pairs = vec![PairWanted {
            a: ANNA,
            b: BERT,
            relay_rate: RATE,
            reason,
            leaves,
            payers: [ANNA, BERT].map(Into::into),
        }];
        self.gateway.publish(&PairsWanted { pairs }).await.unwrap();
    }

    pub(crate) async fn beat(&self, number: u8) {
        self.beat_with(number, 0, 1_000).await;
    }

    pub(crate) async fn beat_with(&self, number: u8, slots: u32, max_slots: u32) {
        self.beat_of(number, |beat| RelayBeat { slots, max_slots, ..beat }).await;
    }

    pub(crate) async fn beat_of(&self, number: u8, make: impl FnOnce(RelayBeat) -> RelayBeat) {
        let beat = RelayBeat {
            relay: RelayId::from_bytes([number; 16]),
            endpoints: vec![([198, 51, 100, number], 443).into()],
            region: String::new(),
            slots: 0,
            max_slots: 1_000,
            rate: Bandwidth::from_bytes_per_second(0),
            draining: false,
            streams: vec!["relay.example:443".parse().unwrap()],
        };
        self.gateway.publish(&make(beat)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    /// Lets clients follow their scripts until one is told something that `wanted` picks.
    pub(crate) async fn until<T>(&self, wanted: impl Fn(&Heard) -> Option<T>) -> T {
        let waiting = async {
            loop {
                if let Some(found) = self.step().await.iter().find_map(&wanted) {
                    return found;
                }
            }
        };
        timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("only heard {:?}", self.heard.borrow()))
    }

    /// The next record that both or one of them are told.
    pub(crate) async fn record(&self) -> PairRecord {
        self.until(|heard| heard.record().filter(|record| !lacks_relay(record))).await
    }

    /// The next record that says that there is no relay.
    pub(crate) async fn lack(&self) -> PairRecord {
        self.until(|heard| heard.record().filter(lacks_relay)).await
    }

    pub(crate) async fn preparation(&self) -> PunchPreparation {
        self.until(Heard::preparation).await
    }

    pub(crate) async fn offer(&self, client: ClientId) -> RelayOffer {
        self.until(|heard| heard.offer().filter(|_| heard.by == client)).await
    }

    /// Lets clients follow their scripts for a while.
    pub(crate) async fn run(&self, duration: Duration) {
        let _over = timeout(duration, async {
            loop {
                self.step().await;
            }
        })
        .await;
    }

    /// All clients behave like this from now on.
    pub(crate) fn up_script(&self, script: Script) {
        self.scripts.borrow_mut().values_mut().for_each(|current| *current = script);
    }

    /// `client` claims to be ready for `punch`.
    pub(crate) async fn say_ready(&self, client: ClientId, punch: PunchId) {
        let ready = PunchReady {
            punch,
            observations: vec![observe(client, Script::Succeeds)],
            local: vec![],
            mapped: None,
            lan: None,
        };
        let word = PunchWord {
            from: client,
            tag: tag(client),
            control_rtt_us: 0,
            control_jitter_us: None,
            said: PunchSaid::Ready(ready),
        };
        self.gateway.publish_to(punch.leader, &word).await.unwrap();
    }

    /// `client` claims that `punch` failed.
    pub(crate) async fn say_failed(&self, client: ClientId, punch: PunchId) {
        let report = PunchReport { punch, endpoint: None, rtt_us: 0, packets: 0, took_us: 0 };
        let said = PunchSaid::Report(report);
        let word = PunchWord { from: client, tag: tag(client), control_rtt_us: 0, control_jitter_us: None, said };
        self.gateway.publish_to(punch.leader, &word).await.unwrap();
    }

    /// A client has measured its NAT once more.
    pub(crate) async fn profiled(&self, client: ClientId, epoch: Epoch, profile: NatProfile) {
        assert!(self.presence.report(client, epoch, profile).await.unwrap());
        self.want(Wanted::Profiled).await;
    }

    pub(crate) fn orders(&self, client: ClientId) -> Vec<PunchOrder> {
        let heard = self.heard.borrow();
        heard.iter().filter(|heard| heard.by == client).filter_map(Heard::order).collect()
    }

    pub(crate) fn preparations(&self) -> Vec<(Instant, ClientId)> {
        let heard = self.heard.borrow();
        let prepared = heard.iter().filter(|heard| matches!(heard.notice, Notice::Prepare(_)));
        prepared.map(|heard| (heard.at, heard.by)).collect()
    }

    #[expect(clippy::await_holding_refcell_ref, reason = "one test, one task")]
    async fn step(&self) -> Vec<Heard> {
        let push = self.pushes.borrow_mut().recv().await.unwrap();
        let mut news = vec![];
        for target in push.to {
            let heard = Heard { at: Instant::now(), by: target.client, notice: push.notice.clone() };
            self.heard.borrow_mut().push(heard.clone());
            self.follow(target.client, &push.notice).await;
            news.push(heard);
        }
        news
    }

    async fn follow(&self, client: ClientId, notice: &Notice) {
        let Some(script) = self.scripts.borrow().get(&client).copied() else { return };
        let said = match (notice, script) {
            (_, Script::Silent) => return,
            (Notice::Prepare(preparation), _) => {
                let observation = observe(client, script);
                let local = vec![];
                PunchSaid::Ready(PunchReady {
                    punch: preparation.punch,
                    observations: vec![observation],
                    local,
                    mapped: None,
                    lan: None,
                })
            }
            (Notice::Go(order), _) => PunchSaid::Report(report(order, script)),
            _ => return,
        };
        let punch = match &said {
            PunchSaid::Ready(ready) => ready.punch,
            PunchSaid::Report(report) => report.punch,
        };
        let word = PunchWord {
            from: client,
            tag: tag(client),
            control_rtt_us: 20_000,
            control_jitter_us: Some(JITTER_US),
            said,
        };
        // The leader may have died meanwhile.
        let _told = self.gateway.publish_to(punch.leader, &word).await;
    }
}

pub(crate) const fn easy() -> NatProfile {
    NatProfile { mapping: Some(Mapping::EndpointIndependent), ..hard() }
}

pub(crate) const fn hard() -> NatProfile {
    NatProfile {
        udp: true,
        mapping: Some(Mapping::AddressAndPortDependent),
        allocation: Some(Allocation::Random),
        filtering: None,
        keeps_port: false,
        unsure: false,
        hops: 7,
        ..NatProfile::BLOCKED
    }
}

/// The wall clock of the test: that of tokio, which may be paused.
pub(crate) fn virtual_clock() -> UnixMillis {
    static START: OnceLock<std::time::Instant> = OnceLock::new();
    let now = Instant::now().into_std();
    UnixMillis(1_800_000_000_000).plus(now.saturating_duration_since(*START.get_or_init(|| now)))
}

pub(crate) fn tag(client: ClientId) -> SessionTag {
    SessionTag(*client.as_bytes())
}

/// Where a reflector sees a client.
pub(crate) fn seen(client: ClientId) -> SocketAddr {
    ([203, 0, 113, client.as_bytes()[0]], 40_000).into()
}

fn observe(client: ClientId, script: Script) -> Observation {
    let (secret, tag) = match script {
        Script::Forges => ([0; 32], tag(client)),
        Script::Steals => (OBSERVATIONS, SessionTag([0x55; 16])),
        Script::Succeeds | Script::Fails | Script::Silent => (OBSERVATIONS, tag(client)),
    };
    let reflector = ([198, 51, 100, 1], 3478).into();
    let at = virtual_clock();
    ObservationKey::new(&secret).seal(&Observed { seen: seen(client), reflector, ttl: 57, at, tag })
}

fn report(order: &PunchOrder, script: Script) -> PunchReport {
    let endpoint = order.candidates.first().map(|candidate| candidate.endpoint);
    let endpoint = endpoint.filter(|_| script == Script::Succeeds);
    PunchReport { punch: order.punch, endpoint, rtt_us: 30_000, packets: 7, took_us: 120_000 }
}

fn lacks_relay(record: &PairRecord) -> bool {
    record.choice.as_ref().is_some_and(|choice| choice.retry_after_ms.is_some())
}
