//! Callers that go away, and databases that do.

use std::{pin::pin, time::Duration};

use domain::{AddressPool, Revision};
use futures_util::{future::join_all, poll};
use store::Error;

use crate::lab::{Lab, NOW, new_network};

crate::conformance! {
    an_abandoned_call_loses_nothing,
    a_closed_store_answers_with_an_error,
}

/// The fault that this excludes: an abandoned `begin` leaves its connection in a transaction that nobody ends, and what is
/// written there later is acknowledged and lost (sqlx #4385).
async fn an_abandoned_call_loses_nothing(lab: &Lab) {
    let clients = lab.clients(60).await;
    join_all(clients.iter().enumerate().map(|(number, &client)| async move {
        let mut call = pin!(lab.networks().create(new_network(&format!("left {number}"), client), NOW));
        for _ in 0..=number % 6 {
            if poll!(call.as_mut()).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }))
    .await;

    let mut acknowledged = Vec::new();
    for (number, &client) in clients.iter().enumerate() {
        acknowledged.push((client, lab.network(&format!("kept {number}"), client).await));
    }

    let other = lab.reopened(AddressPool::DEFAULT).await;
    for (client, network) in acknowledged {
        let change = other.networks.changes_since(network, client, Revision::ZERO).await.unwrap();
        assert_eq!(change.map(|change| change.members.len()), Some(1), "an acknowledged write is gone");
    }
    for summary in other.networks.list(None, 1_000).await.unwrap() {
        assert_eq!(summary.members, 1, "a creation is there in whole or not at all");
    }
    other.close().await;
}

async fn a_closed_store_answers_with_an_error(lab: &Lab) {
    let other = lab.reopened(AddressPool::DEFAULT).await;
    other.ping().await.unwrap();
    other.close().await;
    assert!(other.ping().await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_broke_in_the_pool_are_replaced_on_postgres() {
    let lab = Lab::on_postgres().await;
    let clients = lab.clients(8).await;
    let snapshots = || join_all(clients.iter().map(|&client| lab.networks().snapshot(client, &[])));
    snapshots().await;
    break_connections(&lab).await;
    for outcome in snapshots().await {
        outcome.unwrap();
    }
    // Those of single statements, which begin nothing by which they could be found out.
    break_connections(&lab).await;
    for outcome in join_all(clients.iter().map(|&client| lab.networks().peers(client))).await {
        outcome.unwrap();
    }
    lab.end().await;
}

async fn break_connections(lab: &Lab) {
    lab.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    .await;
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_an_error_within_seconds() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://buri@{}/buri", silent.local_addr().unwrap());
    let connecting = store::connect(&url, store::StoreOptions::default());
    let outcome = tokio::time::timeout(Duration::from_secs(10), connecting).await.expect("a deadline of its own");
    assert!(matches!(outcome, Err(Error::Busy)), "{outcome:?}");
}

#[tokio::test]
async fn a_url_of_another_database_is_refused() {
    let outcome = store::connect("mysql://localhost/buri", store::StoreOptions::default()).await;
    assert!(matches!(outcome, Err(Error::Url)), "{outcome:?}");
}
