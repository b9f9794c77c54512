//! ID tokens (OpenID Connect Core 1.0, section 3.1.3.7): signed by one of the provider's keys, for us, now, and for this flow.
//!
//! RS256, ES256 and EdDSA are what providers sign with. The algorithm follows from the kind of the key, and the header has to
//! agree: a token cannot choose how it is checked, and `none` and shared secrets are no kinds of keys here.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use domain::{EmailAddress, UnixMillis};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::Deserialize;

/// How far clocks may differ.
const LEEWAY_S: u64 = 5;
/// The longest token that is looked at, and the longest subject, in bytes.
const MAX_TOKEN: usize = 16 * 1024;
const MAX_SUBJECT: usize = 255;

/// Why an ID token proves nothing.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum IdTokenError {
    #[error("no signed token")]
    Form,
    #[error("signed with a key that the provider does not have")]
    UnknownKey,
    #[error("the signature is wrong, or of another kind than the key")]
    Signature,
    #[error("not by this provider, not for us, or not for this log-in")]
    Purpose,
    #[error("expired, or from the future")]
    Time,
    #[error("the provider does not vouch for an e-mail address")]
    Email,
}

/// What the token must be for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected<'a> {
    pub(crate) issuer: &'a str,
    pub(crate) client_id: &'a str,
    pub(crate) nonce: &'a str,
    pub(crate) now: UnixMillis,
}

/// Whom it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) subject: String,
    pub(crate) email: EmailAddress,
}

/// The provider's keys (RFC 7517).
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Keys {
    keys: Vec<serde_json::Value>,
}

/// One of them, of a kind that we know.
#[derive(Debug, Deserialize)]
#[serde(tag = "kty")]
enum Key {
    #[serde(rename = "RSA")]
    Rsa { n: String, e: String },
    #[serde(rename = "EC")]
    Ec { crv: String, x: String, y: String },
    #[serde(rename = "OKP")]
    Okp { crv: String, x: String },
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audience,
    azp: Option<String>,
    exp: u64,
    iat: u64,
    nonce: Option<String>,
    email: Option<String>,
    #[serde(default)]
    email_verified: Verified,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// Some providers write the flag as text.
#[derive(Default, Deserialize)]
#[serde(untagged)]
enum Verified {
    #[default]
    Unsaid,
    Flag(bool),
    Text(String),
}

impl Keys {
    /// Whom `token` is about.
    ///
    /// # Errors
    /// [`IdTokenError`]; [`IdTokenError::UnknownKey`] may mean that the provider has newer keys than these.
    pub(crate) fn verify(&self, token: &str, expected: Expected<'_>) -> Result<Subject, IdTokenError> {
        if token.len() > MAX_TOKEN {
            return Err(IdTokenError::Form);
        }
        let mut parts = token.split('.');
        let (Some(head), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(IdTokenError::Form);
        };
        let header: Header = read(head)?;
        let signature = decoded(signature)?;
        let signed = &token[..head.len() + 1 + payload.len()];
        let mut candidates = self.candidates(header.kid.as_deref()).peekable();
        candidates.peek().ok_or(IdTokenError::UnknownKey)?;
        if !candidates.any(|key| key.signed(&header.alg, signed.as_bytes(), &signature)) {
            return Err(IdTokenError::Signature);
        }
        read::<Claims>(payload)?.check(expected)
    }

    /// The keys that a token may be signed with: the one that it names, or all when it names none.
    fn candidates(&self, kid: Option<&str>) -> impl Iterator<Item = Key> {
        let named = move |key: &&serde_json::Value| kid.is_none_or(|kid| key["kid"] == kid);
        let signs = |key: &&serde_json::Value| key["use"].as_str().is_none_or(|usage| usage == "sig");
        self.keys.iter().filter(named).filter(signs).filter_map(|key| Key::deserialize(key).ok())
    }
}

impl Key {
    fn signed(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> bool {
        let part = |text: &str| URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).unwrap_or_default();
        match self {
            Self::Rsa { n, e } if algorithm == "RS256" => {
                let (n, e) = (part(n), part(e));
                let key = RsaPublicKeyComponents { n: &n, e: &e };
                key.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature).is_ok()
            }
            Self::Ec { crv, x, y } if algorithm == "ES256" && crv == "P-256" => {
                let point = [vec![4], part(x), part(y)].concat();
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature).is_ok()
            }
            Self::Okp { crv, x } if algorithm == "EdDSA" && crv == "Ed25519" => {
                UnparsedPublicKey::new(&ED25519, part(x)).verify(message, signature).is_ok()
            }
            Self::Rsa { .. } | Self::Ec { .. } | Self::Okp { .. } => false,
        }
    }
}

impl Claims {
    fn check(self, expected: Expected<'_>) -> Result<Subject, IdTokenError> {
        let ours = |audience: &String| audience == expected.client_id;
        let for_us = match &self.aud {
            Audience::One(audience) => ours(audience),
            // Who shares a token with others must say that we asked for it.
            Audience::Many(audiences) => {
                audiences.iter().any(ours) && (audiences.len() == 1 || self.azp.as_ref().is_some_and(ours))
            }
        };
        let party = self.azp.as_ref().is_none_or(ours);
        let nonce = self.nonce.as_deref() == Some(expected.nonce);
        if self.iss != expected.issuer || !for_us || !party || !nonce {
            return Err(IdTokenError::Purpose);
        }
        let now = expected.now.0 / 1_000;
        if self.exp.saturating_add(LEEWAY_S) <= now || self.iat > now.saturating_add(LEEWAY_S) {
            return Err(IdTokenError::Time);
        }
        if self.sub.is_empty() || self.sub.len() > MAX_SUBJECT {
            return Err(IdTokenError::Form);
        }
        let verified = match self.email_verified {
            Verified::Flag(flag) => flag,
            Verified::Text(text) => text == "true",
            Verified::Unsaid => false,
        };
        let email = self.email.filter(|_| verified).and_then(|email| email.parse().ok());
        Ok(Subject { subject: self.sub, email: email.ok_or(IdTokenError::Email)? })
    }
}

fn decoded(part: &str) -> Result<Vec<u8>, IdTokenError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| IdTokenError::Form)
}

fn read<T: for<'de> Deserialize<'de>>(part: &str) -> Result<T, IdTokenError> {
    serde_json::from_slice(&decoded(part)?).map_err(|_| IdTokenError::Form)
}
