//! Bearer tokens: that of the first operator, 32 random bytes in a file, and those that are made with the API. Of both only
//! digests are kept.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use domain::TokenId;
use ring::{
    digest::{self, SHA256},
    rand::{SecureRandom as _, SystemRandom},
};
use subtle::ConstantTimeEq as _;

/// The shortest token that is accepted, in bytes.
const LEAST: usize = 32;

/// What tokens of the API begin with, so that people and scanners of secrets recognise them.
const PREFIX: &str = "buri_api_";

/// A token that was just drawn. Shown once.
pub(crate) struct Drawn {
    pub(crate) id: TokenId,
    pub(crate) text: String,
    pub(crate) digest: [u8; 32],
}

/// Draws a token of the API.
pub(crate) fn draw() -> Result<Drawn, TokenError> {
    let (mut id, mut secret) = ([0; 16], [0; 32]);
    let random = SystemRandom::new();
    random.fill(&mut id).and_then(|()| random.fill(&mut secret)).map_err(|_| TokenError::Random)?;
    let text = format!("{PREFIX}{}", hex(&secret));
    let digest = Digest::of(&text).0;
    Ok(Drawn { id: TokenId::from_bytes(id), text, digest })
}

/// What a token of the API is looked up by; `None` for what cannot be one.
pub(crate) fn digest_of(sent: &str) -> Option<[u8; 32]> {
    let digits = sent.strip_prefix(PREFIX)?;
    let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (digits.len() == 64 && digits.bytes().all(lower)).then(|| Digest::of(sent).0)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

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
    let token = hex(&bytes);
    let failed = |source| TokenError::Io { path: path.to_owned(), source };
    let partial = path.with_extension("partial");
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial).map_err(failed)?;
    writeln!(file, "{token}").and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&partial, path).map_err(failed)?;
    Ok(true)
}
