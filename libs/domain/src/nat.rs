//! What is known about the NATs in front of a client, in the words of RFC 4787.

use std::net::SocketAddr;

use minicbor::{Decode, Encode};

use crate::{Observation, SessionTag};

/// How a NAT chooses the external port of a flow (RFC 4787, section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[cbor(index_only)]
#[serde(rename_all = "kebab-case")]
pub enum Mapping {
    /// One external port for all destinations.
    #[n(0)]
    EndpointIndependent,
    /// One external port a destination address.
    #[n(1)]
    AddressDependent,
    /// One external port a destination address and port.
    #[n(2)]
    AddressAndPortDependent,
}

/// Which packets from outside a NAT lets in (RFC 4787, section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[cbor(index_only)]
#[serde(rename_all = "kebab-case")]
pub enum Filtering {
    /// All of them.
    #[n(0)]
    EndpointIndependent,
    /// Those from an address that was sent to.
    #[n(1)]
    AddressDependent,
    /// Those from an address and port that was sent to.
    #[n(2)]
    AddressAndPortDependent,
}

/// How a NAT whose mapping depends on the destination chooses the next external port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Allocation {
    /// Each new flow gets the port of the one before plus `step`, which is not 0.
    #[n(0)]
    Sequential {
        #[n(0)]
        step: i16,
    },
    /// Any port.
    #[n(1)]
    Random,
    /// Any port as even or odd as the inner one (RFC 4787, section 4.2.2).
    #[n(2)]
    RandomParity,
    /// Any port of a block that a carrier gives to one subscriber.
    #[n(3)]
    Block {
        #[n(0)]
        first: u16,
        /// Ports in the block: a power of two.
        #[n(1)]
        size: u16,
    },
}

/// What decides how a pair of clients is connected, in the order of rising difficulty.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, serde::Serialize, serde::Deserialize,
)]
#[cbor(index_only)]
#[serde(rename_all = "kebab-case")]
pub enum NatClass {
    /// Endpoint-independent mapping, and a filter that lets in strangers or at least other ports of a known address.
    #[n(0)]
    EasyOpen,
    /// Endpoint-independent mapping with a strict filter: the usual home router.
    #[n(1)]
    Easy,
    /// A new port for every destination, but a predictable one.
    #[n(4)]
    Sequential,
    /// A new port for every destination, and nobody knows which.
    #[n(2)]
    Random,
    /// No UDP at all.
    #[n(3)]
    Blocked,
}

impl NatClass {
    /// Every class, for tables and metrics.
    pub const ALL: [Self; 5] = [Self::EasyOpen, Self::Easy, Self::Sequential, Self::Random, Self::Blocked];

    /// The word for tables, metrics and people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::EasyOpen => "easy-open",
            Self::Easy => "easy",
            Self::Sequential => "sequential",
            Self::Random => "random",
            Self::Blocked => "blocked",
        }
    }

    /// Whether one observed port is the port for everybody.
    #[must_use]
    pub const fn is_easy(self) -> bool {
        matches!(self, Self::EasyOpen | Self::Easy)
    }

    /// Whether every destination gets another port.
    #[must_use]
    pub const fn is_hard(self) -> bool {
        matches!(self, Self::Sequential | Self::Random)
    }
}

/// The result of one discovery, about 40 bytes when it travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
pub struct NatProfile {
    /// Whether UDP reaches any reflector.
    #[n(0)]
    pub udp: bool,
    #[n(1)]
    pub mapping: Option<Mapping>,
    #[n(2)]
    pub filtering: Option<Filtering>,
    /// Whether the reflected port was the local one.
    #[n(3)]
    pub keeps_port: bool,
    /// Fewer than two reflector addresses answered: address-dependent behaviour cannot be told from weaker ones.
    #[n(4)]
    pub unsure: bool,
    /// Routers between the client and the nearest reflector; 0 when unknown.
    #[n(5)]
    pub hops: u8,
    /// Known when the mapping depends on the destination.
    #[n(6)]
    pub allocation: Option<Allocation>,
    /// Flows a second that others open behind the same NAT.
    #[n(7)]
    #[cbor(default)]
    pub foreign_rate: u16,
    /// Seen with more than one public address at a time.
    #[n(8)]
    #[cbor(default)]
    pub pool: bool,
    /// Whether the NAT sends packets for its own public address back inside.
    #[n(9)]
    pub hairpin: Option<bool>,
    /// The mapping of TCP connections; `None` when no TCP reflector answered.
    #[n(10)]
    pub tcp: Option<Mapping>,
    /// Silence in seconds that a mapping survived.
    #[n(11)]
    pub lifetime_s: Option<u16>,
    /// A port mapping (PCP, NAT-PMP, UPnP) leads to the main socket.
    #[n(12)]
    #[cbor(default)]
    pub port_mapping: bool,
    /// A reflector was reached over IPv6.
    #[n(13)]
    #[cbor(default)]
    pub ipv6: bool,
    /// Another number in every network that the client moves to: what was tried in an old one says nothing.
    #[n(14)]
    #[cbor(default)]
    pub place: u32,
}

impl NatProfile {
    /// The profile of a client from which no UDP came back.
    pub const BLOCKED: Self = Self {
        udp: false,
        mapping: None,
        filtering: None,
        keeps_port: false,
        unsure: false,
        hops: 0,
        allocation: None,
        foreign_rate: 0,
        pool: false,
        hairpin: None,
        tcp: None,
        lifetime_s: None,
        port_mapping: false,
        ipv6: false,
        place: 0,
    };

    /// The class that the profile amounts to.
    #[must_use]
    pub fn class(&self) -> NatClass {
        let weak = matches!(self.filtering, Some(Filtering::EndpointIndependent | Filtering::AddressDependent));
        match (self.udp, self.mapping, self.allocation) {
            (false, ..) => NatClass::Blocked,
            (true, Some(Mapping::EndpointIndependent), _) if !self.pool && weak => NatClass::EasyOpen,
            (true, Some(Mapping::EndpointIndependent), _) if !self.pool => NatClass::Easy,
            (true, _, Some(Allocation::Sequential { .. })) if !self.pool => NatClass::Sequential,
            (true, ..) => NatClass::Random,
        }
    }
}

/// The 96 bits that bind an answer of a reflector to its question (RFC 8489, section 5). Drawn at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId(pub [u8; 12]);

/// Which of the four sockets of a reflector answers, as seen from the one that is asked (RFC 5780, section 7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Vantage {
    /// The one that is asked.
    Asked,
    /// The same address with the other port.
    OtherPort,
    /// The other address with the same port.
    OtherAddress,
    /// The other address and the other port.
    Opposite,
}

/// A question to a reflector: where do you see me?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    pub transaction: TransactionId,
    /// Asks for an observation that is bound to this session.
    pub tag: Option<SessionTag>,
    pub answer_from: Vantage,
    /// How long the reflector waits with its answer, to see whether the way back is still open then; 0: not at all.
    pub delay_s: u8,
}

/// The answer of a reflector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reflected {
    pub transaction: TransactionId,
    /// Where the question came from, in the eyes of the reflector.
    pub seen: SocketAddr,
    /// Hop limit that the question arrived with; 0 when unknown.
    pub ttl: u8,
    /// The sealed form of all this, for rendezvous.
    pub observation: Option<Observation>,
}

/// Routers that a packet passed which arrived with hop limit `ttl`; 0 when that is unknown.
///
/// Every common system starts with 32, 64, 128 or 255 and no path is longer than 32 hops.
#[must_use]
pub fn hops(ttl: u8) -> u8 {
    match ttl {
        0 => 0,
        1..=32 => 32 - ttl,
        33..=64 => 64 - ttl,
        65..=128 => 128 - ttl,
        129..=255 => 255 - ttl,
    }
}
