//! Becoming a member, and ceasing to be one.

use contract::network::{
    Admission, CreateFinish, CreateStart, CreateStarted, JoinFinish, JoinStart, JoinStarted, Joined, Leave, Redeem,
    Refusal, SetNick,
};
use domain::{ClientId, NetworkChange, NetworkId, Revision, UnixMillis};
use store::{Budget, CreateError, Guess, JoinError, LeaveError, NewNetwork};

use crate::{Outcome, Role, announce::Word, internal, limits::NameKey, now, password::PasswordError, pending::Pending};

/// The network secret is 32 bytes; sealed it is a little longer.
pub(crate) const MAX_WRAPPED_SECRET_BYTES: usize = 256;

impl Role {
    pub(crate) async fn create_start(&self, call: CreateStart) -> Result<CreateStarted, Refusal> {
        let result = self.start_creation(call).await;
        self.seams.metrics.creation(Outcome::of(&result));
        result
    }

    pub(crate) async fn create_finish(&self, call: CreateFinish) -> Result<Joined, Refusal> {
        let result = self.finish_creation(call).await;
        self.seams.metrics.creation(Outcome::of(&result));
        result
    }

    pub(crate) async fn join_start(&self, call: JoinStart) -> Result<JoinStarted, Refusal> {
        let result = self.start_join(call).await;
        self.seams.metrics.join(Outcome::of(&result));
        result
    }

    pub(crate) async fn join_finish(&self, call: JoinFinish) -> Result<Admission, Refusal> {
        let result = self.finish_join(call).await;
        self.seams.metrics.join(Outcome::of(&result));
        result
    }

    pub(crate) async fn redeem(&self, call: Redeem) -> Result<Joined, Refusal> {
        let result = self.redeem_invite(call).await;
        self.seams.metrics.join(Outcome::of(&result));
        result
    }

    pub(crate) async fn leave(&self, Leave { client, network }: Leave) -> Result<(), Refusal> {
        let left = self.seams.networks.leave(network, client, now()).await.map_err(|error| match error {
            LeaveError::NotAMember => Refusal::NotAMember,
            LeaveError::Store(error) => internal(&error),
        })?;
        if let Some(announcement) = left {
            self.announcer.tell(Word::Change { announcement, except: Some(client) });
        }
        Ok(())
    }

    pub(crate) async fn set_nick(&self, SetNick { client, nick }: SetNick) -> Result<(), Refusal> {
        let at = now();
        self.spend(&self.limits.rename(client), at, rate_limited).await?;
        let told = self.seams.networks.set_nick(client, nick, at).await.map_err(|error| internal(&error))?;
        for announcement in told {
            self.announcer.tell(Word::Change { announcement, except: None });
        }
        Ok(())
    }

    async fn start_creation(&self, call: CreateStart) -> Result<CreateStarted, Refusal> {
        self.spend(&self.limits.creation(call.client, call.source), now(), rate_limited).await?;
        if !self.seams.networks.is_free(&call.name).await.map_err(|error| internal(&error))? {
            return Err(Refusal::NameTaken);
        }
        let timer = self.seams.metrics.password_seconds.start_timer();
        let response = self.passwords.register(call.name.key(), call.request).await.map_err(refused)?;
        timer.observe_duration();
        Ok(CreateStarted { response })
    }

    async fn finish_creation(&self, call: CreateFinish) -> Result<Joined, Refusal> {
        if call.wrapped_secret.is_empty() || call.wrapped_secret.len() > MAX_WRAPPED_SECRET_BYTES {
            return Err(Refusal::Malformed);
        }
        let password = self.passwords.record(call.record).await.map_err(refused)?;
        let new = NewNetwork { name: call.name, owner: call.client, password, wrapped_secret: call.wrapped_secret };
        let created = self.seams.networks.create(new, now()).await.map_err(|error| match error {
            CreateError::NameTaken => Refusal::NameTaken,
            CreateError::PlanLimit { .. } => Refusal::PlanLimit,
            CreateError::Store(error) => internal(&error),
        })?;
        Ok(self.welcomed(call.client, created).await)
    }

    async fn start_join(&self, call: JoinStart) -> Result<JoinStarted, Refusal> {
        let (taken, name_key) = (now(), NameKey::of(&call.name));
        let budgets = self.limits.guess(name_key, call.client, call.source);
        let asked = self.seams.networks.guess_password(&call.name, &budgets, taken).await;
        let (guess, record) = asked.map_err(|error| internal(&error))?;
        allowed(guess, |retry_after_ms| Refusal::GuessLimit { retry_after_ms })?;
        let (network, credential, record) = match record {
            Some(record) => (record.network, record.credential, Some(record.password)),
            None => (NetworkId::from_bytes(rand::random()), call.name.key(), None),
        };
        let timer = self.seams.metrics.password_seconds.start_timer();
        let challenge = self.passwords.challenge(credential, call.request, record).await.map_err(refused)?;
        timer.observe_duration();
        let pending = Pending {
            client: call.client,
            network,
            name_key: name_key.0,
            source: call.source,
            taken,
            request: rand::random(),
            state: challenge.state,
        };
        Ok(JoinStarted { response: challenge.response, pending: self.passwords.sealer.seal(&pending) })
    }

    async fn finish_join(&self, call: JoinFinish) -> Result<Admission, Refusal> {
        let at = now();
        let pending = self.passwords.sealer.open(call.pending, call.client, at).ok_or(Refusal::Malformed)?;
        let timer = self.seams.metrics.password_seconds.start_timer();
        self.passwords.verify(pending.state.clone(), call.finalization).await.map_err(refused)?;
        timer.observe_duration();
        let Pending { network, request, taken, .. } = pending;
        let spent = self.limits.guess(pending.name_key(), pending.client, pending.source);
        let admission = self.seams.networks.join_by_password(network, call.client, request, &spent, taken, at).await;
        // The password was right. When this fails, there is one attempt less until the window ends.
        if admission.is_err()
            && let Err(error) = self.seams.networks.forgive(&spent, taken).await
        {
            tracing::warn!(%error, "an attempt with the right password stays counted");
        }
        match admission.map_err(unwelcome)? {
            store::Admission::Joined(joined) => {
                Ok(Admission::Joined(Box::new(self.welcomed(call.client, *joined).await)))
            }
            store::Admission::Awaiting { name, announcement } => {
                self.announcer.tell(Word::Change { announcement, except: None });
                Ok(Admission::Awaiting(pending.network, name))
            }
        }
    }

    async fn redeem_invite(&self, call: Redeem) -> Result<Joined, Refusal> {
        let at = now();
        let budgets = self.limits.invite(call.client, call.source);
        self.spend(&budgets, at, |retry_after_ms| Refusal::GuessLimit { retry_after_ms }).await?;
        let joined = self.seams.networks.redeem(call.token.id(), call.client, call.request, at).await;
        if !matches!(joined, Err(JoinError::InviteUnknown))
            && let Err(error) = self.seams.networks.forgive(&budgets, at).await
        {
            tracing::warn!(%error, "an attempt with a good invite stays counted");
        }
        Ok(self.welcomed(call.client, joined.map_err(unwelcome)?).await)
    }

    /// Takes an attempt out of `budgets`.
    pub(crate) async fn spend(
        &self,
        budgets: &[Budget],
        at: UnixMillis,
        refusal: impl FnOnce(u32) -> Refusal,
    ) -> Result<(), Refusal> {
        allowed(self.seams.networks.guess(budgets, at).await.map_err(|error| internal(&error))?, refusal)
    }

    /// Has the other members told, and pairs made with those who are online.
    async fn welcomed(&self, client: ClientId, joined: store::Joined) -> Joined {
        let store::Joined { addresses, wrapped_secret, whole, announcement } = joined;
        if addresses.v4.is_none() {
            self.seams.metrics.pool_exhausted.inc();
        }
        let others: Vec<_> = announcement.to.iter().copied().filter(|&member| member != client).collect();
        // A repeated call has nobody to tell, and must not pass for an announcement.
        if !announcement.to.is_empty() {
            self.announcer.tell(Word::Change { announcement, except: Some(client) });
        }
        if !others.is_empty() {
            self.announcer.tell(Word::Met { client, others });
        }
        let change = self.with_presence(NetworkChange { since: Revision::ZERO, ..whole }).await;
        Joined {
            network: change.network,
            name: change.name.clone(),
            addresses,
            wrapped_secret,
            pool_exhausted: addresses.v4.is_none(),
            door: change.secret.door,
            change,
        }
    }
}

fn allowed(guess: Guess, refusal: impl FnOnce(u32) -> Refusal) -> Result<(), Refusal> {
    match guess {
        Guess::Allowed => Ok(()),
        Guess::Exhausted { retry_after } => Err(refusal(u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX))),
    }
}

fn unwelcome(error: JoinError) -> Refusal {
    match error {
        JoinError::Full { .. } => Refusal::Full,
        JoinError::AlreadyMember => Refusal::AlreadyMember,
        JoinError::PlanLimit { .. } => Refusal::PlanLimit,
        JoinError::Gone => Refusal::Denied,
        JoinError::Banned => Refusal::Banned,
        JoinError::Locked => Refusal::Locked,
        JoinError::TooManyApplicants => Refusal::LimitReached,
        JoinError::Blocked { notice } => Refusal::Blocked { notice },
        JoinError::Slowed { notice, retry_after } => {
            Refusal::Slowed { notice, retry_after_ms: u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX) }
        }
        JoinError::InviteUnknown => Refusal::InviteInvalid,
        JoinError::InviteExpired => Refusal::InviteExpired,
        JoinError::InviteUsedUp => Refusal::InviteUsedUp,
        JoinError::Store(error) => internal(&error),
    }
}

pub(crate) fn rate_limited(retry_after_ms: u32) -> Refusal {
    Refusal::RateLimited { retry_after_ms }
}

pub(crate) fn refused(error: PasswordError) -> Refusal {
    match error {
        PasswordError::Malformed => Refusal::Malformed,
        PasswordError::Wrong => Refusal::Denied,
        PasswordError::Record | PasswordError::Crashed => internal(&error),
    }
}
