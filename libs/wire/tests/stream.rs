//! Relay messages over a stream, byte for byte, and what becomes of damaged ones.

use std::net::SocketAddr;

use proptest::prelude::*;
use wire::{
    relay::{HEADER_SIZE, MAX_DATAGRAM, Message, Slot},
    stream::{FrameError, MAX_FRAMES, MAX_MESSAGE, Outbox, StreamId, frames, valid_frames},
};

const VECTORS: &str = include_str!("vectors/stream.txt");

#[test]
fn a_message_has_its_bytes_and_reads_back() {
    let sent = [
        Message::Data { slot: Slot(0x0102_0304), payload: b"payload" }.to_vec(),
        Message::Ping { slot: Slot(0x0102_0304), nonce: 5 }.to_vec(),
    ];
    let mut outbox = Outbox::new(1_000);
    for frame in &sent {
        assert!(outbox.push(frame));
    }
    let message = outbox.take().unwrap();
    let hex: String = message.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, VECTORS.trim_end());
    assert_eq!(frames(&message).unwrap().collect::<Vec<_>>(), sent);
    assert!(outbox.is_empty());
}

#[test]
fn a_stream_has_an_address_and_no_other_address_is_one() {
    for id in [0, 1, 0xff_0000_0000_0001, u64::MAX] {
        let address = StreamId(id).address();
        assert_eq!(StreamId::of(&address), Some(StreamId(id)));
        assert!(address.to_string().starts_with("[100:"), "{address}");
    }
    for other in ["[100:0:0:1::1]:443", "[2001:db8::1]:443", "[::]:443", "1.0.0.1:443"] {
        assert_eq!(StreamId::of(&other.parse::<SocketAddr>().unwrap()), None, "{other}");
    }
}

#[test]
fn limits_hold_exactly() {
    let frame = |size: usize| [&u16::try_from(size).unwrap().to_be_bytes()[..], &vec![0; size]].concat();
    assert_eq!(frames(&frame(MAX_DATAGRAM)).unwrap().count(), 1);
    assert_eq!(frames(&frame(MAX_DATAGRAM + 1)).err(), Some(FrameError::TooLarge));
    assert_eq!(frames(&frame(HEADER_SIZE)).unwrap().count(), 1);
    assert_eq!(frames(&frame(HEADER_SIZE - 1)).err(), Some(FrameError::TooSmall));
    assert_eq!(frames(&[0; 2]).err(), Some(FrameError::TooSmall));
    assert_eq!(frames(&frame(100)[..101]).err(), Some(FrameError::Truncated));
    assert_eq!(frames(&[0]).err(), Some(FrameError::Truncated));
    assert_eq!(frames(&frame(HEADER_SIZE).repeat(MAX_FRAMES)).unwrap().count(), MAX_FRAMES);
    assert_eq!(frames(&frame(HEADER_SIZE).repeat(MAX_FRAMES + 1)).err(), Some(FrameError::TooMany));
    let largest = [frame(MAX_DATAGRAM).repeat(7), frame(MAX_MESSAGE - 7 * (2 + MAX_DATAGRAM) - 2)].concat();
    assert_eq!((largest.len(), frames(&largest).unwrap().count()), (MAX_MESSAGE, 8));
    let larger = [frame(MAX_DATAGRAM).repeat(7), frame(MAX_MESSAGE - 7 * (2 + MAX_DATAGRAM) - 1)].concat();
    assert_eq!(frames(&larger).err(), Some(FrameError::TooLarge));
    assert_eq!(frames(&[]).unwrap().count(), 0);
    assert_eq!(
        [FrameError::TooLarge, FrameError::TooSmall, FrameError::Text].map(FrameError::close_code),
        [1009, 1002, 1003]
    );
}

#[test]
fn an_outbox_takes_what_fits_and_no_more() {
    let mut outbox = Outbox::new(10 * (2 + 100));
    for _ in 0..10 {
        assert!(outbox.push(&[1; 100]));
    }
    assert!(!outbox.push(&[1; 100]));
    assert_eq!(outbox.bytes(), 1_020);
    assert_eq!(outbox.take().unwrap().len(), 1_020);
    assert_eq!((outbox.bytes(), outbox.take()), (0, None));
    assert!(!outbox.push(&[1; HEADER_SIZE - 1]));
    assert!(!outbox.push(&[1; MAX_DATAGRAM + 1]));
}

proptest! {
    #[test]
    fn whatever_is_put_in_comes_out_in_order(sizes in proptest::collection::vec(HEADER_SIZE..=MAX_DATAGRAM, 0..300)) {
        let mut outbox = Outbox::new(usize::MAX);
        let sent: Vec<_> = sizes.iter().enumerate().map(|(nth, size)| vec![nth as u8; *size]).collect();
        for frame in &sent {
            prop_assert!(outbox.push(frame));
        }
        let mut received = Vec::new();
        while let Some(message) = outbox.take() {
            prop_assert!(message.len() <= MAX_MESSAGE);
            received.extend(frames(&message).unwrap().map(<[u8]>::to_vec));
        }
        prop_assert_eq!(received, sent);
    }

    #[test]
    fn hostile_bytes_are_an_error_or_legal_frames(bytes in proptest::collection::vec(any::<u8>(), 0..5_000)) {
        let reread: Vec<_> = valid_frames(&bytes).collect();
        if let Ok(all) = frames(&bytes) {
            let all: Vec<_> = all.collect();
            prop_assert!(all.iter().all(|frame| (HEADER_SIZE..=MAX_DATAGRAM).contains(&frame.len())));
            prop_assert_eq!(all, reread);
        }
    }
}
