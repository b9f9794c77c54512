//! ICMP echo (RFC 792, RFC 4443) for clients without an operating system behind their adapter.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use domain::VirtualAddresses;

use crate::InnerPacket;

/// The answer of the owner of `addresses` to `packet`, when that is an echo request to it alone.
#[must_use]
pub fn echo_reply(addresses: &VirtualAddresses, packet: &[u8]) -> Option<Vec<u8>> {
    let packet = InnerPacket::parse(packet)?;
    let body = packet.payload();
    let is_request = match packet.destination {
        IpAddr::V4(_) => {
            let fragment = u16::from_be_bytes([packet.bytes[6], packet.bytes[7]]) & 0x3fff;
            packet.protocol == ICMP4 && fragment == 0 && body.first() == Some(&REQUEST4) && sum(0, body) == 0
        }
        IpAddr::V6(_) => packet.protocol == ICMP6 && body.first() == Some(&REQUEST6),
    };
    if !is_request || body.len() < 8 || !packet.is_to(addresses) {
        return None;
    }
    message(packet.destination, packet.source, Kind::Reply, &body[4..])
}

/// An echo request from the owner of `addresses`; `None` when it has no address of that family.
#[must_use]
pub fn echo_request(
    addresses: &VirtualAddresses,
    to: IpAddr,
    identifier: u16,
    sequence: u16,
    data: &[u8],
) -> Option<Vec<u8>> {
    let from = match to {
        IpAddr::V4(_) => addresses.v4?.into(),
        IpAddr::V6(_) => addresses.v6.into(),
    };
    let body = [&identifier.to_be_bytes(), &sequence.to_be_bytes(), data].concat();
    message(from, to, Kind::Request, &body)
}

#[derive(Clone, Copy)]
enum Kind {
    Request,
    Reply,
}

/// A whole packet around `body`, which begins with the identifier; `None` when the families differ or it is too long.
fn message(from: IpAddr, to: IpAddr, kind: Kind, body: &[u8]) -> Option<Vec<u8>> {
    let (mut packet, kind, pseudo) = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => (
            header4(from, to, 4 + body.len())?,
            match kind {
                Kind::Request => REQUEST4,
                Kind::Reply => 0,
            },
            0,
        ),
        (IpAddr::V6(from), IpAddr::V6(to)) => (
            header6(from, to, ICMP6, 4 + body.len())?,
            match kind {
                Kind::Request => REQUEST6,
                Kind::Reply => 129,
            },
            pseudo_sum(from, to, 4 + body.len()),
        ),
        _ => return None,
    };
    let start = packet.len();
    packet.extend([kind, 0, 0, 0]);
    packet.extend(body);
    let check = sum(pseudo, &packet[start..]);
    packet[start + 2..start + 4].copy_from_slice(&check.to_be_bytes());
    Some(packet)
}

fn header4(from: Ipv4Addr, to: Ipv4Addr, payload: usize) -> Option<Vec<u8>> {
    let total = u16::try_from(20 + payload).ok()?.to_be_bytes();
    let mut header = vec![0x45, 0, total[0], total[1], 0, 0, 0x40, 0, HOPS, ICMP4, 0, 0];
    header.extend(from.octets());
    header.extend(to.octets());
    let check = sum(0, &header);
    header[10..12].copy_from_slice(&check.to_be_bytes());
    Some(header)
}

/// An IPv6 header in front of `payload` bytes; `None` when they are too many.
pub(crate) fn header6(from: Ipv6Addr, to: Ipv6Addr, next: u8, payload: usize) -> Option<Vec<u8>> {
    let length = u16::try_from(payload).ok()?.to_be_bytes();
    let mut header = vec![0x60, 0, 0, 0, length[0], length[1], next, HOPS];
    header.extend(from.octets());
    header.extend(to.octets());
    Some(header)
}

/// The part of the checksum that covers the IPv6 header (RFC 8200, section 8.1), not yet folded.
fn pseudo_sum(from: Ipv6Addr, to: Ipv6Addr, length: usize) -> u32 {
    let words: u32 = from.segments().into_iter().chain(to.segments()).map(u32::from).sum();
    words + u32::try_from(length).unwrap_or(0) + u32::from(ICMP6)
}

/// The Internet checksum (RFC 1071) of `bytes`, on top of `start`; 0 over bytes whose checksum is right.
fn sum(start: u32, bytes: &[u8]) -> u16 {
    let mut sum = bytes.chunks(2).fold(u64::from(start), |sum, pair| {
        sum + u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))
    });
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

const ICMP4: u8 = 1;
const ICMP6: u8 = 58;
const REQUEST4: u8 = 8;
const REQUEST6: u8 = 128;
const HOPS: u8 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_request_is_answered_with_its_own_data() {
        for to in [BOB.v4.unwrap().into(), IpAddr::from(BOB.v6)] {
            let request = echo_request(&ALICE, to, 77, 3, b"data").unwrap();
            let reply = echo_reply(&BOB, &request).unwrap();
            let parsed = InnerPacket::parse(&reply).unwrap();

            assert!(parsed.is_from(&BOB) && parsed.is_to(&ALICE));
            assert_eq!(parsed.payload()[4..], [0, 77, 0, 3, b'd', b'a', b't', b'a']);
            assert_eq!(echo_reply(&ALICE, &reply), None);
        }
    }

    #[test]
    fn checksums_are_right() {
        let request = echo_request(&ALICE, BOB.v4.unwrap().into(), 1, 1, b"odd").unwrap();
        assert_eq!(sum(0, &request[..20]), 0);
        assert_eq!(sum(0, &request[20..]), 0);
        let request = echo_request(&ALICE, BOB.v6.into(), 1, 1, b"odd").unwrap();
        assert_eq!(sum(pseudo_sum(ALICE.v6, BOB.v6, request.len() - 40), &request[40..]), 0);
    }

    #[test]
    fn a_request_to_somebody_else_stays_unanswered() {
        let request = echo_request(&ALICE, BOB.v4.unwrap().into(), 1, 1, b"").unwrap();
        assert_eq!(echo_reply(&ALICE, &request), None);
    }

    const ALICE: VirtualAddresses =
        VirtualAddresses { v4: Some(Ipv4Addr::new(100, 64, 0, 1)), v6: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1) };
    const BOB: VirtualAddresses =
        VirtualAddresses { v4: Some(Ipv4Addr::new(100, 64, 0, 2)), v6: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2) };
}
