//! How sessions end, and who is told.

use std::time::Duration;

use contract::{gateway::Notice, session::SessionChange};
use domain::NatProfile;
use gateway::Config;
use wire::{
    Code,
    control::{ClientFrame, NatReport, ServerFrame},
};

use crate::{
    client::{Client, code, id},
    lab::{Lab, change, member, until},
};

#[tokio::test]
async fn a_goodbye_is_told_as_one_and_a_break_as_a_loss() {
    let mut lab = Lab::new().await;
    let mut polite = Client::plain(lab.gateway()).await;
    polite.log_in(1).await;
    assert_eq!(lab.changed().await, (id(1), SessionChange::Up));
    polite.send(&ClientFrame::Goodbye).await;
    assert_eq!(lab.changed().await, (id(1), SessionChange::Down));
    assert_eq!(lab.epoch(id(1)).await, None);

    let mut rude = Client::plain(lab.gateway()).await;
    rude.log_in(2).await;
    assert_eq!(lab.changed().await, (id(2), SessionChange::Up));
    drop(rude);
    assert_eq!(lab.changed().await, (id(2), SessionChange::Lost));
    assert_eq!(lab.epoch(id(2)).await, None);
    assert_eq!(lab.gateway().metrics.lost.get(), 1);
    lab.end().await;
}

#[tokio::test]
async fn a_replaced_connection_is_told_why() {
    let mut lab = Lab::new().await;
    let mut older = Client::plain(lab.gateway()).await;
    older.log_in(1).await;
    let before = lab.epoch(id(1)).await;
    let mut newer = Client::plain(lab.gateway()).await;
    newer.log_in(1).await;
    assert_eq!(older.refusal().await, Code::Replaced);
    newer.is_alive().await;
    assert!(lab.epoch(id(1)).await > before);
    assert_eq!(lab.changed().await, (id(1), SessionChange::Up));
    assert_eq!(lab.changed().await, (id(1), SessionChange::Up), "the end of the older one is nobody's loss");
    let metrics = &lab.gateway().metrics;
    until("one session is left", async || metrics.connections.get() == 1).await;
    assert_eq!(metrics.sessions.get(), 1);
    lab.end().await;
}

#[tokio::test]
async fn a_connection_that_was_replaced_at_another_gateway_is_told_why() {
    let mut lab = Lab::new().await;
    lab.second_gateway().await;
    let mut older = Client::plain(&lab.gateways[0]).await;
    older.log_in(1).await;
    let mut newer = Client::web(&lab.gateways[1]).await;
    newer.log_in(1).await;
    assert_eq!(older.refusal().await, Code::Replaced);
    newer.is_alive().await;
    let seat = lab.presence.find(&[id(1)]).await.unwrap()[0].unwrap();
    assert_eq!(seat.gateway, lab.gateways[1].instance);
    lab.end().await;
}

#[tokio::test]
async fn a_session_whose_replacement_was_not_told_ends_at_the_next_renewal() {
    let lab = Lab::with(Config { presence_ttl: Duration::from_millis(300), ..Config::default() }).await;
    let mut client = Client::plain(lab.gateway()).await;
    let welcome = client.log_in(1).await.0;
    let elsewhere = domain::InstanceId::from_bytes([0x77; 16]);
    let ttl = Duration::from_secs(60);
    let floor = lab.epoch(id(1)).await.unwrap();
    lab.presence.up(id(1), elsewhere, welcome.tag, floor, welcome.now, ttl).await.unwrap();
    assert_eq!(client.refusal().await, Code::Replaced);
    lab.end().await;
}

#[tokio::test]
async fn a_silent_client_is_lost_after_two_keepalives() {
    let mut lab = Lab::with(Config { keepalive: Duration::from_millis(100), ..Config::default() }).await;
    let mut client = Client::plain(lab.gateway()).await;
    let welcome = client.log_in(1).await.0;
    assert_eq!(welcome.keepalive_ms, 100);
    assert_eq!(client.refusal().await, Code::KeepaliveMissed);
    assert_eq!(lab.changed().await, (id(1), SessionChange::Up));
    assert_eq!(lab.changed().await, (id(1), SessionChange::Lost));
    lab.end().await;
}

#[tokio::test]
async fn a_slow_reader_is_ended_and_others_are_not() {
    let mut lab = Lab::with(Config { requests: u32::MAX, ..Config::default() }).await;
    let mut slow = Client::plain(lab.gateway()).await;
    slow.log_in(1).await;
    let mut quick = Client::plain(lab.gateway()).await;
    quick.log_in(2).await;
    assert_eq!(lab.changed().await.1, SessionChange::Up);
    assert_eq!(lab.changed().await.1, SessionChange::Up);
    let mut large = change(0, 1);
    large.members = (1..=64).map(member).collect();
    while lab.epoch(id(1)).await.is_some() {
        lab.push(id(1), Notice::Change(large.clone())).await;
        quick.is_alive().await;
    }
    assert_eq!(lab.changed().await, (id(1), SessionChange::Lost));
    assert_eq!(lab.gateway().metrics.slow_readers.get(), 1);
    quick.is_alive().await;
    lab.end().await;
}

#[tokio::test]
async fn a_process_that_ends_tells_every_client_when_to_come_back() {
    let rate = std::num::NonZeroU32::new(1).unwrap();
    let mut lab = Lab::with(Config { reconnects: rate, ..Config::default() }).await;
    let mut clients = Vec::new();
    for seed in 1..5 {
        let mut client = Client::plain(lab.gateway()).await;
        client.log_in(seed).await;
        assert_eq!(lab.changed().await, (id(seed), SessionChange::Up));
        clients.push(client);
    }
    lab.gateway().shut_down();
    let mut delays = Vec::new();
    for client in &mut clients {
        match client.last_words().await {
            Some(ServerFrame::Goodbye(refused)) => {
                assert_eq!(code(&refused), Code::Draining);
                delays.push(refused.retry_after_ms.unwrap());
            }
            other => panic!("no goodbye but {other:?}"),
        }
    }
    assert!(delays.iter().all(|&ms| ms < 4_000), "{delays:?}");
    delays.dedup();
    assert!(delays.len() > 1, "{delays:?}");
    assert!(lab.changed.try_recv().is_err(), "nobody is lost: the clients come back");
    lab.end().await;
}

#[tokio::test]
async fn presence_that_was_emptied_is_whole_again_after_a_renewal() {
    let mut lab = Lab::with(Config { presence_ttl: Duration::from_millis(300), ..Config::default() }).await;
    let mut client = Client::plain(lab.gateway()).await;
    client.log_in(1).await;
    client.send(&ClientFrame::Nat(NatReport { profile: NatProfile::BLOCKED, observations: Vec::new() })).await;
    assert_eq!(lab.changed().await, (id(1), SessionChange::Up));
    assert_eq!(lab.changed().await, (id(1), SessionChange::Profiled));
    let before = lab.presence.find(&[id(1)]).await.unwrap();
    assert!(before[0].is_some());

    lab.memory.flush();
    until("the seat is back with its profile", async || lab.presence.find(&[id(1)]).await.unwrap() == before).await;
    assert!(matches!(client.receive().await, Some(ServerFrame::Resync)), "what was not sent to it is asked for");
    assert_eq!(lab.changed().await, (id(1), SessionChange::Rebuilt));
    client.is_alive().await;
    assert!(lab.changed.try_recv().is_err(), "it is told once");
    lab.end().await;
}

#[tokio::test]
async fn an_outage_of_presence_ends_no_session_and_begins_none() {
    let mut lab = Lab::with(Config { presence_ttl: Duration::from_millis(300), ..Config::default() }).await;
    let mut client = Client::plain(lab.gateway()).await;
    client.log_in(1).await;
    assert_eq!(lab.changed().await, (id(1), SessionChange::Up));
    let epoch = lab.epoch(id(1)).await;

    lab.memory.interrupt();
    let failed = &lab.gateway().metrics.renewals_failed;
    until("a renewal failed", async || failed.get() > 0).await;
    client.is_alive().await;
    let mut late = Client::plain(lab.gateway()).await;
    late.send_login(2, None).await;
    match late.receive().await {
        Some(ServerFrame::Refused(refused)) => {
            assert_eq!(code(&refused), Code::Unavailable);
            assert!(refused.retry_after_ms.is_some());
        }
        other => panic!("no refusal but {other:?}"),
    }

    lab.memory.restore();
    until("the seat is kept", async || lab.epoch(id(1)).await == epoch).await;
    client.is_alive().await;
    lab.end().await;
}
