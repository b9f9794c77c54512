//! The streams to relays: WebSockets over TLS, opened by the way that the control connection would take, proxy included.
//!
//! Each stream has a task. What it cannot take at once waits in an outbox of 64 KiB and is lost beyond that, as on any link;
//! what it receives waits until the daemon has its turn, and TCP slows the relay down meanwhile. The certificate is not
//! checked, for the reasons that [`wire::stream`] gives.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use domain::StreamEndpoint;
use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use socket2::SockRef;
use tokio::{
    sync::{Notify, mpsc},
    task::JoinSet,
    time::timeout,
};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;
use wire::stream::{FrameError, Outbox, PATH, StreamId, frames};

use crate::control::way::{Proxy, Web, web};

/// All of them.
#[derive(Debug)]
pub struct Streams {
    proxy: Option<Proxy>,
    open: BTreeMap<StreamId, Handle>,
    told: mpsc::Sender<StreamEvent>,
    events: mpsc::Receiver<StreamEvent>,
    tasks: JoinSet<()>,
}

/// What a stream tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamEvent {
    /// It is open, at this endpoint.
    Opened(StreamId, StreamEndpoint),
    /// Whole frames.
    Message(StreamId, Bytes),
    Closed(StreamId),
}

#[derive(Debug)]
struct Handle {
    waiting: Arc<Waiting>,
    closes: CancellationToken,
}

#[derive(Debug)]
struct Waiting {
    frames: Mutex<Outbox>,
    wake: Notify,
}

impl Streams {
    /// None yet; `proxy` is `http://HOST:PORT`.
    #[must_use]
    pub fn new(proxy: Option<&str>) -> Self {
        let (told, events) = mpsc::channel(EVENTS);
        Self { proxy: proxy.and_then(Proxy::parse), open: BTreeMap::new(), told, events, tasks: JoinSet::new() }
    }

    /// Opens one, at the first of `endpoints` that answers.
    pub fn open(&mut self, stream: StreamId, endpoints: Vec<StreamEndpoint>) {
        while self.tasks.try_join_next().is_some() {}
        let waiting = Arc::new(Waiting { frames: Mutex::new(Outbox::new(OUTBOX)), wake: Notify::new() });
        let closes = CancellationToken::new();
        let (proxy, told) = (self.proxy.clone(), self.told.clone());
        self.open.insert(stream, Handle { waiting: Arc::clone(&waiting), closes: closes.clone() });
        self.tasks.spawn(async move {
            let carried = tokio::select! {
                () = closes.cancelled() => Ok(()),
                opened = connect(&endpoints, proxy.as_ref()) => match opened {
                    Ok((web, endpoint)) => carry(stream, web, endpoint, &waiting, &told, &closes).await,
                    Err(error) => Err(error),
                },
            };
            if let Err(error) = carried {
                tracing::info!(error = crate::service::chain(&error), "a stream to a relay ended");
            }
            // Nobody listens any more when the daemon ends.
            let _ = told.send(StreamEvent::Closed(stream)).await;
        });
    }

    /// Closes one.
    pub fn close(&mut self, stream: StreamId) {
        if let Some(handle) = self.open.remove(&stream) {
            handle.closes.cancel();
        }
    }

    /// Sends a frame; it is lost when the stream cannot take it.
    pub fn send(&self, stream: StreamId, frame: &[u8]) {
        let Some(Handle { waiting, .. }) = self.open.get(&stream) else { return };
        if waiting.frames().push(frame) {
            waiting.wake.notify_one();
        } else {
            tracing::trace!("a frame found no room");
        }
    }

    /// The next that a stream tells. Cancel safe.
    pub async fn receive(&mut self) -> StreamEvent {
        match self.events.recv().await {
            Some(event) => self.taken(event),
            None => std::future::pending().await,
        }
    }

    /// The same, if there is something already.
    pub fn try_receive(&mut self) -> Option<StreamEvent> {
        self.events.try_recv().ok().map(|event| self.taken(event))
    }

    /// Closes all, and waits until that is said.
    pub async fn shut_down(&mut self) {
        self.open.values().for_each(|handle| handle.closes.cancel());
        self.open.clear();
        self.events.close();
        while self.tasks.join_next().await.is_some() {}
    }

    fn taken(&mut self, event: StreamEvent) -> StreamEvent {
        if let StreamEvent::Closed(stream) = &event {
            self.open.remove(stream);
        }
        event
    }
}

impl Waiting {
    async fn next(&self) -> Vec<u8> {
        loop {
            if let Some(message) = self.frames().take() {
                return message;
            }
            self.wake.notified().await;
        }
    }

    fn frames(&self) -> MutexGuard<'_, Outbox> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn connect(endpoints: &[StreamEndpoint], proxy: Option<&Proxy>) -> io::Result<(Web, StreamEndpoint)> {
    let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for endpoint in endpoints {
        match timeout(PATIENCE, web(endpoint.host(), endpoint.port(), PATH, proxy)).await {
            Ok(Ok(opened)) => return Ok((opened, endpoint.clone())),
            Ok(Err(error)) => failed = error,
            Err(_) => failed = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(failed)
}

async fn carry(
    stream: StreamId,
    web: Web,
    endpoint: StreamEndpoint,
    waiting: &Waiting,
    told: &mpsc::Sender<StreamEvent>,
    closes: &CancellationToken,
) -> io::Result<()> {
    // Without this more waits in the kernel, and is sent all the same.
    let _ = SockRef::from(web.get_ref().get_ref().0).set_tcp_notsent_lowat(UNSENT);
    tracing::info!(%endpoint, "a stream to a relay is open");
    let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
    told.send(StreamEvent::Opened(stream, endpoint)).await.map_err(gone)?;
    let (mut sink, mut source) = web.split();
    let ended = tokio::select! {
        () = closes.cancelled() => Ok(()),
        ended = read(stream, &mut source, told) => ended,
        ended = write(waiting, &mut sink) => ended,
    };
    if let Ok(mut web) = source.reunite(sink) {
        let closed = async {
            // What was said last, a farewell for one.
            loop {
                let Some(message) = waiting.frames().take() else { return web.close(None).await };
                web.send(Message::Binary(message.into())).await?;
            }
        };
        // The relay may be gone already.
        let _ = timeout(CLOSE_PATIENCE, closed).await;
    }
    ended
}

async fn read(stream: StreamId, source: &mut SplitStream<Web>, told: &mpsc::Sender<StreamEvent>) -> io::Result<()> {
    loop {
        let message = match source.next().await {
            Some(Ok(Message::Binary(message))) => message,
            Some(Ok(Message::Close(Some(frame)))) => return Err(io::Error::other(format!("the relay says: {frame}"))),
            Some(Ok(Message::Close(None))) | None => return Err(io::ErrorKind::UnexpectedEof.into()),
            Some(Ok(Message::Text(_))) => return Err(io::Error::other(FrameError::Text)),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
            Some(Err(error)) => return Err(io::Error::other(error)),
        };
        frames(&message).map(drop).map_err(io::Error::other)?;
        if told.send(StreamEvent::Message(stream, message)).await.is_err() {
            return Ok(());
        }
    }
}

async fn write(waiting: &Waiting, sink: &mut SplitSink<Web, Message>) -> io::Result<()> {
    loop {
        let message = waiting.next().await;
        timeout(WRITE_PATIENCE, sink.send(Message::Binary(message.into()))).await?.map_err(io::Error::other)?;
    }
}

/// Events that wait for the daemon's turn. When full the streams are not read.
const EVENTS: usize = 16;
/// Bytes that wait for one stream.
const OUTBOX: usize = 64 * 1024;
/// How long one endpoint may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// A relay that takes longer to read a message is lost.
const WRITE_PATIENCE: Duration = Duration::from_secs(15);
const CLOSE_PATIENCE: Duration = Duration::from_millis(500);
/// What the kernel takes beyond what was acknowledged.
const UNSENT: u32 = 16 * 1024;
