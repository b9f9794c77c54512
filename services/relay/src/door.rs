//! Where datagrams come in: a socket for every worker, all on one port.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use wire::probe::Desk;

use crate::steer::Workers;

/// Listeners of one relay, at most.
pub(crate) const DOORS: usize = 16;

/// What the kernel keeps for us while we work, in bytes: 20 ms of 1 Gbit/s.
const KERNEL_BUFFER: usize = 4 * 1024 * 1024;

/// How long the thread waits for a datagram before it looks at the clock and the flags.
pub(crate) const TURN: Duration = Duration::from_millis(100);

/// One socket, and the reflector behind it.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) socket: UdpSocket,
    pub(crate) desk: Desk,
}

/// A socket with large buffers at `address` for every worker, and a way to them.
pub(crate) fn bind(address: SocketAddr, workers: Workers) -> io::Result<Vec<UdpSocket>> {
    // The first takes the port for this relay alone, and shares it only then.
    let first = socket(address)?;
    first.bind(&address.into())?;
    let mut sockets = vec![UdpSocket::from(first)];
    if workers == Workers::ONE {
        return Ok(sockets);
    }
    let address = sockets[0].local_addr()?;
    setsockopt(&sockets[0], sockopt::ReusePort, &true)?;
    for _ in 1..workers.count() {
        let next = socket(address)?;
        next.set_reuse_port(true)?;
        next.bind(&address.into())?;
        sockets.push(next.into());
    }
    workers.steer(&sockets[0])?;
    Ok(sockets)
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // The kernel grants what its limits and our privileges allow; less is no reason not to serve.
    if setsockopt(&socket, sockopt::RcvBufForce, &KERNEL_BUFFER).is_err() {
        let _ = socket.set_recv_buffer_size(KERNEL_BUFFER);
    }
    if setsockopt(&socket, sockopt::SndBufForce, &KERNEL_BUFFER).is_err() {
        let _ = socket.set_send_buffer_size(KERNEL_BUFFER);
    }
    // Older kernels hand over datagrams one by one.
    let _ = setsockopt(&socket, sockopt::UdpGroSegment, &true);
    socket.set_read_timeout(Some(TURN))?;
    Ok(socket)
}
