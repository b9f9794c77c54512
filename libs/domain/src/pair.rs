//! What the server tells a pair of clients so that they find each other, and what they tell it.

use std::net::SocketAddr;

use minicbor::{Decode, Encode};

use crate::{Bandwidth, ClientId, InstanceId, NatClass, RelayChoice, RelayId, StreamEndpoint, UnixMillis};

/// One UDP endpoint that answers STUN binding requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct Reflector(#[n(0)] pub SocketAddr);

/// Binds observations to one session, so that nobody can present another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct SessionTag(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 16]);

/// A reflector's sealed statement of where it saw a packet from. Opaque to clients, which carry it to rendezvous.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct Observation(#[cbor(n(0), with = "minicbor::bytes")] pub Vec<u8>);

/// A negotiation, and the rendezvous process that leads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct PunchId {
    #[n(0)]
    pub leader: InstanceId,
    #[n(1)]
    pub number: u64,
}

/// How a pair tries to get a direct path (NAT traversal strategies in the order of rising cost).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, serde::Serialize, serde::Deserialize,
)]
#[cbor(index_only)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// Both send to the observed address of the other.
    #[n(0)]
    Direct,
    /// The easy side opens its filter for the hard side's address; the hard side's first packet shows its port.
    #[n(1)]
    Reveal,
    /// The easy side sends to the ports that a sequential NAT will use next.
    #[n(3)]
    Predict,
    /// Both NATs are sequential: both sides send from many sockets to one port that the other one's burst passes over.
    #[n(4)]
    Sweep,
    /// Many sockets behind a random NAT and many random ports from the easy side: some of them meet.
    #[n(5)]
    Birthday,
    /// TCP simultaneous open (RFC 5382, section 4.2), for a side without UDP.
    #[n(6)]
    Tcp,
    /// Nothing can work: the pair stays on the relay.
    #[n(2)]
    Relay,
}

impl Strategy {
    /// Every strategy, for tables and metrics.
    pub const ALL: [Self; 7] =
        [Self::Direct, Self::Reveal, Self::Predict, Self::Sweep, Self::Birthday, Self::Tcp, Self::Relay];

    /// The word for tables, metrics and people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Reveal => "reveal",
            Self::Predict => "predict",
            Self::Sweep => "sweep",
            Self::Birthday => "birthday",
            Self::Tcp => "tcp",
            Self::Relay => "relay",
        }
    }
}

/// PREPARE: open the sockets, measure them, report.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct PunchPreparation {
    #[n(0)]
    pub punch: PunchId,
    #[n(1)]
    pub peer: ClientId,
    /// Authenticates the probes between the two.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub key: [u8; 32],
    /// Fresh sockets to punch from, all with even ports; 0 punches from the main socket. Behind a NAT whose next port
    /// matters a question must come from a socket that never asked before, so every try is another socket's.
    #[n(3)]
    pub sockets: u16,
    /// Measure TCP instead: connect to a reflector from the port that will punch, and keep that connection.
    #[n(4)]
    #[cbor(default)]
    pub tcp: bool,
}

impl std::fmt::Debug for PunchPreparation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PunchPreparation").field("punch", &self.punch).field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// The answer to [`PunchPreparation`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PunchReady {
    #[n(0)]
    pub punch: PunchId,
    /// Of the socket that punches, and of the main socket over IPv6.
    #[n(1)]
    pub observations: Vec<Observation>,
    /// Where the main socket is bound on the client's own interfaces.
    #[n(2)]
    pub local: Vec<SocketAddr>,
    /// The outer end of a port mapping that leads to the main socket.
    #[n(3)]
    pub mapped: Option<SocketAddr>,
    /// A hash of the default router's addresses: equal for clients of one LAN.
    #[n(4)]
    pub lan: Option<u64>,
}

/// An address to send punch packets to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Candidate {
    #[n(0)]
    pub endpoint: SocketAddr,
    /// On the same LAN, presumably: no opener is needed.
    #[n(1)]
    pub local: bool,
    /// Reached from the main socket, also when the order punches from fresh ones.
    #[n(2)]
    #[cbor(default)]
    pub main: bool,
}

/// More ports to send to, at the addresses of the candidates that are not for the main socket alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Spray {
    /// `first`, `first + step` and so on, in every round.
    #[n(0)]
    Window {
        #[n(0)]
        first: u16,
        #[n(1)]
        step: i16,
        #[n(2)]
        count: u16,
    },
    /// `count` ports of `low`, `low + step` ... `high` in an order drawn from `seed`, leaving out the first `skip` of that
    /// order; once, one after another.
    #[n(1)]
    Scatter {
        #[n(0)]
        low: u16,
        #[n(1)]
        high: u16,
        #[n(2)]
        step: u8,
        #[n(3)]
        seed: u64,
        #[n(4)]
        skip: u16,
        #[n(5)]
        count: u16,
    },
}

/// GO: the plan of one side. All times count from the receipt of the order.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PunchOrder {
    #[n(0)]
    pub punch: PunchId,
    #[n(1)]
    pub strategy: Strategy,
    /// Until the common start.
    #[n(2)]
    pub wait_us: u64,
    /// From the start to the first packet that is meant to arrive.
    #[n(3)]
    pub gap_us: u64,
    /// Hop limit of the openers, which must die before the peer's NAT; 0 sends no openers. Of a pair that reveals, the
    /// side with openers sends nothing else until the other side's packet shows where to.
    #[n(4)]
    pub opener_ttl: u8,
    #[n(5)]
    pub candidates: Vec<Candidate>,
    /// Counted from 1; every attempt differs from the one before.
    #[n(6)]
    pub attempt: u8,
    #[n(7)]
    pub spray: Option<Spray>,
    /// How many of the fresh sockets of PREPARE send to the candidates; 0: the main socket does.
    #[n(8)]
    #[cbor(default)]
    pub sockets: u16,
}

/// RESULT of one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PunchReport {
    #[n(0)]
    pub punch: PunchId,
    /// The address that answered; `None` when none did.
    #[n(1)]
    pub endpoint: Option<SocketAddr>,
    #[n(2)]
    pub rtt_us: u64,
    #[n(3)]
    pub packets: u32,
    /// From the common start to the first valid answer.
    #[n(4)]
    pub took_us: u64,
}

/// What a punch packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PunchKind {
    /// Opens the sender's own NAT and should die on its way.
    Opener,
    /// Asks for an answer.
    Probe,
    /// Repeats the nonce of a probe to where that came from.
    Answer,
}

/// A packet between two clients that look for a direct path. Authentic by the time it is one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PunchPacket {
    pub kind: PunchKind,
    /// [`PunchOrder::attempt`] of the sender.
    pub attempt: u8,
    /// [`PunchId::number`].
    pub number: u64,
    /// Binds an answer to its probe.
    pub nonce: u64,
}

/// A leg of a relayed pair: where to go and what to show there.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct RelayOffer {
    #[n(0)]
    pub peer: ClientId,
    #[n(1)]
    pub relay: RelayId,
    /// UDP endpoints of the relay, best first.
    #[n(2)]
    pub endpoints: Vec<SocketAddr>,
    /// Sealed for the relay.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub ticket: Vec<u8>,
    /// Proves that the bearer is the one the ticket was made for. Never sent to the relay.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub leg_key: [u8; 32],
    #[n(5)]
    pub rate: Bandwidth,
    #[n(6)]
    pub expires: UnixMillis,
    /// Where the relay takes streams over TLS, best first; none at a relay that takes none.
    #[n(7)]
    #[cbor(default)]
    pub streams: Vec<StreamEndpoint>,
}

impl std::fmt::Debug for RelayOffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RelayOffer").field("peer", &self.peer).field("relay", &self.relay).finish_non_exhaustive()
    }
}

/// How a negotiation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[cbor(index_only)]
#[serde(rename_all = "lowercase")]
pub enum PairOutcome {
    #[n(0)]
    Direct,
    #[n(1)]
    Relayed,
    #[n(2)]
    Pending,
}

/// What a direct path runs over.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, serde::Serialize, serde::Deserialize,
)]
#[cbor(index_only)]
#[serde(rename_all = "kebab-case")]
pub enum Via {
    /// Public addresses of IPv4.
    #[n(0)]
    Ipv4,
    #[n(1)]
    Ipv6,
    /// Addresses of a network that both are in.
    #[n(2)]
    Lan,
    /// One side's port mapping.
    #[n(3)]
    PortMapping,
    /// The public address of the NAT that both are behind.
    #[n(4)]
    Hairpin,
    #[n(5)]
    Tcp,
}

/// Why a pair is connected as it is: made by rendezvous after every step, shown by `buri why` and the admin API.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
pub struct PairRecord {
    #[n(0)]
    pub a: ClientId,
    #[n(1)]
    pub b: ClientId,
    #[n(2)]
    pub class_a: Option<NatClass>,
    #[n(3)]
    pub class_b: Option<NatClass>,
    #[n(4)]
    pub strategy: Strategy,
    #[n(5)]
    pub outcome: PairOutcome,
    #[n(6)]
    pub attempts: u8,
    #[n(7)]
    pub started: UnixMillis,
    /// From the start of the negotiation to its end.
    #[n(8)]
    pub took_ms: u64,
    /// Of both sides together.
    #[n(9)]
    pub packets: u32,
    #[n(10)]
    pub relay: Option<RelayId>,
    /// One sentence for a person, with the remedy.
    #[n(11)]
    pub hint: String,
    /// Identifies the negotiation in the logs.
    #[n(12)]
    pub trace: u64,
    /// Of a direct path.
    #[n(13)]
    pub via: Option<Via>,
    /// The most packets that the last plan allowed to both sides together.
    #[n(14)]
    #[cbor(default)]
    pub budget: u32,
    /// [`crate::NatProfile::place`] of both when it was tried.
    #[n(15)]
    #[cbor(default)]
    pub places: [u32; 2],
    /// Why it is that relay, and which others there were.
    #[n(16)]
    pub choice: Option<Box<RelayChoice>>,
}
