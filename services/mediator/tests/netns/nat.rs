//! The kinds of NAT, as rules of nftables. The words are RFC 4787's.

/// How a router translates and filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nat {
    /// Endpoint-independent mapping, address-and-port-dependent filtering: a usual home router.
    Home,
    /// The same on a Linux machine without a filter for itself: who knocks at a port before it was opened towards him takes it,
    /// and the mapping moves to another. Openers must be first.
    HomeWithoutInputFilter,
    /// Endpoint-independent mapping and filtering.
    FullCone,
    /// A random port for each destination, address-and-port-dependent filtering.
    Symmetric,
    /// A home router that lets no UDP out.
    UdpBlocked,
}

impl Nat {
    /// The rules of a router between `lan` and `wan`.
    pub(crate) fn rules(self) -> String {
        match self {
            Self::Home => [MASQUERADE, FORWARD, INPUT].concat(),
            Self::HomeWithoutInputFilter => [MASQUERADE, FORWARD].concat(),
            Self::FullCone => [FULL_CONE, FORWARD, INPUT].concat(),
            Self::Symmetric => [RANDOM, FORWARD, INPUT].concat(),
            Self::UdpBlocked => [MASQUERADE, NO_UDP, FORWARD, INPUT].concat(),
        }
    }
}

/// Linux keeps the source port where it can: the same mapping for every destination.
const MASQUERADE: &str = "
table ip nat {
    chain out { type nat hook postrouting priority srcnat; oifname wan masquerade; }
}";

const RANDOM: &str = "
table ip nat {
    chain out { type nat hook postrouting priority srcnat; oifname wan masquerade fully-random; }
}";

/// What left through a port may come in by it from anywhere. NAT chains see the first packet of a flow only, so the map is
/// refreshed where every packet passes, after translation.
const FULL_CONE: &str = "
table ip nat {
    map inside { type inet_service : ipv4_addr . inet_service; flags dynamic,timeout; timeout 5m; size 65535; }
    chain in { type nat hook prerouting priority dstnat; iifname wan meta l4proto udp dnat ip to udp dport map @inside; }
    chain out { type nat hook postrouting priority srcnat; oifname wan masquerade; }
    chain learn {
        type filter hook postrouting priority srcnat + 100;
        oifname wan meta l4proto udp update @inside { udp sport : ct original ip saddr . ct original proto-src };
    }
}";

/// Inside out, and what belongs to it, and what was translated by a rule.
const FORWARD: &str = "
table ip forward {
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state established,related accept;
        ct status dnat accept;
        iifname lan accept;
    }
}";

/// The router itself offers nothing to the outside.
const INPUT: &str = "
table ip input {
    chain input {
        type filter hook input priority filter; policy drop;
        ct state established,related accept;
        iifname != wan accept;
    }
}";

const NO_UDP: &str = "
table ip no_udp {
    chain forward { type filter hook forward priority filter - 1; meta l4proto udp drop; }
}";
