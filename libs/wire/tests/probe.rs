//! Probes, reflections, observations and punch packets, byte for byte; and what hostile bytes cannot do.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{fmt::Write as _, net::SocketAddr, time::Duration};

use domain::{ClientId, Probe, PunchKind, PunchPacket, Reflected, SessionTag, TransactionId, UnixMillis, Vantage};
use proptest::prelude::*;
use wire::{
    probe::{
        Answer, Asked, Corner, LONGEST_DELAY, MAX_ANSWER_SIZE, Mirror, ObservationKey, Observed, ProbeError,
        QUESTION_SIZE, Reflection, answer, is_stun, question,
    },
    punch::{PUNCH_SIZE, PunchError, PunchSeal, claimed_number, is_punch},
};

const VECTORS: &str = include_str!("vectors/probe.txt");
const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
const TAG: SessionTag = SessionTag([7; 16]);
const TRANSACTION: TransactionId = TransactionId(*b"transaction!");
const VANTAGES: [Vantage; 4] = [Vantage::Asked, Vantage::OtherPort, Vantage::OtherAddress, Vantage::Opposite];

#[test]
fn every_message_has_its_bytes() {
    let mut actual = String::new();
    for vantage in VANTAGES {
        writeln!(actual, "question.{vantage:?} {}", hex(&question(&tagged(vantage)))).unwrap();
    }
    writeln!(actual, "question.delayed {}", hex(&question(&delayed(185)))).unwrap();
    for source in ["203.0.113.9:40000", "[2001:db8::9]:40000"] {
        let (_, bytes) = reflected(source, &question(&tagged(Vantage::Asked))).unwrap();
        writeln!(actual, "answer.tagged {}", hex(&bytes)).unwrap();
    }
    let (_, bytes) = reflected("203.0.113.9:40000", &plain(&[])).unwrap();
    writeln!(actual, "answer.plain {}", hex(&bytes)).unwrap();
    let (_, bytes) = reflected("203.0.113.9:40000", &plain(&[0x00, 0x27, 0, 4, 0x13, 0x37, 0, 0])).unwrap();
    writeln!(actual, "answer.unknown-attribute {}", hex(&bytes)).unwrap();
    for kind in [PunchKind::Opener, PunchKind::Probe, PunchKind::Answer] {
        writeln!(actual, "punch.{kind:?} {}", hex(&anna().seal(&packet(kind)))).unwrap();
    }
    for (actual, golden) in actual.lines().zip(VECTORS.lines()) {
        assert_eq!(actual, golden);
    }
    assert_eq!(actual.lines().count(), VECTORS.lines().count(), "{actual}");
}

#[test]
fn a_client_learns_where_it_was_seen_and_gets_the_proof() {
    for source in ["203.0.113.9:40000", "[2001:db8::9]:40000", "[::ffff:203.0.113.9]:40000"] {
        let (reflection, bytes) = reflected(source, &question(&tagged(Vantage::Asked))).unwrap();
        let source: SocketAddr = source.parse().unwrap();
        let seen = SocketAddr::new(source.ip().to_canonical(), source.port());
        let Ok(Answer::Reflected(Reflected { transaction, seen: told, ttl, observation })) = answer(&bytes) else {
            panic!("{bytes:?}")
        };
        assert_eq!((transaction, told, ttl), (TRANSACTION, seen, 57));
        assert_eq!(reflection.from, Corner::R1P);
        let observed = key().open(&observation.unwrap(), TAG, NOW).unwrap();
        let expected = Observed { seen, reflector: corners()[0].unwrap(), ttl: 57, at: NOW, tag: TAG };
        assert_eq!(observed, expected);
    }
}

#[test]
fn a_change_request_is_answered_from_the_other_socket() {
    let expected = [Corner::R1P, Corner::R1Q, Corner::R2P, Corner::R2Q];
    for (vantage, corner) in VANTAGES.into_iter().zip(expected) {
        let (reflection, _) = reflected("203.0.113.9:40000", &question(&tagged(vantage))).unwrap();
        assert_eq!(reflection.from, corner);
        assert_eq!(corner.seen_from(vantage), Corner::R1P);
    }
}

#[test]
fn a_reflector_with_one_socket_refuses_to_answer_from_another() {
    let relay = Mirror::single(corners()[0].unwrap(), key());
    let mut out = [0; MAX_ANSWER_SIZE];
    let asked = asked("203.0.113.9:40000");
    let reflection = relay.reflect(&asked, &question(&tagged(Vantage::OtherPort)), &mut out).unwrap();
    let refused = Answer::Refused { transaction: TRANSACTION, code: 420 };
    assert_eq!(answer(&out[..reflection.length]), Ok(refused));
    assert_eq!(reflection.from, Corner::R1P);
}

#[test]
fn a_plain_request_is_answered_and_marked_as_larger_than_the_question() {
    let (reflection, bytes) = reflected("203.0.113.9:40000", &plain(&[])).unwrap();
    assert!(reflection.amplifies);
    assert!(bytes.len() < 80);
    let Ok(Answer::Reflected(reflected)) = answer(&bytes) else { panic!("{bytes:?}") };
    assert_eq!(reflected.observation, None);
}

#[test]
fn a_tagged_request_without_padding_is_met_with_silence() {
    let mut tag = vec![0xc0, 0xb0, 0, 16];
    tag.extend(TAG.0);
    assert_eq!(reflected("203.0.113.9:40000", &plain(&tag)), None);
}

#[test]
fn a_delayed_answer_is_no_larger_than_its_question_and_comes_within_bounds() {
    for seconds in [1, 20, 185] {
        let (reflection, bytes) = reflected("[2001:db8::9]:40000", &question(&delayed(seconds))).unwrap();
        assert_eq!(reflection.delay, Duration::from_secs(seconds.into()));
        assert!(!reflection.amplifies && bytes.len() <= QUESTION_SIZE);
    }
    assert_eq!(reflected("203.0.113.9:40000", &question(&delayed(186))), None);
    assert_eq!(
        reflected("203.0.113.9:40000", &plain(&[0xc0, 0xb2, 0, 4, 0, 0, 0, 1])),
        None,
        "smaller than its answer"
    );
    let (reflection, _) = reflected("203.0.113.9:40000", &plain(&[0xc0, 0xb2, 0, 1, 9, 0, 0, 0])).unwrap();
    assert_eq!(reflection.delay, Duration::ZERO, "malformed, and to be ignored");
}

#[test]
fn answers_and_indications_are_never_answered() {
    let (_, answer) = reflected("203.0.113.9:40000", &question(&tagged(Vantage::Asked))).unwrap();
    assert_eq!(reflected("203.0.113.9:40000", &answer), None, "two reflectors would talk for ever");
    let mut indication = plain(&[]);
    indication[1] = 0x11;
    assert_eq!(reflected("203.0.113.9:40000", &indication), None);
}

#[test]
fn a_punch_packet_is_the_peers_or_nothing() {
    let packet = packet(PunchKind::Probe);
    let sealed = anna().seal(&packet);
    assert_eq!(bert().open(&sealed), Ok(packet));
    assert_eq!(anna().open(&sealed), Err(PunchError::Forged), "thrown back at its sender");
    let stranger = PunchSeal::new(&[9; 32], client(2), client(1));
    assert_eq!(stranger.open(&sealed), Err(PunchError::Forged));
    for bit in 0..PUNCH_SIZE * 8 {
        let mut forged = sealed;
        forged[bit / 8] ^= 1 << (bit % 8);
        assert!(bert().open(&forged).is_err());
    }
    assert_eq!(claimed_number(&sealed), Some(packet.number));
}

#[test]
fn the_first_bytes_tell_stun_punch_and_tunnel_apart() {
    let stun = question(&tagged(Vantage::Asked));
    let punch = anna().seal(&packet(PunchKind::Opener));
    let wireguard =
        [1, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9];
    assert_eq!([is_stun(&stun), is_punch(&stun)], [true, false]);
    assert_eq!([is_stun(&punch), is_punch(&punch)], [false, true]);
    assert_eq!([is_stun(&wireguard), is_punch(&wireguard)], [false, false]);
}

proptest! {
    #[test]
    fn no_bytes_panic_and_no_reflection_grows_unmarked(
        bytes in hostile(),
        source in any::<[u8; 16]>(),
        port in any::<u16>(),
    ) {
        let _ = answer(&bytes);
        let _ = bert().open(&bytes);
        let _ = claimed_number(&bytes);
        let source = SocketAddr::new(std::net::IpAddr::from(source), port);
        let mut out = [0; MAX_ANSWER_SIZE];
        let asked = Asked { source, at: Corner::R2Q, ttl: 0, now: NOW };
        if let Some(reflection) = mirror().reflect(&asked, &bytes, &mut out) {
            prop_assert!(reflection.length <= bytes.len() || reflection.amplifies);
            prop_assert!(reflection.length <= MAX_ANSWER_SIZE);
            let padded = bytes.len() >= QUESTION_SIZE;
            prop_assert!(!padded || !reflection.amplifies);
            prop_assert!(reflection.delay.is_zero() || !reflection.amplifies);
            prop_assert!(reflection.delay <= LONGEST_DELAY);
        }
    }

    #[test]
    fn a_mirror_answers_in_any_room_or_not_at_all(room in 0..MAX_ANSWER_SIZE) {
        let mut out = vec![0; room];
        let reflection = mirror().reflect(&asked("[2001:db8::9]:1"), &question(&tagged(Vantage::Asked)), &mut out);
        prop_assert!(reflection.is_none_or(|reflection| reflection.length <= room));
    }
}

#[test]
fn other_datagrams_are_no_answers() {
    assert_eq!(answer(&[]), Err(ProbeError::Malformed));
    assert_eq!(answer(&plain(&[])), Err(ProbeError::Useless));
}

/// Datagrams that look like STUN often enough to get into the depths.
fn hostile() -> impl proptest::strategy::Strategy<Value = Vec<u8>> {
    let attribute = (
        prop_oneof![
            Just(3_u16),
            Just(0x20),
            Just(0x26),
            Just(0x24),
            Just(9),
            Just(0xc0b0),
            Just(0xc0b1),
            Just(0xc0b2),
            any::<u16>()
        ],
        proptest::collection::vec(any::<u8>(), 0..90),
    );
    let shaped = (0_u16..0x120, proptest::collection::vec(attribute, 0..12)).prop_map(|(kind, attributes)| {
        let mut bytes = plain(&[]);
        bytes[..2].copy_from_slice(&kind.to_be_bytes());
        for (kind, value) in attributes {
            bytes.extend(kind.to_be_bytes());
            bytes.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
            bytes.extend(&value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let length = u16::try_from(bytes.len() - 20).unwrap();
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
        bytes
    });
    prop_oneof![proptest::collection::vec(any::<u8>(), 0..300), shaped]
}

fn reflected(source: &str, question: &[u8]) -> Option<(Reflection, Vec<u8>)> {
    let mut out = [0; MAX_ANSWER_SIZE];
    let reflection = mirror().reflect(&asked(source), question, &mut out)?;
    Some((reflection, out[..reflection.length].to_vec()))
}

fn asked(source: &str) -> Asked {
    Asked { source: source.parse().unwrap(), at: Corner::R1P, ttl: 57, now: NOW }
}

fn mirror() -> Mirror {
    Mirror::new(corners(), key())
}

fn corners() -> [Option<SocketAddr>; 4] {
    ["198.51.100.1:3478", "198.51.100.1:3479", "198.51.100.2:3478", "198.51.100.2:3479"]
        .map(|text| Some(text.parse().unwrap()))
}

fn key() -> ObservationKey {
    ObservationKey::new(&[1; 32])
}

fn tagged(answer_from: Vantage) -> Probe {
    Probe { transaction: TRANSACTION, tag: Some(TAG), answer_from, delay_s: 0 }
}

fn delayed(delay_s: u8) -> Probe {
    Probe { delay_s, ..tagged(Vantage::Asked) }
}

/// A binding request of somebody else's tool.
fn plain(attributes: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 1, 0, u8::try_from(attributes.len()).unwrap(), 0x21, 0x12, 0xa4, 0x42];
    bytes.extend(TRANSACTION.0);
    bytes.extend(attributes);
    bytes
}

fn anna() -> PunchSeal {
    PunchSeal::new(&[3; 32], client(1), client(2))
}

fn bert() -> PunchSeal {
    PunchSeal::new(&[3; 32], client(2), client(1))
}

fn client(byte: u8) -> ClientId {
    ClientId::from_bytes([byte; 16])
}

const fn packet(kind: PunchKind) -> PunchPacket {
    PunchPacket { kind, attempt: 2, number: 0x0102_0304_0506_0708, nonce: 0x1112_1314_1516_1718 }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
