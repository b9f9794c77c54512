//! Floods that a relay copies: sealed once, sent once, for all members whose pair with this client is on one relay.
//!
//! When floods come in a row, the members that are reached over the same relay are given this client's key for a network that
//! they have in common (`tunnel::SenderKey`), and the relay is asked which of their slots may be named together. Who has
//! said that it took the key, and at least one more beside it, gets the next flood in a frame for many (`wire::fanout`). Everybody
//! else gets it alone, as before: over a direct path, on another relay, with an older client, or while any of this is under way.
//! So each member gets each flood one way, and once.
//!
//! A frame is no larger than the largest datagram of a tunnel over a relay is, so that it fits wherever that does: a flood of
//! 1,280 bytes goes alone, one of up to 1,028 to 64 members at once.
//!
//! A key is replaced when somebody joined or left the network, when the network has another secret, after an hour, and when it is
//! worn out.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use domain::{ClientId, NetworkId, Revision};
use rand::Rng as _;
use tunnel::{InnerPacket, MAX_DATAGRAM, NetworkSecret, SenderKey, SenderSecret};
use wire::{
    fanout::{self, COPY_HEADER_SIZE, Shared, SharedKeyId, slots_that_fit},
    relay::{HEADER_SIZE, Slot},
};

use super::{Core, Output};
use crate::sockets::SocketId;

/// This client's keys.
#[derive(Debug, Default)]
pub(super) struct Fanout {
    keys: BTreeMap<NetworkId, Sending>,
    /// When the last floods were, oldest first.
    floods: VecDeque<Instant>,
}

#[derive(Debug)]
struct Sending {
    key: SenderKey,
    made: Instant,
    /// With which revision somebody last joined or left before it was made.
    composition: Revision,
    /// The network's, as it was then.
    secret: Option<NetworkSecret>,
}

/// A member that a relay could copy to.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    peer: ClientId,
    network: NetworkId,
    seat: (SocketAddr, Slot),
}

/// Members that a frame could name together: in a network, at a relay's address, with slots of one group.
type Rows = BTreeMap<(NetworkId, SocketAddr, u8), Vec<(Slot, ClientId)>>;

impl Fanout {
    /// Forgets keys of networks whose members are others now.
    pub(super) fn handle_compositions(&mut self, compositions: &BTreeMap<NetworkId, Revision>) {
        self.keys.retain(|network, sending| compositions.get(network) == Some(&sending.composition));
    }

    /// Whether floods come in a row, with the one that goes now: a lone one is not worth the keys.
    fn is_busy(&mut self, now: Instant) -> bool {
        if self.floods.len() == IN_A_ROW {
            self.floods.pop_front();
        }
        self.floods.push_back(now);
        let oldest = self.floods.front().filter(|_| self.floods.len() == IN_A_ROW);
        oldest.is_some_and(|oldest| now.saturating_duration_since(*oldest) <= ROW)
    }
}

impl Core {
    /// Sends a packet to every peer with a tunnel, once.
    pub(super) fn send_flood(&mut self, now: Instant, packet: &[u8]) {
        let takers = self.peers.iter().filter(|(_, peer)| peer.takes_floods()).map(|(id, _)| *id);
        let mut alone: Vec<_> = takers.collect();
        if self.fanout.is_busy(now) {
            let copied = self.send_copies(now, &alone, packet);
            alone.retain(|peer| !copied.contains(peer));
        }
        for peer in alone {
            self.send(now, peer, packet);
            if let Some(peer) = self.peers.get_mut(&peer) {
                peer.note_flooded(now);
            }
        }
    }

    /// Has relays copy a packet to those of the peers that it can; returns who they are.
    fn send_copies(&mut self, now: Instant, takers: &[ClientId], packet: &[u8]) -> Vec<ClientId> {
        let most = slots_that_fit(ROOM, COPY_HEADER_SIZE + packet.len() + SenderKey::OVERHEAD);
        if most < LEAST {
            return Vec::new();
        }
        let mut copied = Vec::new();
        let mut sealed = BTreeMap::new();
        for ((network, to, _), members) in self.rows(now, takers) {
            let frames = members.len().div_ceil(most);
            for members in members.chunks(members.len().div_ceil(frames)).filter(|members| members.len() >= LEAST) {
                let one = sealed.entry(network).or_insert_with(|| {
                    let sending = self.fanout.keys.get_mut(&network)?;
                    let (counter, sealed) = sending.key.seal(packet)?;
                    Some((counter, SharedKeyId(sending.key.id()), sealed))
                });
                let Some((counter, key, sealed)) = one else { continue };
                let slots: Vec<_> = members.iter().map(|(slot, _)| *slot).collect();
                let Some(frame) = fanout::frame(&slots, &Shared { counter: *counter, key: *key, sealed }) else {
                    continue;
                };
                let datagram = BytesMut::from(&frame[..]);
                self.outputs.push_back(Output::Send { socket: SocketId::MAIN, to, ttl: None, datagram });
                for (_, peer) in members {
                    self.with(now, *peer, |peer, turn| peer.note_copied(turn, packet.len()));
                    copied.push(*peer);
                }
            }
        }
        copied
    }

    /// The members that can get a copy now. Those that could later are given the key meanwhile, and their relay is asked.
    fn rows(&mut self, now: Instant, takers: &[ClientId]) -> Rows {
        let mut rows = Rows::new();
        for Candidate { peer, network, seat } in self.candidates(now, takers) {
            let Some(handed) = self.sending(now, network) else { continue };
            let ready = self.with(now, peer, |peer, turn| {
                let group = peer.group(turn, seat);
                let has_key = peer.has_key(turn, network, handed.0, &handed.1);
                group.filter(|_| has_key && !peer.is_owed_a_packet(turn.now))
            });
            if let Some(group) = ready.flatten() {
                let (at, slot) = seat;
                rows.entry((network, at, group)).or_default().push((slot, peer));
            }
        }
        rows.retain(|_, members| members.len() >= LEAST);
        rows
    }

    /// The members that are reached over a relay as another one of the same network is. Who is in several networks counts for
    /// the one that most of them are in.
    fn candidates(&self, now: Instant, takers: &[ClientId]) -> Vec<Candidate> {
        let relayed = takers.iter().filter_map(|id| self.peers.get(id).map(|peer| (*id, peer)));
        let relayed: Vec<_> = relayed.filter_map(|(id, peer)| Some((id, peer, peer.seat(now)?))).collect();
        let mut crowds = BTreeMap::<(SocketAddr, NetworkId), usize>::new();
        for (_, peer, (at, _)) in &relayed {
            for network in &peer.about.networks {
                *crowds.entry((*at, *network)).or_default() += 1;
            }
        }
        let mut chosen = BTreeMap::<_, Vec<_>>::new();
        for (id, peer, seat) in relayed {
            // Of two that are as large the first by id.
            let largest = peer.about.networks.iter().rev().max_by_key(|network| crowds.get(&(seat.0, **network)));
            let Some(&network) = largest else { continue };
            chosen.entry((seat.0, network)).or_default().push(Candidate { peer: id, network, seat });
        }
        chosen.into_values().filter(|members| members.len() >= LEAST).flatten().collect()
    }

    /// The name of this client's key for `network`, and how it is given; there is a new one when it is time for it.
    fn sending(&mut self, now: Instant, network: NetworkId) -> Option<(tunnel::KeyId, tunnel::Handed)> {
        let about = self.view.networks().get(&network)?;
        let (revision, composition) = (about.revision(), about.composition());
        let members = self.view.secret(network);
        let good = |sending: &Sending| {
            let fresh = now.saturating_duration_since(sending.made) < LIFETIME;
            fresh && !sending.key.is_worn_out() && sending.secret.as_ref() == members
        };
        if !self.fanout.keys.get(&network).is_some_and(good) {
            let key = SenderKey::new(SenderSecret::from_bytes(self.random.random()), network, self.own);
            let secret = members.cloned();
            self.fanout.keys.insert(network, Sending { key, made: now, composition, secret });
        }
        let key = &self.fanout.keys.get(&network)?.key;
        Some((key.id(), key.handed(revision)))
    }

    /// A copy of what a member sealed for many.
    pub(super) fn handle_copy(&mut self, now: Instant, from: SocketAddr, copy: &Shared<'_>) {
        let Some(&id) = self.index.keys.get(&copy.key) else { return };
        match self.with(now, id, |peer, turn| peer.handle_copy(turn, from, copy)) {
            Some(Ok(packet)) => self.deliver_flood(now, packet),
            Some(Err(refusal)) => tracing::trace!(peer = %id, %refusal, "a copy was refused"),
            None => {}
        }
    }

    /// Nothing but a flood was sealed for many.
    fn deliver_flood(&mut self, now: Instant, packet: BytesMut) {
        if InnerPacket::parse(&packet).is_some_and(|inner| self.flood.handle_incoming(now, &inner)) {
            self.outputs.push_back(Output::Deliver(packet));
        }
    }

    /// A relay says which slots may be named together with this one.
    pub(super) fn handle_group(&mut self, now: Instant, seat: (SocketAddr, Slot), group: u8) {
        if let Some(&peer) = self.index.slots.get(&seat) {
            self.with(now, peer, |peer, _| peer.handle_group(seat, group));
        }
    }
}

/// A frame for fewer saves nothing.
const LEAST: usize = 2;
/// What a relay gets at most of a tunnel.
const ROOM: usize = HEADER_SIZE + MAX_DATAGRAM;
/// So many floods within so long are a row.
const IN_A_ROW: usize = 3;
const ROW: Duration = Duration::from_secs(10);
const LIFETIME: Duration = Duration::from_secs(3600);
