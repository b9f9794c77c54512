//! Who is in, who owns, who is told.

use futures_util::future::join_all;
use store::{Announcement, CreateError, JoinError, LeaveError};

use crate::lab::{Lab, NOW, joined, new_network};

crate::conformance! {
    seats_are_never_oversold,
    a_repeated_join_gets_the_same_answer,
    a_repeated_creation_gets_the_same_answer,
    a_departing_owner_hands_over_to_the_oldest_member,
    the_last_one_to_leave_takes_the_network_along,
    names_that_look_alike_are_taken,
    only_members_leave,
    nobody_joins_what_is_gone,
    a_new_nickname_is_told_in_every_network,
    concurrent_changes_never_wait_in_a_circle,
}

async fn seats_are_never_oversold(lab: &Lab) {
    let owner = lab.client().await;
    let network = lab.network("full house", owner).await;
    let guests = lab.clients(24).await;

    let outcomes = join_all(guests.iter().map(|&guest| lab.networks().join(network, guest, rand::random(), NOW))).await;

    let joined = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert_eq!(joined, 4, "the free plan has five seats, one is the owner's");
    for refused in outcomes.into_iter().filter_map(Result::err) {
        assert!(matches!(refused, JoinError::Full { seats: 5 }), "{refused:?}");
    }
    let change = lab.networks().changes_since(network, owner, domain::Revision::ZERO).await.unwrap().unwrap();
    assert_eq!(change.members.len(), 5);
    assert_eq!(change.revision.0, 5, "refused joins raise no revision");
}

async fn a_repeated_join_gets_the_same_answer(lab: &Lab) {
    let [owner, guest] = lab.clients(2).await.try_into().unwrap();
    let network = lab.network("again", owner).await;

    let first = joined(lab.networks().join(network, guest, [7; 16], NOW).await);
    let again = joined(lab.networks().join(network, guest, [7; 16], NOW).await);
    assert_eq!((again.whole, again.addresses), (first.whole, first.addresses));
    assert_eq!(again.wrapped_secret, first.wrapped_secret);
    assert!(again.announcement.to.is_empty());

    let other = lab.networks().join(network, guest, [8; 16], NOW).await;
    assert!(matches!(other, Err(JoinError::AlreadyMember)), "{other:?}");
}

async fn a_repeated_creation_gets_the_same_answer(lab: &Lab) {
    let owner = lab.client().await;
    let first = lab.create("again", owner).await;
    let again = lab.create("again", owner).await;
    assert_eq!(again.whole, first.whole);

    let mut other = new_network("again", owner);
    other.password = vec![9; 192];
    let other = lab.networks().create(other, NOW).await;
    assert!(matches!(other, Err(CreateError::NameTaken)), "{other:?}");
}

async fn a_departing_owner_hands_over_to_the_oldest_member(lab: &Lab) {
    let [owner, second, third] = lab.clients(3).await.try_into().unwrap();
    let network = lab.network("heirs", owner).await;
    let at = |seconds| NOW.plus(std::time::Duration::from_secs(seconds));
    lab.networks().join(network, third, [1; 16], at(2)).await.unwrap();
    lab.networks().join(network, second, [2; 16], at(1)).await.unwrap();

    let Announcement { change, to, .. } = lab.networks().leave(network, owner, at(3)).await.unwrap().unwrap();

    assert_eq!(lab.networks().list(None, 10).await.unwrap()[0].owner, second);
    let told = |client| change.members.iter().find(|member| member.client == client).unwrap();
    assert_eq!(change.members.len(), 2, "of the heir, too");
    assert!(told(owner).gone && told(second).role == domain::Role::Owner);
    assert_eq!(change.since.next(), change.revision);
    let mut members = vec![second, third];
    members.sort();
    assert_eq!(to, members);
}

async fn the_last_one_to_leave_takes_the_network_along(lab: &Lab) {
    let [owner, guest] = lab.clients(2).await.try_into().unwrap();
    let network = lab.network("short", owner).await;
    lab.join(network, guest).await;
    lab.networks().leave(network, owner, NOW).await.unwrap();
    assert_eq!(lab.networks().leave(network, guest, NOW).await.unwrap(), None);

    assert!(lab.networks().list(None, 10).await.unwrap().is_empty());
    assert_eq!(lab.password_record(&"short".parse().unwrap()).await, None);
    assert_ne!(lab.network("short", guest).await, network);
}

async fn names_that_look_alike_are_taken(lab: &Lab) {
    let [owner, other] = lab.clients(2).await.try_into().unwrap();
    let network = lab.network("Modern PayPal", owner).await;

    let taken = lab.networks().create(new_network("modem paypa1", other), NOW).await;
    assert!(matches!(taken, Err(CreateError::NameTaken)), "{taken:?}");
    let record = lab.password_record(&"modern PAYPAL".parse().unwrap()).await.unwrap();
    assert_eq!(record.network, network);
}

async fn only_members_leave(lab: &Lab) {
    let [owner, stranger] = lab.clients(2).await.try_into().unwrap();
    let network = lab.network("closed", owner).await;

    let refused = lab.networks().leave(network, stranger, NOW).await;
    assert!(matches!(refused, Err(LeaveError::NotAMember)), "{refused:?}");
    let change = lab.networks().changes_since(network, owner, domain::Revision::ZERO).await.unwrap().unwrap();
    assert_eq!(change.revision.0, 1, "a refused leave raises no revision");
}

async fn nobody_joins_what_is_gone(lab: &Lab) {
    let [owner, guest] = lab.clients(2).await.try_into().unwrap();
    let network = lab.network("gone", owner).await;
    lab.networks().leave(network, owner, NOW).await.unwrap();

    let refused = lab.networks().join(network, guest, [1; 16], NOW).await;
    assert!(matches!(refused, Err(JoinError::Gone)), "{refused:?}");
}

async fn a_new_nickname_is_told_in_every_network(lab: &Lab) {
    let [owner, guest] = lab.clients(2).await.try_into().unwrap();
    let one = lab.network("one", owner).await;
    let two = lab.network("two", owner).await;
    lab.join(one, guest).await;
    lab.join(two, guest).await;

    let told = lab.networks().set_nick(guest, "Ada".parse().unwrap(), NOW).await.unwrap();

    assert_eq!(told.len(), 2);
    for Announcement { change, to, .. } in told {
        assert_eq!(change.members[0].nick, Some("Ada".parse().unwrap()));
        assert_eq!((change.members.len(), to.len()), (1, 2));
    }
}

/// Lock order: all use cases at once on the same rows, none is ended by the database as the victim of a deadlock.
async fn concurrent_changes_never_wait_in_a_circle(lab: &Lab) {
    let owner = lab.client().await;
    let mut networks = Vec::new();
    for number in 0..4 {
        networks.push(lab.network(&format!("net {number}"), owner).await);
    }
    let guests = lab.clients(4).await;
    let networks = &networks;
    let turns = (0..8_usize).flat_map(|turn| guests.iter().map(move |&guest| (turn, guest)));
    join_all(turns.map(|(turn, guest)| async move {
        let network = networks[turn % 4];
        match turn % 3 {
            0 => match lab.networks().join(network, guest, rand::random(), NOW).await {
                Ok(_) | Err(JoinError::AlreadyMember | JoinError::Full { .. }) => {}
                Err(error) => panic!("{error:?}"),
            },
            1 => match lab.networks().leave(network, guest, NOW).await {
                Ok(_) | Err(LeaveError::NotAMember) => {}
                Err(error) => panic!("{error:?}"),
            },
            _ => drop(lab.networks().set_nick(guest, format!("nick {turn}").parse().unwrap(), NOW).await.unwrap()),
        }
    }))
    .await;
    for network in networks {
        let change = lab.networks().changes_since(*network, owner, domain::Revision::ZERO).await.unwrap().unwrap();
        assert!(change.members.iter().all(|member| member.revision <= change.revision));
    }
}
