//! What the daemon does with every datagram, packet, frame and deadline: a machine without sockets.
//!
//! Inputs are `handle_*`; afterwards the shell drains [`Core::poll_output`] and sleeps until [`Core::poll_deadline`]. The
//! parts: [`view`] knows networks and members, `peer` one tunnel and the ways to it, `leg` one end of a
//! relayed pair, `cookies` what proves this client to relays, `nat` measures and punches, `relays` measures how far relays
//! are, `canary` asks whether UDP works, `fanout` spares sending a broadcast to each of many.
//!
//! The first packet between two clients over a relay that both have a cookie of arrives one and a half round trips after the
//! word that both are there: both begin a handshake within their joins, and each sends under the one that it began. Where one leg
//! is longer, the nearer one's packet takes as much more as the legs differ: the farther one cannot hear before it has joined.
//!
//! **Newer secrets.** A network's secret changes when its password does and when somebody is removed; `renewal` gets, shows
//! and makes them, `secrets` keeps them. Tunnels move over one by one and lose nothing: `peer` says for how long an older key
//! is accepted.
//!
//! **Networks behind members**, where a member leads others to them: `routes` says who follows and who leads.
//!
//! **Removals** hold while no server answers: `membership` says what peers believe of one another.
//!
//! **Messages** between users travel in the tunnels alone: `chat`.
//!
//! **Later keys.** A member may change its keys, and so may this client: `lineages` says which are believed, `rotation` has tunnels
//! go over to them.
//!
//! Data takes the relay at first and the direct way as soon as that works. Neither the loss of the control connection nor
//! that of all servers ends a tunnel; see `peer` for how liveness is decided then. What a restarted client needs to find its
//! peers without any server is in [`Saved`].
//!
//! Bounds: peers are members of networks, at most 256 networks of 4,096; of these, 32 have their tunnels kept open, all others
//! get one on demand that lapses ten minutes after the last packet. Broadcasts reach peers with a tunnel.

mod awaited;
mod canary;
pub mod chat;
mod cookies;
mod fanout;
mod index;
mod leg;
mod lineages;
mod mapping;
mod members;
mod membership;
mod nat;
mod notice;
mod offers;
mod output;
mod peer;
mod relays;
mod renewal;
mod roster;
mod rotation;
mod routes;
mod saved;
mod secrets;
mod streams;
mod traffic;
pub mod view;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use domain::{ClientId, NetworkId, Nickname, PairRecord, PeerPresence, RelayOffer, StreamEndpoint, VirtualAddresses};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tunnel::{Flood, Local, NetworkSecret, is_tunnel_datagram};
use wire::{
    control::{ClientFrame, Joined, Request, ServerFrame, Welcome},
    relay::Message,
    stream::StreamId,
};

use crate::{
    adapter::Lan,
    command::NatView,
    network::Surroundings,
    portmap::{Granted, Wish},
    settings::{Choices, PathPolicy},
    sockets::SocketId,
};
pub use awaited::Awaited;
use canary::Canary;
use chat::Chats;
use cookies::Cookies;
use fanout::Fanout;
use index::Index;
use membership::Memberships;
use nat::Nat;
pub use output::{NoPeer, Output, PeerView, Place};
use peer::{Endpoint, Origin, Peer, Turn};
use relays::Relays;
use renewal::Renewal;
pub use renewal::{Materials, Task};
use routes::Routes;
pub use saved::Saved;
pub use secrets::Secrets;
use streams::Streams;
use view::View;

/// The parts of a core that a peer may touch, leaving the peers themselves free.
macro_rules! turn {
    ($core:ident, $now:expr) => {
        Turn {
            now: $now,
            own: $core.own,
            start: $core.start,
            outputs: &mut $core.outputs,
            changed: &mut $core.changed,
            online: $core.online,
            policy: $core.policy,
            udp_blocked: $core.streams.are_needed(),
            own_hints: &$core.own_hints,
            lifetime: $core.nat.lifetime(),
            random: &mut $core.random,
            cookies: &$core.cookies,
            canary: &mut $core.canary,
        }
    };
}

use turn;

/// The machine.
#[derive(Debug)]
pub struct Core {
    own: ClientId,
    local: Arc<Local>,
    policy: PathPolicy,
    start: Instant,
    view: View,
    peers: BTreeMap<ClientId, Peer>,
    index: Index,
    flood: Flood,
    fanout: Fanout,
    nat: Nat,
    streams: Streams,
    relays: Relays,
    canary: Canary,
    online: bool,
    /// Prefix lengths of the virtual LAN.
    prefixes: (u8, u8),
    lan: Option<Lan>,
    /// As the adapter knows them.
    members: Vec<VirtualAddresses>,
    /// Of the main socket.
    port: u16,
    own_hints: Vec<SocketAddr>,
    records: BTreeMap<ClientId, PairRecord>,
    awaited: Vec<Awaited>,
    renewal: Renewal,
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
    cookies: Cookies,
    memberships: Memberships,
    chats: Chats,
    routes: Routes,
}

impl Core {
    /// The machine of the client `own` with this private tunnel key. `seed` must be unpredictable to others.
    #[must_use]
    pub fn new(now: Instant, own: ClientId, private: [u8; 32], choices: Choices, seed: [u8; 32]) -> Self {
        let mut random = StdRng::from_seed(seed);
        let relays = Relays::new(random.random());
        let cookies = Cookies::new(random.random());
        let canary = Canary::new(random.random());
        let nat = Nat::new(own, mapping::nonce(&private), random.random(), choices);
        Self {
            own,
            local: Arc::new(Local::new(private)),
            policy: choices.path,
            start: now,
            view: View::new(own),
            peers: BTreeMap::new(),
            index: Index::default(),
            flood: Flood::new(now),
            fanout: Fanout::default(),
            nat,
            streams: Streams::default(),
            relays,
            canary,
            online: false,
            prefixes: DEFAULT_PREFIXES,
            lan: None,
            members: Vec::new(),
            port: 0,
            own_hints: Vec::new(),
            records: BTreeMap::new(),
            awaited: Vec::new(),
            renewal: Renewal::default(),
            early_offers: VecDeque::new(),
            outputs: VecDeque::new(),
            changed: false,
            save: None,
            choose: now,
            pings: 0,
            random,
            cookies,
            memberships: Memberships::default(),
            chats: Chats::new(now),
            routes: Routes::default(),
        }
    }

    /// What the last run knew. Peers are looked for at once, where they were.
    pub fn restore(&mut self, now: Instant, saved: Saved) {
        self.view.addresses = saved.addresses;
        self.view.nick = saved.nick;
        self.prefixes = (saved.prefix4, saved.prefix6);
        self.view.restore_lineages(saved.lineages);
        self.view.restore(saved.networks);
        self.awaited = saved.awaited;
        self.memberships.restore(now, saved.memberships);
        self.restore_agreements(saved.agreements);
        self.records = saved.records.into_iter().map(|record| (other(&record, self.own), record)).collect();
        self.reconcile(now);
        // Peers may not have the newest secrets, and no server may be there to give them those.
        for (id, peer) in &mut self.peers {
            if let Some(key) = self.view.previous_pair_key(*id, &peer.about.networks) {
                peer.accept_older(&key);
            }
        }
        for known in saved.peers {
            known.offer.iter().for_each(|offer| self.note_relay(offer));
            self.with(now, known.client, |peer, turn| peer.restore(turn, known.endpoints, known.offer));
        }
        self.choose_eager(now);
        self.doubt_all(now);
    }

    /// Where this machine is, and the port of the main socket, at first or after a change.
    pub fn handle_network(&mut self, now: Instant, surroundings: Surroundings, port: u16) {
        let first = std::mem::replace(&mut self.port, port) == 0;
        self.handle_local_networks(surroundings.networks.clone());
        let moved = self.nat.handle_network(now, surroundings, port, &mut self.outputs);
        self.gather_hints(now);
        if moved && !first {
            self.cookies.handle_network_change(now);
            tracing::info!("the network of this machine changed");
            self.streams.handle_network_change(now, &mut self.outputs);
            self.relays.handle_network_change(now);
            self.canary.handle_network_change();
            for peer in self.peers.keys().copied().collect::<Vec<_>>() {
                self.with(now, peer, |peer, turn| peer.handle_network_change(turn));
            }
        }
    }

    /// What came of [`Output::MapPort`].
    pub fn handle_mapped(&mut self, now: Instant, wish: &Wish, granted: Option<Granted>) {
        self.nat.handle_mapped(now, wish, granted, &mut self.outputs);
    }

    /// The port mapping that this client leaves behind when it ends.
    #[must_use]
    pub fn leftover_mapping(&self) -> Option<Wish> {
        self.nat.leftover_mapping()
    }

    /// A control session began.
    pub fn handle_connected(&mut self, now: Instant, welcome: &Welcome) {
        self.online = true;
        self.prefixes = (welcome.prefix4, welcome.prefix6);
        if welcome.nick.is_some() {
            self.view.nick.clone_from(&welcome.nick);
        }
        self.nat.handle_session(now, welcome.tag, &welcome.reflectors, &mut self.outputs);
        self.relays.handle_session(now, welcome.tag, &welcome.relays);
        self.canary.handle_session(welcome.tag, &welcome.reflectors, &welcome.relays);
        self.cookies.handle_session(now);
        self.memberships.handle_session(now, welcome.now, &welcome.membership_keys);
        self.renew_session();
        self.name_relays(now);
        self.handle_servers(welcome.reflectors.iter().map(SocketAddr::ip).collect());
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            self.with(now, peer, |peer, turn| peer.handle_session(turn));
        }
    }

    /// The control session is gone: are the peers still there?
    pub fn handle_disconnected(&mut self, now: Instant) {
        if std::mem::replace(&mut self.online, false) {
            self.cookies.handle_session_lost();
            self.memberships.handle_alone(now);
            self.chats.handle_alone(now);
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
                self.want_keys(None);
                let unknown = networks.iter().filter(|id| !self.view.networks().contains_key(id));
                let asked = unknown.map(|&id| Output::Ask(Request::ChangesSince(id, domain::Revision::ZERO)));
                self.outputs.extend(asked);
                self.changed = true;
                self.reconcile(now);
                self.tend_secrets(now);
                self.tend_memberships(now);
                self.choose_eager(now);
            }
            ServerFrame::PeerUp(peer) => self.handle_presence(now, peer, PeerPresence::Online),
            ServerFrame::PeerDown(peer) => self.handle_presence(now, peer, PeerPresence::Offline),
            ServerFrame::PeerLost(peer) => self.handle_presence(now, peer, PeerPresence::Lost),
            ServerFrame::Relay(offer) => self.handle_offer(now, *offer),
            ServerFrame::Prepare(preparation) => {
                if self.policy != PathPolicy::Relay {
                    self.nat.handle_preparation(now, &preparation, &mut self.outputs);
                }
            }
            ServerFrame::Go(order) => {
                self.nat.handle_order(now, order, &mut self.outputs);
                self.take_ways(now);
            }
            ServerFrame::PunchOff(punch) => self.nat.handle_cancel(now, punch, &mut self.outputs),
            ServerFrame::Record(record) => {
                if let Some(choice) = &record.choice {
                    self.with(now, other(&record, self.own), |peer, turn| peer.handle_choice(turn, choice));
                }
                self.handle_record(*record);
            }
            ServerFrame::Resync => {
                self.outputs.push_back(Output::Say(ClientFrame::Sync(self.view.known())));
                self.relays.handle_resync();
                self.drain_relays(now);
            }
            ServerFrame::Relays(places) => {
                self.relays.handle_places(now, &places);
                self.name_relays(now);
                self.canary.handle_places(&places);
                self.tend_routes();
            }
            ServerFrame::Removals(removals) => self.handle_removals(now, &removals),
            ServerFrame::RelaySilent(relay) => {
                for peer in self.peers.keys().copied().collect::<Vec<_>>() {
                    self.with(now, peer, |peer, turn| peer.handle_silent_relay(turn, relay));
                }
            }
            // Others than the core care for these.
            ServerFrame::Welcome(_)
            | ServerFrame::Refused(_)
            | ServerFrame::Work(_)
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
        self.view.learn(joined.network, joined.door, secret);
        self.forget_awaited(joined.network);
        self.changed = true;
        if !self.view.networks().contains_key(&joined.network) {
            self.outputs.push_back(Output::Ask(Request::ChangesSince(joined.network, domain::Revision::ZERO)));
        }
        self.reconcile(now);
        self.tend_secrets(now);
        self.tend_memberships(now);
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
        if socket.is_tcp() && !self.nat.takes(now, socket, from, datagram) {
            return self.nat.handle_deadline(now, &mut self.outputs);
        }
        if is_tunnel_datagram(datagram) {
            self.handle_tunnel(now, from, Origin::Direct(Endpoint { socket, address: from }), None, datagram);
        } else if wire::probe::is_stun(datagram) {
            if let Ok(wire::probe::Answer::Reflected(reflected)) = wire::probe::answer(datagram)
                && (self.relays.handle_answer(now, from, reflected.transaction)
                    || self.canary.handle_answer(now, from, reflected.transaction))
            {
                return;
            }
            self.nat.handle_stun(now, socket, from, datagram, &mut self.outputs);
            self.gather_hints(now);
        } else if wire::punch::is_punch(datagram) {
            self.nat.handle_punch(now, socket, from, datagram, &mut self.outputs);
            self.take_ways(now);
        } else if let Some(message) = Message::parse(datagram) {
            self.handle_relay(now, from, &message);
        }
    }

    /// A connection of a TCP port is there.
    pub fn handle_stream(&mut self, now: Instant, port: SocketId, peer: SocketAddr) {
        self.nat.handle_connected(now, port, peer, &mut self.outputs);
        self.take_ways(now);
    }

    /// A connection of a TCP port ended, or did not come about.
    pub fn handle_stream_lost(&mut self, now: Instant, port: SocketId, address: SocketAddr) {
        self.nat.handle_disconnected(now, port, address, &mut self.outputs);
        if let Some(&peer) = self.index.endpoints.get(&address) {
            self.with(now, peer, |peer, turn| peer.handle_closed(turn, Endpoint { socket: port, address }));
        }
    }

    /// A message came in over an open stream.
    pub fn handle_relay_stream_message(&mut self, now: Instant, stream: StreamId, message: &[u8]) {
        for frame in wire::stream::valid_frames(message) {
            if let Some(message) = Message::parse(frame) {
                self.handle_relay(now, stream.address(), &message);
            }
        }
    }

    /// A stream is open at one of its endpoints.
    pub fn handle_relay_stream_opened(&mut self, now: Instant, stream: StreamId, endpoint: StreamEndpoint) {
        if let Some(relay) = self.streams.handle_opened(stream, endpoint) {
            self.tell_stream(now, relay);
        }
    }

    /// A stream ended, or did not open.
    pub fn handle_relay_stream_closed(&mut self, now: Instant, stream: StreamId) {
        if let Some(relay) = self.streams.handle_closed(now, stream) {
            self.tell_stream(now, relay);
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
        let lifetime = self.nat.lifetime();
        self.nat.handle_deadline(now, &mut self.outputs);
        if self.nat.lifetime() != lifetime {
            for peer in self.peers.keys().copied().collect::<Vec<_>>() {
                self.with(now, peer, |peer, turn| peer.handle_lifetime(turn));
            }
        }
        self.streams.handle_deadline(now, &mut self.outputs);
        self.take_ways(now);
        self.relays.handle_deadline(now);
        self.drain_relays(now);
        self.ask_for_cookies(now);
        self.handle_renewal_deadline(now);
        self.handle_membership_deadline(now);
        self.handle_chat_deadline(now);
        if self.choose <= now {
            self.choose_eager(now);
            self.tend_secrets(now);
            self.tend_memberships(now);
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
        let relays = [self.relays.poll_deadline(), self.cookies.poll_deadline()];
        let relays = relays.into_iter().chain([
            self.poll_renewal_deadline(),
            self.poll_membership_deadline(),
            self.chats.poll_deadline(),
        ]);
        let own = [self.nat.poll_deadline(), self.streams.poll_deadline(), self.save, peers];
        own.into_iter().chain(relays).flatten().fold(self.choose, Instant::min)
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        loop {
            let output = self.outputs.pop_front()?;
            // Whoever names an address inside of the LAN as the way to a peer would have tunnels run through tunnels.
            if !matches!(&output, Output::Send { to, .. } | Output::Call { peer: to, .. } if self.is_inside(to.ip())) {
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
            awaited: self.awaited.clone(),
            memberships: self.memberships.save(),
            lineages: self.view.save_lineages(),
            agreements: self.saved_agreements(),
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
        self.nat.view()
    }

    /// Whether packets for `address` come back as packets for a tunnel.
    fn is_inside(&self, address: IpAddr) -> bool {
        self.index.addresses.contains_key(&address) || self.routes.follow(address).is_some()
    }

    fn handle_presence(&mut self, now: Instant, peer: ClientId, presence: PeerPresence) {
        self.with(now, peer, |peer, turn| peer.handle_presence(turn, presence));
        if presence == PeerPresence::Online {
            self.chats.handle_up(now, peer);
        } else {
            self.memberships.handle_away(now, peer);
        }
        self.choose = now;
    }

    fn take_ways(&mut self, now: Instant) {
        while let Some(way) = self.nat.poll_way() {
            self.with(now, way.peer, |peer, turn| peer.handle_punched(turn, way.endpoint, way.rtt));
            let socket = way.endpoint.socket;
            if !self.peers.get(&way.peer).is_some_and(|peer| peer.sockets().any(|used| used == socket)) {
                self.nat.release(socket, &mut self.outputs);
            }
        }
    }

    fn doubt_all(&mut self, now: Instant) {
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            self.with(now, peer, |peer, turn| peer.begin_doubt(turn));
        }
    }

    fn gather_hints(&mut self, now: Instant) {
        let public = self.nat.found().and_then(|found| found.public);
        let local = self.nat.local_endpoints();
        let hints: Vec<_> = public.into_iter().chain(local).take(tunnel::Frame::MAX_HINTS).collect();
        if hints != self.own_hints {
            self.own_hints = hints;
            for peer in self.peers.keys().copied().collect::<Vec<_>>() {
                self.with(now, peer, |peer, turn| peer.tell_hints(turn));
            }
        }
    }

    /// Lets one peer do something, and notes where it is to be found afterwards.
    fn with<R>(&mut self, now: Instant, id: ClientId, act: impl FnOnce(&mut Peer, &mut Turn<'_>) -> R) -> Option<R> {
        let peer = self.peers.get_mut(&id)?;
        let mut turn = turn!(self, now);
        let result = act(peer, &mut turn);
        self.streams.wish(now, id, peer.wished_streams(), &mut self.outputs);
        let rejected = peer.rejected_stream().and_then(|at| self.streams.reject(now, at, &mut self.outputs));
        peer.follow_streams(&mut turn!(self, now), &self.streams);
        let unused = self.index.update(now, id, peer, self.online);
        for socket in unused {
            self.nat.release(socket, &mut self.outputs);
        }
        if peer.take_established() {
            self.memberships.handle_established(now, id);
            self.chats.handle_up(now, id);
        }
        if std::mem::replace(&mut self.changed, false) {
            self.save.get_or_insert(now + SAVE_AFTER);
        }
        if let Some(relay) = rejected {
            self.tell_stream(now, relay);
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
/// Changes are kept together.
const SAVE_AFTER: Duration = Duration::from_secs(1);
/// The least time between two looks at a peer that has nothing to do.
const TICK: Duration = Duration::from_millis(10);
