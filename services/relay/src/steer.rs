//! Which worker a datagram is for. Every worker has a socket of its own at every port, and a small program in the kernel
//! (classic BPF, `SO_ATTACH_REUSEPORT_CBPF`) chooses among them: a slot has one owner, so that nothing is shared or locked.
//!
//! - DATA, PING, WHICH and FANOUT go by the worker's number within the slot number, FANOUT by that of its first slot.
//! - JOIN, with a first packet or without, goes by the pair's nonce, the same in both tickets, so that both legs meet whatever
//!   they send from.
//! - All else, which is STUN and questions for a challenge, goes by the prefix of its source: the budgets per source stay whole.
//!
//! What a stranger writes there only chooses the worker that drops it. Rejected: the kernel's choice by source and
//! destination (the legs of a pair would meet at different workers), eBPF for it (needs a privilege).

use std::{io, num::NonZeroU8, os::fd::AsFd};

use nix::{
    libc::{sock_filter, sock_fprog},
    sys::socket::{setsockopt, sockopt},
};
use wire::{
    relay::{Join, Message, Slot},
    ticket::PairNonce,
};

/// Bits of a slot number that count the users of a place, at the top.
pub(crate) const GENERATION_BITS: u32 = 8;

/// First bytes of the messages that name a slot, at byte 4.
const BY_SLOT: [u32; 4] = [0xb0, 0xb6, 0xb9, 0xbc];

/// First bytes of joins, and where the pair's nonce stands in them: after the cookie, the head and the relay of the ticket.
const JOINS: [u32; 2] = [0xb3, 0xba];
const NONCE_AT: u32 = 4 + 16 + TICKET_NONCE_AT as u32;
const TICKET_NONCE_AT: usize = 20;

/// Where the kernel has such a filter find the header of IP (`SKF_NET_OFF`).
const IP_HEADER: u32 = -0x0010_0000_i32 as u32;

/// How many workers share the ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workers(NonZeroU8);

impl Workers {
    /// One worker: slot numbers hold none.
    pub const ONE: Self = Self(NonZeroU8::MIN);

    /// More bring nothing: so many forward more than any interface carries.
    pub const MOST: u8 = 64;

    /// `count` of them, within the bounds.
    #[must_use]
    pub fn new(count: usize) -> Self {
        let count = u8::try_from(count).unwrap_or(Self::MOST).clamp(1, Self::MOST);
        Self(NonZeroU8::new(count).unwrap_or(NonZeroU8::MIN))
    }

    /// How many.
    #[must_use]
    pub const fn count(self) -> u8 {
        self.0.get()
    }

    /// The lowest bits of a slot number that are the worker.
    pub(crate) const fn bits(self) -> u32 {
        self.0.get().next_power_of_two().trailing_zeros()
    }

    /// The worker that has this slot; `None` for a number that nobody gave out.
    #[must_use]
    pub fn of_slot(self, slot: Slot) -> Option<u8> {
        let worker = slot.0 & ((1 << self.bits()) - 1);
        u8::try_from(worker).ok().filter(|worker| *worker < self.count())
    }

    /// The worker that has this pair.
    #[must_use]
    pub fn of_pair(self, nonce: &PairNonce) -> u8 {
        let [first, second, third, fourth, ..] = nonce.0;
        let worker = u32::from_be_bytes([first, second, third, fourth]) % u32::from(self.count());
        u8::try_from(worker).unwrap_or(0)
    }

    /// The worker that a frame of a stream is for: the one that the kernel would choose for the datagram. What names none is
    /// for the first, to be dropped there.
    pub(crate) fn of_frame(self, frame: &[u8]) -> u8 {
        match Message::parse(frame) {
            Some(Message::Data { slot, .. } | Message::Ping { slot, .. } | Message::Which { slot }) => {
                self.of_slot(slot).unwrap_or(0)
            }
            Some(Message::Fanout { slots, .. }) => self.of_slot(slots.first()).unwrap_or(0),
            Some(Message::Join(join) | Message::JoinFirst { join, .. }) => {
                pair_of(&join).map_or(0, |nonce| self.of_pair(&nonce))
            }
            Some(
                Message::Ask
                | Message::Challenge { .. }
                | Message::Joined { .. }
                | Message::Refused { .. }
                | Message::Pong { .. }
                | Message::Note { .. }
                | Message::Copy(_)
                | Message::Group { .. },
            )
            | None => 0,
        }
    }

    /// Has the kernel choose among the sockets of a port, in the order in which they were bound.
    pub(crate) fn steer(self, socket: &impl AsFd) -> io::Result<()> {
        let mut program = self.program();
        let program = sock_fprog {
            len: u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
            filter: program.as_mut_ptr(),
        };
        Ok(setsockopt(socket, sockopt::AttachReusePortCbpf, &program)?)
    }

    /// Returns the number of a socket. A load beyond the datagram's end returns 0; so does, in effect, a number that no
    /// socket has: the kernel then chooses by a hash.
    fn program(self) -> [sock_filter; 22] {
        let count = u32::from(self.count());
        [
            load_byte(0),
            jump_if(BY_SLOT[0], 6, 0),
            jump_if(BY_SLOT[1], 5, 0),
            jump_if(BY_SLOT[2], 4, 0),
            jump_if(BY_SLOT[3], 3, 0),
            jump_if(JOINS[0], 5, 0),
            jump_if(JOINS[1], 4, 0),
            always(5),
            load_word(4),
            and((1 << self.bits()) - 1),
            give(),
            load_word(NONCE_AT),
            always(7),
            load_byte(IP_HEADER),
            and(0xf0),
            jump_if(0x40, 3, 0),
            // The first 56 bits of an IPv6 source; those that tell sites apart are in the second word.
            load_word(IP_HEADER.wrapping_add(12)),
            shift_right(8),
            always(1),
            load_word(IP_HEADER.wrapping_add(12)),
            modulo(count),
            give(),
        ]
    }
}

/// The pair that a join names. Unproven.
pub(crate) fn pair_of(join: &Join<'_>) -> Option<PairNonce> {
    join.ticket[TICKET_NONCE_AT..].first_chunk().map(|nonce| PairNonce(*nonce))
}

// Classic BPF, as in `linux/filter.h`.

const fn load_byte(at: u32) -> sock_filter {
    instruction(0x30, at)
}

const fn load_word(at: u32) -> sock_filter {
    instruction(0x20, at)
}

const fn and(mask: u32) -> sock_filter {
    instruction(0x54, mask)
}

const fn shift_right(bits: u32) -> sock_filter {
    instruction(0x74, bits)
}

const fn modulo(by: u32) -> sock_filter {
    instruction(0x94, by)
}

const fn always(over: u32) -> sock_filter {
    instruction(0x05, over)
}

const fn give() -> sock_filter {
    instruction(0x16, 0)
}

const fn instruction(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

/// Goes on `yes` instructions further when the accumulator is `k`, otherwise `no`.
const fn jump_if(k: u32, yes: u8, no: u8) -> sock_filter {
    sock_filter { code: 0x15, jt: yes, jf: no, k }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};

    use domain::{Bandwidth, PayerId, RelayId, UnixMillis};
    use wire::{
        fanout::{self, Shared, SharedKeyId},
        relay::Cookie,
        ticket::{LegSide, Ticket, TicketRoot},
    };

    use super::*;
    use crate::door::bind;

    #[test]
    fn a_slot_number_names_its_worker() {
        for (count, bits) in [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (64, 6), (500, 6)] {
            let workers = Workers::new(count);
            assert_eq!(workers.bits(), bits);
            for worker in 0..workers.count() {
                assert_eq!(workers.of_slot(Slot(0xff00_0100 | u32::from(worker))), Some(worker));
            }
        }
        assert_eq!(Workers::new(3).of_slot(Slot(3)), None);
        assert_eq!(Workers::new(0), Workers::ONE);
    }

    /// Whatever ports the legs send from, over either family, the kernel brings a pair to the worker that owns it.
    #[test]
    fn both_legs_of_any_pair_reach_its_worker_from_any_port() {
        for (count, at) in (1..=4).flat_map(|count| [(count, "127.0.0.1:0"), (count, "[::1]:0")]) {
            let workers = Workers::new(count);
            let doors = bind(at.parse().unwrap(), workers).unwrap();
            let to = doors[0].local_addr().unwrap();
            let mut reached = vec![false; count];
            for seed in 0..16_u8 {
                let nonce = PairNonce(std::array::from_fn(|nth| {
                    seed.wrapping_mul(37).wrapping_add((nth as u8).wrapping_mul(91))
                }));
                let owner = workers.of_pair(&nonce);
                reached[usize::from(owner)] = true;
                for side in [LegSide::A, LegSide::B] {
                    let leg = leg(to);
                    for first in [&b""[..], &[7; 148]] {
                        let join = join(nonce, side, first);
                        leg.send(&join).unwrap();
                        assert_eq!((receiver(&doors), workers.of_frame(&join)), (owner, owner));
                    }
                    let slot = Slot(u32::from(seed) << 24 | 77 << workers.bits() | u32::from(owner));
                    let copy = Shared { counter: 1, key: SharedKeyId([2; 8]), sealed: &[3; 16] };
                    // The other slot is the next worker's.
                    let fanout = fanout::frame(&[slot, Slot(u32::MAX - u32::from(owner))], &copy).unwrap();
                    for message in [
                        Message::Data { slot, payload: b"0123456789" },
                        Message::Ping { slot, nonce: 9 },
                        Message::Which { slot },
                        Message::parse(&fanout).unwrap(),
                    ] {
                        let message = message.to_vec();
                        leg.send(&message).unwrap();
                        assert_eq!((receiver(&doors), workers.of_frame(&message)), (owner, owner));
                    }
                }
            }
            assert!(reached.iter().all(|reached| *reached), "{count} workers, {reached:?}");
        }
    }

    #[test]
    fn questions_of_one_source_reach_one_worker() {
        let workers = Workers::new(4);
        let doors = bind(SocketAddr::from(([127, 0, 0, 1], 0)), workers).unwrap();
        let to = doors[0].local_addr().unwrap();
        let question = [0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let ask = Message::Ask.to_vec();
        for host in 1..=8_u8 {
            for question in [&question[..], &ask].repeat(4) {
                let source = UdpSocket::bind(SocketAddr::from(([127, 0, 1, host], 0))).unwrap();
                source.send_to(question, to).unwrap();
                assert_eq!(receiver(&doors), host % 4);
            }
        }
    }

    #[test]
    fn what_names_no_worker_reaches_some_worker() {
        let workers = Workers::new(3);
        let doors = bind(SocketAddr::from(([127, 0, 0, 1], 0)), workers).unwrap();
        let leg = leg(doors[0].local_addr().unwrap());
        let hostile = [vec![], vec![0xb0], vec![0xb3; 20], Message::Data { slot: Slot(3), payload: b"x" }.to_vec()];
        for datagram in hostile {
            leg.send(&datagram).unwrap();
            assert!(receiver(&doors) < 3);
        }
    }

    #[test]
    fn a_port_belongs_to_one_relay() {
        let doors = bind(SocketAddr::from(([127, 0, 0, 1], 0)), Workers::new(2)).unwrap();
        let address = doors[0].local_addr().unwrap();
        assert_eq!(bind(address, Workers::new(2)).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(bind(address, Workers::ONE).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    fn join(pair: PairNonce, side: LegSide, first: &[u8]) -> Vec<u8> {
        let relay = RelayId::from_bytes([7; 16]);
        let ticket =
            Ticket { relay, pair, side, rate: Bandwidth::UNLIMITED, payer: PayerId::NOBODY, expires: UnixMillis(0) };
        let sealed = TicketRoot::new([1; 32]).key(relay).seal(&ticket);
        let join = Join { cookie: Cookie::default(), ticket: &sealed, proof: &[side as u8; 16] };
        if first.is_empty() { Message::Join(join) } else { Message::JoinFirst { join, first } }.to_vec()
    }

    fn leg(to: SocketAddr) -> UdpSocket {
        let socket = UdpSocket::bind(if to.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }).unwrap();
        socket.connect(to).unwrap();
        socket
    }

    /// The worker whose socket has a datagram.
    fn receiver(doors: &[UdpSocket]) -> u8 {
        doors.iter().for_each(|door| door.set_nonblocking(true).unwrap());
        loop {
            let received = doors.iter().position(|door| door.recv(&mut [0; 2048]).is_ok());
            if let Some(worker) = received {
                return u8::try_from(worker).unwrap();
            }
            std::thread::yield_now();
        }
    }
}
