//! Whether UDP gets anywhere: asked when a relay falls silent. One that died is left for another relay; one that no UDP
//! reaches any more is kept, and reached over a stream.
//!
//! Up to two other relays and two reflectors are asked, all at once, at most every [`PAUSE`] whatever falls silent.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use domain::{Probe, RelayId, RelayPlace, SessionTag, TransactionId, Vantage};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use wire::probe;

use super::Output;
use crate::sockets::SocketId;

/// What answers questions, and when it did.
#[derive(Debug)]
pub(crate) struct Canary {
    random: StdRng,
    tag: Option<SessionTag>,
    reflectors: Vec<Witness>,
    relays: Vec<Witness>,
    asked: VecDeque<(TransactionId, SocketAddr)>,
    /// When may be asked again.
    again: Option<Instant>,
}

/// Something that answers UDP.
#[derive(Debug)]
struct Witness {
    relay: Option<RelayId>,
    at: SocketAddr,
    answered: Option<Instant>,
}

impl Canary {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Self {
            random: StdRng::from_seed(seed),
            tag: None,
            reflectors: Vec::new(),
            relays: Vec::new(),
            asked: VecDeque::new(),
            again: None,
        }
    }

    /// A control session began, and named these.
    pub(crate) fn handle_session(&mut self, tag: SessionTag, reflectors: &[SocketAddr], relays: &[RelayPlace]) {
        self.tag = Some(tag);
        let mut others: Vec<Witness> = Vec::new();
        for &at in reflectors {
            if others.len() < REFLECTORS && others.iter().all(|other| other.at.ip() != at.ip()) {
                others.push(Witness { relay: None, at, answered: None });
            }
        }
        self.reflectors = others;
        self.handle_places(relays);
    }

    /// The relays that there are now.
    pub(crate) fn handle_places(&mut self, relays: &[RelayPlace]) {
        let witness = |place: &RelayPlace| {
            let at = *place.endpoints.first()?;
            Some(Witness { relay: Some(place.relay), at, answered: None })
        };
        self.relays = relays.iter().take(MOST).filter_map(witness).collect();
    }

    /// This machine is elsewhere: what was answered there says nothing about here.
    pub(crate) fn handle_network_change(&mut self) {
        self.asked.clear();
        self.again = None;
        for witness in self.reflectors.iter_mut().chain(&mut self.relays) {
            witness.answered = None;
        }
    }

    /// Asks others than `suspect`, unless that was just done.
    pub(crate) fn ask(&mut self, now: Instant, suspect: RelayId, outputs: &mut VecDeque<Output>) {
        let Some(tag) = self.tag.filter(|_| self.again.is_none_or(|again| again <= now)) else { return };
        self.again = Some(now + PAUSE);
        let turn = self.random.random_range(0..self.relays.len().max(1));
        let (before, from) = self.relays.split_at(turn.min(self.relays.len()));
        let relays = from.iter().chain(before).filter(|witness| witness.relay != Some(suspect)).take(RELAYS);
        for witness in self.reflectors.iter().chain(relays) {
            let transaction = TransactionId(self.random.random());
            let question = Probe { transaction, tag: Some(tag), answer_from: Vantage::Asked, delay_s: 0 };
            let datagram = BytesMut::from(&probe::question(&question)[..]);
            outputs.push_back(Output::Send { socket: SocketId::MAIN, to: witness.at, ttl: None, datagram });
            self.asked.push_back((transaction, witness.at));
        }
        let older = self.asked.len().saturating_sub(REMEMBERED);
        self.asked.drain(..older);
    }

    /// A reflector answered; whether the question was one of these.
    pub(crate) fn handle_answer(&mut self, now: Instant, from: SocketAddr, transaction: TransactionId) -> bool {
        if !self.asked.contains(&(transaction, from)) {
            return false;
        }
        for witness in self.reflectors.iter_mut().chain(&mut self.relays).filter(|witness| witness.at == from) {
            witness.answered = Some(now);
        }
        true
    }

    /// Whether anything but `suspect` has answered since.
    pub(crate) fn sings(&self, suspect: RelayId, since: Instant) -> bool {
        let others = self.reflectors.iter().chain(&self.relays).filter(|witness| witness.relay != Some(suspect));
        others.filter_map(|witness| witness.answered).any(|answered| answered >= since)
    }
}

const REFLECTORS: usize = 2;
const RELAYS: usize = 2;
/// Relays that a server can name.
const MOST: usize = 8;
/// Between two rounds of questions.
const PAUSE: Duration = Duration::from_millis(300);
/// Questions whose answers may still come: of the last second or two.
const REMEMBERED: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_answer_but_that_of_the_suspect_shows_that_udp_works() {
        let (now, mut canary) = lab();
        let asked = ask(&mut canary, now);
        let places: Vec<_> = asked.iter().map(|(to, _)| to.port()).collect();
        assert_eq!(places.len(), 4, "{places:?}");
        assert!(!places.contains(&1), "the suspect is not asked");
        assert!(!canary.sings(relay(1), now));
        let (to, transaction) = asked[0];
        assert!(canary.handle_answer(now, to, transaction));
        assert!(canary.sings(relay(1), now));
        assert!(!canary.sings(relay(1), now + Duration::from_millis(1)), "it was before");
    }

    #[test]
    fn what_answers_as_the_suspect_itself_shows_nothing() {
        let (now, mut canary) = lab();
        let asked = ask(&mut canary, now);
        let (to, transaction) = *asked.iter().find(|(to, _)| to.port() < 100).unwrap();
        assert!(canary.handle_answer(now, to, transaction));
        let number = u8::try_from(to.port()).unwrap();
        assert!(!canary.sings(relay(number), now));
        assert!(canary.sings(relay(1), now));
    }

    #[test]
    fn however_many_fall_silent_the_questions_are_few() {
        let (now, mut canary) = lab();
        assert_eq!(ask(&mut canary, now).len(), 4);
        for _ in 0..100 {
            assert_eq!(ask(&mut canary, now).len(), 0);
        }
        for round in 1..100 {
            ask(&mut canary, now + round * PAUSE);
        }
        assert_eq!(canary.asked.len(), REMEMBERED);
    }

    #[test]
    fn answers_from_elsewhere_or_of_another_network_count_nothing() {
        let (now, mut canary) = lab();
        let asked = ask(&mut canary, now);
        let (to, transaction) = asked[0];
        assert!(!canary.handle_answer(now, SocketAddr::new(to.ip(), to.port() + 1), transaction));
        canary.handle_network_change();
        assert!(!canary.handle_answer(now, to, transaction));
        assert!(!canary.sings(relay(1), now));
    }

    #[test]
    fn without_a_session_nobody_is_asked() {
        let mut canary = Canary::new([1; 32]);
        assert_eq!(ask(&mut canary, Instant::now()).len(), 0);
    }

    fn lab() -> (Instant, Canary) {
        let mut canary = Canary::new([1; 32]);
        let reflectors: Vec<_> =
            [(1, 3478), (1, 3479), (2, 3478), (3, 3478)].map(|(last, port)| ([192, 0, 2, last], port).into()).to_vec();
        let place = |number: u8| RelayPlace {
            relay: relay(number),
            endpoints: vec![([198, 51, 100, number], u16::from(number)).into()],
        };
        canary.handle_session(SessionTag([7; 16]), &reflectors, &(1..=9).map(place).collect::<Vec<_>>());
        (Instant::now(), canary)
    }

    fn ask(canary: &mut Canary, now: Instant) -> Vec<(SocketAddr, TransactionId)> {
        let mut outputs = VecDeque::new();
        canary.ask(now, relay(1), &mut outputs);
        let question = |output: Output| {
            let Output::Send { to, datagram, .. } = output else { panic!("{output:?}") };
            (to, TransactionId(datagram[8..20].try_into().unwrap()))
        };
        outputs.into_iter().map(question).collect()
    }

    const fn relay(number: u8) -> RelayId {
        RelayId::from_bytes([number; 16])
    }
}
