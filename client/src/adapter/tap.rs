//! A network interface of frames (layer 2).

use std::io;

use domain::VirtualAddresses;
use tun_rs::Layer;
use tunnel::INNER_MTU;

use super::{
    Lan,
    ethernet::{self, Ethernet, Verdict},
    interface::Interface,
};

/// The interface; it goes away with this value.
#[derive(Debug)]
pub struct Tap {
    interface: Interface,
    ethernet: Ethernet,
    coming: Box<[u8; FRAME_ROOM]>,
    going: Vec<u8>,
}

impl Tap {
    pub(crate) fn open(interface: &str) -> io::Result<Self> {
        let interface = Interface::open(interface, Layer::L2)?;
        let (ethernet, coming) = (Ethernet::default(), Box::new([0; FRAME_ROOM]));
        Ok(Self { interface, ethernet, coming, going: Vec::with_capacity(FRAME_ROOM) })
    }

    pub(crate) fn configure(&mut self, lan: &Lan) -> io::Result<()> {
        let station = self.ethernet.configure(lan.addresses);
        self.interface.set_station(station.octets())?;
        self.interface.configure(lan)
    }

    pub(crate) fn set_members(&mut self, members: &[VirtualAddresses]) {
        self.ethernet.set_members(members);
    }

    pub(crate) async fn receive(&mut self, packet: &mut [u8]) -> io::Result<usize> {
        loop {
            let size = self.interface.receive(&mut self.coming[..]).await?;
            if let Some(size) = self.take(size, packet) {
                return Ok(size);
            }
        }
    }

    pub(crate) fn try_receive(&mut self, packet: &mut [u8]) -> Option<usize> {
        // Frames that are answered here are not waited for one by one.
        for _ in 0..MAX_ANSWERED {
            let size = self.interface.try_receive(&mut self.coming[..])?;
            if let Some(size) = self.take(size, packet) {
                return Some(size);
            }
        }
        None
    }

    pub(crate) fn deliver(&mut self, packet: &[u8]) {
        match self.ethernet.handle_packet(packet, &mut self.going) {
            Ok(()) => self.interface.deliver(&self.going),
            Err(reason) => tracing::trace!(%reason, "a packet became no frame"),
        }
    }

    /// Does what the frame that came wants. Returns the length of the packet that travels.
    fn take(&self, size: usize, packet: &mut [u8]) -> Option<usize> {
        let verdict = self.ethernet.handle_frame(self.coming.get(..size)?);
        let bytes = match &verdict {
            Verdict::Packet(bytes) => *bytes,
            Verdict::Carried(bytes) => bytes,
            Verdict::Answered(frame) => {
                self.interface.deliver(frame);
                return None;
            }
            Verdict::Dropped(reason) => {
                tracing::trace!(%reason, "a frame went no further");
                return None;
            }
        };
        packet.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(bytes.len())
    }
}

/// Room for one frame, and a little more because an operating system may not keep to the MTU.
const FRAME_ROOM: usize = INNER_MTU + ethernet::HEADER + 64;
/// In one turn.
const MAX_ANSWERED: usize = 64;
