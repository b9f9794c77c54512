//! One process of the role, gateways and rendezvous that write down what they are told, and clients.

use std::{sync::Arc, time::Duration};

use bus::{Bus, Call, CallError, Served, memory::Hub};
use contract::{
    gateway::{Notice, Push},
    network::{Admission, CreateFinish, CreateStart, JoinFinish, JoinStart, Joined, Networks, Refusal},
    rendezvous::{PairWanted, PairsWanted, Wanted},
    session::{SessionChange, SessionChanged},
};
use domain::{
    AddressPool, ClientId, Epoch, GatewayId, IdentityKey, InstanceId, PASSWORD_CONTEXT, PasswordSuite, SessionTag,
    Signature, SourcePrefix, TunnelKey, UnixMillis,
};
use network::{Config, Limits, Metrics, Seams};
use opaque_ke::{
    ClientLogin, ClientLoginFinishParameters, ClientRegistration, ClientRegistrationFinishParameters,
    CredentialResponse, RegistrationResponse,
};
use presence::Presence;
use rand_core::OsRng;
use store::{StoreOptions, Stores};
use tempfile::TempDir;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, interval, timeout},
};
use tokio_util::sync::CancellationToken;

pub(crate) const HOME: &str = "203.0.113.1";
const PATIENCE: Duration = Duration::from_secs(60);
const SESSION: Duration = Duration::from_secs(600);

pub(crate) struct Lab {
    pub(crate) hub: Hub,
    pub(crate) bus: Bus,
    pub(crate) presence: Presence,
    pub(crate) stores: Stores,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) wanted: mpsc::Receiver<PairWanted>,
    shutdown: CancellationToken,
    role: JoinSet<Result<(), network::Error>>,
    _rendezvous: Served,
    _folder: TempDir,
    clients: u8,
}

/// A gateway's subscription, and what it was told.
pub(crate) struct Gateway {
    pub(crate) id: GatewayId,
    pushes: mpsc::Receiver<Push>,
    _subscription: Served,
}

impl Lab {
    pub(crate) async fn new() -> Self {
        Self::with(Limits::default(), AddressPool::DEFAULT).await
    }

    pub(crate) async fn with(limits: Limits, pool: AddressPool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/buri.db", folder.path().display());
        store::migrate(&url).await.unwrap();
        let stores = store::connect(&url, StoreOptions { pool, ..StoreOptions::default() }).await.unwrap();
        let setup = folder.path().join("opaque.setup");
        network::password::ensure_setup(&setup).unwrap();
        let membership_key = folder.path().join("membership.key");
        std::fs::write(&membership_key, [7; 32]).unwrap();

        let hub = Hub::default();
        let bus = Bus::memory(&hub, instance(255));
        let (wants, wanted) = mpsc::channel(1_000);
        let rendezvous = bus
            .subscribe(1, move |event: PairsWanted| {
                let wants = wants.clone();
                async move {
                    for pair in event.pairs {
                        wants.send(pair).await.map_err(|_| "the lab is gone")?;
                    }
                    Ok::<_, &str>(())
                }
            })
            .await
            .unwrap();

        let presence = Presence::connect("memory:").await.unwrap();
        let metrics = Arc::new(Metrics::register(&prometheus::Registry::new()).unwrap());
        let seams = Seams {
            bus: Bus::memory(&hub, instance(254)),
            presence: presence.clone(),
            networks: Arc::clone(&stores.networks),
            pool,
            metrics: Arc::clone(&metrics),
        };
        let config = Config { setup, membership_key, sweep: Duration::from_millis(50), limits, ..Config::default() };
        let shutdown = CancellationToken::new();
        let mut role = JoinSet::new();
        role.spawn(network::run(config, seams, shutdown.clone()));
        let lab = Self {
            hub,
            bus,
            presence,
            stores,
            metrics,
            wanted,
            shutdown,
            role,
            _rendezvous: rendezvous,
            _folder: folder,
            clients: 0,
        };
        lab.until(async || lab.bus.call(&Networks { after: None, limit: 1 }).await.is_ok()).await;
        lab
    }

    /// Waits until `condition` holds.
    pub(crate) async fn until(&self, mut condition: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut ticks = interval(Duration::from_millis(5));
        while !condition().await {
            assert!(Instant::now() < deadline, "the condition never held");
            ticks.tick().await;
        }
    }

    /// A client never seen before.
    pub(crate) async fn client(&mut self) -> ClientId {
        self.clients += 1;
        let login = store::Login {
            client: None,
            identity: IdentityKey::from_bytes([self.clients; 32]),
            tunnel: TunnelKey::from_bytes([self.clients; 32]),
            tunnel_signature: Signature::from_bytes([self.clients; 64]),
            nick: None,
        };
        self.stores.accounts.login(login, UnixMillis(1)).await.unwrap().client
    }

    pub(crate) async fn gateway(&self, number: u8) -> Gateway {
        let id = instance(number);
        let (tell, pushes) = mpsc::channel(1_000);
        let subscription = Bus::memory(&self.hub, id)
            .subscribe(1, move |push: Push| {
                let tell = tell.clone();
                async move { tell.send(push).await.map_err(|_| "the lab is gone") }
            })
            .await
            .unwrap();
        Gateway { id, pushes, _subscription: subscription }
    }

    /// Gives `client` a session at `gateway`, which nobody is told of.
    pub(crate) async fn seat(&self, client: ClientId, gateway: &Gateway, ttl: Duration) -> Epoch {
        // One session is not another.
        let tag = SessionTag(rand::random());
        self.presence.up(client, gateway.id, tag, Epoch(1), UnixMillis(1), ttl).await.unwrap().epoch
    }

    /// Gives `client` a session at `gateway` as a login does.
    pub(crate) async fn online(&self, client: ClientId, gateway: &Gateway) -> Epoch {
        let epoch = self.seat(client, gateway, SESSION).await;
        self.session(client, epoch, SessionChange::Up).await;
        epoch
    }

    pub(crate) async fn session(&self, client: ClientId, epoch: Epoch, change: SessionChange) {
        self.bus.publish(&SessionChanged { client, epoch, change }).await.unwrap();
    }

    pub(crate) async fn call<C: Call<Refusal = Refusal>>(&self, call: C) -> Result<C::Reply, Refusal> {
        match self.bus.call(&call).await {
            Ok(reply) => Ok(reply),
            Err(CallError::Refused(refusal)) => Err(refusal),
            Err(error) => panic!("{error:?}"),
        }
    }

    /// Both halves of a creation, with OPAQUE.
    pub(crate) async fn create(&self, client: ClientId, name: &str, password: &str) -> Result<Joined, Refusal> {
        let registration = ClientRegistration::<PasswordSuite>::start(&mut OsRng, password.as_bytes()).unwrap();
        let start = CreateStart {
            client,
            name: name.parse().unwrap(),
            request: registration.message.serialize().to_vec(),
            source: source(HOME),
        };
        let response = self.call(start).await?.response;
        let response = RegistrationResponse::deserialize(&response).unwrap();
        let parameters = ClientRegistrationFinishParameters::default();
        let finished = registration.state.finish(&mut OsRng, password.as_bytes(), response, parameters).unwrap();
        let finish = CreateFinish {
            client,
            name: name.parse().unwrap(),
            record: finished.message.serialize().to_vec(),
            wrapped_secret: b"sealed under the export key".to_vec(),
        };
        self.call(finish).await
    }

    /// Both halves of a join, with OPAQUE.
    pub(crate) async fn join(&self, client: ClientId, name: &str, password: &str) -> Result<Joined, Refusal> {
        let (login, start) = join_start(client, name, password, HOME);
        let started = self.call(start).await?;
        // A client that cannot open the answer has the wrong password. This one goes on with a broken proof.
        let finalization = finalization(login, password, &started.response).unwrap_or_else(|| vec![1; 64]);
        match self.call(JoinFinish { client, pending: started.pending, finalization }).await? {
            Admission::Joined(joined) => Ok(*joined),
            Admission::Awaiting(..) => Err(Refusal::AwaitingApproval),
        }
    }

    /// The next pair that is wanted for `reason`.
    pub(crate) async fn wanted(&mut self, reason: Wanted) -> PairWanted {
        loop {
            let pair = timeout(PATIENCE, self.wanted.recv()).await.expect("no pair was wanted").unwrap();
            if pair.reason == reason {
                return pair;
            }
        }
    }

    /// Waits until everything was announced.
    pub(crate) async fn quiet(&self) {
        self.until(async || self.stores.networks.unannounced(UnixMillis(u64::MAX), 9).await.unwrap().is_empty()).await;
    }

    /// Shuts the role down; fails when it does not end.
    pub(crate) async fn end(mut self) {
        self.shutdown.cancel();
        let ended = timeout(PATIENCE, self.role.join_next()).await.expect("the role does not end").unwrap();
        ended.unwrap().unwrap();
        timeout(PATIENCE, self.stores.close()).await.expect("work is left over");
    }
}

impl Gateway {
    pub(crate) async fn told(&mut self) -> Push {
        timeout(PATIENCE, self.pushes.recv()).await.expect("nothing was told").unwrap()
    }

    /// The next notice that `wanted` accepts, and the clients it is for.
    pub(crate) async fn told_that(&mut self, wanted: impl Fn(&Notice) -> bool) -> (Vec<ClientId>, Notice) {
        loop {
            let push = self.told().await;
            if wanted(&push.notice) {
                return (push.to.iter().map(|target| target.client).collect(), push.notice);
            }
        }
    }

    pub(crate) fn heard_nothing(&mut self) -> bool {
        !self.heard(|_| true)
    }

    /// Whether such a notice came already.
    pub(crate) fn heard(&mut self, notice: impl Fn(&Notice) -> bool) -> bool {
        std::iter::from_fn(|| self.pushes.try_recv().ok()).any(|push| notice(&push.notice))
    }
}

pub(crate) fn join_start(
    client: ClientId,
    name: &str,
    password: &str,
    from: &str,
) -> (ClientLogin<PasswordSuite>, JoinStart) {
    let login = ClientLogin::<PasswordSuite>::start(&mut OsRng, password.as_bytes()).unwrap();
    let request = login.message.serialize().to_vec();
    (login.state, JoinStart { client, name: name.parse().unwrap(), request, source: source(from) })
}

/// `None` when the password is wrong, or there is no such network: the client cannot tell either.
pub(crate) fn finalization(login: ClientLogin<PasswordSuite>, password: &str, response: &[u8]) -> Option<Vec<u8>> {
    let response = CredentialResponse::deserialize(response).unwrap();
    let parameters =
        ClientLoginFinishParameters { context: Some(PASSWORD_CONTEXT), ..ClientLoginFinishParameters::default() };
    let finished = login.finish(&mut OsRng, password.as_bytes(), response, parameters).ok()?;
    Some(finished.message.serialize().to_vec())
}

pub(crate) fn source(address: &str) -> SourcePrefix {
    SourcePrefix::of(address.parse().unwrap())
}

pub(crate) fn instance(number: u8) -> InstanceId {
    InstanceId::from_bytes([number; 16])
}
