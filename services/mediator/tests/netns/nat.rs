//! The kinds of NAT, as rules of nftables. The words are RFC 4787's.

use std::{fmt::Write as _, net::Ipv4Addr};

/// How a router translates and filters. Where nothing else is said, a filter is address-and-port-dependent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nat {
    /// Endpoint-independent mapping that keeps the port: a usual home router.
    Home,
    /// The same on a Linux machine without a filter for itself: who knocks at a port before it was opened towards him takes it,
    /// and the mapping moves to another. Openers must be first.
    HomeWithoutInputFilter,
    /// Endpoint-independent mapping to a port that is drawn anew when the router starts.
    HomeWithOtherPorts,
    /// Endpoint-independent mapping and filtering.
    FullCone,
    /// The same, and its own machines reach each other through it.
    FullConeWithHairpin,
    /// A random port for each destination.
    Symmetric,
    /// The next port but `step - 1` for each destination.
    Sequential { step: u16 },
    /// One of two addresses for each destination, in turn.
    Pool,
    /// A home router that lets no UDP out.
    UdpBlocked,
    /// One that lets out TCP to port 443, and nothing else.
    HttpsOnly,
    /// One that lets nothing out: what leaves goes through a proxy on the router.
    ProxyOnly,
}

impl Nat {
    /// The rules of a router between `lan` and the network where it is `wan`.
    pub(crate) fn rules(self, wan: Ipv4Addr) -> String {
        match self {
            Self::Home => [MASQUERADE, FORWARD, INPUT].concat(),
            Self::HomeWithoutInputFilter => [MASQUERADE, FORWARD].concat(),
            Self::HomeWithOtherPorts => {
                let draw = format!("jhash ip saddr . th sport mod {PORTS} seed {:#x}", rand::random::<u32>());
                [&masquerade_to(&draw, 1), FORWARD, INPUT].concat()
            }
            Self::FullCone => [FULL_CONE, FORWARD, INPUT].concat(),
            Self::FullConeWithHairpin => [FULL_CONE, &hairpin(wan), FORWARD, INPUT].concat(),
            Self::Symmetric => [RANDOM, FORWARD, INPUT].concat(),
            Self::Sequential { step } => {
                [&masquerade_to(&format!("numgen inc mod {PORTS}"), step), FORWARD, INPUT].concat()
            }
            Self::Pool => [&pool(wan), FORWARD, INPUT].concat(),
            Self::UdpBlocked => [MASQUERADE, NO_UDP, FORWARD, INPUT].concat(),
            Self::HttpsOnly => [MASQUERADE, HTTPS_ONLY, FORWARD, INPUT].concat(),
            Self::ProxyOnly => [MASQUERADE, PROXY_ONLY, FORWARD, INPUT].concat(),
        }
    }
}

/// The port that `draw` names, for each first packet of a flow: nat chains see no other. The kernel has no such allocators, and
/// a number from `draw` is in the wrong byte order for a port, so a map stands between them.
fn masquerade_to(draw: &str, step: u16) -> String {
    let mut ports = String::new();
    for (nth, port) in (FIRST_PORT..).step_by(step.into()).take(PORTS.into()).enumerate() {
        write!(ports, "{nth} : {port}, ").expect("a string takes everything");
    }
    format!(
        "
table ip nat {{
    chain out {{
        type nat hook postrouting priority srcnat;
        oifname wan meta l4proto {{ tcp, udp }} masquerade to :{draw} map {{ {ports} }};
        oifname wan masquerade;
    }}
}}"
    )
}

/// The other one of two addresses for each new flow; the port stays where it can.
fn pool(wan: Ipv4Addr) -> String {
    let second = Ipv4Addr::from_bits(wan.to_bits() + 1);
    format!(
        "
table ip nat {{
    chain out {{
        type nat hook postrouting priority srcnat;
        oifname wan snat ip to numgen inc mod 2 map {{ 0 : {wan}, 1 : {second} }};
    }}
}}"
    )
}

/// Packets from inside to a mapped port come back in, from the mapped port of their sender (RFC 4787, section 6).
fn hairpin(wan: Ipv4Addr) -> String {
    format!(
        "
table ip nat {{
    chain hairpin_in {{ type nat hook prerouting priority dstnat; iifname lan ip daddr {wan} meta l4proto udp dnat ip to udp dport map @inside; }}
    chain hairpin_out {{ type nat hook postrouting priority srcnat; oifname lan ct status dnat ct original ip daddr {wan} snat ip to {wan}; }}
}}"
    )
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

const PROXY_ONLY: &str = "
table ip proxy_only {
    chain forward { type filter hook forward priority filter - 1; iifname lan drop; }
}";

pub(crate) const NO_UDP: &str = "
table ip no_udp {
    chain forward { type filter hook forward priority filter - 1; meta l4proto udp drop; }
}";

const HTTPS_ONLY: &str = "
table ip https_only {
    chain forward { type filter hook forward priority filter - 1; iifname lan tcp dport 443 accept; iifname lan drop; }
}";

/// Ports that are drawn from. With a step of 2, half of all.
const PORTS: u16 = 16_384;
const FIRST_PORT: u16 = 20_000;
