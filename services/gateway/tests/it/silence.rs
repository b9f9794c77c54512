//! Relays that are not heard of any more.

use std::time::Duration;

use contract::rendezvous::RelayBeat;
use domain::{Bandwidth, RelayId};
use wire::control::ServerFrame;

use crate::{client::Client, lab::Lab};

#[tokio::test]
async fn every_client_is_told_of_a_relay_that_falls_silent_while_another_is_heard() {
    let lab = Lab::new().await;
    let mut clients = [Client::plain(lab.gateway()).await, Client::plain(lab.gateway()).await];
    for (client, number) in clients.iter_mut().zip(1..) {
        client.log_in(number).await;
    }
    lab.bus.publish(&beat(1)).await.unwrap();
    let told = async {
        for client in &mut clients {
            assert_eq!(client.receive().await, Some(ServerFrame::RelaySilent(relay(1))));
        }
    };
    let other = async {
        loop {
            lab.bus.publish(&beat(2)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        () = told => {}
        () = other => {}
    }
    assert_eq!(lab.gateway().metrics.pushes.get(), 2);
    drop(clients);
    lab.end().await;
}

fn relay(number: u8) -> RelayId {
    RelayId::from_bytes([number; 16])
}

fn beat(number: u8) -> RelayBeat {
    RelayBeat {
        relay: relay(number),
        endpoints: vec![([203, 0, 113, number], 443).into()],
        region: String::new(),
        slots: 0,
        max_slots: 100,
        rate: Bandwidth::from_bytes_per_second(0),
        draining: false,
        streams: Vec::new(),
    }
}
