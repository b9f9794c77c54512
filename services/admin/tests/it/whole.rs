//! The roles that own what the API shows: auth and network as they are, on one database, bus and presence.

use std::{
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime},
};

use bus::{Bus, Served};
use contract::gateway::{Notice, Push};
use domain::{
    AccountId, AccountOrder, AddressPool, ClientId, Epoch, IdentityKey, InstanceId, InviteId, NetworkId, NetworkOrder,
    NewInvite, Nickname, OneTimeToken, SecretEpoch, SessionTag, SessionToken, Signature, TunnelKey, UnixMillis,
};
use presence::Presence;
use store::{Admission, Fresh, Login, NewNetwork, NewSession, PasswordHash};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::lab::Lab;

/// Secrets of users, as they lie in the database. Each is unlike everything else.
pub(crate) const PASSWORD_RECORD: &[u8] = b"canary-opaque-record-5b1d";
pub(crate) const WRAPPED_SECRET: &[u8] = b"canary-wrapped-secret-77aa";
pub(crate) const SEALED_SECRET: &[u8] = b"canary-sealed-secret-9c3e";
pub(crate) const TUNNEL_KEY: [u8; 32] = *b"canary-tunnel-key-0123456789abcd";
pub(crate) const TUNNEL_SIGNATURE: [u8; 64] = *b"canary-tunnel-signature-0123456789abcdef0123456789abcdef01234567";

/// What stands for a person's password.
pub(crate) const PASSWORD_HASH: &str = "a canary instead of a hash";

/// What happens in these tests happens now: old events are forgotten.
pub(crate) static NOW: LazyLock<UnixMillis> = LazyLock::new(|| SystemTime::now().into());

/// The API with the roles behind it.
pub(crate) struct Whole {
    pub(crate) lab: Lab,
    pub(crate) presence: Presence,
    pub(crate) gateway: InstanceId,
    /// What the gateway was told.
    pub(crate) told: mpsc::UnboundedReceiver<Push>,
    shutdown: CancellationToken,
    roles: JoinSet<()>,
    _gateway: Served,
}

impl Whole {
    pub(crate) async fn new() -> Self {
        let (lab, registry) = Lab::bare().await;
        let presence = Presence::connect("memory:").await.unwrap();
        let (shutdown, mut roles) = (CancellationToken::new(), JoinSet::new());
        let keys_dir = lab.dir.path().join("keys");
        auth::keys::ensure(&keys_dir).unwrap();
        let auth_seams = auth::Seams {
            bus: Bus::memory(&lab.hub, "auth"),
            accounts: Arc::clone(&lab.stores.accounts),
            people: Arc::clone(&lab.stores.people),
            networks: Arc::clone(&lab.stores.networks),
            metrics: Arc::new(auth::Metrics::register(&registry).unwrap()),
        };
        let key = lab.dir.path().join("accounts.key");
        std::fs::write(&key, [5; 32]).unwrap();
        let people = auth::PeopleConfig { key, ..auth::PeopleConfig::default() };
        let config = auth::Config { keys_dir, people, ..auth::Config::default() };
        let ends = shutdown.clone();
        roles.spawn(async move { auth::run(config, auth_seams, ends).await.unwrap() });
        let setup = lab.dir.path().join("opaque.setup");
        network::password::ensure_setup(&setup).unwrap();
        let membership_key = lab.dir.path().join("membership.key");
        std::fs::write(&membership_key, [7; 32]).unwrap();
        let network_seams = network::Seams {
            bus: Bus::memory(&lab.hub, "network"),
            presence: presence.clone(),
            networks: Arc::clone(&lab.stores.networks),
            pool: AddressPool::DEFAULT,
            metrics: Arc::new(network::Metrics::register(&registry).unwrap()),
        };
        let config = network::Config { setup, membership_key, password_threads: 1, ..network::Config::default() };
        let ends = shutdown.clone();
        roles.spawn(async move { network::run(config, network_seams, ends).await.unwrap() });
        let gateway = InstanceId::from_bytes([0xee; 16]);
        let (sender, told) = mpsc::unbounded_channel();
        let subscription = Bus::memory(&lab.hub, gateway)
            .subscribe(1, move |push: Push| {
                let sent = sender.send(push);
                async move { sent.map_err(|_| "nobody listens") }
            })
            .await
            .unwrap();
        let whole = Self { lab, presence, gateway, told, shutdown, roles, _gateway: subscription };
        whole.until_served().await;
        whole
    }

    /// The roles take a moment to begin.
    async fn until_served(&self) {
        for path in ["/v1/plans", "/v1/networks?name=x", "/v1/sessions"] {
            for _ in 0..500 {
                if self.lab.get(path).await.status == 200 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert_eq!(self.lab.get(path).await.status, 200, "{path}");
        }
    }

    /// A client with this number and nickname.
    pub(crate) async fn client(&self, number: u8, nick: &str) -> ClientId {
        let login = Login {
            client: None,
            identity: IdentityKey::from_bytes([number; 32]),
            tunnel: TunnelKey::from_bytes(TUNNEL_KEY),
            tunnel_signature: Signature::from_bytes(TUNNEL_SIGNATURE),
            nick: Some(nick.parse::<Nickname>().unwrap()),
        };
        self.lab.stores.accounts.login(login, *NOW).await.unwrap().client
    }

    pub(crate) async fn network(&self, name: &str, owner: ClientId) -> NetworkId {
        let new = NewNetwork {
            name: name.parse().unwrap(),
            owner,
            password: [PASSWORD_RECORD, name.as_bytes()].concat(),
            wrapped_secret: WRAPPED_SECRET.to_vec(),
        };
        self.lab.stores.networks.create(new, *NOW).await.unwrap().whole.network
    }

    pub(crate) async fn join(&self, network: NetworkId, client: ClientId) {
        let joined = self.lab.stores.networks.join(network, client, [9; 16], *NOW).await.unwrap();
        assert!(matches!(joined, Admission::Joined(_)));
    }

    pub(crate) async fn order(&self, network: NetworkId, client: ClientId, order: NetworkOrder) {
        self.lab
            .stores
            .networks
            .carry_out(network, client, order, UnixMillis::from(std::time::SystemTime::now()))
            .await
            .unwrap();
    }

    pub(crate) async fn invite(&self, network: NetworkId, maker: ClientId) -> InviteId {
        let id = InviteId::from_bytes([0x1f; 16]);
        let new = NewInvite {
            id,
            sealed_secret: SEALED_SECRET.to_vec(),
            uses: 3,
            lifetime_s: 3_600,
            door: SecretEpoch::FIRST,
        };
        self.order(network, maker, NetworkOrder::Invite(new)).await;
        id
    }

    /// An account of a person, with a session and these clients.
    pub(crate) async fn account(&self, clients: &[ClientId]) -> AccountId {
        let people = &self.lab.stores.people;
        let at = UnixMillis::from(std::time::SystemTime::now());
        let expires = at.plus(Duration::from_secs(600));
        let fresh = |byte| Fresh { token: OneTimeToken::from_bytes([byte; 32]).hash(), nonce: [byte; 16], expires };
        let password = PasswordHash(PASSWORD_HASH.to_owned());
        people.ask_sign_up("canary@example.test".parse().unwrap(), password, fresh(1), at).await.unwrap();
        let session = NewSession { token: SessionToken::from_bytes([2; 32]).hash(), expires };
        let person = people.confirm_sign_up(fresh(1).token, session, at).await.unwrap().unwrap();
        let account = people.person(session.token, at).await.unwrap().unwrap().accounts[0].account;
        for (code, client) in (3..).zip(clients) {
            people.carry_out_for(person, account, AccountOrder::MakeCode, fresh(code), at).await.unwrap();
            people.attach(*client, fresh(code).token, at).await.unwrap();
        }
        account
    }

    /// Gives `client` a session at the gateway.
    pub(crate) async fn online(&self, client: ClientId) -> Epoch {
        let ttl = Duration::from_secs(3_600);
        self.presence.up(client, self.gateway, SessionTag([7; 16]), Epoch(1), *NOW, ttl).await.unwrap().epoch
    }

    /// The clients that the gateway is told to send away.
    pub(crate) async fn sent_away(&mut self) -> Vec<ClientId> {
        loop {
            let push = tokio::time::timeout(Duration::from_secs(10), self.told.recv()).await.expect("nobody was told");
            let push = push.unwrap();
            if matches!(push.notice, Notice::Ended(_)) {
                return push.to.iter().map(|target| target.client).collect();
            }
        }
    }

    pub(crate) async fn end(mut self) {
        self.shutdown.cancel();
        while let Some(ended) = self.roles.join_next().await {
            ended.unwrap();
        }
        self.lab.end().await;
    }
}
