//! A relay that is reached over a stream where UDP is not.

use super::*;

/// What the relay's side of streams is.
#[derive(Default)]
pub(super) struct Streams {
    pub(super) offered: Vec<StreamEndpoint>,
    pub(super) open: [Option<StreamId>; 2],
    /// How many were asked for.
    pub(super) asked: usize,
    refuses: bool,
}

impl Streams {
    pub(super) fn close(&mut self, side: Side, stream: StreamId) {
        let open = &mut self.open[side as usize];
        if *open == Some(stream) {
            *open = None;
        }
    }
}

/// What the relay knows the stream of each by.
fn name(side: Side) -> SocketAddr {
    StreamId(1_000 + side as u64).address()
}

pub(super) fn side_of(address: SocketAddr) -> Option<Side> {
    [Side::Alice, Side::Bob].into_iter().find(|side| name(*side) == address)
}

impl Lab {
    /// Both are offered the relay with its stream; there is no direct way.
    fn streamed(udp_works: [bool; 2]) -> Self {
        let mut lab = Self::new();
        lab.direct_works = false;
        lab.udp_works = udp_works;
        lab.streams.offered = vec![relay_stream()];
        lab.offer_relay();
        lab
    }

    /// TCP, TLS and HTTP take three round trips.
    pub(super) fn open_stream(&mut self, side: Side, stream: StreamId) {
        self.streams.asked += 1;
        if self.streams.refuses {
            let now = self.now;
            self.node_mut(side).core.handle_relay_stream_closed(now, stream);
            return;
        }
        self.streams.open[side as usize] = Some(stream);
        self.sent += 1;
        let opens = self.now + 6 * self.delays.0;
        self.wire.push(Reverse((opens, self.sent, name(side), name(side), Vec::new())));
    }

    pub(super) fn carry_stream(&mut self, side: Side, to: &SocketAddr, frame: Vec<u8>) {
        if self.streams.open[side as usize] == StreamId::of(to) {
            self.sent += 1;
            self.carried += 1;
            self.wire.push(Reverse((self.now + self.delays.0, self.sent, name(side), relay_endpoint(), frame)));
        }
    }

    pub(super) fn arrive_stream(&mut self, side: Side, from: SocketAddr, frame: &[u8]) {
        let Some(stream) = self.streams.open[side as usize] else { return };
        let now = self.now;
        let core = &mut self.node_mut(side).core;
        if from == name(side) {
            core.handle_relay_stream_opened(now, stream, relay_stream());
        } else {
            let mut outbox = wire::stream::Outbox::new(10_000);
            assert!(outbox.push(frame));
            core.handle_relay_stream_message(now, stream, &outbox.take().unwrap());
        }
    }

    /// No stream opens any more.
    pub(super) fn streams_refuse(&mut self) {
        self.streams.refuses = true;
    }

    pub(super) fn break_stream(&mut self, side: Side) {
        let stream = self.streams.open[side as usize].take().unwrap();
        let now = self.now;
        self.node_mut(side).core.handle_relay_stream_closed(now, stream);
    }

    /// Where the datagrams of each go.
    fn places(&self) -> [Option<Place>; 2] {
        [self.alice.core.peer(self.bob.id).unwrap().endpoint, self.bob.core.peer(self.alice.id).unwrap().endpoint]
    }

    /// Bob asks every 50 ms and Alice answers, for this long. Returns the longest pause between two answers at Bob.
    fn talk(&mut self, time: Duration) -> Duration {
        let (end, mut heard, mut longest) = (self.now + time, self.now, Duration::ZERO);
        while self.now < end {
            let before = [self.alice.received.len(), self.bob.received.len()];
            self.send(Side::Bob, 0);
            self.run(Duration::from_millis(25));
            for _ in before[0]..self.alice.received.len() {
                self.send(Side::Alice, 0);
            }
            self.run(Duration::from_millis(25));
            if self.bob.received.len() > before[1] {
                longest = longest.max(self.now - heard);
                heard = self.now;
            }
        }
        longest.max(self.now - heard)
    }
}

pub(super) fn relay_stream() -> StreamEndpoint {
    "relay.example:443".parse().unwrap()
}

fn by_stream() -> Option<Place> {
    Some(Place::Stream(relay_stream()))
}

fn by_udp() -> Option<Place> {
    Some(Place::Udp(relay_endpoint()))
}

#[test]
fn a_leg_without_udp_joins_over_a_stream_within_three_seconds() {
    for udp_works in [[false, true], [true, false], [false, false]] {
        let mut lab = Lab::streamed(udp_works);
        lab.run(Duration::from_secs(3));
        assert_eq!(lab.paths(), [PathKind::Relay; 2], "{udp_works:?}");
        assert_eq!(lab.places(), udp_works.map(|works| if works { by_udp() } else { by_stream() }));
        assert!(lab.talk(Duration::from_secs(5)) < Duration::from_millis(200), "{udp_works:?}");
        assert_eq!(lab.streams.asked, udp_works.into_iter().filter(|works| !works).count());
    }
}

#[test]
fn with_udp_no_stream_is_ever_asked_for() {
    let mut lab = Lab::streamed([true; 2]);
    lab.run(Duration::from_secs(2));
    lab.talk(Duration::from_secs(120));
    lab.run(Duration::from_secs(300));
    lab.talk(Duration::from_secs(10));
    for _ in 0..20 {
        lab.send(Side::Alice, 0);
        lab.run(Duration::from_secs(3));
    }
    assert_eq!(lab.streams.asked, 0);
    assert_eq!(lab.places(), [by_udp(), by_udp()]);
}

#[test]
fn udp_that_is_cut_under_traffic_is_replaced_within_three_seconds_and_comes_back() {
    let mut lab = Lab::streamed([true; 2]);
    lab.run(Duration::from_secs(2));
    assert!(lab.talk(Duration::from_secs(5)) < Duration::from_millis(200));
    lab.udp_works[0] = false;
    let pause = lab.talk(Duration::from_secs(10));
    assert!(pause > Duration::from_secs(1) && pause < Duration::from_secs(3), "{pause:?}");
    assert_eq!(lab.places(), [by_stream(), by_udp()]);

    lab.udp_works[0] = true;
    assert!(lab.talk(Duration::from_secs(31)) < Duration::from_millis(200), "nothing is lost on the way back");
    assert_eq!(lab.places(), [by_udp(), by_udp()]);
    lab.talk(Duration::from_secs(11));
    assert_eq!((lab.streams.open, lab.streams.asked), ([None; 2], 1), "the stream is closed");
}

#[test]
fn a_stream_that_breaks_is_opened_again() {
    let mut lab = Lab::streamed([false, true]);
    lab.run(Duration::from_secs(3));
    lab.break_stream(Side::Alice);
    assert!(lab.talk(Duration::from_secs(5)) < Duration::from_secs(1));
    assert_eq!((lab.places()[0].clone(), lab.streams.asked), (by_stream(), 2));
}

#[test]
fn a_stream_that_says_nothing_any_more_is_replaced() {
    let mut lab = Lab::streamed([false, true]);
    lab.run(Duration::from_secs(3));
    lab.talk(Duration::from_secs(1));
    lab.streams.open[0] = Some(StreamId(99));
    let pause = lab.talk(Duration::from_secs(30));
    assert!(pause < Duration::from_secs(12), "{pause:?}");
    assert_eq!((lab.places()[0].clone(), lab.streams.asked), (by_stream(), 2));
}

#[test]
fn a_relay_that_takes_neither_is_given_up_and_the_server_asked() {
    let mut lab = Lab::streamed([false, true]);
    lab.streams.refuses = true;
    lab.run(Duration::from_secs(40));
    assert_eq!(lab.paths()[0], PathKind::None);
    assert!((4..=10).contains(&lab.streams.asked), "{} tries", lab.streams.asked);
    let peer = lab.bob.id;
    assert!(lab.alice.asked(&Request::Connect(peer)));
    assert_eq!(lab.alice.core.peer(peer).unwrap().endpoint, None);
}

#[test]
fn after_a_change_of_the_network_udp_is_tried_at_once() {
    let mut lab = Lab::streamed([false, true]);
    lab.run(Duration::from_secs(3));
    assert_eq!(lab.places()[0], by_stream());
    lab.udp_works[0] = true;
    lab.alice_at = "203.0.113.77:40001".parse().unwrap();
    let now = lab.now;
    let surroundings = Surroundings::new(vec![lab.alice_at.ip()], None);
    lab.alice.core.handle_network(now, surroundings, lab.alice_at.port());
    assert!(lab.talk(Duration::from_secs(3)) < Duration::from_secs(1));
    assert_eq!(lab.places()[0], by_udp());
}

#[test]
fn a_join_over_the_stream_that_comes_too_late_is_taken_back() {
    let mut lab = Lab::streamed([false, true]);
    lab.run(Duration::from_millis(1_290));
    assert!(lab.streams.open[0].is_some(), "it is being opened");
    lab.udp_works[0] = true;
    assert!(lab.talk(Duration::from_secs(10)) < Duration::from_secs(4));
    assert_eq!(lab.places(), [by_udp(), by_udp()]);
    assert!(lab.talk(Duration::from_secs(40)) < Duration::from_millis(200));
}
