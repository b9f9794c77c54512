//! Two sessions back to back: what may be lost, repeated, reordered or made up on the way.
#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use domain::{ClientId, NetworkId, VirtualAddresses};
use proptest::prelude::*;
use tunnel::{
    Claim, Event, Frame, InnerPacket, Local, NetworkSecret, Opened, PairKey, Party, Received, Refusal, Route, Routes,
    Session, echo_request,
};

#[test]
fn a_handshake_takes_one_round_trip_and_waiting_packets_follow() {
    let mut lab = Lab::new(SECRET);
    let packet = lab.packet_to_bob(1);
    assert_eq!(lab.alice.handle_packet(lab.now, &packet).unwrap(), None);

    let delivered = lab.settle();
    assert_eq!(delivered, vec![(Side::Bob, packet)]);
    assert_eq!(lab.alice.poll_event(), Some(Event::Established));
    assert_eq!(lab.bob.poll_event(), Some(Event::Established));
}

#[test]
fn two_simultaneous_initiations_end_in_working_keys() {
    let mut lab = Lab::new(SECRET);
    lab.alice.initiate(lab.now);
    lab.bob.initiate(lab.now);
    lab.settle();
    for sequence in 0..10 {
        assert!(lab.alice_reaches_bob(sequence));
        assert!(lab.bob_reaches_alice(sequence));
    }
}

#[test]
fn sessions_whose_handshakes_crossed_stay_what_each_end_sends_on() {
    let mut lab = Lab::new(SECRET);
    let to_bob = lab.alice.initiation(lab.now).unwrap();
    let to_alice = lab.bob.initiation(lab.now).unwrap();
    assert_eq!([lab.alice.poll_transmit(), lab.bob.poll_transmit()], [None, None]);
    assert_eq!([to_bob.len(), to_alice.len()], [148, 148]);
    let waiting = lab.packet_to_bob(99);
    assert_eq!(lab.alice.handle_packet(lab.now, &waiting), Ok(None));
    lab.bob_takes(&to_bob);
    lab.alice_takes(&to_alice);
    assert_eq!(lab.settle(), [(Side::Bob, waiting)], "one round trip, and no third handshake");

    let mut indices = std::collections::BTreeSet::new();
    for sequence in 0..20 {
        let packet = lab.packet_to_bob(sequence);
        let sealed = lab.alice.handle_packet(lab.now, &packet).unwrap().unwrap();
        indices.insert((Side::Bob, sealed[4..8].to_vec()));
        assert!(matches!(lab.bob_takes(&sealed), Received::Packet(received) if received == packet));
        let packet = echo_request(&addresses(2), addresses(1).v6.into(), 1, sequence, b"to alice").unwrap();
        let sealed = lab.bob.handle_packet(lab.now, &packet).unwrap().unwrap();
        indices.insert((Side::Alice, sealed[4..8].to_vec()));
        assert!(matches!(lab.alice_takes(&sealed), Received::Packet(received) if received == packet));
    }
    assert_eq!(indices.len(), 2, "each end sends on one session");
}

#[test]
fn another_pair_key_never_establishes() {
    let mut lab = Lab::new([8; 32]);
    lab.alice.initiate(lab.now);
    lab.bob.initiate(lab.now);
    for _ in 0..100 {
        lab.now += Duration::from_secs(1);
        lab.alice.handle_deadline(lab.now);
        lab.bob.handle_deadline(lab.now);
        lab.settle();
    }
    assert!(!lab.alice.is_established() && !lab.bob.is_established());
    assert_eq!(lab.alice.poll_event(), None);
    assert_eq!(lab.alice.poll_deadline(), None);
}

#[test]
fn a_lost_initiation_is_repeated() {
    let mut lab = Lab::new(SECRET);
    lab.alice.initiate(lab.now);
    assert!(lab.alice.poll_transmit().is_some());
    lab.now = lab.alice.poll_deadline().unwrap();
    for _ in 0..3 {
        lab.alice.handle_deadline(lab.now);
        lab.now += Duration::from_secs(1);
    }
    lab.settle();
    assert!(lab.alice.is_established());
}

#[test]
fn a_peer_that_lost_its_keys_gets_new_ones() {
    let mut lab = Lab::established();
    lab.bob = lab.fresh_bob(SECRET);
    assert!(!lab.alice_reaches_bob(1));

    lab.alice.restart(lab.now);
    lab.settle();
    assert!(lab.alice_reaches_bob(2));
    assert!(lab.bob_reaches_alice(3));
}

#[test]
fn nothing_is_lost_while_one_end_takes_another_static_key() {
    for bob_first in [true, false] {
        let mut lab = Lab::established();
        let bob_local = lab.bob_local.followed_by([3; 32]);
        let mut sequence = 0;
        let mut both_ways = |lab: &mut Lab| {
            sequence += 1;
            assert!(lab.alice_reaches_bob(sequence) && lab.bob_reaches_alice(sequence), "{bob_first} {sequence}");
        };
        // One hears of it before the other; what it begins leads nowhere yet.
        if bob_first {
            lab.bob_local = bob_local;
            lab.bob.succeed(lab.now, &lab.bob_local, lab.alice_local.public());
            while lab.bob.poll_transmit().is_some() {}
        } else {
            lab.alice.succeed(lab.now, &lab.alice_local, bob_local.public());
            while lab.alice.poll_transmit().is_some() {}
            lab.bob_local = bob_local;
        }
        both_ways(&mut lab);
        if bob_first {
            lab.alice.succeed(lab.now, &lab.alice_local, lab.bob_local.public());
        } else {
            lab.bob.succeed(lab.now, &lab.bob_local, lab.alice_local.public());
        }
        both_ways(&mut lab);
        lab.settle();
        both_ways(&mut lab);
        assert!(!lab.alice.is_under_former_keys() && !lab.bob.is_under_former_keys());
        // Longer than the keys before would have lived.
        for _ in 0..60 {
            lab.pass(Duration::from_secs(5));
            both_ways(&mut lab);
        }
    }
}

#[test]
fn what_was_sent_under_the_keys_before_still_arrives() {
    let mut lab = Lab::established();
    let packet = lab.packet_to_bob(1);
    let [early, late] = [(); 2].map(|()| lab.alice.handle_packet(lab.now, &packet).unwrap().unwrap());
    lab.bob_local = lab.bob_local.followed_by([3; 32]);
    lab.alice.succeed(lab.now, &lab.alice_local, lab.bob_local.public());
    lab.bob.succeed(lab.now, &lab.bob_local, lab.alice_local.public());
    lab.settle();
    assert!(lab.alice_reaches_bob(2) && !lab.bob.is_under_former_keys());
    assert!(matches!(lab.bob_takes(&early), Received::Packet(received) if received == packet));
    lab.pass(Duration::from_secs(11));
    assert!(matches!(lab.bob_takes(&late), Received::Refused(_)));
}

#[test]
fn a_peer_that_never_takes_up_the_new_key_is_lost_when_the_old_ones_end() {
    let mut lab = Lab::established();
    lab.bob_local = lab.bob_local.followed_by([3; 32]);
    lab.bob.succeed(lab.now, &lab.bob_local, lab.alice_local.public());
    assert_eq!(lab.bob.poll_event(), Some(Event::Established));
    lab.pass(Duration::from_secs(60));
    assert!(lab.bob_reaches_alice(1), "under the keys before");
    lab.pass(Duration::from_secs(125));
    assert!(!lab.bob.is_established());
    assert_eq!(lab.bob.poll_event(), Some(Event::Lapsed));
}

#[test]
fn a_spoofed_inner_source_is_refused_on_both_sides() {
    let mut lab = Lab::established();
    let foreign = echo_request(&addresses(3), addresses(2).v6.into(), 1, 1, b"").unwrap();
    assert_eq!(lab.alice.handle_packet(lab.now, &foreign), Err(Refusal::SpoofedSource));

    // A client that does not check what it sends.
    lab.alice.readdress(addresses(3), addresses(2));
    let sealed = lab.alice.handle_packet(lab.now, &foreign).unwrap().unwrap();
    assert!(matches!(lab.bob_takes(&sealed), Received::Refused(Refusal::SpoofedSource)));
}

#[test]
fn what_comes_from_behind_an_end_passes_for_the_other_end_alone() {
    let behind = VirtualAddresses { v4: Some([192, 168, 50, 7].into()), v6: "fd12::7".parse().unwrap() };
    let to = |address: std::net::IpAddr| echo_request(&behind, address, 1, 1, b"").unwrap();
    let prefixes = || vec!["192.168.50.0/24".parse().unwrap(), "fd12::/64".parse().unwrap()];
    for to_bob in [to(addresses(2).v6.into()), to(addresses(2).v4.unwrap().into())] {
        let mut lab = Lab::established();
        assert_eq!(lab.alice.handle_packet(lab.now, &to_bob), Err(Refusal::SpoofedSource));
        lab.alice.route(Routes { own: prefixes(), peer: Vec::new() });
        let sealed = lab.alice.handle_packet(lab.now, &to_bob).unwrap().unwrap();
        assert!(matches!(lab.bob_takes(&sealed), Received::Refused(Refusal::SpoofedSource)));
        lab.bob.route(Routes { own: Vec::new(), peer: prefixes() });
        let sealed = lab.alice.handle_packet(lab.now, &to_bob).unwrap().unwrap();
        assert!(matches!(lab.bob_takes(&sealed), Received::Packet(received) if received == to_bob));
        // Not the other way round, and not for others.
        let back = echo_request(&behind, addresses(1).v6.into(), 1, 1, b"").unwrap();
        assert_eq!(lab.bob.handle_packet(lab.now, &back), Err(Refusal::SpoofedSource));
        for others in ["100.64.0.3", "fd00::3", "255.255.255.255", "ff02::1"] {
            let packet = to(others.parse().unwrap());
            assert_eq!(lab.alice.handle_packet(lab.now, &packet), Err(Refusal::SpoofedSource), "{others}");
            // A client that does not check what it sends.
            let (v4, v6) = (InnerPacket::parse(&packet).unwrap().destination, addresses(2).v6);
            let claimed = match v4 {
                std::net::IpAddr::V4(v4) => VirtualAddresses { v4: Some(v4), v6 },
                std::net::IpAddr::V6(v6) => VirtualAddresses { v4: None, v6 },
            };
            lab.alice.readdress(addresses(1), claimed);
            let sealed = lab.alice.handle_packet(lab.now, &packet).unwrap().unwrap();
            assert!(matches!(lab.bob_takes(&sealed), Received::Refused(Refusal::SpoofedSource)), "{others}");
            lab.alice.readdress(addresses(1), addresses(2));
        }
    }
}

#[test]
fn a_frame_of_an_application_is_refused() {
    let mut lab = Lab::established();
    let forged = Frame::Farewell.encode(ALICE, BOB);
    assert_eq!(lab.alice.handle_packet(lab.now, &forged), Err(Refusal::SpoofedSource));
}

#[test]
fn a_frame_arrives_as_it_was_sent() {
    let mut lab = Lab::established();
    let probe = Frame::Probe { route: Route::Direct, number: 3, sent_us: 77 };
    let sealed = lab.alice.handle_frame(&probe).unwrap();
    assert!(matches!(lab.bob_takes(&sealed), Received::Frame(frame) if frame == probe));
    assert_eq!(lab.bob.heard(), Some(lab.now));
}

#[test]
fn a_datagram_names_the_session_it_is_for() {
    let mut lab = Lab::new(SECRET);
    lab.alice.initiate(lab.now);
    let initiation = lab.alice.poll_transmit().unwrap();
    let Opened::Incoming(incoming) = lab.bob_local.open(SOMEWHERE.parse().unwrap(), &initiation) else {
        panic!("the initiation is for bob");
    };
    assert!(incoming.is_initiation());
    assert_eq!(lab.bob_local.claim(&incoming), Some(Claim::Initiator(lab.alice_local.public())));
    assert!(matches!(lab.alice_local.open(SOMEWHERE.parse().unwrap(), &initiation), Opened::Refused));

    lab.bob.handle_datagram(lab.now, incoming);
    let response = lab.bob.poll_transmit().unwrap();
    let Opened::Incoming(incoming) = lab.alice_local.open(SOMEWHERE.parse().unwrap(), &response) else {
        panic!("the response is for alice");
    };
    let Some(Claim::Receiver(index)) = lab.alice_local.claim(&incoming) else { panic!("a response names a receiver") };
    assert!(lab.alice.owns(index));
    assert!(!lab.bob.owns(index));
}

#[test]
fn many_handshakes_from_one_address_are_challenged() {
    let mut lab = Lab::new(SECRET);
    let mut challenges = 0;
    for _ in 0..150 {
        lab.alice.restart(lab.now);
        let initiation = lab.alice.poll_transmit().unwrap();
        if let Opened::Challenge(reply) = lab.bob_local.open(SOMEWHERE.parse().unwrap(), &initiation) {
            assert!(reply.len() < initiation.len());
            challenges += 1;
        }
    }
    assert!(challenges > 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn each_packet_is_delivered_once_in_any_order(order in proptest::collection::vec(0_usize..64, 0..200)) {
        let mut lab = Lab::established();
        let sealed: Vec<BytesMut> = (0..64).map(|n| {
            let packet = lab.packet_to_bob(n);
            lab.alice.handle_packet(lab.now, &packet).unwrap().unwrap()
        }).collect();
        let mut seen = [false; 64];
        for index in order {
            match lab.bob_takes(&sealed[index]) {
                Received::Packet(packet) => {
                    prop_assert!(!seen[index]);
                    seen[index] = true;
                    prop_assert_eq!(&packet[..], &lab.packet_to_bob(u16::try_from(index).unwrap())[..]);
                }
                Received::Refused(Refusal::Replayed) => prop_assert!(seen[index]),
                other @ (Received::Frame(_) | Received::Nothing | Received::Refused(_)) => {
                    prop_assert!(false, "{:?}", other);
                }
            }
        }
    }

    #[test]
    fn no_datagram_panics(start in 0_u8..6, rest in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut lab = Lab::established();
        let datagram = [&[start, 0, 0, 0][..], &rest].concat();
        let received = lab.bob_takes(&datagram);
        prop_assert!(matches!(received, Received::Refused(_) | Received::Nothing));
        prop_assert!(lab.alice_reaches_bob(1));
    }

    #[test]
    fn no_altered_datagram_is_accepted(at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let mut lab = Lab::established();
        let packet = lab.packet_to_bob(1);
        let mut sealed = lab.alice.handle_packet(lab.now, &packet).unwrap().unwrap();
        let at = at.index(sealed.len());
        sealed[at] ^= 1 << bit;
        prop_assert!(matches!(lab.bob_takes(&sealed), Received::Refused(_)));
    }

    #[test]
    fn no_inner_packet_panics(packet in proptest::collection::vec(any::<u8>(), 0..1400), version in prop::option::of(prop_oneof![Just(0x45_u8), Just(0x60)])) {
        let mut packet = packet;
        if let (Some(first), Some(version)) = (packet.first_mut(), version) {
            *first = version;
        }
        if let Some(inner) = InnerPacket::parse(&packet) {
            let _ = Frame::decode(&inner);
            let _ = inner.payload();
        }
        let _ = tunnel::echo_reply(&addresses(1), &packet);
        let mut lab = Lab::established();
        let _ = lab.alice.handle_packet(lab.now, &packet);
    }

    #[test]
    fn no_frame_panics(kind in 0_u8..12, fields in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut packet = Frame::Farewell.encode(ALICE, BOB);
        packet.truncate(40);
        packet.push(kind);
        packet.extend(fields);
        let length = u16::try_from(packet.len() - 40).unwrap().to_be_bytes();
        packet[4..6].copy_from_slice(&length);
        let _ = Frame::decode(&InnerPacket::parse(&packet).unwrap());
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Alice,
    Bob,
}

#[test]
fn a_pair_moves_to_a_newer_key_without_losing_a_packet() {
    let mut lab = Lab::established();
    // Alice learns of it first, and begins at once; Bob answers with what he has.
    assert!(lab.alice.renew_key(&newer()));
    lab.alice.restart(lab.now);
    lab.settle();
    assert!(lab.alice_reaches_bob(1) && lab.bob_reaches_alice(2));
    assert!(lab.alice.accepts_older_keys(), "Bob has not shown the newer one");

    assert!(lab.bob.renew_key(&newer()));
    lab.bob.restart(lab.now);
    lab.settle();
    assert!(lab.alice_reaches_bob(3) && lab.bob_reaches_alice(4));
    assert!(!lab.alice.accepts_older_keys() && !lab.bob.accepts_older_keys());
}

#[test]
fn who_answers_finds_the_older_key_of_a_peer_that_has_no_newer_one() {
    let mut lab = Lab::new(SECRET);
    lab.bob.renew_key(&newer());
    lab.alice.initiate(lab.now);
    lab.settle();
    assert!(!lab.alice.is_established(), "the first answer is under the newest key");
    lab.pass(Duration::from_secs(2));
    assert!(lab.alice_reaches_bob(1) && lab.bob_reaches_alice(2));
    assert!(lab.bob.accepts_older_keys());
}

#[test]
fn a_forgotten_key_opens_nothing_any_more() {
    let mut lab = Lab::new(SECRET);
    lab.bob.renew_key(&newer());
    lab.bob.forget_older_keys();
    lab.alice.initiate(lab.now);
    lab.pass(Duration::from_secs(20));
    assert!(!lab.alice.is_established() && !lab.bob.is_established());
    lab.alice.renew_key(&newer());
    lab.alice.restart(lab.now);
    lab.settle();
    assert!(lab.alice_reaches_bob(1));
}

#[test]
fn a_key_of_two_renewals_ago_still_finds_its_pair() {
    let mut lab = Lab::new(SECRET);
    lab.bob.renew_key(&newer());
    lab.bob.renew_key(&pair_key([12; 32]));
    lab.alice.initiate(lab.now);
    lab.pass(Duration::from_secs(6));
    assert!(lab.alice_reaches_bob(1));
    // And a client that restarted has its older key from the disk.
    let mut lab = Lab::new([11; 32]);
    lab.bob.accept_older(&pair_key(SECRET));
    lab.alice.initiate(lab.now);
    lab.pass(Duration::from_secs(6));
    assert!(lab.alice_reaches_bob(1));
}

struct Lab {
    now: Instant,
    alice_local: Local,
    bob_local: Local,
    alice: Session,
    bob: Session,
}

impl Lab {
    /// Bob's secret of the network; Alice's is [`SECRET`].
    fn new(secret: [u8; 32]) -> Self {
        let now = Instant::now();
        let [alice_local, bob_local] = [[1; 32], [2; 32]].map(Local::new);
        let pair =
            |secret| PairKey::derive(&NetworkSecret::from_bytes(secret), NetworkId::from_bytes([7; 16]), ALICE, BOB);
        let alice = Session::new(now, &alice_local, party(1), party(2), bob_local.public(), &pair(SECRET));
        let bob = Session::new(now, &bob_local, party(2), party(1), alice_local.public(), &pair(secret));
        Self { now, alice_local, bob_local, alice, bob }
    }

    fn established() -> Self {
        let mut lab = Self::new(SECRET);
        lab.alice.initiate(lab.now);
        lab.settle();
        assert!(lab.alice.is_established() && lab.bob.is_established());
        lab
    }

    fn fresh_bob(&self, secret: [u8; 32]) -> Session {
        let pair = PairKey::derive(&NetworkSecret::from_bytes(secret), NetworkId::from_bytes([7; 16]), ALICE, BOB);
        Session::new(self.now, &self.bob_local, party(2), party(1), self.alice_local.public(), &pair)
    }

    /// Lets both do what is due, second by second.
    fn pass(&mut self, time: Duration) {
        for _ in 0..time.as_secs() {
            self.now += Duration::from_secs(1);
            self.alice.handle_deadline(self.now);
            self.bob.handle_deadline(self.now);
            self.settle();
        }
    }

    /// Carries datagrams until none is left; returns the packets that came out.
    fn settle(&mut self) -> Vec<(Side, Vec<u8>)> {
        let mut delivered = Vec::new();
        loop {
            let (side, datagram) = match (self.alice.poll_transmit(), self.bob.poll_transmit()) {
                (Some(datagram), None) => (Side::Bob, datagram),
                (None, Some(datagram)) => (Side::Alice, datagram),
                (None, None) => return delivered,
                (Some(to_bob), Some(to_alice)) => {
                    self.note(Side::Alice, &to_alice, &mut delivered);
                    (Side::Bob, to_bob)
                }
            };
            self.note(side, &datagram, &mut delivered);
        }
    }

    fn note(&mut self, side: Side, datagram: &[u8], delivered: &mut Vec<(Side, Vec<u8>)>) {
        let received = match side {
            Side::Alice => self.alice_takes(datagram),
            Side::Bob => self.bob_takes(datagram),
        };
        if let Received::Packet(packet) = received {
            delivered.push((side, packet.to_vec()));
        }
    }

    fn bob_takes(&mut self, datagram: &[u8]) -> Received {
        match self.bob_local.open(SOMEWHERE.parse::<SocketAddr>().unwrap(), datagram) {
            Opened::Incoming(incoming) => self.bob.handle_datagram(self.now, incoming),
            Opened::Challenge(_) | Opened::Refused => Received::Refused(Refusal::Malformed),
        }
    }

    fn alice_takes(&mut self, datagram: &[u8]) -> Received {
        match self.alice_local.open(SOMEWHERE.parse::<SocketAddr>().unwrap(), datagram) {
            Opened::Incoming(incoming) => self.alice.handle_datagram(self.now, incoming),
            Opened::Challenge(_) | Opened::Refused => Received::Refused(Refusal::Malformed),
        }
    }

    fn packet_to_bob(&self, sequence: u16) -> Vec<u8> {
        echo_request(&addresses(1), addresses(2).v4.unwrap().into(), 1, sequence, b"to bob").unwrap()
    }

    fn alice_reaches_bob(&mut self, sequence: u16) -> bool {
        let packet = self.packet_to_bob(sequence);
        let sealed = self.alice.handle_packet(self.now, &packet).unwrap().unwrap();
        matches!(self.bob_takes(&sealed), Received::Packet(received) if received == packet)
    }

    fn bob_reaches_alice(&mut self, sequence: u16) -> bool {
        let packet = echo_request(&addresses(2), addresses(1).v6.into(), 1, sequence, b"to alice").unwrap();
        let sealed = self.bob.handle_packet(self.now, &packet).unwrap().unwrap();
        matches!(self.alice_takes(&sealed), Received::Packet(received) if received == packet)
    }
}

fn newer() -> PairKey {
    pair_key([11; 32])
}

fn pair_key(secret: [u8; 32]) -> PairKey {
    PairKey::derive(&NetworkSecret::from_bytes(secret), NetworkId::from_bytes([7; 16]), ALICE, BOB)
}

fn party(number: u8) -> Party {
    Party { client: ClientId::from_bytes([number; 16]), addresses: addresses(number) }
}

fn addresses(number: u8) -> VirtualAddresses {
    VirtualAddresses {
        v4: Some([100, 64, 0, number].into()),
        v6: [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, number].into(),
    }
}

const ALICE: ClientId = ClientId::from_bytes([1; 16]);
const BOB: ClientId = ClientId::from_bytes([2; 16]);
const SECRET: [u8; 32] = [9; 32];
const SOMEWHERE: &str = "203.0.113.9:40000";
