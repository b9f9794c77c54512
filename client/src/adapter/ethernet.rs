//! Ethernet on top of a network of IP packets: what a TAP interface sends, and what it is given. No IO.
//!
//! To the operating system the members of the LAN are stations on one cable. A member's station address follows from its
//! virtual address, so nobody has to announce one:
//!
//! - **IPv4 and IPv6** travel without their Ethernet header, by their IP destination: a member on TAP and one on TUN reach
//!   each other, and the source checks of the tunnel hold. The header is made anew on arrival.
//! - **ARP and neighbour discovery** (RFC 826, RFC 4861) are answered here, from the list of members, and never travel: there
//!   is nothing to poison, and nothing to flood.
//! - **Everything else** (IPX, AppleTalk, discovery protocols) travels whole, in EtherIP (RFC 3378) between the IPv6 addresses
//!   of the two members, or to all of them. It is accepted with the station address of the member that sent it, and no other.
//!
//! What never travels in EtherIP: whatever could carry IP past the source checks (IPv4, IPv6, ARP, VLAN tags, MPLS, also behind
//! LLC and SNAP), and what a bridge must keep to its cable (01:80:c2:00:00:0x, IEEE 802.1Q, table 8-1). A payload of IP may be
//! [`INNER_MTU`] long, any other [`MAX_CARRIED`], for which there is no fragmentation: a larger one is dropped.
//!
//! A bridge behind the interface is not supported: frames of other stations than this machine go nowhere.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use domain::VirtualAddresses;
use tunnel::{INNER_MTU, InnerPacket};

/// The Ethernet that one member sees.
#[derive(Debug, Default)]
pub(super) struct Ethernet {
    own: Option<(VirtualAddresses, Station)>,
    stations: BTreeMap<IpAddr, Station>,
    owners: BTreeMap<Station, Ipv6Addr>,
}

/// The address of an Ethernet interface.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Station([u8; 6]);

/// What becomes of a frame of the operating system.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict<'a> {
    /// It was the frame of this packet.
    Packet(&'a [u8]),
    /// It travels in this packet.
    Carried(Vec<u8>),
    /// This frame is the answer.
    Answered(Vec<u8>),
    Dropped(Dropped),
}

/// Why a frame or a packet goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Dropped {
    #[error("the interface has no address yet")]
    Unconfigured,
    #[error("not a whole frame")]
    Malformed,
    #[error("not from the station that it says it is from")]
    ForeignSource,
    #[error("for nobody in the LAN")]
    NobodyThere,
    #[error("of a kind that stays on the cable")]
    StaysHere,
    #[error("larger than what travels")]
    TooLarge,
}

impl Ethernet {
    /// This machine has these addresses. Returns the station address that goes with them.
    pub(super) fn configure(&mut self, own: VirtualAddresses) -> Station {
        let station = Station::of(&own);
        self.own = Some((own, station));
        station
    }

    /// These are the others. Of two with one address the first keeps it.
    pub(super) fn set_members(&mut self, members: &[VirtualAddresses]) {
        self.stations.clear();
        self.owners.clear();
        for member in members {
            let station = Station::of(member);
            for address in member.v4.map(IpAddr::from).into_iter().chain([member.v6.into()]) {
                self.stations.entry(address).or_insert(station);
            }
            self.owners.entry(station).or_insert(member.v6);
        }
    }

    /// Decides about a frame of the operating system.
    #[must_use]
    pub(super) fn handle_frame<'a>(&self, frame: &'a [u8]) -> Verdict<'a> {
        let Some((own, station)) = &self.own else { return Verdict::Dropped(Dropped::Unconfigured) };
        let Some(parsed) = Frame::parse(frame) else { return Verdict::Dropped(Dropped::Malformed) };
        if parsed.from != *station {
            return Verdict::Dropped(Dropped::ForeignSource);
        }
        let decided = match parsed.kind {
            IPV4 | IPV6 => match InnerPacket::parse(parsed.payload) {
                Some(packet) if packet.source.is_ipv4() != (parsed.kind == IPV4) => Err(Dropped::Malformed),
                Some(packet) if neighbour_message(&packet).is_some() => {
                    self.answer_solicitation(*station, &packet).map(Verdict::Answered)
                }
                Some(packet) => Ok(Verdict::Packet(packet.bytes)),
                None => Err(Dropped::Malformed),
            },
            ARP => self.answer_arp(own, *station, parsed.payload).map(Verdict::Answered),
            _ => self.carry(own, *station, &parsed, frame).map(Verdict::Carried),
        };
        decided.unwrap_or_else(Verdict::Dropped)
    }

    /// Makes the frame for a packet of a member. The caller has checked that its source is that member's address, and that
    /// it is for this machine or for all.
    ///
    /// # Errors
    /// [`Dropped`], and then `frame` holds nothing of use.
    pub(super) fn handle_packet(&self, packet: &[u8], frame: &mut Vec<u8>) -> Result<(), Dropped> {
        let (own, station) = self.own.as_ref().ok_or(Dropped::Unconfigured)?;
        let packet = InnerPacket::parse(packet).ok_or(Dropped::Malformed)?;
        let from = *self.stations.get(&packet.source).ok_or(Dropped::ForeignSource)?;
        frame.clear();
        if let Some(carried) = carried(&packet) {
            return self.open(own, *station, from, &packet, carried?, frame);
        }
        if neighbour_message(&packet).is_some() {
            return Err(Dropped::StaysHere);
        }
        let (to, kind) = match packet.destination {
            IpAddr::V4(v4) if own.v4 == Some(v4) => (*station, IPV4),
            IpAddr::V4(v4) if v4.is_multicast() => (Station::of_group4(v4), IPV4),
            // The core lets through what is for this machine or for all.
            IpAddr::V4(_) => (Station::BROADCAST, IPV4),
            IpAddr::V6(v6) if v6.is_multicast() => (Station::of_group6(v6), IPV6),
            IpAddr::V6(_) => (*station, IPV6),
        };
        put_header(frame, to, from, kind);
        frame.extend(packet.bytes);
        Ok(())
    }

    /// "Who has this address?" The owner is known.
    fn answer_arp(&self, own: &VirtualAddresses, station: Station, request: &[u8]) -> Result<Vec<u8>, Dropped> {
        let request: &[u8; 28] = request.first_chunk().ok_or(Dropped::Malformed)?;
        let (head, asker, target) = (&request[..8], &request[8..18], &request[24..]);
        if head[..6] != ARP_FOR_IPV4 {
            return Err(Dropped::Malformed);
        }
        let sender = ipv4(&asker[6..]);
        let asks = head[6..] == ARP_REQUEST && asker[..6] == station.0;
        // A sender without an address wants to know whether it may have this one (RFC 5227).
        if !asks || !(sender == own.v4 || sender == Some(Ipv4Addr::UNSPECIFIED)) {
            return Err(Dropped::StaysHere);
        }
        let owner = ipv4(target).and_then(|v4| self.stations.get(&v4.into())).ok_or(Dropped::NobodyThere)?;
        let mut answer = Vec::with_capacity(42);
        put_header(&mut answer, station, *owner, ARP);
        answer.extend(ARP_FOR_IPV4);
        answer.extend(ARP_REPLY);
        answer.extend(owner.0);
        answer.extend(target);
        answer.extend(asker);
        Ok(answer)
    }

    /// The same for IPv6 (RFC 4861, section 7.2). Other messages between neighbours have no meaning here.
    fn answer_solicitation(&self, station: Station, packet: &InnerPacket<'_>) -> Result<Vec<u8>, Dropped> {
        let (IpAddr::V6(asker), Some(message)) = (packet.source, packet.payload().first_chunk::<24>()) else {
            return Err(Dropped::Malformed);
        };
        if packet.protocol != ICMP6 || message[0] != SOLICITATION {
            return Err(Dropped::StaysHere);
        }
        if packet.bytes[7] != 255 || message[1] != 0 {
            return Err(Dropped::Malformed);
        }
        let target = ipv6(&message[8..]).ok_or(Dropped::Malformed)?;
        let owner = *self.stations.get(&target.into()).ok_or(Dropped::NobodyThere)?;
        // Whoever has no address yet wants to know whether it may have this one (RFC 4862, section 5.4).
        let (to, at, flags) = if asker.is_unspecified() {
            (ALL_NODES, Station::of_group6(ALL_NODES), OVERRIDE)
        } else {
            (asker, station, SOLICITED | OVERRIDE)
        };
        let mut body = vec![ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
        body.extend(target.octets());
        body.extend([TARGET_STATION, 1]);
        body.extend(owner.0);
        let sum = icmp6_checksum(target, to, &body);
        body[2..4].copy_from_slice(&sum.to_be_bytes());

        let mut answer = Vec::with_capacity(HEADER + IPV6_HEADER + body.len());
        put_header(&mut answer, at, owner, IPV6);
        put_ipv6(&mut answer, target, to, ICMP6, 255, body.len())?;
        answer.extend(body);
        Ok(answer)
    }

    /// Puts a frame that is not IP into a packet.
    fn carry(
        &self,
        own: &VirtualAddresses,
        station: Station,
        parsed: &Frame<'_>,
        frame: &[u8],
    ) -> Result<Vec<u8>, Dropped> {
        parsed.may_travel()?;
        let to = match parsed.to {
            to if to.is_group() => ALL_NODES,
            to if to == station => return Err(Dropped::StaysHere),
            to => *self.owners.get(&to).ok_or(Dropped::NobodyThere)?,
        };
        if parsed.payload.len() > MAX_CARRIED {
            return Err(Dropped::TooLarge);
        }
        let mut packet = Vec::with_capacity(IPV6_HEADER + ETHERIP_HEADER.len() + frame.len());
        put_ipv6(&mut packet, own.v6, to, ETHERIP, HOPS, ETHERIP_HEADER.len() + frame.len())?;
        packet.extend(ETHERIP_HEADER);
        packet.extend(frame);
        Ok(packet)
    }

    /// Takes a frame out of a packet.
    fn open(
        &self,
        own: &VirtualAddresses,
        station: Station,
        from: Station,
        packet: &InnerPacket<'_>,
        carried: &[u8],
        frame: &mut Vec<u8>,
    ) -> Result<(), Dropped> {
        let parsed = Frame::parse(carried).ok_or(Dropped::Malformed)?;
        if parsed.from != from {
            return Err(Dropped::ForeignSource);
        }
        parsed.may_travel()?;
        let ours = parsed.to == station && packet.destination == own.v6;
        let everybodys = parsed.to.is_group() && packet.destination == ALL_NODES;
        if !ours && !everybodys {
            return Err(Dropped::NobodyThere);
        }
        frame.extend(carried);
        Ok(())
    }
}

/// Whether a packet carries a frame, for adapters that have no use for it.
#[must_use]
pub(super) fn is_carried(packet: &[u8]) -> bool {
    InnerPacket::parse(packet).is_some_and(|packet| carried(&packet).is_some())
}

impl Station {
    const BROADCAST: Self = Self([0xff; 6]);

    /// The station of a member: `02:00` and its IPv4 address, which is unique in the LAN. One without such an address is
    /// known by the last 40 bits of its IPv6 address. Both are locally administered (IEEE 802, section 8.4).
    #[must_use]
    pub(super) fn of(member: &VirtualAddresses) -> Self {
        match (member.v4.map(|v4| v4.octets()), member.v6.octets()) {
            (Some([a, b, c, d]), _) => Self([0x02, 0x00, a, b, c, d]),
            (None, [.., a, b, c, d, e]) => Self([0x06, a, b, c, d, e]),
        }
    }

    /// The octets, in the order of transmission.
    #[must_use]
    pub(super) const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// RFC 1112, section 6.4.
    const fn of_group4(group: Ipv4Addr) -> Self {
        let [_, b, c, d] = group.octets();
        Self([0x01, 0x00, 0x5e, b & 0x7f, c, d])
    }

    /// RFC 2464, section 7.
    const fn of_group6(group: Ipv6Addr) -> Self {
        let [.., a, b, c, d] = group.octets();
        Self([0x33, 0x33, a, b, c, d])
    }

    const fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// Whether bridges keep what is for this group to the cable that it came from.
    const fn is_link_local(self) -> bool {
        matches!(self.0, [0x01, 0x80, 0xc2, 0x00, 0x00, last] if last < 0x10)
    }
}

impl fmt::Debug for Station {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A frame without preamble and checksum.
struct Frame<'a> {
    to: Station,
    from: Station,
    /// The type of the payload, or its length (IEEE 802.3, section 3.2.6).
    kind: u16,
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    fn parse(frame: &'a [u8]) -> Option<Self> {
        let (header, payload) = frame.split_first_chunk::<HEADER>()?;
        let from = Station(*header[6..].first_chunk()?);
        let parsed = Self {
            to: Station(*header.first_chunk()?),
            from,
            kind: u16::from_be_bytes([header[12], header[13]]),
            payload,
        };
        (!from.is_group()).then_some(parsed)
    }

    /// Whether this kind of frame may travel as it is.
    fn may_travel(&self) -> Result<(), Dropped> {
        let kind = match self.kind {
            LEAST_TYPE.. => self.kind,
            // Between the largest length and the least type there is nothing.
            length if length > GREATEST_LENGTH => return Err(Dropped::Malformed),
            length => {
                let content = self.payload.get(..usize::from(length)).ok_or(Dropped::Malformed)?;
                match content {
                    // The first IPX had neither LLC nor type: this is its checksum.
                    [0xff, 0xff, ..] => 0,
                    [0xaa | 0xab, _, _, _, _, _, high, low, ..] => u16::from_be_bytes([*high, *low]),
                    [0xaa | 0xab, ..] => return Err(Dropped::Malformed),
                    [service, _, ..] if LLC_KEPT.contains(&(service & !1)) => return Err(Dropped::StaysHere),
                    [_, _, ..] => 0,
                    _ => return Err(Dropped::Malformed),
                }
            }
        };
        if self.to.is_link_local() || KEPT.contains(&kind) { Err(Dropped::StaysHere) } else { Ok(()) }
    }
}

/// The frame in an EtherIP packet; `None` when it is another kind of packet.
fn carried<'a>(packet: &InnerPacket<'a>) -> Option<Result<&'a [u8], Dropped>> {
    let is_etherip = packet.protocol == ETHERIP && packet.source.is_ipv6();
    is_etherip.then(|| packet.payload().strip_prefix(&ETHERIP_HEADER).ok_or(Dropped::Malformed))
}

/// The type of the neighbour discovery message in `packet`, behind whatever headers. A fragment is no such message to anybody
/// (RFC 6980).
fn neighbour_message(packet: &InnerPacket<'_>) -> Option<u8> {
    if packet.source.is_ipv4() {
        return None;
    }
    let (mut next, mut rest) = (packet.protocol, packet.payload());
    loop {
        let length = match (next, rest) {
            (ICMP6, [kind @ 133..=137, ..]) => return Some(*kind),
            (HOP_BY_HOP | ROUTING | DESTINATION, [_, length, ..]) => 8 + usize::from(*length) * 8,
            (FRAGMENT, [_, _, high, low, ..]) if u16::from_be_bytes([*high, *low]) & !7 == 0 => 8,
            (AUTHENTICATION, [_, length, ..]) => 8 + usize::from(*length) * 4,
            _ => return None,
        };
        next = *rest.first()?;
        rest = rest.get(length..)?;
    }
}

fn put_header(frame: &mut Vec<u8>, to: Station, from: Station, kind: u16) {
    frame.extend(to.0);
    frame.extend(from.0);
    frame.extend(kind.to_be_bytes());
}

fn put_ipv6(
    bytes: &mut Vec<u8>,
    from: Ipv6Addr,
    to: Ipv6Addr,
    next: u8,
    hops: u8,
    payload: usize,
) -> Result<(), Dropped> {
    let length = u16::try_from(payload).map_err(|_| Dropped::TooLarge)?.to_be_bytes();
    bytes.extend([0x60, 0, 0, 0, length[0], length[1], next, hops]);
    bytes.extend(from.octets());
    bytes.extend(to.octets());
    Ok(())
}

fn ipv4(octets: &[u8]) -> Option<Ipv4Addr> {
    octets.first_chunk::<4>().map(|octets| (*octets).into())
}

fn ipv6(octets: &[u8]) -> Option<Ipv6Addr> {
    octets.first_chunk::<16>().map(|octets| (*octets).into())
}

/// Of a message between these two (RFC 8200, section 8.1), whose own field is zero.
fn icmp6_checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let pseudo = from.segments().into_iter().chain(to.segments()).chain([u16::from(ICMP6)]);
    let words = message.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    let mut sum = message.len() as u64 + pseudo.chain(words).map(u64::from).sum::<u64>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// The header of a frame.
pub(super) const HEADER: usize = 14;
/// The largest payload of a frame that travels as it is.
pub(super) const MAX_CARRIED: usize = INNER_MTU - IPV6_HEADER - ETHERIP_HEADER.len() - HEADER;

const IPV6_HEADER: usize = 40;
/// Version 3, and twelve bits that must be zero (RFC 3378, section 3).
const ETHERIP_HEADER: [u8; 2] = [0x30, 0x00];
const ETHERIP: u8 = 97;
const HOPS: u8 = 64;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
/// Types that are IP, lead to IP, or name the addresses of IP: IPv4, ARP, reverse ARP, IPv6, VLAN tags (a kernel takes off a
/// tag with number 0), MPLS.
const KEPT: [u16; 11] = [IPV4, ARP, 0x8035, IPV6, 0x8100, 0x88a8, 0x9100, 0x9200, 0x9300, 0x8847, 0x8848];
/// The service access points of IP, ARP and the spanning tree.
const LLC_KEPT: [u8; 3] = [0x06, 0x98, 0x42];
const LEAST_TYPE: u16 = 0x0600;
const GREATEST_LENGTH: u16 = 1500;

/// Ethernet, IPv4, and the lengths of their addresses.
const ARP_FOR_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
const ARP_REQUEST: [u8; 2] = [0, 1];
const ARP_REPLY: [u8; 2] = [0, 2];

const ICMP6: u8 = 58;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
/// The option with the station of the target.
const TARGET_STATION: u8 = 2;

#[cfg(test)]
mod tests;
