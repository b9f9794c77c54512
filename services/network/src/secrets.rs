//! Newer secrets of networks, and changes of the password. What is carried here is sealed: this role opens none of it.

use contract::network::{
    CreateStarted, HandSecret, Holders, HoldersPage, Prove, Refusal, RenewSecret, Sealed, SealedSecret, SetPassStart,
};
use domain::{ClientId, MAX_HOLDERS, NetworkChange, NewPassword, NewSecret};
use store::LeaveError;

use crate::{
    Outcome, Role,
    announce::Word,
    govern, internal,
    join::{self, MAX_WRAPPED_SECRET_BYTES, rate_limited},
    now,
};

impl Role {
    pub(crate) async fn set_pass_start(&self, call: SetPassStart) -> Result<CreateStarted, Refusal> {
        self.spend(&self.limits.order(call.client), now(), rate_limited).await?;
        // Also the answer to whether it may.
        let asked = self.seams.networks.holders(call.network, call.client, None, 1).await;
        asked.map_err(govern::refused)?;
        let credential = self.seams.networks.credential(call.network, call.epoch);
        let timer = self.seams.metrics.password_seconds.start_timer();
        let response = self.passwords.register(credential, call.request).await.map_err(join::refused)?;
        timer.observe_duration();
        Ok(CreateStarted { response })
    }

    pub(crate) async fn renew_secret(&self, call: RenewSecret) -> Result<NetworkChange, Refusal> {
        let result = self.renew(call).await;
        self.seams.metrics.order(Outcome::of(&result));
        result
    }

    pub(crate) async fn hand_secret(&self, call: HandSecret) -> Result<NetworkChange, Refusal> {
        let HandSecret { client, network, epoch, seals } = call;
        let at = now();
        self.spend(&self.limits.order(client), at, rate_limited).await?;
        let handed = self.seams.networks.hand_secret(network, client, epoch, seals, at).await;
        let announcement = handed.map_err(govern::refused)?;
        Ok(self.told(announcement, client).await)
    }

    pub(crate) async fn holders(&self, call: Holders) -> Result<HoldersPage, Refusal> {
        let limit = u16::try_from(MAX_HOLDERS + 1).unwrap_or(u16::MAX);
        let holders = self.seams.networks.holders(call.network, call.client, call.after, limit).await;
        let mut holders = holders.map_err(govern::refused)?;
        let more = holders.len() > MAX_HOLDERS;
        holders.truncate(MAX_HOLDERS);
        Ok(HoldersPage { holders, more })
    }

    pub(crate) async fn sealed(&self, Sealed { client, network }: Sealed) -> Result<SealedSecret, Refusal> {
        let sealed = self.seams.networks.sealed(network, client).await.map_err(|error| internal(&error))?;
        sealed.map(|seal| SealedSecret { seal }).ok_or(Refusal::NotAMember)
    }

    pub(crate) async fn prove(&self, call: Prove) -> Result<(), Refusal> {
        let Prove { client, network, epoch, proof } = call;
        let at = now();
        self.spend(&self.limits.order(client), at, rate_limited).await?;
        let proved =
            self.seams.networks.prove(network, client, epoch, proof, at).await.map_err(|error| match error {
                LeaveError::NotAMember => Refusal::NotAMember,
                LeaveError::Store(error) => internal(&error),
            })?;
        if let Some(announcement) = proved {
            self.announcer.tell(Word::Change { announcement, except: None });
        }
        Ok(())
    }

    async fn renew(&self, RenewSecret { client, network, new }: RenewSecret) -> Result<NetworkChange, Refusal> {
        let at = now();
        self.spend(&self.limits.order(client), at, rate_limited).await?;
        let password = match new.password {
            Some(NewPassword { record, wrapped_secret }) => {
                if wrapped_secret.is_empty() || wrapped_secret.len() > MAX_WRAPPED_SECRET_BYTES {
                    return Err(Refusal::Malformed);
                }
                let record = self.passwords.record(record).await.map_err(join::refused)?;
                Some(NewPassword { record, wrapped_secret })
            }
            None => None,
        };
        let renewed = self.seams.networks.renew_secret(network, client, NewSecret { password, ..new }, at).await;
        let announcement = renewed.map_err(govern::refused)?;
        Ok(self.told(announcement, client).await)
    }

    /// Has everybody told but `client`, who learns it from the answer.
    async fn told(&self, announcement: store::Announcement, client: ClientId) -> NetworkChange {
        let change = announcement.change.clone();
        self.announcer.tell(Word::Change { announcement, except: Some(client) });
        self.with_presence(change).await
    }
}
