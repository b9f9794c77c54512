//! How far the relays are that the server names: padded STUN questions, the smallest of several round trips.
//!
//! A round asks every relay [`QUESTIONS`] times at its first endpoint of each address family: at most 64 questions of 192
//! bytes every few minutes, spread over half a second. It begins with a session, with other relays to measure and with
//! another network. What was asked in one network and answered in another is not counted. A relay that does not answer is
//! left out of the report; where nothing answers (UDP is blocked) there is nothing to report, and the server spreads pairs
//! evenly.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use domain::{Probe, RelayId, RelayPlace, RelayTrip, RelayTrips, SessionTag, TransactionId, Vantage};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use wire::probe;

/// What this client knows of the relays.
#[derive(Debug)]
pub(crate) struct Relays {
    random: StdRng,
    tag: Option<SessionTag>,
    places: Vec<RelayPlace>,
    round: Option<Round>,
    /// When the next round begins by itself.
    refresh: Option<Instant>,
    trips: RelayTrips,
    transmits: VecDeque<(SocketAddr, BytesMut)>,
    report: Option<Report>,
}

/// A round that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) trips: RelayTrips,
    /// Something is so different from the last round that another relay may be nearer.
    pub(crate) is_news: bool,
}

#[derive(Debug)]
struct Round {
    asked: Vec<Asked>,
    rounds: u32,
    /// When the next questions leave, or the round is over.
    due: Instant,
    shortest: Vec<(RelayId, Duration)>,
}

#[derive(Debug)]
struct Asked {
    relay: RelayId,
    to: SocketAddr,
    transaction: TransactionId,
    at: Instant,
}

impl Relays {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Self {
            random: StdRng::from_seed(seed),
            tag: None,
            places: Vec::new(),
            round: None,
            refresh: None,
            trips: RelayTrips::NONE,
            transmits: VecDeque::new(),
            report: None,
        }
    }

    /// A control session began, and named these.
    /// Where the relays are that were named.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = std::net::IpAddr> {
        self.places.iter().flat_map(|place| &place.endpoints).map(std::net::SocketAddr::ip)
    }

    pub(crate) fn handle_session(&mut self, now: Instant, tag: SessionTag, places: &[RelayPlace]) {
        self.tag = Some(tag);
        self.trips = RelayTrips::NONE;
        self.places = bounded(places);
        self.begin(now);
    }

    /// The server names others.
    pub(crate) fn handle_places(&mut self, now: Instant, places: &[RelayPlace]) {
        let places = bounded(places);
        if places != self.places {
            self.places = places;
            self.begin(now);
        }
    }

    /// Where the relays that were named are, the nearest first, as far as that is known.
    pub(crate) fn nearest(&self) -> impl Iterator<Item = SocketAddr> {
        let mut places: Vec<_> = self.places.iter().collect();
        places.sort_by_key(|place| self.trips.of(place.relay).unwrap_or(u32::MAX));
        places.into_iter().filter_map(|place| place.endpoints.first().copied())
    }

    /// The server may have forgotten what was reported.
    pub(crate) fn handle_resync(&mut self) {
        if !self.trips.is_empty() {
            self.report = Some(Report { trips: self.trips, is_news: false });
        }
    }

    /// This machine is elsewhere.
    pub(crate) fn handle_network_change(&mut self, now: Instant) {
        if self.tag.is_some() {
            self.begin(now);
        }
    }

    /// A reflector answered; whether the question was one of these.
    pub(crate) fn handle_answer(&mut self, now: Instant, from: SocketAddr, transaction: TransactionId) -> bool {
        let Some(round) = &mut self.round else { return false };
        let Some(place) = round.asked.iter().position(|asked| asked.transaction == transaction && asked.to == from)
        else {
            return false;
        };
        let asked = round.asked.swap_remove(place);
        let rtt = now.saturating_duration_since(asked.at);
        match round.shortest.iter_mut().find(|(relay, _)| *relay == asked.relay) {
            Some((_, shortest)) => *shortest = rtt.min(*shortest),
            None => round.shortest.push((asked.relay, rtt)),
        }
        true
    }

    pub(crate) fn handle_deadline(&mut self, now: Instant) {
        if self.refresh.is_some_and(|refresh| refresh <= now) {
            self.begin(now);
        }
        let Some(round) = self.round.as_mut().filter(|round| round.due <= now) else { return };
        if round.rounds < QUESTIONS {
            round.rounds += 1;
            round.due = now + if round.rounds < QUESTIONS { PAUSE } else { PATIENCE };
            self.ask(now);
        } else {
            self.finish();
        }
    }

    pub(crate) fn poll_deadline(&self) -> Option<Instant> {
        self.round.as_ref().map(|round| round.due).into_iter().chain(self.refresh).min()
    }

    pub(crate) fn poll_transmit(&mut self) -> Option<(SocketAddr, BytesMut)> {
        self.transmits.pop_front()
    }

    /// What the server is to know.
    pub(crate) fn poll_report(&mut self) -> Option<Report> {
        self.report.take()
    }

    fn begin(&mut self, now: Instant) {
        self.transmits.clear();
        // Relays may come that the server did not know of: without any the round is an empty one.
        self.round = Some(Round { asked: Vec::new(), rounds: 0, due: now, shortest: Vec::new() });
        let spread: f64 = self.random.random_range(0.8..1.2);
        self.refresh = Some(now + REFRESH.mul_f64(spread));
    }

    fn ask(&mut self, now: Instant) {
        let (Some(round), Some(tag)) = (&mut self.round, self.tag) else { return };
        for place in &self.places {
            let of = |family: fn(&SocketAddr) -> bool| place.endpoints.iter().copied().find(family);
            for to in [of(SocketAddr::is_ipv4), of(SocketAddr::is_ipv6)].into_iter().flatten() {
                let transaction = TransactionId(self.random.random());
                let question = Probe { transaction, tag: Some(tag), answer_from: Vantage::Asked, delay_s: 0 };
                self.transmits.push_back((to, BytesMut::from(&probe::question(&question)[..])));
                round.asked.push(Asked { relay: place.relay, to, transaction, at: now });
            }
        }
    }

    fn finish(&mut self) {
        let Some(round) = self.round.take() else { return };
        let trip = |(relay, rtt): (RelayId, Duration)| {
            let rtt_us = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX).min(RelayTrips::LONGEST_US);
            RelayTrip { relay, rtt_us }
        };
        let measured: Vec<_> = round.shortest.into_iter().map(trip).collect();
        let Ok(trips) = RelayTrips::new(&measured) else { return };
        let before = std::mem::replace(&mut self.trips, trips);
        let is_news =
            trips.iter().any(|trip| before.of(trip.relay).is_none_or(|before| before.abs_diff(trip.rtt_us) >= NEWS_US));
        self.report = Some(Report { trips, is_news });
    }
}

/// What a server can name: no more than fit into a report, each once.
fn bounded(places: &[RelayPlace]) -> Vec<RelayPlace> {
    let mut kept: Vec<RelayPlace> = Vec::new();
    for place in places {
        if kept.len() < RelayTrips::MOST && kept.iter().all(|known| known.relay != place.relay) {
            kept.push(place.clone());
        }
    }
    kept
}

const QUESTIONS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(120);
/// From the last questions to the end of the round.
const PATIENCE: Duration = Duration::from_millis(800);
/// Between rounds, while nothing changes.
const REFRESH: Duration = Duration::from_secs(5 * 60);
/// Half of what makes a move worth it: both sides may have changed.
const NEWS_US: u32 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_shortest_of_several_round_trips_counts_over_either_family() {
        let mut lab = Lab::new(&[1, 2]);
        // Relay 1: 40, 30 ... over IPv4 and 20 over IPv6 once; relay 2 does not answer.
        lab.round(|number, nth, to| match (number, to.is_ipv4()) {
            (1, true) => Some(40 * MS - 3 * MS * nth),
            (1, false) => (nth == 2).then_some(20 * MS),
            _ => None,
        });
        let report = lab.relays.poll_report().unwrap();
        assert_eq!(report.trips.iter().collect::<Vec<_>>(), [RelayTrip { relay: relay(1), rtt_us: 20_000 }]);
        assert!(report.is_news);
        assert_eq!(lab.relays.poll_report(), None);
    }

    #[test]
    fn a_round_is_cheap_and_rare() {
        let mut lab = Lab::new(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 9]);
        let sent = lab.round(|number, _, _| Some(MS * u32::from(number)));
        assert_eq!(sent, RelayTrips::MOST * 2 * 4, "no more relays than a report holds");
        let before = lab.now;
        assert_eq!(lab.relays.poll_report().unwrap().trips.iter().count(), RelayTrips::MOST);
        assert!(lab.relays.poll_deadline().unwrap() >= before + Duration::from_secs(200));
        // The same again is no news; 10 ms more is.
        lab.round(|number, _, _| Some(MS * u32::from(number)));
        assert!(!lab.relays.poll_report().unwrap().is_news);
        lab.round(|number, _, _| Some(MS * (u32::from(number) + 10)));
        assert!(lab.relays.poll_report().unwrap().is_news);
    }

    #[test]
    fn other_relays_and_another_network_are_measured_at_once_and_the_same_are_not() {
        let mut lab = Lab::new(&[1]);
        lab.round(|_, _, _| Some(MS));
        lab.relays.handle_places(lab.now, &[place(1)]);
        assert!(lab.relays.poll_deadline().unwrap() > lab.now + REFRESH / 2);
        lab.relays.handle_places(lab.now, &[place(2)]);
        assert_eq!(lab.relays.poll_deadline(), Some(lab.now));
        lab.round(|_, _, _| Some(MS));
        lab.relays.handle_network_change(lab.now);
        assert_eq!(lab.relays.poll_deadline(), Some(lab.now));
    }

    #[test]
    fn an_answer_from_elsewhere_or_to_no_question_counts_nothing() {
        let mut lab = Lab::new(&[1]);
        lab.relays.handle_deadline(lab.now);
        let (to, question) = lab.relays.poll_transmit().unwrap();
        let asked = TransactionId(question[8..20].try_into().unwrap());
        let elsewhere = SocketAddr::new(to.ip(), to.port() + 1);
        assert!(!lab.relays.handle_answer(lab.now, elsewhere, asked));
        assert!(!lab.relays.handle_answer(lab.now, to, TransactionId([9; 12])));
        assert!(lab.relays.handle_answer(lab.now, to, asked));
        assert!(!lab.relays.handle_answer(lab.now, to, asked), "once");
        let probe = Probe { transaction: asked, tag: Some(TAG), answer_from: Vantage::Asked, delay_s: 0 };
        assert_eq!(question, probe::question(&probe));
    }

    const TAG: SessionTag = SessionTag([7; 16]);

    struct Lab {
        now: Instant,
        relays: Relays,
    }

    impl Lab {
        fn new(numbers: &[u8]) -> Self {
            let now = Instant::now();
            let mut relays = Relays::new([1; 32]);
            assert_eq!(relays.poll_deadline(), None);
            let places: Vec<_> = numbers.iter().map(|number| place(*number)).collect();
            relays.handle_session(now, TAG, &places);
            Self { now, relays }
        }

        /// Runs to the end of the next round. `rtt` says what each question takes, by relay, how many before, and endpoint.
        fn round(&mut self, rtt: impl Fn(u8, u32, SocketAddr) -> Option<Duration>) -> usize {
            let mut under_way: Vec<(Instant, SocketAddr, TransactionId)> = Vec::new();
            let mut counts = std::collections::BTreeMap::new();
            let mut sent = 0;
            while self.relays.report.is_none() {
                let due = self.relays.poll_deadline().unwrap();
                under_way.sort_by_key(|(at, ..)| std::cmp::Reverse(*at));
                if let Some((at, from, transaction)) = under_way.pop_if(|(at, ..)| *at <= due) {
                    self.now = self.now.max(at);
                    self.relays.handle_answer(at, from, transaction);
                    continue;
                }
                self.now = self.now.max(due);
                self.relays.handle_deadline(self.now);
                while let Some((to, question)) = self.relays.poll_transmit() {
                    sent += 1;
                    let number = match to.ip() {
                        std::net::IpAddr::V4(v4) => v4.octets()[3],
                        std::net::IpAddr::V6(v6) => v6.octets()[15],
                    };
                    let nth: &mut u32 = counts.entry(to).or_default();
                    let transaction = TransactionId(question[8..20].try_into().unwrap());
                    under_way.extend(rtt(number, *nth, to).map(|rtt| (self.now + rtt, to, transaction)));
                    *nth += 1;
                }
            }
            sent
        }
    }

    fn place(number: u8) -> RelayPlace {
        let v6 = [0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(number)];
        let endpoints = vec![([203, 0, 113, number], 443).into(), (v6, 443).into()];
        RelayPlace { relay: relay(number), endpoints }
    }

    fn relay(number: u8) -> RelayId {
        RelayId::from_bytes([number; 16])
    }
}
