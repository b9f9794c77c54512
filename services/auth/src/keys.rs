//! The folder of signing keys: one PKCS#8 file a key, named `KID.pk8`. The last name in alphabetical order signs.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use contract::token::{SigningKey, TokenError};
use ring::{rand::SystemRandom, signature::Ed25519KeyPair};

const EXTENSION: &str = "pk8";

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("cannot read or write {path}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is broken")]
    Broken { path: PathBuf, source: TokenError },
    #[error("{path} holds no key: a file NAME.pk8 with an Ed25519 key in PKCS#8 is expected")]
    Empty { path: PathBuf },
    #[error("the system gives no random bytes")]
    Random,
}

/// All keys in `dir`, oldest name first; never empty.
///
/// # Errors
/// [`KeysError`] when there is none, or one is broken.
pub fn read(dir: &Path) -> Result<Vec<SigningKey>, KeysError> {
    let failed = |path: &Path, source| KeysError::Io { path: path.to_owned(), source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(|source| failed(dir, source))? {
        let path = entry.map_err(|source| failed(dir, source))?.path();
        if path.extension().is_some_and(|extension| extension == EXTENSION) {
            paths.push(path);
        }
    }
    paths.sort_unstable();
    let keys: Vec<SigningKey> = paths
        .into_iter()
        .map(|path| {
            let bytes = fs::read(&path).map_err(|source| failed(&path, source))?;
            let kid = path.file_stem().unwrap_or_default().to_string_lossy();
            SigningKey::from_pkcs8(&kid, &bytes).map_err(|source| KeysError::Broken { path: path.clone(), source })
        })
        .collect::<Result<_, _>>()?;
    if keys.is_empty() { Err(KeysError::Empty { path: dir.to_owned() }) } else { Ok(keys) }
}

/// Makes a first key when `dir` has none.
///
/// # Errors
/// [`KeysError`] when the folder cannot be written.
pub fn ensure(dir: &Path) -> Result<(), KeysError> {
    let failed = |source| KeysError::Io { path: dir.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    match read(dir) {
        Err(KeysError::Empty { .. }) => add(dir, "0001"),
        other => other.map(drop),
    }
}

/// Adds a fresh key with the name `kid`, which signs from the next reading on if it is the last in order.
///
/// # Errors
/// [`KeysError`] when the folder cannot be written.
pub fn add(dir: &Path, kid: &str) -> Result<(), KeysError> {
    let path = dir.join(kid).with_extension(EXTENSION);
    let failed = |source| KeysError::Io { path: path.clone(), source };
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| KeysError::Random)?;
    let partial = path.with_extension("partial");
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial).map_err(failed)?;
    file.write_all(pkcs8.as_ref()).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&partial, &path).map_err(failed)
}
