//! Gateways, and what they need of the rest.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use bus::{Bus, Served, memory::Hub};
use contract::{
    account::{AccountOfClient, AccountRefusal, AttachClient, Belongs, DetachClient},
    auth::{
        Keys, KeysReply, LoggedIn, Login, LoginRefusal, Renew, Renewed, RetiredKey, RotateKey, RotateRefusal,
        blocks::{Blocked, BlockedClients},
    },
    gateway::{Notice, Push, Target},
    network::{
        self, Admission, Admissions, ChangesSince, Connect, JoinFinish, JoinStart, JoinStarted, Keys as NetworkKeys,
        Leave, Order, Refusal, Snapped, Snapshot,
    },
    rendezvous::{Pair, PairReply, PunchWord, ReflectorBeat},
    session::{SessionChange, SessionChanged},
    token::{Session, SigningKey, jwks},
};
use domain::{
    AccountId, AttachCode, ClientAccount, ClientId, Epoch, IdentityKey, InstanceId, Member, NetworkChange, NetworkId,
    NetworkOrder, NetworkTerms, Revision, TunnelKey, UnixMillis, VirtualAddresses,
};
use gateway::{Config, Metrics, RelayStreams, Seams, Web};
use presence::Presence;
use ring::{rand::SystemRandom, signature::Ed25519KeyPair};
use rustls_pki_types::CertificateDer;
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use wire::server_url::ServerKey;

/// What the certificate says.
pub(crate) const NAME: &str = "buri.invalid";

/// The process of all other roles.
pub(crate) const OTHERS: InstanceId = InstanceId::from_bytes([0xee; 16]);

pub(crate) const NETWORK: NetworkId = NetworkId::from_bytes([7; 16]);

pub(crate) struct Lab {
    pub(crate) hub: Hub,
    pub(crate) bus: Bus,
    pub(crate) memory: presence::memory::Memory,
    pub(crate) presence: Presence,
    pub(crate) script: Arc<Script>,
    pub(crate) changed: mpsc::Receiver<SessionChanged>,
    pub(crate) words: mpsc::Receiver<PunchWord>,
    pub(crate) gateways: Vec<Gateway>,
    /// What the first gateway gave to its relay; the others have none.
    pub(crate) handed: Arc<Mutex<Vec<(Web, SocketAddr)>>>,
    dir: tempfile::TempDir,
    config: Config,
    _served: Vec<Served>,
}

/// One process of the role under test.
pub(crate) struct Gateway {
    pub(crate) plain: SocketAddr,
    pub(crate) web: SocketAddr,
    pub(crate) key: ServerKey,
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) instance: InstanceId,
    pub(crate) metrics: Arc<Metrics>,
    shutdown: CancellationToken,
    role: JoinHandle<Result<(), gateway::Error>>,
}

/// What the other roles say.
pub(crate) struct Script {
    pub(crate) logins: AtomicUsize,
    pub(crate) renewals: AtomicUsize,
    pub(crate) snapshots: AtomicUsize,
    pub(crate) token_lifetime_ms: AtomicU64,
    pub(crate) login_refusal: Mutex<Option<LoginRefusal>>,
    pub(crate) changes: Mutex<Vec<NetworkChange>>,
    pub(crate) retired: Mutex<Vec<RetiredKey>>,
    /// Whose tokens do not count, and how often that was asked.
    pub(crate) blocked: Mutex<Blocked>,
    asked_who_is_blocked: AtomicUsize,
    signing: SigningKey,
}

impl Lab {
    pub(crate) async fn new() -> Self {
        Self::with(Config::default()).await
    }

    /// A gateway with the limits and durations of `config`.
    pub(crate) async fn with(config: Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
        std::fs::write(dir.path().join("server.key"), [5; 32]).unwrap();
        std::fs::write(dir.path().join("tls.key"), made.signing_key.serialize_pem()).unwrap();
        std::fs::write(dir.path().join("tls.crt"), made.cert.pem()).unwrap();

        let hub = Hub::default();
        let bus = Bus::memory(&hub, OTHERS);
        let (tell_changed, changed) = mpsc::channel(64);
        let (tell_word, words) = mpsc::channel(64);
        let script = Arc::new(Script::new());
        let served = script.serve(&bus, tell_changed, tell_word).await;
        let config = Config {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            listen_web: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            server_key: dir.path().join("server.key"),
            tls_certificate: dir.path().join("tls.crt"),
            tls_key: dir.path().join("tls.key"),
            ..config
        };
        let memory = presence::memory::Memory::default();
        let presence = Presence::Memory(memory.clone());
        let gateways = Vec::new();
        let handed = Arc::default();
        let mut lab =
            Self { hub, bus, memory, presence, script, changed, words, gateways, handed, dir, config, _served: served };
        lab.add_gateway(made.cert.der().clone()).await;
        lab
    }

    /// One more process of the role.
    pub(crate) async fn second_gateway(&mut self) {
        let certificate = self.gateways[0].certificate.clone();
        self.add_gateway(certificate).await;
    }

    async fn add_gateway(&mut self, certificate: CertificateDer<'static>) {
        let instance = InstanceId::from_bytes([u8::try_from(self.gateways.len()).unwrap() + 1; 16]);
        let metrics = Arc::new(Metrics::register(&prometheus::Registry::new()).unwrap());
        let seams = Seams {
            bus: Bus::memory(&self.hub, instance),
            presence: self.presence.clone(),
            instance,
            metrics: Arc::clone(&metrics),
            relay_streams: self.gateways.is_empty().then(|| {
                let handed = Arc::clone(&self.handed);
                RelayStreams::new(move |web, from| {
                    handed.lock().unwrap_or_else(PoisonError::into_inner).push((web, from));
                })
            }),
        };
        let bound = gateway::bind(self.config.clone()).unwrap();
        let (plain, web, key) = (bound.plain()[0], bound.web()[0], bound.key());
        let shutdown = CancellationToken::new();
        #[expect(clippy::disallowed_methods, reason = "the handle owns the task")]
        let role = tokio::spawn(bound.run(seams, shutdown.clone()));
        // Logins wait for the first reflector: let there be one as soon as somebody listens.
        let push = Push { to: Vec::new(), notice: Notice::Replaced };
        while self.bus.publish_to(instance, &push).await.is_err() {
            tokio::task::yield_now().await;
        }
        self.gateways.push(Gateway { plain, web, key, certificate, instance, metrics, shutdown, role });
        let endpoints = reflectors();
        self.bus.publish(&ReflectorBeat { instance: OTHERS, endpoints }).await.unwrap();
    }

    pub(crate) fn gateway(&self) -> &Gateway {
        &self.gateways[0]
    }

    /// The next thing that a gateway told about a session.
    pub(crate) async fn changed(&mut self) -> (ClientId, SessionChange) {
        let event = timeout(Duration::from_secs(20), self.changed.recv()).await.expect("nothing changed").unwrap();
        (event.client, event.change)
    }

    /// The epoch of the session that presence knows.
    pub(crate) async fn epoch(&self, client: ClientId) -> Option<Epoch> {
        self.presence.find(&[client]).await.unwrap()[0].map(|seat| seat.epoch)
    }

    /// Has the gateway of a client tell it something.
    pub(crate) async fn push(&self, client: ClientId, notice: Notice) {
        let seat = self.presence.find(&[client]).await.unwrap()[0].unwrap();
        let to = vec![Target { client, epoch: seat.epoch }];
        self.bus.publish_to(seat.gateway, &Push { to, notice }).await.unwrap();
    }

    /// Ends all gateways; fails when one holds on to anything.
    pub(crate) async fn end(self) {
        for gateway in self.gateways {
            gateway.shutdown.cancel();
            gateway.role.await.unwrap().unwrap();
            assert_eq!(gateway.metrics.connections.get(), 0, "connections are left");
            assert_eq!(gateway.metrics.sessions.get(), 0, "sessions are left");
        }
        self.dir.close().unwrap();
    }
}

impl Gateway {
    /// Asks the process to end, without waiting for it.
    pub(crate) fn shut_down(&self) {
        self.shutdown.cancel();
    }
}

impl Script {
    fn new() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self {
            logins: AtomicUsize::new(0),
            renewals: AtomicUsize::new(0),
            snapshots: AtomicUsize::new(0),
            token_lifetime_ms: AtomicU64::new(3_600_000),
            login_refusal: Mutex::new(None),
            changes: Mutex::new(Vec::new()),
            retired: Mutex::new(Vec::new()),
            blocked: Mutex::new(Blocked::These(Vec::new())),
            asked_who_is_blocked: AtomicUsize::new(0),
            signing: SigningKey::from_pkcs8("test", pkcs8.as_ref()).unwrap(),
        }
    }

    /// How often the login was asked for.
    pub(crate) fn logins(&self) -> usize {
        self.logins.load(Ordering::SeqCst)
    }

    pub(crate) fn asked_who_is_blocked(&self) -> usize {
        self.asked_who_is_blocked.load(Ordering::SeqCst)
    }

    pub(crate) fn token(&self, client: ClientId, identity: IdentityKey, tunnel: TunnelKey) -> (String, UnixMillis) {
        let now = UnixMillis::from(SystemTime::now());
        let expires = now.plus(Duration::from_millis(self.token_lifetime_ms.load(Ordering::SeqCst)));
        (self.signing.sign(&Session { client, identity, tunnel, expires }, now).unwrap(), expires)
    }

    fn keys(&self) -> KeysReply {
        KeysReply { jwks: jwks([&self.signing]), retired: self.retired.lock().unwrap().clone() }
    }

    fn log_in(&self, login: &Login) -> Result<LoggedIn, LoginRefusal> {
        self.logins.fetch_add(1, Ordering::SeqCst);
        let refusal = self.login_refusal.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let worked = |refusal: &LoginRefusal| matches!(refusal, LoginRefusal::WorkNeeded { bits } if login.worked.is_some_and(|worked| worked >= *bits));
        if let Some(refusal) = refusal.filter(|refusal| !worked(refusal)) {
            return Err(refusal);
        }
        let client = ClientId::of(&login.identity);
        let (token, token_expires) = self.token(client, login.identity, login.tunnel);
        Ok(LoggedIn { client, registered: true, nick: login.nick.clone(), token, token_expires })
    }

    fn snapshot(&self) -> Snapped {
        self.snapshots.fetch_add(1, Ordering::SeqCst);
        let changes = self.changes.lock().unwrap().clone();
        Snapped {
            addresses: addresses(),
            changes,
            networks: vec![NETWORK],
            prefix4: 10,
            prefix6: 48,
            membership_keys: Vec::new(),
        }
    }

    async fn serve(
        self: &Arc<Self>,
        bus: &Bus,
        changed: mpsc::Sender<SessionChanged>,
        words: mpsc::Sender<PunchWord>,
    ) -> Vec<Served> {
        let [a, b, c, d, e] = std::array::from_fn(|_| Arc::clone(self));
        let blocked = bus.serve(8, move |BlockedClients| {
            e.asked_who_is_blocked.fetch_add(1, Ordering::SeqCst);
            std::future::ready(Ok(e.blocked.lock().unwrap_or_else(PoisonError::into_inner).clone()))
        });
        let logins = bus.serve(8, move |login: Login| std::future::ready(a.log_in(&login)));
        let keys = bus.serve(8, move |_: Keys| std::future::ready(Ok(b.keys())));
        let renewals = bus.serve(8, move |renew: Renew| {
            c.renewals.fetch_add(1, Ordering::SeqCst);
            let (token, expires) = c.token(renew.client, renew.identity, renew.tunnel);
            std::future::ready(Ok(Renewed { token, expires }))
        });
        let snapshots = bus.serve(8, move |_: Snapshot| std::future::ready(Ok(d.snapshot())));
        let starts = bus.serve(8, |start: JoinStart| {
            std::future::ready(Ok(JoinStarted { response: start.request, pending: start.name.as_str().into() }))
        });
        let finishes = bus.serve(8, |finish: JoinFinish| {
            if finish.finalization == b"not yet" {
                return std::future::ready(Ok(Admission::Awaiting(NETWORK, "lan".parse().unwrap())));
            }
            let right = finish.pending == b"lan" && finish.finalization == b"right";
            std::future::ready(if right { Ok(Admission::Joined(Box::new(joined()))) } else { Err(Refusal::Denied) })
        });
        let leaves = bus.serve(8, |_: Leave| std::future::ready(Err(Refusal::NotAMember)));
        let orders = bus.serve(8, |call: Order| {
            let refusals = [
                (NetworkOrder::Unlock, Refusal::NotPermitted),
                (NetworkOrder::Delete, Refusal::LimitReached),
                (NetworkOrder::AskApproval, Refusal::MemberUnknown),
            ];
            let refused = refusals.into_iter().find(|(order, _)| *order == call.order);
            std::future::ready(refused.map_or_else(|| Ok(change(1, 2)), |(_, refusal)| Err(refusal)))
        });
        let lists = bus.serve(8, |_: Admissions| std::future::ready(Ok(domain::Admissions::default())));
        let secrets = bus.serve(8, |_: NetworkKeys| std::future::ready(Err(Refusal::AwaitingApproval)));
        let attaches = bus.serve(8, |call: AttachClient| {
            let refusals = [
                (1, AccountRefusal::Code),
                (2, AccountRefusal::Elsewhere),
                (3, AccountRefusal::LimitReached { limit: 3 }),
                (4, AccountRefusal::Suspended),
            ];
            let refused = refusals.into_iter().find(|(bits, _)| AttachCode::from_random(*bits) == call.code);
            let account = ClientAccount { account: AccountId::from_bytes([6; 16]), plan: "free".into() };
            std::future::ready(refused.map_or_else(|| Ok(account), |(_, refusal)| Err(refusal)))
        });
        let detaches = bus.serve(8, |_: DetachClient| std::future::ready(Err(AccountRefusal::Unknown)));
        let belonging = bus.serve(8, |_: AccountOfClient| std::future::ready(Ok(Belongs { account: None })));
        let rotations = bus.serve(8, |call: RotateKey| {
            let refusals = [
                RotateRefusal::Rotated,
                RotateRefusal::Signature,
                RotateRefusal::Taken,
                RotateRefusal::LimitReached,
                RotateRefusal::Blocked,
                RotateRefusal::Internal { incident: 7 },
                RotateRefusal::Busy,
            ];
            // By the first byte of the new key, from 1.
            let wanted = usize::from(call.rotation.succession.identity.as_bytes()[0]);
            std::future::ready(wanted.checked_sub(1).map_or(Ok(()), |nth| Err(refusals[nth])))
        });
        let connects = bus.serve(8, |_: Connect| std::future::ready(Ok(())));
        let gaps = bus.serve(8, |_: ChangesSince| std::future::ready(Ok(change(1, 2))));
        let pairs = bus.serve(8, |_: Pair| std::future::ready(Ok(PairReply { record: None })));
        let changes = bus.subscribe(1, move |event: SessionChanged| std::future::ready(changed.try_send(event)));
        let spoken = bus.subscribe(1, move |word: PunchWord| std::future::ready(words.try_send(word)));
        vec![
            blocked.await.unwrap(),
            logins.await.unwrap(),
            keys.await.unwrap(),
            renewals.await.unwrap(),
            snapshots.await.unwrap(),
            starts.await.unwrap(),
            finishes.await.unwrap(),
            leaves.await.unwrap(),
            orders.await.unwrap(),
            lists.await.unwrap(),
            secrets.await.unwrap(),
            attaches.await.unwrap(),
            detaches.await.unwrap(),
            belonging.await.unwrap(),
            connects.await.unwrap(),
            rotations.await.unwrap(),
            gaps.await.unwrap(),
            pairs.await.unwrap(),
            changes.await.unwrap(),
            spoken.await.unwrap(),
        ]
    }
}

/// Waits until something has happened that nobody tells.
pub(crate) async fn until(what: &str, mut happened: impl AsyncFnMut() -> bool) {
    let waited = async {
        while !happened().await {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), waited).await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
}

pub(crate) fn reflectors() -> Vec<SocketAddr> {
    ["192.0.2.1:3478", "192.0.2.1:3479", "192.0.2.2:3478"].map(|text| text.parse().unwrap()).into()
}

pub(crate) fn change(since: u64, revision: u64) -> NetworkChange {
    NetworkChange {
        network: NETWORK,
        name: "lan".parse().unwrap(),
        since: Revision(since),
        revision: Revision(revision),
        members: Vec::new(),
        left: false,
        terms: NetworkTerms::default(),
        secret: domain::SecretState::default(),
    }
}

/// A member that fills a frame: with the longest nickname.
pub(crate) fn member(number: u64) -> Member {
    let seed = u8::try_from(number % 200).unwrap();
    let login = crate::client::login(seed, &[0; 32]);
    Member {
        client: ClientId::of(&login.identity),
        identity: login.identity,
        tunnel: login.tunnel,
        tunnel_signature: login.tunnel_signature,
        nick: Some("n".repeat(64).parse().unwrap()),
        addresses: addresses(),
        revision: Revision(number),
        gone: false,
        presence: None,
        role: domain::Role::Owner,
        lineage: None,
        hub: false,
        unseated: false,
        kept: false,
        routes: Vec::new(),
    }
}

fn joined() -> network::Joined {
    network::Joined {
        network: NETWORK,
        name: "lan".parse().unwrap(),
        addresses: addresses(),
        wrapped_secret: vec![9; 60],
        pool_exhausted: true,
        change: change(0, 1),
        door: domain::SecretEpoch::FIRST,
    }
}

fn addresses() -> VirtualAddresses {
    VirtualAddresses { v4: Some([100, 64, 0, 1].into()), v6: "fd00::1".parse().unwrap() }
}
