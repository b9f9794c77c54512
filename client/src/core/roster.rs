//! Who the peers are: made from the view of the networks, chosen to be kept connected, and named for people.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use domain::{ClientId, NetworkChange, NetworkId, PairRecord, PeerPresence, Revision};
use tunnel::Party;
use wire::{Code, control::Request};

use super::{
    Core, NoPeer, Output, PeerView, Place, Turn,
    peer::Peer,
    rotation::Keys,
    turn,
    view::{self, Applied},
};
use crate::{adapter::Lan, command::NetworkView};

impl Core {
    /// The networks, by id.
    pub fn networks(&self) -> impl Iterator<Item = NetworkView> {
        let view = |(&id, network): (&NetworkId, &view::Network)| NetworkView {
            id,
            name: network.name.clone(),
            members: network.size(),
            role: network.role,
            hub: network.hub,
            unseated: network.unseated,
            terms: network.terms,
            secret_epoch: network.secret.epoch,
            secret_proved: self.view.secrets(id).is_some_and(|known| known.proved == Some(network.secret.epoch)),
            warning: (network.unseated.then_some(Code::NoSeat))
                .or(self.membership_warning(id))
                .or(self.secret_warning(id))
                .map(|code| code.name().to_owned()),
        };
        self.view.networks().iter().map(view)
    }

    /// The network that is called `name`.
    #[must_use]
    pub fn network_named(&self, name: &domain::NetworkName) -> Option<NetworkId> {
        self.view.network_named(name)
    }

    /// All peers, by id.
    pub fn peers(&self) -> impl Iterator<Item = PeerView<'_>> {
        self.peers.values().map(|peer| self.peer_view(peer))
    }

    /// One peer.
    #[must_use]
    pub fn peer(&self, id: ClientId) -> Option<PeerView<'_>> {
        self.peers.get(&id).map(|peer| self.peer_view(peer))
    }

    /// The newest record of the pair with `peer`.
    #[must_use]
    pub fn record(&self, peer: ClientId) -> Option<&PairRecord> {
        self.records.get(&peer)
    }

    /// The peer that `word` names: an address, an id, or a nickname.
    ///
    /// # Errors
    /// [`NoPeer`].
    pub fn resolve(&self, word: &str) -> Result<ClientId, NoPeer> {
        match self.met_as(word) {
            Err(NoPeer::Unknown) if self.is_parted(word) => Err(NoPeer::NoSeat),
            resolved => resolved,
        }
    }

    fn met_as(&self, word: &str) -> Result<ClientId, NoPeer> {
        if let Ok(address) = word.parse::<IpAddr>() {
            return self.index.addresses.get(&address).copied().ok_or(NoPeer::Unknown);
        }
        if let Ok(id) = word.parse::<ClientId>() {
            return self.peers.contains_key(&id).then_some(id).ok_or(NoPeer::Unknown);
        }
        let called = |peer: &&Peer| peer.about.member.nick.as_ref().is_some_and(|nick| nick.as_str() == word);
        let mut called = self.peers.values().filter(called).map(|peer| peer.about.member.client);
        match (called.next(), called.next()) {
            (Some(one), None) => Ok(one),
            (Some(_), Some(_)) => Err(NoPeer::Ambiguous),
            (None, _) => Err(NoPeer::Unknown),
        }
    }

    pub(super) fn handle_change(&mut self, now: Instant, change: NetworkChange) {
        let network = change.network;
        let presences: Vec<_> = change
            .members
            .iter()
            .filter(|member| !member.gone)
            .filter_map(|member| member.presence.map(|presence| (member.client, presence)))
            .collect();
        let left = change.left;
        match self.view.apply(change) {
            Applied::Gap(known) => {
                self.outputs.push_back(Output::Ask(Request::ChangesSince(network, known)));
                return;
            }
            Applied::Unchanged if left => self.forget_awaited(network),
            Applied::Unchanged => {}
            Applied::Changed => {
                self.want_keys(Some(network));
                self.changed = true;
                self.reconcile(now);
                self.tend_secrets(now);
                self.tend_memberships(now);
            }
        }
        for (peer, presence) in presences {
            self.handle_presence(now, peer, presence);
        }
    }

    /// Makes the peers those of the view.
    pub(super) fn reconcile(&mut self, now: Instant) {
        let Some(own) = self.view.addresses else { return };
        let lan = Lan { addresses: own, prefix4: self.prefixes.0, prefix6: self.prefixes.1 };
        if self.lan != Some(lan) {
            self.lan = Some(lan);
            if let Some(v4) = own.v4 {
                self.flood.set_lan(v4, lan.prefix4);
            }
            self.outputs.push_back(Output::Configure(lan));
        }
        let mut known = self.view.acquaintances();
        let networks = self.view.networks();
        self.memberships.filter(&mut known, |id| networks.get(&id).map_or(Revision::ZERO, view::Network::revision));
        let gone: Vec<_> = self.peers.keys().filter(|id| !known.contains_key(id)).copied().collect();
        for id in gone {
            self.peers.remove(&id);
            self.records.remove(&id);
            self.streams.forget(now, id, &mut self.outputs);
            self.memberships.forget(id);
            self.chats.handle_parted(id);
            for socket in self.index.forget(id) {
                self.nat.release(socket, &mut self.outputs);
            }
        }
        self.index.addresses.clear();
        let mut fresh = Vec::new();
        let compositions = self.view.compositions();
        for (id, about) in std::mem::take(&mut known) {
            let Some(key) = self.view.pair_key(id, &about.networks) else { continue };
            let common = about.networks.iter().filter_map(|network| compositions.get_key_value(network));
            let common = common.map(|(network, composition)| (*network, *composition)).collect();
            self.index.addresses.extend(about.member.addresses.v4.map(|v4| (v4.into(), id)));
            self.index.addresses.insert(about.member.addresses.v6.into(), id);
            let keys = Keys::of(self.peers.get(&id), &about);
            if keys != Keys::Other {
                let before = self.view.previous_pair_key(id, &about.networks);
                let local = Arc::clone(&self.local);
                self.with(now, id, |peer, turn| {
                    peer.update(turn, own, about, &key, before.as_ref());
                    if keys == Keys::Later {
                        peer.succeed(turn, &local);
                    }
                });
            } else {
                let presence = about.member.presence.unwrap_or(PeerPresence::Offline);
                let party = Party { client: self.own, addresses: own };
                let mut turn = turn!(self, now);
                let peer = Peer::new(&mut turn, &self.local, party, about, &key);
                self.peers.insert(id, peer);
                fresh.push((id, presence));
            }
            self.with(now, id, |peer, turn| peer.handle_common(turn.now, common));
        }
        self.fanout.handle_compositions(&compositions);
        let members: Vec<_> = self.peers.values().map(|peer| peer.about.member.addresses).collect();
        if self.members != members {
            self.members.clone_from(&members);
            self.outputs.push_back(Output::Members(members));
        }
        for (id, presence) in fresh {
            if self.online && presence != PeerPresence::Offline {
                self.with(now, id, |peer, turn| peer.handle_presence(turn, presence));
                self.chats.handle_up(now, id);
            }
        }
        self.early_offers.retain(|(came, _)| now.saturating_duration_since(*came) < EARLY_OFFER);
        for (came, offer) in std::mem::take(&mut self.early_offers) {
            if self.peers.contains_key(&offer.peer) {
                self.with(now, offer.peer, |peer, turn| peer.handle_offer(turn, offer));
            } else {
                self.early_offers.push_back((came, offer));
            }
        }
        self.tend_routes();
        self.judge(now);
        self.choose = now;
    }

    /// Keeps tunnels open to the peers that are there and were used last.
    pub(super) fn choose_eager(&mut self, now: Instant) {
        self.choose = now + CHOOSE;
        let mut candidates: Vec<_> = self
            .peers
            .iter()
            .filter(|(_, peer)| !self.online || peer.presence != PeerPresence::Offline)
            .map(|(id, peer)| (std::cmp::Reverse(peer.used()), *id))
            .collect();
        candidates.sort_unstable();
        let eager: BTreeSet<_> = candidates.into_iter().take(MAX_EAGER).map(|(_, id)| id).collect();
        for id in self.peers.keys().copied().collect::<Vec<_>>() {
            self.with(now, id, |peer, turn| peer.set_eager(turn, eager.contains(&id)));
        }
    }

    pub(super) fn peer_view<'a>(&'a self, peer: &'a Peer) -> PeerView<'a> {
        let networks = self.view.networks();
        PeerView {
            member: &peer.about.member,
            networks: peer
                .about
                .networks
                .iter()
                .filter_map(|id| networks.get(id))
                .map(|one| one.name.clone())
                .collect(),
            presence: peer.presence,
            path: peer.path(),
            endpoint: peer.endpoint().map(|at| match self.streams.endpoint(at) {
                Some(endpoint) => Place::Stream(endpoint.clone()),
                None => Place::Udp(at),
            }),
            relay: peer.relay(),
            relay_refused: peer.relay_refused(),
            held_back: peer.held_back(),
            rtt: peer.rtt(),
            received_bytes: peer.received_bytes,
            sent_bytes: peer.sent_bytes,
        }
    }
}

/// How long an offer waits for its peer to become known.
const EARLY_OFFER: Duration = Duration::from_secs(30);
/// Tunnels that are kept open without use.
const MAX_EAGER: usize = 32;
const CHOOSE: Duration = Duration::from_secs(30);
