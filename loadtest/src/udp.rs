//! Many datagrams in one system call.

use std::{
    io::{IoSlice, IoSliceMut},
    net::UdpSocket,
    os::fd::AsRawFd as _,
};

use anyhow::Context as _;
use nix::{
    errno::Errno,
    sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg, sendmsg},
};
use wire::relay::MAX_DATAGRAM;

/// Datagrams of one call, at most.
pub(crate) const BATCH: usize = 64;

/// What has arrived, and how long each is; 0 where nothing is.
pub(crate) fn receive_each(
    socket: &UdpSocket,
    headers: &mut MultiHeaders<SockaddrStorage>,
    buffers: &mut [[u8; MAX_DATAGRAM]; BATCH],
    lengths: &mut [usize; BATCH],
) -> anyhow::Result<()> {
    let mut slices = buffers.each_mut().map(|buffer| [IoSliceMut::new(buffer)]);
    match recvmmsg(socket.as_raw_fd(), headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None) {
        Ok(messages) => messages.zip(lengths).for_each(|(message, length)| *length = message.bytes),
        Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNREFUSED) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Sends all of them, however often the kernel has to be asked.
pub(crate) fn send_each(
    socket: &UdpSocket,
    headers: &mut MultiHeaders<SockaddrStorage>,
    buffers: &[[u8; MAX_DATAGRAM]],
    lengths: &[usize; BATCH],
) -> anyhow::Result<()> {
    let slices: Vec<_> =
        buffers.iter().zip(lengths).map(|(buffer, length)| [IoSlice::new(&buffer[..*length])]).collect();
    let to = [None::<SockaddrStorage>; BATCH];
    let mut sent = 0;
    while sent < slices.len() {
        let rest = &slices[sent..];
        match sendmmsg(socket.as_raw_fd(), headers, rest, &to[..rest.len()], [], MsgFlags::MSG_DONTWAIT) {
            Ok(results) => sent += results.count().max(1),
            Err(Errno::EINTR | Errno::EAGAIN | Errno::ENOBUFS) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// All in one system call; the kernel divides them where it must.
pub(crate) fn send_as_one(socket: &UdpSocket, buffers: &[[u8; MAX_DATAGRAM]], length: usize) -> anyhow::Result<()> {
    let slices: Vec<_> = buffers.iter().map(|buffer| IoSlice::new(&buffer[..length])).collect();
    let segment = u16::try_from(length)?;
    let control = [ControlMessage::UdpGsoSegments(&segment)];
    loop {
        let flags = MsgFlags::MSG_DONTWAIT;
        match sendmsg::<SockaddrStorage>(socket.as_raw_fd(), &slices, &control, flags, None) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR | Errno::EAGAIN | Errno::ENOBUFS) => {}
            Err(error) => return Err(error).context("the kernel does not take bursts as one piece (UDP_SEGMENT)"),
        }
    }
}
