//! What owners and admins order, and what members need to open their networks.

use contract::network::{Admissions, Keys, Order, Refusal, WrappedSecret};
use domain::{ClientId, NetworkChange, NetworkOrder, RouteError};
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

    /// Has members told of those whom they meet from now on.
    pub(crate) fn meet(&self, meets: Meeting, members: &[ClientId]) {
        let (all, one) = match meets {
            Meeting::Nobody => return,
            Meeting::One(client) => (&[][..], Some(client)),
            Meeting::All => (members, None),
        };
        for client in all.iter().copied().chain(one) {
            let others = members.iter().copied().filter(|other| *other != client).collect();
            self.announcer.tell(Word::Met { client, others });
        }
    }

    async fn carry_out(&self, Order { client, network, order }: Order) -> Result<NetworkChange, Refusal> {
        let at = now();
        self.spend(&self.limits.order(client), at, rate_limited).await?;
        let admitted = if let NetworkOrder::Approve(applicant) = order { Some(applicant) } else { None };
        let meets = meeting(&order);
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
            self.announcer.tell(Word::Met { client, others: others.clone() });
        }
        self.meet(meets, &others);
        if change.members.iter().any(|member| member.gone && member.client == client) {
            return Ok(left(&change));
        }
        Ok(self.with_presence(change).await)
    }
}

/// Who meets others after an order, whom it did not meet before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meeting {
    Nobody,
    One(ClientId),
    All,
}

/// Who meets whom by `order`; members of whom it is not known before it is carried out whether they did already count.
pub(crate) const fn meeting(order: &NetworkOrder) -> Meeting {
    match order {
        NetworkOrder::Hub(client) | NetworkOrder::Route(client, _) => Meeting::One(*client),
        NetworkOrder::SetKind(_) => Meeting::All,
        NetworkOrder::Evict(_)
        | NetworkOrder::Ban(_)
        | NetworkOrder::Unban(_)
        | NetworkOrder::Promote(_)
        | NetworkOrder::Demote(_)
        | NetworkOrder::Transfer(_)
        | NetworkOrder::Lock
        | NetworkOrder::Unlock
        | NetworkOrder::Rename(_)
        | NetworkOrder::Delete
        | NetworkOrder::AskApproval
        | NetworkOrder::WaiveApproval
        | NetworkOrder::Approve(_)
        | NetworkOrder::Reject(_)
        | NetworkOrder::Invite(_)
        | NetworkOrder::Revoke(_)
        | NetworkOrder::Spoke(_)
        | NetworkOrder::Keep(_)
        | NetworkOrder::Unkeep(_)
        | NetworkOrder::Agree(_) => Meeting::Nobody,
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
        OrderError::NoGateways => Refusal::NoGateways,
        OrderError::Routes(RouteError::NotRoutable(_)) => Refusal::NotRoutable,
        OrderError::Routes(RouteError::Overlap(..)) => Refusal::RouteTaken,
        OrderError::Routes(RouteError::TooMany { .. }) => Refusal::LimitReached,
        OrderError::Store(error) => internal(&error),
    }
}
