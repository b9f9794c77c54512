//! The server's side of OPAQUE (RFC 9807), on threads of its own.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    num::NonZeroUsize,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use domain::{PASSWORD_CONTEXT, PasswordSuite};
use opaque_ke::{
    CredentialFinalization, CredentialRequest, RegistrationRequest, RegistrationUpload, ServerLogin,
    ServerLoginParameters, ServerRegistration, ServerSetup,
};
use rand_core::OsRng;
use tokio::sync::Semaphore;

use crate::pending::Sealer;

/// The largest message or record of the protocol is about 320 bytes.
const MAX_MESSAGE_BYTES: usize = 1024;

/// Why there is no set-up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("cannot read or write {path}")]
    File { path: PathBuf, source: io::Error },
    #[error("{path} holds no set-up of the password protocol")]
    Broken { path: PathBuf },
}

/// Makes the set-up at `path` unless it is there. All processes of a deployment need the same, for ever: without it no
/// password of any network can be checked.
///
/// # Errors
/// [`SetupError::File`] when it cannot be written.
pub fn ensure_setup(path: &Path) -> Result<(), SetupError> {
    let file = |source| SetupError::File { path: path.to_owned(), source };
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut made = match opened {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        opened => opened.map_err(file)?,
    };
    made.write_all(&ServerSetup::<PasswordSuite>::new(&mut OsRng).serialize()).map_err(file)?;
    made.sync_all().map_err(file)
}

/// Why a step of the protocol gave nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PasswordError {
    #[error("the message is broken")]
    Malformed,
    #[error("the password is wrong")]
    Wrong,
    #[error("the record of the network is broken")]
    Record,
    #[error("the protocol broke off by a fault in the program")]
    Crashed,
}

/// The keys of the protocol, and the threads it runs on.
pub(crate) struct Passwords {
    setup: Arc<ServerSetup<PasswordSuite>>,
    pub(crate) sealer: Sealer,
    /// Who waits here is bounded by the calls that the bus serves at once.
    threads: Arc<Semaphore>,
}

/// A KE2, and what is needed to check the KE3.
pub(crate) struct Challenge {
    pub(crate) response: Vec<u8>,
    pub(crate) state: Vec<u8>,
}

impl Passwords {
    pub(crate) fn read(path: &Path, threads: usize) -> Result<Self, SetupError> {
        let bytes = fs::read(path).map_err(|source| SetupError::File { path: path.to_owned(), source })?;
        let setup = ServerSetup::deserialize(&bytes).map_err(|_| SetupError::Broken { path: path.to_owned() })?;
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let threads = if threads == 0 { cores } else { threads };
        Ok(Self { setup: Arc::new(setup), sealer: Sealer::of(&bytes), threads: Arc::new(Semaphore::new(threads)) })
    }

    /// Answers a registration request for a password that will be known as `credential`.
    pub(crate) async fn register(&self, credential: String, request: Vec<u8>) -> Result<Vec<u8>, PasswordError> {
        let setup = Arc::clone(&self.setup);
        self.on_a_thread(move || {
            let request = RegistrationRequest::<PasswordSuite>::deserialize(bounded(&request)?)
                .map_err(|_| PasswordError::Malformed)?;
            let started = ServerRegistration::start(&setup, request, credential.as_bytes())
                .map_err(|_| PasswordError::Malformed)?;
            Ok(started.message.serialize().to_vec())
        })
        .await
    }

    /// Checks and re-encodes a registration record.
    pub(crate) async fn record(&self, upload: Vec<u8>) -> Result<Vec<u8>, PasswordError> {
        self.on_a_thread(move || {
            let upload = RegistrationUpload::<PasswordSuite>::deserialize(bounded(&upload)?)
                .map_err(|_| PasswordError::Malformed)?;
            Ok(ServerRegistration::finish(upload).serialize().to_vec())
        })
        .await
    }

    /// Answers a KE1; without a record as if there were one, of a password that nobody knows.
    pub(crate) async fn challenge(
        &self,
        credential: String,
        request: Vec<u8>,
        record: Option<Vec<u8>>,
    ) -> Result<Challenge, PasswordError> {
        let setup = Arc::clone(&self.setup);
        self.on_a_thread(move || {
            let request = CredentialRequest::<PasswordSuite>::deserialize(bounded(&request)?)
                .map_err(|_| PasswordError::Malformed)?;
            let record = record
                .map(|record| ServerRegistration::<PasswordSuite>::deserialize(&record))
                .transpose()
                .map_err(|_| PasswordError::Record)?;
            let started = ServerLogin::start(&mut OsRng, &setup, record, request, credential.as_bytes(), parameters())
                .map_err(|_| PasswordError::Malformed)?;
            Ok(Challenge { response: started.message.serialize().to_vec(), state: started.state.serialize().to_vec() })
        })
        .await
    }

    /// Checks a KE3 against the state of [`Passwords::challenge`].
    pub(crate) async fn verify(&self, state: Vec<u8>, finalization: Vec<u8>) -> Result<(), PasswordError> {
        self.on_a_thread(move || {
            let finalization = CredentialFinalization::<PasswordSuite>::deserialize(bounded(&finalization)?)
                .map_err(|_| PasswordError::Malformed)?;
            let state = ServerLogin::<PasswordSuite>::deserialize(&state).map_err(|_| PasswordError::Malformed)?;
            state.finish(finalization, parameters()).map(drop).map_err(|_| PasswordError::Wrong)
        })
        .await
    }

    /// Runs `step`, a fraction of a millisecond of arithmetic, off the threads that serve everybody.
    async fn on_a_thread<T: Send + 'static>(
        &self,
        step: impl FnOnce() -> Result<T, PasswordError> + Send + 'static,
    ) -> Result<T, PasswordError> {
        let thread = Arc::clone(&self.threads).acquire_owned().await.map_err(|_| PasswordError::Crashed)?;
        let work = move || {
            let outcome = step();
            drop(thread);
            outcome
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| PasswordError::Crashed)?
    }
}

fn bounded(message: &[u8]) -> Result<&[u8], PasswordError> {
    if message.len() > MAX_MESSAGE_BYTES { Err(PasswordError::Malformed) } else { Ok(message) }
}

fn parameters() -> ServerLoginParameters<'static, 'static> {
    ServerLoginParameters { context: Some(PASSWORD_CONTEXT), ..ServerLoginParameters::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setup_is_made_once_and_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("opaque.setup");

        ensure_setup(&path).unwrap();
        let made = fs::read(&path).unwrap();
        ensure_setup(&path).unwrap();

        assert_eq!(fs::read(&path).unwrap(), made);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(Passwords::read(&path, 1).is_ok());
    }

    #[test]
    fn a_broken_setup_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("opaque.setup");
        fs::write(&path, b"too short").unwrap();
        assert!(matches!(Passwords::read(&path, 1), Err(SetupError::Broken { .. })));
    }

    #[tokio::test]
    async fn hostile_bytes_are_malformed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("opaque.setup");
        ensure_setup(&path).unwrap();
        let passwords = Passwords::read(&path, 1).unwrap();
        let name = || "any".to_owned();
        for bytes in [vec![], vec![0; 32], vec![0xff; 96], vec![7; 2_000_000]] {
            assert!(matches!(passwords.register(name(), bytes.clone()).await, Err(PasswordError::Malformed)));
            assert!(matches!(passwords.challenge(name(), bytes.clone(), None).await, Err(PasswordError::Malformed)));
            assert!(passwords.record(bytes.clone()).await.is_err());
            assert!(passwords.verify(vec![], bytes).await.is_err());
        }
    }
}
