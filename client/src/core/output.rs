//! What the core says: to the shell, and to the command line.

use std::{net::SocketAddr, time::Duration};

use bytes::BytesMut;
use domain::{ClientId, NetworkId, PeerPresence, SecretEpoch, SecretProof, StreamEndpoint, VirtualAddresses};
use tunnel::Route;
use wire::{
    control::{ClientFrame, Request},
    stream::StreamId,
};

#[cfg(doc)]
use super::Core;
use super::{Saved, Task};
use crate::{
    adapter::{Lan, Routing},
    command::PathKind,
    portmap::Wish,
    sockets::{Call, SocketId},
};

/// What the shell is to do.
#[derive(Debug)]
pub enum Output {
    Send {
        socket: SocketId,
        to: SocketAddr,
        ttl: Option<u8>,
        datagram: BytesMut,
    },
    /// For the adapter.
    Deliver(BytesMut),
    /// To the server, if there is a session.
    Say(ClientFrame),
    /// To the server, as a request whose answer does not matter.
    Ask(Request),
    /// The adapter's addresses.
    Configure(Lan),
    /// Where members lead, for the adapter, and where this client leads them.
    Route(Routing),
    /// Who else is in the LAN, for the adapter.
    Members(Vec<VirtualAddresses>),
    Open(SocketId),
    Close(SocketId),
    /// About the connection between a TCP port and a peer.
    Call {
        port: SocketId,
        peer: SocketAddr,
        call: Call,
    },
    /// To a relay, over TLS: the first of the endpoints that answers. From then on, what is sent to the stream's address goes
    /// there. What comes of it goes to [`Core::handle_relay_stream_opened`] and [`Core::handle_relay_stream_closed`].
    OpenStream {
        stream: StreamId,
        endpoints: Vec<StreamEndpoint>,
    },
    CloseStream(StreamId),
    /// To be asked of the router; the answer goes to [`Core::handle_mapped`].
    MapPort(Wish),
    /// The keys of a network are to be asked of the server; what it says goes to [`Core::handle_keys`] and
    /// [`Core::handle_no_keys`].
    WantKeys(NetworkId),
    /// What was sealed for this client is to be asked of the server; the answer goes to [`Core::handle_sealed`].
    WantSeal(NetworkId),
    /// What proves this client's membership is to be asked of the server; the answer goes to [`Core::handle_membership`].
    WantMembership(NetworkId),
    /// The server is to be told; then [`Core::handle_proved`].
    Prove(NetworkId, SecretEpoch, SecretProof),
    /// A secret is to be made of [`Core::materials`]; then [`Core::take_secrets`], [`Core::handle_handed`] or
    /// [`Core::handle_not_renewed`].
    MakeSecret(NetworkId, Task),
    /// The answer to [`Core::ping`].
    Pong {
        peer: ClientId,
        number: u64,
        rtt: Duration,
        route: Route,
    },
    /// To be kept over restarts.
    Save(Box<Saved>),
    /// Messages to be kept, with [`Core::handle_chats_kept`] when they are, or cannot be.
    KeepChats(Vec<u8>),
}

/// One peer for the command line.
#[derive(Debug)]
pub struct PeerView<'a> {
    pub member: &'a domain::Member,
    pub networks: Vec<domain::NetworkName>,
    pub presence: PeerPresence,
    pub path: PathKind,
    pub endpoint: Option<Place>,
    pub relay: Option<domain::RelayId>,
    /// Why there is no relay.
    pub relay_refused: Option<wire::Code>,
    /// Why the relay holds datagrams back: the pair is over its rate, or its payer out of quota.
    pub held_back: Option<wire::Code>,
    pub rtt: Option<Duration>,
    pub received_bytes: u64,
    pub sent_bytes: u64,
}

/// Where datagrams for a peer go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Udp(SocketAddr),
    /// Of a relay.
    Stream(StreamEndpoint),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Udp(address) => write!(f, "{address}"),
            Self::Stream(endpoint) => write!(f, "tls://{endpoint}"),
        }
    }
}

/// Why a word does not name one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPeer {
    #[error("no such peer in any network of this client")]
    Unknown,
    #[error("more than one peer has this nickname: use an address or the id")]
    Ambiguous,
    /// It is a member, and one of the two has no seat.
    #[error("{}", wire::Code::NoSeat.text())]
    NoSeat,
}
