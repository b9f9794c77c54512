//! When the first packet between two clients arrives over a relay: exact, in simulated time.

use bytes::BytesMut;

use super::{super::leg::Leg, *};

/// What the relay does with first packets.
#[derive(Default)]
pub(super) struct Opening {
    /// It knows neither first packets nor questions for cookies.
    older: bool,
    /// One way between Bob and the relay, where it is another than Alice's.
    bobs_leg: Option<Duration>,
    /// For whom.
    parked: BTreeMap<(SocketAddr, Side), Vec<u8>>,
    /// Questions for cookies, joins with a first packet, and the beginnings of handshakes that reached the relay.
    pub(super) asked: u32,
    brought: u32,
    initiations: u32,
}

impl Opening {
    /// Counts a message, and says whether the relay does not understand it.
    pub(super) fn is_lost_on_older_relays(&mut self, message: &Message<'_>) -> bool {
        let newer = matches!(message, Message::Ask | Message::JoinFirst { .. });
        self.asked += u32::from(*message == Message::Ask);
        if let Message::JoinFirst { first, .. } = message {
            self.brought += 1;
            assert_eq!((first.len(), first[0]), (148, 1), "the first message of a handshake");
        }
        if let Message::JoinFirst { first: packet, .. } | Message::Data { payload: packet, .. } = message {
            self.initiations += u32::from(packet.first() == Some(&1));
        }
        self.older && newer
    }
}

impl Lab {
    pub(super) fn leg_delay(&self, from: SocketAddr, to: SocketAddr) -> Duration {
        let bobs = [from, to].contains(&self.at(Side::Bob));
        self.opening.bobs_leg.filter(|_| bobs).unwrap_or(self.delays.0)
    }

    /// A leg has joined.
    pub(super) fn exchange_first(&mut self, (at, side): (SocketAddr, Side), message: &Message<'_>) {
        let (slot, own, other) = (self.slot, (at, side), (at, other_side(side)));
        if let Some(waited) = self.opening.parked.remove(&own) {
            self.carry(at, self.legs[&own], Message::Data { slot, payload: &waited }.to_vec());
        }
        if let Message::JoinFirst { first, .. } = message {
            match self.legs.get(&other) {
                Some(&peer) => self.carry(at, peer, Message::Data { slot, payload: first }.to_vec()),
                None => drop(self.opening.parked.insert(other, first.to_vec())),
            }
        }
    }

    /// Both have this cookie of the relay.
    fn acquainted(mut self, cookie: Cookie) -> Self {
        for side in [Side::Alice, Side::Bob] {
            let now = self.now;
            self.node_mut(side).core.cookies.keep(now, relay_endpoint(), cookie);
        }
        self
    }

    /// Alice's one way to the relay, and Bob's.
    fn apart(mut self, legs: [u64; 2]) -> Self {
        let [alice, bob] = legs.map(Duration::from_millis);
        (self.delays.0, self.opening.bobs_leg) = (alice, Some(bob));
        self
    }

    /// The times from now until each has its first packet: Alice's, Bob's.
    fn first_packets(&mut self) -> [Duration; 2] {
        let (start, mut arrived) = (self.now, [None; 2]);
        self.send(Side::Alice, 1);
        self.send(Side::Bob, 1);
        while arrived.contains(&None) {
            self.run(Duration::from_millis(1));
            assert!(self.now - start < Duration::from_secs(3), "{arrived:?}");
            for (arrived, node) in arrived.iter_mut().zip([&self.alice, &self.bob]) {
                if !node.received.is_empty() {
                    arrived.get_or_insert(self.now - start);
                }
            }
        }
        arrived.map(Option::unwrap)
    }
}

/// From the word that the second of the two got. The later of the joins decides: what it brings leaves for the other leg when it
/// arrives, and what waited for it as well. Then a round trip for the handshake, and a half for the packet.
#[test]
fn the_first_packet_arrives_after_one_and_a_half_round_trips_in_either_direction() {
    for legs @ [alice, bob] in [[5, 5], [20, 20], [3, 30], [30, 3], [1, 80]] {
        // By how much later Bob is told, or Alice.
        for (last, wait) in [(Side::Bob, 0), (Side::Bob, 1), (Side::Bob, 200), (Side::Alice, 1), (Side::Alice, 200)] {
            let mut lab = Lab::new().acquainted(COOKIE).apart(legs);
            lab.offer(relay_endpoint(), &[other_side(last)]);
            lab.run(Duration::from_millis(wait));
            lab.offer(relay_endpoint(), &[last]);
            let arrived = lab.first_packets();

            let round_trip = 2 * (alice + bob);
            let joins = [alice, bob].map(|leg| leg as i64);
            let told_at = |side| if side == last { 0 } else { -(wait as i64) };
            let both_there = (told_at(Side::Alice) + joins[0]).max(told_at(Side::Bob) + joins[1]);
            let expected = joins.map(|leg| Duration::from_millis((both_there + leg) as u64 + round_trip));
            assert_eq!(arrived, expected, "{legs:?}, {last:?} {wait} ms later");
            if alice == bob {
                assert_eq!(arrived, [Duration::from_millis(round_trip) * 3 / 2; 2]);
            }
            assert!(arrived.into_iter().max() <= Some(Duration::from_millis(round_trip) * 2), "never more than two");
            assert_eq!((lab.challenged, lab.opening.brought, lab.opening.initiations), (0, 2, 2));
        }
    }
}

#[test]
fn a_challenge_costs_half_a_round_trip_whether_the_cookie_is_missing_or_old() {
    let round_trip = DELAY * 4;
    for lab in [Lab::new(), Lab::new().acquainted(Cookie([9; 16]))] {
        let mut lab = lab;
        lab.offer_relay();
        assert_eq!(lab.first_packets(), [round_trip * 2; 2]);
        assert_eq!((lab.challenged, lab.opening.initiations), (2, 4), "each said twice");
    }
}

#[test]
fn who_has_keys_still_sends_as_soon_as_the_relay_answers() {
    let mut lab = Lab::relayed();
    let pairs = [(Side::Alice, lab.bob.id), (Side::Bob, lab.alice.id)];
    (lab.relay_works, lab.direct_works) = (false, false);
    for (side, peer) in pairs {
        lab.tell(side, ServerFrame::PeerDown(peer));
    }
    lab.run(Duration::from_secs(25));
    assert_eq!(lab.paths(), [PathKind::None; 2]);
    lab.relay_works = true;
    for (side, peer) in pairs {
        lab.tell(side, ServerFrame::PeerUp(peer));
    }
    lab.opening.brought = 0;
    lab.offer_relay();
    assert_eq!(lab.first_packets(), [DELAY * 4; 2], "one round trip");
    assert_eq!(lab.opening.brought, 0);
}

#[test]
fn a_peer_that_comes_up_is_wanted_before_the_next_turn() {
    let mut lab = Lab::new().acquainted(COOKIE);
    let pairs = [(Side::Alice, lab.bob.id), (Side::Bob, lab.alice.id)];
    for (side, peer) in pairs {
        lab.tell(side, ServerFrame::PeerDown(peer));
    }
    lab.run(Duration::from_secs(1));
    for (side, peer) in pairs {
        lab.tell(side, ServerFrame::PeerUp(peer));
    }
    lab.offer_relay();
    assert_eq!(lab.first_packets(), [DELAY * 6; 2]);
}

#[test]
fn nobody_begins_a_handshake_that_nobody_wants() {
    let mut lab = Lab::new().acquainted(COOKIE);
    let (now, alice, bob) = (lab.now, lab.alice.id, lab.bob.id);
    lab.alice.core.with(now, bob, |peer, turn| peer.set_eager(turn, false));
    lab.bob.core.with(now, alice, |peer, turn| peer.set_eager(turn, false));
    (lab.alice.core.choose, lab.bob.core.choose) = (now + Duration::from_secs(9), now + Duration::from_secs(9));
    lab.offer_relay();
    lab.run(Duration::from_secs(2));
    assert_eq!((lab.legs.len(), lab.opening.brought, lab.opening.initiations), (2, 0, 0));
}

#[test]
fn both_begin_once_and_never_again() {
    let mut lab = Lab::new().acquainted(COOKIE);
    lab.offer_relay();
    for sequence in 0..600 {
        lab.send(Side::Alice, sequence);
        lab.send(Side::Bob, sequence);
        lab.run(Duration::from_millis(100));
    }
    assert_eq!((lab.opening.brought, lab.opening.initiations), (2, 2));
    for node in [&lab.alice, &lab.bob] {
        let received: Vec<_> = node.received.iter().map(|packet| sequence(packet)).collect();
        assert_eq!(received, (0..600).collect::<Vec<_>>());
    }
}

#[test]
fn an_older_relay_is_joined_with_the_next_try() {
    let mut lab = Lab::new();
    lab.opening.older = true;
    lab.offer_relay();
    // A try in vain, a challenge and a proof, a handshake, the packet.
    assert_eq!(lab.first_packets(), [Duration::from_millis(250) + DELAY * 10; 2]);
    assert_eq!(lab.paths(), [PathKind::Relay; 2]);
    lab.run(Duration::from_secs(100));
    assert_eq!(lab.paths(), [PathKind::Relay; 2]);
}

#[test]
fn a_first_join_that_is_lost_costs_the_time_of_a_try() {
    let mut lab = Lab::new().acquainted(COOKIE);
    lab.relay_works = false;
    lab.offer_relay();
    lab.run(Duration::from_millis(1));
    lab.relay_works = true;
    let arrived = lab.first_packets().map(|time| time + Duration::from_millis(1));
    assert_eq!(arrived, [Duration::from_millis(250) + DELAY * 8; 2]);
}

/// What a relay forgot, or replaced by another pair's, is begun again by the tunnel.
#[test]
fn a_first_packet_that_the_relay_lost_is_made_up_for() {
    let mut lab = Lab::new().acquainted(COOKIE);
    lab.offer(relay_endpoint(), &[Side::Alice]);
    lab.run(Duration::from_millis(100));
    lab.opening.parked.clear();
    lab.offer(relay_endpoint(), &[Side::Bob]);
    let arrived = lab.first_packets();
    assert_eq!(arrived, [DELAY * 6, DELAY * 8], "Bob's handshake carries Alice's packet, too");
}

#[test]
fn a_leg_takes_the_packet_along_over_either_road_and_only_while_it_is_fresh() {
    let now = Instant::now();
    let lab = Lab::new();
    let stream = StreamId(5).address();
    let offer = |streams| RelayOffer { streams, ..lab.relay_offer(Side::Alice, relay_endpoint()) };
    let sent = |leg: &mut Leg| {
        let all = std::iter::from_fn(|| leg.poll_transmit());
        all.map(|(to, bytes)| (to, matches!(Message::parse(&bytes), Some(Message::JoinFirst { first: b"first", .. }))))
            .collect::<Vec<_>>()
    };
    let first = || Some(BytesMut::from(&b"first"[..]));
    let cookies = Cookies::new([0; 32]);
    let streams = vec!["relay.example:443".parse().unwrap()];
    let mut leg = Leg::new(now, offer(streams.clone()), &cookies, true, first());
    leg.handle_stream(now, Some(stream));
    assert_eq!(sent(&mut leg), [(relay_endpoint(), true), (stream, true)]);
    leg.handle_deadline(now + Duration::from_millis(250));
    assert_eq!(sent(&mut leg), [(relay_endpoint(), false), (stream, false)]);

    let mut late = Leg::new(now, offer(streams), &cookies, true, first());
    late.handle_stream(now + Duration::from_secs(1), Some(stream));
    assert_eq!(sent(&mut late), [(relay_endpoint(), true), (stream, false)]);

    for (size, taken) in [(wire::relay::MAX_FIRST, true), (wire::relay::MAX_FIRST + 1, false)] {
        let mut leg = Leg::new(now, offer(Vec::new()), &cookies, false, Some(BytesMut::zeroed(size)));
        let (_, join) = leg.poll_transmit().unwrap();
        assert_eq!(matches!(Message::parse(&join), Some(Message::JoinFirst { .. })), taken, "{size}");
    }
}

#[test]
fn a_cookie_that_was_asked_for_is_taken_and_does_not_disturb_a_join() {
    let mut lab = Lab::relayed();
    lab.challenged = 0;
    // The relay of the last pair is asked again and again, and the next pair there is not challenged.
    lab.run(Duration::from_secs(300));
    assert!((12..=20).contains(&lab.opening.asked), "{}", lab.opening.asked);
    lab.offer_relay();
    lab.run(Duration::from_secs(1));
    assert_eq!((lab.challenged, lab.paths()), (0, [PathKind::Relay; 2]));

    // While a join with a cookie is under way another one comes: the join is not begun anew.
    let mut lab = Lab::new().acquainted(COOKIE);
    for side in [Side::Alice, Side::Bob] {
        let now = lab.now;
        let core = &mut lab.node_mut(side).core;
        core.cookies.handle_use(relay_endpoint());
        core.cookies.handle_session(now + Duration::from_secs(40));
    }
    lab.run(Duration::from_secs(40));
    lab.offer_relay();
    let new = Message::Challenge { cookie: Cookie([4; 16]) }.to_vec();
    for side in [Side::Alice, Side::Bob] {
        let now = lab.now;
        lab.node_mut(side).core.handle_datagram(now, SocketId::MAIN, relay_endpoint(), &new);
    }
    assert_eq!(lab.first_packets(), [DELAY * 6; 2]);
    assert_eq!((lab.opening.asked, lab.opening.brought), (2, 2));
}

#[test]
fn a_cookie_that_nobody_asked_for_is_not_kept() {
    let mut lab = Lab::new();
    let now = lab.now;
    let unasked = Message::Challenge { cookie: Cookie([8; 16]) }.to_vec();
    for from in [relay_endpoint(), "192.0.2.77:443".parse().unwrap()] {
        lab.alice.core.handle_datagram(now, SocketId::MAIN, from, &unasked);
    }
    assert_eq!(lab.alice.core.cookies.len(), 0);
}

#[test]
fn a_cookie_is_for_one_relay_one_address_and_a_minute() {
    let mut lab = Lab::new();
    let mut cookies = Cookies::new([0; 32]);
    for number in 0..100 {
        cookies.keep(lab.now, SocketAddr::new(relay_endpoint().ip(), number), COOKIE);
    }
    assert_eq!(cookies.len(), 16);
    lab.alice.core.cookies = cookies;
    lab.move_alice();
    assert_eq!(lab.alice.core.cookies.len(), 0);
    let challenges = |age: u64| {
        let mut lab = Lab::new().acquainted(COOKIE);
        lab.now += Duration::from_secs(age);
        lab.offer_relay();
        lab.run(DELAY);
        lab.challenged
    };
    assert_eq!([challenges(59), challenges(60)], [0, 2]);
}
