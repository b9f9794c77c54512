//! The sockets: the main one that carries tunnels, fresh ones for measurements and punches, and TCP ports for both.
//!
//! All of them belong to one task, so that the hop limit of a socket can be set for one datagram and set back.

mod fresh;
mod tcp;

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    task::{Context, Poll},
};

use fresh::Fresh;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tcp::Ports;
pub use tcp::Speech;
use tokio::{io::ReadBuf, net::UdpSocket};

/// Names one socket. The main one is two, one a family, with the same port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SocketId(pub u16);

impl SocketId {
    /// Carries tunnels; lives as long as the daemon.
    pub const MAIN: Self = Self(0);
    /// Speaks to one reflector only: the filter test.
    pub const SPARE: Self = Self(1);
    /// The TCP port that asks reflectors how connections are mapped.
    pub const TCP_TEST: Self = Self(0x300);
    /// The first of those that punch. Such a socket may carry a tunnel afterwards.
    pub const FIRST_PUNCHING: Self = Self(0x400);
    /// The first TCP port of those.
    pub const FIRST_TCP: Self = Self(0x8000);

    /// One of those that show in a burst how ports are given out.
    #[must_use]
    pub const fn burst(place: u8) -> Self {
        Self(0x100 + place as u16)
    }

    /// One of those that are silent for a while, to see how long a mapping lives.
    #[must_use]
    pub const fn lifetime(place: u8) -> Self {
        Self(0x200 + place as u16)
    }

    /// Whether this one was opened for a punch.
    #[must_use]
    pub const fn is_punching(self) -> bool {
        self.0 >= Self::FIRST_PUNCHING.0
    }

    /// Whether this is a TCP port with its connections.
    #[must_use]
    pub const fn is_tcp(self) -> bool {
        self.0 >= Self::FIRST_TCP.0 || self.0 == Self::TCP_TEST.0
    }
}

/// All sockets of a client.
#[derive(Debug)]
pub struct Sockets {
    main: UdpSocket,
    /// `None` on a host without IPv6.
    main6: Option<UdpSocket>,
    fresh: Fresh,
    ports: Ports,
    /// Alternates, so that a busy main socket does not starve the others.
    fresh_first: bool,
}

/// Something that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    pub socket: SocketId,
    pub from: SocketAddr,
    /// Of a datagram.
    pub size: usize,
    pub what: Arrived,
}

/// What came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrived {
    Datagram,
    /// There is a connection between this TCP port and the other end, whoever made it.
    Connected,
    /// It ended, or could not be made.
    Disconnected,
}

/// What is to be done with a connection of a TCP port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Make it, in place of a try that has not succeeded. `ttl` limits its hops.
    Connect { ttl: Option<u8>, speech: Speech },
    /// End it.
    Disconnect,
    /// End all others of the port, and let nobody in any more.
    Keep,
}

impl Sockets {
    /// Binds the main socket to `port`, or to any port when that one is taken.
    ///
    /// # Errors
    /// When no UDP socket can be had at all.
    pub fn bind(port: u16) -> io::Result<Self> {
        let main = open(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
            .or_else(|_| open(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))))?;
        let port = main.local_addr()?.port();
        let main6 = open(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).ok();
        Ok(Self { main, main6, fresh: Fresh::new()?, ports: Ports::new()?, fresh_first: false })
    }

    /// Binds the main socket anew, to the same port: the network changed under it.
    ///
    /// # Errors
    /// When that fails; the old socket stays.
    pub fn rebind(&mut self) -> io::Result<()> {
        let port = self.port();
        let nowhere = open(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        drop(std::mem::replace(&mut self.main, nowhere));
        self.main6 = None;
        let bound = Self::bind(port)?;
        self.main = bound.main;
        self.main6 = bound.main6;
        Ok(())
    }

    /// The port of the main socket.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.main.local_addr().map_or(0, |address| address.port())
    }

    /// Opens a fresh socket for IPv4, or takes a TCP port.
    ///
    /// # Errors
    /// When the operating system gives none, or there are too many already.
    pub fn open(&mut self, socket: SocketId) -> io::Result<()> {
        if socket.is_tcp() { self.ports.open(socket) } else { self.fresh.open(socket) }
    }

    /// Closes a fresh socket, or a TCP port with its connections.
    pub fn close(&mut self, socket: SocketId) {
        if socket.is_tcp() {
            self.ports.close(socket);
        } else {
            self.fresh.close(socket);
        }
    }

    /// Does something about the connection between a TCP port and `peer`.
    pub fn call(&mut self, port: SocketId, peer: SocketAddr, call: Call) {
        match call {
            Call::Connect { ttl, speech } => self.ports.connect(port, peer, ttl, speech),
            Call::Disconnect => self.ports.disconnect(port, peer),
            Call::Keep => self.ports.keep(port, peer),
        }
    }

    /// Sends a datagram; it is lost when it cannot be sent now, as on any link. `ttl` limits its hops.
    ///
    /// # Errors
    /// When the operating system refuses: no route, for instance.
    pub fn send(&mut self, socket: SocketId, to: SocketAddr, ttl: Option<u8>, datagram: &[u8]) -> io::Result<()> {
        if socket.is_tcp() {
            return self.ports.send(socket, to, datagram);
        }
        // Not through tokio, which would want to know first that the socket is writable.
        let socket = match (socket, to) {
            (SocketId::MAIN, SocketAddr::V4(_)) => SockRef::from(&self.main),
            (SocketId::MAIN, SocketAddr::V6(_)) => {
                SockRef::from(self.main6.as_ref().ok_or(io::ErrorKind::Unsupported)?)
            }
            (fresh, _) => SockRef::from(self.fresh.socket(fresh).ok_or(io::ErrorKind::NotFound)?),
        };
        let send = || socket.send_to(datagram, &to.into()).map(drop);
        let Some(ttl) = ttl else { return send() };
        let limit = |hops: u32| match to {
            SocketAddr::V4(_) => socket.set_ttl_v4(hops),
            SocketAddr::V6(_) => socket.set_unicast_hops_v6(hops),
        };
        limit(ttl.into())?;
        let sent = send();
        limit(DEFAULT_HOPS)?;
        sent
    }

    /// Waits for a datagram on any of the sockets. Cancel safe.
    pub async fn receive(&mut self, datagram: &mut [u8]) -> Arrival {
        std::future::poll_fn(|context| self.poll(context, datagram)).await
    }

    /// Another datagram, if there is one already.
    pub fn try_receive(&mut self, datagram: &mut [u8]) -> Option<Arrival> {
        self.fresh_first = !self.fresh_first;
        if self.fresh_first {
            let others = self.fresh.next(datagram).or_else(|| self.ports.next(datagram));
            others.or_else(|| self.try_receive_main(datagram))
        } else {
            let main = self.try_receive_main(datagram).or_else(|| self.ports.next(datagram));
            main.or_else(|| self.fresh.next(datagram))
        }
    }

    fn try_receive_main(&self, datagram: &mut [u8]) -> Option<Arrival> {
        self.main().find_map(|socket| {
            let (size, from) = socket.try_recv_from(datagram).ok()?;
            Some(Arrival { socket: SocketId::MAIN, from, size, what: Arrived::Datagram })
        })
    }

    fn poll(&mut self, context: &mut Context<'_>, datagram: &mut [u8]) -> Poll<Arrival> {
        self.fresh_first = !self.fresh_first;
        for fresh in [self.fresh_first, !self.fresh_first] {
            let arrival = if fresh {
                self.fresh.poll(context, datagram).or_else(|| self.ports.poll(context, datagram))
            } else {
                self.main().find_map(|socket| poll_one(context, socket, datagram))
            };
            if let Some(arrival) = arrival {
                return Poll::Ready(arrival);
            }
        }
        Poll::Pending
    }

    fn main(&self) -> impl Iterator<Item = &UdpSocket> {
        [Some(&self.main), self.main6.as_ref()].into_iter().flatten()
    }
}

fn poll_one(context: &mut Context<'_>, socket: &UdpSocket, datagram: &mut [u8]) -> Option<Arrival> {
    loop {
        let mut buffer = ReadBuf::new(datagram);
        match socket.poll_recv_from(context, &mut buffer) {
            Poll::Ready(Ok(from)) => {
                let size = buffer.filled().len();
                return Some(Arrival { socket: SocketId::MAIN, from, size, what: Arrived::Datagram });
            }
            // An ICMP error of an earlier datagram: the socket is fine.
            Poll::Ready(Err(error)) => tracing::trace!(%error, "a datagram came back"),
            Poll::Pending => return None,
        }
    }
}

fn open(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // The kernel cuts this to its own limit.
    socket.set_recv_buffer_size(BUFFER)?;
    socket.set_send_buffer_size(BUFFER)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

/// Largest datagram that is read; a tunnel's are below 1,400 bytes.
pub const DATAGRAM_ROOM: usize = 2048;
const DEFAULT_HOPS: u32 = 64;
const BUFFER: usize = 1 << 21;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_main_socket_keeps_its_port_over_a_rebind() {
        let mut sockets = Sockets::bind(0).unwrap();
        let port = sockets.port();
        sockets.rebind().unwrap();
        assert_eq!(sockets.port(), port);

        let mut second = Sockets::bind(port).unwrap();
        assert_ne!(second.port(), port);
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, second.port()));
        sockets.send(SocketId::MAIN, to, Some(3), b"hello").unwrap();
        let mut datagram = [0; 16];
        let arrival = second.receive(&mut datagram).await;
        assert_eq!(
            (arrival.socket, arrival.from.port(), &datagram[..arrival.size]),
            (SocketId::MAIN, port, &b"hello"[..])
        );
    }

    #[tokio::test]
    async fn a_fresh_socket_has_a_port_of_its_own() {
        let mut sockets = Sockets::bind(0).unwrap();
        let mut other = Sockets::bind(0).unwrap();
        sockets.open(SocketId(1)).unwrap();
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, other.port()));
        sockets.send(SocketId(1), to, None, b"x").unwrap();
        let mut datagram = [0; 16];
        let arrival = other.receive(&mut datagram).await;
        assert_ne!(arrival.from.port(), sockets.port());
        sockets.close(SocketId(1));
        assert!(sockets.send(SocketId(1), to, None, b"x").is_err());
    }

    #[tokio::test]
    async fn every_one_of_hundreds_of_fresh_sockets_is_heard() {
        let mut sockets = Sockets::bind(0).unwrap();
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let ids: Vec<SocketId> = (0..288).map(|place| SocketId(SocketId::FIRST_PUNCHING.0 + place)).collect();
        let mut even = 0;
        for &id in &ids {
            sockets.open(id).unwrap();
            let port = sockets.fresh.socket(id).unwrap().local_addr().unwrap().port();
            even += usize::from(port.is_multiple_of(2));
            for _ in 0..2 {
                sender.send_to(&id.0.to_be_bytes(), (Ipv4Addr::LOCALHOST, port)).unwrap();
            }
        }
        assert!(even >= 280, "{even}");
        let mut datagram = [0; 16];
        let mut heard = std::collections::BTreeMap::new();
        for _ in 0..2 * ids.len() {
            let arrival = sockets.receive(&mut datagram).await;
            assert_eq!(datagram[..arrival.size], arrival.socket.0.to_be_bytes());
            *heard.entry(arrival.socket).or_insert(0) += 1;
        }
        assert!(ids.iter().all(|id| heard.get(id) == Some(&2)));
        assert_eq!(sockets.try_receive(&mut datagram), None);
    }

    #[tokio::test]
    async fn sockets_are_bounded_and_a_closed_one_makes_room() {
        let mut sockets = Sockets::bind(0).unwrap();
        let first = SocketId::FIRST_PUNCHING.0;
        let opened = (first..SocketId::FIRST_TCP.0).take_while(|id| sockets.open(SocketId(*id)).is_ok()).count();
        assert!(opened <= fresh::MAX_FRESH);
        sockets.close(SocketId(first));
        assert!(sockets.open(SocketId(9_999)).is_ok());
    }

    #[tokio::test]
    async fn a_busy_main_socket_does_not_starve_a_fresh_one() {
        let mut sockets = Sockets::bind(0).unwrap();
        sockets.open(SocketId(7)).unwrap();
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let fresh = sockets.fresh.socket(SocketId(7)).unwrap().local_addr().unwrap().port();
        for _ in 0..100 {
            sender.send_to(b"main", (Ipv4Addr::LOCALHOST, sockets.port())).unwrap();
        }
        sender.send_to(b"fresh", (Ipv4Addr::LOCALHOST, fresh)).unwrap();
        let mut datagram = [0; 16];
        let mut before = 0;
        while sockets.receive(&mut datagram).await.socket != SocketId(7) {
            before += 1;
        }
        assert!(before <= 2, "{before}");
    }

    #[tokio::test]
    #[ignore = "a measurement: run it alone, in release"]
    async fn idle_sockets_cost_nothing() {
        for count in [0, 288, 768] {
            let mut sockets = Sockets::bind(0).unwrap();
            let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            for id in 0..count {
                sockets.open(SocketId(SocketId::FIRST_PUNCHING.0 + id)).unwrap();
            }
            let to = (Ipv4Addr::LOCALHOST, sockets.port());
            let mut datagram = [0; 16];
            let cpu = || nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap();
            let before = cpu();
            for _ in 0..20_000 {
                sender.send_to(b"x", to).unwrap();
                sockets.receive(&mut datagram).await;
                tokio::task::yield_now().await;
            }
            let spent = std::time::Duration::from(cpu() - before) / 20_000;
            eprintln!("{count} idle sockets: {spent:?} of CPU for each datagram sent and received");
        }
    }
}
