//! Messages of the relay: what reads writes back, byte for byte.

use wire::relay::{HEADER_SIZE, JOIN_SIZE, MAX_ANSWER, Message, is_relay};

pub(crate) fn check(bytes: &[u8]) {
    let Some(message) = Message::parse(bytes) else { return };
    assert!(is_relay(bytes));
    assert_eq!(message.to_vec(), bytes);
    match message {
        Message::Data { payload, .. } => assert_eq!(HEADER_SIZE + payload.len(), bytes.len()),
        Message::Join(_) => assert_eq!(bytes.len(), JOIN_SIZE),
        Message::Challenge { .. }
        | Message::Joined { .. }
        | Message::Refused { .. }
        | Message::Ping { .. }
        | Message::Pong { .. }
        | Message::Note { .. } => assert!(bytes.len() <= MAX_ANSWER),
    }
}
