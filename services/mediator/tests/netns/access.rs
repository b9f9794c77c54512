//! How a LAN gets to the Internet: its NAT, what is before it and beside it.

use std::net::Ipv4Addr;

use crate::nat::Nat;

/// A NAT, and what else decides about what gets through.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    pub(crate) nat: Nat,
    /// A second NAT between this one and the Internet.
    pub(crate) carrier: Option<Nat>,
    /// Public addresses behind a stateful firewall, beside the NAT.
    pub(crate) ipv6: bool,
    /// What the router can be asked for ports by.
    pub(crate) port_mapping: Option<Asked>,
    /// What others in the LAN open.
    pub(crate) foreign_flows_per_second: u32,
}

/// How a router is asked for ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// By PCP, NAT-PMP and UPnP.
    ByAll,
    ByUpnp,
}

impl Access {
    /// Through this NAT, and nothing else.
    pub(crate) const fn through(nat: Nat) -> Self {
        Self { nat, carrier: None, ipv6: false, port_mapping: None, foreign_flows_per_second: 0 }
    }

    /// Behind the NAT of a carrier.
    pub(crate) const fn behind(self, carrier: Nat) -> Self {
        Self { carrier: Some(carrier), ..self }
    }

    /// With IPv6.
    pub(crate) const fn with_ipv6(self) -> Self {
        Self { ipv6: true, ..self }
    }

    /// With PCP, NAT-PMP and UPnP.
    pub(crate) const fn with_port_mapping(self) -> Self {
        Self { port_mapping: Some(Asked::ByAll), ..self }
    }

    /// With UPnP only.
    pub(crate) const fn with_upnp(self) -> Self {
        Self { port_mapping: Some(Asked::ByUpnp), ..self }
    }

    /// With others in the LAN that open this many flows a second.
    pub(crate) const fn busy_with(self, foreign_flows_per_second: u32) -> Self {
        Self { foreign_flows_per_second, ..self }
    }

    /// The rules of the router whose address on `wan` is this.
    pub(crate) fn rules(self, wan: Ipv4Addr) -> String {
        let optional = [(self.ipv6, FIREWALL6), (self.port_mapping.is_some(), PORT_MAPPINGS)];
        let more = optional.into_iter().filter(|(wanted, _)| *wanted).map(|(_, rules)| rules);
        std::iter::once(self.nat.rules(wan).as_str()).chain(more).collect()
    }
}

impl From<Nat> for Access {
    fn from(nat: Nat) -> Self {
        Self::through(nat)
    }
}

/// Inside out, and what belongs to it; neighbours must be able to find one another.
const FIREWALL6: &str = "
table ip6 firewall {
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state established,related accept;
        iifname lan accept;
    }
    chain input {
        type filter hook input priority filter; policy drop;
        ct state established,related accept;
        iifname != wan accept;
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept;
    }
}";

/// The chains that miniupnpd fills. What they translate passes the filter because it was translated by a rule.
const PORT_MAPPINGS: &str = "
table inet filter {
    chain forward { type filter hook forward priority filter; jump miniupnpd; }
    chain miniupnpd { }
    chain prerouting { type nat hook prerouting priority dstnat; jump prerouting_miniupnpd; }
    chain prerouting_miniupnpd { }
    chain postrouting { type nat hook postrouting priority srcnat - 1; jump postrouting_miniupnpd; }
    chain postrouting_miniupnpd { }
}";
