//! When which route is probed, and which ones are forgotten.

use std::time::{Duration, Instant};

use rand::Rng as _;

use super::{MAX_DIRECTS, MAX_PENDING, Path, Probe, RETRY, Route};

impl Path {
    /// How long a mapping of the own NAT lives in silence; `None` when that is not known.
    pub fn handle_lifetime(&mut self, lifetime: Option<Duration>) {
        if lifetime != self.lifetime {
            self.lifetime = lifetime;
            self.keepalive = match lifetime {
                None => self.rng.random_range(KEEPALIVE - KEEPALIVE_SPREAD..=KEEPALIVE + KEEPALIVE_SPREAD),
                Some(lifetime) => {
                    let most = (lifetime * 4 / 5).clamp(SHORTEST_KEEPALIVE, LONGEST_KEEPALIVE);
                    self.rng.random_range(most - KEEPALIVE_SPREAD..=most)
                }
            };
        }
    }

    pub(super) fn probe(&mut self, now: Instant, route: Route) {
        let nonce = self.rng.random();
        let Some(leg) = self.leg_mut(route) else { return };
        leg.last_probe = Some(now);
        leg.misses = leg.misses.saturating_add(1);
        leg.doubted.get_or_insert(now);
        leg.pending.push_back((nonce, now));
        if leg.pending.len() > MAX_PENDING {
            leg.pending.pop_front();
        }
        self.probes.push_back(Probe { route, nonce });
        if self.probes.len() > MAX_PENDING * (MAX_DIRECTS + 1) {
            self.probes.pop_front();
        }
    }

    /// When `route` is due for a probe; `None` when it needs none.
    pub(super) fn next_probe(&self, now: Instant, route: Route) -> Option<Instant> {
        let leg = self.leg(route)?;
        let Some(last) = leg.last_probe else { return Some(leg.since) };
        let is_current = self.current == Some(route);
        let active = self.last_sent.is_some_and(|sent| now.saturating_duration_since(sent) < ACTIVE);
        let interval = match (route, leg.misses) {
            (Route::Relay, _) if !is_current && self.both_until.is_none() => {
                // Shortly after the switch; then the standby is left alone.
                let due = last + (leg.rtt.unwrap_or(RETRY) / 2).max(SHORTEST);
                return self.relay_probed.is_some_and(|until| due <= until).then_some(due);
            }
            (Route::Direct(_), misses) if !leg.proven && misses < FIRST_TOGETHER => SHORTEST,
            (Route::Direct(_), misses) if !leg.proven && misses <= FIRST_TRIES => FIRST_RETRY,
            (Route::Direct(_), _) if leg.last_answer.is_none() && !is_current => RETRY,
            (_, _) if is_current && self.both_until.is_some() => BOTH_PROBE,
            (_, 0) if is_current && active && route == Route::Relay => ACTIVE_PROBE_RELAY,
            (_, 0) if is_current && active => ACTIVE_PROBE,
            (_, 0) if is_current && self.watched => WATCHED,
            (Route::Direct(_), 0) if self.current == Some(Route::Relay) => {
                let age = last.saturating_duration_since(leg.since);
                return Some(last + age.max(FIRST_COMPARED).min(self.keepalive));
            }
            (_, 0) => {
                let traffic = if is_current { self.last_sent.max(self.last_heard) } else { None };
                return Some(traffic.map_or(last, |at| at.max(last)) + self.keepalive);
            }
            (_, 1..=3) => RETRY,
            (_, misses) if active || self.watched => WATCHED * (misses / 12 + 1).min(6),
            (_, misses) => (WATCHED * 2_u32.saturating_pow(misses.min(8) - 3)).min(RARELY),
        };
        Some(last + interval)
    }

    /// Forgets endpoints that never answered, and those that are of no use any more; never the one in use.
    pub(super) fn drop_hopeless(&mut self, now: Instant) {
        let current = self.current;
        let watched = self.watched;
        self.directs.retain(|(endpoint, leg)| {
            let waited = leg.last_probe.is_some_and(|last| now >= last + RETRY);
            let hopeless = leg.last_answer.is_none() && leg.misses > FIRST_TRIES && waited;
            let useless = !watched && useless_at(current, leg).is_some_and(|due| now >= due);
            current == Some(Route::Direct(*endpoint)) || !(hopeless || useless)
        });
    }

    /// When the first direct path becomes useless.
    pub(super) fn next_useless(&self) -> Option<Instant> {
        let others = self.directs.iter().filter(|(endpoint, _)| self.current != Some(Route::Direct(*endpoint)));
        others.filter(|_| !self.watched).filter_map(|(_, leg)| useless_at(self.current, leg)).min()
    }
}

/// A second direct path is kept warm for a minute; beside the relay as long as it answers.
fn useless_at(current: Option<Route>, leg: &super::Leg) -> Option<Instant> {
    let used = leg.last_use.max(leg.last_answer.unwrap_or(leg.since));
    match current {
        Some(Route::Direct(_)) => Some(leg.last_use + KEPT_WARM),
        Some(Route::Relay) if leg.last_answer.is_some() => Some(used + 2 * KEPT_WARM),
        Some(Route::Relay) | None => None,
    }
}

/// Data flows when some was sent this recently.
const ACTIVE: Duration = Duration::from_secs(10);
/// While data flows: with `DOUBT` it makes the 6.5 s that a direct path is trusted after its last answer.
pub(super) const ACTIVE_PROBE: Duration = Duration::from_secs(2);
const ACTIVE_PROBE_RELAY: Duration = Duration::from_secs(5);
const BOTH_PROBE: Duration = Duration::from_millis(500);
const WATCHED: Duration = Duration::from_secs(5);
const RARELY: Duration = Duration::from_secs(60);
pub(super) const KEEPALIVE: Duration = Duration::from_secs(25);
pub(super) const KEEPALIVE_SPREAD: Duration = Duration::from_secs(3);
const SHORTEST_KEEPALIVE: Duration = Duration::from_secs(15);
const LONGEST_KEEPALIVE: Duration = Duration::from_secs(110);
/// Of an endpoint that has not proved itself yet: three at first, so that three answers come soon.
const SHORTEST: Duration = Duration::from_millis(50);
const FIRST_TOGETHER: u32 = 3;
const FIRST_RETRY: Duration = Duration::from_millis(200);
const FIRST_TRIES: u32 = 6;
const KEPT_WARM: Duration = Duration::from_secs(60);
/// A direct path that is worse than the relay is asked again after this, twice, four times this, and so on.
const FIRST_COMPARED: Duration = Duration::from_secs(1);
