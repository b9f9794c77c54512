//! Changes of the path and of the network under a stream.

use super::*;
use crate::network::Router;

#[test]
fn a_stream_does_not_notice_the_upgrade() {
    for (relay, direct) in [(40, 10), (20, 24), (10, 1)] {
        let mut lab = Lab::new();
        lab.delays = (Duration::from_millis(relay) / 2, Duration::from_millis(direct));
        lab.offer_relay();
        lab.run(Duration::from_secs(2));
        let mut sent = 0;
        for step in 0..1_200 {
            if step == 300 {
                lab.punch();
            }
            lab.send(Side::Alice, sent);
            sent += 1;
            lab.run(Duration::from_millis(1));
        }
        lab.run(Duration::from_secs(1));
        assert_eq!(lab.paths(), [PathKind::Direct; 2], "{relay} {direct}");
        let received: Vec<u16> = lab.bob.received.iter().map(|packet| sequence(packet)).collect();
        assert_eq!(received, (0..sent).collect::<Vec<_>>(), "{relay} {direct}");
    }
}

#[test]
fn a_stream_loses_only_what_was_under_way_when_its_end_roams_while_the_relay_is_there() {
    let mut lab = Lab::direct();
    lab.move_alice();
    let moved = lab.now;
    // One round trip with the relay, which may be challenged by anybody, then a packet over it.
    let promised = DELAY * 2 + DELAY * 2;
    for sequence in 0..400 {
        lab.send(Side::Alice, sequence);
        lab.send(Side::Bob, sequence);
        lab.run(Duration::from_millis(1));
        if !lab.bob.received.is_empty() {
            break;
        }
    }
    assert!(lab.now - moved <= promised + Duration::from_millis(1), "{:?}", lab.now - moved);
    // What the peer sends takes the relay as soon as it knows.
    for sequence in 400..800 {
        lab.send(Side::Bob, sequence);
        lab.run(Duration::from_millis(1));
        if !lab.alice.received.is_empty() {
            break;
        }
    }
    assert!(lab.now - moved <= promised + DELAY * 2 + Duration::from_millis(2), "{:?}", lab.now - moved);
    assert!(lab.alice.asked(&Request::Connect(lab.bob.id)), "a new punch");
    let first = lab.bob.received.first().map(|packet| sequence(packet));
    assert_eq!(first, Some(0), "packets wait until the relay knows where from they come");
}

#[test]
fn a_leg_whose_relay_gave_it_another_slot_uses_that_one() {
    let mut lab = Lab::relayed();
    lab.move_alice();
    lab.slot = Slot(78);
    lab.send(Side::Alice, 1);
    lab.run(Duration::from_secs(2));
    lab.bob.received.clear();
    lab.send(Side::Alice, 2);
    lab.send(Side::Bob, 3);
    lab.run(Duration::from_secs(1));
    let received = [&lab.alice, &lab.bob].map(|node| node.received.iter().map(|one| sequence(one)).collect::<Vec<_>>());
    assert!(received[0].contains(&3) && received[1] == [2], "{received:?}");
}

#[test]
fn a_client_that_roams_without_a_relay_gets_one_from_the_server() {
    let mut lab = Lab::direct();
    lab.run(Duration::from_secs(40));
    lab.alice.requests.clear();
    lab.direct_works = false;
    lab.move_alice();
    assert!(lab.alice.asked(&Request::Connect(lab.bob.id)));
    lab.offer_relay();
    let moved = lab.now;
    for sequence in 0..400 {
        lab.send(Side::Alice, sequence);
        lab.send(Side::Bob, sequence);
        lab.run(Duration::from_millis(5));
        if !lab.alice.received.is_empty() && !lab.bob.received.is_empty() {
            break;
        }
    }
    assert!(lab.now - moved <= DELAY * 14, "{:?}", lab.now - moved);
}

#[test]
fn a_client_that_roams_with_its_control_connection_asks_again_at_the_next_session() {
    let mut lab = Lab::direct();
    lab.run(Duration::from_secs(40));
    lab.move_alice();
    let now = lab.now;
    lab.alice.core.handle_disconnected(now);
    lab.alice.requests.clear();
    lab.alice.drain_requests();
    lab.alice.requests.clear();
    lab.alice.log_in(now);
    assert!(lab.alice.asked(&Request::Connect(lab.bob.id)));
}

#[test]
fn a_client_that_roams_directly_is_followed_by_its_peer() {
    let mut lab = Lab::direct();
    lab.relay_works = false;
    lab.run(Duration::from_secs(40));
    lab.move_alice();
    let moved = lab.now;
    for sequence in 0..400 {
        lab.send(Side::Bob, sequence);
        lab.run(Duration::from_millis(25));
        if !lab.alice.received.is_empty() {
            break;
        }
    }
    assert!(lab.now - moved < Duration::from_secs(3), "{:?}", lab.now - moved);
}

#[test]
fn a_tunnel_that_nobody_uses_lapses_and_comes_back_on_demand() {
    let mut lab = Lab::direct();
    let (now, bob) = (lab.now, lab.bob.id);
    lab.send(Side::Alice, 1);
    lab.run(Duration::from_secs(1));
    // More than 32 others were used later.
    lab.alice.core.with(now, bob, |peer, turn| peer.set_eager(turn, false));
    assert_eq!(lab.paths()[0], PathKind::Direct, "used just now");
    lab.alice.core.choose = now + Duration::from_secs(100_000);
    lab.run(Duration::from_secs(601));
    let now = lab.now;
    lab.alice.core.with(now, bob, |peer, turn| peer.set_eager(turn, false));
    assert_eq!(lab.paths()[0], PathKind::None);
    lab.alice.requests.clear();
    lab.send(Side::Alice, 2);
    assert!(lab.alice.asked(&Request::Connect(bob)));
}

impl Lab {
    /// Alice changes to another network: another address, another router.
    pub(super) fn move_alice(&mut self) {
        self.alice_at = "203.0.113.99:55555".parse().unwrap();
        let router = Router { address: [192, 168, 9, 1].into(), lan: Some(9) };
        let surroundings = Surroundings::new(vec![self.alice_at.ip()], Some(router));
        let now = self.now;
        self.alice.core.handle_network(now, surroundings, 55_555);
    }
}
