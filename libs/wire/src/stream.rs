//! Relay messages over a stream, for those whom no UDP reaches: a WebSocket over TLS on TCP 443, path [`PATH`].
//!
//! Each binary message of the WebSocket holds one or more whole messages of [`crate::relay`], each behind its length:
//!
//! ```text
//! length 2 | relay message | length 2 | relay message | ...        at most 64 of them and 16 KiB
//! ```
//!
//! They mean what they mean over UDP, cookie and proof included; a stream has a name of the form of an address, so that nobody
//! who decides needs to know what it is: `100::/64` ([RFC 6666], discard only), from where no datagram comes. One stream
//! carries all pairs that a client has at the relay. What does not fit into its [`Outbox`] is lost, as on any link.
//!
//! TLS is there to pass where a browser passes. It authenticates nobody: the messages are the same that travel in the clear
//! over UDP, the ticket's proof tells the relay who the client is, and the tunnel inside trusts neither.
//!
//! [RFC 6666]: https://www.rfc-editor.org/rfc/rfc6666

use std::{
    collections::VecDeque,
    net::{Ipv6Addr, SocketAddr},
};

use crate::relay::{HEADER_SIZE, MAX_DATAGRAM};

/// What a relay's streams ask for when they become a WebSocket.
pub const PATH: &str = "/relay";

/// The largest message of the WebSocket, in bytes.
pub const MAX_MESSAGE: usize = 16 * 1024;

/// The most frames in one.
pub const MAX_FRAMES: usize = 64;

/// Names a stream among those of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// Why a message is no sequence of frames. It ends the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame is larger than {MAX_DATAGRAM} bytes, or a message larger than {MAX_MESSAGE}")]
    TooLarge,
    #[error("a frame is smaller than {HEADER_SIZE} bytes")]
    TooSmall,
    #[error("the message ends within a frame")]
    Truncated,
    #[error("a message holds more than {MAX_FRAMES} frames")]
    TooMany,
    #[error("a message of text")]
    Text,
}

/// Frames that wait until their stream can be written to.
#[derive(Debug)]
pub struct Outbox {
    messages: VecDeque<Message>,
    bytes: usize,
    most: usize,
}

#[derive(Debug, Default)]
struct Message {
    bytes: Vec<u8>,
    frames: usize,
}

impl StreamId {
    /// The stream as an address that no datagram can come from.
    #[must_use]
    pub const fn address(self) -> SocketAddr {
        SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::from_bits(PREFIX | self.0 as u128)), PORT)
    }

    /// The stream that has this address.
    #[must_use]
    pub const fn of(address: &SocketAddr) -> Option<Self> {
        match address {
            SocketAddr::V6(v6) if v6.ip().to_bits() >> 64 == PREFIX >> 64 => Some(Self(v6.ip().to_bits() as u64)),
            SocketAddr::V6(_) | SocketAddr::V4(_) => None,
        }
    }
}

impl FrameError {
    /// What the WebSocket is closed with (RFC 6455, section 7.4.1).
    #[must_use]
    pub const fn close_code(self) -> u16 {
        match self {
            Self::TooLarge => 1009,
            Self::Text => 1003,
            Self::TooSmall | Self::Truncated | Self::TooMany => 1002,
        }
    }
}

/// The frames of a message, all of them or an error.
///
/// # Errors
/// [`FrameError`].
pub fn frames(message: &[u8]) -> Result<impl Iterator<Item = &[u8]>, FrameError> {
    if message.len() > MAX_MESSAGE {
        return Err(FrameError::TooLarge);
    }
    let mut rest = message;
    let mut count = 0;
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk().ok_or(FrameError::Truncated)?;
        let length = usize::from(u16::from_be_bytes(*length));
        if length > MAX_DATAGRAM {
            return Err(FrameError::TooLarge);
        }
        if length < HEADER_SIZE {
            return Err(FrameError::TooSmall);
        }
        rest = after.get(length..).ok_or(FrameError::Truncated)?;
        count += 1;
        if count > MAX_FRAMES {
            return Err(FrameError::TooMany);
        }
    }
    Ok(valid_frames(message))
}

/// The frames of a message that [`frames`] found to be whole; whatever is not is left out.
pub fn valid_frames(message: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = message;
    std::iter::from_fn(move || {
        let (length, after) = rest.split_first_chunk()?;
        let (frame, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        rest = after;
        Some(frame)
    })
}

impl Outbox {
    /// Room for `most` bytes.
    #[must_use]
    pub const fn new(most: usize) -> Self {
        Self { messages: VecDeque::new(), bytes: 0, most }
    }

    /// Puts a frame behind the others; false when there is no room for it, or when it is none.
    #[must_use]
    pub fn push(&mut self, frame: &[u8]) -> bool {
        let size = LENGTH + frame.len();
        let Ok(length) = u16::try_from(frame.len()) else { return false };
        if !(HEADER_SIZE..=MAX_DATAGRAM).contains(&frame.len()) || self.bytes + size > self.most {
            return false;
        }
        let fits = |last: &Message| last.frames < MAX_FRAMES && last.bytes.len() + size <= MAX_MESSAGE;
        if !self.messages.back().is_some_and(fits) {
            self.messages.push_back(Message::default());
        }
        if let Some(last) = self.messages.back_mut() {
            last.bytes.extend_from_slice(&length.to_be_bytes());
            last.bytes.extend_from_slice(frame);
            last.frames += 1;
            self.bytes += size;
        }
        true
    }

    /// The next message to write.
    #[must_use]
    pub fn take(&mut self) -> Option<Vec<u8>> {
        let message = self.messages.pop_front()?;
        self.bytes -= message.bytes.len();
        Some(message.bytes)
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Bytes that wait.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }
}

const PREFIX: u128 = 0x0100 << 112;
/// Any but zero, which means nobody.
const PORT: u16 = 443;
/// Bytes of a length.
const LENGTH: usize = 2;
