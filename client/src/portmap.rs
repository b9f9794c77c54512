//! Asks the router for a port of its own that leads here: PCP (RFC 6887), NAT-PMP (RFC 6886), UPnP.
//!
//! PCP is tried first, then NAT-PMP where the router speaks only that; a search for UPnP runs beside, and is made use of
//! when neither worked. When to ask, renew and release is decided elsewhere (`core::mapping`).

mod pcp;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    time::Duration,
};

use igd_next::{PortMappingProtocol, SearchOptions};
use tokio::{
    net::UdpSocket,
    time::{Instant, timeout, timeout_at},
};

use pcp::{Exchange, Reply};

/// What is wanted of the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    pub router: Ipv4Addr,
    /// The inner port, of UDP.
    pub port: u16,
    /// Names the mapping to the router, so that nobody else can end it.
    pub nonce: [u8; 12],
    /// What was granted before, to get the same again.
    pub earlier: Option<Granted>,
}

/// A mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The outer end.
    pub external: SocketAddrV4,
    pub lifetime: Duration,
    pub by: Protocol,
}

/// How a router is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    Pcp,
    NatPmp,
    Upnp,
}

/// Asks for a mapping of two hours, by whatever the router speaks. Takes some seconds when it speaks nothing.
pub async fn ask(wish: Wish) -> Option<Granted> {
    let search = tokio::task::spawn_blocking(move || search(wish.router));
    if let Ok(Some(granted)) = by_pcp(&wish, LIFETIME).await {
        return Some(granted);
    }
    let (gateway, local) = (search.await.ok()??, local_address(wish.router).await.ok()?);
    tokio::task::spawn_blocking(move || by_upnp(&gateway, SocketAddrV4::new(local, wish.port), wish.earlier))
        .await
        .ok()?
}

/// Gives a mapping back. What the router does not hear ends by itself.
pub async fn release(wish: Wish) {
    let Some(earlier) = wish.earlier else { return };
    match earlier.by {
        Protocol::Pcp | Protocol::NatPmp => drop(timeout(RELEASE, by_pcp(&wish, Duration::ZERO)).await),
        Protocol::Upnp => {
            let ended = tokio::task::spawn_blocking(move || {
                search(wish.router)?.remove_port(PortMappingProtocol::UDP, earlier.external.port()).ok()
            });
            drop(timeout(RELEASE, ended).await);
        }
    }
}

async fn by_pcp(wish: &Wish, lifetime: Duration) -> io::Result<Option<Granted>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect((wish.router, pcp::PORT)).await?;
    let IpAddr::V4(local) = socket.local_addr()?.ip() else { return Ok(None) };
    let mut exchange = Exchange::new(*wish, local, lifetime);
    let mut answer = [0; pcp::MAX_ANSWER];
    while let Some(question) = exchange.question() {
        let mut patience = FIRST_PATIENCE;
        let mut reply = Reply::Nothing;
        'tries: for _ in 0..TRIES {
            socket.send(&question).await?;
            let until = Instant::now() + patience;
            while let Ok(received) = timeout_at(until, socket.recv(&mut answer)).await {
                // An ICMP error says that nobody listens at that port.
                let size = received?;
                reply = exchange.handle_answer(&answer[..size]);
                if reply != Reply::Nothing {
                    break 'tries;
                }
            }
            patience *= 2;
        }
        match reply {
            Reply::Granted(granted) => return Ok(Some(granted)),
            Reply::Next => {}
            Reply::Refused | Reply::Nothing => return Ok(None),
        }
    }
    Ok(None)
}

fn search(router: Ipv4Addr) -> Option<igd_next::Gateway> {
    let mut options = SearchOptions::default();
    options.timeout = Some(SEARCH);
    options.single_search_timeout = Some(SEARCH);
    let gateway = igd_next::search_gateway(options).ok()?;
    // Whoever else answers on this LAN is not our way out.
    (gateway.addr.ip() == IpAddr::V4(router)).then_some(gateway)
}

fn by_upnp(gateway: &igd_next::Gateway, local: SocketAddrV4, earlier: Option<Granted>) -> Option<Granted> {
    let IpAddr::V4(address) = gateway.get_external_ip().ok()? else { return None };
    let lifetime = u32::try_from(LIFETIME.as_secs()).unwrap_or(u32::MAX);
    let inner = SocketAddr::V4(local);
    // The port of before, else the same as inside, else any.
    let wanted = earlier.map(|granted| granted.external.port()).into_iter().chain([local.port()]);
    let same = wanted
        .into_iter()
        .find(|&port| gateway.add_port(PortMappingProtocol::UDP, port, inner, lifetime, DESCRIPTION).is_ok());
    let any = || gateway.add_any_port(PortMappingProtocol::UDP, inner, lifetime, DESCRIPTION).ok();
    let port = same.or_else(any)?;
    Some(Granted { external: SocketAddrV4::new(address, port), lifetime: LIFETIME, by: Protocol::Upnp })
}

/// The address that the router knows this machine by.
async fn local_address(router: Ipv4Addr) -> io::Result<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect((router, pcp::PORT)).await?;
    match socket.local_addr()?.ip() {
        IpAddr::V4(local) => Ok(local),
        IpAddr::V6(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Long enough to cost nothing, short enough not to leave mappings behind for a day.
const LIFETIME: Duration = Duration::from_secs(2 * 60 * 60);
/// Doubled with each try (RFC 6887, section 8.1.1, in less time: a router is near).
const FIRST_PATIENCE: Duration = Duration::from_millis(250);
const TRIES: u32 = 3;
const SEARCH: Duration = Duration::from_secs(3);
const RELEASE: Duration = Duration::from_millis(700);
const DESCRIPTION: &str = "buri";

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_router_that_nobody_listens_on_grants_nothing_soon() {
        let wish = Wish { router: Ipv4Addr::LOCALHOST, port: 4_000, nonce: [7; 12], earlier: None };
        assert_eq!(by_pcp(&wish, LIFETIME).await.ok().flatten(), None);
    }
}
