//! Those who are no legs of the relay and send to it all the same, from many addresses, without waiting for an answer.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::sys::socket::{MultiHeaders, SockaddrStorage, setsockopt, sockopt};
use rand::{Rng as _, RngCore as _, SeedableRng as _, rngs::StdRng};
use wire::{
    relay::{Cookie, Join, MAX_DATAGRAM, Message, Slot},
    ticket::TICKET_SIZE,
};

use crate::udp::{BATCH, send_as_one, send_each};

/// Addresses that they send from.
const SOURCES: u32 = 16;

/// Each batch of one kind, so that the kernel can carry it as one.
const PREPARED: usize = 8 * BATCH;

/// Bytes behind a header.
const PAYLOAD: usize = 64;

/// Who is later than that does not make up for it.
const LATE: Duration = Duration::from_millis(20);

/// They send until they are ended.
#[derive(Debug)]
pub(crate) struct Hostile {
    stops: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<u64>>,
    began: Instant,
}

/// Where datagrams go that nobody wants: a socket that is not read. It takes merged ones as the relay does.
pub(crate) fn nowhere() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::new(127, 93, 255, 1), 0))?;
    setsockopt(&socket, sockopt::UdpGroSegment, &true)?;
    Ok(socket)
}

impl Hostile {
    /// Has a thread send so many a second `to` there, some of them in the name of the legs of `slots`.
    pub(crate) fn start(
        to: SocketAddr,
        slots: Vec<Slot>,
        per_second: f64,
        seed: u64,
        prepare: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
    ) -> Self {
        let stops = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stops);
        let thread = thread::spawn(move || {
            prepare()?;
            send(to, &slots, per_second, seed, &stopped)
        });
        Self { stops, thread, began: Instant::now() }
    }

    /// Ends them; how many they sent in a second.
    pub(crate) fn end(self) -> anyhow::Result<f64> {
        self.stops.store(true, Ordering::Relaxed);
        let took = self.began.elapsed();
        let sent = self.thread.join().map_err(|_| anyhow::anyhow!("the hostile thread panicked"))??;
        Ok(sent as f64 / took.as_secs_f64())
    }
}

fn send(to: SocketAddr, slots: &[Slot], per_second: f64, seed: u64, stops: &AtomicBool) -> anyhow::Result<u64> {
    let mut random = StdRng::seed_from_u64(seed);
    let prepared: Vec<_> = (0..PREPARED).map(|nth| datagram(nth / BATCH, slots, &mut random)).collect();
    let mut buffers = vec![[0; MAX_DATAGRAM]; PREPARED];
    for (buffer, bytes) in buffers.iter_mut().zip(&prepared) {
        buffer[..bytes.len()].copy_from_slice(bytes);
    }
    let sources = (1..=SOURCES).map(|nth| {
        let socket = UdpSocket::bind((Ipv4Addr::from_bits(Ipv4Addr::new(127, 93, 0, 0).to_bits() + nth), 0))?;
        socket.connect(to)?;
        Ok(socket)
    });
    let sources = sources.collect::<io::Result<Vec<_>>>()?;
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
    let pause = Duration::from_secs_f64(BATCH as f64 / per_second.max(1.0));
    let (mut due, mut sent) = (Instant::now(), 0_u64);
    while !stops.load(Ordering::Relaxed) {
        let now = Instant::now();
        if due > now {
            thread::sleep(due - now);
            continue;
        }
        due = (due + pause).max(now - LATE);
        let first = BATCH * random.random_range(0..PREPARED / BATCH);
        let (length, batch) = (prepared[first].len(), &buffers[first..first + BATCH]);
        let source = &sources[random.random_range(0..sources.len())];
        // As the network would bring them: one by one, and more of them merged, as one source sends in a row (GRO).
        if sent.is_multiple_of(4 * BATCH as u64) {
            send_each(source, &mut headers, batch, &[length; BATCH])?;
        } else {
            send_as_one(source, batch, length)?;
        }
        sent += BATCH as u64;
    }
    Ok(sent)
}

/// Three kinds of guesses in eight, as many that name a slot in use, a join with a forged ticket, and a question of STUN.
fn datagram(nth: usize, slots: &[Slot], random: &mut StdRng) -> Vec<u8> {
    let mut payload = [0; PAYLOAD];
    random.fill_bytes(&mut payload);
    match nth % 8 {
        0..3 => Message::Data { slot: Slot(random.random()), payload: &payload }.to_vec(),
        3..6 => {
            let slot = slots.get(random.random_range(0..slots.len().max(1))).copied().unwrap_or(Slot(0));
            Message::Data { slot, payload: &payload }.to_vec()
        }
        6 => {
            let mut ticket = [0; TICKET_SIZE];
            random.fill_bytes(&mut ticket);
            Message::Join(Join { cookie: Cookie(random.random()), ticket: &ticket, proof: &random.random() }).to_vec()
        }
        _ => [&BINDING_REQUEST[..], &random.random::<[u8; 12]>()].concat(),
    }
}

/// Without attributes: its transaction follows (RFC 8489).
const BINDING_REQUEST: [u8; 8] = [0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];

#[cfg(test)]
mod tests {
    use wire::probe::is_stun;

    use super::*;

    #[test]
    fn what_is_sent_is_of_every_kind() {
        let mut random = StdRng::seed_from_u64(1);
        let sent: Vec<_> = (0..64).map(|nth| datagram(nth, &[Slot(7)], &mut random)).collect();
        let count = |wanted: fn(&[u8]) -> bool| sent.iter().filter(|bytes| wanted(bytes)).count();
        assert_eq!(count(|bytes| matches!(Message::parse(bytes), Some(Message::Join(_)))), 8);
        assert_eq!(count(|bytes| matches!(Message::parse(bytes), Some(Message::Data { slot: Slot(7), .. }))), 24);
        assert_eq!(count(is_stun), 8);
    }

    #[test]
    fn they_send_until_they_are_ended() {
        let deaf = nowhere().unwrap();
        let hostile = Hostile::start(deaf.local_addr().unwrap(), vec![Slot(1)], 100_000.0, 1, || Ok(()));
        thread::sleep(Duration::from_millis(100));
        assert!(hostile.end().unwrap() > 0.0);
    }
}
