//! Each role, put together from its crate, its part of the configuration and the seams of the process.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use domain::StreamEndpoint;
use telemetry::ops::Ops;
use wire::server_url::ServerKey;

use crate::{lifecycle::Roles, process::Process};

/// How long a relay drains that ends together with everything that could find its pairs another.
const ALONE: Duration = Duration::from_secs(3);

/// One of the roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Gateway,
    Auth,
    Network,
    Rendezvous,
    Relay,
    Admin,
}

impl Role {
    /// All of them; the relay after the gateway, which accepts its streams; admin last, because its readiness tells about the
    /// others' seams.
    pub(crate) const ALL: [Self; 6] =
        [Self::Auth, Self::Network, Self::Rendezvous, Self::Gateway, Self::Relay, Self::Admin];

    /// As it is called on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Auth => "auth",
            Self::Network => "network",
            Self::Rendezvous => "rendezvous",
            Self::Relay => "relay",
            Self::Admin => "admin",
        }
    }
}

/// Which roles share a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Together {
    One,
    All,
}

/// Where a process can be reached.
#[derive(Debug, Default)]
pub(crate) struct Reached {
    /// The streams that its gateway hands over, for its relay.
    pub(crate) relay_streams: Option<relay::HandedStreams>,
    /// The control connection over plain TCP, and the server's public key.
    pub(crate) control: Option<(SocketAddr, ServerKey)>,
    pub(crate) admin: Option<SocketAddr>,
    /// Where people reach their accounts.
    pub(crate) accounts: Option<SocketAddr>,
}

impl Process {
    /// Opens the ports of `role`, connects its seams and starts it.
    ///
    /// A gateway hands streams over to the relay when all roles are `together` in this process.
    pub(crate) async fn start_role(
        &mut self,
        role: Role,
        together: Together,
        roles: &mut Roles,
        reached: &mut Reached,
    ) -> anyhow::Result<()> {
        let shutdown = roles.shutdown();
        let bus = self.bus.clone();
        match role {
            Role::Auth => {
                let config = auth::Config {
                    keys_dir: or(&self.config.auth.keys_dir, self.secrets.token_keys()),
                    people: auth::PeopleConfig {
                        key: or(&self.config.auth.people.key, self.secrets.accounts_key()),
                        ..self.config.auth.people.clone()
                    },
                    ..self.config.auth.clone()
                };
                let stores = self.stores().await?;
                let metrics = Arc::new(auth::Metrics::register(&self.registry)?);
                let seams = auth::Seams {
                    bus,
                    accounts: stores.accounts,
                    people: stores.people,
                    networks: stores.networks,
                    metrics,
                };
                // Relays say at their end what they spent of whose quota.
                roles.start_needed(role.name(), |ends| async move { Ok(auth::run(config, seams, ends).await?) });
            }
            Role::Network => {
                let config = network::Config {
                    setup: or(&self.config.network.setup, self.secrets.password_setup()),
                    membership_key: or(&self.config.network.membership_key, self.secrets.membership_key()),
                    ..self.config.network.clone()
                };
                let seams = network::Seams {
                    bus,
                    presence: self.presence().await?,
                    networks: Arc::clone(&self.stores().await?.networks),
                    pool: self.config.pool()?,
                    metrics: Arc::new(network::Metrics::register(&self.registry)?),
                };
                roles.start(role.name(), async move { Ok(network::run(config, seams, shutdown).await?) });
            }
            Role::Rendezvous => {
                let config = rendezvous::Config {
                    observation_key: or(&self.config.rendezvous.observation_key, self.secrets.observation_key()),
                    ticket_root: or(&self.config.rendezvous.ticket_root, self.secrets.ticket_root()),
                    ..self.config.rendezvous.clone()
                };
                let bound = rendezvous::bind(config)?;
                let seams = rendezvous::Seams {
                    bus,
                    presence: self.presence().await?,
                    instance: self.instance,
                    metrics: Arc::new(rendezvous::Metrics::register(&self.registry)?),
                    clock: rendezvous::wall_clock,
                };
                roles.start(role.name(), async move { Ok(bound.run(seams, shutdown).await?) });
            }
            Role::Relay => {
                let config = relay::Config {
                    observation_key: or(&self.config.relay.observation_key, self.secrets.observation_key()),
                    ticket_root: or(&self.config.relay.ticket_root, self.secrets.ticket_root()),
                    streams: relay::StreamConfig {
                        tls_certificate: or(&self.config.relay.streams.tls_certificate, self.secrets.tls_certificate()),
                        tls_key: or(&self.config.relay.streams.tls_key, self.secrets.tls_key()),
                        ..self.config.relay.streams.clone()
                    },
                    // With its gateway gone nobody could tell the pairs of another relay.
                    drain: if together == Together::All { ALONE } else { Duration::MAX }.min(self.config.relay.drain),
                    ..self.config.relay.clone()
                };
                let mut bound = relay::bind(&config, self.instance)?;
                if let Some(handed) = reached.relay_streams.take() {
                    bound.take_streams(handed);
                }
                let seams = relay::Seams { bus, metrics: Arc::new(relay::Metrics::register(&self.registry)?) };
                roles.start(role.name(), async move { Ok(bound.run(seams, shutdown).await?) });
            }
            Role::Gateway => {
                let config = gateway::Config {
                    server_key: or(&self.config.gateway.server_key, self.secrets.server_key()),
                    tls_certificate: or(&self.config.gateway.tls_certificate, self.secrets.tls_certificate()),
                    tls_key: or(&self.config.gateway.tls_key, self.secrets.tls_key()),
                    ..self.config.gateway.clone()
                };
                let bound = gateway::bind(config)?;
                let relay_streams = (together == Together::All).then(|| {
                    let (door, handed) = relay::stream::door();
                    let reachable = bound.web().into_iter().filter(|address| !address.ip().is_unspecified());
                    door.serve_at(reachable.map(StreamEndpoint::from).collect());
                    reached.relay_streams = Some(handed);
                    gateway::RelayStreams::new(move |web, from| door.take(web, from))
                });
                reached.control = bound.plain().first().map(|at| (*at, bound.key()));
                let seams = gateway::Seams {
                    bus,
                    presence: self.presence().await?,
                    instance: self.instance,
                    metrics: Arc::new(gateway::Metrics::register(&self.registry)?),
                    relay_streams,
                };
                roles.start(role.name(), async move { Ok(bound.run(seams, shutdown).await?) });
            }
            Role::Admin => {
                let config = admin::Config {
                    token_file: or(&self.config.admin.token_file, self.secrets.operator_token()),
                    webhooks: admin::WebhooksConfig {
                        key: or(&self.config.admin.webhooks.key, self.secrets.webhooks_key()),
                        ..self.config.admin.webhooks.clone()
                    },
                    ..self.config.admin.clone()
                };
                let bound = admin::bind(&config)?;
                reached.admin = Some(bound.address()?);
                let people = admin::self_service::bind(&config.self_service)?;
                reached.accounts = Some(people.address()?);
                let (shared, ends) = (bus.clone(), shutdown.clone());
                roles.start("self-service", async move { Ok(people.run(shared, ends).await?) });
                let stores = self.stores().await?;
                let seams = admin::Seams {
                    bus,
                    operations: stores.operations,
                    events: stores.events,
                    webhooks: stores.webhooks,
                    instance: self.instance,
                    metrics: Arc::new(admin::Metrics::register(&self.registry)?),
                    ops: Ops::new(self.registry.clone(), self.checks()),
                };
                roles.start(role.name(), async move { Ok(bound.run(seams, shutdown).await?) });
            }
        }
        Ok(())
    }

    /// Serves health, readiness and metrics of this process. Returns where.
    pub(crate) fn start_ops(&self, roles: &mut Roles) -> anyhow::Result<SocketAddr> {
        let listen = self.config.ops.listen;
        let listener =
            std::net::TcpListener::bind(listen).with_context(|| format!("cannot listen at {listen} (ops.listen)"))?;
        let address = listener.local_addr()?;
        let ops = Ops::new(self.registry.clone(), self.checks());
        let shutdown = roles.shutdown();
        roles.start("ops", async move { Ok(telemetry::ops::serve(listener, ops, shutdown).await?) });
        Ok(address)
    }
}

/// What the configuration names, or the usual place.
fn or(named: &Path, usual: std::path::PathBuf) -> std::path::PathBuf {
    if named.as_os_str().is_empty() { usual } else { named.to_owned() }
}
