//! What a WebSocket is asked for decides who gets it.

use std::sync::PoisonError;

use futures_util::{SinkExt as _, StreamExt as _};
use gateway::metrics::Turned;
use tokio_tungstenite::tungstenite::Message;

use crate::{
    client::upgraded,
    lab::{Lab, until},
};

#[tokio::test]
async fn a_stream_for_a_relay_is_handed_over_whole() {
    let lab = Lab::new().await;
    let mut client = upgraded(lab.gateway(), "/relay").await.unwrap();
    client.send(Message::Binary(vec![1, 2, 3].into())).await.unwrap();
    let handed = || lab.handed.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let mut taken = None;
    until("it is handed over", async || {
        taken = taken.take().or_else(handed);
        taken.is_some()
    })
    .await;
    let (mut web, from) = taken.unwrap();
    assert_eq!(from, client.get_ref().get_ref().0.local_addr().unwrap());
    assert_eq!(web.next().await.unwrap().unwrap(), Message::Binary(vec![1, 2, 3].into()));

    let metrics = &lab.gateway().metrics;
    until("the gateway is done with it", async || metrics.connections.get() == 0).await;
    assert_eq!(metrics.handed_over.get(), 1);
    web.send(Message::Binary(vec![4].into())).await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap(), Message::Binary(vec![4].into()));
    lab.end().await;
}

#[tokio::test]
async fn other_paths_lead_nowhere() {
    let mut lab = Lab::new().await;
    for path in ["/", "/relay/", "/control/x", "/../control", "/RELAY"] {
        assert_eq!(upgraded(lab.gateway(), path).await.err(), Some(404), "{path}");
    }
    let turned = lab.gateway().metrics.turned(Turned::Foreign);
    until("they are counted", async || turned.get() == 5).await;

    lab.second_gateway().await;
    assert_eq!(upgraded(&lab.gateways[1], "/relay").await.err(), Some(404), "no relay in its process");
    assert!(upgraded(&lab.gateways[1], "/control?x=1").await.is_ok());
    lab.end().await;
}
