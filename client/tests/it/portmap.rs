//! A router that grants a port, on a loopback address of its own.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use client::portmap::{self, Granted, Protocol, Wish};
use tokio::{net::UdpSocket, time::timeout};

#[tokio::test]
async fn a_router_grants_by_pcp_and_takes_back() {
    let (router, socket) = router(1).await;
    let wish = Wish { router, port: 4_000, nonce: [7; 12], earlier: None };
    let serving = async {
        let mut lifetimes = Vec::new();
        for _ in 0..2 {
            let mut bytes = [0; 1100];
            let (size, from) = timeout(PATIENCE, socket.recv_from(&mut bytes)).await.unwrap().unwrap();
            lifetimes.push(u32::from_be_bytes(bytes[4..8].try_into().unwrap()));
            bytes[1] |= 0x80;
            bytes[3] = 0;
            bytes[42..44].copy_from_slice(&4_001_u16.to_be_bytes());
            bytes[44..60].copy_from_slice(&EXTERNAL.to_ipv6_mapped().octets());
            socket.send_to(&bytes[..size], from).await.unwrap();
        }
        lifetimes
    };
    let asking = async {
        let granted = portmap::ask(wish).await.unwrap();
        portmap::release(Wish { earlier: Some(granted), ..wish }).await;
        granted
    };
    let (lifetimes, granted) = tokio::join!(serving, asking);
    assert_eq!(granted, expected(Protocol::Pcp));
    assert_eq!(lifetimes, [7_200, 0]);
}

#[tokio::test]
async fn a_router_that_knows_only_nat_pmp_grants_by_that() {
    let (router, socket) = router(2).await;
    let wish = Wish { router, port: 4_000, nonce: [7; 12], earlier: None };
    let serving = async {
        for answer in [
            vec![0, 0x81, 0, 1, 0, 0, 0, 1],
            [&[0, 0x80, 0, 0, 0, 0, 0, 1][..], &EXTERNAL.octets()].concat(),
            vec![0, 0x81, 0, 0, 0, 0, 0, 1, 0x0f, 0xa0, 0x0f, 0xa1, 0, 0, 0x1c, 0x20],
        ] {
            let mut bytes = [0; 1100];
            let (_, from) = timeout(PATIENCE, socket.recv_from(&mut bytes)).await.unwrap().unwrap();
            socket.send_to(&answer, from).await.unwrap();
        }
    };
    let ((), granted) = tokio::join!(serving, portmap::ask(wish));
    assert_eq!(granted, Some(expected(Protocol::NatPmp)));
}

fn expected(by: Protocol) -> Granted {
    Granted { external: SocketAddrV4::new(EXTERNAL, 4_001), lifetime: Duration::from_secs(7_200), by }
}

/// The `nth` router of this process.
async fn router(nth: u8) -> (Ipv4Addr, UdpSocket) {
    let [.., high, low] = std::process::id().to_be_bytes();
    let address = Ipv4Addr::new(127, 220 + nth, high, low);
    (address, UdpSocket::bind((address, 5351)).await.unwrap())
}

const EXTERNAL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const PATIENCE: Duration = Duration::from_secs(60);
