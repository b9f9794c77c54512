//! Where questions go.

use std::net::SocketAddr;

/// Endpoints of reflectors, by what they are good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reflectors {
    /// R1:p.
    pub(super) first: SocketAddr,
    /// R1:q.
    pub(super) other_port: Option<SocketAddr>,
    /// R2:p.
    pub(super) other_address: Option<SocketAddr>,
    /// One of IPv6, beside those of IPv4.
    pub(super) v6: Option<SocketAddr>,
}

impl Reflectors {
    /// Sorts the endpoints that the server named, those of IPv4 first; `None` when there are none.
    #[must_use]
    pub fn new(endpoints: &[SocketAddr]) -> Option<Self> {
        let of_v4 = endpoints.iter().copied().find(SocketAddr::is_ipv4);
        let of_v6 = endpoints.iter().copied().find(SocketAddr::is_ipv6);
        let first = of_v4.or(of_v6)?;
        let same_family = || endpoints.iter().copied().filter(move |other| other.is_ipv4() == first.is_ipv4());
        Some(Self {
            first,
            other_port: same_family().find(|other| other.ip() == first.ip() && other.port() != first.port()),
            other_address: same_family().find(|other| other.ip() != first.ip()),
            v6: of_v6.filter(|_| of_v4.is_some()),
        })
    }

    /// Whether there is one of IPv6 beside those of IPv4.
    #[must_use]
    pub const fn has_v6(&self) -> bool {
        self.v6.is_some()
    }

    /// Those that the main socket asks over the family of the first.
    pub(super) fn same_family(&self) -> impl Iterator<Item = SocketAddr> + use<> {
        [Some(self.first), self.other_port, self.other_address].into_iter().flatten()
    }
}
