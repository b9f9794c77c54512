//! What surrounds a message on its way. CBOR with numbered fields, which an older reader skips.
//!
//! Time on the way is measured by the broker or by a monotonic clock, never by comparing the wall clocks of two machines:
//! the wall clock in a message is for people who read a dump of a queue.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use minicbor::{Decode, Encode};

use crate::{Error, trace::Trace};

/// What a message may measure with its envelope. Brokers and memory stay bounded; nothing of ours comes near it.
pub const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

/// A call or an event on its way.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Message {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub(crate) id: [u8; 16],
    /// Of the call, or the topic of the event: what arrives at the wrong door is malformed.
    #[n(1)]
    pub(crate) subject: String,
    #[n(2)]
    pub(crate) sent_unix_ms: u64,
    /// How long a caller was going to wait when it sent this.
    #[n(3)]
    pub(crate) remaining_ms: Option<u32>,
    /// The queue of the caller.
    #[n(4)]
    pub(crate) reply_to: Option<String>,
    /// A W3C `traceparent`.
    #[n(5)]
    pub(crate) trace: Option<String>,
    #[cbor(n(6), with = "minicbor::bytes")]
    pub(crate) body: Vec<u8>,
}

/// The answer to a call on its way back.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Answer {
    /// Of the call.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub(crate) id: [u8; 16],
    #[n(1)]
    pub(crate) outcome: Outcome,
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Outcome {
    #[n(0)]
    Reply(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    #[n(1)]
    Refusal(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    #[n(2)]
    Malformed,
    /// The server failed, or lost the call half way and does not begin again.
    #[n(3)]
    Unserved,
}

/// Bytes that are no envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a message of this bus")]
pub(crate) struct Malformed;

impl Message {
    pub(crate) fn new(subject: &str, trace: Trace, remaining: Option<Duration>, body: Vec<u8>) -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            id: uuid::Uuid::now_v7().into_bytes(),
            subject: subject.to_owned(),
            sent_unix_ms: u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX),
            remaining_ms: remaining.map(|remaining| u32::try_from(remaining.as_millis()).unwrap_or(u32::MAX)),
            reply_to: None,
            trace: Some(trace.to_string()),
            body,
        }
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>, Error> {
        bounded(to_bytes(self))
    }

    /// Reads a message that came in through the door of `subject`.
    pub(crate) fn decode(subject: &str, bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > MAX_MESSAGE_BYTES {
            return Err(Malformed);
        }
        minicbor::decode::<Self>(bytes).ok().filter(|message| message.subject == subject).ok_or(Malformed)
    }
}

impl Answer {
    /// The bytes of the answer; one that is too large becomes [`Outcome::Unserved`].
    pub(crate) fn encode(self) -> Vec<u8> {
        bounded(to_bytes(&self)).unwrap_or_else(|_| to_bytes(&Self { id: self.id, outcome: Outcome::Unserved }))
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > MAX_MESSAGE_BYTES {
            return Err(Malformed);
        }
        minicbor::decode(bytes).map_err(|_| Malformed)
    }
}

/// The CBOR of `value`.
pub(crate) fn to_bytes<T: Encode<()>>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    minicbor::encode(value, &mut bytes).expect("a vector takes every byte, and derived encodings do not fail");
    bytes
}

fn bounded(bytes: Vec<u8>) -> Result<Vec<u8>, Error> {
    if bytes.len() > MAX_MESSAGE_BYTES { Err(Error::TooLarge { bytes: bytes.len() }) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_reads_back_at_its_own_door_only() {
        let message = Message::new("auth.login", Trace::start(), Some(Duration::from_secs(2)), vec![1, 2, 3]);
        let bytes = message.encode().unwrap();
        assert_eq!(Message::decode("auth.login", &bytes), Ok(message));
        assert_eq!(Message::decode("auth.renew", &bytes), Err(Malformed));
    }

    #[test]
    fn the_bytes_of_version_one_stay() {
        let message = Message {
            id: [1; 16],
            subject: "a.b".to_owned(),
            sent_unix_ms: 1_000,
            remaining_ms: Some(2_000),
            reply_to: Some("q".to_owned()),
            trace: None,
            body: vec![7],
        };
        let bytes = [&[0x87, 0x50], &[1; 16][..], b"\x63a.b\x19\x03\xe8\x19\x07\xd0\x61q\xf6\x41\x07"].concat();
        assert_eq!(message.encode(), Ok(bytes.clone()));
        assert_eq!(Message::decode("a.b", &bytes), Ok(message));

        for (outcome, end) in [
            (Outcome::Reply(vec![9]), &b"\x82\x00\x81\x41\x09"[..]),
            (Outcome::Refusal(vec![9]), b"\x82\x01\x81\x41\x09"),
            (Outcome::Malformed, b"\x82\x02\x80"),
            (Outcome::Unserved, b"\x82\x03\x80"),
        ] {
            let bytes = [&[0x82, 0x50], &[2; 16][..], end].concat();
            assert_eq!(Answer { id: [2; 16], outcome: outcome.clone() }.encode(), bytes);
            assert_eq!(Answer::decode(&bytes), Ok(Answer { id: [2; 16], outcome }));
        }
    }

    #[test]
    fn fields_of_a_later_version_are_skipped() {
        let message = Message { trace: None, ..Message::new("a.b", Trace::start(), None, vec![7]) };
        let mut bytes = message.encode().unwrap();
        assert_eq!(bytes[0], 0x87, "an array of seven");
        bytes[0] = 0x88;
        bytes.push(0xf5);
        assert_eq!(Message::decode("a.b", &bytes), Ok(message));
    }

    #[test]
    fn what_is_too_large_is_not_sent() {
        let message = Message::new("a.b", Trace::start(), None, vec![0; MAX_MESSAGE_BYTES]);
        assert!(matches!(message.encode(), Err(Error::TooLarge { bytes }) if bytes > MAX_MESSAGE_BYTES));

        let answer = Answer { id: [1; 16], outcome: Outcome::Reply(vec![0; MAX_MESSAGE_BYTES]) };
        let unserved = Answer { id: [1; 16], outcome: Outcome::Unserved };
        assert_eq!(Answer::decode(&answer.encode()), Ok(unserved));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoders_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            let _ = Message::decode("a.b", &bytes);
            let _ = Answer::decode(&bytes);
        }
    }
}
