//! What one peer may bring in: parts made whole, at a rate, and each message once.

use std::{collections::VecDeque, time::Instant};

use domain::{MessageId, UnixMillis};
use tunnel::MessagePart;

/// The gate for one peer's messages.
#[derive(Debug, Default)]
pub(super) struct Intake {
    /// Of the last messages, oldest first.
    seen: VecDeque<MessageId>,
    /// Those that are acknowledged as soon as change so and so is on the disk.
    owed: VecDeque<(u64, MessageId)>,
    partial: Option<Partial>,
    /// Messages that may come at once.
    credit: Option<(Instant, f64)>,
}

/// A message of which something is missing.
#[derive(Debug)]
struct Partial {
    id: MessageId,
    parts: [Option<Vec<u8>>; MessagePart::MAX_PARTS],
}

/// What a part is good for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Nothing,
    /// It is known, and on the disk: the acknowledgement was lost.
    Again,
    Whole {
        sent: UnixMillis,
        text: String,
    },
}

impl Intake {
    pub(super) fn restore(seen: Vec<MessageId>) -> Self {
        Self { seen: seen.into(), ..Self::default() }
    }

    pub(super) fn seen(&self) -> impl Iterator<Item = MessageId> {
        self.seen.iter().copied()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.owed.is_empty()
    }

    pub(super) fn handle_part(&mut self, now: Instant, part: MessagePart) -> Taken {
        let MessagePart { id, sent, .. } = part;
        if self.seen.contains(&id) {
            let owed = self.owed.iter().any(|(_, owed)| *owed == id);
            return if owed { Taken::Nothing } else { Taken::Again };
        }
        let Some(bytes) = self.assemble(part) else { return Taken::Nothing };
        // What no text is, no client sends.
        let Ok(text) = String::from_utf8(bytes) else { return Taken::Nothing };
        if self.owed.len() >= MAX_OWED || !self.may(now) {
            return Taken::Nothing;
        }
        Taken::Whole { sent, text }
    }

    /// The message is in, with this change.
    pub(super) fn handle_made(&mut self, id: MessageId, change: u64) {
        if self.seen.len() == MAX_SEEN {
            self.seen.pop_front();
        }
        self.seen.push_back(id);
        self.owed.push_back((change, id));
    }

    /// All changes up to this one are on the disk: what is to be acknowledged.
    pub(super) fn handle_kept(&mut self, change: u64) -> Vec<MessageId> {
        let ready = self.owed.partition_point(|(made, _)| *made <= change);
        self.owed.drain(..ready).map(|(_, id)| id).collect()
    }

    /// The whole text, if this was what was missing.
    fn assemble(&mut self, part: MessagePart) -> Option<Vec<u8>> {
        if part.parts == 1 {
            return Some(part.bytes);
        }
        // Its sender has one under way at a time.
        if self.partial.as_ref().is_none_or(|partial| partial.id != part.id) {
            self.partial = Some(Partial { id: part.id, parts: Default::default() });
        }
        let partial = self.partial.as_mut()?;
        *partial.parts.get_mut(usize::from(part.part))? = Some(part.bytes);
        let whole = partial.parts.iter().flatten().count() == usize::from(part.parts);
        let partial = if whole { self.partial.take() } else { None };
        partial.map(|partial| partial.parts.into_iter().flatten().flatten().collect())
    }

    fn may(&mut self, now: Instant) -> bool {
        let (refilled, credit) = self.credit.unwrap_or((now, BURST));
        let credit = (credit + now.saturating_duration_since(refilled).as_secs_f64() * A_SECOND).min(BURST);
        let may = credit >= 1.0;
        self.credit = Some((now, if may { credit - 1.0 } else { credit }));
        may
    }
}

/// More than a sender can have forgotten the acknowledgements of.
const MAX_SEEN: usize = 64;
/// Waiting for a disk that does not take them.
const MAX_OWED: usize = 64;
const BURST: f64 = 32.0;
const A_SECOND: f64 = 1.0;
