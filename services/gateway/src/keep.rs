//! What goes on beside the sessions: seats are renewed, reflectors and token keys learned, gaps of the bus made good.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bus::Served;
use contract::{
    auth::Keys,
    rendezvous::{ReflectorBeat, RelayBeat},
    token::KeySet,
};
use domain::InstanceId;
use presence::Renewal;
use tokio::time::{Instant, interval, timeout};
use tokio_util::sync::CancellationToken;
use wire::{
    Code,
    control::{Refused, ServerFrame},
};

use crate::hub::{Hub, Reflectors};

/// A reflector that was silent for this long is not named any more.
const SILENCE: Duration = Duration::from_secs(20);

/// How long a login waits for the first sign of a reflector, after this process started.
const FIRST_REFLECTOR: Duration = Duration::from_secs(3);

/// Token keys are asked for again at most this often.
const KEYS_PAUSE: Duration = Duration::from_secs(5);

/// Sessions renewed in one question.
const BATCH: usize = 500;

/// After a gap of the bus all sessions are asked to catch up within this time.
const CATCH_UP: Duration = Duration::from_secs(5);

/// Takes the beats of reflectors until the guards are stopped.
pub(crate) async fn serve(hub: &Arc<Hub>) -> Result<Vec<Served>, bus::Error> {
    let (rendezvous, relays) = (Arc::clone(hub), Arc::clone(hub));
    let heard = hub.seams.bus.subscribe(1, move |beat: ReflectorBeat| {
        rendezvous.reflectors.send_modify(|known| {
            known.rendezvous.insert(beat.instance, (beat.endpoints, Some(Instant::now())));
        });
        async { Ok::<(), Infallible>(()) }
    });
    let beaten = hub.seams.bus.subscribe(1, move |beat: RelayBeat| {
        let relay = InstanceId::from_bytes(*beat.relay.as_bytes());
        relays.reflectors.send_modify(|known| {
            known.relays.insert(relay, (beat.endpoints, Some(Instant::now())));
        });
        async { Ok::<(), Infallible>(()) }
    });
    Ok(vec![heard.await?, beaten.await?])
}

/// Renews and catches up until `shutdown`.
pub(crate) async fn run(hub: &Hub, shutdown: &CancellationToken) {
    let mut renewals = interval(hub.config.presence_ttl / 3);
    let mut recovered = hub.seams.bus.recovered();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = renewals.tick() => renew(hub).await,
            Ok(()) = recovered.changed() => catch_up(hub, shutdown).await,
        }
    }
}

async fn renew(hub: &Hub) {
    for some in hub.held().chunks(BATCH) {
        let held: Vec<_> = some.iter().map(|(held, _)| *held).collect();
        let seams = &hub.seams;
        let renewals = match seams.presence.renew(seams.instance, &held, hub.config.presence_ttl).await {
            Ok(renewals) => renewals,
            Err(error) => {
                seams.metrics.renewals_failed.inc();
                tracing::warn!(error = telemetry::incident::chain(&error), "sessions could not be renewed in presence");
                continue;
            }
        };
        for (held, renewal) in held.iter().zip(renewals) {
            let Some(handle) = hub.find(held.client, held.epoch) else { continue };
            match renewal {
                Renewal::Kept => {}
                Renewal::Replaced => handle.end(Refused::because(Code::Replaced)),
                Renewal::Ended => handle.end(Refused::after(Code::Draining, Duration::from_secs(1))),
            }
        }
        report_again(hub, some).await;
    }
}

/// Tells the profiles of sessions that presence holds without one, because it was emptied.
async fn report_again(hub: &Hub, some: &[(presence::Held, Option<domain::NatProfile>)]) {
    let profiled: Vec<_> = some.iter().filter_map(|(held, profile)| Some((held, (*profile)?))).collect();
    let clients: Vec<_> = profiled.iter().map(|(held, _)| held.client).collect();
    let Ok(seats) = hub.seams.presence.find(&clients).await else { return };
    for ((held, profile), seat) in profiled.into_iter().zip(seats) {
        let forgotten = seat.is_some_and(|seat| seat.epoch == held.epoch && seat.profile.is_none());
        if forgotten && let Err(error) = hub.seams.presence.report(held.client, held.epoch, profile).await {
            tracing::debug!(%error, "a NAT profile was not told again");
        }
    }
}

/// Hints were lost: every client asks what changed, not all at once.
async fn catch_up(hub: &Hub, shutdown: &CancellationToken) {
    let held = hub.held();
    let pause = CATCH_UP / u32::try_from(held.len()).unwrap_or(u32::MAX).max(1);
    for (held, _) in held {
        if let Some(handle) = hub.find(held.client, held.epoch) {
            handle.push(ServerFrame::Resync);
        }
        if timeout(pause, shutdown.cancelled()).await.is_ok() {
            return;
        }
    }
}

/// Asks auth for the keys of tokens, unless that was just done.
pub(crate) async fn learn_keys(hub: &Hub) {
    {
        let mut keys = hub.keys.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        if keys.1.is_some_and(|asked| asked.elapsed() < KEYS_PAUSE) {
            return;
        }
        keys.1 = Some(Instant::now());
    }
    let learned = match hub.seams.bus.call(&Keys).await {
        Ok(reply) => KeySet::from_jwks(&reply.jwks),
        Err(error) => {
            tracing::debug!(?error, "auth does not tell the keys of tokens");
            return;
        }
    };
    match learned {
        Ok(set) => hub.keys.write().unwrap_or_else(std::sync::PoisonError::into_inner).0 = set,
        Err(error) => tracing::warn!(error = telemetry::incident::chain(&error), "the keys of tokens are broken"),
    }
}

/// The STUN endpoints for a client: two ports of one address, then another address.
pub(crate) async fn reflectors(hub: &Hub) -> Vec<SocketAddr> {
    let mut told = hub.reflectors.subscribe();
    // Without any, the client learns nothing of its NATs; a process that has just started waits for the first sign.
    let _ = timeout(FIRST_REFLECTOR, told.wait_for(|known| !known.rendezvous.is_empty())).await;
    let known = told.borrow();
    chosen(&known)
}

fn chosen(known: &Reflectors) -> Vec<SocketAddr> {
    let fresh = |entry: &&(Vec<SocketAddr>, Option<Instant>)| entry.1.is_some_and(|heard| heard.elapsed() < SILENCE);
    let mut endpoints: Vec<SocketAddr> = Vec::new();
    if let Some((first, _)) = known.rendezvous.values().filter(fresh).max_by_key(|(endpoints, _)| endpoints.len()) {
        endpoints.extend(first);
    }
    let has_other = |endpoints: &[SocketAddr]| endpoints.iter().any(|other| other.ip() != endpoints[0].ip());
    if !endpoints.is_empty() && !has_other(&endpoints) {
        let others = known.rendezvous.values().chain(known.relays.values()).filter(fresh).flat_map(|(some, _)| some);
        endpoints.extend(others.copied().find(|other| other.ip() != endpoints[0].ip()));
    }
    endpoints
}
