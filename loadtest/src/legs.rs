//! Both ends of every pair: sockets on a few loopback addresses, and the numbers that the server knows the legs by.

use std::{
    io,
    net::{Ipv4Addr, UdpSocket},
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use domain::{Bandwidth, UnixMillis};
use rand::Rng as _;
use socket2::SockRef;
use wire::{
    Code,
    relay::{Cookie, Join, MAX_DATAGRAM, Message, Slot, prove},
    ticket::{LegKey, LegSide, PairNonce, TICKET_SIZE, Ticket},
};

use crate::server::{KERNEL_BUFFER, Server};

/// Pairs have sockets in common from here on; the server tells them apart by their numbers.
const MOST_GROUPS: u32 = 64;

const ANSWER_TIME: Duration = Duration::from_millis(200);
const TRIES: u32 = 30;

/// The legs of all pairs at one server.
#[derive(Debug)]
pub(crate) struct Legs {
    /// Two sockets a group: those of the first and those of the second legs.
    sockets: Vec<[UdpSocket; 2]>,
    pairs: Vec<Pair>,
}

#[derive(Debug)]
struct Pair {
    /// At the relay: what each leg shows.
    tickets: Option<[([u8; TICKET_SIZE], LegKey); 2]>,
    /// The number in the headers that each leg sends.
    numbers: [u32; 2],
}

impl Legs {
    /// Legs of `pairs` pairs, whose tickets allow `rate` for an hour.
    pub(crate) fn new(server: &Server, pairs: u32, rate: Bandwidth) -> anyhow::Result<Self> {
        let sockets = (0..pairs.min(MOST_GROUPS))
            .map(|group| Ok([socket(server, group)?, socket(server, group)?]))
            .collect::<io::Result<Vec<_>>>()
            .context("cannot make sockets")?;
        let expires = UnixMillis::from(SystemTime::now()).plus(Duration::from_secs(3_600));
        let mut random = rand::rng();
        let pairs = (0..pairs).map(|number| {
            let nonce = PairNonce(random.random());
            let tickets = server.tickets.as_ref().map(|(relay, key)| {
                [LegSide::A, LegSide::B].map(|side| {
                    let sealed = key.seal(&Ticket { relay: *relay, pair: nonce, side, rate, expires });
                    (sealed, key.leg_key(&sealed))
                })
            });
            Pair { tickets, numbers: [2 * number, 2 * number + 1] }
        });
        Ok(Self { sockets, pairs: pairs.collect() })
    }

    /// Joins, or joins again, with every leg.
    pub(crate) fn join(&mut self) -> anyhow::Result<()> {
        let groups = self.sockets.len();
        let mut cookies = vec![[Cookie::default(); 2]; groups];
        for (index, pair) in self.pairs.iter_mut().enumerate() {
            let group = index % groups;
            for side in 0..2 {
                let socket = &self.sockets[group][side];
                match &pair.tickets {
                    Some(tickets) => {
                        let (ticket, key) = &tickets[side];
                        pair.numbers[side] = join(socket, &mut cookies[group][side], ticket, key)?.0;
                    }
                    None => announce(socket, pair.numbers[side])?,
                }
            }
        }
        Ok(())
    }

    /// How many pairs there are.
    pub(crate) fn count(&self) -> usize {
        self.pairs.len()
    }

    /// The socket of a leg, and the number that it sends.
    pub(crate) fn leg(&self, pair: usize, side: usize) -> (&UdpSocket, u32) {
        (&self.sockets[pair % self.sockets.len()][side], self.pairs[pair].numbers[side])
    }

    /// All sockets, in the order of their numbers.
    pub(crate) fn sockets(&self) -> impl Iterator<Item = &UdpSocket> {
        self.sockets.iter().flatten()
    }

    /// The socket with this number.
    pub(crate) fn socket(&self, number: usize) -> Option<&UdpSocket> {
        Some(&self.sockets.get(number / 2)?[number % 2])
    }
}

fn socket(server: &Server, group: u32) -> io::Result<UdpSocket> {
    // Addresses of their own, as the relay budgets by source. A relay elsewhere is reached from wherever the route begins.
    let own = if server.address.ip().is_loopback() {
        Ipv4Addr::from_bits(Ipv4Addr::new(127, 91, 0, 1).to_bits() + group)
    } else {
        Ipv4Addr::UNSPECIFIED
    };
    let socket = UdpSocket::bind((own, 0))?;
    SockRef::from(&socket).set_recv_buffer_size(KERNEL_BUFFER)?;
    SockRef::from(&socket).set_send_buffer_size(KERNEL_BUFFER)?;
    socket.set_read_timeout(Some(ANSWER_TIME))?;
    socket.connect(server.address)?;
    Ok(socket)
}

fn join(socket: &UdpSocket, cookie: &mut Cookie, ticket: &[u8; TICKET_SIZE], key: &LegKey) -> anyhow::Result<Slot> {
    let mut buffer = [0; MAX_DATAGRAM];
    for _ in 0..TRIES {
        let proof = prove(key, *cookie, ticket);
        let join = Join { cookie: *cookie, ticket, proof: &proof };
        let own = join.id();
        socket.send(&Message::Join(join).to_vec())?;
        while let Some(length) = receive(socket, &mut buffer)? {
            match Message::parse(&buffer[..length]) {
                Some(Message::Challenge { cookie: fresh }) if fresh != *cookie => {
                    *cookie = fresh;
                    break;
                }
                Some(Message::Joined { slot, join, .. }) if join == own => return Ok(slot),
                Some(Message::Refused { code, join }) if join == own => {
                    anyhow::bail!("the relay refused: {}", Code::from_number(code).map_or("unknown code", Code::name));
                }
                // Late data of the round before.
                Some(_) | None => {}
            }
        }
    }
    anyhow::bail!("the relay does not answer a join")
}

fn announce(socket: &UdpSocket, number: u32) -> anyhow::Result<()> {
    let hello = Message::Data { slot: Slot(number), payload: &[] }.to_vec();
    let mut buffer = [0; MAX_DATAGRAM];
    for _ in 0..TRIES {
        socket.send(&hello)?;
        while let Some(length) = receive(socket, &mut buffer)? {
            if buffer[..length] == hello[..] {
                return Ok(());
            }
        }
    }
    anyhow::bail!("the forwarder does not answer")
}

/// The length of the next datagram; `None` when none comes in time.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    match socket.recv(buffer) {
        Ok(length) => Ok(Some(length)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
