//! Entries of the system's routing table that lead into the interface (rtnetlink, RFC 3549).
//!
//! They go away with the interface, also when this program does not end in good order. Their metric is a large one: where the
//! system has a route to the same prefix already, that one counts.

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    os::fd::{AsRawFd as _, OwnedFd},
};

use domain::Prefix;
use nix::{
    net::if_::if_nametoindex,
    sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket},
};

/// The entries of one interface.
#[derive(Debug, Default)]
pub(super) struct Entries(BTreeSet<Prefix>);

/// What is to be done with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Add,
    Remove,
}

impl Entries {
    /// Makes `wanted` the entries of `interface`. Returns those that the system does not take.
    pub(super) fn set(&mut self, interface: &str, wanted: &[Prefix]) -> Vec<(Prefix, io::Error)> {
        let wanted: BTreeSet<_> = wanted.iter().copied().collect();
        if wanted == self.0 {
            return Vec::new();
        }
        let table = match Table::open(interface) {
            Ok(table) => table,
            Err(error) => return wanted.iter().map(|prefix| (*prefix, again(&error))).collect(),
        };
        for prefix in self.0.difference(&wanted) {
            // It may have gone with an address.
            if let Err(error) = table.change(Change::Remove, prefix) {
                tracing::debug!(%error, "an entry of the routing table was not there any more");
            }
        }
        self.0.retain(|prefix| wanted.contains(prefix));
        let mut refused = Vec::new();
        for prefix in &wanted {
            if !self.0.contains(prefix) {
                match table.change(Change::Add, prefix) {
                    Ok(()) => drop(self.0.insert(*prefix)),
                    Err(error) => refused.push((*prefix, error)),
                }
            }
        }
        refused
    }

    /// The interface has other addresses: the system may have forgotten entries.
    pub(super) fn forget(&mut self, interface: &str) {
        drop(self.set(interface, &[]));
    }
}

/// The main routing table, for one interface.
struct Table {
    netlink: OwnedFd,
    interface: u32,
}

impl Table {
    fn open(interface: &str) -> io::Result<Self> {
        let netlink =
            socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
        bind(netlink.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self { netlink, interface: if_nametoindex(interface)? })
    }

    fn change(&self, change: Change, prefix: &Prefix) -> io::Result<()> {
        let message = message(change, prefix, self.interface);
        send(self.netlink.as_raw_fd(), &message, MsgFlags::empty())?;
        // The kernel has answered before it returns.
        let mut answer = [0; 256];
        let size = recv(self.netlink.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT)?;
        match outcome(&answer[..size]) {
            Some(0) => Ok(()),
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// A request about one entry, in the byte order of this machine.
fn message(change: Change, prefix: &Prefix, interface: u32) -> Vec<u8> {
    let (family, destination) = match prefix.address() {
        IpAddr::V4(v4) => (AF_INET, v4.octets().to_vec()),
        IpAddr::V6(v6) => (AF_INET6, v6.octets().to_vec()),
    };
    let scope = if prefix.address().is_ipv4() { RT_SCOPE_LINK } else { RT_SCOPE_UNIVERSE };
    let mut body = vec![family, prefix.length(), 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, scope, RTN_UNICAST];
    body.extend(0_u32.to_ne_bytes());
    for (kind, value) in [
        (RTA_DST, destination),
        (RTA_OIF, interface.to_ne_bytes().to_vec()),
        (RTA_PRIORITY, METRIC.to_ne_bytes().to_vec()),
    ] {
        // Four bytes of header; all values are multiples of four bytes long.
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        body.extend(length.to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(value);
    }
    let (kind, flags) = match change {
        Change::Add => (RTM_NEWROUTE, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL),
        Change::Remove => (RTM_DELROUTE, NLM_F_REQUEST | NLM_F_ACK),
    };
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Number of the request, and port of the sender: there is one request at a time.
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// The number of the error that an answer names, zero for success.
fn outcome(answer: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(*answer.get(4..)?.first_chunk()?);
    let error = i32::from_ne_bytes(*answer.get(HEADER..)?.first_chunk()?);
    (kind == NLMSG_ERROR).then(|| error.saturating_neg())
}

/// The same error once more.
fn again(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

/// Of a netlink message.
const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_PRIORITY: u16 = 6;
/// More than what systems give routes of their own.
const METRIC: u32 = 5_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn a_request_has_the_bytes_that_the_kernel_reads() {
        let add = message(Change::Add, &"192.168.50.0/24".parse().unwrap(), 7);
        let expected = [
            &[52, 0, 0, 0, 24, 0, 0x05, 0x06, 0, 0, 0, 0, 0, 0, 0, 0][..],
            &[2, 24, 0, 0, 254, 4, 253, 1, 0, 0, 0, 0],
            &[8, 0, 1, 0, 192, 168, 50, 0],
            &[8, 0, 4, 0, 7, 0, 0, 0],
            &[8, 0, 6, 0, 0x88, 0x13, 0, 0],
        ];
        assert_eq!(add, expected.concat());
        let remove = message(Change::Remove, &"fd12::/64".parse().unwrap(), 7);
        assert_eq!((remove.len(), &remove[4..8]), (64, &[25, 0, 0x05, 0][..]));
        assert_eq!(remove[16..28], [10, 64, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0]);
    }

    #[test]
    fn an_answer_is_success_or_the_number_of_an_error() {
        let answer = |kind: u16, error: i32| {
            [&[36, 0, 0, 0][..], &kind.to_ne_bytes(), &[0; 10], &error.to_ne_bytes(), &[0; 16]].concat()
        };
        assert_eq!(outcome(&answer(NLMSG_ERROR, 0)), Some(0));
        assert_eq!(outcome(&answer(NLMSG_ERROR, -17)), Some(17));
        assert_eq!(outcome(&answer(3, 0)), None);
        for length in 0..20 {
            assert_eq!(outcome(&answer(NLMSG_ERROR, 0)[..length]), None);
        }
    }

    #[test]
    fn without_the_interface_nothing_is_routed() {
        let mut entries = Entries::default();
        let prefix = "10.9.0.0/24".parse().unwrap();
        let refused = entries.set("no-such-one", &[prefix]);
        assert_eq!(refused.iter().map(|(prefix, _)| *prefix).collect::<Vec<_>>(), [prefix]);
        assert_eq!(entries.set("no-such-one", &[]).len(), 0);
    }
}
