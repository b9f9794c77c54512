//! One end of a relayed pair.
//!
//! The leg joins with its ticket: the relay answers the first try with a challenge, which proves that the leg has the address
//! it sends from, and the second with a slot. From then on a datagram travels with eight bytes in front. A ping every 20 s
//! keeps the NATs open; a leg whose pings stay unanswered joins again, from whatever address it has by then.
//!
//! With a cookie that was fetched before (see `cookies`) there is no challenge, and the first message of the tunnel's handshake
//! goes to the peer within the join: joining costs the pair no time. Only the first try takes it along. Should it stay
//! unanswered, lost or not understood by an older relay, the next ones are plain joins, and the handshake begins after them.
//!
//! There are two roads to a relay, UDP and a stream over TLS; one of them carries. A leg that UDP does not get through for
//! [`UNANSWERED`] asks for the stream, and joins over it as soon as it is open: the relay takes a leg that moved like any
//! other. Silence after what is sent over UDP is the owner's to notice, who knows whether a stream would help or another
//! relay; a stream, which loses nothing and may be slow, is given up after a few seconds and four pings. From the stream UDP is
//! tried again every [`PROBE`], by a question that moves nothing: only when its answer came does the leg go back.

mod road;

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use domain::{RelayId, RelayOffer, StreamEndpoint};
use wire::{
    Code,
    relay::{Cookie, HEADER_SIZE, Join, JoinId, MAX_FIRST, Message, Slot, join_id, prove},
    ticket::{LegKey, TICKET_SIZE},
};

use super::{cookies::Cookies, notice::Notice};
use road::{GIVES_UP, Kind, PING_AGAIN, Phase, Road, UNCHALLENGED};

/// The client's side of one leg.
#[derive(Debug)]
pub(crate) struct Leg {
    offer: RelayOffer,
    /// `None` in an offer that this version cannot use.
    ticket: Option<[u8; TICKET_SIZE]>,
    /// Which of the relay's UDP endpoints is used.
    place: usize,
    udp: Road,
    stream: Road,
    /// Names the relay's stream while that is open.
    stream_address: Option<SocketAddr>,
    /// UDP does not get through: the stream is wanted.
    falls: bool,
    /// The stream is open, but nothing comes back.
    stream_fails: bool,
    /// It was open, and ended.
    stream_broke: bool,
    /// Which road carries.
    carrier: Option<Kind>,
    /// A pair that joins again from elsewhere keeps it.
    slot: Option<Slot>,
    first: Option<First>,
    /// The join that the relay took had the first packet with it.
    brought: bool,
    ended: bool,
    /// Why the relay holds datagrams back.
    notice: Notice,
    transmits: VecDeque<(SocketAddr, BytesMut)>,
}

/// A packet that goes to the peer within a join.
#[derive(Debug)]
struct First {
    packet: BytesMut,
    /// Until when it is worth sending.
    until: Instant,
}

/// What the owner of a leg must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// The relay answered: both ways work.
    Joined,
    /// The relay has what it needs to know this leg again, so datagrams can follow.
    Returned,
    /// The leg is over.
    Ended,
    /// The leg is over before it began: the relay takes no more pairs.
    Refused(Code),
    /// The relay is being emptied.
    Drains,
}

impl Leg {
    /// A leg that joins over UDP at once; with a cookie for this client's address it need not be challenged. It joins over the
    /// stream as well when UDP `is_blocked` for others. `first` goes to the peer with the first join.
    pub(crate) fn new(
        now: Instant,
        offer: RelayOffer,
        cookies: &Cookies,
        is_blocked: bool,
        first: Option<BytesMut>,
    ) -> Self {
        let ticket = offer.ticket.as_slice().try_into().ok();
        let mut leg = Self {
            ticket,
            place: 0,
            udp: Road::new(now),
            stream: Road::new(now),
            stream_address: None,
            falls: is_blocked && !offer.streams.is_empty(),
            stream_fails: false,
            stream_broke: false,
            carrier: None,
            slot: None,
            first: first.map(|packet| First { packet, until: now + FIRST_LIFETIME }),
            brought: false,
            ended: false,
            notice: Notice::default(),
            transmits: VecDeque::new(),
            offer,
        };
        leg.udp.begin(now);
        leg.udp.brings = true;
        if let Some(cookie) = cookies.of(now, leg.udp_address()) {
            leg.udp.phase = Phase::Joining { cookie, join: JoinId([0; 8]) };
        }
        leg.handle_deadline(now);
        leg
    }

    /// A message of the relay for this leg.
    pub(crate) fn handle_message(&mut self, now: Instant, from: SocketAddr, message: &Message<'_>) -> Option<News> {
        let kind = if Some(from) == self.stream_address { Kind::Stream } else { Kind::Udp };
        self.hear(now, kind);
        match (self.road(kind).phase, message) {
            (Phase::Joining { cookie: old, join }, Message::Challenge { cookie }) if old != *cookie => {
                self.road(kind).phase = Phase::Joining { cookie: *cookie, join };
                self.join(now, kind);
                (self.carrier.is_none() && self.carries()).then_some(News::Returned)
            }
            (Phase::Joining { .. }, Message::Joined { slot, .. }) => self.handle_joined(now, kind, *slot),
            // The relay took a join that this side had given up, and sends there now: UDP has to join anew.
            (Phase::Left { .. }, Message::Joined { .. }) => {
                self.stream.phase = Phase::Idle;
                self.join_again(now);
                None
            }
            (Phase::Joining { .. }, Message::Refused { code: number, .. }) => {
                let code = Code::from_number(*number).map_or("unknown", Code::name);
                tracing::info!(relay = %self.offer.relay, code, "the relay refused");
                self.ended = true;
                match Code::from_number(*number) {
                    Some(code @ (Code::RelayFull | Code::RelayDraining)) => Some(News::Refused(code)),
                    Some(_) | None => Some(News::Ended),
                }
            }
            (Phase::Joined { .. }, Message::Pong { nonce, .. }) if self.road(kind).asked(*nonce) => {
                let road = self.road(kind);
                road.phase = Phase::Joined { unanswered: 0 };
                road.due = now + PING;
                None
            }
            (Phase::Joined { .. }, Message::Note { code, .. }) => {
                self.notice.handle_note(now, self.offer.relay, *code);
                (Code::from_number(*code) == Some(Code::RelayDraining)).then(|| {
                    // Still here: the relay ends pairs that seem to have gone.
                    self.ping(kind);
                    News::Drains
                })
            }
            _ => None,
        }
    }

    fn handle_joined(&mut self, now: Instant, kind: Kind, slot: Slot) -> Option<News> {
        let before = self.carrier.replace(kind);
        self.slot = Some(slot);
        self.brought = self.first.take().is_some() && self.road(kind).brings;
        let road = self.road(kind);
        road.phase = Phase::Joined { unanswered: 0 };
        road.tries = 0;
        road.due = now + PING;
        match kind {
            Kind::Udp => {
                self.falls = false;
                if let Phase::Joining { join, .. } = self.stream.phase {
                    self.stream.phase = Phase::Left { join };
                } else if before == Some(Kind::Stream) {
                    tracing::info!(relay = %self.offer.relay, "UDP works again: back from the stream");
                    self.stream.phase = Phase::Idle;
                }
            }
            Kind::Stream => {
                tracing::info!(relay = %self.offer.relay, "UDP is blocked: over a stream");
                self.udp.begin(now);
                let soon = now.saturating_duration_since(self.udp.heard) < FRESH;
                self.udp.due = now + if soon { MOVE_PAUSE } else { PROBE };
            }
        }
        before.is_none().then_some(News::Joined)
    }

    /// The relay's stream opened, or closed.
    pub(crate) fn handle_stream(&mut self, now: Instant, address: Option<SocketAddr>) {
        if self.stream_address == address || self.ended {
            return;
        }
        self.stream_broke = address.is_none();
        self.stream_address = address;
        self.stream_fails = false;
        self.stream.phase = Phase::Idle;
        if address.is_some() && self.falls {
            self.stream.begin(now);
            self.stream.brings = true;
            self.join(now, Kind::Stream);
        } else if address.is_none() && self.carrier == Some(Kind::Stream) {
            self.join_again(now);
        }
    }

    /// A datagram of the tunnel goes over this leg.
    pub(crate) fn handle_sent(&mut self, now: Instant) {
        if self.carrier == Some(Kind::Stream) {
            self.stream.handle_sent(now);
        }
    }

    /// A datagram of the tunnel came over this leg.
    pub(crate) fn handle_data(&mut self, now: Instant, from: SocketAddr) {
        if Some(from) == self.stream_address {
            self.hear(now, Kind::Stream);
        } else if from == self.udp_address() {
            self.hear(now, Kind::Udp);
        }
    }

    /// The relay knows this leg by an address that it may not have any more: it joins again, from where it is now.
    pub(crate) fn handle_network_change(&mut self, now: Instant) {
        if !self.ended {
            (self.stream_address, self.stream_broke) = (None, false);
            self.stream.phase = Phase::Idle;
            self.join_again(now);
        }
    }

    pub(crate) fn handle_deadline(&mut self, now: Instant) {
        self.notice.handle_deadline(now);
        if self.ended {
            return;
        }
        if self.falls_at().is_some_and(|due| due <= now) {
            self.fall(now);
        }
        if self.udp.due <= now {
            self.handle_udp(now);
        }
        if self.stream_address.is_some() && self.stream.due <= now {
            self.handle_stream_deadline(now);
        }
        if self.carrier == Some(Kind::Stream) && self.stream.doubts_now(now) {
            self.ping(Kind::Stream);
            self.stream_fails |= self.stream.doubts >= GIVES_UP;
        }
    }

    fn handle_udp(&mut self, now: Instant) {
        let streams = self.carrier == Some(Kind::Stream);
        match self.udp.phase {
            Phase::Idle | Phase::Left { .. } => {}
            Phase::Joining { cookie, .. } if streams => {
                self.udp.brings = false;
                if cookie == Cookie::default() || self.udp.tries >= TRIES_AT_ONE {
                    self.place += 1;
                    self.udp.begin(now);
                }
                self.join(now, Kind::Udp);
                if self.udp.is_unchallenged() {
                    self.udp.due = now + PROBE;
                }
            }
            Phase::Joining { .. } if self.udp.tries >= MAX_TRIES => self.ended = true,
            Phase::Joining { .. } => {
                if self.udp.tries > 0 && self.udp.tries.is_multiple_of(TRIES_AT_ONE) {
                    self.place += 1;
                    self.udp.phase = UNCHALLENGED;
                }
                self.udp.brings &= self.udp.tries == 0;
                self.join(now, Kind::Udp);
            }
            Phase::Joined { unanswered } if unanswered >= MAX_UNANSWERED => self.join_again(now),
            Phase::Joined { unanswered } => {
                self.udp.phase = Phase::Joined { unanswered: unanswered + 1 };
                self.udp.due = now + PING_AGAIN;
                self.ping(Kind::Udp);
            }
        }
    }

    fn handle_stream_deadline(&mut self, now: Instant) {
        match self.stream.phase {
            Phase::Idle | Phase::Left { .. } => {}
            Phase::Joining { .. } if self.stream.tries >= TRIES_AT_ONE => self.stream_fails = true,
            Phase::Joining { .. } => {
                self.stream.brings = false;
                self.join(now, Kind::Stream);
            }
            // The stream is there, but the relay has forgotten the pair.
            Phase::Joined { unanswered } if unanswered >= MAX_UNANSWERED => {
                self.stream.begin(now);
                self.join(now, Kind::Stream);
            }
            Phase::Joined { unanswered } => {
                self.stream.phase = Phase::Joined { unanswered: unanswered + 1 };
                self.stream.due = now + PING_AGAIN;
                self.ping(Kind::Stream);
            }
        }
    }

    /// Asks the relay for a sign of life, out of turn.
    pub(crate) fn ask(&mut self) {
        if let Some(kind) = self.carrier {
            self.ping(kind);
        }
    }

    pub(crate) fn poll_deadline(&self) -> Option<Instant> {
        if self.ended {
            return None;
        }
        let stream =
            self.stream_address.filter(|_| !self.stream_fails && self.stream.is_active()).map(|_| self.stream.due);
        let doubted = self.stream.doubted.filter(|_| self.carrier == Some(Kind::Stream));
        [Some(self.udp.due), stream, self.falls_at(), doubted, self.notice.poll_deadline()].into_iter().flatten().min()
    }

    pub(crate) fn poll_transmit(&mut self) -> Option<(SocketAddr, BytesMut)> {
        self.transmits.pop_front()
    }

    /// The datagram for the relay that carries a datagram of the tunnel; `None` while the relay would not take it.
    pub(crate) fn wrap(&self, datagram: &[u8]) -> Option<(SocketAddr, BytesMut)> {
        let slot = self.slot.filter(|_| self.carries())?;
        let mut bytes = BytesMut::zeroed(HEADER_SIZE + datagram.len());
        Message::Data { slot, payload: datagram }.write(&mut bytes);
        Some((self.address(), bytes))
    }

    /// Whether a message without a slot, or for this slot, is for this leg.
    pub(crate) fn is_for(&self, from: SocketAddr, message: &Message<'_>) -> bool {
        let road = if Some(from) == self.stream_address {
            &self.stream
        } else if from == self.udp_address() {
            &self.udp
        } else {
            return false;
        };
        match (message, road.phase) {
            (
                Message::Data { slot, .. } | Message::Pong { slot, .. } | Message::Note { slot, .. },
                Phase::Joined { .. },
            ) => self.carrier.is_some() && self.slot == Some(*slot),
            // A cookie is for the address, whichever leg it was that asked.
            (Message::Challenge { .. }, Phase::Joining { .. }) => true,
            (
                Message::Joined { join, .. } | Message::Refused { join, .. },
                Phase::Joining { join: own, .. } | Phase::Left { join: own },
            ) => *join == own,
            _ => false,
        }
    }

    /// Whether it joins there without a cookie.
    pub(crate) fn lacks_cookie_of(&self, relay: SocketAddr) -> bool {
        let road = if Some(relay) == self.stream_address { &self.stream } else { &self.udp };
        (Some(relay) == self.stream_address || relay == self.udp_address()) && road.is_unchallenged()
    }

    /// Whether the join that the relay took, since this was asked last, had the first packet with it.
    pub(crate) const fn has_brought(&mut self) -> bool {
        std::mem::replace(&mut self.brought, false)
    }

    /// Why the relay holds datagrams back, if it does.
    pub(crate) fn held_back(&self) -> Option<Code> {
        self.notice.code()
    }

    pub(crate) const fn is_joined(&self) -> bool {
        self.carrier.is_some()
    }

    /// Whether the relay takes datagrams: it answered, or what proves this leg is under way just ahead of them.
    pub(crate) fn carries(&self) -> bool {
        let proves = matches!(self.udp.phase, Phase::Joining { cookie, .. } if cookie != Cookie::default());
        !self.ended && (self.carrier.is_some() || self.slot.is_some() && proves)
    }

    /// Whether a stream carries.
    pub(crate) fn rides_stream(&self) -> bool {
        self.carrier == Some(Kind::Stream)
    }

    /// Whether a stream may help where UDP does not: it was not tried, or is on its way.
    pub(crate) fn may_stream(&self) -> bool {
        !self.offer.streams.is_empty() && !self.stream_broke && !self.rides_stream()
    }

    pub(crate) const fn is_ended(&self) -> bool {
        self.ended
    }

    /// Where datagrams of this leg come from, under which slot: what was on its way when the leg moved comes by the old road.
    pub(crate) fn slots(&self) -> impl Iterator<Item = (SocketAddr, Slot)> {
        self.slot.into_iter().flat_map(|slot| {
            [Some(self.udp_address()), self.stream_address].into_iter().flatten().map(move |address| (address, slot))
        })
    }

    /// Where the relay takes this leg's datagrams, and under which slot; `None` before it said so.
    pub(crate) fn seat(&self) -> Option<(SocketAddr, Slot)> {
        let slot = self.slot.filter(|_| self.is_joined() && !self.ended)?;
        Some((self.address(), slot))
    }

    /// The relay's endpoint in use; the name of the stream when that carries.
    pub(crate) fn address(&self) -> SocketAddr {
        match (self.carrier, self.stream_address) {
            (Some(Kind::Stream), Some(address)) => address,
            _ => self.udp_address(),
        }
    }

    /// Where a stream to the relay is wanted; `None` while UDP does.
    pub(crate) fn wished_stream(&self) -> Option<&[StreamEndpoint]> {
        (self.falls && !self.ended).then_some(&self.offer.streams)
    }

    /// The stream that is open is of no use: another one may be.
    pub(crate) const fn rejects_stream(&self) -> Option<SocketAddr> {
        if self.stream_fails { self.stream_address } else { None }
    }

    pub(crate) const fn relay(&self) -> RelayId {
        self.offer.relay
    }

    pub(crate) const fn offer(&self) -> &RelayOffer {
        &self.offer
    }

    fn road(&mut self, kind: Kind) -> &mut Road {
        match kind {
            Kind::Udp => &mut self.udp,
            Kind::Stream => &mut self.stream,
        }
    }

    fn udp_address(&self) -> SocketAddr {
        let endpoints = &self.offer.endpoints;
        match endpoints.get(self.place % endpoints.len().max(1)) {
            Some(endpoint) => *endpoint,
            None => SocketAddr::from(([0, 0, 0, 0], 0)),
        }
    }

    /// When a leg that nobody answers over UDP asks for a stream.
    fn falls_at(&self) -> Option<Instant> {
        let waits = !self.falls && self.carrier.is_none() && !self.offer.streams.is_empty();
        waits.then(|| self.udp.since + UNANSWERED)
    }

    /// UDP does not get through to this relay: a stream is wanted, if there can be one.
    pub(crate) fn fall(&mut self, now: Instant) {
        if self.offer.streams.is_empty() || self.ended {
            return;
        }
        self.falls = true;
        if self.stream_address.is_some() && !self.stream.is_active() {
            self.stream.begin(now);
            self.stream.brings = true;
            self.join(now, Kind::Stream);
        }
    }

    fn hear(&mut self, now: Instant, kind: Kind) {
        self.road(kind).handle_heard(now);
        // A join that is under way over the stream is not taken back: the relay may have taken it already.
        if kind == Kind::Udp && self.carrier == Some(Kind::Udp) && !self.stream.is_active() {
            self.falls = false;
        }
    }

    /// From an address that the relay may not know yet.
    fn join_again(&mut self, now: Instant) {
        self.carrier = None;
        self.udp.begin(now);
        self.join(now, Kind::Udp);
    }

    fn join(&mut self, now: Instant, kind: Kind) {
        let Phase::Joining { cookie, .. } = self.road(kind).phase else { return };
        let Some(ticket) = self.ticket.filter(|_| !self.offer.endpoints.is_empty()) else {
            self.ended = true;
            return;
        };
        let proof = prove(&LegKey(self.offer.leg_key), cookie, &ticket);
        let join = Join { cookie, ticket: &ticket, proof: &proof };
        let brings = self.road(kind).brings;
        let first = self.first.as_ref().filter(|first| brings && now < first.until && first.packet.len() <= MAX_FIRST);
        let message =
            first.map_or(Message::Join(join), |first| Message::JoinFirst { join, first: &first.packet }).to_vec();
        let brings = first.is_some();
        let road = self.road(kind);
        road.brings = brings;
        road.phase = Phase::Joining { cookie, join: join_id(&proof) };
        road.due = now + RETRY * (1 << road.tries.min(3));
        road.tries += 1;
        self.transmit(kind, &message);
    }

    fn ping(&mut self, kind: Kind) {
        let Some(slot) = self.slot else { return };
        let road = self.road(kind);
        road.nonce += 1;
        let nonce = road.nonce;
        self.transmit(kind, &Message::Ping { slot, nonce }.to_vec());
    }

    fn transmit(&mut self, kind: Kind, message: &[u8]) {
        let to = match kind {
            Kind::Udp => Some(self.udp_address()),
            Kind::Stream => self.stream_address,
        };
        self.transmits.extend(to.map(|to| (to, BytesMut::from(message))));
    }
}

/// How long UDP may stay unanswered before a stream is wanted: three tries.
const UNANSWERED: Duration = Duration::from_millis(1_250);
/// Between two tries of UDP while the stream carries.
const PROBE: Duration = Duration::from_secs(30);
/// UDP that was heard this recently is tried again as soon as the relay lets a leg move again.
const FRESH: Duration = Duration::from_secs(3);
const MOVE_PAUSE: Duration = Duration::from_millis(1_200);
const PING: Duration = Duration::from_secs(20);
const MAX_UNANSWERED: u32 = 3;
const RETRY: Duration = Duration::from_millis(250);
/// The tunnel repeats its first message after half a second, and takes an answer to either of the last two.
const FIRST_LIFETIME: Duration = Duration::from_secs(1);
const TRIES_AT_ONE: u32 = 4;
const MAX_TRIES: u32 = 12;
