//! Whatever somebody has written into Redis counts as absent and is written over.

use domain::{Epoch, NatProfile, UnixMillis};
use presence::{Presence, RESPITE, Renewal};
use redis::Cmd;

use crate::site::{HOUR, MOMENT, Site, client, eventually, gateway, held, raw, record, seat, tag, up};

#[tokio::test]
async fn keys_of_another_type_are_written_over_in_redis() {
    for spoil in ["RPUSH", "SADD"] {
        let (site, presence) = seated().await;
        let record = record(1, 2, "");
        let names = ["due", "seats", "sweep", "lease:nat"].map(str::to_owned);
        let names: Vec<_> = names.into_iter().chain([client_key(1), client_key(2), pair_key()]).collect();
        for name in &names {
            send(redis::cmd("DEL").arg(site.key(name))).await;
            send(redis::cmd(spoil).arg(site.key(name)).arg("nonsense")).await;
        }

        assert_eq!(presence.sweep(9).await.unwrap(), []);
        assert_eq!(presence.sessions(None, 9).await.unwrap().seats, []);
        assert_eq!(seat(&presence, 2).await, None);
        assert_eq!(presence.recall(client(1), client(2)).await.unwrap(), None);
        presence.release("nat", 9).await.unwrap();

        works(&presence).await;
        presence.remember(&record, HOUR).await.unwrap();
        assert_eq!(presence.recall(client(1), client(2)).await.unwrap(), Some(record));
        site.flush().await;
    }
}

#[tokio::test]
async fn indexes_that_are_spoilt_between_two_calls_are_made_anew_in_redis() {
    let (site, presence) = seated().await;
    for index in ["due", "seats"] {
        send(redis::cmd("SET").arg(site.key(index)).arg("nonsense")).await;
    }

    works(&presence).await;
    site.flush().await;
}

#[tokio::test]
async fn fields_that_no_gateway_wrote_are_written_over_in_redis() {
    let long = "7".repeat(1_000_000);
    let lies = [
        ("highest", "-1"),
        ("highest", "1e9"),
        ("highest", "0x10"),
        ("highest", ""),
        ("highest", "99999999999999999"),
        ("highest", "nan"),
        ("highest", long.as_str()),
        ("gateway", "short"),
        ("gateway", long.as_str()),
        ("tag", ""),
        ("since", "yesterday"),
        ("since", long.as_str()),
    ];
    for (field, lie) in lies {
        let (site, presence) = seated().await;
        send(redis::cmd("HSET").arg(site.key(&client_key(1))).arg(field).arg(lie)).await;

        assert_eq!(seat(&presence, 1).await, None, "{field}");

        works(&presence).await;
        site.flush().await;
    }
}

#[tokio::test]
async fn a_profile_that_cannot_be_read_is_none_in_redis() {
    let long = vec![0x80; 1_000_000];
    for lie in [b"".as_slice(), b"\xff\xff", b"\x9f\x9f\x9f\x9f", &long] {
        let (site, presence) = seated().await;
        send(redis::cmd("HSET").arg(site.key(&client_key(1))).arg("profile").arg(lie)).await;

        let taken = seat(&presence, 1).await.unwrap();

        assert_eq!(taken.profile, None);
        assert!(presence.report(client(1), taken.epoch, NatProfile::BLOCKED).await.unwrap());
        assert_eq!(seat(&presence, 1).await.unwrap().profile, Some(NatProfile::BLOCKED));
        site.flush().await;
    }
}

#[tokio::test]
async fn round_trips_that_cannot_be_read_are_none_in_redis() {
    let long = vec![0x80; 1_000_000];
    for lie in [b"".as_slice(), b"\xff\xff", b"\x9f\x9f\x9f\x9f", &long] {
        let (site, presence) = seated().await;
        send(redis::cmd("HSET").arg(site.key(&client_key(1))).arg("trips").arg(lie)).await;
        assert!(seat(&presence, 1).await.unwrap().trips.is_empty());
        site.flush().await;
    }
}

#[tokio::test]
async fn members_that_are_no_clients_are_dropped_from_redis() {
    let (site, presence) = seated().await;
    for number in 0..100 {
        // Before client 1, and in the way of a page of one.
        let member = format!("0{number:03}");
        send(redis::cmd("ZADD").arg(site.key("due")).arg("-inf").arg(&member)).await;
        if number < 5 {
            send(redis::cmd("ZADD").arg(site.key("seats")).arg(0).arg(&member)).await;
        }
    }

    let page = presence.sessions(None, 1).await.unwrap();

    assert_eq!(page.seats.iter().map(|seat| seat.client).collect::<Vec<_>>(), [client(1)]);
    assert!(!page.more);
    assert_eq!(presence.sweep(200).await.unwrap(), []);
    let mut raw = raw().await;
    for index in ["due", "seats"] {
        let left: u64 = redis::cmd("ZCARD").arg(site.key(index)).query_async(&mut raw).await.unwrap();
        assert_eq!(left, 1, "{index}");
    }
    site.flush().await;
}

#[tokio::test]
async fn a_record_of_somebody_else_is_none_in_redis() {
    let site = Site::redis();
    let presence = site.presence().await;
    let forged = minicbor::to_vec(record(3, 4, "")).unwrap();
    for lie in [forged, vec![], vec![0xff; 10], vec![0x80; 1_000_000]] {
        send(redis::cmd("SET").arg(site.key(&pair_key())).arg(lie)).await;
        assert_eq!(presence.recall(client(1), client(2)).await.unwrap(), None);
    }
    site.flush().await;
}

#[tokio::test]
async fn a_lease_that_never_ends_is_nobodys_in_redis() {
    let site = Site::redis();
    let presence = site.presence().await;
    send(redis::cmd("SET").arg(site.key("lease:nat")).arg(7)).await;

    assert!(presence.lease("nat", 1, HOUR).await.unwrap());
    assert!(!presence.lease("nat", 7, HOUR).await.unwrap());
    site.flush().await;
}

#[tokio::test]
async fn a_respite_that_nobody_granted_is_not_kept_in_redis() {
    let site = Site::redis();
    let presence = site.presence().await;
    up(&presence, 1, 1, 1, MOMENT).await;
    send(redis::cmd("HSET").arg(site.key("sweep")).arg("respite").arg("9000000000000000")).await;

    eventually(async || !presence.sweep(9).await.unwrap().is_empty()).await;
    site.flush().await;
}

#[tokio::test]
async fn after_a_gap_of_the_sweeps_nobody_is_lost_for_a_while_in_redis() {
    let site = Site::redis();
    let presence = site.presence().await;
    let renewed = up(&presence, 1, 1, 1, HOUR).await;
    up(&presence, 2, 1, 1, HOUR).await;
    assert_eq!(presence.sweep(9).await.unwrap(), []);
    for number in [1, 2] {
        send(redis::cmd("ZADD").arg(site.key("due")).arg(0).arg(client(number).to_string())).await;
    }
    let (last, _) = marks(&site).await;
    send(redis::cmd("HSET").arg(site.key("sweep")).arg("last").arg(last - 60_000)).await;

    assert_eq!(presence.sweep(9).await.unwrap(), [], "presence itself may have been away");

    let (swept, respite) = marks(&site).await;
    assert_eq!(u128::from(respite - swept), RESPITE.as_millis());
    presence.renew(gateway(1), &[held(1, renewed.epoch, 1)], HOUR).await.unwrap();
    send(redis::cmd("HSET").arg(site.key("sweep")).arg("respite").arg(swept)).await;
    let lost = presence.sweep(9).await.unwrap();
    assert_eq!(lost.into_iter().map(|lost| lost.client).collect::<Vec<_>>(), [client(2)]);
    site.flush().await;
}

#[tokio::test]
async fn nothing_stays_in_redis_for_ever() {
    let (site, presence) = seated().await;
    presence.report(client(1), Epoch(1_000), NatProfile::BLOCKED).await.unwrap();
    presence.down(client(2), Epoch(5_000)).await.unwrap();
    presence.renew(gateway(1), &[held(3, Epoch(9), 1)], HOUR).await.unwrap();
    presence.lease("nat", 1, HOUR).await.unwrap();
    presence.remember(&record(1, 2, ""), HOUR).await.unwrap();
    presence.sweep(9).await.unwrap();
    presence.ping().await.unwrap();

    let keys = site.keys().await;

    assert!(keys.len() >= 9, "{keys:?}");
    let mut raw = raw().await;
    for key in keys {
        let rest: i64 = redis::cmd("PTTL").arg(&key).query_async(&mut raw).await.unwrap();
        // -2: it ended meanwhile, as the key of a ping does soon.
        assert_ne!(rest, -1, "{key} has no end");
    }
    site.flush().await;
}

#[tokio::test]
async fn a_redis_that_forgot_the_scripts_gets_them_again() {
    let (site, presence) = seated().await;
    send(redis::cmd("SCRIPT").arg("FLUSH")).await;

    assert!(seat(&presence, 1).await.is_some());
    works(&presence).await;
    site.flush().await;
}

#[tokio::test]
async fn namespaces_in_redis_see_nothing_of_one_another() {
    let (site, _presence) = seated().await;
    let other = Site::redis();

    let found = other.presence().await.sessions(None, 9).await.unwrap();

    assert_eq!(found.seats, []);
    site.flush().await;
}

/// Client 1 has a seat, with session 1 at gateway 1 and epoch 1,000.
async fn seated() -> (Site, Presence) {
    let site = Site::redis();
    let presence = site.presence().await;
    up(&presence, 1, 1, 1, HOUR).await;
    (site, presence)
}

/// The usual life of client 1, who may or may not be known.
async fn works(presence: &Presence) {
    let renewed = presence.renew(gateway(1), &[held(1, Epoch(2_000), 1)], HOUR).await.unwrap();
    assert_eq!(renewed, [Renewal::Rebuilt]);
    let came = presence.up(client(1), gateway(2), tag(2), Epoch(1), UnixMillis(1), HOUR).await.unwrap();
    assert_eq!(came.epoch, Epoch(2_001));
    assert_eq!(presence.sessions(None, 9).await.unwrap().seats[0].gateway, gateway(2));
    assert!(presence.report(client(1), came.epoch, NatProfile::BLOCKED).await.unwrap());
    assert!(presence.down(client(1), came.epoch).await.unwrap());
    assert_eq!(presence.sweep(9).await.unwrap(), []);
    assert!(presence.lease("nat", 1, HOUR).await.unwrap());
    presence.release("nat", 1).await.unwrap();
}

/// When the last sweep was, and until when nobody is lost.
async fn marks(site: &Site) -> (u64, u64) {
    let mut read = redis::cmd("HMGET");
    read.arg(site.key("sweep")).arg("last").arg("respite");
    read.query_async(&mut raw().await).await.unwrap()
}

fn client_key(number: u16) -> String {
    format!("client:{}", client(number))
}

fn pair_key() -> String {
    format!("pair:{}:{}", client(1), client(2))
}

async fn send(command: &Cmd) {
    command.exec_async(&mut raw().await).await.unwrap();
}
