//! The relay's messages and tickets, byte for byte, and what becomes of damaged ones.

use std::fmt::Write as _;

use domain::{Bandwidth, PayerId, RelayId, UnixMillis};
use proptest::prelude::*;
use wire::{
    Code,
    fanout::{self, MAX_COPIES, Shared, SharedKeyId, TAG_SIZE, slots_that_fit},
    relay::{Cookie, HEADER_SIZE, JOIN_SIZE, Join, JoinId, MAX_ANSWER, MAX_FIRST, Message, Slot, is_relay, prove},
    ticket::{LegKey, LegSide, PairNonce, TICKET_SIZE, Ticket, TicketError, TicketKey, TicketRoot},
};

const VECTORS: &str = include_str!("vectors/relay.txt");

#[test]
fn every_message_has_its_bytes_and_reads_back() {
    let ticket = key().seal(&ticket());
    let leg = key().leg_key(&ticket);
    let cookie = Cookie([3; 16]);
    let proof = prove(&leg, cookie, &ticket);
    let join = JoinId([4; 8]);
    let slot = Slot(0x0102_0304);
    let copy = Shared { counter: 6, key: SharedKeyId([7; 8]), sealed: b"sealed, and a tag" };
    let fanout = fanout::frame(&[Slot(0x0506_0708), slot], &copy).unwrap();
    let messages = [
        ("data", Message::Data { slot, payload: b"payload" }),
        ("challenge", Message::Challenge { cookie }),
        ("join", Message::Join(Join { cookie, ticket: &ticket, proof: &proof })),
        ("joined", Message::Joined { slot, join, peer_present: true }),
        ("refused", Message::refusal(Code::TicketForged, join)),
        ("ping", Message::Ping { slot, nonce: 5 }),
        ("pong", Message::Pong { slot, nonce: 5 }),
        ("note", Message::Note { slot, code: Code::RelayCapped.number() }),
        ("fanout", Message::parse(&fanout).unwrap()),
        ("copy", Message::Copy(copy)),
        ("which", Message::Which { slot }),
        ("group", Message::Group { slot, group: 63 }),
        ("join-first", Message::JoinFirst { join: Join { cookie, ticket: &ticket, proof: &proof }, first: b"first" }),
        ("ask", Message::Ask),
    ];
    let mut actual = String::new();
    for (name, message) in messages {
        let bytes = message.to_vec();
        assert_eq!(Message::parse(&bytes), Some(message));
        assert!(is_relay(&bytes));
        let is_long = matches!(
            message,
            Message::Data { .. }
                | Message::Join(_)
                | Message::JoinFirst { .. }
                | Message::Fanout { .. }
                | Message::Copy(_)
        );
        if !is_long {
            assert!(bytes.len() <= MAX_ANSWER);
        }
        writeln!(actual, "{name} {}", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()).unwrap();
    }
    assert_eq!(actual, VECTORS);
    assert_eq!(Message::Data { slot, payload: &[] }.to_vec().len(), HEADER_SIZE);
}

#[test]
fn a_frame_for_many_names_one_to_64_slots() {
    let slots: Vec<_> = (0..65).map(|slot| Slot(slot * 0x0100_0001)).collect();
    for (count, is_frame) in [(0, false), (1, true), (2, true), (64, true), (65, false)] {
        let bytes = fanout::frame(&slots[..count], &shared());
        assert_eq!(bytes.is_some(), is_frame, "{count}");
        let Some(bytes) = bytes else { continue };
        let Some(Message::Fanout { slots: named, copy }) = Message::parse(&bytes) else { panic!("{bytes:02x?}") };
        assert_eq!(named.iter().collect::<Vec<_>>(), slots[..count]);
        assert_eq!((named.count(), named.first()), (count, slots[0]));
        assert_eq!(Message::parse(copy), Some(Message::Copy(shared())));
    }
    let mut most = fanout::frame(&slots[..64], &shared()).unwrap();
    for (count, is_frame) in [(0, false), (63, false), (64, true), (65, false), (255, false)] {
        most[1] = count;
        assert_eq!(Message::parse(&most).is_some(), is_frame, "{count}");
    }
}

#[test]
fn a_frame_names_no_slot_twice() {
    let [low, high] = [Slot(3), Slot(0xff00_0002)];
    let bytes = fanout::frame(&[high, low, high, low], &shared()).unwrap();
    assert_eq!(bytes, fanout::frame(&[low, high], &shared()).unwrap());
    for (first, second) in [(low, low), (high, low)] {
        let mut bytes = bytes.clone();
        bytes[4..8].copy_from_slice(&first.0.to_be_bytes());
        bytes[8..12].copy_from_slice(&second.0.to_be_bytes());
        assert_eq!(Message::parse(&bytes), None);
    }
}

#[test]
fn a_copy_is_not_shorter_than_its_tag() {
    for (length, is_copy) in [(0, false), (TAG_SIZE - 1, false), (TAG_SIZE, true)] {
        let sealed = vec![9; length];
        let copy = Shared { sealed: &sealed, ..shared() };
        assert_eq!(Message::parse(&Message::Copy(copy).to_vec()).is_some(), is_copy);
        assert_eq!(Message::parse(&fanout::frame(&[Slot(1)], &copy).unwrap()).is_some(), is_copy);
    }
}

#[test]
fn as_many_slots_are_named_as_fit() {
    let copy = Message::Copy(shared()).to_vec().len();
    for (count, room) in [(0, copy), (0, copy + 7), (1, copy + 8), (1, copy + 11), (2, copy + 12), (63, copy + 259)] {
        assert_eq!(slots_that_fit(room, copy), count);
    }
    assert_eq!([copy + 260, copy + 264, 65_535].map(|room| slots_that_fit(room, copy)), [MAX_COPIES; 3]);
    assert_eq!(slots_that_fit(0, usize::MAX - 4), 0);
}

#[test]
fn a_first_packet_is_bounded_to_the_byte() {
    let ticket = key().seal(&ticket());
    let join = Join { cookie: Cookie([3; 16]), ticket: &ticket, proof: &[2; 16] };
    for (length, legal) in [(0, false), (1, true), (MAX_FIRST, true), (MAX_FIRST + 1, false)] {
        let first = vec![9; length];
        let message = Message::JoinFirst { join, first: &first };
        assert_eq!(Message::parse(&message.to_vec()), legal.then_some(message), "{length}");
    }
}

#[test]
fn the_question_for_a_challenge_is_as_large_as_the_answer_and_says_nothing() {
    let ask = Message::Ask.to_vec();
    assert_eq!(ask.len(), Message::Challenge { cookie: Cookie([3; 16]) }.to_vec().len());
    for wrong in [&ask[..19], &[&ask[..], &[0]].concat(), &[&ask[..19], &[1]].concat()] {
        assert_eq!(Message::parse(wrong), None);
    }
}

#[test]
fn a_ticket_says_what_was_sealed() {
    let sealed = key().seal(&ticket());
    assert_eq!(key().open(&sealed), Ok(ticket()));
}

#[test]
fn a_ticket_of_another_relay_or_deployment_is_refused() {
    let sealed = key().seal(&ticket());
    let elsewhere = RelayId::from_bytes([9; 16]);
    assert_eq!(TicketRoot::new([1; 32]).key(elsewhere).open(&sealed), Err(TicketError::OtherRelay));
    assert_eq!(TicketRoot::new([2; 32]).key(relay()).open(&sealed), Err(TicketError::Forged));
}

#[test]
fn the_two_legs_of_a_pair_have_different_keys() {
    let a = key().seal(&ticket());
    let b = key().seal(&Ticket { side: LegSide::B, ..ticket() });
    assert_ne!(key().leg_key(&a), key().leg_key(&b));
}

#[test]
fn a_proof_is_for_one_address_and_one_ticket() {
    let sealed = key().seal(&ticket());
    let leg = key().leg_key(&sealed);
    let proof = prove(&leg, Cookie([3; 16]), &sealed);
    assert!(Join { cookie: Cookie([3; 16]), ticket: &sealed, proof: &proof }.is_proved_by(&leg));
    assert!(!Join { cookie: Cookie([4; 16]), ticket: &sealed, proof: &proof }.is_proved_by(&leg));
    assert!(!Join { cookie: Cookie([3; 16]), ticket: &sealed, proof: &proof }.is_proved_by(&LegKey([0; 32])));
}

proptest! {
    #[test]
    fn any_damage_to_a_ticket_is_seen(at in 0..TICKET_SIZE, bit in 0_u8..8) {
        let mut sealed = key().seal(&ticket());
        sealed[at] ^= 1 << bit;
        prop_assert!(key().open(&sealed).is_err());
    }

    #[test]
    fn whatever_reads_writes_back(bytes in proptest::collection::vec(any::<u8>(), 0..500), kind in 0xaf_u8..0xc0) {
        let mut bytes = bytes;
        if bytes.len() >= 4 {
            bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
        }
        if let Some(message) = Message::parse(&bytes) {
            prop_assert_eq!(message.to_vec(), bytes);
        }
    }

    #[test]
    fn a_join_has_one_length(length in 0..300_usize) {
        let mut bytes = vec![0; length];
        if let Some(first) = bytes.first_mut() {
            *first = 0xb3;
        }
        prop_assert_eq!(Message::parse(&bytes).is_some(), length == JOIN_SIZE);
    }

    #[test]
    fn a_first_packet_has_a_byte_at_least_and_256_at_most(length in 0..600_usize) {
        let mut bytes = vec![0; length];
        if let Some(first) = bytes.first_mut() {
            *first = 0xba;
        }
        let legal = JOIN_SIZE + 1..=JOIN_SIZE + MAX_FIRST;
        prop_assert_eq!(Message::parse(&bytes).is_some(), legal.contains(&length));
    }
}

fn shared() -> Shared<'static> {
    Shared { counter: u32::MAX, key: SharedKeyId([1, 2, 3, 4, 5, 6, 7, 8]), sealed: &[9; 100] }
}

fn relay() -> RelayId {
    RelayId::from_bytes([7; 16])
}

fn key() -> TicketKey {
    TicketRoot::new([1; 32]).key(relay())
}

fn ticket() -> Ticket {
    Ticket {
        relay: relay(),
        pair: PairNonce([5; 16]),
        side: LegSide::A,
        rate: Bandwidth::from_kbit_per_second(8),
        payer: PayerId::from_bytes([6; 16]),
        expires: UnixMillis(1_700_000_000_000),
    }
}
