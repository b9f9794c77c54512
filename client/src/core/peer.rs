//! One peer: its tunnel, the ways to it, and whether it is alive.
//!
//! **Liveness.** The server says that a peer is up, down (goodbye) or lost (vanished). When it says lost, and when the server
//! itself is lost, the tunnel is asked at once and every 5 s; it is kept whatever happens. A peer that is silent for 15 s of
//! that counts as offline. While no server answers, the last known endpoints are tried as well, for as long as it takes: a
//! peer that restarted tries ours.

mod copies;
mod facts;
mod hearing;
mod legs;
mod liveness;
mod overlap;
mod relaying;
mod silence;
mod standing;
mod ways;

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use domain::{ClientId, PeerPresence, RelayOffer, VirtualAddresses};
use rand::{Rng as _, rngs::StdRng};
use traversal::path::{self, Path};
use tunnel::{Frame, Incoming, Local, PairKey, Party, Received, Refusal, Route, Session};
use wire::control::Request;

use super::{
    Output,
    canary::Canary,
    cookies::Cookies,
    leg::{self, Leg},
    streams::Streams,
    view::Acquaintance,
};
use crate::{settings::PathPolicy, sockets::SocketId};
use copies::Copies;
use overlap::Overlap;
use relaying::Relaying;

/// Everything about one peer.
#[derive(Debug)]
pub(crate) struct Peer {
    id: ClientId,
    pub(crate) about: Acquaintance,
    pub(crate) presence: PeerPresence,
    session: Session,
    path: Path,
    /// Where it is or may be, newest first, with the sockets that reach it there.
    endpoints: VecDeque<Endpoint>,
    leg: Option<Leg>,
    /// Joins while `leg` still carries: make before break.
    next_leg: Option<Leg>,
    relaying: Relaying,
    /// Where it was or says it is, best first; tried while no server helps.
    hints: Vec<SocketAddr>,
    doubt: Option<Doubt>,
    wish: Wish,
    eager: bool,
    /// When a packet last went to it or came from it.
    used: Option<Instant>,
    /// Sealed packets that would overtake others, or wait for the relay to take this client's new address.
    held: VecDeque<BytesMut>,
    /// This client's network changed: the peer is told as soon as a relay carries that.
    moved: bool,
    /// And so the server is asked for a punch, at the next session at the latest.
    renegotiate: bool,
    /// Numbers of the probes that a user waits for.
    pings: VecDeque<u64>,
    copies: Copies,
    overlap: Overlap,
    /// Until when packets pass although it is not proven that it is a member.
    unproven: Option<Instant>,
    /// What it said that is for the core: about memberships, and to the user.
    rumours: VecDeque<Frame>,
    established: bool,
    pub(crate) received_bytes: u64,
    pub(crate) sent_bytes: u64,
}

/// A direct way: our socket, their address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Endpoint {
    pub(crate) socket: SocketId,
    pub(crate) address: SocketAddr,
}

/// Which way a datagram came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Direct(Endpoint),
    Relay,
}

/// What every step of a peer needs of the core.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    pub(crate) now: Instant,
    pub(crate) own: ClientId,
    /// Time stamps in probes count from here.
    pub(crate) start: Instant,
    pub(crate) outputs: &'a mut VecDeque<Output>,
    /// Set when something changed that is kept over restarts.
    pub(crate) changed: &'a mut bool,
    /// Whether there is a control session.
    pub(crate) online: bool,
    pub(crate) policy: PathPolicy,
    /// A relay had to be reached over a stream.
    pub(crate) udp_blocked: bool,
    /// Where this client can be reached, for the peer to remember.
    pub(crate) own_hints: &'a [SocketAddr],
    /// How long the own NAT remembers a silent flow, if that was measured.
    pub(crate) lifetime: Option<Duration>,
    pub(crate) random: &'a mut StdRng,
    /// For legs on relays that know this client's address already.
    pub(crate) cookies: &'a Cookies,
    /// Tells a relay that is gone from UDP that is blocked.
    pub(crate) canary: &'a mut Canary,
}

/// Whether the peer is still there, in question since.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    since: Instant,
    next: Instant,
    dead: bool,
}

/// When the server is asked for a path.
#[derive(Clone, Copy, Debug)]
struct Wish {
    next: Instant,
    asked: u32,
}

impl Peer {
    pub(crate) fn new(turn: &mut Turn<'_>, local: &Local, own: Party, about: Acquaintance, key: &PairKey) -> Self {
        let id = about.member.client;
        let other = Party { client: id, addresses: about.member.addresses };
        let session = Session::new(turn.now, local, own, other, about.member.tunnel, key);
        Self {
            id,
            about,
            presence: PeerPresence::Offline,
            session,
            path: fresh_path(turn),
            endpoints: VecDeque::new(),
            leg: None,
            next_leg: None,
            relaying: Relaying::default(),
            hints: Vec::new(),
            doubt: None,
            wish: Wish { next: turn.now, asked: 0 },
            eager: false,
            used: None,
            held: VecDeque::new(),
            moved: false,
            renegotiate: false,
            pings: VecDeque::new(),
            copies: Copies::new(turn.now),
            overlap: Overlap::default(),
            unproven: None,
            rumours: VecDeque::new(),
            established: false,
            received_bytes: 0,
            sent_bytes: 0,
        }
    }

    /// Takes what the server says now about the member. `before` is the key that the pair had before the newest secret of its
    /// network.
    pub(crate) fn update(
        &mut self,
        turn: &mut Turn<'_>,
        own: VirtualAddresses,
        about: Acquaintance,
        key: &PairKey,
        before: Option<&PairKey>,
    ) {
        let renewed = before == Some(self.session.newest_key());
        let newer = if renewed { self.session.renew_key(key) } else { self.session.rekey(key) };
        self.session.readdress(own, about.member.addresses);
        self.about = about;
        // The tunnel goes on under the older key until this handshake is done.
        if newer && self.session.is_established() {
            self.session.restart(turn.now);
            self.flush(turn, None);
        }
    }

    /// The ends lead each other to these networks from now on.
    pub(crate) fn route(&mut self, routes: tunnel::Routes) {
        self.session.route(routes);
    }

    /// One of the ends has a later tunnel key.
    pub(crate) fn succeed(&mut self, turn: &mut Turn<'_>, local: &Local) {
        self.session.succeed(turn.now, local, self.about.member.tunnel);
        self.flush(turn, None);
    }

    #[cfg(test)]
    pub(crate) fn accepts_older_keys(&self) -> bool {
        self.session.accepts_older_keys()
    }

    /// The peer may still have this key.
    pub(crate) fn accept_older(&mut self, key: &PairKey) {
        self.session.accept_older(key);
    }

    /// Takes a datagram of the tunnel that presumably is from this peer. Returns the packet for the adapter.
    pub(crate) fn handle_datagram(
        &mut self,
        turn: &mut Turn<'_>,
        origin: Origin,
        incoming: Incoming,
    ) -> Result<Option<BytesMut>, Refusal> {
        let allowed = match origin {
            Origin::Direct(_) => turn.policy != PathPolicy::Relay,
            Origin::Relay => turn.policy != PathPolicy::Direct,
        };
        if !allowed {
            return Err(Refusal::Foreign);
        }
        if origin == Origin::Relay {
            self.relaying.handle_heard();
        }
        let (initiation, handshake) = (incoming.is_initiation(), incoming.is_handshake());
        let received = self.session.handle_datagram(turn.now, incoming);
        self.flush(turn, Some(origin));
        if self.session.heard() == Some(turn.now) && !matches!(received, Received::Refused(Refusal::Foreign)) {
            self.hear(turn, origin);
        }
        if handshake && matches!(received, Received::Nothing) {
            self.copies.handle_handshake();
        }
        match received {
            Received::Packet(_) if self.is_barred(turn.now) => return Err(Refusal::Unproven),
            Received::Packet(packet) => {
                self.received_bytes += packet.len() as u64;
                self.used = Some(turn.now);
                return Ok(Some(packet));
            }
            Received::Frame(frame) => self.handle_frame(turn, origin, frame),
            // It restarted, or cannot be reached where we think.
            Received::Nothing if initiation && self.path.current() != Some(origin.path()) => self.question(turn),
            Received::Nothing => {}
            Received::Refused(refusal) => return Err(refusal),
        }
        Ok(None)
    }

    /// Sends a packet of the adapter.
    pub(crate) fn handle_packet(&mut self, turn: &mut Turn<'_>, packet: &[u8]) -> Result<(), Refusal> {
        self.used = Some(turn.now);
        if self.is_barred(turn.now) {
            if !self.session.is_established() {
                self.session.initiate(turn.now);
            }
            self.flush(turn, None);
            self.wish_soon(turn);
            return Err(Refusal::Unproven);
        }
        let sealed = self.session.handle_packet(turn.now, packet)?;
        match sealed {
            Some(datagram) => {
                self.sent_bytes += packet.len() as u64;
                self.send_in_order(turn, datagram);
                self.note_sent(turn.now);
                self.path.handle_sent(turn.now);
                self.drain_path(turn);
            }
            None => self.flush(turn, None),
        }
        self.wish_soon(turn);
        Ok(())
    }

    /// This client can be reached elsewhere now.
    pub(crate) fn tell_hints(&mut self, turn: &mut Turn<'_>) {
        self.say_everywhere(turn, &Frame::Hints(turn.own_hints.to_vec()));
    }

    fn note_sent(&mut self, now: Instant) {
        if self.is_relayed()
            && let Some(leg) = &mut self.leg
        {
            leg.handle_sent(now);
        }
        self.note_silence(now);
    }

    /// This machine's network changed: the relay learns the new address at once, and through it the peer.
    pub(crate) fn handle_network_change(&mut self, turn: &mut Turn<'_>) {
        for leg in [&mut self.leg, &mut self.next_leg].into_iter().flatten() {
            leg.handle_network_change(turn.now);
        }
        self.flush_legs(turn);
        self.moved = true;
        self.renegotiate = self.path.current().is_some() && self.is_wanted(turn.now);
        self.path.handle_network_change(turn.now);
        self.drain_path(turn);
        self.tell_hints(turn);
        self.begin_doubt(turn);
    }

    /// A control session began.
    pub(crate) fn handle_session(&mut self, turn: &mut Turn<'_>) {
        if std::mem::take(&mut self.renegotiate) && self.presence == PeerPresence::Online {
            turn.outputs.push_back(Output::Ask(Request::Connect(self.id)));
        }
    }

    /// It is known, or no longer, how long this client's NAT remembers a flow.
    pub(crate) fn handle_lifetime(&mut self, turn: &mut Turn<'_>) {
        self.path.handle_lifetime(turn.lifetime);
    }

    /// What the last run knew.
    pub(crate) fn restore(&mut self, turn: &mut Turn<'_>, hints: Vec<SocketAddr>, offer: Option<RelayOffer>) {
        self.hints = hints;
        if let Some(offer) = offer {
            self.handle_offer(turn, offer);
        }
    }

    /// Says that this client leaves on purpose.
    pub(crate) fn say_farewell(&mut self, turn: &mut Turn<'_>) {
        self.say_everywhere(turn, &Frame::Farewell);
    }

    /// Whether to keep ways open while nothing is sent.
    pub(crate) fn set_eager(&mut self, turn: &mut Turn<'_>, eager: bool) {
        let before = std::mem::replace(&mut self.eager, eager);
        let recent = self.used.is_some_and(|used| turn.now.saturating_duration_since(used) < LAPSE);
        if !eager && !recent && self.doubt.is_none() && self.has_ways() {
            self.forget_ways(turn);
        }
        if eager && !before && self.has_ways() {
            self.session_on_new_way(turn);
        }
    }

    /// Does what is due.
    pub(crate) fn handle_deadline(&mut self, turn: &mut Turn<'_>) {
        self.session.handle_deadline(turn.now);
        self.flush(turn, None);
        for leg in [&mut self.leg, &mut self.next_leg].into_iter().flatten() {
            leg.handle_deadline(turn.now);
        }
        if self.next_leg.as_ref().is_some_and(Leg::is_ended) {
            self.next_leg = None;
        }
        if self.leg.as_ref().is_some_and(Leg::is_ended) {
            self.leg = None;
            self.path.handle_relay_down(turn.now);
        }
        self.flush_legs(turn);
        self.tend_relay(turn);
        self.tend_keys(turn);
        self.check(turn);
        self.path.handle_timeout(turn.now);
        self.drain_path(turn);
        self.send_held(turn);
        self.wish_for_path(turn);
    }

    /// When [`Peer::handle_deadline`] is due.
    pub(crate) fn poll_deadline(&self, now: Instant, online: bool) -> Option<Instant> {
        let legs = [&self.leg, &self.next_leg].into_iter().flatten().filter_map(Leg::poll_deadline).min();
        let doubt = self.doubt.map(|doubt| doubt.next);
        let wish = (online && self.presence == PeerPresence::Online && self.wishes()).then_some(self.wish.next);
        let held = self.path.holds(now).filter(|_| !self.held.is_empty());
        let relaying = self.relaying.poll_deadline();
        let keys = self.poll_keys(now, online);
        let own = [self.session.poll_deadline(), self.path.poll_timeout(now), legs, doubt, wish, held, relaying, keys];
        own.into_iter().flatten().min()
    }

    /// The peer left: nothing is kept open, but where it was is remembered.
    fn forget_ways(&mut self, turn: &mut Turn<'_>) {
        let (hints, _) = self.saved_ways();
        self.hints = hints;
        self.doubt = None;
        self.endpoints.clear();
        self.leg = None;
        self.next_leg = None;
        self.relaying = Relaying::default();
        self.held.clear();
        self.renegotiate = false;
        self.path = fresh_path(turn);
        *turn.changed = true;
    }
}

impl Origin {
    const fn path(self) -> path::Route {
        match self {
            Self::Direct(endpoint) => path::Route::Direct(endpoint.address),
            Self::Relay => path::Route::Relay,
        }
    }

    const fn route(self) -> Route {
        match self {
            Self::Direct(_) => Route::Direct,
            Self::Relay => Route::Relay,
        }
    }
}

fn send_to(turn: &mut Turn<'_>, endpoint: Endpoint, datagram: BytesMut) {
    let Endpoint { socket, address } = endpoint;
    turn.outputs.push_back(Output::Send { socket, to: address, ttl: None, datagram });
}

fn fresh_path(turn: &mut Turn<'_>) -> Path {
    let mut path = Path::new(turn.random.random());
    path.handle_lifetime(turn.lifetime);
    path
}

fn micros(turn: &Turn<'_>) -> u64 {
    u64::try_from(turn.now.saturating_duration_since(turn.start).as_micros()).unwrap_or(u64::MAX)
}

/// Idle tunnels beyond the eager ones are kept for this long.
const LAPSE: Duration = Duration::from_secs(600);
const FIRST_WISH: Duration = Duration::from_secs(2);
