//! What two clients say to each other inside of their tunnel.
//!
//! A frame is an IPv6 packet between link-local addresses with the next header for experiments (253, RFC 3692), which no
//! application can send through the adapter, because a link-local source is refused there. Its payload is
//! `[kind, route, 0, 0]` and the fields of the kind, big-endian. Unknown kinds are ignored.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use domain::{ClientId, MembershipTicket, MessageId, NetworkId, Removals, Revision, Signed};

use crate::{Handed, InnerPacket, KeyId, MessagePart, SenderSecret, echo::header6};

/// One statement between two clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Asks for an [`Frame::Answer`] on the same route.
    Probe { route: Route, number: u64, sent_us: u64 },
    /// Repeats a probe.
    Answer { route: Route, number: u64, sent_us: u64 },
    /// Where the sender can be reached, best first, at most [`Frame::MAX_HINTS`].
    Hints(Vec<SocketAddr>),
    /// The sender leaves on purpose.
    Farewell,
    /// What opens the sender's floods in a network. Asks for a [`Frame::KeyTaken`].
    Key(Handed),
    /// The key with this name will open what comes.
    KeyTaken(KeyId),
    /// Of which revision the sender's [`Frame::Removals`] of a network are, and what proves that it is a member.
    Standing { network: NetworkId, revision: Revision, ticket: Option<Box<Signed<MembershipTicket>>> },
    /// Who is a member of a network no more, as the deployment signed it. Asks for a [`Frame::Standing`].
    Removals(Box<Signed<Removals>>),
    /// What a user says to the other. Whole, it asks for a [`Frame::MessageTaken`].
    Message(MessagePart),
    /// The message with this id is kept where it was sent to.
    MessageTaken(MessageId),
}

/// The way a probe took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Route {
    Direct,
    Relay,
}

impl Frame {
    /// Hints in one frame.
    pub const MAX_HINTS: usize = 8;

    /// The frame as an inner packet.
    #[must_use]
    pub fn encode(&self, from: ClientId, to: ClientId) -> Vec<u8> {
        let mut body = Vec::with_capacity(20);
        match self {
            Self::Probe { route, number, sent_us } => put_probe(&mut body, PROBE, *route, *number, *sent_us),
            Self::Answer { route, number, sent_us } => put_probe(&mut body, ANSWER, *route, *number, *sent_us),
            Self::Hints(hints) => {
                body.extend([HINTS, 0, 0, 0]);
                for hint in hints.iter().take(Self::MAX_HINTS) {
                    let (family, address) = match hint.ip() {
                        IpAddr::V4(v4) => (4, v4.to_ipv6_mapped()),
                        IpAddr::V6(v6) => (6, v6),
                    };
                    let port = hint.port().to_be_bytes();
                    body.extend([family, 0, port[0], port[1]]);
                    body.extend(address.octets());
                }
            }
            Self::Farewell => body.extend([FAREWELL, 0, 0, 0]),
            Self::Key(Handed { network, revision, first, secret }) => {
                body.extend([KEY, 0, 0, 0]);
                body.extend(network.as_bytes());
                body.extend(revision.0.to_be_bytes());
                body.extend(first.to_be_bytes());
                body.extend(secret.as_bytes());
            }
            Self::KeyTaken(id) => {
                body.extend([KEY_TAKEN, 0, 0, 0]);
                body.extend(id);
            }
            Self::Standing { network, revision, ticket } => {
                body.extend([STANDING, 0, 0, 0]);
                body.extend(network.as_bytes());
                body.extend(revision.0.to_be_bytes());
                body.extend(ticket.iter().flat_map(|ticket| ticket.to_bytes()));
            }
            Self::Removals(removals) => {
                body.extend([REMOVALS, 0, 0, 0]);
                body.extend(removals.to_bytes());
            }
            Self::Message(part) => {
                body.extend([MESSAGE, 0, 0, 0]);
                part.put(&mut body);
            }
            Self::MessageTaken(id) => {
                body.extend([MESSAGE_TAKEN, 0, 0, 0]);
                body.extend(id.as_bytes());
            }
        }
        let mut packet = header6(link_local(from), link_local(to), EXPERIMENT, body.len()).unwrap_or_default();
        packet.extend(body);
        packet
    }

    /// Whether `packet` is meant for this module, known kind or not.
    #[must_use]
    pub fn is_in(packet: &InnerPacket<'_>) -> bool {
        let local = |address| matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        packet.protocol == EXPERIMENT && local(packet.source) && local(packet.destination)
    }

    /// Reads the frame in `packet`.
    #[must_use]
    pub fn decode(packet: &InnerPacket<'_>) -> Option<Self> {
        if !Self::is_in(packet) {
            return None;
        }
        let ([kind, route, _, _], fields) = packet.payload().split_first_chunk()?;
        match *kind {
            PROBE | ANSWER => {
                let route = match route {
                    0 => Route::Direct,
                    1 => Route::Relay,
                    _ => return None,
                };
                let (number, rest) = fields.split_first_chunk()?;
                let sent_us = u64::from_be_bytes(*rest.first_chunk()?);
                let number = u64::from_be_bytes(*number);
                Some(if *kind == PROBE {
                    Self::Probe { route, number, sent_us }
                } else {
                    Self::Answer { route, number, sent_us }
                })
            }
            HINTS => {
                let hints = fields.chunks_exact(20).take(Self::MAX_HINTS).filter_map(hint).collect();
                Some(Self::Hints(hints))
            }
            FAREWELL => Some(Self::Farewell),
            KEY => {
                let (network, rest) = fields.split_first_chunk()?;
                let (revision, rest) = rest.split_first_chunk()?;
                let (first, rest) = rest.split_first_chunk()?;
                Some(Self::Key(Handed {
                    network: NetworkId::from_bytes(*network),
                    revision: Revision(u64::from_be_bytes(*revision)),
                    first: u32::from_be_bytes(*first),
                    secret: SenderSecret::from_bytes(*rest.first_chunk()?),
                }))
            }
            KEY_TAKEN => fields.first_chunk().map(|id| Self::KeyTaken(*id)),
            STANDING => {
                let (network, rest) = fields.split_first_chunk()?;
                let (revision, rest) = rest.split_first_chunk()?;
                let ticket = match rest {
                    [] => None,
                    bytes => Some(Box::new(Signed::from_bytes(bytes).ok()?)),
                };
                let revision = Revision(u64::from_be_bytes(*revision));
                Some(Self::Standing { network: NetworkId::from_bytes(*network), revision, ticket })
            }
            REMOVALS => Some(Self::Removals(Box::new(Signed::from_bytes(fields).ok()?))),
            MESSAGE => MessagePart::read(fields).map(Self::Message),
            MESSAGE_TAKEN => fields.first_chunk().map(|id| Self::MessageTaken(MessageId::from_bytes(*id))),
            _ => None,
        }
    }
}

fn put_probe(body: &mut Vec<u8>, kind: u8, route: Route, number: u64, sent_us: u64) {
    let route = match route {
        Route::Direct => 0,
        Route::Relay => 1,
    };
    body.extend([kind, route, 0, 0]);
    body.extend(number.to_be_bytes());
    body.extend(sent_us.to_be_bytes());
}

fn hint(bytes: &[u8]) -> Option<SocketAddr> {
    let address = Ipv6Addr::from(*bytes.get(4..)?.first_chunk::<16>()?);
    let port = u16::from_be_bytes([bytes[2], bytes[3]]);
    let address = match bytes[0] {
        4 => IpAddr::V4(address.to_ipv4_mapped()?),
        6 => IpAddr::V6(address),
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

/// fe80::/64 and the first half of the id.
fn link_local(client: ClientId) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets[0] = 0xfe;
    octets[1] = 0x80;
    octets[8..].copy_from_slice(&client.as_bytes()[..8]);
    octets.into()
}

const EXPERIMENT: u8 = 253;
const PROBE: u8 = 1;
const ANSWER: u8 = 2;
const HINTS: u8 = 3;
const FAREWELL: u8 = 4;
const KEY: u8 = 5;
const KEY_TAKEN: u8 = 6;
const STANDING: u8 = 7;
const REMOVALS: u8 = 8;
const MESSAGE: u8 = 9;
const MESSAGE_TAKEN: u8 = 10;

#[cfg(test)]
mod tests {
    use domain::{MembershipKey, Removal, Signature, UnixMillis};

    use super::*;

    #[test]
    fn every_frame_reads_back() {
        let hints = vec!["203.0.113.7:40000".parse().unwrap(), "[2001:db8::1]:443".parse().unwrap()];
        for frame in [
            Frame::Probe { route: Route::Direct, number: 7, sent_us: 9 },
            Frame::Answer { route: Route::Relay, number: u64::MAX, sent_us: 0 },
            Frame::Hints(hints),
            Frame::Hints(Vec::new()),
            Frame::Farewell,
            Frame::Key(handed()),
            Frame::KeyTaken([7; 8]),
            Frame::Standing { network: handed().network, revision: Revision(3), ticket: None },
            Frame::Standing { network: handed().network, revision: Revision(3), ticket: Some(Box::new(ticket())) },
            Frame::Removals(Box::new(removals(0))),
            Frame::Removals(Box::new(removals(32))),
            Frame::MessageTaken(MessageId::from_bytes([7; 16])),
        ] {
            let packet = frame.encode(ALICE, BOB);
            assert!(packet.len() <= crate::INNER_MTU);
            assert_eq!(Frame::decode(&InnerPacket::parse(&packet).unwrap()), Some(frame));
        }
    }

    #[test]
    fn what_the_deployment_signed_is_whole_or_not_there() {
        for frame in [
            Frame::Standing { network: handed().network, revision: Revision(3), ticket: Some(Box::new(ticket())) },
            Frame::Removals(Box::new(removals(2))),
        ] {
            let packet = frame.encode(ALICE, BOB);
            for shorter in 1..100 {
                let mut cut = packet[..packet.len() - shorter].to_vec();
                let length = u16::try_from(cut.len() - 40).unwrap().to_be_bytes();
                cut[4..6].copy_from_slice(&length);
                assert_eq!(Frame::decode(&InnerPacket::parse(&cut).unwrap()), None, "{shorter}");
            }
        }
        let standing = Frame::Standing { network: handed().network, revision: Revision(3), ticket: None };
        let text: String = standing.encode(ALICE, BOB)[40..].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(text, "07000000070707070707070707070707070707070000000000000003");
    }

    #[test]
    fn a_frame_has_these_bytes() {
        let packet = Frame::Probe { route: Route::Relay, number: 1, sent_us: 2 }.encode(ALICE, BOB);
        let text: String = packet.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            text,
            "600000000014fd40fe800000000000000101010101010101fe800000000000000202020202020202\
             0101000000000000000000010000000000000002"
        );
    }

    #[test]
    fn a_key_has_these_bytes_and_is_whole() {
        let packet = Frame::Key(handed()).encode(ALICE, BOB);
        let text: String = packet[40..].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            text,
            "05000000070707070707070707070707070707070000000000000003000000040909090909090909\
             090909090909090909090909090909090909090909090909"
        );
        for shorter in 1..=packet.len() - 40 {
            let mut cut = packet[..packet.len() - shorter].to_vec();
            cut[5] -= u8::try_from(shorter).unwrap();
            assert_eq!(Frame::decode(&InnerPacket::parse(&cut).unwrap()), None);
        }
        assert!(!format!("{:?}", Frame::Key(handed())).contains('9'), "a secret is not shown");
    }

    #[test]
    fn hints_are_at_most_eight() {
        let hints = vec!["203.0.113.7:40000".parse().unwrap(); 300];
        let packet = Frame::Hints(hints).encode(ALICE, BOB);
        let decoded = Frame::decode(&InnerPacket::parse(&packet).unwrap());
        assert!(matches!(decoded, Some(Frame::Hints(hints)) if hints.len() == Frame::MAX_HINTS));
    }

    fn ticket() -> Signed<MembershipTicket> {
        let (network, client) = (handed().network, ALICE);
        let [issued, expires] = [1, 2].map(UnixMillis);
        let ticket = MembershipTicket { network, client, revision: Revision(3), issued, expires };
        Signed::sign(ticket, &MembershipKey::from_bytes([1; 32]), |_| Signature::from_bytes([5; 64]))
    }

    fn removals(count: u8) -> Signed<Removals> {
        let one = |number| Removal { client: ClientId::from_bytes([number; 16]), revision: Revision(9) };
        let removals = Removals {
            network: handed().network,
            revision: Revision(9),
            floor: Revision(1),
            issued: UnixMillis(1),
            removed: (0..count).map(one).collect(),
        };
        Signed::sign(removals, &MembershipKey::from_bytes([1; 32]), |_| Signature::from_bytes([5; 64]))
    }

    fn handed() -> Handed {
        Handed {
            network: NetworkId::from_bytes([7; 16]),
            revision: Revision(3),
            first: 4,
            secret: SenderSecret::from_bytes([9; 32]),
        }
    }

    const ALICE: ClientId = ClientId::from_bytes([1; 16]);
    const BOB: ClientId = ClientId::from_bytes([2; 16]);
}
