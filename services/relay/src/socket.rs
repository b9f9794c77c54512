//! The packet path's shell: batches in, one decision each, batches out. One thread, one socket, no allocation in the loop.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
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
    sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg},
};
use socket2::{Domain, Protocol, Socket, Type};
use wire::{
    probe::{Asked, Corner, MAX_ANSWER_SIZE, Mirror, is_stun},
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

/// Pairs whose end one turn looks at: about a millisecond, while the kernel keeps what arrives.
const DEADLINES: usize = 1_024;

/// Answers larger than their question that one turn gives away, to plain STUN tools, before it stays silent.
const AMPLIFIED_PER_SECOND: u32 = 200;

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

/// One thread and what it owns.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) socket: UdpSocket,
    pub(crate) relay: Relay,
    pub(crate) mirror: Mirror,
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
        let mut outgoing = Outgoing::new();
        let mut drained = false;
        let mut turn = Turn { began: Instant::now(), amplified: 0 };
        while !self.stops.load(Ordering::Relaxed) {
            if !drained && self.drains.load(Ordering::Relaxed) {
                drained = true;
                self.tell_draining();
            }
            receive(&self.socket, &mut headers, &mut buffers, &mut arrived)?;
            let now = Instant::now();
            if now - turn.began >= Duration::from_secs(1) {
                turn = Turn { began: now, amplified: 0 };
            }
            let wall = UnixMillis::from(SystemTime::now());
            outgoing.clear();
            for (nth, &(from, length)) in arrived.iter().enumerate() {
                self.decide(now, wall, from, nth, &buffers[nth][..length], &mut outgoing, &mut turn);
            }
            self.send(&mut replies, &*buffers, &outgoing)?;
            outgoing.count.flush(&self.metrics);
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

    #[expect(clippy::too_many_arguments, reason = "the state of one turn, borrowed apart from the worker")]
    fn decide(
        &mut self,
        now: Instant,
        wall: UnixMillis,
        from: SocketAddr,
        nth: usize,
        datagram: &[u8],
        outgoing: &mut Outgoing,
        turn: &mut Turn,
    ) {
        if is_stun(datagram) {
            let asked = Asked { source: from, at: Corner::R1P, ttl: 0, now: wall };
            let answer = &mut outgoing.answers[nth];
            match self.mirror.reflect(&asked, datagram, answer) {
                Some(reflection) if !reflection.amplifies || turn.amplified < AMPLIFIED_PER_SECOND => {
                    turn.amplified += u32::from(reflection.amplifies);
                    outgoing.count.reflections += 1;
                    outgoing.push(from, Source::Answer { nth, length: reflection.length });
                }
                Some(_) | None => outgoing.count.dropped[DropReason::Malformed as usize] += 1,
            }
            return;
        }
        match self.relay.handle_datagram(now, wall, from, datagram) {
            Verdict::Forward(to) => {
                outgoing.count.packets += 1;
                outgoing.count.bytes += datagram.len() as u64;
                outgoing.push(to, Source::Arrived { nth, length: datagram.len() });
            }
            Verdict::Answer(answer) => {
                outgoing.count.answers += 1;
                let bytes = answer.as_bytes();
                outgoing.answers[nth][..bytes.len()].copy_from_slice(bytes);
                outgoing.push(from, Source::Answer { nth, length: bytes.len() });
                self.count_events();
            }
            Verdict::Drop(reason) => outgoing.count.dropped[reason as usize] += 1,
        }
    }

    fn count_events(&mut self) {
        while let Some(event) = self.relay.poll_event() {
            self.metrics.event(event);
        }
    }

    fn tell_draining(&mut self) {
        for (to, note) in self.relay.drain() {
            // A note that is lost is made up for by the pings that stay unanswered later.
            let _ = self.socket.send_to(note.as_bytes(), to);
        }
    }

    /// Sends everything; a datagram that the kernel does not take is lost, as on any router.
    fn send(
        &self,
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
            match sendmmsg(self.socket.as_raw_fd(), headers, &slices, to, [], MsgFlags::MSG_DONTWAIT) {
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

/// Fills `arrived` with who sent how much into which buffer. Empty after [`TURN`] without a datagram.
fn receive(
    socket: &UdpSocket,
    headers: &mut MultiHeaders<SockaddrStorage>,
    buffers: &mut [[u8; MAX_DATAGRAM]; BATCH],
    arrived: &mut Vec<(SocketAddr, usize)>,
) -> io::Result<()> {
    arrived.clear();
    let mut slices = buffers.each_mut().map(|buffer| [IoSliceMut::new(buffer)]);
    let received = recvmmsg(socket.as_raw_fd(), headers, slices.iter_mut(), MsgFlags::MSG_WAITFORONE, None);
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

/// What one turn gives away.
struct Turn {
    began: Instant,
    amplified: u32,
}

/// What one turn sends.
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
