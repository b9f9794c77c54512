//! Webhooks: programs of others that are told what happens (`deliver`), and how they know that it is us.
//!
//! # What is promised
//! - **Order.** One webhook is told one event after the other, in the order of the log, by one process at a time (a lease in its
//!   row). An event that is not taken holds up those after it until it is taken or given up.
//! - **At least once.** What is not taken is tried again, each time after a longer pause; what was tried too often is given up,
//!   kept, and sent again when an operator wants it. A process that dies between an answer and the note of it leads to a second
//!   delivery with the same `webhook-id`. Nothing that stands in the log is lost, unless it is forgotten there first: then the
//!   webhook counts it as missed.
//! - **Bounds.** Some webhooks at a time at each process, one request each, its answer read up to the status. Nothing waits in
//!   memory: what is to be told stands in the log.
//! - **Signatures** as the Standard Webhooks do it: HMAC-SHA256 over id, time and body, in `webhook-id`, `webhook-timestamp` and
//!   `webhook-signature`. After a change of the secret there are two signatures for a while, one with each.
//! - **Secrets** are derived from a key in a file and a nonce in the row: the database alone signs nothing, and nothing has to
//!   be opened to sign.
//! - **Receivers** are on the public Internet, unless the configuration says that private ones are wanted: see
//!   [`outbound::Whom`].

pub(crate) mod deliver;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use domain::{EventId, UnixMillis, WebhookId};
use outbound::{FetchError, Whom};
use ring::hmac;
use serde::{Deserialize, Serialize};
use store::Webhook;
use url::{Host, Url};

/// How webhooks are told.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebhooksConfig {
    /// What secrets of webhooks are derived from (32 bytes). Empty: `webhooks.key` among the secrets.
    pub key: PathBuf,
    /// Receivers may be on this machine and in private networks. Whoever makes webhooks then reaches what this machine does.
    pub private: bool,
    /// Webhooks that one process tells at a time.
    pub parallel: usize,
    /// How long a receiver may take to answer.
    #[serde(with = "domain::human_duration")]
    pub timeout: Duration,
    /// Before the second try; doubled for each further one, up to the longest.
    #[serde(with = "domain::human_duration")]
    pub first_pause: Duration,
    #[serde(with = "domain::human_duration")]
    pub longest_pause: Duration,
    /// Tries of one event before it is given up.
    pub tries: u32,
    /// A webhook that takes nothing for this long is not told anything until an operator wants it.
    #[serde(with = "domain::human_duration")]
    pub patience: Duration,
    /// For how long the secret before a new one counts, too.
    #[serde(with = "domain::human_duration")]
    pub rotation: Duration,
    /// How often due ones are looked for.
    #[serde(with = "domain::human_duration")]
    pub poll: Duration,
}

impl Default for WebhooksConfig {
    fn default() -> Self {
        Self {
            key: PathBuf::new(),
            private: false,
            parallel: 8,
            timeout: Duration::from_secs(10),
            first_pause: Duration::from_secs(2),
            longest_pause: Duration::from_secs(300),
            tries: 10,
            patience: Duration::from_secs(24 * 3600),
            rotation: Duration::from_secs(24 * 3600),
            poll: Duration::from_secs(1),
        }
    }
}

/// The key cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot read {path}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path} is no key: 32 bytes expected")]
    Size { path: PathBuf },
}

/// What secrets are derived from.
#[derive(Clone, Debug)]
pub(crate) struct SecretKey(hmac::Key);

/// What receivers know us by.
pub(crate) struct Secret([u8; 32]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What secrets begin with, so that people and scanners recognise them.
const PREFIX: &str = "whsec_";

impl SecretKey {
    pub(crate) fn read(path: &Path) -> Result<Self, KeyError> {
        let bytes = fs::read(path).map_err(|source| KeyError::Io { path: path.to_owned(), source })?;
        let key: [u8; 32] = bytes.try_into().map_err(|_| KeyError::Size { path: path.to_owned() })?;
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &key)))
    }

    pub(crate) fn secret(&self, webhook: WebhookId, nonce: &[u8; 16]) -> Secret {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(b"buri webhook secret v1");
        context.update(webhook.as_bytes());
        context.update(nonce);
        let mut secret = [0; 32];
        secret.copy_from_slice(context.sign().as_ref());
        Secret(secret)
    }

    /// The value of `webhook-signature`: one for each secret that counts.
    pub(crate) fn signatures(&self, webhook: &Webhook, event: EventId, at: UnixMillis, body: &str) -> String {
        let old = webhook.old_nonce.filter(|(_, until)| *until > at).map(|(nonce, _)| nonce);
        let sign = |nonce| self.secret(webhook.id, &nonce).signature(event, at, body);
        [webhook.nonce].into_iter().chain(old).map(sign).collect::<Vec<_>>().join(" ")
    }
}

impl Secret {
    /// As it is shown, once.
    pub(crate) fn reveal(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(self.0))
    }

    fn signature(&self, event: EventId, at: UnixMillis, body: &str) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        let signed = hmac::sign(&key, format!("{event}.{}.{body}", at.0 / 1_000).as_bytes());
        format!("v1,{}", STANDARD.encode(signed.as_ref()))
    }
}

/// The longest URL of a receiver, in bytes.
pub(crate) const MAX_URL: usize = 2_000;

/// Says what is wrong with the URL of a receiver. What a name leads to is looked at when it is told something.
pub(crate) fn check_url(text: &str, whom: Whom) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "url: an http or https URL expected")?;
    if text.len() > MAX_URL || !matches!(url.scheme(), "http" | "https") {
        return Err("url: an http or https URL of at most 2000 bytes expected");
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err("url: no user, password or fragment expected");
    }
    let public = match url.host() {
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            name != "localhost" && !name.ends_with(".localhost")
        }
        Some(Host::Ipv4(address)) => outbound::is_public(address.into()),
        Some(Host::Ipv6(address)) => outbound::is_public(address.into()),
        None => return Err("url: a host expected"),
    };
    if public || whom == Whom::Anybody {
        return Ok(url);
    }
    Err("url: this machine and private networks are only told with the setting admin.webhooks.private")
}

/// Before the try after `tries`: doubled each time, and spread by up to a quarter so that many do not come at once. `drawn` is
/// random.
pub(crate) fn pause(config: &WebhooksConfig, tries: u32, drawn: u64) -> Duration {
    let whole = config.first_pause.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(config.longest_pause);
    whole - whole.mul_f64((drawn % 1_000) as f64 / 4_000.0)
}

/// Why a receiver took nothing, in a word for programs.
pub(crate) fn reason(error: &FetchError) -> &'static str {
    match error {
        FetchError::Address => "not-asked",
        FetchError::Unknown(_) => "no-such-name",
        FetchError::Private => "private-address",
        FetchError::Connect(_) => "no-connection",
        FetchError::Tls(_) => "no-trusted-tls",
        FetchError::Io(_) => "broke-off",
        FetchError::TimedOut => "timed-out",
        FetchError::Malformed => "no-http",
        FetchError::Status(status) => reason_of(*status),
    }
}

/// Why an answer with this status is not that it was taken.
pub(crate) const fn reason_of(status: u16) -> &'static str {
    match status {
        300..=399 => "redirects",
        400..=499 => "refused",
        _ => "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_spread() {
        let config = WebhooksConfig::default();
        let seconds = |tries| pause(&config, tries, 0).as_secs();
        assert_eq!([1, 2, 3, 8, 9, 99].map(seconds), [2, 4, 8, 256, 300, 300]);
        assert_eq!(pause(&config, 1, 999), Duration::from_secs(2) - Duration::from_secs(2).mul_f64(0.249_75));
    }

    #[test]
    fn a_signature_never_changes() {
        let secret = Secret([7; 32]);
        let event = EventId::from_bytes([1; 16]);
        let signature = secret.signature(event, UnixMillis(1_614_265_330_999), "{\"test\": 1}");
        let key = hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]);
        let signed = format!("{}.1614265330.{{\"test\": 1}}", "01".repeat(16));
        assert_eq!(signature, format!("v1,{}", STANDARD.encode(hmac::sign(&key, signed.as_bytes()))));
        assert_eq!(secret.reveal(), "whsec_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=");
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }

    #[test]
    fn every_webhook_and_nonce_has_a_secret_of_its_own() {
        let key = SecretKey(hmac::Key::new(hmac::HMAC_SHA256, &[1; 32]));
        let of = |id, nonce| key.secret(WebhookId::from_bytes([id; 16]), &[nonce; 16]).reveal();
        assert_eq!(of(1, 1), of(1, 1));
        assert!(of(1, 1) != of(1, 2) && of(1, 1) != of(2, 1));
    }

    #[test]
    fn receivers_are_public_unless_others_are_wanted() {
        for good in ["https://example.test/hook?a=b", "http://203.0.113.7:8080/", "https://[2001:db8::1]/"] {
            assert!(check_url(good, Whom::Public).is_ok(), "{good}");
        }
        for private in [
            "http://127.0.0.1/",
            "http://localhost:80/",
            "http://a.localhost/",
            "http://localhost./",
            "https://[::1]/",
            "http://10.0.0.1/",
            "http://0x7f.1/",
        ] {
            assert!(
                check_url(private, Whom::Public).is_err() && check_url(private, Whom::Anybody).is_ok(),
                "{private}"
            );
        }
        let long = format!("https://example.test/{}", "x".repeat(MAX_URL - 21));
        assert!(check_url(&long, Whom::Public).is_ok() && check_url(&format!("{long}x"), Whom::Public).is_err());
        for bad in [
            "",
            "example.test",
            "ftp://example.test/",
            "file:///etc/passwd",
            "https://u:p@example.test/",
            "https://u@example.test/",
            "https://example.test/#x",
            "javascript:alert(1)",
        ] {
            assert!(check_url(bad, Whom::Anybody).is_err(), "{bad}");
        }
    }
}
