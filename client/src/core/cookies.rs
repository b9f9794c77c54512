//! What proves this client's address to relays, fetched before there is a pair to join for: a leg that has a cookie is not
//! challenged, and joins in one way to the relay.
//!
//! While there is a control session, the relays that a pair may be put on are asked every 35 to 45 s, all at once: the nearest
//! [`MOST_NAMED`] of those that the server named, and the [`MOST_USED`] that were used last. A question has 20 bytes, as has its
//! answer, and one that stays unanswered is repeated twice. So a cookie is younger than the minute that a relay takes it for, or
//! there is none: that costs a round trip, as it does where a NAT has moved the client meanwhile. In another network all are
//! asked at once.
//!
//! Rejected: cookies that last for longer (what was seen of a join could be repeated from its address for as long), asking when
//! a peer comes up (too late by the round trip that this is to save), asking all relays of a region.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use wire::relay::{Cookie, Message};

/// The cookies of all relays: good for every leg, as long as this client's address stays.
#[derive(Debug)]
pub(crate) struct Cookies {
    random: StdRng,
    kept: VecDeque<(SocketAddr, Instant, Cookie)>,
    named: Vec<SocketAddr>,
    used: VecDeque<SocketAddr>,
    /// When relays are asked next; `None` without a control session.
    due: Option<Instant>,
    tries: u32,
    /// Who has not answered yet.
    asked: Vec<SocketAddr>,
    transmits: VecDeque<SocketAddr>,
}

impl Cookies {
    /// No cookie yet; `seed` spreads the questions.
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Self {
            random: StdRng::from_seed(seed),
            kept: VecDeque::new(),
            named: Vec::new(),
            used: VecDeque::new(),
            due: None,
            tries: 0,
            asked: Vec::new(),
            transmits: VecDeque::new(),
        }
    }

    /// A control session began: peers may come up from now on.
    pub(crate) fn handle_session(&mut self, now: Instant) {
        self.begin(now);
    }

    /// Without a control session no pair is put on a relay.
    pub(crate) fn handle_session_lost(&mut self) {
        self.due = None;
        self.transmits.clear();
    }

    /// The server names these, the best first.
    pub(crate) fn handle_named(&mut self, now: Instant, relays: impl Iterator<Item = SocketAddr>) {
        let before = std::mem::replace(&mut self.named, relays.take(MOST_NAMED).collect());
        if self.due.is_some() && self.named.iter().any(|relay| !before.contains(relay)) {
            self.begin(now);
        }
    }

    /// A leg uses this relay.
    pub(crate) fn handle_use(&mut self, relay: SocketAddr) {
        self.used.retain(|used| *used != relay);
        self.used.push_front(relay);
        self.used.truncate(MOST_USED);
    }

    /// This client has another address.
    pub(crate) fn handle_network_change(&mut self, now: Instant) {
        self.kept.clear();
        if self.due.is_some() {
            self.begin(now);
        }
    }

    /// Keeps the cookie of `relay` in the place of an older one.
    pub(crate) fn keep(&mut self, now: Instant, relay: SocketAddr, cookie: Cookie) {
        self.kept.retain(|(known, ..)| *known != relay);
        self.kept.truncate(MOST_KEPT - 1);
        self.kept.push_front((relay, now, cookie));
        let waited = !self.asked.is_empty();
        self.asked.retain(|asked| *asked != relay);
        if waited && self.asked.is_empty() && self.due.is_some() {
            self.rest(now);
        }
    }

    /// Whether this relay was asked and has not answered yet.
    pub(crate) fn awaits(&self, relay: SocketAddr) -> bool {
        self.asked.contains(&relay)
    }

    /// The cookie of `relay`, if there is one that it still takes.
    pub(crate) fn of(&self, now: Instant, relay: SocketAddr) -> Option<Cookie> {
        self.kept.iter().find(|(known, at, _)| *known == relay && age(now, *at) < LIFETIME).map(|(.., cookie)| *cookie)
    }

    pub(crate) fn handle_deadline(&mut self, now: Instant) {
        if self.due.is_none_or(|due| due > now) {
            return;
        }
        let young =
            |relay: &SocketAddr| self.kept.iter().any(|(known, at, _)| known == relay && age(now, *at) < LIFETIME / 2);
        let mut missing: Vec<SocketAddr> = Vec::new();
        for relay in self.used.iter().chain(&self.named).filter(|relay| !young(relay)) {
            if !missing.contains(relay) {
                missing.push(*relay);
            }
        }
        self.asked.clone_from(&missing);
        if missing.is_empty() || self.tries == TRIES {
            self.rest(now);
        } else {
            self.due = Some(now + RETRY * (1 << self.tries));
            self.tries += 1;
            self.transmits.extend(missing);
        }
    }

    pub(crate) const fn poll_deadline(&self) -> Option<Instant> {
        self.due
    }

    pub(crate) fn poll_transmit(&mut self) -> Option<(SocketAddr, BytesMut)> {
        self.transmits.pop_front().map(|relay| (relay, BytesMut::from(&Message::Ask.to_vec()[..])))
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.kept.len()
    }

    fn begin(&mut self, now: Instant) {
        self.due = Some(now);
        self.tries = 0;
        self.transmits.clear();
    }

    /// Until the next round.
    fn rest(&mut self, now: Instant) {
        self.tries = 0;
        self.due = Some(now + self.random.random_range(PERIOD));
    }
}

fn age(now: Instant, at: Instant) -> Duration {
    now.saturating_duration_since(at)
}

/// Relays at a time, asked or not: those of offers that came meanwhile are among them.
const MOST_KEPT: usize = 16;
/// One of them, most likely, has the smallest sum of both legs.
const MOST_NAMED: usize = 3;
/// The relay of the last pair, and the one that it came from.
const MOST_USED: usize = 2;
/// A relay takes a cookie in the minute that it was made in and in the next one.
const LIFETIME: Duration = Duration::from_secs(60);
/// Between two rounds: with all repetitions of a question a cookie does not grow old.
const PERIOD: std::ops::Range<Duration> = Duration::from_secs(35)..Duration::from_secs(45);
/// Until a question is repeated, at first.
const RETRY: Duration = Duration::from_secs(1);
const TRIES: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_always_a_young_cookie_even_when_two_of_three_questions_are_lost() {
        let mut lab = Lab::new(&[1]);
        let mut asked = 0;
        let mut sight = |lab: &mut Lab| {
            for _ in lab.turn() {
                asked += 1;
                if asked % 3 == 0 {
                    lab.answer(1);
                }
            }
        };
        while lab.cookies.len() == 0 {
            sight(&mut lab);
        }
        for _ in 0..6_000 {
            sight(&mut lab);
            assert!(lab.cookies.of(lab.now, relay(1)).is_some());
        }
        // Three questions every 38 to 48 s.
        assert!((36..=51).contains(&asked), "{asked}");
    }

    #[test]
    fn a_relay_that_never_answers_is_asked_three_times_a_round_and_the_others_once() {
        let mut lab = Lab::new(&[1, 2]);
        let mut asked = [0; 2];
        for _ in 0..3_000 {
            for to in lab.turn() {
                asked[usize::from(to == relay(2))] += 1;
                if to == relay(1) {
                    lab.answer(1);
                }
            }
        }
        // Rounds of 42 to 52 s.
        assert!((6..=8).contains(&asked[0]), "{asked:?}");
        assert!((3 * 6..=3 * 8).contains(&asked[1]), "{asked:?}");
        assert!(lab.cookies.awaits(relay(2)) && !lab.cookies.awaits(relay(1)));
    }

    #[test]
    fn clients_ask_at_different_times() {
        let due = |seed| {
            let mut lab = Lab::with_seed([seed; 32], &[1]);
            assert_eq!(lab.turn().len(), 1);
            lab.answer(1);
            lab.cookies.poll_deadline().unwrap() - lab.now
        };
        let all: std::collections::BTreeSet<_> = (0..50).map(due).collect();
        assert_eq!(all.len(), 50);
        assert!(all.iter().all(|due| PERIOD.contains(due)));
    }

    #[test]
    fn nothing_is_asked_without_a_session() {
        let mut lab = Lab::new(&[1]);
        lab.cookies.handle_session_lost();
        for _ in 0..1_000 {
            assert_eq!(lab.turn(), []);
        }
        lab.cookies.handle_session(lab.now);
        assert_eq!(lab.turn(), [relay(1)]);
    }

    #[test]
    fn another_network_is_shown_to_all_at_once() {
        let mut lab = Lab::new(&[1, 2]);
        assert_eq!(lab.turn(), [relay(2), relay(1)]);
        lab.answer(1);
        lab.answer(2);
        lab.cookies.handle_network_change(lab.now);
        assert_eq!(lab.cookies.of(lab.now, relay(1)), None);
        assert_eq!(lab.turn(), [relay(2), relay(1)]);
    }

    #[test]
    fn only_the_relays_used_last_are_asked() {
        let mut lab = Lab::new(&[1, 2, 3, 4, 3]);
        assert_eq!(lab.turn(), [relay(3), relay(4)]);
    }

    #[test]
    fn relays_that_the_server_names_are_asked_at_once_and_the_same_ones_not_again() {
        let mut lab = Lab::new(&[1]);
        lab.turn();
        lab.answer(1);
        lab.cookies.handle_named(lab.now, [1, 2, 3, 4].map(relay).into_iter());
        assert_eq!(lab.turn(), [relay(2), relay(3)], "the nearest three");
        lab.answer(2);
        lab.answer(3);
        lab.cookies.handle_named(lab.now, [3, 2, 1].map(relay).into_iter());
        assert_eq!(lab.turn(), []);
        assert!(lab.cookies.poll_deadline().unwrap() > lab.now + Duration::from_secs(30));
    }

    struct Lab {
        now: Instant,
        cookies: Cookies,
    }

    impl Lab {
        fn new(used: &[u8]) -> Self {
            Self::with_seed([1; 32], used)
        }

        fn with_seed(seed: [u8; 32], used: &[u8]) -> Self {
            let (now, mut cookies) = (Instant::now(), Cookies::new(seed));
            used.iter().for_each(|host| cookies.handle_use(relay(*host)));
            cookies.handle_session(now);
            Self { now, cookies }
        }

        /// A tenth of a second. Returns who is asked.
        fn turn(&mut self) -> Vec<SocketAddr> {
            self.now += Duration::from_millis(100);
            self.cookies.handle_deadline(self.now);
            std::iter::from_fn(|| self.cookies.poll_transmit())
                .map(|(to, question)| {
                    assert_eq!(Message::parse(&question), Some(Message::Ask));
                    to
                })
                .collect()
        }

        fn answer(&mut self, host: u8) {
            self.cookies.keep(self.now, relay(host), Cookie([host; 16]));
        }
    }

    fn relay(host: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, host], 443))
    }
}
