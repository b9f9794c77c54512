//! What other roles have a gateway tell its clients.

use bus::{Delivery, Event};
use domain::{
    AddressPrefix, ClientId, Epoch, NetworkChange, PairRecord, PunchId, PunchOrder, PunchPreparation, RelayOffer,
    Removals, Signed,
};
use minicbor::{Decode, Encode};

/// A message for sessions of one gateway. Sessions that ended meanwhile are skipped.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Push {
    #[n(0)]
    pub to: Vec<Target>,
    #[n(1)]
    pub notice: Notice,
}

/// One session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Target {
    #[n(0)]
    pub client: ClientId,
    #[n(1)]
    pub epoch: Epoch,
}

/// What is told.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Notice {
    #[n(0)]
    Change(#[n(0)] NetworkChange),
    #[n(1)]
    PeerUp(#[n(0)] ClientId),
    #[n(2)]
    PeerDown(#[n(0)] ClientId),
    #[n(3)]
    PeerLost(#[n(0)] ClientId),
    #[n(4)]
    Relay(#[n(0)] RelayOffer),
    #[n(5)]
    Prepare(#[n(0)] PunchPreparation),
    #[n(6)]
    Go(#[n(0)] PunchOrder),
    #[n(7)]
    Record(#[n(0)] PairRecord),
    /// The same key logged in elsewhere: end the session and say so.
    #[n(8)]
    Replaced,
    /// A punch came to nothing before GO.
    #[n(9)]
    PunchOff(#[n(0)] PunchId),
    /// An operator ends the session; the client may come back after so many milliseconds.
    #[n(10)]
    Ended(#[n(0)] u32),
    /// Who is a member no more, as it was when a network changed.
    #[n(11)]
    Removals(#[n(0)] Signed<Removals>),
}

/// Asks every gateway how many of its sessions come from a prefix; answered by `admin::SessionsFrom`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CountSessions {
    /// Names the question in the answers.
    #[n(0)]
    pub question: u64,
    #[n(1)]
    pub from: AddressPrefix,
}

impl Event for CountSessions {
    const TOPIC: &'static str = "gateway.count-sessions";
    const DELIVERY: Delivery = Delivery::Everyone;
}

impl Event for Push {
    const TOPIC: &'static str = "gateway.push";
    const DELIVERY: Delivery = Delivery::Addressed;
}
