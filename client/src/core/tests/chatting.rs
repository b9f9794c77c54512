//! Messages between users, over ways that lose, repeat and reorder.

use domain::{Member, UnixMillis};
use proptest::{prop_assert_eq, proptest};

use super::{super::chat::*, *};

#[test]
fn a_message_is_delivered_once_it_is_on_the_others_disk() {
    for mut lab in [Lab::relayed(), Lab::direct()] {
        lab.chats(Side::Alice, "hi");
        assert_eq!(lab.states(Side::Alice), [State::Waiting], "not before it is on the own one");
        lab.run(Duration::from_secs(1));
        assert_eq!(lab.states(Side::Alice), [State::Delivered]);
        assert_eq!(lab.heard(Side::Bob), ["hi"]);
        lab.restart_bob();
        assert_eq!(lab.heard(Side::Bob), ["hi"]);
        assert!(lab.bob.core.chats().all(|entry| entry.unread && entry.at >= MIDNIGHT), "{:?}", lab.heard(Side::Bob));
    }
}

#[test]
fn messages_of_both_cross_a_change_of_path_and_stay_in_order() {
    let mut lab = Lab::relayed();
    let said: Vec<_> = (0..30).map(|number| format!("{number}").repeat(50 + number * 30)).collect();
    for (number, text) in said.iter().enumerate() {
        if number == 10 {
            lab.punch();
        }
        if number == 20 {
            lab.direct_works = false;
        }
        lab.chats(Side::Alice, text);
        lab.chats(Side::Bob, text);
        lab.run(Duration::from_millis(300));
    }
    for _ in 0..90 {
        lab.run(Duration::from_secs(1));
        let (alice, bob) = (lab.alice.id, lab.bob.id);
        if lab.alice.asked(&Request::Connect(bob)) || lab.bob.asked(&Request::Connect(alice)) {
            lab.offer_relay();
        }
    }
    for side in [Side::Alice, Side::Bob] {
        let heard: Vec<_> = lab.heard(side).iter().map(String::len).collect();
        assert_eq!(heard, said.iter().map(String::len).collect::<Vec<_>>());
        assert!(lab.states(side).iter().all(|state| *state == State::Delivered || *state == State::Received));
    }
}

#[test]
fn what_a_peer_is_away_for_comes_in_order_when_it_is_back_over_restarts() {
    let mut lab = Lab::direct();
    lab.bob.core.say_farewell(lab.now);
    lab.bob_ends();
    lab.tell(Side::Alice, ServerFrame::PeerDown(lab.bob.id));
    lab.run(Duration::from_secs(1));
    let said: Vec<_> = (0..5).map(|number| format!("message {number}")).collect();
    said.iter().for_each(|text| lab.chats(Side::Alice, text));
    lab.run(Duration::from_secs(3_600));
    assert_eq!(lab.states(Side::Alice), [State::Waiting; 5]);

    // Alice's daemon restarts in between.
    let saved = Saved::decode(&lab.alice.core.saved().encode()).unwrap();
    let disk = std::mem::take(&mut lab.alice.disk);
    lab.alice = Node::new(lab.now, Side::Alice, PathPolicy::Any);
    lab.alice.core.restore(lab.now, saved);
    lab.alice.core.restore_chats(lab.now, &disk).unwrap();
    lab.alice.log_in(lab.now);
    lab.restart_bob();
    lab.bob.log_in(lab.now);
    lab.tell(Side::Alice, ServerFrame::PeerUp(lab.bob.id));
    lab.offer_relay();
    lab.run(Duration::from_secs(10));
    assert_eq!(lab.heard(Side::Bob), said);
    assert_eq!(lab.states(Side::Alice), [State::Delivered; 5]);
}

#[test]
fn messages_pass_while_no_server_answers() {
    let mut lab = Lab::direct();
    lab.lose_servers();
    lab.run(Duration::from_secs(30));
    lab.chats(Side::Alice, "still here?");
    lab.run(Duration::from_secs(1));
    lab.chats(Side::Bob, "yes");
    lab.run(Duration::from_secs(1));
    assert_eq!((lab.heard(Side::Bob), lab.heard(Side::Alice)), (vec!["still here?".into()], vec!["yes".into()]));
}

#[test]
fn whoever_was_removed_is_not_heard_and_what_waits_for_it_fails() {
    let mut lab = Lab::direct();
    lab.chats(Side::Alice, "before");
    lab.run(Duration::from_secs(1));
    let removed = lab.alice.id;
    let gone = Member { gone: true, revision: domain::Revision(2), ..member(key(Side::Alice).0, &key(Side::Alice).1) };
    (lab.direct_works, lab.relay_works) = (false, false);
    lab.chats(Side::Bob, "are you there?");
    lab.run(Duration::from_secs(1));
    lab.tell(Side::Bob, ServerFrame::Change(change(1, 2, vec![gone])));
    (lab.direct_works, lab.relay_works) = (true, true);
    assert_eq!(lab.states(Side::Bob), [State::Received, State::Parted]);
    lab.chats(Side::Alice, "after");
    lab.run(Duration::from_secs(600));
    assert_eq!(lab.heard(Side::Bob), ["before"]);
    assert_ne!(lab.states(Side::Alice).last(), Some(&State::Delivered));
    assert!(lab.bob.core.peer(removed).is_none());
}

#[test]
fn whoever_cannot_prove_to_be_a_member_is_not_heard_until_it_does() {
    let mut lab = Lab::direct();
    let (now, alice) = (lab.now, lab.alice.id);
    let long_ago = |peer: &mut Peer| peer.handle_standing(now.checked_sub(Duration::from_secs(61)).unwrap(), false);
    lab.bob.core.with(now, alice, |peer, _| long_ago(peer));
    lab.chats(Side::Alice, "hi");
    lab.run(Duration::from_secs(20));
    assert!(lab.heard(Side::Bob).is_empty());
    let now = lab.now;
    lab.bob.core.with(now, alice, |peer, turn| peer.handle_standing(turn.now, true));
    lab.run(Duration::from_secs(40));
    assert_eq!(lab.heard(Side::Bob), ["hi"]);
    assert_eq!(lab.states(Side::Alice), [State::Delivered]);
}

proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(24))]

    #[test]
    fn nothing_is_lost_repeated_or_overtaken_in_bad_weather(
        seed in proptest::num::u64::ANY,
        lengths in proptest::collection::vec(1_usize..2_000, 1..20),
    ) {
        let mut lab = Lab::direct();
        lab.weather = Some(Weather { random: StdRng::seed_from_u64(seed) });
        let said: Vec<_> = lengths.iter().map(|length| "x".repeat(*length)).collect();
        for text in &said {
            lab.chats(Side::Alice, text);
            lab.chats(Side::Bob, text);
            lab.run(Duration::from_millis(700));
        }
        lab.run(Duration::from_secs(1_200));
        for side in [Side::Alice, Side::Bob] {
            prop_assert_eq!(&lab.heard(side), &said);
            prop_assert_eq!(lab.states(side).iter().filter(|state| **state == State::Delivered).count(), said.len());
        }
    }
}

/// A third of what is sent is lost, a fifth comes twice, and all of it is late.
pub(super) struct Weather {
    random: StdRng,
}

impl Weather {
    /// How late each copy is.
    pub(super) fn fate(&mut self) -> Vec<Duration> {
        let copies = match self.random.random_range(0..15) {
            0..5 => 0,
            5..8 => 2,
            _ => 1,
        };
        (0..copies).map(|_| Duration::from_millis(self.random.random_range(0..400))).collect()
    }
}

impl Lab {
    fn chats(&mut self, from: Side, text: &str) {
        let (now, to) = (self.now, self.node(other_side(from)).id);
        for side in [Side::Alice, Side::Bob] {
            self.node_mut(side).core.handle_clock(now, MIDNIGHT);
        }
        self.node_mut(from).core.chat(now, &[to], &Text::new(text).unwrap()).unwrap();
    }

    /// What came, oldest first.
    fn heard(&self, side: Side) -> Vec<String> {
        let came = self.node(side).core.chats().filter(|entry| entry.state == State::Received);
        came.map(|entry| entry.text.clone()).collect()
    }

    fn states(&self, side: Side) -> Vec<State> {
        self.node(side).core.chats().map(|entry| entry.state).collect()
    }

    pub(super) fn keep_chats(&mut self, side: Side, bytes: Vec<u8>) {
        let now = self.now;
        let node = self.node_mut(side);
        node.disk = bytes;
        node.core.handle_chats_kept(now, true);
    }
}

const MIDNIGHT: UnixMillis = UnixMillis(1_700_000_000_000);
