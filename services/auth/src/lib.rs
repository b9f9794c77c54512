//! The role that knows who is who: client keys, tokens and their keys.
//!
//! A client is its Ed25519 key. The gateway has checked the client's signature before anything arrives here, so a login is
//! one transaction (a key never seen before is registered in it) and one signature: the resumption token, which lets the
//! client come back without asking this role again. New keys are limited per source prefix and in total; known ones are not.
//!
//! Every process signs with the newest key of a shared folder and publishes all of them, so that keys rotate by adding a
//! file and later removing another, without a restart.
//!
//! It also keeps the count of what is relayed for whom: relays report what they spent of the monthly quotas, and are told how
//! far they may go (see `domain::RelayReport`). One transaction each; nothing is kept in the process.

mod login;
mod operators;
mod quota;

pub mod keys;
pub mod metrics;

use std::{num::NonZeroU32, path::PathBuf, sync::Arc, time::Duration};

use bus::Bus;
use contract::auth::{Keys, Login, Renew, SettleRelay};
use serde::{Deserialize, Serialize};
use store::Accounts;
use tokio_util::sync::CancellationToken;

pub use login::Auth;
pub use metrics::Metrics;

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
    /// New keys a minute from one source prefix (IPv4 /32, IPv6 /56).
    pub registrations_per_source: NonZeroU32,
    /// New keys a second at this process.
    pub registrations: NonZeroU32,
    /// Calls served at once.
    pub concurrency: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            keys_dir: PathBuf::new(),
            keys_reload: Duration::from_secs(30),
            token_lifetime: Duration::from_secs(3600),
            registrations_per_source: const { NonZeroU32::new(60).unwrap() },
            registrations: const { NonZeroU32::new(500).unwrap() },
            concurrency: 256,
        }
    }
}

/// What this role needs of the rest.
#[derive(Clone)]
pub struct Seams {
    pub bus: Bus,
    pub accounts: Arc<dyn Accounts>,
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
    #[error("the calls of this role cannot be served")]
    Bus(#[from] bus::Error),
}

/// Serves until `shutdown`.
///
/// # Errors
/// [`Error`] when there is no signing key, or the bus refuses.
pub async fn run(config: Config, seams: Seams, shutdown: CancellationToken) -> Result<(), Error> {
    let auth = Arc::new(Auth::new(&config, seams.accounts, seams.metrics)?);
    let served = [
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
            .serve(config.concurrency, serve::<Keys, _, _>(&auth, |auth, Keys| async move { Ok(auth.keys()) }))
            .await?,
        seams
            .bus
            .serve(
                config.concurrency,
                serve::<SettleRelay, _, _>(&auth, |auth, call| async move { auth.settle_relay(call).await }),
            )
            .await?,
    ];
    let operators = auth.serve_operators(&seams.bus, config.concurrency).await?;
    let mut reload = tokio::time::interval(config.keys_reload);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            _ = reload.tick() => auth.reload(&config.keys_dir),
        }
    }
    for served in served.into_iter().chain(operators) {
        served.stop().await;
    }
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
