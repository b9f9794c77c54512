//! Messages of the relay: what reads writes back, byte for byte.

use wire::{
    fanout::{self, MAX_COPIES},
    relay::{HEADER_SIZE, JOIN_SIZE, MAX_ANSWER, MAX_FIRST, Message, is_relay},
};

pub(crate) fn check(bytes: &[u8]) {
    let Some(message) = Message::parse(bytes) else { return };
    assert!(is_relay(bytes));
    assert_eq!(message.to_vec(), bytes);
    match message {
        Message::Data { payload, .. } => assert_eq!(HEADER_SIZE + payload.len(), bytes.len()),
        Message::Fanout { slots, copy } => {
            let Some(Message::Copy(sealed)) = Message::parse(copy) else { panic!("no copy: {copy:02x?}") };
            let slots: Vec<_> = slots.iter().collect();
            assert!((1..=MAX_COPIES).contains(&slots.len()));
            assert_eq!(fanout::frame(&slots, &sealed).as_deref(), Some(bytes));
        }
        Message::Copy(copy) => assert_eq!(fanout::COPY_HEADER_SIZE + copy.sealed.len(), bytes.len()),
        Message::Join(_) => assert_eq!(bytes.len(), JOIN_SIZE),
        Message::JoinFirst { first, .. } => {
            assert_eq!(JOIN_SIZE + first.len(), bytes.len());
            assert!((1..=MAX_FIRST).contains(&first.len()));
        }
        Message::Challenge { .. }
        | Message::Joined { .. }
        | Message::Refused { .. }
        | Message::Ping { .. }
        | Message::Pong { .. }
        | Message::Note { .. }
        | Message::Ask
        | Message::Which { .. }
        | Message::Group { .. } => assert!(bytes.len() <= MAX_ANSWER),
    }
}
