//! What the daemon does with every datagram, packet, frame and deadline: a machine without sockets.
//!
//! Inputs are `handle_*`; afterwards the shell drains [`Core::poll_output`] and sleeps until [`Core::poll_deadline`]. The
//! parts: [`view`] knows networks and members, `peer` one tunnel and the ways to it, `leg` one end of a
//! relayed pair, `nat` measures and punches.
//!
//! Data takes the relay at first and the direct way as soon as that works. Neither the loss of the control connection nor
//! that of all servers ends a tunnel; see `peer` for how liveness is decided then. What a restarted client needs to find its
//! peers without any server is in [`Saved`].
//!
//! Bounds: peers are members of networks, at most 256 networks of 4,096; of these, 32 have their tunnels kept open, all others
//! get one on demand that lapses ten minutes after the last packet. Broadcasts reach peers with a tunnel.

mod index;
mod leg;
mod nat;
mod peer;
mod saved;
pub mod view;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use domain::{ClientId, NetworkChange, NetworkId, Nickname, PairRecord, PeerPresence, RelayOffer, VirtualAddresses};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tunnel::{
    Claim, Flood, InnerPacket, Local, NetworkSecret, Opened, Party, Route, flood::Verdict, is_tunnel_datagram,
};
use wire::{
    control::{ClientFrame, Joined, Request, ServerFrame, Welcome},
    relay::Message,
};

use crate::{
    adapter::Lan,
    command::{NatView, NetworkView, PathKind},
    settings::PathPolicy,
    sockets::SocketId,
};
use index::Index;
use nat::Nat;
use peer::{Endpoint, Origin, Peer, Turn};
pub use saved::Saved;
use view::{Applied, View};

/// The parts of a core that a peer may touch, leaving the peers themselves free.
macro_rules! turn {
    ($core:ident, $now:expr) => {
        Turn {
            now: $now,
            start: $core.start,
            outputs: &mut $core.outputs,
            changed: &mut $core.changed,
            online: $core.online,
            policy: $core.policy,
            own_hints: &$core.own_hints,
            random: &mut $core.random,
        }
    };
}

/// The machine.
#[derive(Debug)]
pub struct Core {
    own: ClientId,
    local: Local,
    policy: PathPolicy,
    start: Instant,
    view: View,
    peers: BTreeMap<ClientId, Peer>,
    index: Index,
    flood: Flood,
    nat: Nat,
    online: bool,
    /// Prefix lengths of the virtual LAN.
    prefixes: (u8, u8),
    lan: Option<Lan>,
    /// Addresses of this machine's interfaces, and the port of the main socket.
    interfaces: Vec<IpAddr>,
    port: u16,
    own_hints: Vec<SocketAddr>,
    records: BTreeMap<ClientId, PairRecord>,
    /// For peers that are not known yet, newest first.
    early_offers: VecDeque<(Instant, RelayOffer)>,
    outputs: VecDeque<Output>,
    changed: bool,
    /// When changes are kept.
    save: Option<Instant>,
    /// When the tunnels to keep open are chosen anew.
    choose: Instant,
    pings: u64,
    random: StdRng,
}

/// What the shell is to do.
#[derive(Debug)]
pub enum Output {
    Send {
        socket: SocketId,
        to: SocketAddr,
        ttl: Option<u8>,
        datagram: BytesMut,
    },
    /// For the adapter.
    Deliver(BytesMut),
    /// To the server, if there is a session.
    Say(ClientFrame),
    /// To the server, as a request whose answer does not matter.
    Ask(Request),
    /// The adapter's addresses.
    Configure(Lan),
    Open(SocketId),
    Close(SocketId),
    /// The answer to [`Core::ping`].
    Pong {
        peer: ClientId,
        number: u64,
        rtt: Duration,
        route: Route,
    },
    /// To be kept over restarts.
    Save(Box<Saved>),
}

/// One peer for the command line.
#[derive(Debug)]
pub struct PeerView<'a> {
    pub member: &'a domain::Member,
    pub networks: Vec<domain::NetworkName>,
    pub presence: PeerPresence,
    pub path: PathKind,
    pub endpoint: Option<SocketAddr>,
    pub relay: Option<domain::RelayId>,
    pub rtt: Option<Duration>,
    pub received_bytes: u64,
    pub sent_bytes: u64,
}

/// Why a word does not name one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPeer {
    #[error("no such peer in any network of this client")]
    Unknown,
    #[error("more than one peer has this nickname: use an address or the id")]
    Ambiguous,
}

impl Core {
    /// The machine of the client `own` with this private tunnel key. `seed` must be unpredictable to others.
    #[must_use]
    pub fn new(now: Instant, own: ClientId, private: [u8; 32], policy: PathPolicy, seed: [u8; 32]) -> Self {
        let mut random = StdRng::from_seed(seed);
        Self {
            own,
            local: Local::new(private),
            policy,
            start: now,
            view: View::new(own),
            peers: BTreeMap::new(),
            index: Index::default(),
            flood: Flood::new(now),
            nat: Nat::new(own, random.random()),
            online: false,
            prefixes: DEFAULT_PREFIXES,
            lan: None,
            interfaces: Vec::new(),
            port: 0,
            own_hints: Vec::new(),
            records: BTreeMap::new(),
            early_offers: VecDeque::new(),
            outputs: VecDeque::new(),
            changed: false,
            save: None,
            choose: now,
            pings: 0,
            random,
        }
    }

    /// What the last run knew. Peers are looked for at once, where they were.
    pub fn restore(&mut self, now: Instant, saved: Saved) {
        self.view.addresses = saved.addresses;
        self.view.nick = saved.nick;
        self.prefixes = (saved.prefix4, saved.prefix6);
        self.view.restore(saved.networks);
        self.records = saved.records.into_iter().map(|record| (other(&record, self.own), record)).collect();
        self.reconcile(now);
        for known in saved.peers {
            self.with(now, known.client, |peer, turn| peer.restore(turn, known.endpoints, known.offer));
        }
        self.choose_eager(now);
        self.doubt_all(now);
    }

    /// The interfaces of this machine, and the port of the main socket, now or after a change.
    pub fn handle_network(&mut self, now: Instant, interfaces: Vec<IpAddr>, port: u16) {
        if self.interfaces == interfaces && self.port == port {
            return;
        }
        let first = self.port == 0;
        self.interfaces = interfaces;
        self.port = port;
        self.gather_hints(now);
        if !first {
            tracing::info!("the network of this machine changed");
            self.nat.discover(now, port, &mut self.outputs);
            for peer in self.peers.keys().copied().collect::<Vec<_>>() {
                self.with(now, peer, |peer, turn| peer.handle_network_change(turn));
            }
        }
    }

    /// A control session began.
    pub fn handle_connected(&mut self, now: Instant, welcome: &Welcome) {
        self.online = true;
        self.prefixes = (welcome.prefix4, welcome.prefix6);
        if welcome.nick.is_some() {
            self.view.nick.clone_from(&welcome.nick);
        }
        self.nat.handle_session(now, welcome.tag, &welcome.reflectors, self.port, &mut self.outputs);
        self.reindex_all(now);
    }

    /// The control session is gone: are the peers still there?
    pub fn handle_disconnected(&mut self, now: Instant) {
        if std::mem::replace(&mut self.online, false) {
            self.doubt_all(now);
        }
    }

    /// The server said something.
    pub fn handle_frame(&mut self, now: Instant, frame: ServerFrame) {
        match frame {
            ServerFrame::Change(change) => self.handle_change(now, change),
            ServerFrame::Synced(addresses, networks) => {
                self.view.addresses = Some(addresses);
                self.view.retain(&networks);
                let unknown = networks.iter().filter(|id| !self.view.networks().contains_key(id));
                let asked = unknown.map(|&id| Output::Ask(Request::ChangesSince(id, domain::Revision::ZERO)));
                self.outputs.extend(asked);
                self.changed = true;
                self.reconcile(now);
                self.choose_eager(now);
            }
            ServerFrame::PeerUp(peer) => self.handle_presence(now, peer, PeerPresence::Online),
            ServerFrame::PeerDown(peer) => self.handle_presence(now, peer, PeerPresence::Offline),
            ServerFrame::PeerLost(peer) => self.handle_presence(now, peer, PeerPresence::Lost),
            ServerFrame::Relay(offer) => self.handle_offer(now, *offer),
            ServerFrame::Prepare(preparation) => {
                if self.policy != PathPolicy::Relay {
                    let local = self.local_endpoints();
                    self.nat.handle_preparation(now, &preparation, local, &mut self.outputs);
                }
            }
            ServerFrame::Go(order) => {
                self.nat.handle_order(now, order, &mut self.outputs);
                self.take_ways(now);
            }
            ServerFrame::PunchOff(punch) => self.nat.handle_cancel(punch, &mut self.outputs),
            ServerFrame::Record(record) => self.handle_record(*record),
            ServerFrame::Resync => self.outputs.push_back(Output::Say(ClientFrame::Sync(self.view.known()))),
            // Others than the core care for these.
            ServerFrame::Welcome(_)
            | ServerFrame::Refused(_)
            | ServerFrame::Pong(_)
            | ServerFrame::Ping(_)
            | ServerFrame::Reply(..)
            | ServerFrame::Refusal(..)
            | ServerFrame::Token(_)
            | ServerFrame::Goodbye(_) => {}
        }
    }

    /// This client is a member from now on.
    pub fn handle_joined(&mut self, now: Instant, joined: &Joined, secret: NetworkSecret) {
        self.view.addresses = Some(joined.addresses);
        self.view.learn(joined.network, secret);
        self.changed = true;
        if !self.view.networks().contains_key(&joined.network) {
            self.outputs.push_back(Output::Ask(Request::ChangesSince(joined.network, domain::Revision::ZERO)));
        }
        self.reconcile(now);
    }

    /// This client left a network.
    pub fn handle_left(&mut self, now: Instant, network: NetworkId) {
        self.view.leave(network);
        self.changed = true;
        self.reconcile(now);
    }

    /// This client is called otherwise.
    pub fn handle_nick(&mut self, nick: Nickname) {
        self.view.nick = Some(nick);
        self.changed = true;
    }

    /// The record of a pair arrived.
    pub fn handle_record(&mut self, record: PairRecord) {
        let peer = other(&record, self.own);
        if self.peers.contains_key(&peer) {
            self.records.insert(peer, record);
            self.changed = true;
        }
    }

    /// A datagram came in at `socket`.
    pub fn handle_datagram(&mut self, now: Instant, socket: SocketId, from: SocketAddr, datagram: &[u8]) {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        if is_tunnel_datagram(datagram) {
            self.handle_tunnel(now, from, Origin::Direct(Endpoint { socket, address: from }), None, datagram);
        } else if wire::probe::is_stun(datagram) {
            self.nat.handle_stun(now, socket, from, datagram, &mut self.outputs);
            self.gather_hints(now);
        } else if wire::punch::is_punch(datagram) {
            self.nat.handle_punch(now, socket, from, datagram, &mut self.outputs);
            self.take_ways(now);
        } else if let Some(message) = Message::parse(datagram) {
            self.handle_relay(now, from, &message);
        }
    }

    /// The adapter has a packet for the LAN.
    pub fn handle_packet(&mut self, now: Instant, packet: &[u8]) {
        let Some(inner) = InnerPacket::parse(packet) else { return };
        if !self.view.addresses.is_some_and(|own| inner.is_from(&own)) {
            tracing::trace!("a packet of the adapter has a source that is not ours");
            return;
        }
        match self.flood.handle_outgoing(now, &inner) {
            Verdict::Unicast => {
                if let Some(&peer) = self.index.addresses.get(&inner.destination) {
                    self.send(now, peer, packet);
                }
            }
            Verdict::Everyone => {
                let takers = self.peers.iter().filter(|(_, peer)| peer.takes_floods()).map(|(id, _)| *id);
                for peer in takers.collect::<Vec<_>>() {
                    self.send(now, peer, packet);
                }
            }
            Verdict::Dropped(reason) => tracing::trace!(?reason, "a flood went no further"),
        }
    }

    /// Does what is due.
    pub fn handle_deadline(&mut self, now: Instant) {
        while let Some(&(due, peer)) = self.index.deadlines.first()
            && due <= now
        {
            self.with(now, peer, |peer, turn| peer.handle_deadline(turn));
            // A deadline that stays where it was is looked at again in the next turn.
            if self.index.deadlines.first().is_some_and(|(next, same)| *same == peer && *next <= due) {
                self.index.postpone(peer, now + TICK);
            }
        }
        self.nat.handle_deadline(now, self.port, &mut self.outputs);
        self.take_ways(now);
        if self.choose <= now {
            self.choose_eager(now);
        }
        if self.save.is_some_and(|save| save <= now) {
            self.save = None;
            let saved = self.saved();
            self.outputs.push_back(Output::Save(Box::new(saved)));
        }
    }

    /// When [`Core::handle_deadline`] is due.
    #[must_use]
    pub fn poll_deadline(&self) -> Instant {
        let peers = self.index.deadlines.first().map(|(due, _)| *due);
        [peers, self.nat.poll_deadline(), self.save].into_iter().flatten().fold(self.choose, Instant::min)
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        loop {
            let output = self.outputs.pop_front()?;
            // Whoever names an address inside of the LAN as the way to a peer would have tunnels run through tunnels.
            if !matches!(&output, Output::Send { to, .. } if self.index.addresses.contains_key(&to.ip())) {
                return Some(output);
            }
        }
    }

    /// Sends a probe with a number of its own along the way that is used; `None` when there is no tunnel yet. The answer is
    /// an [`Output::Pong`] with that number.
    pub fn ping(&mut self, now: Instant, peer: ClientId) -> Option<u64> {
        self.pings += 1;
        let number = self.pings;
        self.with(now, peer, |peer, turn| peer.ping(turn, number)).filter(|sent| *sent).map(|_| number)
    }

    /// This client ends on purpose: tells the peers, who may not hear it from a server.
    pub fn say_farewell(&mut self, now: Instant) {
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            self.with(now, peer, |peer, turn| peer.say_farewell(turn));
        }
    }

    /// What is kept over restarts.
    #[must_use]
    pub fn saved(&self) -> Saved {
        let peers = self.peers.iter().map(|(&client, peer)| {
            let (endpoints, offer) = peer.saved_ways();
            saved::SavedPeer { client, endpoints, offer }
        });
        Saved {
            addresses: self.view.addresses,
            nick: self.view.nick.clone(),
            prefix4: self.prefixes.0,
            prefix6: self.prefixes.1,
            port: self.port,
            networks: self.view.save(),
            peers: peers.filter(|peer| !peer.endpoints.is_empty() || peer.offer.is_some()).collect(),
            records: self.records.values().cloned().collect(),
        }
    }

    /// What the server need not send again at the next login.
    #[must_use]
    pub fn known(&self) -> Vec<domain::KnownNetwork> {
        self.view.known()
    }

    /// Whether there is a control session.
    #[must_use]
    pub const fn is_online(&self) -> bool {
        self.online
    }

    /// This client's addresses in the LAN.
    #[must_use]
    pub const fn addresses(&self) -> Option<VirtualAddresses> {
        self.view.addresses
    }

    /// What this client calls itself.
    #[must_use]
    pub const fn nick(&self) -> Option<&Nickname> {
        self.view.nick.as_ref()
    }

    /// What is known of the NATs.
    #[must_use]
    pub fn nat(&self) -> NatView {
        self.nat
            .found()
            .map_or_else(NatView::default, |found| NatView { public: found.public, ..NatView::from(&found.profile) })
    }

    /// The networks, by id.
    pub fn networks(&self) -> impl Iterator<Item = NetworkView> {
        let view = |(&id, network): (&NetworkId, &view::Network)| NetworkView {
            id,
            name: network.name.clone(),
            members: network.size(),
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

    fn handle_change(&mut self, now: Instant, change: NetworkChange) {
        let network = change.network;
        let presences: Vec<_> = change
            .members
            .iter()
            .filter(|member| !member.gone)
            .filter_map(|member| member.presence.map(|presence| (member.client, presence)))
            .collect();
        match self.view.apply(change) {
            Applied::Gap(known) => {
                self.outputs.push_back(Output::Ask(Request::ChangesSince(network, known)));
                return;
            }
            Applied::Unchanged => {}
            Applied::Changed => {
                self.changed = true;
                self.reconcile(now);
            }
        }
        for (peer, presence) in presences {
            self.handle_presence(now, peer, presence);
        }
    }

    /// An offer may come before the word that its peer is a member.
    fn handle_offer(&mut self, now: Instant, offer: RelayOffer) {
        if self.peers.contains_key(&offer.peer) {
            self.with(now, offer.peer, |peer, turn| peer.handle_offer(turn, offer));
        } else {
            self.early_offers.truncate(MAX_EARLY_OFFERS - 1);
            self.early_offers.push_front((now, offer));
        }
    }

    fn handle_presence(&mut self, now: Instant, peer: ClientId, presence: PeerPresence) {
        self.with(now, peer, |peer, turn| peer.handle_presence(turn, presence));
        self.choose = now;
    }

    /// Takes `incoming` from the wire: whose is it, and what does it carry? `peer` is known for what a relay forwards.
    fn handle_tunnel(
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
            Some(Ok(Some(packet))) => self.deliver(now, packet),
            Some(Err(refusal)) => tracing::trace!(peer = %id, %refusal, "a datagram was refused"),
            Some(Ok(None)) | None => {}
        }
    }

    fn deliver(&mut self, now: Instant, packet: BytesMut) {
        let Some(inner) = InnerPacket::parse(&packet) else { return };
        let ours = self.view.addresses.is_some_and(|own| inner.is_to(&own));
        if ours || self.flood.handle_incoming(now, &inner) {
            self.outputs.push_back(Output::Deliver(packet));
        }
    }

    fn handle_relay(&mut self, now: Instant, from: SocketAddr, message: &Message<'_>) {
        if let Message::Data { slot, payload } = message {
            if let Some(&peer) = self.index.slots.get(&(from, *slot)) {
                self.handle_tunnel(now, from, Origin::Relay, Some(peer), payload);
            }
            return;
        }
        let expecting = self.peers.iter().filter(|(_, peer)| peer.expects(from, message)).map(|(id, _)| *id);
        for id in expecting.collect::<Vec<_>>() {
            self.with(now, id, |peer, turn| peer.handle_leg(turn, from, message));
        }
    }

    fn send(&mut self, now: Instant, peer: ClientId, packet: &[u8]) {
        if let Some(Err(refusal)) = self.with(now, peer, |peer, turn| peer.handle_packet(turn, packet)) {
            tracing::trace!(%peer, %refusal, "a packet of the adapter was refused");
        }
    }

    fn take_ways(&mut self, now: Instant) {
        while let Some(way) = self.nat.poll_way() {
            self.with(now, way.peer, |peer, turn| peer.handle_punched(turn, way.endpoint, way.rtt));
        }
    }

    fn doubt_all(&mut self, now: Instant) {
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            self.with(now, peer, |peer, turn| peer.begin_doubt(turn));
        }
    }

    /// Makes the peers those of the view.
    fn reconcile(&mut self, now: Instant) {
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
        let gone: Vec<_> = self.peers.keys().filter(|id| !known.contains_key(id)).copied().collect();
        for id in gone {
            self.peers.remove(&id);
            self.records.remove(&id);
            self.index.forget(id);
        }
        self.index.addresses.clear();
        let mut fresh = Vec::new();
        for (id, about) in std::mem::take(&mut known) {
            let Some(key) = self.view.pair_key(id, &about.networks) else { continue };
            self.index.addresses.extend(about.member.addresses.v4.map(|v4| (v4.into(), id)));
            self.index.addresses.insert(about.member.addresses.v6.into(), id);
            let same_key = self.peers.get(&id).is_some_and(|peer| peer.about.member.tunnel == about.member.tunnel);
            if same_key && let Some(peer) = self.peers.get_mut(&id) {
                peer.update(own, about, &key);
            } else {
                let presence = about.member.presence.unwrap_or(PeerPresence::Offline);
                let party = Party { client: self.own, addresses: own };
                let mut turn = turn!(self, now);
                let peer = Peer::new(&mut turn, &self.local, party, about, &key);
                self.peers.insert(id, peer);
                fresh.push((id, presence));
            }
        }
        for (id, presence) in fresh {
            if self.online && presence != PeerPresence::Offline {
                self.with(now, id, |peer, turn| peer.handle_presence(turn, presence));
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
        self.choose = now;
    }

    /// Keeps tunnels open to the peers that are there and were used last.
    fn choose_eager(&mut self, now: Instant) {
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

    fn peer_view<'a>(&'a self, peer: &'a Peer) -> PeerView<'a> {
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
            endpoint: peer.endpoint(),
            relay: peer.relay(),
            rtt: peer.rtt(),
            received_bytes: peer.received_bytes,
            sent_bytes: peer.sent_bytes,
        }
    }

    fn gather_hints(&mut self, now: Instant) {
        let public = self.nat.found().and_then(|found| found.public);
        let local = self.local_endpoints();
        let hints: Vec<_> = public.into_iter().chain(local).take(tunnel::Frame::MAX_HINTS).collect();
        if hints != self.own_hints {
            self.own_hints = hints;
            for peer in self.peers.keys().copied().collect::<Vec<_>>() {
                self.with(now, peer, |peer, turn| peer.tell_hints(turn));
            }
        }
    }

    fn local_endpoints(&self) -> Vec<SocketAddr> {
        self.interfaces.iter().map(|address| SocketAddr::new(*address, self.port)).collect()
    }

    fn reindex_all(&mut self, now: Instant) {
        for (id, peer) in &self.peers {
            self.index.update(now, *id, peer, self.online);
        }
    }

    /// Lets one peer do something, and notes where it is to be found afterwards.
    fn with<R>(&mut self, now: Instant, id: ClientId, act: impl FnOnce(&mut Peer, &mut Turn<'_>) -> R) -> Option<R> {
        let peer = self.peers.get_mut(&id)?;
        let mut turn = turn!(self, now);
        let result = act(peer, &mut turn);
        self.index.update(now, id, peer, self.online);
        if std::mem::replace(&mut self.changed, false) {
            self.save.get_or_insert(now + SAVE_AFTER);
        }
        Some(result)
    }
}

/// The one of the pair that is not `own`.
fn other(record: &PairRecord, own: ClientId) -> ClientId {
    if record.a == own { record.b } else { record.a }
}

/// Those of the default pool and of every ULA prefix.
const DEFAULT_PREFIXES: (u8, u8) = (10, 48);
/// Offers that wait for their peer to become known, and how long they may.
const MAX_EARLY_OFFERS: usize = 32;
const EARLY_OFFER: Duration = Duration::from_secs(30);
/// Tunnels that are kept open without use.
const MAX_EAGER: usize = 32;
const CHOOSE: Duration = Duration::from_secs(30);
/// Changes are kept together.
const SAVE_AFTER: Duration = Duration::from_secs(1);
/// The least time between two looks at a peer that has nothing to do.
const TICK: Duration = Duration::from_millis(10);
