//! The reflectors: up to four UDP sockets, and an answer for who asks.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd as _,
    sync::Arc,
    time::Instant,
};

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt,
    sockopt::{Ipv4RecvTtl, Ipv6RecvHopLimit},
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{io::Interest, net::UdpSocket, task::JoinSet};
use tokio_util::sync::CancellationToken;
use wire::probe::{Asked, Corner, MAX_ANSWER_SIZE, Mirror, ObservationKey};

use crate::{Clock, Config, Error, Metrics, Seams, metrics::Probed, sources::Sources};

/// Room for every question worth an answer.
const MAX_QUESTION_SIZE: usize = 1_500;

/// The open sockets.
#[derive(Debug)]
pub(crate) struct Probes {
    sockets: Arc<Corners>,
    mirror: Mirror,
    endpoints: [Option<SocketAddr>; 4],
    answers: u32,
    larger_answers: u32,
}

type Corners = [Option<UdpSocket>; 4];

impl Probes {
    pub(crate) fn bind(config: &Config, key: ObservationKey) -> Result<Self, Error> {
        let one_family = config.addresses.windows(2).all(|pair| pair[0].is_ipv4() == pair[1].is_ipv4());
        let named = config.public.is_empty() || config.public.len() == config.addresses.len();
        if !(1..=2).contains(&config.addresses.len()) || !one_family || !named {
            return Err(Error::Addresses);
        }
        let mut sockets: Corners = [const { None }; 4];
        let mut endpoints = [None; 4];
        for corner in Corner::ALL {
            let (address, port) = (corner as usize / 2, corner as usize % 2);
            let Some(&bound) = config.addresses.get(address) else { continue };
            let endpoint = SocketAddr::new(bound, config.ports[port]);
            let failed = |source| Error::Bind { endpoint, source };
            let socket = open(endpoint).map_err(failed)?;
            let local = socket.local_addr().map_err(failed)?;
            let public = config.public.get(address).copied().unwrap_or(local.ip());
            endpoints[corner as usize] = Some(SocketAddr::new(public, local.port()));
            sockets[corner as usize] = Some(socket);
        }
        Ok(Self {
            sockets: Arc::new(sockets),
            mirror: Mirror::new(endpoints, key),
            endpoints,
            answers: config.answers_per_source,
            larger_answers: config.larger_answers_per_source,
        })
    }

    /// Public endpoints, in the order of the corners.
    pub(crate) fn endpoints(&self) -> Vec<SocketAddr> {
        self.endpoints.into_iter().flatten().collect()
    }

    /// Starts one task a socket.
    pub(crate) fn run(self, tasks: &mut JoinSet<()>, seams: &Seams, shutdown: &CancellationToken) {
        for at in Corner::ALL {
            if self.sockets[at as usize].is_none() {
                continue;
            }
            let reflector = Reflector {
                at,
                sockets: Arc::clone(&self.sockets),
                mirror: self.mirror.clone(),
                answers: Sources::new(self.answers),
                larger_answers: Sources::new(self.larger_answers),
                metrics: Arc::clone(&seams.metrics),
                clock: seams.clock,
            };
            tasks.spawn(reflector.run(shutdown.clone()));
        }
    }
}

/// One socket that is asked.
struct Reflector {
    at: Corner,
    sockets: Arc<Corners>,
    mirror: Mirror,
    answers: Sources,
    larger_answers: Sources,
    metrics: Arc<Metrics>,
    clock: Clock,
}

impl Reflector {
    async fn run(mut self, shutdown: CancellationToken) {
        let mut question = [0; MAX_QUESTION_SIZE];
        let mut answer = [0; MAX_ANSWER_SIZE];
        let sockets = Arc::clone(&self.sockets);
        let Some(socket) = &sockets[self.at as usize] else { return };
        loop {
            let received = tokio::select! {
                () = shutdown.cancelled() => return,
                received = socket.async_io(Interest::READABLE, || receive(socket, &mut question)) => received,
            };
            match received {
                Ok((length, source, ttl)) => self.reflect(source, ttl, &question[..length], &mut answer),
                // An ICMP error of an earlier answer shows up here; the next datagram is as good as ever.
                Err(error) => tracing::trace!(%error, "a reflector received nothing"),
            }
        }
    }

    fn reflect(&mut self, source: SocketAddr, ttl: u8, question: &[u8], answer: &mut [u8]) {
        let asked = Asked { source, at: self.at, ttl, now: (self.clock)() };
        let Some(reflection) = self.mirror.reflect(&asked, question, answer) else {
            return self.metrics.probe(Probed::Ignored);
        };
        let now = Instant::now();
        let granted = self.answers.take(now, source.ip())
            && (!reflection.amplifies || self.larger_answers.take(now, source.ip()));
        if !granted {
            return self.metrics.probe(Probed::Limited);
        }
        // A full send buffer loses the answer, as the network may; the client asks again.
        let sent = self.sockets[reflection.from as usize]
            .as_ref()
            .is_some_and(|socket| socket.try_send_to(&answer[..reflection.length], source).is_ok());
        self.metrics.probe(if sent { Probed::Answered } else { Probed::Lost });
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
