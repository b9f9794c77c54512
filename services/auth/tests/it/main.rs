//! The role on an in-process bus and a SQLite file.
#![expect(clippy::unwrap_used, reason = "tests")]

mod blocking;
mod mailing;
mod people;
mod provider;
mod rotating;
mod vouching;

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use auth::{Config, Metrics, Seams, keys, metrics::Outcome};
use bus::{Bus, CallError, memory::Hub};
use contract::{
    account::DetachFromAccount,
    auth::{Keys, LoggedIn, Login, LoginRefusal, Renew, SettleRefusal, SettleRelay},
    token::KeySet,
};
use domain::{
    AccountId, ClientId, IdentityKey, LeaseId, PayerId, RelayReport, Signature, SourcePrefix, TUNNEL_KEY_CONTEXT,
    TunnelKey,
};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use store::{Standing, StoreOptions, Stores};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn a_new_key_is_registered_once() {
    let lab = Lab::new(Config::default()).await;
    let first = lab.login(1).await.unwrap();
    assert!(first.registered);
    let again = lab.login(1).await.unwrap();
    assert!(!again.registered);
    assert_eq!(again.client, first.client);
    assert_eq!(lab.metrics.logins(Outcome::Registered), 1);
    assert_eq!(lab.metrics.logins(Outcome::Known), 1);
    lab.end().await;
}

#[tokio::test]
async fn a_token_proves_the_keys_it_was_made_for() {
    let lab = Lab::new(Config::default()).await;
    let logged_in = lab.login(1).await.unwrap();
    let keys = KeySet::from_jwks(&lab.bus.call(&Keys).await.unwrap().jwks).unwrap();
    let session = keys.verify(&logged_in.token).unwrap();
    assert_eq!(session.client, logged_in.client);
    assert_eq!(session.identity, entry(1).identity);

    let renew = Renew { client: session.client, identity: session.identity, tunnel: session.tunnel };
    let renewed = lab.bus.call(&renew).await.unwrap();
    assert_eq!(keys.verify(&renewed.token).unwrap().client, session.client);
    assert_eq!(lab.metrics.tokens.get(), 2);
    lab.end().await;
}

#[tokio::test]
async fn a_tunnel_key_of_somebody_else_is_refused_before_anything_is_stored() {
    let lab = Lab::new(Config::default()).await;
    let forged = Login { tunnel: TunnelKey::from_bytes([9; 32]), ..entry(1) };
    assert!(matches!(lab.bus.call(&forged).await, Err(CallError::Refused(LoginRefusal::Signature))));
    assert_eq!(lab.stores.accounts.plan_of(ClientId::of(&forged.identity)).await.unwrap(), None);
    assert_eq!(lab.metrics.logins(Outcome::Refused), 1);
    lab.end().await;
}

#[tokio::test]
async fn new_keys_are_limited_by_source_and_known_ones_are_not() {
    let two = NonZeroU32::new(2).unwrap();
    let lab = Lab::new(Config { registrations_per_source: two, ..Config::default() }).await;
    lab.login(1).await.unwrap();
    lab.login(2).await.unwrap();
    let refused = lab.login(3).await.unwrap_err();
    assert!(
        matches!(refused, CallError::Refused(LoginRefusal::RegistrationLimited { retry_after_ms }) if retry_after_ms >= 1_000),
        "{refused:?}"
    );
    lab.login(1).await.unwrap();
    let elsewhere = Login { from: Some("198.51.100.9".parse().unwrap()), ..entry(3) };
    assert!(lab.bus.call(&elsewhere).await.unwrap().registered);
    assert_eq!(lab.metrics.logins(Outcome::Limited), 1);
    lab.end().await;
}

#[tokio::test]
async fn a_blocked_client_gets_no_token() {
    let lab = Lab::new(Config::default()).await;
    let client = lab.login(1).await.unwrap().client;
    lab.stores.accounts.set_standing(client, Standing::Blocked).await.unwrap();
    assert!(matches!(lab.login(1).await, Err(CallError::Refused(LoginRefusal::Blocked))));
    lab.end().await;
}

#[tokio::test]
async fn what_a_relay_reports_is_counted_once() {
    let lab = Lab::new(Config::default()).await;
    let payer = PayerId::from(lab.login(1).await.unwrap().client);
    let lease = LeaseId::from_bytes([1; 16]);
    let report = RelayReport { lease, payer, serial: 1, spent: 1_000, ends: false, known: false };
    let grants =
        [lab.bus.call(&SettleRelay { report }).await.unwrap(), lab.bus.call(&SettleRelay { report }).await.unwrap()];
    assert!(grants[0].granted > 1_000 && !grants[0].exhausted);
    assert_eq!(grants[0], grants[1]);
    let month = domain::Month::of(std::time::SystemTime::now().into());
    assert_eq!(lab.stores.accounts.relayed(payer, month).await.unwrap(), 1_000);

    let stranger = RelayReport { payer: PayerId::from_bytes([9; 16]), ..report };
    let forgotten = RelayReport { lease: LeaseId::from_bytes([2; 16]), known: true, ..report };
    let broken = RelayReport { serial: 2, spent: u64::MAX, ..report };
    let refusals = [
        (stranger, SettleRefusal::UnknownPayer),
        (forgotten, SettleRefusal::UnknownLease),
        (broken, SettleRefusal::Implausible),
    ];
    for (report, expected) in refusals {
        let refused = lab.bus.call(&SettleRelay { report }).await;
        assert!(matches!(refused, Err(CallError::Refused(refusal)) if refusal == expected), "{refused:?}");
    }
    assert_eq!((lab.metrics.relay_reports.get(), lab.metrics.relay_reports_failed.get()), (2, 3));
    lab.end().await;
}

#[tokio::test]
async fn keys_rotate_without_a_restart() {
    let lab = Lab::new(Config { keys_reload: Duration::from_millis(10), ..Config::default() }).await;
    let before = lab.login(1).await.unwrap().token;
    keys::add(&lab.keys_dir(), "0002").unwrap();

    let keys = loop {
        let jwks = lab.bus.call(&Keys).await.unwrap().jwks;
        if jwks.contains("0002") {
            break KeySet::from_jwks(&jwks).unwrap();
        }
        tokio::task::yield_now().await;
    };
    let old = KeySet::from_jwks(&contract::token::jwks(&auth::keys::read(&lab.keys_dir()).unwrap()[..1])).unwrap();
    let after = lab.login(1).await.unwrap().token;
    assert!(keys.verify(&before).is_ok() && keys.verify(&after).is_ok());
    assert!(old.verify(&before).is_ok() && old.lacks_key_of(&after));
    assert_eq!(lab.metrics.keys.get(), 2);

    std::fs::write(lab.keys_dir().join("0003.pk8"), b"broken").unwrap();
    while lab.metrics.reloads_failed.get() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(keys.verify(&lab.login(1).await.unwrap().token).is_ok());
    lab.end().await;
}

#[tokio::test]
async fn without_a_key_the_role_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", dir.path().join("buri.db").display());
    store::migrate(&url).await.unwrap();
    let stores = store::connect(&url, StoreOptions::default()).await.unwrap();
    let seams = Seams {
        bus: Bus::memory(&Hub::default(), "auth"),
        accounts: Arc::clone(&stores.accounts),
        people: Arc::clone(&stores.people),
        networks: Arc::clone(&stores.networks),
        metrics: Arc::new(Metrics::register(&prometheus::Registry::new()).unwrap()),
    };
    std::fs::write(dir.path().join("accounts.key"), [7; 32]).unwrap();
    let people = auth::PeopleConfig { key: dir.path().join("accounts.key"), ..auth::PeopleConfig::default() };
    let config = Config { keys_dir: dir.path().to_owned(), people, ..Config::default() };
    let error = auth::run(config, seams, CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, auth::Error::Keys(keys::KeysError::Empty { .. })), "{error:?}");
    stores.close().await;
}

struct Lab {
    bus: Bus,
    stores: Stores,
    metrics: Arc<Metrics>,
    dir: tempfile::TempDir,
    shutdown: CancellationToken,
    role: JoinHandle<Result<(), auth::Error>>,
}

impl Lab {
    async fn new(config: Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", dir.path().join("buri.db").display());
        store::migrate(&url).await.unwrap();
        let stores = store::connect(&url, StoreOptions::default()).await.unwrap();
        let mut config = Config { keys_dir: dir.path().join("keys"), ..config };
        keys::ensure(&config.keys_dir).unwrap();
        config.people.key = dir.path().join("accounts.key");
        std::fs::write(&config.people.key, [7; 32]).unwrap();
        config.people.mail_poll = Duration::from_millis(5);
        if config.people.mailer.is_empty() {
            config.people.mailer = format!("file://{}", dir.path().join("mail").display());
        }
        let hub = Hub::default();
        let metrics = Arc::new(Metrics::register(&prometheus::Registry::new()).unwrap());
        let seams = Seams {
            bus: Bus::memory(&hub, "auth"),
            accounts: Arc::clone(&stores.accounts),
            people: Arc::clone(&stores.people),
            networks: Arc::clone(&stores.networks),
            metrics: Arc::clone(&metrics),
        };
        let shutdown = CancellationToken::new();
        #[expect(clippy::disallowed_methods, reason = "the handle owns the task")]
        let role = tokio::spawn(auth::run(config, seams, shutdown.clone()));
        let bus = Bus::memory(&hub, "test");
        // The last that the role begins to serve.
        let last = DetachFromAccount { account: AccountId::from_bytes([0; 16]), client: ClientId::from_bytes([0; 16]) };
        while matches!(bus.call(&last).await, Err(CallError::Unavailable)) {
            tokio::task::yield_now().await;
        }
        Self { bus, stores, metrics, dir, shutdown, role }
    }

    fn keys_dir(&self) -> std::path::PathBuf {
        self.dir.path().join("keys")
    }

    async fn login(&self, seed: u8) -> Result<LoggedIn, CallError<LoginRefusal>> {
        self.bus.call(&entry(seed)).await
    }

    async fn end(self) {
        self.shutdown.cancel();
        self.role.await.unwrap().unwrap();
        self.stores.close().await;
    }
}

fn entry(seed: u8) -> Login {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
    let tunnel = TunnelKey::from_bytes([seed; 32]);
    let signed = pair.sign(&[TUNNEL_KEY_CONTEXT, tunnel.as_bytes()].concat());
    Login {
        identity: IdentityKey::try_from(pair.public_key().as_ref()).unwrap(),
        tunnel,
        tunnel_signature: Signature::try_from(signed.as_ref()).unwrap(),
        nick: None,
        client: None,
        source: SourcePrefix::of("203.0.113.9".parse().unwrap()),
        from: Some("203.0.113.9".parse().unwrap()),
        worked: None,
    }
}
