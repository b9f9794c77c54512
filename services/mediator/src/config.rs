//! The configuration: one typed tree for every role, read once. Unknown keys are errors.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// The commented sample: the defaults, word for word.
pub(crate) const SAMPLE: &str = include_str!("../config.sample.toml");

/// The whole tree. Each role reads its own part and those that all share.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    pub(crate) log: Log,
    pub(crate) bus: Seam,
    pub(crate) presence: Seam,
    pub(crate) store: Store,
    pub(crate) secrets: Secrets,
    pub(crate) ops: Ops,
    pub(crate) gateway: gateway::Config,
    pub(crate) auth: auth::Config,
    pub(crate) network: network::Config,
    pub(crate) rendezvous: rendezvous::Config,
    pub(crate) relay: relay::Config,
    pub(crate) admin: admin::Config,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Log {
    /// Directives as of tracing-subscriber's `EnvFilter`, e.g. "info,gateway=debug".
    pub(crate) filter: String,
    /// One JSON object a line instead of text.
    pub(crate) json: bool,
}

/// A seam that is chosen by the scheme of a URL.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Seam {
    /// "memory:" inside one process; "amqp://..." (bus) or "redis://..." (presence) in a cluster.
    pub(crate) url: String,
}

/// Durable state.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Store {
    /// "sqlite:///path" or "postgres://...". Empty: a SQLite file in the data folder of `all`.
    pub(crate) url: String,
    /// Where clients get their IPv4 addresses from.
    pub(crate) pool: ipnet::Ipv4Net,
    /// Accept a pool outside of 100.64.0.0/10, which may collide with real networks.
    pub(crate) pool_forced: bool,
    /// The plan of clients that have no other.
    pub(crate) default_plan: String,
}

/// Where the secrets of the deployment are.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Secrets {
    /// A folder of files. Empty: `secrets` in the data folder of `all`.
    pub(crate) dir: PathBuf,
}

/// The listener for health, readiness and metrics.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Ops {
    pub(crate) listen: SocketAddr,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is no valid configuration")]
    Parse { path: PathBuf, source: Box<toml::de::Error> },
    #[error("store.pool: {0}")]
    Pool(#[from] domain::PoolError),
    #[error("{key}: {problem}")]
    Value { key: &'static str, problem: &'static str },
}

impl Config {
    /// Reads and validates the file at `path`; `None` gives the defaults.
    pub(crate) fn read(path: Option<&Path>) -> Result<Self, ConfigError> {
        let Some(path) = path else { return Ok(Self::default()) };
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let config: Self = toml::from_str(&text)
            .map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })?;
        config.pool()?;
        config.schemes()?;
        Ok(config)
    }

    /// The pool of virtual IPv4 addresses.
    pub(crate) fn pool(&self) -> Result<domain::AddressPool, ConfigError> {
        Ok(domain::AddressPool::new(self.store.pool, self.store.pool_forced)?)
    }

    fn schemes(&self) -> Result<(), ConfigError> {
        let known = |url: &str, schemes: &[&str]| schemes.iter().any(|scheme| url.starts_with(scheme));
        if !known(&self.bus.url, &["memory:", "amqp://", "amqps://"]) {
            return Err(ConfigError::Value { key: "bus.url", problem: "expected memory: or amqp(s)://" });
        }
        if !known(&self.presence.url, &["memory:", "redis://", "rediss://"]) {
            return Err(ConfigError::Value { key: "presence.url", problem: "expected memory: or redis(s)://" });
        }
        if !self.store.url.is_empty() && !known(&self.store.url, &["sqlite:", "postgres://", "postgresql://"]) {
            return Err(ConfigError::Value { key: "store.url", problem: "expected sqlite: or postgres://" });
        }
        Ok(())
    }

    /// A role alone needs seams that other processes reach.
    pub(crate) fn require_cluster(&self) -> Result<(), ConfigError> {
        const PROBLEM: &str = "a role in a process of its own needs a seam that the other roles reach";
        if self.bus.url.starts_with("memory:") {
            return Err(ConfigError::Value { key: "bus.url", problem: PROBLEM });
        }
        if self.presence.url.starts_with("memory:") {
            return Err(ConfigError::Value { key: "presence.url", problem: PROBLEM });
        }
        if self.store.url.is_empty() {
            return Err(ConfigError::Value { key: "store.url", problem: PROBLEM });
        }
        if self.secrets.dir.as_os_str().is_empty() {
            return Err(ConfigError::Value { key: "secrets.dir", problem: PROBLEM });
        }
        Ok(())
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { filter: "info,lapin=error".into(), json: false }
    }
}

impl Default for Seam {
    fn default() -> Self {
        Self { url: "memory:".into() }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self {
            url: String::new(),
            pool: domain::AddressPool::DEFAULT.net(),
            pool_forced: false,
            default_plan: "free".into(),
        }
    }
}

impl Default for Ops {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 12981)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_the_default() {
        assert_eq!(toml::from_str::<Config>(SAMPLE).unwrap(), Config::default());
    }

    #[test]
    fn the_sample_names_every_key() {
        fn keys(prefix: &str, value: &toml::Value, found: &mut Vec<String>) {
            if let toml::Value::Table(table) = value {
                for (key, value) in table {
                    keys(&format!("{prefix}.{key}"), value, found);
                }
            } else {
                found.push(prefix.to_owned());
            }
        }
        let (mut defaults, mut sample) = (Vec::new(), Vec::new());
        keys("", &toml::Value::try_from(Config::default()).unwrap(), &mut defaults);
        keys("", &toml::from_str(SAMPLE).unwrap(), &mut sample);
        assert_eq!(sample, defaults);
    }

    #[test]
    fn an_unknown_key_is_named() {
        let error = toml::from_str::<Config>("[gateway]\nlisten_udp = 1\n").unwrap_err().to_string();
        assert!(error.contains("unknown field `listen_udp`"), "{error}");
    }
}
