//! Messages and attributes of RFC 8489.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub(super) const HEADER: usize = 20;
pub(super) const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

/// A larger message is none of ours and not worth a look.
pub const MAX_MESSAGE: usize = 1_500;

/// The kinds of a binding message, with their numbers on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Request = 0x0001,
    Indication = 0x0011,
    Success = 0x0101,
    Error = 0x0111,
}

/// The type of an attribute. Those below 0x8000 must be understood by whoever gets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attribute(pub(super) u16);

impl Attribute {
    pub(super) const MAPPED_ADDRESS: Self = Self(0x0001);
    pub(super) const CHANGE_REQUEST: Self = Self(0x0003);
    pub(super) const ERROR_CODE: Self = Self(0x0009);
    pub(super) const UNKNOWN_ATTRIBUTES: Self = Self(0x000a);
    pub(super) const XOR_MAPPED_ADDRESS: Self = Self(0x0020);
    pub(super) const PADDING: Self = Self(0x0026);
    pub(super) const FINGERPRINT: Self = Self(0x8028);
    pub(super) const RESPONSE_ORIGIN: Self = Self(0x802b);
    pub(super) const OTHER_ADDRESS: Self = Self(0x802c);
    pub(super) const SESSION_TAG: Self = Self(0xc0b0);
    pub(super) const OBSERVATION: Self = Self(0xc0b1);
    pub(super) const DELAY: Self = Self(0xc0b2);

    /// Whether a server without accounts may go on when it sees the attribute: it knows it, or need not know it.
    ///
    /// The known ones besides ours are those of credentials, which we neither ask for nor look at.
    pub(super) const fn may_be_ignored(self) -> bool {
        matches!(self.0, 0x0001 | 0x0003 | 0x0006 | 0x0008 | 0x0014 | 0x0015 | 0x001c..=0x001e | 0x0020 | 0x0026)
            || self.0 >= 0x8000
    }
}

/// A message whose header and attribute lengths are consistent.
#[derive(Debug)]
pub(super) struct Message<'a> {
    pub(super) kind: Kind,
    pub(super) transaction: [u8; 12],
    attributes: &'a [u8],
}

impl<'a> Message<'a> {
    /// Reads one message that fills `bytes`; a fingerprint is checked when there is one. `None` for anything else.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        if bytes.len() > MAX_MESSAGE {
            return None;
        }
        let (header, attributes) = bytes.split_first_chunk::<HEADER>()?;
        let kind = match u16::from_be_bytes([header[0], header[1]]) {
            0x0001 => Kind::Request,
            0x0011 => Kind::Indication,
            0x0101 => Kind::Success,
            0x0111 => Kind::Error,
            _ => return None,
        };
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if length != attributes.len() || length % 4 != 0 || header[4..8] != COOKIE {
            return None;
        }
        let mut transaction = [0; 12];
        transaction.copy_from_slice(&header[8..]);
        let message = Self { kind, transaction, attributes };
        message.is_consistent(bytes).then_some(message)
    }

    /// Attributes in their order.
    pub(super) fn attributes(&self) -> Attributes<'a> {
        Attributes { rest: self.attributes }
    }

    /// The value of the first attribute of type `wanted`, the only one that counts (RFC 8489, section 5).
    pub(super) fn attribute(&self, wanted: Attribute) -> Option<&'a [u8]> {
        self.attributes().find(|(attribute, _)| *attribute == wanted).map(|(_, value)| value)
    }

    fn is_consistent(&self, bytes: &[u8]) -> bool {
        let mut attributes = self.attributes();
        while let Some((attribute, value)) = attributes.next() {
            if attribute == Attribute::FINGERPRINT {
                let covered = bytes.len() - 8;
                let expected = (crc32(&bytes[..covered]) ^ 0x5354_554e).to_be_bytes();
                return attributes.rest.is_empty() && value == expected;
            }
        }
        attributes.rest.is_empty()
    }
}

/// Steps over attributes; stops early, with a rest, at one that does not fit.
#[derive(Debug)]
pub(super) struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (Attribute, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (head, rest) = self.rest.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let value = rest.get(..length)?;
        self.rest = rest.get(length.next_multiple_of(4)..)?;
        Some((Attribute(u16::from_be_bytes([head[0], head[1]])), value))
    }
}

/// Builds one message in a buffer of the caller. Every step is `None` when the buffer is full.
#[derive(Debug)]
pub(super) struct Writer<'b> {
    out: &'b mut [u8],
    length: usize,
}

impl<'b> Writer<'b> {
    pub(super) fn new(out: &'b mut [u8], kind: Kind, transaction: [u8; 12]) -> Option<Self> {
        let header = out.get_mut(..HEADER)?;
        header[..2].copy_from_slice(&(kind as u16).to_be_bytes());
        header[2..4].fill(0);
        header[4..8].copy_from_slice(&COOKIE);
        header[8..].copy_from_slice(&transaction);
        Some(Self { out, length: HEADER })
    }

    pub(super) fn attribute(&mut self, attribute: Attribute, value: &[u8]) -> Option<()> {
        let end = self.length + 4 + value.len().next_multiple_of(4);
        let room = self.out.get_mut(self.length..end)?;
        room[..2].copy_from_slice(&attribute.0.to_be_bytes());
        room[2..4].copy_from_slice(&u16::try_from(value.len()).ok()?.to_be_bytes());
        room[4..4 + value.len()].copy_from_slice(value);
        room[4 + value.len()..].fill(0);
        self.length = end;
        let body = u16::try_from(end - HEADER).ok()?;
        self.out[2..4].copy_from_slice(&body.to_be_bytes());
        Some(())
    }

    pub(super) fn address(&mut self, attribute: Attribute, address: SocketAddr) -> Option<()> {
        let (value, length) = address_value(address);
        self.attribute(attribute, &value[..length])
    }

    pub(super) fn xor_address(&mut self, attribute: Attribute, address: SocketAddr) -> Option<()> {
        let mut transaction = [0; 12];
        transaction.copy_from_slice(&self.out[8..HEADER]);
        let (mut value, length) = address_value(address);
        mask(&mut value[..length], &transaction);
        self.attribute(attribute, &value[..length])
    }

    /// Fills the rest of the buffer with one PADDING attribute (RFC 5780, section 7.6).
    pub(super) fn pad(&mut self) -> Option<()> {
        const ZEROS: [u8; MAX_MESSAGE] = [0; MAX_MESSAGE];
        let room = self.out.len().checked_sub(self.length + 4)?;
        self.attribute(Attribute::PADDING, ZEROS.get(..room)?)
    }

    pub(super) const fn finish(self) -> usize {
        self.length
    }
}

/// The endpoint in the value of an address attribute (RFC 8489, section 14.1).
pub(super) fn read_address(value: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes([*value.get(2)?, *value.get(3)?]);
    let address = match (value[1], value.len()) {
        (1, 8) => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(&value[4..]).ok()?)),
        (2, 20) => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(&value[4..]).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

/// The same for an address that is masked, so that no meddling router rewrites it (RFC 8489, section 14.2).
pub(super) fn read_xor_address(value: &[u8], transaction: &[u8; 12]) -> Option<SocketAddr> {
    let mut plain = [0; 20];
    let plain = plain.get_mut(..value.len())?;
    plain.copy_from_slice(value);
    mask(plain, transaction);
    read_address(plain)
}

/// The code in the value of ERROR-CODE (RFC 8489, section 14.8).
pub(super) fn read_error_code(value: &[u8]) -> Option<u16> {
    let (class, number) = (value.get(2)? & 7, *value.get(3)?);
    ((3..=6).contains(&class) && number < 100).then(|| u16::from(class) * 100 + u16::from(number))
}

fn address_value(address: SocketAddr) -> ([u8; 20], usize) {
    let mut value = [0; 20];
    value[2..4].copy_from_slice(&address.port().to_be_bytes());
    match address.ip() {
        IpAddr::V4(v4) => {
            value[1] = 1;
            value[4..8].copy_from_slice(&v4.octets());
            (value, 8)
        }
        IpAddr::V6(v6) => {
            value[1] = 2;
            value[4..].copy_from_slice(&v6.octets());
            (value, 20)
        }
    }
}

/// Masks or unmasks port and address of an address attribute.
fn mask(value: &mut [u8], transaction: &[u8; 12]) {
    let port = COOKIE[..2].iter();
    let address = COOKIE.iter().chain(transaction);
    for (byte, mask) in value.iter_mut().skip(2).zip(port.chain(address)) {
        *byte ^= mask;
    }
}

/// CRC-32 of ITU V.42, as FINGERPRINT uses it.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        while index < 256 {
            let mut value = index as u32;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 { value >> 1 ^ 0xedb8_8320 } else { value >> 1 };
                bit += 1;
            }
            table[index] = value;
            index += 1;
        }
        table
    };
    !bytes.iter().fold(u32::MAX, |crc, &byte| crc >> 8 ^ TABLE[usize::from(crc as u8 ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5769, section 2.1: a binding request with a fingerprint.
    const REQUEST: &[u8] = b"\x00\x01\x00\x58\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
        \x80\x22\x00\x10STUN test client\x00\x24\x00\x04\x6e\x00\x01\xff\x80\x29\x00\x08\x93\x2f\xf9\xb1\x51\x26\x3b\x36\
        \x00\x06\x00\x09\x65\x76\x74\x6a\x3a\x68\x36\x76\x59\x20\x20\x20\x00\x08\x00\x14\x9a\xea\xa7\x0c\xbf\xd8\xcb\x56\
        \x78\x1e\xf2\xb5\xb2\xd3\xf2\x49\xc1\xb5\x71\xa2\x80\x28\x00\x04\xe5\x7a\x3b\xcf";

    /// RFC 5769, section 2.2: the IPv4 response.
    const RESPONSE4: &[u8] = b"\x01\x01\x00\x3c\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
        \x80\x22\x00\x0b\x74\x65\x73\x74\x20\x76\x65\x63\x74\x6f\x72\x20\x00\x20\x00\x08\x00\x01\xa1\x47\xe1\x12\xa6\x43\
        \x00\x08\x00\x14\x2b\x91\xf5\x99\xfd\x9e\x90\xc3\x8c\x74\x89\xf9\x2a\xf9\xba\x53\xf0\x6b\xe7\xd7\x80\x28\x00\x04\
        \xc0\x7d\x4c\x96";

    /// RFC 5769, section 2.3: the IPv6 response.
    const RESPONSE6: &[u8] = b"\x01\x01\x00\x48\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
        \x80\x22\x00\x0b\x74\x65\x73\x74\x20\x76\x65\x63\x74\x6f\x72\x20\x00\x20\x00\x14\x00\x02\xa1\x47\x01\x13\xa9\xfa\
        \xa5\xd3\xf1\x79\xbc\x25\xf4\xb5\xbe\xd2\xb9\xd9\x00\x08\x00\x14\xa3\x82\x95\x4e\x4b\xe6\x7b\xf1\x17\x84\xc9\x7c\
        \x82\x92\xc2\x75\xbf\xe3\xed\x41\x80\x28\x00\x04\xc8\xfb\x0b\x4c";

    #[test]
    fn the_request_of_rfc_5769_reads_with_its_fingerprint() {
        let message = Message::parse(REQUEST).unwrap();
        assert_eq!(message.kind, Kind::Request);
        assert_eq!(message.attribute(Attribute(0x8022)), Some(b"STUN test client".as_slice()));
        let unknown: Vec<u16> =
            message.attributes().map(|(attribute, _)| attribute).filter(|a| !a.may_be_ignored()).map(|a| a.0).collect();
        assert_eq!(unknown, [0x0024], "PRIORITY belongs to ICE");
    }

    #[test]
    fn the_addresses_of_rfc_5769_unmask() {
        for (bytes, expected) in [
            (RESPONSE4, "192.0.2.1:32853".parse().unwrap()),
            (RESPONSE6, "[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap()),
        ] {
            let message = Message::parse(bytes).unwrap();
            let value = message.attribute(Attribute::XOR_MAPPED_ADDRESS).unwrap();
            assert_eq!(read_xor_address(value, &message.transaction), Some(expected));

            let mut out = [0; 64];
            let mut writer = Writer::new(&mut out, Kind::Success, message.transaction).unwrap();
            writer.xor_address(Attribute::XOR_MAPPED_ADDRESS, expected).unwrap();
            let length = writer.finish();
            assert_eq!(out[HEADER + 4..length], *value);
        }
    }

    #[test]
    fn a_wrong_fingerprint_or_one_that_is_not_last_is_no_message() {
        let mut wrong = REQUEST.to_vec();
        wrong[30] ^= 1;
        assert!(Message::parse(&wrong).is_none());

        let mut early = RESPONSE4.to_vec();
        early.extend([0x80, 0x22, 0, 0]);
        early[3] += 4;
        assert!(Message::parse(&early).is_none());
    }

    #[test]
    fn an_attribute_that_leaves_the_message_is_no_message() {
        let mut bytes = [0; HEADER + 8];
        Writer::new(&mut bytes, Kind::Request, [7; 12]).unwrap().attribute(Attribute(0x8022), b"buri").unwrap();
        assert!(Message::parse(&bytes).is_some());
        bytes[HEADER + 3] = 5;
        assert!(Message::parse(&bytes).is_none());
    }
}
