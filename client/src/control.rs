//! The control connection: finds a way to the server, proves who both are, keeps the session, comes back when it is lost.
//!
//! Ways are tried one after the other, the next one after three seconds or as soon as one failed; the first that opens a
//! secure channel wins, and is tried first the next time from the same local network. After a loss the delay that the
//! server named is kept; without one it is random up to half a second, doubling to thirty (full jitter).

pub(crate) mod way;
mod work;

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use domain::{KnownNetwork, TunnelKey};
use rand::Rng as _;
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinSet,
    time::{Instant, interval_at, sleep, sleep_until, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tunnel::Local;
use wire::{
    Code,
    control::{ClientFrame, FrameError, LOGIN_CONTEXT, Login, Refused, ServerFrame, VERSION, Welcome},
    secure::{Channel, Event, SecureError},
    server_url::{ServerKey, ServerUrl},
};

use crate::{
    command::ControlState,
    daemon::ControlEvent,
    home::{Home, HomeError, Identity},
    network, refusal,
    service::chain,
};
use way::{Pipe, Proxy, Way};

/// Before the next way is tried beside the ones under way.
const NEXT_WAY: Duration = Duration::from_secs(3);

/// How long a server may take to answer the login.
const LOGIN_PATIENCE: Duration = Duration::from_secs(30);

/// How long a server may take when it asked for work: that takes a while, too.
const WORK_PATIENCE: Duration = Duration::from_secs(60);

/// How long a session has to show that it outlived a change of the network.
const PROOF: Duration = Duration::from_secs(3);

const FIRST_DELAY: Duration = Duration::from_millis(500);
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// The longest that a server is obeyed.
const LONGEST_NAMED: Duration = Duration::from_secs(10 * 60);

/// Where the ways that worked are kept.
pub(crate) const WAYS: &str = "ways.json";

/// Local networks whose way is remembered.
const MOST_WAYS: usize = 32;

/// What the connection and the daemon say to each other.
#[derive(Debug)]
pub struct Link {
    pub events: mpsc::Sender<ControlEvent>,
    pub frames: mpsc::Receiver<ClientFrame>,
    /// What the next login says is known already.
    pub known: watch::Receiver<Vec<KnownNetwork>>,
    /// Somebody waits for a session: no reason to put the next try off.
    pub wanted: Arc<Notify>,
    /// The network changed: is the session still there?
    pub moved: Arc<Notify>,
}

/// Why the connection cannot even be tried.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the server's URL is not valid")]
    Url(#[from] wire::server_url::ServerUrlError),
    #[error("the proxy is not valid: http://HOST:PORT is")]
    Proxy,
    #[error(transparent)]
    Home(#[from] HomeError),
}

/// The connection before its first try.
#[derive(Debug)]
pub struct Control {
    home: Home,
    identity: Identity,
    tunnel: TunnelKey,
    url: ServerUrl,
    proxy: Option<Proxy>,
    link: Link,
    /// Spares the server work at the next login.
    token: Option<String>,
    /// Connections that failed, one after the other.
    failures: u32,
    /// The server named the delay.
    told_to_wait: bool,
}

/// Why a session is not, or no longer.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("the connection failed")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Secure(#[from] SecureError),
    #[error("the server spoke out of turn")]
    Frame(#[from] FrameError),
    #[error("the server refused")]
    Refused(Refused),
    #[error("the server did not answer in time")]
    Silent,
    #[error("the server asks for more work than any honest one does")]
    TooMuchWork,
    #[error("the network changed")]
    Moved,
    #[error(transparent)]
    Home(#[from] HomeError),
    #[error("the daemon ends")]
    Shutdown,
}

impl Control {
    /// A connection to `server`. `tunnel` is the public half of the identity's tunnel key.
    ///
    /// # Errors
    /// [`Error`] when `server` or `proxy` cannot be understood, or the home cannot be read.
    pub fn new(home: Home, server: &str, proxy: Option<&str>, tunnel: TunnelKey, link: Link) -> Result<Self, Error> {
        let url: ServerUrl = server.parse()?;
        let proxy = proxy.map(|proxy| Proxy::parse(proxy).ok_or(Error::Proxy)).transpose()?;
        let identity = home.identity()?;
        Ok(Self { home, identity, tunnel, url, proxy, link, token: None, failures: 0, told_to_wait: false })
    }

    /// Keeps a session until `shutdown`, or until the server says that another one replaced it.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let Some(delay) = self.try_once(&shutdown).await else {
                shutdown.cancelled().await;
                return;
            };
            // What was said to a session that is over means nothing to the next one.
            while self.link.frames.try_recv().is_ok() {}
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep(delay) => {}
                // A server that named a delay means it; our own patience can be cut short.
                () = self.link.wanted.notified(), if !self.told_to_wait => {}
            }
        }
    }

    /// One session from beginning to end. Returns when to try again; `None` means never.
    async fn try_once(&mut self, shutdown: &CancellationToken) -> Option<Duration> {
        let mut had_session = false;
        let lost = match self.session(shutdown, &mut had_session).await {
            Ok(()) | Err(Lost::Shutdown) => return None,
            Err(lost) => lost,
        };
        let rotated = matches!(&lost, Lost::Refused(refused) if refused.code == Code::KeyRotated.number());
        let has_later_keys = rotated && self.take_later_keys().await;
        if had_session {
            self.failures = 0;
            self.tell(ControlEvent::Lost).await;
        }
        if has_later_keys {
            return Some(Duration::ZERO);
        }
        let (state, detail, delay) = self.judge(&lost);
        tracing::warn!(reason = detail, "no session");
        let refusal = if let Lost::Refused(refused) = &lost { Some(Box::new(refused.into())) } else { None };
        self.tell(ControlEvent::Standing(state, Some(detail), refusal)).await;
        self.failures = self.failures.saturating_add(1);
        delay
    }

    /// The server knows this client by a later key: takes over what was prepared, if this is the machine that asked for it.
    async fn take_later_keys(&mut self) -> bool {
        let taken = self.home.take_next_keys().and_then(|()| self.home.identity());
        match taken {
            Ok(identity) if identity.public() != self.identity.public() => {
                self.tunnel = Local::new(*identity.tunnel()).public();
                self.identity = identity;
                self.token = None;
                self.tell(ControlEvent::KeysTaken).await;
                true
            }
            Ok(_) => false,
            Err(error) => {
                tracing::error!(%error, "later keys cannot be taken over");
                false
            }
        }
    }

    /// What a loss means: what people are told, and when to try again.
    fn judge(&mut self, lost: &Lost) -> (ControlState, String, Option<Duration>) {
        let code = match lost {
            Lost::Refused(refused) => Code::from_number(refused.code),
            Lost::Secure(SecureError::KeyMismatch) => Some(Code::ServerKeyMismatch),
            Lost::Secure(SecureError::Rejected { code, .. }) => Code::from_number(*code),
            Lost::Secure(_)
            | Lost::Io(_)
            | Lost::Frame(_)
            | Lost::Silent
            | Lost::TooMuchWork
            | Lost::Moved
            | Lost::Home(_)
            | Lost::Shutdown => None,
        };
        let named = match lost {
            Lost::Refused(refused) => refused.retry_after_ms.map(|ms| Duration::from_millis(ms.into())),
            Lost::Secure(SecureError::Rejected { retry_after, .. }) => *retry_after,
            Lost::Secure(_)
            | Lost::Io(_)
            | Lost::Frame(_)
            | Lost::Silent
            | Lost::TooMuchWork
            | Lost::Moved
            | Lost::Home(_)
            | Lost::Shutdown => None,
        };
        self.told_to_wait = named.is_some();
        // Anybody in between can reject a connection that is not secure yet, but not for ever.
        let authentic = matches!(lost, Lost::Refused(_));
        let named = named.map(|delay| delay.min(if authentic { LONGEST_NAMED } else { LONGEST_DELAY }));
        let mut detail = match code {
            Some(code) => format!("{}: {}", code.name(), code.text()),
            None => chain(lost),
        };
        if let Lost::Refused(Refused { block: Some(notice), .. }) = lost {
            detail = format!("{detail} ({})", refusal::words(notice));
        }
        match code {
            Some(Code::Replaced) if authentic => (ControlState::Offline, detail, None),
            Some(
                Code::ServerKeyMismatch
                | Code::Unsupported
                | Code::Blocked
                | Code::KeyRotated
                | Code::RegistrationBlocked
                | Code::WorkRequired,
            ) => (ControlState::Offline, detail, Some(named.unwrap_or(LONGEST_DELAY))),
            Some(Code::SignatureInvalid) => {
                self.token = None;
                (ControlState::Offline, detail, Some(LONGEST_DELAY))
            }
            Some(_) | None => (ControlState::Connecting, detail, Some(named.unwrap_or_else(|| self.jitter()))),
        }
    }

    fn jitter(&self) -> Duration {
        let most = (FIRST_DELAY * 2_u32.saturating_pow(self.failures.min(10))).min(LONGEST_DELAY);
        rand::rng().random_range(Duration::ZERO..=most)
    }

    async fn session(&mut self, shutdown: &CancellationToken, had_session: &mut bool) -> Result<(), Lost> {
        self.tell(ControlEvent::Standing(ControlState::Connecting, None, None)).await;
        let pinned = self.pinned()?;
        let (way, mut wire, key) = tokio::select! {
            () = shutdown.cancelled() => return Err(Lost::Shutdown),
            connected = self.connect(pinned) => connected?,
        };
        if pinned.is_none() {
            tracing::warn!(server = %self.url, key = %key, "the server's key is trusted from now on; compare it with what its operator shows");
            self.home.pin(&self.url.authority(), &key.to_string())?;
        }
        let welcome =
            timeout(LOGIN_PATIENCE + WORK_PATIENCE, self.login(&mut wire)).await.map_err(|_| Lost::Silent)??;
        self.remember(way);
        tracing::info!(way = way.name(), "session");
        let keepalive = Duration::from_millis(u64::from(welcome.keepalive_ms.max(1_000)));
        if welcome.token.is_some() {
            self.token.clone_from(&welcome.token);
        }
        *had_session = true;
        self.tell(ControlEvent::Connected(Box::new(welcome))).await;
        self.keep(&mut wire, keepalive, shutdown).await
    }

    /// The key that the server must have.
    fn pinned(&self) -> Result<Option<ServerKey>, Lost> {
        if self.url.key().is_some() {
            return Ok(self.url.key());
        }
        let text = self.home.pinned(&self.url.authority())?;
        Ok(text.and_then(|text| text.parse().ok()))
    }

    /// The first way that opens a secure channel.
    async fn connect(&self, pinned: Option<ServerKey>) -> Result<(Way, Wire, ServerKey), Lost> {
        let mut ways = Way::in_order(self.remembered(), self.proxy.is_some()).into_iter();
        let mut tries = JoinSet::new();
        let mut worst: Option<Lost> = None;
        loop {
            match ways.next() {
                Some(way) => {
                    let (url, proxy) = (self.url.clone(), self.proxy.clone());
                    tries.spawn(async move {
                        let opened = async {
                            let pipe = way.open(&url, proxy.as_ref()).await?;
                            let mut wire = Wire { pipe, channel: Channel::client(pinned) };
                            let key = timeout(way::PATIENCE, wire.open()).await.map_err(|_| Lost::Silent)??;
                            Ok::<_, Lost>((way, wire, key))
                        };
                        opened.await
                    });
                }
                None if tries.is_empty() => return Err(worst.unwrap_or(Lost::Silent)),
                None => {}
            }
            let pause = if ways.len() == 0 { LOGIN_PATIENCE } else { NEXT_WAY };
            match timeout(pause, tries.join_next()).await {
                Ok(Some(Ok(Ok(opened)))) => return Ok(opened),
                // A server that has no room for us has none on another way either.
                Ok(Some(Ok(Err(lost @ Lost::Secure(SecureError::Rejected { .. }))))) => return Err(lost),
                // A server that is there and refuses says more than a port that is closed.
                Ok(Some(Ok(Err(lost)))) => {
                    if worst.is_none() || matches!(lost, Lost::Secure(_)) {
                        worst = Some(lost);
                    }
                }
                Ok(Some(Err(_)) | None) | Err(_) => {}
            }
        }
    }

    async fn login(&self, wire: &mut Wire) -> Result<Welcome, Lost> {
        let hash = *wire.channel.handshake_hash().ok_or(SecureError::NotOpen)?;
        let login = Login {
            version: VERSION,
            identity: self.identity.public(),
            tunnel: self.tunnel,
            tunnel_signature: self.identity.sign_tunnel(&self.tunnel),
            signature: self.identity.sign(&[LOGIN_CONTEXT, &hash]),
            nick: None,
            token: self.token.clone(),
            known: self.link.known.borrow().clone(),
            client: (!self.identity.lineage().successions().is_empty()).then(|| self.identity.client()),
        };
        wire.send(&ClientFrame::Login(Box::new(login))).await?;
        let mut patience = Instant::now() + LOGIN_PATIENCE;
        loop {
            let frame = timeout_at(patience, wire.receive()).await.map_err(|_| Lost::Silent)??;
            if let ServerFrame::Welcome(welcome) = frame {
                return Ok(*welcome);
            }
            if let ServerFrame::Work(puzzle) = frame {
                let detail =
                    format!("the server asks for {} bits of work before it takes a new client in", puzzle.bits);
                tracing::info!(bits = puzzle.bits, "working for the login");
                self.tell(ControlEvent::Standing(ControlState::Connecting, Some(detail), None)).await;
                let solution = work::solve(*puzzle).await.ok_or(Lost::TooMuchWork)?;
                wire.send(&ClientFrame::Worked(Box::new(solution))).await?;
                patience = Instant::now() + LOGIN_PATIENCE;
                continue;
            }
            if let ServerFrame::Refused(refused) | ServerFrame::Goodbye(refused) = frame {
                return Err(Lost::Refused(refused));
            }
        }
    }

    /// Passes frames on until the session ends.
    async fn keep(&mut self, wire: &mut Wire, keepalive: Duration, shutdown: &CancellationToken) -> Result<(), Lost> {
        let mut pings = interval_at(Instant::now() + keepalive, keepalive);
        let mut number = 0;
        let mut heard = Instant::now();
        // When an answer must have come since the network changed.
        let mut proof: Option<Instant> = None;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => {
                    wire.send(&ClientFrame::Goodbye).await?;
                    wire.pipe.close().await;
                    return Err(Lost::Shutdown);
                }
                frame = wire.receive() => {
                    heard = Instant::now();
                    let frame = frame?;
                    if let ServerFrame::Ping(number) = frame {
                        wire.send(&ClientFrame::Pong(number)).await?;
                    } else {
                        self.take(frame).await?;
                    }
                }
                Some(frame) = self.link.frames.recv() => wire.send(&frame).await?,
                () = self.link.moved.notified() => {
                    // What is sent from an address that this machine has no more goes nowhere.
                    if wire.pipe.local_address().is_some_and(|address| !network::has(address)) {
                        return Err(Lost::Moved);
                    }
                    number += 1;
                    wire.send(&ClientFrame::Ping(number)).await?;
                    proof.get_or_insert(Instant::now() + PROOF);
                }
                () = sleep_until(proof.unwrap_or(heard)), if proof.is_some() => return Err(Lost::Moved),
                _ = pings.tick() => {
                    if heard.elapsed() > 2 * keepalive + keepalive / 2 {
                        return Err(Lost::Silent);
                    }
                    number += 1;
                    wire.send(&ClientFrame::Ping(number)).await?;
                }
            }
        }
    }

    async fn take(&mut self, frame: ServerFrame) -> Result<(), Lost> {
        if let ServerFrame::Goodbye(refused) = frame {
            return Err(Lost::Refused(refused));
        }
        if let ServerFrame::Token(token) = frame {
            self.token = Some(token);
        } else if !matches!(frame, ServerFrame::Pong(_)) {
            self.tell(ControlEvent::Frame(frame)).await;
        }
        Ok(())
    }

    async fn tell(&self, event: ControlEvent) {
        // The daemon takes events in every turn; when it is gone, so is the reason to tell it anything.
        let _ = self.link.events.send(event).await;
    }

    /// The way that worked last from this local network.
    fn remembered(&self) -> Option<Way> {
        let ways: BTreeMap<String, Way> = self.home.load(WAYS).ok()??;
        ways.get(&local_network()?).copied()
    }

    fn remember(&self, way: Way) {
        let Some(network) = local_network() else { return };
        let mut ways: BTreeMap<String, Way> = self.home.load(WAYS).ok().flatten().unwrap_or_default();
        if ways.get(&network) == Some(&way) {
            return;
        }
        while ways.len() >= MOST_WAYS {
            ways.pop_first();
        }
        ways.insert(network, way);
        if let Err(error) = self.home.save(WAYS, &ways) {
            tracing::debug!(%error, "the way is not remembered");
        }
    }
}

/// A secure channel over an open way.
#[derive(Debug)]
struct Wire {
    pipe: Pipe,
    channel: Channel,
}

impl Wire {
    /// Opens the channel. Returns the server's key.
    async fn open(&mut self) -> Result<ServerKey, Lost> {
        loop {
            match self.channel.poll_event()? {
                Some(Event::Opened(key)) => return Ok(key),
                Some(Event::Frame(_)) => return Err(SecureError::NotOpen.into()),
                None => {
                    self.flush().await?;
                    self.fill().await?;
                }
            }
        }
    }

    async fn send(&mut self, frame: &ClientFrame) -> Result<(), Lost> {
        self.channel.send(&frame.encode())?;
        self.flush().await
    }

    /// The next frame. Nothing is lost when the future is dropped.
    async fn receive(&mut self) -> Result<ServerFrame, Lost> {
        loop {
            match self.channel.poll_event()? {
                Some(Event::Frame(bytes)) => match ServerFrame::decode(&bytes) {
                    Ok(frame) => return Ok(frame),
                    // A newer server says things that an older client does not know.
                    Err(FrameError::Unknown) => {}
                    Err(error) => return Err(error.into()),
                },
                Some(Event::Opened(_)) => {}
                None => self.fill().await?,
            }
        }
    }

    async fn fill(&mut self) -> Result<(), Lost> {
        let bytes = self.pipe.read().await?;
        self.channel.handle_bytes(&bytes);
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Lost> {
        let count = self.channel.outgoing().len();
        if count > 0 {
            self.pipe.write(self.channel.outgoing()).await?;
            self.channel.sent(count);
        }
        Ok(())
    }
}

/// Names the network this machine is in, by the address that it would send from.
fn local_network() -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Sends nothing: connecting a UDP socket only asks the routing table.
    socket.connect("192.0.2.1:9").ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            Some(format!("{a}.{b}.{c}.0/24"))
        }
        IpAddr::V6(_) => None,
    }
}
