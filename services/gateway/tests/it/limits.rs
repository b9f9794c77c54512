//! Limits that cost nothing to check.

use std::{num::NonZeroU32, time::Duration};

use gateway::{Config, metrics::Turned};
use wire::{
    Code,
    control::{ClientFrame, ServerFrame},
    secure::SecureError,
};

use crate::{
    client::{Client, code},
    lab::{Lab, until},
};

#[tokio::test]
async fn a_connection_over_the_limit_is_told_when_to_come_back() {
    let lab = Lab::with(Config { connections: 1, ..Config::default() }).await;
    let mut first = Client::plain(lab.gateway()).await;
    first.log_in(1).await;
    for _ in 0..2 {
        let mut second = Client::dial(lab.gateway(), None).await;
        match second.open().await {
            Err(SecureError::Rejected { code, retry_after }) => {
                assert_eq!(code, Code::Busy.number());
                assert!(retry_after.is_some_and(|delay| delay <= Duration::from_secs(30)));
            }
            other => panic!("not rejected but {other:?}"),
        }
    }
    first.is_alive().await;
    first.send(&ClientFrame::Goodbye).await;
    let metrics = &lab.gateway().metrics;
    until("there is room again", async || metrics.connections.get() == 0).await;
    assert_eq!(metrics.turned(Turned::Away).get(), 2);
    lab.end().await;
}

#[tokio::test]
async fn connections_that_do_not_log_in_are_few() {
    let lab = Lab::with(Config { unfinished: 2, ..Config::default() }).await;
    let idle = [Client::plain(lab.gateway()).await, Client::plain(lab.gateway()).await];
    let mut third = Client::dial(lab.gateway(), None).await;
    assert!(matches!(third.open().await, Err(SecureError::Rejected { .. })));
    drop(idle);
    let metrics = &lab.gateway().metrics;
    until("they are gone", async || metrics.connections.get() == 0).await;
    let mut fourth = Client::plain(lab.gateway()).await;
    fourth.log_in(1).await;
    let mut fifth = Client::plain(lab.gateway()).await;
    fifth.log_in(2).await;
    let mut sixth = Client::plain(lab.gateway()).await;
    sixth.log_in(3).await;
    lab.end().await;
}

#[tokio::test]
async fn one_source_has_a_limit_of_its_own() {
    let lab = Lab::with(Config { connections_per_source: 1, ..Config::default() }).await;
    let mut first = Client::plain(lab.gateway()).await;
    first.log_in(1).await;
    let mut second = Client::dial(lab.gateway(), None).await;
    match second.open().await {
        Err(SecureError::Rejected { code, .. }) => assert_eq!(code, Code::RateLimited.number()),
        other => panic!("not rejected but {other:?}"),
    }
    first.is_alive().await;
    lab.end().await;
}

#[tokio::test]
async fn accepts_have_a_rate() {
    let lab = Lab::with(Config { accepts: NonZeroU32::MIN, ..Config::default() }).await;
    let mut rejected = 0;
    for _ in 0..5 {
        let mut client = Client::dial(lab.gateway(), Some(lab.gateway().key)).await;
        match client.open().await {
            Err(SecureError::Rejected { code, .. }) if code == Code::Busy.number() => rejected += 1,
            opened => assert!(opened.is_ok(), "{opened:?}"),
        }
    }
    assert!(rejected >= 3, "{rejected}");
    lab.end().await;
}

#[tokio::test]
async fn a_handshake_or_login_that_takes_too_long_is_ended() {
    let brief = Duration::from_millis(100);
    let lab = Lab::with(Config { handshake_timeout: brief, login_timeout: brief, ..Config::default() }).await;
    let mut silent = Client::dial(lab.gateway(), None).await;
    assert_eq!(silent.receive().await, None);
    let mut opened = Client::plain(lab.gateway()).await;
    assert_eq!(opened.refusal().await, Code::LoginTimeout);
    let metrics = &lab.gateway().metrics;
    until("both are counted", async || {
        metrics.turned(Turned::Foreign).get() == 1 && metrics.turned(Turned::Refused).get() == 1
    })
    .await;
    lab.end().await;
}

#[tokio::test]
async fn a_client_that_asks_too_much_is_ended_with_a_code() {
    let lab = Lab::with(Config { requests: 5, ..Config::default() }).await;
    let mut client = Client::plain(lab.gateway()).await;
    client.log_in(1).await;
    for number in 0..6 {
        client.send(&ClientFrame::Ping(number)).await;
    }
    match client.last_words().await {
        Some(ServerFrame::Goodbye(refused)) => assert_eq!(code(&refused), Code::RateLimited),
        other => panic!("no goodbye but {other:?}"),
    }
    lab.end().await;
}
