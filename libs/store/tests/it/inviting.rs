//! Invites: how many they let in, for how long, and on whose word.

use std::time::Duration;

use domain::{ClientId, InviteId, MAX_INVITES, NetworkId, NetworkOrder, NewInvite};
use futures_util::future::join_all;
use store::{Error, JoinError, OrderError};

use crate::lab::{Lab, NOW};

crate::conformance! {
    an_invite_lets_in_with_the_secret_sealed_for_it,
    sixty_four_joiners_race_for_one_use,
    sixty_four_joiners_race_a_thousand_times,
    a_racing_invite_never_gives_more_than_its_uses,
    what_is_refused_uses_nothing_up,
    an_invite_stands_for_an_approval_but_opens_no_lock,
    an_invite_ends_at_its_time,
    an_invite_goes_with_the_right_of_its_maker,
    invites_have_their_bounds,
}

async fn an_invite_lets_in_with_the_secret_sealed_for_it(lab: &Lab) {
    let [owner, guest, other] = lab.clients(3).await.try_into().unwrap();
    let network = lab.network("party", owner).await;
    let invite = invited(lab, network, owner, 1, 3600).await;

    let joined = lab.networks().redeem(invite, guest, [7; 16], NOW).await.unwrap();
    assert_eq!((joined.whole.network, joined.wrapped_secret.as_slice()), (network, [9; 60].as_slice()));
    assert_eq!(joined.whole.members.len(), 2);
    let again = lab.networks().redeem(invite, guest, [7; 16], NOW).await.unwrap();
    assert_eq!((again.wrapped_secret, again.announcement.to), (vec![9; 60], vec![]));
    let member = lab.networks().redeem(invite, guest, [8; 16], NOW).await;
    assert!(matches!(member, Err(JoinError::AlreadyMember)), "{member:?}");
    let late = lab.networks().redeem(invite, other, [1; 16], NOW).await;
    assert!(matches!(late, Err(JoinError::InviteUsedUp)), "{late:?}");
    let wrong = lab.networks().redeem(InviteId::from_bytes([0xee; 16]), other, [1; 16], NOW).await;
    assert!(matches!(wrong, Err(JoinError::InviteUnknown)), "{wrong:?}");
}

async fn sixty_four_joiners_race_for_one_use(lab: &Lab) {
    races_have_one_winner_each(lab, 3).await;
}

/// Minutes of work, so only where everything is tested.
async fn sixty_four_joiners_race_a_thousand_times(lab: &Lab) {
    races_have_one_winner_each(lab, 1_000).await;
}

async fn races_have_one_winner_each(lab: &Lab, races: usize) {
    let owner = lab.client().await;
    lab.accounts().assign_plan(owner, "premium").await.unwrap();
    let network = lab.network("one seat", owner).await;
    let crowd = lab.clients(64).await;
    for _ in 0..races {
        let invite = invited(lab, network, owner, 1, 3600).await;
        let winners = race(lab, invite, &crowd).await;
        assert_eq!(winners.len(), 1);
        lab.order(network, owner, NetworkOrder::Evict(winners[0])).await;
    }
}

async fn a_racing_invite_never_gives_more_than_its_uses(lab: &Lab) {
    let owner = lab.client().await;
    lab.accounts().assign_plan(owner, "premium").await.unwrap();
    let network = lab.network("some seats", owner).await;
    let crowd = lab.clients(64).await;
    let invite = invited(lab, network, owner, 5, 3600).await;
    assert_eq!(race(lab, invite, &crowd).await.len(), 5);
    assert!(lab.networks().admissions(network, owner, NOW).await.unwrap().invites.is_empty());
    let change = lab.networks().changes_since(network, owner, domain::Revision::ZERO).await.unwrap().unwrap();
    assert_eq!(change.members.len(), 6);
}

async fn what_is_refused_uses_nothing_up(lab: &Lab) {
    let owner = lab.client().await;
    let network = lab.network("full", owner).await;
    let guests = lab.clients(5).await;
    let invite = invited(lab, network, owner, 5, 3600).await;
    for &guest in &guests[..4] {
        lab.networks().redeem(invite, guest, rand::random(), NOW).await.unwrap();
    }
    let refused = lab.networks().redeem(invite, guests[4], [1; 16], NOW).await;
    assert!(matches!(refused, Err(JoinError::Full { seats: 5 })), "{refused:?}");
    let invites = lab.networks().admissions(network, owner, NOW).await.unwrap().invites;
    assert_eq!((invites[0].uses, invites[0].remaining, invites[0].maker), (5, 1, owner));
    lab.order(network, owner, NetworkOrder::Evict(guests[0])).await;
    lab.networks().redeem(invite, guests[4], [1; 16], NOW).await.unwrap();
}

async fn an_invite_stands_for_an_approval_but_opens_no_lock(lab: &Lab) {
    let [owner, guest, outlaw] = lab.clients(3).await.try_into().unwrap();
    let network = lab.network("club", owner).await;
    let invite = invited(lab, network, owner, 9, 3600).await;
    lab.order(network, owner, NetworkOrder::AskApproval).await;
    lab.order(network, owner, NetworkOrder::Ban(outlaw)).await;
    lab.order(network, owner, NetworkOrder::Lock).await;
    let locked = lab.networks().redeem(invite, guest, [1; 16], NOW).await;
    assert!(matches!(locked, Err(JoinError::Locked)), "{locked:?}");
    lab.order(network, owner, NetworkOrder::Unlock).await;
    lab.networks().redeem(invite, guest, [1; 16], NOW).await.unwrap();
    let banned = lab.networks().redeem(invite, outlaw, [1; 16], NOW).await;
    assert!(matches!(banned, Err(JoinError::Banned)), "{banned:?}");
}

async fn an_invite_ends_at_its_time(lab: &Lab) {
    let [owner, guest, late] = lab.clients(3).await.try_into().unwrap();
    let network = lab.network("brief", owner).await;
    let invite = invited(lab, network, owner, 9, 60).await;
    let at = |ms| NOW.plus(Duration::from_millis(ms));
    lab.networks().redeem(invite, guest, [1; 16], at(59_999)).await.unwrap();
    let expired = lab.networks().redeem(invite, late, [1; 16], at(60_000)).await;
    assert!(matches!(expired, Err(JoinError::InviteExpired)), "{expired:?}");
    assert_eq!(lab.networks().admissions(network, owner, at(59_999)).await.unwrap().invites.len(), 1);
    assert!(lab.networks().admissions(network, owner, at(60_000)).await.unwrap().invites.is_empty());
}

async fn an_invite_goes_with_the_right_of_its_maker(lab: &Lab) {
    let [owner, admin, guest] = lab.clients(3).await.try_into().unwrap();
    let network = lab.network("trust", owner).await;
    lab.join(network, admin).await;
    let refused = lab.networks().carry_out(network, admin, NetworkOrder::Invite(new_invite(1, 60)), NOW).await;
    assert!(matches!(refused, Err(OrderError::NotPermitted)), "{refused:?}");

    for end in [NetworkOrder::Demote(admin), NetworkOrder::Evict(admin)] {
        lab.order(network, owner, NetworkOrder::Promote(admin)).await;
        let invite = invited(lab, network, admin, 1, 3600).await;
        lab.order(network, owner, end).await;
        let refused = lab.networks().redeem(invite, guest, [1; 16], NOW).await;
        assert!(matches!(refused, Err(JoinError::InviteUnknown)), "{refused:?}");
    }
    let own = invited(lab, network, owner, 1, 3600).await;
    lab.order(network, owner, NetworkOrder::Revoke(own)).await;
    let refused = lab.networks().redeem(own, guest, [1; 16], NOW).await;
    assert!(matches!(refused, Err(JoinError::InviteUnknown)), "{refused:?}");
    let refused = lab.networks().carry_out(network, owner, NetworkOrder::Revoke(own), NOW).await;
    assert!(matches!(refused, Err(OrderError::InviteUnknown)), "{refused:?}");
}

async fn invites_have_their_bounds(lab: &Lab) {
    let [owner, other] = lab.clients(2).await.try_into().unwrap();
    let network = lab.network("many", owner).await;
    for invalid in [new_invite(0, 60), new_invite(NewInvite::MAX_USES + 1, 60), new_invite(1, 0)] {
        let refused = lab.networks().carry_out(network, owner, NetworkOrder::Invite(invalid), NOW).await;
        assert!(matches!(refused, Err(OrderError::Invalid)), "{refused:?}");
    }
    let first = new_invite(1, 60);
    for _ in 0..2 {
        lab.order(network, owner, NetworkOrder::Invite(first.clone())).await;
    }
    for _ in 1..MAX_INVITES {
        invited(lab, network, owner, 1, 60).await;
    }
    let refused = lab.networks().carry_out(network, owner, NetworkOrder::Invite(new_invite(1, 60)), NOW).await;
    assert!(matches!(refused, Err(OrderError::LimitReached { limit: MAX_INVITES })), "{refused:?}");
    let later = NOW.plus(Duration::from_secs(60));
    lab.networks().carry_out(network, owner, NetworkOrder::Invite(first.clone()), later).await.unwrap();

    let elsewhere = lab.network("elsewhere", other).await;
    let stolen = lab.networks().carry_out(elsewhere, other, NetworkOrder::Invite(first), later).await;
    assert!(matches!(stolen, Err(OrderError::Invalid)), "{stolen:?}");
}

fn new_invite(uses: u32, lifetime_s: u32) -> NewInvite {
    NewInvite {
        id: InviteId::from_bytes(rand::random()),
        sealed_secret: vec![9; 60],
        uses,
        lifetime_s,
        door: domain::SecretEpoch::FIRST,
    }
}

async fn invited(lab: &Lab, network: NetworkId, maker: ClientId, uses: u32, lifetime_s: u32) -> InviteId {
    let new = new_invite(uses, lifetime_s);
    let id = new.id;
    lab.order(network, maker, NetworkOrder::Invite(new)).await;
    id
}

/// Who of `crowd` got in; all the others found the invite used up.
async fn race(lab: &Lab, invite: InviteId, crowd: &[ClientId]) -> Vec<ClientId> {
    let tries = crowd.iter().map(|&client| async move {
        loop {
            match lab.networks().redeem(invite, client, rand::random(), NOW).await {
                Ok(_) => return Some(client),
                Err(JoinError::InviteUsedUp) => return None,
                // So many wait for one connection that a slow disk keeps some of them back: they come again.
                Err(JoinError::Store(Error::Busy)) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
    });
    join_all(tries).await.into_iter().flatten().collect()
}
