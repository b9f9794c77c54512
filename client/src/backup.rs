//! A machine's keys in one text, sealed under a passphrase: to move the machine elsewhere, or to have it again.
//!
//! In it is what makes the machine whole: its identity and tunnel keys, the servers that it trusts, and its networks with their
//! members and secrets, which no server could give back. Where peers were last seen is left out.
//!
//! Two machines with the same keys are one client to everybody. The server serves the one that logged in last, and tells the
//! other `replaced`, which stays away from then on until somebody starts it anew.
//!
//! **Format**, version 1: between two marker lines, bytes in base64 (RFC 4648, with padding), 64 digits a line. Numbers are
//! big-endian.
//!
//! | bytes | |
//! |---|---|
//! | 8 | `BURIKEYS` |
//! | 1 | version |
//! | 4, 4, 4 | Argon2id (RFC 9106): memory in KiB, passes, lanes |
//! | 16 | salt |
//! | 12 | nonce |
//! | n | the contents as CBOR, sealed with ChaCha20-Poly1305 (RFC 8439) under the hash of the passphrase; all before is authentic, too |
//! | 8 | the beginning of SHA-256 over all before: tells a copy that was cut off from a wrong passphrase |

mod armor;

use domain::{ClientId, Passphrase, PassphraseError};
use minicbor::{Decode, Encode};
use opaque_ke::argon2::{Algorithm, Argon2, Params, Version};
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest,
    rand::{SecureRandom as _, SystemRandom},
};
use zeroize::{Zeroize as _, Zeroizing};

use crate::{
    core::Saved,
    home::{HomeError, Identity, LaterKeys},
};

pub use armor::MAX_TEXT;

/// What is in a backup.
#[derive(Clone, Encode, Decode)]
pub struct Contents {
    #[n(0)]
    pub(crate) keys: Keys,
    /// Keys that the server was asked to take, and may have taken.
    #[n(1)]
    pub(crate) next: Option<LaterKeys>,
    #[n(2)]
    pub(crate) servers: Vec<Pin>,
    /// `None` when the client never had a session.
    #[n(3)]
    pub(crate) known: Option<Saved>,
}

/// The keys that count.
#[derive(Clone, Encode, Decode)]
pub(crate) enum Keys {
    /// Those that the client was made with.
    #[n(0)]
    First(#[n(0)] FirstKeys),
    #[n(1)]
    Later(#[n(0)] LaterKeys),
}

#[derive(Clone, Encode, Decode)]
pub(crate) struct FirstKeys {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub(crate) identity: [u8; 32],
    #[cbor(n(1), with = "minicbor::bytes")]
    pub(crate) tunnel: [u8; 32],
}

/// A server that is trusted.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Pin {
    #[n(0)]
    pub(crate) address: String,
    #[n(1)]
    pub(crate) key: String,
}

/// Why there is no backup, or nothing was taken from it.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("this is no backup of keys: one begins with {}", armor::BEGIN)]
    Foreign,
    #[error("the backup is of version {version}, which this program does not know; update it")]
    Version { version: u8 },
    #[error("the backup is cut off or damaged; use another copy")]
    Damaged,
    #[error("the passphrase is wrong, or somebody altered the backup")]
    Sealed,
    #[error(transparent)]
    Passphrase(#[from] PassphraseError),
    #[error("there are keys here already, of client {client}; with --replace they are set aside")]
    Occupied { client: ClientId },
    #[error("there are no keys here yet: the daemon makes them when it starts")]
    NoKeys,
    #[error("there is too much to be kept in a backup")]
    TooLarge,
    #[error("the system gives no random bytes")]
    Random,
    #[error(transparent)]
    Home(#[from] HomeError),
}

/// What a guess at the passphrase costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl Cost {
    /// The second recommendation of RFC 9106: 64 MiB, three passes. One lane, because nothing here runs several.
    const USUAL: Self = Self { memory_kib: 64 * 1024, passes: 3, lanes: 1 };
    /// A file must not ask for more memory or time than a machine has.
    const MOST: Self = Self { memory_kib: 1024 * 1024, passes: 16, lanes: 16 };

    fn key(self, passphrase: &Passphrase, salt: &[u8]) -> Option<LessSafeKey> {
        let Self { memory_kib, passes, lanes } = self;
        let params = Params::new(memory_kib, passes, lanes, Some(32)).ok()?;
        let mut key = Zeroizing::new([0; 32]);
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        argon2.hash_password_into(passphrase.as_bytes(), salt, key.as_mut_slice()).ok()?;
        UnboundKey::new(&CHACHA20_POLY1305, key.as_slice()).ok().map(LessSafeKey::new)
    }

    fn is_bearable(self) -> bool {
        let Self { memory_kib, passes, lanes } = Self::MOST;
        self.memory_kib <= memory_kib && self.passes <= passes && self.lanes <= lanes
    }
}

impl BackupError {
    /// The stable word, for scripts.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Foreign => "backup-foreign",
            Self::Version { .. } => "backup-version",
            Self::Damaged => "backup-damaged",
            Self::Sealed => "passphrase-wrong",
            Self::Passphrase(_) => "passphrase-invalid",
            Self::Occupied { .. } => "keys-exist",
            Self::NoKeys => "no-keys",
            Self::TooLarge => "backup-too-large",
            Self::Random | Self::Home(_) => "failed",
        }
    }
}

impl Contents {
    /// Whose keys they are.
    ///
    /// # Errors
    /// [`BackupError::Damaged`] when they are none.
    pub fn client(&self) -> Result<ClientId, BackupError> {
        let keys = match &self.keys {
            Keys::First(first) => Identity::from_seeds(&first.identity, &first.tunnel),
            Keys::Later(later) => later.keys(),
        };
        keys.map(|keys| keys.client()).ok_or(BackupError::Damaged)
    }

    /// How many networks there are.
    #[must_use]
    pub fn networks(&self) -> usize {
        self.known.as_ref().map_or(0, |known| known.networks.len())
    }

    /// The backup.
    ///
    /// # Errors
    /// [`BackupError::Random`] and [`BackupError::TooLarge`].
    pub fn seal(&self, passphrase: &Passphrase) -> Result<String, BackupError> {
        let mut drawn = [0; SALT + NONCE_LEN];
        SystemRandom::new().fill(&mut drawn).map_err(|_| BackupError::Random)?;
        self.seal_with(passphrase, Cost::USUAL, &drawn)
    }

    fn seal_with(
        &self,
        passphrase: &Passphrase,
        cost: Cost,
        drawn: &[u8; SALT + NONCE_LEN],
    ) -> Result<String, BackupError> {
        let mut bytes = Vec::with_capacity(HEAD);
        bytes.extend(MAGIC);
        bytes.push(VERSION);
        for number in [cost.memory_kib, cost.passes, cost.lanes] {
            bytes.extend(number.to_be_bytes());
        }
        bytes.extend(drawn);
        let (salt, nonce) = drawn.split_at(SALT);
        let key = cost.key(passphrase, salt).ok_or(BackupError::TooLarge)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| BackupError::Random)?;
        // Sealed in place: what was clear is overwritten.
        let mut body = Zeroizing::new(minicbor::to_vec(self).map_err(|_| BackupError::TooLarge)?);
        key.seal_in_place_append_tag(nonce, Aad::from(&bytes), &mut *body).map_err(|_| BackupError::TooLarge)?;
        bytes.extend_from_slice(&body);
        let check = digest::digest(&digest::SHA256, &bytes);
        bytes.extend(&check.as_ref()[..CHECK]);
        armor::wrap(&bytes).ok_or(BackupError::TooLarge)
    }

    /// What is in the backup `text`. Costs what the backup asks for: usually 64 MiB for a moment.
    ///
    /// # Errors
    /// [`BackupError`].
    pub fn open(text: &str, passphrase: &Passphrase) -> Result<Self, BackupError> {
        let bytes = armor::unwrap(text)?;
        let after_magic = bytes.strip_prefix(MAGIC).ok_or(BackupError::Foreign)?;
        match after_magic.first() {
            Some(&VERSION) => {}
            Some(&version) => return Err(BackupError::Version { version }),
            None => return Err(BackupError::Damaged),
        }
        if bytes.len() < HEAD + TAG + CHECK {
            return Err(BackupError::Damaged);
        }
        let (sealed, check) = bytes.split_at(bytes.len() - CHECK);
        if digest::digest(&digest::SHA256, sealed).as_ref()[..CHECK] != *check {
            return Err(BackupError::Damaged);
        }
        let (head, body) = sealed.split_at(HEAD);
        let number = |at: usize| head[at..].first_chunk().map_or(u32::MAX, |bytes| u32::from_be_bytes(*bytes));
        let cost = Cost { memory_kib: number(COST), passes: number(COST + 4), lanes: number(COST + 8) };
        if !cost.is_bearable() {
            return Err(BackupError::Damaged);
        }
        let (salt, nonce) = head[COST + 12..].split_at(SALT);
        let key = cost.key(passphrase, salt).ok_or(BackupError::Damaged)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| BackupError::Damaged)?;
        let mut body = Zeroizing::new(body.to_vec());
        let opened = key.open_in_place(nonce, Aad::from(head), &mut body).map_err(|_| BackupError::Sealed)?;
        let contents: Self = minicbor::decode(opened).map_err(|_| BackupError::Damaged)?;
        contents.client()?;
        Ok(contents)
    }
}

impl Drop for FirstKeys {
    fn drop(&mut self) {
        self.identity.zeroize();
        self.tunnel.zeroize();
    }
}

impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contents").field("networks", &self.networks()).finish_non_exhaustive()
    }
}

const MAGIC: &[u8] = b"BURIKEYS";
const VERSION: u8 = 1;
const COST: usize = MAGIC.len() + 1;
const SALT: usize = 16;
const HEAD: usize = COST + 12 + SALT + NONCE_LEN;
const TAG: usize = 16;
const CHECK: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_opens_with_its_passphrase_only() {
        let text = sealed();
        let opened = Contents::open(&text, &passphrase("correct horse")).unwrap();
        let Keys::First(keys) = &opened.keys else { panic!("other keys") };
        assert_eq!((keys.identity, keys.tunnel, &opened.servers), ([1; 32], [2; 32], &contents().servers));
        assert_eq!(opened.client().unwrap(), contents().client().unwrap());
        assert_eq!(code(&text, "correct horsf"), "passphrase-wrong");
        // Mails add lines, and other line ends.
        let mailed = format!("Dear Anna,\r\n\r\n{}\r\nYours\r\n", text.replace('\n', "\r\n"));
        assert!(Contents::open(&mailed, &passphrase("correct horse")).is_ok());
    }

    #[test]
    fn every_cut_and_every_altered_byte_is_noticed() {
        let text = sealed();
        for at in (0..text.trim_end().len()).filter(|at| text.is_char_boundary(*at)) {
            let cut = code(&text[..at], "correct horse");
            assert!(["backup-foreign", "backup-damaged"].contains(&cut), "{at}: {cut}");
        }
        let bytes = armor::unwrap(&text).unwrap();
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 0x40;
            let wrapped = armor::wrap(&altered).unwrap();
            let noticed = code(&wrapped, "correct horse");
            let expected = if at < 8 {
                "backup-foreign"
            } else if at == 8 {
                "backup-version"
            } else {
                "backup-damaged"
            };
            assert_eq!(noticed, expected, "{at}");
        }
    }

    #[test]
    fn whoever_alters_it_on_purpose_is_noticed_by_the_seal() {
        let bytes = armor::unwrap(&sealed()).unwrap();
        let rechecked = |mut bytes: Vec<u8>| {
            bytes.truncate(bytes.len() - CHECK);
            let check = digest::digest(&digest::SHA256, &bytes);
            bytes.extend(&check.as_ref()[..CHECK]);
            armor::wrap(&bytes).unwrap()
        };
        for at in [COST + 12, COST + 12 + SALT, HEAD, bytes.len() - CHECK - 1] {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            assert_eq!(code(&rechecked(altered), "correct horse"), "passphrase-wrong", "{at}");
        }
        // Another one must not make the machine run out of memory or patience.
        for at in [COST, COST + 4, COST + 8] {
            let mut costly = bytes.clone();
            costly[at] = 0xff;
            assert_eq!(code(&rechecked(costly), "correct horse"), "backup-damaged", "{at}");
        }
    }

    #[test]
    fn another_version_and_another_text_are_said() {
        let mut bytes = armor::unwrap(&sealed()).unwrap();
        bytes[8] = 2;
        let later = armor::wrap(&bytes).unwrap();
        let error = Contents::open(&later, &passphrase("correct horse")).unwrap_err();
        assert!(matches!(error, BackupError::Version { version: 2 }));
        for text in ["", "hello", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            assert_eq!(code(text, "correct horse"), "backup-foreign", "{text}");
        }
    }

    #[test]
    fn nothing_of_it_is_shown() {
        let shown = format!("{:?}", contents());
        assert!(!shown.contains("1, 1"), "{shown}");
    }

    #[test]
    fn the_format_never_changes() {
        assert_eq!(sealed(), GOLDEN);
    }

    fn contents() -> Contents {
        let servers = vec![Pin { address: "192.0.2.1:12975".into(), key: "k".into() }];
        Contents {
            keys: Keys::First(FirstKeys { identity: [1; 32], tunnel: [2; 32] }),
            next: None,
            servers,
            known: None,
        }
    }

    fn sealed() -> String {
        let cost = Cost { memory_kib: 64, passes: 1, lanes: 1 };
        contents().seal_with(&passphrase("correct horse"), cost, &[7; SALT + NONCE_LEN]).unwrap()
    }

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(text).unwrap()
    }

    fn code(text: &str, passphrase_text: &str) -> &'static str {
        Contents::open(text, &passphrase(passphrase_text)).unwrap_err().code()
    }

    /// Made once; other bytes leave people without their machines.
    const GOLDEN: &str = "-----BEGIN BURI KEY BACKUP-----
QlVSSUtFWVMBAAAAQAAAAAEAAAABBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH
B7IO8Srvj1jUnIX//7gdJzpPjJaS3UjO5KRlQvBJRB+BySeoX1wJT4ksTC4YTkgY
WE2e3ojXwX/pAQAVUG2oE+hUrRpl1c9YMlpUukOgsu/S5YsE9iUal+t57nIl9eKx
evt6KMFJdFZbFFSvg8MEenFF8kGmdiU=
-----END BURI KEY BACKUP-----
";
}
