//! The UDP sockets: the main one that carries tunnels, and fresh ones for measurements and punches.
//!
//! All of them belong to one task, so that the hop limit of a socket can be set for one datagram and set back.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    task::{Context, Poll},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{io::ReadBuf, net::UdpSocket};

/// Names one socket. The main one is two, one a family, with the same port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SocketId(pub u16);

impl SocketId {
    /// Carries tunnels; lives as long as the daemon.
    pub const MAIN: Self = Self(0);
}

/// All sockets of a client.
#[derive(Debug)]
pub struct Sockets {
    main: UdpSocket,
    /// `None` on a host without IPv6.
    main6: Option<UdpSocket>,
    fresh: BTreeMap<SocketId, UdpSocket>,
    /// Alternates, so that a busy main socket does not starve the others.
    fresh_first: bool,
}

/// One datagram that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    pub socket: SocketId,
    pub from: SocketAddr,
    pub size: usize,
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
        Ok(Self { main, main6, fresh: BTreeMap::new(), fresh_first: false })
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

    /// Opens a fresh socket for IPv4.
    ///
    /// # Errors
    /// When the operating system gives none, or there are too many already.
    pub fn open(&mut self, socket: SocketId) -> io::Result<()> {
        if self.fresh.len() >= MAX_FRESH {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        self.fresh.insert(socket, open(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))?);
        Ok(())
    }

    /// Closes a fresh socket.
    pub fn close(&mut self, socket: SocketId) {
        self.fresh.remove(&socket);
    }

    /// Sends a datagram; it is lost when it cannot be sent now, as on any link. `ttl` limits its hops.
    ///
    /// # Errors
    /// When the operating system refuses: no route, for instance.
    pub fn send(&self, socket: SocketId, to: SocketAddr, ttl: Option<u8>, datagram: &[u8]) -> io::Result<()> {
        let out = match (socket, to) {
            (SocketId::MAIN, SocketAddr::V4(_)) => &self.main,
            (SocketId::MAIN, SocketAddr::V6(_)) => self.main6.as_ref().ok_or(io::ErrorKind::Unsupported)?,
            (fresh, _) => self.fresh.get(&fresh).ok_or(io::ErrorKind::NotFound)?,
        };
        // Not through tokio, which would want to know first that the socket is writable.
        let socket = socket2::SockRef::from(out);
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
        self.main().chain(self.fresh()).find_map(|(id, socket)| {
            let (size, from) = socket.try_recv_from(datagram).ok()?;
            Some(Arrival { socket: id, from, size })
        })
    }

    fn poll(&mut self, context: &mut Context<'_>, datagram: &mut [u8]) -> Poll<Arrival> {
        self.fresh_first = !self.fresh_first;
        let order = [self.fresh_first, !self.fresh_first];
        for fresh in order {
            let arrival = if fresh {
                self.fresh().find_map(|(id, socket)| poll_one(context, id, socket, datagram))
            } else {
                self.main().find_map(|(id, socket)| poll_one(context, id, socket, datagram))
            };
            if let Some(arrival) = arrival {
                return Poll::Ready(arrival);
            }
        }
        Poll::Pending
    }

    fn main(&self) -> impl Iterator<Item = (SocketId, &UdpSocket)> {
        [Some(&self.main), self.main6.as_ref()].into_iter().flatten().map(|socket| (SocketId::MAIN, socket))
    }

    fn fresh(&self) -> impl Iterator<Item = (SocketId, &UdpSocket)> {
        self.fresh.iter().map(|(id, socket)| (*id, socket))
    }
}

fn poll_one(context: &mut Context<'_>, id: SocketId, socket: &UdpSocket, datagram: &mut [u8]) -> Option<Arrival> {
    loop {
        let mut buffer = ReadBuf::new(datagram);
        match socket.poll_recv_from(context, &mut buffer) {
            Poll::Ready(Ok(from)) => return Some(Arrival { socket: id, from, size: buffer.filled().len() }),
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
/// A hard NAT's side punches from up to 256 sockets (NAT.md, section 6).
const MAX_FRESH: usize = 288;
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
}
