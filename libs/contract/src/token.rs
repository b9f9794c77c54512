//! Resumption tokens: short-lived JSON Web Tokens (RFC 7519) signed with Ed25519 (RFC 8037).
//!
//! Auth signs, gateways verify without asking anybody, so that a reconnect costs one signature check and no call. Claims
//! `iss`, `aud`, `sub`, `exp` and `iat` are all required (RFC 8725); a clock may be off by [`LEEWAY`]. No other algorithm is
//! known to this process: a header that names one is refused before its key is looked up. A token proves nothing by itself:
//! the client that shows it signs the connection with the identity key that the token names.

use std::{collections::BTreeMap, fmt, sync::Once, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use domain::{ClientId, IdentityKey, TunnelKey, UnixMillis};
use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, EncodingKey, Header, Validation,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    errors::{Error as JwtError, ErrorKind},
    jwk::JwkSet,
};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, VerificationAlgorithm as _};
use serde::{Deserialize, Serialize};
use signature::{Signer, Verifier};

/// How far clocks may differ.
pub const LEEWAY: Duration = Duration::from_secs(5);

/// The longest token that is looked at, in bytes.
pub const MAX_TOKEN: usize = 1024;

const ISSUER: &str = "buri-auth";
const AUDIENCE: &str = "buri-gateway";
const TYPE: &str = "buri-session+jwt";

/// What a valid token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    pub client: ClientId,
    pub identity: IdentityKey,
    pub tunnel: TunnelKey,
    /// When the token ends.
    pub expires: UnixMillis,
}

/// Why a token or key is of no use.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("not a token of this deployment")]
    Invalid(#[from] JwtError),
    #[error("the token has expired")]
    Expired,
    #[error("the token was signed with an unknown key")]
    UnknownKey,
    #[error("not a token for sessions")]
    Purpose,
    #[error("not an Ed25519 key in PKCS#8")]
    Key,
    #[error("not a set of keys")]
    KeySet(#[from] serde_json::Error),
}

/// A private key that signs tokens.
pub struct SigningKey {
    kid: String,
    private: EncodingKey,
    public: [u8; 32],
}

/// Public keys that tokens are verified with, by key id.
#[derive(Clone, Default)]
pub struct KeySet {
    keys: BTreeMap<String, DecodingKey>,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: ClientId,
    exp: u64,
    iat: u64,
    /// The identity key, base64url.
    idk: String,
    /// The tunnel key, base64url.
    tnk: String,
}

impl SigningKey {
    /// The key in `pkcs8` (RFC 5958), known by the name `kid`.
    ///
    /// # Errors
    /// [`TokenError::Key`] when it is none.
    pub fn from_pkcs8(kid: &str, pkcs8: &[u8]) -> Result<Self, TokenError> {
        install_provider();
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|_| TokenError::Key)?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| TokenError::Key)?;
        Ok(Self { kid: kid.to_owned(), private: EncodingKey::from_ed_der(pkcs8), public })
    }

    /// The name of the key.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// A token for `session`, issued at `now`.
    ///
    /// # Errors
    /// [`TokenError::Invalid`] when signing fails.
    pub fn sign(&self, session: &Session, now: UnixMillis) -> Result<String, TokenError> {
        let claims = Claims {
            iss: ISSUER.into(),
            aud: AUDIENCE.into(),
            sub: session.client,
            exp: session.expires.0 / 1_000,
            iat: now.0 / 1_000,
            idk: URL_SAFE_NO_PAD.encode(session.identity.as_bytes()),
            tnk: URL_SAFE_NO_PAD.encode(session.tunnel.as_bytes()),
        };
        let header = Header { typ: Some(TYPE.into()), kid: Some(self.kid.clone()), ..Header::new(Algorithm::EdDSA) };
        Ok(jsonwebtoken::encode(&header, &claims, &self.private)?)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// The JSON Web Key Set (RFC 7517) of the public halves of `keys`.
#[must_use]
pub fn jwks<'a>(keys: impl IntoIterator<Item = &'a SigningKey>) -> String {
    let keys: Vec<_> = keys
        .into_iter()
        .map(|key| {
            serde_json::json!({
                "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA",
                "kid": key.kid, "x": URL_SAFE_NO_PAD.encode(key.public),
            })
        })
        .collect();
    serde_json::json!({ "keys": keys }).to_string()
}

impl KeySet {
    /// The keys of a JSON Web Key Set. Keys of other kinds are left out.
    ///
    /// # Errors
    /// [`TokenError::KeySet`] when it is none.
    pub fn from_jwks(text: &str) -> Result<Self, TokenError> {
        install_provider();
        let set: JwkSet = serde_json::from_str(text)?;
        let keys = set.keys.iter().filter_map(|jwk| {
            let key = DecodingKey::from_jwk(jwk).ok().filter(|key| key.family() == AlgorithmFamily::Ed)?;
            Some((jwk.common.key_id.clone()?, key))
        });
        Ok(Self { keys: keys.collect() })
    }

    /// Whether a token names a key that is not in this set: the set may be old.
    #[must_use]
    pub fn lacks_key_of(&self, token: &str) -> bool {
        matches!(self.verify(token), Err(TokenError::UnknownKey))
    }

    /// What `token` says, if all of it holds now.
    ///
    /// # Errors
    /// [`TokenError`]: every claim must be there, of the right type, and true.
    pub fn verify(&self, token: &str) -> Result<Session, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::Invalid(ErrorKind::InvalidToken.into()));
        }
        let header = jsonwebtoken::decode_header(token)?;
        if header.alg != Algorithm::EdDSA {
            return Err(TokenError::Invalid(ErrorKind::InvalidAlgorithm.into()));
        }
        if header.typ.as_deref() != Some(TYPE) {
            return Err(TokenError::Purpose);
        }
        let key = header.kid.and_then(|kid| self.keys.get(&kid)).ok_or(TokenError::UnknownKey)?;
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.leeway = LEEWAY.as_secs();
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[AUDIENCE]);
        let claims = jsonwebtoken::decode::<Claims>(token, key, &validation)
            .map_err(|error| {
                let expired = matches!(error.kind(), ErrorKind::ExpiredSignature);
                if expired { TokenError::Expired } else { TokenError::Invalid(error) }
            })?
            .claims;
        Ok(Session {
            client: claims.sub,
            identity: IdentityKey::from_bytes(key_bytes(&claims.idk)?),
            tunnel: TunnelKey::from_bytes(key_bytes(&claims.tnk)?),
            expires: UnixMillis(claims.exp.saturating_mul(1_000)),
        })
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.keys.keys()).finish()
    }
}

fn key_bytes(text: &str) -> Result<[u8; 32], TokenError> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| TokenError::Invalid(ErrorKind::InvalidToken.into()))
}

/// Lets `jsonwebtoken` sign and verify with ring, and with nothing but Ed25519.
fn install_provider() {
    static PROVIDER: CryptoProvider = CryptoProvider {
        signer_factory: |algorithm, key| {
            if *algorithm != Algorithm::EdDSA || key.family() != AlgorithmFamily::Ed {
                return Err(ErrorKind::InvalidAlgorithm.into());
            }
            let pair = Ed25519KeyPair::from_pkcs8(key.as_bytes()).map_err(|_| ErrorKind::InvalidEddsaKey)?;
            Ok(Box::new(RingSigner(pair)))
        },
        verifier_factory: |algorithm, key| {
            if *algorithm != Algorithm::EdDSA || key.family() != AlgorithmFamily::Ed {
                return Err(ErrorKind::InvalidAlgorithm.into());
            }
            Ok(Box::new(RingVerifier(key.clone())))
        },
        key_utils: KeyUtils::new_unimplemented(),
    };
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        // Somebody else's provider stays: it was installed first, on purpose, and the tests show it speaks EdDSA.
        let _ = PROVIDER.install_default();
    });
}

struct RingSigner(Ed25519KeyPair);

impl Signer<Vec<u8>> for RingSigner {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, signature::Error> {
        Ok(self.0.sign(message).as_ref().to_vec())
    }
}

impl JwtSigner for RingSigner {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDSA
    }
}

struct RingVerifier(DecodingKey);

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let key = self.0.try_get_as_bytes().map_err(signature::Error::from_source)?;
        ED25519.verify(key.into(), message.into(), signature.as_slice().into()).map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDSA
    }
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;

    use super::*;

    fn key(kid: &str) -> SigningKey {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        SigningKey::from_pkcs8(kid, pkcs8.as_ref()).unwrap()
    }

    fn now() -> UnixMillis {
        UnixMillis(jsonwebtoken::get_current_timestamp() * 1_000)
    }

    fn session(lifetime: Duration) -> Session {
        let identity = IdentityKey::from_bytes([1; 32]);
        Session {
            client: ClientId::of(&identity),
            identity,
            tunnel: TunnelKey::from_bytes([2; 32]),
            expires: now().plus(lifetime),
        }
    }

    /// Signs arbitrary claims with an arbitrary header.
    fn forge(key: &SigningKey, header: &Header, claims: &serde_json::Value) -> String {
        jsonwebtoken::encode(header, claims, &key.private).unwrap()
    }

    fn claims() -> serde_json::Value {
        let session = session(Duration::from_secs(60));
        serde_json::json!({
            "iss": ISSUER, "aud": AUDIENCE, "sub": session.client, "exp": session.expires.0 / 1_000, "iat": now().0 / 1_000,
            "idk": URL_SAFE_NO_PAD.encode([1; 32]), "tnk": URL_SAFE_NO_PAD.encode([2; 32]),
        })
    }

    fn header(kid: &str) -> Header {
        Header { typ: Some(TYPE.into()), kid: Some(kid.into()), ..Header::new(Algorithm::EdDSA) }
    }

    #[test]
    fn a_token_says_what_was_signed() {
        let key = key("a");
        let keys = KeySet::from_jwks(&jwks([&key])).unwrap();
        let session = session(Duration::from_secs(60));
        assert_eq!(keys.verify(&key.sign(&session, now()).unwrap()).unwrap(), session);
    }

    #[test]
    fn two_keys_are_valid_while_they_rotate() {
        let (old, new) = (key("old"), key("new"));
        let keys = KeySet::from_jwks(&jwks([&old, &new])).unwrap();
        for key in [&old, &new] {
            assert!(keys.verify(&key.sign(&session(Duration::from_secs(60)), now()).unwrap()).is_ok());
        }
        let later = KeySet::from_jwks(&jwks([&new])).unwrap();
        let token = old.sign(&session(Duration::from_secs(60)), now()).unwrap();
        assert!(matches!(later.verify(&token), Err(TokenError::UnknownKey)));
        assert!(later.lacks_key_of(&token));
    }

    #[test]
    fn a_token_ends() {
        let key = key("a");
        let keys = KeySet::from_jwks(&jwks([&key])).unwrap();
        let mut ended = claims();
        ended["exp"] = (now().0 / 1_000 - LEEWAY.as_secs() - 1).into();
        assert!(matches!(keys.verify(&forge(&key, &header("a"), &ended)), Err(TokenError::Expired)));
    }

    #[test]
    fn every_claim_is_required_and_typed() {
        let key = key("a");
        let keys = KeySet::from_jwks(&jwks([&key])).unwrap();
        assert!(keys.verify(&forge(&key, &header("a"), &claims())).is_ok());
        for claim in ["iss", "aud", "sub", "exp", "iat", "idk", "tnk"] {
            let mut missing = claims();
            missing.as_object_mut().unwrap().remove(claim);
            assert!(keys.verify(&forge(&key, &header("a"), &missing)).is_err(), "without {claim}");
            for wrong in
                [serde_json::json!(null), serde_json::json!([]), serde_json::json!({"a": 1}), serde_json::json!(true)]
            {
                let mut typed = claims();
                typed[claim] = wrong.clone();
                assert!(keys.verify(&forge(&key, &header("a"), &typed)).is_err(), "{claim} = {wrong}");
            }
        }
        for (claim, wrong) in [("iss", "other"), ("aud", "buri-admin"), ("sub", "no id"), ("idk", "AA")] {
            let mut other = claims();
            other[claim] = wrong.into();
            assert!(keys.verify(&forge(&key, &header("a"), &other)).is_err(), "{claim} = {wrong}");
        }
    }

    #[test]
    fn another_key_algorithm_or_purpose_is_refused() {
        let (key, stranger) = (key("a"), key("a"));
        let keys = KeySet::from_jwks(&jwks([&key])).unwrap();
        assert!(matches!(keys.verify(&forge(&stranger, &header("a"), &claims())), Err(TokenError::Invalid(_))));

        let purpose = Header { typ: Some("JWT".into()), ..header("a") };
        assert!(matches!(keys.verify(&forge(&key, &purpose, &claims())), Err(TokenError::Purpose)));

        let payload = URL_SAFE_NO_PAD.encode(claims().to_string());
        for algorithm in ["HS256", "none", "RS256", "ES256"] {
            let head = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{algorithm}","typ":"{TYPE}","kid":"a"}}"#));
            let tag = URL_SAFE_NO_PAD.encode([0; 32]);
            assert!(keys.verify(&format!("{head}.{payload}.{tag}")).is_err(), "{algorithm}");
        }
    }

    #[test]
    fn hostile_texts_are_refused() {
        let keys = KeySet::from_jwks(&jwks([&key("a")])).unwrap();
        for text in ["", ".", "..", "a.b.c", "💥", &"a".repeat(MAX_TOKEN + 1)] {
            assert!(keys.verify(text).is_err());
        }
        assert!(KeySet::from_jwks("{}").is_err());
    }
}
