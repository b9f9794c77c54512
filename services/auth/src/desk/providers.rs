//! Logging in through a provider.

use std::time::Duration;

use contract::account::{AccountRefusal, FinishProvider, Offered, PersonLoggedIn, StartProvider, StartedProvider};
use domain::OneTimeToken;
use store::{ProviderError, Vouched};

use super::{
    Desk, now,
    refusal::{failed, internal},
};
use crate::{metrics::PersonOutcome, provider::VouchError};

/// How long somebody may take at the provider.
const FLOW: Duration = Duration::from_secs(600);

impl Desk {
    /// Which provider there is.
    pub(crate) fn offered(&self) -> Offered {
        Offered { issuer: self.provider.as_ref().map(|provider| provider.issuer().to_owned()) }
    }

    pub(crate) async fn start_provider(&self, call: StartProvider) -> Result<StartedProvider, AccountRefusal> {
        let provider = self.provider.as_ref().ok_or(AccountRefusal::NoProvider)?;
        let person = match call.session {
            Some(session) => Some(self.person(session).await?.person),
            None => None,
        };
        self.spend(&self.limits.token(call.source)).await?;
        let state = OneTimeToken::from_bytes(self.random()?);
        let url = provider.begin(&state).await.map_err(|error| unvouched(&error))?;
        let expires = now().plus(FLOW);
        self.people.start_provider(state.hash(), person, expires).await.map_err(|error| failed(&error))?;
        Ok(StartedProvider { url, state, expires })
    }

    pub(crate) async fn finish_provider(&self, call: FinishProvider) -> Result<PersonLoggedIn, AccountRefusal> {
        let provider = self.provider.as_ref().ok_or(AccountRefusal::NoProvider)?;
        self.spend(&self.limits.token(call.source)).await?;
        let subject = provider.finish(&call.state, &call.code, now()).await.map_err(|error| unvouched(&error))?;
        let who = Vouched { issuer: provider.issuer().to_owned(), subject: subject.subject, email: subject.email };
        let (session, opened) = self.session()?;
        let finished = self.people.finish_provider(call.state.hash(), who, session, now()).await;
        finished.map_err(|error| match error {
            ProviderError::Flow => AccountRefusal::Token,
            ProviderError::Connect => AccountRefusal::ConnectFirst,
            ProviderError::Taken => AccountRefusal::Taken,
            ProviderError::Store(error) => failed(&error),
        })?;
        self.metrics.person(PersonOutcome::LoggedIn);
        Ok(opened)
    }
}

fn unvouched(error: &VouchError) -> AccountRefusal {
    match error {
        VouchError::Code | VouchError::Token(_) => {
            tracing::info!(error = telemetry::incident::chain(error), "a provider vouched for nobody");
            AccountRefusal::Unvouched
        }
        VouchError::Fetch(_) | VouchError::Discovery => internal(error),
    }
}
