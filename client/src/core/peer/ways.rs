//! Sending to the peer: over which socket, in which order, and what the path asks for.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use domain::PeerPresence;
use traversal::path;
use tunnel::{Event, Frame, Route};
use wire::control::Request;

use super::{Endpoint, Leg, Origin, Output, Peer, Turn, micros, send_to};
use crate::{settings::PathPolicy, sockets::SocketId};

impl Peer {
    /// A punch found a way.
    pub(crate) fn handle_punched(&mut self, turn: &mut Turn<'_>, endpoint: Endpoint, rtt: Duration) {
        if turn.policy == PathPolicy::Relay {
            return;
        }
        self.remember(endpoint);
        self.path.handle_direct(turn.now, endpoint.address, rtt);
        self.session_on_new_way(turn);
    }

    /// The connection that was a way is no more.
    pub(crate) fn handle_closed(&mut self, turn: &mut Turn<'_>, way: Endpoint) {
        if self.endpoints.contains(&way) {
            self.endpoints.retain(|endpoint| *endpoint != way);
            self.path.handle_closed(turn.now, way.address);
            self.drain_path(turn);
        }
    }

    /// Asks for an answer with this number on the way that is used; false when there is no tunnel.
    pub(crate) fn ping(&mut self, turn: &mut Turn<'_>, number: u64) -> bool {
        self.call(turn);
        if !self.session.is_established() {
            return false;
        }
        let sends = self.path.sends();
        if self.pings.len() == MAX_PINGS {
            self.pings.pop_front();
        }
        self.pings.push_back(number);
        for route in [sends.first, sends.also].into_iter().flatten() {
            self.probe(turn, route, number);
        }
        self.note_sent(turn.now);
        self.path.handle_sent(turn.now);
        self.drain_path(turn);
        sends.first.is_some()
    }

    /// Notes through which socket an address is reached.
    pub(super) fn remember(&mut self, endpoint: Endpoint) {
        if self.endpoints.front() == Some(&endpoint) {
            return;
        }
        self.endpoints.retain(|known| known.address != endpoint.address);
        self.endpoints.push_front(endpoint);
        self.endpoints.truncate(Frame::MAX_HINTS);
    }

    /// A handshake, or the proof that the old keys still work, as soon as there is a new way.
    pub(super) fn session_on_new_way(&mut self, turn: &mut Turn<'_>) {
        if !self.session.is_established() && self.is_wanted(turn.now) {
            self.session.restart(turn.now);
        }
        self.flush(turn, None);
        self.drain_path(turn);
    }

    /// What goes to the peer within the first join: the beginning of a handshake, where keys are missed.
    pub(super) fn first_packet(&mut self, now: Instant) -> Option<BytesMut> {
        let missed = !self.session.is_established() && self.is_wanted(now) && !self.has_joined();
        if missed { self.session.initiation(now) } else { None }
    }

    /// As on any new way, unless a handshake has begun within the join.
    pub(super) fn session_over_relay(&mut self, turn: &mut Turn<'_>) {
        if self.leg.as_mut().is_some_and(Leg::has_brought) {
            self.drain_path(turn);
        } else {
            self.session_on_new_way(turn);
        }
    }

    fn has_joined(&self) -> bool {
        self.leg.as_ref().is_some_and(Leg::is_joined)
    }

    /// Does what the path asks for.
    pub(super) fn drain_path(&mut self, turn: &mut Turn<'_>) {
        while let Some(probe) = self.path.poll_probe() {
            if self.session.is_established() {
                self.probe(turn, probe.route, probe.nonce);
            } else if self.is_wanted(turn.now) {
                self.session.initiate(turn.now);
                self.flush(turn, None);
            }
        }
        let mut ask = false;
        while let Some(event) = self.path.poll_event() {
            match event {
                path::Event::Switched(route) => {
                    let way = match route {
                        Some(path::Route::Direct(_)) => "direct",
                        Some(path::Route::Relay) => "relay",
                        None => "none",
                    };
                    tracing::info!(peer = %self.id, path = way, "the path to the peer changed");
                    *turn.changed = true;
                }
                path::Event::PunchWanted | path::Event::RelayWanted => ask = true,
                path::Event::RelayUnneeded => {
                    self.leg = None;
                    self.next_leg = None;
                }
                path::Event::Silent => tracing::info!(peer = %self.id, "the peer is silent"),
                path::Event::Alive => tracing::info!(peer = %self.id, "the peer answers again"),
            }
        }
        if ask && turn.online && self.presence == PeerPresence::Online {
            turn.outputs.push_back(Output::Ask(Request::Connect(self.id)));
        }
        self.drop_unused_sockets();
    }

    pub(super) fn probe(&mut self, turn: &mut Turn<'_>, route: path::Route, number: u64) {
        let named = match route {
            path::Route::Direct(_) => Route::Direct,
            path::Route::Relay => Route::Relay,
        };
        let probe = Frame::Probe { route: named, number, sent_us: micros(turn) };
        if let Some(datagram) = self.session.handle_frame(&probe) {
            self.send_on(turn, route, datagram);
        }
    }

    /// Sends what the session has, and reacts to what it says.
    pub(super) fn flush(&mut self, turn: &mut Turn<'_>, back: Option<Origin>) {
        while let Some(datagram) = self.session.poll_transmit() {
            match back {
                Some(origin) => self.send_back(turn, origin, datagram),
                None => self.send_everywhere(turn, &datagram),
            }
        }
        while let Some(event) = self.session.poll_event() {
            match event {
                Event::Established => {
                    tracing::info!(peer = %self.id, "the tunnel is up");
                    self.tell_hints(turn);
                    self.established = true;
                    *turn.changed = true;
                }
                Event::Lapsed => tracing::info!(peer = %self.id, "the tunnel lapsed"),
            }
        }
    }

    pub(super) fn flush_legs(&mut self, turn: &mut Turn<'_>) {
        for leg in [&mut self.leg, &mut self.next_leg].into_iter().flatten() {
            while let Some((to, datagram)) = leg.poll_transmit() {
                turn.outputs.push_back(Output::Send { socket: SocketId::MAIN, to, ttl: None, datagram });
            }
        }
    }

    /// Sends a packet after those that were sent before it, wherever they went.
    pub(super) fn send_in_order(&mut self, turn: &mut Turn<'_>, datagram: BytesMut) {
        if self.is_holding(turn.now) && self.held.len() < MAX_HELD {
            self.held.push_back(datagram);
        } else {
            self.release_held(turn);
            self.send(turn, datagram);
        }
    }

    /// Sends what was held, once it need not be any more.
    pub(super) fn send_held(&mut self, turn: &mut Turn<'_>) {
        if !self.is_holding(turn.now) {
            self.release_held(turn);
        }
    }

    pub(super) fn release_held(&mut self, turn: &mut Turn<'_>) {
        for datagram in std::mem::take(&mut self.held) {
            self.send(turn, datagram);
        }
    }

    /// Whether a packet now would overtake others, or be lost while the relay learns this client's address.
    pub(super) fn is_holding(&self, now: Instant) -> bool {
        let joins = (self.is_relayed() || self.path.current().is_none())
            && self.leg.as_ref().is_some_and(|leg| !leg.carries() && !leg.is_ended());
        joins || self.path.holds(now).is_some()
    }

    /// Forgets the ways over sockets of their own that the path has left. Nobody holds such a socket open then.
    pub(super) fn drop_unused_sockets(&mut self) {
        let path = &self.path;
        self.endpoints.retain(|endpoint| !endpoint.socket.is_punching() || path.knows(endpoint.address));
    }

    pub(super) fn send(&self, turn: &mut Turn<'_>, datagram: BytesMut) {
        let sends = self.path.sends();
        if let Some(also) = sends.also {
            self.send_on(turn, also, datagram.clone());
        }
        if let Some(first) = sends.first {
            self.send_on(turn, first, datagram);
        }
    }

    pub(super) fn send_back(&self, turn: &mut Turn<'_>, origin: Origin, datagram: BytesMut) {
        match origin {
            Origin::Direct(endpoint) => send_to(turn, endpoint, datagram),
            Origin::Relay => self.send_on(turn, path::Route::Relay, datagram),
        }
    }

    pub(super) fn send_on(&self, turn: &mut Turn<'_>, route: path::Route, datagram: BytesMut) {
        match route {
            path::Route::Direct(address) => {
                let known = self.endpoints.iter().find(|endpoint| endpoint.address == address).copied();
                let main = Endpoint { socket: SocketId::MAIN, address };
                send_to(turn, known.unwrap_or(main), datagram);
            }
            path::Route::Relay => {
                if let Some((to, datagram)) = self.leg.as_ref().and_then(|leg| leg.wrap(&datagram)) {
                    turn.outputs.push_back(Output::Send { socket: SocketId::MAIN, to, ttl: None, datagram });
                }
            }
        }
    }

    pub(super) fn say_everywhere(&mut self, turn: &mut Turn<'_>, frame: &Frame) {
        if let Some(datagram) = self.session.handle_frame(frame) {
            self.send_everywhere(turn, &datagram);
        }
    }

    /// On every way there may be; while no server helps, also to where the peer was.
    pub(super) fn send_everywhere(&self, turn: &mut Turn<'_>, datagram: &[u8]) {
        self.send_on(turn, path::Route::Relay, BytesMut::from(datagram));
        for &endpoint in &self.endpoints {
            send_to(turn, endpoint, BytesMut::from(datagram));
        }
        if self.doubt.is_some() && turn.policy != PathPolicy::Relay {
            for &address in &self.hints {
                if !self.addresses().any(|known| known == address) {
                    send_to(turn, Endpoint { socket: SocketId::MAIN, address }, BytesMut::from(datagram));
                }
            }
        }
    }
}

/// At 100 Mbit/s and 20 ms about 200 packets wait.
const MAX_HELD: usize = 512;

/// Probes that a user waits for; the oldest is forgotten for a newer one.
const MAX_PINGS: usize = 64;
