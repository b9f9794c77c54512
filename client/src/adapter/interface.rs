//! A network interface of the operating system, of either layer.

use std::{io, net::Ipv4Addr};

use domain::Prefix;
use tun_rs::{AsyncDevice, DeviceBuilder, Layer};
use tunnel::INNER_MTU;

use super::{Lan, routes::Entries};

/// The interface; it goes away with this value.
pub(super) struct Interface {
    device: AsyncDevice,
    name: String,
    current: Option<Lan>,
    followed: Vec<Prefix>,
    entries: Entries,
}

impl Interface {
    /// Makes one that carries packets ([`Layer::L3`]) or frames ([`Layer::L2`]), without addresses.
    pub(super) fn open(name: &str, layer: Layer) -> io::Result<Self> {
        let device = DeviceBuilder::new().name(name).layer(layer).mtu(MTU).build_async()?;
        Ok(Self { device, name: name.to_owned(), current: None, followed: Vec::new(), entries: Entries::default() })
    }

    /// Gives it its addresses in place of those it had.
    pub(super) fn configure(&mut self, lan: &Lan) -> io::Result<()> {
        let before = self.current.replace(*lan);
        if let Some(v4) = lan.addresses.v4
            && before.is_none_or(|before| (before.addresses.v4, before.prefix4) != (Some(v4), lan.prefix4))
        {
            self.device.set_network_address(v4, netmask(lan.prefix4), None)?;
        }
        if before.is_none_or(|before| (before.addresses.v6, before.prefix6) != (lan.addresses.v6, lan.prefix6)) {
            if let Some(before) = before {
                self.device.remove_address(before.addresses.v6.into())?;
            }
            // A host may have IPv6 switched off.
            if let Err(error) = self.device.add_address_v6(lan.addresses.v6, lan.prefix6) {
                tracing::warn!(%error, "the interface got no IPv6 address");
            }
        }
        if before.is_some_and(|before| before != *lan) {
            // Entries go with the addresses that they were made for.
            self.entries.forget(&self.name);
            self.entries.set(&self.name, &self.followed);
        }
        Ok(())
    }

    /// Has the packets for these networks go into the interface. Returns those for which they do not, and why.
    pub(super) fn follow(&mut self, prefixes: &[Prefix]) -> Vec<(Prefix, io::Error)> {
        self.followed = prefixes.to_vec();
        self.entries.set(&self.name, prefixes)
    }

    /// Gives an interface of frames its own address.
    pub(super) fn set_station(&self, octets: [u8; 6]) -> io::Result<()> {
        self.device.set_mac_address(octets)
    }

    pub(super) async fn receive(&self, bytes: &mut [u8]) -> io::Result<usize> {
        self.device.recv(bytes).await
    }

    pub(super) fn try_receive(&self, bytes: &mut [u8]) -> Option<usize> {
        self.device.try_recv(bytes).ok()
    }

    pub(super) fn deliver(&self, bytes: &[u8]) {
        if let Err(error) = self.device.try_send(bytes) {
            tracing::trace!(%error, "the interface took no packet");
        }
    }
}

impl std::fmt::Debug for Interface {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Interface").field("current", &self.current).finish_non_exhaustive()
    }
}

/// The netmask of `prefix` bits.
fn netmask(prefix: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::MAX.checked_shl(32_u32.saturating_sub(prefix.into())).unwrap_or(0))
}

#[expect(clippy::cast_possible_truncation, reason = "the MTU of IPv6 fits")]
const MTU: u16 = INNER_MTU as u16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_netmask_has_as_many_ones_as_the_prefix() {
        for (prefix, mask) in [(0, "0.0.0.0"), (10, "255.192.0.0"), (32, "255.255.255.255")] {
            assert_eq!(netmask(prefix), mask.parse::<Ipv4Addr>().unwrap());
        }
    }
}
