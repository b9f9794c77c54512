//! Discovery and punches of this client: connects the pure machines of `traversal` to bytes and sockets.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use domain::{ClientId, PunchId, PunchOrder, PunchPreparation, PunchReady, SessionTag};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use traversal::{
    discover::{Ask, Discovered, Discovery, Local, Measurement, Reflectors, Socket},
    punch::{self, Punch},
};
use wire::{
    control::{ClientFrame, NatReport},
    probe::{self, Answer},
    punch::PunchSeal,
};

use super::{Output, peer::Endpoint};
use crate::sockets::SocketId;

/// What this client finds out about its NATs, and its punches under way.
#[derive(Debug)]
pub(crate) struct Nat {
    own: ClientId,
    random: StdRng,
    session: Option<Session>,
    discovery: Option<Discovery>,
    /// When the next discovery begins by itself.
    refresh: Option<Instant>,
    punches: BTreeMap<u64, Attempt>,
    next_socket: u16,
    found: Option<Discovered>,
    ways: VecDeque<Way>,
}

/// A direct way that a punch found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) peer: ClientId,
    pub(crate) endpoint: Endpoint,
    pub(crate) rtt: Duration,
}

#[derive(Clone, Debug)]
struct Session {
    tag: SessionTag,
    reflectors: Reflectors,
}

#[derive(Debug)]
struct Attempt {
    peer: ClientId,
    seal: PunchSeal,
    measurement: Option<Measurement>,
    punch: Punch,
    sockets: Vec<SocketId>,
    /// Where the main socket is bound on this machine's interfaces.
    local: Vec<SocketAddr>,
    /// Through which a way was found: they stay open.
    found: BTreeSet<SocketId>,
}

impl Nat {
    pub(crate) fn new(own: ClientId, seed: [u8; 32]) -> Self {
        Self {
            own,
            random: StdRng::from_seed(seed),
            session: None,
            discovery: None,
            refresh: None,
            punches: BTreeMap::new(),
            next_socket: FIRST_PUNCHING,
            found: None,
            ways: VecDeque::new(),
        }
    }

    /// A control session began: measure.
    pub(crate) fn handle_session(
        &mut self,
        now: Instant,
        tag: SessionTag,
        reflectors: &[SocketAddr],
        port: u16,
        outputs: &mut VecDeque<Output>,
    ) {
        self.session = Reflectors::new(reflectors).map(|reflectors| Session { tag, reflectors });
        self.discover(now, port, outputs);
    }

    /// Measures anew: a session began, the network changed, or the last result is old.
    pub(crate) fn discover(&mut self, now: Instant, port: u16, outputs: &mut VecDeque<Output>) {
        let Some(session) = self.session.clone() else { return };
        if self.discovery.is_some() {
            outputs.push_back(Output::Close(SPARE));
        }
        outputs.push_back(Output::Open(SPARE));
        let seed = self.random.random();
        let local = Local { port, address: None, place: 0 };
        self.discovery = Some(Discovery::new(now, session.reflectors, session.tag, local, seed));
        let spread: f64 = self.random.random_range(0.8..1.2);
        self.refresh = Some(now + REFRESH.mul_f64(spread));
        self.drain(outputs);
    }

    /// PREPARE.
    pub(crate) fn handle_preparation(
        &mut self,
        now: Instant,
        preparation: &PunchPreparation,
        local: Vec<SocketAddr>,
        outputs: &mut VecDeque<Output>,
    ) {
        if self.punches.len() >= MAX_PUNCHES {
            return;
        }
        let number = preparation.punch.number;
        let count = preparation.sockets.min(traversal::discover::MAX_PUNCHING_SOCKETS);
        let sockets: Vec<SocketId> = (0..count).map(|_| self.socket()).collect();
        outputs.extend(sockets.iter().map(|&socket| Output::Open(socket)));
        let seed = self.random.random();
        let measurement =
            self.session.as_ref().map(|session| Measurement::new(now, count, session.reflectors, session.tag, seed));
        if measurement.is_none() {
            let ready = PunchReady {
                punch: preparation.punch,
                observations: Vec::new(),
                local: local.clone(),
                mapped: None,
                lan: None,
            };
            outputs.push_back(Output::Say(ClientFrame::PunchReady(ready)));
        }
        let attempt = Attempt {
            peer: preparation.peer,
            seal: PunchSeal::new(&preparation.key, self.own, preparation.peer),
            measurement,
            punch: Punch::new(now, preparation.punch, self.random.random()),
            sockets,
            local,
            found: BTreeSet::new(),
        };
        if let Some(old) = self.punches.insert(number, attempt) {
            outputs.extend(old.sockets.into_iter().map(Output::Close));
        }
        self.drain(outputs);
    }

    /// GO.
    pub(crate) fn handle_order(&mut self, now: Instant, order: PunchOrder, outputs: &mut VecDeque<Output>) {
        if let Some(attempt) = self.punches.get_mut(&order.punch.number) {
            attempt.punch.handle_order(now, order);
        }
        self.drain(outputs);
    }

    /// The punch will not happen.
    pub(crate) fn handle_cancel(&mut self, punch: PunchId, outputs: &mut VecDeque<Output>) {
        if let Some(attempt) = self.punches.get_mut(&punch.number)
            && attempt.punch.id() == punch
        {
            attempt.punch.handle_cancel();
        }
        self.drain(outputs);
    }

    /// A STUN message came.
    pub(crate) fn handle_stun(
        &mut self,
        now: Instant,
        socket: SocketId,
        from: SocketAddr,
        datagram: &[u8],
        outputs: &mut VecDeque<Output>,
    ) {
        match probe::answer(datagram) {
            Ok(Answer::Reflected(reflected)) => {
                if let Some(discovery) = &mut self.discovery
                    && let Some(name) = discovering(socket)
                {
                    discovery.handle_answer(now, name, from, reflected.clone());
                }
                for attempt in self.punches.values_mut() {
                    if let Some(name) = attempt.punching(socket)
                        && let Some(measurement) = &mut attempt.measurement
                    {
                        measurement.handle_answer(now, name, from, reflected.clone());
                    }
                }
            }
            Ok(Answer::Refused { transaction, .. }) => {
                if let Some(discovery) = &mut self.discovery {
                    discovery.handle_refusal(now, transaction);
                }
            }
            Err(_) => {}
        }
        self.drain(outputs);
    }

    /// A punch packet came.
    pub(crate) fn handle_punch(
        &mut self,
        now: Instant,
        socket: SocketId,
        from: SocketAddr,
        datagram: &[u8],
        outputs: &mut VecDeque<Output>,
    ) {
        let Some(number) = wire::punch::claimed_number(datagram) else { return };
        if let Some(attempt) = self.punches.get_mut(&number)
            && let Some(name) = attempt.punching(socket)
            && let Ok(packet) = attempt.seal.open(datagram)
        {
            attempt.punch.handle_packet(now, name, from, packet);
        }
        self.drain(outputs);
    }

    pub(crate) fn handle_deadline(&mut self, now: Instant, port: u16, outputs: &mut VecDeque<Output>) {
        if self.refresh.is_some_and(|refresh| refresh <= now) {
            self.discover(now, port, outputs);
        }
        if let Some(discovery) = &mut self.discovery {
            discovery.handle_timeout(now);
        }
        for attempt in self.punches.values_mut() {
            if let Some(measurement) = &mut attempt.measurement {
                measurement.handle_timeout(now);
            }
            attempt.punch.handle_timeout(now);
        }
        self.drain(outputs);
    }

    pub(crate) fn poll_deadline(&self) -> Option<Instant> {
        let attempts = self.punches.values().flat_map(|attempt| {
            [attempt.measurement.as_ref().and_then(Measurement::poll_timeout), attempt.punch.poll_timeout()]
        });
        let discovery = self.discovery.as_ref().and_then(Discovery::poll_timeout);
        attempts.chain([discovery, self.refresh]).flatten().min()
    }

    /// A way that was found.
    pub(crate) fn poll_way(&mut self) -> Option<Way> {
        self.ways.pop_front()
    }

    /// The last result of a discovery.
    pub(crate) const fn found(&self) -> Option<&Discovered> {
        self.found.as_ref()
    }

    /// Moves what the machines want to the outputs.
    fn drain(&mut self, outputs: &mut VecDeque<Output>) {
        if let Some(discovery) = &mut self.discovery {
            while let Some(ask) = discovery.poll_transmit() {
                let socket = match ask.socket {
                    Socket::Main => SocketId::MAIN,
                    Socket::Spare => SPARE,
                    // Not opened yet.
                    Socket::Burst(_) | Socket::Lifetime(_) | Socket::Punching(_) => continue,
                };
                outputs.push_back(question(socket, &ask));
            }
            while let Some(discovered) = discovery.poll_event() {
                let class = discovered.profile.class();
                tracing::info!(class = class.name(), "the NATs in front of this client were measured");
                let report = NatReport { profile: discovered.profile, observations: discovered.observations.clone() };
                self.found = Some(discovered);
                outputs.push_back(Output::Say(ClientFrame::Nat(report)));
            }
            if discovery.poll_timeout().is_none() {
                self.discovery = None;
                outputs.push_back(Output::Close(SPARE));
            }
        }
        let mut over = Vec::new();
        for (&number, attempt) in &mut self.punches {
            attempt.drain(outputs);
            while let Some(event) = attempt.punch.poll_event() {
                match event {
                    punch::Event::Usable { socket, endpoint, rtt } => {
                        let socket = id_of(&attempt.sockets, socket);
                        attempt.found.insert(socket);
                        let endpoint = Endpoint { socket, address: endpoint };
                        self.ways.push_back(Way { peer: attempt.peer, endpoint, rtt });
                    }
                    punch::Event::Finished(report) => {
                        outputs.push_back(Output::Say(ClientFrame::PunchReport(report)));
                    }
                    punch::Event::Over => over.push(number),
                }
            }
        }
        for number in over {
            if let Some(attempt) = self.punches.remove(&number) {
                let lost = attempt.sockets.into_iter().filter(|socket| !attempt.found.contains(socket));
                outputs.extend(lost.map(Output::Close));
            }
        }
    }

    fn socket(&mut self) -> SocketId {
        let socket = SocketId(self.next_socket);
        self.next_socket = self.next_socket.checked_add(1).unwrap_or(FIRST_PUNCHING);
        socket
    }
}

impl Attempt {
    /// What the punch calls `socket`.
    fn punching(&self, socket: SocketId) -> Option<Socket> {
        if socket == SocketId::MAIN { Some(Socket::Main) } else { self.name(socket) }
    }

    fn name(&self, socket: SocketId) -> Option<Socket> {
        if self.sockets.is_empty() {
            return (socket == SocketId::MAIN).then_some(Socket::Main);
        }
        let place = self.sockets.iter().position(|own| *own == socket)?;
        u16::try_from(place).ok().map(Socket::Punching)
    }

    fn drain(&mut self, outputs: &mut VecDeque<Output>) {
        if let Some(measurement) = &mut self.measurement {
            while let Some(ask) = measurement.poll_transmit() {
                outputs.push_back(question(id_of(&self.sockets, ask.socket), &ask));
            }
            if let Some(observations) = measurement.poll_event() {
                let local = std::mem::take(&mut self.local);
                let ready = PunchReady { punch: self.punch.id(), observations, local, mapped: None, lan: None };
                outputs.push_back(Output::Say(ClientFrame::PunchReady(ready)));
                self.measurement = None;
            }
        }
        while let Some(transmit) = self.punch.poll_transmit() {
            let socket = id_of(&self.sockets, transmit.socket);
            let datagram = BytesMut::from(&self.seal.seal(&transmit.packet)[..]);
            outputs.push_back(Output::Send { socket, to: transmit.to, ttl: transmit.ttl, datagram });
        }
    }
}

/// The socket that a punch calls `name`.
fn id_of(sockets: &[SocketId], name: Socket) -> SocketId {
    match name {
        Socket::Punching(place) => sockets.get(usize::from(place)).copied().unwrap_or(SocketId::MAIN),
        Socket::Main | Socket::Spare | Socket::Burst(_) | Socket::Lifetime(_) => SocketId::MAIN,
    }
}

fn question(socket: SocketId, ask: &Ask) -> Output {
    let datagram = BytesMut::from(&probe::question(&ask.probe)[..]);
    Output::Send { socket, to: ask.to, ttl: None, datagram }
}

const fn discovering(socket: SocketId) -> Option<Socket> {
    match socket {
        SocketId::MAIN => Some(Socket::Main),
        SPARE => Some(Socket::Spare),
        _ => None,
    }
}

/// The socket of the filter test.
const SPARE: SocketId = SocketId(1);
const FIRST_PUNCHING: u16 = 2;
/// Punches at once; the server serialises them anyway.
const MAX_PUNCHES: usize = 64;
/// While nothing changes (NAT.md, section 2).
const REFRESH: Duration = Duration::from_secs(30 * 60);
