//! Later keys: what becomes of tunnels meanwhile, and whom nobody believes.

use domain::{Lineage, Member};

use super::*;
use crate::core::lineages::tests::rotated;

#[test]
fn a_tunnel_goes_on_while_a_peer_changes_its_keys() {
    // Seconds between the two hearing of it; Bob first, or Alice.
    for (apart, bob_first) in [(0, true), (1, true), (100, true), (1, false), (100, false)] {
        let mut lab = Lab::direct();
        let mut sent = 0;
        let mut second = |lab: &mut Lab| {
            lab.send(Side::Alice, sent);
            lab.run(Duration::from_secs(1));
            sent += 1;
        };
        second(&mut lab);
        for bob in [bob_first, !bob_first] {
            if bob {
                let now = lab.now;
                lab.bob.core.handle_own_keys(now, [21; 32]);
            } else {
                lab.tell(Side::Alice, ServerFrame::Change(change(1, 2, vec![later()])));
            }
            (0..apart).for_each(|_| second(&mut lab));
        }
        // Longer than any key lives.
        (0..400).for_each(|_| second(&mut lab));
        let received: Vec<u16> = lab.bob.received.iter().map(|packet| sequence(packet)).collect();
        assert_eq!(received, (0..sent).collect::<Vec<_>>(), "{apart} {bob_first}");
        assert_eq!(lab.paths(), [PathKind::Direct; 2]);
        assert_eq!(lab.alice.core.peers[&lab.bob.id].about.member.tunnel, later().tunnel);
    }
}

#[test]
fn a_server_that_goes_back_to_a_key_that_was_given_up_is_not_believed() {
    let mut lab = Lab::direct();
    lab.tell(Side::Alice, ServerFrame::Change(change(1, 2, vec![later()])));
    let now = lab.now;
    lab.bob.core.handle_own_keys(now, [21; 32]);
    lab.run(Duration::from_secs(2));
    let fork = rotated(&member(2, &[2; 32]), 2, 30, 31);
    let made_up = rotated(&later(), 66, 40, 41);
    for lie in [member(2, &[2; 32]), fork, made_up] {
        lab.tell(Side::Alice, ServerFrame::Change(change(2, 3, vec![lie.clone()])));
        // As a whole list, in which it replaces everything.
        lab.tell(Side::Alice, ServerFrame::Change(change(0, 4, vec![lie])));
        let known = &lab.alice.core.peers[&lab.bob.id].about.member;
        assert_eq!((known.identity, known.tunnel), (later().identity, later().tunnel));
        lab.bob.received.clear();
        lab.send(Side::Alice, 7);
        lab.run(Duration::from_secs(1));
        assert_eq!(lab.bob.received.len(), 1, "the tunnel goes on");
    }
    // Nor by leaving and coming back.
    let gone = Member { gone: true, ..later() };
    lab.tell(Side::Alice, ServerFrame::Change(change(4, 5, vec![gone])));
    lab.tell(Side::Alice, ServerFrame::Change(change(5, 6, vec![member(2, &[2; 32])])));
    assert!(lab.alice.core.peers.is_empty());
    lab.tell(Side::Alice, ServerFrame::Change(change(6, 7, vec![later()])));
    assert_eq!(lab.alice.core.peers.len(), 1);
}

#[test]
fn later_keys_are_known_after_a_restart_without_servers() {
    let mut lab = Lab::direct();
    lab.tell(Side::Alice, ServerFrame::Change(change(1, 2, vec![later()])));
    let saved = Saved::decode(&lab.alice.core.saved().encode()).unwrap();
    let mut restarted = Node::new(lab.now, Side::Alice, PathPolicy::Any);
    restarted.core.restore(lab.now, saved);
    assert_eq!(restarted.core.peers[&lab.bob.id].about.member, later());
}

#[test]
fn what_was_proved_is_proved_anew_for_another_tunnel_key() {
    let mut lab = Lab::direct();
    let now = lab.now;
    lab.alice.core.handle_proved(NETWORK, domain::SecretEpoch::FIRST);
    lab.alice.core.handle_own_keys(now, [21; 32]);
    let mut proofs = Vec::new();
    while let Some(output) = lab.alice.core.poll_output() {
        if let Output::Prove(NETWORK, epoch, proof) = output {
            proofs.push((epoch, proof));
        }
    }
    let newest = lab.alice.core.view.secrets(NETWORK).unwrap().newest().clone();
    let key = tunnel::Local::new([21; 32]).public();
    assert_eq!(proofs, [(newest.epoch, newest.prove(NETWORK, lab.alice.id, &key))]);
    // The same keys again are no change.
    lab.alice.core.handle_own_keys(now, [21; 32]);
    assert!(lab.alice.core.poll_output().is_none());
}

#[test]
fn a_line_of_keys_that_is_kept_is_checked_when_it_is_read() {
    let mut lab = Lab::direct();
    lab.tell(Side::Alice, ServerFrame::Change(change(1, 2, vec![later()])));
    let mut saved = lab.alice.core.saved();
    let line = saved.lineages.remove(0);
    let first = *line.keys().next().unwrap();
    let mut forged = line.successions().to_vec();
    forged[0].farewell = forged[0].consent;
    saved.lineages.push(Lineage::claimed(first, forged));
    let mut restarted = Node::new(lab.now, Side::Alice, PathPolicy::Any);
    restarted.core.restore(lab.now, saved);
    assert_eq!(restarted.core.saved().lineages, [line], "from the network's own list");
}

/// Bob with his later keys.
fn later() -> Member {
    rotated(&member(2, &[2; 32]), 2, 20, 21)
}
