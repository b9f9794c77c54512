//! Messages between users, through the tunnels and nowhere else.
//!
//! **Delivered** means: on the other machine's disk. A message is numbered and kept here first, then sent as a frame or two
//! inside of the tunnel, and again, ever more rarely, until the other daemon says that it has kept it. So neither end loses or
//! repeats one, whatever restarts and whichever way the tunnel takes. One is under way to each peer at a time, which keeps
//! their order; what a peer is away for waits.
//!
//! A client that knows of no messages ignores the frame: those for it are `sent` and never `delivered`, and expire.
//!
//! **Whom**: peers only, which are those with whom a network is shared at the moment, as its kind has it. Whoever is removed or
//! cannot prove to be a member says nothing here, and what waits for it fails.
//!
//! **Bounds**: a text has 2,000 bytes; 100 wait for a peer and 1,000 for all, a week at most. A peer gets 32 in at once and one
//! a second: what is more is not acknowledged, so that its own daemon holds it. The last 200 of each peer and 1,000 of all are
//! kept for reading; who has the most loses first. At most a megabyte a second goes to the disk.
//!
//! Times are the senders' claims where they say so; the wall clock comes from the shell.

mod book;
mod entry;
mod intake;
#[cfg(test)]
mod tests;

use std::time::Instant;

use domain::{ClientId, PeerPresence, UnixMillis};
use rand::Rng as _;
use tunnel::Frame;

use super::{Core, Output};
pub(super) use book::Chats;
pub use book::{ChatFull, Text, TextError};
pub use entry::{Entry, State};

/// The longest text, in bytes of UTF-8.
pub const MAX_TEXT: usize = tunnel::MessagePart::MAX_TEXT;

impl Core {
    /// Takes up the messages that the last run kept.
    ///
    /// # Errors
    /// When the bytes were not written by this code.
    pub fn restore_chats(&mut self, now: Instant, kept: &[u8]) -> Result<(), minicbor::decode::Error> {
        self.chats.restore(now, minicbor::decode(kept)?);
        Ok(())
    }

    /// What time it is. To be told at first, and every few seconds.
    pub fn handle_clock(&mut self, now: Instant, time: UnixMillis) {
        self.chats.handle_clock(now, time);
    }

    /// Takes a message to each of `to`, or to none when there is no room. Returns its numbers.
    ///
    /// # Errors
    /// [`ChatFull`].
    pub fn chat(&mut self, now: Instant, to: &[ClientId], text: &Text) -> Result<Vec<u64>, ChatFull> {
        let to: Vec<_> = to.iter().map(|peer| (*peer, self.random.random())).collect();
        self.chats.send(now, &to, text)
    }

    /// All messages that are known, oldest first.
    pub fn chats(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.chats.entries()
    }

    /// One of them.
    #[must_use]
    pub fn chat_numbered(&self, number: u64) -> Option<&Entry> {
        self.chats.entry(number)
    }

    /// Whether a message is on the disk.
    #[must_use]
    pub fn is_chat_kept(&self, number: u64) -> bool {
        self.chats.is_kept(number)
    }

    /// Raised by every change of a message: see [`Entry::changed`].
    #[must_use]
    pub const fn chat_changes(&self) -> u64 {
        self.chats.changes()
    }

    /// The user has seen the message.
    pub fn note_chat_read(&mut self, number: u64) {
        self.chats.note_read(number);
    }

    /// What is kept over restarts.
    #[must_use]
    pub fn kept_chats(&self) -> Vec<u8> {
        self.chats.save()
    }

    /// What came of [`Output::KeepChats`].
    pub fn handle_chats_kept(&mut self, now: Instant, kept: bool) {
        for (peer, id) in self.chats.handle_kept(now, kept) {
            self.with(now, peer, |peer, turn| peer.say(turn, &Frame::MessageTaken(id)));
        }
        self.tend_chats(now);
    }

    pub(super) fn handle_chat_frame(&mut self, now: Instant, peer: ClientId, frame: Frame) {
        match frame {
            Frame::Message(part) => {
                let member = self.peers.get(&peer).is_some_and(|peer| !peer.is_barred(now));
                if member && let Some(id) = self.chats.handle_part(now, peer, part) {
                    self.with(now, peer, |peer, turn| peer.say(turn, &Frame::MessageTaken(id)));
                }
            }
            Frame::MessageTaken(id) => self.chats.handle_taken(now, peer, id),
            Frame::Probe { .. }
            | Frame::Answer { .. }
            | Frame::Hints(_)
            | Frame::Farewell
            | Frame::Key(_)
            | Frame::KeyTaken(_)
            | Frame::Standing { .. }
            | Frame::Removals(_) => {}
        }
    }

    pub(super) fn handle_chat_deadline(&mut self, now: Instant) {
        self.chats.handle_deadline(now);
        self.tend_chats(now);
        if let Some(bytes) = self.chats.poll_keep(now) {
            self.outputs.push_back(Output::KeepChats(bytes));
        }
    }

    /// Sends what is due, or looks for a way to whom it is for.
    fn tend_chats(&mut self, now: Instant) {
        while let Some(id) = self.chats.poll_due(now) {
            let Some(peer) = self.peers.get(&id) else { continue };
            if peer.takes_messages(now) {
                for frame in self.chats.transmit(now, id) {
                    self.with(now, id, |peer, turn| peer.say_for_user(turn, &frame));
                }
            } else if !self.online || peer.presence != PeerPresence::Offline {
                self.with(now, id, |peer, turn| peer.call(turn));
                self.chats.put_off(now, id);
            }
            // Otherwise the server tells when it is back.
        }
    }
}
