//! From one relay to another.

use domain::{RelayCandidate, RelayChoice, RelayPlace, RelayVerdict, RelayWhy, UnixMillis};

use super::*;

const STEP: Duration = Duration::from_millis(20);

#[test]
fn a_relay_that_dies_under_traffic_is_replaced_within_three_seconds() {
    let mut lab = Lab::relayed();
    lab.dead.push(relay_endpoint());
    let died = lab.now;
    let mut asked = None;
    let mut sequence = 0;
    while lab.bob.received.is_empty() {
        lab.send(Side::Alice, sequence);
        sequence += 1;
        lab.run(STEP);
        let leaves = Some(relay_id(relay_endpoint()));
        if asked.is_none() && lab.alice.asked(&Request::Relay(lab.bob.id, leaves)) {
            asked = Some(lab.now);
            lab.offer(other_relay(), &[Side::Alice, Side::Bob]);
        }
        assert!(lab.now < died + Duration::from_secs(3), "asked after {:?}", asked.map(|asked| asked - died));
    }
    assert_eq!(lab.paths(), [PathKind::Relay; 2]);
    let relays = [Side::Alice, Side::Bob].map(|side| lab.relay_of(side));
    assert_eq!(relays, [Some(relay_id(other_relay())); 2]);
}

#[test]
fn a_relay_that_answers_pings_is_not_doubted_while_the_peer_is_silent() {
    let mut lab = Lab::relayed();
    lab.bob.alive = false;
    lab.carried = 0;
    for sequence in 0..500 {
        lab.send(Side::Alice, sequence);
        lab.run(STEP);
    }
    assert!(!lab.alice.asked(&Request::Relay(lab.bob.id, Some(relay_id(relay_endpoint())))));
    // Twice the data, and question and answer no more often than every 0.6 s.
    assert!(lab.carried < 2 * 500 + 2 * 20 + 20, "{}", lab.carried);
}

#[test]
fn an_idle_pair_asks_its_relay_no_more_often_than_before() {
    let mut lab = Lab::relayed();
    lab.run(Duration::from_secs(60));
    (lab.carried, lab.opening.asked) = (0, 0);
    lab.run(Duration::from_secs(300));
    // Cookies are asked for besides, by either of them every 40 s.
    assert!(lab.opening.asked <= 20, "{}", lab.opening.asked);
    assert!(lab.carried <= 120 + 2 * u64::from(lab.opening.asked), "{}", lab.carried);
}

#[test]
fn a_draining_relay_is_left_without_losing_a_packet() {
    let mut lab = Lab::relayed();
    let mut sent = 0;
    let mut offered = false;
    for step in 0..200 {
        if step == 20 {
            lab.drain_relay();
        }
        for from in [Side::Alice, Side::Bob] {
            lab.send(from, sent);
        }
        sent += 1;
        lab.run(STEP);
        let leaves = Some(relay_id(relay_endpoint()));
        if !offered && lab.alice.asked(&Request::Relay(lab.bob.id, leaves)) {
            offered = true;
            // Bob hears of it a second later.
            lab.offer(other_relay(), &[Side::Alice]);
        }
        if step == 70 {
            assert_eq!(lab.relay_of(Side::Alice), Some(relay_id(relay_endpoint())), "the peer is not there yet");
            lab.offer(other_relay(), &[Side::Bob]);
        }
        if step == 120 {
            assert_eq!(lab.relay_of(Side::Alice), Some(relay_id(other_relay())));
            lab.dead.push(relay_endpoint());
        }
    }
    lab.run(Duration::from_secs(1));
    for node in [&lab.alice, &lab.bob] {
        let received: Vec<u16> = node.received.iter().map(|packet| sequence(packet)).collect();
        assert_eq!(received, (0..sent).collect::<Vec<_>>());
    }
}

#[test]
fn a_leg_that_the_peer_never_joins_is_given_up_and_the_old_one_kept() {
    let mut lab = Lab::relayed();
    lab.offer(other_relay(), &[Side::Alice]);
    for sequence in 0..100 {
        lab.send(Side::Alice, sequence);
        lab.run(Duration::from_millis(200));
    }
    assert_eq!(lab.bob.received.len(), 100);
    assert_eq!(lab.relay_of(Side::Alice), Some(relay_id(relay_endpoint())));
}

#[test]
fn without_room_the_client_knows_the_code_and_asks_when_it_was_told_to() {
    let mut lab = Lab::new();
    let full = RelayCandidate {
        relay: relay_id(relay_endpoint()),
        region: String::new(),
        rtts_us: [None; 2],
        slots: 90,
        max_slots: 100,
        verdict: RelayVerdict::Full,
    };
    let choice = RelayChoice {
        of: [lab.alice.id, lab.bob.id],
        why: RelayWhy::NoRoom,
        candidates: vec![full],
        losses: Vec::new(),
        at: UnixMillis(0),
        retry_after_ms: Some(30_000),
    };
    let bob = lab.bob.id;
    lab.tell(Side::Alice, ServerFrame::PeerUp(bob));
    let record = PairRecord { choice: Some(Box::new(choice)), ..record(lab.alice.id, bob) };
    lab.tell(Side::Alice, ServerFrame::Record(Box::new(record)));
    assert_eq!(lab.alice.core.peer(bob).unwrap().relay_refused, Some(wire::Code::RelayFull));
    lab.run(Duration::from_secs(29));
    assert!(!lab.alice.asked(&Request::Relay(bob, None)));
    lab.run(Duration::from_secs(17));
    assert!(lab.alice.asked(&Request::Relay(bob, None)));
    lab.offer_relay();
    lab.run(Duration::from_secs(1));
    assert_eq!(lab.paths()[0], PathKind::Relay);
    assert_eq!(lab.alice.core.peer(bob).unwrap().relay_refused, None);
}

#[test]
fn relays_are_measured_reported_and_a_relayed_pair_asks_for_a_nearer_one() {
    let mut lab = Lab::relayed();
    let place = RelayPlace { relay: relay_id(other_relay()), endpoints: vec![other_relay()] };
    lab.tell(Side::Alice, ServerFrame::Relays(vec![place]));
    lab.send(Side::Alice, 0);
    lab.run(Duration::from_secs(2));
    let mut trips = lab.alice.said.iter().filter_map(|frame| {
        let ClientFrame::RelayTrips(trips) = frame else { return None };
        trips.of(relay_id(other_relay()))
    });
    let reported = trips.next_back();
    assert_eq!(reported, Some(u32::try_from((2 * DELAY).as_micros()).unwrap()));
    lab.run(Duration::from_secs(4));
    assert!(lab.alice.asked(&Request::Relay(lab.bob.id, None)));
}

impl Lab {
    /// The relay says that it is being emptied.
    fn drain_relay(&mut self) {
        for side in [Side::Alice, Side::Bob] {
            let note = Message::Note { slot: Slot(77), code: wire::Code::RelayDraining.number() };
            self.carry(relay_endpoint(), self.at(side), note.to_vec());
        }
    }

    pub(super) fn relay_of(&self, side: Side) -> Option<RelayId> {
        self.node(side).core.peer(self.node(other_side(side)).id)?.relay
    }
}

pub(super) fn other_relay() -> SocketAddr {
    SocketAddr::new(relay_endpoint().ip(), 444)
}

pub(super) fn third_relay() -> SocketAddr {
    SocketAddr::new(relay_endpoint().ip(), 445)
}

fn record(a: ClientId, b: ClientId) -> PairRecord {
    PairRecord {
        a,
        b,
        class_a: None,
        class_b: None,
        strategy: Strategy::Relay,
        outcome: domain::PairOutcome::Pending,
        attempts: 0,
        started: UnixMillis(0),
        took_ms: 0,
        packets: 0,
        relay: None,
        hint: String::new(),
        trace: 0,
        via: None,
        budget: 0,
        places: [0; 2],
        choice: None,
    }
}
