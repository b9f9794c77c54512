//! The port mapping of the main socket: when to ask the router, when to renew, and what the mapping is worth.
//!
//! Two hours are asked for and renewed at half (RFC 6887, section 11.2.1), and whenever the NATs are measured anew: a router
//! that restarted has forgotten the mapping, and usually ended the control session as well. A router that grants nothing is asked again after
//! two minutes, then ever more rarely. A mapping whose outer address is private, or not the one that reflectors see, ends at a
//! second NAT: it is kept, because it does no harm, but nobody is told of it.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use domain::{Scope, scope};
use ring::digest::{Context, SHA256};

use crate::portmap::{Granted, Wish};

/// The mapping, or the wish for one.
#[derive(Debug)]
pub(super) struct Mapping {
    /// Whether the user wants one at all.
    wanted: bool,
    nonce: [u8; 12],
    router: Option<Ipv4Addr>,
    port: u16,
    held: Option<Held>,
    asking: bool,
    /// When the router was asked last.
    asked: Option<Instant>,
    due: Option<Instant>,
    failures: u32,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    granted: Granted,
    until: Instant,
}

impl Mapping {
    pub(super) const fn new(wanted: bool, nonce: [u8; 12]) -> Self {
        Self { wanted, nonce, router: None, port: 0, held: None, asking: false, asked: None, due: None, failures: 0 }
    }

    /// The router, or the port of the main socket, is another one: what was granted is of no use.
    pub(super) fn handle_network(&mut self, now: Instant, router: Option<Ipv4Addr>, port: u16) {
        if (self.router, self.port) != (router, port) {
            self.held = None;
        }
        (self.router, self.port) = (router, port);
        self.failures = 0;
        self.due = (self.wanted && router.is_some()).then_some(now);
    }

    /// A reason to look whether the router still knows: it may have restarted, and says so to nobody.
    pub(super) fn renew(&mut self, now: Instant) {
        let soonest = self.asked.map_or(now, |asked| now.max(asked + PAUSE));
        self.due = self.due.map(|due| due.min(soonest));
    }

    /// What came of `wish`. Returns whether the mapping changed.
    pub(super) fn handle_answer(&mut self, now: Instant, wish: &Wish, granted: Option<Granted>) -> bool {
        self.asking = false;
        if (Some(wish.router), wish.port) != (self.router, self.port) {
            // Of a network that was left meanwhile.
            return false;
        }
        let before = self.external();
        match granted {
            Some(granted) => {
                self.failures = 0;
                self.held = Some(Held { granted, until: now + granted.lifetime });
                self.due = Some(now + (granted.lifetime / 2).max(SOONEST));
            }
            None => {
                let delay = (FIRST_DELAY * 2_u32.saturating_pow(self.failures.min(10))).min(LONGEST_DELAY);
                self.failures += 1;
                self.due = Some(now + delay);
            }
        }
        self.external() != before
    }

    /// Forgets a mapping that ran out. Returns whether there was one.
    pub(super) fn handle_deadline(&mut self, now: Instant) -> bool {
        self.held.take_if(|held| held.until <= now).is_some()
    }

    /// What to ask the router now.
    pub(super) fn poll_wish(&mut self, now: Instant) -> Option<Wish> {
        if self.asking || self.due.is_none_or(|due| due > now) {
            return None;
        }
        self.due = None;
        self.asking = true;
        self.asked = Some(now);
        self.wish()
    }

    pub(super) fn poll_deadline(&self) -> Option<Instant> {
        let due = self.due.filter(|_| !self.asking);
        due.into_iter().chain(self.held.map(|held| held.until)).min()
    }

    /// What is to be given back at the end.
    pub(super) fn leftover(&self) -> Option<Wish> {
        self.wish().filter(|wish| wish.earlier.is_some())
    }

    /// The outer end, if it counts: `seen` is where reflectors see this client.
    pub(super) fn counts(&self, seen: Option<IpAddr>) -> Option<SocketAddr> {
        self.external().filter(|external| scope(external.ip()) == Scope::Public && seen == Some(external.ip()))
    }

    /// The mapping as it was granted.
    pub(super) fn granted(&self) -> Option<Granted> {
        self.held.map(|held| held.granted)
    }

    fn external(&self) -> Option<SocketAddr> {
        self.held.map(|held| held.granted.external.into())
    }

    fn wish(&self) -> Option<Wish> {
        Some(Wish { router: self.router?, port: self.port, nonce: self.nonce, earlier: self.granted() })
    }
}

/// What names the mapping to the router: the same in every run, so that one that was killed can be succeeded, and known to
/// nobody else.
pub(super) fn nonce(private: &[u8; 32]) -> [u8; 12] {
    let mut hash = Context::new(&SHA256);
    hash.update(LABEL);
    hash.update(private);
    let mut nonce = [0; 12];
    nonce.copy_from_slice(&hash.finish().as_ref()[..12]);
    nonce
}

const LABEL: &[u8] = b"buri port mapping v1";
/// Between two questions, whatever happens.
const PAUSE: Duration = Duration::from_secs(10);
const FIRST_DELAY: Duration = Duration::from_secs(120);
const LONGEST_DELAY: Duration = Duration::from_secs(60 * 60);
/// A router that grants seconds is not asked every second.
const SOONEST: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::portmap::Protocol;

    #[test]
    fn a_mapping_is_asked_for_at_once_and_renewed_at_half() {
        let (mut mapping, now) = begun();
        let wish = mapping.poll_wish(now).unwrap();
        assert_eq!((wish.router, wish.port, wish.earlier), (ROUTER, 4_000, None));
        assert_eq!((mapping.poll_wish(now), mapping.poll_deadline()), (None, None), "one question at a time");
        assert!(mapping.handle_answer(now, &wish, Some(granted("203.0.113.9:4000", 7_200))));
        assert_eq!(mapping.poll_deadline(), Some(now + Duration::from_secs(3_600)));
        let renewal = mapping.poll_wish(now + Duration::from_secs(3_600)).unwrap();
        assert_eq!(renewal.earlier.map(|earlier| earlier.external.port()), Some(4_000));
    }

    #[test]
    fn a_router_that_may_have_restarted_is_asked_again_but_not_all_the_time() {
        let (mut mapping, now) = begun();
        let wish = mapping.poll_wish(now).unwrap();
        mapping.renew(now);
        assert_eq!(mapping.poll_wish(now), None, "one question at a time");
        mapping.handle_answer(now, &wish, Some(granted("203.0.113.9:4000", 7_200)));
        for seconds in [1, 2, 5] {
            let now = now + Duration::from_secs(seconds);
            mapping.renew(now);
            assert_eq!(mapping.poll_wish(now), None, "asked just now");
        }
        assert_eq!(mapping.poll_deadline(), Some(now + PAUSE));
        let again = mapping.poll_wish(now + PAUSE).unwrap();
        assert_eq!(again.earlier.map(|earlier| earlier.external.port()), Some(4_000), "the same port");
        assert!(!mapping.handle_answer(now + PAUSE, &again, None));
        assert!(mapping.granted().is_some(), "a router that is silent may still know");
        mapping.renew(now + 2 * PAUSE);
        assert!(mapping.poll_wish(now + 2 * PAUSE).is_some());
    }

    #[test]
    fn a_router_that_grants_nothing_is_asked_ever_more_rarely() {
        let (mut mapping, mut now) = begun();
        let mut delays = Vec::new();
        for _ in 0..8 {
            let wish = mapping.poll_wish(now).unwrap();
            mapping.handle_answer(now, &wish, None);
            let due = mapping.poll_deadline().unwrap();
            delays.push((due - now).as_secs());
            now = due;
        }
        assert_eq!(delays, [120, 240, 480, 960, 1_920, 3_600, 3_600, 3_600]);
    }

    #[test]
    fn a_mapping_that_is_not_renewed_ends() {
        let (mut mapping, now) = begun();
        let wish = mapping.poll_wish(now).unwrap();
        mapping.handle_answer(now, &wish, Some(granted("203.0.113.9:4000", 600)));
        assert!(!mapping.handle_deadline(now + Duration::from_secs(599)));
        assert!(mapping.handle_deadline(now + Duration::from_secs(600)));
        assert_eq!((mapping.granted(), mapping.leftover()), (None, None));
    }

    #[test]
    fn a_mapping_that_ends_at_a_second_nat_does_not_count() {
        for (external, seen, counts) in [
            ("203.0.113.9:4000", Some("203.0.113.9"), true),
            ("203.0.113.9:4000", Some("198.51.100.1"), false),
            ("203.0.113.9:4000", None, false),
            ("10.0.0.9:4000", Some("10.0.0.9"), false),
            ("100.64.3.9:4000", Some("203.0.113.9"), false),
        ] {
            let (mut mapping, now) = begun();
            let wish = mapping.poll_wish(now).unwrap();
            mapping.handle_answer(now, &wish, Some(granted(external, 7_200)));
            let seen = seen.map(|seen| seen.parse().unwrap());
            assert_eq!(mapping.counts(seen).is_some(), counts, "{external} {seen:?}");
            assert!(mapping.granted().is_some(), "kept");
        }
    }

    #[test]
    fn an_answer_of_the_network_that_was_left_is_ignored_and_the_new_router_is_asked() {
        let (mut mapping, now) = begun();
        let wish = mapping.poll_wish(now).unwrap();
        let other = Ipv4Addr::new(10, 0, 0, 1);
        mapping.handle_network(now, Some(other), 4_000);
        assert_eq!(mapping.poll_wish(now), None, "one question at a time");
        assert!(!mapping.handle_answer(now, &wish, Some(granted("203.0.113.9:4000", 7_200))));
        assert_eq!(mapping.poll_wish(now).map(|wish| wish.router), Some(other));
    }

    #[test]
    fn nothing_is_asked_without_a_router_or_against_the_users_will() {
        let now = Instant::now();
        let mut unwanted = Mapping::new(false, [7; 12]);
        unwanted.handle_network(now, Some(ROUTER), 4_000);
        let mut alone = Mapping::new(true, [7; 12]);
        alone.handle_network(now, None, 4_000);
        assert_eq!([unwanted.poll_wish(now), alone.poll_wish(now)], [None; 2]);
    }

    fn begun() -> (Mapping, Instant) {
        let now = Instant::now();
        let mut mapping = Mapping::new(true, [7; 12]);
        mapping.handle_network(now, Some(ROUTER), 4_000);
        (mapping, now)
    }

    fn granted(external: &str, seconds: u64) -> Granted {
        let external = external.parse().unwrap();
        Granted { external, lifetime: Duration::from_secs(seconds), by: Protocol::Pcp }
    }

    const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
}
