//! The reflectors: for each address family up to four sockets, and an answer for who asks, over UDP and TCP.

use std::{
    future::poll_fn,
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr, TcpListener},
    os::fd::AsRawFd as _,
    sync::Arc,
    task::Poll,
};

use bus::Served;
use contract::rendezvous::ReflectFrom;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt,
    sockopt::{Ipv4RecvTtl, Ipv6RecvHopLimit},
};
use ring::rand::{SecureRandom as _, SystemRandom};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{io::Interest, net::UdpSocket, sync::watch, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use wire::probe::{
    Asked, Budget, Corner, Desk, Late, MAX_ANSWER_SIZE, MAX_MESSAGE, Mirror, ObservationKey, Sources, Verdict,
};

use crate::{
    Clock, Config, Error, Metrics, Seams,
    elsewhere::{self, Other, Others, Requests},
    metrics::Probed,
    streams::{self, Listener},
};

/// Addresses of one family.
const MOST_ADDRESSES: usize = 2;

/// Questions taken from a socket before the others have their turn.
const BATCH: usize = 64;

/// Times that a port is looked for that is free for UDP and TCP, when any will do.
const TRIES: usize = 20;

/// The open sockets.
#[derive(Debug)]
pub(crate) struct Probes {
    /// IPv4 first.
    faces: Vec<Face>,
    secret: u64,
    budget: Budget,
    limits: streams::Limits,
}

/// The reflector of one address family.
#[derive(Debug)]
struct Face {
    sockets: Arc<Corners>,
    listeners: Vec<Listener>,
    mirror: Mirror,
}

type Corners = [Option<UdpSocket>; 4];

impl Probes {
    pub(crate) fn bind(config: &Config, key: &ObservationKey) -> Result<Self, Error> {
        if !config.public.is_empty() && config.public.len() != config.addresses.len() {
            return Err(Error::Addresses);
        }
        let named = |nth: usize, bound: IpAddr| (bound, config.public.get(nth).copied());
        let addresses: Vec<_> = config.addresses.iter().enumerate().map(|(nth, bound)| named(nth, *bound)).collect();
        if addresses.iter().any(|(bound, public)| public.is_some_and(|public| public.is_ipv4() != bound.is_ipv4())) {
            return Err(Error::Addresses);
        }
        let (v4, v6): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|(bound, _)| bound.is_ipv4());
        if v4.is_empty() && v6.is_empty() || v4.len().max(v6.len()) > MOST_ADDRESSES {
            return Err(Error::Addresses);
        }
        let families = [v4, v6].into_iter().filter(|addresses| !addresses.is_empty());
        let faces = families.map(|addresses| Face::bind(&addresses, config, key)).collect::<Result<_, _>>()?;
        let mut secret = [0; 8];
        SystemRandom::new().fill(&mut secret).map_err(|_| Error::Random)?;
        Ok(Self {
            faces,
            secret: u64::from_ne_bytes(secret),
            budget: Budget { answers: config.answers_per_source, larger_answers: config.larger_answers_per_source },
            limits: streams::Limits {
                connections: config.connections,
                per_source: config.connections_per_source,
                accepts_per_source: config.answers_per_source,
            },
        })
    }

    /// Public endpoints: IPv4 first, in the order of the corners.
    pub(crate) fn endpoints(&self) -> Vec<SocketAddr> {
        let of = |face: &Face| Corner::ALL.map(|corner| face.mirror.endpoint(corner));
        self.faces.iter().flat_map(of).flatten().collect()
    }

    /// Starts one task for the datagrams of each family and one for all connections. Until the guards are stopped others
    /// answer for this process from a second address, and this one for them.
    pub(crate) async fn run(
        self,
        tasks: &mut JoinSet<()>,
        seams: &Seams,
        shutdown: &CancellationToken,
    ) -> Result<Vec<Served>, bus::Error> {
        let now = Instant::now().into_std();
        let others = Others::new(self.endpoints().iter().map(SocketAddr::ip).collect());
        let (requests, handing_over) = elsewhere::requests(seams);
        tasks.spawn(handing_over);
        let mut doors = Doors::default();
        let mut listeners = Vec::new();
        for face in self.faces {
            listeners.extend(face.listeners);
            let alone = face.mirror.endpoint(Corner::R2P).is_none();
            let v4 = face.mirror.endpoint(Corner::R1P).is_none_or(|endpoint| endpoint.is_ipv4());
            doors.0.push((face.mirror.clone(), Arc::clone(&face.sockets)));
            let reflector = Reflector {
                sockets: face.sockets,
                other: if alone { others.of_family(v4) } else { watch::Sender::default().subscribe() },
                requests: requests.clone(),
                desk: Desk::new(now, face.mirror, self.budget, self.secret),
                metrics: Arc::clone(&seams.metrics),
                clock: seams.clock,
                next: 0,
            };
            tasks.spawn(reflector.run(shutdown.clone()));
        }
        let (metrics, clock) = (Arc::clone(&seams.metrics), seams.clock);
        tasks.spawn(streams::run(listeners, self.limits, self.secret, metrics, clock, shutdown.clone()));
        elsewhere::serve(seams, others, doors, Sources::new(now, self.budget.answers, self.secret)).await
    }
}

/// The sockets of this process by their public endpoints.
#[derive(Debug, Default)]
pub(crate) struct Doors(Vec<(Mirror, Arc<Corners>)>);

impl Doors {
    /// Whether the kernel took it.
    pub(crate) fn send(&self, from: SocketAddr, to: SocketAddr, answer: &[u8]) -> bool {
        let mut sockets = self.0.iter().flat_map(|(mirror, sockets)| {
            Corner::ALL
                .into_iter()
                .filter(|corner| mirror.endpoint(*corner) == Some(from))
                .filter_map(|corner| sockets[corner as usize].as_ref())
        });
        sockets.next().is_some_and(|socket| socket.try_send_to(answer, to).is_ok())
    }
}

impl Face {
    /// Opens the sockets of the addresses of one family, which come with their public ones.
    fn bind(addresses: &[(IpAddr, Option<IpAddr>)], config: &Config, key: &ObservationKey) -> Result<Self, Error> {
        let mut sockets: Corners = [const { None }; 4];
        let mut endpoints = [None; 4];
        let mut bound = Vec::new();
        for corner in Corner::ALL {
            let Some(&(address, public)) = addresses.get(corner as usize / 2) else { continue };
            let endpoint = SocketAddr::new(address, config.ports[corner as usize % 2]);
            let with_tcp = config.connections > 0;
            let (socket, listener, local) =
                open_both(endpoint, with_tcp).map_err(|source| Error::Bind { endpoint, source })?;
            endpoints[corner as usize] = Some(SocketAddr::new(public.unwrap_or(address), local.port()));
            sockets[corner as usize] = Some(socket);
            bound.extend(listener.map(|listener| (corner, listener)));
        }
        let mirror = Mirror::new(endpoints, key.clone());
        let listeners = bound.into_iter().map(|(at, socket)| Listener { at, socket, mirror: mirror.clone() }).collect();
        Ok(Self { sockets: Arc::new(sockets), listeners, mirror })
    }
}

/// The datagrams of one family.
struct Reflector {
    sockets: Arc<Corners>,
    desk: Desk,
    metrics: Arc<Metrics>,
    clock: Clock,
    /// Who answers from the second address when this process has none.
    other: watch::Receiver<Option<Other>>,
    requests: Requests,
    /// The corner that is looked at first, so that none waits for another that is never silent.
    next: usize,
}

impl Reflector {
    async fn run(mut self, shutdown: CancellationToken) {
        let mut question = [0; MAX_MESSAGE];
        let mut answer = [0; MAX_ANSWER_SIZE];
        let sockets = Arc::clone(&self.sockets);
        let mut other = self.other.clone();
        other.mark_changed();
        loop {
            let late = self.desk.poll_timeout();
            let at = tokio::select! {
                () = shutdown.cancelled() => return,
                () = until(late) => { self.send_late(); continue }
                Ok(()) = other.changed() => { self.learn(*other.borrow_and_update()); continue }
                at = self.readable(&sockets) => at,
            };
            let Some(socket) = &sockets[at as usize] else { continue };
            for _ in 0..BATCH {
                match socket.try_io(Interest::READABLE, || receive(socket, &mut question)) {
                    Ok((length, source, ttl)) => self.reflect(at, source, ttl, &question[..length], &mut answer),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // An ICMP error of an earlier answer shows up here; the next datagram is as good as ever.
                    Err(error) => tracing::trace!(%error, "a reflector received nothing"),
                }
            }
        }
    }

    /// A second address of its own stays.
    fn learn(&mut self, other: Option<Other>) {
        let own = [Corner::R2P, Corner::R2Q].iter().any(|corner| self.sockets[*corner as usize].is_some());
        if !own {
            self.desk.mirror_mut().set_other(other.map_or([None; 2], |other| other.corners));
        }
    }

    /// The next socket that has something.
    async fn readable(&mut self, sockets: &Corners) -> Corner {
        poll_fn(|context| {
            for turn in 0..Corner::ALL.len() {
                let at = Corner::ALL[(self.next + turn) % Corner::ALL.len()];
                let ready = |socket: &UdpSocket| socket.poll_recv_ready(context).is_ready();
                if sockets[at as usize].as_ref().is_some_and(ready) {
                    self.next = at as usize + 1;
                    return Poll::Ready(at);
                }
            }
            Poll::Pending
        })
        .await
    }

    fn reflect(&mut self, at: Corner, source: SocketAddr, ttl: u8, question: &[u8], answer: &mut [u8]) {
        let asked = Asked { source, at, ttl, now: (self.clock)() };
        match self.desk.handle_question(Instant::now().into_std(), &asked, question, answer) {
            Verdict::Answer(reflection) => self.send(reflection.from, source, &answer[..reflection.length]),
            Verdict::Later => {}
            Verdict::Ignored => self.metrics.probe(Probed::Ignored),
            Verdict::Limited => self.metrics.probe(Probed::Limited),
        }
    }

    fn send_late(&mut self) {
        while let Some(Late { to, from, answer }) = self.desk.poll_late(Instant::now().into_std()) {
            self.send(from, to, &answer);
        }
    }

    /// What the kernel does not take is lost, as the network may lose it; the client asks again.
    fn send(&self, from: Corner, to: SocketAddr, answer: &[u8]) {
        let Some(socket) = &self.sockets[from as usize] else { return self.send_elsewhere(from, to, answer) };
        let sent = socket.try_send_to(answer, to).is_ok();
        self.metrics.probe(if sent { Probed::Answered } else { Probed::Lost });
    }

    fn send_elsewhere(&self, from: Corner, to: SocketAddr, answer: &[u8]) {
        let other = self.other.borrow().map(|other| other.instance);
        let asked = other.zip(self.desk.mirror().endpoint(from)).is_some_and(|(instance, from)| {
            self.requests.try_send((instance, ReflectFrom { from, to, answer: answer.to_vec() })).is_ok()
        });
        if !asked {
            self.metrics.probe(Probed::Lost);
        }
    }
}

async fn until(due: Option<std::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// A socket, and a listener on the same port when it is wanted.
fn open_both(endpoint: SocketAddr, with_tcp: bool) -> io::Result<(UdpSocket, Option<TcpListener>, SocketAddr)> {
    let mut tries = if endpoint.port() == 0 { TRIES } else { 1 };
    loop {
        let socket = open(endpoint)?;
        let local = socket.local_addr()?;
        if !with_tcp {
            return Ok((socket, None, local));
        }
        tries -= 1;
        match streams::listen(local) {
            Ok(listener) => return Ok((socket, Some(listener), local)),
            Err(error) if tries > 0 && error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
}

fn open(endpoint: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(endpoint), Type::DGRAM, Some(Protocol::UDP))?;
    if endpoint.is_ipv6() {
        socket.set_only_v6(true)?;
        setsockopt(&socket, Ipv6RecvHopLimit, &true)?;
    } else {
        setsockopt(&socket, Ipv4RecvTtl, &true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&endpoint.into())?;
    UdpSocket::from_std(socket.into())
}

/// One datagram with its source and the hop limit it arrived with, 0 when the system does not say.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr, u8)> {
    let mut parts = [IoSliceMut::new(buffer)];
    let mut control = nix::cmsg_space!(i32);
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty())?;
    let source = message.address.as_ref().and_then(socket_address).ok_or(io::ErrorKind::InvalidData)?;
    let mut ttl = 0;
    for control in message.cmsgs()? {
        #[expect(clippy::wildcard_enum_match_arm, reason = "only hop limits were asked for")]
        match control {
            ControlMessageOwned::Ipv4Ttl(hops) | ControlMessageOwned::Ipv6HopLimit(hops) => {
                ttl = u8::try_from(hops).unwrap_or(0);
            }
            _ => {}
        }
    }
    Ok((message.bytes, source, ttl))
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::new(IpAddr::V4(v4.ip()), v4.port()));
    }
    address.as_sockaddr_in6().map(|v6| SocketAddr::new(IpAddr::V6(v6.ip()), v6.port()))
}

#[cfg(test)]
mod tests {
    use domain::{Probe, SessionTag, TransactionId, UnixMillis, Vantage};
    use socket2::SockRef;
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn an_answer_that_the_kernel_does_not_take_is_counted_as_lost() {
        let config = Config { ports: [0, 0], connections: 0, ..Config::default() };
        let mut probes = Probes::bind(&config, &ObservationKey::new(&[1; 32])).unwrap();
        let face = probes.faces.remove(0);
        let metrics = Arc::new(Metrics::register(&prometheus::Registry::new()).unwrap());
        let mut reflector = Reflector {
            desk: Desk::new(Instant::now().into_std(), face.mirror, probes.budget, 1),
            sockets: face.sockets,
            metrics: Arc::clone(&metrics),
            clock: || UnixMillis(0),
            other: watch::Sender::default().subscribe(),
            requests: mpsc::channel(1).0,
            next: 0,
        };
        for socket in reflector.sockets.iter().flatten() {
            socket.writable().await.unwrap();
        }
        // Not connected, it says, and does it.
        let other_port = reflector.sockets[Corner::R1Q as usize].as_ref().unwrap();
        assert!(SockRef::from(other_port).shutdown(std::net::Shutdown::Write).is_err());

        for (answer_from, lost) in [(Vantage::Asked, 0), (Vantage::OtherPort, 1)] {
            let transaction = TransactionId([1; 12]);
            let probe = Probe { transaction, tag: Some(SessionTag([3; 16])), answer_from, delay_s: 0 };
            let question = wire::probe::question(&probe);
            reflector.reflect(Corner::R1P, ([127, 0, 0, 1], 9).into(), 64, &question, &mut [0; MAX_ANSWER_SIZE]);
            assert_eq!((metrics.probes(Probed::Answered), metrics.probes(Probed::Lost)), (1, lost));
        }
    }
}
