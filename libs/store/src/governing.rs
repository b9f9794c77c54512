//! Networks as operators see and govern them.

use std::net::Ipv4Addr;

use domain::{Admissions, ClientId, NetworkTerms, Nickname, Role, UnixMillis};

use crate::{Error, NetworkSummary, OrderError};

/// Everything that an operator may see of a network, but its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkDetails {
    pub summary: NetworkSummary,
    pub terms: NetworkTerms,
    pub admissions: Admissions,
}

/// A member as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkMember {
    pub client: ClientId,
    pub nick: Option<Nickname>,
    pub role: Role,
    /// The virtual address.
    pub v4: Option<Ipv4Addr>,
    pub joined: UnixMillis,
    /// It meets the others.
    pub seated: bool,
    /// The owner wants it to stay seated before others.
    pub kept: bool,
}

/// Why an operator's order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum GovernError {
    #[error("there is no such network")]
    UnknownNetwork,
    #[error("the network was changed meanwhile")]
    Changed,
    #[error("the order cannot be carried out")]
    Order(#[from] OrderError),
}

impl From<Error> for GovernError {
    fn from(error: Error) -> Self {
        Self::Order(OrderError::Store(error))
    }
}
