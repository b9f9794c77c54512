//! Whatever strangers send, nothing goes to an address that did not prove itself, and no answer is larger than its question.

use std::net::SocketAddr;

use domain::Bandwidth;
use proptest::prelude::*;
use relay::core::Verdict;
use wire::{
    fanout::{self, Shared, SharedKeyId},
    relay::{Cookie, Join, Message, Slot, prove},
    ticket::LegSide,
};

use crate::lab::{ALICE, BERT, Lab, forwarded_to};

#[derive(Clone, Debug)]
enum Move {
    Noise(Vec<u8>),
    Data {
        slot: u32,
        size: usize,
    },
    Ping {
        slot: u32,
    },
    Fanout {
        slots: Vec<u32>,
    },
    Which {
        slot: u32,
    },
    /// A join with a cookie of one's own making, and maybe with a first packet.
    Join {
        cookie: [u8; 16],
        good_ticket: bool,
        first: Vec<u8>,
    },
    Ask,
}

fn moves() -> impl Strategy<Value = (u16, Move)> {
    let slots = prop_oneof![0..3_u32, any::<u32>(), (0..3_u32).prop_map(|slot| slot | 1 << 24)];
    let noise = (0xaf_u8..0xc0, proptest::collection::vec(any::<u8>(), 0..160)).prop_map(|(kind, mut bytes)| {
        if let Some(first) = bytes.first_mut() {
            *first = kind;
        }
        Move::Noise(bytes)
    });
    let act = prop_oneof![
        noise,
        (slots.clone(), 8..1_500_usize).prop_map(|(slot, size)| Move::Data { slot, size }),
        slots.clone().prop_map(|slot| Move::Ping { slot }),
        proptest::collection::vec(slots.clone(), 1..65).prop_map(|slots| Move::Fanout { slots }),
        slots.prop_map(|slot| Move::Which { slot }),
        (any::<[u8; 16]>(), any::<bool>(), proptest::collection::vec(any::<u8>(), 0..257))
            .prop_map(|(cookie, good_ticket, first)| Move::Join { cookie, good_ticket, first }),
        Just(Move::Ask),
    ];
    (any::<u16>(), act)
}

proptest! {
    #[test]
    fn strangers_move_nothing_and_gain_nothing(moves in proptest::collection::vec(moves(), 1..60)) {
        let mut lab = Lab::new();
        let slot = lab.pair(Bandwidth::UNLIMITED);
        let ticket = lab.ticket(LegSide::A, Bandwidth::UNLIMITED);
        for (port, act) in moves {
            let from = SocketAddr::from(([198, 51, 100, 1], port.max(1)));
            let datagram = match act {
                Move::Noise(bytes) => bytes,
                Move::Data { slot, size } => Message::Data { slot: Slot(slot), payload: &vec![0; size] }.to_vec(),
                Move::Ping { slot } => Message::Ping { slot: Slot(slot), nonce: 1 }.to_vec(),
                Move::Fanout { slots } => fanout::frame(&slots.into_iter().map(Slot).collect::<Vec<_>>(), &COPY).unwrap(),
                Move::Which { slot } => Message::Which { slot: Slot(slot) }.to_vec(),
                Move::Ask => Message::Ask.to_vec(),
                Move::Join { cookie, good_ticket, first } => {
                    let cookie = Cookie(cookie);
                    let sealed = if good_ticket { ticket.sealed } else { [1; wire::ticket::TICKET_SIZE] };
                    let proof = prove(&ticket.key, cookie, &sealed);
                    let join = Join { cookie, ticket: &sealed, proof: &proof };
                    if first.is_empty() { Message::Join(join) } else { Message::JoinFirst { join, first: &first } }.to_vec()
                }
            };
            match lab.send(from, &datagram) {
                Verdict::Forward(to) => prop_assert!(false, "forwarded to {to:?}"),
                Verdict::Copy => prop_assert!(false, "copied"),
                Verdict::Answer(answer) => prop_assert!(answer.as_bytes().len() <= datagram.len()),
                Verdict::Drop(_) => {}
            }
        }
        prop_assert_eq!(lab.relay.pairs(), 1);
        prop_assert_eq!(&lab.parcels, &[]);
        prop_assert_eq!(lab.data(ALICE, slot, 100), forwarded_to(BERT));
    }
}

const COPY: Shared<'_> = Shared { counter: 1, key: SharedKeyId([2; 8]), sealed: &[3; 100] };
