//! Where streams and a worker meet.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio_tungstenite::tungstenite::Bytes;
use wire::{
    relay::Message,
    stream::{StreamId, valid_frames},
};

use crate::{Metrics, steer::Workers};

/// Bytes that wait for a client, at most: 26 ms of 20 Mbit/s.
const OUTBOX: usize = 64 * 1024;

/// What streams tell one worker.
#[derive(Debug)]
pub(crate) struct Inlet {
    news: Mutex<VecDeque<News>>,
    /// The worker knows that there is something.
    told: AtomicBool,
    /// There was a stream once: before that the worker need not look.
    live: AtomicBool,
    wake: EventFd,
}

#[derive(Debug)]
pub(crate) enum News {
    Opened(Arc<Outbox>),
    Batch(Batch),
    Closed(StreamId),
}

/// Whole frames of one message.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) from: StreamId,
    pub(crate) message: Bytes,
    /// Lets the stream hand over the next.
    pub(crate) _room: Arc<OwnedSemaphorePermit>,
}

/// What waits for one stream.
#[derive(Debug)]
pub(crate) struct Outbox {
    id: StreamId,
    frames: Mutex<wire::stream::Outbox>,
    wake: Notify,
    /// A leg joined over this stream.
    proved: AtomicBool,
}

/// The worker's end.
#[derive(Debug)]
pub(crate) struct Port {
    /// Which of the workers this is.
    worker: (u8, Workers),
    inlet: Arc<Inlet>,
    metrics: Arc<Metrics>,
    outboxes: HashMap<StreamId, Arc<Outbox>>,
    /// Those to wake at the end of the turn.
    touched: Vec<Arc<Outbox>>,
}

impl Inlet {
    /// Nothing so far.
    pub(crate) fn new() -> std::io::Result<Self> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let wake = EventFd::from_flags(flags)?;
        let (told, live) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Self { news: Mutex::default(), told, live, wake })
    }

    /// Tells the worker. Each stream tells that it opened, two batches at once, and that it closed.
    pub(crate) fn tell(&self, news: News) {
        if matches!(news, News::Opened(_)) {
            self.live.store(true, Ordering::Release);
        }
        self.news().push_back(news);
        if !self.told.swap(true, Ordering::AcqRel) {
            // Full only after 2^64 wakes that nobody took.
            let _ = self.wake.write(1);
        }
    }

    fn news(&self) -> MutexGuard<'_, VecDeque<News>> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outbox {
    pub(crate) fn new(id: StreamId) -> Self {
        let frames = Mutex::new(wire::stream::Outbox::new(OUTBOX));
        Self { id, frames, wake: Notify::new(), proved: AtomicBool::new(false) }
    }

    /// The next message for the client, as soon as there is one. Nothing is lost when the future is dropped.
    pub(crate) async fn next(&self) -> Vec<u8> {
        loop {
            if let Some(message) = self.take() {
                return message;
            }
            self.wake.notified().await;
        }
    }

    /// The next message for the client, if there is one.
    pub(crate) fn take(&self) -> Option<Vec<u8>> {
        self.frames().take()
    }

    pub(crate) const fn id(&self) -> StreamId {
        self.id
    }

    /// Whether a leg joined over this stream.
    pub(crate) fn is_proved(&self) -> bool {
        self.proved.load(Ordering::Acquire)
    }

    fn frames(&self) -> MutexGuard<'_, wire::stream::Outbox> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Port {
    /// The end of `worker` at `inlet`.
    pub(crate) fn new(worker: (u8, Workers), inlet: Arc<Inlet>, metrics: Arc<Metrics>) -> Self {
        Self { worker, inlet, metrics, outboxes: HashMap::new(), touched: Vec::new() }
    }

    /// The frames of a batch that are for this worker.
    pub(crate) fn own<'a>(&self, batch: &'a Batch) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (own, workers) = self.worker;
        valid_frames(&batch.message).filter(move |frame| workers == Workers::ONE || workers.of_frame(frame) == own)
    }

    /// Whether there may be a stream: somebody has to look after [`Self::wake`] then.
    pub(crate) fn is_live(&self) -> bool {
        self.inlet.live.load(Ordering::Acquire)
    }

    /// Readable when there is something.
    pub(crate) fn wake(&self) -> BorrowedFd<'_> {
        self.inlet.wake.as_fd()
    }

    /// The next batch, those of all streams in turn.
    pub(crate) fn take(&mut self) -> Option<Batch> {
        if !self.inlet.told.load(Ordering::Acquire) {
            return None;
        }
        loop {
            let news = self.inlet.news().pop_front();
            match news {
                Some(News::Opened(outbox)) => {
                    self.outboxes.insert(outbox.id, outbox);
                }
                Some(News::Closed(stream)) => {
                    self.outboxes.remove(&stream);
                }
                Some(News::Batch(batch)) => return Some(batch),
                None => {
                    // In this order: what is told in between wakes again.
                    let _ = self.inlet.wake.read();
                    self.inlet.told.store(false, Ordering::Release);
                    if self.inlet.news().is_empty() {
                        return None;
                    }
                    self.inlet.told.store(true, Ordering::Release);
                }
            }
        }
    }

    /// Puts a frame into the outbox of a stream; it is lost when there is no room, or no such stream any more.
    pub(crate) fn send(&mut self, to: SocketAddr, frame: &[u8]) {
        let Some(outbox) = StreamId::of(&to).and_then(|stream| self.outboxes.get(&stream)) else { return };
        if matches!(Message::parse(frame), Some(Message::Joined { .. })) {
            outbox.proved.store(true, Ordering::Release);
        }
        let mut frames = outbox.frames();
        let rests = frames.is_empty();
        if !frames.push(frame) {
            self.metrics.streams.overflows.inc();
        } else if rests {
            drop(frames);
            self.touched.push(Arc::clone(outbox));
        }
    }

    /// Wakes the streams that have something to write.
    pub(crate) fn flush(&mut self) {
        for outbox in self.touched.drain(..) {
            outbox.wake.notify_one();
        }
    }
}
