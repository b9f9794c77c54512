//! Where people come: to sign up, to prove their address, to log in and out, and to change what they log in with.
//!
//! Whoever has no session learns nothing about addresses: answers for known and unknown ones are the same, a password is hashed
//! or checked for either, and mail goes from an outbox. Tries are counted before they are made, and given back when they
//! succeed, so that no number of them at once exceeds a budget.

mod orders;
mod providers;
mod refusal;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use contract::account::{
    AccountRefusal, AskReset, ChangePassword, Done, LogOut, Me, MyAccount, PersonLogIn, PersonLoggedIn, Reset, SignUp,
    Verify, Where, WhoAmI,
};
use domain::{EmailAddress, Passphrase, SessionToken, UnixMillis};
use ring::{
    hmac,
    rand::{SecureRandom as _, SystemRandom},
};
use store::{Budget, Fresh, Guess, Networks, NewSession, People, Person, Sessions};

use crate::{
    Metrics,
    hashing::{HashError, Hasher},
    limits::Limits,
    metrics::PersonOutcome,
    postman,
    provider::Provider,
};
use refusal::{failed, internal};

/// How long things live that people are given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lifetimes {
    pub(crate) session: Duration,
    pub(crate) mail: Duration,
    pub(crate) reset: Duration,
    pub(crate) code: Duration,
}

/// What is needed to serve people.
pub(crate) struct Desk {
    pub(crate) people: Arc<dyn People>,
    /// Keeps the budgets of all roles.
    pub(crate) budgets: Arc<dyn Networks>,
    pub(crate) hasher: Hasher,
    pub(crate) key: Arc<hmac::Key>,
    pub(crate) limits: Limits,
    pub(crate) lifetimes: Lifetimes,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) random: SystemRandom,
    pub(crate) provider: Option<Provider>,
}

impl Desk {
    pub(crate) async fn sign_up(&self, call: SignUp) -> Result<Done, AccountRefusal> {
        let budgets = self.limits.mail(&self.key, &call.email, call.source);
        self.spend(&budgets).await?;
        let password = self.hash(call.password).await?;
        let fresh = self.fresh(self.lifetimes.mail)?;
        self.people.ask_sign_up(call.email, password, fresh, now()).await.map_err(|error| failed(&error))?;
        Ok(Done)
    }

    pub(crate) async fn verify(&self, call: Verify) -> Result<PersonLoggedIn, AccountRefusal> {
        let budgets = self.limits.token(call.source);
        let at = now();
        self.spend(&budgets).await?;
        let token = call.token.hash();
        let known = self.people.sign_up_password(token, at).await.map_err(|error| failed(&error))?;
        let exists = known.is_some();
        if !self.check(call.password, known).await? {
            return Err(if exists { AccountRefusal::Denied } else { AccountRefusal::Token });
        }
        let (session, opened) = self.session()?;
        let confirmed = self.people.confirm_sign_up(token, session, at).await.map_err(|error| failed(&error))?;
        confirmed.ok_or(AccountRefusal::Token)?;
        self.metrics.person(PersonOutcome::SignedUp);
        self.give_back(&budgets, at).await;
        Ok(opened)
    }

    pub(crate) async fn log_in(&self, call: PersonLogIn) -> Result<PersonLoggedIn, AccountRefusal> {
        let opened = self.admit(call).await;
        self.metrics.person(match &opened {
            Ok(_) => PersonOutcome::LoggedIn,
            Err(AccountRefusal::Denied) => PersonOutcome::Denied,
            Err(AccountRefusal::Limited { .. }) => PersonOutcome::Limited,
            Err(_) => PersonOutcome::Failed,
        });
        opened
    }

    async fn admit(&self, call: PersonLogIn) -> Result<PersonLoggedIn, AccountRefusal> {
        let at = now();
        let budgets = self.limits.password(&self.key, &call.email, call.source);
        self.spend(&budgets).await?;
        let known = self.people.credentials(&call.email).await.map_err(|error| failed(&error))?;
        let (person, password) = known.map(|known| (known.person, known.password)).unzip();
        let right = self.check(call.password, password.flatten()).await?;
        let person = person.filter(|_| right).ok_or(AccountRefusal::Denied)?;
        let (session, opened) = self.session()?;
        self.people.open_session(person, session, at).await.map_err(|error| failed(&error))?;
        self.give_back(&budgets, at).await;
        Ok(opened)
    }

    pub(crate) async fn log_out(&self, call: LogOut) -> Result<Done, AccountRefusal> {
        let which = match call.whence {
            Where::Here => Sessions::One(call.session.hash()),
            Where::Everywhere => Sessions::AllOf(self.person(call.session).await?.person),
        };
        let ended = self.people.end_sessions(which).await.map_err(|error| failed(&error))?;
        if ended == 0 { Err(AccountRefusal::NotLoggedIn) } else { Ok(Done) }
    }

    pub(crate) async fn who_am_i(&self, call: WhoAmI) -> Result<Me, AccountRefusal> {
        let person = self.person(call.session).await?;
        let accounts = person.accounts.into_iter().map(|belonging| MyAccount {
            account: belonging.account,
            role: belonging.role,
            plan: belonging.plan,
            suspended: belonging.suspended,
            owner: belonging.owner,
        });
        Ok(Me { person: person.person, email: person.email, accounts: accounts.collect() })
    }

    pub(crate) async fn change_password(&self, call: ChangePassword) -> Result<Done, AccountRefusal> {
        let person = self.person(call.session).await?;
        self.prove(&person.email, Some(call.old), call.source).await?;
        let password = self.hash(call.new).await?;
        let kept = call.session.hash();
        self.people.set_password(person.person, password, kept).await.map_err(|error| failed(&error))?;
        Ok(Done)
    }

    pub(crate) async fn ask_reset(&self, call: AskReset) -> Result<Done, AccountRefusal> {
        let budgets = self.limits.mail(&self.key, &call.email, call.source);
        self.spend(&budgets).await?;
        let fresh = self.fresh(self.lifetimes.reset)?;
        self.people.ask_reset(call.email, fresh, now()).await.map_err(|error| failed(&error))?;
        Ok(Done)
    }

    pub(crate) async fn reset(&self, call: Reset) -> Result<Done, AccountRefusal> {
        let budgets = self.limits.token(call.source);
        let at = now();
        self.spend(&budgets).await?;
        let password = self.hash(call.password).await?;
        let done = self.people.reset(call.token.hash(), password, at).await.map_err(|error| failed(&error))?;
        if !done {
            return Err(AccountRefusal::Token);
        }
        self.give_back(&budgets, at).await;
        Ok(Done)
    }

    /// Who has this session.
    async fn person(&self, session: SessionToken) -> Result<Person, AccountRefusal> {
        let person = self.people.person(session.hash(), now()).await.map_err(|error| failed(&error))?;
        person.ok_or(AccountRefusal::NotLoggedIn)
    }

    /// Asks a person for the password again; who logs in through a provider has none to give.
    async fn prove(
        &self,
        email: &EmailAddress,
        password: Option<Passphrase>,
        source: domain::SourcePrefix,
    ) -> Result<(), AccountRefusal> {
        let known = self.people.credentials(email).await.map_err(|error| failed(&error))?;
        let Some(known) = known.and_then(|known| known.password) else { return Ok(()) };
        let at = now();
        let budgets = self.limits.password(&self.key, email, source);
        self.spend(&budgets).await?;
        if !self.check(password.ok_or(AccountRefusal::Denied)?, Some(known)).await? {
            return Err(AccountRefusal::Denied);
        }
        self.give_back(&budgets, at).await;
        Ok(())
    }

    async fn spend(&self, budgets: &[Budget]) -> Result<(), AccountRefusal> {
        match self.budgets.guess(budgets, now()).await.map_err(|error| failed(&error))? {
            Guess::Allowed => Ok(()),
            Guess::Exhausted { retry_after } => Err(AccountRefusal::Limited { retry_after_ms: millis(retry_after) }),
        }
    }

    /// A success costs nothing. When storage fails it costs a try, which harms nobody.
    async fn give_back(&self, budgets: &[Budget], at: UnixMillis) {
        if let Err(error) = self.budgets.forgive(budgets, at).await {
            tracing::debug!(error = telemetry::incident::chain(&error), "a try was not given back");
        }
    }

    async fn hash(&self, password: Passphrase) -> Result<store::PasswordHash, AccountRefusal> {
        self.metrics.hashes.inc();
        self.hasher.hash(password).await.map_err(|error| self.unhashed(&error))
    }

    async fn check(&self, password: Passphrase, known: Option<store::PasswordHash>) -> Result<bool, AccountRefusal> {
        self.metrics.hashes.inc();
        self.hasher.verify(password, known).await.map_err(|error| self.unhashed(&error))
    }

    fn unhashed(&self, error: &HashError) -> AccountRefusal {
        match error {
            HashError::Full { retry_after } => {
                self.metrics.hashes_refused.inc();
                AccountRefusal::Busy { retry_after_ms: millis(*retry_after) }
            }
            HashError::Random | HashError::Broken(_) | HashError::Crashed => internal(error),
        }
    }

    /// A session to be, for the database and for its owner.
    fn session(&self) -> Result<(NewSession, PersonLoggedIn), AccountRefusal> {
        let session = SessionToken::from_bytes(self.random()?);
        let expires = now().plus(self.lifetimes.session);
        Ok((NewSession { token: session.hash(), expires }, PersonLoggedIn { session, expires }))
    }

    /// A token that is mailed.
    fn fresh(&self, lifetime: Duration) -> Result<Fresh, AccountRefusal> {
        let nonce = self.random()?;
        Ok(Fresh { token: postman::token(&self.key, &nonce).hash(), nonce, expires: now().plus(lifetime) })
    }

    fn random<const N: usize>(&self) -> Result<[u8; N], AccountRefusal> {
        let mut bytes = [0; N];
        self.random.fill(&mut bytes).map_err(|_| internal(&HashError::Random))?;
        Ok(bytes)
    }
}

fn now() -> UnixMillis {
    UnixMillis::from(SystemTime::now())
}

fn millis(wait: Duration) -> u32 {
    u32::try_from(wait.as_millis()).unwrap_or(u32::MAX)
}
