//! The operator's bearer token: 32 random bytes in a file, kept in memory as a digest only.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use ring::{
    digest::{self, SHA256},
    rand::{SecureRandom as _, SystemRandom},
};
use subtle::ConstantTimeEq as _;

/// The shortest token that is accepted, in bytes.
const LEAST: usize = 32;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("cannot read or write {path}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} holds fewer than {LEAST} characters")]
    Short { path: PathBuf },
    #[error("the system gives no random bytes")]
    Random,
}

/// What a token is compared by.
#[derive(Clone)]
pub struct Digest([u8; 32]);

impl Digest {
    fn of(token: &str) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&SHA256, token.as_bytes()).as_ref());
        Self(bytes)
    }

    /// Whether `token` is the one, in constant time.
    #[must_use]
    pub fn matches(&self, token: &str) -> bool {
        self.0.ct_eq(&Self::of(token).0).into()
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Digest(..)")
    }
}

/// The token in the file at `path`.
///
/// # Errors
/// [`TokenError`].
pub fn read(path: &Path) -> Result<Digest, TokenError> {
    let text = fs::read_to_string(path).map_err(|source| TokenError::Io { path: path.to_owned(), source })?;
    let token = text.trim();
    if token.len() < LEAST { Err(TokenError::Short { path: path.to_owned() }) } else { Ok(Digest::of(token)) }
}

/// Makes a token for its owner's eyes when there is none. Returns whether it did.
///
/// # Errors
/// [`TokenError`].
pub fn ensure(path: &Path) -> Result<bool, TokenError> {
    if path.exists() {
        return Ok(false);
    }
    let mut bytes = [0_u8; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| TokenError::Random)?;
    let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let failed = |source| TokenError::Io { path: path.to_owned(), source };
    let partial = path.with_extension("partial");
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial).map_err(failed)?;
    writeln!(file, "{token}").and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&partial, path).map_err(failed)?;
    Ok(true)
}
