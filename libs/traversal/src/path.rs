//! Over which route the tunnel to one peer sends: relay first, direct as soon as that is proven, both when in doubt.
//!
//! The tunnel's bytes are the same on every route and its replay window absorbs reordering, so the sender decides alone
//! and receivers accept everything. A route is proven by answers to probes inside the tunnel, never by what merely
//! arrived. The rules, all from the measurements behind this design:
//!
//! - data starts on the relay at once; direct takes over when it is usable and at most 10 ms slower;
//! - the relay is probed for two more round trips after the switch, and its slot released after 30 s;
//! - a direct path is trusted for 6.5 s after its last answer while data flows, then data goes over *both* routes for
//!   3 s, then over the relay, and a new punch is asked for; no second switch within 5 s;
//! - a direct path that is worse than the relay is kept warm and compared again every 60 s;
//! - 25 s (give or take 3 s) after the last packet in either direction a probe keeps the NATs open. It is answered,
//!   because a flow with packets in both directions is remembered four times longer;
//! - when the server is gone or lost the peer, the path is probed every 5 s: [`Event::Silent`] tells a dead peer.
//!
//! Nothing here ends a tunnel. A peer that is silent on every route is still probed, ever more rarely.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

/// A way to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Route {
    Relay,
    Direct(SocketAddr),
}

/// Where data goes: nowhere, one way, or two at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sends {
    pub first: Option<Route>,
    pub also: Option<Route>,
}

/// A liveness probe to send through the tunnel over exactly this route. The peer repeats the nonce over the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    pub route: Route,
    pub nonce: u64,
}

/// What a path tells its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Data goes another way from now on; `None` when there is none.
    Switched(Option<Route>),
    /// A direct path is worth another try.
    PunchWanted,
    /// There is no relay and one is needed.
    RelayWanted,
    /// The relay has not been needed for a while.
    RelayUnneeded,
    /// The peer answers on no route.
    Silent,
    /// The peer answers again.
    Alive,
}

/// The path to one peer.
#[derive(Debug)]
pub struct Path {
    rng: StdRng,
    relay: Option<Leg>,
    directs: Vec<(SocketAddr, Leg)>,
    current: Option<Route>,
    /// The last change between two routes that both existed.
    switched: Option<Instant>,
    /// Data goes over relay and direct until then.
    both_until: Option<Instant>,
    relay_unneeded: Option<Instant>,
    compare_at: Option<Instant>,
    last_sent: Option<Instant>,
    last_heard: Option<Instant>,
    /// Keepalives of a thousand paths must not leave together.
    keepalive: Duration,
    watched: bool,
    silent: bool,
    relay_asked: Option<Instant>,
    probes: VecDeque<Probe>,
    events: VecDeque<Event>,
}

/// What is known of one route.
#[derive(Debug)]
struct Leg {
    since: Instant,
    rtt: Option<Duration>,
    answers: u32,
    last_answer: Option<Instant>,
    last_probe: Option<Instant>,
    /// Probes since the last answer, and when the first of them left.
    misses: u32,
    doubted: Option<Instant>,
    pending: VecDeque<(u64, Instant)>,
}

impl Path {
    /// A path with no route yet.
    #[must_use]
    pub fn new(seed: [u8; 32]) -> Self {
        let mut rng = StdRng::from_seed(seed);
        let keepalive = rng.random_range(KEEPALIVE - KEEPALIVE_SPREAD..=KEEPALIVE + KEEPALIVE_SPREAD);
        Self {
            rng,
            relay: None,
            directs: Vec::new(),
            current: None,
            switched: None,
            both_until: None,
            relay_unneeded: None,
            compare_at: None,
            last_sent: None,
            last_heard: None,
            keepalive,
            watched: false,
            silent: false,
            relay_asked: None,
            probes: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Both legs of a relay are joined.
    pub fn handle_relay_up(&mut self, now: Instant) {
        self.relay = Some(Leg::new(now));
        // The server, or the peer, fetched it while this side is well on a direct path.
        self.relay_unneeded = matches!(self.current, Some(Route::Direct(_))).then(|| now + RELAY_KEPT);
        self.relay_asked = None;
        if self.current.is_none() {
            self.switch(now, Some(Route::Relay));
        }
        self.handle_timeout(now);
    }

    /// The relay refused, died or was left.
    pub fn handle_relay_down(&mut self, now: Instant) {
        self.relay = None;
        self.relay_unneeded = None;
        if self.current == Some(Route::Relay) {
            let direct = self.best_direct().map(Route::Direct);
            self.switch(now, direct);
            self.want_relay(now);
        }
        self.handle_timeout(now);
    }

    /// A punch proved `endpoint`.
    pub fn handle_direct(&mut self, now: Instant, endpoint: SocketAddr, rtt: Duration) {
        if let Some(leg) = self.direct_leg(now, endpoint) {
            leg.prove(now, rtt);
        }
        self.reconsider(now);
        self.handle_timeout(now);
    }

    /// The peer, or what was stored of it, says that it may be at `endpoint`: probed, not believed.
    pub fn handle_hint(&mut self, now: Instant, endpoint: SocketAddr) {
        self.direct_leg(now, endpoint);
        self.handle_timeout(now);
    }

    /// Authentic traffic of the peer came over `route`.
    pub fn handle_received(&mut self, now: Instant, route: Route) {
        self.last_heard = Some(now);
        if let Route::Direct(endpoint) = route
            && !self.directs.iter().any(|(known, _)| *known == endpoint)
        {
            // The peer roamed, or its NAT did: its new address is probed at once, and so is the old one.
            self.direct_leg(now, endpoint);
            if let Some(current @ Route::Direct(_)) = self.current {
                self.probe(now, current);
            }
            self.handle_timeout(now);
        }
    }

    /// Data was sent.
    pub fn handle_sent(&mut self, now: Instant) {
        let idle = self.last_sent.is_none_or(|sent| now.saturating_duration_since(sent) >= ACTIVE_PROBE);
        self.last_sent = Some(now);
        if idle {
            self.handle_timeout(now);
        }
    }

    /// The peer repeated `nonce` over `route`.
    pub fn handle_answer(&mut self, now: Instant, route: Route, nonce: u64) {
        let Some(leg) = self.leg_mut(route) else { return };
        let Some(place) = leg.pending.iter().position(|&(sent, _)| sent == nonce) else { return };
        let Some((_, sent)) = leg.pending.remove(place) else { return };
        leg.prove_once(now, now.saturating_duration_since(sent));
        self.last_heard = Some(now);
        if self.current == Some(route) {
            self.both_until = None;
        }
        if std::mem::take(&mut self.silent) {
            self.events.push_back(Event::Alive);
        }
        self.reconsider(now);
        self.handle_timeout(now);
    }

    /// Nobody else looks after the peer: the server is gone, or lost it. Probed now and every 5 s.
    pub fn handle_watch(&mut self, now: Instant) {
        self.watched = true;
        if let Some(route) = self.current {
            self.probe(now, route);
        }
    }

    /// The server sees the peer again.
    pub const fn handle_unwatch(&mut self) {
        self.watched = false;
    }

    /// The own network changed: what was known of direct paths is gone.
    pub fn handle_network_change(&mut self, now: Instant) {
        for (_, leg) in &mut self.directs {
            *leg = Leg::new(now);
        }
        if matches!(self.current, Some(Route::Direct(_))) {
            self.fall_back(now);
        }
        self.handle_timeout(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.drop_hopeless(now);
        self.doubt(now);
        if self.relay_unneeded.is_some_and(|due| now >= due) {
            self.relay_unneeded = None;
            self.relay = None;
            self.events.push_back(Event::RelayUnneeded);
        }
        if self.compare_at.is_some_and(|due| now >= due) {
            self.compare_at = None;
            self.reconsider(now);
        }
        for route in self.routes().collect::<Vec<_>>() {
            if self.next_probe(now, route).is_some_and(|due| now >= due) {
                self.probe(now, route);
            }
        }
        self.notice_silence(now);
    }

    /// When to call [`Self::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let probes = self.routes().filter_map(|route| self.next_probe(now, route));
        // What was doubted too long already has been acted upon.
        let legs = self.relay.iter().chain(self.directs.iter().map(|(_, leg)| leg));
        let doubts = legs.filter_map(|leg| leg.doubted).map(|at| at + DOUBT).filter(|&due| due > now);
        let others = [self.both_until, self.relay_unneeded, self.compare_at];
        others.into_iter().flatten().chain(doubts).chain(probes).min()
    }

    /// The next probe to send.
    pub fn poll_probe(&mut self) -> Option<Probe> {
        self.probes.pop_front()
    }

    /// The next thing to know.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Where data goes now. Cheap: asked for every packet.
    #[must_use]
    pub fn sends(&self) -> Sends {
        let also = match (self.both_until, self.current) {
            (Some(_), Some(Route::Direct(_))) => self.relay.as_ref().map(|_| Route::Relay),
            (Some(_) | None, _) => None,
        };
        Sends { first: self.current, also }
    }

    /// The route in use.
    #[must_use]
    pub const fn current(&self) -> Option<Route> {
        self.current
    }

    /// The smoothed round trip of the route in use.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.leg(self.current?)?.rtt
    }

    /// Whether the peer answers on no route.
    #[must_use]
    pub const fn is_silent(&self) -> bool {
        self.silent
    }

    /// Endpoints that answered, to be stored for a restart without a server.
    pub fn proven(&self) -> impl Iterator<Item = SocketAddr> {
        self.directs.iter().filter(|(_, leg)| leg.is_usable()).map(|(endpoint, _)| *endpoint)
    }

    /// Starts or stops to distrust the direct path in use.
    fn doubt(&mut self, now: Instant) {
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

    /// Leaves the direct path for the relay, or for another direct path that answers.
    fn fall_back(&mut self, now: Instant) {
        let other = self.best_direct().filter(|&endpoint| self.current != Some(Route::Direct(endpoint)));
        if let Some(Route::Direct(lost)) = self.current
            && let Some(leg) = self.leg_mut(Route::Direct(lost))
        {
            leg.answers = 0;
        }
        match (other, &self.relay) {
            (Some(endpoint), _) => self.switch(now, Some(Route::Direct(endpoint))),
            (None, Some(_)) => self.switch(now, Some(Route::Relay)),
            // Nothing to lose by staying.
            (None, None) => {}
        }
        self.relay_unneeded = None;
    }

    /// Takes the direct path when it is better.
    fn reconsider(&mut self, now: Instant) {
        let Some(best) = self.best_direct() else { return };
        let better = match self.current {
            None => true,
            Some(Route::Relay) => {
                let relay = self.relay.as_ref().and_then(|leg| leg.rtt);
                let direct = self.leg(Route::Direct(best)).and_then(|leg| leg.rtt).unwrap_or_default();
                let better = relay.is_none_or(|relay| direct <= relay + WORTH) || self.silent;
                if !better {
                    self.compare_at.get_or_insert(now + COMPARE);
                }
                better
            }
            // Between two direct paths only one that stopped answering loses.
            Some(Route::Direct(endpoint)) => {
                best != endpoint && self.leg(Route::Direct(endpoint)).is_none_or(|leg| leg.is_overdue(now))
            }
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

    fn switch(&mut self, now: Instant, to: Option<Route>) {
        if self.current == to {
            return;
        }
        if self.current.is_some() && to.is_some() {
            // The first upgrade is not a flap.
            self.switched = (self.switched.is_some() || matches!(self.current, Some(Route::Direct(_)))).then_some(now);
        }
        self.current = to;
        self.both_until = None;
        self.relay_unneeded = match to {
            Some(Route::Direct(_)) if self.relay.is_some() => Some(now + RELAY_KEPT),
            Some(_) | None => None,
        };
        self.events.push_back(Event::Switched(to));
    }

    fn want_relay(&mut self, now: Instant) {
        if self.relay_asked.is_none_or(|asked| now.saturating_duration_since(asked) >= ASK_AGAIN) {
            self.relay_asked = Some(now);
            self.events.push_back(Event::RelayWanted);
        }
    }

    fn notice_silence(&mut self, now: Instant) {
        let hopeless = |leg: &Leg| leg.doubted.is_some_and(|at| now >= at + DOUBT);
        let dead = match self.current.and_then(|route| self.leg(route)) {
            Some(leg) => hopeless(leg) && self.directs.iter().all(|(_, leg)| leg.answers == 0 || hopeless(leg)),
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

    fn probe(&mut self, now: Instant, route: Route) {
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
    fn next_probe(&self, now: Instant, route: Route) -> Option<Instant> {
        let leg = self.leg(route)?;
        let Some(last) = leg.last_probe else { return Some(leg.since) };
        let is_current = self.current == Some(route);
        let active = self.last_sent.is_some_and(|sent| now.saturating_duration_since(sent) < ACTIVE);
        let interval = match (route, leg.misses) {
            (Route::Relay, _) if !is_current && self.both_until.is_none() => {
                // Two more round trips after the switch; then the standby is left alone.
                let after = self.relay_unneeded? - RELAY_KEPT + 2 * leg.rtt.unwrap_or(RETRY);
                return (last < after && now <= after).then_some(last + RETRY / 8);
            }
            (Route::Direct(_), misses) if leg.answers < PROVEN && misses <= FIRST_TRIES => FIRST_RETRY,
            (Route::Direct(_), _) if leg.last_answer.is_none() && !is_current => RETRY,
            (_, _) if is_current && self.both_until.is_some() => BOTH_PROBE,
            (_, 0) if is_current && active && route == Route::Relay => ACTIVE_PROBE_RELAY,
            (_, 0) if is_current && active => ACTIVE_PROBE,
            (_, 0) if is_current && self.watched => WATCHED,
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

    /// Forgets endpoints that never answered, but not the one in use.
    fn drop_hopeless(&mut self, now: Instant) {
        let current = self.current;
        self.directs.retain(|(endpoint, leg)| {
            let waited = leg.last_probe.is_some_and(|last| now >= last + RETRY);
            let hopeless = leg.last_answer.is_none() && leg.misses > FIRST_TRIES && waited;
            current == Some(Route::Direct(*endpoint)) || !hopeless
        });
    }

    /// The leg at `endpoint`, made in the place of the least promising one when there is no room.
    fn direct_leg(&mut self, now: Instant, endpoint: SocketAddr) -> Option<&mut Leg> {
        if !self.directs.iter().any(|(known, _)| *known == endpoint) {
            if self.directs.len() >= MAX_DIRECTS {
                let current = self.current;
                let spare = (0..self.directs.len()).filter(|&at| current != Some(Route::Direct(self.directs[at].0)));
                let worst = spare.min_by_key(|&at| (self.directs[at].1.last_answer, self.directs[at].1.since))?;
                self.directs.remove(worst);
            }
            self.directs.push((endpoint, Leg::new(now)));
        }
        self.leg_mut(Route::Direct(endpoint))
    }

    /// The usable endpoint with the shortest round trip.
    fn best_direct(&self) -> Option<SocketAddr> {
        let usable = self.directs.iter().filter(|(_, leg)| leg.is_usable());
        usable.min_by_key(|(_, leg)| leg.rtt).map(|(endpoint, _)| *endpoint)
    }

    fn routes(&self) -> impl Iterator<Item = Route> {
        let directs = self.directs.iter().map(|(endpoint, _)| Route::Direct(*endpoint));
        self.relay.iter().map(|_| Route::Relay).chain(directs)
    }

    fn leg(&self, route: Route) -> Option<&Leg> {
        match route {
            Route::Relay => self.relay.as_ref(),
            Route::Direct(endpoint) => self.directs.iter().find(|(known, _)| *known == endpoint).map(|(_, leg)| leg),
        }
    }

    fn leg_mut(&mut self, route: Route) -> Option<&mut Leg> {
        match route {
            Route::Relay => self.relay.as_mut(),
            Route::Direct(endpoint) => {
                self.directs.iter_mut().find(|(known, _)| *known == endpoint).map(|(_, leg)| leg)
            }
        }
    }
}

impl Leg {
    const fn new(now: Instant) -> Self {
        Self {
            since: now,
            rtt: None,
            answers: 0,
            last_answer: None,
            last_probe: None,
            misses: 0,
            doubted: None,
            pending: VecDeque::new(),
        }
    }

    /// A punch already had its three answers.
    fn prove(&mut self, now: Instant, rtt: Duration) {
        self.prove_once(now, rtt);
        self.last_probe = Some(now);
        self.answers = self.answers.max(PROVEN);
    }

    fn prove_once(&mut self, now: Instant, rtt: Duration) {
        // A first estimate, then a moving average over eight.
        self.rtt = Some(self.rtt.map_or(rtt, |smoothed| (smoothed * 7 + rtt) / 8));
        self.answers = self.answers.saturating_add(1);
        self.last_answer = Some(now);
        self.misses = 0;
        self.doubted = None;
    }

    /// Whether an answer is missing for longer than the route ever took.
    fn is_overdue(&self, now: Instant) -> bool {
        let patience = 4 * self.rtt.unwrap_or(RETRY).max(MIN_PATIENCE);
        self.doubted.is_some_and(|at| now.saturating_duration_since(at) > patience)
    }

    const fn is_usable(&self) -> bool {
        self.answers >= PROVEN && self.misses < 3
    }
}

/// Answers that prove a direct path.
const PROVEN: u32 = 3;
/// A direct path may be this much slower than the relay: it costs the service nothing.
const WORTH: Duration = Duration::from_millis(10);
const HYSTERESIS: Duration = Duration::from_secs(5);
const COMPARE: Duration = Duration::from_secs(60);
const RELAY_KEPT: Duration = Duration::from_secs(30);
/// Data flows when some was sent this recently.
const ACTIVE: Duration = Duration::from_secs(10);
/// While data flows: with [`DOUBT`] it makes the 6.5 s that a direct path is trusted after its last answer.
const ACTIVE_PROBE: Duration = Duration::from_secs(2);
const ACTIVE_PROBE_RELAY: Duration = Duration::from_secs(5);
/// From the first unanswered probe until data goes over both routes.
const DOUBT: Duration = Duration::from_millis(4_500);
/// From the first unanswered probe until a relay is fetched, so that it is there when it is needed.
const EARLY_DOUBT: Duration = Duration::from_millis(1_500);
const BOTH: Duration = Duration::from_secs(3);
const BOTH_PROBE: Duration = Duration::from_millis(500);
const RETRY: Duration = Duration::from_millis(1_500);
const WATCHED: Duration = Duration::from_secs(5);
const RARELY: Duration = Duration::from_secs(60);
const KEEPALIVE: Duration = Duration::from_secs(25);
const KEEPALIVE_SPREAD: Duration = Duration::from_secs(3);
/// Of an endpoint that has not proved itself yet.
const FIRST_RETRY: Duration = Duration::from_millis(200);
const FIRST_TRIES: u32 = 6;
const MIN_PATIENCE: Duration = Duration::from_millis(50);
const ASK_AGAIN: Duration = Duration::from_secs(5);
const MAX_DIRECTS: usize = 4;
const MAX_PENDING: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::origin;

    const RTT: Duration = Duration::from_millis(40);

    #[test]
    fn data_starts_on_the_relay_and_moves_to_the_direct_path() {
        let mut lab = Lab::new();
        assert_eq!(lab.path.sends(), Sends::default());
        lab.path.handle_relay_up(lab.now);
        assert_eq!(lab.sends(), (Some(Route::Relay), None));
        lab.run(Duration::from_secs(1));
        lab.path.handle_direct(lab.now, endpoint(1), Duration::from_millis(20));
        assert_eq!(lab.sends(), (Some(Route::Direct(endpoint(1))), None));
        assert_eq!(lab.events(), [Event::Switched(Some(Route::Relay)), Event::Switched(Some(direct(1)))]);
    }

    #[test]
    fn a_slower_direct_path_is_kept_warm_and_compared_a_minute_later() {
        let mut lab = Lab::new();
        lab.path.handle_relay_up(lab.now);
        lab.run(Duration::from_secs(1));
        lab.set_rtt(direct(1), Duration::from_millis(200));
        lab.path.handle_direct(lab.now, endpoint(1), Duration::from_millis(200));
        lab.run(Duration::from_secs(55));
        assert_eq!(lab.path.current(), Some(Route::Relay));
        assert!(lab.probed(direct(1)) >= 1, "warm");
        lab.set_rtt(direct(1), Duration::ZERO);
        for _ in 0..8 {
            lab.run(Duration::from_secs(60));
        }
        assert_eq!(lab.path.current(), Some(direct(1)));
    }

    #[test]
    fn the_relay_is_left_half_a_minute_after_the_switch() {
        let mut lab = Lab::direct_after_relay();
        lab.run(Duration::from_secs(29));
        assert!(!lab.events().contains(&Event::RelayUnneeded));
        lab.run(Duration::from_secs(2));
        assert!(lab.events().contains(&Event::RelayUnneeded));
        assert!(lab.probed(Route::Relay) <= 20, "{}", lab.probed(Route::Relay));
    }

    #[test]
    fn a_relay_that_comes_while_the_direct_path_is_well_is_left_again() {
        let mut lab = Lab::direct_after_relay();
        lab.run(Duration::from_secs(40));
        lab.events();
        lab.path.handle_relay_up(lab.now);
        lab.run(Duration::from_secs(31));
        assert!(lab.events().contains(&Event::RelayUnneeded));
    }

    #[test]
    fn a_direct_path_that_dies_under_traffic_is_doubled_and_then_left() {
        let mut lab = Lab::direct_after_relay();
        lab.run_with_traffic(Duration::from_secs(5));
        lab.events();
        lab.kill(direct(1));
        let died = lab.now;
        while lab.path.sends().also.is_none() {
            lab.run_with_traffic(Duration::from_millis(100));
        }
        assert!(lab.now - died <= Duration::from_millis(6_700), "{:?}", lab.now - died);
        assert!(lab.events().contains(&Event::PunchWanted));
        let doubled = lab.now;
        while lab.path.current() != Some(Route::Relay) {
            lab.run_with_traffic(Duration::from_millis(100));
        }
        assert!((Duration::from_millis(2_900)..=Duration::from_millis(3_200)).contains(&(lab.now - doubled)));
    }

    #[test]
    fn a_direct_path_that_answers_again_in_time_stays() {
        let mut lab = Lab::direct_after_relay();
        lab.run_with_traffic(Duration::from_secs(5));
        lab.kill(direct(1));
        while lab.path.sends().also.is_none() {
            lab.run_with_traffic(Duration::from_millis(100));
        }
        lab.revive(direct(1));
        lab.run_with_traffic(Duration::from_secs(5));
        assert_eq!(lab.sends(), (Some(direct(1)), None));
    }

    #[test]
    fn a_relay_that_was_left_is_fetched_before_it_is_needed() {
        let mut lab = Lab::direct_after_relay();
        lab.run_with_traffic(Duration::from_secs(40));
        lab.events();
        lab.kill(direct(1));
        let died = lab.now;
        while !lab.events().contains(&Event::RelayWanted) {
            lab.run_with_traffic(Duration::from_millis(100));
        }
        assert!(lab.now - died < Duration::from_secs(4));
        lab.path.handle_relay_up(lab.now);
        while lab.path.current() != Some(Route::Relay) {
            lab.run_with_traffic(Duration::from_millis(100));
        }
        assert!(lab.now - died < Duration::from_secs(10));
    }

    #[test]
    fn a_relay_that_is_dead_too_is_left_at_once() {
        let mut lab = Lab::direct_after_relay();
        lab.run_with_traffic(Duration::from_secs(5));
        lab.kill(direct(1));
        lab.kill(Route::Relay);
        while lab.path.current() != Some(Route::Relay) {
            lab.run_with_traffic(Duration::from_millis(100));
        }
        let left = lab.now;
        lab.run_with_traffic(Duration::from_millis(2_500));
        lab.revive(direct(1));
        lab.path.handle_direct(lab.now, endpoint(1), Duration::from_millis(1));
        while lab.path.current() != Some(direct(1)) {
            lab.run_with_traffic(Duration::from_millis(100));
        }
        let back = lab.now - left;
        assert!(back < HYSTERESIS, "{back:?}");
    }

    #[test]
    fn two_switches_are_at_least_five_seconds_apart() {
        let mut lab = Lab::direct_after_relay();
        lab.run_with_traffic(Duration::from_secs(5));
        lab.kill(direct(1));
        while lab.path.current() != Some(Route::Relay) {
            lab.run_with_traffic(Duration::from_millis(100));
        }
        let left = lab.now;
        lab.revive(direct(1));
        lab.path.handle_direct(lab.now, endpoint(1), Duration::from_millis(1));
        assert_eq!(lab.path.current(), Some(Route::Relay));
        while lab.path.current() != Some(direct(1)) {
            lab.run_with_traffic(Duration::from_millis(100));
        }
        let back = lab.now - left;
        assert!((HYSTERESIS..HYSTERESIS + Duration::from_millis(300)).contains(&back), "{back:?}");
    }

    #[test]
    fn an_idle_path_costs_one_probe_in_25_seconds() {
        let mut lab = Lab::direct_after_relay();
        lab.run(Duration::from_secs(40));
        let before = lab.probed(direct(1));
        lab.run(Duration::from_secs(250));
        assert!((9..=12).contains(&(lab.probed(direct(1)) - before)), "{}", lab.probed(direct(1)) - before);
    }

    #[test]
    fn a_dead_peer_is_found_within_fifteen_seconds_of_watching() {
        let mut lab = Lab::direct_after_relay();
        lab.run(Duration::from_secs(40));
        lab.events();
        lab.kill(direct(1));
        lab.kill(Route::Relay);
        let lost = lab.now;
        lab.path.handle_watch(lab.now);
        while !lab.path.is_silent() {
            lab.run(Duration::from_millis(100));
        }
        assert!(lab.now - lost <= Duration::from_secs(15));
        assert_eq!(lab.path.current(), Some(direct(1)), "the tunnel stays");
        lab.revive(direct(1));
        lab.run(Duration::from_secs(10));
        assert!(lab.events().contains(&Event::Alive));
    }

    #[test]
    fn a_watched_peer_that_lives_stays_where_it_is() {
        let mut lab = Lab::direct_after_relay();
        lab.run(Duration::from_secs(40));
        lab.events();
        lab.path.handle_watch(lab.now);
        lab.run(Duration::from_secs(600));
        assert_eq!(lab.path.current(), Some(direct(1)));
        assert_eq!(lab.events(), []);
    }

    #[test]
    fn a_stored_endpoint_is_probed_and_used_when_it_answers() {
        let mut lab = Lab::new();
        lab.path.handle_hint(lab.now, endpoint(1));
        assert_eq!(lab.path.current(), None);
        lab.run(Duration::from_secs(1));
        assert_eq!(lab.path.current(), Some(direct(1)));
    }

    #[test]
    fn a_hint_that_never_answers_is_forgotten() {
        let mut lab = Lab::new();
        lab.kill(direct(1));
        lab.path.handle_hint(lab.now, endpoint(1));
        lab.run(Duration::from_secs(30));
        assert_eq!(lab.path.poll_timeout(lab.now), None);
        assert!(lab.probed(direct(1)) <= 7);
    }

    #[test]
    fn a_peer_that_roams_is_followed() {
        let mut lab = Lab::direct_after_relay();
        lab.run_with_traffic(Duration::from_secs(5));
        lab.kill(direct(1));
        lab.path.handle_received(lab.now, direct(2));
        let roamed = lab.now;
        while lab.path.current() != Some(direct(2)) {
            lab.run_with_traffic(Duration::from_millis(50));
        }
        assert!(lab.now - roamed < Duration::from_secs(6), "{:?}", lab.now - roamed);
    }

    #[test]
    fn endpoints_named_by_a_peer_are_bounded() {
        let mut lab = Lab::direct_after_relay();
        for number in 0..1_000 {
            lab.path.handle_received(lab.now, direct(10 + number));
            lab.path.handle_hint(lab.now, endpoint(2_000 + number));
        }
        assert!(lab.path.directs.len() <= MAX_DIRECTS);
        assert_eq!(lab.path.current(), Some(direct(1)));
        assert!(std::iter::from_fn(|| lab.path.poll_probe()).count() <= MAX_PENDING * (MAX_DIRECTS + 1));
    }

    /// A peer that answers on every route that lives.
    struct Lab {
        path: Path,
        now: Instant,
        dead: Vec<Route>,
        rtts: Vec<(Route, Duration)>,
        answers: VecDeque<(Instant, Probe)>,
        probed: Vec<Route>,
    }

    impl Lab {
        fn new() -> Self {
            Self {
                path: Path::new([3; 32]),
                now: origin(),
                dead: vec![],
                rtts: vec![],
                answers: VecDeque::new(),
                probed: vec![],
            }
        }

        fn direct_after_relay() -> Self {
            let mut lab = Self::new();
            lab.path.handle_relay_up(lab.now);
            lab.run(Duration::from_secs(1));
            lab.path.handle_direct(lab.now, endpoint(1), RTT);
            assert_eq!(lab.path.current(), Some(direct(1)));
            lab
        }

        fn sends(&self) -> (Option<Route>, Option<Route>) {
            (self.path.sends().first, self.path.sends().also)
        }

        fn run(&mut self, duration: Duration) {
            let end = self.now + duration;
            loop {
                while let Some(probe) = self.path.poll_probe() {
                    self.probed.push(probe.route);
                    if !self.dead.contains(&probe.route) {
                        let rtt = self.rtts.iter().rev().find(|(route, _)| *route == probe.route).map_or(RTT, |r| r.1);
                        self.answers.push_back((self.now + rtt, probe));
                    }
                }
                self.answers.make_contiguous().sort_by_key(|(at, _)| *at);
                let answer = self.answers.front().map(|(at, _)| *at);
                let due = self.path.poll_timeout(self.now);
                let Some(next) = [answer, due].into_iter().flatten().min().filter(|&next| next <= end) else { break };
                assert!(next >= self.now - Duration::from_secs(10));
                self.now = self.now.max(next);
                if answer == Some(next) {
                    let (_, probe) = self.answers.pop_front().unwrap();
                    self.path.handle_answer(self.now, probe.route, probe.nonce);
                } else {
                    self.path.handle_timeout(self.now);
                    assert!(self.path.poll_timeout(self.now).is_none_or(|due| due > self.now), "a busy loop");
                }
            }
            self.now = end;
        }

        fn run_with_traffic(&mut self, duration: Duration) {
            let end = self.now + duration;
            while self.now < end {
                self.path.handle_sent(self.now);
                self.run(Duration::from_millis(50).min(end - self.now));
            }
        }

        fn kill(&mut self, route: Route) {
            self.dead.push(route);
        }

        fn revive(&mut self, route: Route) {
            self.dead.retain(|dead| *dead != route);
        }

        fn set_rtt(&mut self, route: Route, rtt: Duration) {
            self.rtts.push((route, rtt));
        }

        fn probed(&self, route: Route) -> usize {
            self.probed.iter().filter(|probed| **probed == route).count()
        }

        fn events(&mut self) -> Vec<Event> {
            std::iter::from_fn(|| self.path.poll_event()).collect()
        }
    }

    fn endpoint(number: u16) -> SocketAddr {
        SocketAddr::from(([198, 51, 100, 7], 1_000 + number))
    }

    fn direct(number: u16) -> Route {
        Route::Direct(endpoint(number))
    }
}
