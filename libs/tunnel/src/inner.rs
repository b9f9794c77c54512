//! The packets inside of a tunnel: what is read of them, and which ones a peer may send.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use domain::VirtualAddresses;

/// A complete IP packet, as far as this crate looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InnerPacket<'a> {
    /// Without bytes that follow the packet.
    pub bytes: &'a [u8],
    pub source: IpAddr,
    pub destination: IpAddr,
    /// The IPv4 protocol or the IPv6 next header.
    pub protocol: u8,
    /// The length of the first header.
    pub header: usize,
}

impl<'a> InnerPacket<'a> {
    /// Reads the header (RFC 791, RFC 8200); `None` when these bytes are no complete packet.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => {
                let fixed: &[u8; 20] = bytes.first_chunk()?;
                let header = usize::from(fixed[0] & 0x0f) * 4;
                let total = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
                if header < 20 || total < header {
                    return None;
                }
                Some(Self {
                    bytes: bytes.get(..total)?,
                    source: Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15]).into(),
                    destination: Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]).into(),
                    protocol: fixed[9],
                    header,
                })
            }
            6 => {
                let fixed: &[u8; 40] = bytes.first_chunk()?;
                let total = 40 + usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
                let address = |at: usize| fixed[at..].first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets));
                Some(Self {
                    bytes: bytes.get(..total)?,
                    source: address(8)?.into(),
                    destination: address(24)?.into(),
                    protocol: fixed[6],
                    header: 40,
                })
            }
            _ => None,
        }
    }

    /// What follows the first header.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[self.header..]
    }

    /// Whether the owner of `addresses` may send this: a source address that is not its own is spoofed (BCP 38).
    #[must_use]
    pub fn is_from(&self, addresses: &VirtualAddresses) -> bool {
        belongs(addresses, self.source)
    }

    /// Whether this is for the owner of `addresses` alone.
    #[must_use]
    pub fn is_to(&self, addresses: &VirtualAddresses) -> bool {
        belongs(addresses, self.destination)
    }
}

/// Whether `address` is one of `addresses`.
#[must_use]
pub fn belongs(addresses: &VirtualAddresses, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => addresses.v4 == Some(v4),
        IpAddr::V6(v6) => addresses.v6 == v6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::echo_request;

    #[test]
    fn bytes_after_a_packet_are_cut_off() {
        let mut bytes = echo_request(&ALICE, "100.64.0.2".parse().unwrap(), 1, 2, b"hello").unwrap();
        let length = bytes.len();
        bytes.extend([0; 11]);
        let packet = InnerPacket::parse(&bytes).unwrap();
        assert_eq!(packet.bytes.len(), length);
        assert!(packet.is_from(&ALICE));
        assert!(!packet.is_to(&ALICE));
    }

    #[test]
    fn a_packet_that_claims_more_than_it_has_is_none() {
        let bytes = echo_request(&ALICE, "fd00::2".parse().unwrap(), 1, 2, b"hello").unwrap();
        assert!(InnerPacket::parse(&bytes).is_some());
        for length in 0..bytes.len() {
            assert_eq!(InnerPacket::parse(&bytes[..length]), None);
        }
    }

    const ALICE: VirtualAddresses =
        VirtualAddresses { v4: Some(Ipv4Addr::new(100, 64, 0, 1)), v6: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1) };
}
