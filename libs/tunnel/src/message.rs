//! What users say to one another, in parts that fit into a tunnel.

use domain::{MessageId, UnixMillis};

/// A part of a message: most have but one.
#[derive(Clone, PartialEq, Eq)]
pub struct MessagePart {
    pub id: MessageId,
    /// By the sender's clock.
    pub sent: UnixMillis,
    /// Which part it is, from 0.
    pub part: u8,
    /// How many there are.
    pub parts: u8,
    /// Some of the text, in UTF-8 when whole.
    pub bytes: Vec<u8>,
}

impl MessagePart {
    /// The longest text, in bytes.
    pub const MAX_TEXT: usize = 2_000;
    pub const MAX_PARTS: usize = Self::MAX_TEXT.div_ceil(PART);

    /// The parts of a message, none for an empty one. What is over [`Self::MAX_TEXT`] is left out.
    pub fn split(id: MessageId, sent: UnixMillis, text: &str) -> impl Iterator<Item = Self> {
        let bytes = &text.as_bytes()[..text.len().min(Self::MAX_TEXT)];
        let parts = u8::try_from(bytes.len().div_ceil(PART)).unwrap_or(u8::MAX);
        (0..).zip(bytes.chunks(PART)).map(move |(part, bytes)| Self { id, sent, part, parts, bytes: bytes.to_vec() })
    }

    /// `[id, sent, part, parts, bytes]`.
    pub(crate) fn put(&self, body: &mut Vec<u8>) {
        body.extend(self.id.as_bytes());
        body.extend(self.sent.0.to_be_bytes());
        body.extend([self.part, self.parts]);
        body.extend(&self.bytes);
    }

    /// Reads a part; each but the last is full.
    pub(crate) fn read(fields: &[u8]) -> Option<Self> {
        let (id, rest) = fields.split_first_chunk()?;
        let (sent, rest) = rest.split_first_chunk()?;
        let ([part, parts], bytes) = rest.split_first_chunk()?;
        let (last, before) = (*parts == part.checked_add(1)?, usize::from(*part) * PART);
        let fits = if last {
            !bytes.is_empty() && bytes.len() <= PART && before + bytes.len() <= Self::MAX_TEXT
        } else {
            part < parts && usize::from(*parts) <= Self::MAX_PARTS && bytes.len() == PART
        };
        fits.then(|| Self {
            id: MessageId::from_bytes(*id),
            sent: UnixMillis(u64::from_be_bytes(*sent)),
            part: *part,
            parts: *parts,
            bytes: bytes.to_vec(),
        })
    }
}

/// Without what is said.
impl std::fmt::Debug for MessagePart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("MessagePart");
        shown.field("id", &self.id).field("part", &self.part).field("parts", &self.parts).finish_non_exhaustive()
    }
}

/// What fits beside the other fields into an inner packet.
const PART: usize = 1_200;

#[cfg(test)]
mod tests {
    use domain::ClientId;

    use super::*;
    use crate::{Frame, INNER_MTU, InnerPacket};

    #[test]
    fn a_text_of_any_length_that_may_be_comes_over_in_parts() {
        for length in [1, 2, PART - 1, PART, PART + 1, MessagePart::MAX_TEXT] {
            let text = "x".repeat(length);
            let parts: Vec<_> = MessagePart::split(ID, UnixMillis(5), &text).collect();
            assert_eq!(parts.len(), if length > PART { 2 } else { 1 });
            let read = parts.into_iter().map(|part| {
                let packet = Frame::Message(part.clone()).encode(ALICE, BOB);
                assert!(packet.len() <= INNER_MTU);
                assert_eq!(Frame::decode(&InnerPacket::parse(&packet).unwrap()), Some(Frame::Message(part.clone())));
                part.bytes
            });
            assert_eq!(read.collect::<Vec<_>>().concat(), text.as_bytes());
        }
        assert_eq!(MessagePart::split(ID, UnixMillis(5), "").count(), 0);
        assert_eq!(MessagePart::MAX_PARTS, 2);
    }

    #[test]
    fn a_message_has_these_bytes() {
        let part = MessagePart::split(ID, UnixMillis(5), "hi").next().unwrap();
        assert!(!format!("{:?}", Frame::Message(part.clone())).contains("104"), "what is said is not shown");
        let hex = |frame: Frame| frame.encode(ALICE, BOB)[40..].iter().map(|byte| format!("{byte:02x}")).collect();
        let (message, taken): (String, String) = (hex(Frame::Message(part)), hex(Frame::MessageTaken(ID)));
        assert_eq!(message, "0900000007070707070707070707070707070707000000000000000500016869");
        assert_eq!(taken, "0a00000007070707070707070707070707070707");
    }

    #[test]
    fn parts_that_no_message_has_are_none() {
        for (part, parts, length) in [
            (0, 0, 1),
            (0, 1, 0),
            (0, 1, PART + 1),
            (1, 1, 1),
            (0, 2, PART - 1),
            (1, 2, MessagePart::MAX_TEXT - PART + 1),
            (0, 3, PART),
            (2, 3, 1),
            (255, 0, 1),
            (254, 255, 1),
        ] {
            let mut body = Vec::new();
            MessagePart { id: ID, sent: UnixMillis(5), part, parts, bytes: vec![b'x'; length] }.put(&mut body);
            assert_eq!(MessagePart::read(&body), None, "{part} of {parts}, {length} bytes");
        }
        assert_eq!(MessagePart::read(&[7; 25]), None);
    }

    const ID: MessageId = MessageId::from_bytes([7; 16]);
    const ALICE: ClientId = ClientId::from_bytes([1; 16]);
    const BOB: ClientId = ClientId::from_bytes([2; 16]);
}
