//! People's passwords: argon2id on the blocking pool, never on more cores than a semaphore has permits.
//!
//! A hash takes 19 MiB and tens of milliseconds (RFC 9106, the second choice of OWASP). Who comes when too many wait is refused
//! at once and told when to come back: the logins of clients, which hash nothing, go on beside a full queue.

use std::{sync::Arc, time::Duration};

use argon2::{
    Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version,
    password_hash::{self, SaltString},
};
use domain::Passphrase;
use ring::rand::{SecureRandom as _, SystemRandom};
use store::PasswordHash;
use tokio::sync::Semaphore;

const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// What one hash takes about, for those who are told to come back.
const ABOUT: Duration = Duration::from_millis(50);

/// Why a password was neither hashed nor checked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HashError {
    #[error("too many wait for their password to be checked")]
    Full { retry_after: Duration },
    #[error("the system gives no random bytes")]
    Random,
    #[error("the password hash is broken")]
    Broken(#[from] password_hash::Error),
    #[error("the hash broke off by a fault in the program")]
    Crashed,
}

/// The threads that hash, and the queue before them.
pub(crate) struct Hasher {
    threads: Arc<Semaphore>,
    /// Places in the queue, those at work included.
    places: Arc<Semaphore>,
    least_wait: Duration,
    /// What is checked when there is nobody to check, so that it takes as long.
    nobody: PasswordHash,
}

impl Hasher {
    /// `threads` at once, and so many more in the queue.
    pub(crate) fn new(threads: usize, waiting: usize) -> Result<Self, HashError> {
        let rounds = u32::try_from(waiting / threads).unwrap_or(u32::MAX);
        Ok(Self {
            threads: Arc::new(Semaphore::new(threads)),
            places: Arc::new(Semaphore::new(threads + waiting)),
            least_wait: (ABOUT * rounds).max(Duration::from_secs(1)),
            nobody: hash(b"nobody has this password")?,
        })
    }

    /// The hash of `password` with a fresh salt.
    pub(crate) async fn hash(&self, password: Passphrase) -> Result<PasswordHash, HashError> {
        self.run(move || hash(password.as_bytes())).await
    }

    /// Whether `password` is the one of `known`: takes as long for nobody.
    pub(crate) async fn verify(&self, password: Passphrase, known: Option<PasswordHash>) -> Result<bool, HashError> {
        let somebody = known.is_some();
        let known = known.unwrap_or_else(|| self.nobody.clone());
        let matches = self.run(move || verify(password.as_bytes(), &known)).await?;
        Ok(matches && somebody)
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, HashError> + Send + 'static,
    ) -> Result<T, HashError> {
        let full = |_| HashError::Full { retry_after: self.least_wait };
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(full)?;
        let thread = Arc::clone(&self.threads).acquire_owned().await.map_err(|_| HashError::Crashed)?;
        // Place and thread are free when the work has ended, whoever stopped waiting for it.
        let done = tokio::task::spawn_blocking(move || {
            let _held = (place, thread);
            work()
        });
        done.await.map_err(|_| HashError::Crashed)?
    }
}

fn argon2() -> Result<Argon2<'static>, HashError> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(password_hash::Error::from)?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

fn hash(password: &[u8]) -> Result<PasswordHash, HashError> {
    let mut salt = [0; 16];
    SystemRandom::new().fill(&mut salt).map_err(|_| HashError::Random)?;
    let salt = SaltString::encode_b64(&salt)?;
    Ok(PasswordHash(argon2()?.hash_password(password, &salt)?.to_string()))
}

fn verify(password: &[u8], known: &PasswordHash) -> Result<bool, HashError> {
    let known = password_hash::PasswordHash::new(&known.0)?;
    match argon2()?.verify_password(password, &known) {
        Ok(()) => Ok(true),
        Err(password_hash::Error::Password) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Passphrase {
        Passphrase::new(text).unwrap()
    }

    #[tokio::test]
    async fn a_password_matches_its_hash_only() {
        let hasher = Hasher::new(1, 1).unwrap();
        let known = hasher.hash(password("correct horse")).await.unwrap();
        assert!(known.0.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", known.0);
        assert!(hasher.verify(password("correct horse"), Some(known.clone())).await.unwrap());
        assert!(!hasher.verify(password("battery staple"), Some(known)).await.unwrap());
        assert!(!hasher.verify(password("nobody has this password"), None).await.unwrap());
        assert!(hasher.verify(password("correct horse"), Some(PasswordHash("plain".into()))).await.is_err());
    }

    #[tokio::test]
    async fn beyond_the_queue_one_is_told_when_to_come_back() {
        let hasher = Arc::new(Hasher::new(1, 2).unwrap());
        // Nobody works: three have a place, the fourth has none.
        let _busy = Arc::clone(&hasher.threads).acquire_owned().await.unwrap();
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..3 {
            let hasher = Arc::clone(&hasher);
            waiting.spawn(async move { hasher.hash(password("correct horse")).await.is_ok() });
        }
        while hasher.places.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let refused = hasher.hash(password("correct horse")).await;
        assert!(
            matches!(refused, Err(HashError::Full { retry_after }) if retry_after >= Duration::from_secs(1)),
            "{refused:?}"
        );
        drop(_busy);
        assert!(waiting.join_all().await.into_iter().all(|hashed| hashed));
    }
}
