//! A reflector under use and abuse: budgets, late answers, and STUN over a connection.
#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use domain::{Probe, SessionTag, TransactionId, UnixMillis, Vantage};
use proptest::prelude::*;
use wire::probe::{
    Answer, Asked, Budget, Corner, Desk, Late, MAX_ANSWER_SIZE, MAX_MESSAGE, MOST_LATE, MOST_LATE_PER_SOURCE, Mirror,
    NotStun, ObservationKey, QUESTION_SIZE, Verdict, answer, framed, question,
};

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
const TAG: SessionTag = SessionTag([7; 16]);

#[test]
fn a_late_answer_waits_as_long_as_it_was_asked_to_and_goes_back_to_its_question() {
    let mut lab = Lab::new();
    let (anna, bert) = (source(1), source(2));
    assert_eq!(lab.ask(anna, 35), Verdict::Later);
    assert_eq!(lab.ask(bert, 20), Verdict::Later);
    assert_eq!(lab.desk.poll_timeout(), Some(lab.now + Duration::from_secs(20)));
    assert_eq!(lab.after(Duration::from_millis(19_999)), []);

    let [late] = &lab.after(Duration::from_millis(1))[..] else { panic!() };
    assert_eq!((late.to, late.from), (bert, Corner::R1P));
    assert!(late.answer.len() <= QUESTION_SIZE);
    let Ok(Answer::Reflected(reflected)) = answer(&late.answer) else { panic!("{late:?}") };
    assert_eq!(reflected.seen, bert);
    assert_eq!(lab.after(Duration::from_secs(15)).len(), 1);
    assert_eq!(lab.desk.poll_timeout(), None);
}

#[test]
fn late_answers_are_few_for_a_source_and_bounded_in_all() {
    let mut lab = Lab::new();
    for _ in 0..MOST_LATE_PER_SOURCE {
        assert_eq!(lab.ask(source(0), 185), Verdict::Later);
    }
    assert_eq!(lab.ask(source(0), 1), Verdict::Limited);
    let waiting = usize::from(MOST_LATE_PER_SOURCE);
    for host in waiting..MOST_LATE {
        assert_eq!(lab.ask(source(u32::try_from(host).unwrap()), 185), Verdict::Later);
    }
    assert_eq!(lab.ask(source(1_000_000), 185), Verdict::Limited);
    assert!(matches!(lab.ask(source(1_000_000), 0), Verdict::Answer(_)), "the others are answered all the same");

    assert_eq!(lab.after(Duration::from_secs(185)).len(), MOST_LATE);
    assert_eq!(lab.ask(source(0), 1), Verdict::Later);
    assert_eq!(lab.ask(source(1_000_000), 1), Verdict::Later);
}

#[test]
fn a_source_is_answered_within_its_budget_and_plain_questions_within_a_smaller_one() {
    let mut lab = Lab::new();
    let answered = |lab: &mut Lab, bytes: &[u8]| {
        (0..500).filter(|_| matches!(lab.handle(source(1), bytes), Verdict::Answer(_))).count()
    };
    assert_eq!(answered(&mut lab, &plain()), 10);
    // The refused ones have used up the rest.
    lab.now += Duration::from_secs(1);
    assert_eq!(answered(&mut lab, &question(&probe(0))), 200);
    assert_eq!(lab.handle(source(1), &question(&probe(0))), Verdict::Limited);
    assert!(matches!(lab.ask(source(2), 0), Verdict::Answer(_)), "other sources have theirs");
    assert_eq!(lab.handle(source(3), b"GET / HTTP/1.1\r\n\r\n"), Verdict::Ignored);
}

#[test]
fn a_connection_is_answered_where_it_asks_and_no_change_is_promised() {
    let mirror = mirror();
    let asked = Asked { source: source(1), at: Corner::R2Q, ttl: 0, now: NOW };
    let mut out = [0; MAX_ANSWER_SIZE];
    for asks in [question(&probe(0)), question(&probe(20)), plain()] {
        let length = mirror.reflect_connected(&asked, &asks, &mut out).unwrap();
        assert_eq!(framed(&out[..length]), Ok(Some(length)));
        let Ok(Answer::Reflected(reflected)) = answer(&out[..length]) else { panic!() };
        assert_eq!(reflected.seen, source(1));
        if let Some(observation) = reflected.observation {
            let observed = ObservationKey::new(&[1; 32]).open(&observation, TAG, NOW).unwrap();
            assert_eq!(Some(observed.reflector), mirror.endpoint(Corner::R2Q));
        }
    }
    let change = question(&Probe { answer_from: Vantage::OtherPort, ..probe(0) });
    let length = mirror.reflect_connected(&asked, &change, &mut out).unwrap();
    assert!(matches!(answer(&out[..length]), Ok(Answer::Refused { code: 420, .. })));
    let mut indication = plain();
    indication[1] = 0x11;
    assert_eq!(mirror.reflect_connected(&asked, &indication, &mut out), None);
}

#[test]
fn a_message_on_a_connection_ends_where_its_header_says() {
    let asks = question(&probe(0));
    for end in 0..4 {
        assert_eq!(framed(&asks[..end]), Ok(None));
    }
    for end in 4..asks.len() {
        assert_eq!(framed(&asks[..end]), Ok(Some(QUESTION_SIZE)));
    }
    let two = [asks.clone(), plain()].concat();
    assert_eq!(framed(&two), Ok(Some(QUESTION_SIZE)));
    assert_eq!(framed(&two[QUESTION_SIZE..]), Ok(Some(20)));

    assert_eq!(framed(b"GET / HTTP/1.1\r\n"), Err(NotStun));
    assert_eq!(framed(&[0, 1, 0, 0, 0x21, 0x13]), Err(NotStun));
    let [largest, larger] = [MAX_MESSAGE - 20, MAX_MESSAGE - 16].map(|body| u16::try_from(body).unwrap().to_be_bytes());
    assert_eq!(framed(&[0, 1, largest[0], largest[1]]), Ok(Some(MAX_MESSAGE)));
    assert_eq!(framed(&[0, 1, larger[0], larger[1]]), Err(NotStun));
    assert_eq!(framed(&[0, 1, 0, 2]), Err(NotStun), "attributes fill four bytes");
}

#[test]
fn a_reflector_names_the_other_address_that_it_learned() {
    let [r1p, r1q, r2p, r2q] = corners();
    let mut mirror = Mirror::new([r1p, r1q, None, None], ObservationKey::new(&[1; 32]));
    let other_address = question(&Probe { answer_from: Vantage::OtherAddress, ..probe(0) });
    let asked = Asked { source: source(1), at: Corner::R1P, ttl: 57, now: NOW };
    let mut out = [0; MAX_ANSWER_SIZE];
    let length = mirror.reflect(&asked, &other_address, &mut out).unwrap().length;
    assert!(matches!(answer(&out[..length]), Ok(Answer::Refused { code: 420, .. })));

    mirror.set_other([r2p, r2q]);
    let reflection = mirror.reflect(&asked, &other_address, &mut out).unwrap();
    assert_eq!((reflection.from, mirror.endpoint(reflection.from)), (Corner::R2P, r2p));
    mirror.set_other([None, None]);
    let length = mirror.reflect(&asked, &other_address, &mut out).unwrap().length;
    assert!(matches!(answer(&out[..length]), Ok(Answer::Refused { code: 420, .. })));
}

proptest! {
    #[test]
    fn framing_bears_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        if let Ok(Some(length)) = framed(&bytes) {
            prop_assert!((20..=MAX_MESSAGE).contains(&length));
        }
        let asked = Asked { source: source(1), at: Corner::R1P, ttl: 0, now: NOW };
        let mut out = [0; MAX_ANSWER_SIZE];
        let _ = mirror().reflect_connected(&asked, &bytes, &mut out);
    }
}

struct Lab {
    desk: Desk,
    now: Instant,
}

impl Lab {
    fn new() -> Self {
        let now = Instant::now();
        let budget = Budget { answers: 200, larger_answers: 10 };
        Self { desk: Desk::new(now, mirror(), budget, 0x9e37_79b9_7f4a_7c15), now }
    }

    fn ask(&mut self, source: SocketAddr, delay_s: u8) -> Verdict {
        self.handle(source, &question(&probe(delay_s)))
    }

    fn handle(&mut self, source: SocketAddr, question: &[u8]) -> Verdict {
        let asked = Asked { source, at: Corner::R1P, ttl: 57, now: NOW };
        self.desk.handle_question(self.now, &asked, question, &mut [0; MAX_ANSWER_SIZE])
    }

    fn after(&mut self, time: Duration) -> Vec<Late> {
        self.now += time;
        std::iter::from_fn(|| self.desk.poll_late(self.now)).collect()
    }
}

fn mirror() -> Mirror {
    Mirror::new(corners(), ObservationKey::new(&[1; 32]))
}

fn corners() -> [Option<SocketAddr>; 4] {
    ["198.51.100.1:3478", "198.51.100.1:3479", "198.51.100.2:3478", "198.51.100.2:3479"]
        .map(|text| Some(text.parse().unwrap()))
}

fn source(host: u32) -> SocketAddr {
    SocketAddr::new(IpAddr::from((0x0100_0000 + host).to_be_bytes()), 40_000)
}

const fn probe(delay_s: u8) -> Probe {
    Probe { transaction: TransactionId([5; 12]), tag: Some(TAG), answer_from: Vantage::Asked, delay_s }
}

fn plain() -> Vec<u8> {
    let mut bytes = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    bytes.extend([5; 12]);
    bytes
}
