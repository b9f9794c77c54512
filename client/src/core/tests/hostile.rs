//! Strangers, members and servers that lie.

use domain::{PunchKind, PunchPacket, Reflected, TransactionId};
use tunnel::{Local, PairKey, Party, Session};
use wire::punch::PunchSeal;

use super::{
    punching::{PEER, Sole, order, stun_answer},
    *,
};

#[test]
fn an_observation_of_nobody_who_was_asked_is_not_believed() {
    let mut lab = Sole::new();
    let forged = |transaction| {
        stun_answer(&Reflected { transaction, seen: FORGED.parse().unwrap(), ttl: 57, observation: None })
    };
    let asked = lab.questions.clone();
    assert!(!asked.is_empty());
    for (socket, to, question, _) in &asked {
        let transaction = TransactionId(question[8..20].try_into().unwrap());
        // Who knows the question, but is not who was asked; who was asked, but answers something else.
        lab.core.handle_datagram(lab.now, *socket, STRANGER.parse().unwrap(), &forged(transaction));
        lab.core.handle_datagram(lab.now, *socket, *to, &forged(TransactionId([1; 12])));
    }
    lab.measure();
    assert_eq!(lab.core.nat().public, Some(endpoint(Side::Alice)));
    assert_eq!(lab.core.nat().pool, Some(false));
}

#[test]
fn an_order_without_a_preparation_moves_nothing() {
    let mut lab = Sole::new();
    lab.go(7, &[PEER], 0);
    lab.run(Duration::from_secs(10));
    assert!(lab.sent.is_empty(), "{:?}", lab.sent);
}

#[test]
fn an_internal_address_is_for_peers_that_the_server_sees_in_one_network() {
    let mut lab = Sole::new();
    lab.measure();
    for (number, local) in [(1, false), (2, true)] {
        lab.prepare(number, 0);
        lab.sent.clear();
        let endpoint = "192.168.1.9:4000".parse().unwrap();
        let candidates = vec![Candidate { endpoint, local, main: false }];
        lab.core.handle_frame(lab.now, ServerFrame::Go(PunchOrder { candidates, ..order(number, &[], 0) }));
        lab.run(Duration::from_secs(20));
        assert_eq!(!lab.sent.is_empty(), local);
        assert!(lab.sent.len() <= 30, "{}", lab.sent.len());
    }
}

#[test]
fn a_probe_with_another_key_another_direction_or_another_number_is_not_answered() {
    let mut lab = Sole::new();
    let own = member(1, &[1; 32]).client;
    lab.prepare(7, 0);
    lab.go(7, &[PEER], 0);
    let probe = |number| PunchPacket { kind: PunchKind::Probe, attempt: 1, number, nonce: 5 };
    let good = PunchSeal::new(&[8; 32], lab.peer, own).seal(&probe(7));
    let mut flipped = good;
    *flipped.last_mut().unwrap() ^= 1;
    let bad = [
        PunchSeal::new(&[9; 32], lab.peer, own).seal(&probe(7)).to_vec(),
        PunchSeal::new(&[8; 32], own, lab.peer).seal(&probe(7)).to_vec(),
        PunchSeal::new(&[8; 32], lab.peer, own).seal(&probe(8)).to_vec(),
        good[..good.len() - 1].to_vec(),
        flipped.to_vec(),
    ];
    for datagram in bad {
        lab.core.handle_datagram(lab.now, SocketId::MAIN, STRANGER.parse().unwrap(), &datagram);
    }
    lab.drain();
    assert!(!lab.sent.iter().any(|(_, to)| to.to_string() == STRANGER));
    lab.core.handle_datagram(lab.now, SocketId::MAIN, STRANGER.parse().unwrap(), &good);
    lab.drain();
    assert!(lab.sent.iter().any(|(_, to)| to.to_string() == STRANGER), "the peer may be anywhere");
}

#[test]
fn a_probe_that_is_repeated_from_a_thousand_places_reaches_few_of_them_and_is_no_way() {
    let mut lab = Sole::new();
    lab.prepare(7, 0);
    lab.go(7, &[PEER], 0);
    let seal = PunchSeal::new(&[8; 32], lab.peer, member(1, &[1; 32]).client);
    for nth in 0..1_000_u16 {
        let probe = PunchPacket { kind: PunchKind::Probe, attempt: 1, number: 7, nonce: 5 };
        let from = SocketAddr::from(([192, 0, 2, 66], 10_000 + nth));
        lab.core.handle_datagram(lab.now, SocketId::MAIN, from, &seal.seal(&probe));
        lab.drain();
    }
    lab.run(Duration::from_secs(60));
    let strangers = lab.sent.iter().filter(|(_, to)| to.ip().to_string() == "192.0.2.66");
    let places: std::collections::BTreeSet<_> = strangers.clone().map(|(_, to)| *to).collect();
    assert!(places.len() <= 12, "{}", places.len());
    assert!(strangers.count() <= 12 * 22);
    assert_eq!(lab.core.peer(lab.peer).unwrap().path, PathKind::None);
}

#[test]
fn a_handshake_of_a_stranger_is_not_answered() {
    let mut lab = Lab::new();
    lab.run(Duration::from_secs(1));
    let now = lab.now;
    let (alice, stranger) = (member(1, &[1; 32]), Local::new([77; 32]));
    let pair = PairKey::derive(&NetworkSecret::from_bytes([9; 32]), NETWORK, alice.client, lab.bob.id);
    let party = |client, addresses| Party { client, addresses };
    let [own, peer] = [party(lab.bob.id, addresses(Side::Bob)), party(alice.client, alice.addresses)];
    let mut session = Session::new(now, &stranger, own, peer, alice.tunnel, &pair);
    session.initiate(now);
    let initiation = session.poll_transmit().unwrap();
    lab.alice.core.handle_datagram(now, SocketId::MAIN, STRANGER.parse().unwrap(), &initiation);
    while let Some(output) = lab.alice.core.poll_output() {
        assert!(!matches!(&output, Output::Send { to, .. } if to.to_string() == STRANGER), "{output:?}");
    }
}

#[test]
fn a_member_with_another_secret_gets_no_packet_through() {
    let mut lab = Lab::new();
    lab.bob.core.view.learn(NETWORK, domain::SecretEpoch::FIRST, NetworkSecret::from_bytes([10; 32]));
    let now = lab.now;
    lab.bob.core.reconcile(now);
    lab.offer_relay();
    for sequence in 0..50 {
        lab.send(Side::Alice, sequence);
        lab.send(Side::Bob, sequence);
        lab.run(Duration::from_millis(200));
    }
    assert!(lab.alice.received.is_empty() && lab.bob.received.is_empty());
    assert_eq!(lab.paths(), [PathKind::None; 2]);
}

#[test]
fn a_member_cannot_point_others_at_their_own_network() {
    let claimed = [
        "192.168.1.1:8080",
        "10.0.0.1:4000",
        "127.0.0.1:4000",
        "169.254.169.254:8080",
        "224.0.0.1:4000",
        "0.0.0.0:4000",
        "[fe80::1]:4000",
        "198.51.100.9:53",
        "198.51.100.9:0",
    ];
    let mut lab = Lab::direct();
    let hints = claimed.map(|hint| hint.parse().unwrap());
    let asked = |lab: &mut Lab, more: SocketAddr| {
        let mut learned = Vec::new();
        for said in hints.chunks(7) {
            lab.bob.core.own_hints = [said, &[more]].concat();
            let (now, alice) = (lab.now, lab.alice.id);
            lab.bob.core.with(now, alice, |peer, turn| peer.tell_hints(turn));
            lab.run(Duration::from_millis(100));
            learned.extend(lab.alice.core.saved().peers.into_iter().flat_map(|peer| peer.endpoints));
        }
        learned
    };
    let known = asked(&mut lab, "198.51.100.9:4000".parse().unwrap());
    assert!(known.contains(&"198.51.100.9:4000".parse().unwrap()), "{known:?}");
    assert!(!hints.iter().any(|hint| known.contains(hint)), "{known:?}");

    // Who shows the same public address may be in the same network.
    let near = asked(&mut lab, SocketAddr::new(endpoint(Side::Alice).ip(), 4_000));
    assert!(near.contains(&hints[0]) && near.contains(&hints[1]), "{near:?}");
    assert!(!hints[2..].iter().any(|hint| near.contains(hint)), "{near:?}");
}

const STRANGER: &str = "192.0.2.66:6666";
const FORGED: &str = "198.51.100.66:666";
