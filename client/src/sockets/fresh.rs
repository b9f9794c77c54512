//! Fresh sockets, hundreds of them at times: only those that have something are looked at.
//!
//! They are watched by an epoll instance of their own, and the runtime watches that one. So a socket that is idle costs
//! nothing in a turn, where asking each of 256 would cost more than all the rest of it.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::OwnedFd,
    task::{Context, Poll},
};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use rand::Rng as _;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::unix::AsyncFd;

use super::{Arrival, Arrived, SocketId};
use crate::readiness::readable;

/// The sockets beside the main one.
#[derive(Debug)]
pub(super) struct Fresh {
    epoll: Epoll,
    /// A second descriptor of `epoll`, for the runtime.
    watch: AsyncFd<OwnedFd>,
    sockets: BTreeMap<SocketId, UdpSocket>,
    /// Those that presumably have a datagram.
    ready: VecDeque<SocketId>,
    /// The ports that the operating system gives to those who ask for none.
    ports: (u16, u16),
}

impl Fresh {
    /// None yet.
    ///
    /// # Errors
    /// When the operating system has no descriptor left.
    pub(super) fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let watch = readable(epoll.0.try_clone()?)?;
        Ok(Self { epoll, watch, sockets: BTreeMap::new(), ready: VecDeque::new(), ports: ephemeral_ports() })
    }

    /// Opens a socket for IPv4, at an even port if one is found soon.
    ///
    /// # Errors
    /// When the operating system gives none, or there are too many already.
    pub(super) fn open(&mut self, id: SocketId) -> io::Result<()> {
        self.close(id);
        if self.sockets.len() >= MAX_FRESH {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let socket = self.bind()?;
        self.epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, u64::from(id.0)))?;
        self.sockets.insert(id, socket);
        Ok(())
    }

    /// Closes a socket, if it is open.
    pub(super) fn close(&mut self, id: SocketId) {
        // The last descriptor of a socket takes it out of the epoll instance.
        self.sockets.remove(&id);
    }

    /// An open socket.
    pub(super) fn socket(&self, id: SocketId) -> Option<&UdpSocket> {
        self.sockets.get(&id)
    }

    /// The next datagram of any of them; the context is woken when there is one.
    pub(super) fn poll(&mut self, context: &mut Context<'_>, datagram: &mut [u8]) -> Option<Arrival> {
        loop {
            if let Some(arrival) = self.next(datagram) {
                return Some(arrival);
            }
            let Poll::Ready(Ok(mut guard)) = self.watch.poll_read_ready(context) else { return None };
            if gather(&self.epoll, &mut self.ready) == 0 {
                guard.clear_ready();
            }
        }
    }

    /// The next datagram, if there is one already.
    pub(super) fn next(&mut self, datagram: &mut [u8]) -> Option<Arrival> {
        while let Some(id) = self.ready.pop_front() {
            let Some(socket) = self.sockets.get(&id) else { continue };
            match socket.recv_from(datagram) {
                Ok((size, from)) => {
                    self.ready.push_back(id);
                    return Some(Arrival { socket: id, from, size, what: Arrived::Datagram });
                }
                // Nothing more; or an ICMP error, and epoll names the socket again if there is more.
                Err(error) => tracing::trace!(%error, "nothing more in a fresh socket"),
            }
        }
        None
    }

    /// An even port where the NAT keeps parity says nothing about the inner port (RFC 4787, section 4.2.2), so all
    /// sockets of a punch are alike.
    fn bind(&self) -> io::Result<UdpSocket> {
        let (low, high) = self.ports;
        for _ in 0..EVEN_TRIES {
            let port = rand::rng().random_range(low..=high) & !1;
            if let Ok(socket) = bind(port) {
                return Ok(socket);
            }
        }
        bind(0)
    }
}

/// Notes which sockets have something. Returns how many.
fn gather(epoll: &Epoll, ready: &mut VecDeque<SocketId>) -> usize {
    let mut events = [EpollEvent::empty(); AT_ONCE];
    let count = epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
    ready.extend(events[..count].iter().filter_map(|event| u16::try_from(event.data()).ok()).map(SocketId));
    count
}

fn bind(port: u16) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    // A tunnel may stay here. The kernel cuts this to its own limit.
    socket.set_recv_buffer_size(super::BUFFER)?;
    socket.set_send_buffer_size(super::BUFFER)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
    Ok(socket.into())
}

fn ephemeral_ports() -> (u16, u16) {
    let read = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok();
    let parsed = read.and_then(|text| {
        let mut words = text.split_whitespace().map(str::parse);
        Some((words.next()?.ok()?, words.next()?.ok()?))
    });
    parsed.filter(|(low, high)| *low >= 1024 && low < high).unwrap_or(DEFAULT_PORTS)
}

/// Two punches of 256 sockets, a discovery, and tunnels that stay where they were found.
pub(super) const MAX_FRESH: usize = 800;
/// Sockets that one look may find ready.
const AT_ONCE: usize = 64;
const EVEN_TRIES: usize = 8;
/// Linux' own.
const DEFAULT_PORTS: (u16, u16) = (32_768, 60_999);
