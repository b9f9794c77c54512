//! Deltas, snapshots and the outbox.

use std::time::Duration;

use domain::{KnownNetwork, Revision};
use store::Announcement;

use crate::lab::{Lab, NOW, login};

crate::conformance! {
    a_delta_continues_where_the_reader_stopped,
    an_unknown_revision_gets_the_whole_network,
    only_members_see_changes,
    those_who_left_are_remembered_for_a_while,
    a_snapshot_has_everybody_and_the_departed_since,
    a_new_tunnel_key_is_a_change_of_every_network,
    what_was_not_announced_is_found_again,
}

async fn a_delta_continues_where_the_reader_stopped(lab: &Lab) {
    let [owner, one, two] = lab.clients(3).await.try_into().unwrap();
    let network = lab.network("delta", owner).await;
    let known = lab.join(network, one).await.whole.revision;
    lab.join(network, two).await;
    lab.networks().leave(network, one, NOW).await.unwrap();

    let change = lab.networks().changes_since(network, owner, known).await.unwrap().unwrap();

    assert_eq!((change.since, change.revision.0), (known, 4));
    let seen: Vec<_> = change.members.iter().map(|member| (member.client, member.gone)).collect();
    assert_eq!(seen, [(two, false), (one, true)]);

    let nothing = lab.networks().changes_since(network, owner, change.revision).await.unwrap().unwrap();
    assert_eq!((nothing.since, nothing.members.len()), (change.revision, 0));
}

async fn an_unknown_revision_gets_the_whole_network(lab: &Lab) {
    let owner = lab.client().await;
    let network = lab.network("whole", owner).await;
    for unknown in [Revision::ZERO, Revision(2), Revision(u64::MAX)] {
        let change = lab.networks().changes_since(network, owner, unknown).await.unwrap().unwrap();
        assert_eq!((change.since, change.members.len()), (Revision::ZERO, 1), "{unknown}");
    }
}

async fn only_members_see_changes(lab: &Lab) {
    let [owner, guest] = lab.clients(2).await.try_into().unwrap();
    let network = lab.network("private", owner).await;
    assert_eq!(lab.networks().changes_since(network, guest, Revision::ZERO).await.unwrap(), None);
    lab.join(network, guest).await;
    assert!(lab.networks().changes_since(network, guest, Revision::ZERO).await.unwrap().is_some());
    lab.networks().leave(network, guest, NOW).await.unwrap();
    assert_eq!(lab.networks().changes_since(network, guest, Revision::ZERO).await.unwrap(), None);
}

async fn those_who_left_are_remembered_for_a_while(lab: &Lab) {
    let owner = lab.client().await;
    let network = lab.network("doors", owner).await;
    let early = Revision(1);
    for _ in 0..257 {
        let guest = lab.client().await;
        lab.join(network, guest).await;
        lab.networks().leave(network, guest, NOW).await.unwrap();
    }

    let change = lab.networks().changes_since(network, owner, early).await.unwrap().unwrap();
    assert_eq!((change.since, change.members.len()), (Revision::ZERO, 1), "one departure is forgotten");
    let change = lab.networks().changes_since(network, owner, Revision(3)).await.unwrap().unwrap();
    assert_eq!((change.since, change.members.len()), (Revision(3), 256), "all others are not");
}

async fn a_snapshot_has_everybody_and_the_departed_since(lab: &Lab) {
    let [owner, one, two] = lab.clients(3).await.try_into().unwrap();
    let network = lab.network("snap", owner).await;
    lab.join(network, one).await;
    let revision = lab.join(network, two).await.whole.revision;
    lab.networks().leave(network, one, NOW).await.unwrap();
    let other = lab.network("other", owner).await;

    let snapshot = lab.networks().snapshot(owner, &[KnownNetwork { network, revision }]).await.unwrap();

    assert_eq!(snapshot.networks.len(), 2);
    let known = snapshot.networks.iter().find(|change| change.network == network).unwrap();
    assert_eq!((known.since, known.members.len()), (revision, 3));
    let gone: Vec<_> = known.members.iter().filter(|member| member.gone).map(|member| member.client).collect();
    assert_eq!(gone, [one]);
    let unknown = snapshot.networks.iter().find(|change| change.network == other).unwrap();
    assert_eq!((unknown.since, unknown.members.len()), (Revision::ZERO, 1));
    assert_eq!(unknown.members[0].addresses, snapshot.addresses);

    let left = lab.networks().snapshot(one, &[KnownNetwork { network, revision }]).await.unwrap();
    assert!(left.networks.is_empty());
}

async fn a_new_tunnel_key_is_a_change_of_every_network(lab: &Lab) {
    let [first, owner] = lab.clients(2).await.try_into().unwrap();
    let network = lab.network("keys", owner).await;
    let known = lab.join(network, first).await.whole.revision;

    let again = lab.accounts().login(login(0, 0), NOW).await.unwrap();
    assert_eq!((again.client, again.registered), (first, false));
    assert!(lab.networks().changes_since(network, owner, known).await.unwrap().unwrap().members.is_empty());

    lab.accounts().login(login(0, 9), NOW).await.unwrap();
    let change = lab.networks().changes_since(network, owner, known).await.unwrap().unwrap();
    assert_eq!(change.revision, known.next());
    assert_eq!(change.members[0].tunnel, login(0, 9).tunnel);
}

async fn what_was_not_announced_is_found_again(lab: &Lab) {
    let [owner, one, two] = lab.clients(3).await.try_into().unwrap();
    let network = lab.network("outbox", owner).await;
    let later = NOW.plus(Duration::from_millis(1));
    assert!(lab.networks().unannounced(later, 10).await.unwrap().is_empty(), "the creator knows");

    let joined = lab.join(network, one).await.announcement.change;
    lab.join(network, two).await;
    assert!(lab.networks().unannounced(NOW, 10).await.unwrap().is_empty(), "too young");
    let [Announcement { change, to, .. }] = lab.networks().unannounced(later, 10).await.unwrap().try_into().unwrap();
    assert_eq!((change.since, change.revision.0, change.members.len()), (Revision(1), 3, 2));
    assert_eq!(to.len(), 3);

    lab.networks().announced(&[(network, joined.revision)]).await.unwrap();
    let [Announcement { change, .. }] = lab.networks().unannounced(later, 10).await.unwrap().try_into().unwrap();
    assert_eq!((change.since, change.members.len()), (joined.revision, 1));

    lab.networks().announced(&[(network, change.revision)]).await.unwrap();
    lab.networks().announced(&[(network, joined.revision)]).await.unwrap();
    assert!(lab.networks().unannounced(later, 10).await.unwrap().is_empty(), "an older word takes nothing back");
}
