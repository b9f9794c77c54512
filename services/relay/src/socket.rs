//! The packet path's shell: batches in, one decision each, batches out. One thread with a socket at each of the relay's
//! doors, no allocation in the loop but for the answers of the reflector that wait.

use std::{
    io,
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Instant, SystemTime},
};

use arrayvec::ArrayVec;
use domain::UnixMillis;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::prctl::set_timerslack,
};
use tokio::sync::mpsc;
use wire::{
    probe::{Asked, Corner, MAX_ANSWER_SIZE, Verdict as Reflection, is_stun},
    relay::{MAX_DATAGRAM, Message, Slot},
    stream::StreamId,
    ticket::PairNonce,
};

use crate::{
    batch::{Arrivals, Departures, Piece, Waits},
    core::{Answer, DropReason, Hop, Relay, Verdict},
    count::Count,
    door::{DOORS, Door, TURN},
    empty::Round,
    guard::Guard,
    metrics::Metrics,
    parking::{MAX_PARCEL, Parcel},
    rest::{Rest, SLACK},
    stream::{self, port::Port},
    xdp::Table,
};

/// Pairs whose end one turn looks at, and late answers that it sends: about a millisecond, while the kernel keeps what arrives.
const DEADLINES: usize = 1_024;

/// Frames of streams that one turn begins to serve, so that datagrams wait for few of them.
const STREAM_FRAMES: u64 = 64;

/// One thread and what it owns.
#[derive(Debug)]
pub(crate) struct Worker {
    /// One for each of the relay's listeners, in their order.
    pub(crate) doors: Vec<Door>,
    pub(crate) relay: Relay,
    /// The pairs that the kernel forwards.
    pub(crate) table: Option<Table>,
    /// What keeps room for proven legs in the kernel's queue.
    pub(crate) guard: Option<Guard>,
    /// Where streams come in, if any do.
    pub(crate) port: Option<Port>,
    pub(crate) metrics: Arc<Metrics>,
    /// Takes pairs that send more than they may.
    pub(crate) held_back: mpsc::Sender<PairNonce>,
    pub(crate) drains: Arc<AtomicBool>,
    pub(crate) stops: Arc<AtomicBool>,
}

impl Worker {
    /// Starts the thread. It ends by itself soon after `stops`.
    pub(crate) fn start(self) -> io::Result<JoinHandle<io::Result<()>>> {
        std::thread::Builder::new().name("relay".into()).spawn(move || self.run())
    }

    fn run(mut self) -> io::Result<()> {
        let mut arrivals = Arrivals::new();
        let mut outgoing: Vec<_> = self.doors.iter().map(|_| Outgoing::new()).collect();
        let mut count = Count::default();
        let mut round = Round::default();
        let mut rest = Rest::default();
        // Without it a rest is longer, and nothing else.
        let _ = set_timerslack(SLACK);
        while !self.stops.load(Ordering::Relaxed) {
            self.follow_order(&mut round);
            let (mut emptied, mut forwarded) = (true, 0);
            let waits = if self.waits_at_one_door() { Waits::ForOne } else { Waits::Not };
            for at in self.ready()? {
                arrivals.receive(&self.doors[at].socket, waits)?;
                emptied &= !arrivals.is_full();
                let now = Instant::now();
                let wall = UnixMillis::from(SystemTime::now());
                for nth in 0..arrivals.count() {
                    let message = arrivals.message(nth);
                    if StreamId::of(&message.from).is_some() {
                        // A neighbour that calls itself a stream.
                        count.drop(DropReason::Malformed);
                        continue;
                    }
                    let from = Hop { address: message.from, door: u8::try_from(at).unwrap_or(u8::MAX) };
                    for piece in message.pieces() {
                        let datagram = arrivals.bytes(piece);
                        match self.decide(now, wall, from, datagram, &mut outgoing, &mut count) {
                            Some(Next::Forward(to)) => self.forward(to, piece, &arrivals, &mut outgoing),
                            Some(Next::Copy) => {
                                self.fan_out(now, from, piece, &arrivals, &mut outgoing, &mut count)?;
                            }
                            None => self.finish(&mut outgoing, &mut count),
                        }
                        if outgoing.iter().any(Departures::is_full) {
                            self.send(now, &arrivals, &mut outgoing, &mut count)?;
                        }
                    }
                }
                self.send(now, &arrivals, &mut outgoing, &mut count)?;
                forwarded += count.packets;
                count.flush(&self.metrics);
            }
            self.serve_streams(&mut arrivals, &mut outgoing, &mut count)?;
            let now = Instant::now();
            if let Some(guard) = &mut self.guard {
                guard.handle_turn(now, emptied, &self.metrics);
            }
            self.send_late(now);
            for _ in 0..DEADLINES {
                if self.relay.poll_deadline().is_none_or(|due| due > now) {
                    break;
                }
                self.end_idle(now);
            }
            if let Some(pause) = rest.handle_turn(now, forwarded, emptied)
                && self.port.as_ref().is_none_or(Port::rests)
            {
                std::thread::sleep(pause);
            }
        }
        if let Some(table) = &mut self.table {
            table.end(&mut self.relay);
        }
        self.relay.handle_end();
        Ok(())
    }

    /// The doors where something may have arrived. Waits for that, but not for long.
    fn ready(&mut self) -> io::Result<ArrayVec<usize, DOORS>> {
        if self.waits_at_one_door() {
            return Ok(std::iter::once(0).collect());
        }
        let streams = self.port.iter().map(Port::wake);
        let mut polled: ArrayVec<_, { DOORS + 1 }> = (self.doors.iter().map(|door| door.socket.as_fd()))
            .chain(streams)
            .map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN))
            .collect();
        let waits = self.port.as_ref().is_none_or(Port::rests);
        let patience = if waits { PollTimeout::try_from(TURN).unwrap_or(PollTimeout::ZERO) } else { PollTimeout::ZERO };
        match poll(&mut polled, patience) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let told: ArrayVec<_, { DOORS + 1 }> = polled.iter().map(|polled| polled.any() == Some(true)).collect();
        drop(polled);
        if let Some(port) = &mut self.port {
            port.woken(told.get(self.doors.len()) == Some(&true));
        }
        Ok((0..self.doors.len()).filter(|at| told[*at]).collect())
    }

    /// Whether there is nothing to wait for but one socket.
    fn waits_at_one_door(&self) -> bool {
        self.doors.len() == 1 && !self.port.as_ref().is_some_and(Port::is_live)
    }

    /// Takes what came over streams, within a budget; what is left is there in the next turn. Then lets streams write.
    fn serve_streams(
        &mut self,
        arrivals: &mut Arrivals,
        outgoing: &mut [Outgoing],
        count: &mut Count,
    ) -> io::Result<()> {
        let Some(mut port) = self.port.take() else { return Ok(()) };
        let (now, wall) = (Instant::now(), UnixMillis::from(SystemTime::now()));
        arrivals.clear();
        let mut served = 0;
        while served < STREAM_FRAMES
            && let Some(batch) = port.take(now)
        {
            let from = Hop { address: batch.from.address(), door: stream::DOOR };
            for frame in port.own(&batch) {
                served += 1;
                if outgoing.iter().any(Departures::is_full) {
                    self.send(now, arrivals, outgoing, count)?;
                }
                match self.judge(now, wall, from, frame, count) {
                    Verdict::Forward(to) if to.door == stream::DOOR => port.send(to.address, frame),
                    Verdict::Forward(to) => {
                        if let (Some(piece), Some(outgoing)) =
                            (arrivals.lay(frame), outgoing.get_mut(usize::from(to.door)))
                        {
                            outgoing.push(to.address, piece);
                        }
                    }
                    Verdict::Copy => {
                        if let Some(piece) = arrivals.lay(frame) {
                            self.port = Some(port);
                            self.fan_out(now, from, piece, arrivals, outgoing, count)?;
                            port = match self.port.take() {
                                Some(port) => port,
                                None => return Ok(()),
                            };
                        }
                    }
                    Verdict::Answer(answer) => port.send(from.address, answer.as_bytes()),
                    Verdict::Drop(_) => {}
                }
                while let Some(parcel) = self.relay.poll_parcel() {
                    carry(&parcel, Some(&mut port), outgoing, count);
                }
                if let Some((to, note)) = self.relay.poll_note() {
                    count.answers += 1;
                    tell(&self.doors, Some(&mut port), to, &note);
                }
                self.count_events();
            }
        }
        if served > 0 {
            self.metrics.streams.frames.inc_by(served);
            self.send(now, arrivals, outgoing, count)?;
            count.flush(&self.metrics);
        }
        port.flush(now);
        self.port = Some(port);
        Ok(())
    }

    /// Has a piece sent on.
    fn forward(&mut self, to: Hop, piece: Piece, arrivals: &Arrivals, outgoing: &mut [Outgoing]) {
        match &mut self.port {
            Some(port) if to.door == stream::DOOR => port.send(to.address, arrivals.bytes(piece)),
            _ => {
                if let Some(outgoing) = outgoing.get_mut(usize::from(to.door)) {
                    outgoing.push(to.address, piece);
                }
            }
        }
    }

    /// Has the end of a frame sent on to each of many.
    fn fan_out(
        &mut self,
        now: Instant,
        from: Hop,
        frame: Piece,
        arrivals: &Arrivals,
        outgoing: &mut [Outgoing],
        count: &mut Count,
    ) -> io::Result<()> {
        let Some(Message::Fanout { slots, copy }) = Message::parse(arrivals.bytes(frame)) else { return Ok(()) };
        let piece = frame.end(copy.len());
        for slot in slots.iter() {
            if outgoing.iter().any(Departures::is_full) {
                self.send(now, arrivals, outgoing, count)?;
            }
            let limited = self.table.is_some() && self.relay.has_limit(slot);
            let verdict = self.settle(limited.then_some(slot), |relay| relay.handle_copy(now, from, slot, copy.len()));
            count.verdict(verdict, copy.len());
            match verdict {
                Verdict::Forward(to) => {
                    count.copies += 1;
                    self.forward(to, piece, arrivals, outgoing);
                }
                Verdict::Answer(answer) => self.answer(from, answer, outgoing),
                Verdict::Copy | Verdict::Drop(_) => {}
            }
            self.count_events();
        }
        Ok(())
    }

    /// Has the sender of a datagram or frame answered.
    fn answer(&mut self, from: Hop, answer: Answer, outgoing: &mut [Outgoing]) {
        let bytes = answer.as_bytes();
        match &mut self.port {
            Some(port) if from.door == stream::DOOR => port.send(from.address, bytes),
            _ => {
                if let Some(back) = outgoing.get_mut(usize::from(from.door)) {
                    back.answer()[..bytes.len()].copy_from_slice(bytes);
                    back.push_answer(from.address, bytes.len());
                }
            }
        }
    }

    /// What a datagram caused besides its verdict.
    fn finish(&mut self, outgoing: &mut [Outgoing], count: &mut Count) {
        while let Some(parcel) = self.relay.poll_parcel() {
            carry(&parcel, self.port.as_mut(), outgoing, count);
        }
        self.count_events();
    }

    /// What the relay makes of a datagram or frame, counted.
    fn judge(&mut self, now: Instant, wall: UnixMillis, from: Hop, bytes: &[u8], count: &mut Count) -> Verdict {
        let charged = if self.table.is_some() { self.relay.charged(bytes) } else { None };
        let verdict = self.settle(charged, |relay| relay.handle_datagram(now, wall, from, bytes));
        count.verdict(verdict, bytes.len());
        verdict
    }

    /// What is left to do about this datagram, if anything is. An answer to it is in `outgoing`.
    fn decide(
        &mut self,
        now: Instant,
        wall: UnixMillis,
        from: Hop,
        datagram: &[u8],
        outgoing: &mut [Outgoing],
        count: &mut Count,
    ) -> Option<Next> {
        // Larger than anything legal: looked at no further.
        let datagram = if datagram.len() > MAX_DATAGRAM { &[] } else { datagram };
        if is_stun(datagram) {
            let back = &mut outgoing[usize::from(from.door)];
            let asked = Asked { source: from.address, at: Corner::R1P, ttl: 0, now: wall };
            let desk = &mut self.doors[usize::from(from.door)].desk;
            match desk.handle_question(now, &asked, datagram, back.answer()) {
                Reflection::Answer(reflection) => {
                    count.reflections += 1;
                    back.push_answer(from.address, reflection.length);
                }
                Reflection::Later => {}
                Reflection::Ignored => count.drop(DropReason::Malformed),
                Reflection::Limited => count.drop(DropReason::AsksTooOften),
            }
            return None;
        }
        match self.judge(now, wall, from, datagram, count) {
            Verdict::Forward(to) => Some(Next::Forward(to)),
            Verdict::Copy => Some(Next::Copy),
            Verdict::Answer(answer) => {
                self.answer(from, answer, outgoing);
                None
            }
            Verdict::Drop(_) => None,
        }
    }

    /// The relay's verdict, with what the kernel knows and has to know of the pair that may be charged.
    fn settle(&mut self, charged: Option<Slot>, ask: impl FnOnce(&mut Relay) -> Verdict) -> Verdict {
        let Self { relay, table, .. } = self;
        let charged = charged.filter(|slot| table.as_mut().is_some_and(|table| table.count(relay, *slot)));
        let verdict = ask(relay);
        if let (Some(slot), Some(table), Verdict::Forward(_)) = (charged, table, verdict)
            && let Some(sight) = relay.sight(slot)
        {
            table.charge(slot, sight.full_at);
        }
        self.tell_kernel();
        verdict
    }

    /// Ends the next pair if it was idle here and in the kernel.
    fn end_idle(&mut self, now: Instant) {
        if let (Some(table), Some(slot)) = (&mut self.table, self.relay.due()) {
            table.count(&mut self.relay, slot);
        }
        self.relay.handle_deadline(now);
        self.tell_kernel();
        self.count_events();
    }

    /// Tells the kernel what changed. Counting what it forwarded may change a pair once more.
    pub(crate) fn tell_kernel(&mut self) {
        if let Some(table) = &mut self.table {
            while let Some(slot) = self.relay.poll_change() {
                table.follow(&mut self.relay, slot);
            }
        }
        if let Some(guard) = &mut self.guard {
            while let Some(slot) = self.relay.poll_move() {
                guard.follow(&mut self.relay, slot);
            }
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

    pub(crate) fn count_events(&mut self) {
        if let Some(pair) = self.relay.poll_held_back() {
            // Without room it is named again with the next note.
            let _ = self.held_back.try_send(pair);
        }
        if let Some((to, note)) = self.relay.poll_note() {
            self.metrics.answers.inc();
            tell(&self.doors, self.port.as_mut(), to, &note);
        }
        while let Some(event) = self.relay.poll_event() {
            self.metrics.event(event);
        }
    }

    fn send(&self, now: Instant, arrivals: &Arrivals, outgoing: &mut [Outgoing], count: &mut Count) -> io::Result<()> {
        for (door, outgoing) in self.doors.iter().zip(outgoing) {
            let sent = outgoing.send(now, &door.socket, arrivals)?;
            count.unsent += sent.unsent;
            count.refused_rows += sent.refused_rows;
        }
        Ok(())
    }
}

/// What is to be done with a datagram.
enum Next {
    Forward(Hop),
    /// Its end goes to many.
    Copy,
}

/// Has a first packet sent.
fn carry(parcel: &Parcel, port: Option<&mut Port>, outgoing: &mut [Outgoing], count: &mut Count) {
    let (to, bytes) = (parcel.to, parcel.as_bytes());
    count.packets += 1;
    count.bytes += bytes.len() as u64;
    match port {
        Some(port) if to.door == stream::DOOR => port.send(to.address, bytes),
        _ => {
            if let Some(outgoing) = outgoing.get_mut(usize::from(to.door)) {
                outgoing.answer()[..bytes.len()].copy_from_slice(bytes);
                outgoing.push_answer(to.address, bytes.len());
            }
        }
    }
}

/// Sends a note. One that is lost is made up for by the next.
pub(crate) fn tell(doors: &[Door], port: Option<&mut Port>, to: Hop, note: &Answer) {
    match (doors.get(usize::from(to.door)), port) {
        (Some(door), _) => drop(door.socket.send_to(note.as_bytes(), to.address)),
        (None, Some(port)) => port.send(to.address, note.as_bytes()),
        (None, None) => {}
    }
}

/// What waits to be sent through one door.
type Outgoing = Departures<LARGEST>;

/// The largest datagram that is made here: an answer of the reflector, or a first packet.
const LARGEST: usize = if MAX_PARCEL > MAX_ANSWER_SIZE { MAX_PARCEL } else { MAX_ANSWER_SIZE };
