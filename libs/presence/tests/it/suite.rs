//! The rules that hold on both back-ends.

use std::collections::BTreeSet;

use domain::{Epoch, NatProfile, RelayId, RelayTrip, RelayTrips, UnixMillis};
use presence::{Error, Lost, Renewal};
use tokio::task::JoinSet;

use crate::site::{HOUR, MOMENT, Site, client, eventually, gateway, held, record, seat, tag, up};

macro_rules! on_both_back_ends {
    ($($rule:ident,)*) => {
        mod in_memory {
            $(#[tokio::test(start_paused = true)]
            async fn $rule() {
                super::$rule(super::Site::memory()).await;
            })*
        }

        mod in_redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $rule() {
                super::$rule(super::Site::redis()).await;
            })*
        }
    };
}

on_both_back_ends! {
    a_client_has_a_seat_until_it_goes_down,
    a_later_session_replaces_an_earlier_one,
    an_older_session_never_takes_the_seat_back,
    the_end_of_a_session_outlives_it,
    a_login_that_is_repeated_changes_nothing,
    epochs_rise_above_the_floor_and_one_another,
    an_epoch_that_was_never_given_out_changes_nothing,
    racing_logins_leave_one_seat,
    a_renewal_after_a_flush_rebuilds_the_seat,
    after_a_flush_the_newer_session_wins_in_any_order,
    two_sessions_with_one_epoch_leave_one_seat,
    a_seat_that_runs_out_is_lost_to_exactly_one_sweeper,
    a_lost_session_comes_back_only_as_a_new_one,
    a_renewed_seat_is_not_swept,
    a_profile_belongs_to_the_session_that_has_the_seat,
    round_trips_belong_to_the_session_that_has_the_seat,
    seats_are_found_in_the_order_asked,
    sessions_come_in_pages,
    a_lease_excludes_others_until_it_is_released,
    a_lease_runs_out,
    a_lease_is_prolonged_by_its_holder_only,
    one_of_many_gets_a_lease,
    a_record_is_recalled_in_any_order_of_the_pair,
    a_record_runs_out,
    a_record_that_is_too_large_is_refused,
    presence_answers_a_ping,
}

async fn a_client_has_a_seat_until_it_goes_down(site: Site) {
    let presence = site.presence().await;

    let came = up(&presence, 1, 2, 3, HOUR).await;

    let taken = seat(&presence, 1).await.unwrap();
    assert_eq!((taken.client, taken.gateway, taken.tag), (client(1), gateway(2), tag(3)));
    assert_eq!((taken.epoch, taken.since, taken.profile), (came.epoch, UnixMillis(7), None));
    assert_eq!(seat(&presence, 2).await, None);

    assert!(presence.down(client(1), came.epoch).await.unwrap());
    assert_eq!(seat(&presence, 1).await, None);
    assert!(!presence.down(client(1), came.epoch).await.unwrap(), "it is down already");
}

async fn a_later_session_replaces_an_earlier_one(site: Site) {
    let (here, there) = (site.presence().await, site.presence().await);
    let first = up(&here, 1, 1, 1, HOUR).await;
    let before = seat(&here, 1).await;

    let second = up(&there, 1, 2, 2, HOUR).await;

    assert_eq!(first.replaced, None);
    assert_eq!(second.replaced, before);
    assert!(second.epoch > first.epoch);
    assert_eq!(here.renew(gateway(1), &[held(1, first.epoch, 1)], HOUR).await.unwrap(), [Renewal::Replaced]);
    assert_eq!(seat(&here, 1).await.unwrap().gateway, gateway(2));
}

async fn an_older_session_never_takes_the_seat_back(site: Site) {
    let presence = site.presence().await;
    let older = up(&presence, 1, 1, 1, HOUR).await;
    let newer = up(&presence, 1, 2, 2, HOUR).await;

    assert!(!presence.down(client(1), older.epoch).await.unwrap());
    assert_eq!(presence.renew(gateway(1), &[held(1, older.epoch, 1)], HOUR).await.unwrap(), [Renewal::Replaced]);
    assert!(!presence.report(client(1), older.epoch, NatProfile::BLOCKED).await.unwrap());

    let kept = seat(&presence, 1).await.unwrap();
    assert_eq!((kept.epoch, kept.gateway, kept.profile), (newer.epoch, gateway(2), None));
}

async fn the_end_of_a_session_outlives_it(site: Site) {
    let presence = site.presence().await;

    assert!(!presence.down(client(1), Epoch(5_000)).await.unwrap(), "its up is still on the way");

    let renewal = async |epoch| presence.renew(gateway(1), &[held(1, Epoch(epoch), 1)], HOUR).await.unwrap();
    assert_eq!(renewal(4_999).await, [Renewal::Replaced]);
    assert_eq!(renewal(5_000).await, [Renewal::Ended]);
    assert_eq!(seat(&presence, 1).await, None);
    assert_eq!(up(&presence, 1, 1, 2, HOUR).await.epoch, Epoch(5_001));
}

async fn a_login_that_is_repeated_changes_nothing(site: Site) {
    let presence = site.presence().await;
    up(&presence, 1, 1, 1, HOUR).await;
    let second = up(&presence, 1, 1, 2, HOUR).await;

    let again = up(&presence, 1, 1, 2, HOUR).await;

    assert_eq!(again.epoch, second.epoch);
    assert_eq!(again.replaced, None);
}

async fn epochs_rise_above_the_floor_and_one_another(site: Site) {
    let presence = site.presence().await;
    let login = async |session, floor| {
        let up = presence.up(client(1), gateway(1), tag(session), Epoch(floor), UnixMillis(0), HOUR);
        up.await.unwrap().epoch
    };

    assert_eq!(login(1, 1_790_000_000_000).await, Epoch(1_790_000_000_000));
    assert_eq!(login(2, 1_790_000_000_000).await, Epoch(1_790_000_000_001), "in the same millisecond");
    assert_eq!(login(3, 1_700_000_000_000).await, Epoch(1_790_000_000_002), "by a slow clock");
    assert_eq!(login(4, 1_800_000_000_000).await, Epoch(1_800_000_000_000));
    let beyond = login(5, u64::MAX).await;
    assert_eq!(login(6, u64::MAX).await, Epoch(beyond.0 + 1), "by a mad clock");
}

async fn an_epoch_that_was_never_given_out_changes_nothing(site: Site) {
    let presence = site.presence().await;
    let came = up(&presence, 1, 1, 1, HOUR).await;

    for never in [Epoch(u64::MAX), Epoch(1 << 53)] {
        assert!(!presence.down(client(1), never).await.unwrap());
        assert_eq!(presence.renew(gateway(1), &[held(1, never, 1)], HOUR).await.unwrap(), [Renewal::Replaced]);
        assert!(!presence.report(client(1), never, NatProfile::BLOCKED).await.unwrap());
    }

    assert_eq!(seat(&presence, 1).await.unwrap().epoch, came.epoch);
}

async fn racing_logins_leave_one_seat(site: Site) {
    let mut racing = JoinSet::new();
    for session in 0..32 {
        let presence = site.presence().await;
        racing.spawn(async move { up(&presence, 1, session, session, HOUR).await });
    }
    let ups = racing.join_all().await;

    let epochs: BTreeSet<_> = ups.iter().map(|up| up.epoch).collect();
    let mut replaced: Vec<_> = ups.iter().filter_map(|up| up.replaced).map(|seat| seat.epoch).collect();
    replaced.sort_unstable();
    let last = *epochs.last().unwrap();
    assert_eq!(epochs.len(), 32);
    assert_eq!(replaced, epochs.into_iter().filter(|&epoch| epoch != last).collect::<Vec<_>>(), "each is told once");
    assert_eq!(seat(&site.presence().await, 1).await.unwrap().epoch, last);
}

async fn a_renewal_after_a_flush_rebuilds_the_seat(site: Site) {
    let presence = site.presence().await;
    let came = up(&presence, 1, 1, 1, HOUR).await;
    let before = seat(&presence, 1).await;
    site.flush().await;
    assert_eq!(seat(&presence, 1).await, None);

    assert_eq!(presence.renew(gateway(1), &[held(1, came.epoch, 1)], HOUR).await.unwrap(), [Renewal::Rebuilt]);

    assert_eq!(seat(&presence, 1).await, before);
    assert_eq!(presence.renew(gateway(1), &[held(1, came.epoch, 1)], HOUR).await.unwrap(), [Renewal::Kept]);
    assert_eq!(presence.sessions(None, 10).await.unwrap().seats.len(), 1);
    assert!(up(&presence, 1, 2, 2, HOUR).await.epoch > came.epoch);
}

async fn after_a_flush_the_newer_session_wins_in_any_order(site: Site) {
    let presence = site.presence().await;
    let (older, newer) = ((gateway(1), held(1, Epoch(2_000), 1)), (gateway(2), held(1, Epoch(3_000), 2)));
    let renewal = async |(at, held)| presence.renew(at, &[held], HOUR).await.unwrap();

    site.flush().await;
    assert_eq!(renewal(older).await, [Renewal::Rebuilt]);
    assert_eq!(renewal(newer).await, [Renewal::Rebuilt]);
    assert_eq!(renewal(older).await, [Renewal::Replaced]);
    assert_eq!(seat(&presence, 1).await.unwrap().epoch, newer.1.epoch);

    site.flush().await;
    assert_eq!(renewal(newer).await, [Renewal::Rebuilt]);
    assert_eq!(renewal(older).await, [Renewal::Replaced]);
    assert_eq!(seat(&presence, 1).await.unwrap().epoch, newer.1.epoch);
}

async fn two_sessions_with_one_epoch_leave_one_seat(site: Site) {
    let presence = site.presence().await;
    let epoch = Epoch(2_000);

    assert_eq!(presence.renew(gateway(1), &[held(1, epoch, 1)], HOUR).await.unwrap(), [Renewal::Rebuilt]);

    assert_eq!(presence.renew(gateway(2), &[held(1, epoch, 2)], HOUR).await.unwrap(), [Renewal::Replaced]);
    assert_eq!(presence.renew(gateway(1), &[held(1, epoch, 1)], HOUR).await.unwrap(), [Renewal::Kept]);
}

async fn a_seat_that_runs_out_is_lost_to_exactly_one_sweeper(site: Site) {
    let presence = site.presence().await;
    let mut seated = BTreeSet::new();
    for number in 0..50 {
        seated.insert(Lost { client: client(number), epoch: up(&presence, number, 1, 1, MOMENT).await.epoch });
    }
    let stays = up(&presence, 99, 1, 1, HOUR).await;

    let mut lost = Vec::new();
    eventually(async || {
        let mut sweepers = JoinSet::new();
        for _ in 0..4 {
            let presence = presence.clone();
            sweepers.spawn(async move { presence.sweep(7).await.unwrap() });
        }
        lost.extend(sweepers.join_all().await.into_iter().flatten());
        lost.len() >= seated.len()
    })
    .await;

    assert_eq!(lost.len(), 50, "none of them twice");
    assert_eq!(lost.into_iter().collect::<BTreeSet<_>>(), seated);
    assert_eq!(seat(&presence, 7).await, None);
    assert_eq!(seat(&presence, 99).await.unwrap().epoch, stays.epoch);
    assert_eq!(presence.sessions(None, 100).await.unwrap().seats.len(), 1);
    assert_eq!(presence.sweep(7).await.unwrap(), []);
}

async fn a_lost_session_comes_back_only_as_a_new_one(site: Site) {
    let presence = site.presence().await;
    let came = up(&presence, 1, 1, 1, MOMENT).await;
    eventually(async || !presence.sweep(7).await.unwrap().is_empty()).await;

    assert_eq!(presence.renew(gateway(1), &[held(1, came.epoch, 1)], HOUR).await.unwrap(), [Renewal::Ended]);
    assert!(!presence.down(client(1), came.epoch).await.unwrap());

    let anew = up(&presence, 1, 1, 1, HOUR).await;
    assert!(anew.epoch > came.epoch);
    assert_eq!(anew.replaced, None);
}

async fn a_renewed_seat_is_not_swept(site: Site) {
    let presence = site.presence().await;
    let renewed = up(&presence, 1, 1, 1, HOUR).await;
    presence.renew(gateway(1), &[held(1, renewed.epoch, 1)], MOMENT).await.unwrap();
    presence.renew(gateway(1), &[held(1, renewed.epoch, 1)], HOUR).await.unwrap();
    up(&presence, 2, 1, 1, MOMENT).await;

    let mut lost = Vec::new();
    eventually(async || {
        lost.extend(presence.sweep(7).await.unwrap());
        !lost.is_empty()
    })
    .await;

    assert_eq!(lost.into_iter().map(|lost| lost.client).collect::<Vec<_>>(), [client(2)]);
    assert_eq!(seat(&presence, 1).await.unwrap().epoch, renewed.epoch);
}

async fn a_profile_belongs_to_the_session_that_has_the_seat(site: Site) {
    let presence = site.presence().await;
    assert!(!presence.report(client(1), Epoch(1), NatProfile::BLOCKED).await.unwrap());
    let first = up(&presence, 1, 1, 1, HOUR).await;

    assert!(presence.report(client(1), first.epoch, NatProfile::BLOCKED).await.unwrap());
    presence.renew(gateway(1), &[held(1, first.epoch, 1)], HOUR).await.unwrap();
    assert_eq!(seat(&presence, 1).await.unwrap().profile, Some(NatProfile::BLOCKED));

    let second = up(&presence, 1, 1, 2, HOUR).await;
    assert_eq!(second.replaced.unwrap().profile, Some(NatProfile::BLOCKED));
    assert_eq!(seat(&presence, 1).await.unwrap().profile, None);
}

async fn round_trips_belong_to_the_session_that_has_the_seat(site: Site) {
    let presence = site.presence().await;
    let trip = |number| RelayTrip { relay: RelayId::from_bytes([number; 16]), rtt_us: RelayTrips::LONGEST_US };
    let most: Vec<_> = (0..).map(trip).take(RelayTrips::MOST).collect();
    let trips = RelayTrips::new(&most).unwrap();
    assert!(!presence.measured(client(1), Epoch(1), trips).await.unwrap());
    let first = up(&presence, 1, 1, 1, HOUR).await;
    assert!(seat(&presence, 1).await.unwrap().trips.is_empty());

    assert!(presence.measured(client(1), first.epoch, trips).await.unwrap());
    assert!(presence.report(client(1), first.epoch, NatProfile::BLOCKED).await.unwrap());
    presence.renew(gateway(1), &[held(1, first.epoch, 1)], HOUR).await.unwrap();
    assert_eq!(seat(&presence, 1).await.unwrap().trips, trips);

    up(&presence, 1, 1, 2, HOUR).await;
    assert!(seat(&presence, 1).await.unwrap().trips.is_empty());
    assert!(!presence.measured(client(1), first.epoch, trips).await.unwrap());
}

async fn seats_are_found_in_the_order_asked(site: Site) {
    let presence = site.presence().await;
    let all: Vec<_> = (0..600).map(|number| held(number, Epoch(1_000 + u64::from(number)), 1)).collect();
    let odd: Vec<_> = all.iter().copied().skip(1).step_by(2).collect();
    assert_eq!(presence.renew(gateway(1), &odd, HOUR).await.unwrap(), [Renewal::Rebuilt; 300]);

    let clients: Vec<_> = all.iter().rev().map(|held| held.client).collect();
    let found = presence.find(&clients).await.unwrap();

    let expected: Vec<_> = all.iter().rev().map(|held| (held.epoch.0 % 2 == 1).then_some(held.epoch)).collect();
    assert_eq!(found.into_iter().map(|seat| seat.map(|seat| seat.epoch)).collect::<Vec<_>>(), expected);
    assert_eq!(presence.find(&[]).await.unwrap(), []);
    assert_eq!(presence.renew(gateway(1), &[], HOUR).await.unwrap(), []);
}

async fn sessions_come_in_pages(site: Site) {
    let presence = site.presence().await;
    let seated: Vec<_> = (0..25).map(|number| held(number, Epoch(1_000), 1)).collect();
    presence.renew(gateway(1), &seated, HOUR).await.unwrap();
    presence.down(client(3), Epoch(1_000)).await.unwrap();

    let (mut after, mut seen, mut pages) = (None, Vec::new(), 0);
    loop {
        let page = presence.sessions(after, 8).await.unwrap();
        seen.extend(page.seats.iter().map(|seat| seat.client));
        after = seen.last().copied();
        pages += 1;
        if !page.more {
            break;
        }
    }

    assert_eq!(pages, 3);
    assert_eq!(seen, (0..25).filter(|&number| number != 3).map(client).collect::<Vec<_>>());
    assert!(!presence.sessions(None, 24).await.unwrap().more);
    assert_eq!(presence.sessions(after, 8).await.unwrap().seats, []);
}

async fn a_lease_excludes_others_until_it_is_released(site: Site) {
    let (one, other) = (site.presence().await, site.presence().await);

    assert!(one.lease("nat", 1, HOUR).await.unwrap());
    assert!(!other.lease("nat", 2, HOUR).await.unwrap());
    assert!(other.lease("another nat", 2, HOUR).await.unwrap());

    other.release("nat", 2).await.unwrap();
    assert!(!other.lease("nat", 2, HOUR).await.unwrap(), "it was not theirs to release");

    one.release("nat", 1).await.unwrap();
    assert!(other.lease("nat", 2, HOUR).await.unwrap());
}

async fn a_lease_runs_out(site: Site) {
    let presence = site.presence().await;
    assert!(presence.lease("nat", 1, MOMENT).await.unwrap());

    eventually(async || presence.lease("nat", 2, HOUR).await.unwrap()).await;

    presence.release("nat", 1).await.unwrap();
    assert!(!presence.lease("nat", 1, HOUR).await.unwrap(), "the new holder has it");
}

async fn a_lease_is_prolonged_by_its_holder_only(site: Site) {
    let presence = site.presence().await;
    assert!(presence.lease("nat", 1, MOMENT).await.unwrap());
    assert!(presence.lease("nat", 1, HOUR).await.unwrap());
    assert!(presence.lease("clock", 1, MOMENT).await.unwrap());

    eventually(async || presence.lease("clock", 2, MOMENT).await.unwrap()).await;

    assert!(!presence.lease("nat", 2, HOUR).await.unwrap());
}

async fn one_of_many_gets_a_lease(site: Site) {
    let mut racing = JoinSet::new();
    for holder in 0..16 {
        let presence = site.presence().await;
        racing.spawn(async move { presence.lease("nat", holder, HOUR).await.unwrap() });
    }
    assert_eq!(racing.join_all().await.into_iter().filter(|&taken| taken).count(), 1);
}

async fn a_record_is_recalled_in_any_order_of_the_pair(site: Site) {
    let presence = site.presence().await;
    assert_eq!(presence.recall(client(1), client(2)).await.unwrap(), None);

    presence.remember(&record(2, 1, "both routers assign random ports"), HOUR).await.unwrap();
    presence.remember(&record(2, 1, "a port mapping would fix it"), HOUR).await.unwrap();

    let newest = Some(record(2, 1, "a port mapping would fix it"));
    assert_eq!(presence.recall(client(1), client(2)).await.unwrap(), newest);
    assert_eq!(presence.recall(client(2), client(1)).await.unwrap(), newest);
    assert_eq!(presence.recall(client(1), client(3)).await.unwrap(), None);
}

async fn a_record_runs_out(site: Site) {
    let presence = site.presence().await;
    presence.remember(&record(1, 2, ""), MOMENT).await.unwrap();

    eventually(async || presence.recall(client(1), client(2)).await.unwrap().is_none()).await;
}

async fn a_record_that_is_too_large_is_refused(site: Site) {
    let presence = site.presence().await;

    let refused = presence.remember(&record(1, 2, &"x".repeat(5_000)), HOUR).await;

    assert!(matches!(refused, Err(Error::TooLarge { bytes: 5_000.. })), "{refused:?}");
    assert_eq!(presence.recall(client(1), client(2)).await.unwrap(), None);
}

async fn presence_answers_a_ping(site: Site) {
    site.presence().await.ping().await.unwrap();
}
