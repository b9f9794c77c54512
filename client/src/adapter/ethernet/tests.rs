use proptest::prelude::*;
use tunnel::echo_request;

use super::*;

#[test]
fn a_station_follows_from_the_virtual_address() {
    assert_eq!(format!("{:?}", Station::of(&member(7))), "02:00:64:40:00:07");
    let unnumbered = VirtualAddresses { v4: None, ..member(7) };
    assert_eq!(format!("{:?}", Station::of(&unnumbered)), "06:00:00:00:00:07");
}

#[test]
fn a_packet_leaves_and_enters_without_its_frame() {
    let (alice, bob) = (ethernet(1), ethernet(2));
    for to in ["100.64.0.2", "fd00::2"] {
        let packet = packet(1, to);
        let mut framed = frame(station(2), station(1), kind_of(&packet), &packet);
        // Short frames are padded.
        framed.extend([0; 9]);
        assert_eq!(alice.handle_frame(&framed), Verdict::Packet(&packet), "{to}");
        assert_eq!(given(&bob, &packet), Ok(frame(station(2), station(1), kind_of(&packet), &packet)), "{to}");
    }
}

#[test]
fn a_group_has_its_station() {
    for (group, octets) in [
        ("255.255.255.255", [0xff; 6]),
        ("100.127.255.255", [0xff; 6]),
        ("224.0.0.251", [0x01, 0x00, 0x5e, 0, 0, 251]),
        ("239.255.255.250", [0x01, 0x00, 0x5e, 0x7f, 0xff, 0xfa]),
        ("ff02::fb", [0x33, 0x33, 0, 0, 0, 0xfb]),
    ] {
        let packet = packet(1, group);
        let framed = given(&ethernet(2), &packet).unwrap();
        assert_eq!(framed[..6], octets, "{group}");
        assert_eq!(framed[6..12], station(1).0);
    }
}

#[test]
fn who_asks_for_a_member_hears_its_station() {
    let request = arp_request(Ipv4Addr::new(100, 64, 0, 1), Ipv4Addr::new(100, 64, 0, 2));
    let Verdict::Answered(answer) = ethernet(1).handle_frame(&request) else { panic!("no answer") };
    let mut expected = frame(station(1), station(2), ARP, &[0, 1, 8, 0, 6, 4, 0, 2]);
    expected.extend([2, 0, 100, 64, 0, 2, 100, 64, 0, 2]);
    expected.extend([2, 0, 100, 64, 0, 1, 100, 64, 0, 1]);
    assert_eq!(answer, expected);
}

#[test]
fn a_machine_that_may_take_an_address_hears_whose_it_is() {
    let alice = ethernet(1);
    let probe = |target| alice.handle_frame(&arp_request(Ipv4Addr::UNSPECIFIED, target)).is_answer();
    assert!(probe(Ipv4Addr::new(100, 64, 0, 2)));
    assert!(!probe(Ipv4Addr::new(100, 64, 0, 1)), "its own");
    assert!(!probe(Ipv4Addr::new(100, 64, 0, 9)), "nobody's");
}

#[test]
fn address_resolution_stays_on_the_cable() {
    let alice = ethernet(1);
    let good = arp_request(Ipv4Addr::new(100, 64, 0, 1), Ipv4Addr::new(100, 64, 0, 2));
    for (at, octet, reason) in [
        // Token ring; IPX; longer addresses.
        (HEADER + 1, 6, Dropped::Malformed),
        (HEADER + 3, 1, Dropped::Malformed),
        (HEADER + 4, 8, Dropped::Malformed),
        (HEADER + 5, 16, Dropped::Malformed),
        // A reply; for another station; for another address.
        (HEADER + 7, 2, Dropped::StaysHere),
        (HEADER + 9, 9, Dropped::StaysHere),
        (HEADER + 17, 9, Dropped::StaysHere),
        // Who is 100.64.0.9?
        (HEADER + 27, 9, Dropped::NobodyThere),
    ] {
        let mut bad = good.clone();
        bad[at] = octet;
        assert_eq!(alice.handle_frame(&bad), Verdict::Dropped(reason), "{at}");
    }
}

#[test]
fn who_solicits_a_member_hears_its_station() {
    let (asker, target) = (member(1).v6, member(2).v6);
    let answer = answer_to(&solicitation(asker, target));
    assert_eq!(answer[..HEADER], frame(station(1), station(2), IPV6, &[]));
    let packet = InnerPacket::parse(&answer[HEADER..]).unwrap();
    assert_eq!((packet.source, packet.destination), (target.into(), asker.into()));
    assert_eq!((packet.protocol, packet.bytes[7]), (ICMP6, 255));
    let body = packet.payload();
    assert_eq!((body[0], body[1], body[4]), (136, 0, 0x60));
    assert_eq!(body[8..24], target.octets());
    assert_eq!(body[24..], [2, 1, 2, 0, 100, 64, 0, 2]);
    assert_eq!(icmp6_checksum(target, asker, body), 0, "over its own checksum");
}

#[test]
fn who_may_take_an_ipv6_address_hears_whose_it_is() {
    let answer = answer_to(&solicitation(Ipv6Addr::UNSPECIFIED, member(2).v6));
    assert_eq!(answer[..6], [0x33, 0x33, 0, 0, 0, 1]);
    let packet = InnerPacket::parse(&answer[HEADER..]).unwrap();
    assert_eq!(packet.destination, IpAddr::V6(ALL_NODES));
    assert_eq!(packet.payload()[4], 0x20);
}

#[test]
fn neighbour_discovery_stays_on_the_cable() {
    let alice = ethernet(1);
    let good = solicitation(member(1).v6, member(2).v6);
    for (at, octet, reason) in [
        // From behind a router; with a code.
        (HEADER + 7, 254, Dropped::Malformed),
        (HEADER + IPV6_HEADER + 1, 1, Dropped::Malformed),
        // Router solicitation, router advertisement, advertisement, redirect.
        (HEADER + IPV6_HEADER, 133, Dropped::StaysHere),
        (HEADER + IPV6_HEADER, 134, Dropped::StaysHere),
        (HEADER + IPV6_HEADER, 136, Dropped::StaysHere),
        (HEADER + IPV6_HEADER, 137, Dropped::StaysHere),
        // Of nobody.
        (HEADER + IPV6_HEADER + 23, 99, Dropped::NobodyThere),
    ] {
        let mut bad = good.clone();
        bad[at] = octet;
        assert_eq!(alice.handle_frame(&bad), Verdict::Dropped(reason), "{at} {octet}");
    }
}

#[test]
fn a_member_teaches_nobody_a_neighbour() {
    let bob = ethernet(2);
    for kind in 133..=137 {
        let mut message = vec![kind, 0, 0, 0];
        message.extend([0; 28]);
        let plain = packet6(1, ICMP6, &message);
        assert_eq!(given(&bob, &plain), Err(Dropped::StaysHere));

        let padding = [ICMP6, 0, 1, 4, 0, 0, 0, 0];
        let twice = [&[DESTINATION, 0, 1, 4, 0, 0, 0, 0][..], &padding, &message].concat();
        assert_eq!(given(&bob, &packet6(1, HOP_BY_HOP, &twice)), Err(Dropped::StaysHere));
        let authenticated = [&[ICMP6, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &message].concat();
        assert_eq!(given(&bob, &packet6(1, AUTHENTICATION, &authenticated)), Err(Dropped::StaysHere));
        let fragment = [&[ICMP6, 0, 0, 1, 0, 0, 0, 7][..], &message].concat();
        assert_eq!(given(&bob, &packet6(1, FRAGMENT, &fragment)), Err(Dropped::StaysHere));
    }
    assert!(given(&bob, &packet(1, "fd00::2")).is_ok(), "echo is no such message");
}

#[test]
fn what_is_not_ip_travels_whole_to_the_member_with_that_station() {
    let ipx = frame(station(2), station(1), IPX, b"\xff\xff\x00\x1e hello");
    let Verdict::Carried(packet) = ethernet(1).handle_frame(&ipx) else { panic!("it travels") };
    let parsed = InnerPacket::parse(&packet).unwrap();
    assert!(parsed.is_from(&member(1)) && parsed.is_to(&member(2)));
    assert_eq!(parsed.protocol, 97);
    assert_eq!(parsed.payload()[..2], [0x30, 0]);
    assert!(is_carried(&packet));
    assert_eq!(given(&ethernet(2), &packet), Ok(ipx));
}

#[test]
fn what_is_not_ip_and_for_a_group_travels_to_everybody() {
    for group in [Station::BROADCAST, Station([0x03, 0, 0, 0, 0, 1]), Station([0x01, 0x80, 0xc2, 0, 0, 0x10])] {
        let shout = frame(group, station(1), IPX, b"anybody?");
        let Verdict::Carried(packet) = ethernet(1).handle_frame(&shout) else { panic!("it travels") };
        assert_eq!(InnerPacket::parse(&packet).unwrap().destination, IpAddr::V6(ALL_NODES));
        for number in [2, 3] {
            assert_eq!(given(&ethernet(number), &packet), Ok(shout.clone()));
        }
    }
}

#[test]
fn every_framing_of_ipx_travels() {
    let (raw, llc) = (b"\xff\xff\x00\x1e".to_vec(), b"\xe0\xe0\x03\xff\xff".to_vec());
    let snap = b"\xaa\xaa\x03\x00\x00\x00\x81\x37".to_vec();
    for content in [raw, llc, snap] {
        let mut framed = frame(station(2), station(1), content.len() as u16, &content);
        framed.extend([0; 40]);
        assert!(matches!(ethernet(1).handle_frame(&framed), Verdict::Carried(_)), "{content:02x?}");
    }
}

#[test]
fn nothing_that_may_hold_ip_travels_as_it_is() {
    let (alice, bob) = (ethernet(1), ethernet(2));
    let packet = packet(1, "100.64.0.2");
    let tagged = [&[0, 0, 8, 0][..], &packet].concat();
    let snap = |kind: u16| [b"\xaa\xaa\x03\x00\x00\x00", &kind.to_be_bytes()[..], &packet].concat();
    let cases = [
        (0x8100, tagged.clone()),
        (0x88a8, tagged.clone()),
        (0x9100, tagged.clone()),
        (0x9200, tagged.clone()),
        (0x9300, tagged),
        (0x8847, packet.clone()),
        (0x8848, packet.clone()),
        (0x8035, packet.clone()),
        (100, snap(IPV4)),
        (100, snap(IPV6)),
        (100, snap(ARP)),
        (100, snap(0x8100)),
        (50, [b"\x06\x06\x03", &packet[..], &[0; 40]].concat()),
        (50, [b"\x07\x06\x03", &packet[..], &[0; 40]].concat()),
        (50, [b"\x98\x98\x03", &packet[..], &[0; 40]].concat()),
        // The spanning tree.
        (50, [b"\x42\x42\x03", &[0; 60][..]].concat()),
    ];
    for (kind, mut payload) in cases {
        payload.resize(payload.len().max(100), 0);
        let framed = frame(station(2), station(1), kind, &payload);
        assert_eq!(alice.handle_frame(&framed), Verdict::Dropped(Dropped::StaysHere), "{kind:04x}");
        assert_eq!(given(&bob, &etherip(1, member(2).v6, &framed)), Err(Dropped::StaysHere), "{kind:04x}");
    }
    for kind in [IPV4, ARP, IPV6] {
        let framed = frame(station(2), station(1), kind, &packet);
        assert_eq!(given(&bob, &etherip(1, member(2).v6, &framed)), Err(Dropped::StaysHere), "{kind:04x}");
    }
}

#[test]
fn what_bridges_keep_stays_here() {
    for last in 0..16 {
        let framed = frame(Station([0x01, 0x80, 0xc2, 0, 0, last]), station(1), 0x88cc, b"lldp");
        assert_eq!(ethernet(1).handle_frame(&framed), Verdict::Dropped(Dropped::StaysHere));
        assert_eq!(given(&ethernet(2), &etherip(1, ALL_NODES, &framed)), Err(Dropped::StaysHere));
    }
}

#[test]
fn a_member_speaks_as_itself_only() {
    let bob = ethernet(2);
    let good = frame(station(2), station(1), IPX, b"hello");
    assert!(given(&bob, &etherip(1, member(2).v6, &good)).is_ok());

    let as_carol = frame(station(2), station(3), IPX, b"hello");
    assert_eq!(given(&bob, &etherip(1, member(2).v6, &as_carol)), Err(Dropped::ForeignSource));
    let as_bob = frame(station(2), station(2), IPX, b"hello");
    assert_eq!(given(&bob, &etherip(1, member(2).v6, &as_bob)), Err(Dropped::ForeignSource));
    let as_a_group = frame(station(2), Station([3, 0, 0, 0, 0, 1]), IPX, b"hello");
    assert_eq!(given(&bob, &etherip(1, member(2).v6, &as_a_group)), Err(Dropped::Malformed));
    assert_eq!(given(&bob, &etherip(9, member(2).v6, &good)), Err(Dropped::ForeignSource), "no member");
}

#[test]
fn a_frame_comes_the_way_that_fits_its_destination() {
    let bob = ethernet(2);
    let to_carol = frame(station(3), station(1), IPX, b"hello");
    let to_all = frame(Station::BROADCAST, station(1), IPX, b"hello");
    let to_bob = frame(station(2), station(1), IPX, b"hello");
    for (outer, framed) in [(member(2).v6, &to_carol), (member(2).v6, &to_all), (ALL_NODES, &to_bob)] {
        assert_eq!(given(&bob, &etherip(1, outer, framed)), Err(Dropped::NobodyThere));
    }
}

#[test]
fn a_malformed_envelope_is_refused() {
    let bob = ethernet(2);
    let good = etherip(1, member(2).v6, &frame(station(2), station(1), IPX, b"hello"));
    for (at, octet) in [(IPV6_HEADER, 0x40), (IPV6_HEADER, 0x31), (IPV6_HEADER + 1, 1)] {
        let mut bad = good.clone();
        bad[at] = octet;
        assert_eq!(given(&bob, &bad), Err(Dropped::Malformed));
    }
    for length in 0..2 + HEADER {
        assert_eq!(given(&bob, &packet6(1, ETHERIP, &good[IPV6_HEADER..][..length])), Err(Dropped::Malformed));
    }
}

#[test]
fn a_malformed_frame_is_refused() {
    let alice = ethernet(1);
    let good = frame(station(2), station(1), IPX, b"");
    for length in 0..good.len() {
        assert_eq!(alice.handle_frame(&good[..length]), Verdict::Dropped(Dropped::Malformed));
    }
    for (kind, payload) in [
        // No packet; of the other family; lengths that the payload has not; between length and type; half a SNAP header.
        (IPV4, &[0x45; 19][..]),
        (IPV6, &packet(1, "100.64.0.2")),
        (IPV4, &packet(1, "fd00::2")),
        (ARP, &[0; 27]),
        (47, &[0; 46]),
        (1, &[0xe0; 46]),
        (0, &[0xe0; 46]),
        (1501, &[0xe0; 46]),
        (0x05ff, &[0xe0; 46]),
        (7, &[0xaa; 46]),
    ] {
        let framed = frame(station(2), station(1), kind, payload);
        assert_eq!(alice.handle_frame(&framed), Verdict::Dropped(Dropped::Malformed), "{kind:04x}");
    }
}

#[test]
fn frames_of_other_stations_and_for_nobody_go_nowhere() {
    let alice = ethernet(1);
    let verdict = |to, from| alice.handle_frame(&frame(to, from, IPX, b"hello")).dropped();
    assert_eq!(verdict(station(2), station(3)), Some(Dropped::ForeignSource));
    assert_eq!(verdict(station(9), station(1)), Some(Dropped::NobodyThere));
    assert_eq!(verdict(station(1), station(1)), Some(Dropped::StaysHere));
    assert_eq!(verdict(station(2), station(1)), None);
}

#[test]
fn what_travels_fits_the_tunnel_and_what_does_not_is_dropped() {
    let alice = ethernet(1);
    let largest = frame(station(2), station(1), IPX, &[7; MAX_CARRIED]);
    let Verdict::Carried(packet) = alice.handle_frame(&largest) else { panic!("it fits") };
    assert_eq!(packet.len(), INNER_MTU);
    assert_eq!(given(&ethernet(2), &packet), Ok(largest));
    let larger = frame(station(2), station(1), IPX, &[7; MAX_CARRIED + 1]);
    assert_eq!(alice.handle_frame(&larger), Verdict::Dropped(Dropped::TooLarge));
}

#[test]
fn nothing_passes_before_there_is_an_address() {
    let nobody = Ethernet::default();
    let framed = frame(station(2), station(1), IPX, b"hello");
    assert_eq!(nobody.handle_frame(&framed), Verdict::Dropped(Dropped::Unconfigured));
    assert_eq!(given(&nobody, &packet(2, "100.64.0.1")), Err(Dropped::Unconfigured));
}

#[test]
fn a_member_that_left_is_nobody() {
    let mut alice = ethernet(1);
    alice.set_members(&[member(3)]);
    let framed = frame(station(2), station(1), IPX, b"hello");
    assert_eq!(alice.handle_frame(&framed), Verdict::Dropped(Dropped::NobodyThere));
    assert_eq!(given(&alice, &packet(2, "100.64.0.1")), Err(Dropped::ForeignSource));
}

proptest! {
    #[test]
    fn no_bytes_panic(
        kind in prop::sample::select(vec![0_u16, 46, 1500, 1501, IPV4, ARP, IPV6, IPX, 0x8100]),
        next in prop::sample::select(vec![HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION, ICMP6, ETHERIP]),
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let (alice, mut out) = (ethernet(1), Vec::new());
        let _ = alice.handle_frame(&bytes);
        let _ = alice.handle_frame(&frame(station(2), station(1), kind, &bytes));
        let _ = alice.handle_frame(&frame(station(2), station(1), IPV6, &packet6(1, next, &bytes)));
        let _ = alice.handle_packet(&bytes, &mut out);
        let _ = alice.handle_packet(&packet6(2, next, &bytes), &mut out);
        let _ = alice.handle_packet(&etherip(2, member(1).v6, &bytes), &mut out);
    }

    #[test]
    fn what_travels_arrives_as_it_was(
        kind in any::<u16>(),
        payload in prop::collection::vec(any::<u8>(), 0..300),
        group in any::<bool>(),
    ) {
        let to = if group { Station::BROADCAST } else { station(2) };
        let framed = frame(to, station(1), kind, &payload);
        if let Verdict::Carried(packet) = ethernet(1).handle_frame(&framed) {
            prop_assert_eq!(given(&ethernet(2), &packet), Ok(framed));
        }
    }
}

impl Verdict<'_> {
    fn is_answer(&self) -> bool {
        matches!(self, Self::Answered(_))
    }

    fn dropped(&self) -> Option<Dropped> {
        match self {
            Self::Dropped(reason) => Some(*reason),
            Self::Packet(_) | Self::Carried(_) | Self::Answered(_) => None,
        }
    }
}

/// What member `number` of three sees.
fn ethernet(number: u8) -> Ethernet {
    let mut ethernet = Ethernet::default();
    ethernet.configure(member(number));
    let others: Vec<_> = (1..=3).filter(|other| *other != number).map(member).collect();
    ethernet.set_members(&others);
    ethernet
}

fn given(ethernet: &Ethernet, packet: &[u8]) -> Result<Vec<u8>, Dropped> {
    let mut frame = b"of the last one".to_vec();
    ethernet.handle_packet(packet, &mut frame).map(|()| frame)
}

fn answer_to(frame: &[u8]) -> Vec<u8> {
    let Verdict::Answered(answer) = ethernet(1).handle_frame(frame) else { panic!("no answer") };
    answer
}

const fn member(number: u8) -> VirtualAddresses {
    VirtualAddresses {
        v4: Some(Ipv4Addr::new(100, 64, 0, number)),
        v6: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number as u16),
    }
}

fn station(number: u8) -> Station {
    Station::of(&member(number))
}

fn frame(to: Station, from: Station, kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    put_header(&mut frame, to, from, kind);
    frame.extend(payload);
    frame
}

fn packet(from: u8, to: &str) -> Vec<u8> {
    echo_request(&member(from), to.parse().unwrap(), 1, 1, b"hello").unwrap()
}

fn packet6(from: u8, next: u8, payload: &[u8]) -> Vec<u8> {
    ip6(member(from).v6, member(2).v6, next, 64, payload)
}

fn ip6(from: Ipv6Addr, to: Ipv6Addr, next: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    put_ipv6(&mut packet, from, to, next, hops, payload.len()).unwrap();
    packet.extend(payload);
    packet
}

fn etherip(from: u8, to: Ipv6Addr, frame: &[u8]) -> Vec<u8> {
    ip6(member(from).v6, to, ETHERIP, HOPS, &[&ETHERIP_HEADER[..], frame].concat())
}

fn kind_of(packet: &[u8]) -> u16 {
    if packet[0] >> 4 == 4 { IPV4 } else { IPV6 }
}

/// By member 1.
fn arp_request(from: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut request = frame(Station::BROADCAST, station(1), ARP, &[0, 1, 8, 0, 6, 4, 0, 1]);
    request.extend(station(1).0);
    request.extend(from.octets());
    request.extend([0; 6]);
    request.extend(target.octets());
    request
}

/// By member 1.
fn solicitation(from: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let message = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target.octets()].concat();
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    frame(Station::of_group6(group), station(1), IPV6, &ip6(from, group, ICMP6, 255, &message))
}

const IPX: u16 = 0x8137;
