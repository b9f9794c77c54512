//! Which real networks a member leads the others of its network to, in a network of the kind [`Gateway`](NetworkKind::Gateway).
//!
//! Two have to want it. An owner or admin names the prefixes of a member; the member's own machine agrees to each of them, and
//! to no other that is named later: no server and no admin makes a machine a router. What may be routed at all is private
//! ([`Prefix::is_routable`]), so nobody draws the traffic of others to public addresses to a machine, and it keeps clear of
//! the virtual LAN. Prefixes of one network do not overlap: of each address it is known which member leads to it.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use minicbor::{
    Decode, Decoder, Encode, Encoder,
    decode::Error as DecodeError,
    encode::{Error as EncodeError, Write},
};

#[cfg(doc)]
use crate::NetworkKind;

/// Prefixes of one member.
pub const MAX_ROUTES: usize = 8;

/// Prefixes of all members of one network.
pub const MAX_NETWORK_ROUTES: usize = 32;

/// A part of address space, without bits of hosts in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix(IpNet);

/// Why text is no prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a prefix such as 192.168.50.0/24 or fd12:3456:789a::/64")]
pub struct ParsePrefixError;

impl Prefix {
    /// The prefix that `net` is in.
    #[must_use]
    pub fn new(net: IpNet) -> Self {
        Self(net.trunc())
    }

    /// The prefix of this length that `address` is in; `None` when addresses of this kind are shorter.
    #[must_use]
    pub fn of(address: IpAddr, length: u8) -> Option<Self> {
        IpNet::new(address, length).ok().map(Self::new)
    }

    /// Its first address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.0.addr()
    }

    /// How many bits of it are given.
    #[must_use]
    pub fn length(&self) -> u8 {
        self.0.prefix_len()
    }

    /// Whether `address` lies in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    /// Whether some address lies in both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.0.contains(&other.0) || other.0.contains(&self.0)
    }

    /// Whether all of it is private address space: RFC 1918, RFC 6598 or RFC 4193. Neither a default route nor loopback,
    /// link-local or multicast addresses are.
    #[must_use]
    pub fn is_routable(&self) -> bool {
        ROUTABLE.iter().any(|space| space.contains(&self.0))
    }
}

/// What may be routed.
const ROUTABLE: [IpNet; 5] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7)),
];

impl FromStr for Prefix {
    type Err = ParsePrefixError;

    /// A lone address is a prefix of its whole length.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let net = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        net.map(Self::new).map_err(|_| ParsePrefixError)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl serde::Serialize for Prefix {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Prefix {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl<C> Encode<C> for Prefix {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, c: &mut C) -> Result<(), EncodeError<W::Error>> {
        (self.address(), self.length()).encode(e, c)
    }
}

impl<'b, C> Decode<'b, C> for Prefix {
    fn decode(d: &mut Decoder<'b>, c: &mut C) -> Result<Self, DecodeError> {
        let position = d.position();
        let (address, length) = <(IpAddr, u8)>::decode(d, c)?;
        Self::of(address, length).ok_or_else(|| DecodeError::message("no such prefix").at(position))
    }
}

/// A prefix of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, serde::Serialize, serde::Deserialize)]
pub struct Route {
    #[n(0)]
    pub prefix: Prefix,
    /// The member's own machine said that it leads there.
    #[n(1)]
    pub agreed: bool,
}

/// Why prefixes cannot be a member's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    #[error("{0} is not private address space, or part of the virtual LAN")]
    NotRoutable(Prefix),
    #[error("{0} and {1} overlap")]
    Overlap(Prefix, Prefix),
    #[error("no more than {limit}")]
    TooMany { limit: usize },
}

/// What becomes of `wanted` as the prefixes of a member, in order and each once. `taken` are those of the other members of its
/// network, `lan` is what the virtual LAN consists of.
///
/// # Errors
/// [`RouteError`].
pub fn route_prefixes(wanted: &[Prefix], taken: &[Prefix], lan: &[Prefix]) -> Result<Vec<Prefix>, RouteError> {
    if wanted.len() > MAX_ROUTES {
        return Err(RouteError::TooMany { limit: MAX_ROUTES });
    }
    let mut prefixes = wanted.to_vec();
    prefixes.sort_unstable();
    prefixes.dedup();
    if prefixes.len() + taken.len() > MAX_NETWORK_ROUTES {
        return Err(RouteError::TooMany { limit: MAX_NETWORK_ROUTES });
    }
    for (nth, prefix) in prefixes.iter().enumerate() {
        if !prefix.is_routable() || lan.iter().any(|lan| lan.overlaps(prefix)) {
            return Err(RouteError::NotRoutable(*prefix));
        }
        if let Some(other) = prefixes[nth + 1..].iter().chain(taken).find(|other| other.overlaps(prefix)) {
            return Err(RouteError::Overlap(*prefix, *other));
        }
    }
    Ok(prefixes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_of_hosts_are_no_part_of_a_prefix() {
        for (text, prefix) in [
            ("192.168.50.7/24", "192.168.50.0/24"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("fd12:3456::7/64", "fd12:3456::/64"),
            ("FD12:3456:0::/64", "fd12:3456::/64"),
        ] {
            assert_eq!(of(text).to_string(), prefix);
            assert_eq!(of(text), of(prefix));
            let travelled: Prefix = minicbor::decode(&minicbor::to_vec(of(text)).unwrap()).unwrap();
            assert_eq!(travelled, of(prefix));
            assert_eq!(serde_json::from_value::<Prefix>(serde_json::json!(text)).unwrap(), of(prefix));
            assert_eq!(serde_json::to_value(of(text)).unwrap(), serde_json::json!(prefix));
        }
        for text in ["", "192.168.50.0/33", "lan", "192.168.50.0/", "fd00::/129"] {
            assert_eq!(text.parse::<Prefix>(), Err(ParsePrefixError), "{text}");
        }
        let beyond = minicbor::to_vec((IpAddr::from([10, 0, 0, 0]), 33_u8)).unwrap();
        assert!(minicbor::decode::<Prefix>(&beyond).is_err());
    }

    #[test]
    fn only_private_space_is_routed_and_never_the_virtual_lan() {
        let lan = [of("100.64.0.0/16"), of("fd01:203:405::/48")];
        for good in ["10.0.0.0/8", "172.31.255.0/24", "192.168.0.0/16", "100.65.0.0/24", "fd12::/16", "10.1.2.3/32"] {
            assert_eq!(route_prefixes(&[of(good)], &[], &lan), Ok(vec![of(good)]), "{good}");
        }
        for bad in [
            "0.0.0.0/0",
            "::/0",
            "0.0.0.0/8",
            "8.0.0.0/7",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/11",
            "192.0.2.0/24",
            "203.0.113.7/32",
            "224.0.0.0/4",
            "240.0.0.0/4",
            "255.255.255.255/32",
            "::1/128",
            "fe80::/10",
            "ff00::/8",
            "2001:db8::/32",
            "::ffff:10.0.0.0/104",
            "100.64.3.0/24",
            "100.64.0.0/10",
            "fd01:203:405:aaaa::/64",
            "fd00::/8",
        ] {
            assert_eq!(route_prefixes(&[of(bad)], &[], &lan), Err(RouteError::NotRoutable(of(bad))), "{bad}");
        }
    }

    #[test]
    fn prefixes_of_one_network_do_not_overlap() {
        let (wide, narrow, other) = (of("192.168.0.0/16"), of("192.168.50.0/24"), of("10.0.0.0/24"));
        assert_eq!(route_prefixes(&[narrow], &[wide], &[]), Err(RouteError::Overlap(narrow, wide)));
        assert_eq!(route_prefixes(&[wide], &[narrow], &[]), Err(RouteError::Overlap(wide, narrow)));
        assert_eq!(route_prefixes(&[narrow, wide], &[], &[]), Err(RouteError::Overlap(wide, narrow)));
        assert_eq!(route_prefixes(&[narrow, other, narrow], &[], &[]), Ok(vec![other, narrow]));
    }

    #[test]
    fn a_member_and_a_network_have_so_many_prefixes_and_no_more() {
        let prefixes = |from: u8, to: u8| (from..to).map(|n| of(&format!("10.0.{n}.0/24"))).collect::<Vec<_>>();
        assert_eq!(route_prefixes(&prefixes(0, 8), &prefixes(8, 32), &[]).map(|kept| kept.len()), Ok(8));
        assert_eq!(route_prefixes(&prefixes(0, 9), &[], &[]), Err(RouteError::TooMany { limit: 8 }));
        assert_eq!(route_prefixes(&prefixes(0, 8), &prefixes(8, 33), &[]), Err(RouteError::TooMany { limit: 32 }));
        assert_eq!(route_prefixes(&[], &prefixes(0, 32), &[]), Ok(Vec::new()));
    }

    fn of(text: &str) -> Prefix {
        text.parse().unwrap()
    }
}
