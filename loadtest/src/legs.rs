//! Both ends of every pair: sockets on loopback addresses, and the numbers that the server knows the legs by.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context as _;
use domain::{PayerId, RelayId, UnixMillis};
use nix::{
    errno::Errno,
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
};
use rand::Rng as _;
use socket2::SockRef;
use wire::{
    Code,
    relay::{HEADER_SIZE, MAX_DATAGRAM, Message, Slot},
    stream::MAX_FRAMES,
    ticket::{LegSide, PairNonce, Ticket, TicketKey},
};

use crate::{
    iroh::{self, Endpoint, EndpointId},
    joiner::{self, Joiner, Pass},
    link::{Link, StreamDoor},
    scenario::Scenario,
    server::{Access, KERNEL_BUFFER, Server},
    turn::{self, Answer, CHANNEL_HEADER, Request},
};

/// Pairs have sockets in common from here on; the server tells them apart by their numbers.
pub(crate) const MOST_GROUPS: u32 = 500;

const ANSWER_TIME: Duration = Duration::from_millis(200);
const TRIES: u32 = 30;

/// Sockets that are looked at in one turn.
const READY: usize = 64;

/// A relay seats a leg elsewhere at most once a second.
const MOVE_PAUSE: Duration = Duration::from_millis(1_100);

/// The legs of all pairs at one server.
#[derive(Debug)]
pub(crate) struct Legs {
    access: Access,
    /// Where streams are opened.
    door: Option<StreamDoor>,
    /// Two after another: those of the first and those of the second legs.
    links: Vec<Link>,
    /// Two after another are a pair.
    legs: Vec<Leg>,
    joiner: Joiner,
    epoll: Epoll,
}

#[derive(Debug)]
struct Leg {
    socket: usize,
    /// In the headers of what it sends.
    number: u32,
    ready: bool,
    moved: Option<Instant>,
    /// At a relay.
    pass: Option<Pass>,
    rate: domain::Bandwidth,
    /// At a TURN server: its address there, for its peer.
    relayed: Option<SocketAddr>,
    /// At an iroh-relay: what it is known by, for its peer.
    endpoint: EndpointId,
}

impl Legs {
    /// Legs for all groups of the scenario, not joined yet.
    pub(crate) fn new(server: &Server, scenario: &Scenario) -> anyhow::Result<Self> {
        let groups = scenario.pairs().min(MOST_GROUPS);
        let links = (0..2 * groups).map(|number| {
            if !scenario.streams.has(number % 2) {
                return Ok(Link::Udp(socket(server.address, number / 2).context("cannot make a socket")?));
            }
            let (door, own) =
                (server.streams.as_ref().context("streams: for a relay of the tool's own")?, own_address(number / 2));
            Ok(Link::Stream(Box::new(match server.access {
                Access::OwnKey => door.open_as(own, &any_endpoint()?)?,
                Access::Tickets(..) | Access::Credential(_) | Access::Nothing => door.open(own)?,
            })))
        });
        let links = links.collect::<anyhow::Result<Vec<_>>>()?;
        let epoll = Epoll::new(EpollCreateFlags::empty())?;
        for (number, link) in (0..).zip(&links) {
            epoll.add(link, EpollEvent::new(EpollFlags::EPOLLIN, number))?;
        }
        let places = scenario.groups.iter().flat_map(|group| {
            // The first legs of a star have the socket of its first pair.
            (0..group.pairs).map(|nth| (group.rate, group.star.map_or(0, |star| (nth % star) as usize)))
        });
        let legs = places.enumerate().flat_map(|(pair, (rate, behind_hub))| {
            [0, 1].map(|side| Leg {
                socket: 2 * ((pair - behind_hub * (1 - side)) % groups as usize) + side,
                number: u32::try_from(2 * pair + side).unwrap_or(u32::MAX),
                ready: false,
                moved: None,
                pass: None,
                rate,
                relayed: None,
                endpoint: EndpointId::default(),
            })
        });
        let (legs, joiner) = (legs.collect(), Joiner::new(links.len()));
        let (access, door) = (server.access.clone(), server.streams.clone());
        let mut legs = Self { access, door, links, legs, joiner, epoll };
        (0..legs.pairs()).for_each(|pair| legs.issue(pair));
        Ok(legs)
    }

    /// Joins, or joins again, with every leg.
    pub(crate) fn join(&mut self) -> anyhow::Result<()> {
        match &self.access {
            Access::Tickets(..) => {
                for (number, leg) in self.legs.iter().enumerate() {
                    self.joiner.want(number, leg.socket);
                }
                while !self.joiner.is_idle() {
                    self.ask(Instant::now())?;
                    for socket in self.arrived(10)? {
                        self.hear(socket)?;
                    }
                }
            }
            Access::Nothing => {
                for leg in &self.legs {
                    announce(self.udp(leg.socket)?, leg.number)?;
                }
            }
            Access::Credential(key) => {
                for number in 0..self.legs.len() {
                    let Leg { relayed: None, socket, .. } = self.legs[number] else { continue };
                    self.legs[number].relayed = ask_turn(self.udp(socket)?, Request::Allocate, key)?;
                }
                for (number, leg) in self.legs.iter().enumerate() {
                    let peer = self.legs[number ^ 1].relayed.context("the TURN server told no relayed address")?;
                    ask_turn(self.udp(leg.socket)?, Request::Bind(peer), key)?;
                }
            }
            Access::OwnKey => self.open_again()?,
        }
        self.legs.iter_mut().for_each(|leg| leg.ready = true);
        Ok(())
    }

    /// Opens all streams anew: the server ended those that did not answer while others had their turn.
    fn open_again(&mut self) -> anyhow::Result<()> {
        let door = self.door.clone().context("no streams")?;
        for number in 0..self.links.len() {
            let endpoint = any_endpoint()?;
            let own = own_address(u32::try_from(number / 2)?);
            let stream = Link::Stream(Box::new(door.open_as(own, &endpoint)?));
            self.epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, number as u64))?;
            // The kernel forgets the old one with its descriptor.
            self.links[number] = stream;
            self.legs[number].endpoint = endpoint.id();
        }
        Ok(())
    }

    /// Sends the joins that may be sent now.
    pub(crate) fn ask(&mut self, now: Instant) -> anyhow::Result<()> {
        while let Some((socket, bytes)) = self.joiner.poll_send(now, |leg| self.legs[leg].pass.as_ref())? {
            // When it is lost, it is asked again.
            self.links[socket].send(&bytes)?;
        }
        Ok(())
    }

    /// Takes a message of the relay that is no data.
    pub(crate) fn heard(&mut self, socket: usize, message: &Message<'_>) -> anyhow::Result<()> {
        match self.joiner.handle(socket, message) {
            Some(joiner::Outcome::Joined { leg, socket, slot }) => {
                let leg = &mut self.legs[leg];
                (leg.number, leg.socket, leg.ready) = (slot.0, socket, true);
            }
            Some(joiner::Outcome::Refused { code }) => {
                anyhow::bail!("the relay refused: {}", Code::from_number(code).map_or("unknown code", Code::name));
            }
            None => {}
        }
        Ok(())
    }

    /// Ends a pair, and has another begin in its place. Whether it could: a pair that is not complete yet is left alone.
    pub(crate) fn replace(&mut self, pair: usize) -> bool {
        let can = self.is_ready(pair);
        if can {
            self.issue(pair);
            for number in [2 * pair, 2 * pair + 1] {
                let leg = &mut self.legs[number];
                (leg.ready, leg.moved) = (false, None);
                self.joiner.want(number, leg.socket);
            }
        }
        can
    }

    /// Has a leg go on at the address of `socket`, one of the same side. Whether it could: a leg rests between moves.
    pub(crate) fn relocate(&mut self, number: usize, socket: usize, now: Instant) -> bool {
        let complete = self.is_ready(number / 2);
        let leg = &mut self.legs[number];
        let rested = leg.moved.is_none_or(|moved| now - moved >= MOVE_PAUSE);
        let can = complete && rested && leg.socket != socket && leg.socket % 2 == socket % 2;
        if can {
            (leg.ready, leg.moved) = (false, Some(now));
            self.joiner.want(number, socket);
        }
        can
    }

    /// What a relay knows a leg by.
    pub(crate) fn slot(&self, leg: usize) -> Slot {
        Slot(self.legs[leg].number)
    }

    /// How many pairs there are.
    pub(crate) fn pairs(&self) -> usize {
        self.legs.len() / 2
    }

    /// Whether both legs are seated.
    pub(crate) fn is_ready(&self, pair: usize) -> bool {
        self.legs[2 * pair].ready && self.legs[2 * pair + 1].ready
    }

    /// How many sockets there are.
    pub(crate) fn sockets(&self) -> usize {
        self.links.len()
    }

    /// The socket with this number.
    pub(crate) fn link(&mut self, number: usize) -> &mut Link {
        &mut self.links[number]
    }

    /// The socket of a leg.
    pub(crate) fn link_of(&mut self, leg: usize) -> &mut Link {
        &mut self.links[self.legs[leg].socket]
    }

    /// Lets streams write what waits.
    pub(crate) fn flush(&mut self) -> anyhow::Result<()> {
        for link in &mut self.links {
            if let Link::Stream(stream) = link {
                stream.flush()?;
            }
        }
        Ok(())
    }

    fn udp(&self, number: usize) -> anyhow::Result<&UdpSocket> {
        match &self.links[number] {
            Link::Udp(socket) => Ok(socket),
            Link::Stream(_) => anyhow::bail!("streams: for the relay alone"),
        }
    }

    /// Bytes in front of what a leg sends.
    pub(crate) const fn header(&self) -> usize {
        match self.access {
            Access::Tickets(..) | Access::Nothing => HEADER_SIZE,
            Access::Credential(_) => CHANNEL_HEADER,
            Access::OwnKey => iroh::HEADER,
        }
    }

    /// Writes the header of a leg's datagram with `length` bytes of payload.
    pub(crate) fn write_header(&self, leg: usize, length: usize, out: &mut [u8]) {
        match self.access {
            Access::Tickets(..) | Access::Nothing => {
                Message::Data { slot: Slot(self.legs[leg].number), payload: &[] }.write(out);
            }
            Access::Credential(_) => turn::write_channel_header(out, u16::try_from(length).unwrap_or(u16::MAX)),
            Access::OwnKey => iroh::write_header(out, &self.legs[leg ^ 1].endpoint),
        }
    }

    /// What a datagram carries; a message of the relay that carries nothing is heard.
    pub(crate) fn payload<'a>(&mut self, socket: usize, datagram: &'a [u8]) -> anyhow::Result<Option<&'a [u8]>> {
        match self.access {
            Access::Credential(_) => return Ok(turn::channel_data(datagram)),
            // The stream took its header off.
            Access::OwnKey => return Ok(Some(datagram)),
            Access::Tickets(..) | Access::Nothing => {}
        }
        match Message::parse(datagram) {
            Some(Message::Data { payload, .. }) => Ok(Some(payload)),
            Some(Message::Copy(copy)) => Ok(Some(copy.sealed)),
            Some(message) => self.heard(socket, &message).map(|()| None),
            None => Ok(None),
        }
    }

    /// The sockets where something has arrived, after a wait of so many milliseconds for it.
    pub(crate) fn arrived(&self, wait: u8) -> anyhow::Result<impl Iterator<Item = usize> + use<>> {
        let mut events = [EpollEvent::empty(); READY];
        let ready = match self.epoll.wait(&mut events, EpollTimeout::from(wait)) {
            Ok(ready) => ready,
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        Ok(events.into_iter().take(ready).filter_map(|event| usize::try_from(event.data()).ok()))
    }

    /// Takes what has arrived, outside of any measurement: a datagram, or what a stream has.
    fn hear(&mut self, socket: usize) -> anyhow::Result<()> {
        let mut buffers = [[0; MAX_DATAGRAM]; MAX_FRAMES];
        let mut lengths = [0; MAX_FRAMES];
        loop {
            let (count, all) = match &mut self.links[socket] {
                Link::Udp(socket) => {
                    lengths[0] = socket.recv(&mut buffers[0])?;
                    (1, true)
                }
                Link::Stream(stream) => {
                    let count = stream.receive(&mut buffers, &mut lengths)?;
                    (count, count == 0)
                }
            };
            for (buffer, length) in buffers.iter().zip(lengths).take(count) {
                self.payload(socket, &buffer[..length])?;
            }
            if all {
                return Ok(());
            }
        }
    }

    /// New tickets for a pair.
    fn issue(&mut self, pair: usize) {
        let Access::Tickets(relay, key) = &self.access else { return };
        let nonce = PairNonce(rand::rng().random());
        for (side, leg) in [LegSide::A, LegSide::B].into_iter().zip(&mut self.legs[2 * pair..]) {
            leg.pass = Some(pass(*relay, key, nonce, side, leg.rate));
        }
    }
}

fn any_endpoint() -> anyhow::Result<Endpoint> {
    Endpoint::new(&rand::rng().random())
}

fn pass(relay: RelayId, key: &TicketKey, pair: PairNonce, side: LegSide, rate: domain::Bandwidth) -> Pass {
    let expires = UnixMillis::from(SystemTime::now()).plus(Duration::from_secs(3_600));
    let ticket = key.seal(&Ticket { relay, pair, side, rate, payer: PayerId::NOBODY, expires });
    Pass { ticket, key: key.leg_key(&ticket) }
}

/// An address of a group's own, as the relay budgets by source.
fn own_address(group: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(127, 91, 0, 1).to_bits() + group)
}

fn socket(server: SocketAddr, group: u32) -> io::Result<UdpSocket> {
    // A relay elsewhere is reached from wherever the route begins.
    let own = if server.ip().is_loopback() { own_address(group) } else { Ipv4Addr::UNSPECIFIED };
    let socket = UdpSocket::bind((own, 0))?;
    SockRef::from(&socket).set_recv_buffer_size(KERNEL_BUFFER)?;
    SockRef::from(&socket).set_send_buffer_size(KERNEL_BUFFER)?;
    socket.set_read_timeout(Some(ANSWER_TIME))?;
    socket.connect(server)?;
    Ok(socket)
}

fn announce(socket: &UdpSocket, number: u32) -> anyhow::Result<()> {
    let hello = Message::Data { slot: Slot(number), payload: &[] }.to_vec();
    let mut buffer = [0; MAX_DATAGRAM];
    for _ in 0..TRIES {
        socket.send(&hello)?;
        while let Some(length) = receive(socket, &mut buffer)? {
            if buffer[..length] == hello[..] {
                return Ok(());
            }
        }
    }
    anyhow::bail!("the forwarder does not answer")
}

/// The relayed address, where the request is for one.
fn ask_turn(socket: &UdpSocket, request: Request, key: &turn::Key) -> anyhow::Result<Option<SocketAddr>> {
    let mut buffer = [0; MAX_DATAGRAM];
    let mut known: Option<Vec<u8>> = None;
    'tries: for _ in 0..TRIES {
        let transaction = rand::rng().random();
        socket.send(&request.to_vec(transaction, known.as_deref().map(|nonce| (key, nonce))))?;
        while let Some(length) = receive(socket, &mut buffer)? {
            match Answer::parse(&buffer[..length], transaction) {
                Some(Answer::Success(relayed)) => return Ok(relayed),
                // It wants a credential, or one with a newer nonce.
                Some(Answer::Error { code: 401 | 438, nonce: Some(nonce) }) if known.as_ref() != Some(&nonce) => {
                    known = Some(nonce);
                    continue 'tries;
                }
                Some(Answer::Error { code, .. }) => anyhow::bail!("the TURN server refused with {code}: {request:?}"),
                // Late data of the round before.
                None => {}
            }
        }
    }
    anyhow::bail!("the TURN server does not answer")
}

/// The length of the next datagram; `None` when none comes in time.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    match socket.recv(buffer) {
        Ok(length) => Ok(Some(length)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
