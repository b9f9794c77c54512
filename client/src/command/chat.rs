//! Messages between users, as the command line shows them.

use domain::{ClientId, MessageId, Nickname, UnixMillis};
use serde::{Deserialize, Serialize};
use wire::Code;

use super::CommandError;
use crate::core::chat::{Entry, State};

/// One message, of `buri chat`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatLine {
    pub id: MessageId,
    /// The other end.
    pub peer: ClientId,
    pub nick: Option<Nickname>,
    pub direction: Direction,
    pub text: String,
    pub state: ChatState,
    /// The code of why it failed or expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// By the sender's clock.
    pub sent_ms: UnixMillis,
    /// Since when it is on this machine.
    pub at_ms: UnixMillis,
    /// It came, and no command has shown it yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unread: bool,
}

/// Whose message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    In,
    Out,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChatState {
    /// It came from the peer.
    Received,
    /// It goes out when the peer is there.
    Waiting,
    /// It went out; the peer has not said that it has it. A client that knows of no messages never does.
    Sent,
    /// The peer has it on its disk.
    Delivered,
    Failed,
    /// Nobody took it for a week.
    Expired,
}

impl ChatLine {
    /// How `entry` is shown; the peer is called `nick`.
    #[must_use]
    pub fn new(entry: &Entry, nick: Option<Nickname>) -> Self {
        let (state, reason) = match entry.state {
            State::Received => (ChatState::Received, None),
            State::Waiting => (ChatState::Waiting, None),
            State::Sent => (ChatState::Sent, None),
            State::Delivered => (ChatState::Delivered, None),
            State::Parted => (ChatState::Failed, Some(Code::PeerUnknown.name())),
            State::Unkept => (ChatState::Failed, Some(CommandError::FAILED)),
            State::Expired => (ChatState::Expired, Some(CommandError::TIMED_OUT)),
        };
        Self {
            id: entry.id,
            peer: entry.peer,
            nick,
            direction: if entry.state == State::Received { Direction::In } else { Direction::Out },
            text: entry.text.clone(),
            state,
            reason: reason.map(str::to_owned),
            sent_ms: entry.sent,
            at_ms: entry.at,
            unread: entry.unread,
        }
    }

    /// Why it will never be delivered.
    #[must_use]
    pub fn failure(&self) -> Option<CommandError> {
        let text = match self.state {
            ChatState::Failed if self.reason.as_deref() == Some(CommandError::FAILED) => {
                "the message could not be kept"
            }
            ChatState::Failed => "there is no network any more that this peer is met in",
            ChatState::Expired => "the peer did not take the message for a week",
            ChatState::Received | ChatState::Waiting | ChatState::Sent | ChatState::Delivered => return None,
        };
        Some(CommandError::new(self.reason.as_deref().unwrap_or(CommandError::FAILED), text))
    }
}
