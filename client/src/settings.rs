//! How a daemon is started.

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, ValueEnum};

/// The arguments of `buri daemon`.
#[derive(Clone, Debug, Args)]
pub struct Settings {
    /// The server, as `mediator` prints it: `buri://HOST[:PORT]#FINGERPRINT`. Without a fingerprint the server's key is
    /// pinned at first use.
    #[arg(long, value_name = "URL")]
    pub server: String,
    /// How packets get in and out of this machine.
    #[arg(long, value_enum, default_value_t = AdapterKind::Tun)]
    pub adapter: AdapterKind,
    /// The name of the network interface.
    #[arg(long, value_name = "NAME", default_value = "buri0")]
    pub interface: String,
    /// Which paths to peers may be used.
    #[arg(long, value_enum, default_value_t = PathPolicy::Any)]
    pub path: PathPolicy,
    /// An HTTP proxy for the control connection, http://HOST:PORT, spoken to with CONNECT.
    #[arg(long, value_name = "URL")]
    pub proxy: Option<String>,
    /// Do not ask the router for a port by PCP, NAT-PMP or UPnP.
    #[arg(long)]
    pub no_port_mapping: bool,
    /// Set from the `--home` that all commands share.
    #[arg(skip)]
    pub home: PathBuf,
}

/// Where packets of the virtual LAN come from and go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AdapterKind {
    /// A network interface (layer 3); needs CAP_NET_ADMIN.
    Tun,
    /// A network interface for Ethernet (layer 2): also IPX and whatever else is not IP; needs CAP_NET_ADMIN.
    Tap,
    /// No interface: the daemon answers echo requests itself. Needs no privilege.
    Memory,
}

/// Which paths may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PathPolicy {
    /// The relay at first, a direct path as soon as there is one.
    Any,
    /// Never through a relay.
    Direct,
    /// Never directly.
    Relay,
}

/// What the core does and leaves, by the user's will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choices {
    pub path: PathPolicy,
    /// Whether to ask the router for a port.
    pub port_mapping: bool,
    /// The server is on this very machine, so peers may be, too.
    pub loopback: bool,
}

impl Settings {
    /// What of them the core needs.
    #[must_use]
    pub fn choices(&self) -> Choices {
        let host = self.server.parse::<wire::server_url::ServerUrl>().map(|url| url.host().to_owned());
        let loopback = host.is_ok_and(|host| {
            host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
        });
        Choices { path: self.path, port_mapping: !self.no_port_mapping, loopback }
    }
}
