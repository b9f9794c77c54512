//! The packet path's shell: batches in, one decision each, batches out. One thread, one socket an address family, no
//! allocation in the loop but for the answers of the reflector that wait.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime},
};

use domain::UnixMillis;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg},
};
use socket2::{Domain, Protocol, Socket, Type};
use wire::{
    probe::{Asked, Corner, Desk, MAX_ANSWER_SIZE, Verdict as Reflection, is_stun},
    relay::MAX_DATAGRAM,
};

use crate::{
    core::{DropReason, Relay, Verdict},
    metrics::Metrics,
};

/// Datagrams taken from the kernel at once.
const BATCH: usize = 64;

/// What the kernel keeps for us while we work, in bytes: 20 ms of 1 Gbit/s.
const KERNEL_BUFFER: usize = 4 * 1024 * 1024;

/// How long the thread waits for a datagram before it looks at the clock and the flags.
const TURN: Duration = Duration::from_millis(100);

/// Pairs whose end one turn looks at, and late answers that it sends: about a millisecond, while the kernel keeps what arrives.
const DEADLINES: usize = 1_024;

/// A socket with large buffers at `address`.
pub(crate) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // The kernel grants what its limits allow; less is no reason not to serve.
    let _ = socket.set_recv_buffer_size(KERNEL_BUFFER);
    let _ = socket.set_send_buffer_size(KERNEL_BUFFER);
    socket.set_read_timeout(Some(TURN))?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// One socket, and the reflector behind it.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) socket: UdpSocket,
    /// As the clients see it.
    pub(crate) endpoint: SocketAddr,
    pub(crate) desk: Desk,
}

/// One thread and what it owns.
#[derive(Debug)]
pub(crate) struct Worker {
    /// One of each address family, or one.
    pub(crate) doors: Vec<Door>,
    pub(crate) relay: Relay,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) drains: Arc<AtomicBool>,
    pub(crate) stops: Arc<AtomicBool>,
}

impl Worker {
    /// Starts the thread. It ends by itself soon after `stops`.
    pub(crate) fn start(self) -> io::Result<JoinHandle<io::Result<()>>> {
        std::thread::Builder::new().name("relay".into()).spawn(move || self.run())
    }

    fn run(mut self) -> io::Result<()> {
        let mut buffers = Box::new([[0_u8; MAX_DATAGRAM]; BATCH]);
        let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
        let mut replies = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
        let mut arrived = Vec::with_capacity(BATCH);
        let mut outgoing: Vec<_> = self.doors.iter().map(|_| Outgoing::new()).collect();
        let mut drained = false;
        while !self.stops.load(Ordering::Relaxed) {
            if !drained && self.drains.load(Ordering::Relaxed) {
                drained = true;
                self.tell_draining();
            }
            for at in self.ready()? {
                let Some(door) = self.doors.get(at) else { continue };
                receive(&door.socket, self.doors.len() == 1, &mut headers, &mut buffers, &mut arrived)?;
                let now = Instant::now();
                let wall = UnixMillis::from(SystemTime::now());
                outgoing.iter_mut().for_each(Outgoing::clear);
                for (nth, &(from, length)) in arrived.iter().enumerate() {
                    self.decide(now, wall, at, from, nth, &buffers[nth][..length], &mut outgoing);
                }
                for (door, outgoing) in self.doors.iter().zip(&mut outgoing) {
                    self.send(&door.socket, &mut replies, &*buffers, outgoing)?;
                    outgoing.count.flush(&self.metrics);
                }
            }
            let now = Instant::now();
            self.send_late(now);
            for _ in 0..DEADLINES {
                if self.relay.poll_deadline().is_none_or(|due| due > now) {
                    break;
                }
                self.relay.handle_deadline(now);
                self.count_events();
            }
        }
        Ok(())
    }

    /// The doors where something may have arrived. Waits for that, but not for long.
    fn ready(&self) -> io::Result<arrayvec::ArrayVec<usize, 2>> {
        let [first, second] = &self.doors[..] else { return Ok([0].into_iter().collect()) };
        let mut both = [first, second].map(|door| PollFd::new(door.socket.as_fd(), PollFlags::POLLIN));
        match poll(&mut both, PollTimeout::try_from(TURN).unwrap_or(PollTimeout::ZERO)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok((0..2).filter(|at| both[*at].any() == Some(true)).collect())
    }

    /// The door that leads to `to`.
    fn door(&self, to: SocketAddr) -> usize {
        self.doors.iter().position(|door| door.endpoint.is_ipv4() == to.is_ipv4()).unwrap_or(0)
    }

    #[expect(clippy::too_many_arguments, reason = "the state of one turn, borrowed apart from the worker")]
    fn decide(
        &mut self,
        now: Instant,
        wall: UnixMillis,
        at: usize,
        from: SocketAddr,
        nth: usize,
        datagram: &[u8],
        outgoing: &mut [Outgoing],
    ) {
        let back = &mut outgoing[at];
        if is_stun(datagram) {
            let asked = Asked { source: from, at: Corner::R1P, ttl: 0, now: wall };
            match self.doors[at].desk.handle_question(now, &asked, datagram, &mut back.answers[nth]) {
                Reflection::Answer(reflection) => {
                    back.count.reflections += 1;
                    back.push(from, Source::Answer { nth, length: reflection.length });
                }
                Reflection::Later => {}
                Reflection::Ignored => back.count.dropped[DropReason::Malformed as usize] += 1,
                Reflection::Limited => back.count.dropped[DropReason::AsksTooOften as usize] += 1,
            }
            return;
        }
        match self.relay.handle_datagram(now, wall, from, datagram) {
            Verdict::Forward(to) => {
                back.count.packets += 1;
                back.count.bytes += datagram.len() as u64;
                outgoing[self.door(to)].push(to, Source::Arrived { nth, length: datagram.len() });
            }
            Verdict::Answer(answer) => {
                back.count.answers += 1;
                let bytes = answer.as_bytes();
                back.answers[nth][..bytes.len()].copy_from_slice(bytes);
                back.push(from, Source::Answer { nth, length: bytes.len() });
                self.count_events();
            }
            Verdict::Drop(reason) => back.count.dropped[reason as usize] += 1,
        }
    }

    /// The reflectors' answers whose time has come.
    fn send_late(&mut self, now: Instant) {
        for door in &mut self.doors {
            for late in std::iter::from_fn(|| door.desk.poll_late(now)).take(DEADLINES) {
                match door.socket.send_to(&late.answer, late.to) {
                    Ok(_) => self.metrics.reflections.inc(),
                    Err(_) => self.metrics.unsent.inc(),
                }
            }
        }
    }

    fn count_events(&mut self) {
        while let Some(event) = self.relay.poll_event() {
            self.metrics.event(event);
        }
    }

    fn tell_draining(&mut self) {
        let notes: Vec<_> = self.relay.drain().collect();
        for (to, note) in notes {
            // A note that is lost is made up for by the pings that stay unanswered later.
            let _ = self.doors[self.door(to)].socket.send_to(note.as_bytes(), to);
        }
    }

    /// Sends everything; a datagram that the kernel does not take is lost, as on any router.
    fn send(
        &self,
        socket: &UdpSocket,
        headers: &mut MultiHeaders<SockaddrStorage>,
        buffers: &[[u8; MAX_DATAGRAM]],
        outgoing: &Outgoing,
    ) -> io::Result<()> {
        let mut sent = 0;
        while sent < outgoing.to.len() {
            let slices = outgoing.sources[sent..].iter().map(|source| match *source {
                Source::Arrived { nth, length } => [IoSlice::new(&buffers[nth][..length])],
                Source::Answer { nth, length } => [IoSlice::new(&outgoing.answers[nth][..length])],
            });
            let slices: arrayvec::ArrayVec<[IoSlice<'_>; 1], BATCH> = slices.collect();
            let to = &outgoing.to[sent..];
            match sendmmsg(socket.as_raw_fd(), headers, &slices, to, [], MsgFlags::MSG_DONTWAIT) {
                Ok(results) => sent += results.count().max(1),
                Err(Errno::EINTR) => {}
                // The first of them cannot be sent: to an unreachable network, or a full buffer. Go on after it.
                Err(
                    Errno::EAGAIN
                    | Errno::ENOBUFS
                    | Errno::EMSGSIZE
                    | Errno::EPERM
                    | Errno::ECONNREFUSED
                    | Errno::EHOSTUNREACH
                    | Errno::ENETUNREACH
                    | Errno::EACCES
                    | Errno::EINVAL
                    | Errno::EADDRNOTAVAIL,
                ) => {
                    self.metrics.unsent.inc();
                    sent += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Fills `arrived` with who sent how much into which buffer. With `waits` it is empty after [`TURN`] without a datagram.
fn receive(
    socket: &UdpSocket,
    waits: bool,
    headers: &mut MultiHeaders<SockaddrStorage>,
    buffers: &mut [[u8; MAX_DATAGRAM]; BATCH],
    arrived: &mut Vec<(SocketAddr, usize)>,
) -> io::Result<()> {
    arrived.clear();
    let mut slices = buffers.each_mut().map(|buffer| [IoSliceMut::new(buffer)]);
    let flags = if waits { MsgFlags::MSG_WAITFORONE } else { MsgFlags::MSG_DONTWAIT };
    let received = recvmmsg(socket.as_raw_fd(), headers, slices.iter_mut(), flags, None);
    match received {
        Ok(messages) => {
            for message in messages {
                // A truncated datagram is larger than anything legal: length 0 has it dropped as malformed.
                let whole = !message.flags.contains(MsgFlags::MSG_TRUNC);
                let from = message.address.as_ref().and_then(address).unwrap_or_else(nobody);
                arrived.push((from, if whole { message.bytes } else { 0 }));
            }
            Ok(())
        }
        Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNREFUSED) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    match (storage.as_sockaddr_in(), storage.as_sockaddr_in6()) {
        (Some(v4), _) => Some(SocketAddr::new(v4.ip().into(), v4.port())),
        (_, Some(v6)) => Some(SocketAddr::new(v6.ip().into(), v6.port())),
        (None, None) => None,
    }
}

fn nobody() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 0))
}

/// What one turn sends through one door.
struct Outgoing {
    to: Vec<Option<SockaddrStorage>>,
    sources: Vec<Source>,
    answers: Box<[[u8; MAX_ANSWER_SIZE]]>,
    count: Count,
}

/// Where the bytes are.
#[derive(Clone, Copy)]
enum Source {
    Arrived { nth: usize, length: usize },
    Answer { nth: usize, length: usize },
}

impl Outgoing {
    fn new() -> Self {
        Self {
            to: Vec::with_capacity(BATCH),
            sources: Vec::with_capacity(BATCH),
            answers: vec![[0; MAX_ANSWER_SIZE]; BATCH].into_boxed_slice(),
            count: Count::default(),
        }
    }

    fn clear(&mut self) {
        self.to.clear();
        self.sources.clear();
    }

    fn push(&mut self, to: SocketAddr, source: Source) {
        self.to.push(Some(SockaddrStorage::from(to)));
        self.sources.push(source);
    }
}

/// The numbers of one turn.
#[derive(Default)]
struct Count {
    packets: u64,
    bytes: u64,
    answers: u64,
    reflections: u64,
    dropped: [u64; DropReason::ALL.len()],
}

impl Count {
    fn flush(&mut self, metrics: &Metrics) {
        metrics.forwarded_packets.inc_by(self.packets);
        metrics.forwarded_bytes.inc_by(self.bytes);
        metrics.answers.inc_by(self.answers);
        metrics.reflections.inc_by(self.reflections);
        for reason in DropReason::ALL {
            metrics.dropped(reason).inc_by(self.dropped[reason as usize]);
        }
        *self = Self::default();
    }
}
