//! Relays and their offers: which ones are near, what they need to know of this client, and which pair goes where.

use std::time::Instant;

use domain::{RelayId, RelayOffer};
use wire::control::ClientFrame;

use super::{Core, Output};
use crate::{settings::PathPolicy, sockets::SocketId};

/// Offers that wait for their peer to become known.
const MAX_EARLY_OFFERS: usize = 32;

impl Core {
    pub(super) fn ask_for_cookies(&mut self, now: Instant) {
        self.cookies.handle_deadline(now);
        while let Some((to, datagram)) = self.cookies.poll_transmit() {
            self.outputs.push_back(Output::Send { socket: SocketId::MAIN, to, ttl: None, datagram });
        }
    }

    /// A pair may be put on one of the nearest relays.
    pub(super) fn name_relays(&mut self, now: Instant) {
        if self.policy != PathPolicy::Direct {
            self.cookies.handle_named(now, self.relays.nearest());
        }
    }

    /// A pair may be on this relay again.
    pub(super) fn note_relay(&mut self, offer: &RelayOffer) {
        if let Some(&relay) = offer.endpoints.first().filter(|_| self.policy != PathPolicy::Direct) {
            self.cookies.handle_use(relay);
        }
    }

    /// An offer may come before the word that its peer is a member.
    pub(super) fn handle_offer(&mut self, now: Instant, offer: RelayOffer) {
        self.note_relay(&offer);
        // Who is kept connected decides whether a handshake begins with the join.
        if self.choose <= now {
            self.choose_eager(now);
        }
        if self.peers.contains_key(&offer.peer) {
            self.with(now, offer.peer, |peer, turn| peer.handle_offer(turn, offer));
        } else {
            self.early_offers.truncate(MAX_EARLY_OFFERS - 1);
            self.early_offers.push_front((now, offer));
        }
    }

    /// All legs at `relay` learn whether its stream is open: a look at each of them is enough.
    pub(super) fn tell_stream(&mut self, now: Instant, relay: RelayId) {
        let there = self.peers.iter().filter(|(_, peer)| peer.has_leg_at(relay)).map(|(id, _)| *id);
        for peer in there.collect::<Vec<_>>() {
            self.with(now, peer, |_, _| ());
        }
    }

    /// Asks relays how far they are, and tells the server.
    pub(super) fn drain_relays(&mut self, now: Instant) {
        while let Some((to, datagram)) = self.relays.poll_transmit() {
            self.outputs.push_back(Output::Send { socket: SocketId::MAIN, to, ttl: None, datagram });
        }
        if let Some(report) = self.relays.poll_report().filter(|_| self.online) {
            self.name_relays(now);
            self.outputs.push_back(Output::Say(ClientFrame::RelayTrips(Box::new(report.trips))));
            if report.is_news {
                for peer in self.peers.keys().copied().collect::<Vec<_>>() {
                    self.with(now, peer, |peer, turn| peer.handle_measured(turn));
                }
            }
        }
    }
}
