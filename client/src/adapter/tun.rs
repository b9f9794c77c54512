//! A network interface (layer 3).
//!
//! Broadcast and multicast need no routes of their own on Linux: a socket that is bound to the virtual address or to the
//! interface, or that chose the interface for multicast, sends through it, and everybody else's go where they went before.
//! The prefix route that comes with the address brings the directed broadcast along.

use std::io;

use tun_rs::{AsyncDevice, DeviceBuilder};
use tunnel::INNER_MTU;

use super::{Lan, netmask};

/// The interface; it goes away with this value.
#[derive(Debug)]
pub struct Tun {
    device: Device,
    current: Option<Lan>,
}

impl Tun {
    pub(crate) fn open(interface: &str) -> io::Result<Self> {
        let device = DeviceBuilder::new().name(interface).mtu(MTU).build_async()?;
        Ok(Self { device: Device(device), current: None })
    }

    pub(crate) fn configure(&mut self, lan: &Lan) -> io::Result<()> {
        let device = &self.device.0;
        let before = self.current.replace(*lan);
        if let Some(v4) = lan.addresses.v4
            && before.is_none_or(|before| (before.addresses.v4, before.prefix4) != (Some(v4), lan.prefix4))
        {
            device.set_network_address(v4, netmask(lan.prefix4), None)?;
        }
        if before.is_none_or(|before| (before.addresses.v6, before.prefix6) != (lan.addresses.v6, lan.prefix6)) {
            if let Some(before) = before {
                device.remove_address(before.addresses.v6.into())?;
            }
            // A host may have IPv6 switched off.
            if let Err(error) = device.add_address_v6(lan.addresses.v6, lan.prefix6) {
                tracing::warn!(%error, "the interface got no IPv6 address");
            }
        }
        Ok(())
    }

    pub(crate) async fn receive(&self, packet: &mut [u8]) -> io::Result<usize> {
        self.device.0.recv(packet).await
    }

    pub(crate) fn try_receive(&self, packet: &mut [u8]) -> Option<usize> {
        self.device.0.try_recv(packet).ok()
    }

    pub(crate) fn deliver(&self, packet: &[u8]) {
        if let Err(error) = self.device.0.try_send(packet) {
            tracing::trace!(%error, "the interface took no packet");
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the MTU of IPv6 fits")]
const MTU: u16 = INNER_MTU as u16;

/// The device of `tun-rs`, which shows nothing of itself.
struct Device(AsyncDevice);

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Device(..)")
    }
}
