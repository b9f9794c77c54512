//! How often people may try, counted in the database for all processes together.

use std::time::Duration;

use domain::{ClientId, EmailAddress, SourcePrefix};
use ring::hmac;
use serde::{Deserialize, Serialize};
use store::{Budget, BudgetKind};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Attempts in their windows. What succeeds does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Wrong passwords a day for one e-mail address (NIST SP 800-63B allows 100).
    pub passwords_per_address: u32,
    /// Wrong passwords an hour from one source prefix (IPv4 /32, IPv6 /56).
    pub passwords_per_source: u32,
    /// Mails an hour to one address.
    pub mails_per_address: u32,
    /// Mails an hour that one source prefix asks for.
    pub mails_per_source: u32,
    /// Codes an hour that one client shows.
    pub codes_per_client: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            passwords_per_address: 100,
            passwords_per_source: 60,
            mails_per_address: 6,
            mails_per_source: 60,
            codes_per_client: 20,
        }
    }
}

impl Limits {
    /// What one password tried for an address costs.
    pub(crate) fn password(&self, key: &hmac::Key, email: &EmailAddress, source: SourcePrefix) -> [Budget; 2] {
        [
            budget(BudgetKind::Person, of_address(key, email), self.passwords_per_address, DAY),
            budget(BudgetKind::PersonSource, of_source(source), self.passwords_per_source, HOUR),
        ]
    }

    /// What a guess at a token costs, which says nothing about an address.
    pub(crate) fn token(&self, source: SourcePrefix) -> [Budget; 1] {
        [budget(BudgetKind::PersonSource, of_source(source), self.passwords_per_source, HOUR)]
    }

    /// What one mail costs whoever asks for it.
    pub(crate) fn mail(&self, key: &hmac::Key, email: &EmailAddress, source: SourcePrefix) -> [Budget; 2] {
        [
            budget(BudgetKind::Mail, of_address(key, email), self.mails_per_address, HOUR),
            budget(BudgetKind::MailSource, of_source(source), self.mails_per_source, HOUR),
        ]
    }

    /// What a mail costs somebody who is logged in.
    pub(crate) fn invitation(&self, key: &hmac::Key, email: &EmailAddress) -> [Budget; 1] {
        [budget(BudgetKind::Mail, of_address(key, email), self.mails_per_address, HOUR)]
    }

    /// What one code costs the client that shows it.
    pub(crate) fn code(&self, client: ClientId) -> [Budget; 1] {
        [budget(BudgetKind::Attach, *client.as_bytes(), self.codes_per_client, HOUR)]
    }
}

fn budget(kind: BudgetKind, key: [u8; 16], limit: u32, window: Duration) -> Budget {
    Budget { kind, key, limit, window }
}

/// Keyed, so that the table of budgets does not say whose address it is.
fn of_address(key: &hmac::Key, email: &EmailAddress) -> [u8; 16] {
    let mut context = hmac::Context::with_key(key);
    context.update(b"buri budget of an address v1");
    context.update(email.as_str().as_bytes());
    let mut half = [0; 16];
    half.copy_from_slice(&context.sign().as_ref()[..16]);
    half
}

fn of_source(source: SourcePrefix) -> [u8; 16] {
    u128::from(source.bits()).to_be_bytes()
}
