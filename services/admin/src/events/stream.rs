//! Server-sent events (WHATWG HTML, section 9.2): each reader is told from the log, at its own pace.
//!
//! Nothing is kept for a reader but where it is and a few events that it has not taken. One that takes nothing for a while is
//! told so and left: it asks again with `Last-Event-ID`, and gets what it missed as long as that is in the log.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix_web::{http::StatusCode, web::Bytes};
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use serde_json::json;
use store::Events;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Event, EventsConfig, filter::Filter};
use crate::{State, auth::Bearer, error::Problem};

/// Events that a reader has not taken yet.
const UNTAKEN: usize = 64;
/// Events that are read at once.
const PAGE: u16 = 200;
/// Between two looks into the log, so that a storm of events is read in pages.
const BREATH: Duration = Duration::from_millis(50);
/// When to come back where there is no room, and after the end of a stream.
const RETRY_S: u64 = 15;
const RECONNECT_MS: u64 = 2_000;

/// The streams of this process.
#[derive(Clone)]
pub(crate) struct Streams {
    pub(crate) config: EventsConfig,
    pub(crate) store: Arc<dyn Events>,
    pub(crate) head: watch::Receiver<u64>,
    pub(crate) ends: CancellationToken,
    pub(crate) tasks: TaskTracker,
    pub(crate) open: Arc<AtomicUsize>,
}

/// Why a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Nobody is there.
    Left,
    TooSlow,
    Over,
    Leaving,
    TokenEnded,
    Failed,
}

impl End {
    /// The last event of the stream. It has no number: a reader goes on after the one before.
    fn text(self) -> Option<Bytes> {
        let (code, detail) = match self {
            Self::Left => return None,
            Self::TooSlow => ("too-slow", "events were not taken in time: ask again from the last one"),
            Self::Over => ("over", "no stream lasts longer: ask again from the last event"),
            Self::Leaving => ("leaving", "this process ends: ask again from the last event"),
            Self::TokenEnded => ("unauthorized", "the token is not valid any more"),
            Self::Failed => ("unavailable", "a part of the service does not answer: ask again later"),
        };
        Some(named("end", &json!({ "code": code, "detail": detail })))
    }
}

/// Takes the place of a stream, and gives it back.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Streams {
    /// A stream of what `filter` wants, of events after `after`, or from now on.
    pub(crate) fn open(
        &self,
        state: Arc<State>,
        bearer: Arc<Bearer>,
        filter: Filter,
        after: Option<u64>,
    ) -> Result<BoxStream<'static, Bytes>, Problem> {
        let place = Place(Arc::clone(&self.open));
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.config.streams {
            let detail = format!("{} streams are open at this process already", self.config.streams);
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-many-streams", detail).retry_after(RETRY_S));
        }
        let (out, taken) = mpsc::channel(UNTAKEN);
        let (end, ended) = oneshot::channel();
        let follower = Follower { streams: self.clone(), state, bearer, filter, out };
        self.tasks.spawn(async move {
            let why = follower.run(after).await;
            drop(place);
            drop(end.send(why.text()));
        });
        let told = stream::unfold((taken, Some(ended)), |(mut taken, ended)| async move {
            if let Some(bytes) = taken.recv().await {
                return Some((bytes, (taken, ended)));
            }
            let last = ended?.await.ok().flatten()?;
            Some((last, (taken, None)))
        });
        Ok(told.boxed())
    }
}

struct Follower {
    streams: Streams,
    state: Arc<State>,
    bearer: Arc<Bearer>,
    filter: Filter,
    out: mpsc::Sender<Bytes>,
}

impl Follower {
    async fn run(self, after: Option<u64>) -> End {
        self.follow(after).await.err().unwrap_or(End::Left)
    }

    async fn follow(&self, after: Option<u64>) -> Result<(), End> {
        let Streams { config, store, head, ends, .. } = &self.streams;
        let mut head = head.clone();
        let over = Instant::now() + config.longest;
        let mut beats = interval_at(Instant::now() + config.heartbeat, config.heartbeat.max(Duration::from_millis(10)));
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // What happened since the end of the log was looked up is news.
        let newest = store.events_after(u64::MAX >> 1, 1).await.map_err(|_| End::Failed)?.newest;
        let mut place = after.unwrap_or(newest).min(newest);
        self.tell(Bytes::from(format!("retry: {RECONNECT_MS}\nid: {place}\n\n"))).await?;
        loop {
            place = self.catch_up(place).await?;
            tokio::select! {
                more = async { head.wait_for(|head| *head > place).await.is_ok() } => {
                    if !more {
                        return Err(End::Leaving);
                    }
                    sleep(BREATH).await;
                }
                _ = beats.tick() => {
                    if !crate::auth::still_counts(&self.state, &self.bearer).await {
                        return Err(End::TokenEnded);
                    }
                    self.tell(Bytes::from_static(b": alive\n\n")).await?;
                }
                () = sleep_until(over) => return Err(End::Over),
                () = ends.cancelled() => return Err(End::Leaving),
                () = self.out.closed() => return Err(End::Left),
            }
        }
    }

    /// Tells everything after `place` that is there. Returns where that ends.
    async fn catch_up(&self, mut place: u64) -> Result<u64, End> {
        loop {
            let page = self.streams.store.events_after(place, PAGE).await.map_err(|_| End::Failed)?;
            if page.newest > place && (page.oldest > place + 1 || page.oldest == 0) {
                let lost = json!({ "code": "gap", "after": place, "oldest": page.oldest });
                self.tell(named("gap", &lost)).await?;
                place = page.oldest.saturating_sub(1).max(place);
            }
            let whole = page.events.len() < usize::from(PAGE);
            for numbered in page.events {
                place = numbered.sequence;
                if self.filter.wants(&numbered.event) {
                    self.tell(told(Event::from(numbered))).await?;
                }
            }
            if whole {
                return Ok(place.max(page.newest));
            }
            if self.streams.ends.is_cancelled() {
                return Err(End::Leaving);
            }
        }
    }

    async fn tell(&self, bytes: Bytes) -> Result<(), End> {
        match timeout(self.streams.config.patience, self.out.send(bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Left),
            Err(_) => Err(End::TooSlow),
        }
    }
}

fn told(event: Event) -> Bytes {
    let text = serde_json::to_string(&event).unwrap_or_default();
    Bytes::from(format!("id: {}\nevent: {}\ndata: {text}\n\n", event.sequence, event.kind))
}

fn named(name: &str, data: &serde_json::Value) -> Bytes {
    Bytes::from(format!("event: {name}\ndata: {data}\n\n"))
}
