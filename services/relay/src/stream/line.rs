//! One stream in the hands of the worker that owns it: a WebSocket over TLS over TCP. Nothing here blocks.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use nix::sys::epoll::EpollFlags;
use rustls::ServerConnection;
use tokio_tungstenite::tungstenite::{
    Bytes, Error as WebError, Message, WebSocket,
    protocol::{CloseFrame, Role, WebSocketConfig},
};
use wire::stream::{FrameError, MAX_MESSAGE, StreamId};

use super::{
    Ended,
    gate::Seat,
    inlet::{Away, Outbox},
};

/// A client that takes longer to read a message is too slow.
const WRITE_PATIENCE: Duration = Duration::from_secs(15);

/// Read from TLS at once, in bytes.
const READ: usize = 4 * 1024;

/// How often the kernel is asked for more of a message, before it is another stream's turn: often enough for the largest one.
/// Fragments that never become a message would hold the worker up else.
const READS: usize = 8;

/// A stream, and what is known of its client.
#[derive(Debug)]
pub(crate) struct Line {
    web: WebSocket<Wire>,
    outbox: Arc<Outbox>,
    pub(crate) away: Away,
    /// It stands in the queue of those to be read.
    pub(crate) queued: bool,
    /// Too many of its messages wait for other workers.
    pub(crate) stalled: bool,
    /// Since when the kernel takes nothing.
    blocked: Option<Instant>,
    /// What the kernel was asked to tell of it.
    pub(crate) asked: EpollFlags,
    heard: Instant,
    idle: Duration,
    /// When a leg must have joined.
    proves: Instant,
    /// Free for another with the stream's end.
    _seat: Seat,
}

/// What a stream had to say.
#[derive(Debug)]
pub(crate) enum Said {
    /// Frames.
    Message(Bytes),
    /// Nothing that concerns the relay; there may be more.
    Aside,
    /// Nothing more for now.
    Nothing,
}

/// Why a stream is closed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Closing {
    pub(crate) reason: Ended,
    why: Option<FrameError>,
}

/// TLS over a socket that never blocks.
#[derive(Debug)]
struct Wire {
    tls: ServerConnection,
    socket: TcpStream,
    /// The kernel gave less than it was asked for: it has nothing more until it says so.
    drained: bool,
    /// What is left of [`READS`].
    reads: usize,
}

impl Line {
    /// A stream whose handshakes are done. A leg has to join within `proof`, and there must be a frame every `idle`.
    pub(crate) fn new(
        (socket, tls): (TcpStream, ServerConnection),
        outbox: Arc<Outbox>,
        seat: Seat,
        (proof, idle): (Duration, Duration),
    ) -> Self {
        let now = Instant::now();
        let wire = Wire { tls, socket, drained: false, reads: 0 };
        Self {
            web: WebSocket::from_raw_socket(wire, Role::Server, Some(limits())),
            outbox,
            away: Away::default(),
            queued: false,
            stalled: false,
            blocked: None,
            asked: EpollFlags::empty(),
            heard: now,
            idle,
            proves: now + proof,
            _seat: seat,
        }
    }

    pub(crate) const fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    pub(crate) fn id(&self) -> StreamId {
        self.outbox.id
    }

    /// The kernel has something to read.
    pub(crate) fn fill(&mut self) {
        self.web.get_mut().drained = false;
    }

    /// The kernel takes something again.
    pub(crate) const fn unblock(&mut self) {
        self.blocked = None;
    }

    /// What the kernel is to tell of it.
    pub(crate) fn wanted(&self) -> EpollFlags {
        let mut wanted = EpollFlags::empty();
        wanted.set(EpollFlags::EPOLLIN, !self.stalled);
        wanted.set(EpollFlags::EPOLLOUT, self.blocked.is_some());
        wanted
    }

    /// The next that the client says.
    pub(crate) fn read(&mut self, now: Instant) -> Result<Said, Closing> {
        self.web.get_mut().reads = READS;
        match self.web.read() {
            Ok(Message::Binary(message)) => {
                self.heard = now;
                Ok(Said::Message(message))
            }
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => Ok(Said::Aside),
            Ok(Message::Text(_)) => Err(FrameError::Text.into()),
            Ok(Message::Close(_)) | Err(WebError::ConnectionClosed | WebError::AlreadyClosed) => {
                Err(Ended::Left.into())
            }
            Err(error) if is_full(&error) && self.web.get_ref().reads == 0 => Ok(Said::Aside),
            Err(error) if is_full(&error) => Ok(Said::Nothing),
            Err(WebError::Capacity(_)) => Err(FrameError::TooLarge.into()),
            Err(_) => Err(Ended::Failed.into()),
        }
    }

    /// Writes what waits, as far as the kernel takes it: all that waits for it becomes one record, and one system call.
    pub(crate) fn write(&mut self, now: Instant) -> Result<(), Closing> {
        while self.blocked.is_none() {
            match self.web.flush() {
                Ok(()) => {}
                Err(error) if is_full(&error) => {
                    self.blocked = Some(now);
                    break;
                }
                Err(_) => return Err(Ended::Failed.into()),
            }
            let Some(message) = self.outbox.take() else { break };
            match self.web.write(Message::Binary(message.into())) {
                Ok(()) => {}
                // Kept, and flushed next.
                Err(error) if is_full(&error) => {}
                Err(_) => return Err(Ended::Failed.into()),
            }
        }
        Ok(())
    }

    /// Why it has to end now, if it has to.
    pub(crate) fn overdue(&self, now: Instant) -> Option<Ended> {
        if self.heard + self.idle <= now {
            Some(Ended::Idle)
        } else if !self.outbox.is_proved() && self.proves <= now {
            Some(Ended::Unproved)
        } else {
            self.blocked.is_some_and(|since| since + WRITE_PATIENCE <= now).then_some(Ended::Slow)
        }
    }

    /// When to ask that again.
    pub(crate) fn due(&self, now: Instant) -> Instant {
        let due = (self.heard + self.idle).min(now + WRITE_PATIENCE);
        if self.outbox.is_proved() { due } else { due.min(self.proves) }
    }

    /// Says why, to those who listen.
    pub(crate) fn end(mut self, closing: Closing) {
        let frame = CloseFrame { code: closing.code().into(), reason: closing.reason().into() };
        // The client may be gone already, or not read.
        let _ = self.web.close(Some(frame));
        let wire = self.web.get_mut();
        wire.tls.send_close_notify();
        let _ = wire.flush();
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.web.get_ref().socket.as_fd()
    }
}

impl Closing {
    pub(crate) const fn code(self) -> u16 {
        match (self.reason, self.why) {
            (_, Some(why)) => why.close_code(),
            (Ended::Full | Ended::SourceFull, None) => TRY_AGAIN_LATER,
            (Ended::Unproved | Ended::Idle | Ended::Slow, None) => POLICY,
            (_, None) => GOING_AWAY,
        }
    }

    pub(crate) fn reason(self) -> String {
        self.why.map_or_else(|| self.reason.name().to_owned(), |why| why.to_string())
    }
}

impl From<Ended> for Closing {
    fn from(reason: Ended) -> Self {
        Self { reason, why: None }
    }
}

impl From<FrameError> for Closing {
    fn from(why: FrameError) -> Self {
        Self { reason: Ended::Malformed, why: Some(why) }
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            if self.drained || self.reads == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.reads -= 1;
            self.tls.read_tls(&mut Draining { socket: &self.socket, drained: &mut self.drained })?;
            self.tls.process_new_packets().map_err(io::Error::other)?;
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // One message at a time waits here, whatever the client reads.
        self.flush()?;
        self.tls.writer().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.socket)?;
        }
        Ok(())
    }
}

/// Reads, and notices when that took all there was: it spares the system call that would say so.
struct Draining<'a> {
    socket: &'a TcpStream,
    drained: &'a mut bool,
}

impl Read for Draining<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.socket.read(buffer)?;
        *self.drained = count < buffer.len();
        Ok(count)
    }
}

/// Whether the kernel has nothing or takes nothing now.
fn is_full(error: &WebError) -> bool {
    matches!(error, WebError::Io(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// What a WebSocket keeps.
pub(crate) fn limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ)
        .write_buffer_size(0)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
}

// RFC 6455, section 7.4.1, and the registry that it opened.
const GOING_AWAY: u16 = 1001;
const POLICY: u16 = 1008;
const TRY_AGAIN_LATER: u16 = 1013;
