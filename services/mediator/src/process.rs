//! What every role of one process shares: the seams, the secrets, the figures and the checks of readiness.

use std::time::Duration;

use anyhow::Context as _;
use bus::{Bus, memory::Hub};
use domain::InstanceId;
use presence::Presence;
use ring::rand::{SecureRandom as _, SystemRandom};
use store::{StoreOptions, Stores};
use telemetry::{Registry, ops::Check};

use crate::{config::Config, secrets::Secrets};

/// How long the start waits for a seam that is not there yet: roles have no start-up order.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// One process of the deployment.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) config: Config,
    pub(crate) secrets: Secrets,
    /// Made anew at every start, so that nothing is ever sent to a predecessor.
    pub(crate) instance: InstanceId,
    pub(crate) bus: Bus,
    pub(crate) registry: Registry,
    presence: Option<Presence>,
    stores: Option<Stores>,
    checks: Vec<Check>,
}

impl Process {
    /// Connects to the bus; `role` names the connection for operators.
    pub(crate) async fn start(config: Config, role: &str) -> anyhow::Result<Self> {
        let secrets = Secrets::in_dir(&config.secrets.dir);
        let mut id = [0; 16];
        SystemRandom::new().fill(&mut id).map_err(|_| anyhow::anyhow!("the system gives no random bytes"))?;
        let instance = InstanceId::from_bytes(id);
        let bus = if config.bus.url.starts_with("memory:") {
            Bus::memory(&Hub::default(), instance)
        } else {
            let hopeless = |error: &bus::Error| matches!(error, bus::Error::Url);
            retried("the bus", hopeless, async || Bus::connect(&config.bus.url, role, instance).await).await?
        };
        let registry = telemetry::registry();
        bus.metrics().register(&registry)?;
        let check = {
            let bus = bus.clone();
            Check::new("bus", "start RabbitMQ, or correct bus.url", move || {
                let bus = bus.clone();
                async move { bus.ping().await }
            })
        };
        Ok(Self { config, secrets, instance, bus, registry, presence: None, stores: None, checks: vec![check] })
    }

    /// Presence, connected when first needed.
    pub(crate) async fn presence(&mut self) -> anyhow::Result<Presence> {
        if let Some(presence) = &self.presence {
            return Ok(presence.clone());
        }
        let url = &self.config.presence.url;
        let hopeless = |error: &presence::Error| matches!(error, presence::Error::Url);
        let presence = retried("presence", hopeless, async || Presence::connect(url).await).await?;
        let probed = presence.clone();
        self.checks.push(Check::new("presence", "start Redis, or correct presence.url", move || {
            let presence = probed.clone();
            async move { presence.ping().await }
        }));
        self.presence = Some(presence.clone());
        Ok(presence)
    }

    /// The store, connected when first needed.
    pub(crate) async fn stores(&mut self) -> anyhow::Result<Stores> {
        if let Some(stores) = &self.stores {
            return Ok(stores.clone());
        }
        let options = StoreOptions {
            pool: self.config.pool()?,
            default_plan: self.config.store.default_plan.clone(),
            ..StoreOptions::default()
        };
        let url = &self.config.store.url;
        // A schema that is missing or old may just be on its way: the migration runs beside.
        let hopeless = |error: &store::Error| {
            use store::{Error, SchemaError};
            matches!(error, Error::Url | Error::Schema(SchemaError::Newer { .. } | SchemaError::Altered { .. }))
        };
        let stores = retried("the store", hopeless, async || store::connect(url, options.clone()).await).await?;
        let probed = stores.clone();
        self.checks.push(Check::new("store", "start Postgres, or correct store.url", move || {
            let stores = probed.clone();
            async move { stores.ping().await }
        }));
        self.stores = Some(stores.clone());
        Ok(stores)
    }

    /// The checks of everything that was connected.
    pub(crate) fn checks(&self) -> Vec<Check> {
        self.checks.clone()
    }

    /// Ends the connections to the store in peace.
    pub(crate) async fn close(self) {
        if let Some(stores) = self.stores {
            stores.close().await;
        }
    }
}

/// Tries until it works, is hopeless, or patience ends.
async fn retried<T, E>(
    what: &str,
    hopeless: impl Fn(&E) -> bool,
    mut attempt: impl AsyncFnMut() -> Result<T, E>,
) -> anyhow::Result<T>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) if hopeless(&error) || tokio::time::Instant::now() + PAUSE > until => {
                return Err(error).with_context(|| format!("{what} cannot be reached"));
            }
            Err(error) => {
                tracing::warn!(error = telemetry::incident::chain(&error), "{what} does not answer yet");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
