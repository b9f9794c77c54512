//! What operators search for.

use std::net::Ipv4Addr;

use domain::{ClientId, Month, NetworkId, Nickname, PayerId, UnixMillis};

use crate::{NetworkSummary, Standing};

/// Which clients are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientSearch {
    /// Those whose id lies between the two, both included; by id.
    Ids(ClientId, ClientId),
    /// Those whose nickname begins so, in whatever case; by nickname.
    Nick(String),
    /// The one with this virtual address.
    Address(Ipv4Addr),
}

/// Where a page of clients or networks ends: the name that they are ordered by, if any, and the id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place<Id> {
    pub name: Vec<u8>,
    pub id: Id,
}

/// Some of what was looked for, and where the next page begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found<T, Id> {
    pub items: Vec<T>,
    pub next: Option<Place<Id>>,
}

/// Clients that were found.
pub type FoundClients = Found<ClientSummary, ClientId>;
/// Networks that were found.
pub type FoundNetworks = Found<NetworkSummary, NetworkId>;

/// A client as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSummary {
    pub client: ClientId,
    pub nick: Option<Nickname>,
    pub plan: String,
    pub standing: Standing,
    pub registered: UnixMillis,
    /// The last login or change.
    pub seen: UnixMillis,
    /// The virtual address, once it joined a network.
    pub v4: Option<Ipv4Addr>,
}

/// What was relayed for somebody in a month.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MonthUsage {
    pub payer: PayerId,
    /// See [`Month::number`].
    pub month: Month,
    pub bytes: u64,
}
