//! One phase of traffic: a single thread that sends, receives and never sleeps, so that it measures the server and not the
//! scheduler.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use nix::{
    sys::socket::{MultiHeaders, SockaddrStorage},
    time::{ClockId, clock_gettime},
};
use rand::{Rng as _, SeedableRng as _, distr::weighted::WeightedIndex, rngs::StdRng};
use wire::{
    fanout::{Shared, SharedKeyId, frame},
    relay::MAX_DATAGRAM,
};

use crate::{
    legs::Legs,
    link::Link,
    measure::{Arrivals, latencies},
    scenario::{Group, Scenario, Streams},
    stamp::{LEAST_PAYLOAD, Stamp},
    udp::{BATCH, receive_each, send_as_one, send_each},
};

/// Without an arrival for this long, what is on the way is lost.
const SILENCE: Duration = Duration::from_millis(50);

/// How often a pair is drawn before none is taken to be complete.
const DRAWS: u32 = 16;

/// What came of a phase.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// From the first to the last sending.
    pub(crate) duration: Duration,
    /// CPU time of the sending system calls. On loopback they carry the receive stack of the server.
    pub(crate) sending: Duration,
    /// Pairs that ended, each with another in its place.
    pub(crate) joins: u64,
    pub(crate) moves: u64,
    /// In the scenario's order. Those that did not send in this phase have nothing.
    pub(crate) groups: Vec<Tally>,
}

/// What came of a group.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) sent: u64,
    pub(crate) delivered: u64,
    /// Arrived behind one that was sent later by the same leg.
    pub(crate) reordered: u64,
    /// Sent too late by the generator, in offered datagrams.
    pub(crate) skipped: u64,
    /// In nanoseconds.
    pub(crate) latency: Histogram<u64>,
    /// Delivered bytes of each pair, the relay's header included.
    pub(crate) bytes: Vec<u64>,
}

/// The generator, with its buffers.
pub(crate) struct Generator<'a> {
    legs: &'a mut Legs,
    scenario: &'a Scenario,
    sources: Vec<Source<'a>>,
    random: StdRng,
    start: Instant,
    /// Tells this phase's datagrams from late ones of phases before.
    epoch: u32,
    sequences: Vec<u32>,
    arrivals: Arrivals,
    outgoing: Box<[[u8; MAX_DATAGRAM]; BATCH]>,
    incoming: Box<[[u8; MAX_DATAGRAM]; BATCH]>,
    outgoing_headers: MultiHeaders<SockaddrStorage>,
    incoming_headers: MultiHeaders<SockaddrStorage>,
}

/// A group that sends.
struct Source<'a> {
    at: usize,
    group: &'a Group,
    first_pair: usize,
    sizes: WeightedIndex<u32>,
    /// Between bursts; without it the window decides.
    pause: Option<Duration>,
    due: Instant,
    heard: Instant,
    /// Lost datagrams, which no longer fill the window.
    written_off: u64,
}

/// Something that happens so often.
struct Ticker {
    pause: Option<Duration>,
    due: Instant,
}

impl<'a> Generator<'a> {
    /// A generator for the groups of a phase. The same seed sends the same.
    pub(crate) fn new(legs: &'a mut Legs, scenario: &'a Scenario, phase: &[usize], seed: u64) -> anyhow::Result<Self> {
        let now = Instant::now();
        let first_pair = |at| scenario.groups[..at].iter().map(|group: &Group| group.pairs as usize).sum();
        let sources = phase.iter().map(|&at| {
            let group = &scenario.groups[at];
            let burst = u32::try_from(group.burst)?;
            Ok(Source {
                at,
                group,
                first_pair: first_pair(at),
                sizes: WeightedIndex::new(group.sizes.iter().map(|size| size.weight))?,
                pause: group.datagrams_per_second.map(|rate| Duration::from_secs(1) * burst / rate),
                due: now,
                heard: now,
                written_off: 0,
            })
        });
        let sources = sources.collect::<anyhow::Result<_>>()?;
        let mut random = StdRng::seed_from_u64(seed);
        let epoch = random.random();
        let count = 2 * legs.pairs();
        Ok(Self {
            legs,
            scenario,
            sources,
            random,
            start: now,
            epoch,
            sequences: vec![0; count],
            arrivals: Arrivals::new(count),
            outgoing: Box::new([[0; MAX_DATAGRAM]; BATCH]),
            incoming: Box::new([[0; MAX_DATAGRAM]; BATCH]),
            outgoing_headers: MultiHeaders::preallocate(BATCH, None),
            incoming_headers: MultiHeaders::preallocate(BATCH, None),
        })
    }

    /// Sends for `duration`, then waits for what is still on the way.
    pub(crate) fn run(&mut self, duration: Duration) -> anyhow::Result<Outcome> {
        self.epoch = self.epoch.wrapping_add(1);
        self.sequences.fill(0);
        self.arrivals.clear();
        let tallies = self.scenario.groups.iter().map(|group| Tally::new(group.pairs as usize));
        let groups = tallies.collect::<anyhow::Result<_>>()?;
        let mut outcome = Outcome { duration, sending: Duration::ZERO, joins: 0, moves: 0, groups };
        let began = Instant::now();
        for source in &mut self.sources {
            (source.due, source.heard, source.written_off) = (began, began, 0);
        }
        let [mut joins, mut moves] =
            [self.scenario.joins_per_second, self.scenario.moves_per_second].map(|rate| Ticker::new(rate, began));
        let changes = joins.pause.or(moves.pause).is_some();
        loop {
            let now = Instant::now();
            if now - began >= duration {
                break;
            }
            for nth in 0..self.sources.len() {
                let source = &mut self.sources[nth];
                if source.sends(now, &mut outcome.groups[source.at]) {
                    self.send(nth, now, &mut outcome)?;
                }
            }
            if joins.ticks(now) {
                outcome.joins += u64::from(self.replace());
            }
            if moves.ticks(now) {
                outcome.moves += u64::from(self.relocate(now));
            }
            if changes {
                self.legs.ask(now)?;
            }
            self.receive(now, &mut outcome)?;
        }
        outcome.duration = began.elapsed();
        let mut heard = Instant::now();
        while outcome.groups.iter().any(|tally| tally.delivered < tally.sent) && heard.elapsed() < 4 * SILENCE {
            if changes {
                self.legs.ask(Instant::now())?;
            }
            if self.receive(Instant::now(), &mut outcome)? {
                heard = Instant::now();
            }
        }
        Ok(outcome)
    }

    fn replace(&mut self) -> bool {
        self.legs.replace(self.random.random_range(0..self.legs.pairs()))
    }

    fn relocate(&mut self, now: Instant) -> bool {
        let leg = self.random.random_range(0..2 * self.legs.pairs());
        let socket = 2 * self.random.random_range(0..self.legs.sockets() / 2) + leg % 2;
        self.legs.relocate(leg, socket, now)
    }

    /// A burst of one leg, or of a hub to its members.
    fn send(&mut self, source: usize, now: Instant, outcome: &mut Outcome) -> anyhow::Result<()> {
        let Some(leg) = self.draw(source) else { return Ok(()) };
        let Source { at, group, ref sizes, .. } = self.sources[source];
        let sent_at = u64::try_from((now - self.start).as_nanos()).unwrap_or(u64::MAX);
        let (copies, header) = (group.burst, self.legs.header());
        let mut lengths = [0; BATCH];
        let burst = if group.fanout {
            lengths[0] = self.write_frame(leg, group, sent_at)?;
            1
        } else {
            for (nth, (buffer, length)) in self.outgoing[..copies].iter_mut().zip(&mut lengths).enumerate() {
                let leg = if group.star.is_some() { leg + 2 * nth } else { leg };
                self.sequences[leg] += 1;
                let payload = group.sizes[self.random.sample(sizes)].bytes;
                self.legs.write_header(leg, payload, buffer);
                Stamp { epoch: self.epoch, leg, sequence: self.sequences[leg], sent_at }
                    .write(&mut buffer[header..])?;
                *length = header + payload;
            }
            copies
        };
        let outgoing = &self.outgoing[..burst];
        let began = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
        match self.legs.link_of(leg) {
            Link::Udp(socket) if group.offload => send_as_one(socket, outgoing, lengths[0])?,
            Link::Udp(socket) => send_each(socket, &mut self.outgoing_headers, outgoing, &lengths)?,
            Link::Stream(stream) => {
                stream.send(outgoing.iter().zip(lengths).map(|(buffer, length)| &buffer[..length]))?
            }
        }
        outcome.sending += Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)? - began);
        outcome.groups[at].sent += copies as u64;
        Ok(())
    }

    /// Who sends next: a leg of a pair that is complete, or the hub's leg of the first pair of its star.
    fn draw(&mut self, source: usize) -> Option<usize> {
        let Source { group, first_pair, .. } = self.sources[source];
        if let Some(star) = group.star {
            return Some(2 * (first_pair + (star * self.random.random_range(0..group.pairs / star)) as usize));
        }
        let pair = (0..DRAWS).find_map(|_| {
            let pair = first_pair + self.random.random_range(0..group.pairs as usize);
            Some(pair).filter(|pair| self.legs.is_ready(*pair))
        });
        Some(2 * pair? + self.random.random_range(0..2))
    }

    /// One frame from a hub for all members of its star; its length.
    fn write_frame(&mut self, leg: usize, group: &Group, sent_at: u64) -> anyhow::Result<usize> {
        self.sequences[leg] += 1;
        let mut sealed = vec![0; group.sizes.first().map_or(LEAST_PAYLOAD, |size| size.bytes)];
        Stamp { epoch: self.epoch, leg, sequence: self.sequences[leg], sent_at }.write(&mut sealed)?;
        let copy = Shared { counter: self.sequences[leg], key: SharedKeyId([0; 8]), sealed: &sealed };
        let slots: Vec<_> = (0..group.burst).map(|nth| self.legs.slot(leg + 2 * nth)).collect();
        let frame = frame(&slots, &copy).context("a star is too large for a frame")?;
        self.outgoing[0][..frame.len()].copy_from_slice(&frame);
        Ok(frame.len())
    }

    /// Takes what has arrived; whether anything had.
    fn receive(&mut self, now: Instant, outcome: &mut Outcome) -> anyhow::Result<bool> {
        let mut any = false;
        for socket in self.legs.arrived(0)? {
            while self.take(socket, now, outcome, &mut any)? {}
        }
        if self.scenario.streams != Streams::None {
            self.legs.flush()?;
        }
        Ok(any)
    }

    /// Takes a batch of a socket. Whether there may be more that nobody would tell of: a stream has it decrypted already.
    fn take(&mut self, socket: usize, turn: Instant, outcome: &mut Outcome, any: &mut bool) -> anyhow::Result<bool> {
        let mut lengths = [0; BATCH];
        let more = match self.legs.link(socket) {
            Link::Udp(socket) => {
                receive_each(socket, &mut self.incoming_headers, &mut self.incoming, &mut lengths)?;
                false
            }
            Link::Stream(stream) => stream.receive(&mut *self.incoming, &mut lengths)? > 0,
        };
        let now = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let header = self.legs.header() as u64;
        for (buffer, length) in self.incoming.iter().zip(lengths) {
            let Some(payload) = self.legs.payload(socket, &buffer[..length])? else { continue };
            let Some(stamp) = Stamp::read(payload).filter(|stamp| stamp.epoch == self.epoch) else { continue };
            let owns = |source: &&mut Source<'_>| {
                (source.first_pair..source.first_pair + source.group.pairs as usize).contains(&(stamp.leg / 2))
            };
            let Some(source) = self.sources.iter_mut().find(owns) else { continue };
            // All copies say the same: whose it is says the socket.
            let leg = if source.group.fanout { socket & !1 } else { stamp.leg };
            let Some(late) = self.arrivals.is_late(leg, stamp.sequence) else { continue };
            let pair = leg / 2;
            source.heard = turn;
            let tally = &mut outcome.groups[source.at];
            tally.reordered += u64::from(late);
            tally.delivered += 1;
            if let Some(bytes) = tally.bytes.get_mut(pair.wrapping_sub(source.first_pair)) {
                *bytes += payload.len() as u64 + header;
            }
            tally.latency.saturating_record(now.saturating_sub(stamp.sent_at));
            *any = true;
        }
        Ok(more)
    }
}

impl Source<'_> {
    /// Whether a burst goes now.
    fn sends(&mut self, now: Instant, tally: &mut Tally) -> bool {
        let burst = self.group.burst as u64;
        let Some(pause) = self.pause else {
            if now.saturating_duration_since(self.heard) > SILENCE {
                self.written_off = tally.sent - tally.delivered;
                self.heard = now;
            }
            let on_the_way = (tally.sent - tally.delivered).saturating_sub(self.written_off);
            return on_the_way + burst <= u64::from(self.group.window);
        };
        if self.due > now {
            return false;
        }
        self.due += pause;
        // Behind by more than that, it was the generator that could not: made known, not made up for.
        let behind = now.saturating_duration_since(self.due);
        if behind > SILENCE {
            tally.skipped += (behind.as_nanos() / pause.as_nanos().max(1)) as u64 * burst;
            self.due = now;
        }
        true
    }
}

impl Ticker {
    fn new(per_second: u32, now: Instant) -> Self {
        let pause = (per_second > 0).then(|| Duration::from_secs(1) / per_second);
        Self { pause, due: now + pause.unwrap_or_default() }
    }

    fn ticks(&mut self, now: Instant) -> bool {
        let Some(pause) = self.pause.filter(|_| self.due <= now) else { return false };
        self.due += pause;
        true
    }
}

impl Tally {
    fn new(pairs: usize) -> anyhow::Result<Self> {
        let (sent, delivered, reordered, skipped) = (0, 0, 0, 0);
        Ok(Self { sent, delivered, reordered, skipped, latency: latencies()?, bytes: vec![0; pairs] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticker_makes_up_for_a_late_turn() {
        let now = Instant::now();
        let mut ticker = Ticker::new(10, now);
        assert!(!ticker.ticks(now));
        let later = now + Duration::from_millis(250);
        assert_eq!([(); 3].map(|()| ticker.ticks(later)), [true, true, false]);
        assert!(!Ticker::new(0, now).ticks(later));
    }
}
