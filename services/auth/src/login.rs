//! Logins and the tokens that spare them.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant, SystemTime},
};

use contract::{
    auth::{KeysReply, LoggedIn, Login, LoginRefusal, Renew, Renewed},
    token::{self, Session, SigningKey, TokenError},
};
use domain::{Block, ClientId, Degree, UnixMillis};
use store::{Accounts, LoginError, Standing};

use crate::{
    Config, Metrics,
    blocks::{self, Prefixes},
    keys::{self, KeysError},
    ladder::{Ladder, Verdict},
    metrics::Outcome,
};

/// The state of the role: signing keys and limits. Everything else is in the database.
pub struct Auth {
    pub(crate) accounts: Arc<dyn Accounts>,
    pub(crate) metrics: Arc<Metrics>,
    keys: RwLock<Arc<[SigningKey]>>,
    pub(crate) token_lifetime: Duration,
    ladder: Mutex<Ladder>,
    pub(crate) prefixes: Prefixes,
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
            ladder: Mutex::new(Ladder::new(
                Instant::now(),
                config.ladder.clone(),
                config.registrations_per_source,
                config.registrations,
            )),
            prefixes: Prefixes::default(),
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
            Err(LoginRefusal::RegistrationLimited { .. } | LoginRefusal::LoginLimited { .. }) => Outcome::Limited,
            Err(LoginRefusal::WorkNeeded { .. }) => Outcome::Challenged,
            Err(LoginRefusal::Withheld { .. } | LoginRefusal::RegistrationWithheld { .. }) => Outcome::Withheld,
            Err(LoginRefusal::Signature | LoginRefusal::Blocked | LoginRefusal::Rotated) => Outcome::Refused,
            Err(LoginRefusal::Internal { .. } | LoginRefusal::Busy) => Outcome::Failed,
        });
        result
    }

    async fn admit(&self, login: &Login) -> Result<LoggedIn, LoginRefusal> {
        login
            .identity
            .verify_tunnel_key(&login.tunnel, &login.tunnel_signature)
            .map_err(|_| LoginRefusal::Signature)?;
        // Limits count for the key that signed: whom else it says to be does not use up that one's.
        let (key, at) = (ClientId::of(&login.identity), UnixMillis::from(SystemTime::now()));
        let held = self.accounts.held_against(login.client.unwrap_or(key), at).await;
        let held = held.map_err(|error| internal(&error))?;
        // Only with its newest key is somebody told what is held against it, and a later key is never registered.
        let foreign = held.identity.map_or(login.client.is_some(), |newest| newest != login.identity);
        if foreign {
            return Err(LoginRefusal::Rotated);
        }
        if !held.registered {
            if let Some(block) = held.block.as_ref().filter(|block| block.degree == Degree::Refuse) {
                return Err(blocks::withheld(block, None, at));
            }
            self.limit_registration(login, at).await?;
        }
        if held.registered || held.block.is_some() {
            self.limit_login(login, key, held.block.as_ref(), at)?;
        }
        let entry = store::Login {
            identity: login.identity,
            tunnel: login.tunnel,
            tunnel_signature: login.tunnel_signature,
            nick: login.nick.clone(),
            client: login.client,
        };
        let stored = self.accounts.login(entry, at).await.map_err(|error| match error {
            LoginError::Rotated => LoginRefusal::Rotated,
            LoginError::Store(error) => internal(&error),
        })?;
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

    /// What a client meets that is known, or that an operator holds something against.
    fn limit_login(
        &self,
        login: &Login,
        client: ClientId,
        block: Option<&Block>,
        at: UnixMillis,
    ) -> Result<(), LoginRefusal> {
        if let Some(block) = block.filter(|block| block.degree == Degree::Refuse) {
            return Err(blocks::withheld(block, None, at));
        }
        match self.ladder().login(Instant::now(), client, block.map(|block| block.degree), login.worked) {
            Verdict::Admit => Ok(()),
            Verdict::Work { bits } => Err(LoginRefusal::WorkNeeded { bits }),
            Verdict::Wait(wait) => Err(match block {
                Some(block) => blocks::withheld(block, Some(wait), at),
                None => LoginRefusal::LoginLimited { retry_after_ms: blocks::millis(wait) },
            }),
        }
    }

    /// What a key meets that was never seen before.
    async fn limit_registration(&self, login: &Login, at: UnixMillis) -> Result<(), LoginRefusal> {
        // Of an older gateway.
        let Some(from) = login.from else { return Err(LoginRefusal::Busy) };
        let block = self.held_against_new(from, at).await?;
        let held = block.as_ref().and_then(|block| Some((blocks::prefix(block)?, block.degree)));
        match self.ladder().registration(Instant::now(), from, login.worked, held) {
            Verdict::Admit => Ok(()),
            Verdict::Work { bits } => Err(LoginRefusal::WorkNeeded { bits }),
            Verdict::Wait(wait) => Err(match block.filter(|block| block.degree == Degree::Slow) {
                Some(block) => blocks::registration_withheld(&block, Some(wait), at),
                None => LoginRefusal::RegistrationLimited { retry_after_ms: blocks::millis(wait) },
            }),
        }
    }

    /// Forgets what is over, and tells how it is.
    pub(crate) fn look_at_the_ladder(&self) {
        let (mut ladder, now) = (self.ladder(), Instant::now());
        ladder.forget(now);
        self.metrics.under_attack.set(ladder.is_under_attack(now).into());
    }

    fn ladder(&self) -> std::sync::MutexGuard<'_, Ladder> {
        self.ladder.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// The public halves of all keys that sign, and the keys of clients that open nothing any more.
    ///
    /// # Errors
    /// [`LoginRefusal`] when storage fails: better no keys than ones that let the wrong clients in.
    pub async fn keys(&self) -> Result<KeysReply, LoginRefusal> {
        let retired = self.retired().await.map_err(|error| internal(&error))?;
        Ok(KeysReply { jwks: token::jwks(self.signing_keys().iter()), retired })
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
pub(crate) fn internal(error: &(dyn std::error::Error + 'static)) -> LoginRefusal {
    if store::Error::is_busy(error) {
        tracing::warn!("a login waited too long for the database");
        return LoginRefusal::Busy;
    }
    LoginRefusal::Internal { incident: telemetry::incident::log("a login", error) }
}
