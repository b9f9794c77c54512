//! Logins and the tokens that spare them.

use std::{
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use contract::{
    auth::{KeysReply, LoggedIn, Login, LoginRefusal, Renew, Renewed},
    token::{self, Session, SigningKey, TokenError},
};
use domain::{ClientId, SourcePrefix, UnixMillis};
use governor::{
    DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
};
use store::{Accounts, Standing};

use crate::{
    Config, Metrics,
    keys::{self, KeysError},
    metrics::Outcome,
};

/// The least time a client is told to wait when registrations are over their limit.
const LEAST_WAIT: Duration = Duration::from_secs(1);

/// Forget sources that did nothing, once in so many registrations: the map stays as large as one minute's sources.
const SOURCES_KEPT: usize = 65_536;

/// The state of the role: signing keys and limits. Everything else is in the database.
pub struct Auth {
    pub(crate) accounts: Arc<dyn Accounts>,
    pub(crate) metrics: Arc<Metrics>,
    keys: RwLock<Arc<[SigningKey]>>,
    token_lifetime: Duration,
    per_source: DefaultKeyedRateLimiter<SourcePrefix>,
    in_total: DefaultDirectRateLimiter,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").finish_non_exhaustive()
    }
}

impl Auth {
    /// Reads the keys.
    ///
    /// # Errors
    /// [`KeysError`] when there is none.
    pub fn new(config: &Config, accounts: Arc<dyn Accounts>, metrics: Arc<Metrics>) -> Result<Self, KeysError> {
        let keys: Arc<[SigningKey]> = keys::read(&config.keys_dir)?.into();
        metrics.keys.set(i64::try_from(keys.len()).unwrap_or(i64::MAX));
        Ok(Self {
            accounts,
            metrics,
            keys: RwLock::new(keys),
            token_lifetime: config.token_lifetime,
            per_source: RateLimiter::keyed(Quota::per_minute(config.registrations_per_source)),
            in_total: RateLimiter::direct(Quota::per_second(config.registrations)),
        })
    }

    /// Logs a client in; registers its key when it is new.
    ///
    /// # Errors
    /// [`LoginRefusal`].
    pub async fn login(&self, login: Login) -> Result<LoggedIn, LoginRefusal> {
        let timer = self.metrics.login_seconds.start_timer();
        let result = self.admit(&login).await;
        timer.observe_duration();
        self.metrics.login(match &result {
            Ok(LoggedIn { registered: false, .. }) => Outcome::Known,
            Ok(LoggedIn { registered: true, .. }) => Outcome::Registered,
            Err(LoginRefusal::RegistrationLimited { .. }) => Outcome::Limited,
            Err(LoginRefusal::Signature | LoginRefusal::Blocked) => Outcome::Refused,
            Err(LoginRefusal::Internal { .. } | LoginRefusal::Busy) => Outcome::Failed,
        });
        result
    }

    async fn admit(&self, login: &Login) -> Result<LoggedIn, LoginRefusal> {
        login
            .identity
            .verify_tunnel_key(&login.tunnel, &login.tunnel_signature)
            .map_err(|_| LoginRefusal::Signature)?;
        let known =
            self.accounts.plan_of(ClientId::of(&login.identity)).await.map_err(|error| internal(&error))?.is_some();
        if !known {
            self.limit_registration(login.source)?;
        }
        let entry = store::Login {
            identity: login.identity,
            tunnel: login.tunnel,
            tunnel_signature: login.tunnel_signature,
            nick: login.nick.clone(),
        };
        let stored =
            self.accounts.login(entry, UnixMillis::from(SystemTime::now())).await.map_err(|error| internal(&error))?;
        if stored.standing == Standing::Blocked {
            return Err(LoginRefusal::Blocked);
        }
        let renewed = self.token(stored.client, login.identity, login.tunnel)?;
        Ok(LoggedIn {
            client: stored.client,
            registered: stored.registered,
            nick: stored.nick,
            token: renewed.token,
            token_expires: renewed.expires,
        })
    }

    fn limit_registration(&self, source: SourcePrefix) -> Result<(), LoginRefusal> {
        if self.per_source.len() > SOURCES_KEPT {
            self.per_source.retain_recent();
        }
        let limited = match self.per_source.check_key(&source) {
            Ok(()) => self.in_total.check().err(),
            Err(limited) => Some(limited),
        };
        limited.map_or(Ok(()), |limited| {
            let wait = limited.wait_time_from(DefaultClock::default().now()).max(LEAST_WAIT);
            Err(LoginRefusal::RegistrationLimited {
                retry_after_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
            })
        })
    }

    /// A fresh token for a client that has a session.
    ///
    /// # Errors
    /// [`LoginRefusal::Internal`] when signing fails.
    pub fn renew(&self, renew: Renew) -> Result<Renewed, LoginRefusal> {
        self.token(renew.client, renew.identity, renew.tunnel)
    }

    fn token(
        &self,
        client: ClientId,
        identity: domain::IdentityKey,
        tunnel: domain::TunnelKey,
    ) -> Result<Renewed, LoginRefusal> {
        let now = UnixMillis::from(SystemTime::now());
        let expires = now.plus(self.token_lifetime);
        let keys = self.signing_keys();
        let newest = keys.last().ok_or_else(|| internal(&TokenError::Key))?;
        let token =
            newest.sign(&Session { client, identity, tunnel, expires }, now).map_err(|error| internal(&error))?;
        self.metrics.tokens.inc();
        Ok(Renewed { token, expires })
    }

    /// The public halves of all keys.
    #[must_use]
    pub fn keys(&self) -> KeysReply {
        KeysReply { jwks: token::jwks(self.signing_keys().iter()) }
    }

    /// Reads the folder of keys again. A broken or empty folder changes nothing.
    pub fn reload(&self, dir: &Path) {
        match keys::read(dir) {
            Ok(keys) => {
                self.metrics.keys.set(i64::try_from(keys.len()).unwrap_or(i64::MAX));
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys.into();
            }
            Err(error) => {
                self.metrics.reloads_failed.inc();
                tracing::warn!(error = %error, "the token keys could not be read again; the old ones stay in use");
            }
        }
    }

    fn signing_keys(&self) -> Arc<[SigningKey]> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Logs what failed and gives the client a number to quote, unless it is to come back soon.
fn internal(error: &(dyn std::error::Error + 'static)) -> LoginRefusal {
    if store::Error::is_busy(error) {
        tracing::warn!("a login waited too long for the database");
        return LoginRefusal::Busy;
    }
    LoginRefusal::Internal { incident: telemetry::incident::log("a login", error) }
}
