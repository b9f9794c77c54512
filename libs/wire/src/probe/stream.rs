//! STUN over TCP: messages follow one another, each framed by the length in its header (RFC 8489, section 6.2.2).

use super::stun::{COOKIE, HEADER, MAX_MESSAGE};

/// How many bytes the message takes that `received` begins with.
///
/// `Ok(None)` when that cannot be told yet; what is told may be more than was received so far.
///
/// # Errors
/// [`NotStun`] as soon as no STUN message can come of it any more: the connection carries something else.
pub fn framed(received: &[u8]) -> Result<Option<usize>, NotStun> {
    let cookie = received.get(4..).unwrap_or_default();
    let known = cookie.len().min(COOKIE.len());
    if received.first().is_some_and(|byte| *byte >= 0x40) || cookie[..known] != COOKIE[..known] {
        return Err(NotStun);
    }
    let Some(&[high, low]) = received.get(2..4) else { return Ok(None) };
    let length = HEADER + usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_MESSAGE || !length.is_multiple_of(4) {
        return Err(NotStun);
    }
    Ok(Some(length))
}

/// Not STUN, or a message larger than any of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a STUN message")]
pub struct NotStun;
