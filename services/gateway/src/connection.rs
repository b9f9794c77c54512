//! What one connection may do when. Pure: bytes in, steps out, bytes out.
//!
//! A connection goes through three phases: the secure channel opens, the client proves its identity, the session runs. In
//! the second phase exactly one frame is understood, a login whose signature covers the hash of this connection's handshake:
//! one that was recorded or relayed from another connection fails here, before anything was asked of anybody.

use std::time::{Duration, Instant};

use wire::{
    Code,
    control::{ClientFrame, FrameError, LOGIN_CONTEXT, Login, OLDEST_VERSION, ServerFrame},
    secure::{Channel, Event, SecureError, ServerSecret},
};

/// The window in which requests are counted.
const WINDOW: Duration = Duration::from_secs(10);

/// What follows from the bytes so far.
#[derive(Debug)]
pub(crate) enum Step {
    /// The secure channel is open: the answer is on its way, the login is awaited.
    Opened,
    /// The client proved who it is.
    Login(Box<Login>),
    /// Something the client says in its session.
    Frame(ClientFrame),
}

/// Why the connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum End {
    #[error("not a client")]
    Foreign,
    #[error("refused: {0}")]
    Refused(Code),
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    channel: Channel,
    phase: Phase,
    requests: u32,
    most_requests: u32,
    window: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Opening,
    LoggingIn,
    Session,
}

impl Connection {
    /// A connection that was just accepted, with at most `most_requests` in ten seconds.
    pub(crate) fn new(now: Instant, secret: ServerSecret, most_requests: u32) -> Self {
        Self { channel: Channel::server(secret), phase: Phase::Opening, requests: 0, most_requests, window: now }
    }

    /// Takes bytes of the stream. To be called again only after [`Self::poll_step`] gave `None`.
    pub(crate) fn handle_bytes(&mut self, bytes: &[u8]) {
        self.channel.handle_bytes(bytes);
    }

    /// What follows from them.
    pub(crate) fn poll_step(&mut self, now: Instant) -> Result<Option<Step>, End> {
        loop {
            let Some(event) = self.channel.poll_event().map_err(|error| self.broken(error))? else { return Ok(None) };
            match event {
                Event::Opened(_) => {
                    self.phase = Phase::LoggingIn;
                    return Ok(Some(Step::Opened));
                }
                Event::Frame(bytes) => match ClientFrame::decode(&bytes) {
                    Ok(frame) => return self.understand(now, frame).map(Some),
                    // A newer client may say what this server does not know; never before its login.
                    Err(FrameError::Unknown) if self.phase == Phase::Session => {}
                    Err(FrameError::TooLarge { .. }) => return Err(End::Refused(Code::TooLarge)),
                    Err(FrameError::Unknown | FrameError::Malformed(_) | FrameError::Trailing { .. }) => {
                        return Err(End::Refused(Code::Malformed));
                    }
                },
            }
        }
    }

    fn understand(&mut self, now: Instant, frame: ClientFrame) -> Result<Step, End> {
        match (self.phase, frame) {
            (Phase::LoggingIn, ClientFrame::Login(login)) => {
                self.verify(&login)?;
                self.phase = Phase::Session;
                Ok(Step::Login(login))
            }
            (Phase::Opening | Phase::LoggingIn, _) | (Phase::Session, ClientFrame::Login(_)) => {
                Err(End::Refused(Code::Malformed))
            }
            (Phase::Session, frame) => {
                self.count(now)?;
                Ok(Step::Frame(frame))
            }
        }
    }

    fn verify(&self, login: &Login) -> Result<(), End> {
        if login.version < OLDEST_VERSION {
            return Err(End::Refused(Code::Unsupported));
        }
        let hash = self.channel.handshake_hash().ok_or(End::Foreign)?;
        let signed = [LOGIN_CONTEXT, hash].concat();
        let valid = login.identity.verify(&signed, &login.signature).is_ok()
            && login.identity.verify_tunnel_key(&login.tunnel, &login.tunnel_signature).is_ok();
        if valid { Ok(()) } else { Err(End::Refused(Code::SignatureInvalid)) }
    }

    fn count(&mut self, now: Instant) -> Result<(), End> {
        if now.saturating_duration_since(self.window) >= WINDOW {
            (self.window, self.requests) = (now, 0);
        }
        self.requests += 1;
        if self.requests > self.most_requests { Err(End::Refused(Code::RateLimited)) } else { Ok(()) }
    }

    fn broken(&self, error: SecureError) -> End {
        match error {
            SecureError::RecordSize { .. } | SecureError::FrameSize { .. } => End::Refused(Code::TooLarge),
            SecureError::Foreign
            | SecureError::Version
            | SecureError::KeyMismatch
            | SecureError::Rejected { .. }
            | SecureError::Forged
            | SecureError::NotOpen => End::Foreign,
        }
    }

    /// Seals a frame for the client. Before the channel is open there is nobody to tell: then nothing happens.
    pub(crate) fn send(&mut self, frame: &ServerFrame) {
        if let Err(error) = self.channel.send(&frame.encode()) {
            tracing::debug!(%error, "a frame was not sent");
        }
    }

    /// Bytes for the stream.
    pub(crate) fn outgoing(&self) -> &[u8] {
        self.channel.outgoing()
    }

    /// Takes note that these bytes are on their way.
    pub(crate) fn sent(&mut self, count: usize) {
        self.channel.sent(count);
    }
}
