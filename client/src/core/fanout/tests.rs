//! Several cores at relays that copy, in time of their own.

use std::{cmp::Reverse, collections::BinaryHeap};

use domain::{
    Bandwidth, Candidate as Way, InstanceId, Member, NetworkChange, PunchId, PunchOrder, PunchPreparation, RelayId,
    RelayOffer, SessionTag, Strategy,
};
use tunnel::{Frame, OVERHEAD, echo_request};
use wire::{
    control::{ServerFrame, Welcome},
    relay::{Cookie, Message},
    ticket::TICKET_SIZE,
};

use super::*;
use crate::core::{
    Choices, PathPolicy, Saved, Surroundings,
    view::tests::{NETWORK, change, member},
};

#[test]
fn floods_in_a_row_reach_every_member_by_one_frame_each() {
    let mut party = Party::new(5);
    for sequence in 0..20 {
        party.flood(0, sequence, 100);
        party.run(Duration::from_millis(100));
        if sequence == 9 {
            party.reset();
        }
    }
    party.assert_received(&[1, 2, 3, 4], 0..20);
    // The last ten.
    assert_eq!((party.frames, party.copies), (10, 40));
    assert_eq!(party.sent_alone(0), 0);
}

#[test]
fn everybody_floods_at_once() {
    let mut party = Party::new(4);
    for sequence in 0..10 {
        for from in 0..4 {
            party.flood(from, sequence, 100);
        }
        party.run(Duration::from_millis(100));
        if sequence == 6 {
            party.reset();
        }
    }
    for taker in 0..4 {
        for from in (0..4).filter(|from| *from != taker) {
            assert_eq!(party.received(taker, from), (0..10).collect::<Vec<_>>(), "{from} to {taker}");
        }
    }
    assert_eq!((party.frames, party.copies), (3 * 4, 3 * 4 * 3));
}

#[test]
fn a_lone_flood_costs_no_keys_and_no_questions() {
    let mut party = Party::new(4);
    party.reset();
    for sequence in 0..5 {
        party.flood(0, sequence, 100);
        party.run(Duration::from_secs(6));
    }
    party.assert_received(&[1, 2, 3], 0..5);
    assert_eq!((party.frames, party.questions), (0, 0));
    assert!(party.nodes[0].core.fanout.keys.is_empty());
}

#[test]
fn who_did_not_get_the_key_gets_floods_alone_until_it_has_it() {
    let mut party = Party::new(4);
    // The first message with the key, and then the word that it was taken.
    party.lose = vec![(0, 2, key_size()), (2, 0, taken_size())];
    let mut copied = Vec::new();
    for sequence in 0..40 {
        party.reset();
        party.flood(0, sequence, 100);
        party.run(Duration::from_millis(100));
        copied.push(party.copies);
    }
    assert!(party.lose.is_empty());
    party.assert_received(&[1, 2, 3], 0..40);
    assert_eq!(copied[..3], [0; 3]);
    assert_eq!(copied[5..10], [2; 5]);
    assert_eq!(copied[35..], [3; 5]);
}

#[test]
fn a_client_that_never_takes_a_key_gets_every_flood_alone() {
    let mut party = Party::new(4);
    let old = party.nodes[0].id;
    party.nodes[3].core.peers.get_mut(&old).unwrap().handle_common(party.now, BTreeMap::new());
    let before = party.sent_of(0, key_size());
    for sequence in 0..200 {
        party.flood(0, sequence, 100);
        party.run(Duration::from_millis(100));
    }
    party.assert_received(&[1, 2, 3], 0..200);
    // 1, 2, 4, 8 s and so on; one for each of the others.
    assert!(party.sent_of(0, key_size()) - before <= 2 + 6, "{}", party.sent_of(0, key_size()));
    assert!(party.copies >= 2 * 190);
}

#[test]
fn a_relay_that_does_not_copy_is_asked_seldom_and_changes_nothing() {
    let mut party = Party::new(4);
    party.relays_copy = false;
    for sequence in 0..200 {
        party.flood(0, sequence, 100);
        party.run(Duration::from_millis(100));
    }
    party.assert_received(&[1, 2, 3], 0..200);
    assert_eq!(party.frames, 0);
    assert!(party.questions <= 3 * 6, "{}", party.questions);
}

#[test]
fn a_frame_names_slots_of_one_group_at_one_relay() {
    let mut party = Party::lone(8);
    // Two and three of one relay's groups, one of the third; one at another relay.
    for (peer, relay, group) in [(1, 0, 0), (2, 0, 0), (3, 0, 1), (4, 0, 1), (5, 0, 1), (6, 0, 2), (7, 1, 0)] {
        party.offer(0, peer, relay, group);
    }
    party.run(Duration::from_secs(2));
    for sequence in 0..10 {
        party.flood(0, sequence, 100);
        party.run(Duration::from_millis(100));
        if sequence == 8 {
            party.reset();
        }
    }
    party.assert_received(&[1, 2, 3, 4, 5, 6, 7], 0..10);
    assert_eq!((party.frames, party.copies, party.wrong), (2, 5, 0));
    assert_eq!(party.sent_alone(0), 2);
}

#[test]
fn a_member_that_turns_direct_gets_floods_directly() {
    let mut party = Party::new(4);
    for sequence in 0..100 {
        if sequence == 10 {
            party.punch(0, 2);
        }
        if sequence == 95 {
            party.reset();
        }
        party.flood(0, sequence, 100);
        party.run(Duration::from_millis(100));
    }
    party.assert_received(&[1, 2, 3], 0..100);
    assert_eq!((party.frames, party.copies, party.sent_alone(0)), (5, 10, 5));
}

#[test]
fn two_members_are_copied_to_and_one_is_not() {
    for (members, frames, alone) in [(2, 5, 0), (1, 0, 5)] {
        let mut party = Party::new(1 + members);
        for sequence in 0..15 {
            if sequence == 10 {
                party.reset();
            }
            party.flood(0, sequence, 100);
            party.run(Duration::from_millis(100));
        }
        assert_eq!((party.frames, party.sent_alone(0)), (frames, alone), "{members}");
    }
}

#[test]
fn who_left_and_who_joined_read_nothing_that_is_not_for_them() {
    for joins in [false, true] {
        let mut party = Party::new(4);
        party.warm_up(0);
        let (before, heard) = (party.key_of(0), party.key_of(0));
        assert!(party.nodes[3].core.index.keys.contains_key(&heard));
        let changed = if joins { member(9, &[9; 32]) } else { Member { gone: true, ..party.member(3) } };
        let left = party.nodes[3].id;
        let changed =
            NetworkChange { members: vec![Member { revision: Revision(2), ..changed }], ..change(1, 2, Vec::new()) };
        for node in 0..3 {
            party.nodes[node].core.handle_frame(party.now, ServerFrame::Change(changed.clone()));
        }
        party.reset();
        for sequence in 100..110 {
            party.flood(0, sequence, 100);
            party.run(Duration::from_millis(100));
        }
        let after = party.key_of(0);
        assert_ne!(before, after);
        // At first each gets it alone, then by the new key.
        assert!(party.frames >= 5 && party.sent_alone(0) >= 2, "{} {}", party.frames, party.sent_alone(0));
        for taker in [1, 2] {
            assert_eq!(party.received(taker, 0), (100..110).collect::<Vec<_>>(), "{taker}");
        }
        assert_eq!(party.nodes[0].core.peers.contains_key(&left), joins);
        assert!(joins || !party.nodes[3].core.index.keys.contains_key(&after));
        // The old key opens nothing any more, soon afterwards.
        assert!(!party.nodes[1].core.index.keys.contains_key(&before));
    }
}

#[test]
fn a_receiver_that_learns_of_a_change_first_takes_no_key_that_is_older() {
    let mut party = Party::new(4);
    let gone = Member { gone: true, revision: Revision(2), ..party.member(3) };
    let changed = NetworkChange { members: vec![gone], ..change(1, 2, Vec::new()) };
    party.nodes[1].core.handle_frame(party.now, ServerFrame::Change(changed.clone()));
    for sequence in 0..10 {
        party.flood(0, sequence, 100);
        party.run(Duration::from_millis(100));
    }
    assert!(party.nodes[1].core.index.keys.is_empty());
    party.nodes[0].core.handle_frame(party.now, ServerFrame::Change(changed.clone()));
    party.nodes[2].core.handle_frame(party.now, ServerFrame::Change(changed));
    for sequence in 10..20 {
        party.flood(0, sequence, 100);
        party.run(Duration::from_millis(100));
    }
    party.assert_received(&[1, 2], 0..20);
    assert!(party.nodes[1].core.index.keys.contains_key(&party.key_of(0)));
}

#[test]
fn a_receiver_drops_a_key_some_time_after_the_members_changed() {
    let mut party = Party::new(4);
    party.warm_up(0);
    let gone = Member { gone: true, revision: Revision(2), ..party.member(3) };
    let changed = NetworkChange { members: vec![gone], ..change(1, 2, Vec::new()) };
    // The sender does not hear of it.
    party.nodes[1].core.handle_frame(party.now, ServerFrame::Change(changed));
    party.flood(0, 100, 100);
    party.run(Duration::from_secs(6));
    party.flood(0, 101, 100);
    party.run(Duration::from_secs(1));
    assert_eq!(party.received(1, 0), [100]);
    assert_eq!(party.received(2, 0), [100, 101]);
}

#[test]
fn a_member_that_restarted_is_given_the_key_again() {
    let mut party = Party::new(4);
    party.warm_up(0);
    party.restart(2);
    party.run(Duration::from_secs(12));
    for sequence in 100..120 {
        party.flood(0, sequence, 100);
        party.run(Duration::from_millis(100));
        if sequence == 110 {
            party.reset();
        }
    }
    party.assert_received(&[1, 2, 3], 100..120);
    assert_eq!((party.frames, party.copies), (9, 27));
}

#[test]
fn a_flood_goes_alone_where_a_frame_would_be_larger_than_any_datagram() {
    let mut party = Party::new(4);
    party.warm_up(0);
    for (size, frames, alone) in [(1_028, 1, 0), (1_272, 1, 0), (1_276, 1, 1), (1_277, 0, 3), (1_280, 0, 3)] {
        party.reset();
        party.flood(0, 200, size);
        party.run(Duration::from_millis(100));
        assert_eq!((party.frames, party.sent_alone(0)), (frames, alone), "{size}");
        party.assert_received(&[1, 2, 3], 200..201);
        assert!(party.largest <= HEADER_SIZE + MAX_DATAGRAM, "{}", party.largest);
    }
}

#[test]
fn more_members_than_a_frame_has_room_for_are_several_frames() {
    let mut party = Party::lone(9);
    (1..9).for_each(|peer| party.offer(0, peer, 0, 0));
    party.run(Duration::from_secs(2));
    for sequence in 0..6 {
        party.flood(0, sequence, 1_272);
        party.run(Duration::from_millis(500));
        if sequence == 4 {
            party.reset();
        }
    }
    party.assert_received(&[1, 2, 3, 4, 5, 6, 7, 8], 0..6);
    assert_eq!((party.frames, party.copies, party.sent_alone(0)), (3, 8, 0));
}

#[test]
fn within_a_minute_every_member_gets_a_flood_alone() {
    let mut party = Party::new(4);
    party.warm_up(0);
    party.reset();
    for sequence in 0..100 {
        party.flood(0, sequence, 100);
        party.run(Duration::from_secs(1));
    }
    party.assert_received(&[1, 2, 3], 0..100);
    let alone = party.sent_alone(0);
    assert!((3..=6).contains(&alone), "{alone}");
}

#[test]
fn a_key_is_replaced_after_an_hour_with_another_secret_and_when_it_is_worn_out() {
    let mut party = Party::new(4);
    party.warm_up(0);
    let first = party.key_of(0);
    party.now += LIFETIME;
    party.run(Duration::from_secs(3));
    party.warm_up(0);
    let second = party.key_of(0);
    assert_ne!(first, second);
    let key = &mut party.nodes[0].core.fanout.keys.get_mut(&NETWORK).unwrap().key;
    while key.seal(b"").is_some() {}
    party.warm_up(0);
    let third = party.key_of(0);
    assert_ne!(third, second);
    party.warm_up(0);
    assert_eq!(party.key_of(0), third);
    party.nodes[0].core.view.learn(NETWORK, domain::SecretEpoch::FIRST, NetworkSecret::from_bytes([10; 32]));
    party.warm_up(0);
    assert_ne!(party.key_of(0), third);
}

#[test]
fn who_is_in_several_networks_counts_for_the_one_that_most_are_in() {
    let other = NetworkId::from_bytes([8; 16]);
    let mut party = Party::lone(6);
    // Three is in the other network only, Four and Five are in both.
    let both = [0, 3, 4, 5].map(|number| party.member(number)).to_vec();
    let known = NetworkChange { network: other, ..change(0, 1, both) };
    for node in [0, 3] {
        let core = &mut party.nodes[node].core;
        core.view.learn(other, domain::SecretEpoch::FIRST, NetworkSecret::from_bytes([8; 32]));
        core.handle_frame(party.now, ServerFrame::Change(known.clone()));
    }
    let three = Member { gone: true, revision: Revision(2), ..party.member(3) };
    party.nodes[0].core.handle_frame(party.now, ServerFrame::Change(change(1, 2, vec![three])));
    let left = NetworkChange { left: true, ..change(1, 2, Vec::new()) };
    party.nodes[3].core.handle_frame(party.now, ServerFrame::Change(left));
    (1..6).for_each(|peer| party.offer(0, peer, 0, 0));
    party.run(Duration::from_secs(2));
    for sequence in 0..10 {
        party.flood(0, sequence, 100);
        party.run(Duration::from_millis(100));
        if sequence == 8 {
            party.reset();
        }
    }
    party.assert_received(&[1, 2, 3, 4, 5], 0..10);
    assert_eq!((party.frames, party.copies, party.sent_alone(0)), (1, 4, 1));
    assert_eq!(party.nodes[0].core.fanout.keys.keys().collect::<Vec<_>>(), [&NETWORK]);
}

#[test]
fn a_copy_is_taken_once_from_where_the_pair_meets_and_if_it_is_a_flood_of_its_sender() {
    let mut party = Party::new(4);
    party.warm_up(0);
    let (alice, bob) = (addresses(0), addresses(1));
    let to = |to: &str, from| echo_request(&from, to.parse().unwrap(), 1, 7, b"data").unwrap();
    let good = party.seal(0, &to("224.0.0.251", alice));
    let relay = relay_endpoint(0);
    let stranger = relay_endpoint(1);
    for (from, copy, is_taken) in [
        (stranger, good.clone(), false),
        (relay, good.clone(), true),
        (relay, good, false),
        (relay, party.seal(0, &to("224.0.0.251", bob)), false),
        (relay, party.seal(0, &to(&bob.v4.unwrap().to_string(), alice)), false),
        (relay, party.seal(0, b"no packet"), false),
        (relay, party.seal(0, &to("255.255.255.255", alice)), true),
    ] {
        party.nodes[1].received.clear();
        party.nodes[1].core.handle_datagram(party.now, SocketId::MAIN, from, &copy);
        party.run(Duration::from_millis(10));
        assert_eq!(party.nodes[1].received.len(), usize::from(is_taken));
    }
    let mut damaged = party.seal(0, &to("224.0.0.251", alice));
    for at in 4..damaged.len() {
        damaged[at] ^= 1;
        party.nodes[1].core.handle_datagram(party.now, SocketId::MAIN, relay, &damaged);
        damaged[at] ^= 1;
    }
    party.nodes[1].received.clear();
    party.run(Duration::from_millis(10));
    assert!(party.nodes[1].received.is_empty());
}

#[test]
fn a_sender_has_a_budget_at_its_receivers() {
    let mut party = Party::new(4);
    party.warm_up(0);
    party.run(Duration::from_secs(5));
    party.reset();
    let packet = echo_request(&addresses(0), "224.0.0.251".parse().unwrap(), 1, 7, b"data").unwrap();
    for _ in 0..500 {
        let copy = party.seal(0, &packet);
        party.nodes[1].core.handle_datagram(party.now, SocketId::MAIN, relay_endpoint(0), &copy);
    }
    party.run(Duration::from_millis(1));
    assert_eq!(party.nodes[1].received.len(), 400);
}

/// Clients that know each other, the first of them as a rule the one that floods.
struct Party {
    now: Instant,
    nodes: Vec<Node>,
    wire: BinaryHeap<Reverse<Flying>>,
    sent: u64,
    pairs: BTreeMap<Slot, [(usize, Option<SocketAddr>); 2]>,
    relays_copy: bool,
    direct_works: bool,
    /// Datagrams of this size of the tunnel between two are lost, once.
    lose: Vec<(usize, usize, usize)>,
    /// What the relays got since the last reset: frames for many, slots in them that are nobody's or of another group, questions.
    frames: usize,
    wrong: usize,
    questions: usize,
    /// What they copied.
    copies: usize,
    /// Sizes of datagrams of tunnels that a client sent, over a relay or directly.
    datagrams: Vec<(usize, usize)>,
    flood_size: usize,
    largest: usize,
}

type Flying = (Instant, u64, SocketAddr, SocketAddr, Vec<u8>);

struct Node {
    id: ClientId,
    core: Core,
    received: Vec<Vec<u8>>,
}

impl Node {
    fn new(now: Instant, number: usize) -> Self {
        let private = private(number);
        let id = member(nth(number), &private).client;
        let choices = Choices { path: PathPolicy::Any, port_mapping: false, loopback: false };
        let mut core = Core::new(now, id, private, choices, [nth(number); 32]);
        core.handle_network(now, Surroundings::new(vec![endpoint(number).ip()], None), endpoint(number).port());
        Self { id, core, received: Vec::new() }
    }
}

impl Party {
    /// So many clients, each of which has a pair with each other one at the first relay, in one group.
    fn new(clients: usize) -> Self {
        let mut party = Self::lone(clients);
        for one in 0..clients {
            (one + 1..clients).for_each(|other| party.offer(one, other, 0, 0));
        }
        party.run(Duration::from_secs(3));
        party.reset();
        party
    }

    /// So many clients of one network without a pair.
    fn lone(clients: usize) -> Self {
        let now = Instant::now();
        let mut party = Self {
            now,
            nodes: (0..clients).map(|number| Node::new(now, number)).collect(),
            wire: BinaryHeap::new(),
            sent: 0,
            pairs: BTreeMap::new(),
            relays_copy: true,
            direct_works: false,
            lose: Vec::new(),
            frames: 0,
            wrong: 0,
            questions: 0,
            copies: 0,
            datagrams: Vec::new(),
            flood_size: 0,
            largest: 0,
        };
        (0..clients).for_each(|node| party.log_in(node));
        party
    }

    fn log_in(&mut self, node: usize) {
        let members = (0..self.nodes.len()).map(|number| self.member(number)).collect();
        let (now, Node { id, core, .. }) = (self.now, &mut self.nodes[node]);
        let welcome = Welcome {
            client: *id,
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
        core.handle_connected(now, &welcome);
        core.view.learn(NETWORK, domain::SecretEpoch::FIRST, NetworkSecret::from_bytes([9; 32]));
        core.handle_frame(now, ServerFrame::Change(change(0, 1, members)));
    }

    /// The client is told about the network by nobody, and knows what it saved.
    fn restart(&mut self, node: usize) {
        let saved = Saved::decode(&self.nodes[node].core.saved().encode()).unwrap();
        self.nodes[node] = Node::new(self.now, node);
        self.nodes[node].core.restore(self.now, saved);
    }

    /// A pair at a relay, with a slot of a group.
    fn offer(&mut self, one: usize, other: usize, relay: u8, group: u8) {
        let number = u32::try_from(self.pairs.len()).unwrap();
        let slot = Slot(number << 8 | u32::from(group));
        self.pairs.insert(slot, [(one, None), (other, None)]);
        for (side, (own, peer)) in [(one, other), (other, one)].into_iter().enumerate() {
            let mut ticket = [0; TICKET_SIZE];
            ticket[..4].copy_from_slice(&slot.0.to_be_bytes());
            ticket[4] = nth(side);
            let offer = RelayOffer {
                peer: self.nodes[peer].id,
                relay: RelayId::from_bytes([relay; 16]),
                endpoints: vec![relay_endpoint(relay)],
                ticket: ticket.to_vec(),
                leg_key: [6; 32],
                rate: Bandwidth::UNLIMITED,
                expires: domain::UnixMillis(0),
                streams: Vec::new(),
            };
            self.nodes[own].core.handle_frame(self.now, ServerFrame::Relay(Box::new(offer)));
        }
    }

    fn punch(&mut self, one: usize, other: usize) {
        self.direct_works = true;
        let punch = PunchId { leader: InstanceId::from_bytes([1; 16]), number: 11 };
        for (own, peer) in [(one, other), (other, one)] {
            let peer = self.nodes[peer].id;
            let preparation = PunchPreparation { punch, peer, key: [8; 32], sockets: 0, tcp: false };
            self.nodes[own].core.handle_frame(self.now, ServerFrame::Prepare(preparation));
        }
        self.run(Duration::from_millis(10));
        for (own, peer) in [(one, other), (other, one)] {
            let order = PunchOrder {
                punch,
                strategy: Strategy::Direct,
                wait_us: 10_000,
                gap_us: 50_000,
                opener_ttl: 3,
                candidates: vec![Way { endpoint: endpoint(peer), local: false, main: false }],
                attempt: 1,
                spray: None,
                sockets: 0,
            };
            self.nodes[own].core.handle_frame(self.now, ServerFrame::Go(order));
        }
    }

    /// Enough floods that the next one is copied. Forgets them.
    fn warm_up(&mut self, from: usize) {
        for sequence in 0..8 {
            self.flood(from, 1_000 + sequence, 100);
            self.run(Duration::from_millis(200));
        }
        self.reset();
        self.flood(from, 1_010, 100);
        self.run(Duration::from_millis(200));
        assert_eq!(self.frames, 1);
        self.reset();
        self.nodes.iter_mut().for_each(|node| node.received.clear());
    }

    /// A multicast packet of so many bytes.
    fn flood(&mut self, from: usize, sequence: u16, size: usize) {
        let data = vec![5; size - 28];
        let packet =
            echo_request(&addresses(from), "224.0.0.251".parse().unwrap(), nth(from).into(), sequence, &data).unwrap();
        self.flood_size = size;
        self.nodes[from].core.handle_packet(self.now, &packet);
    }

    /// What a client's key makes of a packet, as the relay would copy it.
    fn seal(&mut self, from: usize, packet: &[u8]) -> Vec<u8> {
        let key = &mut self.nodes[from].core.fanout.keys.get_mut(&NETWORK).unwrap().key;
        let (counter, sealed) = key.seal(packet).unwrap();
        Message::Copy(Shared { counter, key: SharedKeyId(key.id()), sealed: &sealed }).to_vec()
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            (0..self.nodes.len()).for_each(|node| self.drain(node));
            let arrival = self.wire.peek().map(|Reverse((at, ..))| *at);
            let deadline = self.nodes.iter().map(|node| node.core.poll_deadline()).min();
            let next = [arrival, deadline].into_iter().flatten().min().unwrap();
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
            for node in &mut self.nodes {
                if node.core.poll_deadline() <= self.now {
                    node.core.handle_deadline(self.now);
                }
            }
        }
    }

    fn drain(&mut self, node: usize) {
        while let Some(output) = self.nodes[node].core.poll_output() {
            match output {
                Output::Send { to, ttl: None, datagram, .. } => {
                    self.note_sent(node, &datagram);
                    self.carry(endpoint(node), to, datagram.to_vec());
                }
                Output::Deliver(packet) => self.nodes[node].received.push(packet.to_vec()),
                Output::Send { .. }
                | Output::Say(_)
                | Output::Ask(_)
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
                | Output::OpenStream { .. }
                | Output::CloseStream(_)
                | Output::MapPort(_)
                | Output::Pong { .. }
                | Output::KeepChats(_)
                | Output::Save(_) => {}
            }
        }
    }

    fn note_sent(&mut self, node: usize, datagram: &[u8]) {
        self.largest = self.largest.max(datagram.len());
        match Message::parse(datagram) {
            Some(Message::Data { payload, .. }) => self.datagrams.push((node, payload.len())),
            Some(_) => {}
            None => self.datagrams.push((node, datagram.len())),
        }
    }

    fn carry(&mut self, from: SocketAddr, to: SocketAddr, datagram: Vec<u8>) {
        self.sent += 1;
        self.wire.push(Reverse((self.now + DELAY, self.sent, from, to, datagram)));
    }

    fn arrive(&mut self, from: SocketAddr, to: SocketAddr, datagram: &[u8]) {
        if (0..2).any(|relay| relay_endpoint(relay) == to) {
            return self.relay(from, to, datagram);
        }
        let node = (0..self.nodes.len()).find(|node| endpoint(*node) == to);
        let relayed = (0..2).any(|relay| relay_endpoint(relay) == from);
        if let Some(node) = node.filter(|_| relayed || self.direct_works) {
            self.nodes[node].core.handle_datagram(self.now, SocketId::MAIN, from, datagram);
        }
    }

    /// As the real one, but trusting.
    fn relay(&mut self, from: SocketAddr, relay: SocketAddr, datagram: &[u8]) {
        let message = Message::parse(datagram).unwrap();
        match message {
            Message::Ask => self.carry(relay, from, Message::Challenge { cookie: Cookie([3; 16]) }.to_vec()),
            Message::Join(join) | Message::JoinFirst { join, .. } if join.cookie == Cookie::default() => {
                self.carry(relay, from, Message::Challenge { cookie: Cookie([3; 16]) }.to_vec());
            }
            Message::Join(join) | Message::JoinFirst { join, .. } => {
                let slot = Slot(u32::from_be_bytes(*join.ticket.first_chunk().unwrap()));
                self.pairs.get_mut(&slot).unwrap()[usize::from(join.ticket[4])].1 = Some(from);
                let joined = Message::Joined { slot, join: join.id(), peer_present: true };
                self.carry(relay, from, joined.to_vec());
                if let (Message::JoinFirst { first, .. }, Some((.., to))) = (message, self.other_leg(slot, from)) {
                    self.carry(relay, to, Message::Data { slot, payload: first }.to_vec());
                }
            }
            Message::Ping { slot, nonce } => self.carry(relay, from, Message::Pong { slot, nonce }.to_vec()),
            Message::Data { slot, payload } => {
                let Some((sender, taker, to)) = self.other_leg(slot, from) else { return };
                let lost = self.lose.iter().position(|lost| *lost == (sender, taker, payload.len()));
                match lost {
                    Some(lost) => drop(self.lose.remove(lost)),
                    None => self.carry(relay, to, datagram.to_vec()),
                }
            }
            Message::Which { slot } => {
                self.questions += 1;
                if self.relays_copy {
                    let group = group_of(slot);
                    self.carry(relay, from, Message::Group { slot, group }.to_vec());
                }
            }
            Message::Fanout { slots, copy } => {
                assert!(self.relays_copy);
                self.frames += 1;
                for slot in slots.iter() {
                    match self.other_leg(slot, from) {
                        Some((_, _, to)) if group_of(slot) == group_of(slots.first()) => {
                            self.copies += 1;
                            self.carry(relay, to, copy.to_vec());
                        }
                        _ => self.wrong += 1,
                    }
                }
            }
            other @ (Message::Challenge { .. }
            | Message::Joined { .. }
            | Message::Refused { .. }
            | Message::Pong { .. }
            | Message::Note { .. }
            | Message::Copy(_)
            | Message::Group { .. }) => panic!("a client does not send {other:?}"),
        }
    }

    fn other_leg(&self, slot: Slot, from: SocketAddr) -> Option<(usize, usize, SocketAddr)> {
        let [(one, first), (other, second)] = *self.pairs.get(&slot)?;
        if first == Some(from) {
            Some((one, other, second?))
        } else if second == Some(from) {
            Some((other, one, first?))
        } else {
            None
        }
    }

    fn reset(&mut self) {
        (self.frames, self.wrong, self.questions, self.copies, self.largest) = (0, 0, 0, 0, 0);
        self.datagrams.clear();
    }

    /// Datagrams of tunnels that have the size of the last flood.
    fn sent_alone(&self, node: usize) -> usize {
        self.sent_of(node, self.flood_size + OVERHEAD)
    }

    fn sent_of(&self, node: usize, size: usize) -> usize {
        self.datagrams.iter().filter(|sent| **sent == (node, size)).count()
    }

    fn key_of(&self, node: usize) -> SharedKeyId {
        SharedKeyId(self.nodes[node].core.fanout.keys[&NETWORK].key.id())
    }

    fn member(&self, number: usize) -> Member {
        member(nth(number), &private(number))
    }

    /// The sequence numbers of the floods of `from`, in the order of arrival.
    fn received(&self, taker: usize, from: usize) -> Vec<u16> {
        let packets = self.nodes[taker].received.iter().map(|packet| InnerPacket::parse(packet).unwrap());
        let packets = packets.filter(|packet| packet.is_from(&addresses(from)));
        packets.map(|packet| u16::from_be_bytes([packet.payload()[6], packet.payload()[7]])).collect()
    }

    /// Each of the takers got each flood of the first client once.
    fn assert_received(&mut self, takers: &[usize], sequences: std::ops::Range<u16>) {
        for taker in takers {
            let mut received = self.received(*taker, 0);
            received.sort_unstable();
            assert_eq!(received, sequences.clone().collect::<Vec<_>>(), "{taker}");
            self.nodes[*taker].received.clear();
        }
    }
}

fn group_of(slot: Slot) -> u8 {
    slot.0.to_be_bytes()[3]
}

fn nth(number: usize) -> u8 {
    u8::try_from(number).unwrap()
}

fn private(number: usize) -> [u8; 32] {
    [nth(number) + 1; 32]
}

fn addresses(number: usize) -> domain::VirtualAddresses {
    member(nth(number), &private(number)).addresses
}

fn endpoint(number: usize) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, nth(number)], 40_000))
}

fn relay_endpoint(relay: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, relay], 443))
}

/// Of the datagram that gives a key, and of the one that says it was taken.
fn key_size() -> usize {
    let key = SenderKey::new(SenderSecret::from_bytes([1; 32]), NETWORK, ClientId::from_bytes([1; 16]));
    size_of(&Frame::Key(key.handed(Revision(1))))
}

fn taken_size() -> usize {
    size_of(&Frame::KeyTaken([1; 8]))
}

fn size_of(frame: &Frame) -> usize {
    frame.encode(ClientId::from_bytes([1; 16]), ClientId::from_bytes([2; 16])).len() + OVERHEAD
}

const DELAY: Duration = Duration::from_millis(5);
