//! One connection: datagrams in, datagrams out.
//!
//! Between clients each datagram follows its length, two bytes, big endian (as in RFC 4571); a reflector is spoken to in
//! STUN messages, which have their length inside (RFC 8489, section 6.2.2).

use std::{
    io::{self, Read as _, Write as _},
    net::SocketAddr,
    time::Duration,
};

use nix::sys::epoll::{EpollEvent, EpollFlags};
use socket2::Socket;

use super::super::{DATAGRAM_ROOM, DEFAULT_HOPS, SocketId};

/// How the bytes of a connection are cut into datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speech {
    /// With a peer.
    Frames,
    /// With a reflector.
    Stun,
}

#[derive(Debug)]
pub(super) struct Stream {
    id: SocketId,
    peer: SocketAddr,
    socket: Socket,
    speech: Speech,
    open: bool,
    /// The rest of a datagram that was begun, or what waits for the connection.
    outbox: Vec<u8>,
    inbox: Vec<u8>,
    /// Of the inbox, what was delivered already.
    taken: usize,
}

/// What a connection has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    Nothing,
    Connected,
    Datagram(usize),
    /// It ended, failed, or carries something else than datagrams.
    Over,
}

impl Stream {
    pub(super) const fn connecting(id: SocketId, peer: SocketAddr, socket: Socket, speech: Speech) -> Self {
        Self { id, peer, socket, speech, open: false, outbox: Vec::new(), inbox: Vec::new(), taken: 0 }
    }

    pub(super) fn accepted(id: SocketId, peer: SocketAddr, socket: Socket) -> Self {
        Self { open: true, ..Self::connecting(id, peer, socket, Speech::Frames) }
    }

    pub(super) const fn name(&self) -> (SocketId, SocketAddr) {
        (self.id, self.peer)
    }

    pub(super) const fn socket(&self) -> &Socket {
        &self.socket
    }

    pub(super) const fn is_open(&self) -> bool {
        self.open
    }

    pub(super) const fn wants_to_write(&self) -> bool {
        !self.open || !self.outbox.is_empty()
    }

    pub(super) fn interest(&self, token: u64) -> EpollEvent {
        let write = if self.wants_to_write() { EpollFlags::EPOLLOUT } else { EpollFlags::empty() };
        EpollEvent::new(EpollFlags::EPOLLIN | write, token)
    }

    /// Sends a datagram whole, or not at all.
    pub(super) fn send(&mut self, datagram: &[u8]) -> io::Result<()> {
        let length = u16::try_from(datagram.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        if length == 0 || datagram.len() > DATAGRAM_ROOM {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if self.open && !self.outbox.is_empty() || self.outbox.len() + datagram.len() > MAX_WAITING {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if self.speech == Speech::Frames {
            self.outbox.extend(length.to_be_bytes());
        }
        self.outbox.extend(datagram);
        if self.open { self.write_new() } else { Ok(()) }
    }

    /// Goes on with what can be done without waiting; one datagram at a time.
    pub(super) fn proceed(&mut self, datagram: &mut [u8]) -> Read {
        if !self.open {
            return self.finish_connecting();
        }
        if self.write().is_err() {
            return Read::Over;
        }
        loop {
            match self.next(datagram) {
                Read::Nothing => {}
                other @ (Read::Connected | Read::Datagram(_) | Read::Over) => return other,
            }
            self.inbox.drain(..self.taken);
            self.taken = 0;
            let filled = self.inbox.len();
            self.inbox.resize(INBOX, 0);
            let read = self.socket.read(&mut self.inbox[filled..]);
            self.inbox.truncate(filled + read.as_ref().map_or(0, |read| *read));
            match read {
                Ok(0) => return Read::Over,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Read::Nothing,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::trace!(%error, "a connection ended");
                    return Read::Over;
                }
            }
        }
    }

    fn finish_connecting(&mut self) -> Read {
        match (self.socket.take_error(), self.socket.peer_addr()) {
            (Ok(None), Ok(_)) => {}
            (Ok(None), Err(error)) if error.kind() == io::ErrorKind::NotConnected => return Read::Nothing,
            (Ok(_) | Err(_), _) => return Read::Over,
        }
        self.open = true;
        // An opener that got through.
        let ready = self.socket.set_ttl_v4(DEFAULT_HOPS).and_then(|()| self.write());
        if ready.is_ok() { Read::Connected } else { Read::Over }
    }

    /// The next datagram of those in the inbox.
    fn next(&mut self, datagram: &mut [u8]) -> Read {
        let received = &self.inbox[self.taken..];
        let (start, end) = match self.speech {
            Speech::Frames => match received.first_chunk() {
                Some(length) => (2, 2 + usize::from(u16::from_be_bytes(*length))),
                None => return Read::Nothing,
            },
            Speech::Stun => match wire::probe::framed(received) {
                Ok(Some(length)) => (0, length),
                Ok(None) => return Read::Nothing,
                Err(_) => return Read::Over,
            },
        };
        let size = end - start;
        if size == 0 || size > datagram.len().min(DATAGRAM_ROOM) {
            return Read::Over;
        }
        let Some(bytes) = received.get(start..end) else { return Read::Nothing };
        datagram[..size].copy_from_slice(bytes);
        self.taken += end;
        Read::Datagram(size)
    }

    /// Writes a datagram of which nothing was written: if nothing can be, it is lost, so that the next one is not late.
    fn write_new(&mut self) -> io::Result<()> {
        let whole = self.outbox.len();
        self.write()?;
        if self.outbox.len() == whole {
            self.outbox.clear();
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        while !self.outbox.is_empty() {
            match self.socket.write(&self.outbox) {
                Ok(written) => drop(self.outbox.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// No waiting for more to send, little that waits in the kernel, and an end when nothing gets through any more.
pub(super) fn tune(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(UNSENT)?;
    socket.set_tcp_user_timeout(Some(DEAD))
}

/// What was written and is not on its way yet: 40 ms at 25 Mbit/s.
const UNSENT: u32 = 128 * 1024;
/// The path doubts itself after 4.5 s and is left after 7.5 s.
const DEAD: Duration = Duration::from_secs(15);
/// Of a connection that is being made, or of a datagram that is half written.
const MAX_WAITING: usize = 2 * DATAGRAM_ROOM;
const INBOX: usize = 8 * DATAGRAM_ROOM;
