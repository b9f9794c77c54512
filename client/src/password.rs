//! The password of a network: proved to the server without being told (OPAQUE, RFC 9807), and the key to the network secret.
//!
//! The secret of a network is 32 random bytes, made by whoever creates it. The server keeps it sealed under the export key of
//! the OPAQUE exchange, which only the password opens: a server with its whole database can neither join nor read.

use std::fmt;

use domain::{MAX_PASSWORD_BYTES, PASSWORD_CONTEXT, PasswordSuite};
use opaque_ke::{
    ClientLogin, ClientLoginFinishParameters, ClientRegistration, ClientRegistrationFinishParameters,
    CredentialResponse, RegistrationResponse,
};
use rand_core::OsRng;
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf,
    rand::{SecureRandom as _, SystemRandom},
};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, ZeroizeOnDrop, Zeroizing};

/// What a user types. Wiped from memory when dropped, never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ZeroizeOnDrop)]
#[serde(transparent)]
pub struct Password(String);

/// The 32 bytes that the pair keys of a network's members are derived from.
#[derive(Clone, PartialEq, Eq, ZeroizeOnDrop)]
pub struct NetworkSecret([u8; 32]);

/// Why a password did not lead to a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    #[error("a password has 1 to {MAX_PASSWORD_BYTES} bytes")]
    Length,
    /// Wrong password or unknown network: the server does not say which.
    #[error("no such network, or the password is wrong")]
    Denied,
    #[error("the server does not speak the password protocol")]
    Malformed,
    #[error("the network secret does not open with this password")]
    Secret,
    #[error("the system gives no random bytes")]
    Random,
}

/// A creation between its two halves.
pub struct Registering {
    state: ClientRegistration<PasswordSuite>,
    password: Password,
}

/// A join between its two halves.
pub struct LoggingIn {
    state: ClientLogin<PasswordSuite>,
    password: Password,
}

/// Opens the network secret.
#[derive(ZeroizeOnDrop)]
pub struct ExportKey([u8; 32]);

impl Password {
    /// The password `text`.
    #[must_use]
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    fn checked(&self) -> Result<&[u8], PasswordError> {
        let bytes = self.0.as_bytes();
        if (1..=MAX_PASSWORD_BYTES).contains(&bytes.len()) { Ok(bytes) } else { Err(PasswordError::Length) }
    }
}

impl Registering {
    /// Begins a creation: the state, and the message for the server.
    ///
    /// # Errors
    /// [`PasswordError::Length`].
    pub fn start(password: &Password) -> Result<(Self, Vec<u8>), PasswordError> {
        let started = ClientRegistration::<PasswordSuite>::start(&mut OsRng, password.checked()?)
            .map_err(|_| PasswordError::Malformed)?;
        Ok((Self { state: started.state, password: password.clone() }, started.message.serialize().to_vec()))
    }

    /// Ends it: the record for the server, and the key that seals the network secret. Costs an Argon2id hash.
    ///
    /// # Errors
    /// [`PasswordError::Malformed`] when the answer is none.
    pub fn finish(self, response: &[u8]) -> Result<(Vec<u8>, ExportKey), PasswordError> {
        let response = RegistrationResponse::deserialize(response).map_err(|_| PasswordError::Malformed)?;
        let finished = self
            .state
            .finish(&mut OsRng, self.password.checked()?, response, ClientRegistrationFinishParameters::default())
            .map_err(|_| PasswordError::Malformed)?;
        Ok((finished.message.serialize().to_vec(), ExportKey::of(&finished.export_key)))
    }
}

impl LoggingIn {
    /// Begins a join: the state, and the message for the server.
    ///
    /// # Errors
    /// [`PasswordError::Length`].
    pub fn start(password: &Password) -> Result<(Self, Vec<u8>), PasswordError> {
        let started = ClientLogin::<PasswordSuite>::start(&mut OsRng, password.checked()?)
            .map_err(|_| PasswordError::Malformed)?;
        Ok((Self { state: started.state, password: password.clone() }, started.message.serialize().to_vec()))
    }

    /// Ends it: the proof for the server, and the key that opens the network secret. Costs an Argon2id hash.
    ///
    /// # Errors
    /// [`PasswordError::Denied`] when the password is not the network's, or there is no such network.
    pub fn finish(self, response: &[u8]) -> Result<(Vec<u8>, ExportKey), PasswordError> {
        let response = CredentialResponse::deserialize(response).map_err(|_| PasswordError::Malformed)?;
        let parameters = ClientLoginFinishParameters { context: Some(PASSWORD_CONTEXT), ..Default::default() };
        let finished = self
            .state
            .finish(&mut OsRng, self.password.checked()?, response, parameters)
            .map_err(|_| PasswordError::Denied)?;
        Ok((finished.message.serialize().to_vec(), ExportKey::of(&finished.export_key)))
    }
}

impl NetworkSecret {
    /// A fresh one.
    ///
    /// # Errors
    /// [`PasswordError::Random`].
    pub fn random() -> Result<Self, PasswordError> {
        let mut bytes = [0; 32];
        SystemRandom::new().fill(&mut bytes).map_err(|_| PasswordError::Random)?;
        Ok(Self(bytes))
    }

    /// The secret with these bytes, from the cache.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for deriving pair keys and for the cache.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The secret, sealed: nonce, then ciphertext and tag (ChaCha20-Poly1305, RFC 8439).
    ///
    /// # Errors
    /// [`PasswordError::Random`].
    pub fn seal(&self, key: &ExportKey) -> Result<Vec<u8>, PasswordError> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| PasswordError::Random)?;
        let mut sealed = self.0.to_vec();
        key.aead()
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(PASSWORD_CONTEXT), &mut sealed)
            .map_err(|_| PasswordError::Secret)?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    /// The secret in `sealed`.
    ///
    /// # Errors
    /// [`PasswordError::Secret`] when it was sealed under another key, or altered.
    pub fn open(sealed: &[u8], key: &ExportKey) -> Result<Self, PasswordError> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(PasswordError::Secret)?;
        let mut bytes = Zeroizing::new(sealed.to_vec());
        let opened = key
            .aead()
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(PASSWORD_CONTEXT), &mut bytes)
            .map_err(|_| PasswordError::Secret)?;
        (&*opened).try_into().map(Self).map_err(|_| PasswordError::Secret)
    }
}

impl ExportKey {
    /// Separates the AEAD key from every other use of the export key.
    fn of(export_key: &[u8]) -> Self {
        let pseudo_random = hkdf::Salt::new(hkdf::HKDF_SHA256, PASSWORD_CONTEXT).extract(export_key);
        let mut key = [0; 32];
        pseudo_random
            .expand(&[b"network secret"], hkdf::HKDF_SHA256)
            .and_then(|expanded| expanded.fill(&mut key))
            .expect("32 bytes are one block of HKDF-SHA-256");
        let made = Self(key);
        key.zeroize();
        made
    }

    /// The key that was kept.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// To be kept until the secret comes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn aead(&self) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &self.0).expect("the key has 32 bytes"))
    }
}

macro_rules! hidden {
    ($($name:ident),+) => {
        $(impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        })+
    };
}
hidden!(Password, NetworkSecret, ExportKey, Registering, LoggingIn);

#[cfg(test)]
mod tests {
    use opaque_ke::{
        CredentialFinalization, CredentialRequest, RegistrationRequest, RegistrationUpload, ServerLogin,
        ServerLoginParameters, ServerRegistration, ServerSetup,
    };

    use super::*;

    type Setup = ServerSetup<PasswordSuite>;

    fn password(text: &str) -> Password {
        Password::new(text.into())
    }

    fn register(setup: &Setup, text: &str) -> (Vec<u8>, ExportKey) {
        let (registering, request) = Registering::start(&password(text)).unwrap();
        let request = RegistrationRequest::deserialize(&request).unwrap();
        let response = ServerRegistration::<PasswordSuite>::start(setup, request, b"net").unwrap();
        let (record, key) = registering.finish(&response.message.serialize()).unwrap();
        let upload = RegistrationUpload::<PasswordSuite>::deserialize(&record).unwrap();
        (ServerRegistration::finish(upload).serialize().to_vec(), key)
    }

    #[expect(clippy::unwrap_in_result, reason = "only the client's verdict is a result here")]
    fn login(setup: &Setup, record: Option<&[u8]>, text: &str) -> Result<ExportKey, PasswordError> {
        let (logging_in, request) = LoggingIn::start(&password(text)).unwrap();
        let parameters = || ServerLoginParameters { context: Some(PASSWORD_CONTEXT), ..Default::default() };
        let started = ServerLogin::start(
            &mut OsRng,
            setup,
            record.map(|bytes| ServerRegistration::deserialize(bytes).unwrap()),
            CredentialRequest::deserialize(&request).unwrap(),
            b"net",
            parameters(),
        )
        .unwrap();
        let (proof, key) = logging_in.finish(&started.message.serialize())?;
        started.state.finish(CredentialFinalization::deserialize(&proof).unwrap(), parameters()).unwrap();
        Ok(key)
    }

    #[test]
    fn the_password_opens_the_secret_and_nothing_else_does() {
        let setup = Setup::new(&mut OsRng);
        let (record, key) = register(&setup, "correct horse");
        let secret = NetworkSecret::random().unwrap();
        let sealed = secret.seal(&key).unwrap();

        let opened = login(&setup, Some(&record), "correct horse").unwrap();
        assert_eq!(NetworkSecret::open(&sealed, &opened).unwrap(), secret);
        assert_eq!(login(&setup, Some(&record), "wrong").unwrap_err(), PasswordError::Denied);
        assert_eq!(login(&setup, None, "correct horse").unwrap_err(), PasswordError::Denied);
        let (_, other) = register(&setup, "correct horse");
        assert_eq!(NetworkSecret::open(&sealed, &other), Err(PasswordError::Secret));
    }

    #[test]
    fn an_altered_secret_does_not_open() {
        let key = ExportKey::of(b"export key");
        let mut sealed = NetworkSecret::random().unwrap().seal(&key).unwrap();
        for at in 0..sealed.len() {
            sealed[at] ^= 1;
            assert_eq!(NetworkSecret::open(&sealed, &key), Err(PasswordError::Secret));
            sealed[at] ^= 1;
        }
        for cut in 0..sealed.len() {
            assert_eq!(NetworkSecret::open(&sealed[..cut], &key), Err(PasswordError::Secret));
        }
    }

    #[test]
    fn a_password_has_bounds_and_a_hostile_server_is_harmless() {
        for text in [String::new(), "a".repeat(MAX_PASSWORD_BYTES + 1)] {
            assert_eq!(Registering::start(&Password::new(text)).unwrap_err(), PasswordError::Length);
        }
        let (registering, _) = Registering::start(&password("p")).unwrap();
        assert_eq!(registering.finish(&[0xff; 64]).unwrap_err(), PasswordError::Malformed);
        let (logging_in, _) = LoggingIn::start(&password("p")).unwrap();
        assert_eq!(logging_in.finish(&[]).unwrap_err(), PasswordError::Malformed);
    }
}
