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
//! - a direct path that is worse than the relay is kept warm: it is asked again after 1, 2, 4 s, then as often as NATs need,
//!   and every answer compares, because one that came late says little of the path; a second direct path is kept for 60 s;
//! - of several direct paths those over the LAN and over IPv6 may be 10 ms slower than IPv4;
//! - when the direct path is faster than the relay, the first packets are kept back by the difference: they would overtake
//!   the last ones, which TCP takes for loss;
//! - 25 s (give or take 3 s) after the last packet in either direction a probe keeps the NATs open. It is answered,
//!   because a flow with packets in both directions is remembered four times longer. The time is 80 % of the NAT's
//!   patience, at most 110 s, where that was measured;
//! - when the server is gone or lost the peer, the path is probed every 5 s: [`Event::Silent`] tells a dead peer.
//!
//! Nothing here ends a tunnel. A peer that is silent on every route is still probed, ever more rarely.

mod choice;
mod leg;
mod pace;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use leg::Leg;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use choice::DOUBT;
use pace::{ACTIVE_PROBE, KEEPALIVE, KEEPALIVE_SPREAD};

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
    /// The relay is probed until then, although it is left.
    relay_probed: Option<Instant>,
    compare_at: Option<Instant>,
    last_sent: Option<Instant>,
    last_heard: Option<Instant>,
    /// Packets that are sent before then would overtake those on the route that was left.
    hold_until: Option<Instant>,
    /// Keepalives of a thousand paths must not leave together.
    keepalive: Duration,
    lifetime: Option<Duration>,
    watched: bool,
    silent: bool,
    relay_asked: Option<Instant>,
    probes: VecDeque<Probe>,
    events: VecDeque<Event>,
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
            relay_probed: None,
            compare_at: None,
            last_sent: None,
            last_heard: None,
            hold_until: None,
            keepalive,
            lifetime: None,
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
        let works = |route| self.leg(route).is_some_and(|leg| leg.proven);
        if self.current.is_none_or(|route| !works(route)) {
            self.switch(now, Some(Route::Relay));
        }
        self.handle_timeout(now);
    }

    /// The relay refused, died or was left.
    pub fn handle_relay_down(&mut self, now: Instant) {
        self.relay = None;
        self.relay_unneeded = None;
        if self.current == Some(Route::Relay) {
            let direct = self.best_direct(now).map(Route::Direct);
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

    /// The way to `endpoint` is gone for good: it was a connection, and that ended.
    pub fn handle_closed(&mut self, now: Instant, endpoint: SocketAddr) {
        self.directs.retain(|(known, _)| *known != endpoint);
        if self.current == Some(Route::Direct(endpoint)) {
            let other = self.best_direct(now).map(Route::Direct);
            self.switch(now, other.or(self.relay.as_ref().map(|_| Route::Relay)));
            self.relay_unneeded = None;
            if self.relay.is_none() {
                self.relay_asked = None;
                self.want_relay(now);
            }
            self.events.push_back(Event::PunchWanted);
        }
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
        if let Some(leg) = self.leg_mut(route) {
            leg.last_use = now;
        }
        if route == Route::Relay && self.relay_unneeded.is_some() {
            // The peer is not as fast, or finds the direct path worse.
            self.relay_unneeded = Some(now + RELAY_KEPT);
        }
        if let Some(current @ Route::Direct(_)) = self.current.filter(|_| route == Route::Relay)
            && self.leg(current).is_some_and(|leg| leg.misses == 0 && now >= leg.last_use + QUIET)
        {
            // The peer is on the relay while nothing comes directly: it may have moved.
            self.handle_moved(now, route);
        }
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

    /// The peer says, not over the path in use, that its network changed: until that path answers, data goes over the
    /// relay as well.
    pub fn handle_moved(&mut self, now: Instant, came: Route) {
        if let Some(current @ Route::Direct(_)) = self.current.filter(|&current| current != came) {
            self.probe(now, current);
            self.send_both(now);
        }
        self.handle_timeout(now);
    }

    /// The own network changed: what was known of direct paths is gone. They are tried from here, while others are
    /// looked for.
    pub fn handle_network_change(&mut self, now: Instant) {
        for leg in self.relay.iter_mut().chain(self.directs.iter_mut().map(|(_, leg)| leg)) {
            *leg = Leg::new(now);
        }
        if matches!(self.current, Some(Route::Direct(_))) {
            self.relay_asked = None;
            self.fall_back(now);
            // That was no flap: the next direct path is taken at once.
            self.switched = None;
            if self.relay.is_none() {
                self.want_relay(now);
            }
            self.events.push_back(Event::PunchWanted);
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
        let doubts = legs.filter_map(|leg| leg.doubted.map(|at| [at + leg.patience(), at + DOUBT])).flatten();
        let doubts = doubts.filter(|&due| due > now);
        let others = [self.both_until, self.relay_unneeded, self.compare_at, self.next_useless()];
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

    /// Until when packets are better kept back, in order: those on the faster route would overtake the last ones on the
    /// slower, and TCP takes that for loss.
    #[must_use]
    pub fn holds(&self, now: Instant) -> Option<Instant> {
        self.hold_until.filter(|&until| now < until)
    }

    /// Whether `endpoint` is one of the direct routes.
    #[must_use]
    pub fn knows(&self, endpoint: SocketAddr) -> bool {
        self.leg(Route::Direct(endpoint)).is_some()
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

const RELAY_KEPT: Duration = Duration::from_secs(30);
/// Longer than two probes of a path with data are apart.
const QUIET: Duration = Duration::from_millis(2_500);
const RETRY: Duration = Duration::from_millis(1_500);
const MAX_DIRECTS: usize = 4;
const MAX_PENDING: usize = 8;
