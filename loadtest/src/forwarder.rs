//! The least that a forwarder can do: a table, a number in each datagram, no tickets, no buckets, no figures.
//!
//! A leg announces itself with a header and no payload, and gets it back. The number in a header is the leg's own; its peer has
//! the same number but for the last bit.

use std::{
    io::{self, IoSlice, IoSliceMut, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg},
};
use socket2::SockRef;
use wire::relay::{HEADER_SIZE, MAX_DATAGRAM};

use crate::server::{KERNEL_BUFFER, Kind};

const BATCH: usize = 64;
const MOST_LEGS: usize = 1 << 17;

/// Prints its address and forwards until standard input ends.
pub(crate) fn run(kind: Kind) -> anyhow::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    // The kernel grants what its limits allow, as it does for the relay.
    let _ = SockRef::from(&socket).set_recv_buffer_size(KERNEL_BUFFER);
    let _ = SockRef::from(&socket).set_send_buffer_size(KERNEL_BUFFER);
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    writeln!(io::stdout(), "{}", socket.local_addr()?)?;
    let stops = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stops);
    let forward = match kind {
        Kind::Batched => batched,
        Kind::Naive => naive,
        Kind::Relay | Kind::Coturn | Kind::TurnServer | Kind::Iroh | Kind::IrohTls => {
            anyhow::bail!("{} is an executable of its own", kind.name())
        }
    };
    let worker = thread::Builder::new()
        .name(kind.thread().unwrap_or("main").into())
        .spawn(move || forward(&socket, &stopped))?;
    io::stdin().read_to_end(&mut Vec::new())?;
    stops.store(true, Ordering::Relaxed);
    worker.join().map_err(|_| anyhow::anyhow!("the forwarder panicked"))??;
    Ok(())
}

/// recvfrom and sendto, one datagram at a time.
fn naive(socket: &UdpSocket, stops: &AtomicBool) -> io::Result<()> {
    let mut legs = Legs::<SocketAddr>::new();
    let mut buffer = [0; MAX_DATAGRAM];
    while !stops.load(Ordering::Relaxed) {
        let (length, from) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        if let Some(to) = legs.route(&buffer[..length], from) {
            // What the kernel does not take is lost.
            let _ = socket.send_to(&buffer[..length], to);
        }
    }
    Ok(())
}

/// recvmmsg and sendmmsg, up to [`BATCH`] datagrams at a time.
fn batched(socket: &UdpSocket, stops: &AtomicBool) -> io::Result<()> {
    let mut legs = Legs::<SockaddrStorage>::new();
    let mut buffers = Box::new([[0_u8; MAX_DATAGRAM]; BATCH]);
    let mut incoming = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
    let mut outgoing = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
    let mut arrived: Vec<(Option<SockaddrStorage>, usize)> = Vec::with_capacity(BATCH);
    let (mut to, mut lengths) = (Vec::with_capacity(BATCH), Vec::with_capacity(BATCH));
    while !stops.load(Ordering::Relaxed) {
        arrived.clear();
        let mut slices = buffers.each_mut().map(|buffer| [IoSliceMut::new(buffer)]);
        match recvmmsg(socket.as_raw_fd(), &mut incoming, slices.iter_mut(), MsgFlags::MSG_WAITFORONE, None) {
            Ok(messages) => arrived.extend(messages.map(|message| (message.address, message.bytes))),
            Err(Errno::EAGAIN | Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        }
        to.clear();
        lengths.clear();
        for (nth, (from, length)) in arrived.drain(..).enumerate() {
            if let Some(peer) = from.and_then(|from| legs.route(&buffers[nth][..length], from)) {
                to.push(Some(peer));
                lengths.push((nth, length));
            }
        }
        let slices: Vec<_> = lengths.iter().map(|&(nth, length)| [IoSlice::new(&buffers[nth][..length])]).collect();
        let mut sent = 0;
        while sent < to.len() {
            let rest = &to[sent..];
            let flags = MsgFlags::MSG_DONTWAIT;
            sent += sendmmsg(socket.as_raw_fd(), &mut outgoing, &slices[sent..], rest, [], flags)
                .map_or(1, |results| results.count().max(1));
        }
    }
    Ok(())
}

/// Where each leg was heard from.
struct Legs<A> {
    known: Vec<Option<A>>,
}

impl<A: Copy> Legs<A> {
    fn new() -> Self {
        Self { known: vec![None; MOST_LEGS] }
    }

    fn route(&mut self, datagram: &[u8], from: A) -> Option<A> {
        let number: [u8; 4] = datagram.get(4..HEADER_SIZE)?.try_into().ok()?;
        let leg = u32::from_be_bytes(number) as usize;
        if datagram.len() > HEADER_SIZE {
            return *self.known.get(leg ^ 1)?;
        }
        *self.known.get_mut(leg)? = Some(from);
        Some(from)
    }
}

#[cfg(test)]
mod tests {
    use wire::relay::{Message, Slot};

    use super::*;

    #[test]
    fn a_datagram_goes_to_the_other_leg_of_its_pair() {
        let mut legs = Legs::new();
        let announced = |leg| Message::Data { slot: Slot(leg), payload: &[] }.to_vec();
        let data = |leg| Message::Data { slot: Slot(leg), payload: b"data" }.to_vec();
        assert_eq!(legs.route(&data(4), 'a'), None);
        assert_eq!(legs.route(&announced(4), 'a'), Some('a'));
        assert_eq!(legs.route(&announced(5), 'b'), Some('b'));
        assert_eq!(legs.route(&data(4), 'a'), Some('b'));
        assert_eq!(legs.route(&data(5), 'b'), Some('a'));
        assert_eq!(legs.route(&data(u32::MAX), 'b'), None);
        assert_eq!(legs.route(b"short", 'b'), None);
    }
}
