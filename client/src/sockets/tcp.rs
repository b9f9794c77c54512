//! TCP ports that measure and punch. Each of their connections looks like a datagram socket from outside.
//!
//! A port is bound so that several connections may leave from it while it listens (RFC 9293, section 3.5: both sides may
//! open). An epoll instance of its own watches all of them, and the runtime watches that one, as with fresh sockets.
//!
//! All is bounded: ports, connections of a port, what waits in one. Whoever writes to a connection that is full loses the
//! datagram, as on any link: what runs inside sends it again and slows down, where a long queue would hide that from it.

mod stream;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
    task::{Context, Poll},
};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::unix::AsyncFd;

#[cfg(test)]
use super::DATAGRAM_ROOM;
use super::{Arrival, Arrived, SocketId};
use crate::readiness::readable;
pub use stream::Speech;
use stream::{Read, Stream};

/// All TCP ports and their connections.
#[derive(Debug)]
pub(super) struct Ports {
    epoll: Epoll,
    /// A second descriptor of `epoll`, for the runtime.
    watch: AsyncFd<OwnedFd>,
    ports: BTreeMap<SocketId, Port>,
    streams: BTreeMap<u64, Stream>,
    /// The connections by port and peer.
    tokens: BTreeMap<(SocketId, SocketAddr), u64>,
    /// Listening ports.
    listeners: BTreeMap<u64, SocketId>,
    next_token: u64,
    /// Tokens of what presumably has something.
    ready: VecDeque<u64>,
    /// What failed at once.
    failed: VecDeque<(SocketId, SocketAddr)>,
}

#[derive(Debug)]
struct Port {
    number: u16,
    /// Holds the number, and listens on those that punch.
    socket: Socket,
    listener: Option<u64>,
}

impl Ports {
    /// None yet.
    ///
    /// # Errors
    /// When the operating system has no descriptor left.
    pub(super) fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let watch = readable(epoll.0.try_clone()?)?;
        Ok(Self {
            epoll,
            watch,
            ports: BTreeMap::new(),
            streams: BTreeMap::new(),
            tokens: BTreeMap::new(),
            listeners: BTreeMap::new(),
            next_token: 0,
            ready: VecDeque::new(),
            failed: VecDeque::new(),
        })
    }

    /// Takes a port for `id`, and listens there if it is one that punches.
    ///
    /// # Errors
    /// When the operating system gives none, or there are too many already.
    pub(super) fn open(&mut self, id: SocketId) -> io::Result<()> {
        self.close(id);
        if self.ports.len() >= MAX_PORTS {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let socket = bound(0)?;
        let address = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::Unsupported)?;
        let mut port = Port { number: address.port(), socket, listener: None };
        if id.is_punching() {
            port.socket.listen(BACKLOG)?;
            let token = self.token();
            self.epoll.add(&port.socket, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
            self.listeners.insert(token, id);
            port.listener = Some(token);
        }
        self.ports.insert(id, port);
        Ok(())
    }

    /// Connects from a port, in place of a try to the same endpoint that has not succeeded. What becomes of it arrives.
    pub(super) fn connect(&mut self, id: SocketId, to: SocketAddr, ttl: Option<u8>, speech: Speech) {
        let known = self.tokens.get(&(id, to)).copied();
        if known.and_then(|token| self.streams.get(&token)).is_some_and(Stream::is_open) {
            return;
        }
        self.forget(id, to);
        let begun = self.begin(id, to, ttl, speech);
        if let Err(error) = begun {
            tracing::trace!(%error, "no connection could be begun");
            self.failed.push_back((id, to));
        }
    }

    /// Sends a datagram over a connection, or lets it wait for one that is being made.
    ///
    /// # Errors
    /// When there is no such connection, or it is full.
    pub(super) fn send(&mut self, id: SocketId, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        let token = *self.tokens.get(&(id, to)).ok_or(io::ErrorKind::NotConnected)?;
        let stream = self.streams.get_mut(&token).ok_or(io::ErrorKind::NotConnected)?;
        let waited = stream.wants_to_write();
        let sent = stream.send(datagram);
        if stream.wants_to_write() != waited {
            self.epoll.modify(stream.socket(), &mut stream.interest(token))?;
        }
        sent
    }

    /// Closes a port with all its connections.
    pub(super) fn close(&mut self, id: SocketId) {
        if let Some(token) = self.ports.remove(&id).and_then(|port| port.listener) {
            self.listeners.remove(&token);
        }
        for (_, token) in self.tokens.extract_if(.., |(port, _), _| *port == id) {
            self.streams.remove(&token);
        }
        self.failed.retain(|(port, _)| *port != id);
    }

    /// Closes one connection, or gives up the try.
    pub(super) fn disconnect(&mut self, id: SocketId, peer: SocketAddr) {
        self.forget(id, peer);
    }

    /// From now on the port is there for one connection only.
    pub(super) fn keep(&mut self, id: SocketId, peer: SocketAddr) {
        for (_, token) in self.tokens.extract_if(.., |(port, to), _| *port == id && *to != peer) {
            self.streams.remove(&token);
        }
        if let Some(port) = self.ports.get_mut(&id)
            && let Some(token) = port.listener.take()
        {
            self.listeners.remove(&token);
            // A socket that listened does nothing else: the connection has the port now.
            if let Ok(socket) = bound(port.number) {
                port.socket = socket;
            }
        }
    }

    /// The next thing that arrives; the context is woken when there is something.
    pub(super) fn poll(&mut self, context: &mut Context<'_>, datagram: &mut [u8]) -> Option<Arrival> {
        loop {
            if let Some(arrival) = self.next(datagram) {
                return Some(arrival);
            }
            let Poll::Ready(Ok(mut guard)) = self.watch.poll_read_ready(context) else { return None };
            let mut events = [EpollEvent::empty(); AT_ONCE];
            let count = self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
            self.ready.extend(events[..count].iter().map(EpollEvent::data));
            if count == 0 {
                guard.clear_ready();
            }
        }
    }

    /// The next thing that arrived already.
    pub(super) fn next(&mut self, datagram: &mut [u8]) -> Option<Arrival> {
        if let Some((socket, from)) = self.failed.pop_front() {
            return Some(Arrival { socket, from, size: 0, what: Arrived::Disconnected });
        }
        while let Some(token) = self.ready.pop_front() {
            if let Some(&id) = self.listeners.get(&token) {
                if let Some(arrival) = self.accept(id) {
                    self.ready.push_back(token);
                    return Some(arrival);
                }
                continue;
            }
            let Some(stream) = self.streams.get_mut(&token) else { continue };
            let (socket, from) = stream.name();
            let waited = stream.wants_to_write();
            let read = stream.proceed(datagram);
            if stream.wants_to_write() != waited
                && let Err(error) = self.epoll.modify(stream.socket(), &mut stream.interest(token))
            {
                tracing::debug!(%error, "a connection cannot be watched");
            }
            let (size, what) = match read {
                Read::Nothing => continue,
                Read::Connected => (0, Arrived::Connected),
                Read::Datagram(size) => (size, Arrived::Datagram),
                Read::Over => {
                    self.forget(socket, from);
                    return Some(Arrival { socket, from, size: 0, what: Arrived::Disconnected });
                }
            };
            self.ready.push_back(token);
            return Some(Arrival { socket, from, size, what });
        }
        None
    }

    fn begin(&mut self, id: SocketId, to: SocketAddr, ttl: Option<u8>, speech: Speech) -> io::Result<()> {
        let port = self.ports.get(&id).ok_or(io::ErrorKind::NotFound)?;
        if !to.is_ipv4() || self.connections(id) >= MAX_OF_PORT {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let socket = bound(port.number)?;
        if let Some(ttl) = ttl {
            socket.set_ttl_v4(ttl.into())?;
        }
        match socket.connect(&to.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(nix::libc::EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        self.add(Stream::connecting(id, to, socket, speech))
    }

    /// The next connection that somebody made. Those that are too many are closed.
    fn accept(&mut self, id: SocketId) -> Option<Arrival> {
        for _ in 0..AT_ONCE {
            let (socket, from) = self.ports.get(&id)?.socket.accept().ok()?;
            let from = from.as_socket()?;
            let known = self.tokens.get(&(id, from)).and_then(|token| self.streams.get(token));
            if known.is_some_and(Stream::is_open) || self.connections(id) >= MAX_OF_PORT {
                continue;
            }
            self.forget(id, from);
            let prepared = socket.set_nonblocking(true).and_then(|()| stream::tune(&socket));
            if prepared.and_then(|()| self.add(Stream::accepted(id, from, socket))).is_ok() {
                return Some(Arrival { socket: id, from, size: 0, what: Arrived::Connected });
            }
        }
        None
    }

    fn add(&mut self, stream: Stream) -> io::Result<()> {
        let token = self.token();
        self.epoll.add(stream.socket(), stream.interest(token))?;
        self.tokens.insert(stream.name(), token);
        self.streams.insert(token, stream);
        Ok(())
    }

    /// The last descriptor of a socket takes it out of the epoll instance.
    fn forget(&mut self, id: SocketId, peer: SocketAddr) {
        if let Some(token) = self.tokens.remove(&(id, peer)) {
            self.streams.remove(&token);
        }
    }

    fn connections(&self, id: SocketId) -> usize {
        self.tokens.keys().filter(|(port, _)| *port == id).count()
    }

    const fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }
}

/// A socket at `port` that shares it with others of ours.
fn bound(port: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    stream::tune(&socket)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
    Ok(socket)
}

/// Punches at once, and tunnels that stay.
pub(super) const MAX_PORTS: usize = 192;
/// Reflectors, the peer's endpoints, and strangers.
pub(super) const MAX_OF_PORT: usize = 12;
/// Connections that the kernel completes before they are taken.
const BACKLOG: i32 = 8;
/// What one look may find ready.
const AT_ONCE: usize = 64;
