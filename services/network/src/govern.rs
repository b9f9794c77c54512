//! What owners and admins order, and what members need to open their networks.

use contract::network::{Admissions, Keys, Order, Refusal, WrappedSecret};
use domain::{NetworkChange, NetworkOrder};
use store::{KeyHolder, OrderError};

use crate::{
    Outcome, Role,
    announce::{Word, left},
    internal,
    join::rate_limited,
    now,
};

impl Role {
    /// Carries out an order. Who gave it learns of the change from the answer, everybody else is told.
    pub(crate) async fn order(&self, call: Order) -> Result<NetworkChange, Refusal> {
        let result = self.carry_out(call).await;
        self.seams.metrics.order(Outcome::of(&result));
        result
    }

    pub(crate) async fn admissions(&self, call: Admissions) -> Result<domain::Admissions, Refusal> {
        self.seams.networks.admissions(call.network, call.client, now()).await.map_err(refused)
    }

    pub(crate) async fn keys(&self, call: Keys) -> Result<WrappedSecret, Refusal> {
        match self.seams.networks.keys(call.network, call.client).await.map_err(|error| internal(&error))? {
            KeyHolder::Member { wrapped_secret, door } => Ok(WrappedSecret { wrapped_secret, door }),
            KeyHolder::Applicant => Err(Refusal::AwaitingApproval),
            KeyHolder::Stranger => Err(Refusal::NotAMember),
        }
    }

    async fn carry_out(&self, Order { client, network, order }: Order) -> Result<NetworkChange, Refusal> {
        let at = now();
        self.spend(&self.limits.order(client), at, rate_limited).await?;
        let admitted = if let NetworkOrder::Approve(applicant) = order { Some(applicant) } else { None };
        let turned_away = if let NetworkOrder::Reject(outsider) | NetworkOrder::Ban(outsider) = order {
            Some(outsider)
        } else {
            None
        };
        let announcement = self.seams.networks.carry_out(network, client, order, at).await.map_err(refused)?;
        let change = announcement.change.clone();
        let others: Vec<_> = announcement.to.iter().copied().filter(|member| Some(*member) != admitted).collect();
        self.announcer.tell(Word::Change { announcement, except: Some(client) });
        if let Some(outsider) =
            turned_away.filter(|outsider| change.members.iter().all(|gone| gone.client != *outsider))
        {
            self.announcer.tell(Word::Left { client: outsider, change: change.clone() });
        }
        if let Some(client) = admitted {
            self.announcer.tell(Word::Met { client, others });
        }
        if change.members.iter().any(|member| member.gone && member.client == client) {
            return Ok(left(&change));
        }
        Ok(self.with_presence(change).await)
    }
}

pub(crate) fn refused(error: OrderError) -> Refusal {
    match error {
        OrderError::NotAMember => Refusal::NotAMember,
        OrderError::NotPermitted => Refusal::NotPermitted,
        OrderError::MemberUnknown => Refusal::MemberUnknown,
        OrderError::InviteUnknown => Refusal::InviteInvalid,
        OrderError::Invalid => Refusal::Malformed,
        OrderError::NameTaken => Refusal::NameTaken,
        OrderError::LimitReached { .. } => Refusal::LimitReached,
        OrderError::Full { .. } => Refusal::Full,
        OrderError::PlanLimit { .. } => Refusal::PlanLimit,
        OrderError::SecretPassed => Refusal::SecretPassed,
        OrderError::Store(error) => internal(&error),
    }
}
