//! The connection to Redis, which comes back by itself.

use std::{io, sync::Arc, time::Duration};

use redis::{
    Client, Cmd, FromRedisValue, IntoConnectionInfo as _, RedisError, ScriptInvocation,
    aio::{ConnectionManager, ConnectionManagerConfig},
    io::tcp::TcpSettings,
};
use tokio::time::{Instant, timeout, timeout_at};

use super::scripts::{Script, Scripts};
use crate::{Error, limits::DEADLINE};

/// How long the first connection may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// One attempt to connect.
const ATTEMPT: Duration = Duration::from_secs(1);
/// Between two attempts to connect.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_millis(500);
/// The kernel gives a connection up when nothing was acknowledged for so long, as on a path that swallows packets. Calls
/// that time out would never end it, because Redis may just be slow.
const SILENCE: Duration = Duration::from_secs(3);
/// Calls in flight. More wait, and may time out doing so.
const IN_FLIGHT: usize = 1_024;

#[derive(Clone, Debug)]
pub(super) struct Link {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    connection: ConnectionManager,
    scripts: Scripts,
    prefix: String,
}

impl Link {
    pub(super) async fn connect(url: &str) -> Result<Self, Error> {
        let (url, prefix) = split_namespace(url).ok_or(Error::Url)?;
        let info = url.into_connection_info().map_err(|_| Error::Url)?;
        let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true).set_user_timeout(SILENCE));
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(ATTEMPT))
            .set_response_timeout(Some(DEADLINE))
            .set_min_delay(FIRST_RETRY)
            .set_max_delay(LAST_RETRY)
            .set_pipeline_buffer_size(IN_FLIGHT);
        // The client takes the provider of the process and panics without one. If there is one already, that stays.
        let _present = rustls::crypto::ring::default_provider().install_default();
        let client = Client::open(info).map_err(unavailable)?;
        let connecting = ConnectionManager::new_with_config(client, config);
        let connection =
            timeout(CONNECT_DEADLINE, connecting).await.map_err(|_| Error::TimedOut)?.map_err(unavailable)?;
        Ok(Self { shared: Arc::new(Shared { connection, scripts: Scripts::default(), prefix }) })
    }

    /// The key of `name` in the namespace of this deployment.
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.shared.prefix)
    }

    /// A run of `script`, with the keys and the first argument that all of them have.
    pub(super) fn script(&self, script: Script) -> ScriptInvocation<'_> {
        let mut run = self.shared.scripts.prepare(script);
        run.key(self.key("due")).key(self.key("seats")).key(self.key("sweep")).arg(self.key("client:"));
        run
    }

    /// Runs a script, again if the connection broke.
    pub(super) async fn run<T: FromRedisValue>(&self, run: &ScriptInvocation<'_>) -> Result<T, Error> {
        self.twice(|mut connection| async move { run.invoke_async(&mut connection).await }).await
    }

    /// Runs a script once, whatever happens.
    pub(super) async fn run_once<T: FromRedisValue>(&self, run: &ScriptInvocation<'_>) -> Result<T, Error> {
        let mut connection = self.shared.connection.clone();
        match timeout(DEADLINE, run.invoke_async(&mut connection)).await {
            Ok(answer) => answer.map_err(unavailable),
            Err(_) => Err(Error::TimedOut),
        }
    }

    /// Sends a command, again if the connection broke.
    pub(super) async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Error> {
        self.twice(|mut connection| async move { command.query_async(&mut connection).await }).await
    }

    /// Asks for a string; `None` when the key holds something else.
    pub(super) async fn ask_for_string(&self, command: &Cmd) -> Result<Option<Vec<u8>>, Error> {
        self.twice(|mut connection| async move {
            match command.query_async(&mut connection).await {
                Err(error) if error.code() == Some("WRONGTYPE") => Ok(None),
                answer => answer.map(Some),
            }
        })
        .await
    }

    /// Tries a second time, on a new connection, if the first one turned out to be broken.
    ///
    /// The connection is passed by value: futures that borrow it could not be shown to be `Send` by callers.
    async fn twice<T, Fut>(&self, attempt: impl Fn(ConnectionManager) -> Fut) -> Result<T, Error>
    where
        Fut: Future<Output = Result<T, RedisError>>,
    {
        let deadline = Instant::now() + DEADLINE;
        let connection = || self.shared.connection.clone();
        let broken = match timeout_at(deadline, attempt(connection())).await {
            Ok(Err(error)) if error.is_unrecoverable_error() => error,
            Ok(answer) => return answer.map_err(unavailable),
            Err(_) => return Err(Error::TimedOut),
        };
        match timeout_at(deadline, attempt(connection())).await {
            Ok(answer) => answer.map_err(unavailable),
            Err(_) => Err(unavailable(broken)),
        }
    }
}

/// The URL without the parameter that is ours, and the prefix of keys.
fn split_namespace(url: &str) -> Option<(String, String)> {
    let (rest, query) = url.split_once('?').unwrap_or((url, ""));
    let (ours, others): (Vec<_>, Vec<_>) =
        query.split('&').filter(|pair| !pair.is_empty()).partition(|pair| pair.starts_with("namespace="));
    let prefix = match ours.as_slice() {
        [] => "buri:".to_owned(),
        [pair] => {
            let name = &pair["namespace=".len()..];
            let known = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
            (!name.is_empty() && name.bytes().all(known)).then(|| format!("buri:{name}:"))?
        }
        [..] => return None,
    };
    let url = if others.is_empty() { rest.to_owned() } else { format!("{rest}?{}", others.join("&")) };
    Some((url, prefix))
}

fn unavailable(error: RedisError) -> Error {
    if error.is_timeout() { Error::TimedOut } else { Error::Unavailable(io::Error::other(error)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_taken_out_of_the_url() {
        let of = |url| split_namespace(url).map(|(url, prefix)| format!("{url} {prefix}"));
        assert_eq!(of("redis://host/1").as_deref(), Some("redis://host/1 buri:"));
        assert_eq!(of("redis://host?namespace=a-1").as_deref(), Some("redis://host buri:a-1:"));
        assert_eq!(
            of("redis://host?protocol=resp3&namespace=b").as_deref(),
            Some("redis://host?protocol=resp3 buri:b:")
        );
        for wrong in ["redis://host?namespace=", "redis://host?namespace=A", "redis://host?namespace=a&namespace=b"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }
}
