//! All messages: which are sent when, which are kept, and for how long.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use domain::{ClientId, MessageId, UnixMillis};
use minicbor::{Decode, Encode};
use tunnel::{Frame, MessagePart};

use super::{
    Entry, State,
    intake::{Intake, Taken},
};

/// What a user may say in one message.
#[derive(Clone, PartialEq, Eq)]
pub struct Text(String);

/// A text that is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message has 1 to {} bytes of text", MessagePart::MAX_TEXT)]
pub struct TextError;

/// There is no room for another message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many messages wait for their peers")]
pub struct ChatFull;

/// Every message that is known.
#[derive(Debug)]
pub(in crate::core) struct Chats {
    entries: BTreeMap<u64, Entry>,
    peers: BTreeMap<ClientId, Correspondent>,
    /// When peers are tended.
    due: BTreeSet<(Instant, ClientId)>,
    last: u64,
    changes: u64,
    clock: Option<(Instant, UnixMillis)>,
    keeping: Keeping,
    /// When what is too old is looked for.
    sweep: Option<Instant>,
}

/// One peer that messages came from or go to.
#[derive(Debug, Default)]
struct Correspondent {
    intake: Intake,
    /// Numbers of what it has not acknowledged, in order. The first is under way.
    outbox: VecDeque<u64>,
    tries: u32,
    due: Option<Instant>,
    /// The newest message from or to it.
    last: u64,
}

/// What is on the disk.
#[derive(Debug)]
struct Keeping {
    dirty: bool,
    /// Up to which change is being written.
    under_way: Option<u64>,
    kept: u64,
    /// Not before.
    next: Instant,
}

/// What is kept over restarts.
#[derive(Debug, Encode, Decode)]
pub(super) struct SavedChats {
    #[n(0)]
    last: u64,
    #[n(1)]
    entries: Vec<Entry>,
    #[n(2)]
    seen: BTreeMap<ClientId, Vec<MessageId>>,
}

impl Text {
    /// # Errors
    /// [`TextError`]: it is empty, or longer than [`MessagePart::MAX_TEXT`].
    pub fn new(text: impl Into<String>) -> Result<Self, TextError> {
        let text = text.into();
        let fits = !text.is_empty() && text.len() <= MessagePart::MAX_TEXT;
        if fits { Ok(Self(text)) } else { Err(TextError) }
    }
}

/// Without what is said.
impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Text(..)")
    }
}

impl Chats {
    pub(in crate::core) const fn new(now: Instant) -> Self {
        Self {
            entries: BTreeMap::new(),
            peers: BTreeMap::new(),
            due: BTreeSet::new(),
            last: 0,
            changes: 0,
            clock: None,
            keeping: Keeping { dirty: false, under_way: None, kept: 0, next: now },
            sweep: None,
        }
    }

    pub(super) fn restore(&mut self, now: Instant, saved: SavedChats) {
        for (peer, seen) in saved.seen {
            self.peers.entry(peer).or_default().intake = Intake::restore(seen);
        }
        self.last = saved.last;
        for entry in saved.entries {
            let peer = self.peers.entry(entry.peer).or_default();
            peer.last = entry.number;
            self.last = self.last.max(entry.number);
            if entry.state.is_open() {
                peer.outbox.push_back(entry.number);
                self.sweep = Some(now);
            }
            self.entries.insert(entry.number, entry);
        }
        self.handle_alone(now);
    }

    pub(super) fn save(&self) -> Vec<u8> {
        let seen = self.peers.iter().map(|(peer, of)| (*peer, of.intake.seen().collect::<Vec<_>>()));
        let saved = SavedChats {
            last: self.last,
            entries: self.entries.values().cloned().collect(),
            seen: seen.filter(|(_, seen)| !seen.is_empty()).collect(),
        };
        minicbor::to_vec(saved).expect("writing to a vector does not fail")
    }

    pub(super) const fn handle_clock(&mut self, now: Instant, time: UnixMillis) {
        self.clock = Some((now, time));
    }

    pub(super) fn entries(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.entries.values()
    }

    pub(super) fn entry(&self, number: u64) -> Option<&Entry> {
        self.entries.get(&number)
    }

    pub(super) const fn changes(&self) -> u64 {
        self.changes
    }

    pub(super) fn is_kept(&self, number: u64) -> bool {
        self.entries.get(&number).is_some_and(|entry| entry.made <= self.keeping.kept)
    }

    pub(super) fn note_read(&mut self, number: u64) {
        if let Some(entry) = self.entries.get_mut(&number).filter(|entry| entry.unread) {
            entry.unread = false;
            self.keeping.dirty = true;
        }
    }

    pub(super) fn send(
        &mut self,
        now: Instant,
        to: &[(ClientId, [u8; 16])],
        text: &Text,
    ) -> Result<Vec<u64>, ChatFull> {
        let waiting: usize = self.peers.values().map(|peer| peer.outbox.len()).sum();
        let full = |(peer, _): &(ClientId, _)| {
            self.peers.get(peer).is_some_and(|peer| peer.outbox.len() >= MAX_WAITING_FOR_ONE)
        };
        if waiting + to.len() > MAX_WAITING || to.iter().any(full) {
            return Err(ChatFull);
        }
        let at = self.time(now);
        self.sweep.get_or_insert(now + SWEEP);
        let numbers = to.iter().map(|&(peer, id)| {
            let number = self.note(peer, MessageId::from_bytes(id), text.0.clone(), at, at, State::Waiting);
            self.correspondent(peer).outbox.push_back(number);
            number
        });
        Ok(numbers.collect())
    }

    /// A frame or two with the message that is next for `peer`.
    pub(super) fn transmit(&mut self, now: Instant, peer: ClientId) -> Vec<Frame> {
        let Some(&number) = self.peers.get(&peer).and_then(|peer| peer.outbox.front()) else { return Vec::new() };
        // Until it is on the disk, it may be forgotten here: then it was never said.
        if !self.is_kept(number) {
            return Vec::new();
        }
        let Some(entry) = self.entries.get(&number) else { return Vec::new() };
        let frames = MessagePart::split(entry.id, entry.sent, &entry.text).map(Frame::Message).collect();
        if entry.state == State::Waiting {
            self.change(number, State::Sent);
        }
        self.put_off(now, peer);
        frames
    }

    /// Nothing came of it yet: again, after a while.
    pub(super) fn put_off(&mut self, now: Instant, peer: ClientId) {
        let Some(of) = self.peers.get_mut(&peer) else { return };
        let pause = FIRST_PAUSE * (1 << of.tries.min(5));
        let pause = if of.tries < PATIENT_TRIES { pause.min(SHORT_PAUSE) } else { LONG_PAUSE };
        of.tries = of.tries.saturating_add(1);
        self.tend(peer, Some(now + pause));
    }

    /// The peer is there, or there again.
    pub(in crate::core) fn handle_up(&mut self, now: Instant, peer: ClientId) {
        if let Some(of) = self.peers.get_mut(&peer).filter(|of| !of.outbox.is_empty()) {
            // A tunnel that is renewed again and again is no news.
            of.tries = of.tries.min(AGAIN);
            self.tend(peer, Some(now));
        }
    }

    /// No server tells who is there.
    pub(in crate::core) fn handle_alone(&mut self, now: Instant) {
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            self.handle_up(now, peer);
        }
    }

    /// The peer is none any more.
    pub(in crate::core) fn handle_parted(&mut self, peer: ClientId) {
        let outbox = self.peers.get_mut(&peer).map(|of| std::mem::take(&mut of.outbox)).unwrap_or_default();
        for number in outbox {
            self.change(number, State::Parted);
        }
        self.tend(peer, None);
    }

    /// A part came. Returns what is to be acknowledged at once.
    pub(super) fn handle_part(&mut self, now: Instant, peer: ClientId, part: MessagePart) -> Option<MessageId> {
        let id = part.id;
        match self.correspondent(peer).intake.handle_part(now, part) {
            Taken::Nothing => None,
            Taken::Again => Some(id),
            Taken::Whole { sent, text } => {
                let at = self.time(now);
                self.note(peer, id, text, sent, at, State::Received);
                let change = self.changes;
                self.correspondent(peer).intake.handle_made(id, change);
                None
            }
        }
    }

    /// The peer has kept the message.
    pub(super) fn handle_taken(&mut self, now: Instant, peer: ClientId, id: MessageId) {
        let Some(of) = self.peers.get_mut(&peer) else { return };
        let is_it =
            |number: &u64| self.entries.get(number).is_some_and(|entry| (entry.id, entry.state) == (id, State::Sent));
        let Some(number) = of.outbox.pop_front_if(|number| is_it(number)) else { return };
        of.tries = 0;
        let more = !of.outbox.is_empty();
        self.tend(peer, more.then_some(now));
        self.change(number, State::Delivered);
    }

    pub(super) fn handle_deadline(&mut self, now: Instant) {
        if self.sweep.is_none_or(|sweep| now < sweep) {
            return;
        }
        let time = self.time(now);
        let open: Vec<_> = self.peers.values().flat_map(|of| of.outbox.iter().copied()).collect();
        let old = |number: &u64| self.entries.get(number).is_none_or(|entry| time.since(entry.at) >= LIFETIME);
        let expired: Vec<_> = open.iter().copied().filter(old).collect();
        for of in self.peers.values_mut().filter(|_| !expired.is_empty()) {
            of.outbox.retain(|number| !expired.contains(number));
        }
        expired.iter().for_each(|number| self.change(*number, State::Expired));
        self.sweep = (open.len() > expired.len()).then(|| now + SWEEP);
    }

    /// Who is due; it is not, from then on.
    pub(super) fn poll_due(&mut self, now: Instant) -> Option<ClientId> {
        let first = *self.due.first().filter(|(due, _)| *due <= now)?;
        self.due.remove(&first);
        let (_, peer) = first;
        if let Some(of) = self.peers.get_mut(&peer) {
            of.due = None;
        }
        Some(peer)
    }

    pub(in crate::core) fn poll_deadline(&self) -> Option<Instant> {
        let keep = (self.keeping.dirty && self.keeping.under_way.is_none()).then_some(self.keeping.next);
        [self.due.first().map(|(due, _)| *due), keep, self.sweep].into_iter().flatten().min()
    }

    /// What is to be written now.
    pub(super) fn poll_keep(&mut self, now: Instant) -> Option<Vec<u8>> {
        let keeping = &mut self.keeping;
        if !keeping.dirty || keeping.under_way.is_some() || now < keeping.next {
            return None;
        }
        keeping.dirty = false;
        keeping.under_way = Some(self.changes);
        let bytes = self.save();
        let pause = Duration::from_micros(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.keeping.next = now + pause.max(LEAST_PAUSE);
        Some(bytes)
    }

    /// It was written, or could not be. Returns what is to be acknowledged to whom.
    pub(super) fn handle_kept(&mut self, now: Instant, kept: bool) -> Vec<(ClientId, MessageId)> {
        let Some(change) = self.keeping.under_way.take() else { return Vec::new() };
        if !kept {
            self.keeping.dirty = true;
            self.keeping.next = now + AFTER_FAILURE;
            self.give_up_unkept();
            return Vec::new();
        }
        self.keeping.kept = change;
        let mut ready = Vec::new();
        for (peer, of) in &mut self.peers {
            ready.extend(of.intake.handle_kept(change).into_iter().map(|id| (*peer, id)));
        }
        let fresh = |of: &Correspondent| {
            of.due.is_none()
                && of.outbox.front().is_some_and(|first| {
                    self.entries.get(first).is_some_and(|entry| entry.state == State::Waiting && entry.made > 0)
                })
        };
        let fresh: Vec<_> = self.peers.iter().filter(|(_, of)| fresh(of)).map(|(peer, _)| *peer).collect();
        fresh.into_iter().for_each(|peer| self.tend(peer, Some(now)));
        ready
    }

    /// What the user was not promised is not sent, now or later.
    fn give_up_unkept(&mut self) {
        let kept = self.keeping.kept;
        let unkept = |entry: &&Entry| entry.state == State::Waiting && entry.made > kept;
        let unkept: Vec<_> = self.entries.values().filter(unkept).map(|entry| entry.number).collect();
        for of in self.peers.values_mut() {
            of.outbox.retain(|number| !unkept.contains(number));
        }
        unkept.iter().for_each(|number| self.change(*number, State::Unkept));
    }

    /// By the wall clock, as far as it was told.
    fn time(&self, now: Instant) -> UnixMillis {
        self.clock.map_or(UnixMillis(0), |(told, time)| time.plus(now.saturating_duration_since(told)))
    }

    fn note(
        &mut self,
        peer: ClientId,
        id: MessageId,
        text: String,
        sent: UnixMillis,
        at: UnixMillis,
        state: State,
    ) -> u64 {
        self.last += 1;
        self.changes += 1;
        self.keeping.dirty = true;
        let (number, made) = (self.last, self.changes);
        let unread = state == State::Received;
        self.entries.insert(number, Entry { number, id, peer, text, sent, at, state, unread, made, changed: made });
        self.correspondent(peer).last = number;
        self.make_room(peer);
        number
    }

    fn change(&mut self, number: u64, state: State) {
        if let Some(entry) = self.entries.get_mut(&number) {
            self.changes += 1;
            (entry.state, entry.changed) = (state, self.changes);
            self.keeping.dirty = true;
            let peer = entry.peer;
            if !state.is_open() {
                self.make_room(peer);
            }
        }
    }

    /// Forgets the oldest message that is over, of `peer` if it has its share, or of who has the most.
    fn make_room(&mut self, peer: ClientId) {
        let mut shares: BTreeMap<ClientId, usize> = BTreeMap::new();
        for entry in self.entries.values().filter(|entry| !entry.state.is_open()) {
            *shares.entry(entry.peer).or_default() += 1;
        }
        let all: usize = shares.values().sum();
        let whose = if shares.get(&peer).is_some_and(|share| *share > MAX_READ_OF_ONE) {
            Some(peer)
        } else if all > MAX_READ {
            shares.iter().max_by_key(|(_, share)| **share).map(|(peer, _)| *peer)
        } else {
            None
        };
        let over = |entry: &&Entry| Some(entry.peer) == whose && !entry.state.is_open();
        if let Some(number) = self.entries.values().find(over).map(|entry| entry.number) {
            self.entries.remove(&number);
        }
    }

    /// What is known of `peer`; for a new one, who was silent longest is forgotten.
    fn correspondent(&mut self, peer: ClientId) -> &mut Correspondent {
        if !self.peers.contains_key(&peer) && self.peers.len() >= MAX_CORRESPONDENTS {
            let idle = |of: &Correspondent| of.outbox.is_empty() && of.intake.is_idle();
            let idle = self.peers.iter().filter(|(_, of)| idle(of)).min_by_key(|(_, of)| of.last);
            if let Some(idle) = idle.map(|(peer, _)| *peer) {
                self.peers.remove(&idle);
            }
        }
        self.peers.entry(peer).or_default()
    }

    /// When `peer` is due.
    fn tend(&mut self, peer: ClientId, due: Option<Instant>) {
        let Some(of) = self.peers.get_mut(&peer) else { return };
        if let Some(old) = std::mem::replace(&mut of.due, due) {
            self.due.remove(&(old, peer));
        }
        self.due.extend(due.map(|due| (due, peer)));
    }
}

const MAX_WAITING_FOR_ONE: usize = 100;
const MAX_WAITING: usize = 1_000;
const MAX_READ_OF_ONE: usize = 200;
const MAX_READ: usize = 1_000;
/// Also those of whom nothing is known but what they sent last.
const MAX_CORRESPONDENTS: usize = 1_024;
/// For a message that nobody takes.
const LIFETIME: Duration = Duration::from_secs(7 * 24 * 3_600);
const SWEEP: Duration = Duration::from_secs(60);
/// Between two tries, doubled up to the short one for the first of them.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const SHORT_PAUSE: Duration = Duration::from_secs(30);
const LONG_PAUSE: Duration = Duration::from_secs(300);
const PATIENT_TRIES: u32 = 20;
const AGAIN: u32 = 4;
/// Between two writes; more after large ones.
const LEAST_PAUSE: Duration = Duration::from_millis(100);
const AFTER_FAILURE: Duration = Duration::from_secs(10);
