//! A relay that is gone, and what only looks like it.

use domain::RelayPlace;

use super::{
    moving::{other_relay, third_relay},
    streaming::relay_stream,
    *,
};

const STEP: Duration = Duration::from_millis(20);

#[test]
fn a_relay_that_dies_where_udp_works_is_left_and_no_stream_is_opened() {
    let mut lab = Lab::witnessed();
    lab.kill(relay_endpoint());
    let asked = lab.sends_until_asked(relay_endpoint(), Duration::from_secs(3));
    assert!(asked < Duration::from_millis(2_500), "{asked:?}");
    assert_eq!(lab.streams.asked, 0);
    lab.offer(other_relay(), &[Side::Alice, Side::Bob]);
    lab.run(Duration::from_millis(200));
    assert_eq!(lab.relays(), [Some(relay_id(other_relay())); 2]);
    lab.run(Duration::from_secs(20));
    assert_eq!((lab.streams.asked, lab.paths()), (0, [PathKind::Relay; 2]));
}

#[test]
fn a_relay_that_no_udp_reaches_any_more_is_kept_and_reached_over_a_stream() {
    let mut lab = Lab::witnessed();
    lab.udp_works[0] = false;
    for number in 0..500 {
        lab.send(Side::Alice, number);
        lab.run(STEP);
    }
    assert_eq!(lab.streams.asked, 1);
    assert!(!lab.asks_to_leave(relay_endpoint()));
    assert_eq!(lab.relays(), [Some(relay_id(relay_endpoint())); 2]);
    assert!(lab.bob.received.len() > 500 - 150, "three seconds at most: {}", lab.bob.received.len());
}

#[test]
fn where_only_the_relay_itself_is_out_of_reach_of_udp_and_no_other_is_offered_a_stream_helps_a_little_later() {
    let mut lab = Lab::witnessed();
    lab.dead.push(relay_endpoint());
    let both = [Side::Alice, Side::Bob];
    for number in 0..250 {
        for side in both {
            lab.send(side, number);
        }
        lab.run(STEP);
    }
    assert_eq!(lab.relays(), [Some(relay_id(relay_endpoint())); 2]);
    let before = [lab.alice.received.len(), lab.bob.received.len()];
    for number in 0..50 {
        for side in both {
            lab.send(side, number);
        }
        lab.run(STEP);
    }
    assert_eq!(lab.streams.asked, 2);
    let received = [lab.alice.received.len(), lab.bob.received.len()];
    assert!(received.iter().zip(before).all(|(now, before)| *now >= before + 49), "{before:?} {received:?}");
}

#[test]
fn a_relay_whose_stream_ends_where_udp_is_blocked_is_left_in_time() {
    let mut lab = Lab::witnessed();
    lab.udp_works[0] = false;
    for number in 0..200 {
        lab.send(Side::Alice, number);
        lab.run(STEP);
    }
    assert!(lab.streams.open[0].is_some());
    lab.kill(relay_endpoint());
    lab.break_stream(Side::Alice);
    let asked = lab.sends_until_asked(relay_endpoint(), Duration::from_secs(3));
    assert!(asked < Duration::from_millis(2_500), "{asked:?}");
}

#[test]
fn a_leg_that_never_gets_an_answer_is_replaced_where_udp_works() {
    let mut lab = Lab::new();
    lab.name_relays();
    lab.dead.push(relay_endpoint());
    lab.offer_relay();
    let asked = lab.sends_until_asked(relay_endpoint(), Duration::from_secs(4));
    assert!(asked < Duration::from_secs(3), "{asked:?}");
    lab.offer(other_relay(), &[Side::Alice, Side::Bob]);
    lab.run(Duration::from_millis(200));
    assert_eq!(lab.relays(), [Some(relay_id(other_relay())); 2]);
}

#[test]
fn a_pair_that_says_nothing_looks_when_the_server_misses_the_relay() {
    let mut lab = Lab::witnessed();
    lab.kill(relay_endpoint());
    lab.run(Duration::from_secs(1));
    assert!(!lab.asks_to_leave(relay_endpoint()), "nobody has noticed yet");
    for side in [Side::Alice, Side::Bob] {
        lab.tell(side, ServerFrame::RelaySilent(relay_id(relay_endpoint())));
    }
    lab.run(Duration::from_millis(500));
    assert!(!lab.asks_to_leave(relay_endpoint()), "the relay may yet answer");
    lab.run(Duration::from_millis(3_500));
    assert!(lab.asks_to_leave(relay_endpoint()));
    lab.offer(other_relay(), &[Side::Alice, Side::Bob]);
    lab.run(Duration::from_millis(200));
    assert_eq!(lab.relays(), [Some(relay_id(other_relay())); 2]);
}

#[test]
fn a_pair_that_waits_for_its_turn_to_leave_a_lost_relay_leaves_at_once_when_it_has_something_to_say() {
    let mut lab = Lab::witnessed();
    lab.kill(relay_endpoint());
    for side in [Side::Alice, Side::Bob] {
        lab.tell(side, ServerFrame::RelaySilent(relay_id(relay_endpoint())));
    }
    lab.run(Duration::from_millis(650));
    assert!(!lab.asks_to_leave(relay_endpoint()), "others ask in this moment");
    lab.send(Side::Alice, 0);
    lab.run(STEP);
    assert!(lab.asks_to_leave(relay_endpoint()));
}

#[test]
fn a_relay_that_only_the_server_misses_is_kept() {
    let mut lab = Lab::witnessed();
    lab.carried = 0;
    for _ in 0..3 {
        lab.tell(Side::Alice, ServerFrame::RelaySilent(relay_id(relay_endpoint())));
        lab.tell(Side::Alice, ServerFrame::RelaySilent(relay_id(other_relay())));
        lab.run(Duration::from_secs(1));
    }
    assert!(!lab.asks_to_leave(relay_endpoint()));
    assert_eq!(lab.relays(), [Some(relay_id(relay_endpoint())); 2]);
    // A ping and a question to another relay each time, with their answers.
    assert!(lab.carried <= 3 * 6, "{}", lab.carried);
}

#[test]
fn when_the_next_relay_is_dead_too_a_third_one_is_asked_for() {
    let mut lab = Lab::witnessed();
    lab.kill(relay_endpoint());
    lab.kill(other_relay());
    lab.sends_until_asked(relay_endpoint(), Duration::from_secs(3));
    lab.offer(other_relay(), &[Side::Alice, Side::Bob]);
    let asked = lab.sends_until_asked(other_relay(), Duration::from_secs(5));
    assert!(asked < Duration::from_millis(4_500), "{asked:?}");
    lab.offer(third_relay(), &[Side::Alice, Side::Bob]);
    lab.run(Duration::from_millis(200));
    assert_eq!(lab.relays(), [Some(relay_id(third_relay())); 2]);
}

#[test]
fn the_only_relay_that_is_lost_is_asked_about_less_and_less_and_taken_again_when_it_is_back() {
    let mut lab = Lab::witnessed();
    lab.dead.push(relay_endpoint());
    lab.streams_refuse();
    let mut asked = 0;
    for number in 0..6_000 {
        lab.send(Side::Alice, number);
        lab.run(STEP);
        if lab.asks_to_leave(relay_endpoint()) {
            asked += 1;
            lab.offer_relay();
        }
    }
    assert!((3..=20).contains(&asked), "{asked} questions of both in two minutes");
    lab.dead.clear();
    lab.run(Duration::from_secs(30));
    lab.offer_relay();
    lab.run(Duration::from_secs(5));
    let before = lab.bob.received.len();
    lab.send(Side::Alice, 0);
    lab.run(Duration::from_secs(1));
    assert_eq!(lab.bob.received.len(), before + 1);
}

impl Lab {
    /// A pair on a relay with streams, whose both sides know other relays.
    fn witnessed() -> Self {
        let mut lab = Self::new();
        lab.direct_works = false;
        lab.streams.offered = vec![relay_stream()];
        lab.name_relays();
        lab.offer_relay();
        lab.run(Duration::from_secs(12));
        assert_eq!(lab.paths(), [PathKind::Relay; 2]);
        assert_eq!(lab.streams.asked, 0);
        lab
    }

    fn name_relays(&mut self) {
        let place = |at| RelayPlace { relay: relay_id(at), endpoints: vec![at] };
        let places = [relay_endpoint(), other_relay(), third_relay()].map(place).to_vec();
        for side in [Side::Alice, Side::Bob] {
            self.tell(side, ServerFrame::Relays(places.clone()));
        }
    }

    /// Neither UDP nor a stream leads there any more.
    fn kill(&mut self, relay: SocketAddr) {
        self.dead.push(relay);
        self.streams_refuse();
    }

    /// Alice sends until somebody wants to leave `relay`. Returns how long that took.
    fn sends_until_asked(&mut self, relay: SocketAddr, patience: Duration) -> Duration {
        let began = self.now;
        let mut number = 0;
        while !self.asks_to_leave(relay) {
            assert!(self.now < began + patience, "nobody asks");
            self.send(Side::Alice, number);
            number += 1;
            self.run(STEP);
        }
        self.now - began
    }

    /// Whether one of them asked since the last call.
    fn asks_to_leave(&mut self, relay: SocketAddr) -> bool {
        let leaves = Some(relay_id(relay));
        let ids = [self.bob.id, self.alice.id];
        let alice = self.alice.asked(&Request::Relay(ids[0], leaves));
        self.bob.asked(&Request::Relay(ids[1], leaves)) || alice
    }

    fn relays(&self) -> [Option<RelayId>; 2] {
        [Side::Alice, Side::Bob].map(|side| self.relay_of(side))
    }
}
