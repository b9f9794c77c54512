//! The secrets of a deployment: files in one folder, made on first run by `all`, mounted in a cluster.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use ring::rand::{SecureRandom as _, SystemRandom};

/// Where each secret lies under the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Secrets {
    dir: PathBuf,
}

/// A secret that is missing and could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecretsError {
    #[error("cannot write {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("the system gives no random bytes")]
    Random,
    #[error("cannot make the TLS certificate")]
    Certificate(#[from] rcgen::Error),
}

impl Secrets {
    /// The secrets in `dir`.
    pub(crate) fn in_dir(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The server's static X25519 key (32 bytes): what clients pin.
    pub(crate) fn server_key(&self) -> PathBuf {
        self.dir.join("server.key")
    }

    /// The certificate that the WebSocket transport shows; clients trust the server key, not this.
    pub(crate) fn tls_certificate(&self) -> PathBuf {
        self.dir.join("tls.crt")
    }

    /// The private key of the certificate (PKCS#8, PEM).
    pub(crate) fn tls_key(&self) -> PathBuf {
        self.dir.join("tls.key")
    }

    /// The root that the ticket key of each relay is derived from (32 bytes).
    pub(crate) fn ticket_root(&self) -> PathBuf {
        self.dir.join("tickets.key")
    }

    /// What reflectors seal their observations with (32 bytes).
    pub(crate) fn observation_key(&self) -> PathBuf {
        self.dir.join("observations.key")
    }

    /// What tokens in mails to people are derived from (32 bytes).
    pub(crate) fn accounts_key(&self) -> PathBuf {
        self.dir.join("accounts.key")
    }

    /// The keys that memberships are signed with (32 bytes each).
    pub(crate) fn membership_key(&self) -> PathBuf {
        self.dir.join("membership.key")
    }

    /// What secrets of webhooks are derived from (32 bytes).
    pub(crate) fn webhooks_key(&self) -> PathBuf {
        self.dir.join("webhooks.key")
    }

    /// The OPAQUE server set-up.
    pub(crate) fn password_setup(&self) -> PathBuf {
        self.dir.join("opaque.setup")
    }

    /// The keys that tokens are signed with.
    pub(crate) fn token_keys(&self) -> PathBuf {
        self.dir.join("token-keys")
    }

    /// The bearer token of the first operator.
    pub(crate) fn operator_token(&self) -> PathBuf {
        self.dir.join("operator.token")
    }

    /// Makes every secret that is missing.
    ///
    /// # Errors
    /// [`SecretsError`]; what was made before stays.
    pub(crate) fn ensure(&self) -> Result<(), SecretsError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .map_err(|source| SecretsError::Write { path: self.dir.clone(), source })?;
        let keys = [
            self.server_key(),
            self.ticket_root(),
            self.observation_key(),
            self.accounts_key(),
            self.membership_key(),
            self.webhooks_key(),
        ];
        for path in keys {
            if !path.exists() {
                let mut key = [0; 32];
                SystemRandom::new().fill(&mut key).map_err(|_| SecretsError::Random)?;
                write_new(&path, &key)?;
            }
        }
        if !self.tls_certificate().exists() || !self.tls_key().exists() {
            let made = rcgen::generate_simple_self_signed(["buri.invalid".to_owned()])?;
            write_new(&self.tls_key(), made.signing_key.serialize_pem().as_bytes())?;
            write_new(&self.tls_certificate(), made.cert.pem().as_bytes())?;
        }
        Ok(())
    }
}

/// Writes a file that only its owner reads, whole or not at all.
fn write_new(path: &Path, bytes: &[u8]) -> Result<(), SecretsError> {
    let failed = |source| SecretsError::Write { path: path.to_owned(), source };
    let partial = path.with_extension("partial");
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&partial, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn secrets_are_made_once_and_for_their_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let secrets = Secrets::in_dir(dir.path().join("secrets"));
        secrets.ensure().unwrap();
        let key = fs::read(secrets.server_key()).unwrap();
        assert_eq!(key.len(), 32);
        for path in [secrets.server_key(), secrets.tls_key(), secrets.ticket_root(), secrets.accounts_key()] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        }

        secrets.ensure().unwrap();
        assert_eq!(fs::read(secrets.server_key()).unwrap(), key);
    }
}
