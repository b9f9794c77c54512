//! Who is told what, and that it is told in the end.

use std::time::Duration;

use contract::{
    gateway::Notice,
    network::{Leave, SetNick},
    rendezvous::Wanted,
    session::SessionChange,
};
use domain::{Bandwidth, PeerPresence, UnixMillis};

use crate::lab::Lab;

#[tokio::test(flavor = "multi_thread")]
async fn members_are_told_at_their_gateways_of_who_joined() {
    let mut lab = Lab::new().await;
    let [one, two, away, new] = [lab.client().await, lab.client().await, lab.client().await, lab.client().await];
    lab.create(one, "home", "right").await.unwrap();
    lab.join(two, "home", "right").await.unwrap();
    let known = lab.join(away, "home", "right").await.unwrap().change.revision;
    lab.quiet().await;
    let (mut east, mut west, mut other) = (lab.gateway(1).await, lab.gateway(2).await, lab.gateway(3).await);
    lab.seat(one, &east, Duration::from_secs(60)).await;
    let epoch = lab.seat(two, &west, Duration::from_secs(60)).await;
    lab.seat(new, &west, Duration::from_secs(60)).await;

    lab.join(new, "home", "right").await.unwrap();

    for (gateway, member) in [(&mut east, one), (&mut west, two)] {
        let (to, notice) = gateway.told_that(|notice| matches!(notice, Notice::Change(_))).await;
        let Notice::Change(change) = notice else { unreachable!() };
        assert_eq!(to, [member], "the new member knows from its reply");
        assert_eq!((change.since, change.revision), (known, known.next()));
        assert_eq!(change.members[0].client, new);
        assert_eq!(change.members[0].presence, Some(PeerPresence::Online));
    }
    assert!(epoch.0 > 0 && other.heard_nothing());
    let pairs = [lab.wanted(Wanted::Online).await, lab.wanted(Wanted::Online).await];
    assert!(pairs.iter().all(|pair| pair.a == new));
    assert!(pairs.iter().all(|pair| pair.relay_rate == Bandwidth::from_kbit_per_second(8)));
    assert!(pairs.iter().all(|pair| pair.payers == [pair.a, pair.b].map(Into::into)), "each for itself");
    lab.quiet().await;
    assert!(lab.metrics.pushes.get() >= 2 && lab.metrics.pairs_wanted.get() >= 2);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_told_of_departures_and_new_names() {
    let mut lab = Lab::new().await;
    let [owner, guest] = [lab.client().await, lab.client().await];
    let mut gateway = lab.gateway(1).await;
    let network = lab.create(owner, "home", "right").await.unwrap().network;
    lab.join(guest, "home", "right").await.unwrap();
    lab.quiet().await;
    lab.seat(owner, &gateway, Duration::from_secs(60)).await;

    lab.call(SetNick { client: guest, nick: "Ada".parse().unwrap() }).await.unwrap();
    let named = |notice: &Notice| matches!(notice, Notice::Change(change) if change.members[0].nick.is_some());
    let (to, _) = gateway.told_that(named).await;
    assert_eq!(to, [owner]);

    lab.call(Leave { client: guest, network }).await.unwrap();
    let gone = |notice: &Notice| matches!(notice, Notice::Change(change) if change.members[0].gone);
    let (to, _) = gateway.told_that(gone).await;
    assert_eq!(to, [owner]);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_are_told_of_sessions_and_pairs_are_made() {
    let mut lab = Lab::new().await;
    let [one, two, stranger] = [lab.client().await, lab.client().await, lab.client().await];
    let (mut east, mut west) = (lab.gateway(1).await, lab.gateway(2).await);
    lab.create(one, "home", "right").await.unwrap();
    lab.join(two, "home", "right").await.unwrap();
    lab.quiet().await;
    lab.seat(one, &east, Duration::from_secs(60)).await;
    lab.seat(stranger, &west, Duration::from_secs(60)).await;

    let epoch = lab.online(two, &west).await;
    let (to, _) = east.told_that(|notice| *notice == Notice::PeerUp(two)).await;
    assert_eq!(to, [one]);
    let pair = lab.wanted(Wanted::Online).await;
    assert_eq!((pair.a, pair.b), (two, one));

    lab.session(two, epoch, SessionChange::Profiled).await;
    lab.wanted(Wanted::Profiled).await;

    lab.session(two, epoch, SessionChange::Rebuilt).await;
    let (to, _) = east.told_that(|notice| *notice == Notice::PeerUp(two)).await;
    assert_eq!(to, [one], "who took it for offline");

    lab.presence.down(two, epoch).await.unwrap();
    lab.session(two, epoch, SessionChange::Down).await;
    east.told_that(|notice| *notice == Notice::PeerDown(two)).await;
    lab.session(two, epoch, SessionChange::Lost).await;
    east.told_that(|notice| *notice == Notice::PeerLost(two)).await;
    assert!(west.heard_nothing(), "strangers hear nothing");
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_to_an_older_session_is_not_told() {
    let mut lab = Lab::new().await;
    let [one, two] = [lab.client().await, lab.client().await];
    let mut gateway = lab.gateway(1).await;
    lab.create(one, "home", "right").await.unwrap();
    lab.join(two, "home", "right").await.unwrap();
    lab.quiet().await;
    lab.seat(one, &gateway, Duration::from_secs(60)).await;
    let old = lab.seat(two, &gateway, Duration::from_secs(60)).await;
    lab.seat(two, &gateway, Duration::from_secs(60)).await;

    let (comes, goes) = ([SessionChange::Up, SessionChange::Rebuilt], [SessionChange::Lost, SessionChange::Down]);
    for change in comes.into_iter().chain(goes).chain([SessionChange::Profiled]) {
        lab.session(two, old, change).await;
    }
    let now = lab.online(one, &gateway).await;

    // Work is handled side by side: the last event is told, and none of those before it.
    gateway.told_that(|notice| *notice == Notice::PeerUp(one)).await;
    let of_two = |notice: &Notice| [Notice::PeerUp(two), Notice::PeerLost(two), Notice::PeerDown(two)].contains(notice);
    assert!(!gateway.heard(of_two) && now.0 > 0);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_runs_out_is_announced_as_lost() {
    let mut lab = Lab::new().await;
    let [one, two] = [lab.client().await, lab.client().await];
    let mut gateway = lab.gateway(1).await;
    lab.create(one, "home", "right").await.unwrap();
    lab.join(two, "home", "right").await.unwrap();
    lab.quiet().await;
    lab.seat(one, &gateway, Duration::from_secs(60)).await;

    lab.seat(two, &gateway, Duration::from_millis(20)).await;

    let (to, _) = gateway.told_that(|notice| *notice == Notice::PeerLost(two)).await;
    assert_eq!(to, [one]);
    assert_eq!(lab.metrics.sessions_expired.get(), 1);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_its_maker_never_announced_is_announced_by_the_sweep() {
    let mut lab = Lab::new().await;
    let [owner, guest] = [lab.client().await, lab.client().await];
    let mut gateway = lab.gateway(1).await;
    let network = lab.create(owner, "home", "right").await.unwrap().network;
    lab.seat(owner, &gateway, Duration::from_secs(60)).await;

    // The process that committed this is gone before it said a word.
    lab.stores.networks.join(network, guest, [1; 16], UnixMillis(1)).await.unwrap();

    let (to, notice) = gateway.told_that(|notice| matches!(notice, Notice::Change(_))).await;
    let Notice::Change(change) = notice else { unreachable!() };
    assert_eq!((to, change.members[0].client), (vec![owner], guest));
    lab.until(async || lab.metrics.announcements_repaired.get() == 1).await;
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_made_while_the_bus_was_away_is_announced_when_it_is_back() {
    let mut lab = Lab::new().await;
    let [owner, guest] = [lab.client().await, lab.client().await];
    let mut gateway = lab.gateway(1).await;
    let network = lab.create(owner, "home", "right").await.unwrap().network;
    lab.seat(owner, &gateway, Duration::from_secs(60)).await;

    lab.hub.interrupt();
    lab.stores.networks.join(network, guest, [1; 16], UnixMillis(1)).await.unwrap();
    assert!(gateway.heard_nothing());
    lab.hub.restore();

    let (to, _) = gateway.told_that(|notice| matches!(notice, Notice::Change(_))).await;
    assert_eq!(to, [owner]);
    lab.quiet().await;
    lab.end().await;
}
