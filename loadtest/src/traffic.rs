//! One round of traffic: a single thread that sends, receives and never sleeps, so that it measures the server and not the
//! scheduler.

use std::{
    io::{IoSlice, IoSliceMut},
    net::UdpSocket,
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use nix::{
    errno::Errno,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg},
    },
};
use rand::{Rng as _, SeedableRng as _, distr::weighted::WeightedIndex, rngs::StdRng};
use wire::relay::{HEADER_SIZE, MAX_DATAGRAM, Message, Slot};

use crate::{legs::Legs, scenario::Traffic};

/// Epoch, leg, sequence number and sending time.
pub(crate) const LEAST_PAYLOAD: usize = 4 + 4 + 4 + 8;

const BATCH: usize = 64;

/// Without an arrival for this long, what is on the way is lost.
const SILENCE: Duration = Duration::from_millis(50);

/// What came of a round.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) sent: u64,
    pub(crate) delivered: u64,
    /// Arrived behind one that was sent later by the same leg.
    pub(crate) reordered: u64,
    /// Sent too late by the generator, in offered datagrams.
    pub(crate) skipped: u64,
    /// From the first to the last sending.
    pub(crate) duration: Duration,
    /// In nanoseconds.
    pub(crate) latency: Histogram<u64>,
    /// Delivered bytes of each pair, the relay's header included.
    pub(crate) bytes: Vec<u64>,
}

/// The generator, with its buffers.
pub(crate) struct Generator<'a> {
    legs: &'a Legs,
    traffic: &'a Traffic,
    random: StdRng,
    sizes: WeightedIndex<u32>,
    epoll: Epoll,
    start: Instant,
    /// Tells this phase's datagrams from late ones of phases before.
    epoch: u32,
    sequences: Vec<u32>,
    highest: Vec<u32>,
    outgoing: Box<[[u8; MAX_DATAGRAM]]>,
    incoming: Box<[[u8; MAX_DATAGRAM]; BATCH]>,
    outgoing_headers: MultiHeaders<SockaddrStorage>,
    incoming_headers: MultiHeaders<SockaddrStorage>,
}

impl<'a> Generator<'a> {
    /// A generator for these legs. The same seed sends the same.
    pub(crate) fn new(legs: &'a Legs, traffic: &'a Traffic, seed: u64) -> anyhow::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::empty())?;
        for (index, socket) in (0..).zip(legs.sockets()) {
            epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, index))?;
        }
        let mut random = StdRng::seed_from_u64(seed);
        let epoch = random.random();
        Ok(Self {
            legs,
            traffic,
            random,
            sizes: WeightedIndex::new(traffic.sizes.iter().map(|size| size.weight))?,
            epoll,
            start: Instant::now(),
            epoch,
            sequences: vec![0; 2 * legs.count()],
            highest: vec![0; 2 * legs.count()],
            outgoing: vec![[0; MAX_DATAGRAM]; traffic.burst].into_boxed_slice(),
            incoming: Box::new([[0; MAX_DATAGRAM]; BATCH]),
            outgoing_headers: MultiHeaders::preallocate(traffic.burst, None),
            incoming_headers: MultiHeaders::preallocate(BATCH, None),
        })
    }

    /// Sends for `duration`, then waits for what is still on the way.
    pub(crate) fn run(&mut self, duration: Duration) -> anyhow::Result<Outcome> {
        self.epoch = self.epoch.wrapping_add(1);
        self.sequences.fill(0);
        self.highest.fill(0);
        let mut outcome = Outcome {
            sent: 0,
            delivered: 0,
            reordered: 0,
            skipped: 0,
            duration,
            latency: Histogram::new_with_bounds(1, 60_000_000_000, 3)?,
            bytes: vec![0; self.legs.count()],
        };
        let began = Instant::now();
        let pause = self
            .traffic
            .datagrams_per_second
            .map(|rate| Duration::from_secs(1) * u32::try_from(self.traffic.burst).unwrap_or(u32::MAX) / rate);
        let (mut due, mut heard) = (began, began);
        // What was lost before no longer fills the window.
        let mut written_off = 0;
        loop {
            let now = Instant::now();
            if now - began >= duration {
                break;
            }
            let sends = match pause {
                Some(_) => due <= now,
                None => {
                    if now - heard > SILENCE {
                        written_off = outcome.sent - outcome.delivered;
                        heard = now;
                    }
                    let on_the_way = (outcome.sent - outcome.delivered).saturating_sub(written_off);
                    on_the_way + self.traffic.burst as u64 <= u64::from(self.traffic.window)
                }
            };
            if sends {
                self.send(now, &mut outcome)?;
                if let Some(pause) = pause {
                    due += pause;
                    // Behind by more than that, it was the generator that could not: made known, not made up for.
                    if now.saturating_duration_since(due) > SILENCE {
                        outcome.skipped +=
                            ((now - due).as_nanos() / pause.as_nanos().max(1)) as u64 * self.traffic.burst as u64;
                        due = now;
                    }
                }
            }
            if self.receive(&mut outcome)? {
                heard = now;
            }
        }
        outcome.duration = began.elapsed();
        let mut heard = Instant::now();
        while outcome.delivered < outcome.sent && heard.elapsed() < 4 * SILENCE {
            if self.receive(&mut outcome)? {
                heard = Instant::now();
            }
        }
        Ok(outcome)
    }

    /// A burst of one leg.
    fn send(&mut self, now: Instant, outcome: &mut Outcome) -> anyhow::Result<()> {
        let (pair, side) = (self.random.random_range(0..self.legs.count()), self.random.random_range(0..2));
        let leg = 2 * pair + side;
        let (socket, number) = self.legs.leg(pair, side);
        let sent_at = u64::try_from((now - self.start).as_nanos()).unwrap_or(u64::MAX);
        let mut lengths = [0; BATCH];
        for (buffer, length) in self.outgoing.iter_mut().zip(&mut lengths) {
            self.sequences[leg] += 1;
            let mut payload = [0; LEAST_PAYLOAD];
            payload[..4].copy_from_slice(&self.epoch.to_be_bytes());
            payload[4..8].copy_from_slice(&u32::try_from(leg)?.to_be_bytes());
            payload[8..12].copy_from_slice(&self.sequences[leg].to_be_bytes());
            payload[12..].copy_from_slice(&sent_at.to_be_bytes());
            Message::Data { slot: Slot(number), payload: &payload }.write(buffer);
            *length = HEADER_SIZE + self.traffic.sizes[self.random.sample(&self.sizes)].bytes;
        }
        let burst = self.outgoing.len();
        let slices: Vec<_> =
            self.outgoing.iter().zip(lengths).map(|(buffer, length)| [IoSlice::new(&buffer[..length])]).collect();
        let to = vec![None::<SockaddrStorage>; burst];
        let mut sent = 0;
        while sent < burst {
            let (slices, to) = (&slices[sent..], &to[sent..]);
            match sendmmsg(socket.as_raw_fd(), &mut self.outgoing_headers, slices, to, [], MsgFlags::MSG_DONTWAIT) {
                Ok(results) => sent += results.count().max(1),
                Err(Errno::EINTR | Errno::EAGAIN | Errno::ENOBUFS) => {}
                Err(error) => return Err(error.into()),
            }
        }
        outcome.sent += burst as u64;
        Ok(())
    }

    /// Takes what has arrived; whether anything had.
    fn receive(&mut self, outcome: &mut Outcome) -> anyhow::Result<bool> {
        let mut events = [EpollEvent::empty(); BATCH];
        let ready = match self.epoll.wait(&mut events, EpollTimeout::ZERO) {
            Ok(ready) => ready,
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let mut any = false;
        for event in &events[..ready] {
            let Some(socket) = self.legs.socket(usize::try_from(event.data())?) else { continue };
            any |= self.take(socket, outcome)?;
        }
        Ok(any)
    }

    fn take(&mut self, socket: &UdpSocket, outcome: &mut Outcome) -> anyhow::Result<bool> {
        let mut lengths = [0; BATCH];
        let mut slices = self.incoming.each_mut().map(|buffer| [IoSliceMut::new(buffer)]);
        let headers = &mut self.incoming_headers;
        match recvmmsg(socket.as_raw_fd(), headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None) {
            Ok(messages) => messages.zip(&mut lengths).for_each(|(message, length)| *length = message.bytes),
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNREFUSED) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        let now = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let mut any = false;
        for (buffer, length) in self.incoming.iter().zip(lengths) {
            let Some(stamp) = Stamp::read(&buffer[..length], self.epoch) else { continue };
            let Some(highest) = self.highest.get_mut(stamp.leg) else { continue };
            if stamp.sequence < *highest {
                outcome.reordered += 1;
            }
            *highest = stamp.sequence.max(*highest);
            outcome.delivered += 1;
            outcome.bytes[stamp.leg / 2] += length as u64;
            outcome.latency.saturating_record(now.saturating_sub(stamp.sent_at));
            any = true;
        }
        Ok(any)
    }
}

/// What a datagram of the generator says.
struct Stamp {
    leg: usize,
    sequence: u32,
    sent_at: u64,
}

impl Stamp {
    fn read(datagram: &[u8], epoch: u32) -> Option<Self> {
        let Some(Message::Data { payload, .. }) = Message::parse(datagram) else { return None };
        let (stamped, rest) = payload.split_first_chunk::<4>()?;
        let (leg, rest) = rest.split_first_chunk::<4>()?;
        let (sequence, rest) = rest.split_first_chunk::<4>()?;
        let sent_at = u64::from_be_bytes(*rest.first_chunk()?);
        let leg = usize::try_from(u32::from_be_bytes(*leg)).ok()?;
        let stamp = Self { leg, sequence: u32::from_be_bytes(*sequence), sent_at };
        (u32::from_be_bytes(*stamped) == epoch).then_some(stamp)
    }
}
