//! What is known about the NATs in front of a client, in the words of RFC 4787.

use minicbor::{Decode, Encode};

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

/// What decides how a pair of clients is connected.
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
    /// Any other mapping.
    #[n(2)]
    Hard,
    /// No UDP at all.
    #[n(3)]
    Blocked,
}

impl NatClass {
    /// Every class, for tables and metrics.
    pub const ALL: [Self; 4] = [Self::EasyOpen, Self::Easy, Self::Hard, Self::Blocked];

    /// The word for tables, metrics and people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::EasyOpen => "easy-open",
            Self::Easy => "easy",
            Self::Hard => "hard",
            Self::Blocked => "blocked",
        }
    }
}

/// The result of one discovery, about 20 bytes when it travels.
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
}

impl NatProfile {
    /// The profile of a client from which no UDP came back.
    pub const BLOCKED: Self =
        Self { udp: false, mapping: None, filtering: None, keeps_port: false, unsure: false, hops: 0 };

    /// The class that the profile amounts to.
    #[must_use]
    pub fn class(&self) -> NatClass {
        match (self.udp, self.mapping, self.filtering) {
            (false, _, _) => NatClass::Blocked,
            (
                true,
                Some(Mapping::EndpointIndependent),
                Some(Filtering::EndpointIndependent | Filtering::AddressDependent),
            ) => NatClass::EasyOpen,
            (true, Some(Mapping::EndpointIndependent), _) => NatClass::Easy,
            (true, _, _) => NatClass::Hard,
        }
    }
}
