//! What peers tell one another about memberships, and how often.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use domain::{ClientId, NetworkId, PeerPresence, Removals, Revision, Signed};
use tunnel::Frame;

use super::super::Core;

/// Whom something is to be told.
#[derive(Debug, Default)]
pub(super) struct Gossip {
    peers: BTreeMap<ClientId, Listener>,
}

/// One peer with a tunnel.
#[derive(Debug)]
struct Listener {
    /// Of which revisions its removals are, by its own word.
    holds: BTreeMap<NetworkId, Revision>,
    /// It was told of this client's own standing since the tunnel is up.
    introduced: bool,
    /// It is not proven to be a member: whatever makes it answer is sent.
    doubted: bool,
    next: Option<Instant>,
    told: u32,
    /// Signature checks that it may still cost.
    checks: f64,
    refilled: Instant,
}

impl Gossip {
    /// The tunnel to a peer is up: it may be another process, with other knowledge.
    pub(super) fn handle_established(&mut self, now: Instant, peer: ClientId) {
        let listener = self.peers.entry(peer).or_insert_with(|| Listener::new(now));
        listener.holds.clear();
        listener.introduced = false;
        listener.begin(now);
    }

    /// There is something new for everybody.
    pub(super) fn handle_news(&mut self, now: Instant) {
        self.peers.values_mut().for_each(|listener| listener.begin(now));
    }

    /// This client has a ticket, or another one.
    pub(super) fn handle_ticket(&mut self, now: Instant) {
        self.peers.values_mut().for_each(|listener| listener.introduced = false);
        self.handle_news(now);
    }

    /// A peer is away from the servers, or seems so.
    pub(super) fn handle_away(&mut self, now: Instant, peer: ClientId) {
        if let Some(listener) = self.peers.get_mut(&peer) {
            listener.begin(now);
        }
    }

    /// A peer has to prove itself.
    pub(super) fn handle_doubt(&mut self, now: Instant, peer: ClientId) {
        let listener = self.peers.entry(peer).or_insert_with(|| Listener::new(now));
        listener.doubted = true;
        listener.begin(now);
    }

    /// A peer is proven to be a member.
    pub(super) fn handle_proof(&mut self, peer: ClientId) {
        if let Some(listener) = self.peers.get_mut(&peer) {
            listener.doubted = false;
        }
    }

    pub(super) fn forget(&mut self, peer: ClientId) {
        self.peers.remove(&peer);
    }

    /// Whether a signature of this peer's may be looked at.
    pub(super) fn may_check(&mut self, now: Instant, peer: ClientId) -> bool {
        self.peers.entry(peer).or_insert_with(|| Listener::new(now)).may_check(now)
    }

    pub(super) fn poll_deadline(&self) -> Option<Instant> {
        self.peers.values().filter_map(|listener| listener.next).min()
    }
}

impl Listener {
    const fn new(now: Instant) -> Self {
        Self {
            holds: BTreeMap::new(),
            introduced: false,
            doubted: false,
            next: None,
            told: 0,
            checks: MOST_CHECKS,
            refilled: now,
        }
    }

    fn begin(&mut self, now: Instant) {
        self.told = 0;
        self.next = Some(now);
    }

    fn may_check(&mut self, now: Instant) -> bool {
        let refill = now.saturating_duration_since(self.refilled).as_secs_f64() / SECONDS_A_CHECK;
        self.checks = (self.checks + refill).min(MOST_CHECKS);
        self.refilled = now;
        let may = self.checks >= 1.0;
        if may {
            self.checks -= 1.0;
        }
        may
    }
}

impl Core {
    /// Takes what a peer said. About memberships, only of networks that both are in, as far as is known here.
    pub(in crate::core) fn handle_rumours(&mut self, now: Instant, peer: ClientId) {
        while let Some(frame) = self.peers.get_mut(&peer).and_then(super::super::Peer::poll_rumour) {
            match frame {
                Frame::Standing { network, revision, ticket } if self.shares(peer, network) => {
                    let proves = ticket.is_some_and(|ticket| self.memberships.take_shown(now, network, peer, &ticket));
                    self.note_holding(now, peer, network, revision);
                    if proves {
                        self.judge(now);
                        self.note_change(now);
                    }
                }
                Frame::Removals(removals) if self.shares(peer, removals.claim().network) => {
                    self.handle_told_removals(now, peer, &removals);
                }
                frame @ (Frame::Message(_) | Frame::MessageTaken(_)) => self.handle_chat_frame(now, peer, frame),
                Frame::Standing { .. }
                | Frame::Removals(_)
                | Frame::Probe { .. }
                | Frame::Answer { .. }
                | Frame::Hints(_)
                | Frame::Farewell
                | Frame::Key(_)
                | Frame::KeyTaken(_) => {}
            }
        }
    }

    fn shares(&self, peer: ClientId, network: NetworkId) -> bool {
        self.peers.get(&peer).is_some_and(|peer| peer.about.networks.contains(&network))
    }

    fn handle_told_removals(&mut self, now: Instant, peer: ClientId, removals: &Signed<Removals>) {
        let (network, revision) = (removals.claim().network, removals.claim().revision);
        let newer = revision > self.memberships.revision(network);
        if newer && self.memberships.gossip.may_check(now, peer) && self.memberships.take_removals(removals) {
            tracing::info!(%network, %revision, "a peer tells who is a member no more");
            self.handle_newer_removals(now);
        }
        self.note_holding(now, peer, network, revision);
        self.say_standing(now, peer, network);
    }

    /// A peer has removals of that revision, or says so.
    fn note_holding(&mut self, now: Instant, peer: ClientId, network: NetworkId, revision: Revision) {
        let own = self.memberships.revision(network);
        let Some(listener) = self.memberships.gossip.peers.get_mut(&peer) else { return };
        listener.holds.insert(network, revision);
        if revision < own && listener.next.is_none() && listener.told < MOST_TOLD {
            listener.next = Some(now + listener.pause());
        }
    }

    /// Tells those who are due.
    pub(super) fn tell_memberships(&mut self, now: Instant) {
        let due = |listener: &Listener| listener.next.is_some_and(|next| next <= now);
        let peers: Vec<_> =
            self.memberships.gossip.peers.iter().filter(|(_, one)| due(one)).map(|(peer, _)| *peer).collect();
        for peer in peers {
            self.tell_peer(now, peer);
        }
    }

    fn tell_peer(&mut self, now: Instant, id: ClientId) {
        let Some(peer) = self.peers.get(&id) else { return self.memberships.gossip.forget(id) };
        let (networks, up) = (peer.about.networks.clone(), peer.takes_frames());
        // A server tells whoever has a session.
        let away = !self.online || peer.presence != PeerPresence::Online;
        let Some(listener) = self.memberships.gossip.peers.get_mut(&id) else { return };
        listener.next = None;
        if !up {
            return;
        }
        let introduced = std::mem::replace(&mut listener.introduced, true);
        let (holds, doubted) = (listener.holds.clone(), listener.doubted);
        let mut lacks = Vec::new();
        for network in networks.into_iter().take(MOST_NETWORKS) {
            let Some(known) = self.memberships.known.get(&network) else { continue };
            let has_some = known.removals.is_some();
            if !introduced {
                self.say_standing(now, id, network);
            }
            let says = holds.get(&network).copied();
            let behind = has_some && says.is_none_or(|says| says < self.memberships.revision(network));
            // What it said itself counts more than what a server may have told it.
            if doubted || behind && (away || says.is_some()) {
                lacks.push(network);
            }
        }
        for network in &lacks {
            let removals = self.memberships.known.get(network).and_then(|known| known.removals.clone());
            if let Some(removals) = removals {
                self.with(now, id, |peer, turn| peer.say(turn, &Frame::Removals(Box::new(removals))));
            }
        }
        if let Some(listener) = self.memberships.gossip.peers.get_mut(&id).filter(|_| !lacks.is_empty()) {
            listener.told += 1;
            listener.next = (listener.told < MOST_TOLD).then(|| now + listener.pause());
            listener.doubted &= listener.told < MOST_TOLD;
        }
    }

    fn say_standing(&mut self, now: Instant, peer: ClientId, network: NetworkId) {
        let known = self.memberships.known.get(&network);
        let ticket = known.and_then(|known| known.ticket.clone()).map(Box::new);
        let revision = self.memberships.revision(network);
        self.with(now, peer, |peer, turn| peer.say(turn, &Frame::Standing { network, revision, ticket }));
    }
}

impl Listener {
    /// Before it is told the next time.
    fn pause(&self) -> Duration {
        if self.told == 0 { Duration::ZERO } else { FIRST_PAUSE * (1 << (self.told - 1).min(10)) }
    }
}

const MOST_CHECKS: f64 = 16.0;
const SECONDS_A_CHECK: f64 = 10.0;
const MOST_TOLD: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Common with one peer; more are told in no other way than by the server.
const MOST_NETWORKS: usize = 8;
