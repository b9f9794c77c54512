//! A virtual address belongs to at most one client, ever; a client keeps its address.

use std::collections::BTreeSet;

use domain::AddressPool;
use futures_util::future::join_all;

use crate::lab::{Lab, NOW, new_network};

crate::conformance! {
    concurrent_writers_never_share_an_address,
    a_pool_of_fourteen_gives_fourteen_addresses_and_joins_go_on,
    an_address_is_permanent,
    an_address_survives_a_change_of_the_pool,
}

async fn concurrent_writers_never_share_an_address(lab: &Lab) {
    let small = lab.reopened(AddressPool::new("100.64.0.0/26".parse().unwrap(), false).unwrap()).await;
    let clients = lab.clients(48).await;

    let created = join_all(clients.iter().enumerate().map(|(number, &client)| {
        let networks = small.networks.clone();
        async move { networks.create(new_network(&format!("net {number}"), client), NOW).await.unwrap() }
    }))
    .await;

    let addresses: BTreeSet<_> = created.iter().map(|joined| joined.addresses.v4.unwrap()).collect();
    assert_eq!(addresses.len(), 48);
    small.close().await;
}

async fn a_pool_of_fourteen_gives_fourteen_addresses_and_joins_go_on(lab: &Lab) {
    let pool = AddressPool::new("100.64.0.0/28".parse().unwrap(), false).unwrap();
    let small = lab.reopened(pool).await;
    let clients = lab.clients(24).await;

    let created = join_all(clients.iter().enumerate().map(|(number, &client)| {
        let networks = small.networks.clone();
        async move { networks.create(new_network(&format!("net {number}"), client), NOW).await.unwrap() }
    }))
    .await;

    let given: Vec<_> = created.iter().filter_map(|joined| joined.addresses.v4).collect();
    assert_eq!(given.len(), 14);
    assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), 14);
    assert!(given.iter().all(|&address| pool.seat(address).is_some()));
    assert_eq!(created.iter().map(|joined| joined.addresses.v6).collect::<BTreeSet<_>>().len(), 24);
    small.close().await;
}

async fn an_address_is_permanent(lab: &Lab) {
    let [owner, guest] = lab.clients(2).await.try_into().unwrap();
    let network = lab.network("first", owner).await;
    let first = lab.join(network, guest).await.addresses;

    lab.networks().leave(network, guest, NOW).await.unwrap();
    assert_eq!(lab.networks().snapshot(guest, &[]).await.unwrap().addresses, first);
    assert_eq!(lab.join(network, guest).await.addresses, first);
    assert_eq!(lab.create("second", guest).await.addresses, first);
}

async fn an_address_survives_a_change_of_the_pool(lab: &Lab) {
    let owner = lab.client().await;
    let first = lab.create("first", owner).await.addresses;

    let moved = lab.reopened(AddressPool::new("100.127.0.0/24".parse().unwrap(), false).unwrap()).await;
    let second = moved.networks.create(new_network("second", owner), NOW).await.unwrap();
    assert_eq!(second.addresses, first);
    moved.close().await;
}
