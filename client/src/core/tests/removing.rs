//! Removals that reach whoever is away from the servers, and those that nobody signed.

use domain::{Member, MembershipTicket, Signed, TICKET_LIFETIME};
use tunnel::Frame;

use super::{
    super::membership::tests::{TIME, key as deployment, removals, ticket},
    *,
};

#[test]
fn a_ban_reaches_a_client_away_from_the_servers_over_a_living_tunnel_and_survives_its_restart() {
    let mut lab = with_carol();
    lab.bob_is_away();
    assert!(lab.knows(Side::Alice, carol()) && lab.knows(Side::Bob, carol()));
    lab.ban_carol();
    assert!(!lab.knows(Side::Alice, carol()));
    lab.run(Duration::from_secs(1));
    assert!(!lab.knows(Side::Bob, carol()));
    lab.exchange();

    lab.restart_bob();
    assert!(!lab.knows(Side::Bob, carol()), "it is on disk");
    lab.lose_servers();
    lab.run(Duration::from_secs(15));
    lab.exchange();
}

#[test]
fn a_ban_that_was_on_its_way_when_the_servers_went_is_passed_on_by_who_heard_it() {
    let mut lab = with_carol();
    // Both had a session: nobody had to tell anybody.
    lab.tell(Side::Alice, ServerFrame::Removals(Box::new(removals(3, 0, &[(carol(), 3)]))));
    lab.run(Duration::from_secs(5));
    assert!(lab.knows(Side::Bob, carol()));
    lab.lose_servers();
    lab.run(Duration::from_secs(1));
    assert!(!lab.knows(Side::Bob, carol()));
    lab.exchange();
}

#[test]
fn a_ban_is_told_again_when_it_was_lost_on_the_way_and_not_for_ever() {
    let mut lab = with_carol();
    lab.bob_is_away();
    lab.run(Duration::from_secs(120));
    lab.carried = 0;
    lab.run(Duration::from_secs(300));
    let idle = lab.carried;
    (lab.relay_works, lab.direct_works) = (false, false);
    lab.ban_carol();
    lab.run(Duration::from_secs(2));
    (lab.relay_works, lab.direct_works) = (true, true);
    lab.run(Duration::from_secs(6));
    assert!(!lab.knows(Side::Bob, carol()));
    lab.run(Duration::from_secs(120));
    lab.carried = 0;
    lab.run(Duration::from_secs(300));
    assert!(lab.carried <= idle + 20, "{} after {idle}", lab.carried);
}

#[test]
fn an_outage_longer_than_any_ticket_ends_no_tunnel_and_no_restart_does() {
    let mut lab = with_carol();
    let now = lab.now;
    let short = |client| {
        let expires = TIME.plus(Duration::from_secs(600));
        let ticket = MembershipTicket { expires, ..*ticket(client, 2).claim() };
        let pair = ring::signature::Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap();
        let sign = |message: &[u8]| domain::Signature::try_from(pair.sign(message).as_ref()).unwrap();
        Signed::sign(ticket, &deployment(1), sign)
    };
    let (alice, bob) = (lab.alice.id, lab.bob.id);
    lab.alice.core.handle_membership(now, &short(alice), &removals(2, 0, &[]));
    lab.bob.core.handle_membership(now, &short(bob), &removals(2, 0, &[]));
    lab.run(Duration::from_secs(1));
    lab.lose_servers();
    for _ in 0..60 {
        lab.run(Duration::from_secs(60));
        lab.exchange();
    }
    lab.restart_bob();
    lab.run(Duration::from_secs(15));
    lab.exchange();
    assert!(lab.knows(Side::Alice, carol()) && lab.knows(Side::Bob, carol()), "nobody was removed");
}

#[test]
fn who_may_have_been_removed_unseen_has_a_minute_to_show_a_newer_ticket() {
    let mut lab = with_carol();
    lab.bob_is_away();
    lab.tell(Side::Alice, ServerFrame::Change(change(2, 100, Vec::new())));
    lab.tell(Side::Alice, ServerFrame::Removals(Box::new(removals(100, 50, &[]))));
    lab.run(Duration::from_secs(30));
    lab.exchange();
    lab.run(Duration::from_secs(40));
    for side in [Side::Alice, Side::Bob] {
        lab.send(side, 9);
        lab.run(Duration::from_secs(1));
    }
    assert!(lab.alice.received.is_empty() && lab.bob.received.is_empty());
    let (now, alice) = (lab.now, lab.alice.id);
    lab.alice.core.handle_membership(now, &ticket(alice, 100), &removals(100, 50, &[]));
    lab.run(Duration::from_secs(1));
    lab.exchange();
}

#[test]
fn a_stranger_to_the_deployment_changes_nothing_whatever_it_signs() {
    let mut lab = with_carol();
    lab.bob_is_away();
    let named = removals(3, 0, &[(carol(), 3)]);
    let forged = Signed::sign(named.claim().clone(), &deployment(1), |_| domain::Signature::from_bytes([7; 64]));
    for frame in [
        Frame::Removals(Box::new(forged)),
        Frame::Standing { network: NETWORK, revision: domain::Revision(9), ticket: Some(Box::new(ticket(carol(), 9))) },
        Frame::Standing { network: NetworkId::from_bytes([8; 16]), revision: domain::Revision(9), ticket: None },
    ] {
        lab.alice_says(&frame);
        lab.run(Duration::from_secs(1));
        assert!(lab.knows(Side::Bob, carol()));
        lab.exchange();
    }
    lab.alice_says(&Frame::Removals(Box::new(named)));
    lab.run(Duration::from_secs(1));
    assert!(!lab.knows(Side::Bob, carol()), "the deployment's word counts, whoever brings it");
    // An older statement brings nobody back; a newer one does.
    lab.alice_says(&Frame::Removals(Box::new(removals(2, 0, &[]))));
    lab.run(Duration::from_secs(1));
    assert!(!lab.knows(Side::Bob, carol()));
    lab.alice_says(&Frame::Removals(Box::new(removals(5, 0, &[]))));
    lab.run(Duration::from_secs(1));
    assert!(lab.knows(Side::Bob, carol()));
}

#[test]
fn a_client_that_was_removed_itself_is_told_so_by_others() {
    let mut lab = with_carol();
    lab.bob_is_away();
    let warning = |lab: &Lab| lab.bob.core.networks().next().unwrap().warning;
    assert_eq!(warning(&lab), None);
    let bob = lab.bob.id;
    lab.alice_says(&Frame::Removals(Box::new(removals(3, 0, &[(bob, 3)]))));
    lab.run(Duration::from_secs(1));
    assert_eq!(warning(&lab).as_deref(), Some(Code::MembershipEnded.name()));
}

#[test]
fn the_server_is_asked_for_a_ticket_once_and_again_when_half_its_time_is_over() {
    let mut lab = with_carol();
    let begun = lab.now;
    lab.alice.core.memberships.handle_session(begun, TIME, &[deployment(1)]);
    let asked = |lab: &mut Lab, seconds: u64| {
        let mut count = 0;
        for _ in 0..seconds {
            lab.now += Duration::from_secs(1);
            let now = lab.now;
            lab.alice.core.handle_deadline(now);
            let outputs = std::iter::from_fn(|| lab.alice.core.poll_output());
            count += outputs.filter(|output| matches!(output, Output::WantMembership(NETWORK))).count();
        }
        count
    };
    assert_eq!(asked(&mut lab, 32), 1);
    let (now, alice) = (lab.now, lab.alice.id);
    lab.alice.core.handle_membership(now, &ticket(alice, 2), &removals(2, 0, &[]));
    assert_eq!(asked(&mut lab, 3_600), 0);
    lab.now += TICKET_LIFETIME / 2;
    assert_eq!(asked(&mut lab, 55), 1);
}

/// A direct pair whose network Carol is in, too.
fn with_carol() -> Lab {
    let mut lab = Lab::direct();
    let now = lab.now;
    for side in [Side::Alice, Side::Bob] {
        lab.node_mut(side).core.memberships.handle_session(now, TIME, &[deployment(1)]);
        let carol = Member { revision: domain::Revision(2), ..member(3, &[3; 32]) };
        lab.tell(side, ServerFrame::Change(change(1, 2, vec![carol])));
    }
    lab.run(Duration::from_secs(1));
    lab
}

fn carol() -> ClientId {
    member(3, &[3; 32]).client
}

impl Lab {
    /// No server for Bob, and Alice's knows it.
    fn bob_is_away(&mut self) {
        let now = self.now;
        self.bob.core.handle_disconnected(now);
        self.tell(Side::Alice, ServerFrame::PeerLost(self.bob.id));
        self.run(Duration::from_secs(1));
    }

    /// As Alice's server tells it.
    fn ban_carol(&mut self) {
        let gone = Member { gone: true, revision: domain::Revision(3), ..member(3, &[3; 32]) };
        self.tell(Side::Alice, ServerFrame::Change(change(2, 3, vec![gone])));
        self.tell(Side::Alice, ServerFrame::Removals(Box::new(removals(3, 0, &[(carol(), 3)]))));
    }

    fn knows(&self, side: Side, client: ClientId) -> bool {
        self.node(side).core.peer(client).is_some()
    }

    fn alice_says(&mut self, frame: &Frame) {
        let (now, bob) = (self.now, self.bob.id);
        self.alice.core.with(now, bob, |peer, turn| peer.say(turn, frame));
    }

    /// A packet each way arrives.
    fn exchange(&mut self) {
        for side in [Side::Alice, Side::Bob] {
            self.send(side, 1);
            self.run(Duration::from_secs(1));
            assert_eq!(self.node_mut(other_side(side)).received.drain(..).count(), 1, "from {side:?}");
        }
    }
}
