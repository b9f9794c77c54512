//! What others may know of a peer: for the command line, for the index of ways, and for the next start.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use domain::{RelayId, RelayOffer};
use traversal::path;
use tunnel::Frame;
use wire::{
    Code,
    relay::{Message, Slot},
};

use super::{Leg, Peer};
use crate::{command::PathKind, sockets::SocketId};

impl Peer {
    /// What the command line shows.
    pub(crate) fn path(&self) -> PathKind {
        if self.doubt.is_some_and(|doubt| doubt.dead) {
            return PathKind::None;
        }
        match self.path.current() {
            Some(path::Route::Direct(_)) if self.session.is_established() => PathKind::Direct,
            Some(path::Route::Relay) if self.session.is_established() => PathKind::Relay,
            Some(_) | None => PathKind::None,
        }
    }

    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.path.rtt()
    }

    pub(crate) const fn used(&self) -> Option<Instant> {
        self.used
    }

    /// Where datagrams go now.
    pub(crate) fn endpoint(&self) -> Option<SocketAddr> {
        match self.path.current()? {
            path::Route::Direct(endpoint) => Some(endpoint),
            path::Route::Relay => self.leg.as_ref().map(Leg::address),
        }
    }

    /// The relay in use.
    pub(crate) fn relay(&self) -> Option<RelayId> {
        self.leg.as_ref().filter(|_| self.is_relayed()).map(Leg::relay)
    }

    /// Why there is no relay, when one was asked for.
    pub(crate) fn relay_refused(&self) -> Option<Code> {
        self.relaying.refused().filter(|_| self.path.current().is_none())
    }

    /// Why the relay in use holds datagrams back, if it does.
    pub(crate) fn held_back(&self) -> Option<Code> {
        self.leg.as_ref().filter(|_| self.is_relayed()).and_then(Leg::held_back)
    }

    /// Where datagrams of the peer may come from.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.endpoints.iter().map(|endpoint| endpoint.address)
    }

    /// The sockets, beside the main one, that lead to the peer.
    pub(crate) fn sockets(&self) -> impl Iterator<Item = SocketId> {
        self.endpoints.iter().map(|endpoint| endpoint.socket).filter(|socket| socket.is_punching())
    }

    /// The legs that may get datagrams: where from, under which slot.
    pub(crate) fn slots(&self) -> impl Iterator<Item = (SocketAddr, Slot)> {
        let legs = [self.leg.as_ref(), self.next_leg.as_ref(), self.relaying.left()];
        legs.into_iter().flatten().flat_map(Leg::slots)
    }

    /// Whether a message of the relay that names no slot is for one of the legs.
    pub(crate) fn expects(&self, from: SocketAddr, message: &Message<'_>) -> bool {
        [&self.leg, &self.next_leg].into_iter().flatten().any(|leg| leg.is_for(from, message))
    }

    /// Whether one of the legs joins there without a cookie.
    pub(crate) fn lacks_cookie_of(&self, relay: SocketAddr) -> bool {
        [&self.leg, &self.next_leg].into_iter().flatten().any(|leg| leg.lacks_cookie_of(relay))
    }

    pub(crate) fn owns(&self, index: u32) -> bool {
        self.session.owns(index)
    }

    /// For the next start: where the peer is, best first, and the leg.
    pub(crate) fn saved_ways(&self) -> (Vec<SocketAddr>, Option<RelayOffer>) {
        // A connection does not outlive this process.
        let lasting =
            |address: &SocketAddr| !self.endpoints.iter().any(|way| way.address == *address && way.socket.is_tcp());
        let mut hints: Vec<SocketAddr> = self.path.proven().filter(lasting).collect();
        let older = self.hints.iter().copied().filter(|hint| !hints.contains(hint)).collect::<Vec<_>>();
        hints.extend(older);
        hints.truncate(Frame::MAX_HINTS);
        (hints, self.leg.as_ref().map(|leg| leg.offer().clone()))
    }

    pub(crate) fn has_leg_at(&self, relay: RelayId) -> bool {
        [&self.leg, &self.next_leg].into_iter().flatten().any(|leg| leg.relay() == relay)
    }

    /// Whether a flood is worth sending: there is a tunnel to carry it.
    pub(crate) fn takes_floods(&self) -> bool {
        self.session.is_established()
    }

    pub(super) fn is_relayed(&self) -> bool {
        self.path.current() == Some(path::Route::Relay)
    }

    pub(super) fn has_ways(&self) -> bool {
        self.path.current().is_some() || self.leg.is_some() || self.next_leg.is_some()
    }
}
