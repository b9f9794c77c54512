//! The role that knows who is who: client keys, people and their accounts, tokens and their keys.
//!
//! A client is its Ed25519 key. The gateway has checked the client's signature before anything arrives here, so a login is
//! one transaction (a key never seen before is registered in it) and one signature: the resumption token, which lets the
//! client come back without asking this role again. New keys climb a ladder (`ladder`): beyond what people do they cost work,
//! and from one address time; known ones do not. What operators hold against somebody (`blocks`) is looked at by every login.
//!
//! A client changes its key with the signature of the key before (`rotation`): it keeps its id, and so all that hangs on it. The
//! old key is refused from then on; gateways are told which keys not to resume, and ask again for those of the last token
//! lifetime, so that a lost word delays that by a minute.
//!
//! Every process signs with the newest key of a shared folder and publishes all of them, so that keys rotate by adding a
//! file and later removing another, without a restart.
//!
//! It also keeps the count of what is relayed for whom: relays report what they spent of the monthly quotas, and are told how
//! far they may go (see `domain::RelayReport`). One transaction each; nothing is kept in the process.
//!
//! People (`desk`) log in with an e-mail address and a password, which is hashed with argon2id on the blocking pool behind a
//! semaphore: however many come, clients go on logging in beside them. Sessions and mailed tokens are random and kept as
//! hashes; what is mailed is derived from a key that is not in the database. Mail goes from an outbox (`postman`) to a folder
//! or an SMTP server (`mail`). Rejected: signing sessions as tokens, because logging out everywhere must take effect at once;
//! making a person before the address is proved, because the first who signs up with another's address would own it.

mod blocks;
mod desk;
mod hashing;
mod id_token;
mod limits;
mod login;
mod operators;
mod postman;
mod provider;
mod quota;
mod reseating;
mod rotation;
mod serving;

pub mod keys;
pub mod ladder;
pub mod mail;
pub mod metrics;

use std::{num::NonZeroU32, path::PathBuf, sync::Arc, time::Duration};

use bus::Bus;
use contract::auth::{Keys, Login, Renew, SettleRelay};
use serde::{Deserialize, Serialize};
use store::{Accounts, Networks, People};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use ladder::LadderConfig;
pub use limits::Limits;
pub use login::Auth;
pub use metrics::Metrics;
pub use provider::ProviderConfigError;

/// How this role behaves.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The folder of the keys that tokens are signed with. Empty: `token-keys` among the secrets.
    pub keys_dir: PathBuf,
    /// How often the folder is read again.
    #[serde(with = "domain::human_duration")]
    pub keys_reload: Duration,
    /// How long a resumption token is valid.
    #[serde(with = "domain::human_duration")]
    pub token_lifetime: Duration,
    /// New keys at once from one address (IPv4 /32, IPv6 /64), however much they work; then as many a minute as are free.
    pub registrations_per_source: NonZeroU32,
    /// New keys a second at this process.
    pub registrations: NonZeroU32,
    /// When new keys are asked for work, and known ones told to wait.
    pub ladder: LadderConfig,
    /// Calls served at once.
    pub concurrency: usize,
    /// People, their passwords and their mail.
    pub people: PeopleConfig,
}

/// How people are served.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PeopleConfig {
    /// What mailed tokens and budgets of addresses are derived from (32 bytes). Empty: `accounts.key` among the secrets.
    pub key: PathBuf,
    /// Where mail goes: "file:///folder", "smtp://host:port" (with "?tls=required" for STARTTLS) or
    /// "smtps://user:password@host". Empty: it waits in the outbox; with all roles in one process, the folder `mail`.
    pub mailer: String,
    /// Who it is from.
    pub mail_from: String,
    /// What links in mails begin with. Empty: where people reach their accounts, with all roles in one process.
    pub site: String,
    /// How often the outbox is looked at.
    #[serde(with = "domain::human_duration")]
    pub mail_poll: Duration,
    /// How long a person stays logged in.
    #[serde(with = "domain::human_duration")]
    pub session_lifetime: Duration,
    /// How long mailed confirmations and invitations are good.
    #[serde(with = "domain::human_duration")]
    pub mail_lifetime: Duration,
    /// How long a mail that sets another password is good.
    #[serde(with = "domain::human_duration")]
    pub reset_lifetime: Duration,
    /// How long a code for a client is good.
    #[serde(with = "domain::human_duration")]
    pub code_lifetime: Duration,
    /// Threads that hash passwords. 0: as many as there are cores.
    pub hashing_threads: usize,
    /// Passwords that wait to be hashed; who comes later is told to come back.
    pub hashing_queue: usize,
    pub limits: limits::Limits,
    pub provider: ProviderConfig,
}

/// An OpenID provider that people may log in through.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct ProviderConfig {
    /// Its https URL. Empty: there is none.
    pub issuer: String,
    /// How the provider knows us, and the file with the secret that proves it. Empty: PKCE alone.
    pub client_id: String,
    pub client_secret_file: PathBuf,
    /// Where it sends people back to, as registered there. Empty: `/v1/account/provider/callback` of `site`.
    pub redirect: String,
}

impl Default for PeopleConfig {
    fn default() -> Self {
        Self {
            key: PathBuf::new(),
            mailer: String::new(),
            mail_from: "Buri <buri@buri.invalid>".to_owned(),
            site: String::new(),
            mail_poll: Duration::from_secs(1),
            session_lifetime: Duration::from_secs(30 * 24 * 3600),
            mail_lifetime: Duration::from_secs(24 * 3600),
            reset_lifetime: Duration::from_secs(3600),
            code_lifetime: Duration::from_secs(900),
            hashing_threads: 0,
            hashing_queue: 64,
            limits: limits::Limits::default(),
            provider: ProviderConfig::default(),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            keys_dir: PathBuf::new(),
            keys_reload: Duration::from_secs(30),
            token_lifetime: Duration::from_secs(3600),
            registrations_per_source: const { NonZeroU32::new(30).unwrap() },
            registrations: const { NonZeroU32::new(500).unwrap() },
            ladder: LadderConfig::default(),
            concurrency: 256,
            people: PeopleConfig::default(),
        }
    }
}

/// What this role needs of the rest.
#[derive(Clone)]
pub struct Seams {
    pub bus: Bus,
    pub accounts: Arc<dyn Accounts>,
    pub people: Arc<dyn People>,
    /// Budgets of tries, which all roles keep in one table.
    pub networks: Arc<dyn Networks>,
    pub metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Seams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seams").finish_non_exhaustive()
    }
}

/// Why the role cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no key to sign tokens with")]
    Keys(#[from] keys::KeysError),
    #[error("the key of people's accounts cannot be used: {path}")]
    AccountKey { path: PathBuf, source: std::io::Error },
    #[error("a mailer is configured that cannot be used")]
    Mailer(#[from] mail::MailerError),
    #[error("a provider is configured that cannot be used")]
    Provider(#[from] provider::ProviderConfigError),
    #[error("passwords cannot be hashed")]
    Hashing,
    #[error("the calls of this role cannot be served")]
    Bus(#[from] bus::Error),
}

/// Serves until `shutdown`.
///
/// # Errors
/// [`Error`] when there is no signing key, or the bus refuses.
pub async fn run(config: Config, seams: Seams, shutdown: CancellationToken) -> Result<(), Error> {
    let (desk, postman) = serving::prepare(&config.people, &seams)?;
    let mut working = JoinSet::new();
    working.spawn(postman.run(shutdown.clone()));
    let auth = Arc::new(Auth::new(&config, seams.accounts, seams.metrics)?);
    let mut served = vec![
        seams
            .bus
            .serve(config.concurrency, serve::<Login, _, _>(&auth, |auth, call| async move { auth.login(call).await }))
            .await?,
        seams
            .bus
            .serve(config.concurrency, serve::<Renew, _, _>(&auth, |auth, call| async move { auth.renew(call) }))
            .await?,
        seams
            .bus
            .serve(config.concurrency, serve::<Keys, _, _>(&auth, |auth, Keys| async move { auth.keys().await }))
            .await?,
        seams
            .bus
            .serve(
                config.concurrency,
                serve::<SettleRelay, _, _>(&auth, |auth, call| async move { auth.settle_relay(call).await }),
            )
            .await?,
    ];
    served.push(rotation::serve(&auth, &seams.bus, config.concurrency).await?);
    let mut operators = auth.serve_operators(&seams.bus, config.concurrency).await?;
    operators.extend(auth.serve_blocks(&seams.bus, config.concurrency).await?);
    served.extend(serving::serve(&seams.bus, config.concurrency, &Arc::new(desk)).await?);
    let mut reload = tokio::time::interval(config.keys_reload);
    let mut refresh = tokio::time::interval(blocks::REFRESH);
    let mut prune = tokio::time::interval(blocks::PRUNE);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            _ = reload.tick() => auth.reload(&config.keys_dir),
            _ = prune.tick() => auth.prune_blocks().await,
            _ = refresh.tick() => {
                auth.refresh_blocks().await;
                auth.look_at_the_ladder();
            }
        }
    }
    for served in served.into_iter().chain(operators) {
        served.stop().await;
    }
    working.join_all().await;
    Ok(())
}

/// Gives each call its own handle of `auth`.
fn serve<C, F, Fut>(auth: &Arc<Auth>, handle: F) -> impl Fn(C) -> Fut + Send + Sync + 'static
where
    F: Fn(Arc<Auth>, C) -> Fut + Send + Sync + 'static,
{
    let auth = Arc::clone(auth);
    move |call| handle(Arc::clone(&auth), call)
}
