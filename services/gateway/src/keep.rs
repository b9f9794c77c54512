//! What goes on beside the sessions: seats are renewed, reflectors and token keys learned, gaps of the bus made good.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use bus::Served;
use bytes::Bytes;
use contract::{
    auth::Keys,
    rendezvous::{ReflectorBeat, RelayBeat},
    session::{SessionChange, SessionChanged},
    token::KeySet,
};
use domain::InstanceId;
use presence::{Held, Renewal};
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, timeout_at};
use tokio_util::sync::CancellationToken;
use wire::{
    Code,
    control::{Refused, ServerFrame},
};

use crate::{
    hub::{Heard, Hub, Reflectors},
    rotation,
    silence::Silence,
};

/// A reflector that was silent for this long is not named any more.
const SILENCE: Duration = Duration::from_secs(20);

/// After the start of this process logins wait until a reflector was heard, at most until this has passed.
const FIRST_REFLECTOR: Duration = Duration::from_secs(3);

/// Token keys are asked for again at most this often.
const KEYS_PAUSE: Duration = Duration::from_secs(5);

/// And this often without a reason: of a client's key that was given up one may not have heard.
const LEARN: Duration = Duration::from_secs(60);

/// Sessions renewed in one question.
const BATCH: usize = 500;

/// After a gap of the bus, which loses hints, and of presence, where nobody was found, sessions are asked to catch up within
/// so many milliseconds, some in every [`PACE`].
const CATCH_UP_MS: usize = 5_000;

const PACE: Duration = Duration::from_millis(10);

/// How often relays are looked after.
const LOOK: Duration = Duration::from_millis(100);

/// Takes the beats of reflectors until the guards are stopped.
pub(crate) async fn serve(hub: &Arc<Hub>) -> Result<Vec<Served>, bus::Error> {
    let (rendezvous, relays) = (Arc::clone(hub), Arc::clone(hub));
    let heard = hub.seams.bus.subscribe(1, move |beat: ReflectorBeat| {
        let heard = Heard { endpoints: beat.endpoints, region: String::new(), draining: false, at: Instant::now() };
        rendezvous.reflectors.send_modify(|known| note(&mut known.rendezvous, beat.instance, heard));
        async { Ok::<(), Infallible>(()) }
    });
    let beaten = hub.seams.bus.subscribe(1, move |beat: RelayBeat| {
        let relay = InstanceId::from_bytes(*beat.relay.as_bytes());
        let RelayBeat { endpoints, region, draining, .. } = beat;
        let heard = Heard { endpoints, region, draining, at: Instant::now() };
        relays.reflectors.send_modify(|known| note(&mut known.relays, relay, heard));
        async { Ok::<(), Infallible>(()) }
    });
    Ok(vec![heard.await?, beaten.await?])
}

/// Renews and catches up until `shutdown`.
pub(crate) async fn run(hub: &Hub, shutdown: &CancellationToken) {
    let mut renewals = interval(hub.config.presence_ttl / 3);
    let mut recovered = hub.seams.bus.recovered();
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut learn = interval_at(Instant::now() + LEARN, LEARN);
    let mut silence = Silence::default();
    let mut behind = Behind::default();
    // Whether the last renewal failed; it may have rebuilt seats all the same.
    let mut doubtful = false;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = renewals.tick() => {
                let (rebuilt, failed) = renew(hub, doubtful).await;
                doubtful = failed;
                behind.add(rebuilt.into_iter().map(|held| (held, Missed::Presence)));
            }
            _ = learn.tick() => learn_keys(hub).await,
            Ok(()) = recovered.changed() => {
                learn_keys(hub).await;
                behind.add(hub.held().into_iter().map(|(held, _)| (held, Missed::Hints)));
            }
            _ = looks.tick() => {
                for relay in silence.noticed(&hub.reflectors.borrow().relays) {
                    tracing::info!(%relay, "the relay is silent");
                    hub.tell_all(&ServerFrame::RelaySilent(relay).encode().into());
                }
            }
            _ = pace.tick(), if !behind.sessions.is_empty() => behind.catch_up(hub).await,
        }
    }
}

/// Sessions that are still to be asked to catch up.
#[derive(Default)]
struct Behind {
    sessions: Vec<(Held, Missed)>,
    /// How many of them in every [`PACE`].
    share: usize,
}

/// Why a session may not know all that it should.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missed {
    /// The bus was away.
    Hints,
    /// Presence had forgotten the session: nothing was sent to it, and its peers may take it for offline.
    Presence,
}

impl Behind {
    fn add(&mut self, sessions: impl Iterator<Item = (Held, Missed)>) {
        self.sessions.extend(sessions);
        self.share = self.sessions.len() * usize::try_from(PACE.as_millis()).unwrap_or(1) / CATCH_UP_MS + 1;
    }

    /// Asks the next few.
    async fn catch_up(&mut self, hub: &Hub) {
        let resync = Bytes::from(ServerFrame::Resync.encode());
        for (held, missed) in self.sessions.drain(self.sessions.len().saturating_sub(self.share)..) {
            let Some(handle) = hub.find(held.client, held.epoch) else { continue };
            handle.push(resync.clone());
            if missed == Missed::Presence {
                let changed = SessionChanged { client: held.client, epoch: held.epoch, change: SessionChange::Rebuilt };
                if let Err(error) = hub.seams.bus.publish(&changed).await {
                    tracing::warn!(error = telemetry::incident::chain(&error), "the return of a session was not told");
                }
            }
        }
    }
}

/// Notes where a process has reflectors, and forgets those that fell silent.
fn note(known: &mut BTreeMap<InstanceId, Heard>, instance: InstanceId, heard: Heard) {
    known.retain(|_, heard| heard.at.elapsed() < SILENCE);
    known.insert(instance, heard);
}

/// Renews every session. Returns those that presence had forgotten (all of them when `doubtful`), and whether it failed.
async fn renew(hub: &Hub, doubtful: bool) -> (Vec<Held>, bool) {
    let (mut rebuilt, mut failed) = (Vec::new(), false);
    for some in hub.held().chunks(BATCH) {
        let held: Vec<_> = some.iter().map(|(held, _)| *held).collect();
        let seams = &hub.seams;
        let renewals = match seams.presence.renew(seams.instance, &held, hub.config.presence_ttl).await {
            Ok(renewals) => renewals,
            Err(error) => {
                seams.metrics.renewals_failed.inc();
                tracing::warn!(error = telemetry::incident::chain(&error), "sessions could not be renewed in presence");
                failed = true;
                continue;
            }
        };
        for (held, renewal) in held.iter().zip(renewals) {
            let Some(handle) = hub.find(held.client, held.epoch) else { continue };
            match renewal {
                Renewal::Kept if !doubtful => {}
                Renewal::Kept | Renewal::Rebuilt => rebuilt.push(*held),
                Renewal::Replaced => handle.end(Refused::because(Code::Replaced)),
                Renewal::Ended => handle.end(Refused::after(Code::Draining, Duration::from_secs(1))),
            }
        }
        report_again(hub, some).await;
    }
    (rebuilt, failed)
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
        Ok(reply) => {
            rotation::retire(hub, &reply.retired);
            KeySet::from_jwks(&reply.jwks)
        }
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
    // Without any, the client learns nothing of its NATs; later there is none because rendezvous is away.
    let first = told.wait_for(|known| !known.rendezvous.is_empty());
    let _ = timeout_at(hub.started + FIRST_REFLECTOR, first).await;
    let known = told.borrow();
    chosen(&known)
}

/// IPv4 first: reflectors of the better path, and of the harder NATs.
fn chosen(known: &Reflectors) -> Vec<SocketAddr> {
    [SocketAddr::is_ipv4, SocketAddr::is_ipv6].into_iter().flat_map(|family| chosen_of(known, family)).collect()
}

/// Those of the rendezvous process that has most, and when they share an address, one at another: of another process, or
/// of a relay.
fn chosen_of(known: &Reflectors, family: fn(&SocketAddr) -> bool) -> Vec<SocketAddr> {
    let of = |heard: &BTreeMap<InstanceId, Heard>| -> Vec<Vec<SocketAddr>> {
        let fresh = heard.values().filter(|heard| heard.at.elapsed() < SILENCE);
        fresh.map(|heard| heard.endpoints.iter().copied().filter(family).collect()).collect()
    };
    let (rendezvous, relays) = (of(&known.rendezvous), of(&known.relays));
    let mut endpoints = rendezvous.iter().max_by_key(|endpoints| endpoints.len()).cloned().unwrap_or_default();
    for other in rendezvous.into_iter().chain(relays).flatten() {
        let addresses = endpoints.iter().map(SocketAddr::ip).collect::<BTreeSet<_>>();
        if addresses.len() < 2 && !addresses.contains(&other.ip()) {
            endpoints.push(other);
        }
    }
    endpoints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_address_is_found_at_another_process_or_a_relay() {
        let one = ["192.0.2.1:3478", "192.0.2.1:3479"];
        let both = ["192.0.2.1:3478", "192.0.2.1:3479", "192.0.2.2:3478", "192.0.2.2:3479"];
        assert_eq!(named(&[&both], &[&["192.0.2.9:443"]]), both);
        assert_eq!(named(&[&one], &[&["192.0.2.1:443"]]), one, "a relay beside shows nothing new");
        assert_eq!(named(&[&one], &[&["192.0.2.1:443"], &["192.0.2.9:443"]]), [&one[..], &["192.0.2.9:443"]].concat());
        let other = ["192.0.2.3:3478", "192.0.2.3:3479"];
        assert_eq!(named(&[&one, &other], &[&["192.0.2.9:443"]]), [&other[..], &["192.0.2.1:3478"]].concat());
    }

    #[tokio::test]
    async fn families_are_kept_apart_and_ipv4_comes_first() {
        let mixed = ["[2001:db8::1]:3478", "[2001:db8::1]:3479", "192.0.2.1:3478", "192.0.2.1:3479"];
        let relay = ["[2001:db8::9]:443", "192.0.2.9:443"];
        let expected = [mixed[2], mixed[3], relay[1], mixed[0], mixed[1], relay[0]];
        assert_eq!(named(&[&mixed], &[&relay]), expected);
        assert_eq!(named(&[&mixed[2..]], &[&relay]), [mixed[2], mixed[3], relay[1], relay[0]]);
        assert_eq!(named(&[], &[]), Vec::<String>::new());
    }

    fn named(rendezvous: &[&[&str]], relays: &[&[&str]]) -> Vec<String> {
        let heard = |processes: &[&[&str]]| {
            let of = |endpoints: &&[&str]| endpoints.iter().map(|text| text.parse().unwrap()).collect();
            (1..).zip(processes).fold(BTreeMap::new(), |mut known, (number, endpoints)| {
                let heard =
                    Heard { endpoints: of(endpoints), region: String::new(), draining: false, at: Instant::now() };
                note(&mut known, InstanceId::from_bytes([number; 16]), heard);
                known
            })
        };
        let known = Reflectors { rendezvous: heard(rendezvous), relays: heard(relays) };
        chosen(&known).iter().map(SocketAddr::to_string).collect()
    }
}
