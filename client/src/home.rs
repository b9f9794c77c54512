//! The folder of one client: its keys, the servers it trusts, and what it must find again after a restart.
//!
//! Files are replaced whole (written beside, synced, renamed), so that a crash leaves the old or the new one. Only their
//! owner can read them. One daemon at a time holds the lock.

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use domain::{ClientId, IdentityKey, Lineage, Signature, TUNNEL_KEY_CONTEXT};
use nix::fcntl::{Flock, FlockArg};
use ring::{
    rand::{SecureRandom as _, SystemRandom},
    signature::{Ed25519KeyPair, KeyPair as _},
};
use serde::{Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

mod rotation;
mod whole;

pub(crate) use rotation::LaterKeys;
pub use whole::Existing;

const SOCKET: &str = "daemon.sock";
const LOCK: &str = "daemon.lock";
const IDENTITY: &str = "identity.key";
const TUNNEL: &str = "tunnel.key";
const SERVERS: &str = "servers.json";

/// The largest file that is read back, in bytes.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    #[error("cannot use {path}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is broken")]
    Broken { path: PathBuf },
    #[error("another daemon uses {path}")]
    Locked { path: PathBuf },
    #[error("the system gives no random bytes")]
    Random,
    #[error("the keys were changed as often as they may be")]
    KeyLimit,
}

/// The folder.
#[derive(Clone, Debug)]
pub struct Home {
    dir: PathBuf,
    /// Held while keys are read or replaced, which takes several files: all clones of one home share it.
    keys: Arc<Mutex<()>>,
}

/// Held by the daemon that uses the folder.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<fs::File>,
}

/// Who this client is.
pub struct Identity {
    pair: Ed25519KeyPair,
    public: IdentityKey,
    tunnel: Zeroizing<[u8; 32]>,
    lineage: Lineage,
}

impl Home {
    /// The folder `dir`, made when missing.
    ///
    /// # Errors
    /// [`HomeError::Io`].
    pub fn open(dir: &Path) -> Result<Self, HomeError> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| io_error(dir, source))?;
        Ok(Self::at(dir))
    }

    /// The folder `dir`, whether it exists or not.
    #[must_use]
    pub fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), keys: Arc::default() }
    }

    /// Where the daemon listens for commands.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join(SOCKET)
    }

    /// Keeps other daemons away for as long as the lock lives, also over `kill -9`.
    ///
    /// # Errors
    /// [`HomeError::Locked`] when another daemon runs.
    pub fn lock(&self) -> Result<Lock, HomeError> {
        let path = self.dir.join(LOCK);
        let file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|source| io_error(&path, source))?;
        let locked = Flock::lock(file, FlockArg::LockExclusiveNonblock);
        Ok(Lock { _file: locked.map_err(|_| HomeError::Locked { path: self.dir.clone() })? })
    }

    /// The client's keys, made on first use.
    ///
    /// # Errors
    /// [`HomeError`] when they cannot be read or made.
    pub fn identity(&self) -> Result<Identity, HomeError> {
        let _alone = self.alone_with_keys();
        self.identity_now()
    }

    fn alone_with_keys(&self) -> MutexGuard<'_, ()> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The caller is [`Self::alone_with_keys`].
    fn identity_now(&self) -> Result<Identity, HomeError> {
        if let Some(later) = self.later_keys()? {
            return later.keys().ok_or_else(|| HomeError::Broken { path: self.dir.join(rotation::LATER) });
        }
        Identity::from_seeds(&*self.key(IDENTITY)?, &*self.key(TUNNEL)?)
            .ok_or_else(|| HomeError::Broken { path: self.dir.join(IDENTITY) })
    }

    fn key(&self, name: &str) -> Result<Zeroizing<[u8; 32]>, HomeError> {
        if let Some(key) = self.kept_key(name)? {
            return Ok(key);
        }
        let mut key = Zeroizing::new([0; 32]);
        SystemRandom::new().fill(key.as_mut_slice()).map_err(|_| HomeError::Random)?;
        self.save_bytes(name, key.as_slice())?;
        Ok(key)
    }

    fn kept_key(&self, name: &str) -> Result<Option<Zeroizing<[u8; 32]>>, HomeError> {
        let path = self.dir.join(name);
        match fs::read(&path).map(Zeroizing::new) {
            Ok(bytes) => match bytes.as_slice().try_into() {
                Ok(key) => Ok(Some(Zeroizing::new(key))),
                Err(_) => Err(HomeError::Broken { path }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(io_error(&path, source)),
        }
    }

    /// The static key that was pinned for the server at `address`.
    ///
    /// # Errors
    /// [`HomeError`] when the file is broken: better no connection than one to anybody.
    pub fn pinned(&self, address: &str) -> Result<Option<String>, HomeError> {
        let pins: Option<BTreeMap<String, String>> = self.load(SERVERS)?;
        Ok(pins.and_then(|mut pins| pins.remove(address)))
    }

    /// Pins the key of the server at `address` for ever.
    ///
    /// # Errors
    /// [`HomeError`] when it cannot be kept.
    pub fn pin(&self, address: &str, key: &str) -> Result<(), HomeError> {
        let mut pins: BTreeMap<String, String> = self.load(SERVERS)?.unwrap_or_default();
        pins.insert(address.to_owned(), key.to_owned());
        self.save(SERVERS, &pins)
    }

    /// The value kept under `name`; `None` when there is none yet.
    ///
    /// # Errors
    /// [`HomeError::Broken`] when it does not read back.
    pub fn load<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, HomeError> {
        let Some(bytes) = self.load_bytes(name)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|_| HomeError::Broken { path: self.dir.join(name) })
    }

    /// The bytes kept under `name`; `None` when there are none yet.
    ///
    /// # Errors
    /// [`HomeError`] when they cannot be read.
    pub fn load_bytes(&self, name: &str) -> Result<Option<Vec<u8>>, HomeError> {
        let path = self.dir.join(name);
        match fs::metadata(&path) {
            Ok(about) if about.len() > MAX_FILE => return Err(HomeError::Broken { path }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Ok(_) | Err(_) => {}
        }
        fs::read(&path).map(Some).map_err(|source| io_error(&path, source))
    }

    /// Keeps `value` under `name`; durable when this returns.
    ///
    /// # Errors
    /// [`HomeError::Io`]; the old value is still there.
    pub fn save<T: Serialize>(&self, name: &str, value: &T) -> Result<(), HomeError> {
        let bytes = serde_json::to_vec(value).map_err(|_| HomeError::Broken { path: self.dir.join(name) })?;
        self.save_bytes(name, &bytes)
    }

    /// Keeps `bytes` under `name`; durable when this returns.
    ///
    /// # Errors
    /// [`HomeError::Io`]; the old bytes are still there.
    pub fn save_bytes(&self, name: &str, bytes: &[u8]) -> Result<(), HomeError> {
        let path = self.dir.join(name);
        let partial = self.dir.join(format!("{name}.partial"));
        let written = || {
            let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&partial, &path)?;
            fs::File::open(&self.dir)?.sync_all()
        };
        written().map_err(|source| io_error(&path, source))
    }
}

impl Identity {
    /// The first keys of a client, made of these; `None` when they are none.
    #[must_use]
    pub fn from_seeds(identity: &[u8; 32], tunnel: &[u8; 32]) -> Option<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(identity).ok()?;
        let public = IdentityKey::try_from(pair.public_key().as_ref()).ok()?;
        Some(Self { pair, public, tunnel: Zeroizing::new(*tunnel), lineage: Lineage::new(public) })
    }

    /// The public key the client is known by.
    #[must_use]
    pub const fn public(&self) -> IdentityKey {
        self.public
    }

    /// The client's id.
    #[must_use]
    pub fn client(&self) -> ClientId {
        self.lineage.client()
    }

    /// All the identity keys that the client had, up to this one.
    #[must_use]
    pub const fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// The private X25519 key of the tunnels.
    #[must_use]
    pub fn tunnel(&self) -> &[u8; 32] {
        &self.tunnel
    }

    /// Signs the parts, one after the other.
    ///
    /// # Panics
    /// Never: an Ed25519 signature has 64 bytes.
    #[must_use]
    pub fn sign(&self, parts: &[&[u8]]) -> Signature {
        let signature = self.pair.sign(&parts.concat());
        Signature::try_from(signature.as_ref()).expect("an Ed25519 signature has 64 bytes")
    }

    /// Vouches for `tunnel`, the public half of [`Self::tunnel`].
    #[must_use]
    pub fn sign_tunnel(&self, tunnel: &domain::TunnelKey) -> Signature {
        self.sign(&[TUNNEL_KEY_CONTEXT, tunnel.as_bytes()])
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("public", &self.public).finish_non_exhaustive()
    }
}

fn io_error(path: &Path, source: io::Error) -> HomeError {
    HomeError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn home() -> (tempfile::TempDir, Home) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(&dir.path().join("home")).unwrap();
        (dir, home)
    }

    #[test]
    fn a_client_stays_who_it_is() {
        let (_dir, home) = home();
        let first = home.identity().unwrap();
        let second = home.identity().unwrap();
        assert_eq!(first.client(), second.client());
        assert_eq!(first.tunnel(), second.tunnel());
        let signature = first.sign(&[b"a", b"b"]);
        assert_eq!(second.public().verify(b"ab", &signature), Ok(()));
        for file in ["", IDENTITY, TUNNEL] {
            assert_eq!(fs::metadata(home.dir.join(file)).unwrap().permissions().mode() & 0o077, 0, "{file}");
        }
    }

    #[test]
    fn a_broken_key_is_said_and_kept() {
        let (_dir, home) = home();
        fs::write(home.dir.join(IDENTITY), b"short").unwrap();
        assert!(matches!(home.identity(), Err(HomeError::Broken { .. })));
        assert_eq!(fs::read(home.dir.join(IDENTITY)).unwrap(), b"short");
    }

    #[test]
    fn one_daemon_at_a_time() {
        let (_dir, home) = home();
        let lock = home.lock().unwrap();
        assert!(matches!(home.lock(), Err(HomeError::Locked { .. })));
        drop(lock);
        home.lock().unwrap();
    }

    #[test]
    fn a_pin_is_for_ever_and_for_one_server() {
        let (_dir, home) = home();
        assert_eq!(home.pinned("a:1").unwrap(), None);
        home.pin("a:1", "key").unwrap();
        assert_eq!(home.pinned("a:1").unwrap().as_deref(), Some("key"));
        assert_eq!(home.pinned("b:1").unwrap(), None);
        fs::write(home.dir.join(SERVERS), b"{").unwrap();
        assert!(home.pinned("a:1").is_err());
    }
}
