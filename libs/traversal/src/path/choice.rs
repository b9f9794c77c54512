//! Which route data takes: what is better, when to doubt, when to change.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{Event, Leg, Path, RELAY_KEPT, RETRY, Route, leg::Kind};

impl Path {
    /// Starts or stops to distrust the direct path in use.
    pub(super) fn doubt(&mut self, now: Instant) {
        let Some(Route::Direct(endpoint)) = self.current else {
            self.both_until = None;
            return;
        };
        if self.both_until.is_some_and(|until| now >= until) {
            self.both_until = None;
            return self.fall_back(now);
        }
        let doubted = self.leg(Route::Direct(endpoint)).and_then(|leg| leg.doubted);
        let Some(doubted) = doubted else { return };
        self.reconsider(now);
        if now >= doubted + EARLY_DOUBT && self.relay.is_none() {
            self.want_relay(now);
        }
        if self.both_until.is_none() && now >= doubted + DOUBT && !self.silent {
            self.both_until = Some(now + BOTH);
            self.events.push_back(Event::PunchWanted);
        }
    }

    /// Sends on relay and direct path at once until the latter answers, or for 3 s.
    pub(super) fn send_both(&mut self, now: Instant) {
        self.both_until.get_or_insert(now + BOTH);
        if self.relay.is_none() {
            self.want_relay(now);
        }
    }

    /// Leaves the direct path for the relay, or for another direct path that answers.
    pub(super) fn fall_back(&mut self, now: Instant) {
        let other = self.best_direct(now).map(Route::Direct).filter(|&other| self.current != Some(other));
        let other = other.filter(|&other| self.leg(other).is_some_and(|leg| !leg.is_overdue(now)));
        if let Some(lost @ Route::Direct(_)) = self.current
            && let Some(leg) = self.leg_mut(lost)
        {
            leg.distrust();
        }
        match (other, &self.relay) {
            (Some(other), _) => self.switch(now, Some(other)),
            (None, Some(_)) => self.switch(now, Some(Route::Relay)),
            // Nothing to lose by staying.
            (None, None) => {}
        }
        self.relay_unneeded = None;
    }

    /// Takes the best direct path when it is better than what is used.
    pub(super) fn reconsider(&mut self, now: Instant) {
        let Some(best) = self.best_direct(now) else { return };
        let better = match self.current {
            None => true,
            Some(Route::Relay) => {
                let relay = self.relay.as_ref().filter(|leg| !leg.is_overdue(now)).and_then(Leg::shortest);
                let direct = self.leg(Route::Direct(best)).and_then(Leg::shortest).unwrap_or_default();
                relay.is_none_or(|relay| direct <= relay + WORTH) || self.silent
            }
            Some(Route::Direct(endpoint)) => best != endpoint && self.is_better(now, best, endpoint),
        };
        let calm = self.switched.is_none_or(|at| now.saturating_duration_since(at) >= HYSTERESIS);
        // A route that does not answer is no route to stay on: its end is not a flap.
        let dead = self.current.is_none_or(|route| self.leg(route).is_none_or(|leg| leg.is_overdue(now)));
        if better && (calm || dead || self.silent) {
            self.switch(now, Some(Route::Direct(best)));
        } else if better {
            self.compare_at = self.switched.map(|at| at + HYSTERESIS);
        }
    }

    pub(super) fn switch(&mut self, now: Instant, to: Option<Route>) {
        if self.current == to {
            return;
        }
        if self.current.is_some() && to.is_some() {
            // The first upgrade is not a flap.
            self.switched = (self.switched.is_some() || matches!(self.current, Some(Route::Direct(_)))).then_some(now);
        }
        self.hold_until = self.overtaking(to).map(|ahead| now + ahead);
        if let Some(leg) = self.current.and_then(|left| self.leg_mut(left)) {
            leg.last_use = now;
        }
        // Two more round trips.
        let rtt = self.relay.as_ref().and_then(|leg| leg.rtt).unwrap_or(RETRY);
        self.relay_probed = matches!(to, Some(Route::Direct(_))).then(|| now + 2 * rtt);
        self.current = to;
        self.both_until = None;
        self.relay_unneeded = match to {
            Some(Route::Direct(_)) if self.relay.is_some() => Some(now + RELAY_KEPT),
            Some(_) | None => None,
        };
        self.events.push_back(Event::Switched(to));
    }

    pub(super) fn want_relay(&mut self, now: Instant) {
        if self.relay_asked.is_none_or(|asked| now.saturating_duration_since(asked) >= ASK_AGAIN) {
            self.relay_asked = Some(now);
            self.events.push_back(Event::RelayWanted);
        }
    }

    pub(super) fn notice_silence(&mut self, now: Instant) {
        let hopeless = |leg: &Leg| leg.doubted.is_some_and(|at| now >= at + DOUBT);
        let dead = match self.current.and_then(|route| self.leg(route)) {
            Some(leg) => hopeless(leg) && self.directs.iter().all(|(_, leg)| !leg.proven || hopeless(leg)),
            None => false,
        };
        let relay_dead = self.relay.as_ref().is_none_or(hopeless);
        if dead && relay_dead && !self.silent {
            self.silent = true;
            self.both_until = None;
            self.events.push_back(Event::Silent);
            self.want_relay(now);
        }
    }

    /// The usable endpoint that is best: LAN and IPv6 may be 10 ms slower than IPv4.
    pub(super) fn best_direct(&self, now: Instant) -> Option<SocketAddr> {
        let usable = self.directs.iter().filter(|(_, leg)| leg.is_usable());
        let rank =
            |(endpoint, leg): &&(SocketAddr, Leg)| (leg.is_overdue(now), cost(*endpoint, leg), Kind::of(*endpoint));
        usable.min_by_key(rank).map(|(endpoint, _)| *endpoint)
    }

    /// Whether `best` is worth leaving `used` for. A more welcome kind need only be as good; anything else must gain
    /// enough, so that two paths that are alike do not alternate.
    fn is_better(&self, now: Instant, best: SocketAddr, used: SocketAddr) -> bool {
        let Some(old) = self.leg(Route::Direct(used)) else { return true };
        let Some(new) = self.leg(Route::Direct(best)) else { return false };
        if old.is_overdue(now) {
            return true;
        }
        let least = if Kind::of(best) < Kind::of(used) { Duration::ZERO } else { WORTH };
        old.shortest().is_some() && cost(best, new) + least <= cost(used, old)
    }

    /// By how much a packet on the new route would overtake the last one on the old. Only a relay is so much slower that
    /// it is worth a pause.
    fn overtaking(&self, to: Option<Route>) -> Option<Duration> {
        let Some(Route::Direct(_)) = to.filter(|_| self.current == Some(Route::Relay)) else { return None };
        let slow = self.leg(Route::Relay)?.rtt?;
        let fast = self.leg(to?)?.rtt?;
        slow.checked_sub(fast).map(|ahead| (ahead / 2).min(LONGEST_HOLD)).filter(|ahead| !ahead.is_zero())
    }
}

fn cost(endpoint: SocketAddr, leg: &Leg) -> Duration {
    let handicap = if Kind::of(endpoint) == Kind::Ipv4 { WORTH } else { Duration::ZERO };
    leg.shortest().unwrap_or_default() + handicap
}

/// A direct path may be this much slower than the relay: it costs the service nothing.
const WORTH: Duration = Duration::from_millis(10);
pub(super) const HYSTERESIS: Duration = Duration::from_secs(5);
/// From the first unanswered probe until data goes over both routes.
pub(super) const DOUBT: Duration = Duration::from_millis(4_500);
/// From the first unanswered probe until a relay is fetched, so that it is there when it is needed.
const EARLY_DOUBT: Duration = Duration::from_millis(1_500);
const BOTH: Duration = Duration::from_secs(3);
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// A relay on another continent.
const LONGEST_HOLD: Duration = Duration::from_millis(150);
