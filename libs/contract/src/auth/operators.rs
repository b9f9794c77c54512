//! What operators have auth do.

use std::net::Ipv4Addr;

use domain::{ClientId, Nickname, PayerId, Plan, SeatsLost, UnixMillis};
use minicbor::{Decode, Encode};

/// Why something was not done for an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Refusal {
    #[n(0)]
    NoSuchClient,
    #[n(1)]
    NoSuchPlan,
    #[n(2)]
    PlanExists,
    /// Somebody has the plan, or new clients get it.
    #[n(3)]
    PlanInUse,
    /// It is not what it was thought to be.
    #[n(4)]
    Changed,
    /// There are as many as there may be.
    #[n(5)]
    LimitReached,
    /// Storage failed; the number is in the log.
    #[n(6)]
    Internal {
        #[n(0)]
        incident: u64,
    },
    /// Storage has too much to do; nothing was done.
    #[n(7)]
    Busy,
}

/// Which clients are looked for.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ClientSearch {
    /// Those whose id lies between the two, both included; by id.
    #[n(0)]
    Ids(#[n(0)] ClientId, #[n(1)] ClientId),
    /// Those whose nickname begins so; by nickname.
    #[n(1)]
    Nick(#[n(0)] String),
    /// The one with this virtual address.
    #[n(2)]
    Address(#[n(0)] u32),
}

/// Where a page of clients ends.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
pub struct ClientPlace {
    /// What they are ordered by, if not by id alone.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub name: Vec<u8>,
    #[n(1)]
    pub client: ClientId,
}

/// A page of clients.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FindClients {
    #[n(0)]
    pub search: ClientSearch,
    /// Where the last page ended.
    #[n(1)]
    pub after: Option<ClientPlace>,
    #[n(2)]
    pub limit: u16,
}

/// The answer to [`FindClients`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FoundClients {
    #[n(0)]
    pub clients: Vec<ClientRow>,
    /// Where the next page begins, if there is one.
    #[n(1)]
    pub next: Option<ClientPlace>,
}

/// One client as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ClientRow {
    #[n(0)]
    pub client: ClientId,
    #[n(1)]
    pub nick: Option<Nickname>,
    #[n(2)]
    pub plan: String,
    #[n(3)]
    pub blocked: bool,
    #[n(4)]
    pub registered: UnixMillis,
    #[n(5)]
    pub seen: UnixMillis,
    /// The virtual address, once it joined a network.
    #[n(6)]
    pub v4: Option<u32>,
}

impl ClientRow {
    /// The virtual address.
    #[must_use]
    pub fn address(&self) -> Option<Ipv4Addr> {
        self.v4.map(Ipv4Addr::from_bits)
    }
}
call!(FindClients, "auth.find-clients", FoundClients, Refusal);

/// Puts a client on another plan.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AssignPlan {
    #[n(0)]
    pub client: ClientId,
    #[n(1)]
    pub plan: String,
    /// The plan that it must be on now; `None`: whatever it is on.
    #[n(2)]
    pub expected: Option<String>,
}
call!(AssignPlan, "auth.assign-plan", (), Refusal);

/// All plans, by name.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Plans;

/// The answer to [`Plans`]: there are few.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PlansReply {
    #[n(0)]
    pub plans: Vec<Plan>,
}
call!(Plans, "auth.plans", PlansReply, Refusal);

/// Makes a plan.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MakePlan {
    #[n(0)]
    pub plan: Plan,
}
call!(MakePlan, "auth.make-plan", (), Refusal);

/// Puts a plan in the place of another one of the same name, if that is still what it was.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ChangePlan {
    #[n(0)]
    pub expected: Plan,
    #[n(1)]
    pub plan: Plan,
}
call!(ChangePlan, "auth.change-plan", (), Refusal);

/// Asks who would lose a seat if a plan allowed so many members.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SeatsLostByPlan {
    #[n(0)]
    pub plan: String,
    #[n(1)]
    pub members: u32,
}
call!(SeatsLostByPlan, "auth.change-plan.seats", SeatsLost, Refusal);

/// Drops a plan that nobody has, if it is still what it was.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DropPlan {
    #[n(0)]
    pub expected: Plan,
}
call!(DropPlan, "auth.drop-plan", (), Refusal);

/// What was relayed for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Usage {
    /// For one payer, newest month first.
    #[n(0)]
    Of(#[n(0)] PayerId, #[n(1)] u16),
    /// In one month (see `domain::Month::number`), by payer.
    #[n(1)]
    In {
        #[n(0)]
        month: u32,
        /// Where the last page ended.
        #[n(1)]
        after: Option<PayerId>,
        #[n(2)]
        limit: u16,
    },
}

/// The answer to [`Usage`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct UsagePage {
    #[n(0)]
    pub rows: Vec<UsageRow>,
    #[n(1)]
    pub more: bool,
}

/// What was relayed for one payer in one month.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct UsageRow {
    #[n(0)]
    pub payer: PayerId,
    #[n(1)]
    pub month: u32,
    #[n(2)]
    pub bytes: u64,
}
call!(Usage, "auth.usage", UsagePage, Refusal);
