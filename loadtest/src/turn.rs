//! The little of TURN (RFC 8656) that two clients need to talk over two allocations of a server. Pure.
//!
//! Credentials are the long-term ones (RFC 8489, section 9.2). Their key is a digest of user, realm and password; a server of
//! ours is given the key itself, so that nobody needs the digest.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ring::hmac;

/// Channel number and length, in front of what a channel carries.
pub(crate) const CHANNEL_HEADER: usize = 4;

/// The first number that a channel may have.
pub(crate) const CHANNEL: u16 = 0x4000;

/// What a server is told by its key.
pub(crate) const USER: &str = "loadtest";
pub(crate) const REALM: &str = "loadtest";

const HEADER: usize = 20;
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const INTEGRITY_SIZE: usize = 20;

const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const ERROR_CODE: u16 = 0x0009;
const CHANNEL_NUMBER: u16 = 0x000c;
const LIFETIME: u16 = 0x000d;
const XOR_PEER_ADDRESS: u16 = 0x0012;
const REALM_ATTRIBUTE: u16 = 0x0014;
const NONCE: u16 = 0x0015;
const XOR_RELAYED_ADDRESS: u16 = 0x0016;
const REQUESTED_TRANSPORT: u16 = 0x0019;

/// Protocol number 17, and reserved bytes.
const UDP: [u8; 4] = [17, 0, 0, 0];

/// The key of the long-term credential.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    hmac: hmac::Key,
    hex: String,
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// An address of its own at the server, for an hour.
    Allocate,
    /// A channel to this peer, with the permission that comes with it.
    Bind(SocketAddr),
}

/// What a server says to that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// With the relayed address, where one was asked for.
    Success(Option<SocketAddr>),
    /// With the nonce that the next try needs, where it says one.
    Error { code: u16, nonce: Option<Vec<u8>> },
}

impl Key {
    pub(crate) fn new(bytes: [u8; 16]) -> Self {
        let hex = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { hmac: hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &bytes), hex }
    }

    /// As configurations say it.
    pub(crate) fn hex(&self) -> &str {
        &self.hex
    }
}

impl Request {
    /// The bytes of the request; without a nonce it asks for one.
    pub(crate) fn to_vec(self, transaction: [u8; 12], credential: Option<(&Key, &[u8])>) -> Vec<u8> {
        let method: u16 = match self {
            Self::Allocate => 0x0003,
            Self::Bind(_) => 0x0009,
        };
        let mut out = [&method.to_be_bytes()[..], &[0, 0], &COOKIE, &transaction].concat();
        match self {
            Self::Allocate => {
                put(&mut out, REQUESTED_TRANSPORT, &UDP);
                put(&mut out, LIFETIME, &3_600_u32.to_be_bytes());
            }
            Self::Bind(peer) => {
                put(&mut out, CHANNEL_NUMBER, &[CHANNEL.to_be_bytes(), [0, 0]].concat());
                put(&mut out, XOR_PEER_ADDRESS, &xor(peer));
            }
        }
        if let Some((key, nonce)) = credential {
            put(&mut out, USERNAME, USER.as_bytes());
            put(&mut out, REALM_ATTRIBUTE, REALM.as_bytes());
            put(&mut out, NONCE, nonce);
            // The length in the header that is signed counts the signature.
            set_length(&mut out, 4 + INTEGRITY_SIZE);
            let tag = hmac::sign(&key.hmac, &out);
            put(&mut out, MESSAGE_INTEGRITY, tag.as_ref());
        }
        set_length(&mut out, 0);
        out
    }
}

impl Answer {
    /// Reads the answer to the request of `transaction`; `None` for anything else.
    pub(crate) fn parse(bytes: &[u8], transaction: [u8; 12]) -> Option<Self> {
        let (header, mut rest) = bytes.split_first_chunk::<HEADER>()?;
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if length != rest.len() || header[4..8] != COOKIE || header[8..] != transaction {
            return None;
        }
        let (mut relayed, mut code, mut nonce) = (None, None, None);
        while let Some((&[kind_high, kind_low, high, low], after)) = rest.split_first_chunk::<4>() {
            let length = usize::from(u16::from_be_bytes([high, low]));
            let value = after.get(..length)?;
            rest = after.get(length.next_multiple_of(4)..)?;
            match u16::from_be_bytes([kind_high, kind_low]) {
                XOR_RELAYED_ADDRESS => relayed = Some(unxor(value)?),
                ERROR_CODE => code = Some(u16::from(*value.get(2)?) * 100 + u16::from(*value.get(3)?)),
                NONCE => nonce = Some(value.to_vec()),
                _ => {}
            }
        }
        // The class of the message: bits 4 and 8.
        match u16::from_be_bytes([header[0], header[1]]) & 0x0110 {
            0x0100 => Some(Self::Success(relayed)),
            0x0110 => Some(Self::Error { code: code?, nonce }),
            _ => None,
        }
    }
}

/// Writes the header of `length` bytes on the channel to the front of `out`.
pub(crate) fn write_channel_header(out: &mut [u8], length: u16) {
    out[..2].copy_from_slice(&CHANNEL.to_be_bytes());
    out[2..CHANNEL_HEADER].copy_from_slice(&length.to_be_bytes());
}

/// What came over the channel.
pub(crate) fn channel_data(datagram: &[u8]) -> Option<&[u8]> {
    let (&[kind_high, kind_low, high, low], payload) = datagram.split_first_chunk::<CHANNEL_HEADER>()?;
    let length = usize::from(u16::from_be_bytes([high, low]));
    payload.get(..length).filter(|_| u16::from_be_bytes([kind_high, kind_low]) == CHANNEL)
}

fn put(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend(kind.to_be_bytes());
    out.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

fn set_length(out: &mut [u8], more: usize) {
    let length = u16::try_from(out.len() - HEADER + more).unwrap_or(u16::MAX);
    out[2..4].copy_from_slice(&length.to_be_bytes());
}

/// An IPv4 address as XOR attributes hold it; the unspecified one for any other, which servers refuse.
fn xor(address: SocketAddr) -> [u8; 8] {
    let ip = match address.ip() {
        IpAddr::V4(v4) => v4,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    };
    let [high, low] = address.port().to_be_bytes();
    let [a, b, c, d] = ip.octets();
    let [w, x, y, z] = COOKIE;
    [0, 1, high ^ w, low ^ x, a ^ w, b ^ x, c ^ y, d ^ z]
}

fn unxor(value: &[u8]) -> Option<SocketAddr> {
    let &[0, 1, high, low, a, b, c, d] = value else { return None };
    let [w, x, y, z] = COOKIE;
    let ip = Ipv4Addr::new(a ^ w, b ^ x, c ^ y, d ^ z);
    Some(SocketAddr::new(ip.into(), u16::from_be_bytes([high ^ w, low ^ x])))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRANSACTION: [u8; 12] = [7; 12];

    #[test]
    fn a_signed_request_covers_everything_before_its_signature() {
        let key = Key::new([0xab; 16]);
        let bytes = Request::Bind(peer()).to_vec(TRANSACTION, Some((&key, b"nonce")));
        let (signed, integrity) = bytes.split_at(bytes.len() - 4 - INTEGRITY_SIZE);
        assert_eq!(usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), bytes.len() - HEADER);
        assert_eq!(integrity[..4], [0, 8, 0, 20]);
        hmac::verify(&key.hmac, signed, &integrity[4..]).unwrap();
        assert_eq!(key.hex(), "ab".repeat(16));
    }

    #[test]
    fn answers_tell_addresses_errors_and_nonces() {
        let answer = |kind: u16, attributes: &[(u16, &[u8])]| {
            let mut bytes = [&kind.to_be_bytes()[..], &[0, 0], &COOKIE, &TRANSACTION].concat();
            attributes.iter().for_each(|(kind, value)| put(&mut bytes, *kind, value));
            set_length(&mut bytes, 0);
            bytes
        };
        let allocated = answer(0x0103, &[(XOR_RELAYED_ADDRESS, &xor(peer())), (LIFETIME, &[0; 4])]);
        assert_eq!(Answer::parse(&allocated, TRANSACTION), Some(Answer::Success(Some(peer()))));
        let refused = answer(0x0113, &[(ERROR_CODE, &[0, 0, 4, 38]), (NONCE, b"fresh")]);
        let stale = Answer::Error { code: 438, nonce: Some(b"fresh".to_vec()) };
        assert_eq!(Answer::parse(&refused, TRANSACTION), Some(stale));
        assert_eq!(Answer::parse(&answer(0x0109, &[]), TRANSACTION), Some(Answer::Success(None)));
        assert_eq!(Answer::parse(&answer(0x0109, &[]), [8; 12]), None);
        assert_eq!(Answer::parse(&answer(0x0113, &[(ERROR_CODE, &[4])]), TRANSACTION), None);
        for length in 0..refused.len() {
            assert_eq!(Answer::parse(&refused[..length], TRANSACTION), None);
        }
    }

    #[test]
    fn channel_data_is_what_its_length_says() {
        let mut datagram = [0; 10];
        write_channel_header(&mut datagram, 5);
        datagram[4..9].copy_from_slice(b"bytes");
        assert_eq!(channel_data(&datagram), Some(&b"bytes"[..]));
        assert_eq!(channel_data(&datagram[..8]), None);
        assert_eq!(channel_data(b"\x40"), None);
        assert_eq!(channel_data(&[0x40, 1, 0, 0]), None);
    }

    fn peer() -> SocketAddr {
        "192.0.2.1:32853".parse().unwrap()
    }
}
