//! Members of networks as everybody in the network sees them.

use minicbor::{
    Decode, Decoder, Encode, Encoder,
    decode::Error as DecodeError,
    encode::{Error as EncodeError, Write},
};

use crate::{
    ClientId, IdentityKey, Lineage, NetworkId, NetworkName, Nickname, Revision, Role, Route, SecretState, Signature,
    TunnelKey, VirtualAddresses,
};

/// Whether a client has a control session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[cbor(index_only)]
#[serde(rename_all = "lowercase")]
pub enum PeerPresence {
    /// It has one.
    #[n(0)]
    Online,
    /// It said goodbye, or was never seen.
    #[n(1)]
    Offline,
    /// Its session broke without a goodbye: its tunnels may live.
    #[n(2)]
    Lost,
}

/// One member of a network.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Member {
    #[n(0)]
    pub client: ClientId,
    #[n(1)]
    pub identity: IdentityKey,
    #[n(2)]
    pub tunnel: TunnelKey,
    /// By the identity key over the tunnel key.
    #[n(3)]
    pub tunnel_signature: Signature,
    #[n(4)]
    pub nick: Option<Nickname>,
    #[n(5)]
    pub addresses: VirtualAddresses,
    /// The revision that last changed this member.
    #[n(6)]
    pub revision: Revision,
    /// Whether the change was that the member left.
    #[n(7)]
    pub gone: bool,
    /// As the sender knew it; `None` when it did not ask.
    #[n(8)]
    pub presence: Option<PeerPresence>,
    #[n(9)]
    #[cbor(default)]
    pub role: Role,
    /// Of a client whose key was followed by others: how `identity` came to be its key.
    #[n(10)]
    pub lineage: Option<Box<Lineage>>,
    /// Where not all meet ([`NetworkKind::joins`]), it meets everybody.
    #[n(11)]
    #[cbor(default)]
    pub hub: bool,
    /// Where it leads the others, in a network of the kind [`NetworkKind::Gateway`]; at most [`MAX_ROUTES`](crate::MAX_ROUTES).
    #[n(12)]
    #[cbor(skip_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// The plan allows fewer members than there are: it stays one, and meets nobody in this network.
    #[n(13)]
    #[cbor(skip_if = "std::ops::Not::not")]
    pub unseated: bool,
    /// The owner wants it to stay seated before others.
    #[n(14)]
    #[cbor(skip_if = "std::ops::Not::not")]
    pub kept: bool,
}

impl Member {
    /// The identity keys of this member, as claimed: nothing is checked.
    #[must_use]
    pub fn keys(&self) -> Lineage {
        self.lineage.as_ref().map_or_else(|| Lineage::new(self.identity), |lineage| Lineage::clone(lineage))
    }

    /// How much room the member takes in a message, in members who still have their first key.
    #[must_use]
    pub fn weight(&self) -> usize {
        let later_keys = self.lineage.as_ref().map_or(0, |lineage| lineage.successions().len());
        1 + later_keys + usize::from(!self.routes.is_empty())
    }
}

/// What changed in one network after `since`.
///
/// A receiver that is not at `since` has a gap and asks again, unless `since` is zero, which replaces what it had.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct NetworkChange {
    #[n(0)]
    pub network: NetworkId,
    #[n(1)]
    pub name: NetworkName,
    #[n(2)]
    pub since: Revision,
    #[n(3)]
    pub revision: Revision,
    /// Oldest change first.
    #[n(4)]
    pub members: Vec<Member>,
    /// The receiver is no longer a member.
    #[n(5)]
    pub left: bool,
    #[n(6)]
    #[cbor(default)]
    pub terms: NetworkTerms,
    #[n(7)]
    #[cbor(default)]
    pub secret: SecretState,
}

/// How one becomes a member of a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct NetworkTerms {
    /// Nobody does at the moment.
    pub locked: bool,
    /// An owner or admin has to approve.
    pub approval: bool,
    /// How many wait for that.
    pub applicants: u32,
    #[serde(default)]
    pub kind: NetworkKind,
}

/// How terms travel. Who knows of two kinds only takes a network with gateways for one of hubs and spokes: the same members
/// meet in both.
#[derive(Encode, Decode)]
struct TravellingTerms {
    #[n(0)]
    locked: bool,
    #[n(1)]
    approval: bool,
    #[n(2)]
    applicants: u32,
    #[n(3)]
    #[cbor(default)]
    kind: NetworkKind,
    /// Its hubs are gateways.
    #[n(4)]
    #[cbor(skip_if = "std::ops::Not::not")]
    routed: bool,
}

impl<C> Encode<C> for NetworkTerms {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, c: &mut C) -> Result<(), EncodeError<W::Error>> {
        let (kind, routed) = self.kind.parts();
        let Self { locked, approval, applicants, .. } = *self;
        TravellingTerms { locked, approval, applicants, kind, routed }.encode(e, c)
    }
}

impl<'b, C> Decode<'b, C> for NetworkTerms {
    fn decode(d: &mut Decoder<'b>, c: &mut C) -> Result<Self, DecodeError> {
        let TravellingTerms { locked, approval, applicants, kind, routed } = TravellingTerms::decode(d, c)?;
        Ok(Self { locked, approval, applicants, kind: NetworkKind::of(kind, routed) })
    }
}

/// Which members of a network meet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[cbor(index_only)]
#[serde(rename_all = "lowercase")]
pub enum NetworkKind {
    /// All.
    #[default]
    #[n(0)]
    Mesh,
    /// Hubs meet everybody; all others, the spokes, meet hubs only.
    #[n(1)]
    Hub,
    /// The same, and some of the hubs are gateways: they lead the others to networks behind them.
    #[n(2)]
    Gateway,
}

impl NetworkKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Mesh, Self::Hub, Self::Gateway];

    /// Whether two members meet, of whom is known which of them are hubs.
    #[must_use]
    pub const fn joins(self, hubs: [bool; 2]) -> bool {
        match self {
            Self::Mesh => true,
            Self::Hub | Self::Gateway => hubs[0] || hubs[1],
        }
    }

    /// The kind for those who do not know of gateways, and whether there are any: how it is kept and how it travels.
    #[must_use]
    pub const fn parts(self) -> (Self, bool) {
        match self {
            Self::Mesh | Self::Hub => (self, false),
            Self::Gateway => (Self::Hub, true),
        }
    }

    /// The kind with these [parts](Self::parts).
    #[must_use]
    pub const fn of(kind: Self, routed: bool) -> Self {
        match kind {
            Self::Mesh => Self::Mesh,
            Self::Hub if routed => Self::Gateway,
            Self::Hub | Self::Gateway => kind,
        }
    }
}

/// A network as far as somebody knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct KnownNetwork {
    #[n(0)]
    pub network: NetworkId,
    #[n(1)]
    pub revision: Revision,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spokes_meet_hubs_only() {
        for kind in NetworkKind::ALL {
            let joined = [[true, true], [true, false], [false, true], [false, false]].map(|hubs| kind.joins(hubs));
            assert_eq!(joined, [true, true, true, kind == NetworkKind::Mesh], "{kind:?}");
        }
    }

    #[test]
    fn terms_of_an_older_server_are_those_of_a_mesh() {
        // Without the fourth field.
        let terms: NetworkTerms = minicbor::decode(&[0x83, 0xf5, 0xf4, 0x02]).unwrap();
        assert_eq!((terms.locked, terms.applicants, terms.kind), (true, 2, NetworkKind::Mesh));
    }

    #[test]
    fn who_knows_two_kinds_only_takes_gateways_for_hubs() {
        #[derive(Decode)]
        struct Older {
            #[n(3)]
            kind: NetworkKind,
        }
        for (kind, older) in NetworkKind::ALL.into_iter().zip([NetworkKind::Mesh, NetworkKind::Hub, NetworkKind::Hub]) {
            let bytes = minicbor::to_vec(NetworkTerms { kind, ..NetworkTerms::default() }).unwrap();
            assert_eq!(minicbor::decode::<NetworkTerms>(&bytes).unwrap().kind, kind);
            assert_eq!(minicbor::decode::<Older>(&bytes).unwrap().kind, older);
            for hubs in [[true, false], [false, false]] {
                assert_eq!(kind.joins(hubs), older.joins(hubs), "the same members meet");
            }
        }
    }
}
