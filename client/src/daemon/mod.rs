//! The daemon: moves bytes between sockets, adapter, server and commands, and lets the core decide.
//!
//! One task owns all of it. Each turn waits for whatever comes first and then serves every source within a budget, in this
//! order: events of the server, datagrams, streams, packets of the adapter, commands, deadlines. So a flood on one of them delays the
//! others by a budget, not for ever. Nothing in a turn blocks: datagrams that do not fit are lost, as on any link.

mod chat;
mod commands;
mod govern;
mod outcomes;
mod renewal;
mod requests;
mod rotation;
mod routes;
mod watches;

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use domain::{ClientId, Prefix};
use rand::Rng as _;
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use wire::{
    control::{ClientFrame, ServerFrame, Welcome},
    stream::StreamId,
};

use crate::{
    adapter::{Adapter, PACKET_ROOM},
    command::{Answer, Asked, CommandError, ControlState},
    core::{Core, Output, Saved},
    forwarding::{self, Forwarding},
    home::{Home, HomeError},
    network::{self, Surroundings},
    portmap::{self, Granted, Wish},
    refusal::ControlRefusal,
    settings::{AdapterKind, Settings},
    sockets::{Arrival, Arrived, DATAGRAM_ROOM, Sockets},
    streams::{StreamEvent, Streams},
};
use chat::Chatting;
use requests::Requests;
use watches::Watches;

/// Why the daemon could not begin, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot bind a UDP socket")]
    Sockets(#[source] io::Error),
    #[error("cannot open the network interface; it needs CAP_NET_ADMIN, or use --adapter memory")]
    Adapter(#[source] io::Error),
    #[error("the network interface is gone")]
    AdapterLost(#[source] io::Error),
    #[error(transparent)]
    Home(#[from] HomeError),
}

/// What the control connection tells the daemon.
#[derive(Debug)]
pub enum ControlEvent {
    /// A session began.
    Connected(Box<Welcome>),
    Frame(ServerFrame),
    /// The session ended.
    Lost,
    /// The server knows this client by the next keys, which the home has taken over.
    KeysTaken,
    /// Whether the connection is being tried while there is no session, how that goes in words, and what the server said when
    /// it refused.
    Standing(ControlState, Option<String>, Option<Box<ControlRefusal>>),
}

/// What the daemon is connected to.
#[derive(Debug)]
pub struct Ends {
    pub events: mpsc::Receiver<ControlEvent>,
    pub frames: mpsc::Sender<ClientFrame>,
    pub commands: mpsc::Receiver<Asked>,
    /// What the next login says is known already.
    pub known: watch::Sender<Vec<domain::KnownNetwork>>,
    /// Somebody waits for a session: no reason to put the next try off.
    pub wanted: Arc<Notify>,
    /// The network changed: is the session still there?
    pub moved: Arc<Notify>,
}

/// The daemon before its first turn.
#[derive(Debug)]
pub struct Daemon {
    home: Home,
    settings: Settings,
    own: ClientId,
    core: Core,
    sockets: Sockets,
    streams: Streams,
    adapter: Adapter,
    /// `None` where no interface of the system is used.
    forwarding: Option<Forwarding>,
    /// Networks that the system does not lead into the adapter, and why.
    unrouted: BTreeMap<Prefix, String>,
    ends: Ends,
    requests: Requests,
    watches: Watches,
    chatting: Chatting,
    /// Work that would hold up a turn: hashing, writing to disk.
    work: JoinSet<Work>,
    /// Questions to the router. They end with the daemon, whatever comes of them.
    asking: JoinSet<(Wish, Option<Granted>)>,
    /// To be kept once the disk is free.
    saving: Option<Box<Saved>>,
    /// Answers that must not be given before that.
    promised: Vec<Promise>,
    is_saving: bool,
    /// Commands that wait for a session, and until when.
    early: Vec<Asked>,
    /// Changes of passwords that begin anew.
    renewals: Vec<(Instant, domain::NetworkId, renewal::Again, requests::Answers)>,
    patience: Option<Instant>,
    surroundings: Surroundings,
    /// Tells of changes; `None` where the system does not.
    watch: Option<network::Watch>,
    /// Of the control connection, while there is no session.
    standing: (ControlState, Option<String>, Option<Box<ControlRefusal>>),
    /// When the interfaces are looked at next, and when they were last.
    look: Instant,
    looked: Instant,
    /// The first sign of changes that may still be under way.
    sign: Option<Instant>,
}

/// What came of work in the background.
#[derive(Debug)]
enum Work {
    Hashed(Box<requests::Hashed>),
    Sealed(Result<Box<renewal::Made>, (requests::Answers, crate::password::PasswordError)>),
    Saved(Result<(), HomeError>, Vec<Promise>),
    ChatsKept(Result<(), HomeError>),
    Forwarded(forwarding::Made),
}

type Promise = (requests::Answers, Result<Answer, CommandError>);

impl Daemon {
    /// Opens sockets and adapter, and takes up what the last run knew.
    ///
    /// # Errors
    /// [`Error`].
    pub fn open(home: Home, settings: Settings, ends: Ends) -> Result<Self, Error> {
        let identity = home.identity()?;
        let saved = match home.load_bytes(VIEW)?.map(|bytes| Saved::decode(&bytes)) {
            Some(Ok(saved)) => Some(saved),
            Some(Err(error)) => {
                tracing::warn!(%error, "what the last run knew does not read back; the server tells it again");
                None
            }
            None => None,
        };
        let port = saved.as_ref().map_or(0, |saved| saved.port);
        let streams = Streams::new(settings.proxy.as_deref());
        let sockets = Sockets::bind(port).map_err(Error::Sockets)?;
        let adapter = Adapter::open(settings.adapter, &settings.interface).map_err(Error::Adapter)?;
        let has_interface = settings.adapter == AdapterKind::Tun;
        let forwarding = has_interface.then(|| Forwarding::new(&settings.interface));
        let now = Instant::now();
        let own = identity.client();
        let mut core = Core::new(now.into_std(), own, *identity.tunnel(), settings.choices(), rand::rng().random());
        let watch = network::Watch::new();
        if let Err(error) = &watch {
            tracing::warn!(%error, "the system does not tell of changes of the network; they are looked for");
        }
        let surroundings = Surroundings::look(&settings.interface);
        core.handle_network(now.into_std(), surroundings.clone(), sockets.port());
        if let Some(saved) = saved {
            core.restore(now.into_std(), saved);
        }
        chat::restore(&mut core, &home, now.into_std())?;
        ends.known.send_replace(core.known());
        Ok(Self {
            home,
            settings,
            own,
            core,
            sockets,
            streams,
            adapter,
            forwarding,
            unrouted: BTreeMap::new(),
            ends,
            requests: Requests::default(),
            watches: Watches::default(),
            chatting: Chatting::default(),
            work: JoinSet::new(),
            asking: JoinSet::new(),
            saving: None,
            promised: Vec::new(),
            is_saving: false,
            early: Vec::new(),
            renewals: Vec::new(),
            patience: None,
            surroundings,
            watch: watch.ok(),
            standing: (ControlState::Connecting, None, None),
            look: now + LOOK,
            looked: now,
            sign: None,
        })
    }

    /// Runs until `shutdown`, then says goodbye to the peers and keeps what is known.
    ///
    /// # Errors
    /// [`Error`], when going on is impossible.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), Error> {
        let mut datagram = [0; DATAGRAM_ROOM];
        let mut packet = [0; PACKET_ROOM];
        loop {
            self.settle()?;
            let deadline = self.poll_deadline();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(event) = self.ends.events.recv() => self.handle_event(event),
                arrival = self.sockets.receive(&mut datagram) => self.handle_arrival(arrival, &datagram),
                event = self.streams.receive() => self.handle_relay_stream(event),
                size = self.adapter.receive(&mut packet) => {
                    let size = size.map_err(Error::AdapterLost)?;
                    self.core.handle_packet(now(), &packet[..size]);
                }
                Some(asked) = self.ends.commands.recv() => self.handle_command(asked),
                Some(done) = self.work.join_next() => self.handle_work(done),
                Some(Ok((wish, granted))) = self.asking.join_next() => self.core.handle_mapped(now(), &wish, granted),
                () = changed(&mut self.watch) => self.handle_sign(),
                () = tokio::time::sleep_until(deadline) => {}
            }
            self.serve_all(&mut datagram, &mut packet);
        }
        self.core.say_farewell(now());
        self.settle()?;
        self.streams.shut_down().await;
        if let Some(wish) = self.core.leftover_mapping() {
            portmap::release(wish).await;
        }
        while self.work.join_next().await.is_some() {}
        self.stop_forwarding().await;
        self.home.save_bytes(VIEW, &self.core.saved().encode())?;
        self.keep_last_chats()?;
        Ok(())
    }

    /// Serves what is there already, each source within its budget.
    fn serve_all(&mut self, datagram: &mut [u8], packet: &mut [u8]) {
        for _ in 0..BUDGET {
            let Ok(event) = self.ends.events.try_recv() else { break };
            self.handle_event(event);
        }
        for _ in 0..BUDGET {
            let Some(arrival) = self.sockets.try_receive(datagram) else { break };
            self.handle_arrival(arrival, datagram);
            self.drain();
        }
        for _ in 0..BUDGET {
            let Some(event) = self.streams.try_receive() else { break };
            self.handle_relay_stream(event);
            self.drain();
        }
        for _ in 0..BUDGET {
            let Some(size) = self.adapter.try_receive(packet) else { break };
            self.core.handle_packet(now(), &packet[..size]);
            self.drain();
        }
        let now = Instant::now();
        if self.core.poll_deadline() <= now.into_std() {
            self.core.handle_deadline(now.into_std());
        }
        self.requests.handle_deadline(now);
        if self.watches.poll_deadline().is_some_and(|due| due <= now) {
            self.watches.handle_deadline(now, &mut self.core);
        }
        if self.patience.is_some_and(|until| until <= now) {
            self.serve_early();
        }
        self.renew_again(now);
        if self.look <= now {
            self.look_around(now);
        }
    }

    /// Commands that waited for a session: there is one, or none will come soon.
    fn serve_early(&mut self) {
        // While they are served, patience is at its end: what has no session now is refused.
        self.patience = Some(Instant::now());
        for asked in std::mem::take(&mut self.early) {
            self.handle_command(asked);
        }
        self.patience = None;
    }

    /// Something changed: packets are lost until this is known, so it is looked at once, and again when it is over.
    fn handle_sign(&mut self) {
        let now = Instant::now();
        self.sign.get_or_insert(now);
        self.look = self.look.min(now.max(self.looked + GLANCE));
    }

    fn look_around(&mut self, now: Instant) {
        self.looked = now;
        self.core.handle_clock(now.into_std(), chat::wall_clock());
        let found = Surroundings::look(&self.settings.interface);
        match self.sign.map(|sign| sign + network::SETTLE).filter(|settled| now < *settled) {
            Some(settled) => {
                self.look = settled;
                // The old address went before the new one came.
                if found.source.is_none() {
                    return;
                }
            }
            None => {
                self.sign = None;
                self.look = now + LOOK;
            }
        }
        if found == self.surroundings {
            return;
        }
        if found.moved_from(&self.surroundings) {
            if let Err(error) = self.sockets.rebind() {
                tracing::warn!(%error, "the UDP socket could not be bound anew");
            }
            self.ends.moved.notify_one();
            self.ends.wanted.notify_one();
        }
        self.surroundings.clone_from(&found);
        self.core.handle_network(now.into_std(), found, self.sockets.port());
    }

    /// Does all that the core wants, and tells those who wait.
    fn settle(&mut self) -> Result<(), Error> {
        self.drain();
        self.forward();
        self.watches.look(Instant::now(), &self.core);
        self.look_at_chats();
        if !self.is_saving
            && let Some(saved) = self.saving.take()
        {
            let home = self.home.clone();
            let promised = std::mem::take(&mut self.promised);
            self.ends.known.send_replace(self.core.known());
            self.is_saving = true;
            self.work.spawn_blocking(move || Work::Saved(home.save_bytes(VIEW, &saved.encode()), promised));
        }
        Ok(())
    }

    fn drain(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Send { to, datagram, .. } if let Some(stream) = StreamId::of(&to) => {
                    self.streams.send(stream, &datagram);
                }
                Output::OpenStream { stream, endpoints } => self.streams.open(stream, endpoints),
                Output::CloseStream(stream) => self.streams.close(stream),
                Output::Send { socket, to, ttl, datagram } => {
                    if let Err(error) = self.sockets.send(socket, to, ttl, &datagram) {
                        tracing::trace!(%error, "a datagram could not be sent");
                    }
                }
                Output::Deliver(packet) => self.adapter.deliver(&packet),
                Output::Say(frame) => self.say(frame),
                Output::Ask(request) => {
                    let number = self.requests.number();
                    self.say(ClientFrame::Request(number, request));
                }
                Output::Configure(lan) => {
                    if let Err(error) = self.adapter.configure(&lan) {
                        tracing::error!(%error, "the network interface could not be configured");
                    }
                }
                Output::Route(routing) => self.route(&routing),
                Output::Members(members) => self.adapter.set_members(&members),
                Output::Open(socket) => {
                    if let Err(error) = self.sockets.open(socket) {
                        tracing::debug!(%error, "no socket to measure or punch with");
                    }
                }
                Output::WantKeys(network) => {
                    let (number, request) = self.requests.keys(Instant::now(), network);
                    self.say(ClientFrame::Request(number, request));
                }
                Output::WantSeal(network) => {
                    let (number, request) = self.requests.sealed(Instant::now(), network);
                    self.say(ClientFrame::Request(number, request));
                }
                Output::WantMembership(network) => {
                    let (number, request) = self.requests.membership(Instant::now(), network);
                    self.say(ClientFrame::Request(number, request));
                }
                Output::Prove(network, epoch, proof) => {
                    let (number, request) = self.requests.prove(Instant::now(), network, epoch, proof);
                    self.say(ClientFrame::Request(number, request));
                }
                Output::MakeSecret(network, task) => self.make_secret(network, task),
                Output::MapPort(wish) => {
                    self.asking.spawn(async move { (wish, portmap::ask(wish).await) });
                }
                Output::Close(socket) => self.sockets.close(socket),
                Output::Call { port, peer, call } => self.sockets.call(port, peer, call),
                Output::Pong { number, rtt, route, .. } => self.watches.handle_pong(number, rtt, route),
                Output::Save(saved) => self.saving = Some(saved),
                Output::KeepChats(bytes) => self.keep_chats(bytes),
            }
        }
    }

    /// A frame that finds no room is lost with the session that does not take it.
    fn say(&self, frame: ClientFrame) {
        if self.core.is_online()
            && let Err(error) = self.ends.frames.try_send(frame)
        {
            tracing::debug!(%error, "a frame for the server was dropped");
        }
    }

    fn handle_arrival(&mut self, arrival: Arrival, datagram: &[u8]) {
        let Arrival { socket, from, size, what } = arrival;
        match what {
            Arrived::Datagram => self.core.handle_datagram(now(), socket, from, &datagram[..size]),
            Arrived::Connected => self.core.handle_stream(now(), socket, from),
            Arrived::Disconnected => self.core.handle_stream_lost(now(), socket, from),
        }
    }

    fn handle_relay_stream(&mut self, event: StreamEvent) {
        match event {
            StreamEvent::Opened(stream, endpoint) => self.core.handle_relay_stream_opened(now(), stream, endpoint),
            StreamEvent::Message(stream, message) => self.core.handle_relay_stream_message(now(), stream, &message),
            StreamEvent::Closed(stream) => self.core.handle_relay_stream_closed(now(), stream),
        }
    }

    fn poll_deadline(&self) -> Instant {
        let watches = self.watches.poll_deadline();
        let again = self.renewals.iter().map(|(due, ..)| *due).min();
        let others = [
            self.requests.poll_deadline(),
            watches,
            Some(self.look),
            self.patience,
            again,
            self.chatting.poll_deadline(),
        ];
        others.into_iter().flatten().fold(self.core.poll_deadline().into(), Instant::min)
    }
}

/// Waits for a change of the network, for ever where the system does not tell.
async fn changed(watch: &mut Option<network::Watch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

pub(crate) const VIEW: &str = "view.cbor";
/// Of each source in a turn.
const BUDGET: usize = 64;
/// How long a command waits for the session that it needs.
const PATIENCE: Duration = Duration::from_secs(10);
/// The least time between two looks at the interfaces.
const GLANCE: Duration = Duration::from_millis(20);
/// How often the interfaces are looked at, whatever the system tells.
const LOOK: Duration = Duration::from_secs(3);
