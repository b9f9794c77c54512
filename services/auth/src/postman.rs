//! Sends what stands in the outbox: mail that is due, oldest first, until the mailer has it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use domain::{OneTimeToken, UnixMillis};
use ring::hmac;
use store::{Mail, People};
use tokio_util::sync::CancellationToken;

use crate::{
    Metrics,
    mail::{self, Letter, Mailer, SendError},
    metrics::Post,
};

/// How long a process may take for one mail before another one tries.
const LEASE: Duration = Duration::from_secs(120);
/// Before the second try; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// A day of trying.
const TRIES: u32 = 32;
/// How often tokens and sessions that are over are forgotten.
const PRUNE: Duration = Duration::from_secs(600);

/// Mail and what it needs.
pub(crate) struct Postman {
    pub(crate) people: Arc<dyn People>,
    /// `None`: mail waits in the outbox until a process has one.
    pub(crate) mailer: Option<Mailer>,
    pub(crate) key: Arc<hmac::Key>,
    pub(crate) site: String,
    pub(crate) poll: Duration,
    pub(crate) metrics: Arc<Metrics>,
}

/// The token that a mail with this nonce carries. The key is not in the database: who reads that cannot use any mail in it.
pub(crate) fn token(key: &hmac::Key, nonce: &[u8; 16]) -> OneTimeToken {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(hmac::sign(key, nonce).as_ref());
    OneTimeToken::from_bytes(bytes)
}

impl Postman {
    /// Works until `shutdown`.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut poll = tokio::time::interval(self.poll);
        let mut prune = tokio::time::interval(PRUNE);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = prune.tick() => {
                    if let Err(error) = self.people.prune_people(now()).await {
                        tracing::warn!(error = telemetry::incident::chain(&error), "old tokens could not be forgotten");
                    }
                }
                _ = poll.tick() => self.deliver(&shutdown).await,
            }
        }
    }

    /// Sends everything that is due.
    async fn deliver(&self, shutdown: &CancellationToken) {
        let Some(mailer) = &self.mailer else { return };
        while !shutdown.is_cancelled() {
            match self.people.take_mail(LEASE, now()).await {
                Ok(Some(mail)) => self.send(mailer, mail).await,
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(error = telemetry::incident::chain(&error), "the outbox of mails cannot be read");
                    return;
                }
            }
        }
    }

    async fn send(&self, mailer: &Mailer, mail: Mail) {
        let (subject, text) = mail::compose(mail.kind, &self.site, &token(&self.key, &mail.nonce));
        let letter = Letter { id: mail.id, to: mail.recipient, subject: subject.to_owned(), text };
        let kept = match mailer.send(&letter).await {
            Ok(()) => {
                self.metrics.post(Post::Sent);
                self.people.forget_mail(mail.id).await
            }
            Err(error) if mail.tries >= TRIES || matches!(error, SendError::Refused(_) | SendError::Form) => {
                self.metrics.post(Post::GivenUp);
                tracing::warn!(error = telemetry::incident::chain(&error), tries = mail.tries, "a mail is given up");
                self.people.forget_mail(mail.id).await
            }
            Err(error) => {
                self.metrics.post(Post::Postponed);
                tracing::info!(error = telemetry::incident::chain(&error), tries = mail.tries, "a mail has to wait");
                self.people.postpone_mail(mail.id, now().plus(pause(mail.tries))).await
            }
        };
        if let Err(error) = kept {
            tracing::warn!(error = telemetry::incident::chain(&error), "what became of a mail could not be noted");
        }
    }
}

/// Before the try after `tries`.
fn pause(tries: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(LONGEST_PAUSE)
}

fn now() -> UnixMillis {
    UnixMillis::from(SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_an_hour() {
        let seconds: Vec<_> = [1, 2, 3, 9, 10, u32::MAX].into_iter().map(|tries| pause(tries).as_secs()).collect();
        assert_eq!(seconds, [10, 20, 40, 2_560, 3_600, 3_600]);
    }

    #[test]
    fn the_token_of_a_mail_follows_from_key_and_nonce() {
        let key = |byte| hmac::Key::new(hmac::HMAC_SHA256, &[byte; 32]);
        assert_eq!(token(&key(1), &[1; 16]), token(&key(1), &[1; 16]));
        assert_ne!(token(&key(1), &[1; 16]), token(&key(2), &[1; 16]));
        assert_ne!(token(&key(1), &[1; 16]), token(&key(1), &[2; 16]));
    }
}
