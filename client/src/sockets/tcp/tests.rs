//! Connections over the loopback, and what strangers can do to a port.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use super::*;

const PORT: SocketId = SocketId(0x8001);

#[tokio::test]
async fn two_ports_that_connect_to_each_other_carry_datagrams_whole() {
    let (mut alice, mut bob) = (Lab::new(), Lab::new());
    alice.ports.connect(PORT, bob.address(), None, Speech::Frames);
    bob.ports.connect(PORT, alice.address(), None, Speech::Frames);
    // One of the two tries may find that the other one has come already.
    while alice.next().await.1 != Arrived::Connected {}
    while bob.next().await.1 != Arrived::Connected {}
    for size in [1, 36, 1_400, DATAGRAM_ROOM] {
        let datagram: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        alice.ports.send(PORT, bob.address(), &datagram).unwrap();
        assert_eq!(bob.next().await, (datagram.clone(), Arrived::Datagram));
        bob.ports.send(PORT, alice.address(), &datagram).unwrap();
        assert_eq!(alice.next().await, (datagram, Arrived::Datagram));
    }
    alice.ports.disconnect(PORT, bob.address());
    assert_eq!(bob.next().await.1, Arrived::Disconnected);
    assert!(bob.ports.streams.is_empty() && bob.ports.tokens.is_empty());
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_is_told_so_and_can_be_tried_again() {
    let mut lab = Lab::new();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for _ in 0..3 {
        lab.ports.connect(PORT, closed, None, Speech::Frames);
        assert_eq!(lab.next().await.1, Arrived::Disconnected);
    }
    assert!(lab.ports.streams.is_empty());
    lab.ports.connect(PORT, "[::1]:9".parse().unwrap(), None, Speech::Frames);
    assert_eq!(lab.next().await.1, Arrived::Disconnected);
}

#[tokio::test]
async fn a_question_waits_for_its_connection_and_a_strange_answer_ends_it() {
    let reflector = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut lab = Lab::new();
    let to = reflector.local_addr().unwrap();
    lab.ports.connect(PORT, to, None, Speech::Stun);
    lab.ports.send(PORT, to, b"a question").unwrap();
    let (mut server, from) = reflector.accept().unwrap();
    assert_eq!(from.port(), lab.address().port(), "from the port that punches");
    assert_eq!(lab.next().await.1, Arrived::Connected);
    let mut asked = [0; 10];
    server.read_exact(&mut asked).unwrap();
    assert_eq!(&asked, b"a question");
    server.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    assert_eq!(lab.next().await.1, Arrived::Disconnected);
}

#[tokio::test]
async fn a_frame_of_no_or_too_many_bytes_ends_the_connection() {
    for length in [0, DATAGRAM_ROOM as u16 + 1, u16::MAX] {
        let mut lab = Lab::new();
        let mut stranger = TcpStream::connect(lab.address()).unwrap();
        assert_eq!(lab.next().await.1, Arrived::Connected);
        stranger.write_all(&length.to_be_bytes()).unwrap();
        assert_eq!(lab.next().await.1, Arrived::Disconnected);
        assert!(lab.ports.streams.is_empty());
        stranger.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert!(matches!(stranger.read(&mut [0; 8]), Ok(0) | Err(_)), "closed");
    }
}

#[tokio::test]
async fn a_flood_of_connections_is_cut_to_a_few() {
    let mut lab = Lab::new();
    let to = lab.address();
    let flood = std::thread::spawn(move || {
        let connect = |_| TcpStream::connect_timeout(&to, Duration::from_millis(200));
        (0..100).filter_map(|n| connect(n).ok()).collect::<Vec<_>>()
    });
    let mut connected = 0;
    while let Ok((_, what)) = tokio::time::timeout(Duration::from_millis(700), lab.next()).await {
        connected += usize::from(what == Arrived::Connected);
    }
    assert!((1..=MAX_OF_PORT).contains(&connected), "{connected}");
    assert!(lab.ports.streams.len() <= MAX_OF_PORT);
    drop(flood.join().unwrap());
    lab.ports.close(PORT);
    assert!(lab.ports.streams.is_empty() && lab.ports.listeners.is_empty() && lab.ports.tokens.is_empty());
}

#[tokio::test]
async fn whoever_does_not_read_loses_datagrams_and_costs_no_memory() {
    let mut lab = Lab::new();
    let mut slow = TcpStream::connect(lab.address()).unwrap();
    assert_eq!(lab.next().await.1, Arrived::Connected);
    let (to, datagram) = (slow.local_addr().unwrap(), [7; 1_400]);
    let mut taken = 0;
    let mut refused = 0;
    for _ in 0..50_000 {
        match lab.ports.send(PORT, to, &datagram) {
            Ok(()) => taken += 1,
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                refused += 1;
            }
        }
    }
    // 70 MB were offered; the kernel took what its buffers hold, and the process less than two datagrams.
    assert!(refused > 25_000 && taken > 50, "{taken} taken, {refused} refused");

    // What was taken arrives whole, also what was half written.
    slow.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut received = 0;
    let mut frame = [0; 1_402];
    loop {
        // Writable again: the rest of a frame goes out.
        let _ = tokio::time::timeout(Duration::from_millis(1), lab.next()).await;
        if slow.read_exact(&mut frame).is_err() {
            break;
        }
        assert_eq!((&frame[..2], frame[1_401]), (&1_400_u16.to_be_bytes()[..], 7));
        received += 1;
    }
    assert_eq!(received, taken);
}

#[tokio::test]
async fn a_port_that_is_kept_has_one_connection_and_takes_no_other() {
    let mut lab = Lab::new();
    let to = lab.address();
    let [kept, other] = [(), ()].map(|()| TcpStream::connect(to).unwrap());
    for _ in 0..2 {
        assert_eq!(lab.next().await.1, Arrived::Connected);
    }
    lab.ports.keep(PORT, kept.local_addr().unwrap());
    assert_eq!((lab.ports.streams.len(), lab.ports.listeners.len()), (1, 0));
    other.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert!(matches!((&other).read(&mut [0; 8]), Ok(0) | Err(_)), "closed");
    assert!(TcpStream::connect_timeout(&to, Duration::from_secs(1)).is_err(), "nobody listens");
    lab.ports.send(PORT, kept.local_addr().unwrap(), b"hello").unwrap();
    let mut frame = [0; 7];
    (&kept).read_exact(&mut frame).unwrap();
    assert_eq!(&frame, b"\0\x05hello");
}

#[tokio::test]
async fn ports_are_bounded_and_a_closed_one_makes_room() {
    let mut lab = Lab::new();
    let opened = (2..u16::MAX).take_while(|id| lab.ports.open(SocketId(0x8000 + id)).is_ok()).count();
    assert!(opened < MAX_PORTS, "{opened}");
    lab.ports.close(PORT);
    lab.ports.open(SocketId(0xffff)).unwrap();
}

struct Lab {
    ports: Ports,
}

impl Lab {
    fn new() -> Self {
        let mut ports = Ports::new().unwrap();
        ports.open(PORT).unwrap();
        Self { ports }
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports.ports[&PORT].number))
    }

    async fn next(&mut self) -> (Vec<u8>, Arrived) {
        let mut datagram = [0; DATAGRAM_ROOM];
        let next = std::future::poll_fn(|context| match self.ports.poll(context, &mut datagram) {
            Some(arrival) => Poll::Ready(arrival),
            None => Poll::Pending,
        });
        let arrival = next.await;
        (datagram[..arrival.size].to_vec(), arrival.what)
    }
}
