//! A LAN behind its own router, and the machines in it.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::{
    access::Access,
    lab::LAN_GATEWAY,
    namespace::Namespace,
    nat::{self, Nat},
    proxy,
};

/// A LAN behind its own router. A carrier's customers are one, too.
#[derive(Debug)]
pub(crate) struct Site {
    router: Router,
    lan: Ipv4Addr,
    lan6: Option<Ipv6Addr>,
    public: Ipv4Addr,
    hosts: u8,
}

/// A router between `lan` and `wan`.
#[derive(Clone, Debug)]
pub(crate) struct Router {
    namespace: Namespace,
    access: Access,
    wan: Ipv4Addr,
}

/// A machine of a user.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) namespace: Namespace,
    router: Router,
    cable: String,
    /// Its address in the LAN.
    pub(crate) address: Ipv4Addr,
    /// Its public address, where there is IPv6.
    pub(crate) address6: Option<Ipv6Addr>,
}

/// A cable into a LAN, with an address to use on it.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) address: Ipv4Addr,
    pub(crate) cable: String,
}

impl Site {
    /// Finishes a router whose `wan` is connected: its LAN, where it is `lan` (and `lan6`), and its rules.
    pub(crate) fn new(router: Router, public: Ipv4Addr, lan: Ipv4Addr, lan6: Option<Ipv6Addr>) -> Self {
        let namespace = &router.namespace;
        namespace.forward();
        // A bridge hands its frames to netfilter where br_netfilter is loaded, and the LAN's own traffic would be lost there.
        namespace.try_sysctl("net.bridge.bridge-nf-call-iptables=0");
        namespace.try_sysctl("net.bridge.bridge-nf-call-ip6tables=0");
        namespace.ip(&format!("link add lan type bridge\naddr add {lan}/24 dev lan\nlink set lan up"));
        if let Some(lan6) = lan6 {
            namespace.ip(&format!("addr add {lan6}/64 dev lan"));
        }
        namespace.nft(&router.rules());
        Self { router, lan, lan6, public, hosts: 0 }
    }

    /// The address that the Internet knows it by; a carrier's customers share one.
    pub(crate) const fn public(&self) -> Ipv4Addr {
        self.public
    }

    /// Its router.
    pub(crate) const fn router(&self) -> &Router {
        &self.router
    }

    /// Connects `interface` of `namespace` to the LAN.
    pub(crate) fn plug(&mut self, namespace: &Namespace, interface: &str) -> Port {
        self.hosts += 1;
        let cable = format!("port{}", self.hosts);
        self.router.namespace.ip(&format!(
            "link add {cable} type veth peer name {interface} netns {namespace}\nlink set {cable} master lan\nlink set {cable} up"
        ));
        let [a, b, c, _] = self.lan.octets();
        let (address, gateway) = (Ipv4Addr::new(a, b, c, 100 + self.hosts), self.lan);
        namespace.ip(&format!(
            "addr add {address}/24 dev {interface}\nlink set {interface} up\nroute add default via {gateway}"
        ));
        Port { address, cable }
    }

    /// What the next namespace in this LAN is called.
    pub(crate) fn next_name(&self) -> String {
        format!("{}-{}", self.router.namespace, self.hosts + 1)
    }
}

impl Router {
    /// A router in `namespace`, whose own address on `wan` is this.
    pub(crate) const fn new(namespace: Namespace, access: Access, wan: Ipv4Addr) -> Self {
        Self { namespace, access, wan }
    }

    pub(crate) const fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Lets no UDP out any more, of flows that were open either.
    pub(crate) fn block_udp(&self) {
        self.namespace.nft(nat::NO_UDP);
    }

    /// Lets UDP out again.
    pub(crate) fn unblock_udp(&self) {
        self.namespace.nft("delete table ip no_udp");
    }

    /// Forgets every mapping, as when the power was gone for a moment. Rules that draw lots at the start draw again.
    pub(crate) fn reboot(&self) {
        self.namespace.nft(&format!("flush ruleset\n{}", self.rules()));
        self.namespace.flush_flows();
    }

    fn rules(&self) -> String {
        self.access.rules(self.wan)
    }
}

impl Host {
    /// A machine in the LAN of `site`.
    pub(crate) fn new(namespace: Namespace, site: &mut Site) -> Self {
        let port = site.plug(&namespace, "eth0");
        let address6 = site.lan6.map(|lan6| {
            let address6 = Ipv6Addr::from_bits(lan6.to_bits() + 0xff + u128::from(site.hosts));
            namespace.ip(&format!("addr add {address6}/64 dev eth0\nroute add default via {lan6}"));
            address6
        });
        Self { namespace, router: site.router.clone(), cable: port.cable, address: port.address, address6 }
    }

    /// The router that it is behind.
    pub(crate) const fn router(&self) -> &Router {
        &self.router
    }

    /// Another address in the same LAN, as when a lease ended.
    pub(crate) fn move_to(&mut self, last: u8) {
        let [a, b, c, _] = self.address.octets();
        self.address = Ipv4Addr::new(a, b, c, last);
        self.namespace.ip(&format!(
            "addr flush dev eth0\naddr add {}/24 dev eth0\nroute add default via {LAN_GATEWAY}",
            self.address
        ));
    }

    /// The HTTP proxy that it has to use.
    pub(crate) fn proxy(&self) -> Option<SocketAddr> {
        (self.router.access.nat == Nat::ProxyOnly).then(proxy::address)
    }

    /// Pulls the network cable.
    pub(crate) fn unplug(&self) {
        self.router.namespace.ip(&format!("link set {} down", self.cable));
    }

    /// Puts it back.
    pub(crate) fn plug(&self) {
        self.router.namespace.ip(&format!("link set {} up", self.cable));
    }
}
