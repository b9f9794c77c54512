//! Frames that are not IP, on the virtual network of a client with a TAP interface.

use std::{os::fd::AsRawFd as _, time::Duration};

use nix::{ifaddrs::getifaddrs, sys::socket};
use socket2::{Domain, Protocol, Socket, Type};

use crate::client::{Client, INTERFACE};

/// A program that speaks a protocol of its own on the interface.
#[derive(Debug)]
pub(crate) struct Station {
    socket: Socket,
    address: [u8; 6],
    kind: u16,
}

impl Station {
    pub(crate) const IPX: u16 = 0x8137;
    pub(crate) const LLDP: u16 = 0x88cc;
    /// The largest payload: what the MTU leaves below IPv6, EtherIP and the frame's own header.
    pub(crate) const LARGEST: usize = 1280 - 40 - 2 - 14;

    /// Listens for frames of this type.
    pub(crate) fn plug_in(client: &Client, kind: u16) -> Self {
        client.host().namespace.enter(|| {
            let protocol = Protocol::from(i32::from(kind.to_be()));
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol)).unwrap();
            let link = getifaddrs()
                .unwrap()
                .filter(|interface| interface.interface_name == INTERFACE)
                .find_map(|interface| interface.address?.as_link_addr().copied())
                .expect("the interface has a link address");
            socket::bind(socket.as_raw_fd(), &link).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            Self { socket, address: link.addr().unwrap_or_default(), kind }
        })
    }

    /// Its address on the Ethernet.
    pub(crate) const fn address(&self) -> [u8; 6] {
        self.address
    }

    pub(crate) fn send(&self, to: [u8; 6], payload: &[u8]) {
        let frame = [&to, &self.address, &self.kind.to_be_bytes()[..], payload].concat();
        assert_eq!(self.socket.send(&frame).unwrap(), frame.len());
    }

    /// Who sent the next frame, and what.
    #[track_caller]
    pub(crate) fn hear(&self) -> ([u8; 6], Vec<u8>) {
        let mut frame = [0; 2000];
        let length = socket::recv(self.socket.as_raw_fd(), &mut frame, socket::MsgFlags::empty());
        let length = length.expect("a frame arrives");
        (*frame[6..].first_chunk().unwrap(), frame[14..length].to_vec())
    }
}

const PATIENCE: Duration = Duration::from_secs(60);
