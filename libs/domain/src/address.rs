//! Addresses inside the virtual LAN, and what an address outside of it may be used for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{Ipv4Net, Ipv6Net};
use minicbor::{Decode, Encode};

use crate::ClientId;

/// Where clients get their IPv4 addresses from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressPool(Ipv4Net);

/// Why a prefix cannot be a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    #[error("a pool has between 4 and 16,777,216 addresses (prefix lengths 8 to 30)")]
    Size,
    #[error("a pool in private or public address space collides with real networks; force it if you must")]
    Collides,
}

impl AddressPool {
    /// 100.64.0.0/10, the shared address space of RFC 6598.
    pub const DEFAULT: Self = Self(Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10));

    /// A pool made of `net`.
    ///
    /// # Errors
    /// [`PoolError`]; `forced` accepts any address space.
    pub fn new(net: Ipv4Net, forced: bool) -> Result<Self, PoolError> {
        if !(8..=30).contains(&net.prefix_len()) {
            return Err(PoolError::Size);
        }
        if !forced && !Self::DEFAULT.0.contains(&net) {
            return Err(PoolError::Collides);
        }
        Ok(Self(net.trunc()))
    }

    /// The prefix of the pool.
    #[must_use]
    pub const fn net(&self) -> Ipv4Net {
        self.0
    }

    /// How many clients get an address: all but the network and the broadcast address.
    #[must_use]
    pub fn seats(&self) -> u32 {
        (1_u32 << (32 - self.0.prefix_len())) - 2
    }

    /// The address of seat `seat`, counted from 0; `None` beyond the pool.
    #[must_use]
    pub fn address(&self, seat: u32) -> Option<Ipv4Addr> {
        (seat < self.seats()).then(|| Ipv4Addr::from_bits(self.0.network().to_bits() + 1 + seat))
    }

    /// The seat of `address`; `None` outside the pool.
    #[must_use]
    pub fn seat(&self, address: Ipv4Addr) -> Option<u32> {
        let seat = address.to_bits().checked_sub(self.0.network().to_bits() + 1)?;
        (seat < self.seats()).then_some(seat)
    }
}

/// The IPv6 prefix of a deployment: a ULA /48 (RFC 4193).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UlaPrefix([u8; 6]);

impl UlaPrefix {
    /// The prefix with this 40-bit global id, which should be random.
    #[must_use]
    pub const fn from_global_id(id: [u8; 5]) -> Self {
        Self([0xfd, id[0], id[1], id[2], id[3], id[4]])
    }

    /// The prefix as a network.
    ///
    /// # Panics
    /// Never: 48 is a valid prefix length.
    #[must_use]
    pub fn net(&self) -> Ipv6Net {
        let mut octets = [0; 16];
        octets[..6].copy_from_slice(&self.0);
        Ipv6Net::new_assert(octets.into(), 48)
    }

    /// The address of `client`: 80 bits of its id. Two of a million clients share one with a chance of 4e-13.
    #[must_use]
    pub fn address(&self, client: ClientId) -> Ipv6Addr {
        let mut octets = [0; 16];
        octets[..6].copy_from_slice(&self.0);
        octets[6..].copy_from_slice(&client.as_bytes()[..10]);
        octets.into()
    }
}

/// The addresses of one client in the virtual LAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct VirtualAddresses {
    /// Permanent, from the pool; `None` when the client had no network yet, or the pool was exhausted.
    #[n(0)]
    pub v4: Option<Ipv4Addr>,
    /// Derived from the client's id.
    #[n(1)]
    pub v6: Ipv6Addr,
}

/// Where on the Internet an address can be reached from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// This host only.
    Loopback,
    /// This link only.
    LinkLocal,
    /// A private site: RFC 1918, RFC 6598, ULA.
    Private,
    /// The whole Internet. Documentation and benchmark ranges count as such: tests live there.
    Public,
    /// Nobody: multicast, broadcast, unspecified, reserved.
    Unusable,
}

/// The [`Scope`] of `address`; an IPv4-mapped IPv6 address has that of its IPv4 address.
#[must_use]
pub fn scope(address: IpAddr) -> Scope {
    match address.to_canonical() {
        IpAddr::V4(v4) => match v4.octets() {
            [127, ..] => Scope::Loopback,
            [169, 254, ..] => Scope::LinkLocal,
            [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Scope::Private,
            [0 | 224..=255, ..] => Scope::Unusable,
            _ => Scope::Public,
        },
        IpAddr::V6(v6) if v6.is_loopback() => Scope::Loopback,
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Scope::LinkLocal,
        IpAddr::V6(v6) if v6.is_unique_local() => Scope::Private,
        IpAddr::V6(v6) if v6.is_unspecified() || v6.is_multicast() => Scope::Unusable,
        IpAddr::V6(_) => Scope::Public,
    }
}

/// Whether a client seen at `observed` may be told to send punch packets to `candidate` of a peer seen at `peer`.
///
/// A punch must not become a scanner (RFC 8445, section 19): an address that the server did not observe itself is passed
/// on only between peers that share a public address, and never when it is somebody else's public one.
#[must_use]
pub fn pairs_well(observed: IpAddr, peer: IpAddr, candidate: SocketAddr) -> bool {
    if candidate.port() < 1024 {
        return false;
    }
    match scope(candidate.ip()) {
        Scope::Public => candidate.ip().to_canonical() == peer.to_canonical(),
        Scope::Private => observed.to_canonical() == peer.to_canonical(),
        Scope::Loopback => [observed, peer].into_iter().all(|seen| scope(seen) == Scope::Loopback),
        Scope::LinkLocal | Scope::Unusable => false,
    }
}

/// The part of a source address that limits are counted by: /32 of IPv4, /56 of IPv6.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct SourcePrefix(#[n(0)] u64);

impl SourcePrefix {
    /// The prefix that `address` lies in.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self(u64::from(v4.to_bits())),
            // The top byte of an IPv6 /56 keeps it apart from IPv4, whose first 32 bits are zero.
            IpAddr::V6(v6) => Self((v6.to_bits() >> 72 << 8) as u64 | 0xff),
        }
    }

    /// The prefix around it that holds its neighbours: /24 of IPv4, /48 of IPv6. Its numbers are apart from those of
    /// [`Self::of`] in a table of their own only.
    #[must_use]
    pub const fn neighbours(self) -> Self {
        if self.0 >> 32 == 0 { Self(self.0 & !0xff) } else { Self(self.0 >> 16 << 16 | 0xff) }
    }

    /// The prefix as a number, to be a key in a table.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }
}

impl std::fmt::Debug for SourcePrefix {
    /// A log gets no address of a user.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SourcePrefix(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seat_of_a_pool_has_its_address_and_back() {
        let pool = AddressPool::new("100.64.1.0/29".parse().unwrap(), false).unwrap();
        assert_eq!(pool.seats(), 6);
        for seat in 0..6 {
            assert_eq!(pool.seat(pool.address(seat).unwrap()), Some(seat));
        }
        assert_eq!(pool.address(6), None);
        assert_eq!(pool.seat("100.64.1.0".parse().unwrap()), None);
        assert_eq!(pool.seat("100.64.1.7".parse().unwrap()), None);
        assert_eq!(AddressPool::DEFAULT.seats(), 4_194_302);
    }

    #[test]
    fn foreign_space_is_a_pool_only_by_force() {
        let net = "25.0.0.0/8".parse().unwrap();
        assert_eq!(AddressPool::new(net, false), Err(PoolError::Collides));
        assert!(AddressPool::new(net, true).is_ok());
        assert_eq!(AddressPool::new("100.64.0.0/31".parse().unwrap(), true), Err(PoolError::Size));
    }

    #[test]
    fn neighbours_share_a_prefix_and_strangers_do_not() {
        let of = |text: &str| SourcePrefix::of(text.parse().unwrap()).neighbours();
        assert_eq!(of("192.0.2.1"), of("192.0.2.254"));
        assert_ne!(of("192.0.2.1"), of("192.0.3.1"));
        assert_eq!(of("2001:db8:1:ff00::1"), of("2001:db8:1::1"));
        assert_ne!(of("2001:db8:1::1"), of("2001:db8:2::1"));
        assert_ne!(of("192.0.2.1"), of("::c000:201"));
    }

    #[test]
    fn an_address_is_derived_from_the_client() {
        let prefix = UlaPrefix::from_global_id([1, 2, 3, 4, 5]);
        let address = prefix.address(ClientId::from_bytes([0xaa; 16]));
        assert_eq!(address.to_string(), "fd01:203:405:aaaa:aaaa:aaaa:aaaa:aaaa");
        assert!(prefix.net().contains(&address));
    }

    #[test]
    fn a_candidate_is_the_observed_address_or_one_behind_the_same_nat() {
        let [a, b]: [IpAddr; 2] = ["203.0.113.1".parse().unwrap(), "198.51.100.1".parse().unwrap()];
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert!(pairs_well(a, b, at("198.51.100.1:40000")));
        assert!(!pairs_well(a, b, at("198.51.100.2:40000")));
        assert!(!pairs_well(a, b, at("192.168.1.7:40000")));
        assert!(pairs_well(a, a, at("192.168.1.7:40000")));
        assert!(!pairs_well(a, a, at("127.0.0.1:40000")));
        assert!(!pairs_well(a, a, at("224.0.0.251:5353")));
        assert!(!pairs_well(a, b, at("198.51.100.1:53")));
    }
}
