//! The legs of the pair: what relays say to them, and the streams that they ride.

use std::{net::SocketAddr, time::Instant};

use domain::{RelayId, RelayOffer, StreamEndpoint};
use wire::relay::Message;

use super::{FIRST_WISH, Leg, Peer, Streams, Turn, leg};
use crate::settings::PathPolicy;

impl Peer {
    /// The server offers a leg on a relay.
    pub(crate) fn handle_offer(&mut self, turn: &mut Turn<'_>, offer: RelayOffer) {
        if turn.policy == PathPolicy::Direct {
            return;
        }
        let falls = |leg: &Leg| leg.relay() == offer.relay && leg.wished_stream().is_some();
        let blocked = turn.udp_blocked || self.leg.as_ref().is_some_and(falls);
        let first = self.first_packet(turn.now);
        let leg = Leg::new(turn.now, offer, turn.cookies, blocked, first);
        if self.leg.as_ref().is_some_and(Leg::is_joined) {
            self.await_next(leg, turn.now);
        } else {
            if self.leg.as_ref().is_none_or(|old| old.relay() != leg.relay()) {
                self.relaying.handle_heard();
            }
            self.leg = Some(leg);
        }
        self.flush_legs(turn);
    }

    /// A datagram of the relay for one of the legs.
    pub(crate) fn handle_leg(&mut self, turn: &mut Turn<'_>, from: SocketAddr, message: &Message<'_>) {
        let mut news = None;
        let mut relay = None;
        for leg in [&mut self.leg, &mut self.next_leg].into_iter().flatten() {
            if leg.is_for(from, message) {
                relay = Some(leg.relay());
                news = news.or(leg.handle_message(turn.now, from, message));
            }
        }
        if relay.is_some() && relay == self.leg.as_ref().map(Leg::relay) {
            self.relaying.handle_heard();
        }
        // What proves a leg goes ahead of what it carries.
        self.flush_legs(turn);
        match news {
            Some(leg::News::Returned) => {
                if std::mem::take(&mut self.moved) {
                    self.tell_hints(turn);
                }
                self.send_held(turn);
            }
            Some(leg::News::Joined) if self.next_leg.as_ref().is_some_and(Leg::is_joined) => {
                self.handle_next_joined(turn);
                self.send_held(turn);
            }
            Some(leg::News::Joined) => {
                self.copies.handle_joined();
                self.handle_next_joined(turn);
                self.path.handle_relay_up(turn.now);
                self.session_over_relay(turn);
                if std::mem::take(&mut self.moved) {
                    self.tell_hints(turn);
                }
                self.send_held(turn);
            }
            Some(leg::News::Drains) => {
                if let Some(relay) = relay.filter(|relay| self.leg.as_ref().is_some_and(|leg| leg.relay() == *relay)) {
                    self.vacate_relay(turn, relay);
                }
            }
            Some(ended @ (leg::News::Ended | leg::News::Refused(_))) => {
                if self.next_leg.as_ref().is_some_and(Leg::is_ended) {
                    self.next_leg = None;
                }
                if self.leg.as_ref().is_some_and(Leg::is_ended) {
                    self.leg = None;
                    self.path.handle_relay_down(turn.now);
                    self.wish.next = self.wish.next.min(turn.now + FIRST_WISH);
                }
                if let (leg::News::Refused(code), Some(relay)) = (ended, relay) {
                    self.leave_relay(turn, relay, Some(code));
                }
            }
            None => {}
        }
        self.flush_legs(turn);
    }

    /// A datagram of the tunnel came from a relay.
    pub(crate) fn hear_relay(&mut self, now: Instant, from: SocketAddr) {
        for leg in [&mut self.leg, &mut self.next_leg].into_iter().flatten() {
            leg.handle_data(now, from);
        }
    }

    /// The relays whose streams the legs wish for.
    pub(crate) fn wished_streams(&self) -> impl Iterator<Item = (RelayId, &[StreamEndpoint])> {
        let legs = [&self.leg, &self.next_leg].into_iter().flatten();
        legs.filter_map(|leg| leg.wished_stream().map(|endpoints| (leg.relay(), endpoints)))
    }

    /// A stream that is open and of no use.
    pub(crate) fn rejected_stream(&self) -> Option<SocketAddr> {
        [&self.leg, &self.next_leg].into_iter().flatten().find_map(Leg::rejects_stream)
    }

    /// Takes the streams as they are now.
    pub(crate) fn follow_streams(&mut self, turn: &mut Turn<'_>, streams: &Streams) {
        for leg in [&mut self.leg, &mut self.next_leg].into_iter().flatten() {
            leg.handle_stream(turn.now, streams.open(leg.relay()));
        }
        self.flush_legs(turn);
    }
}
