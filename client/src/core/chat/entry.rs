//! One message, and what became of it.

use domain::{ClientId, MessageId, UnixMillis};
use minicbor::{Decode, Encode};

/// A message from or to a peer.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct Entry {
    /// Counts all messages of this client.
    #[n(0)]
    pub number: u64,
    #[n(1)]
    pub id: MessageId,
    #[n(2)]
    pub peer: ClientId,
    /// As it came: whatever shows it has to escape what moves a cursor or turns text around.
    #[n(3)]
    pub text: String,
    /// By the sender's clock.
    #[n(4)]
    pub sent: UnixMillis,
    /// Since when it is here.
    #[n(5)]
    pub at: UnixMillis,
    #[n(6)]
    pub state: State,
    /// It came, and no user has seen it.
    #[n(7)]
    pub unread: bool,
    /// With which change it came about, and with which it became what it is. Those before this run are 0.
    #[cbor(skip)]
    pub(super) made: u64,
    #[cbor(skip)]
    pub changed: u64,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum State {
    /// It came from the peer.
    #[n(0)]
    Received,
    /// It was never on its way.
    #[n(1)]
    Waiting,
    /// It went out, and is not acknowledged.
    #[n(2)]
    Sent,
    /// It is on the peer's disk.
    #[n(3)]
    Delivered,
    /// There is no network any more that the peer is met in.
    #[n(4)]
    Parted,
    /// It could not be written to this client's disk.
    #[n(5)]
    Unkept,
    /// The peer was not there, or did not understand, for a week.
    #[n(6)]
    Expired,
}

impl State {
    /// Whether it may still be delivered.
    #[must_use]
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Waiting | Self::Sent)
    }
}

/// Without what is said.
impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Entry");
        shown.field("number", &self.number).field("peer", &self.peer).field("state", &self.state);
        shown.finish_non_exhaustive()
    }
}
