//! The session with one peer: handshake, packets and frames.

use std::{
    collections::VecDeque,
    fmt,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use domain::{ClientId, Prefix, TunnelKey, VirtualAddresses};
use gotatun::{
    noise::{Tunn, TunnResult},
    packet::{Packet, WgKind},
};

use crate::{
    Frame, INNER_MTU, Incoming, InnerPacket, Local, PairKey, former::Former, keyring::Keyring, local::is_foreign,
};

/// The encrypted channel to one peer.
///
/// `handle_*` takes what arrived; afterwards the caller drains [`Session::poll_transmit`] and [`Session::poll_event`]. What
/// is to be transmitted after [`Session::handle_datagram`] belongs on the way that the datagram came; everything else on
/// whatever way leads to the peer.
pub struct Session {
    tunnel: Tunn,
    /// Under the static keys before, while the tunnel under the new ones is not there.
    former: Option<Former>,
    keys: Keyring,
    own: Party,
    peer: Party,
    routes: Routes,
    phase: Phase,
    /// Packets that wait for a handshake.
    waiting: VecDeque<Vec<u8>>,
    transmits: VecDeque<BytesMut>,
    events: VecDeque<Event>,
    /// The receiver indices of the last handshakes, newest last.
    indices: VecDeque<u32>,
    next_tick: Instant,
    heard: Option<Instant>,
}

/// One end of a tunnel, as far as its packets show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Party {
    pub client: ClientId,
    pub addresses: VirtualAddresses,
}

/// The networks behind the ends of a tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    /// Behind this client.
    pub own: Vec<Prefix>,
    /// Behind the peer.
    pub peer: Vec<Prefix>,
}

impl Routes {
    fn own_has(&self, packet: &InnerPacket<'_>) -> bool {
        self.own.iter().any(|prefix| prefix.contains(packet.source))
    }

    fn peer_has(&self, packet: &InnerPacket<'_>) -> bool {
        self.peer.iter().any(|prefix| prefix.contains(packet.source))
    }
}

/// What a session tells its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Packets pass from now on.
    Established,
    /// No handshake succeeded for so long that the keys are gone.
    Lapsed,
}

/// What a datagram carried.
#[derive(Debug)]
pub enum Received {
    /// A packet of the peer, for the adapter.
    Packet(BytesMut),
    Frame(Frame),
    /// Part of a handshake, or a keepalive: nothing to hand on.
    Nothing,
    Refused(Refusal),
}

/// Why a datagram or packet went no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("not from the peer")]
    Foreign,
    #[error("seen before, or too late")]
    Replayed,
    #[error("not an IP packet, or larger than the tunnel takes")]
    Malformed,
    #[error("a source address that is not the sender's")]
    SpoofedSource,
    #[error("more than the sender may flood with")]
    TooMany,
    #[error("not proven to be a member any more")]
    Unproven,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    /// An initiation was sent; the next one is due at `retry`, none after `until`.
    Initiating {
        attempt: u32,
        retry: Instant,
        until: Instant,
    },
    Established,
}

impl Session {
    /// A session between `own` and `peer`, which owns `key`. It does nothing by itself.
    #[must_use]
    pub fn new(now: Instant, local: &Local, own: Party, peer: Party, key: TunnelKey, pair: &PairKey) -> Self {
        Self {
            tunnel: local.tunnel_to(key, *pair.as_bytes()),
            former: None,
            keys: Keyring::new(pair),
            own,
            peer,
            routes: Routes::default(),
            phase: Phase::Idle,
            waiting: VecDeque::new(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            indices: VecDeque::with_capacity(MAX_INDICES),
            next_tick: now,
            heard: None,
        }
    }

    /// Takes a datagram that is presumably the peer's.
    pub fn handle_datagram(&mut self, now: Instant, incoming: Incoming) -> Received {
        if !matches!(incoming.0, WgKind::Data(_)) {
            // Of two sessions whose handshakes crossed each end sends on the younger. The Noise core knows their age as exactly
            // as it looks at its clock, and would change from one to the other and back where they seem to be of an age.
            self.next_tick = now;
        }
        self.tick(now);
        let (proves, ends_handshake) = match &incoming.0 {
            // An initiation proves nothing yet: it may be an old one, if this client has just started.
            WgKind::HandshakeInit(_) | WgKind::CookieReply(_) => (false, false),
            WgKind::HandshakeResp(_) => (true, true),
            WgKind::Data(_) => (true, false),
        };
        let data = if let WgKind::Data(data) = &incoming.0 { Some(data.header.receiver_idx.get()) } else { None };
        let (result, is_former) = match (&mut self.former, data) {
            (Some(former), Some(index)) if former.owns(index) => {
                (former.tunnel.handle_incoming_packet(incoming.0), true)
            }
            _ => (self.handle_incoming(incoming.0), false),
        };
        if let Some(index) = data.filter(|_| !matches!(result, TunnResult::Err(_))) {
            self.keys.handle_proof(index);
        }
        let received = match result {
            TunnResult::Done => Received::Nothing,
            TunnResult::Err(error) if is_foreign(&error) => return Received::Refused(Refusal::Foreign),
            TunnResult::Err(_) => return Received::Refused(Refusal::Replayed),
            TunnResult::WriteToNetwork(datagram) => {
                self.transmit(datagram);
                Received::Nothing
            }
            TunnResult::WriteToTunnel(packet) => self.receive(packet),
        };
        if proves {
            self.heard = Some(now);
            if let Some(former) = self.former.as_mut().filter(|_| !is_former) {
                former.retire(now);
            }
            self.establish(now, ends_handshake);
        }
        received
    }

    /// Takes a packet of this client's adapter, for the peer; the datagram goes on the way that the caller likes best.
    ///
    /// Without keys the packet waits, and a handshake begins. At most 64 wait: a newer one replaces the oldest.
    ///
    /// # Errors
    /// [`Refusal::Malformed`] and [`Refusal::SpoofedSource`].
    pub fn handle_packet(&mut self, now: Instant, packet: &[u8]) -> Result<Option<BytesMut>, Refusal> {
        let inner = InnerPacket::parse(packet).filter(|_| packet.len() <= INNER_MTU).ok_or(Refusal::Malformed)?;
        let answers = || self.routes.own_has(&inner) && inner.is_to(&self.peer.addresses);
        if !inner.is_from(&self.own.addresses) && !answers() {
            return Err(Refusal::SpoofedSource);
        }
        if self.phase == Phase::Established
            && let Some(sealed) = self.seal(inner.bytes)
        {
            return Ok(Some(sealed));
        }
        if self.waiting.len() == MAX_WAITING {
            self.waiting.pop_front();
        }
        self.waiting.push_back(inner.bytes.to_vec());
        self.initiate(now);
        Ok(None)
    }

    /// The datagram that carries `frame`; `None` without keys.
    pub fn handle_frame(&mut self, frame: &Frame) -> Option<BytesMut> {
        if self.phase != Phase::Established {
            return None;
        }
        self.seal(&frame.encode(self.own.client, self.peer.client))
    }

    /// Does what is due at `now`.
    pub fn handle_deadline(&mut self, now: Instant) {
        self.tick(now);
        if let Phase::Initiating { attempt, retry, until } = self.phase
            && retry <= now
        {
            if until <= now {
                self.phase = Phase::Idle;
                self.waiting.clear();
            } else {
                self.send_initiation();
                let retry = now + retry_delay(attempt);
                self.phase = Phase::Initiating { attempt: attempt + 1, retry, until };
            }
        }
    }

    /// When [`Session::handle_deadline`] is due.
    #[must_use]
    pub fn poll_deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Idle => None,
            Phase::Initiating { retry, .. } => Some(retry.min(self.next_tick)),
            Phase::Established => Some(self.next_tick),
        }
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<BytesMut> {
        self.transmits.pop_front()
    }

    /// The next thing to know.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Begins a handshake, unless one is under way.
    pub fn initiate(&mut self, now: Instant) {
        if !matches!(self.phase, Phase::Initiating { .. }) {
            self.restart(now);
        }
    }

    /// Begins a handshake at once, whatever is under way: there is a new path, or the peer seems to have lost its keys.
    /// Keys that exist stay in use until then.
    pub fn restart(&mut self, now: Instant) {
        self.tick(now);
        self.send_initiation();
        if self.phase != Phase::Established {
            self.phase = Phase::Initiating { attempt: 1, retry: now + retry_delay(0), until: now + GIVE_UP };
        }
    }

    /// Begins a handshake like [`Session::restart`], whose first message the caller takes to the peer in a way of its own:
    /// within the join of a relay.
    pub fn initiation(&mut self, now: Instant) -> Option<BytesMut> {
        self.restart(now);
        self.transmits.pop_back()
    }

    /// Mixes another pair key into handshakes from now on, and accepts no other. Tells whether it is another one.
    pub fn rekey(&mut self, pair: &PairKey) -> bool {
        let newer = self.keys.add(pair);
        if newer {
            self.keys.forget_older();
        }
        newer
    }

    /// Mixes a newer key of the pair into handshakes from now on, and accepts the ones before it until the peer has shown that
    /// it has this one. Tells whether it is a newer one.
    pub fn renew_key(&mut self, pair: &PairKey) -> bool {
        self.keys.add(pair)
    }

    /// One of the ends has another static key. Packets go on under the keys that were agreed on before, until the handshake
    /// that begins now is done.
    pub fn succeed(&mut self, now: Instant, local: &Local, key: TunnelKey) {
        let tunnel = std::mem::replace(&mut self.tunnel, local.tunnel_to(key, *self.keys.newest().as_bytes()));
        let indices = std::mem::take(&mut self.indices);
        if self.phase == Phase::Established && !self.is_under_former_keys() {
            self.former = Some(Former::new(now, tunnel, indices));
        }
        if self.phase == Phase::Established || !self.waiting.is_empty() {
            self.restart(now);
        }
    }

    /// Whether packets still go under the static keys before.
    #[must_use]
    pub fn is_under_former_keys(&self) -> bool {
        self.former.as_ref().is_some_and(Former::sends)
    }

    /// The newest key of the pair.
    #[must_use]
    pub fn newest_key(&self) -> &PairKey {
        self.keys.newest()
    }

    /// Accepts this key, too, until the peer has shown that it has a newer one.
    pub fn accept_older(&mut self, pair: &PairKey) {
        self.keys.add_older(pair);
    }

    /// Accepts no key but the newest any more.
    pub fn forget_older_keys(&mut self) {
        self.keys.forget_older();
    }

    /// Whether the peer may still use an older key.
    #[must_use]
    pub fn accepts_older_keys(&self) -> bool {
        self.keys.has_older()
    }

    /// The ends have other addresses now.
    pub fn readdress(&mut self, own: VirtualAddresses, peer: VirtualAddresses) {
        self.own.addresses = own;
        self.peer.addresses = peer;
    }

    /// The ends lead each other to these networks from now on: whoever does may pass on what comes from there for the other end.
    pub fn route(&mut self, routes: Routes) {
        self.routes = routes;
    }

    /// Whether packets pass.
    #[must_use]
    pub fn is_established(&self) -> bool {
        self.phase == Phase::Established
    }

    /// When the peer last proved to be there.
    #[must_use]
    pub const fn heard(&self) -> Option<Instant> {
        self.heard
    }

    /// Whether a datagram for this receiver index is for this session.
    #[must_use]
    pub fn owns(&self, index: u32) -> bool {
        self.indices.contains(&index) || self.former.as_ref().is_some_and(|former| former.owns(index))
    }

    /// Lets the Noise core look at a datagram, with whichever of the pair's keys fits.
    fn handle_incoming(&mut self, incoming: WgKind) -> TunnResult {
        match incoming {
            WgKind::HandshakeInit(_) => {
                let before = self.keys.answered();
                let (number, key) = self.keys.answer();
                self.tunnel.set_preshared_key(Some(*key.as_bytes()));
                let result = self.tunnel.handle_incoming_packet(incoming);
                if let TunnResult::WriteToNetwork(WgKind::HandshakeResp(response)) = &result {
                    self.keys.note(response.sender_idx.get(), number);
                } else {
                    self.keys.unanswer(before);
                }
                result
            }
            WgKind::HandshakeResp(response) => {
                let index = response.receiver_idx.get();
                let mut result = TunnResult::Done;
                // What cannot be read leaves the handshake as it was.
                for (number, key) in self.keys.tries() {
                    self.tunnel.set_preshared_key(Some(*key.as_bytes()));
                    result = self.tunnel.handle_incoming_packet(WgKind::HandshakeResp(Packet::copy_from(&*response)));
                    if !matches!(result, TunnResult::Err(_)) {
                        self.keys.note(index, number);
                        self.keys.handle_proof(index);
                        break;
                    }
                }
                result
            }
            WgKind::CookieReply(_) | WgKind::Data(_) => self.tunnel.handle_incoming_packet(incoming),
        }
    }

    fn establish(&mut self, now: Instant, by_response: bool) {
        if self.phase == Phase::Established && !by_response {
            return;
        }
        if self.phase != Phase::Established {
            self.events.push_back(Event::Established);
            self.next_tick = now + TICK;
        }
        self.phase = Phase::Established;
        while let Some(packet) = self.waiting.pop_front() {
            if let Some(sealed) = self.seal(&packet) {
                self.transmits.push_back(sealed);
            }
        }
    }

    /// What the peer's packet is, once it is known that it is the peer's.
    fn receive(&self, mut packet: Packet) -> Received {
        if packet.is_empty() {
            return Received::Nothing;
        }
        let Some(inner) = InnerPacket::parse(&packet) else {
            return Received::Refused(Refusal::Malformed);
        };
        if Frame::is_in(&inner) {
            return Frame::decode(&inner).map_or(Received::Nothing, Received::Frame);
        }
        let answers = || self.routes.peer_has(&inner) && inner.is_to(&self.own.addresses);
        if !inner.is_from(&self.peer.addresses) && !answers() {
            return Received::Refused(Refusal::SpoofedSource);
        }
        let length = inner.bytes.len();
        packet.truncate(length);
        Received::Packet(packet.buf_mut().split())
    }

    fn seal(&mut self, packet: &[u8]) -> Option<BytesMut> {
        let packet = Packet::from_bytes(BytesMut::from(packet));
        let former = self.former.as_mut().filter(|former| former.sends());
        let tunnel = former.map_or(&mut self.tunnel, |former| &mut former.tunnel);
        let sealed = tunnel.encapsulate_with_session(packet).ok()?;
        Some(sealed.into_bytes().buf_mut().split())
    }

    fn send_initiation(&mut self) {
        if let Some(initiation) = self.tunnel.format_handshake_initiation(true) {
            self.transmit(initiation.into());
        }
    }

    fn transmit(&mut self, datagram: WgKind) {
        if let WgKind::HandshakeInit(_) | WgKind::HandshakeResp(_) = datagram {
            let index = match &datagram {
                WgKind::HandshakeInit(init) => init.sender_idx.get(),
                WgKind::HandshakeResp(response) => response.sender_idx.get(),
                WgKind::CookieReply(_) | WgKind::Data(_) => return,
            };
            if self.indices.len() == MAX_INDICES {
                self.indices.pop_front();
            }
            self.indices.push_back(index);
        }
        self.transmits.push_back(Packet::from(datagram).buf_mut().split());
    }

    /// The keys before are not heard under any more, or they are too old and the peer did not take up the new ones.
    fn end_former(&mut self, now: Instant) {
        if self.former.take_if(|former| former.is_over(now)).is_some_and(|former| former.sends()) {
            self.phase = Phase::Idle;
            self.events.push_back(Event::Lapsed);
        }
    }

    /// Lets the Noise core look at its own clock.
    fn tick(&mut self, now: Instant) {
        if now < self.next_tick {
            return;
        }
        self.next_tick = now + TICK;
        self.end_former(now);
        match self.tunnel.update_timers() {
            Ok(Some(datagram)) => self.transmit(datagram),
            Ok(None) => {}
            // Neither key nor handshake is left. The core stays in that state until it is told to begin anew.
            Err(_) => {
                self.tunnel.reset();
                if self.is_under_former_keys() {
                    self.send_initiation();
                } else if self.phase == Phase::Established {
                    self.phase = Phase::Idle;
                    self.events.push_back(Event::Lapsed);
                }
            }
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("peer", &self.peer).field("phase", &self.phase).finish_non_exhaustive()
    }
}

/// Half a second, doubled each time, at most WireGuard's own 5 s.
fn retry_delay(attempt: u32) -> Duration {
    (FIRST_RETRY * (1 << attempt.min(4))).min(LAST_RETRY)
}

/// Packets that may wait for a handshake.
const MAX_WAITING: usize = 64;
/// The Noise core keeps eight sessions and two handshakes.
const MAX_INDICES: usize = 16;
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(5);
/// As WireGuard's Rekey-Attempt-Time.
const GIVE_UP: Duration = Duration::from_secs(90);
/// How often the Noise core looks at its clock; its own times are seconds.
const TICK: Duration = Duration::from_secs(1);
