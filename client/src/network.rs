//! Where this machine is: its addresses, its router, and when that changes.
//!
//! The kernel tells of a change (rtnetlink, RFC 3549); what changed is then read anew, because a message alone says too
//! little. Changes come in flocks, so the owner looks again [`SETTLE`] after the first one.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
    time::Duration,
};

use domain::Prefix;
use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket},
};
use ring::digest::{Context, SHA256};
use tokio::io::unix::AsyncFd;

use crate::readiness::readable;

/// How long after the first sign of a change the rest of it has come, too.
pub const SETTLE: Duration = Duration::from_millis(250);

/// What is seen of the network from inside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The addresses of this machine that a peer on the same LAN could use, in order.
    pub addresses: Vec<IpAddr>,
    /// Of these, where packets for the Internet come from, over IPv4.
    pub source: Option<Ipv4Addr>,
    /// Where they go.
    pub router: Option<Router>,
    /// The networks that this machine is in, in order.
    pub networks: Vec<Prefix>,
    /// Names the network for the user who compares: another one in another network.
    pub place: u32,
}

/// The default router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Router {
    pub address: Ipv4Addr,
    /// A hash of its two addresses, equal for all who use it; `None` before it was spoken to.
    pub lan: Option<u64>,
}

impl Surroundings {
    /// What it is now. `own` is the interface of the virtual LAN, which does not count.
    #[must_use]
    pub fn look(own: &str) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let router = router(own, &read("/proc/net/route"), &read("/proc/net/arp"));
        Self { source: source(), networks: networks(own), ..Self::new(addresses(own), router) }
    }

    /// Those with these addresses and this router.
    #[must_use]
    pub fn new(addresses: Vec<IpAddr>, router: Option<Router>) -> Self {
        let mut hash = Context::new(&SHA256);
        match router {
            Some(Router { lan: Some(lan), .. }) => hash.update(&lan.to_be_bytes()),
            Some(Router { address, lan: None }) => hash.update(&address.octets()),
            // Temporary addresses of IPv6 come and go in one network.
            None => addresses.iter().filter(|address| address.is_ipv4()).for_each(|address| {
                hash.update(address.to_string().as_bytes());
            }),
        }
        let place = u32::try_from(first_bytes(hash) >> 32).unwrap_or_default();
        Self { addresses, source: None, router, networks: Vec::new(), place }
    }

    /// Whether this client is somewhere else than before. To learn more of a router is no move, and to have none for a
    /// while is a cable that was pulled: what is known stays true when it is back.
    #[must_use]
    pub fn moved_from(&self, before: &Self) -> bool {
        let router = |of: &Self| of.router.map(|router| router.address);
        let lan = |of: &Self| of.router.and_then(|router| router.lan);
        self.addresses != before.addresses
            || differ(self.source, before.source)
            || differ(router(self), router(before))
            || differ(lan(self), lan(before))
    }
}

/// Whether both are known and not the same.
fn differ<T: PartialEq>(one: Option<T>, other: Option<T>) -> bool {
    one.is_some() && other.is_some() && one != other
}

/// Hears of changes.
#[derive(Debug)]
pub struct Watch {
    netlink: AsyncFd<OwnedFd>,
}

impl Watch {
    /// Listens to the kernel.
    ///
    /// # Errors
    /// When the system gives no netlink socket. Looking now and then does instead.
    pub fn new() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let netlink = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        bind(netlink.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
        Ok(Self { netlink: readable(netlink)? })
    }

    /// Waits for a change. Cancel safe.
    pub async fn changed(&mut self) {
        // What they say is cut off: it is read from elsewhere.
        let mut message = [0; 64];
        loop {
            let Ok(mut guard) = self.netlink.readable().await else { return std::future::pending().await };
            let mut heard = false;
            // A full buffer is an error too: what was lost was a change.
            let mut next = || recv(guard.get_inner().as_raw_fd(), &mut message, MsgFlags::MSG_DONTWAIT);
            while let Ok(_) | Err(Errno::ENOBUFS) = next() {
                heard = true;
            }
            guard.clear_ready();
            if heard {
                return;
            }
        }
    }
}

/// `RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV4_ROUTE`, `RTMGRP_IPV6_IFADDR` and `RTMGRP_IPV6_ROUTE`.
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;

/// Whether this machine still has `address`.
#[must_use]
pub fn has(address: IpAddr) -> bool {
    address.is_loopback() || all("").any(|own| own == address.to_canonical())
}

fn source() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // Sends nothing: connecting a UDP socket only asks the routing table.
    socket.connect(ANYWHERE).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(source) => Some(source),
        IpAddr::V6(_) => None,
    }
}

fn addresses(own: &str) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = all(own)
        .filter(|address| matches!(domain::scope(*address), domain::Scope::Private | domain::Scope::Public))
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(MAX_ADDRESSES);
    addresses
}

fn all(except: &str) -> impl Iterator<Item = IpAddr> {
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    interfaces.filter(move |interface| interface.interface_name != except).filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
    })
}

/// The prefixes of all interfaces but `own`.
fn networks(own: &str) -> Vec<Prefix> {
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let networks = interfaces.filter(|interface| interface.interface_name != own).filter_map(|interface| {
        let (address, mask) = (interface.address?, interface.netmask?);
        match (address.as_sockaddr_in(), mask.as_sockaddr_in()) {
            (Some(v4), Some(mask)) => Prefix::of(v4.ip().into(), length(&mask.ip().octets())),
            _ => {
                let (v6, mask) = (address.as_sockaddr_in6()?, mask.as_sockaddr_in6()?);
                Prefix::of(v6.ip().into(), length(&mask.ip().octets()))
            }
        }
    });
    let mut networks: Vec<_> = networks.filter(Prefix::is_routable).collect();
    networks.sort_unstable();
    networks.dedup();
    networks
}

/// How many bits of a mask are set.
fn length(mask: &[u8]) -> u8 {
    mask.iter().map(|byte| byte.count_ones()).sum::<u32>().try_into().unwrap_or(u8::MAX)
}

/// The router of the default route with the least metric, from the kernel's tables as text.
fn router(own: &str, routes: &str, neighbours: &str) -> Option<Router> {
    let default = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [interface, "00000000", gateway, flags, _, _, metric, "00000000", ..] = fields[..] else { return None };
        let through = u16::from_str_radix(flags, 16).ok()? & RTF_GATEWAY != 0;
        // Printed as a number of this machine, whose bytes are in the order of the network.
        let gateway = u32::from_str_radix(gateway, 16).ok()?.to_ne_bytes();
        (through && interface != own).then_some((metric.parse::<u32>().ok()?, Ipv4Addr::from(gateway)))
    };
    let (_, address) = routes.lines().filter_map(|line| default(&line)).min()?;
    let hardware = neighbours.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        let is_router = fields.next()?.parse() == Ok(address);
        fields.nth(2).filter(|hardware| is_router && *hardware != "00:00:00:00:00:00")
    });
    let lan = hardware.map(|hardware| {
        let mut hash = Context::new(&SHA256);
        hash.update(LABEL);
        hash.update(&address.octets());
        hash.update(hardware.to_ascii_lowercase().as_bytes());
        first_bytes(hash)
    });
    Some(Router { address, lan })
}

fn first_bytes(hash: Context) -> u64 {
    hash.finish().as_ref().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// No host has this address (RFC 5737).
const ANYWHERE: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 9);
const RTF_GATEWAY: u16 = 2;
const LABEL: &[u8] = b"buri lan v1";
/// Hints in one frame, less one for the public address.
const MAX_ADDRESSES: usize = tunnel::Frame::MAX_HINTS - 1;

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
eth0\t00000000\tFE01A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
buri0\t00000000\t01004064\t0003\t0\t0\t1\t00000000\t0\t0\t0
ppp0\t00000000\t00000000\t0001\t0\t0\t10\t00000000\t0\t0\t0
eth0\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
";
    const NEIGHBOURS: &str = "IP address       HW type     Flags       HW address            Mask     Device
192.168.1.254    0x1         0x2         02:00:00:AA:00:01     *        eth0
192.168.1.1      0x1         0x0         00:00:00:00:00:00     *        wlan0
";

    #[test]
    fn the_router_is_that_of_the_least_metric_beside_the_tunnel() {
        let found = router("buri0", ROUTES, NEIGHBOURS).unwrap();
        assert_eq!(found.address, Ipv4Addr::new(192, 168, 1, 254));
        assert_eq!(router("", "", ""), None);
    }

    #[test]
    fn clients_of_one_router_have_one_hash_and_others_another() {
        let lan = |neighbours: &str| router("buri0", ROUTES, neighbours).unwrap().lan;
        let here = lan(NEIGHBOURS);
        assert!(here.is_some());
        assert_eq!(lan(&NEIGHBOURS.replace("AA", "aa")), here);
        assert_ne!(lan(&NEIGHBOURS.replace("AA", "AB")), here);
        assert_eq!(lan(""), None);
    }

    #[test]
    fn a_router_that_becomes_known_is_no_move_but_another_one_is() {
        let addresses: Vec<IpAddr> = vec!["192.168.1.5".parse().unwrap()];
        let at =
            |lan| Surroundings::new(addresses.clone(), Some(Router { address: Ipv4Addr::new(192, 168, 1, 1), lan }));
        assert!(!at(Some(1)).moved_from(&at(None)));
        assert!(at(Some(2)).moved_from(&at(Some(1))));
        assert_ne!(at(Some(2)).place, at(Some(1)).place);
        assert_eq!(at(Some(2)).place, at(Some(2)).place);
        let unplugged = Surroundings::new(addresses.clone(), None);
        assert!(!unplugged.moved_from(&at(Some(1))) && !at(Some(1)).moved_from(&unplugged));
        assert!(Surroundings::new(Vec::new(), None).moved_from(&unplugged));
    }

    #[test]
    fn this_machine_has_its_loopback_address_and_no_strangers() {
        assert!(has(Ipv4Addr::LOCALHOST.into()));
        assert!(!has("192.0.2.77".parse().unwrap()));
    }

    #[tokio::test]
    async fn without_a_change_nothing_is_heard() {
        let Ok(mut watch) = Watch::new() else { return };
        let heard = tokio::time::timeout(Duration::from_millis(20), watch.changed()).await;
        // Somebody else on this machine may change something just now.
        drop(heard);
    }
}
