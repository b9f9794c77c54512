//! This client's end of all its tunnels: its key, and the first look at every datagram.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use bytes::BytesMut;
use domain::TunnelKey;
use gotatun::{
    noise::{
        TimerParams, Tunn, TunnResult, errors::WireGuardError, handshake::parse_handshake_anon,
        index_table::IndexTable, rate_limiter::RateLimiter,
    },
    packet::{Packet, WgKind},
    x25519,
};
use zeroize::Zeroizing;

/// What all sessions of a client share.
pub struct Local {
    private: x25519::StaticSecret,
    public: x25519::PublicKey,
    indices: IndexTable,
    limiter: Arc<RateLimiter>,
}

/// The first look at a datagram.
#[derive(Debug)]
pub enum Opened {
    /// Well-formed; initiations and responses also bear this client's public key (WireGuard, section 5.4.4).
    Incoming(Incoming),
    /// Too many handshakes from that address: send this cookie reply back (WireGuard, section 5.4.7).
    Challenge(Vec<u8>),
    Refused,
}

/// A datagram that a [`Session`](crate::Session) may look at.
pub struct Incoming(pub(crate) WgKind);

/// Which session a datagram says it is for. Unproven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// An initiation by the owner of this key.
    Initiator(TunnelKey),
    /// For the session that chose this index.
    Receiver(u32),
}

impl Incoming {
    /// Whether a handshake begins: the peer may have restarted.
    #[must_use]
    pub const fn is_initiation(&self) -> bool {
        matches!(self.0, WgKind::HandshakeInit(_))
    }

    /// Whether it is one of the two messages of a handshake.
    #[must_use]
    pub const fn is_handshake(&self) -> bool {
        matches!(self.0, WgKind::HandshakeInit(_) | WgKind::HandshakeResp(_))
    }
}

impl Local {
    /// The end with this X25519 private key.
    #[must_use]
    pub fn new(private: [u8; 32]) -> Self {
        let private = x25519::StaticSecret::from(private);
        let public = x25519::PublicKey::from(&private);
        let limiter = Arc::new(RateLimiter::new(&public, HANDSHAKES_PER_SECOND));
        Self { private, public, indices: IndexTable::from_os_rng(), limiter }
    }

    /// The same end with another private key. Its sessions go on, so the numbers that they are found by stay theirs.
    #[must_use]
    pub fn followed_by(&self, private: [u8; 32]) -> Self {
        Self { indices: self.indices.clone(), ..Self::new(private) }
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> TunnelKey {
        TunnelKey::from_bytes(self.public.to_bytes())
    }

    /// Looks at a datagram from `from`. Costs a copy, and a keyed hash for handshakes.
    #[must_use]
    pub fn open(&self, from: SocketAddr, datagram: &[u8]) -> Opened {
        if !is_tunnel_datagram(datagram) {
            return Opened::Refused;
        }
        match self.limiter.verify_packet(from, Packet::from_bytes(BytesMut::from(datagram))) {
            Ok(kind) => Opened::Incoming(Incoming(kind)),
            Err(TunnResult::WriteToNetwork(reply)) => Opened::Challenge(Packet::from(reply).to_vec()),
            Err(TunnResult::Err(_) | TunnResult::Done | TunnResult::WriteToTunnel(_)) => Opened::Refused,
        }
    }

    /// Whom `incoming` says it is for. Costs a key agreement for initiations.
    #[must_use]
    pub fn claim(&self, incoming: &Incoming) -> Option<Claim> {
        match &incoming.0 {
            WgKind::HandshakeInit(init) => parse_handshake_anon(&self.private, &self.public, init)
                .ok()
                .map(|half| Claim::Initiator(TunnelKey::from_bytes(half.peer_static_public))),
            WgKind::HandshakeResp(response) => Some(Claim::Receiver(response.receiver_idx.get())),
            WgKind::CookieReply(reply) => Some(Claim::Receiver(reply.receiver_idx.get())),
            WgKind::Data(data) => Some(Claim::Receiver(data.header.receiver_idx.get())),
        }
    }

    /// The key agreement with `peer`; `None` when that is no key.
    pub(crate) fn agree(&self, peer: &TunnelKey) -> Option<Zeroizing<[u8; 32]>> {
        let agreed = self.private.diffie_hellman(&x25519::PublicKey::from(*peer.as_bytes()));
        agreed.was_contributory().then(|| Zeroizing::new(agreed.to_bytes()))
    }

    pub(crate) fn tunnel_to(&self, peer: TunnelKey, preshared: [u8; 32]) -> Tunn {
        let mut tunnel = Tunn::new(
            self.private.clone(),
            x25519::PublicKey::from(*peer.as_bytes()),
            Some(preshared),
            None,
            self.indices.clone(),
            Arc::clone(&self.limiter),
        );
        if self.public.as_bytes() > peer.as_bytes() {
            let rekey_after_time = LATER_REKEY..=LATER_REKEY;
            tunnel.dangerously_set_timer_params(TimerParams { rekey_after_time, ..TimerParams::default() });
        }
        tunnel
    }
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Local").field("public", &self.public()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Whether the first bytes are those of a WireGuard message.
#[must_use]
pub fn is_tunnel_datagram(datagram: &[u8]) -> bool {
    matches!(datagram, [1..=4, 0, 0, 0, ..])
}

/// Whether an error of the Noise core means that the datagram was not from the peer, or not meant for this session.
pub(crate) fn is_foreign(error: &WireGuardError) -> bool {
    !matches!(error, WireGuardError::DuplicateCounter | WireGuardError::InvalidCounter)
}

/// When the end with the larger key renews a session that it began. Both begin the first one at once when a relay brings them
/// together; renewed at the same age, that would go on for ever. WireGuard's own 120 s are for the other end, and 165 s are the
/// latest that leaves time for a handshake.
const LATER_REKEY: Duration = Duration::from_secs(135);

/// From one address, before cookies are asked for. A relay's address stands for all the pairs on it.
const HANDSHAKES_PER_SECOND: u64 = 100;
