//! The worker's end of all streams: it reads and writes its own, and exchanges frames with the workers that own the others.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    mem,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tokio_tungstenite::tungstenite::Bytes;
use wire::{
    relay::Message,
    stream::{StreamId, frames, valid_frames},
};

use super::{
    Ended,
    inlet::{Batch, Inlet, News, Outbox},
    line::{Closing, Line, Said},
};
use crate::{Metrics, steer::Workers};

/// Streams that the kernel tells of at once.
const EVENTS: usize = 64;

/// How often one turn asks streams for a message.
const VISITS: usize = 128;

/// Stands for the inlet among the streams; numbers of streams begin at 1.
const INLET: u64 = 0;

#[derive(Debug)]
pub(crate) struct Port {
    /// Which of the workers this is.
    worker: (u8, Workers),
    /// Of all workers.
    inlets: Vec<Arc<Inlet>>,
    metrics: Arc<Metrics>,
    /// Knows when the inlet or an own stream has something.
    epoll: Epoll,
    /// It does.
    woken: bool,
    /// Its own streams.
    lines: HashMap<StreamId, Line>,
    /// Of all streams.
    outboxes: HashMap<StreamId, Arc<Outbox>>,
    /// Own streams that may have something to say, in turn.
    ready: VecDeque<StreamId>,
    /// From streams of others.
    batches: VecDeque<Batch>,
    /// Whether an own stream was the last to be asked: the others' are next.
    own_turn: bool,
    /// Those to write to at the end of the turn.
    touched: Vec<Arc<Outbox>>,
    /// When to look whether an own stream has to end.
    dues: BinaryHeap<Reverse<(Instant, StreamId)>>,
    /// What is left of [`VISITS`].
    visits: usize,
    /// Empty between two looks.
    news: VecDeque<News>,
}

impl Port {
    /// The end of `worker` at its own of the `inlets`.
    pub(crate) fn new(worker: (u8, Workers), inlets: Vec<Arc<Inlet>>, metrics: Arc<Metrics>) -> std::io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        if let Some(inlet) = inlets.get(usize::from(worker.0)) {
            epoll.add(inlet, EpollEvent::new(EpollFlags::EPOLLIN, INLET))?;
        }
        Ok(Self {
            worker,
            inlets,
            metrics,
            epoll,
            woken: false,
            lines: HashMap::new(),
            outboxes: HashMap::new(),
            ready: VecDeque::new(),
            batches: VecDeque::new(),
            own_turn: false,
            touched: Vec::new(),
            dues: BinaryHeap::new(),
            visits: VISITS,
            news: VecDeque::new(),
        })
    }

    /// The frames of a batch that are for this worker.
    pub(crate) fn own<'a>(&self, batch: &'a Batch) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (own, workers) = self.worker;
        valid_frames(&batch.message).filter(move |frame| workers == Workers::ONE || workers.of_frame(frame) == own)
    }

    /// Whether there may be a stream: somebody has to look after [`Self::wake`] then.
    pub(crate) fn is_live(&self) -> bool {
        self.inlet().is_some_and(|inlet| inlet.is_live())
    }

    /// Readable when there is something.
    pub(crate) fn wake(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// Whether [`Self::wake`] is readable now.
    pub(crate) const fn woken(&mut self, woken: bool) {
        self.woken = woken;
    }

    /// Whether nothing is left of the turn before, which [`Self::wake`] would not tell.
    pub(crate) fn rests(&self) -> bool {
        self.ready.is_empty() && self.batches.is_empty()
    }

    /// The next batch, those of all streams in turn.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Batch> {
        if mem::take(&mut self.woken) {
            self.look();
        }
        while self.visits > 0 {
            self.visits -= 1;
            self.own_turn = !self.own_turn;
            let stream = if self.own_turn || self.batches.is_empty() { self.ready.pop_front() } else { None };
            let batch = match stream {
                Some(stream) => self.visit(stream, now),
                None => Some(self.batches.pop_front()?),
            };
            if batch.is_some() {
                return batch;
            }
        }
        None
    }

    /// Puts a frame into the outbox of a stream; it is lost when there is no room, or no such stream any more.
    pub(crate) fn send(&mut self, to: SocketAddr, frame: &[u8]) {
        let Some(outbox) = StreamId::of(&to).and_then(|stream| self.outboxes.get(&stream)) else { return };
        if !outbox.is_proved() && matches!(Message::parse(frame), Some(Message::Joined { .. })) {
            outbox.prove();
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

    /// Writes to the streams that have something to write, and ends those whose time is over.
    pub(crate) fn flush(&mut self, now: Instant) {
        let mut touched = mem::take(&mut self.touched);
        for outbox in touched.drain(..) {
            if outbox.owner == self.worker.0 {
                self.write(outbox.id, now);
            } else if !outbox.told.swap(true, Ordering::AcqRel)
                && let Some(owner) = self.inlets.get(usize::from(outbox.owner))
            {
                owner.tell(News::Write(outbox.id));
            }
        }
        self.touched = touched;
        self.visits = VISITS;
        while self.dues.peek().is_some_and(|Reverse((due, _))| *due <= now)
            && let Some(Reverse((_, stream))) = self.dues.pop()
        {
            let Some(line) = self.lines.get(&stream) else { continue };
            match line.overdue(now) {
                Some(reason) => self.end(stream, reason.into()),
                None => self.dues.push(Reverse((line.due(now), stream))),
            }
        }
    }

    fn inlet(&self) -> Option<&Arc<Inlet>> {
        self.inlets.get(usize::from(self.worker.0))
    }

    /// Asks the kernel who has something.
    fn look(&mut self) {
        let mut events = [EpollEvent::empty(); EVENTS];
        // Interrupted: it is told again.
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        for event in events.into_iter().take(count) {
            if event.data() == INLET {
                self.hear();
                continue;
            }
            let (stream, told) = (StreamId(event.data()), event.events());
            let Some(line) = self.lines.get_mut(&stream) else { continue };
            if told.contains(EpollFlags::EPOLLOUT) {
                line.unblock();
                self.touched.push(Arc::clone(line.outbox()));
            }
            if line.stalled {
                // The kernel tells of the end, asked or not.
                if told.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
                    self.end(stream, Ended::Failed.into());
                }
            } else if told.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
                line.fill();
                self.queue(stream);
            }
        }
    }

    /// Takes the news.
    fn hear(&mut self) {
        let mut news = mem::take(&mut self.news);
        if let Some(inlet) = self.inlet() {
            inlet.take(&mut news);
        }
        for one in news.drain(..) {
            match one {
                News::Owned(line) => self.adopt(*line),
                News::Opened(outbox) => drop(self.outboxes.insert(outbox.id, outbox)),
                News::Batch(batch) => self.batches.push_back(batch),
                News::Write(stream) => {
                    if let Some(outbox) = self.outboxes.get(&stream) {
                        outbox.told.store(false, Ordering::Release);
                        self.touched.push(Arc::clone(outbox));
                    }
                }
                News::Read(stream) => {
                    if let Some(line) = self.lines.get_mut(&stream) {
                        line.stalled = false;
                        self.queue(stream);
                        self.ask(stream);
                    }
                }
                News::Closed(stream) => drop(self.outboxes.remove(&stream)),
            }
        }
        self.news = news;
    }

    fn adopt(&mut self, line: Line) {
        let stream = line.id();
        self.metrics.streams.open.inc();
        self.outboxes.insert(stream, Arc::clone(line.outbox()));
        self.dues.push(Reverse((line.due(Instant::now()), stream)));
        let known = self.epoll.add(&line, EpollEvent::new(EpollFlags::empty(), stream.0));
        self.lines.insert(stream, line);
        if known.is_err() {
            return self.end(stream, Ended::Failed.into());
        }
        self.ask(stream);
        // What came with the handshake the kernel has told already.
        self.queue(stream);
    }

    fn queue(&mut self, stream: StreamId) {
        if let Some(line) = self.lines.get_mut(&stream)
            && !mem::replace(&mut line.queued, true)
        {
            self.ready.push_back(stream);
        }
    }

    /// Has the kernel tell what there is to wait for.
    fn ask(&mut self, stream: StreamId) {
        let Some(line) = self.lines.get_mut(&stream) else { return };
        let wanted = line.wanted();
        if wanted == line.asked {
            return;
        }
        line.asked = wanted;
        if self.epoll.modify(&*line, &mut EpollEvent::new(wanted, stream.0)).is_err() {
            self.end(stream, Ended::Failed.into());
        }
    }

    /// What a stream has for this worker. Others get their part.
    fn visit(&mut self, stream: StreamId, now: Instant) -> Option<Batch> {
        let line = self.lines.get_mut(&stream)?;
        line.queued = false;
        if line.stalled {
            return None;
        }
        match line.read(now) {
            Ok(Said::Message(message)) => {
                self.queue(stream);
                self.share(stream, message)
            }
            Ok(Said::Aside) => {
                self.queue(stream);
                None
            }
            Ok(Said::Nothing) => None,
            Err(closing) => {
                self.end(stream, closing);
                None
            }
        }
    }

    fn share(&mut self, stream: StreamId, message: Bytes) -> Option<Batch> {
        let (own, workers) = self.worker;
        let concerned = match frames(&message) {
            Ok(_) if workers == Workers::ONE => 1 << own,
            Ok(frames) => frames.fold(0_u64, |concerned, frame| concerned | 1 << workers.of_frame(frame)),
            Err(why) => {
                self.end(stream, why.into());
                return None;
            }
        };
        if concerned & !(1 << own) != 0 {
            let line = self.lines.get_mut(&stream)?;
            let (room, more) = line.away.room(stream, self.inlets.get(usize::from(own))?);
            line.stalled = !more;
            let batch = Batch { from: stream, message: message.clone(), _room: Some(room) };
            for (worker, inlet) in self.inlets.iter().enumerate() {
                if worker != usize::from(own) && concerned & 1 << worker != 0 {
                    inlet.tell(News::Batch(batch.clone()));
                }
            }
            self.ask(stream);
        }
        (concerned & 1 << own != 0).then_some(Batch { from: stream, message, _room: None })
    }

    fn write(&mut self, stream: StreamId, now: Instant) {
        let Some(line) = self.lines.get_mut(&stream) else { return };
        match line.write(now) {
            Ok(()) => self.ask(stream),
            Err(closing) => self.end(stream, closing),
        }
    }

    fn end(&mut self, stream: StreamId, closing: Closing) {
        let Some(line) = self.lines.remove(&stream) else { return };
        self.outboxes.remove(&stream);
        // The kernel forgets it with its descriptor.
        let _ = self.epoll.delete(&line);
        for (worker, inlet) in self.inlets.iter().enumerate() {
            if worker != usize::from(self.worker.0) {
                inlet.tell(News::Closed(stream));
            }
        }
        self.metrics.streams.open.dec();
        self.metrics.streams.ended(closing.reason).inc();
        line.end(closing);
    }
}

impl Drop for Port {
    /// The worker ends, and its streams with it: they get what was said last, that the relay drains.
    fn drop(&mut self) {
        let now = Instant::now();
        self.hear();
        if let Some(inlet) = self.inlet() {
            // What came just now ends as it is.
            drop(inlet.end());
        }
        let mut streams: Vec<_> = self.lines.keys().copied().collect();
        streams.sort_unstable();
        for stream in streams {
            self.write(stream, now);
            self.end(stream, Ended::Shutdown.into());
        }
    }
}
