//! One connection from its first byte to its last.

use std::{
    sync::PoisonError,
    time::{Duration, Instant, SystemTime},
};

use bus::CallError;
use contract::{
    auth::{Login as AskLogin, LoginRefusal},
    gateway::{Notice, Push, Target},
    network::Snapshot,
    session::{SessionChange, SessionChanged},
    token::Session as Proof,
};
use domain::{AddressPrefix, Degree, Epoch, KnownNetwork, Nickname, SessionTag, SourcePrefix, UnixMillis};
use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use rand::Rng as _;
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use wire::{
    Code,
    control::{ClientFrame, Login, Refused, ServerFrame, Welcome},
};

use crate::{
    connection::{Connection, End, Step},
    hub::{Hub, Queue, Queued},
    keep,
    metrics::Turned,
    pipe::Pipe,
    push, relays,
    requests::{Done, Requests, Who, half_life},
    trips::{Trip, Trips},
    work,
};

/// Requests of one client under way; more wait in the client's own stream.
const CONCURRENT_REQUESTS: usize = 8;

/// A client that comes back to a role that does not answer is asked to wait about this long.
const UNAVAILABLE_PAUSE: Duration = Duration::from_secs(5);

/// How a session ended.
#[derive(Debug)]
enum Ended {
    /// The client said goodbye.
    Goodbye,
    /// The connection broke, or the client fell silent.
    Lost,
    /// We ended it, with this reason.
    Told(Refused),
    /// The process ends: the client is to come back.
    Drained,
}

/// What a login led to.
struct Admitted {
    who: Who,
    nick: Option<Nickname>,
    token: Option<String>,
    token_expires: UnixMillis,
    queue: Queue,
}

/// A connection with its stream.
pub(crate) struct Line {
    pipe: Pipe,
    pub(crate) connection: Connection,
}

/// Where a connection comes from: what is limited by, and the narrowest prefix that is told apart.
type Origin = (SourcePrefix, AddressPrefix);

/// Serves one connection. `unfinished` is given back as soon as the client has logged in.
pub(crate) async fn run(
    hub: &Hub,
    pipe: Pipe,
    origin: Origin,
    unfinished: OwnedSemaphorePermit,
    shutdown: &CancellationToken,
) {
    let connection = Connection::new(Instant::now(), hub.secret.clone(), hub.config.requests);
    let mut line = Line { pipe, connection };
    let metrics = &hub.seams.metrics;
    // What is done once lives on the heap while it runs, so that a session weighs what its loop needs.
    let opened = tokio::select! {
        opened = Box::pin(line.log_in(hub)) => opened,
        () = shutdown.cancelled() => Err(Some(Refused::after(Code::Draining, pause()))),
    };
    let (login, rtt) = match opened {
        Ok(opened) => opened,
        Err(refused) => {
            metrics.turned(if refused.is_some() { Turned::Refused } else { Turned::Foreign }).inc();
            line.refuse(refused).await;
            return;
        }
    };
    let known = login.known.clone();
    let admitted = match Box::pin(admit(hub, &mut line, *login, origin, rtt)).await {
        Ok(admitted) => admitted,
        Err(refused) => {
            metrics.turned(if refused.block.is_some() { Turned::Refused } else { Turned::Failed }).inc();
            line.refuse(Some(refused)).await;
            return;
        }
    };
    drop(unfinished);
    let who = admitted.who;
    metrics.logins.inc();
    let ended = line.serve(hub, admitted, known, shutdown).await;
    Box::pin(finish(hub, &mut line, who, ended, shutdown)).await;
}

impl Line {
    /// Waits for the proof of who the client is. An error without a refusal ends in silence.
    async fn log_in(&mut self, hub: &Hub) -> Result<(Box<Login>, Duration), Option<Refused>> {
        let opened = timeout(hub.config.handshake_timeout, self.step()).await;
        match opened.map_err(|_| None)?? {
            Step::Opened => {}
            Step::Login(_) | Step::Worked(_) | Step::Frame(_) => return Err(None),
        }
        self.flush().await.map_err(|_| None)?;
        let answered = Instant::now();
        let step = timeout(hub.config.login_timeout, self.step()).await;
        match step.map_err(|_| Some(Refused::because(Code::LoginTimeout)))?? {
            Step::Login(login) => Ok((login, answered.elapsed())),
            Step::Opened | Step::Worked(_) | Step::Frame(_) => Err(None),
        }
    }

    /// The next step of the connection.
    pub(crate) async fn step(&mut self) -> Result<Step, Option<Refused>> {
        loop {
            match self.connection.poll_step(Instant::now()) {
                Ok(Some(step)) => return Ok(step),
                Ok(None) => {}
                Err(End::Foreign) => return Err(None),
                Err(End::Refused(code)) => return Err(Some(Refused::because(code))),
            }
            // A client that does not know the server's key waits for it.
            self.flush().await.map_err(|_| None)?;
            let bytes = self.pipe.read().await.map_err(|_| None)?;
            self.connection.handle_bytes(&bytes);
        }
    }

    pub(crate) async fn say(&mut self, frame: &ServerFrame) -> std::io::Result<()> {
        self.connection.send(frame);
        self.flush().await
    }

    async fn flush(&mut self) -> std::io::Result<()> {
        let count = self.connection.outgoing().len();
        if count > 0 {
            self.pipe.write(self.connection.outgoing()).await?;
            self.connection.sent(count);
        }
        Ok(())
    }

    /// Ends a connection that did not become a session.
    async fn refuse(&mut self, refused: Option<Refused>) {
        if let Some(refused) = refused {
            self.connection.send(&ServerFrame::Refused(refused));
        }
        // What the channel has to say (its rejection, for one) goes out in any case.
        let _ = self.flush().await;
        self.pipe.close().await;
    }

    /// The session.
    async fn serve(
        &mut self,
        hub: &Hub,
        admitted: Admitted,
        known: Vec<KnownNetwork>,
        shutdown: &CancellationToken,
    ) -> Ended {
        let Admitted { who, nick, token, token_expires, mut queue } = admitted;
        if let Err(ended) = Box::pin(self.begin(hub, who, nick, token, known)).await {
            return ended;
        }
        Box::pin(tell(hub, who, SessionChange::Up)).await;
        let mut requests = Requests::new();
        let mut running: FuturesUnordered<BoxFuture<'_, Done>> = FuturesUnordered::new();
        let silence = 2 * hub.config.keepalive + hub.config.keepalive / 2;
        let mut heard = tokio::time::Instant::now();
        let mut trips = Trips::new(who.trip);
        if let Some(frame) = trips.ask(Instant::now()) {
            self.connection.send(&frame);
        }
        if self.flush().await.is_err() {
            return Ended::Lost;
        }
        let mut renew_at = Some(half_life(token_expires));
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ended::Drained,
                Some(done) = running.next(), if !running.is_empty() => {
                    let (frames, renew_next) = requests.finish(done);
                    renew_at = renew_next.or(renew_at);
                    for frame in frames {
                        self.connection.send(&frame);
                    }
                    if self.flush().await.is_err() {
                        return Ended::Lost;
                    }
                }
                queued = queue.next() => match queued {
                    Some(Queued::Frame(bytes)) => {
                        self.connection.send_encoded(&bytes);
                        if self.flush().await.is_err() {
                            return if queue.is_over() { slow() } else { Ended::Lost };
                        }
                    }
                    Some(Queued::End(refused)) => return Ended::Told(*refused),
                    None => return Ended::Told(Refused::because(Code::Replaced)),
                },
                step = self.step(), if running.len() < CONCURRENT_REQUESTS => {
                    heard = tokio::time::Instant::now();
                    match step {
                        Ok(Step::Frame(ClientFrame::Goodbye)) => return Ended::Goodbye,
                        Ok(Step::Frame(frame @ (ClientFrame::Ping(_) | ClientFrame::Pong(_)))) => {
                            for frame in trips.replies(Instant::now(), &frame).into_iter().flatten() {
                                self.connection.send(&frame);
                            }
                            if self.flush().await.is_err() {
                                return Ended::Lost;
                            }
                        }
                        Ok(Step::Frame(frame)) => {
                            hub.seams.metrics.requests.inc();
                            running.extend(requests.start(hub, Who { trip: trips.trip(), ..who }, frame));
                        }
                        Ok(Step::Opened | Step::Login(_) | Step::Worked(_)) => return Ended::Told(Refused::because(Code::Malformed)),
                        Err(Some(refused)) => return Ended::Told(refused),
                        Err(None) => return Ended::Lost,
                    }
                }
                () = sleep_until(heard + silence) => return Ended::Told(Refused::because(Code::KeepaliveMissed)),
                () = sleep_until(renew_at.unwrap_or(heard)), if renew_at.is_some() => {
                    renew_at = None;
                    running.push(Requests::renew(hub, who));
                }
            }
        }
    }

    /// Welcomes the client and tells it everything it does not know.
    async fn begin(
        &mut self,
        hub: &Hub,
        who: Who,
        nick: Option<Nickname>,
        token: Option<String>,
        known: Vec<KnownNetwork>,
    ) -> Result<(), Ended> {
        let snapshot = Snapshot { client: who.client, known };
        let (snapped, reflectors) = tokio::join!(hub.seams.bus.call(&snapshot), keep::reflectors(hub));
        let snapped = match snapped {
            Ok(snapped) => snapped,
            Err(error) => {
                tracing::debug!(?error, "no snapshot");
                return Err(Ended::Told(Refused::after(Code::Unavailable, pause())));
            }
        };
        let welcome = Welcome {
            client: who.client,
            nick,
            token,
            now: UnixMillis::from(SystemTime::now()),
            keepalive_ms: u32::try_from(hub.config.keepalive.as_millis()).unwrap_or(u32::MAX),
            tag: who.tag,
            relays: relays::named(hub, who.client, None),
            reflectors,
            prefix4: snapped.prefix4,
            prefix6: snapped.prefix6,
            membership_keys: snapped.membership_keys,
        };
        self.connection.send(&ServerFrame::Welcome(Box::new(welcome)));
        for frame in snapped.changes.into_iter().flat_map(push::frames) {
            self.say(&frame).await.map_err(|_| Ended::Lost)?;
        }
        self.say(&ServerFrame::Synced(snapped.addresses, snapped.networks)).await.map_err(|_| Ended::Lost)
    }
}

/// From the proof of identity to a seat in presence.
async fn admit(
    hub: &Hub,
    line: &mut Line,
    login: Login,
    (source, from): Origin,
    rtt: Duration,
) -> Result<Admitted, Refused> {
    let proof = match &login.token {
        Some(token) => resumed(hub, token, &login).await,
        None => None,
    };
    let (client, nick, token, token_expires) = match proof {
        Some(proof) => {
            hub.seams.metrics.resumed.inc();
            (proof.client, None, None, proof.expires)
        }
        None => {
            let mut ask = AskLogin {
                identity: login.identity,
                tunnel: login.tunnel,
                tunnel_signature: login.tunnel_signature,
                nick: login.nick.clone(),
                source,
                client: login.client,
                from: Some(from),
                worked: None,
            };
            let mut answer = hub.seams.bus.call(&ask).await;
            if let Err(CallError::Refused(LoginRefusal::WorkNeeded { bits })) = answer {
                work::ask(line, hub, &login, bits).await?;
                ask.worked = Some(bits);
                answer = hub.seams.bus.call(&ask).await;
            }
            let logged_in = answer.map_err(refusal)?;
            (logged_in.client, logged_in.nick, Some(logged_in.token), logged_in.token_expires)
        }
    };
    let mut tag = [0; 16];
    SystemRandom::new().fill(&mut tag).map_err(|_| Refused::because(Code::Internal))?;
    let tag = SessionTag(tag);
    let now = UnixMillis::from(SystemTime::now());
    let seams = &hub.seams;
    let ttl = hub.config.presence_ttl;
    let up = seams.presence.up(client, seams.instance, tag, Epoch(now.0), now, ttl).await.map_err(|error| {
        tracing::warn!(error = telemetry::incident::chain(&error), "presence takes no session");
        Refused::after(Code::Unavailable, pause())
    })?;
    let queue = hub.enter(client, login.identity, up.epoch, tag, now, from);
    if let Some(before) = up.replaced.filter(|before| before.gateway != seams.instance) {
        let target = Target { client, epoch: before.epoch };
        let push = Push { to: vec![target], notice: Notice::Replaced };
        // That gateway may be gone; if not, it hears of it at the next renewal.
        let _ = seams.bus.publish_to(before.gateway, &push).await;
    }
    let trip = Trip::once(rtt);
    let who = Who { client, epoch: up.epoch, tag, source, trip, identity: login.identity, tunnel: login.tunnel };
    Ok(Admitted { who, nick, token, token_expires, queue })
}

/// What a resumption token says, if it is about the keys that were just proved.
async fn resumed(hub: &Hub, token: &str, login: &Login) -> Option<Proof> {
    let verify = || hub.keys.read().unwrap_or_else(PoisonError::into_inner).0.verify(token);
    let mut verified = verify();
    if matches!(verified, Err(contract::token::TokenError::UnknownKey)) {
        keep::learn_keys(hub).await;
        verified = verify();
    }
    let about_this = |proof: &Proof| proof.identity == login.identity && proof.tunnel == login.tunnel;
    let proof = verified.ok().filter(about_this).filter(|proof| !hub.retired.has(&proof.identity))?;
    // Auth says what somebody meets whom operators hold something against.
    hub.blocked.count(&hub.seams.bus, proof.client).await.then_some(proof)
}

/// What is left to do when a session is over.
async fn finish(hub: &Hub, line: &mut Line, who: Who, ended: Ended, shutdown: &CancellationToken) {
    let metrics = &hub.seams.metrics;
    hub.leave(who.client, who.epoch);
    match ended {
        Ended::Goodbye => down(hub, who, SessionChange::Down).await,
        Ended::Lost => {
            metrics.lost.inc();
            down(hub, who, SessionChange::Lost).await;
        }
        Ended::Told(refused) => {
            // A client that changed its key comes back at once: its seat is kept for it.
            let replaced = [Code::Replaced, Code::KeyRotated].map(Code::number).contains(&refused.code);
            if refused.code == Code::SlowReader.number() {
                metrics.slow_readers.inc();
            }
            // A client that cannot be told finds out by itself.
            let _ = line.say(&ServerFrame::Goodbye(refused)).await;
            if !replaced {
                down(hub, who, SessionChange::Lost).await;
            }
        }
        Ended::Drained => {
            debug_assert!(shutdown.is_cancelled());
            // The seat stays: the client takes a new one elsewhere before this one runs out.
            let _ = line.say(&ServerFrame::Goodbye(Refused::after(Code::Draining, smeared(hub, who)))).await;
        }
    }
    line.pipe.close().await;
}

async fn down(hub: &Hub, who: Who, change: SessionChange) {
    match hub.seams.presence.down(who.client, who.epoch).await {
        Ok(true) => tell(hub, who, change).await,
        Ok(false) => {}
        Err(error) => {
            tracing::warn!(error = telemetry::incident::chain(&error), "presence keeps an ended session for a while")
        }
    }
}

async fn tell(hub: &Hub, who: Who, change: SessionChange) {
    let changed = SessionChanged { client: who.client, epoch: who.epoch, change };
    if let Err(error) = hub.seams.bus.publish(&changed).await {
        tracing::warn!(error = telemetry::incident::chain(&error), "a change of a session was not told");
    }
}

/// When a client of a process that ends is to come back: all of them spread over the time that the rate needs.
fn smeared(hub: &Hub, who: Who) -> Duration {
    let waiting = u64::try_from(hub.seams.metrics.connections.get()).unwrap_or(0);
    let spread_ms = (waiting * 1_000 / u64::from(hub.config.reconnects.get())).max(500);
    let [a, b, c, d, ..] = who.tag.0;
    Duration::from_millis(u64::from(u32::from_be_bytes([a, b, c, d])) % spread_ms)
}

/// How long a client waits that found a part of the service silent: not all of them equally long.
fn pause() -> Duration {
    UNAVAILABLE_PAUSE.mul_f64(rand::rng().random_range(0.5..1.5))
}

fn slow() -> Ended {
    Ended::Told(Refused::because(Code::SlowReader))
}

fn refusal(error: CallError<LoginRefusal>) -> Refused {
    match error {
        CallError::Refused(LoginRefusal::RegistrationLimited { retry_after_ms }) => {
            Refused { retry_after_ms: Some(retry_after_ms), ..Refused::because(Code::RegistrationLimited) }
        }
        CallError::Refused(LoginRefusal::LoginLimited { retry_after_ms }) => {
            Refused { retry_after_ms: Some(retry_after_ms), ..Refused::because(Code::RateLimited) }
        }
        CallError::Refused(LoginRefusal::Withheld { notice, retry_after_ms }) => {
            let code = if notice.degree == Degree::Refuse { Code::Blocked } else { Code::Slowed };
            Refused { retry_after_ms: Some(retry_after_ms), block: Some(notice), ..Refused::because(code) }
        }
        CallError::Refused(LoginRefusal::RegistrationWithheld { notice, retry_after_ms }) => {
            let refuses = notice.degree == Degree::Refuse;
            let code = if refuses { Code::RegistrationBlocked } else { Code::RegistrationLimited };
            Refused { retry_after_ms: Some(retry_after_ms), block: Some(notice), ..Refused::because(code) }
        }
        // More was asked for while the client worked.
        CallError::Refused(LoginRefusal::WorkNeeded { .. }) => Refused::after(Code::WorkRequired, pause()),
        CallError::Refused(LoginRefusal::Signature) => Refused::because(Code::SignatureInvalid),
        CallError::Refused(LoginRefusal::Blocked) => Refused::because(Code::Blocked),
        CallError::Refused(LoginRefusal::Rotated) => Refused::because(Code::KeyRotated),
        CallError::Refused(LoginRefusal::Internal { incident }) => {
            Refused { incident: Some(incident), ..Refused::after(Code::Internal, pause()) }
        }
        CallError::Refused(LoginRefusal::Busy)
        | CallError::TimedOut
        | CallError::Unavailable
        | CallError::Malformed
        | CallError::TooLarge { .. } => Refused::after(Code::Unavailable, pause()),
    }
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_task_of_a_session_stays_small() {
        let task = size_of_returned(run);
        assert!(task <= 2_304, "{task} bytes");
        // A queue keeps room for 32 of them.
        assert!(size_of::<Queued>() <= 40, "{} bytes", size_of::<Queued>());
    }

    #[test]
    fn a_login_that_storage_has_no_time_for_is_to_be_repeated_soon() {
        let refused = refusal(CallError::Refused(LoginRefusal::Busy));
        assert_eq!((refused.code, refused.incident), (Code::Unavailable.number(), None));
        assert!(refused.retry_after_ms.is_some_and(|pause| pause > 0));
    }

    fn size_of_returned<A, B, C, D, E, R>(_: fn(A, B, C, D, E) -> R) -> usize {
        size_of::<R>()
    }
}
