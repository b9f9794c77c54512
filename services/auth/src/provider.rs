//! One OpenID provider (OpenID Connect Core 1.0, authorisation code flow with PKCE, RFC 7636).
//!
//! A log-in at the provider is one flow: a random state, known to one browser by a cookie and here by its hash; nonce and PKCE
//! verifier are derived from it and a key that is not in the database, so that nothing else has to be kept. What the provider
//! says about itself is read again every hour, and at once when a token names a key that is not known, once a minute at most.
//! Rejected: the crate `openidconnect`, which brings `rsa`.

use std::{path::Path, sync::Arc, time::Duration};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use domain::{OneTimeToken, UnixMillis};
use outbound::{FetchError, Fetcher, Request, Whom, is_here};
use ring::{digest, hmac};
use serde::Deserialize;
use tokio::{sync::Mutex, time::Instant};
use url::{Url, form_urlencoded};

use crate::id_token::{Expected, IdTokenError, Keys, Subject};

/// For one question, from the look-up of the name to the last byte of the answer.
const DEADLINE: Duration = Duration::from_secs(8);

/// How long what a provider says about itself is believed.
const FRESH: Duration = Duration::from_secs(3600);
/// Between two looks for newer keys.
const AGAIN: Duration = Duration::from_secs(60);

/// Why the provider cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProviderConfigError {
    #[error("the issuer is no https URL, or http URL of this machine")]
    Issuer,
    #[error("the address that the provider sends people back to is no URL")]
    Redirect,
    #[error("the client's secret cannot be read")]
    Secret(#[source] std::io::Error),
    #[error("TLS cannot be used")]
    Tls(#[from] rustls::Error),
}

/// Why somebody was not vouched for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VouchError {
    #[error("the provider does not answer as it should")]
    Fetch(#[from] FetchError),
    #[error("the provider says about itself what cannot be used")]
    Discovery,
    #[error("the provider does not take the code")]
    Code,
    #[error("the ID token proves nothing")]
    Token(#[from] IdTokenError),
}

/// The provider that is configured.
pub(crate) struct Provider {
    issuer: String,
    client_id: String,
    secret: Option<String>,
    redirect: Url,
    key: Arc<hmac::Key>,
    fetcher: Fetcher,
    known: Mutex<Option<Known>>,
}

/// What the provider says about itself.
#[derive(Clone)]
struct Known {
    at: Instant,
    authorization: Url,
    token: Url,
    keys: Arc<Keys>,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct Tokens {
    id_token: String,
}

impl Provider {
    pub(crate) fn new(
        issuer: &str,
        client_id: &str,
        secret_file: &Path,
        redirect: &str,
        key: Arc<hmac::Key>,
    ) -> Result<Self, ProviderConfigError> {
        let parsed = Url::parse(issuer).map_err(|_| ProviderConfigError::Issuer)?;
        if !may_ask(&parsed) {
            return Err(ProviderConfigError::Issuer);
        }
        let secret = if secret_file.as_os_str().is_empty() {
            None
        } else {
            let text = std::fs::read_to_string(secret_file).map_err(ProviderConfigError::Secret)?;
            Some(text.trim().to_owned())
        };
        Ok(Self {
            issuer: issuer.to_owned(),
            client_id: client_id.to_owned(),
            secret,
            redirect: Url::parse(redirect).map_err(|_| ProviderConfigError::Redirect)?,
            key,
            fetcher: Fetcher::new()?,
            known: Mutex::new(None),
        })
    }

    pub(crate) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Where a browser goes to log in at the provider.
    pub(crate) async fn begin(&self, state: &OneTimeToken) -> Result<String, VouchError> {
        let mut url = self.known(FRESH).await?.authorization;
        let challenge = digest::digest(&digest::SHA256, self.derived("pkce", state).as_bytes());
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("scope", "openid email")
            .append_pair("client_id", &self.client_id)
            .append_pair("redirect_uri", self.redirect.as_str())
            .append_pair("state", &state.reveal())
            .append_pair("nonce", &self.derived("nonce", state))
            .append_pair("code_challenge", &URL_SAFE_NO_PAD.encode(challenge.as_ref()))
            .append_pair("code_challenge_method", "S256");
        Ok(url.into())
    }

    /// Whom the provider vouches for with this code.
    pub(crate) async fn finish(
        &self,
        state: &OneTimeToken,
        code: &str,
        now: UnixMillis,
    ) -> Result<Subject, VouchError> {
        let known = self.known(FRESH).await?;
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "authorization_code")
            .append_pair("code", code)
            .append_pair("redirect_uri", self.redirect.as_str())
            .append_pair("client_id", &self.client_id)
            .append_pair("code_verifier", &self.derived("pkce", state))
            .finish();
        let authorization = self.secret.as_deref().map(|secret| basic(&self.client_id, secret));
        let answer = self.ask(&known.token, Some(&form), authorization.as_deref()).await;
        let answer = answer.map_err(|error| {
            let refused = matches!(error, FetchError::Status(400..=499));
            if refused { VouchError::Code } else { VouchError::Fetch(error) }
        })?;
        let tokens: Tokens = serde_json::from_slice(&answer).map_err(|_| VouchError::Code)?;
        let nonce = self.derived("nonce", state);
        let expected = Expected { issuer: &self.issuer, client_id: &self.client_id, nonce: &nonce, now };
        match known.keys.verify(&tokens.id_token, expected) {
            Err(IdTokenError::UnknownKey) => Ok(self.known(AGAIN).await?.keys.verify(&tokens.id_token, expected)?),
            verified => Ok(verified?),
        }
    }

    /// What the provider says about itself, no older than `most`.
    async fn known(&self, most: Duration) -> Result<Known, VouchError> {
        let mut known = self.known.lock().await;
        if let Some(known) = known.as_ref().filter(|known| known.at.elapsed() < most) {
            return Ok(known.clone());
        }
        let text = format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'));
        let url = Url::parse(&text).map_err(|_| VouchError::Discovery)?;
        let found = self.ask(&url, None, None).await?;
        let found: Discovery = serde_json::from_slice(&found).map_err(|_| VouchError::Discovery)?;
        let place = |text: &str| Url::parse(text).ok().filter(may_ask).ok_or(VouchError::Discovery);
        if found.issuer != self.issuer {
            return Err(VouchError::Discovery);
        }
        let keys = self.ask(&place(&found.jwks_uri)?, None, None).await?;
        let fresh = Known {
            at: Instant::now(),
            authorization: place(&found.authorization_endpoint)?,
            token: place(&found.token_endpoint)?,
            keys: Arc::new(serde_json::from_slice(&keys).map_err(|_| VouchError::Discovery)?),
        };
        *known = Some(fresh.clone());
        Ok(fresh)
    }

    /// The answer to a question, or to a form.
    async fn ask(&self, url: &Url, form: Option<&str>, authorization: Option<&str>) -> Result<Vec<u8>, FetchError> {
        let headers: Vec<_> = authorization.map(|value| ("Authorization", value)).into_iter().collect();
        let body = form.map(|form| ("application/x-www-form-urlencoded", form));
        let request = Request { url, whom: Whom::Chosen, deadline: DEADLINE, headers: &headers, body };
        self.fetcher.body(&request).await
    }

    /// 43 characters that follow from the flow and our key.
    fn derived(&self, what: &str, state: &OneTimeToken) -> String {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(b"buri provider v1 ");
        context.update(what.as_bytes());
        context.update(state.reveal().as_bytes());
        URL_SAFE_NO_PAD.encode(context.sign().as_ref())
    }
}

fn may_ask(url: &Url) -> bool {
    url.scheme() == "https" || (url.scheme() == "http" && url.host().is_some_and(|host| is_here(&host)))
}

/// `client_secret_basic` (RFC 6749, section 2.3.1): both parts are encoded as in a form.
fn basic(user: &str, password: &str) -> String {
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    format!("Basic {}", STANDARD.encode(format!("{}:{}", encoded(user), encoded(password))))
}
