//! What `all` adds to a configuration: a data folder, secrets, addresses, and ports that can be bound.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    os::unix::fs::DirBuilderExt as _,
    path::Path,
    time::Duration,
};

use anyhow::Context as _;
use bus::{Bus, CallError};
use contract::{auth::operators::Plans, network::Networks, rendezvous::Relays};

use crate::{cli::All, config::Config, secrets::Secrets};

/// The port of browsers, for the WebSocket transport and the relay.
const WEB_PORT: u16 = 443;

/// Instead of [`WEB_PORT`] where that needs a privilege.
const WEB_PORT_UNPRIVILEGED: u16 = 8443;

/// The configuration of a whole deployment in one process, and what people should know about it.
#[derive(Debug)]
pub(crate) struct Embedded {
    pub(crate) config: Config,
    pub(crate) notes: Vec<String>,
    /// A first operator's token was made just now.
    pub(crate) first_run: bool,
}

impl Embedded {
    /// Settles where everything is; makes folders, secrets and the schema when they are missing.
    pub(crate) async fn prepare(args: &All) -> anyhow::Result<Self> {
        let mut config = Config::read(args.config.as_deref())?;
        let mut notes = Vec::new();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&args.data)
            .with_context(|| format!("cannot make {}", args.data.display()))?;
        let data = fs::canonicalize(&args.data).with_context(|| format!("cannot use {}", args.data.display()))?;
        if config.store.url.is_empty() {
            config.store.url = format!("sqlite://{}", data.join("buri.db").display());
        }
        if config.secrets.dir.as_os_str().is_empty() {
            config.secrets.dir = data.join("secrets");
        }
        if config.auth.people.mailer.is_empty() {
            config.auth.people.mailer = format!("file://{}", data.join("mail").display());
        }
        settle_addresses(&mut config, args, &mut notes)?;
        if config.auth.people.site.is_empty() {
            config.auth.people.site = format!("http://{}", config.admin.self_service.listen);
        }
        let first_run = make_secrets(&config)?;
        store::migrate(&config.store.url).await.context("the schema cannot be brought up to date")?;
        keep_effective(&config, &data)?;
        Ok(Self { config, notes, first_run })
    }
}

/// The file with the configuration that `all` runs, for `doctor`.
pub(crate) const EFFECTIVE: &str = "effective.toml";

fn keep_effective(config: &Config, data: &Path) -> anyhow::Result<()> {
    let path = data.join(EFFECTIVE);
    let text = toml::to_string(config).context("the configuration has no text form")?;
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn make_secrets(config: &Config) -> anyhow::Result<bool> {
    let secrets = Secrets::in_dir(&config.secrets.dir);
    secrets.ensure()?;
    auth::keys::ensure(&secrets.token_keys())?;
    network::password::ensure_setup(&secrets.password_setup())?;
    Ok(admin::token::ensure(&secrets.operator_token())?)
}

/// Puts every listener on the addresses that were asked for, and replaces ports that cannot be bound.
fn settle_addresses(config: &mut Config, args: &All, notes: &mut Vec<String>) -> anyhow::Result<()> {
    if !args.public.is_empty() && args.public.len() != args.bind.len() {
        anyhow::bail!("--public names {} addresses for {} of --bind", args.public.len(), args.bind.len());
    }
    let bind = if !args.bind.is_empty() {
        args.bind.clone()
    } else if args.config.is_none() {
        vec![Ipv4Addr::LOCALHOST.into(), Ipv4Addr::new(127, 0, 0, 2).into()]
    } else {
        Vec::new()
    };
    if let Some(&first) = bind.first() {
        let default = Config::default();
        let all = |port| bind.iter().map(|ip| SocketAddr::new(*ip, port)).collect::<Vec<_>>();
        config.gateway.listen = all(port_of(&config.gateway.listen, &default.gateway.listen));
        config.gateway.listen_web = all(port_of(&config.gateway.listen_web, &default.gateway.listen_web));
        let port = port_of(&config.relay.listen, &default.relay.listen);
        config.relay.listen = of_each_family(&bind, 1).map(|nth| SocketAddr::new(bind[nth], port)).collect();
        config.rendezvous.addresses = of_each_family(&bind, 2).map(|nth| bind[nth]).collect();
        if !args.public.is_empty() {
            config.relay.public = of_each_family(&bind, 1).map(|nth| args.public[nth]).collect();
            config.rendezvous.public = of_each_family(&bind, 2).map(|nth| args.public[nth]).collect();
        }
        // The operator's side stays on this machine; on a loopback address of its own it does not collide with others.
        let own = if first.is_loopback() { first } else { Ipv4Addr::LOCALHOST.into() };
        config.admin.listen.set_ip(own);
        config.admin.self_service.listen.set_ip(own);
        config.ops.listen.set_ip(own);
    }
    for address in &mut config.gateway.listen_web {
        settle_port(address, "WebSockets over TLS", |address| TcpListener::bind(address).map(drop), notes);
    }
    // The gateway's listener is the relay's, too; behind a NAT only we know what clients see of it.
    let streams = &mut config.relay.streams;
    if streams.listen.is_empty() && streams.public.is_empty() {
        let seen = args.public.iter().zip(&config.gateway.listen_web).filter(|(_, listen)| listen.port() != 0);
        streams.public = seen.map(|(public, listen)| SocketAddr::new(*public, listen.port()).into()).collect();
    }
    for address in &mut config.relay.listen {
        settle_port(address, "the relay", |address| UdpSocket::bind(address).map(drop), notes);
    }
    Ok(())
}

/// Where the first `most` addresses of each family stand, those of IPv4 first.
fn of_each_family(addresses: &[IpAddr], most: usize) -> impl Iterator<Item = usize> {
    [true, false]
        .into_iter()
        .flat_map(move |v4| (0..addresses.len()).filter(move |nth| addresses[*nth].is_ipv4() == v4).take(most))
}

fn port_of(listen: &[SocketAddr], default: &[SocketAddr]) -> u16 {
    listen.first().or(default.first()).map_or(0, SocketAddr::port)
}

fn settle_port(
    address: &mut SocketAddr,
    what: &str,
    bind: impl Fn(SocketAddr) -> io::Result<()>,
    notes: &mut Vec<String>,
) {
    let refused = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
    if address.port() == WEB_PORT && bind(*address).is_err_and(|error| refused(&error)) {
        address.set_port(WEB_PORT_UNPRIVILEGED);
        notes.push(format!("port {WEB_PORT} needs a privilege: {what} listens on {address} instead"));
    }
}

/// The address that the server's URL names: the first one as clients see it.
pub(crate) fn advertised(args: &All, control: SocketAddr) -> SocketAddr {
    let ip: IpAddr = args.public.first().copied().unwrap_or_else(|| control.ip());
    SocketAddr::new(ip, control.port())
}

/// Waits until the roles answer each other, but not for long: what is printed next says that they are ready.
pub(crate) async fn settled(bus: &Bus) {
    let answers = async {
        loop {
            let page = Networks { after: None, limit: 1 };
            let (auth, network, rendezvous) = tokio::join!(bus.call(&Plans), bus.call(&page), bus.call(&Relays));
            let missing = matches!(auth, Err(CallError::Unavailable))
                || matches!(network, Err(CallError::Unavailable))
                || matches!(rendezvous, Err(CallError::Unavailable));
            if !missing {
                return;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    if tokio::time::timeout(SETTLED, answers).await.is_err() {
        tracing::warn!("not every role answers yet");
    }
}

/// How long the roles may take to answer each other, and how often that is tried.
const SETTLED: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn both_families_carry_reflectors_the_relay_and_the_gateway() {
        let config = settled(&[
            "--bind",
            "::1,127.0.0.1,127.0.0.2,127.0.0.3",
            "--public",
            "2001:db8::1,192.0.2.1,192.0.2.2,192.0.2.3",
        ]);
        let text = |addresses: &[IpAddr]| addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>();
        assert_eq!(text(&config.rendezvous.addresses), ["127.0.0.1", "127.0.0.2", "::1"]);
        assert_eq!(text(&config.rendezvous.public), ["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
        let relay: Vec<_> = config.relay.listen.iter().map(SocketAddr::ip).collect();
        assert_eq!(
            (text(&relay), text(&config.relay.public)),
            (vec!["127.0.0.1".into(), "::1".into()], vec!["192.0.2.1".into(), "2001:db8::1".into()])
        );
        assert_eq!(config.gateway.listen.len(), 4);
        let streams = config.relay.streams.public.iter().map(ToString::to_string).collect::<Vec<_>>();
        let port = config.gateway.listen_web[0].port();
        assert_eq!(streams.first(), Some(&format!("[2001:db8::1]:{port}")));
        assert_eq!(streams.len(), 4);
    }

    #[test]
    fn one_family_alone_is_enough() {
        let config = settled(&["--bind", "::1"]);
        assert_eq!(config.rendezvous.addresses, [IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])]);
        assert_eq!(config.relay.listen.len(), 1);
        assert_eq!(settled(&[]).rendezvous.addresses.len(), 2);
    }

    fn settled(args: &[&str]) -> Config {
        let cli = Cli::parse_from(["mediator", "all"].iter().chain(args));
        let Command::All(args) = cli.command else { panic!("{cli:?}") };
        let mut config = Config::default();
        settle_addresses(&mut config, &args, &mut Vec::new()).unwrap();
        config
    }
}
