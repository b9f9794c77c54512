//! The Internet in a box: namespaces, cables, addresses and routes. Everything goes away with the value.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use crate::{
    access::Access,
    foreign::{self, Foreign},
    namespace::{Namespace, remove_leftovers},
    nat::Nat,
    proxy,
    site::{Host, Router, Site},
    upnp,
};

/// The two public addresses of the servers.
pub(crate) const SERVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::new(203, 0, 113, 2)];

/// The same machine over IPv6.
pub(crate) const SERVERS6: [Ipv6Addr; 2] = [v6(0, 1), v6(0, 2)];

/// Every home router in its LAN.
pub(crate) const LAN_GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);

/// A running Internet with the servers' machine and any number of sites.
#[derive(Debug)]
pub(crate) struct Lab {
    name: String,
    namespaces: Vec<Namespace>,
    core: Namespace,
    servers: Namespace,
    sites: u8,
    foreign: Vec<Foreign>,
    daemons: Vec<upnp::Daemon>,
    /// Homes, data and logs; kept when a test fails.
    folder: PathBuf,
}

impl Lab {
    /// The core of the network and the machine of the servers.
    pub(crate) fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "namespaces need root: sudo ./test");
        remove_leftovers(PREFIX);
        static LABS: AtomicU32 = AtomicU32::new(0);
        let name = format!("{PREFIX}{}-{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(&name);
        fs::create_dir_all(&folder).unwrap();
        let [core, servers] = ["core", "servers"].map(|what| Namespace::add(format!("{name}-{what}")));
        core.forward();
        core.ip(&format!(
            "link add servers type veth peer name eth0 netns {servers}\n\
             addr add {GATEWAY}/24 dev servers\naddr add {GATEWAY6}/64 dev servers\nlink set servers up\n\
             route add blackhole {}/24",
            foreign::NOWHERE
        ));
        let addresses = SERVERS.map(|address| format!("addr add {address}/24 dev eth0\n")).concat();
        let addresses6 = SERVERS6.map(|address| format!("addr add {address}/64 dev eth0\n")).concat();
        servers.ip(&format!(
            "{addresses}{addresses6}link set eth0 up\nroute add default via {GATEWAY}\nroute add default via {GATEWAY6}"
        ));
        Self {
            name,
            namespaces: vec![core.clone(), servers.clone()],
            core,
            servers,
            sites: 0,
            foreign: Vec::new(),
            daemons: Vec::new(),
            folder,
        }
    }

    /// The machine of the servers.
    pub(crate) const fn servers(&self) -> &Namespace {
        &self.servers
    }

    /// A place for the files of `what`.
    pub(crate) fn folder(&self, what: &str) -> PathBuf {
        let folder = self.folder.join(what);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// A new LAN with this access to the Internet.
    pub(crate) fn site(&mut self, access: impl Into<Access>) -> Site {
        let access = access.into();
        match access.carrier {
            Some(nat) => {
                let mut carrier = self.carrier(nat);
                self.site_behind(&mut carrier, access)
            }
            None => {
                let site = self.site_of_a_provider(access, LAN_GATEWAY);
                self.furnish(site, access)
            }
        }
    }

    /// A NAT that homes are behind, in addresses for that purpose (RFC 6598).
    pub(crate) fn carrier(&mut self, nat: Nat) -> Site {
        self.site_of_a_provider(nat.into(), CARRIER_LAN)
    }

    /// A new LAN behind the NAT of a carrier.
    pub(crate) fn site_behind(&mut self, carrier: &mut Site, access: impl Into<Access>) -> Site {
        let access = access.into();
        assert!(!access.ipv6, "no carrier of the lab has IPv6");
        let namespace = self.add(carrier.next_name());
        let port = carrier.plug(&namespace, "wan");
        let site = Site::new(Router::new(namespace, access, port.address), carrier.public(), LAN_GATEWAY, None);
        self.furnish(site, access)
    }

    /// A machine in the LAN of `site`.
    pub(crate) fn host(&mut self, site: &mut Site) -> Host {
        let namespace = self.add(site.next_name());
        Host::new(namespace, site)
    }

    /// A machine without a cable.
    pub(crate) fn machine(&mut self, what: &str) -> Namespace {
        self.add(format!("{}-{what}", self.name))
    }

    /// A machine alone behind a router with this access.
    pub(crate) fn host_behind(&mut self, access: impl Into<Access>) -> Host {
        let mut site = self.site(access);
        self.host(&mut site)
    }

    /// The router of `host` loses its power for a moment, and every mapping with it.
    pub(crate) fn reboot_router_of(&mut self, host: &Host) {
        let router = host.router();
        let mut daemons = self.daemons.iter_mut().filter(|daemon| daemon.is_on(router.namespace()));
        let daemon = daemons.next().expect("the router takes wishes for ports");
        daemon.kill();
        router.reboot();
        daemon.resume();
    }

    /// Whether the router of `host` leads something to this port of it.
    pub(crate) fn has_mapping(&self, host: &Host, port: u16) -> bool {
        let end = format!("{}:{port}", host.address);
        host.router().namespace().rules().lines().any(|rule| rule.contains("dnat") && rule.contains(&end))
    }

    fn site_of_a_provider(&mut self, access: Access, lan: Ipv4Addr) -> Site {
        self.sites += 1;
        let number = self.sites;
        let [provider, router] = ["isp", "nat"].map(|what| self.add(format!("{}-{what}{number}", self.name)));
        provider.forward();
        let customers = Ipv4Addr::new(11, 0, number, 0).to_bits();
        let [gateway, public, second] = [1, 2, 3].map(|nth| Ipv4Addr::from_bits(customers + nth));

        let core = &self.core;
        core.ip(&format!(
            "link add isp{number} type veth peer name north netns {provider}\n\
             addr add 198.18.{number}.1/30 dev isp{number}\nlink set isp{number} up\n\
             route add 11.0.{number}.0/29 via 198.18.{number}.2"
        ));
        provider.ip(&format!(
            "addr add 198.18.{number}.2/30 dev north\nlink set north up\nroute add default via 198.18.{number}.1\n\
             link add south type veth peer name wan netns {router}\naddr add {gateway}/29 dev south\nlink set south up"
        ));
        router.ip(&format!("addr add {public}/29 dev wan\nlink set wan up\nroute add default via {gateway}"));
        if access.nat == Nat::Pool {
            router.ip(&format!("addr add {second}/29 dev wan"));
        }
        let lan6 = access.ipv6.then(|| self.connect6(number, &provider, &router));
        Site::new(Router::new(router, access, public), public, lan, lan6)
    }

    /// Gives site `number` a prefix of its own. Returns the address of its router in its LAN.
    fn connect6(&self, number: u8, provider: &Namespace, router: &Namespace) -> Ipv6Addr {
        let number = u16::from(number);
        let [lan, north, south] = [v6(number, 0), v6(0x100 + number, 0), v6(0x200 + number, 0)];
        let [inside, above, north_end, below, south_end] = [(lan, 1), (north, 1), (north, 2), (south, 1), (south, 2)]
            .map(|(net, n)| Ipv6Addr::from_bits(net.to_bits() + n));
        self.core.ip(&format!("addr add {above}/64 dev isp{number}\nroute add {lan}/48 via {north_end}"));
        provider.ip(&format!(
            "addr add {north_end}/64 dev north\nroute add default via {above}\n\
             addr add {below}/64 dev south\nroute add {lan}/48 via {south_end}"
        ));
        router.ip(&format!("addr add {south_end}/64 dev wan\nroute add default via {below}"));
        inside
    }

    /// Adds what is not a matter of cables.
    fn furnish(&mut self, mut site: Site, access: Access) -> Site {
        if access.port_mapping.is_some() {
            let router = site.router().namespace();
            self.daemons.push(upnp::Daemon::start(router, access, self.folder(&router.to_string())));
        }
        if access.nat == Nat::ProxyOnly {
            proxy::start(site.router().namespace());
        }
        if access.foreign_flows_per_second > 0 {
            let neighbour = self.host(&mut site);
            self.foreign.push(Foreign::start(&neighbour, access.foreign_flows_per_second));
        }
        site
    }

    fn add(&mut self, name: String) -> Namespace {
        let namespace = Namespace::add(name);
        self.namespaces.push(namespace.clone());
        namespace
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.foreign.clear();
        self.daemons.clear();
        for namespace in &self.namespaces {
            namespace.remove();
        }
        if std::thread::panicking() {
            eprintln!("the logs are in {}", self.folder.display());
        } else {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// An address of network `net` of the lab.
const fn v6(net: u16, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, net, 0, 0, 0, 0, host)
}

const PREFIX: &str = "buri-";
const GATEWAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 254);
const GATEWAY6: Ipv6Addr = v6(0, 0xfe);
const CARRIER_LAN: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);
