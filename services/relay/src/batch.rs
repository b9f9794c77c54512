//! Many datagrams in one system call: `recvmmsg` with UDP GRO, `sendmmsg` with UDP GSO.
//!
//! The kernel hands over what arrived in a row from one source as one message of equal pieces, and takes such a message; a
//! row of eight then crosses the stack once. What goes to one address in a row and is of one size becomes one message; the
//! order is never changed. Where the kernel refuses (an interface that cannot: EIO; a path that is narrower: EMSGSIZE,
//! EINVAL) the row goes again, one by one: for good in the first case, for that address for a while in the second.
//!
//! Nothing is allocated after the start. `unsafe` is confined to the two calls: `nix` gives all messages of a call the same
//! control data, and allocates for a call with any.

use std::{
    io,
    mem::{size_of, zeroed},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Range,
    os::fd::{AsFd, AsRawFd as _},
    time::{Duration, Instant},
};

use arrayvec::ArrayVec;
use nix::{
    errno::Errno,
    libc::{self, c_int, c_uint, iovec, mmsghdr},
};

/// Messages taken from the kernel at once, at most and at least. In between, twice as many as came with the call before:
/// to describe sixty-four places costs as much as to forward a datagram's bytes, and where the relay keeps up there is one.
const MESSAGES: usize = 64;
const FEW_MESSAGES: usize = 8;

/// The largest message, and a distance that lets the messages' first bytes fall into different lines of the caches.
const STRIDE: usize = 65_536 + 17 * 64;

/// Datagrams that wait to be sent, at most.
pub(crate) const WAITING: usize = 256;

/// What one datagram may cause: an answer, and a first packet for each leg.
const CAUSED: usize = 3;

/// The most pieces and bytes that the kernel takes as one (`UDP_MAX_SEGMENTS` of older kernels).
const PIECES: usize = 64;
const ROW_BYTES: usize = 65_000;

/// Addresses whose rows were refused, as many as are remembered and how long.
const REFUSED: usize = 8;
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// What arrived with one call.
#[derive(Debug)]
pub(crate) struct Arrivals {
    buffer: Box<[u8]>,
    names: Box<[Name; MESSAGES]>,
    controls: Box<[Control; MESSAGES]>,
    messages: ArrayVec<Arrived, MESSAGES>,
    /// How many messages the next call may bring.
    places: usize,
    /// The last call brought as many as it could.
    is_full: bool,
    /// Bytes of the buffer that [`Self::lay`] has used.
    laid: usize,
}

/// Pieces of equal size from one source; the last may be shorter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived {
    pub(crate) from: SocketAddr,
    start: usize,
    length: usize,
    piece: usize,
}

/// A place in [`Arrivals`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    start: usize,
    pub(crate) length: usize,
}

impl Piece {
    /// The last `length` bytes.
    pub(crate) const fn end(self, length: usize) -> Self {
        Self { start: self.start + self.length - length, length }
    }
}

impl Arrivals {
    pub(crate) fn new() -> Self {
        Self {
            buffer: vec![0; MESSAGES * STRIDE].into_boxed_slice(),
            names: Box::new([Name::default(); MESSAGES]),
            controls: Box::new([Control::default(); MESSAGES]),
            messages: ArrayVec::new(),
            places: FEW_MESSAGES,
            is_full: false,
            laid: 0,
        }
    }

    /// Forgets what arrived, to make room for [`Self::lay`].
    pub(crate) fn clear(&mut self) {
        self.messages.clear();
        self.laid = 0;
    }

    /// Puts in what came another way than over a socket; `None` when there is no room.
    pub(crate) fn lay(&mut self, bytes: &[u8]) -> Option<Piece> {
        let piece = Piece { start: self.laid, length: bytes.len() };
        self.buffer.get_mut(self.laid..self.laid + bytes.len())?.copy_from_slice(bytes);
        self.laid += bytes.len();
        Some(piece)
    }

    /// Takes what is there. With `waits`, waits for the first as long as the socket has as its time-out.
    pub(crate) fn receive(&mut self, socket: &impl AsFd, waits: Waits) -> io::Result<()> {
        self.messages.clear();
        let mut slices: ArrayVec<iovec, MESSAGES> = ArrayVec::new();
        slices.extend(
            (self.buffer.chunks_exact_mut(STRIDE).take(self.places))
                .map(|chunk| iovec { iov_base: chunk.as_mut_ptr().cast(), iov_len: STRIDE.min(65_536) }),
        );
        let mut headers: ArrayVec<mmsghdr, MESSAGES> = ArrayVec::new();
        for ((slice, name), control) in slices.iter_mut().zip(&mut *self.names).zip(&mut *self.controls) {
            *control = Control::default();
            let mut header = empty();
            header.msg_hdr.msg_name = name.0.as_mut_ptr().cast();
            header.msg_hdr.msg_namelen = size_of::<Name>() as u32;
            header.msg_hdr.msg_iov = slice;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = (&raw mut *control).cast();
            header.msg_hdr.msg_controllen = size_of::<Control>() as _;
            headers.push(header);
        }
        let flags = match waits {
            Waits::ForOne => libc::MSG_WAITFORONE,
            Waits::Not => libc::MSG_DONTWAIT,
        };
        let descriptor = socket.as_fd().as_raw_fd();
        #[expect(unsafe_code, reason = "a system call that fills memory which the headers point to")]
        // SAFETY: each header points to a chunk, a name and a control block that this function borrows mutably until it
        // returns, with their lengths; the count is that of the headers.
        let received = Errno::result(unsafe {
            libc::recvmmsg(descriptor, headers.as_mut_ptr(), headers.len() as c_uint, flags as _, std::ptr::null_mut())
        });
        let count = match received {
            Ok(count) => usize::try_from(count).unwrap_or(0),
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNREFUSED) => 0,
            Err(error) => return Err(error.into()),
        };
        self.is_full = count == self.places;
        self.places = (2 * count).clamp(FEW_MESSAGES, MESSAGES);
        for (nth, header) in headers.iter().enumerate().take(count) {
            let whole = header.msg_hdr.msg_flags & libc::MSG_TRUNC == 0;
            let length = if whole { header.msg_len as usize } else { 0 };
            let piece = self.controls[nth].piece().filter(|piece| *piece > 0).unwrap_or(length);
            self.messages.push(Arrived { from: self.names[nth].address(), start: nth * STRIDE, length, piece });
        }
        Ok(())
    }

    /// How many messages arrived.
    pub(crate) fn count(&self) -> usize {
        self.messages.len()
    }

    /// Whether more may have been there.
    pub(crate) const fn is_full(&self) -> bool {
        self.is_full
    }

    /// One of them, in the order of arrival.
    pub(crate) fn message(&self, nth: usize) -> Arrived {
        self.messages[nth]
    }

    pub(crate) fn bytes(&self, piece: Piece) -> &[u8] {
        &self.buffer[piece.start..piece.start + piece.length]
    }
}

impl Arrived {
    /// The datagrams of the message. An empty one is one, too.
    pub(crate) fn pieces(self) -> impl Iterator<Item = Piece> {
        let count = self.length.div_ceil(self.piece.max(1)).max(1);
        (0..count).map(move |nth| {
            let before = nth * self.piece;
            Piece { start: self.start + before, length: self.piece.min(self.length - before) }
        })
    }
}

/// Whether a call that finds nothing waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waits {
    ForOne,
    Not,
}

/// What waits to be sent through one socket.
#[derive(Debug)]
pub(crate) struct Departures<const ANSWER: usize> {
    names: ArrayVec<Name, WAITING>,
    sources: ArrayVec<Source, WAITING>,
    answers: Box<[[u8; ANSWER]]>,
    answered: usize,
    rows: Rows,
}

/// Where the bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Arrived(Piece),
    Answer { nth: usize, length: usize },
}

/// What became of what waited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Datagrams that the kernel did not take: to an unreachable network, or into a full buffer.
    pub(crate) unsent: u64,
    /// Rows that went again one by one.
    pub(crate) refused_rows: u64,
}

impl<const ANSWER: usize> Departures<ANSWER> {
    pub(crate) fn new() -> Self {
        Self {
            names: ArrayVec::new(),
            sources: ArrayVec::new(),
            answers: vec![[0; ANSWER]; WAITING].into_boxed_slice(),
            answered: 0,
            rows: Rows::default(),
        }
    }

    /// Whether there may be no room for what the next datagram causes before [`Self::send`].
    pub(crate) fn is_full(&self) -> bool {
        self.names.remaining_capacity() < CAUSED
    }

    /// Room for an answer that may be pushed next.
    pub(crate) fn answer(&mut self) -> &mut [u8; ANSWER] {
        &mut self.answers[self.answered]
    }

    /// Has the first `length` bytes of [`Self::answer`] sent to `to`.
    pub(crate) fn push_answer(&mut self, to: SocketAddr, length: usize) {
        self.put(to, Source::Answer { nth: self.answered, length });
        self.answered += 1;
    }

    /// Has something that arrived sent on to `to`.
    pub(crate) fn push(&mut self, to: SocketAddr, piece: Piece) {
        self.put(to, Source::Arrived(piece));
    }

    fn put(&mut self, to: SocketAddr, source: Source) {
        self.names.push(Name::from(to));
        self.sources.push(source);
    }

    /// Sends everything; a datagram that the kernel does not take is lost, as on any router.
    pub(crate) fn send(&mut self, now: Instant, socket: &impl AsFd, arrivals: &Arrivals) -> io::Result<Sent> {
        let mut outcome = Sent::default();
        let mut first = 0;
        while first < self.names.len() {
            let (result, row) = self.send_from(first, socket, arrivals);
            match result {
                Ok(datagrams) => first += datagrams,
                Err(Errno::EINTR) => {}
                Err(error @ (Errno::EIO | Errno::EMSGSIZE | Errno::EINVAL)) if row > 1 => {
                    outcome.refused_rows += 1;
                    self.rows.refuse(now, error, self.names[first]);
                }
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
                    outcome.unsent += row as u64;
                    first += row;
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.names.clear();
        self.sources.clear();
        self.answered = 0;
        self.rows.forget(now);
        Ok(outcome)
    }

    /// One call. Returns how many datagrams went, and how many the first message had.
    fn send_from(&mut self, first: usize, socket: &impl AsFd, arrivals: &Arrivals) -> (nix::Result<usize>, usize) {
        let mut slices: ArrayVec<iovec, WAITING> = ArrayVec::new();
        let mut rows: ArrayVec<Row, WAITING> = ArrayVec::new();
        let mut at = first;
        while at < self.names.len() {
            let datagrams = self.rows.take(&self.names[at..], self.sources[at..].iter().map(Source::length));
            let before = slices.len();
            for source in &self.sources[at..at + datagrams] {
                let bytes = match *source {
                    Source::Arrived(piece) => arrivals.bytes(piece),
                    Source::Answer { nth, length } => &self.answers[nth][..length],
                };
                let base: *mut libc::c_void = bytes.as_ptr().cast_mut().cast();
                match slices[before..].last_mut() {
                    // Pieces that arrived together leave together.
                    Some(last) if last.iov_base.wrapping_byte_add(last.iov_len) == base => last.iov_len += bytes.len(),
                    _ => slices.push(iovec { iov_base: base, iov_len: bytes.len() }),
                }
            }
            let control = Control::of_piece(self.sources[at].length());
            rows.push(Row { at, datagrams, slices: before..slices.len(), control });
            at += datagrams;
        }
        let mut headers: ArrayVec<mmsghdr, WAITING> = ArrayVec::new();
        for row in &mut rows {
            let (name, slices) = (&mut self.names[row.at], &mut slices[row.slices.clone()]);
            let mut header = empty();
            header.msg_hdr.msg_name = name.0.as_mut_ptr().cast();
            header.msg_hdr.msg_namelen = name.length();
            header.msg_hdr.msg_iov = slices.as_mut_ptr();
            header.msg_hdr.msg_iovlen = slices.len() as _;
            if row.datagrams > 1 {
                header.msg_hdr.msg_control = (&raw mut row.control).cast();
                header.msg_hdr.msg_controllen = Control::SEND_SIZE as _;
            }
            headers.push(header);
        }
        let descriptor = socket.as_fd().as_raw_fd();
        // The kernel reads a datagram that goes alone with less ado, and where the relay keeps up most go alone.
        let alone = (&*rows, &*slices, &*headers);
        #[expect(unsafe_code, reason = "system calls that read memory which the arguments point to")]
        // SAFETY: names, slices, controls and the bytes behind the slices outlive the call, which only reads them; each
        // header has their lengths, and the count is that of the headers.
        let sent = Errno::result(unsafe {
            match alone {
                ([Row { datagrams: 1, .. }], [slice], [header]) => {
                    let (name, length) = (header.msg_hdr.msg_name.cast(), header.msg_hdr.msg_namelen);
                    libc::sendto(descriptor, slice.iov_base, slice.iov_len, libc::MSG_DONTWAIT, name, length).min(1)
                        as c_int
                }
                _ => libc::sendmmsg(descriptor, headers.as_mut_ptr(), headers.len() as c_uint, libc::MSG_DONTWAIT as _),
            }
        });
        let messages = sent.map(|messages| usize::try_from(messages).unwrap_or(0).max(1));
        let datagrams = messages.map(|messages| rows.iter().take(messages).map(|row| row.datagrams).sum());
        (datagrams, rows[0].datagrams)
    }
}

/// One message of a call.
struct Row {
    /// The first of its datagrams, and how many.
    at: usize,
    datagrams: usize,
    slices: Range<usize>,
    control: Control,
}

impl Source {
    const fn length(&self) -> usize {
        match *self {
            Self::Arrived(piece) => piece.length,
            Self::Answer { length, .. } => length,
        }
    }
}

/// What may be sent as one message.
#[derive(Debug, Default)]
struct Rows {
    /// The interface cannot.
    off: bool,
    refused: ArrayVec<Name, REFUSED>,
    /// The entry that the next refusal overwrites.
    oldest: usize,
    since: Option<Instant>,
}

impl Rows {
    /// How many datagrams from the front are one message: all to the first one's address, of its length, only the last
    /// shorter.
    fn take(&self, names: &[Name], mut lengths: impl Iterator<Item = usize>) -> usize {
        let (Some(name), Some(piece)) = (names.first(), lengths.next()) else { return 0 };
        if self.off || piece == 0 || names.get(1) != Some(name) || self.refused.contains(name) {
            return 1;
        }
        let (mut row, mut bytes) = (1, piece);
        for (next, length) in names[1..].iter().zip(lengths) {
            bytes += length;
            if next != name || length > piece || length == 0 || row == PIECES || bytes > ROW_BYTES {
                break;
            }
            row += 1;
            if length < piece {
                break;
            }
        }
        row
    }

    fn refuse(&mut self, now: Instant, error: Errno, name: Name) {
        if error == Errno::EIO {
            self.off = true;
        } else if self.refused.is_full() {
            self.refused[self.oldest] = name;
            self.oldest = (self.oldest + 1) % REFUSED;
        } else {
            self.refused.push(name);
            self.since = self.since.or(Some(now));
        }
    }

    /// Paths change: what was refused is tried again.
    fn forget(&mut self, now: Instant) {
        if self.since.is_some_and(|since| now.saturating_duration_since(since) > REFUSED_FOR) {
            self.refused.clear();
            self.since = None;
        }
    }
}

/// A `sockaddr_in` or a `sockaddr_in6`, as bytes: family 2, port 2, then address 4, or flow 4, address 16, scope 4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Name([u8; 28]);

const INET: u16 = libc::AF_INET as u16;
const INET6: u16 = libc::AF_INET6 as u16;

impl Name {
    fn family(&self) -> u16 {
        u16::from_ne_bytes([self.0[0], self.0[1]])
    }

    fn length(&self) -> u32 {
        if self.family() == INET { 16 } else { 28 }
    }

    fn address(&self) -> SocketAddr {
        let port = u16::from_be_bytes([self.0[2], self.0[3]]);
        let ip: IpAddr = match self.family() {
            INET => Ipv4Addr::from(std::array::from_fn(|nth| self.0[4 + nth])).into(),
            INET6 => Ipv6Addr::from(std::array::from_fn(|nth| self.0[8 + nth])).into(),
            _ => Ipv4Addr::UNSPECIFIED.into(),
        };
        SocketAddr::new(ip, port)
    }
}

impl From<SocketAddr> for Name {
    fn from(address: SocketAddr) -> Self {
        let mut bytes = [0; 28];
        bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        match address.ip() {
            IpAddr::V4(v4) => {
                bytes[..2].copy_from_slice(&INET.to_ne_bytes());
                bytes[4..8].copy_from_slice(&v4.octets());
            }
            IpAddr::V6(v6) => {
                bytes[..2].copy_from_slice(&INET6.to_ne_bytes());
                bytes[8..24].copy_from_slice(&v6.octets());
            }
        }
        Self(bytes)
    }
}

/// One control message about pieces: `cmsghdr` and its number.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Control {
    length: usize,
    level: c_int,
    kind: c_int,
    piece: [u8; 4],
    pad: [u8; 4],
}

const _: () = assert!(std::mem::offset_of!(Control, piece) == size_of::<libc::cmsghdr>(), "as the kernel lays it out");

impl Control {
    const SEND_SIZE: usize = size_of::<libc::cmsghdr>() + size_of::<usize>();

    /// The size of the pieces that arrived as one (`UDP_GRO`); none when a datagram came alone.
    fn piece(&self) -> Option<usize> {
        let named =
            self.level == libc::SOL_UDP && self.kind == libc::UDP_GRO && self.length > size_of::<libc::cmsghdr>();
        named.then(|| usize::try_from(i32::from_ne_bytes(self.piece)).unwrap_or(0))
    }

    /// Has the kernel cut a message into pieces (`UDP_SEGMENT`, 16 bits).
    fn of_piece(size: usize) -> Self {
        let mut piece = [0; 4];
        piece[..2].copy_from_slice(&u16::try_from(size).unwrap_or(u16::MAX).to_ne_bytes());
        let length = size_of::<libc::cmsghdr>() + size_of::<u16>();
        Self { length, level: libc::SOL_UDP, kind: libc::UDP_SEGMENT, piece, pad: [0; 4] }
    }
}

fn empty() -> mmsghdr {
    #[expect(unsafe_code, reason = "the structure has private fields on some systems")]
    // SAFETY: numbers and null pointers, for which zeros are valid.
    unsafe {
        zeroed()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(host: u8) -> Name {
        Name::from(SocketAddr::from(([203, 0, 113, host], 40_000)))
    }

    /// The rows that a queue of (host, length) goes out as.
    fn rows(rows: &Rows, queue: &[(u8, usize)]) -> Vec<usize> {
        let names: Vec<_> = queue.iter().map(|(host, _)| name(*host)).collect();
        let (mut first, mut taken) = (0, Vec::new());
        while first < queue.len() {
            let row = rows.take(&names[first..], queue[first..].iter().map(|(_, length)| *length));
            taken.push(row);
            first += row;
        }
        taken
    }

    #[test]
    fn a_row_is_of_one_address_and_one_size_and_its_end_may_be_shorter() {
        let free = Rows::default();
        assert_eq!(rows(&free, &[(1, 500), (1, 500), (1, 500)]), [3]);
        assert_eq!(rows(&free, &[(1, 500), (1, 500), (2, 500), (1, 500)]), [2, 1, 1]);
        assert_eq!(rows(&free, &[(1, 500), (1, 20), (1, 20), (1, 500)]), [2, 1, 1]);
        assert_eq!(rows(&free, &[(1, 20), (1, 500)]), [1, 1]);
        assert_eq!(rows(&free, &[(1, 0), (1, 0)]), [1, 1]);
        assert_eq!(rows(&free, &[(1, 8); 130]), [64, 64, 2]);
        assert_eq!(rows(&free, &[(1, 2_048); 40]), [31, 9]);
    }

    #[test]
    fn a_refused_row_is_not_tried_again_for_its_address_until_later() {
        let now = Instant::now();
        for error in [Errno::EMSGSIZE, Errno::EINVAL] {
            let mut some = Rows::default();
            some.refuse(now, error, name(1));
            assert_eq!(rows(&some, &[(1, 500), (1, 500), (2, 500), (2, 500)]), [1, 1, 2]);
            some.forget(now + REFUSED_FOR);
            assert_eq!(rows(&some, &[(1, 500), (1, 500)]), [1, 1]);
            some.forget(now + REFUSED_FOR + Duration::from_nanos(1));
            assert_eq!(rows(&some, &[(1, 500), (1, 500)]), [2]);
        }
        let mut off = Rows::default();
        off.refuse(now, Errno::EIO, name(1));
        off.forget(now + 2 * REFUSED_FOR);
        assert_eq!(rows(&off, &[(2, 500), (2, 500)]), [1, 1]);
    }

    #[test]
    fn the_addresses_that_refuse_are_bounded_and_the_newest_stay() {
        let mut some = Rows::default();
        for host in 1..=20 {
            some.refuse(Instant::now(), Errno::EINVAL, name(host));
        }
        assert_eq!(some.refused.len(), REFUSED);
        assert!((13..=20).all(|host| some.refused.contains(&name(host))));
    }

    #[test]
    fn a_message_falls_into_its_pieces() {
        let arrived = |length, piece| Arrived { from: name(1).address(), start: 100, length, piece };
        let lengths = |arrived: Arrived| arrived.pieces().map(|piece| (piece.start, piece.length)).collect::<Vec<_>>();
        assert_eq!(lengths(arrived(1_000, 400)), [(100, 400), (500, 400), (900, 200)]);
        assert_eq!(lengths(arrived(800, 400)), [(100, 400), (500, 400)]);
        assert_eq!(lengths(arrived(7, 7)), [(100, 7)]);
        assert_eq!(lengths(arrived(0, 0)), [(100, 0)]);
    }

    proptest! {
        #[test]
        fn rows_are_what_the_kernel_takes(queue in proptest::collection::vec((1..3_u8, 0..2_049_usize), 1..WAITING)) {
            let mut first = 0;
            for row in rows(&Rows::default(), &queue) {
                let taken = &queue[first..first + row];
                let (host, piece) = taken[0];
                prop_assert!(taken.iter().all(|(other, _)| *other == host));
                prop_assert!(taken[..row - 1].iter().all(|(_, length)| *length == piece));
                prop_assert!(taken[row - 1].1 <= piece && (row == 1 || taken[row - 1].1 > 0));
                prop_assert!(row <= PIECES && (row == 1 || taken.iter().map(|(_, length)| length).sum::<usize>() <= ROW_BYTES));
                first += row;
            }
            prop_assert_eq!(first, queue.len());
        }

        #[test]
        fn an_address_is_the_same_after_its_name(ip: [u8; 16], v4: bool, port: u16) {
            let ip = if v4 { IpAddr::from([ip[0], ip[1], ip[2], ip[3]]) } else { IpAddr::from(ip) };
            let address = SocketAddr::new(ip, port);
            prop_assert_eq!(Name::from(address).address(), address);
        }
    }
}
