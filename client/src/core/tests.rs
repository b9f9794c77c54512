//! Two cores back to back, with a relay between them and a clock of their own.

mod chatting;
mod first;
mod hostile;
mod leading;
mod losing;
mod moving;
mod punching;
mod removing;
mod renewing;
mod roaming;
mod rotating;
mod streaming;

use std::cmp::Reverse;

use domain::{
    Bandwidth, Candidate, InstanceId, NetworkChange, PunchId, PunchOrder, PunchPreparation, RelayId, RelayOffer,
    SessionTag, Strategy,
};
use tunnel::{InnerPacket, Route, echo_request};
use wire::{
    Code,
    relay::{Cookie, Slot},
    ticket::{LegKey, TICKET_SIZE},
};

use super::{
    view::tests::{NETWORK, change, member},
    *,
};
use crate::command::PathKind;

#[test]
fn data_takes_the_relay_at_once_and_the_direct_way_without_losing_any() {
    let mut lab = Lab::new();
    lab.offer_relay();
    lab.run(Duration::from_secs(1));
    assert_eq!(lab.paths(), [PathKind::Relay; 2]);

    let mut sent = 0;
    for step in 0..200 {
        if step == 50 {
            lab.punch();
        }
        lab.send(Side::Alice, sent);
        sent += 1;
        lab.run(Duration::from_millis(20));
    }
    lab.run(Duration::from_secs(1));
    assert_eq!(lab.paths(), [PathKind::Direct; 2]);
    let received: Vec<u16> = lab.bob.received.iter().map(|packet| sequence(packet)).collect();
    assert_eq!(received, (0..sent).collect::<Vec<_>>());
}

#[test]
fn a_direct_way_survives_the_loss_of_all_servers() {
    let mut lab = Lab::direct();
    lab.relay_works = false;
    lab.lose_servers();
    for sequence in 0..120 {
        lab.send(Side::Alice, sequence);
        lab.run(Duration::from_millis(500));
    }
    assert_eq!(lab.bob.received.len(), 120);
    assert_eq!(lab.paths(), [PathKind::Direct; 2]);
    assert_eq!(lab.presences(), [PeerPresence::Online; 2]);
}

#[test]
fn a_relayed_way_survives_the_loss_of_the_control_plane() {
    let mut lab = Lab::relayed();
    lab.lose_servers();
    for sequence in 0..120 {
        lab.send(Side::Alice, sequence);
        lab.run(Duration::from_millis(500));
    }
    assert_eq!(lab.bob.received.len(), 120);
    assert_eq!(lab.paths(), [PathKind::Relay; 2]);
}

#[test]
fn a_pair_that_the_relay_holds_back_says_why_for_as_long_as_it_is_so() {
    let mut lab = Lab::relayed();
    let held_back = |lab: &Lab| lab.alice.core.peer(lab.bob.id).unwrap().held_back;
    assert_eq!(held_back(&lab), None);
    let alice = lab.legs[&(relay_endpoint(), Side::Alice)];
    for code in [Code::RelayCapped, Code::RelayQuota] {
        lab.carry(relay_endpoint(), alice, Message::Note { slot: Slot(77), code: code.number() }.to_vec());
        lab.run(Duration::from_secs(1));
        assert_eq!(held_back(&lab), Some(code));
    }
    lab.carry(relay_endpoint(), alice, Message::Note { slot: Slot(76), code: Code::RelayCapped.number() }.to_vec());
    lab.run(Duration::from_secs(20));
    assert_eq!(held_back(&lab), Some(Code::RelayQuota), "a note on another slot is none of ours");
    lab.run(Duration::from_secs(10));
    assert_eq!(held_back(&lab), None);
    assert_eq!(lab.paths()[0], PathKind::Relay);
}

#[test]
fn a_lost_peer_whose_tunnel_lives_keeps_it() {
    let mut lab = Lab::direct();
    lab.tell(Side::Alice, ServerFrame::PeerLost(lab.bob.id));
    lab.run(Duration::from_secs(60));
    assert_eq!(lab.presences()[0], PeerPresence::Lost);
    assert_eq!(lab.paths()[0], PathKind::Direct);
    lab.tell(Side::Alice, ServerFrame::PeerUp(lab.bob.id));
    assert_eq!(lab.presences()[0], PeerPresence::Online);
}

#[test]
fn a_lost_peer_that_is_silent_is_offline_after_fifteen_seconds() {
    for mut lab in [Lab::direct(), Lab::relayed()] {
        lab.bob.alive = false;
        lab.tell(Side::Alice, ServerFrame::PeerLost(lab.bob.id));
        lab.run(Duration::from_secs(14));
        assert_eq!(lab.presences()[0], PeerPresence::Lost);
        lab.run(Duration::from_secs(7));
        assert_eq!(lab.presences()[0], PeerPresence::Offline);
        assert_eq!(lab.paths()[0], PathKind::None);
    }
}

#[test]
fn a_peer_behind_a_relay_that_died_with_all_servers_is_offline() {
    let mut lab = Lab::relayed();
    (lab.relay_works, lab.direct_works) = (false, false);
    lab.lose_servers();
    lab.run(Duration::from_secs(21));
    assert_eq!(lab.presences(), [PeerPresence::Offline; 2]);
    assert_eq!(lab.paths(), [PathKind::None; 2]);
}

#[test]
fn a_client_that_restarts_without_servers_finds_its_peer_where_it_was() {
    let mut lab = Lab::direct();
    lab.relay_works = false;
    lab.lose_servers();
    lab.run(Duration::from_secs(10));
    lab.restart_bob();
    lab.run(Duration::from_secs(12));
    assert_eq!(lab.paths(), [PathKind::Direct; 2]);
    assert_eq!(lab.presences(), [PeerPresence::Online; 2]);
    lab.send(Side::Bob, 7);
    lab.run(Duration::from_secs(1));
    assert_eq!(lab.alice.received.len(), 1);
}

#[test]
fn a_client_that_restarts_without_servers_takes_up_its_leg_again() {
    let mut lab = Lab::relayed();
    lab.direct_works = false;
    lab.lose_servers();
    lab.run(Duration::from_secs(10));
    lab.restart_bob();
    lab.run(Duration::from_secs(12));
    assert_eq!(lab.paths(), [PathKind::Relay; 2]);
    lab.send(Side::Bob, 7);
    lab.run(Duration::from_secs(1));
    assert_eq!(lab.alice.received.len(), 1);
}

#[test]
fn a_client_that_was_away_for_minutes_finds_its_peer_without_servers() {
    let mut lab = Lab::direct();
    lab.relay_works = false;
    lab.lose_servers();
    lab.bob.alive = false;
    lab.run(Duration::from_secs(300));
    assert_eq!(lab.presences()[0], PeerPresence::Offline);
    lab.restart_bob();
    lab.run(Duration::from_secs(12));
    assert_eq!(lab.paths(), [PathKind::Direct; 2]);
}

#[test]
fn a_cable_that_is_pulled_for_ten_seconds_costs_ten_seconds() {
    let mut without_servers = Lab::direct();
    without_servers.run(Duration::from_secs(60));
    without_servers.lose_servers();
    for mut lab in [Lab::direct(), without_servers] {
        lab.relay_works = false;
        lab.direct_works = false;
        for sequence in 0..20 {
            lab.send(Side::Alice, sequence);
            lab.run(Duration::from_millis(500));
        }
        assert_eq!(lab.bob.received.len(), 0);
        lab.relay_works = true;
        lab.direct_works = true;
        for sequence in 0..20 {
            lab.send(Side::Alice, sequence);
            lab.run(Duration::from_millis(500));
        }
        assert!(lab.bob.received.len() >= 19, "{}", lab.bob.received.len());
    }
}

#[test]
fn a_broken_direct_way_falls_back_to_a_relay_that_the_server_offers() {
    let mut lab = Lab::direct();
    lab.run(Duration::from_secs(60));
    lab.direct_works = false;
    for sequence in 0..60 {
        lab.send(Side::Alice, sequence);
        lab.run(Duration::from_millis(250));
        if lab.alice.asked(&Request::Connect(lab.bob.id)) {
            lab.offer_relay();
        }
    }
    assert_eq!(lab.paths()[0], PathKind::Relay);
    assert!(lab.bob.received.len() > 20, "{}", lab.bob.received.len());
}

#[test]
fn a_client_that_may_use_only_the_relay_never_goes_direct() {
    let mut lab = Lab::with_policy(PathPolicy::Relay);
    lab.offer_relay();
    lab.run(Duration::from_secs(1));
    lab.punch();
    lab.run(Duration::from_secs(20));
    assert_eq!(lab.paths(), [PathKind::Relay; 2]);
}

#[test]
fn a_broadcast_reaches_the_peer_and_does_not_come_back() {
    let mut lab = Lab::direct();
    for to in ["255.255.255.255", "100.127.255.255", "224.0.0.251", "239.255.255.250"] {
        let packet = echo_request(&addresses(Side::Alice), to.parse().unwrap(), 1, 1, b"").unwrap();
        lab.alice.core.handle_packet(lab.now, &packet);
        lab.run(Duration::from_millis(100));
        assert_eq!(lab.bob.received.pop(), Some(packet), "{to}");
    }
}

#[test]
fn a_packet_for_somebody_else_is_not_delivered() {
    let mut lab = Lab::direct();
    let foreign = VirtualAddresses { v4: Some([100, 64, 0, 2].into()), ..addresses(Side::Bob) };
    lab.alice.core.index.addresses.insert("100.64.0.99".parse().unwrap(), lab.bob.id);
    let packet = echo_request(&addresses(Side::Alice), "100.64.0.99".parse().unwrap(), 1, 1, b"").unwrap();
    lab.alice.core.handle_packet(lab.now, &packet);
    let spoofed = echo_request(&foreign, addresses(Side::Bob).v4.unwrap().into(), 1, 1, b"").unwrap();
    lab.alice.core.handle_packet(lab.now, &spoofed);
    lab.run(Duration::from_secs(1));
    assert!(lab.bob.received.is_empty());
}

#[test]
fn a_server_that_does_not_know_a_peer_yet_costs_no_tunnel() {
    let mut lab = Lab::direct();
    lab.lose_servers();
    lab.run(Duration::from_secs(30));
    lab.alice.log_in(lab.now);
    let mut unknown = member(2, &[2; 32]);
    unknown.presence = Some(PeerPresence::Offline);
    lab.tell(Side::Alice, ServerFrame::Change(change(1, 1, vec![unknown])));
    lab.run(Duration::from_secs(30));
    assert_eq!(lab.paths()[0], PathKind::Direct);

    lab.tell(Side::Alice, ServerFrame::PeerUp(lab.bob.id));
    lab.run(Duration::from_secs(1));
    assert_eq!(lab.presences()[0], PeerPresence::Online);
    lab.carried = 0;
    lab.run(Duration::from_secs(60));
    assert!(lab.carried <= 60, "the server is back: {}", lab.carried);
}

#[test]
fn a_network_that_did_not_fit_is_asked_for() {
    let mut lab = Lab::new();
    let other = NetworkId::from_bytes([8; 16]);
    let own = lab.alice.core.addresses().unwrap();
    lab.tell(Side::Alice, ServerFrame::Synced(own, vec![NETWORK, other]));
    assert!(lab.alice.asked(&Request::ChangesSince(other, domain::Revision::ZERO)));
}

#[test]
fn an_offer_that_comes_before_its_peer_is_kept() {
    let mut lab = Lab::new();
    let left = NetworkChange { left: true, ..change(1, 2, Vec::new()) };
    lab.tell(Side::Alice, ServerFrame::Change(left));
    lab.offer_relay();
    lab.alice.log_in(lab.now);
    lab.run(Duration::from_secs(1));
    assert_eq!(lab.paths(), [PathKind::Relay; 2]);
}

#[test]
fn a_tunnel_never_runs_through_a_tunnel() {
    let mut lab = Lab::direct();
    let inside = SocketAddr::new("100.64.0.2".parse().unwrap(), 40_002);
    let way = Endpoint { socket: SocketId::MAIN, address: inside };
    let bob = lab.bob.id;
    lab.alice.core.with(lab.now, bob, |peer, turn| peer.handle_punched(turn, way, Duration::ZERO));
    while let Some(output) = lab.alice.core.poll_output() {
        assert!(!matches!(output, Output::Send { to, .. } if to == inside));
    }
}

#[test]
fn a_farewell_ends_the_tunnel_without_a_server() {
    let mut lab = Lab::direct();
    lab.lose_servers();
    lab.bob.core.say_farewell(lab.now);
    lab.bob_ends();
    lab.run(Duration::from_secs(1));
    assert_eq!(lab.presences()[0], PeerPresence::Offline);
}

#[test]
fn a_ping_is_answered_on_the_way_that_is_used() {
    for (mut lab, expected) in [(Lab::relayed(), Route::Relay), (Lab::direct(), Route::Direct)] {
        let number = lab.alice.core.ping(lab.now, lab.bob.id).unwrap();
        lab.run(Duration::from_secs(1));
        let (_, rtt, route) = *lab.alice.pongs.iter().find(|(pong, ..)| *pong == number).unwrap();
        assert_eq!(route, expected);
        assert!(rtt >= DELAY * 2 && rtt <= DELAY * 5, "{rtt:?}");
    }
}

#[test]
fn a_gap_in_the_changes_is_asked_for() {
    let mut lab = Lab::new();
    lab.tell(Side::Alice, ServerFrame::Change(change(5, 6, Vec::new())));
    assert!(lab.alice.asked(&Request::ChangesSince(NETWORK, domain::Revision(1))));
}

#[test]
fn a_peer_is_named_by_address_id_or_nickname() {
    let lab = Lab::new();
    let core = &lab.alice.core;
    assert_eq!(core.resolve("100.64.0.2"), Ok(lab.bob.id));
    assert_eq!(core.resolve("fd00::2"), Ok(lab.bob.id));
    assert_eq!(core.resolve(&lab.bob.id.to_string()), Ok(lab.bob.id));
    assert_eq!(core.resolve("nobody"), Err(NoPeer::Unknown));
}

#[test]
fn two_idle_tunnels_cost_a_few_packets_a_minute() {
    let mut lab = Lab::direct();
    lab.run(Duration::from_secs(60));
    (lab.carried, lab.turns) = (0, 0);
    lab.run(Duration::from_secs(300));
    assert!(lab.carried <= 60, "{}", lab.carried);
    // The clock of the Noise core ticks once a second on either side.
    assert!(lab.turns <= 660, "{}", lab.turns);
    assert_eq!(lab.paths(), [PathKind::Direct; 2]);
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(64))]

    #[test]
    fn no_bytes_from_the_network_or_the_adapter_panic(
        first in proptest::sample::select(vec![0_u8, 1, 2, 3, 4, 0xa0, 0xa1, 0xb0, 0xb2, 0xb4, 0xb5, 0xb7, 0xb8, 0xff]),
        rest in proptest::collection::vec(proptest::num::u8::ANY, 0..300),
        known in proptest::bool::ANY,
    ) {
        let mut lab = Lab::relayed();
        let from = if known { relay_endpoint() } else { "192.0.2.77:1000".parse().unwrap() };
        for header in [&[first, 0, 0, 0][..], &[first, 0, 0, 0, 0, 0, 0, 77], &[first]] {
            let bytes = [header, &rest].concat();
            lab.alice.core.handle_datagram(lab.now, SocketId::MAIN, from, &bytes);
            lab.alice.core.handle_packet(lab.now, &bytes);
        }
        lab.run(Duration::from_secs(1));
        lab.send(Side::Alice, 1);
        lab.run(Duration::from_secs(1));
        proptest::prop_assert_eq!(lab.bob.received.len(), 1);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Alice,
    Bob,
}

struct Lab {
    now: Instant,
    alice: Node,
    bob: Node,
    wire: std::collections::BinaryHeap<Reverse<Flying>>,
    sent: u64,
    carried: u64,
    turns: u64,
    relay_works: bool,
    direct_works: bool,
    /// Which of them UDP gets through for, to and from the relay.
    udp_works: [bool; 2],
    /// Where the relay takes streams, and those that are open.
    streams: streaming::Streams,
    /// One way to or from the relay, and directly.
    delays: (Duration, Duration),
    /// Where Alice is now.
    alice_at: SocketAddr,
    /// Relays that are gone.
    dead: Vec<SocketAddr>,
    legs: BTreeMap<(SocketAddr, Side), SocketAddr>,
    /// What the relay gives to both.
    slot: Slot,
    challenged: u32,
    opening: first::Opening,
    weather: Option<chatting::Weather>,
}

/// A datagram on its way: when it arrives, in order of sending, from, to.
type Flying = (Instant, u64, SocketAddr, SocketAddr, Vec<u8>);

struct Node {
    id: ClientId,
    core: Core,
    alive: bool,
    received: Vec<Vec<u8>>,
    said: Vec<ClientFrame>,
    requests: Vec<Request>,
    pongs: Vec<(u64, Duration, Route)>,
    /// The messages that it kept.
    disk: Vec<u8>,
}

impl Node {
    fn new(now: Instant, side: Side, policy: PathPolicy) -> Self {
        let (number, private) = key(side);
        let id = member(number, &private).client;
        let choices = Choices { path: policy, port_mapping: false, loopback: false };
        let mut core = Core::new(now, id, private, choices, [number; 32]);
        core.handle_network(now, Surroundings::new(vec![endpoint(side).ip()], None), endpoint(side).port());
        let (received, said, requests, pongs) = Default::default();
        Self { id, core, alive: true, received, said, requests, pongs, disk: Vec::new() }
    }

    fn log_in(&mut self, now: Instant) {
        let welcome = Welcome {
            client: self.id,
            nick: None,
            token: None,
            now: domain::UnixMillis(0),
            keepalive_ms: 60_000,
            tag: SessionTag([7; 16]),
            reflectors: Vec::new(),
            prefix4: 10,
            prefix6: 48,
            relays: Vec::new(),
            membership_keys: Vec::new(),
        };
        self.core.handle_connected(now, &welcome);
        let members = [Side::Alice, Side::Bob].map(|side| member(key(side).0, &key(side).1)).to_vec();
        self.core.view.learn(NETWORK, domain::SecretEpoch::FIRST, NetworkSecret::from_bytes([9; 32]));
        self.core.handle_frame(now, ServerFrame::Change(change(0, 1, members)));
        let addresses = self.core.addresses().unwrap();
        self.core.handle_frame(now, ServerFrame::Synced(addresses, vec![NETWORK]));
    }

    /// Whether this was asked since the last call.
    fn asked(&mut self, request: &Request) -> bool {
        self.drain_requests();
        let asked = self.requests.contains(request);
        self.requests.clear();
        asked
    }

    fn drain_requests(&mut self) {
        let mut rest = VecDeque::new();
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Ask(request) => self.requests.push(request),
                other @ (Output::Send { .. }
                | Output::Deliver(_)
                | Output::WantKeys(_)
                | Output::WantSeal(_)
                | Output::WantMembership(_)
                | Output::Prove(..)
                | Output::MakeSecret(..)
                | Output::Say(_)
                | Output::Configure(_)
                | Output::Members(_)
                | Output::Route(_)
                | Output::Open(_)
                | Output::Close(_)
                | Output::Call { .. }
                | Output::MapPort(_)
                | Output::OpenStream { .. }
                | Output::CloseStream(_)
                | Output::Pong { .. }
                | Output::KeepChats(_)
                | Output::Save(_)) => rest.push_back(other),
            }
        }
        self.core.outputs = rest;
    }
}

impl Lab {
    fn new() -> Self {
        Self::with_policy(PathPolicy::Any)
    }

    fn with_policy(policy: PathPolicy) -> Self {
        let now = Instant::now();
        let mut lab = Self {
            now,
            alice: Node::new(now, Side::Alice, policy),
            bob: Node::new(now, Side::Bob, PathPolicy::Any),
            wire: std::collections::BinaryHeap::new(),
            sent: 0,
            carried: 0,
            turns: 0,
            relay_works: true,
            direct_works: true,
            udp_works: [true; 2],
            streams: streaming::Streams::default(),
            delays: (DELAY, DELAY * 2),
            alice_at: endpoint(Side::Alice),
            dead: Vec::new(),
            legs: BTreeMap::new(),
            slot: Slot(77),
            challenged: 0,
            opening: first::Opening::default(),
            weather: None,
        };
        lab.alice.log_in(now);
        lab.bob.log_in(now);
        lab
    }

    fn relayed() -> Self {
        let mut lab = Self::new();
        lab.offer_relay();
        lab.run(Duration::from_secs(2));
        assert_eq!(lab.paths(), [PathKind::Relay; 2]);
        lab
    }

    fn direct() -> Self {
        let mut lab = Self::relayed();
        lab.punch();
        lab.run(Duration::from_secs(12));
        assert_eq!(lab.paths(), [PathKind::Direct; 2]);
        lab
    }

    fn offer_relay(&mut self) {
        self.offer(relay_endpoint(), &[Side::Alice, Side::Bob]);
    }

    /// A relay is named by its port.
    fn offer(&mut self, at: SocketAddr, sides: &[Side]) {
        for &side in sides {
            let offer = self.relay_offer(side, at);
            self.tell(side, ServerFrame::Relay(Box::new(offer)));
        }
    }

    fn relay_offer(&self, side: Side, at: SocketAddr) -> RelayOffer {
        RelayOffer {
            peer: self.node(other_side(side)).id,
            relay: relay_id(at),
            endpoints: vec![at],
            ticket: vec![side as u8; TICKET_SIZE],
            leg_key: LEG_KEY,
            rate: Bandwidth::UNLIMITED,
            expires: domain::UnixMillis(0),
            streams: self.streams.offered.clone(),
        }
    }

    fn punch(&mut self) {
        let punch = PunchId { leader: InstanceId::from_bytes([1; 16]), number: 11 };
        for side in [Side::Alice, Side::Bob] {
            let peer = self.node(other_side(side)).id;
            let preparation = PunchPreparation { punch, peer, key: [8; 32], sockets: 0, tcp: false };
            self.tell(side, ServerFrame::Prepare(preparation));
        }
        self.run(Duration::from_millis(10));
        for side in [Side::Alice, Side::Bob] {
            let order = PunchOrder {
                punch,
                strategy: Strategy::Direct,
                wait_us: 10_000,
                gap_us: 50_000,
                opener_ttl: 3,
                candidates: vec![Candidate { endpoint: endpoint(other_side(side)), local: false, main: false }],
                attempt: 1,
                spray: None,
                sockets: 0,
            };
            self.tell(side, ServerFrame::Go(order));
        }
    }

    fn tell(&mut self, side: Side, frame: ServerFrame) {
        let now = self.now;
        self.node_mut(side).core.handle_frame(now, frame);
    }

    fn lose_servers(&mut self) {
        let now = self.now;
        for side in [Side::Alice, Side::Bob] {
            self.node_mut(side).core.handle_disconnected(now);
        }
    }

    fn restart_bob(&mut self) {
        let saved = Saved::decode(&self.bob.core.saved().encode()).unwrap();
        let disk = std::mem::take(&mut self.bob.disk);
        self.bob = Node::new(self.now, Side::Bob, PathPolicy::Any);
        self.bob.core.restore(self.now, saved);
        if !disk.is_empty() {
            self.bob.core.restore_chats(self.now, &disk).unwrap();
            self.bob.disk = disk;
        }
    }

    /// Bob's last datagrams leave, then he is gone.
    fn bob_ends(&mut self) {
        self.drain(Side::Bob);
        self.bob.alive = false;
    }

    fn send(&mut self, from: Side, sequence: u16) {
        let to = addresses(other_side(from)).v4.unwrap().into();
        let packet = echo_request(&addresses(from), to, 1, sequence, b"data").unwrap();
        let now = self.now;
        self.node_mut(from).core.handle_packet(now, &packet);
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.drain(Side::Alice);
            self.drain(Side::Bob);
            let arrival = self.wire.peek().map(|Reverse((at, ..))| *at);
            let deadlines = [Side::Alice, Side::Bob].map(|side| {
                let node = self.node(side);
                node.alive.then(|| node.core.poll_deadline())
            });
            let next = [arrival, deadlines[0], deadlines[1]].into_iter().flatten().min().unwrap();
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            while let Some(Reverse((at, _, from, to, datagram))) = self.wire.peek().cloned()
                && at <= self.now
            {
                self.wire.pop();
                self.arrive(from, to, &datagram);
            }
            for (side, deadline) in [Side::Alice, Side::Bob].into_iter().zip(deadlines) {
                if deadline.is_some_and(|due| due <= self.now) {
                    let now = self.now;
                    self.turns += 1;
                    self.node_mut(side).core.handle_deadline(now);
                }
            }
        }
    }

    fn drain(&mut self, side: Side) {
        while let Some(output) = self.node_mut(side).core.poll_output() {
            match output {
                Output::OpenStream { stream, .. } => self.open_stream(side, stream),
                Output::CloseStream(stream) => self.streams.close(side, stream),
                Output::Send { to, datagram, .. } if StreamId::of(&to).is_some() => {
                    self.carry_stream(side, &to, datagram.to_vec());
                }
                Output::Send { to, ttl, datagram, .. } if ttl.is_none() && self.node(side).alive => {
                    self.carry(self.at(side), to, datagram.to_vec());
                }
                Output::Deliver(packet) => self.node_mut(side).received.push(packet.to_vec()),
                Output::Say(frame) => self.node_mut(side).said.push(frame),
                Output::Ask(request) => self.node_mut(side).requests.push(request),
                Output::Pong { number, rtt, route, .. } => self.node_mut(side).pongs.push((number, rtt, route)),
                Output::KeepChats(bytes) => self.keep_chats(side, bytes),
                Output::Send { .. }
                | Output::WantKeys(_)
                | Output::WantSeal(_)
                | Output::WantMembership(_)
                | Output::Prove(..)
                | Output::MakeSecret(..)
                | Output::Configure(_)
                | Output::Members(_)
                | Output::Route(_)
                | Output::Open(_)
                | Output::Close(_)
                | Output::Call { .. }
                | Output::MapPort(_)
                | Output::Save(_) => {}
            }
        }
    }

    fn carry(&mut self, from: SocketAddr, to: SocketAddr, datagram: Vec<u8>) {
        let relay = [from, to].into_iter().find(|end| end.ip() == relay_endpoint().ip());
        let udp = self.udp_works[usize::from([from, to].contains(&self.at(Side::Bob)))];
        let streams = [from, to].into_iter().any(|end| streaming::side_of(end).is_some());
        let works = match relay {
            Some(relay) => self.relay_works && (streams || udp && !self.dead.contains(&relay)),
            None => self.direct_works,
        };
        let relayed = relay.is_some();
        if works {
            self.sent += 1;
            self.carried += 1;
            let delay = if relayed { self.leg_delay(from, to) } else { self.delays.1 };
            for more in self.weather.as_mut().map_or_else(|| vec![Duration::ZERO], chatting::Weather::fate) {
                self.wire.push(Reverse((self.now + delay + more, self.sent, from, to, datagram.clone())));
            }
        }
    }

    fn arrive(&mut self, from: SocketAddr, to: SocketAddr, datagram: &[u8]) {
        if to.ip() == relay_endpoint().ip() {
            return self.relay(to, from, datagram);
        }
        if let Some(side) = streaming::side_of(to) {
            return self.arrive_stream(side, from, datagram);
        }
        // What goes to where Alice was is lost.
        let Some(side) = [Side::Alice, Side::Bob].into_iter().find(|&side| self.at(side) == to) else { return };
        let now = self.now;
        let node = self.node_mut(side);
        if node.alive {
            node.core.handle_datagram(now, SocketId::MAIN, from, datagram);
        }
    }

    /// As the real one, but trusting.
    fn relay(&mut self, at: SocketAddr, from: SocketAddr, datagram: &[u8]) {
        if wire::probe::is_stun(datagram) {
            let asked =
                wire::probe::Asked { source: from, at: wire::probe::Corner::R1P, ttl: 0, now: domain::UnixMillis(0) };
            let mirror = wire::probe::Mirror::single(at, wire::probe::ObservationKey::new(&[1; 32]));
            let mut answer = [0; wire::probe::MAX_ANSWER_SIZE];
            if let Some(reflection) = mirror.reflect(&asked, datagram, &mut answer) {
                self.carry(at, from, answer[..reflection.length].to_vec());
            }
            return;
        }
        let bob = from == self.at(Side::Bob) || streaming::side_of(from) == Some(Side::Bob);
        let side = if bob { Side::Bob } else { Side::Alice };
        let message = Message::parse(datagram).unwrap();
        if self.opening.is_lost_on_older_relays(&message) {
            return;
        }
        match message {
            Message::Ask => self.carry(at, from, Message::Challenge { cookie: COOKIE }.to_vec()),
            Message::Join(join) | Message::JoinFirst { join, .. } if join.cookie != COOKIE => {
                self.challenged += 1;
                self.carry(at, from, Message::Challenge { cookie: COOKIE }.to_vec());
            }
            Message::Join(join) | Message::JoinFirst { join, .. } => {
                assert!(join.is_proved_by(&LegKey(LEG_KEY)));
                self.legs.insert((at, side), from);
                let peer_present = self.legs.contains_key(&(at, other_side(side)));
                let joined = Message::Joined { slot: self.slot, join: join.id(), peer_present };
                self.carry(at, from, joined.to_vec());
                self.exchange_first((at, side), &message);
            }
            Message::Ping { slot, nonce } => {
                self.carry(at, from, Message::Pong { slot, nonce }.to_vec());
            }
            Message::Data { slot, .. } if slot != self.slot => {}
            Message::Data { .. } => {
                // A leg that has moved is unknown until it joined again.
                if self.legs.get(&(at, side)) == Some(&from)
                    && let Some(&to) = self.legs.get(&(at, other_side(side)))
                {
                    self.carry(at, to, datagram.to_vec());
                }
            }
            other @ (Message::Challenge { .. }
            | Message::Joined { .. }
            | Message::Refused { .. }
            | Message::Pong { .. }
            | Message::Note { .. }
            | Message::Fanout { .. }
            | Message::Copy(_)
            | Message::Which { .. }
            | Message::Group { .. }) => panic!("a client does not send {other:?}"),
        }
    }

    fn paths(&self) -> [PathKind; 2] {
        [self.alice.core.peer(self.bob.id).unwrap().path, self.bob.core.peer(self.alice.id).unwrap().path]
    }

    fn presences(&self) -> [PeerPresence; 2] {
        [self.alice.core.peer(self.bob.id).unwrap().presence, self.bob.core.peer(self.alice.id).unwrap().presence]
    }

    fn at(&self, side: Side) -> SocketAddr {
        if side == Side::Alice { self.alice_at } else { endpoint(side) }
    }

    fn node(&self, side: Side) -> &Node {
        match side {
            Side::Alice => &self.alice,
            Side::Bob => &self.bob,
        }
    }

    fn node_mut(&mut self, side: Side) -> &mut Node {
        match side {
            Side::Alice => &mut self.alice,
            Side::Bob => &mut self.bob,
        }
    }
}

fn other_side(side: Side) -> Side {
    match side {
        Side::Alice => Side::Bob,
        Side::Bob => Side::Alice,
    }
}

fn key(side: Side) -> (u8, [u8; 32]) {
    match side {
        Side::Alice => (1, [1; 32]),
        Side::Bob => (2, [2; 32]),
    }
}

fn addresses(side: Side) -> VirtualAddresses {
    let (number, private) = key(side);
    member(number, &private).addresses
}

fn endpoint(side: Side) -> SocketAddr {
    match side {
        Side::Alice => "203.0.113.1:40001".parse().unwrap(),
        Side::Bob => "198.51.100.1:40002".parse().unwrap(),
    }
}

fn relay_endpoint() -> SocketAddr {
    "192.0.2.1:443".parse().unwrap()
}

fn relay_id(at: SocketAddr) -> RelayId {
    let [high, low] = at.port().to_be_bytes();
    RelayId::from_bytes([high, low].repeat(8).try_into().unwrap())
}

fn sequence(packet: &[u8]) -> u16 {
    let echo = InnerPacket::parse(packet).unwrap().payload();
    u16::from_be_bytes([echo[6], echo[7]])
}

/// The one that the relay takes.
const COOKIE: Cookie = Cookie([3; 16]);
/// One way to or from the relay; the direct way takes as long as both.
const DELAY: Duration = Duration::from_millis(5);
const LEG_KEY: [u8; 32] = [6; 32];
