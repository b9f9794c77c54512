//! Calls and events to rendezvous.

use std::{net::SocketAddr, time::Duration};

use bus::{Delivery, Event};
use domain::{Bandwidth, ClientId, PairRecord, PayerId, PunchReady, PunchReport, RelayId, StreamEndpoint};
use minicbor::{Decode, Encode, bytes::ByteArray};

use crate::relay::RelayOrder;

/// Pairs that share a network are both online, or need a path.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PairsWanted {
    #[n(0)]
    pub pairs: Vec<PairWanted>,
}

/// One pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PairWanted {
    #[n(0)]
    pub a: ClientId,
    #[n(1)]
    pub b: ClientId,
    /// What the pair may send through a relay: the best plan that covers both.
    #[n(2)]
    pub relay_rate: Bandwidth,
    /// Why now: decides what is done first.
    #[n(3)]
    pub reason: Wanted,
    /// A relay that does not answer `a`, or that it is to leave.
    #[n(4)]
    pub leaves: Option<RelayId>,
    /// Who pays for what `a` sends, and for what `b` sends.
    #[n(5)]
    pub payers: [PayerId; 2],
}

/// Why a pair is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Wanted {
    /// One of them came online: a relay at once, a direct path as soon as both profiles are known.
    #[n(0)]
    Online,
    /// The NAT profile of one is new: a direct path.
    #[n(1)]
    Profiled,
    /// One of them has data and no path: both.
    #[n(2)]
    Demanded,
    /// One of them wants another relay: that, if there is a better one, and no direct path.
    #[n(3)]
    Relay,
}

impl Event for PairsWanted {
    const TOPIC: &'static str = "rendezvous.pairs";
    const DELIVERY: Delivery = Delivery::Work;
}

/// A client's word in a negotiation, for the process that leads it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PunchWord {
    #[n(0)]
    pub from: ClientId,
    /// The tag of the session that the word came through.
    #[n(1)]
    pub tag: domain::SessionTag,
    /// The round trip of the control connection, smallest of the last pings; 0 when unknown.
    #[n(2)]
    pub control_rtt_us: u64,
    #[n(3)]
    pub said: PunchSaid,
    /// How much longer than the smallest the others were, on average; `None` when unknown.
    #[n(4)]
    pub control_jitter_us: Option<u64>,
}

/// What was said.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum PunchSaid {
    #[n(0)]
    Ready(#[n(0)] PunchReady),
    #[n(1)]
    Report(#[n(0)] PunchReport),
}

impl Event for PunchWord {
    const TOPIC: &'static str = "rendezvous.word";
    const DELIVERY: Delivery = Delivery::Addressed;
}

/// A relay lives. Sent every [`RelayBeat::PERIOD`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RelayBeat {
    #[n(0)]
    pub relay: RelayId,
    /// Public UDP endpoints, best first. Each is a reflector, too.
    #[n(1)]
    pub endpoints: Vec<SocketAddr>,
    #[n(2)]
    pub region: String,
    #[n(3)]
    pub slots: u32,
    #[n(4)]
    pub max_slots: u32,
    /// Forwarded since the last beat.
    #[n(5)]
    pub rate: Bandwidth,
    #[n(6)]
    pub draining: bool,
    /// Where it takes streams over TLS, best first.
    #[n(7)]
    #[cbor(default)]
    pub streams: Vec<StreamEndpoint>,
}

impl RelayBeat {
    /// Between two beats.
    pub const PERIOD: Duration = Duration::from_millis(500);
    /// After this long without one a relay is passed over for others, and those who have a leg there look after it: two
    /// beats may be lost.
    pub const SILENT: Duration = Duration::from_millis(1_600);
    /// After this long without one it is gone.
    pub const GONE: Duration = Duration::from_millis(6_500);
}

impl Event for RelayBeat {
    const TOPIC: &'static str = "rendezvous.beat";
    const DELIVERY: Delivery = Delivery::Everyone;
}

/// A relay holds back what these pairs send: it is more than the rate of their plan or what is left of a quota. Told of each pair
/// at most once an hour.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PairsHeldBack {
    #[n(0)]
    pub relay: RelayId,
    /// What their tickets name them by; at most [`Self::MOST`].
    #[n(1)]
    pub pairs: Vec<ByteArray<16>>,
}

impl PairsHeldBack {
    /// Pairs in one message.
    pub const MOST: usize = 64;
}

impl Event for PairsHeldBack {
    const TOPIC: &'static str = "rendezvous.held-back";
    const DELIVERY: Delivery = Delivery::Everyone;
}

/// Why an operator's question has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Refusal {
    /// Presence failed; the number is in the log.
    #[n(0)]
    Internal {
        #[n(0)]
        incident: u64,
    },
}

/// The record of a pair, in any order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Pair {
    #[n(0)]
    pub a: ClientId,
    #[n(1)]
    pub b: ClientId,
}

/// The answer to [`Pair`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PairReply {
    #[n(0)]
    pub record: Option<PairRecord>,
}

call!(Pair, "rendezvous.pair", PairReply, Refusal);

/// The live relays, as one rendezvous process sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Relays;

/// The answer to [`Relays`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RelaysReply {
    #[n(0)]
    pub relays: Vec<RelayBeat>,
}

call!(Relays, "rendezvous.relays", RelaysReply, Refusal);

/// An operator wants something of a relay. The answer is that the relay was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OrderRelay {
    #[n(0)]
    pub relay: RelayId,
    #[n(1)]
    pub order: RelayOrder,
}

/// Why a relay was not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum OrderRefusal {
    /// No such relay gives a sign of life.
    #[n(0)]
    NoSuchRelay,
    /// The bus failed; the number is in the log.
    #[n(1)]
    Internal {
        #[n(0)]
        incident: u64,
    },
}

call!(OrderRelay, "rendezvous.order-relay", (), OrderRefusal);

/// The STUN endpoints of the rendezvous processes, told to clients at login.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ReflectorBeat {
    #[n(0)]
    pub instance: domain::InstanceId,
    /// IPv4 first. Of one family the first two differ in the port only, the third in the address.
    #[n(1)]
    pub endpoints: Vec<SocketAddr>,
}

impl Event for ReflectorBeat {
    const TOPIC: &'static str = "rendezvous.reflectors";
    const DELIVERY: Delivery = Delivery::Everyone;
}

/// Send this answer of a reflector from your address: its client asked another process that has no second one, and wants to
/// know whether its NAT lets strangers in.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct ReflectFrom {
    /// An endpoint of the addressee, as it told it.
    #[n(0)]
    pub from: SocketAddr,
    #[n(1)]
    pub to: SocketAddr,
    #[cbor(n(2), with = "minicbor::bytes")]
    pub answer: Vec<u8>,
}

impl Event for ReflectFrom {
    const TOPIC: &'static str = "rendezvous.reflect-from";
    const DELIVERY: Delivery = Delivery::Addressed;
}

impl std::fmt::Debug for ReflectFrom {
    /// A log gets no address of a user.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReflectFrom").field("from", &self.from).finish_non_exhaustive()
    }
}
