//! STUN, as clients and reflectors speak it, and what a reflector states about a client.
//!
//! The messages are binding requests and responses of RFC 8489 with the attributes of RFC 5780, so that independent tools
//! can measure through our reflectors too. Three attributes are ours, all from the comprehension-optional range:
//!
//! - SESSION-TAG (0xC0B0, 16 bytes) in a request asks for an observation that is bound to the session;
//! - OBSERVATION (0xC0B1, 78 bytes) in the response is the reflector's sealed statement. The client carries it to
//!   rendezvous, which opens it with the deployment's key: no message on the bus for a probe, no forged addresses;
//! - DELAY (0xC0B2, seconds as 4 bytes) in a request asks for the answer after a while of silence, which shows how long a
//!   NAT keeps a mapping. Only for questions that are not smaller than their answer, and at most [`LONGEST_DELAY`].
//!
//! **No amplifier.** A request with a tag is answered only when the answer is not larger, so our clients pad
//! ([`QUESTION_SIZE`]). Plain requests of other tools are answered with a slightly larger message, within a small budget of
//! their source ([`Desk`]). Whatever is remembered is bounded, however many sources somebody makes up. PADDING is never echoed (RFC 5780, section 7.6 wants it back), and
//! RESPONSE-PORT is unknown here, because both turn a reflector into a weapon.
//!
//! **Independent tools.** `turnutils_natdiscovery -m -f` and `turnutils_stunclient` of coturn 4.6.1 complete against
//! `mediator all --bind 127.0.77.1,127.0.77.2,::1`: both name RESPONSE-ORIGIN and OTHER-ADDRESS rightly, the filter
//! answers come from where CHANGE-REQUEST wants them, and the loopback is found to be endpoint-independent in both respects.

mod desk;
mod later;
mod observation;
mod reflect;
mod sources;
mod stream;
mod stun;

use std::time::Duration;

use domain::{Observation, Probe, Reflected, TransactionId, Vantage};

pub use desk::{Budget, Desk, Verdict};
pub use later::{Late, MOST_LATE, MOST_LATE_PER_SOURCE};
pub use observation::{OBSERVATION_LIFETIME, ObservationError, ObservationKey, Observed};
pub use reflect::{Asked, Corner, MAX_ANSWER_SIZE, Mirror, Reflection};
pub use sources::Sources;
pub use stream::{NotStun, framed};
pub use stun::MAX_MESSAGE;

use stun::{Attribute, Kind, Message, Writer};

/// Size of every question of ours: no answer is larger, whatever the address families.
pub const QUESTION_SIZE: usize = 192;

/// No answer comes later than this: longer than any binding lifetime that a client needs to know.
pub const LONGEST_DELAY: Duration = Duration::from_secs(185);

/// Why a datagram is no answer of a reflector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    #[error("not a STUN message")]
    Malformed,
    #[error("a STUN message, but no binding response with an address")]
    Useless,
}

/// What a reflector answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Reflected(Reflected),
    /// An error with its STUN code: 420 says that the reflector cannot answer from where it was asked to.
    Refused {
        transaction: TransactionId,
        code: u16,
    },
}

/// Whether `datagram` belongs to STUN, on a socket that also carries tunnels and punch packets.
#[must_use]
pub fn is_stun(datagram: &[u8]) -> bool {
    datagram.len() >= stun::HEADER && datagram[0] < 0x40 && datagram[4..8] == stun::COOKIE
}

/// The datagram that asks `probe`.
///
/// # Panics
/// Never: the question fits into [`QUESTION_SIZE`].
#[must_use]
pub fn question(probe: &Probe) -> Vec<u8> {
    let mut bytes = vec![0; QUESTION_SIZE];
    let mut writer = Writer::new(&mut bytes, Kind::Request, probe.transaction.0).expect("a header fits");
    if let Some(tag) = probe.tag {
        writer.attribute(Attribute::SESSION_TAG, &tag.0).expect("a tag fits");
    }
    if let Some(flags) = change_flags(probe.answer_from) {
        writer.attribute(Attribute::CHANGE_REQUEST, &flags.to_be_bytes()).expect("four bytes fit");
    }
    if probe.delay_s > 0 {
        writer.attribute(Attribute::DELAY, &u32::from(probe.delay_s).to_be_bytes()).expect("four bytes fit");
    }
    writer.pad().expect("what is left is a multiple of four and holds a header");
    bytes
}

/// Reads the answer to a [`question`].
///
/// # Errors
/// [`ProbeError`]. Whether the answer belongs to a question is for the caller to check, by its transaction.
pub fn answer(datagram: &[u8]) -> Result<Answer, ProbeError> {
    let message = Message::parse(datagram).ok_or(ProbeError::Malformed)?;
    let transaction = TransactionId(message.transaction);
    match message.kind {
        Kind::Success => {
            let seen = message
                .attribute(Attribute::XOR_MAPPED_ADDRESS)
                .and_then(|value| stun::read_xor_address(value, &message.transaction))
                .or_else(|| message.attribute(Attribute::MAPPED_ADDRESS).and_then(stun::read_address))
                .ok_or(ProbeError::Useless)?;
            let observation = message.attribute(Attribute::OBSERVATION).map(|value| Observation(value.to_vec()));
            let ttl = observation.as_ref().and_then(Observed::claimed).map_or(0, |claimed| claimed.ttl);
            Ok(Answer::Reflected(Reflected { transaction, seen, ttl, observation }))
        }
        Kind::Error => {
            let code = message.attribute(Attribute::ERROR_CODE).and_then(stun::read_error_code);
            Ok(Answer::Refused { transaction, code: code.ok_or(ProbeError::Useless)? })
        }
        Kind::Request | Kind::Indication => Err(ProbeError::Useless),
    }
}

/// CHANGE-REQUEST flags: 4 changes the address, 2 the port (RFC 5780, section 7.2).
const fn change_flags(vantage: Vantage) -> Option<u32> {
    match vantage {
        Vantage::Asked => None,
        Vantage::OtherPort => Some(2),
        Vantage::OtherAddress => Some(4),
        Vantage::Opposite => Some(6),
    }
}
