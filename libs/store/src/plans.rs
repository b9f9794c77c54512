//! Plans as operators change them.

use domain::ClientId;

use crate::Error;

/// Plans, at most.
pub const MAX_PLANS: u32 = 200;

/// Why a plan was not made, changed or dropped.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error("there is a plan of this name")]
    Exists,
    #[error("there are {limit} plans already")]
    LimitReached { limit: u32 },
    #[error("the plan is not what it was thought to be")]
    Changed,
    #[error("the plan is in use")]
    InUse,
    #[error("storage failed")]
    Store(#[from] Error),
}

/// Why a client was not put on another plan.
#[derive(Debug, thiserror::Error)]
pub enum ReassignError {
    #[error("there is no such plan")]
    UnknownPlan,
    #[error("the client {0} is not registered")]
    UnknownClient(ClientId),
    #[error("the client is on another plan than was thought")]
    Changed,
    #[error("storage failed")]
    Store(#[from] Error),
}
