//! Datagrams and packets: whose they are, and where they go.

use std::{net::SocketAddr, time::Instant};

use bytes::BytesMut;
use domain::ClientId;
use tunnel::{Claim, InnerPacket, Opened, flood::Verdict};
use wire::relay::Message;

use super::{
    Core, Output,
    peer::{Endpoint, Origin, Peer},
};

impl Core {
    /// The adapter has a packet for the LAN.
    pub fn handle_packet(&mut self, now: Instant, packet: &[u8]) {
        let Some(inner) = InnerPacket::parse(packet) else { return };
        let to = self.index.addresses.get(&inner.destination).copied();
        if !self.view.addresses.is_some_and(|own| inner.is_from(&own)) {
            // From behind this client, to whom it leads there.
            match to.filter(|_| self.routes.leads_to(inner.source)) {
                Some(peer) => self.send(now, peer, packet),
                None => tracing::trace!("a packet of the adapter has a source that is not ours"),
            }
            return;
        }
        match self.flood.handle_outgoing(now, &inner) {
            Verdict::Unicast => {
                if let Some(peer) = to.or_else(|| self.routes.follow(inner.destination)) {
                    self.send(now, peer, packet);
                }
            }
            Verdict::Everyone => self.send_flood(now, packet),
            Verdict::Dropped(reason) => tracing::trace!(?reason, "a flood went no further"),
        }
    }

    /// Takes `incoming` from the wire: whose is it, and what does it carry? `peer` is known for what a relay forwards.
    pub(super) fn handle_tunnel(
        &mut self,
        now: Instant,
        from: SocketAddr,
        origin: Origin,
        peer: Option<ClientId>,
        datagram: &[u8],
    ) {
        let incoming = match self.local.open(from, datagram) {
            Opened::Incoming(incoming) => incoming,
            Opened::Challenge(reply) => {
                if let Origin::Direct(Endpoint { socket, address }) = origin {
                    let datagram = BytesMut::from(&reply[..]);
                    self.outputs.push_back(Output::Send { socket, to: address, ttl: None, datagram });
                }
                return;
            }
            Opened::Refused => return,
        };
        let peer = peer.or_else(|| match self.local.claim(&incoming)? {
            Claim::Initiator(key) => {
                self.peers.iter().find(|(_, peer)| peer.about.member.tunnel == key).map(|(id, _)| *id)
            }
            Claim::Receiver(index) => {
                let usual = self.index.endpoints.get(&from).copied();
                let owns = |id: &ClientId| self.peers.get(id).is_some_and(|peer| peer.owns(index));
                usual
                    .filter(|id| owns(id))
                    .or_else(|| self.peers.iter().find(|(_, peer)| peer.owns(index)).map(|(id, _)| *id))
            }
        });
        let Some(id) = peer else { return };
        let received = self.with(now, id, |peer, turn| peer.handle_datagram(turn, origin, incoming));
        match received {
            Some(Ok(Some(packet))) => self.deliver(now, id, packet),
            Some(Err(refusal)) => tracing::trace!(peer = %id, %refusal, "a datagram was refused"),
            Some(Ok(None)) => self.handle_rumours(now, id),
            None => {}
        }
    }

    /// Takes a packet of `peer` whose source the tunnel has looked at: the peer's own address or, only in what is for this
    /// client, an address that the peer leads to.
    fn deliver(&mut self, now: Instant, peer: ClientId, packet: BytesMut) {
        let Some(inner) = InnerPacket::parse(&packet) else { return };
        let ours = self.view.addresses.is_some_and(|own| inner.is_to(&own));
        let behind = || self.peers.get(&peer).is_some_and(|peer| self.routes.takes(&peer.about.networks, &inner));
        if ours || behind() || self.flood.handle_incoming(now, &inner) {
            self.outputs.push_back(Output::Deliver(packet));
        }
    }

    pub(super) fn handle_relay(&mut self, now: Instant, from: SocketAddr, message: &Message<'_>) {
        if let Message::Data { slot, payload } = message {
            if let Some(&peer) = self.index.slots.get(&(from, *slot)) {
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.hear_relay(now, from);
                }
                self.handle_tunnel(now, from, Origin::Relay, Some(peer), payload);
            }
            return;
        }
        if let Message::Copy(copy) = message {
            return self.handle_copy(now, from, copy);
        }
        if let Message::Group { slot, group } = message {
            return self.handle_group(now, (from, *slot), *group);
        }
        if let Message::Joined { .. } = message {
            self.streams.handle_use(from);
        }
        // What was asked for ahead is no answer to a join that shows a cookie already.
        let awaited = matches!(message, Message::Challenge { .. }) && self.cookies.awaits(from);
        let expects = |peer: &Peer| peer.expects(from, message) && (!awaited || peer.lacks_cookie_of(from));
        let expecting: Vec<_> = self.peers.iter().filter(|(_, peer)| expects(peer)).map(|(id, _)| *id).collect();
        if let Message::Challenge { cookie } = message
            && (awaited || !expecting.is_empty())
        {
            self.cookies.keep(now, from, *cookie);
        }
        for id in expecting {
            self.with(now, id, |peer, turn| peer.handle_leg(turn, from, message));
        }
    }

    pub(super) fn send(&mut self, now: Instant, peer: ClientId, packet: &[u8]) {
        if let Some(Err(refusal)) = self.with(now, peer, |peer, turn| peer.handle_packet(turn, packet)) {
            tracing::trace!(%peer, %refusal, "a packet of the adapter was refused");
        }
    }
}
