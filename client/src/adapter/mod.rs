//! Where the packets of the virtual LAN come from and go to.

mod ethernet;
mod interface;
mod memory;
mod routes;
mod tap;
mod tun;

use std::io;

use domain::{Prefix, VirtualAddresses};
use tunnel::INNER_MTU;

use crate::settings::AdapterKind;
pub use memory::Memory;
pub use tap::Tap;
pub use tun::Tun;

/// One adapter. There are three kinds and no fourth is planned, so it is an enum.
#[derive(Debug)]
pub enum Adapter {
    Tun(Tun),
    Tap(Tap),
    Memory(Memory),
}

/// The addresses that an adapter has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lan {
    pub addresses: VirtualAddresses,
    /// Prefix lengths of the virtual LAN.
    pub prefix4: u8,
    pub prefix6: u8,
}

/// Real networks on the way of packets: where members lead this client, and where it leads them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routing {
    /// Packets for these go into the adapter.
    pub followed: Vec<Prefix>,
    /// Packets for these come out of it, in order.
    pub led: Vec<Prefix>,
    /// Where the packets for `led` come from, if there is any.
    pub lan: Option<Lan>,
}

/// Room for one packet, a little more than the MTU because an operating system may not keep to it.
pub const PACKET_ROOM: usize = INNER_MTU + 64;

impl Adapter {
    /// Opens an adapter without addresses.
    ///
    /// # Errors
    /// When the interface cannot be made: usually because of a missing privilege.
    pub fn open(kind: AdapterKind, interface: &str) -> io::Result<Self> {
        match kind {
            AdapterKind::Tun => Tun::open(interface).map(Self::Tun),
            AdapterKind::Tap => Tap::open(interface).map(Self::Tap),
            AdapterKind::Memory => Ok(Self::Memory(Memory::default())),
        }
    }

    /// Gives the adapter its addresses.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn configure(&mut self, lan: &Lan) -> io::Result<()> {
        match self {
            Self::Tun(tun) => tun.configure(lan),
            Self::Tap(tap) => tap.configure(lan),
            Self::Memory(memory) => {
                memory.configure(lan.addresses);
                Ok(())
            }
        }
    }

    /// Tells who else is in the LAN: an adapter of frames answers for them.
    pub fn set_members(&mut self, members: &[VirtualAddresses]) {
        match self {
            Self::Tap(tap) => tap.set_members(members),
            Self::Tun(_) | Self::Memory(_) => {}
        }
    }

    /// Has the packets for these networks go into the adapter. Returns those for which they do not, and why.
    pub fn follow(&mut self, prefixes: &[Prefix]) -> Vec<(Prefix, io::Error)> {
        match self {
            Self::Tun(tun) => tun.follow(prefixes),
            Self::Tap(_) => {
                let unsupported = || io::Error::new(io::ErrorKind::Unsupported, "only a TUN interface leads there");
                prefixes.iter().map(|prefix| (*prefix, unsupported())).collect()
            }
            // No operating system has a packet for it.
            Self::Memory(_) => Vec::new(),
        }
    }

    /// Waits until there is a packet for the LAN, and writes it to `packet`. Cancel safe.
    ///
    /// # Errors
    /// When the interface is gone.
    pub async fn receive(&mut self, packet: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tun(tun) => tun.receive(packet).await,
            Self::Tap(tap) => tap.receive(packet).await,
            Self::Memory(memory) => memory.receive(packet).await,
        }
    }

    /// Another packet, if there is one already.
    pub fn try_receive(&mut self, packet: &mut [u8]) -> Option<usize> {
        match self {
            Self::Tun(tun) => tun.try_receive(packet),
            Self::Tap(tap) => tap.try_receive(packet),
            Self::Memory(memory) => memory.try_receive(packet),
        }
    }

    /// Hands a packet from the LAN to this machine; it is dropped when there is no room, as on any link.
    pub fn deliver(&mut self, packet: &[u8]) {
        match self {
            Self::Tun(tun) => tun.deliver(packet),
            Self::Tap(tap) => tap.deliver(packet),
            Self::Memory(memory) => memory.deliver(packet),
        }
    }
}
