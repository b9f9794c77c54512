//! The sessions of this process.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use contract::token::KeySet;
use domain::{
    AddressPrefix, ClientId, Epoch, IdentityKey, InstanceId, NatProfile, SessionTag, SourcePrefix, UnixMillis,
};
use presence::Held;
use tokio::{sync::mpsc, time::Instant};
use wire::{Code, control::Refused, secure::ServerSecret, work::PuzzleMaker};

use crate::{Config, Seams, blocks::BlockedTokens, rotation::Retired};

/// Frames that wait for one session. When full, or over [`QUEUE_BYTES`], the session is ended: the client comes back and gets
/// the state instead of the history.
const QUEUE_FRAMES: usize = 128;

/// Bytes that wait for one session, besides of one frame.
const QUEUE_BYTES: usize = 64 * 1024;

/// What every part of this role shares.
pub(crate) struct Hub {
    pub(crate) config: Config,
    pub(crate) seams: Seams,
    pub(crate) secret: ServerSecret,
    pub(crate) started: Instant,
    /// What tokens are verified with, and when it was asked for last.
    pub(crate) keys: RwLock<(KeySet, Option<Instant>)>,
    pub(crate) retired: Retired,
    /// Told by the reflectors' beats.
    pub(crate) reflectors: tokio::sync::watch::Sender<Reflectors>,
    /// Of this process alone: a puzzle is solved where it was given.
    pub(crate) puzzles: PuzzleMaker,
    pub(crate) blocked: BlockedTokens,
    sessions: Mutex<HashMap<ClientId, Handle>>,
    sources: Mutex<HashMap<SourcePrefix, u32>>,
}

/// Where clients can ask who they are seen as.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reflectors {
    pub(crate) rendezvous: BTreeMap<InstanceId, Heard>,
    pub(crate) relays: BTreeMap<InstanceId, Heard>,
}

/// The reflectors of one process.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) endpoints: Vec<SocketAddr>,
    /// Of a relay.
    pub(crate) region: String,
    /// Of a relay: it takes no new pairs.
    pub(crate) draining: bool,
    pub(crate) at: Instant,
}

/// The way to one session.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    pub(crate) epoch: Epoch,
    pub(crate) tag: SessionTag,
    pub(crate) since: UnixMillis,
    identity: IdentityKey,
    /// Where it comes from: to be counted, not to be told.
    from: AddressPrefix,
    pub(crate) profile: Option<NatProfile>,
    queue: mpsc::Sender<Queued>,
    waiting: Arc<AtomicUsize>,
}

/// What waits for a session.
#[derive(Debug)]
pub(crate) enum Queued {
    /// An encoded frame, shared by all the sessions that it is for.
    Frame(Bytes),
    /// Say this and end.
    End(Box<Refused>),
}

/// The session's end of its queue.
#[derive(Debug)]
pub(crate) struct Queue {
    receiver: mpsc::Receiver<Queued>,
    waiting: Arc<AtomicUsize>,
}

/// A place among the connections of one source.
pub(crate) struct SourceSeat<'a> {
    hub: &'a Hub,
    source: SourcePrefix,
}

impl Hub {
    pub(crate) fn new(config: Config, seams: Seams, secret: ServerSecret) -> Self {
        Self {
            config,
            seams,
            secret,
            started: Instant::now(),
            keys: RwLock::default(),
            retired: Retired::default(),
            reflectors: tokio::sync::watch::Sender::default(),
            puzzles: PuzzleMaker::new(&rand::random()),
            blocked: BlockedTokens::default(),
            sessions: Mutex::default(),
            sources: Mutex::default(),
        }
    }

    /// Takes a session in. Of two of one client the one with the greater epoch stays, whichever comes first.
    pub(crate) fn enter(
        &self,
        client: ClientId,
        identity: IdentityKey,
        epoch: Epoch,
        tag: SessionTag,
        since: UnixMillis,
        from: AddressPrefix,
    ) -> Queue {
        let (queue, receiver) = mpsc::channel(QUEUE_FRAMES);
        let waiting = Arc::new(AtomicUsize::new(0));
        let handle = Handle { epoch, tag, since, identity, from, profile: None, queue, waiting: Arc::clone(&waiting) };
        let mut sessions = self.sessions();
        let older = match sessions.get(&client) {
            Some(newer) if newer.epoch > epoch => Some(handle),
            Some(_) | None => sessions.insert(client, handle),
        };
        self.seams.metrics.sessions.set(i64::try_from(sessions.len()).unwrap_or(i64::MAX));
        drop(sessions);
        if let Some(older) = older {
            older.end(Refused::because(Code::Replaced));
        }
        Queue { receiver, waiting }
    }

    /// Forgets a session.
    pub(crate) fn leave(&self, client: ClientId, epoch: Epoch) {
        let mut sessions = self.sessions();
        if sessions.get(&client).is_some_and(|handle| handle.epoch == epoch) {
            sessions.remove(&client);
            self.seams.metrics.sessions.set(i64::try_from(sessions.len()).unwrap_or(i64::MAX));
        }
    }

    /// How many sessions come from there.
    pub(crate) fn sessions_from(&self, prefix: AddressPrefix) -> u64 {
        self.sessions().values().filter(|handle| prefix.contains(handle.from)).count() as u64
    }

    /// Notes the NAT profile of a session, to be told again when presence forgot it.
    pub(crate) fn profiled(&self, client: ClientId, epoch: Epoch, profile: NatProfile) {
        if let Some(handle) = self.sessions().get_mut(&client).filter(|handle| handle.epoch == epoch) {
            handle.profile = Some(profile);
        }
    }

    /// The way to a session, unless it ended.
    pub(crate) fn find(&self, client: ClientId, epoch: Epoch) -> Option<Handle> {
        self.sessions().get(&client).filter(|handle| handle.epoch == epoch).cloned()
    }

    /// The way to the session of `client`, if it proved this key.
    pub(crate) fn find_under(&self, client: ClientId, identity: &IdentityKey) -> Option<Handle> {
        self.sessions().get(&client).filter(|handle| handle.identity == *identity).cloned()
    }

    /// Puts an encoded frame into the queue of every session.
    pub(crate) fn tell_all(&self, frame: &Bytes) {
        let told = self.sessions().values().filter(|handle| handle.push(frame.clone())).count();
        self.seams.metrics.pushes.inc_by(told as u64);
    }

    /// All sessions, as presence is told of them.
    pub(crate) fn held(&self) -> Vec<(Held, Option<NatProfile>)> {
        let sessions = self.sessions();
        let mut held: Vec<_> = sessions
            .iter()
            .map(|(&client, handle)| {
                let Handle { epoch, tag, since, profile, .. } = *handle;
                (Held { client, epoch, tag, since }, profile)
            })
            .collect();
        held.sort_unstable_by_key(|(held, _)| held.client);
        held
    }

    /// A place for one more connection from `source`; `None` when it has too many.
    pub(crate) fn seat(&self, source: SourcePrefix) -> Option<SourceSeat<'_>> {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let count = sources.entry(source).or_insert(0);
        if *count >= self.config.connections_per_source {
            return None;
        }
        *count += 1;
        Some(SourceSeat { hub: self, source })
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<ClientId, Handle>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SourceSeat<'_> {
    fn drop(&mut self) {
        let mut sources = self.hub.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = sources.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                sources.remove(&self.source);
            }
        }
    }
}

impl Handle {
    /// Puts an encoded frame into the session's queue. Returns whether it had room; without, the session ends.
    pub(crate) fn push(&self, frame: Bytes) -> bool {
        let size = frame.len();
        let before = self.waiting.fetch_add(size, Ordering::Relaxed);
        if before <= QUEUE_BYTES && self.queue.try_send(Queued::Frame(frame)).is_ok() {
            return true;
        }
        self.waiting.fetch_sub(size, Ordering::Relaxed);
        self.waiting.store(usize::MAX / 2, Ordering::Relaxed);
        false
    }

    /// Ends the session with a reason.
    pub(crate) fn end(&self, refused: Refused) {
        if self.queue.try_send(Queued::End(Box::new(refused))).is_err() {
            // No room for the reason: the session sees the mark instead.
            self.waiting.store(usize::MAX / 2, Ordering::Relaxed);
        }
    }
}

impl Queue {
    /// The next entry; `None` when nobody can add one any more.
    pub(crate) async fn next(&mut self) -> Option<Queued> {
        let queued = self.receiver.recv().await?;
        if self.is_over() {
            return Some(Queued::End(Box::new(Refused::because(Code::SlowReader))));
        }
        if let Queued::Frame(frame) = &queued {
            self.waiting.fetch_sub(frame.len(), Ordering::Relaxed);
        }
        Some(queued)
    }

    /// Whether there was no room for something.
    pub(crate) fn is_over(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) >= usize::MAX / 4
    }
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("sessions", &self.sessions().len()).finish_non_exhaustive()
    }
}
