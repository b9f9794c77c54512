//! Clients that change their keys.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bus::{Bus, Served};
use contract::{
    auth::{KeyRetired, RetiredKey, RotateKey, RotateRefusal},
    network::Unannounced,
};
use domain::{LineageError, UnixMillis};
use store::{RotateError, Rotation};

use crate::Auth;

/// Clocks of processes differ: a key is named as given up for so much longer than a token for it lives.
const SLACK: Duration = Duration::from_secs(300);

/// Keys that are named at most; of more the newest.
const MOST_RETIRED: u16 = 4_096;

pub(crate) async fn serve(auth: &Arc<Auth>, bus: &Bus, concurrency: usize) -> Result<Served, bus::Error> {
    let (auth, telling) = (Arc::clone(auth), bus.clone());
    let rotate = move |call: RotateKey| {
        let (auth, bus) = (Arc::clone(&auth), telling.clone());
        async move { auth.rotate(&bus, call).await }
    };
    bus.serve(concurrency, rotate).await
}

impl Auth {
    async fn rotate(&self, bus: &Bus, call: RotateKey) -> Result<(), RotateRefusal> {
        let rotated = self.rotated(&call).await;
        match &rotated {
            Ok(retired) => {
                // Hints: gateways ask for what they missed, and the sweep tells members.
                for published in [bus.publish(&KeyRetired { key: *retired }).await, bus.publish(&Unannounced).await] {
                    if let Err(error) = published {
                        tracing::warn!(
                            error = telemetry::incident::chain(&error),
                            "a change of a key was not told at once"
                        );
                    }
                }
            }
            Err(_) => self.metrics.key_rotations_failed.inc(),
        }
        rotated.map(drop)
    }

    async fn rotated(&self, call: &RotateKey) -> Result<RetiredKey, RotateRefusal> {
        let RotateKey { client, from, rotation } = call;
        rotation
            .succession
            .identity
            .verify_tunnel_key(&rotation.tunnel, &rotation.tunnel_signature)
            .map_err(|_| RotateRefusal::Signature)?;
        let lineage = self.accounts.lineage(*client).await.map_err(|error| internal(&error))?;
        let lineage = lineage.ok_or(RotateRefusal::Rotated)?;
        // A repeated one was checked when it came first, and storage compares it.
        if lineage.newest() != rotation.succession.identity {
            if lineage.newest() != *from {
                return Err(RotateRefusal::Rotated);
            }
            lineage.followed_by(rotation.succession).map_err(|error| match error {
                LineageError::Signature(_) => RotateRefusal::Signature,
                LineageError::Repeated => RotateRefusal::Taken,
                LineageError::TooLong => RotateRefusal::LimitReached,
            })?;
        }
        let wanted = Rotation { client: *client, from: *from, keys: *rotation };
        let now = UnixMillis::from(SystemTime::now());
        let rotated = self.accounts.rotate(wanted, now).await.map_err(|error| match error {
            RotateError::Rotated => RotateRefusal::Rotated,
            RotateError::Taken => RotateRefusal::Taken,
            RotateError::LimitReached => RotateRefusal::LimitReached,
            RotateError::Blocked => RotateRefusal::Blocked,
            RotateError::Store(error) => internal(&error),
        })?;
        if rotated.at == now {
            self.metrics.keys_rotated.inc();
            tracing::info!(%client, "a client changed its key");
        }
        Ok(RetiredKey { identity: *from, client: *client, until: self.until(rotated.at) })
    }

    /// The keys for which tokens may still be valid.
    pub(crate) async fn retired(&self) -> Result<Vec<RetiredKey>, store::Error> {
        let lifetime = u64::try_from((self.token_lifetime + SLACK).as_millis()).unwrap_or(u64::MAX);
        let since = UnixMillis(UnixMillis::from(SystemTime::now()).0.saturating_sub(lifetime));
        let given_up = self.accounts.given_up_since(since, MOST_RETIRED).await?;
        let retired = given_up.into_iter().map(|key| RetiredKey {
            identity: key.identity,
            client: key.client,
            until: self.until(key.at),
        });
        Ok(retired.collect())
    }

    fn until(&self, given_up: UnixMillis) -> UnixMillis {
        given_up.plus(self.token_lifetime + SLACK)
    }
}

fn internal(error: &store::Error) -> RotateRefusal {
    if store::Error::is_busy(error) {
        return RotateRefusal::Busy;
    }
    RotateRefusal::Internal { incident: telemetry::incident::log("a change of a key", error) }
}
