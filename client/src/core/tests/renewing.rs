//! Newer secrets: who believes whom, and what becomes of tunnels meanwhile.

use domain::{Member, Role, Seal, SecretEpoch, SecretState, Signature, Wanted};
use ring::signature::Ed25519KeyPair;
use tunnel::{Addressee, NumberedSecret, SealedSecrets};

use super::*;

#[test]
fn a_tunnel_goes_on_while_one_end_has_the_newer_secret_and_no_server_answers() {
    let mut lab = Lab::direct();
    let now = lab.now;
    lab.alice.core.take_secrets(now, NETWORK, secrets(2));
    lab.lose_servers();
    let mut sent = 0;
    for minutes in 0..120_u64 {
        lab.send(Side::Alice, sent);
        lab.run(Duration::from_secs(60));
        sent += 1;
        if minutes == 90 {
            // The servers were back for Bob, for a moment.
            let now = lab.now;
            lab.bob.core.take_secrets(now, NETWORK, secrets(2));
        }
    }
    let received: Vec<u16> = lab.bob.received.iter().map(|packet| sequence(packet)).collect();
    assert_eq!(received, (0..sent).collect::<Vec<_>>());
    assert_eq!(lab.paths(), [PathKind::Direct; 2]);
    assert!(!lab.alice.core.peers[&lab.bob.id].accepts_older_keys());
    assert!(!lab.bob.core.peers[&lab.alice.id].accepts_older_keys());
}

#[test]
fn a_peer_that_could_get_the_newer_secret_has_ten_minutes() {
    let mut lab = Lab::direct();
    let (now, bob) = (lab.now, lab.bob.id);
    lab.alice.core.take_secrets(now, NETWORK, secrets(2));
    let accepts = |lab: &Lab| lab.alice.core.peers[&bob].accepts_older_keys();
    lab.run(Duration::from_secs(590));
    assert!(accepts(&lab));
    // A peer without a session cannot get it: the time begins anew when it is back.
    lab.tell(Side::Alice, ServerFrame::PeerLost(bob));
    lab.run(Duration::from_secs(3_600));
    assert!(accepts(&lab));
    lab.tell(Side::Alice, ServerFrame::PeerUp(bob));
    lab.run(Duration::from_secs(590));
    assert!(accepts(&lab));
    lab.run(Duration::from_secs(20));
    assert!(!accepts(&lab));
}

#[test]
fn after_a_restart_without_servers_the_older_key_still_finds_the_peer() {
    let mut lab = Lab::direct();
    let now = lab.now;
    lab.alice.core.take_secrets(now, NETWORK, secrets(2));
    let saved = Saved::decode(&lab.alice.core.saved().encode()).unwrap();
    let mut restarted = Node::new(now, Side::Alice, PathPolicy::Any);
    restarted.core.restore(now, saved);
    assert!(restarted.core.peers[&lab.bob.id].accepts_older_keys());
    let secrets = restarted.core.view.secrets(NETWORK).unwrap();
    assert_eq!(secrets.newest().epoch, SecretEpoch(2));
}

#[test]
fn a_seal_of_an_owner_is_believed_and_every_other_is_not() {
    let old = numbered(1);
    let forged = NumberedSecret { secret: NetworkSecret::from_bytes([66; 32]), ..old.clone() };
    // Who sealed it, as what, with which older secret; and whether it is believed.
    for (role, holds, signer, believed) in [
        (Role::Owner, &old, 2, true),
        (Role::Admin, &old, 2, true),
        (Role::Member, &old, 2, false),
        // The server does not know the older secret.
        (Role::Owner, &forged, 2, false),
        // Somebody who was removed knows it, and is nobody any more.
        (Role::Owner, &old, 5, false),
    ] {
        let mut lab = Lab::new();
        let state = SecretState { epoch: SecretEpoch(2), ..SecretState::default() };
        let bob = Member { role, ..member(2, &[2; 32]) };
        lab.tell(Side::Alice, ServerFrame::Change(NetworkChange { secret: state, ..change(1, 2, vec![bob]) }));
        assert!(wants(&mut lab.alice.core, |output| matches!(output, Output::WantSeal(NETWORK))));
        let seal = seal(&lab.alice, holds, signer);
        let now = lab.now;
        lab.alice.core.handle_sealed(now, NETWORK, Some(&seal));
        let newest = lab.alice.core.view.secrets(NETWORK).unwrap().newest().clone();
        assert_eq!(newest == numbered(2), believed, "{role:?} {signer}");
        let warning = (!believed).then_some(Code::SecretUnverified);
        assert_eq!(lab.alice.core.secret_warning(NETWORK), warning, "{role:?} {signer}");
        // What is believed is shown to the server; nothing else is.
        let proves = |output: &Output| matches!(output, Output::Prove(NETWORK, SecretEpoch(2), _));
        assert_eq!(wants(&mut lab.alice.core, proves), believed);
    }
}

#[test]
fn an_answer_that_comes_when_the_newest_secret_is_there_warns_of_nothing() {
    let mut lab = Lab::new();
    let state = SecretState { epoch: SecretEpoch(2), ..SecretState::default() };
    let bob = Member { role: Role::Owner, ..member(2, &[2; 32]) };
    lab.tell(Side::Alice, ServerFrame::Change(NetworkChange { secret: state, ..change(1, 2, vec![bob]) }));
    let (now, late) = (lab.now, seal(&lab.alice, &numbered(1), 2));
    for answer in [Some(&late), Some(&late), None] {
        lab.alice.core.handle_sealed(now, NETWORK, answer);
        assert_eq!(lab.alice.core.secret_warning(NETWORK), None);
    }
}

#[test]
fn a_member_for_whom_nothing_was_sealed_says_so_until_something_is() {
    let mut lab = Lab::new();
    let state = SecretState { epoch: SecretEpoch(2), ..SecretState::default() };
    let bob = Member { role: Role::Owner, ..member(2, &[2; 32]) };
    lab.tell(Side::Alice, ServerFrame::Change(NetworkChange { secret: state, ..change(1, 2, vec![bob]) }));
    let now = lab.now;
    lab.alice.core.handle_sealed(now, NETWORK, None);
    assert_eq!(lab.alice.core.secret_warning(NETWORK), Some(Code::SecretLacking));
    // Each change is a reason to ask again, and nothing else is.
    assert!(wants(&mut lab.alice.core, |output| matches!(output, Output::WantSeal(_))));
    for _ in 0..120 {
        lab.now += Duration::from_secs(1);
        let now = lab.now;
        lab.alice.core.handle_deadline(now);
    }
    assert!(!wants(&mut lab.alice.core, |output| matches!(output, Output::WantSeal(_))));
    lab.tell(Side::Alice, ServerFrame::Change(NetworkChange { secret: state, ..change(2, 3, Vec::new()) }));
    assert!(wants(&mut lab.alice.core, |output| matches!(output, Output::WantSeal(_))));
    let seal = seal(&lab.alice, &numbered(1), 2);
    let now = lab.now;
    lab.alice.core.handle_sealed(now, NETWORK, Some(&seal));
    assert_eq!(lab.alice.core.secret_warning(NETWORK), None);
}

#[test]
fn those_who_may_make_a_secret_that_is_wanted_each_after_a_while() {
    for (role, wanted, least, most) in [
        (Role::Owner, Wanted::Now, 0, 2),
        (Role::Admin, Wanted::Now, 0, 2),
        (Role::Owner, Wanted::Soon, 29, 91),
        (Role::Member, Wanted::Now, u64::MAX, 0),
        (Role::Owner, Wanted::No, u64::MAX, 0),
    ] {
        let mut core = ruled(role, wanted, 0);
        let begun = made_after(&mut core, 200);
        match begun {
            Some((after, Task::Renew)) => assert!((least..=most).contains(&after), "{role:?} {wanted:?} {after}"),
            other => assert!(other.is_none() && least == u64::MAX, "{role:?} {wanted:?} {other:?}"),
        }
    }
}

#[test]
fn who_hands_a_secret_out_tries_again_after_a_failure_and_not_after_a_success() {
    let mut lab = ruled(Role::Admin, Wanted::No, 3);
    assert!(matches!(made_after(&mut lab, 60), Some((_, Task::Hand))));
    let now = lab.now;
    lab.alice.core.handle_not_renewed(now, NETWORK);
    assert!(matches!(made_after(&mut lab, 60), Some((20.., Task::Hand))));
    let now = lab.now;
    lab.alice.core.handle_handed(now, NETWORK);
    assert_eq!(made_after(&mut lab, 600), None, "nobody else can be helped until something changes");
}

/// Alice is that in a network that stands so.
fn ruled(role: Role, wanted: Wanted, lacking: u32) -> Lab {
    let mut lab = Lab::new();
    let own = Member { role, ..member(1, &[1; 32]) };
    let secret = SecretState { wanted, lacking, ..SecretState::default() };
    lab.tell(Side::Alice, ServerFrame::Change(NetworkChange { secret, ..change(1, 2, vec![own]) }));
    lab
}

/// When the core begins to make a secret, in whole seconds, within so many.
fn made_after(lab: &mut Lab, seconds: u64) -> Option<(u64, Task)> {
    for after in 0..seconds {
        let mut begun = None;
        while let Some(output) = lab.alice.core.poll_output() {
            if let Output::MakeSecret(NETWORK, task) = output {
                begun = Some((after, task));
            }
        }
        if begun.is_some() {
            return begun;
        }
        lab.now += Duration::from_secs(1);
        let now = lab.now;
        lab.alice.core.handle_deadline(now);
    }
    None
}

fn wants(core: &mut Core, wanted: impl Fn(&Output) -> bool) -> bool {
    // All of them are taken.
    std::iter::from_fn(|| core.poll_output()).filter(wanted).count() > 0
}

/// Bob's seal for Alice, signed by the identity of this number.
fn seal(alice: &Node, holds: &NumberedSecret, signer: u8) -> Seal {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[signer; 32]).unwrap();
    let sign = |message: &[u8]| Signature::try_from(pair.sign(message).as_ref()).unwrap();
    let to = Addressee { network: NETWORK, member: alice.id, tunnel: alice.core.local.public(), holds };
    let maker = member(signer, &[signer; 32]).client;
    Seal { member: alice.id, bytes: tunnel::seal(&secrets(2), to, maker, [4; 32], sign).unwrap() }
}

fn secrets(epoch: u64) -> SealedSecrets {
    SealedSecrets { newest: numbered(epoch), door: numbered(1) }
}

/// The first is the one that the lab begins with.
fn numbered(epoch: u64) -> NumberedSecret {
    let secret = NetworkSecret::from_bytes([8 + u8::try_from(epoch).unwrap(); 32]);
    NumberedSecret { epoch: SecretEpoch(epoch), secret }
}
