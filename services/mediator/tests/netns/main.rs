//! Real processes behind real NATs: network namespaces, nftables and TUN devices. Root only, one test at a time.
//!
//! ```text
//!  host --- nat --- isp --- core --- servers (203.0.113.1, 203.0.113.2)
//!  host --/           isp --/
//! ```
//! Between a NAT and its isp there may be a carrier's NAT, which homes share. The servers, and sites that want it, have IPv6 too.
//!
//! Every site has a router of its kind of NAT and a provider's router behind it, so that an opener with a small TTL passes the
//! own NAT and dies before the other one, as on the Internet.
#![expect(clippy::unwrap_used, clippy::unwrap_in_result, reason = "tests")]

mod access;
mod client;
mod cluster;
mod embedded;
mod ethernet;
mod foreign;
mod gateways;
mod lab;
mod namespace;
mod nat;
mod nats;
mod process;
mod proxy;
mod relays;
mod scenarios;
mod server;
mod site;
mod traffic;
mod upnp;
