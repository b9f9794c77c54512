//! What crosses between threads: streams and their frames on the way to a worker, and frames on the way to another's stream.

use std::{
    collections::VecDeque,
    mem,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio_tungstenite::tungstenite::Bytes;
use wire::stream::StreamId;

use super::line::Line;

/// Bytes that wait for a client, at most: 26 ms of 20 Mbit/s.
const OUTBOX: usize = 64 * 1024;

/// Messages of one stream that wait for other workers.
const AWAY: usize = 2;

/// What one worker is told.
#[derive(Debug)]
pub(crate) struct Inlet {
    news: Mutex<Queue>,
    /// The worker knows that there is something.
    told: AtomicBool,
    /// There was a stream once: before that the worker need not look.
    live: AtomicBool,
    wake: EventFd,
}

#[derive(Debug, Default)]
struct Queue {
    news: VecDeque<News>,
    /// The worker has ended.
    over: bool,
}

#[derive(Debug)]
pub(crate) enum News {
    /// A stream for this worker to own.
    Owned(Box<Line>),
    /// A stream that another worker owns.
    Opened(Arc<Outbox>),
    /// A message of another worker's stream.
    Batch(Batch),
    /// Another worker put frames into the outbox of this one's stream.
    Write(StreamId),
    /// A stream whose messages were too many on the way to others may be read again.
    Read(StreamId),
    /// Another worker's stream ended.
    Closed(StreamId),
}

/// Whole frames of one message.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) from: StreamId,
    pub(crate) message: Bytes,
    /// Of those that are away.
    pub(crate) _room: Option<Arc<Room>>,
}

/// How many messages of a stream wait for other workers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Away(Arc<AtomicUsize>);

/// The place of one message among those that are away.
#[derive(Debug)]
pub(crate) struct Room {
    away: Away,
    stream: StreamId,
    owner: Arc<Inlet>,
}

/// What waits for one stream.
#[derive(Debug)]
pub(crate) struct Outbox {
    pub(crate) id: StreamId,
    /// The worker that owns the stream.
    pub(crate) owner: u8,
    frames: Mutex<wire::stream::Outbox>,
    /// Its owner knows that another worker put something in.
    pub(crate) told: AtomicBool,
    /// A leg joined over this stream.
    proved: AtomicBool,
}

impl Inlet {
    /// Nothing so far.
    pub(crate) fn new() -> std::io::Result<Self> {
        let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(Self { news: Mutex::default(), told: AtomicBool::new(false), live: AtomicBool::new(false), wake })
    }

    /// Tells the worker, unless it has ended. Each stream tells a bounded number of things: that it opened and closed,
    /// [`AWAY`] messages at once, and once that it can be read and written.
    pub(crate) fn tell(&self, news: News) {
        if matches!(news, News::Owned(_) | News::Opened(_)) {
            self.live.store(true, Ordering::Release);
        }
        let mut queue = self.queue();
        if queue.over {
            // Dropped without the lock: a stream may have something to tell when it ends.
            drop(queue);
            return drop(news);
        }
        queue.news.push_back(news);
        drop(queue);
        if !self.told.swap(true, Ordering::AcqRel) {
            // Full only after 2^64 wakes that nobody took.
            let _ = self.wake.write(1);
        }
    }

    /// Exchanges the news for `heard`, which is empty.
    pub(crate) fn take(&self, heard: &mut VecDeque<News>) {
        // In this order: what is told in between wakes again.
        let _ = self.wake.read();
        self.told.store(false, Ordering::Release);
        mem::swap(&mut self.queue().news, heard);
    }

    /// Has everything that is told from now on forgotten, and returns what was told before.
    pub(crate) fn end(&self) -> VecDeque<News> {
        let mut queue = self.queue();
        queue.over = true;
        mem::take(&mut queue.news)
    }

    /// Whether there was a stream once.
    pub(crate) fn is_live(&self) -> bool {
        self.live.load(Ordering::Acquire)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Inlet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

impl Outbox {
    pub(crate) fn new(id: StreamId, owner: u8) -> Self {
        let frames = Mutex::new(wire::stream::Outbox::new(OUTBOX));
        Self { id, owner, frames, told: AtomicBool::new(false), proved: AtomicBool::new(false) }
    }

    /// The next message for the client, if there is one.
    pub(crate) fn take(&self) -> Option<Vec<u8>> {
        self.frames().take()
    }

    /// Whether a leg joined over this stream.
    pub(crate) fn is_proved(&self) -> bool {
        self.proved.load(Ordering::Acquire)
    }

    /// A leg joined over this stream.
    pub(crate) fn prove(&self) {
        self.proved.store(true, Ordering::Release);
    }

    pub(crate) fn frames(&self) -> MutexGuard<'_, wire::stream::Outbox> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Away {
    /// A place for one more message of `stream`, whose owner hears at `owner` when there is room again. False when it was the
    /// last one.
    pub(crate) fn room(&self, stream: StreamId, owner: &Arc<Inlet>) -> (Arc<Room>, bool) {
        let before = self.0.fetch_add(1, Ordering::AcqRel);
        (Arc::new(Room { away: self.clone(), stream, owner: Arc::clone(owner) }), before + 1 < AWAY)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.away.0.fetch_sub(1, Ordering::AcqRel) == AWAY {
            self.owner.tell(News::Read(self.stream));
        }
    }
}
