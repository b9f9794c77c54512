//! Newer secrets: who makes them, who gets them, and who is told.

use domain::{
    ClientId, MAX_SEALS, NetworkId, NetworkOrder, NewPassword, NewSecret, Revision, Seal, SecretEpoch, SecretProof,
    SecretState, Wanted,
};
use futures_util::future::join_all;
use store::{Announcement, JoinError, OrderError};

use crate::lab::{Lab, NOW};

crate::conformance! {
    a_removal_wants_a_newer_secret_and_the_newer_secret_ends_the_wish,
    of_two_makers_one_wins,
    a_maker_that_did_not_know_of_a_removal_starts_again,
    seals_reach_those_who_lack_the_secret_and_nobody_else,
    a_changed_password_moves_the_door_and_ends_invites,
    secrets_are_for_those_who_may,
    a_member_proves_what_there_is_and_no_more,
    what_a_demoted_admin_sealed_is_taken_back,
    a_page_of_seals_and_of_holders_has_its_bounds,
}

async fn a_removal_wants_a_newer_secret_and_the_newer_secret_ends_the_wish(lab: &Lab) {
    let [owner, guest, other] = lab.clients(3).await.try_into().unwrap();
    let network = lab.network("home", owner).await;
    let joined = lab.join(network, guest).await;
    lab.join(network, other).await;
    assert_eq!(joined.whole.secret, SecretState::default());

    lab.networks().leave(network, other, NOW).await.unwrap();
    assert_eq!(state(lab, network, owner).await.wanted, Wanted::Soon);
    let evicted = lab.order(network, owner, NetworkOrder::Evict(guest)).await;
    assert_eq!(evicted.change.secret.wanted, Wanted::Now);
    assert_eq!(state(lab, network, owner).await.wanted, Wanted::Now);

    let renewed = renew(lab, network, owner, 2, Vec::new()).await.unwrap();
    let expected = SecretState { epoch: SecretEpoch(2), ..SecretState::default() };
    assert_eq!(renewed.change.secret, expected);
    assert_eq!(state(lab, network, owner).await, expected);
    // To ban somebody who is no member leaves nobody who knows anything.
    lab.order(network, owner, NetworkOrder::Ban(guest)).await;
    assert_eq!(state(lab, network, owner).await.wanted, Wanted::No);
}

async fn of_two_makers_one_wins(lab: &Lab) {
    let [owner, admin] = lab.clients(2).await.try_into().unwrap();
    let network = lab.network("race", owner).await;
    lab.join(network, admin).await;
    lab.order(network, owner, NetworkOrder::Promote(admin)).await;
    for epoch in 2..8 {
        let makers = [owner, admin].map(|maker| renew(lab, network, maker, epoch, Vec::new()));
        let outcomes = join_all(makers).await;
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
        assert!(outcomes.iter().any(|outcome| matches!(outcome, Err(OrderError::SecretPassed))), "{outcomes:?}");
    }
    assert_eq!(state(lab, network, owner).await.epoch, SecretEpoch(7));
    for wrong in [1, 7, 9] {
        let refused = renew(lab, network, owner, wrong, Vec::new()).await;
        assert!(matches!(refused, Err(OrderError::SecretPassed)), "{wrong}: {refused:?}");
    }
}

async fn a_maker_that_did_not_know_of_a_removal_starts_again(lab: &Lab) {
    let [owner, guest] = lab.clients(2).await.try_into().unwrap();
    let network = lab.network("late", owner).await;
    let seen = lab.join(network, guest).await.whole.revision;
    prove(lab, network, guest, 1).await;
    lab.order(network, owner, NetworkOrder::Evict(guest)).await;
    let new = NewSecret { epoch: SecretEpoch(2), seen, password: None, seals: vec![seal(guest)] };
    let refused = lab.networks().renew_secret(network, owner, new.clone(), NOW).await;
    assert!(matches!(refused, Err(OrderError::SecretPassed)), "{refused:?}");
    let seen = Revision(seen.0 + 1);
    lab.networks().renew_secret(network, owner, NewSecret { seen, ..new }, NOW).await.unwrap();
    assert_eq!(lab.networks().sealed(network, guest).await.unwrap(), None, "it is no member");
    let back = lab.join(network, guest).await;
    assert_eq!(back.whole.secret.epoch, SecretEpoch(2));
    assert_eq!(lab.networks().sealed(network, guest).await.unwrap(), Some(None), "what was for it is gone");
}

async fn seals_reach_those_who_lack_the_secret_and_nobody_else(lab: &Lab) {
    let [owner, here, late, silent] = lab.clients(4).await.try_into().unwrap();
    let network = lab.network("seals", owner).await;
    for client in [here, late, silent] {
        lab.join(network, client).await;
    }
    for client in [owner, here, late] {
        prove(lab, network, client, 1).await;
    }
    let holders = lab.networks().holders(network, owner, None, 9).await.unwrap();
    assert_eq!(holders.len(), 3, "one of them proved nothing");
    assert!(holders.iter().all(|holder| holder.epoch == SecretEpoch(1) && !holder.sealed));

    let renewed = renew(lab, network, owner, 2, vec![seal(owner), seal(here)]).await.unwrap();
    assert_eq!(renewed.change.secret.lacking, 1);
    assert_eq!(lab.networks().sealed(network, here).await.unwrap(), Some(Some(seal(here))));
    assert_eq!(lab.networks().sealed(network, late).await.unwrap(), Some(None));
    let stale = lab.networks().hand_secret(network, owner, SecretEpoch(1), vec![seal(late)], NOW).await;
    assert!(matches!(stale, Err(OrderError::SecretPassed)), "{stale:?}");
    let other = Seal { bytes: vec![9; 9], ..seal(here) };
    let handed = lab.networks().hand_secret(network, owner, SecretEpoch(2), vec![seal(late), other], NOW).await;
    assert_eq!(handed.unwrap().change.secret.lacking, 0);
    assert_eq!(lab.networks().sealed(network, late).await.unwrap(), Some(Some(seal(late))));
    assert_eq!(lab.networks().sealed(network, here).await.unwrap(), Some(Some(seal(here))), "the first one stays");
}

async fn a_changed_password_moves_the_door_and_ends_invites(lab: &Lab) {
    let [owner, guest] = lab.clients(2).await.try_into().unwrap();
    let network = lab.network("door", owner).await;
    let invite = |door| {
        NetworkOrder::Invite(domain::NewInvite {
            id: domain::InviteId::from_bytes([7; 16]),
            sealed_secret: vec![1; 60],
            uses: 1,
            lifetime_s: 60,
            door: SecretEpoch(door),
        })
    };
    lab.order(network, owner, invite(1)).await;
    let name = "door".parse().unwrap();
    let before = lab.password_record(&name).await.unwrap();

    let password = Some(NewPassword { record: vec![3; 192], wrapped_secret: vec![4; 60] });
    let seen = Revision(2);
    let new = NewSecret { epoch: SecretEpoch(2), seen, password, seals: Vec::new() };
    let renewed = lab.networks().renew_secret(network, owner, new, NOW).await.unwrap();
    assert_eq!((renewed.change.secret.epoch, renewed.change.secret.door), (SecretEpoch(2), SecretEpoch(2)));

    let refused = lab.networks().redeem(domain::InviteId::from_bytes([7; 16]), guest, [1; 16], NOW).await;
    assert!(matches!(refused, Err(JoinError::InviteUnknown)), "{refused:?}");
    let old_door = lab.networks().carry_out(network, owner, invite(1), NOW).await;
    assert!(matches!(old_door, Err(OrderError::SecretPassed)), "{old_door:?}");
    lab.order(network, owner, invite(2)).await;
    let after = lab.password_record(&name).await.unwrap();
    assert_eq!(after.password, vec![3; 192]);
    assert_eq!(after.credential, lab.networks().credential(network, SecretEpoch(2)));
    assert_ne!(after.credential, before.credential, "no answer for the old password helps with the new one");
    assert_eq!(lab.join(network, guest).await.wrapped_secret, vec![4; 60]);
}

async fn secrets_are_for_those_who_may(lab: &Lab) {
    let [owner, member, stranger] = lab.clients(3).await.try_into().unwrap();
    let network = lab.network("may", owner).await;
    lab.join(network, member).await;
    let before = state(lab, network, owner).await;
    let refused = [
        renew(lab, network, member, 2, Vec::new()).await.map(drop),
        lab.networks().hand_secret(network, member, SecretEpoch(1), vec![seal(owner)], NOW).await.map(drop),
        lab.networks().holders(network, member, None, 9).await.map(drop),
    ];
    assert!(refused.iter().all(|refused| matches!(refused, Err(OrderError::NotPermitted))), "{refused:?}");
    let refused = renew(lab, network, stranger, 2, Vec::new()).await;
    assert!(matches!(refused, Err(OrderError::NotAMember)), "{refused:?}");
    assert!(lab.networks().sealed(network, stranger).await.unwrap().is_none());
    let proof = lab.networks().prove(network, stranger, SecretEpoch(1), SecretProof([1; 16]), NOW).await;
    assert!(proof.is_err());
    assert_eq!(state(lab, network, owner).await, before);
}

async fn a_member_proves_what_there_is_and_no_more(lab: &Lab) {
    let [owner, guest] = lab.clients(2).await.try_into().unwrap();
    let network = lab.network("proof", owner).await;
    lab.join(network, guest).await;
    assert!(prove(lab, network, guest, 1).await.is_none(), "who has the newest changes nothing");
    renew(lab, network, owner, 2, Vec::new()).await.unwrap();
    renew(lab, network, owner, 3, Vec::new()).await.unwrap();
    let told = prove(lab, network, guest, 2).await.unwrap();
    assert_eq!(told.change.secret.lacking, 1, "it can be handed the newest");
    assert!(prove(lab, network, guest, 4).await.is_none(), "there is none yet");
    assert!(prove(lab, network, guest, 1).await.is_none(), "and no way back");
    let holders = lab.networks().holders(network, owner, None, 9).await.unwrap();
    assert_eq!((holders[0].client, holders[0].epoch), (guest, SecretEpoch(2)));
    // Whoever comes back has to prove anew.
    lab.networks().leave(network, guest, NOW).await.unwrap();
    lab.join(network, guest).await;
    assert!(lab.networks().holders(network, owner, None, 9).await.unwrap().is_empty());
}

async fn what_a_demoted_admin_sealed_is_taken_back(lab: &Lab) {
    let [owner, admin, guest] = lab.clients(3).await.try_into().unwrap();
    let network = lab.network("demoted", owner).await;
    for client in [admin, guest] {
        lab.join(network, client).await;
        prove(lab, network, client, 1).await;
    }
    lab.order(network, owner, NetworkOrder::Promote(admin)).await;
    renew(lab, network, admin, 2, vec![seal(guest)]).await.unwrap();
    prove(lab, network, admin, 2).await;
    let demoted = lab.order(network, owner, NetworkOrder::Demote(admin)).await;
    assert_eq!(demoted.change.secret.lacking, 1, "somebody else has to hand it out");
    assert_eq!(lab.networks().sealed(network, guest).await.unwrap(), Some(None));
}

async fn a_page_of_seals_and_of_holders_has_its_bounds(lab: &Lab) {
    let owner = lab.client().await;
    let network = lab.network("bounds", owner).await;
    let many = |count| vec![seal(ClientId::from_bytes([9; 16])); count];
    let wide = |size| vec![Seal { member: owner, bytes: vec![1; size] }];
    for seals in [many(MAX_SEALS + 1), wide(0), wide(Seal::MAX_BYTES + 1)] {
        let refused = renew(lab, network, owner, 2, seals.clone()).await;
        assert!(matches!(refused, Err(OrderError::Invalid)), "{refused:?}");
        let refused = lab.networks().hand_secret(network, owner, SecretEpoch(1), seals, NOW).await;
        assert!(matches!(refused, Err(OrderError::Invalid)), "{refused:?}");
    }
    let refused = lab.networks().hand_secret(network, owner, SecretEpoch(1), Vec::new(), NOW).await;
    assert!(matches!(refused, Err(OrderError::Invalid)), "{refused:?}");
    renew(lab, network, owner, 2, many(MAX_SEALS)).await.unwrap();
    renew(lab, network, owner, 3, wide(Seal::MAX_BYTES)).await.unwrap();

    let members = lab.clients(4).await;
    for &client in &members {
        lab.join(network, client).await;
        prove(lab, network, client, 1).await;
    }
    let mut found = Vec::new();
    while let page = lab.networks().holders(network, owner, found.last().copied(), 2).await.unwrap()
        && !page.is_empty()
    {
        assert!(page.len() <= 2);
        found.extend(page.iter().map(|holder| holder.client));
    }
    let mut expected = members;
    expected.sort_unstable();
    assert_eq!(found, expected);
}

async fn renew(
    lab: &Lab,
    network: NetworkId,
    maker: ClientId,
    epoch: u64,
    seals: Vec<Seal>,
) -> Result<Announcement, OrderError> {
    let new = NewSecret { epoch: SecretEpoch(epoch), seen: Revision(u64::MAX), password: None, seals };
    lab.networks().renew_secret(network, maker, new, NOW).await
}

async fn prove(lab: &Lab, network: NetworkId, client: ClientId, epoch: u64) -> Option<Announcement> {
    lab.networks().prove(network, client, SecretEpoch(epoch), SecretProof([1; 16]), NOW).await.unwrap()
}

async fn state(lab: &Lab, network: NetworkId, member: ClientId) -> SecretState {
    lab.networks().changes_since(network, member, Revision::ZERO).await.unwrap().unwrap().secret
}

fn seal(member: ClientId) -> Seal {
    Seal { member, bytes: member.as_bytes().repeat(4) }
}
